"""The time, once a second: the Date field and everything that happens on a tick.

No request starts a timer: deadlines are numbers that a tick compares.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aioserve.protocol.conditional import format_http_date


class Clock:
    """Ticks on each full second of the wall clock while it runs.

    `now_s` is the Unix time of the last tick in whole seconds; `date` is the same as an HTTP date, and
    `date_bytes` as it is sent.
    """

    def __init__(self) -> None:
        self._hooks: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._read()

    def _read(self) -> None:
        self.now_s = int(time.time())
        self.date = format_http_date(self.now_s)
        self.date_bytes = self.date.encode("ascii")

    def each_tick(self, hook: Callable[[float], None]) -> None:
        """Calls `hook` on every tick with the loop's time in seconds."""
        self._hooks.append(hook)

    def start(self) -> None:
        self._tick(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(1 - time.time() % 1, self._tick, loop)
        self._read()
        for hook in self._hooks:
            hook(loop.time())
