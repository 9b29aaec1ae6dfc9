"""Heads, body framing and persistence as tables from RFC 9112, and RFC 9110 where it defines a field.

Every head is read in each way in which it can arrive: at once, byte by byte, in small pieces, and with bytes
behind it that are not its own. All ways have to agree.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioserve.protocol.http1 import (
    CHUNKED,
    REASONS,
    REGISTERED_METHODS,
    expects_continue,
    find_head_end,
    find_line_end,
    find_plain_codings,
    format_head,
    keeps_alive,
    parse_body_length,
    parse_chunk_size,
    parse_fields,
    parse_head,
    parse_request_fields,
    parse_request_line,
)
from aioserve.protocol.message import BadRequest, Fields, Request

MAX_LINE_BYTES = 200
MAX_HEAD_BYTES = 1000
MAX_FIELDS = 10

# What may follow a head in the same piece: nothing, another request, no HTTP at all.
TAILS = [b"", b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n", b"\0\n\r\xff" * 4]


# What heads and almost heads are made of.
PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"GET",
    b" ",
    b"/",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"Host: a\r\n",
    b"X:",
    b"x" * 90,
    b"\0",
    b"\xff",
    b"A: b\r\n" * MAX_FIELDS,
]


def cut_head(data: bytes, step: int) -> bytes | None:
    """The first head of `data`, which arrives `step` bytes at a time; None when its end does not come.

    Nothing behind the head is taken away or looked at.
    """
    buffer = bytearray()
    for position in range(0, len(data), step):
        searched = len(buffer)
        buffer += data[position : position + step]
        end = find_head_end(buffer, searched, max_line_bytes=MAX_LINE_BYTES, max_head_bytes=MAX_HEAD_BYTES)
        if end >= 0:
            assert searched < end <= len(buffer)
            return bytes(buffer[:end])
    return None


def find_ways(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each way in which `data` can arrive: with what behind it, and in pieces of which size."""
    for tail in TAILS:
        for step in (1, 2, 7, len(data) + len(tail)):
            yield data + tail, step


def read(data: bytes) -> Request:
    """The request that `data` is, in whichever way it arrives."""
    requests = []
    for arriving, step in find_ways(data):
        head = cut_head(arriving, step)
        assert head == data
        requests.append(parse_head(head, max_fields=MAX_FIELDS))
    assert all(request == requests[0] for request in requests)
    return requests[0]


def read_arriving(data: bytes, step: int) -> Request:
    head = cut_head(data, step)
    assert head is not None, "more bytes are waited for"
    return parse_head(head, max_fields=MAX_FIELDS)


def read_at_once(data: bytes) -> Request:
    return read_arriving(data, len(data))


def refuse(data: bytes) -> int:
    """The status with which `data` is refused, in whichever way it arrives."""
    statuses = set()
    for arriving, step in find_ways(data):
        with pytest.raises(BadRequest) as caught:
            read_arriving(arriving, step)
        statuses.add(caught.value.status)
    assert len(statuses) == 1
    return statuses.pop()


def make(*lines: str, version: str = "1.1", method: str = "GET") -> Request:
    """A request with these field lines besides its Host."""
    head = "\r\n".join((f"{method} / HTTP/{version}", "Host: a", *lines, "", ""))
    return parse_head(head.encode("latin-1"), max_fields=MAX_FIELDS)


