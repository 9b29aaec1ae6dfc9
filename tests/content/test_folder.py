"""What is in a folder: names by kind and in order, links by where they lead, states."""

from __future__ import annotations

import os
import random
import re
import socket
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.content import folder as folder_module
from aioserve.content.containment import OpenFolder, Symlinks, Way
from aioserve.content.disk import Disk
from aioserve.content.files import Files, Refused
from aioserve.content.folder import Entry, Folder, Names, TooManyNames, sort_keys
from tests.content.conftest import Open, count_open, without_privileges

OLD_NS = 1_700_000_000_000_000_000


async def open_folder(files: Files, *segments: bytes) -> Folder:
    folder = await files.open_folder(segments)
    assert folder is not None
    return folder


async def read(folder: Folder, *, hidden: bool = False, hide: frozenset[str] = frozenset()) -> Names:
    try:
        return await folder.follow_links(await folder.read_names(hidden=hidden, hide=hide))
    finally:
        folder.close()


class TestOrder:
    @pytest.mark.parametrize(
        "ordered",
        [
            ["file1", "file2", "file10", "file010x", "file11"],
            ["1", "2", "10", "100"],
            ["a", "B", "c", "D"],
            ["v1.2.9", "v1.2.10", "v1.10.0"],
            ["", "0", "a0", "a0b", "a1"],
            ["IMG_9.jpg", "img_10.jpg", "IMG_11.JPG"],
            ["a b", "a!b", "ab"],
            ["2020-1-2", "2020-1-10", "2020-11-1"],
            ["ä1", "Ä2", "ä10"],
        ],
    )
    def test_names_stand_where_people_look_for_them(self, ordered: list[str]) -> None:
        for seed in range(5):
            names = random.Random(seed).sample(ordered, len(ordered))
            keys = dict(zip(names, sort_keys(names), strict=True))
            assert sorted(names, key=keys.__getitem__) == ordered

    @given(st.lists(st.text(st.characters(exclude_characters="/\0"), max_size=20), max_size=20))
    def test_each_name_gets_one_key(self, names: list[str]) -> None:
        assert len(sort_keys(names)) == len(names)

    @given(st.lists(st.text("ab0123", min_size=1, max_size=8), min_size=2, max_size=12))
    def test_the_order_is_that_of_one_name_at_a_time(self, names: list[str]) -> None:
        keys = dict(zip(names, sort_keys(names), strict=True))

        def padded(name: str) -> str:
            return re.sub(r"[0-9]+", lambda digits: digits[0].zfill(20), name)

        assert sorted(names, key=lambda name: (keys[name], name)) == sorted(
            names, key=lambda name: (padded(name), name)
        )

    def test_no_character_becomes_what_separates_names_or_is_a_number(self) -> None:
        changed = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).casefold() != chr(code)]
        assert not set("".join(changed).casefold()) & set("/0123456789")

    def test_bytes_that_are_no_text_have_a_place(self) -> None:
        assert len(sort_keys(["\udcff", "a"])) == 2


