"""How a list looks: for people, for programs that read JSON, and one name a line."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest

from aioserve.content.folder import Entry
from aioserve.content.readme import Readme
from aioserve.content.rendering import (
    Listed,
    Renderer,
    Row,
    find_kind,
    format_link,
    format_name,
    format_size,
)
from aioserve.protocol.media_types import _TYPE_BY_EXTENSION, _TYPE_BY_NAME
from aioserve.protocol.target import parse_target
from aioserve.protocol.view import Form, Sort, View

TIME_NS = 1_665_104_030_123_450_000  # 2022-10-07T00:53:50.12345Z

HOSTILE = [
    pytest.param(b"<script>alert(1)<script>", id="a script"),
    pytest.param(b"<img src=x onerror=alert(1)>", id="an image"),
    pytest.param(b'" onmouseover="alert(1)', id="a quote"),
    pytest.param(b"' onmouseover='alert(1)", id="a single quote"),
    pytest.param(b"a\nb\rc\td", id="line breaks"),
    pytest.param("\u202egnp.exe".encode(), id="right to left"),
    pytest.param("שלום.txt".encode(), id="hebrew"),
    pytest.param(b"\xff\xfe.txt", id="invalid utf-8"),
    pytest.param("\ud800".encode("utf-8", "surrogatepass"), id="half a surrogate pair"),
    pytest.param(b"javascript:alert(1)", id="a scheme"),
    pytest.param(b"http:", id="an address"),
    pytest.param(b"two  words ", id="blanks"),
    pytest.param(b"%2f", id="an encoded slash"),
    pytest.param(b"%", id="a percent sign"),
    pytest.param(b"--help", id="dashes"),
    pytest.param(b"?sort=size", id="a query"),
    pytest.param(b"#list", id="a fragment"),
    pytest.param(b"a&amp;b", id="an entity"),
    pytest.param(b"{{ 7 * 7 }}{% raw %}", id="a template"),
    pytest.param(b"..x", id="dots"),
    pytest.param(b"\\\\host\\share", id="backslashes"),
    pytest.param(b"x" * 255, id="as long as may be"),
    pytest.param(b"\x01\x7f\xc2\x85", id="control characters"),
]


def as_file(name: bytes, size_bytes: int = 8, mtime_ns: int = TIME_NS) -> Entry:
    return Entry(name, False, False, size_bytes, mtime_ns, stat.S_IFREG | 0o644)


def as_folder(name: bytes) -> Entry:
    return Entry(name, True, False, 4096, TIME_NS, stat.S_IFDIR | 0o755)


def listed(
    *entries: Entry, readme: Readme | None = None, segments: tuple[bytes, ...] = (b"a", b"b")
) -> Listed:
    folders = sum(entry.is_folder for entry in entries)
    return Listed(segments, entries, folders, len(entries) - folders, 1234, readme)


def render(renderer: Renderer, of: Listed, view: View | None = None) -> str:
    return b"".join(renderer.render(of, view or View(Form.HTML, limit=1000))).decode()


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


class Links(HTMLParser):
    """The links of a page by their names, and everything that it has which could run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str] = {}
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self._href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "a":
            self._href = dict(attrs).get("href")
        if tag == "bdi" and self._href is not None:
            self.names[self._href] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._href = None

    def handle_data(self, data: str) -> None:
        if self._href is not None and self._href in self.names:
            self.names[self._href] += data


def read_links(page: str) -> Links:
    links = Links()
    links.feed(page)
    links.close()
    return links


