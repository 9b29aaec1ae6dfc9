"""The story of a request: target → candidates on the disk → the first that exists → its best form → Plan.

It is told once, as a generator that asks for one thing of the disk after the other: on the event loop as long
as nothing has to be waited for, else in the coroutine of the connection.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from aioserve.content.cache import Absent, Kept, share
from aioserve.content.compression import EXTENSIONS
from aioserve.content.files import Candidate, Files, Found, Refused
from aioserve.content.forms import MAX_BYTES, MIN_BYTES, Forms, decompress
from aioserve.content.route import CODED_NAMES, NOWHERE, Route, Routes
from aioserve.protocol.cors import is_preflight, plan_preflight
from aioserve.protocol.http1 import REGISTERED_METHODS
from aioserve.protocol.media_types import find_content_type, is_compressible
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.negotiation import (
    IDENTITY_ONLY,
    Codings,
    NotAcceptable,
    choose_coding,
    find_codings,
    list_wanted,
)
from aioserve.protocol.plan import (
    Plan,
    plan_error,
    plan_error_page,
    plan_file,
    plan_options,
    plan_redirect,
)
from aioserve.protocol.policy import NO_WISHES, Policies, Policy, Wishes, apply_policy, merge_vary
from aioserve.protocol.rules import Redirect, Rules, find_host
from aioserve.protocol.target import Target, format_folder_location, parse_target
from aioserve.protocol.variant import Variant

if TYPE_CHECKING:  # loaded where folders can be had as downloads
    from aioserve.content.archive import Archives, Download, FolderArchive

T = TypeVar("T")


class Step(Protocol):
    """Something that the story needs to go on."""

    def at_once(self) -> object:
        """Gives it without waiting. Raises BlockingIOError when that cannot be."""

    async def wait(self) -> object:
        """Gives it. Raises Refused."""


Story = Generator[Step, Any, T]


class _Find(NamedTuple):
    files: Files
    candidates: Sequence[Candidate]
    codings: Sequence[str]

    def at_once(self) -> Found | None:
        return self.files.find_at_once(self.candidates, self.codings)

    async def wait(self) -> Found | None:
        return await self.files.find(self.candidates, self.codings)


class _FindPage(NamedTuple):
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


class _Exists(NamedTuple):
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


class _Load(NamedTuple):
    forms: Forms

    def at_once(self) -> tuple[str, ...]:
        return self.forms.codings

    async def wait(self) -> tuple[str, ...]:
        await self.forms.load()
        return self.forms.codings


class _Make(NamedTuple):
    forms: Forms
    found: Found
    coding: str

    def at_once(self) -> Variant | None:
        raise BlockingIOError

    async def wait(self) -> Variant | None:
        return await self.forms.make(self.found, self.coding)


class _Pack(NamedTuple):
    archives: Archives
    request: Request
    target: Target
    now_s: int

    def at_once(self) -> Download | None:
        raise BlockingIOError

    async def wait(self) -> Download | None:
        return await self.archives.answer(self.request, self.target, self.now_s)


class Match(NamedTuple):
    """A file that is kept and alone decides the answer to one request line, for all who want the same forms.

    `kept` is what is sent, in `coding`. `base` is the file whose form that is, when that has a file of its
    own: both have to be current.
    """

    kept: Kept
    base: Kept | None
    coding: str | None
    content_type: str
    varies: bool
    policy: Policy
    files: Files
    before: Absent | None
    """What must not be there, as it would be the answer."""


class _Form(NamedTuple):
    """How a file is sent. `kept` is what is kept of it, and `base` of the file whose sidecar it is."""

    variant: Variant
    content_type: str
    varies: bool
    kept: Kept | None = None
    base: Kept | None = None
    pieces: AsyncGenerator[bytes, None] | None = None


class Site:
    """The files of one root as answers. `routes` tells where a request is looked for.

    `precompressed` tells whether compressed forms of files are looked for beside them. With `forms`, others
    are made. `policies` is what the owner wants of the answers, and with `head_ranges`, HEAD heeds Range.
    `rules` are those of the owner, which may be exchanged at any time. With `archives`, folders can be had as
    downloads. `mounts` are other sites, with the segments below which they are; these know them as their
    `prefix`.
    """

    def __init__(
        self,
        files: Files,
        *,
        routes: Routes,
        precompressed: bool = False,
        forms: Forms | None = None,
        policies: Policies | None = None,
        head_ranges: bool = False,
        rules: Rules | None = None,
        archives: Archives | None = None,
        mounts: Sequence[tuple[tuple[bytes, ...], Site]] = (),
        prefix: tuple[bytes, ...] = (),
    ) -> None:
        self.files = files
        self._archives = archives
        self.policies = Policies() if policies is None else policies
        self._head_ranges = head_ranges
        self.rules = rules
        self._routes = routes
        # The longest first, since one may be mounted below another.
        self._mounts = sorted(mounts, key=lambda mount: -len(mount[0]))
        self._prefix = prefix
        self._forms = forms
        self._has_sidecars = precompressed and files.only_name is None

    @property
    def has_forms(self) -> bool:
        """Whether a file may be sent in one form or another."""
        return self._has_sidecars or self._forms is not None

    @property
    def depends_on_accept(self) -> bool:
        """Whether another Accept can lead to another file."""
        return self._routes.has_fallback

    def respond(self, request: Request, now_s: int) -> Response:
        """Decides the answer when it is entered, and keeps what it needs open until the block ends.

        `now_s` is the time of the answer's Date in Unix seconds. Entering raises BadRequest for a target that
        names nothing and for a method after which the connection cannot go on. With `async with` it waits for
        the disk; with `with` it raises BlockingIOError instead.
        """
        return Response(self, request, now_s)

    def plan_match(self, request: Request, match: Match, now_s: int) -> Plan:
        """The answer to a request that `match` is for; it uses the handle that is kept."""
        variant = match.kept.variant._replace(coding=match.coding)
        plan = self._plan_file(request, _Form(variant, match.content_type, match.varies), now_s)
        return apply_policy(plan, match.policy)

    def find_absent(self, request: Request) -> Absent | None:
        """The names that were looked for in vain when `request` got its 404; None when they do not tell."""
        target = parse_target(request.method, request.target)
        if self._enter(target)[0] is not self:
            return None
        if self._depends_on_host(target) or self._routes.depends_on_accept(target):
            return None
        if self._archives is not None and self._archives.is_asked(target):
            return None
        return self.files.find_absent(self.find_route(request, target).candidates)

    def plan_absent(self, request: Request) -> Plan:
        """The answer to GET or HEAD of what is absent."""
        target = parse_target(request.method, request.target)
        return apply_policy(plan_error(request, 404), self._find_policy(request, target))

    def find_allowed_origin(self, fields: Fields) -> str | None:
        """For which origin a request with these fields is answered; None where that makes no difference."""
        cors = self.policies.cors
        return None if cors is None or cors.is_for_all else cors.find_allowed(fields.get("origin"))

    def plan_failure(self, request: Request | None, status: int) -> Plan:
        """The answer to a request that cannot be read (None), or not be answered otherwise."""
        origin = None if request is None else request.fields.get("origin")
        return apply_policy(plan_error(request, status), self.policies.find_general(origin))

    def _find_policy(self, request: Request, target: Target, file: tuple[bytes, ...] | None = None) -> Policy:
        wishes = NO_WISHES
        if self.rules is not None:
            headers = self.rules.find_headers(target, find_host(request))
            wishes = Wishes(headers.fields, headers.removed)
        origin = request.fields.get("origin")
        return self.policies.find(target.segments, file, rules=wishes, origin=origin)

    def _depends_on_host(self, target: Target) -> bool:
        return self.rules is not None and self.rules.depends_on_host(target)

    def find_route(self, request: Request, target: Target) -> Route:
        """Where `target` is looked for."""
        rule = None if self.rules is None else self.rules.find_redirect(target, find_host(request))
        return self._routes.find(request, target, rule)

    def tell(self, response: Response) -> Story[Plan]:
        """The story of the request of `response`, which is told what has to be closed, and what can be
        remembered."""
        request = response.request
        target = parse_target(request.method, request.target)
        site, local = self._enter(target)
        plan = yield from site._tell(response, target, local)
        policy = response.policy or self._find_policy(request, target)
        if response.depends_on_accept:
            policy = policy._replace(vary=merge_vary(policy.vary, ("Accept",)))
        return apply_policy(plan, policy)

    def _enter(self, target: Target) -> tuple[Site, Target]:
        """The site that `target` is in, and the target there."""
        for prefix, mounted in self._mounts:
            if target.segments[: len(prefix)] == prefix:
                return mounted, target._replace(segments=target.segments[len(prefix) :])
        return self, target

    def _tell(self, response: Response, target: Target, local: Target) -> Story[Plan]:
        """The same before the owner's policy. Where a file is the answer, it is that of the file.

        `local` is what `target` means below this root.
        """
        request = response.request
        if request.method not in ("GET", "HEAD"):
            return self._plan_other_method(request)
        if not local.segments and not local.is_folder:
            # Where another folder is mounted, its slash is missing.
            return plan_redirect(format_folder_location(target))
        if self._archives is not None and self._archives.is_asked(local):
            download = yield _Pack(self._archives, request, local, response.now_s)
            if download is not None:
                response.archive, response.pieces = download.archive, download.pieces
                return download.plan  # type: ignore[no-any-return]
            response.is_settled = False
        codings = find_codings(request.fields) if self.has_forms else IDENTITY_ONLY
        route = response.route = self.find_route(request, local)
        wanted = list_wanted(codings) if self._has_sidecars else ()
        try:
            found = yield _Find(self.files, route.candidates, wanted)
        except Refused as refused:
            # A page that cannot be shown changes nothing about what was not found before it.
            is_page = refused.candidate is not None and refused.candidate is route.page
            return (yield from self._tell_error(response, 404 if is_page else refused.status))
        response.found = found
        if found is None:
            if isinstance(route.rule, Redirect):
                return plan_redirect(route.rule.location, route.rule.status)
            return plan_error(request, 404)
        if found.variant is None:
            return plan_redirect(format_folder_location(target))
        location = route.find_location(found.candidate)
        if location is not None:
            # Behind its clean URL may be a file of that name.
            is_hidden = yield _Exists(self.files, self._routes.find_plain(found.candidate))
            if not is_hidden:
                return plan_redirect(location)
            if local.is_folder:
                return plan_error(request, 404)
        policy = self._find_policy(request, target, (*self._prefix, *found.candidate.segments))
        response.depends_on_accept = found.candidate is route.fallback or (
            route.is_error(found.candidate) and self._routes.depends_on_accept(local)
        )
        if not route.is_error(found.candidate):
            response.policy = policy
        if found.candidate.coding is None:
            form = yield from self._find_form(response, found, codings, policy)
        else:
            form = self._find_form_of_orphan(found, codings)
        if form is None:
            return plan_error(request, 406)
        response.pieces = form.pieces
        if route.is_error(found.candidate):
            return plan_error_page(request, 404, form.variant, form.content_type, varies=form.varies)
        if policy.content_type is not None:
            form = form._replace(content_type=policy.content_type)
        if response.depends_on_accept:
            policy = response.policy = policy._replace(vary=merge_vary(policy.vary, ("Accept",)))
        if form.kept is not None and response.is_settled and not self._depends_on_host(target):
            before = route.list_before(found.candidate)
            response.match = Match(
                form.kept,
                form.base,
                form.variant.coding,
                form.content_type,
                form.varies,
                policy,
                self.files,
                self.files.find_absent(before) if before else None,
            )
        return self._plan_file(request, form, response.now_s)

    def _tell_error(self, response: Response, status: int) -> Story[Plan]:
        """The answer when what was asked for cannot be looked up."""
        page = self._routes.find_page(status)
        found = None if page is None or status == 404 else (yield _FindPage(self.files, page))
        if found is None or found.variant is None:
            return plan_error(response.request, status)
        response.found = found
        return plan_error_page(
            response.request, status, found.variant, find_content_type(found.candidate.segments[-1])
        )

    def _find_form(
        self, response: Response, found: Found, codings: Codings, policy: Policy
    ) -> Story[_Form | None]:
        """How a file is sent; None when the client takes none of its forms."""
        name = found.candidate.segments[-1]
        content_type = find_content_type(name)
        # RFC 9111 §5.2.2.6: who asks others to leave the content as it is, means it.
        may_be_made = self._forms is not None and "no-transform" not in (policy.cache_control or "").lower()
        shrinks = may_be_made and is_compressible(content_type)
        varies = shrinks or (self._has_sidecars and not name.endswith(CODED_NAMES))
        variants = {one.variant.coding: (one.variant, one) for one in (found, *found.sidecars) if one.variant}
        is_acceptable = True
        try:
            coding = choose_coding(
                codings, {key: variant.size_bytes for key, (variant, _) in variants.items()}
            )
        except NotAcceptable:
            coding, is_acceptable = None, False
        variant, chosen = variants[coding]
        form = _Form(variant, content_type, varies, chosen.kept, found.kept if coding else None)
        if coding is None and shrinks:
            made = yield from self._make_form(response, form, found, list_wanted(codings))
            if made is not None:
                return made
        return form if is_acceptable else None

    def _make_form(
        self, response: Response, plain: _Form, found: Found, wanted: Sequence[str]
    ) -> Story[_Form | None]:
        """A form of a file that is made here; None when there is none, or not yet."""
        forms = self._forms
        assert forms is not None
        size_bytes = plain.variant.size_bytes
        if not wanted or size_bytes < MIN_BYTES:
            return None
        here = yield _Load(forms)
        coding = next((coding for coding in wanted if coding in here), None)
        if coding is None:
            return None
        if size_bytes > MAX_BYTES:
            # Of what is made on the way, nobody can have a part, and no page of an error is that long.
            if "range" in response.request.fields.values or response.is_error(found):
                return None
            pieces = forms.compress(plain.variant, coding)
            return plain._replace(variant=plain.variant._replace(coding=coding), pieces=pieces, kept=None)
        if not forms.may_make(found, coding):
            return None
        kept = forms.find(found, coding)
        if kept is None:
            variant = yield _Make(forms, found, coding)
            if variant is None:
                response.is_settled = not forms.may_make(found, coding)
                return None
            response.made = variant
            kept = forms.find(found, coding)
        else:
            variant = response.made = share(kept.variant)
        return plain._replace(variant=variant, kept=kept)

    def _find_form_of_orphan(self, found: Found, codings: Codings) -> _Form | None:
        """How a sidecar is sent that has no file beside it: as it is, or decoded."""
        variant, coding = found.variant, found.candidate.coding
        assert variant is not None
        assert coding is not None
        name = found.candidate.segments[-1]
        content_type = find_content_type(name.removesuffix(EXTENSIONS[coding]))
        form = _Form(variant, content_type, varies=True)
        try:
            chosen = choose_coding(codings, {coding: 0, None: 1})
        except NotAcceptable:
            return None
        if chosen is not None:
            return form
        pieces = decompress(self.files.disk, variant, coding)
        return form._replace(variant=variant._replace(coding=None), pieces=pieces)

    def _plan_file(self, request: Request, form: _Form, now_s: int) -> Plan:
        # Only several ranges need a boundary; nobody who writes files can foresee it.
        boundary = os.urandom(16).hex() if "," in (request.fields.get("range") or "") else ""
        return plan_file(
            request,
            form.variant,
            form.content_type,
            now_s=now_s,
            boundary=boundary,
            varies=form.varies,
            pieces=form.pieces,
            head_ranges=self._head_ranges,
        )

    def _plan_other_method(self, request: Request) -> Plan:
        if request.method == "OPTIONS":
            cors = self.policies.cors
            return plan_preflight(request, cors) if cors and is_preflight(request) else plan_options()
        if request.method == "CONNECT":
            raise BadRequest(405, "CONNECT: what follows would be no HTTP")
        if request.method not in REGISTERED_METHODS:
            raise BadRequest(501, "an unknown method: what it means for the connection is unknown too")
        return plan_error(request, 405)


class Response:
    """What `Site.respond` gives: `async with` it for the Plan, or `with` it.

    Written out, because a generator that is a context manager costs a tenth of what it takes to answer.
    """

    __slots__ = (
        "_site",
        "archive",
        "depends_on_accept",
        "found",
        "is_settled",
        "made",
        "match",
        "now_s",
        "pieces",
        "policy",
        "request",
        "route",
        "rules",
    )

    def __init__(self, site: Site, request: Request, now_s: int) -> None:
        self._site = site
        self.request = request
        self.now_s = now_s
        self.rules = site.rules
        """The rules by which it is told."""
        self.route = NOWHERE
        self.found: Found | None = None
        self.made: Variant | None = None
        self.pieces: AsyncGenerator[bytes, None] | None = None
        self.archive: FolderArchive | None = None
        self.depends_on_accept = False
        """Whether another Accept could have got another file."""
        self.is_settled = True
        """Whether the same request gets the same answer again, as long as the files do not change."""
        self.match: Match | None = None
        """What can be remembered of the answer, once the Plan is there."""
        self.policy: Policy | None = None
        """That of the file that is the answer, if it is one."""

    async def __aenter__(self) -> Plan:
        story = self._site.tell(self)
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
            self._close()
            raise

    def __enter__(self) -> Plan:
        story = self._site.tell(self)
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
