"""What does a request cost a server? `python -m benchmarks run`

For each work, round after round, each server is started, asked until its answers have been compared byte by
byte and its caches are warm, and then loaded by wrk for some seconds. The CPU time that its processes use in
them, divided by the number of answers, is what a request costs. Servers take turns, so that whatever else
the machine does meets them all. The exit status is 1 when one of them gave wrong answers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.folders import MIB, Folder
from benchmarks.load import Load, idle_connections, run_heads, run_wrk
from benchmarks.plot import draw_all
from benchmarks.processes import (
    Failed,
    find_free_port,
    raise_descriptor_limit,
    read_cpu_ns,
    split_cores,
    wait_until_idle,
)
from benchmarks.report import Result, Sample, describe_machine, format_speed, write_result
from benchmarks.requests import check, find_etag, make_examples, make_script
from benchmarks.servers import find_installed, parse_servers
from benchmarks.serving import Server, Setup, Unfit, started
from benchmarks.works import WORKS, Work

# Each file is asked for so often, on average, until a server counts as warm: hardly one is left out. But no
# longer than so many seconds, for servers that keep nothing and take their time.
WARM_TIMES, WARM_S = 5, 15

# From this size on, answers are counted by their bytes: too many are still on their way at the end.
LARGE_BYTES = MIB - MIB // 50


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: int


def measure_once(work: Work, server: Server, folder: Folder, options: Options, seed: int) -> Sample:
    """One server, started, checked, warmed up and measured.

    Raises: Unfit; Failed, OSError or HTTPException when it did not do its part.
    """
    server_cores, load_cores = split_cores(work.workers)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        setup = Setup(
            folder.root,
            find_free_port(),
            scratch,
            workers=work.workers,
            log=work.log,
            has_cache=work.has_cache,
            is_large=work.is_large,
            only_file=find_only_file(work, folder),
            closes=work.closes,
            coding=work.coding,
            is_made=work.is_made,
        )
        pid = stack.enter_context(started(server, setup, server_cores))
        etag = find_etag(work, setup.port)
        examples = make_examples(work, folder, etag, seed)
        answers = [check(work, setup.port, example) for example in examples]
        stack.enter_context(idle_connections(setup.port, work.idle, examples[0].request))

        def load(seconds: int, seed: int) -> Load:
            if work.method == "HEAD":
                return run_heads(setup.port, examples[0].request, work.connections, seconds, load_cores)
            script = scratch / "load.lua"
            script.write_text(make_script(work, etag, seed))
            threads = min(work.workers, len(load_cores))
            return run_wrk(setup.port, script, work.connections, seconds, load_cores, threads=threads)

        asked = 0
        for second in range(WARM_S):
            asked += load(1, seed + 1 + second).requests
            if asked >= WARM_TIMES * work.files.count:
                break
        wait_until_idle(pid)  # it has let go of the connections before
        before_ns = read_cpu_ns(pid)
        seen = load(options.seconds, seed)
        cpu_ns = read_cpu_ns(pid) - before_ns
        check(work, setup.port, examples[-1])
    if seen.broken or (seen.bad_statuses and work.status < 400):
        raise Failed(f"{seen.broken} broken answers, {seen.bad_statuses} wrong ones under load")
    is_large = len(examples[0].body or b"") >= LARGE_BYTES
    count = seen.bytes / answers[0].size_bytes if is_large else seen.requests
    if not count:
        raise Failed("no answer under load")
    return Sample(
        cpu_us=cpu_ns / count / 1000,
        requests_per_s=count / seen.seconds,
        busy=cpu_ns / seen.seconds / 1e9,
        p50_us=seen.p50_us,
        p99_us=seen.p99_us,
    )


def find_only_file(work: Work, folder: Folder) -> Path | None:
    is_plain = work.status == 200 and work.files.count == 1 and work.method == "GET" and not work.coding
    return folder.root / work.files.name(0) if is_plain else None


def measure_group(
    works: list[Work], servers: Iterable[Server], folder: Folder, options: Options
) -> tuple[list[Result], bool]:
    """The works, each with its servers, round after round; whether all answers were right."""
    results = {work.name: Result(work) for work in works}
    units = [(work, server) for work in works for server in servers if server.name in work.servers]
    is_right = True
    for work in works:
        folder.make(work.files)
    folder.settle()
    for number in range(options.rounds):
        for work, server in list(turn(units, number)):
            show(f"{work.name}, round {number + 1} of {options.rounds}: {server.name}")
            try:
                sample = measure_once(work, server, folder, options, seed=100 * number)
            except (Unfit, Failed, OSError, http.client.HTTPException) as error:
                reason = str(error) or repr(error)
                show(f"    without {server.name}: {reason}")
                units.remove((work, server))
                results[work.name].left_out[server.name] = reason
                results[work.name].samples.pop(server.name, None)
                is_right = is_right and isinstance(error, Unfit)
            else:
                show(f"    {sample.cpu_us:.1f} us, {sample.requests_per_s:,.0f} requests a second")
                results[work.name].samples.setdefault(server.name, []).append(sample)
    return list(results.values()), is_right


def turn(units: list[tuple[Work, Server]], number: int) -> Iterator[tuple[Work, Server]]:
    """Another order in each round: nobody always comes after the same."""
    start = number // 2 % max(1, len(units))
    ordered = units[start:] + units[:start]
    yield from reversed(ordered) if number % 2 else ordered


def show(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def find_groups(names: list[str]) -> list[list[Work]]:
    """What is measured together: the works of a series, each other work alone. A series goes by its name too.

    Raises: KeyError with a name that is none.
    """
    groups: dict[str, list[Work]] = {}
    for name in names or WORKS:
        works = [WORKS[name]] if name in WORKS else [w for w in WORKS.values() if w.series == name]
        if not works:
            raise KeyError(name)
        for work in works:
            groups.setdefault(work.series or work.name, []).append(work)
    return list(groups.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("works", nargs="*", metavar="WORK", help="or a series; `list` shows them (all)")
    parser.add_argument(
        "--servers",
        type=parse_servers,
        default=find_installed(),
        help="names with commas between (all that are installed)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each server (5)")
    parser.add_argument("--seconds", type=int, default=3, help="of load in each round (3)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--name", default="speed", help="of the files that are written (speed)")
    given = parser.parse_args(arguments)
    try:
        groups = find_groups(given.works)
    except KeyError as error:
        parser.error(f"no work {error}")
    raise_descriptor_limit(max(work.connections + work.idle for works in groups for work in works))
    options = Options(given.rounds, given.seconds)
    machine = {
        **describe_machine(),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "versions": {server.name: server.find() for server in given.servers},
    }
    results: list[Result] = []
    was_right = True
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        for works in groups:
            measured, is_right = measure_group(works, given.servers, folder, options)
            results += measured
            was_right = was_right and is_right
            # What there is so far: a long run may be stopped.
            write_result(given.output, given.name, machine, results)
    sys.stdout.write(format_speed(machine, results))
    try:
        draw_all(given.output / f"{given.name}.json")
    except ImportError:
        show("no plots: matplotlib is not installed")
    return 0 if was_right else 1
