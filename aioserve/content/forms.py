"""The compressed forms of files that are made here: once for each version, kept in the cache beside it.

Which form a client gets is decided in `site`; how bytes are compressed is `compression`. Making one takes a
thread of the disk, of which only a few are for this.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Hashable
from functools import partial

from aioserve.content.cache import Kept, Version, make_key, share
from aioserve.content.compression import Compressor, Decompressor, compress, list_codings
from aioserve.content.disk import Busy, Disk
from aioserve.content.files import Files, Found, get_version
from aioserve.content.handle import OpenFile
from aioserve.protocol.variant import Handle, Variant

# What is smaller fits into a packet or two as it is; what is larger would occupy a thread for too long.
MIN_BYTES = 1024
MAX_BYTES = 8 * 1024 * 1024

# A form that saves less than a twentieth is not worth its place in memory.
_WORTH = 0.95

# Seconds for which the first client waits; until then it is hardly noticed.
_WAIT_S = 0.05

# Files that are remembered as not worth it.
_MAX_WORTHLESS = 4096

_PIECE_BYTES = 256 * 1024

# The lane of the disk's threads in which forms are made.
_LANE = "forms"


class Forms:
    """Makes forms of files that `files` has found. Belongs to one event loop."""

    def __init__(self, files: Files, disk: Disk) -> None:
        self._files = files
        self._disk = disk
        self._codings: tuple[str, ...] | None = None
        self._making: dict[Hashable, asyncio.Task[Variant | None]] = {}
        self._worthless: dict[Hashable, Version | None] = {}

    async def load(self) -> None:
        """Loads what compresses."""
        if self._codings is None:
            try:
                self._codings = await self._disk.run(_LANE, list_codings, queue_s=None)
            except Busy:
                self._codings = ()

    def close(self) -> None:
        """Makes no more forms; those that are half done are dropped."""
        for task in self._making.values():
            task.cancel()

    @property
    def codings(self) -> tuple[str, ...]:
        """The codings in which forms can be made. Raises BlockingIOError before they are loaded."""
        if self._codings is None:
            raise BlockingIOError
        return self._codings

    def may_make(self, found: Found, coding: str) -> bool:
        """Whether that file is of a size to be compressed, and not known to be not worth it."""
        assert found.variant is not None
        if not MIN_BYTES <= found.variant.size_bytes <= MAX_BYTES:
            return False
        key = make_key(found.candidate.segments, coding)
        return found.version is None or self._worthless.get(key) != found.version

    def find(self, found: Found, coding: str) -> Kept | None:
        """The form that is kept of exactly what was found."""
        kept = self._files.cache.find(found.candidate.segments, coding)
        if kept is None or kept.version != found.version or kept.place is not found.place:
            return None
        self._files.cache.touch(kept)
        return kept

    async def make(self, found: Found, coding: str) -> Variant | None:
        """The form, with a handle to be closed; None when it is not worth it, or takes too long for now.

        What takes long goes on, and is kept for those who ask later. Several who ask share one.
        """
        variant = found.variant
        assert variant is not None
        key = found.candidate.segments, coding, variant.mtime_ns, variant.size_bytes
        task = self._making.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._make(found, variant, coding))
            self._making[key] = task
            task.add_done_callback(lambda _: self._making.pop(key))
        await asyncio.wait([task], timeout=_WAIT_S)
        form = task.result() if task.done() and not task.cancelled() else None
        return None if form is None else share(form)

    async def _make(self, found: Found, variant: Variant, coding: str) -> Variant | None:
        handle = variant.handle.share()
        try:
            data = await _read_whole(handle, found)
            if data is None:
                return None
            packed = await self._disk.run(_LANE, partial(compress, coding, data), queue_s=None)
        except (OSError, Busy):
            # It is sent as it is; whoever does that meets the same trouble, if it lasts.
            return None
        finally:
            handle.close()
        if len(packed) > len(data) * _WORTH:
            if len(self._worthless) >= _MAX_WORTHLESS:
                self._worthless.clear()
            self._worthless[make_key(found.candidate.segments, coding)] = found.version
            return None
        form = Variant(coding, len(packed), variant.mtime_ns, OpenFile(self._disk, (0, 0), data=packed))
        if found.version is not None and found.kept is not None:
            self._files.cache.keep(found.candidate.segments, found.place, found.version, form)
        return form

    def compress(self, variant: Variant, coding: str) -> AsyncGenerator[bytes, None]:
        """The content of a file, compressed while it is read. Raises OSError when it is no longer whole."""
        return _compress(self._disk, variant, coding)


async def _compress(disk: Disk, variant: Variant, coding: str) -> AsyncGenerator[bytes, None]:
    run = partial(disk.run, _LANE, queue_s=None)
    try:
        compressor = await run(partial(Compressor, coding))
        for start in range(0, variant.size_bytes, _PIECE_BYTES):
            yield await run(partial(compressor.feed, await _read_piece(variant, start)))
        yield await run(compressor.finish)
    except Busy as busy:
        raise OSError(errno.EBUSY, "the disk is closed") from busy


async def decompress(disk: Disk, variant: Variant, coding: str) -> AsyncGenerator[bytes, None]:
    """The content of a file that is in `coding`, without that. Raises OSError where it is malformed."""
    run = partial(disk.run, _LANE, queue_s=None)
    try:
        decompressor = await run(partial(Decompressor, coding))
        for start in range(0, variant.size_bytes, _PIECE_BYTES):
            pieces = decompressor.feed(await _read_piece(variant, start))
            while piece := await run(partial(next, pieces, b"")):
                yield piece
        await run(decompressor.finish)
    except Busy as busy:
        raise OSError(errno.EBUSY, "the disk is closed") from busy


async def _read_whole(handle: Handle, found: Found) -> bytes | None:
    """The whole content of a file as it was found; None when it has changed since, or still may."""
    assert found.variant is not None
    if handle.data is not None:
        return handle.data
    if found.version is None:
        return None
    data = await handle.read(0, found.variant.size_bytes)
    is_same = await handle.call(lambda descriptor: get_version(os.fstat(descriptor)) == found.version)
    return data if is_same and len(data) == found.variant.size_bytes else None


async def _read_piece(variant: Variant, start: int) -> bytes:
    size_bytes = min(_PIECE_BYTES, variant.size_bytes - start)
    data = await variant.handle.read(start, size_bytes)
    if len(data) < size_bytes:
        raise OSError(errno.EIO, "it has become shorter")
    return data
