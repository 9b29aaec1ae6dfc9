"""Carries out a Plan's body: sends the head and then the bytes, piece by piece.

A file goes from the kernel's memory to the socket (sendfile) where the connection allows that, else through
here in pieces. Either way a piece that is not in memory is waited for in a thread of the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

from aioserve.network.stream import LentSocket, Stream
from aioserve.protocol.http1 import LAST_CHUNK, format_chunk
from aioserve.protocol.plan import Body, Bytes, Empty, Parts, Pieces, Slice
from aioserve.protocol.variant import Handle

# What one client costs in memory while it downloads through here. A hop to a thread takes 60 to 100 us: at
# this size it is small beside the copying.
_PIECE_BYTES = 256 * 1024

# What one call to the kernel moves at the most, so that a fast client leaves the loop to others.
_WINDOW_BYTES = 1024 * 1024

# What is copied where a file goes past: a part of this size, so that one call to the kernel takes it with its
# head, and what waits in the transport for a client that has as much as the kernel holds for it.
_COPIED_BYTES = 16 * 1024


class UnreadBody(Exception):
    """Nothing of the file could be read: nothing has been sent, and another answer is still possible."""


class TornBody(Exception):
    """The file ended before its announced length: the answer cannot be completed, nor taken back."""


async def send_answer(stream: Stream, head: bytes, body: Body, *, is_chunked: bool = False) -> None:
    """Sends `head` and what `body` stands for, in chunks (RFC 9112 §7.1) when the head says so.

    Raises UnreadBody when the first piece cannot be read, TornBody when a later one cannot, ConnectionError
    when the client has left.
    """
    match body:
        case Empty():
            stream.write(head)
            await stream.drain()
        case Bytes(data):
            stream.write(head, data)
            await stream.drain()
        case Slice():
            await _send_parts(stream, head, (body,))
        case Parts(parts):
            await _send_parts(stream, head, parts)
        case Pieces(pieces, size_bytes):
            await _send_pieces(stream, head, pieces, size_bytes, is_chunked=is_chunked)
        case _:
            assert_never(body)


async def _send_parts(stream: Stream, head: bytes, parts: Sequence[Bytes | Slice]) -> None:
    await _ensure_readable(next(part for part in parts if isinstance(part, Slice)))
    for part in parts:
        match part:
            case Bytes(data):
                head += data
            case Slice(handle, start, stop):
                if stop - start > _COPIED_BYTES and handle.data is None and stream.passes_files:
                    stream.write(head)
                else:
                    start += await _send_piece(stream, head, handle, start, stop)
                head = b""
                await send_slice(stream, handle, start, stop)
                if part is not parts[-1]:
                    await asyncio.sleep(0)
            case _:
                assert_never(part)
    if head:
        stream.write(head)
        await stream.drain()


async def _send_pieces(
    stream: Stream,
    head: bytes,
    pieces: AsyncGenerator[bytes, None],
    size_bytes: int | None,
    *,
    is_chunked: bool,
) -> None:
    made_bytes = 0
    while True:
        try:
            piece = await anext(pieces, None)
        except OSError as error:
            raise UnreadBody(f"errno {error.errno}") if head else TornBody from error
        if piece is None:
            break
        if not piece:
            continue
        made_bytes += len(piece)
        if size_bytes is not None and made_bytes > size_bytes:
            raise TornBody
        stream.write(head, format_chunk(piece) if is_chunked else piece)
        head = b""
        del piece
        await stream.drain()
    if size_bytes is not None and made_bytes < size_bytes:
        raise TornBody
    if head or is_chunked:
        stream.write(head, LAST_CHUNK if is_chunked else b"")
        await stream.drain()


async def _ensure_readable(part: Slice) -> None:
    """Waits for the first piece: as long as nothing is sent, a disk that fails is an answer of its own."""
    if part.handle.data is not None:
        return
    if part.handle.has_in_memory(part.start, min(part.start + _COPIED_BYTES, part.stop)):
        return
    try:
        first = await part.handle.read_first(part.start, min(_PIECE_BYTES, part.stop - part.start))
    except OSError as error:
        raise UnreadBody(f"errno {error.errno}") from error
    if not first:
        raise UnreadBody("it has become shorter")


async def send_slice(stream: Stream, handle: Handle, start: int, stop: int) -> None:
    """Sends the bytes `[start, stop)` of a file, for which the head is sent.

    Raises TornBody when the file does not have them, ConnectionError when the client has left.
    """
    # What waits of the head goes first; then the file may go past the transport.
    await stream.drain()
    lent: LentSocket | None = None
    try:
        while start < stop:
            end = min(start + _WINDOW_BYTES, stop)
            try:
                sent_bytes = send_at_once(stream, handle, start, end)
                if not sent_bytes and stream.passes_files and not handle.has_in_memory(start, end):
                    lent = lent or stream.lend_socket()
                    if lent is not None:
                        sent_bytes = await _send_from_disk(stream, lent, handle, start, end, stop)
            except ConnectionResetError:
                raise
            except OSError as error:
                raise TornBody from error
            start += sent_bytes
            if not sent_bytes:
                # What is read tells whether there is more; the transport waits for room.
                start += await _send_piece(stream, b"", handle, start, stop)
            elif start < end:
                lent = lent or stream.lend_socket()
                if lent is not None:
                    await stream.wait_until_writable(lent)
            if start < stop:
                # There may be room for more, but the others come first.
                await asyncio.sleep(0)
    finally:
        if lent is not None:
            lent.close()


def send_at_once(stream: Stream, handle: Handle, start: int, stop: int) -> int:
    """Sends what can be sent of the bytes `[start, stop)` without waiting; gives how many. Raises OSError."""
    end = min(start + _WINDOW_BYTES, stop)
    if not stream.passes_files or not handle.has_in_memory(start, end):
        return 0
    return handle.call_at_once(partial(stream.send_file, start, end - start))


async def _send_from_disk(
    stream: Stream, lent: LentSocket, handle: Handle, start: int, end: int, stop: int
) -> int:
    """Sends of `[start, end)` in a thread, and asks the disk for what comes then; gives how many bytes."""

    def send(descriptor: int) -> int:
        if end < stop and hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(descriptor, end, min(_WINDOW_BYTES, stop - end), os.POSIX_FADV_WILLNEED)
        return lent.send_file(start, end - start, descriptor)

    sent_bytes = await handle.call(send)
    stream.count(sent_bytes)
    return sent_bytes


async def _send_piece(stream: Stream, head: bytes, handle: Handle, start: int, stop: int) -> int:
    """Sends `head` and some of the bytes `[start, stop)` through here; gives how many of these.

    Returns when the client has taken enough that more may be written.
    """
    data = handle.data
    if data is None:
        size_bytes = _COPIED_BYTES if stream.passes_files else _PIECE_BYTES
        data, start, stop = await _read(handle, start, min(start + size_bytes, stop)), 0, size_bytes
    piece = data[start:stop]
    if not piece:
        raise TornBody
    stream.write(head, piece)
    sent_bytes = len(piece)
    del data, piece  # a client that reads slowly should cost one piece, not two
    await stream.drain()
    return sent_bytes


async def _read(handle: Handle, start: int, stop: int) -> bytes:
    try:
        with suppress(BlockingIOError):
            return handle.read_at_once(start, stop)
        return await handle.read(start, stop - start)
    except OSError as error:
        raise TornBody from error
