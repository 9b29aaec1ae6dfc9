"""What was found below the root: a folder, a file with its bytes, nothing, or a refusal.

A file is opened once and then described by its descriptor alone, so length, validators and bytes belong
together whatever happens to the name meanwhile. What was found is kept (`cache`), and given again after one
look at its name. What the kernel has in memory is looked up on the event loop, everything else in a thread
(`disk`). How a name is opened is for `containment`; what a request may look for is decided in `site`.

The module is longer than others because the lookup that may wait and the one that may not share a root and a
lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from threading import RLock
from typing import NamedTuple

from aioserve.content.cache import Absent, Cache, Kept, Version, share
from aioserve.content.compression import EXTENSIONS
from aioserve.content.containment import Root, Symlinks, Way, join_segments, open_named_file
from aioserve.content.disk import Busy, Disk
from aioserve.content.handle import OpenFile, read_at, read_in_memory
from aioserve.protocol.variant import Variant

_logger = logging.getLogger("aioserve")


class Kind(Enum):
    FILE = "file"
    FOLDER = "folder"


class Candidate(NamedTuple):
    """A name to look for, as the decoded segments below the root, and what it must be.

    With a `coding` the file holds what is wanted in that coding.
    """

    segments: tuple[bytes, ...]
    kind: Kind
    coding: str | None = None


class Found(NamedTuple):
    """The candidate that exists. `variant` is None for a folder; whoever got it closes it.

    `version` and `place` are what `Files` keeps it by; without a version it changes too quickly for that.
    `kept` is what is kept of it. `sidecars` are the compressed forms that lie beside it.
    """

    candidate: Candidate
    variant: Variant | None
    version: Version | None = None
    place: object = None
    kept: Kept | None = None
    sidecars: tuple[Found, ...] = ()

    def close(self) -> None:
        """Closes its handle and those of its sidecars."""
        for found in (self, *self.sidecars):
            if found.variant is not None:
                found.variant.handle.close()


class Named(NamedTuple):
    """A file of the root as `Files.read_named` found it.

    `data` is its content, None when it is as long as before and of the same times. `version` is None when it
    has been changed so lately that the next change may look the same.
    """

    data: bytes | None
    version: Version | None


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

# A file that has been changed so lately may be changed again without another time: the clocks of file systems
# have steps, of 2 s on FAT. It is served, but not kept.
_RACY_NS = 2_000_000_000


def find_status(error: OSError) -> int | None:
    """What an error of the system means to a client; None when nothing of that name can be served."""
    return _STATUS.get(error.errno or 0, _UNLISTED_STATUS)


# Sidecars that are remembered as told of: once is enough, and a site may have any number of them.
_MAX_OUTDATED = 1000


class Files:
    """The files below `root`, or the one file that `root` is.

    `symlinks` says which links are followed, `hidden` whether names that begin with a dot exist. Files of up
    to `small_bytes` are read when they are found, and `cache_bytes` of them are kept. Lookups that have to
    wait run on `disk`. `way` is the best one to open names, `clock` counts the seconds until the name of the
    root is looked up again.
    Raises OSError when the root does not exist, cannot be read, or is neither a folder nor a regular file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        symlinks: Symlinks = Symlinks.INSIDE,
        hidden: bool = False,
        disk: Disk,
        small_bytes: int = 128 * 1024,
        cache_bytes: int = 0,
        way: Way = Way.BENEATH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Absolute, since the working folder may change, but with its links: they may be switched.
        name = os.fsencode(root)
        self._name = name if os.path.isabs(name) else os.path.join(os.getcwdb(), name)
        self._symlinks = symlinks
        self._way = way
        self._shows_hidden = hidden
        self.disk = disk
        self._small_bytes = small_bytes
        self._clock = clock
        self._lock = RLock()
        self._root: Root | None = None
        self._next_look_s = clock() + _ROOT_LOOK_S
        self._is_closed = False
        self.cache = Cache(cache_bytes, clock)
        """What is kept of the files; what is in it may be old (`is_current`)."""
        self.looked_at: set[Kept | Absent] = set()
        """What was looked at in this turn of the event loop, and found unchanged."""
        self._outdated: set[tuple[bytes, ...]] = set()
        # Files that are being loaded; those who want the same wait here.
        self._loading: dict[tuple[bytes, ...], asyncio.Future[None]] = {}
        self.shares_looks = True
        """Whether one look at a name is enough for all who ask for it in one turn of the event loop.

        It is as long as a turn asks the kernel once who has sent something: then each of them had sent before
        the look. libuv asks again when 1,024 had.
        """
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

    async def find(self, candidates: Sequence[Candidate], codings: Sequence[str] = ()) -> Found | None:
        """The first candidate that exists and is of its kind; None when none is. One hop to a thread at most.

        Of a file it also finds the sidecars in `codings`. All of them are looked for in the same root, even
        while a deploy switches it. Raises Refused when one cannot be looked up before that.
        """
        try:
            return self.find_at_once(candidates, codings)
        except BlockingIOError:
            wanted = [candidate for candidate in candidates if self._may_exist(candidate)]
        if not wanted:
            return None
        segments = wanted[0].segments
        other = self._loading.get(segments)
        if other is not None:
            # Loaded once for all; whoever has waited too long gets a thread, or none, by himself.
            await asyncio.wait([other], timeout=self.disk.queue_s)
            with contextlib.suppress(BlockingIOError):
                return self.find_at_once(wanted, codings)
        mine = asyncio.get_running_loop().create_future()
        self._loading.setdefault(segments, mine)
        try:
            found = await self.disk.run(
                segments,
                partial(self._find_in_thread, wanted, codings),
                queue_s=self.disk.queue_s,
                discard=_close_found,
            )
            return None if found is None else self._keep_all(found)
        except Busy as busy:
            raise Refused(503) from busy
        except Refused as refused:
            if refused.status == 503:
                # It may be for want of descriptors.
                self.cache.close_descriptors()
            raise
        finally:
            if self._loading.get(segments) is mine:
                del self._loading[segments]
            mine.set_result(None)

    def find_at_once(self, candidates: Sequence[Candidate], codings: Sequence[str] = ()) -> Found | None:
        """The same as `find`, without waiting. Raises BlockingIOError when a thread has to look."""
        # The lock holds the root, the same for all of them, and nobody waits under it.
        with self._lock:
            absent = None
            for candidate in candidates:
                if candidate.segments == absent or not self._may_exist(candidate):
                    continue
                try:
                    found = self._find_one_at_once(candidate)
                except BlockingIOError:
                    raise
                except OSError as error:
                    if find_status(error) is not None:
                        raise BlockingIOError from None
                    absent = candidate.segments if error.errno == errno.ENOENT else None
                else:
                    if found is not None:
                        return self._add_sidecars(found, codings, self._find_one_at_once)
        return None

    def _find_one_at_once(self, candidate: Candidate) -> Found | None:
        kept = self.cache.find(candidate.segments) if candidate.kind is Kind.FILE else None
        if kept is not None and self.is_current(kept):
            variant = share(kept.variant)._replace(coding=candidate.coding)
            return Found(candidate, variant, kept.version, kept.place, kept)
        found = self._look_for_at_once(candidate, self._ensure_root())
        return None if found is None else self._keep(found)

    def _add_sidecars(
        self, found: Found, codings: Sequence[str], look_for: Callable[[Candidate], Found | None]
    ) -> Found:
        """`found` with those of its sidecars that exist and are not older than it."""
        if found.variant is None or found.candidate.coding is not None or self.only_name is not None:
            return found
        sidecars: list[Found] = []
        try:
            for coding in codings:
                candidate = make_sidecar(found.candidate, coding)
                try:
                    sidecar = look_for(candidate)
                except BlockingIOError:
                    raise
                except OSError:
                    # It only would have saved something.
                    continue
                if sidecar is None or sidecar.variant is None:
                    continue
                if sidecar.variant.mtime_ns >= found.variant.mtime_ns:
                    sidecars.append(sidecar)
                else:
                    sidecar.close()
                    self._report_outdated(candidate)
        except BaseException:
            found._replace(sidecars=tuple(sidecars)).close()
            raise
        return found._replace(sidecars=tuple(sidecars)) if sidecars else found

    def _report_outdated(self, candidate: Candidate) -> None:
        if candidate.segments in self._outdated or len(self._outdated) >= _MAX_OUTDATED:
            return
        self._outdated.add(candidate.segments)
        name = os.fsdecode(b"/".join(candidate.segments))
        _logger.warning("%r is older than the file that it is a form of, and is not used", name)

    @property
    def keeps(self) -> bool:
        """Whether files are kept at all."""
        return self.cache.keeps

    def is_current(self, kept: Kept) -> bool:
        """Whether a look at the name of `kept`, in this turn of the event loop, finds it as it was.

        Never waits; where that would be needed it says no. The look meets no link on its way, so what is kept
        is inside the root for every policy.
        """
        if not kept.is_held:
            return False
        if kept in self.looked_at:
            return True
        try:
            with self._lock:
                root = self._ensure_root()
                is_current = kept.place is root and kept.version == get_version(root.look_at_once(kept.path))
        except BlockingIOError:
            return False
        except OSError:
            is_current = False
        if not is_current:
            self.cache.forget(kept.key)
            return False
        self.cache.touch(kept)
        self._share_look(kept)
        return True

    def find_absent(self, candidates: Sequence[Candidate]) -> Absent | None:
        """The names of `candidates`, for which `find` has found nothing, to ask for again with `is_absent`.

        None for a root that is one single file: nothing is looked for there.
        """
        if self.only_name is not None:
            return None
        names = (candidate.segments for candidate in candidates if self._may_exist(candidate))
        return Absent(tuple(map(join_segments, dict.fromkeys(names))))

    def is_absent(self, absent: Absent) -> bool:
        """Whether a look at the names, in this turn of the event loop, finds nothing.

        Never waits, and follows no link; where that would be needed it says no.
        """
        if absent in self.looked_at:
            return True
        try:
            with self._lock:
                root = self._ensure_root()
                if not all(map(root.lacks_at_once, absent.paths)):
                    return False
        except OSError:
            return False
        self._share_look(absent)
        return True

    def _share_look(self, seen: Kept | Absent) -> None:
        if self.shares_looks:
            if not self.looked_at:
                asyncio.get_running_loop().call_soon(self.looked_at.clear)
            self.looked_at.add(seen)

    def load(self) -> None:
        """Loads, in a thread, what looks without waiting."""
        with self.use_root() as root:
            if root is not None:
                root.load_at_once()

    def look_at_name(self, name: bytes) -> Version | None:
        """The version of what has that name in the root itself, without waiting; None when nothing has.

        Raises BlockingIOError where a thread has to look, as it does at a link.
        """
        with self._lock:
            try:
                return get_version(self._ensure_root().look_at_once(name))
            except FileNotFoundError:
                return None
            except OSError:
                raise BlockingIOError from None

    def read_named(self, name: bytes, known: Version | None, max_bytes: int) -> Named | None:
        """Reads the file of that name in the root itself, at most `max_bytes` and one; None without one.

        It waits, so it belongs into a thread. What is `known` is not read again. Raises Refused.
        """
        candidate = Candidate((name,), Kind.FILE)
        with self.use_root() as root:
            if root is None:
                return None
            try:
                descriptor = root.open_file(candidate.segments)
            except OSError as error:
                status = _STATUS.get(error.errno or 0, _UNLISTED_STATUS)
                if status is not None:
                    raise Refused(status, candidate) from error
                return None
            try:
                return _read_whole(descriptor, known, max_bytes)
            except OSError as error:
                raise Refused(_UNLISTED_STATUS, candidate) from error
            finally:
                os.close(descriptor)

    def close_idle(self) -> None:
        """Closes what is open for nobody; called once a second."""
        self.cache.close_idle()

    def close(self) -> None:
        """Lets the root go, as soon as no find uses it any more. Finds are refused from now on."""
        self.cache.clear()
        with self._lock:
            self._is_closed = True
            self._set_root(None)

    def _may_exist(self, candidate: Candidate) -> bool:
        segments = candidate.segments
        if self.only_name is not None:
            return segments == (self.only_name,) and candidate.kind is Kind.FILE
        return not self.hides(segments)

    def hides(self, segments: tuple[bytes, ...]) -> bool:
        """Whether that name does not exist for clients: it, or a folder above it, begins with a dot."""
        if self._shows_hidden:
            return False
        # RFC 8615: /.well-known/ is made to be public, what is hidden inside it is not.
        for name in segments[1:] if segments[:1] == (b".well-known",) else segments:
            if name.startswith(b"."):
                return True
        return False

    # On the event loop, without waiting.

    def _ensure_root(self) -> Root:
        """The root, if its name still leads to it. Raises BlockingIOError when a thread has to look."""
        root = self._root
        if root is None:
            raise BlockingIOError
        if self._clock() >= self._next_look_s:
            # Here when the kernel can say it: all threads may be waiting for a disk.
            if not root.is_named_at_once(self._name):
                raise BlockingIOError
            self._next_look_s = self._clock() + _ROOT_LOOK_S
        return root

    def _look_for_at_once(self, candidate: Candidate, root: Root) -> Found | None:
        if candidate.kind is Kind.FOLDER:
            return Found(candidate, None) if root.has_folder_at_once(candidate.segments) else None
        descriptor = root.open_file_at_once(candidate.segments)
        return self._take_file(descriptor, candidate, root, read_in_memory)

    def _keep(self, found: Found) -> Found:
        """Keeps a file that was found, unless it was too new or is not to be reached without links."""
        if found.variant is None or found.version is None or not self.cache.keeps:
            return found
        segments = found.candidate.segments
        with contextlib.suppress(OSError), self._lock:
            root = self._ensure_root()
            if (
                root is found.place
                and get_version(root.look_at_once(join_segments(segments))) == found.version
            ):
                # Asked for by its own name, a sidecar is a file like any other.
                variant = found.variant._replace(coding=None)
                return found._replace(kept=self.cache.keep(segments, root, found.version, variant))
        return found

    def _keep_all(self, found: Found) -> Found:
        return self._keep(found)._replace(sidecars=tuple(map(self._keep, found.sidecars)))

    # In a thread.

    def _find_in_thread(self, candidates: Sequence[Candidate], codings: Sequence[str]) -> Found | None:
        with self.use_root() as root:
            if root is not None:
                root.load_at_once()
            for candidate in candidates:
                try:
                    found = self._look_for(candidate, root)
                except OSError as error:
                    status = find_status(error)
                    if status is not None:
                        raise Refused(status, candidate) from error
                else:
                    if found is not None:
                        return self._add_sidecars(found, codings, lambda one: self._look_for(one, root))
        return None

    def _look_for(self, candidate: Candidate, root: Root | None) -> Found | None:
        if candidate.kind is Kind.FOLDER and root is not None:
            return Found(candidate, None) if root.has_folder(candidate.segments) else None
        descriptor = open_named_file(self._name) if root is None else root.open_file(candidate.segments)
        return self._take_file(descriptor, candidate, root, read_at)

    def _take_file(
        self,
        descriptor: int,
        candidate: Candidate,
        root: Root | None,
        read: Callable[[int, int, int], bytes],
    ) -> Found | None:
        """What the opened descriptor stands for, now its owner; None when that is no regular file.

        The content of a small file is taken between two equal states of it, so it is never half of one
        version and half of another. A file that does not keep still is left open, and the sender counts what
        it gets.
        """
        is_kept = False
        # Before its content is read: what changes after that has to have another time.
        racy_ns = find_racy_ns()
        try:
            now = os.fstat(descriptor)
            if not stat.S_ISREG(now.st_mode):
                return None
            key = (now.st_dev, now.st_ino)
            for _ in range(_MAX_SNAPSHOTS):
                if now.st_size > self._small_bytes:
                    break
                before = now
                data = read(descriptor, 0, before.st_size)
                now = os.fstat(descriptor)
                if len(data) == before.st_size and get_version(now) == get_version(before):
                    handle = OpenFile(self.disk, key, data=data)
                    variant = Variant(candidate.coding, len(data), now.st_mtime_ns, handle)
                    return Found(candidate, variant, find_lasting_version(now, racy_ns), root)
            handle = OpenFile(self.disk, key, descriptor=descriptor)
            is_kept = True
            variant = Variant(candidate.coding, now.st_size, now.st_mtime_ns, handle)
            return Found(candidate, variant, find_lasting_version(now, racy_ns), root)
        finally:
            if not is_kept:
                os.close(descriptor)

    @contextlib.contextmanager
    def use_root(self) -> Iterator[Root | None]:
        """The root as it is now, open at least until the block ends; None when it is one single file.

        It may wait for the disk. Raises Refused when the root is gone.
        """
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


