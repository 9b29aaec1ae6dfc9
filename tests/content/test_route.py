"""Where a request is looked for: the candidates in their order, and what the one that is found means."""

from __future__ import annotations

import pytest

from aioserve.content.files import EXTENSIONS, Candidate, Kind
from aioserve.content.route import Route, Routes
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.rules import Redirect, Rewrite
from aioserve.protocol.target import Target, parse_target

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CURL = "*/*"


def find(routes: Routes, path: str, accept: str = CURL, rule: Redirect | Rewrite | None = None) -> Route:
    request = Request("GET", path.encode(), (1, 1), Fields({"accept": accept}))
    return routes.find(request, parse_target("GET", path.encode()), rule)


def show(candidates: list[Candidate] | tuple[Candidate, ...]) -> list[str]:
    """The paths of the candidates; those of folders end in a slash."""
    return [b"/".join(one.segments).decode() + ("/" if one.kind is Kind.FOLDER else "") for one in candidates]


def list_paths(routes: Routes, path: str, accept: str = CURL) -> list[str]:
    return show(find(routes, path, accept).candidates)


def as_target(path: str) -> Target:
    return parse_target("GET", path.encode())


def rewrite(path: str, *, status: int = 200, is_forced: bool = False) -> Rewrite:
    return Rewrite(status, as_target(path), is_forced=is_forced, origin="_redirects:1")


class TestOrder:
    @pytest.mark.parametrize(
        ("path", "wanted"),
        [
            pytest.param("/", ["index.html", "index.htm"], id="the root"),
            pytest.param("/a/", ["a/index.html", "a/index.htm"], id="a folder"),
            pytest.param("/a", ["a", "a/"], id="a name: the file, then the folder"),
            pytest.param("/a/../b", ["b", "b/"], id="dot segments are gone"),
        ],
    )
    def test_the_page_of_the_error_comes_last(self, path: str, wanted: list[str]) -> None:
        routes = Routes(index=("index.html", "index.htm"))

        assert list_paths(routes, path) == [*wanted, "404.html"]

    def test_compressed_forms_come_after_what_is_there_itself(self) -> None:
        routes = Routes(index=("index.html",), sidecars=True)
        forms = [f"a{extension.decode()}" for extension in EXTENSIONS.values()]

        assert list_paths(routes, "/a") == ["a", "a/", *forms, "404.html"]
        assert list_paths(routes, "/a.gz") == ["a.gz", "a.gz/", "404.html"]

    def test_a_folder_that_is_listed_comes_after_its_index(self) -> None:
        assert list_paths(Routes(index=("i",), listed=True), "/a/") == ["a/i", "a/", "404.html"]

    @pytest.mark.parametrize("path", ["/_headers", "/_headers?x", "/a/../_headers", "/%5Fheaders"])
    def test_what_is_unsent_is_not_looked_for(self, path: str) -> None:
        assert list_paths(Routes(index=(), unsent=(b"_headers",)), path) == ["404.html"]

    def test_below_the_root_it_is_a_name_like_others(self) -> None:
        routes = Routes(index=(), unsent=(b"_headers",))

        assert list_paths(routes, "/a/_headers") == ["a/_headers", "a/_headers/", "404.html"]


class TestSingleFile:
    @pytest.mark.parametrize(
        ("path", "is_found"),
        [("/", True), ("/f", True), ("/f/", False), ("/f/f", False), ("/g", False)],
    )
    def test_it_is_at_the_root_and_at_its_name(self, path: str, is_found: bool) -> None:
        routes = Routes(index=("index.html",), only_name=b"f", clean_urls=True, spa="f", sidecars=True)

        assert list_paths(routes, path, BROWSER) == ["f"] * is_found

    @pytest.mark.parametrize(
        ("segments", "is_folder", "is_found"),
        [((), False, True), ((), True, False), ((b"f",), False, False)],
    )
    def test_mounted_it_has_the_name_of_its_place(
        self, segments: tuple[bytes, ...], is_folder: bool, is_found: bool
    ) -> None:
        routes = Routes(index=("index.html",), only_name=b"f", is_mounted=True)
        request = Request("GET", b"/", (1, 1), Fields({}))

        assert show(routes.find(request, Target(segments, is_folder, None)).candidates) == ["f"] * is_found


