"""`--etag hash` on the wire: tags and digests of all forms, on several machines, and what becomes of dates.

A client here believes nothing: it hashes what it gets.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from aioserve import Server
from aioserve.content.compression import compress
from aioserve.content.handle import read_at
from aioserve.protocol.conditional import format_http_date
from tests.network.conftest import LARGE, PATIENCE_S, Serve, count_open, expect_open, serve_all
from tests.raw_client import Answer, RawClient

# Long ago, but after the dates that mean nothing.
MODIFIED_S = 1_600_000_000

# More than is compressed and kept.
LONG_TEXT = b"".join(b"line %d of a long text\n" % number for number in range(400_000))
SCRIPT = b"".join(b"export const value%d = %d;\n" % (number, number) for number in range(2000))
PAGE = b"<!doctype html><title>page</title>\n" * 100

WANTS = "Want-Repr-Digest: sha-256=10"
GZIP = "Accept-Encoding: gzip"


def set_times(root: Path, modified_s: int) -> None:
    for path in root.rglob("*"):
        os.utime(path, (modified_s, modified_s))


@pytest.fixture(autouse=True)
def site(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with each kind of form."""
    # Nobody goes on without a form of a file because the machine is busy.
    monkeypatch.setattr("aioserve.content.forms._WAIT_S", PATIENCE_S)
    (site_root / "huge.bin").unlink()
    (site_root / "script.js").write_bytes(SCRIPT)
    (site_root / "page.html").write_bytes(PAGE)
    (site_root / "page.html.gz").write_bytes(gzip.compress(PAGE, mtime=0))
    (site_root / "orphan.css.gz").write_bytes(gzip.compress(PAGE, mtime=0))
    (site_root / "long.txt").write_bytes(LONG_TEXT)
    set_times(site_root, MODIFIED_S)


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a change cannot be set, so the rule for files that were changed lately is."""
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))


async def get(port: int, target: str, *fields: str, method: str = "GET") -> Answer:
    """One request on a connection of its own; what is sent in chunks is put together."""
    lines = (f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", *fields, "", "")
    async with RawClient(port, timeout_s=PATIENCE_S) as client:
        await client.send("\r\n".join(lines).encode())
        head, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")
    status, *rest = head.decode().split("\r\n")
    values = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    if "transfer-encoding" in values:
        body = b"".join(list_chunks(body))
    return Answer(int(status.split()[1]), values, body, head)


def list_chunks(body: bytes) -> Iterator[bytes]:
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            return
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def read_digest(answer: Answer) -> bytes:
    value = answer.fields["repr-digest"]
    assert value.startswith("sha-256=:")
    assert value.endswith(":")
    return base64.b64decode(value[9:-1])


FORMS = [
    pytest.param("/hello.txt", (), None, id="a small file"),
    pytest.param("/script.js", (), None, id="a file that is hashed in a thread"),
    pytest.param("/large.bin", (), None, id="a file that is read while it is sent"),
    pytest.param("/page.html", (GZIP,), "gzip", id="a compressed form beside its file"),
    pytest.param("/page.html.gz", (), None, id="that by its own name"),
    pytest.param("/script.js", (GZIP,), "gzip", id="a form that was made"),
    pytest.param("/orphan.css", (GZIP,), "gzip", id="a compressed form alone"),
    pytest.param("/folder/", (), None, id="an index"),
]

STREAMED = [
    pytest.param("/long.txt", (GZIP,), "gzip", LONG_TEXT, id="compressed on the way"),
    pytest.param("/orphan.css", (), None, PAGE, id="decoded on the way"),
]


class TestDigest:
    """RFC 9530 §3 and §4."""

    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "just changed"])
    @pytest.mark.parametrize(("target", "fields", "coding"), FORMS)
    async def test_it_is_that_of_the_bytes_that_are_sent(
        self,
        serve: Serve,
        request: pytest.FixtureRequest,
        target: str,
        fields: tuple[str, ...],
        coding: str | None,
        kept: bool,
    ) -> None:
        if kept:
            request.getfixturevalue("long_ago")
        async with serve(etag="hash") as server:
            answers = [await get(server.port, target, WANTS, *fields) for _ in range(3)]
            head = await get(server.port, target, WANTS, *fields, method="HEAD")

        assert {answer.fields.get("content-encoding") for answer in answers} == {coding}
        assert {read_digest(answer) for answer in (*answers, head)} == {sha256(answers[0].body).digest()}
        assert {answer.fields["etag"] for answer in (*answers, head)} == {answers[0].fields["etag"]}
        assert {answer.body for answer in answers} == {answers[0].body}

    @pytest.mark.parametrize(("target", "fields", "coding", "content"), STREAMED)
    async def test_what_is_made_on_the_way_has_a_tag_and_no_digest(
        self, serve: Serve, target: str, fields: tuple[str, ...], coding: str | None, content: bytes
    ) -> None:
        async with serve(etag="hash") as server:
            answer = await get(server.port, target, WANTS, *fields)
            again = await get(server.port, target, *fields, f"If-None-Match: {answer.fields['etag']}")

        assert answer.fields.get("content-encoding") == coding
        assert (zlib.decompress(answer.body, 31) if coding else answer.body) == content
        assert answer.fields["etag"].endswith('-made"')
        assert "repr-digest" not in answer.fields
        assert again.status == 304

    @pytest.mark.parametrize("ranges", ["0-9", "500000-", "-1", "0-0,5-9"])
    async def test_of_a_part_it_is_that_of_the_whole(self, serve: Serve, ranges: str) -> None:
        async with serve(etag="hash") as server:
            answer = await get(server.port, "/large.bin", WANTS, f"Range: bytes={ranges}")

        assert answer.status == 206
        assert read_digest(answer) == sha256(LARGE).digest()

    async def test_who_does_not_want_it_does_not_get_it(self, serve: Serve) -> None:
        async with serve(etag="hash") as server:
            for fields in ((), ("Want-Repr-Digest: sha-512=3",), ("Want-Repr-Digest: sha-256=0",)):
                for _ in range(3):
                    assert "repr-digest" not in (await get(server.port, "/hello.txt", *fields)).fields

    @pytest.mark.parametrize(
        ("target", "fields", "status"),
        [
            ("/hello.txt", ("If-None-Match: *",), 304),
            ("/hello.txt", ('If-Match: "other"',), 412),
            ("/hello.txt", ("Range: bytes=99-",), 416),
            ("/none", (), 404),
            ("/folder", (), 308),
        ],
    )
    async def test_an_answer_that_does_not_send_the_file_has_none(
        self, serve: Serve, target: str, fields: tuple[str, ...], status: int
    ) -> None:
        async with serve(etag="hash") as server:
            answer = await get(server.port, target, WANTS, *fields)

        assert answer.status == status
        assert "repr-digest" not in answer.fields

    async def test_without_hashes_there_is_none(self, serve: Serve) -> None:
        async with serve() as server:
            assert "repr-digest" not in (await get(server.port, "/hello.txt", WANTS)).fields


class TestTags:
    """RFC 9110 §8.8.3."""

    @pytest.mark.parametrize("target", ["/page.html", "/script.js", "/long.txt", "/orphan.css"])
    async def test_each_form_has_its_own(self, serve: Serve, target: str) -> None:
        async with serve(etag="hash") as server:
            tags = [
                (await get(server.port, target, *fields)).fields["etag"]
                for fields in ((), (GZIP,), (), (GZIP,))
            ]

        assert tags[:2] == tags[2:]
        assert tags[0] != tags[1]

    async def test_equal_contents_have_equal_ones_under_all_names(
        self, serve: Serve, site_root: Path
    ) -> None:
        shutil.copy(site_root / "large.bin", site_root / "copy.bin")
        async with serve(etag="hash") as server:
            tags = {(await get(server.port, target)).fields["etag"] for target in ("/large.bin", "/copy.bin")}

        assert len(tags) == 1

    async def test_a_page_for_an_error_is_not_hashed(
        self, serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (site_root / "404.html").write_bytes(LARGE)
        monkeypatch.delattr("aioserve.content.digests.read_at")
        async with serve(etag="hash") as server:
            answer = await get(server.port, "/none", WANTS)

        assert (answer.status, answer.body) == (404, LARGE)
        assert "etag" not in answer.fields

    async def test_a_file_that_is_being_written_has_one_of_the_moment(
        self, serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioserve.content.digests._MAX_RACY_BYTES", 0)
        async with serve(etag="hash") as server:
            first = await get(server.port, "/large.bin", WANTS)
            same = await get(server.port, "/large.bin", f"If-None-Match: {first.fields['etag']}")
            with (site_root / "large.bin").open("r+b") as file:
                file.write(b"!")
            os.utime(site_root / "large.bin", (MODIFIED_S, MODIFIED_S))
            changed = await get(server.port, "/large.bin", f"If-None-Match: {first.fields['etag']}")

        assert first.fields["etag"].endswith('-changing"')
        assert "repr-digest" not in first.fields
        assert (same.status, changed.status) == (304, 200)
        assert changed.body == b"!" + LARGE[1:]

    async def test_a_file_that_cannot_be_read_is_503(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(descriptor: int, offset: int, size_bytes: int) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("aioserve.content.digests.read_at", fail)
        async with serve(etag="hash") as server:
            failed = await get(server.port, "/large.bin")
            small = await get(server.port, "/hello.txt")

        assert (failed.status, small.status) == (503, 200)

    async def test_nothing_stays_open(self, serve: Serve) -> None:
        before = count_open()
        async with serve(etag="hash") as server:
            for _ in range(3):
                for target in ("/hello.txt", "/large.bin", "/long.txt", "/page.html", "/orphan.css"):
                    await get(server.port, target, WANTS, GZIP)
        await expect_open(before)


class TestCopies:
    """The same content on several machines, whatever their times and inodes."""

    @pytest.fixture
    def copy(self, site_root: Path, tmp_path: Path) -> Path:
        copy = tmp_path / "copy"
        shutil.copytree(site_root, copy)
        set_times(copy, MODIFIED_S + 86_400)
        return copy

    @pytest.mark.parametrize(("target", "fields", "coding"), FORMS)
    async def test_they_have_equal_tags(
        self, serve: Serve, copy: Path, target: str, fields: tuple[str, ...], coding: str | None
    ) -> None:
        async with serve(etag="hash") as one, serve_all(Server(copy, 0, etag="hash")) as other:
            tag = (await get(one.port, target, *fields)).fields["etag"]
            again = await get(other.port, target, *fields, f"If-None-Match: {tag}")

        assert (again.status, again.fields["etag"]) == (304, tag)

    @pytest.mark.parametrize(("target", "content"), [("/large.bin", LARGE), ("/hello.txt", b"hello\n")])
    async def test_what_one_has_begun_another_goes_on_with(
        self, serve: Serve, copy: Path, target: str, content: bytes
    ) -> None:
        half = len(content) // 2
        async with serve(etag="hash") as one, serve_all(Server(copy, 0, etag="hash")) as other:
            begun = await get(one.port, target, f"Range: bytes=0-{half - 1}")
            tag = begun.fields["etag"]
            rest = await get(other.port, target, f"Range: bytes={half}-", f"If-Range: {tag}", WANTS)

        assert (begun.status, rest.status) == (206, 206)
        assert begun.body + rest.body == content
        assert read_digest(rest) == sha256(content).digest()

    async def test_of_another_content_the_whole_is_sent(self, serve: Serve, copy: Path) -> None:
        (copy / "large.bin").write_bytes(LARGE[::-1])
        set_times(copy, MODIFIED_S)
        async with serve(etag="hash") as one, serve_all(Server(copy, 0, etag="hash")) as other:
            tag = (await get(one.port, "/large.bin")).fields["etag"]
            rest = await get(other.port, "/large.bin", "Range: bytes=5-", f"If-Range: {tag}")

        assert (rest.status, rest.body) == (200, LARGE[::-1])


class TestTimes:
    """They are no validators: copies have any, and files of a store all have one."""

    @pytest.mark.parametrize("target", ["/hello.txt", "/large.bin", "/script.js"])
    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "just changed"])
    async def test_an_edit_with_its_time_restored_is_noticed(
        self, serve: Serve, site_root: Path, request: pytest.FixtureRequest, target: str, kept: bool
    ) -> None:
        if kept:
            request.getfixturevalue("long_ago")
        path = site_root / target[1:]
        async with serve(etag="hash") as server:
            for fields in ((), (GZIP,)):
                old = [await get(server.port, target, *fields) for _ in range(2)][-1]
                times = os.stat(path)
                path.write_bytes(path.read_bytes()[::-1])
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
                new = await get(server.port, target, *fields, f"If-None-Match: {old.fields['etag']}", WANTS)
                body = zlib.decompress(new.body, 31) if "content-encoding" in new.fields else new.body

                assert new.status == 200
                assert body == path.read_bytes()
                assert read_digest(new) == sha256(new.body).digest()

    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "just changed"])
    async def test_a_form_of_what_was_there_before_is_not_waited_for(
        self,
        serve: Serve,
        site_root: Path,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
        kept: bool,
    ) -> None:
        if kept:
            request.getfixturevalue("long_ago")
        begun, gate = threading.Event(), threading.Event()

        def compress_slowly(coding: str, data: bytes) -> bytes:
            if data == SCRIPT:
                begun.set()
                assert gate.wait(PATIENCE_S)
            return compress(coding, data)

        monkeypatch.setattr("aioserve.content.forms.compress", compress_slowly)
        path = site_root / "script.js"
        try:
            async with serve() as server:
                first = asyncio.create_task(get(server.port, "/script.js", GZIP))
                await asyncio.to_thread(begun.wait, PATIENCE_S)
                path.write_bytes(SCRIPT[::-1])
                os.utime(path, (MODIFIED_S, MODIFIED_S))
                second = await get(server.port, "/script.js", GZIP)
                gate.set()
                old = await first
        finally:
            gate.set()

        assert zlib.decompress(old.body, 31) == SCRIPT
        assert zlib.decompress(second.body, 31) == SCRIPT[::-1]

    @pytest.mark.usefixtures("long_ago")
    async def test_a_store_that_is_switched_is_noticed(self, tmp_path: Path) -> None:
        """As Nix does it: all files have the time 1, and a link leads to another folder."""
        for name, content in (("one", b"one"), ("two", b"two")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.txt").write_bytes(content)
            set_times(tmp_path / name, 1)
        (tmp_path / "now").symlink_to("one")
        async with serve_all(Server(tmp_path / "now", 0, etag="hash")) as server:
            old = await get(server.port, "/a.txt")
            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").rename(tmp_path / "now")
            answers = [old]
            while answers[-1].body != b"two":
                answers.append(await get(server.port, "/a.txt"))
            tagged = await get(server.port, "/a.txt", f"If-None-Match: {old.fields['etag']}")
            new = answers[-1]
            dated = await get(
                server.port, "/a.txt", f"If-Modified-Since: {format_http_date(MODIFIED_S + 10**8)}"
            )

        assert (tagged.status, dated.status) == (200, 200)
        assert (tagged.body, dated.body) == (b"two", b"two")
        assert new.fields["etag"] != old.fields["etag"]

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            pytest.param((f"If-Modified-Since: {format_http_date(MODIFIED_S)}",), 200, id="since then"),
            pytest.param((f"If-Unmodified-Since: {format_http_date(0)}",), 200, id="not since 1970"),
            pytest.param(
                ("Range: bytes=0-1", f"If-Range: {format_http_date(MODIFIED_S)}"), 200, id="a part by date"
            ),
        ],
    )
    @pytest.mark.usefixtures("long_ago")
    async def test_a_condition_with_a_date_is_ignored(
        self, serve: Serve, fields: tuple[str, ...], status: int
    ) -> None:
        async with serve(etag="hash") as server:
            answers = [await get(server.port, "/hello.txt", *fields) for _ in range(3)]

        assert [(answer.status, answer.body) for answer in answers] == [(status, b"hello\n")] * 3

    @pytest.mark.parametrize(
        ("modified_s", "is_told"),
        [
            pytest.param(0, False, id="OSTree"),
            pytest.param(1, False, id="Nix"),
            pytest.param(315_532_800, False, id="zip"),
            pytest.param(315_532_800 + 43_200, False, id="zip in a zone of the west"),
            pytest.param(315_619_200, True, id="a day later"),
            pytest.param(MODIFIED_S, True, id="a date like others"),
        ],
    )
    async def test_a_date_that_stands_for_none_is_not_told(
        self, serve: Serve, site_root: Path, modified_s: int, is_told: bool
    ) -> None:
        set_times(site_root, modified_s)
        async with serve(etag="hash") as hashing, serve() as timing:
            hashed, timed = [await get(server.port, "/hello.txt") for server in (hashing, timing)]

        assert ("last-modified" in hashed.fields) == is_told
        assert timed.fields["last-modified"] == format_http_date(modified_s)


async def test_a_long_file_that_is_being_hashed_delays_nobody_else(
    serve: Serve, site_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def wait_and_read(descriptor: int, offset: int, size_bytes: int) -> bytes:
        assert gate.wait(PATIENCE_S)
        return read_at(descriptor, offset, size_bytes)

    monkeypatch.setattr("aioserve.content.digests.read_at", wait_and_read)
    try:
        async with (
            serve(etag="hash") as server,
            RawClient(server.port, timeout_s=PATIENCE_S) as client,
        ):
            await client.send(b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n")
            others = [await get(server.port, target) for target in ("/hello.txt", "/script.js", "/none")]
            gate.set()
            large = await client.read_answer()
    finally:
        gate.set()

    assert [answer.status for answer in others] == [200, 200, 404]
    assert large.body == LARGE
