"""Several processes on one port: how they come, come again, share one log, and go.

What a worker does is said by the caller; this is its parent. The parent has no loop and no thread: it is
given the sockets, forks, and then only waits. Between it and each worker is a socket pair: the worker says
that it serves, the parent says which signals have come, and each sees the end of the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import BinaryIO, NoReturn

from aioserve.network.joined_log import begin_log, copy_lines

_logger = logging.getLogger("aioserve")

# Elsewhere SO_REUSEPORT means something else: on macOS the last socket that was bound gets every connection.
_KERNEL_SPREADS = sys.platform == "linux"

# Who has served for so many seconds has not died at once.
_STEADY_S = 1.0

# Deaths at once in a row until it is given up. The first is followed by a start without delay, the others by
# one after 0.1, 0.2, 0.4 and 0.8 s.
_MAX_FAILURES = 6
_FIRST_DELAY_S = 0.1

# Seconds that workers may take to end beside the grace period, and after them the rest of their log to be
# written.
_PATIENCE_S = 5.0

# Seconds until a process that was killed is gone; one that hangs in the kernel is left to it.
_KILL_S = 1.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_READY = b"r"


def share(sockets: Sequence[socket.socket], count: int, backlog: int) -> list[list[socket.socket]]:
    """Sockets for `count` workers that listen where `sockets` do; the first worker gets these themselves.

    On Linux each has its own, and the kernel spreads the connections over them. SO_REUSEPORT comes only now:
    that `sockets` listen without it has shown that nobody else had the port, and whoever comes later in the
    same way fails. Elsewhere all have the same.
    """
    twins = [
        [_make_twin(first, backlog) if _KERNEL_SPREADS else first.dup() for first in sockets]
        for _ in range(count - 1)
    ]
    return [list(sockets), *twins]


def _make_twin(first: socket.socket, backlog: int) -> socket.socket:
    twin = socket.socket(first.family, first.type, first.proto)
    for each in (first, twin):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    twin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if first.family == socket.AF_INET6:
        twin.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    twin.setblocking(False)
    twin.bind(first.getsockname())
    twin.listen(backlog)
    return twin


class Place:
    """What a worker has from its parent: sockets that listen, an output for its log, and orders.

    `is_first` is True in one worker alone, for what is to be done once; not in one that takes its place.
    """

    def __init__(
        self, sockets: list[socket.socket], log_output: BinaryIO, channel: socket.socket, *, is_first: bool
    ) -> None:
        self.sockets = sockets
        self.log_output = log_output
        self.is_first = is_first
        self._channel = channel
        self._is_told = False

    def obey(self, stop: Callable[[int], None]) -> None:
        """Calls `stop` on the running loop with each signal that the parent gets, with SIGTERM when it has
        gone without one."""
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._hear, stop)

    def report_ready(self) -> None:
        """Says that connections are taken."""
        _send(self._channel, _READY)

    def _hear(self, stop: Callable[[int], None]) -> None:
        numbers = _receive(self._channel)
        if not numbers:
            asyncio.get_running_loop().remove_reader(self._channel)
            numbers = b"" if self._is_told else bytes([signal.SIGTERM])
        self._is_told = True
        for number in numbers:
            stop(number)


class _Slot:
    """What stays when a worker dies: connections wait in its sockets, and lines in its pipe, for the next."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        reader, writer = os.pipe()
        self.log_reader, self.log_writer = io.FileIO(reader, "r"), io.FileIO(writer, "w")

    def close_sockets(self) -> None:
        for bound in self.sockets:
            bound.close()


class _Child:
    """A process that is started again when it dies. `main` is called in it; its value is the exit status."""

    def __init__(self, name: str, main: Callable[[socket.socket], int]) -> None:
        self.name = name
        self.main = main
        self.pid = 0
        self.due_at = 0.0
        self.ready_at = math.inf
        self.failures = 0


