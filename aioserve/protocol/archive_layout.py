"""Where everything lies in an archive, known before a byte of it is read: `Layout`, and its members.

What the bytes between the contents are is for `zip_layout` and `tar_layout`; whose contents they are, and how
they are read, is for `content/archive`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

_FOLDER: Final = 0o040000
_REGULAR: Final = 0o100000
_PERMISSIONS: Final = 0o777


class Member(NamedTuple):
    """One file or folder of an archive.

    `name` is its path there: not empty, without a slash at its ends, each part a name that a disk can hold.
    Of `mode` only the permissions count; a set-uid bit from elsewhere is nobody's wish.
    """

    name: bytes
    size_bytes: int
    mtime_ns: int
    mode: int
    is_folder: bool


class Part(Enum):
    HEAD = "what stands before the content of a member"
    CONTENT = "the content of a member"
    FOOT = "what stands after it"
    RECORD = "what is said of a member behind all of them"
    END = "what stands last"


class Segment(NamedTuple):
    """The bytes `[start, stop)` of the archive, and what they are; `number` is that of the member."""

    part: Part
    number: int
    start: int
    stop: int


class Layout(ABC):
    """An archive of the members that are appended to it.

    They are kept in columns: an object for each would take ten times the memory, and there may be a million.
    """

    def __init__(self) -> None:
        self._names = bytearray()
        self._name_stops = array("Q")
        self._sizes = array("Q")
        self._mtimes = array("q")
        self._modes = array("H")
        self._starts = array("Q")
        self._records_start = 0
        self._records_bytes = 0

    def append(self, member: Member) -> None:
        """Puts a member behind those that are there. Raises OverflowError when an archive cannot hold it."""
        start = self._records_start
        if member.size_bytes < 0 or start + member.size_bytes >= 1 << 62:
            raise OverflowError("no archive is that large")
        self._mtimes.append(member.mtime_ns)
        self._names += member.name
        self._name_stops.append(len(self._names))
        self._sizes.append(member.size_bytes)
        kind = _FOLDER if member.is_folder else _REGULAR
        self._modes.append(kind | (member.mode & _PERMISSIONS))
        self._starts.append(start)
        head_bytes, foot_bytes = self._measure(member)
        self._records_start = start + head_bytes + member.size_bytes + foot_bytes
        self._records_bytes += self._measure_record(member, start)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Member:
        name_start = self._name_stops[index - 1] if index else 0
        mode = self._modes[index]
        return Member(
            bytes(self._names[name_start : self._name_stops[index]]),
            self._sizes[index],
            self._mtimes[index],
            mode & _PERMISSIONS,
            mode & _FOLDER != 0,
        )

    @property
    def size_bytes(self) -> int:
        """The length of the whole archive."""
        return self._records_start + self._records_bytes + self._measure_end()

    def list_segments(self, start: int, stop: int) -> Iterator[Segment]:
        """What the bytes `[start, stop)` consist of: whole segments, in their order, none of them empty."""
        for index in range(max(bisect_right(self._starts, start) - 1, 0), len(self)):
            at = self._starts[index]
            if at >= stop:
                return
            head_bytes, foot_bytes = self._measure(self[index])
            sizes = (head_bytes, self._sizes[index], foot_bytes)
            for part, size_bytes in zip((Part.HEAD, Part.CONTENT, Part.FOOT), sizes, strict=True):
                if size_bytes and at < stop and at + size_bytes > start:
                    yield Segment(part, index, at, at + size_bytes)
                at += size_bytes
        at = self._records_start
        if self._records_bytes:
            for index in range(len(self)):
                if at >= stop:
                    return
                size_bytes = self._measure_record(self[index], self._starts[index])
                if at + size_bytes > start:
                    yield Segment(Part.RECORD, index, at, at + size_bytes)
                at += size_bytes
        end_bytes = self._measure_end()
        if at < stop and at + end_bytes > start:
            yield Segment(Part.END, len(self), at, at + end_bytes)

    def needs_sum(self, segment: Segment) -> bool:
        """Whether its bytes tell of the content of their member, and so need the CRC-32 of that."""
        return False

    @abstractmethod
    def format(self, segment: Segment, crc: int) -> bytes:
        """The bytes of a segment that is no content. `crc` counts where `needs_sum` says so."""

    @abstractmethod
    def _measure(self, member: Member) -> tuple[int, int]:
        """How many bytes stand before and after the content."""

    @abstractmethod
    def _measure_record(self, member: Member, start: int) -> int: ...

    @abstractmethod
    def _measure_end(self) -> int: ...
