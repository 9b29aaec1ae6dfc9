"""Which requests can be answered from where their bytes arrive, and with which bytes.

A shortcut is the way that `connection` goes with every request, as far as nothing has to be waited for: the
same functions read, look and decide. What was found on it is remembered by the bytes that asked for it.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import NamedTuple

from aioserve.content.cache import Absent, Ready, remember
from aioserve.content.site import Match, Response, Site
from aioserve.network.clock import Clock
from aioserve.protocol.http1 import (
    format_fields,
    format_status_line,
    is_plain_block,
    parse_fields,
    parse_request_fields,
    parse_request_line,
)
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.negotiation import (
    IDENTITY_ONLY,
    Codings,
    find_codings,
    prefers_html,
)
from aioserve.protocol.plan import Bytes, Field, Parts, Pieces, Plan, Slice, find_conditions
from aioserve.protocol.variant import Handle

# What is remembered of requests: longer heads are rare, and so are sites with more files in use.
_MAX_KNOWN_HEAD_BYTES = 4096
_MAX_KNOWN_LINE_BYTES = 512
_MAX_KNOWN_LINES = 16_384
_MAX_KNOWN_BLOCKS = 256
_MAX_ABSENT = 1024

# Fields for which the connection has more to do than to answer.
_OF_THE_CONNECTION = frozenset({"content-length", "transfer-encoding", "expect"})

# Seconds after which a compressed form is looked for again that was not there.
_FORMS_AGAIN_S = 5

# A line is remembered without the fields that came with it: there may be many of them.
_NO_FIELDS = Fields({})

_CLOSE = b"\r\nConnection: close"

# What a client that goes has in its key; no condition looks like this.
_CLOSES = "close"

_END = b"\r\n\r\n"

# A line that programs write for each request anew, in the form in which most of them do.
_RANGE_LINE = re.compile(rb"\r\n[Rr]ange: (bytes=[0-9]++-[0-9]*+)(?=\r\n)")

# What most programs say of the codings that they take, or nothing of it.
_CODINGS_LINE = re.compile(rb"\r\n[Aa]ccept-[Ee]ncoding: ([\t -~]*+)(?=\r\n)")
_ORIGIN_NAME = re.compile(rb"(?i)\r\norigin:")
_CODINGS_NAME = re.compile(rb"(?i)\r\naccept-encoding:|no-transform")


class Known(NamedTuple):
    """A request line that a kept file was the answer to; `answers` are those that it can get again.

    It holds until `until_s`, in the seconds of the clock.
    """

    match: Match
    answers: dict[str, Ready]
    request: Request
    until_s: float


class Asked:
    """A block of field lines that asks for an answer and nothing else of the connection.

    It begins with the end of the request line and ends with the empty one.
    `key` is equal for all that get the same answer from one file: the conditions (`plan.find_conditions`),
    and whether the client stays (`keeps`). It is None where the answer is for this once. `lines` are the
    request lines that are known for clients that take the same codings. The fields are read when somebody
    wants to know more.
    """

    __slots__ = ("_block", "_fields", "_prefers_html", "keeps", "key", "lines")

    def __init__(
        self,
        block: bytes,
        lines: dict[bytes, Known],
        conditions: str | None,
        fields: Fields | None,
        *,
        keeps: bool = True,
    ) -> None:
        self._block = block
        self.lines = lines
        self.key = conditions if keeps or conditions is None else conditions + _CLOSES
        self.keeps = keeps
        self._fields = fields
        self._prefers_html: bool | None = None

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = parse_fields(self._block[2:-2], max_fields=len(self._block))
        return self._fields

    @property
    def prefers_html(self) -> bool:
        if self._prefers_html is None:
            self._prefers_html = prefers_html(self.fields.get("accept"))
        return self._prefers_html


# What is to be sent, the request, of which the fields are those of Asked and its own may be none, and the
# handle for Ready.span.
Answer = tuple[Ready, Request, Asked, Handle | None]


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
        self._clock = clock
        # What stands in a head between the fields Date and Connection.
        self._server_lines = format_fields(server_field)
        self._max_fields = max_fields
        self._max_line_bytes = max_line_bytes
        self._max_head_bytes = min(_MAX_KNOWN_HEAD_BYTES, max_head_bytes)
        self._has_forms = site.has_forms
        self._has_fallback = site.depends_on_accept
        self._has_origins = site.policies.depends_on_origin
        self._lines: dict[tuple[Codings, str | None, bool], dict[bytes, Known]] = {}
        self._absent: dict[bytes, tuple[Absent, Request]] = {}
        self._blocks: dict[bytes, Asked | None] = {}

    def find(self, head: bytes) -> Answer | None:
        """The answer to `head`, when that is one whole head that asks for nothing else of the connection, and
        all that is needed is in memory, or is a file in the kernel's."""
        if len(head) > self._max_head_bytes:
            return None
        end = head.find(b"\r\n")
        block = head[end:]
        asked = self._blocks[block] if block in self._blocks else self._read_block(block)
        if asked is None:
            return None
        known = asked.lines.get(head[:end])
        if known is None or not known.match.kept.is_held or known.until_s < self._clock.now_s:
            return self._look_up(head, end, asked)
        match, answers, request, _ = known
        kept, base, before, files = match.kept, match.base, match.before, match.files
        if not (kept in files.looked_at or files.is_current(kept)):
            return None
        if base is not None and not (base in files.looked_at or files.is_current(base)):
            return None
        if before is not None and not files.is_absent(before):
            del asked.lines[head[:end]]
            return None
        ready = answers.get(asked.key) or self._prepare(known, asked)  # type: ignore[arg-type]
        if ready is None:
            return None
        handle = kept.variant.handle
        if ready.span is not None and not handle.has_in_memory(ready.span[0], ready.span[0] + 1):
            # A disk that fails is an answer of its own, as long as nothing is sent.
            return None
        return ready, request, asked, handle

    def _prepare(self, known: Known, asked: Asked) -> Ready | None:
        """The answer from a file that is kept and current, to fields that it was not yet asked with."""
        method, target, version, _ = known.request
        request = Request(method, target, version, asked.fields)
        plan = self._site.plan_match(request, known.match, self._clock.now_s)
        ready = self._make_ready(plan, asked)
        if ready is not None and asked.key is not None and plan.status in (200, 304):
            remember(known.answers, asked.key, ready)
        return ready

    def _look_up(self, head: bytes, end: int, asked: Asked) -> Answer | None:
        """The same for a request line that is not known, or of a file that was let go."""
        if end > self._max_line_bytes:
            return None
        line = head[:end]
        if line in self._absent:
            absent, request = self._absent[line]
            if self._files.is_absent(absent):
                return self._answer_absent(absent, request, asked)
            del self._absent[line]
        try:
            method, target, version = parse_request_line(head[: end + 2])
            if version != (1, 1):
                return None
            request = Request(method, target, version, asked.fields)
            response = self._site.respond(request, self._clock.now_s)
            with response as plan:
                ready = self._make_ready(plan, asked)
        except (BadRequest, BlockingIOError):
            return None
        if response.match is not None:
            self._remember(line, request, response.match, asked.lines)
        elif plan.status == 404 and not isinstance(plan.body, Slice):
            self._remember_absent(line, request)
        if ready is None:
            return None
        if ready.span is None:
            return ready, request, asked, None
        # The file has been closed, unless it is kept.
        known = asked.lines.get(line)
        return self.find(head) if known is not None and known.match.kept.is_held else None

    def forget(self) -> None:
        """Forgets what lines mean: the rules of the site are others now."""
        for lines in self._lines.values():
            lines.clear()
        self._absent.clear()

    def _answer_absent(self, absent: Absent, request: Request, asked: Asked) -> Answer | None:
        origin = self._site.find_allowed_origin(asked.fields) if self._has_origins else None
        key = asked.prefers_html, asked.keeps, origin
        ready = absent.answers.get(key)
        if ready is None:
            ready = self._make_ready(self._site.plan_absent(request._replace(fields=asked.fields)), asked)
            if ready is None:
                return None
            absent.answers[key] = ready
        return ready, request, asked, None

    def _remember_absent(self, line: bytes, request: Request) -> None:
        if not self._files.keeps or len(line) > _MAX_KNOWN_LINE_BYTES:
            return
        absent = self._site.find_absent(request)
        if absent is None:
            return
        if len(self._absent) >= _MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[line] = absent, request._replace(fields=_NO_FIELDS)

    def remember(self, head: bytes, response: Response) -> None:
        """Remembers what the request line of `head` means, if a file that is kept is the answer."""
        request = response.request
        if response.rules is not self._site.rules:
            # They have been exchanged while it was sent.
            return
        if response.match is not None and request.version == (1, 1):
            line = head[: max(head.find(b"\r\n"), 0)]
            self._remember(line, request, response.match, self._find_lines(request.fields))

    def _remember(self, line: bytes, request: Request, match: Match, lines: dict[bytes, Known]) -> None:
        if not 0 < len(line) <= _MAX_KNOWN_LINE_BYTES:
            return
        if line not in lines and sum(map(len, self._lines.values())) >= _MAX_KNOWN_LINES:
            oldest = lines or max(self._lines.values(), key=len)
            del oldest[next(iter(oldest))]
        # A form that is not there may come at any time; that it is missing does no harm for a while.
        is_fixed = not match.varies or find_codings(request.fields) == IDENTITY_ONLY
        until_s = math.inf if is_fixed else self._clock.now_s + _FORMS_AGAIN_S
        role = request.method, match.coding, match.content_type, match.varies, match.policy
        answers = match.kept.find_answers(role)
        lines[line] = Known(match, answers, request._replace(fields=_NO_FIELDS), until_s)

    def _find_lines(self, fields: Fields) -> dict[bytes, Known]:
        """The lines that are known for clients that take the same codings, ask for the same origin, and want
        a page or not, as far as that makes a difference."""
        codings = find_codings(fields) if self._has_forms else IDENTITY_ONLY
        wants_page = self._has_fallback and prefers_html(fields.get("accept"))
        return self._lines.setdefault((codings, self._site.find_allowed_origin(fields), wants_page), {})

    def _read_block(self, block: bytes) -> Asked | None:
        """Reads what follows a request line. None when that are not the fields of one request in HTTP/1.1
        without a body."""
        if not block.endswith(b"\r\n\r\n"):
            return None
        # One of them: of many, each would be looked for in what is left without the one before.
        range_line = _RANGE_LINE.search(block) if block.count(b"ange: bytes=") == 1 else None
        if range_line is not None and block.count(b"\n") - 2 <= self._max_fields:
            rest = block[: range_line.start()] + block[range_line.end() :]
            asked = self._blocks[rest] if rest in self._blocks else self._read_block(rest)
            if asked is not None and asked.key in ("", _CLOSES):
                # As many as there are ranges: they are not worth remembering.
                values = {**asked.fields.values, "range": range_line[1].decode()}
                fields = Fields(values, asked.fields.repeated)
                return Asked(block, asked.lines, None, fields, keeps=asked.keeps)
        lines = self._find_lines_of(block)
        if lines is not None and is_plain_block(block[2:-2], max_fields=self._max_fields):
            asked = Asked(block, lines, "", None)
        else:
            asked = self._read_fields(block)
        if len(self._blocks) >= _MAX_KNOWN_BLOCKS:
            # Cheaper than to look for the oldest, and soon known again.
            self._blocks.clear()
        self._blocks[block] = asked
        return asked

    def _find_lines_of(self, block: bytes) -> dict[bytes, Known] | None:
        """The lines that are known for what `block` asks for; None when that has to be read."""
        if self._has_fallback or (self._has_origins and _ORIGIN_NAME.search(block)):
            return None
        if not self._has_forms:
            return self._find_lines(_NO_FIELDS)
        match = _CODINGS_LINE.search(block)
        if len(_CODINGS_NAME.findall(block)) != (match is not None):
            return None
        return self._find_lines(
            _NO_FIELDS if match is None else Fields({"accept-encoding": match[1].decode().strip(" \t")})
        )

    def _read_fields(self, block: bytes) -> Asked | None:
        try:
            fields = parse_request_fields(block[2:-2], (1, 1), max_fields=self._max_fields)
        except BadRequest:
            return None
        connection = fields.values.get("connection", "keep-alive").lower()
        if connection not in ("keep-alive", "close") or not _OF_THE_CONNECTION.isdisjoint(fields.values):
            return None
        return Asked(
            block, self._find_lines(fields), find_conditions(fields), fields, keeps=connection != "close"
        )

    def _make_ready(self, plan: Plan, asked: Asked) -> Ready | None:
        """The bytes of an answer; None when it has several parts, or pieces that are made on the way."""
        body, span = b"", None
        match plan.body:
            case Slice(handle, start, stop):
                if handle.data is None:
                    span = (start, stop)
                else:
                    body = handle.data[start:stop]
            case Bytes(body):
                pass
            case Parts() | Pieces():
                return None
        begin = _begin_head(plan.status)
        connection_lines = b"" if asked.keeps else _CLOSE
        rest = self._server_lines + connection_lines + format_fields(plan.fields) + _END
        size_bytes = len(begin) + len(self._clock.date_bytes) + len(rest) + len(body)
        return Ready(begin, rest, body, size_bytes, plan.status, span)


@cache
def _begin_head(status: int) -> bytes:
    """A head up to the one value that is another one each second."""
    return format_status_line(status) + b"\r\nDate: "
