"""What the tests of the wire share: both event loops, a site on the disk, and servers for it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from aioserve import Server
from aioserve.network.shortcuts import Shortcuts
from tests.content.conftest import open_descriptors
from tests.network.waiting import wait_until

MIB = 1 << 20

# Seconds to wait for what must come, more than any test may last.
PATIENCE_S = 1000

LARGE = b"".join(number.to_bytes(4, "big") for number in range(MIB // 4))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test of the wire runs on both loops, unless it says that one is enough."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
def site_root(tmp_path: Path) -> Path:
    """A folder to serve: pages, a text, a file of 1 MiB whose bytes differ, and one of 64 MiB of zeros."""
    root = tmp_path / "site"
    for folder in (root, root / "folder", root / "bare"):
        folder.mkdir()
        (folder / "hello.txt").write_bytes(b"hello\n")
    (root / "index.html").write_bytes(b"<!doctype html><title>home</title>\n")
    (root / "folder" / "index.html").write_bytes(b"<!doctype html><title>folder</title>\n")
    (root / "large.bin").write_bytes(LARGE)
    (root / "huge.bin").touch()
    os.truncate(root / "huge.bin", 64 * MIB)  # more than the kernel's buffers of one connection hold
    return root


Serving = Callable[..., Server]


@pytest.fixture
def serving(site_root: Path) -> Serving:
    """Makes servers of `site_root`, on a free port and with the options that are given."""
    return lambda **options: Server(site_root, 0, **options)


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def serve(serving: Serving) -> Serve:
    """Serves `site_root` for a block, as `serve_all` does, with the options that are given."""
    return lambda **options: serve_all(serving(**options))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that have been answered by the shortcut."""
    original, heads = Shortcuts.find, list[bytes]()

    def find(shortcuts: Shortcuts, head: bytes) -> object:
        found = original(shortcuts, head)
        if found is not None:
            heads.append(head)
        return found

    monkeypatch.setattr(Shortcuts, "find", find)
    return heads


@contextlib.asynccontextmanager
async def serve_all(server: Server) -> AsyncIterator[Server]:
    """At the end of the block each connection has to end by itself: one that stays makes the test fail."""
    await server.start()
    try:
        yield server
    except BaseException:
        await server.stop(grace_s=0)
        raise
    await server.stop(grace_s=PATIENCE_S)


def count_open() -> Counter[str]:
    """The descriptors of this process by what they are, but for the one that libuv keeps in reserve."""
    names = (name.partition("[")[0] for name in open_descriptors().values())
    return Counter(name for name in names if name != os.devnull)


async def expect_open(descriptors: Counter[str]) -> None:
    """Returns once these and no more are open: a transport is closed in the turn after."""
    with contextlib.suppress(TimeoutError):
        await wait_until(lambda: count_open() == descriptors)
    assert count_open() == descriptors


@contextlib.contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Within the block, the process may have so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
