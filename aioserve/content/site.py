"""The story of a request: target → candidates on the disk → the first that exists → its best form → Plan.

It is told once, as a generator that asks for one thing of the disk after the other: on the event loop as long
as nothing has to be waited for, else in the coroutine of the connection (`response`). What it can ask for is
in `steps`, where a request is looked for in `route`.

The module is longer than others because the story stands in one piece.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aioserve.content.cache import Absent, Kept, share
from aioserve.content.files import CODED_NAMES, EXTENSIONS, Candidate, Files, Found, Refused
from aioserve.content.forms import MAX_BYTES, MIN_BYTES, Forms, decompress
from aioserve.content.response import Match, Response
from aioserve.content.route import Route, Routes
from aioserve.content.steps import (
    Exists,
    Find,
    FindPage,
    HashFile,
    ListFolder,
    LoadForms,
    MakeForm,
    PackFolder,
    Story,
)
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
from aioserve.protocol.rules import Redirect, Rewrite, Rules, find_host
from aioserve.protocol.target import Target, format_folder_location, parse_target
from aioserve.protocol.variant import Variant

if TYPE_CHECKING:  # loaded where they are wanted
    from aioserve.content.archive import Archives
    from aioserve.content.digests import Digests
    from aioserve.content.listing import Listings

# What is compressed or decoded while it is sent takes up to 9 MiB as long as its client takes. When there are
# so many, others get the file as it is.
_MAX_CODERS = 16


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
    downloads; `listings` show those without an index. With `digests`, entity tags are made of contents.
    `mounts` are other sites, with the segments below which they are; these know them as their `prefix`.
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
        listings: Listings | None = None,
        digests: Digests | None = None,
        mounts: Sequence[tuple[tuple[bytes, ...], Site]] = (),
        prefix: tuple[bytes, ...] = (),
    ) -> None:
        self.files = files
        self._archives = archives
        self._listings = listings
        self._digests = digests
        self.policies = Policies() if policies is None else policies
        self._head_ranges = head_ranges
        self._routes = routes
        # The longest first, since one may be mounted below another.
        self._mounts = sorted(mounts, key=lambda mount: -len(mount[0]))
        self._prefix = prefix
        self._whole = self
        for _, mounted in self._mounts:
            mounted._whole = self
        self.rules = rules
        self._forms = forms
        self._coders = 0
        self._has_sidecars = precompressed and files.only_name is None

    @property
    def rules(self) -> Rules | None:
        return self._rules

    @rules.setter
    def rules(self, rules: Rules | None) -> None:
        # They speak of URLs, whatever folder these lead to.
        self._rules = rules
        for _, mounted in self._mounts:
            mounted.rules = rules

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

    def plan_match(self, request: Request, match: Match, now_s: int) -> Plan | None:
        """The answer to a request that `match` is for, from the handle that is kept; None when another form
        of the file is the answer."""
        if match.coding is not None and match.base is None and _asks_for_part(request):
            return None
        variant = match.kept.variant._replace(coding=match.coding, digest=match.digest)
        plan = self._plan_file(request, _Form(variant, match.content_type, match.varies), now_s)
        return apply_policy(plan, match.policy)

    def lacks_forms(self, match: Match, codings: Codings) -> bool:
        """Whether none of the wanted forms lies beside the file of `match`, but for the one that is sent.

        Never waits; where that would be needed it says no.
        """
        plain = match.kept if match.base is None else match.base
        wanted = [one for one in list_wanted(codings) if match.base is None or one != match.coding]
        return match.files.is_absent(Absent(tuple(plain.path + EXTENSIONS[coding] for coding in wanted)))

    def find_absent(self, request: Request) -> Absent | None:
        """The names that were looked for in vain when `request` got its 404; None when they do not tell."""
        target = parse_target(request.method, request.target)
        if self.enter(target)[0] is not self:
            return None
        if self._depends_on_host(target) or self._routes.depends_on_accept(target):
            return None
        if self._archives is not None and self._archives.is_asked(target):
            return None
        return self.files.find_absent(self.find_route(request, target, target).candidates)

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

    def find_route(self, request: Request, target: Target, local: Target) -> Route:
        """Where `target` is looked for, which is `local` below this root.

        A rewrite stays in the root of its path: one that leads into another is none.
        """
        rule = None if self.rules is None else self.rules.find_redirect(target, find_host(request))
        if isinstance(rule, Rewrite):
            site, inside = self._whole.enter(rule.target)
            rule = rule._replace(target=inside) if site is self else None
        return self._routes.find(request, local, rule)

    def tell(self, response: Response) -> Story[Plan]:
        """The story of the request of `response`, which is told what has to be closed, and what can be
        remembered."""
        request = response.request
        target = parse_target(request.method, request.target)
        site, local = self.enter(target)
        plan = yield from site._tell(response, target, local)
        policy = response.policy or site._find_policy(request, target)
        if response.depends_on_accept:
            policy = policy._replace(vary=merge_vary(policy.vary, ("Accept",)))
        return apply_policy(plan, policy)

    def enter(self, target: Target) -> tuple[Site, Target]:
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
        if not local.segments and not local.is_folder and self.files.only_name is None:
            # Where another folder is mounted, its slash is missing; by force, a rule comes first.
            rule = None if self.rules is None else self.rules.find_redirect(target, find_host(request))
            if rule is None or not rule.is_forced:
                return plan_redirect(format_folder_location(target))
        codings = find_codings(request.fields) if self.has_forms else IDENTITY_ONLY
        route = response.route = self.find_route(request, target, local)
        is_forced = route.rule is not None and route.rule.is_forced
        if self._archives is not None and self._archives.is_asked(local) and not is_forced:
            leaves_out = partial(self._leaves_out, self.rules, find_host(request))
            download = yield PackFolder(self._archives, request, local, response.now_s, leaves_out)
            if download is not None:
                response.archive, response.pieces = download.archive, download.pieces
                return download.plan  # type: ignore[no-any-return]
            response.is_settled = False
        wanted = list_wanted(codings) if self._has_sidecars else ()
        try:
            found = yield Find(self.files, route.candidates, wanted)
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
            if local.is_folder and self._listings is not None:
                return (yield from self._list_folder(response, self._listings, local))
            return plan_redirect(format_folder_location(target))
        return (yield from self._tell_file(response, target, local, found, codings))

    def _tell_file(
        self, response: Response, target: Target, local: Target, found: Found, codings: Codings
    ) -> Story[Plan]:
        """The same once a file has been found."""
        request, route = response.request, response.route
        location = route.find_location(found.candidate)
        if location is not None:
            # Behind its clean URL may be a file of that name.
            is_hidden = yield Exists(self.files, self._routes.find_plain(_name_plain(found.candidate)))
            if not is_hidden:
                return plan_redirect(location)
            if local.is_folder:
                return plan_error(request, 404)
            response.is_settled = False
        policy = self._find_policy(request, target, (*self._prefix, *_name_plain(found.candidate)))
        response.depends_on_accept = found.candidate is route.fallback or (
            route.is_error(found.candidate) and self._routes.depends_on_accept(local)
        )
        if not route.is_error(found.candidate):
            response.policy = policy
        try:
            if found.candidate.coding is None:
                form = yield from self._find_form(response, found, codings, policy)
            else:
                form = self._find_form_of_orphan(found, codings)
        except Refused as refused:
            return plan_error(request, refused.status)
        is_error = route.is_error(found.candidate)
        if form is None:
            # Whether a page can be shown changes nothing about what was not found.
            return plan_error(request, 404 if is_error else 406, varies=True)
        response.pieces = form.pieces
        if is_error:
            return plan_error_page(
                request, 404, form.variant, form.content_type, varies=form.varies, pieces=form.pieces
            )
        try:
            form = yield from self._add_digest(form, found)
        except Refused as refused:
            return plan_error(request, refused.status)
        if policy.content_type is not None:
            form = form._replace(content_type=policy.content_type)
        if response.depends_on_accept:
            policy = response.policy = policy._replace(vary=merge_vary(policy.vary, ("Accept",)))
        digest = form.variant.digest
        is_lasting = response.is_settled and (digest is None or digest.is_of_content)
        if form.kept is not None and is_lasting and not self._depends_on_host(target):
            before = route.list_before(found.candidate)
            response.match = Match(
                form.kept,
                form.base,
                self.files.find_absent(before) if before else None,
                self.files,
                form.variant.coding,
                digest,
                form.content_type,
                form.varies,
                policy,
            )
        return self._plan_file(request, form, response.now_s)

    def _list_folder(self, response: Response, listings: Listings, local: Target) -> Story[Plan]:
        try:
            listing = yield ListFolder(listings, response.request, local, response.now_s)
        except Refused as refused:
            return (yield from self._tell_error(response, refused.status))
        if listing is None:  # it has gone meanwhile
            return plan_error(response.request, 404)
        response.listing = listing
        return listing.plan  # type: ignore[no-any-return]

    def _leaves_out(self, rules: Rules | None, host: str | None, segments: tuple[bytes, ...]) -> bool:
        """Whether nobody who asks for that file by its name gets it. It is called in a thread."""
        place = Target((*self._prefix, *segments), is_folder=False, query=None)
        if self._routes.is_unsent(segments) or self._whole.enter(place)[0] is not self:
            return True
        return rules is not None and rules.forces(place, host)

    def _tell_error(self, response: Response, status: int) -> Story[Plan]:
        """The answer when what was asked for cannot be looked up."""
        page = self._routes.find_page(status)
        found = None if page is None or status == 404 else (yield FindPage(self.files, page))
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
        chosen = _choose(found, codings)
        is_acceptable = chosen is not None
        if chosen is None or chosen is found:
            assert found.variant is not None
            form = _Form(found.variant, content_type, varies, found.kept)
        else:
            assert chosen.variant is not None
            # It is sent as long as the file is as it was, so both have to be kept, or none is.
            form = _Form(chosen.variant, content_type, varies, found.kept and chosen.kept, found.kept)
        if form.variant is found.variant and shrinks:
            if is_acceptable and _asks_for_part(response.request):
                # Who asks for a part means one of the file: many programs take codings without knowing it.
                # With If-Range it is a part of the form that has this tag.
                response.is_settled = False
                return form
            made = yield from self._make_form(
                response, form, found, list_wanted(codings), is_needed=not is_acceptable
            )
            if made is not None:
                return made
        return form if is_acceptable else None

    def _make_form(
        self, response: Response, plain: _Form, found: Found, wanted: Sequence[str], *, is_needed: bool
    ) -> Story[_Form | None]:
        """A form of a file that is made here; None when there is none, or not yet.

        It `is_needed` when the client takes nothing else.
        """
        forms = self._forms
        assert forms is not None
        size_bytes = plain.variant.size_bytes
        if not wanted or size_bytes < MIN_BYTES:
            return None
        here = yield LoadForms(forms)
        coding = next((coding for coding in wanted if coding in here), None)
        if coding is None:
            return None
        if size_bytes > MAX_BYTES:
            # Of what is made on the way, nobody can have a part, and no page of an error is that long.
            if response.is_error(found):
                return None
            has_room = self._coders < _MAX_CODERS
            if not is_needed and ("range" in response.request.fields.values or not has_room):
                # Without a range, or later, the same line is answered in another way.
                response.is_settled = False
                return None
            if not has_room:
                raise Refused(503)
            pieces = self._count(forms.compress(plain.variant, coding))
            return plain._replace(variant=plain.variant._replace(coding=coding), pieces=pieces, kept=None)
        if not forms.may_make(found, coding):
            return None
        kept = forms.find(found, coding)
        if kept is None:
            variant = yield MakeForm(forms, found, coding, is_needed)
            if variant is None:
                response.is_settled = not forms.may_make(found, coding)
                return None
            response.made = variant
            kept = forms.find(found, coding)
        else:
            variant = response.made = share(kept.variant)
        return plain._replace(variant=variant, kept=kept)

    def _add_digest(self, form: _Form, found: Found) -> Story[_Form]:
        """`form` with the digest of its bytes, or of the file that it is made of while it is sent."""
        variant = form.variant
        if self._digests is None or variant.digest is not None:
            return form
        source = next(
            one for one in (found, *found.sidecars) if one.variant and one.variant.handle is variant.handle
        )
        digest = yield HashFile(self._digests, source)
        return form._replace(variant=variant._replace(digest=digest))

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
        if self._coders >= _MAX_CODERS:
            raise Refused(503)
        pieces = self._count(decompress(self.files.disk, variant, coding))
        return form._replace(variant=variant._replace(coding=None), pieces=pieces)

    async def _count(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        self._coders += 1
        try:
            async for piece in pieces:
                yield piece
        finally:
            self._coders -= 1
            await pieces.aclose()

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


def _name_plain(candidate: Candidate) -> tuple[bytes, ...]:
    """The file that `candidate` holds, which may be missing where a sidecar of it is not."""
    if candidate.coding is None:
        return candidate.segments
    *folder, name = candidate.segments
    return (*folder, name.removesuffix(EXTENSIONS[candidate.coding]))


def _asks_for_part(request: Request) -> bool:
    """Whether a part is wanted, of whichever form."""
    values = request.fields.values
    return "range" in values and "if-range" not in values


def _choose(found: Found, codings: Codings) -> Found | None:
    """The file or that of its sidecars that is sent; None when the client takes none of them."""
    if not found.sidecars:
        return found if codings.identity else None
    forms = {one.variant.coding: one for one in (found, *found.sidecars) if one.variant}
    sizes = {coding: one.variant.size_bytes for coding, one in forms.items() if one.variant}
    try:
        return forms[choose_coding(codings, sizes)]
    except NotAcceptable:
        return None
