"""What is the hash of a file's content, of which its entity tag is made? For `--etag hash`.

Each is computed once for a version of a file, in a thread, and kept by that version, however often the
content itself is let go. Which files are asked about, and what becomes of the answer, is decided in `site`.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Coroutine
from functools import partial
from hashlib import sha256

from aioserve.content.cache import Version
from aioserve.content.disk import Busy, Disk
from aioserve.content.files import Found, Refused, find_lasting_version, find_racy_ns, get_version
from aioserve.content.handle import read_at
from aioserve.protocol.variant import Digest, Handle

# What is no longer is hashed in less time than a thread takes to begin.
_AT_ONCE_BYTES = 16 * 1024

_PIECE_BYTES = 256 * 1024

# So much of a file is read and hashed before others have their turn in the lane.
_TURN_BYTES = 4 * 1024 * 1024

# A file that has been changed within the last seconds is hashed for each request, as the next change may look
# the same. That is not worth it for a longer one: it may be a log, and never keep still.
_MAX_RACY_BYTES = 16 * 1024 * 1024

# Files whose digests are kept. Each takes about 450 bytes.
_MAX_KEPT = 100_000

# The lane of the disk's threads in which files are hashed; each device has its own.
_LANE = "digests"


class Digests:
    """Gives the digests of files that `Files` has found. Belongs to one event loop.

    Those of `max_kept` versions are kept; what was asked for least recently goes first.
    """

    def __init__(self, disk: Disk, max_kept: int = _MAX_KEPT) -> None:
        self._disk = disk
        self._max_kept = max_kept
        self._kept: OrderedDict[Version, Digest] = OrderedDict()
        self._shared: dict[Version, _Shared] = {}

    def find_at_once(self, found: Found) -> Digest:
        """The digest of what `found.variant` gives, without waiting.

        Raises BlockingIOError where it has to be computed and that takes longer.
        """
        assert found.variant is not None
        digest = None if found.version is None else self._kept.get(found.version)
        if digest is not None and found.version is not None:
            self._kept.move_to_end(found.version)
            return digest
        data = found.variant.handle.data
        if data is None or len(data) > _AT_ONCE_BYTES:
            raise BlockingIOError
        return self._keep(found.version, self.hash(data))

    async def find(self, found: Found) -> Digest:
        """The same, computed where it is not known. Several who ask share one computation.

        It ends when nobody waits for it any more. Raises Refused where the file cannot be read, or when no
        thread is free in time to begin.
        """
        try:
            return self.find_at_once(found)
        except BlockingIOError:
            assert found.variant is not None
        version = found.version
        if version is None:
            return await self._compute(found, found.variant.handle)
        shared = self._shared.get(version)
        if shared is None:
            handle = found.variant.handle.share()
            shared = self._shared[version] = _Shared(self._compute(found, handle), handle)
        shared.waiters += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters:
                del self._shared[version]
                shared.task.cancel()

    @staticmethod
    def hash(data: bytes) -> Digest:
        """The digest of a content."""
        return Digest(sha256(data).digest())

    def _keep(self, version: Version | None, digest: Digest) -> Digest:
        if version is not None:
            self._kept[version] = digest
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        return digest

    async def _compute(self, found: Found, handle: Handle) -> Digest:
        queue_s: float | None = self._disk.queue_s
        try:
            if handle.data is not None:
                # Read when the file was found, between two equal states of it.
                key, work = found.candidate.segments, partial(self.hash, handle.data)
                return self._keep(found.version, await self._disk.run(key, work, queue_s=queue_s))
            hashing = _Hashing(found.version)
            lane = _LANE, None if found.version is None else found.version[0]
            digest = None
            while digest is None:
                turn = partial(handle.call_in_thread, hashing.take_turn)
                digest = await self._disk.run(lane, turn, queue_s=queue_s)
                queue_s = None
        except (OSError, Busy) as error:
            raise Refused(503) from error
        return self._keep(hashing.version if digest.is_of_content else None, digest)


class _Shared:
    """A computation that several wait for; it owns `handle`."""

    __slots__ = ("task", "waiters")

    def __init__(self, computation: Coroutine[object, object, Digest], handle: Handle) -> None:
        self.waiters = 0
        self.task = asyncio.get_running_loop().create_task(computation)
        self.task.add_done_callback(lambda _: handle.close())


class _Hashing:
    """A file of the version `expected` on its way through the hash; in a thread, but one at a time.

    `version` is the one that its digest can be kept by.
    """

    __slots__ = ("_before", "_expected", "_hash", "_position", "version")

    def __init__(self, expected: Version | None) -> None:
        self._expected = expected
        self._before: Version | None = None
        self._hash = sha256()
        self._position = 0
        self.version: Version | None = None

    def take_turn(self, descriptor: int) -> Digest | None:
        """Hashes a part of the file; the digest when it was the last one, or when the file has changed."""
        status = os.fstat(descriptor)
        before = get_version(status)
        if self._before is None:
            self._before = self._expected or before
            # Before its content is read: what changes after that has to have another time.
            self.version = find_lasting_version(status, find_racy_ns())
            if self.version is None and status.st_size > _MAX_RACY_BYTES:
                return _hash_version(before)
        if before != self._before:
            return _hash_version(before)
        stop = min(self._position + _TURN_BYTES, status.st_size)
        while self._position < stop:
            piece = read_at(descriptor, self._position, min(_PIECE_BYTES, stop - self._position))
            if not piece:
                break
            self._hash.update(piece)
            self._position += len(piece)
        now = get_version(os.fstat(descriptor))
        if now != self._before or self._position < stop:
            return _hash_version(now)
        return Digest(self._hash.digest()) if stop == status.st_size else None


def _hash_version(version: Version) -> Digest:
    """What stands for the digest of a file that changes. On another machine it is another one, but here it is
    as exact as the times of the file system."""
    return Digest(sha256(repr(version).encode()).digest(), is_of_content=False)
