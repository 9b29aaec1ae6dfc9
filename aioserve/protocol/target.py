"""What a request-target names: safe decoded segments and a query, or BadRequest.

The one place where an undecoded or unsafe path is seen. What a segment may not be on the disk of one
operating system (device names) is for `content/containment`, which knows the disk.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aioserve.protocol.message import BadRequest


class Target(NamedTuple):
    """A path below the root.

    `segments` are percent-decoded names: none is empty, ".", ".." or holds "/" or NUL. `is_folder` is
    True when the path ended in a slash or a dot segment, and for the root. `query` is what followed the
    question mark, as it was sent; None without one.
    """

    segments: tuple[bytes, ...]
    is_folder: bool
    query: bytes | None


# What OPTIONS * and CONNECT name: no path at all.
NO_PATH = Target((), is_folder=True, query=None)

# RFC 3986 §3.2.2 and RFC 9110 §7.2: Host = uri-host [ ":" port ]; uri-host = IP-literal / reg-name (an
# IPv4address is one). An empty host is refused for http (RFC 9110 §4.2.1).
# IP-literal = "[" ( IPv6address / IPvFuture ) "]". Of an IPv6address only the characters are matched here;
# `_is_ipv6` reads it: an expression that also asks for a colon divides a long run of them in all ways.
_REG_NAME = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
_IP_LITERAL = r"\[(?:[0-9A-Fa-f:.]++|[vV][0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++)\]"
_AUTHORITY = rf"(?P<host>{_REG_NAME}|{_IP_LITERAL})(?::(?P<port>[0-9]*))?"
_AUTHORITY_RE = re.compile(_AUTHORITY)
_ABSOLUTE_FORM = rf"(?i:https?)://{_AUTHORITY}(?P<rest>[/?].*)?".encode()
_PERCENT = rb"%([0-9A-Fa-f]{2})?"

# RFC 3986 §3.2.2. A leading zero is no dec-octet: some readers take it for octal.
_H16 = r"[0-9A-Fa-f]{1,4}"
_DEC_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_DEC_OCTET}(?:\.{_DEC_OCTET}){{3}}"

# RFC 3986 §3.3: what a path segment may hold without being encoded.
_PCHAR = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")
_QUOTED = tuple(chr(byte) if byte in _PCHAR else f"%{byte:02X}" for byte in range(256))


def is_authority(text: str) -> bool:
    """True for `host [":" port]` with a host that can exist and a port below 65536 (RFC 9110 §7.2)."""
    match = _AUTHORITY_RE.fullmatch(text)
    if match is None:
        return False
    port, host = match["port"], match["host"]
    # Compared by length first: int() of a text of any length costs quadratic time.
    if port and (len(port) > 5 or int(port) > 65535):
        return False
    return host[0] != "[" or host[1] in "vV" or _is_ipv6(host[1:-1])


def _is_ipv6(text: str) -> bool:
    """True for an IPv6address of RFC 3986 §3.2.2: eight groups of 16 bits, one run of zeros as "::"."""
    head, _, tail = text.rpartition(":")
    if re.fullmatch(_IPV4, tail):
        # The last 32 bits may be written as an IPv4 address: it stands for two groups.
        text = f"{head}:0:0"
    left, double, right = text.partition("::")
    groups = (left.split(":") if left else []) + (right.split(":") if right else [])
    # A second "::", or a third colon, leaves an empty group.
    if not all(re.fullmatch(_H16, group) for group in groups):
        return False
    return len(groups) <= 7 if double else len(groups) == 8


def parse_target(method: str, target: bytes) -> Target:
    """Reads the request-target of `method` (RFC 9112 §3.2).

    Dot segments are resolved as RFC 3986 §5.2.4 does, encoded or not, and never rise above the root;
    empty segments are passed over. Raises BadRequest(400).
    """
    if method == "CONNECT":
        # RFC 9112 §3.2.3: authority-form, with a port.
        authority = target.decode("latin-1")
        _, colon, port = authority.rpartition(":")
        # Behind the last colon of a bare "[::1]" stands no number.
        if not is_authority(authority) or not colon or not port.isdigit():
            raise BadRequest(400, "CONNECT wants host:port")
        return NO_PATH
    if target == b"*":
        if method != "OPTIONS":
            raise BadRequest(400, "only OPTIONS can ask for *")
        return NO_PATH
    if not target.startswith(b"/"):
        target = _strip_authority(target)
    path, question, query = target.partition(b"?")
    return Target(*_resolve(path), query if question else None)


def _strip_authority(target: bytes) -> bytes:
    """The origin-form of an absolute-form, whose authority replaces Host (RFC 9112 §3.2.2)."""
    match = re.fullmatch(_ABSOLUTE_FORM, target)
    if match is None or not is_authority(target.split(b"/", 3)[2].partition(b"?")[0].decode("latin-1")):
        raise BadRequest(400, "the target is neither a path nor an http URI")
    rest: bytes = match["rest"] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _resolve(path: bytes) -> tuple[tuple[bytes, ...], bool]:
    segments: list[bytes] = []
    is_folder = True
    for part in path.split(b"/"):
        name = _decode(part) if b"%" in part else part
        is_folder = name in (b"", b".", b"..")
        if not is_folder:
            segments.append(name)
        elif name == b".." and segments:
            segments.pop()
    return tuple(segments), is_folder


def _decode(part: bytes) -> bytes:
    """Percent-decodes one segment, once (RFC 3986 §2.4)."""
    name = re.sub(_PERCENT, _decode_byte, part)
    if b"\0" in name:
        raise BadRequest(400, "NUL in the path")
    if b"/" in name:
        # An encoded slash is data (RFC 3986 §2.2), and no file name can hold it.
        raise BadRequest(400, "encoded slash in the path")
    return name


def _decode_byte(match: re.Match[bytes]) -> bytes:
    digits: bytes | None = match[1]
    if digits is None:
        raise BadRequest(400, "malformed percent-encoding")
    return bytes.fromhex(digits.decode("ascii"))


def format_folder_location(target: Target) -> str:
    """The URI reference that adds the missing slash to a target that names a folder.

    It is relative ("./name/"), so that it holds behind any prefix, host and port, and can never be read
    as another authority ("//host") or scheme ("name:"). The query is kept.
    """
    return f"./{_quote(target.segments[-1])}/{_format_query(target)}"


def format_neighbour_location(target: Target, name: bytes) -> str:
    """The URI reference that leads from `target` to `name` beside it. It is relative, and keeps the query."""
    return f"{'../' if target.is_folder else './'}{_quote(name)}{_format_query(target)}"


def _quote(name: bytes) -> str:
    return "".join(map(_QUOTED.__getitem__, name))


def _format_query(target: Target) -> str:
    return "" if target.query is None else "?" + target.query.decode("latin-1")
