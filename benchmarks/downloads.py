"""Downloads large files from a cold disk, again and again, until it is told to end.

`python -m benchmarks.downloads` PORT FILE..., each FILE with its target behind a colon. One connection for
each file. Before each download the file is dropped from the page cache; what is received is dropped unread.
On SIGTERM it prints how much it got, and how much of what it looked at was cold.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
from dataclasses import dataclass

CHUNK_BYTES = 1 << 20

# Places of each file that are looked at.
LOOKS = 32


@dataclass(slots=True)
class Tally:
    bytes: int = 0
    cold: int = 0
    looked: int = 0
    broken: int = 0


def drop(path: str, tally: Tally) -> int:
    """Takes the file out of the page cache, and looks whether it is; gives its size."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(LOOKS):
            tally.looked += 1
            try:
                os.preadv(file.fileno(), [bytearray(1)], random.randrange(size), os.RWF_NOWAIT)
            except BlockingIOError:
                tally.cold += 1
            except OSError:  # tmpfs, which is never cold, does not know the flag
                pass
    return size


def download(port: int, path: str, target: str, tally: Tally) -> None:
    request = f"GET /{target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    chunk = bytearray(CHUNK_BYTES)
    while True:
        size = drop(path, tally)
        received = 0
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request)
            # Cut off instead of copied: the clients should cost as little as possible.
            while count := client.recv_into(chunk, CHUNK_BYTES, socket.MSG_TRUNC):
                received += count
                tally.bytes += count
        tally.broken += received < size


def main(port: int, files: list[str]) -> None:
    """The threads end with the process."""
    os.nice(19)  # whoever measures on the same core comes first
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    tallies = []
    for file in files:
        path, _, target = file.rpartition(":")
        tallies.append(Tally())
        threading.Thread(target=download, args=(port, path, target, tallies[-1]), daemon=True).start()
    signal.sigwait([signal.SIGTERM])
    names = Tally.__slots__
    sums = {name: sum(getattr(tally, name) for tally in tallies) for name in names}
    sys.stdout.write(json.dumps(sums) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
