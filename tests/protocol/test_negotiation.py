"""Accept and Accept-Encoding of real clients and of the grammar's corners (RFC 9110 §12.4.2, §12.5)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.negotiation import (
    IDENTITY_ONLY,
    Codings,
    NotAcceptable,
    choose_coding,
    parse_accept_encoding,
    prefer_type,
    prefers_html,
    wants_page,
)

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


@pytest.mark.parametrize("accept", HTML[:5])
def test_who_wants_nothing_more_goes_to_a_page(accept: str) -> None:
    assert wants_page(accept) is True


@pytest.mark.parametrize("accept", TEXT)
def test_who_gets_text_goes_to_no_page(accept: str | None) -> None:
    assert wants_page(accept) is False


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("application/json, text/html;q=0.9", id="a program that wants JSON"),
        pytest.param("image/avif, image/webp, text/html;q=0.1, text/plain;q=0", id="an image"),
    ],
)
def test_who_wants_something_else_more_goes_to_no_page(accept: str) -> None:
    assert wants_page(accept) is False


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_greater_weight_wins_in_steps_of_a_thousandth(html: int, plain: int) -> None:
    accept = f"text/html;q={html / 1000:.3f}, text/plain;q={plain / 1000:.3f}"
    assert prefers_html(accept) is (0 < html >= plain)


@given(st.text(alphabet='texhmlpainq*/;,=". 01', max_size=80))
def test_any_field_has_an_answer(accept: str) -> None:
    assert prefers_html(accept) in (True, False)


# ---- Accept-Encoding -------------------------------------------------------------------------------------

# The ranks of br, zstd, gzip and identity.
RANKS = [
    pytest.param(None, (0, 0, 0, 1), id="no field"),
    pytest.param("", (0, 0, 0, 1), id="an empty field"),
    pytest.param(" ", (0, 0, 0, 1), id="blanks"),
    pytest.param(",, ,", (0, 0, 0, 1), id="empty elements alone"),
    pytest.param("gzip, deflate, br, zstd", (2, 2, 2, 1), id="Chrome and Firefox"),
    pytest.param("gzip, deflate, br", (2, 0, 2, 1), id="Safari"),
    pytest.param("gzip, deflate", (0, 0, 2, 1), id="requests, and browsers without TLS"),
    pytest.param("deflate, gzip, br, zstd", (2, 2, 2, 1), id="curl --compressed"),
    pytest.param("gzip", (0, 0, 2, 1), id="Go"),
    pytest.param("identity", (0, 0, 0, 1), id="wget and urllib"),
    pytest.param("gzip;q=1.0, deflate;q=0.6, identity;q=0.3", (0, 0, 2, 1), id="Ruby before 3.0"),
    pytest.param("deflate, compress, sdch", (0, 0, 0, 1), id="codings that we have not"),
    pytest.param("GZIP, Br", (2, 0, 2, 1), id="upper case"),
    pytest.param("x-gzip", (0, 0, 2, 1), id="the old name of gzip"),
    pytest.param("x-gzip, gzip;q=0", (0, 0, 0, 1), id="the two names of gzip are one coding"),
    pytest.param("br\t ;\tq=0.5 , gzip", (2, 0, 3, 1), id="blanks around the separators"),
    pytest.param("gzip;Q=0.5, br;q=0.6", (3, 0, 2, 1), id="an upper case Q"),
    pytest.param(",, gzip ,", (0, 0, 2, 1), id="empty elements"),
    pytest.param("gzip;q=0", (0, 0, 0, 1), id="gzip refused"),
    pytest.param("gzip;q=0.000", (0, 0, 0, 1), id="gzip refused with three decimals"),
    pytest.param("gzip;q=0.", (0, 0, 0, 1), id="gzip refused with a point"),
    pytest.param("gzip;q=0.001", (0, 0, 2, 1), id="the smallest weight is above an identity not named"),
    pytest.param("gzip;q=0.999, br;q=1", (3, 0, 2, 1), id="a thousandth decides"),
    pytest.param("gzip;q=1.000, br;q=1", (2, 0, 2, 1), id="the same weight in two forms"),
    pytest.param("br;q=0.8, zstd;q=0.6, gzip;q=0.4", (4, 3, 2, 1), id="four weights"),
    pytest.param("br;q=0.8, zstd;q=0.6, gzip;q=0.4, identity;q=0.2", (4, 3, 2, 1), id="four that are named"),
    pytest.param("gzip, identity", (0, 0, 1, 1), id="identity like gzip"),
    pytest.param("gzip;q=0.5, identity", (0, 0, 1, 2), id="identity before gzip"),
    pytest.param("gzip, identity;q=0", (0, 0, 1, 0), id="identity refused"),
    pytest.param("identity;q=0", (0, 0, 0, 0), id="identity refused, and nothing else taken"),
    pytest.param("*", (1, 1, 1, 1), id="anything"),
    pytest.param("*;q=0.1", (1, 1, 1, 1), id="anything with a weight"),
    pytest.param("*;q=0", (0, 0, 0, 0), id="nothing"),
    pytest.param("gzip, *;q=0", (0, 0, 1, 0), id="gzip and nothing else"),
    pytest.param("identity, *;q=0", (0, 0, 0, 1), id="identity and nothing else"),
    pytest.param("*;q=0, identity;q=0.1", (0, 0, 0, 1), id="what is named counts before the asterisk"),
    pytest.param("gzip;q=0, *", (1, 1, 0, 1), id="anything but gzip"),
    pytest.param("br;q=0, *;q=0.5, gzip", (0, 1, 2, 1), id="gzip, then all but br"),
    pytest.param("identity;q=0, *", (1, 1, 1, 0), id="any coding"),
    pytest.param("gzip;q=2", (0, 0, 0, 1), id="a weight over 1"),
    pytest.param("gzip;q=1.001", (0, 0, 0, 1), id="a weight a little over 1"),
    pytest.param("gzip;q=0.1234", (0, 0, 0, 1), id="four decimals"),
    pytest.param("gzip;q=.5", (0, 0, 0, 1), id="no digit before the point"),
    pytest.param("gzip;q=-1", (0, 0, 0, 1), id="a negative weight"),
    pytest.param("gzip;q=", (0, 0, 0, 1), id="an empty weight"),
    pytest.param("gzip;q", (0, 0, 0, 1), id="a weight without a value"),
    pytest.param("gzip;q=nan", (0, 0, 0, 1), id="a weight that is no number"),
    pytest.param("gzip;q=١", (0, 0, 0, 1), id="a digit that is not ASCII"),
    pytest.param("gzip;q = 1", (0, 0, 0, 1), id="blanks inside a weight"),
    pytest.param("gzip;level=9", (0, 0, 0, 1), id="another parameter"),
    pytest.param("gzip;q=1;level=9", (0, 0, 0, 1), id="a parameter behind the weight"),
    pytest.param("gzip br", (0, 0, 0, 1), id="no comma"),
    pytest.param('"gzip"', (0, 0, 0, 1), id="quotes"),
    pytest.param("identity;q=none", (0, 0, 0, 1), id="identity with a weight that cannot be read"),
    pytest.param("gzip;q=2, br", (2, 0, 0, 1), id="a malformed element leaves the others"),
    pytest.param("gzip, gzip;q=0", (0, 0, 0, 1), id="the last of a repeated coding counts"),
    pytest.param("gzip;q=0, gzip", (0, 0, 2, 1), id="the last of a repeated coding counts, the other way"),
    pytest.param("gzipped, brotli, br-2", (0, 0, 0, 1), id="names that only begin like ours"),
    pytest.param("deflate," * 30 + "gzip", (0, 0, 2, 1), id="too long to be kept"),
    pytest.param("," * 30_000 + ";" * 30_000, (0, 0, 0, 1), id="thousands of separators are no coding"),
]

WEIGHTS = st.integers(0, 1000)
OUR_SIZES = {"br": 10, "zstd": 11, "gzip": 12, None: 30}

CHOICES: list[object] = [
    pytest.param("gzip, br, zstd", OUR_SIZES, "br", id="the smallest wins"),
    pytest.param(
        "gzip, br, zstd", {"br": 12, "zstd": 11, "gzip": 10, None: 30}, "gzip", id="whichever it is"
    ),
    pytest.param("gzip, br, zstd", dict.fromkeys(OUR_SIZES, 10), "br", id="of equal ones br"),
    pytest.param("gzip, zstd", dict.fromkeys(OUR_SIZES, 10), "zstd", id="zstd before gzip"),
    pytest.param("gzip, identity", {None: 10, "gzip": 10}, "gzip", id="gzip before identity"),
    pytest.param("*", {None: 9, "gzip": 10}, None, id="a file that is smaller than its coding"),
    pytest.param("gzip", {None: 9, "gzip": 10}, "gzip", id="what is named is wanted more, whatever its size"),
    pytest.param("br;q=0.5, gzip", OUR_SIZES, "gzip", id="the weight before the size"),
    pytest.param("identity, gzip;q=0.9", OUR_SIZES, None, id="identity by its weight"),
    pytest.param("gzip", {"br": 10, None: 30}, None, id="no form in the coding that is asked for"),
    pytest.param("gzip;q=0", {"gzip": 10, None: 30}, None, id="the coding that there is was refused"),
    pytest.param("gzip;q=0.5, br;q=0", OUR_SIZES, "gzip", id="a smaller one that was refused"),
    pytest.param("identity;q=0, gzip", OUR_SIZES, "gzip", id="not identity"),
    pytest.param("*;q=0, zstd;q=0.1", OUR_SIZES, "zstd", id="one that is allowed"),
    pytest.param(None, OUR_SIZES, None, id="no field"),
    pytest.param("", OUR_SIZES, None, id="an empty field"),
    pytest.param("identity;q=0, *", {"gzip": 10}, "gzip", id="a sidecar without its file"),
]

NOT_ACCEPTABLE: list[object] = [
    pytest.param("identity;q=0", OUR_SIZES, id="identity refused and nothing named"),
    pytest.param("*;q=0", OUR_SIZES, id="everything refused"),
    pytest.param("gzip, identity;q=0", {"br": 10, None: 30}, id="identity refused, the other coding absent"),
    pytest.param("br, *;q=0", {"gzip": 10, None: 30}, id="one coding and nothing else"),
    pytest.param("br", {"gzip": 10}, id="a sidecar without its file, in another coding"),
    pytest.param("*", {}, id="no form at all"),
]


@pytest.mark.parametrize(("value", "ranks"), RANKS)
def test_codings_are_ranked_by_their_weights(value: str | None, ranks: tuple[int, ...]) -> None:
    assert parse_accept_encoding(value) == Codings(*ranks)


@pytest.mark.parametrize(("value", "sizes", "coding"), CHOICES)
def test_the_form_that_is_wanted_most_is_chosen(
    value: str | None, sizes: Mapping[str | None, int], coding: str | None
) -> None:
    assert choose_coding(parse_accept_encoding(value), sizes) == coding


@pytest.mark.parametrize(("value", "sizes"), NOT_ACCEPTABLE)
def test_a_client_that_excludes_every_form_gets_none(value: str, sizes: Mapping[str | None, int]) -> None:
    with pytest.raises(NotAcceptable):
        choose_coding(parse_accept_encoding(value), sizes)


def test_without_a_field_only_the_file_as_it_is_is_wanted() -> None:
    assert parse_accept_encoding(None) == IDENTITY_ONLY


@given(WEIGHTS, WEIGHTS)
def test_of_two_codings_the_greater_weight_wins_in_steps_of_a_thousandth(gzip: int, identity: int) -> None:
    codings = parse_accept_encoding(f"gzip;q={gzip / 1000:.3f}, identity;q={identity / 1000:.3f}")

    if gzip == identity == 0:
        with pytest.raises(NotAcceptable):
            choose_coding(codings, OUR_SIZES)
    else:
        assert choose_coding(codings, OUR_SIZES) == ("gzip" if gzip >= identity else None)


@given(st.lists(WEIGHTS, min_size=4, max_size=4))
def test_only_the_order_of_the_weights_counts(weights: list[int]) -> None:
    def parse(values: list[int]) -> Codings:
        named = zip(Codings._fields, values, strict=True)
        return parse_accept_encoding(", ".join(f"{name};q={value / 1000:.3f}" for name, value in named))

    # The same order with the smallest weights that have it.
    ordered = sorted({0, *weights})

    assert parse(weights) == parse([ordered.index(weight) for weight in weights])


def test_there_are_as_many_values_as_orders() -> None:
    weights = ["0", "0.1", "0.2", "0.3", "0.4"]
    values = {
        parse_accept_encoding(",".join(f"{name};q={q}" for name, q in zip(Codings._fields, qs, strict=True)))
        for qs in itertools.product(weights, repeat=4)
    }

    assert len(values) == 150
    assert {rank for value in values for rank in value} == {0, 1, 2, 3, 4}


@given(st.text(alphabet="gzipbrsdentyx*;,=-qQ. 01\t", max_size=80))
def test_any_accept_encoding_is_read(value: str) -> None:
    codings = parse_accept_encoding(value)

    # Dense: no rank is left out.
    assert {*codings, 0} == set(range(max(codings) + 1))


class TestPreferredType:
    """RFC 9110 §12.5.1, for what exists in several forms."""

    OURS = ("text/html", "application/json", "text/plain")

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            pytest.param(None, "text/html", id="no field"),
            pytest.param("*/*", "text/html", id="anything"),
            pytest.param("text/*", "text/html", id="any text"),
            pytest.param("application/*", "application/json", id="any application"),
            pytest.param("text/plain, */*", "text/plain", id="what is named wins over what is covered"),
            pytest.param("text/plain;q=0.5, */*;q=0.6", "text/html", id="unless the weight says otherwise"),
            pytest.param(
                "text/html;q=0.1, application/json;q=0.2", "application/json", id="the greater weight"
            ),
            pytest.param("text/plain, application/json", "application/json", id="our order among equals"),
            pytest.param("text/html;q=0, */*;q=0.1", "application/json", id="what is excluded is not given"),
            pytest.param("text/plain;q=0", "text/html", id="nothing is acceptable"),
            pytest.param("image/png", "text/html", id="nothing of ours"),
        ],
    )
    def test_the_best_of_ours_is_chosen(self, accept: str | None, media_type: str) -> None:
        assert prefer_type(accept, self.OURS) == media_type
