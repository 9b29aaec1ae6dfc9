"""One client on HTTP/1.1: read a head, respond, send, again; or close. One coroutine each.

A request like one that was answered before does not wake the coroutine: the same answer is sent from where
its bytes arrive, when the file is in memory and unchanged (`Shortcuts`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from aioserve.content.cache import Kept, Ready
from aioserve.content.site import Site
from aioserve.network.access_log import Exchange
from aioserve.network.clock import Clock
from aioserve.network.sender import TornBody, UnreadBody, send_answer
from aioserve.network.stream import Stream
from aioserve.protocol.http1 import (
    CHUNKED,
    expects_continue,
    find_head_end,
    find_line_end,
    format_head,
    is_plain_block,
    keeps_alive,
    parse_body_length,
    parse_chunk_size,
    parse_fields,
    parse_head,
    parse_request_fields,
    parse_request_line,
)
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.plan import Bytes, Empty, Field, Plan, Slice, find_conditions, plan_error

_logger = logging.getLogger("aioserve")

# A chunk's first line holds 16 digits and extensions that nobody sends.
_MAX_CHUNK_LINE_BYTES = 4096


# What is remembered of requests: longer heads are rare, and so are sites with more files in use.
_MAX_KNOWN_HEAD_BYTES = 4096
_MAX_KNOWN_LINES = 16_384
_MAX_KNOWN_BLOCKS = 1024

# What stands in an answer's head before the one value that is another one each second.
_BEFORE_DATE = b"\r\nDate: "

# A part of a file that is not kept itself goes through here up to this size; sendfile has more to prepare.
_MAX_AT_ONCE_BYTES = 128 * 1024

# Fields for which the connection has more to do than to answer.
_OF_THE_CONNECTION = frozenset({"content-length", "transfer-encoding", "expect"})


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


class Known(NamedTuple):
    """A request line that a kept file was the answer to; `answers` are those that it can get again."""

    kept: Kept
    answers: dict[str, Ready]
    request: Request


class Asked:
    """A block of field lines that asks for an answer and nothing else of the connection.

    `conditions` are those of `plan.find_conditions`. The fields are read when somebody wants to know more.
    """

    __slots__ = ("_fields", "block", "conditions")

    def __init__(self, block: bytes, conditions: str | None, fields: Fields | None) -> None:
        self.block = block
        self.conditions = conditions
        self._fields = fields

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = parse_fields(self.block, max_fields=len(self.block))
        return self._fields


class Shortcuts:
    """What the connections of one server remember of requests, to answer them again without a detour.

    What a request line names and what a field block says depends on their bytes alone, so each is looked up
    by its own: many files asked for by many browsers are as well known as one. The answer itself lies with
    the file in the cache and ends with it.
    """

    def __init__(
        self, site: Site, clock: Clock, limits: ConnectionLimits, server_field: tuple[Field, ...]
    ) -> None:
        self._site = site
        self._files = site.files
        self._looked_at = site.files.looked_at
        self._clock = clock
        self._server_field = server_field
        self._max_fields = limits.fields
        self._max_line_bytes = limits.request_line_bytes
        self._max_head_bytes = min(_MAX_KNOWN_HEAD_BYTES, limits.head_bytes)
        self._lines: dict[bytes, Known] = {}
        self._blocks: dict[bytes, Asked | None] = {}

    def find(self, head: bytes) -> tuple[Ready, Request, Asked] | None:
        """The answer to `head`, when that is one whole head that asks for nothing else of the connection, and
        all that is needed is in memory. The fields are those of Asked; those of the request may be older."""
        if len(head) > self._max_head_bytes:
            return None
        end = head.find(b"\r\n")
        block = head[end:]
        asked = self._blocks[block] if block in self._blocks else self._read_block(block)
        if asked is None:
            return None
        known = self._lines.get(head[:end])
        if known is None or not known.kept.is_held:
            return self._look_up(head, end, asked)
        kept, answers, request = known
        ready = answers.get(asked.conditions)  # type: ignore[arg-type]  # None has no answer
        if ready is None and not _can_prepare(known, asked):
            return None
        if not (kept in self._looked_at or self._files.is_current(kept)):
            return None
        if ready is None:
            plan = self._site.plan_kept(request._replace(fields=asked.fields), kept, self._clock.now_s)
            ready = self._make_ready(plan)
            has_data = kept.variant.handle.data is not None
            if ready is not None and has_data and asked.conditions is not None and plan.status in (200, 304):
                kept.remember(request.method, asked.conditions, ready)
        return None if ready is None else (ready, request, asked)

    def _look_up(self, head: bytes, end: int, asked: Asked) -> tuple[Ready, Request, Asked] | None:
        """The same for a request line that is not known, or of a file that was let go."""
        if end > self._max_line_bytes:
            return None
        try:
            method, target, version = parse_request_line(head[: end + 2])
            if version != (1, 1):
                return None
            request = Request(method, target, version, asked.fields)
            with self._site.respond(request, self._clock.now_s) as plan:
                ready = self._make_ready(plan)
        except (BadRequest, BlockingIOError):
            return None
        if plan.status in (200, 206, 304):
            self.remember(head, request)
        return None if ready is None else (ready, request, asked)

    def remember(self, head: bytes, request: Request) -> None:
        """Remembers what the request line of `head` means, if a file that is kept is the answer."""
        end = head.find(b"\r\n")
        if not self._files.keeps or request.version != (1, 1) or not 0 < end < self._max_head_bytes:
            return
        known = self._lines.get(head[:end])
        if known is not None and known.kept.is_held:
            return
        kept = self._site.find_kept(request)
        if kept is None:
            return
        if len(self._lines) >= _MAX_KNOWN_LINES:
            del self._lines[next(iter(self._lines))]
        self._lines[head[:end]] = Known(kept, kept.answers[request.method], request)

    def _read_block(self, block: bytes) -> Asked | None:
        """Reads what follows a request line. None when that are not the fields of one request in HTTP/1.1, of
        a client that stays, and without a body."""
        if not block.endswith(b"\r\n\r\n"):
            return None
        lines = block[2:-2]
        if is_plain_block(lines, max_fields=self._max_fields):
            asked: Asked | None = Asked(lines, "", None)
        else:
            asked = self._read_fields(lines)
        if len(self._blocks) >= _MAX_KNOWN_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[block] = asked
        return asked

    def _read_fields(self, lines: bytes) -> Asked | None:
        try:
            fields = parse_request_fields(lines, (1, 1), max_fields=self._max_fields)
        except BadRequest:
            return None
        stays = fields.values.get("connection", "keep-alive").lower() == "keep-alive"
        if not stays or not _OF_THE_CONNECTION.isdisjoint(fields.values):
            return None
        return Asked(lines, find_conditions(fields), fields)

    def _make_ready(self, plan: Plan) -> Ready | None:
        """The bytes of an answer on a connection that goes on; None: they are too many, or not in memory."""
        match plan.body:
            case Empty():
                body = b""
            case Bytes(body):
                pass
            case Slice(handle, start, stop) if handle.data is not None or stop - start <= _MAX_AT_ONCE_BYTES:
                try:
                    body = handle.read_at_once(start, stop)
                except BlockingIOError:
                    return None
            case _:
                return None
        head = format_head(plan.status, (("Date", self._clock.date), *self._server_field), plan.fields)
        date_at = head.index(_BEFORE_DATE) + len(_BEFORE_DATE)
        date_end = date_at + len(self._clock.date_bytes)
        return Ready(head[:date_at], head[date_end:], body, len(head) + len(body), plan.status)


def _can_prepare(known: Known, asked: Asked) -> bool:
    """False for a large file as a whole: to find that out again would be for nothing."""
    has_data = known.kept.variant.handle.data is not None
    return has_data or asked.conditions != "" or known.request.method == "HEAD"


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
        at_s = time.time()
        found = self._shortcuts.find(head)
        if found is None:
            return False
        (start, rest, body, size_bytes, status), request, asked = found
        self._stream.write_at_once((start, self._clock.date_bytes, rest, body), size_bytes)
        now = self._loop.time()
        self._idle_since = now
        self._stream.deadline = now + self._keepalive_timeout_s
        if self._observe is not None:
            self._observe(
                Exchange(
                    client=self._client,
                    at_s=at_s,
                    request_line=_format_request_line(request),
                    status=status,
                    sent_bytes=len(body),
                    duration_s=time.time() - at_s,
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
