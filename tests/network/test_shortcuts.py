"""The shortcut gives the answer that the long way would give, byte for byte, and costs a bounded memory.

Each request is sent to a server that knows it already, whole, and so takes the shortcut where there is one;
in two pieces, which always goes the long way; and to a server that keeps nothing and so knows nothing.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import logging
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from aioserve import Server
from aioserve.content import files as files_module
from aioserve.content.cache import Absent
from aioserve.content.compression import compress, list_codings
from aioserve.content.files import EXTENSIONS, Files
from aioserve.content.response import Response
from aioserve.content.site import Site
from aioserve.network import shortcuts as shortcuts_module
from aioserve.network.access_log import Exchange
from aioserve.network.connection import Begun, Connection
from aioserve.network.shortcuts import Known, Shortcuts
from aioserve.protocol.conditional import format_etag, format_hash_etag, format_http_date
from aioserve.protocol.message import Request
from tests.content.conftest import is_open, open_descriptors
from tests.network.breaking import begin_transfer, read_what_comes, take_away
from tests.network.conftest import LARGE, MIB, PATIENCE_S, Serve, serve_all
from tests.network.waiting import wait_until
from tests.raw_client import Answer, RawClient
from tests.test_cases import CASES

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="small files are read without waiting on POSIX"
)

# Long before any test runs, so that a file is kept at once.
MODIFIED_S = 1_700_000_000
MODIFIED_NS = MODIFIED_S * 1_000_000_000

HELLO_BODY = b"hello\n"
ETAG = format_etag(MODIFIED_NS, len(HELLO_BODY), None)
DATE, EARLIER, LATER = (format_http_date(MODIFIED_S + shift) for shift in (0, -1, 1))

# RFC 9110 §5.6.7: the obsolete forms of DATE.
RFC850, ASCTIME = "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"

HEAD_BYTES, FIELDS = 6000, 20


@pytest.fixture(autouse=True)
def files_of_long_ago(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made just now would not be kept: its time of change cannot be set, so that rule is."""
    (site_root / "404.html").write_bytes(b"<!doctype html><title>nothing</title>\n")
    (site_root / "empty.txt").touch()
    (site_root / ".hidden").write_bytes(b"secret\n")
    (site_root / "a b.txt").write_bytes(b"a blank\n")
    (site_root / "\u00fc.txt").write_bytes(b"an umlaut\n")
    for path in site_root.rglob("*"):
        os.utime(path, ns=(MODIFIED_NS, MODIFIED_NS))
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))


def ask(line: str, *fields: str, host: str | None = "a") -> bytes:
    """A head, with a Host unless there is to be none."""
    lines = (line, *(() if host is None else (f"Host: {host}",)), *fields, "", "")
    return "\r\n".join(lines).encode("latin-1")


GET, HEAD = "GET /hello.txt HTTP/1.1", "HEAD /hello.txt HTTP/1.1"
HELLO = ask(GET)

CHROME = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    "Accept: text/html,application/xhtml+xml,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Connection: keep-alive",
    "Cookie: session=0123456789",
)
FIREFOX = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0",
    "Accept-Language: en-GB,en;q=0.5",
    "Referer: http://a/",
)


# ---- what the requests are -------------------------------------------------------------------------------

CONDITIONS = [
    f"{name}: {value}"
    for names, values in (
        (
            ("If-None-Match", "If-Match"),
            (
                ETAG,
                f"W/{ETAG}",
                '"other"',
                "*",
                f'"other", {ETAG}',
                f'"other",W/{ETAG} ,',
                f"*, {ETAG}",
                ETAG.strip('"'),
                f"{ETAG} {ETAG}",
                f"w/{ETAG}",
                '"',
                "",
                ",",
                '"\xe9"',
            ),
        ),
        (
            ("If-Modified-Since", "If-Unmodified-Since"),
            (
                DATE,
                EARLIER,
                LATER,
                RFC850,
                "Tuesday, 14-Nov-95 22:13:20 GMT",
                "Tuesday, 14-Nov-73 22:13:20 GMT",
                ASCTIME,
                "Sun, 06 Nov 2094 08:49:37 GMT",
                "Mon, 14 Nov 2023 22:13:20 GMT",
                DATE.lower(),
                "yesterday",
                "0",
                "",
            ),
        ),
    )
    for name in names
    for value in values
]

FIELDS_OF_A_REQUEST = [
    *CONDITIONS,
    *(f"Range: {value}" for value in (
        "bytes=0-1", "bytes=-2", "bytes=9-", "bytes=2-1", "lines=0-1", "", "x",
    )),
    *(f"Accept: {value}" for value in ("text/html", "*/*", "text/html;q=0", "application/json", "")),
    *(f"Connection: {value}" for value in (
        "keep-alive", "Keep-Alive", "KEEP-ALIVE", "close", "Close", "close, keep-alive", "keep-alive, close",
        "keep-alive,", "upgrade", "", "keep-alive, Upgrade, HTTP2-Settings",
    )),
    *(f"Content-Length: {value}" for value in ("0", "00", "+0", "-1", "", "0, 0", "x")),
    *(f"Transfer-Encoding: {value}" for value in ("identity", "gzip", "", "chunked, chunked", "chunked;q=1")),
    *(f"Expect: {value}" for value in ("100-continue", "100-Continue", "tea", "")),
    "Upgrade: h2c",
    "TE: trailers",
    "X:",
    "X:\t \t",
    "X: \xe9",
    "X: a\tb",
    "X : y",
    " X: y",
    ": y",
    "X",
    "X: \x7f",
    "X: \0",
    "X: a\rb",
    "X: a\nb",
    "Host: a",
    "Host: b",
    "Host:",
]  # fmt: skip

TARGETS = [
    "/hello.txt",
    "/hello.txt?",
    "/hello.txt?a=b&c",
    "/hello.txt?%zz",
    "/hello%2Etxt",
    "/h%65llo.txt",
    "/hello.txt%00",
    "/hello.txt/",
    "//hello.txt",
    "/./hello.txt",
    "/folder/../hello.txt",
    "/folder/%2e%2e/hello.txt",
    "/hello.txt;a",
    "/a%20b.txt",
    "/a+b.txt",
    "/%C3%BC.txt",
    "/%c3%bc.txt",
    "/%FC.txt",
    "/empty.txt",
    "/large.bin",
    "/",
    "/?a",
    "/index.html",
    "/folder/",
    "/folder",
    "/folder?a=b",
    "/folder/index.html",
    "/bare/",
    "/bare",
    "/404.html",
    "/none",
    "/none/",
    "/none/none",
    "/.hidden",
    "/.well-known/none",
    "/HELLO.TXT",
    "/%",
    "/%zz",
    "*",
    "http://b/hello.txt",
    "http://b",
    "http://b/",
    "HTTP://B:80/hello.txt",
    "http://b@c/hello.txt",
    "http:///hello.txt",
    "ftp://b/hello.txt",
    "hello.txt",
    "b:80",
    '/"',
    "/a|b",
]

