"""One client on HTTP/1.1, over real sockets: what is answered, when the connection ends, what nobody gets.

Each row of the tables is sent at once, one byte at a time, and with the end of the client right behind it;
and always with another request behind it, which is answered if, and only if, the connection goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from aioserve import Config, Server
from aioserve.content.site import Site
from aioserve.network.access_log import Exchange
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Bytes, Plan, Slice
from tests.content.conftest import is_open
from tests.network.breaking import answer_by, before_sending, begin_transfer, read_what_comes, take_away
from tests.network.conftest import LARGE, MIB, PATIENCE_S, Serve, serve_all
from tests.network.waiting import wait_until
from tests.raw_client import Answer, RawClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read from /proc")

# Small ones, so that rows at the limits are short.
LINE_BYTES, HEAD_BYTES, FIELDS, BODY_BYTES = 200, 1000, 10, 100


def form(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join((line, "Host: a", *fields, "", "")).encode("latin-1") + body


GET, GET_1_0 = "GET /hello.txt HTTP/1.1", "GET /hello.txt HTTP/1.0"
HELLO = form(GET)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(autouse=True)
def no_complaint(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does makes the server or asyncio complain."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []


@pytest.fixture
async def port(serve: Serve) -> AsyncIterator[int]:
    limits = {"request_line_bytes": LINE_BYTES, "head_bytes": HEAD_BYTES, "fields": FIELDS}
    async with serve(**limits, body_discard_bytes=BODY_BYTES) as server:
        yield server.port


# ---- tables ----------------------------------------------------------------------------------------------

Deliver = Callable[[RawClient, bytes], Awaitable[None]]


async def send_at_once(client: RawClient, data: bytes) -> None:
    await client.send(data)


async def send_byte_by_byte(client: RawClient, data: bytes) -> None:
    for position in range(len(data)):
        await client.send(data[position : position + 1])
        await asyncio.sleep(0)  # the server's turn


async def send_and_end(client: RawClient, data: bytes) -> None:
    await client.send(data)
    client.end()


@pytest.fixture(params=[send_at_once, send_byte_by_byte, send_and_end])
def deliver(request: pytest.FixtureRequest) -> Deliver:
    way: Deliver = request.param
    return way


async def ask_and_go_on(port: int, deliver: Deliver, request: bytes) -> tuple[Answer, bytes]:
    """The answer, and everything that comes behind it: the next one, or nothing."""
    method = request.lstrip(b"\r\n").partition(b" ")[0].decode("latin-1")
    async with RawClient(port) as client:
        await deliver(client, request + form("GET /folder/ HTTP/1.1"))
        answer = await client.read_answer(method)
        client.end()
        return answer, await client.read_to_end()


async def expect_kept(port: int, deliver: Deliver, request: bytes, status: int) -> Answer:
    answer, rest = await ask_and_go_on(port, deliver, request)
    assert answer.status == status
    assert answer.fields.get("connection") != "close"
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"\r\n\r\n<!doctype html><title>folder</title>\n")
    assert rest.count(b"HTTP/1.1") == 1
    return answer


async def expect_closed(port: int, deliver: Deliver, request: bytes, status: int) -> Answer:
    answer, rest = await ask_and_go_on(port, deliver, request)
    assert answer.status == status
    assert answer.fields["connection"] == "close"
    assert rest == b""
    return answer


async def expect_service(client: RawClient) -> None:
    assert (await client.ask(HELLO)).body == b"hello\n"


class TestPersistence:
    """RFC 9112 §9.3."""

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(HELLO, id="1.1"),
            pytest.param(form(GET, "Connection: keep-alive"), id="1.1 with keep-alive"),
            pytest.param(form(GET, "Connection: upgrade"), id="1.1 with another option"),
            pytest.param(form("HEAD /hello.txt HTTP/1.1"), id="1.1 and HEAD"),
        ],
    )
    async def test_it_is_kept_in_1_1(self, port: int, deliver: Deliver, request_: bytes) -> None:
        answer = await expect_kept(port, deliver, request_, 200)

        assert "connection" not in answer.fields

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(form(GET_1_0, "Connection: keep-alive"), id="as it is"),
            pytest.param(form(GET_1_0, "Connection: x, Keep-Alive"), id="in a list"),
            pytest.param(b"GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", id="without Host"),
            pytest.param(form("HEAD /hello.txt HTTP/1.0", "Connection: keep-alive"), id="HEAD"),
        ],
    )
    async def test_it_is_kept_in_1_0_for_who_asks_and_the_answer_says_so(
        self, port: int, deliver: Deliver, request_: bytes
    ) -> None:
        answer = await expect_kept(port, deliver, request_, 200)

        assert answer.fields["connection"] == "keep-alive"

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(form(GET, "Connection: close"), id="1.1 with close"),
            pytest.param(form(GET, "Connection: x ,\tClose"), id="1.1, in a list"),
            pytest.param(
                form(GET, "Connection: keep-alive", "Connection: close"), id="1.1, on a second line"
            ),
            pytest.param(form(GET_1_0), id="1.0"),
            pytest.param(form(GET_1_0, "Connection: keep-alive, close"), id="1.0, both"),
            pytest.param(b"GET /hello.txt HTTP/1.0\r\n\r\n", id="1.0 without Host"),
            pytest.param(form("HEAD /hello.txt HTTP/1.1", "Connection: close"), id="HEAD"),
        ],
    )
    async def test_it_is_closed_after_the_answer(self, port: int, deliver: Deliver, request_: bytes) -> None:
        await expect_closed(port, deliver, request_, 200)


class TestRequestHeads:
    """RFC 9112 §2.2 and §3."""

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(b"\r\n" + HELLO, 200, id="an empty line before it"),
            pytest.param(b"\r\n" * 8 + HELLO, 200, id="eight empty lines before it"),
            pytest.param(form("GET http://b/hello.txt HTTP/1.1"), 200, id="absolute-form"),
            pytest.param(form("GET /folder HTTP/1.1"), 308, id="a folder without its slash"),
            pytest.param(form("GET /none HTTP/1.1"), 404, id="a file that is not there"),
            pytest.param(form(GET, "If-None-Match: *"), 304, id="a file that is known"),
            pytest.param(form(GET, "If-Match: x"), 412, id="another file"),
            pytest.param(form(GET, "Range: bytes=9-"), 416, id="no such range"),
            pytest.param(form(f"GET /{'a' * (LINE_BYTES - 14)} HTTP/1.1"), 404, id="the longest line"),
            pytest.param(form(GET, *["X: y"] * (FIELDS - 1)), 200, id="most fields"),
            pytest.param(form(GET, f"X: {'y' * (HEAD_BYTES - len(HELLO) - 5)}"), 200, id="the largest head"),
        ],
    )
    async def test_what_can_be_read_is_answered(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        await expect_kept(port, deliver, request_, status)

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(b"\r\n" * 9 + HELLO, 400, id="nine empty lines before it"),
            pytest.param(b"GET /hello.txt HTTP/1.1\nHost: a\n\n", 400, id="bare LF"),
            pytest.param(b"GET  /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="two blanks"),
            pytest.param(b"GET /hello.txt\r\n", 400, id="HTTP/0.9"),
            pytest.param(b"GET /hello.txt HTTP/1.1\r\n\r\n", 400, id="no Host"),
            pytest.param(form(GET, "Host: a"), 400, id="two of Host"),
            pytest.param(form(GET, "X : y"), 400, id="a blank before the colon"),
            pytest.param(form(GET, "X: y", " z"), 400, id="a folded line"),
            pytest.param(form(GET, "X: \0"), 400, id="NUL"),
            pytest.param(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400, id="the beginning of TLS"),
            pytest.param(form("GET /%zz HTTP/1.1"), 400, id="a malformed target"),
            pytest.param(form("GET * HTTP/1.1"), 400, id="the target of OPTIONS"),
            pytest.param(form(f"GET /{'a' * (LINE_BYTES - 13)} HTTP/1.1"), 414, id="a line that is too long"),
            pytest.param(b"a" * (LINE_BYTES + 1), 414, id="a line without end"),
            pytest.param(form(GET, *["X: y"] * FIELDS), 431, id="too many fields"),
            pytest.param(
                form(GET, f"X: {'y' * (HEAD_BYTES - len(HELLO) - 4)}"), 431, id="a head that is too large"
            ),
            pytest.param(form("GET /hello.txt HTTP/1.2"), 505, id="HTTP/1.2"),
            pytest.param(form("GET /hello.txt HTTP/2.0"), 505, id="HTTP/2.0"),
        ],
    )
    async def test_behind_what_cannot_be_read_nothing_is_answered(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        answer = await expect_closed(port, deliver, request_, status)

        assert answer.body.startswith(b"%d " % status)

    async def test_a_head_that_is_cut_anywhere_is_400(self, port: int) -> None:
        for size in range(1, len(HELLO)):
            async with RawClient(port) as client:
                await client.send(HELLO[:size])
                client.end()

                assert (await client.read_answer()).status == 400
                assert await client.read_to_end() == b""


class TestMethods:
    """RFC 9110 §9 and §15.5.6."""

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
    @pytest.mark.parametrize("target", ["/hello.txt", "/none"])
    async def test_a_known_method_that_is_not_allowed_is_405(
        self, port: int, deliver: Deliver, method: str, target: str
    ) -> None:
        answer = await expect_kept(port, deliver, form(f"{method} {target} HTTP/1.1"), 405)

        assert answer.fields["allow"] == "GET, HEAD, OPTIONS"

    async def test_connect_is_405_and_nothing_behind_it_is_http(self, port: int, deliver: Deliver) -> None:
        request = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
        answer = await expect_closed(port, deliver, request, 405)

        assert answer.fields["allow"] == "GET, HEAD, OPTIONS"

    @pytest.mark.parametrize("method", ["BREW", "get", "GET1"])
    async def test_an_unknown_method_is_501(self, port: int, deliver: Deliver, method: str) -> None:
        await expect_closed(port, deliver, form(f"{method} /hello.txt HTTP/1.1"), 501)

    @pytest.mark.parametrize("target", ["*", "/", "/none"])
    async def test_options_is_answered_for_every_target(
        self, port: int, deliver: Deliver, target: str
    ) -> None:
        answer = await expect_kept(port, deliver, form(f"OPTIONS {target} HTTP/1.1"), 204)

        assert answer.fields["allow"] == "GET, HEAD, OPTIONS"
        assert "content-length" not in answer.fields  # RFC 9110 §8.6

    @pytest.mark.parametrize(
        ("target", "field"),
        [
            pytest.param("/hello.txt", "X: y", id="a small file"),
            pytest.param("/large.bin", "X: y", id="a large file"),
            pytest.param("/folder", "X: y", id="a redirect"),
            pytest.param("/none", "X: y", id="an error"),
            pytest.param("/none", "Accept: text/html", id="an error as a page"),
            pytest.param("/hello.txt", "If-None-Match: *", id="304"),
            pytest.param("/hello.txt", "If-Match: x", id="412"),
            pytest.param("/hello.txt", "Connection: close", id="the last one"),
            pytest.param("/hello.txt", "Expect: tea", id="417"),
        ],
    )
    async def test_head_has_all_fields_of_get_and_no_body(self, port: int, target: str, field: str) -> None:
        answers = []
        for method in ("HEAD", "GET"):
            async with RawClient(port) as client:
                answer = await client.ask(form(f"{method} {target} HTTP/1.1", field), method)
                client.end()
                assert await client.read_to_end() == b""
            answers.append((answer.status, {**answer.fields, "date": ""}))

        assert answers[0] == answers[1]


class TestRequestBodies:
    """RFC 9112 §6 and §7: nobody wants them, so they are read and dropped, within limits."""

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(form(GET, "Content-Length: 0"), 200, id="an empty one"),
            pytest.param(form(GET, "Content-Length: 5", body=b"hello"), 200, id="GET"),
            pytest.param(form("HEAD /hello.txt HTTP/1.1", "Content-Length: 1", body=b"x"), 200, id="HEAD"),
            pytest.param(form("POST /hello.txt HTTP/1.1", "Content-Length: 1", body=b"x"), 405, id="POST"),
            pytest.param(form("OPTIONS * HTTP/1.1", "Content-Length: 1", body=b"x"), 204, id="OPTIONS"),
            pytest.param(
                form(GET, f"Content-Length: {len(HELLO)}", body=HELLO),
                200,
                id="one that looks like a request",
            ),
            pytest.param(form(GET, "Content-Length: 100", body=b"x" * BODY_BYTES), 200, id="at the limit"),
            pytest.param(
                form(GET_1_0, "Connection: keep-alive", "Content-Length: 5", body=b"hello"),
                200,
                id="in HTTP/1.0",
            ),
        ],
    )
    async def test_a_body_of_known_length_is_read_past(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        await expect_kept(port, deliver, request_, status)

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"0\r\n\r\n", id="an empty one"),
            pytest.param(b"5\r\nhello\r\n0\r\n\r\n", id="one chunk"),
            pytest.param(b"1\r\na\r\n002\r\nbc\r\nA\r\n0123456789\r\n000\r\n\r\n", id="several chunks"),
            pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", id="a chunk that is a line end"),
            pytest.param(b'1;a=b;c="d e" ; f\r\nx\r\n0;last\r\n\r\n', id="extensions"),
            pytest.param(b"0\r\nX: y\r\nZ:\r\n\r\n", id="trailers"),
            pytest.param(b"0\r\n" + b"X: y\r\n" * FIELDS + b"\r\n", id="most trailers"),
            pytest.param(b"0\r\nX: %b\r\n\r\n" % (b"y" * (HEAD_BYTES - 5)), id="the largest trailer"),
            pytest.param(b"59\r\n" + b"x" * 0x59 + b"\r\n0\r\n\r\n", id="at the limit, framing included"),
        ],
    )
    async def test_a_chunked_body_is_read_past(self, port: int, deliver: Deliver, body: bytes) -> None:
        await expect_kept(port, deliver, form(GET, CHUNKED, body=body), 200)

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(
                form(GET, "Content-Length: 101", body=b"x" * (BODY_BYTES + 1)), 200, id="a byte more"
            ),
            pytest.param(
                form("HEAD /hello.txt HTTP/1.1", "Content-Length: 101", body=b"x" * (BODY_BYTES + 1)),
                200,
                id="HEAD",
            ),
            pytest.param(
                form("PUT /hello.txt HTTP/1.1", f"Content-Length: {'9' * 18}", body=b"x"), 405, id="PUT"
            ),
            pytest.param(
                form("GET /none HTTP/1.1", CHUNKED, body=b"5a\r\n" + b"x" * 0x5A + b"\r\n0\r\n\r\n"),
                404,
                id="chunks, a byte more",
            ),
            pytest.param(
                form(GET, CHUNKED, body=b"1\r\nx\r\n" * 20 + b"0\r\n\r\n"), 200, id="many tiny chunks"
            ),
            pytest.param(form(GET, CHUNKED, body=b"ffffffffffffffff\r\n"), 200, id="the longest chunk"),
            pytest.param(
                form(GET, CHUNKED, body=b"1;%b\r\nx\r\n0\r\n\r\n" % (b"a" * BODY_BYTES)),
                200,
                id="a long extension",
            ),
        ],
    )
    async def test_behind_a_body_over_the_limit_nothing_is_answered(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        await expect_closed(port, deliver, request_, status)

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(
                form(GET, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
                400,
                id="two ways to say its length",
            ),
            pytest.param(
                form(GET, "Content-Length: 5", "Content-Length: 5", body=b"hello"), 400, id="two lengths"
            ),
            pytest.param(form(GET, "Content-Length: +5", body=b"hello"), 400, id="+5"),
            pytest.param(form(GET_1_0, CHUNKED, body=b"0\r\n\r\n"), 400, id="1.0, chunked"),
            pytest.param(form(GET, "Transfer-Encoding: chunked, gzip"), 400, id="no end"),
            pytest.param(
                form(GET, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
                501,
                id="a coding that is not known",
            ),
            pytest.param(form(GET, CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n"), 400, id="'5 '"),
            pytest.param(form(GET, CHUNKED, body=b"0x5\r\nhello\r\n"), 400, id="0x5"),
            pytest.param(form(GET, CHUNKED, body=b"\r\n"), 400, id="a chunk without a size"),
            pytest.param(form(GET, CHUNKED, body=b"5\nhello\r\n"), 400, id="a bare LF"),
            pytest.param(form(GET, CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n"), 400, id="a chunk too long"),
            pytest.param(form(GET, CHUNKED, body=b"5\r\nhello!!0\r\n\r\n"), 400, id="no end of a chunk"),
            pytest.param(form(GET, CHUNKED, body=b"1;" + b"a" * 4096), 400, id="an extension without end"),
            pytest.param(form(GET, CHUNKED, body=b"0\r\nX : y\r\n\r\n"), 400, id="a malformed trailer"),
            pytest.param(
                form(GET, CHUNKED, body=b"0\r\n" + b"X: y\r\n" * (FIELDS + 1) + b"\r\n"),
                431,
                id="too many trailers",
            ),
            pytest.param(
                form(GET, CHUNKED, body=b"0\r\nX: %b\r\n\r\n" % (b"y" * (HEAD_BYTES - 4))),
                431,
                id="trailers that are too large",
            ),
        ],
    )
    async def test_behind_faulty_framing_nothing_is_answered(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        await expect_closed(port, deliver, request_, status)

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(form(GET, "Content-Length: 5", body=b"hello"), id="with a length"),
            pytest.param(form(GET, CHUNKED, body=b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\n"), id="chunked"),
        ],
    )
    async def test_a_body_that_is_cut_anywhere_is_400(self, port: int, request_: bytes) -> None:
        for size in range(request_.index(b"\r\n\r\n") + 4, len(request_)):
            async with RawClient(port) as client:
                await client.send(request_[:size])
                client.end()

                assert (await client.read_answer()).status == 400
                assert await client.read_to_end() == b""


class TestExpect:
    """RFC 9110 §10.1.1: the final status is the answer, since no body is wanted."""

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(form(GET, "Expect: 100-continue"), id="no body"),
            pytest.param(form(GET, "Expect: 100-continue", "Content-Length: 0"), id="an empty body"),
            pytest.param(
                form(
                    GET_1_0,
                    "Connection: keep-alive",
                    "Expect: 100-continue",
                    "Content-Length: 5",
                    body=b"hello",
                ),
                id="HTTP/1.0, which knows no expectations",
            ),
        ],
    )
    async def test_where_no_body_is_held_back_the_connection_goes_on(
        self, port: int, deliver: Deliver, request_: bytes
    ) -> None:
        await expect_kept(port, deliver, request_, 200)

    @pytest.mark.parametrize("body", [b"", b"5\r\nhello\r\n0\r\n\r\n"], ids=["held back", "sent anyway"])
    @pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 405)])
    @pytest.mark.parametrize("framing", [CHUNKED, "Content-Length: 15"])
    async def test_a_body_that_is_held_back_is_answered_at_once_and_is_the_last_thing(
        self, port: int, deliver: Deliver, framing: str, method: str, status: int, body: bytes
    ) -> None:
        request = form(f"{method} /hello.txt HTTP/1.1", "Expect: 100-Continue", framing, body=body)
        await expect_closed(port, deliver, request, status)

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            pytest.param(form(GET, "Expect: tea"), 417, id="unknown"),
            pytest.param(form(GET, "Expect: 100-continue, tea"), 417, id="one more"),
            pytest.param(form(GET, "Expect: tea", "Content-Length: 5", body=b"hello"), 417, id="with a body"),
            pytest.param(form(GET, "Expect: tea", "Content-Length: x"), 400, id="with faulty framing"),
        ],
    )
    async def test_another_expectation_fails(
        self, port: int, deliver: Deliver, request_: bytes, status: int
    ) -> None:
        await expect_closed(port, deliver, request_, status)


# ---- stories ---------------------------------------------------------------------------------------------


class TestFieldsOfTheConnection:
    """RFC 9110 §6.6.1 and §10.2.4: what each answer carries, whatever it answers."""

    REQUESTS = (HELLO, form("GET /none HTTP/1.1"), form("POST / HTTP/1.1"), form("GET / HTTP/2.0"))

    async def test_date_is_the_time_of_the_answer(self, serve: Serve) -> None:
        for request in self.REQUESTS:
            before_s = int(time.time())
            async with serve() as server, RawClient(server.port) as client:
                answer = await client.ask(request)
                dates = [format_date(second) for second in range(before_s, int(time.time()) + 1)]

                assert answer.fields["date"] in dates

    @pytest.mark.parametrize(("option", "value"), [(True, "aioserve"), (False, None)])
    async def test_server_can_be_switched_off(self, serve: Serve, option: bool, value: str | None) -> None:
        async with serve(server_header=option) as server:
            for request in self.REQUESTS:
                async with RawClient(server.port) as client:
                    assert (await client.ask(request)).fields.get("server") == value


def format_date(second: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))


class TestPipelining:
    """RFC 9112 §9.3.2: the answers come in the order of the requests."""

    async def test_a_mixture_is_answered_in_order_up_to_the_first_that_cannot_be_read(
        self, serve: Serve
    ) -> None:
        mixture = [
            (HELLO, "GET", 200, b"hello\n"),
            (form("HEAD /large.bin HTTP/1.1"), "HEAD", 200, b""),
            (form("GET /large.bin HTTP/1.1"), "GET", 200, LARGE),
            (form("GET /none HTTP/1.1"), "GET", 404, b"----Not found----"),
            (form("GET /large.bin HTTP/1.1", "Range: bytes=500000-"), "GET", 206, LARGE[500_000:]),
            (form("OPTIONS * HTTP/1.1"), "OPTIONS", 204, b""),
            (
                form("POST / HTTP/1.1", "Content-Length: 3", body=b"GET"),
                "POST",
                405,
                b"405 Method Not Allowed\n",
            ),
            (form("GET /huge.bin HTTP/1.1"), "GET", 200, bytes(64 * MIB)),
            (form("GET /large.bin HTTP/1.1", "If-None-Match: *"), "GET", 304, b""),
            (form("GET /folder HTTP/1.1", CHUNKED, body=b"3\r\nGET\r\n0\r\n\r\n"), "GET", 308, b""),
            (b"\r\n" + form(GET_1_0, "Connection: keep-alive"), "GET", 200, b"hello\n"),
            (form(GET, "Host: b"), "GET", 400, b"400 Bad Request\n"),
        ]
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            await client.send(b"".join(request for request, *_ in mixture) + HELLO * 3)
            for _, method, status, body in mixture:
                answer = await client.read_answer(method)

                assert answer.status == status
                assert answer.body == body
            assert await client.read_to_end() == b""

    async def test_a_thousand_at_once_are_answered_in_order(self, serve: Serve) -> None:
        numbers = range(1000)
        requests = [
            form("GET /large.bin HTTP/1.1", f"Range: bytes={number * 4}-{number * 4 + 3}")
            for number in numbers
        ]
        async with serve() as server, RawClient(server.port) as client, asyncio.TaskGroup() as group:
            group.create_task(client.send(b"".join(requests)))
            for number in numbers:
                assert (await client.read_answer()).body == number.to_bytes(4, "big")

    async def test_what_follows_a_request_to_close_is_not_answered(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await client.send(HELLO + form(GET, "Connection: close") + HELLO * 100)

            assert "connection" not in (await client.read_answer()).fields
            assert (await client.read_answer()).fields["connection"] == "close"
            assert await client.read_to_end() == b""


class TestHalfClose:
    """RFC 9112 §9.6: who will send no more can still be answered."""

    async def test_all_that_was_asked_before_is_answered(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            await client.send(HELLO + form("GET /huge.bin HTTP/1.1") + form("GET /large.bin HTTP/1.1"))
            client.end()

            assert (await client.read_answer()).body == b"hello\n"
            assert (await client.read_answer()).body == bytes(64 * MIB)
            assert (await client.read_answer()).body == LARGE
            assert await client.read_to_end() == b""

    @pytest.mark.parametrize("count", [0, 1])
    async def test_an_end_between_requests_is_answered_with_nothing(self, serve: Serve, count: int) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(count):
                await expect_service(client)
            client.end()

            assert await client.read_to_end() == b""


class TestClosing:
    """RFC 9112 §9.6: the last answer is not lost to a reset."""

    @pytest.mark.parametrize(
        ("begin", "status"),
        [
            pytest.param(form("PUT /new.bin HTTP/1.1", f"Content-Length: {8 * MIB}"), 405, id="an upload"),
            pytest.param(form(GET, f"Content-Length: {8 * MIB}"), 200, id="a body that is too long"),
            pytest.param(form(GET, CHUNKED, body=b"800000\r\n"), 200, id="a chunk that is too long"),
            pytest.param(b"GET /\r\n\r\n", 400, id="what is no HTTP/1.1"),
            pytest.param(form(GET, "Connection: close"), 200, id="what nobody will read"),
        ],
    )
    async def test_who_sends_everything_before_reading_gets_the_answer(
        self, serve: Serve, begin: bytes, status: int
    ) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            await client.send(begin + bytes(8 * MIB))

            assert (await client.read_answer()).status == status
            assert await client.read_to_end() == b""


class TestTimeouts:
    """Every wait on a client has a limit."""

    async def test_a_head_that_does_not_become_whole_in_time_is_408(self, serve: Serve) -> None:
        async with serve(head_timeout_s=0.5) as server, RawClient(server.port) as client:
            answer = await client.ask(HELLO[:-1])

            assert (answer.status, answer.fields["connection"]) == (408, "close")
            assert answer.body == b"408 Request Timeout\n"
            await client.send(b"\n" + HELLO)
            assert await client.read_to_end() == b""

    async def test_on_a_connection_that_was_kept_it_is_the_same(self, serve: Serve) -> None:
        async with serve(head_timeout_s=0.5) as server, RawClient(server.port) as client:
            await expect_service(client)

            assert (await client.ask(b"G")).status == 408
            assert await client.read_to_end() == b""

    async def test_a_byte_from_time_to_time_gives_nobody_more_time(self, serve: Serve) -> None:
        async def trickle(begin: bytes, more: bytes) -> None:
            async with RawClient(server.port) as client:
                await client.send(begin)
                reading = asyncio.create_task(client.read_answer())
                while not reading.done():
                    await client.send(more)
                    await asyncio.sleep(0.01)

                assert reading.result().status == 408
                assert await client.read_to_end() == b""

        async with serve(head_timeout_s=1, body_timeout_s=1) as server, asyncio.TaskGroup() as group:
            group.create_task(trickle(b"GET /", b"a"))
            group.create_task(trickle(form(GET, "Content-Length: 60000"), b"a"))
            group.create_task(trickle(form(GET, CHUNKED), b"1\r\na\r\n"))
            group.create_task(trickle(form(GET, CHUNKED, body=b"0\r\nX: y\r\n"), b"X: y\r\n"))

    async def test_a_body_that_does_not_become_whole_in_time_is_408(self, serve: Serve) -> None:
        async def hold_back(request: bytes) -> None:
            async with RawClient(server.port) as client:
                answer = await client.ask(request)

                assert (answer.status, answer.fields["connection"]) == (408, "close")
                assert await client.read_to_end() == b""

        async with serve(body_timeout_s=0.001) as server, asyncio.TaskGroup() as group:
            group.create_task(hold_back(form(GET, "Content-Length: 5")))
            group.create_task(hold_back(form(GET, "Content-Length: 5", body=b"hell")))
            for chunks in (b"", b"5\r\nhell", b"5\r\nhello\r", b"5\r\nhello\r\n", b"0\r\n", b"0\r\nX: y\r\n"):
                group.create_task(hold_back(form(GET, CHUNKED, body=chunks)))

    async def test_who_sends_nothing_at_all_gets_nothing(self, serve: Serve) -> None:
        async with serve(head_timeout_s=0.001) as server, RawClient(server.port) as client:
            assert await client.read_to_end() == b""

    async def test_an_idle_connection_ends_without_a_word(self, serve: Serve) -> None:
        async with serve(keepalive_timeout_s=0.001) as server, RawClient(server.port) as client:
            await expect_service(client)

            assert await client.read_to_end() == b""


class Ticks:
    """A server's clock as a test can wait for it."""

    def __init__(self) -> None:
        self._count = 0

    def count(self) -> None:
        self._count += 1

    async def wait_for(self, more: int) -> None:
        goal = self._count + more
        await wait_until(lambda: self._count >= goal)


