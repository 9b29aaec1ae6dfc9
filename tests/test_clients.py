"""The programs that people fetch files with, against the real command: each gets what it asked for.

A test is skipped where its program is not installed, and fails there when CI is set. The requests are those
that the programs make of themselves; what the answers have to be in detail is said by the other modules.
"""

from __future__ import annotations

import email
import email.policy
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Literal

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from tests.make_sample import SAMPLE_BYTES, format_sample
from tests.process import running_server

PUBLIC = Path(__file__).parent.parent / "public"
SAMPLE = format_sample()
CUT_BYTES = 300_001

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} has to be installed in CI")
        pytest.skip(f"{name} is not installed")
    return path


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the program in `folder`, without the proxies and settings of whoever runs the tests."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"}
    return subprocess.run(
        [find_program(program), *arguments], cwd=folder, env=environment, capture_output=True, timeout=50
    )


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The URL of public/, with its slash."""
    with running_server(PUBLIC) as server:
        yield server.url


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The sample file as an interrupted download leaves it."""
    path = tmp_path / "sample.txt"
    path.write_bytes(SAMPLE[:CUT_BYTES])
    return path


class TestCurl:
    def fetch(self, folder: Path, *arguments: str) -> bytes:
        """What curl writes. Fails when curl does."""
        done = run(folder, "curl", "-q", "--silent", "--show-error", "--max-time", "40", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_one_range_arrives_as_the_bytes_asked_for(self, site: str, tmp_path: Path) -> None:
        output = self.fetch(tmp_path, "-r", "524288-524415", "-w", " %{http_code}", site + "files/sample.txt")

        assert output == SAMPLE[524288:524416] + b" 206"

    def test_several_ranges_arrive_as_parts_that_a_mime_parser_reads(self, site: str, tmp_path: Path) -> None:
        output = self.fetch(tmp_path, "-i", "-r", "0-63,524288-524351,-64", site + "files/sample.txt")

        _, _, message = output.partition(b"\r\n")
        parsed = email.message_from_bytes(message, EmailMessage, policy=email.policy.HTTP)
        parts = list(parsed.iter_parts())
        assert [part["Content-Range"] for part in parts] == [
            f"bytes 0-63/{SAMPLE_BYTES}",
            f"bytes 524288-524351/{SAMPLE_BYTES}",
            f"bytes {SAMPLE_BYTES - 64}-{SAMPLE_BYTES - 1}/{SAMPLE_BYTES}",
        ]
        # The parser takes the CRLF before a boundary for a part of it, as MIME wants.
        assert [part.get_payload(decode=True) for part in parts] == [
            SAMPLE[:64],
            SAMPLE[524288:524352],
            SAMPLE[-64:],
        ]
        assert int(parsed["Content-Length"]) == len(message.partition(b"\r\n\r\n")[2])

    def test_a_cut_file_is_completed_with_only_what_is_missing(self, site: str, cut: Path) -> None:
        output = self.fetch(
            cut.parent,
            "-C",
            "-",
            "-o",
            cut.name,
            "-w",
            "%{http_code} %{size_download}",
            site + "files/sample.txt",
        )

        assert output.decode() == f"206 {SAMPLE_BYTES - CUT_BYTES}"
        assert cut.read_bytes() == SAMPLE

    def test_a_whole_file_stays_as_it_is_when_it_is_continued(self, site: str, tmp_path: Path) -> None:
        path = tmp_path / "sample.txt"
        path.write_bytes(SAMPLE)

        output = self.fetch(
            tmp_path, "-C", "-", "-o", path.name, "-w", "%{http_code}", site + "files/sample.txt"
        )

        assert output == b"416"
        assert path.read_bytes() == SAMPLE

    def test_many_files_arrive_whole_in_parallel(self, tmp_path: Path) -> None:
        root, folder = tmp_path / "root", tmp_path / "fetched"
        root.mkdir()
        folder.mkdir()
        names = [f"{number}.bin" for number in range(24)]
        for number, name in enumerate(names):
            (root / name).write_bytes(random.Random(number).randbytes(number * 40_009))

        with running_server(root) as server:
            self.fetch(
                folder, "--fail", "--parallel", "--parallel-max", "12", "--remote-name-all",
                *(server.url + name for name in names),
            )  # fmt: skip

        assert [name for name in names if (folder / name).read_bytes() != (root / name).read_bytes()] == []

    def test_http_1_1_fetches_everything_on_one_connection(self, site: str, tmp_path: Path) -> None:
        output = self.fetch(
            tmp_path, "-o", "1", "-o", "2", "-w", "%{http_code} %{num_connects}\n", site, site + "style.css"
        )

        assert output.split(b"\n")[:2] == [b"200 1", b"200 0"]
        assert (tmp_path / "2").read_bytes() == (PUBLIC / "style.css").read_bytes()

    def test_http_1_0_fetches_each_file_on_its_own_connection(self, site: str, tmp_path: Path) -> None:
        output = self.fetch(
            tmp_path, "--http1.0", "-o", "1", "-o", "2", "-w", "%{http_code} %{num_connects}\n",
            site, site + "files/sample.txt",
        )  # fmt: skip

        assert output.split(b"\n")[:2] == [b"200 1", b"200 1"]
        assert (tmp_path / "1").read_bytes() == (PUBLIC / "index.html").read_bytes()
        assert (tmp_path / "2").read_bytes() == SAMPLE

    def test_a_compressed_answer_unpacks_to_the_file(self, site: str, tmp_path: Path) -> None:
        assert self.fetch(tmp_path, "--compressed", site + "style.css") == (PUBLIC / "style.css").read_bytes()

    def test_head_shows_the_fields_and_ends_without_waiting_for_a_body(
        self, site: str, tmp_path: Path
    ) -> None:
        head = self.fetch(tmp_path, "-I", site + "files/sample.txt").decode().lower()

        assert head.startswith("http/1.1 200 ")
        assert f"\r\ncontent-length: {SAMPLE_BYTES}\r\n" in head
        assert "\r\ncontent-type: text/plain; charset=utf-8\r\n" in head
        assert head.endswith("\r\n\r\n")

    @pytest.mark.parametrize(
        ("save", "compare"),
        [
            pytest.param(("--etag-save", "tag"), ("--etag-compare", "tag"), id="by its entity tag"),
            pytest.param(("--remote-time",), ("-z", "first"), id="by the time of the copy"),
        ],
    )
    def test_a_copy_is_fetched_again_only_after_a_change(
        self, tmp_path: Path, save: tuple[str, ...], compare: tuple[str, ...]
    ) -> None:
        root = tmp_path / "root"
        root.mkdir()
        file = root / "news.txt"
        file.write_text("old")
        os.utime(file, (1_700_000_000, 1_700_000_000))
        status = ("-w", "%{http_code}")

        with running_server(root) as server:
            url = server.url + file.name
            first = self.fetch(tmp_path, *save, "-o", "first", *status, url)
            second = self.fetch(tmp_path, *compare, "-o", "second", *status, url)
            file.write_text("new!")
            third = self.fetch(tmp_path, *compare, "-o", "third", *status, url)

        assert (first, second, third) == (b"200", b"304", b"200")
        assert (tmp_path / "third").read_text() == "new!"


class TestWget:
    def fetch(self, folder: Path, *arguments: str) -> str:
        """What wget reports. Fails when wget does."""
        done = run(folder, "wget", "--no-config", "--tries=1", "--timeout=20", *arguments)
        report = done.stderr.decode()
        assert done.returncode == 0, report
        return report

    def test_a_mirror_of_the_site_has_every_file_and_is_not_fetched_twice(
        self, site: str, tmp_path: Path
    ) -> None:
        mirror = ("--mirror", "--no-host-directories", site)

        self.fetch(tmp_path, *mirror)
        # Without this option wget follows no links from a page that was answered with 304.
        again = self.fetch(tmp_path, "--no-if-modified-since", *mirror)

        names = sorted(path.relative_to(PUBLIC) for path in PUBLIC.rglob("*") if path.is_file())
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()) == names
        for name in names:
            assert (tmp_path / name).read_bytes() == (PUBLIC / name).read_bytes(), name
        assert again.count("not retrieving") == len(names)

    def test_a_cut_file_is_completed_with_only_what_is_missing(self, site: str, cut: Path) -> None:
        report = self.fetch(cut.parent, "-c", "--server-response", site + "files/sample.txt")

        assert "206 Partial Content" in report
        assert cut.read_bytes() == SAMPLE

    def test_a_whole_file_stays_as_it_is_when_it_is_continued(self, site: str, tmp_path: Path) -> None:
        path = tmp_path / "sample.txt"
        path.write_bytes(SAMPLE)

        report = self.fetch(tmp_path, "-c", site + "files/sample.txt")

        assert "already fully retrieved" in report
        assert path.read_bytes() == SAMPLE


