"""The server under test as the operating system sees it: a process with descriptors, memory and CPU time."""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.process import make_command, make_environment

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 40

# The smallest that Linux makes.
PIPE_BYTES = 4096

LOOPS = ("asyncio", "uvloop")

# Of the server, of asyncio and of the interpreter.
_COMPLAINTS = (
    "a defect of the server",
    "a mistake of its own",
    "Traceback",
    "never retrieved",
    "never awaited",
    "Exception in callback",
    "Exception ignored",
    "Fatal Python error",
)


@dataclass(frozen=True, slots=True)
class Subject:
    process: subprocess.Popen[bytes]
    port: int
    output: Path
    errors: Path
    idle_descriptors: int

    def read_output(self) -> bytes:
        """What it has written to standard output so far."""
        return self.output.read_bytes()

    def read_errors(self) -> str:
        """What it has written to standard error so far."""
        return self.errors.read_text(errors="backslashreplace")

    def count_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def has_let_go(self) -> bool:
        """True when it holds no more descriptors than before its first client."""
        return self.count_descriptors() <= self.idle_descriptors

    def find_free_descriptor(self) -> int:
        """The number that its next descriptor gets."""
        taken = {int(name) for name in os.listdir(f"/proc/{self.process.pid}/fd")}
        return min(set(range(len(taken) + 1)) - taken)

    def limit_descriptors(self, count: int) -> None:
        """It gets descriptors below this number only, from now on; what it has above that, it keeps."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, hard))

    def read_rss_bytes(self) -> int:
        """The memory that it has at this moment."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def read_cpu_s(self) -> float:
        """The CPU time that it has used, in user mode and in the kernel."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status, when it has ended by itself."""
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def serving(
    root: Path,
    *options: str,
    folder: Path,
    loop: str = "uvloop",
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    descriptors: int | None = None,
    is_piped: bool = False,
) -> Iterator[Subject]:
    """The command serving `root`, in a process of its own, until the end of the block.

    `folder` gets what it writes; `descriptors` is the most that it may ever have. With `is_piped` its
    standard output is a small pipe instead, which nobody reads after the first line but who takes
    `process.stdout`. A test that went well also fails when the server complained of itself.
    """
    command = make_command("serve", root, "--port", port, "--loop", loop, *options)
    output, errors = folder / "stdout", folder / "stderr"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_piped else stdout,
            stderr=stderr,
            bufsize=0,
            pipesize=PIPE_BYTES,
            env=make_environment(**(environment or {})),
            preexec_fn=None
            if descriptors is None
            else functools.partial(_limit_own_descriptors, descriptors),
        )
    try:
        line = _read_first_line(process, output)
        match = re.search(r" at http://[^/\s]+:(\d+)/", line)
        assert match is not None, f"{line!r}; {errors.read_text()!r}"
        idle_descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
        yield Subject(process, int(match[1]), output, errors, idle_descriptors)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    said = errors.read_text(errors="backslashreplace")
    assert not any(complaint in said for complaint in _COMPLAINTS), said


def _limit_own_descriptors(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def _read_first_line(process: subprocess.Popen[bytes], output: Path) -> str:
    """What the server says when it listens; empty when it has ended or does not come to that."""
    if process.stdout is not None:
        return process.stdout.readline().decode(errors="replace")
    limit = time.monotonic() + START_TIMEOUT_S
    text = ""
    while time.monotonic() < limit and process.poll() is None and "\n" not in text:
        time.sleep(0.01)
        text = output.read_text(errors="replace")
    return text
