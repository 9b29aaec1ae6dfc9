"""What was found below the root: a folder, a file with its bytes, nothing, or a refusal.

A file is opened once and then described by its descriptor alone, so length, validators and bytes belong
together whatever happens to the name meanwhile. How a name is opened is for `containment`; what a request may
look for is decided in `site`, and which thread looks, in `disk`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from aioserve.content.containment import Root, Symlinks, Way, open_named_file
from aioserve.content.disk import Busy, Disk

if TYPE_CHECKING:
    from aioserve.protocol.plan import Variant


class Kind(Enum):
    FILE = "file"
    FOLDER = "folder"


class Candidate(NamedTuple):
    """A name to look for, as the decoded segments below the root, and what it must be."""

    segments: tuple[bytes, ...]
    kind: Kind


class Found(NamedTuple):
    """The candidate that exists. `variant` is None for a folder; whoever got it closes its handle."""

    candidate: Candidate
    variant: Variant | None


class Refused(Exception):
    """It could not be looked up: `status` is 403 (no permission) or 503 (try again later).

    `candidate` is the one at fault, and none before it exists; None when it is no single one.
    """

    def __init__(self, status: int, candidate: Candidate | None = None) -> None:
        super().__init__(status, candidate)
        self.status = status
        self.candidate = candidate


# What an error of the operating system means to a client. None: nothing of that name can be served, as if it
# did not exist. What is not listed is a trouble of the disk or the machine, hence 503: a 404 would be cached.
_UNLISTED_STATUS = 503
_STATUS: dict[int, int | None] = {
    errno.ENOENT: None,
    errno.ENOTDIR: None,
    errno.ELOOP: None,
    errno.ENAMETOOLONG: None,
    errno.EINVAL: None,  # a name that this file system cannot hold
    errno.EILSEQ: None,  # likewise, where names must be UTF-8
    errno.EISDIR: None,
    errno.ENXIO: None,  # a socket, or a device with nothing behind it
    errno.ENODEV: None,
    errno.EOPNOTSUPP: None,  # a socket, on BSD and macOS
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EMFILE: 503,
    errno.ENFILE: 503,
    errno.ENOMEM: 503,
    errno.EIO: 503,
    errno.ESTALE: 503,
    errno.EAGAIN: 503,  # another program holds a lease on the file
}

# How often the name of the root is looked up again.
_ROOT_LOOK_S = 1.0
# Against somebody who keeps changing a file. Past these, it is sent as it comes.
_MAX_SNAPSHOTS = 3


class Files:
    """The files below `root`, or the one file that `root` is.

    `symlinks` says which links are followed, `hidden` whether names that begin with a dot exist. Files of up
    to `small_bytes` are read when they are found. Lookups run on `disk`. `way` is the best one to open names,
    `clock` counts the seconds until the name of the root is looked up again.
    Raises OSError when the root does not exist, cannot be read, or is neither a folder nor a regular file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        symlinks: Symlinks = Symlinks.INSIDE,
        hidden: bool = False,
        disk: Disk,
        small_bytes: int = 65536,
        way: Way = Way.BENEATH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Absolute, since the working folder may change, but with its links: they may be switched.
        name = os.fsencode(root)
        self._name = name if os.path.isabs(name) else os.path.join(os.getcwdb(), name)
        self._symlinks = symlinks
        self._way = way
        self._shows_hidden = hidden
        self._disk = disk
        self._small_bytes = small_bytes
        self._clock = clock
        self._lock = Lock()
        self._root: Root | None = None
        self._next_look_s = clock() + _ROOT_LOOK_S
        self._is_closed = False
        self.only_name: bytes | None = None
        """The name of the root when it is one single file; no other name exists then."""
        mode = os.stat(self._name).st_mode
        if stat.S_ISREG(mode):
            os.close(open_named_file(self._name))
            self.only_name = os.path.basename(self._name)
        elif stat.S_ISDIR(mode):
            self._root = self._open_root()
        else:
            raise OSError(errno.EINVAL, "Neither a folder nor a regular file", os.fspath(root))

    async def find(self, candidates: Sequence[Candidate]) -> Found | None:
        """The first candidate that exists and is of its kind; None when none is. One hop to a thread.

        All of them are looked for in the same root, even while a deploy switches it.
        Raises Refused when one cannot be looked up before that.
        """
        wanted = [candidate for candidate in candidates if self._may_exist(candidate)]
        if not wanted:
            return None
        try:
            return await self._disk.run(
                wanted[0].segments,
                partial(self._find_in_thread, wanted),
                queue_s=self._disk.queue_s,
                discard=_close_found,
            )
        except Busy as busy:
            raise Refused(503) from busy

    def close(self) -> None:
        """Lets the root go, as soon as no find uses it any more. Finds are refused from now on."""
        with self._lock:
            self._is_closed = True
            self._set_root(None)

    def _may_exist(self, candidate: Candidate) -> bool:
        segments = candidate.segments
        if self.only_name is not None:
            return segments == (self.only_name,) and candidate.kind is Kind.FILE
        # RFC 8615: /.well-known/ is made to be public, what is hidden inside it is not.
        after_public = 1 if segments[:1] == (b".well-known",) else 0
        return self._shows_hidden or not any(name.startswith(b".") for name in segments[after_public:])

    def _find_in_thread(self, candidates: Sequence[Candidate]) -> Found | None:
        with self._use_root() as root:
            for candidate in candidates:
                try:
                    found = self._look_for(candidate, root)
                except OSError as error:
                    status = _STATUS.get(error.errno or 0, _UNLISTED_STATUS)
                    if status is not None:
                        raise Refused(status, candidate) from error
                else:
                    if found is not None:
                        return found
        return None

    def _look_for(self, candidate: Candidate, root: Root | None) -> Found | None:
        if candidate.kind is Kind.FOLDER and root is not None:
            return Found(candidate, None) if root.has_folder(candidate.segments) else None
        descriptor = open_named_file(self._name) if root is None else root.open_file(candidate.segments)
        variant = self._take_variant(descriptor)
        return None if variant is None else Found(candidate, variant)

    def _take_variant(self, descriptor: int) -> Variant | None:
        """What the opened descriptor stands for, now its owner; None when that is no regular file.

        The content of a small file is taken between two equal states of it, so it is never half of one
        version and half of another. A file that does not keep still is left open, and the sender counts what
        it gets.
        """
        # Here, not at the top: a server can open its root, and listen, without it.
        from aioserve.protocol.plan import Variant

        is_kept = False
        try:
            now = os.fstat(descriptor)
            if not stat.S_ISREG(now.st_mode):
                return None
            key = (now.st_dev, now.st_ino)
            for _ in range(_MAX_SNAPSHOTS):
                if now.st_size > self._small_bytes:
                    break
                before = now
                data = _read_at(descriptor, 0, before.st_size)
                now = os.fstat(descriptor)
                if len(data) == before.st_size and _version(now) == _version(before):
                    return Variant(None, len(data), now.st_mtime_ns, OpenFile(self._disk, key, data=data))
            handle = OpenFile(self._disk, key, descriptor=descriptor)
            is_kept = True
            return Variant(None, now.st_size, now.st_mtime_ns, handle)
        finally:
            if not is_kept:
                os.close(descriptor)

    @contextmanager
    def _use_root(self) -> Iterator[Root | None]:
        """The root as it is now, open at least until the block ends; None when it is one single file."""
        if self._is_closed:
            raise Refused(503)
        if self.only_name is not None:
            yield None
            return
        try:
            root = self._take_root()
        except OSError as error:
            # The site is gone, which says nothing about a single name in it.
            raise Refused(503) from error
        try:
            yield root
        finally:
            with self._lock:
                root.drop()

    def _take_root(self) -> Root:
        with self._lock:
            root = self._root
            if root is not None and self._clock() < self._next_look_s:
                root.users += 1
                return root
            # Claimed before the look, so that one thread looks and the others go on.
            self._next_look_s = self._clock() + _ROOT_LOOK_S
        # Not under the lock: a disk that is slow to answer must not hold up the finds that need no look.
        try:
            fresh = None if root is not None and root.is_named(self._name) else self._open_root()
        except OSError:
            with self._lock:
                if self._root is root:
                    self._set_root(None)
            raise
        with self._lock:
            if fresh is not None and self._is_closed:
                fresh.drop()
            elif fresh is not None:
                self._set_root(fresh)
            if self._root is None:
                raise Refused(503)
            self._root.users += 1
            return self._root

    def _open_root(self) -> Root:
        return Root(self._name, symlinks=self._symlinks, way=self._way)

    def _set_root(self, root: Root | None) -> None:
        if self._root is not None:
            self._root.drop()
        self._root = root


