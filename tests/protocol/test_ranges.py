"""Range fields as tables from RFC 9110 §14 and against a model of single bytes, and the frame of parts."""

from __future__ import annotations

import email.parser
import email.policy
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.ranges import (
    MAX_FIELD_BYTES,
    MAX_OVERLAPS,
    MAX_RANGES,
    Span,
    format_content_range,
    format_unsatisfied_range,
    parse_range,
    plan_multipart,
)


def to_spans(pairs: Sequence[tuple[int, int]] | None) -> tuple[Span, ...] | None:
    return None if pairs is None else tuple(Span(start, stop) for start, stop in pairs)


SINGLE = [
    pytest.param("bytes=0-0", 10, [(0, 1)], id="the first byte"),
    pytest.param("bytes=9-9", 10, [(9, 10)], id="the last byte"),
    pytest.param("bytes=0-0", 1, [(0, 1)], id="the only byte"),
    pytest.param("bytes=2-5", 10, [(2, 6)], id="bytes in the middle"),
    pytest.param("bytes=0-9", 10, [(0, 10)], id="the whole file is still a range"),
    pytest.param("bytes=0-", 10, [(0, 10)], id="the whole file by an open end"),
    pytest.param("bytes=4-", 10, [(4, 10)], id="an open end"),
    pytest.param("bytes=9-", 10, [(9, 10)], id="an open end at the last byte"),
    pytest.param("bytes=2-50", 10, [(2, 10)], id="a last byte behind the end"),
    pytest.param("bytes=-1", 10, [(9, 10)], id="a suffix of one byte"),
    pytest.param("bytes=-10", 10, [(0, 10)], id="a suffix as long as the file"),
    pytest.param("bytes=-99", 10, [(0, 10)], id="a suffix longer than the file"),
    pytest.param("bytes=2147483647-4294967296", 2**40, [(2**31 - 1, 2**32 + 1)], id="positions past 32 bits"),
    pytest.param(
        f"bytes={2**63 - 2}-", 2**63 - 1, [(2**63 - 2, 2**63 - 1)], id="the largest file there can be"
    ),
    pytest.param("bytes=007-0008", 10, [(7, 9)], id="leading zeros"),
    pytest.param(f"bytes={'0' * 1000}7-8", 10, [(7, 9)], id="a thousand leading zeros"),
    pytest.param(f"bytes=0-{'9' * 1000}", 10, [(0, 10)], id="a thousand digits"),
    pytest.param(f"bytes=-{'9' * 1000}", 10, [(0, 10)], id="a suffix of a thousand digits"),
    pytest.param("Bytes=0-4", 10, [(0, 5)], id="the unit with a capital"),
    pytest.param("BYTES=0-4", 10, [(0, 5)], id="the unit in upper case"),
    pytest.param("bytes=,0-4,", 10, [(0, 5)], id="empty elements"),
    pytest.param("bytes= \t0-4 ", 10, [(0, 5)], id="blanks around an element"),
    pytest.param("bytes=0- 4", 10, [(0, 5)], id="a blank behind the dash"),
    pytest.param("bytes=0 -4", 10, [(0, 5)], id="a blank before the dash"),
    pytest.param("bytes=- 4", 10, [(6, 10)], id="a blank in a suffix"),
]