class TestNames:
    @pytest.mark.parametrize("name", HOSTILE)
    @pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
    def test_a_link_leads_to_its_name_and_nowhere_else(self, name: bytes, is_folder: bool) -> None:
        href = format_link(name, is_folder=is_folder)
        url = urlsplit(urljoin("http://host/a/b/?sort=size", href))
        assert (url.scheme, url.netloc, url.query, url.fragment) == ("http", "host", "", "")
        assert url.path.startswith("/a/b/")
        target = parse_target("GET", url.path.encode("ascii"))
        assert target.segments == (b"a", b"b", name)
        assert target.is_folder is is_folder

    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_link_needs_no_escaping_and_is_the_bare_name(self, name: bytes) -> None:
        href = format_link(name, is_folder=False)
        assert not set(href) & set("\"'<>& \t\n:/?#")
        assert unquote_to_bytes(href) == name

    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_page_holds_the_name_as_text_alone(self, renderer: Renderer, name: bytes) -> None:
        plain = read_links(render(renderer, listed(as_file(b"plain.txt"))))
        hostile = read_links(render(renderer, listed(as_file(name))))
        assert hostile.tags == plain.tags
        assert hostile.attributes <= plain.attributes
        assert hostile.names[format_link(name, is_folder=False)] == format_name(name)

    @pytest.mark.parametrize("name", HOSTILE)
    def test_the_path_of_a_page_is_text_too(self, renderer: Renderer, name: bytes) -> None:
        plain = read_links(render(renderer, listed(segments=(b"plain",))))
        hostile = read_links(render(renderer, listed(segments=(name,))))
        assert hostile.tags == plain.tags

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            (b"plain.txt", "plain.txt"),
            ("žluťoučký 📁".encode(), "žluťoučký 📁"),
            (b"a\nb", "a[U+000A]b"),
            (b"a\x00b", "a[U+0000]b"),
            (b"a\x7fb", "a[U+007F]b"),
            ("\u202egnp.exe".encode(), "[U+202E]gnp.exe"),
            ("a\u200bb\ufeff".encode(), "a[U+200B]b[U+FEFF]"),
            ("👩\u200d💻".encode(), "👩\u200d💻"),
            (b"\xff.txt", "\ufffd.txt"),
        ],
    )
    def test_what_is_not_seen_is_shown(self, name: bytes, shown: str) -> None:
        assert format_name(name) == shown


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            (b"a.PNG", "image"),
            (b"a.mp4", "video"),
            (b"a.flac", "audio"),
            (b"a.woff2", "font"),
            (b"LICENSE", "text"),
            (b"a.html", "code"),
            (b"a.json", "code"),
            (b"a.atom", "code"),
            (b"a.csv", "table"),
            (b"a.ods", "table"),
            (b"a.parquet", "table"),
            (b"a.odt", "document"),
            (b"a.pdf", "document"),
            (b"a.tar.gz", "archive"),
            (b"a.what", "file"),
        ],
    )
    def test_the_name_says_it(self, name: bytes, kind: str) -> None:
        assert find_kind(name) == kind

    def test_each_has_its_icon(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_folder(b"x")))
        icons = set(re.findall(r'<symbol id="i-(\w+)"', page))
        names = [*(b"a." + extension for extension in _TYPE_BY_EXTENSION), *_TYPE_BY_NAME, b"x"]
        assert {find_kind(name) for name in names} | {"folder"} <= icons
        assert set(re.findall(r'href="#i-(\w+)"', page)) <= icons


