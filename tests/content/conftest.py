"""What the tests of what looks share: roots, files below them, and programs that change them meanwhile."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from aioserve.content.containment import Way
from aioserve.content.disk import Disk
from aioserve.content.files import Candidate, Files, Found, Kind, Refused
from aioserve.content.openat2 import load_at_once, load_openat2

T = TypeVar("T")

HAS_OPENAT2 = load_openat2() is not None
needs_openat2 = pytest.mark.skipif(not HAS_OPENAT2, reason="this kernel has no openat2")
needs_at_once = pytest.mark.skipif(load_at_once() is None, reason="this kernel may always wait for a disk")
needs_nowait = pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"), reason="this system has no read that does not wait"
)
BENEATH = pytest.param(Way.BENEATH, id="beneath", marks=needs_openat2)
WALK = pytest.param(Way.WALK, id="walk")
NAME = pytest.param(Way.NAME, id="name")


@pytest.fixture(params=[BENEATH, WALK, NAME])
def way(request: pytest.FixtureRequest) -> Way:
    """Each way that this system has."""
    way: Way = request.param
    return way


def open_descriptors() -> dict[str, str]:
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


def is_open(path: Path) -> bool:
    return str(path) in open_descriptors().values()


def forget_content(path: Path) -> None:
    """Makes the kernel forget the content, so that the next read has to wait for the disk.

    Skips the test where it cannot, as on a file system that is all memory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(100):
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if not _has_pages(descriptor):
                return
    finally:
        os.close(descriptor)
    pytest.skip("the file system of the tests keeps its files in memory")


def _has_pages(descriptor: int) -> bool:
    """Whether the kernel has any of the content in memory. Asked by a read, it would begin to load it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE) as mapped:
        pages = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
        start = ctypes.byref(ctypes.c_char.from_buffer(mapped))
        failed = libc.mincore(start, ctypes.c_size_t(len(mapped)), pages)
        del start  # it holds the mapping
        assert not failed, os.strerror(ctypes.get_errno())
        return any(page & 1 for page in pages.raw)


def has_to_wait(path: Path, function: Callable[[], object]) -> bool:
    """Whether `function` refuses to wait for the content of `path`, which the kernel has forgotten.

    It gets some tries, for the disk may be faster than the question.
    """
    for _ in range(20):
        forget_content(path)
        try:
            function()
        except BlockingIOError:
            return True
    return False


def until_at_once(function: Callable[[], T]) -> T:
    """What `function` gives when it need not wait: the kernel may say of anything that it would have to.

    It does so while names change anywhere on the machine, or while it is busy with the page.
    """
    for _ in range(1000):
        with suppress(BlockingIOError):
            return function()
    raise AssertionError("it would always have to wait")


def count_open(folder: Path) -> int:
    """How many descriptors there are of files in that folder."""
    return sum(name.startswith(f"{folder}/") for name in open_descriptors().values())


def change_in_place(path: Path, content: bytes) -> None:
    """As long as before, and the time of modification is set back; only the kernel knows better."""
    before = path.stat()
    path.write_bytes(content)
    while True:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_ctime_ns != before.st_ctime_ns:
            return


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    """A disk; the test fails when it leaves a descriptor open."""
    before = open_descriptors()
    disk = Disk()
    yield disk
    await _settle(disk)
    disk.close()
    assert open_descriptors() == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def public_root(tmp_path: Path) -> Iterator[Path]:
    """A root that everybody may enter; only its owner may enter the folders above the usual one."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


Open = Callable[..., Files]


@pytest.fixture
def open_files(disk: Disk) -> Iterator[Open]:
    """Makes Files that are closed after the test."""
    opened: list[Files] = []

    def open_files(root: Path, **options: object) -> Files:
        files = Files(root, disk=disk, **options)  # type: ignore[arg-type]
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


async def refusal(files: Files, *candidates: Candidate) -> int:
    with pytest.raises(Refused) as caught:
        await files.find(candidates)
    return caught.value.status


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