class TestScarceConnections:
    """While more than 80 % of the connections are open, idle ones have to go sooner."""

    def serve_one(
        self, site_root: Path, ticks: Ticks, **options: object
    ) -> AbstractAsyncContextManager[Server]:
        """A server that has a single connection to give."""
        config = Config.from_options(port=0, connections=1, keepalive_timeout_busy_s=0.5, **options)
        return serve_all(Server.from_config(site_root, config, on_tick=ticks.count))

    async def test_an_idle_one_makes_way_without_a_word(self, site_root: Path) -> None:
        async with self.serve_one(site_root, Ticks()) as server, RawClient(server.port) as first:
            await expect_service(first)
            async with RawClient(server.port, timeout_s=30) as second:
                await expect_service(second)

            assert await first.read_to_end() == b""

    async def test_one_that_waits_for_its_client_to_close_makes_way(self, site_root: Path) -> None:
        async with (
            self.serve_one(site_root, Ticks(), linger_idle_s=PATIENCE_S, linger_total_s=PATIENCE_S) as server,
            RawClient(server.port) as first,
        ):
            await first.ask(form(GET, "Connection: close"))
            assert await first.read_to_end() == b""
            async with RawClient(server.port, timeout_s=30) as second:
                await expect_service(second)

    async def test_one_that_is_being_answered_stays(self, site_root: Path) -> None:
        ticks = Ticks()
        async with (
            self.serve_one(site_root, ticks) as server,
            RawClient(server.port, timeout_s=30) as client,
        ):
            announced = await begin_transfer(client, "/huge.bin")
            await ticks.wait_for(2)

            assert await client.reader.readexactly(announced) == bytes(64 * MIB)
            await expect_service(client)

    async def test_one_whose_request_is_being_read_stays(self, site_root: Path) -> None:
        ticks = Ticks()
        async with self.serve_one(site_root, ticks) as server, RawClient(server.port) as client:
            await client.send(HELLO[:-1])
            await ticks.wait_for(2)

            assert (await client.ask(b"\n")).status == 200

    async def test_where_there_are_enough_an_idle_one_stays(self, site_root: Path) -> None:
        ticks = Ticks()
        config = Config.from_options(port=0, connections=10, keepalive_timeout_busy_s=0.001)
        async with (
            serve_all(Server.from_config(site_root, config, on_tick=ticks.count)) as server,
            RawClient(server.port) as client,
        ):
            await expect_service(client)
            await ticks.wait_for(2)

            await expect_service(client)


