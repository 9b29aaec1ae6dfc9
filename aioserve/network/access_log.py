"""What happened, for observers: `Exchange`, the lines it becomes, and the writer that puts them out.

An embedding program gets a `logging` record for each exchange; the command gets lines, written in batches
by a thread, so that a full pipe or a slow disk never holds the event loop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import BinaryIO, NamedTuple

access_logger = logging.getLogger("aioserve.access")
_logger = logging.getLogger("aioserve")

# Exchanges that may wait for a writer that does not get on: about a second at full speed.
_MAX_WAITING = 50_000

# Seconds that the last lines may take at exit.
_CLOSE_TIMEOUT_S = 2.0


# %b would follow the locale of the program.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Exchange(NamedTuple):
    """One request and what became of it.

    `client` is the peer's address. `at_s` is the Unix time at which the request began to arrive.
    `request_line` is "-" when no request could be read; `sent_bytes` counts the body only. `is_whole` is
    False when the answer broke off.
    """

    client: str
    at_s: float
    request_line: str
    status: int
    sent_bytes: int
    duration_s: float
    referer: str | None
    user_agent: str | None
    is_whole: bool


def format_common(exchange: Exchange) -> str:
    """The Common Log Format of NCSA httpd."""
    at = _format_local_time(int(exchange.at_s), time.tzname)
    return (
        f'{exchange.client} - - [{at}] "{_escape(exchange.request_line)}" '
        f"{exchange.status} {exchange.sent_bytes or '-'}"
    )


# Thousands of lines are of one second. The zone is asked for because a program may change it.
@lru_cache(maxsize=16)
def _format_local_time(at_s: int, zone: tuple[str, str]) -> str:
    local = time.localtime(at_s)
    return time.strftime(f"%d/{_MONTHS[local.tm_mon - 1]}/%Y:%H:%M:%S %z", local)


def format_combined(exchange: Exchange) -> str:
    """The Combined Log Format of Apache httpd and nginx."""
    referer, agent = exchange.referer or "-", exchange.user_agent or "-"
    return f'{format_common(exchange)} "{_escape(referer)}" "{_escape(agent)}"'


def format_json(exchange: Exchange) -> str:
    """One JSON object: time in RFC 3339, duration in seconds, null for what was not sent."""
    import json

    whole_s, fraction = divmod(exchange.at_s, 1)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
    return json.dumps(
        {
            "time": f"{at}.{int(fraction * 1000):03}Z",
            "client": exchange.client,
            "request": exchange.request_line,
            "status": exchange.status,
            "bytes": exchange.sent_bytes,
            "duration": round(exchange.duration_s, 6),
            "referer": exchange.referer,
            "user_agent": exchange.user_agent,
            "whole": exchange.is_whole,
        }
    )


FORMATS: dict[str, Callable[[Exchange], str]] = {
    "common": format_common,
    "combined": format_combined,
    "json": format_json,
}

# A client writes into these lines: nothing of it may end one, close a quotation or move a terminal's cursor.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def _escape(text: str) -> str:
    # Most texts have nothing to escape, and to see that takes a tenth of the time.
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.translate(_ESCAPES)


def make_log_observer(log_format: str) -> Callable[[Exchange], None]:
    """An observer that makes a `logging` record on "aioserve.access", if anybody listens there.

    The message is the line in `log_format`; the record's `exchange` holds the values.
    """
    format_line = FORMATS[log_format]

    def log_exchange(exchange: Exchange) -> None:
        if access_logger.isEnabledFor(logging.INFO):
            access_logger.info("%s", format_line(exchange), extra={"exchange": exchange})

    return log_exchange


class AccessLog:
    """Writes one line for each exchange to `output`, from a thread of its own.

    `record` only remembers; `flush` hands over what is there, and is called once a second and by `close`.
    When the output stands still, what exceeds the limit is dropped, counted and reported.
    """

    def __init__(self, log_format: str, output: BinaryIO) -> None:
        self._format_line = FORMATS[log_format]
        self._output = output
        self._recorded: list[Exchange] = []
        self._batches: queue.SimpleQueue[list[Exchange] | None] = queue.SimpleQueue()
        # Each counter has one writer: the loop those on the left, the thread those on the right.
        self._handed_over, self._finished = 0, 0
        self._dropped, self._failed = 0, 0
        self._reported = 0
        self._thread = threading.Thread(target=self._write_batches, name="aioserve-log", daemon=True)

    def record(self, exchange: Exchange) -> None:
        if len(self._recorded) + self._handed_over - self._finished < _MAX_WAITING:
            self._recorded.append(exchange)
        else:
            self._dropped += 1

    def flush(self) -> None:
        self._report_lost()
        if self._recorded:
            if self._thread.ident is None:
                self._thread.start()
            self._handed_over += len(self._recorded)
            self._batches.put(self._recorded)
            self._recorded = []

    def _report_lost(self) -> None:
        lost = self._dropped + self._failed
        # Said when the output gets on again: while it stands still each second would add a line.
        if lost != self._reported and self._handed_over == self._finished:
            _logger.warning(
                "access log: the output took no lines for a while; %d are lost", lost - self._reported
            )
            self._reported = lost

    def close(self) -> None:
        """Writes what is left, unless the output stands still."""
        self.flush()
        if self._thread.ident is not None:
            self._batches.put(None)
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._report_lost()

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            lines = "".join(f"{self._format_line(exchange)}\n" for exchange in batch)
            try:
                self._output.write(lines.encode("ascii", "backslashreplace"))
                self._output.flush()
            except (OSError, ValueError):
                # The reader of the pipe has gone, or the disk is full: serving goes on.
                self._failed += len(batch)
            self._finished += len(batch)
