"""How HTTP/1.1 is written (RFC 9112): bytes → Request, status and fields → bytes, body framing, keep-alive.

Strict on purpose: whatever two readers could understand differently is refused. What a target names is
`target`'s question; when bytes are read, and for how long one waits for them, is `network`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.target import is_authority

# RFC 9110 §15, the statuses that this server sends.
REASONS = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

# A possessive quantifier stands behind what matches in one way alone: before Python 3.11.5 a group with
# alternatives loses some of them there. Nothing here needs more than linear time without it.
# The expressions that each request needs are compiled here. The others are compiled when they are first
# needed, and kept: a server should listen soon.

# RFC 9110 §5.6.2: token = 1*tchar
_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

# RFC 9112 §3: request-line = method SP request-target SP HTTP-version CRLF. A target is a URI or "*", so
# visible ASCII; of that, "#" starts a fragment, which is never sent (RFC 9112 §3.2). Characters that a URI
# must encode but browsers and curl send as they are ('"', "|", "{", "\", ...) are let pass: nothing here
# reads them differently. HTTP-name is case-sensitive (RFC 9112 §2.3).
_REQUEST_LINE = re.compile(rf"({_TCHAR}++) ([!\"$-~]++) HTTP/([0-9])\.([0-9])\r\n".encode())

# RFC 9112 §5: field-line = field-name ":" OWS field-value OWS. RFC 9110 §5.5: a value is visible ASCII,
# SP, HTAB and obs-text. No whitespace before the colon (§5.1), no line folding (§5.2), no bare CR or LF.
_FIELD_LINES = re.compile(rf"(?:{_TCHAR}++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+".encode("latin-1"))

# Field lines as most requests have them: valid, with one Host of the simplest kind, and with none that
# decides about the answer or the connection. What does not match is read field by field. The first letters of
# those names stand before the rest: most other names are told from them by one.
_DECIDING = r"[HhIiRrCcTtEe](?i:ost:|f-|ange:|onnection:|ontent-length:|ransfer-encoding:|xpect:)"
_HARMLESS_LINE = rf"(?!{_DECIDING}){_TCHAR}++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_HARMLESS_LINES = rf"(?:{_HARMLESS_LINE}|Connection: keep-alive\r\n)*"
_PLAIN_HOST = r"[Hh]ost: [0-9A-Za-z\-._~]++(?::[0-9]{1,4}+)?\r\n"
_PLAIN_BLOCK = f"{_HARMLESS_LINES}{_PLAIN_HOST}{_HARMLESS_LINES}".encode("latin-1")

# RFC 9112 §2.2: a server SHOULD ignore at least one empty line before a request-line. Some clients send
# one after a body; eight are plenty.
_EMPTY_LINES = re.compile(rb"(?:\r\n){0,8}+")

# What can begin a request: a token character, or a part of an empty line.
_HOPELESS_START = rf"(?:\r\n)*+(?!{_TCHAR}|\r?\Z)".encode()
_BARE_CR_OR_LF = rb"(?<!\r)\n|\r(?=[^\n])"

# RFC 9112 §7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ). BWS has to be
# understood (RFC 9110 §5.6.3), but only where an extension follows: "5 " alone is no chunk-size.
_BWS = r"[ \t]*+"
_QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_CHUNK_EXT = rf"{_BWS};{_BWS}{_TCHAR}++(?:{_BWS}={_BWS}(?:{_TCHAR}++|{_QUOTED_STRING}))?"
_CHUNK_LINE = rf"([0-9A-Fa-f]{{1,16}})(?:{_CHUNK_EXT})*\r\n".encode("latin-1")

# A chunked body instead of a length.
CHUNKED = -1

# RFC 9112 §7.1: last-chunk, without a trailer section.
LAST_CHUNK = b"0\r\n\r\n"

# 2**63 - 1 has 19 digits; nobody has a longer body.
_MAX_LENGTH_DIGITS = 19

# RFC 9110 §16.1.1: the methods of the IANA registry (2024). They are known and refused (405); all others
# are not known (501).
REGISTERED_METHODS = frozenset(
    [
        "ACL",
        "BASELINE-CONTROL",
        "BIND",
        "CHECKIN",
        "CHECKOUT",
        "CONNECT",
        "COPY",
        "DELETE",
        "GET",
        "HEAD",
        "LABEL",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MKREDIRECTREF",
        "MKWORKSPACE",
        "MOVE",
        "OPTIONS",
        "ORDERPATCH",
        "PATCH",
        "POST",
        "PRI",
        "PROPFIND",
        "PROPPATCH",
        "PUT",
        "REBIND",
        "REPORT",
        "SEARCH",
        "TRACE",
        "UNBIND",
        "UNCHECKOUT",
        "UNLINK",
        "UNLOCK",
        "UPDATE",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
    ]
)


def find_head_end(buffer: bytearray, searched: int, *, max_line_bytes: int, max_head_bytes: int) -> int:
    """Where the first head in `buffer` ends, or -1 when more bytes are needed.

    The first `searched` bytes were looked at before. Bytes are counted here, before anything is parsed, and
    a beginning that can no longer become a request is refused without waiting for its end.
    Raises BadRequest: 414 for the request line, 431 for the whole head, 400.
    """
    empty = _EMPTY_LINES.match(buffer)
    start = empty.end() if empty is not None else 0
    line_end = buffer.find(b"\r\n", start)
    # A CR that came last is half of the line's end, or no part of any line.
    if (line_end if line_end >= 0 else len(buffer) - buffer.endswith(b"\r")) - start > max_line_bytes:
        raise BadRequest(414, "the request line is too long")
    end = buffer.find(b"\r\n\r\n", max(start, searched - 3))
    if (end + 4 if end >= 0 else len(buffer)) - start > max_head_bytes:
        raise BadRequest(431, "the head is too large")
    if end >= 0:
        return end + 4
    if re.match(_HOPELESS_START, buffer) or re.compile(_BARE_CR_OR_LF).search(buffer, max(0, searched - 1)):
        raise BadRequest(400, "not an HTTP/1.1 head")
    if line_end >= searched - 1 and line_end >= 0 and not _REQUEST_LINE.match(buffer, start):
        raise BadRequest(400, "malformed request line")
    return -1


def find_line_end(buffer: bytearray, searched: int, *, max_bytes: int) -> int:
    """Where the first line in `buffer` ends, its CRLF included, or -1. Raises BadRequest(400)."""
    end = buffer.find(b"\n", searched)
    if (end if end >= 0 else len(buffer)) >= max_bytes:
        raise BadRequest(400, "a line of the body's framing is too long")
    if end >= 0 and buffer[end - 1 : end] != b"\r":
        raise BadRequest(400, "bare LF")
    return end + 1 if end >= 0 else -1


def parse_head(head: bytes, *, max_fields: int) -> Request:
    """Reads one whole head, as `find_head_end` cut it.

    Raises BadRequest: 400, 431 for too many fields, 505 for a version that is neither 1.0 nor 1.1.
    """
    empty = _EMPTY_LINES.match(head)
    start = empty.end() if empty is not None else 0
    line_end = head.index(b"\r\n", start) + 2
    method, target, version = parse_request_line(head[start:line_end])
    return Request(
        method, target, version, parse_request_fields(head[line_end:-2], version, max_fields=max_fields)
    )


def parse_request_line(line: bytes) -> tuple[str, bytes, tuple[int, int]]:
    """Reads a request line with its CRLF: method, target and version. Raises BadRequest(400 or 505)."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest(400, "malformed request line")
    method, target, major, minor = match.groups()
    version = (int(major), int(minor))
    if version not in ((1, 0), (1, 1)):
        raise BadRequest(505, "neither HTTP/1.0 nor HTTP/1.1")
    return method.decode("ascii"), target, version