SEVERAL = [
    pytest.param("bytes=0-1,5-6", 10, [(0, 2), (5, 7)], id="two ranges"),
    pytest.param("bytes=0-1 ,\t5-6", 10, [(0, 2), (5, 7)], id="blanks around the comma"),
    pytest.param("bytes=5-6,0-1", 10, [(5, 7), (0, 2)], id="the order of the request is kept"),
    pytest.param("bytes=0-0,-1", 10, [(0, 1), (9, 10)], id="the first and the last byte"),
    pytest.param("bytes=0-1,3-4", 10, [(0, 2), (3, 5)], id="one byte between two ranges"),
    pytest.param("bytes=0-1,2-4", 10, [(0, 5)], id="two adjacent ranges become one"),
    pytest.param("bytes=2-4,0-1", 10, [(0, 5)], id="two adjacent ranges in reverse become one"),
    pytest.param("bytes=0-4,5-", 10, [(0, 10)], id="two halves become the whole file, as a range"),
    pytest.param("bytes=0-4,3-6", 10, [(0, 7)], id="two overlapping ranges become one"),
    pytest.param("bytes=3-6,0-4", 10, [(0, 7)], id="two overlapping ranges in reverse become one"),
    pytest.param("bytes=0-4,1-2", 10, [(0, 5)], id="a range inside another"),
    pytest.param("bytes=1-2,1-2", 10, [(1, 3)], id="the same range twice"),
    pytest.param("bytes=50-59,0-9,8-12,30-39", 100, [(50, 60), (0, 13), (30, 40)], id="merged in the middle"),
    pytest.param("bytes=10-14,90-94,0-9", 100, [(0, 15), (90, 95)], id="merged where its first range stood"),
    pytest.param("bytes=0-4,2-6,4-8", 20, [(0, 9)], id="two overlaps are tolerated"),
    pytest.param("bytes=0-4,2-6,4-8,6-9", 20, None, id="three overlaps are not"),
    pytest.param("bytes=0-9,1-1,3-3,5-5", 20, None, id="three ranges inside of one are three overlaps"),
    pytest.param("bytes=0-4,50-54,2-6,52-56,4-8", 100, None, id="overlaps count over the whole request"),
    pytest.param("bytes=0-1,2-3,4-5,6-7,8-9", 10, [(0, 10)], id="adjacent ranges are no overlaps"),
    pytest.param("bytes=0-5,5-9", 10, None, id="one byte more than the file has"),
    pytest.param("bytes=0-1000,0-0", 10, None, id="the whole file and a byte of it"),
    pytest.param("bytes=0-4,90-99", 10, [(0, 5)], id="an unsatisfiable range beside a good one"),
    pytest.param("bytes=-0,0-4", 10, [(0, 5)], id="an empty suffix beside a good range"),
    pytest.param(
        "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(20)),
        100,
        [(n * 3, n * 3 + 1) for n in range(20)],
        id="the 20 ranges of zsync",
    ),
    pytest.param(
        "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(MAX_RANGES)),
        100,
        [(n * 3, n * 3 + 1) for n in range(MAX_RANGES)],
        id="as many ranges as are allowed",
    ),
    pytest.param(
        "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(MAX_RANGES + 1)),
        100,
        None,
        id="one range too many",
    ),
    pytest.param(
        "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(100)), 1000, None, id="a hundred tiny ranges"
    ),
    pytest.param(
        "bytes=" + ",".join(["1000-"] * (MAX_RANGES + 1)), 100, None, id="unsatisfiable ones count as well"
    ),
    pytest.param("bytes=0-4" + "," * 100, 10, [(0, 5)], id="empty elements do not count"),
    pytest.param("bytes=0-,1-,2-,3-,4-", 1000, None, id="five times nearly the whole file"),
]

UNSATISFIABLE = [
    pytest.param("bytes=10-", 10, id="an open end at the end"),
    pytest.param("bytes=10-10", 10, id="the byte behind the last"),
    pytest.param("bytes=100-200", 10, id="far behind the end"),
    pytest.param("bytes=-0", 10, id="an empty suffix"),
    pytest.param("bytes=-000", 10, id="an empty suffix in three digits"),
    pytest.param("bytes=100-,200-300", 10, id="several behind the end"),
    pytest.param("bytes=-0,10-", 10, id="an empty suffix and an open end at the end"),
    pytest.param(f"bytes={'9' * 20}-{'9' * 30}", 10, id="more digits than any file needs"),
    pytest.param(f"bytes={'9' * 20}-1{'0' * 30}", 10, id="more digits, the first position the greater digit"),
    pytest.param(f"bytes={2**63 - 1}-", 10, id="the largest position of 63 bits"),
]

