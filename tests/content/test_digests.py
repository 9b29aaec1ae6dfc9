"""Hashes of real files: right, computed once for a version by all who ask, and never of something older."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from aioserve.content import digests as digests_module
from aioserve.content.digests import Digests
from aioserve.content.disk import Disk
from aioserve.content.files import Files, Found, Refused
from aioserve.content.handle import read_at
from aioserve.protocol.variant import Digest
from tests.content.conftest import Open, as_file, content_of, open_descriptors
from tests.network.waiting import wait_until

KIB, MIB = 1 << 10, 1 << 20
LARGE = bytes(range(256)) * 4 * KIB  # 1 MiB, more than is read when a file is found

AT_ONCE_BYTES, TURN_BYTES = 16 * KIB, 4 * MIB

# For waits that end by themselves, unless something is wrong.
PATIENCE_S = 60


def hash_of(data: bytes) -> Digest:
    return Digest(sha256(data).digest())


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a change cannot be set, so the rule for files that were changed lately is."""
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))


@asynccontextmanager
async def finding(files: Files, path: str | bytes) -> AsyncIterator[Found]:
    found = await files.find([as_file(path)])
    assert found is not None
    try:
        yield found
    finally:
        found.close()


async def hash_file(digests: Digests, files: Files, path: str | bytes) -> Digest:
    async with finding(files, path) as found:
        return await digests.find(found)


