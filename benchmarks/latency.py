"""Do cold downloads delay the others? `python -m benchmarks latency`

One client asks for a small hot file some hundred times a second, first alone, then while others download
large files that the disk has to be asked for. Prints the time within which 99 % of the small answers were
there, alone and beside the downloads, and their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.folders import KIB, MIB, Files, Folder
from benchmarks.processes import PATIENCE_S, Failed, make_environment, pinned, split_cores
from benchmarks.report import describe_machine, format_spread, format_table, write_files
from benchmarks.requests import read_answer
from benchmarks.servers import find_installed, parse_servers
from benchmarks.serving import Server, serving
from benchmarks.works import OURS

USUAL_SERVERS = (OURS, "nginx", "lighttpd")

# Seconds between two requests for the small file.
PAUSE_S = 0.002

SMALL = Files(KIB)
AT_MOST = 3.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the small file, in microseconds; what the downloads got in a second, and the cold share of it."""

    alone_p50_us: float
    alone_p99_us: float
    beside_p50_us: float
    beside_p99_us: float
    download_bytes_per_s: float
    cold: float

    @property
    def ratio(self) -> float:
        return self.beside_p99_us / self.alone_p99_us


def write_large(folder: Path, count: int, size_bytes: int) -> list[str]:
    """Files that are on the disk: what is only in memory yet could not be dropped from it."""
    names = [f"large-{number}.jpg" for number in range(count)]
    for name in names:
        with (folder / name).open("wb") as file:
            for begin in range(0, size_bytes, MIB):
                file.write(os.urandom(min(MIB, size_bytes - begin)))
            os.fsync(file.fileno())
    return names


def ask_steadily(port: int, seconds: float) -> list[float]:
    """The microseconds of each answer."""
    request = f"GET /{SMALL.name(0)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    waits_us = []
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            client.sendall(request)
            answer = read_answer(client, "GET")
            waits_us.append((time.perf_counter() - begin) * 1e6)
            if answer.status != 200 or len(answer.body) != SMALL.size_bytes:
                raise Failed(f"a wrong answer, status {answer.status}")
            time.sleep(PAUSE_S)
    return waits_us


@contextlib.contextmanager
def downloading(port: int, root: Path, names: list[str]) -> Iterator[dict[str, int]]:
    """Downloads the files until the block is left; then what was given holds what they got."""
    found: dict[str, int] = {}
    files = [f"{root / name}:{name}" for name in names]
    command = [sys.executable, "-m", "benchmarks.downloads", str(port), *files]
    with subprocess.Popen(command, env=make_environment(), stdout=subprocess.PIPE) as process:
        try:
            yield found
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=PATIENCE_S)
    if not output:
        raise Failed("the downloads failed")
    found.update(json.loads(output))


def measure(server: Server, root: Path, names: list[str], seconds: float) -> Latency:
    server_cores, load_cores = split_cores()
    with serving(server, root, server_cores) as (_, port), pinned(load_cores):
        ask_steadily(port, min(1, seconds))
        alone = ask_steadily(port, seconds)
        with downloading(port, root, names) as found:
            time.sleep(1)  # until they have begun
            begin = time.perf_counter()
            beside = ask_steadily(port, seconds)
            lasted_s = time.perf_counter() - begin + 1
    if found["broken"]:
        raise Failed(f"{found['broken']} broken downloads")
    return Latency(
        *find_percentiles(alone),
        *find_percentiles(beside),
        download_bytes_per_s=found["bytes"] / lasted_s,
        cold=found["cold"] / found["looked"],
    )


def find_percentiles(waits_us: list[float]) -> tuple[float, float]:
    """Half of them, and 99 of a hundred, are not longer."""
    ordered = sorted(waits_us)
    return ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]


def format_latency(latencies: dict[str, list[Latency]]) -> str:
    rows = []
    for server, rounds in latencies.items():
        ratio = statistics.median(latency.ratio for latency in rounds)
        verdict = ("met" if ratio <= AT_MOST else "**not met**") if server == OURS else ""
        speed = statistics.median(latency.download_bytes_per_s for latency in rounds) / MIB
        rows.append(
            [
                server,
                format_spread([latency.alone_p99_us / 1000 for latency in rounds]),
                format_spread([latency.beside_p99_us / 1000 for latency in rounds]),
                format_spread([latency.ratio for latency in rounds]),
                f"{AT_MOST:.1f}" if server == OURS else "",
                verdict,
                f"{speed:,.0f} MiB/s",
                f"{min(latency.cold for latency in rounds):.0%}",
            ]
        )
    head = ["server", "p99 alone, ms", "beside, ms", "ratio", "at most", "", "downloads", "cold at least"]
    return "\n".join([*format_table(head, rows, numbers={1, 2, 3, 4, 6, 7}), ""])


def main(arguments: list[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks latency", description=description)
    parser.add_argument(
        "--servers",
        type=parse_servers,
        default=find_installed(USUAL_SERVERS),
        help=f"names with commas between ({','.join(USUAL_SERVERS)})",
    )
    parser.add_argument("--downloads", type=int, default=8, help="at a time (8)")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of each file (1024)")
    parser.add_argument("--seconds", type=float, default=10, help="alone, and as many beside (10)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args(arguments)
    servers: list[Server] = given.servers
    latencies: dict[str, list[Latency]] = {server.name: [] for server in servers}
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        folder.make(SMALL)
        names = write_large(folder.root, given.downloads, given.size * MIB)
        folder.settle()
        for number in range(given.rounds):
            for server in servers if number % 2 else reversed(servers):
                latencies[server.name].append(measure(server, folder.root, names, given.seconds))
    data = {
        "machine": describe_machine(),
        "latency": {name: [dataclasses.asdict(one) for one in rounds] for name, rounds in latencies.items()},
    }
    text = format_latency(latencies)
    write_files(given.output, "latency", json.dumps(data, indent=1), text)
    sys.stdout.write(text)
    return 0
