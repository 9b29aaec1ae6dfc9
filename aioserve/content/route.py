"""Where is a request looked for? `Routes.find` gives the candidates on the disk, in their order.

Here stand the index, clean URLs, the page of a single-page application, the files of the owner's rules, and
the page of an error. Nothing is looked up; what becomes of what is found is `site`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aioserve.content.compression import EXTENSIONS
from aioserve.content.files import Candidate, Kind, make_sidecar
from aioserve.protocol.message import Request
from aioserve.protocol.negotiation import prefers_html
from aioserve.protocol.rules import Redirect, Rewrite
from aioserve.protocol.target import Target, format_neighbour_location

# Names of files that are compressed have no compressed forms beside them.
CODED_NAMES = tuple(EXTENSIONS.values())

_PAGE_EXTENSION = b".html"

# The files that are sent with an error, where they exist. The digit stands for the others of its hundred.
_PAGES = {404: (b"404.html",), 403: (b"403.html",), 500: (b"50x.html",)}


class Route(NamedTuple):
    """Where a request is looked for: at `candidates`, in their order.

    `rule` is what the owner's rules say of it; `rewritten` are the candidates that they add. `moved` are
    those whose address is another one, with the location. `fallback` is the page that stands for all that do
    not exist, and `page` that of the error.
    """

    candidates: list[Candidate]
    rule: Redirect | Rewrite | None = None
    rewritten: tuple[Candidate, ...] = ()
    moved: tuple[tuple[Candidate, str], ...] = ()
    fallback: Candidate | None = None
    page: Candidate | None = None

    # Candidates are told apart by identity: asked for by its own name, each is a file like any other.

    def obeys(self, found: Candidate | None) -> bool:
        """Whether the rule decides the answer when that was found."""
        return self.rule is not None and (found is None or any(found is one for one in self.rewritten))

    def is_error(self, found: Candidate) -> bool:
        """Whether what was found is sent as the page of an error."""
        is_page = isinstance(self.rule, Rewrite) and self.rule.status != 200
        return found is self.page or (is_page and any(found is one for one in self.rewritten))

    def find_location(self, found: Candidate) -> str | None:
        """Where what was found has moved to; None when it has not."""
        return next((location for one, location in self.moved if one is found), None)

    def list_before(self, found: Candidate) -> list[Candidate]:
        """What is looked for before that."""
        return self.candidates[: next(index for index, one in enumerate(self.candidates) if one is found)]


NOWHERE = Route([])


class Routes:
    """The ways of one root. `index` holds the names that stand for their folder, best first.

    With `only_name`, the root is one file. `sidecars` tells whether compressed forms may stand for what is
    not there itself. Names in the root that are `unsent` do not exist. With `clean_urls`, pages are found
    without their extension; `spa` is the file that stands for every page that does not exist. `pages` are
    the files that are sent with an error, by status.
    """

    def __init__(
        self,
        *,
        index: Sequence[str],
        only_name: bytes | None = None,
        sidecars: bool = False,
        unsent: Sequence[bytes] = (),
        clean_urls: bool = False,
        spa: str | None = None,
        pages: Mapping[int, str] | None = None,
    ) -> None:
        self._only_name = only_name
        self._index = tuple(name.encode("utf-8", "surrogateescape") for name in index)
        self._has_sidecars = sidecars and only_name is None
        self._unsent = frozenset((name,) for name in unsent)
        self._has_clean_urls = clean_urls and only_name is None
        self._spa = None if spa is None or only_name is not None else _split(spa)
        self._pages = {**_PAGES, **{status: _split(page) for status, page in (pages or {}).items()}}

    @property
    def has_fallback(self) -> bool:
        """Whether a page stands for those that do not exist."""
        return self._spa is not None

    def depends_on_accept(self, target: Target) -> bool:
        """Whether another Accept could lead to another file."""
        return self._spa is not None and _may_be_page(target)

    def find(self, request: Request, target: Target, rule: Redirect | Rewrite | None = None) -> Route:
        """Where `target` is looked for, which `rule` says something of."""
        own = [] if rule is not None and rule.is_forced else self._list_own(target)
        rewritten = self._list_rewritten(rule.target) if isinstance(rule, Rewrite) else []
        moved: list[tuple[Candidate, str]] = []
        if self._has_clean_urls and own:
            moved = self._list_moved(own, target)
        candidates = [*own, *(one for one, _ in moved if one not in own), *rewritten]
        fallback = None
        if self.depends_on_accept(target) and prefers_html(request.fields.get("accept")):
            fallback = Candidate(self._spa or (), Kind.FILE)
            candidates.append(fallback)
        # What a redirect is for is not missing.
        page = None if isinstance(rule, Redirect) else self.find_page(404)
        if page is not None:
            candidates.append(page)
        return Route(candidates, rule, tuple(rewritten), tuple(moved), fallback, page)

    def find_page(self, status: int) -> Candidate | None:
        """The file that is sent with that error, if it exists; None where there can be none."""
        if self._only_name is not None:
            return None
        segments = self._pages.get(status, self._pages[500] if status >= 500 else None)
        return None if segments is None else Candidate(segments, Kind.FILE)

    def find_plain(self, found: Candidate) -> Candidate:
        """The page that a clean URL would lead to before `found`, a page with its extension."""
        *folder, name = found.segments
        return Candidate((*folder, name.removesuffix(_PAGE_EXTENSION)), Kind.FILE)

    def _list_own(self, target: Target) -> list[Candidate]:
        """What could answer `target` by itself, in the order in which it is looked for."""
        if self._only_name is not None:
            is_named = target.segments == (self._only_name,) and not target.is_folder
            return [Candidate((self._only_name,), Kind.FILE)] if is_named or not target.segments else []
        if target.segments in self._unsent:
            return []
        if target.is_folder:
            names = self._list_index(target.segments)
            return [*names, *self._list_sidecars(names)]
        names = [Candidate(target.segments, Kind.FILE)]
        if self._has_clean_urls:
            names.append(_add_extension(target))
        return [*names, Candidate(target.segments, Kind.FOLDER), *self._list_sidecars(names)]

    def _list_moved(self, own: Sequence[Candidate], target: Target) -> list[tuple[Candidate, str]]:
        """Which candidates have a clean URL elsewhere: pages with their extension, or as a folder."""
        if not target.segments:
            return []
        name = target.segments[-1]
        if target.is_folder:
            return [(_add_extension(target), format_neighbour_location(target, name))]
        stem = name.removesuffix(_PAGE_EXTENSION)
        if stem in ("", name) or name in self._index:
            return []
        return [(own[0], format_neighbour_location(target, stem))]

    def _list_rewritten(self, target: Target) -> list[Candidate]:
        """What could be sent for `target`, whose address nobody sees: the file, or the folder's index."""
        if self._only_name is not None:
            return self._list_own(target)
        if target.segments in self._unsent:
            return []
        names = self._list_index(target.segments)
        if not target.is_folder:
            names.insert(0, Candidate(target.segments, Kind.FILE))
        return [*names, *self._list_sidecars(names)]

    def _list_index(self, segments: tuple[bytes, ...]) -> list[Candidate]:
        return [Candidate((*segments, name), Kind.FILE) for name in self._index]

    def _list_sidecars(self, names: Sequence[Candidate]) -> list[Candidate]:
        """Sidecars of what is not there itself."""
        if not self._has_sidecars:
            return []
        plain = [name for name in names if not name.segments[-1].endswith(CODED_NAMES)]
        return [make_sidecar(name, coding) for name in plain for coding in EXTENSIONS]


def _add_extension(target: Target) -> Candidate:
    *folder, name = target.segments
    return Candidate((*folder, name + _PAGE_EXTENSION), Kind.FILE)


def _may_be_page(target: Target) -> bool:
    """Whether `target` looks like a page of an application, and not like a file that one loads."""
    return target.is_folder or b"." not in target.segments[-1]


def _split(path: str) -> tuple[bytes, ...]:
    return tuple(part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part)