class TestNumbers:
    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1234, "1.2 kB"),
            (99_940, "99.9 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (48_120_331, "48.1 MB"),
            (10**12, "1.0 TB"),
            (2**63 - 1, "9223 PB"),
        ],
    )
    def test_sizes_have_three_digits(self, size_bytes: int, text: str) -> None:
        assert format_size(size_bytes) == text

    @pytest.mark.parametrize(
        ("mtime_ns", "text"),
        [
            (TIME_NS, "2022-10-07T00:53:50Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-(2**63), "1677-09-21T00:12:43Z"),
            (2**66, "4308-"),
            (2**80, "9999-12-31T23:59:59Z"),
            (-(2**80), "0001-01-01T00:00:00Z"),
        ],
    )
    def test_every_date_can_be_shown(self, renderer: Renderer, mtime_ns: int, text: str) -> None:
        assert f'datetime="{text}' in render(renderer, listed(as_file(b"a", mtime_ns=mtime_ns)))


class TestPage:
    def test_only_entries_and_the_folder_above_look_like_links_to_a_pattern(self, renderer: Renderer) -> None:
        # As fsspec's HTTPFileSystem reads it.
        readme = Readme(b"README.md", b"[a](b) <http://example.com/>", True)
        entries = [as_folder(b"d"), as_file(b"a b.txt"), as_file(b"c&d")]
        view = View(Form.HTML, offset=1, limit=3)
        page = render(Renderer(archives=["zip"]), listed(*entries, readme=readme), view)
        found = re.findall(r"""<(?:a|A)\s+(?:[^>]*?\s+)?(?:href|HREF)=["']([^"']+)""", page)
        assert found == ["d/", "a%20b.txt", "c%26d"]

    def test_breadcrumbs_lead_to_each_folder_above(self, renderer: Renderer) -> None:
        links = read_links(render(renderer, listed(segments=(b"a", b"b<", b"c"))))
        assert links.names == {"../../../": "/", "../../": "a", "../": "b<"}

    def test_the_root_has_nothing_above(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_file(b"a"), segments=()))
        assert "../" not in page
        assert "<h1>Files</h1>" in page

    @pytest.mark.parametrize(
        ("entries", "summary"),
        [
            ([], "0 files"),
            ([as_file(b"a")], "1 file, 1.2 kB"),
            ([as_folder(b"a")], "1 folder, 0 files"),
            ([as_folder(b"a"), as_folder(b"b"), as_file(b"c"), as_file(b"d")], "2 folders, 2 files, 1.2 kB"),
        ],
    )
    def test_a_summary_says_what_there_is(
        self, renderer: Renderer, entries: Sequence[Entry], summary: str
    ) -> None:
        (found,) = re.findall(r'<p class="summary">(.*?)</p>', render(renderer, listed(*entries)), re.DOTALL)
        assert " ".join(re.sub(r"<[^>]*>", "", found).split()) == summary

    def test_sizes_and_dates_are_exact_on_hover(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_file(b"a", 1_234_567)))
        assert 'title="1,234,567 bytes">1.2 MB<' in page
        assert 'title="2022-10-07 00:53:50 UTC">7 Oct 2022<span> 00:53</span>' in page

    @pytest.mark.parametrize(
        ("sort", "is_descending", "expected"),
        [
            (
                Sort.NAME,
                False,
                [("name", "ascending", "desc"), ("size", "none", "desc"), ("date", "none", "desc")],
            ),
            (
                Sort.SIZE,
                True,
                [("name", "none", "asc"), ("size", "descending", "asc"), ("date", "none", "desc")],
            ),
        ],
    )
    def test_columns_say_how_they_are_sorted_and_what_a_click_does(
        self, renderer: Renderer, sort: Sort, is_descending: bool, expected: list[tuple[str, str, str]]
    ) -> None:
        page = render(renderer, listed(as_file(b"a")), View(Form.HTML, sort, is_descending, 0, 1000))
        found = re.findall(r'class="(\w+)" aria-sort="(\w+)"><form>.*?value="(\w+)"', page)
        assert found == expected

    def test_pages_lead_to_each_other(self, renderer: Renderer) -> None:
        of = listed(as_file(b"a"), as_file(b"b"))._replace(files=10)
        page = render(renderer, of, View(Form.HTML, Sort.SIZE, True, 4, 2))
        assert 'rel="prev" href ="?offset=2&amp;limit=2&amp;sort=size&amp;order=desc"' in page
        assert 'rel="next" href ="?offset=6&amp;limit=2&amp;sort=size&amp;order=desc"' in page
        assert "5 to 6 of 10" in page

    def test_one_page_has_no_pages(self, renderer: Renderer) -> None:
        assert 'rel="next"' not in render(renderer, listed(as_file(b"a")))

    def test_an_empty_folder_says_so(self, renderer: Renderer) -> None:
        assert "This folder is empty." in render(renderer, listed())

    def test_behind_the_last_page_there_is_nothing(self, renderer: Renderer) -> None:
        page = render(renderer, listed()._replace(files=3), View(Form.HTML, offset=5, limit=2))
        assert "There are no more names." in page
        assert 'rel="prev"' in page

    def test_archives_are_offered_where_there_are_some(self, renderer: Renderer) -> None:
        assert "?archive=" not in render(renderer, listed())
        page = render(Renderer(archives=["zip", "tar.gz"]), listed())
        assert re.findall(r'href ="(\?archive=[^"]*)"', page) == ["?archive=zip", "?archive=tar.gz"]

    def test_a_readme_stands_below(self, renderer: Renderer) -> None:
        page = render(renderer, listed(readme=Readme(b"README.md", b"# A <b>\n", True)))
        assert "<h3>A &lt;b&gt;</h3>" in page
        page = render(renderer, listed(readme=Readme(b"README.txt", b"a <b>\n", False)))
        assert "a &lt;b&gt;\n</pre>" in page
        assert "This is the beginning of a longer file." in page


