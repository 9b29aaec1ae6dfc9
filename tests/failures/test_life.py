"""Starting, stopping, and what goes on around a server meanwhile: its root, its port, its output."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.failures.churn import exchange, format_version, parse_version
from tests.failures.subject import LOOPS, Subject, serving
from tests.failures.traffic import ask_often, format_request, wait_until
from tests.process import make_command, make_environment
from tests.raw_client import Answer, RawClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read from /proc")

SMALL = format_version(1, 4096)
LARGE = format_version(2, 32 << 20)

# Exchanges whose lines are far more than a small pipe takes.
LINES = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "small.txt").write_bytes(SMALL)
    (folder / "large.bin").write_bytes(LARGE)
    return folder


@pytest.fixture(params=LOOPS)
def server(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Subject]:
    with serving(root, folder=tmp_path, loop=request.param) as subject:
        yield subject


async def expect_service(port: int, count: int = 50) -> None:
    def judge(target: str, answer: Answer) -> None:
        assert (answer.status, answer.body) == (200, SMALL)

    await ask_often(port, ["/small.txt"], count, judge, connections=4)


async def wait_until_refused(port: int) -> None:
    """Returns when nobody listens there any more."""
    for _ in range(1000):
        try:
            async with RawClient(port):
                await asyncio.sleep(0.01)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it stopped to listen in the middle of this
            continue
    raise AssertionError("somebody still listens")


class TestStop:
    async def test_a_download_is_finished_and_idle_connections_end_at_once(self, server: Subject) -> None:
        async with RawClient(server.port) as download, RawClient(server.port) as idle:
            assert (await idle.ask(format_request("/small.txt"))).body == SMALL
            await download.send(format_request("/large.bin"))
            head = await download.reader.readuntil(b"\r\n\r\n")
            begin = await download.reader.readexactly(1000)

            server.terminate()
            assert await idle.read_to_end() == b""
            # The idle one is gone, and the download has not been read on yet.
            assert server.process.poll() is None
            await wait_until_refused(server.port)
            rest = await download.read_to_end()

            assert head.startswith(b"HTTP/1.1 200 ")
            assert parse_version(begin + rest) == 2
        assert await asyncio.to_thread(server.wait) == 0

    async def test_connections_that_have_sent_nothing_or_half_a_head_do_not_hold_it(
        self, root: Path, tmp_path: Path
    ) -> None:
        # So long a grace that the test would fail if it were waited for.
        with serving(root, "--grace", "600", folder=tmp_path) as server:
            async with RawClient(server.port) as silent, RawClient(server.port) as idle:
                await idle.ask(format_request("/small.txt"))
                server.terminate()
                assert await silent.read_to_end() == b""
                assert await idle.read_to_end() == b""
                assert await asyncio.to_thread(server.wait) == 0

    async def test_a_download_that_does_not_end_is_cut_after_the_grace_period(
        self, root: Path, tmp_path: Path
    ) -> None:
        with serving(root, "--grace", "0.2", folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                await client.send(format_request("/large.bin"))
                await client.reader.readuntil(b"\r\n\r\n")
                server.terminate()
                assert await asyncio.to_thread(server.wait) == 0

    async def test_a_second_signal_ends_it_at_once(self, root: Path, tmp_path: Path) -> None:
        with serving(root, "--grace", "600", folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                await client.send(format_request("/large.bin"))
                await client.reader.readuntil(b"\r\n\r\n")
                server.process.send_signal(signal.SIGINT)
                await wait_until_refused(server.port)
                server.process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(server.wait) == 128 + signal.SIGINT


class TestPort:
    async def test_a_second_server_on_the_port_fails_and_the_first_goes_on(
        self, root: Path, server: Subject
    ) -> None:
        done = await asyncio.to_thread(
            subprocess.run,
            make_command("serve", root, "--port", server.port),
            env=make_environment(),
            capture_output=True,
            timeout=20,
        )

        assert done.returncode == 1
        assert str(server.port) in done.stderr.decode()
        await expect_service(server.port)

    async def test_a_restart_on_the_same_port_works_right_away(
        self, root: Path, tmp_path: Path, server: Subject
    ) -> None:
        """The first server closes its connections itself, so that the port is left in TIME_WAIT."""
        clients = [RawClient(server.port) for _ in range(20)]
        for client in clients:
            await client.__aenter__()
            await client.ask(format_request("/small.txt"))
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
        for client in clients:
            assert await client.read_to_end() == b""
            client.writer.close()

        (tmp_path / "second").mkdir()
        with serving(root, folder=tmp_path / "second", port=server.port) as again:
            assert again.port == server.port
            await expect_service(again.port)

    async def test_a_restart_after_a_crash_works_right_away(
        self, root: Path, tmp_path: Path, server: Subject
    ) -> None:
        async with RawClient(server.port) as client:
            await client.send(format_request("/large.bin"))
            await client.reader.readexactly(1000)
            server.process.kill()
            assert await asyncio.to_thread(server.wait) == -signal.SIGKILL
            (tmp_path / "second").mkdir()
            with serving(root, folder=tmp_path / "second", port=server.port) as again:
                await expect_service(again.port)


class TestRoot:
    async def test_a_root_that_is_gone_is_503_and_served_again_when_it_is_back(
        self, root: Path, tmp_path: Path, server: Subject
    ) -> None:
        async with RawClient(server.port) as client:
            assert (await client.ask(format_request("/small.txt"))).status == 200
            os.rename(root, tmp_path / "moved")
            await wait_for_status(client, 503)
            for target in ("/small.txt", "/", "/no-such-file"):
                answer = await client.ask(format_request(target))
                assert answer.status == 503
                assert answer.fields["retry-after"] == "1"
            os.rename(tmp_path / "moved", root)
            await wait_for_status(client, 200)
            assert (await client.ask(format_request("/no-such-file"))).status == 404
        await expect_service(server.port)
        await wait_until(server.has_let_go)

    async def test_another_folder_in_the_place_of_the_root_is_served(
        self, root: Path, tmp_path: Path, server: Subject
    ) -> None:
        """As when a disk is mounted there: the new folder has what the old one had not."""
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "new.txt").write_text("new")
        async with RawClient(server.port) as client:
            assert (await client.ask(format_request("/new.txt"))).status == 404
            exchange(root, tmp_path / "new")
            await wait_for_status(client, 200, "/new.txt")
            assert (await client.ask(format_request("/small.txt"))).status == 404


async def wait_for_status(client: RawClient, status: int, target: str = "/small.txt") -> None:
    """Asks until the answer has that status; fails when it never has."""
    for _ in range(500):
        if (await client.ask(format_request(target))).status == status:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {status}")


def count_waiting(pipe: IO[bytes]) -> int:
    """How many bytes are in the pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    assert isinstance(count, int)
    return count


