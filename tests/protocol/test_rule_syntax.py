"""How rules are written, and what is said of those that are written wrong: files as tables, and tables."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol import rule_syntax
from aioserve.protocol.rule_syntax import (
    MAX_LINE_CHARS,
    MAX_PATTERNS,
    MAX_PROBLEMS,
    MAX_RULES,
    Problem,
    WrongTable,
    find_field_problem,
    parse_headers,
    parse_redirects,
    read_headers,
    read_redirect,
)


class TestRedirectsFile:
    @pytest.mark.parametrize(
        ("text", "origins"),
        [
            pytest.param(b"", [], id="an empty file"),
            pytest.param(b"# a comment\n  # another\n\n \t\n", [], id="comments and empty lines"),
            pytest.param(b"/a /b", [1], id="a last line without an end"),
            pytest.param(b"/a /b\r\n/c /d\r\n", [1, 2], id="lines as Windows ends them"),
            pytest.param(b"  /a\t\t/b  301  \n", [1], id="blanks around and between"),
            pytest.param(b"/a /b # why\n", [1], id="a comment behind a rule"),
            pytest.param(b"/a /b#c 301\n", [1], id="a fragment is no comment"),
            pytest.param(b"\xef\xbb\xbf/a /b\n", [1], id="a byte order mark"),
            pytest.param("/caf\u00e9 /\u2615\n".encode(), [1], id="UTF-8"),
            pytest.param(b"/a x=1 y=:y /b 302!\n", [1], id="parameters, a status, a force"),
        ],
    )
    def test_what_is_a_rule(self, text: bytes, origins: list[int]) -> None:
        rules, problems = parse_redirects(text, "_redirects")

        assert not problems
        assert [rule.origin for rule in rules] == [f"_redirects:{line}" for line in origins]

    @pytest.mark.parametrize(
        ("line", "column", "expected"),
        [
            pytest.param("/a", 4, "a path that begins with /, or a URL, to lead to", id="no target"),
            pytest.param(
                "/a # /b", 4, "a path that begins with /, or a URL, to lead to", id="one in a comment"
            ),
            pytest.param(
                "/a 301", 4, "a path or a URL to lead to, before the status", id="a status for a target"
            ),
            pytest.param("/a b", 4, "a query parameter, such as id=:id", id="a target without a slash"),
            pytest.param("a /b", 1, "a path that begins with /", id="a path without a slash"),
            pytest.param("  a /b", 3, "a path that begins with /", id="and blanks before it"),
            pytest.param("/a /b 299", 7, "one of 200, 301, 302, 303, 307, 308, 404", id="another status"),
            pytest.param("/a /b 0301", 7, "one of 200,", id="a status with a zero"),
            pytest.param(f"/a /b {'3' * 1900}", 7, "one of 200,", id="a very long status"),
            pytest.param("/a /b !", 7, "one of 200,", id="a force without a status"),
            pytest.param("/a /b 301 x", 11, "nothing more", id="something behind the status"),
            pytest.param("/a /b 301 Country=au,nz", 11, "no condition Country", id="a country"),
            pytest.param("/a /b 301 x Country=au", 11, "nothing more", id="the first mistake of a line"),
            pytest.param(
                "/a /b 301 Language=en", 11, "no condition Language: it is not supported", id="a language"
            ),
            pytest.param("/a /b 200! role=admin", 12, "no condition role: it is not supported", id="a role"),
            pytest.param("/a /b Cookie=x", 7, "no condition Cookie: it is not supported", id="a cookie"),
            pytest.param("/a /b Sign=K", 7, "no condition Sign: it is not supported", id="a signature"),
            pytest.param("/a https://b.example/ 200", 4, "there is no proxy here", id="a proxy"),
            pytest.param(
                "/a https://b.example/ 404", 4, "a path of this site for status 404", id="a foreign page"
            ),
            pytest.param("/a /b#c 200", 4, "a path without #", id="a fragment of a rewrite"),
            pytest.param("/a /b%2Fc 200", 4, "a path without encoded slashes", id="a rewrite to no name"),
            pytest.param("/a //b.example/", 4, "a path that begins with one /", id="two slashes"),
            pytest.param(
                "/a/:id /b/:ids", 11, "a placeholder of the path that is matched: :id", id="a typing error"
            ),
            pytest.param("/a /b/:splat", 7, "none, for nothing is captured", id="a splat of nothing"),
            pytest.param("/:id id=:id /b", 9, "a name that is not used twice", id="a name twice"),
            pytest.param(
                "/a id=:splat /b", 7, "a name that is not used twice", id="the name of the asterisk"
            ),
            pytest.param("/a =1 /b", 4, "a query parameter", id="a parameter without a name"),
            pytest.param("/*/* /b", 4, "one * at most", id="two asterisks"),
            pytest.param("/a?id=:id /b/:id", 3, "parameters stand behind it", id="a query in the path"),
            pytest.param(
                "https://:sub.a.example/ /b", 9, "a host without port", id="a placeholder in the host"
            ),
            pytest.param("/\u00e9 /b 299", 7, "one of 200,", id="columns count characters"),
            pytest.param("/a\x01 /b", 3, "no blank and no control character", id="a control character"),
            pytest.param(
                "/a /b\x0b", 6, "no blank and no control character", id="a vertical tab is no blank"
            ),
            pytest.param("/" + "a" * MAX_LINE_CHARS, MAX_LINE_CHARS + 1, "2000 characters", id="a long line"),
        ],
    )
    def test_what_is_wrong_is_left_out_and_told(self, line: str, column: int, expected: str) -> None:
        rules, problems = parse_redirects(f"/1 /2\n{line}\n/3 /4\n".encode(), "_redirects")

        assert [rule.origin for rule in rules] == ["_redirects:1", "_redirects:3"]
        (problem,) = problems
        assert problem[:3] == ("_redirects", 2, column)
        assert expected in problem.expected

    def test_a_line_that_is_no_utf_8_is_told(self) -> None:
        rules, problems = parse_redirects(b"/\xc3\xa9\xff /b\n/3 /4", "_redirects")

        assert len(rules) == 1
        assert problems == (Problem("_redirects", 1, 3, "UTF-8"),)

    def test_a_problem_reads_as_compilers_write_them(self) -> None:
        assert str(Problem("_redirects", 3, 7, "a path")) == "_redirects:3:7: expected a path"

    def test_there_is_a_limit_of_rules(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rule_syntax, "MAX_RULES", 2)

        rules, problems = parse_redirects(b"/1 /x\n/2 /x\n/3 /x\n", "_redirects")

        assert len(rules) == 2
        assert problems == (Problem("_redirects", 3, 1, "2 rules in a file at most"),)
        assert MAX_RULES >= 10_000

    def test_there_is_a_limit_of_patterns_which_paths_do_not_fill(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rule_syntax, "MAX_PATTERNS", 1)

        rules, problems = parse_redirects(b"/1/* /x\n/2/* /x\n/3 /x\n", "_redirects")

        assert [rule.origin for rule in rules] == ["_redirects:1", "_redirects:3"]
        assert [problem.line for problem in problems] == [2]
        assert MAX_PATTERNS >= 100

    def test_no_more_than_so_many_problems_are_told(self) -> None:
        _, problems = parse_redirects(b"x\n" * 1000, "_redirects")

        assert len(problems) == MAX_PROBLEMS

    @given(st.binary(max_size=60))
    def test_any_bytes_are_rules_or_problems(self, data: bytes) -> None:
        rules, problems = parse_redirects(data, "_redirects")

        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        said = [line for line in lines if line.strip(b" \t\r") and not line.lstrip(b" \t").startswith(b"#")]
        assert len(rules) + len(problems) == len(said)


class TestHeadersFile:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param(b"", [], id="an empty file"),
            pytest.param(b"/a\n", [], id="a path without fields"),
            pytest.param(b"/a\n  X: 1\n", [("_headers:1", ["X"])], id="a field"),
            pytest.param(b"/a\nX: 1\n", [("_headers:1", ["X"])], id="a field that is not indented"),
            pytest.param(b"  /a\n  X: 1\n", [("_headers:1", ["X"])], id="a path that is indented"),
            pytest.param(b"/a\r\n\tX: 1\r\n", [("_headers:1", ["X"])], id="lines as Windows ends them"),
            pytest.param(b"# c\n/a\n\n  # c\n  X: 1\n", [("_headers:2", ["X"])], id="comments between"),
            pytest.param(b"/a\n  X: 1\n  ! Y\n  Z: 2", [("_headers:1", ["X", "Y", "Z"])], id="several"),
            pytest.param(
                b"/a\n X: 1\nhttps://a.example/b\n Y: 1",
                [("_headers:1", ["X"]), ("_headers:3", ["Y"])],
                id="a URL",
            ),
            pytest.param(b"/a\n  X : 1\n", [("_headers:1", ["X"])], id="a blank before the colon"),
            pytest.param(b"/a\n  X:1\n", [("_headers:1", ["X"])], id="no blank behind it"),
            pytest.param(b"/a\n  Link: </x>; rel=a\n", [("_headers:1", ["Link"])], id="a slash in a value"),
            pytest.param(b"/a\n  Vary: Cookie\n", [("_headers:1", ["Vary"])], id="Vary can be added to"),
        ],
    )
    def test_what_is_a_rule(self, text: bytes, expected: list[tuple[str, list[str]]]) -> None:
        rules, problems = parse_headers(text, "_headers")

        assert not problems
        assert [(rule.origin, [name for name, _ in rule.fields]) for rule in rules] == expected

    @pytest.mark.parametrize(
        ("line", "column", "expected"),
        [
            pytest.param("  X", 4, "a colon and a value", id="no colon"),
            pytest.param("  X:", 5, "a value; a field is removed by", id="no value"),
            pytest.param("  : 1", 3, "the name of a header field", id="no name"),
            pytest.param("  X Y: 1", 3, "the name of a header field", id="a blank in a name"),
            pytest.param("  X\u00e9: 1", 3, "the name of a header field", id="a name beyond ASCII"),
            pytest.param("  X: caf\u00e9", 6, "a value of ASCII characters", id="a value beyond ASCII"),
            pytest.param("  X: a\rb", 6, "a value of ASCII characters", id="an end of line in a value"),
            pytest.param("  X: a\x00b", 6, "a value of ASCII characters", id="NUL in a value"),
            pytest.param("  !", 4, "the name of a header field", id="nothing to remove"),
            pytest.param("  ! X: 1", 5, "the name of a header field", id="a value that is removed"),
            pytest.param("  ! Vary", 5, "which can be added to", id="Vary cannot be removed"),
            pytest.param("  Content-Length: 1", 3, "it says where the answer ends", id="Content-Length"),
            pytest.param(
                "  transfer-encoding: x", 3, "it says where the answer ends", id="Transfer-Encoding"
            ),
            pytest.param("  Trailer: x", 3, "it says where the answer ends", id="Trailer"),
            pytest.param("  Connection: close", 3, "it belongs to the connection", id="Connection"),
            pytest.param("  Keep-Alive: 1", 3, "it belongs to the connection", id="Keep-Alive"),
            pytest.param("  Upgrade: h2c", 3, "it belongs to the connection", id="Upgrade"),
            pytest.param("  Date: x", 3, "the time of the answer", id="Date"),
            pytest.param("  Content-Range: x", 3, "which bytes these are", id="Content-Range"),
            pytest.param('  ETag: "x"', 3, "which bytes these are", id="ETag"),
            pytest.param("  Last-Modified: x", 3, "which bytes these are", id="Last-Modified"),
            pytest.param("  Content-Encoding: gzip", 3, "which the server chooses", id="Content-Encoding"),
            pytest.param("  Location: /", 3, "_redirects says where", id="Location"),
            pytest.param("  Server: x", 3, "--no-server-header removes it", id="Server"),
            pytest.param(
                "  ! ETag", 5, "which bytes these are", id="what is refused cannot be removed either"
            ),
            pytest.param("/x y", 3, "no blank", id="two paths"),
        ],
    )
    def test_what_is_wrong_is_left_out_and_told(self, line: str, column: int, expected: str) -> None:
        rules, problems = parse_headers(f"/1\n  A: 1\n{line}\n".encode(), "_headers")

        assert [name for rule in rules for name, _ in rule.fields] == ["A"]
        (problem,) = problems
        assert problem[:3] == ("_headers", 3, column)
        assert expected in problem.expected

    def test_a_field_without_a_path_is_told(self) -> None:
        assert parse_headers(b"  X: 1\n/a\n Y: 1", "_headers")[1] == (
            Problem("_headers", 1, 3, "a path that begins with /, before its fields"),
        )

    def test_the_fields_of_a_wrong_path_belong_to_no_other(self) -> None:
        rules, problems = parse_headers(b"/a\n X: 1\n/*/*\n Y: 1\n Z\n/b\n Z: 1\n", "_headers")

        assert [(rule.origin, len(rule.fields)) for rule in rules] == [("_headers:1", 1), ("_headers:6", 1)]
        assert [problem.line for problem in problems] == [3]

    @given(st.binary(max_size=60))
    def test_any_bytes_are_rules_or_problems(self, data: bytes) -> None:
        rules, _ = parse_headers(data, "_headers")

        for rule in rules:
            for name, pieces in rule.fields:
                value = None if pieces is None else "".join(text for text, _ in pieces)
                assert find_field_problem(name, value) is None


class TestTables:
    @pytest.mark.parametrize(
        ("table", "line"),
        [
            pytest.param({"from": "/a", "to": "/b"}, b"/a /b", id="a redirect"),
            pytest.param({"from": "/a", "to": "/b", "status": 302}, b"/a /b 302", id="with a status"),
            pytest.param({"from": "/a", "to": "/b", "force": True}, b"/a /b 301!", id="by force"),
            pytest.param(
                {"from": "/a", "to": "/b/:id", "query": {"id": ":id", "x": "1"}},
                b"/a id=:id x=1 /b/:id",
                id="with parameters",
            ),
        ],
    )
    def test_a_table_says_what_a_line_does(self, table: Mapping[str, object], line: bytes) -> None:
        rules, _ = parse_redirects(line, "_redirects")

        assert read_redirect(table, "_redirects:1") == rules[0]

    def test_a_rewrite_has_status_200(self) -> None:
        rules, _ = parse_redirects(b"/a /b 200", "_redirects")

        assert read_redirect({"from": "/a", "to": "/b"}, "_redirects:1", is_rewrite=True) == rules[0]

    def test_a_table_of_fields_says_what_a_block_does(self) -> None:
        rules, _ = parse_headers(b"/a\n X: 1\n X: 2\n ! Y\n", "_headers")
        table = {"for": "/a", "values": {"X": ["1", " 2 "], "Y": False}}

        assert read_headers(table, "_headers:1") == rules[0]

    @pytest.mark.parametrize(
        ("table", "key", "expected"),
        [
            pytest.param("/a /b", "", "a table with from, to", id="a line"),
            pytest.param({"from": "/a"}, "to", "a text: a path or a URL", id="no target"),
            pytest.param(
                {"from": 1, "to": "/b"}, "from", "a text: a path or a URL", id="a number for a path"
            ),
            pytest.param({"from": "a", "to": "/b"}, "from", "a path that begins with /", id="a wrong path"),
            pytest.param(
                {"from": "/a", "to": "b"}, "to", "a path that begins with one /", id="a wrong target"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "status": "302"}, "status", "one of 200", id="a text for a status"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "status": 302.0}, "status", "one of 200", id="a fraction"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "status": 299}, "status", "one of 200", id="another status"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "status": []}, "status", "one of 200", id="a list for a status"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "force": 1}, "force", "true or false", id="a number for a force"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "query": "x"}, "query", "a table of parameters", id="a query"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "query": {"x": 1}}, "query.x", "a text", id="a number in it"
            ),
            pytest.param(
                {"from": "/:x", "to": "/b", "query": {"x": ":x"}},
                "query.x",
                "not used twice",
                id="a name twice",
            ),
            pytest.param(
                {"from": "/a", "to": "http://b.example", "status": 200}, "to", "no proxy", id="a proxy"
            ),
            pytest.param(
                {"from": "/a", "to": "/b", "conditions": {}}, "conditions", "not supported", id="conditions"
            ),
            pytest.param({"from": "/a", "to": "/b", "stat": 1}, "stat", "no such key", id="an unknown key"),
        ],
    )
    def test_a_wrong_redirect_is_told_with_its_key(self, table: object, key: str, expected: str) -> None:
        with pytest.raises(WrongTable, match=re.escape(expected)) as caught:
            read_redirect(table, "redirects[0]")
        assert caught.value.key == key

    def test_a_rewrite_has_no_status_of_its_own(self) -> None:
        with pytest.raises(WrongTable, match="no such key"):
            read_redirect({"from": "/a", "to": "/b", "status": 200}, "rewrites[0]", is_rewrite=True)

    @pytest.mark.parametrize(
        ("table", "key", "expected"),
        [
            pytest.param([], "", "a table with for, values", id="a list"),
            pytest.param({"values": {"X": "1"}}, "for", "a text: a path or a URL", id="no path"),
            pytest.param({"for": "/a"}, "values", "a table of fields", id="no fields"),
            pytest.param({"for": "/a", "values": {}}, "values", "a table of fields", id="an empty table"),
            pytest.param(
                {"for": "/a", "values": {"X": 1}}, "values.X", "a text, a list of texts", id="a number"
            ),
            pytest.param({"for": "/a", "values": {"X": True}}, "values.X", "a text, a list", id="true"),
            pytest.param(
                {"for": "/a", "values": {"X": []}}, "values.X", "a text, a list", id="an empty list"
            ),
            pytest.param(
                {"for": "/a", "values": {"X": ["1", False]}}, "values.X", "a text, a list", id="a mixed list"
            ),
            pytest.param(
                {"for": "/a", "values": {"ETag": "1"}}, "values.ETag", "which bytes", id="a refused field"
            ),
            pytest.param({"for": "/a", "values": {"X": "a\nb"}}, "values.X", "of ASCII", id="two lines"),
            pytest.param({"for": "a", "values": {"X": "1"}}, "for", "a path that begins", id="a wrong path"),
        ],
    )
    def test_wrong_fields_are_told_with_their_key(self, table: object, key: str, expected: str) -> None:
        with pytest.raises(WrongTable, match=re.escape(expected)) as caught:
            read_headers(table, "headers[0]")
        assert caught.value.key == key
