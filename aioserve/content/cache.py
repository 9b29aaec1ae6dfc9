"""What is kept of the site's files between requests: contents and open descriptors, bounded.

Whether what is kept still is what the disk has, is decided by `files` at each use: here is only what was
found when, how much of it there may be, and what has to go first. A Cache belongs to one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from aioserve.protocol.variant import Variant

# Device, inode, size, and the times of the last change of content and of anything, in nanoseconds. Every
# change of a file changes one of them, once the clock of its file system has gone on.
Version = tuple[int, int, int, int, int]

# Of a kept file beside its content: its names, its version, and some heads of answers.
_OVERHEAD_BYTES = 2048

# A few large files are asked for again and again, or many once. Descriptors are scarce, opening is cheap.
_MAX_DESCRIPTORS = 32

# Seconds until an open descriptor that nobody asks for is closed: the space of a deleted file is free then.
_DESCRIPTOR_IDLE_S = 10.0

# Different answers to one file that are remembered: whole, to a client that has it already, head only.
_MAX_ANSWERS = 4

# Ways in which one file answers: by GET and HEAD, under some names, as itself and as a form of another.
_MAX_ROLES = 8

# A browser sends one tag and one date. What is longer is not remembered, or heads would outgrow contents.
_MAX_KEY_CHARS = 256


class Ready(NamedTuple):
    """An answer as it was sent before: its head up to the value of Date and from there on, and its body.

    `size_bytes` is what these have together, the Date included. `span` is the part of the file that is sent
    after them: its bytes `[start, stop)`.
    """

    start: bytes
    rest: bytes
    body: bytes
    size_bytes: int
    status: int
    span: tuple[int, int] | None = None


class Kept:
    """A file as it was at `version`; `variant` holds its content, or an open descriptor of its own.

    It may also be another form of that content, made here: then `variant` has a coding. `place` is what the
    name was looked up in; `is_held` is True while the cache has it. What was answered from it before is found
    by its role (how it came to be the answer) and by what was asked (`shortcuts.Asked.key`); it ends with the
    file.
    """

    __slots__ = ("_answers", "is_held", "key", "path", "place", "used_s", "variant", "version")

    def __init__(
        self, segments: tuple[bytes, ...], place: object, version: Version, variant: Variant, used_s: float
    ) -> None:
        self.key = make_key(segments, variant.coding)
        self.path = b"/".join(segments)
        self.place = place
        self.version = version
        self.variant = variant
        self.used_s = used_s
        self.is_held = True
        self._answers: dict[Hashable, dict[str, Ready]] = {}

    def find_answers(self, role: Hashable) -> dict[str, Ready]:
        """What was answered before in that role."""
        if role not in self._answers and len(self._answers) >= _MAX_ROLES:
            self._forget_answers()
        return self._answers.setdefault(role, {})

    def _forget_answers(self) -> None:
        # Whoever holds one of them must not use it any longer.
        for answers in self._answers.values():
            answers.clear()
        self._answers.clear()

    def end(self) -> None:
        """Lets go the file and all that was answered from it, whoever still holds this."""
        self.is_held = False
        self._forget_answers()
        self.variant.handle.close()


def remember(answers: dict[str, Ready], key: str, answer: Ready) -> None:
    """Adds to what is remembered of one role, within limits."""
    if len(key) > _MAX_KEY_CHARS:
        return
    if len(answers) >= _MAX_ANSWERS:
        answers.clear()
    answers[key] = answer


class Absent:
    """Names that were looked for in vain.

    `answers` holds what was answered before, by whether the client prefers HTML, whether it stays, and
    for which origin it asks.
    """

    __slots__ = ("answers", "paths")

    def __init__(self, paths: tuple[bytes, ...]) -> None:
        self.paths = paths
        self.answers: dict[tuple[bool, bool, str | None], Ready] = {}


class Cache:
    """Keeps contents of `size_bytes` in all, what goes with them included, and some descriptors.

    What was used least recently goes first. With a size of 0 nothing is kept.
    """

    def __init__(self, size_bytes: int, clock: Callable[[], float]) -> None:
        self._size_bytes = size_bytes
        self._clock = clock
        self._held_bytes = 0
        self._contents: OrderedDict[Hashable, Kept] = OrderedDict()
        self._descriptors: OrderedDict[Hashable, Kept] = OrderedDict()

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._size_bytes > 0

    def find(self, segments: tuple[bytes, ...], coding: str | None = None) -> Kept | None:
        """What is kept under that name, or a form of it. It may be old: the caller looks."""
        key = make_key(segments, coding)
        return self._contents.get(key) or self._descriptors.get(key)

    def touch(self, kept: Kept) -> None:
        """Takes note that `kept`, which is held, is used now."""
        if kept.key in self._contents:
            self._contents.move_to_end(kept.key)
        else:
            self._descriptors.move_to_end(kept.key)
            kept.used_s = self._clock()

    def keep(
        self, segments: tuple[bytes, ...], place: object, version: Version, variant: Variant
    ) -> Kept | None:
        """Keeps the file under its name, if there is room for it, in place of an older one."""
        kept = self.find(segments, variant.coding)
        if kept is not None and kept.version == version and kept.place is place:
            self.touch(kept)
            return kept
        if kept is not None:
            self.forget(kept.key)
        is_open = variant.handle.data is None
        if not is_open and variant.size_bytes + _OVERHEAD_BYTES > self._size_bytes:
            return None
        kept = Kept(segments, place, version, share(variant), self._clock())
        if is_open:
            self._descriptors[kept.key] = kept
            if len(self._descriptors) > _MAX_DESCRIPTORS:
                self.forget(next(iter(self._descriptors)))
        else:
            self._contents[kept.key] = kept
            self._held_bytes += variant.size_bytes + _OVERHEAD_BYTES
            while self._held_bytes > self._size_bytes:
                self.forget(next(iter(self._contents)))
        return kept

    def forget(self, key: Hashable) -> None:
        """Lets go what is kept under that key, if anything is."""
        kept = self._contents.pop(key, None)
        if kept is not None:
            self._held_bytes -= kept.variant.size_bytes + _OVERHEAD_BYTES
        else:
            kept = self._descriptors.pop(key, None)
        if kept is not None:
            kept.end()

    def close_idle(self) -> None:
        """Lets go the descriptors that nobody has asked for in a while."""
        limit_s = self._clock() - _DESCRIPTOR_IDLE_S
        while self._descriptors and (oldest := next(iter(self._descriptors.values()))).used_s < limit_s:
            self.forget(oldest.key)

    def close_descriptors(self) -> None:
        """Lets all descriptors go: somebody has more need of them."""
        while self._descriptors:
            self.forget(next(iter(self._descriptors)))

    def clear(self) -> None:
        """Lets everything go."""
        self.close_descriptors()
        while self._contents:
            self.forget(next(iter(self._contents)))


def make_key(segments: tuple[bytes, ...], coding: str | None) -> Hashable:
    """Under which key the content of that name is kept, or a form of it."""
    return segments if coding is None else (segments, coding)


def share(variant: Variant) -> Variant:
    """The same with a handle of its own, which has to be closed as well."""
    return variant._replace(handle=variant.handle.share())
