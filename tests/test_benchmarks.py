"""The benchmarks run, and what they say is right: the figures themselves are looked at by people."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aioserve import Server
from benchmarks import __main__ as command
from benchmarks.folders import KIB, MIB, Files, Folder, Kind
from benchmarks.load import run_heads, run_wrk
from benchmarks.processes import Failed, find_free_port, make_clock
from benchmarks.report import Result, Sample, describe_machine, judge, read_result, write_result
from benchmarks.requests import Example, check, find_etag, make_examples, make_script
from benchmarks.servers import SERVERS
from benchmarks.serving import SEARCH_PATH, Setup, Unfit, started
from benchmarks.works import SERIES, WORKS, Work
from tests.process import make_environment

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "benchmarks" / "README.md").read_text()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU time and memory are read from /proc")


def needs(program: str) -> pytest.MarkDecorator:
    is_missing = shutil.which(program, path=SEARCH_PATH) is None
    return pytest.mark.skipif(is_missing, reason=f"{program} is not installed")


def run(*arguments: str | Path) -> str:
    """What the command prints; it may not fail."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=PROJECT,
        env=make_environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def find_port(server: Server) -> int:
    return server.addresses[0][1]


def make_sample(cpu_us: float) -> Sample:
    return Sample(cpu_us, requests_per_s=1e6 / cpu_us, busy=1, p50_us=100, p99_us=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("root"))


def shrink(work: Work) -> Work:
    """The work on fewer and smaller files."""
    files = work.files
    size_bytes, count = min(files.size_bytes, MIB), min(files.count, 200)
    return dataclasses.replace(work, files=dataclasses.replace(files, size_bytes=size_bytes, count=count))


class TestFolders:
    def test_compressed_forms_have_the_size_but_for_a_hundredth(self, folder: Folder) -> None:
        for size_bytes in (10 * KIB, MIB):
            files = Files(size_bytes, kind=Kind.SCRIPT)
            folder.make(files)
            sizes = [len(folder.read(files, 0, coding)) for coding in ("gzip", "br", "zstd")]
            assert sizes == pytest.approx([size_bytes] * 3, rel=0.011)


class TestCommands:
    @pytest.mark.parametrize("name", command.COMMANDS)
    def test_each_is_a_module_and_stands_in_the_readme(self, name: str) -> None:
        assert (PROJECT / "benchmarks" / f"{name}.py").exists()
        assert f"python -m benchmarks {name}" in README

    def test_the_list_shows_every_work_series_and_server(self) -> None:
        words = set(run("list").split())

        assert words >= {*WORKS, *SERIES, *SERVERS}

    def test_every_server_is_explained_in_the_readme(self) -> None:
        assert all(f"`{name}`" in README for name in SERVERS)

    def test_an_unknown_work_is_refused(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "run", "nothing"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=50,
        )

        assert done.returncode == 2
        assert "no work 'nothing'" in done.stderr


class TestRequests:
    @pytest.mark.parametrize("name", [name for name, work in WORKS.items() if not work.series])
    async def test_what_each_work_asks_for_is_answered_as_it_expects(self, name: str, folder: Folder) -> None:
        work = shrink(WORKS[name])
        folder.make(work.files)
        async with Server(folder.root, port=0) as server:
            port = find_port(server)
            etag = await asyncio.to_thread(find_etag, work, port)
            for example in make_examples(work, folder, etag, seed=1):
                await asyncio.to_thread(check, work, port, example)

    @pytest.mark.parametrize(
        ("name", "body", "complaint"),
        [
            ("1k", b"other bytes", "another body"),
            ("404", None, "status 200 instead of 404"),
            ("gzip", b"other bytes", "coding none instead of gzip"),
        ],
    )
    async def test_another_answer_than_the_expected_one_is_a_failure(
        self, name: str, body: bytes | None, complaint: str, folder: Folder
    ) -> None:
        folder.make(WORKS["1k"].files)
        request = make_examples(WORKS["1k"], folder, "", seed=1)[0].request
        async with Server(folder.root, port=0) as server:
            with pytest.raises(Failed, match=complaint):
                await asyncio.to_thread(check, WORKS[name], find_port(server), Example(request, body))

    @needs("wrk")
    @pytest.mark.parametrize("name", ["1k", "browsers", "heads", "range", "gzip", "made"])
    async def test_the_script_of_wrk_asks_for_what_there_is(
        self, name: str, folder: Folder, tmp_path: Path
    ) -> None:
        work = shrink(WORKS[name])
        folder.make(work.files)
        script = tmp_path / "load.lua"
        script.write_text(make_script(work, etag="", seed=1))
        async with Server(folder.root, port=0) as server:
            port = find_port(server)
            load = await asyncio.to_thread(run_wrk, port, script, 4, 1, os.sched_getaffinity(0))

        assert load.requests > 0
        assert (load.bad_statuses, load.broken) == (0, 0)

    async def test_answers_to_head_are_counted(self, folder: Folder) -> None:
        folder.make(WORKS["head"].files)
        request = make_examples(WORKS["head"], folder, "", seed=1)[0].request
        async with Server(folder.root, port=0) as server:
            port = find_port(server)
            load = await asyncio.to_thread(run_heads, port, request, 4, 1, os.sched_getaffinity(0))

        assert load.requests > 0
        assert load.broken == 0