ODD_HEADS = [
    pytest.param(b"\r\n" + HELLO, id="an empty line before it"),
    pytest.param(b"\r\n" * 8 + HELLO, id="eight empty lines before it"),
    pytest.param(b"\r\n" * 9 + HELLO, id="nine empty lines before it"),
    pytest.param(b"\n" + HELLO, id="a bare LF before it"),
    pytest.param(HELLO.replace(b"\r\n", b"\n"), id="bare LF"),
    pytest.param(HELLO.replace(b" ", b"  "), id="two blanks"),
    pytest.param(HELLO.replace(b"HTTP", b"http"), id="http in small letters"),
    pytest.param(HELLO.replace(b"GET", b"get"), id="get in small letters"),
    pytest.param(HELLO.replace(b"Host", b"hOSt"), id="Host in other letters"),
    pytest.param(HELLO.replace(b"Host: ", b"Host:\t \t"), id="much white space before a value"),
    pytest.param(HELLO.replace(b": a", b": a \t"), id="white space behind a value"),
    pytest.param(ask(GET, host=None), id="no Host"),
    pytest.param(ask(GET, "If-None-Match: *", "if-none-match: x"), id="a condition twice"),
    pytest.param(ask(GET, f"IF-NONE-MATCH:{ETAG}"), id="a condition in capitals"),
    pytest.param(ask(GET, "If-Match: x", "If-None-Match: *"), id="412 before 304"),
    pytest.param(ask(GET, f"If-None-Match: {ETAG}", "Range: bytes=0-1"), id="304 before 206"),
    pytest.param(ask(GET, 'If-None-Match: "x"', f"If-Modified-Since: {DATE}"), id="a tag before a date"),
    pytest.param(ask(GET, "Range: bytes=0-1", f"If-Range: {ETAG}"), id="If-Range with the tag"),
    pytest.param(ask(GET, "Range: bytes=0-1", f"If-Range: W/{ETAG}"), id="If-Range with a weak tag"),
    pytest.param(ask(GET, "Range: bytes=0-1", f"If-Range: {DATE}"), id="If-Range with the date"),
    pytest.param(ask(GET, "Range: bytes=0-1", f"If-Range: {RFC850}"), id="If-Range with an old form"),
    pytest.param(ask(GET, "Range: bytes=0-1", "If-Range: x"), id="If-Range with nothing"),
    pytest.param(ask(GET, "If-Range: x"), id="If-Range without Range"),
    pytest.param(ask(GET, "Range: bytes=0-1", "Range: bytes=0-1"), id="Range twice"),
    pytest.param(ask("GET /large.bin HTTP/1.1", "Range: bytes=5-99"), id="a little of a large file"),
    pytest.param(ask("GET /large.bin HTTP/1.1", "Range: bytes=5-500000"), id="much of a large file"),
    pytest.param(ask("HEAD /large.bin HTTP/1.1"), id="HEAD of a large file"),
    pytest.param(ask("GET /large.bin HTTP/1.1", "If-None-Match: *"), id="304 of a large file"),
    pytest.param(ask("GET /none HTTP/1.1", "Accept: text/html"), id="404 as a page"),
    pytest.param(ask("GET /folder HTTP/1.1", "If-None-Match: *"), id="a redirect under a condition"),
    pytest.param(ask(GET, f"X: {'y' * 4040}"), id="a head of nearly 4 KiB"),
    pytest.param(ask(GET, f"X: {'y' * 4100}"), id="a head of more than 4 KiB"),
    pytest.param(ask(GET, f"X: {'y' * HEAD_BYTES}"), id="a head that is too large"),
    pytest.param(ask(GET, *["X: y"] * (FIELDS - 1)), id="most fields"),
    pytest.param(ask(GET, *["X: y"] * FIELDS), id="too many fields"),
    pytest.param(HELLO + HELLO, id="two heads in one piece"),
    pytest.param(HELLO + ask(HEAD) + ask("GET /none HTTP/1.1"), id="three heads in one piece"),
    pytest.param(HELLO + ask(GET, "Connection: close") + HELLO, id="a last one in the middle"),
    pytest.param(HELLO + HELLO[:20], id="a head and a part of the next"),
    pytest.param(HELLO + b"\r\n", id="an empty line behind it"),
    pytest.param(HELLO[:-2] + b"X: y\r\n" + HELLO, id="a head in the fields of another"),
    pytest.param(HELLO[:-2], id="a head without its last line"),
    pytest.param(HELLO[:-1], id="a head without its last byte"),
    pytest.param(HELLO[: HELLO.index(b"\r") + 1], id="a request line and CR"),
    pytest.param(HELLO[: HELLO.index(b"\r") + 2] + b"\r\n", id="no fields"),
    pytest.param(ask(GET, "Content-Length: 4") + b"body", id="a body"),
    pytest.param(ask(GET, "Content-Length: 4") + b"\r\n\r\n", id="a body that looks like an end"),
    pytest.param(ask(GET, "Transfer-Encoding: chunked") + b"0\r\n\r\n", id="an empty chunked body"),
    pytest.param(ask(GET, "Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n", id="smuggling"),
    pytest.param(ask("POST /hello.txt HTTP/1.1"), id="POST"),
    pytest.param(ask("OPTIONS /hello.txt HTTP/1.1"), id="OPTIONS"),
    pytest.param(ask("CONNECT b:1 HTTP/1.1", host="b:1"), id="CONNECT"),
    pytest.param(ask("BREW /hello.txt HTTP/1.1"), id="an unknown method"),
    *(pytest.param(ask(f"{method} /hello.txt HTTP/{version}", *fields), id=f"{method} {version} {fields}")
      for method in ("GET", "HEAD") for version in ("1.0", "1.2", "0.9", "2.0", "1.11")
      for fields in ((), ("Connection: keep-alive",), ("Connection: close",))),
    *(pytest.param(ask(GET, host=host), id=f"Host {host!r}")
      for host in ("a:80", "a:", "[::1]", "[::1]:80", "127.0.0.1", "", " ", "a b", "a,b", "a/", "\xe9")),
    *(pytest.param(ask(f"{line} HTTP/1.1", *fields), id=f"{line}, a browser's")
      for line in ("GET /hello.txt", "HEAD /", "GET /folder/") for fields in (CHROME, FIREFOX)),
]  # fmt: skip

# Of a file that is kept by its descriptor.
PART = "GET /part.bin HTTP/1.1"
PART_BODY = LARGE[:200_000]
PART_ETAG = format_etag(MODIFIED_NS, len(PART_BODY), None)

RANGES = [
    "bytes=0-0",
    "bytes=0-65535",
    "bytes=70000-135535",
    "bytes=199999-199999",
    "bytes=199999-",
    "bytes=0-",
    "bytes=0-199999",
    "bytes=0-200000",
    "bytes=0-99999999999999999999999",
    f"bytes=0-{'9' * 2000}",
    f"bytes={'0' * 100}5-7",
    "bytes=00-01",
    "bytes=200000-",
    "bytes=200000-200001",
    f"bytes={'9' * 30}-",
    "bytes=-1",
    "bytes=-0",
    "bytes=-300000",
    "bytes=5-4",
    "bytes=-",
    "bytes=",
    "bytes=0-1,5-6",
    "bytes=0-1,",
    "bytes=0-1 ,5-6",
    "Bytes=0-1",
    "bytes =0-1",
    "bytes=0 -1",
    "bytes=0-1\t",
    "bytes=0-1  ",
    " bytes=0-1",
    "lines=0-1",
]

RANGE = "Range: bytes=5-70004"
RANGE_LINES: list[tuple[str, ...]] = [
    *((f"Range: {value}",) for value in RANGES),
    (RANGE, "Connection: close"),
    ("Connection: Close", RANGE),
    ("Range: bytes=200000-", "Connection: close"),
    ("range: bytes=5-70004",),
    ("RANGE: bytes=5-70004",),
    ("rAnge: bytes=5-70004",),
    ("Range:bytes=5-70004",),
    ("Range:\tbytes=5-70004",),
    ("Range : bytes=5-70004",),
    (" Range: bytes=5-70004",),
    (RANGE, " 5-6"),
    (RANGE, "X: y"),
    ("X: Range: bytes=5-6", RANGE),
    ("Orange: bytes=5-6",),
    ("Orange: bytes=5-6", RANGE),
    (RANGE, RANGE),
    (RANGE, "range: bytes=7-8"),
    (RANGE, "RANGE: bytes=7-8"),
    ("RANGE: bytes=7-8", RANGE),
    (RANGE, "Range: bytes=7-8", RANGE),
    (RANGE, "Range:"),
    (RANGE, f"If-Range: {PART_ETAG}"),
    (f"If-Range: {PART_ETAG}", RANGE),
    (RANGE, 'If-Range: "other"'),
    (RANGE, f"If-Range: {DATE}"),
    (RANGE, f"If-Range: {EARLIER}"),
    (RANGE, f"If-None-Match: {PART_ETAG}"),
    (RANGE, 'If-Match: "other"'),
    (RANGE, f"If-Modified-Since: {DATE}"),
    (RANGE, "Content-Length: 0"),
    (RANGE, "Expect: 100-continue"),
    (RANGE, "Connection: keep-alive", "User-Agent: a"),
    (RANGE, *["X: y"] * (FIELDS - 2)),
    (RANGE, *["X: y"] * (FIELDS - 1)),
    (*["X: y"] * (FIELDS - 2), RANGE),
    (*["X: y"] * (FIELDS - 1), RANGE),
    (RANGE, "X"),
    (RANGE, "X: a\rb"),
    ("X: a\r", RANGE),
    ("X: a\n", RANGE),
    ("Connection: close",),
    (),
]

WANTS = "Want-Repr-Digest: sha-256=1"
HELLO_HASH, PART_HASH = (
    format_hash_etag(hashlib.sha256(content).digest()) for content in (HELLO_BODY, PART_BODY)
)
DIGEST_FIELDS: list[tuple[str, ...]] = [
    (),
    FIREFOX,
    CHROME,
    (WANTS,),
    ("want-repr-digest:sha-256=10",),
    ("WANT-REPR-DIGEST: sha-512=1, sha-256=2",),
    ("wAnT-rEpR-dIgEsT: sha-256=0",),
    ("Want-Repr-Digest: sha-512=1",),
    ("Want-Repr-Digest:",),
    ("Want-Repr-Digest: sha-256=1, ,",),
    ("Want-Content-Digest: sha-256=1",),
    ("X: Want-Repr-Digest: sha-256=1",),
    (WANTS, "Want-Repr-Digest: sha-256=0"),
    ("Want-Repr-Digest: sha-256=0", WANTS),
    (WANTS, *FIREFOX),
    (WANTS, "Connection: close"),
    (WANTS, "Range: bytes=0-1"),
    ("Range: bytes=0-1", WANTS),
    (WANTS, "Range: bytes=0-1,3-4"),
    (WANTS, "Range: bytes=-0"),
    *(
        (*wants, f"{name}: {tag}")
        for wants in ((), (WANTS,))
        for name in ("If-None-Match", "If-Match")
        for tag in (HELLO_HASH, PART_HASH, ETAG, PART_ETAG)
    ),
    *((WANTS, "Range: bytes=0-1", f"If-Range: {tag}") for tag in (HELLO_HASH, PART_HASH, ETAG, DATE)),
    *((WANTS, f"{name}: {date}") for name in ("If-Modified-Since", "If-Unmodified-Since")
      for date in (EARLIER, DATE, LATER)),
]  # fmt: skip

ABSENT = "GET /none HTTP/1.1"
ABSENT_TARGETS = [
    "/none",
    "/none/",
    "/none?a=b",
    "/none/none.txt",
    "/folder/none",
    "/folder/.none",
    "/.hidden",
    "/.hidden/",
    "/.hidden/none",
    "/.well-known/none",
    "/hello.txt/",
    "/hello.txt/none",
    "/hello.txt/none/",
    "/dangling",
    "/dangling/",
    "/dangling/none",
    "/loop",
    "/to-folder/none",
    "/to-folder/hello.txt",
    "/to-outside",
    "/to-outside/none",
    "/bare/",
    f"/{'n' * 255}",
    f"/{'n' * 256}",
    f"/{'n/' * 300}n",
    "/n%C3%BCll",
    "/n%FFll",
    "/a%5Cb",
    "/none%2Fnone",
    "/folder/../none",
    "http://b/none",
    "/404.html",
]
ABSENT_FIELDS: list[tuple[str, ...]] = [
    (),
    ("Accept: text/html",),
    ("Accept: text/plain",),
    ("Accept: text/html", "Connection: close"),
    ("If-Match: x", RANGE),
]


def make_odd_names(root: Path) -> None:
    """What is no file of its own."""
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "to-folder").symlink_to("folder")
    (root / "to-outside").symlink_to("..")
    (root / "404.html").unlink()


# ---- what is compared ------------------------------------------------------------------------------------


def without_chance(answers: bytes) -> bytes:
    """The answers without what nobody can foresee: the time, and the boundary of the parts."""
    for boundary in set(re.findall(rb"boundary=([0-9a-f]{32})", answers)):
        answers = answers.replace(boundary, b"-")
    return re.sub(rb"\r\nDate: [^\r]{29}\r\n", b"\r\nDate: \r\n", answers)


NEXT = ask("GET /folder/ HTTP/1.1")


class Reference:
    """A server, and a client of it whose answers tell that all that was sent before has been read."""

    def __init__(self, server: Server, client: RawClient) -> None:
        self._port = server.port
        self._client = client

    async def exchange(self, *pieces: bytes) -> bytes:
        """All that is answered to `pieces` and NEXT behind them, each sent when the one before has been read.

        They arrive at a connection that is idle: the shortcut can be taken.
        """
        async with RawClient(self._port, timeout_s=30) as client:
            await client.ask(NEXT)
            for piece in (*pieces, NEXT):
                client.writer.write(piece)
                await self._client.ask(NEXT)
            client.end()
            return without_chance(await client.read_to_end())


