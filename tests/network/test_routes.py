"""Single-page applications, clean URLs, pages for errors and mounts on the wire, both ways that answers go.

Each request is made several times on one connection: what is remembered of the first must not change the
answer, and must give way to what the disk has now.
"""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from aioserve import Server
from tests.content.conftest import without_privileges
from tests.network.conftest import LARGE, Serve, serve_all
from tests.raw_client import Answer, RawClient, get

HELLO = b"hello\n"
HOME = b"<!doctype html><title>home</title>\n"
FOLDER = b"<!doctype html><title>folder</title>\n"
ABOUT = b"<!doctype html><title>about</title>\n"
LOST = b"<!doctype html><title>lost</title>\n"
OTHER = b"<!doctype html><title>other</title>\n"

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
CURL = "Accept: */*"
JSON = "Accept: application/json, text/html;q=0.9"
CODINGS = "Accept-Encoding: gzip, deflate, br, zstd"


@pytest.fixture(autouse=True)
def files_of_long_ago(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made just now would not be kept: its time of change cannot be set, so that rule is."""
    (site_root / "about.html").write_bytes(ABOUT)
    monkeypatch.setattr("aioserve.content.files._RACY_NS", -(10**18))


async def ask(client: RawClient, target: str, *fields: str, method: str = "GET") -> Answer:
    lines = (f"{method} {target} HTTP/1.1", "Host: a", *fields, "", "")
    return await client.ask("\r\n".join(lines).encode(), method)


async def ask_often(client: RawClient, target: str, *fields: str, method: str = "GET") -> Answer:
    """The answer, which is the same three times, but for the second in which it was made."""
    answers = [await ask(client, target, *fields, method=method) for _ in range(3)]
    for answer in answers:
        answer.fields.pop("date")
    first, *others = ((answer.status, answer.fields, answer.body) for answer in answers)
    assert others == [first, first]
    return answers[0]


class TestSinglePage:
    """--spa: a page that does not exist is that of the application, for browsers that go to it."""

    @pytest.mark.parametrize("target", ["/users", "/users/7?tab=1", "/bare/", "/users/"])
    async def test_a_browser_gets_the_page_with_status_200(
        self, serve: Serve, taken: list[bytes], target: str
    ) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            answer = await ask_often(client, target, BROWSER)
            head = await ask_often(client, target, BROWSER, method="HEAD")

        assert (answer.status, answer.body) == (200, HOME)
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        assert answer.fields["cache-control"] == "no-cache"
        assert "Accept" in answer.fields["vary"].split(", ")
        assert head.fields == answer.fields
        assert taken

    @pytest.mark.parametrize("fields", [(CURL,), (JSON,), (), ("Accept: text/html;q=0",)])
    async def test_programs_get_404_on_the_same_line(self, serve: Serve, fields: tuple[str, ...]) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            for _ in range(2):
                answer = await ask_often(client, "/users", *fields)
                assert answer.status == 404
                assert "Accept" in answer.fields["vary"].split(", ")
                assert (await ask_often(client, "/users", BROWSER)).status == 200

    @pytest.mark.parametrize("target", ["/main.js", "/assets/a.css", "/.well-known/change-password"])
    async def test_a_file_that_is_missing_is_404_for_browsers_too(self, serve: Serve, target: str) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            assert (await ask_often(client, target, BROWSER)).status == 404

    @pytest.mark.parametrize(("method", "status"), [("POST", 405), ("OPTIONS", 204), ("PUT", 405)])
    async def test_other_methods_are_what_they_are(self, serve: Serve, method: str, status: int) -> None:
        async with serve(spa="index.html") as server:
            assert (await get(server.port, "/users", BROWSER, method=method)).status == status

    async def test_what_exists_is_sent_to_everybody(self, serve: Serve) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            for fields in ((BROWSER,), (CURL,)):
                answer = await ask_often(client, "/hello.txt", *fields)
                assert (answer.status, answer.body) == (200, HELLO)
                assert "Accept" not in answer.fields.get("vary", "").split(", ")

    async def test_it_can_be_another_file(self, site_root: Path, serve: Serve) -> None:
        async with serve(spa="folder/index.html") as server:
            assert (await get(server.port, "/users", BROWSER)).body == FOLDER

    async def test_preconditions_and_ranges_are_those_of_the_page(self, serve: Serve) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            tag = (await ask(client, "/users", BROWSER)).fields["etag"]
            known = await ask_often(client, "/users", BROWSER, f"If-None-Match: {tag}")
            part = await ask_often(client, "/users", BROWSER, "Range: bytes=0-8")

        assert (known.status, known.body, known.fields["etag"]) == (304, b"", tag)
        assert "Accept" in known.fields["vary"].split(", ")
        assert (part.status, part.body) == (206, HOME[:9])

    async def test_it_has_compressed_forms(self, site_root: Path, serve: Serve) -> None:
        (site_root / "index.html.gz").write_bytes(gzip.compress(HOME))
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/users", BROWSER, "Accept-Encoding: gzip")
            plain = await ask_often(client, "/users", BROWSER)
            refused = await ask_often(client, "/users", CURL, "Accept-Encoding: gzip")

        assert answer.fields["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body) == plain.body == HOME
        assert set(answer.fields["vary"].split(", ")) == {"Accept", "Accept-Encoding"}
        assert answer.fields["etag"] != plain.fields["etag"]
        assert refused.status == 404

    @pytest.mark.parametrize("name", ["users", "users/index.html"])
    async def test_a_page_that_is_made_later_is_seen_at_once(
        self, site_root: Path, serve: Serve, name: str
    ) -> None:
        target = "/" + name.removesuffix("index.html")
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            for accept in (BROWSER, CURL):
                await ask_often(client, target, accept)
            (site_root / name).parent.mkdir(exist_ok=True)
            (site_root / name).write_bytes(OTHER)

            for accept in (BROWSER, CURL):
                answer = await ask_often(client, target, accept)
                assert (answer.status, answer.body) == (200, OTHER)

    async def test_another_page_of_the_application_is_seen_at_once(
        self, site_root: Path, serve: Serve
    ) -> None:
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            await ask_often(client, "/users", BROWSER)
            (site_root / "new").write_bytes(OTHER)
            os.replace(site_root / "new", site_root / "index.html")
            assert (await ask_often(client, "/users", BROWSER)).body == OTHER
            (site_root / "index.html").unlink()
            assert (await ask_often(client, "/users", BROWSER)).status == 404

    async def test_the_page_of_an_error_depends_on_accept_too(self, site_root: Path, serve: Serve) -> None:
        (site_root / "404.html").write_bytes(LOST)
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/users", CURL)
            asset = await ask_often(client, "/main.js", CURL)

        assert (answer.status, answer.body) == (asset.status, asset.body) == (404, LOST)
        assert "Accept" in answer.fields["vary"].split(", ")
        assert "Accept" not in asset.fields.get("vary", "").split(", ")

    async def test_a_rule_comes_before_it(self, site_root: Path, serve: Serve) -> None:
        (site_root / "_redirects").write_text("/old/* /new\n/app/* /about.html 200\n/x /none 200\n")
        async with serve(spa="index.html") as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/old/x", BROWSER)).status == 301
            assert (await ask_often(client, "/app/x", BROWSER)).body == ABOUT
            assert (await ask_often(client, "/x", BROWSER)).status == 404
            assert (await ask_often(client, "/users", BROWSER)).body == HOME


class TestCleanUrls:
    """--clean-urls: a page has one address, without its extension."""

    async def test_a_page_is_found_without_its_extension(self, serve: Serve, taken: list[bytes]) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/about?x=1")
            head = await ask_often(client, "/about?x=1", method="HEAD")
            again = await ask_often(client, "/about?x=1", f"If-None-Match: {answer.fields['etag']}")

        assert (answer.status, answer.body) == (200, ABOUT)
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        assert head.fields == answer.fields
        assert again.status == 304
        assert taken

    @pytest.mark.parametrize(
        ("target", "location"),
        [
            ("/about.html", "./about"),
            ("/about.html?x=1", "./about?x=1"),
            ("/about/", "../about"),
            ("/about/?x=1", "../about?x=1"),
            ("//about.html", "./about"),
        ],
    )
    async def test_its_other_addresses_lead_there(self, serve: Serve, target: str, location: str) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            for method in ("GET", "HEAD"):
                answer = await ask_often(client, target, method=method)
                assert (answer.status, answer.fields["location"]) == (308, location)

    async def test_what_is_missing_leads_nowhere(self, serve: Serve) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            for target in ("/none.html", "/none/", "/none", "/hello.txt/", "/about.html/", "/hello"):
                assert (await ask_often(client, target)).status == 404

    async def test_an_index_stays_where_it_is(self, serve: Serve) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/index.html")).body == HOME
            assert (await ask_often(client, "/folder/index.html")).body == FOLDER

    async def test_a_page_and_a_folder_of_one_name_are_both_reached(
        self, site_root: Path, serve: Serve
    ) -> None:
        (site_root / "folder.html").write_bytes(OTHER)
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/folder")).body == OTHER
            assert (await ask_often(client, "/folder/")).body == FOLDER

    async def test_a_file_of_that_name_comes_first_as_soon_as_it_is_there(
        self, site_root: Path, serve: Serve
    ) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/about")).body == ABOUT
            assert (await ask_often(client, "/about.html")).status == 308
            (site_root / "about").write_bytes(HELLO)
            assert (await ask_often(client, "/about")).body == HELLO
            assert (await ask_often(client, "/about.html")).body == ABOUT
            assert (await ask_often(client, "/about/")).status == 404
            (site_root / "about").unlink()
            assert (await ask_often(client, "/about")).body == ABOUT
            assert (await ask_often(client, "/about.html")).status == 308
            assert (await ask_often(client, "/about/")).status == 308

    async def test_a_page_that_goes_is_gone_at_once(self, site_root: Path, serve: Serve) -> None:
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            await ask_often(client, "/about")
            (site_root / "about.html").unlink()
            assert (await ask_often(client, "/about")).status == 404
            (site_root / "about.html").write_bytes(OTHER)
            assert (await ask_often(client, "/about")).body == OTHER

    async def test_beside_an_application_pages_that_exist_come_first(
        self, site_root: Path, serve: Serve
    ) -> None:
        async with serve(clean_urls=True, spa="index.html") as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/about", BROWSER)).body == ABOUT
            assert (await ask_often(client, "/contact", BROWSER)).body == HOME
            (site_root / "contact.html").write_bytes(OTHER)
            assert (await ask_often(client, "/contact", BROWSER)).body == OTHER

    async def test_a_page_that_is_there_as_a_form_alone_has_one_address_too(
        self, site_root: Path, serve: Serve
    ) -> None:
        (site_root / "about.html").unlink()
        (site_root / "about.html.gz").write_bytes(gzip.compress(ABOUT))
        async with serve(clean_urls=True) as server:
            for target in ("/about.html", "/about/"):
                assert (await get(server.port, target)).status == 308
            answer = await get(server.port, "/about", "Accept-Encoding: gzip")

        assert (answer.status, gzip.decompress(answer.body)) == (200, ABOUT)

    async def test_a_hidden_page_stays_hidden(self, site_root: Path, serve: Serve) -> None:
        (site_root / ".secret.html").write_bytes(OTHER)
        async with serve(clean_urls=True) as server, RawClient(server.port) as client:
            for target in ("/.secret", "/.secret.html", "/.secret/"):
                assert (await ask_often(client, target)).status == 404


class TestPagesOfErrors:
    async def test_404_is_a_file_of_the_root_and_seen_as_soon_as_it_is_there(
        self, site_root: Path, serve: Serve
    ) -> None:
        async with serve() as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/none")).body == b"----Not found----"
            (site_root / "404.html").write_bytes(LOST)
            answer = await ask_often(client, "/none")
            assert (answer.status, answer.body) == (404, LOST)
            assert answer.fields["cache-control"] == "no-cache"
            assert "etag" not in answer.fields
            (site_root / "404.html").unlink()
            assert (await ask_often(client, "/none")).body == b"----Not found----"

    async def test_preconditions_and_ranges_change_nothing(self, site_root: Path, serve: Serve) -> None:
        (site_root / "404.html").write_bytes(LOST)
        async with serve() as server, RawClient(server.port) as client:
            for field in ("If-None-Match: *", "Range: bytes=0-3", "If-Match: *"):
                answer = await ask_often(client, "/none", field)
                assert (answer.status, answer.body) == (404, LOST)
            assert (await ask_often(client, "/none", method="HEAD")).status == 404

    async def test_403_is_a_file_of_the_root(self, site_root: Path, serve: Serve) -> None:
        (site_root / "403.html").write_bytes(OTHER)
        (site_root / "hello.txt").chmod(0)
        for folder in (site_root, *site_root.parents[:3]):
            folder.chmod(0o755)
        async with serve() as server, RawClient(server.port) as client:
            with without_privileges():
                answer = await ask_often(client, "/hello.txt")

        assert (answer.status, answer.body) == (403, OTHER)

    async def test_they_can_be_other_files(self, site_root: Path, serve: Serve) -> None:
        (site_root / "404.html").write_bytes(OTHER)
        (site_root / "folder" / "lost.html").write_bytes(LOST)
        async with serve(errors={404: "folder/lost.html"}) as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/none", BROWSER)

        assert (answer.status, answer.body) == (404, LOST)

    async def test_they_have_compressed_forms(self, site_root: Path, serve: Serve) -> None:
        (site_root / "404.html").write_bytes(LOST)
        (site_root / "404.html.gz").write_bytes(gzip.compress(LOST))
        async with serve() as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/none", "Accept-Encoding: gzip")

        assert (answer.status, gzip.decompress(answer.body)) == (404, LOST)
        assert answer.fields["vary"] == "Accept-Encoding"


@pytest.fixture
def other_root(site_root: Path) -> Path:
    """A folder beside the site, to be mounted."""
    other = site_root.parent / "other"
    (other / "deep").mkdir(parents=True)
    (other / "index.html").write_bytes(OTHER)
    (other / "page.html").write_bytes(ABOUT)
    (other / "deep" / "note.txt").write_bytes(HELLO)
    (other / "large.bin").write_bytes(LARGE)
    return other


class TestMounts:
    """--mount: another folder is found below a path."""

    async def test_its_files_are_found_there(
        self, other_root: Path, serve: Serve, taken: list[bytes]
    ) -> None:
        async with serve(mounts=[("/docs", str(other_root))]) as server, RawClient(server.port) as client:
            for target, content in (
                ("/docs/", OTHER),
                ("/docs/page.html", ABOUT),
                ("/docs/deep/note.txt", HELLO),
                ("//docs//deep/./note.txt", HELLO),
                ("/x/../docs/page.html", ABOUT),
                ("/docs/large.bin", LARGE),
                ("/hello.txt", HELLO),
                ("/docs/../hello.txt", HELLO),
                ("/docs/..", HOME),
            ):
                assert (await ask_often(client, target)).body == content
            tag = (await ask(client, "/docs/page.html")).fields["etag"]
            assert (await ask_often(client, "/docs/page.html", f"If-None-Match: {tag}")).status == 304
            part = await ask_often(client, "/docs/large.bin", "Range: bytes=9-19")
            assert (part.status, part.body) == (206, LARGE[9:20])

        assert any(b"/docs/page.html" in head for head in taken)

    async def test_its_slash_is_added(self, other_root: Path, serve: Serve) -> None:
        async with serve(mounts=[("/a/docs", str(other_root))]) as server, RawClient(server.port) as client:
            for target, location in (
                ("/a/docs", "./docs/"),
                ("/a/docs?x=1", "./docs/?x=1"),
                ("/a/docs/deep", "./deep/"),
            ):
                answer = await ask_often(client, target)
                assert (answer.status, answer.fields["location"]) == (308, location)
            assert (await ask_often(client, "/a")).status == 404
            assert (await ask_often(client, "/a/docsx")).status == 404

    async def test_what_it_hides_of_the_root_is_not_there(
        self, site_root: Path, other_root: Path, serve: Serve
    ) -> None:
        (site_root / "folder" / "only.txt").write_bytes(b"hidden by the mount")
        mounts = [("/folder", str(other_root))]
        async with serve(mounts=mounts, archive=True) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/folder/only.txt")).status == 404
            assert (await ask_often(client, "/folder/")).body == OTHER
            archive = await ask(client, "/bare/../?archive=zip")

        assert b"hello.txt" in archive.body
        assert b"only.txt" not in archive.body
        assert b"hidden by the mount" not in archive.body

    async def test_one_can_be_below_another(self, site_root: Path, other_root: Path, serve: Serve) -> None:
        mounts = [("/a", str(other_root)), ("/a/deep", str(site_root / "folder"))]
        async with serve(mounts=mounts, archive=True) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/a/page.html")).body == ABOUT
            assert (await ask_often(client, "/a/deep/")).body == FOLDER
            assert (await ask_often(client, "/a/deep/note.txt")).status == 404
            archive = await ask(client, "/a/?archive=zip")

        assert b"page.html" in archive.body
        assert b"note.txt" not in archive.body

    async def test_a_file_has_the_name_of_its_place(self, other_root: Path, serve: Serve) -> None:
        mounts = [("/notes/today.txt", str(other_root / "deep" / "note.txt"))]
        async with serve(mounts=mounts) as server, RawClient(server.port) as client:
            answer = await ask_often(client, "/notes/today.txt")
            assert (answer.status, answer.body) == (200, HELLO)
            assert answer.fields["content-type"] == "text/plain; charset=utf-8"
            for target in ("/notes/today.txt/", "/notes/today.txt/note.txt", "/notes/", "/notes/note.txt"):
                assert (await ask_often(client, target)).status == 404

    async def test_nothing_leads_out_of_it_and_hidden_names_are_not_there(
        self, site_root: Path, other_root: Path, serve: Serve
    ) -> None:
        (other_root / ".secret").write_bytes(b"secret")
        (other_root / "out").symlink_to(site_root / "hello.txt")
        (other_root / "in").symlink_to("page.html")
        async with serve(mounts=[("/docs", str(other_root))]) as server, RawClient(server.port) as client:
            for target in ("/docs/.secret", "/docs/%2esecret", "/docs/out", "/docs/%2e%2e/other/page.html"):
                assert (await ask_often(client, target)).status == 404
            assert (await ask_often(client, "/docs/in")).body == ABOUT

    async def test_rules_hold_there_and_the_application_does_not(
        self, site_root: Path, other_root: Path, serve: Serve
    ) -> None:
        (site_root / "_redirects").write_text("/docs/old /elsewhere 302!\n/old /docs/\n/more /x 302!\n")
        (site_root / "_headers").write_text("/*\n  X-Rule: yes\n")
        async with (
            serve(
                mounts=[("/docs", str(other_root)), ("/more", str(other_root))], spa="index.html"
            ) as server,
            RawClient(server.port) as client,
        ):
            assert (await ask_often(client, "/more")).fields["location"] == "/x"
            assert (await ask_often(client, "/docs")).fields["location"] == "./docs/"
            assert (await ask_often(client, "/old")).fields["location"] == "/docs/"
            assert (await ask_often(client, "/users", BROWSER)).body == HOME
            for target, status in (("/docs/page.html", 200), ("/docs/none", 404), ("/docs/old", 302)):
                answer = await ask_often(client, target, BROWSER)
                assert (answer.status, answer.fields["x-rule"]) == (status, "yes")
            assert (await ask_often(client, "/none.js")).fields["x-rule"] == "yes"

    async def test_other_options_hold_there(self, other_root: Path, serve: Serve) -> None:
        mounts = [("/docs", str(other_root))]
        options = {"header": ["X-Own: 1"], "cache_control": ["/docs/**: max-age=5"], "clean_urls": True}
        async with serve(mounts=mounts, **options) as server, RawClient(server.port) as client:
            page = await ask_often(client, "/docs/page")
            moved = await ask_often(client, "/docs/page.html")
            lost = await ask_often(client, "/docs/none")

        assert (page.body, page.fields["cache-control"], page.fields["x-own"]) == (ABOUT, "max-age=5", "1")
        assert (moved.status, moved.fields["location"]) == (308, "./page")
        assert (lost.status, lost.fields["x-own"]) == (404, "1")

    async def test_it_has_the_page_of_its_own_errors(
        self, site_root: Path, other_root: Path, serve: Serve
    ) -> None:
        (site_root / "404.html").write_bytes(HOME)
        (other_root / "404.html").write_bytes(LOST)
        async with serve(mounts=[("/docs", str(other_root))]) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/docs/none")).body == LOST
            assert (await ask_often(client, "/none")).body == HOME

    async def test_a_change_is_seen_at_once(self, other_root: Path, serve: Serve) -> None:
        async with serve(mounts=[("/docs", str(other_root))]) as server, RawClient(server.port) as client:
            assert (await ask_often(client, "/docs/new.txt")).status == 404
            (other_root / "new.txt").write_bytes(HELLO)
            assert (await ask_often(client, "/docs/new.txt")).body == HELLO
            (other_root / "next").write_bytes(OTHER)
            os.replace(other_root / "next", other_root / "new.txt")
            assert (await ask_often(client, "/docs/new.txt")).body == OTHER
            (other_root / "new.txt").unlink()
            assert (await ask_often(client, "/docs/new.txt")).status == 404

    async def test_a_file_can_be_the_root_beside_it(self, site_root: Path, other_root: Path) -> None:
        server = Server(site_root / "hello.txt", 0, mounts=[("/docs", str(other_root))])
        async with serve_all(server), RawClient(server.port) as client:
            assert (await ask_often(client, "/")).body == HELLO
            assert (await ask_often(client, "/docs/page.html")).body == ABOUT
            assert (await ask_often(client, "/page.html")).status == 404

    async def test_two_at_the_same_time_keep_what_is_theirs(self, other_root: Path, serve: Serve) -> None:
        (other_root / "hello.txt").write_bytes(OTHER)
        async with serve(mounts=[("/docs", str(other_root))]) as server:

            async def ask_both(count: int) -> None:
                async with RawClient(server.port) as client:
                    for _ in range(count):
                        assert (await ask(client, "/hello.txt")).body == HELLO
                        assert (await ask(client, "/docs/hello.txt")).body == OTHER

            await asyncio.gather(*(ask_both(20) for _ in range(8)))
