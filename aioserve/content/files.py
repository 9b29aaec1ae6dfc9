"""Every path that is opened: what may be reached below the root, and what was found there.

A file is opened once and then described by its descriptor alone, so length, validators and bytes belong
together whatever happens to the name meanwhile. What a request may look for is decided in `site`; which
thread looks, in `disk`.

The module is longer than others because nothing else may open a path: the ways of opening one so that no race
leads outside (openat2, a walk, and a check of names where there is neither) stand here side by side.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial
from threading import Lock

from aioserve.content.disk import Busy, Disk
from aioserve.protocol.plan import Variant


class Symlinks(StrEnum):
    """Which symbolic links below the root are followed. The root itself may always be one."""

    NONE = "none"
    INSIDE = "inside"  # while the target stays below the root
    ALL = "all"


class Kind(Enum):
    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name to look for, as the decoded segments below the root, and what it must be."""

    segments: tuple[bytes, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Found:
    """The candidate that exists. `variant` is None for a folder; whoever got it closes its handle."""

    candidate: Candidate
    variant: Variant | None


class Refused(Exception):
    """It could not be looked up: `status` is 403 (no permission) or 503 (try again later)."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


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


def _flags(*names: str) -> int:
    """The named flags of open together, without those that this system does not have."""
    return functools.reduce(lambda flags, name: flags | getattr(os, name, 0), names, 0)


# O_NONBLOCK: a FIFO without a writer would hold the thread for ever. O_LARGEFILE: open implies it, openat2 on
# 32 bits does not.
_TO_READ = _flags("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_LARGEFILE", "O_BINARY", "O_NOINHERIT")
# With O_PATH, a folder that may be crossed need not be readable.
_TO_CROSS = _flags("O_PATH", "O_DIRECTORY", "O_CLOEXEC")
_AS_ROOT = _flags("O_RDONLY", "O_DIRECTORY", "O_CLOEXEC")
_NOFOLLOW = _flags("O_NOFOLLOW")

_HAS_DIR_FD = os.open in os.supports_dir_fd
_HAS_PREAD = hasattr(os, "pread")

# How often the name of the root is looked up again.
_ROOT_LOOK_S = 1.0
# Linux follows 40 links as well.
_MAX_LINKS = 40
# Against somebody who keeps changing what is being looked at. Past these, the caller has a way out.
_MAX_SNAPSHOTS = 3
_MAX_LOOKS = 20
_MAX_BENEATH = 4


class Files:
    """The files below `root`, or the one file that `root` is.

    `symlinks` says which links are followed, `hidden` whether names that begin with a dot exist. Files of up
    to `small_bytes` are read when they are found. Lookups run on `disk`.
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
    ) -> None:
        # Absolute, since the working folder may change, but with its links: they may be switched.
        self._name = os.path.join(os.getcwdb(), os.fsencode(root))
        self._symlinks = symlinks
        self._shows_hidden = hidden
        self._disk = disk
        self._small_bytes = small_bytes
        self._way: _Way | None = None
        self._lock = Lock()
        self._root: _Root | None = None
        self._next_look_s = time.monotonic() + _ROOT_LOOK_S
        self._is_closed = False
        self.only_name: bytes | None = None
        """The name of the root when it is one single file; no other name exists then."""
        mode = os.stat(self._name).st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(self._name, _TO_READ))
            self.only_name = os.path.basename(self._name)
        elif stat.S_ISDIR(mode):
            self._root = _Root(self._name)
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
        for segment in segments[after_public:]:
            if segment.startswith(b".") and (not self._shows_hidden or segment in (b".", b"..")):
                return False
            # Decoded targets hold none of these; this room does not rely on it.
            if not segment or b"/" in segment or b"\0" in segment:
                return False
        return True

    def _find_in_thread(self, candidates: Sequence[Candidate]) -> Found | None:
        with self._use_root() as root:
            for candidate in candidates:
                try:
                    found = self._look_for(candidate, root)
                except OSError as error:
                    status = _STATUS.get(error.errno or 0, _UNLISTED_STATUS)
                    if status is not None:
                        raise Refused(status) from error
                else:
                    if found is not None:
                        return found
        return None

    def _look_for(self, candidate: Candidate, root: _Root | None) -> Found | None:
        if root is None:
            # Named by the user, links and all.
            descriptor = _open_last(self._name, _TO_READ, None)
        elif candidate.kind is Kind.FOLDER:
            return Found(candidate, None) if self._has_folder(root, candidate.segments) else None
        else:
            descriptor = self._open(root, candidate.segments, _TO_READ)
        variant = self._take_variant(descriptor)
        return None if variant is None else Found(candidate, variant)

    def _has_folder(self, root: _Root, segments: Sequence[bytes]) -> bool:
        if self._find_way() is _Way.NAME:
            return stat.S_ISDIR(os.stat(_check_path(root, segments, self._symlinks)).st_mode)
        os.close(self._open(root, segments, _TO_CROSS))
        return True

    def _open(self, root: _Root, segments: Sequence[bytes], flags: int) -> int:
        """A descriptor of what has that name below `root`, opened with `flags`; the caller closes it."""
        way = self._find_way()
        if way is _Way.NAME:
            return _open_last(_check_path(root, segments, self._symlinks), flags, None)
        if self._symlinks is Symlinks.ALL:
            return _open_last(b"/".join(segments) or b".", flags, root.descriptor)
        follows_links = self._symlinks is Symlinks.INSIDE
        openat2 = _load_openat2()
        if way is _Way.BENEATH and openat2 is not None:
            try:
                return _open_beneath(openat2, root, segments, flags, follows_links=follows_links)
            except OSError as error:
                if error.errno not in _ASK_THE_WALK:
                    raise
        return _open_by_walk(root, segments, flags, follows_links=follows_links)

    def _find_way(self) -> _Way:
        if self._way is None:
            self._way = _find_best_way()
        return self._way

    def _take_variant(self, descriptor: int) -> Variant | None:
        """What the opened descriptor stands for, now its owner; None when that is no regular file.

        The content of a small file is taken between two equal states of it, so it is never half of one
        version and half of another. A file that does not keep still is left open, and the sender counts what
        it gets.
        """
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
    def _use_root(self) -> Iterator[_Root | None]:
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

    def _take_root(self) -> _Root:
        with self._lock:
            root = self._root
            if root is not None and time.monotonic() < self._next_look_s:
                root.users += 1
                return root
            # Claimed before the look, so that one thread looks and the others go on.
            self._next_look_s = time.monotonic() + _ROOT_LOOK_S
        # Not under the lock: a disk that is slow to answer must not hold up the finds that need no look.
        try:
            fresh = None if root is not None and root.is_named(self._name) else _Root(self._name)
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

    def _set_root(self, root: _Root | None) -> None:
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
        self._seeking: AbstractContextManager[object] = nullcontext() if _HAS_PREAD else Lock()

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
    if _HAS_PREAD:
        return os.pread(descriptor, size_bytes, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size_bytes)


