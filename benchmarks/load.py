"""The load: wrk, or a client of our own for answers to HEAD, whose bodies wrk would wait for."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import PATIENCE_S, Failed, make_environment, pinned
from benchmarks.requests import read_answer
from benchmarks.serving import find_program

# Seconds after which an answer counts as broken.
TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw. `broken`: connections that failed, and answers that did not come."""

    requests: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    bad_statuses: int
    broken: int


def run_wrk(
    port: int, script: Path, connections: int, seconds: int, cores: set[int], *, threads: int = 1
) -> Load:
    return run_client(
        [
            find_program("wrk"),
            f"-t{threads}",
            f"-c{connections}",
            f"-d{seconds}s",
            f"--timeout={TIMEOUT_S}s",
            f"--script={script}",
            f"http://127.0.0.1:{port}/",
        ],
        seconds,
        cores,
    )


def run_heads(port: int, request: bytes, connections: int, seconds: int, cores: set[int]) -> Load:
    command = [sys.executable, "-m", "benchmarks.heads", str(port), str(connections), str(seconds)]
    return run_client([*command, request.decode()], seconds, cores)


def run_client(command: list[str], seconds: int, cores: set[int]) -> Load:
    with pinned(cores):
        try:
            done = subprocess.run(
                command,
                env=make_environment(),
                capture_output=True,
                text=True,
                timeout=seconds + TIMEOUT_S + PATIENCE_S,
            )
        except subprocess.TimeoutExpired:
            raise Failed("the load does not end") from None
    if done.returncode:
        raise Failed(f"the load failed: {done.stderr.strip() or done.stdout.strip()}")
    return Load(**json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def idle_connections(port: int, count: int, request: bytes) -> Iterator[None]:
    """So many connections that each have had one answer and are kept. `request` is a GET."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            client.sendall(request)
            read_answer(client, "GET")
        yield