def _read_whole(descriptor: int, known: Version | None, max_bytes: int) -> Named | None:
    racy_ns = time.time_ns() - _RACY_NS
    for _ in range(_MAX_SNAPSHOTS):
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return None
        if known is not None and get_version(before) == known:
            return Named(None, known)
        data = read_at(descriptor, 0, min(before.st_size, max_bytes + 1))
        if get_version(os.fstat(descriptor)) == get_version(before):
            return Named(data, find_lasting_version(before, racy_ns))
    return Named(data, None)


def make_sidecar(candidate: Candidate, coding: str) -> Candidate:
    """The file beside `candidate` that holds the same in `coding`."""
    *folder, name = candidate.segments
    return Candidate((*folder, name + EXTENSIONS[coding]), Kind.FILE, coding)


def _close_found(found: Found | None) -> None:
    if found is not None:
        found.close()


def get_version(status: os.stat_result) -> Version:
    """What tells one state of a file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def find_racy_ns() -> int:
    """Since when a change may be followed, from now on, by another one that has the same time."""
    return time.time_ns() - _RACY_NS


def find_lasting_version(status: os.stat_result, racy_ns: int) -> Version | None:
    """Its version; None when it has been changed since `racy_ns`, as others may follow that look the same."""
    return None if max(status.st_mtime_ns, status.st_ctime_ns) > racy_ns else get_version(status)
