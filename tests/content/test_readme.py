"""What becomes of a folder's README: nothing in it may run, load or lead astray."""

from __future__ import annotations

import re

import pytest

from aioserve.content.readme import Readme, is_safe_link, render_markdown


class TestMarkdown:
    def test_it_is_rendered(self) -> None:
        html = render_markdown(
            "# Title\n\nSome *text* with `code` and ~~no~~.\n\n| a | b |\n| - | - |\n| 1 | 2 |\n"
        )
        assert "<h3>Title</h3>" in html
        assert "<em>text</em>" in html
        assert "<code>code</code>" in html
        assert "<s>no</s>" in html
        assert "<td>2</td>" in html

    def test_its_headings_stand_below_those_of_the_page(self) -> None:
        html = render_markdown("# a\n## b\n###### c\n")
        assert re.findall(r"<(h\d)>", html) == ["h3", "h4", "h6"]

    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            "a <img src=x onerror=alert(1)> b",
            "<style>*{display:none}</style>",
            "<!-- a --><iframe src=x></iframe>",
            "<a href='javascript:alert(1)'>x</a>",
            "```html\n<script>alert(1)</script>\n```",
            "`<script>`",
            "| <script> |\n| - |\n| <b onclick=x> |",
            '!["><script>alert(1)</script>](x.png)',
            '[x](y "\\"><script>alert(1)</script>")',
        ],
    )
    def test_its_html_is_shown_and_not_used(self, text: str) -> None:
        html = render_markdown(text)
        assert not re.search(r"<(script|style|iframe|a href=|img src=x )", html)
        assert not re.search(r"<[a-z][^>\"]*\bon\w+=", html)

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "&#106;avascript:alert(1)",
            "javascript&colon;alert(1)",
            "\\javascript:alert(1)",
            "vbscript:x",
            "data:text/html,<script>",
            "data:image/svg+xml,x",
            "file:///etc/passwd",
            "blob:x",
            "x:y",
        ],
    )
    def test_a_link_that_could_run_is_no_link(self, url: str) -> None:
        for text in (f"[x]({url})", f"![x]({url})", f"<{url}>", f"[x]\n\n[x]: {url}\n"):
            html = render_markdown(text)
            links = re.findall(r"(?:href|src) ?=\"([^\"]*)", html)
            assert all(is_safe_link(link) for link in links), html
            assert "script:" not in "".join(links).lower()

    def test_links_do_not_tell_where_somebody_came_from(self) -> None:
        html = render_markdown("[a](b.md) <https://example.com/>")
        assert html.count('rel="noopener noreferrer nofollow"') == 2

    def test_links_are_not_taken_for_entries_by_a_pattern(self) -> None:
        assert 'href="' not in render_markdown("[a](b.md) <https://example.com/> [![c](d.png)](e)")

    def test_an_image_of_the_site_is_shown(self) -> None:
        assert '<img src="a%20b.png" alt="x y" loading="lazy">' in render_markdown("![x *y*](<a b.png>)")

    @pytest.mark.parametrize(
        "url", ["https://example.com/a.png", "HTTP://example.com/a.png", "//example.com/a.png"]
    )
    def test_an_image_from_elsewhere_is_a_link(self, url: str) -> None:
        html = render_markdown(f"![badge]({url})")
        assert "<img" not in html
        assert f'href ="{url}"' in html
        assert ">badge</a>" in html

    def test_an_image_from_elsewhere_in_a_link_is_its_text(self) -> None:
        html = render_markdown("[![<b>adge](https://example.com/a.png)](https://example.com/)")
        assert html.count("<a ") == 1
        assert ">&lt;b&gt;adge</a>" in html


class TestLinks:
    @pytest.mark.parametrize(
        "url",
        [
            "a.md",
            "../b/",
            "#part",
            "?q=a:b",
            "a/b:c",
            "https://example.com/",
            "http://x",
            "MAILTO:a@b.c",
            "//x/y",
        ],
    )
    def test_where_one_may_go(self, url: str) -> None:
        assert is_safe_link(url)

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:x",
            " javascript:x",
            "java\nscript:x",
            "java\tscript:x",
            "\x01javascript:x",
            "\u200bjavascript:x",
            "a:b",
            ":x",
        ],
    )
    def test_where_one_may_not(self, url: str) -> None:
        assert not is_safe_link(url)


class TestReadme:
    @pytest.mark.parametrize(
        ("name", "is_markdown"),
        [(b"README.md", True), (b"readme.MARKDOWN", True), (b"README.txt", False), (b"README", False)],
    )
    def test_its_name_says_how_it_is_written(self, name: bytes, is_markdown: bool) -> None:
        assert Readme(name, b"", True).is_markdown is is_markdown

    def test_bytes_that_are_no_text_are_replaced(self) -> None:
        assert Readme(b"README", b"\xef\xbb\xbfa\xffb", True).text == "a\ufffdb"
