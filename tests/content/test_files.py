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
import time
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
        size = variant.size_bytes
        offsets = range(0, size, 65536)
        return b"".join([await variant.handle.read(offset, min(65536, size - offset)) for offset in offsets])
    finally:
        variant.handle.close()


async def read(files: Files, path: str | bytes) -> bytes | None:
    return await content_of(await files.find([as_file(path)]))


@contextmanager
def running(script: str, *arguments: str | os.PathLike[str]) -> Iterator[None]:
    """Runs `script` beside the block, from its first printed line to the end of the block."""
    command = [sys.executable, "-c", script, *(os.fspath(argument) for argument in arguments)]
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
    async def test_a_folder_is_found_without_a_variant(self, root: Path, open_files: Open, way: _Way) -> None:
        (root / "folder").mkdir()
        for candidate in (as_folder("folder"), as_folder("")):
            assert await open_files(root, way=way).find([candidate]) == Found(candidate, None)

    async def test_without_candidates_there_is_nothing(self, root: Path, open_files: Open) -> None:
        assert await open_files(root).find([]) is None

    @each_way
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
        self, root: Path, open_files: Open, way: _Way, segments: tuple[bytes, ...]
    ) -> None:
        (root / "folder").mkdir()
        (root / ".well-known").mkdir()
        (root.parent / "outside").write_bytes(OUTSIDE)
        for symlinks in Symlinks:
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
    @each_way
    @pytest.mark.parametrize(("path", "none", "inside", "everywhere"), CONTAINMENT)
    async def test_a_link_leads_as_far_as_it_may(
        self,
        linked_tree: Path,
        open_files: Open,
        way: _Way,
        path: str,
        none: bytes | str | None,
        inside: bytes | str | None,
        everywhere: bytes | str | None,
    ) -> None:
        if way is _Way.NAME and everywhere is FILE:
            inside = everywhere  # there, only the end counts
        expected = {Symlinks.NONE: none, Symlinks.INSIDE: inside, Symlinks.ALL: everywhere}
        for symlinks in Symlinks:
            files = open_files(linked_tree / "root", way=way, symlinks=symlinks)
            found = await files.find([as_file(path), as_folder(path)])
            is_folder = found is not None and found.variant is None
            assert (FOLDER if is_folder else await content_of(found)) == expected[symlinks], symlinks

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


class TestThingsThatAreNoFiles:
    @each_way
    @pytest.mark.parametrize("symlinks", [Symlinks.INSIDE, Symlinks.ALL])
    async def test_a_fifo_is_absent_and_never_blocks(
        self, root: Path, open_files: Open, way: _Way, symlinks: Symlinks
    ) -> None:
        os.mkfifo(root / "fifo")
        (root / "link").symlink_to("fifo")
        files = open_files(root, way=way, symlinks=symlinks)
        for path in ("fifo", "link"):
            assert await files.find([as_file(path), as_folder(path)]) is None

    @each_way
    async def test_a_socket_is_absent(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open, way: _Way
    ) -> None:
        monkeypatch.chdir(root)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            listener.listen()
            assert await open_files(root, way=way).find([as_file("socket"), as_folder("socket")]) is None

    @each_way
    async def test_a_device_is_absent(self, root: Path, open_files: Open, way: _Way) -> None:
        (root / "null").symlink_to("/dev/null")
        files = open_files(root, way=way, symlinks=Symlinks.ALL)
        assert await files.find([as_file("null"), as_folder("null")]) is None


