"""What is in a folder: its names by kind, in order, and the state of those that are shown.

A folder is read in slices, each a call of its own to a thread, so that a large one leaves the threads to
others in between. What is shown of it, and how, is for `listing`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import repeat
from threading import Lock
from typing import NamedTuple, TypeVar

from aioserve.content.containment import OpenFolder
from aioserve.content.disk import Busy, Disk

T = TypeVar("T")

# How many names are read, and how many states are asked for, in one call to a thread: some milliseconds.
_SLICE_NAMES = 10_000
_SLICE_STATES = 2_000

# A name costs about 150 bytes while its folder is listed. Whoever has more wants a database.
MAX_NAMES = 1_000_000

# As in `files`: what has changed so lately may change again without another time.
_RACY_NS = 2_000_000_000

# A number is compared by its value when it has up to so many digits.
_MAX_DIGITS = 20

# Bytes that separate when a text is split: of these, no byte is left in what is split.
_BLANKS = b"\t\n\v\f\r "
_KEEP_DIGITS = bytes(byte if chr(byte) in "0123456789" else 0x20 for byte in range(256))
_KEEP_OTHERS = bytes(
    0x20 if chr(byte) in "0123456789" else _BLANKS.index(byte) + 1 if byte in _BLANKS else byte
    for byte in range(256)
)

_README_NAMES = ("readme.md", "readme.markdown", "readme.txt", "readme")

FolderVersion = tuple[int, int, int, int]


class TooManyNames(Exception):
    """The folder holds more than a listing can."""


class Entry(NamedTuple):
    """A name in a folder, and the state of what it leads to; of a link, `mode` is its own."""

    name: bytes
    is_folder: bool
    is_symlink: bool
    size_bytes: int
    mtime_ns: int
    mode: int


class Names(NamedTuple):
    """The names of a folder by their kind, in their natural order, as `os.fsdecode` makes them.

    `links` are symbolic links, of which only a look tells what they lead to. `version` is None for a folder
    that has been changed so lately that it may change again unseen.
    """

    folders: list[str]
    files: list[str]
    links: list[str]
    version: FolderVersion | None

    @property
    def total(self) -> int:
        return len(self.folders) + len(self.files) + len(self.links)

    @property
    def readme(self) -> bytes | None:
        """The file that describes the folder, if there is one."""
        found = {
            name.lower(): name
            for name in (*self.files, *self.links)
            if name[:1] in "rR" and name[:6].lower() == "readme"
        }
        return next((os.fsencode(found[name]) for name in _README_NAMES if name in found), None)


class Folder:
    """An opened folder whose content is asked for in threads; whoever opened it closes it.

    A call that still runs in a thread keeps it open until it ends.
    """

    def __init__(
        self, opened: OpenFolder, disk: Disk, segments: tuple[bytes, ...], release: Callable[[], None]
    ) -> None:
        self.segments = segments
        self._opened = opened
        self._disk = disk
        self._release = release
        self._lock = Lock()
        self._users = 1
        self._is_closed = False

    def close(self) -> None:
        """Lets it go; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._drop()

    async def call(self, function: Callable[[OpenFolder], T]) -> T:
        """What `function` gives for the folder, called in a thread. Raises OSError when the disk fails."""
        try:
            return await self._disk.run(self.segments, partial(self._call_in_thread, function), queue_s=None)
        except Busy as busy:
            raise OSError(errno.EBUSY, "The disk is closed") from busy

    async def find_version(self) -> FolderVersion:
        return _version(await self.call(OpenFolder.look))

    async def read_names(self, *, hidden: bool, hide: Collection[str]) -> Names:
        """All names that may be shown: those with a dot in front only if `hidden`, and none of `hide`.

        What is neither a file nor a folder is left out: it cannot be asked for. Raises OSError, and
        TooManyNames.
        """
        racy_ns = time.time_ns() - _RACY_NS
        before = await self.call(OpenFolder.look)
        found = Names([], [], [], None)
        while await self.call(partial(_read_slice, found, hidden, hide)):
            if found.total > MAX_NAMES:
                raise TooManyNames
        after = await self.call(OpenFolder.look)
        is_lasting = max(after.st_mtime_ns, after.st_ctime_ns) <= racy_ns and _version(after) == _version(
            before
        )
        folders, files = [await self.call(partial(_sort, names)) for names in (found.folders, found.files)]
        return Names(folders, files, found.links, _version(after) if is_lasting else None)

    async def follow_links(self, names: Names) -> Names:
        """The same with each link under what it leads to, and without those that may not be followed."""
        if not names.links:
            return names
        folders, files = [*names.folders], [*names.files]
        for start in range(0, len(names.links), _SLICE_STATES):
            links = names.links[start : start + _SLICE_STATES]
            more_folders, more_files = await self.call(partial(_follow, links))
            folders += more_folders
            files += more_files
        folders, files = [await self.call(partial(_sort, texts)) for texts in (folders, files)]
        return names._replace(folders=folders, files=files)

    async def look_at(self, names: Sequence[str], links: Collection[str]) -> list[Entry]:
        """The states of `names`, in their order, without those that have gone meanwhile."""
        entries: list[Entry] = []
        for start in range(0, len(names), _SLICE_STATES):
            entries += await self.call(partial(_look_at, names[start : start + _SLICE_STATES], links))
        return entries

    async def compute(self, function: Callable[[], T]) -> T:
        """What `function` gives, called in a thread: what takes long would keep the loop from others."""
        return await self.call(lambda _: function())

    def _call_in_thread(self, function: Callable[[OpenFolder], T]) -> T:
        with self._lock:
            if not self._users:
                raise ValueError("the folder is closed")
            self._users += 1
        try:
            return function(self._opened)
        finally:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self._opened.close()
            self._release()