class Workers:
    """A process for each list of sockets in `places`, and one that writes the lines of all their logs to the
    descriptor `log_output`; None when they write none.

    `serve` is called in each worker; its value is the exit status.
    """

    def __init__(
        self,
        places: Iterable[list[socket.socket]],
        serve: Callable[[Place], int],
        *,
        grace_s: float,
        log_output: int | None,
    ) -> None:
        self._serve = serve
        self._grace_s = grace_s
        self._slots = [_Slot(sockets) for sockets in places]
        self._workers = [
            _Child(f"worker {number}", partial(self._work, slot))
            for number, slot in enumerate(self._slots, start=1)
        ]
        self._log = (
            None
            if log_output is None
            else _Child("the writer of the log", partial(self._write_log, log_output))
        )
        # With our end of what is between it and us.
        self._running: dict[_Child, socket.socket] = {}
        self._waiting = list(self._workers)
        # Children must not share what it is made of, as they would with epoll.
        self._selector = selectors.PollSelector()
        self._deadline = math.inf
        self._is_announced = False
        self._is_stopping = False
        self._status = 0
        self._pid = os.getpid()

    def run(self, announce: Callable[[], None], say_stopping: Callable[[], None]) -> int:
        """Keeps them running until it is told to stop, or one of them dies again and again; gives the status.

        `announce` is called when all of them serve for the first time, `say_stopping` at the first signal.
        """
        self._announce, self._say_stopping = announce, say_stopping
        self._take_signals()
        while not self._is_stopping:
            self._start_those_due()
            self._take_events(min((child.due_at for child in self._waiting), default=math.inf))
        for slot in self._slots:
            slot.close_sockets()
        for worker in self._end(self._workers, self._grace_s + _PATIENCE_S):
            _logger.error("%s did not end in time and was killed", worker.name)
            self._status = self._status or 1
        for slot in self._slots:
            # Now the pipes come to an end, up to which they are read.
            slot.log_writer.close()
        if self._log is not None:
            self._end([self._log], _PATIENCE_S)
        return self._status

    def _end(self, children: Sequence[_Child], timeout_s: float) -> list[_Child]:
        """Waits until they have ended; kills, and returns, those that have not after so many seconds."""
        self._await_end(children, timeout_s)
        left = [child for child in children if child in self._running]
        for child in left:
            os.kill(child.pid, signal.SIGKILL)
        self._await_end(left, _KILL_S)
        return left

    def _await_end(self, children: Sequence[_Child], timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        while not self._running.keys().isdisjoint(children) and time.monotonic() < self._deadline:
            self._take_events(self._deadline)

    def _take_events(self, until: float) -> None:
        """Waits for something to happen, but not beyond that time, and sees to it."""
        timeout_s = None if until == math.inf else max(0, until - time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            key.data()

    # Signals.

    def _take_signals(self) -> None:
        self._signals, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            # Not ignored, which a browser that a worker starts would inherit.
            signal.signal(number, lambda *_: None)
        # Whoever started us may have had it ignored: then nobody would know how a child ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.register(self._signals, selectors.EVENT_READ, self._hear_signals)

    def _hear_signals(self) -> None:
        for number in self._signals.recv(64):
            if self._is_stopping:
                self._status = 128 + number
                self._deadline = min(self._deadline, time.monotonic() + _PATIENCE_S)
            else:
                self._say_stopping()
            self._tell(number)

    def _tell(self, number: int) -> None:
        self._is_stopping = True
        for worker in self._workers:
            if worker in self._running:
                _send(self._running[worker], bytes([number]))

    # Children.

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for child in [child for child in self._waiting if child.due_at <= now]:
            if self._is_stopping:  # another of them has been given up
                return
            self._waiting.remove(child)
            try:
                self._start(child)
            except OSError as error:
                self._lose(child, f"cannot be started ({error.strerror})")

    def _start(self, child: _Child) -> None:
        ours, theirs = socket.socketpair()
        self._running[child] = ours
        with theirs:
            # A signal that comes before the child has let go of ours would be told to us a second time.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                child.pid = os.fork()
                if not child.pid:
                    self._become(child, theirs, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, child))

    def _become(self, child: _Child, channel: socket.socket, mask: Iterable[int]) -> NoReturn:
        status = 1
        try:
            # A terminal gives its signals to all of us; only the parent counts them and passes them on.
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for end in (self._signals, self._signalled, *self._running.values()):
                end.close()
            status = child.main(channel)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _work(self, slot: _Slot, channel: socket.socket) -> int:
        for each in self._slots:
            each.log_reader.close()
            if each is not slot:
                each.log_writer.close()
                each.close_sockets()
        is_first = slot is self._slots[0] and not self._is_announced
        return self._serve(Place(slot.sockets, begin_log(slot.log_writer), channel, is_first=is_first))

    def _write_log(self, output: int, channel: socket.socket) -> int:
        for slot in self._slots:
            slot.log_writer.close()
            slot.close_sockets()
        _send(channel, _READY)
        copy_lines([slot.log_reader.fileno() for slot in self._slots], output, self._pid)
        return 0

    def _hear(self, child: _Child) -> None:
        if not _receive(self._running[child]):
            self._bury(child)
            return
        child.ready_at = time.monotonic()
        is_first_time = not (self._is_announced or self._is_stopping)
        if is_first_time and all(worker.ready_at < math.inf for worker in self._workers):
            self._is_announced = True
            self._announce()
            if self._log is not None:
                # Not sooner: what is announced stands first in the output.
                self._waiting.append(self._log)

    def _bury(self, child: _Child) -> None:
        self._selector.unregister(self._running[child])
        _, result = os.waitpid(child.pid, 0)
        status = os.waitstatus_to_exitcode(result)
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        self._lose(child, f"(pid {child.pid}) ended with {how}")

    def _lose(self, child: _Child, how: str) -> None:
        if child in self._running:
            self._running.pop(child).close()
        if self._is_stopping:
            return
        now = time.monotonic()
        child.failures = 0 if now - child.ready_at >= _STEADY_S else child.failures + 1
        child.ready_at = math.inf
        if child.failures == _MAX_FAILURES:
            _logger.error(
                "%s %s, %d times in a row right after its start: giving up", child.name, how, _MAX_FAILURES
            )
            self._status = 1
            self._tell(signal.SIGTERM)
            return
        _logger.warning("%s %s: another takes its place", child.name, how)
        child.due_at = now + (_FIRST_DELAY_S * 2 ** (child.failures - 2) if child.failures > 1 else 0)
        self._waiting.append(child)


def _send(channel: socket.socket, data: bytes) -> None:
    # That nobody is there any more is noticed where the channel is read.
    with contextlib.suppress(OSError):
        channel.send(data)


def _receive(channel: socket.socket) -> bytes:
    """What has been sent; nothing when the other side is gone."""
    try:
        return channel.recv(64)
    except ConnectionResetError:  # it went without reading everything
        return b""
