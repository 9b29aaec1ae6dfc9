"""Which requests can be answered from where their bytes arrive, and with which bytes.

A shortcut is the way that `connection` goes with every request, as far as nothing has to be waited for: the
same functions read, look and decide. What was found on it is remembered by the bytes that asked for it.
"""

from __future__ import annotations

from typing import NamedTuple

from aioserve.content.cache import Kept, Ready
from aioserve.content.site import Site
from aioserve.network.clock import Clock
from aioserve.protocol.http1 import (
    format_head,
    is_plain_block,
    parse_fields,
    parse_request_fields,
    parse_request_line,
)
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.plan import Bytes, Empty, Field, Plan, Slice, find_conditions

# What is remembered of requests: longer heads are rare, and so are sites with more files in use.
_MAX_KNOWN_HEAD_BYTES = 4096
_MAX_KNOWN_LINE_BYTES = 512
_MAX_KNOWN_LINES = 16_384
_MAX_KNOWN_BLOCKS = 1024

# What stands in an answer's head before the one value that is another one each second.
_BEFORE_DATE = b"\r\nDate: "

# A part of a file that is not kept itself goes through here up to this size; sendfile has more to prepare.
_MAX_AT_ONCE_BYTES = 128 * 1024

# Fields for which the connection has more to do than to answer.
_OF_THE_CONNECTION = frozenset({"content-length", "transfer-encoding", "expect"})


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
        self,
        site: Site,
        clock: Clock,
        server_field: tuple[Field, ...],
        *,
        max_line_bytes: int,
        max_head_bytes: int,
        max_fields: int,
    ) -> None:
        self._site = site
        self._files = site.files
        self._looked_at = site.files.looked_at
        self._clock = clock
        self._server_field = server_field
        self._max_fields = max_fields
        self._max_line_bytes = max_line_bytes
        self._max_head_bytes = min(_MAX_KNOWN_HEAD_BYTES, max_head_bytes)
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
        if not self._files.keeps or request.version != (1, 1) or not 0 < end <= _MAX_KNOWN_LINE_BYTES:
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
