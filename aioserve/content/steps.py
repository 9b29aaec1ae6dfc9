"""What the story of a request asks for on its way: each step can be taken at once, or waited for.

`site` tells the story, and `response` goes through it. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from aioserve.content.files import Candidate, Files, Found, Refused
from aioserve.content.forms import Forms
from aioserve.protocol.message import Request
from aioserve.protocol.target import Target
from aioserve.protocol.variant import Digest, Variant

if TYPE_CHECKING:  # loaded where they are wanted
    from aioserve.content.archive import Archives, Download, LeavesOut
    from aioserve.content.digests import Digests
    from aioserve.content.listing import Listing, Listings

T = TypeVar("T")


class Step(Protocol):
    """Something that the story needs to go on."""

    def at_once(self) -> object:
        """Gives it without waiting. Raises BlockingIOError when that cannot be."""

    async def wait(self) -> object:
        """Gives it. Raises Refused."""


Story = Generator[Step, Any, T]


class Find(NamedTuple):
    files: Files
    candidates: Sequence[Candidate]
    codings: Sequence[str]

    def at_once(self) -> Found | None:
        return self.files.find_at_once(self.candidates, self.codings)

    async def wait(self) -> Found | None:
        return await self.files.find(self.candidates, self.codings)


class FindPage(NamedTuple):
    """The page of an error. It is not waited for: the disk may be what the error is about."""

    files: Files
    page: Candidate

    def at_once(self) -> Found | None:
        raise BlockingIOError

    async def wait(self) -> Found | None:
        try:
            return self.files.find_at_once([self.page])
        except BlockingIOError:
            return None


class Exists(NamedTuple):
    files: Files
    candidate: Candidate

    def at_once(self) -> bool:
        return self._close(self.files.find_at_once([self.candidate]))

    async def wait(self) -> bool:
        try:
            return self._close(await self.files.find([self.candidate]))
        except Refused:
            return True

    def _close(self, found: Found | None) -> bool:
        if found is not None:
            found.close()
        return found is not None


class LoadForms(NamedTuple):
    forms: Forms

    def at_once(self) -> tuple[str, ...]:
        return self.forms.codings

    async def wait(self) -> tuple[str, ...]:
        await self.forms.load()
        return self.forms.codings


class MakeForm(NamedTuple):
    forms: Forms
    found: Found
    coding: str
    is_needed: bool

    def at_once(self) -> Variant | None:
        raise BlockingIOError

    async def wait(self) -> Variant | None:
        return await self.forms.make(self.found, self.coding, is_needed=self.is_needed)


class HashFile(NamedTuple):
    digests: Digests
    found: Found

    def at_once(self) -> Digest:
        return self.digests.find_at_once(self.found)

    async def wait(self) -> Digest:
        return await self.digests.find(self.found)


class PackFolder(NamedTuple):
    archives: Archives
    request: Request
    target: Target
    now_s: int
    leaves_out: LeavesOut

    def at_once(self) -> Download | None:
        raise BlockingIOError

    async def wait(self) -> Download | None:
        return await self.archives.answer(self.request, self.target, self.now_s, self.leaves_out)


class ListFolder(NamedTuple):
    listings: Listings
    request: Request
    target: Target
    now_s: int

    def at_once(self) -> Listing | None:
        raise BlockingIOError  # what is in a folder is read in threads

    async def wait(self) -> Listing | None:
        return await self.listings.answer(self.request, self.target, self.now_s)