class TestCleanUrls:
    routes = Routes(index=("index.html",), clean_urls=True)

    @pytest.mark.parametrize(
        ("path", "wanted"),
        [
            pytest.param("/about", ["about", "about.html", "about/"], id="a page before a folder"),
            pytest.param("/a.b", ["a.b", "a.b.html", "a.b/"], id="a name with a dot"),
            pytest.param("/about/", ["about/index.html", "about.html"], id="a folder before a page"),
            pytest.param("/", ["index.html"], id="the root"),
        ],
    )
    def test_a_page_is_found_without_its_extension(self, path: str, wanted: list[str]) -> None:
        assert list_paths(self.routes, path) == [*wanted, "404.html"]

    @pytest.mark.parametrize(
        ("path", "found", "location"),
        [
            pytest.param("/about.html", "about.html", "./about", id="with its extension"),
            pytest.param("/a/b.html?x=1", "a/b.html", "./b?x=1", id="with a query"),
            pytest.param("/about/", "about.html", "../about", id="as a folder"),
            pytest.param("/about", "about.html", None, id="where it belongs"),
            pytest.param("/index.html", "index.html", None, id="an index"),
            pytest.param("/a/index.html", "a/index.html", None, id="an index below"),
            pytest.param("/.html", ".html", None, id="an extension without a name"),
            pytest.param("/page.htm", "page.htm", None, id="another extension"),
            pytest.param("//evil.example/a%0D.html", "evil.example/a\r.html", "./a%0D", id="nothing odd"),
            pytest.param("/javascript:x.html", "javascript:x.html", "./javascript:x", id="no scheme"),
        ],
    )
    def test_other_addresses_of_a_page_lead_there(self, path: str, found: str, location: str | None) -> None:
        route = find(self.routes, path)
        (candidate,) = (one for one in route.candidates if show([one]) == [found])

        assert route.find_location(candidate) == location

    @pytest.mark.parametrize("path", ["/about.html", "/about/"])
    def test_a_page_that_is_there_as_a_form_alone_has_one_address_too(self, path: str) -> None:
        route = find(Routes(index=("index.html",), clean_urls=True, sidecars=True), path)
        found = [one for one in route.candidates if show([one])[0].startswith("about.html.")]

        forms = [one for one in found if one.coding and not show([one])[0].startswith("about.html.html")]
        assert len(forms) == len(EXTENSIONS)
        assert None not in map(route.find_location, forms)

    def test_a_rewrite_can_name_the_clean_address(self) -> None:
        route = find(self.routes, "/x", rule=rewrite("/about"))

        assert show(route.rewritten)[:2] == ["about", "about.html"]
        assert not route.moved


class TestSinglePage:
    routes = Routes(index=("index.html",), spa="app/index.html")

    @pytest.mark.parametrize(
        "path", ["/users", "/users/", "/users/7", "/v1.2/users", "/a.b/", "/x/.well-known/y"]
    )
    def test_a_page_that_does_not_exist_is_that_of_the_application(self, path: str) -> None:
        route = find(self.routes, path, BROWSER)

        assert show(route.candidates)[-2:] == ["app/index.html", "404.html"]
        assert route.fallback is route.candidates[-2]
        assert self.routes.depends_on_accept(as_target(path))

    @pytest.mark.parametrize(
        "path", ["/main.js", "/a/b.css", "/user.name", "/.well-known/change-password", "/.well-known/"]
    )
    def test_a_file_that_is_missing_is_missing(self, path: str) -> None:
        assert find(self.routes, path, BROWSER).fallback is None
        assert not self.routes.depends_on_accept(as_target(path))

    @pytest.mark.parametrize("accept", [CURL, "", "application/json", "application/json, text/html;q=0.9"])
    def test_programs_see_what_is_missing(self, accept: str) -> None:
        assert find(self.routes, "/users", accept).fallback is None

    def test_what_was_looked_for_before_it_is_known(self) -> None:
        route = find(self.routes, "/users", BROWSER)
        assert route.fallback is not None

        assert show(route.list_before(route.fallback)) == ["users", "users/"]

    def test_asked_for_by_its_own_name_it_is_a_file(self) -> None:
        route = find(self.routes, "/app/index.html", BROWSER)

        assert route.candidates[0] == Candidate((b"app", b"index.html"), Kind.FILE)
        assert route.candidates[0] is not route.fallback


class TestPagesOfErrors:
    @pytest.mark.parametrize(
        ("status", "name"),
        [(403, "403.html"), (404, "404.html"), (500, "50x.html"), (503, "50x.html"), (405, None)],
    )
    def test_they_have_names_by_default(self, status: int, name: str | None) -> None:
        page = Routes(index=()).find_page(status)

        assert (None if page is None else show([page])[0]) == name

    def test_the_owner_can_choose_others(self) -> None:
        routes = Routes(index=(), pages={404: "pages/lost.html", 503: "busy.html"})

        assert [show([page]) for status in (404, 503, 502) if (page := routes.find_page(status))] == [
            ["pages/lost.html"],
            ["busy.html"],
            ["50x.html"],
        ]

    def test_a_single_file_has_none(self) -> None:
        assert Routes(index=(), only_name=b"f").find_page(404) is None

    def test_the_page_is_an_error_and_the_file_of_its_name_is_none(self) -> None:
        route = find(Routes(index=()), "/404.html")

        assert [route.is_error(one) for one in route.candidates] == [False, False, True]


class TestRules:
    def test_by_force_nothing_else_is_looked_for(self) -> None:
        routes = Routes(index=("index.html",))
        forced = rewrite("/b/", is_forced=True)
        redirect = Redirect(301, "/b", is_forced=True, origin="_redirects:1")

        assert show(find(routes, "/a", rule=forced).candidates) == ["b/index.html", "404.html"]
        assert find(routes, "/a", rule=redirect).candidates == []

    def test_it_is_obeyed_where_nothing_else_is_found(self) -> None:
        route = find(Routes(index=()), "/a", rule=rewrite("/b", status=404))

        assert [route.obeys(one) for one in route.candidates] == [False, False, True, False]
        assert [route.is_error(one) for one in route.candidates] == [False, False, True, True]
        assert route.obeys(None)
