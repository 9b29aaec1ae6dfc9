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

# Turns of the loop between asyncio's accept and the end of its task that has called `on_connected`.
_TURNS_TO_CONNECT = 4

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class _LentSocket(socket.socket):
    """A listening socket whose accept() says "nobody is there" when descriptors are short.

    asyncio of CPython before mid 2026 answers EMFILE with a log line and a timer for each of the rounds that
    follow: a core and thousands of lines. It never sees that error here. uvloop accepts by itself, and
    survives it quietly.
    """

    on_shortage: Callable[[], None]
    is_taking = True

    def accept(self) -> tuple[socket.socket, object]:
        if not self.is_taking:
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            self.on_shortage()
            raise BlockingIOError from None


class Listener:
    """One bound socket that takes connections once started, unless it is held or descriptors are short."""

    def __init__(self, bound: socket.socket, backlog: int, on_connected: Connected) -> None:
        self._socket = bound
        self._backlog = backlog
        self._on_connected = on_connected
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._is_held = False
        self._shortage: asyncio.TimerHandle | None = None
        self._reported_at = float("-inf")

    @property
    def address(self) -> tuple[str, int]:
        return find_address(self._socket)

    async def start(self) -> None:
        """Listens; when this returns, connections are taken."""
        self._socket.listen(self._backlog)
        lent = _LentSocket(
            self._socket.family, self._socket.type, self._socket.proto, fileno=self._socket.dup().detach()
        )
        lent.on_shortage = self.pause_for_a_moment
        self._lent = lent
        # In two steps: who is cancelled in the second one has a server to close.
        self._server = await asyncio.start_server(
            self._on_connected, sock=lent, backlog=_ACCEPT_BATCH, start_serving=False
        )
        await self._server.start_serving()
        self._socket.listen(self._backlog)

    def hold(self) -> None:
        """Takes no more connections until `resume`."""
        self._is_held = True
        self._stop_taking()

    def resume(self) -> None:
        """Takes connections again; does nothing while it does."""
        self._is_held = False
        self._continue()

    def pause_for_a_moment(self) -> None:
        """Gives the process time to get descriptors back."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = loop.time()
            _logger.warning("out of file descriptors: connections wait until some are free again")
        self._stop_taking()
        if self._shortage is None:
            self._shortage = loop.call_later(_PAUSE_S, self._end_shortage)

    async def close(self) -> None:
        """Stops listening: new clients are refused from here on, and those accepted before are connected."""
        self.hold()
        if self._shortage is not None:
            self._shortage.cancel()
        try:
            # A server that is being started can be closed only when it is there.
            if self._starting is not None:
                await asyncio.wait([self._starting])
            for _ in range(_TURNS_TO_CONNECT):
                await asyncio.sleep(0)
        finally:
            self._socket.close()

    def _end_shortage(self) -> None:
        self._shortage = None
        self._continue()

    def _stop_taking(self) -> None:
        if self._server is not None:
            # What asyncio accepted in this turn of the loop gets its transport in the next one, and is lost
            # if its server is closed by then. So nothing more is accepted, and the server is closed later.
            self._lent.is_taking = False
            asyncio.get_running_loop().call_soon(self._server.close)
            self._server = None

    def _continue(self) -> None:
        is_idle = self._server is None and self._starting is None
        if is_idle and not self._is_held and self._shortage is None:
            self._starting = asyncio.get_running_loop().create_task(self._restart())

    async def _restart(self) -> None:
        try:
            await self.start()
        except OSError:
            # Not even the duplicate could be made.
            self.pause_for_a_moment()
        finally:
            self._starting = None
        if self._is_held or self._shortage is not None:
            self._stop_taking()


def find_address(bound: socket.socket) -> tuple[str, int]:
    """The host, with the zone of a link-local one, and the port that a socket is bound to."""
    host, port, *more = bound.getsockname()
    if more and more[1]:
        host = f"{host}%{socket.if_indextoname(more[1])}"
    return host, port
