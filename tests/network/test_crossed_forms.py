"""Forms, preconditions and ranges crossed, on the wire: each form of a file by each condition by each range.

What an answer has to be is decided here by a few lines of RFC 9110 §13.2.2. Each request is sent to a server
that may know it already, whole, and in two pieces, which always goes the long way.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import AsyncIterator, Callable
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import NamedTuple

import pytest

from aioserve.content import forms as forms_module
from aioserve.content.compression import compress, list_codings
from aioserve.content.files import EXTENSIONS
from aioserve.content.forms import MAX_BYTES
from aioserve.protocol.conditional import format_http_date
from tests.content.test_compression import decode
from tests.network.conftest import Serve
from tests.raw_client import Answer, RawClient

MODIFIED_S = 1_700_000_000
DATE, EARLIER = (format_http_date(MODIFIED_S + shift) for shift in (0, -1))

TEXT = "".join(f"{number}: {number * number % 977} steps\n" for number in range(2_000)).encode()
VAST = TEXT * (MAX_BYTES // len(TEXT) + 1)

TAG = "{tag}"

TAGS = (TAG, f'"x", {TAG}', '"other"', "*")

CONDITIONS: list[tuple[str, str] | None] = [
    None,
    *((name, value) for name in ("If-None-Match", "If-Match") for value in TAGS),
    *((name, date) for name in ("If-Modified-Since", "If-Unmodified-Since") for date in (DATE, EARLIER)),
]

# Which of them are not fulfilled, and which tell that the client has it.
FAILED = [("If-Match", '"other"'), ("If-Unmodified-Since", EARLIER)]
CURRENT = [*(("If-None-Match", value) for value in TAGS if value != '"other"'), ("If-Modified-Since", DATE)]

# What they ask for of so many bytes, as half-open spans; None when they ask for nothing.
RANGES: dict[str | None, Callable[[int], list[tuple[int, int]] | None]] = {
    None: lambda size: None,
    "bytes=2-5": lambda size: [(2, 6)],
    "bytes=-3": lambda size: [(size - 3, size)],
    "bytes=100-": lambda size: [(100, size)],
    "bytes=0-1,7-9,-2": lambda size: [(0, 2), (7, 10), (size - 2, size)],
    "bytes=99999999-": lambda size: [],
    "bytes=5-2": lambda size: None,
    "lines=1-2": lambda size: None,
}

IF_RANGES = [None, TAG, '"other"', DATE, EARLIER]


class Form(NamedTuple):
    """A form of a file, as a client gets it who asks for nothing else."""

    target: str
    accept: str
    coding: str | None
    tag: str
    body: bytes
    has_parts: bool


@pytest.fixture(autouse=True)
def files_of_long_ago(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text, its like with forms beside it, one of which only a form is there, and a vast one."""
    for name, content in (("made.css", TEXT), ("beside.css", TEXT), ("vast.css", VAST)):
        (site_root / name).write_bytes(content)
    for coding in list_codings():
        packed = compress(coding, TEXT)
        for name in ("beside.css", f"alone-{coding}.css"):
            (site_root / name).with_suffix(f".css{EXTENSIONS[coding].decode()}").write_bytes(packed)
    for path in site_root.rglob("*"):
        os.utime(path, (MODIFIED_S, MODIFIED_S))
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))
    # Whoever asks first waits until it is made.
    monkeypatch.setattr(forms_module, "_WAIT_S", 30)


def make_head(form: Form, method: str, *fields: tuple[str, str] | None) -> bytes:
    lines = [f"{method} {form.target} HTTP/1.1", "Host: a", f"Accept-Encoding: {form.accept}"]
    lines += [f"{name}: {value.replace(TAG, form.tag)}" for name, value in filter(None, fields)]
    return "\r\n".join((*lines, "", "")).encode()


def expect_status(method: str, condition: tuple[str, str] | None, spans: list[tuple[int, int]] | None) -> int:
    """RFC 9110 §13.2.2; `spans` are those that stand after If-Range."""
    if condition in FAILED:
        return 412
    if condition in CURRENT:
        return 304
    if method == "HEAD" or spans is None:
        return 200
    return 206 if spans else 416


def check(answer: Answer, form: Form, status: int, spans: list[tuple[int, int]] | None, method: str) -> None:
    assert answer.status == status
    names = {name.strip() for name in answer.fields["vary"].lower().split(",")}
    assert "accept-encoding" in names
    if method == "HEAD" or status == 304:
        assert answer.body == b""
    if status in (412, 416):
        assert "content-encoding" not in answer.fields
        assert "etag" not in answer.fields
        assert method == "HEAD" or int(answer.fields["content-length"]) == len(answer.body)
        if status == 416:
            assert answer.fields["content-range"] == f"bytes */{len(form.body)}"
        return
    assert answer.fields["etag"] == form.tag
    if status == 304:
        assert not {"content-length", "content-encoding", "content-range"} & set(answer.fields)
        return
    assert answer.fields.get("content-encoding") == form.coding
    if status == 200:
        assert "content-range" not in answer.fields
        if form.has_parts:
            assert int(answer.fields["content-length"]) == len(form.body)
        else:
            assert "content-length" not in answer.fields
        assert method == "HEAD" or answer.body == form.body
        return
    assert spans is not None
    assert int(answer.fields["content-length"]) == len(answer.body)
    parts = [(answer.fields, answer.body)] if len(spans) == 1 else split_parts(answer)
    for (fields, body), (start, stop) in zip(parts, spans, strict=True):
        assert fields["content-range"] == f"bytes {start}-{stop - 1}/{len(form.body)}"
        assert body == form.body[start:stop]


