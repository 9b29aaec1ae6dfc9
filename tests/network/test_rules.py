"""Rules on the wire: real files of rules in a real root, real sockets; both loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioserve import Server
from aioserve.network.shortcuts import Shortcuts
from aioserve.protocol.rules import Rules
from tests.network.conftest import Serve
from tests.raw_client import Answer, RawClient, get

HELLO = b"hello\n"
HOME = b"<!doctype html><title>home</title>\n"
FOLDER = b"<!doctype html><title>folder</title>\n"
LOST = b"<!doctype html><title>lost</title>\n"


@pytest.fixture(autouse=True)
def files_of_long_ago(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made just now would not be kept: its time of change cannot be set, so that rule is."""
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))


def replace(path: Path, text: str) -> None:
    """Another file under that name, in one step."""
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


async def renew(server: Server) -> None:
    """What the server does once a second, and what follows from it."""
    while server._renewing is not None:
        await asyncio.wait([server._renewing])
    server._sweep(asyncio.get_running_loop().time())
    while server._renewing is not None:
        await asyncio.wait([server._renewing])


async def ask_hello(client: RawClient) -> Answer:
    return await client.ask(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n")


class TestRedirects:
    """RFC 9110 §15.4."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_missing_path_leads_elsewhere(self, site_root: Path, serve: Serve, status: int) -> None:
        (site_root / "_redirects").write_text(f"/old/*  /new/:splat  {status}\n")
        async with serve() as server:
            answer = await get(server.port, "/old/a%20b/?q=1")

        assert (answer.status, answer.body) == (status, b"")
        assert answer.fields["location"] == "/new/a%20b/?q=1"
        assert answer.fields["content-length"] == "0"

    async def test_no_splat_leads_to_another_host(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/x/* /:splat\n")
        async with serve() as server:
            for target in (
                "/x//evil.example",
                "/x/%5Cevil.example",
                "/x/%09/evil.example",
                "/x///evil.example/",
            ):
                answer = await get(server.port, target)

                assert re.fullmatch(r"/[^/\\\\][!-~]*", answer.fields["location"])

    async def test_no_splat_makes_another_field(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/x/* /:splat\n")
        async with serve() as server:
            answer = await get(server.port, "/x/a%0D%0ASet-Cookie:%20b=c")

        assert "set-cookie" not in answer.fields
        assert answer.fields["location"] == "/a%0D%0ASet-Cookie:%20b=c"

    async def test_a_file_comes_before_a_rule(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/* /elsewhere\n")
        async with serve() as server:
            assert (await get(server.port, "/hello.txt")).body == HELLO
            assert (await get(server.port, "/")).body == HOME
            assert (await get(server.port, "/folder")).fields["location"] == "./folder/"
            assert (await get(server.port, "/none")).status == 301
            assert (await get(server.port, "/bare/")).status == 301

    async def test_a_rule_by_force_comes_before_a_file(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/hello.txt /elsewhere 302!\n")
        async with serve() as server:
            for _ in range(2):
                answer = await get(server.port, "/hello.txt")
                assert (answer.status, answer.fields["location"]) == (302, "/elsewhere")

    async def test_head_is_led_as_get_is(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/a /b\n")
        async with serve() as server:
            answer = await get(server.port, "/a", method="HEAD")

        assert (answer.status, answer.fields["location"]) == (301, "/b")

    async def test_other_methods_are_not_led(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/a /b 307!\n")
        async with serve() as server:
            assert (await get(server.port, "/a", method="POST")).status == 405
            assert (await get(server.port, "/a", method="OPTIONS")).status == 204

    async def test_each_host_has_its_rules(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("https://old.example/hello.txt https://new.example/ 301!\n")
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(2):
                for host, status in (("old.example", 301), ("OLD.example:80", 301), ("new.example", 200)):
                    answer = await client.ask(f"GET /hello.txt HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                    assert (host, answer.status) == (host, status)

    async def test_the_configuration_has_rules_too(self, serve: Serve) -> None:
        rules = [{"from": "/a", "to": "/b", "status": 302}]
        async with serve(redirects=rules) as server:
            assert (await get(server.port, "/a")).fields["location"] == "/b"

    async def test_a_root_that_is_a_file_has_those_of_the_configuration(self, site_root: Path) -> None:
        rules = [{"from": "/a", "to": "/hello.txt"}]
        async with Server(site_root / "hello.txt", redirects=rules) as server:
            assert (await get(server.port, "/a")).fields["location"] == "/hello.txt"
            assert (await get(server.port, "/hello.txt")).body == HELLO


class TestRewrites:
    async def test_another_file_is_sent_under_the_same_address(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/app/* /index.html 200\n")
        async with serve() as server:
            answer = await get(server.port, "/app/page/1")

            assert (answer.status, answer.body) == (200, HOME)
            assert answer.fields["content-type"] == "text/html; charset=utf-8"
            again = await get(server.port, "/app/page/2", f"If-None-Match: {answer.fields['etag']}")
            assert again.status == 304

    @pytest.mark.parametrize("target", ["/folder", "/folder/", "/folder/index.html"])
    async def test_a_folder_is_sent_by_its_index(self, site_root: Path, serve: Serve, target: str) -> None:
        (site_root / "_redirects").write_text(f"/app {target} 200\n")
        async with serve() as server:
            assert (await get(server.port, "/app")).body == FOLDER

    async def test_a_file_comes_before_it_but_by_force(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/hello.txt / 200\n/large.bin / 200!\n")
        async with serve() as server:
            assert (await get(server.port, "/hello.txt")).body == HELLO
            assert (await get(server.port, "/large.bin")).body == HOME

    async def test_no_rule_is_looked_for_a_second_time(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/a /b 200!\n/b /a 200!\n")
        async with serve() as server:
            for path in ("/a", "/b"):
                assert (await get(server.port, path)).status == 404

    async def test_where_it_leads_to_nothing_there_is_404(self, site_root: Path, serve: Serve) -> None:
        (site_root / "404.html").write_bytes(LOST)
        (site_root / "_redirects").write_text("/a /none 200\n")
        async with serve() as server:
            answer = await get(server.port, "/a")

        assert (answer.status, answer.body) == (404, LOST)

    async def test_404_sends_that_page(self, site_root: Path, serve: Serve) -> None:
        (site_root / "folder" / "404.html").write_bytes(LOST)
        (site_root / "_redirects").write_text("/folder/* /folder/404.html 404\n")
        async with serve() as server:
            for _ in range(2):
                answer = await get(server.port, "/folder/none")
                assert (answer.status, answer.body) == (404, LOST)
                assert "etag" not in answer.fields
            assert (await get(server.port, "/folder/404.html")).status == 200
            assert (await get(server.port, "/none")).status == 404

    async def test_404_by_force_hides_a_file(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/hello.txt /index.html 404!\n")
        async with serve() as server:
            for _ in range(2):
                answer = await get(server.port, "/hello.txt")
                assert (answer.status, answer.body) == (404, HOME)

    async def test_it_never_leads_out_of_the_root_or_to_what_is_hidden(
        self, site_root: Path, serve: Serve
    ) -> None:
        (site_root.parent / "secret").write_bytes(b"secret")
        (site_root / ".secret").write_bytes(b"secret")
        (site_root / "_redirects").write_text(
            "/a/* /:splat 200\n/b/:x-y /:x/:x/secret 200\n/c /_redirects 200\n"
        )
        async with serve() as server:
            for target in (
                "/a/.secret",
                "/b/..-y",
                "/a/%2E%2E/secret",
                "/c",
                "/a/_redirects",
                "/a/_redirects/",
            ):
                assert (await get(server.port, target)).status == 404

    async def test_the_configuration_has_rewrites_too(self, serve: Serve) -> None:
        async with serve(rewrites=[{"from": "/app/*", "to": "/index.html"}]) as server:
            assert (await get(server.port, "/app/x")).body == HOME


class TestHeaders:
    async def test_a_path_has_its_fields(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_headers").write_text("/*\n  X-One: 1\n/hello.txt\n  X-One: 2\n  X-Two: 3\n")
        async with serve() as server:
            for _ in range(2):
                answer = await get(server.port, "/hello.txt?q")
                assert (answer.fields["x-one"], answer.fields["x-two"]) == ("1, 2", "3")
                answer = await get(server.port, "/folder/")
                assert answer.fields["x-one"] == "1"
                assert "x-two" not in answer.fields

    async def test_every_answer_has_them(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_headers").write_text("/*\n  X-One: 1\n")
        (site_root / "_redirects").write_text("/old /new\n/app /index.html 200\n")
        async with serve() as server:
            tag = (await get(server.port, "/hello.txt")).fields["etag"]
            for target, fields, status in (
                ("/hello.txt", (f"If-None-Match: {tag}",), 304),
                ("/hello.txt", ("Range: bytes=0-1",), 206),
                ("/hello.txt", ("Range: bytes=9-",), 416),
                ("/old", (), 301),
                ("/app", (), 200),
                ("/folder", (), 308),
                ("/none", (), 404),
            ):
                answer = await get(server.port, target, *fields)
                assert (answer.status, answer.fields["x-one"]) == (status, "1")

    async def test_they_replace_and_remove_those_of_the_server(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_headers").write_text(
            "/hello.txt\n  Cache-Control: max-age=60\n  ! X-Content-Type-Options\n"
            "  Content-Type: text/markdown\n"
        )
        async with serve() as server:
            answer = await get(server.port, "/hello.txt")

        assert answer.fields["cache-control"] == "max-age=60"
        assert answer.fields["content-type"] == "text/markdown"
        assert "x-content-type-options" not in answer.fields

    async def test_vary_is_added_to(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_headers").write_text("/*\n  Vary: Cookie\n")
        async with serve() as server:
            answer = await get(server.port, "/hello.txt")

        assert {name.strip() for name in answer.fields["vary"].split(",")} == {"Accept-Encoding", "Cookie"}

    async def test_each_host_has_its_fields(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_headers").write_text("https://a.example/*\n  X-One: 1\n")
        async with serve() as server, RawClient(server.port) as client:
            for target in ("/hello.txt", "/none"):
                for _ in range(2):
                    for host, value in (("a.example", "1"), ("b.example", None)):
                        answer = await client.ask(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                        assert answer.fields.get("x-one") == value

    async def test_a_change_is_seen_in_what_is_remembered(self, site_root: Path, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            none = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"
            for value in (None, "1", "2"):
                if value is not None:
                    replace(site_root / "_headers", f"/*\n  X-One: {value}\n")
                    await renew(server)
                    await renew(server)
                for _ in range(3):
                    assert (await ask_hello(client)).fields.get("x-one") == value
                    assert (await client.ask(none)).fields.get("x-one") == value

    async def test_the_configuration_has_fields_too(self, serve: Serve) -> None:
        async with serve(
            headers=[{"for": "/*.txt", "values": {"X-One": ["1", "2"], "Cache-Control": False}}]
        ) as server:
            answer = await get(server.port, "/hello.txt")

        assert answer.fields["x-one"] == "1, 2"
        assert "cache-control" not in answer.fields


class TestTheFilesOfRules:
    @pytest.mark.parametrize("name", ["_redirects", "_headers"])
    async def test_they_are_not_sent(self, site_root: Path, serve: Serve, name: str) -> None:
        (site_root / name).write_text("# nothing\n")
        (site_root / f"{name}.gz").write_bytes(b"\x1f\x8b")
        async with serve() as server:
            for target in (f"/{name}", f"/./{name}", f"/{name.replace('_', '%5F')}", f"/{name}/"):
                assert (await get(server.port, target)).status == 404

    @pytest.mark.parametrize("name", ["_redirects", "_headers"])
    async def test_elsewhere_such_names_are_files(self, site_root: Path, serve: Serve, name: str) -> None:
        (site_root / "folder" / name).write_text("/hello.txt /x 301!\n")
        async with serve() as server:
            assert (await get(server.port, f"/folder/{name}")).status == 200
            assert (await get(server.port, "/hello.txt")).status == 200

    async def test_without_rules_they_are_files(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/hello.txt /x 301!\n")
        async with serve(rules=False) as server:
            assert (await get(server.port, "/_redirects")).status == 200
            assert (await get(server.port, "/hello.txt")).status == 200

    async def test_a_change_is_seen_while_the_server_runs(self, site_root: Path, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            for location in ("/a", "/b", None):
                replace(site_root / "_redirects", f"/hello.txt {location} 301!\n" if location else "# none\n")

                async with asyncio.timeout(20):
                    while (await ask_hello(client)).fields.get("location") != location:  # noqa: ASYNC110 -- a site sets no event
                        await asyncio.sleep(0.01)

    async def test_one_look_sees_a_change_and_there_is_one_each_second(
        self, site_root: Path, serve: Serve
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            assert (await ask_hello(client)).status == 200
            assert server._sweep in server._clock._hooks
            for location in ("/a", "/b"):
                await renew(server)  # one that has begun may have looked already
                replace(site_root / "_redirects", f"/hello.txt {location} 301!\n")

                await renew(server)

                assert (await ask_hello(client)).fields["location"] == location

    async def test_a_wrong_line_stops_nothing(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("nonsense\n/a /b\n")
        async with serve() as server:
            assert (await get(server.port, "/a")).fields["location"] == "/b"


# ---- the shortcut ----------------------------------------------------------------------------------------

RULES = """
/forced               /elsewhere            302!
/hello.txt   v=:v     /version/:v           301!
/folder/hello.txt     /hello.txt            200!
/large.bin            /index.html           404!
https://b/*           /of-b/:splat          307!
/app/*                /index.html           200
/news/*               /blog/:splat
/lost/*               /folder/index.html    404
/:a-:b                /:b/:a
"""

HEADERS = """
/*
  X-One: 1
/hello.txt
  X-One: 2
  Cache-Control: max-age=5
https://b/*
  X-Host: b
/none
  ! X-One
/app/*
  X-Rest: :splat
"""

TARGETS = [
    "/",
    "/hello.txt",
    "/hello.txt?v=1",
    "/hello.txt?v=",
    "/hello.txt?w=1",
    "/hello.txt/",
    "/forced",
    "/folder/hello.txt",
    "/folder",
    "/folder/",
    "/large.bin",
    "/app",
    "/app/x?y",
    "/news/1/2",
    "/news/",
    "/lost/x",
    "/lost",
    "/x-y",
    "/none",
    "/_redirects",
    "/404.html",
    "http://b/hello.txt",
    "/%zz",
]
FIELDS = [
    (),
    ("Accept-Encoding: gzip",),
    ("Connection: close",),
    ("Range: bytes=0-1",),
    ("Accept: text/html",),
]


def head(method: str, target: str, host: str, fields: tuple[str, ...]) -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", "")).encode()


async def answer_of(port: int, data: bytes, *, whole: bool, method: str, times: int = 1) -> bytes:
    """The last of the answers to the same request, but for its Date; in one piece, or in two."""
    async with RawClient(port) as client:
        for _ in range(times):
            if whole:
                await client.send(data)
            else:
                await client.send(data[:5])
                await asyncio.sleep(0.001)
                await client.send(data[5:])
            answer = await client.read_answer(method)
            if answer.fields.get("connection") == "close":
                break
        return re.sub(rb"\r\nDate: [^\r]*", b"", answer.head) + answer.body


@contextlib.contextmanager
def long_way_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shortcuts, "find", lambda self, head: None)
        yield


class TestTheShortcut:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_it_gives_what_the_long_way_gives(self, site_root: Path, serve: Serve, method: str) -> None:
        (site_root / "404.html").write_bytes(LOST)
        (site_root / "_redirects").write_text(RULES)
        (site_root / "_headers").write_text(HEADERS)
        async with serve() as server:
            for target in TARGETS:
                for host in ("a", "b"):
                    for fields in FIELDS:
                        data = head(method, target, host, fields)
                        with long_way_only():
                            expected = await answer_of(server.port, data, whole=False, method=method)

                        for times in (1, 3):
                            got = await answer_of(server.port, data, whole=True, method=method, times=times)
                            assert got == expected, data

    async def test_a_known_line_asks_no_rule(
        self, site_root: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = [f"/old/{number} /new/{number}\n/deep/{number}/x /y 301!\n" for number in range(5000)]
        (site_root / "_redirects").write_text("".join(lines))
        asked: list[object] = []
        look_for = Rules._look_for_redirect

        def count(self: Rules, *arguments: object) -> object:
            asked.append(arguments)
            return look_for(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Rules, "_look_for_redirect", count)
        async with serve() as server, RawClient(server.port) as client:
            for _ in range(100):
                # The kernel may say of any look that it would have to wait.
                await ask_hello(client)
            assert len(server._site.rules.redirects) == 10_000  # type: ignore[union-attr]
            monkeypatch.delattr(Rules, "find_redirect")

            answer = await ask_hello(client)

        assert answer.body == HELLO
        assert len(asked) == 1

    async def test_what_is_remembered_goes_with_the_rules(self, site_root: Path, serve: Serve) -> None:
        async with serve() as server, RawClient(server.port) as client:
            none = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"
            for _ in range(3):
                assert (await ask_hello(client)).status == 200
                assert (await client.ask(none)).status == 404
            (site_root / "_redirects").write_text("/hello.txt /a 301!\n/none /b\n")

            await renew(server)

            assert (await ask_hello(client)).fields["location"] == "/a"
            assert (await client.ask(none)).fields["location"] == "/b"

    async def test_an_answer_by_old_rules_is_not_remembered_under_new_ones(
        self, site_root: Path, serve: Serve
    ) -> None:
        (site_root / "page.txt").write_bytes(b"x" * 20_000_000)
        async with serve() as server, RawClient(server.port) as slow, RawClient(server.port) as client:
            data = b"GET /page.txt HTTP/1.1\r\nHost: a\r\n\r\n"
            # In two pieces, so that it goes the long way, and longer than what the kernel takes.
            await slow.send(data[:5])
            await asyncio.sleep(0.01)
            await slow.send(data[5:])
            await slow.reader.readuntil(b"\r\n\r\n")
            (site_root / "_redirects").write_text("/page.txt /a 301!\n")
            await renew(server)
            await slow.reader.readexactly(20_000_000)
            await slow.ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")  # the first is over by now

            assert (await client.ask(data)).status == 301
