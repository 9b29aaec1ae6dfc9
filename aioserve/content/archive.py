"""A folder as an archive that is made while it is sent: what belongs to it, and how its bytes are read.

The folder is walked before the head of the answer, which says how long the archive is, and the files are read
when their turn comes. A file that is another one by then ends the download: an archive is complete, or it is
cut off. Where the bytes lie in the archive is said by `protocol/archive_layout` and its two forms; how a
download is answered, by `protocol/download`.

All of it happens in threads of the disk, in steps that take a moment, so that a client that leaves stops it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import zlib
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from hashlib import blake2b
from struct import Struct
from threading import Lock
from typing import Generic, NamedTuple, Protocol, TypeVar

from aioserve.content.cache import Version
from aioserve.content.containment import Root
from aioserve.content.disk import Busy, Disk
from aioserve.content.files import Files, Refused, find_lasting_version, find_racy_ns, find_status
from aioserve.content.handle import read_at
from aioserve.protocol.archive_layout import Layout, Member, Part
from aioserve.protocol.download import (
    Form,
    find_asked_form,
    plan_archive,
    plan_too_large,
    plan_unknown_form,
)
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Pieces, Plan, plan_error
from aioserve.protocol.tar_layout import TarLayout
from aioserve.protocol.target import Target
from aioserve.protocol.zip_layout import ZipLayout

T = TypeVar("T")

# Changed whenever the same folder gives other bytes than before: it is a part of the entity tag.
_FORMAT = 1

# What a folder may hold to be one download. Each member costs about 60 bytes of memory and its path, for as
# long as the download takes.
MAX_MEMBERS = 1_000_000

# Archives at a time; each keeps one thread of the disk busy, and with compression about one core.
AT_ONCE = 4

# What is read, compressed or joined at a time. A piece that is sent is less than twice as long, and there are
# two of them for each download: one on its way, and the one that comes next.
PIECE_BYTES = 128 * 1024

# Files whose sums are remembered, at about 300 bytes each.
_MAX_SUMS = 65_536

# Looks at names, and reads that give nothing to send, that make one step.
_STEP_LOOKS = 1000
_STEP_READS = 16

# The names of files that could not be read; more of them are counted.
_MAX_NOTED = 10_000

# What cannot be read but is there: it is left out and noted. The last is a path that is too long to open.
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG}

# Levels at which compression keeps up with a network: the defaults of gzip and zstd.
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_GZIP_WINDOW = 31  # zlib's way to say: in the format of gzip, whose header has no name and no time

_DIGESTED = Struct("<QqHQ")
_INT64 = range(-(1 << 63), 1 << 63)

# What Linux opens by one path; where all links are followed, other systems open a quarter of that.
_MAX_PATH_BYTES = 4095 if sys.platform == "linux" else 1023


class TooLarge(Exception):
    """A folder holds more than an archive may, which is `max_members` at the most."""

    def __init__(self, max_members: int) -> None:
        super().__init__(max_members)
        self.max_members = max_members


class _Changed(OSError):
    """A file is not what it was when the folder was walked."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "A file has changed since the folder was walked")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def list_forms() -> tuple[Form, ...]:
    """The forms that this installation can make: for zstd it needs Python 3.14, or backports.zstd."""
    return tuple(form for form in Form if form is not Form.TAR_ZST or _find_zstd() is not None)


