"""What may pages of other origins read here? The CORS protocol of the Fetch standard, §3.3.

An answer that carries the fields can be read by scripts of other origins. They are put over every answer,
errors included: a program that reads an array in chunks has to see that one of them is missing. Credentials
are never allowed: there are none here to ask for.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from aioserve.protocol.message import Request
from aioserve.protocol.plan import ALLOWED_METHODS, Field, Plan, plan_options

# What a script may read of an answer beside the fields that Fetch §2.2.2 always lets it (Cache-Control,
# Content-Language, Content-Length, Content-Type, Expires, Last-Modified). Content-Length was not among those
# in older browsers. "*" would be shorter, and is a mere name to those.
EXPOSED: Final = (
    "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, Date, ETag, Last-Modified, Repr-Digest"
)

# Which fields a request may have: all that are understood, and whatever else is asked for, as nothing here
# depends on a field that is not known.
ALLOWED_HEADERS: Final = (
    "Accept",
    "Content-Type",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Want-Repr-Digest",
)

# Chromium keeps a preflight's answer for two hours at most, Firefox for a day.
MAX_AGE_S: Final = 7200

# RFC 6454 §6.2: scheme "://" host [ ":" port ]. A browser sends it in lower case.
_ORIGIN: Final = r"[a-z][a-z0-9+.\-]*://(?:[a-z0-9\-._~%]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
_TOKENS: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*"

# What an answer to Access-Control-Request-Headers repeats at the most.
_MAX_REQUESTED_CHARS: Final = 1024

ANY: Final = "*"


class Cors(NamedTuple):
    """The origins whose pages may read: `ANY`, or a list. "null" is the origin of a page without one, such
    as a local file or a frame with a sandbox; any page can make itself such a one."""

    origins: tuple[str, ...]

    @property
    def is_for_all(self) -> bool:
        return ANY in self.origins

    def find_allowed(self, origin: str | None) -> str | None:
        """What is written into Access-Control-Allow-Origin for a request from `origin`; None: no field."""
        if self.is_for_all:
            return ANY
        return origin if origin in self.origins else None


def parse_origin(text: str) -> str:
    """Reads an origin as people write it: in any case, with a slash behind it. Raises ValueError."""
    if text in (ANY, "null"):
        return text
    origin = text.lower().removesuffix("/")
    if not re.fullmatch(_ORIGIN, origin):
        raise ValueError
    # A browser leaves out the port of the scheme, so no Origin has it.
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            origin = origin.removesuffix(port)
    return origin


def list_fields(cors: Cors, origin: str | None) -> tuple[Field, ...]:
    """The fields of an answer to a request from `origin`; None is a request that names no origin.

    With a list the answer to one origin is not that to another, and all need `Vary: Origin` (Fetch §3.3.5).
    """
    allowed = cors.find_allowed(origin)
    if allowed is None:
        return ()
    fields = (("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", EXPOSED))
    # What all may read they may also show: an isolated page (COEP) asks for that with each image.
    return (*fields, ("Cross-Origin-Resource-Policy", "cross-origin")) if allowed == ANY else fields


def is_preflight(request: Request) -> bool:
    """True for the question that a browser asks before a request that is not simple (Fetch §3.3.2)."""
    values = request.fields.values
    return request.method == "OPTIONS" and "origin" in values and "access-control-request-method" in values


def plan_preflight(request: Request, cors: Cors) -> Plan:
    """The answer to a preflight, but for the fields that every answer has (`list_fields`).

    For an origin that is not allowed it is that to any OPTIONS, and the browser asks no further.
    """
    plan = plan_options()
    if cors.find_allowed(request.fields.get("origin")) is None:
        return plan
    answer: tuple[Field, ...] = (
        ("Access-Control-Allow-Methods", ", ".join(ALLOWED_METHODS)),
        ("Access-Control-Allow-Headers", _list_headers(request.fields.get("access-control-request-headers"))),
        ("Access-Control-Max-Age", str(MAX_AGE_S)),
        ("Vary", ", ".join(("Access-Control-Request-Headers", *_NETWORKS))),
    )
    for asked, allowed in _NETWORKS.items():
        if request.fields.get(asked.lower()) == "true":
            answer += ((allowed, "true"),)
    return plan._replace(fields=plan.fields + answer)


# A public page asks whether it may reach a server in a private network; the owner has said for whom.
# https://wicg.github.io/private-network-access/ and https://wicg.github.io/local-network-access/
_NETWORKS: Final = {
    "Access-Control-Request-Private-Network": "Access-Control-Allow-Private-Network",
    "Access-Control-Request-Local-Network": "Access-Control-Allow-Local-Network",
}


def _list_headers(asked: str | None) -> str:
    if asked is None or len(asked) > _MAX_REQUESTED_CHARS or not re.fullmatch(_TOKENS, asked):
        return ", ".join(ALLOWED_HEADERS)
    names = {name.lower(): name for name in ALLOWED_HEADERS}
    for name in re.split(r"[ \t]*,[ \t]*", asked):
        names.setdefault(name.lower(), name)
    return ", ".join(names.values())