class _Root:
    """The folder that is served, held by a descriptor for those who use it.

    `users` is counted by Files, under its lock; the first is Files itself, while this is the current root.
    """

    __slots__ = ("_aliases", "_identity", "descriptor", "path", "users")

    def __init__(self, name: bytes) -> None:
        # First the real path, then the folder at that path, so that the two belong together. If a deploy
        # comes between stat and open, the next look at the name finds another identity and comes here again.
        self.path = os.path.realpath(name)
        status = os.stat(self.path)
        self._identity = (status.st_dev, status.st_ino)
        self.descriptor = os.open(self.path, _AS_ROOT) if _HAS_DIR_FD else -1
        self._aliases = [_split(self.path)]
        # An absolute link may also name the root as the user did. What ".." means there, only the kernel
        # knows.
        if b".." not in _split(name):
            self._aliases.append(_split(name))
        self.users = 1

    def is_named(self, name: bytes) -> bool:
        """Whether `name` still leads to this folder. Raises OSError when it leads nowhere."""
        status = os.stat(name)
        return self._identity == (status.st_dev, status.st_ino)

    def find_below(self, path: bytes) -> list[bytes] | None:
        """The parts of an absolute path that stand below this root; None when it leads elsewhere."""
        parts = _split(path)
        for alias in self._aliases:
            if parts[: len(alias)] == alias:
                return parts[len(alias) :]
        return None

    def drop(self) -> None:
        """One user less; the last one closes the descriptor."""
        self.users -= 1
        if not self.users and self.descriptor >= 0:
            os.close(self.descriptor)


