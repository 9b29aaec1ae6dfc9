"""Do slow clients disturb the others, and what do they cost? `python -m benchmarks soak`

Some clients send one byte of a request a second, half of them of its head and half of its body. As many ask
for a large file and read one byte a second. Meanwhile a hundred normal clients ask for files, some twenty
times a second each, and compare what they get byte by byte. The server runs in a process of its own, on the
loopback. Prints what the normal clients saw and what memory the server took; the exit status is 1 when one
of them got a wrong answer.

A slow sender that is refused, or a slow reader that is cut off, comes again at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import raise_descriptor_limit, read_cpu_ns, read_rss_bytes
from benchmarks.servers import SERVERS
from benchmarks.serving import serving
from benchmarks.works import OURS

SMALL_BYTES, LARGE_BYTES = 4 << 10, 64 << 20
RANGE_BYTES = 200_000

# Seconds between two requests of a normal client.
PAUSE_S = 0.05

# Seconds for which the normal clients are alone at first.
WARM_UP_S = 1

# Seconds in which everything that slow clients held must have been let go.
RECOVERY_S = 5

SLOW_HEAD = b"GET /small HTTP/1.1\r\nHost: a\r\nX: "
SLOW_BODY = b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What the clients saw, and the server's memory and CPU time with slow clients.

    `refused` and `cut` count slow senders and readers, by how it ended. The first of `rss_bytes` was taken
    before the slow clients, the last after them.
    """

    waits_s: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    rss_bytes: list[int] = field(default_factory=list)
    cpu_s: float = 0


# ---- slow clients ----------------------------------------------------------------------------------------


async def connect(port: int) -> socket.socket:
    """A connection with as little room on the client's side as the kernel allows: what the server sends has
    to wait on its side."""
    client = socket.socket()
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


async def send_slowly(port: int, tally: Tally, request: bytes) -> None:
    """Sends what follows `request` one byte a second, until the server has had enough; then again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(random.random())
    while True:
        with await connect(port) as client:
            await loop.sock_sendall(client, request)
            end = "reset"
            with contextlib.suppress(ConnectionError):
                while True:
                    await asyncio.sleep(1)
                    with contextlib.suppress(BlockingIOError):
                        end = client.recv(64).decode("latin-1").split("\r\n")[0] or "closed"
                        break
                    await loop.sock_sendall(client, b"a")
            tally.refused[end] += 1


async def read_bytes(client: socket.socket) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while byte := await loop.sock_recv(client, 1):
        yield byte


async def read_slowly(port: int, tally: Tally) -> None:
    """Asks for the large file and reads a byte a second, until the server has had enough; then again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(random.random())
    while True:
        with await connect(port) as client:
            await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            end = "reset"
            with contextlib.suppress(ConnectionError):
                begin = await loop.sock_recv(client, len(b"HTTP/1.1 200"))
                if begin != b"HTTP/1.1 200":
                    tally.wrong[f"{begin!r} to a slow reader"] += 1
                async for _ in read_bytes(client):
                    await asyncio.sleep(1)
                end = "closed"
            tally.cut[end] += 1


# ---- normal clients --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    request: bytes
    status: int
    body: bytes


def list_wants(small: bytes, large: bytes) -> list[Want]:
    def ask(target: str, *fields: str) -> bytes:
        return "\r\n".join((f"GET {target} HTTP/1.1", "Host: a", *fields, "", "")).encode()

    start = LARGE_BYTES // 2
    some = ask("/large", f"Range: bytes={start}-{start + RANGE_BYTES - 1}")
    return [
        *[Want(ask("/small"), 200, small)] * 6,
        Want(ask("/small", "If-None-Match: *"), 304, b""),
        Want(ask("/none"), 404, b"----Not found----"),
        Want(some, 206, large[start : start + RANGE_BYTES]),
    ]


