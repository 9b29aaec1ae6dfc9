"""The command, in processes of its own: what it serves, on what it runs, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

import aioserve
from aioserve import cli, console
from aioserve.config import OPTIONS
from tests.network.addresses import needs_ipv6
from tests.process import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
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

# Larger than what the kernel keeps for a client that does not read.
LARGE_BYTES = 32 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("home")
    (folder / "page.txt").write_text("page")
    (folder / ".hidden").write_text("hidden")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "security.txt").write_text("known")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "inner").symlink_to("page.txt")
    (folder / "outer").symlink_to(tmp_path / "outside.txt")
    return folder


def run_prepared(prepare: str, *args: object) -> subprocess.CompletedProcess[str]:
    """The command, run to its end after that code."""
    return subprocess.run(
        make_command(*args, prepare=prepare),
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


# ---- the words -------------------------------------------------------------------------------------------


class TestCheck:
    def test_a_site_without_a_mistake_ends_with_0(self, root: Path) -> None:
        (root / "_redirects").write_text("/old /new\n")

        done = run("check", root)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{root}: 1 rule that leads elsewhere, 0 rules with fields, 0 problems\n"

    def test_a_mistake_in_the_rules_ends_with_1(self, root: Path) -> None:
        (root / "_redirects").write_text("/old\n")

        done = run("check", root)

        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(f"{root}/_redirects:1:6: expected a path that begins with /, or a URL")

    def test_a_mistake_in_the_configuration_ends_with_2(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "rules.toml"
        file.write_text("[[redirects]]\nfrom = 'old'\nto = '/new'\n")

        done = run("check", root, "--config", file)

        assert (done.returncode, done.stdout) == (2, "")
        assert f"{file}: redirects[0].from: got 'old', expected a path that begins with /" in done.stderr

    def test_a_root_that_is_not_there_ends_with_2(self, root: Path) -> None:
        done = run("check", root / "absent")

        assert done.returncode == 2
        assert "No such file or directory" in done.stderr

    def test_what_is_no_url_ends_with_2(self, root: Path) -> None:
        done = run("check", root, "page.txt")

        assert done.returncode == 2
        assert "page.txt is no URL, expected a path that begins with /" in done.stderr

    def test_a_url_is_explained(self, root: Path) -> None:
        (root / "_redirects").write_text("/old /new\n")

        done = run("check", root, "/old", "http://a.example/page.txt")

        assert done.returncode == 0
        assert "/old\n  rule     _redirects:1, leads to /new\n" in done.stdout
        assert "http://a.example/page.txt\n  file     page.txt\n  answer   200 OK\n" in done.stdout

    def test_with_a_directory_every_word_is_a_url(self, root: Path) -> None:
        done = run("check", "--directory", root, "/page.txt")

        assert done.returncode == 0
        assert done.stdout.startswith("/page.txt\n  file     page.txt\n")

    def test_the_options_of_serve_count(self, root: Path) -> None:
        (root / "_redirects").write_text("/old\n")

        done = run("check", "--no-rules", "--header", "X-One: 1", root, "/_redirects")

        assert done.returncode == 0
        assert "X-One: 1\n" in done.stdout

    def test_control_characters_do_not_reach_the_terminal(self, root: Path) -> None:
        done = run("check", root, "/\x1b[2J")

        assert "\x1b" not in done.stdout


class TestWords:
    def test_version_says_name_and_version(self) -> None:
        done = run("--version")

        assert (done.returncode, done.stdout, done.stderr) == (0, f"aioserve {aioserve.__version__}\n", "")

    def test_help_names_the_commands(self) -> None:
        done = run("--help")

        assert done.returncode == 0
        assert re.search(r"^  serve +Serve the folder ROOT", done.stdout, re.MULTILINE)

    def test_the_help_of_serve_shows_every_option_with_its_default(self) -> None:
        shown = " ".join(run("serve", "--help", environment={"COLUMNS": "200"}).stdout.split())

        for option in (option for option in OPTIONS if option.flags):
            default = option.kind.show(option.default)
            opposite = f" / --no-{option.flags[-1][2:]}" if option.kind.switch else ""
            value = f" {option.kind.metavar}" if option.kind.metavar else ""
            end = f" [{default}]" if default else ""
            # click breaks lines at dashes.
            entry = f"{', '.join(option.flags)}{opposite}{value} {option.help}{end}"
            assert entry.replace(" ", "") in shown.replace(" ", "")

    def test_the_script_that_is_installed_is_the_same_command(self) -> None:
        done = run_program("from aioserve.__main__ import main\nmain()", "--version")

        assert (done.returncode, done.stdout, done.stderr) == (0, f"aioserve {aioserve.__version__}\n", "")

    def test_an_unknown_option_ends_with_status_2(self) -> None:
        done = run("serve", "--prot", 1)

        assert done.returncode == 2
        assert "No such option" in done.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--port", "http"], r"--port: got 'http', expected a whole number from 0 to 65535.*"),
            (["--symlinks", "some"], r"--symlinks: got 'some', expected one of none, inside, all"),
            (["-b", "127.0.0.1:80"], r"--host: got '127.0.0.1:80', expected addresses .* without a port"),
            (["-d", "a", "b"], r"ROOT and --directory are the same option, expected one of the two"),
            (["--workers", "0"], r"--workers: got '0', expected a whole number from 1 to 256, or auto"),
            (["--loop", "trio"], r"--loop: got 'trio', expected one of auto, asyncio, uvloop"),
            (["--config", "absent.toml"], r"absent.toml: No such file or directory, expected a file .*"),
        ],
        ids=lambda value: shlex.join(value) if isinstance(value, list) else "",
    )
    def test_a_wrong_value_ends_with_status_2_and_one_line(self, words: list[str], message: str) -> None:
        done = run("serve", *words)

        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"aioserve: {message}\n", done.stderr)

    def test_a_wrong_variable_ends_with_status_2_and_one_line(self) -> None:
        done = run("serve", environment={"AIOSERVE_PROT": "1"})

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "aioserve: AIOSERVE_PROT: no such option; did you mean AIOSERVE_PORT?\n"

    def test_a_wrong_key_in_a_file_ends_with_status_2_and_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text("prot = 1")

        done = run("serve", folder=tmp_path)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "aioserve: aioserve.toml: prot: no such option; did you mean port?\n"

    def test_a_reader_of_the_help_may_leave(self) -> None:
        process = subprocess.Popen(
            make_command("serve", "--help"),
            env=make_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=PATIENCE_S)

        assert errors == b""


# A measurement of coverage in a process would load modules of its own.
UNMEASURED = {k: v for k, v in make_environment().items() if not k.startswith("COVERAGE_")}


class TestImports:
    """Only what a run needs is loaded: that is most of the time to start."""

    def find_loaded(self, *args: object, root: Path | None = None) -> set[str]:
        command = [sys.executable, "-X", "importtime", *make_command(*args)[1:]]
        process = subprocess.Popen(
            command, cwd=root, env=UNMEASURED, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        output, errors = Output(process.stdout), Output(process.stderr)
        output.read_until(".")
        process.terminate()
        process.wait(PATIENCE_S)
        output.read_to_end()
        return set(re.findall(r"^import time:.*\| +(\S+)$", errors.read_to_end(), re.MULTILINE))

    def test_the_version_loads_no_server_and_no_loop(self) -> None:
        loaded = self.find_loaded("--version")

        assert "aioserve.cli" in loaded
        assert loaded.isdisjoint({"asyncio", "uvloop", "logging", "tomllib", "importlib.metadata"})
        assert not {name for name in loaded if name.startswith(("aioserve.network", "aioserve.content"))}

    def test_serving_loads_nothing_for_things_that_were_not_asked_for(self, root: Path) -> None:
        loaded = self.find_loaded("serve", root, "--port", 0, root=root)

        assert "aioserve.network.server" in loaded
        assert loaded.isdisjoint(
            {"email", "http", "http.client", "importlib.metadata", "tomllib", "webbrowser", "difflib"}
            | {"rich", "pydoc", "doctest", "unittest", "multiprocessing", "encodings.idna"}
            | {"aioserve.network.machine", "aioserve.network.workers"}
        )

    def test_the_loop_of_asyncio_loads_no_other(self, root: Path) -> None:
        loaded = self.find_loaded("serve", root, "--port", 0, "--loop", "asyncio", root=root)

        assert "asyncio" in loaded
        assert "uvloop" not in loaded

    def test_what_only_a_request_needs_is_not_loaded_before_the_server_listens(self, root: Path) -> None:
        done = run_program(
            "def list_loaded(*_):\n    print(*sys.modules)\n    raise SystemExit\n"
            "cli.console.announce = list_loaded\ncli.main()",
            *("serve", root, "--port", 0),
            environment=UNMEASURED,
        )

        loaded = set(done.stdout.split())
        assert "aioserve.network.server" in loaded
        assert loaded.isdisjoint({"aiofiles", "aioserve.content.site", "aioserve.network.connection"})
        # Whose classes take long to make.
        assert "dataclasses" not in loaded
        assert {name for name in loaded if name.startswith("aioserve.protocol.")} == {
            "aioserve.protocol.conditional",  # for the Date
            "aioserve.protocol.variant",  # what is kept of the site
        }


# ---- what is served --------------------------------------------------------------------------------------


class TestRoot:
    def test_a_folder_is_served(self, root: Path) -> None:
        with running_server(root) as server:
            assert get(server.url).text == "home"
            assert get(server.url, "page.txt").text == "page"

    def test_the_current_folder_is_the_default(self, root: Path) -> None:
        port = ("--port", "0")
        with subprocess.Popen(
            make_command("serve", *port), cwd=root, env=make_environment(), stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().decode().split()[-1]
            assert get(url, "page.txt").text == "page"
            process.terminate()

    @pytest.mark.parametrize("flag", ["-d", "--directory"])
    def test_the_folder_can_be_given_as_to_http_server(self, flag: str, root: Path) -> None:
        with subprocess.Popen(
            make_command("serve", flag, root, "-p", 0), env=make_environment(), stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().decode().split()[-1]
            assert get(url, "page.txt").text == "page"
            process.terminate()

    def test_a_root_comes_before_the_directory_of_a_file(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text('directory = "absent"')
        with running_server(root, folder=tmp_path) as server:
            assert get(server.url).text == "home"

    def test_one_file_is_served_at_the_root_and_at_its_name_and_nothing_else_is(self, root: Path) -> None:
        with running_server(root / "page.txt") as server:
            assert get(server.url).text == "page"
            assert get(server.url, "page.txt").text == "page"
            assert get(server.url, "index.html").status_code == 404

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            pytest.param("absent", "No such file or directory", id="one that is not there"),
            pytest.param("page.txt/below", "Not a directory", id="one below a file"),
            pytest.param("pipe", "neither a folder nor a file", id="a FIFO"),
            pytest.param("x" * 300, "File name too long", id="one that cannot be"),
        ],
    )
    def test_a_root_that_cannot_be_served_ends_with_status_2_and_one_line(
        self, name: str, reason: str, root: Path
    ) -> None:
        os.mkfifo(root / "pipe")

        done = run("serve", root / name)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"aioserve: cannot serve {root / name}: {reason}\n"

    def test_a_current_folder_that_is_gone_ends_with_status_2_and_one_line(self, tmp_path: Path) -> None:
        def leave() -> None:
            folder = tmp_path / "gone"
            folder.mkdir()
            os.chdir(folder)
            folder.rmdir()

        done = run("serve", before=leave)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "aioserve: cannot serve .: No such file or directory\n"

    @ON_LINUX
    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_a_root_that_may_not_be_read_ends_with_status_2_and_one_line(self, kind: str, root: Path) -> None:
        target = root if kind == "folder" else root / "page.txt"
        target.chmod(0)
        try:
            done = run("serve", target, before=without_rights(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH))
        finally:
            target.chmod(0o700)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"aioserve: cannot serve {target}: Permission denied\n"

    def test_a_root_that_vanishes_while_starting_ends_with_status_2(self, root: Path) -> None:
        done = run_program(
            f"cli._find_root_problem = lambda root: __import__('shutil').rmtree({str(root)!r})\ncli.main()",
            *("serve", root, "--port", 0),
        )

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"aioserve: cannot serve {root}: No such file or directory\n"


class TestOptions:
    def test_a_variable_sets_an_option(self, root: Path) -> None:
        with running_server(root, environment={"AIOSERVE_INDEX": "page.txt"}) as server:
            assert get(server.url).text == "page"

    def test_a_file_in_the_current_folder_sets_an_option(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text('index = ["absent.html", "page.txt"]')
        with running_server(root, folder=tmp_path) as server:
            assert get(server.url).text == "page"

    def test_a_project_file_in_the_current_folder_sets_an_option(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text('[tool.aioserve]\nindex = "page.txt"')
        with running_server(root, folder=tmp_path) as server:
            assert get(server.url).text == "page"

    def test_a_flag_comes_before_a_variable_before_a_file(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "aioserve.toml").write_text('index = "index.html"\nhidden = true')
        with running_server(
            root, "--no-hidden", environment={"AIOSERVE_INDEX": "page.txt"}, folder=tmp_path
        ) as server:
            assert get(server.url).text == "page"
            assert get(server.url, ".hidden").status_code == 404

    def test_index_can_be_repeated_and_the_first_that_exists_is_taken(self, root: Path) -> None:
        with running_server(root, "--index", "absent", "--index", "page.txt,index.html") as server:
            assert get(server.url).text == "page"

    def test_hidden_names_are_absent_but_for_well_known(self, root: Path) -> None:
        with running_server(root) as server:
            assert get(server.url, ".hidden").status_code == 404
            assert get(server.url, ".well-known/security.txt").text == "known"

    def test_hidden_names_can_be_served(self, root: Path) -> None:
        with running_server(root, "--hidden") as server:
            assert get(server.url, ".hidden").text == "hidden"

    @pytest.mark.parametrize(
        ("words", "inner", "outer"),
        [
            pytest.param([], 200, 404, id="those to the inside by default"),
            pytest.param(["--symlinks", "none"], 404, 404, id="none"),
            pytest.param(["--symlinks", "inside"], 200, 404, id="those to the inside"),
            pytest.param(["--symlinks", "all"], 200, 200, id="all"),
        ],
    )
    def test_links_are_followed_as_told(self, words: list[str], inner: int, outer: int, root: Path) -> None:
        with running_server(root, *words) as server:
            assert get(server.url, "inner").status_code == inner
            assert get(server.url, "outer").status_code == outer

    def test_the_field_server_can_be_left_out(self, root: Path) -> None:
        with running_server(root) as with_field, running_server(root, "--no-server-header") as without:
            assert get(with_field.url).headers["Server"] == "aioserve"
            assert "Server" not in get(without.url).headers

    def test_a_limit_reaches_the_server(self, root: Path) -> None:
        with running_server(root, "--max-request-line", "1K") as server:
            assert get(server.url, "x" * 900).status_code == 404
            assert get(server.url, "x" * 1100).status_code == 414


# ---- where it listens ------------------------------------------------------------------------------------


class TestAddress:
    def test_port_0_prints_the_port_that_it_got(self, root: Path) -> None:
        with running_server(root, "--port", "0") as server:
            assert server.port > 0
            assert server.line == f"Serving {root} at http://127.0.0.1:{server.port}/"

    def test_it_listens_when_the_line_is_printed(self, root: Path) -> None:
        with running_server(root) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(9) == b"HTTP/1.1 "

    def test_only_this_machine_can_reach_it_unless_told_otherwise(self, root: Path) -> None:
        with running_server(root) as server, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.port))

    @needs_ipv6
    @pytest.mark.parametrize("flag", ["-b", "--bind", "--host"])
    def test_it_listens_on_every_address_that_it_is_given(self, flag: str, root: Path) -> None:
        with running_server(root, flag, "127.0.0.1", flag, "[::1]") as server:
            first, second = server.line.split(" at ")[1].split()
            assert (first, second) == (f"http://127.0.0.1:{server.port}/", f"http://[::1]:{server.port}/")
            assert get(first).text == get(second).text == "home"

    def test_a_port_given_in_a_file_is_given_too(self, root: Path, tmp_path: Path) -> None:
        with busy_port() as port:
            (tmp_path / "aioserve.toml").write_text(f"port = {port}")
            done = run("serve", root, folder=tmp_path)

        assert done.returncode == 1
        assert f"port {port} is in use" in done.stderr

    def test_a_second_server_on_a_port_does_not_start(self, root: Path) -> None:
        with running_server(root) as server:
            done = run("serve", root, "--port", server.port)

        assert done.returncode == 1
        assert f"port {server.port} is in use" in done.stderr

    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_default_port_busy_gives_the_next_free_one_and_says_so(
        self, workers: int, root: Path
    ) -> None:
        with busy_port(8080):
            process = subprocess.Popen(
                make_command("serve", root, "--workers", workers),
                env=make_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            with process:
                assert process.stdout is not None
                assert process.stderr is not None
                url = process.stdout.readline().decode().split()[-1]
                said = process.stderr.readline().decode()
                assert [get(url).text for _ in range(10)] == ["home"] * 10
                process.terminate()

        port = int(url.strip("/").rpartition(":")[2])
        assert port > 8080
        assert re.fullmatch(rf"aioserve: port 8080 is in use( by .*)?; {port} is taken instead\n", said)

    def test_when_no_port_near_the_default_is_free_it_gives_up(self, root: Path) -> None:
        with busy_port(8080):
            done = run_program("cli._PORTS_TRIED = 0\ncli.main()", "serve", root)

        assert done.returncode == 1
        assert "port 8080 is in use" in done.stderr


# ---- what it writes --------------------------------------------------------------------------------------


class TestOutput:
    @pytest.mark.parametrize(
        ("log_format", "pattern"),
        [
            pytest.param([], r'127\.0\.0\.1 - - \[.+\] "GET /page\.txt HTTP/1\.1" 200 4', id="common"),
            pytest.param(
                ["--log-format", "combined"], r'.* "GET /page\.txt HTTP/1\.1" 200 4 "-" ".*"', id="combined"
            ),
            pytest.param(["--log-format", "json"], r'\{.*"GET /page\.txt HTTP/1\.1".*\}', id="json"),
        ],
    )
    def test_every_exchange_is_one_line(self, log_format: list[str], pattern: str, root: Path) -> None:
        with running_server(root, *log_format) as server:
            get(server.url, "page.txt")
            assert server.stop() == 0

        _, line = server.output.text.splitlines()
        assert re.fullmatch(pattern, line)

    @pytest.mark.parametrize("words", [["--log-format", "off"], ["--log-format=off", "-v"]])
    def test_the_log_can_be_off(self, words: list[str], root: Path) -> None:
        with running_server(root, *words) as server:
            get(server.url, "page.txt")
            assert server.stop() == 0

        assert server.output.text.splitlines() == [server.line]

    def test_the_log_is_written_while_it_serves(self, root: Path) -> None:
        with running_server(root) as server:
            get(server.url, "page.txt")
            server.output.read_until(r'"GET /page\.txt HTTP/1\.1" 200')


class TestBrokenOutput:
    @pytest.mark.parametrize(
        "where",
        [
            pytest.param(">&-", id="closed"),
            pytest.param("2>&-", id="with standard error closed"),
            pytest.param(">&- 2>&- <&-", id="with all three closed"),
        ],
    )
    def test_it_serves_with_an_output_that_takes_nothing(self, where: str, root: Path) -> None:
        with busy_port() as port:
            pass
        command = shlex.join(make_command("serve", root, "--port", port))
        with subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command} {where}"], env=make_environment(), stdout=subprocess.DEVNULL
        ) as process:
            try:
                wait_until_served(port)
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()

    def test_an_output_that_stands_still_does_not_keep_it_from_ending(self, root: Path) -> None:
        reader, writer = os.pipe()
        process = subprocess.Popen(
            make_command("serve", root, "--port", 0), env=make_environment(), stdout=writer
        )
        try:
            url = os.read(reader, 4096).decode().split()[-1]
            # Fills the pipe, so that the thread that writes the log waits.
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 4096)
            os.set_blocking(writer, True)
            assert get(url).text == "home"
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()
            os.close(reader)
            os.close(writer)


# ---- the end ---------------------------------------------------------------------------------------------


@pytest.fixture
def large(root: Path) -> Path:
    file = root / "large.bin"
    with file.open("wb") as empty:
        empty.truncate(LARGE_BYTES)
    return file


@contextlib.contextmanager
def download(port: int, name: str) -> Iterator[socket.socket]:
    """A client that has asked for a file and read only the beginning of the answer."""
    with socket.socket() as client:
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.recv(9) == b"HTTP/1.1 "
        yield client


def wait_until_refused(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < until, "it still accepts"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except OSError:
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
class TestStop:
    def test_a_signal_ends_it_with_status_0(self, number: signal.Signals, root: Path) -> None:
        with running_server(root) as server:
            assert server.stop(number) == 0

        assert server.errors.text == ""

    def test_an_idle_connection_is_closed_at_once(self, number: signal.Signals, root: Path) -> None:
        with (
            running_server(root, "--grace", "1h") as server,
            httpx.Client(trust_env=False) as client,
        ):
            assert client.get(server.url).text == "home"
            assert server.stop(number) == 0

    def test_what_is_being_sent_is_finished(self, number: signal.Signals, root: Path, large: Path) -> None:
        with running_server(root) as server, download(server.port, large.name) as client:
            server.process.send_signal(number)
            wait_until_refused(server.port)
            received = 9
            while data := client.recv(1 << 20):
                received += len(data)
            assert server.process.wait(PATIENCE_S) == 0

        assert received > LARGE_BYTES

    def test_what_is_not_finished_in_time_is_cut(
        self, number: signal.Signals, root: Path, large: Path
    ) -> None:
        with (
            running_server(root, "--grace", "100ms") as server,
            download(server.port, large.name) as client,
        ):
            assert server.stop(number) == 0
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1 << 20):
                    pass

    def test_the_second_signal_ends_it_at_once(self, number: signal.Signals, root: Path, large: Path) -> None:
        with running_server(root, "--grace", "1h") as server, download(server.port, large.name):
            get(server.url, "page.txt")
            server.process.send_signal(number)
            wait_until_refused(server.port)
            assert server.stop(number) == 128 + number

        assert '"GET /page.txt HTTP/1.1" 200' in server.output.text
        assert server.errors.text == ""


class TestCtrlC:
    def test_on_a_terminal_it_says_that_it_waits_and_a_second_one_ends_it(
        self, root: Path, large: Path
    ) -> None:
        with Terminal(root, "--port", 0, "--grace", "1h") as terminal:
            match = re.search(r":(\d+)/", terminal.read_until(r"Ctrl-C"))
            assert match
            with download(int(match[1]), large.name):
                terminal.type(b"\x03")
                terminal.read_until(r"Ctrl-C again stops at once")
                terminal.type(b"\x03")
                assert terminal.process.wait(PATIENCE_S) == 130
            assert "Traceback" not in terminal.read_until(None)

    def test_before_it_listens_it_ends_without_a_word(self, root: Path) -> None:
        done = run_program(
            "def interrupt(*args): raise KeyboardInterrupt\ncli._run = interrupt\ncli.main()", "serve", root
        )

        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# ---- on what it runs -------------------------------------------------------------------------------------

WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None"
WITHOUT_FORK = "import os; del os.fork"


class TestLoop:
    @pytest.mark.parametrize(
        ("words", "loop"),
        [
            pytest.param([], "uvloop", id="that of uvloop by default"),
            pytest.param(["--loop", "auto"], "uvloop", id="that of uvloop for auto"),
            pytest.param(["--loop", "uvloop"], "uvloop", id="that of uvloop when asked for"),
            pytest.param(["--loop", "asyncio"], "asyncio.events", id="that of asyncio when asked for"),
        ],
    )
    def test_it_serves_on_the_loop_that_it_is_told(self, words: list[str], loop: str, root: Path) -> None:
        with running_server(root, "--verbose", *words) as server:
            assert get(server.url).text == "home"
            server.errors.read_until(f"loop of {loop},")

    def test_it_serves_on_the_loop_of_asyncio_where_there_is_no_other(self, root: Path) -> None:
        with running_server(root, "--verbose", prepare=WITHOUT_UVLOOP) as server:
            assert get(server.url).text == "home"
            server.errors.read_until("loop of asyncio.events,")

    def test_uvloop_where_it_is_not_installed_ends_with_status_2_and_one_line(self, root: Path) -> None:
        done = run_prepared(WITHOUT_UVLOOP, "serve", root, "--loop", "uvloop")

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "aioserve: --loop: uvloop is not installed, expected asyncio or auto\n"


class TestWorkers:
    """What the command adds to them; how they live and die is told by network/test_workers.py."""

    def test_several_serve_log_and_stop_as_one(self, root: Path) -> None:
        with running_server(root, "--workers", 2) as server:
            for _ in range(20):
                assert get(server.url, "page.txt").text == "page"
            assert server.stop() == 0

        assert server.errors.text == ""
        banner, *lines = server.output.text.splitlines()
        assert banner == server.line
        assert len(lines) == 20
        for line in lines:
            assert re.fullmatch(r'127\.0\.0\.1 - - \[.+\] "GET /page\.txt HTTP/1\.1" 200 4', line)

    @pytest.mark.parametrize("words", [["--log-format", "off"], ["--quiet"]], ids=shlex.join)
    def test_the_log_of_several_can_be_off(self, words: list[str], root: Path) -> None:
        with busy_port() as port:
            pass
        with subprocess.Popen(
            make_command("serve", root, "--port", port, "--workers", 2, *words),
            env=make_environment(),
            stdout=subprocess.PIPE,
        ) as process:
            wait_until_served(port)
            process.terminate()
            output, _ = process.communicate(timeout=PATIENCE_S)

        assert process.returncode == 0
        assert b"GET" not in output

    def test_a_terminal_shows_one_banner_and_one_ctrl_c_stops_all(self, root: Path, large: Path) -> None:
        with Terminal(root, "--port", 0, "--grace", "1h", "--workers", 3) as terminal:
            match = re.search(r":(\d+)/", terminal.read_until(r"Ctrl-C"))
            assert match
            with download(int(match[1]), large.name) as client:
                terminal.type(b"\x03")
                terminal.read_until(r"Ctrl-C again stops at once")
                wait_until_refused(int(match[1]))
                while client.recv(1 << 20):
                    pass
            assert terminal.process.wait(PATIENCE_S) == 0
            text = terminal.read_until(None)

        assert text.count("Press Ctrl-C to stop") == text.count("Ctrl-C again stops at once") == 1
        assert "Traceback" not in text

    def test_a_second_ctrl_c_ends_all_at_once(self, root: Path, large: Path) -> None:
        with Terminal(root, "--port", 0, "--grace", "1h", "--workers", 3) as terminal:
            match = re.search(r":(\d+)/", terminal.read_until(r"Ctrl-C"))
            assert match
            with download(int(match[1]), large.name):
                terminal.type(b"\x03")
                terminal.read_until(r"Ctrl-C again stops at once")
                terminal.type(b"\x03")
                assert terminal.process.wait(PATIENCE_S) == 130
            assert "Traceback" not in terminal.read_until(None)

    def test_open_opens_the_browser_once(self, root: Path, tmp_path: Path) -> None:
        browser, opened = tmp_path / "browser", tmp_path / "opened"
        browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
        browser.chmod(0o700)
        with running_server(
            root, "--open", "--workers", 3, environment={"BROWSER": f"{browser} %s"}
        ) as server:
            until = time.monotonic() + PATIENCE_S
            while not opened.exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert server.stop() == 0

        assert opened.read_text() == f"{server.url}\n"

    def test_a_root_that_goes_in_the_last_moment_is_told(self, root: Path) -> None:
        prepare = (
            "import shutil\nfrom aioserve import cli\nlisten = cli._listen\n"
            f"cli._listen = lambda *args: (shutil.rmtree({str(root)!r}), listen(*args))[1]"
        )
        done = run_prepared(prepare, "serve", root, "--port", 0, "--workers", 2)

        assert (done.returncode, done.stdout) == (1, "")
        assert f"aioserve: cannot serve {root}: No such file or directory\n" in done.stderr
        assert "giving up" in done.stderr

    def test_where_a_process_cannot_divide_several_end_with_status_2_and_one_line(self, root: Path) -> None:
        done = run_prepared(WITHOUT_FORK, "serve", root, "--workers", 2)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "aioserve: --workers: this system cannot divide a process, expected 1 or auto\n"
        )

    def test_where_a_process_cannot_divide_auto_is_one(self, root: Path) -> None:
        with running_server(root, "--workers", "auto", prepare=WITHOUT_FORK) as server:
            assert get(server.url).text == "home"

    @pytest.mark.parametrize(
        ("prepare", "count"),
        [
            pytest.param("os.sched_getaffinity = lambda _: {0, 3, 7}", 3, id="that it may use"),
            pytest.param("del os.sched_getaffinity; os.cpu_count = lambda: 4", 4, id="of the machine"),
            pytest.param("del os.sched_getaffinity; os.cpu_count = lambda: None", 1, id="unknown: one"),
        ],
    )
    def test_auto_is_one_for_each_core(self, prepare: str, count: int) -> None:
        program = f"import os; {prepare}; from aioserve import cli; print(cli._count_workers('auto'))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=make_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

        assert done.stdout == f"{count}\n"


# ---- in this process -------------------------------------------------------------------------------------


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """Puts back what the command sets for the whole process, which is its own otherwise."""
    logger = logging.getLogger()
    handlers, level, raises = list(logger.handlers), logger.level, logging.raiseExceptions
    hooks = sys.unraisablehook, threading.excepthook
    yield
    logger.handlers[:], logging.raiseExceptions = handlers, raises
    logger.setLevel(level)
    sys.unraisablehook, threading.excepthook = hooks


@pytest.mark.usefixtures("process_as_before")
def test_a_program_can_run_the_command_and_stop_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce = console.announce

    def announce_and_stop(*args: object) -> None:
        announce(*args)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(console, "announce", announce_and_stop)

    result = CliRunner().invoke(cli.command, ["serve", str(root), "--port", "0", "--log-format", "off"])

    assert result.exit_code == 0
    assert re.fullmatch(rf"Serving {re.escape(str(root))} at http://127\.0\.0\.1:\d+/\n", result.output)
