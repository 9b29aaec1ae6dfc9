from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioserve.content import files as files_module
from aioserve.content.disk import Disk
from aioserve.content.files import (
    Candidate,
    Files,
    Found,
    Kind,
    OpenFile,
    Refused,
    Symlinks,
    _find_best_way,
    _load_openat2,
    _Way,
)

HAS_OPENAT2 = _load_openat2() is not None
needs_openat2 = pytest.mark.skipif(not HAS_OPENAT2, reason="this kernel has no openat2")
BENEATH = pytest.param(_Way.BENEATH, id="beneath", marks=needs_openat2)
WALK = pytest.param(_Way.WALK, id="walk")
NAME = pytest.param(_Way.NAME, id="name")
each_way = pytest.mark.parametrize("way", [BENEATH, WALK, NAME])
each_safe_way = pytest.mark.parametrize("way", [BENEATH, WALK])

OUTSIDE = b"outside of the root"


def _open_descriptors() -> dict[str, str]:
    descriptors = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that lists them
    return descriptors


async def _settle(disk: Disk) -> None:
    """Until no call runs any more, nor one that was cancelled."""
    while disk._running:
        await asyncio.to_thread(disk._threads.submit(lambda: None).result)
        await asyncio.sleep(0)


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    """A disk; the test fails when it leaves a descriptor open."""
    before = _open_descriptors()
    disk = Disk()
    yield disk
    await _settle(disk)
    disk.close()
    assert _open_descriptors() == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


Open = Callable[..., Files]


@pytest.fixture
def open_files(disk: Disk) -> Iterator[Open]:
    """Makes Files that are closed after the test."""
    opened: list[Files] = []

    def open_files(root: Path, *, way: _Way | None = None, **options: object) -> Files:
        files = Files(root, disk=disk, **options)  # type: ignore[arg-type]
        files._way = way
        opened.append(files)
        return files

    yield open_files
    for files in opened:
        files.close()


def _segments(path: str | bytes) -> tuple[bytes, ...]:
    path = os.fsencode(path)
    return tuple(path.split(b"/")) if path else ()


def as_file(path: str | bytes) -> Candidate:
    return Candidate(_segments(path), Kind.FILE)


def as_folder(path: str | bytes) -> Candidate:
    return Candidate(_segments(path), Kind.FOLDER)


async def content_of(found: Found | None) -> bytes | None:
    """All bytes of what was found, which is closed; None when nothing was."""
    if found is None:
        return None
    variant = found.variant
    assert variant is not None
    try:
        if variant.handle.data is not None:
            assert len(variant.handle.data) == variant.size_bytes
            return variant.handle.data
        pieces = []
        for offset in range(0, variant.size_bytes, 65536):
            pieces.append(await variant.handle.read(offset, min(65536, variant.size_bytes - offset)))
        return b"".join(pieces)
    finally:
        variant.handle.close()


async def read(files: Files, path: str | bytes) -> bytes | None:
    return await content_of(await files.find([as_file(path)]))


