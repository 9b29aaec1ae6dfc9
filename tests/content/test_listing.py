"""A folder as an answer: what is shown of it, in which order and form, and what its ETag stands for."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aioserve.content import listing as listing_module
from aioserve.content.files import Files, Refused
from aioserve.content.folder import Folder
from aioserve.content.listing import Listings
from aioserve.content.rendering import Renderer
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Pieces, Plan
from aioserve.protocol.target import parse_target
from tests.content.conftest import Open, count_open, without_privileges
from tests.content.test_site import NOW_S, Answer, make_request

OLD_NS = 1_700_000_000_000_000_000

List = Callable[..., Listings]


async def read_body(plan: Plan) -> bytes:
    if not isinstance(plan.body, Pieces):
        return getattr(plan.body, "data", b"")
    return b"".join([piece async for piece in plan.body.pieces])


@asynccontextmanager
async def answer(listings: Listings, request: Request) -> AsyncIterator[Plan]:
    listing = await listings.answer(request, parse_target(request.method, request.target), NOW_S)
    assert listing is not None
    try:
        yield listing.plan
    finally:
        await listing.close()


async def ask(listings: Listings, target: str, method: str = "GET", **fields: str) -> Answer:
    request = make_request(target, method, **fields)
    async with answer(listings, request) as plan:
        return Answer(plan.status, dict(plan.fields), await read_body(plan))


async def names(listings: Listings, query: str = "") -> list[str]:
    return (await ask(listings, f"/?format=text&{query}")).body.decode().split()


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.fixture
def make_listings(root: Path, open_files: Open, renderer: Renderer) -> List:
    """Makes lists that wait for their ETag however long it takes, unless told otherwise."""

    def make_listings(
        *, files: Files | None = None, patience_s: float | None = None, **options: object
    ) -> Listings:
        files = files or open_files(root, hidden=bool(options.get("hidden")))
        return Listings(files, renderer, patience_s=patience_s, **options)  # type: ignore[arg-type]

    return make_listings


def write(root: Path, *names: str, age_s: int = 0) -> None:
    for number, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.write_bytes(b"x" * number)
        os.utime(path, ns=(OLD_NS - age_s * 10**9,) * 2)


class TestForms:
    async def test_it_is_a_page_for_people(self, root: Path, make_listings: List) -> None:
        write(root, "a", "d/")
        answer = await ask(make_listings(), "/")
        assert answer.status == 200
        assert answer.fields == {
            "Content-Type": "text/html; charset=utf-8",
            "ETag": answer.fields["ETag"],
            "Vary": "Accept",
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": answer.fields["Content-Security-Policy"],
            "Referrer-Policy": "same-origin",
        }
        assert answer.body.startswith(b"<!doctype html>")
        assert answer.body.endswith(b"</html>\n") or answer.body.endswith(b"</html>")

    @pytest.mark.parametrize(
        ("query", "accept", "content_type"),
        [
            ("", "application/json", "application/json"),
            ("?format=json", "text/html", "application/json"),
            ("?format=nginx", "text/html", "application/json"),
            ("", "text/plain", "text/plain; charset=utf-8"),
        ],
    )
    async def test_it_is_data_for_programs(
        self, root: Path, make_listings: List, query: str, accept: str, content_type: str
    ) -> None:
        write(root, "a", "d/")
        answer = await ask(make_listings(), "/" + query, accept=accept)
        assert answer.fields["Content-Type"] == content_type
        assert answer.fields["Vary"] == "Accept"
        assert "Content-Security-Policy" not in answer.fields
        if "json" in content_type:
            assert [entry["name"].rstrip("/") for entry in json.loads(answer.body)] == ["d", "a"]
        else:
            assert answer.body == b"d/\na\n"

    @pytest.mark.parametrize("query", ["", "?format=json", "?format=text"])
    async def test_head_says_what_get_would(self, root: Path, make_listings: List, query: str) -> None:
        write(root, "a")
        listings = make_listings()
        got, head = await ask(listings, "/" + query), await ask(listings, "/" + query, "HEAD")
        assert head == Answer(200, got.fields, b"")

    async def test_what_cannot_be_understood_is_400(self, make_listings: List) -> None:
        assert (await ask(make_listings(), "/?format=xml")).status == 400

    async def test_no_folder_is_no_list(self, root: Path, make_listings: List) -> None:
        request = make_request("/absent/")
        assert await make_listings().answer(request, parse_target("GET", b"/absent/"), NOW_S) is None

    async def test_a_forbidden_folder_is_refused(self, root: Path, make_listings: List) -> None:
        (root / "d").mkdir(mode=0)
        listings = make_listings()
        with without_privileges(), pytest.raises(Refused) as caught:
            await ask(listings, "/d/")
        assert caught.value.status == 403

    async def test_a_folder_with_too_many_names_is_forbidden(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioserve.content.folder.MAX_NAMES", 2)
        monkeypatch.setattr("aioserve.content.folder._SLICE_NAMES", 3)
        write(root, "a", "b", "c")
        assert (await ask(make_listings(), "/")).status == 403


class TestOrder:
    @pytest.fixture
    def sizes(self, root: Path) -> Path:
        for number, (name, size_bytes) in enumerate([("b10", 5), ("B9", 9), ("a", 5), ("c", 1)]):
            (root / name).write_bytes(b"x" * size_bytes)
            os.utime(root / name, ns=(OLD_NS + number * 10**9,) * 2)
        for number, name in enumerate(["z", "y"]):
            (root / name).mkdir()
            os.utime(root / name, ns=(OLD_NS + number * 10**9,) * 2)
        return root

    @pytest.mark.parametrize(
        ("query", "ordered"),
        [
            ("", "y/ z/ a B9 b10 c"),
            ("sort=name&order=desc", "z/ y/ c b10 B9 a"),
            ("sort=size", "y/ z/ c a b10 B9"),
            ("sort=size&order=desc", "y/ z/ B9 a b10 c"),
            ("sort=date", "z/ y/ b10 B9 a c"),
            ("sort=date&order=desc", "y/ z/ c a B9 b10"),
        ],
    )
    @pytest.mark.parametrize("form", ["text", "json", "nginx", "html"])
    async def test_folders_come_first_and_then_what_is_asked_for(
        self, sizes: Path, make_listings: List, query: str, ordered: str, form: str
    ) -> None:
        answer = await ask(make_listings(), f"/?format={form}&{query}")
        if form == "text":
            found = answer.body.decode().split()
        elif form == "html":
            found = re.findall(r'class="name"><a href="([^"]*)"', answer.body.decode())
        else:
            found = [entry["name"] for entry in json.loads(answer.body)]
        assert [name.rstrip("/") for name in found] == ordered.replace("/", "").split()


class TestPages:
    @pytest.mark.parametrize("form", ["text", "json", "html"])
    async def test_together_they_are_the_folder(self, root: Path, make_listings: List, form: str) -> None:
        write(root, *(f"d{number}/" for number in range(3)), *(f"f{number}" for number in range(8)))
        listings = make_listings()
        whole = await names(listings)
        for sort in ("name", "size", "date"):
            found: list[str] = []
            for offset in range(0, 12, 4):
                answer = await ask(listings, f"/?format={form}&sort={sort}&limit=4&offset={offset}")
                text = answer.body.decode()
                if form == "text":
                    page = text.split()
                elif form == "json":
                    page = [entry["name"] for entry in json.loads(text)]
                else:
                    page = re.findall(r'class="name"><a href="([^"]*)"', text)
                assert len(page) <= 4
                found += page
            assert sorted(found) == sorted(whole)
            assert len(found) == 11

    async def test_the_size_is_told_while_the_folder_is_small(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(root, "a", "b", "c")
        listings = make_listings()
        assert (
            b"3 B" in re.findall(rb'(?s)class="summary">.*?</p>', (await ask(listings, "/?limit=1")).body)[0]
        )
        monkeypatch.setattr(listing_module, "_MAX_LOOKED_AT", 2)
        page = (await ask(listings, "/?limit=1")).body
        assert b" B" not in re.findall(rb'(?s)class="summary">.*?</p>', page)[0]
        assert b"3 files" in page

    async def test_only_what_is_shown_of_a_large_folder_is_looked_at(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing_module, "_MAX_LOOKED_AT", 2)
        looked_at: list[str] = []
        look_at = Folder.look_at

        async def watch(self: Folder, names: list[str], links: frozenset[str]) -> object:
            looked_at.extend(names)
            return await look_at(self, names, links)

        monkeypatch.setattr(Folder, "look_at", watch)
        write(root, "a", "b", "c", "d")
        await ask(make_listings(), "/?limit=2&offset=1")
        assert looked_at == ["b", "c"]


class TestEntityTag:
    async def test_it_is_the_same_while_nothing_changes(self, root: Path, make_listings: List) -> None:
        write(root, "a", "README.md")
        listings = make_listings()
        tags = {(await ask(listings, "/")).fields["ETag"] for _ in range(3)}
        assert len(tags) == 1
        assert not tags.pop().startswith("W/")

    @pytest.mark.parametrize("query", ["", "?format=json", "?format=nginx", "?format=text"])
    async def test_who_has_the_list_is_told_so(self, root: Path, make_listings: List, query: str) -> None:
        write(root, "a")
        listings = make_listings()
        etag = (await ask(listings, "/" + query)).fields["ETag"]
        for method in ("GET", "HEAD"):
            answer = await ask(listings, "/" + query, method, if_none_match=etag)
            assert answer == Answer(304, {"ETag": etag, "Vary": "Accept", "Cache-Control": "no-cache"}, b"")
        assert (await ask(listings, "/" + query, if_match='"another"')).status == 412
        assert (await ask(listings, "/" + query, if_match=etag)).status == 200

    async def test_a_date_decides_nothing(self, root: Path, make_listings: List) -> None:
        answer = await ask(
            make_listings(),
            "/",
            if_modified_since="Fri, 31 Dec 9999 23:59:59 GMT",
            if_unmodified_since="Thu, 01 Jan 1970 00:00:00 GMT",
        )
        assert answer.status == 200
        assert "Last-Modified" not in answer.fields

    async def test_each_view_has_its_own(self, root: Path, make_listings: List) -> None:
        write(root, "a", "b", "c")
        listings = make_listings()
        queries = [
            "",
            "sort=size",
            "order=desc",
            "offset=1",
            "limit=2",
            "format=json",
            "format=nginx",
            "format=text",
        ]
        tags = [(await ask(listings, f"/?{query}")).fields["ETag"] for query in queries]
        assert len(set(tags)) == len(queries)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda root: (root / "new").touch(), id="a new name"),
            pytest.param(lambda root: (root / "a").unlink(), id="a name less"),
            pytest.param(lambda root: (root / "a").rename(root / "c"), id="another name"),
            pytest.param(lambda root: (root / "a").write_bytes(b"longer"), id="another size"),
            pytest.param(lambda root: os.utime(root / "a", ns=(OLD_NS + 1,) * 2), id="another time"),
            pytest.param(lambda root: (root / "a").chmod(0o600), id="another mode"),
            pytest.param(lambda root: (root / "README.md").write_bytes(b"# Other"), id="another text below"),
        ],
    )
    async def test_a_change_of_what_is_shown_changes_it(
        self, root: Path, make_listings: List, change: Callable[[Path], object]
    ) -> None:
        write(root, "a", "d/", "README.md")
        listings = make_listings()
        before = (await ask(listings, "/")).fields["ETag"]
        change(root)
        assert (await ask(listings, "/", if_none_match=before)).status == 200

    async def test_a_file_that_becomes_a_folder_changes_it(self, root: Path, make_listings: List) -> None:
        write(root, "a")
        listings = make_listings()
        before = (await ask(listings, "/?format=text")).fields["ETag"]
        (root / "a").unlink()
        (root / "a").mkdir()
        assert (await ask(listings, "/?format=text")).fields["ETag"] != before

    async def test_one_template_more_or_less_changes_it(
        self, root: Path, open_files: Open, renderer: Renderer
    ) -> None:
        files = open_files(root)
        one = await ask(Listings(files, renderer), "/")
        other = await ask(Listings(files, Renderer(archives=["zip"])), "/")
        assert one.fields["ETag"] != other.fields["ETag"]


class TestPatience:
    """An answer does not wait long for its ETag."""

    async def test_it_begins_without_one(self, root: Path, make_listings: List) -> None:
        write(root, "a")
        answer = await ask(make_listings(patience_s=0), "/?format=json")
        assert "ETag" not in answer.fields
        assert [entry["name"] for entry in json.loads(answer.body)] == ["a"]

    @pytest.mark.parametrize("field", ["if_match", "if_none_match"])
    async def test_it_waits_when_it_is_asked_about_one(
        self, root: Path, make_listings: List, field: str
    ) -> None:
        listings = make_listings(patience_s=0)
        etag = (await ask(listings, "/", **{field: '"x"', "if_match": "*"})).fields["ETag"]
        assert etag

    async def test_a_text_waits_since_it_cannot_begin_with_a_blank(
        self, root: Path, make_listings: List
    ) -> None:
        answer = await ask(make_listings(patience_s=0), "/?format=text")
        assert "ETag" in answer.fields
        assert answer.body == b""

    async def test_its_first_byte_comes_before_the_folder_is_read(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_go_on = asyncio.Event()
        read_names = Folder.read_names

        async def wait(self: Folder, **options: object) -> object:
            await may_go_on.wait()
            return await read_names(self, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Folder, "read_names", wait)
        write(root, "a")
        request = make_request("/")
        async with answer(make_listings(patience_s=0), request) as plan:
            assert isinstance(plan.body, Pieces)
            assert await anext(plan.body.pieces) == b"\n"
            may_go_on.set()
            assert b'href="a"' in b"".join([piece async for piece in plan.body.pieces])

    async def test_a_disk_that_fails_then_tears_the_answer(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(self: Folder, **options: object) -> object:
            await asyncio.sleep(0)
            raise OSError(5, "the disk")

        monkeypatch.setattr(Folder, "read_names", fail)
        with pytest.raises(OSError, match="the disk"):
            await ask(make_listings(patience_s=0), "/")
        with pytest.raises(Refused) as caught:
            await ask(make_listings(), "/")
        assert caught.value.status == 503


class TestReadme:
    async def test_it_stands_on_the_first_page(self, root: Path, make_listings: List) -> None:
        (root / "README.md").write_text("# Hello & <b>")
        write(root, "a")
        listings = make_listings()
        assert b"<h3>Hello &amp; &lt;b&gt;</h3>" in (await ask(listings, "/")).body
        assert b"Hello" not in (await ask(listings, "/?offset=1")).body
        assert b"Hello" not in (await ask(listings, "/?format=json")).body

    async def test_a_long_one_is_cut(
        self, root: Path, make_listings: List, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing_module, "MAX_README_BYTES", 5)
        (root / "README").write_text("Hello world")
        page = (await ask(make_listings(), "/")).body
        assert b">Hello</pre>" in page
        assert b"This is the beginning" in page

    async def test_one_that_may_not_be_read_is_left_out(self, root: Path, make_listings: List) -> None:
        (root / "README.md").write_text("# Hello")
        (root / "README.md").chmod(0)
        listings = make_listings()
        with without_privileges():
            answer = await ask(listings, "/")
        assert answer.status == 200
        assert b"Hello" not in answer.body
        assert b'href="README.md"' in answer.body

    async def test_a_link_to_outside_is_none(self, root: Path, tmp_path: Path, make_listings: List) -> None:
        (tmp_path / "secret").write_text("secret")
        (root / "README").symlink_to(tmp_path / "secret")
        assert b"secret" not in (await ask(make_listings(), "/")).body


class TestHidden:
    async def test_names_with_a_dot_are_shown_when_asked_for(self, root: Path, make_listings: List) -> None:
        write(root, ".a", ".d/", "b")
        assert await names(make_listings()) == ["b"]
        assert await names(make_listings(hidden=True)) == [".d/", ".a", "b"]

    async def test_rules_are_hidden_at_the_root_alone(self, root: Path, make_listings: List) -> None:
        write(root, "d/", "d/_headers", "_headers", "a")
        listings = make_listings(hide=["_headers"])
        assert await names(listings) == ["d/", "a"]
        assert (await ask(listings, "/d/?format=text")).body == b"_headers\n"


class TestWhatIsKept:
    """The names of a large folder, as long as it has not changed."""

    @pytest.fixture
    def count_reads(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
        monkeypatch.setattr(listing_module, "_MIN_KEPT_NAMES", 2)
        # A folder that has just been changed counts as old, as if the test had waited.
        monkeypatch.setattr("aioserve.content.folder._RACY_NS", -(10**12))
        count = itertools.count()
        reads = [next(count)]
        read_names = Folder.read_names

        async def watch(self: Folder, **options: object) -> object:
            reads.append(next(count))
            return await read_names(self, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Folder, "read_names", watch)
        return lambda: len(reads) - 1

    async def test_it_is_read_once(
        self, root: Path, make_listings: List, count_reads: Callable[[], int]
    ) -> None:
        write(root, "a", "b", "c")
        listings = make_listings()
        for offset in range(3):
            assert await names(listings, f"offset={offset}&limit=1") == ["abc"[offset]]
        assert count_reads() == 1

    async def test_those_who_ask_together_wait_for_one(
        self, root: Path, make_listings: List, count_reads: Callable[[], int]
    ) -> None:
        write(root, "a", "b")
        listings = make_listings()
        assert await asyncio.gather(*(names(listings) for _ in range(8))) == [["a", "b"]] * 8
        assert count_reads() == 1

    async def test_a_change_is_seen_at_once(
        self, root: Path, make_listings: List, count_reads: Callable[[], int]
    ) -> None:
        write(root, "a", "b")
        listings = make_listings()
        assert await names(listings) == ["a", "b"]
        (root / "c").touch()
        assert await names(listings) == ["a", "b", "c"]
        (root / "a").write_bytes(b"12345")
        assert b'title="5 bytes"' in (await ask(listings, "/")).body
        assert count_reads() == 2

    async def test_links_are_followed_anew(
        self, root: Path, make_listings: List, count_reads: Callable[[], int]
    ) -> None:
        write(root, "a", "d/")
        (root / "link").symlink_to("d/x")
        listings = make_listings()
        assert await names(listings) == ["d/", "a"]
        (root / "d" / "x").touch()
        assert await names(listings) == ["d/", "a", "link"]
        assert count_reads() == 1

    async def test_a_small_one_is_not_kept(
        self, root: Path, make_listings: List, count_reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing_module, "_MIN_KEPT_NAMES", 3)
        write(root, "a", "b")
        listings = make_listings()
        await names(listings)
        await names(listings)
        assert count_reads() == 2

    async def test_there_is_a_limit(
        self, root: Path, make_listings: List, count_reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing_module, "_MAX_KEPT_NAMES", 5)
        write(root, "d/", "d/a", "d/b", "e/", "e/a", "e/b", "f/", "f/a", "f/b")
        listings = make_listings()
        for folder in "ddedfde":
            await ask(listings, f"/{folder}/?format=text")
        # Read: d, e, f for which e goes, and e again.
        assert count_reads() == 4

    async def test_a_folder_that_has_just_changed_is_not_kept(self, root: Path, make_listings: List) -> None:
        write(root, "a")
        listings = make_listings()
        await names(listings)
        assert not listings._kept


class TestItsLife:
    async def test_nothing_is_left_open_when_a_client_leaves(self, root: Path, make_listings: List) -> None:
        write(root, "d/", "d/a")
        listings = make_listings(patience_s=0)
        request = make_request("/d/")
        for pieces in (0, 1, 2):
            async with answer(listings, request) as plan:
                assert isinstance(plan.body, Pieces)
                for _ in range(pieces):
                    await anext(plan.body.pieces)
        assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()
        assert count_open(root) == 0

    async def test_nothing_is_left_open_when_it_is_cancelled(self, root: Path, make_listings: List) -> None:
        write(root, "d/", "d/a")
        listings = make_listings()
        for turns in range(12):
            task = asyncio.create_task(ask(listings, "/d/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()
