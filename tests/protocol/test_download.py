"""How a request for a folder as a download is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

import pytest

from aioserve.protocol.download import (
    Archive,
    Form,
    find_asked_form,
    format_attachment,
    plan_archive,
    plan_too_large,
    plan_unknown_form,
)
from aioserve.protocol.message import Fields, Request
from aioserve.protocol.plan import Bytes, Empty, Pieces, Plan

NOW_S = 1_700_000_000
ETAG = '"tag-zip"'


class Folder(NamedTuple):
    """An archive of digits. `size_bytes` is None for one whose length nobody knows."""

    size_bytes: int | None = 100
    form: Form = Form.ZIP
    name: str = "photos"
    etag: str = ETAG

    async def stream(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        yield f"{start}-{stop}".encode()


FOLDER = Folder()


def plan(archive: Archive = FOLDER, method: str = "GET", **fields: str) -> Plan:
    values = {name.replace("_", "-"): value for name, value in fields.items()}
    return plan_archive(
        Request(method, b"/photos/?archive=zip", (1, 1), Fields(values)), archive, now_s=NOW_S
    )


async def read(plan: Plan) -> bytes:
    assert isinstance(plan.body, Pieces)
    return b"".join([piece async for piece in plan.body.pieces])


class TestWhole:
    async def test_get_sends_all_of_it_with_all_that_is_known(self) -> None:
        answer = plan()

        assert (answer.status, dict(answer.fields)) == (
            200,
            {
                "Content-Type": "application/zip",
                "Content-Length": "100",
                "Content-Disposition": 'attachment; filename="photos.zip"',
                "ETag": ETAG,
                "Accept-Ranges": "bytes",
                "Cache-Control": "no-cache",
                "X-Content-Type-Options": "nosniff",
            },
        )
        assert await read(answer) == b"0-100"
        assert isinstance(answer.body, Pieces)
        assert answer.body.size_bytes == 100

    @pytest.mark.parametrize("size_bytes", [None, 100])
    def test_head_says_what_get_would(self, size_bytes: int | None) -> None:
        folder = Folder(size_bytes)

        assert plan(folder, "HEAD") == plan(folder)._replace(body=Empty())
        assert plan(folder, "HEAD", range="bytes=0-9") == plan(folder, "HEAD")

    @pytest.mark.parametrize(
        ("form", "content_type"),
        [
            (Form.ZIP, "application/zip"),
            (Form.TAR, "application/x-tar"),
            (Form.TAR_GZ, "application/gzip"),
            (Form.TAR_ZST, "application/zstd"),
        ],
    )
    def test_each_form_has_its_type_and_its_name(self, form: Form, content_type: str) -> None:
        fields = dict(plan(Folder(form=form)).fields)

        assert fields["Content-Type"] == content_type
        assert fields["Content-Disposition"] == f'attachment; filename="photos.{form}"'

    async def test_without_a_length_there_are_no_ranges(self) -> None:
        answer = plan(Folder(None), range="bytes=0-9")

        assert answer.status == 200
        assert dict(answer.fields)["Accept-Ranges"] == "none"
        assert "Content-Length" not in dict(answer.fields)
        assert isinstance(answer.body, Pieces)
        assert answer.body.size_bytes is None
        assert await read(answer) == b"0-None"


class TestRanges:
    """RFC 9110 §14.2."""

    @pytest.mark.parametrize(
        ("value", "start", "stop"),
        [
            pytest.param("bytes=0-", 0, 100, id="from the first byte"),
            pytest.param("bytes=40-", 40, 100, id="what is missing"),
            pytest.param("bytes=40-59", 40, 60, id="a part"),
            pytest.param("bytes=-10", 90, 100, id="the end"),
            pytest.param("bytes=10-19,20-29", 10, 30, id="several that are one"),
        ],
    )
    async def test_one_is_sent_alone(self, value: str, start: int, stop: int) -> None:
        answer = plan(range=value)

        fields = dict(answer.fields)
        assert answer.status == 206
        assert fields["Content-Range"] == f"bytes {start}-{stop - 1}/100"
        assert fields["Content-Length"] == str(stop - start)
        assert fields["ETag"] == ETAG
        assert await read(answer) == f"{start}-{stop}".encode()

    @pytest.mark.parametrize("value", ["bytes=0-9,20-29", "bytes=x", "lines=0-9"])
    def test_what_is_not_one_gets_all_of_it(self, value: str) -> None:
        assert plan(range=value).status == 200

    def test_one_behind_the_end_is_refused(self) -> None:
        answer = plan(range="bytes=100-")

        assert answer.status == 416
        assert dict(answer.fields)["Content-Range"] == "bytes */100"

    @pytest.mark.parametrize(
        ("value", "status"),
        [
            pytest.param(ETAG, 206, id="the same"),
            pytest.param('"other"', 200, id="another"),
            pytest.param(f"W/{ETAG}", 200, id="a weak one"),
            pytest.param("Tue, 14 Nov 2023 22:13:20 GMT", 200, id="a date"),
        ],
    )
    def test_if_range_wants_the_tag(self, value: str, status: int) -> None:
        assert plan(range="bytes=40-", if_range=value).status == status


class TestPreconditions:
    """RFC 9110 §13."""

    @pytest.mark.parametrize("size_bytes", [None, 100])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_who_has_it_is_told_so(self, method: str, size_bytes: int | None) -> None:
        answer = plan(Folder(size_bytes), method, if_none_match=f'"other", {ETAG}', range="bytes=0-1")

        assert answer == Plan(304, (("ETag", ETAG), ("Cache-Control", "no-cache")), Empty())

    def test_who_wants_another_is_told_so(self) -> None:
        assert plan(if_match='"other"').status == 412
        assert plan(if_match=ETAG).status == 200

    @pytest.mark.parametrize("name", ["if_modified_since", "if_unmodified_since"])
    @pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"])
    def test_a_date_says_nothing_of_many_files(self, name: str, date: str) -> None:
        assert plan(FOLDER, "GET", **{name: date}).status == 200


class TestRefusals:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_they_say_what_is_possible(self, method: str) -> None:
        request = Request(method, b"/?archive=rar", (1, 1), Fields({}))
        unknown = plan_unknown_form(request, ("zip", "tar"))
        large = plan_too_large(request, 1000)

        assert (unknown.status, large.status) == (400, 413)
        if method == "GET":
            assert unknown.body == Bytes(b"400 archive= can be one of zip, tar\n")
            assert isinstance(large.body, Bytes)
            assert b"1000 files" in large.body.data
        else:
            assert unknown.body == large.body == Empty()


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (None, None),
        (b"", None),
        (b"archive", None),
        (b"archives=zip", None),
        (b"x=archive=zip", None),
        (b"archive=zip", "zip"),
        (b"archive=", ""),
        (b"x=1&archive=tar.gz&archive=zip", "tar.gz"),
        (b"archive=\xff", "ÿ"),
    ],
)
def test_what_a_query_asks_for(query: bytes | None, asked: str | None) -> None:
    assert find_asked_form(query) == asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("a b.zip", 'filename="a b.zip"', id="plain"),
        pytest.param("ž.zip", "filename=\"_.zip\"; filename*=UTF-8''%C5%BE.zip", id="not ascii"),
        pytest.param('a"b\\c.zip', "filename=\"a_b_c.zip\"; filename*=UTF-8''a%22b%5Cc.zip", id="quotes"),
        pytest.param("50%.zip", "filename=\"50_.zip\"; filename*=UTF-8''50%25.zip", id="a percent sign"),
        pytest.param("a\r\nb.zip", "filename=\"a__b.zip\"; filename*=UTF-8''a%0D%0Ab.zip", id="a line break"),
        pytest.param("a;b='c'.zip", "filename=\"a;b='c'.zip\"", id="separators"),
        pytest.param("\udcff.zip", "filename=\"_.zip\"; filename*=UTF-8''%3F.zip", id="no character"),
    ],
)
def test_a_download_is_named_in_both_forms(name: str, value: str) -> None:
    assert format_attachment(name) == f"attachment; {value}"