class Reading:
    """What is read to be hashed: `sizes` are those of the pieces. It goes on as long as `gate` is open."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.before_piece: Callable[[int], None] = lambda count: None

    def read(self, descriptor: int, offset: int, size_bytes: int) -> bytes:
        self.begun.set()
        assert self.gate.wait(PATIENCE_S)
        self.before_piece(len(self.sizes))
        self.sizes.append(size_bytes)
        return read_at(descriptor, offset, size_bytes)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    reading = Reading()
    monkeypatch.setattr(digests_module, "read_at", reading.read)
    yield reading
    reading.gate.set()


async def until_begun(reading: Reading) -> None:
    await asyncio.to_thread(reading.begun.wait, PATIENCE_S)


@pytest.mark.usefixtures("long_ago")
class TestContent:
    @pytest.mark.parametrize(
        "size_bytes",
        [
            0,
            1,
            AT_ONCE_BYTES,
            AT_ONCE_BYTES + 1,
            128 * KIB,
            128 * KIB + 1,
            256 * KIB,
            256 * KIB + 1,
            TURN_BYTES,
            TURN_BYTES + 1,
            2 * TURN_BYTES + 300 * KIB,
        ],
    )
    async def test_it_is_that_of_all_bytes(
        self, root: Path, disk: Disk, open_files: Open, size_bytes: int
    ) -> None:
        content = (LARGE * (size_bytes // MIB + 1))[:size_bytes]
        (root / "a").write_bytes(content)

        assert await hash_file(Digests(disk), open_files(root), "a") == hash_of(content)

    async def test_without_pread_it_is_the_same(
        self, root: Path, disk: Disk, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "a").write_bytes(LARGE)
        monkeypatch.delattr(os, "pread")
        files = open_files(root)
        async with finding(files, "a") as found:
            assert found.variant is not None
            digest, *pieces = await asyncio.gather(
                Digests(disk).find(found),
                *(found.variant.handle.read(start, KIB) for start in range(0, MIB, 64 * KIB)),
            )

        assert digest == hash_of(LARGE)
        assert pieces == [LARGE[start : start + KIB] for start in range(0, MIB, 64 * KIB)]

    async def test_a_file_of_a_few_kilobytes_takes_no_thread(
        self, root: Path, disk: Disk, open_files: Open
    ) -> None:
        (root / "a").write_bytes(LARGE[:AT_ONCE_BYTES])
        (root / "b").write_bytes(LARGE[: AT_ONCE_BYTES + 1])
        files, digests = open_files(root), Digests(disk)
        async with finding(files, "a") as small, finding(files, "b") as larger:
            assert digests.find_at_once(small) == hash_of(LARGE[:AT_ONCE_BYTES])
            with pytest.raises(BlockingIOError):
                digests.find_at_once(larger)

    @pytest.mark.parametrize("content", [b"old", LARGE])
    async def test_an_edit_with_its_time_restored_is_noticed(
        self, root: Path, disk: Disk, open_files: Open, content: bytes
    ) -> None:
        path, files, digests = root / "a", open_files(root, cache_bytes=MIB), Digests(disk)
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
        before = await hash_file(digests, files, "a")
        path.write_bytes(content[::-1])
        os.utime(path, ns=(1, 1))

        assert await hash_file(digests, files, "a") == hash_of(content[::-1]) != before

    async def test_another_file_of_the_same_times_is_another_one(
        self, root: Path, disk: Disk, open_files: Open
    ) -> None:
        files, digests = open_files(root, cache_bytes=MIB), Digests(disk)
        for content in (LARGE, LARGE[::-1]):
            (root / "new").write_bytes(content)
            os.utime(root / "new", ns=(1, 1))
            (root / "new").rename(root / "a")
            assert await hash_file(digests, files, "a") == hash_of(content)


@pytest.mark.usefixtures("long_ago")
class TestOnce:
    """Each version of a file is hashed once."""

    @pytest.mark.parametrize("size_bytes", [3, 20 * KIB, MIB])
    async def test_what_was_hashed_is_known_at_once(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading, size_bytes: int
    ) -> None:
        (root / "a").write_bytes(LARGE[:size_bytes])
        files, digests = open_files(root), Digests(disk)
        first = await hash_file(digests, files, "a")
        count = len(reading.sizes)
        async with finding(files, "a") as found:
            assert digests.find_at_once(found) is first

        assert len(reading.sizes) == count

    async def test_two_names_of_one_file_are_one(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        (root / "a").write_bytes(LARGE)
        os.link(root / "a", root / "b")
        files, digests = open_files(root), Digests(disk)

        assert await hash_file(digests, files, "a") is await hash_file(digests, files, "b")
        assert sum(reading.sizes) == MIB

    async def test_many_who_ask_share_one_computation(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        (root / "a").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        reading.gate.clear()
        asking = [asyncio.create_task(hash_file(digests, files, "a")) for _ in range(50)]
        await until_begun(reading)
        reading.gate.set()

        assert set(await asyncio.gather(*asking)) == {hash_of(LARGE)}
        assert reading.sizes == [256 * KIB] * 4

    async def test_who_leaves_takes_nothing_from_the_others(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        (root / "a").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        reading.gate.clear()
        first, *others = [asyncio.create_task(hash_file(digests, files, "a")) for _ in range(3)]
        await until_begun(reading)
        first.cancel()
        await asyncio.wait([first])
        reading.gate.set()

        assert first.cancelled()
        assert await asyncio.gather(*others) == [hash_of(LARGE)] * 2
        assert sum(reading.sizes) == MIB

    async def test_who_leaves_before_it_has_begun_takes_nothing_from_the_others(
        self, root: Path, disk: Disk, open_files: Open
    ) -> None:
        (root / "a").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        async with finding(files, "a") as other:
            found = await files.find([as_file("a")])
            assert found is not None
            first = asyncio.create_task(digests.find(found))
            second = asyncio.create_task(digests.find(other))
            await asyncio.sleep(0)
            first.cancel()
            found.close()

            assert await second == hash_of(LARGE)

    async def test_when_the_last_one_has_left_it_ends_and_can_begin_again(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        (root / "a").write_bytes(LARGE * 12)
        files, digests = open_files(root), Digests(disk)
        before = open_descriptors()
        reading.gate.clear()
        asking = [asyncio.create_task(hash_file(digests, files, "a")) for _ in range(2)]
        await until_begun(reading)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        again = asyncio.create_task(hash_file(digests, files, "a"))
        reading.gate.set()

        assert await again == hash_of(LARGE * 12)
        # The turn that was in a thread, and nothing of the other two.
        assert 12 * MIB <= sum(reading.sizes) <= 12 * MIB + TURN_BYTES
        assert open_descriptors() == before

    async def test_so_many_are_kept_and_the_one_that_nobody_wants_goes(
        self, root: Path, disk: Disk, open_files: Open
    ) -> None:
        for name in "abc":
            (root / name).write_bytes(LARGE[:-1] + name.encode())
        files, digests = open_files(root), Digests(disk, max_kept=2)
        for name in "abac":
            await hash_file(digests, files, name)
        known: list[Digest | None] = []
        for name in "abc":
            async with finding(files, name) as found:
                try:
                    known.append(digests.find_at_once(found))
                except BlockingIOError:
                    known.append(None)

        assert known == [hash_of(LARGE[:-1] + b"a"), None, hash_of(LARGE[:-1] + b"c")]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


class TestChange:
    """What has changed lately, or changes meanwhile."""

    @pytest.mark.parametrize("content", [b"new", LARGE[: 20 * KIB], LARGE])
    async def test_a_file_that_has_just_changed_is_hashed_each_time(
        self, root: Path, disk: Disk, open_files: Open, content: bytes
    ) -> None:
        (root / "a").write_bytes(content)
        files, digests = open_files(root), Digests(disk)
        for wanted in (content, content[::-1], content):
            with (root / "a").open("r+b") as file:
                file.write(wanted)
            assert await hash_file(digests, files, "a") == hash_of(wanted)

        assert not digests._kept

    async def test_one_that_is_long_too_is_not_read_and_gets_a_tag_of_its_own(
        self,
        root: Path,
        disk: Disk,
        open_files: Open,
        reading: Reading,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(digests_module, "_MAX_RACY_BYTES", MIB)
        (root / "a").write_bytes(LARGE)
        (root / "b").write_bytes(LARGE + b"!")
        (root / "c").write_bytes(LARGE + b"!")
        files, digests = open_files(root), Digests(disk)
        short, first, same, other = [await hash_file(digests, files, name) for name in "abbc"]

        assert short == hash_of(LARGE)
        assert not first.is_of_content
        assert first == same != other
        assert sum(reading.sizes) == MIB

    @pytest.mark.usefixtures("long_ago")
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(append, id="grows"),
            pytest.param(lambda path: os.truncate(path, MIB), id="shrinks"),
            pytest.param(lambda path: os.truncate(path, 0), id="is emptied"),
            pytest.param(lambda path: os.utime(path, ns=(1, 1)), id="is touched"),
        ],
    )
    @pytest.mark.parametrize("at_piece", [0, 3, 16, 47])
    async def test_a_file_that_changes_meanwhile_has_no_digest_this_time(
        self,
        root: Path,
        disk: Disk,
        open_files: Open,
        reading: Reading,
        change: Callable[[Path], object],
        at_piece: int,
    ) -> None:
        path, files, digests = root / "a", open_files(root), Digests(disk)
        path.write_bytes(LARGE * 12)

        def change_then(count: int) -> None:
            if count == at_piece:
                change(path)

        reading.before_piece = change_then
        changing = await hash_file(digests, files, "a")
        reading.before_piece = lambda count: None

        assert not changing.is_of_content
        assert await hash_file(digests, files, "a") == hash_of(path.read_bytes())

    @pytest.mark.usefixtures("long_ago")
    async def test_one_that_has_changed_since_it_was_found_is_not_read(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        (root / "a").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        async with finding(files, "a") as found:
            os.utime(root / "a", ns=(1, 1))
            digest = await digests.find(found)

        assert not digest.is_of_content
        assert reading.sizes == []

    @pytest.mark.usefixtures("long_ago")
    async def test_one_that_is_removed_meanwhile_is_hashed_as_it_is_sent(
        self, root: Path, disk: Disk, open_files: Open
    ) -> None:
        (root / "a").write_bytes(LARGE[:AT_ONCE_BYTES])
        (root / "b").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        async with finding(files, "a") as small, finding(files, "b") as large:
            (root / "a").unlink()
            (root / "b").unlink()
            os.mkfifo(root / "b")

            assert await digests.find(small) == hash_of(LARGE[:AT_ONCE_BYTES])
            assert not (await digests.find(large)).is_of_content  # its number of names has changed
            assert await content_of(await files.find([as_file("b")])) is None


@pytest.mark.usefixtures("long_ago")
class TestTrouble:
    async def test_a_file_that_cannot_be_read_is_refused_and_tried_again(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        def fail(count: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        (root / "a").write_bytes(LARGE)
        files, digests = open_files(root), Digests(disk)
        reading.before_piece = fail
        asking = [hash_file(digests, files, "a") for _ in range(3)]
        refused = await asyncio.gather(*asking, return_exceptions=True)
        reading.before_piece = lambda count: None

        assert [error.status for error in refused if isinstance(error, Refused)] == [503] * 3
        assert await hash_file(digests, files, "a") == hash_of(LARGE)

    @pytest.mark.parametrize("size_bytes", [20 * KIB, MIB])
    async def test_without_a_disk_it_is_refused(self, root: Path, open_files: Open, size_bytes: int) -> None:
        (root / "a").write_bytes(LARGE[:size_bytes])
        gone = Disk()
        gone.close()
        async with finding(open_files(root), "a") as found:
            with pytest.raises(Refused) as refused:
                await Digests(gone).find(found)

        assert refused.value.status == 503

    async def test_long_files_leave_threads_to_everybody_else(
        self, root: Path, disk: Disk, open_files: Open, reading: Reading
    ) -> None:
        for name in range(40):
            (root / f"{name}").write_bytes(LARGE + bytes([name]))
        (root / "small").write_bytes(LARGE[: 20 * KIB])
        files, digests = open_files(root), Digests(disk)
        disk.queue_s = PATIENCE_S
        reading.gate.clear()
        asking = [asyncio.create_task(hash_file(digests, files, f"{name}")) for name in range(40)]
        await until_begun(reading)
        async with asyncio.timeout(PATIENCE_S):
            digest = await hash_file(digests, files, "small")
        reading.gate.set()

        assert digest == hash_of(LARGE[: 20 * KIB])
        assert await asyncio.gather(*asking) == [hash_of(LARGE + bytes([name])) for name in range(40)]

    async def test_a_short_file_need_not_wait_for_the_end_of_a_long_one(
        self, root: Path, open_files: Open, reading: Reading
    ) -> None:
        (root / "long").write_bytes(LARGE * 20)
        (root / "short").write_bytes(LARGE)
        narrow = Disk(threads_per_file=1, queue_s=PATIENCE_S)
        files, digests, ended = open_files(root), Digests(narrow), list[str]()

        async def hash_named(name: str) -> None:
            await hash_file(digests, files, name)
            ended.append(name)

        try:
            reading.gate.clear()
            long = asyncio.create_task(hash_named("long"))
            await until_begun(reading)
            short = asyncio.create_task(hash_named("short"))
            await wait_until(lambda: any(lane.users == 2 for lane in narrow._lanes.values()))
            reading.gate.set()
            await asyncio.gather(long, short)
        finally:
            narrow.close()

        assert ended == ["short", "long"]

    async def test_a_queue_that_is_too_long_is_refused(
        self, root: Path, open_files: Open, reading: Reading
    ) -> None:
        for name in "ab":
            (root / name).write_bytes(LARGE)
        narrow = Disk(threads_per_file=1, queue_s=0.01)
        files, digests = open_files(root), Digests(narrow)
        try:
            reading.gate.clear()
            first = asyncio.create_task(hash_file(digests, files, "a"))
            await until_begun(reading)
            with pytest.raises(Refused) as refused:
                await hash_file(digests, files, "b")
            reading.gate.set()

            assert refused.value.status == 503
            assert await first == hash_of(LARGE)
        finally:
            narrow.close()
