"""A disk that is slow or broken: it costs those who ask for what is on it, and nobody else."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.failures.churn import format_version, parse_version
from tests.failures.disk_shim import DiskShim
from tests.failures.subject import Subject, serving
from tests.failures.traffic import ask_often, format_request, wait_until
from tests.raw_client import Answer, RawClient, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the disk is replaced by LD_PRELOAD")

LARGE = format_version(7, 1 << 20)
SMALL = format_version(8, 4096)

# The defaults of the server.
THREADS = 32
THREADS_PER_FILE = 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "good.txt").write_bytes(SMALL)
    (folder / "good.bin").write_bytes(LARGE)
    (folder / "404.html").write_text("the site's own page")
    return folder


@pytest.fixture
def server(root: Path, tmp_path: Path, shim: DiskShim) -> Iterator[Subject]:
    shim.hold()
    with serving(root, folder=tmp_path, environment=shim.environment) as subject:
        yield subject
        shim.release()


@pytest.fixture
def uncached_server(root: Path, tmp_path: Path, shim: DiskShim) -> Iterator[Subject]:
    """One that keeps no descriptor, so that each can be told to be somebody's."""
    shim.hold()
    options = ("--cache-size", "0")
    with serving(root, *options, folder=tmp_path, environment=shim.environment) as subject:
        yield subject
        shim.release()


def count_open(server: Subject, name: str) -> int:
    """How many descriptors the server has of files whose names begin so."""
    count = 0
    folder = f"/proc/{server.process.pid}/fd"
    for number in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            count += os.path.basename(os.readlink(f"{folder}/{number}")).startswith(name)
    return count


async def ask_for_good_files(port: int, count: int) -> None:
    def judge(target: str, answer: Answer) -> None:
        assert answer.status == 200, target
        assert answer.body == (SMALL if target == "/good.txt" else LARGE), target

    await ask_often(port, ["/good.txt", "/good.txt", "/good.txt", "/good.bin"], count, judge)


