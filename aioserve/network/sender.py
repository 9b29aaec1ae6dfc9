"""Carries out a Plan's body: sends the head and then the bytes, piece by piece.

A file goes from the kernel's memory to the socket (sendfile) where the connection allows that, else through
here in pieces. Either way a piece that is not in memory is waited for in a thread of the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import assert_never

from aioserve.network.stream import DirectSocket, Stream
from aioserve.protocol.plan import Body, Bytes, Empty, Parts, Slice
from aioserve.protocol.variant import Handle

# What one client costs in memory while it downloads through here. A hop to a thread takes 60 to 100 us: at
# this size it is small beside the copying.
_PIECE_BYTES = 256 * 1024

# What one call to the kernel moves at the most, so that a fast client leaves the loop to others.
_WINDOW_BYTES = 1024 * 1024


class UnreadBody(Exception):
    """Nothing of the file could be read: nothing has been sent, and another answer is still possible."""


class TornBody(Exception):
    """The file ended before its announced length: the answer cannot be completed, nor taken back."""


async def send_answer(stream: Stream, head: bytes, body: Body) -> None:
    """Sends `head` and what `body` stands for.

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
        case _:
            assert_never(body)


async def _send_parts(stream: Stream, head: bytes, parts: Sequence[Bytes | Slice]) -> None:
    first = next(part for part in parts if isinstance(part, Slice))
    if first.handle.data is None:
        await _ensure_readable(first)
        direct = stream.open_direct()
        if direct is not None:
            try:
                await _send_directly(direct, head, parts)
            finally:
                stream.close_direct()
            return
    await _send_through(stream, head, parts)


async def _ensure_readable(part: Slice) -> None:
    """Waits for the first piece: as long as nothing is sent, a disk that fails is an answer of its own."""
    if part.handle.has_in_memory(part.start):
        return
    try:
        first = await part.handle.read_first(part.start, min(_PIECE_BYTES, part.stop - part.start))
    except OSError as error:
        raise UnreadBody(f"errno {error.errno}") from error
    if not first:
        raise UnreadBody("it has become shorter")


async def _send_directly(direct: DirectSocket, head: bytes, parts: Sequence[Bytes | Slice]) -> None:
    await direct.send(head, has_more=True)
    last = parts[-1]
    for part in parts:
        match part:
            case Bytes(data):
                await direct.send(data, has_more=part is not last)
            case Slice(handle, start, stop):
                try:
                    await _send_slice(direct, handle, start, stop)
                except ConnectionResetError:
                    raise
                except OSError as error:
                    raise TornBody from error
            case _:
                assert_never(part)


async def _send_slice(direct: DirectSocket, handle: Handle, start: int, stop: int) -> None:
    while start < stop:
        end = min(start + _WINDOW_BYTES, stop)
        # The two ends tell of what is between them.
        is_in_memory = handle.has_in_memory(start) and handle.has_in_memory(end - 1)
        if is_in_memory:
            sent_bytes = handle.call_at_once(partial(direct.send_file, start, end - start))
        else:
            sent_bytes = await handle.call(partial(_send_from_disk, direct, start, end, stop))
        if sent_bytes < 0:
            await direct.wait_until_writable()
            continue
        if not sent_bytes:
            raise TornBody
        direct.count(sent_bytes)
        start += sent_bytes
        if is_in_memory and start == end < stop:
            # There is room for more, but the others come first.
            await asyncio.sleep(0)


def _send_from_disk(direct: DirectSocket, start: int, end: int, stop: int, descriptor: int) -> int:
    """Sends `[start, end)` and asks the disk for what comes then; in a thread."""
    if end < stop and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, end, min(_WINDOW_BYTES, stop - end), os.POSIX_FADV_WILLNEED)
    return direct.send_file(start, end - start, descriptor)


async def _send_through(stream: Stream, head: bytes, parts: Sequence[Bytes | Slice]) -> None:
    """Sends in pieces of bounded size, the head together with the first one."""
    for part in parts:
        match part:
            case Bytes(data):
                head += data
            case Slice(handle, start, stop):
                while start < stop:
                    piece = await _read_piece(handle, start, stop)
                    stream.write(head, piece)
                    head = b""
                    start += len(piece)
                    del piece  # a client that reads slowly should cost one piece, not two
                    await stream.drain()
            case _:
                assert_never(part)
    if head:
        stream.write(head)
        await stream.drain()


async def _read_piece(handle: Handle, start: int, stop: int) -> bytes:
    if handle.data is not None:
        return handle.data[start:stop]
    try:
        piece = await handle.read(start, min(_PIECE_BYTES, stop - start))
    except OSError as error:
        raise TornBody from error
    if not piece:
        raise TornBody
    return piece