IGNORED = [
    pytest.param("", id="empty"),
    pytest.param(",", id="a comma"),
    pytest.param("bytes", id="the unit alone"),
    pytest.param("bytes=", id="no range"),
    pytest.param("bytes= ", id="a blank for a range"),
    pytest.param("bytes=,", id="empty elements alone"),
    pytest.param("bytes=-", id="a dash alone"),
    pytest.param("bytes=0", id="no dash"),
    pytest.param("bytes=5-2", id="the last before the first"),
    pytest.param("bytes=100-10", id="the last before the first, behind the end"),
    pytest.param("bytes=a-b", id="letters"),
    pytest.param("bytes=0-b", id="a letter for the last"),
    pytest.param("bytes=a-", id="a letter for the first"),
    pytest.param("bytes=-a", id="a letter for the suffix"),
    pytest.param("bytes=--6", id="two dashes"),
    pytest.param("bytes=0--", id="two dashes behind"),
    pytest.param("bytes=-2-3", id="a negative first"),
    pytest.param("bytes=1-2-3", id="three positions"),
    pytest.param("bytes=+1-3", id="a plus"),
    pytest.param("bytes=1_0-11", id="an underscore in a number"),
    pytest.param("bytes=1.0-2", id="a decimal point"),
    pytest.param("bytes=0x1-2", id="hexadecimal"),
    pytest.param("bytes=1 2-30", id="a blank inside a number"),
    pytest.param("bytes=²-3", id="a digit that is not ASCII"),
    pytest.param("bytes=0\xa0-3", id="a blank that is not ASCII"),
    pytest.param("bytes=0â\x80\x934", id="a dash that is not ASCII"),
    pytest.param("bytes=0-4;x", id="a parameter"),
    pytest.param("bytes=0-4/10", id="the form of Content-Range"),
    pytest.param("bytes 0-4", id="a blank for the equals sign"),
    pytest.param("bytes:0-4", id="a colon for the equals sign"),
    pytest.param("bytes =0-4", id="a blank before the equals sign"),
    pytest.param(" bytes=0-4", id="a blank before the unit"),
    pytest.param("0-4", id="no unit"),
    pytest.param("items=0-4", id="an unknown unit"),
    pytest.param("bytesX=0-4", id="a unit that begins like ours"),
    pytest.param("Xbytes=0-4", id="a unit that ends like ours"),
    pytest.param("bytes=0-4,x", id="an invalid range behind a good one"),
    pytest.param("bytes=x,0-4", id="an invalid range before a good one"),
    pytest.param("bytes=100-,x", id="an invalid range behind an unsatisfiable one"),
    pytest.param("bytes=0-4, bytes=6-8", id="two fields joined"),
    pytest.param("bytes=0-4" + " " * (MAX_FIELD_BYTES - 8), id="a byte more than a field may have"),
    pytest.param("bytes=" + "0" * 100_000 + "-", id="a field of a hundred thousand digits"),
    pytest.param("bytes=" + ", " * 50_000, id="a field of fifty thousand empty elements"),
]


@pytest.mark.parametrize(("text", "size_bytes", "pairs"), [*SINGLE, *SEVERAL])
def test_a_range_gives_its_spans(text: str, size_bytes: int, pairs: list[tuple[int, int]] | None) -> None:
    assert parse_range(text, size_bytes) == to_spans(pairs)


@pytest.mark.parametrize(("text", "size_bytes"), UNSATISFIABLE)
def test_a_range_outside_of_the_file_gives_no_spans(text: str, size_bytes: int) -> None:
    assert parse_range(text, size_bytes) == ()


@pytest.mark.parametrize("text", IGNORED)
def test_what_is_no_range_of_bytes_is_ignored(text: str) -> None:
    assert parse_range(text, 10) is None


def test_the_longest_field_that_is_read_has_exactly_the_limit() -> None:
    assert parse_range("bytes=0-4" + " " * (MAX_FIELD_BYTES - 9), 10) == (Span(0, 5),)


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=0-2", "bytes=-2", "bytes=-0", "bytes=5-2"])
def test_an_empty_file_has_no_ranges_and_ignores_the_field(text: str) -> None:
    assert parse_range(text, 0) is None


def test_long_numbers_are_read_where_the_program_lets_python_refuse_them() -> None:
    allowed = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert parse_range(f"bytes=0-{'9' * 2000}", 10) == (Span(0, 10),)
    finally:
        sys.set_int_max_str_digits(allowed)


def find_wanted(first: int | None, last: int | None, size_bytes: int) -> list[int]:
    """The model: the bytes that one spec asks for, found by asking about each byte."""
    if first is None:
        return [n for n in range(size_bytes) if last is not None and n >= size_bytes - last]
    return [n for n in range(size_bytes) if n >= first and (last is None or n <= last)]


def to_text(first: int | None, last: int | None) -> str:
    return f"{'' if first is None else first}-{'' if last is None else last}"


positions = st.integers(min_value=0, max_value=40)
specs_lists = st.lists(
    st.one_of(
        st.tuples(positions, positions).map(lambda pair: (min(pair), max(pair))),
        st.tuples(positions, st.none()),
        st.tuples(st.none(), positions),
    ),
    min_size=1,
    max_size=6,
)


