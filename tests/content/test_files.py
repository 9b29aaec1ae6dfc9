from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from aioserve.content import files as files_module
from aioserve.content.cache import Kept
from aioserve.content.containment import Root, Symlinks, Way
from aioserve.content.disk import Disk
from aioserve.content.files import Candidate, Files, Found, Refused
from tests.content.conftest import (
    Clock,
    Open,
    as_file,
    as_folder,
    content_of,
    forget_content,
    is_open,
    needs_at_once,
    no_descriptor_left,
    read,
    refusal,
    running,
    without_privileges,
)

T = TypeVar("T")


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

    async def test_a_folder_is_found_without_a_variant(self, root: Path, open_files: Open, way: Way) -> None:
        (root / "folder").mkdir()
        for candidate in (as_folder("folder"), as_folder("")):
            assert await open_files(root, way=way).find([candidate]) == Found(candidate, None)

    async def test_without_candidates_there_is_nothing(self, root: Path, open_files: Open) -> None:
        assert await open_files(root).find([]) is None


class TestHiddenNames:
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
        self, root: Path, open_files: Open, path: str, hidden: bool, exists: bool
    ) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"here")
        assert await read(open_files(root, hidden=hidden), path) == (b"here" if exists else None)


class TestRefusals:
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
        self,
        root: Path,
        disk: Disk,
        monkeypatch: pytest.MonkeyPatch,
        number: int | None,
        status: int | None,
    ) -> None:
        class Broken(Root):
            def open_file(self, segments: Sequence[bytes]) -> int:
                raise OSError(number, "made up") if number is not None else OSError("made up")

        monkeypatch.setattr(files_module, "Root", Broken)
        files = Files(root, disk=disk)
        if status is None:
            assert await files.find([as_file("file")]) is None
        else:
            assert await refusal(files, as_file("file")) == status
        files.close()


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

    async def test_a_file_that_appears_and_vanishes_is_whole_or_absent(
        self, root: Path, open_files: Open, way: Way
    ) -> None:
        files = open_files(root, way=way)
        seen: set[bytes | None] = set()
        with running(_APPEAR_AND_VANISH, root / "page"):
            for _ in range(1000):
                seen.add(await read(files, "page"))
        assert seen <= {b"the file", None}

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
        assert is_open(root / "page") is (name == "page")
        find.cancel()
        with pytest.raises(asyncio.CancelledError):
            await find
        assert not is_open(root / "page")
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
    async def test_an_absolute_root_needs_no_working_folder(
        self, root: Path, tmp_path: Path, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "file").write_bytes(b"content")
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert await read(open_files(root), "file") == b"content"

    async def test_a_switched_root_is_followed_when_its_name_is_looked_up_again(
        self, releases: Path, open_files: Open, way: Way, clock: Clock
    ) -> None:
        files = open_files(releases / "current", way=way, clock=clock)
        _switch(releases, "two")
        assert await read(files, "name") == b"one"
        clock.now_s += 60
        assert await read(files, "name") == b"two"

    async def test_the_name_is_looked_up_again_without_being_asked(
        self, releases: Path, open_files: Open
    ) -> None:
        files = open_files(releases / "current")
        _switch(releases, "two")
        while await read(files, "name") != b"two":
            await asyncio.to_thread(time.sleep, 0.05)

    async def test_every_find_sees_one_release_only(self, releases: Path, open_files: Open) -> None:
        files = open_files(releases / "current", clock=itertools.count(step=60).__next__)
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
        self, releases: Path, open_files: Open, clock: Clock
    ) -> None:
        files = open_files(releases / "current", clock=clock)
        (releases / "one/large").write_bytes(b"1" * 200_000)
        found = await files.find([as_file("large")])
        _switch(releases, "two")
        shutil.rmtree(releases / "one")
        clock.now_s += 60
        assert await read(files, "name") == b"two"
        assert await content_of(found) == b"1" * 200_000
        assert not is_open(releases / "one")

    async def test_the_old_release_stays_open_for_a_find_that_uses_it(
        self, releases: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, clock: Clock
    ) -> None:
        begun, may_go = threading.Semaphore(0), threading.Event()

        class Slow(Root):
            def open_file(self, segments: Sequence[bytes]) -> int:
                if segments == (b"slow",):
                    begun.release()
                    may_go.wait()
                return super().open_file(segments)

        async def begin() -> asyncio.Task[Found | None]:
            find = asyncio.create_task(files.find([as_file("slow")]))
            await asyncio.to_thread(begun.acquire)
            return find

        monkeypatch.setattr(files_module, "Root", Slow)
        files = Files(releases / "current", disk=disk, clock=clock)
        slow = [await begin()]
        _switch(releases, "two")
        clock.now_s += 60
        assert await read(files, "name") == b"two"
        assert is_open(releases / "one")
        slow.append(await begin())
        files.close()
        files.close()
        assert is_open(releases / "two")
        may_go.set()
        assert await asyncio.gather(*slow) == [None, None]
        assert not is_open(releases / "one")
        assert not is_open(releases / "two")

    @pytest.mark.parametrize("instead", ["nothing", "a file", "a loop"])
    async def test_while_the_root_is_gone_every_find_is_for_later_and_it_recovers(
        self, releases: Path, open_files: Open, way: Way, instead: str, clock: Clock
    ) -> None:
        files = open_files(releases / "current", way=way, clock=clock)
        (releases / "current").unlink()
        if instead == "a file":
            (releases / "current").touch()
        elif instead == "a loop":
            (releases / "current").symlink_to("current")
        clock.now_s += 60
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
        self, releases: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        files = Files(releases / "current", disk=disk, clock=clock)

        class ClosedMeanwhile(Root):
            def __init__(self, name: bytes, *, symlinks: Symlinks, way: Way) -> None:
                super().__init__(name, symlinks=symlinks, way=way)
                files.close()

        monkeypatch.setattr(files_module, "Root", ClosedMeanwhile)
        _switch(releases, "two")
        clock.now_s += 60
        assert await refusal(files, as_file("name")) == 503

    async def test_of_two_that_find_the_root_gone_only_one_lets_it_go(
        self, releases: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        files = Files(releases / "current", disk=disk, clock=clock)

        class GoneMeanwhile(Root):
            def __init__(self, *_: object, **__: object) -> None:
                files.close()
                raise FileNotFoundError

        monkeypatch.setattr(files_module, "Root", GoneMeanwhile)
        _switch(releases, "two")
        clock.now_s += 60
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


class CountingDisk(Disk):
    """Counts the hops to a thread."""

    hops = 0

    async def run(
        self,
        key: Hashable,
        function: Callable[[], T],
        *,
        queue_s: float | None,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        self.hops += 1
        return await super().run(key, function, queue_s=queue_s, discard=discard)


@pytest.fixture
async def counting_disk() -> AsyncIterator[CountingDisk]:
    disk = CountingDisk()
    yield disk
    disk.close()


# What the first find loads, in a thread, before any other can do without one.
NOTHING = as_file("nothing at all")


async def find_without_hop(disk: CountingDisk, files: Files, *candidates: Candidate) -> Found | None:
    """What is found without a thread, in one of some tries: the kernel may say of anything that it waits."""
    for _ in range(100):
        hops = disk.hops
        found = await files.find(candidates)
        if disk.hops == hops:
            return found
        if found is not None and found.variant is not None:
            found.variant.handle.close()
    raise AssertionError("it always takes a thread")


@needs_at_once
class TestWhatIsInMemory:
    async def test_a_file_in_memory_takes_no_thread(
        self, root: Path, counting_disk: CountingDisk, small_bytes: int
    ) -> None:
        (root / "folder").mkdir()
        (root / "folder/page").write_bytes(b"content")
        files = Files(root, disk=counting_disk, small_bytes=small_bytes)
        await files.find([NOTHING])
        found = await find_without_hop(counting_disk, files, as_file("folder/page"))
        assert found is not None
        assert await content_of(found) == b"content"
        files.close()

    @pytest.fixture(params=[100, 1], ids=["small", "large"])
    def small_bytes(self, request: pytest.FixtureRequest) -> int:
        small_bytes: int = request.param
        return small_bytes

    async def test_neither_does_a_folder_nor_what_is_absent(
        self, root: Path, counting_disk: CountingDisk
    ) -> None:
        (root / "folder").mkdir()
        os.mkfifo(root / "fifo")
        files = Files(root, disk=counting_disk)
        await files.find([NOTHING])
        file, folder = as_file("folder"), as_folder("folder")
        assert await find_without_hop(counting_disk, files, file, folder) == Found(folder, None)
        for name in ("absent", "folder/absent", "fifo"):
            candidates = (as_file(name), as_folder(name))
            assert await find_without_hop(counting_disk, files, *candidates) is None
        files.close()

    async def test_of_more_files_than_are_kept_each_is_found_without_a_thread(
        self, root: Path, counting_disk: CountingDisk
    ) -> None:
        for number in range(200):
            (root / str(number)).write_bytes(b"%d" % number)
        files = Files(root, disk=counting_disk, cache_bytes=0)
        await files.find([NOTHING])
        for number in range(200):
            found = await find_without_hop(counting_disk, files, as_file(str(number)))
            assert await content_of(found) == b"%d" % number
        files.close()

    async def test_a_file_that_is_not_in_memory_takes_one(
        self, root: Path, counting_disk: CountingDisk
    ) -> None:
        (root / "page").write_bytes(bytes(60_000))
        files = Files(root, disk=counting_disk)
        await files.find([NOTHING])
        for _ in range(20):  # the disk may be faster than the question
            forget_content(root / "page")
            hops = counting_disk.hops
            assert await read(files, "page") == bytes(60_000)
            if counting_disk.hops == hops + 1:
                break
        assert counting_disk.hops == hops + 1
        files.close()

    async def test_a_large_file_that_is_not_in_memory_is_found_without_one(
        self, root: Path, counting_disk: CountingDisk
    ) -> None:
        (root / "page").write_bytes(bytes(60_000))
        files = Files(root, disk=counting_disk, small_bytes=1000)
        await files.find([NOTHING])
        forget_content(root / "page")
        found = await find_without_hop(counting_disk, files, as_file("page"))
        assert await content_of(found) == bytes(60_000)
        files.close()

    async def test_a_forbidden_file_is_forbidden_and_what_is_behind_an_absolute_link_is_found(
        self, public_root: Path, counting_disk: CountingDisk
    ) -> None:
        (public_root / "secret").touch(0o000)
        (public_root / "page").write_bytes(b"content")
        (public_root / "link").symlink_to(public_root / "page")
        files = Files(public_root, disk=counting_disk)
        await files.find([NOTHING])
        with without_privileges():
            assert await refusal(files, as_file("secret")) == 403
        assert await read(files, "link") == b"content"
        files.close()


class Reads:
    """Counts how often contents are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("read_at", "read_in_memory"):
            monkeypatch.setattr(files_module, name, self._counting(getattr(files_module, name)))

    def _counting(self, read: Callable[[int, int, int], bytes]) -> Callable[[int, int, int], bytes]:
        def counting(descriptor: int, offset: int, size_bytes: int) -> bytes:
            self.count += 1
            return read(descriptor, offset, size_bytes)

        return counting


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def keeping_new_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is too new to be kept."""
    monkeypatch.setattr(files_module, "_RACY_NS", 0)


async def until_kept(files: Files, path: str) -> Kept:
    """What is kept of that name after it was asked for; a look may always have to wait."""
    for _ in range(100):
        await read(files, path)
        kept = find_kept(files, path)
        if kept is not None:
            return kept
    raise AssertionError("it is never kept")


def find_kept(files: Files, path: str) -> Kept | None:
    """What is kept of that name and current, in one of some looks."""
    kept = files.cache.find(as_file(path).segments)
    return kept if kept is not None and any(files.is_current(kept) for _ in range(100)) else None


def move_out(root: Path, name: str) -> Path:
    return (root / name).rename(root.parent / "outside")


def rewrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def replace(path: Path, content: bytes) -> None:
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").rename(path)


def set_back(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_link(path: Path, text: str | Path) -> Path:
    path.symlink_to(text)
    return path


def put_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


# What happens to folder/page, and what it is then, with links that may stay inside.
Change = Callable[[Path], object]
CHANGES = [
    pytest.param(lambda root: rewrite(root / "folder/page", b"after!"), b"after!", id="rewritten in place"),
    pytest.param(
        lambda root: set_back(root / "folder/page", b"after!"), b"after!", id="with its time set back"
    ),
    pytest.param(lambda root: os.truncate(root / "folder/page", 3), b"bef", id="truncated"),
    pytest.param(lambda root: os.truncate(root / "folder/page", 0), b"", id="emptied"),
    pytest.param(lambda root: os.truncate(root / "folder/page", 7), b"before\0", id="made longer"),
    pytest.param(lambda root: replace(root / "folder/page", b"after!"), b"after!", id="replaced"),
    pytest.param(lambda root: replace(root / "folder/page", b"before"), b"before", id="replaced by a copy"),
    pytest.param(
        lambda root: (root / "old").rename(root / "folder/page"), b"older!", id="replaced by an older one"
    ),
    pytest.param(lambda root: (root / "folder/page").unlink(), None, id="removed"),
    pytest.param(lambda root: (root / "folder/page").rename(root / "x"), None, id="renamed"),
    pytest.param(lambda root: (root / "folder").rename(root / "x"), None, id="in a renamed folder"),
    pytest.param(
        lambda root: ((root / "folder").rename(root / "x"), (root / "other").rename(root / "folder")),
        b"other!",
        id="in a replaced folder",
    ),
    pytest.param(
        lambda root: ((root / "folder/page").unlink(), (root / "folder/page").mkdir()),
        None,
        id="replaced by a folder",
    ),
    pytest.param(
        lambda root: ((root / "folder/page").unlink(), put_fifo(root / "folder/page")),
        None,
        id="replaced by a FIFO",
    ),
    pytest.param(
        lambda root: put_link(root / "folder/page", move_out(root, "folder/page")),
        None,
        id="replaced by a link to where it is now, outside",
    ),
    pytest.param(
        lambda root: put_link(root / "folder", move_out(root, "folder")),
        None,
        id="in a folder replaced by a link to where it is now, outside",
    ),
    pytest.param(
        lambda root: put_link(root / "folder", f"../{move_out(root, 'folder').name}"),
        None,
        id="in a folder replaced by a relative link to where it is now, outside",
    ),
    pytest.param(
        lambda root: ((root / "folder/page").unlink(), put_link(root / "folder/page", "../other/page")),
        b"other!",
        id="replaced by a link inside",
    ),
    pytest.param(
        lambda root: ((root / "folder").rename(root / "x"), put_link(root / "folder", "other")),
        b"other!",
        id="in a folder replaced by a link inside",
    ),
    pytest.param(
        lambda root: ((root / "folder").rename(root / "x"), put_link(root / "folder", "x")),
        b"before",
        id="in a folder replaced by a link to where it is now, inside",
    ),
    pytest.param(lambda root: os.link(root / "folder/page", root / "x"), b"before", id="given another name"),
    pytest.param(lambda root: (root / "folder/page").chmod(0o000), 403, id="forbidden"),
    pytest.param(lambda root: (root / "folder").chmod(0o000), 403, id="in a forbidden folder"),
    pytest.param(lambda root: None, b"before", id="nothing at all"),
]


@needs_at_once
@pytest.mark.usefixtures("keeping_new_files")
class TestWhatIsKept:
    @pytest.fixture
    def tree(self, public_root: Path) -> Path:
        root = public_root / "root"
        for folder in (root / "folder", root / "other"):
            folder.mkdir(parents=True)
        (root / "folder/page").write_bytes(b"before")
        (root / "other/page").write_bytes(b"other!")
        (root / "old").write_bytes(b"older!")
        os.utime(root / "old", ns=(1, 1))
        return root

    async def test_an_unchanged_file_is_looked_at_but_not_opened(
        self, tree: Path, open_files: Open, reads: Reads
    ) -> None:
        files = open_files(tree, cache_bytes=100_000)
        kept = await until_kept(files, "folder/page")
        assert kept.variant.handle.data == b"before"
        count = reads.count
        for _ in range(100):
            # A look that would have to wait is followed by the long way, which reads.
            if find_kept(files, "folder/page") is not None:
                found = await files.find([as_file("folder/page")])
                assert found is not None
                assert found.variant is not None
                assert found.variant.handle.data is kept.variant.handle.data
                found.variant.handle.close()
        assert reads.count == count

    @pytest.mark.parametrize("small_bytes", [100, 1], ids=["small", "large"])
    @pytest.mark.parametrize(("change", "expected"), CHANGES)
    async def test_a_change_is_seen_by_the_next_find(
        self, tree: Path, open_files: Open, small_bytes: int, change: Change, expected: bytes | int | None
    ) -> None:
        files = open_files(tree, cache_bytes=100_000, small_bytes=small_bytes)
        kept = await until_kept(files, "folder/page")
        await asyncio.sleep(0)  # the turn in which it was looked at is over
        change(tree)
        with without_privileges():
            still_kept = find_kept(files, "folder/page")
            if isinstance(expected, int):
                assert await refusal(files, as_file("folder/page")) == expected
            else:
                assert await read(files, "folder/page") == expected
        assert still_kept in (None, kept)
        assert expected == b"before" or still_kept is None

    async def test_what_is_changed_and_changed_back_is_the_new_file(
        self, tree: Path, open_files: Open
    ) -> None:
        files = open_files(tree, cache_bytes=100_000)
        for number in range(200):
            content = b"%06d" % (number % 3)
            rewrite(tree / "folder/page", content)
            assert await read(files, "folder/page") == content
            await asyncio.sleep(0)

    @pytest.mark.parametrize("symlinks", Symlinks)
    async def test_what_is_reached_through_a_link_is_found_again_each_time(
        self, tree: Path, open_files: Open, symlinks: Symlinks
    ) -> None:
        put_link(tree / "to-page", "folder/page")
        put_link(tree / "to-folder", "folder")
        files = open_files(tree, cache_bytes=100_000, symlinks=symlinks)
        for name in ("to-page", "to-folder/page"):
            for _ in range(5):
                expected = None if symlinks is Symlinks.NONE else b"before"
                assert await read(files, name) == expected
                assert find_kept(files, name) is None

    async def test_only_what_may_exist_as_a_file_is_kept(self, tree: Path, open_files: Open) -> None:
        (tree / ".hidden").write_bytes(b"hidden")
        files = open_files(tree, cache_bytes=100_000)
        await until_kept(files, "folder/page")
        assert find_kept(files, "nothing") is None
        await read(files, ".hidden")
        assert find_kept(files, ".hidden") is None
        assert await until_kept(open_files(tree, cache_bytes=100_000, hidden=True), ".hidden")

    @pytest.mark.parametrize(
        "options", [{"cache_bytes": 0}, {"way": Way.WALK}, {"way": Way.NAME}], ids=["off", "walk", "name"]
    )
    @pytest.mark.parametrize("small_bytes", [100, 1], ids=["small", "large"])
    async def test_without_a_cache_or_a_look_nothing_is_kept(
        self, tree: Path, open_files: Open, options: dict[str, object], small_bytes: int
    ) -> None:
        files = open_files(tree, small_bytes=small_bytes, **({"cache_bytes": 100_000} | options))
        for _ in range(5):
            assert await read(files, "folder/page") == b"before"
            assert find_kept(files, "folder/page") is None
        assert not is_open(tree / "folder/page")

    async def test_one_single_file_as_the_root_is_not_kept(self, tree: Path, open_files: Open) -> None:
        files = open_files(tree / "old", cache_bytes=100_000)
        assert await read(files, "old") == b"older!"
        assert find_kept(files, "old") is None

    async def test_closed_nothing_is_kept_and_nothing_is_left_open(
        self, tree: Path, disk: Disk, open_files: Open
    ) -> None:
        files = open_files(tree, cache_bytes=100_000, small_bytes=1)
        kept = await until_kept(files, "folder/page")
        assert is_open(tree / "folder/page")
        finding = asyncio.ensure_future(files.find([as_file("folder/page")]))
        files.close()
        assert not is_open(tree / "folder/page")
        assert not files.is_current(kept)
        with pytest.raises(Refused):
            await finding
        assert await refusal(files, as_file("folder/page")) == 503

    async def test_what_is_found_after_it_was_closed_is_not_kept(
        self, tree: Path, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = open_files(tree, cache_bytes=100_000)

        def closing(descriptor: int, offset: int, size_bytes: int) -> bytes:
            files.close()
            return os.pread(descriptor, size_bytes, offset)

        monkeypatch.setattr(files_module, "read_at", closing)
        assert await read(files, "folder/page") == b"before"
        assert find_kept(files, "folder/page") is None

    async def test_a_large_file_that_nobody_asks_for_is_closed_in_a_while(
        self, tree: Path, open_files: Open, clock: Clock
    ) -> None:
        files = open_files(tree, cache_bytes=100_000, small_bytes=1, clock=clock)
        await until_kept(files, "folder/page")
        files.close_idle()
        assert is_open(tree / "folder/page")
        clock.now_s += 60
        files.close_idle()
        assert not is_open(tree / "folder/page")

    async def test_when_descriptors_are_short_those_that_are_kept_go_first(
        self, tree: Path, open_files: Open
    ) -> None:
        files = open_files(tree, cache_bytes=100_000, small_bytes=1)
        await until_kept(files, "folder/page")
        with no_descriptor_left():
            assert await refusal(files, as_file("other/page")) == 503
        assert not is_open(tree / "folder/page")
        assert await read(files, "other/page") == b"other!"

    async def test_a_file_that_was_found_is_read_to_its_end_whatever_is_kept(
        self, tree: Path, open_files: Open
    ) -> None:
        files = open_files(tree, cache_bytes=100_000, small_bytes=1)
        await until_kept(files, "folder/page")
        found = await files.find([as_file("folder/page")])
        await asyncio.sleep(0)
        replace(tree / "folder/page", b"after!")
        assert await read(files, "folder/page") == b"after!"
        assert await content_of(found) == b"before"


@needs_at_once
@pytest.mark.usefixtures("keeping_new_files")
class TestWhatIsKeptOfARoot:
    async def test_of_a_switched_root_nothing_is_given_again(
        self, releases: Path, open_files: Open, clock: Clock
    ) -> None:
        files = open_files(releases / "current", cache_bytes=100_000, clock=clock)
        kept = await until_kept(files, "name")
        await asyncio.sleep(0)
        _switch(releases, "two")
        clock.now_s += 60
        assert find_kept(files, "name") is None
        assert await read(files, "name") == b"two"
        assert not files.is_current(kept)
        assert await read(files, "only-one") is None

    async def test_not_even_a_file_that_both_have(
        self, releases: Path, open_files: Open, clock: Clock
    ) -> None:
        os.link(releases / "one/only-one", releases / "two/only-one")
        files = open_files(releases / "current", cache_bytes=100_000, clock=clock)
        kept = await until_kept(files, "only-one")
        await asyncio.sleep(0)
        _switch(releases, "two")
        clock.now_s += 60
        assert await read(files, "name") == b"two"
        assert not files.is_current(kept)
        assert await read(files, "only-one") == b"one"

    async def test_a_root_that_is_the_same_when_its_name_is_looked_up_keeps_what_it_had(
        self, releases: Path, open_files: Open, reads: Reads, clock: Clock
    ) -> None:
        files = open_files(releases / "current", cache_bytes=100_000, clock=clock)
        kept = await until_kept(files, "name")
        await asyncio.sleep(0)
        clock.now_s += 60
        # The kernel has the name of a folder that is open in memory: no thread has to look.
        assert find_kept(files, "name") is kept

    async def test_of_a_root_that_is_gone_nothing_is_given_again(
        self, releases: Path, open_files: Open, clock: Clock
    ) -> None:
        files = open_files(releases / "current", cache_bytes=100_000, clock=clock)
        await until_kept(files, "name")
        await asyncio.sleep(0)
        (releases / "current").unlink()
        clock.now_s += 60
        assert await refusal(files, as_file("name")) == 503
        assert find_kept(files, "name") is None


@needs_at_once
class TestFilesThatAreTooNew:
    """What was changed within a step of the file system's clock may change again without another time."""

    @pytest.fixture
    def page(self, root: Path) -> Path:
        (root / "page").write_bytes(b"content")
        return root / "page"

    @pytest.fixture
    def changed_ns(self, page: Path) -> int:
        """When it was changed, in the time of its file system."""
        return page.stat().st_ctime_ns

    def set_time(self, monkeypatch: pytest.MonkeyPatch, now_ns: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: now_ns)

    @pytest.mark.parametrize(
        ("age_ns", "is_kept"), [(0, False), (1_999_999_999, False), (2_000_000_000, True)]
    )
    async def test_for_two_seconds_after_a_change_a_file_is_served_and_not_kept(
        self,
        root: Path,
        changed_ns: int,
        open_files: Open,
        monkeypatch: pytest.MonkeyPatch,
        age_ns: int,
        is_kept: bool,
    ) -> None:
        self.set_time(monkeypatch, changed_ns + age_ns)
        files = open_files(root, cache_bytes=100_000)
        for _ in range(100):
            assert await read(files, "page") == b"content"
            if find_kept(files, "page") is not None:
                break
        assert (find_kept(files, "page") is not None) is is_kept

    async def test_an_older_time_that_was_set_makes_it_no_older(
        self, root: Path, changed_ns: int, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.utime(root / "page", ns=(1, 1))
        self.set_time(monkeypatch, changed_ns + 1_000_000_000)
        files = open_files(root, cache_bytes=100_000)
        for _ in range(5):
            assert await read(files, "page") == b"content"
            assert find_kept(files, "page") is None

    async def test_a_file_from_the_future_is_not_kept(
        self, root: Path, changed_ns: int, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later_ns = changed_ns + 3600 * 1_000_000_000
        os.utime(root / "page", ns=(later_ns, later_ns))
        self.set_time(monkeypatch, changed_ns + 60 * 1_000_000_000)
        files = open_files(root, cache_bytes=100_000)
        for _ in range(5):
            assert await read(files, "page") == b"content"
            assert find_kept(files, "page") is None

    async def test_a_read_that_takes_long_makes_it_no_older(
        self, root: Path, changed_ns: int, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.set_time(monkeypatch, changed_ns)

        def slow(descriptor: int, offset: int, size_bytes: int) -> bytes:
            data = os.pread(descriptor, size_bytes, offset)
            # Here it may be changed within the same step; when it is to be kept, that is long ago.
            self.set_time(monkeypatch, changed_ns + 60 * 1_000_000_000)
            return data

        monkeypatch.setattr(files_module, "read_at", slow)
        files = open_files(root, cache_bytes=100_000)
        assert await read(files, "page") == b"content"
        assert find_kept(files, "page") is None


@needs_at_once
@pytest.mark.usefixtures("keeping_new_files")
class TestThoseWhoAskAtTheSameTime:
    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """The names that are looked at."""
        looks: list[bytes] = []

        class Watched(Root):
            def look_at_once(self, path: bytes) -> os.stat_result:
                looks.append(path)
                return super().look_at_once(path)

        monkeypatch.setattr(files_module, "Root", Watched)
        return looks

    async def look(self, files: Files, kept: Kept) -> None:
        """A look that need not wait, at the end of a turn of the event loop."""
        for _ in range(100):
            await asyncio.sleep(0)
            if files.is_current(kept):
                return
        raise AssertionError("each look has to wait")

    async def test_in_one_turn_of_the_event_loop_they_share_one_look(
        self, root: Path, open_files: Open, looks: list[bytes]
    ) -> None:
        for name in ("page", "other"):
            (root / name).write_bytes(b"content")
        files = open_files(root, cache_bytes=100_000)
        kept, other = await until_kept(files, "page"), await until_kept(files, "other")
        await self.look(files, kept)
        looks.clear()
        for _ in range(5):
            assert files.is_current(kept)
            assert find_kept(files, "page") is kept
            found = await files.find([as_file("page")])
            assert found is not None
            assert found.variant is not None
            found.variant.handle.close()
        assert looks == []
        # Not with those who ask for something else.
        files.is_current(other)
        assert looks == [b"other"]

    async def test_in_the_next_turn_there_is_another_look(
        self, root: Path, open_files: Open, looks: list[bytes]
    ) -> None:
        (root / "page").write_bytes(b"content")
        files = open_files(root, cache_bytes=100_000)
        kept = await until_kept(files, "page")
        for _ in range(5):
            await self.look(files, kept)
            looks.clear()
            await asyncio.sleep(0)
            files.is_current(kept)
            assert looks == [b"page"]

    async def test_looks_that_are_not_shared_are_made_by_each(
        self, root: Path, open_files: Open, looks: list[bytes]
    ) -> None:
        (root / "page").write_bytes(b"content")
        files = open_files(root, cache_bytes=100_000)
        files.shares_looks = False
        kept = await until_kept(files, "page")
        await self.look(files, kept)
        looks.clear()
        for _ in range(5):
            files.is_current(kept)
        assert len(looks) == 5

    @pytest.mark.parametrize("path", ["page", "nothing"])
    async def test_what_all_want_is_loaded_once(
        self, root: Path, counting_disk: CountingDisk, reads: Reads, path: str
    ) -> None:
        (root / "page").write_bytes(b"content")
        expected = (1, 1) if path == "page" else (1, 0)
        # Some tries: the kernel may say of the look by which it is kept that it would have to wait.
        for _ in range(20):
            counting_disk.hops = reads.count = 0
            files = Files(root, disk=counting_disk, cache_bytes=100_000)
            # None of them can do without a thread: what that takes is loaded by the first.
            contents = await asyncio.gather(*(read(files, path) for _ in range(50)))
            assert contents == [b"content" if path == "page" else None] * 50
            files.close()
            if (counting_disk.hops, reads.count) == expected:
                break
        assert (counting_disk.hops, reads.count) == expected

    async def test_who_has_waited_too_long_for_another_goes_by_himself(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "page").write_bytes(b"content")
        disk = CountingDisk(queue_s=0.01)
        files = Files(root, disk=disk, way=Way.WALK)
        begun, may_go = threading.Event(), threading.Event()

        def hanging(descriptor: int, offset: int, size_bytes: int) -> bytes:
            if not begun.is_set():
                begun.set()
                may_go.wait()
            return os.pread(descriptor, size_bytes, offset)

        monkeypatch.setattr(files_module, "read_at", hanging)
        first = asyncio.ensure_future(read(files, "page"))
        await asyncio.to_thread(begun.wait)
        assert await read(files, "page") == b"content"
        assert not first.done()
        may_go.set()
        assert await first == b"content"
        assert disk.hops == 2
        files.close()
        disk.close()

    @pytest.mark.parametrize("end", ["cancelled", "refused"])
    async def test_when_the_one_who_loads_fails_the_others_are_served(
        self, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        (root / "page").write_bytes(b"content")
        begun, may_go = threading.Event(), threading.Event()

        class FailingOnce(Root):
            def open_file(self, segments: Sequence[bytes]) -> int:
                if not begun.is_set():
                    begun.set()
                    may_go.wait()
                    raise OSError(errno.EIO, "made up")
                return super().open_file(segments)

        monkeypatch.setattr(files_module, "Root", FailingOnce)
        files = Files(root, disk=disk)
        first = asyncio.ensure_future(files.find([as_file("page")]))
        others = [asyncio.ensure_future(read(files, "page")) for _ in range(5)]
        await asyncio.to_thread(begun.wait)
        if end == "cancelled":
            first.cancel()
        may_go.set()
        with pytest.raises(asyncio.CancelledError if end == "cancelled" else Refused):
            await first
        assert await asyncio.gather(*others) == [b"content"] * 5
        files.close()
