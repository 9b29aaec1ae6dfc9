"""One answer on its way: the Plan when it is entered, what has to be closed after it, what can be remembered.

What is decided, and in which order, is `site`'s: here its story is told, step by step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aioserve.content.cache import Absent, Kept
from aioserve.content.files import Files, Found, Refused
from aioserve.content.route import NOWHERE
from aioserve.content.steps import Story
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Plan
from aioserve.protocol.policy import Policy
from aioserve.protocol.rules import Rules
from aioserve.protocol.variant import Digest, Variant

if TYPE_CHECKING:
    from aioserve.content.archive import FolderArchive
    from aioserve.content.listing import Listing


class Match(NamedTuple):
    """A file that is kept and alone decides the answer to one request line, for all who want the same forms.

    `kept` is what is sent, in `coding`, with `digest`. `base` is the file whose form that is, when that has
    a file of its own: both have to be current.
    """

    kept: Kept
    base: Kept | None
    before: Absent | None
    """What must not be there, as it would be the answer."""
    files: Files
    coding: str | None
    digest: Digest | None
    content_type: str
    varies: bool
    policy: Policy


class Teller(Protocol):
    """Who knows the story of a request: a `site.Site`."""

    @property
    def rules(self) -> Rules | None:
        """The owner's rules, which may be exchanged at any time."""

    def tell(self, response: Response) -> Story[Plan]:
        """The story of the request of `response`."""


class Response:
    """What `Site.respond` gives: `async with` it for the Plan, or `with` it.

    Written out, because a generator that is a context manager costs a tenth of what it takes to answer.
    """

    __slots__ = (
        "_teller",
        "archive",
        "depends_on_accept",
        "found",
        "is_settled",
        "listing",
        "made",
        "match",
        "now_s",
        "pieces",
        "policy",
        "request",
        "route",
        "rules",
    )

    def __init__(self, teller: Teller, request: Request, now_s: int) -> None:
        self._teller = teller
        self.request = request
        self.now_s = now_s
        self.rules = teller.rules
        """The rules by which it is told."""
        self.route = NOWHERE
        self.found: Found | None = None
        self.made: Variant | None = None
        self.pieces: AsyncGenerator[bytes, None] | None = None
        self.archive: FolderArchive | None = None
        self.listing: Listing | None = None
        self.depends_on_accept = False
        """Whether another Accept could have got another file."""
        self.is_settled = True
        """Whether the same request gets the same answer again, as long as the files do not change."""
        self.match: Match | None = None
        """What can be remembered of the answer, once the Plan is there."""
        self.policy: Policy | None = None
        """That of the file that is the answer, if it is one."""

    async def __aenter__(self) -> Plan:
        story = self._teller.tell(self)
        try:
            step = next(story)
            while True:
                try:
                    value = await step.wait()
                except Refused as refused:
                    step = story.throw(refused)
                else:
                    step = story.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except BaseException:
            try:
                if self.listing is not None:
                    await self.listing.close()
            finally:
                self._close()
            raise

    def __enter__(self) -> Plan:
        story = self._teller.tell(self)
        try:
            step = next(story)
            while True:
                step = story.send(step.at_once())
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except BaseException:
            self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.pieces is not None:
                await self.pieces.aclose()
            if self.listing is not None:
                await self.listing.close()
        finally:
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def is_error(self, found: Found) -> bool:
        """Whether what was found is the page of an error."""
        return self.route.is_error(found.candidate)

    def _close(self) -> None:
        if self.found is not None:
            self.found.close()
        if self.made is not None:
            self.made.handle.close()
        if self.archive is not None:
            self.archive.close()
