"""`aioserve serve` in a process of its own, for tests that need the real command on a real port."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

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
