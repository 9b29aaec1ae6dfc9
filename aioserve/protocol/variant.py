"""What was found of a file, for who decides and who sends: `Variant`, and the `Handle` of its bytes.

A module of its own because a server that only listens needs no more than this of the room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


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

    def call_in_thread(self, function: Callable[[int], T]) -> T:
        """The same for a caller who is in a thread, where it may wait."""

    def share(self) -> Handle:
        """Another handle of the same file, which has to be closed as well."""

    def close(self) -> None:
        """Releases the file; a second call does nothing."""


class Digest(NamedTuple):
    """What an entity tag is made of, where that is not the time of modification.

    `sha256` are the 32 bytes of that hash: of the content, or, unless it `is_of_content`, of what tells the
    states of a file apart on this machine alone. So much is known of one that changes while it is read.
    """

    sha256: bytes
    is_of_content: bool = True


class Variant(NamedTuple):
    """One form in which a file can be sent. `coding` is its content coding, None for the file itself.

    `digest` is that of what `handle` gives; None where tags are made of times.
    """

    coding: str | None
    size_bytes: int
    mtime_ns: int
    handle: Handle
    digest: Digest | None = None
