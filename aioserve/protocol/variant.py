"""What was found of a file, for who decides and who sends: `Variant`, and the `Handle` of its bytes.

A module of its own because a server that only listens needs no more than this of the room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol


class Handle(Protocol):
    """Gives the bytes of one opened file. Only `content/` makes one, only `network/sender` reads from it."""

    @property
    def data(self) -> bytes | None:
        """The whole content when it is in memory already; what follows is for the other case."""

    def read(self, offset: int, size_bytes: int) -> Awaitable[bytes]:
        """At most `size_bytes` from `offset`; fewer only where the file ends. Raises OSError."""

    def read_first(self, offset: int, size_bytes: int) -> Awaitable[bytes]:
        """The same while nothing is sent yet: it also raises OSError when it would wait in line for long."""

    def read_at_once(self, start: int, stop: int) -> bytes:
        """The bytes `[start, stop)`, without waiting. Raises BlockingIOError when that needs a disk."""

    def has_in_memory(self, start: int, stop: int) -> bool:
        """Whether the bytes `[start, stop)` can be had without waiting for a disk, as far as their ends tell;
        false where there are none."""

    def call_at_once(self, function: Callable[[int], int]) -> int:
        """What `function` gives for the file's descriptor; it must not wait for a disk."""

    def call(self, function: Callable[[int], int]) -> Awaitable[int]:
        """The same, called where it may wait. Raises OSError."""

    def share(self) -> Handle:
        """Another handle of the same file, which has to be closed as well."""

    def close(self) -> None:
        """Releases the file; a second call does nothing."""


class Variant(NamedTuple):
    """One form in which a file can be sent. `coding` is its content coding, None for the file itself."""

    coding: str | None
    size_bytes: int
    mtime_ns: int
    handle: Handle