class Archives:
    """The folders of `files` as archives, read on `disk`.

    Names for which `leaves_out` says so are left out, beside the hidden ones. `max_members` is how much one
    may hold, `at_once` how many there may be at a time.
    """

    def __init__(
        self,
        files: Files,
        disk: Disk,
        *,
        leaves_out: Callable[[tuple[bytes, ...]], bool] = lambda segments: False,
        max_members: int = MAX_MEMBERS,
        at_once: int = AT_ONCE,
    ) -> None:
        self._leaves_out = leaves_out
        self._files = files
        self._disk = disk
        self._max_members = max_members
        self._places = asyncio.Semaphore(at_once)
        self._sums = _Sums()

    def is_asked(self, target: Target) -> bool:
        """Whether a folder is wanted as a download."""
        return target.is_folder and find_asked_form(target.query) is not None

    async def answer(self, request: Request, target: Target, now_s: int) -> Download | None:
        """What is sent to GET or HEAD of a folder that is wanted as a download; None when there is none.

        The caller closes its pieces, and then the archive.
        """
        asked, forms = find_asked_form(target.query), list_forms()
        if asked not in forms:
            return Download(plan_unknown_form(request, forms))
        try:
            archive = await self.open(target.segments, Form(asked))
        except TooLarge as error:
            return Download(plan_too_large(request, error.max_members))
        except Refused as refused:
            return Download(plan_error(request, refused.status))
        return None if archive is None else Download(plan_archive(request, archive, now_s=now_s), archive)

    async def open(self, segments: tuple[bytes, ...], form: Form) -> FolderArchive | None:
        """The archive of the folder at `segments`, which the caller closes; None when there is none.

        Raises Refused when the folder cannot be read, or when no archive may be begun for now, and TooLarge.
        """
        if self._files.hides(segments):
            return None
        await self._take_place()
        is_begun = False
        try:
            contents = Contents(ZipLayout() if form is Form.ZIP else TarLayout(), segments)
            walk = _Walk(self._files, contents, self._max_members, self._leaves_out)
            steps = _Steps(self._disk, walk.run(form))
            try:
                while await steps.advance(self._disk.queue_s) is not None:
                    pass
            except Busy as busy:
                raise Refused(503) from busy
            finally:
                steps.close()
            if not len(contents.layout):
                return None
            is_begun = True
            return FolderArchive(self._files, self._disk, self._sums, contents, form, self._places.release)
        finally:
            if not is_begun:
                self._places.release()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._disk.queue_s if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise Refused(503) from None


class Download(NamedTuple):
    """The answer to a request for an archive, and what has to be closed after it."""

    plan: Plan
    archive: FolderArchive | None = None

    @property
    def pieces(self) -> AsyncGenerator[bytes, None] | None:
        return self.plan.body.pieces if isinstance(self.plan.body, Pieces) else None


class Contents:
    """What an archive consists of: the members in their order, and by what each file is known again."""

    def __init__(self, layout: Layout, segments: tuple[bytes, ...]) -> None:
        self.layout = layout
        self.segments = segments
        # Unpacked, everything lies in one folder. That of the root has a name that tells nobody anything.
        self.top = segments[-1] if segments else b"files"
        self.devices = array("Q")
        self.inodes = array("Q")
        self.note = b""
        """The content of the last member, when some files could not be read."""
        self.etag = ""

    def append(self, name: bytes, status: os.stat_result) -> None:
        is_folder = stat.S_ISDIR(status.st_mode)
        size_bytes = 0 if is_folder else status.st_size
        self.layout.append(Member(name, size_bytes, _find_mtime(status), status.st_mode, is_folder))
        self.devices.append(status.st_dev)
        self.inodes.append(status.st_ino)

    def append_note(self, name: bytes, note: bytes) -> None:
        self.note = note
        self.layout.append(Member(name, len(note), self.layout[0].mtime_ns, 0o644, False))

    def has_note_at(self, index: int) -> bool:
        return index == len(self.inodes)

    def find_segments(self, index: int) -> tuple[bytes, ...]:
        """Where the file lies below the root."""
        below = self.layout[index].name[len(self.top) + 1 :]
        return (*self.segments, *below.split(b"/"))

    def is_unchanged(self, index: int, status: os.stat_result) -> bool:
        member = self.layout[index]
        return (
            stat.S_ISREG(status.st_mode)
            and self.devices[index] == status.st_dev
            and self.inodes[index] == status.st_ino
            and member.size_bytes == status.st_size
            and member.mtime_ns == _find_mtime(status)
            and member.mode == status.st_mode & 0o777
        )


def _find_mtime(status: os.stat_result) -> int:
    """In nanoseconds, as far as 64 bits hold them: some file systems know the year 2400."""
    return min(max(status.st_mtime_ns, _INT64.start), _INT64.stop - 1)


# ---- the walk --------------------------------------------------------------------------------------------


class _Folder(NamedTuple):
    """A folder to be walked: its path in the archive, where it lies, and the identities of those above it."""

    name: bytes
    segments: tuple[bytes, ...]
    above: _Above | None


class _Above(NamedTuple):
    identity: tuple[int, int]
    above: _Above | None


