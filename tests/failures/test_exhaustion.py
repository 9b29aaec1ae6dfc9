"""Clients that use up descriptors, memory or patience: others are served, and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.failures.churn import format_version
from tests.failures.subject import LOOPS, Subject, serving
from tests.failures.traffic import ask_often, format_request, wait_until
from tests.raw_client import Answer, RawClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and memory are read from /proc")

SMALL = format_version(1, 4096)
LARGE = format_version(2, 8 << 20)

MIB = 1 << 20

# Half a core: asyncio, left to itself, takes a whole one when descriptors run out.
MAX_CPU_SHARE = 0.5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "small.txt").write_bytes(SMALL)
    (folder / "large.bin").write_bytes(LARGE)
    return folder


@pytest.fixture
def server(root: Path, tmp_path: Path) -> Iterator[Subject]:
    with serving(root, folder=tmp_path) as subject:
        yield subject


@pytest.fixture(params=LOOPS)
def server_on_each_loop(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Subject]:
    with serving(root, folder=tmp_path, loop=request.param) as subject:
        yield subject


async def expect_service(port: int, count: int = 100) -> None:
    def judge(target: str, answer: Answer) -> None:
        assert (answer.status, answer.body) == (200, SMALL)

    await ask_often(port, ["/small.txt"], count, judge, connections=4)


async def watch_for_two_seconds(server: Subject) -> tuple[float, list[str]]:
    """The CPU time that the server uses meanwhile, and all lines that it has written to standard error."""
    before_s = server.read_cpu_s()
    await asyncio.sleep(2)
    return server.read_cpu_s() - before_s, server.read_errors().splitlines()


class TestDescriptors:
    @pytest.mark.parametrize("loop", LOOPS)
    async def test_out_of_descriptors_clients_wait_and_are_served_when_others_leave(
        self, root: Path, tmp_path: Path, loop: str
    ) -> None:
        options = ("--max-connections", "1000")
        with serving(root, *options, folder=tmp_path, loop=loop, descriptors=100) as server:
            async with AsyncExitStack() as later:
                async with AsyncExitStack() as first:
                    for _ in range(60):
                        await first.enter_async_context(RawClient(server.port))
                    clients = [await later.enter_async_context(RawClient(server.port)) for _ in range(60)]
                    for client in clients:
                        await client.send(format_request("/small.txt"))
                    used_s, lines = await watch_for_two_seconds(server)
                    assert used_s < 2 * MAX_CPU_SHARE
                    assert len(lines) == 1, lines
                    assert "descriptors" in lines[0]
                for client in clients:
                    answer = await client.read_answer()
                    # A connection may have taken what its file would have needed.
                    assert answer.status in (200, 503)
            await expect_service(server.port)
            await wait_until(server.has_let_go)
            assert server.read_errors().splitlines() == lines

    async def test_a_shortage_that_nobody_could_foresee_is_survived(
        self, server_on_each_loop: Subject
    ) -> None:
        """The limit falls while the server runs, as it does when the whole machine is short of descriptors.

        uvloop ends those connections for which there is no room; asyncio lets them wait.
        """
        server = server_on_each_loop
        await expect_service(server.port)
        await wait_until(server.has_let_go)
        server.limit_descriptors(server.find_free_descriptor() + 20)

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(server.port)) for _ in range(60)]
            used_s, lines = await watch_for_two_seconds(server)
            assert used_s < 2 * MAX_CPU_SHARE
            assert len(lines) <= 1, lines
            # Those that are in go on.
            server.limit_descriptors(1000)
            assert (await clients[0].ask(format_request("/small.txt"))).body == SMALL

        await expect_service(server.port)
        await wait_until(server.has_let_go)
        assert server.read_errors().splitlines() == lines

    async def test_a_file_that_finds_no_descriptor_is_503_and_later_200(
        self, root: Path, server_on_each_loop: Subject
    ) -> None:
        server = server_on_each_loop
        async with RawClient(server.port) as client:
            assert (await client.ask(format_request("/small.txt"))).status == 200
            server.limit_descriptors(server.find_free_descriptor())
            for target in ("/large.bin", "/no-such-file", "/"):
                answer = await client.ask(format_request(target))
                assert answer.status == 503, target
                assert answer.fields["retry-after"] == "1"
            server.limit_descriptors(1000)
            assert (await client.ask(format_request("/large.bin"))).body == LARGE

    async def test_a_thousand_requests_of_all_kinds_leave_no_descriptor_behind(
        self, root: Path, server_on_each_loop: Subject
    ) -> None:
        server = server_on_each_loop
        (root / "folder").mkdir()
        whole = [
            format_request("/small.txt"),
            format_request("/large.bin", "Range: bytes=1000-200000"),
            format_request("/large.bin", "Range: bytes=0-9,100000-300000,-9"),
            format_request("/large.bin", "Range: bytes=99999999-"),
            format_request("/large.bin", "If-None-Match: *"),
            format_request("/large.bin", 'If-Match: "another"'),
            format_request("/large.bin", method="HEAD"),
            format_request("/folder"),
            format_request("/folder/"),
            format_request("/no-such-file"),
            format_request("/small.txt", method="POST"),
            b"GET /small.txt\r\n\r\n",
        ]
        chooser = random.Random(0)

        async def ask(number: int) -> None:
            async with RawClient(server.port) as client:
                kind = number % 4
                if kind == 0:
                    await client.send(chooser.choice(whole))
                    await client.reader.readuntil(b"\r\n\r\n")
                elif kind == 1:  # leaves in the middle of a download
                    await client.send(format_request("/large.bin"))
                    await client.reader.readexactly(chooser.randrange(1, 100_000))
                elif kind == 2:  # leaves before the first byte of the answer
                    await client.send(format_request("/large.bin") * chooser.randrange(1, 4))
                else:  # leaves in the middle of a head
                    await client.send(format_request("/large.bin")[: chooser.randrange(60)])

        for start in range(0, 1000, 50):
            async with asyncio.TaskGroup() as group:
                for number in range(start, start + 50):
                    group.create_task(ask(number))

        await expect_service(server.port)
        await wait_until(server.has_let_go)


class TestEndlessRequests:
    """Each is fed until the server has had enough: in bounded memory, by an answer and the end."""

    @pytest.mark.parametrize(
        ("start", "piece", "statuses"),
        [
            pytest.param(b"GET /", b"a" * 4096, {414}, id="a request line"),
            pytest.param(b"A", b"A" * 4096, {414}, id="a method"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 4096, {431}, id="a field"),
            pytest.param(
                b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n" * 500, {431}, id="a head of short fields"
            ),
            pytest.param(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
                b"a" * 4096,
                {400},
                id="a chunk extension",
            ),
            pytest.param(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
                b"X: a\r\n" * 500,
                {431},
                id="a trailer",
            ),
            pytest.param(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
                b"a" * 4096,
                {400},
                id="a line of a trailer",
            ),
            pytest.param(
                b"GET /small.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nx\r\n" * 500,
                {200},
                id="a body of tiny chunks",
            ),
            pytest.param(
                b"GET /small.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1;" + b"x" * 3000 + b"\r\nx\r\n",
                {200},
                id="a body of tiny chunks with long extensions",
            ),
            pytest.param(
                b"GET /small.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n",
                b"x" * 4096,
                {200},
                id="a body",
            ),
            pytest.param(b"", b"\r\n" * 500, {400}, id="empty lines"),
            pytest.param(b"", b"\x16\x03\x01\x00\xff" * 500, {400, 414}, id="what is no HTTP"),
        ],
    )
    async def test_it_is_answered_and_ended(
        self, server: Subject, start: bytes, piece: bytes, statuses: set[int]
    ) -> None:
        await expect_service(server.port)
        before = server.read_rss_bytes()
        async with RawClient(server.port, timeout_s=30) as client:

            async def feed() -> None:
                # What is sent after the answer is dropped, and at last refused.
                with suppress(ConnectionError):
                    await client.send(start)
                    for _ in range(64 * MIB // len(piece)):
                        await client.send(piece)

            feeding = asyncio.create_task(feed())
            answer = await client.read_answer()
            feeding.cancel()

            assert answer.status in statuses
            assert answer.fields["connection"] == "close"
            assert await client.reader.read(1) == b""
        assert server.read_rss_bytes() - before < 8 * MIB
        await expect_service(server.port)


class TestMemory:
    async def test_pipelining_without_reading_waits_in_the_kernel(self, server_on_each_loop: Subject) -> None:
        """Each request that was sent whole is answered in its turn when the client reads at last."""
        server = server_on_each_loop
        await expect_service(server.port)
        before = server.read_rss_bytes()
        request = format_request("/small.txt", "X-Padding: " + 400 * "a")
        loop = asyncio.get_running_loop()
        sent = 0

        with open_narrow(server.port) as client:
            client.setblocking(False)
            with suppress(TimeoutError):
                while sent < 64 * MIB:
                    # Nothing gets on for a second: the server has stopped to read.
                    async with asyncio.timeout(1):
                        await loop.sock_sendall(client, request)
                    sent += len(request)
            assert 100 * len(request) < sent < 64 * MIB
            assert server.read_rss_bytes() - before < 8 * MIB

            # The last piece may have gone in part; what the server makes of half a request is not asked here.
            client.shutdown(socket.SHUT_WR)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
            answers = b"".join([chunk async for chunk in receive(client)])
        assert answers.count(SMALL) >= sent // len(request)
        assert server.read_rss_bytes() - before < 8 * MIB

    async def test_slow_readers_cost_bounded_memory_each(self, server_on_each_loop: Subject) -> None:
        server = server_on_each_loop
        await expect_service(server.port)
        before = server.read_rss_bytes()
        readers = 100

        async with AsyncExitStack() as stack:
            for _ in range(readers):
                client = stack.enter_context(open_narrow(server.port))
                client.sendall(format_request("/large.bin"))
            # When all are stuck, nothing is read from the disk any more.
            await wait_until_calm(server)
            used = server.read_rss_bytes() - before
            await expect_service(server.port)

        assert used / readers < 512 * 1024
        await wait_until(server.has_let_go)

    async def test_who_has_left_costs_nothing(self, server: Subject) -> None:
        """Each round leaves a hundred answers unread; after the last, it has no more than after the first."""
        sizes = []
        for _ in range(4):
            async with AsyncExitStack() as stack:
                for _ in range(100):
                    client = await stack.enter_async_context(RawClient(server.port))
                    await client.send(format_request("/large.bin"))
            await wait_until(server.has_let_go)
            sizes.append(server.read_rss_bytes())

        assert sizes[-1] - sizes[0] < 16 * MIB


def open_narrow(port: int) -> socket.socket:
    """A connection whose client has room for some kilobytes only."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


