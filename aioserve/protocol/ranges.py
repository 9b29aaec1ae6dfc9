"""Which bytes of a file does a Range field ask for, and how are several of them framed?

RFC 9110 §14. Whether the field may be looked at (the method, If-Range) is decided by `plan` and
`conditional`. Inside, ranges are half-open; on the wire they include their last byte. Only the reading and
the writing of the fields know about that.

Range is an offer that a server may decline at any time (§14.2), so everything that looks like a mistake or
an attack (§17.15) is answered as if it were not there, with the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

# zsync 0.6.2 asks for up to 20 ranges in one request and fails on the whole file. Apache's MaxRanges allows
# 200; nothing but an attack is known to send that many.
MAX_RANGES: Final = 32

# RFC 9110 §14.2 names "more than two overlapping ranges" as a reason to ignore the field. Apache's
# MaxRangeOverlaps is 20.
MAX_OVERLAPS: Final = 2

# 32 ranges between 19-digit positions, each with a comma and a blank, are 1,312 bytes.
MAX_FIELD_BYTES: Final = 2048

# No file is larger than 2**63 - 1 bytes, which has 19 digits.
_MAX_DIGITS: Final = 19

_BLANKS: Final = " \t"

# What nearly every client sends.
_ONE_RANGE: Final = "bytes=([0-9]{1,18})-([0-9]{1,18})?"


class Span(NamedTuple):
    """The bytes from `start` up to, and without, `stop`."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start


class Multipart(NamedTuple):
    """The frame of a multipart/byteranges body: a head before each span, and what follows the last one.

    `size_bytes` is the length of the whole body, the bytes of the spans included.
    """

    content_type: str
    size_bytes: int
    part_heads: tuple[bytes, ...]
    tail: bytes


def parse_range(text: str, size_bytes: int) -> tuple[Span, ...] | None:
    """Reads a Range field for a file of `size_bytes`; gives the spans to send, in the order of the request.

    None: the field is ignored and the whole file is sent. No spans: the field is well-formed, but nothing of
    it lies in the file (416). Spans lie within the file, are not empty, and neither overlap nor touch.
    """
    # Nothing of an empty file can be written in a Content-Range field, and programs that begin each download
    # with "bytes=0-" want the empty file, not an error. Go decides the same.
    if size_bytes == 0 or len(text) > MAX_FIELD_BYTES:
        return None

    only = re.fullmatch(_ONE_RANGE, text)
    if only is not None:
        start, last = int(only[1]), int(only[2] or size_bytes)
        if start > last:
            return None if only[2] else ()
        return (Span(start, min(last + 1, size_bytes)),) if start < size_bytes else ()

    # RFC 9110 §14.1: names of units are case-insensitive. §14.2: an unknown one is ignored.
    unit, equals, specs = text.partition("=")
    if not equals or unit.lower() != "bytes":
        return None

    # RFC 9110 §14.1.1: ranges-specifier = range-unit "=" 1#range-spec. §5.6.1: empty elements do not count,
    # but one that is not empty there must be.
    spans: list[Span] = []
    for element in specs.split(","):
        spec = element.strip(_BLANKS)
        if not spec:
            continue
        span = _parse_spec(spec, size_bytes)
        if span is None or len(spans) == MAX_RANGES:
            return None
        spans.append(span)
    if not spans:
        return None

    # RFC 9110 §14.1.2: what begins behind the end is unsatisfiable, the others are served without it.
    satisfiable = [span for span in spans if span.size_bytes]
    # Who asks for more than there is has nothing to gain from ranges.
    if sum(span.size_bytes for span in satisfiable) > size_bytes:
        return None
    return _merge(satisfiable)


def _parse_spec(spec: str, size_bytes: int) -> Span | None:
    """Reads one range-spec; an unsatisfiable one is an empty span, an invalid one is None.

    Deviation: RFC 9110 §14.1.1 has no blanks around the positions. RFC 2616 §2.1 had ("0- 9"), what they mean
    is beyond doubt, and Go and ASP.NET still read them.
    """
    first, dash, last = (part.strip(_BLANKS) for part in spec.partition("-"))
    if not dash:
        return None

    # RFC 9110 §14.1.2: suffix-range = "-" suffix-length. One longer than the file means all of the file; one
    # of length 0 is well-formed and unsatisfiable.
    if not first:
        if not _is_number(last):
            return None
        return Span(max(size_bytes - _parse_number(last), 0), size_bytes)

    # RFC 9110 §14.1.2: int-range = first-pos "-" [ last-pos ]. A last-pos behind the end, or none, means up
    # to the end; one before first-pos is invalid.
    if not _is_number(first):
        return None
    start = _parse_number(first)
    if not last:
        return Span(min(start, size_bytes), size_bytes)
    if not _is_number(last):
        return None
    stop = _parse_number(last) + 1
    if stop <= start:
        return None
    return Span(min(start, size_bytes), min(stop, size_bytes))


def _is_number(text: str) -> bool:
    # isdigit alone would let "²" pass, and int alone would let "+1" and "1_0" pass.
    return text.isascii() and text.isdigit()


def _parse_number(digits: str) -> int:
    """Gives the number, or one that is larger than any file for all that have too many digits.

    int() needs quadratic time for long numbers, and refuses them where an embedding program says so.
    """
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _merge(spans: Sequence[Span]) -> tuple[Span, ...] | None:
    """Joins what overlaps or touches; each result stands where the first of its spans stood.

    None when too many overlap. RFC 9110 §15.3.7.2 allows to coalesce, and to send in another order than
    asked for; the first span asked for is probably the one that is wanted first.
    """
    overlaps = 0
    merged: list[tuple[int, int, int]] = []  # position in the request, start, stop
    for position, span in sorted(enumerate(spans), key=lambda item: item[1].start):
        if merged and span.start <= merged[-1][2]:
            first_position, start, stop = merged.pop()
            overlaps += span.start < stop
            merged.append((min(position, first_position), start, max(span.stop, stop)))
        else:
            merged.append((position, span.start, span.stop))
    if overlaps > MAX_OVERLAPS:
        return None
    return tuple(Span(start, stop) for _, start, stop in sorted(merged))


def format_content_range(span: Span, size_bytes: int) -> str:
    """Gives the Content-Range value of one span of a file of `size_bytes` (RFC 9110 §14.4)."""
    return f"bytes {span.start}-{span.stop - 1}/{size_bytes}"


def format_unsatisfied_range(size_bytes: int) -> str:
    """Gives the Content-Range value of a 416, which tells the client how long the file is."""
    return f"bytes */{size_bytes}"


def plan_multipart(spans: Sequence[Span], size_bytes: int, content_type: str, boundary: str) -> Multipart:
    """Frames several spans of a file of `size_bytes` as multipart/byteranges (RFC 9110 §14.6).

    `content_type` is that of the file. `boundary` is a token that does not occur in the file: fresh random
    characters, 70 at the most (RFC 2046 §5.1.1).
    """
    # The CRLF before a delimiter belongs to the delimiter, not to the part before it. Before the first it is
    # optional, and zsync 0.6.2 loops for ever without it.
    part_heads = tuple(
        (
            f"\r\n--{boundary}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Range: {format_content_range(span, size_bytes)}\r\n\r\n"
        ).encode("latin-1")
        for span in spans
    )
    tail = f"\r\n--{boundary}--\r\n".encode("latin-1")
    return Multipart(
        content_type=f"multipart/byteranges; boundary={boundary}",
        size_bytes=sum(map(len, part_heads)) + sum(span.size_bytes for span in spans) + len(tail),
        part_heads=part_heads,
        tail=tail,
    )