class _Walk:
    """Fills `contents` with what lies below its folder: a folder, then its files, then its folders, by name.

    Links are followed as the root follows them, but not into a folder in which they lie.
    """

    def __init__(
        self,
        files: Files,
        contents: Contents,
        max_members: int,
        leaves_out: Callable[[tuple[bytes, ...]], bool],
    ) -> None:
        self._files = files
        self._contents = contents
        self._max_members = max_members
        self._count = 0
        self._leaves_out = leaves_out
        self._unreadable: list[bytes] = []
        self._unreadable_count = 0
        self._top_names: set[bytes] = set()

    def run(self, form: Form) -> Generator[bool, None, None]:
        """Each step looks at some names. Nothing is appended when there is no folder. Raises Refused."""
        contents = self._contents
        with self._files.use_root() as root:
            if root is None:
                return
            waiting = [_Folder(contents.top, contents.segments, None)]
            while waiting:
                folder = waiting.pop()
                below: list[_Folder] = []
                yield from self._walk_folder(root, folder, below)
                waiting += reversed(below)
        if not len(contents.layout):
            return
        if self._unreadable_count:
            contents.append_note(self._find_note_name(), self._format_note())
        yield from self._digest(form)

    def _walk_folder(self, root: Root, folder: _Folder, below: list[_Folder]) -> Generator[bool, None, None]:
        try:
            descriptor = root.open_folder(folder.segments)
        except OSError as error:
            self._leave_out(folder, error)
            return
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            if _is_above(folder.above, identity):
                return  # a link into a folder in which it lies
            try:
                names = self._list_names(descriptor)
            except OSError as error:
                self._leave_out(folder, error)
                return
            self._contents.append(folder.name, status)
            above = _Above(identity, folder.above)
            for count, name in enumerate(names):
                if count % _STEP_LOOKS == 0:
                    yield True
                member = _Folder(folder.name + b"/" + name, (*folder.segments, name), above)
                if self._files.hides(member.segments) or self._leaves_out(member.segments):
                    continue
                if folder.above is None:
                    self._top_names.add(name.lower())
                self._look_at(root, descriptor, name, member, below)
        finally:
            os.close(descriptor)

    def _list_names(self, descriptor: int) -> list[bytes]:
        names = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                names.append(os.fsencode(entry.name))
                # Hidden names are counted too: what one step does must have an end.
                if len(names) > self._max_members:
                    raise TooLarge(self._max_members)
        return sorted(names)

    def _look_at(
        self, root: Root, descriptor: int, name: bytes, member: _Folder, below: list[_Folder]
    ) -> None:
        """Appends a file, or puts a folder to those that are to be walked; leaves out what is neither."""
        try:
            status: os.stat_result | None = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            assert status is not None
            if stat.S_ISLNK(status.st_mode):
                status = _follow(root, member.segments)
            elif stat.S_ISREG(status.st_mode) and not _is_readable(name, descriptor):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if len(b"/".join(member.segments)) > _MAX_PATH_BYTES:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        except OSError as error:
            self._leave_out(member, error)
            return
        if status is None or stat.S_ISDIR(status.st_mode):
            self._count_one()
            below.append(member)
        elif stat.S_ISREG(status.st_mode):
            self._count_one()
            try:
                self._contents.append(member.name, status)
            except OverflowError as error:
                raise TooLarge(self._max_members) from error

    def _leave_out(self, member: _Folder, error: OSError) -> None:
        """Notes what cannot be read. Raises Refused when that says nothing about it alone."""
        status = find_status(error)
        if member.above is None and status is not None:
            raise Refused(status) from error
        if member.above is None or (status is None and error.errno not in _UNREADABLE):
            return
        if error.errno not in _UNREADABLE:
            raise Refused(503) from error
        self._count_one()
        self._unreadable_count += 1
        if len(self._unreadable) < _MAX_NOTED:
            self._unreadable.append(member.name)

    def _count_one(self) -> None:
        self._count += 1
        if self._count > self._max_members:
            raise TooLarge(self._max_members)

    def _find_note_name(self) -> bytes:
        # Without regard to case, since it may be unpacked where that does not count.
        name, number = b"UNREADABLE.txt", 1
        while name.lower() in self._top_names:
            number += 1
            name = b"UNREADABLE-%d.txt" % number
        return self._contents.top + b"/" + name

    def _format_note(self) -> bytes:
        lines = ["The server could not read these, and has left them out:", ""]
        lines += [_make_printable(name) for name in self._unreadable]
        if more := self._unreadable_count - len(self._unreadable):
            lines.append(f"and {more} more")
        return ("\n".join(lines) + "\n").encode()

    def _digest(self, form: Form) -> Generator[bool, None, None]:
        """Makes the entity tag, of all that the bytes depend on: equal copies of a folder have the same."""
        layout = self._contents.layout
        digest = blake2b(f"{_FORMAT} {_describe(form)}\n".encode() + self._contents.note, digest_size=16)
        for index in range(len(layout)):
            if index % _STEP_LOOKS == 0:
                yield True
            name, size_bytes, mtime_ns, mode, is_folder = layout[index]
            digest.update(_DIGESTED.pack(size_bytes, mtime_ns, mode | is_folder << 9, len(name)) + name)
        self._contents.etag = f'"{digest.hexdigest()}-{form}"'


