"""What pages of one origin may read of another, and what isolation gives them, in a real Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.process import running_server
from tests.test_clients import CHROMIUM_OPTIONS, find_program

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = b"<!doctype html><link rel=icon href=data:,><title>page</title>\n"
CHUNK = bytes(range(256)) * 16

# Reads a part of another origin's file and all that a script can see of the answer.
READ_PART = """async url => {
    const answer = await fetch(url, {headers: {Range: "bytes=16-31", "X-Trace": "1"}});
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const fields = Object.fromEntries(answer.headers.entries());
    return {status: answer.status, bytes: [...bytes], fields};
}"""
READ = """async url => {
    try {
        return (await fetch(url)).status;
    } catch (error) {
        return error.name;
    }
}"""
SHARE = """async () => {
    const worker = new Worker("worker.js");
    const buffer = new SharedArrayBuffer(4);
    await new Promise(resolve => { worker.onmessage = resolve; worker.postMessage(buffer); });
    return new Int32Array(buffer)[0];
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    (root / "index.html").write_bytes(PAGE)
    (root / "chunk.bin").write_bytes(CHUNK)
    (root / "frame.html").write_bytes(PAGE)
    (root / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (root / "worker.js").write_text(
        "onmessage = message => { new Int32Array(message.data)[0] = 42; postMessage(0); };\n"
    )
    return root


@pytest.fixture(scope="module")
def app(root: Path) -> Iterator[str]:
    """The origin whose pages read."""
    with running_server(root) as server:
        yield server.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = find_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page()
    yield page
    await page.close()


class TestCors:
    @pytest.mark.parametrize("is_listed", [False, True], ids=["for all", "for this origin"])
    async def test_a_page_reads_a_part_and_sees_which(
        self, root: Path, app: str, page: Page, is_listed: bool
    ) -> None:
        options = ("--cors", app) if is_listed else ("--cors",)
        with running_server(root, *options) as server:
            await page.goto(app)
            answer = await page.evaluate(READ_PART, f"{server.url}chunk.bin")

        assert answer["status"] == 206
        assert bytes(answer["bytes"]) == CHUNK[16:32]
        fields = answer["fields"]
        assert fields["content-range"] == "bytes 16-31/4096"
        assert fields["content-length"] == "16"
        assert fields["accept-ranges"] == "bytes"
        assert {"etag", "last-modified", "content-type", "cache-control"} <= set(fields)

    async def test_a_page_sees_that_something_is_missing(self, root: Path, app: str, page: Page) -> None:
        with running_server(root, "--cors") as server:
            await page.goto(app)

            assert await page.evaluate(READ, f"{server.url}c/9/9") == 404

    async def test_a_page_of_another_origin_reads_nothing(self, root: Path, app: str, page: Page) -> None:
        with running_server(root, "--cors", "https://app.example") as server:
            await page.goto(app)

            assert await page.evaluate(READ, f"{server.url}chunk.bin") == "TypeError"

    async def test_without_the_option_nobody_else_reads(self, root: Path, app: str, page: Page) -> None:
        with running_server(root) as server:
            await page.goto(app)

            assert await page.evaluate(READ, f"{server.url}chunk.bin") == "TypeError"


class TestIsolation:
    async def test_memory_is_shared_with_workers(self, root: Path, page: Page) -> None:
        with running_server(root, "--coi") as server:
            await page.goto(server.url)

            assert await page.evaluate("crossOriginIsolated") is True
            assert await page.evaluate(SHARE) == 42

    async def test_without_the_option_it_is_not(self, app: str, page: Page) -> None:
        await page.goto(app)

        assert await page.evaluate("crossOriginIsolated") is False
        assert await page.evaluate("typeof SharedArrayBuffer") == "undefined"

    async def test_an_isolated_page_shows_images_of_a_server_that_all_may_read(
        self, root: Path, app: str, page: Page
    ) -> None:
        show = """url => new Promise(resolve => {
            const image = new Image();
            image.onload = () => resolve(true);
            image.onerror = () => resolve(false);
            image.src = url;
        })"""
        with running_server(root, "--coi") as isolated, running_server(root, "--cors") as server:
            await page.goto(isolated.url)

            assert await page.evaluate(show, f"{server.url}logo.svg") is True
            assert await page.evaluate(show, f"{isolated.url}logo.svg") is True


class TestSecurity:
    async def test_no_other_origin_shows_the_page_in_a_frame(self, root: Path, app: str, page: Page) -> None:
        frame = """url => new Promise(resolve => {
            const frame = document.createElement("iframe");
            frame.onload = () => resolve();
            frame.src = url;
            document.body.append(frame);
        })"""
        with running_server(root, "--security-headers") as server:
            await page.goto(server.url)
            await page.evaluate(frame, f"{server.url}frame.html")
            assert await page.frames[1].title() == "page"
            await page.goto(app)
            await page.evaluate(frame, f"{server.url}frame.html")

            assert await page.frames[1].title() != "page"

    async def test_the_sample_site_works_with_all_of_it(self, page: Page) -> None:
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        public = Path(__file__).parent.parent / "public"
        with running_server(public, "--security-headers", "--coi", "--cors") as server:
            await page.goto(server.url, wait_until="networkidle")
            assert await page.evaluate("document.styleSheets[0].cssRules.length") > 50

        assert problems == []
