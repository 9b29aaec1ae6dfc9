"""How tests break the sending of a file at a moment of their choice, and see what a client gets then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

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


def before_sending(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Calls `act` for each answer when it has been decided and its file is open, but nothing is sent yet."""
    original = Site.respond

    @asynccontextmanager
    async def respond(site: Site, request: Request, now_s: int) -> AsyncIterator[Plan]:
        async with original(site, request, now_s) as plan:
            act()
            yield plan

    monkeypatch.setattr(Site, "respond", respond)


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
