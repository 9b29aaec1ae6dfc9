"""Bodies as they arrive at a client: whole, in ranges and parts, of files that change or cannot be read."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, cast

import pytest

from aioserve.content.disk import Disk
from aioserve.content.handle import OpenFile
from aioserve.content.site import Site
from aioserve.network import sender
from aioserve.network.sender import send_answer, send_slice
from aioserve.network.stream import LentSocket, Stream
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Body, Bytes, Parts, Plan, Slice
from aioserve.protocol.variant import Handle
from tests.content.conftest import is_open
from tests.failures.traffic import format_request
from tests.network.breaking import answer_by, before_sending, begin_transfer, read_what_comes, take_away
from tests.network.conftest import LARGE, MIB, Serve
from tests.network.test_stream import LIMITS, Contexts, open_pair
from tests.network.test_stream import tls as tls
from tests.network.waiting import wait_until
from tests.raw_client import Answer, RawClient

T = TypeVar("T")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read from /proc")

HELLO = format_request("/hello.txt")

# Two long parts: the second begins long after what any buffer holds.
TWO_PARTS = "Range: bytes=0-29999999,40000000-59999999"
SECOND_PART = 40_000_000

# Each is sent from a descriptor, and is longer than the buffers of a connection.
LONG_BODIES = [pytest.param((), id="a whole file"), pytest.param((TWO_PARTS,), id="two parts of a file")]


@pytest.fixture
def huge(site_root: Path) -> Path:
    return site_root / "huge.bin"


@pytest.fixture
def large(site_root: Path) -> Path:
    return site_root / "large.bin"


async def expect_service(client: RawClient) -> None:
    """The connection is in step: its next answer begins where the last one ended."""
    assert (await client.ask(HELLO)).body == b"hello\n"


class TestWholeFiles:
    @pytest.mark.parametrize(
        "size_bytes",
        [
            pytest.param(0, id="an empty one"),
            pytest.param(1, id="one byte"),
            pytest.param(65_536, id="the longest that is read when it is found"),
            pytest.param(65_537, id="one byte more"),
            pytest.param(262_143, id="a byte less than a piece"),
            pytest.param(262_144, id="one piece"),
            pytest.param(262_145, id="a byte more than a piece"),
            pytest.param(3 * 262_144, id="three pieces"),
            pytest.param(5 * MIB + 3, id="many pieces"),
        ],
    )
    async def test_every_byte_of_a_file_arrives(self, serve: Serve, site_root: Path, size_bytes: int) -> None:
        content = (LARGE * (size_bytes // MIB + 1))[:size_bytes]
        (site_root / "file.bin").write_bytes(content)
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(format_request("/file.bin"))

            assert (answer.status, answer.fields["content-length"]) == (200, str(size_bytes))
            assert answer.body == content
            await expect_service(client)

    async def test_every_byte_arrives_at_a_client_that_reads_little_at_a_time(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await client.send(format_request("/large.bin"))
            await client.reader.readuntil(b"\r\n\r\n")
            received = [await client.reader.readexactly(1000) for _ in range(MIB // 1000)]
            received.append(await client.reader.readexactly(MIB % 1000))

            assert b"".join(received) == LARGE
            await expect_service(client)

    async def test_many_clients_at_once_get_every_byte(self, serve: Serve, large: Path) -> None:
        async with serve() as server:

            async def fetch() -> bytes:
                async with RawClient(server.port, timeout_s=30) as client:
                    return (await client.ask(format_request("/large.bin"))).body

            bodies = await asyncio.gather(*(fetch() for _ in range(16)))

        assert all(body == LARGE for body in bodies)
        assert not is_open(large)


class TestNoBody:
    """RFC 9110 §6.4.1: the answers to which no content belongs."""

    @pytest.mark.parametrize(
        ("request_", "method", "status"),
        [
            pytest.param(format_request("/large.bin", method="HEAD"), "HEAD", 200, id="HEAD of a file"),
            pytest.param(format_request("/none", method="HEAD"), "HEAD", 404, id="HEAD of nothing"),
            pytest.param(format_request("/large.bin", "If-None-Match: *"), "GET", 304, id="304"),
            pytest.param(format_request("*", method="OPTIONS"), "OPTIONS", 204, id="204"),
            pytest.param(format_request("/folder"), "GET", 308, id="a redirect"),
        ],
    )
    async def test_the_next_answer_begins_behind_the_head(
        self, serve: Serve, request_: bytes, method: str, status: int
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(request_, method)

            assert (answer.status, answer.body) == (status, b"")
            await expect_service(client)


class TestRanges:
    """RFC 9110 §14, to the byte."""

    @pytest.mark.parametrize(
        ("field", "start", "stop"),
        [
            pytest.param("0-0", 0, 1, id="the first byte"),
            pytest.param("5-", 5, None, id="all but the first bytes"),
            pytest.param("-5", -5, None, id="the last bytes"),
            pytest.param("0-", 0, None, id="all"),
            pytest.param("1000-1999", 1000, 2000, id="some in the middle"),
            pytest.param("1-262144", 1, 262_145, id="a piece that begins at an odd place"),
            pytest.param("262143-262144", 262_143, 262_145, id="the two at a border of pieces"),
            pytest.param("300000-900000", 300_000, 900_001, id="several pieces"),
        ],
    )
    async def test_one_range_is_exactly_these_bytes(
        self, serve: Serve, field: str, start: int, stop: int | None
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(format_request("/large.bin", f"Range: bytes={field}"))

            assert (answer.status, answer.body) == (206, LARGE[start:stop])
            await expect_service(client)

    @pytest.mark.parametrize(
        ("name", "content", "field", "spans"),
        [
            pytest.param("large.bin", LARGE, "0-9,50-59", [(0, 10), (50, 60)], id="two of a large file"),
            pytest.param("hello.txt", b"hello\n", "0-0,2-3", [(0, 1), (2, 4)], id="two of a small file"),
            pytest.param(
                "large.bin", LARGE, "900000-900009,7-8", [(900_000, 900_010), (7, 9)], id="backwards"
            ),
            pytest.param(
                "large.bin",
                LARGE,
                "0-299999,400000-999999,-3",
                [(0, 300_000), (400_000, 1_000_000), (MIB - 3, MIB)],
                id="parts of several pieces",
            ),
            pytest.param(
                "large.bin",
                LARGE,
                "0-16382,100000-116383,200000-216384,-1",
                [(0, 16_383), (100_000, 116_384), (200_000, 216_385), (MIB - 1, MIB)],
                id="parts about the size that goes with its head",
            ),
            pytest.param(
                "larger.bin",
                LARGE * 5,
                "7-16,1000-3000999,3050000-3050000,3100000-5242879",
                [(7, 17), (1000, 3_001_000), (3_050_000, 3_050_001), (3_100_000, 5 * MIB)],
                id="small ones between such as take several calls",
            ),
            pytest.param(
                "large.bin",
                LARGE,
                ",".join(f"{number * 1000}-{number * 1000 + 9}" for number in range(32)),
                [(number * 1000, number * 1000 + 10) for number in range(32)],
                id="as many as there may be",
            ),
        ],
    )
    async def test_several_ranges_are_exactly_these_parts(
        self,
        serve: Serve,
        site_root: Path,
        name: str,
        content: bytes,
        field: str,
        spans: Sequence[tuple[int, int]],
    ) -> None:
        (site_root / name).write_bytes(content)
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(format_request(f"/{name}", f"Range: bytes={field}"))

            assert answer.status == 206
            assert answer.body == format_parts(answer, content, spans)
            await expect_service(client)


def format_parts(answer: Answer, content: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """The body of RFC 9110 §14.6 with the boundary that `answer` names."""
    match = re.fullmatch(r"multipart/byteranges; boundary=(\S+)", answer.fields["content-type"])
    assert match is not None
    kind = b"text/plain; charset=utf-8" if len(content) < 100 else b"application/octet-stream"
    boundary = b"\r\n--" + match[1].encode()
    parts = [
        boundary
        + b"\r\nContent-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
        % (kind, start, stop - 1, len(content))
        + content[start:stop]
        for start, stop in spans
    ]
    return b"".join([*parts, boundary, b"--\r\n"])


class TestFilesThatChange:
    async def test_a_file_that_shrinks_while_it_is_sent_aborts_the_connection(
        self, serve: Serve, huge: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            os.truncate(huge, MIB)
            await client.send(HELLO)
            received = await read_what_comes(client)

            assert received == bytes(len(received))
            assert len(received) < announced
            await wait_until(lambda: not is_open(huge))
        assert [record.levelname for record in caplog.records if record.name == "aioserve"] == ["WARNING"]

    async def test_a_part_that_is_gone_when_its_turn_comes_aborts_the_connection(
        self, serve: Serve, huge: Path
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin", TWO_PARTS)
            os.truncate(huge, SECOND_PART)
            await client.send(HELLO)
            received = await read_what_comes(client)

            assert len(received) < announced
            assert b"HTTP/1.1" not in received
            await wait_until(lambda: not is_open(huge))

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param((), id="asked for the whole"),
            pytest.param(("Range: bytes=1000-",), id="asked for what is gone"),
        ],
    )
    async def test_a_file_that_is_emptied_before_its_first_byte_is_503(
        self, serve: Serve, large: Path, monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...]
    ) -> None:
        before_sending(monkeypatch, lambda: os.truncate(large, 0))
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(format_request("/large.bin", *fields))

            assert (answer.status, answer.fields["retry-after"]) == (503, "1")
            await expect_service(client)

    async def test_a_file_that_grows_while_it_is_sent_is_sent_as_announced(
        self, serve: Serve, huge: Path
    ) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            announced = await begin_transfer(client, "/huge.bin")
            with huge.open("ab") as file:
                file.write(b"more" * 1000)
            body = await client.reader.readexactly(announced)

            assert body == bytes(64 * MIB)
            await expect_service(client)
            head = await client.ask(format_request("/huge.bin", method="HEAD"), "HEAD")
            assert head.fields["content-length"] == str(64 * MIB + 4000)

    async def test_a_file_that_is_replaced_while_it_is_sent_is_sent_as_it_was(
        self, serve: Serve, huge: Path, site_root: Path
    ) -> None:
        (site_root / "new.bin").write_bytes(b"\xff" * MIB)
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            announced = await begin_transfer(client, "/huge.bin")
            os.rename(site_root / "new.bin", huge)

            assert await client.reader.readexactly(announced) == bytes(64 * MIB)
            assert (await client.ask(format_request("/huge.bin"))).body == b"\xff" * MIB


class Remote:
    """A file of sshfs, which answers with ECONNABORTED once it has given what is good.

    That has its exception in common with a lost client.
    """

    data = None

    def __init__(self, good_bytes: int = 0) -> None:
        self._good_bytes = good_bytes

    async def read(self, offset: int, size_bytes: int) -> bytes:
        raise ConnectionAbortedError("Software caused connection abort")

    async def read_first(self, offset: int, size_bytes: int) -> bytes:
        if self._good_bytes:
            return bytes(self._good_bytes)
        return await self.read(offset, size_bytes)

    async def call(self, function: Callable[[int], int]) -> int:
        raise ConnectionAbortedError("Software caused connection abort")

    def call_in_thread(self, function: Callable[[int], T]) -> T:
        raise ConnectionAbortedError("Software caused connection abort")

    def call_at_once(self, function: Callable[[int], int]) -> int:
        raise BlockingIOError

    def share(self) -> Remote:
        return self

    def read_at_once(self, start: int, stop: int) -> bytes:
        raise BlockingIOError

    def has_in_memory(self, start: int, stop: int) -> bool:
        return False

    def close(self) -> None:
        pass


class TestFilesThatCannotBeRead:
    @pytest.mark.parametrize("target", ["/large.bin", "/huge.bin"])
    async def test_a_read_that_fails_before_the_first_byte_is_503_and_the_connection_goes_on(
        self,
        serve: Serve,
        site_root: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        target: str,
    ) -> None:
        path = site_root / target[1:]
        before_sending(monkeypatch, lambda: take_away(path))
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(2):
                answer = await client.ask(format_request(target))

                assert answer.status == 503
                assert answer.fields["retry-after"] == "1"
                assert answer.body == b"503 Service Unavailable\n"
                assert "etag" not in answer.fields
            await expect_service(client)
        assert [record.levelname for record in caplog.records if record.name == "aioserve"] == ["WARNING"] * 2

    @pytest.mark.parametrize("fields", LONG_BODIES)
    async def test_a_read_that_fails_later_aborts_the_connection(
        self, serve: Serve, huge: Path, caplog: pytest.LogCaptureFixture, fields: tuple[str, ...]
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin", *fields)
            take_away(huge)
            await client.send(HELLO)
            received = await read_what_comes(client)

            assert len(received) < announced
            assert b"HTTP/1.1" not in received
        assert [record.levelname for record in caplog.records if record.name == "aioserve"] == ["WARNING"]

    async def test_a_file_system_whose_own_connection_broke_is_no_client_that_has_left(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer_with(monkeypatch, Slice(Remote(), 0, MIB))
        async with serve() as server, RawClient(server.port) as client:
            assert (await client.ask(HELLO)).status == 503

    async def test_nor_is_one_that_breaks_later(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer_with(monkeypatch, Slice(Remote(good_bytes=1), 0, MIB))
        async with serve() as server, RawClient(server.port) as client:
            assert await begin_transfer(client, "/hello.txt") == MIB
            assert await read_what_comes(client) == b""
        assert [record.levelname for record in caplog.records if record.name == "aioserve"] == ["WARNING"]

    @pytest.mark.parametrize("fields", LONG_BODIES)
    async def test_so_it_does_where_nothing_goes_past_the_transport(
        self, serve: Serve, huge: Path, monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...]
    ) -> None:
        close_the_way_past(monkeypatch)
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin", *fields)
            take_away(huge)

            assert len(await read_what_comes(client)) < announced


def close_the_way_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes past the transport, as with TLS."""
    monkeypatch.setattr(Stream, "passes_files", False)


