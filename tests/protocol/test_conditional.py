"""Entity tags, HTTP dates and preconditions, each as a table from RFC 9110 §5.6.7, §8.8 and §13."""

from __future__ import annotations

from calendar import timegm
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.conditional import (
    Validators,
    Verdict,
    evaluate_preconditions,
    format_etag,
    format_http_date,
    keeps_range,
    parse_http_date,
)
from aioserve.protocol.message import Fields

PROCEED, NOT_MODIFIED, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, Verdict.FAILED

NOW_S = timegm((2024, 6, 1, 12, 0, 0))
MODIFIED_S = 1_700_000_000
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
MINUTE_BEFORE = "Tue, 14 Nov 2023 22:12:20 GMT"
MINUTE_AFTER = "Tue, 14 Nov 2023 22:14:20 GMT"
ETAG = '"17979cfe362a0000-4"'
VALIDATORS = Validators(etag=ETAG, last_modified_s=MODIFIED_S)

FIRST_S = timegm((1, 1, 1, 0, 0, 0))
LAST_S = timegm((9999, 12, 31, 23, 59, 59))

LONG_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def to_fields(**values: str) -> Fields:
    return Fields({name.replace("_", "-"): value for name, value in values.items()})


class TestEntityTags:
    @pytest.mark.parametrize(
        ("mtime_ns", "size_bytes", "coding", "etag"),
        [
            pytest.param(1_700_000_000_000_000_000, 4, None, ETAG, id="nanoseconds and size in hexadecimal"),
            pytest.param(
                255, 16, "br", '"ff-10-br"', id="a compressed form has its coding inside the quotes"
            ),
            pytest.param(0, 0, None, '"0-0"', id="an empty file of the first second of 1970"),
            pytest.param(-255, 16, None, '"-ff-10"', id="a file from before 1970"),
        ],
    )
    def test_the_tag_is_made_of_time_size_and_coding(
        self, mtime_ns: int, size_bytes: int, coding: str | None, etag: str
    ) -> None:
        assert format_etag(mtime_ns, size_bytes, coding) == etag

    @given(
        one=st.tuples(st.integers(), st.integers(min_value=0), st.sampled_from([None, "gzip", "br", "zstd"])),
        other=st.tuples(
            st.integers(), st.integers(min_value=0), st.sampled_from([None, "gzip", "br", "zstd"])
        ),
    )
    def test_different_files_have_different_tags(
        self, one: tuple[int, int, str | None], other: tuple[int, int, str | None]
    ) -> None:
        assert (format_etag(*one) == format_etag(*other)) == (one == other)


