"""Compressed forms on the wire: real files with and without forms beside them, real sockets; both loops."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioserve.content import forms as forms_module
from aioserve.content.compression import compress, list_codings
from aioserve.content.files import EXTENSIONS
from aioserve.content.forms import MAX_BYTES
from tests.content.test_compression import decode, each_coding
from tests.network.breaking import read_what_comes, take_away
from tests.network.conftest import PATIENCE_S, Serve, Serving, count_open, expect_open
from tests.network.waiting import wait_until
from tests.raw_client import Answer, RawClient, get

TEXT = "".join(f"{number}: {number * number % 977} steps\n" for number in range(2_000)).encode()
VAST = TEXT * (MAX_BYTES // len(TEXT) + 1)

GZIP = "Accept-Encoding: gzip"

# What does not shrink fills the buffers between a server and a client that does not read.
NOISE_BYTES = 64 * 1024 * 1024


@pytest.fixture(autouse=True)
def texts(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site_root / "made.css").write_bytes(TEXT)
    (site_root / "vast.css").write_bytes(VAST)
    (site_root / "beside.css").write_bytes(TEXT)
    for coding in list_codings():
        extension = EXTENSIONS[coding].decode()
        (site_root / f"beside.css{extension}").write_bytes(compress(coding, TEXT))
    # Whoever asks first waits until it is made.
    monkeypatch.setattr(forms_module, "_WAIT_S", 30)


def is_plain(answer: Answer) -> bool:
    return "content-encoding" not in answer.fields


class TestNegotiation:
    """RFC 9110 §12.5.3, §8.4."""

    @each_coding
    @pytest.mark.parametrize("name", ["made.css", "beside.css", "vast.css"])
    async def test_who_takes_a_coding_gets_it(
        self, serve: Serve, site_root: Path, name: str, coding: str
    ) -> None:
        async with serve() as server:
            for _ in range(3):
                answer = await get(server.port, f"/{name}", f"Accept-Encoding: {coding}, identity;q=0.1")

                assert answer.status == 200
                assert answer.fields["content-encoding"] == coding
                assert answer.fields["content-type"] == "text/css; charset=utf-8"
                assert decode(coding, answer.body) == (site_root / name).read_bytes()

    @pytest.mark.parametrize("options", [{"precompressed": False, "compress": "off"}, {"compress": "off"}])
    async def test_what_is_switched_off_is_not_done(self, serve: Serve, options: dict[str, object]) -> None:
        async with serve(**options) as server:
            made = await get(server.port, "/made.css", GZIP)
            vast = await get(server.port, "/vast.css", GZIP)
            beside = await get(server.port, "/beside.css", GZIP)

        assert is_plain(made)
        assert is_plain(vast)
        assert is_plain(beside) == ("precompressed" in options)
        assert ("vary" in beside.fields) == ("precompressed" not in options)

    async def test_without_those_beside_them_forms_are_made(self, serve: Serve, site_root: Path) -> None:
        (site_root / "beside.css.gz").write_bytes(b"not looked at")
        async with serve(precompressed=False) as server:
            answer = await get(server.port, "/beside.css", GZIP)

        assert decode("gzip", answer.body) == TEXT

    async def test_nothing_is_transformed_for_who_does_not_want_it(self, serve: Serve) -> None:
        async with serve() as server:
            for name in ("made.css", "vast.css", "beside.css"):
                answer = await get(server.port, f"/{name}", GZIP, "Cache-Control: no-transform")

                assert is_plain(answer)
                assert answer.fields["vary"] == "Accept-Encoding"

    async def test_what_the_owner_wants_left_as_it_is_is_not_compressed(self, serve: Serve) -> None:
        async with serve(
            cache_control=["made.css: no-transform", "vast.css: max-age=1, No-Transform"]
        ) as server:
            answers = [await get(server.port, f"/{name}.css", GZIP) for name in ("made", "vast")]
            # This one is the owner's own.
            beside = await get(server.port, "/beside.css", GZIP)

        assert all(is_plain(answer) for answer in answers)
        assert beside.fields["content-encoding"] == "gzip"

    async def test_who_excludes_all_that_there_is_gets_406(self, serve: Serve) -> None:
        async with serve() as server:
            answers = [
                await get(server.port, "/hello.txt", "Accept-Encoding: gzip, identity;q=0"),
                await get(server.port, "/made.css", "Accept-Encoding: *;q=0"),
            ]

        for answer in answers:
            assert answer.status == 406
            assert answer.fields["vary"] == "Accept, Accept-Encoding"

    async def test_errors_and_redirects_have_one_form(self, serve: Serve) -> None:
        async with serve() as server:
            missing = await get(server.port, "/none", GZIP)
            moved = await get(server.port, "/folder", GZIP)

        assert (missing.status, moved.status) == (404, 308)
        assert is_plain(missing)
        assert missing.fields["vary"] == "Accept"
        assert "vary" not in moved.fields

    async def test_the_page_for_what_is_missing_is_compressed(self, serve: Serve, site_root: Path) -> None:
        (site_root / "404.html").write_bytes(TEXT)
        async with serve() as server:
            coded = await get(server.port, "/none", GZIP)
            plain = await get(server.port, "/none")

        assert decode("gzip", coded.body) == plain.body == TEXT
        assert coded.status == plain.status == 404
        assert {coded.fields["vary"], plain.fields["vary"]} == {"Accept-Encoding"}


class TestOnTheWay:
    """RFC 9112 §7.1, §6.3."""

    async def test_to_http_1_0_it_goes_until_the_end(self, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await client.send(
                b"GET /vast.css HTTP/1.0\r\nConnection: keep-alive\r\nAccept-Encoding: gzip\r\n\r\n"
            )
            head, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close" in head
        assert b"Transfer-Encoding" not in head
        assert b"Content-Length" not in head
        assert decode("gzip", body) == VAST

    async def test_another_request_follows_on_the_connection(self, serve: Serve) -> None:
        request = f"GET /vast.css HTTP/1.1\r\nHost: a\r\n{GZIP}\r\n\r\n".encode()
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(3):
                answer = await client.ask(request)
                assert decode("gzip", answer.body) == VAST
            head = await client.ask(request.replace(b"GET", b"HEAD"), "HEAD")
            assert head.fields["content-encoding"] == "gzip"
            assert (await client.ask(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"hello\n"

    async def test_a_part_is_one_of_the_file_itself(self, serve: Serve) -> None:
        async with serve() as server:
            answer = await get(server.port, "/vast.css", GZIP, "Range: bytes=5-99")

        assert (answer.status, answer.body) == (206, VAST[5:100])
        assert is_plain(answer)


async def begin(client: RawClient, target: str) -> bytes:
    """Asks for what is made on the way, and reads its head and a little more."""
    await client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n{GZIP}\r\n\r\n".encode())
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    return head + await client.reader.readexactly(100)


class TestBroken:
    """After the head nothing turns into a status: the connection is aborted, and no last chunk is sent."""

    @pytest.fixture
    def noise(self, site_root: Path) -> Path:
        """A file that is not sent whole before somebody reads it."""
        path = site_root / "noise.css"
        path.write_bytes(os.urandom(1 << 20) * (NOISE_BYTES >> 20))
        return path

    async def test_one_that_is_cut_meanwhile_aborts_the_connection(self, serve: Serve, noise: Path) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await begin(client, "/noise.css")
            os.truncate(noise, 1 << 20)
            received = await read_what_comes(client)

        assert not received.endswith(b"0\r\n\r\n")
        assert len(received) < NOISE_BYTES

    async def test_one_that_cannot_be_read_any_more_does_too(self, serve: Serve, noise: Path) -> None:
        async with serve() as server, RawClient(server.port) as client:
            await begin(client, "/noise.css")
            take_away(noise)
            received = await read_what_comes(client)

        assert not received.endswith(b"0\r\n\r\n")
        assert len(received) < NOISE_BYTES

    @each_coding
    async def test_a_form_that_is_broken_at_once_is_503(
        self, serve: Serve, site_root: Path, coding: str
    ) -> None:
        (site_root / f"lost.css{EXTENSIONS[coding].decode()}").write_bytes(b"this is none")
        async with serve() as server:
            plain = await get(server.port, "/lost.css")
            coded = await get(server.port, "/lost.css", f"Accept-Encoding: {coding}")

        assert plain.status == 503
        # Who can decode it can see for himself.
        assert (coded.status, coded.body) == (200, b"this is none")

    async def test_a_form_that_is_broken_later_aborts_the_connection(
        self, serve: Serve, site_root: Path
    ) -> None:
        (site_root / "lost.css.gz").write_bytes(gzip.compress(os.urandom(4 << 20), 0)[:-1])
        async with serve() as server, RawClient(server.port) as client:
            await client.send(b"GET /lost.css HTTP/1.1\r\nHost: a\r\n\r\n")
            received = await read_what_comes(client)

        assert received.startswith(b"HTTP/1.1 200 ")
        assert not received.endswith(b"0\r\n\r\n")

    async def test_a_client_that_leaves_leaves_nothing_open(self, serve: Serve, noise: Path) -> None:
        async with serve() as server:
            assert (await get(server.port, "/hello.txt")).status == 200
            await wait_until(lambda: not server._streams)
            before = count_open()
            async with RawClient(server.port) as client:
                await begin(client, "/noise.css")
            await expect_open(before)

    async def test_a_server_that_stops_leaves_no_task_and_nothing_open(
        self, serving: Serving, noise: Path
    ) -> None:
        tasks, before = asyncio.all_tasks(), count_open()
        server = serving()
        await server.start()
        async with RawClient(server.port) as client:
            await begin(client, "/noise.css")
            await server.stop(grace_s=0)
            received = await read_what_comes(client)
        await expect_open(before)
        await wait_until(lambda: asyncio.all_tasks() == tasks)

        assert not received.endswith(b"0\r\n\r\n")

    async def test_a_server_that_stops_has_time_to_send_the_rest(self, serving: Serving) -> None:
        server = serving()
        await server.start()
        async with RawClient(server.port) as client:
            begun = await begin(client, "/vast.css")
            stopping = asyncio.create_task(server.stop(grace_s=PATIENCE_S))
            received = begun + await client.read_to_end()
        await stopping

        assert received.endswith(b"\r\n0\r\n\r\n")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What is compressed whole waits for it."""
    gate = threading.Event()

    def wait(coding: str, data: bytes) -> bytes:
        assert gate.wait(30), "the test has left it closed"
        return compress(coding, data)

    monkeypatch.setattr(forms_module, "compress", wait)
    yield gate
    gate.set()


class TestSlow:
    async def test_whoever_comes_before_it_is_made_gets_the_file(
        self, serve: Serve, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))
        monkeypatch.setattr(forms_module, "_WAIT_S", 0.01)
        async with serve() as server:
            for _ in range(5):
                answer = await get(server.port, "/made.css", GZIP)
                assert is_plain(answer)
                assert answer.body == TEXT
            gate.set()

            for _ in range(1000):
                answer = await get(server.port, "/made.css", GZIP)
                if not is_plain(answer):
                    break
            assert decode("gzip", answer.body) == TEXT

    async def test_a_server_that_stops_meanwhile_leaves_no_task_and_nothing_open(
        self, serving: Serving, gate: threading.Event, site_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forms_module, "_WAIT_S", 0.01)
        (site_root / "made.css").write_bytes(TEXT * 10)
        tasks, before = asyncio.all_tasks(), count_open()
        server = serving()
        await server.start()
        assert is_plain(await get(server.port, "/made.css", GZIP))
        await server.stop(grace_s=0)
        await wait_until(lambda: asyncio.all_tasks() == tasks)
        gate.set()
        await expect_open(before)
