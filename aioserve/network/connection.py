"""One client on HTTP/1.1: read a head, respond, send, again; or close. One coroutine each.

A request like one that was answered before does not wake the coroutine: the same answer is sent from where
its bytes arrive, when the file is in memory and unchanged (`shortcuts`).

The module is longer than others because both ways of an exchange stand in it, and hand it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from aioserve.content.site import Site
from aioserve.network.access_log import Exchange
from aioserve.network.clock import Clock
from aioserve.network.sender import TornBody, UnreadBody, send_answer, send_at_once, send_slice
from aioserve.network.shortcuts import Answer, Shortcuts
from aioserve.network.stream import Stream
from aioserve.protocol.http1 import (
    CHUNKED,
    expects_continue,
    find_head_end,
    find_line_end,
    format_head,
    keeps_alive,
    parse_body_length,
    parse_chunk_size,
    parse_fields,
    parse_head,
)
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.plan import Field, Pieces, Plan, Slice

_logger = logging.getLogger("aioserve")

# A chunk's first line holds 16 digits and extensions that nobody sends.
_MAX_CHUNK_LINE_BYTES = 4096


class ConnectionLimits(NamedTuple):
    """What a client may send, and how long it may take for it."""

    request_line_bytes: int
    head_bytes: int
    fields: int
    head_timeout_s: float
    body_timeout_s: float
    body_discard_bytes: int
    keepalive_timeout_s: float
    keepalive_timeout_busy_s: float


class Begun(NamedTuple):
    """An answer that was sent from where its request arrived, up to `sent_bytes` of its body.

    `rest` is what is left to send, with a handle to be closed. `keep` says whether the connection goes on.
    """

    status: int
    sent_bytes: int
    rest: Slice | None
    keep: bool


class Connection:
    """Serves one client until either side ends it.

    `observe` gets an Exchange for each request; None when nobody wants them.
    """

    __slots__ = (
        "_answered_bytes",
        "_at_s",
        "_begun",
        "_client",
        "_clock",
        "_idle_since",
        "_is_draining",
        "_keepalive_timeout_s",
        "_limits",
        "_loop",
        "_observe",
        "_request",
        "_server_field",
        "_shortcuts",
        "_site",
        "_started",
        "_stream",
    )

    def __init__(
        self,
        stream: Stream,
        site: Site,
        shortcuts: Shortcuts,
        clock: Clock,
        limits: ConnectionLimits,
        *,
        client: str,
        server_field: tuple[Field, ...],
        observe: Callable[[Exchange], None] | None,
    ) -> None:
        self._stream = stream
        self._site = site
        self._shortcuts = shortcuts
        self._clock = clock
        self._limits = limits
        self._keepalive_timeout_s = limits.keepalive_timeout_s
        self._client = client
        self._server_field = server_field
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        # Since when nothing is read or answered, in the loop's seconds; None while something is.
        self._idle_since: float | None = None
        self._is_draining = False
        # The one that is being answered; None when there is none, or when it could not be read.
        self._request: Request | None = None
        # What the coroutine is woken for when the answer was sent from where its request arrived.
        self._begun: Begun | None = None
        self._begin_exchange()
        stream.offer(self._answer_at_once)

    async def run(self) -> None:
        """Serves the client; returns when the connection is ended or lost."""
        stream = self._stream
        try:
            # A client that connects owes its first head at once; who has been answered before this may wait.
            if self._idle_since is None:
                stream.deadline = self._loop.time() + self._limits.head_timeout_s
            # The wait between requests stands here: further down it would cost each idle one more memory.
            while True:
                if self._begun is None and not stream.has_data:
                    if self._is_draining:
                        # Only before the first request: there is no last answer that a client could lose.
                        stream.end()
                        break
                    self._idle_since = self._loop.time()
                    try:
                        await stream.wait_for_data(self._answer_at_once)
                    except (EOFError, TimeoutError):
                        if self._begun is None:
                            break
                    finally:
                        self._idle_since = None
                if not await self._exchange() or self._is_draining:
                    break
                stream.deadline = self._loop.time() + self._limits.keepalive_timeout_s
            self._idle_since = self._loop.time()
            await stream.close()
        except ConnectionError:
            # Where bytes went past the transport, it does not know yet.
            stream.abort()
        except TornBody:
            # After the head nothing turns into a status: a broken connection is the only honest sign.
            _logger.warning("a file ended before its announced length: the connection is aborted")
            stream.abort()
        except asyncio.CancelledError:
            stream.abort()
            raise
        except Exception:
            _logger.exception("a connection ended by a defect of the server")
            await self._confess()
        finally:
            if self._begun is not None and self._begun.rest is not None:
                # It was cancelled when it had just been woken.
                self._begun.rest.handle.close()
                self._report_request(self._begun.status, self._begun.sent_bytes, is_whole=False)

    async def _confess(self) -> None:
        """Answers 500 when nothing of an answer has been sent yet; else breaks the connection."""
        if self._stream.written_bytes > self._answered_bytes:
            self._stream.abort()
            return
        with contextlib.suppress(ConnectionError):
            await self._send(self._site.plan_failure(self._request, 500), keep=False)
            await self._stream.close()

    def drain(self) -> None:
        """Ends the connection after the answer that is being made, or now when there is none."""
        self._is_draining = True
        if self._idle_since is not None:
            self._stream.end()

    def hurry(self, now: float) -> None:
        """Ends the connection if it has been idle for as long as it may while connections are scarce."""
        if self._idle_since is not None and now - self._idle_since >= self._limits.keepalive_timeout_busy_s:
            self._stream.end()

    async def _exchange(self) -> bool:
        """Reads one request and answers it; True when another may follow on the connection."""
        try:
            if self._begun is not None:
                return await self._finish(self._begun)
            return await self._answer(await self._read_head())
        except BadRequest as error:
            _logger.debug("%s: %d, %s", self._client, error.status, error.reason)
            await self._send(self._site.plan_failure(self._request, error.status), keep=False)
            return False

    async def _read_head(self) -> bytes:
        """The next head, of which something is there. Raises BadRequest: 408 when it takes too long."""
        stream = self._stream
        stream.deadline = self._loop.time() + self._limits.head_timeout_s
        self._begin_exchange()
        try:
            return await stream.read_until(self._find_head_end)
        except EOFError:
            raise BadRequest(400, "the client ended in the middle of a head") from None
        except TimeoutError:
            raise BadRequest(408, "the head took too long") from None

    def _find_head_end(self, buffer: bytearray, searched: int) -> int:
        limits = self._limits
        return find_head_end(
            buffer, searched, max_line_bytes=limits.request_line_bytes, max_head_bytes=limits.head_bytes
        )

    def _answer_at_once(self, head: bytes) -> bool:
        """Answers `head` if that needs nothing but what is in memory; the coroutine is waiting for a head, or
        has not taken its first step."""
        if self._is_draining:
            return False
        started = self._loop.time()
        try:
            answer = self._shortcuts.find(head)
        except Exception:
            # The coroutine goes the same way, and can say so to the client.
            _logger.exception("a request was not answered at once by a defect of the server")
            return False
        if answer is None:
            return False
        (start, rest, body, size_bytes, status, span), request, asked, _ = answer
        stream = self._stream
        if span is not None and not stream.is_awaited:
            # Cancelled before its first step, the coroutine would not close the file.
            return False
        stream.write_at_once((start, self._clock.date_bytes, rest, body), size_bytes)
        self._idle_since = started
        stream.deadline = started + self._keepalive_timeout_s
        if self._observe is not None:
            self._at_s, self._started = time.time(), started
        if span is not None or not asked.keeps:
            self._begin(answer)
        elif self._observe is not None:
            self._report(request, asked.fields, status, len(body), is_whole=True)
        return True

    def _begin(self, answer: Answer) -> None:
        """Sends of the file what the client takes now, and wakes the coroutine if something is left to do."""
        ready, request, asked, handle = answer
        sent_bytes, rest = len(ready.body), None
        if ready.span is not None and handle is not None:
            start, stop = ready.span
            try:
                taken_bytes = send_at_once(self._stream, handle, start, stop)
            except OSError:
                # The coroutine meets it again, and knows what it means.
                taken_bytes = 0
            sent_bytes += taken_bytes
            if start + taken_bytes < stop:
                rest = Slice(handle.share(), start + taken_bytes, stop)
        if rest is None:
            self._report(request, asked.fields, ready.status, sent_bytes, is_whole=True)
            if asked.keeps:
                return
        self._idle_since = None
        self._request = Request(request.method, request.target, request.version, asked.fields)
        self._begun = Begun(ready.status, sent_bytes, rest, asked.keeps)
        self._stream.wake()

    async def _finish(self, begun: Begun) -> bool:
        """Sends what is left of an answer that has begun; True when another request may follow."""
        self._begun = None
        if begun.rest is not None:
            before, is_whole = self._stream.written_bytes, False
            try:
                await send_slice(self._stream, *begun.rest)
                is_whole = True
            finally:
                begun.rest.handle.close()
                sent_bytes = begun.sent_bytes + self._stream.written_bytes - before
                self._report_request(begun.status, sent_bytes, is_whole=is_whole)
        return begun.keep

    def _begin_exchange(self) -> None:
        self._request = None
        self._at_s, self._started = time.time(), self._loop.time()
        self._answered_bytes = self._stream.written_bytes

    async def _answer(self, head: bytes) -> bool:
        request = self._request = parse_head(head, max_fields=self._limits.fields)
        is_body_read = await self._discard_body(request)
        keep = is_body_read and keeps_alive(request)
        response = self._site.respond(request, self._clock.now_s)
        async with response as plan:
            try:
                keep = await self._send(plan, keep)
                self._shortcuts.remember(head, response)
                return keep
            except UnreadBody as error:
                _logger.warning("a file could not be read: %s", error)
        return await self._send(self._site.plan_failure(request, 503), keep)

    async def _discard_body(self, request: Request) -> bool:
        """Reads and drops the request's body, which nothing here wants; False when the connection cannot be
        used after the answer, because the body is too long or will never come."""
        length = parse_body_length(request)
        if expects_continue(request) and length:
            # RFC 9110 §10.1.1: the final status at once. Whether the client still sends the body is its
            # choice, so nothing can follow.
            return False
        room = self._limits.body_discard_bytes
        if length > room:
            return False
        self._stream.deadline = self._loop.time() + self._limits.body_timeout_s
        try:
            if length == CHUNKED:
                return await self._discard_chunks(room)
            await self._stream.discard(length)
            return True
        except EOFError:
            raise BadRequest(400, "the client ended in the middle of a body") from None
        except TimeoutError:
            raise BadRequest(408, "the body took too long") from None

    async def _discard_chunks(self, room: int) -> bool:
        """Drops a chunked body (RFC 9112 §7.1) whose bytes, framing included, are at most `room`."""
        while True:
            line = await self._stream.read_until(_find_chunk_line_end)
            size = parse_chunk_size(line)
            room -= len(line) + size + 2
            if room < 0:
                return False
            if not size:
                break
            await self._stream.discard(size)
            if await self._stream.read_exactly(2) != b"\r\n":
                raise BadRequest(400, "a chunk is longer than it said")
        trailer = b""
        while (line := await self._stream.read_until(_find_chunk_line_end)) != b"\r\n":
            trailer += line
            if len(trailer) > self._limits.head_bytes:
                raise BadRequest(431, "the trailer is too large")
        parse_fields(trailer, max_fields=self._limits.fields)
        return True

    async def _send(self, plan: Plan, keep: bool) -> bool:
        """Sends `plan` and tells the observer; True when another request may follow, which needs `keep`."""
        is_chunked = isinstance(plan.body, Pieces) and plan.body.size_bytes is None
        if is_chunked and self._request is not None and self._request.version == (1, 0):
            # RFC 9112 §6.1: HTTP/1.0 has no chunks; the end of the connection is the end of the body.
            is_chunked = keep = False
        wire_fields = self._format_wire_fields(keep and not self._is_draining)
        if is_chunked:
            wire_fields += (("Transfer-Encoding", "chunked"),)
        head = format_head(plan.status, wire_fields, plan.fields)
        before, is_whole = self._stream.written_bytes, False
        try:
            await send_answer(self._stream, head, plan.body, is_chunked=is_chunked)
            is_whole = True
            return keep
        finally:
            written_bytes = self._stream.written_bytes - before
            if written_bytes:
                self._report_request(plan.status, written_bytes - len(head), is_whole=is_whole)

    def _report_request(self, status: int, sent_bytes: int, *, is_whole: bool) -> None:
        request = self._request
        self._report(request, request.fields if request else None, status, sent_bytes, is_whole=is_whole)

    def _report(
        self, request: Request | None, fields: Fields | None, status: int, sent_bytes: int, *, is_whole: bool
    ) -> None:
        """Tells the observer. `fields` are those of the request, which may have none of its own."""
        if self._observe is not None:
            self._observe(
                Exchange(
                    client=self._client,
                    at_s=self._at_s,
                    request_line=_format_request_line(request),
                    status=status,
                    sent_bytes=sent_bytes,
                    duration_s=self._loop.time() - self._started,
                    referer=fields.get("referer") if fields else None,
                    user_agent=fields.get("user-agent") if fields else None,
                    is_whole=is_whole,
                )
            )

    def _format_wire_fields(self, keep: bool) -> tuple[Field, ...]:
        fields = (("Date", self._clock.date), *self._server_field)
        if not keep:
            return (*fields, ("Connection", "close"))
        if self._request is not None and self._request.version == (1, 0):
            return (*fields, ("Connection", "keep-alive"))
        return fields


def _find_chunk_line_end(buffer: bytearray, searched: int) -> int:
    return find_line_end(buffer, searched, max_bytes=_MAX_CHUNK_LINE_BYTES)


def _format_request_line(request: Request | None) -> str:
    if request is None:
        return "-"
    major, minor = request.version
    return f"{request.method} {request.target.decode('latin-1')} HTTP/{major}.{minor}"