@asynccontextmanager
async def run_reference(root: Path, **options: Any) -> AsyncIterator[Reference]:
    limits: dict[str, Any] = {"head_bytes": HEAD_BYTES, "fields": FIELDS, "log_format": "off"}
    async with Server(root, 0, **limits, **options) as server, RawClient(server.port) as client:
        yield Reference(server, client)


async def find_differences(
    root: Path, requests: list[bytes], **options: object
) -> list[tuple[bytes, bytes, bytes]]:
    """The requests that get another answer by the shortcut, with it and with that of the long way."""
    different = []
    async with (
        run_reference(root, **options) as known,
        run_reference(root, cache_size=0, **options) as unknown,
    ):
        for request in requests:
            wanted = await unknown.exchange(request)
            ways = [(request,), (request,), (request,), (request[:-1], request[-1:])]
            for pieces in ways:
                answers = await known.exchange(*pieces)
                if answers != wanted:
                    different.append((request, answers, wanted))
    return different


APP = "https://app.example"

OWNERS = [
    pytest.param({}, id="no wish"),
    pytest.param({"cors": "*"}, id="pages of all origins read"),
    pytest.param({"cors": f"{APP},http://b"}, id="pages of two origins read"),
    pytest.param({"data": True}, id="data"),
    pytest.param({"coi": True, "security_headers": True}, id="presets"),
    pytest.param(
        {
            "header": ["X-One: 1, 2", "Vary: DNT", "Expires: 0"],
            "cache_control": ["*.txt: no-store", "/**/*.js: max-age=1"],
        },
        id="fields",
    ),
    pytest.param(
        {"header": ["X-Content-Type-Options: none", "Cache-Control: private"], "cors": APP, "data": True},
        id="fields that are there, and data for one origin",
    ),
]

