"""A server in a process of its own: started on its cores, waited for, and what it has used so far.

Times and memory are those of the whole tree of processes, as the kernel counts them.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).parent.parent

# Seconds until a server that does not listen, or does not end, is given up.
PATIENCE_S = 30

# Below those that Linux gives to clients.
PORTS = range(20_000, 30_000)

# A server that uses less than this share of a core for so many seconds is at rest.
IDLE_SHARE, IDLE_S = 0.05, 0.1

# Of one process, beside its sockets.
RESERVED_DESCRIPTORS = 128


class Failed(Exception):
    """A server or a load tool that did not do its part."""


# ---- cores -----------------------------------------------------------------------------------------------


def split_cores(workers: int = 1) -> tuple[set[int], set[int]]:
    """The cores of a server with so many workers, and those of the load.

    They are different ones where the machine has enough; where it has not, all are shared.
    """
    cores = sorted(os.sched_getaffinity(0))
    if workers >= len(cores):
        return set(cores), set(cores)
    return set(cores[-workers:]), set(cores[:-workers])


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """What is started inside of the block runs on these cores, and so does this thread while it lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---- life ------------------------------------------------------------------------------------------------


def find_free_port() -> int:
    """A port that no client, and nobody who asks for any port, is given meanwhile."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    cores: set[int],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
) -> Iterator[int]:
    """The process id of a server that listens on `port`; it has ended when the block is left.

    Raises: Failed when it does not listen.
    """
    with pinned(cores):
        process = subprocess.Popen(
            command,
            env={**make_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=errors or subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_until_listening(process, port)
        yield process.pid
    finally:
        end(process)


def make_environment() -> dict[str, str]:
    """Ours with the packages of this folder, compiled ones from the cache, and no options for the command."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AIOSERVE_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**ours, "PYTHONPATH": str(PROJECT)}


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise Failed(f"ended with status {process.returncode} instead of listening")
        if time.monotonic() > deadline:
            raise Failed("does not listen")
        time.sleep(0.01)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process gently, then whatever is left of its group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)


def raise_descriptor_limit(sockets: int) -> None:
    """Makes room for so many sockets, here and in what is started from here.

    Raises: ValueError where this user may not.
    """
    count = sockets + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))


# ---- use -------------------------------------------------------------------------------------------------


def list_tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = read_stat(int(entry.name))
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [pid]
    for member in tree:
        tree += children.get(member, [])
    return tree


def read_stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third, the state, on: the name before may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def read_cpu_ns(pid: int) -> int:
    """What the tree has used, user and system, with threads and children that have ended.

    The clock of a process counts nanoseconds of all its threads, those that ended too; for children that
    were waited for there are only ticks.
    """
    total = 0
    for member in list_tree(pid):
        with contextlib.suppress(OSError):
            ticks = sum(map(int, read_stat(member)[13:15]))
            total += ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
            total += time.clock_gettime_ns(make_clock(member))
    return total


def wait_until_idle(pid: int) -> None:
    """Waits until the tree uses next to nothing: what was asked of it is done. Raises Failed."""
    deadline = time.monotonic() + PATIENCE_S
    used_ns = read_cpu_ns(pid)
    while True:
        time.sleep(IDLE_S)
        before_ns, used_ns = used_ns, read_cpu_ns(pid)
        if used_ns - before_ns < IDLE_SHARE * IDLE_S * 1e9:
            return
        if time.monotonic() > deadline:
            raise Failed("does not come to rest")


def make_clock(pid: int) -> int:
    """The CPU clock of another process, as clock_getcpuclockid(3) makes it; Python has no call for that."""
    scheduler_clock = 2
    return (~pid << 3) | scheduler_clock


def read_rss_bytes(pid: int) -> int:
    """What the tree has in memory; pages that processes share count for each."""
    total = 0
    for member in list_tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{member}/status").read_text())
            total += int(found[1]) * 1024 if found else 0
    return total
