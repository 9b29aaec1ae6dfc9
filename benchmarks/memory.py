"""What does a server take of memory? `python -m benchmarks memory`

Its resident memory when it listens; what each connection adds that has had an answer and is kept; and how
it grows while it answers requests of all kinds. What the kernel holds for a connection is not in it: that
is the same for all servers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.folders import KIB, MIB, Folder
from benchmarks.load import idle_connections, run_wrk
from benchmarks.processes import raise_descriptor_limit, read_rss_bytes, split_cores
from benchmarks.report import describe_machine, format_table, write_files
from benchmarks.requests import check, find_etag, make_examples, make_script
from benchmarks.servers import find_installed, parse_servers
from benchmarks.serving import Server, serving
from benchmarks.works import OURS, WORKS, Work

USUAL_SERVERS = (OURS, "nginx", "lighttpd")

# Connections that are open already when the others come: tables that a server makes room in are there.
FIRST_CONNECTIONS = 500

# The requests under which memory may grow, in turn for so many seconds each.
KINDS = ("1k", "heads", "304", "404", "range", "close", "1m", "numbers-1000")
TURN_S = 1

# This share of the requests fills what is kept on purpose, which has limits. What comes later is growth.
FILLING = 0.2

MOST_AT_START, MOST_PER_CONNECTION, MOST_GROWTH = 32 * MIB, 4 * KIB, MIB


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `growth`: the requests so far, and what was resident then."""

    start: int
    after_first: int
    per_connection: float
    growth: list[tuple[int, int]]

    @property
    def grown(self) -> int:
        """From when it was filled to the end."""
        full = next(rss for count, rss in self.growth if count >= FILLING * self.growth[-1][0])
        return self.growth[-1][1] - full


def measure(server: Server, folder: Folder, works: Sequence[Work], connections: int, requests: int) -> Memory:
    server_cores, load_cores = split_cores()
    with serving(server, folder.root, server_cores) as (pid, port):
        start = read_rss_bytes(pid)
        for work in works:
            for example in make_examples(work, folder, find_etag(work, port), seed=1):
                check(work, port, example)
        after_first = read_rss_bytes(pid)
        request = make_examples(WORKS["1k"], folder, "", seed=1)[0].request
        with idle_connections(port, FIRST_CONNECTIONS, request):
            before = read_rss_bytes(pid)
            with idle_connections(port, connections, request):
                per_connection = (read_rss_bytes(pid) - before) / connections
        growth = list(watch_growth(pid, port, works, requests, load_cores))
    return Memory(start, after_first, per_connection, growth)


def watch_growth(
    pid: int, port: int, works: Sequence[Work], requests: int, cores: set[int]
) -> Iterator[tuple[int, int]]:
    count = seed = 0
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "load.lua")
        while count < requests:
            for work in works:
                seed += 1
                script.write_text(make_script(work, find_etag(work, port), seed))
                count += run_wrk(port, script, work.connections, TURN_S, cores).requests
            yield count, read_rss_bytes(pid)


def format_memory(memories: dict[str, Memory]) -> str:
    rows = [
        [
            server,
            f"{memory.start / MIB:.1f} MiB",
            f"{memory.after_first / MIB:.1f} MiB",
            f"{memory.per_connection / KIB:.2f} KiB",
            f"{memory.grown / MIB:.2f} MiB",
            f"{memory.growth[-1][0]:,}",
        ]
        for server, memory in memories.items()
    ]
    if ours := memories.get(OURS):
        limits = (
            (ours.start, MOST_AT_START),
            (ours.per_connection, MOST_PER_CONNECTION),
            (ours.grown, MOST_GROWTH),
        )
        at_start, per_connection, growth = (
            "met" if value <= limit else "**not met**" for value, limit in limits
        )
        rows.append([f"bars of {OURS}", "32 MiB", "", "4 KiB", "1 MiB", ""])
        rows.append(["", at_start, "", per_connection, growth, ""])
    head = ["server", "at start", "after each kind once", "idle connection", "growth", "in requests"]
    return "\n".join([*format_table(head, rows, numbers=set(range(1, len(head)))), ""])


def main(arguments: list[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks memory", description=description)
    parser.add_argument(
        "--servers",
        type=parse_servers,
        default=find_installed(USUAL_SERVERS),
        help=f"names with commas between ({','.join(USUAL_SERVERS)})",
    )
    parser.add_argument("--connections", type=int, default=2000, help="idle ones (2000)")
    parser.add_argument("--requests", type=int, default=200_000, help="for the growth (200000)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of requests, as the works are called")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args(arguments)
    raise_descriptor_limit(FIRST_CONNECTIONS + given.connections)
    memories: dict[str, Memory] = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        works = [WORKS[name] for name in given.kinds.split(",")]
        for work in (WORKS["1k"], *works):
            folder.make(work.files)
        folder.settle()
        for server in given.servers:
            memories[server.name] = measure(server, folder, works, given.connections, given.requests)
    data = {
        "machine": describe_machine(),
        "memory": {name: dataclasses.asdict(memory) for name, memory in memories.items()},
    }
    text = format_memory(memories)
    write_files(given.output, "memory", json.dumps(data, indent=1), text)
    sys.stdout.write(text)
    return 0
