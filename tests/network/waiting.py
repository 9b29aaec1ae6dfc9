"""How tests wait for what happens in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Returns once `condition` holds; fails when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 -- a kernel or another process sets no event
            await asyncio.sleep(0.005)
