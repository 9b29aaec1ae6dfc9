"""What rules say of a URL, as tables of `_redirects` and `_headers`; and compared with a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.http1 import format_fields
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.patterns import Pattern
from aioserve.protocol.rule_syntax import parse_headers, parse_redirects
from aioserve.protocol.rules import (
    NO_HEADERS,
    HeaderRule,
    Redirect,
    RedirectRule,
    Rewrite,
    Rules,
    find_host,
)
from aioserve.protocol.target import Target, parse_target


def redirect(rules: str, target: str, host: str | None = None) -> Redirect | Rewrite | None:
    parsed, problems = parse_redirects(rules.encode(), "_redirects")
    assert not problems
    return Rules(parsed).find_redirect(parse_target("GET", target.encode()), host)


def lead(rules: str, target: str, host: str | None = None) -> tuple[int, str] | None:
    """The status, and the location or the path that is sent instead."""
    found = redirect(rules, target, host)
    if isinstance(found, Rewrite):
        path, query = b"/".join(found.target.segments).decode(), found.target.query
        slash = "/" if found.target.is_folder and path else ""
        return found.status, f"/{path}{slash}" + ("" if query is None else f"?{query.decode()}")
    return None if found is None else (found.status, found.location)


class TestRedirects:
    @pytest.mark.parametrize(
        ("rules", "target", "expected"),
        [
            pytest.param("/a /b", "/a", (301, "/b"), id="301 by itself, as Netlify has it"),
            pytest.param("/a /b 302", "/a", (302, "/b"), id="another status"),
            pytest.param("/a /b 303", "/a", (303, "/b"), id="303"),
            pytest.param("/a /b 307", "/a", (307, "/b"), id="307"),
            pytest.param("/a /b 308", "/a", (308, "/b"), id="308"),
            pytest.param("/a /b 200", "/a", (200, "/b"), id="200 is a rewrite"),
            pytest.param("/a /b 404", "/a", (404, "/b"), id="404 is one with another status"),
            pytest.param("/a /b", "/c", None, id="another path"),
            pytest.param("/a /b", "/a/", (301, "/b"), id="a slash makes no difference"),
            pytest.param("/a https://b.example/c", "/a", (301, "https://b.example/c"), id="another host"),
            pytest.param("/a /b\n/a /c", "/a", (301, "/b"), id="the first rule counts"),
            pytest.param("/* /b\n/a /c", "/a", (301, "/b"), id="a pattern before a path counts"),
            pytest.param("/a /c\n/* /b", "/a", (301, "/c"), id="a path before a pattern counts"),
            pytest.param(
                "/a/* /1\n/:x /2\n/* /3", "/a/b", (301, "/1"), id="the order of the file is kept, 1"
            ),
            pytest.param("/a/* /1\n/:x /2\n/* /3", "/c", (301, "/2"), id="the order of the file is kept, 2"),
            pytest.param(
                "/a/* /1\n/:x /2\n/* /3", "/c/d", (301, "/3"), id="the order of the file is kept, 3"
            ),
            pytest.param("/news/* /blog/:splat", "/news/1/2", (301, "/blog/1/2"), id="a splat"),
            pytest.param("/news/* /blog/:splat", "/news/1/", (301, "/blog/1/"), id="a splat keeps its slash"),
            pytest.param(
                "/news/:month/:date/:year /blog/:year/:month/:date",
                "/news/02/12/2004",
                (301, "/blog/2004/02/12"),
                id="placeholders",
            ),
            pytest.param("/x/* /:splat", "/x//evil.example", (301, "/evil.example"), id="no open redirect"),
            pytest.param(
                "/x/* /:splat", "/x/%5Cevil.example", (301, "/%5Cevil.example"), id="nor by a backslash"
            ),
            pytest.param("/x/* /:splat/e.example", "/x", (301, "/e.example"), id="nor by an empty splat"),
            pytest.param(
                "/x/* /y/:splat", "/x/a%20b", (301, "/y/a%20b"), id="what was encoded stays encoded"
            ),
            pytest.param("/x/* /y/:splat", "/x/%0D%0Aa", (301, "/y/%0D%0Aa"), id="an end of line as well"),
            pytest.param("/x/* /y/:splat", "/x/a%3Fb", (301, "/y/a%3Fb"), id="a question mark as well"),
            pytest.param("/a /b", "/a?q=1", (301, "/b?q=1"), id="the query is kept"),
            pytest.param("/a /b?c=d", "/a?q=1", (301, "/b?c=d"), id="but for a target with one"),
            pytest.param("/a /b#c", "/a?q=1", (301, "/b?q=1#c"), id="a fragment stands behind it"),
            pytest.param("/a /b 200", "/a?q=1", (200, "/b?q=1"), id="a rewrite has the query too"),
        ],
    )
    def test_a_rule_leads_there(self, rules: str, target: str, expected: tuple[int, str] | None) -> None:
        assert lead(rules, target) == expected

    @pytest.mark.parametrize(
        ("rules", "target", "expected"),
        [
            pytest.param("/s id=:id /b/:id", "/s?id=7", (301, "/b/7"), id="a parameter is captured"),
            pytest.param("/s id=:id /b/:id", "/s", None, id="without it the rule does not match"),
            pytest.param("/s id=:id /b/:id", "/s?id=", None, id="nor with an empty one"),
            pytest.param("/s id=:id /b/:id", "/s?x=1&id=7&y", (301, "/b/7?x=1&y"), id="others are kept"),
            pytest.param("/s id=:id /b/:id", "/s?id=7&id=8", (301, "/b/7"), id="the first of two counts"),
            pytest.param("/s id=:id /b/:id", "/s?%69d=7", (301, "/b/7"), id="a name can be encoded"),
            pytest.param(
                "/s id=:id /b/:id", "/s?id=a+b%26", (301, "/b/a%20b&"), id="a value is decoded once"
            ),
            pytest.param(
                "/s id=:id /b/:id", "/s?id=a/../b", (301, "/b/a%2F..%2Fb"), id="a slash stays a value"
            ),
            pytest.param("/s id=:id /b?of=:id", "/s?id=a%26b", (301, "/b?of=a%26b"), id="into another query"),
            pytest.param(
                "/s a=:a b=:b /:b/:a", "/s?b=1&a=2", (301, "/1/2"), id="the order of parameters is free"
            ),
            pytest.param(
                "/s id=7 /seven\n/s /other", "/s?id=7", (301, "/seven"), id="a value that is asked for"
            ),
            pytest.param("/s id=7 /seven\n/s /other", "/s?id=8", (301, "/other?id=8"), id="another value"),
            pytest.param("/s id= /none", "/s?id", (301, "/none"), id="an empty value"),
            pytest.param("/s id= /none", "/s?id=1", None, id="a value where none is asked for"),
            pytest.param("/s id=%zz /none", "/s?id=%zz", (301, "/none"), id="what is not encoded is itself"),
            pytest.param(
                "/s id=:id /b/:id 200", "/s?id=a%2Fb", None, id="a rewrite to what no file can be called"
            ),
            pytest.param("/s id=:id /b/:id 200", "/s?id=%00", None, id="nor can it hold NUL"),
            pytest.param("/x/* p=:p /:p/:splat", "/x/a?p=1", (301, "/1/a"), id="with an asterisk"),
        ],
    )
    def test_a_rule_can_ask_for_parameters(
        self, rules: str, target: str, expected: tuple[int, str] | None
    ) -> None:
        assert lead(rules, target) == expected

    @pytest.mark.parametrize(
        ("rules", "target", "host", "expected"),
        [
            pytest.param("http://a.example/* /a/:splat", "/x", "a.example", (301, "/a/x"), id="that host"),
            pytest.param("http://a.example/* /a/:splat", "/x", "b.example", None, id="another host"),
            pytest.param("http://a.example/* /a/:splat", "/x", None, None, id="no host"),
            pytest.param(
                "https://a.example/* https://b.example/:splat",
                "/x/y",
                "a.example",
                (301, "https://b.example/x/y"),
                id="a domain that has moved",
            ),
        ],
    )
    def test_a_rule_can_ask_for_a_host(
        self, rules: str, target: str, host: str | None, expected: tuple[int, str] | None
    ) -> None:
        assert lead(rules, target, host) == expected

    @pytest.mark.parametrize(
        ("rules", "target", "expected"),
        [
            pytest.param("/a /a", "/a", None, id="to itself"),
            pytest.param("/a /a", "/a?q", None, id="to itself with its query"),
            pytest.param("/a /a/", "/a", (301, "/a/"), id="a slash can be added"),
            pytest.param("/a /a/", "/a/", None, id="and not twice"),
            pytest.param("/* /index.html", "/x", (301, "/index.html"), id="everything leads to one page"),
            pytest.param("/* /index.html", "/index.html", None, id="but not the page itself"),
            pytest.param("/:a /:a\n/x /y", "/x", (301, "/y"), id="the rule behind it counts instead"),
            pytest.param("/a /b/../a", "/a", None, id="to itself by a detour"),
            pytest.param("http://h.example/* https://h.example/:splat", "/a", None, id="to the same host"),
        ],
    )
    def test_nothing_is_led_to_where_it_is(
        self, rules: str, target: str, expected: tuple[int, str] | None
    ) -> None:
        assert lead(rules, target, "h.example") == expected

    def test_a_rule_says_whether_it_is_forced_and_where_it_stands(self) -> None:
        rules = "# a comment\n/a /b 301!\n\n/c /d 200!\n/e /f"

        assert redirect(rules, "/a") == Redirect(301, "/b", True, "_redirects:2")
        assert redirect(rules, "/c") == Rewrite(200, parse_target("GET", b"/d"), True, "_redirects:4")
        assert redirect(rules, "/e") == Redirect(301, "/f", False, "_redirects:5")

    def test_no_rule_is_no_answer(self) -> None:
        assert Rules().find_redirect(parse_target("GET", b"/a"), None) is None
        assert not Rules()

    def test_the_same_rules_say_the_same_again(self) -> None:
        parsed, _ = parse_redirects(b"http://a.example/a /b\n/a /c", "_redirects")
        rules = Rules(parsed)
        target = parse_target("GET", b"/a")

        for _ in range(2):
            assert rules.find_redirect(target, "a.example") == Redirect(301, "/b", False, "_redirects:1")
            assert rules.find_redirect(target, "b.example") == Redirect(301, "/c", False, "_redirects:2")


def headers(rules: str, target: str, host: str | None = None) -> tuple[tuple[tuple[str, str], ...], set[str]]:
    parsed, problems = parse_headers(rules.encode(), "_headers")
    assert not problems
    found = Rules((), parsed).find_headers(parse_target("GET", target.encode()), host)
    return found.fields, set(found.removed)


class TestHeaders:
    @pytest.mark.parametrize(
        ("rules", "target", "fields", "removed"),
        [
            pytest.param("/a\n X: 1", "/a", (("X", "1"),), set(), id="a field of a path"),
            pytest.param("/a\n X: 1", "/a/", (("X", "1"),), set(), id="a slash makes no difference"),
            pytest.param("/a\n X: 1", "/b", (), set(), id="another path"),
            pytest.param("/a\n X: 1", "/a?q", (("X", "1"),), set(), id="the query makes no difference"),
            pytest.param("/*.js\n X: 1", "/a/b.js", (("X", "1"),), set(), id="a suffix"),
            pytest.param(
                "/*\n X: 1\n/a\n Y: 2", "/a", (("X", "1"), ("Y", "2")), set(), id="all rules that match apply"
            ),
            pytest.param(
                "/*\n X: 1\n/a\n x: 2", "/a", (("X", "1, 2"),), set(), id="values of a name are joined"
            ),
            pytest.param("/a\n X: 1\n X: 2", "/a", (("X", "1, 2"),), set(), id="those of one rule too"),
            pytest.param(
                "/*\n X-Frame-Options: DENY\n/a\n X-Frame-Options: SAMEORIGIN",
                "/a",
                (("X-Frame-Options", "SAMEORIGIN"),),
                set(),
                id="of a field with one value the last counts",
            ),
            pytest.param(
                "/a\n Set-Cookie: a=1\n Set-Cookie: b=2",
                "/a",
                (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")),
                set(),
                id="cookies are not joined",
            ),
            pytest.param("/*\n X: 1\n/a\n ! X", "/a", (), {"x"}, id="a field is removed"),
            pytest.param("/*\n X: 1\n/a\n ! x", "/b", (("X", "1"),), set(), id="and nowhere else"),
            pytest.param(
                "/a\n ! Cache-Control", "/a", (), {"cache-control"}, id="one of the server is removed"
            ),
            pytest.param("/*\n X: 1\n/a\n ! X\n X: 2", "/a", (("X", "2"),), {"x"}, id="removed and set anew"),
            pytest.param("/a\n ! X\n/*\n X: 1", "/a", (("X", "1"),), {"x"}, id="what stands behind it stays"),
            pytest.param(
                "/:t/*\n X: :t, :splat, :u", "/a/b/c%20d", (("X", "a, b/c%20d, :u"),), set(), id="captures"
            ),
            pytest.param("/a\n X: :t", "/a", (("X", ":t"),), set(), id="a colon is a colon without captures"),
            pytest.param("https://h.example/*\n X: 1", "/a", (("X", "1"),), set(), id="that host"),
            pytest.param("https://i.example/*\n X: 1", "/a", (), set(), id="another host"),
        ],
    )
    def test_the_fields_of_a_path(
        self, rules: str, target: str, fields: tuple[tuple[str, str], ...], removed: set[str]
    ) -> None:
        assert headers(rules, target, "h.example") == (fields, removed)

    def test_the_rules_that_applied_are_named(self) -> None:
        parsed, _ = parse_headers(b"/*\n X: 1\n/b\n X: 1\n/a\n Y: 1\n", "_headers")

        found = Rules((), parsed).find_headers(parse_target("GET", b"/a"), None)

        assert found.origins == ("_headers:1", "_headers:5")

    def test_no_rule_has_no_field(self) -> None:
        assert Rules().find_headers(parse_target("GET", b"/a"), None) is NO_HEADERS

    @given(st.binary(max_size=20))
    def test_no_path_makes_a_line_of_its_own(self, name: bytes) -> None:
        parsed, _ = parse_headers(b"/*\n X: :splat", "_headers")
        segments = tuple(part for part in name.replace(b"\0", b"").split(b"/") if part)

        found = Rules((), parsed).find_headers(Target(segments, is_folder=False, query=None), None)

        assert format_fields(found.fields).count(b"\n") == 1


class TestHosts:
    @pytest.mark.parametrize(
        ("target", "field", "expected"),
        [
            pytest.param("/", "a.example", "a.example", id="the field Host"),
            pytest.param("/", "A.Example:8080", "a.example", id="without case and port"),
            pytest.param("/", "a.example.", "a.example", id="without the dot of the root"),
            pytest.param("/", "a.example:", "a.example", id="without an empty port"),
            pytest.param("/", "[::1]:80", "[::1]", id="an IPv6 address with a port"),
            pytest.param("/", "[::1]", "[::1]", id="an IPv6 address"),
            pytest.param("/", None, None, id="no field"),
            pytest.param("/", "", None, id="an empty field"),
            pytest.param("*", "a.example", "a.example", id="the asterisk of OPTIONS"),
            pytest.param(
                "http://b.example:80/a", "a.example", "b.example", id="an absolute target replaces it"
            ),
            pytest.param(
                "http://b.example?a", "a.example", "b.example", id="an absolute target with a query"
            ),
        ],
    )
    def test_the_host_that_was_asked(self, target: str, field: str | None, expected: str | None) -> None:
        fields = Fields({} if field is None else {"host": field})

        assert find_host(Request("GET", target.encode(), (1, 1), fields)) == expected

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"/a/b", True, id="a redirect of one host"),
            pytest.param(b"/h", True, id="fields of one host"),
            pytest.param(b"/c", False, id="a path without such rules"),
        ],
    )
    def test_a_path_knows_whether_the_host_matters(self, target: bytes, expected: bool) -> None:
        redirects, _ = parse_redirects(b"http://a.example/a/* /x\n/* /y", "_redirects")
        fields, _ = parse_headers(b"http://a.example/h\n X: 1\n/*\n Y: 1", "_headers")
        rules = Rules(redirects, fields)

        assert rules.depends_on_host(parse_target("GET", target)) is expected

    def test_without_hosts_in_the_rules_it_never_matters(self) -> None:
        redirects, _ = parse_redirects(b"/* /y", "_redirects")

        assert not Rules(redirects).depends_on_host(parse_target("GET", b"/a"))


# ---- many rules ------------------------------------------------------------------------------------------

SEGMENTS = st.lists(st.sampled_from(["a", "b", ":p", "c:q"]), max_size=3)


@st.composite
def paths(draw: st.DrawFn) -> str:
    segments = draw(SEGMENTS)
    kept = [
        segment for at, segment in enumerate(segments) if ":" not in segment or segment not in segments[:at]
    ]
    return "/" + "/".join([*kept, *draw(st.sampled_from([[], [], ["*"]]))])


class TestManyRules:
    @given(st.lists(paths(), max_size=12), st.lists(st.sampled_from(["a", "b", "cx"]), max_size=4))
    def test_the_index_finds_what_one_after_the_other_would(self, froms: list[str], names: list[str]) -> None:
        text = "".join(f"{path} /to/{number}\n" for number, path in enumerate(froms))
        parsed, problems = parse_redirects(text.encode(), "_redirects")
        assert not problems
        target = parse_target("GET", ("/" + "/".join(names)).encode())

        found = Rules(parsed).find_redirect(target, None)

        one_by_one = (
            rule
            for rule in parsed
            if rule.pattern.match(target.segments, is_folder=target.is_folder) is not None
        )
        first = next(one_by_one, None)
        assert (None if found is None else found.origin) == (None if first is None else first.origin)

    def test_ten_thousand_paths_are_not_compared_with_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "".join(
            f"/old/{number} /new/{number}\n/deep/{number}/* /new/{number}\n" for number in range(1000)
        )
        text += "".join(f"/page/{number} /new/{number}\n" for number in range(9000))
        parsed, problems = parse_redirects(text.encode(), "_redirects")
        assert not problems
        rules = Rules(parsed)
        compared: list[Pattern] = []
        match = Pattern.match

        def count(self: Pattern, segments: tuple[bytes, ...], *, is_folder: bool) -> object:
            compared.append(self)
            return match(self, segments, is_folder=is_folder)

        monkeypatch.setattr(Pattern, "match", count)

        assert rules.find_redirect(parse_target("GET", b"/page/8999"), None) is not None
        assert rules.find_redirect(parse_target("GET", b"/deep/999/x"), None) is not None
        assert rules.find_redirect(parse_target("GET", b"/index.html"), None) is None
        assert len(compared) == 2

    def test_what_was_found_is_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parsed, _ = parse_redirects(b"/* /x/:splat", "_redirects")
        fields, _ = parse_headers(b"/*\n X: 1", "_headers")
        rules = Rules(parsed, fields)
        target = parse_target("GET", b"/a")
        before = rules.find_redirect(target, "a.example"), rules.find_headers(target, "a.example")

        monkeypatch.delattr(Pattern, "match")

        assert (rules.find_redirect(target, "b.example"), rules.find_headers(target, None)) == before

    def test_rules_are_values(self) -> None:
        redirects, _ = parse_redirects(b"/a /b", "_redirects")
        fields, _ = parse_headers(b"/a\n X: 1", "_headers")

        assert hash(redirects) == hash(parse_redirects(b"/a /b", "_redirects")[0])
        assert isinstance(redirects[0], RedirectRule)
        assert hash(fields) == hash(parse_headers(b"/a\n X: 1", "_headers")[0])
        assert isinstance(fields[0], HeaderRule)
