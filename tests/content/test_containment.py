from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import itertools
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioserve.content import containment
from aioserve.content.containment import Root, Symlinks, Way, join_segments, open_named_file
from aioserve.content.disk import Disk
from aioserve.content.files import Candidate, Files, Found, Kind
from aioserve.content.openat2 import load_openat2
from tests.content.conftest import (
    BENEATH,
    HAS_OPENAT2,
    WALK,
    Open,
    as_file,
    as_folder,
    content_of,
    is_open,
    needs_at_once,
    needs_openat2,
    no_descriptor_left,
    open_descriptors,
    read,
    refusal,
    running,
    without_privileges,
)

T = TypeVar("T")

each_safe_way = pytest.mark.parametrize("way", [BENEATH, WALK])

OUTSIDE = b"outside of the root"


class TestNames:
    @pytest.mark.parametrize(
        "segments",
        [
            pytest.param((b"..",), id="up"),
            pytest.param((b"..", b"outside"), id="up and down"),
            pytest.param((b"folder", b"..", b"..", b"outside"), id="down, up, up and down"),
            pytest.param((b".well-known", b"..", b"..", b"outside"), id="up from well-known"),
            pytest.param((b"../outside",), id="a slash in a segment"),
            pytest.param((b".",), id="a dot"),
            pytest.param((b"",), id="an empty segment"),
            pytest.param((b"folder", b""), id="an empty last segment"),
            pytest.param((b"folder\0",), id="a NUL"),
        ],
    )
    async def test_segments_that_no_target_can_have_exist_nowhere(
        self, root: Path, open_files: Open, way: Way, segments: tuple[bytes, ...]
    ) -> None:
        (root / "folder").mkdir()
        (root / ".well-known").mkdir()
        (root.parent / "outside").write_bytes(OUTSIDE)
        for symlinks in Symlinks:
            files = open_files(root, way=way, symlinks=symlinks, hidden=True)
            assert await files.find([Candidate(segments, kind) for kind in Kind]) is None

    @each_safe_way
    async def test_any_byte_that_a_name_can_hold_finds_its_file(
        self, root: Path, open_files: Open, way: Way
    ) -> None:
        every_byte = bytes(byte for byte in range(1, 256) if byte != ord("/"))
        for name in (every_byte, b"\xff", b"a b%20c", "ünï—📁".encode(), b"x" * 255):
            (root / os.fsdecode(name)).write_bytes(name)
            assert await read(open_files(root, way=way), name) == name

    @pytest.mark.parametrize(
        "path",
        ["x" * 256, "x/" * 3000 + "x", "/".join(["y" * 255] * 20), "file/below", "nothing"],
        ids=["name too long", "too many folders", "path too long", "a file as a folder", "absent"],
    )
    async def test_names_that_cannot_exist_are_absent(
        self, root: Path, open_files: Open, way: Way, path: str
    ) -> None:
        (root / "file").touch()
        files = open_files(root, way=way)
        assert await files.find([as_file(path), as_folder(path)]) is None

    @pytest.mark.parametrize(
        "name",
        [
            *("con", "NUL.txt", "aux .c", "Com1", "lpt9.tar.gz", "COM¹", "conin$", "clock$", "nul ."),
            *("a:b", "a\\b", "file.txt::$DATA", "what?", "star*", 'quo"te', "a<b", "a>b", "a|b"),
            *("a\tb", "a\x01", "end.", "end ", "PROGRA~1", "\udcff"),
        ],
    )
    async def test_where_only_names_are_checked_those_that_windows_reads_otherwise_are_absent(
        self, root: Path, open_files: Open, name: str
    ) -> None:
        (root / name).write_bytes(b"for another system")
        files = open_files(root, way=Way.NAME)
        assert await read(files, name) is None
        (root / "folder").mkdir()
        (root / "folder" / name).write_bytes(b"for another system")
        assert await read(files, f"folder/{name}") is None

    @pytest.mark.parametrize(
        "name", ["console", "nul1.txt", "com", "com10", "auxiliary.js", "a~b", "a.b c.d", "ü"]
    )
    async def test_where_only_names_are_checked_similar_ones_are_served(
        self, root: Path, open_files: Open, name: str
    ) -> None:
        (root / name).write_bytes(b"fine")
        assert await read(open_files(root, way=Way.NAME), name) == b"fine"


