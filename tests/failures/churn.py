"""Changes names as fast as it can, in a process of its own, until its standard input is closed.

    exchange A B [A B ...]    each pair changes places, atomically (Linux: RENAME_EXCHANGE)
    replace PATH SIZE...      the file is replaced by rename with one version after the other, each of
                              `size_of` bytes
    blink SOURCE PATH         the name appears, as another name of SOURCE, and is gone again
    switch LINK A B           the link leads to A and B in turn, replaced by rename

How often it went round is its only output.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

_VERSION_BYTES = 8


def size_of(number: int, sizes: Sequence[int]) -> int:
    """The length of a version: the sizes in turn, each with a little more every time.

    The clock of a file system stands still for some milliseconds, so versions that follow each other differ
    in size as well (docs/decisions/0007).
    """
    turn, index = divmod(number, len(sizes))
    return sizes[index] + _VERSION_BYTES * (turn % 100)


def format_version(number: int, size_bytes: int) -> bytes:
    """A content that shows everywhere which version it is of; `size_bytes` is a multiple of eight."""
    return b"%0*d" % (_VERSION_BYTES, number) * (size_bytes // _VERSION_BYTES)


def parse_version(content: bytes) -> int:
    """Which version it is. Raises ValueError when it is not wholly one."""
    number = int(content[:_VERSION_BYTES])
    if content != format_version(number, len(content)):
        raise ValueError(f"not wholly version {number}")
    return number


class Churn:
    """What has been changed: `turns` is known when it has ended."""

    turns = 0


@contextmanager
def churning(kind: str, *arguments: str | int | Path) -> Iterator[Churn]:
    """Runs this module until the end of the block."""
    churn = Churn()
    command = [sys.executable, __file__, kind, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield churn
        finally:
            output, _ = process.communicate(timeout=20)
            churn.turns = int(output)


def exchange(first: str | Path, second: str | Path) -> None:
    """Gives each of two names what the other had, in one step. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(first), None, str(second))


def _make_turn(kind: str, arguments: list[str]) -> Callable[[int], None]:
    match kind, arguments:
        case "exchange", names:
            pairs = list(zip(names[::2], names[1::2], strict=True))

            def turn(number: int) -> None:
                exchange(*pairs[number % len(pairs)])

        case "replace", [path, *sizes]:
            numbers = [int(size) for size in sizes]

            def turn(number: int) -> None:
                with open(f"{path}.new", "wb", buffering=0) as file:
                    file.write(format_version(number, size_of(number, numbers)))
                os.rename(f"{path}.new", path)

        case "blink", [source, path]:

            def turn(number: int) -> None:
                os.link(source, path)
                os.unlink(path)

        case "switch", [link, *targets]:

            def turn(number: int) -> None:
                os.symlink(targets[number % len(targets)], f"{link}.new")
                os.rename(f"{link}.new", link)
                # In bursts of an odd number: who looks twice, on the event loop and then in a thread, mostly
                # sees the same, and each target in turn.
                if number % 41 == 0:
                    time.sleep(0.01)

        case _:
            raise SystemExit(__doc__)
    return turn


def main() -> None:
    turn = _make_turn(sys.argv[1], sys.argv[2:])
    number = 1
    while not select.select([0], [], [], 0)[0]:
        turn(number)
        number += 1
    os.write(1, b"%d" % (number - 1))


if __name__ == "__main__":
    main()
