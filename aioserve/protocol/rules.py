"""What the owner's rules say of one URL: where it leads instead, and which fields its answers have.

`Rules` is what `_redirects`, `_headers` and the tables of the configuration become; how these are written is
for `rule_syntax`. It is a value: what changes is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from aioserve.protocol.message import Request
from aioserve.protocol.patterns import Captures, Pattern, Template, quote_capture
from aioserve.protocol.target import Target

# What was decided for a target is remembered for so many of them. Those of files that are asked for again and
# again are remembered with their answers, so there are few here.
_MAX_REMEMBERED = 256

Field = tuple[str, str]

# Statuses of rules by what they do.
REDIRECTS = (301, 302, 303, 307, 308)
REWRITES = (200, 404)

# Fields of which there can be one value: where several rules give one, the last is taken, as two with a comma
# between them would be none. RFC 9110, Fetch, HTML, RFC 6797, RFC 7034.
SINGLE = frozenset(
    {
        "access-control-allow-credentials",
        "access-control-allow-origin",
        "access-control-max-age",
        "content-disposition",
        "content-location",
        "content-type",
        "cross-origin-embedder-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "expires",
        "origin-agent-cluster",
        "refresh",
        "retry-after",
        "strict-transport-security",
        "x-content-type-options",
        "x-frame-options",
    }
)


# ---- rules -----------------------------------------------------------------------------------------------


class Condition(NamedTuple):
    """A query parameter that must be there: with that value, or with any but none, to be captured as it."""

    name: bytes
    value: bytes | None
    capture: str | None


class RedirectRule(NamedTuple):
    """`origin` says where it stands, for people. `host` is None for any."""

    origin: str
    host: str | None
    pattern: Pattern
    conditions: tuple[Condition, ...]
    template: Template
    status: int
    is_forced: bool


# A name, and a value with places for captures; None removes what was there before.
HeaderField = tuple[str, tuple[tuple[str, str | None], ...] | None]


class HeaderRule(NamedTuple):
    """Fields for some paths, in their order."""

    origin: str
    host: str | None
    pattern: Pattern
    fields: tuple[HeaderField, ...]


# ---- what they say ---------------------------------------------------------------------------------------


class Redirect(NamedTuple):
    """An answer that leads to `location`. `is_forced`: whether or not there is a file."""

    status: int
    location: str
    is_forced: bool
    origin: str


class Rewrite(NamedTuple):
    """Another path of this site, whose file is sent with `status` instead. It is followed once."""

    status: int
    target: Target
    is_forced: bool
    origin: str


class Headers(NamedTuple):
    """Fields that replace those of the same name, and lower-case names of those that are removed."""

    fields: tuple[Field, ...]
    removed: frozenset[str]
    origins: tuple[str, ...]


NO_HEADERS = Headers((), frozenset(), ())


class Rules:
    """Redirects, of which the first that matches counts, and headers, of which all do.

    Rules of one path are found by it, all others by the segments with which their paths begin: ten thousand
    of them cost a request no more than those that could match it.
    """

    def __init__(self, redirects: Iterable[RedirectRule] = (), headers: Iterable[HeaderRule] = ()) -> None:
        self.redirects = tuple(redirects)
        self.headers = tuple(headers)
        self._redirects = _Index(self.redirects)
        self._headers = _Index(self.headers)
        self._names_hosts = any(rule.host is not None for rule in self.redirects) or any(
            rule.host is not None for rule in self.headers
        )
        self._find_redirect: Callable[[Target, str | None], Redirect | Rewrite | None] = lru_cache(
            _MAX_REMEMBERED
        )(self._look_for_redirect)
        self._find_headers: Callable[[tuple[bytes, ...], bool, str | None], Headers] = lru_cache(
            _MAX_REMEMBERED
        )(self._look_for_headers)

    def __bool__(self) -> bool:
        return bool(self.redirects or self.headers)

    def depends_on_host(self, target: Target) -> bool:
        """Whether another Host could get another answer."""
        if not self._names_hosts:
            return False
        return self._redirects.depends_on_host(target) or self._headers.depends_on_host(target)

    def find_redirect(self, target: Target, host: str | None) -> Redirect | Rewrite | None:
        """What the first rule says that matches; None when none does.

        `host` is that of the request (`find_host`). One that would lead to where the request is already is
        passed over: it would go round in circles.
        """
        if not self.redirects:
            return None
        return self._find_redirect(target, host if self._names_hosts else None)

    def find_headers(self, target: Target, host: str | None) -> Headers:
        """The fields that all rules together have for that path."""
        if not self.headers:
            return NO_HEADERS
        return self._find_headers(target.segments, target.is_folder, host if self._names_hosts else None)

    def _look_for_redirect(self, target: Target, host: str | None) -> Redirect | Rewrite | None:
        for rule in self._redirects.find(target.segments):
            if rule.host is not None and rule.host != host:
                continue
            captures = rule.pattern.match(target.segments, is_folder=target.is_folder)
            if captures is None:
                continue
            query = target.query
            if rule.conditions:
                matched = _match_query(rule.conditions, query)
                if matched is None:
                    continue
                captures, query = {**captures, **matched[0]}, matched[1]
            if found := _follow(rule, captures, query, target, host):
                return found
        return None

    def _look_for_headers(self, segments: tuple[bytes, ...], is_folder: bool, host: str | None) -> Headers:
        values: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        removed: set[str] = set()
        origins: list[str] = []
        for rule in self._headers.find(segments):
            if rule.host is not None and rule.host != host:
                continue
            captures = rule.pattern.match(segments, is_folder=is_folder)
            if captures is None:
                continue
            origins.append(rule.origin)
            for name, pieces in rule.fields:
                key = name.lower()
                if pieces is None:
                    values.pop(key, None)
                    removed.add(key)
                    continue
                value = _fill_value(pieces, captures)
                if key in values and key not in SINGLE:
                    values[key].append(value)
                else:
                    values[key], names[key] = [value], name
        return Headers(tuple(_join(names, values)), frozenset(removed), tuple(origins))


def _join(names: dict[str, str], values: dict[str, list[str]]) -> Iterator[Field]:
    for key, several in values.items():
        if key == "set-cookie":
            # RFC 6265 §3: a comma would be part of the cookie.
            yield from ((names[key], value) for value in several)
        else:
            yield names[key], ", ".join(several)


def _fill_value(pieces: tuple[tuple[str, str | None], ...], captures: Captures) -> str:
    return "".join(
        text + ("" if name is None else quote_capture(name, captures[name])) for text, name in pieces
    )


def _follow(
    rule: RedirectRule, captures: Captures, query: bytes | None, target: Target, host: str | None
) -> Redirect | Rewrite | None:
    """What a rule that matches says; None when that is no answer."""
    template = rule.template
    if rule.status in REWRITES:
        rewritten = template.make_target(captures, query)
        return None if rewritten is None else Rewrite(rule.status, rewritten, rule.is_forced, rule.origin)
    # A URL of the host that was asked leads here again: the scheme is not ours to see.
    if template.is_own or (host is not None and _host_of(template.authority.split("//", 1)[1]) == host):
        own = template._replace(authority="").make_target(captures, query)
        if own is not None and own == target:
            return None
    location = template.format_location(captures, query)
    return Redirect(rule.status, location, rule.is_forced, rule.origin)


# ---- the query and the host ------------------------------------------------------------------------------


def _match_query(
    conditions: tuple[Condition, ...], query: bytes | None
) -> tuple[dict[str, bytes], bytes | None] | None:
    """What the conditions capture, and the query without the parameters that they name."""
    parameters: dict[bytes, bytes] = {}
    named = {condition.name for condition in conditions}
    rest: list[bytes] = []
    for part in (query or b"").split(b"&"):
        written_name, _, written_value = part.partition(b"=")
        name = _decode_parameter(written_name)
        if name in named:
            parameters.setdefault(name, _decode_parameter(written_value))
        elif part:
            rest.append(part)
    captures: dict[str, bytes] = {}
    for name, expected, capture in conditions:
        value = parameters.get(name)
        if value is None or (expected is not None and value != expected):
            return None
        if capture is not None:
            if not value or b"\0" in value:
                return None
            captures[capture] = value
    return captures, b"&".join(rest) or None


def _decode_parameter(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def find_host(request: Request) -> str | None:
    """The host that was asked, in lower case and without its port; None when none was named.

    Of an absolute-form target it is the one in there (RFC 9112 §3.2.2).
    """
    if request.target.startswith(b"/") or request.target == b"*":
        return _host_of(request.fields.get("host") or "")
    return _host_of(request.target.split(b"/", 3)[2].partition(b"?")[0].decode("latin-1"))


def _host_of(authority: str) -> str | None:
    host = authority.lower()
    if not host.endswith("]"):
        before, colon, port = host.rpartition(":")
        host = before if colon and (port.isdigit() or not port) else host
    return host.removesuffix(".") or None


# ---- finding ---------------------------------------------------------------------------------------------

Rule = TypeVar("Rule", RedirectRule, HeaderRule)


class _Index(Generic[Rule]):
    """Rules by the paths that they could match, in their order."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._exact: dict[tuple[bytes, ...], list[tuple[int, Rule]]] = {}
        self._by_prefix: dict[tuple[bytes, ...], list[tuple[int, Rule]]] = {}
        self._lengths: tuple[int, ...] = ()
        lengths: set[int] = set()
        for order, rule in enumerate(rules):
            literal = rule.pattern.literal
            if rule.pattern.is_literal:
                self._exact.setdefault(literal, []).append((order, rule))
            else:
                self._by_prefix.setdefault(literal, []).append((order, rule))
                lengths.add(len(literal))
        self._lengths = tuple(sorted(lengths))

    def find(self, segments: tuple[bytes, ...]) -> list[Rule]:
        """Those that could match; all others do not."""
        found = list(self._exact.get(segments, ()))
        for length in self._lengths:
            if length > len(segments):
                break
            found += self._by_prefix.get(segments[:length], ())
        found.sort(key=_order)
        return [rule for _, rule in found]

    def depends_on_host(self, target: Target) -> bool:
        return any(
            rule.host is not None
            and rule.pattern.match(target.segments, is_folder=target.is_folder) is not None
            for rule in self.find(target.segments)
        )


def _order(numbered: tuple[int, object]) -> int:
    return numbered[0]