def _follow(root: Root, segments: tuple[bytes, ...]) -> os.stat_result | None:
    """The state of what a link leads to; None for a folder. Raises OSError when it may not be followed."""
    try:
        if root.has_folder(segments):
            return None
    except OSError:
        pass  # whatever else it is, is told by opening it
    descriptor = root.open_file(segments)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _is_above(above: _Above | None, identity: tuple[int, int]) -> bool:
    while above is not None:
        if above.identity == identity:
            return True
        above = above.above
    return False


_HAS_EFFECTIVE_IDS = os.access in os.supports_effective_ids


def _is_readable(name: bytes, folder: int) -> bool:
    return os.access(name, os.R_OK, dir_fd=folder, effective_ids=_HAS_EFFECTIVE_IDS)


def _make_printable(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# ---- the bytes -------------------------------------------------------------------------------------------


class FolderArchive:
    """An archive whose folder has been walked. Its streams are closed before it is."""

    def __init__(
        self,
        files: Files,
        disk: Disk,
        sums: _Sums,
        contents: Contents,
        form: Form,
        release: Callable[[], None],
    ) -> None:
        self.form = form
        self.name = contents.top.decode("utf-8", "replace")
        self.etag = contents.etag
        is_compressed = form in (Form.TAR_GZ, Form.TAR_ZST)
        self.size_bytes = None if is_compressed else contents.layout.size_bytes
        self._files = files
        self._disk = disk
        self._sums = sums
        self._contents = contents
        self._release: Callable[[], None] | None = release

    def close(self) -> None:
        """Lets another archive be begun; a second call does nothing."""
        if self._release is not None:
            self._release()
            self._release = None

    async def stream(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes `[start, stop)`, to the end when that is None; only of a whole one when it is compressed.

        Raises OSError when a file has changed or cannot be read.
        """
        reading = _Reading(self._files, self._sums, self._contents)
        pieces = _join(reading.run(start, self._contents.layout.size_bytes if stop is None else stop))
        if self.size_bytes is None:
            pieces = _compress(pieces, _make_compressor(self.form))
        steps = _Steps(self._disk, pieces)
        ahead = asyncio.ensure_future(_find_piece(steps))
        try:
            while (piece := await ahead) is not None:
                ahead = asyncio.ensure_future(_find_piece(steps))
                yield piece
                del piece
        finally:
            ahead.cancel()
            steps.close()
            await asyncio.wait([ahead])
            if not ahead.cancelled():
                ahead.exception()  # that of a piece which nobody wants any more


async def _find_piece(steps: _Steps[bytes]) -> bytes | None:
    """The next piece that is not empty; None at the end."""
    try:
        while (piece := await steps.advance(None)) == b"":
            pass
    except Busy as busy:
        raise OSError(errno.EBUSY, "No thread is free, or the disk is closed") from busy
    except Refused as refused:
        raise _Changed from refused
    return piece


class _Reading:
    """Makes the bytes of an archive, for one answer."""

    def __init__(self, files: Files, sums: _Sums, contents: Contents) -> None:
        self._files = files
        self._memory = sums
        self._contents = contents
        self._layout = contents.layout
        # Of the files that were read; -1 is none.
        self._sums = array("q")

    def run(self, start: int, stop: int) -> Generator[bytes, None, None]:
        """The bytes in pieces of any size; an empty one after each read that gives nothing to send.

        Raises OSError, and Refused when the root is gone.
        """
        self._sums = array("q", [-1]) * len(self._layout)
        with self._files.use_root() as root:
            if root is None:
                raise _Changed
            for segment in self._layout.list_segments(start, stop):
                begin, end = max(start - segment.start, 0), min(stop, segment.stop) - segment.start
                if segment.part is Part.CONTENT:
                    # What stands behind a content tells its sum, so all of it will be read.
                    needs_sum = stop > segment.stop and self._layout.needs_sum(
                        segment._replace(part=Part.FOOT)
                    )
                    yield from self._read(root, segment.number, begin, end, needs_sum=needs_sum)
                    continue
                crc = 0
                if self._layout.needs_sum(segment):
                    if self._sums[segment.number] < 0:
                        yield from self._read(root, segment.number, 0, 0, needs_sum=True)
                    crc = self._sums[segment.number]
                yield self._layout.format(segment, crc)[begin:end]

    def _read(
        self, root: Root, index: int, start: int, stop: int, *, needs_sum: bool
    ) -> Generator[bytes, None, None]:
        """The bytes `[start, stop)` of a content; all of it is read when its sum is needed and not known."""
        if self._contents.has_note_at(index):
            note = self._contents.note
            self._sums[index] = zlib.crc32(note)
            yield note[start:stop]
            return
        size_bytes = self._layout[index].size_bytes
        try:
            descriptor = root.open_file(self._contents.find_segments(index))
        except OSError as error:
            raise _Changed from error
        try:
            racy_ns = find_racy_ns()
            before = os.fstat(descriptor)
            if not self._contents.is_unchanged(index, before):
                raise _Changed
            version = find_lasting_version(before, racy_ns)
            known = self._memory.find(version) if needs_sum else None
            crc, reads_all = 0, needs_sum and known is None
            at, end = (0, size_bytes) if reads_all else (start, stop)
            while at < end:
                piece = read_at(descriptor, at, min(PIECE_BYTES, end - at))
                if not piece:
                    raise _Changed
                if reads_all:
                    crc = zlib.crc32(piece, crc)
                yield piece[max(start - at, 0) : max(stop - at, 0)]
                at += len(piece)
            # A file that has grown, or was written to while it was read, has another time or length.
            if not self._contents.is_unchanged(index, os.fstat(descriptor)):
                raise _Changed
        finally:
            os.close(descriptor)
        if reads_all:
            self._memory.keep(version, crc)
        self._sums[index] = crc if known is None else known


def _join(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Small pieces as larger ones; an empty one now and then, when there has been nothing for long."""
    waiting: list[bytes] = []
    size_bytes = idle = 0
    with closing(pieces):
        for piece in pieces:
            if piece:
                waiting.append(piece)
                size_bytes += len(piece)
            else:
                idle += 1
            if size_bytes >= PIECE_BYTES or idle >= _STEP_READS:
                joined = waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, size_bytes, idle = [], 0, 0
                del piece
                yield joined
                del joined
    if waiting:
        yield b"".join(waiting)


def _compress(pieces: Generator[bytes, None, None], compressor: _Compressor) -> Generator[bytes, None, None]:
    with closing(pieces):
        for piece in pieces:
            yield compressor.compress(piece)
    yield compressor.flush()


def _make_compressor(form: Form) -> _Compressor:
    if form is Form.TAR_GZ:
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    zstd = _find_zstd()
    if zstd is None:
        raise ValueError("this installation has no zstd")
    return zstd.ZstdCompressor(level=_ZSTD_LEVEL)


def _describe(form: Form) -> str:
    """The form with all that its bytes depend on beside the members."""
    if form is Form.TAR_GZ:
        return f"{form} {zlib.ZLIB_RUNTIME_VERSION} {_GZIP_LEVEL}"
    if form is Form.TAR_ZST and (zstd := _find_zstd()) is not None:
        return f"{form} {zstd.zstd_version} {_ZSTD_LEVEL}"
    return str(form)


class _Zstd(Protocol):
    zstd_version: str

    def ZstdCompressor(self, *, level: int) -> _Compressor: ...  # noqa: N802  # its name there


def _find_zstd() -> _Zstd | None:
    from importlib import import_module

    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


class _Sums:
    """The CRC-32 of files that were read, so that a download that goes on need not read them again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: OrderedDict[Version, int] = OrderedDict()

    def find(self, version: Version | None) -> int | None:
        if version is None:
            return None
        with self._lock:
            crc = self._sums.get(version)
            if crc is not None:
                self._sums.move_to_end(version)
            return crc

    def keep(self, version: Version | None, crc: int) -> None:
        if version is None:
            return
        with self._lock:
            self._sums[version] = crc
            if len(self._sums) > _MAX_SUMS:
                self._sums.popitem(last=False)


class _Steps(Generic[T]):
    """A generator whose steps run in threads of the disk, one at a time."""

    def __init__(self, disk: Disk, steps: Generator[T, None, None]) -> None:
        self._disk = disk
        self._steps = steps
        self._lock = Lock()
        self._is_running = False
        self._is_closed = False

    async def advance(self, queue_s: float | None) -> T | None:
        """What the next step gives; None at the end. Raises what it raises, and Busy as the disk does."""
        return await self._disk.run(self, self._advance, queue_s=queue_s)

    def _advance(self) -> T | None:
        with self._lock:
            if self._is_closed:
                return None
            self._is_running = True
        try:
            return next(self._steps, None)
        finally:
            with self._lock:
                self._is_running = False
                is_closed = self._is_closed
            if is_closed:
                self._steps.close()

    def close(self) -> None:
        """Ends the generator, which closes what it has open: now, or after the step that still runs."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._is_running:
                return
        self._steps.close()
