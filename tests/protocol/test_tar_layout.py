"""The bytes of a tar file, as the readers of others understand them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from aioserve.protocol.archive_layout import Layout, Member
from aioserve.protocol.tar_layout import TarLayout
from tests.protocol.test_archive_layout import MTIME_NS, lay_out, make_file, make_folder, render
from tests.test_clients import find_program


def read_infos(layout: Layout, *contents: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(render(layout, contents)), mode="r:") as archive:
        return archive.getmembers()


def test_a_reader_finds_what_was_put_in() -> None:
    members = [make_folder(b"top", mode=0o750), make_file(b"top/a", 5, mode=0o640), make_file(b"top/empty")]
    layout = lay_out(TarLayout(), members)

    with tarfile.open(fileobj=io.BytesIO(render(layout, [b"", b"hello", b""])), mode="r:") as archive:
        infos = archive.getmembers()
        files = [archive.extractfile(info) for info in infos]
        assert [file and file.read() for file in files] == [None, b"hello", b""]
    assert [(info.name, info.mode, info.isdir()) for info in infos] == [
        ("top", 0o750, True),
        ("top/a", 0o640, False),
        ("top/empty", 0o644, False),
    ]
    assert {info.mtime for info in infos} == {MTIME_NS // 1_000_000_000}
    assert {(info.uid, info.gid, info.uname, info.gname) for info in infos} == {(0, 0, "", "")}


NAMES = [
    pytest.param(b"a", 512, id="short"),
    pytest.param(b"x" * 100, 512, id="100 bytes, as long as a name may be"),
    pytest.param(b"p" * 155 + b"/" + b"n" * 100, 512, id="155 and 100 bytes, with a prefix"),
    pytest.param(b"x" * 101, 1536, id="101 bytes without a slash"),
    pytest.param(b"p" * 156 + b"/n", 1536, id="a first folder that is too long for a prefix"),
    pytest.param(b"p/" + b"n" * 101, 1536, id="a last name that is too long"),
    pytest.param(b"/".join([b"deep"] * 200), 2048, id="more than one block of pax"),
    pytest.param("ž".encode(), 1536, id="utf-8"),
    pytest.param(b"bad\xff", 512, id="no utf-8"),
    pytest.param(b"bad\xff" * 100, 1536, id="no utf-8 and long"),
    pytest.param(b"new\nline", 512, id="a newline"),
    pytest.param(b" blanks = 12 ", 512, id="what a record is made of"),
]


@pytest.mark.parametrize(("name", "head_bytes"), NAMES)
@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_a_name_is_read_as_it_was(name: bytes, head_bytes: int, is_folder: bool) -> None:
    layout = lay_out(TarLayout(), [Member(name, 0, MTIME_NS, 0o755, is_folder), make_file(b"next", 1)])

    first, following = read_infos(layout, b"", b"1")
    assert os.fsencode(first.name) == name
    assert first.isdir() is is_folder
    assert following.name == "next"
    if not is_folder:
        assert following.offset == head_bytes


@pytest.mark.parametrize("size", range(80, 1100))
def test_the_length_of_a_record_counts_its_own_digits(size: int) -> None:
    name = b"n" * size
    layout = lay_out(TarLayout(), [make_file(name), make_file(b"next")])

    assert [info.name for info in read_infos(layout, b"", b"")] == [name.decode(), "next"]


@pytest.mark.parametrize(
    "mtime_s", [0, 8**11 - 1, 8**11, -1, -(10**9)], ids=["0", "the last of ustar", "after it", "-1", "1938"]
)
def test_a_time_is_read_as_it_was(mtime_s: int) -> None:
    # The sum of seconds in nanoseconds stays below 2**63.
    mtime_ns = mtime_s * 1_000_000_000
    if mtime_ns >= 1 << 63:
        mtime_ns = (1 << 63) - 1
    layout = lay_out(TarLayout(), [make_file(b"a", mtime_ns=mtime_ns)])

    (info,) = read_infos(layout, b"")
    assert info.mtime == mtime_ns // 1_000_000_000


@pytest.mark.parametrize("size_bytes", [8**11 - 1, 8**11, 1 << 50])
def test_a_size_is_read_as_it_was(size_bytes: int) -> None:
    layout = lay_out(TarLayout(), [make_file(b"large", size_bytes)])
    head = next(layout.list_segments(0, 1))

    with tarfile.open(fileobj=io.BytesIO(layout.format(head, 0) + bytes(1024)), mode="r:") as archive:
        info = archive.next()
    assert info is not None
    assert (info.name, info.size) == ("large", size_bytes)


def test_an_archive_of_nothing_can_be_opened() -> None:
    assert read_infos(TarLayout()) == []


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_a_program_unpacks_it(program: str, tmp_path: Path) -> None:
    names = [b"top/a", "top/ž".encode(), b"top/new\nline", b"top/bad\xff", b"top/" + b"l" * 200]
    members = [make_folder(b"top"), *(make_file(name, 3, mode=0o600) for name in names)]
    layout = lay_out(TarLayout(), members)
    (tmp_path / "a.tar").write_bytes(render(layout, [b"", *[b"abc"] * len(names)]))

    done = subprocess.run(
        [find_program(program), "-xf", "a.tar"],
        cwd=tmp_path,
        env={"LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=50,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    for name in names:
        path = tmp_path / os.fsdecode(name)
        assert path.read_bytes() == b"abc"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_mtime == MTIME_NS // 1_000_000_000
