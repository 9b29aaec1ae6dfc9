"""Measures each module by its own test module alone: `python -m tests.module_coverage [MODULE...]`.

A module cannot hide behind the tests of another one: for aioserve/<room>/<name>.py only
tests/<room>/test_<name>.py runs, and it has to reach 95 % of the lines and branches, 100 % in protocol/.
Prints a table; exits with 1 when a module is below, or its tests are missing or fail.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import coverage

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "aioserve"

WANTED_PERCENT = 95.0
WANTED_PERCENT_OF_ROOM = {"protocol": 100.0}

# `python -m aioserve` is one more way to the command, and is tested with it.
TESTS_OF_OTHER_NAMES = {"__main__": "test_cli.py"}


@dataclass(frozen=True, slots=True)
class Result:
    """What one test module reaches of its module; `failure` is its output when it did not pass."""

    percent: float = 0.0
    missing: str = ""
    failure: str = ""


def find_modules() -> list[Path]:
    """All modules that hold more than a docstring."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if has_statements(path)]


def has_statements(module: Path) -> bool:
    body = ast.parse(module.read_bytes()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def find_tests(module: Path) -> Path:
    room = module.parent.relative_to(PACKAGE)
    name = TESTS_OF_OTHER_NAMES.get(module.stem, f"test_{module.stem.strip('_')}.py")
    return PROJECT / "tests" / room / name


def find_wanted(module: Path) -> float:
    return WANTED_PERCENT_OF_ROOM.get(module.parent.name, WANTED_PERCENT)


def run_tests(tests: Path, folder: Path) -> str:
    """Leaves the data of one run in `folder`; gives the output when it failed, else nothing."""
    if not tests.exists():
        return f"{tests.relative_to(PROJECT)} does not exist"
    command = f"coverage run --data-file={folder / 'data'} -m pytest -q -p no:cacheprovider".split()
    done = subprocess.run(
        [sys.executable, "-m", *command, tests],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout if done.returncode else ""


def read_result(module: Path, folder: Path) -> Result:
    """Reads what `run_tests` left, that of the processes which the tests started included."""
    measured = coverage.Coverage(data_file=folder / "data", config_file=PROJECT / "pyproject.toml")
    measured.combine([str(folder)])
    report = folder / "report.json"
    percent = measured.json_report(include=[str(module)], outfile=str(report))
    (file,) = json.loads(report.read_text())["files"].values()
    lines = [str(line) for line in file["missing_lines"]]
    branches = [f"{start}->{end if end > 0 else 'exit'}" for start, end in file["missing_branches"]]
    return Result(percent, ", ".join(lines + branches))


def measure(modules: list[Path]) -> dict[Path, Result]:
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = [Path(scratch) / str(number) for number in range(len(modules))]
        for folder in folders:
            folder.mkdir()
        failures = pool.map(run_tests, map(find_tests, modules), folders)
        return {
            module: Result(failure=failure) if failure else read_result(module, folder)
            for module, folder, failure in zip(modules, folders, failures, strict=True)
        }


def format_table(results: dict[Path, Result]) -> str:
    lines = [f"{'module':<32}{'wanted':>8}{'reached':>9}  missing lines and branches"]
    for module, result in results.items():
        name = module.relative_to(PACKAGE).as_posix()
        wanted = f"{find_wanted(module):.0f} %"
        reached = "failed" if result.failure else f"{result.percent:.1f} %"
        lines.append(f"{name:<32}{wanted:>8}{reached:>9}  {result.missing}".rstrip())
    lines += [result.failure for result in results.values() if result.failure]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.module_coverage", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="such as aioserve/content/site.py; all when none"
    )
    names = parser.parse_args().modules
    modules = [Path(name).resolve() for name in names] or find_modules()

    results = measure(modules)

    sys.stdout.write(format_table(results) + "\n")
    below = [
        module for module, result in results.items() if result.failure or result.percent < find_wanted(module)
    ]
    sys.stdout.write(
        f"{len(results) - len(below)} of {len(results)} modules are covered by their own tests\n"
    )
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