@pytest.fixture
def public_root(tmp_path: Path) -> Iterator[Path]:
    """A root that everybody may enter; only its owner may enter the folders above the usual one."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user who may do nothing special, in case this one may do everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Nothing more can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def refusal(files: Files, *candidates: Candidate) -> int:
    with pytest.raises(Refused) as caught:
        await files.find(candidates)
    return caught.value.status


class TestRefusals:
    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_file_without_permission_is_forbidden(
        self, public_root: Path, open_files: Open, way: _Way, symlinks: Symlinks
    ) -> None:
        (public_root / "file").touch(0o000)
        (public_root / "folder").mkdir(0o755)
        (public_root / "folder/file").touch(0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await refusal(files, as_file("file"), as_folder("file")) == 403
            assert await refusal(files, as_file("folder/file")) == 403

    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_below_a_folder_that_may_not_be_entered_everything_is_forbidden(
        self, public_root: Path, open_files: Open, way: _Way, symlinks: Symlinks
    ) -> None:
        (public_root / "folder").mkdir()
        (public_root / "folder/file").touch(0o644)
        (public_root / "folder").chmod(0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await refusal(files, as_file("folder/file")) == 403
            assert await refusal(files, as_file("folder/nothing")) == 403
            assert await refusal(files, as_folder("folder/nothing")) == 403

    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_folder_that_may_be_entered_but_not_read_is_one_all_the_same(
        self, public_root: Path, open_files: Open, way: _Way, symlinks: Symlinks
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

    @each_way
    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_fifo_without_permission_is_absent_like_any_other(
        self, public_root: Path, open_files: Open, way: _Way, symlinks: Symlinks
    ) -> None:
        os.mkfifo(public_root / "fifo", 0o000)
        files = open_files(public_root, way=way, symlinks=symlinks)
        with without_privileges():
            assert await files.find([as_file("fifo"), as_folder("fifo")]) is None

    @each_way
    async def test_without_descriptors_the_answer_is_later_and_not_absent(
        self, linked_tree: Path, open_files: Open, way: _Way
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
        self, root: Path, open_files: Open, way: _Way
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

        files = open_files(linked_tree / "root", way=_Way.WALK)
        with monkeypatch.context() as patched:
            patched.setattr(os, "readlink", fail)
            assert await refusal(files, as_file("to-file")) == 503

    async def test_without_a_free_thread_the_answer_is_later(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = Disk(threads=1, queue_s=0.01)
        files = Files(root, disk=disk)
        let_go = asyncio.Event()
        loop = asyncio.get_running_loop()
        holder = asyncio.ensure_future(
            disk.run("other", asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result, queue_s=None)
        )
        await asyncio.sleep(0)
        assert await refusal(files, as_file("file")) == 503
        let_go.set()
        await holder
        assert await files.find([as_file("file")]) is None
        files.close()
        disk.close()

    @pytest.mark.parametrize(
        ("number", "status"),
        [(number, None) for number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)]
        + [(number, None) for number in (errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.EOPNOTSUPP)]
        + [(number, 403) for number in (errno.EACCES, errno.EPERM)]
        + [(number, 503) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)]
        + [(number, 503) for number in (errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN, None)],
    )
    async def test_each_error_has_one_meaning(
        self, root: Path, disk: Disk, number: int | None, status: int | None
    ) -> None:
        class Broken(Files):
            def _open(self, *_: object) -> int:
                raise OSError(number, "made up") if number is not None else OSError("made up")

        files = Broken(root, disk=disk)
        if status is None:
            assert await files.find([as_file("file")]) is None
        else:
            assert await refusal(files, as_file("file")) == status
        files.close()


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
    async def test_a_file_and_a_link_outside(self, root: Path, open_files: Open, way: _Way) -> None:
        (root.parent / "outside").write_bytes(OUTSIDE)
        (root / "page").write_bytes(FILE)
        (root / "link").symlink_to("../outside")
        with running(_EXCHANGE, root / "page", root / "link"):
            await self._find_many(open_files(root, way=way), "page", {FILE, None}, _FINDS)

    @each_safe_way
    async def test_a_folder_and_a_link_outside(self, root: Path, open_files: Open, way: _Way) -> None:
        (root.parent / "outside").mkdir()
        (root.parent / "outside/page").write_bytes(OUTSIDE)
        (root / "folder").mkdir()
        (root / "folder/page").write_bytes(FILE)
        (root / "link").symlink_to("../outside")
        with running(_EXCHANGE, root / "folder", root / "link"):
            await self._find_many(open_files(root, way=way), "folder/page", {FILE, None}, _FINDS)

    @each_safe_way
    async def test_a_folder_that_moves_up_while_a_link_in_it_climbs(
        self, root: Path, open_files: Open, way: _Way
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
        self, root: Path, open_files: Open, way: _Way
    ) -> None:
        (root / "page").write_bytes(FILE)
        (root / "other").write_bytes(INNER)
        (root / "link").symlink_to("other")
        with running(_EXCHANGE, root / "page", root / "link"):
            await self._find_many(open_files(root, way=way), "page", {FILE, INNER})

    @each_way
    async def test_a_file_and_a_fifo(self, root: Path, open_files: Open, way: _Way) -> None:
        (root / "page").write_bytes(FILE)
        os.mkfifo(root / "fifo")
        with running(_EXCHANGE, root / "page", root / "fifo"):
            await self._find_many(open_files(root, way=way), "page", {FILE, None})


# Replaces a file by others, each of one letter and with a length of its own.
_REPLACE = """
import os, sys
target, size = sys.argv[1], int(sys.argv[2])
def replace(number):
    with open(target + ".new", "wb") as file:
        file.write(bytes([65 + number]) * (size + number))
    os.rename(target + ".new", target)
