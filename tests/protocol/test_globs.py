"""What globs name, and what they do not; and that no glob takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.globs import MAX_ALTERNATIVES, parse_glob

NAMED = [
    ("*.html", "index.html"),
    ("*.html", "a/b/index.html"),
    ("index.html", "a/index.html"),
    ("*", "a/b/c"),
    ("**", "a/b/c"),
    ("**", "a"),
    ("/assets/**", "assets/a.js"),
    ("/assets/**", "assets/a/b/c.js"),
    ("assets/**", "assets/a.js"),
    ("/assets/", "assets/a/b.js"),
    ("/assets/*", "assets/a.js"),
    ("/assets/*.js", "assets/.js"),
    ("/*.html", "index.html"),
    ("/**/*.js", "a.js"),
    ("/**/*.js", "a/b/c.js"),
    ("/a/**/z/**/*.js", "a/z/y/z/b.js"),
    ("/a/**/b/c", "a/b/b/c"),
    ("*.{js,css}", "a/b.css"),
    ("/{a,b}/**/*.{js,css}", "b/c/d.js"),
    ("/{a/b,c}/d", "a/b/d"),
    ("v?.js", "v1.js"),
    ("v?.js", "vé.js"),
    ("*é*", "café.txt"),
    ("a*b*c", "aXbXbYc"),
    ("***", "x"),
    ("[a].js", "[a].js"),
    ("a b.txt", "a b.txt"),
    ("*.tar.gz", "x.tar.gz"),
]

NOT_NAMED = [
    ("*.html", "index.htm"),
    ("*.html", "index.html.gz"),
    ("*.html", "html/index"),
    ("index.html", "myindex.html"),
    ("/assets/**", "other/assets/a.js"),
    ("/assets/**", "assets2/a.js"),
    ("/assets/*", "assets/a/b.js"),
    ("/*.html", "a/index.html"),
    ("/assets/*.js", "assets/a.mjs.map"),
    ("*.{js,css}", "a.ts"),
    ("v?.js", "v10.js"),
    ("v?.js", "v.js"),
    ("[a].js", "a.js"),
    ("a*b*c", "acb"),
    ("*.HTML", "index.html"),
    ("/a/**/z", "a/z/y"),
]


@pytest.mark.parametrize(("glob", "path"), NAMED)
def test_a_glob_names_the_file(glob: str, path: str) -> None:
    assert parse_glob(glob).match(tuple(path.encode().split(b"/")))


@pytest.mark.parametrize(("glob", "path"), NOT_NAMED)
def test_a_glob_does_not_name_the_file(glob: str, path: str) -> None:
    assert not parse_glob(glob).match(tuple(path.encode().split(b"/")))


def test_a_name_that_is_no_utf8_can_be_named() -> None:
    assert parse_glob("*.js").match((b"\xff.js",))
    assert parse_glob("?.js").match((b"\xff.js",))


@pytest.mark.parametrize("glob", ["", "/", "//", "a\0b", "{a", "a}", "{a,{b}", "/../x", "/./x", "x/.."])
def test_what_names_nothing_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="glob"):
        parse_glob(glob)


def test_braces_stand_for_a_bounded_number() -> None:
    assert len(parse_glob("{a,b}" * 6).alternatives) == MAX_ALTERNATIVES
    with pytest.raises(ValueError, match="at most"):
        parse_glob("{a,b}" * 200)


def test_many_stars_do_not_make_comparing_slow() -> None:
    assert not parse_glob("*a" * 100 + "b").match((b"a" * 20_000,))
    assert not parse_glob("/**/a" * 100 + "/b").match((b"a",) * 4_000)


@given(st.text("ab*?", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8))
def test_a_name_is_compared_as_a_regular_expression_would(glob: str, name: str) -> None:
    expression = "".join(
        {"*": "[ab]*", "?": "[ab]"}.get(character, re.escape(character)) for character in glob
    )
    assert parse_glob(glob).match((name.encode(),)) == (re.fullmatch(expression, name) is not None)


@given(
    st.lists(st.sampled_from(["a", "b", "**"]), min_size=1, max_size=6), st.text("ab", min_size=1, max_size=6)
)
def test_a_path_is_compared_as_a_regular_expression_would(glob: list[str], path: str) -> None:
    expression = "".join({"**": "[ab]*"}.get(segment, segment) for segment in glob)
    found = parse_glob("/" + "/".join(glob)).match(tuple(path.encode()[i : i + 1] for i in range(len(path))))
    assert found == (re.fullmatch(expression, path) is not None)