class TestMessageParsing:
    """RFC 9112 §2.1 and §2.2."""

    def test_a_head_gives_its_method_target_version_and_fields(self) -> None:
        request = read(b"GET /where?q=now HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n")

        assert request == Request(
            "GET", b"/where?q=now", (1, 1), Fields({"host": "www.example.com", "accept": "*/*"})
        )

    @pytest.mark.parametrize("empty_lines", range(9))
    def test_up_to_eight_empty_lines_before_a_request_are_passed_over(self, empty_lines: int) -> None:
        assert read(b"\r\n" * empty_lines + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == make()

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\r\n" * 9, id="a ninth empty line"),
            pytest.param(
                b"\r\n" * 9 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a request behind nine empty lines"
            ),
            pytest.param(b"\r\n" * 10, id="ten empty lines"),
            pytest.param(b"\r\n" * 400, id="empty lines without end"),
            pytest.param(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a bare LF before the request"),
            pytest.param(b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a bare CR before the request"),
            pytest.param(b"\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a CR too many in an empty line"),
            pytest.param(b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a bare LF behind an empty line"),
            pytest.param(b" \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a blank line that is not empty"),
            pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare LF for every line end"),
            pytest.param(b"GET / HTTP/1.1\nHost: a\r\n\r\n", id="a bare LF behind the request line"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", id="a bare LF behind a field"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\n", id="a bare LF for the empty line"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\n\r\n", id="a bare LF before the empty line"),
            pytest.param(b"GET / HTTP/1.1\rHost: a\r\r", id="bare CR for every line end"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", id="a CR too many behind a field"),
            pytest.param(b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", id="a CR too many behind the request line"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", id="a blank for the first field"),
            pytest.param(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", id="a blank behind the request line, §2.2"),
            pytest.param(b"GET / HTTP/1.1\r\n\tX: b\r\nHost: a\r\n\r\n", id="a tab behind the request line"),
            pytest.param(b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n", id="a byte order mark"),
            pytest.param(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", id="the beginning of TLS"),
            pytest.param(b"\0", id="NUL"),
            pytest.param(b" ", id="a blank"),
            pytest.param(b"\x80", id="a byte that is not ASCII"),
        ],
    )
    def test_what_two_readers_could_cut_differently_is_refused(self, data: bytes) -> None:
        assert refuse(data) == 400

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\r\n" * 8 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="empty lines and a request"),
            pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no fields"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n", id="an empty value at the end"),
            pytest.param(b"!#$%&'*+.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n", id="a strange method"),
        ],
    )
    def test_more_is_waited_for_while_a_head_can_still_become_whole(self, data: bytes) -> None:
        assert cut_head(data, 1) == data
        for size in range(len(data)):
            assert cut_head(data[:size], 1) is None
            assert cut_head(data[:size], size or 1) is None

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\x16", id="what cannot begin a request"),
            pytest.param(b"\r\n\r\n\0", id="what cannot begin a request behind empty lines"),
            pytest.param(b"GET /\r\n", id="a request of HTTP/0.9"),
            pytest.param(b"GET / HTTP/1.1 \r\n", id="a malformed request line"),
            pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="the greeting of SSH"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\n", id="a bare LF"),
            pytest.param(b"GET / HTTP/1.1\r\nHost: a\rb", id="a bare CR"),
        ],
    )
    def test_what_cannot_become_a_head_is_refused_before_its_end(self, data: bytes) -> None:
        assert cut_head(data[:-1], 1) is None
        for step in (1, len(data)):
            with pytest.raises(BadRequest, match="400"):
                cut_head(data, step)

    @settings(max_examples=500)
    @given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.lists(st.integers(1, 9)))
    def test_the_cuts_between_pieces_never_change_the_answer(self, data: bytes, sizes: list[int]) -> None:
        def find_outcome(sizes: Sequence[int]) -> Request | str:
            buffer = bytearray()
            position = 0
            try:
                for size in (*sizes, len(data)):
                    searched = len(buffer)
                    buffer += data[position : position + size]
                    position += size
                    if len(buffer) == searched:
                        continue
                    end = find_head_end(
                        buffer, searched, max_line_bytes=MAX_LINE_BYTES, max_head_bytes=MAX_HEAD_BYTES
                    )
                    if end >= 0:
                        return parse_head(bytes(buffer[:end]), max_fields=MAX_FIELDS)
            except BadRequest:
                return "refused"
            return "incomplete"

        at_once = find_outcome([])
        assert find_outcome(sizes) == at_once
        assert find_outcome([1] * len(data)) == at_once


class TestRequestLine:
    """RFC 9112 §3, §3.1 and §3.2."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "get", "Get", "X", "M-SEARCH", "0", "!#$%&'*+.^_`|~-"])
    def test_any_token_is_a_method_and_keeps_its_case(self, method: str) -> None:
        assert read(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()) == make(method=method)

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"/", id="the root"),
            pytest.param(b"*", id="an asterisk"),
            pytest.param(b"http://a/b?c", id="a URI"),
            pytest.param(b"a:80", id="an authority"),
            pytest.param(b"/%zz%00", id="encodings, which are read later"),
            pytest.param(b"/!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~", id="all that is visible but the number sign"),
        ],
    )
    def test_a_target_stays_as_it_was_sent(self, target: bytes) -> None:
        assert read(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").target == target

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"GET", id="a method alone"),
            pytest.param(b"GET ", id="a method and a blank"),
            pytest.param(b"GET /", id="HTTP/0.9"),
            pytest.param(b"GET / ", id="HTTP/0.9 and a blank"),
            pytest.param(b"GET HTTP/1.1", id="no target"),
            pytest.param(b"GET  HTTP/1.1", id="an empty target"),
            pytest.param(b"/ HTTP/1.1", id="no method"),
            pytest.param(b" / HTTP/1.1", id="an empty method"),
            pytest.param(b" GET / HTTP/1.1", id="a blank before the method"),
            pytest.param(b"GET  / HTTP/1.1", id="two blanks before the target"),
            pytest.param(b"GET /  HTTP/1.1", id="two blanks before the version"),
            pytest.param(b"GET / HTTP/1.1 ", id="a blank behind the version"),
            pytest.param(b"GET\t/ HTTP/1.1", id="a tab before the target"),
            pytest.param(b"GET /\tHTTP/1.1", id="a tab before the version"),
            pytest.param(b"GET\x0b/ HTTP/1.1", id="a vertical tab"),
            pytest.param(b"GET\x0c/ HTTP/1.1", id="a form feed"),
            pytest.param(b"GET\xa0/ HTTP/1.1", id="a blank that is not ASCII"),
            pytest.param(b"GET /a b HTTP/1.1", id="a blank in the target"),
            pytest.param(b"GET / HTTP/1.1 HTTP/1.1", id="two versions"),
            pytest.param(b"GET /#a HTTP/1.1", id="a fragment"),
            pytest.param(b"GET /\0 HTTP/1.1", id="NUL in the target"),
            pytest.param(b"GET /\x7f HTTP/1.1", id="DEL in the target"),
            pytest.param(b"GET /\xc3\xa4 HTTP/1.1", id="raw UTF-8 in the target"),
            pytest.param(b"GET /\r HTTP/1.1", id="a bare CR in the target"),
            pytest.param(b"G\xc3\x84T / HTTP/1.1", id="a letter that is not ASCII in the method"),
            pytest.param(b"G(T / HTTP/1.1", id="a parenthesis in the method"),
            pytest.param(b"GET: / HTTP/1.1", id="a colon in the method"),
            pytest.param(b"G/T / HTTP/1.1", id="a slash in the method"),
            pytest.param(b'"GET" / HTTP/1.1', id="quotes around the method"),
            pytest.param(b"Host: a", id="a field line"),
            pytest.param(b"HTTP/1.1 200 OK", id="a status line"),
        ],
    )
    def test_anything_else_is_refused(self, line: bytes) -> None:
        assert refuse(line + b"\r\nHost: a\r\n\r\n") == 400

    @pytest.mark.parametrize(
        ("size_bytes", "is_refused"),
        [
            pytest.param(MAX_LINE_BYTES, False, id="as long as it may be"),
            pytest.param(MAX_LINE_BYTES + 1, True, id="a byte longer"),
            pytest.param(MAX_LINE_BYTES + 2, True, id="two bytes longer"),
            pytest.param(MAX_HEAD_BYTES * 2, True, id="longer than a head"),
        ],
    )
    def test_a_longer_line_is_refused_as_too_long(self, size_bytes: int, is_refused: bool) -> None:
        line = b"GET /".ljust(size_bytes - len(b" HTTP/1.1"), b"a") + b" HTTP/1.1"
        head = line + b"\r\nHost: a\r\n\r\n"

        if is_refused:
            assert refuse(head) == 414
            assert refuse(b"\r\n\r\n" + head) == 414
            assert refuse(line) == 414
        else:
            assert len(read(head).target) == size_bytes - len(b"GET  HTTP/1.1")
            assert read(b"\r\n\r\n" + head) == read(head)


class TestHttpVersion:
    """RFC 9112 §2.3."""

    @pytest.mark.parametrize("version", [(1, 0), (1, 1)])
    def test_two_versions_are_spoken(self, version: tuple[int, int]) -> None:
        assert read(b"GET / HTTP/%d.%d\r\nHost: a\r\n\r\n" % version).version == version

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", id="0.9"),
            # RFC 9110 §2.5 lets a server take it for 1.1, or say 505.
            pytest.param(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", id="1.2"),
            pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", id="2.0"),
            pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="9.9 without a Host"),
            pytest.param(b"PRI * HTTP/2.0\r\n\r\n", id="the preface of HTTP/2"),
        ],
    )
    def test_another_version_is_not_supported(self, head: bytes) -> None:
        assert refuse(head) == 505

    @pytest.mark.parametrize(
        "version",
        [
            pytest.param(b"http/1.1", id="lower case"),
            pytest.param(b"Http/1.1", id="mixed case"),
            pytest.param(b"HTTP/1", id="no minor version"),
            pytest.param(b"HTTP/1.", id="an empty minor version"),
            pytest.param(b"HTTP/.1", id="an empty major version"),
            pytest.param(b"HTTP/1.10", id="two digits"),
            pytest.param(b"HTTP/01.1", id="a zero before"),
            pytest.param(b"HTTP/1,1", id="a comma"),
            pytest.param(b"HTTP/ 1.1", id="a blank"),
            pytest.param(b"HTTP/-1.1", id="a sign"),
            pytest.param(b"HTTP/x.y", id="letters"),
            pytest.param(b"HTTP/1.\xb2", id="a digit that is not ASCII"),
            pytest.param(b"HTTPS/1.1", id="another name"),
            pytest.param(b"HTTP 1.1", id="a blank for the slash"),
            pytest.param(b"1.1", id="no name"),
        ],
    )
    def test_a_malformed_version_is_refused(self, version: bytes) -> None:
        assert refuse(b"GET / " + version + b"\r\nHost: a\r\n\r\n") == 400


class TestHost:
    """RFC 9112 §3.2 and RFC 9110 §7.2. What an authority is, is a table of test_target."""

    @pytest.mark.parametrize("version", [b"1.0", b"1.1"])
    @pytest.mark.parametrize(
        "host", [b"localhost", b"a:80", b"127.0.0.1:80", b"[::1]:80", b"[::ffff:1.2.3.4]"]
    )
    def test_one_valid_host_is_taken(self, host: bytes, version: bytes) -> None:
        request = read(b"GET / HTTP/" + version + b"\r\nHost: " + host + b"\r\n\r\n")

        assert request.fields.get("host") == host.decode()

    def test_http_1_0_does_without(self) -> None:
        assert read(b"GET / HTTP/1.0\r\n\r\n") == Request("GET", b"/", (1, 0), Fields({}))

    def test_http_1_1_does_not(self) -> None:
        assert refuse(b"GET / HTTP/1.1\r\n\r\n") == 400
        assert refuse(b"GET / HTTP/1.1\r\nX-Host: a\r\n\r\n") == 400
        assert refuse(b"GET http://a/ HTTP/1.1\r\n\r\n") == 400

    @pytest.mark.parametrize("version", [b"1.0", b"1.1"])
    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(b"Host: a\r\nHost: b\r\n", id="two"),
            pytest.param(b"Host: a\r\nHost: a\r\n", id="two that are equal"),
            pytest.param(b"Host: a\r\nX: y\r\nhOST: a\r\n", id="two in different cases, apart"),
            pytest.param(b"Host: a\r\nHost:\r\n", id="one and an empty one"),
            pytest.param(b"Host:\r\nHost: a\r\n", id="an empty one and one"),
            pytest.param(b"Host: a, b\r\n", id="a list"),
            pytest.param(b"Host:\r\n", id="an empty one"),
            pytest.param(b"Host: a b\r\n", id="a blank"),
            pytest.param(b"Host: a/b\r\n", id="a path"),
            pytest.param(b"Host: http://a\r\n", id="a URI"),
            pytest.param(b"Host: a@b\r\n", id="a user"),
            pytest.param(b"Host: a:b\r\n", id="a port of letters"),
            pytest.param(b"Host: a:65536\r\n", id="a port that does not exist"),
            pytest.param(b"Host: [::1\r\n", id="an open bracket"),
            pytest.param(b"Host: \xe4\r\n", id="a letter that is not ASCII"),
        ],
    )
    def test_more_than_one_or_an_invalid_one_is_refused(self, lines: bytes, version: bytes) -> None:
        assert refuse(b"GET / HTTP/" + version + b"\r\n" + lines + b"\r\n") == 400


class TestFieldSyntax:
    """RFC 9112 §5, RFC 9110 §5.1, §5.3 and §5.5."""

    @pytest.mark.parametrize(
        ("line", "name", "value"),
        [
            pytest.param(b"X: a", "x", "a", id="a field"),
            pytest.param(b"X:a", "x", "a", id="no blank behind the colon"),
            pytest.param(b"X: \t a \t ", "x", "a", id="blanks around the value"),
            pytest.param(b"X: a \t b", "x", "a \t b", id="blanks within the value"),
            pytest.param(b"X:", "x", "", id="no value"),
            pytest.param(b"X: \t ", "x", "", id="blanks for a value"),
            pytest.param(b"X: :a:", "x", ":a:", id="colons in the value"),
            pytest.param(b"X-lOnG-nAmE: VaLuE", "x-long-name", "VaLuE", id="names know no case, values do"),
            pytest.param(
                b"!#$%&'*+-.^_`|~09aZ: b", "!#$%&'*+-.^_`|~09az", "b", id="all that a name may hold"
            ),
            pytest.param(b"X: \xe4\xa0\xff", "x", "ä\xa0ÿ", id="bytes that are not ASCII"),
            pytest.param(b"X: \xc3\xa4", "x", "Ã¤", id="UTF-8 is read as Latin-1"),
            pytest.param(b"X: \x85a\x85", "x", "\x85a\x85", id="what Unicode takes for a line end"),
            pytest.param(b"X: \xa0a\xa0", "x", "\xa0a\xa0", id="what Unicode takes for a blank stays"),
            pytest.param(b'X: "a, \\"b"', "x", '"a, \\"b"', id="quotes stay"),
        ],
    )
    def test_a_line_gives_its_name_and_value(self, line: bytes, name: str, value: str) -> None:
        request = read(b"GET / HTTP/1.0\r\n" + line + b"\r\n\r\n")

        assert request.fields == Fields({name: value})

    @pytest.mark.parametrize(
        ("lines", "fields"),
        [
            pytest.param(b"X: a\r\nX: b\r\n", Fields({"x": "a, b"}, frozenset({"x"})), id="two lines"),
            pytest.param(b"X: b\r\nX: a\r\n", Fields({"x": "b, a"}, frozenset({"x"})), id="in their order"),
            pytest.param(
                b"X: a\r\nY: b\r\nx: c\r\n",
                Fields({"x": "a, c", "y": "b"}, frozenset({"x"})),
                id="lines apart",
            ),
            pytest.param(
                b"X: a\r\nX:\r\nX: b, c\r\n", Fields({"x": "a, , b, c"}, frozenset({"x"})), id="three lines"
            ),
            pytest.param(b"X:\r\nX:\r\n", Fields({"x": ", "}, frozenset({"x"})), id="empty lines"),
            pytest.param(b"X: a, a\r\n", Fields({"x": "a, a"}), id="a list on one line is not repeated"),
        ],
    )
    def test_lines_of_one_name_are_joined(self, lines: bytes, fields: Fields) -> None:
        assert read(b"GET / HTTP/1.0\r\n" + lines + b"\r\n").fields == fields

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"X", id="no colon"),
            pytest.param(b":", id="a colon alone"),
            pytest.param(b": a", id="no name"),
            pytest.param(b"X : a", id="a blank before the colon, §5.1"),
            pytest.param(b"X\t: a", id="a tab before the colon"),
            pytest.param(b" X: a", id="a blank before the name"),
            pytest.param(b"X Y: a", id="a blank in the name"),
            pytest.param(b"X: a\r\n b", id="a folded line, §5.2"),
            pytest.param(b"X: a\r\n\tb", id="a line folded with a tab"),
            pytest.param(b"X:\r\n a", id="a value on the next line"),
            pytest.param(b"X: a\r\n ", id="a folded blank"),
            pytest.param(b"X\0: a", id="NUL in the name"),
            pytest.param(b"X: a\0b", id="NUL in the value"),
            pytest.param(b"X: a\x01", id="a control character"),
            pytest.param(b"X: a\x0bb", id="a vertical tab"),
            pytest.param(b"X: a\x0cb", id="a form feed"),
            pytest.param(b"X: a\x1bb", id="an escape"),
            pytest.param(b"X: a\x7f", id="DEL"),
            pytest.param(b"X: a\rb", id="a bare CR"),
            pytest.param(b"X: a\nb", id="a bare LF"),
            pytest.param(b"X: a\nY: b", id="a bare LF before another field"),
            pytest.param(b"X\r: a", id="a bare CR in the name"),
            pytest.param(b"X\xe4: a", id="a byte that is not ASCII in the name"),
            pytest.param(b"X(Y): a", id="parentheses in the name"),
            pytest.param(b"X/Y: a", id="a slash in the name"),
            pytest.param(b'"X": a', id="quotes around the name"),
            pytest.param(b"X[Y]: a", id="brackets in the name"),
            pytest.param(b"GET / HTTP/1.1", id="a second request line"),
        ],
    )
    def test_a_malformed_line_is_refused(self, line: bytes) -> None:
        assert refuse(b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n") == 400
        assert refuse(b"GET / HTTP/1.1\r\n" + line + b"\r\nHost: a\r\n\r\n") == 400

    @pytest.mark.parametrize(
        ("count", "is_refused"),
        [
            pytest.param(MAX_FIELDS, False, id="as many as there may be"),
            pytest.param(MAX_FIELDS + 1, True, id="one more"),
        ],
    )
    @pytest.mark.parametrize("line", [b"X: a\r\n", b"X%d: a\r\n"])
    def test_too_many_lines_are_refused(self, line: bytes, count: int, is_refused: bool) -> None:
        lines = b"".join(line % n if b"%" in line else line for n in range(count))
        head = b"GET / HTTP/1.0\r\n" + lines + b"\r\n"

        if is_refused:
            assert refuse(head) == 431
        else:
            read(head)

    @pytest.mark.parametrize(
        ("size_bytes", "is_refused"),
        [
            pytest.param(MAX_HEAD_BYTES, False, id="as large as it may be"),
            pytest.param(MAX_HEAD_BYTES + 1, True, id="a byte larger"),
            pytest.param(MAX_HEAD_BYTES * 3, True, id="much larger"),
        ],
    )
    def test_a_larger_head_is_refused(self, size_bytes: int, is_refused: bool) -> None:
        head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".ljust(size_bytes - 4, b"x") + b"\r\n\r\n"

        if is_refused:
            assert refuse(head) == 431
            assert refuse(b"\r\n\r\n" + head) == 431
        else:
            assert read(b"\r\n\r\n" + head) == read(head)

    def test_a_head_that_does_not_end_is_refused_when_it_is_larger(self) -> None:
        assert refuse(b"GET / HTTP/1.1\r\nX: ".ljust(MAX_HEAD_BYTES + 1, b"x")) == 431

    def test_a_trailer_is_read_as_fields(self) -> None:
        assert parse_fields(b"", max_fields=1) == Fields({})
        assert parse_fields(b"X: a\r\nx: b\r\n", max_fields=2) == Fields({"x": "a, b"}, frozenset({"x"}))
        with pytest.raises(BadRequest, match="431"):
            parse_fields(b"X: a\r\nX: b\r\n", max_fields=1)
        with pytest.raises(BadRequest, match="400"):
            parse_fields(b"X: a", max_fields=1)


class TestTransferEncoding:
    """RFC 9112 §6.1 and §6.3."""

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param("chunked", id="chunked"),
            pytest.param("Chunked", id="a capital"),
            pytest.param("CHUNKED", id="upper case"),
            pytest.param("\tchunked ", id="blanks around it"),
        ],
    )
    def test_chunked_is_understood(self, value: str) -> None:
        assert parse_body_length(make(f"Transfer-Encoding:{value}")) == CHUNKED

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(["Transfer-Encoding: gzip, chunked"], id="gzip before chunked"),
            pytest.param(
                ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], id="gzip on its own line"
            ),
            pytest.param(["Transfer-Encoding: identity, chunked"], id="what RFC 2616 called identity"),
            pytest.param(["Transfer-Encoding: x;a=b, chunked"], id="a parameter"),
            pytest.param(["Transfer-Encoding: , chunked"], id="an empty element"),
        ],
    )
    def test_another_coding_is_not_implemented(self, lines: list[str]) -> None:
        with pytest.raises(BadRequest, match="501"):
            parse_body_length(make(*lines))

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(["Transfer-Encoding: gzip"], id="gzip alone"),
            pytest.param(["Transfer-Encoding: identity"], id="identity alone"),
            pytest.param(["Transfer-Encoding:"], id="an empty value"),
            pytest.param(["Transfer-Encoding: chunked, gzip"], id="chunked before gzip"),
            pytest.param(
                ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"], id="gzip on the next line"
            ),
            pytest.param(["Transfer-Encoding: chunked, chunked"], id="chunked twice"),
            pytest.param(
                ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], id="chunked on two lines"
            ),
            pytest.param(["Transfer-Encoding: chunked, gzip, chunked"], id="chunked around gzip"),
            pytest.param(["Transfer-Encoding: chunked,"], id="an empty element behind"),
            pytest.param(["Transfer-Encoding: chunked;a=b"], id="a parameter"),
            pytest.param(['Transfer-Encoding: "chunked"'], id="quotes"),
            pytest.param(["Transfer-Encoding: 'chunked'"], id="single quotes"),
            pytest.param(["Transfer-Encoding: chunked\xa0"], id="a blank that is not ASCII"),
            pytest.param(["Transfer-Encoding: chunked\x85"], id="a line end that is not ASCII"),
            pytest.param(["Transfer-Encoding: xchunked"], id="a longer name"),
            pytest.param(["Transfer-Encoding: chunke"], id="a shorter name"),
            pytest.param(["Transfer-Encoding: chunked", "Content-Length: 5"], id="a length behind"),
            pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="a length before"),
            pytest.param(["Content-Length: 0", "Transfer-Encoding: chunked"], id="a length of 0"),
            pytest.param(["Content-Length:", "Transfer-Encoding: chunked"], id="an empty length"),
            pytest.param(["Content-Length: 5", "Transfer-Encoding: identity"], id="a length beside identity"),
            pytest.param(["Content-Length: 5", "Transfer-Encoding:"], id="a length beside an empty value"),
        ],
    )
    def test_what_leaves_the_end_of_the_body_in_doubt_is_refused(self, lines: list[str]) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_body_length(make(*lines))

    @pytest.mark.parametrize("value", ["chunked", "gzip, chunked", "identity", ""])
    def test_http_1_0_has_none(self, value: str) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_body_length(make(f"Transfer-Encoding: {value}", version="1.0"))


class TestContentLength:
    """RFC 9112 §6.2 and §6.3, RFC 9110 §8.6."""

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
    def test_without_a_length_there_is_no_body(self, method: str, version: str) -> None:
        assert parse_body_length(make(method=method, version=version)) == 0

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize(
        ("value", "length"),
        [
            pytest.param("0", 0, id="0"),
            pytest.param("5", 5, id="5"),
            pytest.param("\t5 ", 5, id="blanks around it"),
            pytest.param("005", 5, id="zeros before it are decimal"),
            pytest.param(str(2**63 - 1), 2**63 - 1, id="the longest body of 63 bits"),
            pytest.param("9" * 19, 10**19 - 1, id="nineteen digits"),
        ],
    )
    def test_digits_are_the_length(self, value: str, length: int, version: str) -> None:
        assert parse_body_length(make(f"Content-Length:{value}", version=version)) == length

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(["Content-Length:"], id="an empty value"),
            pytest.param(["Content-Length: +5"], id="a plus"),
            pytest.param(["Content-Length: -5"], id="a minus"),
            pytest.param(["Content-Length: -0"], id="minus 0"),
            pytest.param(["Content-Length: 5.0"], id="a decimal point"),
            pytest.param(["Content-Length: 5e0"], id="an exponent"),
            pytest.param(["Content-Length: 0x5"], id="hexadecimal"),
            pytest.param(["Content-Length: 1_0"], id="an underscore, which int() takes"),
            pytest.param(["Content-Length: 5 5"], id="a blank within"),
            pytest.param(["Content-Length: 5;"], id="a semicolon"),
            pytest.param(['Content-Length: "5"'], id="quotes"),
            pytest.param(["Content-Length: five"], id="a word"),
            pytest.param(["Content-Length: \xb2"], id="a digit that is not ASCII"),
            pytest.param(["Content-Length: 5\xa0"], id="a blank that is not ASCII, which int() takes"),
            pytest.param(["Content-Length: 5, 5"], id="a list of equal values"),
            pytest.param(["Content-Length: 5, 6"], id="a list"),
            pytest.param(["Content-Length: 5,"], id="a comma behind"),
            pytest.param(["Content-Length: 5", "Content-Length: 5"], id="two lines that are equal"),
            pytest.param(["Content-Length: 5", "Content-Length: 6"], id="two lines"),
            pytest.param(["Content-Length: 5", "Content-Length:"], id="a line and an empty one"),
            pytest.param(["Content-Length:", "Content-Length: 5"], id="an empty line and one"),
            pytest.param([f"Content-Length: {'9' * 20}"], id="twenty digits"),
            pytest.param([f"Content-Length: {'0' * 19}5"], id="zeros up to twenty digits"),
            pytest.param([f"Content-Length: {'9' * 100_000}"], id="a hundred thousand digits"),
        ],
    )
    def test_anything_else_is_refused(self, lines: list[str]) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_body_length(make(*lines))


class TestChunkedTransferCoding:
    """RFC 9112 §7.1 and §7.1.1."""

    @pytest.mark.parametrize(
        ("line", "size"),
        [
            pytest.param(b"0", 0, id="the last chunk"),
            pytest.param(b"000", 0, id="the last chunk with zeros"),
            pytest.param(b"5", 5, id="a digit"),
            pytest.param(b"a", 10, id="a letter"),
            pytest.param(b"aBcDeF", 0xABCDEF, id="letters of both cases"),
            pytest.param(b"10", 16, id="hexadecimal, not decimal"),
            pytest.param(b"0000000000000005", 5, id="sixteen digits"),
            pytest.param(b"f" * 16, 2**64 - 1, id="the greatest number of sixteen digits"),
            pytest.param(b"5;a", 5, id="an extension"),
            pytest.param(b"5;a=b", 5, id="an extension with a value"),
            pytest.param(b'5;a="b"', 5, id="an extension with a quoted value"),
            pytest.param(b'5;a=""', 5, id="an extension with an empty quoted value"),
            pytest.param(b'5;a="b;c=\\"d\\\\"', 5, id="quotes and semicolons in a quoted value"),
            pytest.param(b'5;a="\xe4\t "', 5, id="bytes that are not ASCII in a quoted value"),
            pytest.param(b"5;a;b=c;d", 5, id="several extensions"),
            pytest.param(b"5 ; a = b\t;c", 5, id="blanks that have to be understood, RFC 9110 §5.6.3"),
        ],
    )
    def test_a_line_gives_the_size_of_its_chunk(self, line: bytes, size: int) -> None:
        assert parse_chunk_size(line + b"\r\n") == size

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"\r\n", id="empty"),
            pytest.param(b"5", id="no line end"),
            pytest.param(b"5\n", id="a bare LF"),
            pytest.param(b"5\r", id="a bare CR"),
            pytest.param(b"5\r\r\n", id="a CR too many"),
            pytest.param(b"5\r\n\r\n", id="two line ends"),
            pytest.param(b" 5\r\n", id="a blank before"),
            pytest.param(b"5 \r\n", id="a blank behind"),
            pytest.param(b"5\t\r\n", id="a tab behind"),
            pytest.param(b"5 5\r\n", id="a blank within"),
            pytest.param(b"+5\r\n", id="a plus"),
            pytest.param(b"-5\r\n", id="a minus"),
            pytest.param(b"0x5\r\n", id="a prefix, which int() takes"),
            pytest.param(b"1_0\r\n", id="an underscore, which int() takes"),
            pytest.param(b"5.\r\n", id="a decimal point"),
            pytest.param(b"g\r\n", id="a letter that is no digit"),
            pytest.param(b"\xb2\r\n", id="a digit that is not ASCII"),
            pytest.param(b"00000000000000005\r\n", id="seventeen digits"),
            pytest.param(b"5,a\r\n", id="a comma"),
            pytest.param(b"5a=b\r\n", id="an extension without a semicolon"),
            pytest.param(b";a\r\n", id="an extension without a size"),
            pytest.param(b"5;\r\n", id="a semicolon alone"),
            pytest.param(b"5;;a\r\n", id="two semicolons"),
            pytest.param(b"5;a \r\n", id="a blank behind an extension"),
            pytest.param(b"5;a=\r\n", id="an extension without its value"),
            pytest.param(b"5;=b\r\n", id="an extension without its name"),
            pytest.param(b'5;a="b\r\n', id="an open quote"),
            pytest.param(b'5;a="b"c\r\n', id="something behind a quote"),
            pytest.param(b'5;a="\x01"\r\n', id="a control character in a quoted value"),
            pytest.param(b'5;a="\\\x01"\r\n', id="a quoted control character"),
            pytest.param(b"5;a\rb\r\n", id="a bare CR in an extension"),
            pytest.param(b"5;a\nb\r\n", id="a bare LF in an extension"),
            pytest.param(b'5;a="\n"\r\n', id="a bare LF in a quoted value"),
            pytest.param(b"5;\0\r\n", id="NUL"),
            pytest.param(b"5;a/b\r\n", id="a slash in the name of an extension"),
        ],
    )
    def test_a_malformed_line_is_refused(self, line: bytes) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_chunk_size(line)


class TestLinesOfChunkedBodies:
    """RFC 9112 §7.1: each chunk and each trailer field begins with a line."""

    @staticmethod
    def cut_line(data: bytes, step: int, max_bytes: int = 10) -> bytes | None:
        buffer = bytearray()
        for position in range(0, len(data), step):
            searched = len(buffer)
            buffer += data[position : position + step]
            end = find_line_end(buffer, searched, max_bytes=max_bytes)
            if end >= 0:
                return bytes(buffer[:end])
        return None

    @pytest.mark.parametrize("tail", TAILS)
    @pytest.mark.parametrize("line", [b"\r\n", b"5\r\n", b"5;a=\rb\r\n", b"12345678\r\n"])
    def test_a_line_ends_at_its_first_line_end(self, line: bytes, tail: bytes) -> None:
        for step in (1, 2, len(line + tail)):
            assert self.cut_line(line + tail, step) == line
        for size in range(len(line)):
            assert self.cut_line(line[:size], 1) is None

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param(b"\n", "bare LF", id="a bare LF alone"),
            pytest.param(b"5\n", "bare LF", id="a bare LF"),
            pytest.param(b"5\r \n", "bare LF", id="a bare LF behind a bare CR"),
            pytest.param(b"123456789\r\n", "too long", id="a byte longer than it may be"),
            pytest.param(b"1234567890", "too long", id="no line end in time"),
            pytest.param(b"5" * 100, "too long", id="no line end for long"),
        ],
    )
    def test_a_line_that_is_none_is_refused(self, data: bytes, reason: str) -> None:
        for step in (1, 2, len(data)):
            with pytest.raises(BadRequest, match=rf"400.*{reason}"):
                self.cut_line(data, step)


class TestExpect:
    """RFC 9110 §10.1.1."""

    @pytest.mark.parametrize(
        ("request_", "expects"),
        [
            pytest.param(make(), False, id="nothing is expected"),
            pytest.param(make("Expect: 100-continue"), True, id="100-continue"),
            pytest.param(make("Expect: 100-CONTINUE"), True, id="100-continue in upper case"),
            pytest.param(make("Expect: 100-continue", version="1.0"), False, id="100-continue in HTTP/1.0"),
            pytest.param(make("Expect: a", version="1.0"), False, id="anything in HTTP/1.0"),
        ],
    )
    def test_a_client_may_wait_for_a_word(self, request_: Request, expects: bool) -> None:
        assert expects_continue(request_) == expects

    @pytest.mark.parametrize(
        "lines",
        [
            pytest.param(["Expect: a"], id="a word"),
            pytest.param(["Expect:"], id="an empty value"),
            pytest.param(["Expect: 100-continue, a"], id="more than 100-continue"),
            pytest.param(["Expect: 100-continue", "Expect: 100-continue"], id="100-continue twice"),
            pytest.param(["Expect: 100-continue;a=b"], id="a parameter"),
        ],
    )
    def test_another_expectation_fails(self, lines: list[str]) -> None:
        with pytest.raises(BadRequest, match="417"):
            expects_continue(make(*lines))


class TestPersistence:
    """RFC 9112 §9.3."""

    @pytest.mark.parametrize(
        ("request_", "keeps"),
        [
            pytest.param(make(), True, id="HTTP/1.1 stays"),
            pytest.param(make("Connection: close"), False, id="HTTP/1.1 closes on request"),
            pytest.param(make("Connection: keep-alive"), True, id="HTTP/1.1 stays on request"),
            pytest.param(make("Connection: CLOSE"), False, id="options know no case"),
            pytest.param(make("Connection: a ,\tclose , b"), False, id="close in a list"),
            pytest.param(make("Connection: a", "Connection: close"), False, id="close on a second line"),
            pytest.param(make("Connection: close, keep-alive"), False, id="close goes before keep-alive"),
            pytest.param(
                make("Connection: keep-alive, close"), False, id="close goes before keep-alive, §9.3"
            ),
            pytest.param(make("Connection: closed"), True, id="a longer word"),
            pytest.param(make("Connection: close\xa0"), True, id="a blank that is not ASCII"),
            pytest.param(make("Connection: upgrade"), True, id="another option"),
            pytest.param(make("Connection:"), True, id="an empty list"),
            pytest.param(make("Keep-Alive: timeout=5"), True, id="another field"),
            pytest.param(make(version="1.0"), False, id="HTTP/1.0 closes"),
            pytest.param(make("Connection: keep-alive", version="1.0"), True, id="HTTP/1.0 stays on request"),
            pytest.param(
                make("Connection: Keep-Alive", version="1.0"), True, id="HTTP/1.0 in the usual case"
            ),
            pytest.param(make("Connection: a, keep-alive", version="1.0"), True, id="HTTP/1.0 in a list"),
            pytest.param(make("Connection: keep-alive, close", version="1.0"), False, id="HTTP/1.0 and both"),
            pytest.param(make("Connection: upgrade", version="1.0"), False, id="HTTP/1.0 and another option"),
            pytest.param(
                make("Keep-Alive: timeout=5", version="1.0"), False, id="HTTP/1.0 and another field"
            ),
        ],
    )
    def test_a_connection_stays_as_the_client_says(self, request_: Request, keeps: bool) -> None:
        assert keeps_alive(request_) == keeps


class TestStatusLineAndFields:
    """RFC 9112 §4 and §5."""

    def test_a_head_is_its_status_and_its_fields_in_order(self) -> None:
        head = format_head(404, [("Date", "now"), ("Server", "x")], (("Content-Length", "0"),), [])

        assert head == b"HTTP/1.1 404 Not Found\r\nDate: now\r\nServer: x\r\nContent-Length: 0\r\n\r\n"

    def test_reasons_are_those_of_the_rfc(self) -> None:
        # The standard library had names of RFC 2616 for these before Python 3.13.
        renamed = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable"}

        assert {status: renamed.get(status, HTTPStatus(status).phrase) for status in REASONS} == REASONS
        assert {200, 206, 304, 308, 400, 404, 412, 416, 500} <= set(REASONS)

    def test_a_head_may_have_no_fields(self) -> None:
        assert format_head(204) == b"HTTP/1.1 204 No Content\r\n\r\n"

    def test_values_are_written_as_latin_1(self) -> None:
        assert format_head(200, [("X", "ä")]) == b"HTTP/1.1 200 OK\r\nX: \xe4\r\n\r\n"

    @pytest.mark.parametrize("status", REASONS)
    def test_every_status_has_a_reason_and_its_line_is_read_back(self, status: int) -> None:
        version, code, reason = format_head(status).decode().removesuffix("\r\n\r\n").split(" ", 2)

        assert (version, int(code), reason) == ("HTTP/1.1", status, REASONS[status])
        assert reason.isprintable()

    @pytest.mark.parametrize(
        "field",
        [
            pytest.param(("X", "a\r\nY: b"), id="a line end in a value"),
            pytest.param(("X", "a\nb"), id="a bare LF in a value"),
            pytest.param(("X", "a\rb"), id="a bare CR in a value"),
            pytest.param(("X", "a\r\n"), id="a line end behind a value"),
            pytest.param(("X", "a\0"), id="NUL in a value"),
            pytest.param(("X\r\nY", "a"), id="a line end in a name"),
            pytest.param(("X\n", "a"), id="a bare LF in a name"),
            pytest.param(("X\0", "a"), id="NUL in a name"),
            pytest.param(("X", "€"), id="what Latin-1 does not have"),
        ],
    )
    def test_a_field_never_begins_another_line(self, field: tuple[str, str]) -> None:
        with pytest.raises(ValueError):
            format_head(200, [("Date", "now")], [field])

    @given(
        st.lists(
            st.tuples(st.from_regex(r"\A[A-Za-z-]{1,9}\Z"), st.text("ab \t\r\n\0:ä", max_size=9)), max_size=4
        )
    )
    def test_what_is_written_is_read_as_the_same_fields(self, fields: list[tuple[str, str]]) -> None:
        try:
            head = format_head(200, fields)
        except ValueError:
            assert any(set(value) & set("\r\n\0") for _, value in fields)
            return
        _, _, block = head.partition(b"\r\n")
        expected: dict[str, list[str]] = {}
        for name, value in fields:
            expected.setdefault(name.lower(), []).append(value.strip(" \t"))

        read_back = parse_fields(block[:-2], max_fields=4)

        assert read_back.values == {name: ", ".join(values) for name, values in expected.items()}


TOKEN = set(b"!#$%&'*+-.^_`|~" + string.digits.encode() + string.ascii_letters.encode())
VISIBLE = set(range(0x21, 0x7F))
OBS_TEXT = set(range(0x80, 0x100))


@pytest.mark.parametrize(
    ("accept", "allowed"),
    [
        pytest.param(
            lambda byte: read_at_once(b"G%cT / HTTP/1.1\r\nHost: a\r\n\r\n" % byte),
            TOKEN,
            id="a method, RFC 9110 §9.1",
        ),
        pytest.param(
            lambda byte: read_at_once(b"GET /%ca HTTP/1.1\r\nHost: a\r\n\r\n" % byte),
            VISIBLE - set(b"#"),
            id="a target, RFC 9112 §3.2",
        ),
        pytest.param(
            lambda byte: read_at_once(b"GET / HTTP/1.0\r\nX%cY: a\r\n\r\n" % byte),
            TOKEN | set(b":"),
            id="a name, or its end, RFC 9110 §5.1",
        ),
        pytest.param(
            lambda byte: read_at_once(b"GET / HTTP/1.0\r\nX: a%cb\r\n\r\n" % byte),
            VISIBLE | OBS_TEXT | set(b"\t "),
            id="a value, RFC 9110 §5.5",
        ),
        pytest.param(
            lambda byte: parse_chunk_size(b"%c\r\n" % byte), set(string.hexdigits.encode()), id="a size, §7.1"
        ),
        pytest.param(
            lambda byte: parse_chunk_size(b"5;a%cb\r\n" % byte),
            TOKEN | set(b";="),
            id="the name of an extension, or its end, §7.1.1",
        ),
        pytest.param(
            lambda byte: parse_chunk_size(b'5;a="b%cc"\r\n' % byte),
            (VISIBLE | OBS_TEXT | set(b"\t ")) - set(b'"'),
            id="a quoted string, RFC 9110 §5.6.4",
        ),
        pytest.param(
            lambda byte: parse_chunk_size(b'5;a="\\%c"\r\n' % byte),
            VISIBLE | OBS_TEXT | set(b"\t "),
            id="a quoted pair, RFC 9110 §5.6.4",
        ),
    ],
)
def test_of_all_bytes_these_may_stand_in(accept: Callable[[int], object], allowed: set[int]) -> None:
    def is_accepted(byte: int) -> bool:
        try:
            accept(byte)
        except BadRequest:
            return False
        return True

    assert {byte for byte in range(256) if is_accepted(byte)} == allowed


def test_methods_of_the_registry_are_tokens_in_upper_case() -> None:
    # RFC 9110 §16.1.1; GET and HEAD are what this server is for.
    assert {
        "GET",
        "HEAD",
        "OPTIONS",
        "POST",
        "PUT",
        "DELETE",
        "CONNECT",
        "TRACE",
        "PATCH",
    } <= REGISTERED_METHODS
    for method in REGISTERED_METHODS:
        assert read(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()).method == method == method.upper()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: " + b"[" + b":" * 1_000_000, id="colons in a Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: " + b"a" * 1_000_000 + b"/", id="letters in a Host"),
        pytest.param(b"GET / HTTP/1.1\r\nX:" + b" " * 1_000_000 + b"\0", id="blanks in a value"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X" * 1_000_000, id="a name"),
        pytest.param(b"G" * 1_000_000, id="a method"),
        pytest.param(b"GET /" + b"a" * 1_000_000, id="a target"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200_000 + b"X", id="fields"),
        pytest.param(b"\r\n" * 500_000, id="empty lines"),
    ],
)
def test_a_long_head_is_read_in_one_pass(data: bytes) -> None:
    # With a step for each pair of bytes a row runs into the limit of all tests.
    with pytest.raises(BadRequest):
        parse_head(data + b"\r\n\r\n", max_fields=len(data))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"5" + b";a" * 500_000, id="extensions"),
        pytest.param(b"5;" + b"a" * 1_000_000, id="a name"),
        pytest.param(b'5;a="' + b"\\a" * 500_000, id="a quoted value"),
        pytest.param(b"5" + b" " * 1_000_000, id="blanks"),
        pytest.param(b"5;a" + b" " * 1_000_000, id="blanks behind an extension"),
        pytest.param(b"5" + b" ;a = b" * 200_000, id="blanks everywhere"),
    ],
)
def test_a_long_chunk_line_is_read_in_one_pass(line: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_chunk_size(line + b"\0\r\n")


def test_a_request_line_alone_is_read_with_its_line_end() -> None:
    assert parse_request_line(b"GET /a?b HTTP/1.0\r\n") == ("GET", b"/a?b", (1, 0))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"", 400, id="none"),
        pytest.param(b"\r\n", 400, id="an empty one"),
        pytest.param(b"GET / HTTP/1.1", 400, id="without its end"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="with more"),
        pytest.param(b"\r\nGET / HTTP/1.1\r\n", 400, id="an empty one before it"),
        pytest.param(b"GET / HTTP/1.2\r\n", 505, id="1.2"),
    ],
)
def test_a_request_line_alone_is_nothing_else(line: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_request_line(line)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("block", "version", "status"),
    [
        pytest.param(b"", (1, 1), 400, id="1.1 without Host"),
        pytest.param(b"Host: a\r\nhost: a\r\n", (1, 1), 400, id="two of Host"),
        pytest.param(b"Host: a b\r\n", (1, 0), 400, id="an invalid Host"),
        pytest.param(b"Host: a\r\nX : y\r\n", (1, 1), 400, id="a malformed line"),
        pytest.param(b"Host: a", (1, 1), 400, id="a line without end"),
        pytest.param(b"Host: a\r\n\r\n", (1, 1), 400, id="an empty line"),
        pytest.param(b"Host: a\r\n" * 11, (1, 1), 431, id="too many"),
    ],
)
def test_fields_that_no_request_can_have_are_refused(
    block: bytes, version: tuple[int, int], status: int
) -> None:
    with pytest.raises(BadRequest) as raised:
        parse_request_fields(block, version, max_fields=MAX_FIELDS)
    assert raised.value.status == status


def test_the_fields_of_a_request_are_those_of_its_head() -> None:
    block = b"Host: a\r\nX: y\r\nx:z\r\n"
    fields = parse_request_fields(block, (1, 1), max_fields=MAX_FIELDS)

    assert fields == parse_head(b"GET / HTTP/1.1\r\n" + block + b"\r\n", max_fields=MAX_FIELDS).fields
    assert parse_request_fields(b"X: y\r\n", (1, 0), max_fields=MAX_FIELDS).get("x") == "y"


LINES_OF_BLOCKS = [
    b"Host: a\r\n",
    b"host: www.example.org:8080\r\n",
    b"HOST: a\r\n",
    b"Host:a\r\n",
    b"Host: \r\n",
    b"Host: a b\r\n",
    b"Host: a:99999\r\n",
    b"Hosts: x\r\n",
    b"User-Agent: Mozilla/5.0 (X11)\r\n",
    b"Accept: */*\r\n",
    b"Accept-Encoding: gzip\r\n",
    b"aCCEPT-eNCODING: br, gzip;q=0.5\t\r\n",
    b"accept-encoding: \r\n",
    b"Accept-Encoding:zstd\r\n",
    b"Accept-Encoding: \xff\r\n",
    b"Cache-Control: max-age=0\r\n",
    b"cACHE-cONTROL:a, No-Transform\r\n",
    b"Origin: http://a\r\n",
    b"Cookie: a=b; c=\xff\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Keep-Alive\r\n",
    b"Connection: close\r\n",
    b"CONNECTION:close\r\n",
    b"connection: keep-alive, close\r\n",
    b"Content-Length: 5\r\n",
    b"cONTENT-lENGTH:5\r\n",
    b"Content-Type: text/plain\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"tRANSFER-eNCODING: chunked\r\n",
    b"TE: trailers\r\n",
    b"Expect: 100-continue\r\n",
    b"eXPECT: tea\r\n",
    b"Range: bytes=0-1\r\n",
    b"rANGE:bytes=0-1\r\n",
    b"Want-Repr-Digest: sha-256=1\r\n",
    b"wANT-rEPR-dIGEST:\r\n",
    b"Want-Content-Digest: sha-256=1\r\n",
    b"Referer: http://a/\r\n",
    b"If-Match: *\r\n",
    b"iF-nONE-mATCH: *\r\n",
    b"If-Range: x\r\n",
    b"If-Modified-Since: x\r\n",
    b"X:\r\n",
    b"X : y\r\n",
    b" folded\r\n",
    b"X: \0\r\n",
    b"X: a\n",
    b"X",
    b"\r\n",
]


class TestPlainBlocks:
    """Field lines that need no reading: never a block that would say more than a GET."""

    @pytest.mark.parametrize(
        ("block", "codings"),
        [
            pytest.param(b"Host: a\r\n", b"", id="Host alone"),
            pytest.param(b"Host: www.example.org:8080\r\nAccept: */*\r\n", b"", id="Host first"),
            pytest.param(b"User-Agent: b\r\nhost: a-b.c_d~1\r\n", b"", id="Host last"),
            pytest.param(b"Host: a\r\nConnection: keep-alive\r\nCookie: \xff\r\n", b"", id="a browser's"),
            pytest.param(
                b"Host: a\r\nHosts: b\r\nContent-Type: c\r\nTE: d\r\n", b"", id="names that are similar"
            ),
            pytest.param(b"Host: a\r\n" + b"X: y\r\n" * (MAX_FIELDS - 1), b"", id="most fields"),
            pytest.param(b"Host: a\r\nAccept-Encoding: gzip, br\r\nX: y\r\n", b"gzip, br", id="codings"),
            pytest.param(b"accept-encoding: gzip\r\nX: y\r\nHost: a\r\n", b"gzip", id="codings before Host"),
            pytest.param(b"Host: a\r\nCache-Control: max-age=0\r\n", b"", id="a page that is reloaded"),
        ],
    )
    def test_what_most_clients_send_is_plain(self, block: bytes, codings: bytes) -> None:
        assert find_plain_codings(block, max_fields=MAX_FIELDS) == codings

    def test_too_many_fields_are_not(self) -> None:
        assert find_plain_codings(b"Host: a\r\n" + b"X: y\r\n" * MAX_FIELDS, max_fields=MAX_FIELDS) is None

    @settings(max_examples=1000)
    @given(st.lists(st.sampled_from(LINES_OF_BLOCKS), max_size=MAX_FIELDS + 1), st.booleans())
    def test_what_is_plain_asks_for_nothing_but_a_form_of_the_file(
        self, lines: list[bytes], with_host: bool
    ) -> None:
        block = b"".join([*lines, LINES_OF_BLOCKS[0]] if with_host else lines)
        codings = find_plain_codings(block, max_fields=MAX_FIELDS)
        if codings is None:
            return
        fields = parse_request_fields(block, (1, 1), max_fields=MAX_FIELDS)
        request = Request("GET", b"/", (1, 1), fields)

        assert keeps_alive(request)
        assert parse_body_length(request) == 0
        assert not expects_continue(request)
        assert not [name for name in fields.values if name.startswith("if-") or name == "range"]
        assert set(fields.values) & {"content-length", "transfer-encoding", "expect", "origin"} == set()
        assert codings.decode().strip(" \t") == fields.values.get("accept-encoding", "")
        assert "no-transform" not in fields.values.get("cache-control", "").lower()
        assert "want-repr-digest" not in fields.values
