"""A server as the benchmarks see it: whether it is here, what it is told, and its life."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from benchmarks.processes import Failed, find_free_port, running

# Where Debian puts servers.
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


class Log(Enum):
    OFF = "off"
    # As each server writes it by default.
    ON = "on"
    # In batches also where that is not the default.
    BUFFERED = "buffered"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server is told. `scratch` is an empty folder for its own files, and for access.log."""

    root: Path
    port: int
    scratch: Path
    workers: int = 1
    log: Log = Log.OFF
    # False: nothing of a file may be kept from one request to the next.
    has_cache: bool = True
    # Answers are of 64 KiB and more.
    is_large: bool = False
    # The only file that is asked for, if there is one, and whether each request ends its connection.
    only_file: Path | None = None
    closes: bool = False
    # The coding of the answers, and whether the server has to make it.
    coding: str = ""
    is_made: bool = False

    @property
    def log_path(self) -> Path:
        return self.scratch / "access.log"

    def write(self, name: str, text: str) -> str:
        path = self.scratch / name
        path.write_text(text)
        return str(path)


class Unfit(Exception):
    """A server that has no way to do what a work wants."""


@dataclass(frozen=True, slots=True)
class Server:
    """`needs` is a program, or a Python module where it ends in ".py". `make_command` raises Unfit."""

    name: str
    needs: str
    make_command: Callable[[Setup], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    # Writes its access log to standard output.
    prints_log: bool = False
    # Writes one to standard error that cannot be switched off.
    is_noisy: bool = False

    def find(self) -> str | None:
        """Its version; None where it is not installed."""
        if self.needs.endswith(".py"):
            module = self.needs.removesuffix(".py")
            if importlib.util.find_spec(module) is None:
                return None
            is_standard = module in sys.stdlib_module_names
            return f"Python {sys.version.split()[0]}" if is_standard else importlib.metadata.version(module)
        program = shutil.which(self.needs, path=SEARCH_PATH)
        return None if program is None else read_version(program)


@contextlib.contextmanager
def started(server: Server, setup: Setup, cores: set[int]) -> Iterator[int]:
    """The process id of the server, which listens, until the block is left. Raises Unfit, or Failed."""
    command = server.make_command(setup)
    errors_path = setup.scratch / "errors"
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(setup.log_path.open("wb")) if server.prints_log else None
        errors = None if server.is_noisy else stack.enter_context(errors_path.open("wb"))
        process = running(
            command, setup.port, cores, environment=server.environment, output=output, errors=errors
        )
        try:
            pid = stack.enter_context(process)
        except Failed as failure:
            said = "" if server.is_noisy else errors_path.read_text(errors="replace").strip()
            raise Failed(f"{failure}: {said}") from None
        yield pid


@functools.cache
def read_version(program: str) -> str:
    flag = {"nginx": "-v", "lighttpd": "-v", "caddy": "version"}.get(Path(program).name, "--version")
    done = subprocess.run([program, flag], capture_output=True, text=True, timeout=20)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "installed"


def find_program(name: str) -> str:
    """Raises Failed where it is not installed."""
    program = shutil.which(name, path=SEARCH_PATH)
    if program is None:
        raise Failed(f"{name} is not installed")
    return program


@contextlib.contextmanager
def serving(server: Server, root: Path, cores: set[int]) -> Iterator[tuple[int, int]]:
    """The process id and the port of the server, told nothing but what it serves."""
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(root, find_free_port(), Path(scratch))
        with started(server, setup, cores) as pid:
            yield pid, setup.port
