"""Our reader of heads beside two others: h11, in Python and strict, and httptools, which is Node's llhttp.

We may refuse more than they do. But what we accept, nobody who accepts it too may read differently, or
requests could be smuggled past one to the other; and at least one of the two has to accept it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioserve.protocol.http1 import (
    CHUNKED,
    find_head_end,
    parse_body_length,
    parse_chunk_size,
    parse_head,
)
from aioserve.protocol.message import BadRequest

# What is sent behind each head. As a chunked body it is CHUNK, by a length it is its own beginning; what a
# reader takes for the body tells how it understood the framing.
CHUNK = b"x" * 1000
PROBE = b"3e8\r\n" + CHUNK + b"\r\n0\r\n\r\n"


class Read(NamedTuple):
    """What a reader understands.

    Lines of one name are one list, and blanks around values are gone. `body` is None when what follows
    belongs to another protocol.
    """

    method: bytes
    target: bytes
    version: str
    fields: dict[bytes, bytes]
    body: bytes | None


def join(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return {name: b", ".join(values) for name, values in fields.items()}


# Each of these reads one head, and gives None when it refuses it.


def read_ours(data: bytes) -> Read | None:
    try:
        end = find_head_end(bytearray(data), 0, max_line_bytes=8190, max_head_bytes=32768)
        if end != len(data):
            return None
        request = parse_head(data, max_fields=100)
        length = parse_body_length(request)
    except BadRequest:
        return None
    return Read(
        request.method.encode(),
        request.target,
        "{}.{}".format(*request.version),
        {name.encode(): value.encode("latin-1") for name, value in request.fields.values.items()},
        CHUNK if length == CHUNKED else PROBE[:length],
    )


def read_h11(data: bytes) -> Read | None:
    # RFC 9112 §2.2: h11 leaves empty lines before a request to its caller.
    while data.startswith(b"\r\n"):
        data = data[2:]
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    connection.receive_data(PROBE)
    return Read(
        event.method,
        event.target,
        event.http_version.decode(),
        join(event.headers),
        b"".join(read_h11_body(connection)),
    )


def read_h11_body(connection: h11.Connection) -> list[bytes]:
    pieces = []
    while isinstance(event := connection.next_event(), h11.Data):
        pieces.append(event.data)
    return pieces


class Callbacks:
    """What httptools calls while it reads."""

    def __init__(self) -> None:
        self.target = b""
        self.lines: list[tuple[bytes, bytes]] = []
        self.is_head_complete = False
        self.is_complete = False
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_head_complete = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def read_httptools(data: bytes) -> Read | None:
    callbacks = Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    is_upgraded = False
    try:
        parser.feed_data(data)
        if not callbacks.is_head_complete:
            return None
        if not callbacks.is_complete:
            read_httptools_body(parser)
    except httptools.HttpParserUpgrade:
        is_upgraded = True
    except httptools.HttpParserError:
        return None
    return Read(
        parser.get_method(),
        callbacks.target,
        parser.get_http_version(),
        join(callbacks.lines),
        None if is_upgraded else callbacks.body,
    )


def read_httptools_body(parser: httptools.HttpRequestParser) -> None:
    # Behind a body shorter than the probe comes what is no request.
    with contextlib.suppress(httptools.HttpParserError):
        parser.feed_data(PROBE)


READERS = [pytest.param(read_h11, id="h11"), pytest.param(read_httptools, id="httptools")]


def assert_alike(ours: Read, other: Read) -> None:
    assert other.method == ours.method
    assert other.target == ours.target
    assert other.version == ours.version
    assert lower_coding(other.fields) == lower_coding(ours.fields)
    assert other.body in (ours.body, None)


def lower_coding(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The fields with the name of the transfer coding in lower case, in which h11 gives it."""
    coding = fields.get(b"transfer-encoding")
    return fields if coding is None else {**fields, b"transfer-encoding": coding.lower()}


def assert_nobody_reads_it_differently(data: bytes) -> None:
    ours = read_ours(data)
    if ours is None:
        return
    others = [other for other in (read_h11(data), read_httptools(data)) if other is not None]
    assert others, "we alone accept it"
    for other in others:
        assert_alike(ours, other)


