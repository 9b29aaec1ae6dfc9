"""What is sent in answer: `Plan` and its bodies, and the functions that decide one.

A Plan is complete. The wire adds what belongs to the connection (Date, Server, Connection) and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import NamedTuple

from aioserve.protocol.conditional import (
    Validators,
    Verdict,
    evaluate_preconditions,
    format_etag,
    format_http_date,
    keeps_range,
)
from aioserve.protocol.http1 import REASONS
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.negotiation import prefers_html
from aioserve.protocol.ranges import (
    Span,
    format_content_range,
    format_unsatisfied_range,
    parse_range,
    plan_multipart,
)
from aioserve.protocol.variant import Handle, Variant

ALLOWED_METHODS = ("GET", "HEAD", "OPTIONS")

# Seconds after which a client may come again when the disk or the descriptors were short: about as long
# as the server itself pauses.
RETRY_AFTER_S = 1

Field = tuple[str, str]


class Empty(NamedTuple):
    """No body follows the head."""


class Bytes(NamedTuple):
    data: bytes


class Slice(NamedTuple):
    """The bytes `[start, stop)` of a file."""

    handle: Handle
    start: int
    stop: int


class Parts(NamedTuple):
    """Several pieces, one after the other (multipart/byteranges)."""

    parts: tuple[Bytes | Slice, ...]


class Pieces(NamedTuple):
    """Bytes that are made while they are sent, `size_bytes` in all; None when nobody knows how many.

    Whoever got the Plan closes `pieces`, which raise OSError where they cannot be completed.
    """

    pieces: AsyncGenerator[bytes, None]
    size_bytes: int | None


Body = Empty | Bytes | Slice | Parts | Pieces


class Plan(NamedTuple):
    status: int
    fields: tuple[Field, ...]
    body: Body


# Revalidation costs one short exchange and is never stale.
_REVALIDATE: Field = ("Cache-Control", "no-cache")

_RETRY_AFTER: Field = ("Retry-After", str(RETRY_AFTER_S))

# A type is what Content-Type says: no browser may guess another from the bytes.
_NOSNIFF: Field = ("X-Content-Type-Options", "nosniff")


# RFC 9110 §12.5.5: whoever stores one of several forms has to know what decided.
_VARY_ENCODING: Field = ("Vary", "Accept-Encoding")


def plan_file(
    request: Request,
    variant: Variant,
    content_type: str,
    *,
    now_s: int,
    boundary: str,
    varies: bool = False,
    pieces: AsyncGenerator[bytes, None] | None = None,
    head_ranges: bool = False,
) -> Plan:
    """The answer to GET or HEAD of a file that was found: 200, 206, 304, 412 or 416.

    `now_s` is the time of the Date field in Unix seconds; `boundary` separates the parts of a multipart
    answer and must not be guessable by who writes the files. `varies` tells whether another client could get
    another form of the file. With `pieces`, these are its content, of a length that nobody knows; no range of
    it can be had then. With `head_ranges`, HEAD is told what GET with its Range would get.
    """
    # A modification time in the future is replaced by the time of the answer (RFC 9110 §8.8.2.1).
    modified_s = min(variant.mtime_ns // 1_000_000_000, now_s)
    size_bytes = variant.size_bytes
    validators, described = _describe(
        variant.mtime_ns, size_bytes, variant.coding, modified_s, varies, pieces is not None
    )
    verdict = evaluate_preconditions(request.method, request.fields, validators, now_s)
    if verdict is Verdict.FAILED:
        return plan_error(request, 412)
    if verdict is Verdict.NOT_MODIFIED:
        # RFC 9110 §15.4.5: the fields that a 200 would have had for caches, no other metadata.
        vary = (_VARY_ENCODING,) if varies else ()
        return Plan(304, (("ETag", validators.etag), _REVALIDATE, *vary), Empty())
    if pieces is not None:
        made: Body = Pieces(pieces, None) if request.method == "GET" else Empty()
        return Plan(200, (("Content-Type", content_type), *described), made)

    # RFC 9110 §14.2: Range is defined for GET alone. HEAD ignores it, unless the owner wants otherwise
    # (docs/decisions/0003).
    field = request.fields.get("range") if request.method == "GET" or head_ranges else None
    if field is not None and keeps_range(request.fields, validators, now_s):
        spans = parse_range(field, size_bytes)
        if spans is not None:
            plan = _plan_spans(request, variant.handle, spans, size_bytes, content_type, described, boundary)
            return plan if request.method == "GET" else plan._replace(body=Empty())

    body: Body = Slice(variant.handle, 0, size_bytes) if request.method == "GET" and size_bytes else Empty()
    return Plan(200, (("Content-Type", content_type), ("Content-Length", str(size_bytes)), *described), body)


# Files are asked for more than once.
@lru_cache(maxsize=1024)
def _describe(
    mtime_ns: int, size_bytes: int, coding: str | None, modified_s: int, varies: bool, is_made: bool
) -> tuple[Validators, tuple[Field, ...]]:
    """The validators of a file, and the fields that go with its content, whole or in part."""
    # What is made on the way is told apart from the form of the same coding that has a size.
    tag_coding = f"{coding or 'plain'}-made" if is_made else coding
    validators = Validators(format_etag(mtime_ns, size_bytes, tag_coding), modified_s)
    coded: tuple[Field, ...] = (("Content-Encoding", coding),) if coding else ()
    vary = (_VARY_ENCODING,) if varies else ()
    return validators, (
        *coded,
        ("Last-Modified", format_http_date(modified_s)),
        ("ETag", validators.etag),
        ("Accept-Ranges", "none" if is_made else "bytes"),
        _REVALIDATE,
        *vary,
        _NOSNIFF,
    )


# What decides between a whole file and "you have it".
_CONDITIONS = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since")

# What makes an answer for the moment: a part of a file, under a condition that looks at the clock.
_MOMENTARY = frozenset({"range", "if-range"})


def find_conditions(fields: Fields) -> str | None:
    """What of `fields` decides how `plan_file` answers, beside the file: one text for all that ask the same.

    None when the same words may get another answer at another time, or when there are ranges.
    """
    values = fields.values
    if not _MOMENTARY.isdisjoint(values):
        return None
    lines = ""
    for name in _CONDITIONS:
        if name in values:
            # Of the forms of a date, the one with two digits for the year is read by the clock. It alone has
            # hyphens.
            if name.endswith("-since") and "-" in values[name]:
                return None
            lines += f"{name}: {values[name]}\n"
    return lines


def _plan_spans(
    request: Request,
    handle: Handle,
    spans: tuple[Span, ...],
    size_bytes: int,
    content_type: str,
    described: tuple[Field, ...],
    boundary: str,
) -> Plan:
    if not spans:
        return plan_error(request, 416, (("Content-Range", format_unsatisfied_range(size_bytes)),))
    if len(spans) == 1:
        (span,) = spans
        fields: tuple[Field, ...] = (
            ("Content-Type", content_type),
            ("Content-Length", str(span.size_bytes)),
            ("Content-Range", format_content_range(span, size_bytes)),
        )
        return Plan(206, fields + described, Slice(handle, span.start, span.stop))
    multipart = plan_multipart(spans, size_bytes, content_type, boundary)
    parts: list[Bytes | Slice] = []
    for part_head, span in zip(multipart.part_heads, spans, strict=True):
        parts += (Bytes(part_head), Slice(handle, span.start, span.stop))
    parts.append(Bytes(multipart.tail))
    fields = (("Content-Type", multipart.content_type), ("Content-Length", str(multipart.size_bytes)))
    return Plan(206, fields + described, Parts(tuple(parts)))


def plan_error_page(
    request: Request, status: int, variant: Variant, content_type: str, *, varies: bool = False
) -> Plan:
    """An error whose body is a file of the site: whole, without validators, never partial."""
    coded: tuple[Field, ...] = (("Content-Encoding", variant.coding),) if variant.coding else ()
    fields = (
        ("Content-Type", content_type),
        ("Content-Length", str(variant.size_bytes)),
        *coded,
        _REVALIDATE,
        *((_VARY_ENCODING,) if varies else ()),
        _NOSNIFF,
        *((_RETRY_AFTER,) if status == 503 else ()),
    )
    sends = request.method == "GET" and variant.size_bytes > 0
    return Plan(status, fields, Slice(variant.handle, 0, variant.size_bytes) if sends else Empty())


def plan_redirect(location: str, status: int = 308) -> Plan:
    """A redirect, by itself a permanent one that keeps the method (RFC 9110 §15.4.9).

    `location` is an encoded URI reference.
    """
    return Plan(status, (("Location", location), ("Content-Length", "0"), _REVALIDATE), Empty())


def plan_options() -> Plan:
    """The answer to OPTIONS: what is understood here (RFC 9110 §9.3.7)."""
    return Plan(204, (("Allow", ", ".join(ALLOWED_METHODS)),), Empty())


def plan_error(request: Request | None, status: int, fields: tuple[Field, ...] = ()) -> Plan:
    """An error that names its status and nothing else; HTML for clients that prefer it.

    `request` is None when there was none that could be read. 405 gets its Allow and 503 its Retry-After here.
    """
    if status == 405:
        fields += (("Allow", ", ".join(ALLOWED_METHODS)),)
    elif status == 503:
        fields += (_RETRY_AFTER,)
    if request is not None and prefers_html(request.fields.get("accept")):
        content_type, body = "text/html; charset=utf-8", _format_page(status)
    else:
        content_type, body = "text/plain; charset=utf-8", _format_text(status)
    head = (
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Vary", "Accept"),
        _REVALIDATE,
        _NOSNIFF,
    )
    is_head = request is not None and request.method == "HEAD"
    return Plan(status, head + fields, Empty() if is_head else Bytes(body))


def _format_text(status: int) -> bytes:
    if status == 404:
        return b"----Not found----"
    return f"{status} {REASONS[status]}\n".encode()


def _format_page(status: int) -> bytes:
    title = f"{status} {REASONS[status]}"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<h1>{title}</h1>\n</html>\n"
    ).encode()
