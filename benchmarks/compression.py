"""Which level of which coding, by size and CPU time? `python -m benchmarks compression`

Compresses each file with each level of the coders that are installed, as a whole and in one go. The CPU time
is the least of the rounds, since nothing but disturbance makes it longer. Without FILES it takes what the
project has: its pages as one, its code, its largest JSON and SVG, and the bundle that comes with playwright.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import describe_machine, format_table, write_files

PROJECT = Path(__file__).parents[1]

# Levels that take longer than this for a MiB are not repeated.
PATIENCE_S = 1.0

Compress = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """One level of one coder on one file."""

    text: str
    coder: str
    level: int
    size_bytes: int
    compressed_bytes: int
    cpu_s: float


def find_coders() -> dict[str, tuple[Iterable[int], Callable[[int], Compress]]]:
    """The levels of each coder that is installed, and what makes the function for one."""
    coders: dict[str, tuple[Iterable[int], Callable[[int], Compress]]] = {
        "gzip, zlib": (range(1, 10), lambda level: functools.partial(zlib.compress, level=level, wbits=31))
    }
    if importlib.util.find_spec("zlib_ng"):
        from zlib_ng import zlib_ng

        coders["gzip, zlib-ng"] = (
            range(1, 10),
            lambda level: functools.partial(zlib_ng.compress, level=level, wbits=31),
        )
    if importlib.util.find_spec("isal"):
        from isal import isal_zlib

        coders["gzip, isal"] = (
            range(4),
            lambda level: functools.partial(isal_zlib.compress, level=level, wbits=31),
        )
    if importlib.util.find_spec("zopfli"):
        from zopfli import gzip as zopfli_gzip

        coders["gzip, zopfli"] = (
            (5, 15),
            lambda level: functools.partial(zopfli_gzip.compress, numiterations=level),
        )
    if importlib.util.find_spec("brotli"):
        import brotli

        coders["br"] = (range(12), lambda level: functools.partial(brotli.compress, quality=level))
    compress_zstd = find_zstd()
    if compress_zstd:
        coders["zstd"] = (
            (-1, 1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 19, 22),
            lambda level: functools.partial(compress_zstd, level=level),
        )
    return coders


def find_zstd() -> Callable[..., bytes] | None:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        found: Callable[..., bytes] = importlib.import_module(name).compress
    except ImportError:
        return None
    return found


def find_versions() -> dict[str, str]:
    versions = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for package in ("zlib-ng", "isal", "zopfli", "brotli", "backports.zstd"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def make_texts(files: list[Path]) -> dict[str, bytes]:
    if files:
        return {file.name: file.read_bytes() for file in files}
    pages = sorted(PROJECT.glob("**/*.md"))
    code = sorted(PROJECT.glob("aioserve/**/*.py"))
    texts = {
        "pages (Markdown)": b"".join(page.read_bytes() for page in pages),
        "code (Python)": b"".join(module.read_bytes() for module in code),
        "a page (HTML)": (PROJECT / "public" / "index.html").read_bytes(),
        "figures (JSON)": (PROJECT / "benchmarks" / "results" / "speed.json").read_bytes(),
        "a plot (SVG)": (PROJECT / "benchmarks" / "results" / "speed-ratios.svg").read_bytes(),
    }
    if spec := importlib.util.find_spec("playwright"):
        assert spec.origin is not None
        bundle = Path(spec.origin).parent / "driver" / "package" / "lib" / "utilsBundle.js"
        if bundle.exists():
            texts["a bundle (JavaScript)"] = bundle.read_bytes()
    return texts


def measure(text: bytes, compress: Compress, rounds: int) -> tuple[int, float]:
    """The size of what comes out, and the CPU seconds that it took."""
    cpu_s = []
    for _ in range(rounds):
        begin = time.process_time()
        compressed = compress(text)
        cpu_s.append(time.process_time() - begin)
        if cpu_s[0] > PATIENCE_S * max(1, len(text) / 2**20):
            break
    return len(compressed), min(cpu_s)


def format_samples(samples: list[Sample]) -> str:
    """A table: the part of its size that each text keeps, and the CPU time for a MiB of it."""
    texts = list(dict.fromkeys(sample.text for sample in samples))
    sizes = {sample.text: sample.size_bytes for sample in samples}
    found = {(sample.coder, sample.level, sample.text): sample for sample in samples}
    rows = []
    for coder, level in dict.fromkeys((sample.coder, sample.level) for sample in samples):
        row = [coder, str(level)]
        for text in texts:
            sample = found[coder, level, text]
            ms_per_mib = sample.cpu_s * 1000 / (sample.size_bytes / 2**20)
            row.append(f"{sample.compressed_bytes / sample.size_bytes:.1%}, {ms_per_mib:.1f}")
        rows.append(row)
    head = ["coder", "level", *(f"{text}, {sizes[text] / 1024:,.0f} KiB" for text in texts)]
    return "\n".join(format_table(head, rows, numbers=set(range(1, len(head)))))


def main(arguments: list[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks compression", description=description)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES", help="what to compress")
    parser.add_argument("--rounds", type=int, default=5, help="for each level (5)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args(arguments)
    samples = []
    for name, text in make_texts(given.files).items():
        for coder, (levels, make) in find_coders().items():
            for level in levels:
                compressed_bytes, cpu_s = measure(text, make(level), given.rounds)
                samples.append(Sample(name, coder, level, len(text), compressed_bytes, cpu_s))
    machine = {**describe_machine(), "versions": find_versions()}
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    report = (
        f"{machine['date']}: {machine['processor']}, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{versions}.\n\nThe part of its size that a text keeps, and the milliseconds of CPU time for a MiB "
        f"of it.\n\n{format_samples(samples)}\n"
    )
    data = {"machine": machine, "samples": [dataclasses.asdict(sample) for sample in samples]}
    write_files(given.output, "compression", json.dumps(data, indent=1), report)
    sys.stdout.write(report)
    return 0