def refuse_sendfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files lie on a file system that does not know it."""

    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "sendfile", refuse)


def refuse_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no descriptor left for a thread."""

    def refuse(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", refuse)


class TestThroughTheTransport:
    """Where a file cannot go past it, the same bytes go through it."""

    @pytest.fixture(
        autouse=True,
        params=[
            pytest.param(close_the_way_past, id="no way past it"),
            pytest.param(refuse_sendfile, id="no sendfile for these files"),
        ],
    )
    def through_it(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        request.param(monkeypatch)

    async def test_a_whole_file_arrives(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            assert (await client.ask(format_request("/large.bin"))).body == LARGE
            assert (await client.ask(format_request("/huge.bin"))).body == bytes(64 * MIB)
            await expect_service(client)

    async def test_ranges_and_parts_arrive(self, serve: Serve) -> None:
        spans = [(0, 300_000), (400_000, 1_000_000), (MIB - 3, MIB)]
        field = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
        async with serve() as server, RawClient(server.port) as client:
            part = await client.ask(format_request("/large.bin", "Range: bytes=5-900000"))
            parts = await client.ask(format_request("/large.bin", f"Range: bytes={field}"))

            assert (part.status, part.body) == (206, LARGE[5:900_001])
            assert (parts.status, parts.body) == (206, format_parts(parts, LARGE, spans))
            await expect_service(client)

    async def test_a_file_that_shrinks_aborts_the_connection(self, serve: Serve, huge: Path) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            os.truncate(huge, MIB)

            assert len(await read_what_comes(client)) < announced
            await wait_until(lambda: not is_open(huge))

    async def test_a_client_that_leaves_frees_the_descriptor(self, serve: Serve, huge: Path) -> None:
        async with serve() as server:
            async with RawClient(server.port) as client:
                await begin_transfer(client, "/huge.bin")
                assert is_open(huge)

            await wait_until(lambda: not is_open(huge))


@pytest.fixture
def cold(site_root: Path) -> Path:
    """A file of 16 MiB that the kernel has written to the disk and forgotten."""
    path = site_root / "cold.bin"
    path.write_bytes(LARGE * 16)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(descriptor, [bytearray(1)], 8 * MIB, os.RWF_NOWAIT)
    except BlockingIOError:
        return path
    except OSError:
        pass
    finally:
        os.close(descriptor)
    pytest.skip("this file system keeps all in memory")


class TestColdFiles:
    """What the kernel has to fetch is waited for in a thread, and arrives as well."""

    @pytest.fixture
    def fetched(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Where the pieces began that a thread has sent."""
        original, starts = sender._send_from_disk, list[int]()

        async def send(
            stream: Stream, lent: LentSocket, handle: Handle, start: int, end: int, stop: int
        ) -> int:
            starts.append(start)
            return await original(stream, lent, handle, start, end, stop)

        monkeypatch.setattr(sender, "_send_from_disk", send)
        return starts

    async def test_a_whole_file_arrives(self, serve: Serve, cold: Path, fetched: list[int]) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            answer = await client.ask(format_request("/cold.bin"))

            assert answer.body == LARGE * 16
            assert fetched
            await expect_service(client)

    async def test_ranges_and_parts_arrive(self, serve: Serve, cold: Path) -> None:
        content = LARGE * 16
        spans = [(0, 10), (3_000_000, 7_000_000), (9_000_000, 16_000_000)]
        field = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            answer = await client.ask(format_request("/cold.bin", f"Range: bytes={field}"))

            assert (answer.status, answer.body) == (206, format_parts(answer, content, spans))
            await expect_service(client)

    @pytest.mark.parametrize(
        "hinder",
        [
            pytest.param(refuse_duplicates, id="no descriptor left"),
            pytest.param(refuse_sendfile, id="no sendfile"),
            pytest.param(close_the_way_past, id="no way past the transport"),
        ],
    )
    async def test_it_arrives_through_the_transport(
        self,
        serve: Serve,
        cold: Path,
        monkeypatch: pytest.MonkeyPatch,
        hinder: Callable[[pytest.MonkeyPatch], None],
    ) -> None:
        hinder(monkeypatch)
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            assert (await client.ask(format_request("/cold.bin"))).body == LARGE * 16

    async def test_advice_that_is_not_taken_is_no_failure(
        self, serve: Serve, cold: Path, fetched: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "posix_fadvise", refuse)
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            assert (await client.ask(format_request("/cold.bin"))).body == LARGE * 16
            assert fetched

    async def test_a_client_that_leaves_frees_the_descriptor(self, serve: Serve, cold: Path) -> None:
        async with serve() as server:
            async with RawClient(server.port) as client:
                await begin_transfer(client, "/cold.bin")

            await wait_until(lambda: not is_open(cold))


class TestFairness:
    async def test_each_of_several_downloads_gets_on_while_the_others_do(self, serve: Serve) -> None:
        received = [0] * 4
        at_first_end: list[int] = []

        async def download(number: int) -> None:
            async with RawClient(server.port) as client:
                announced = await begin_transfer(client, "/huge.bin")
                while received[number] < announced:
                    received[number] += len(await client.reader.read(MIB))
                at_first_end[:] = at_first_end or received

        async with serve() as server, asyncio.TaskGroup() as group:
            for number in range(len(received)):
                group.create_task(download(number))

        assert received == [64 * MIB] * 4
        assert min(at_first_end) > MIB

    @pytest.mark.parametrize(
        ("kind", "hinder"),
        [
            pytest.param("tcp", None, id="past the transport"),
            pytest.param("tcp", refuse_sendfile, id="in pieces"),
            pytest.param("tls", None, id="through TLS"),
        ],
    )
    async def test_whoever_takes_a_file_leaves_the_loop_to_others_in_between(
        self,
        large_handle: OpenFile,
        tls: Contexts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        hinder: Callable[[pytest.MonkeyPatch], None] | None,
    ) -> None:
        if hinder is not None:
            hinder(monkeypatch)
        steps = [0]

        async def watch(stream: Stream) -> None:
            while True:
                steps.append(stream.written_bytes)
                await asyncio.sleep(0)

        async with open_pair(kind, tmp_path, tls, LIMITS) as pair:
            watching = asyncio.create_task(watch(pair.stream))
            received = asyncio.create_task(pair.reader.readexactly(16 * MIB))
            await send_slice(pair.stream, large_handle, 0, 16 * MIB)
            watching.cancel()
            assert await received == LARGE * 16

        most_bytes = max(later - before for before, later in pairwise(steps))
        assert 0 < most_bytes <= sender._WINDOW_BYTES + sender._PIECE_BYTES

    async def test_so_he_does_between_the_parts_of_one(self, large_handle: OpenFile, tmp_path: Path) -> None:
        turns = list[int]()

        async def watch(stream: Stream) -> None:
            while True:
                turns.append(stream.written_bytes)
                await asyncio.sleep(0)

        parts = tuple(Slice(large_handle, number * 20_000, number * 20_000 + 17_000) for number in range(8))
        async with open_pair("tcp", tmp_path, None, LIMITS) as pair:
            watching = asyncio.create_task(watch(pair.stream))
            await asyncio.sleep(0)
            await send_answer(pair.stream, b"head", Parts(parts))
            watching.cancel()
            data = await pair.reader.readexactly(4 + 8 * 17_000)

        assert data == b"head" + b"".join(LARGE[part.start : part.stop] for part in parts)
        assert len(set(turns)) >= len(parts)


@pytest.fixture
async def large_handle(tmp_path: Path) -> AsyncIterator[OpenFile]:
    """A file of 16 MiB."""
    disk = Disk()
    path = tmp_path / "sixteen.bin"
    path.write_bytes(LARGE * 16)
    handle = OpenFile(disk, (0, 0), descriptor=os.open(path, os.O_RDONLY))
    yield handle
    handle.close()
    disk.close()


class TestClientsThatDoNotRead:
    """What waits for one in memory is a small piece, and the answer goes on when he reads."""

    @pytest.mark.parametrize("hinder", [None, refuse_sendfile])
    async def test_little_waits_for_him_and_every_byte_arrives_when_he_reads(
        self,
        large_handle: OpenFile,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        hinder: Callable[[pytest.MonkeyPatch], None] | None,
    ) -> None:
        if hinder is not None:
            hinder(monkeypatch)
        async with open_pair("tcp", tmp_path, None, LIMITS) as pair:
            sending = asyncio.create_task(send_answer(pair.stream, b"head", Slice(large_handle, 0, 16 * MIB)))
            await wait_until(lambda: pair.stream._writer is not None)
            assert not sending.done()
            waiting_bytes = pair.transport.get_write_buffer_size()
            assert waiting_bytes <= 16 * 1024
            assert waiting_bytes > 0 or hinder is None

            assert await pair.reader.readexactly(4 + 16 * MIB) == b"head" + LARGE * 16
            await sending
            assert pair.stream.written_bytes == 4 + 16 * MIB

    async def test_one_that_leaves_ends_it_and_its_duplicate(
        self, large_handle: OpenFile, tmp_path: Path
    ) -> None:
        async with open_pair("tcp", tmp_path, None, LIMITS) as pair:
            open_before = len(os.listdir("/proc/self/fd"))
            sending = asyncio.create_task(send_answer(pair.stream, b"head", Slice(large_handle, 0, 16 * MIB)))
            await wait_until(lambda: len(os.listdir("/proc/self/fd")) > open_before)
            pair.writer.transport.abort()

            with pytest.raises(ConnectionError):
                await sending
            assert len(os.listdir("/proc/self/fd")) <= open_before

    async def test_a_head_that_waits_is_waited_for(self, large_handle: OpenFile, tmp_path: Path) -> None:
        async with open_pair("tcp", tmp_path, None, LIMITS) as pair:
            before_bytes = 0
            while not pair.transport.get_write_buffer_size():
                pair.stream.write(bytes(1000))
                before_bytes += 1000
            sending = asyncio.create_task(send_slice(pair.stream, large_handle, 0, 16 * MIB))
            await wait_until(lambda: pair.stream._writer is not None)
            assert pair.transport.get_write_buffer_size() <= 1000

            await pair.reader.readexactly(before_bytes)
            assert await pair.reader.readexactly(16 * MIB) == LARGE * 16
            await sending


class TestClientsThatAreDone:
    """RFC 9112 §9.6: `Connection: close` ends the connection behind the last byte of the answer."""

    @pytest.mark.parametrize(
        ("fields", "content"),
        [
            pytest.param((), LARGE * 16, id="a whole file"),
            pytest.param(("Range: bytes=1000-9999999",), (LARGE * 16)[1000:10_000_000], id="a range"),
            pytest.param(("Range: bytes=7-9",), LARGE[7:10], id="a few bytes"),
            pytest.param(("Range: bytes=0-9,1000-9999999",), None, id="parts"),
        ],
    )
    async def test_all_of_it_arrives_and_then_the_end(
        self, serve: Serve, site_root: Path, fields: tuple[str, ...], content: bytes | None
    ) -> None:
        path = site_root / "sixteen.bin"
        path.write_bytes(LARGE * 16)
        os.utime(path, (1, 1))
        async with serve() as server:
            for _ in range(3):  # the first way, and the shortcut
                async with RawClient(server.port, timeout_s=30) as client:
                    answer = await client.ask(format_request("/sixteen.bin", "Connection: close", *fields))
                    if content is None:
                        spans = [(0, 10), (1000, 10_000_000)]
                        assert answer.body == format_parts(answer, LARGE * 16, spans)
                    else:
                        assert answer.body == content
                    assert answer.fields["connection"] == "close"
                    assert await client.read_to_end() == b""


class TestClientsThatLeave:
    @pytest.mark.parametrize("fields", LONG_BODIES)
    async def test_leaving_in_the_middle_frees_the_descriptor(
        self, serve: Serve, huge: Path, caplog: pytest.LogCaptureFixture, fields: tuple[str, ...]
    ) -> None:
        async with serve() as server:
            async with RawClient(server.port) as client:
                await begin_transfer(client, "/huge.bin", *fields)
                assert is_open(huge)

            await wait_until(lambda: not is_open(huge))
            async with RawClient(server.port) as client:
                await expect_service(client)
        assert [record for record in caplog.records if record.name in ("aioserve", "asyncio")] == []

    async def test_a_crowd_that_leaves_frees_every_descriptor(self, serve: Serve, huge: Path) -> None:
        async with serve() as server:
            async with AsyncExitStack() as clients:
                for _ in range(20):
                    client = await clients.enter_async_context(RawClient(server.port))
                    await begin_transfer(client, "/huge.bin")
                assert is_open(huge)

            await wait_until(lambda: not is_open(huge))

    @pytest.mark.parametrize("fields", LONG_BODIES)
    async def test_a_stop_that_waits_no_longer_frees_the_descriptor(
        self, serve: Serve, huge: Path, fields: tuple[str, ...]
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin", *fields)
            await server.stop(grace_s=0)

            await wait_until(lambda: not is_open(huge))
            assert len(await read_what_comes(client)) < announced


class TestBodiesOfNoKind:
    """A plan that cannot be carried out is a defect of the server, and nothing of it is sent."""

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(cast(Body, "a text"), id="no body"),
            pytest.param(Parts((cast(Bytes, "a text"),)), id="no part"),
        ],
    )
    async def test_it_is_500(
        self,
        serve: Serve,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        body: Body,
    ) -> None:
        answer_with(monkeypatch, body)
        async with serve() as server, RawClient(server.port) as client:
            assert (await client.ask(HELLO)).status == 500
            assert await client.read_to_end() == b""
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


def answer_with(monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    """Every answer has this body."""

    async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
        yield Plan(200, (("Content-Length", str(MIB)),), body)

    answer_by(monkeypatch, respond)
