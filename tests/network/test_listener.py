from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from aioserve.network import listener as listener_module
from aioserve.network.listener import Listener
from tests.content.conftest import no_descriptor_left
from tests.network.conftest import count_open, expect_open
from tests.network.waiting import count_in_backlog, needs_proc_net, wait_until, wait_until_accepted

pytestmark = needs_proc_net

BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Door:
    """A listener and the clients that it has connected, each by its own address."""

    bound: socket.socket
    listener: Listener
    writers: list[asyncio.StreamWriter]

    @property
    def port(self) -> int:
        return self.listener.address[1]

    @property
    def connected(self) -> list[object]:
        return [writer.get_extra_info("peername") for writer in self.writers]

    def shut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


def make_door(host: str = "127.0.0.1", backlog: int = BACKLOG) -> Door:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setblocking(False)
    bound.bind((host, 0))
    writers: list[asyncio.StreamWriter] = []
    return Door(bound, Listener(bound, backlog, lambda _, writer: writers.append(writer)), writers)


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the loop was told that nobody handles; the test fails when there is anything."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(repr(context)))
    yield complaints
    assert complaints == []


@pytest.fixture
async def door(complaints: list[str]) -> AsyncIterator[Door]:
    """One that is open; at the end, nothing of it is left."""
    before = count_open()
    door = make_door()
    await door.listener.start()
    yield door
    await door.listener.close()
    door.shut()
    await expect_open(before)


