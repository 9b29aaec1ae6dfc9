"""The files of rules: when they are read, what they hold, what happens when they change or cannot be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aioserve.content.disk import Disk
from aioserve.content.files import Files
from aioserve.content.rule_files import MAX_BYTES, RuleFiles
from aioserve.protocol.rule_syntax import parse_headers, parse_redirects
from aioserve.protocol.rules import Headers, Redirect, Rewrite, Rules
from aioserve.protocol.target import parse_target
from tests.content.conftest import Open, as_file, needs_openat2, without_privileges

LONG_AGO_NS = 1_000_000_000 * 10**9

Read = Callable[..., RuleFiles]


@pytest.fixture
def read(root: Path, open_files: Open, disk: Disk) -> Read:
    """Reads the rules of the root, as a thread would."""

    def read(files: Files | None = None, **options: object) -> RuleFiles:
        rule_files = RuleFiles(files or open_files(root), disk, **options)  # type: ignore[arg-type]
        rule_files.load()
        return rule_files

    return read


def write(path: Path, text: str, *, at_ns: int = LONG_AGO_NS) -> None:
    """Writes a file that was changed at that time, so that no look takes it for one that may still change."""
    path.write_text(text)
    os.utime(path, ns=(at_ns, at_ns))


def lead(rules: Rules | None, path: str) -> str | None:
    assert rules is not None
    found = rules.find_redirect(parse_target("GET", path.encode()), None)
    match found:
        case Redirect():
            return found.location
        case Rewrite():
            return "/" + b"/".join(found.target.segments).decode()
    return None


def fields(rules: Rules | None, path: str) -> Headers:
    assert rules is not None
    return rules.find_headers(parse_target("GET", path.encode()), None)


class TestReading:
    async def test_a_site_without_files_has_no_rules(self, read: Read) -> None:
        rule_files = read()

        assert rule_files.rules is None
        assert rule_files.problems == ()

    async def test_both_files_make_the_rules(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /b\n")
        write(root / "_headers", "/a\n  X: 1\n")

        rules = read().rules

        assert lead(rules, "/a") == "/b"
        assert fields(rules, "/a").fields == (("X", "1"),)

    async def test_the_files_come_before_the_configuration(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /file\n")
        write(root / "_headers", "/*\n  X: file\n")
        redirects, _ = parse_redirects(b"/a /table\n/b /table", "tables")
        headers, _ = parse_headers(b"/*\n X: table", "tables")

        rules = read(redirects=redirects, headers=headers).rules

        assert lead(rules, "/a") == "/file"
        assert lead(rules, "/b") == "/table"
        assert fields(rules, "/").fields == (("X", "file, table"),)

    async def test_the_configuration_alone_makes_rules(self, read: Read) -> None:
        redirects, _ = parse_redirects(b"/a /table", "tables")

        assert lead(read(redirects=redirects).rules, "/a") == "/table"

    async def test_without_rules_the_files_are_not_read(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /b\nnonsense")

        rule_files = read(reads=False)

        assert rule_files.rules is None
        assert rule_files.problems == ()
        assert not rule_files.may_have_changed()

    async def test_a_root_that_is_a_file_has_none(self, root: Path, open_files: Open, read: Read) -> None:
        write(root / "_redirects", "/a /b\n")

        rule_files = read(open_files(root / "_redirects"))

        assert rule_files.rules is None
        assert not rule_files.may_have_changed()

    @pytest.mark.parametrize("name", ["_redirects", "_headers"])
    async def test_a_folder_of_that_name_is_no_file(self, root: Path, read: Read, name: str) -> None:
        (root / name).mkdir()

        assert read().rules is None

    async def test_a_link_is_followed_as_far_as_links_are(
        self, root: Path, tmp_path: Path, read: Read
    ) -> None:
        write(root / "rules.txt", "/a /b\n")
        (root / "_redirects").symlink_to("rules.txt")
        write(tmp_path / "outside", "/*\n  X: 1\n")
        (root / "_headers").symlink_to(tmp_path / "outside")

        rules = read().rules

        assert lead(rules, "/a") == "/b"
        assert fields(rules, "/a").fields == ()

    async def test_wrong_lines_are_told_and_the_others_hold(
        self, root: Path, read: Read, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / "_redirects", "/a /b\nnonsense\n")
        write(root / "_headers", "/a\n  X: 1\n  Date: 1\n")

        with caplog.at_level(logging.WARNING, "aioserve"):
            rule_files = read()

        assert lead(rule_files.rules, "/a") == "/b"
        assert fields(rule_files.rules, "/a").fields == (("X", "1"),)
        assert [(problem.file, problem.line) for problem in rule_files.problems] == [
            ("_redirects", 2),
            ("_headers", 3),
        ]
        assert [record.getMessage() for record in caplog.records] == [
            f"{problem}; left out" for problem in rule_files.problems
        ]

    async def test_a_file_that_is_too_large_has_no_rules(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /b\n" + "#" * MAX_BYTES)

        rule_files = read()

        assert rule_files.rules is None
        assert [str(problem) for problem in rule_files.problems] == [
            f"_redirects:1:1: expected {MAX_BYTES} bytes at most"
        ]

    async def test_a_file_of_the_largest_size_is_read(self, root: Path, read: Read) -> None:
        comment = ("#" * 1000 + "\n") * (MAX_BYTES // 1001)
        write(root / "_redirects", (comment + "/a /b\n" + "#" * 1001)[:MAX_BYTES])

        assert read().problems == ()

    async def test_a_file_that_cannot_be_read_is_a_problem(
        self, public_root: Path, open_files: Open, read: Read
    ) -> None:
        write(public_root / "_redirects", "/a /b\n")
        (public_root / "_redirects").chmod(0)
        files = open_files(public_root)

        with without_privileges():
            rule_files = read(files)

        assert [str(problem) for problem in rule_files.problems] == [
            "_redirects:1:1: expected a file that can be read"
        ]


class TestChanges:
    @needs_openat2
    async def test_what_has_not_changed_is_seen_without_a_thread(
        self, root: Path, read: Read, open_files: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As if the file had been there for long: nobody can set the time of its last change.
        monkeypatch.setattr("aioserve.content.files._RACY_NS", -LONG_AGO_NS)
        (root / "_redirects").write_text("/a /b\n")
        files = open_files(root)
        await files.find([as_file("any")])  # loads what looks without waiting
        rule_files = read(files)

        assert not until_at_once_it_says(rule_files.may_have_changed)

    async def test_a_changed_file_has_other_rules(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /b\n")
        rule_files = read()

        write(root / "_redirects", "/a /c\n", at_ns=LONG_AGO_NS + 1)

        assert rule_files.may_have_changed()
        assert await rule_files.refresh()
        assert lead(rule_files.rules, "/a") == "/c"

    async def test_a_change_of_the_same_length_and_time_is_seen_while_the_file_is_new(
        self, root: Path, read: Read
    ) -> None:
        write(root / "_redirects", "/a /b\n")
        rule_files = read()

        write(root / "_redirects", "/a /c\n")

        assert rule_files.may_have_changed()
        assert await rule_files.refresh()
        assert lead(rule_files.rules, "/a") == "/c"

    async def test_the_same_content_makes_no_other_rules(self, root: Path, read: Read) -> None:
        write(root / "_redirects", "/a /b\n")
        rule_files = read()
        before = rule_files.rules

        write(root / "_redirects", "/a /b\n", at_ns=LONG_AGO_NS + 1)

        assert not await rule_files.refresh()
        assert rule_files.rules is before

    async def test_a_file_can_come_and_go(self, root: Path, read: Read) -> None:
        rule_files = read()

        write(root / "_headers", "/*\n  X: 1\n")
        assert rule_files.may_have_changed()
        assert await rule_files.refresh()
        assert fields(rule_files.rules, "/a").fields == (("X", "1"),)

        (root / "_headers").unlink()
        assert rule_files.may_have_changed()
        assert await rule_files.refresh()
        assert rule_files.rules is None

    async def test_a_link_that_is_switched_is_seen(self, root: Path, read: Read) -> None:
        for name in ("one", "two"):
            write(root / name, f"/a /{name}\n")
        (root / "_redirects").symlink_to("one")
        rule_files = read()

        (root / "new").symlink_to("two")
        (root / "new").rename(root / "_redirects")

        assert rule_files.may_have_changed()
        assert await rule_files.refresh()
        assert lead(rule_files.rules, "/a") == "/two"

    async def test_a_problem_is_told_once(
        self, root: Path, read: Read, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / "_redirects", "nonsense\n")
        with caplog.at_level(logging.WARNING, "aioserve"):
            rule_files = read()
            for _ in range(3):
                assert not await rule_files.refresh()

        assert len(caplog.records) == 1

    async def test_while_a_file_cannot_be_read_the_rules_hold_and_it_is_told_once(
        self, public_root: Path, open_files: Open, read: Read, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(public_root / "_redirects", "/a /b\n")
        rule_files = read(open_files(public_root))
        write(public_root / "_redirects", "/a /c\n")
        (public_root / "_redirects").chmod(0)

        with without_privileges(), caplog.at_level(logging.WARNING, "aioserve"):
            for _ in range(3):
                assert not await rule_files.refresh()
        assert lead(rule_files.rules, "/a") == "/b"
        assert [record.getMessage() for record in caplog.records] == [
            "_redirects cannot be read: what it said before holds"
        ]

        (public_root / "_redirects").chmod(0o644)
        assert await rule_files.refresh()
        assert lead(rule_files.rules, "/a") == "/c"


def until_at_once_it_says(may_have_changed: Callable[[], bool]) -> bool:
    """Its answer, with some tries: the kernel may say of anything that it would have to wait."""
    return all(may_have_changed() for _ in range(1000))