class TestStandingStill:
    async def test_sixty_four_downloads_of_one_slow_file_hold_nobody_else(
        self, root: Path, uncached_server: Subject, shim: DiskShim
    ) -> None:
        server = uncached_server
        (root / "held-from-500000-.bin").write_bytes(LARGE)
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(RawClient(server.port, timeout_s=30)) for _ in range(64)]
            for client in slow:
                await client.send(format_request("/held-from-500000-.bin"))
            for client in slow:
                head = await client.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
            assert count_open(server, "held-from") == len(slow)
            downloads = [asyncio.create_task(client.reader.readexactly(len(LARGE))) for client in slow]

            await ask_for_good_files(server.port, 400)

            # Who has the head has a promise, however long the queue is.
            assert not any(download.done() for download in downloads)
            shim.release()
            assert set(await asyncio.gather(*downloads)) == {LARGE}
        await wait_until(lambda: count_open(server, "held-from") == 0)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            pytest.param("held-read.txt", SMALL, id="a small file"),
            pytest.param("held-read.bin", LARGE, id="a large file"),
        ],
    )
    async def test_who_finds_no_thread_for_a_slow_file_in_time_gets_503(
        self, root: Path, server: Subject, shim: DiskShim, name: str, content: bytes
    ) -> None:
        (root / name).write_bytes(content)
        slow = [asyncio.create_task(get(server.port, f"/{name}")) for _ in range(12)]

        await ask_for_good_files(server.port, 100)
        await wait_until(lambda: sum(task.done() for task in slow) == len(slow) - THREADS_PER_FILE)
        shim.release()
        answers = await asyncio.gather(*slow)

        refused = [answer for answer in answers if answer.status == 503]
        served = [answer for answer in answers if answer.status == 200]
        assert (len(refused), len(served)) == (len(slow) - THREADS_PER_FILE, THREADS_PER_FILE)
        assert all(answer.fields["retry-after"] == "1" for answer in refused)
        assert all(answer.body == content for answer in served)

    async def test_with_every_thread_held_what_is_in_memory_is_answered_and_all_else_is_503(
        self, root: Path, server: Subject, shim: DiskShim
    ) -> None:
        cold = {"held-read-cold.txt": SMALL, "held-read-cold.bin": LARGE, "held-open-cold.txt": SMALL}
        for name, content in cold.items():
            (root / name).write_bytes(content)
        for number in range(THREADS):
            (root / f"held-read-{number}.bin").write_bytes(LARGE)
        slow = [
            asyncio.create_task(get(server.port, f"/held-read-{number}.bin")) for number in range(THREADS)
        ]
        await wait_until(lambda: count_open(server, "held-read") == THREADS)

        async with RawClient(server.port) as client:
            for name in cold:
                answer = await client.ask(format_request(f"/{name}"))
                assert answer.status == 503, name
                assert answer.fields["retry-after"] == "1"
                assert "connection" not in answer.fields
                # By now the name of the root was to be looked up again, which needs no thread either.
                await ask_for_good_files(server.port, 50)
            assert (await client.ask(format_request("/good.txt", method="HEAD"), "HEAD")).status == 200
            last = await client.ask(format_request("/good.bin", "Range: bytes=-100"))
            assert (last.status, last.body) == (206, LARGE[-100:])
            assert (await client.ask(format_request("*", method="OPTIONS"))).status == 204
            assert not any(task.done() for task in slow)
            shim.release()
            assert {answer.body for answer in await asyncio.gather(*slow)} == {LARGE}
            for name, content in cold.items():
                assert (await client.ask(format_request(f"/{name}"))).body == content, name

    async def test_a_name_that_cannot_be_opened_holds_only_those_who_want_it(
        self, root: Path, server: Subject, shim: DiskShim
    ) -> None:
        (root / "held-open.txt").write_bytes(SMALL)
        slow = [asyncio.create_task(get(server.port, "/held-open.txt")) for _ in range(THREADS_PER_FILE)]

        await ask_for_good_files(server.port, 100)

        assert not any(task.done() for task in slow)
        shim.release()
        assert {answer.body for answer in await asyncio.gather(*slow)} == {SMALL}

    async def test_a_file_that_opens_after_its_client_has_left_is_closed(
        self, root: Path, uncached_server: Subject, shim: DiskShim
    ) -> None:
        server = uncached_server
        (root / "held-open.bin").write_bytes(LARGE)
        async with AsyncExitStack() as stack:
            for _ in range(THREADS_PER_FILE):
                client = await stack.enter_async_context(RawClient(server.port))
                await client.send(format_request("/held-open.bin"))
            await ask_for_good_files(server.port, 50)
        shim.release()

        # All places for that file were taken: who gets one comes after somebody who has left.
        assert (await get(server.port, "/held-open.bin")).body == LARGE
        await wait_until(server.has_let_go)
        await ask_for_good_files(server.port, 50)

    async def test_a_server_that_is_told_to_stop_ends_although_its_disk_stands_still(
        self, root: Path, tmp_path: Path, shim: DiskShim
    ) -> None:
        (root / "held-read.bin").write_bytes(LARGE)
        shim.hold()
        with serving(root, "--grace", "0.2", folder=tmp_path, environment=shim.environment) as server:
            async with RawClient(server.port) as client:
                await client.send(format_request("/held-read.bin"))
                await wait_until(lambda: count_open(server, "held-read") == 1)
                server.terminate()
                assert await asyncio.to_thread(server.wait) == 0


