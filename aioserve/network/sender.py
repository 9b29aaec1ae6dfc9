"""Carries out a Plan's body: writes the head and then the bytes, slice by slice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import assert_never

from aioserve.network.stream import Stream
from aioserve.protocol.plan import Body, Bytes, Empty, Parts, Slice

# What one client costs in memory while it downloads. A hop to a thread takes 60 to 100 us: at this size it
# is small beside the copying.
_PIECE_BYTES = 256 * 1024


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
            return
        case Bytes(data):
            stream.write(head + data)
            await stream.drain()
            return
        case Slice():
            pieces = _read_slice(body)
        case Parts(parts):
            pieces = _read_parts(parts)
        case _:
            assert_never(body)
    # Left to the garbage collector, a generator that did not come to its end makes a task that nobody owns.
    async with aclosing(pieces):
        try:
            first = await anext(pieces)
        except OSError as error:
            raise UnreadBody(f"errno {error.errno}") from error
        except TornBody as error:
            raise UnreadBody("it has become shorter") from error
        stream.write(head + first)
        del first  # a client that reads slowly should cost one piece, not two
        await stream.drain()
        while True:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except OSError as error:
                raise TornBody from error
            stream.write(piece)
            await stream.drain()


async def _read_parts(parts: Iterable[Bytes | Slice]) -> AsyncGenerator[bytes, None]:
    for part in parts:
        match part:
            case Bytes(data):
                yield data
            case Slice():
                async with aclosing(_read_slice(part)) as pieces:
                    async for piece in pieces:
                        yield piece
            case _:
                assert_never(part)


async def _read_slice(part: Slice) -> AsyncGenerator[bytes, None]:
    """The slice in pieces of bounded size. Raises TornBody when the file ends before it."""
    if part.handle.data is not None:
        yield part.handle.data[part.start : part.stop]
        return
    offset = part.start
    while offset < part.stop:
        piece = await part.handle.read(offset, min(_PIECE_BYTES, part.stop - offset))
        if not piece:
            raise TornBody
        offset += len(piece)
        yield piece
