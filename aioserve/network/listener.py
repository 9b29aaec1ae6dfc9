"""How connections are accepted, and how that pauses: one `Listener` for each bound address.

We keep the listening socket and lend `asyncio.start_server` a duplicate of it. To pause is to close that
server, to resume is to start another on a new duplicate; meanwhile the kernel's backlog holds who comes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

_logger = logging.getLogger("aioserve")

# How many connections asyncio accepts in one turn of the loop before others get theirs. It is also what
# start_server passes to listen(), so the real backlog is set again after it.
_ACCEPT_BATCH = 128

# Seconds without accepting after the descriptors ran out: enough for some to come back.
_PAUSE_S = 0.5

# Seconds between two lines about the same shortage.
_REPORT_EVERY_S = 60.0

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class _LentSocket(socket.socket):
    """A listening socket whose accept() says "nobody is there" when descriptors are short.

    asyncio of CPython before mid 2026 answers EMFILE with a log line and a timer for each of the rounds that
    follow: a core and thousands of lines. It never sees that error here. uvloop accepts by itself, and
    survives it quietly.
    """

    on_shortage: Callable[[], None]

    def accept(self) -> tuple[socket.socket, object]:
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            self.on_shortage()
            raise BlockingIOError from None


class Listener:
    """One bound socket that takes connections while it is started and not paused."""

    def __init__(self, bound: socket.socket, backlog: int, on_connected: Connected) -> None:
        self._socket = bound
        self._backlog = backlog
        self._on_connected = on_connected
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._reported_at = float("-inf")

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that the socket is bound to."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    async def start(self) -> None:
        """Listens; when this returns, connections are taken."""
        self._socket.listen(self._backlog)
        lent = _LentSocket(
            self._socket.family, self._socket.type, self._socket.proto, fileno=self._socket.dup().detach()
        )
        lent.on_shortage = self.pause_for_a_moment
        self._server = await asyncio.start_server(self._on_connected, sock=lent, backlog=_ACCEPT_BATCH)
        self._socket.listen(self._backlog)

    def pause(self) -> None:
        """Takes no more connections until `resume`."""
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def resume(self) -> None:
        """Takes connections again after a pause; does nothing while it does, or after `close`."""
        if self._server is None and self._starting is None and self._socket.fileno() >= 0:
            self._starting = asyncio.get_running_loop().create_task(self._restart())

    async def _restart(self) -> None:
        try:
            await self.start()
        except OSError:
            # Not even the duplicate could be made.
            self.pause_for_a_moment()
        finally:
            self._starting = None

    def pause_for_a_moment(self) -> None:
        """Gives the process time to get descriptors back."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = loop.time()
            _logger.warning("out of file descriptors: connections wait until some are free again")
        self.pause()
        self._resume_timer = loop.call_later(_PAUSE_S, self.resume)

    def close(self) -> None:
        """Stops listening: new clients are refused from here on."""
        if self._starting is not None:
            self._starting.cancel()
        self.pause()
        self._socket.close()