class TestHttpDates:
    @pytest.mark.parametrize(
        ("unix_s", "text"),
        [
            pytest.param(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", id="the example of the RFC"),
            pytest.param(0, "Thu, 01 Jan 1970 00:00:00 GMT", id="time zero"),
            pytest.param(-1, "Wed, 31 Dec 1969 23:59:59 GMT", id="a second before 1970"),
            pytest.param(951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", id="a leap day"),
            pytest.param(2**31, "Tue, 19 Jan 2038 03:14:08 GMT", id="past 31 bits"),
            pytest.param(2**32, "Sun, 07 Feb 2106 06:28:16 GMT", id="past 32 bits"),
            pytest.param(FIRST_S, "Mon, 01 Jan 0001 00:00:00 GMT", id="the first year has four digits"),
            pytest.param(FIRST_S - 1, "Mon, 01 Jan 0001 00:00:00 GMT", id="before the first year"),
            pytest.param(LAST_S, "Fri, 31 Dec 9999 23:59:59 GMT", id="the last second of four-digit years"),
            pytest.param(LAST_S + 1, "Fri, 31 Dec 9999 23:59:59 GMT", id="the year 10000"),
            pytest.param(2**63, "Fri, 31 Dec 9999 23:59:59 GMT", id="a time that no calendar has"),
        ],
    )
    def test_a_time_is_written_as_imf_fixdate(self, unix_s: int, text: str) -> None:
        assert format_http_date(unix_s) == text

    @pytest.mark.parametrize(
        ("text", "unix_s"),
        [
            pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777, id="IMF-fixdate"),
            pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777, id="the form of RFC 850"),
            pytest.param("Sun Nov  6 08:49:37 1994", 784_111_777, id="the form of asctime"),
            pytest.param("Sun Nov 06 08:49:37 1994", 784_111_777, id="asctime with a zero for the blank"),
            pytest.param("Tue Nov 14 22:13:20 2023", MODIFIED_S, id="asctime with two digits"),
            pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 0, id="time zero"),
            pytest.param("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400, id="a leap day"),
            pytest.param("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800, id="a leap second"),
            pytest.param("Mon, 01 Jan 0001 00:00:00 GMT", FIRST_S, id="the year 1"),
        ],
    )
    def test_each_of_the_three_forms_is_read(self, text: str, unix_s: int) -> None:
        assert parse_http_date(text, NOW_S) == unix_s

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("0", id="a number"),
            pytest.param("bad-date", id="words"),
            pytest.param("Tue, 14 Nov 2023 22:13:20", id="no zone"),
            pytest.param("Tue, 14 Nov 2023 22:13:20 UTC", id="another zone"),
            pytest.param("Tue, 14 Nov 2023 22:13:20 +0000", id="a numeric zone"),
            pytest.param("Tue, 14 Nov 2023 22:13:20 gmt", id="the zone in lower case"),
            pytest.param("tue, 14 nov 2023 22:13:20 GMT", id="names in lower case"),
            pytest.param("Mon, 14 Nov 2023 22:13:20 GMT", id="the name of another day"),
            pytest.param("Mon Nov 14 22:13:20 2023", id="the name of another day in asctime"),
            pytest.param("Monday, 14-Nov-23 22:13:20 GMT", id="the name of another day in RFC 850"),
            pytest.param("Tuesday, 14 Nov 2023 22:13:20 GMT", id="a long day name in IMF-fixdate"),
            pytest.param("Tue, 14-Nov-23 22:13:20 GMT", id="a short day name in RFC 850"),
            pytest.param("Tuesday, 14-Nov-2023 22:13:20 GMT", id="four digits of the year in RFC 850"),
            pytest.param("14 Nov 2023 22:13:20 GMT", id="no day name"),
            pytest.param("Tue, 4 Nov 2023 22:13:20 GMT", id="one digit for the day"),
            pytest.param("Tue, 00 Nov 2023 22:13:20 GMT", id="day 0"),
            pytest.param("Tue, 32 Nov 2023 22:13:20 GMT", id="day 32"),
            pytest.param("Fri, 31 Nov 2023 22:13:20 GMT", id="a day that the month has not"),
            pytest.param("Wed, 29 Feb 2023 00:00:00 GMT", id="a leap day in a common year"),
            pytest.param("Tue, 14 Nov 0000 22:13:20 GMT", id="the year 0"),
            pytest.param("Tue, 14 Nov 2023 24:00:00 GMT", id="hour 24"),
            pytest.param("Tue, 14 Nov 2023 22:60:00 GMT", id="minute 60"),
            pytest.param("Tue, 14 Nov 2023 22:13:60 GMT", id="a leap second in the middle of a day"),
            pytest.param("Tue, 14 Nov 2023 23:59:61 GMT", id="second 61"),
            pytest.param("Tue,  14 Nov 2023 22:13:20 GMT", id="two blanks"),
            pytest.param(" Tue, 14 Nov 2023 22:13:20 GMT", id="a blank before"),
            pytest.param("Tue, 14 Nov 2023 22:13:20 GMT\n", id="a line feed behind"),
            pytest.param("Tue, 14 Nov 2023 22:13:²0 GMT", id="a digit that is not ASCII"),
            pytest.param(f"{MODIFIED}, {MODIFIED}", id="two dates from a repeated field"),
            pytest.param("Fri, 16 Jul 2021 09:09:1626426577S GMT", id="a number for the seconds"),
            pytest.param("A" * 30_000, id="a long word"),
        ],
    )
    def test_what_is_no_http_date_is_none(self, text: str) -> None:
        assert parse_http_date(text, NOW_S) is None

    @pytest.mark.parametrize(
        ("text", "year"),
        [
            pytest.param("Sunday, 02-Jun-24 12:00:00 GMT", 2024, id="tomorrow"),
            pytest.param(
                "Friday, 01-Jun-73 12:00:00 GMT", None, id="49 years ahead, named by its day in 1973"
            ),
            pytest.param("Thursday, 01-Jun-73 12:00:00 GMT", 2073, id="49 years ahead"),
            pytest.param("Friday, 01-Jun-74 12:00:00 GMT", 2074, id="50 years ahead to the second"),
            pytest.param("Saturday, 01-Jun-74 12:00:01 GMT", 1974, id="50 years and a second ahead"),
            pytest.param("Sunday, 02-Jun-74 11:00:00 GMT", 1974, id="50 years and a day ahead"),
            pytest.param("Monday, 01-Jul-74 00:00:00 GMT", 1974, id="50 years and a month ahead"),
            pytest.param("Sunday, 01-Jun-75 12:00:00 GMT", 1975, id="51 years ahead"),
            pytest.param("Tuesday, 01-Jun-99 12:00:00 GMT", 1999, id="the last century"),
            pytest.param("Thursday, 01-Jun-00 12:00:00 GMT", 2000, id="year 00"),
        ],
    )
    def test_two_digits_mean_the_latest_year_up_to_50_years_ahead(self, text: str, year: int | None) -> None:
        unix_s = parse_http_date(text, NOW_S)
        assert (None if unix_s is None else int(format_http_date(unix_s)[12:16])) == year

    def test_two_digits_mean_the_next_century_when_this_one_ends(self) -> None:
        now_s = timegm((2099, 12, 31, 0, 0, 0))
        assert parse_http_date("Friday, 01-Jan-00 00:00:00 GMT", now_s) == timegm((2100, 1, 1, 0, 0, 0))

    @given(st.integers(min_value=FIRST_S, max_value=LAST_S))
    def test_what_is_written_is_read_as_the_same_time(self, unix_s: int) -> None:
        assert parse_http_date(format_http_date(unix_s), NOW_S) == unix_s

    @given(st.integers(min_value=0, max_value=LAST_S))
    def test_what_is_written_is_what_the_standard_library_writes(self, unix_s: int) -> None:
        assert format_http_date(unix_s) == formatdate(unix_s, usegmt=True)

    @given(ahead_s=st.integers(min_value=-49 * 365 * 86_400, max_value=49 * 365 * 86_400))
    def test_the_obsolete_forms_are_read_as_the_same_time(self, ahead_s: int) -> None:
        unix_s = NOW_S + ahead_s
        day_name, day, month, year, time, _ = format_http_date(unix_s).replace(",", "").split()
        long_name = next(name for name in LONG_DAY_NAMES if name.startswith(day_name))
        assert parse_http_date(f"{long_name}, {day}-{month}-{year[2:]} {time} GMT", NOW_S) == unix_s
        assert parse_http_date(f"{day_name} {month} {int(day):2} {time} {year}", NOW_S) == unix_s

    @given(
        st.from_regex(r"\A[A-Z][a-z]{2}, [0-3][0-9] (Jan|Feb|Nov) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\Z")
    )
    def test_what_is_read_is_the_only_text_of_its_time(self, text: str) -> None:
        unix_s = parse_http_date(text, NOW_S)
        assert unix_s is None or ":60 " in text or format_http_date(unix_s) == text