class TestDrain:
    """A server that stops ends what is idle and finishes what has begun."""

    @asynccontextmanager
    async def stopping(self, server: Server) -> AsyncIterator[None]:
        """The server stops, has told each of its connections so, and is done when the block ends."""
        async with RawClient(server.port) as idle:
            # Its answer comes after everything that other clients had sent before has been read.
            await expect_service(idle)
            stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
            assert await idle.read_to_end() == b""
        yield
        await stopping

    async def test_idle_connections_end_without_a_word(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as silent, RawClient(server.port) as idle:
            await expect_service(idle)
            async with self.stopping(server):
                assert await silent.read_to_end() == b""
                assert await idle.read_to_end() == b""

    @pytest.mark.parametrize("turns", range(8))
    async def test_who_connects_at_the_last_moment_gets_nothing_and_does_not_hold_it(
        self, serve: Serve, turns: int
    ) -> None:
        async with serve(head_timeout_s=PATIENCE_S) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                for _ in range(turns):
                    await asyncio.sleep(0)
                stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
                connection.setblocking(False)
                with contextlib.suppress(ConnectionResetError):  # it was too late
                    assert await asyncio.get_running_loop().sock_recv(connection, 1) == b""
            await stopping

    @pytest.mark.parametrize(
        ("begin", "rest"),
        [
            pytest.param(HELLO[:-1], b"\n", id="in its head"),
            pytest.param(form(GET, "Content-Length: 5", body=b"hel"), b"lo", id="in its body"),
            pytest.param(
                form(GET, CHUNKED, body=b"5\r\nhel"),
                b"lo\r\n0\r\n\r\n",
                id="in a chunk",
            ),
        ],
    )
    async def test_a_request_that_has_begun_is_answered_and_told_that_it_is_the_last(
        self, serve: Serve, begin: bytes, rest: bytes
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await client.send(begin)
            async with self.stopping(server):
                answer = await client.ask(rest + HELLO)

                assert (answer.status, answer.body) == (200, b"hello\n")
                assert answer.fields["connection"] == "close"
                client.end()
                assert await client.read_to_end() == b""

    async def test_the_answer_in_place_of_an_unreadable_file_is_told_so_too(
        self, serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before_sending(monkeypatch, lambda: take_away(site_root / "large.bin"))
        async with serve() as server, RawClient(server.port) as client:
            await client.send(form("GET /large.bin HTTP/1.1", "Content-Length: 1"))
            async with self.stopping(server):
                answer = await client.ask(b"x")

                assert (answer.status, answer.fields["connection"]) == (503, "close")
                client.end()
                assert await client.read_to_end() == b""

    async def test_an_answer_that_is_being_sent_becomes_whole_and_is_the_last(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port, timeout_s=30) as client:
            announced = await begin_transfer(client, "/huge.bin")
            await client.send(HELLO)
            async with self.stopping(server):
                assert await client.reader.readexactly(announced) == bytes(64 * MIB)
                client.end()
                assert await client.read_to_end() == b""

    async def test_who_has_his_last_answer_and_does_not_close_is_not_waited_for(self, serve: Serve) -> None:
        async with (
            serve(linger_idle_s=PATIENCE_S, linger_total_s=PATIENCE_S) as server,
            RawClient(server.port) as client,
        ):
            await client.ask(form(GET, "Connection: close"))
            assert await client.read_to_end() == b""

            await server.stop(grace_s=PATIENCE_S)

    async def test_an_answer_that_is_not_whole_in_time_breaks_off(
        self, serve: Serve, site_root: Path
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            await server.stop(grace_s=0)

            assert len(await read_what_comes(client)) < announced
            await wait_until(lambda: not is_open(site_root / "huge.bin"))


def reset(client: RawClient) -> None:
    """Leaves with RST instead of FIN."""
    connection = client.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


class TestClientsThatLeave:
    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="without a byte"),
            pytest.param(HELLO[:10], id="in a head"),
            pytest.param(form(GET, "Content-Length: 5", body=b"he"), id="in a body"),
            pytest.param(form(GET, CHUNKED, body=b"5\r\nhe"), id="in a chunk"),
            pytest.param(form("GET /huge.bin HTTP/1.1"), id="in an answer"),
            pytest.param(form(GET, "Connection: close"), id="behind the last answer"),
            pytest.param(b"\0", id="behind an error"),
        ],
    )
    async def test_a_reset_at_any_time_ends_the_connection_and_nothing_else(
        self, serve: Serve, sent: bytes
    ) -> None:
        async with serve() as server, RawClient(server.port) as other:
            async with RawClient(server.port) as client:
                await client.send(sent)
                await expect_service(other)
                reset(client)

            await expect_service(other)


class TestDefects:
    """What nobody foresaw: 500 while nothing of the answer is sent, else a broken connection."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    async def test_a_site_that_fails_is_500_and_a_traceback_in_the_log(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
    ) -> None:
        answer_by(monkeypatch, fail)
        async with serve() as server, RawClient(server.port) as client:
            await client.send(form(f"{method} /hello.txt HTTP/1.1") + HELLO)
            answer = await client.read_answer(method)

            assert (answer.status, answer.fields["connection"]) == (500, "close")
            assert answer.body == (b"" if method == "HEAD" else b"500 Internal Server Error\n")
            assert await client.read_to_end() == b""
        assert take_tracebacks(caplog) == ["RuntimeError"]

    async def test_a_plan_that_would_forge_a_field_is_500(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
            yield Plan(200, (("Location", "/\r\nSet-Cookie: a=b"),), Bytes(b""))

        answer_by(monkeypatch, respond)
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(HELLO)

            assert answer.status == 500
            assert b"Set-Cookie" not in answer.head
            assert await client.read_to_end() == b""
        assert take_tracebacks(caplog) == ["ValueError"]

    async def test_after_the_first_byte_the_connection_breaks(
        self,
        serve: Serve,
        site_root: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        plans: list[Plan] = []
        original = Site.respond

        async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
            async with original(site, request, now_s) as plan:
                plans.append(plan)
                yield plan

        answer_by(monkeypatch, respond)
        async with serve() as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            body = plans[0].body
            assert isinstance(body, Slice)
            body.handle.close()  # too early
            await client.send(HELLO)
            received = await read_what_comes(client)

            assert len(received) < announced
            assert b"HTTP/1.1" not in received
            await wait_until(lambda: not is_open(site_root / "huge.bin"))
        assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["aioserve"]
        caplog.clear()

    async def test_behind_an_answer_that_was_sent_whole_no_other_is_sent(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        original = Site.respond

        async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
            async with original(site, request, now_s) as plan:
                yield plan
            raise RuntimeError

        answer_by(monkeypatch, respond)
        async with serve() as server, RawClient(server.port) as client:
            await client.send(HELLO * 2)
            received = await read_what_comes(client)

            assert received.count(b"HTTP/1.1") <= 1
            assert b"500" not in received
        assert take_tracebacks(caplog) == ["RuntimeError"]

    async def test_a_client_that_has_left_gets_nothing(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        original, is_asked, has_left = Site.respond, asyncio.Event(), asyncio.Event()

        async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
            if request.target == b"/":
                is_asked.set()
                await has_left.wait()
                raise RuntimeError
            async with original(site, request, now_s) as plan:
                yield plan

        answer_by(monkeypatch, respond)
        async with serve() as server, RawClient(server.port) as other:
            async with RawClient(server.port) as client:
                await client.send(form("GET / HTTP/1.1"))
                await is_asked.wait()
                reset(client)
            await expect_service(other)
            has_left.set()

            await expect_service(other)
        assert take_tracebacks(caplog) == ["RuntimeError"]


async def fail(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
    raise RuntimeError("/secret/path")
    yield


def take_tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the exceptions that are in the log with a traceback, which are no complaint then."""
    tracebacks = [record.exc_info for record in caplog.records if record.levelno >= logging.ERROR]
    caplog.clear()
    return [info[0].__name__ for info in tracebacks if info and info[0]]


Exchanges = Callable[[], list[Exchange]]


class TestExchanges:
    """What observers get."""

    @pytest.fixture
    def exchanges(self, caplog: pytest.LogCaptureFixture) -> Exchanges:
        """Gives all exchanges so far."""
        caplog.set_level(logging.INFO, "aioserve.access")
        return lambda: [
            record.__dict__["exchange"] for record in caplog.records if record.name == "aioserve.access"
        ]

    @pytest.mark.parametrize(
        ("request_", "request_line", "status"),
        [
            pytest.param(HELLO, GET, 200, id="a small file"),
            pytest.param(form("GET /large.bin HTTP/1.0"), "GET /large.bin HTTP/1.0", 200, id="a large file"),
            pytest.param(form("HEAD /large.bin HTTP/1.1"), "HEAD /large.bin HTTP/1.1", 200, id="HEAD"),
            pytest.param(
                form("GET /large.bin HTTP/1.1", "Range: bytes=5-300004"),
                "GET /large.bin HTTP/1.1",
                206,
                id="a range",
            ),
            pytest.param(
                form("GET /large.bin HTTP/1.1", "Range: bytes=0-9,500000-900000"),
                "GET /large.bin HTTP/1.1",
                206,
                id="two ranges",
            ),
            pytest.param(form("OPTIONS * HTTP/1.1"), "OPTIONS * HTTP/1.1", 204, id="OPTIONS"),
            pytest.param(form(GET, "If-None-Match: *"), GET, 304, id="304"),
            pytest.param(form('GET http://b/"?%22 HTTP/1.1'), 'GET http://b/"?%22 HTTP/1.1', 404, id="404"),
            pytest.param(
                form("POST / HTTP/1.1", "Content-Length: 2", body=b"ab"), "POST / HTTP/1.1", 405, id="405"
            ),
            pytest.param(
                b"CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", "CONNECT b:1 HTTP/1.1", 405, id="CONNECT"
            ),
            pytest.param(form(GET, "Expect: tea"), GET, 417, id="417"),
            pytest.param(form("GET /%zz HTTP/1.1"), "GET /%zz HTTP/1.1", 400, id="a malformed target"),
            pytest.param(form(GET, CHUNKED, body=b"x"), GET, 400, id="a bad chunk"),
            pytest.param(form(GET, "Host: b"), "-", 400, id="a head that cannot be read"),
            pytest.param(form("GET / HTTP/3.0"), "-", 505, id="505"),
            pytest.param(b"G", "-", 400, id="a head that is cut"),
        ],
    )
    async def test_an_answer_is_told_with_the_bytes_of_its_body(
        self,
        serve: Serve,
        exchanges: Exchanges,
        request_: bytes,
        request_line: str,
        status: int,
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            before_s = time.time()
            await client.send(request_)
            client.end()
            answer = await client.read_answer(request_line.partition(" ")[0])
            assert await client.read_to_end() == b""
            (exchange,) = exchanges()

            assert before_s <= exchange.at_s <= time.time()
            assert exchange.duration_s >= 0
            assert exchange._replace(at_s=0, duration_s=0) == Exchange(
                client="127.0.0.1",
                at_s=0,
                request_line=request_line,
                status=status,
                sent_bytes=len(answer.body),
                duration_s=0,
                referer=None,
                user_agent=None,
                is_whole=True,
            )
            assert answer.status == status

    async def test_referer_and_agent_are_those_of_their_own_request(
        self, serve: Serve, exchanges: Exchanges
    ) -> None:
        requests = [
            form(GET, "Referer: http://b/", "User-Agent: one/1.0 (a; \xe9)"),
            form("POST / HTTP/1.1", "User-Agent: two"),
            form("GET /none HTTP/1.1", "Referer:"),
            form("GET / HTTP/9.9", "User-Agent: three", "Referer: b"),
        ]
        async with serve() as server, RawClient(server.port) as client:
            await client.send(b"".join(requests))
            for _ in requests:
                await client.read_answer()
            assert await client.read_to_end() == b""

            assert [(exchange.referer, exchange.user_agent) for exchange in exchanges()] == [
                ("http://b/", "one/1.0 (a; \xe9)"),
                (None, "two"),
                ("", None),
                (None, None),
            ]
            assert [exchange.status for exchange in exchanges()] == [200, 405, 404, 505]

    async def test_a_timeout_is_told_with_the_request_if_there_was_one(
        self, serve: Serve, exchanges: Exchanges
    ) -> None:
        async with (
            serve(head_timeout_s=0.5, body_timeout_s=0.001) as server,
            RawClient(server.port) as one,
            RawClient(server.port) as other,
        ):
            await one.send(form(GET, "Content-Length: 1"))
            await other.send(b"GET /")
            assert (await one.read_answer()).status == 408
            assert (await other.read_answer()).status == 408

        assert {(exchange.request_line, exchange.status) for exchange in exchanges()} == {
            (GET, 408),
            ("-", 408),
        }

    async def test_an_unreadable_file_is_told_once_as_what_was_sent(
        self,
        serve: Serve,
        site_root: Path,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before_sending(monkeypatch, lambda: take_away(site_root / "large.bin"))
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(form("GET /large.bin HTTP/1.1", "Referer: b"))
            (exchange,) = exchanges()

            assert (exchange.status, exchange.sent_bytes, exchange.is_whole) == (503, len(answer.body), True)
            assert (exchange.request_line, exchange.referer) == ("GET /large.bin HTTP/1.1", "b")

    async def test_a_defect_is_told_with_the_request_that_met_it(
        self,
        serve: Serve,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        answer_by(monkeypatch, fail)
        async with serve() as server, RawClient(server.port) as client:
            answer = await client.ask(HELLO)
            (exchange,) = exchanges()

            assert (exchange.status, exchange.sent_bytes) == (500, len(answer.body))
            assert exchange.request_line == GET
        assert take_tracebacks(caplog) == ["RuntimeError"]

    async def test_an_answer_that_broke_off_is_told_as_such(
        self, serve: Serve, site_root: Path, exchanges: Exchanges
    ) -> None:
        async with serve() as server:
            async with RawClient(server.port) as client:
                announced = await begin_transfer(client, "/huge.bin")
            await wait_until(exchanges)
            async with RawClient(server.port) as client:
                await begin_transfer(client, "/huge.bin")
                take_away(site_root / "huge.bin")
                await read_what_comes(client)
            await wait_until(lambda: len(exchanges()) == 2)
            async with RawClient(server.port) as client:
                await begin_transfer(client, "/huge.bin")
                await server.stop(grace_s=0)

        assert [(one.status, one.is_whole) for one in exchanges()] == [(200, False)] * 3
        assert all(0 < one.sent_bytes < announced for one in exchanges())

    async def test_a_connection_without_a_request_is_nothing_to_tell(
        self, serve: Serve, exchanges: Exchanges
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            client.end()
            assert await client.read_to_end() == b""

        assert exchanges() == []

    async def test_nobody_is_told_when_it_is_switched_off(self, serve: Serve, exchanges: Exchanges) -> None:
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            await expect_service(client)

        assert exchanges() == []


class TestShortcut:
    """What was answered from a kept file is answered alike again; test_shortcuts says more of it."""

    @pytest.fixture(autouse=True)
    def kept_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files that were made just now would not be kept."""
        monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))

    @pytest.mark.parametrize(
        ("request_", "method", "status"),
        [
            pytest.param(HELLO, "GET", 200, id="a small file"),
            pytest.param(form("HEAD /hello.txt HTTP/1.1"), "HEAD", 200, id="HEAD"),
            pytest.param(form(GET, "If-None-Match: *"), "GET", 304, id="304"),
            pytest.param(form(GET, "If-Match: x"), "GET", 412, id="412"),
            pytest.param(form(GET, "Range: bytes=0-1"), "GET", 206, id="a range"),
            pytest.param(form(GET, "Range: bytes=0-1,3-4"), "GET", 206, id="two ranges"),
            pytest.param(form("GET /large.bin HTTP/1.1"), "GET", 200, id="a large file"),
            pytest.param(form("HEAD /large.bin HTTP/1.1"), "HEAD", 200, id="HEAD of a large file"),
            pytest.param(form("GET /large.bin HTTP/1.1", "Range: bytes=5-9"), "GET", 206, id="a part of it"),
            pytest.param(form("GET /large.bin HTTP/1.1", "Range: bytes=5-"), "GET", 206, id="much of it"),
            pytest.param(form("GET /none HTTP/1.1"), "GET", 404, id="404"),
            pytest.param(form(GET, "Content-Length: 0"), "GET", 200, id="a body"),
            pytest.param(form("GET /hello.txt HTTP/1.0", "Connection: keep-alive"), "GET", 200, id="1.0"),
        ],
    )
    async def test_the_same_request_gets_the_same_answer_again(
        self, serve: Serve, request_: bytes, method: str, status: int
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for target in ("/hello.txt", "/large.bin"):
                await client.ask(form(f"GET {target} HTTP/1.1"))
            answers = [await client.ask(request_, method) for _ in range(3)]
            without_chance = [
                (
                    answer.status,
                    {**answer.fields, "date": "", "content-type": ""},
                    answer.body.count(b"--") or answer.body,
                )
                for answer in answers
            ]

            assert answers[0].status == status
            assert without_chance[0] == without_chance[1] == without_chance[2]

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: path.write_bytes(b"other\n"), id="rewritten"),
            pytest.param(lambda path: path.replace(path.with_name("was.txt")), id="moved"),
            pytest.param(lambda path: path.unlink(), id="deleted"),
        ],
    )
    async def test_a_file_that_has_changed_is_looked_up_anew(
        self, serve: Serve, site_root: Path, change: Callable[[Path], object]
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                await expect_service(client)
            change(site_root / "hello.txt")
            now = (site_root / "hello.txt").read_bytes() if (site_root / "hello.txt").exists() else None
            answer = await client.ask(HELLO)

            assert (answer.status, answer.body) == ((200, now) if now else (404, b"----Not found----"))
