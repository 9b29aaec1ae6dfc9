"""Patterns of paths and templates of targets as tables, and compared with a naive model."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioserve.protocol.patterns import (
    Captures,
    Template,
    Unreadable,
    parse_pattern,
    parse_template,
    quote_capture,
)
from aioserve.protocol.target import parse_target

NAMES = frozenset({"splat", "id", "year", "month"})


def match(pattern: str, path: str) -> Captures | None:
    host, parsed = parse_pattern(pattern)
    assert host is None
    target = parse_target("GET", path.encode())
    return parsed.match(target.segments, is_folder=target.is_folder)


class TestMatching:
    @pytest.mark.parametrize(
        ("pattern", "path", "expected"),
        [
            pytest.param("/", "/", {}, id="the root"),
            pytest.param("/", "/a", None, id="the root is no other path"),
            pytest.param("/a/b", "/a/b", {}, id="a path is itself"),
            pytest.param("/a/b", "/a/b/", {}, id="a slash at the end of the path makes no difference"),
            pytest.param("/a/b/", "/a/b", {}, id="a slash at the end of the pattern makes no difference"),
            pytest.param("/a", "/A", None, id="case makes a difference"),
            pytest.param("/a", "/a/b", None, id="a path is not what is below it"),
            pytest.param("/a/b", "/a", None, id="a path is not what is above it"),
            pytest.param("/a//b", "/a/b", {}, id="empty segments are passed over in a pattern"),
            pytest.param("/a/b", "//a///b", {}, id="empty segments are passed over in a path"),
            pytest.param(
                "/caf%C3%A9", "/caf\u00e9", {}, id="an encoded pattern is a path that is not encoded"
            ),
            pytest.param("/caf\u00e9", "/caf%c3%a9", {}, id="a pattern can be written without encoding"),
            pytest.param("/a%3Ab", "/a:b", {}, id="an encoded colon is a colon"),
            pytest.param("/a%2Ab", "/a*b", {}, id="an encoded asterisk is an asterisk"),
            pytest.param("/1:30", "/1:30", {}, id="a colon before a digit is a colon"),
            pytest.param("/*", "/", {"splat": b""}, id="an asterisk can be nothing"),
            pytest.param("/*", "/a/b", {"splat": b"a/b"}, id="an asterisk is all segments"),
            pytest.param("/*", "/a/b/", {"splat": b"a/b/"}, id="an asterisk keeps the slash at the end"),
            pytest.param("/*", "/a%2520b", {"splat": b"a%20b"}, id="a capture is decoded once"),
            pytest.param("/x/*", "/x", {"splat": b""}, id="what is below a folder is the folder too"),
            pytest.param("/x/*", "/x/", {"splat": b""}, id="and with its slash"),
            pytest.param("/x/*", "/xy", None, id="and no other name"),
            pytest.param(
                "/x/*", "/x//evil.example", {"splat": b"evil.example"}, id="an asterisk has no empty start"
            ),
            pytest.param("/*.css", "/a/b.css", {"splat": b"a/b"}, id="a suffix behind an asterisk"),
            pytest.param("/*.css", "/a.css/", {"splat": b"a"}, id="a suffix with a slash behind the path"),
            pytest.param("/*.css", "/.css", {"splat": b""}, id="a suffix alone"),
            pytest.param("/*.css", "/css", None, id="a suffix that is not there"),
            pytest.param("/*.css", "/", None, id="a suffix needs a segment"),
            pytest.param("/a*", "/abc/d", {"splat": b"bc/d"}, id="a prefix before an asterisk"),
            pytest.param("/a*a", "/a", None, id="prefix and suffix do not overlap"),
            pytest.param("/a*a", "/aa", {"splat": b""}, id="prefix and suffix can touch"),
            pytest.param("/a/*/b", "/a/x/y/b", {"splat": b"x/y"}, id="an asterisk in the middle"),
            pytest.param("/a/*/b", "/a/b", None, id="an asterisk in the middle is a segment at least"),
            pytest.param("/:id", "/7", {"id": b"7"}, id="a placeholder is a segment"),
            pytest.param("/:id", "/", None, id="a placeholder is not nothing"),
            pytest.param("/:id", "/7/8", None, id="a placeholder is one segment"),
            pytest.param(
                "/:year/:month/*",
                "/24/12/a/b",
                {"year": b"24", "month": b"12", "splat": b"a/b"},
                id="several placeholders and an asterisk",
            ),
            pytest.param(
                "/*/:id", "/a/b/c", {"splat": b"a/b", "id": b"c"}, id="a placeholder behind an asterisk"
            ),
            pytest.param("/v:id.js", "/v12.js", {"id": b"12"}, id="a placeholder in a segment"),
            pytest.param("/v:id.js", "/v.js", None, id="a placeholder in a segment is a character at least"),
            pytest.param(
                "/:year-:month",
                "/a-b-c",
                {"year": b"a-b", "month": b"c"},
                id="the first placeholder takes most",
            ),
            pytest.param("/:year-:month", "/a-", None, id="the last placeholder takes one character"),
            pytest.param(
                "/:year-:month",
                "/--a",
                {"year": b"-", "month": b"a"},
                id="a placeholder can be what separates",
            ),
            pytest.param("/aa:id-aa", "/aa-aa", None, id="the texts around a placeholder do not overlap"),
        ],
    )
    def test_a_pattern_is_these_paths(self, pattern: str, path: str, expected: Captures | None) -> None:
        assert match(pattern, path) == expected

    @pytest.mark.parametrize(
        ("text", "host"),
        [
            pytest.param("https://a.example/x", "a.example", id="a URL has a host"),
            pytest.param("HTTP://A.example/x", "a.example", id="neither scheme nor host have a case"),
            pytest.param("http://a.example./x", "a.example", id="a dot at the end of a host is none"),
            pytest.param("/x", None, id="a path has none"),
        ],
    )
    def test_a_pattern_can_name_a_host(self, text: str, host: str | None) -> None:
        assert parse_pattern(text) == (host, parse_pattern("/x")[1])

    def test_a_url_without_a_path_is_the_root(self) -> None:
        assert parse_pattern("http://a.example") == ("a.example", parse_pattern("/")[1])

    @pytest.mark.parametrize(
        ("text", "offset", "expected"),
        [
            pytest.param("a", 0, "a path that begins with /", id="no slash"),
            pytest.param("", 0, "a path that begins with /", id="nothing"),
            pytest.param("ftp://a/b", 0, "a path that begins with /", id="another scheme"),
            pytest.param("/a?b", 2, "a path without a query", id="a query"),
            pytest.param("/a#b", 2, "a path without a fragment", id="a fragment"),
            pytest.param("/*/*", 3, "one * at most", id="two asterisks"),
            pytest.param("/**", 2, "one * at most", id="two asterisks in one segment"),
            pytest.param("/a/:id-*", 3, "no placeholder beside", id="a placeholder beside an asterisk"),
            pytest.param("/:a:b", 3, "a character between", id="two placeholders with nothing between them"),
            pytest.param("/:a/:a", 4, "a name that is not used twice", id="a name twice"),
            pytest.param("/:splat", 1, "a name other than splat", id="the name of the asterisk"),
            pytest.param("/a/../b", 3, "no segment . or ..", id="two dots"),
            pytest.param("/%2e%2E/b", 1, "no segment . or ..", id="two encoded dots"),
            pytest.param("/a%2Fb", 1, "no encoded slash", id="an encoded slash"),
            pytest.param("/a%00", 1, "no encoded slash and no NUL", id="an encoded NUL"),
            pytest.param("/a%zz", 2, "two hexadecimal digits", id="a percent sign that encodes nothing"),
            pytest.param("/a b", 2, "no blank", id="a blank"),
            pytest.param("/a\r\nb", 2, "no blank and no control character", id="an end of line"),
            pytest.param("https://:sub.a.example/", 8, "a host", id="a placeholder in the host"),
            pytest.param("https://a.example:80/", 8, "a host without port", id="a port"),
            pytest.param("https://*.example/", 8, "a host", id="an asterisk in the host"),
            pytest.param("https:///a", 8, "a host", id="an empty host"),
        ],
    )
    def test_what_is_no_pattern_is_told_with_its_place(self, text: str, offset: int, expected: str) -> None:
        with pytest.raises(Unreadable, match=re.escape(expected)) as caught:
            parse_pattern(text)
        assert caught.value.offset == offset


# ---- a naive model ---------------------------------------------------------------------------------------

LETTERS = st.sampled_from("ab-.")
SEGMENT = st.text(LETTERS, min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
PIECES = st.lists(
    st.one_of(st.text(LETTERS, max_size=2), st.sampled_from([":p", ":q", ":r"])), min_size=1, max_size=5
)


def model(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression, which may take its time here."""
    parts = []
    for part in pattern.strip("/").split("/"):
        if "*" in part:
            start, end = part.split("*")
            parts.append(f"/{re.escape(start)}(?P<splat>.*){re.escape(end)}")
        else:
            pieces = re.split(r":([a-z])", part)
            parts.append(
                "/"
                + "".join(
                    f"(?P<{text}>[^/]+)" if index % 2 else re.escape(text)
                    for index, text in enumerate(pieces)
                )
            )
    expression = "".join(parts)
    if pattern.endswith("/*"):
        expression = expression.removesuffix("/(?P<splat>.*)") + "(?:/(?P<splat>.*))?"
    return re.compile(expression, re.DOTALL)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    segments = ["".join(draw(PIECES)) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        star = draw(st.sampled_from(["*", "a*", "*b", "*.a", "a*a"]))
        segments.insert(draw(st.integers(0, len(segments))), star)
    return "/" + "/".join(segments)


class TestAgainstTheModel:
    @given(patterns(), st.lists(SEGMENT, min_size=1, max_size=5))
    @example("/:p-:q", ["a--b"])
    @example("/a*a", ["a"])
    @example("/*/a", ["a", "a"])
    def test_a_pattern_matches_what_the_expression_does(self, pattern: str, segments: list[str]) -> None:
        try:
            _, parsed = parse_pattern(pattern)
        except Unreadable:
            return
        # Names of one letter end where the next letter begins, in the model.
        if re.search(r":[pqr][a-z]", pattern):
            return
        found = parsed.match(tuple(segment.encode() for segment in segments), is_folder=False)
        expected = model(pattern).fullmatch("/" + "/".join(segments))
        if expected is None:
            assert found is None
        else:
            texts = {name: (text or "").encode() for name, text in expected.groupdict().items()}
            assert found == texts

    @given(patterns(), st.lists(SEGMENT, max_size=4))
    def test_what_matches_begins_with_the_literal_segments(self, pattern: str, segments: list[str]) -> None:
        try:
            _, parsed = parse_pattern(pattern)
        except Unreadable:
            return
        names = tuple(segment.encode() for segment in segments)
        found = parsed.match(names, is_folder=False)
        if found is not None:
            assert names[: len(parsed.literal)] == parsed.literal
            assert found.keys() == parsed.names
        if parsed.is_literal:
            assert (found is not None) == (names == parsed.literal)


class TestTemplates:
    @pytest.mark.parametrize(
        ("text", "captures", "query", "expected"),
        [
            pytest.param("/a", {}, None, "/a", id="a path"),
            pytest.param("/a/", {}, None, "/a/", id="a path with a slash behind it"),
            pytest.param("https://b.example", {}, None, "https://b.example/", id="a host gets its slash"),
            pytest.param(
                "https://b.example:8443/a", {}, None, "https://b.example:8443/a", id="a URL with a port"
            ),
            pytest.param("/b/:splat", {"splat": b"x/y"}, None, "/b/x/y", id="what the asterisk was"),
            pytest.param("/b/:splat", {"splat": b""}, None, "/b/", id="when it was nothing"),
            pytest.param(
                "/:year-:month.html",
                {"year": b"24", "month": b"12"},
                None,
                "/24-12.html",
                id="within a segment",
            ),
            pytest.param(
                "/:id", {"id": b"a/b?c#d%"}, None, "/a%2Fb%3Fc%23d%25", id="what has a meaning is encoded"
            ),
            pytest.param(
                "/:splat", {"splat": b"a?b/c#d"}, None, "/a%3Fb/c%23d", id="the asterisk keeps slashes"
            ),
            pytest.param(
                "/:id", {"id": b"caf\xc3\xa9 \xff"}, None, "/caf%C3%A9%20%FF", id="bytes are encoded"
            ),
            pytest.param(
                "/:id", {"id": b"a\r\nSet-Cookie: b"}, None, "/a%0D%0ASet-Cookie:%20b", id="no new line"
            ),
            pytest.param(
                "/:id", {"id": b"\\evil.example"}, None, "/%5Cevil.example", id="a backslash is encoded"
            ),
            pytest.param(
                "/:splat", {"splat": b"/evil.example"}, None, "/evil.example", id="no other authority"
            ),
            pytest.param(
                "/:splat/evil.example", {"splat": b""}, None, "/evil.example", id="not by an empty one either"
            ),
            pytest.param("/caf\u00e9 ".strip(), {}, None, "/caf%C3%A9", id="a path is encoded"),
            pytest.param("/caf%C3%A9", {}, None, "/caf%C3%A9", id="and not twice"),
            pytest.param("/a", {}, b"q=1", "/a?q=1", id="the query is kept"),
            pytest.param("/a", {}, b"", "/a", id="an empty query is left out"),
            pytest.param("/a?b=c", {}, b"q=1", "/a?b=c", id="the query of the target counts"),
            pytest.param("/a?", {}, b"q=1", "/a?", id="an empty one too"),
            pytest.param("/a#b", {}, b"q=1", "/a?q=1#b", id="a fragment stands behind the query"),
            pytest.param("/a", {}, b"q#b", "/a?q%23b", id="a query cannot begin a fragment"),
            pytest.param(
                "/a?id=:id",
                {"id": b"1&b=2+3"},
                None,
                "/a?id=1%26b%3D2%2B3",
                id="a parameter stays one parameter",
            ),
            pytest.param("/wiki/Talk:Main", {}, None, "/wiki/Talk:Main", id="a colon in a name is a colon"),
            pytest.param(
                "/wiki/:id:Main", {"id": b"Talk"}, None, "/wiki/Talk:Main", id="a colon behind a name"
            ),
            pytest.param(
                "https://web.example/http://:id/",
                {"id": b"a"},
                None,
                "https://web.example/http://a/",
                id="a URL in a URL",
            ),
        ],
    )
    def test_a_template_is_filled_in(
        self, text: str, captures: Captures, query: bytes | None, expected: str
    ) -> None:
        template = parse_template(text, frozenset(captures))

        assert template.format_location(captures, query) == expected

    @pytest.mark.parametrize(
        ("text", "offset", "expected"),
        [
            pytest.param("a", 0, "a path that begins with one /", id="no slash"),
            pytest.param(
                "//a.example/b", 0, "a path that begins with one /", id="an authority without a scheme"
            ),
            pytest.param(
                "/\\a.example/b", 0, "a path that begins with one /", id="what browsers take for one"
            ),
            pytest.param("javascript:alert(1)", 0, "a path that begins with one /", id="another scheme"),
            pytest.param(
                "https://:id.example/", 8, "a host, without placeholder", id="a placeholder in the host"
            ),
            pytest.param(
                "https://a.example:id/", 8, "a host, without placeholder", id="a placeholder for the port"
            ),
            pytest.param("https://u@a.example/", 8, "a host", id="somebody's name"),
            pytest.param("/a\r\nb", 2, "no blank and no control character", id="an end of line"),
            pytest.param("/a%zz", 2, "two hexadecimal digits", id="a percent sign that encodes nothing"),
            pytest.param("/a/:idd", 3, "a placeholder of the path", id="an unknown placeholder"),
            pytest.param(
                "/a/:idd/b", 3, "a placeholder of the path", id="an unknown placeholder in the middle"
            ),
        ],
    )
    def test_what_is_no_template_is_told_with_its_place(self, text: str, offset: int, expected: str) -> None:
        with pytest.raises(Unreadable, match=re.escape(expected)) as caught:
            parse_template(text, NAMES)
        assert caught.value.offset == offset

    def test_an_unknown_placeholder_is_told_which_there_are(self) -> None:
        with pytest.raises(Unreadable, match=r":id, :splat$"):
            parse_template("/:x", frozenset({"splat", "id"}))

    @given(
        st.sampled_from(["/:splat", "/:id", "/:id/:splat", "/a/:splat/b", "/:splat/:id?:id=:splat"]),
        st.binary(max_size=12),
        st.binary(max_size=12),
    )
    @example("/:splat", b"/evil.example", b"x")
    @example("/:id/:splat", b"\\evil.example", b"")
    def test_no_capture_leads_elsewhere_or_ends_the_line(self, text: str, splat: bytes, id: bytes) -> None:  # noqa: A002
        location = parse_template(text, NAMES).format_location({"splat": splat, "id": id}, None)

        assert re.fullmatch(r"/(?!/)[!-~]*", location)
        assert "\\" not in location

    @given(st.lists(SEGMENT, max_size=4))
    def test_a_rewrite_leads_to_what_its_location_says(self, segments: list[str]) -> None:
        template = parse_template("/x/:splat", NAMES)
        captures = {"splat": "/".join(segments).encode()}

        location = template.format_location(captures, b"q")

        assert template.make_target(captures, b"q") == parse_target("GET", location.encode())

    @pytest.mark.parametrize(
        "id",
        [pytest.param(b"a/b", id="a slash"), pytest.param(b"\0", id="NUL")],
    )
    def test_a_rewrite_leads_nowhere_for_a_name_that_no_file_has(self, id: bytes) -> None:  # noqa: A002
        assert parse_template("/:id", NAMES).make_target({"id": id}, None) is None

    def test_a_capture_cannot_climb(self) -> None:
        target = parse_template("/a/:id/b", NAMES).make_target({"id": b".."}, None)

        assert target == parse_target("GET", b"/b")

    def test_a_template_knows_whether_it_leads_to_this_site(self) -> None:
        templates: list[Template] = [parse_template(text, NAMES) for text in ("/a", "http://a.example/")]

        assert [template.is_own for template in templates] == [True, False]


def test_a_captured_text_is_quoted_for_a_field() -> None:
    assert quote_capture("id", b"a/b \r\n") == "a%2Fb%20%0D%0A"
    assert quote_capture("splat", b"a/b c") == "a/b%20c"
