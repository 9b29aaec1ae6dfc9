from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from aioserve.network.stream import LentSocket, Stream, StreamLimits
from tests.content.conftest import no_descriptor_left
from tests.network.conftest import MIB
from tests.network.waiting import wait_until

LIMITS = StreamLimits(
    send_timeout_s=60, min_rate_bytes_s=0, linger_idle_s=5, linger_total_s=30, linger_bytes=64 * MIB
)
PATTERN = bytes(range(256)) * 1024  # 256 KiB

# What one turn of a loop may add to a buffer: asyncio and uvloop read at most 256 KiB at once.
ONE_READ_BYTES = 256 * 1024
# The high-water mark and the piece that crossed it; TLS adds its records' heads.
MAX_WAITING_BYTES = 64 * 1024 + len(PATTERN) + 4096


@dataclass(frozen=True, slots=True)
class Pair:
    """A stream and the client at its other end; `left` is set once the stream's connection is lost."""

    stream: Stream
    transport: asyncio.Transport
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    left: asyncio.Event

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Leaves with RST instead of FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Connect = Callable[..., AbstractAsyncContextManager[Pair]]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """The contexts of a server and of a client that trusts it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
        " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=folder / "certificate.pem")


@asynccontextmanager
async def open_pair(
    kind: str, folder: Path, contexts: Contexts | None, limits: StreamLimits
) -> AsyncIterator[Pair]:
    accepted: asyncio.Queue[tuple[Stream, asyncio.Transport]] = asyncio.Queue()
    left = asyncio.Event()

    def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = cast(asyncio.Transport, writer.transport)
        stream = Stream(limits, lambda lost: left.set())
        stream.attach(transport, writer)
        accepted.put_nowait((stream, transport))

    if kind == "unix":
        path = str(folder / "stream.sock")
        server = await asyncio.start_unix_server(take, path)
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        server_context, client_context = contexts if kind == "tls" and contexts is not None else (None, None)
        server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context)
    stream, transport = await accepted.get()
    try:
        yield Pair(stream, transport, reader, writer, left)
    finally:
        writer.transport.abort()
        if not stream.is_lost:
            stream.abort()
        await left.wait()
        server.close()


@pytest.fixture(params=["tcp", "unix", "tls"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Connects over each of the three transports."""
    contexts = request.getfixturevalue("tls") if request.param == "tls" else None
    return lambda limits=LIMITS: open_pair(request.param, tmp_path, contexts, limits)


