"""Forms are made once, kept within the budget, never of another content, and nobody waits long for them."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aioserve.content import files as files_module
from aioserve.content import forms as forms_module
from aioserve.content import site as site_module
from aioserve.content.compression import compress
from aioserve.content.disk import Disk
from aioserve.content.files import Files, Found
from aioserve.content.forms import MAX_BYTES, MIN_BYTES, Forms, decompress
from aioserve.content.route import Routes
from aioserve.content.site import Site
from aioserve.protocol.plan import Pieces, Slice
from aioserve.protocol.variant import Variant
from tests.content.conftest import Open, as_file, change_in_place, needs_at_once
from tests.content.test_compression import decode, each_coding
from tests.content.test_site import Answer, ask, make_request, read_body
from tests.network.waiting import wait_until

pytestmark = needs_at_once  # nothing is kept where a look may wait

TEXT = "".join(f"{number}: {number * number % 977} steps\n" for number in range(2_000)).encode()
OTHER = TEXT[::-1]
NOISE = random.Random(4).randbytes(20_000)

# More than is read when a file is found.
LONG = TEXT * (200_000 // len(TEXT) + 1)

# More than is made as a whole.
VAST = TEXT * (MAX_BYTES // len(TEXT) + 1)

GZIP = {"accept_encoding": "gzip"}


class Compressing:
    """Takes note of what is compressed whole, and holds it up while the gate is closed."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, coding: str, data: bytes) -> bytes:
        self.begun.append((coding, data))
        assert self.gate.wait(30), "the test has left it closed"
        return compress(coding, data)


@pytest.fixture
def compressing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compressing]:
    compressing = Compressing()
    monkeypatch.setattr(forms_module, "compress", compressing)
    yield compressing
    compressing.gate.set()


@pytest.fixture
def keeping_new_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is too new to be kept."""
    monkeypatch.setattr(files_module, "_RACY_NS", -(10**18))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks waits as long as it takes."""
    monkeypatch.setattr(forms_module, "_WAIT_S", 30)


Make = Callable[..., Forms]


@pytest.fixture
def make_forms(root: Path, open_files: Open, disk: Disk) -> Iterator[Make]:
    """Makes Forms of `root`, with the options of Files that are given."""
    made: list[Forms] = []

    def make_forms(**options: object) -> Forms:
        files = open_files(root, **{"cache_bytes": 1_000_000, **options})
        made.append(Forms(files, disk))
        return made[-1]

    yield make_forms
    for forms in made:
        forms.close()


async def find(forms: Forms, path: str, *, kept: bool = True) -> Found:
    """A file, to be closed. A look may always have to wait: until it is kept, if it is to be."""
    for _ in range(1000):
        found = await forms._files.find([as_file(path)])
        assert found is not None
        if found.kept is not None or not kept:
            return found
        found.close()
    raise AssertionError("it is never kept")


async def make(forms: Forms, path: str, coding: str = "gzip", *, kept: bool = True) -> bytes | None:
    """What is made of a file as it is now."""
    found = await find(forms, path, kept=kept)
    try:
        return take(await forms.make(found, coding))
    finally:
        found.close()


def take(form: Variant | None) -> bytes | None:
    """The content of a form, which is closed."""
    if form is None:
        return None
    data = form.handle.data
    form.handle.close()
    assert data is not None
    assert form.size_bytes == len(data)
    return data


async def find_form(forms: Forms, path: str, coding: str = "gzip", *, kept: bool = True) -> bytes | None:
    """What is kept of the form of a file as it is now."""
    found = await find(forms, path, kept=kept)
    try:
        form = forms.find(found, coding)
        return None if form is None else form.variant.handle.data
    finally:
        found.close()


def replace(path: Path, content: bytes) -> None:
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").rename(path)


def write_shorter(path: Path, content: bytes) -> None:
    path.write_bytes(content[:-1])


