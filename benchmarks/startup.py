"""How long until a server listens? `python -m benchmarks startup`

Starts `aioserve serve` and `python -m http.server` alternately on an empty folder and a free port, takes the
time from the start of the process to its first line, which both print when they listen, and the CPU time
that the process has used when it is ended right after. Prints the medians and their ratios.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks.processes import Failed, make_environment

# What an installer writes into the script `aioserve`; the one that is installed may be of another version.
SCRIPT = "import re, sys; from aioserve.__main__ import main; sys.exit(main())"

COMMANDS = {
    "aioserve serve": ("-c", SCRIPT, "serve", "--port", "0"),
    "http.server": ("-m", "http.server", "0", "--bind", "127.0.0.1"),
}


@dataclass(frozen=True, slots=True)
class Start:
    wall_s: float
    cpu_s: float


def measure_start(arguments: tuple[str, ...], folder: str) -> Start:
    """One start. Raises Failed when nobody listens after the first line."""
    cpu_before = read_children_cpu()
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**make_environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        wall_s = time.perf_counter() - begin
        is_listening = accepts(line)
        process.kill()
    if not is_listening:
        raise Failed(f"nobody listens after the first line of {arguments}: {line!r}")
    return Start(wall_s, read_children_cpu() - cpu_before)


def read_children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def accepts(line: str) -> bool:
    """Whether the port that the line names takes a connection."""
    found = re.search(r"127\.0\.0\.1(?: port |:)(\d+)", line)
    if found is None:
        return False
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(found[1]))) == 0


def measure(rounds: int) -> dict[str, list[Start]]:
    starts: dict[str, list[Start]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in COMMANDS.values():
            measure_start(arguments, folder)  # compiles, and warms the file cache
        for number in range(rounds):
            # The one that comes second must not always be the same.
            for name in sorted(COMMANDS, reverse=bool(number % 2)):
                starts[name].append(measure_start(COMMANDS[name], folder))
    return starts


def format_table(starts: dict[str, list[Start]]) -> str:
    lines = [f"{'':<16}{'wall ms':>9}{'lowest':>9}{'CPU ms':>9}{'lowest':>9}"]
    medians = []
    for name, measured in starts.items():
        walls = [start.wall_s * 1000 for start in measured]
        cpus = [start.cpu_s * 1000 for start in measured]
        medians.append((statistics.median(walls), statistics.median(cpus)))
        lines.append(f"{name:<16}{medians[-1][0]:9.1f}{min(walls):9.1f}{medians[-1][1]:9.1f}{min(cpus):9.1f}")
    (wall, cpu), (other_wall, other_cpu) = medians
    lines.append(f"{'ratio':<16}{wall / other_wall:9.2f}{'':9}{cpu / other_cpu:9.2f}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks startup", description=description)
    parser.add_argument("--rounds", type=int, default=41, help="starts of each server (41)")
    rounds = parser.parse_args(arguments).rounds
    sys.stdout.write(f"Python {sys.version.split()[0]}, {rounds} starts of each\n")
    sys.stdout.write(format_table(measure(rounds)) + "\n")
    return 0