# What GET and HEAD are told. Each row stands for both methods: RFC 9110 §13.2.2 makes no difference.
READING = [
    pytest.param({}, PROCEED, id="no precondition"),
    # §13.1.1
    pytest.param({"if_match": "*"}, PROCEED, id="If-Match: any file"),
    pytest.param({"if_match": ETAG}, PROCEED, id="If-Match: our tag"),
    pytest.param({"if_match": f'"foo", "bar", {ETAG}'}, PROCEED, id="If-Match: our tag in a list"),
    pytest.param({"if_match": f'"foo",W/{ETAG},{ETAG}'}, PROCEED, id="If-Match: our tag weak, then strong"),
    pytest.param({"if_match": '"foo"'}, FAILED, id="If-Match: another tag"),
    pytest.param({"if_match": f"W/{ETAG}"}, FAILED, id="If-Match: our tag as a weak one never matches"),
    pytest.param({"if_match": ' "foo",, "bar" ,'}, FAILED, id="If-Match: other tags and empty elements"),
    pytest.param({"if_match": ""}, FAILED, id="If-Match: an empty list"),
    pytest.param({"if_match": "unquoted"}, FAILED, id="If-Match: a malformed list matches nothing"),
    pytest.param({"if_match": f"{ETAG}, unquoted"}, FAILED, id="If-Match: our tag in a malformed list"),
    pytest.param({"if_match": f"*, {ETAG}"}, FAILED, id="If-Match: a star is no element of a list"),
    # §13.1.4
    pytest.param({"if_unmodified_since": MODIFIED}, PROCEED, id="If-Unmodified-Since: our date"),
    pytest.param({"if_unmodified_since": MINUTE_AFTER}, PROCEED, id="If-Unmodified-Since: later"),
    pytest.param({"if_unmodified_since": MINUTE_BEFORE}, FAILED, id="If-Unmodified-Since: earlier"),
    pytest.param({"if_unmodified_since": "foo"}, PROCEED, id="If-Unmodified-Since: no date is ignored"),
    pytest.param({"if_unmodified_since": ""}, PROCEED, id="If-Unmodified-Since: an empty one is ignored"),
    pytest.param(
        {"if_unmodified_since": f"{MINUTE_BEFORE}, {MINUTE_BEFORE}"},
        PROCEED,
        id="If-Unmodified-Since: two dates are ignored",
    ),
    # §13.2.2, steps 1 and 2: If-Match hides If-Unmodified-Since.
    pytest.param(
        {"if_match": ETAG, "if_unmodified_since": MINUTE_BEFORE},
        PROCEED,
        id="a matching tag beats an old date",
    ),
    pytest.param(
        {"if_match": '"foo"', "if_unmodified_since": MINUTE_AFTER}, FAILED, id="a wrong tag beats a good date"
    ),
    # §13.1.2
    pytest.param({"if_none_match": "*"}, NOT_MODIFIED, id="If-None-Match: any file"),
    pytest.param({"if_none_match": ETAG}, NOT_MODIFIED, id="If-None-Match: our tag"),
    pytest.param({"if_none_match": f"W/{ETAG}"}, NOT_MODIFIED, id="If-None-Match: our tag as a weak one"),
    pytest.param({"if_none_match": f'"a", {ETAG}, "b"'}, NOT_MODIFIED, id="If-None-Match: our tag in a list"),
    pytest.param(
        {"if_none_match": f'W/"a" ,\tW/{ETAG}'}, NOT_MODIFIED, id="If-None-Match: weak ones in a list"
    ),
    pytest.param({"if_none_match": f'"a,{ETAG[1:]}'}, PROCEED, id="If-None-Match: a comma inside the quotes"),
    pytest.param(
        {"if_none_match": f'"é", "", {ETAG}'}, NOT_MODIFIED, id="If-None-Match: odd tags beside ours"
    ),
    pytest.param({"if_none_match": f"{ETAG},"}, NOT_MODIFIED, id="If-None-Match: a comma behind"),
    pytest.param({"if_none_match": f", {ETAG}"}, NOT_MODIFIED, id="If-None-Match: a comma before"),
    pytest.param({"if_none_match": ","}, PROCEED, id="If-None-Match: nothing but a comma"),
    pytest.param({"if_none_match": ""}, PROCEED, id="If-None-Match: an empty list"),
    pytest.param({"if_none_match": '"123"'}, PROCEED, id="If-None-Match: another tag"),
    pytest.param({"if_none_match": ETAG[1:-1]}, PROCEED, id="If-None-Match: our tag without its quotes"),
    pytest.param({"if_none_match": ETAG[:-1]}, PROCEED, id="If-None-Match: an unclosed quote"),
    pytest.param({"if_none_match": f"w/{ETAG}"}, PROCEED, id="If-None-Match: the weak mark in lower case"),
    pytest.param({"if_none_match": f"W/ {ETAG}"}, PROCEED, id="If-None-Match: a blank behind the weak mark"),
    pytest.param({"if_none_match": f'{ETAG} "b"'}, PROCEED, id="If-None-Match: a list without its commas"),
    pytest.param({"if_none_match": f'"a b", {ETAG}'}, PROCEED, id="If-None-Match: a blank inside a tag"),
    pytest.param({"if_none_match": "bad input"}, PROCEED, id="If-None-Match: words"),
    pytest.param({"if_none_match": " " * 30_000 + "x"}, PROCEED, id="If-None-Match: thousands of blanks"),
    pytest.param({"if_none_match": "," * 30_000}, PROCEED, id="If-None-Match: thousands of commas"),
    # §13.1.3
    pytest.param({"if_modified_since": MODIFIED}, NOT_MODIFIED, id="If-Modified-Since: our date"),
    pytest.param({"if_modified_since": MINUTE_AFTER}, NOT_MODIFIED, id="If-Modified-Since: later"),
    pytest.param(
        {"if_modified_since": "Fri, 31 Dec 2100 23:59:59 GMT"},
        NOT_MODIFIED,
        id="If-Modified-Since: the future",
    ),
    pytest.param({"if_modified_since": MINUTE_BEFORE}, PROCEED, id="If-Modified-Since: earlier"),
    pytest.param(
        {"if_modified_since": "Tuesday, 14-Nov-23 22:13:20 GMT"},
        NOT_MODIFIED,
        id="If-Modified-Since: RFC 850",
    ),
    pytest.param(
        {"if_modified_since": "Tue Nov 14 22:13:20 2023"}, NOT_MODIFIED, id="If-Modified-Since: asctime"
    ),
    pytest.param({"if_modified_since": "0"}, PROCEED, id="If-Modified-Since: no date is ignored"),
    pytest.param({"if_modified_since": ""}, PROCEED, id="If-Modified-Since: an empty one is ignored"),
    pytest.param(
        {"if_modified_since": f"{MODIFIED}, {MODIFIED}"},
        PROCEED,
        id="If-Modified-Since: two dates are ignored",
    ),
    # §13.2.2, steps 3 and 4: If-None-Match hides If-Modified-Since.
    pytest.param(
        {"if_none_match": '"other"', "if_modified_since": MODIFIED},
        PROCEED,
        id="a tag that does not match beats a date that does",
    ),
    pytest.param(
        {"if_none_match": "bad input", "if_modified_since": MODIFIED},
        PROCEED,
        id="a malformed list of tags still beats a date",
    ),
    pytest.param(
        {"if_none_match": ETAG, "if_modified_since": MINUTE_BEFORE},
        NOT_MODIFIED,
        id="a tag that matches beats a date that does not",
    ),
    # §13.2.2, steps 1 and 2 before steps 3 and 4.
    pytest.param(
        {"if_match": "*", "if_none_match": ETAG}, NOT_MODIFIED, id="If-Match holds, If-None-Match not"
    ),
    pytest.param(
        {"if_match": '"foo"', "if_none_match": ETAG}, FAILED, id="If-Match fails before If-None-Match"
    ),
    pytest.param(
        {"if_unmodified_since": MINUTE_BEFORE, "if_modified_since": MINUTE_AFTER},
        FAILED,
        id="If-Unmodified-Since fails before If-Modified-Since",
    ),
    pytest.param(
        {"if_unmodified_since": MODIFIED, "if_modified_since": MODIFIED},
        NOT_MODIFIED,
        id="If-Unmodified-Since holds, If-Modified-Since not",
    ),
]


