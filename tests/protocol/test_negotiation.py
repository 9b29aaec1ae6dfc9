"""Accept fields of real clients and of the grammar's corners (RFC 9110 §12.4.2 and §12.5.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.negotiation import prefers_html

HTML = [
    pytest.param(
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        id="a browser",
    ),
    pytest.param("text/html, text/plain, text/css, text/sgml, */*;q=0.01", id="lynx"),
    pytest.param("text/html, text/*;q=0.5, image/*, application/*", id="w3m"),
    pytest.param("text/html", id="text/html alone"),
    pytest.param("TEXT/HTML;Q=0.5", id="upper case"),
    pytest.param(" text/html ; q=0.5 ", id="blanks"),
    pytest.param("text/html;q=0.5, text/plain;q=0.5", id="the same weight as text/plain"),
    pytest.param("text/html;q=0.5, text/plain;q=0.4", id="a greater weight than text/plain"),
    pytest.param("text/plain;q=0, text/html;q=0.001", id="the smallest weight while text/plain is refused"),
    pytest.param("text/html;q=0.5, text/*;q=0.4, */*", id="text/* decides on text/plain before */*"),
    pytest.param("text/html;q=0.5, text/plain;q=0.1, text/*", id="text/plain decides before text/*"),
    pytest.param("text/html;charset=utf-8", id="our charset"),
    pytest.param('text/html;charset="UTF-8";q=1.0', id="our charset in quotes"),
    pytest.param("text/html;;q=1.000", id="an empty parameter"),
    pytest.param("text/html;q=1.;level=1", id="a parameter behind the weight"),
    pytest.param(",, text/html ,", id="empty elements"),
    pytest.param("nonsense, text/html", id="an element that is no media range"),
]

TEXT = [
    pytest.param(None, id="no field"),
    pytest.param("", id="an empty field"),
    pytest.param("*/*", id="curl, wget and fetch"),
    pytest.param("text/*", id="any text"),
    pytest.param("text/plain", id="text/plain alone"),
    pytest.param("application/json, */*;q=0.5", id="a program that wants JSON"),
    pytest.param("application/xhtml+xml", id="XHTML is another type"),
    pytest.param("text/html;q=0", id="text/html refused"),
    pytest.param("text/html;q=0.000, */*", id="text/html refused, all else taken"),
    pytest.param("text/html;q=0.5, text/plain;q=0.6", id="a smaller weight than text/plain"),
    pytest.param("text/html;q=0.5, text/*;q=0.6", id="a smaller weight than text/*"),
    pytest.param("text/html;q=0.5, */*", id="a smaller weight than all else"),
    pytest.param("text/html;level=1", id="text/html with a parameter that ours has not"),
    pytest.param("text/html;charset=latin-1", id="another charset"),
    pytest.param("text/html;q=2", id="a weight over 1"),
    pytest.param("text/html;q=1.001", id="a weight a little over 1"),
    pytest.param("text/html;q=0.1234", id="four decimals"),
    pytest.param("text/html;q=.5", id="no digit before the point"),
    pytest.param("text/html;q=-1", id="a negative weight"),
    pytest.param("text/html;q=", id="an empty weight"),
    pytest.param("text/html;q=nan", id="a weight that is no number"),
    pytest.param("text/html;q=١", id="a digit that is not ASCII"),
    pytest.param("text / html", id="blanks in the type"),
    pytest.param("text/html, text/html;q=0", id="the last of a repeated range counts"),
    pytest.param("," * 30_000 + ";" * 30_000, id="thousands of separators"),
]


@pytest.mark.parametrize("accept", HTML)
def test_who_names_text_html_gets_it(accept: str) -> None:
    assert prefers_html(accept) is True


@pytest.mark.parametrize("accept", TEXT)
def test_everybody_else_gets_text(accept: str | None) -> None:
    assert prefers_html(accept) is False


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_greater_weight_wins_in_steps_of_a_thousandth(html: int, plain: int) -> None:
    accept = f"text/html;q={html / 1000:.3f}, text/plain;q={plain / 1000:.3f}"
    assert prefers_html(accept) is (0 < html >= plain)


@given(st.text(alphabet='texhmlpainq*/;,=". 01', max_size=80))
def test_any_field_has_an_answer(accept: str) -> None:
    assert prefers_html(accept) in (True, False)
