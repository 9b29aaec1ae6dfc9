"""The sample site: its download is what the script makes, its links lead somewhere, it needs nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

import httpx
import pytest

from tests.make_sample import LINE_BYTES, SAMPLE_BYTES, SAMPLE_PATH, format_sample
from tests.process import running_server

PUBLIC = SAMPLE_PATH.parent.parent
PAGES = sorted(path.relative_to(PUBLIC).as_posix() for path in PUBLIC.rglob("*.html"))
TEXTS = sorted(
    path.relative_to(PUBLIC).as_posix()
    for path in PUBLIC.rglob("*")
    if path.suffix in {".html", ".css", ".js", ".svg"}
)

# What may stand where a URL is written out: the address in the commands, and the name of the SVG language.
KNOWN_ORIGINS = {"http://127.0.0.1:8080", "http://www.w3.org"}


@dataclass(slots=True)
class Page:
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


class PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.page.links.append(value)
            if name == "id" and value is not None:
                self.page.names.add(value)


def parse_page(text: str) -> Page:
    parser = PageParser()
    parser.feed(text)
    parser.close()
    return parser.page


@pytest.fixture(scope="module")
def site() -> Iterator[httpx.Client]:
    with running_server(PUBLIC) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


def test_the_sample_file_is_what_its_script_makes() -> None:
    assert SAMPLE_PATH.read_bytes() == format_sample()


def test_each_line_of_the_sample_file_says_where_it_begins() -> None:
    content = format_sample()

    assert len(content) == SAMPLE_BYTES
    for start in range(0, SAMPLE_BYTES, LINE_BYTES):
        line = content[start : start + LINE_BYTES]
        assert line.startswith(b"byte %07d of %d " % (start, SAMPLE_BYTES))
        assert line.endswith(b"\n")


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_place_on_it(site: httpx.Client, name: str) -> None:
    here = str(site.base_url.join(name))
    page = parse_page(site.get(here).text)

    assert page.links
    for link in page.links:
        target, fragment = urldefrag(urljoin(here, link))
        answer = site.get(target)
        assert answer.status_code == 200, link
        if fragment:
            assert fragment in parse_page(answer.text).names, link


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_loaded_from_anywhere_else(name: str) -> None:
    text = (PUBLIC / name).read_text()

    assert set(re.findall(r"\w+://[^/\"'\s)<]+", text)) <= KNOWN_ORIGINS
    assert re.findall(r"(?:href|src|srcset|action)=[\"']?//|url\(|@import", text) == []