def find_hashes(texts: Sequence[str]) -> set[str]:
    return {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts}


class TestPolicy:
    def test_it_allows_the_page_itself_and_its_site(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_file(b"a")))
        policy = dict(renderer.fields)["Content-Security-Policy"]
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert directives["default-src"] == "'none'"
        for tag in ("style", "script"):
            texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            assert set(directives[f"{tag}-src"].split()) == find_hashes(texts)
        assert "unsafe" not in policy
        assert "http" not in policy

    def test_the_page_needs_nothing_that_it_forbids(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_file(b"a")))
        assert not re.search(
            r"\s(style|on\w+)\s*=", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
        )
        assert not re.search(r"https?://(?!www\.w3\.org/)", page)


class TestTemplate:
    def test_the_data_that_it_gets_is_written_down(self, renderer: Renderer) -> None:
        text = (Path(__file__).parents[2] / "docs" / "browsing.md").read_text("utf-8")
        section = text.partition("## A template of one's own")[2]
        page, row = section.partition("| Of a row")[::2]

        def find_names(table: str) -> set[str]:
            cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
            return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

        assert find_names(page) == set(renderer._make_data(listed(), View(Form.HTML, limit=1000)))
        assert find_names(row) == set(Row._fields)

    @pytest.mark.parametrize("number", [0, 1])
    def test_those_that_are_written_down_work(self, tmp_path: Path, number: int) -> None:
        text = (Path(__file__).parents[2] / "docs" / "browsing.md").read_text("utf-8")
        source = re.findall(r"```jinja\n(.*?)```", text, re.DOTALL)[number]
        page = render(self.make(tmp_path, source), listed(as_file(b"<a>", 1234)))
        assert '<a href="%3Ca%3E"' in page
        assert "1.2 kB" in page

    def make(self, folder: Path, source: str) -> Renderer:
        path = folder / "own.html"
        path.write_text(source)
        return Renderer(str(path))

    def test_one_of_ones_own_gets_the_same_data(self, tmp_path: Path) -> None:
        own = self.make(
            tmp_path, "{{ path }}|{% for row in rows %}{{ row.href }} {{ row.name }};{% endfor %}"
        )
        assert render(own, listed(as_folder(b"d"), as_file(b"<a>"))) == "/a/b/|d/ d;%3Ca%3E &lt;a&gt;;"

    def test_it_can_change_a_part_of_ours(self, tmp_path: Path) -> None:
        own = self.make(tmp_path, '{% extends "listing.html" %}{% block footer %}<p>Ours</p>{% endblock %}')
        page = render(own, listed(as_file(b"a")))
        assert "<p>Ours</p>" in page
        assert '<table id="list"' in page

    def test_it_can_include_what_lies_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "part.html").write_text("part of {{ path }}")
        assert render(self.make(tmp_path, '{% include "part.html" %}'), listed()) == "part of /a/b/"

    def test_its_own_style_and_script_may_run(self, tmp_path: Path) -> None:
        own = self.make(tmp_path, "<style>p{color:red}</style><script type=module>go()</script>")
        policy = dict(own.fields)["Content-Security-Policy"]
        assert find_hashes(["p{color:red}", "go()"]) <= set(policy.replace(";", "").split())

    def test_another_template_makes_another_version(self, tmp_path: Path, renderer: Renderer) -> None:
        one, other = self.make(tmp_path, "one"), self.make(tmp_path, "other")
        assert len({one.version, other.version, renderer.version, Renderer(archives=["zip"]).version}) == 4

    def test_what_is_no_template_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"line 2: .*endfor"):
            self.make(tmp_path, "\n{% for x in rows %}")
        with pytest.raises(OSError, match=r"No such file"):
            Renderer(str(tmp_path / "absent"))


