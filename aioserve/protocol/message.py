"""What a request is once it has been read: `Request`, its `Fields`, and `BadRequest` for what is none.

How bytes become these is `http1`; what they mean is decided by the other modules of this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class BadRequest(Exception):
    """A request that is refused with `status`; `reason` is safe to send to the client."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Fields(NamedTuple):
    """Header fields by lower-case name.

    `values` holds one text for each name: the lines of a repeated field are joined by ", " in their
    order (RFC 9110 §5.3). `repeated` names the fields that came on more than one line, for those where
    that is an error. Values are Latin-1 decoded, without the whitespace around them.
    """

    values: Mapping[str, str]
    repeated: frozenset[str] = frozenset()

    def get(self, name: str) -> str | None:
        return self.values.get(name)


class Request(NamedTuple):
    """One request head: what was asked, not yet what it means.

    `target` is the request-target as it was sent (bytes 0x21 to 0x7E); `target.parse_target` reads it.
    `version` is (1, 0) or (1, 1).
    """

    method: str
    target: bytes
    version: tuple[int, int]
    fields: Fields
