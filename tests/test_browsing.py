"""The page of a folder as its users have it: in a real browser, by the keyboard, and read by programs.

Pictures of it are left in the folder of each test, for whoever wants to look. The browser's tests are skipped
where there is none, and fail there when CI is set.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import wave
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import fsspec
import httpx
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright, expect

from tests.process import RunningServer, running_server
from tests.process import run as run_command
from tests.test_clients import CHROMIUM_OPTIONS, find_program, run

OLD_S = 1_700_000_000

HOSTILE = [
    b"<script>document.title='run'<script>",
    b"<img src=x onerror=document.title='run'>",
    b'" onmouseover="document.title=1" x="',
    b"' autofocus onfocus='document.title=1",
    b"line\nbreak\ttab",
    "\u202egnp.exe".encode(),
    "שלום עולם.txt".encode(),
    b"\xff\xfe.txt",
    b"javascript:document.title='run'",
    b"http:",
    b" two  words ",
    b"%2f",
    b"--help",
    b"?sort=size",
    b"#list",
    b"{{ 7 * 7 }}",
    b"x" * 251 + b".txt",
]


def make_png(width: int, height: int) -> bytes:
    """A small picture: dusk over water."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytearray()
    for y in range(height):
        rows.append(0)
        depth = y / height
        for x in range(width):
            shine = math.exp(-(((x / width - 0.6) * 3) ** 2)) * (1 - abs(depth - 0.55))
            colour = (250 * (1 - depth * 0.8) + 40 * shine, 120 + 60 * shine, 90 + 90 * depth)
            rows += bytes(min(255, int(part)) for part in colour)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


README = """\
# Tide measurements

Water levels at four harbours, every ten minutes. See [the notebooks](notebooks/) for how the figures were
made.

| File | What it holds |
| --- | --- |
| `measurements-*.parquet` | one row for each reading |
| `settings.toml` | the positions of the gauges |

- Times are UTC.
- Gaps are *not* filled. <script>document.title = "run"</script>

[![badge](https://badges.invalid/a.svg)](https://badges.invalid/)
"""