OWNED_FIELDS = [
    (),
    (f"Origin: {APP}",),
    ("origin: https://evil.example",),
    ("ORIGIN: null",),
    ("Origin: http://b", f"If-None-Match: {ETAG}"),
    (f"Origin: {APP}", "Range: bytes=1-2"),
    ("Origin: http://c", "Range: bytes=99-"),
    (f"Origin: {APP}", 'If-Match: "other"'),
    (f"Origin: {APP}", f"Origin: {APP}"),
    (f"Origin: {APP}", "Connection: close"),
    (f"Origin: {APP}", "Accept: text/html"),
    (f"Origin: {APP}", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: range"),
]


class TestAnswers:
    """It never gives an answer that the long way would not give."""

    @pytest.mark.parametrize("line", [GET, HEAD, "GET /none HTTP/1.1"])
    async def test_every_field_is_answered_alike(self, site_root: Path, line: str) -> None:
        requests = [ask(line, field) for field in FIELDS_OF_A_REQUEST]

        assert await find_differences(site_root, requests) == []

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_every_target_is_answered_alike(self, site_root: Path, method: str) -> None:
        requests = [ask(f"{method} {target} HTTP/1.1") for target in TARGETS]

        assert await find_differences(site_root, requests) == []

    async def test_it_is_tried_on_what_the_rows_ask(self, site_root: Path, taken: list[bytes]) -> None:
        requests = [ask(line, field) for line in (GET, HEAD) for field in FIELDS_OF_A_REQUEST]
        await find_differences(site_root, requests)

        assert {ask(line, field) for line in (GET, HEAD) for field in CONDITIONS} <= set(taken)

    @pytest.mark.parametrize("line", [PART, PART.replace("GET", "HEAD"), GET])
    async def test_every_range_is_answered_alike(
        self, site_root: Path, taken: list[bytes], line: str
    ) -> None:
        (site_root / "part.bin").write_bytes(PART_BODY)
        os.utime(site_root / "part.bin", ns=(MODIFIED_NS, MODIFIED_NS))
        requests = [ask(line, *fields) for fields in RANGE_LINES]

        assert await find_differences(site_root, requests) == []
        assert {ask(line, RANGE, "Connection: close"), ask(line, *["X: y"] * (FIELDS - 2), RANGE)} <= set(
            taken
        )

    @pytest.mark.parametrize("etag", ["mtime", "hash"])
    @pytest.mark.parametrize("line", [GET, HEAD, PART])
    async def test_whoever_wants_a_digest_is_answered_alike(
        self, site_root: Path, taken: list[bytes], line: str, etag: str
    ) -> None:
        (site_root / "part.bin").write_bytes(PART_BODY)
        os.utime(site_root / "part.bin", ns=(MODIFIED_NS, MODIFIED_NS))
        requests = [ask(line, *fields) for fields in DIGEST_FIELDS]

        assert await find_differences(site_root, requests, etag=etag) == []
        assert {ask(line, WANTS), ask(line, *FIREFOX), ask(line, WANTS, "Range: bytes=0-1")} <= set(taken)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_every_target_has_the_tag_of_its_content(self, site_root: Path, method: str) -> None:
        requests = [ask(f"{method} {target} HTTP/1.1", WANTS) for target in TARGETS]

        assert await find_differences(site_root, requests, etag="hash") == []

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("fields", ABSENT_FIELDS)
    async def test_what_is_absent_is_answered_alike(
        self, site_root: Path, taken: list[bytes], method: str, fields: tuple[str, ...]
    ) -> None:
        make_odd_names(site_root)
        requests = [ask(f"{method} {target} HTTP/1.1", *fields) for target in ABSENT_TARGETS]

        assert await find_differences(site_root, requests) == []
        assert requests[0] in taken

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_with_a_page_for_what_is_absent_it_is_the_same(self, site_root: Path, method: str) -> None:
        page = (site_root / "404.html").read_bytes()
        make_odd_names(site_root)
        (site_root / "404.html").write_bytes(page)
        requests = [
            ask(f"{method} {target} HTTP/1.1", *fields)
            for target in ("/none", "/none/", "/.hidden", "/hello.txt/none", "/dangling")
            for fields in ABSENT_FIELDS
        ]

        assert await find_differences(site_root, requests) == []

    async def test_of_one_file_alone_every_request_is_answered_alike(self, site_root: Path) -> None:
        requests = [
            ask(f"{method} {target} HTTP/1.1", *fields)
            for method in ("GET", "HEAD")
            for target in ("/hello.txt", "/", "/none", "/folder/", "/404.html", "/hello.txt/")
            for fields in ((), (RANGE,), ("Connection: close",), ("Accept: text/html",))
        ]

        assert await find_differences(site_root / "hello.txt", requests) == []

    async def test_every_odd_head_is_answered_alike(self, site_root: Path) -> None:
        requests = [cast(bytes, head) for row in ODD_HEADS for head in row.values]

        assert await find_differences(site_root, requests) == []

    @pytest.mark.parametrize("options", OWNERS)
    async def test_what_the_owner_wants_is_answered_alike(
        self, site_root: Path, taken: list[bytes], options: dict[str, object]
    ) -> None:
        hashed = site_root / "folder" / "index-BhbPfTHF.js"
        hashed.write_bytes(b"export {}\n")
        os.utime(hashed, ns=(MODIFIED_NS, MODIFIED_NS))
        # Different origins by turns: what is remembered for one is not for another.
        lines = {
            "GET /hello.txt": OWNED_FIELDS,
            "GET /folder/index-BhbPfTHF.js": OWNED_FIELDS[:4],
            "GET /none": (*OWNED_FIELDS[:4], *OWNED_FIELDS[-3:]),
            "GET /folder": OWNED_FIELDS[:2],
            "HEAD /hello.txt": OWNED_FIELDS[:7],
            "OPTIONS /hello.txt": OWNED_FIELDS[-1:],
            "PUT /hello.txt": OWNED_FIELDS[:2],
        }
        requests = [ask(f"{line} HTTP/1.1", *fields) for line, several in lines.items() for fields in several]

        assert await find_differences(site_root, requests, **options) == []
        assert {ask(GET, *fields) for fields in OWNED_FIELDS[:4]} <= set(taken)


# What clients say of codings: those in use, and what can be said otherwise.
CODINGS_FIELDS: list[tuple[str, ...]] = [
    (),
    ("Accept-Encoding: gzip, deflate, br, zstd",),
    ("Accept-Encoding: gzip",),
    ("accept-encoding: br;q=1.0, gzip;q=0.8, *;q=0.1",),
    ("ACCEPT-ENCODING: zstd",),
    ("Accept-Encoding: identity",),
    ("Accept-Encoding: *",),
    ("Accept-Encoding:",),
    ("Accept-Encoding:gzip",),
    ("Accept-Encoding: \tgzip \t",),
    ("Accept-Encoding: gzip;q=0",),
    ("Accept-Encoding: gzip, identity;q=0",),
    ("Accept-Encoding: *;q=0",),
    ("Accept-Encoding: gzip;q=0.5, identity",),
    ("Accept-Encoding: gzip\xe9",),
    ("Accept-Encoding: gzip", "Accept-Encoding: br"),
    ("Accept-Encoding: gzip", "accept-encoding: gzip;q=0"),
    ("Accept-Encoding: gzip", "Accept-Encoding : br"),
    ("Accept-Encoding: gzip", " br"),
    ("X-Accept-Encoding: gzip",),
    ("X: y\taccept-encoding: gzip",),
    ("Accept-Encoding: gzip", "Cache-Control: no-transform"),
    ("Accept-Encoding: gzip", "Cache-Control: max-age=0, No-Transform"),
    ("Accept-Encoding: gzip", "X: no-transform"),
    ("Accept-Encoding: br", "Connection: close"),
    ("Accept-Encoding: br", "If-None-Match: *"),
    ("Accept-Encoding: br", 'If-Match: "other"'),
    ("Accept-Encoding: br", f"If-Modified-Since: {DATE}"),
    ("Accept-Encoding: br", "Range: bytes=2-9"),
    ("Range: bytes=2-9", "Accept-Encoding: zstd", "Connection: close"),
    ("Accept-Encoding: gzip", "Range: bytes=-3", "If-Range: x"),
    ("Accept-Encoding: gzip", "Range: bytes=99999999-"),
    ("Accept-Encoding: gzip", "Range: bytes=0-1,5-6"),
    ("Accept-Encoding: gzip", "Content-Length: 0"),
    ("Accept-Encoding: gzip", "Accept: text/html"),
]

# Of what is asked for in fewer ways.
CODINGS_OF_OTHERS = [CODINGS_FIELDS[number] for number in (0, 1, 2, 11, 12, 21, 25, 28, 32, -1)]

TEXT = "".join(f"{number}: {number * number % 977} steps\n" for number in range(200)).encode()
NOISE = random.Random(4).randbytes(5_000)

FORMED_TARGETS = [
    "/made.css",
    "/beside.css",
    "/older.css",
    "/one.css",
    "/alone.css",
    "/on-the-way.css",
    "/noise.css",
    "/short.css",
    "/long.css",
    "/picture.png",
    "/beside.css.gz",
    "/to-beside.css",
    "/to-made.css",
    "/forms/",
    "/forms/index",
    "/forms/page",
    "/forms/lone",
    "/none",
]


@pytest.fixture
def forms(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with forms beside them, those of which forms are made, and those of which none is."""
    pack = dict.fromkeys(("br", "zst", "gz"), TEXT)
    pack |= {EXTENSIONS[coding][1:].decode(): compress(coding, TEXT) for coding in list_codings()}
    contents = {
        "made.css": TEXT,
        "beside.css": TEXT,
        **{f"beside.css.{extension}": data for extension, data in pack.items()},
        "older.css": TEXT,
        "older.css.gz": pack["gz"],
        "one.css": TEXT,
        "one.css.gz": pack["gz"],
        "alone.css.gz": pack["gz"],
        "on-the-way.css": TEXT * 4,
        "noise.css": NOISE,
        "short.css": TEXT[:100],
        "long.css": NOISE * 40,
        "long.css.br": NOISE * 30,
        "picture.png": TEXT,
        "picture.png.gz": pack["gz"],
        "forms/index.html": TEXT,
        "forms/page.html": TEXT,
        "forms/page.html.br": pack["br"],
        "forms/lone.html.gz": pack["gz"],
        "404.html": TEXT,
    }
    (site_root / "forms").mkdir()
    for name, content in contents.items():
        (site_root / name).write_bytes(content)
        os.utime(site_root / name, ns=(MODIFIED_NS, MODIFIED_NS))
    os.utime(site_root / "older.css.gz", ns=(MODIFIED_NS, MODIFIED_NS - 1))
    for name in ("beside", "made"):
        (site_root / f"to-{name}.css").symlink_to(f"{name}.css")
    (site_root / "to-beside.css.gz").symlink_to("beside.css.gz")
    # What is more is compressed on the way, and whoever asks first waits for what is made.
    for module in ("forms", "site"):
        monkeypatch.setattr(f"aioserve.content.{module}.MAX_BYTES", 3 * len(TEXT))
    monkeypatch.setattr("aioserve.content.forms._WAIT_S", 30)


@pytest.mark.usefixtures("forms")
class TestForms:
    """A file may be sent in one form or another, and neither way mixes them up."""

    @pytest.mark.timeout(180)
    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("GET", {}),
            ("HEAD", {}),
            ("GET", {"compress": "off"}),
            ("GET", {"precompressed": False}),
            ("GET", {"etag": "hash"}),
            ("GET", {"clean_urls": True, "spa": "forms/index.html"}),
        ],
        ids=str,
    )
    async def test_every_coding_of_every_file_is_answered_alike(
        self, site_root: Path, taken: list[bytes], method: str, options: dict[str, object]
    ) -> None:
        requests = [
            ask(f"{method} {target} HTTP/1.1", *fields)
            for target in FORMED_TARGETS
            for fields in (CODINGS_FIELDS if target in FORMED_TARGETS[:2] else CODINGS_OF_OTHERS)
        ]

        assert await find_differences(site_root, requests, **options) == []
        for name in ("made", "beside"):
            line = f"{method} /{name}.css HTTP/1.1"
            assert {ask(line, *fields) for fields in CODINGS_FIELDS[:11]} <= set(taken)

    async def test_whatever_was_asked_before(self, site_root: Path) -> None:
        """What one wants of a request line says nothing of what the next one wants of it."""
        fields = [CODINGS_FIELDS[number] for number in (0, 1, 2, 11, 28)]
        requests = [
            ask(f"GET /{name}.css HTTP/1.1", *asked)
            for name in ("made", "beside", "on-the-way", "long")
            for pair in itertools.product(fields, repeat=2)
            for asked in pair
        ]

        assert await find_differences(site_root, requests) == []


async def ask_until_taken(client: RawClient, request: bytes, taken: list[bytes]) -> AsyncIterator[Answer]:
    """The answers to `request`, up to one by the shortcut: a look may always have to wait."""
    for _ in range(100):
        yield await client.ask(request)
        if request in taken:
            return
    raise AssertionError("it is never taken")


def let_pass(server: Server, seconds: int) -> None:
    """Stops the clock, so many seconds later than it is."""
    server._clock.stop()
    server._clock.now_s += seconds


def rewrite_form(site_root: Path) -> bytes:
    (site_root / "one.css.gz").write_bytes(b"another form")
    return b"another form"


def make_form_older(site_root: Path) -> bytes:
    os.utime(site_root / "one.css.gz", ns=(MODIFIED_NS, MODIFIED_NS - 1))
    return TEXT


def make_file_newer(site_root: Path) -> bytes:
    (site_root / "one.css").write_bytes(b"newer")
    return b"newer"


def remove_form(site_root: Path) -> bytes:
    (site_root / "one.css.gz").unlink()
    return TEXT


def replace_form(site_root: Path) -> bytes:
    (site_root / "new").write_bytes(b"a third")
    (site_root / "new").rename(site_root / "one.css.gz")
    return b"a third"


def move_form_out(site_root: Path) -> bytes:
    (site_root / "one.css.gz").rename(site_root.parent / "outside.gz")
    (site_root / "one.css.gz").symlink_to("../outside.gz")
    return TEXT


@pytest.mark.usefixtures("forms")
class TestFormsThatChange:
    """What is remembered of a request line ends with each of the files that it was answered from."""

    GZIPPED = ask("GET /one.css HTTP/1.1", "Accept-Encoding: gzip")

    @pytest.mark.parametrize(
        "change",
        [rewrite_form, make_form_older, make_file_newer, remove_form, replace_form, move_form_out],
    )
    async def test_a_change_is_seen_by_the_next_request(
        self, serve: Serve, site_root: Path, taken: list[bytes], change: Callable[[Path], bytes]
    ) -> None:
        async with serve(compress="off") as server, RawClient(server.port) as client:
            packed = (site_root / "one.css.gz").read_bytes()
            async for answer in ask_until_taken(client, self.GZIPPED, taken):
                assert answer.body == packed
            content = change(site_root)
            for _ in range(5):
                answer = await client.ask(self.GZIPPED)
                assert answer.body == content
                is_file = content in (TEXT, b"newer")
                assert answer.fields.get("content-encoding") == (None if is_file else "gzip")

    async def test_of_a_file_that_is_gone_only_the_form_is_there(self, serve: Serve, site_root: Path) -> None:
        async with serve() as server, RawClient(server.port) as client:
            packed = (site_root / "one.css.gz").read_bytes()
            for _ in range(3):
                assert (await client.ask(self.GZIPPED)).body == packed
            (site_root / "one.css").unlink()
            assert (await client.ask(self.GZIPPED)).body == packed
            assert (await client.ask(ask("GET /one.css HTTP/1.1"))).body == TEXT
            (site_root / "one.css.gz").unlink()
            assert (await client.ask(self.GZIPPED)).status == 404

    async def test_of_a_file_behind_a_link_the_form_is_not_remembered_alone(
        self, serve: Serve, site_root: Path
    ) -> None:
        request = ask("GET /linked.css HTTP/1.1", "Accept-Encoding: gzip")
        (site_root / "linked.css").symlink_to("one.css")
        (site_root / "linked.css.gz").write_bytes(b"a form")
        os.utime(site_root / "linked.css.gz", ns=(MODIFIED_NS, MODIFIED_NS))
        async with serve(compress="off") as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(request)).body == b"a form"
            (site_root / "one.css").write_bytes(b"newer")
            assert (await client.ask(request)).body == b"newer"

    async def test_one_that_appears_is_seen_in_a_few_seconds(
        self, serve: Serve, site_root: Path, taken: list[bytes]
    ) -> None:
        beside = site_root / "made.css.gz"
        request = ask("GET /made.css HTTP/1.1", "Accept-Encoding: gzip")
        async with serve(compress="off") as server, RawClient(server.port) as client:
            async for answer in ask_until_taken(client, request, taken):
                assert answer.body == TEXT
            beside.write_bytes(b"a form")
            let_pass(server, shortcuts_module._FORMS_AGAIN_S + 1)
            assert (await client.ask(request)).body == b"a form"

    async def test_a_better_one_that_appears_is_seen_in_a_few_seconds(
        self, serve: Serve, site_root: Path
    ) -> None:
        request = ask("GET /one.css HTTP/1.1", "Accept-Encoding: gzip, br")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(request)).fields["content-encoding"] == "gzip"
            (site_root / "one.css.br").write_bytes(b"small")
            let_pass(server, shortcuts_module._FORMS_AGAIN_S + 1)
            assert (await client.ask(request)).body == b"small"

    async def test_one_that_appears_takes_the_place_of_what_was_made(
        self, serve: Serve, site_root: Path
    ) -> None:
        request = ask("GET /made.css HTTP/1.1", "Accept-Encoding: gzip")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(request)).fields["content-encoding"] == "gzip"
            (site_root / "made.css.gz").write_bytes(b"a form")
            let_pass(server, shortcuts_module._FORMS_AGAIN_S + 1)
            assert (await client.ask(request)).body == b"a form"

    async def test_what_was_made_of_a_file_ends_with_it(
        self, serve: Serve, site_root: Path, taken: list[bytes]
    ) -> None:
        request = ask("GET /made.css HTTP/1.1", "Accept-Encoding: gzip")
        async with serve() as server, RawClient(server.port) as client:
            for number in range(5):
                content = TEXT + b"%d" % number
                (site_root / "made.css").write_bytes(content)
                taken.clear()
                async for answer in ask_until_taken(client, request, taken):
                    assert gzip.decompress(answer.body) == content
            (site_root / "made.css").unlink()
            assert (await client.ask(request)).status == 404


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the behaviours ask for."""
    if not CASES.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the cases have to be at hand in CI")
        pytest.skip("the cases are not at hand")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, CASES / "run_behaviours.py", "--make", folder], check=True)
    return folder / "root"


