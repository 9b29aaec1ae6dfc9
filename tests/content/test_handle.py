from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioserve.content import handle as handle_module
from aioserve.content.disk import Disk
from aioserve.content.handle import Descriptor, OpenFile, has_in_memory, read_at, read_in_memory
from tests.content.conftest import forget_content, has_to_wait, is_open, needs_nowait, until_at_once

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def large(root: Path) -> Path:
    (root / "large").write_bytes(CONTENT)
    return root / "large"


@pytest.fixture
def handle(large: Path, disk: Disk) -> Iterator[OpenFile]:
    handle = OpenFile(disk, (0, 0), descriptor=os.open(large, os.O_RDONLY))
    yield handle
    handle.close()


@pytest.fixture
def descriptor(large: Path) -> Iterator[int]:
    descriptor = os.open(large, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


class TestDescriptor:
    def test_it_is_closed_by_its_last_user(self, large: Path) -> None:
        number = os.open(large, os.O_RDONLY)
        descriptor = Descriptor(number)
        assert descriptor.take() == number
        descriptor.drop()
        assert is_open(large)
        descriptor.drop()
        assert not is_open(large)

    def test_closed_it_is_given_to_nobody(self, large: Path) -> None:
        descriptor = Descriptor(os.open(large, os.O_RDONLY))
        descriptor.drop()
        with pytest.raises(ValueError, match="closed"):
            descriptor.take()


class TestClosing:
    async def test_closing_twice_is_closing_once(self, root: Path, large: Path, handle: OpenFile) -> None:
        assert is_open(large)
        handle.close()
        assert not is_open(large)
        reused = os.open(root, os.O_RDONLY)
        handle.close()
        os.fstat(reused)
        os.close(reused)

    async def test_a_closed_file_is_not_read(self, handle: OpenFile) -> None:
        handle.close()
        with pytest.raises(ValueError, match="closed"):
            await handle.read(0, 1)
        with pytest.raises(ValueError, match="closed"):
            await handle.call(os.fstat)
        with pytest.raises(ValueError, match="closed"):
            handle.call_at_once(os.fstat)
        with pytest.raises(ValueError, match="closed"):
            handle.has_in_memory(0, 1)
        with pytest.raises(ValueError, match="closed"):
            handle.read_at_once(0, 1)

    async def test_closed_during_a_read_the_descriptor_lives_until_the_read_ends(
        self, large: Path, handle: OpenFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, may_go = threading.Event(), threading.Event()
        pread = os.pread

        def slow(descriptor: int, size_bytes: int, offset: int) -> bytes:
            begun.set()
            may_go.wait()
            return pread(descriptor, size_bytes, offset)

        monkeypatch.setattr(os, "pread", slow)
        reading = asyncio.ensure_future(handle.read(1, 3))
        await asyncio.to_thread(begun.wait)
        handle.close()
        assert is_open(large)
        may_go.set()
        assert await reading == b"\1\2\3"
        assert not is_open(large)

    async def test_shared_it_is_closed_by_the_last_one(self, large: Path, handle: OpenFile) -> None:
        twin = handle.share()
        handle.close()
        assert is_open(large)
        assert await twin.read(1, 3) == b"\1\2\3"
        twin.close()
        twin.close()
        assert not is_open(large)

    async def test_content_in_memory_outlives_the_one_it_was_shared_by(self, disk: Disk) -> None:
        handle = OpenFile(disk, (0, 0), data=b"content")
        twin = handle.share()
        handle.close()
        assert twin.data == b"content"
        assert await twin.read(2, 3) == await twin.read_first(2, 3) == b"nte"
        assert twin.read_at_once(2, 5) == b"nte"


class TestReading:
    async def test_it_reads_in_a_thread_what_is_asked_for(self, handle: OpenFile) -> None:
        assert await handle.read(0, 1000) == CONTENT[:1000]
        assert await handle.read(1001, 4) == CONTENT[1001:1005]
        assert await handle.read(len(CONTENT) - 3, 100) == CONTENT[-3:]
        assert await handle.read(len(CONTENT), 100) == b""
        here = threading.get_ident()
        assert await handle.call(lambda _: threading.get_ident()) != here
        assert handle.call_at_once(lambda _: threading.get_ident()) == here

    async def test_both_calls_give_the_file(self, large: Path, handle: OpenFile) -> None:
        inode = os.stat(large).st_ino
        assert (await handle.call(os.fstat)).st_ino == inode
        assert handle.call_at_once(os.fstat).st_ino == inode

    async def test_readers_of_one_file_do_not_mix_where_the_position_is_shared(
        self, large: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "pread")
        handle = OpenFile(disk, (0, 0), descriptor=os.open(large, os.O_RDONLY))
        twin = handle.share()
        reads = ((handle, twin)[offset % 2].read(offset, 1) for offset in range(500))
        assert b"".join(await asyncio.gather(*reads)) == CONTENT[:500]
        handle.close()
        twin.close()

    def test_a_read_that_gives_less_is_read_on_until_the_file_ends(
        self, descriptor: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pread = os.pread
        # What a read may always do, and what a signal or a file system makes it do.
        monkeypatch.setattr(os, "pread", lambda number, size, offset: pread(number, min(size, 700), offset))
        assert read_at(descriptor, 100, 5000) == CONTENT[100:5100]
        assert read_at(descriptor, len(CONTENT) - 1000, 5000) == CONTENT[-1000:]
        assert read_at(descriptor, len(CONTENT), 1) == b""

    async def test_a_disk_that_fails_raises_oserror(self, root: Path, disk: Disk) -> None:
        handle = OpenFile(disk, (0, 0), descriptor=os.open(root, os.O_RDONLY))
        with pytest.raises(IsADirectoryError):
            await handle.read(0, 1)
        handle.close()

    async def test_only_what_begins_an_answer_waits_no_longer_for_a_thread_than_it_may(
        self, large: Path
    ) -> None:
        disk = Disk(threads=1, queue_s=0.01)
        handle = OpenFile(disk, (0, 0), descriptor=os.open(large, os.O_RDONLY))
        may_go = threading.Event()
        holding = asyncio.create_task(handle.call(lambda _: may_go.wait()))
        later = asyncio.create_task(handle.read(0, 3))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="No thread"):
            await handle.read_first(0, 3)
        assert not later.done()
        may_go.set()
        await holding
        assert await later == CONTENT[:3]
        assert await handle.read_first(1, 3) == CONTENT[1:4]
        handle.close()
        disk.close()

    async def test_a_disk_that_is_closed_raises_oserror(self, large: Path) -> None:
        disk = Disk()
        handle = OpenFile(disk, (0, 0), descriptor=os.open(large, os.O_RDONLY))
        disk.close()
        with pytest.raises(OSError, match="closed"):
            await handle.read(0, 1)
        handle.close()


@needs_nowait
class TestWithoutWaiting:
    def test_what_the_kernel_has_in_memory_is_read_at_once(self, descriptor: int, handle: OpenFile) -> None:
        read_at(descriptor, 0, len(CONTENT))
        assert until_at_once(lambda: read_in_memory(descriptor, 1001, 4)) == CONTENT[1001:1005]
        assert until_at_once(lambda: read_in_memory(descriptor, 0, len(CONTENT))) == CONTENT
        assert until_at_once(lambda: handle.read_at_once(5, 300)) == CONTENT[5:300]
        assert read_in_memory(descriptor, 5, 0) == b""

    def test_what_it_has_not_is_left_to_a_thread(
        self, large: Path, descriptor: int, handle: OpenFile
    ) -> None:
        assert has_to_wait(large, lambda: read_in_memory(descriptor, 0, len(CONTENT)))
        assert has_to_wait(large, lambda: handle.read_at_once(0, 1))
        assert any(not has_in_memory(descriptor, 0) for _ in forgotten(large))
        assert any(not handle.has_in_memory(0, 1) for _ in forgotten(large))

    def test_where_the_file_ends_a_thread_has_to_tell(self, descriptor: int) -> None:
        with pytest.raises(BlockingIOError):
            read_in_memory(descriptor, len(CONTENT) - 3, 4)
        assert not has_in_memory(descriptor, len(CONTENT))

    async def test_of_what_was_read_it_tells_that_it_is_in_memory(self, handle: OpenFile) -> None:
        await handle.read(0, len(CONTENT))
        for start, stop in ((0, 1), (0, len(CONTENT)), (len(CONTENT) - 1, len(CONTENT))):
            # Of what it has, the kernel may say that it has not.
            assert any(handle.has_in_memory(start, stop) for _ in range(1000))

    async def test_both_ends_have_to_be_there(self, handle: OpenFile, descriptor: int) -> None:
        await handle.read(0, len(CONTENT))
        assert any(has_in_memory(descriptor, len(CONTENT) - 1) for _ in range(1000))
        assert not handle.has_in_memory(len(CONTENT) - 1, len(CONTENT) + 1)
        assert not handle.has_in_memory(len(CONTENT), len(CONTENT) + 1)

    @pytest.mark.parametrize(
        "known", [pytest.param(0, id="the first"), pytest.param(len(CONTENT) - 1, id="the last")]
    )
    def test_one_end_in_memory_is_not_enough(
        self, large: Path, descriptor: int, handle: OpenFile, known: int
    ) -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for _ in forgotten(large):
            # Without reading ahead, only the page that is read is in memory.
            os.pread(descriptor, 1, known)
            if not handle.has_in_memory(0, len(CONTENT)):
                return
        raise AssertionError("it says that both are")

    def test_a_failing_read_is_left_to_a_thread_to_report(self, root: Path) -> None:
        descriptor = os.open(root, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            read_in_memory(descriptor, 0, 1)
        os.close(descriptor)

    def test_without_a_system_call_for_it_everything_is_left_to_a_thread(
        self, descriptor: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handle_module, "_NOWAIT", 0)
        with pytest.raises(BlockingIOError):
            read_in_memory(descriptor, 0, 1)
        assert not has_in_memory(descriptor, 0)


def forgotten(path: Path) -> Iterator[None]:
    """Some turns, in each of which the kernel has forgotten the content, if the disk is not too fast."""
    for _ in range(20):
        forget_content(path)
        yield


class TestFileSystemsThatCannotTell:
    """EOPNOTSUPP to a read that may not wait: from tmpfs on older kernels, and from some network disks."""

    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def preadv(*_: object) -> int:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr(handle_module, "_NOWAIT", 8)

    @pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="this system has no tmpfs there")
    def test_on_tmpfs_every_file_is_in_memory(self) -> None:
        with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
            file.write(b"content")
            assert read_in_memory(file.fileno(), 2, 3) == b"nte"
            assert read_in_memory(file.fileno(), 5, 30) == b"nt"
            assert has_in_memory(file.fileno(), 6)

    @pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system has no /proc")
    def test_elsewhere_a_file_may_be_anywhere(self) -> None:
        with open("/proc/self/status", "rb", buffering=0) as file, pytest.raises(BlockingIOError):
            read_in_memory(file.fileno(), 0, 1)

    def test_another_system_is_not_asked_what_it_is(
        self, descriptor: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "freebsd14")
        with pytest.raises(BlockingIOError):
            read_in_memory(descriptor, 0, 1)

    @pytest.mark.skipif(sys.platform != "linux", reason="the others are not asked")
    def test_what_cannot_be_asked_may_be_anywhere(self, root: Path) -> None:
        descriptor = os.open(root, os.O_RDONLY)
        os.close(descriptor)
        with pytest.raises(BlockingIOError):
            read_in_memory(descriptor, 0, 1)