class TestPreconditions:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(("values", "verdict"), READING)
    def test_reading(self, method: str, values: dict[str, str], verdict: Verdict) -> None:
        assert evaluate_preconditions(method, to_fields(**values), VALIDATORS, NOW_S) is verdict

    @pytest.mark.parametrize(
        ("method", "values", "verdict"),
        [
            pytest.param("PUT", {"if_none_match": "*"}, FAILED, id="a file that must not exist, but does"),
            pytest.param("PUT", {"if_none_match": ETAG}, FAILED, id="a matching tag is 412 when not reading"),
            pytest.param("PUT", {"if_none_match": '"other"'}, PROCEED, id="a tag that does not match"),
            pytest.param("DELETE", {"if_match": '"other"'}, FAILED, id="If-Match holds for every method"),
            pytest.param(
                "POST", {"if_modified_since": MODIFIED}, PROCEED, id="If-Modified-Since is for reading"
            ),
            pytest.param("OPTIONS", {"if_match": '"other"'}, PROCEED, id="OPTIONS has no representation"),
            pytest.param("OPTIONS", {"if_none_match": "*"}, PROCEED, id="OPTIONS is not 304 either"),
        ],
    )
    def test_other_methods(self, method: str, values: dict[str, str], verdict: Verdict) -> None:
        assert evaluate_preconditions(method, to_fields(**values), VALIDATORS, NOW_S) is verdict

    @pytest.mark.parametrize(
        ("values", "verdict"),
        [
            pytest.param({"if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"}, NOT_MODIFIED, id="equal"),
            pytest.param({"if_modified_since": "Wed, 31 Dec 1969 23:59:59 GMT"}, PROCEED, id="before"),
            pytest.param({"if_unmodified_since": "Thu, 01 Jan 1970 00:00:00 GMT"}, PROCEED, id="unmodified"),
            pytest.param({"if_unmodified_since": "Wed, 31 Dec 1969 23:59:59 GMT"}, FAILED, id="modified"),
        ],
    )
    def test_modification_time_zero_is_a_time_like_any_other(
        self, values: dict[str, str], verdict: Verdict
    ) -> None:
        validators = Validators(format_etag(0, 4), last_modified_s=0)
        assert evaluate_preconditions("GET", to_fields(**values), validators, NOW_S) is verdict

    def test_a_file_dated_in_the_future_is_unchanged_since_the_date_that_was_sent_for_it(self) -> None:
        sent = Validators(format_etag((NOW_S + 3600) * 10**9, 4), last_modified_s=NOW_S)
        fields = to_fields(if_modified_since=format_http_date(NOW_S))
        assert evaluate_preconditions("GET", fields, sent, NOW_S) is NOT_MODIFIED

    @given(
        st.sampled_from(["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]),
        st.text(alphabet='W/"*, \tabGMT0159:é', max_size=60),
    )
    def test_any_field_has_a_verdict(self, name: str, text: str) -> None:
        verdict = evaluate_preconditions("GET", Fields({name: text}), VALIDATORS, NOW_S)
        assert isinstance(verdict, Verdict)


class TestIfRange:
    @pytest.mark.parametrize(
        ("if_range", "keeps"),
        [
            pytest.param(ETAG, True, id="our tag"),
            pytest.param('"B"', False, id="another tag"),
            pytest.param(f"W/{ETAG}", False, id="our tag as a weak one"),
            pytest.param(ETAG[:-1], False, id="our tag without its last quote"),
            pytest.param(f'{ETAG}, "B"', False, id="a list of tags"),
            pytest.param("*", False, id="a star"),
            pytest.param(MODIFIED, True, id="our date"),
            pytest.param("Tuesday, 14-Nov-23 22:13:20 GMT", True, id="our date as in RFC 850"),
            pytest.param(MINUTE_BEFORE, False, id="an earlier date"),
            pytest.param(MINUTE_AFTER, False, id="a later date"),
            pytest.param("a-b-c", False, id="neither tag nor date"),
            pytest.param("", False, id="empty"),
        ],
    )
    def test_the_range_stands_only_for_exactly_the_same_file(self, if_range: str, keeps: bool) -> None:
        assert keeps_range(to_fields(if_range=if_range), VALIDATORS, NOW_S) is keeps

    def test_the_range_stands_without_if_range(self) -> None:
        assert keeps_range(to_fields(range="bytes=0-4"), VALIDATORS, NOW_S) is True

    @pytest.mark.parametrize(
        ("now_s", "keeps"),
        [
            pytest.param(MODIFIED_S, False, id="modified within this second, or in the future"),
            pytest.param(MODIFIED_S + 1, True, id="modified a second ago"),
        ],
    )
    def test_a_date_is_strong_from_one_second_on(self, now_s: int, keeps: bool) -> None:
        assert keeps_range(to_fields(if_range=MODIFIED), VALIDATORS, now_s) is keeps

    def test_a_tag_is_strong_at_once(self) -> None:
        assert keeps_range(to_fields(if_range=ETAG), VALIDATORS, MODIFIED_S) is True
