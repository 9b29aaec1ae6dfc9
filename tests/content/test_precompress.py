"""What lies beside the files afterwards, whatever happens meanwhile; and the command, as a process."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioserve.content.compression import Decompressor, list_codings
from aioserve.content.files import EXTENSIONS
from aioserve.content.precompress import (
    Form,
    Job,
    Outcome,
    Result,
    compress_file,
    find_jobs,
    format_results,
    make_filter,
    run_jobs,
)
from tests.process import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    PATIENCE_S,
    PROJECT,
    Output,
    Terminal,
    make_command,
    make_environment,
    run,
    without_rights,
)

CODINGS = list_codings()
TEXT = (PROJECT / "README.md").read_bytes()
OTHER_TEXT = (PROJECT / "ARCHITECTURE.md").read_bytes()
# Digits in no order: they shrink to about half, and the best levels take long for it.
DIGITS = random.Random(7).randbytes(8 << 20).hex().encode()
NOISE = random.Random(8).randbytes(10_000)

HOUR_NS = 3_600_000_000_000
THEN_NS = 1_700_000_000_123_456_789

PROGRAMS = {"br": ["brotli", "-dc"], "zstd": ["zstd", "-dcq"], "gzip": ["gzip", "-dc"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    return site


@pytest.fixture
def root(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def write(path: Path, data: bytes, mtime_ns: int = THEN_NS, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def form_of(path: Path, coding: str) -> Path:
    return path.with_name(path.name + EXTENSIONS[coding].decode())


def decode(path: Path, coding: str) -> bytes:
    decompressor = Decompressor(coding)
    data = b"".join(decompressor.feed(form_of(path, coding).read_bytes()))
    decompressor.finish()
    return data


def list_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def find_paths(root: int, *patterns: str) -> list[bytes]:
    jobs, failures = find_jobs(root, make_filter(patterns))
    assert failures == []
    return [b"/".join(job.segments) for job in jobs]


def compress_one(root: int, name: str, count: Callable[[int], None] = lambda size_bytes: None) -> Result:
    result = compress_file(root, Job((name.encode(),), 0), CODINGS, count)
    assert result is not None
    return result


def get_outcomes(result: Result) -> set[Outcome]:
    return {form.outcome for form in result.forms.values()}


class TestFinding:
    def test_files_that_usually_shrink_are_found_in_all_folders_the_largest_first(
        self, folder: Path, root: int
    ) -> None:
        write(folder / "small.html", b"a")
        write(folder / "a" / "b" / "large.json", b"a" * 100)
        write(folder / "a" / "middle.svg", b"a" * 10)
        write(folder / "photo.jpg", b"a" * 1000)

        assert find_paths(root) == [b"a/b/large.json", b"a/middle.svg", b"small.html"]

    @pytest.mark.parametrize(
        "name",
        [
            ".hidden.txt",
            ".git/config.txt",
            "a.txt.gz",
            "a.txt.br",
            "a.txt.zst",
            "A.TXT.GZ",
            "a.zip",
            "unknown",
        ],
    )
    def test_others_are_passed_over(self, folder: Path, root: int, name: str) -> None:
        write(folder / name, b"a")

        assert find_paths(root) == []

    def test_types_can_be_chosen_but_forms_are_never_compressed_again(self, folder: Path, root: int) -> None:
        for name in ("a.html", "a.txt", "a.ttf", "a.pdf", "a.gz", "a.br"):
            write(folder / name, b"a")

        assert find_paths(root, "text/html") == [b"a.html"]
        assert find_paths(root, "text/*") == [b"a.html", b"a.txt"]
        assert find_paths(root, "font/*", "application/pdf") == [b"a.pdf", b"a.ttf"]
        assert find_paths(root, "*/*") == [b"a.html", b"a.pdf", b"a.ttf", b"a.txt"]

    def test_links_are_not_followed(self, folder: Path, root: int, tmp_path: Path) -> None:
        write(tmp_path / "outside" / "a.txt", b"a")
        write(folder / "inside.txt", b"a")
        (folder / "link").symlink_to(tmp_path / "outside")
        (folder / "link.txt").symlink_to(tmp_path / "outside" / "a.txt")
        (folder / "alias.txt").symlink_to("inside.txt")
        (folder / "loop").symlink_to(folder)

        assert find_paths(root) == [b"inside.txt"]

    def test_what_is_no_file_is_passed_over(self, folder: Path, root: int) -> None:
        os.mkfifo(folder / "pipe.txt")

        assert find_paths(root) == []

    def test_names_are_bytes(self, folder: Path, root: int) -> None:
        with open(os.path.join(os.fsencode(folder), b"\xff\n.txt"), "wb") as file:
            file.write(b"a")

        assert find_paths(root) == [b"\xff\n.txt"]


class TestForms:
    def test_each_coding_gives_a_file_beside_it_that_decodes_to_it(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)

        result = compress_one(root, "a.txt")

        assert result.size_bytes == len(TEXT)
        for coding in CODINGS:
            assert decode(file, coding) == TEXT
            assert result.forms[coding] == Form(Outcome.WRITTEN, form_of(file, coding).stat().st_size)
        assert list_names(folder) == {"a.txt", *(form_of(file, coding).name for coding in CODINGS)}

    @pytest.mark.parametrize("coding", CODINGS)
    def test_other_programs_decode_it(self, folder: Path, root: int, coding: str) -> None:
        program, *options = PROGRAMS[coding]
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        file = write(folder / "a.txt", TEXT)
        compress_one(root, "a.txt")

        done = subprocess.run([path, *options, form_of(file, coding)], capture_output=True, check=True)

        assert done.stdout == TEXT

    def test_it_is_smaller_than_that_of_gzip_at_its_best(self, folder: Path, root: int) -> None:
        write(folder / "a.txt", TEXT)

        forms = compress_one(root, "a.txt").forms

        assert forms["gzip"].size_bytes <= len(gzip.compress(TEXT, 9))
        assert all(
            forms[coding].size_bytes < forms["gzip"].size_bytes for coding in CODINGS if coding != "gzip"
        )

    def test_a_file_of_several_pieces_is_whole(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT * 80)
        assert file.stat().st_size > 512 * 1024

        compress_one(root, "a.txt")

        assert all(decode(file, coding) == TEXT * 80 for coding in CODINGS)

    @pytest.mark.parametrize("mode", [0o644, 0o600, 0o640, 0o444])
    def test_it_has_the_time_and_the_permissions_of_its_file(
        self, folder: Path, root: int, mode: int
    ) -> None:
        file = write(folder / "a.txt", TEXT, mode=mode)

        compress_one(root, "a.txt")

        for coding in CODINGS:
            status = form_of(file, coding).stat()
            assert status.st_mtime_ns == THEN_NS
            assert stat.S_IMODE(status.st_mode) == mode

    def test_it_never_gets_a_right_to_run_as_somebody_else(self, folder: Path, root: int) -> None:
        write(folder / "a.txt", TEXT, mode=0o6755)

        compress_one(root, "a.txt")

        assert stat.S_IMODE((folder / "a.txt.gz").stat().st_mode) == 0o755

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_it_has_the_owner_of_its_file(self, folder: Path, root: int) -> None:
        os.chown(write(folder / "a.txt", TEXT), 12345, 23456)

        compress_one(root, "a.txt")

        status = (folder / "a.txt.gz").stat()
        assert (status.st_uid, status.st_gid) == (12345, 23456)

    @pytest.mark.parametrize("data", [b"", b"a", NOISE], ids=["nothing", "a byte", "noise"])
    def test_what_does_not_shrink_gets_none(self, folder: Path, root: int, data: bytes) -> None:
        write(folder / "a.txt", data)

        assert get_outcomes(compress_one(root, "a.txt")) == {Outcome.USELESS}
        assert list_names(folder) == {"a.txt"}

    def test_five_percent_decide(self, folder: Path, root: int) -> None:
        # Noise that is followed by so many zeros, which take next to nothing.
        write(folder / "less.txt", NOISE + bytes(400))
        write(folder / "more.txt", NOISE + bytes(700))

        assert get_outcomes(compress_one(root, "less.txt")) == {Outcome.USELESS}
        assert get_outcomes(compress_one(root, "more.txt")) == {Outcome.WRITTEN}


class TestRenewing:
    def test_what_is_up_to_date_is_left_alone(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)
        for coding in CODINGS:
            write(form_of(file, coding), b"as it is", mtime_ns=THEN_NS)

        assert get_outcomes(compress_one(root, "a.txt")) == {Outcome.CURRENT}
        assert all(form_of(file, coding).read_bytes() == b"as it is" for coding in CODINGS)

    def test_what_is_newer_is_up_to_date(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)
        write(form_of(file, "gzip"), b"as it is", mtime_ns=THEN_NS + HOUR_NS)

        assert compress_one(root, "a.txt").forms["gzip"] == Form(Outcome.CURRENT, 8)

    def test_what_is_older_by_a_nanosecond_is_written_again(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)
        for coding in CODINGS:
            write(form_of(file, coding), b"outdated", mtime_ns=THEN_NS - 1)

        assert get_outcomes(compress_one(root, "a.txt")) == {Outcome.WRITTEN}
        assert all(decode(file, coding) == TEXT for coding in CODINGS)

    def test_only_what_is_missing_is_written(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)
        compress_one(root, "a.txt")
        form_of(file, "gzip").unlink()

        forms = compress_one(root, "a.txt").forms

        assert {coding for coding in CODINGS if forms[coding].outcome is Outcome.WRITTEN} == {"gzip"}

    def test_an_outdated_one_that_is_no_longer_worth_it_is_removed(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", NOISE)
        for coding in CODINGS:
            write(form_of(file, coding), b"outdated", mtime_ns=THEN_NS - HOUR_NS)

        assert get_outcomes(compress_one(root, "a.txt")) == {Outcome.REMOVED}
        assert list_names(folder) == {"a.txt"}

    def test_a_second_run_writes_nothing(self, folder: Path, root: int) -> None:
        write(folder / "a.txt", TEXT)
        compress_one(root, "a.txt")
        before = {path: path.stat().st_ino for path in folder.iterdir()}

        assert get_outcomes(compress_one(root, "a.txt")) == {Outcome.CURRENT}
        assert {path: path.stat().st_ino for path in folder.iterdir()} == before

    @pytest.mark.parametrize("kind", ["folder", "link", "broken link"])
    def test_what_is_no_file_under_its_name_stays_and_is_told(
        self, folder: Path, root: int, tmp_path: Path, kind: str
    ) -> None:
        write(folder / "a.txt", TEXT)
        target = write(tmp_path / "outside", b"outside", mtime_ns=THEN_NS - HOUR_NS)
        if kind == "folder":
            (folder / "a.txt.gz").mkdir()
        else:
            (folder / "a.txt.gz").symlink_to(target if kind == "link" else tmp_path / "absent")

        result = compress_one(root, "a.txt")

        assert result.problems == ["what is named .gz beside it is no file, and stays"]
        assert result.forms.keys() == {*CODINGS} - {"gzip"}
        assert target.read_bytes() == b"outside"
        assert (folder / "a.txt.gz").is_dir() or (folder / "a.txt.gz").is_symlink()


class TestChanges:
    """The file changes while it is read: `count` is called in between."""

    def compress_while(self, root: int, change: Callable[[int], None]) -> Result | None:
        """Calls `change` with 1, 2 and so on, once in each try."""
        tries = iter(range(1, 100))
        return compress_file(root, Job((b"a.txt",), 10), CODINGS, lambda _: change(next(tries)))

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: write(path, OTHER_TEXT), id="written"),
            pytest.param(lambda path: write(path, b""), id="emptied"),
            pytest.param(
                lambda path: os.replace(write(path.with_name("b"), OTHER_TEXT), path), id="replaced"
            ),
        ],
    )
    def test_it_is_read_again(self, folder: Path, root: int, change: Callable[[Path], None]) -> None:
        file = write(folder / "a.txt", TEXT)

        result = self.compress_while(root, lambda number: change(file) if number == 1 else None)

        assert result is not None
        assert result.problems == []
        assert result.size_bytes == file.stat().st_size
        assert get_outcomes(result) == {Outcome.WRITTEN if file.stat().st_size else Outcome.USELESS}
        if file.stat().st_size:
            assert all(decode(file, coding) == OTHER_TEXT for coding in CODINGS)

    def test_one_that_keeps_changing_is_left_with_a_message(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)

        result = self.compress_while(root, lambda number: os.utime(file, ns=(THEN_NS, THEN_NS + number)))

        assert result is not None
        assert result.problems == ["it changes while it is read, and was left to the next run"]
        assert result.forms == {}
        assert list_names(folder) == {"a.txt"}

    def test_one_that_goes_is_forgotten(self, folder: Path, root: int) -> None:
        file = write(folder / "a.txt", TEXT)

        assert self.compress_while(root, lambda number: file.unlink(missing_ok=True)) is None
        assert list_names(folder) == set()

    def test_a_link_in_its_place_is_not_followed(self, folder: Path, root: int, tmp_path: Path) -> None:
        write(tmp_path / "outside.txt", TEXT)
        (folder / "a.txt").symlink_to(tmp_path / "outside.txt")

        assert compress_one(root, "a.txt").problems == [os.strerror(errno.ELOOP)]
        assert list_names(folder) == {"a.txt"}

    def test_a_link_in_the_place_of_a_folder_is_not_followed(
        self, folder: Path, root: int, tmp_path: Path
    ) -> None:
        write(folder / "sub" / "a.txt", TEXT)
        jobs, _ = find_jobs(root, make_filter([]))
        write(tmp_path / "outside" / "a.txt", TEXT)
        shutil.rmtree(folder / "sub")
        (folder / "sub").symlink_to(tmp_path / "outside")

        (result,) = run_jobs(root, jobs, CODINGS, 1, lambda size_bytes: None)

        assert len(result.problems) == 1
        assert list_names(tmp_path / "outside") == {"a.txt"}


class TestManyFiles:
    def test_all_are_done_by_any_number_of_threads(self, folder: Path, root: int) -> None:
        for number in range(30):
            write(folder / str(number % 3) / f"{number}.txt", TEXT[number:])
        jobs, _ = find_jobs(root, make_filter([]))
        told: list[int] = []

        results = run_jobs(root, jobs, CODINGS, 4, told.append)

        assert sum(told) == sum(job.size_bytes for job in jobs)
        assert [result.path for result in results] == sorted(b"/".join(job.segments) for job in jobs)
        assert {outcome for result in results for outcome in get_outcomes(result)} == {Outcome.WRITTEN}
        for number in range(30):
            assert decode(folder / str(number % 3) / f"{number}.txt", "gzip") == TEXT[number:]

    def test_who_ends_it_finds_nothing_unfinished(self, folder: Path, root: int) -> None:
        for number in range(3):
            write(folder / f"{number}.txt", DIGITS)
        jobs, _ = find_jobs(root, make_filter([]))

        def end(size_bytes: int) -> None:
            if any(name.startswith(".aioserve-") for name in list_names(folder)):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_jobs(root, jobs, CODINGS, 2, end)

        assert list_names(folder) == {"0.txt", "1.txt", "2.txt"}
        assert threading.active_count() == 1

    def test_a_run_leaves_no_descriptor_open(self, folder: Path, root: int) -> None:
        write(folder / "a" / "a.txt", TEXT)
        write(folder / "a" / "b.txt", NOISE)
        before = os.listdir("/dev/fd")

        run_jobs(root, find_jobs(root, make_filter([]))[0], CODINGS, 2, lambda size_bytes: None)

        assert os.listdir("/dev/fd") == before


def test_what_was_done_is_told_for_each_coding() -> None:
    written, current = Form(Outcome.WRITTEN, 1 << 20), Form(Outcome.CURRENT, 1024)
    results = [
        Result(b"a", 3 << 20, {"br": written, "gzip": current}, []),
        Result(b"b", 100, {"br": Form(Outcome.USELESS, 0), "gzip": Form(Outcome.REMOVED, 0)}, []),
        Result(b"c", 500, {}, ["Permission denied"]),
    ]

    assert format_results(results, ["br", "gzip"]).splitlines() == [
        "3 files of 3.0 MiB",
        "  .br  1 written, 1 would not be 5 % smaller; saves 2.0 MiB",
        "  .gz  1 up to date, 1 outdated and removed, since it would not be 5 % smaller; saves 3.0 MiB",
    ]


# ---- the command -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Output]]:
    """The command, from when it has begun to write something."""
    process = subprocess.Popen(
        make_command("compress", folder),
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = Output(process.stderr)
    until = time.monotonic() + PATIENCE_S
    try:
        while not any(name.startswith(".aioserve-") for name in list_names(folder)):
            assert time.monotonic() < until, errors.text
            time.sleep(0.01)
        yield process, errors
    finally:
        process.kill()
        process.wait()
        errors.read_to_end()


class TestCommand:
    def test_it_compresses_a_site_and_says_what_is_saved(self, folder: Path) -> None:
        shutil.copytree(PROJECT / "docs" / "decisions", folder / "decisions")
        names = list_names(folder) - {"decisions"}
        assert len(names) > 10

        done = run("compress", folder)

        assert (done.returncode, done.stderr) == (0, "")
        first, *lines = done.stdout.splitlines()
        assert re.fullmatch(rf"{len(names)} files of [\d.]+ KiB", first)
        assert len(lines) == len(CODINGS)
        for coding, line in zip(CODINGS, lines, strict=True):
            extension = EXTENSIONS[coding].decode()
            assert re.fullmatch(rf"  {extension:<5}{len(names)} written; saves [\d.]+ KiB", line)
            assert all(decode(folder / name, coding) == (folder / name).read_bytes() for name in names)

    def test_the_command_of_the_page_compresses_the_sample_site(self, tmp_path: Path) -> None:
        page = (PROJECT / "docs" / "compression.md").read_text()
        (line,) = re.findall(r"^```sh\n(.*)\n```$", page, re.MULTILINE)
        program, *words = line.split()
        shutil.copytree(PROJECT / "public", tmp_path / "public")

        done = run(*words, folder=tmp_path)

        assert program == "aioserve"
        assert (done.returncode, done.stderr) == (0, "")
        assert (
            decode(tmp_path / "public" / "index.html", "gzip")
            == (PROJECT / "public" / "index.html").read_bytes()
        )

    def test_a_second_time_all_is_up_to_date(self, folder: Path) -> None:
        write(folder / "a.txt", TEXT)
        run("compress", folder)

        done = run("compress", folder)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("1 up to date") == len(CODINGS)

    def test_an_empty_folder_is_nothing_to_do(self, folder: Path) -> None:
        done = run("compress", folder)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("0 files of 0 bytes\n")

    def test_types_are_media_types(self, folder: Path) -> None:
        for name in ("a.html", "a.css", "a.json"):
            write(folder / name, TEXT)

        run("compress", folder, "--types", "text/html, application/*")

        assert {"a.html.gz", "a.json.gz"} <= list_names(folder)
        assert "a.css.gz" not in list_names(folder)

    def test_the_folder_itself_may_be_a_link(self, folder: Path, tmp_path: Path) -> None:
        write(folder / "a.txt", TEXT)
        (tmp_path / "link").symlink_to(folder)

        assert run("compress", tmp_path / "link").returncode == 0
        assert (folder / "a.txt.gz").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["absent"], "cannot compress absent: No such file or directory"),
            (["README.md"], "cannot compress README.md: Not a directory"),
            (
                ["docs", "--types", "html"],
                "--types: got 'html', expected media types such as text/html or font/*",
            ),
            (["docs", "--types", ""], "--types: got '', expected media types such as text/html or font/*"),
            (["docs", "--jobs", "0"], "--jobs: got '0', expected a whole number from 1 to 256"),
            (["docs", "--jobs", "many"], "--jobs: got 'many', expected a whole number from 1 to 256"),
            (["docs", "--jobs", "257"], "--jobs: got '257', expected a whole number from 1 to 256"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_what_is_wrong_ends_with_status_2_and_one_line(self, words: list[str], message: str) -> None:
        done = run("compress", *words)

        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"aioserve: {message}\n")

    def test_without_a_folder_it_shows_how_it_is_used(self) -> None:
        done = run("compress")

        assert done.returncode == 2
        assert "Usage: aioserve compress [OPTIONS] DIR" in done.stderr

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can take a right from root")
    def test_what_cannot_be_read_or_written_is_told_and_the_rest_is_done(self, folder: Path) -> None:
        write(folder / "a.txt", TEXT)
        write(folder / "secret.txt", TEXT, mode=0)
        write(folder / "closed" / "a.txt", TEXT)
        write(folder / "fixed" / "a.txt", TEXT)
        (folder / "closed").chmod(0)
        (folder / "fixed").chmod(0o555)
        try:
            done = run("compress", folder, before=without_rights(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH))
        finally:
            for name in ("closed", "fixed"):
                (folder / name).chmod(0o755)

        denied = os.strerror(errno.EACCES)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"aioserve: {folder / name}: {denied}" for name in ("closed", "fixed/a.txt", "secret.txt")
        ]
        assert decode(folder / "a.txt", "gzip") == TEXT

    @pytest.mark.skipif(
        sys.platform != "linux", reason="the limit is said with SIGXFSZ, which Python ignores"
    )
    def test_a_disk_that_is_full_leaves_what_was_there(self, folder: Path) -> None:
        file = write(folder / "a.txt", DIGITS[:100_000])
        write(form_of(file, "gzip"), b"outdated", mtime_ns=THEN_NS - HOUR_NS)
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))

        done = run("compress", folder, before=limit)

        assert done.returncode == 1
        assert done.stderr == f"aioserve: {file}: {os.strerror(errno.EFBIG)}\n"
        assert list_names(folder) == {"a.txt", "a.txt.gz"}
        assert form_of(file, "gzip").read_bytes() == b"outdated"

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_ends_it_and_leaves_nothing_behind(
        self, folder: Path, number: signal.Signals, status: int
    ) -> None:
        write(folder / "a.txt", DIGITS)
        write(folder / "b.txt", DIGITS)
        with running(folder) as (process, errors):
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == status
            assert errors.read_to_end() == ""

        assert list_names(folder) == {"a.txt", "b.txt"}

    def test_a_name_moves_no_cursor(self, folder: Path) -> None:
        write(folder / "\x1b[2J.txt", TEXT)
        (folder / "\x1b[2J.txt.gz").mkdir()

        done = run("compress", folder)

        assert done.returncode == 1
        assert done.stderr.startswith(f"aioserve: {folder}/\\x1b[2J.txt: what is named .gz")

    def test_on_a_terminal_a_bar_shows_how_far_it_is(self, folder: Path) -> None:
        write(folder / "a.txt", TEXT)
        with Terminal(folder, command="compress") as terminal:
            text = terminal.read_until(None)
            assert terminal.process.wait(PATIENCE_S) == 0

        assert re.search(r"Compressing .*100%", text)
        assert re.search(r"^1 files of ", text, re.MULTILINE)

    def test_a_package_that_is_missing_is_told_and_the_rest_is_done(self, folder: Path) -> None:
        write(folder / "a.txt", TEXT)
        prepare = "import sys; sys.modules['brotli'] = None"

        done = subprocess.run(
            make_command("compress", folder, prepare=prepare),
            env=make_environment(),
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stderr == "aioserve: no br is written: its package is not installed\n"
        assert list_names(folder) == {
            "a.txt",
            *(f"a.txt{EXTENSIONS[c].decode()}" for c in CODINGS if c != "br"),
        }