class _Way(Enum):
    """How a name below the root is opened so that it cannot lead outside."""

    BENEATH = "the kernel keeps the path below the root (openat2)"
    WALK = "each segment is opened by itself and links are read here"
    NAME = "the path is checked, then opened"


@functools.cache
def _find_best_way() -> _Way:
    if not _HAS_DIR_FD:
        return _Way.NAME
    return _Way.WALK if _load_openat2() is None else _Way.BENEATH


def _absent(name: bytes) -> OSError:
    return FileNotFoundError(errno.ENOENT, "Nothing that may be served", name)


def _open_last(name: bytes, flags: int, folder: int | None) -> int:
    """Opens `name` in `folder`. To be read, what is no regular file is absent, even when it is forbidden.

    A folder that may be crossed but not read answers with a permission error, and so does a stranger's FIFO.
    """
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        follows_links = not flags & _NOFOLLOW
        if flags & _flags("O_DIRECTORY") or stat.S_ISREG(
            os.stat(name, dir_fd=folder, follow_symlinks=follows_links).st_mode
        ):
            raise
    raise _absent(name)


# --- openat2 (Linux 5.6 and later) ---

_OpenAt2 = Callable[[int, bytes, int, int], int]

_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

# Where it is missing, or forbidden by a seccomp filter that does not know it.
_NO_OPENAT2 = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG}
# EXDEV: the path left the root on its way, as every absolute link does. EAGAIN: names changed meanwhile, and
# the kernel could not promise anything. EACCES, EPERM: is it a file at all that was refused? EINTR: a signal.
_ASK_THE_WALK = {errno.EXDEV, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINTR}


@functools.cache
def _load_openat2() -> _OpenAt2 | None:
    """The system call as a function of folder, path, flags and resolve flags; None where there is none."""
    if sys.platform != "linux":
        return None
    # Not at the top: it costs the start some milliseconds, and is needed by the first request only.
    import ctypes

    class OpenHow(ctypes.Structure):
        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    syscall = ctypes.CDLL(None, use_errno=True).syscall  # a CDLL lets the other threads run meanwhile
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(OpenHow),
        ctypes.c_size_t,
    )

    def openat2(folder: int, path: bytes, flags: int, resolve: int) -> int:
        how = OpenHow(flags, 0, resolve)
        descriptor: int = syscall(_OPENAT2, folder, path, how, ctypes.sizeof(how))
        if descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return descriptor

    try:
        os.close(openat2(_AT_FDCWD, b".", _TO_CROSS, _RESOLVE_BENEATH))
    except OSError as error:
        if error.errno in _NO_OPENAT2:
            return None
    return openat2


def _open_beneath(
    openat2: _OpenAt2, root: _Root, segments: Sequence[bytes], flags: int, *, follows_links: bool
) -> int:
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    if not follows_links:
        resolve |= _RESOLVE_NO_SYMLINKS
    path = b"/".join(segments) or b"."
    for _ in range(_MAX_BENEATH):
        try:
            return openat2(root.descriptor, path, flags, resolve)
        except BlockingIOError as error:
            # A link with ".." was met while names changed somewhere on this machine.
            failure = error
    raise failure


