"""The story of a request: target → candidates on the disk → the first that exists → Plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

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
from aioserve.protocol.rules import Redirect, Rewrite, Rules, find_host
from aioserve.protocol.target import Target, format_folder_location, parse_target
from aioserve.protocol.variant import Variant

_NOT_FOUND_PAGE = Candidate((b"404.html",), Kind.FILE)


class Route(NamedTuple):
    """Where a request is looked for: at `candidates`, in their order.

    `rule` is what the owner's rules say of it; `rewritten` are the candidates that they add.
    """

    target: Target
    candidates: list[Candidate]
    rule: Redirect | Rewrite | None
    rewritten: list[Candidate]

    def is_rewritten(self, candidate: Candidate) -> bool:
        # By identity: a rule may lead to what has been looked for before.
        return any(candidate is one for one in self.rewritten)


class Site:
    """The files of one root as answers.

    `index` holds the names that stand for their folder, best first. `rules` are those of the owner, which may
    be exchanged at any time; `unsent` are names in the root that are never sent.
    """

    def __init__(
        self,
        files: Files,
        *,
        index: Sequence[str],
        rules: Rules | None = None,
        unsent: Sequence[bytes] = (),
    ) -> None:
        self.files = files
        self.rules = rules
        self._index = tuple(name.encode("utf-8", "surrogateescape") for name in index)
        self._unsent = frozenset((name,) for name in unsent)

    def respond(self, request: Request, now_s: int) -> Response:
        """Decides the answer when it is entered, and keeps what it needs open until the block ends.

        `now_s` is the time of the answer's Date in Unix seconds. Entering raises BadRequest for a target that
        names nothing and for a method after which the connection cannot go on. With `async with` it waits for
        the disk; with `with` it raises BlockingIOError instead.
        """
        return Response(self, request, now_s)

    def find_kept(self, request: Request) -> Kept | None:
        """The file in memory that alone decides how GET or HEAD is answered; None when there is none.

        Nothing else is looked for before it, so that for as long as it is kept and the rules are these, the
        same target means it.
        """
        route = self.find_route(request)
        first = next(iter(route.candidates), None)
        if first is None or first is _NOT_FOUND_PAGE or self._depends_on_host(route.target):
            return None
        if isinstance(route.rule, Rewrite) and route.rule.status != 200 and route.is_rewritten(first):
            return None
        return self.files.find_kept(first)

    def plan_kept(self, request: Request, kept: Kept, now_s: int) -> Plan:
        """The answer to a request for which `find_kept` has given `kept`; it uses the handle that is kept."""
        return _plan_file(request, kept.variant, find_content_type(kept.segments[-1]), now_s)

    def find_absent(self, request: Request) -> Absent | None:
        """The names that were looked for in vain when `request` got its 404; None when they do not tell."""
        route = self.find_route(request)
        return None if self._depends_on_host(route.target) else self.files.find_absent(route.candidates)

    def plan_absent(self, request: Request) -> Plan:
        """The answer to GET or HEAD of what is absent."""
        return plan_error(request, 404)

    def _depends_on_host(self, target: Target) -> bool:
        return self.rules is not None and self.rules.depends_on_host(target)

    def find_route(self, request: Request) -> Route:
        """Where `request` is looked for. Raises BadRequest."""
        target = parse_target(request.method, request.target)
        rule = None if self.rules is None else self.rules.find_redirect(target, find_host(request))
        own = [] if rule is not None and rule.is_forced else self._list_own(target)
        rewritten = self._list_rewritten(rule.target) if isinstance(rule, Rewrite) else []
        # What is missing leads elsewhere by a redirect, and to no page.
        pages = [] if isinstance(rule, Redirect) or self.files.only_name is not None else [_NOT_FOUND_PAGE]
        return Route(target, [*own, *rewritten, *pages], rule, rewritten)

    def _list_own(self, target: Target) -> list[Candidate]:
        """What could answer `target` by itself, in the order in which it is looked for."""
        only_name = self.files.only_name
        if only_name is not None:
            is_named = target.segments == (only_name,) and not target.is_folder
            return [Candidate((only_name,), Kind.FILE)] if is_named or not target.segments else []
        if target.is_folder:
            return self._list_index(target.segments)
        if target.segments in self._unsent:
            return []
        return [Candidate(target.segments, kind) for kind in (Kind.FILE, Kind.FOLDER)]

    def _list_rewritten(self, target: Target) -> list[Candidate]:
        """What could be sent for `target`, whose address nobody sees: the file, or the folder's."""
        if self.files.only_name is not None:
            return self._list_own(target)
        index = self._list_index(target.segments)
        is_file = not target.is_folder and target.segments not in self._unsent
        return [Candidate(target.segments, Kind.FILE), *index] if is_file else index

    def _list_index(self, segments: tuple[bytes, ...]) -> list[Candidate]:
        return [Candidate((*segments, name), Kind.FILE) for name in self._index]

    def plan(self, request: Request, route: Route, found: Found | None, now_s: int) -> Plan:
        """The answer to GET or HEAD by `route`, of which `found` is the candidate that exists."""
        rule = route.rule
        if found is None:
            if isinstance(rule, Redirect):
                return plan_redirect(rule.location, rule.status)
            return self.plan_absent(request)
        if found.variant is None:
            return plan_redirect(format_folder_location(route.target))
        content_type = find_content_type(found.candidate.segments[-1])
        # By identity: asked for by its own name, the page is a file like any other.
        is_page = found.candidate is _NOT_FOUND_PAGE
        if isinstance(rule, Rewrite) and rule.status != 200 and route.is_rewritten(found.candidate):
            is_page = True
        if is_page:
            return plan_error_page(request, 404, found.variant, content_type)
        return _plan_file(request, found.variant, content_type, now_s)


class Response:
    """What `Site.respond` gives: `async with` it for the Plan, or `with` it.

    Written out, because a generator that is a context manager costs a tenth of what it takes to answer.
    """

    __slots__ = ("_found", "_now_s", "_request", "_site")

    def __init__(self, site: Site, request: Request, now_s: int) -> None:
        self._site = site
        self._request = request
        self._now_s = now_s
        self._found: Found | None = None

    async def __aenter__(self) -> Plan:
        request, route = self._request, self._site.find_route(self._request)
        if request.method not in ("GET", "HEAD"):
            return _plan_other_method(request)
        try:
            found = await self._site.files.find(route.candidates)
        except Refused as refused:
            # A page that cannot be shown changes nothing about what was not found before it.
            is_page = refused.candidate is _NOT_FOUND_PAGE
            return plan_error(request, 404 if is_page else refused.status)
        return self._plan(route, found)

    def __enter__(self) -> Plan:
        request, route = self._request, self._site.find_route(self._request)
        if request.method not in ("GET", "HEAD"):
            return _plan_other_method(request)
        return self._plan(route, self._site.files.find_at_once(route.candidates))

    def _plan(self, route: Route, found: Found | None) -> Plan:
        self._found = found
        try:
            return self._site.plan(self._request, route, found, self._now_s)
        except BaseException:
            self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._found is not None and self._found.variant is not None:
            self._found.variant.handle.close()


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
