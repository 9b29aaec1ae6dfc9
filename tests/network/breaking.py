"""How tests break the sending of a file at a moment of their choice, and see what a client gets then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType

import pytest

from aioserve.content.site import Site
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Plan
from tests.content.conftest import open_descriptors
from tests.failures.traffic import format_request
from tests.raw_client import RawClient

# Seconds until a client gives up.
PATIENCE_S = 30


def take_away(path: Path) -> None:
    """Puts a folder behind each descriptor that is open on `path`: whoever reads there gets EISDIR."""
    folder = os.open(path.parent, os.O_RDONLY)
    for number, name in open_descriptors().items():
        if name == str(path):
            os.dup2(folder, int(number), inheritable=False)
    os.close(folder)


Respond = Callable[[Site, Request, int], AsyncIterator[Plan]]


class LongWay:
    """What `Site.respond` gives, where the answer never is at hand at once."""

    def __init__(self, respond: AbstractAsyncContextManager[Plan], request: Request) -> None:
        self._respond = respond
        self.request = request
        self.match = None

    def __enter__(self) -> Plan:
        raise BlockingIOError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise AssertionError("nothing was entered")

    async def __aenter__(self) -> Plan:
        return await self._respond.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._respond.__aexit__(kind, value, trace)


def answer_by(monkeypatch: pytest.MonkeyPatch, respond: Respond) -> None:
    """Every request is answered by `respond`."""
    manage = asynccontextmanager(respond)

    def answer(site: Site, request: Request, now_s: int) -> LongWay:
        return LongWay(manage(site, request, now_s), request)

    monkeypatch.setattr(Site, "respond", answer)


def before_sending(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Calls `act` for each answer when it has been decided and its file is open, but nothing is sent yet."""
    original = Site.respond

    async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
        async with original(site, request, now_s) as plan:
            act()
            yield plan

    answer_by(monkeypatch, respond)


async def begin_transfer(client: RawClient, target: str, *fields: str) -> int:
    """Asks for a file and reads the head alone; gives the length that it announces."""
    await client.send(format_request(target, *fields))
    async with asyncio.timeout(PATIENCE_S):
        head = await client.reader.readuntil(b"\r\n\r\n")
    match = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    assert match is not None
    return int(match[1])


async def read_what_comes(client: RawClient) -> bytes:
    """What still arrives until the connection ends, in whichever way it does."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE_S):
            while data := await client.reader.read(1 << 20):
                received += data
    return bytes(received)
