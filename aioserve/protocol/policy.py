"""What the owner wants for one URL, and how it is put over an answer.

A `Plan` is decided without knowing of the owner's wishes. `apply_policy` then sets the fields that were asked
for on whatever the answer is: a file, a part of it, "not modified", a redirect, an error, a listing. It never
touches what frames the message or describes its bytes.

Where sources disagree about a field, the later one counts: what is built in, the presets (--security-headers,
--coi), --cors, the rules of the site (_headers and [[headers]]), --header, and for Cache-Control
--cache-control. What is typed is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from aioserve.protocol.cors import Cors, list_fields
from aioserve.protocol.globs import Glob, parse_glob
from aioserve.protocol.hashed_names import has_content_hash
from aioserve.protocol.plan import Field, Plan
from aioserve.protocol.rule_syntax import find_field_problem

# Revalidation costs one short exchange and is never stale.
REVALIDATE: Final = "no-cache"

# A year is what RFC 2616 §14.21 had as the longest, and what everybody writes. RFC 8246: nobody asks again,
# not even when the page is reloaded.
IMMUTABLE: Final = "public, max-age=31536000, immutable"

# RFC 9112 §6, RFC 9110 §7.6.1, §8.6, §8.8, §10.2, §14: what the server alone can know. What is said of them
# elsewhere is refused where it is read; here they are safe whoever asks.
_OWN: Final = frozenset(
    {
        "accept-ranges",
        "allow",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "date",
        "etag",
        "keep-alive",
        "last-modified",
        "location",
        "repr-digest",
        "server",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# What a policy holds apart from its fields. Content-Type is asked for where an answer is made: its bytes may
# be an error's, or several parts.
_SPECIAL: Final = frozenset({"cache-control", "content-type", "vary"})

# Where a field that describes the file has a place. RFC 9110 §15.4.5: of these a 304 carries what a cache
# needs. An error or a redirect is something else.
_STATUSES: Final = {
    "content-disposition": (200, 206),
    "content-language": (200, 206),
    "content-location": (200, 206, 304),
    "expires": (200, 206, 304),
}

# --coi. SharedArrayBuffer, threads of WebAssembly and exact timers exist only in a page that is isolated from
# other origins (HTML §7.1.3, §7.1.4): COOP cuts it off from who opened it, COEP lets in nothing of another
# origin that does not say so. Files of the page's own origin need not say it, so there is no CORP here.
COI_FIELDS: Final[tuple[Field, ...]] = (
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
)

# --security-headers. What a static site survives: nothing here stops its own scripts, styles, frames, fonts
# and plug-ins, or those that it loads from elsewhere. No Strict-Transport-Security: over plain HTTP it means
# nothing (RFC 6797 §7.2), and whoever ends TLS in front knows for which names and how long.
SECURITY_FIELDS: Final[tuple[Field, ...]] = (
    # No browser may take a file for another type than it is sent with. Files and errors have it anyway.
    ("X-Content-Type-Options", "nosniff"),
    # Other sites learn from which site somebody comes, not from which page. Newer browsers do it themselves.
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    # No other site can put a page into a frame and have it clicked unseen. The second is for browsers that
    # do not know the first.
    ("Content-Security-Policy", "frame-ancestors 'self'"),
    ("X-Frame-Options", "SAMEORIGIN"),
    # Who opened a page has no hold of it; the windows that a page opens itself, to sign in or to pay, work.
    ("Cross-Origin-Opener-Policy", "same-origin-allow-popups"),
    # The pages may ask for these, the frames of other sites in them may not, whoever put them there.
    ("Permissions-Policy", "camera=(self), microphone=(self), geolocation=(self), usb=(self)"),
)


class Policy(NamedTuple):
    """The owner's will for one URL. Those that `Policies.find` gives are one object if they are equal.

    `cache_control` is for answers that succeed, redirects included, and None where there shall be none;
    `error_cache_control` is for the others. `fields` replace those of the same name; `removed` has lower-case
    names of fields that are not sent; `vary` is added to Vary. `content_type` is for files, and for whoever
    makes their plans; None to go by the name.
    """

    cache_control: str | None = REVALIDATE
    error_cache_control: str = REVALIDATE
    fields: tuple[Field, ...] = ()
    removed: frozenset[str] = frozenset()
    vary: str = ""
    content_type: str | None = None


DEFAULT: Final = Policy()


def apply_policy(plan: Plan, policy: Policy) -> Plan:
    """The same answer as the owner wants it."""
    if policy is DEFAULT:
        return plan
    return plan._replace(fields=_apply(plan.status, plan.fields, policy))


# The answers to one file differ in little, and errors in nothing.
@lru_cache(maxsize=1024)
def _apply(status: int, fields: tuple[Field, ...], policy: Policy) -> tuple[Field, ...]:
    added = [field for field in policy.fields if status in _STATUSES.get(field[0].lower(), (status,))]
    replaced = {name.lower() for name, _ in added} | policy.removed
    cache_control = policy.cache_control if status < 400 else policy.error_cache_control
    answer: list[Field] = []
    vary = ""
    for name, value in fields:
        key = name.lower()
        if key == "vary":
            vary = value
        elif key == "cache-control":
            if cache_control is not None:
                answer.append((name, cache_control))
        elif key not in replaced:
            answer.append((name, value))
    if policy.vary:
        vary = merge_vary(vary, policy.vary.split(","))
    if vary:
        answer.append(("Vary", vary))
    return (*answer, *added)


def merge_vary(vary: str, names: Iterable[str]) -> str:
    """The value of a Vary field with these names in it; empty when there are none (RFC 9110 §12.5.5)."""
    known = {name.strip().lower() for name in vary.split(",")}
    if "*" in known:
        return vary
    for name in map(str.strip, names):
        if name and name.lower() not in known:
            known.add(name.lower())
            vary = f"{vary}, {name}" if vary else name
    return vary


# RFC 9111 §5.2: Cache-Control = #( token [ "=" ( token / quoted-string ) ] ). Which directives there are is
# not checked: there will be others.
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_DIRECTIVE: Final = rf'[ \t]*{_TOKEN}(?:=(?:{_TOKEN}|"[^"\\]*"))?[ \t]*'


def parse_cache_control(text: str) -> tuple[Glob, str]:
    """Reads "GLOB: VALUE". Raises ValueError with what was expected."""
    glob, colon, value = text.partition(": ")
    value = value.strip()
    if not colon or not re.fullmatch(f"{_DIRECTIVE}(?:,{_DIRECTIVE})*", value):
        raise ValueError("a glob, a colon, a blank and directives such as max-age=3600, separated by commas")
    return parse_glob(glob.strip()), value


def parse_field(text: str) -> Field:
    """Reads "Name: value". Raises ValueError with what was expected."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not value:
        raise ValueError("a name, a colon and a value, such as X-Robots-Tag: noindex")
    if problem := find_field_problem(name, value):
        raise ValueError(problem)
    if name.lower() == "content-type":
        raise ValueError(
            "a field other than Content-Type: it is another one for each file; [[headers]] can set it"
        )
    return name, value


