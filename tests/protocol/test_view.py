"""What a query and an Accept field ask of a list (RFC 9110 §12.5.1 for the latter)."""

from __future__ import annotations

import pytest

from aioserve.protocol.message import BadRequest
from aioserve.protocol.view import CONTENT_TYPES, MAX_PAGE_ROWS, PAGE_ROWS, Form, Sort, View, parse_view

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


class TestForm:
    @pytest.mark.parametrize(
        ("accept", "form"),
        [
            pytest.param(None, Form.HTML, id="no field"),
            pytest.param("", Form.HTML, id="an empty field"),
            pytest.param(BROWSER, Form.HTML, id="a browser"),
            pytest.param("*/*", Form.HTML, id="curl and wget"),
            pytest.param("application/json", Form.JSON, id="JSON"),
            pytest.param("application/json, text/plain, */*", Form.JSON, id="axios"),
            pytest.param("application/json;q=0.5, text/html;q=0.4", Form.JSON, id="JSON rather than HTML"),
            pytest.param("text/plain", Form.TEXT, id="text"),
            pytest.param("text/*;q=0.5, text/plain", Form.TEXT, id="text rather than other text"),
            pytest.param("text/plain;q=0", Form.HTML, id="no text"),
            pytest.param("text/html;q=0, */*", Form.JSON, id="anything but HTML"),
            pytest.param("image/png", Form.HTML, id="nothing that there is"),
        ],
    )
    def test_accept_chooses_it(self, accept: str | None, form: Form) -> None:
        assert parse_view(None, accept).form is form

    @pytest.mark.parametrize("form", Form)
    def test_the_query_wins(self, form: Form) -> None:
        assert parse_view(f"format={form}".encode(), "text/plain").form is form

    @pytest.mark.parametrize("form", Form)
    def test_each_has_a_type(self, form: Form) -> None:
        assert CONTENT_TYPES[form].startswith(("text/", "application/json"))


class TestOrder:
    @pytest.mark.parametrize(
        ("query", "sort", "is_descending"),
        [
            pytest.param(None, Sort.NAME, False, id="no query"),
            pytest.param(b"", Sort.NAME, False, id="an empty query"),
            pytest.param(b"utm_source=x", Sort.NAME, False, id="what means nothing here"),
            pytest.param(b"sort=size", Sort.SIZE, False, id="by size"),
            pytest.param(b"order=desc&sort=date", Sort.DATE, True, id="by date, the last first"),
            pytest.param(b"sort=namedirfirst&order=asc", Sort.NAME, False, id="Caddy's name"),
            pytest.param(b"sort=time&order=desc", Sort.DATE, True, id="Caddy's time"),
            pytest.param(b"sort=name&sort=size", Sort.SIZE, False, id="the last one counts"),
        ],
    )
    def test_the_query_says_it(self, query: bytes | None, sort: Sort, is_descending: bool) -> None:
        view = parse_view(query, None)
        assert (view.sort, view.is_descending) == (sort, is_descending)


class TestPage:
    @pytest.mark.parametrize(
        ("query", "page"),
        [
            pytest.param(b"", (0, PAGE_ROWS), id="HTML has pages"),
            pytest.param(b"offset=2000&limit=50", (2000, 50), id="as asked for"),
            pytest.param(b"limit=999999999", (0, MAX_PAGE_ROWS), id="what a browser can show"),
            pytest.param(b"format=json", (0, None), id="JSON has everything"),
            pytest.param(b"format=json&limit=999999999&offset=5", (5, 999_999_999), id="JSON as asked for"),
            pytest.param(b"format=text", (0, None), id="text has everything"),
        ],
    )
    def test_the_query_says_it(self, query: bytes, page: tuple[int, int | None]) -> None:
        view = parse_view(query, None)
        assert (view.offset, view.limit) == page

    def test_a_view_is_all_that_is_asked_for(self) -> None:
        query = b"format=nginx&sort=size&order=desc&offset=7&limit=3"
        assert parse_view(query, None) == View(Form.NGINX, Sort.SIZE, True, 7, 3)


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "format=",
        "format=HTML",
        "sort=colour",
        "order=up",
        "offset=-1",
        "offset=x",
        "offset=",
        "limit=0",
        "limit=1.5",
        "limit=١",
        "limit=" + "9" * 5000,
    ],
)
def test_what_means_nothing_is_refused(query: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_view(query.encode(), None)
    assert caught.value.status == 400
