"""What README and docs tell people to type works: programs, commands, flags, links."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from aioserve.cli import command as aioserve_command
from aioserve.config import OPTIONS, load_config
from aioserve.content.rule_files import MAX_BYTES
from aioserve.protocol.rule_syntax import (
    MAX_LINE_CHARS,
    MAX_PATTERNS,
    MAX_RULES,
    REFUSED,
    parse_headers,
    parse_redirects,
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]

_FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

# A program whose last step is to serve, until somebody ends it.
_SERVES_TO_THE_END = re.compile(r"^\w+\.run\(serve\(.*\n\Z", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, language, match["text"])
        for match in _FENCED.finditer(text)
        if match["language"] == language
    ]


PROGRAMS = [block for page in PAGES for block in find_blocks(page, "python")]
TESTS = [block for block in PROGRAMS if "def test_" in block.text]
SERVERS = [block for block in PROGRAMS if _SERVES_TO_THE_END.search(block.text)]
OTHERS = [block for block in PROGRAMS if block not in TESTS and block not in SERVERS]

SERVE_COMMAND, TEST_COMMAND = (block.text.strip() for block in find_blocks(README, "sh"))


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def read_page_and_interrupt(arguments: list[str], port: int) -> tuple[bytes, int, str]:
    """Starts a server; gives its first page, and the exit status and last words after Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOSERVE_")}
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            page = None
            while page is None:
                assert process.poll() is None, "the server has ended"
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                        page = answer.read()
                except urllib.error.URLError:
                    time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
            return page, process.returncode, errors
        finally:
            process.kill()


@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_an_example_runs_without_an_error(block: Block) -> None:
    program = block.text.replace("8080", str(find_free_port()))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", SERVERS, ids=str)
def test_an_example_that_serves_does_so_until_it_is_interrupted(block: Block) -> None:
    port = find_free_port()
    program = block.text.replace("8080", str(port))

    page, _, errors = read_page_and_interrupt([sys.executable, "-W", "error", "-c", program], port)

    assert page == (ROOT / "public" / "index.html").read_bytes()
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_an_example_of_a_test_passes(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "test_example.py"
    file.write_text(block.text)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " 1 passed in " in done.stdout


@pytest.mark.timeout(300)
def test_the_examples_pass_mypy_strict(tmp_path: Path) -> None:
    # All in one run: what takes the time is reading the types of the standard library.
    files = [tmp_path / f"example_{number}.py" for number in range(len(PROGRAMS))]
    for file, block in zip(files, PROGRAMS, strict=True):
        file.write_text(f"# {block}\n{block.text}")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_the_two_commands_need_nothing_but_python_and_leave_all_in_a_venv() -> None:
    for command, install, last in (
        (SERVE_COMMAND, ".", ".venv/bin/aioserve serve public/"),
        (TEST_COMMAND, "-e '.[test]'", ".venv/bin/python -m pytest"),
    ):
        assert command == f"python3 -m venv .venv && .venv/bin/pip install -q {install} && {last}"


def test_ci_runs_the_test_command_in_a_venv_of_its_own() -> None:
    steps = TEST_COMMAND.replace(".venv/bin", '"$venv"/bin').replace(".venv", '"$venv"').split(" && ")

    lines = (ROOT / ".ci" / "run").read_text().splitlines()

    assert [line for line in lines if line in steps] == steps
    assert lines[-1] == steps[-1]


def test_the_serve_command_shows_the_sample_site_and_ends_well() -> None:
    arguments = shlex.split(SERVE_COMMAND.rpartition(".venv/bin/aioserve ")[2])
    port = find_free_port()

    page, status, errors = read_page_and_interrupt(
        [sys.executable, "-m", "aioserve", *arguments, "--port", str(port)], port
    )

    assert page == (ROOT / "public" / "index.html").read_bytes()
    assert (status, errors) == (0, "")


def find_flags(page: Path) -> set[str]:
    """Every flag of the command that the page names: in a command line or by itself."""
    lines = [line for block in find_blocks(page, "sh") for line in re.split(r"\n|&&", block.text)]
    commands = [*(line.strip() for line in lines), *_INLINE.findall(_FENCED.sub("", page.read_text()))]
    return {
        word.partition("=")[0]
        for command in commands
        if re.match(r"--?[a-z]|(\S*/)?aioserve ", command)
        for word in command.split()
        if word.startswith("-")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_and_variable_that_a_page_names_exists(page: Path) -> None:
    commands = (aioserve_command, *aioserve_command.commands.values())
    parameters = [parameter for command in commands for parameter in command.params]
    flags = {flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)}
    variables = {option.environment for option in OPTIONS}

    assert find_flags(page) - flags - {"--help"} == set()
    assert set(re.findall(r"AIOSERVE_[A-Z][A-Z_]*", page.read_text())) - variables == set()


RULES = ROOT / "docs" / "rules.md"


def test_the_examples_of_rules_are_right() -> None:
    for language, parse in (("_redirects", parse_redirects), ("_headers", parse_headers)):
        (block,) = find_blocks(RULES, language)
        rules, problems = parse(block.text.encode(), language)
        assert rules
        assert problems == ()


def test_the_example_of_tables_is_right(tmp_path: Path) -> None:
    (block,) = find_blocks(RULES, "toml")
    (tmp_path / "aioserve.toml").write_text(block.text)

    config = load_config({}, {}, str(tmp_path)).config

    assert all((config.redirects, config.rewrites, config.headers, config.errors))


def test_the_fields_that_rules_cannot_set_are_named() -> None:
    told = RULES.read_text().partition("These are refused")[2].partition("Values are")[0]

    names = re.findall(r"[A-Z][A-Za-z0-9-]+(?=[,.])", told)

    assert names == sorted(names, key=str.lower)
    assert {name.lower() for name in names} == set(REFUSED)


def test_the_limits_of_rules_are_told() -> None:
    text = RULES.read_text()

    assert f"{MAX_RULES:,}, and {MAX_PATTERNS:,} with" in text
    assert f"a line {MAX_LINE_CHARS:,} characters" in text
    assert f"at most {MAX_BYTES >> 20} MiB" in text


def test_the_table_of_options_gives_each_its_flags_and_default() -> None:
    section = README.read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `-")]
    known = {option.flags: option.kind.show(option.default) for option in OPTIONS}

    told = {tuple(_INLINE.findall(flags)): default.strip("`") for flags, default, _ in rows}

    assert told
    assert told.items() <= known.items()


def test_the_map_of_the_architecture_shows_every_module_in_its_room() -> None:
    # The first block is the map: folders end in a slash, and what lies in them is indented further.
    shown, room = set(), ""
    for line in find_blocks(ROOT / "ARCHITECTURE.md", "text")[0].text.splitlines():
        if match := re.search(r"─ (\S+/)", line):
            room = match[1]
        elif match := re.search(r"─ (\S+\.py)", line):
            shown.add(room + match[1])

    modules = {path.relative_to(ROOT / "aioserve").as_posix() for path in ROOT.glob("aioserve/**/*.py")}

    assert shown == {module for module in modules if not module.endswith("/__init__.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = _LINK.findall(_FENCED.sub("", page.read_text()))

    assert [link for link in links if not (page.parent / link).exists()] == []