class TestFailing:
    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("eio-open.txt", id="a file that cannot be opened"),
            pytest.param("eio-read-0-small.txt", id="a small file that cannot be read"),
            pytest.param("eio-read-0-large.bin", id="a large file that cannot be read"),
            pytest.param("eio-read-100-small.txt", id="a small file that cannot be read to its end"),
            pytest.param("eio-read-100-large.bin", id="a large file that fails in its first piece"),
            pytest.param("eio-open/", id="a folder whose index cannot be opened"),
        ],
    )
    async def test_a_failure_before_the_head_is_503_and_never_404(
        self, root: Path, server: Subject, name: str
    ) -> None:
        path = root / name
        if name.endswith("/"):
            path.mkdir()
            path /= "index.html"
        path.write_bytes(LARGE if name.endswith(".bin") else SMALL)

        async with RawClient(server.port) as client:
            for _ in range(3):
                answer = await client.ask(format_request(f"/{name}"))
                assert answer.status == 503
                assert answer.fields["retry-after"] == "1"
                assert "etag" not in answer.fields
                assert "content-range" not in answer.fields
                assert name.encode() not in answer.body
            assert (await client.ask(format_request("/good.txt"))).body == SMALL

    async def test_a_failure_midway_aborts_the_connection(self, root: Path, server: Subject) -> None:
        (root / "eio-read-700000-.bin").write_bytes(LARGE)

        async with RawClient(server.port) as client:
            await client.send(format_request("/eio-read-700000-.bin") + format_request("/good.txt"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nContent-Length: 1048576\r\n" in head
            try:
                body = await client.read_to_end()
            except ConnectionResetError:
                body = b""
        assert len(body) <= 700_000
        # Nothing but what the file holds: no error page inside it, no next answer behind it.
        assert not body or parse_version(body[: len(body) // 8 * 8]) == 7
        await ask_for_good_files(server.port, 50)

    async def test_what_can_be_read_of_a_broken_file_is_sent(self, root: Path, server: Subject) -> None:
        (root / "eio-read-700000-.bin").write_bytes(LARGE)

        async with RawClient(server.port) as client:
            good = await client.ask(format_request("/eio-read-700000-.bin", "Range: bytes=0-699999"))
            bad = await client.ask(format_request("/eio-read-700000-.bin", "Range: bytes=700000-"))

        assert (good.status, good.body) == (206, LARGE[:700_000])
        assert bad.status == 503

    async def test_a_part_that_cannot_be_read_aborts_a_multipart_answer(
        self, root: Path, server: Subject
    ) -> None:
        (root / "eio-read-700000-.bin").write_bytes(LARGE)

        async with RawClient(server.port) as client:
            await client.send(format_request("/eio-read-700000-.bin", "Range: bytes=0-99,-100"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 206 ")
            announced = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            try:
                body = await client.read_to_end()
            except ConnectionResetError:
                body = b""
        assert len(body) < announced

    async def test_the_log_says_so_without_a_traceback(self, root: Path, server: Subject) -> None:
        (root / "eio-read-0-.bin").write_bytes(LARGE)
        (root / "eio-read-700000-.bin").write_bytes(LARGE)

        assert (await get(server.port, "/eio-read-0-.bin")).status == 503
        async with RawClient(server.port) as client:
            await client.send(format_request("/eio-read-700000-.bin"))
            with suppress(ConnectionResetError):
                await client.read_to_end()

        await wait_until(lambda: "aborted" in server.read_errors())
        lines = server.read_errors().splitlines()
        assert len(lines) == 2, lines


class TestWithoutSendfile:
    """Files of a file system that does not know it arrive all the same."""

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("no-sendfile.bin", id="in memory"),
            pytest.param("no-sendfile-held-from-0-.bin", id="to be waited for"),
        ],
    )
    async def test_every_byte_arrives(self, root: Path, server: Subject, shim: DiskShim, name: str) -> None:
        content = LARGE * 8
        (root / name).write_bytes(content)
        async with RawClient(server.port, timeout_s=30) as client:
            whole = asyncio.create_task(client.ask(format_request(f"/{name}")))
            if "held" in name:
                await wait_until(lambda: count_open(server, name) > 0)
                assert not whole.done()
            shim.release()
            assert (await whole).body == content
            part = await client.ask(format_request(f"/{name}", "Range: bytes=99999-7000000"))
            assert (part.status, part.body) == (206, content[99_999:7_000_001])
            await ask_for_good_files(server.port, 50)

    async def test_one_that_shrinks_meanwhile_aborts_the_connection(
        self, root: Path, server: Subject
    ) -> None:
        path = root / "no-sendfile.bin"
        path.touch()
        os.truncate(path, 64 << 20)  # more than the kernel's buffers of one connection hold
        async with RawClient(server.port) as client:
            await client.send(format_request("/no-sendfile.bin"))
            await client.reader.readuntil(b"\r\n\r\n")
            os.truncate(path, 1 << 20)
            try:
                received = await client.read_to_end()
            except ConnectionResetError:
                received = b""
        assert len(received) < 64 << 20
        await wait_until(lambda: "aborted" in server.read_errors())
        assert len(server.read_errors().splitlines()) == 1
