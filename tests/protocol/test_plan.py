"""Plans: every status that a file can be answered with, its fields and its body, as tables from RFC 9110."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioserve.protocol.conditional import format_http_date
from aioserve.protocol.http1 import REASONS, format_head
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.plan import (
    ALLOWED_METHODS,
    RETRY_AFTER_S,
    Body,
    Bytes,
    Empty,
    Parts,
    Pieces,
    Plan,
    Slice,
    find_conditions,
    plan_error,
    plan_error_page,
    plan_file,
    plan_options,
    plan_redirect,
)
from aioserve.protocol.variant import Variant

NOW_S = 1_700_000_000
MTIME_S = NOW_S - 1000
MTIME_NS = MTIME_S * 1_000_000_000 + 123_456_789
MODIFIED = format_http_date(MTIME_S)
BOUNDARY = "boundary"

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class OpenText:
    """A file whose bytes are all at hand."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, offset: int, size_bytes: int) -> bytes:
        return self.data[offset : offset + size_bytes]

    async def read_first(self, offset: int, size_bytes: int) -> bytes:
        return self.data[offset : offset + size_bytes]

    def read_at_once(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]

    def has_in_memory(self, start: int, stop: int) -> bool:
        return True

    def call_at_once(self, function: Callable[[int], int]) -> int:
        raise ValueError("no descriptor")

    async def call(self, function: Callable[[int], int]) -> int:
        raise ValueError("no descriptor")

    def share(self) -> OpenText:
        return self

    def close(self) -> None:
        pass


TEXT = OpenText(b"0123456789")
ETAG = f'"{MTIME_NS:x}-a"'


def make_variant(handle: OpenText = TEXT, *, mtime_ns: int = MTIME_NS, coding: str | None = None) -> Variant:
    return Variant(coding, len(handle.data), mtime_ns, handle)


def make_request(method: str = "GET", **fields: str) -> Request:
    """A request with these fields, their hyphens written as underscores."""
    return Request(
        method, b"/a.txt", (1, 1), Fields({name.replace("_", "-"): value for name, value in fields.items()})
    )


def plan(request: Request, variant: Variant | None = None, *, now_s: int = NOW_S) -> Plan:
    return plan_file(request, variant or make_variant(), "text/x", now_s=now_s, boundary=BOUNDARY)


def find(plan: Plan, name: str) -> str | None:
    """The value of a field; None when there is none. There is never more than one."""
    names = [written.lower() for written, _ in plan.fields]
    assert len(set(names)) == len(names)
    return {written.lower(): value for written, value in plan.fields}.get(name.lower())


def gather(body: Body) -> bytes:
    """The bytes that a body stands for."""
    match body:
        case Empty():
            return b""
        case Bytes():
            return body.data
        case Slice():
            assert body.handle.data is not None
            return body.handle.data[body.start : body.stop]
        case Parts():
            return b"".join(map(gather, body.parts))
        case Pieces():
            raise AssertionError("they are made when they are sent")


class TestWholeFile:
    """RFC 9110 §9.3.1, §9.3.2 and §15.3.1."""

    def test_get_sends_the_whole_file_with_all_that_is_known_of_it(self) -> None:
        answer = plan(make_request())

        assert answer == Plan(
            200,
            (
                ("Content-Type", "text/x"),
                ("Content-Length", "10"),
                ("Last-Modified", MODIFIED),
                ("ETag", ETAG),
                ("Accept-Ranges", "bytes"),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
            ),
            Slice(TEXT, 0, 10),
        )
        assert isinstance(answer.body, Slice)

    def test_head_has_the_fields_of_get_and_no_body(self) -> None:
        answer = plan(make_request("HEAD"))

        assert answer.status == 200
        assert answer.fields == plan(make_request()).fields
        assert isinstance(answer.body, Empty)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_an_empty_file_has_a_length_of_0_and_no_body(self, method: str) -> None:
        answer = plan(make_request(method), make_variant(OpenText(b"")))

        assert answer.status == 200
        assert find(answer, "Content-Length") == "0"
        assert isinstance(answer.body, Empty)

    @pytest.mark.parametrize(
        ("mtime_ns", "modified_s"),
        [
            pytest.param(0, 0, id="time zero"),
            pytest.param(-1, -1, id="a nanosecond before time zero is the second before"),
            pytest.param(NOW_S * 1_000_000_000, NOW_S, id="the present"),
            pytest.param((NOW_S + 1) * 1_000_000_000 - 1, NOW_S, id="the end of the present second"),
            # RFC 9110 §8.8.2.1: an origin server MUST NOT say a time later than Date.
            pytest.param((NOW_S + 1) * 1_000_000_000, NOW_S, id="the next second becomes the present"),
            pytest.param(2**63 - 1, NOW_S, id="the far future becomes the present"),
        ],
    )
    def test_a_file_was_never_modified_in_the_future(self, mtime_ns: int, modified_s: int) -> None:
        answer = plan(make_request(), make_variant(mtime_ns=mtime_ns))

        assert find(answer, "Last-Modified") == format_http_date(modified_s)

    def test_a_coded_form_has_a_tag_of_its_own(self) -> None:
        plain, coded = plan(make_request()), plan(make_request(), make_variant(coding="br"))

        assert find(plain, "ETag") != find(coded, "ETag")


