"""The story of a request: target → candidates on the disk → the first that exists → Plan."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

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

_NOT_FOUND_PAGE = Candidate((b"404.html",), Kind.FILE)


class Site:
    """The files of one root as answers. `index` holds the names that stand for their folder, best first."""

    def __init__(self, files: Files, *, index: Sequence[str]) -> None:
        self._files = files
        self._index = tuple(name.encode("utf-8", "surrogateescape") for name in index)

    @asynccontextmanager
    async def respond(self, request: Request, now_s: int) -> AsyncIterator[Plan]:
        """Decides the answer, and keeps what it needs open until the block ends.

        `now_s` is the time of the answer's Date in Unix seconds. Raises BadRequest for a target that names
        nothing and for a method after which the connection cannot go on.
        """
        target = parse_target(request.method, request.target)
        if request.method not in ("GET", "HEAD"):
            yield _plan_other_method(request)
            return
        candidates = self._candidates(target)
        try:
            found = await self._files.find(candidates)
        except Refused as refused:
            # A page that cannot be shown changes nothing about what was not found before it.
            is_page = refused.candidate is _NOT_FOUND_PAGE
            yield plan_error(request, 404 if is_page else refused.status)
            return
        try:
            yield self._plan(request, target, found, now_s)
        finally:
            if found is not None and found.variant is not None:
                found.variant.handle.close()

    def _candidates(self, target: Target) -> list[Candidate]:
        """What could answer `target`, in the order in which it is looked for."""
        only_name = self._files.only_name
        if only_name is not None:
            is_named = target.segments == (only_name,) and not target.is_folder
            return [Candidate((only_name,), Kind.FILE)] if is_named or not target.segments else []
        if target.is_folder:
            candidates = [Candidate((*target.segments, name), Kind.FILE) for name in self._index]
        else:
            candidates = [Candidate(target.segments, kind) for kind in (Kind.FILE, Kind.FOLDER)]
        return [*candidates, _NOT_FOUND_PAGE]

    def _plan(self, request: Request, target: Target, found: Found | None, now_s: int) -> Plan:
        if found is None:
            return plan_error(request, 404)
        if found.variant is None:
            return plan_redirect(format_folder_location(target))
        content_type = find_content_type(found.candidate.segments[-1])
        # By identity: asked for by its own name, the page is a file like any other.
        if found.candidate is _NOT_FOUND_PAGE:
            return plan_error_page(request, 404, found.variant, content_type)
        # Only a Range can need a boundary; nobody who writes files can foresee it.
        boundary = "" if request.fields.get("range") is None else os.urandom(16).hex()
        return plan_file(request, found.variant, content_type, now_s=now_s, boundary=boundary)


def _plan_other_method(request: Request) -> Plan:
    if request.method == "OPTIONS":
        return plan_options()
    if request.method == "CONNECT":
        raise BadRequest(405, "CONNECT: what follows would be no HTTP")
    if request.method not in REGISTERED_METHODS:
        raise BadRequest(501, "an unknown method: what it means for the connection is unknown too")
    return plan_error(request, 405)
