"""Cases that other projects' suites and the standards expect of a file server, run where they are at hand.

They lie beside the checkout, in ../shared/cases, with runners of their own; nothing of them belongs to this
project. tests/case_exceptions.json names the rows that are wrong, each with the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).parents[2] / "shared" / "cases"
EXCEPTIONS = json.loads(Path(__file__).with_name("case_exceptions.json").read_text())

# Everything that is loaded later would be out of reach of the user that nobody is.
SERVE_AS_NOBODY = """
import asyncio, ctypes, os, sys, aiofiles.os
import aioserve.network.connection, uvloop
from aioserve import Server
from aioserve.content.compression import list_codings
list_codings()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
async def main():
    async with Server(sys.argv[1], 0, **dict(a.split("=") for a in sys.argv[2:])) as server:
        print(server.port, flush=True)
        await asyncio.get_running_loop().create_future()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    if not CASES.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the cases have to be at hand in CI")
        pytest.skip("the cases are not at hand")
    # Not tmp_path: nobody may not enter that.
    base = Path(tempfile.mkdtemp(prefix="aioserve-cases-"))
    base.chmod(0o755)
    subprocess.run([sys.executable, CASES / "run_behaviours.py", "--make", base], check=True)
    yield base
    for folder in (base / "root" / "perm").rglob("*"):
        folder.chmod(0o755)
    shutil.rmtree(base)


@pytest.fixture
def port(tree: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    options = getattr(request, "param", ())
    with subprocess.Popen(
        [sys.executable, "-c", SERVE_AS_NOBODY, tree / "root", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


async def run_cases(runner: str, port: int, *options: str) -> list[dict[str, Any]]:
    """The verdicts of all rows but the excepted ones."""
    with tempfile.NamedTemporaryFile() as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CASES / runner), "127.0.0.1", str(port), "--out", out.name, *options,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()
        rows: list[dict[str, Any]] = json.load(out)
    return [row for row in rows if row["id"] not in EXCEPTIONS]


def bad(rows: list[dict[str, Any]], *verdicts: str) -> list[str]:
    return [f"{row['id']}: {row['verdict']} {row['note']}" for row in rows if row["verdict"] in verdicts]


async def test_every_request_stream_is_read_or_refused_as_the_standards_want(port: int) -> None:
    rows = await run_cases("run_http1.py", port)

    assert len(rows) > 400
    assert bad(rows, "FAIL", "OPEN", "ERROR") == []


async def test_every_behaviour_is_an_accepted_one_and_nearly_always_the_preferred(port: int) -> None:
    have = "index,symlinks:contained,dotfiles:refuse,404.html,precompressed:gzip"
    have += ",nonroot" if os.name == "posix" else ""

    rows = await run_cases("run_behaviours.py", port, "--have", have)

    assert bad(rows, "FAIL") == []
    assert len(rows) > 500
    assert sum(row["verdict"] == "PASS" for row in rows) >= 0.95 * len(rows)


@pytest.mark.parametrize("port", [("head_timeout_s=3", "send_timeout_s=5")], indirect=True)
@pytest.mark.timeout(120)
async def test_every_sequence_ends_as_it_must(port: int) -> None:
    rows = await run_cases("run_sequences.py", port, "--slow", "14")

    assert len(rows) > 25
    assert bad(rows, "FAIL") == []