@pytest.mark.usefixtures("keeping_new_files", "patient")
class TestOnce:
    @each_coding
    async def test_what_was_made_is_kept_and_decoded_to_the_file(
        self, root: Path, make_forms: Make, compressing: Compressing, coding: str
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        assert await find_form(forms, "a.txt", coding) is None
        made = await make(forms, "a.txt", coding)
        assert made is not None
        assert decode(coding, made) == TEXT
        assert await find_form(forms, "a.txt", coding) == made
        assert compressing.begun == [(coding, TEXT)]

    @pytest.mark.parametrize("content", [TEXT, LONG], ids=["in memory", "behind its descriptor"])
    async def test_all_who_ask_meanwhile_get_the_same(
        self, root: Path, make_forms: Make, compressing: Compressing, content: bytes
    ) -> None:
        (root / "a.txt").write_bytes(content)
        forms = make_forms()
        compressing.gate.clear()
        asking = [asyncio.create_task(make(forms, "a.txt")) for _ in range(20)]
        await wait_until(lambda: compressing.begun)
        compressing.gate.set()
        (made,) = set(await asyncio.gather(*asking))
        assert made is not None
        assert decode("gzip", made) == content
        assert len(compressing.begun) == 1
        assert not forms._making
        assert forms._held_bytes == 0

    async def test_one_who_leaves_does_not_end_it_for_the_others(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        compressing.gate.clear()
        leaving, staying = (asyncio.create_task(make(forms, "a.txt")) for _ in range(2))
        await wait_until(lambda: compressing.begun)
        leaving.cancel()
        await asyncio.wait([leaving])
        compressing.gate.set()
        assert await staying is not None
        assert len(compressing.begun) == 1

    async def test_each_coding_is_a_form_of_its_own(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        await forms.load()
        for coding in forms.codings:
            assert await make(forms, "a.txt", coding) is not None
        kept = [await find_form(forms, "a.txt", coding) for coding in forms.codings]
        assert None not in kept
        assert len(set(kept)) == len(forms.codings)


@pytest.mark.usefixtures("patient")
class TestNeverStale:
    @pytest.mark.usefixtures("keeping_new_files")
    @pytest.mark.parametrize("change", [change_in_place, replace, write_shorter])
    async def test_of_another_content_another_is_made(
        self, root: Path, make_forms: Make, change: Callable[[Path, bytes], None]
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        await make(forms, "a.txt")
        change(root / "a.txt", OTHER)
        assert await find_form(forms, "a.txt") is None
        made = await make(forms, "a.txt")
        assert made is not None
        assert decode("gzip", made) == (root / "a.txt").read_bytes()
        assert await find_form(forms, "a.txt") == made

    @pytest.mark.usefixtures("keeping_new_files")
    async def test_of_a_file_that_is_gone_nothing_is_current(self, root: Path, make_forms: Make) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        await make(forms, "a.txt")
        kept = forms._files.cache.find((b"a.txt",), "gzip")
        assert kept is not None
        (root / "a.txt").unlink()
        assert not forms._files.is_current(kept)
        assert await forms._files.find([as_file("a.txt")]) is None

    @pytest.mark.usefixtures("keeping_new_files")
    @pytest.mark.parametrize("change", [change_in_place, replace, write_shorter])
    async def test_a_change_while_it_is_made_is_no_part_of_it(
        self, root: Path, make_forms: Make, compressing: Compressing, change: Callable[[Path, bytes], None]
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        compressing.gate.clear()
        before = asyncio.create_task(make(forms, "a.txt"))
        await wait_until(lambda: compressing.begun)
        change(root / "a.txt", OTHER)
        after = asyncio.create_task(make(forms, "a.txt"))
        await wait_until(lambda: len(compressing.begun) == 2)
        compressing.gate.set()
        old, new = await before, await after
        assert old is not None
        assert decode("gzip", old) == TEXT
        assert new is not None
        assert decode("gzip", new) == (root / "a.txt").read_bytes()
        # Whichever was kept last.
        assert await find_form(forms, "a.txt") in (None, new)

    async def test_neither_is_one_that_nothing_tells_from_what_was_before(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        """Both within a step of the clock, as long as each other."""
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        compressing.gate.clear()
        status = (root / "a.txt").stat()
        before = asyncio.create_task(make(forms, "a.txt", kept=False))
        await wait_until(lambda: compressing.begun)
        (root / "a.txt").write_bytes(OTHER)
        os.utime(root / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
        after = asyncio.create_task(make(forms, "a.txt", kept=False))
        await wait_until(lambda: len(compressing.begun) == 2)
        compressing.gate.set()
        old, new = await before, await after
        assert old is not None
        assert decode("gzip", old) == TEXT
        assert new is not None
        assert decode("gzip", new) == OTHER

    async def test_one_that_is_too_new_is_compressed_and_not_kept(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms()
        for number in range(3):
            made = await make(forms, "a.txt", kept=False)
            assert made is not None
            assert decode("gzip", made) == TEXT
            assert await find_form(forms, "a.txt", kept=False) is None
            assert len(compressing.begun) == number + 1

    @pytest.mark.usefixtures("keeping_new_files")
    async def test_a_large_one_that_has_changed_since_it_was_found_is_sent_as_it_is(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(LONG)
        forms = make_forms()
        found = await find(forms, "a.txt")
        (root / "a.txt").write_bytes(LONG[:-1])
        assert await forms.make(found, "gzip") is None
        assert compressing.begun == []
        assert forms.may_make(found, "gzip")
        found.close()
        made = await make(forms, "a.txt")
        assert made is not None
        assert decode("gzip", made) == LONG[:-1]


@pytest.mark.usefixtures("keeping_new_files", "patient")
class TestBudget:
    async def test_forms_and_files_share_it_and_what_was_not_used_for_long_goes(
        self, root: Path, make_forms: Make
    ) -> None:
        names = [f"{number}.txt" for number in range(40)]
        for name in names:
            (root / name).write_bytes(TEXT + name.encode())
        budget_bytes = 5 * len(TEXT)
        forms = make_forms(cache_bytes=budget_bytes)
        cache = forms._files.cache
        for name in names:
            assert await make(forms, name) is not None
            contents = [kept.variant.handle.data for kept in cache._contents.values()]
            assert sum(len(data) for data in contents if data is not None) <= budget_bytes
        assert await find_form(forms, names[-1]) is not None
        assert cache.find((names[0].encode(),), "gzip") is None

    async def test_one_that_has_no_room_is_made_each_time(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(LONG)
        forms = make_forms(cache_bytes=2048)
        for number in range(2):
            assert await make(forms, "a.txt") is not None
            assert len(compressing.begun) == number + 1
            assert await find_form(forms, "a.txt") is None

    async def test_without_a_cache_it_is_made_each_time(
        self, root: Path, make_forms: Make, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        forms = make_forms(cache_bytes=0)
        for number in range(2):
            made = await make(forms, "a.txt", kept=False)
            assert made is not None
            assert decode("gzip", made) == TEXT
            assert len(compressing.begun) == number + 1
        assert not forms._files.cache._contents

    async def test_only_so_much_is_made_at_once(
        self, root: Path, make_forms: Make, compressing: Compressing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forms_module, "_MAX_HELD_BYTES", 2 * len(TEXT) + 10)
        for name in ("a.txt", "b.txt", "c.txt"):
            (root / name).write_bytes(TEXT)
        forms = make_forms()
        compressing.gate.clear()
        asking = [asyncio.create_task(make(forms, name)) for name in ("a.txt", "b.txt")]
        await wait_until(lambda: len(compressing.begun) == 2)
        assert await make(forms, "c.txt") is None
        # Who asks for one that is made already takes no more room.
        asking.append(asyncio.create_task(make(forms, "a.txt")))
        await asyncio.sleep(0)
        compressing.gate.set()
        assert None not in await asyncio.gather(*asking)
        assert await make(forms, "c.txt") is not None


@pytest.mark.usefixtures("keeping_new_files", "patient")
class TestNotWorthIt:
    async def test_what_does_not_shrink_is_sent_as_it_is_and_not_tried_again(
        self, root: Path, make_site: MakeSite, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(NOISE)
        site = make_site()
        for _ in range(3):
            answer = await ask(site, "/a.txt", **GZIP)
            assert answer.body == NOISE
            assert "Content-Encoding" not in answer.fields
            assert answer.fields["Vary"] == "Accept-Encoding"
        assert len(compressing.begun) == 1

    async def test_as_soon_as_it_has_changed_it_is_tried_again(
        self, root: Path, make_site: MakeSite, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(NOISE)
        site = make_site()
        await ask(site, "/a.txt", **GZIP)
        (root / "a.txt").write_bytes(TEXT)
        answer = await ask(site, "/a.txt", **GZIP)
        assert answer.fields["Content-Encoding"] == "gzip"
        assert decode("gzip", answer.body) == TEXT

    async def test_what_saves_less_than_a_twentieth_does_not_count_as_smaller(
        self, root: Path, make_forms: Make
    ) -> None:
        (root / "a.txt").write_bytes(NOISE + b"a" * 1000)
        (root / "b.txt").write_bytes(NOISE + b"a" * 1200)
        forms = make_forms()
        assert await make(forms, "a.txt") is None
        assert await make(forms, "b.txt") is not None

    async def test_of_few_files_it_is_remembered(
        self, root: Path, make_forms: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forms_module, "_MAX_WORTHLESS", 5)
        forms = make_forms()
        for number in range(20):
            (root / f"{number}.txt").write_bytes(NOISE[number:])
            assert await make(forms, f"{number}.txt") is None
            assert 0 < len(forms._worthless) <= 5

    @pytest.mark.parametrize(
        ("name", "size_bytes", "coding"),
        [
            pytest.param("a.txt", MIN_BYTES - 1, None, id="a byte too short"),
            pytest.param("a.txt", MIN_BYTES, "gzip", id="long enough"),
            pytest.param("a.json", 5000, "gzip", id="JSON"),
            pytest.param("a.svg", 5000, "gzip", id="a drawing"),
            pytest.param("a.wasm", 5000, "gzip", id="WebAssembly"),
            pytest.param("a.png", 5000, None, id="an image"),
            pytest.param("a.zip", 5000, None, id="an archive"),
            pytest.param("a.woff2", 5000, None, id="a font that is compressed"),
            pytest.param("a.unheard-of", 5000, None, id="who knows what"),
        ],
    )
    async def test_what_is_short_or_compressed_already_is_not_tried(
        self, root: Path, make_site: MakeSite, name: str, size_bytes: int, coding: str | None
    ) -> None:
        (root / name).write_bytes(b"a" * size_bytes)
        answer = await ask(make_site(), f"/{name}", **GZIP)
        assert answer.fields.get("Content-Encoding") == coding


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(make_forms: Make) -> MakeSite:
    """Makes sites that make forms, with the options of Files that are given."""

    def make_site(*, precompressed: bool = False, **options: object) -> Site:
        forms = make_forms(**options)
        return Site(
            forms._files,
            routes=Routes(index=("index.html",), sidecars=precompressed),
            forms=forms,
            precompressed=precompressed,
        )

    return make_site


def is_plain(answer: Answer, content: bytes) -> bool:
    return answer.body == content and "Content-Encoding" not in answer.fields


@pytest.mark.usefixtures("keeping_new_files")
class TestWaiting:
    """Nobody waits long for a form who can have the file."""

    async def test_what_takes_long_is_sent_as_it_is_until_it_is_made(
        self, root: Path, make_site: MakeSite, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        site = make_site()
        compressing.gate.clear()
        for _ in range(3):
            answer = await ask(site, "/a.txt", **GZIP)
            assert is_plain(answer, TEXT)
            assert answer.fields["Vary"] == "Accept-Encoding"
        compressing.gate.set()
        forms = site._forms
        assert forms is not None
        await wait_until(lambda: not forms._making)
        answer = await ask(site, "/a.txt", **GZIP)
        assert answer.fields["Content-Encoding"] == "gzip"
        assert decode("gzip", answer.body) == TEXT

    async def test_nobody_remembers_that_it_was_sent_as_it_is(
        self, root: Path, make_site: MakeSite, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(TEXT)
        site = make_site()
        compressing.gate.clear()
        response = site.respond(make_request("/a.txt", **GZIP), 0)
        async with response:
            assert response.match is None

    async def test_who_takes_nothing_else_waits_as_long_as_it_takes(
        self, root: Path, make_site: MakeSite, compressing: Compressing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forms_module, "_WAIT_S", 0)
        (root / "a.txt").write_bytes(TEXT)
        site = make_site()
        compressing.gate.clear()
        asking = asyncio.create_task(ask(site, "/a.txt", accept_encoding="gzip, identity;q=0"))
        await wait_until(lambda: compressing.begun)
        assert is_plain(await ask(site, "/a.txt", **GZIP), TEXT)
        assert not asking.done()
        compressing.gate.set()
        answer = await asking
        assert answer.status == 200
        assert decode("gzip", answer.body) == TEXT

    async def test_closed_it_leaves_no_task_and_nothing_open(
        self, root: Path, make_site: MakeSite, compressing: Compressing
    ) -> None:
        (root / "a.txt").write_bytes(LONG)
        site = make_site()
        compressing.gate.clear()
        assert is_plain(await ask(site, "/a.txt", **GZIP), LONG)
        await wait_until(lambda: compressing.begun)
        forms = site._forms
        assert forms is not None
        forms.close()
        await wait_until(lambda: not forms._making)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # What was open the fixture of the disk looks at.


async def read_pieces(pieces: AsyncGenerator[bytes, None], received: bytearray) -> None:
    async for piece in pieces:
        received += piece


class TestOnTheWay:
    """What is too large to be made as a whole."""

    @each_coding
    async def test_it_is_compressed_while_it_is_sent(
        self, root: Path, make_site: MakeSite, compressing: Compressing, coding: str
    ) -> None:
        (root / "a.txt").write_bytes(VAST)
        site = make_site()
        plain = await ask(site, "/a.txt")
        answer = await ask(site, "/a.txt", accept_encoding=coding)
        assert answer.status == 200
        assert answer.fields["Content-Encoding"] == coding
        assert "Content-Length" not in answer.fields
        assert answer.fields["Accept-Ranges"] == "none"
        assert answer.fields["ETag"] != plain.fields["ETag"]
        assert decode(coding, answer.body) == VAST
        assert compressing.begun == []

    async def test_it_has_a_tag_that_can_be_asked_with(self, root: Path, make_site: MakeSite) -> None:
        (root / "a.txt").write_bytes(VAST)
        site = make_site()
        head = await ask(site, "/a.txt", "HEAD", **GZIP)
        assert (head.status, head.body) == (200, b"")
        answer = await ask(site, "/a.txt", if_none_match=head.fields["ETag"], **GZIP)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.fields["Vary"] == "Accept-Encoding"

    async def test_a_part_is_one_of_the_file_itself(self, root: Path, make_site: MakeSite) -> None:
        (root / "a.txt").write_bytes(VAST)
        site = make_site()
        answer = await ask(site, "/a.txt", range="bytes=5-99", **GZIP)
        assert answer.status == 206
        assert is_plain(answer, VAST[5:100])
        assert answer.fields["ETag"] == (await ask(site, "/a.txt")).fields["ETag"]

    async def test_who_takes_nothing_else_gets_no_part(self, root: Path, make_site: MakeSite) -> None:
        (root / "a.txt").write_bytes(VAST)
        answer = await ask(make_site(), "/a.txt", range="bytes=5-99", accept_encoding="gzip, identity;q=0")
        assert answer.status == 200
        assert decode("gzip", answer.body) == VAST

    @pytest.mark.usefixtures("keeping_new_files")
    async def test_that_a_part_was_asked_for_is_not_remembered_for_the_whole(
        self, root: Path, make_site: MakeSite
    ) -> None:
        (root / "a.txt").write_bytes(VAST)
        response = make_site().respond(make_request("/a.txt", range="bytes=5-99", **GZIP), 0)
        async with response:
            assert response.match is None

    async def test_one_that_becomes_shorter_is_an_error_of_the_disk(
        self, root: Path, make_site: MakeSite
    ) -> None:
        (root / "a.txt").write_bytes(VAST)
        site = make_site()
        async with site.respond(make_request("/a.txt", **GZIP), 0) as plan:
            assert isinstance(plan.body, Pieces)
            assert await anext(plan.body.pieces)
            os.truncate(root / "a.txt", 1_000_000)
            with pytest.raises(OSError, match="shorter"):
                await read_pieces(plan.body.pieces, bytearray())

    async def test_of_one_that_grows_it_is_what_was_announced(self, root: Path, make_site: MakeSite) -> None:
        (root / "a.txt").write_bytes(VAST)
        site = make_site()
        async with site.respond(make_request("/a.txt", **GZIP), 0) as plan:
            with (root / "a.txt").open("ab") as file:
                file.write(b"more")
            assert decode("gzip", await read_body(plan.body)) == VAST

    async def test_only_so_many_are_on_the_way_at_once(
        self, root: Path, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(site_module, "_MAX_CODERS", 2)
        (root / "a.txt").write_bytes(VAST)
        (root / "b.txt.gz").write_bytes(compress("gzip", VAST))
        site = make_site(precompressed=True)
        async with AsyncExitStack() as stack:
            for target, asked in (("/a.txt", GZIP), ("/b.txt", {})):
                plan = await stack.enter_async_context(site.respond(make_request(target, **asked), 0))
                assert isinstance(plan.body, Pieces)
                assert await anext(plan.body.pieces)
            response = site.respond(make_request("/a.txt", **GZIP), 0)
            plan = await stack.enter_async_context(response)
            assert isinstance(plan.body, Slice)
            assert response.match is None
            # Who cannot have it as it is may come again.
            assert (await ask(site, "/a.txt", accept_encoding="gzip, identity;q=0")).status == 503
            assert (await ask(site, "/b.txt")).status == 503
            assert (await ask(site, "/b.txt", **GZIP)).status == 200
        assert decode("gzip", (await ask(site, "/a.txt", **GZIP)).body) == VAST
        assert (await ask(site, "/b.txt")).body == VAST

    async def test_when_the_disk_is_closed_it_ends_as_an_error_of_the_disk(self, root: Path) -> None:
        (root / "a.txt").write_bytes(VAST)
        disk = Disk()
        files = Files(root, disk=disk)
        site = Site(files, routes=Routes(index=()), forms=Forms(files, disk))
        async with site.respond(make_request("/a.txt", **GZIP), 0) as plan:
            assert isinstance(plan.body, Pieces)
            assert await anext(plan.body.pieces)
            files.close()
            disk.close()
            with pytest.raises(OSError, match="closed"):
                await read_pieces(plan.body.pieces, bytearray())


class TestDecompressing:
    @each_coding
    @pytest.mark.parametrize("content", [b"", TEXT, NOISE * 30], ids=["nothing", "text", "noise"])
    async def test_what_was_compressed_is_as_it_was_before(
        self, root: Path, make_forms: Make, disk: Disk, coding: str, content: bytes
    ) -> None:
        (root / "a").write_bytes(compress(coding, content))
        found = await find(make_forms(), "a", kept=False)
        assert found.variant is not None
        pieces = [piece async for piece in decompress(disk, found.variant, coding)]
        found.close()
        assert b"".join(pieces) == content

    @each_coding
    async def test_what_is_broken_is_an_error_of_the_disk(
        self, root: Path, make_forms: Make, disk: Disk, coding: str
    ) -> None:
        (root / "a").write_bytes(compress(coding, NOISE * 30)[:-1])
        found = await find(make_forms(), "a", kept=False)
        assert found.variant is not None
        received = bytearray()
        with pytest.raises(OSError, match="end is missing"):
            await read_pieces(decompress(disk, found.variant, coding), received)
        found.close()
        assert (NOISE * 30).startswith(received)


async def test_before_they_are_loaded_nobody_knows_the_codings(make_forms: Make) -> None:
    forms = make_forms()
    with pytest.raises(BlockingIOError):
        _ = forms.codings
    await forms.load()
    assert "gzip" in forms.codings