class TestNames:
    async def test_they_are_divided_by_their_kind(self, root: Path, open_files: Open) -> None:
        (root / "d").mkdir()
        (root / "f").touch()
        (root / "l").symlink_to("d")
        folder = await open_folder(open_files(root))
        names = await folder.read_names(hidden=False, hide=())
        folder.close()
        assert names[:3] == (["d"], ["f"], ["l"])

    async def test_a_folder_in_a_folder_is_read(self, root: Path, open_files: Open, way: Way) -> None:
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "b" / "c").touch()
        assert (await read(await open_folder(open_files(root, way=way), b"a", b"b"))).files == ["c"]

    async def test_hidden_ones_are_shown_when_asked_for(self, root: Path, open_files: Open) -> None:
        (root / ".f").touch()
        files = open_files(root)
        assert (await read(await open_folder(files))).total == 0
        assert (await read(await open_folder(files), hidden=True)).files == [".f"]

    async def test_some_are_never_shown(self, root: Path, open_files: Open) -> None:
        for name in ("_headers", "a"):
            (root / name).touch()
        folder = await open_folder(open_files(root))
        assert (await read(folder, hide=frozenset({"_headers"}))).files == ["a"]

    async def test_what_cannot_be_asked_for_is_not_shown(self, root: Path, open_files: Open) -> None:
        os.mkfifo(root / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / "socket"))
            (root / "link").symlink_to("fifo")
            names = await read(await open_folder(open_files(root)))
        assert (names.folders, names.files) == ([], [])

    async def test_every_name_that_the_disk_can_hold_is_read(self, root: Path, open_files: Open) -> None:
        names = {b"\xff\xfe", b"a\nb", b"\xc3\xa9", b" ", b"%2f", b"-x", b"x" * 255}
        for name in names:
            (root / os.fsdecode(name)).touch()
        assert {
            os.fsencode(name) for name in (await read(await open_folder(open_files(root)))).files
        } == names

    async def test_a_large_folder_is_read_in_slices(
        self, root: Path, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "_SLICE_NAMES", 10)
        monkeypatch.setattr(folder_module, "_SLICE_STATES", 3)
        expected = [f"f{number}" for number in range(100)]
        for name in expected:
            (root / name).touch()
        folder = await open_folder(open_files(root))
        names = await folder.read_names(hidden=False, hide=())
        assert names.files == expected
        entries = await folder.look_at(names.files, ())
        folder.close()
        assert [entry.name for entry in entries] == [name.encode() for name in expected]

    async def test_there_is_a_limit(
        self, root: Path, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "_SLICE_NAMES", 2)
        monkeypatch.setattr(folder_module, "MAX_NAMES", 3)
        for number in range(5):
            (root / str(number)).touch()
        with pytest.raises(TooManyNames):
            await read(await open_folder(open_files(root)))

    async def test_only_a_folder_that_keeps_still_has_a_version(self, root: Path, open_files: Open) -> None:
        files = open_files(root)
        assert (await read(await open_folder(files))).version is None

    @pytest.mark.parametrize(
        ("names", "readme"),
        [
            ([], None),
            (["a", "rest"], None),
            (["README"], b"README"),
            (["README.txt", "ReadMe.MD", "readme"], b"ReadMe.MD"),
            (["readme.rst", "README.TXT"], b"README.TXT"),
        ],
    )
    def test_the_best_readme_is_found(self, names: list[str], readme: bytes | None) -> None:
        assert Names(["readme.md"], names, [], None).readme == readme
        assert Names([], [], names, None).readme == readme


class TestLinks:
    @pytest.fixture
    def linked(self, root: Path, tmp_path: Path) -> Path:
        (root / "d").mkdir()
        (root / "f").touch()
        for name, target in {
            "to-file": "f",
            "to-folder": "d",
            "absolute": str(root / "f"),
            "outside": str(tmp_path),
            "above": "../" * 20,
            "nowhere": "absent",
            "loop": "loop",
        }.items():
            (root / name).symlink_to(target)
        return root

    @pytest.mark.parametrize(
        ("symlinks", "folders", "files"),
        [
            (Symlinks.NONE, ["d"], ["f"]),
            (Symlinks.INSIDE, ["d", "to-folder"], ["absolute", "f", "to-file"]),
            (Symlinks.ALL, ["above", "d", "outside", "to-folder"], ["absolute", "f", "to-file"]),
        ],
    )
    async def test_those_that_may_be_followed_are_shown(
        self,
        linked: Path,
        open_files: Open,
        way: Way,
        symlinks: Symlinks,
        folders: list[str],
        files: list[str],
    ) -> None:
        names = await read(await open_folder(open_files(linked, symlinks=symlinks, way=way)))
        assert (names.folders, names.files) == (folders, files)

    async def test_a_folder_outside_is_not_opened(self, linked: Path, open_files: Open, way: Way) -> None:
        files = open_files(linked, way=way)
        assert await files.open_folder((b"outside",)) is None
        (await open_folder(files, b"to-folder")).close()

    async def test_its_state_is_that_of_its_target(self, root: Path, open_files: Open) -> None:
        (root / "f").write_bytes(b"four")
        os.utime(root / "f", ns=(OLD_NS, OLD_NS))
        (root / "l").symlink_to("f")
        folder = await open_folder(open_files(root))
        (entry,) = await folder.look_at(["l"], ["l"])
        folder.close()
        assert entry == Entry(b"l", False, True, 4, OLD_NS, stat.S_IFLNK | 0o777)