class Clients:
    """Clients that have connected, as far as the kernel is concerned."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def add(self, port: int, count: int = 1) -> list[object]:
        """Their addresses."""
        return [self._connect(port).getsockname() for _ in range(count)]

    def _connect(self, port: int) -> socket.socket:
        return self._stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))

    def knock(self, port: int) -> socket.socket:
        """One that does not wait until it is connected."""
        client = self._stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        return client

    def leave(self) -> None:
        self._stack.close()


@pytest.fixture
def clients(door: Door) -> Iterator[Clients]:
    clients = Clients()
    yield clients
    clients.leave()


async def let_the_loop_turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def hold(door: Door) -> None:
    """Holds, and lets the loop do what it has put off."""
    door.listener.hold()
    await let_the_loop_turn()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class TestTaking:
    async def test_every_client_is_connected_in_its_turn(self, door: Door, clients: Clients) -> None:
        addresses = clients.add(door.port, 8)
        await wait_until(lambda: len(door.connected) == 8)

        assert door.connected == addresses

    @pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "IPv4"), ("::1", "IPv6")])
    def test_the_address_is_host_and_port(self, host: str, family: str) -> None:
        try:
            door = make_door(host)
        except OSError:
            pytest.skip(f"this machine has no {family}")
        with door.bound:
            assert door.listener.address == (host, door.bound.getsockname()[1])

    async def test_so_many_wait_in_the_kernel_as_the_backlog_says(self, door: Door, clients: Clients) -> None:
        await hold(door)
        # Linux lets one more wait than it was told; the last ones knock again a second later.
        for _ in range(BACKLOG + 6):
            clients.knock(door.port)
        await wait_until(lambda: count_in_backlog(door.port) == BACKLOG + 1)
        assert door.connected == []

        door.listener.resume()
        await wait_until(lambda: len(door.connected) == BACKLOG + 6)
        # What asyncio tells the kernel when it starts is not what counts afterwards.
        await hold(door)
        clients.leave()
        for _ in range(BACKLOG + 6):
            clients.knock(door.port)
        await wait_until(lambda: count_in_backlog(door.port) == BACKLOG + 1)


class TestHold:
    async def test_clients_wait_in_the_kernel_and_are_connected_on_resume(
        self, door: Door, clients: Clients
    ) -> None:
        first = clients.add(door.port)
        await wait_until(lambda: door.connected == first)
        await hold(door)
        later = clients.add(door.port, 3)
        await let_the_loop_turn()
        assert door.connected == first
        assert count_in_backlog(door.port) == 3

        door.listener.resume()
        await wait_until(lambda: len(door.connected) == 4)

        assert door.connected == first + later

    async def test_who_was_accepted_when_it_came_is_connected(self, door: Door, clients: Clients) -> None:
        addresses = clients.add(door.port, 8)
        await wait_until_accepted(door.port)
        door.listener.hold()
        await wait_until(lambda: len(door.connected) == 8)

        assert door.connected == addresses

    @pytest.mark.parametrize("turns", range(5))
    async def test_who_comes_meanwhile_is_connected_now_or_on_resume(
        self, turns: int, door: Door, clients: Clients
    ) -> None:
        addresses = clients.add(door.port, 3)
        for _ in range(turns):
            await asyncio.sleep(0)
        await hold(door)
        door.listener.resume()
        await wait_until(lambda: len(door.connected) == 3)

        assert door.connected == addresses

    async def test_two_are_ended_by_one_resume(self, door: Door, clients: Clients) -> None:
        await hold(door)
        await hold(door)
        door.listener.resume()
        addresses = clients.add(door.port)
        await wait_until(lambda: door.connected == addresses)

    async def test_resuming_what_takes_opens_nothing(self, door: Door, clients: Clients) -> None:
        before = count_open()
        door.listener.resume()
        await let_the_loop_turn()

        assert count_open() == before
        addresses = clients.add(door.port)
        await wait_until(lambda: door.connected == addresses)

    @pytest.mark.parametrize("turns", range(5))
    async def test_one_that_follows_a_resume_holds(self, turns: int, door: Door, clients: Clients) -> None:
        await hold(door)
        door.listener.resume()
        for _ in range(turns):
            await asyncio.sleep(0)
        await hold(door)
        clients.add(door.port)
        await let_the_loop_turn()

        assert count_in_backlog(door.port) == 1

    @pytest.mark.parametrize("turns", range(5))
    async def test_a_resume_that_follows_one_resumes(self, turns: int, door: Door, clients: Clients) -> None:
        for _ in range(10):
            door.listener.hold()
            for _ in range(turns):
                await asyncio.sleep(0)
            door.listener.resume()
        addresses = clients.add(door.port)
        await wait_until(lambda: door.connected == addresses)


class TestStart:
    @pytest.mark.parametrize("turns", range(5))
    async def test_one_that_is_interrupted_can_be_closed(self, turns: int, complaints: list[str]) -> None:
        before = count_open()
        door = make_door()
        starting = asyncio.create_task(door.listener.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])

        await door.listener.close()

        await expect_open(before)


class TestClose:
    async def test_new_clients_are_refused_and_nothing_stays_open(self, complaints: list[str]) -> None:
        before = count_open()
        door = make_door()
        port = door.port
        await door.listener.start()
        assert is_listening(port)

        await door.listener.close()

        assert not is_listening(port)
        door.shut()
        await expect_open(before)

    async def test_who_was_accepted_before_is_connected(self, door: Door, clients: Clients) -> None:
        addresses = clients.add(door.port, 8)
        await wait_until_accepted(door.port)
        await door.listener.close()

        assert door.connected == addresses

    @pytest.mark.parametrize("turns", range(5))
    async def test_one_that_is_about_to_take_again_takes_no_more(self, turns: int, door: Door) -> None:
        port = door.port
        await hold(door)
        door.listener.resume()
        for _ in range(turns):
            await asyncio.sleep(0)
        await door.listener.close()

        assert not is_listening(port)

    async def test_one_that_was_never_started_is_closed(self, complaints: list[str]) -> None:
        before = count_open()
        door = make_door()

        await door.listener.close()

        assert count_open() == before

    async def test_it_listens_no_more_when_it_is_interrupted(self, door: Door) -> None:
        port = door.port
        closing = asyncio.create_task(door.listener.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await let_the_loop_turn()

        assert not is_listening(port)

    async def test_a_pause_does_not_outlive_it(
        self, door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(listener_module, "_PAUSE_S", 0.01)
        port = door.port
        door.listener.pause_for_a_moment()
        await door.listener.close()
        await asyncio.sleep(0.05)

        assert not is_listening(port)
        assert len(caplog.records) == 1  # one that starts again would find its socket closed, and say so


SHORTAGE = "out of file descriptors: connections wait until some are free again"


class TestShortage:
    @pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop accepts by itself
    async def test_clients_wait_in_the_kernel_and_one_line_says_so(
        self, door: Door, clients: Clients, caplog: pytest.LogCaptureFixture
    ) -> None:
        waiting = [socket.socket() for _ in range(3)]
        with no_descriptor_left():
            for client in waiting:
                client.connect(("127.0.0.1", door.port))
            await wait_until(lambda: caplog.messages)
            # Long enough for it to try again, and to find that nothing has changed.
            await asyncio.sleep(2 * listener_module._PAUSE_S)
            assert door.connected == []
        await wait_until(lambda: len(door.connected) == 3)
        for client in waiting:
            client.close()

        assert caplog.messages == [SHORTAGE]

    async def test_one_in_which_it_cannot_take_again_is_survived(
        self, door: Door, clients: Clients, caplog: pytest.LogCaptureFixture
    ) -> None:
        await hold(door)
        addresses = clients.add(door.port, 3)
        with no_descriptor_left():
            door.listener.resume()
            await wait_until(lambda: caplog.messages)
            assert door.connected == []
        await wait_until(lambda: len(door.connected) == 3)

        assert door.connected == addresses
        assert caplog.messages == [SHORTAGE]

    async def test_another_one_a_minute_later_is_told_again(
        self, door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        door.listener.pause_for_a_moment()
        door.listener.pause_for_a_moment()
        assert caplog.messages == [SHORTAGE]

        monkeypatch.setattr(listener_module, "_REPORT_EVERY_S", 0)
        door.listener.pause_for_a_moment()
        assert caplog.messages == 2 * [SHORTAGE]

    async def test_a_moment_later_clients_are_connected_again(self, door: Door, clients: Clients) -> None:
        door.listener.pause_for_a_moment()
        await let_the_loop_turn()
        addresses = clients.add(door.port)
        await let_the_loop_turn()
        assert count_in_backlog(door.port) == 1

        await wait_until(lambda: door.connected == addresses)

    async def test_the_end_of_the_moment_does_not_end_a_hold(
        self, door: Door, clients: Clients, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener_module, "_PAUSE_S", 0.01)
        door.listener.pause_for_a_moment()
        await hold(door)
        addresses = clients.add(door.port)
        await asyncio.sleep(0.05)
        assert count_in_backlog(door.port) == 1

        door.listener.resume()
        await wait_until(lambda: door.connected == addresses)

    async def test_a_resume_does_not_end_the_moment(self, door: Door, clients: Clients) -> None:
        door.listener.pause_for_a_moment()
        await hold(door)
        door.listener.resume()
        addresses = clients.add(door.port)
        await let_the_loop_turn()
        assert count_in_backlog(door.port) == 1

        await wait_until(lambda: door.connected == addresses)

    @pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop accepts by itself
    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
    async def test_each_kind_of_it_is_survived(
        self, code: int, door: Door, clients: Clients, caplog: pytest.LogCaptureFixture
    ) -> None:
        with failing_accept(code) as failures:
            addresses = clients.add(door.port)
            await wait_until(lambda: failures)
        await wait_until(lambda: door.connected == addresses)

        assert caplog.messages == [SHORTAGE]

    @pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop accepts by itself
    async def test_a_client_that_has_left_meanwhile_is_none(
        self, door: Door, clients: Clients, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Linux does not say so for TCP, other systems do.
        with failing_accept(errno.ECONNABORTED) as failures:
            addresses = clients.add(door.port)
            await wait_until(lambda: failures)
        await wait_until(lambda: door.connected == addresses)

        assert caplog.messages == []


@contextmanager
def failing_accept(code: int) -> Iterator[list[int]]:
    """Nobody can be accepted within the block; gives the failures so far."""
    failures: list[int] = []

    def accept(_: socket.socket) -> None:
        failures.append(code)
        raise OSError(code, "accept")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "accept", accept)
        yield failures