@contextmanager
def running(script: str, *arguments: str | os.PathLike[str]) -> Iterator[None]:
    """Runs `script` beside the block, from its first printed line to the end of the block."""
    command = [sys.executable, "-c", script, *map(os.fspath, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


class TestWhatIsFound:
    async def test_a_small_file_comes_with_its_bytes_and_the_state_of_its_descriptor(
        self, root: Path, open_files: Open
    ) -> None:
        (root / "a.txt").write_bytes(b"content")
        os.utime(root / "a.txt", ns=(1, 1_700_000_000_123_456_789))
        candidate = as_file("a.txt")
        found = await open_files(root).find([candidate])
        assert found is not None
        assert found.candidate is candidate
        assert found.variant is not None
        assert found.variant.coding is None
        assert found.variant.size_bytes == 7
        assert found.variant.mtime_ns == 1_700_000_000_123_456_789
        assert found.variant.handle.data == b"content"
        assert await found.variant.handle.read(2, 3) == b"nte"
        found.variant.handle.close()

    @pytest.mark.parametrize("size", [0, 1, 99, 100])
    async def test_up_to_the_limit_a_file_is_read_when_it_is_found(
        self, root: Path, open_files: Open, size: int
    ) -> None:
        (root / "f").write_bytes(bytes(size))
        found = await open_files(root, small_bytes=100).find([as_file("f")])
        assert found is not None
        assert found.variant is not None
        assert found.variant.handle.data == bytes(size)

    async def test_a_larger_file_is_read_piece_by_piece(self, root: Path, open_files: Open) -> None:
        content = bytes(range(256)) * 1000
        (root / "f").write_bytes(content)
        found = await open_files(root, small_bytes=100).find([as_file("f")])
        assert found is not None
        assert found.variant is not None
        handle = found.variant.handle
        assert found.variant.size_bytes == len(content)
        assert handle.data is None
        assert await handle.read(0, 1000) == content[:1000]
        assert await handle.read(1001, 4) == content[1001:1005]
        assert await handle.read(len(content) - 3, 100) == content[-3:]
        assert await handle.read(len(content), 100) == b""
        handle.close()

    async def test_the_first_candidate_that_exists_and_is_of_its_kind_wins(
        self, root: Path, open_files: Open
    ) -> None:
        (root / "folder").mkdir()
        (root / "second").write_bytes(b"2")
        (root / "third").write_bytes(b"3")
        files = open_files(root)
        missing, second, third = as_file("first"), as_file("second"), as_file("third")
        found = await files.find([missing, as_file("folder"), as_folder("third"), second, third])
        assert found is not None
        assert found.candidate is second

    @each_way
    async def test_a_folder_is_found_without_a_variant(
        self, root: Path, open_files: Open, way: _Way
    ) -> None:
        (root / "folder").mkdir()
        for candidate in (as_folder("folder"), as_folder("")):
            assert await open_files(root, way=way).find([candidate]) == Found(candidate, None)

    async def test_without_candidates_there_is_nothing(self, root: Path, open_files: Open) -> None:
        assert await open_files(root).find([]) is None

    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    @pytest.mark.parametrize(
        "segments",
        [(b"..", b"outside"), (b"folder", b"..", b"..", b"outside"), (b"../outside",), (b"",), (b".",)]
        + [(b"folder", b""), (b"fold\0er",), (b"folder\0",), (b"..",), (b".well-known", b"..", b"..")],
    )
    async def test_segments_that_no_target_can_have_exist_nowhere(
        self, root: Path, open_files: Open, way: _Way, symlinks: Symlinks, segments: tuple[bytes, ...]
    ) -> None:
        (root / "folder").mkdir()
        (root / ".well-known").mkdir()
        (root.parent / "outside").write_bytes(OUTSIDE)
        files = open_files(root, way=way, symlinks=symlinks, hidden=True)
        assert await files.find([Candidate(segments, kind) for kind in Kind]) is None


class TestNames:
    @each_safe_way
    async def test_any_byte_that_a_name_can_hold_finds_its_file(
        self, root: Path, open_files: Open, way: _Way
    ) -> None:
        every_byte = bytes(byte for byte in range(1, 256) if byte != ord("/"))
        for name in (every_byte, b"\xff", b"a b%20c", "ünï—📁".encode(), b"x" * 255):
            (root / os.fsdecode(name)).write_bytes(name)
            assert await read(open_files(root, way=way), name) == name

    @each_way
    @pytest.mark.parametrize(
        "path",
        ["x" * 256, "x/" * 3000 + "x", "/".join(["y" * 255] * 20), "file/below", "nothing"],
        ids=["name too long", "too many folders", "path too long", "a file as a folder", "absent"],
    )
    async def test_names_that_cannot_exist_are_absent(
        self, root: Path, open_files: Open, way: _Way, path: str
    ) -> None:
        (root / "file").touch()
        files = open_files(root, way=way)
        assert await files.find([as_file(path), as_folder(path)]) is None

    @each_way
    @pytest.mark.parametrize(
        ("path", "hidden", "exists"),
        [
            pytest.param(".env", False, False, id="a dot file is hidden"),
            pytest.param(".git/config", False, False, id="a file in a dot folder is hidden"),
            pytest.param("folder/.env", False, False, id="a dot file in a folder is hidden"),
            pytest.param(".well-known/ok", False, True, id="well-known is public"),
            pytest.param(".well-known/.env", False, False, id="a dot file in well-known is hidden"),
            pytest.param("folder/.well-known/ok", False, False, id="well-known is at the top only"),
            pytest.param(".well-knownx/ok", False, False, id="a name that begins like well-known is hidden"),
            pytest.param(".env", True, True, id="hidden=True shows a dot file"),
            pytest.param("folder/.well-known/ok", True, True, id="hidden=True shows a dot folder"),
            pytest.param("...", True, True, id="hidden=True shows a name of three dots"),
        ],
    )
    async def test_hidden_names(
        self, root: Path, open_files: Open, way: _Way, path: str, hidden: bool, exists: bool
    ) -> None:
        if way is _Way.NAME and path.endswith("."):
            exists = False  # Windows strips the dots
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"here")
        assert await read(open_files(root, way=way, hidden=hidden), path) == (b"here" if exists else None)

    @pytest.mark.parametrize(
        "name",
        ["con", "NUL.txt", "aux .c", "Com1", "lpt9.tar.gz", "COM¹", "conin$", "clock$", "nul ."]
        + ["a:b", "a\\b", "file.txt::$DATA", "what?", "star*", 'quo"te', "a<b", "a>b", "a|b"]
        + ["a\tb", "a\x01", "end.", "end ", "PROGRA~1", "\udcff"],
    )
    async def test_where_only_names_are_checked_those_that_windows_reads_otherwise_are_absent(
        self, root: Path, open_files: Open, name: str
    ) -> None:
        (root / name).write_bytes(b"for another system")
        files = open_files(root, way=_Way.NAME)
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
        assert await read(open_files(root, way=_Way.NAME), name) == b"fine"


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
    pytest.param("out-private/secret.txt", None, None, OUTSIDE, id="a folder whose name begins like the root"),
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
    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    @pytest.mark.parametrize(("path", "none", "inside", "everywhere"), CONTAINMENT)
    async def test_a_link_leads_as_far_as_it_may(
        self,
        linked_tree: Path,
        open_files: Open,
        way: _Way,
        symlinks: Symlinks,
        path: str,
        none: bytes | str | None,
        inside: bytes | str | None,
        everywhere: bytes | str | None,
    ) -> None:
        expected = {Symlinks.NONE: none, Symlinks.INSIDE: inside, Symlinks.ALL: everywhere}[symlinks]
        if way is _Way.NAME and symlinks is Symlinks.INSIDE and everywhere is FILE:
            expected = everywhere  # there, only the end counts
        files = open_files(linked_tree / "root", way=way, symlinks=symlinks)
        found = await files.find([as_file(path), as_folder(path)])
        if found is not None and found.variant is None:
            assert expected == FOLDER
        else:
            assert await content_of(found) == expected

    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_the_root_itself_may_be_a_link(
        self, linked_tree: Path, tmp_path: Path, open_files: Open, way: _Way, symlinks: Symlinks
    ) -> None:
        (tmp_path / "root").symlink_to(linked_tree / "root")
        files = open_files(tmp_path / "root", way=way, symlinks=symlinks)
        assert await read(files, "file.txt") == FILE
        assert await read(files, "out-file") == (OUTSIDE if symlinks is Symlinks.ALL else None)

    @each_way
    async def test_an_absolute_link_may_name_the_root_as_the_user_did(
        self, tmp_path: Path, open_files: Open, way: _Way
    ) -> None:
        (tmp_path / "release").mkdir()
        (tmp_path / "release/file").write_bytes(FILE)
        (tmp_path / "release/link").symlink_to(tmp_path / "current/file")
        (tmp_path / "current").symlink_to("release")
        assert await read(open_files(tmp_path / "current", way=way), "link") == FILE

    @each_way
    async def test_a_root_that_is_named_with_dot_dot_is_the_folder_that_the_kernel_finds(
        self, linked_tree: Path, tmp_path: Path, open_files: Open, way: _Way
    ) -> None:
        (tmp_path / "link").symlink_to(linked_tree / "root/folder")
        files = open_files(tmp_path / "link" / "..", way=way)
        assert await read(files, "file.txt") == FILE
        assert await read(files, "absolute") == FILE

    @each_way
    async def test_a_relative_root_stays_when_the_working_folder_changes(
        self,
        linked_tree: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        open_files: Open,
        way: _Way,
    ) -> None:
        monkeypatch.setattr(files_module, "_ROOT_LOOK_S", 0)
        monkeypatch.chdir(linked_tree)
        files = open_files(Path("root"), way=way)
        monkeypatch.chdir(tmp_path)
        assert await read(files, "file.txt") == FILE
