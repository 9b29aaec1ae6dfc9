"""The bytes of a zip file, as the readers of others understand them; sizes that no test could move."""

from __future__ import annotations

import io
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from aioserve.protocol.archive_layout import Layout, Part
from aioserve.protocol.zip_layout import ZipLayout
from tests.protocol.test_archive_layout import MTIME_NS, lay_out, make_file, make_folder, render
from tests.test_clients import find_program

GIB = 1 << 30


class Sparse(io.RawIOBase):
    """An archive as a file of which a part is made when it is read; the contents are zeros."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._at = 0
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._layout.size_bytes)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        start = self._at
        stop = self._layout.size_bytes if size < 0 else min(start + size, self._layout.size_bytes)
        pieces = []
        for segment in self._layout.list_segments(start, stop):
            begin, end = max(start - segment.start, 0), min(stop, segment.stop) - segment.start
            if segment.part is Part.CONTENT:
                pieces.append(bytes(end - begin))
            else:
                pieces.append(self._layout.format(segment, ZEROS_CRC)[begin:end])
        data = b"".join(pieces)
        self._at += len(data)
        self.read_bytes += len(data)
        return data


# That of one zero: the small files of the sparse archives hold one.
ZEROS_CRC = 0xD202EF8D


def open_zip(layout: Layout, *contents: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(render(layout, contents)))


def test_a_reader_finds_what_was_put_in() -> None:
    members = [make_folder(b"top", mode=0o750), make_file(b"top/a", 5, mode=0o640), make_file(b"top/empty")]
    layout = lay_out(ZipLayout(), members)

    with open_zip(layout, b"", b"hello", b"") as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        assert [info.filename for info in infos] == ["top/", "top/a", "top/empty"]
        assert [archive.read(info) for info in infos] == [b"", b"hello", b""]
        assert [stat.filemode(info.external_attr >> 16) for info in infos] == [
            "drwxr-x---",
            "-rw-r-----",
            "-rw-r--r--",
        ]
        # 2023-11-14 22:13:20 UTC
        assert {info.date_time for info in infos} == {(2023, 11, 14, 22, 13, 20)}
        assert {info.extract_version for info in infos} == {20}


def test_an_archive_of_nothing_can_be_opened() -> None:
    with open_zip(ZipLayout()) as archive:
        assert archive.infolist() == []


@pytest.mark.parametrize(
    ("name", "read_name", "is_flagged"),
    [
        pytest.param(b"plain.txt", "plain.txt", False, id="ascii"),
        pytest.param("žluť 📁".encode(), "žluť 📁", True, id="utf-8 says so"),
        pytest.param(b"a\nb", "a\nb", False, id="a newline"),
        pytest.param(b"a\\b", "a\\b", False, id="a backslash"),
        pytest.param(b"bad\xff\x80", "bad%FF%80", False, id="bytes that are no utf-8"),
        pytest.param(b"\xbe?" + "ž".encode(), "%BE?ž", True, id="some that are"),
        pytest.param(b"x" * 4000, "x" * 4000, False, id="long"),
    ],
)
def test_a_name_is_read_as_utf8(name: bytes, read_name: str, is_flagged: bool) -> None:
    layout = lay_out(ZipLayout(), [make_file(name, 1)])

    with open_zip(layout, b"1") as archive:
        (info,) = archive.infolist()
        assert info.filename == read_name
        assert bool(info.flag_bits & 0x800) is is_flagged
        assert archive.read(info) == b"1"


@pytest.mark.parametrize(
    ("mtime_s", "date_time", "has_timestamp"),
    [
        pytest.param(0, (1980, 1, 1, 0, 0, 0), True, id="before the time of dos"),
        pytest.param(-(1 << 31), (1980, 1, 1, 0, 0, 0), True, id="the first second of 32 bits"),
        pytest.param((1 << 31) - 1, (2038, 1, 19, 3, 14, 6), True, id="their last second"),
        pytest.param(1 << 31, (2038, 1, 19, 3, 14, 8), False, id="the one after"),
        pytest.param(5_000_000_000, (2107, 12, 31, 23, 59, 58), False, id="after the time of dos"),
        pytest.param(-9_000_000_000, (1980, 1, 1, 0, 0, 0), False, id="long ago"),
    ],
)
def test_a_time_is_said_as_far_as_it_can_be(
    mtime_s: int, date_time: tuple[int, ...], has_timestamp: bool
) -> None:
    layout = lay_out(ZipLayout(), [make_file(b"a", mtime_ns=mtime_s * 1_000_000_000)])

    with open_zip(layout, b"") as archive:
        (info,) = archive.infolist()
        assert info.date_time == date_time
        extra = b"UT\x05\x00\x01" + mtime_s.to_bytes(4, "little", signed=True) if has_timestamp else b""
        assert info.extra == extra


class TestZip64:
    def test_more_members_than_16_bits_count_are_found(self, tmp_path: Path) -> None:
        count = 70_000
        layout = lay_out(ZipLayout(), [make_file(b"%d" % number) for number in range(count)])
        path = tmp_path / "many.zip"
        path.write_bytes(render(layout, [b""] * count))

        with zipfile.ZipFile(path) as archive:
            assert [info.filename for info in archive.infolist()] == [str(n) for n in range(count)]
        listed = subprocess.run(
            [find_program("unzip"), "-Z1", path], capture_output=True, check=True, timeout=50
        )
        assert listed.stdout.split() == [b"%d" % number for number in range(count)]

    @pytest.mark.parametrize("count", [65_534, 65_535])
    def test_it_is_used_from_where_the_count_does_not_fit(self, count: int) -> None:
        layout = lay_out(ZipLayout(), [make_file(b"a")] * count)

        tail = render(layout, [b""] * count, layout.size_bytes - 98)
        assert (b"PK\x06\x06" in tail) is (count == 65_535)

    @pytest.mark.parametrize("size_bytes", [4 * GIB - 2, 4 * GIB - 1, 4 * GIB, 5 * GIB, 1 << 50])
    def test_a_reader_finds_large_files_and_what_lies_behind_them(self, size_bytes: int) -> None:
        members = [make_file(b"before", 1), make_file(b"large", size_bytes), make_file(b"behind", 1)]
        sparse = Sparse(lay_out(ZipLayout(), members))

        with zipfile.ZipFile(sparse) as archive:
            infos = archive.infolist()
            assert [info.filename for info in infos] == ["before", "large", "behind"]
            assert [info.file_size for info in infos] == [1, size_bytes, 1]
            assert [info.header_offset for info in infos] == list(sparse._layout._starts)
            assert archive.read("before") == archive.read("behind") == b"\0"
            with archive.open("large") as large:
                assert large.read(10) == bytes(10)
        assert sparse.read_bytes < 1 << 20

    @pytest.mark.parametrize("size_bytes", [4 * GIB - 2, 4 * GIB - 1, 4 * GIB])
    def test_the_numbers_behind_a_content_are_as_wide_as_its_header_says(self, size_bytes: int) -> None:
        layout = lay_out(ZipLayout(), [make_file(b"large", size_bytes)])
        parts = {
            segment.part: layout.format(segment, 0x11223344)
            for segment in layout.list_segments(0, layout.size_bytes)
            if segment.part is not Part.CONTENT
        }

        is_wide = size_bytes >= 4 * GIB - 1
        width = 8 if is_wide else 4
        size = size_bytes.to_bytes(width, "little")
        assert parts[Part.FOOT] == b"PK\x07\x08\x44\x33\x22\x11" + size + size
        assert parts[Part.HEAD].endswith(b"\x01\x00\x10\x00" + bytes(16)) is is_wide

    def test_many_files_that_are_large_together_have_wide_offsets(self) -> None:
        members = [make_file(b"%d" % number, GIB) for number in range(6)]
        sparse = Sparse(lay_out(ZipLayout(), members))

        with zipfile.ZipFile(sparse) as archive:
            assert [info.header_offset for info in archive.infolist()] == list(sparse._layout._starts)
            assert {info.file_size for info in archive.infolist()} == {GIB}


def test_unzip_unpacks_it(tmp_path: Path) -> None:
    names = [b"top/a", "top/ž".encode(), b"top/sub/c", b"top/new\nline", b"top/bad\xff"]
    members = [make_folder(b"top"), *(make_file(name, 3, mode=0o600) for name in names)]
    layout = lay_out(ZipLayout(), members)
    (tmp_path / "a.zip").write_bytes(render(layout, [b"", *[b"abc"] * len(names)]))

    environment = {"LC_ALL": "C.UTF-8", "UNZIP": "", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [find_program("unzip"), "-q", "a.zip"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=50,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    # A newline is replaced by unzip itself.
    for name in ("top/a", "top/ž", "top/sub/c", "top/bad%FF"):
        path = tmp_path / name
        assert path.read_bytes() == b"abc"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_mtime_ns == MTIME_NS // 1_000_000_000 * 1_000_000_000


def test_zip_finds_nothing_to_repair(tmp_path: Path) -> None:
    layout = lay_out(ZipLayout(), [make_folder(b"top"), make_file(b"top/a", 3), make_file(b"top/b")])
    (tmp_path / "a.zip").write_bytes(render(layout, [b"", b"abc", b""]))

    done = subprocess.run([find_program("zip"), "-T", "a.zip"], cwd=tmp_path, capture_output=True, timeout=50)

    assert (done.returncode, done.stdout) == (0, b"test of a.zip OK\n")