# What each link of the tree says; {base} holds root, root-private and outside.txt.
LINKS = {
    "to-file": "file.txt",
    "to-folder": "folder",
    "to-folder-slash": "folder/",
    "to-folder-dots": ".//folder/.",
    "to-file-slash": "file.txt/",
    "to-file-dot": "file.txt/.",
    "to-file-up": "file.txt/../file.txt",
    "to-self": ".",
    "folder/up": "..",
    "folder/up-and-down": "../file.txt",
    "folder/too-far": "../../outside.txt",
    "folder/deep/down-and-up": "../deep/../../folder/inner.txt",
    "through-a-link": "to-deep/../inner.txt",
    "to-deep": "folder/deep",
    "absolute": "{base}/root/file.txt",
    "absolute-folder": "{base}/root/folder",
    "absolute-root": "{base}/root",
    "absolute-root-slash": "{base}/root/",
    "absolute-untidy": "/{base}/./root//folder/./inner.txt",
    "absolute-by-way-of-outside": "{base}/root/../root/file.txt",
    "folder/absolute": "{base}/root/folder/deep/../inner.txt",
    "out-file": "../outside.txt",
    "out-folder": "../root-private",
    "out-absolute": "{base}/outside.txt",
    "out-private": "{base}/root-private",
    "out-root-name": "../root/file.txt",
    "out-top": "/",
    "up": "..",
    "chain": "chain-2",
    "chain-2": "folder/chain-3",
    "folder/chain-3": "../absolute",
    "bad-chain": "folder/bad-chain-2",
    "folder/bad-chain-2": "../out-file",
    "out-and-back": "../back",
    "loop": "loop",
    "loop-a": "loop-b",
    "loop-b": "folder/loop-c",
    "folder/loop-c": "../loop-a",
    "dangling": "nothing",
    "magic": "/proc/self/root{base}/outside.txt",
    "magic-inside": "/proc/self/root{base}/root/file.txt",
    **{f"long-{number}": f"long-{number + 1}" for number in range(1, 41)},
    "long-41": "file.txt",
}

FILE, INNER, DEEPEST, FOLDER = b"the file", b"the inner file", b"the deepest file", "a folder"