def parse_request_fields(block: bytes, version: tuple[int, int], *, max_fields: int) -> Fields:
    """Reads the field lines of a request, each with its CRLF. Raises BadRequest(400 or 431)."""
    fields = parse_fields(block, max_fields=max_fields)
    # RFC 9112 §3.2: a 1.1 request has exactly one Host, and any Host is valid.
    host = fields.get("host")
    if host is None:
        if version == (1, 1):
            raise BadRequest(400, "no Host")
    elif "host" in fields.repeated or not is_authority(host):
        raise BadRequest(400, "more than one Host, or an invalid one")
    return fields


def parse_fields(block: bytes, *, max_fields: int) -> Fields:
    """Reads field lines, each with its CRLF: a head's or a trailer's. Raises BadRequest(400 or 431)."""
    if block.count(b"\n") > max_fields:
        raise BadRequest(431, "too many fields")
    if _FIELD_LINES.fullmatch(block) is None:
        raise BadRequest(400, "malformed field line")
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for line in block.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        if name in values:
            repeated.add(name)
            value = f"{values[name]}, {value}"
        values[name] = value
    return Fields(values, frozenset(repeated))


def is_plain_block(block: bytes, *, max_fields: int) -> bool:
    """Tells whether field lines ask for nothing that `parse_request_fields` would have to be asked about.

    True: they are valid in HTTP/1.1, the client stays, sends no body, and makes no condition. False: unknown.
    It takes a fifth of the time.
    """
    return block.count(b"\n") <= max_fields and _compile_plain_block().fullmatch(block) is not None


