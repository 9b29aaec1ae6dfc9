"""Which form of an answer does the client prefer?

RFC 9110 §12.5.1: Accept, for the answers that exist both as a page and as plain text.
RFC 9110 §12.5.3: Accept-Encoding, for the content codings of a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from aioserve.protocol.message import Fields

# RFC 9110 §12.4.2: three decimals at the most, and nothing above 1.
_QVALUE: Final = r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?"


def _to_weight(qvalue: str) -> int:
    """Gives the weight in thousandths."""
    return round(float(qvalue) * 1000)


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
            return _to_weight(value) if re.fullmatch(_QVALUE, value) else None
        # RFC 9110 §12.5.1: "text/html;level=1" matches only what has this parameter. Ours have a charset.
        if parameter and parameter not in ("charset=utf-8", 'charset="utf-8"'):
            return None
    return 1000


# Accept-Encoding --------------------------------------------------------------------------------------


class Codings(NamedTuple):
    """How much a client wants each content coding: 0 not at all, and the more the higher, in ranks from 1.

    The field has weights in thousandths. Only their order decides anything, so there are 150 values for all
    clients, and those that want the same are equal.
    """

    br: int
    zstd: int
    gzip: int
    identity: int


class NotAcceptable(Exception):
    """The client has excluded every form that there is."""


IDENTITY_ONLY: Final = Codings(br=0, zstd=0, gzip=0, identity=1)

# A weight is the only parameter that a coding can have.
_CODING_ELEMENT: Final = rf"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=({_QVALUE}))?"
# Below every weight that can be written, and not nothing.
_DEFAULT_WEIGHT: Final = 0.5
# What browsers and programs send has up to 40 characters.
_MAX_KEPT_CHARS: Final = 200


def parse_accept_encoding(value: str | None) -> Codings:
    """Reads an Accept-Encoding field, all of its lines joined; None where there is none.

    An element that cannot be read is left out. Where a coding is repeated, the last one counts.
    """
    # Deviation: without the field, RFC 9110 §12.5.3 lets the server choose any coding. Who does not say that
    # it can decode is a program that stores the bytes as they come. An empty field asks for none anyway.
    if not value:
        return IDENTITY_ONLY
    # What is kept has to be bounded in bytes as well.
    return (_parse_kept if len(value) <= _MAX_KEPT_CHARS else _parse_accept_encoding)(value)


def _parse_accept_encoding(value: str) -> Codings:
    coding_element = re.compile(_CODING_ELEMENT)
    weights: dict[str, float] = {}
    for element in value.lower().split(","):
        match = coding_element.fullmatch(element.strip(" \t"))
        if match is not None:
            coding, qvalue = match.groups()
            # RFC 9110 §8.4.1.3: "x-gzip" is an old name of gzip.
            weights["gzip" if coding == "x-gzip" else coding] = 1000 if qvalue is None else _to_weight(qvalue)
    # "*" is what is not named, identity as well: "*;q=0" excludes it.
    others = weights.get("*", 0)
    by_coding = [weights.get(coding, others) for coding in ("br", "zstd", "gzip")]
    by_coding.append(weights.get("identity", weights.get("*", _DEFAULT_WEIGHT)))
    ranks = {weight: rank for rank, weight in enumerate(sorted({0, *by_coding}))}
    return Codings(*(ranks[weight] for weight in by_coding))


_parse_kept = lru_cache(maxsize=256)(_parse_accept_encoding)


def choose_coding(codings: Codings, sizes: Mapping[str | None, int]) -> str | None:
    """Gives the coding of the form to send, among those in `sizes`; None is the file as it is.

    Of the forms that the client wants most, the smallest; of equal ones the first of br, zstd, gzip and
    identity. Raises NotAcceptable when it wants none of them.
    """
    ranks = zip((*Codings._fields[:-1], None), codings, strict=True)
    # max() gives the first of equal ones.
    acceptable = ((rank, -sizes[coding], coding) for coding, rank in ranks if rank and coding in sizes)
    best = max(acceptable, key=lambda form: form[:2], default=None)
    if best is None:
        raise NotAcceptable
    return best[2]


@lru_cache(maxsize=256)
def list_wanted(codings: Codings) -> tuple[str, ...]:
    """The codings that the client wants at least as much as none, the most wanted first."""
    ranked = zip(Codings._fields[:-1], codings[:-1], strict=True)
    wanted = [(rank, coding) for coding, rank in ranked if rank and rank >= codings.identity]
    return tuple(coding for _, coding in sorted(wanted, key=lambda one: -one[0]))


def find_codings(fields: Fields) -> Codings:
    """What the client wants, by its fields."""
    # RFC 9111 §5.2.1.6: "no-transform" asks that the content be left as it is.
    if "no-transform" in (fields.get("cache-control") or "").lower():
        return IDENTITY_ONLY
    return parse_accept_encoding(fields.get("accept-encoding"))
