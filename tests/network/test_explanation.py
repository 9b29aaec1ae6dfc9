"""What is told of a site and its rules, beside what it answers on the wire."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aioserve import Server
from aioserve.network.explanation import Findings, find, parse_url
from aioserve.protocol.message import Request
from tests.network.conftest import PATIENCE_S, Serving
from tests.raw_client import get


@pytest.fixture(autouse=True)
def rules(site_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody goes on without a form of a file because the machine is busy.
    monkeypatch.setattr("aioserve.content.forms._WAIT_S", PATIENCE_S)
    (site_root / "404.html").write_bytes(b"<!doctype html><title>lost</title>\n")
    (site_root / "page.css").write_bytes(b"a {}\n" * 1000)
    (site_root / "both.css").write_bytes(b"a {}\n" * 1000)
    (site_root / "both.css.gz").write_bytes(b"\x1f\x8b")
    (site_root / "_redirects").write_text(
        "/old/* /new/:splat 302\n"
        "/forced /hello.txt 200!\n"
        "/hello.txt /x\n"
        "/lost /folder/index.html 404\n"
        "/gone /x 301!\n"
    )
    (site_root / "_headers").write_text("/*\n  X-One: 1\nhttps://a.example/hello.txt\n  X-Two: 2\n")


async def explain(server: Server, *urls: str) -> Findings:
    return await find(server, "site", urls)


class TestAnswers:
    @pytest.mark.parametrize(
        ("url", "told"),
        [
            pytest.param(
                "/old/a", ["rule _redirects:1, leads to /new/a", "answer 302 Found"], id="a redirect"
            ),
            pytest.param(
                "/gone", ["rule _redirects:5, leads to /x", "answer 301 Moved Permanently"], id="by force"
            ),
            pytest.param(
                "/forced",
                ["rule _redirects:2, sends /hello.txt as 200", "file hello.txt", "answer 200 OK"],
                id="a rewrite",
            ),
            pytest.param(
                "/lost",
                [
                    "rule _redirects:4, sends /folder/index.html as 404",
                    "page folder/index.html",
                    "answer 404 Not Found",
                ],
                id="a page by a rule",
            ),
            pytest.param(
                "/hello.txt",
                ["rule _redirects:3, not used, as there is something of that name", "file hello.txt"],
                id="a rule in the shadow of a file",
            ),
            pytest.param(
                "/none", ["page 404.html", "answer 404 Not Found", "fields _headers:1"], id="nothing"
            ),
            pytest.param("/folder", ["folder folder", "answer 308 Permanent Redirect"], id="a folder"),
            pytest.param("/page.css", ["file page.css", "made by the server"], id="a variant that is made"),
            pytest.param("/both.css", ["file both.css", "variant gzip, the file beside it"], id="a sidecar"),
            pytest.param(
                "http://a.example/hello.txt",
                ["fields _headers:1", "fields _headers:3", "X-Two: 2"],
                id="a host",
            ),
            pytest.param(
                "/a%zz", ["refused malformed percent-encoding", "answer 400 Bad Request"], id="no target"
            ),
            pytest.param("/_redirects", ["answer 404 Not Found"], id="the rules themselves"),
        ],
    )
    async def test_it_says_which_rule_file_and_fields(
        self, serving: Serving, url: str, told: list[str]
    ) -> None:
        findings = await explain(serving(), url)

        (answer,) = findings.answers
        assert answer.startswith(f"{url}\n")
        for text in told:
            assert text in re.sub(" +", " ", answer)

    async def test_only_rules_that_apply_are_named(self, serving: Serving) -> None:
        (answer,) = (await explain(serving(), "/folder/")).answers

        assert "_redirects" not in answer
        assert "_headers:3" not in answer

    @pytest.mark.parametrize(
        "url", ["/old/a", "/forced", "/lost", "/none", "/folder", "/page.css", "/", "/both.css"]
    )
    async def test_it_says_what_the_server_sends(self, serving: Serving, url: str) -> None:
        (answer,) = (await explain(serving(), url)).answers

        fields = [
            f"{name}: {value}" for name, value in parse_url(url).fields.values.items() if name != "host"
        ]
        async with serving() as server:
            sent = await get(server.port, url, *fields)
        told = dict(re.findall(r"^ {11}([\w-]+): (.*)$", answer, re.MULTILINE))
        wire = {"date", "server", "connection"}
        assert {name.lower(): value for name, value in told.items()} == {
            name: value for name, value in sent.fields.items() if name not in wire
        }
        assert f"answer   {sent.status} " in answer

    async def test_it_never_listens(self, serving: Serving) -> None:
        server = serving()

        await explain(server, "/")

        assert server.addresses == ()
        async with server:  # nor is anything left open
            assert (await get(server.port, "/")).status == 200


class TestFindings:
    async def test_what_is_right_is_summed_up(self, serving: Serving) -> None:
        findings = await explain(serving())

        assert findings == Findings(
            "site: 5 rules that lead elsewhere, 2 rules with fields, 0 problems", problems=(), answers=()
        )

    async def test_a_site_without_rules_is_right(self, site_root: Path, serving: Serving) -> None:
        (site_root / "_redirects").unlink()
        (site_root / "_headers").write_text("/*\n  X: 1\n")

        findings = await explain(serving())

        assert findings.summary == "site: 0 rules that lead elsewhere, 1 rule with fields, 0 problems"

    async def test_what_is_wrong_is_told_with_its_place(self, site_root: Path, serving: Serving) -> None:
        (site_root / "_headers").write_text("/*\n  Date: 1\n")

        findings = await explain(serving())

        (problem,) = findings.problems
        assert problem.startswith("site/_headers:2:3: expected a field other than Date")
        assert findings.summary.endswith("0 rules with fields, 1 problem")


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "target", "host"),
        [
            pytest.param("/", b"/", "localhost", id="a path"),
            pytest.param("/a?b=c#d", b"/a?b=c", "localhost", id="a query, and no fragment"),
            pytest.param("http://a.example", b"/", "a.example", id="a host alone"),
            pytest.param("https://a.example:8443/b", b"/b", "a.example:8443", id="a URL"),
            pytest.param("http://a.example?b", b"/?b", "a.example", id="a host and a query"),
            pytest.param("/a b/\u00e9", b"/a%20b/%C3%A9", "localhost", id="what has to be encoded"),
            pytest.param("/a\r\nb", b"/a%0D%0Ab", "localhost", id="an end of line"),
        ],
    )
    def test_a_url_is_what_a_browser_asks(self, url: str, target: bytes, host: str) -> None:
        request = parse_url(url)

        assert isinstance(request, Request)
        assert (request.target, request.fields.get("host")) == (target, host)

    @pytest.mark.parametrize("url", ["", "a", "ftp://a/b", "http://a b/", "http:///a", "?a"])
    def test_what_is_no_url_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(url)}$"):
            parse_url(url)