def fill(root: Path) -> None:
    """A folder as people have them, with names to be told apart."""
    files = {
        "analysis.py": b'"""Reads the measurements and draws them."""\n<b>not bold</b>\n',
        "archive-2025.tar.gz": bytes(12_340),
        "coast at dusk.png": make_png(320, 200),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
        b'<script>document.title="run"</script><circle cx="4" cy="4" r="4"/></svg>',
        "empty.txt": b"",
        "long.log": b"a line of a log\n" * 30_000,
        "measurements-1.csv": b"time,level\n0,1\n" * 50,
        "measurements-10.parquet": bytes(5_120),
        "measurements-2.parquet": bytes(48_120),
        "page.html": b"<script>parent.document.title='run'</script>",
        "README.md": README.encode(),
        "settings.toml": b"[gauges]\n",
        "talk.mp4": bytes(2_450),
    }
    for number, (name, content) in enumerate(files.items()):
        (root / name).write_bytes(content)
        os.utime(root / name, (OLD_S + number * 4_000_000,) * 2)
    with wave.open(str(root / "interview.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    for number, name in enumerate(["notebooks", "figures", "raw data"]):
        (root / name).mkdir()
        os.utime(root / name, (OLD_S + number * 9_000_000,) * 2)
    (root / "latest.parquet").symlink_to("measurements-10.parquet")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("browsing")
    (root / "tides").mkdir()
    fill(root / "tides")
    (root / "hostile").mkdir()
    for name in HOSTILE:
        (root / "hostile" / os.fsdecode(name)).write_bytes(name)
    (root / "many").mkdir()
    for number in range(10_000):
        (root / "many" / f"file {number}.txt").touch()
    (root / "empty").mkdir()
    with running_server(root, "--browse", "--log-format", "off") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = find_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        await browser.close()


class Visit:
    """A page, and what it did that it should not have done: messages, errors, requests to others."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        host = urlsplit(url).netloc

        def check(address: str) -> None:
            parts = urlsplit(address)
            if parts.scheme != "data" and parts.netloc != host:
                self.problems.append(f"elsewhere: {address}")

        page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("request", lambda request: check(request.url))

    async def find_names(self) -> list[str]:
        """The names that are seen, in their order."""
        found: list[str] = await self.page.evaluate(
            "[...document.querySelectorAll('#list tbody tr')].filter(row => row.checkVisibility())"
            ".map(row => row.querySelector('bdi').textContent)"
        )
        return found

    async def find_focus(self) -> str:
        """The name of the entry that has the focus, or the id of what has it."""
        found: str = await self.page.evaluate(
            "(e => e.closest('tbody') ? e.querySelector('bdi').textContent : e.id)(document.activeElement)"
        )
        return found


Open = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, server: RunningServer) -> AsyncIterator[Open]:
    """Opens a folder in a window of its own; at the end, nothing may have gone wrong in any."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    async def open_page(folder: str = "tides/", **options: Any) -> Visit:
        context = await browser.new_context(locale="en-GB", timezone_id="UTC", **options)
        contexts.append(context)
        visit = Visit(await context.new_page(), server.url)
        visits.append(visit)
        answer = await visit.page.goto(server.url + folder)
        assert answer is not None
        assert answer.status == 200
        return visit

    yield open_page
    for one in visits:
        assert await one.page.title() != "run"
        assert one.problems == []
    for context in contexts:
        await context.close()


BY_NAME = [
    "figures",
    "notebooks",
    "raw data",
    "analysis.py",
    "archive-2025.tar.gz",
    "coast at dusk.png",
    "drawing.svg",
    "empty.txt",
    "interview.wav",
    "latest.parquet",
    "long.log",
    "measurements-1.csv",
    "measurements-2.parquet",
    "measurements-10.parquet",
    "page.html",
    "README.md",
    "settings.toml",
    "talk.mp4",
]


@pytest.mark.asyncio(loop_scope="module")
class TestSorting:
    async def test_it_begins_by_name(self, visit: Open) -> None:
        one = await visit()
        assert await one.find_names() == BY_NAME
        await expect(one.page.get_by_role("columnheader", name="Name")).to_have_attribute(
            "aria-sort", "ascending"
        )

    @pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
    @pytest.mark.parametrize("column", ["Name", "Size", "Modified"])
    async def test_a_click_sorts_and_another_turns_it_around(
        self, visit: Open, server: RunningServer, scripts: bool, column: str
    ) -> None:
        one = await visit(java_script_enabled=scripts)
        other = await visit()
        header = one.page.get_by_role("columnheader", name=column)
        sort = {"Name": "name", "Size": "size", "Modified": "date"}[column]
        first = "desc"  # by name it is ascending already
        for order in (first, "asc"):
            await header.get_by_role("button").click()
            words = {"asc": "ascending", "desc": "descending"}
            await expect(header).to_have_attribute("aria-sort", words[order])
            query = dict(pair.split("=") for pair in urlsplit(one.page.url).query.split("&"))
            assert query == {"sort": sort, "order": order}
            await other.page.goto(f"{server.url}tides/?sort={sort}&order={order}")
            names = one.page.locator("#list tbody bdi")
            await expect(names).to_have_text(await other.find_names())

    async def test_in_place_it_asks_nobody(self, visit: Open) -> None:
        one = await visit()
        requests: list[str] = []
        one.page.on("request", lambda request: requests.append(request.url))
        await one.page.get_by_role("button", name="Size").click()
        await expect(one.page.get_by_role("status")).to_have_text("Sorted by size, descending")
        assert requests == []

    async def test_a_page_of_many_is_sorted_by_the_server(self, visit: Open) -> None:
        one = await visit("many/?limit=10")
        await one.page.get_by_role("button", name="Name").click()
        await one.page.wait_for_url("**/?order=desc&sort=name")
        assert (await one.find_names())[:2] == ["file 9999.txt", "file 9998.txt"]


@pytest.mark.asyncio(loop_scope="module")
class TestFiltering:
    async def test_what_is_typed_remains(self, visit: Open) -> None:
        one = await visit()
        await one.page.get_by_role("searchbox").fill("MEASURE parq")
        assert await one.find_names() == ["measurements-2.parquet", "measurements-10.parquet"]
        await expect(one.page.get_by_role("status")).to_have_text(f"2 of {len(BY_NAME)} names")
        await one.page.get_by_role("searchbox").fill("nothing like it")
        await expect(one.page.locator("#none")).to_be_visible()
        await one.page.get_by_role("searchbox").fill("")
        assert await one.find_names() == BY_NAME

    async def test_it_lasts_while_the_order_changes(self, visit: Open) -> None:
        one = await visit()
        await one.page.get_by_role("searchbox").fill("parquet")
        await one.page.get_by_role("button", name="Size").click()
        assert await one.find_names() == [
            "measurements-2.parquet",
            "latest.parquet",
            "measurements-10.parquet",
        ]


@pytest.mark.asyncio(loop_scope="module")
class TestKeys:
    async def test_arrows_move_through_the_list(self, visit: Open) -> None:
        one = await visit()
        press = one.page.keyboard.press
        await press("ArrowDown")
        assert await one.find_focus() == "figures"
        await press("ArrowDown")
        await press("ArrowDown")
        assert await one.find_focus() == "raw data"
        await press("ArrowUp")
        assert await one.find_focus() == "notebooks"
        await press("End")
        assert await one.find_focus() == BY_NAME[-1]
        await press("ArrowDown")
        assert await one.find_focus() == BY_NAME[-1]
        await press("Home")
        await press("ArrowUp")
        assert await one.find_focus() == "filter"

    async def test_enter_opens(self, visit: Open) -> None:
        one = await visit()
        await one.page.keyboard.press("ArrowDown")
        await one.page.keyboard.press("Enter")
        await one.page.wait_for_url("**/tides/figures/")
        await expect(one.page.get_by_role("heading", level=1)).to_have_text("figures")

    async def test_a_slash_filters_and_escape_goes_back(self, visit: Open) -> None:
        one = await visit()
        press = one.page.keyboard.press
        await press("/")
        assert await one.find_focus() == "filter"
        await one.page.keyboard.type("log")
        assert await one.find_names() == ["long.log"]
        await press("ArrowDown")
        assert await one.find_focus() == "long.log"
        await press("Escape")
        assert await one.find_names() == BY_NAME
        await press("/")
        await one.page.keyboard.type("x")
        await press("Escape")
        await expect(one.page.get_by_role("searchbox")).to_have_value("")
        await press("Escape")
        await expect(one.page.get_by_role("searchbox")).not_to_be_focused()

    async def test_enter_in_the_filter_opens_the_first(self, visit: Open) -> None:
        one = await visit()
        await one.page.keyboard.press("/")
        await one.page.keyboard.type("raw")
        await one.page.keyboard.press("Enter")
        await one.page.wait_for_url("**/tides/raw%20data/")

    async def test_the_first_key_goes_past_the_head(self, visit: Open) -> None:
        one = await visit()
        await one.page.keyboard.press("Tab")
        await expect(one.page.get_by_role("link", name="Skip to the list")).to_be_focused()
        await one.page.keyboard.press("Enter")
        assert await one.find_focus() == "list"
        await one.page.keyboard.press("ArrowDown")
        assert await one.find_focus() == "figures"


@pytest.mark.asyncio(loop_scope="module")
class TestPreview:
    async def show(self, visit: Visit, name: str) -> None:
        row = visit.page.get_by_role("table", name="Content of").get_by_role("row", name=name)
        await row.hover()
        await row.get_by_role("button", name="Preview").click()
        await expect(visit.page.get_by_role("dialog", name=name)).to_be_visible()

    @pytest.mark.parametrize("name", ["coast at dusk.png", "drawing.svg"])
    async def test_a_picture_is_seen(self, visit: Open, name: str) -> None:
        one = await visit()
        await self.show(one, name)
        picture = one.page.get_by_role("dialog").get_by_role("img", name=name)
        await expect(picture).to_have_js_property("complete", True)
        assert await picture.evaluate("image => image.naturalWidth") > 0

    async def test_a_sound_can_be_played(self, visit: Open) -> None:
        one = await visit()
        await self.show(one, "interview.wav")
        sound = one.page.locator("dialog audio")
        await expect(sound).to_have_js_property("duration", 1)

    async def test_what_cannot_be_shown_says_so(self, visit: Open) -> None:
        one = await visit()
        await self.show(one, "talk.mp4")
        await expect(one.page.get_by_text("It could not be shown.")).to_be_visible()

    @pytest.mark.parametrize("name", ["analysis.py", "page.html", "settings.toml", "empty.txt"])
    async def test_a_text_is_shown_as_it_was_written(
        self, visit: Open, server: RunningServer, name: str
    ) -> None:
        one = await visit()
        await self.show(one, name)
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{server.url}tides/{name}")).text
        assert await one.page.locator("dialog pre").text_content() == text

    async def test_of_a_long_text_the_beginning_is_loaded(self, visit: Open) -> None:
        one = await visit()
        await self.show(one, "long.log")
        await expect(one.page.get_by_text("This is the beginning of a longer file.")).to_be_visible()
        assert len(await one.page.locator("dialog pre").text_content() or "") == 256 * 1024

    async def test_keys_open_it_move_on_and_close_it(self, visit: Open) -> None:
        one = await visit()
        press = one.page.keyboard.press
        for _ in range(4):
            await press("ArrowDown")
        await press("Space")
        dialog = one.page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        await expect(dialog.get_by_role("heading")).to_have_text("analysis.py")
        await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
        await press("ArrowRight")
        await expect(dialog.get_by_role("heading")).to_have_text("coast at dusk.png")
        await press("ArrowLeft")
        await press("ArrowLeft")
        await expect(dialog.get_by_role("heading")).to_have_text("analysis.py")
        await press("ArrowRight")
        await press("Escape")
        await expect(dialog).to_be_hidden()
        assert await one.find_focus() == "coast at dusk.png"

    async def test_space_on_what_has_none_does_what_it_always_does(self, visit: Open) -> None:
        one = await visit()
        await one.page.keyboard.press("ArrowDown")
        await one.page.keyboard.press("Space")
        await expect(one.page.get_by_role("dialog")).to_be_hidden()

    async def test_a_click_beside_it_closes_it(self, visit: Open) -> None:
        one = await visit()
        await self.show(one, "analysis.py")
        await one.page.mouse.click(5, 5)
        await expect(one.page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.asyncio(loop_scope="module")
class TestHostileNames:
    async def test_they_are_text_and_lead_to_their_files(self, visit: Open, server: RunningServer) -> None:
        one = await visit("hostile/")
        links = await one.page.locator("#list tbody a").evaluate_all("links => links.map(link => link.href)")
        async with httpx.AsyncClient(trust_env=False) as client:
            contents = {(await client.get(link)).content for link in links}
        assert contents == set(HOSTILE)
        assert await one.page.locator("#list script, #list img").count() == 0

    async def test_they_can_be_filtered_sorted_and_previewed(self, visit: Open) -> None:
        one = await visit("hostile/")
        await one.page.get_by_role("button", name="Size").click()
        for link in await one.page.locator("#list tbody a[data-preview]").all():
            await link.focus()
            await one.page.keyboard.press("Space")
            await expect(one.page.locator("dialog pre")).to_be_visible()
            await one.page.keyboard.press("Escape")
        await one.page.get_by_role("searchbox").fill("<")
        assert len(await one.find_names()) == 2

    async def test_they_do_not_leave_their_place(self, visit: Open, tmp_path: Path) -> None:
        for width in (360, 1280):
            one = await visit("hostile/", viewport=ViewportSize(width=width, height=800))
            assert await one.page.evaluate("document.documentElement.scrollWidth") <= width
            await one.page.screenshot(path=tmp_path / f"{width}.png", full_page=True)


@pytest.mark.asyncio(loop_scope="module")
class TestManyNames:
    @pytest.mark.timeout(180)
    async def test_ten_thousand_fit_on_a_page(self, visit: Open) -> None:
        one = await visit("many/?limit=10000")
        names = await one.find_names()
        assert names == [f"file {number}.txt" for number in range(10_000)]
        await one.page.get_by_role("searchbox").fill("999")
        assert len(await one.find_names()) == 19
        await one.page.get_by_role("button", name="Name").click()
        assert (await one.find_names())[0] == "file 9999.txt"

    async def test_pages_lead_on_and_back(self, visit: Open) -> None:
        one = await visit("many/")
        assert len(await one.find_names()) == 1000
        await one.page.get_by_role("link", name="Next").click()
        await one.page.wait_for_url("**/?offset=1000")
        assert (await one.find_names())[0] == "file 1000.txt"
        await expect(one.page.get_by_role("navigation", name="Pages")).to_contain_text(
            "1,001 to 2,000 of 10,000"
        )
        await one.page.get_by_role("link", name="Previous").click()
        await one.page.wait_for_url("**/?offset=0")
        assert (await one.find_names())[0] == "file 0.txt"


@pytest.mark.asyncio(loop_scope="module")
class TestWithoutScripts:
    async def test_the_list_can_be_read_and_gone_through(self, visit: Open) -> None:
        one = await visit(java_script_enabled=False)
        names = one.page.locator("#list tbody bdi")
        await expect(names).to_have_text(BY_NAME)
        # What cannot work is not there.
        await expect(one.page.get_by_role("searchbox")).to_be_hidden()
        assert await one.page.get_by_role("button", name="Preview").count() == 0
        await one.page.get_by_role("link", name="raw data").click()
        await one.page.wait_for_url("**/tides/raw%20data/")
        await one.page.get_by_role("link", name="tides").click()
        await one.page.wait_for_url("**/tides/")


@pytest.mark.asyncio(loop_scope="module")
class TestReadme:
    async def test_it_is_rendered_and_runs_nothing(self, visit: Open) -> None:
        one = await visit()
        readme = one.page.get_by_role("region", name="README.md")
        await expect(readme.get_by_role("heading", name="Tide measurements")).to_be_visible()
        await expect(readme.get_by_text('<script>document.title = "run"</script>')).to_be_visible()
        await readme.get_by_role("link", name="the notebooks").click()
        await one.page.wait_for_url("**/tides/notebooks/")


@pytest.mark.asyncio(loop_scope="module")
class TestDates:
    async def test_they_are_in_the_time_of_the_reader(self, browser: Browser, server: RunningServer) -> None:
        context = await browser.new_context(locale="de-DE", timezone_id="Asia/Tokyo")
        page = await context.new_page()
        await page.goto(server.url + "tides/")
        time = page.get_by_role("row", name="analysis.py").locator("time")
        await expect(time).to_have_text("15.11.2023 07:13")
        await expect(time).to_have_attribute("title", "2023-11-14 22:13:20 UTC")
        await context.close()


@pytest.mark.asyncio(loop_scope="module")
class TestAccessibility:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    @pytest.mark.parametrize("folder", ["tides/", "hostile/", "empty/", "many/?limit=20&offset=40", ""])
    async def test_axe_finds_nothing(
        self, visit: Open, tmp_path: Path, scheme: Literal["light", "dark"], width: int, folder: str
    ) -> None:
        one = await visit(folder, color_scheme=scheme, viewport=ViewportSize(width=width, height=800))
        found = await Axe().run(one.page)
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found.response["violations"]] == []
        assert await one.page.evaluate("document.documentElement.scrollWidth") <= width
        await one.page.screenshot(path=tmp_path / "page.png", full_page=True)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("name", ["analysis.py", "coast at dusk.png", "interview.wav"])
    async def test_axe_finds_nothing_in_a_preview(
        self, visit: Open, tmp_path: Path, scheme: Literal["light", "dark"], name: str
    ) -> None:
        one = await visit(color_scheme=scheme)
        await TestPreview().show(one, name)
        await expect(one.page.locator("dialog :is(img, audio, pre)")).to_be_visible()
        found = await Axe().run(one.page)
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found.response["violations"]] == []
        await one.page.screenshot(path=tmp_path / "preview.png")

    async def test_a_table_says_what_it_is_on_every_screen(self, visit: Open) -> None:
        for width in (360, 1280):
            one = await visit(viewport=ViewportSize(width=width, height=800))
            table = one.page.get_by_role("table", name="Content of /tides/")
            assert await table.get_by_role("row").count() == len(BY_NAME) + 1
            assert await table.get_by_role("columnheader").count() == 3
            assert await table.get_by_role("rowheader").count() == len(BY_NAME)

    async def test_the_dark_scheme_is_dark(self, visit: Open) -> None:
        async def find_ground(scheme: str) -> int:
            one = await visit(color_scheme=scheme)
            colour: str = await one.page.evaluate("getComputedStyle(document.body).backgroundColor")
            return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

        assert await find_ground("dark") < 200 < 600 < await find_ground("light")


class TestPrograms:
    """Who reads the page or the data without eyes."""

    def test_wget_takes_the_folder_with_it(self, server: RunningServer, tmp_path: Path) -> None:
        done = run(tmp_path, "wget", "-r", "-np", "-nH", "-q", "-e", "robots=off", server.url + "tides/")
        assert done.returncode == 0, done.stderr
        found = {path.name for path in (tmp_path / "tides").iterdir()}
        # No page in another order, which many servers' links have it load.
        assert found == {*BY_NAME, "index.html"}

    def test_wget_takes_hostile_names(self, server: RunningServer, tmp_path: Path) -> None:
        run(
            tmp_path,
            "wget",
            "-r",
            "-np",
            "-nH",
            "-q",
            "--restrict-file-names=nocontrol",
            server.url + "hostile/",
        )
        contents = {
            path.read_bytes() for path in (tmp_path / "hostile").iterdir() if path.name != "index.html"
        }
        # One is too long for wget, and two have the names that it gives to pages.
        assert len(contents & set(HOSTILE)) >= len(HOSTILE) - 3

    def test_fsspec_lists_the_folder(self, server: RunningServer) -> None:
        files = fsspec.filesystem("http")
        url = server.url + "tides/"
        found = {entry["name"] for entry in files.ls(url)}
        expected = {name + "/" for name in BY_NAME[:3]} | set(BY_NAME[3:])
        assert {name.removeprefix(url).replace("%20", " ") for name in found} == expected
        assert files.cat(url + "settings.toml") == b"[gauges]\n"
        # The folder below is empty, and there is nothing that leads out of it.
        assert files.ls(url + "figures/") == []

    def test_links_are_read_as_rclone_reads_them(self, server: RunningServer) -> None:
        """Of all links, those that resolve to a name right below the folder, without a query."""
        base = httpx.URL(server.url + "tides/")
        page = httpx.get(base, trust_env=False).text
        names = set()
        for piece in page.split("<a ")[1:]:
            href = piece.split("href", 1)[1].lstrip(" =").split('"')[1]
            url = base.join(href)
            name = url.path.removeprefix(base.path)
            is_plain = url.host == base.host and not url.query and not url.fragment
            if is_plain and url.path.startswith(base.path) and name and "/" not in name[:-1]:
                names.add(name)
        assert names == {name + "/" for name in BY_NAME[:3]} | set(BY_NAME[3:])

    def test_json_is_what_programs_for_caddy_read(self, server: RunningServer) -> None:
        answer = httpx.get(server.url + "tides/", headers={"Accept": "application/json"}, trust_env=False)
        assert answer.headers["Content-Type"] == "application/json"
        entries = json.loads(answer.content)
        assert [entry["name"].rstrip("/") for entry in entries] == BY_NAME
        types = {
            "name": str,
            "size": int,
            "url": str,
            "mod_time": str,
            "mode": int,
            "is_dir": bool,
            "is_symlink": bool,
        }
        for entry in entries:
            assert {key: type(value) for key, value in entry.items()} == types
            assert entry["name"].endswith("/") is entry["is_dir"]
            followed = httpx.URL(server.url + "tides/").join(entry["url"])
            assert httpx.head(followed, trust_env=False).status_code == 200

    def test_curl_gets_a_name_on_each_line(self, server: RunningServer, tmp_path: Path) -> None:
        done = run(tmp_path, "curl", "-q", "-s", "-H", "Accept: text/plain", server.url + "tides/")
        assert done.stdout.decode().splitlines() == [name + "/" for name in BY_NAME[:3]] + BY_NAME[3:]

    def test_whoever_speaks_http_1_0_gets_a_whole_page(self, server: RunningServer, tmp_path: Path) -> None:
        done = run(tmp_path, "curl", "-q", "-s", "-0", server.url + "tides/")
        assert done.returncode == 0
        assert done.stdout.rstrip().endswith(b"</html>")

    def test_a_second_look_costs_nothing(self, server: RunningServer) -> None:
        with httpx.Client(trust_env=False) as client:
            for query in ("", "?format=json", "?format=nginx", "?format=text"):
                first = client.get(server.url + "tides/" + query)
                second = client.get(
                    server.url + "tides/" + query, headers={"If-None-Match": first.headers["ETag"]}
                )
                assert (second.status_code, second.content) == (304, b"")


class TestCommand:
    def test_without_the_option_there_is_no_list(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with running_server(tmp_path) as server:
            assert httpx.get(server.url, trust_env=False).status_code == 404

    def test_rules_and_hidden_names_are_not_listed(self, tmp_path: Path) -> None:
        for name in ("_headers", "_redirects", ".git", "a"):
            (tmp_path / name).touch()
        with running_server(tmp_path, "--browse") as server:
            assert httpx.get(f"{server.url}?format=text", trust_env=False).text == "a\n"
        with running_server(tmp_path, "--browse", "--hidden", "--no-rules") as server:
            found = httpx.get(f"{server.url}?format=text", trust_env=False).text
            assert found == ".git\n_headers\n_redirects\na\n"

    def test_downloads_are_offered_where_there_are_some(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"content")
        with running_server(tmp_path, "--browse", "--archive") as server:
            page = httpx.get(server.url, trust_env=False).text
            links = re.findall(r'href ="(\?archive=[^"]*)"', page)
            assert links[:3] == ["?archive=zip", "?archive=tar", "?archive=tar.gz"]
            for link in links:
                assert httpx.get(server.url + link, trust_env=False).status_code == 200

    def test_a_mounted_folder_knows_where_it_is(self, tmp_path: Path) -> None:
        for name in ("site", "other", "other/deep"):
            (tmp_path / name).mkdir()
        mounts = f"/docs={tmp_path / 'other'}"
        with running_server(tmp_path / "site", "--browse", "--mount", mounts) as server:
            page = httpx.get(f"{server.url}docs/deep/", trust_env=False).text
            assert "<title>/docs/deep/</title>" in page
            assert '<a href ="../../"' in page
            page = httpx.get(f"{server.url}docs/", trust_env=False).text
            assert 'rel="up" href ="../"' in page
            assert 'href="deep/"' in page

    def test_the_fields_of_the_owner_are_on_it_and_its_policy_stays(self, tmp_path: Path) -> None:
        with running_server(tmp_path, "--browse", "--security-headers", "--header", "X-One: 1") as server:
            answer = httpx.get(server.url, trust_env=False)
            assert answer.headers["X-One"] == "1"
            assert answer.headers.get_list("Content-Security-Policy") == [
                answer.headers["Content-Security-Policy"]
            ]
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]

    def test_a_template_of_ones_own_makes_the_page(self, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "a").touch()
        (tmp_path / "own.html").write_text("{% for row in rows %}<{{ row.name }}>{% endfor %}")
        with running_server(
            tmp_path / "site", "--browse", "--browse-template", tmp_path / "own.html"
        ) as server:
            assert httpx.get(server.url, trust_env=False).text == "<a>"

    @pytest.mark.parametrize(
        ("source", "reason"),
        [(None, "No such file or directory"), ("\n{% for %}", "line 2: ")],
        ids=["absent", "no template"],
    )
    def test_one_that_cannot_be_used_is_told_at_once(
        self, tmp_path: Path, source: str | None, reason: str
    ) -> None:
        path = tmp_path / "own.html"
        if source is not None:
            path.write_text(source)
        done = run_command("serve", tmp_path, "--browse", "--browse-template", path)
        assert done.returncode == 2
        assert f"browse-template: {path}: {reason}" in done.stderr
