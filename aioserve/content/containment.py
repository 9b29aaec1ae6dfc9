"""How a name below the root is opened so that it cannot lead outside.

Every path of a site is opened here, in the best way that the system has: the kernel keeps it below the root
(openat2), or each segment is opened by itself, or the path is checked first. Which names are looked for, and
what was found there, is for `files`; how the kernel is asked, for `openat2`.

The module is longer than others because the three ways stand side by side: they have to allow the same.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import re
import stat
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import NamedTuple

from aioserve.content.openat2 import (
    AT_FDCWD,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    OpenAt2,
    Opener,
    load_at_once,
    load_openat2,
)


class Symlinks(StrEnum):
    """Which symbolic links below the root are followed. The root itself may always be one."""

    NONE = "none"
    INSIDE = "inside"  # while the target stays below the root
    ALL = "all"


class Way(Enum):
    """How a name below the root is opened, the best first."""

    BENEATH = "the kernel keeps the path below the root (openat2)"
    WALK = "each segment is opened by itself and links are read here"
    NAME = "the path is checked, then opened"


def _flags(*names: str) -> int:
    """The named flags of open together, without those that this system does not have."""
    return functools.reduce(operator.or_, (getattr(os, name, 0) for name in names))


# O_NONBLOCK: a FIFO without a writer would hold the thread for ever. O_LARGEFILE: open implies it, openat2 on
# 32 bits does not.
_TO_READ = _flags("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_LARGEFILE", "O_BINARY", "O_NOINHERIT")
# The state of what has a name, and nothing else.
_TO_LOOK = _flags("O_PATH", "O_CLOEXEC")
# With O_PATH, a folder that may be crossed need not be readable.
_TO_CROSS = _flags("O_PATH", "O_DIRECTORY", "O_CLOEXEC")
_AS_ROOT = _flags("O_RDONLY", "O_DIRECTORY", "O_CLOEXEC")
_DIRECTORY = _flags("O_DIRECTORY")
_NOFOLLOW = _flags("O_NOFOLLOW")

# What openat2 is told for each policy.
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_RESOLVE = {Symlinks.NONE: _BENEATH | RESOLVE_NO_SYMLINKS, Symlinks.INSIDE: _BENEATH, Symlinks.ALL: 0}

# When openat2 leaves it undecided. EXDEV: the path left the root on its way, as every absolute link does.
# EAGAIN: names changed meanwhile, and the kernel could not promise anything. EACCES, EPERM: is it a file at
# all that was refused? EINTR: a signal.
_ASK_THE_WALK = {errno.EXDEV, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINTR}

# Linux follows 40 links as well.
_MAX_LINKS = 40
# Against somebody who keeps changing what is being looked at. Past these, the caller has a way out.
_MAX_LOOKS = 20
_MAX_BENEATH = 4


class _AtOnce(NamedTuple):
    """The ways to open what has a name in a folder without waiting for a disk."""

    to_read: Opener
    to_cross: Opener
    to_look: Opener
    to_look_anywhere: Opener
    """For a name that the user gave."""


class Root:
    """The folder that is served, held by a descriptor for those who use it.

    `symlinks` says which links below it are followed. `way` is the best one to try; where the system does not
    have it, the next is taken. `users` is counted by the owner, who is the first of them, under a lock.
    Raises OSError when `name` leads to no folder that can be read.
    """

    __slots__ = ("_aliases", "_at_once", "_descriptor", "_identity", "_path", "_symlinks", "_way", "users")

    def __init__(self, name: bytes, *, symlinks: Symlinks, way: Way = Way.BENEATH) -> None:
        self._symlinks = symlinks
        self._way = way if os.open in os.supports_dir_fd else Way.NAME
        self._at_once: _AtOnce | None = None
        # First the real path, then the folder at that path, so that the two belong together. If a deploy
        # comes between stat and open, the next look at the name finds another identity and opens it again.
        self._path = os.path.realpath(name)
        status = os.stat(self._path)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path)
        self._identity = (status.st_dev, status.st_ino)
        self._descriptor = -1 if self._way is Way.NAME else os.open(self._path, _AS_ROOT)
        self._aliases = [_split(self._path)]
        # An absolute link may also name the root as the user did. What ".." means there, only the kernel
        # knows.
        if b".." not in _split(name):
            self._aliases.append(_split(name))
        self.users = 1

    def is_named(self, name: bytes) -> bool:
        """Whether `name` still leads to this folder. Raises OSError when it leads nowhere."""
        status = os.stat(name)
        return self._identity == (status.st_dev, status.st_ino)

    def drop(self) -> None:
        """One user less; the last one closes the descriptor."""
        self.users -= 1
        if not self.users and self._descriptor >= 0:
            os.close(self._descriptor)

    def open_file(self, segments: Sequence[bytes]) -> int:
        """A descriptor to read what has that name; the caller closes it, and sees whether it is a file.

        Raises OSError: PermissionError for a regular file that is forbidden, or anything below a folder that
        is, and FileNotFoundError among others for what may not be reached.
        """
        return self._open(segments, _TO_READ)

    def open_folder(self, segments: Sequence[bytes]) -> int:
        """A descriptor to list the folder of that name; the caller closes it.

        Raises OSError: PermissionError for a folder that is forbidden, others for what is none.
        """
        return self._open(segments, _AS_ROOT)

    def load_at_once(self) -> None:
        """Loads what those that say "at once" need; until then, and where there is none, they always refuse.

        It may take some milliseconds, so it belongs into a thread.
        """
        if self._way is Way.BENEATH and (make_opener := load_at_once()):
            self._at_once = _AtOnce(
                to_read=make_opener(_TO_READ, _RESOLVE[self._symlinks]),
                to_cross=make_opener(_TO_CROSS, _RESOLVE[self._symlinks]),
                to_look=make_opener(_TO_LOOK, _RESOLVE[Symlinks.NONE]),
                to_look_anywhere=make_opener(_TO_LOOK, 0),
            )

    def open_file_at_once(self, segments: Sequence[bytes]) -> int:
        """The same as `open_file`, without waiting for a disk.

        Raises BlockingIOError when a disk, or a look at each segment, is needed to say what is there.
        """
        if self._at_once is None:
            raise BlockingIOError
        try:
            return self._at_once.to_read(self._descriptor, join_segments(segments))
        except OSError as error:
            if error.errno in _ASK_THE_WALK:
                raise BlockingIOError from None
            raise

    def look_at_once(self, path: bytes) -> os.stat_result:
        """The state of what has that name and is reached without any link, without waiting for a disk.

        `path` is `join_segments` of its name, for those who look more than once.

        Raises BlockingIOError as `open_file_at_once` does, and OSError when nothing is there, or a link.
        """
        if self._at_once is None:
            raise BlockingIOError
        descriptor = self._at_once.to_look(self._descriptor, path)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def lacks_at_once(self, path: bytes) -> bool:
        """Whether nothing has that name. Raises as `look_at_once` does where the kernel does not tell."""
        try:
            self.look_at_once(path)
        except FileNotFoundError:
            return True
        return False

    def is_named_at_once(self, name: bytes) -> bool:
        """The same as `is_named`, without waiting for a disk; where one would be needed it says no."""
        if self._at_once is None:
            return False
        try:
            descriptor = self._at_once.to_look_anywhere(AT_FDCWD, name)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return self._identity == (status.st_dev, status.st_ino)

    def has_folder(self, segments: Sequence[bytes]) -> bool:
        """Whether a folder has that name; what is none may also raise OSError, as `open_file` does."""
        if self._way is Way.NAME:
            return stat.S_ISDIR(os.stat(self._check_path(segments)).st_mode)
        os.close(self._open(segments, _TO_CROSS))
        return True

    def has_folder_at_once(self, segments: Sequence[bytes]) -> bool:
        """The same as `has_folder`, without waiting for a disk; raises as `open_file_at_once` does."""
        if self._at_once is None:
            raise BlockingIOError
        try:
            os.close(self._at_once.to_cross(self._descriptor, join_segments(segments)))
        except OSError as error:
            if error.errno in _ASK_THE_WALK:
                raise BlockingIOError from None
            raise
        return True

    def _open(self, segments: Sequence[bytes], flags: int) -> int:
        if self._way is Way.NAME:
            return _open_last(self._check_path(segments), flags, None)
        path = join_segments(segments)
        if self._symlinks is Symlinks.ALL:
            return _open_last(path, flags, self._descriptor)
        # Looked for at the first request, not at the start.
        openat2 = None if self._way is Way.WALK else load_openat2()
        if openat2 is not None:
            try:
                return self._open_beneath(openat2, path, flags)
            except OSError as error:
                if error.errno not in _ASK_THE_WALK:
                    raise
        return self._open_by_walk(segments, flags)

    def _open_beneath(self, openat2: OpenAt2, path: bytes, flags: int) -> int:
        resolve = _RESOLVE[self._symlinks]
        for _ in range(_MAX_BENEATH):
            try:
                return openat2(self._descriptor, path, flags, resolve)
            except BlockingIOError as error:
                # A link with ".." was met while names changed somewhere on this machine.
                failure = error
        raise failure

    def _open_by_walk(self, segments: Sequence[bytes], flags: int) -> int:
        """Opens what `segments` lead to, one at a time, each in the descriptor of the folder before it.

        The kernel follows no link here. The text of a link takes its place in what is still to be walked, so
        that it obeys the same rules: ".." goes back to the folder that was entered before, and not above the
        root; an absolute path must lead into the root.
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
                folder = entered[-1] if entered else self._descriptor
                follows_links = self._symlinks is Symlinks.INSIDE
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
                parts = self._find_below(step) if is_absolute else _split(step)
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

    def _find_below(self, path: bytes) -> list[bytes] | None:
        """The parts of an absolute path that stand below this root; None when it leads elsewhere."""
        parts = _split(path)
        for alias in self._aliases:
            if parts[: len(alias)] == alias:
                return parts[len(alias) :]
        return None

    def _check_path(self, segments: Sequence[bytes]) -> bytes:
        """The path of what may be opened. Raises FileNotFoundError for anything else.

        Deviation: a link that is put there between this check and the open is followed. Python on Windows
        cannot open relative to a folder; making links is a privilege there.
        """
        for segment in segments:
            if re.search(_UNSAFE_NAME, segment) or not _is_utf8(segment):
                raise _absent(segment)
        path = os.path.join(self._path, *segments)
        if self._symlinks is Symlinks.ALL:
            return path
        real = os.path.realpath(path)
        if self._symlinks is Symlinks.NONE:
            is_allowed = os.path.normcase(real) == os.path.normcase(path)
        else:
            # Joined with nothing, both end in a separator: /site-private is not below /site.
            below = os.path.join(os.path.normcase(self._path), b"")
            is_allowed = os.path.join(os.path.normcase(real), b"").startswith(below)
        if not is_allowed:
            raise _absent(path)
        return path