def sort_keys(names: Iterable[str]) -> list[bytes]:
    """For each name what it is sorted by: without regard to case, and numbers by their value.

    All names are treated as one text, by what the interpreter does in one go: a hundred thousand at a time
    keep somebody waiting.
    """
    text = "/".join(("", *names, "")).casefold().encode("utf-8", "surrogatepass")
    digits = text.translate(_KEEP_DIGITS).split()
    # Between two numbers stands something else, and so it does before the first and behind the last.
    pieces = [b""] * (2 * len(digits) + 1)
    pieces[::2] = text.translate(_KEEP_OTHERS).split()
    width = min(max(map(len, digits), default=0), _MAX_DIGITS)
    pieces[1::2] = map(bytes.zfill, digits, repeat(width))
    return b"".join(pieces).split(b"/")[1:-1]


# --- in a thread ---


def _read_slice(found: Names, hidden: bool, hide: Collection[str], folder: OpenFolder) -> bool:
    """Adds the next names to `found`; False at the end."""
    entries = folder.read_entries(_SLICE_NAMES)
    for entry in entries:
        name = entry.name
        if (name[0] == "." and not hidden) or name in hide:
            continue
        if entry.is_file(follow_symlinks=False):
            found.files.append(name)
        elif entry.is_dir(follow_symlinks=False):
            found.folders.append(name)
        elif entry.is_symlink():
            found.links.append(name)
    return len(entries) == _SLICE_NAMES


def _sort(names: list[str], folder: OpenFolder) -> list[str]:
    # Names that differ in case alone keep an order of their own.
    names.sort()
    keys = sort_keys(names)
    return [names[index] for index in sorted(range(len(names)), key=keys.__getitem__)]


def _follow(links: Sequence[str], folder: OpenFolder) -> tuple[list[str], list[str]]:
    folders, files = [], []
    for name in links:
        try:
            mode = folder.follow(name).st_mode
        except OSError:
            continue  # it leads nowhere that could be asked for
        if stat.S_ISDIR(mode):
            folders.append(name)
        elif stat.S_ISREG(mode):
            files.append(name)
    return folders, files


def _look_at(names: Sequence[str], links: Collection[str], folder: OpenFolder) -> list[Entry]:
    entries = []
    for name in names:
        is_link = name in links
        try:
            status = folder.follow(name) if is_link else folder.look_at(name)
        except OSError:
            continue  # it has gone since its name was read
        mode = status.st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            continue  # likewise, and something else has its name
        entries.append(
            Entry(
                os.fsencode(name),
                stat.S_ISDIR(mode),
                is_link,
                status.st_size,
                status.st_mtime_ns,
                stat.S_IFLNK | 0o777 if is_link else mode,
            )
        )
    return entries


def _version(status: os.stat_result) -> FolderVersion:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