ORDINARY = {
    "a small request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "the smallest request": b"GET / HTTP/1.0\r\n\r\n",
    "empty lines before": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no blanks": b"HEAD /a%20b?c=d;e&f HTTP/1.1\r\nhost:a:80\r\naccept:*/*\r\n\r\n",
    "blanks around a value": b"GET / HTTP/1.1\r\nHost: \t [::1]:80 \t\r\n\r\n",
    "absolute-form": b"GET http://a:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk-form": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority-form": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "lines of one name": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\nY:\r\nx: c\r\n\r\n",
    "bytes that are not ASCII": b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\xff\t\x80\r\n\r\n",
    "all that a name may hold": b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~0aZ: b\r\n\r\n",
    "characters that should be encoded": b'GET /"<>\\^`{|} HTTP/1.1\r\nHost: a\r\n\r\n',
    "a length": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "a length of 0": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "zeros before a length": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 00010\r\n\r\n",
    "a great length": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n",
    "a length in HTTP/1.0": b"PUT / HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
    "a length of a GET": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "chunked": b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n",
    "a length and a close": b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "an expectation": b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_request_is_accepted_by_all_and_read_alike(
    data: bytes, read: Callable[[bytes], Read | None]
) -> None:
    ours, other = read_ours(data), read(data)

    assert ours is not None
    assert other is not None
    assert_alike(ours, other)


METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"get", b"X", b"M-SEARCH", b""])
TARGETS = st.sampled_from(
    [
        b"/",
        b"*",
        b"/a?b",
        b"/%zz",
        b"//a",
        b"a:80",
        b"http://a/",
        b"http://a@b/",
        b"?",
        b"/#",
        b"/ ",
        b"/\xe4",
        b"",
    ]
)
VERSIONS = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b""]
)
NAMES = st.sampled_from([
    b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"TE",
    b"Host", b"Cookie", b"X", b"x", b"X_Y", b"Content-Length ", b" X", b"X\t", b"",
])  # fmt: skip
VALUES = st.sampled_from([
    b"5", b"0", b"5, 5", b"05", b"+5", b"0x5", b"5 5", b"\xa05", b"9" * 19, b"9" * 20,
    b"chunked", b"Chunked", b"chunked,", b"gzip, chunked", b"chunked, chunked", b"identity",
    b"close", b"keep-alive", b"upgrade", b"100-continue",
    b"a", b"a, b", b'"a"', b"\xe4", b"\x0b", b"\x85", b"",
])  # fmt: skip
SEPARATORS = st.sampled_from([b": "] * 8 + [b":", b":\t", b": \t ", b" : ", b"", b"::"])
LINE_ENDS = st.sampled_from([b"\r\n"] * 24 + [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\r\n ", b"\r\n\t"])

FRAMING_LINES = st.sampled_from([
    b"Content-Length: 5\r\n", b"Content-Length: 300\r\n", b"Content-Length: 0\r\n",
    b"Content-Length: 007\r\n", b"Content-Length:\r\n", b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: \tCHUNKED\t\r\n", b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n",
])  # fmt: skip
CHUNK_LINES = st.lists(st.sampled_from([bytes([byte]) for byte in b'05aF \t;x="\\_+\n']), max_size=7).map(
    b"".join
)

FIELD_LINES = st.tuples(NAMES, SEPARATORS, VALUES, LINE_ENDS).map(b"".join)
REQUEST_LINES = st.one_of(
    st.just(b"POST / HTTP/1.1\r\n"),
    st.just(b"POST / HTTP/1.0\r\n"),
    st.tuples(METHODS, TARGETS, VERSIONS).map(lambda parts: b" ".join(parts) + b"\r\n"),
)
HEADS = st.builds(
    lambda before, request_line, host, lines, after: b"".join((before, request_line, host, *lines, after)),
    st.sampled_from([b""] * 8 + [b"\r\n", b"\n", b" "]),
    REQUEST_LINES,
    st.sampled_from([b"Host: a\r\n"] * 4 + [b"Host: [::1]:80\r\n", b"Host:\r\n", b""]),
    st.lists(FIELD_LINES, max_size=4),
    st.sampled_from([b"\r\n"] * 8 + [b"\n", b""]),
)

# Bytes that mean something to some reader.
TELLING_BYTES = st.sampled_from(list(b'\0\t\n\x0b\x0c\r ,:;"#%/0@A\\_\x7f\x80\x85\xa0\xff'))


@st.composite
def mutated_heads(draw: st.DrawFn) -> bytes:
    """An ordinary head with up to three bytes put in, taken out, or exchanged."""
    data = bytearray(draw(st.sampled_from(list(ORDINARY.values())) | HEADS))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        position = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["put in", "take out", "exchange"]))
        data[position : position + (kind != "put in")] = (
            b"" if kind == "take out" else bytes([draw(TELLING_BYTES | st.integers(0, 255))])
        )
    return bytes(data)


@settings(max_examples=500)
@given(HEADS)
@example(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
@example(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n")
@example(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n")
@example(b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n Content-Length: 5\r\n\r\n")
def test_a_made_head_that_we_accept_is_read_alike(data: bytes) -> None:
    assert_nobody_reads_it_differently(data)


@settings(max_examples=500)
@given(mutated_heads())
def test_a_mutated_head_that_we_accept_is_read_alike(data: bytes) -> None:
    assert_nobody_reads_it_differently(data)


@settings(max_examples=300)
@given(
    st.lists(FRAMING_LINES, max_size=3), st.sampled_from([b"1.0", b"1.1"]), st.sampled_from([b"GET", b"PUT"])
)
def test_a_body_that_we_accept_ends_at_the_same_byte_for_all(
    lines: list[bytes], version: bytes, method: bytes
) -> None:
    assert_nobody_reads_it_differently(
        method + b" / HTTP/" + version + b"\r\nHost: a\r\n" + b"".join(lines) + b"\r\n"
    )


@settings(max_examples=300)
@given(CHUNK_LINES)
@example(b"5")
@example(b"0003e;x=x;x")
@example(b'5;x="\\";x"')
def test_a_chunk_that_we_accept_has_the_same_size_for_all(line: bytes) -> None:
    try:
        size = parse_chunk_size(line + b"\r\n")
    except BadRequest:
        return
    chunk = CHUNK[:size] + b"\r\n"
    data = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + line + b"\r\n" + chunk
    connection, callbacks = h11.Connection(h11.SERVER), Callbacks()

    # Both refuse the blanks of RFC 9110 §5.6.3.
    with contextlib.suppress(h11.RemoteProtocolError):
        connection.receive_data(data)
        connection.next_event()
        assert b"".join(read_h11_body(connection)) == chunk[:size]
    with contextlib.suppress(httptools.HttpParserError):
        httptools.HttpRequestParser(callbacks).feed_data(data)
        assert callbacks.body == chunk[:size]
