from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate, parsedate_to_datetime

import pytest

from aioserve.network.clock import Clock
from tests.network.conftest import Serving
from tests.network.waiting import wait_until
from tests.raw_client import get


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    clock = Clock()
    yield clock
    clock.stop()


class WallClock:
    """Stands in for the machine's clock: nobody may turn that one for a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "time", lambda: self.now_s)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


async def wait_for_another_second(clock: Clock) -> None:
    before_s = clock.now_s
    await wait_until(lambda: clock.now_s > before_s)


class TestDate:
    def test_it_is_the_time_of_the_wall_clock_before_the_first_tick(self) -> None:
        before_s = int(time.time())
        clock = Clock()

        assert before_s <= clock.now_s <= time.time()
        assert clock.date == formatdate(clock.now_s, usegmt=True)

    async def test_it_goes_on_with_the_wall_clock(self, clock: Clock) -> None:
        clock.start()
        for _ in range(2):
            await wait_for_another_second(clock)

            assert clock.now_s <= time.time()
            assert clock.date == formatdate(clock.now_s, usegmt=True)

    async def test_an_answer_carries_it(self, serving: Serving) -> None:
        before_s = int(time.time())
        async with serving() as server:
            first = (await get(server.port, "/")).fields["date"]
            while (later := (await get(server.port, "/")).fields["date"]) == first:
                pass

        first_s, later_s = (parsedate_to_datetime(date).timestamp() for date in (first, later))
        assert before_s <= first_s < later_s <= time.time()

    async def test_it_changes_with_the_second_and_not_a_second_after_the_start(
        self, clock: Clock, wall: WallClock
    ) -> None:
        wall.now_s = 99.999
        clock.start()
        wall.now_s = 100.0
        # Whoever ticks a second after the start, or a second after the last tick, does not by then.
        await asyncio.sleep(0.5)

        assert clock.now_s == 100
        assert clock.date == "Thu, 01 Jan 1970 00:01:40 GMT"

    @pytest.mark.parametrize("step_s", [-3600, 3600], ids=["back", "forward"])
    async def test_it_follows_a_wall_clock_that_is_set(
        self, step_s: int, clock: Clock, wall: WallClock
    ) -> None:
        wall.now_s = 1_000_000.999
        clock.start()
        wall.now_s += step_s
        await wait_until(lambda: clock.now_s == 1_000_000 + step_s)

        assert clock.date == formatdate(1_000_000 + step_s, usegmt=True)


class TestTicks:
    async def test_the_first_is_at_the_start(self, clock: Clock) -> None:
        ticks: list[float] = []
        clock.each_tick(ticks.append)
        assert ticks == []

        clock.start()

        assert len(ticks) == 1

    async def test_each_calls_every_hook_with_the_time_of_the_loop(self, clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        first: list[float] = []
        second: list[float] = []
        clock.each_tick(first.append)
        clock.each_tick(second.append)
        before_s = loop.time()
        clock.start()
        await wait_until(lambda: len(second) > 2)

        assert len(first) == len(second)
        for times_s in (first, second):
            assert times_s == sorted(times_s)
            assert before_s <= times_s[0] < times_s[-1] <= loop.time()

    async def test_a_hook_finds_the_time_of_its_tick(self, clock: Clock, wall: WallClock) -> None:
        seen: list[tuple[int, str]] = []
        clock.each_tick(lambda _: seen.append((clock.now_s, clock.date)))
        wall.now_s = 59.999
        clock.start()
        wall.now_s = 60.0
        await wait_until(lambda: len(seen) > 1)

        assert seen[0] == (59, "Thu, 01 Jan 1970 00:00:59 GMT")
        assert seen[1] == (60, "Thu, 01 Jan 1970 00:01:00 GMT")

    async def test_one_goes_on_after_a_hook_that_failed(self, clock: Clock, wall: WallClock) -> None:
        def fail(_: float) -> None:
            raise RuntimeError("a hook with a defect")

        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context)))
        ticks: list[float] = []
        clock.each_tick(ticks.append)
        wall.now_s = 0.999
        clock.start()
        clock.each_tick(fail)
        await wait_until(lambda: len(ticks) > 3)

        assert "a hook with a defect" in told[0]


class TestStop:
    async def test_after_it_nothing_ticks(self, clock: Clock, wall: WallClock) -> None:
        ticks: list[float] = []
        clock.each_tick(ticks.append)
        # A millisecond before the full second: it would tick again at once.
        wall.now_s = 0.999
        clock.start()
        clock.stop()
        await asyncio.sleep(0.1)

        assert len(ticks) == 1

    async def test_it_may_come_twice_or_before_the_start(self, clock: Clock) -> None:
        clock.stop()
        clock.start()
        clock.stop()
        clock.stop()

    async def test_it_can_be_started_again(self, clock: Clock) -> None:
        ticks: list[float] = []
        clock.each_tick(ticks.append)
        clock.start()
        clock.stop()
        clock.start()
        await wait_until(lambda: len(ticks) > 2)