class OpenFile:
    """A `plan.Handle`: a file's content, in memory or behind a descriptor that it owns."""

    __slots__ = ("_descriptor", "_disk", "_is_closed", "_key", "_lock", "_readers", "_seeking", "data")

    def __init__(
        self, disk: Disk, key: tuple[int, int], *, data: bytes | None = None, descriptor: int | None = None
    ) -> None:
        self.data = data
        self._disk = disk
        self._key = key
        self._descriptor = descriptor
        self._lock = Lock()
        self._readers = 0
        self._is_closed = False
        # Without pread, the position belongs to the descriptor: one reader at a time.
        self._seeking: AbstractContextManager[object] = nullcontext() if _has_pread() else Lock()

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """At most `size_bytes` from `offset`; fewer only where the file ends.

        Raises OSError when the disk fails or is closed, ValueError when the file is closed.
        """
        if self.data is not None:
            return self.data[offset : offset + size_bytes]
        try:
            return await self._disk.run(
                self._key, partial(self._read_in_thread, offset, size_bytes), queue_s=None
            )
        except Busy as busy:
            raise OSError(errno.ESHUTDOWN, "The disk is closed") from busy

    def close(self) -> None:
        """Releases the file, after a read that still runs in a thread; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._close_when_unused()

    def _read_in_thread(self, offset: int, size_bytes: int) -> bytes:
        with self._lock:
            if self._is_closed or self._descriptor is None:
                raise ValueError("read from a closed file")
            descriptor = self._descriptor
            self._readers += 1
        try:
            with self._seeking:
                return _read_at(descriptor, offset, size_bytes)
        finally:
            with self._lock:
                self._readers -= 1
                self._close_when_unused()

    def _close_when_unused(self) -> None:
        # Closed under a running read, the number could already name another file when the kernel looks at it.
        if self._is_closed and not self._readers and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _close_found(found: Found | None) -> None:
    if found is not None and found.variant is not None:
        found.variant.handle.close()


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _has_pread() -> bool:
    return hasattr(os, "pread")


def _read_at(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """Up to `size_bytes` from `offset`; fewer only where the file ends."""
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