async def browse(port: int, tally: Tally, wants: list[Want], chooser: random.Random) -> None:
    """Asks on one connection, again and again; a connection that breaks is an error, and replaced."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    await asyncio.sleep(chooser.uniform(0, 2 * PAUSE_S))
                    want = chooser.choice(wants)
                    begin = time.perf_counter()
                    writer.write(want.request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    found = re.search(rb"content-length: (\d+)", head.lower())
                    length = int(found[1]) if found and want.status != 304 else 0
                    body = await reader.readexactly(length)
                    tally.waits_s.append(time.perf_counter() - begin)
                    if not head.startswith(b"HTTP/1.1 %d " % want.status):
                        tally.wrong[head.decode("latin-1").split("\r\n")[0]] += 1
                    elif body != want.body:
                        tally.wrong["another body"] += 1
            finally:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.wrong[type(error).__name__] += 1


# ---- the run ---------------------------------------------------------------------------------------------


async def watch(pid: int, tally: Tally) -> None:
    while True:
        tally.rss_bytes.append(read_rss_bytes(pid))
        await asyncio.sleep(0.1)


async def run(pid: int, port: int, wants: list[Want], options: argparse.Namespace) -> Tally:
    """The clients' part of a run."""
    tally = Tally()
    normal = [
        asyncio.create_task(browse(port, tally, wants, random.Random(number)))
        for number in range(options.clients)
    ]
    await asyncio.sleep(min(WARM_UP_S, options.seconds))
    # From here on they are not alone.
    tally.waits_s.clear()
    tally.rss_bytes.append(read_rss_bytes(pid))
    cpu_ns = read_cpu_ns(pid)
    slow = [asyncio.create_task(watch(pid, tally))]
    for number in range(options.connections):
        slow.append(asyncio.create_task(send_slowly(port, tally, (SLOW_HEAD, SLOW_BODY)[number % 2])))
        slow.append(asyncio.create_task(read_slowly(port, tally)))
    await asyncio.sleep(options.seconds)
    tally.cpu_s = (read_cpu_ns(pid) - cpu_ns) / 1e9
    await end(slow)
    await end(normal)
    await asyncio.sleep(min(RECOVERY_S, options.seconds))
    tally.rss_bytes.append(read_rss_bytes(pid))
    return tally


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels the tasks. Raises what one of them died of before."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def format_report(tally: Tally, options: argparse.Namespace) -> str:
    waits_ms = sorted(wait_s * 1000 for wait_s in tally.waits_s)
    half, most, every = (waits_ms[int(share * (len(waits_ms) - 1))] for share in (0.5, 0.99, 1))
    before, peak, after = tally.rss_bytes[0], max(tally.rss_bytes), tally.rss_bytes[-1]
    mib = 1 << 20
    rows = [
        ("answers to normal clients", f"{len(waits_ms):,}, {len(waits_ms) / options.seconds:,.0f} a second"),
        ("after milliseconds", f"half {half:.1f}, 99 % {most:.1f}, all {every:.1f}"),
        ("wrong or broken", format_counts(tally.wrong)),
        ("ends of slow senders", format_counts(tally.refused)),
        ("ends of slow readers", format_counts(tally.cut)),
        ("server RSS in MiB", f"before {before / mib:.1f}, peak {peak / mib:.1f}, after {after / mib:.1f}"),
        ("per slow client in KiB", f"{(peak - before) / options.connections / 2 / 1024:.0f}"),
        ("server CPU", f"{tally.cpu_s:.1f} s, {tally.cpu_s / options.seconds:.0%} of a core"),
    ]
    return "".join(f"{what:<27}{value}\n" for what, value in rows)


def format_counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number:,} x {what}" for what, number in counter.most_common()) or "none"


def main(arguments: list[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks soak", description=description)
    parser.add_argument("--connections", type=int, default=1000, help="slow clients of each kind (1000)")
    parser.add_argument("--seconds", type=float, default=30, help="how long (30)")
    parser.add_argument("--clients", type=int, default=100, help="normal clients (100)")
    options = parser.parse_args(arguments)
    raise_descriptor_limit(2 * (2 * options.connections + options.clients))
    small, large = (random.Random(1).randbytes(size) for size in (SMALL_BYTES, LARGE_BYTES))
    with tempfile.TemporaryDirectory() as root:
        Path(root, "small").write_bytes(small)
        Path(root, "large").write_bytes(large)
        with serving(SERVERS[OURS], Path(root), os.sched_getaffinity(0)) as (pid, port):
            tally = asyncio.run(run(pid, port, list_wants(small, large), options))
    slow = f"{options.connections:,} clients send and as many read a byte a second for {options.seconds:g} s"
    sys.stdout.write(f"Python {sys.version.split()[0]}: {slow}, {options.clients} ask for files\n")
    sys.stdout.write(format_report(tally, options))
    return 1 if tally.wrong else 0
