"""One client on HTTP/1.1: read a head, respond, send, again; or close. One coroutine each.

A request like one that was answered before does not wake the coroutine: the same answer is sent from where
its bytes arrive, when the file is in memory and unchanged (`shortcuts`).
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
from aioserve.network.sender import TornBody, UnreadBody, send_answer
from aioserve.network.shortcuts import Shortcuts
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
from aioserve.protocol.message import BadRequest, Request
from aioserve.protocol.plan import Field, Plan, plan_error

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


class Connection:
    """Serves one client until either side ends it.

    `observe` gets an Exchange for each request; None when nobody wants them.
    """

    __slots__ = (
        "_answered_bytes",
        "_at_s",
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
        self._begin_exchange()

    async def run(self) -> None:
        """Serves the client; returns when the connection is ended or lost."""
        try:
            # A client that connects owes its first head at once; later ones may wait.
            self._stream.deadline = self._loop.time() + self._limits.head_timeout_s
            while await self._exchange() and not self._is_draining:
                self._stream.deadline = self._loop.time() + self._limits.keepalive_timeout_s
            self._idle_since = self._loop.time()
            await self._stream.close()
        except ConnectionError:
            # Where bytes went past the transport, it does not know yet.
            self._stream.abort()
        except TornBody:
            # After the head nothing turns into a status: a broken connection is the only honest sign.
            _logger.warning("a file ended before its announced length: the connection is aborted")
            self._stream.abort()
        except asyncio.CancelledError:
            self._stream.abort()
            raise
        except Exception:
            _logger.exception("a connection ended by a defect of the server")
            await self._confess()

    async def _confess(self) -> None:
        """Answers 500 when nothing of an answer has been sent yet; else breaks the connection."""
        if self._stream.written_bytes > self._answered_bytes:
            self._stream.abort()
            return
        with contextlib.suppress(ConnectionError):
            await self._send(plan_error(self._request, 500), keep=False)
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
            head = await self._read_head()
            return head is not None and await self._answer(head)
        except BadRequest as error:
            _logger.debug("%s: %d, %s", self._client, error.status, error.reason)
            await self._send(plan_error(self._request, error.status), keep=False)
            return False

    async def _read_head(self) -> bytes | None:
        """The next head; None when the client is done. Raises BadRequest: 408 when it takes too long."""
        stream = self._stream
        self._request = None
        if not stream.has_data:
            if self._is_draining:
                # Only before the first request: there is no last answer that a client could lose.
                self._stream.end()
                return None
            self._idle_since = self._loop.time()
            try:
                await stream.wait_for_data(self._answer_at_once)
            except (EOFError, TimeoutError):
                return None
            finally:
                self._idle_since = None
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
        """Answers `head` if that needs nothing but what is in memory; the coroutine is waiting for a head."""
        begun = self._loop.time()
        found = self._shortcuts.find(head)
        if found is None:
            return False
        (start, rest, body, size_bytes, status), request, asked = found
        self._stream.write_at_once((start, self._clock.date_bytes, rest, body), size_bytes)
        self._idle_since = begun
        self._stream.deadline = begun + self._keepalive_timeout_s
        if self._observe is not None:
            self._observe(
                Exchange(
                    client=self._client,
                    at_s=time.time(),
                    request_line=_format_request_line(request),
                    status=status,
                    sent_bytes=len(body),
                    duration_s=self._loop.time() - begun,
                    referer=asked.fields.get("referer"),
                    user_agent=asked.fields.get("user-agent"),
                    is_whole=True,
                )
            )
        return True

    def _begin_exchange(self) -> None:
        self._at_s, self._started = time.time(), self._loop.time()
        self._answered_bytes = self._stream.written_bytes

    async def _answer(self, head: bytes) -> bool:
        request = self._request = parse_head(head, max_fields=self._limits.fields)
        is_body_read = await self._discard_body(request)
        keep = is_body_read and keeps_alive(request)
        async with self._site.respond(request, self._clock.now_s) as plan:
            try:
                await self._send(plan, keep)
                if plan.status in (200, 206, 304):
                    self._shortcuts.remember(head, request)
                return keep
            except UnreadBody as error:
                _logger.warning("a file could not be read: %s", error)
        await self._send(plan_error(request, 503), keep)
        return keep

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

    async def _send(self, plan: Plan, keep: bool) -> None:
        """Sends `plan` and tells the observer. `keep` says whether the connection may stay open after it."""
        request = self._request
        head = format_head(plan.status, self._format_wire_fields(keep and not self._is_draining), plan.fields)
        before, is_whole = self._stream.written_bytes, False
        try:
            await send_answer(self._stream, head, plan.body)
            is_whole = True
        finally:
            written_bytes = self._stream.written_bytes - before
            if self._observe is not None and written_bytes:
                self._observe(
                    Exchange(
                        client=self._client,
                        at_s=self._at_s,
                        request_line=_format_request_line(request),
                        status=plan.status,
                        sent_bytes=written_bytes - len(head),
                        duration_s=self._loop.time() - self._started,
                        referer=request.fields.get("referer") if request else None,
                        user_agent=request.fields.get("user-agent") if request else None,
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
