"""Results as pictures: `python -m benchmarks plot benchmarks/results/speed.json`

Writes SVG beside the file: the ratios to the usual server, the cost of the work that all servers do, and
each series. A point is the median of the rounds, the line through it goes from the lowest to the highest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.folders import KIB, MIB
from benchmarks.report import Result, Sample, find_ratios, read_result
from benchmarks.works import OURS, SERIES, USUAL

COLOURS = {
    OURS: "#d1495b",
    "aioserve-asyncio": "#e79aa3",
    USUAL: "#2d6a4f",
    "nginx-cache": "#95c8ad",
    "lighttpd": "#1d5fa8",
    "caddy": "#8a5fb0",
    "lower-limit": "#222222",
}
OTHER_COLOUR = "#8d99ae"

# The work that every server does.
SHARED = "10k"

STYLE: Any = {
    # Text stays text, and the same results make the same bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "aioserve",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "legend.frameon": False,
}


def draw_all(path: Path) -> list[Path]:
    """Draws what the results at `path` have, and gives the files. Raises ImportError without matplotlib."""
    import matplotlib

    # Without a window, whatever the machine has.
    matplotlib.use("svg")
    machine, results = read_result(path)
    note = f"{machine['processor']}, {machine['date']}"
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure in make_figures(results):
            figure.text(0.99, 0.005, note, ha="right", va="bottom", size=6, color="#777777")
            written.append(path.with_name(f"{path.stem}-{name}.svg"))
            figure.savefig(written[-1], metadata={"Date": None})
    return written


def make_figures(results: Sequence[Result]) -> Iterator[tuple[str, Any]]:
    single = [r for r in results if not r.work.series and {OURS, USUAL} <= r.samples.keys()]
    if single:
        yield "ratios", draw_ratios(single)
    for result in results:
        if result.work.name == SHARED and result.samples:
            yield SHARED, draw_costs(result)
    for series in SERIES:
        members = [result for result in results if result.work.series == series and result.samples]
        if len(members) > 1:
            yield series, draw_series(series, members)


def make_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def find_spread(values: Sequence[float]) -> tuple[float, list[list[float]]]:
    """The median, and how far the lowest and the highest are from it, as error bars want it."""
    middle = statistics.median(values)
    return middle, [[middle - min(values)], [max(values) - middle]]


def draw_ratios(results: Sequence[Result]) -> Any:
    """One row for each work: all its servers on a scale of ratios to the usual one, and the bar."""
    figure, axes = make_figure(7.5, 1.3 + 0.36 * len(results))
    rows = list(reversed(results))
    for row, result in enumerate(rows):
        usual = result.samples[USUAL]
        for server in [name for name in COLOURS if name in result.samples and name != USUAL]:
            middle, spread = find_spread(find_ratios(result.samples[server], usual))
            size = 7 if server == OURS else 4.5
            axes.errorbar(middle, row, xerr=spread, fmt="o", ms=size, color=COLOURS[server], elinewidth=1)
        for bar in result.work.bars:
            if bar.server == USUAL and not bar.work:
                axes.plot([bar.at_most] * 2, [row - 0.35, row + 0.35], color=COLOURS[OURS], lw=1.5, ls=":")
    axes.axvline(1, color=COLOURS[USUAL], lw=1.2)
    for server in COLOURS:
        if any(server in result.samples for result in results) and server != USUAL:
            axes.plot([], [], "o", color=COLOURS[server], label=server)
    axes.plot([], [], color=COLOURS[OURS], ls=":", label=f"{OURS}: at most")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(rows)), [result.work.title for result in rows])
    axes.set_xlabel(f"CPU time for each request, {USUAL} = 1")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


def draw_costs(result: Result) -> Any:
    """The CPU time of every server for one work."""
    medians = {server: find_spread([s.cpu_us for s in samples]) for server, samples in result.samples.items()}
    servers = sorted(medians, key=lambda server: -medians[server][0])
    figure, axes = make_figure(7.5, 1 + 0.28 * len(servers))
    for row, server in enumerate(servers):
        middle, spread = medians[server]
        colour = COLOURS.get(server, OTHER_COLOUR)
        axes.errorbar(middle, row, xerr=spread, fmt="o", ms=7, color=colour, elinewidth=1)
        axes.annotate(
            f"{middle:,.1f}", (middle + spread[1][0], row), (8, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(servers)), servers)
    axes.set_xlabel(f"{result.work.title}: microseconds of CPU time for each request")
    axes.margins(x=0.12)
    return figure


def draw_series(series: str, results: Sequence[Result]) -> Any:
    """What a request costs, and how many there are in a second, against the x of the series."""
    figure, (cost, rate) = make_figure(9, 3.6, columns=2)
    servers = dict.fromkeys(server for result in results for server in result.samples)
    for server in servers:
        # The steps of a series are about equal factors, and may begin at nothing: places are counted.
        points = [(n, r.samples[server]) for n, r in enumerate(results) if server in r.samples]
        draw_line(cost, server, points, "cpu_us")
        draw_line(rate, server, points, "requests_per_s")
    labels = [format_bytes(r.work.x) if series == "sizes" else f"{r.work.x:,}" for r in results]
    for axes, label in ((cost, "microseconds of CPU time for each request"), (rate, "requests a second")):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 5 else 0)
        axes.set_xlabel(SERIES[series])
        axes.set_ylabel(label)
    rate.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def format_bytes(count: int) -> str:
    return f"{count // MIB} MiB" if count >= MIB else f"{count // KIB} KiB" if count else "0"


def draw_line(axes: Any, server: str, points: Sequence[tuple[int, Sequence[Sample]]], name: str) -> None:
    spreads = [find_spread([getattr(sample, name) for sample in samples]) for _, samples in points]
    axes.errorbar(
        [x for x, _ in points],
        [middle for middle, _ in spreads],
        yerr=[[spread[side][0] for _, spread in spreads] for side in (0, 1)],
        fmt="o-",
        ms=3.5,
        lw=2 if server == OURS else 1.2,
        color=COLOURS.get(server, OTHER_COLOUR),
        label=server,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks plot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("result", type=Path, help="the JSON that a run has written")
    for path in draw_all(parser.parse_args(arguments).result):
        sys.stdout.write(f"{path}\n")
    return 0