class TestStates:
    async def test_they_are_told(self, root: Path, open_files: Open, way: Way) -> None:
        (root / "d").mkdir(mode=0o750)
        (root / "f").write_bytes(b"four")
        (root / "f").chmod(0o640)
        os.utime(root / "f", ns=(OLD_NS, OLD_NS))
        folder = await open_folder(open_files(root, way=way))
        folder_entry, file_entry = await folder.look_at(["d", "f"], ())
        folder.close()
        assert file_entry == Entry(b"f", False, False, 4, OLD_NS, stat.S_IFREG | 0o640)
        assert (folder_entry.is_folder, folder_entry.mode) == (True, stat.S_IFDIR | 0o750)

    async def test_what_has_gone_is_left_out(self, root: Path, open_files: Open) -> None:
        for name in "abc":
            (root / name).touch()
        folder = await open_folder(open_files(root))
        names = await folder.read_names(hidden=False, hide=())
        (root / "a").unlink()
        (root / "b").unlink()
        os.mkfifo(root / "b")
        entries = await folder.look_at(names.files, ())
        folder.close()
        assert [entry.name for entry in entries] == [b"c"]


class TestItsLife:
    async def test_no_descriptor_is_left(self, root: Path, open_files: Open) -> None:
        (root / "d").mkdir()
        for number in range(3):
            (root / "d" / str(number)).touch()
        files = open_files(root)
        folder = await open_folder(files, b"d")
        assert count_open(root) > 0
        await folder.read_names(hidden=False, hide=())
        folder.close()
        folder.close()
        assert count_open(root) == 0

    async def test_a_closed_one_answers_nothing(self, root: Path, open_files: Open) -> None:
        folder = await open_folder(open_files(root))
        folder.close()
        with pytest.raises(ValueError, match="closed"):
            await folder.find_version()

    async def test_a_call_that_still_runs_keeps_it_open(self, root: Path, open_files: Open) -> None:
        (root / "d").mkdir()
        folder = await open_folder(open_files(root), b"d")

        def look(opened: OpenFolder) -> int:
            folder.close()
            return opened.look().st_ino

        assert await folder.call(look) == (root / "d").stat().st_ino
        assert count_open(root) == 0

    async def test_a_disk_that_is_closed_is_an_error_of_the_disk(self, root: Path) -> None:
        disk = Disk()
        files = Files(root, disk=disk)
        folder = await open_folder(files)
        disk.close()
        with pytest.raises(OSError, match="closed"):
            await folder.find_version()
        folder.close()
        files.close()

    async def test_a_forbidden_one_is_refused(self, root: Path, open_files: Open) -> None:
        (root / "d").mkdir(mode=0)
        files = open_files(root)
        with without_privileges(), pytest.raises(Refused) as caught:
            await files.open_folder((b"d",))
        assert caught.value.status == 403

    @pytest.mark.parametrize("segments", [(b"absent",), (b"f",), (b".hidden",), (b"f", b"x")])
    async def test_what_is_no_folder_is_none(
        self, root: Path, open_files: Open, way: Way, segments: tuple[bytes, ...]
    ) -> None:
        (root / "f").touch()
        (root / ".hidden").mkdir()
        assert await open_files(root, way=way).open_folder(segments) is None

    async def test_a_single_file_has_no_folder(self, root: Path, open_files: Open) -> None:
        (root / "f").touch()
        assert await open_files(root / "f").open_folder(()) is None