@cache
def _compile_plain_block() -> re.Pattern[bytes]:
    return re.compile(_PLAIN_BLOCK)


def parse_body_length(request: Request) -> int:
    """The length of the request's body in bytes, or CHUNKED (RFC 9112 §6.3).

    Raises BadRequest(400) where two readers could disagree, 501 for a coding other than chunked.
    """
    fields = request.fields
    coding = fields.get("transfer-encoding")
    length = fields.get("content-length")
    if coding is not None:
        # RFC 9112 §6.1: in a 1.0 message the framing is faulty. Together with a length it smuggles.
        if length is not None or request.version == (1, 0):
            raise BadRequest(400, "Transfer-Encoding together with Content-Length, or in HTTP/1.0")
        codings = [item.strip(" \t").lower() for item in coding.split(",")]
        if codings == ["chunked"]:
            return CHUNKED
        # RFC 9112 §6.3: without chunked in the last place, and there alone, the end cannot be known.
        if codings[-1] != "chunked" or codings.count("chunked") > 1:
            raise BadRequest(400, "chunked is not the one last transfer coding")
        raise BadRequest(501, "a transfer coding other than chunked")
    if length is None:
        return 0
    # RFC 9110 §8.6: 1*DIGIT. A list of equal values may be merged; refusing it is safer. isdigit() alone
    # takes other scripts' digits.
    if not (length.isascii() and length.isdigit()) or len(length) > _MAX_LENGTH_DIGITS:
        raise BadRequest(400, "malformed Content-Length")
    return int(length)


def parse_chunk_size(line: bytes) -> int:
    """The size in a chunk's first line, its CRLF included (RFC 9112 §7.1). Raises BadRequest(400)."""
    match = re.fullmatch(_CHUNK_LINE, line)
    if match is None:
        raise BadRequest(400, "malformed chunk")
    return int(match[1], 16)


def expects_continue(request: Request) -> bool:
    """True when the client waits for a word before it sends the body. Raises BadRequest(417) for any other
    expectation (RFC 9110 §10.1.1)."""
    expectation = request.fields.get("expect")
    if expectation is None or request.version == (1, 0):
        return False
    if expectation.lower() != "100-continue":
        raise BadRequest(417, "an expectation other than 100-continue")
    return True


def keeps_alive(request: Request) -> bool:
    """True when the client lets the connection stay open after the answer (RFC 9112 §9.3)."""
    connection = request.fields.get("connection")
    if connection is None:
        return request.version == (1, 1)
    options = {option.strip(" \t").lower() for option in connection.split(",")}
    if "close" in options:
        return False
    return request.version == (1, 1) or "keep-alive" in options


def format_head(status: int, *field_groups: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of an answer's head. Raises ValueError as `format_fields` does."""
    return format_status_line(status) + format_fields(*field_groups) + b"\r\n\r\n"


def format_status_line(status: int) -> bytes:
    """The first line of an answer, without its end."""
    return f"HTTP/1.1 {status} {REASONS[status]}".encode("ascii")


def format_fields(*field_groups: Iterable[tuple[str, str]]) -> bytes:
    """Field lines, each with the end of the line before it. The one writer of fields.

    Raises ValueError when a name or a value holds what would start another line.
    """
    lines = [f"\r\n{name}: {value}" for group in field_groups for name, value in group]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise ValueError("a field holds CR, LF or NUL")
    return text.encode("latin-1")


def format_chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 §7.1); `data` must not be empty, as that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