class TestMeasuring:
    def test_the_clock_of_a_process_is_its_cpu_time(self) -> None:
        before = time.process_time_ns()
        measured = time.clock_gettime_ns(make_clock(os.getpid()))

        assert before <= measured <= time.process_time_ns()

    @needs("cc")
    def test_the_lower_limit_answers_with_the_file(self, folder: Folder, tmp_path: Path) -> None:
        work = WORKS["1k"]
        folder.make(work.files)
        only_file = folder.root / work.files.name(0)
        setup = Setup(folder.root, find_free_port(), tmp_path, only_file=only_file)
        with started(SERVERS["lower-limit"], setup, os.sched_getaffinity(0)):
            for example in make_examples(work, folder, "", seed=1):
                check(work, setup.port, example)

    @pytest.mark.parametrize("name", ["gzip", "br", "zstd", "made"])
    @pytest.mark.parametrize(
        "server",
        [
            "aioserve",
            pytest.param("nginx", marks=needs("nginx")),
            pytest.param("caddy", marks=needs("caddy")),
        ],
    )
    def test_servers_answer_with_compressed_forms(
        self, server: str, name: str, folder: Folder, tmp_path: Path
    ) -> None:
        work = WORKS[name]
        folder.make(work.files)
        setup = Setup(folder.root, find_free_port(), tmp_path, coding=work.coding, is_made=work.is_made)
        try:
            with started(SERVERS[server], setup, os.sched_getaffinity(0)):
                for example in make_examples(work, folder, "", seed=1):
                    check(work, setup.port, example)
        except Unfit as unfit:
            pytest.skip(f"{server} {unfit}")

    def test_what_a_server_complains_about_when_it_does_not_start_is_shown(self, tmp_path: Path) -> None:
        setup = Setup(tmp_path / "none", find_free_port(), tmp_path)

        with (
            pytest.raises(Failed, match="No such file or directory"),
            started(SERVERS["aioserve"], setup, os.sched_getaffinity(0)),
        ):
            pass

    @needs("wrk")
    @pytest.mark.parametrize(
        ("work", "other"),
        [
            ("10k", "http.server"),
            pytest.param("304", "nginx", marks=needs("nginx")),
            pytest.param("gzip-1m", "nginx", marks=needs("nginx")),
        ],
    )
    def test_a_run_measures_ours_beside_another(self, work: str, other: str, tmp_path: Path) -> None:
        options = ("--servers", f"aioserve,{other}", "--rounds", "1", "--seconds", "1")

        text = run("run", work, *options, "--output", tmp_path)

        assert text == (tmp_path / "speed.md").read_text()
        machine, (result,) = read_result(tmp_path / "speed.json")
        assert machine["versions"].keys() == {"aioserve", other}
        assert all(sample.cpu_us > 0 for name in ("aioserve", other) for sample in result.samples[name])
        assert not result.left_out