def read_cases(name: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((CASES / name).read_text())[key]
    return rows


class TestCases:
    """The same for what other projects' suites and the standards ask."""

    @pytest.mark.timeout(180)
    async def test_every_request_stream_is_answered_alike(self, tree: Path, taken: list[bytes]) -> None:
        rows = read_cases("http1_requests.json", "cases")

        assert await find_differences(tree, [base64.b64decode(row["raw_b64"]) for row in rows]) == []
        assert taken

    @pytest.mark.timeout(180)
    async def test_every_behaviour_is_the_same(self, tree: Path, taken: list[bytes]) -> None:
        rows = [row["request"] for row in read_cases("behaviours.json", "rows")]
        requests = [
            ask(
                f"{row['method']} {row['target']} HTTP/{row['version']}".encode().decode("latin-1"),
                *(f"{name}: {value}".encode().decode("latin-1") for name, value in row["headers"]),
            )
            for row in rows
        ]

        assert await find_differences(tree, requests) == []
        assert len(taken) > len(rows)


class TestLimits:
    """What the long way refuses, the shortcut does not let pass."""

    async def test_a_known_line_and_known_fields_can_be_too_much_together(self, site_root: Path) -> None:
        long_line, long_fields = f"GET /hello.txt?{'a' * 200} HTTP/1.1", f"X: {'y' * 700}"
        async with Server(site_root, 0, head_bytes=900) as server, RawClient(server.port) as client:
            for request in (ask(long_line), ask(GET, long_fields)):
                for _ in range(3):
                    assert (await client.ask(request)).status == 200

            assert (await client.ask(ask(long_line, long_fields))).status == 431
            assert await client.read_to_end() == b""

    async def test_a_line_that_is_too_long_is_414(self, site_root: Path) -> None:
        async with Server(site_root, 0, request_line_bytes=100) as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(HELLO)).status == 200

            assert (await client.ask(ask(f"GET /hello.txt?{'a' * 100} HTTP/1.1"))).status == 414
            assert await client.read_to_end() == b""


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that have woken the coroutine of their connection."""
    original, heads = Connection._answer, list[bytes]()

    async def answer(self: Connection, head: bytes) -> bool:
        heads.append(head)
        return await original(self, head)

    monkeypatch.setattr(Connection, "_answer", answer)
    return heads


class TestTaken:
    """Where it has to be taken: otherwise all of this would be true of a server without one."""

    @pytest.mark.parametrize(
        ("line", "fields", "status"),
        [
            pytest.param(GET, (), 200, id="GET"),
            pytest.param(HEAD, (), 200, id="HEAD"),
            pytest.param(GET, (f"If-None-Match: {ETAG}",), 304, id="304 by a tag"),
            pytest.param(HEAD, (f"If-Modified-Since: {DATE}",), 304, id="304 by a date, HEAD"),
            pytest.param("GET /empty.txt HTTP/1.1", (), 200, id="an empty file"),
            pytest.param("GET / HTTP/1.1", CHROME, 200, id="an index, a browser's"),
            pytest.param("GET /folder/?a=b HTTP/1.1", FIREFOX, 200, id="a query, another browser's"),
        ],
    )
    async def test_the_second_time_no_coroutine_is_woken(
        self, serve: Serve, wakeups: list[bytes], line: str, fields: tuple[str, ...], status: int
    ) -> None:
        method = line.partition(" ")[0]
        async with serve() as server, RawClient(server.port) as client:
            await client.ask(ask(line, *fields), method)
            wakeups.clear()
            for _ in range(3):
                assert (await client.ask(ask(line, *fields), method)).status == status

        assert wakeups == []

    async def test_the_same_browser_is_known_with_each_known_file_and_each_browser_with_each(
        self, serve: Serve, wakeups: list[bytes]
    ) -> None:
        lines = [
            f"GET /{name} HTTP/1.1" for name in ("hello.txt", "", "folder/", "bare/hello.txt", "404.html")
        ]
        async with serve() as server, RawClient(server.port) as client:
            for line in lines:
                await client.ask(ask(line, *CHROME))
            wakeups.clear()
            for number in range(20):
                for line in lines:
                    agent = f"User-Agent: browser/{number}"
                    assert (await client.ask(ask(line, agent, *CHROME[1:]))).status == 200

        assert wakeups == []

    async def test_another_connection_knows_what_one_has_asked(
        self, serve: Serve, wakeups: list[bytes]
    ) -> None:
        async with serve() as server, RawClient(server.port) as one, RawClient(server.port) as other:
            await one.ask(HELLO)
            await other.ask(NEXT)
            wakeups.clear()
            assert (await other.ask(HELLO)).body == HELLO_BODY

        assert wakeups == []

    @pytest.mark.parametrize(
        ("line", "fields", "status", "size_bytes"),
        [
            pytest.param("GET /large.bin HTTP/1.1", (), 200, MIB, id="a large file"),
            pytest.param("GET /large.bin HTTP/1.1", (RANGE,), 206, 70_000, id="a range of it"),
            pytest.param(
                "GET /large.bin HTTP/1.1", ("Range: bytes=0-",), 206, MIB, id="all of it as a range"
            ),
            pytest.param(
                "GET /large.bin HTTP/1.1", ("Range: bytes=1048576-",), 416, None, id="what it lacks"
            ),
            pytest.param(GET, ("range: bytes=1-2",), 206, 2, id="a range of a small file"),
            pytest.param(GET, ("Range: bytes=-2",), 206, 2, id="its end"),
            pytest.param(ABSENT, (), 404, None, id="404"),
            pytest.param(ABSENT, CHROME, 404, None, id="404 as a page"),
            pytest.param("HEAD /none/ HTTP/1.1", (), 404, 0, id="404 to HEAD"),
        ],
    )
    @pytest.mark.parametrize("closes", [False, True])
    async def test_neither_is_it_to_read_what_is_large_partial_absent_or_the_last(
        self,
        serve: Serve,
        site_root: Path,
        wakeups: list[bytes],
        line: str,
        fields: tuple[str, ...],
        status: int,
        size_bytes: int | None,
        closes: bool,
    ) -> None:
        (site_root / "404.html").unlink()
        method = line.partition(" ")[0]
        if closes:
            fields = (*(field for field in fields if "Connection" not in field), "Connection: close")
        request = ask(line, *fields)
        async with serve() as server:
            async with RawClient(server.port) as client:
                await client.ask(request, method)
            wakeups.clear()
            for _ in range(10):
                async with RawClient(server.port) as client:
                    await client.ask(HELLO)
                    answer = await client.ask(request, method)
                    assert answer.status == status
                    assert size_bytes is None or len(answer.body) == size_bytes
                    assert answer.fields.get("connection") == ("close" if closes else None)
                    client.end()
                    assert await client.read_to_end() == b""

        # A kernel that is busy may say that it has not in memory what it has.
        assert wakeups.count(request) < 10

    async def test_a_file_that_has_changed_is_not_answered_as_it_was(
        self, serve: Serve, site_root: Path
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for number in range(10):
                (site_root / "hello.txt").write_bytes(b"%d\n" % number)
                for _ in range(3):
                    assert (await client.ask(HELLO)).body == b"%d\n" % number
                (site_root / "hello.txt").unlink()
                for _ in range(2):
                    assert (await client.ask(HELLO)).status == 404


def known_lines(shortcuts: Shortcuts) -> list[Known]:
    """What is remembered of request lines, for all codings that clients take."""
    return [known for lines in shortcuts._lines.values() for known in lines.values()]


def find_shortcuts(server: Server) -> Shortcuts:
    """Those that all connections of a server share."""
    (served,) = server._streams.values()
    assert served is not None
    return served._shortcuts


class TestMemory:
    """What a client can make it remember is bounded."""

    async def test_lines_blocks_and_answers_stay_few(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shortcuts_module, "_MAX_KNOWN_LINES", 100)
        monkeypatch.setattr(shortcuts_module, "_MAX_KNOWN_BLOCKS", 50)
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            shortcuts = find_shortcuts(server)
            most_blocks = 0
            for number in range(1000):
                line = f"GET /hello.txt?{number} HTTP/1.1"
                fields = (f"X: {number}", f'If-None-Match: "{number}"')
                for _ in range(2):
                    assert (await client.ask(ask(line, *fields))).body == HELLO_BODY

                assert len(known_lines(shortcuts)) <= 100
                most_blocks = max(most_blocks, len(shortcuts._blocks))
            (answers,) = {id(known.answers): known.answers for known in known_lines(shortcuts)}.values()
            assert len(known_lines(shortcuts)) == 100
            assert most_blocks == 50
            assert 0 < len(answers) <= 8
            assert (await client.ask(HELLO)).body == HELLO_BODY

    async def test_lines_stay_few_over_all_codings_that_clients_take(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shortcuts_module, "_MAX_KNOWN_LINES", 100)
        weights = ["1", "0.9", "0.8", "0.7", "0"]
        asked = [
            f"Accept-Encoding: br;q={br}, zstd;q={zstd}, gzip;q={gzip_}, identity;q={identity}"
            for br, zstd, gzip_, identity in itertools.product(weights, weights, weights, weights[:-1])
        ]
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            shortcuts = find_shortcuts(server)
            for number, field in enumerate(asked):
                for line in (GET, f"GET /hello.txt?{number} HTTP/1.1"):
                    assert (await client.ask(ask(line, field))).body == HELLO_BODY

                assert len(known_lines(shortcuts)) <= 100
            assert len(known_lines(shortcuts)) == 100
            # As many as there are orders of four weights, and nothing.
            assert len(shortcuts._lines) <= 150
            assert (await client.ask(HELLO)).body == HELLO_BODY

    async def test_names_that_are_absent_stay_few(
        self, serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (site_root / "404.html").unlink()
        monkeypatch.setattr(shortcuts_module, "_MAX_ABSENT", 50)
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            shortcuts = find_shortcuts(server)
            for number in range(500):
                for fields in ((), ("Accept: text/html",), ("Accept: a/b",)):
                    assert (await client.ask(ask(f"GET /{number} HTTP/1.1", *fields))).status == 404

                assert len(shortcuts._absent) <= 50
            assert (await client.ask(ask(f"GET /{'n' * 600} HTTP/1.1"))).status == 404
            assert all(len(line) <= 512 for line in shortcuts._absent)
            assert all(len(absent.answers) <= 2 for absent, _ in shortcuts._absent.values())

    async def test_of_ranges_nothing_is_remembered(self, serve: Serve) -> None:
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            for line in (GET, "GET /large.bin HTTP/1.1"):
                await client.ask(ask(line))
            shortcuts = find_shortcuts(server)
            blocks = set(shortcuts._blocks)
            for number in range(300):
                for line in (GET, "GET /large.bin HTTP/1.1"):
                    await client.ask(ask(line, f"Range: bytes=1-{number + 1}"))

            assert set(shortcuts._blocks) == blocks
            assert all(len(known.answers) <= 1 for known in known_lines(shortcuts))

    async def test_lines_are_remembered_without_their_fields(self, serve: Serve, site_root: Path) -> None:
        (site_root / "404.html").unlink()
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            for number in range(50):
                # At once, and by the coroutine, which takes larger heads.
                for fields in ([f"X: {number}"] * 50, [f"X: {'y' * 20_000}"]):
                    for line in (f"GET /hello.txt?{number}{len(fields)} HTTP/1.1", f"GET /{number} HTTP/1.1"):
                        await client.ask(ask(line, *fields))
            shortcuts = find_shortcuts(server)
            requests = [known.request for known in known_lines(shortcuts)]
            requests += [request for _, request in shortcuts._absent.values()]

            assert len(requests) >= 100
            assert not any(request.fields.values for request in requests)

    async def test_one_request_with_many_ranges_is_one_block(self, serve: Serve) -> None:
        async with serve(log_format="off") as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            blocks = find_shortcuts(server)._blocks
            before = len(blocks)
            for number in range(3):
                await client.ask(ask(GET, *[f"Range: bytes={number}-"] * 98))

                assert len(blocks) <= before + 1 + number

    async def test_a_file_that_the_cache_has_let_go_is_not_held_by_its_request_line(
        self, serve: Serve, site_root: Path
    ) -> None:
        size_bytes, cache_bytes = 50_000, 500_000
        names = [f"file{number}.bin" for number in range(100)]
        for name in names:
            (site_root / name).write_bytes(os.urandom(size_bytes))
        async with (
            serve(log_format="off", cache_size=cache_bytes) as server,
            RawClient(server.port) as client,
        ):
            for name in names:
                for _ in range(2):
                    assert len((await client.ask(ask(f"GET /{name} HTTP/1.1"))).body) == size_bytes
            lines = known_lines(find_shortcuts(server))
            all_kept = [known.match.kept for known in lines]
            contents = {kept.key: kept.variant.handle.data for kept in all_kept}

            assert len(lines) == len(names)
            assert sum(len(data) for data in contents.values() if data is not None) <= cache_bytes

    @pytest.mark.parametrize(
        "line",
        [pytest.param("GET /large.bin HTTP/1.1", id="a large file"), pytest.param(GET, id="a small one")],
    )
    async def test_a_client_that_asks_without_reading_costs_little(
        self, serve: Serve, site_root: Path, line: str
    ) -> None:
        (site_root / "hello.txt").write_bytes(LARGE[:60_000])
        async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
            await client.ask(ask(line))
            (stream,) = server._streams
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with RawClient(server.port) as other:
                for _ in range(1000):
                    client.writer.write(ask(line))
                    await other.ask(NEXT)

                    assert stream._transport.get_write_buffer_size() <= 200_000
                    assert len(stream._buffer) <= 400_000
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(1000):
                assert (await client.read_answer()).status == 200


class TestSlowReaders:
    async def test_each_answer_arrives_whole_and_in_its_place(
        self, serve: Serve, site_root: Path, taken: list[bytes]
    ) -> None:
        contents = [os.urandom(60_000) for _ in range(5)]
        requests = [ask(f"GET /file{number}.bin HTTP/1.1") for number in range(5)]
        for number, content in enumerate(contents):
            (site_root / f"file{number}.bin").write_bytes(content)
        async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
            await client.ask(NEXT)
            (stream,) = server._streams
            # Less than one answer fits, so that each is sent in part.
            sending = stream._transport.get_extra_info("socket")
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
            async with RawClient(server.port) as other:
                for request in requests:
                    await other.ask(request)
                taken.clear()
                for request in requests * 4:
                    client.writer.write(request)
                    await other.ask(NEXT)
                for content in contents * 4:
                    assert (await client.read_answer()).body == content
                assert (await client.ask(HELLO)).body == HELLO_BODY

        assert requests[0] in taken


Exchanges = Callable[[], list[Exchange]]


@pytest.fixture
def exchanges(caplog: pytest.LogCaptureFixture) -> Exchanges:
    """Gives all exchanges so far."""
    caplog.set_level(logging.INFO, "aioserve.access")
    return lambda: [
        record.__dict__["exchange"] for record in caplog.records if record.name == "aioserve.access"
    ]


class TestExchanges:
    """An exchange by the shortcut is told like any other."""

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(HELLO, id="GET"),
            pytest.param(ask(HEAD, *FIREFOX), id="HEAD, a browser's"),
            pytest.param(ask(GET, f"If-None-Match: {ETAG}", "Referer:"), id="304 and an empty Referer"),
            pytest.param(ask(GET, "User-Agent: \xe9", "Referer: a", "Referer: b"), id="two of Referer"),
            pytest.param(
                ask("GET http://b/?\xc3\xbc HTTP/1.1".encode("latin-1").decode("ascii", "ignore")),
                id="absolute-form",
            ),
            pytest.param(ask("GET /%68ello.txt?a=%20 HTTP/1.1", *CHROME), id="encoded, with a query"),
        ],
    )
    async def test_it_says_the_same(
        self, serve: Serve, exchanges: Exchanges, wakeups: list[bytes], head: bytes
    ) -> None:
        method = head.partition(b" ")[0].decode()
        before_s = time.time()
        async with serve() as server, RawClient(server.port) as client, RawClient(server.port) as other:
            await other.send(head[:-1])
            await client.ask(NEXT)
            await other.ask(b"\n", method)  # the long way
            await client.ask(head, method)
            woken = len(wakeups)
            await client.ask(head, method)
        long, *_, short = (one for one in exchanges() if b"/folder/" not in one.request_line.encode())

        assert len(wakeups) == woken
        assert before_s <= short.at_s <= time.time()
        assert short.duration_s >= 0
        assert short._replace(at_s=0, duration_s=0) == long._replace(at_s=0, duration_s=0)

    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param(ask("GET /large.bin HTTP/1.1", "Referer: b"), id="a large file"),
            pytest.param(ask("GET /large.bin HTTP/1.1", RANGE, *FIREFOX), id="a range of it"),
            pytest.param(ask("GET /large.bin HTTP/1.1", "Connection: close"), id="a large file and the last"),
            pytest.param(ask("HEAD /large.bin HTTP/1.1", RANGE), id="HEAD of a large file"),
            pytest.param(ask("GET /large.bin HTTP/1.1", "Range: bytes=1048576-"), id="416"),
            pytest.param(ask(GET, "Connection: close", "User-Agent: a"), id="a small one and the last"),
            pytest.param(ask(GET, "Range: bytes=1-2", "Referer: a"), id="a range of a small one"),
            pytest.param(ask(ABSENT, *CHROME), id="404 as a page"),
            pytest.param(ask("HEAD /none HTTP/1.1", "Connection: close"), id="404 to HEAD and the last"),
        ],
    )
    async def test_it_says_the_same_of_what_is_large_partial_absent_or_the_last(
        self, serve: Serve, site_root: Path, exchanges: Exchanges, wakeups: list[bytes], request_: bytes
    ) -> None:
        (site_root / "404.html").unlink()
        method = request_.partition(b" ")[0].decode()
        before_s = time.time()
        async with serve() as server:
            for times in range(11):
                async with RawClient(server.port) as client:
                    await client.ask(HELLO)
                    await client.send(request_[: len(request_) - (not times)])
                    if not times:
                        await client.ask(b"\n", method)  # the long way
                    else:
                        await client.read_answer(method)
            assert is_at_once(wakeups, request_, 11)
            await wait_until(lambda: not server._streams)
        long, *others = (
            one._replace(duration_s=0)
            for one in exchanges()
            if one.request_line != GET or one.referer or one.user_agent
        )

        assert before_s <= long.at_s <= others[0].at_s <= time.time()
        assert {one._replace(at_s=0) for one in others} == {long._replace(at_s=0)}

    @pytest.mark.parametrize("fields", [(), ("Connection: close",)])
    async def test_a_client_that_leaves_early_is_told_as_such(
        self, serve: Serve, exchanges: Exchanges, fields: tuple[str, ...]
    ) -> None:
        async with serve() as server:
            async with RawClient(server.port, timeout_s=PATIENCE_S) as client:
                await client.ask(ask("GET /huge.bin HTTP/1.1"))
            for _ in range(10):
                async with RawClient(server.port) as client:
                    await client.ask(HELLO)
                    announced = await begin_transfer(client, "/huge.bin", *fields)
                await wait_until(lambda: not server._streams)
        whole, *broken = (one for one in exchanges() if one.request_line != GET)

        assert (whole.is_whole, whole.sent_bytes) == (True, announced)
        assert [(one.status, one.is_whole) for one in broken] == [(200, False)] * 10
        assert all(0 < one.sent_bytes < announced for one in broken)


class TestLife:
    """An answer by the shortcut keeps a connection as alive as any other."""

    async def test_each_one_gives_the_client_its_whole_time_again(
        self, serve: Serve, taken: list[bytes]
    ) -> None:
        async with serve(keepalive_timeout_s=1000) as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            (stream,) = server._streams
            before = asyncio.get_running_loop().time()
            stream.deadline = before + 1
            taken.clear()
            await client.ask(HELLO)

            assert taken == [HELLO]
            assert before + 1000 <= stream.deadline <= asyncio.get_running_loop().time() + 1000

    async def test_a_client_that_is_was_just_answered_does_not_make_way(self, serve: Serve) -> None:
        async with serve(keepalive_timeout_busy_s=10) as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            (served,) = server._streams.values()
            assert served is not None
            served._idle_since = 0
            await client.ask(HELLO)
            served.hurry(asyncio.get_running_loop().time() + 9)

            assert (await client.ask(HELLO)).body == HELLO_BODY
            served.hurry(asyncio.get_running_loop().time() + 10)
            assert await client.read_to_end() == b""

    async def test_a_stop_ends_it_when_it_is_idle(self, serve: Serve, taken: list[bytes]) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                await client.ask(HELLO)
            assert taken
            await server.stop()

            assert await client.read_to_end() == b""

    async def test_a_client_that_leaves_without_reading_harms_nobody(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as other:
            await other.ask(HELLO)
            for _ in range(20):
                async with RawClient(server.port) as client:
                    await client.ask(HELLO)
                    await client.send(HELLO)
                    connected = client.writer.get_extra_info("socket")
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            assert (await other.ask(HELLO)).body == HELLO_BODY
            await wait_until(lambda: len(server._streams) == 1)


def is_at_once(wakeups: list[bytes], request: bytes, times: int) -> bool:
    """Whether the coroutine was not needed each time: a kernel that is busy may say so once."""
    return wakeups.count(request) < times


class TestAbsent:
    """What was looked for in vain is seen by the next request once it is there."""

    @pytest.fixture(autouse=True)
    def no_page(self, site_root: Path, files_of_long_ago: None) -> None:
        (site_root / "404.html").unlink()

    @pytest.mark.parametrize("is_same", [True, False], ids=["same connection", "another"])
    @pytest.mark.parametrize(
        ("target", "make", "status", "body"),
        [
            pytest.param("/new", lambda path: path.write_bytes(b"new"), 200, b"new", id="a file"),
            pytest.param("/new", lambda path: path.write_bytes(LARGE), 200, LARGE, id="a large file"),
            pytest.param("/new", Path.mkdir, 308, b"", id="a folder"),
            pytest.param(
                "/new", lambda path: path.symlink_to("hello.txt"), 200, HELLO_BODY, id="a link to a file"
            ),
            pytest.param("/new", lambda path: path.symlink_to("folder"), 308, b"", id="a link to a folder"),
            pytest.param(
                "/new/hello.txt",
                lambda path: path.symlink_to("folder"),
                200,
                HELLO_BODY,
                id="a link on its way",
            ),
            pytest.param(
                "/new/hello.txt",
                lambda path: shutil.copytree(path.with_name("folder"), path),
                200,
                HELLO_BODY,
                id="a folder on its way",
            ),
            pytest.param(
                "/new/", lambda path: path.symlink_to("folder"), 200, b"<!doctype html>", id="an index"
            ),
            pytest.param(
                "/none",
                lambda path: path.with_name("404.html").write_bytes(b"page"),
                404,
                b"page",
                id="a page for what is absent",
            ),
            pytest.param(
                "/.hidden",
                lambda path: path.with_name("404.html").write_bytes(b"page"),
                404,
                b"page",
                id="a page for what is hidden",
            ),
        ],
    )
    async def test_what_appears_is_found(
        self,
        serve: Serve,
        site_root: Path,
        wakeups: list[bytes],
        target: str,
        make: Callable[[Path], object],
        status: int,
        body: bytes,
        is_same: bool,
    ) -> None:
        request = ask(f"GET {target} HTTP/1.1")
        async with serve() as server, RawClient(server.port) as client, RawClient(server.port) as other:
            await other.ask(request)
            absent = await client.ask(request)
            wakeups.clear()
            for _ in range(10):
                assert (await client.ask(request)).body == absent.body
            assert is_at_once(wakeups, request, 10)
            make(site_root / "new")
            answer = await (client if is_same else other).ask(request)

            assert absent.status == 404
            assert answer.status == status
            assert answer.body.startswith(body)

    async def test_a_link_that_leads_nowhere_is_followed_when_it_leads_somewhere(
        self, serve: Serve, site_root: Path
    ) -> None:
        (site_root / "link").symlink_to("new")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(ask("GET /link HTTP/1.1"))).status == 404
            (site_root / "new").write_bytes(b"new")

            assert (await client.ask(ask("GET /link HTTP/1.1"))).body == b"new"

    async def test_a_file_that_comes_and_goes_is_there_as_often(
        self, serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, looks = Files.is_absent, list[bool]()

        def is_absent(files: Files, absent: Absent) -> bool:
            looks.append(original(files, absent))
            return looks[-1]

        monkeypatch.setattr(Files, "is_absent", is_absent)
        async with serve() as server, RawClient(server.port) as client, RawClient(server.port) as other:
            for number in range(50):
                for one in (client, other, client):
                    assert (await one.ask(ask(ABSENT))).status == 404
                (site_root / "none").write_bytes(b"%d" % number)
                for one in (other, client, other)[number % 3 :]:
                    assert (await one.ask(ask(ABSENT))).body == b"%d" % number
                (site_root / "none").unlink()

        assert {True, False} <= set(looks)

    async def test_another_root_is_looked_in(
        self, site_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Its name is looked up by each request instead of once a second.
        monkeypatch.setattr(files_module, "_ROOT_LOOK_S", 0)
        current, other = tmp_path / "current", tmp_path / "other"
        shutil.copytree(site_root, other)
        (other / "none").write_bytes(b"here")
        current.symlink_to(site_root)
        async with serve_all(Server(current, 0)) as server, RawClient(server.port) as client:
            for number in range(6):
                answers = [await client.ask(ask(ABSENT)) for _ in range(3)]
                assert {answer.status for answer in answers} == {200 if number % 2 else 404}
                (tmp_path / "new").symlink_to(site_root if number % 2 else other)
                (tmp_path / "new").rename(current)


class TestFormsThatAppear:
    """Compressed forms beside a file: those that are not there may come, and are looked for now and then."""

    CODED = ask(GET, "Accept-Encoding: br, gzip")

    @pytest.fixture
    def decided(self, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
        """The requests whose answers were decided, and not remembered."""
        decided: list[Request] = []
        respond = Site.respond

        def take_note(site: Site, request: Request, now_s: int) -> Response:
            decided.append(request)
            return respond(site, request, now_s)

        monkeypatch.setattr(Site, "respond", take_note)
        return decided

    @pytest.mark.parametrize("there", ["", "hello.txt.br"])
    async def test_as_long_as_none_comes_nothing_is_decided_anew(
        self,
        serve: Serve,
        site_root: Path,
        files_of_long_ago: None,
        decided: list[Request],
        monkeypatch: pytest.MonkeyPatch,
        there: str,
    ) -> None:
        monkeypatch.setattr(shortcuts_module, "_FORMS_AGAIN_S", -1)
        if there:
            (site_root / there).write_bytes(b"x")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(10):
                await client.ask(self.CODED)
            decided.clear()
            for _ in range(10):
                assert (await client.ask(self.CODED)).body == (b"x" if there else HELLO_BODY)

        # A kernel that is busy may say that it has to look.
        assert len(decided) < 10

    @pytest.mark.parametrize("there", ["", "hello.txt.br"])
    async def test_one_that_comes_is_sent(
        self,
        serve: Serve,
        site_root: Path,
        files_of_long_ago: None,
        monkeypatch: pytest.MonkeyPatch,
        there: str,
    ) -> None:
        monkeypatch.setattr(shortcuts_module, "_FORMS_AGAIN_S", -1)
        if there:
            (site_root / there).write_bytes(b"long")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(self.CODED)).body == (b"long" if there else HELLO_BODY)
            (site_root / "hello.txt.gz").write_bytes(b"x")
            answer = await client.ask(self.CODED)

        assert (answer.fields["content-encoding"], answer.body) == ("gzip", b"x")


class TestLargeFiles:
    """Their beginning is sent from where the request arrives, and what is left by the coroutine."""

    @pytest.fixture
    def begun(self, monkeypatch: pytest.MonkeyPatch) -> list[Begun]:
        """The answers that were begun where their request arrived, and left to the coroutine."""
        original, answers = Connection._begin, list[Begun]()

        def begin(connection: Connection, *arguments: Any) -> None:
            original(connection, *arguments)
            if connection._begun is not None and connection._begun.rest is not None:
                answers.append(connection._begun)

        monkeypatch.setattr(Connection, "_begin", begin)
        return answers

    @asynccontextmanager
    async def transfer(
        self, server: Server, begun: list[Begun], *fields: str
    ) -> AsyncIterator[tuple[RawClient, int]]:
        """A client that has read the head of /huge.bin, begun so, and the length that it announces."""
        async with RawClient(server.port, timeout_s=PATIENCE_S) as client:
            await client.ask(ask("GET /huge.bin HTTP/1.1"))  # the kernel has it in memory from now on
        for _ in range(20):
            async with RawClient(server.port, timeout_s=PATIENCE_S) as client:
                await client.ask(HELLO)
                announced = await begin_transfer(client, "/huge.bin", *fields)
                if begun:
                    yield client, announced
                    return
        raise AssertionError("no answer was begun")

    @pytest.mark.parametrize(
        ("change", "content"),
        [
            pytest.param(lambda path: path.write_bytes(LARGE[::-1]), LARGE[::-1], id="rewritten"),
            pytest.param(lambda path: os.truncate(path, 300_000), LARGE[:300_000], id="truncated"),
            pytest.param(lambda path: os.truncate(path, 5), LARGE[:5], id="truncated to a small one"),
            pytest.param(lambda path: path.with_name("part.bin").replace(path), PART_BODY, id="replaced"),
            pytest.param(lambda path: path.unlink(), None, id="deleted"),
        ],
    )
    @pytest.mark.parametrize("fields", [(), ("Range: bytes=3-",)], ids=["whole", "range"])
    async def test_one_that_has_changed_is_not_answered_as_it_was(
        self,
        serve: Serve,
        site_root: Path,
        change: Callable[[Path], object],
        content: bytes | None,
        fields: tuple[str, ...],
    ) -> None:
        (site_root / "part.bin").write_bytes(PART_BODY)
        request = ask("GET /large.bin HTTP/1.1", *fields)
        start = 3 if fields else 0
        async with serve() as server, RawClient(server.port) as client, RawClient(server.port) as other:
            await other.ask(HELLO)
            for _ in range(3):
                assert (await client.ask(request)).body == LARGE[start:]
            change(site_root / "large.bin")
            for one in (client, other):
                answer = await one.ask(request)

                if content is None:
                    assert answer.status == 404
                else:
                    assert answer.body == content[start:]

    async def test_one_that_cannot_be_read_any_more_is_503(self, serve: Serve, site_root: Path) -> None:
        request = ask("GET /large.bin HTTP/1.1")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                assert (await client.ask(request)).status == 200
            take_away(site_root / "large.bin")

            assert (await client.ask(request)).status == 503
            assert (await client.ask(HELLO)).body == HELLO_BODY

    async def test_requests_behind_it_are_answered_in_their_order(
        self, serve: Serve, begun: list[Begun]
    ) -> None:
        requests = [HELLO, ask("GET /large.bin HTTP/1.1", RANGE), ask(HEAD), ask("GET /large.bin HTTP/1.1")]
        async with serve() as server, self.transfer(server, begun) as (client, announced):
            await client.send(b"".join(requests))
            await client.send(HELLO)

            assert await client.reader.readexactly(announced) == bytes(64 * MIB)
            assert (await client.read_answer()).body == HELLO_BODY
            assert (await client.read_answer()).body == LARGE[5:70_005]
            assert (await client.read_answer("HEAD")).status == 200
            assert (await client.read_answer()).body == LARGE
            assert (await client.read_answer()).body == HELLO_BODY
            assert (await client.ask(HELLO)).body == HELLO_BODY

    async def test_who_asks_meanwhile_waits_in_the_kernel(self, serve: Serve, begun: list[Begun]) -> None:
        async with serve() as server, self.transfer(server, begun) as (client, announced):
            (stream,) = server._streams
            await client.send(HELLO)
            await wait_until(lambda: stream.has_data)

            assert stream._is_reading_paused
            await client.reader.readexactly(announced)
            assert (await client.read_answer()).body == HELLO_BODY

    @pytest.mark.parametrize("fields", [(), ("Connection: close",)])
    async def test_a_server_that_stops_sends_the_rest(
        self, serve: Serve, begun: list[Begun], fields: tuple[str, ...]
    ) -> None:
        async with serve() as server, self.transfer(server, begun, *fields) as (client, announced):
            stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
            await wait_until(lambda: server._is_draining)

            assert await client.reader.readexactly(announced) == bytes(64 * MIB)
            client.end()
            assert await client.read_to_end() == b""
            await stopping

    async def test_a_client_that_leaves_leaves_nothing_open(
        self, serve: Serve, site_root: Path, begun: list[Begun]
    ) -> None:
        def count() -> int:
            return Counter(open_descriptors().values())[str(site_root / "huge.bin")]

        async with serve() as server:
            async with self.transfer(server, begun):
                pass
            await wait_until(lambda: not server._streams)

            assert count() == 1  # the one that is kept
        assert count() == 0

    async def test_a_server_that_is_cancelled_leaves_nothing_open(
        self, serve: Serve, site_root: Path, begun: list[Begun], exchanges: Exchanges
    ) -> None:
        async with serve() as server, self.transfer(server, begun) as (client, announced):
            before = len(exchanges())
            await server.stop(grace_s=0)

            assert len(await read_what_comes(client)) < announced
            (exchange,) = exchanges()[before:]
            assert (exchange.status, exchange.is_whole) == (200, False)
            assert 0 < exchange.sent_bytes < announced
        assert not is_open(site_root / "huge.bin")

    async def test_not_even_when_its_coroutine_was_just_woken(
        self, serve: Serve, site_root: Path, begun: list[Begun], exchanges: Exchanges
    ) -> None:
        async with serve() as server:
            async with self.transfer(server, begun):
                pass
            await wait_until(lambda: not server._streams)
            begun.clear()
            before = len(exchanges())
            async with RawClient(server.port) as client:
                await client.ask(HELLO)
                (stream,), (task,) = server._streams, server._tasks
                for _ in range(1000):
                    stream.data_received(ask("GET /huge.bin HTTP/1.1"))
                    if begun or stream.has_data:
                        break
                task.cancel()
                await read_what_comes(client)
                await wait_until(lambda: not server._streams)
            assert begun
            told = exchanges()[before + 1 :]

            assert [(one.status, one.is_whole) for one in told] == [(200, False)]
            assert told[0].request_line == "GET /huge.bin HTTP/1.1"
            assert told[0].sent_bytes == begun[0].sent_bytes
        assert not is_open(site_root / "huge.bin")

    async def test_one_that_shrinks_meanwhile_breaks_the_connection(
        self,
        serve: Serve,
        site_root: Path,
        begun: list[Begun],
        exchanges: Exchanges,
    ) -> None:
        async with serve() as server, self.transfer(server, begun) as (client, announced):
            os.truncate(site_root / "huge.bin", 1000)
            received = await read_what_comes(client)
            await wait_until(lambda: not exchanges()[-1].is_whole)

            assert len(received) < announced
            assert b"HTTP/1.1" not in received


class TestFirstRequests:
    """A client may be faster than the coroutine of its connection."""

    @pytest.fixture
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """Until it is set, no coroutine of a connection takes its first step."""
        original, event = Connection.run, asyncio.Event()
        event.set()

        async def run(connection: Connection) -> None:
            await event.wait()
            await original(connection)

        monkeypatch.setattr(Connection, "run", run)
        return event

    @asynccontextmanager
    async def connected(self, server: Server, steps: asyncio.Event) -> AsyncIterator[RawClient]:
        """A client whose connection exists, and waits for its first step."""
        async with RawClient(server.port) as client:
            for line in (GET, "GET /large.bin HTTP/1.1", ABSENT):
                await client.ask(ask(line))
        await wait_until(lambda: not server._streams)
        steps.clear()
        async with RawClient(server.port) as client:
            await wait_until(lambda: any(server._streams.values()))
            yield client

    async def test_what_is_known_is_answered_before(
        self, serve: Serve, steps: asyncio.Event, wakeups: list[bytes]
    ) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            wakeups.clear()
            for _ in range(3):
                assert (await client.ask(HELLO)).body == HELLO_BODY
            steps.set()
            assert (await client.ask(HELLO)).body == HELLO_BODY

        assert wakeups == []

    async def test_the_last_one_too(self, serve: Serve, steps: asyncio.Event, wakeups: list[bytes]) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            wakeups.clear()
            answer = await client.ask(ask(GET, "Connection: close"))
            await client.send(HELLO)
            steps.set()

            assert (answer.body, answer.fields["connection"]) == (HELLO_BODY, "close")
            client.end()
            assert await client.read_to_end() == b""
        assert wakeups == []

    @pytest.mark.parametrize(
        ("request_", "bodies"),
        [
            pytest.param(ask("GET /folder/hello.txt HTTP/1.1"), [HELLO_BODY], id="what is not known"),
            pytest.param(HELLO * 2, [HELLO_BODY] * 2, id="two at once"),
            pytest.param(ask("GET /large.bin HTTP/1.1") + HELLO, [LARGE, HELLO_BODY], id="a large one first"),
            pytest.param(HELLO + HELLO[:9], [HELLO_BODY], id="a part of another"),
            pytest.param(ask(GET, "Content-Length: 2") + b"ab" + HELLO, [HELLO_BODY] * 2, id="a body"),
        ],
    )
    @pytest.mark.parametrize("is_late", [True, False])
    async def test_the_coroutine_answers_everything_else(
        self, serve: Serve, steps: asyncio.Event, request_: bytes, bodies: list[bytes], is_late: bool
    ) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            if not is_late:
                steps.set()
            await client.send(request_)
            if is_late:
                await wait_until(
                    lambda: any(stream.has_data or stream.written_bytes for stream in server._streams)
                )
                steps.set()
            for body in bodies:
                assert (await client.read_answer()).body == body

    @pytest.mark.parametrize("request_", [HELLO, ask("GET /large.bin HTTP/1.1"), ask(ABSENT)])
    async def test_byte_by_byte_it_is_the_same(
        self, serve: Serve, steps: asyncio.Event, request_: bytes
    ) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            (stream,) = server._streams
            for position in range(len(request_)):
                await client.send(request_[position : position + 1])
                await asyncio.sleep(0)
            await wait_until(lambda: stream.has_data)
            assert stream.written_bytes == 0
            steps.set()
            answer = await client.read_answer()

            assert answer.body == (await client.ask(request_)).body
            assert (await client.ask(HELLO)).body == HELLO_BODY

    async def test_a_large_file_waits_for_who_closes_it(
        self, serve: Serve, site_root: Path, steps: asyncio.Event
    ) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            (stream,) = server._streams
            await client.send(ask("GET /large.bin HTTP/1.1"))
            await wait_until(lambda: stream.has_data)
            await server.stop(grace_s=0)

            assert await read_what_comes(client) == b""
        assert not is_open(site_root / "large.bin")

    async def test_who_was_answered_before_it_has_the_time_of_who_is_kept(
        self, serve: Serve, steps: asyncio.Event
    ) -> None:
        async with (
            serve(head_timeout_s=1000, keepalive_timeout_s=50_000) as server,
            self.connected(server, steps) as client,
        ):
            (stream,) = server._streams
            await client.ask(HELLO)
            steps.set()
            await wait_until(lambda: stream.is_awaited)

            assert stream.deadline > asyncio.get_running_loop().time() + 10_000

    async def test_who_asks_while_the_server_stops_is_told_that_it_is_the_last(
        self, serve: Serve, steps: asyncio.Event
    ) -> None:
        async with serve() as server, self.connected(server, steps) as client:
            (stream,) = server._streams
            stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
            await wait_until(lambda: server._is_draining)
            await client.send(HELLO)
            await wait_until(lambda: stream.has_data)
            steps.set()
            answer = await client.read_answer()

            assert (answer.body, answer.fields["connection"]) == (HELLO_BODY, "close")
            client.end()
            assert await client.read_to_end() == b""
            await stopping


class TestDefects:
    """A defect of the shortcut is told, and the coroutine goes the long way."""

    @staticmethod
    def take_defects(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
        """What the log says of defects, with the names of the exceptions."""
        records = [record for record in caplog.records if record.levelno >= logging.ERROR]
        caplog.clear()
        return [
            (record.getMessage(), record.exc_info[0].__name__)
            for record in records
            if record.exc_info and record.exc_info[0]
        ]

    async def test_one_of_its_own_costs_nobody_an_answer(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                await client.ask(HELLO)
            with monkeypatch.context() as patch:
                patch.setattr(Shortcuts, "find", fail)

                assert (await client.ask(HELLO)).body == HELLO_BODY
            assert (await client.ask(HELLO)).body == HELLO_BODY
        assert self.take_defects(caplog) == [
            ("a request was not answered at once by a defect of the server", "RuntimeError")
        ]

    async def test_one_that_the_long_way_has_too_is_500(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            monkeypatch.setattr(Site, "_plan_file", fail)
            answer = await client.ask(ask(GET, "X: y", "If-Match: x"))

            assert (answer.status, answer.fields["connection"]) == (500, "close")
            assert b"secret" not in answer.head + answer.body
            assert await client.read_to_end() == b""
        assert self.take_defects(caplog) == [
            ("a request was not answered at once by a defect of the server", "RuntimeError"),
            ("a connection ended by a defect of the server", "RuntimeError"),
        ]


def fail(*arguments: object, **options: object) -> None:
    raise RuntimeError("/secret/path")
