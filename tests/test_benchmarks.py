"""The benchmarks run: what they measure is looked at by people, and recorded in benchmarks/README.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(sys.platform != "linux", reason="the server's memory is read from /proc")
def test_a_short_soak_serves_the_normal_clients_without_an_error() -> None:
    options = ["--connections", "20", "--seconds", "2", "--clients", "5"]

    done = subprocess.run(
        [sys.executable, BENCHMARKS / "soak.py", *options], capture_output=True, text=True, timeout=50
    )

    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    rows = {line[:27].strip(): line[27:] for line in done.stdout.splitlines()[1:]}
    assert rows["wrong or broken"] == "none"
    assert rows["answers to normal clients"][0] != "0"
    assert "peak" in rows["server RSS in MiB"]


def test_the_time_to_start_is_measured_beside_that_of_http_server() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "startup.py", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.stderr == ""
    assert done.returncode == 0
    names = [line[:16].strip() for line in done.stdout.splitlines()]
    assert names[2:] == ["aioserve serve", "http.server", "ratio"]


def test_each_benchmark_stands_with_its_command_in_the_readme() -> None:
    readme = (BENCHMARKS / "README.md").read_text()

    for benchmark in BENCHMARKS.glob("*.py"):
        assert f"python benchmarks/{benchmark.name}" in readme