class Wishes(NamedTuple):
    """What one source says: fields that it sets, and lower-case names of those that it removes."""

    fields: tuple[Field, ...] = ()
    removed: frozenset[str] = frozenset()


NO_WISHES: Final = Wishes()


# Policies of one site that are told apart; few of them differ.
_MAX_KNOWN: Final = 1024


class Policies:
    """The will of one owner, for each URL of his site.

    `presets` are groups of fields for every answer, below all else. `fields` are those of --header.
    `cache_control` holds globs and their values, of which the last that names the file counts.
    """

    def __init__(
        self,
        *,
        presets: Sequence[tuple[Field, ...]] = (),
        fields: Sequence[Field] = (),
        cache_control: Sequence[tuple[Glob, str]] = (),
        cors: Cors | None = None,
    ) -> None:
        self.cors = cors
        self._presets = tuple(Wishes(group) for group in presets)
        self._fields = Wishes(tuple(fields))
        self._cache_control = tuple(cache_control)
        self._known: dict[Policy, Policy] = {DEFAULT: DEFAULT}
        self._find = lru_cache(maxsize=4096)(self._make)

    @property
    def depends_on_origin(self) -> bool:
        """Whether another Origin could get another answer."""
        return self.cors is not None and not self.cors.is_for_all

    def find(
        self,
        segments: tuple[bytes, ...],
        file: tuple[bytes, ...] | None = None,
        *,
        rules: Wishes = NO_WISHES,
        origin: str | None = None,
    ) -> Policy:
        """What is wanted for the URL with these segments, where it is answered with `file`.

        The file decides about Cache-Control: an address that leads to a page is not as lasting as its name
        looks. `rules` is what the site's own rules say of the URL, `origin` the field of the request.
        """
        allowed = None if self.cors is None else self.cors.find_allowed(origin)
        # The names of what is missing are as many as somebody likes to think of.
        path = file if file is not None else segments if self._cache_control else ()
        return self._find(path, file is not None, rules, allowed)

    def find_general(self, origin: str | None = None) -> Policy:
        """What is wanted for an answer to a request that names nothing, such as one that cannot be read."""
        return self.find((), origin=origin)

    def _make(self, path: tuple[bytes, ...], is_file: bool, rules: Wishes, allowed: str | None) -> Policy:
        cors = NO_WISHES if self.cors is None else Wishes(list_fields(self.cors, allowed))
        sources = (*self._presets, cors, rules, self._fields)
        fields, removed = _overlay(sources)
        special = {name.lower(): value for name, value in fields if name.lower() in _SPECIAL}
        cache_control = self._find_cache_control(path, is_file, special.get("cache-control"), removed)
        vary = "Origin" if self.depends_on_origin else ""
        for source in sources:
            for name, value in source.fields:
                if name.lower() == "vary":
                    vary = merge_vary(vary, value.split(","))
        # What must not be kept must not be kept as an error either. Whatever else is wanted is wanted of the
        # file: an error that is kept outlives its reason.
        is_secret = cache_control is not None and "no-store" in cache_control.lower()
        policy = Policy(
            cache_control,
            cache_control if cache_control is not None and is_secret else REVALIDATE,
            tuple(field for field in fields if field[0].lower() not in _OWN | _SPECIAL),
            removed - _OWN - _SPECIAL,
            vary,
            special.get("content-type"),
        )
        if len(self._known) >= _MAX_KNOWN:
            # Rules may put a part of the path into a value: then there are as many as there are paths.
            self._known.clear()
        return self._known.setdefault(policy, policy)

    def _find_cache_control(
        self, path: tuple[bytes, ...], is_file: bool, wanted: str | None, removed: frozenset[str]
    ) -> str | None:
        for glob, value in reversed(self._cache_control):
            if glob.match(path):
                return value
        if wanted is not None or "cache-control" in removed:
            return wanted
        return IMMUTABLE if is_file and has_content_hash(path) else REVALIDATE


def _overlay(sources: Iterable[Wishes]) -> tuple[tuple[Field, ...], frozenset[str]]:
    """The fields of several sources, of which a later one replaces what an earlier one says of a name."""
    fields: list[Field] = []
    removed: set[str] = set()
    for source in sources:
        names = {name.lower() for name, _ in source.fields}
        fields = [field for field in fields if field[0].lower() not in names | source.removed]
        fields += source.fields
        removed = (removed | source.removed) - names
    return tuple(fields), frozenset(removed)
