"""What httplint, the checks of REDbot, says of typical answers: nothing that is ours to mend."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

from aioserve.content.compression import list_codings
from tests.network.conftest import Serve
from tests.raw_client import RawClient

PAGE = b"<!doctype html><html lang=en><meta charset=utf-8><title>home</title>" + b"<p>a step</p>\n" * 500

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"


class Row(NamedTuple):
    target: str
    fields: tuple[str, ...] = ()
    status: int = 200
    method: str = "GET"
    coding: str | None = None
    complaints: tuple[str, ...] = ()


# Not ours to mend:
# "public" says that a file may be kept by others although its request had credentials.
HASHED = ("STORE_PUBLIC_UNNECESSARY",)
# RFC 9110 §15.3.7.2: in front of several parts there must not be a Content-Range.
SEVERAL_PARTS = ("PARTIAL_WITHOUT_RANGE",)
# It is told that it was malformed, and it was.
MALFORMED = ("STATUS_BAD_REQUEST",)

ROWS = {
    "a page": Row("/", (BROWSER,)),
    "a page to HEAD": Row("/", (BROWSER,), method="HEAD"),
    "a page in gzip": Row("/", ("Accept-Encoding: gzip",), coding="gzip"),
    "a page in br": Row("/", ("Accept-Encoding: br",), coding="br"),
    "a page in zstd": Row("/", ("Accept-Encoding: zstd",), coding="zstd"),
    "a page that the client has": Row("/", ("If-None-Match: *",), 304),
    "an asset": Row("/assets/app.js", ("Accept-Encoding: gzip, br",), coding="br"),
    "a hashed asset": Row("/assets/app-BhbPfTHF.js", complaints=HASHED),
    "an image": Row("/picture.png"),
    "a part of an image": Row("/picture.png", ("Range: bytes=0-99",), 206),
    "several parts": Row("/picture.png", ("Range: bytes=0-9,200-300",), 206, complaints=SEVERAL_PARTS),
    "what it lacks": Row("/picture.png", ("Range: bytes=9999999-",), 416),
    "JSON": Row("/data.json"),
    "JSON in gzip": Row("/data.json", ("Accept-Encoding: gzip",), coding="gzip"),
    "an empty file": Row("/empty.txt"),
    "what is compressed on the way": Row("/vast.css", ("Accept-Encoding: gzip",), coding="gzip"),
    "a form alone": Row("/alone.css", ("Accept-Encoding: gzip",), coding="gzip"),
    "a form alone, decoded": Row("/alone.css"),
    "a compressed file": Row("/alone.css.gz", ("Accept-Encoding: gzip",)),
    "a folder without its slash": Row("/folder", status=308),
    "a list of files": Row("/assets/", (BROWSER,)),
    "a list as JSON": Row("/assets/", ("Accept: application/json",)),
    "a list as a text": Row("/assets/", ("Accept: text/plain",)),
    "a list that the client has": Row("/assets/", ("If-None-Match: *",), 304),
    "what is missing, as a page": Row("/missing", (BROWSER,), 404),
    "what is missing, as a text": Row("/missing", status=404),
    "what has changed": Row("/", ('If-Match: "other"',), 412),
    "no form that is accepted": Row("/picture.png", ("Accept-Encoding: identity;q=0",), 406),
    "another method": Row("/", method="PUT", status=405),
    "what may be asked": Row("/", method="OPTIONS", status=204),
    "a malformed target": Row("/%", status=400, complaints=MALFORMED),
}


@pytest.fixture(autouse=True)
def files(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever asks first waits until a form is made.
    monkeypatch.setattr("aioserve.content.forms._WAIT_S", 30)
    (site_root / "assets").mkdir()
    contents = {
        "index.html": PAGE,
        "assets/app.js": b"export {}\n" * 500,
        "assets/app-BhbPfTHF.js": b"export {}\n" * 500,
        "picture.png": b"\x89PNG\r\n\x1a\n" + os.urandom(3000),
        "data.json": b"[%s]" % b", ".join(b"%d" % number for number in range(3000)),
        "empty.txt": b"",
        "vast.css": b"body { color: black }\n" * 400_000,
        "alone.css.gz": gzip.compress(b"body { color: black }\n" * 100),
    }
    for name, content in contents.items():
        (site_root / name).write_bytes(content)
        os.utime(site_root / name, (1_700_000_000, 1_700_000_000))


async def list_complaints(port: int, row: Row) -> list[str]:
    """What is said of the answer, beside what is well and what is only told."""
    head = (f"{row.method} {row.target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *row.fields, "", "")
    async with RawClient(port) as client:
        answer = await client.ask("\r\n".join(head).encode(), row.method)
    assert answer.status == row.status
    assert answer.fields.get("content-encoding") == row.coding
    request = HttpRequestLinter()
    uri = f"http://127.0.0.1:{port}{row.target}".encode()
    request.process_request_topline(row.method.encode(), uri, b"HTTP/1.1")
    request.process_headers([read_field(line.encode()) for line in head[1:-2]])
    request.finish_content(True)
    response = HttpResponseLinter(start_time=time.time(), _related=request, no_content=row.method == "HEAD")
    status_line, *lines = answer.head[:-4].split(b"\r\n")
    version, status, phrase = status_line.split(b" ", 2)
    response.process_response_topline(version, status, phrase)
    response.process_headers([read_field(line) for line in lines])
    response.feed_content(answer.body)
    response.finish_content(True)
    notes = [note for one in response.notes for note in (one, *one.subnotes)]
    assert notes
    return [type(note).__name__ for note in notes if note.level not in (levels.GOOD, levels.INFO)]


def read_field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


@pytest.mark.parametrize("name", ROWS)
async def test_there_is_nothing_to_complain_of(serve: Serve, name: str) -> None:
    row = ROWS[name]
    if row.coding not in (None, *list_codings()):
        pytest.skip("a package is not installed")
    async with serve(browse=True) as server:
        assert await list_complaints(server.port, row) == list(row.complaints)


async def test_it_would_complain(serve: Serve) -> None:
    async with serve(header=["Cache-Control: max-age=ten", "Vary: *"]) as server:
        assert await list_complaints(server.port, ROWS["an image"]) != []