class TestJson:
    def test_it_is_caddys(self, renderer: Renderer) -> None:
        entries = [
            as_folder(b"a dir"),
            as_file(b"f: x?.txt", 8),
            Entry(b"link", False, True, 8, TIME_NS, stat.S_IFLNK | 0o777),
        ]
        assert json.loads(render(renderer, listed(*entries), View(Form.JSON))) == [
            {
                "name": "a dir/",
                "size": 4096,
                "url": "./a%20dir/",
                "mod_time": "2022-10-07T00:53:50.12345Z",
                "mode": 0x80000000 | 0o755,
                "is_dir": True,
                "is_symlink": False,
            },
            {
                "name": "f: x?.txt",
                "size": 8,
                "url": "./f:%20x%3F.txt",
                "mod_time": "2022-10-07T00:53:50.12345Z",
                "mode": 0o644,
                "is_dir": False,
                "is_symlink": False,
            },
            {
                "name": "link",
                "size": 8,
                "url": "./link",
                "mod_time": "2022-10-07T00:53:50.12345Z",
                "mode": 0x08000000 | 0o777,
                "is_dir": False,
                "is_symlink": True,
            },
        ]

    @pytest.mark.parametrize(
        ("mode", "go_mode"),
        [
            (stat.S_IFREG | 0o4755, 0x00800000 | 0o755),
            (stat.S_IFREG | 0o2755, 0x00400000 | 0o755),
            (stat.S_IFDIR | 0o1777, 0x80100000 | 0o777),
        ],
    )
    def test_modes_are_those_of_go(self, renderer: Renderer, mode: int, go_mode: int) -> None:
        (entry,) = json.loads(render(renderer, listed(as_file(b"a")._replace(mode=mode)), View(Form.JSON)))
        assert entry["mode"] == go_mode

    @pytest.mark.parametrize(
        ("mtime_ns", "text"),
        [
            (10**9, "1970-01-01T00:00:01Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (10**7, "1970-01-01T00:00:00.01Z"),
        ],
    )
    def test_times_have_the_decimals_that_there_are(
        self, renderer: Renderer, mtime_ns: int, text: str
    ) -> None:
        (entry,) = json.loads(render(renderer, listed(as_file(b"a", mtime_ns=mtime_ns)), View(Form.JSON)))
        assert entry["mod_time"] == text

    def test_it_is_nginxs(self, renderer: Renderer) -> None:
        page = render(renderer, listed(as_folder(b"dir"), as_file(b'"f"', 8)), View(Form.NGINX))
        assert page == (
            '[\n{ "name":"dir", "type":"directory", "mtime":"Fri, 07 Oct 2022 00:53:50 GMT" },\n'
            '{ "name":"\\"f\\"", "type":"file", "mtime":"Fri, 07 Oct 2022 00:53:50 GMT", "size":8 }\n]\n'
        )

    @pytest.mark.parametrize("form", [Form.JSON, Form.NGINX])
    def test_an_empty_folder_is_an_empty_array(self, renderer: Renderer, form: Form) -> None:
        assert json.loads(render(renderer, listed(), View(form))) == []

    @pytest.mark.parametrize("form", [Form.JSON, Form.NGINX])
    @pytest.mark.parametrize("name", HOSTILE)
    def test_every_name_is_valid_json(self, renderer: Renderer, form: Form, name: bytes) -> None:
        (entry,) = json.loads(render(renderer, listed(as_file(name)), View(form)))
        assert entry["name"] == name.decode("utf-8", "replace")
        if form is Form.JSON:
            assert unquote_to_bytes(entry["url"]) == b"./" + name


class TestText:
    def test_each_name_has_a_line(self, renderer: Renderer) -> None:
        entries = [as_folder(b"d"), as_file(b"a b"), as_file(b"\xff"), as_file(b"x\ny")]
        text = b"".join(renderer.render(listed(*entries), View(Form.TEXT)))
        assert text == b"d/\na b\n\xff\nx%0Ay\n"

    def test_an_empty_folder_has_none(self, renderer: Renderer) -> None:
        assert b"".join(renderer.render(listed(), View(Form.TEXT))) == b""


def test_nothing_is_loaded_before_a_page_is_rendered() -> None:
    script = (
        "import sys, aioserve.content.site, aioserve.content.rendering as r; r.Renderer();"
        "assert not {'jinja2', 'markupsafe', 'markdown_it'} & set(sys.modules)"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", script) == 0
