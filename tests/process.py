"""`aioserve serve` in a process of its own, for tests that need the real command on a real port."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

PROJECT = Path(__file__).parents[1]

# Seconds until a process that does not do what it should is given up.
PATIENCE_S = 30


class Output:
    """What a process has written to one of its pipes so far; somebody always reads, so it is never full."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._is_at_end = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                with self._changed:
                    self._lines.append(line.decode(errors="replace"))
                    self._changed.notify_all()
        with self._changed:
            self._is_at_end = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """Everything so far."""
        with self._changed:
            return "".join(self._lines)

    def read_until(self, pattern: str) -> str:
        """Everything until a line matches; fails when the output ends before, or none comes for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_at_end or self._find(pattern), PATIENCE_S)
            text = "".join(self._lines)
            assert self._find(pattern), f"no {pattern!r} in {text!r}"
            return text

    def _find(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self._lines)

    def read_to_end(self) -> str:
        """Everything, once the process has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the output goes on"
        return self.text


@dataclass(slots=True)
class RunningServer:
    """A server that listens; `line` is the one it said so with."""

    process: subprocess.Popen[bytes]
    output: Output
    errors: Output
    line: str = field(init=False)
    url: str = field(init=False)
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.output.read_until(r"^Serving .* at http://")
        self.line = self.output.text.splitlines()[0]
        self.url = self.line.rpartition(" at ")[2].split()[0]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tells it to stop and waits; gives the exit status. The output is complete afterwards."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self.output.read_to_end()
        self.errors.read_to_end()
        return status


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends it: gently, which also lets it write what it has measured; by force where a client holds it."""
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_environment(**variables: str) -> dict[str, str]:
    """Ours with the package of this folder, but without options for the command, and with buffered output."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIOSERVE_") and name != "PYTHONUNBUFFERED"
    }
    return {**ours, "PYTHONPATH": str(PROJECT), **variables}


def make_command(*args: object, prepare: str = "") -> list[str]:
    """The command with these words; with `prepare`, a program that runs that code first."""
    program = ["-c", f"{prepare}\nfrom aioserve.__main__ import main\nmain()"]
    return [
        sys.executable,
        *(program if prepare else ["-m", "aioserve"]),
        *(os.fspath(a) if isinstance(a, Path) else str(a) for a in args),
    ]


@contextlib.contextmanager
def running_server(
    root: Path | str,
    *args: object,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    prepare: str = "",
) -> Iterator[RunningServer]:
    """`aioserve serve root` on a free port, or as `args` say; ended at the latest when the block is left.

    It runs in `folder`, or in that of the project, and after the code `prepare`.
    """
    port = () if "-p" in args or "--port" in args else ("--port", 0)
    process = subprocess.Popen(
        make_command("serve", root, *port, *args, prepare=prepare),
        cwd=folder or PROJECT,
        env=make_environment(**(environment or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = Output(process.stdout), Output(process.stderr)
    try:
        try:
            server = RunningServer(process, output, errors)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {errors.text!r}") from None
        yield server
    finally:
        end(process)
        output.read_to_end()
        errors.read_to_end()


def get(url: str, path: str = "") -> httpx.Response:
    return httpx.get(url + path, trust_env=False)


def run(
    *args: object,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        make_command(*args),
        cwd=folder or PROJECT,
        env=make_environment(**(environment or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        preexec_fn=before,
    )


def run_program(
    program: str, *args: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program that prepares something and then calls `cli.main` with these words."""
    words = ["aioserve", *map(str, args)]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = {words!r}\nfrom aioserve import cli\n{program}"],
        env=environment or make_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def without_rights(*capabilities: int) -> Callable[[], None]:
    """For `before`: takes from root what other users do not have either (prctl: PR_CAPBSET_DROP)."""
    libc = ctypes.CDLL(None)

    def drop() -> None:
        for capability in capabilities:
            libc.prctl(24, capability, 0, 0, 0)

    return drop


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1, 2, 10


class Terminal:
    """The command with a terminal of its own, as a person has it."""

    def __init__(
        self, *args: object, command: str = "serve", environment: Mapping[str, str] | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        self.text = ""

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            make_command(command, *args),
            cwd=PROJECT,
            env=make_environment(**(environment or {})),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        os.close(self._master)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, pattern: str | None) -> str:
        """What the screen shows once it matches; with None, when the process has ended."""
        until = time.monotonic() + PATIENCE_S
        while pattern is None or not re.search(pattern, self.text):
            assert time.monotonic() < until, f"no {pattern!r} in {self.text!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    data = os.read(self._master, 65536)
                except OSError:  # Linux says so when nobody has the other end any more
                    data = b""
                if not data:
                    break
                self.text += data.decode().replace("\r\n", "\n")
        assert pattern is None or re.search(pattern, self.text), f"no {pattern!r} in {self.text!r}"
        return self.text


@contextlib.contextmanager
def busy_port(port: int = 0) -> Iterator[int]:
    """A port on which somebody listens: this process, unless somebody else has had `port` for long."""
    until = time.monotonic() + 10
    while True:
        try:
            listening = socket.create_server(("127.0.0.1", port))
            break
        except OSError:
            if time.monotonic() > until:
                yield port
                return
            time.sleep(0.05)
    with listening:
        yield listening.getsockname()[1]


def wait_until_served(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < until, "nobody answers"
        with contextlib.suppress(httpx.TransportError):
            assert get(f"http://127.0.0.1:{port}/").text == "home"
            return
