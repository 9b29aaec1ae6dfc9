"""Which view of a folder is asked for: its form, its order, and which part of it.

The query wins over Accept, since a link can hold it. How a view is made is for `content/listing`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qsl

from aioserve.protocol.message import BadRequest
from aioserve.protocol.negotiation import prefer_type


class Form(StrEnum):
    HTML = "html"
    JSON = "json"  # as Caddy writes it
    NGINX = "nginx"  # JSON as nginx writes it
    TEXT = "text"  # one name a line


class Sort(StrEnum):
    NAME = "name"
    SIZE = "size"
    DATE = "date"


CONTENT_TYPES = {
    Form.HTML: "text/html; charset=utf-8",
    Form.JSON: "application/json",
    Form.NGINX: "application/json",
    Form.TEXT: "text/plain; charset=utf-8",
}

# What Accept chooses from, the best first. nginx's JSON has the type of Caddy's: it is asked for by its name.
_BY_TYPE = {"text/html": Form.HTML, "application/json": Form.JSON, "text/plain": Form.TEXT}

# Links that were made for Caddy lead to the same view here.
_SORT_WORDS = {**{sort.value: sort for sort in Sort}, "namedirfirst": Sort.NAME, "time": Sort.DATE}

# A page for people: what a browser shows without delay, and what it can still show when asked to.
PAGE_ROWS = 1000
MAX_PAGE_ROWS = 10_000

# Nobody has more files; it also keeps int() from long texts.
_NUMBER = r"[0-9]{1,9}"


class View(NamedTuple):
    """`limit` is the greatest number of rows, None for all; `offset` is how many are left out before them."""

    form: Form
    sort: Sort = Sort.NAME
    is_descending: bool = False
    offset: int = 0
    limit: int | None = None


def parse_view(query: bytes | None, accept: str | None) -> View:
    """Reads `?format=&sort=&order=&offset=&limit=`; other parameters mean nothing here.

    Raises BadRequest(400) for a value that means nothing: another view than the one that was asked for would
    be mistaken for it by a program.
    """
    given = dict(parse_qsl((query or b"").decode("latin-1"), keep_blank_values=True))
    word = given.get("format")
    form = _BY_TYPE[prefer_type(accept, tuple(_BY_TYPE))] if word is None else _find_form(word)
    sort = _SORT_WORDS.get(given.get("sort", "name"))
    order = given.get("order", "asc")
    if sort is None or order not in ("asc", "desc"):
        raise BadRequest(400, "sort is name, size or date; order is asc or desc")
    offset = _parse_number(given.get("offset", "0"))
    limit = _parse_number(given["limit"]) if "limit" in given else None
    if limit == 0:
        raise BadRequest(400, "a limit is at least 1")
    if form is Form.HTML:
        limit = min(PAGE_ROWS if limit is None else limit, MAX_PAGE_ROWS)
    return View(form, sort, order == "desc", offset, limit)


def _find_form(word: str) -> Form:
    try:
        return Form(word)
    except ValueError:
        raise BadRequest(400, "format is html, json, nginx or text") from None


def _parse_number(text: str) -> int:
    if not re.fullmatch(_NUMBER, text):
        raise BadRequest(400, "offset and limit are numbers")
    return int(text)
