"""Which form of an answer does the client prefer?

RFC 9110 §12.5.1: Accept, for the answers that exist both as a page and as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

# RFC 9110 §12.4.2: three decimals at the most, and nothing above 1.
_QVALUE: Final = r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?"


def prefers_html(accept: str | None) -> bool:
    """Tells whether a client with this Accept field is better served with text/html than with text/plain.

    Browsers name text/html. Programs (curl, wget, fetch) send "*/*" or nothing and get text, so text/html has
    to be named itself, and with at least the weight that text/plain has.
    """
    if accept is None:
        return False
    weights = _parse_accept(accept)
    html = weights.get("text/html", 0)
    return html > 0 and html >= _find_weight("text/plain", weights)


def _find_weight(media_type: str, weights: Mapping[str, int]) -> int:
    # RFC 9110 §12.5.1: the most specific range that matches decides, not the greatest weight.
    main_type = media_type.partition("/")[0]
    for media_range in (media_type, f"{main_type}/*", "*/*"):
        if media_range in weights:
            return weights[media_range]
    return 0


def _parse_accept(accept: str) -> dict[str, int]:
    """Reads the media ranges that can match our answers, with their weights in thousandths.

    An element that cannot be read is left out. Where a range is repeated, the last one counts.
    """
    # Deviation: a comma or semicolon inside a quoted parameter is taken for a separator. What we choose
    # between are two forms of one short message, and no client in use quotes any.
    weights: dict[str, int] = {}
    for element in accept.lower().split(","):
        media_range, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = _find_element_weight(parameters)
        if weight is not None:
            weights[media_range] = weight
    return weights


def _find_element_weight(parameters: list[str]) -> int | None:
    """Gives the weight among the parameters of a media range; None when the range means something else."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            # What follows the weight was "accept-ext" in RFC 7231 and means nothing any more.
            return round(float(value) * 1000) if re.fullmatch(_QVALUE, value) else None
        # RFC 9110 §12.5.1: "text/html;level=1" matches only what has this parameter. Ours have a charset.
        if parameter and parameter not in ("charset=utf-8", 'charset="utf-8"'):
            return None
    return 1000


def prefer_type(accept: str | None, media_types: Sequence[str]) -> str:
    """Gives the one of `media_types`, our best first, that a client with this Accept field prefers.

    Of two with the same weight, the one that is named wins over the one that only a range covers: "Accept:
    application/json, */*" asks for JSON. Where nothing is acceptable the first one is given all the same
    (RFC 9110 §12.5.1 leaves that open): whoever sees it learns more than from 406.
    """
    if accept is None:
        return media_types[0]
    weights = _parse_accept(accept)

    def rank(media_type: str) -> tuple[int, bool]:
        return _find_weight(media_type, weights), media_type in weights

    # max gives the first of equals.
    return max(media_types, key=rank)
