"""Asks again and again on many connections, for answers without a body: `python -m benchmarks.heads` PORT
CONNECTIONS SECONDS REQUEST. Prints what `load.Load` holds.

An answer is a read that ends in CRLF CRLF; each connection waits for its answer before it asks again.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time


def main(port: int, connections: int, seconds: float, request: bytes) -> None:
    waits_ns: list[int] = []
    received = broken = 0
    with contextlib.ExitStack() as stack, select.epoll() as poller:
        clients, asked_ns = {}, {}
        for _ in range(connections):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poller.register(client, select.EPOLLIN)
            clients[client.fileno()] = client
        begin_ns = time.perf_counter_ns()
        for number, client in clients.items():
            asked_ns[number] = time.perf_counter_ns()
            client.send(request)
        now_ns = begin_ns
        while clients and now_ns - begin_ns < seconds * 1e9:
            for number, _ in poller.poll(1):
                answer = clients[number].recv(16384)
                now_ns = time.perf_counter_ns()
                received += len(answer)
                if not answer.endswith(b"\r\n\r\n"):
                    broken += 1
                    poller.unregister(number)
                    del clients[number]
                    continue
                waits_ns.append(now_ns - asked_ns[number])
                asked_ns[number] = now_ns
                clients[number].send(request)
            now_ns = time.perf_counter_ns()
    waits_ns.sort()
    p50_us, p99_us = (waits_ns[int(share * len(waits_ns))] / 1000 if waits_ns else 0 for share in (0.5, 0.99))
    found = {
        "requests": len(waits_ns),
        "bytes": received,
        "seconds": (now_ns - begin_ns) / 1e9,
        "p50_us": p50_us,
        "p99_us": p99_us,
        "bad_statuses": 0,
        "broken": broken,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode())
