from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from functools import partial

import pytest

from aioserve.content.disk import Busy, Disk, _Call


class Gate:
    """A function that blocks its thread until it is let go, and notes who is inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: list[object] = []
        self.most_inside = 0
        self.order: list[object] = []
        self._may_go = threading.Event()
        self._entered = threading.Semaphore(0)

    def passing(self, name: object) -> Callable[[], object]:
        def function() -> object:
            with self.lock:
                self.inside.append(name)
                self.order.append(name)
                self.most_inside = max(self.most_inside, len(self.inside))
            self._entered.release()
            self._may_go.wait()
            with self.lock:
                self.inside.remove(name)
            return name

        return function

    async def wait_for(self, count: int) -> None:
        """Until `count` more threads are inside."""
        for _ in range(count):
            await asyncio.to_thread(self._entered.acquire)

    def open(self) -> None:
        self._may_go.set()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def _let_others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_value_of_the_function_comes_back_from_another_thread() -> None:
    disk = Disk()
    assert await disk.run("key", threading.get_ident, queue_s=1) != threading.get_ident()
    disk.close()


async def test_what_the_function_raises_is_raised_and_frees_its_place() -> None:
    disk = Disk(threads=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await disk.run("key", lambda: 1 // 0, queue_s=1)
    assert await disk.run("key", lambda: "still works", queue_s=1) == "still works"
    disk.close()


async def test_no_thread_is_started_before_it_is_needed_nor_more_than_needed() -> None:
    before = set(threading.enumerate())
    disk = Disk(threads=8)
    assert set(threading.enumerate()) <= before
    for number in range(5):
        await disk.run(number, lambda: None, queue_s=1)
    assert len(set(threading.enumerate()) - before) == 1
    disk.close()


async def test_never_more_calls_at_once_than_threads(gate: Gate) -> None:
    disk = Disk(threads=3)
    calls = [asyncio.ensure_future(disk.run(key, gate.passing(key), queue_s=None)) for key in range(10)]
    await gate.wait_for(3)
    await _let_others_run()
    assert gate.inside == [0, 1, 2]
    gate.open()
    assert await asyncio.gather(*calls) == list(range(10))
    assert gate.most_inside == 3
    disk.close()


async def test_one_slow_file_leaves_threads_to_the_others(gate: Gate) -> None:
    disk = Disk(threads=8, threads_per_file=2)
    slow = [
        asyncio.ensure_future(disk.run("slow", gate.passing(number), queue_s=None)) for number in range(20)
    ]
    await gate.wait_for(2)
    assert [await disk.run("other", partial(abs, number), queue_s=1) for number in range(5)] == list(range(5))
    assert gate.inside == [0, 1]
    gate.open()
    await asyncio.gather(*slow)
    assert gate.most_inside == 2
    disk.close()


async def test_calls_of_one_key_go_in_the_order_of_their_arrival(gate: Gate) -> None:
    disk = Disk(threads=1)
    calls = [
        asyncio.ensure_future(disk.run("key", gate.passing(number), queue_s=None)) for number in range(9)
    ]
    await gate.wait_for(1)
    gate.open()
    await asyncio.gather(*calls)
    assert gate.order == list(range(9))
    disk.close()


async def test_who_waits_too_long_for_a_thread_is_told_busy(gate: Gate) -> None:
    disk = Disk(threads=1)
    first = asyncio.ensure_future(disk.run("first", gate.passing("first"), queue_s=0.01))
    await gate.wait_for(1)
    with pytest.raises(Busy):
        await disk.run("second", gate.passing("second"), queue_s=0.01)
    gate.open()
    assert await first == "first"  # the limit is for the queue, not for the call
    assert gate.order == ["first"]
    assert await disk.run("third", lambda: 3, queue_s=1) == 3
    disk.close()


async def test_who_waits_too_long_for_a_file_is_told_busy_while_threads_are_free(gate: Gate) -> None:
    disk = Disk(threads=8, threads_per_file=1)
    first = asyncio.ensure_future(disk.run("file", gate.passing("first"), queue_s=0.01))
    await gate.wait_for(1)
    with pytest.raises(Busy):
        await disk.run("file", gate.passing("second"), queue_s=0.01)
    gate.open()
    await first
    assert await disk.run("file", lambda: 3, queue_s=1) == 3
    disk.close()


async def test_who_leaves_the_queue_does_not_hold_up_those_behind(gate: Gate) -> None:
    disk = Disk(threads=1, threads_per_file=1)
    first = asyncio.ensure_future(disk.run("a", gate.passing("first"), queue_s=None))
    await gate.wait_for(1)
    same_key = asyncio.ensure_future(disk.run("a", gate.passing("same key"), queue_s=None))
    other_key = asyncio.ensure_future(disk.run("b", gate.passing("other key"), queue_s=None))
    last = asyncio.ensure_future(disk.run("b", gate.passing("last"), queue_s=None))
    await _let_others_run()
    same_key.cancel()
    other_key.cancel()
    await _let_others_run()
    assert same_key.cancelled()
    assert other_key.cancelled()
    gate.open()
    assert (await first, await last) == ("first", "last")
    assert gate.order == ["first", "last"]
    disk.close()


async def test_a_cancelled_caller_leaves_at_once_but_its_thread_counts_until_it_ends(gate: Gate) -> None:
    disk = Disk(threads=1)
    discarded: list[object] = []
    call = asyncio.ensure_future(
        disk.run("key", gate.passing("late"), queue_s=None, discard=discarded.append)
    )
    await gate.wait_for(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(Busy):
        await disk.run("other", lambda: None, queue_s=0.01)
    assert discarded == []
    gate.open()
    assert await disk.run("other", lambda: "free again", queue_s=None) == "free again"
    assert discarded == ["late"]
    disk.close()


async def test_a_late_value_without_discard_is_dropped(gate: Gate) -> None:
    disk = Disk(threads=1)
    call = asyncio.ensure_future(disk.run("key", gate.passing("late"), queue_s=None))
    await gate.wait_for(1)
    call.cancel()
    gate.open()
    assert await disk.run("key", lambda: "free again", queue_s=None) == "free again"
    assert call.cancelled()
    disk.close()


async def test_a_late_error_frees_the_place_too(gate: Gate) -> None:
    disk = Disk(threads=1)
    discarded: list[object] = []

    def fail() -> None:
        gate.passing("late")()
        raise OSError("nobody wants to know")

    call = asyncio.ensure_future(disk.run("key", fail, queue_s=None, discard=discarded.append))
    await gate.wait_for(1)
    call.cancel()
    gate.open()
    assert await disk.run("key", lambda: "free again", queue_s=None) == "free again"
    assert discarded == []
    disk.close()


async def test_a_value_that_was_ready_when_its_caller_was_cancelled_is_discarded() -> None:
    disk = Disk(threads=1)
    discarded: list[str] = []
    call = asyncio.ensure_future(disk.run("key", lambda: "ready", queue_s=None, discard=discarded.append))
    await asyncio.sleep(0)
    # The only thread takes its work in order: when this is done, so is the call, and the loop does not know.
    disk._threads.submit(lambda: None).result()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert discarded == ["ready"]
    disk.close()


async def test_a_call_that_is_cancelled_before_it_starts_never_starts(gate: Gate) -> None:
    disk = Disk(threads=1)
    await disk.run("key", lambda: None, queue_s=None)
    blocker = disk._threads.submit(gate.passing("blocker"))
    await gate.wait_for(1)
    call = asyncio.ensure_future(disk.run("key", gate.passing("never"), queue_s=None))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.open()
    assert blocker.result() == "blocker"
    assert await disk.run("key", lambda: "free again", queue_s=1) == "free again"
    assert gate.order == ["blocker"]
    disk.close()


def test_a_call_that_was_abandoned_just_before_its_thread_came_does_nothing() -> None:
    done: list[str] = []
    call = _Call(lambda: done.append("function"), None, lambda: done.append("release"))
    assert not call.abandon()
    with pytest.raises(CancelledError):
        call.run()
    assert done == []


async def test_cancelling_everybody_at_random_loses_no_place_and_no_value() -> None:
    disk = Disk(threads=4, threads_per_file=2)
    made: list[int] = []
    discarded: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    async def ask(number: int) -> int:
        return await disk.run(number % 5, lambda: make(number), queue_s=None, discard=discarded.append)

    calls = [asyncio.ensure_future(ask(number)) for number in range(600)]
    for call in calls[::3]:
        await asyncio.sleep(0)
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    received = [answer for answer in answers if isinstance(answer, int)]
    while disk._lanes:  # what was cancelled in the middle still ends
        await asyncio.to_thread(disk._threads.submit(lambda: None).result)
    assert sorted(received + discarded) == sorted(made)
    assert len(received) >= 400
    places = [disk.run(key, lambda: "free", queue_s=None) for key in (1, 1, 2, 2)]
    assert await asyncio.gather(*places) == ["free"] * 4
    disk.close()


async def test_a_loop_that_is_closed_does_not_trouble_a_thread_that_ends_later() -> None:
    gate = Gate()
    discarded: list[object] = []
    disk = Disk(threads=1)

    def serve_and_leave() -> None:
        async def start() -> None:
            call = asyncio.ensure_future(
                disk.run("key", gate.passing("late"), queue_s=None, discard=discarded.append)
            )
            await gate.wait_for(1)
            call.cancel()

        asyncio.run(start())

    await asyncio.to_thread(serve_and_leave)
    gate.open()
    disk._threads.submit(lambda: None).result()
    assert discarded == ["late"]
    disk.close()


async def test_after_close_everybody_is_told_busy_even_who_waits_without_limit(gate: Gate) -> None:
    disk = Disk(threads=1)
    running = asyncio.ensure_future(disk.run("key", gate.passing("running"), queue_s=None))
    await gate.wait_for(1)
    waiting = asyncio.ensure_future(disk.run("key", gate.passing("waiting"), queue_s=None))
    await _let_others_run()
    disk.close()
    gate.open()
    assert await running == "running"
    with pytest.raises(Busy):
        await waiting
    with pytest.raises(Busy):
        await disk.run("key", lambda: None, queue_s=1)
    assert gate.order == ["running"]


async def test_close_ends_the_threads() -> None:
    before = set(threading.enumerate())
    disk = Disk(threads=4)
    await asyncio.gather(*(disk.run(number, lambda: None, queue_s=None) for number in range(20)))
    threads = set(threading.enumerate()) - before
    assert threads
    disk.close()
    for thread in threads:
        thread.join()


async def test_without_a_single_thread_it_is_busy_and_recovers() -> None:
    disk = Disk(threads=2)
    usual = threading.stack_size(1 << 47)  # more than there are addresses
    try:
        with pytest.raises(Busy):
            await disk.run("key", lambda: None, queue_s=1)
    finally:
        threading.stack_size(usual)
    assert await disk.run("key", lambda: "recovered", queue_s=1) == "recovered"
    disk.close()


async def test_when_no_more_threads_can_be_had_those_that_run_do_the_work(gate: Gate) -> None:
    disk = Disk(threads=2)
    first = asyncio.ensure_future(disk.run("a", gate.passing("first"), queue_s=None))
    await gate.wait_for(1)
    usual = threading.stack_size(1 << 47)
    try:
        second = asyncio.ensure_future(disk.run("b", gate.passing("second"), queue_s=None))
        await _let_others_run()
    finally:
        threading.stack_size(usual)
    assert gate.order == ["first"]
    gate.open()
    assert (await first, await second) == ("first", "second")
    disk.close()


_STUCK = """
import asyncio, os, threading
from aioserve.content.disk import Disk

async def main():
    disk = Disk()
    reader, writer = os.pipe()
    started = threading.Event()
    def read():
        started.set()
        os.read(reader, 1)
    call = asyncio.ensure_future(disk.run("key", read, queue_s=None))
    while not started.is_set():
        await asyncio.sleep(0.001)
    disk.close()
    call.cancel()

asyncio.run(main())
print("ended")
"""


def test_a_thread_that_hangs_for_ever_does_not_keep_the_process() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _STUCK], capture_output=True, text=True, timeout=30, check=True
    )
    assert (result.stdout, result.stderr) == ("ended\n", "")