@pytest.fixture(scope="module")
def linked_tree() -> Iterator[Path]:
    """A folder with a root full of links, and what they may lead to beside it."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(os.path.realpath(name))
        (base / "root/folder/deep").mkdir(parents=True)
        (base / "root/file.txt").write_bytes(FILE)
        (base / "root/folder/inner.txt").write_bytes(INNER)
        (base / "root/folder/deep/deepest.txt").write_bytes(DEEPEST)
        (base / "root-private").mkdir()
        (base / "root-private/secret.txt").write_bytes(OUTSIDE)
        (base / "outside.txt").write_bytes(OUTSIDE)
        (base / "back").symlink_to("root/file.txt")
        for link, target in LINKS.items():
            (base / "root" / link).symlink_to(target.format(base=base))
        yield base


# path, then what it is when links are not followed, followed inside, and followed wherever they lead
CONTAINMENT = [
    pytest.param("file.txt", FILE, FILE, FILE, id="a file"),
    pytest.param("folder/deep/deepest.txt", DEEPEST, DEEPEST, DEEPEST, id="a file in folders"),
    pytest.param("folder", FOLDER, FOLDER, FOLDER, id="a folder"),
    pytest.param("", FOLDER, FOLDER, FOLDER, id="the root itself"),
    pytest.param("file.txt/inner.txt", None, None, None, id="a file is no folder"),
    pytest.param("to-file", None, FILE, FILE, id="a link to a file"),
    pytest.param("to-file/inner.txt", None, None, None, id="a link to a file is no folder"),
    pytest.param("to-folder", None, FOLDER, FOLDER, id="a link to a folder"),
    pytest.param("to-folder/inner.txt", None, INNER, INNER, id="a file behind a link to a folder"),
    pytest.param("to-folder-slash", None, FOLDER, FOLDER, id="a link that ends in a slash"),
    pytest.param("to-folder-slash/inner.txt", None, INNER, INNER, id="a file behind a link with a slash"),
    pytest.param("to-folder-dots/inner.txt", None, INNER, INNER, id="a link with empty parts and dots"),
    pytest.param("to-file-slash", None, None, None, id="a link with a slash to a file leads nowhere"),
    pytest.param("to-file-dot", None, None, None, id="a link with a dot below a file leads nowhere"),
    pytest.param("to-file-up", None, None, None, id="a link up from a file leads nowhere"),
    pytest.param("to-self", None, FOLDER, FOLDER, id="a link to its own folder"),
    pytest.param("to-self/to-self/file.txt", None, FILE, FILE, id="a link to its own folder, twice"),
    pytest.param("folder/up", None, FOLDER, FOLDER, id="a link up to the root"),
    pytest.param("folder/up/file.txt", None, FILE, FILE, id="a file behind a link up to the root"),
    pytest.param("folder/up-and-down", None, FILE, FILE, id="a link up and down"),
    pytest.param("folder/too-far", None, None, OUTSIDE, id="a link up beyond the root"),
    pytest.param("folder/deep/down-and-up", None, INNER, INNER, id="a link up, down, up, up and down"),
    pytest.param("through-a-link", None, INNER, INNER, id="up from where a link led to"),
    pytest.param("absolute", None, FILE, FILE, id="an absolute link inside"),
    pytest.param("absolute-folder/inner.txt", None, INNER, INNER, id="an absolute link to a folder inside"),
    pytest.param("absolute-root", None, FOLDER, FOLDER, id="an absolute link to the root"),
    pytest.param("absolute-root/file.txt", None, FILE, FILE, id="a file behind an absolute link to the root"),
    pytest.param("absolute-root-slash/file.txt", None, FILE, FILE, id="an absolute link with a slash"),
    pytest.param("absolute-untidy", None, INNER, INNER, id="an absolute link with empty parts and dots"),
    pytest.param("folder/absolute", None, INNER, INNER, id="an absolute link from inside a folder"),
    pytest.param("out-file", None, None, OUTSIDE, id="a link to a file outside"),
    pytest.param("out-folder", None, None, FOLDER, id="a link to a folder outside"),
    pytest.param("out-folder/secret.txt", None, None, OUTSIDE, id="a file behind a link to a folder outside"),
    pytest.param("out-absolute", None, None, OUTSIDE, id="an absolute link outside"),
    pytest.param(
        "out-private/secret.txt", None, None, OUTSIDE, id="a folder whose name begins like the root"
    ),
    pytest.param("out-top", None, None, FOLDER, id="a link to the top of the file system"),
    pytest.param("up", None, None, FOLDER, id="a link from the root upwards"),
    pytest.param("up/outside.txt", None, None, OUTSIDE, id="a file behind a link from the root upwards"),
    pytest.param("to-folder/up/up/outside.txt", None, None, OUTSIDE, id="links that climb together"),
    pytest.param("chain", None, FILE, FILE, id="a chain of links inside"),
    pytest.param("bad-chain", None, None, OUTSIDE, id="a chain of links that ends outside"),
    pytest.param("loop", None, None, None, id="a link to itself"),
    pytest.param("loop-a", None, None, None, id="links in a circle"),
    pytest.param("loop/file.txt", None, None, None, id="a file behind a link to itself"),
    pytest.param("dangling", None, None, None, id="a link to nothing"),
    pytest.param("long-2", None, FILE, FILE, id="forty links"),
    pytest.param("long-1", None, None, None, id="forty-one links"),
    pytest.param("magic", None, None, OUTSIDE, id="a link through /proc"),
    pytest.param("magic-inside", None, None, FILE, id="a link through /proc that comes back"),
    # Inside in the end, but not all the way: a name outside decides where they lead.
    pytest.param("out-and-back", None, None, FILE, id="a link out that comes back"),
    pytest.param("out-root-name", None, None, FILE, id="a link out and in by the name of the root"),
    pytest.param("absolute-by-way-of-outside", None, None, FILE, id="an absolute link by way of outside"),
]


class TestContainment:
    @pytest.mark.parametrize(("path", "none", "inside", "everywhere"), CONTAINMENT)
    async def test_a_link_leads_as_far_as_it_may(
        self,
        linked_tree: Path,
        open_files: Open,
        way: Way,
        path: str,
        none: bytes | str | None,
        inside: bytes | str | None,
        everywhere: bytes | str | None,
    ) -> None:
        if way is Way.NAME and everywhere is FILE:
            inside = everywhere  # there, only the end counts
        expected = {Symlinks.NONE: none, Symlinks.INSIDE: inside, Symlinks.ALL: everywhere}
        for symlinks in Symlinks:
            files = open_files(linked_tree / "root", way=way, symlinks=symlinks)
            found = await files.find([as_file(path), as_folder(path)])
            is_folder = found is not None and found.variant is None
            assert (FOLDER if is_folder else await content_of(found)) == expected[symlinks], symlinks

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_the_root_itself_may_be_a_link(
        self, linked_tree: Path, tmp_path: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        (tmp_path / "root").symlink_to(linked_tree / "root")
        files = open_files(tmp_path / "root", way=way, symlinks=symlinks)
        assert await read(files, "file.txt") == FILE
        assert await read(files, "out-file") == (OUTSIDE if symlinks is Symlinks.ALL else None)

    async def test_an_absolute_link_may_name_the_root_as_the_user_did(
        self, tmp_path: Path, open_files: Open, way: Way
    ) -> None:
        (tmp_path / "release").mkdir()
        (tmp_path / "release/file").write_bytes(FILE)
        (tmp_path / "release/link").symlink_to(tmp_path / "current/file")
        (tmp_path / "current").symlink_to("release")
        assert await read(open_files(tmp_path / "current", way=way), "link") == FILE

    async def test_a_root_that_is_named_with_dot_dot_is_the_folder_that_the_kernel_finds(
        self, linked_tree: Path, tmp_path: Path, open_files: Open, way: Way
    ) -> None:
        (tmp_path / "link").symlink_to(linked_tree / "root/folder")
        files = open_files(tmp_path / "link" / "..", way=way)
        assert await read(files, "file.txt") == FILE
        assert await read(files, "absolute") == FILE

    async def test_a_relative_root_stays_when_the_working_folder_changes(
        self,
        linked_tree: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        open_files: Open,
        way: Way,
    ) -> None:
        monkeypatch.chdir(linked_tree)
        always = itertools.count(step=60).__next__  # a minute passes between any two looks at the clock
        files = open_files(Path("root"), way=way, clock=always)
        monkeypatch.chdir(tmp_path)
        assert await read(files, "file.txt") == FILE


class TestTheRoot:
    def test_what_is_no_folder_is_no_root(self, root: Path, way: Way) -> None:
        (root / "file").touch()
        with pytest.raises(NotADirectoryError):
            Root(os.fsencode(root / "file"), symlinks=Symlinks.ALL, way=way)

    def test_it_is_named_while_its_name_leads_to_the_same_folder(self, root: Path, way: Way) -> None:
        (root.parent / "current").symlink_to("root")
        name = os.fsencode(root.parent / "current")
        held = Root(name, symlinks=Symlinks.NONE, way=way)
        assert held.is_named(name)
        assert not held.is_named(os.fsencode(root.parent))
        (root.parent / "current").unlink()
        with pytest.raises(FileNotFoundError):
            held.is_named(name)
        held.drop()

    def test_its_descriptor_is_closed_by_the_last_user(self, root: Path) -> None:
        held = Root(os.fsencode(root), symlinks=Symlinks.INSIDE, way=Way.WALK)
        held.users += 1
        held.drop()
        assert is_open(root)
        held.drop()
        assert not is_open(root)


class TestOpenNamedFile:
    def test_links_are_followed_wherever_they_lead(self, linked_tree: Path) -> None:
        descriptor = open_named_file(os.fsencode(linked_tree / "root/out-file"))
        assert os.read(descriptor, 100) == OUTSIDE
        os.close(descriptor)

    def test_a_file_without_permission_is_forbidden_and_a_fifo_is_absent(self, public_root: Path) -> None:
        (public_root / "file").touch(0o000)
        os.mkfifo(public_root / "fifo", 0o000)
        with without_privileges():
            with pytest.raises(PermissionError):
                open_named_file(os.fsencode(public_root / "file"))
            with pytest.raises(FileNotFoundError):
                open_named_file(os.fsencode(public_root / "fifo"))


class TestThingsThatAreNoFiles:
    @pytest.mark.parametrize("symlinks", [Symlinks.INSIDE, Symlinks.ALL])
    async def test_a_fifo_is_absent_and_never_blocks(
        self, root: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        os.mkfifo(root / "fifo")
        (root / "link").symlink_to("fifo")
        files = open_files(root, way=way, symlinks=symlinks)
        for path in ("fifo", "link"):
            assert await files.find([as_file(path), as_folder(path)]) is None

    async def test_a_socket_is_absent(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open, way: Way
    ) -> None:
        monkeypatch.chdir(root)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            listener.listen()
            assert await open_files(root, way=way).find([as_file("socket"), as_folder("socket")]) is None

    async def test_a_device_is_absent(self, root: Path, open_files: Open, way: Way) -> None:
        (root / "null").symlink_to("/dev/null")
        files = open_files(root, way=way, symlinks=Symlinks.ALL)
        assert await files.find([as_file("null"), as_folder("null")]) is None


class TestForbiddenAndFailing:
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_file_without_permission_is_forbidden(
        self, public_root: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        (public_root / "file").touch(0o000)
        (public_root / "folder").mkdir(0o755)
        (public_root / "folder/file").touch(0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await refusal(files, as_file("file"), as_folder("file")) == 403
            assert await refusal(files, as_file("folder/file")) == 403

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_below_a_folder_that_may_not_be_entered_everything_is_forbidden(
        self, public_root: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        (public_root / "folder").mkdir()
        (public_root / "folder/file").touch(0o644)
        (public_root / "folder").chmod(0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await refusal(files, as_file("folder/file")) == 403
            assert await refusal(files, as_file("folder/nothing")) == 403
            assert await refusal(files, as_folder("folder/nothing")) == 403

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_folder_that_may_be_entered_but_not_read_is_one_all_the_same(
        self, public_root: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        (public_root / "folder").mkdir()
        (public_root / "folder/file").write_bytes(b"to be read")
        (public_root / "folder/file").chmod(0o644)
        (public_root / "folder").chmod(0o111)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            folder = as_folder("folder")
            assert await files.find([as_file("folder"), folder]) == Found(folder, None)
            assert await read(files, "folder/file") == b"to be read"

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_fifo_without_permission_is_absent_like_any_other(
        self, public_root: Path, open_files: Open, way: Way, symlinks: Symlinks
    ) -> None:
        os.mkfifo(public_root / "fifo", 0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await files.find([as_file("fifo"), as_folder("fifo")]) is None

    async def test_without_descriptors_the_answer_is_later_and_not_absent(
        self, linked_tree: Path, open_files: Open, way: Way
    ) -> None:
        files = open_files(linked_tree / "root", way=way)
        # Started before, with all that they import.
        assert await read(files, "folder/inner.txt") == INNER
        with no_descriptor_left():
            assert await refusal(files, as_file("folder/inner.txt")) == 503
            assert await refusal(files, as_file("absolute")) == 503
        assert await read(files, "folder/inner.txt") == INNER

    @each_safe_way
    async def test_a_file_that_another_program_has_leased_is_for_later(
        self, root: Path, open_files: Open, way: Way
    ) -> None:
        (root / "leased").write_bytes(b"content")
        files = open_files(root, way=way)
        usual = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            with (root / "leased").open("r+b") as leased:
                fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                assert await refusal(files, as_file("leased")) == 503
            assert await read(files, "leased") == b"content"
        finally:
            signal.signal(signal.SIGIO, usual)

    async def test_a_link_that_the_disk_cannot_give_is_for_later(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        def fail(*_: object, **__: object) -> bytes:
            raise OSError(errno.EIO, "made up")

        files = open_files(linked_tree / "root", way=Way.WALK)
        with monkeypatch.context() as patched:
            patched.setattr(os, "readlink", fail)
            assert await refusal(files, as_file("to-file")) == 503


# Exchanges two names in one step, again and again.
_EXCHANGE = """
import ctypes, os, sys
exchange = ctypes.CDLL(None, use_errno=True).renameat2
first, second = (os.fsencode(name) for name in sys.argv[1:])
print("ready", flush=True)
while True:
    if exchange(-100, first, -100, second, 2):
        raise OSError(ctypes.get_errno(), "renameat2")