class TestPreconditions:
    """RFC 9110 §13 and §15.4.5. Which verdict a field leads to is a table of test_conditional."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"if_none_match": ETAG}, id="the tag"),
            pytest.param({"if_none_match": f"W/{ETAG}"}, id="the tag as a weak one"),
            pytest.param({"if_modified_since": MODIFIED}, id="the date"),
            pytest.param({"if_none_match": ETAG, "range": "bytes=0-1"}, id="the tag, and a range"),
            pytest.param(
                {"if_none_match": ETAG, "range": "bytes=50-"}, id="the tag, and no satisfiable range"
            ),
        ],
    )
    def test_a_copy_that_is_current_is_not_sent_again(self, fields: dict[str, str], method: str) -> None:
        answer = plan(make_request(method, **fields))

        assert answer == Plan(304, (("ETag", ETAG), ("Cache-Control", "no-cache")), Empty())
        assert isinstance(answer.body, Empty)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"if_match": '"other"'}, id="another tag"),
            pytest.param({"if_match": f"W/{ETAG}"}, id="the tag as a weak one"),
            pytest.param({"if_unmodified_since": format_http_date(MTIME_S - 1)}, id="an earlier date"),
            pytest.param({"if_match": '"other"', "range": "bytes=0-1"}, id="another tag, and a range"),
            pytest.param({"if_match": '"other"', "if_none_match": ETAG}, id="If-Match comes first"),
        ],
    )
    def test_a_file_that_is_not_the_supposed_one_is_not_sent(
        self, fields: dict[str, str], method: str
    ) -> None:
        request = make_request(method, **fields)

        answer = plan(request)

        assert answer == plan_error(request, 412)
        assert isinstance(answer.body, Bytes if method == "GET" else Empty)

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"if_none_match": '"other"'}, id="another tag"),
            pytest.param(
                {"if_none_match": '"other"', "if_modified_since": MODIFIED}, id="the tag has the last word"
            ),
            pytest.param({"if_modified_since": format_http_date(MTIME_S - 1)}, id="an earlier date"),
            pytest.param({"if_match": ETAG}, id="the supposed tag"),
            pytest.param({"if_unmodified_since": MODIFIED}, id="the supposed date"),
        ],
    )
    def test_otherwise_the_file_is_sent(self, fields: dict[str, str]) -> None:
        assert plan(make_request(**fields)) == plan(make_request())

    def test_the_date_of_a_file_from_the_future_validates_it(self) -> None:
        variant = make_variant(mtime_ns=2**62)
        told = find(plan(make_request(), variant), "Last-Modified")
        assert told is not None

        assert plan(make_request(if_modified_since=told), variant).status == 304


class TestRanges:
    """RFC 9110 §14 and §15.3.7. Which spans a field asks for is a table of test_ranges."""

    @pytest.mark.parametrize(
        ("field", "start", "stop"),
        [
            pytest.param("bytes=0-0", 0, 1, id="the first byte"),
            pytest.param("bytes=2-5", 2, 6, id="bytes in the middle"),
            pytest.param("bytes=-3", 7, 10, id="a suffix"),
            pytest.param("bytes=4-", 4, 10, id="an open end"),
            pytest.param("bytes=0-", 0, 10, id="all, as a range"),
            pytest.param("bytes=0-4,5-9", 0, 10, id="two that touch are one"),
        ],
    )
    def test_one_span_is_sent_as_it_is(self, field: str, start: int, stop: int) -> None:
        answer = plan(make_request(range=field))

        assert answer == Plan(
            206,
            (
                ("Content-Type", "text/x"),
                ("Content-Length", str(stop - start)),
                ("Content-Range", f"bytes {start}-{stop - 1}/10"),
                *plan(make_request()).fields[2:],
            ),
            Slice(TEXT, start, stop),
        )
        assert isinstance(answer.body, Slice)

    def test_several_spans_are_sent_as_parts(self) -> None:
        answer = plan(make_request(range="bytes=7-8,0-1"))

        assert answer.status == 206
        assert find(answer, "Content-Type") == f"multipart/byteranges; boundary={BOUNDARY}"
        # RFC 9110 §15.3.7.2: the head of a multipart answer has no Content-Range.
        assert find(answer, "Content-Range") is None
        assert answer.fields[2:] == plan(make_request()).fields[2:]
        assert isinstance(answer.body, Parts)
        assert answer.body.parts[1::2] == (Slice(TEXT, 7, 9), Slice(TEXT, 0, 2))
        assert gather(answer.body) == (
            b"\r\n--boundary\r\nContent-Type: text/x\r\nContent-Range: bytes 7-8/10\r\n\r\n78"
            b"\r\n--boundary\r\nContent-Type: text/x\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
            b"\r\n--boundary--\r\n"
        )

    @pytest.mark.parametrize("accept", ["*/*", BROWSER])
    def test_what_lies_behind_the_end_cannot_be_sent(self, accept: str) -> None:
        request = make_request(range="bytes=10-", accept=accept)

        answer = plan(request)

        assert answer == plan_error(request, 416, (("Content-Range", "bytes */10"),))
        assert find(answer, "Content-Range") == "bytes */10"

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"range": "bytes=5-2"}, id="a malformed range"),
            pytest.param({"range": "lines=0-1"}, id="another unit"),
            pytest.param({"range": "bytes=0-,0-,0-"}, id="more than the file has"),
            pytest.param({"range": "bytes=0-1", "if_range": '"other"'}, id="If-Range with another tag"),
            pytest.param({"range": "bytes=50-", "if_range": '"other"'}, id="If-Range goes before 416"),
            pytest.param({"if_range": ETAG}, id="If-Range without a range"),
        ],
    )
    def test_a_range_that_does_not_hold_is_ignored(self, fields: dict[str, str]) -> None:
        assert plan(make_request(**fields)) == plan(make_request())

    @pytest.mark.parametrize(
        "if_range", [pytest.param(ETAG, id="the tag"), pytest.param(MODIFIED, id="the date")]
    )
    def test_if_range_lets_the_range_of_an_unchanged_file_stand(self, if_range: str) -> None:
        answer = plan(make_request(range="bytes=0-1", if_range=if_range))

        assert answer == plan(make_request(range="bytes=0-1"))

    def test_if_range_does_not_trust_the_date_of_the_present_second(self) -> None:
        answer = plan(make_request(range="bytes=0-1", if_range=MODIFIED), now_s=MTIME_S)

        assert answer.status == 200

    @pytest.mark.parametrize("field", ["bytes=0-1", "bytes=0-1,5-6", "bytes=10-"])
    def test_head_ignores_a_range(self, field: str) -> None:
        # RFC 9110 §14.2: Range is defined for GET alone.
        assert plan(make_request("HEAD", range=field)) == plan(make_request("HEAD"))

    @pytest.mark.parametrize("field", ["bytes=0-", "bytes=0-0", "bytes=-1"])
    def test_an_empty_file_has_no_ranges(self, field: str) -> None:
        variant = make_variant(OpenText(b""))

        assert plan(make_request(range=field), variant) == plan(make_request(), variant)


class TestErrors:
    """RFC 9110 §15.5 and §15.6."""

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(None, id="a request that could not be read"),
            pytest.param(make_request(), id="a client that does not say what it likes"),
            pytest.param(make_request(accept="*/*"), id="a client that takes anything"),
        ],
    )
    def test_an_error_is_a_line_of_text(self, request_: Request | None) -> None:
        assert plan_error(request_, 400) == Plan(
            400,
            (
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", "16"),
                ("Vary", "Accept"),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
            ),
            Bytes(b"400 Bad Request\n"),
        )

    def test_a_file_that_is_not_found_has_words_of_its_own(self) -> None:
        assert gather(plan_error(make_request(), 404).body) == b"----Not found----"

    @pytest.mark.parametrize("status", [status for status in REASONS if status >= 400])
    def test_an_error_is_a_page_for_a_browser(self, status: int) -> None:
        answer = plan_error(make_request(accept=BROWSER), status)

        assert find(answer, "Content-Type") == "text/html; charset=utf-8"
        assert find(answer, "Vary") == "Accept"
        page = gather(answer.body).decode()
        assert page.startswith("<!doctype html>")
        assert f"<h1>{status} {REASONS[status]}</h1>" in page

    @pytest.mark.parametrize("accept", ["*/*", BROWSER])
    @pytest.mark.parametrize("status", [404, 405, 412, 503])
    def test_head_has_the_fields_of_get_and_no_body(self, status: int, accept: str) -> None:
        answer = plan_error(make_request("HEAD", accept=accept), status)

        assert answer.fields == plan_error(make_request(accept=accept), status).fields
        assert isinstance(answer.body, Empty)

    def test_other_methods_have_a_body(self) -> None:
        assert isinstance(plan_error(make_request("POST"), 405).body, Bytes)

    def test_405_says_what_is_allowed(self) -> None:
        # RFC 9110 §15.5.6: an origin server MUST.
        assert find(plan_error(make_request("PUT"), 405), "Allow") == "GET, HEAD, OPTIONS"

    def test_503_says_when_to_come_again(self) -> None:
        assert find(plan_error(make_request(), 503), "Retry-After") == str(RETRY_AFTER_S) == "1"

    @pytest.mark.parametrize("status", [400, 403, 404, 416, 500])
    def test_no_other_error_says_either(self, status: int) -> None:
        answer = plan_error(make_request(), status)

        assert find(answer, "Allow") is None
        assert find(answer, "Retry-After") is None

    def test_fields_of_the_caller_are_kept(self) -> None:
        assert find(plan_error(make_request(), 416, (("X", "a"),)), "X") == "a"
        assert find(plan_error(make_request(), 503, (("X", "a"),)), "X") == "a"
        assert find(plan_error(make_request(), 405, (("X", "a"),)), "X") == "a"


class TestErrorPageOfTheSite:
    """A file that stands for an error: RFC 9110 §15.5 wants a representation, not which."""

    def test_get_sends_it_whole_without_validators(self) -> None:
        answer = plan_error_page(make_request(), 404, make_variant(), "text/html")

        assert answer == Plan(
            404,
            (
                ("Content-Type", "text/html"),
                ("Content-Length", "10"),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
            ),
            Slice(TEXT, 0, 10),
        )
        assert isinstance(answer.body, Slice)

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"range": "bytes=0-1"}, id="a range"),
            pytest.param({"if_none_match": ETAG}, id="a tag"),
            pytest.param({"if_match": '"other"'}, id="another tag"),
        ],
    )
    def test_it_is_never_partial_and_has_no_conditions(self, fields: dict[str, str]) -> None:
        answer = plan_error_page(make_request(**fields), 404, make_variant(), "text/html")

        assert answer == plan_error_page(make_request(), 404, make_variant(), "text/html")

    def test_head_has_the_fields_of_get_and_no_body(self) -> None:
        answer = plan_error_page(make_request("HEAD"), 404, make_variant(), "text/html")

        assert answer.fields == plan_error_page(make_request(), 404, make_variant(), "text/html").fields
        assert isinstance(answer.body, Empty)

    def test_an_empty_page_has_no_body(self) -> None:
        answer = plan_error_page(make_request(), 404, make_variant(OpenText(b"")), "text/html")

        assert find(answer, "Content-Length") == "0"
        assert isinstance(answer.body, Empty)


def test_a_redirect_is_permanent_keeps_the_method_and_has_no_body() -> None:
    # RFC 9110 §15.4.9.
    answer = plan_redirect("./a/")

    assert answer == Plan(
        308, (("Location", "./a/"), ("Content-Length", "0"), ("Cache-Control", "no-cache")), Empty()
    )
    assert isinstance(answer.body, Empty)


def test_options_says_what_is_allowed_without_a_body_or_a_length() -> None:
    # RFC 9110 §9.3.7, and §8.6: a 204 MUST NOT have a Content-Length.
    answer = plan_options()

    assert answer == Plan(204, (("Allow", "GET, HEAD, OPTIONS"),), Empty())
    assert isinstance(answer.body, Empty)
    assert set(ALLOWED_METHODS) == {"GET", "HEAD", "OPTIONS"}


RANGE_FIELDS = st.lists(
    st.from_regex(r"\A(?:[0-9]{1,2}-[0-9]{0,2}|-[0-9]{1,2}|,|x)\Z"), min_size=1, max_size=5
).map(lambda specs: "bytes=" + ",".join(specs))


class TestAllPlans:
    """What is true of every answer to GET and HEAD."""

    @settings(max_examples=500)
    @given(
        method=st.sampled_from(["GET", "HEAD"]),
        data=st.binary(max_size=30),
        field=RANGE_FIELDS | st.none(),
        if_none_match=st.sampled_from(["*", '"other"', None]),
        mtime_ns=st.integers(-(2**63), 2**63 - 1),
    )
    def test_the_length_is_that_of_the_body(
        self, method: str, data: bytes, field: str | None, if_none_match: str | None, mtime_ns: int
    ) -> None:
        given_fields = {"range": field, "if_none_match": if_none_match}
        request = make_request(method, **{name: v for name, v in given_fields.items() if v is not None})

        answer = plan(request, make_variant(OpenText(data), mtime_ns=mtime_ns))

        # It can be written, and no field stands there twice.
        assert format_head(answer.status, answer.fields)
        length = find(answer, "Content-Length")
        if answer.status == 304:
            assert length is None
        elif method == "GET":
            assert length == str(len(gather(answer.body)))
        if method == "HEAD" or answer.status == 304:
            assert isinstance(answer.body, Empty)
        elif answer.status == 200:
            assert gather(answer.body) == data
        elif answer.status == 206 and (content_range := find(answer, "Content-Range")) is not None:
            first, last = content_range.removeprefix("bytes ").partition("/")[0].split("-")
            assert gather(answer.body) == data[int(first) : int(last) + 1]


class TestConditions:
    """What an answer can be remembered by: the same text, the same answer."""

    @pytest.mark.parametrize(
        ("fields", "conditions"),
        [
            pytest.param({}, "", id="none"),
            pytest.param({"accept": "text/html", "cookie": "a"}, "", id="what decides nothing"),
            pytest.param({"if-none-match": '"a"'}, 'if-none-match: "a"\n', id="a tag"),
            pytest.param({"if-match": "", "accept": "x"}, "if-match: \n", id="an empty one"),
            pytest.param(
                {"if-none-match": '"a-b"', "if-match": "*"},
                'if-match: *\nif-none-match: "a-b"\n',
                id="two, in one order",
            ),
            pytest.param(
                {"if-modified-since": "Tue Nov 14 22:13:20 2023"},
                "if-modified-since: Tue Nov 14 22:13:20 2023\n",
                id="a date",
            ),
            pytest.param(
                {"if-unmodified-since": "tomorrow"}, "if-unmodified-since: tomorrow\n", id="no date"
            ),
        ],
    )
    def test_they_are_the_fields_that_decide(self, fields: dict[str, str], conditions: str) -> None:
        assert find_conditions(Fields(fields)) == conditions

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"range": "bytes=0-1"}, id="a range"),
            pytest.param({"if-range": '"a"'}, id="If-Range"),
            pytest.param({"if-modified-since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, id="a year of two digits"),
            pytest.param({"if-unmodified-since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, id="the other date"),
        ],
    )
    def test_there_are_none_for_what_holds_for_a_moment(self, fields: dict[str, str]) -> None:
        assert find_conditions(Fields(fields)) is None

    @given(
        st.dictionaries(
            st.sampled_from(["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]),
            st.sampled_from(
                [
                    ETAG,
                    f"W/{ETAG}",
                    "*",
                    "x",
                    "",
                    *map(format_http_date, (MTIME_S - 1, MTIME_S, MTIME_S + 1, NOW_S + 1)),
                    "Tuesday, 14-Nov-23 22:13:20 GMT",
                    "Friday, 14-Nov-73 22:13:20 GMT",
                ]
            ),
        ),
        st.dictionaries(st.sampled_from(["accept", "cookie", "te", "from"]), st.sampled_from(["", "a-b"])),
        st.integers(0, 200 * 366 * 86_400),
    )
    def test_the_same_ones_get_the_same_answer_at_any_time(
        self, fields: dict[str, str], more: dict[str, str], later_s: int
    ) -> None:
        request = Request("GET", b"/a.txt", (1, 1), Fields(fields))
        conditions = find_conditions(request.fields)
        answer = plan(request)
        if conditions is None or answer.status not in (200, 304):
            return
        other = request._replace(fields=Fields({**more, **fields}))

        assert find_conditions(other.fields) == conditions
        assert plan(other, now_s=NOW_S + later_s) == answer
