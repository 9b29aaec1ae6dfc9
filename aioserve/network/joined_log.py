"""The logs of several processes as one: each writes to a pipe of its own, and one more puts whole lines out.

In pieces longer than PIPE_BUF the lines of several writers would be mixed, and who is killed while it writes
leaves half a line.
"""

from __future__ import annotations

import io
import logging
import math
import os
import select
import selectors
import time
from collections.abc import Sequence
from typing import BinaryIO

_logger = logging.getLogger("aioserve")

# Begins what a process writes: what stands before it in a line was left by one that was killed. In the lines
# control characters are escaped.
_CANCEL = b"\x18"

_BLOCK_BYTES = 64 << 10
_REPORT_EVERY_S = 1.0

# Milliseconds without a byte taken, after which it is asked whether anybody still wants the log.
_STANDSTILL_MS = 1000


def begin_log(pipe: io.FileIO) -> BinaryIO:
    """The output for the log of one process; another may have written to the pipe before, and been killed."""
    output = io.BufferedWriter(pipe)
    # Goes out with the first lines, from the thread that may wait.
    output.write(_CANCEL)
    return output


def copy_lines(inputs: Sequence[int], output: int, parent: int) -> None:
    """Writes the lines that come through several pipes to `output`, each as a whole, until the pipes end.

    While the output stands still so do the pipes, and who writes to them decides what is dropped; once the
    process `parent` is gone as well, it is not waited for. What cannot be written is lost and counted.
    """
    begun = dict.fromkeys(inputs, b"")
    lost, report_at = 0, -math.inf
    with selectors.PollSelector() as selector:
        for source in inputs:
            selector.register(source, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_REPORT_EVERY_S if lost else None):
                data = os.read(key.fd, _BLOCK_BYTES)
                if not data:
                    selector.unregister(key.fd)
                    continue
                lines, begun[key.fd] = _cut(begun[key.fd] + data)
                try:
                    _write(output, lines, parent)
                except OSError:
                    lost += lines.count(b"\n")
            if lost and (time.monotonic() >= report_at or not selector.get_map()):
                _logger.warning("access log: the output took no lines for a while; %d are lost", lost)
                lost, report_at = 0, time.monotonic() + _REPORT_EVERY_S


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """The whole lines in `data`, and what has begun of the next one."""
    *cancelled, last = data.split(_CANCEL)
    lines, newline, begun = last.rpartition(b"\n")
    whole = [part[: part.rfind(b"\n") + 1] for part in cancelled]
    return b"".join((*whole, lines, newline)), begun


def _write(output: int, lines: bytes, parent: int) -> None:
    room = select.poll()
    room.register(output, select.POLLOUT)
    rest = memoryview(lines)
    while rest:
        while not room.poll(_STANDSTILL_MS):
            if os.getppid() != parent:
                raise TimeoutError
        # What is larger might wait in the middle, where nothing can be asked.
        rest = rest[os.write(output, rest[: select.PIPE_BUF]) :]
