"""The byte stream of one connection: read until, write, drain, close; bounded in memory and in time.

An asyncio.Protocol, put on a transport that `asyncio.start_server` accepted. What the bytes mean is
`connection`'s question; the deadlines are numbers here, compared by `sweep` once a second.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple

# Answers are never interleaved and a body is written piece by piece: what waits in the transport is at most
# one piece more than this.
_WRITE_HIGH_WATER_BYTES = 64 * 1024

# What is read before somebody asks for more: at most one read of the transport (256 KiB) beyond this.
_READ_HIGH_WATER_BYTES = 64 * 1024

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
        self._has_ended = False
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
        transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        transport.set_protocol(self)

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
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
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

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

    # Reading.

    @property
    def has_data(self) -> bool:
        return bool(self._buffer)

    @property
    def has_ended(self) -> bool:
        """True when the client has said that it will send no more."""
        return self._has_ended

    async def wait_for_data(self) -> None:
        """Returns when more bytes have arrived."""
        self._ensure_open()
        if self._has_ended:
            raise EOFError
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        self._reader = self._loop.create_future()
        self._is_reading = True
        try:
            await self._reader
        finally:
            self._reader = None
        if self._has_ended and not self._buffer:
            raise EOFError

    async def read_until(self, find_end: Callable[[bytearray, int], int]) -> bytes:
        """The bytes up to where `find_end(buffer, searched)` says; it returns -1 while more are needed."""
        searched = 0
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

    def write(self, data: bytes) -> None:
        self._ensure_open()
        self.written_bytes += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Waits until the client has taken enough that more may be written."""
        self._ensure_open()
        if self._is_writing_paused:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

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
        self._transport.abort()

    def sweep(self, now: float) -> None:
        """Ends what has waited too long: a read after its deadline, a client that takes nothing."""
        if self.is_lost:
            return
        waiting_bytes = self._transport.get_write_buffer_size()
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