"""
# In two ways for each of the two that could lead outside: more than 10,000 in all.
_FINDS = 2600


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"), reason="cannot exchange two names at once")
class TestNamesThatAreExchanged:
    async def _find_many(
        self, files: Files, path: str, expected: set[bytes | None], finds: int = _FINDS // 4
    ) -> None:
        """Finds `path` so often, and until everything that is `expected` was seen; nothing else may be."""
        seen: set[bytes | None] = set()
        count = 0
        while count < finds or seen != expected:
            answers = await asyncio.gather(*(read(files, path) for _ in range(20)))
            seen.update(answers)
            count += len(answers)
            assert seen <= expected

    @each_safe_way
    async def test_a_file_and_a_link_outside(self, root: Path, open_files: Open, way: Way) -> None:
        (root.parent / "outside").write_bytes(OUTSIDE)
        (root / "page").write_bytes(FILE)
        (root / "link").symlink_to("../outside")
        with running(_EXCHANGE, root / "page", root / "link"):
            await self._find_many(open_files(root, way=way), "page", {FILE, None}, _FINDS)

    @each_safe_way
    async def test_a_folder_and_a_link_outside(self, root: Path, open_files: Open, way: Way) -> None:
        (root.parent / "outside").mkdir()
        (root.parent / "outside/page").write_bytes(OUTSIDE)
        (root / "folder").mkdir()
        (root / "folder/page").write_bytes(FILE)
        (root / "link").symlink_to("../outside")
        with running(_EXCHANGE, root / "folder", root / "link"):
            await self._find_many(open_files(root, way=way), "folder/page", {FILE, None}, _FINDS)

    @each_safe_way
    async def test_a_folder_that_moves_up_while_a_link_in_it_climbs(
        self, root: Path, open_files: Open, way: Way
    ) -> None:
        (root.parent / "file").write_bytes(OUTSIDE)
        (root / "file").write_bytes(FILE)
        for folder in ("low/moving", "moving"):
            (root / folder).mkdir(parents=True)
            (root / folder / "link").symlink_to("../../file")
        with running(_EXCHANGE, root / "low/moving", root / "moving"):
            await self._find_many(open_files(root, way=way), "low/moving/link", {FILE})

    @each_safe_way
    async def test_a_file_and_a_link_inside_are_both_always_found(
        self, root: Path, open_files: Open, way: Way
    ) -> None:
        (root / "page").write_bytes(FILE)
        (root / "other").write_bytes(INNER)
        (root / "link").symlink_to("other")
        with running(_EXCHANGE, root / "page", root / "link"):
            await self._find_many(open_files(root, way=way), "page", {FILE, INNER})

    async def test_a_file_and_a_fifo(self, root: Path, open_files: Open, way: Way) -> None:
        (root / "page").write_bytes(FILE)
        os.mkfifo(root / "fifo")
        with running(_EXCHANGE, root / "page", root / "fifo"):
            await self._find_many(open_files(root, way=way), "page", {FILE, None})


class TestWhatTheSystemOffers:
    @needs_openat2
    async def test_openat2_is_asked_where_it_exists(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        openat2 = load_openat2()
        assert openat2 is not None
        asked = []

        def note(folder: int, path: bytes, flags: int, resolve: int) -> int:
            asked.append(path)
            return openat2(folder, path, flags, resolve)

        monkeypatch.setattr(containment, "load_openat2", lambda: note)
        assert await read(open_files(linked_tree / "root"), "folder/inner.txt") == INNER
        assert asked == [b"folder/inner.txt"]

    async def test_a_kernel_without_openat2_gets_the_walk(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(containment, "load_openat2", lambda: None)
        monkeypatch.setattr(containment, "load_at_once", lambda: None)
        files = open_files(linked_tree / "root")
        assert await read(files, "to-file") == FILE
        assert await files.find([as_file("out-file")]) is None

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
    async def test_when_openat2_is_forbidden_later_the_walk_goes_on(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open, number: int
    ) -> None:
        def forbidden(*_: object) -> int:
            raise OSError(number, "made up")

        files = open_files(linked_tree / "root")
        assert await read(files, "to-file") == FILE
        monkeypatch.setattr(containment, "load_openat2", lambda: forbidden)
        assert await read(files, "to-file") == FILE
        assert await files.find([as_file("out-file")]) is None

    async def test_without_open_in_a_folder_names_are_checked(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(os, "supports_dir_fd", set())
        before = open_descriptors()
        files = open_files(linked_tree / "root")
        assert open_descriptors() == before
        assert await read(files, "to-folder/inner.txt") == INNER
        assert await files.find([as_file("out-file")]) is None
        folder = as_folder("to-folder")
        assert await files.find([as_file("to-folder"), folder]) == Found(folder, None)


@needs_at_once
class TestWithoutWaiting:
    def open_root(self, path: Path, symlinks: Symlinks, way: Way = Way.BENEATH) -> Root:
        root = Root(os.fsencode(path), symlinks=symlinks, way=way)
        root.load_at_once()
        return root

    @pytest.mark.parametrize(("path", "none", "inside", "everywhere"), CONTAINMENT)
    def test_it_leads_as_far_as_with_waiting_or_says_that_it_has_to_wait(
        self,
        linked_tree: Path,
        path: str,
        none: bytes | str | None,
        inside: bytes | str | None,
        everywhere: bytes | str | None,
    ) -> None:
        segments = as_file(path).segments
        for symlinks, expected in zip(Symlinks, (none, inside, everywhere), strict=True):
            root = self.open_root(linked_tree / "root", symlinks)
            # Following a link may be a change of it: it is known when it was last followed.
            with suppress(OSError):
                os.close(root.open_file(segments))
            found = until_decided(partial(self._read, root, segments))
            assert found in (expected, WAITS), symlinks
            is_folder = until_decided(partial(root.has_folder_at_once, segments))
            assert is_folder in (True if expected == FOLDER else None, WAITS), symlinks
            root.drop()

    def _read(self, root: Root, segments: tuple[bytes, ...]) -> bytes | str:
        descriptor = root.open_file_at_once(segments)
        try:
            return FOLDER if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.read(descriptor, 100)
        finally:
            os.close(descriptor)

    @pytest.mark.parametrize("symlinks", Symlinks)
    @pytest.mark.parametrize(("path", "none", "inside", "everywhere"), CONTAINMENT)
    def test_a_look_meets_no_link_whatever_may_be_followed(
        self,
        linked_tree: Path,
        symlinks: Symlinks,
        path: str,
        none: bytes | str | None,
        inside: bytes | str | None,
        everywhere: bytes | str | None,
    ) -> None:
        root = self.open_root(linked_tree / "root", symlinks)
        status = until_decided(lambda: root.look_at_once(join_segments(as_file(path).segments)))
        if none is None:
            assert status in (None, WAITS)
        else:
            assert status == os.lstat(linked_tree / "root" / path)
        root.drop()

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("file.txt", FILE),
            ("folder", FOLDER),
            ("folder/deep/deepest.txt", DEEPEST),
            ("to-folder/inner.txt", INNER),
            ("nothing", None),
            ("folder/nothing", None),
            ("nothing/nothing", None),
        ],
    )
    def test_what_it_need_not_wait_for(
        self, linked_tree: Path, path: str, expected: bytes | str | None
    ) -> None:
        root = self.open_root(linked_tree / "root", Symlinks.INSIDE)
        segments = as_file(path).segments
        with suppress(OSError):
            os.close(root.open_file(segments))
        assert until_decided(partial(self._read, root, segments)) == expected
        root.drop()

    def test_what_it_looked_at_is_not_left_open(self, linked_tree: Path) -> None:
        root = self.open_root(linked_tree / "root", Symlinks.INSIDE)
        before = open_descriptors()
        for path in ("file.txt", "folder", "to-file", "nothing"):
            until_decided(partial(root.look_at_once, join_segments(as_file(path).segments)))
            until_decided(partial(root.has_folder_at_once, as_file(path).segments))
        assert open_descriptors() == before
        root.drop()

    def test_a_file_that_cannot_be_read_can_be_looked_at(self, public_root: Path) -> None:
        (public_root / "secret").touch(0o000)
        root = self.open_root(public_root, Symlinks.INSIDE)
        with without_privileges():
            assert until_decided(lambda: root.look_at_once(b"secret")) == (public_root / "secret").stat()
        root.drop()

    def test_whether_it_is_a_file_that_is_forbidden_takes_a_second_question(self, public_root: Path) -> None:
        (public_root / "secret").touch(0o000)
        (public_root / "closed/folder").mkdir(parents=True)
        (public_root / "closed").chmod(0o000)
        root = self.open_root(public_root, Symlinks.INSIDE)
        with without_privileges():
            for _ in range(100):
                with pytest.raises(BlockingIOError):
                    root.open_file_at_once((b"secret",))
                with pytest.raises(BlockingIOError):
                    root.has_folder_at_once((b"closed", b"folder"))
        root.drop()

    @pytest.mark.parametrize("segments", [(b"..",), (b"a/b",), (b"",), (b".",), (b"a\0",)])
    def test_segments_that_no_target_can_have_are_not_asked_for(
        self, root: Path, segments: tuple[bytes, ...]
    ) -> None:
        held = self.open_root(root, Symlinks.ALL)
        for ask in (held.open_file_at_once, held.has_folder_at_once, join_segments):
            with pytest.raises(FileNotFoundError):
                ask(segments)
        held.drop()

    def test_it_is_named_while_its_name_leads_to_the_same_folder(self, root: Path) -> None:
        (root.parent / "current").symlink_to("root")
        name = os.fsencode(root.parent / "current")
        held = self.open_root(root.parent / "current", Symlinks.NONE)
        before = open_descriptors()
        assert any(held.is_named_at_once(name) for _ in range(100))
        assert not held.is_named_at_once(os.fsencode(root.parent))
        (root.parent / "current").unlink()
        assert not held.is_named_at_once(name)
        assert open_descriptors() == before
        held.drop()

    @pytest.mark.parametrize("way", [Way.WALK, Way.NAME])
    def test_the_other_ways_always_wait(self, root: Path, way: Way) -> None:
        self.check_that_it_waits(self.open_root(root, Symlinks.INSIDE, way), root)

    def test_it_waits_until_it_is_loaded(self, root: Path) -> None:
        self.check_that_it_waits(Root(os.fsencode(root), symlinks=Symlinks.INSIDE), root)

    @pytest.mark.parametrize("symlinks", Symlinks)
    def test_a_kernel_that_cannot_promise_not_to_wait_is_not_asked(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, symlinks: Symlinks
    ) -> None:
        monkeypatch.setattr(containment, "load_at_once", lambda: None)
        self.check_that_it_waits(self.open_root(root, symlinks), root)

    def check_that_it_waits(self, held: Root, path: Path) -> None:
        for ask in (held.open_file_at_once, held.has_folder_at_once):
            with pytest.raises(BlockingIOError):
                ask(())
        with pytest.raises(BlockingIOError):
            held.look_at_once(b".")
        assert not held.is_named_at_once(os.fsencode(path))
        held.drop()


WAITS = "it has to wait"


def until_decided(function: Callable[[], T]) -> T | str | None:
    """What `function` gives; None when nothing is there, WAITS when it always would have to wait.

    The kernel may say so of anything, while names change anywhere on the machine.
    """
    for _ in range(100):
        try:
            return function()
        except BlockingIOError:
            continue
        except OSError:
            return None
    return WAITS


_NAMES = [b"a", b"b", b"c d", b"%41", b"\xff\xfe", "ü".encode(), b".hidden", b".well-known"]
_name = st.sampled_from(_NAMES)
_target = st.lists(st.sampled_from([*_NAMES, b"..", b"..", b".", b"", b"outside", b"root"]), max_size=5)
_entry: st.SearchStrategy[tuple[str, list[bytes]]] = st.one_of(
    st.tuples(st.just("file"), st.just([])),
    st.tuples(st.just("folder"), st.just([])),
    st.tuples(st.just("fifo"), st.just([])),
    st.tuples(st.sampled_from(["link", "link in", "link out"]), _target),
)
_tree = st.lists(st.tuples(st.integers(0, 20), _name, _entry), max_size=25)
_request = st.lists(_name, max_size=5).map(tuple)


def _plant(top: bytes, tree: list[tuple[int, bytes, tuple[str, list[bytes]]]], base: bytes) -> None:
    """Makes the tree below `top`; every file says where it stands."""
    folders = [top]
    for place, name, (kind, target) in tree:
        path = os.path.join(folders[place % len(folders)], name)
        if os.path.lexists(path):
            continue
        text = b"/".join(target)
        match kind:
            case "file":
                Path(os.fsdecode(path)).write_bytes(path)
            case "folder":
                os.mkdir(path)
                folders.append(path)
            case "fifo":
                os.mkfifo(path)
            case "link":
                os.symlink(text.lstrip(b"/") or b".", path)
            case "link in":
                os.symlink(base + b"/root/" + text, path)
            case "link out":
                os.symlink(base + b"/outside/" + text, path)


class TestRandomTrees:
    @settings(max_examples=150)
    @given(
        tree=_tree,
        outside=_tree,
        requests=st.lists(_request, min_size=1, max_size=12),
        symlinks=st.sampled_from([Symlinks.NONE, Symlinks.INSIDE]),
        hidden=st.booleans(),
    )
    def test_only_files_below_the_root_are_found_and_every_way_finds_the_same(
        self,
        tree: list[tuple[int, bytes, tuple[str, list[bytes]]]],
        outside: list[tuple[int, bytes, tuple[str, list[bytes]]]],
        requests: list[tuple[bytes, ...]],
        symlinks: Symlinks,
        hidden: bool,
    ) -> None:
        with tempfile.TemporaryDirectory() as name:
            base = os.path.realpath(os.fsencode(name))
            for top, entries in ((b"/root", tree), (b"/outside", outside)):
                os.mkdir(base + top)
                _plant(base + top, entries, base)
            asyncio.run(self._check(base, requests, symlinks, hidden))

    async def _check(
        self, base: bytes, requests: list[tuple[bytes, ...]], symlinks: Symlinks, hidden: bool
    ) -> None:
        disk = Disk(threads=1)
        for segments in requests:
            candidates = [Candidate(segments, kind) for kind in Kind]
            answers = []
            for way in (Way.BENEATH, Way.WALK) if HAS_OPENAT2 else (Way.WALK,):
                files = Files(
                    os.fsdecode(base + b"/root"),
                    symlinks=symlinks,
                    hidden=hidden,
                    disk=disk,
                    small_bytes=1,
                    way=way,
                )
                found = await files.find(candidates)
                files.close()
                is_folder = found is not None and found.variant is None
                answers.append("a folder" if is_folder else await content_of(found))
            assert len(set(answers)) == 1
            self._check_answer(base, segments, symlinks, answers[0])
        disk.close()

    def _check_answer(
        self, base: bytes, segments: tuple[bytes, ...], symlinks: Symlinks, answer: bytes | str | None
    ) -> None:
        path = os.path.join(base, b"root", *segments)
        real = os.path.realpath(path)
        if answer == "a folder":
            assert os.path.isdir(path)
        elif isinstance(answer, bytes):
            assert answer == real  # which is what the file says
        if answer is not None:
            assert os.path.commonpath([base + b"/root", real]) == base + b"/root"
            assert symlinks is Symlinks.INSIDE or real == os.path.normpath(path)