@pytest.fixture(params=["tcp", "unix"])
def connect_plainly(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Connects over the transports that know a half-close."""
    return lambda limits=LIMITS: open_pair(request.param, tmp_path, None, limits)


@pytest.fixture
def connect_tcp(tmp_path: Path) -> Connect:
    return lambda limits=LIMITS: open_pair("tcp", tmp_path, None, limits)


def find_line(buffer: bytearray, searched: int) -> int:
    return buffer.find(b"\n", searched) + 1 or -1


async def write_pieces(stream: Stream, count: int) -> None:
    for _ in range(count):
        stream.write(PATTERN)
        await stream.drain()


def repeats_pattern(data: bytes, size_bytes: int) -> bool:
    return len(data) == size_bytes and data == PATTERN * (size_bytes // len(PATTERN))


class TestReading:
    async def test_read_until_gives_the_bytes_up_to_the_end_and_keeps_the_rest(
        self, connect: Connect
    ) -> None:
        async with connect() as pair:
            await pair.send(b"one\ntwo\nth")

            assert await pair.stream.read_until(find_line) == b"one\n"
            assert await pair.stream.read_until(find_line) == b"two\n"
            assert pair.stream.has_data
            await pair.send(b"ree\n")
            assert await pair.stream.read_until(find_line) == b"three\n"
            assert not pair.stream.has_data

    async def test_read_until_tells_how_far_it_has_searched_already(self, connect: Connect) -> None:
        searches: list[tuple[bytes, int]] = []

        def find_end(buffer: bytearray, searched: int) -> int:
            searches.append((bytes(buffer), searched))
            return find_line(buffer, searched)

        async with connect() as pair:
            reading = asyncio.create_task(pair.stream.read_until(find_end))
            await pair.send(b"ab")
            await wait_until(lambda: searches)
            await pair.send(b"cd\n")

            assert await reading == b"abcd\n"
            assert searches == [(b"ab", 0), (b"abcd\n", 2)]

    async def test_an_error_of_the_search_reaches_the_reader(self, connect: Connect) -> None:
        def refuse(buffer: bytearray, searched: int) -> int:
            raise ValueError("too long")

        async with connect() as pair:
            await pair.send(b"x")

            with pytest.raises(ValueError, match="too long"):
                await pair.stream.read_until(refuse)

    async def test_read_exactly_waits_for_all_of_it(self, connect: Connect) -> None:
        async with connect() as pair:
            reading = asyncio.create_task(pair.stream.read_exactly(4))
            await pair.send(b"ab")
            await pair.send(b"cdef")

            assert await reading == b"abcd"
            assert await pair.stream.read_exactly(2) == b"ef"

    async def test_discard_drops_what_it_was_told_to_and_holds_none_of_it(self, connect: Connect) -> None:
        held_bytes = 0

        async def watch(stream: Stream) -> None:
            nonlocal held_bytes
            while True:
                held_bytes = max(held_bytes, len(stream._buffer))
                await asyncio.sleep(0)

        async with connect() as pair:
            watching = asyncio.create_task(watch(pair.stream))
            discarding = asyncio.create_task(pair.stream.discard(8 * MIB))
            for _ in range(32):
                await pair.send(PATTERN)
            await pair.send(b"rest")
            await discarding
            watching.cancel()

            assert await pair.stream.read_exactly(4) == b"rest"
            assert held_bytes <= 2 * ONE_READ_BYTES

    async def test_discard_of_nothing_reads_nothing(self, connect: Connect) -> None:
        async with connect() as pair:
            await pair.stream.discard(0)

    async def test_the_end_of_the_client_ends_a_read(self, connect: Connect) -> None:
        async with connect() as pair:
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)
            pair.writer.close()

            with pytest.raises(EOFError):
                await reading
            assert pair.stream.has_ended

    async def test_what_came_before_the_end_can_be_read(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            await pair.send(b"last words")
            pair.writer.write_eof()

            assert await pair.stream.read_exactly(4) == b"last"
            with pytest.raises(EOFError):
                await pair.stream.read_exactly(100)
            assert pair.stream.has_ended

    async def test_a_reset_ends_a_read(self, connect_tcp: Connect) -> None:
        async with connect_tcp() as pair:
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)
            pair.reset()

            with pytest.raises(ConnectionResetError):
                await reading
            assert pair.stream.is_lost
            with pytest.raises(ConnectionResetError):
                await pair.stream.read_exactly(1)

    async def test_who_sends_without_being_read_waits_in_the_kernel(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.writer.write(PATTERN * 64)
            await wait_until(lambda: not pair.transport.is_reading())

            assert len(pair.stream._buffer) <= 2 * ONE_READ_BYTES
            assert repeats_pattern(await pair.stream.read_exactly(64 * len(PATTERN)), 64 * len(PATTERN))
            assert pair.stream._buffer == b""


class TestDeadline:
    async def test_a_read_ends_at_the_first_sweep_after_its_deadline(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.deadline = now = pair.stream._loop.time() + 1000
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)

            pair.stream.sweep(now - 1)
            await asyncio.sleep(0)
            assert not reading.done()
            pair.stream.sweep(now)
            with pytest.raises(TimeoutError):
                await reading
            await pair.send(b"late")
            assert await pair.stream.read_exactly(4) == b"late"

    async def test_without_a_deadline_a_read_waits_for_ever(self, connect: Connect) -> None:
        async with connect() as pair:
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)

            pair.stream.sweep(1e12)
            await pair.send(b"x")

            assert await reading == b"x"

    async def test_a_read_whose_data_came_in_the_same_turn_does_not_end(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.deadline = 0
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)
            pair.stream.data_received(b"x")

            pair.stream.sweep(1)

            assert await reading == b"x"

    async def test_nobody_reading_means_nothing_to_end(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.deadline = 0
            pair.stream.sweep(1e12)

            await pair.send(b"x")
            pair.stream.deadline = float("inf")
            assert await pair.stream.read_exactly(1) == b"x"


class TestWriting:
    async def test_what_is_written_arrives_in_order(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.write(b"one ")
            pair.stream.write(b"two")
            await pair.stream.drain()

            assert await pair.reader.readexactly(7) == b"one two"
            assert pair.stream.written_bytes == 7

    async def test_a_client_that_does_not_read_costs_bounded_memory(self, connect: Connect) -> None:
        async with connect() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)

            assert not writing.done()
            assert pair.transport.get_write_buffer_size() <= MAX_WAITING_BYTES
            assert repeats_pattern(await pair.reader.readexactly(128 * len(PATTERN)), 128 * len(PATTERN))
            await writing

    async def test_a_client_that_leaves_ends_a_drain(self, connect: Connect) -> None:
        async with connect() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            pair.writer.transport.abort()

            with pytest.raises(ConnectionResetError):
                await writing

    async def test_nothing_can_be_written_to_a_client_that_has_left(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.abort()

            with pytest.raises(ConnectionResetError):
                pair.stream.write(b"x")
            with pytest.raises(ConnectionResetError):
                await pair.stream.drain()

    async def test_the_drain_of_a_cancelled_task_leaves_the_stream_usable(self, connect: Connect) -> None:
        async with connect() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            writing.cancel()
            await asyncio.wait([writing])

            data = await pair.reader.readexactly(pair.stream.written_bytes)
            assert repeats_pattern(data, pair.stream.written_bytes)
            pair.stream.write(b"more")
            assert await pair.reader.readexactly(4) == b"more"


class TestSendTimeout:
    async def test_a_client_that_takes_nothing_for_so_long_is_cut_off(self, connect: Connect) -> None:
        async with connect() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            now = pair.stream._loop.time() + 1000
            pair.stream.sweep(now)

            pair.stream.sweep(now + 59)
            await asyncio.sleep(0)
            assert not pair.transport.is_closing()
            pair.stream.sweep(now + 60)
            with pytest.raises(ConnectionResetError):
                await writing
            pair.stream.sweep(now + 61)

    async def test_each_byte_that_is_taken_gives_the_client_time(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            now = pair.stream._loop.time() + 1000
            for _ in range(8):
                pair.stream.sweep(now)
                waiting_bytes = pair.transport.get_write_buffer_size()
                before = pair.stream.written_bytes - waiting_bytes
                while pair.stream.written_bytes - pair.transport.get_write_buffer_size() == before:
                    await pair.reader.read(MIB)
                now += 59

            assert not writing.done()
            assert not pair.transport.is_closing()
            writing.cancel()

    async def test_a_deadline_of_a_read_does_not_hold_while_the_client_still_takes_its_answer(
        self, connect_plainly: Connect
    ) -> None:
        async with connect_plainly() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            writing.cancel()
            reading = asyncio.create_task(pair.stream.read_exactly(1))
            await asyncio.sleep(0)
            pair.stream.deadline = now = pair.stream._loop.time() + 1000

            pair.stream.sweep(now + 1)
            await asyncio.sleep(0)
            assert not reading.done()
            await pair.reader.readexactly(pair.stream.written_bytes)
            await wait_until(lambda: not pair.transport.get_write_buffer_size())
            pair.stream.sweep(now + 2)
            with pytest.raises(TimeoutError):
                await reading


class TestMinimumRate:
    async def test_a_client_below_it_is_cut_off_after_a_window(self, connect_plainly: Connect) -> None:
        async with connect_plainly(LIMITS._replace(min_rate_bytes_s=1)) as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            now = pair.stream._loop.time()
            # What the kernel took counts for the first window, and is enough for it.
            pair.stream.sweep(now + 11)
            assert not pair.transport.is_closing()

            pair.stream.sweep(now + 20)
            assert not pair.transport.is_closing()
            pair.stream.sweep(now + 21)
            with pytest.raises(ConnectionResetError):
                await writing

    async def test_nobody_is_slow_while_nothing_waits_for_him(self, connect: Connect) -> None:
        async with connect(LIMITS._replace(min_rate_bytes_s=MIB)) as pair:
            pair.stream.write(b"x")
            await pair.reader.readexactly(1)
            await wait_until(lambda: not pair.transport.get_write_buffer_size())

            pair.stream.sweep(pair.stream._loop.time() + 1000)

            assert not pair.transport.is_closing()


class TestHalfClose:
    async def test_a_client_that_ends_after_its_request_still_gets_the_answer(
        self, connect_plainly: Connect
    ) -> None:
        async with connect_plainly() as pair:
            await pair.send(b"request\n")
            pair.writer.write_eof()
            assert await pair.stream.read_until(find_line) == b"request\n"
            with pytest.raises(EOFError):
                await pair.stream.read_exactly(1)

            received = asyncio.create_task(pair.reader.read(-1))
            await write_pieces(pair.stream, 4)
            await pair.stream.close()

            assert repeats_pattern(await received, 4 * len(PATTERN))


class TestClose:
    """RFC 9112 §9.6: closing lingers, so that no reset takes the last answer away."""

    async def test_an_answer_is_readable_in_the_middle_of_an_upload(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            uploading = asyncio.create_task(pair.send(b"x" * (10 * MIB)))
            await pair.stream.read_exactly(10)
            pair.stream.write(b"refused")
            closing = asyncio.create_task(pair.stream.close())
            await uploading

            assert await pair.reader.read(-1) == b"refused"
            pair.writer.close()
            await closing
            await pair.left.wait()

    async def test_everything_that_was_written_arrives(self, connect: Connect) -> None:
        async with connect() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 64))
            received = asyncio.create_task(pair.reader.read(-1))
            await writing
            closing = asyncio.create_task(pair.stream.close())

            assert repeats_pattern(await received, 64 * len(PATTERN))
            pair.writer.close()
            await closing

    async def test_a_silent_client_is_waited_for_so_long(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            closing = asyncio.create_task(pair.stream.close())
            await asyncio.sleep(0)
            now = pair.stream._loop.time()

            pair.stream.sweep(now + 4)
            await asyncio.sleep(0)
            assert not pair.transport.is_closing()
            pair.stream.sweep(now + 5)
            await closing
            await pair.left.wait()

    async def test_a_client_that_keeps_sending_is_read_no_longer_than_so_long_in_all(
        self, connect_plainly: Connect
    ) -> None:
        async with connect_plainly(LIMITS._replace(linger_idle_s=1000)) as pair:
            closing = asyncio.create_task(pair.stream.close())
            await asyncio.sleep(0)
            now = pair.stream._loop.time()
            for passed_s in range(0, 30, 5):
                await pair.send(b"x")
                await wait_until(lambda: not pair.stream.has_data)
                pair.stream.sweep(now + passed_s)
                assert not closing.done()

            pair.stream.sweep(now + 30)
            await closing
            await pair.left.wait()

    async def test_a_client_that_keeps_sending_is_read_no_further_than_so_much(
        self, connect_plainly: Connect
    ) -> None:
        async with connect_plainly(LIMITS._replace(linger_bytes=MIB)) as pair:
            uploading = asyncio.create_task(pair.send(b"x" * (64 * MIB)))
            await pair.stream.close()

            await pair.left.wait()
            with pytest.raises(ConnectionError):
                await uploading

    async def test_a_client_that_has_left_before_the_answer_is_no_error(
        self, connect_plainly: Connect
    ) -> None:
        async with connect_plainly() as pair:
            await pair.send(b"x")
            await pair.stream.read_exactly(1)
            pair.writer.transport.abort()
            await pair.writer.wait_closed()

            pair.stream.write(b"answer")
            await pair.stream.close()

            await pair.left.wait()

    async def test_a_reset_while_lingering_is_no_error(self, connect_tcp: Connect) -> None:
        async with connect_tcp() as pair:
            closing = asyncio.create_task(pair.stream.close())
            await asyncio.sleep(0)
            pair.reset()

            await closing
            await pair.left.wait()

    async def test_closing_twice_is_closing_once(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.writer.close()
            await pair.stream.close()
            await pair.stream.close()

            await pair.left.wait()


class TestEnd:
    async def test_what_is_written_is_sent_and_the_client_is_not_waited_for(self, connect: Connect) -> None:
        async with connect() as pair:
            pair.stream.write(PATTERN * 4)
            pair.stream.end()

            assert repeats_pattern(await pair.reader.read(-1), 4 * len(PATTERN))


class TestAbort:
    async def test_the_client_sees_that_the_answer_is_broken(self, connect_tcp: Connect) -> None:
        async with connect_tcp() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 128))
            await wait_until(lambda: pair.stream._writer is not None)
            pair.stream.abort()

            with pytest.raises(ConnectionResetError):
                await writing
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await pair.reader.readexactly(128 * len(PATTERN))


class TestOwner:
    async def test_the_finalizer_of_the_writer_does_not_close_the_connection(self, connect: Connect) -> None:
        async with connect() as pair:
            gc.collect()

            assert not pair.transport.is_closing()
            await pair.send(b"x")
            assert await pair.stream.read_exactly(1) == b"x"


class Taking:
    """An `answer` for what arrives: takes what it is told to, and writes at once what it is given."""

    def __init__(self, stream: Stream, reply: bytes) -> None:
        self.takes = True
        self.taken: list[bytes] = []
        self._stream, self._reply = stream, reply

    def __call__(self, data: bytes) -> bool:
        if self.takes:
            self.taken.append(data)
            self._stream.write_at_once((self._reply[:1], self._reply[1:]), len(self._reply))
        return self.takes


class TestAnsweringAtOnce:
    """What arrives while somebody waits can be answered before he is woken."""

    async def test_what_is_taken_wakes_nobody_and_what_is_not_does(self, connect: Connect) -> None:
        async with connect() as pair:
            taking = Taking(pair.stream, b"reply")
            waiting = asyncio.create_task(pair.stream.wait_for_data(taking))
            await asyncio.sleep(0)
            for _ in range(3):
                await pair.send(b"ask")
                assert await pair.reader.readexactly(5) == b"reply"
            assert not waiting.done()
            taking.takes = False
            await pair.send(b"more")
            await waiting

            assert taking.taken == [b"ask"] * 3
            assert await pair.stream.read_exactly(4) == b"more"
            assert pair.stream.written_bytes == 15

    async def test_who_does_not_read_is_not_answered_at_once_any_more(self, connect: Connect) -> None:
        async with connect() as pair:
            taking = Taking(pair.stream, PATTERN)
            waiting = asyncio.create_task(pair.stream.wait_for_data(taking))
            await asyncio.sleep(0)
            for _ in range(1000):
                await pair.send(b"x")
                await asyncio.sleep(0)
                if waiting.done():
                    break
            await waiting

            assert pair.stream.has_data
            assert pair.transport.get_write_buffer_size() <= MAX_WAITING_BYTES
            size_bytes = len(taking.taken) * len(PATTERN)
            assert repeats_pattern(await pair.reader.readexactly(size_bytes), size_bytes)
            assert pair.stream.written_bytes == size_bytes

    async def test_what_was_answered_at_once_counts_for_the_rate(self, connect_plainly: Connect) -> None:
        async with connect_plainly(LIMITS._replace(min_rate_bytes_s=1000)) as pair:
            waiting = asyncio.create_task(pair.stream.wait_for_data(Taking(pair.stream, PATTERN)))
            await asyncio.sleep(0)
            cast(asyncio.Transport, pair.writer.transport).pause_reading()
            now = pair.stream._loop.time()
            while not waiting.done():
                await pair.send(b"x")
                await asyncio.sleep(0)
            pair.stream.sweep(now + 11)

            assert pair.transport.get_write_buffer_size()
            assert not pair.transport.is_closing()

    async def test_a_client_that_has_left_is_no_error(self, connect_tcp: Connect) -> None:
        async with connect_tcp() as pair:
            pair.reset()
            for _ in range(1000):
                pair.stream.write_at_once((b"x",), 1)
                if pair.transport.is_closing():
                    break

            await pair.left.wait()


needs_sendfile = pytest.mark.skipif(not hasattr(os, "sendfile"), reason="no sendfile on this system")


@pytest.fixture
def pattern_file(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a file of 64 patterns."""
    (tmp_path / "pattern.bin").write_bytes(PATTERN * 64)
    descriptor = os.open(tmp_path / "pattern.bin", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


async def send_file(stream: Stream, descriptor: int, size_bytes: int) -> None:
    """Past the transport while it is empty; what the kernel does not take goes through it."""
    offset = 0
    while offset < size_bytes:
        sent_bytes = stream.send_file(offset, size_bytes - offset, descriptor) if stream.passes_files else 0
        offset += sent_bytes
        if not sent_bytes:
            piece = os.pread(descriptor, min(1000, size_bytes - offset), offset)
            stream.write(piece)
            offset += len(piece)
            await stream.drain()


@needs_sendfile
class TestFiles:
    """Past the transport, as if it were not there."""

    async def test_what_goes_each_way_arrives_in_order(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        size_bytes = 64 * len(PATTERN)
        async with connect_plainly() as pair:
            received = asyncio.create_task(pair.reader.readexactly(5 + 4 + size_bytes + 5))
            pair.stream.write(b"first")
            pair.stream.write(b"head")
            await send_file(pair.stream, pattern_file, size_bytes)
            pair.stream.write(b"after")

            data = await received
            assert data[:9] + data[-5:] == b"firsthead" + b"after"
            assert repeats_pattern(data[9:-5], size_bytes)
            assert pair.stream.written_bytes == len(data)

    async def test_a_client_that_takes_nothing_more_gets_none_until_it_has_taken_what_waits(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        size_bytes = 64 * len(PATTERN)
        async with connect_plainly() as pair:
            sending = asyncio.create_task(send_file(pair.stream, pattern_file, size_bytes))
            await wait_until(lambda: pair.stream._writer is not None)
            assert not pair.stream.passes_files
            assert not sending.done()
            assert 0 < pair.transport.get_write_buffer_size() <= 1000

            assert repeats_pattern(await pair.reader.readexactly(size_bytes), size_bytes)
            await sending
            assert pair.stream.passes_files

    async def test_the_end_of_a_file_is_no_byte(self, connect_plainly: Connect, pattern_file: int) -> None:
        async with connect_plainly() as pair:
            assert pair.stream.send_file(64 * len(PATTERN), 1, pattern_file) == 0
            assert pair.stream.written_bytes == 0

    async def test_a_failure_of_the_file_is_not_one_of_the_client(
        self, connect_plainly: Connect, tmp_path: Path
    ) -> None:
        unreadable = os.open(tmp_path / "unreadable", os.O_WRONLY | os.O_CREAT)
        try:
            async with connect_plainly() as pair:
                lent = lend(pair)
                for send in (pair.stream.send_file, lent.send_file):
                    with pytest.raises(OSError, match="Bad file descriptor"):
                        send(0, 1, unreadable)
                lent.close()
                assert not pair.transport.is_closing()
        finally:
            os.close(unreadable)

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
    async def test_a_file_system_that_does_not_know_it_is_no_failure(
        self, connect_plainly: Connect, pattern_file: int, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(*_: int) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "sendfile", refuse)
        async with connect_plainly() as pair:
            assert pair.stream.send_file(0, 1, pattern_file) == 0
            lent = lend(pair)
            assert lent.send_file(0, 1, pattern_file) == 0
            lent.close()
            received = asyncio.create_task(pair.reader.readexactly(len(PATTERN)))
            await send_file(pair.stream, pattern_file, len(PATTERN))

            assert await received == PATTERN

    async def test_a_client_that_left_is_one(self, connect_tcp: Connect, pattern_file: int) -> None:
        async with connect_tcp() as pair:
            pair.reset()

            async def send_on() -> None:
                # In the transport's eyes the connection is lost only when it has looked.
                while True:
                    pair.stream.send_file(0, 1, pattern_file)
                    await asyncio.sleep(0)

            with pytest.raises(ConnectionResetError):
                await send_on()

    async def test_a_client_that_leaves_ends_the_waiting(
        self, connect_tcp: Connect, pattern_file: int
    ) -> None:
        async with connect_tcp() as pair:
            sending = asyncio.create_task(send_file(pair.stream, pattern_file, 64 * len(PATTERN)))
            await wait_until(lambda: pair.stream._writer is not None)
            pair.reset()

            with pytest.raises(ConnectionResetError):
                await sending

    async def test_a_client_that_takes_nothing_for_so_long_is_cut_off(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            sending = asyncio.create_task(send_file(pair.stream, pattern_file, 64 * len(PATTERN)))
            await wait_until(lambda: pair.stream._writer is not None)
            now = pair.stream._loop.time() + 1000
            pair.stream.sweep(now)
            pair.stream.sweep(now + 59)
            assert not pair.transport.is_closing()

            pair.stream.sweep(now + 60)
            with pytest.raises(ConnectionResetError):
                await sending

    async def test_a_client_below_the_minimum_rate_is_cut_off(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly(LIMITS._replace(min_rate_bytes_s=1)) as pair:
            sending = asyncio.create_task(send_file(pair.stream, pattern_file, 64 * len(PATTERN)))
            await wait_until(lambda: pair.stream._writer is not None)
            now = pair.stream._loop.time()
            pair.stream.sweep(now + 11)
            assert not pair.transport.is_closing()

            pair.stream.sweep(now + 22)
            with pytest.raises(ConnectionResetError):
                await sending

    async def test_who_is_cancelled_while_he_waits_leaves_no_trace(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            sending = asyncio.create_task(send_file(pair.stream, pattern_file, 64 * len(PATTERN)))
            await wait_until(lambda: pair.stream._writer is not None)
            sending.cancel()
            await asyncio.wait([sending])

            size_bytes = pair.stream.written_bytes
            assert await pair.reader.readexactly(size_bytes) == (PATTERN * 64)[:size_bytes]
            pair.stream.write(b"more")
            assert await pair.reader.readexactly(4) == b"more"

    async def test_nothing_goes_past_what_waits_in_the_transport(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            writing = asyncio.create_task(write_pieces(pair.stream, 64))
            await wait_until(lambda: pair.stream._writer is not None)
            assert not pair.stream.passes_files

            await pair.reader.readexactly(64 * len(PATTERN))
            await writing
            assert pair.stream.passes_files

    async def test_nothing_is_sent_to_a_client_that_has_left(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            pair.stream.abort()

            with pytest.raises(ConnectionResetError):
                pair.stream.send_file(0, 1, pattern_file)
            with pytest.raises(ConnectionResetError):
                pair.stream.lend_socket()

    async def test_none_goes_past_tls(self, tls: Contexts, tmp_path: Path) -> None:
        async with open_pair("tls", tmp_path, tls, LIMITS) as pair:
            assert not pair.stream.passes_files


def lend(pair: Pair) -> LentSocket:
    lent = pair.stream.lend_socket()
    assert lent is not None
    return lent


@needs_sendfile
class TestLentSockets:
    """A thread may be in one, or not have begun, when the stream has no more to do with it."""

    async def test_what_is_sent_through_one_arrives_and_counts_when_it_is_said(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            pair.stream.write(b"head")
            lent = lend(pair)
            sent_bytes = await asyncio.to_thread(lent.send_file, 0, 1000, pattern_file)
            lent.close()
            assert pair.stream.written_bytes == 4
            pair.stream.count(sent_bytes)
            pair.stream.write(b"after")

            assert sent_bytes == 1000
            assert await pair.reader.readexactly(1009) == b"head" + PATTERN[:1000] + b"after"
            assert pair.stream.written_bytes == 1009

    async def test_to_a_client_that_takes_nothing_more_it_sends_nothing_and_does_not_wait(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            lent = lend(pair)
            while await asyncio.to_thread(lent.send_file, 0, len(PATTERN), pattern_file):
                pass
            lent.close()

            assert not pair.transport.is_closing()

    async def test_closed_before_a_thread_has_begun_its_number_is_another_s(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            lent = lend(pair)
            lent.close()
            one, other = socket.socketpair()
            with one, other:
                one.setblocking(False)
                other.setblocking(False)
                assert lent._descriptor.number in (one.fileno(), other.fileno())
                with pytest.raises(ConnectionResetError):
                    await asyncio.to_thread(lent.send_file, 0, 1000, pattern_file)

                for end in (one, other):
                    with pytest.raises(BlockingIOError):
                        end.recv(1)

    async def test_closed_while_a_thread_is_in_it_its_number_is_nobody_else_s(
        self, connect_plainly: Connect, pattern_file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, may_go = threading.Event(), threading.Event()
        sendfile = os.sendfile

        def slow(to: int, descriptor: int, offset: int, size_bytes: int) -> int:
            begun.set()
            may_go.wait()
            return sendfile(to, descriptor, offset, size_bytes)

        monkeypatch.setattr(os, "sendfile", slow)
        async with connect_plainly() as pair:
            lent = lend(pair)
            number = lent._descriptor.number
            sending = asyncio.create_task(asyncio.to_thread(lent.send_file, 0, 1000, pattern_file))
            await asyncio.to_thread(begun.wait)
            lent.close()
            one, other = socket.socketpair()
            with one, other:
                assert number not in (one.fileno(), other.fileno())
                may_go.set()
                assert await sending == 1000

            assert await pair.reader.readexactly(1000) == PATTERN[:1000]
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

    async def test_a_connection_that_is_aborted_ends_although_one_is_out(
        self, connect_plainly: Connect, pattern_file: int
    ) -> None:
        async with connect_plainly() as pair:
            lent = lend(pair)
            pair.stream.abort()

            assert await pair.reader.read(-1) == b""
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(lent.send_file, 0, 1000, pattern_file)
            lent.close()

    async def test_there_is_none_without_a_descriptor_for_it(self, connect_plainly: Connect) -> None:
        async with connect_plainly() as pair:
            with no_descriptor_left():
                assert pair.stream.lend_socket() is None

            pair.stream.write(b"x")
            assert await pair.reader.readexactly(1) == b"x"
