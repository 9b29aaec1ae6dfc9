"""How tests wait for what happens in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

_TCP = Path("/proc/net/tcp")

needs_proc_net = pytest.mark.skipif(not _TCP.exists(), reason="only Linux tells what waits in the kernel")


async def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Returns once `condition` holds; fails when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 -- a kernel or another process sets no event
            await asyncio.sleep(0.005)


def count_in_backlog(port: int) -> int:
    """How many clients of a listening IPv4 port the kernel holds, until somebody accepts them."""
    rows = [row.split() for row in _TCP.read_text().splitlines()[1:]]
    # local address:port, remote address:port, state (0A listens), sent:waiting, all in hexadecimal
    return sum(
        int(columns[4].partition(":")[2], 16)
        for columns in rows
        if columns[3] == "0A" and int(columns[1].partition(":")[2], 16) == port
    )


async def wait_until_accepted(port: int) -> None:
    """Returns at once, within a turn of the loop, when the kernel holds no client any more."""
    for _ in range(10_000):
        if not count_in_backlog(port):
            return
        await asyncio.sleep(0)
    raise AssertionError("nobody accepts")
