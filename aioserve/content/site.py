"""The story of a request: target → candidates on the disk → the first that exists → Plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from aioserve.content.cache import Absent, Kept
from aioserve.content.files import Candidate, Files, Found, Kind, Refused
from aioserve.protocol.http1 import REGISTERED_METHODS
from aioserve.protocol.media_types import find_content_type
from aioserve.protocol.message import BadRequest, Request
from aioserve.protocol.plan import (
    Plan,
    plan_error,
    plan_error_page,
    plan_file,
    plan_options,
    plan_redirect,
)
from aioserve.protocol.target import Target, format_folder_location, parse_target
from aioserve.protocol.variant import Variant

if TYPE_CHECKING:
    from aioserve.content.listing import Listing, Listings

_NOT_FOUND_PAGE = Candidate((b"404.html",), Kind.FILE)


class Site:
    """The files of one root as answers. `index` holds the names that stand for their folder, best first.

    A folder without any of them is shown by `listings`, where there are some.
    """

    def __init__(self, files: Files, *, index: Sequence[str], listings: Listings | None = None) -> None:
        self.files = files
        self.listings = listings
        self._index = tuple(name.encode("utf-8", "surrogateescape") for name in index)

    def respond(self, request: Request, now_s: int) -> Response:
        """Decides the answer when it is entered, and keeps what it needs open until the block ends.

        `now_s` is the time of the answer's Date in Unix seconds. Entering raises BadRequest for a target that
        names nothing and for a method after which the connection cannot go on. With `async with` it waits for
        the disk; with `with` it raises BlockingIOError instead.
        """
        return Response(self, request, now_s)

    def find_kept(self, request: Request) -> Kept | None:
        """The file in memory that alone decides how GET or HEAD is answered; None when there is none.

        Nothing else is looked for before it, so that for as long as it is kept, the same target means it.
        """
        first = next(iter(self.list_candidates(parse_target(request.method, request.target))), None)
        return None if first is None or first is _NOT_FOUND_PAGE else self.files.find_kept(first)

    def plan_kept(self, request: Request, kept: Kept, now_s: int) -> Plan:
        """The answer to a request for which `find_kept` has given `kept`; it uses the handle that is kept."""
        return _plan_file(request, kept.variant, find_content_type(kept.segments[-1]), now_s)

    def find_absent(self, request: Request) -> Absent | None:
        """The names that were looked for in vain when `request` got its 404; None when they do not tell."""
        return self.files.find_absent(self.list_candidates(parse_target(request.method, request.target)))

    def plan_absent(self, request: Request) -> Plan:
        """The answer to GET or HEAD of what is absent."""
        return plan_error(request, 404)

    def list_candidates(self, target: Target) -> list[Candidate]:
        """What could answer `target`, in the order in which it is looked for."""
        only_name = self.files.only_name
        if only_name is not None:
            is_named = target.segments == (only_name,) and not target.is_folder
            return [Candidate((only_name,), Kind.FILE)] if is_named or not target.segments else []
        if target.is_folder:
            candidates = [Candidate((*target.segments, name), Kind.FILE) for name in self._index]
            if self.listings is not None:
                candidates.append(Candidate(target.segments, Kind.FOLDER))
        else:
            candidates = [Candidate(target.segments, kind) for kind in (Kind.FILE, Kind.FOLDER)]
        return [*candidates, _NOT_FOUND_PAGE]

    def plan(self, request: Request, target: Target, found: Found | None, now_s: int) -> Plan:
        """The answer to GET or HEAD of `target`, for which `found` is the candidate that exists."""
        if found is None:
            return self.plan_absent(request)
        if found.variant is None:
            return plan_redirect(format_folder_location(target))
        content_type = find_content_type(found.candidate.segments[-1])
        # By identity: asked for by its own name, the page is a file like any other.
        if found.candidate is _NOT_FOUND_PAGE:
            return plan_error_page(request, 404, found.variant, content_type)
        return _plan_file(request, found.variant, content_type, now_s)


class Response:
    """What `Site.respond` gives: `async with` it for the Plan, or `with` it.

    Written out, because a generator that is a context manager costs a tenth of what it takes to answer.
    """

    __slots__ = ("_found", "_listing", "_now_s", "_request", "_site")

    def __init__(self, site: Site, request: Request, now_s: int) -> None:
        self._site = site
        self._request = request
        self._now_s = now_s
        self._found: Found | None = None
        self._listing: Listing | None = None

    async def __aenter__(self) -> Plan:
        request = self._request
        target = parse_target(request.method, request.target)
        if request.method not in ("GET", "HEAD"):
            return _plan_other_method(request)
        try:
            found = await self._site.files.find(self._site.list_candidates(target))
        except Refused as refused:
            # A page that cannot be shown changes nothing about what was not found before it.
            is_page = refused.candidate is _NOT_FOUND_PAGE
            return plan_error(request, 404 if is_page else refused.status)
        if _is_to_be_listed(target, found):
            return await self._plan_listing(target)
        return self._plan(target, found)

    async def _plan_listing(self, target: Target) -> Plan:
        assert self._site.listings is not None  # else no folder is looked for behind a slash
        listing = self._site.listings.respond(self._request, target, self._now_s)
        try:
            plan = await listing.__aenter__()
        except Refused as refused:
            return plan_error(self._request, refused.status)
        self._listing = listing
        return self._site.plan_absent(self._request) if plan is None else plan

    def __enter__(self) -> Plan:
        request = self._request
        target = parse_target(request.method, request.target)
        if request.method not in ("GET", "HEAD"):
            return _plan_other_method(request)
        found = self._site.files.find_at_once(self._site.list_candidates(target))
        if _is_to_be_listed(target, found):
            raise BlockingIOError  # what is in a folder is read in threads
        return self._plan(target, found)

    def _plan(self, target: Target, found: Found | None) -> Plan:
        self._found = found
        try:
            return self._site.plan(self._request, target, found, self._now_s)
        except BaseException:
            self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._listing is not None:
            await self._listing.__aexit__(kind, value, trace)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._found is not None and self._found.variant is not None:
            self._found.variant.handle.close()


def _is_to_be_listed(target: Target, found: Found | None) -> bool:
    return target.is_folder and found is not None and found.candidate.kind is Kind.FOLDER


def _plan_file(request: Request, variant: Variant, content_type: str, now_s: int) -> Plan:
    # Only several ranges need a boundary; nobody who writes files can foresee it.
    boundary = os.urandom(16).hex() if "," in (request.fields.get("range") or "") else ""
    return plan_file(request, variant, content_type, now_s=now_s, boundary=boundary)


def _plan_other_method(request: Request) -> Plan:
    if request.method == "OPTIONS":
        return plan_options()
    if request.method == "CONNECT":
        raise BadRequest(405, "CONNECT: what follows would be no HTTP")
    if request.method not in REGISTERED_METHODS:
        raise BadRequest(501, "an unknown method: what it means for the connection is unknown too")
    return plan_error(request, 405)