@given(specs=specs_lists, size_bytes=st.integers(min_value=1, max_value=40))
def test_spans_hold_the_bytes_that_the_model_finds(
    specs: list[tuple[int | None, int | None]], size_bytes: int
) -> None:
    wanted = [numbers for spec in specs if (numbers := find_wanted(*spec, size_bytes))]
    covered: set[int] = set()
    overlaps = 0
    for numbers in sorted(wanted):
        overlaps += numbers[0] in covered
        covered.update(numbers)

    spans = parse_range("bytes=" + ",".join(to_text(*spec) for spec in specs), size_bytes)

    assert (spans is None) == (sum(map(len, wanted)) > size_bytes or overlaps > MAX_OVERLAPS)
    if spans is not None:
        assert sorted(n for span in spans for n in range(span.start, span.stop)) == sorted(covered)
        assert all(0 <= span.start < span.stop <= size_bytes for span in spans)
        in_file_order = sorted(spans, key=lambda span: span.start)
        assert all(one.stop < other.start for one, other in pairwise(in_file_order))
        # Each span stands where the first spec that fell into it stood.
        homes = [next(span for span in spans if span.start <= numbers[0] < span.stop) for numbers in wanted]
        assert list(spans) == list(dict.fromkeys(homes))


@given(text=st.text(alphabet="bytes=0123456789-, \tx", max_size=40), size_bytes=st.integers(0, 2**63 - 1))
def test_any_text_is_read_or_ignored(text: str, size_bytes: int) -> None:
    for field in (text, f"bytes={text}"):
        spans = parse_range(field, size_bytes)
        assert spans is None or sum(span.size_bytes for span in spans) <= size_bytes


def test_content_range_counts_its_last_byte() -> None:
    assert format_content_range(Span(0, 1), 10) == "bytes 0-0/10"
    assert format_content_range(Span(2, 10), 10) == "bytes 2-9/10"


def test_content_range_of_a_416_names_unit_and_size() -> None:
    assert format_unsatisfied_range(10) == "bytes */10"


class TestMultipart:
    CONTENT = bytes(range(256)) * 4

    def join(
        self, spans: Sequence[Span], content_type: str = "text/plain; charset=utf-8"
    ) -> tuple[str, bytes]:
        """Does what the sender does; gives the Content-Type and the body, whose length was foretold."""
        multipart = plan_multipart(spans, len(self.CONTENT), content_type, "Wt3hJ0boundary")
        assert len(multipart.part_heads) == len(spans)
        body = b"".join(
            head + self.CONTENT[span.start : span.stop]
            for head, span in zip(multipart.part_heads, spans, strict=True)
        )
        body += multipart.tail
        assert len(body) == multipart.size_bytes
        return multipart.content_type, body

    def test_the_frame_has_these_bytes(self) -> None:
        content_type, body = self.join([Span(65, 68), Span(97, 98)])
        assert content_type == "multipart/byteranges; boundary=Wt3hJ0boundary"
        assert body == (
            b"\r\n--Wt3hJ0boundary\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n"
            b"Content-Range: bytes 65-67/1024\r\n\r\n"
            b"ABC"
            b"\r\n--Wt3hJ0boundary\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n"
            b"Content-Range: bytes 97-97/1024\r\n\r\n"
            b"a"
            b"\r\n--Wt3hJ0boundary--\r\n"
        )

    def test_a_crlf_stands_before_the_first_boundary(self) -> None:
        """zsync loops for ever without it."""
        _, body = self.join([Span(0, 1), Span(3, 4)])
        assert body.startswith(b"\r\n--Wt3hJ0boundary\r\n")

    @given(
        st.lists(st.tuples(st.integers(0, 1023), st.integers(1, 1024)), min_size=2, max_size=5).map(
            lambda pairs: [Span(start, min(start + size, 1024)) for start, size in pairs]
        )
    )
    def test_a_mail_parser_finds_the_spans_again(self, spans: list[Span]) -> None:
        content_type, body = self.join(spans, "image/png")
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            f"MIME-Version: 1.0\r\nContent-Type: {content_type}\r\n\r\n".encode() + body, headersonly=False
        )
        parts = list(message.iter_parts())
        assert [part["Content-Range"] for part in parts] == [
            format_content_range(span, len(self.CONTENT)) for span in spans
        ]
        assert {part.get_content_type() for part in parts} == {"image/png"}