class TestAria2:
    def test_eight_segments_make_the_whole_file(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        content = random.Random("segments").randbytes(64 << 20)
        (root / "large.bin").write_bytes(content)

        with running_server(root) as server:
            done = run(
                tmp_path, "aria2c", "--no-conf", "-x8", "-s8", "-k1M", "--max-tries=1",
                "--file-allocation=none", "--console-log-level=error", "--log=aria2.log", "--log-level=info",
                server.url + "large.bin",
            )  # fmt: skip

        assert done.returncode == 0, done.stdout
        log = (tmp_path / "aria2.log").read_text(errors="replace")
        assert len({line for line in log.splitlines() if line.startswith("Range: bytes=")}) >= 7
        assert log.count("HTTP/1.1 206 ") >= 7
        assert (tmp_path / "large.bin").read_bytes() == content


class TestHttpx:
    @pytest.fixture
    def client(self, site: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=site, trust_env=False, timeout=20) as client:
            yield client

    def test_a_hundred_requests_of_all_kinds_share_one_connection(self, client: httpx.Client) -> None:
        requests = [
            client.build_request("GET", "/"),
            client.build_request("HEAD", "/files/sample.txt"),
            client.build_request("GET", "/files/sample.txt", headers={"Range": "bytes=1-2"}),
            client.build_request("GET", "/files/sample.txt", headers={"Range": "bytes=9999999-"}),
            client.build_request("GET", "/files/sample.txt", headers={"If-None-Match": "*"}),
            client.build_request("GET", "/files/sample.txt", headers={"If-Match": '"another"'}),
            client.build_request("GET", "/guide"),
            client.build_request("GET", "/no-such-file"),
            client.build_request("DELETE", "/files/sample.txt"),
            client.build_request("OPTIONS", "/"),
        ]
        statuses, ends = [], set()

        for request in requests * 10:
            response = client.send(request)
            statuses.append(response.status_code)
            ends.add(response.extensions["network_stream"].get_extra_info("client_addr"))

        assert statuses[:9] == [200, 200, 206, 416, 304, 412, 308, 404, 405]
        assert statuses[9] in (200, 204)
        assert statuses == statuses[:10] * 10
        assert len(ends) == 1

    def test_ranges_put_together_are_the_file(self, client: httpx.Client) -> None:
        step = 100_003
        parts = []
        for start in range(0, SAMPLE_BYTES, step):
            response = client.get("/files/sample.txt", headers={"Range": f"bytes={start}-{start + step - 1}"})
            assert response.status_code == 206
            parts.append(response.content)

        assert b"".join(parts) == SAMPLE

    def test_a_range_of_another_version_gives_the_whole_file(self, client: httpx.Client) -> None:
        client.headers["Accept-Encoding"] = "identity"
        tag = client.head("/files/sample.txt").headers["ETag"]

        same = client.get("/files/sample.txt", headers={"Range": "bytes=0-9", "If-Range": tag})
        other = client.get("/files/sample.txt", headers={"Range": "bytes=0-9", "If-Range": '"another"'})

        assert (same.status_code, same.content) == (206, SAMPLE[:10])
        assert (other.status_code, other.content) == (200, SAMPLE)

    def test_a_download_that_is_given_up_does_not_disturb_the_next(self, client: httpx.Client) -> None:
        with client.stream("GET", "/files/sample.txt") as response:
            assert next(response.iter_bytes(1000)) == SAMPLE[:1000]

        assert client.get("/files/sample.txt").content == SAMPLE


class Visit:
    """A page with what went wrong on it: console messages, script errors, failed requests, bad answers."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on(
            "requestfailed", lambda request: self.problems.append(f"failed: {request.method} {request.url}")
        )
        page.on(
            "response",
            lambda answer: (
                self.problems.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
            ),
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = find_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    page = await browser.new_page()
    yield Visit(page)
    await page.close()


@pytest.mark.asyncio(loop_scope="module")
class TestChromium:
    @pytest.mark.parametrize(
        ("target", "title"),
        [
            pytest.param("", "aioserve: a folder over HTTP", id="the first page"),
            pytest.param("guide/", "Guide · aioserve", id="the index of a folder"),
            pytest.param("guide", "Guide · aioserve", id="a folder without its slash"),
        ],
    )
    async def test_a_page_loads_without_a_message_or_a_failed_request(
        self, site: str, visit: Visit, target: str, title: str
    ) -> None:
        response = await visit.page.goto(site + target, wait_until="networkidle")

        assert response is not None
        assert response.status == 200
        assert await visit.page.title() == title
        # The sheet was applied, and the logo is an image to the browser: types and nosniff agree.
        assert await visit.page.evaluate("document.styleSheets[0].cssRules.length") > 50
        assert await visit.page.locator(".brand img").evaluate("image => image.naturalWidth") > 0
        assert visit.problems == []

    async def test_a_second_visit_revalidates_and_loads_the_same(self, site: str, visit: Visit) -> None:
        await visit.page.goto(site, wait_until="networkidle")
        await visit.page.reload(wait_until="networkidle")

        assert await visit.page.title() == "aioserve: a folder over HTTP"
        assert visit.problems == []

    async def test_each_row_of_the_first_page_gets_the_answer_it_expects(
        self, site: str, visit: Visit
    ) -> None:
        await visit.page.goto(site)
        await visit.page.get_by_role("button", name="Send all").click()

        await expect(visit.page.get_by_role("status")).to_have_text(
            "All 9 answers as expected.", timeout=20_000
        )
        # Chromium logs each answer of 400 and above by itself, and those are what their rows ask for. A fetch
        # whose answer has no body it reports as aborted, though the script has it (Playwright's issue 32752).
        known = ("4", "console: Failed to load", f"failed: HEAD {site}files/sample.txt")
        assert [problem for problem in visit.problems if not problem.startswith(known)] == []

    async def test_a_missing_path_shows_the_page_of_the_site(self, site: str, visit: Visit) -> None:
        response = await visit.page.goto(site + "deep/down/no-such-page", wait_until="networkidle")

        assert response is not None
        assert response.status == 404
        assert await visit.page.get_by_role("heading", level=1).text_content() == "Not found"
        assert await visit.page.locator(".brand img").evaluate("image => image.naturalWidth") > 0
        assert visit.problems[0] == f"404: {site}deep/down/no-such-page"
        assert len(visit.problems) == 2  # and Chromium's line about it

    async def test_a_download_is_the_file(self, site: str, visit: Visit, tmp_path: Path) -> None:
        await visit.page.goto(site)
        async with visit.page.expect_download() as download:
            await visit.page.get_by_role("link", name="files/sample.txt").click()
        await (await download.value).save_as(tmp_path / "sample.txt")

        assert (tmp_path / "sample.txt").read_bytes() == SAMPLE

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1280])
    async def test_the_pages_fit_their_window(
        self,
        site: str,
        browser: Browser,
        tmp_path: Path,
        scheme: Literal["light", "dark"],
        width: int,
    ) -> None:
        """A screenshot of each page is left in the test's folder, for whoever wants to look."""
        page = await browser.new_page(
            color_scheme=scheme, viewport=ViewportSize(width=width, height=800), reduced_motion="reduce"
        )
        for name, target in [("first", ""), ("guide", "guide/"), ("missing", "no-such-file")]:
            await page.goto(site + target, wait_until="networkidle")
            if name == "first":
                await page.get_by_role("button", name="Send all").click()
                await expect(page.get_by_role("status")).to_contain_text("as expected", timeout=20_000)
            shot = await page.screenshot(path=tmp_path / f"{name}.png", full_page=True)

            assert shot.startswith(b"\x89PNG")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
        await page.close()
