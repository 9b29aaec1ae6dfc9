from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from aioserve.content import files as files_module
from aioserve.content.containment import Root, Symlinks, Way
from aioserve.content.disk import Disk
from aioserve.content.files import Files, Found, OpenFile
from tests.content.conftest import (
    Open,
    as_file,
    as_folder,
    content_of,
    is_open,
    read,
    refusal,
    running,
    without_privileges,
)


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


async def _open_large(root: Path, files: Files) -> OpenFile:
    (root / "large").write_bytes(bytes(range(256)) * 1000)
    found = await files.find([as_file("large")])
    assert found is not None
    assert found.variant is not None
    assert isinstance(found.variant.handle, OpenFile)
    return found.variant.handle


class TestOpenFile:
    async def test_closing_twice_is_closing_once(self, root: Path, open_files: Open) -> None:
        handle = await _open_large(root, open_files(root))
        assert is_open(root / "large")
        handle.close()
        assert not is_open(root / "large")
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
        begun, may_go = threading.Event(), threading.Event()
        pread = os.pread

        def slow(descriptor: int, size_bytes: int, offset: int) -> bytes:
            begun.set()
            may_go.wait()
            return pread(descriptor, size_bytes, offset)

        handle = await _open_large(root, open_files(root))
        monkeypatch.setattr(os, "pread", slow)
        reading = asyncio.ensure_future(handle.read(1, 3))
        await asyncio.to_thread(begun.wait)
        handle.close()
        assert is_open(root / "large")
        may_go.set()
        assert await reading == b"\1\2\3"
        assert not is_open(root / "large")

    async def test_readers_of_one_file_do_not_mix_where_the_position_is_shared(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, open_files: Open
    ) -> None:
        monkeypatch.delattr(os, "pread")
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


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