async def wait_until_calm(server: Subject) -> None:
    """Returns when the server has used next to no CPU time for a while."""
    used_s = -1.0
    for _ in range(100):
        before_s, used_s = used_s, server.read_cpu_s()
        if used_s - before_s <= 0.02:
            return
        await asyncio.sleep(0.3)
    raise AssertionError("the server does not come to rest")


async def receive(client: socket.socket) -> AsyncIterator[bytes]:
    """What comes until the end, or a reset."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionResetError):
        while data := await loop.sock_recv(client, 1 << 18):
            yield data


# What the client sends, and how many bytes it reads before it resets the connection.
_DOWNLOAD = format_request("/large.bin")
MOMENTS = [
    (b"", 0),
    (_DOWNLOAD[:20], 0),
    (_DOWNLOAD, 0),
    (_DOWNLOAD, 1),
    (_DOWNLOAD * 3, 300_000),
    (_DOWNLOAD * 3, len(LARGE)),
    (format_request("/small.txt") * 20, 30_000),
    (b"nonsense\r\n\r\n", 1),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 0),
]


async def reset_at(port: int, moment: tuple[bytes, int]) -> None:
    data, size = moment
    async with RawClient(port) as client:
        await client.send(data)
        await client.reader.readexactly(size)
        # Closed with data underway, or so by this option, a socket resets its connection.
        peer = client.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def ask_once(port: int, request: bytes) -> Answer:
    async with RawClient(port) as client:
        await client.send(request)
        client.end()
        return await client.read_answer()


class TestLog:
    @pytest.mark.parametrize("log_format", ["common", "combined", "json"])
    async def test_nothing_that_a_client_sends_reaches_the_log_raw(
        self, root: Path, tmp_path: Path, log_format: str
    ) -> None:
        evil = [bytes([code]) for code in (*range(0x20), *range(0x7F, 0x100))]
        evil += [b'"', b"\\", b"\x1b[2J", b"\xc2\x9b2J", b"\xe2\x80\xae", b"\n127.0.0.1 - - forged"]
        places = [
            b"GET /%s HTTP/1.1\r\nHost: a\r\n",
            b"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: evil%sagent\r\n",
            b"GET /a HTTP/1.1\r\nHost: a\r\nReferer: evil%sreferer\r\n",
            b"G%sT /a HTTP/1.1\r\nHost: a\r\n",
            b"GET /a HTTP/1.1\r\nHost: evil%shost\r\n",
        ]
        requests = [place % piece + b"Connection: close\r\n\r\n" for place in places for piece in evil]
        requests += [b"GET /%%%02x HTTP/1.1\r\nHost: a\r\n\r\n" % code for code in range(256)]

        with serving(root, "--log-format", log_format, "--verbose", folder=tmp_path) as server:
            banner = server.read_output()
            for start in range(0, len(requests), 50):
                batch = requests[start : start + 50]
                await asyncio.gather(*(ask_once(server.port, request) for request in batch))
            server.terminate()
            assert await asyncio.to_thread(server.wait) == 0
            output = server.read_output().removeprefix(banner)
            errors = server.read_errors().encode("utf-8", "surrogateescape")

        assert output.count(b"\n") == len(requests)
        assert re.fullmatch(rb"[\x20-\x7e\n]*", output)
        assert re.fullmatch(rb"[\x20-\x7e\n]*", errors)
        assert not re.search(rb"^127\.0\.0\.1 - - forged", output, re.MULTILINE)


class TestResets:
    async def test_a_storm_of_resets_leaves_no_complaint(self, server_on_each_loop: Subject) -> None:
        """Clients reset the connection at every moment; `serving` looks for complaints on standard error."""
        server = server_on_each_loop
        for start in range(0, 600, 60):
            async with asyncio.TaskGroup() as group:
                for number in range(start, start + 60):
                    group.create_task(reset_at(server.port, MOMENTS[number % len(MOMENTS)]))

        await expect_service(server.port)
        await wait_until(server.has_let_go)
        assert server.read_errors() == ""
