"""The byte stream of one connection: read until, write, drain, close; bounded in memory and in time.

An asyncio.Protocol, put on a transport that `asyncio.start_server` accepted. What the bytes mean is
`connection`'s question; the deadlines are numbers here, compared by `sweep` once a second. While nothing
waits in the transport, bytes go past it: to the kernel directly, or from a file without passing through here.

The module is longer than others because reading, writing and the end of a connection share its state.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from aioserve.content.handle import Descriptor

# Answers are never interleaved and a body is written piece by piece: what waits in the transport is at most
# one piece more than this. Nothing, where bytes can go past it once it is empty; TLS has to be kept busy.
_WRITE_HIGH_WATER_BYTES = 0
_WRITE_HIGH_WATER_TLS_BYTES = 64 * 1024

# What is read before somebody asks for more: at most one read of the transport (256 KiB) beyond this.
_READ_HIGH_WATER_BYTES = 64 * 1024

# What sendfile says of a file system that does not know it.
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

# What it says of the socket, where everything else is of the file.
_OF_THE_CLIENT = (
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
)

# Seconds over which the rate of a slow reader is measured, so that one lost packet is no verdict.
_RATE_WINDOW_S = 10


class StreamLimits(NamedTuple):
    """What a client may make a stream wait for or hold."""

    send_timeout_s: float
    min_rate_bytes_s: int
    linger_idle_s: float
    linger_total_s: float
    linger_bytes: int


class Stream(asyncio.Protocol):
    """Reads and writes one connection; one coroutine at a time uses it.

    Every wait ends with ConnectionResetError when the connection is lost, a reading one with EOFError when
    the client will send no more and with TimeoutError after `deadline` (in the loop's seconds; inf = none).
    """

    __slots__ = (
        "_answer",
        "_buffer",
        "_descriptor",
        "_has_ended",
        "_is_clear",
        "_is_reading",
        "_is_reading_paused",
        "_is_tls",
        "_is_writing_paused",
        "_limits",
        "_loop",
        "_on_lost",
        "_owner",
        "_progress_at",
        "_reader",
        "_taken_bytes",
        "_transport",
        "_window_at",
        "_window_bytes",
        "_writer",
        "deadline",
        "is_lost",
        "written_bytes",
    )

    def __init__(self, limits: StreamLimits, on_lost: Callable[[Stream], None]) -> None:
        self._limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._is_reading = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._is_clear = False
        self._has_ended = False
        self._answer: Callable[[bytes], bool] | None = None
        self.is_lost = False
        self.deadline = math.inf
        # Bytes handed to the transport; what the kernel took of them is the measure of a reader's progress.
        self.written_bytes = 0
        self._taken_bytes = 0
        self._progress_at = self._loop.time()
        self._window_bytes = 0
        self._window_at = self._progress_at

    def attach(self, transport: asyncio.Transport, owner: object) -> None:
        """Takes over `transport`, before any data has arrived. `owner` is kept alive with it: the finalizer
        of a StreamWriter closes its transport."""
        self._transport = transport
        self._owner = owner
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        # Where a socket is a file to the system, and what is written to it is what the client gets.
        is_plain = not self._is_tls and sys.platform != "win32"
        self._descriptor = transport.get_extra_info("socket").fileno() if is_plain else -1
        transport.set_write_buffer_limits(
            high=_WRITE_HIGH_WATER_BYTES if is_plain else _WRITE_HIGH_WATER_TLS_BYTES
        )
        transport.set_protocol(self)

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        # Not to a client that takes too little: answers would pile up.
        if (
            self._answer is not None
            and not self._buffer
            and not self._is_writing_paused
            and self._answer(data)
        ):
            return
        self._buffer += data
        self._wake_reader()
        # Nobody reads while an answer is sent: who pipelines without reading waits in the kernel. A reader
        # asks again when what is there is too little; uvloop calls here 32 times before it can run.
        is_enough = not self._is_reading or len(self._buffer) >= _READ_HIGH_WATER_BYTES
        if is_enough and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._wake_reader()
        # A client that half-closes still gets its answer. TLS knows no half-close.
        return not self._is_tls

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._wake_writer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_exception(ConnectionResetError("the client has left"))
        self._buffer.clear()
        self._on_lost(self)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # Reading.

    @property
    def has_data(self) -> bool:
        return bool(self._buffer)

    @property
    def has_ended(self) -> bool:
        """True when the client has said that it will send no more."""
        return self._has_ended

    @property
    def is_awaited(self) -> bool:
        """True while somebody waits for data."""
        return self._reader is not None

    def offer(self, answer: Callable[[bytes], bool]) -> None:
        """Gives `answer` what arrives before anybody waits for it, as `wait_for_data` does."""
        self._answer = answer

    def wake(self) -> None:
        """Lets who waits for data go on without any; what arrives from now on is theirs."""
        self._answer, self._is_reading = None, False
        self._wake_reader()

    async def wait_for_data(self, answer: Callable[[bytes], bool] | None = None) -> None:
        """Returns when more bytes have arrived.

        With nothing buffered, `answer` gets them first, at once; what it returns True for is done with.
        """
        # In this order: a transport of TLS closes by itself when the client has ended.
        if self._has_ended:
            raise EOFError
        self._ensure_open()
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        self._reader = self._loop.create_future()
        self._answer = answer
        self._is_reading = True
        try:
            await self._reader
        finally:
            self._reader = self._answer = None
        if self._has_ended and not self._buffer:
            raise EOFError

    async def read_until(self, find_end: Callable[[bytearray, int], int]) -> bytes:
        """The bytes up to where `find_end(buffer, searched)` says; it returns -1 while more are needed."""
        searched = 0
        self._answer = None
        self._is_reading = True
        try:
            while True:
                if len(self._buffer) > searched:
                    end = find_end(self._buffer, searched)
                    if end >= 0:
                        return self._take(end)
                    searched = len(self._buffer)
                await self.wait_for_data()
        finally:
            self._is_reading = False

    async def read_exactly(self, size_bytes: int) -> bytes:
        return await self.read_until(lambda buffer, _: size_bytes if len(buffer) >= size_bytes else -1)

    async def discard(self, size_bytes: int) -> None:
        """Reads and drops exactly `size_bytes`, holding none of them."""
        self._is_reading = True
        try:
            while True:
                dropped = min(size_bytes, len(self._buffer))
                del self._buffer[:dropped]
                size_bytes -= dropped
                if not size_bytes:
                    return
                await self.wait_for_data()
        finally:
            self._is_reading = False

    def _take(self, size_bytes: int) -> bytes:
        data = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return data

    # Writing.

    def write(self, *pieces: bytes) -> None:
        """Sends `pieces`, one after the other."""
        self._ensure_open()
        self.write_at_once(pieces, sum(map(len, pieces)))

    def write_at_once(self, pieces: Sequence[bytes], size_bytes: int) -> None:
        """The same, from where the transport has just called, so it is open.

        What the kernel does not take now is handed over to the transport, which also tells of a client that
        has left.
        """
        self.written_bytes += size_bytes
        sent_bytes = 0
        if self._is_clear or self._has_become_clear():
            try:
                sent_bytes = os.writev(self._descriptor, pieces)
            except BlockingIOError:
                pass
            except OSError:
                self._transport.abort()
                return
        if sent_bytes != size_bytes:
            self._is_clear = False
            self._transport.write(memoryview(b"".join(pieces))[sent_bytes:])

    def _has_become_clear(self) -> bool:
        """Whether what is written now may go past the transport: nothing waits there."""
        self._is_clear = self._descriptor >= 0 and not self._transport.get_write_buffer_size()
        return self._is_clear

    async def drain(self) -> None:
        """Waits until the client has taken enough that more may be written."""
        self._ensure_open()
        if self._is_writing_paused:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    @property
    def passes_files(self) -> bool:
        """Whether a file may be sent now without passing through here."""
        return hasattr(os, "sendfile") and (self._is_clear or self._has_become_clear())

    def send_file(self, offset: int, size_bytes: int, descriptor: int) -> int:
        """Sends at most `size_bytes` of a file from `offset`, in one call to the kernel; see `passes_files`.

        Gives how many, which is 0 when the client has to take something before, when the file ends there, and
        when it cannot be sent this way. Raises ConnectionError when the client has left, OSError when the
        disk fails.
        """
        self._ensure_open()
        sent_bytes = _send_file(self._descriptor, offset, size_bytes, descriptor)
        self.written_bytes += sent_bytes
        return sent_bytes

    def lend_socket(self) -> LentSocket | None:
        """A duplicate, to be closed by who asks; None when there are no descriptors left."""
        self._ensure_open()
        try:
            return LentSocket(os.dup(self._descriptor))
        except OSError:
            return None

    async def wait_until_writable(self, lent: LentSocket) -> None:
        """Returns when the client has taken so much that more is worth sending; the kernel says a third.

        The event loop waits for one descriptor once, and the transport has its own.
        """
        self._ensure_open()
        self._writer = self._loop.create_future()
        self._loop.add_writer(lent.number, self._wake_writer)
        try:
            await self._writer
        finally:
            self._loop.remove_writer(lent.number)
            self._writer = None
        self._ensure_open()

    def count(self, sent_bytes: int) -> None:
        """Takes to account what was sent through a lent socket."""
        self.written_bytes += sent_bytes

    def _ensure_open(self) -> None:
        # A transport that failed is closing for one turn of the loop before connection_lost is called.
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")

    # The end.

    async def close(self) -> None:
        """Sends what is written, then ends the connection without losing it to a reset (RFC 9112 §9.6).

        The sending side is closed first; what the client still sends is read and dropped for a limited time.
        """
        if self._transport.is_closing():
            return
        total_at = self._loop.time() + self._limits.linger_total_s
        room_bytes = self._limits.linger_bytes
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
                while room_bytes > 0:
                    room_bytes -= len(self._buffer)
                    self._buffer.clear()
                    self.deadline = min(self._loop.time() + self._limits.linger_idle_s, total_at)
                    await self.wait_for_data()
        except (EOFError, OSError):
            # Not ConnectionError alone: asyncio's write_eof says ENOTCONN when the client has just left.
            pass
        finally:
            self._transport.close()

    def end(self) -> None:
        """Sends what is written, then closes without waiting for the client."""
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once; the client sees that the answer is broken."""
        if self._descriptor >= 0 and not self._transport.is_closing():
            # A thread may keep its duplicate open for as long as a disk takes.
            with suppress(OSError):
                _shut_down(self._descriptor)
        self._transport.abort()

    def sweep(self, now: float) -> None:
        """Ends what has waited too long: a read after its deadline, a client that takes nothing."""
        if self.is_lost:
            return
        # What waits for room in the kernel is not here yet, but the client has something to take.
        waiting_bytes = self._transport.get_write_buffer_size() or int(self._writer is not None)
        taken_bytes = self.written_bytes - waiting_bytes
        if not waiting_bytes or taken_bytes != self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._progress_at = now
        if not waiting_bytes:
            self._window_at, self._window_bytes = now, taken_bytes
            if now >= self.deadline and self._reader is not None and not self._reader.done():
                self._reader.set_exception(TimeoutError())
        elif now - self._progress_at >= self._limits.send_timeout_s or self._is_too_slow(now, taken_bytes):
            self.abort()

    def _is_too_slow(self, now: float, taken_bytes: int) -> bool:
        if not self._limits.min_rate_bytes_s or now - self._window_at < _RATE_WINDOW_S:
            return False
        rate = (taken_bytes - self._window_bytes) / (now - self._window_at)
        self._window_at, self._window_bytes = now, taken_bytes
        return rate < self._limits.min_rate_bytes_s


class LentSocket:
    """A duplicate of a stream's socket, for a thread that may wait for a disk while the stream ends."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._descriptor = Descriptor(number)

    def send_file(self, offset: int, size_bytes: int, descriptor: int) -> int:
        """The same as `Stream.send_file`, except that the stream does not know what it has sent."""
        try:
            number = self._descriptor.take()
        except ValueError:
            raise ConnectionResetError("the client has left") from None
        try:
            return _send_file(number, offset, size_bytes, descriptor)
        finally:
            self._descriptor.drop()

    def close(self) -> None:
        self._descriptor.drop()


def _shut_down(descriptor: int) -> None:
    """Ends the connection behind `descriptor`, and behind each duplicate of it."""
    # With the kinds given, nobody asks the kernel for them.
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)
    try:
        connection.shutdown(socket.SHUT_RDWR)
    finally:
        connection.detach()


def _send_file(to: int, offset: int, size_bytes: int, descriptor: int) -> int:
    try:
        return os.sendfile(to, descriptor, offset, size_bytes)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno in _NO_SENDFILE:
            return 0
        if error.errno in _OF_THE_CLIENT:
            raise ConnectionResetError("the client has left") from None
        raise
