"""From a target to a plan and its bytes: real files below a real root, asked for through `Site.respond`."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, assert_never
from urllib.parse import quote_from_bytes, urljoin

import pytest

from aioserve.content.disk import Disk
from aioserve.content.files import Files
from aioserve.content.route import Routes
from aioserve.content.site import Site
from aioserve.protocol.conditional import format_http_date
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.plan import Body, Bytes, Empty, Parts, Pieces, Plan, Slice
from aioserve.protocol.variant import Handle
from tests.content.conftest import Open, is_open, no_descriptor_left, without_privileges

NOW_S = 1_700_000_000
MTIME_S = NOW_S - 1000

# More than is read when a file is found: its descriptor is open while the plan is used.
LARGE = bytes(range(256)) * 1000

HOME, PAGE, NOT_FOUND = b"<title>home</title>", b"<title>page</title>", b"<title>lost</title>"


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


def make_request(target: str | bytes, method: str = "GET", **fields: str) -> Request:
    """A request with these fields, their hyphens written as underscores."""
    target = target.encode() if isinstance(target, str) else target
    values = {name.replace("_", "-"): value for name, value in fields.items()}
    return Request(method, target, (1, 1), Fields(values))


async def ask(site: Site, target: str | bytes, method: str = "GET", **fields: str) -> Answer:
    async with site.respond(make_request(target, method, **fields), NOW_S) as plan:
        return Answer(plan.status, dict(plan.fields), await read_body(plan.body))


async def read_body(body: Body) -> bytes:
    match body:
        case Empty():
            return b""
        case Bytes(data):
            return data
        case Slice(handle, start, stop):
            if handle.data is not None:
                return handle.data[start:stop]
            data = await handle.read(start, stop - start)
            assert len(data) == stop - start
            return data
        case Parts(parts):
            return b"".join([await read_body(part) for part in parts])
        case Pieces(pieces):
            return b"".join([piece async for piece in pieces])
        case _:
            assert_never(body)


def path_of(*names: bytes) -> str:
    """The target of a name, all of it encoded that may be."""
    return "/" + "/".join(quote_from_bytes(name, safe="") for name in names)


Sites = Callable[..., Site]


@pytest.fixture
def make_site(root: Path, open_files: Open) -> Sites:
    """Makes sites of `root`, with the options of Files that are given."""

    def make_site(*, index: Sequence[str] = ("index.html",), name: str = "", **options: object) -> Site:
        files = open_files(root / name if name else root, **options)
        return Site(files, routes=Routes(index=index, only_name=files.only_name))

    return make_site


def write(root: Path, contents: Mapping[str, bytes]) -> None:
    """Files below `root` by their paths, all of the same age."""
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        os.utime(root / path, (MTIME_S, MTIME_S))


class TestFile:
    async def test_it_is_answered_with_all_that_is_known_of_it(self, root: Path, make_site: Sites) -> None:
        write(root, {"folder/page.html": PAGE})
        answer = await ask(make_site(), "/folder/page.html")
        assert answer == Answer(
            200,
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(PAGE)),
                "Last-Modified": format_http_date(MTIME_S),
                "ETag": answer.fields["ETag"],
                "Accept-Ranges": "bytes",
                "Cache-Control": "no-cache",
                "X-Content-Type-Options": "nosniff",
            },
            PAGE,
        )

    @pytest.mark.parametrize("content", [b"", PAGE, LARGE], ids=["empty", "small", "large"])
    async def test_head_says_what_get_would(self, root: Path, make_site: Sites, content: bytes) -> None:
        write(root, {"page.html": content})
        site = make_site()
        got, head = await ask(site, "/page.html"), await ask(site, "/page.html", "HEAD")
        assert got.body == content
        assert head == Answer(200, got.fields, b"")
        assert head.fields["Content-Length"] == str(len(content))

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(b"two words  .txt", id="spaces"),
            pytest.param(b"100%", id="a percent sign"),
            pytest.param(b"%41", id="what looks encoded"),
            pytest.param(b"a?b#c;d&e", id="what ends a path"),
            pytest.param(b"a\\..\\b", id="backslashes"),
            pytest.param(b"\x01\n\r\t\x7f", id="control characters"),
            pytest.param("žluťoučký kůň — 📁".encode(), id="unicode"),
            pytest.param("e\u0301".encode(), id="unicode that is not composed"),
            pytest.param(b"\xff\xfe\x80.txt", id="invalid utf-8"),
            pytest.param(b"x" * 255, id="as long as may be"),
            pytest.param(b"index.html", id="the index by its own name"),
        ],
    )
    async def test_every_name_that_the_disk_can_hold_finds_its_file(
        self, root: Path, make_site: Sites, name: bytes
    ) -> None:
        (root / os.fsdecode(name)).mkdir()
        (root / os.fsdecode(name) / os.fsdecode(name)).write_bytes(name)
        assert (await ask(make_site(), path_of(name, name))).body == name

    async def test_a_target_is_decoded_once(self, root: Path, make_site: Sites) -> None:
        (root / "A").write_bytes(b"decoded")
        (root / "%41").write_bytes(b"not decoded")
        site = make_site()
        assert (await ask(site, "/%41")).body == b"decoded"
        assert (await ask(site, "/%2541")).body == b"not decoded"
        assert (await ask(site, "/%252541")).status == 404

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param("/folder/page.html?query=/../x", id="a query"),
            pytest.param("http://elsewhere/folder/page.html", id="absolute-form"),
            pytest.param("//folder//page.html", id="empty segments"),
            pytest.param("/../../folder/./other/%2E%2e/page.html", id="dot segments"),
        ],
    )
    async def test_other_ways_to_write_its_target_lead_to_it(
        self, root: Path, make_site: Sites, target: str
    ) -> None:
        write(root, {"folder/page.html": PAGE})
        assert (await ask(make_site(), target)).body == PAGE

    async def test_with_a_slash_it_is_not_there(self, root: Path, make_site: Sites) -> None:
        write(root, {"page.html": PAGE})
        site = make_site()
        for target in ("/page.html/", "/page.html/.", "/page.html/index.html"):
            assert (await ask(site, target)).status == 404, target

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"if_none_match": "*"}, 304),
            ({"if_modified_since": format_http_date(NOW_S)}, 304),
            ({"if_match": '"another"'}, 412),
        ],
    )
    async def test_preconditions_are_kept(
        self, root: Path, make_site: Sites, fields: dict[str, str], status: int
    ) -> None:
        write(root, {"page.html": PAGE})
        assert (await ask(make_site(), "/page.html", **fields)).status == status

    async def test_a_range_of_it_is_sent(self, root: Path, make_site: Sites) -> None:
        write(root, {"large.bin": LARGE})
        answer = await ask(make_site(), "/large.bin", range="bytes=100000-100009")
        assert answer.status == 206
        assert answer.fields["Content-Range"] == f"bytes 100000-100009/{len(LARGE)}"
        assert answer.body == LARGE[100000:100010]

    async def test_ranges_are_separated_by_what_nobody_can_foresee(
        self, root: Path, make_site: Sites
    ) -> None:
        write(root, {"large.bin": LARGE})
        site, boundaries = make_site(), set()
        for _ in range(3):
            answer = await ask(site, "/large.bin", range="bytes=0-9,100000-100009")
            assert answer.status == 206
            match = re.fullmatch(r"multipart/byteranges; boundary=(\w{32})", answer.fields["Content-Type"])
            assert match is not None
            first, second, *_ = answer.body.split(f"\r\n--{match[1]}".encode())[1:]
            assert first.endswith(b"\r\n\r\n" + LARGE[:10])
            assert second.endswith(b"\r\n\r\n" + LARGE[100000:100010])
            boundaries.add(match[1])
        assert len(boundaries) == 3

    async def test_it_was_never_modified_later_than_now(self, root: Path, make_site: Sites) -> None:
        write(root, {"page.html": PAGE})
        os.utime(root / "page.html", (NOW_S + 5, NOW_S + 5))
        answer = await ask(make_site(), "/page.html")
        assert answer.fields["Last-Modified"] == format_http_date(NOW_S)

    async def test_a_change_is_seen_by_the_next_request(self, root: Path, make_site: Sites) -> None:
        site = make_site()
        assert (await ask(site, "/page.html")).status == 404
        write(root, {"page.html": PAGE})
        first = await ask(site, "/page.html")
        (root / "page.html").write_bytes(PAGE.upper())
        second = await ask(site, "/page.html")
        assert (first.body, second.body) == (PAGE, PAGE.upper())
        assert first.fields["ETag"] != second.fields["ETag"]
        (root / "page.html").unlink()
        assert (await ask(site, "/page.html")).status == 404


class TestFolder:
    @pytest.mark.parametrize("target", ["/", "/?a=b", "/.", "/folder/..", "http://elsewhere", "//"])
    async def test_the_root_is_its_index(self, root: Path, make_site: Sites, target: str) -> None:
        write(root, {"index.html": HOME})
        answer = await ask(make_site(), target)
        assert (answer.status, answer.body) == (200, HOME)
        assert answer.fields["Content-Type"] == "text/html; charset=utf-8"

    async def test_the_type_is_that_of_the_index_and_not_of_the_folder(
        self, root: Path, make_site: Sites
    ) -> None:
        write(root, {"archive.zip/index.html": PAGE})
        answer = await ask(make_site(), "/archive.zip/")
        assert answer.body == PAGE
        assert answer.fields["Content-Type"] == "text/html; charset=utf-8"

    async def test_of_several_index_names_the_first_that_is_a_file_wins(
        self, root: Path, make_site: Sites
    ) -> None:
        index = ("index.html", "index.htm", "wîth späces.html", "\udcff.txt")
        site = make_site(index=index)
        for number in (3, 2, 1, 0):
            (root / index[number]).write_text(f"index {number}")
            assert (await ask(site, "/")).body == f"index {number}".encode()
        (root / index[0]).unlink()
        (root / index[0]).mkdir()
        assert (await ask(site, "/")).body == b"index 1"

    async def test_without_an_index_it_is_not_there(self, root: Path, make_site: Sites) -> None:
        write(root, {"folder/page.html": PAGE})
        for site in (make_site(), make_site(index=())):
            assert (await ask(site, "/folder/")).status == 404
            assert (await ask(site, "/")).status == 404

    @pytest.mark.parametrize(
        ("target", "location"),
        [
            pytest.param("/folder", "./folder/", id="a folder"),
            pytest.param("/folder?a=b&c", "./folder/?a=b&c", id="the query is kept"),
            pytest.param("/folder?", "./folder/?", id="an empty query as well"),
            pytest.param("/folder?/../..//host", "./folder/?/../..//host", id="whatever it is"),
            pytest.param("/folder/deep%20er", "./deep%20er/", id="a folder in a folder"),
            pytest.param("/%66older", "./folder/", id="what need not be encoded is not"),
            pytest.param("/%FF%25%3F", "./%FF%25%3F/", id="any other byte is"),
            pytest.param("/http:", "./http:/", id="no scheme"),
            pytest.param("//folder", "./folder/", id="no host of two slashes"),
            pytest.param("//host/../folder", "./folder/", id="no host behind dots"),
            pytest.param("/%5C%5Cfolder", "./%5C%5Cfolder/", id="no host of backslashes"),
            pytest.param("http://elsewhere/folder", "./folder/", id="absolute-form"),
        ],
    )
    async def test_without_a_slash_it_is_redirected_to_the_one_with_it(
        self, root: Path, make_site: Sites, target: str, location: str
    ) -> None:
        for name in ("folder/deep er", "http:", "\\\\folder", os.fsdecode(b"\xff%?")):
            (root / name).mkdir(parents=True)
        site = make_site()
        for method in ("GET", "HEAD"):
            answer = await ask(site, target, method)
            assert answer.status == 308
            assert answer.body == b""
            assert answer.fields["Location"] == location
            assert answer.fields["Content-Length"] == "0"

    async def test_the_redirect_leads_to_the_index(self, root: Path, make_site: Sites) -> None:
        (root / "a b/c%d").mkdir(parents=True)
        (root / "a b/c%d/index.html").write_bytes(PAGE)
        site = make_site()
        redirect = await ask(site, "/a%20b/c%25d?e")
        target = urljoin("/a%20b/c%25d?e", redirect.fields["Location"])
        assert target == "/a%20b/c%25d/?e"
        assert (await ask(site, target)).body == PAGE

    async def test_folders_behind_links_are_folders_while_they_are_inside(
        self, root: Path, make_site: Sites
    ) -> None:
        write(root, {"folder/index.html": PAGE})
        write(root.parent, {"outside/index.html": b"outside"})
        (root / "inside").symlink_to("folder")
        (root / "out").symlink_to("../outside")
        site = make_site()
        assert (await ask(site, "/inside")).status == 308
        assert (await ask(site, "/inside/")).body == PAGE
        for target in ("/out", "/out/", "/out/index.html"):
            assert (await ask(site, target)).status == 404, target


class TestNotFound:
    async def test_without_a_page_of_the_site_it_is_a_text_or_a_small_page(
        self, root: Path, make_site: Sites
    ) -> None:
        site = make_site()
        text = await ask(site, "/nothing")
        assert (text.status, text.body) == (404, b"----Not found----")
        page = await ask(site, "/nothing", accept="text/html,*/*;q=0.8")
        assert (page.status, page.body[:15]) == (404, b"<!doctype html>")
        head = await ask(site, "/nothing", "HEAD")
        assert head == Answer(404, text.fields, b"")

    @pytest.mark.parametrize("target", ["/nothing", "/folder/", "/folder/nothing", "/nothing/", "/.env"])
    async def test_the_page_of_the_root_is_sent_with_status_404(
        self, root: Path, make_site: Sites, target: str
    ) -> None:
        write(root, {"404.html": NOT_FOUND, "folder/404.html": b"not of the root", ".env": b"hidden"})
        site = make_site()
        answer = await ask(site, target)
        assert answer == Answer(
            404,
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(NOT_FOUND)),
                "Cache-Control": "no-cache",
                "X-Content-Type-Options": "nosniff",
            },
            NOT_FOUND,
        )
        assert await ask(site, target, "HEAD") == Answer(404, answer.fields, b"")

    @pytest.mark.parametrize(
        "fields",
        [
            {"range": "bytes=0-1"},
            {"if_none_match": "*"},
            {"if_modified_since": format_http_date(NOW_S)},
            {"if_match": '"another"'},
            {"accept": "text/plain"},
        ],
    )
    async def test_the_page_is_whole_whatever_was_asked_of_the_file(
        self, root: Path, make_site: Sites, fields: dict[str, str]
    ) -> None:
        write(root, {"404.html": LARGE})
        answer = await ask(make_site(), "/nothing", **fields)
        assert (answer.status, answer.body) == (404, LARGE)

    async def test_the_page_is_a_file_like_any_other_by_its_own_name(
        self, root: Path, make_site: Sites
    ) -> None:
        write(root, {"404.html": NOT_FOUND})
        site = make_site(index=("404.html",))
        for target in ("/404.html", "/"):
            answer = await ask(site, target)
            assert (answer.status, answer.body) == (200, NOT_FOUND)
            assert "ETag" in answer.fields

    @pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a link outside", "a loop"])
    async def test_what_is_no_file_of_the_site_is_no_page(
        self, root: Path, make_site: Sites, kind: str
    ) -> None:
        write(root.parent, {"outside.html": b"outside"})
        page = root / "404.html"
        match kind:
            case "a folder":
                page.mkdir()
            case "a FIFO":
                os.mkfifo(page)
            case "a link outside":
                page.symlink_to("../outside.html")
            case "a loop":
                page.symlink_to("404.html")
        answer = await ask(make_site(), "/nothing")
        assert (answer.status, answer.body) == (404, b"----Not found----")

    async def test_a_page_that_may_not_be_read_leaves_the_text(
        self, public_root: Path, open_files: Open
    ) -> None:
        write(public_root, {"page.html": PAGE})
        (public_root / "404.html").touch(0o000)
        site = Site(open_files(public_root), routes=Routes(index=()))
        with without_privileges():
            answer = await ask(site, "/nothing")
            assert (answer.status, answer.body) == (404, b"----Not found----")
            # By its own name it is as forbidden as any other.
            assert (await ask(site, "/404.html")).status == 403
            assert (await ask(site, "/page.html")).body == PAGE


class TestHiddenNames:
    @pytest.mark.parametrize(
        ("target", "status", "shown_status"),
        [
            ("/.env", 404, 200),
            ("/%2eenv", 404, 200),
            ("/.git", 404, 308),
            ("/.git/", 404, 200),
            ("/.git/page.txt", 404, 200),
            ("/folder/.env", 404, 200),
            ("/.well-known", 308, 308),
            ("/.well-known/", 200, 200),
            ("/.well-known/page.txt", 200, 200),
            ("/%2Ewell-known/page.txt", 200, 200),
            ("/.well-known/.env", 404, 200),
            ("/folder/.well-known/page.txt", 404, 200),
        ],
    )
    async def test_they_do_not_exist_unless_they_are_well_known_or_shown(
        self, root: Path, make_site: Sites, target: str, status: int, shown_status: int
    ) -> None:
        write(root, {".env": b"", "folder/.env": b""})
        for folder in (".git", ".well-known", "folder/.well-known"):
            write(root / folder, {"index.html": b"", "page.txt": b"", ".env": b""})
        assert (await ask(make_site(), target)).status == status
        assert (await ask(make_site(hidden=True), target)).status == shown_status


class TestSingleFile:
    """A root that is one file: it is served at "/" and at its own name, nothing else is."""

    @pytest.mark.parametrize(
        "name", [b"page.html", b"two words.html", b"100%.html", b"\xff.html", b".hidden.html"]
    )
    async def test_it_is_at_the_root_and_at_its_own_name(
        self, root: Path, make_site: Sites, name: bytes
    ) -> None:
        (root / os.fsdecode(name)).write_bytes(PAGE)
        site = make_site(name=os.fsdecode(name))
        for target in ("/", "/?a=b", path_of(name), path_of(name) + "?a=b"):
            answer = await ask(site, target)
            assert (answer.status, answer.body) == (200, PAGE), target
            assert answer.fields["Content-Type"] == "text/html; charset=utf-8"
            assert await ask(site, target, "HEAD") == Answer(200, answer.fields, b"")

    async def test_nothing_else_is(self, root: Path, make_site: Sites) -> None:
        write(root, {"page.html": PAGE, "other.html": b"other", "index.html": HOME, "404.html": NOT_FOUND})
        site = make_site(name="page.html")
        others = ["/other.html", "/index.html", "/404.html", "/page.html/", "/page.html/x", "/x/page.html"]
        for target in (*others, "/page", "/PAGE.HTML", "/root/page.html"):
            answer = await ask(site, target)
            assert (answer.status, answer.body) == (404, b"----Not found----"), target

    async def test_it_has_ranges_and_validators(self, root: Path, make_site: Sites) -> None:
        write(root, {"large.bin": LARGE})
        site = make_site(name="large.bin")
        assert (await ask(site, "/", range="bytes=-10")).body == LARGE[-10:]
        assert (await ask(site, "/", if_none_match="*")).status == 304

    async def test_while_it_is_gone_it_is_not_found(self, root: Path, make_site: Sites) -> None:
        write(root, {"page.html": PAGE})
        site = make_site(name="page.html")
        (root / "page.html").unlink()
        assert (await ask(site, "/")).status == 404
        write(root, {"page.html": PAGE})
        assert (await ask(site, "/")).body == PAGE


class TestErrors:
    async def test_what_may_not_be_read_is_forbidden(self, public_root: Path, open_files: Open) -> None:
        write(public_root, {"closed/page.html": PAGE, "404.html": NOT_FOUND})
        (public_root / "secret.txt").touch(0o000)
        (public_root / "index.html").touch(0o000)
        (public_root / "index.htm").touch(0o644)
        (public_root / "closed").chmod(0o000)
        site = Site(open_files(public_root), routes=Routes(index=("index.html", "index.htm")))
        with without_privileges():
            for target in ("/secret.txt", "/", "/closed/page.html", "/closed/nothing", "/closed/"):
                answer = await ask(site, target)
                assert (answer.status, answer.body) == (403, b"403 Forbidden\n"), target
                head = await ask(site, target, "HEAD")
                assert head == Answer(403, answer.fields, b"")

    @pytest.mark.parametrize("target", ["/page.html", "/nothing", "/"])
    async def test_without_descriptors_the_answer_is_later_and_never_not_found(
        self, root: Path, make_site: Sites, target: str
    ) -> None:
        write(root, {"page.html": PAGE, "index.html": HOME})
        site = make_site()
        usual = await ask(site, target)
        assert await ask(site, target) == usual  # started before, with all that is imported late
        with no_descriptor_left():
            answer = await ask(site, target)
        assert (answer.status, answer.body) == (503, b"503 Service Unavailable\n")
        assert answer.fields["Retry-After"] == "1"
        assert await ask(site, target) == usual

    async def test_without_a_free_thread_the_answer_is_later(self, root: Path) -> None:
        write(root, {"page.html": PAGE})
        disk, may_go, is_held = Disk(threads=1, queue_s=0.01), threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(is_held.set)
            may_go.wait()

        holding = asyncio.create_task(disk.run("another", hold, queue_s=None))
        await is_held.wait()
        files = Files(root, disk=disk)
        site = Site(files, routes=Routes(index=()))
        assert (await ask(site, "/page.html")).status == 503
        may_go.set()
        await holding
        assert (await ask(site, "/page.html")).body == PAGE
        files.close()
        disk.close()

    async def test_while_the_root_is_gone_the_answer_is_later(self, root: Path, make_site: Sites) -> None:
        write(root, {"index.html": HOME})
        now_s = 0.0
        site = make_site(clock=lambda: now_s)
        os.rename(root, root.parent / "away")
        now_s += 60
        for target in ("/", "/nothing"):
            assert (await ask(site, target)).status == 503
        os.rename(root.parent / "away", root)
        assert (await ask(site, "/")).body == HOME

    @pytest.mark.parametrize("accept", ["text/html", "text/plain"])
    async def test_their_bodies_say_nothing_of_the_disk(
        self, public_root: Path, open_files: Open, accept: str
    ) -> None:
        (public_root / "secret.txt").touch(0o000)
        site = Site(open_files(public_root), routes=Routes(index=()))
        with without_privileges():
            for target in ("/secret.txt", "/nothing.txt"):
                answer = await ask(site, target, accept=accept)
                said = answer.body + repr(answer.fields).encode()
                for secret in (bytes(public_root), b".txt", b"rrno", b"ermission"):
                    assert secret not in said

    @pytest.mark.parametrize(
        "target",
        ["/%00", "/page.html%00", "/a%2Fb", "/..%2f..%2fetc", "/%", "/%4", "/%zz", "*", "page.html", "a:80"],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
    async def test_a_target_that_names_nothing_is_a_bad_request(
        self, root: Path, make_site: Sites, method: str, target: str
    ) -> None:
        write(root, {"page.html": PAGE})
        with pytest.raises(BadRequest) as caught:
            await ask(make_site(), target, method)
        assert caught.value.status == 400


class TestOtherMethods:
    @pytest.mark.parametrize("target", ["/page.html", "/nothing", "/", "*"])
    async def test_options_says_what_is_understood(self, root: Path, make_site: Sites, target: str) -> None:
        write(root, {"page.html": PAGE})
        answer = await ask(make_site(), target, "OPTIONS")
        assert answer == Answer(204, {"Allow": "GET, HEAD, OPTIONS"}, b"")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
    @pytest.mark.parametrize("target", ["/page.html", "/nothing", "/folder", "/"])
    async def test_other_registered_methods_are_not_allowed(
        self, root: Path, make_site: Sites, method: str, target: str
    ) -> None:
        write(root, {"page.html": PAGE, "folder/index.html": PAGE})
        answer = await ask(make_site(), target, method)
        assert (answer.status, answer.body) == (405, b"405 Method Not Allowed\n")
        assert answer.fields["Allow"] == "GET, HEAD, OPTIONS"

    async def test_they_do_not_ask_the_disk(self, root: Path, make_site: Sites) -> None:
        write(root, {"page.html": PAGE})
        site = make_site()
        for _ in range(2):  # started before, with all that is imported late
            assert (await ask(site, "/page.html")).status == 200
        with no_descriptor_left():
            assert (await ask(site, "/page.html")).status == 503
            assert (await ask(site, "/page.html", "POST")).status == 405
            assert (await ask(site, "/page.html", "OPTIONS")).status == 204

    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [("CONNECT", "host:80", 405), ("BREW", "/", 501), ("get", "/", 501), ("Head", "/", 501)],
    )
    async def test_a_method_after_which_the_connection_cannot_go_on_is_a_bad_request(
        self, make_site: Sites, method: str, target: str, status: int
    ) -> None:
        with pytest.raises(BadRequest) as caught:
            await ask(make_site(), target, method)
        assert caught.value.status == status


# Each way that an answer may take, most of which never send the file that was opened for them.
EXCHANGES = [
    pytest.param(make_request("/large.bin"), 200, id="a file"),
    pytest.param(make_request("/large.bin", "HEAD"), 200, id="HEAD of a file"),
    pytest.param(make_request("/"), 200, id="an index"),
    pytest.param(make_request("/large.bin", if_none_match="*"), 304, id="not modified"),
    pytest.param(make_request("/large.bin", if_match='"another"'), 412, id="a failed precondition"),
    pytest.param(make_request("/large.bin", range="bytes=1-"), 206, id="a range"),
    pytest.param(make_request("/large.bin", range="bytes=0-0,100000-"), 206, id="two ranges"),
    pytest.param(make_request("/large.bin", range="bytes=9999999-"), 416, id="no such range"),
    pytest.param(make_request("/folder"), 308, id="a folder"),
    pytest.param(make_request("/nothing"), 404, id="the page for what is not there"),
    pytest.param(make_request("/nothing", "HEAD"), 404, id="HEAD of what is not there"),
    pytest.param(make_request("/large.bin", "POST"), 405, id="another method"),
]


def find_handles(plan: Plan) -> list[Handle]:
    pieces = plan.body.parts if isinstance(plan.body, Parts) else (plan.body,)
    return [piece.handle for piece in pieces if isinstance(piece, Slice)]


class TestNothingIsLeftOpen:
    """However the block ends; the fixture `disk` fails the test for any other descriptor."""

    @pytest.fixture
    def site(self, root: Path, make_site: Sites) -> Site:
        write(root, {"large.bin": LARGE, "index.html": LARGE, "folder/page.html": PAGE, "404.html": LARGE})
        return make_site()

    def is_anything_open(self, root: Path) -> bool:
        return any(is_open(root / name) for name in ("large.bin", "index.html", "404.html", "folder"))

    @pytest.mark.parametrize(("asked", "status"), EXCHANGES)
    async def test_when_it_ends_well(self, root: Path, site: Site, asked: Request, status: int) -> None:
        async with site.respond(asked, NOW_S) as plan:
            assert plan.status == status
            handles = find_handles(plan)
            assert self.is_anything_open(root) or not handles
        assert not self.is_anything_open(root)
        for handle in handles:
            with pytest.raises(ValueError, match="closed"):
                await handle.read(0, 1)

    @pytest.mark.parametrize(("asked", "status"), EXCHANGES)
    async def test_when_it_ends_by_an_exception_which_is_not_held_back(
        self, root: Path, site: Site, asked: Request, status: int
    ) -> None:
        error = ConnectionResetError("the client has left")

        async def fail() -> None:
            async with site.respond(asked, NOW_S) as plan:
                assert plan.status == status
                raise error

        with pytest.raises(ConnectionResetError) as caught:
            await fail()
        assert caught.value is error
        assert not self.is_anything_open(root)

    @pytest.mark.parametrize(("asked", "status"), EXCHANGES)
    async def test_when_it_is_cancelled(self, root: Path, site: Site, asked: Request, status: int) -> None:
        is_inside = asyncio.Event()

        async def stay() -> None:
            async with site.respond(asked, NOW_S) as plan:
                assert plan.status == status
                is_inside.set()
                await asyncio.get_running_loop().create_future()

        staying = asyncio.create_task(stay())
        await is_inside.wait()
        staying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await staying
        assert not self.is_anything_open(root)

    async def test_when_it_is_cancelled_while_the_file_is_being_looked_for(
        self, root: Path, site: Site
    ) -> None:
        """At each moment, from the first step to the last."""

        async def respond() -> None:
            async with site.respond(make_request("/large.bin"), NOW_S) as plan:
                assert plan.status == 200
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(respond()) for _ in range(200)]
        for task in tasks:
            await asyncio.sleep(0)
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in done)
        assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in done)

    async def test_a_file_that_is_being_sent_is_sent_as_it_was_when_it_was_found(
        self, root: Path, site: Site
    ) -> None:
        async with site.respond(make_request("/large.bin"), NOW_S) as plan:
            (root / "large.bin").unlink()
            (root / "large.bin").write_bytes(b"another")
            assert await read_body(plan.body) == LARGE
