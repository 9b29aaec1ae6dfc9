"""Clients that keep asking: several connections, each with one request after the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from tests.raw_client import Answer, RawClient

Judge = Callable[[str, Answer], None]


def format_request(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: localhost", *fields, "", "")).encode("latin-1")


async def ask_often(
    port: int, targets: Sequence[str], count: int, judge: Judge | None = None, *, connections: int = 8
) -> Counter[int]:
    """Asks for the targets in turn, `count` times in all, and gives each answer to `judge`.

    The connections are kept: one that is closed or goes wrong fails the test. Returns how often there was
    each status.
    """
    statuses: Counter[int] = Counter()
    numbers = iter(range(count))

    async def ask() -> None:
        async with RawClient(port) as client:
            for number in numbers:
                target = targets[number % len(targets)]
                answer = await client.ask(format_request(target))
                statuses[answer.status] += 1
                if judge is not None:
                    judge(target, answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(ask())
    assert statuses.total() == count
    return statuses


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Returns when it is so; fails when it never is."""
    for _ in range(1500):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")