class TestOutput:
    """Standard output is a pipe, and something is wrong at its other end."""

    @pytest.fixture(params=LOOPS)
    def server(self, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Subject]:
        with serving(root, folder=tmp_path, loop=request.param, is_piped=True) as subject:
            yield subject

    @pytest.fixture
    def pipe(self, server: Subject) -> IO[bytes]:
        assert server.process.stdout is not None
        return server.process.stdout

    async def test_a_pipe_that_nobody_reads_holds_neither_the_service_nor_the_end(
        self, server: Subject, pipe: IO[bytes]
    ) -> None:
        await expect_service(server.port, LINES)
        await wait_until(lambda: count_waiting(pipe) > 0)
        await expect_service(server.port, LINES)
        assert server.read_errors() == ""

        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0

    async def test_what_was_held_up_is_written_when_somebody_reads_again(
        self, server: Subject, pipe: IO[bytes]
    ) -> None:
        await expect_service(server.port, LINES)
        await wait_until(lambda: count_waiting(pipe) > 0)

        reading = asyncio.create_task(asyncio.to_thread(pipe.read))
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
        assert (await reading).count(b'"GET /small.txt HTTP/1.1" 200 4096\n') == LINES

    async def test_a_reader_that_has_gone_ends_nothing(self, server: Subject, pipe: IO[bytes]) -> None:
        pipe.close()

        await expect_service(server.port, LINES)
        # Written once a second: by then the log has met the end of the pipe.
        await asyncio.sleep(2)
        await expect_service(server.port, LINES)

        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
