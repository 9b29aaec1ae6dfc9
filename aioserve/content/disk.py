"""Which thread waits for the disk, and for how long a request waits for that thread.

The event loop never waits for a disk: what may block runs here, in a bounded number of threads, through
aiofiles. What is done in a thread is the caller's business (`files`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, ParamSpec, TypeVar

# aiofiles.os.wrap: a blocking function becomes an asynchronous one that also takes an executor.
_Wrap = Callable[[Callable[[], object]], Callable[..., Awaitable[Any]]]

T = TypeVar("T")
P = ParamSpec("P")


class Busy(Exception):
    """No thread was free in time, or the disk is closed."""


class Disk:
    """Runs blocking functions in at most `threads` threads, started as they are needed.

    One key (a file, a name) has at most `threads_per_file` of them, so that the readers of one slow file
    leave the others to everybody else. A Disk belongs to one event loop.
    """

    def __init__(self, *, threads: int = 32, threads_per_file: int = 4, queue_s: float = 1.0) -> None:
        self.queue_s = queue_s
        self._threads_per_file = threads_per_file
        self._threads = _Threads()
        self._free = asyncio.Semaphore(threads)
        self._lanes: dict[Hashable, _Lane] = {}
        self._running = 0
        self._is_first = True
        self._wrap: _Wrap | None = None
        self._loading: asyncio.Future[_Wrap] | None = None
        self._is_closed = False

    async def run(
        self,
        key: Hashable,
        function: Callable[[], T],
        *,
        queue_s: float | None,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """The value of `function`, called in a thread; what it raises is raised.

        Calls wait in the order of their arrival, first for a place of their key, then for a thread. Raises
        Busy after `queue_s` of that; None waits without limit, for the middle of a transfer. The call itself
        takes as long as it takes: a caller that is cancelled leaves at once, but its thread counts until it
        has really finished, and a value that nobody waits for any more goes to `discard`.
        """
        await self._take_place(key, queue_s)
        release = partial(self._release_from_thread, key, asyncio.get_running_loop())
        call = _Call(function, discard, release)
        is_left_running = False
        try:
            self._threads.grow_to(self._running)
            return await self._hop(call.run)
        except BaseException:
            is_left_running = call.abandon()
            raise
        finally:
            if not is_left_running:
                self._release(key)

    def load(self) -> None:
        """Begins to load aiofiles, in a thread: it brings a good part of the standard library along.

        A server calls this as soon as it listens; without it, the second call of `run` waits for that.
        """
        if self._loading is None and not self._is_closed:
            self._threads.grow_to(1)
            self._loading = asyncio.get_running_loop().run_in_executor(self._threads, _load_wrap)

    async def _hop(self, function: Callable[[], T]) -> T:
        """Calls `function` in a thread, through aiofiles.

        The first call of all goes without: it stands between a program and its listening.
        """
        if self._wrap is None:
            if self._is_first:
                self._is_first = False
                return await asyncio.get_running_loop().run_in_executor(self._threads, function)
            self.load()
            if self._loading is None:
                raise Busy
            self._wrap = await asyncio.shield(self._loading)
        hop: Callable[..., Awaitable[T]] = self._wrap(function)
        return await hop(executor=self._threads)

    def close(self) -> None:
        """Lets the threads go: idle ones end now, the others with what they do. Waits for none of them.

        Who still waits for a place gets Busy when one comes free.
        """
        self._is_closed = True
        self._threads.shutdown(wait=False)

    async def _take_place(self, key: Hashable, queue_s: float | None) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self._threads_per_file)
        lane.users += 1
        try:
            if not (lane.places.locked() or self._free.locked()):
                # Nothing to wait for, so nothing that would need a timer.
                queue_s = None
            async with asyncio.timeout(queue_s):
                await lane.places.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    lane.places.release()
                    raise
        except BaseException as error:
            self._leave(key, lane)
            if isinstance(error, TimeoutError):
                raise Busy from None
            raise
        self._running += 1
        if self._is_closed:
            self._release(key)
            raise Busy

    def _release(self, key: Hashable) -> None:
        self._running -= 1
        self._free.release()
        lane = self._lanes[key]
        lane.places.release()
        self._leave(key, lane)

    def _release_from_thread(self, key: Hashable, loop: asyncio.AbstractEventLoop) -> None:
        # The loop may be closed by now, and nobody is left who would want the place.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._release, key)

    def _leave(self, key: Hashable, lane: _Lane) -> None:
        lane.users -= 1
        if not lane.users:
            del self._lanes[key]


def _load_wrap() -> _Wrap:
    from aiofiles.os import wrap

    return wrap


class _Lane:
    """The places of one key, kept while somebody has one or waits for one."""

    __slots__ = ("places", "users")

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0


class _Call(Generic[T]):
    """One function on its way through a thread, and whether anybody still waits for its value."""

    __slots__ = ("_discard", "_function", "_is_abandoned", "_is_running", "_lock", "_release", "_values")

    def __init__(
        self, function: Callable[[], T], discard: Callable[[T], None] | None, release: Callable[[], None]
    ) -> None:
        self._function = function
        self._discard = discard
        self._release = release
        self._lock = Lock()
        self._is_running = False
        self._is_abandoned = False
        self._values: list[T] = []

    def run(self) -> T:
        """Calls the function, in a thread. Cleans up by itself when it was abandoned meanwhile."""
        with self._lock:
            if self._is_abandoned:
                raise CancelledError
            self._is_running = True
        try:
            value = self._function()
            self._values.append(value)
            return value
        finally:
            with self._lock:
                self._is_running = False
                is_late = self._is_abandoned
            if is_late:
                try:
                    self._drop_value()
                finally:
                    self._release()

    def abandon(self) -> bool:
        """Nobody waits any more. True when the thread is still at it and will release the place itself."""
        with self._lock:
            self._is_abandoned = True
            if self._is_running:
                return True
        self._drop_value()
        return False

    def _drop_value(self) -> None:
        if self._discard is not None:
            for value in self._values:
                self._discard(value)


class _Threads(Executor):
    """Daemon threads that take their work from one queue.

    A ThreadPoolExecutor would do, if the interpreter did not wait at its end for each of its threads: one
    read that hangs in a network disk would keep the process alive for ever.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = 0

    def grow_to(self, count: int) -> None:
        """Has `count` threads, or as many as the system gives. Raises Busy when that is none."""
        while self._count < count:
            try:
                Thread(target=self._serve, name=f"aioserve-disk-{self._count}", daemon=True).start()
            except RuntimeError:
                if self._count:
                    return
                raise Busy from None
            self._count += 1

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._work.put(partial(_settle, future, partial(function, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends each thread after the work that is queued; never waits, and cancels nothing."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # An idle thread keeps no content and no connection alive.
            del work


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    """Gives `future` what comes of `function`, unless it was cancelled before."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
