"""Is the client's copy still good? Entity tags, HTTP dates and the preconditions in their order.

RFC 9110 §8.8 (validators), §5.6.7 (dates) and §13 (conditional requests). What a Range field asks for is
`ranges`; which answer a verdict becomes is `plan`. The time is an argument: this room has no clock.

A field that cannot be read never does harm here. The answer that it leads to is the one that a client
without a copy would get, or 412 where the client made a condition of something that we cannot confirm.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from datetime import date
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from aioserve.protocol.message import Fields


class Validators(NamedTuple):
    """What tells one state of a file from another.

    `etag` is strong and carries its quotes. `last_modified_s` is in whole Unix seconds and never later than
    the Date of the answer (RFC 9110 §8.8.2.1): whoever makes the value has cut it off at the present. None
    where no date tells one state from another, as for what is made of many files: one of them may be replaced
    by an older one. Preconditions with a date are ignored then (§13.1.3, §13.1.4).
    """

    etag: str
    last_modified_s: int | None


class Verdict(Enum):
    """What the preconditions leave to be done."""

    PROCEED = "the request is carried out as if it had no precondition"
    NOT_MODIFIED = "304: the client's copy is current"
    FAILED = "412: the file is not what the client supposes"


# Entity tags ------------------------------------------------------------------------------------------


def format_etag(mtime_ns: int, size_bytes: int, coding: str | None = None) -> str:
    """Gives a strong entity tag that is equal for equal copies, on whichever machine they lie.

    No inode and no device go into it: they differ between replicas, and they tell about the machine. The
    nanoseconds make it strong where whole seconds would give two contents one tag. `coding` sets the
    compressed forms of a file apart (RFC 9110 §8.8.3.3).
    """
    suffix = f"-{coding}" if coding else ""
    return f'"{mtime_ns:x}-{size_bytes:x}{suffix}"'


def format_hash_etag(sha256: bytes, coding: str | None = None) -> str:
    """Gives a strong entity tag that is equal for equal content, whenever it was written.

    `sha256` are the bytes of that hash: of those that are sent, or of the file where `coding` is what this
    server makes of it. 128 bits of it are enough for nobody ever to see two contents under one tag.
    """
    suffix = f"-{coding}" if coding else ""
    return f'"{urlsafe_b64encode(sha256[:16]).decode("ascii").rstrip("=")}{suffix}"'


# RFC 9110 §8.8.3: entity-tag = [ %s"W/" ] DQUOTE *etagc DQUOTE; the W is case-sensitive, and a comma inside
# the quotes belongs to the tag, so a list cannot be split at its commas.
# RFC 9110 §5.6.1: the elements of a list may be empty.
# The quantifiers are possessive: with ordinary ones, a long run of blanks would be tried in every division.
_LIST_ELEMENT: Final = r"""(?x) [ \t]*+ (?: (W/)? ( "[\x21\x23-\x7E\x80-\xFF]*+" ) [ \t]*+ )? (?: , | \Z )"""


def _has_tag(text: str, etag: str, *, weakly: bool) -> bool:
    """Tells whether the list of entity tags in `text` has `etag` in it; a malformed list has nothing in it.

    RFC 9110 §8.8.3.2: the weak comparison looks at the opaque parts alone; the strong one wants both tags to
    be strong, and ours is.
    """
    if text == etag:
        return True
    list_element = re.compile(_LIST_ELEMENT)
    found = False
    position = 0
    while position < len(text):
        element = list_element.match(text, position)
        if element is None:
            return False
        weak, opaque = element.groups()
        if opaque == etag and (weakly or weak is None):
            found = True
        position = element.end()
    return found


# Dates ------------------------------------------------------------------------------------------------

# Our own names, because those of the standard library follow the locale of the program that embeds us.
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_WEEKDAY_BY_NAME: Final = {
    name: weekday for names in (_DAYS, _LONG_DAYS) for weekday, name in enumerate(names)
}
_MONTH_BY_NAME: Final = {name: month for month, name in enumerate(_MONTHS, 1)}

_DAY_S: Final = 86_400
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_FIRST_S: Final = (date.min.toordinal() - _EPOCH_ORDINAL) * _DAY_S
_LAST_S: Final = (date.max.toordinal() - _EPOCH_ORDINAL) * _DAY_S + _DAY_S - 1


# The files of a site come from few days, and the present is one day for long.
@lru_cache(maxsize=1024)
def _format_day(days: int) -> str:
    """Gives the date part of an IMF-fixdate; `days` are counted from the first of January 1970."""
    day = date.fromordinal(_EPOCH_ORDINAL + days)
    return f"{_DAYS[day.weekday()]}, {day.day:02} {_MONTHS[day.month - 1]} {day.year:04}"


def format_http_date(unix_s: int) -> str:
    """Gives the IMF-fixdate of a time, such as "Sun, 06 Nov 1994 08:49:37 GMT".

    The form has four digits for the year, but a disk can hold any time: one outside of the years 1 to 9999
    becomes the nearest that can be written.
    """
    days, second = divmod(min(max(unix_s, _FIRST_S), _LAST_S), _DAY_S)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{_format_day(days)} {hour:02}:{minute:02}:{second:02} GMT"


# RFC 9110 §5.6.7: one form to send and three to read. Digits are ASCII, names and GMT are case-sensitive, and
# each blank is one blank.
_TIME_OF_DAY: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_DAY_NAME: Final = rf"(?P<weekday>{'|'.join(_DAYS)})"
_LONG_DAY_NAME: Final = rf"(?P<weekday>{'|'.join(_LONG_DAYS)})"
_DAY_OF_MONTH: Final = "(?P<day>[0-9]{2})"
_YEAR: Final = "(?P<year>[0-9]{4})"
_IMF_FIXDATE: Final = f"{_DAY_NAME}, {_DAY_OF_MONTH} {_MONTH} {_YEAR} {_TIME_OF_DAY} GMT"
_RFC850_DATE: Final = f"{_LONG_DAY_NAME}, {_DAY_OF_MONTH}-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME_OF_DAY} GMT"
_ASCTIME_DATE: Final = f"{_DAY_NAME} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME_OF_DAY} {_YEAR}"


def parse_http_date(text: str, now_s: int) -> int | None:
    """Reads an HTTP-date in any of its three forms; gives Unix seconds, or None when it is not valid.

    `now_s` decides the century of the two-digit years.

    A day name that does not belong to its date makes the date invalid. RFC 9110 leaves that to RFC 5322, of
    which IMF-fixdate is a subset and whose §3.3 demands that the two agree; the obsolete forms are held to
    the same. Two halves that contradict each other name no instant to compare with, and for the client an
    ignored date means at the worst that it gets the whole file.
    """
    found = (
        re.fullmatch(_IMF_FIXDATE, text)
        or re.fullmatch(_RFC850_DATE, text)
        or re.fullmatch(_ASCTIME_DATE, text)
    )
    if found is None:
        return None
    weekday, day, month, year, hour, minute, second = found.group(
        "weekday", "day", "month", "year", "hour", "minute", "second"
    )
    hours, minutes, seconds = int(hour), int(minute), int(second)
    # time-of-day goes from 00:00:00 to 23:59:60: a leap second stands at the end of a day and nowhere else.
    # It is the first second of the next day for us, as for POSIX.
    if (hours > 23 or minutes > 59 or seconds > 59) and (hours, minutes, seconds) != (23, 59, 60):
        return None
    time_s = hours * 3600 + minutes * 60 + seconds
    month_number, full_year = _MONTH_BY_NAME[month], int(year)
    if len(year) == 2:
        full_year = _find_full_year(full_year, (month_number, int(day), time_s), now_s)
    try:
        calendar_day = date(full_year, month_number, int(day))
    except ValueError:
        return None
    if calendar_day.weekday() != _WEEKDAY_BY_NAME[weekday]:
        return None
    return (calendar_day.toordinal() - _EPOCH_ORDINAL) * _DAY_S + time_s


def _find_full_year(two_digits: int, within_year: tuple[int, int, int], now_s: int) -> int:
    """Gives the latest year with these last two digits that does not lie more than 50 years ahead.

    RFC 9110 §5.6.7: what would be further in the future stands for the most recent such year in the past.
    `within_year` is the month, the day and the second of that day: it decides on the fiftieth year itself.
    """
    today = date.fromordinal(_EPOCH_ORDINAL + now_s // _DAY_S)
    horizon = today.year + 50
    year = horizon - (horizon - two_digits) % 100
    if year == horizon and within_year > (today.month, today.day, now_s % _DAY_S):
        return year - 100
    return year


# Preconditions ----------------------------------------------------------------------------------------

# RFC 9110 §13.2.1: methods that select no representation ignore every precondition.
_WITHOUT_REPRESENTATION: Final = frozenset({"CONNECT", "OPTIONS", "TRACE"})

_PRECONDITIONS: Final = frozenset({"if-match", "if-unmodified-since", "if-none-match", "if-modified-since"})


def evaluate_preconditions(method: str, fields: Fields, validators: Validators, now_s: int) -> Verdict:
    """Decides between going on, 304 and 412, for a file that exists and would be answered with 200.

    RFC 9110 §13.2.2, steps 1 to 4; step 5 is `keeps_range`. An answer that is no success without the
    preconditions, such as 404, is not asked about (§13.2.1).
    """
    if method in _WITHOUT_REPRESENTATION or _PRECONDITIONS.isdisjoint(fields.values):
        return Verdict.PROCEED
    is_reading = method in ("GET", "HEAD")

    # Step 1: If-Match. Step 2: If-Unmodified-Since, only in the absence of If-Match.
    condition = _check_if_match(fields, validators)
    if condition is None:
        condition = _check_if_unmodified_since(fields, validators, now_s)
    if condition is False:
        return Verdict.FAILED

    # Step 3: If-None-Match. Step 4: If-Modified-Since, only for GET and HEAD, and only in the absence of
    # If-None-Match: a tag that does not match is the last word, whatever the date says.
    condition = _check_if_none_match(fields, validators)
    if condition is None and is_reading:
        condition = _check_if_modified_since(fields, validators, now_s)
    if condition is False:
        return Verdict.NOT_MODIFIED if is_reading else Verdict.FAILED

    return Verdict.PROCEED


# Each of these is None when its field is absent or must be ignored, else whether its condition holds.


def _check_if_match(fields: Fields, validators: Validators) -> bool | None:
    # RFC 9110 §13.1.1: the strong comparison; "*" is true for whatever exists.
    text = fields.get("if-match")
    if text is None:
        return None
    return text == "*" or _has_tag(text, validators.etag, weakly=False)


def _check_if_unmodified_since(fields: Fields, validators: Validators, now_s: int) -> bool | None:
    # RFC 9110 §13.1.4: ignored when it is no valid date, which a list of dates is not either.
    text = fields.get("if-unmodified-since")
    modified_s = validators.last_modified_s
    since_s = None if text is None else parse_http_date(text, now_s)
    return None if since_s is None or modified_s is None else modified_s <= since_s


def _check_if_none_match(fields: Fields, validators: Validators) -> bool | None:
    # RFC 9110 §13.1.2: the weak comparison; "*" is false for whatever exists.
    text = fields.get("if-none-match")
    if text is None:
        return None
    return text != "*" and not _has_tag(text, validators.etag, weakly=True)


def _check_if_modified_since(fields: Fields, validators: Validators, now_s: int) -> bool | None:
    # RFC 9110 §13.1.3: ignored when it is no valid date. A date in the future is valid, and true of nothing.
    text = fields.get("if-modified-since")
    modified_s = validators.last_modified_s
    since_s = None if text is None else parse_http_date(text, now_s)
    return None if since_s is None or modified_s is None else modified_s > since_s


def keeps_range(fields: Fields, validators: Validators, now_s: int) -> bool:
    """Tells whether If-Range lets the Range field stand; without If-Range it always stands.

    RFC 9110 §13.1.5, and §13.2.2 step 5. `now_s` is the Date of the answer.
    """
    text = fields.get("if-range")
    # The strong comparison of one tag with one tag: ours is strong, so equal text is all of it.
    if text is None or text == validators.etag:
        return True
    # A date has to match exactly, not "at least": an older copy may have been put back. And it has to be a
    # strong validator (§8.8.2.2), one second older than the answer: a file that was written within this very
    # second may be written again and keep its date, and parts of two contents would be joined.
    modified_s = validators.last_modified_s
    return modified_s is not None and modified_s < now_s and parse_http_date(text, now_s) == modified_s
