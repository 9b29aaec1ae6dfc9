"""What the command says, to whom, and that it goes on where nobody listens."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zxingcpp

import aioserve
from aioserve import console
from aioserve.network.machine import find_addresses
from tests.network.addresses import needs_ipv6
from tests.process import (
    CAP_NET_BIND_SERVICE,
    PATIENCE_S,
    Output,
    Terminal,
    busy_port,
    get,
    make_command,
    make_environment,
    run,
    run_program,
    running_server,
    wait_until_served,
    without_rights,
)

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can take a right from root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("home")
    return folder


class TestBanner:
    @needs_ipv6
    def test_all_addresses_are_shown_as_those_of_the_interfaces(self, root: Path) -> None:
        with running_server(root, "-b", "0.0.0.0", "-b", "::") as server:
            urls = server.line.split(" at ")[1].split()
            assert urls[0] == f"http://127.0.0.1:{server.port}/"
            assert f"http://[::1]:{server.port}/" in urls
            assert not [url for url in urls if "0.0.0.0" in url or "[::]" in url]
            for url in urls:
                assert get(url).text == "home"

    def test_without_a_terminal_there_is_one_plain_line(self, root: Path) -> None:
        with running_server(root) as server:
            status = server.stop()

        assert (status, server.errors.text) == (0, "")
        assert server.output.text == f"Serving {root} at http://127.0.0.1:{server.port}/\n"

    def test_a_terminal_shows_root_urls_and_how_to_stop(self, root: Path) -> None:
        with Terminal(root, "--port", 0) as terminal:
            screen = terminal.read_until(r"Ctrl-C")
            terminal.type(b"\x03")
            terminal.read_until(None)
            status = terminal.process.wait(PATIENCE_S)

        assert re.fullmatch(
            rf"aioserve {re.escape(aioserve.__version__)} serves {re.escape(str(root))}\n\n"
            r"  http://127\.0\.0\.1:\d+/\n\nPress Ctrl-C to stop\.\n\n?",
            screen,
        )
        assert status == 0
        assert "Traceback" not in terminal.text

    def test_a_terminal_shows_the_addresses_of_the_machine(self, root: Path) -> None:
        with Terminal(root, "--port", 0, "--host", "0.0.0.0") as terminal:
            screen = terminal.read_until(r"Ctrl-C")
            urls = re.findall(r"^  (http://\S+/)$", screen, re.MULTILINE)
            assert urls[0].startswith("http://127.0.0.1:")
            assert [get(url).text for url in urls] == ["home"] * len(urls)

    def test_quiet_says_nothing_to_a_terminal_either(self, root: Path) -> None:
        with busy_port() as port:
            pass
        with Terminal(root, "--port", port, "--quiet") as terminal:
            wait_until_served(port)
            terminal.process.terminate()
            assert terminal.process.wait(PATIENCE_S) == 0
            assert terminal.read_until(None) == ""

    def test_a_root_with_odd_characters_is_told_without_them(self, tmp_path: Path) -> None:
        odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\x1b[31m\n\xff\xe2\x86\x92"))
        odd.mkdir()
        with running_server(odd, environment={"PYTHONIOENCODING": "latin-1"}) as server:
            shown = server.line

        assert shown.startswith(rf"Serving {tmp_path}/a\x1b[31m\n\udcff\u2192 at http://")


class TestEvents:
    def test_verbose_tells_more_on_standard_error(self, root: Path) -> None:
        with running_server(root, "--verbose") as server:
            assert server.stop() == 0

        assert re.search(r" DEBUG aioserve: Python .*'verbose': True", server.errors.text)
        assert server.output.text.splitlines() == [server.line]


class TestBrowser:
    def test_open_opens_the_browser_at_the_first_url(self, root: Path, tmp_path: Path) -> None:
        browser, opened = tmp_path / "browser", tmp_path / "opened"
        browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
        browser.chmod(0o700)
        with running_server(root, "--open", environment={"BROWSER": f"{browser} %s"}) as server:
            until = time.monotonic() + PATIENCE_S
            while not opened.exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert opened.read_text() == f"{server.url}\n"

    def test_without_a_browser_open_only_says_so(self, root: Path) -> None:
        with running_server(root, "-o", environment={"BROWSER": "/nowhere/browser", "PATH": ""}) as server:
            said = server.errors.read_until("browser")
            assert get(server.url).text == "home"

        assert said == f"aioserve: no browser was found to open {server.url}\n"


class TestFailures:
    def test_a_port_given_that_is_busy_ends_with_status_1_naming_it(self, root: Path) -> None:
        with busy_port() as port:
            done = run("serve", root, "--port", port)

        assert (done.returncode, done.stdout) == (1, "")
        name = f"{re.escape(Path('/proc/self/comm').read_text().strip())} \\(pid {os.getpid()}\\)"
        who = f" by {name}" if sys.platform == "linux" else ""
        assert re.fullmatch(rf"aioserve: port {port} is in use{who}; choose another with .*\n", done.stderr)

    @ON_LINUX
    def test_a_low_port_without_the_right_ends_with_status_1_and_what_to_do(self, root: Path) -> None:
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
            pytest.skip("everybody may listen on port 80 here")
        done = run("serve", root, "--port", 80, before=without_rights(CAP_NET_BIND_SERVICE))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("aioserve: this user may not listen on port 80; choose one above 1023")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("203.0.113.1", "cannot listen on 203.0.113.1: this machine has no such address"),
            ("no.such.host.invalid", "cannot listen on no.such.host.invalid: .+"),
        ],
    )
    def test_an_address_of_nobody_ends_with_status_1_and_one_line(
        self, host: str, message: str, root: Path
    ) -> None:
        done = run("serve", root, "--host", host, "--port", 0)

        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(f"aioserve: {message}\n", done.stderr)

    def test_another_failure_of_the_system_is_told_in_its_own_words(self) -> None:
        assert console.explain(OSError(5, "Input/output error"), aioserve.Config()) == "Input/output error"


class TestBrokenOutput:
    def test_a_reader_that_leaves_does_not_stop_it(self, root: Path) -> None:
        process = subprocess.Popen(
            make_command("serve", root, "--port", 0),
            env=make_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = Output(process.stderr)
        with process:
            url = process.stdout.readline().decode().split()[-1]
            process.stdout.close()
            for _ in range(2):
                assert get(url).text == "home"
                time.sleep(1.1)  # the log is written once a second
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

        for line in errors.read_to_end().splitlines():
            assert line.startswith("aioserve: access log: ")

    def test_it_serves_with_an_output_that_is_full(self, root: Path) -> None:
        with busy_port() as port:
            pass
        with (
            Path("/dev/full").open("wb") as full,
            subprocess.Popen(
                make_command("serve", root, "--port", port), env=make_environment(), stdout=full
            ) as process,
        ):
            try:
                wait_until_served(port)
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()


MISTAKE = "def fail(*args): raise KeyError('a\\nb')\ncli.console.announce = fail\ncli.main()"


class TestMistakes:
    def test_one_of_our_own_is_one_line_and_status_1(self, root: Path) -> None:
        done = run_program(MISTAKE, "serve", root, "--port", 0)

        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"aioserve: a mistake of its own \(KeyError: .*\)\n", done.stderr)

    def test_verbose_shows_where(self, root: Path) -> None:
        done = run_program(MISTAKE, "serve", root, "--port", 0, "-v")

        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr

    def test_one_before_anything_is_set_up_is_one_line_too(self) -> None:
        done = run_program(
            "def fail(*args): raise KeyError('a')\ncli.load_config = fail\ncli.main()", "serve"
        )

        assert done.returncode == 1
        assert done.stderr == "aioserve: a mistake of its own (KeyError: 'a')\n"

    def test_one_in_a_thread_is_one_line(self, root: Path) -> None:
        done = run_program(
            "import threading\ndef fail(*args):\n"
            "    thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
            "    raise KeyboardInterrupt\ncli.console.announce = fail\ncli.main()",
            *("serve", root, "--port", 0),
        )

        assert done.returncode == 130
        assert done.stderr == "aioserve: a mistake of its own (ZeroDivisionError: division by zero)\n"

    def test_one_that_nobody_can_raise_is_one_line(self, root: Path) -> None:
        done = run_program(
            "class Broken:\n    def __del__(self): raise ValueError('late')\n"
            "def fail(*args):\n    Broken()\n    raise KeyboardInterrupt\n"
            "cli.console.announce = fail\ncli.main()",
            *("serve", root, "--port", 0),
        )

        assert done.returncode == 130
        assert done.stderr == "aioserve: a mistake of its own (ValueError: late)\n"

    def test_a_record_with_several_lines_is_told_as_one(self) -> None:
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, "lost\x1b: %s\nfuture: ...", ("x",), None)

        assert console._make_one_line(record)
        assert record.getMessage() == r"lost\x1b: x"


def read_qr_code(rows: list[list[bool]]) -> str:
    """What a phone reads. Each row holds which modules are dark."""
    scale = 4
    pixels = [
        bytes(0 if is_dark else 255 for is_dark in row for _ in range(scale))
        for row in rows
        for _ in range(scale)
    ]
    image = memoryview(b"".join(pixels)).cast("B", shape=[len(pixels), len(pixels[0])])
    (code,) = zxingcpp.read_barcodes(image)
    return code.text


def parse_half_blocks(lines: list[str]) -> list[list[bool]]:
    rows = []
    for line in lines:
        rows += [[char in "▀█" for char in line], [char in "▄█" for char in line]]
    return rows


def parse_pairs(lines: list[str], dark: str) -> list[list[bool]]:
    width = len(dark)
    return [[line[at : at + width] == dark for at in range(0, len(line), width)] for line in lines]


class Screen(io.StringIO):
    """Something that is written to, with an encoding, and perhaps a terminal."""

    def __init__(self, encoding: str, *, is_terminal: bool) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


URLS = ["http://192.168.1.20:8080/", "http://[2001:db8:1234:5678:9abc:def0:1234:5678]:65535/"]


@pytest.mark.parametrize("url", URLS)
class TestQrCode:
    @pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
    def test_it_is_drawn_in_half_blocks(self, url: str, encoding: str) -> None:
        text = console.draw_qr_code(url, Screen(encoding, is_terminal=False))

        assert read_qr_code(parse_half_blocks(text.splitlines())) == url

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_where_there_are_none_it_is_drawn_in_ascii(self, url: str, encoding: str) -> None:
        text = console.draw_qr_code(url, Screen(encoding, is_terminal=False))

        assert text.isascii()
        assert read_qr_code(parse_pairs(text.splitlines(), "##")) == url

    def test_on_a_terminal_it_is_dark_on_light_whatever_the_colours_are(self, url: str) -> None:
        text = console.draw_qr_code(url, Screen("utf-8", is_terminal=True))

        lines = [re.fullmatch("\x1b\\[30;107m([ ▀▄█]*)\x1b\\[0m", line) for line in text.splitlines()]
        assert read_qr_code(parse_half_blocks([line[1] for line in lines if line])) == url
        assert None not in lines

    def test_on_a_terminal_with_ascii_the_colours_are_the_code(self, url: str) -> None:
        text = console.draw_qr_code(url, Screen("ascii", is_terminal=True))

        assert text.isascii()
        lines = [
            line.removesuffix("\x1b[0m").replace("\x1b[40m  ", "#").replace("\x1b[107m  ", " ")
            for line in text.splitlines()
        ]
        assert read_qr_code(parse_pairs(lines, "#")) == url


HAS_NETWORK = pytest.mark.skipif(
    all(address.startswith("127.") for address in find_addresses(socket.AF_INET)),
    reason="this machine is in no network",
)


UTF_8 = {"PYTHONIOENCODING": "utf-8"}


class TestQrOption:
    @HAS_NETWORK
    def test_the_address_in_the_network_is_shown(self, root: Path) -> None:
        with running_server(root, "--host", "0.0.0.0", "--qr", environment=UTF_8) as server:
            drawn = server.output.read_until(r"^  http://").split("\n\n")[1]
            *lines, url = drawn.splitlines()

            assert get(url.strip()).text == "home"
            assert not url.startswith("  http://127.")
        assert read_qr_code(parse_half_blocks(lines)) == url.strip()

    @HAS_NETWORK
    def test_workers_show_it_once(self, root: Path) -> None:
        options = ("--host", "0.0.0.0", "--qr", "--workers", 2)
        with running_server(root, *options, environment=UTF_8) as server:
            server.output.read_until(r"^  http://")
            server.stop()

        assert server.output.text.count("\n  http://") == 1

    @HAS_NETWORK
    def test_a_terminal_without_unicode_gets_ascii(self, root: Path) -> None:
        environment = {"PYTHONIOENCODING": "ascii"}
        with Terminal(root, "--port", 0, "--host", "0.0.0.0", "--qr", environment=environment) as terminal:
            screen = terminal.read_until(r"0m\s+http://[0-9.:]+/\s")

        assert "\x1b[40m  " in screen
        assert screen.isascii()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_without_an_address_in_the_network_it_is_refused(self, root: Path, workers: int) -> None:
        done = run("serve", root, "--port", 0, "--qr", "--workers", workers)

        assert done.returncode == 2
        assert done.stderr.startswith("aioserve: --qr: only this machine can reach the server, expected ")

    def test_without_the_package_it_is_refused(self, root: Path) -> None:
        program = "sys.modules['segno'] = None; cli.main()"
        done = run_program(program, "serve", root, "--port", 0, "--host", "0.0.0.0", "--qr")

        assert done.returncode == 2
        assert done.stderr == (
            "aioserve: --qr: segno is not installed, expected it from: pip install 'aioserve[qr]'\n"
        )