replace(0)
print("ready", flush=True)
while True:
    for number in range(26):
        replace(number)
"""

_APPEAR_AND_VANISH = """
import os, sys
print("ready", flush=True)
while True:
    with open(sys.argv[1] + ".new", "wb") as file:
        file.write(b"the file")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    os.unlink(sys.argv[1])
"""

_SHRINK_AND_GROW = """
import os, sys
print("ready", flush=True)
while True:
    for size in (60000, 0, 1000, 90000, 10):
        os.truncate(sys.argv[1], size)
"""


class TestFilesThatChange:
    @pytest.mark.parametrize("size", [1000, 200_000], ids=["small", "large"])
    async def test_of_files_that_replace_each_other_each_is_whole_and_described_by_itself(
        self, root: Path, open_files: Open, size: int
    ) -> None:
        files = open_files(root)
        contents: dict[tuple[int, int], bytes] = {}
        with running(_REPLACE, root / "page", str(size)):
            for _ in range(1500 if size == 1000 else 300):
                found = await files.find([as_file("page")])
                assert found is not None
                assert found.variant is not None
                version = (found.variant.size_bytes, found.variant.mtime_ns)
                content = await content_of(found)
                assert content is not None
                assert content == content[:1] * (size + content[0] - 65)
                assert version[0] == len(content)
                assert contents.setdefault(version, content[:1]) == content[:1]

    @each_way
    async def test_a_file_that_appears_and_vanishes_is_whole_or_absent(
        self, root: Path, open_files: Open, way: _Way
    ) -> None:
        files = open_files(root, way=way)
        seen: set[bytes | None] = set()
        with running(_APPEAR_AND_VANISH, root / "page"):
            for _ in range(1000):
                seen.add(await read(files, "page"))
        assert seen <= {FILE, None}

    async def test_a_small_file_that_shrinks_while_it_is_read_has_the_length_that_is_announced(
        self, root: Path, open_files: Open
    ) -> None:
        (root / "page").touch()
        files = open_files(root)
        sizes = set()
        with running(_SHRINK_AND_GROW, root / "page"):
            for _ in range(1500):
                found = await files.find([as_file("page")])
                assert found is not None
                assert found.variant is not None
                handle = found.variant.handle
                if handle.data is not None:
                    assert len(handle.data) == found.variant.size_bytes
                sizes.add(found.variant.size_bytes)
                handle.close()
        assert sizes <= {60000, 0, 1000, 90000, 10}

    @pytest.mark.skipif(not os.path.exists("/sys/kernel/uevent_seqnum"), reason="needs a Linux with sysfs")
    async def test_a_small_file_that_never_gives_what_its_length_says_is_left_to_the_sender(
        self, open_files: Open
    ) -> None:
        found = await open_files(Path("/sys/kernel")).find([as_file("uevent_seqnum")])
        assert found is not None
        assert found.variant is not None
        assert found.variant.handle.data is None
        assert len(await found.variant.handle.read(0, 4096)) < found.variant.size_bytes
        found.variant.handle.close()

    async def test_a_large_file_that_shrinks_gives_less_and_then_nothing(
        self, root: Path, open_files: Open
    ) -> None:
        (root / "page").write_bytes(bytes(200_000))
        found = await open_files(root).find([as_file("page")])
        assert found is not None
        assert found.variant is not None
        handle = found.variant.handle
        os.truncate(root / "page", 1000)
        assert await handle.read(900, 65536) == bytes(100)
        assert await handle.read(65536, 65536) == b""
        handle.close()

    async def test_a_file_that_was_found_is_read_to_its_end_after_it_was_removed(
        self, root: Path, open_files: Open
    ) -> None:
        (root / "page").write_bytes(b"x" * 200_000)
        found = await open_files(root).find([as_file("page")])
        (root / "page").unlink()
        assert await content_of(found) == b"x" * 200_000

    @pytest.mark.parametrize("name", ["page", "folder", "nothing"])
    async def test_what_was_found_when_its_find_was_cancelled_is_closed(self, root: Path, name: str) -> None:
        (root / "page").write_bytes(bytes(200_000))
        (root / "folder").mkdir()
        disk = Disk(threads=1)
        files = Files(root, disk=disk)
        find = asyncio.ensure_future(files.find([as_file(name), as_folder(name)]))
        await asyncio.sleep(0)
        # The only thread takes its work in order: it has found the file, and the loop does not know.
        disk._threads.submit(lambda: None).result()
        assert _is_open(root / "page") is (name == "page")
        find.cancel()
        with pytest.raises(asyncio.CancelledError):
            await find
        assert not _is_open(root / "page")
        files.close()
        disk.close()

    async def test_finds_that_are_cancelled_leave_nothing_open(self, root: Path, open_files: Open) -> None:
        (root / "page").write_bytes(bytes(200_000))
        files = open_files(root)
        finds = [asyncio.ensure_future(files.find([as_file("page")])) for _ in range(200)]
        for find in finds:
            await asyncio.sleep(0)
            if not find.done():
                find.cancel()
        for found in await asyncio.gather(*finds, return_exceptions=True):
            if isinstance(found, Found) and found.variant is not None:
                found.variant.handle.close()


async def _open_large(root: Path, files: Files) -> OpenFile:
    (root / "large").write_bytes(bytes(range(256)) * 1000)
    found = await files.find([as_file("large")])
    assert found is not None
    assert found.variant is not None
    assert isinstance(found.variant.handle, OpenFile)
    return found.variant.handle


def _is_open(path: Path) -> bool:
    return str(path) in _open_descriptors().values()


class TestOpenFile:
    async def test_closing_twice_is_closing_once(self, root: Path, open_files: Open) -> None:
        handle = await _open_large(root, open_files(root))
        assert _is_open(root / "large")
        handle.close()
        assert not _is_open(root / "large")
        reused = os.open(root, os.O_RDONLY)
        handle.close()
        os.fstat(reused)
        os.close(reused)

    async def test_a_closed_file_is_not_read(self, root: Path, open_files: Open) -> None:
        handle = await _open_large(root, open_files(root))
        handle.close()
        with pytest.raises(ValueError, match="closed"):
            await handle.read(0, 1)

    async def test_closed_during_a_read_the_descriptor_lives_until_the_read_ends(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(files_module, "_HAS_PREAD", False)  # reads take a lock that can be held here
        handle = await _open_large(root, open_files(root))
        with handle._seeking:
            reading = asyncio.ensure_future(handle.read(1, 3))
            while not handle._readers:
                await asyncio.to_thread(lambda: None)
            handle.close()
            assert _is_open(root / "large")
        assert await reading == b"\1\2\3"
        assert not _is_open(root / "large")

    async def test_readers_of_one_file_do_not_mix_where_the_position_is_shared(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(files_module, "_HAS_PREAD", False)
        handle = await _open_large(root, open_files(root))
        pieces = await asyncio.gather(*(handle.read(offset, 1) for offset in range(500)))
        assert b"".join(pieces) == bytes(offset % 256 for offset in range(500))
        handle.close()

    async def test_a_disk_that_fails_raises_oserror(self, root: Path, disk: Disk) -> None:
        handle = OpenFile(disk, (0, 0), descriptor=os.open(root, os.O_RDONLY))
        with pytest.raises(IsADirectoryError):
            await handle.read(0, 1)
        handle.close()

    async def test_a_disk_that_is_closed_raises_oserror(self, root: Path) -> None:
        disk = Disk()
        files = Files(root, disk=disk)
        handle = await _open_large(root, files)
        disk.close()
        with pytest.raises(OSError, match="closed"):
            await handle.read(0, 1)
        handle.close()
        files.close()


_DEPLOY = """
import os, sys
base = sys.argv[1]
print("ready", flush=True)
while True:
    for release in ("one", "two"):
        os.symlink(release, base + "/new")
        os.rename(base + "/new", base + "/current")
