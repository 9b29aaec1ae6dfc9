"""Which files does a glob of the owner name? `*.html`, `/assets/**`, `*.{js,css}`.

No regular expression is made of what somebody wrote: comparing takes time in proportion to the length of the
glob times that of the path.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What braces may stand for in all. More is no list that somebody wrote.
MAX_ALTERNATIVES = 64

_BRACES = re.compile(r"\{([^{}]*)\}")

# Any number of segments, none included.
_DEEP = "**"


class Glob(NamedTuple):
    """`alternatives` are the paths that braces stand for, each as its segments.

    In a segment `*` is any text and `?` one character; a segment `**` is any number of them.
    """

    alternatives: tuple[tuple[str, ...], ...]

    def match(self, segments: tuple[bytes, ...]) -> bool:
        """Whether the file at this path is named."""
        names = tuple(segment.decode("utf-8", "surrogateescape") for segment in segments)
        return any(_match_path(pattern, names) for pattern in self.alternatives)


def parse_glob(text: str) -> Glob:
    """Reads a glob. Raises ValueError for one that can name nothing.

    One without a slash is compared with the name alone, wherever the file lies; one with a slash with the
    path from the root. One that ends in a slash names all below.
    """
    if not text or "\0" in text:
        raise ValueError("a glob")
    return Glob(tuple(_split(path) for path in _expand(text)))


def _split(path: str) -> tuple[str, ...]:
    if "/" not in path:
        return (_DEEP, path)
    segments = [segment for segment in path.split("/") if segment]
    # "/" alone could mean the page that is there, or all that lies below it.
    if not segments or "." in segments or ".." in segments:
        raise ValueError("a glob that names files, without dot segments")
    return (*segments, _DEEP) if path.endswith("/") else tuple(segments)


def _expand(text: str) -> list[str]:
    """What braces stand for: "*.{js,css}" is "*.js" and "*.css"."""
    done: list[str] = []
    waiting = [text]
    while waiting:
        path = waiting.pop()
        braces = _BRACES.search(path)
        if braces is None:
            if "{" in path or "}" in path:
                raise ValueError("a glob whose braces are closed")
            done.append(path)
            continue
        choices = braces[1].split(",")
        waiting += [path[: braces.start()] + choice + path[braces.end() :] for choice in reversed(choices)]
        if len(done) + len(waiting) > MAX_ALTERNATIVES:
            raise ValueError(f"a glob that stands for at most {MAX_ALTERNATIVES}")
    return done


def _match_path(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    # Whatever follows the last "**" that was passed is tried one name further when it does not match: earlier
    # ones need never be asked again.
    at = tried = 0
    deep = -1
    for_deep = 0
    while tried < len(names):
        if at < len(pattern) and pattern[at] == _DEEP:
            deep, for_deep = at, tried
            at += 1
        elif at < len(pattern) and _match_name(pattern[at], names[tried]):
            at, tried = at + 1, tried + 1
        elif deep >= 0:
            for_deep += 1
            at, tried = deep + 1, for_deep
        else:
            return False
    return all(segment == _DEEP for segment in pattern[at:])


def _match_name(pattern: str, name: str) -> bool:
    at = tried = 0
    star = -1
    for_star = 0
    while tried < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, for_star = at, tried
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[tried]):
            at, tried = at + 1, tried + 1
        elif star >= 0:
            for_star += 1
            at, tried = star + 1, for_star
        else:
            return False
    return all(character == "*" for character in pattern[at:])
