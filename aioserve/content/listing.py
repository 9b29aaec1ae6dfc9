"""A folder as a list: which of its entries are shown, and the answer that they make.

What is in a folder is read by `folder`; how a list looks is for `rendering`.

What one list holds in memory: the names of the whole folder (150 bytes each), the states of the entries that
are shown, and pieces of what is rendered. States of the whole folder are asked for where the order needs
them, and in a folder that is small enough to tell its size.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from functools import partial
from weakref import WeakValueDictionary

from aioserve.content.files import Candidate, Files, Kind, Refused, find_status
from aioserve.content.folder import Entry, Folder, FolderVersion, Names, TooManyNames
from aioserve.content.readme import MAX_README_BYTES, Readme
from aioserve.content.rendering import Listed, Renderer
from aioserve.protocol.message import BadRequest, Request
from aioserve.protocol.plan import Body, Pieces, Plan, plan_error, plan_listing
from aioserve.protocol.target import Target
from aioserve.protocol.view import CONTENT_TYPES, Form, Sort, View, parse_view

# In a larger folder only the entries that are shown are looked at: a look takes some microseconds, and there
# may be a hundred thousand.
_MAX_LOOKED_AT = 10_000

# The names of large folders are kept for whoever asks for the next page, as long as the folder says that
# they are the same. Smaller ones are read again in a millisecond.
_MIN_KEPT_NAMES = 1_000
_MAX_KEPT_NAMES = 300_000

# After this the answer begins without an ETag, and so without what has to be known for it.
_PATIENCE_S = 0.1

# Such an answer begins with a blank, which means nothing in these forms. A text waits for its names.
_MAY_BEGIN_BLANK = (Form.HTML, Form.JSON, Form.NGINX)

# What is rendered in one call to a thread.
_PIECE_BYTES = 64 * 1024


class Listings:
    """The lists of the folders of one site.

    Names with a dot in front are shown if `hidden`; at the root, those in `hide` never are. `prefix` is where
    the site stands in the one that clients see. `patience_s` is how long an answer waits for its ETag; None
    is as long as that takes.
    """

    def __init__(
        self,
        files: Files,
        renderer: Renderer,
        *,
        hidden: bool = False,
        hide: Collection[str] = (),
        prefix: tuple[bytes, ...] = (),
        patience_s: float | None = _PATIENCE_S,
    ) -> None:
        self._files = files
        self._renderer = renderer
        self._hidden = hidden
        self._hide = frozenset(hide)
        self._prefix = prefix
        self._patience_s = patience_s
        self._kept: OrderedDict[FolderVersion, Names] = OrderedDict()
        self._reading: WeakValueDictionary[FolderVersion, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, request: Request, target: Target, now_s: int) -> Listing | None:
        """The answer to GET or HEAD of the folder `target`, which the caller closes; None when there is none.

        Raises Refused when the folder cannot be read.
        """
        folder = await self._files.open_folder(target.segments)
        if folder is None:
            return None
        listing = Listing(self, folder, request, target, now_s)
        try:
            await listing.decide()
        except BaseException:
            await listing.close()
            raise
        return listing

    async def _read_names(self, folder: Folder) -> Names:
        """The names of the folder, as they are now: read, or kept since they were read."""
        version = await folder.find_version()
        # One reads, the others have it from him.
        lock = self._reading.setdefault(version, asyncio.Lock())
        async with lock:
            names = self._kept.get(version)
            if names is not None:
                self._kept.move_to_end(version)
                return names
            names = await folder.read_names(
                hidden=self._hidden, hide=frozenset() if folder.segments else self._hide
            )
            self._keep(names)
            return names

    def _keep(self, names: Names) -> None:
        if names.version is None or not _MIN_KEPT_NAMES <= names.total <= _MAX_KEPT_NAMES:
            return
        self._kept[names.version] = names
        while sum(kept.total for kept in self._kept.values()) > _MAX_KEPT_NAMES:
            self._kept.popitem(last=False)


class Listing:
    """The answer of a folder: `plan`, and what it needs until it is closed."""

    plan: Plan

    def __init__(
        self, listings: Listings, folder: Folder, request: Request, target: Target, now_s: int
    ) -> None:
        self._listings = listings
        self._folder = folder
        self._request = request
        self._target = target
        self._now_s = now_s
        self._making: asyncio.Task[tuple[Listed, str]] | None = None
        self._pieces: AsyncGenerator[bytes, None] | None = None

    async def decide(self) -> None:
        """Makes the plan. Raises Refused."""
        request = self._request
        try:
            view = parse_view(self._target.query, request.fields.get("accept"))
        except BadRequest as refused:
            self.plan = plan_error(request, refused.status)
            return
        self._making = making = asyncio.create_task(self._make(view))
        # Who asks for "the same" or "another" has to be told, however long it takes.
        asks = not {"if-match", "if-none-match"}.isdisjoint(request.fields.values)
        may_begin = view.form in _MAY_BEGIN_BLANK and not asks
        await asyncio.wait([making], timeout=self._listings._patience_s if may_begin else None)
        etag = None
        if making.done():
            try:
                _, etag = making.result()
            except TooManyNames:
                self.plan = plan_error(request, 403)
                return
            except OSError as error:
                raise Refused(find_status(error) or 404) from error
        fields = self._listings._renderer.fields if view.form is Form.HTML else ()
        make_body = partial(self._make_body, making, view)
        self.plan = plan_listing(
            request, etag, CONTENT_TYPES[view.form], fields, make_body, now_s=self._now_s
        )

    async def close(self) -> None:
        """Lets everything go, however far it has come."""
        try:
            if self._pieces is not None:
                await self._pieces.aclose()
            if self._making is not None:
                self._making.cancel()
                await asyncio.wait([self._making])
                if not self._making.cancelled():
                    # Looked at, so that nobody reports it as unseen: it has been answered, or nobody waits.
                    self._making.exception()
        finally:
            self._folder.close()

    def _make_body(self, making: asyncio.Task[tuple[Listed, str]], view: View) -> Body:
        self._pieces = self._render(making, view)
        return Pieces(self._pieces, None)

    async def _render(
        self, making: asyncio.Task[tuple[Listed, str]], view: View
    ) -> AsyncGenerator[bytes, None]:
        if not making.done():
            yield b"\n"
        try:
            listed, _ = await making
        except TooManyNames as error:
            raise OSError("too many names") from error
        pieces = await self._folder.compute(partial(self._listings._renderer.render, listed, view))
        while piece := await self._folder.compute(partial(_take_piece, pieces)):
            yield piece

    async def _make(self, view: View) -> tuple[Listed, str]:
        """What the list shows, and its entity tag."""
        folder = self._folder
        names = await folder.follow_links(await self._listings._read_names(folder))
        entries, size_bytes = await _find_entries(folder, names, view)
        readme = await self._find_readme(names) if view.form is Form.HTML and not view.offset else None
        path = (*self._listings._prefix, *self._target.segments)
        listed = Listed(path, entries, len(names.folders), len(names.files), size_bytes, readme)
        etag = await folder.compute(partial(_format_etag, listed, view, self._listings._renderer.version))
        return listed, etag

    async def _find_readme(self, names: Names) -> Readme | None:
        name = names.readme
        if name is None:
            return None
        candidate = Candidate((*self._target.segments, name), Kind.FILE)
        try:
            found = await self._listings._files.find([candidate])
        except Refused:
            return None
        if found is None or found.variant is None:
            return None
        try:
            variant = found.variant
            data = await variant.handle.read(0, min(variant.size_bytes, MAX_README_BYTES))
            return Readme(name, data, is_whole=len(data) == variant.size_bytes)
        except OSError:
            return None
        finally:
            found.close()


async def _find_entries(folder: Folder, names: Names, view: View) -> tuple[list[Entry], int | None]:
    """The entries that `view` shows, and the size of all files where that is known."""
    stop = None if view.limit is None else view.offset + view.limit
    links = frozenset(names.links)
    by_name = view.sort is Sort.NAME
    parts = [names.folders, names.files]
    if by_name and view.is_descending:
        parts = [part[::-1] for part in parts]
    ordered = [*parts[0], *parts[1]]
    if by_name and view.form is Form.TEXT:
        # Names are all that it shows.
        part = ordered[view.offset : stop]
        count = len(names.folders) - view.offset
        return await folder.compute(partial(_make_bare_entries, part, count, links)), None
    if by_name and (view.form is not Form.HTML or names.total > _MAX_LOOKED_AT):
        return await folder.look_at(ordered[view.offset : stop], links), None
    entries = await folder.look_at(ordered, links)
    size_bytes = sum(entry.size_bytes for entry in entries if not entry.is_folder)
    if not by_name:
        entries = await folder.compute(partial(_sort_entries, entries, view))
    return entries[view.offset : stop], size_bytes


def _make_bare_entries(names: Sequence[str], folders: int, links: Collection[str]) -> list[Entry]:
    return [
        Entry(os.fsencode(name), index < folders, name in links, 0, 0, 0) for index, name in enumerate(names)
    ]


def _sort_entries(entries: Sequence[Entry], view: View) -> list[Entry]:
    """Folders first, in the order of `view`; equal ones stay. The size of a folder means nothing."""
    folders = [entry for entry in entries if entry.is_folder]
    files = [entry for entry in entries if not entry.is_folder]
    if view.sort is Sort.SIZE:
        files.sort(key=lambda entry: entry.size_bytes, reverse=view.is_descending)
    else:
        for part in (folders, files):
            part.sort(key=lambda entry: entry.mtime_ns, reverse=view.is_descending)
    return folders + files


def _format_etag(listed: Listed, view: View, version: str) -> str:
    """A strong entity tag: of all that the list is made of, and of what makes it."""
    digest = hashlib.blake2b(digest_size=16)
    entries = listed.entries
    digest.update(repr((version, view, *listed._replace(entries=[], readme=None))).encode())
    digest.update(b"/".join([entry.name for entry in entries]))
    digest.update(array("q", [entry.size_bytes for entry in entries]).tobytes())
    digest.update(array("q", [entry.mtime_ns for entry in entries]).tobytes())
    digest.update(
        array("L", [entry.mode << 2 | entry.is_folder << 1 | entry.is_symlink for entry in entries])
    )
    if listed.readme is not None:
        digest.update(listed.readme.name + b"/" + listed.readme.data)
    return f'"{digest.hexdigest()}"'


def _take_piece(pieces: Iterator[bytes]) -> bytes:
    """The next bytes of the list, some 64 KiB; none at its end."""
    taken: list[bytes] = []
    size_bytes = 0
    for piece in pieces:
        taken.append(piece)
        size_bytes += len(piece)
        if size_bytes >= _PIECE_BYTES:
            break
    return b"".join(taken)
