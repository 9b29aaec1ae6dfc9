"""Results: what is kept of a run in JSON, and the tables that people read.

A ratio is taken round by round, of measurements that were made shortly after each other; shown are the median
of the rounds and, in brackets, the lowest and the highest.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.works import OURS, USUAL, WORKS, Bar, Work


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the server's CPU time for each request, and the share of a core that it used."""

    cpu_us: float
    requests_per_s: float
    busy: float
    p50_us: float
    p99_us: float


@dataclass(slots=True)
class Result:
    """The samples of each server, one for each round, and why others have none."""

    work: Work
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def describe_machine() -> dict[str, Any]:
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


# ---- files -----------------------------------------------------------------------------------------------


def write_result(folder: Path, name: str, machine: dict[str, Any], results: Sequence[Result]) -> None:
    works = [
        {
            "work": result.work.name,
            "samples": {
                server: [dataclasses.asdict(sample) for sample in samples]
                for server, samples in result.samples.items()
            },
            "left_out": result.left_out,
        }
        for result in results
    ]
    data = {"machine": machine, "works": works}
    write_files(folder, name, json.dumps(data, indent=1), format_speed(machine, results))


def write_files(folder: Path, name: str, data: str, text: str) -> None:
    """Writes NAME.json and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(data + "\n")
    (folder / f"{name}.md").write_text(text)


def read_result(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """What `write_result` wrote; works that are in the table no more are left out."""
    data = json.loads(path.read_text())
    results = [
        Result(
            WORKS[entry["work"]],
            {
                server: [Sample(**sample) for sample in samples]
                for server, samples in entry["samples"].items()
            },
            entry["left_out"],
        )
        for entry in data["works"]
        if entry["work"] in WORKS
    ]
    return data["machine"], results


# ---- numbers ---------------------------------------------------------------------------------------------


def find_ratios(ours: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    return [our.cpu_us / other.cpu_us for our, other in zip(ours, others, strict=False)]


def find_median(samples: Iterable[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.median(values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a bar. `ratios`: one for each round, none where it was not measured."""

    work: Work
    bar: Bar
    ratios: list[float]

    @property
    def is_met(self) -> bool:
        return bool(self.ratios) and statistics.median(self.ratios) <= self.bar.at_most


def judge(results: Sequence[Result]) -> list[Verdict]:
    """The verdicts on the bars whose both sides were measured."""
    by_name = {result.work.name: result for result in results}
    verdicts = []
    for result in results:
        for bar in result.work.bars:
            other = by_name.get(bar.work or result.work.name)
            ours = result.samples.get(OURS, [])
            others = other.samples.get(bar.server, []) if other else []
            if ratios := find_ratios(ours, others):
                verdicts.append(Verdict(result.work, bar, ratios))
    return verdicts


# ---- tables ----------------------------------------------------------------------------------------------


def format_speed(machine: dict[str, Any], results: Sequence[Result]) -> str:
    versions = ", ".join(f"{name} ({version})" for name, version in machine["versions"].items())
    return "\n".join(
        [
            format_machine(machine),
            "",
            f"Servers: {versions}.",
            "",
            "## Bars",
            "",
            "Our CPU time for each request as a ratio to another server's: median, lowest and highest round.",
            "",
            *format_bars(judge(results)),
            "",
            "## CPU time for each request in microseconds",
            "",
            *format_servers(results, "cpu_us", ",.1f", with_ratio=True),
            "",
            "## Requests a second",
            "",
            *format_servers(results, "requests_per_s", ",.0f"),
            "",
            "## Share of a core that the server used",
            "",
            "Where it is small, the load was the limit.",
            "",
            *format_servers(results, "busy", ".0%"),
            "",
            "## Milliseconds until 99 % of the answers were there",
            "",
            *format_servers(results, "p99_us", ",.2f", divisor=1000),
            "",
            *format_left_out(results),
        ]
    )


def format_machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['date']}: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {machine['rounds']} rounds of {machine['seconds']} s."
    )


def format_bars(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [
        [
            verdict.work.name,
            verdict.work.title,
            " ".join(filter(None, (verdict.bar.server, verdict.bar.work))),
            format_spread(verdict.ratios),
            f"{verdict.bar.at_most:.2f}",
            "met" if verdict.is_met else "**not met**",
        ]
        for verdict in verdicts
    ]
    return format_table(["work", "", "beside", "ratio", "at most", ""], rows, numbers={3, 4})


def format_servers(
    results: Sequence[Result], name: str, form: str, *, divisor: float = 1, with_ratio: bool = False
) -> list[str]:
    """A column for each server that was measured anywhere."""
    servers = list(dict.fromkeys(server for result in results for server in result.samples))
    rows = []
    for result in results:
        row = [result.work.name]
        for server in servers:
            samples = result.samples.get(server)
            text = format(find_median(samples, name) / divisor, form) if samples else ""
            usual = result.samples.get(USUAL)
            if samples and usual and with_ratio and server != USUAL:
                text += f" ({statistics.median(find_ratios(samples, usual)):.2f})"
            row.append(text)
        rows.append(row)
    head = ["work", *servers]
    note = [f"In brackets: the ratio to {USUAL}.", ""] if with_ratio else []
    return [*note, *format_table(head, rows, numbers=set(range(1, len(head))))]


def format_left_out(results: Sequence[Result]) -> list[str]:
    lines = [
        f"- {result.work.name}: {server} {reason}"
        for result in results
        for server, reason in result.left_out.items()
    ]
    return ["## Left out", "", *lines, ""] if lines else []


def format_spread(values: Sequence[float], form: str = ".2f") -> str:
    low, middle, high = (
        format(value, form) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> list[str]:
    """A table of Markdown that can be read as it is; the columns `numbers` are flush right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    widths = [max(3, width) for width in widths]

    def format_row(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number in numbers else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width - 1) + ":" if n in numbers else "-" * width for n, width in enumerate(widths)]
    return [format_row(head), format_row(rule), *map(format_row, rows)]