def split_parts(answer: Answer) -> list[tuple[Message | dict[str, str], bytes]]:
    """The parts of multipart/byteranges, read by others."""
    match = re.fullmatch(r"multipart/byteranges; boundary=([0-9a-f]{32})", answer.fields["content-type"])
    assert match is not None
    boundary = match[1].encode()
    first, *parts, last = answer.body.split(b"\r\n--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    found: list[tuple[Message | dict[str, str], bytes]] = []
    for part in parts:
        head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found.append((BytesParser().parsebytes(head), body))
    return found


async def fetch_form(client: RawClient, target: str, accept: str, content: bytes) -> Form:
    """The form as it comes to who asks for nothing else; it has to be one of the content."""
    form = Form(target, accept, None, "", b"", has_parts=True)
    answer = await client.ask(make_head(form, "GET"))
    assert answer.status == 200
    coding = answer.fields.get("content-encoding")
    assert (answer.body if coding is None else decode(coding, answer.body)) == content
    has_parts = "content-length" in answer.fields
    assert answer.fields["accept-ranges"] == ("bytes" if has_parts else "none")
    return form._replace(coding=coding, tag=answer.fields["etag"], body=answer.body, has_parts=has_parts)


async def ask_both_ways(client: RawClient, head: bytes, method: str) -> AsyncIterator[Answer]:
    yield await client.ask(head, method)
    yield await client.ask(head, method)
    await client.send(head[:-1])
    yield await client.ask(head[-1:], method)


async def check_all(client: RawClient, form: Form, of_parts: Form) -> None:
    """All that can be asked of a form. `of_parts` is the one that is sent to who asks for a Range without an
    If-Range that can be fulfilled."""
    # Who cannot have a part gets the whole, whatever is asked for.
    wanted_ranges = list(RANGES)[1:] if of_parts.has_parts else ["bytes=2-5", "bytes=99999999-"]
    ranges = [(None, None), *itertools.product(wanted_ranges, IF_RANGES)]
    for method, condition, (wanted, if_range) in itertools.product(("GET", "HEAD"), CONDITIONS, ranges):
        is_resumed = form.has_parts and if_range is not None
        chosen = form if wanted is None or is_resumed else of_parts
        spans = RANGES[wanted](len(chosen.body)) if chosen.has_parts else None
        stands = spans if if_range in (None, TAG, DATE) else None
        fields = (
            condition,
            None if wanted is None else ("Range", wanted),
            None if if_range is None else ("If-Range", if_range),
        )
        head = make_head(chosen, method, *fields)
        async for answer in ask_both_ways(client, head, method):
            check(answer, chosen, expect_status(method, condition, stands), stands, method)


@pytest.mark.asyncio(loop_factories=["asyncio"])  # what is decided knows of no loop
@pytest.mark.timeout(180)
@pytest.mark.parametrize("coding", ["identity", *list_codings()])
class TestCrossed:
    """RFC 9110 §13.2.2, §14.2, §15.3.7, §15.4.5."""

    @pytest.mark.parametrize("target", ["/beside.css", "/made.css"])
    async def test_no_answer_mixes_the_forms_of_a_file(
        self, serve: Serve, taken: list[bytes], target: str, coding: str
    ) -> None:
        async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
            form = await fetch_form(client, target, coding, TEXT)
            assert (form.coding or "identity") == coding
            assert form.has_parts
            of_parts = form
            if target == "/made.css":
                # Who asks for a part without a tag means one of the file.
                plain = await fetch_form(client, target, "identity", TEXT)
                of_parts = plain._replace(accept=coding)
            await check_all(client, form, of_parts)

        assert len(taken) > 100

    async def test_nor_of_one_of_which_only_a_form_is_there(self, serve: Serve, coding: str) -> None:
        target = f"/alone-{list_codings()[0] if coding == 'identity' else coding}.css"
        async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
            form = await fetch_form(client, target, coding, TEXT)
            assert (form.coding or "identity") == coding
            assert form.has_parts == (coding != "identity")
            await check_all(client, form, form)


@pytest.mark.asyncio(loop_factories=["asyncio"])  # what is decided knows of no loop
@pytest.mark.timeout(180)
async def test_what_is_made_on_the_way_has_no_parts_and_the_file_has(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole of it is sent a thousand times.
    for module in ("forms", "site"):
        monkeypatch.setattr(f"aioserve.content.{module}.MAX_BYTES", len(TEXT) - 1)
    async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
        plain = await fetch_form(client, "/made.css", "identity", TEXT)
        form = await fetch_form(client, "/made.css", "gzip", TEXT)
        assert form.coding == "gzip"
        assert not form.has_parts
        await check_all(client, form, plain._replace(accept="gzip"))


async def test_a_vast_one_is_sent_in_chunks_and_in_parts(serve: Serve) -> None:
    async with serve(log_format="off") as server, RawClient(server.port, timeout_s=30) as client:
        form = await fetch_form(client, "/vast.css", "gzip", VAST)
        assert form.coding == "gzip"
        assert not form.has_parts
        async for answer in ask_both_ways(client, make_head(form, "GET", ("Range", "bytes=5-500000")), "GET"):
            assert answer.status == 206
            assert answer.body == VAST[5:500_001]
            assert "content-encoding" not in answer.fields
        async for answer in ask_both_ways(client, make_head(form, "GET"), "GET"):
            assert answer.body == form.body
            assert answer.fields["transfer-encoding"] == "chunked"