# --- the walk (macOS, BSD, old kernels, and what openat2 leaves undecided) ---

# What O_NOFOLLOW says of a link: ELOOP, on FreeBSD EMLINK; with O_DIRECTORY mostly ENOTDIR.
_MAY_BE_LINK = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}


def _open_by_walk(root: _Root, segments: Sequence[bytes], flags: int, *, follows_links: bool) -> int:
    """Opens what `segments` lead to, one at a time, each in the descriptor of the folder before it.

    The kernel follows no link here. The text of a link takes its place in what is still to be walked, so that
    it obeys the same rules: ".." goes back to the folder that was entered before, and not above the root; an
    absolute path must lead into the root.
    """
    entered: list[int] = []
    ahead = [*reversed(segments)] or [b"."]
    links = 0
    try:
        while True:
            name = ahead.pop()
            if name == b"." and ahead:
                continue
            if name == b"..":
                if not entered:
                    raise _absent(name)
                os.close(entered.pop())
                ahead = ahead or [b"."]
                continue
            folder = entered[-1] if entered else root.descriptor
            step = _step(name, _TO_CROSS if ahead else flags, folder, follows_links=follows_links)
            if isinstance(step, int):
                if not ahead:
                    return step
                entered.append(step)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            is_absolute = step.startswith(b"/")
            parts = root.find_below(step) if is_absolute else _split(step)
            if parts is None:
                raise _absent(name)
            while is_absolute and entered:
                os.close(entered.pop())
            if not parts or step.endswith((b"/", b"/.")):
                parts.append(b".")  # it must be a folder
            ahead += reversed(parts)
    finally:
        for descriptor in entered:
            os.close(descriptor)


def _step(name: bytes, flags: int, folder: int, *, follows_links: bool) -> int | bytes:
    """Opens `name` in `folder`: a descriptor, or the text of the link that stands there."""
    for _ in range(_MAX_LOOKS):
        try:
            return _open_last(name, flags | _NOFOLLOW, folder)
        except OSError as error:
            if not follows_links or error.errno not in _MAY_BE_LINK:
                raise
            failure = error
        try:
            return os.readlink(name, dir_fd=folder)
        except OSError as error:
            # No link, or none any more: looked at again, until it keeps still.
            if error.errno != errno.EINVAL:
                raise
    raise failure


def _split(path: bytes) -> list[bytes]:
    """The parts of a path that lead somewhere."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


# --- names (Windows) ---

# Separators, drives and streams, wildcards, control characters; short forms such as PROGRA~1; what Windows
# strips from the end of a name; and devices, which exist in every folder and with every extension.
_UNSAFE_NAME = re.compile(
    rb'[\x00-\x1f\\:*?"<>|]|~[0-9]|[. ]\Z'
    rb"|\A(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)([0-9]|\xc2[\xb9\xb2\xb3])) *(\.|\Z)",
    re.IGNORECASE,
)


def _check_path(root: _Root, segments: Sequence[bytes], symlinks: Symlinks) -> bytes:
    """The path of what may be opened below `root`. Raises FileNotFoundError for anything else.

    Deviation: a link that is put there between this check and the open is followed. Python on Windows cannot
    open relative to a folder; making links is a privilege there.
    """
    for segment in segments:
        if _UNSAFE_NAME.search(segment) or not _is_utf8(segment):
            raise _absent(segment)
    path = os.path.join(root.path, *segments)
    if symlinks is Symlinks.ALL:
        return path
    real = os.path.realpath(path)
    if symlinks is Symlinks.NONE:
        is_allowed = os.path.normcase(real) == os.path.normcase(path)
    else:
        # Joined with nothing, both end in a separator: /site-private is not below /site.
        below = os.path.join(os.path.normcase(root.path), b"")
        is_allowed = os.path.join(os.path.normcase(real), b"").startswith(below)
    if not is_allowed:
        raise _absent(path)
    return path


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