"""


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A folder with two releases, and a link to the first."""
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "name").write_text(release)
        (tmp_path / release / f"only-{release}").write_text(release)
    (tmp_path / "current").symlink_to("one")
    return tmp_path


def _switch(base: Path, release: str) -> None:
    (base / "new").symlink_to(release)
    (base / "new").rename(base / "current")


class TestTheRoot:
    @each_way
    async def test_a_switched_root_is_followed_when_its_name_is_looked_up_again(
        self, releases: Path, open_files: Open, way: _Way
    ) -> None:
        files = open_files(releases / "current", way=way)
        files._next_look_s = float("inf")
        _switch(releases, "two")
        assert await read(files, "name") == b"one"
        files._next_look_s = 0
        assert await read(files, "name") == b"two"

    async def test_the_name_is_looked_up_again_without_being_asked(
        self, releases: Path, open_files: Open
    ) -> None:
        files = open_files(releases / "current")
        _switch(releases, "two")
        while await read(files, "name") != b"two":
            await asyncio.to_thread(time.sleep, 0.05)

    async def test_every_find_sees_one_release_only(
        self, releases: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(files_module, "_ROOT_LOOK_S", 0)
        files = open_files(releases / "current")
        # Each release has one of the two. Looked for in different ones, both could be missing.
        candidates = [as_file("only-one"), as_file("only-two"), as_file("nothing")]
        seen: set[bytes | None] = set()
        with running(_DEPLOY, releases):
            while len(seen) < 2:
                for _ in range(100):
                    finds = (files.find(candidates) for _ in range(10))
                    seen.update([await content_of(found) for found in await asyncio.gather(*finds)])
        assert seen == {b"one", b"two"}

    async def test_a_file_of_the_old_release_is_read_to_its_end(
        self, releases: Path, open_files: Open
    ) -> None:
        files = open_files(releases / "current")
        (releases / "one/large").write_bytes(b"1" * 200_000)
        found = await files.find([as_file("large")])
        _switch(releases, "two")
        shutil.rmtree(releases / "one")
        files._next_look_s = 0
        assert await read(files, "name") == b"two"
        assert await content_of(found) == b"1" * 200_000
        assert not _is_open(releases / "one")

    async def test_the_old_release_stays_open_for_a_find_that_uses_it(
        self, releases: Path, disk: Disk
    ) -> None:
        files = Files(releases / "current", disk=disk)
        with files._use_root():
            _switch(releases, "two")
            files._next_look_s = 0
            assert await read(files, "name") == b"two"
            assert _is_open(releases / "one")
        assert not _is_open(releases / "one")
        with files._use_root():
            files.close()
            files.close()
            assert _is_open(releases / "two")
        assert not _is_open(releases / "two")

    @each_way
    @pytest.mark.parametrize("instead", ["nothing", "a file", "a loop"])
    async def test_while_the_root_is_gone_every_find_is_for_later_and_it_recovers(
        self, releases: Path, open_files: Open, way: _Way, instead: str
    ) -> None:
        files = open_files(releases / "current", way=way)
        (releases / "current").unlink()
        if instead == "a file":
            (releases / "current").touch()
        elif instead == "a loop":
            (releases / "current").symlink_to("current")
        files._next_look_s = 0
        for _ in range(3):
            assert await refusal(files, as_file("name")) == 503
        _switch(releases, "two")
        assert await read(files, "name") == b"two"

    @pytest.mark.parametrize("what", ["nothing", "file/below", "fifo", "secret", "secret.txt"])
    def test_a_root_that_cannot_be_served_raises_oserror(self, public_root: Path, what: str) -> None:
        (public_root / "file").touch()
        os.mkfifo(public_root / "fifo")
        (public_root / "secret").mkdir(0o000)
        (public_root / "secret.txt").touch(0o000)
        with without_privileges(), pytest.raises(OSError):
            Files(public_root / what, disk=Disk())

    async def test_after_close_finds_are_refused(self, root: Path, disk: Disk) -> None:
        (root / "file").touch()
        for name in (root, root / "file"):
            files = Files(name, disk=disk)
            files.close()
            files.close()
            assert await refusal(files, as_file("file")) == 503

    async def test_closed_during_a_look_at_its_name_the_root_is_not_opened_again(
        self, releases: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = Files(releases / "current", disk=disk)

        class ClosedMeanwhile(files_module._Root):
            def __init__(self, name: bytes) -> None:
                super().__init__(name)
                files.close()

        monkeypatch.setattr(files_module, "_Root", ClosedMeanwhile)
        _switch(releases, "two")
        files._next_look_s = 0
        assert await refusal(files, as_file("name")) == 503

    async def test_of_two_that_find_the_root_gone_only_one_lets_it_go(
        self, releases: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = Files(releases / "current", disk=disk)

        class GoneMeanwhile(files_module._Root):
            def __init__(self, name: bytes) -> None:
                files.close()
                raise FileNotFoundError

        monkeypatch.setattr(files_module, "_Root", GoneMeanwhile)
        _switch(releases, "two")
        files._next_look_s = 0
        assert await refusal(files, as_file("name")) == 503


class TestASingleFileAsTheRoot:
    async def test_it_exists_by_its_own_name_and_nothing_else_does(
        self, root: Path, open_files: Open
    ) -> None:
        for name in ("page.html", "other", ".env"):
            (root / name).write_text(name)
        files = open_files(root / "page.html")
        assert files.only_name == b"page.html"
        assert await read(files, "page.html") == b"page.html"
        others = [
            as_file("other"),
            as_file(""),
            as_folder(""),
            as_folder("page.html"),
            as_file("x/page.html"),
        ]
        assert await files.find(others) is None
        assert await read(open_files(root / ".env"), ".env") == b".env"

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_a_link_that_was_named_is_followed_at_each_find(
        self, releases: Path, open_files: Open, symlinks: Symlinks
    ) -> None:
        (releases / "latest").symlink_to("current/name")
        files = open_files(releases / "latest", symlinks=symlinks)
        assert await read(files, "latest") == b"one"
        _switch(releases, "two")
        assert await read(files, "latest") == b"two"

    async def test_when_it_is_gone_it_is_absent(self, root: Path, open_files: Open) -> None:
        (root / "page").touch()
        files = open_files(root / "page")
        (root / "page").unlink()
        assert await files.find([as_file("page")]) is None
        os.mkfifo(root / "page")
        assert await files.find([as_file("page")]) is None

    def test_a_folder_has_no_only_name(self, root: Path) -> None:
        files = Files(root, disk=Disk())
        assert files.only_name is None
        files.close()


class TestWhatTheSystemOffers:
    def test_openat2_is_the_best_way_where_it_exists(self) -> None:
        assert _find_best_way() is (_Way.BENEATH if HAS_OPENAT2 else _Way.WALK)

    def test_a_kernel_without_openat2_gets_the_walk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files_module, "_OPENAT2", 100_000)  # no system call has this number
        assert _load_openat2.__wrapped__() is None
        monkeypatch.setattr(files_module, "_load_openat2", _load_openat2.__wrapped__)
        assert _find_best_way.__wrapped__() is _Way.WALK

    def test_another_system_is_not_asked_for_openat2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        assert _load_openat2.__wrapped__() is None

    @needs_openat2
    def test_openat2_is_there_even_when_the_working_folder_may_not_be_entered(
        self, public_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (public_root / "closed").mkdir()
        monkeypatch.chdir(public_root / "closed")
        (public_root / "closed").chmod(0o000)
        with without_privileges():
            assert _load_openat2.__wrapped__() is not None

    @needs_openat2
    async def test_when_openat2_is_forbidden_later_the_walk_goes_on(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        files = open_files(linked_tree / "root")
        assert await read(files, "to-file") == FILE
        monkeypatch.setattr(files_module, "_OPENAT2", 100_000)
        assert await read(files, "to-file") == FILE
        assert await files.find([as_file("out-file")]) is None

    async def test_without_open_in_a_folder_names_are_checked(
        self, linked_tree: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.setattr(files_module, "_HAS_DIR_FD", False)
        monkeypatch.setattr(files_module, "_find_best_way", _find_best_way.__wrapped__)
        before = _open_descriptors()
        files = open_files(linked_tree / "root")
        assert _open_descriptors() == before
        assert await read(files, "to-folder/inner.txt") == INNER
        assert await files.find([as_file("out-file")]) is None
        folder = as_folder("to-folder")
        assert await files.find([as_file("to-folder"), folder]) == Found(folder, None)


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
    @settings(max_examples=150, deadline=None)
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
            for way in (_Way.BENEATH, _Way.WALK) if HAS_OPENAT2 else (_Way.WALK,):
                files = Files(
                    os.fsdecode(base + b"/root"), symlinks=symlinks, hidden=hidden, disk=disk, small_bytes=1
                )
                files._way = way
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
