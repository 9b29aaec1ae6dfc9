"""How the bytes of an opened file are reached: at once when the kernel has them in memory, else in a thread.

An OpenFile is the `variant.Handle` of a file that `files` has found. What is sent of it, and where to, is
decided by others.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import TypeVar

from aioserve.content.disk import Busy, Disk

T = TypeVar("T")

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

# Where a byte goes of which only is asked whether it is there.
_ONE_BYTE = (bytearray(1),)

# What tmpfs and ramfs call themselves (Linux, statfs): a file there is in memory wherever one looks.
_MEMORY_FILE_SYSTEMS = (0x01021994, 0x858458F6)


class Descriptor:
    """An open file that is closed when the last of its users has dropped it; the maker is the first one.

    Closed under a running read, the number could already name another file when the kernel looks at it.
    """

    __slots__ = ("_lock", "_users", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = Lock()
        self._users = 1

    def take(self) -> int:
        """The number of the descriptor, for one more user. Raises ValueError when it is closed."""
        with self._lock:
            if not self._users:
                raise ValueError("the file is closed")
            self._users += 1
            return self.number

    def drop(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self.number)


class OpenFile:
    """A `variant.Handle`: a file's content, in memory or behind a descriptor of which it is a user."""

    __slots__ = ("_descriptor", "_disk", "_key", "_seeking", "data")

    def __init__(
        self, disk: Disk, key: tuple[int, int], *, data: bytes | None = None, descriptor: int | None = None
    ) -> None:
        self.data = data
        self._disk = disk
        self._key = key
        self._descriptor = None if descriptor is None else Descriptor(descriptor)
        # Without pread, the position belongs to the descriptor: one reader at a time.
        self._seeking = None if _has_pread() else Lock()

    def share(self) -> OpenFile:
        """Another handle of the same file, which has to be closed as well."""
        twin = OpenFile(self._disk, self._key, data=self.data)
        if self._descriptor is not None:
            self._descriptor.take()
            twin._descriptor = self._descriptor
            twin._seeking = self._seeking
        return twin

    def close(self) -> None:
        """Releases the file, after a read that still runs in a thread; a second call does nothing."""
        self.data = None
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            descriptor.drop()

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """At most `size_bytes` from `offset`; fewer only where the file ends.

        Raises OSError when the disk fails or is closed, ValueError when the file is closed.
        """
        if self.data is not None:
            return self.data[offset : offset + size_bytes]
        return await self.call(lambda descriptor: read_at(descriptor, offset, size_bytes))

    async def read_first(self, offset: int, size_bytes: int) -> bytes:
        """The same for an answer that has not begun: raises OSError also when no thread is free in time."""
        if self.data is not None:
            return self.data[offset : offset + size_bytes]
        return await self._run(lambda descriptor: read_at(descriptor, offset, size_bytes), self._disk.queue_s)

    async def call(self, function: Callable[[int], T]) -> T:
        """What `function` gives for the descriptor, called in a thread. Raises as `read` does."""
        return await self._run(function, None)

    async def _run(self, function: Callable[[int], T], queue_s: float | None) -> T:
        try:
            return await self._disk.run(self._key, partial(self.call_in_thread, function), queue_s=queue_s)
        except Busy as busy:
            raise OSError(errno.EBUSY, "No thread is free, or the disk is closed") from busy

    def call_at_once(self, function: Callable[[int], T]) -> T:
        """What `function` gives for the descriptor, here and now; it must not wait for a disk."""
        if self._descriptor is None:
            raise ValueError("the file is closed")
        # Nobody closes it meanwhile: this handle is a user of it, and belongs to this thread.
        return function(self._descriptor.number)

    def read_at_once(self, start: int, stop: int) -> bytes:
        """The bytes `[start, stop)`, without waiting. Raises BlockingIOError when that needs a disk."""
        if self.data is not None:
            return self.data[start:stop]
        return self.call_at_once(lambda descriptor: read_in_memory(descriptor, start, stop - start))

    def has_in_memory(self, start: int, stop: int) -> bool:
        """Whether the kernel has the bytes at both ends of `[start, stop)` in its memory.

        They tell of what is between them. False also where there are none.
        """
        if self._descriptor is None:
            raise ValueError("the file is closed")
        number = self._descriptor.number
        return has_in_memory(number, start) and (stop - start == 1 or has_in_memory(number, stop - 1))

    def call_in_thread(self, function: Callable[[int], T]) -> T:
        """What `function` gives for the descriptor, called here, in a thread; it may wait for a disk."""
        descriptor = self._descriptor
        if descriptor is None:
            raise ValueError("the file is closed")
        number = descriptor.take()
        try:
            with self._seeking or nullcontext():
                return function(number)
        finally:
            descriptor.drop()


def _has_pread() -> bool:
    return hasattr(os, "pread")


def read_at(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """Up to `size_bytes` from `offset`; fewer only where the file ends. It may wait for a disk."""
    data = _read_once(descriptor, offset, size_bytes)
    while len(data) < size_bytes:
        more = _read_once(descriptor, offset + len(data), size_bytes - len(data))
        if not more:
            break
        data += more
    return data


def _read_once(descriptor: int, offset: int, size_bytes: int) -> bytes:
    if _has_pread():
        return os.pread(descriptor, size_bytes, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size_bytes)


def read_in_memory(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """The same without waiting for a disk. Raises BlockingIOError when it would have to."""
    if not _NOWAIT:
        raise BlockingIOError
    if not size_bytes:
        return b""
    buffer = bytearray(size_bytes)
    try:
        read_bytes = os.preadv(descriptor, (buffer,), offset, _NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and _is_on_memory_file_system(descriptor):
            return read_at(descriptor, offset, size_bytes)
        raise BlockingIOError from None
    # Less than what was asked for means a part that is not in memory, or the end of the file: a thread can
    # tell the two apart.
    if read_bytes < size_bytes:
        raise BlockingIOError
    return bytes(buffer)


def has_in_memory(descriptor: int, offset: int) -> bool:
    """Whether the kernel has the byte at `offset` in its memory; false also where there is none."""
    if not _NOWAIT:
        return False
    try:
        return os.preadv(descriptor, _ONE_BYTE, offset, _NOWAIT) == 1
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP and _is_on_memory_file_system(descriptor)


def _is_on_memory_file_system(descriptor: int) -> bool:
    # The older of these file systems do not know RWF_NOWAIT, and neither do some of the network: there, a
    # read may take long.
    if sys.platform != "linux":
        return False
    import ctypes

    # struct statfs begins with its type, a word of the machine; 256 bytes hold all of it on each.
    status = ctypes.create_string_buffer(256)
    if ctypes.PyDLL(None).fstatfs(descriptor, status):
        return False
    word = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(status.raw[:word], sys.byteorder) in _MEMORY_FILE_SYSTEMS