class TestReport:
    def test_a_bar_is_judged_by_the_median_of_the_ratios_of_the_rounds(self) -> None:
        samples = {
            "aioserve": [make_sample(cpu_us) for cpu_us in (7, 30, 14)],
            "nginx": [make_sample(cpu_us) for cpu_us in (10, 20, 20)],
            "lighttpd": [make_sample(cpu_us) for cpu_us in (6, 20, 10)],
        }

        verdicts = judge([Result(WORKS["1k"], samples)])

        found = {verdict.bar.server: (verdict.ratios, verdict.is_met) for verdict in verdicts}
        assert found == {
            "nginx": ([0.7, 1.5, 0.7], True),
            "lighttpd": ([pytest.approx(7 / 6), 1.5, 1.4], False),
        }

    def test_a_bar_can_compare_with_another_work(self) -> None:
        one, two = (
            Result(WORKS[f"workers-{count}"], {"aioserve": [make_sample(cpu_us)]})
            for count, cpu_us in ((1, 10), (2, 11))
        )

        (verdict,) = judge([one, two])

        assert verdict.ratios == [1.1]
        assert not verdict.is_met

    def test_results_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        result = Result(WORKS["1k"], {"nginx": [make_sample(10)]}, {"caddy": "does not listen"})
        machine = {**describe_machine(), "rounds": 1, "seconds": 1, "versions": {"nginx": "1.22"}}

        write_result(tmp_path, "speed", machine, [result])

        assert read_result(tmp_path / "speed.json") == (machine, [result])
        assert "caddy does not listen" in (tmp_path / "speed.md").read_text()

    def test_results_are_drawn_as_svg(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        works = [WORKS[name] for name in ("1k", "10k", "sizes-0", "sizes-1024")]
        results = [
            Result(work, {name: [make_sample(10), make_sample(12)] for name in ("aioserve", "nginx")})
            for work in works
        ]
        machine = {**describe_machine(), "rounds": 2, "seconds": 1, "versions": {}}
        write_result(tmp_path, "speed", machine, results)

        written = run("plot", tmp_path / "speed.json").split()

        assert [Path(path).name for path in written] == [
            f"speed-{name}.svg" for name in ("ratios", "10k", "sizes")
        ]
        assert all("aioserve" in Path(path).read_text() for path in written)


class TestOtherQuestions:
    def test_a_short_soak_serves_the_normal_clients_without_an_error(self) -> None:
        text = run("soak", "--connections", "20", "--seconds", "2", "--clients", "5")

        rows = {line[:27].strip(): line[27:] for line in text.splitlines()[1:]}
        assert rows["wrong or broken"] == "none"
        assert rows["answers to normal clients"][0] != "0"
        assert "peak" in rows["server RSS in MiB"]

    def test_the_time_to_start_is_measured_beside_that_of_http_server(self) -> None:
        text = run("startup", "--rounds", "1")

        names = [line[:16].strip() for line in text.splitlines()]
        assert names[2:] == ["aioserve serve", "http.server", "ratio"]

    @needs("wrk")
    def test_memory_is_measured(self, tmp_path: Path) -> None:
        options = ("--servers", "aioserve", "--connections", "20", "--requests", "1", "--kinds", "heads")

        run("memory", *options, "--output", tmp_path)

        found = json.loads((tmp_path / "memory.json").read_text())["memory"]["aioserve"]
        assert found["after_first"] >= found["start"] > 0
        assert found["growth"][-1][0] >= 1

    def test_the_delay_beside_downloads_is_measured(self, tmp_path: Path) -> None:
        options = ("--downloads", "2", "--size", "1", "--seconds", "0.5", "--rounds", "1")

        run("latency", "--servers", "aioserve", *options, "--output", tmp_path)

        (found,) = json.loads((tmp_path / "latency.json").read_text())["latency"]["aioserve"]
        assert found["alone_p99_us"] >= found["alone_p50_us"] > 0
        assert found["download_bytes_per_s"] > 0

    def test_reading_and_deciding_are_measured_alone(self) -> None:
        pytest.importorskip("pyperf", reason="pyperf is not installed")

        text = run("parsing", "--debug-single-value")

        assert "a browser's head" in text

    def test_levels_of_codings_are_compared(self, tmp_path: Path) -> None:
        file = PROJECT / "public" / "site.js"

        text = run("compression", file, "--rounds", "1", "--output", tmp_path)

        assert text == (tmp_path / "compression.md").read_text()
        samples = json.loads((tmp_path / "compression.json").read_text())["samples"]
        assert {sample["size_bytes"] for sample in samples} == {file.stat().st_size}
        assert {sample["level"] for sample in samples if sample["coder"] == "gzip, zlib"} == {*range(1, 10)}
        assert all(0 < sample["compressed_bytes"] < sample["size_bytes"] for sample in samples)