def open_named_file(name: bytes) -> int:
    """A descriptor to read the file that the user named, links and all. Raises OSError as `Root` does."""
    return _open_last(name, _TO_READ, None)


def _open_last(name: bytes, flags: int, folder: int | None) -> int:
    """Opens `name` in `folder`. To be read, what is no regular file is absent, even when it is forbidden.

    A folder that may be crossed but not read answers with a permission error, and so does a stranger's FIFO.
    """
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        follows_links = not flags & _NOFOLLOW
        if flags & _DIRECTORY or stat.S_ISREG(
            os.stat(name, dir_fd=folder, follow_symlinks=follows_links).st_mode
        ):
            raise
    raise _absent(name)


def _absent(name: bytes) -> OSError:
    return FileNotFoundError(errno.ENOENT, "Nothing that may be served", name)


def _split(path: bytes) -> list[bytes]:
    """The parts of a path that lead somewhere."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def join_segments(segments: Sequence[bytes]) -> bytes:
    """The path of `segments`, each of which must be one name. Decoded targets are; this relies on nobody."""
    for segment in segments:
        if segment in (b"", b".", b"..") or b"/" in segment or b"\0" in segment:
            raise _absent(segment)
    return b"/".join(segments) or b"."


# --- the walk (macOS, BSD, old kernels, and what openat2 leaves undecided) ---

# What O_NOFOLLOW says of a link: ELOOP, on FreeBSD EMLINK; with O_DIRECTORY mostly ENOTDIR.
_MAY_BE_LINK = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}


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


# --- names (Windows) ---

# Nothing; separators, drives and streams, wildcards, control characters; short forms such as PROGRA~1; what
# Windows strips from the end of a name; and devices, which exist in every folder and with every extension.
# Compiled by the first name that is checked, since most systems check none.
_UNSAFE_NAME = (
    rb'(?i)\A\Z|[\x00-\x1f/\\:*?"<>|]|~[0-9]|[. ]\Z'
    rb"|\A(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)([0-9]|\xc2[\xb9\xb2\xb3])) *(\.|\Z)"
)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
