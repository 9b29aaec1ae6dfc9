"""Which checksum of a representation does a client want, and how is it written? RFC 9530.

The digest is that of the whole representation in its content coding, also where a part of it is sent: who has
put a file together from parts can check it. What is hashed, and when, is not known here.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from typing import Final

# What `--etag hash` computes anyway. RFC 9530 §5 has one other that is fit to be trusted, sha-512: a second
# pass over each file, for clients that all know this one.
ALGORITHM: Final = "sha-256"

# RFC 9530 §4: from 0, "not acceptable", to 10.
_MAX_PREFERENCE: Final = 10

# Who wants more than this wants something else.
_MAX_CHARS: Final = 1024

# RFC 9651 §3.1.2, §3.2, §3.3: a dictionary is `key [= value] *(; parameter)`, separated by commas. Each form
# of a value begins with another character, so that nothing is tried twice.
_KEY: Final = r"[a-z*][a-z0-9_\-.*]*+"
_BARE: Final = (
    r"(?:-?[0-9]{1,15}(?:\.[0-9]{1,3})?+"
    r'|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*+"
    r"|:[A-Za-z0-9+/=]*+:"
    r"|\?[01])"
)
_PARAMETERS: Final = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_INNER_LIST: Final = rf"\( *(?:{_BARE}{_PARAMETERS}(?: +{_BARE}{_PARAMETERS})* *)?\)"
_MEMBER: Final = rf"({_KEY})(?:=({_BARE}|{_INNER_LIST}))?{_PARAMETERS}"


def wants_digest(text: str | None) -> bool:
    """Whether a Want-Repr-Digest field asks for the digest that there is.

    Which other algorithms the client likes better does not matter: it gets this one or none (RFC 9530 §4). A
    field that is no dictionary is ignored (RFC 9651 §4.2), and so is a preference that is none.
    """
    if text is None or len(text) > _MAX_CHARS:
        return False
    preferences: dict[str, str | None] = {}
    member = re.compile(_MEMBER)
    separator = re.compile(r"[ \t]*+,[ \t]*+")
    text = text.strip(" ")
    position = 0
    while True:
        match = member.match(text, position)
        if match is None:
            return False
        preferences[match[1]] = match[2]
        position = match.end()
        if position == len(text):
            break
        comma = separator.match(text, position)
        if comma is None:
            return False
        position = comma.end()
    value = preferences.get(ALGORITHM)
    return value is not None and value.isdigit() and 0 < int(value) <= _MAX_PREFERENCE


def format_digest(sha256: bytes) -> str:
    """The value of Repr-Digest (RFC 9530 §3) for these 32 bytes."""
    return f"{ALGORITHM}=:{b2a_base64(sha256, newline=False).decode('ascii')}:"
