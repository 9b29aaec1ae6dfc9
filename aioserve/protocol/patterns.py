"""How a rule names paths, `/news/:year/*`, and where it leads, `/blog/:splat?of=:year`.

`Pattern` and `Template` are what `rules` are made of. A pattern is compared with decoded segments and a
template encodes what it is filled with, so that nothing is decoded twice and no segment becomes two. No
regular expression is made of what somebody wrote: comparing takes time in proportion to the path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from aioserve.protocol.message import BadRequest
from aioserve.protocol.target import Target, is_authority, parse_target

# What a placeholder matched, decoded.
Captures = Mapping[str, bytes]

# What `*` matched, the one capture that may hold slashes.
SPLAT = "splat"

_PLACEHOLDER = re.compile(r":([A-Za-z][A-Za-z0-9_]*)")
_URL = re.compile(r"(?i:https?)://([^/?#]*)")
# Blanks and controls end a word or a line; in a table they could stand.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")

# RFC 3986: a percent sign that encodes nothing; and what can stand in a reference without being encoded, when
# it was written there: reserved characters mean what they mean.
_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_WRITTEN = tuple(
    chr(byte) if byte in _UNRESERVED | frozenset(b"%/?#:@!$&'()*+,;=[]") else f"%{byte:02X}"
    for byte in range(256)
)
# What a client sent stands for itself: reserved characters of a captured text are data. Those that mean
# nothing in a path are left as people write them.
_CAPTURED_IN_PATH = tuple(
    chr(byte) if byte in _UNRESERVED | frozenset(b"@!$&'()*+,;=:") else f"%{byte:02X}" for byte in range(256)
)
_CAPTURED_IN_QUERY = tuple(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256))


class Unreadable(ValueError):
    """What is written at `offset` is not what was `expected` there."""

    def __init__(self, offset: int, expected: str) -> None:
        super().__init__(expected)
        self.offset = offset
        self.expected = expected


# ---- patterns --------------------------------------------------------------------------------------------


class _Mixed(NamedTuple):
    """A segment with placeholders: a text, then each placeholder by its name and with the text behind it."""

    start: bytes
    placeholders: tuple[tuple[str, bytes], ...]

    def match(self, segment: bytes, captures: dict[str, bytes]) -> bool:
        """Whether it is such a segment; adds what the placeholders stand for.

        It is compared from its end, so that an earlier placeholder takes as much as it can. The rightmost
        place of a text leaves the most room for those before it: nothing is ever tried twice.
        """
        name, text = self.placeholders[-1]
        if not segment.startswith(self.start) or not segment.endswith(text):
            return False
        end = len(segment) - len(text)
        for before, text in reversed(self.placeholders[:-1]):
            # A placeholder takes one character at least.
            position = segment.rfind(text, 0, max(end - 1, 0))
            if position < 0:
                return False
            captures[name] = segment[position + len(text) : end]
            name, end = before, position
        captures[name] = segment[len(self.start) : end]
        return end > len(self.start)


_Segment = bytes | _Mixed


class Pattern(NamedTuple):
    """Paths: segments `before`, then what `*` stands for between two texts, then segments `after`.

    Without a `*`, `splat` is None and `before` is all. A slash at the end of a path makes no difference.
    """

    before: tuple[_Segment, ...]
    splat: tuple[bytes, bytes] | None
    after: tuple[_Segment, ...]

    @property
    def literal(self) -> tuple[bytes, ...]:
        """The segments with which every path of this pattern begins."""
        segments: list[bytes] = []
        for segment in self.before:
            if not isinstance(segment, bytes):
                break
            segments.append(segment)
        return tuple(segments)

    @property
    def is_literal(self) -> bool:
        """True when there is one path only."""
        return self.splat is None and len(self.literal) == len(self.before)

    @property
    def names(self) -> frozenset[str]:
        """The names of what it captures."""
        mixed = (segment for segment in self.before + self.after if isinstance(segment, _Mixed))
        names = {name for segment in mixed for name, _ in segment.placeholders}
        return frozenset(names if self.splat is None else names | {SPLAT})

    def match(self, segments: tuple[bytes, ...], *, is_folder: bool) -> Captures | None:
        """What the placeholders stand for in that path; None when it is none of these."""
        count, count_before, count_after = len(segments), len(self.before), len(self.after)
        captures: dict[str, bytes] = {}
        if self.splat is None:
            if count != count_before or not _match_segments(self.before, segments, captures):
                return None
            return captures
        start, end = self.splat
        stop = count - count_after
        # "/news/*" is also "/news"; a text beside the asterisk, or a segment behind it, wants a segment.
        if stop < count_before + bool(start or end or count_after):
            return None
        # No text has a slash in it: one beside the asterisk is in the first or the last segment taken.
        if start and not segments[count_before].startswith(start):
            return None
        if end and not segments[stop - 1].endswith(end):
            return None
        if count_before + 1 == stop and len(segments[count_before]) < len(start) + len(end):
            return None
        if not _match_segments(self.before, segments, captures):
            return None
        if not _match_segments(self.after, segments[stop:], captures):
            return None
        splat = b"/".join(segments[count_before:stop])
        slash = b"/" if is_folder and splat and not count_after and not end else b""
        captures[SPLAT] = splat[len(start) : len(splat) - len(end)] + slash
        return captures


def _match_segments(
    patterns: tuple[_Segment, ...], segments: tuple[bytes, ...], captures: dict[str, bytes]
) -> bool:
    for pattern, segment in zip(patterns, segments, strict=False):
        if isinstance(pattern, bytes):
            if pattern != segment:
                return False
        elif not pattern.match(segment, captures):
            return False
    return True


def parse_pattern(text: str) -> tuple[str | None, Pattern]:
    """The host and the paths that `text` names: a path, or an http or https URL; None for any host.

    A scheme makes no difference: the server cannot tell which one the client used. Raises Unreadable.
    """
    host, offset = None, 0
    if match := _URL.match(text):
        host, offset = match[1].lower(), match.end()
        if ":" in host or "*" in host or not is_authority(host):
            raise Unreadable(match.start(1), "a host without port, placeholder and asterisk")
        host = host.removesuffix(".")
    elif not text.startswith("/"):
        raise Unreadable(0, "a path that begins with /, or a URL that begins with http:// or https://")
    for char, what in (("?", "a query: parameters stand behind it, such as id=:id"), ("#", "a fragment")):
        if char in text:
            raise Unreadable(text.index(char), f"a path without {what}")
    _refuse_forbidden(text)
    return host, _parse_path(text, offset)


def _refuse_forbidden(text: str) -> None:
    if match := _FORBIDDEN.search(text):
        raise Unreadable(match.start(), "no blank and no control character, unless it is percent-encoded")
    if match := _MALFORMED.search(text):
        raise Unreadable(match.start(), "two hexadecimal digits behind %, or %25 for the sign itself")


def _parse_path(text: str, offset: int) -> Pattern:
    before: list[_Segment] = []
    after: list[_Segment] = []
    splat: tuple[bytes, bytes] | None = None
    names: set[str] = {SPLAT}
    for part in text[offset:].split("/"):
        if "*" in part:
            if splat is not None or part.count("*") > 1:
                raise Unreadable(offset + part.rindex("*"), "one * at most")
            if match := _PLACEHOLDER.search(part):
                raise Unreadable(offset + match.start(), "no placeholder beside *, before the next /")
            start, end = part.split("*")
            splat = _decode(start, offset), _decode(end, offset)
        elif part:
            (before if splat is None else after).append(_parse_segment(part, offset, names))
        offset += len(part) + 1
    return Pattern(tuple(before), splat, tuple(after))


def _parse_segment(text: str, offset: int, names: set[str]) -> _Segment:
    texts: list[bytes] = []
    found: list[str] = []
    position = 0
    for match in _PLACEHOLDER.finditer(text):
        if found and match.start() == position:
            raise Unreadable(offset + position, "a character between two placeholders")
        if match[1] in names:
            expected = "a name that is not used twice" if match[1] != SPLAT else "a name other than splat"
            raise Unreadable(offset + match.start(), expected)
        names.add(match[1])
        found.append(match[1])
        texts.append(_decode(text[position : match.start()], offset))
        position = match.end()
    rest = _decode(text[position:], offset)
    if found:
        return _Mixed(texts[0], tuple(zip(found, (*texts[1:], rest), strict=True)))
    if rest in (b".", b".."):
        raise Unreadable(offset, "no segment . or ..")
    return rest


def _decode(text: str, offset: int) -> bytes:
    data = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda match: bytes.fromhex(match[1].decode()),
        text.encode("utf-8", "surrogateescape"),
    )
    if b"/" in data or b"\0" in data:
        raise Unreadable(offset, "no encoded slash and no NUL, which no path here can have")
    return data


# ---- templates -------------------------------------------------------------------------------------------


class Template(NamedTuple):
    """A reference with places for captures: texts, encoded, and names, in `path` and in `query`.

    `authority` is the scheme and the host with which it begins, "" for a path of this site. `query` is None
    without one. `fragment` begins with "#" or is empty.
    """

    authority: str
    path: tuple[tuple[str, str | None], ...]
    query: tuple[tuple[str, str | None], ...] | None
    fragment: str

    @property
    def is_own(self) -> bool:
        """True when it leads to a path of this site."""
        return not self.authority

    def format_location(self, captures: Captures, query: bytes | None) -> str:
        """The reference for Location; `query` is the one of the request, kept where there is none."""
        query_text = self._format_query(captures, query)
        return self._format_path(captures) + ("" if query_text is None else f"?{query_text}") + self.fragment

    def make_target(self, captures: Captures, query: bytes | None) -> Target | None:
        """The path of this site to which it leads; None when there can be none (an encoded slash)."""
        query_text = self._format_query(captures, query)
        try:
            target = parse_target("GET", self._format_path(captures).encode("ascii"))
        except BadRequest:
            return None
        return target._replace(query=None if query_text is None else query_text.encode("ascii"))

    def _format_path(self, captures: Captures) -> str:
        path = _fill(self.path, captures, _CAPTURED_IN_PATH)
        # An empty capture between two slashes must not make them one authority ("//host").
        return self.authority + path if self.authority else "/" + path.lstrip("/")

    def _format_query(self, captures: Captures, query: bytes | None) -> str | None:
        if self.query is not None:
            return _fill(self.query, captures, _CAPTURED_IN_QUERY)
        # What a client sends as its query has no blank and no control character; "#" would end it.
        return query.decode("latin-1").replace("#", "%23") if query else None


def _fill(pieces: tuple[tuple[str, str | None], ...], captures: Captures, quoted: tuple[str, ...]) -> str:
    filled = ""
    for text, name in pieces:
        filled += text
        if name is not None:
            filled += quote_capture(name, captures[name], quoted)
    return filled


def quote_capture(name: str, value: bytes, quoted: tuple[str, ...] = _CAPTURED_IN_PATH) -> str:
    """A captured text as it stands in a URL; only what `*` matched has slashes."""
    if name != SPLAT:
        return "".join(map(quoted.__getitem__, value))
    return "/".join("".join(map(quoted.__getitem__, part)) for part in value.split(b"/"))


def parse_template(text: str, names: frozenset[str]) -> Template:
    """Where a rule leads; `names` are those that can be put in, such as `:splat`. Raises Unreadable."""
    authority, offset = "", 0
    if match := _URL.match(text):
        host, offset = match[1], match.end()
        if not is_authority(host):
            raise Unreadable(match.start(1), "a host, without placeholder, and a port at most behind it")
        authority = match[0]
    elif not text.startswith("/") or text.startswith(("//", "/\\")):
        raise Unreadable(0, "a path that begins with one /, or a URL that begins with http:// or https://")
    _refuse_forbidden(text)
    text, hash_sign, fragment = text.partition("#")
    path, question, query = text[offset:].partition("?")
    return Template(
        authority,
        _parse_pieces(path or "/", offset, names),
        _parse_pieces(query, offset + len(path) + 1, names) if question else None,
        _encode(hash_sign + fragment),
    )


def _parse_pieces(text: str, offset: int, names: frozenset[str]) -> tuple[tuple[str, str | None], ...]:
    pieces: list[tuple[str, str | None]] = []
    position = 0
    for match in _PLACEHOLDER.finditer(text):
        if match[1] in names:
            pieces.append((_encode(text[position : match.start()]), match[1]))
            position = match.end()
        elif text[: match.start()].endswith("/") and text[match.end() :][:1] in ("", "/", "?"):
            # Where a placeholder would stand, it was meant as one; in "/wiki/Talk:Main" it was not.
            known = ", ".join(f":{name}" for name in sorted(names)) or "none, for nothing is captured"
            raise Unreadable(offset + match.start(), f"a placeholder of the path that is matched: {known}")
    return (*pieces, (_encode(text[position:]), None))


def _encode(text: str) -> str:
    """What somebody wrote, as it stands in a URL: what is encoded stays, what has to be gets it."""
    return "".join(map(_WRITTEN.__getitem__, text.encode("utf-8", "surrogateescape")))
