"""Each address that was asked for is listened on, all on one port; what cannot be is named by an OSError."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pytest

from aioserve.network.listener import find_address
from aioserve.network.sockets import format_url, open_sockets
from tests.network.addresses import (
    find_free_port,
    find_link_local_address,
    is_listening,
    needs_ipv6,
    on_linux,
)
from tests.network.conftest import count_open, expect_open

BACKLOG = 8


@asynccontextmanager
async def opened(hosts: Sequence[str], port: int = 0) -> AsyncIterator[list[tuple[str, int]]]:
    """The addresses of the sockets that are opened, each of which somebody can connect to."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in await open_sockets(hosts, port, BACKLOG)]
        addresses = [find_address(one) for one in sockets]
        assert [address for address in addresses if not is_listening(address[1], address[0])] == []
        yield addresses


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """The block closes every descriptor that it opens."""
    before = count_open()
    yield
    await expect_open(before)


def resolve_as(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    """Every name leads to these IPv4 addresses."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in hosts]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


class TestAddresses:
    async def test_a_port_that_is_asked_for_is_taken(self) -> None:
        port = find_free_port()
        async with opened(["127.0.0.1"], port) as addresses:
            assert addresses == [("127.0.0.1", port)]

    async def test_a_name_is_listened_on_at_each_of_its_addresses(self) -> None:
        async with opened(["localhost"]) as addresses:
            assert {host for host, _ in addresses} <= {"127.0.0.1", "::1"}
            assert len({port for _, port in addresses}) == 1

    @needs_ipv6
    async def test_several_hosts_share_one_free_port(self) -> None:
        async with opened(["::1", "127.0.0.1"]) as addresses:
            assert addresses == [("::1", addresses[0][1]), ("127.0.0.1", addresses[0][1])]

    @needs_ipv6
    async def test_all_addresses_of_both_families_do_not_get_into_each_others_way(self) -> None:
        async with opened(["0.0.0.0", "::"]) as addresses:
            assert addresses == [("0.0.0.0", addresses[0][1]), ("::", addresses[0][1])]

    @pytest.mark.parametrize("hosts", [["0.0.0.0", "127.0.0.1"], ["127.0.0.1", "localhost", "0.0.0.0"]])
    async def test_an_address_beside_all_of_its_family_is_one_of_them(
        self, hosts: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve_as(monkeypatch, ["127.0.0.1"])
        async with opened(hosts) as addresses:
            assert [host for host, _ in addresses] == ["0.0.0.0"]

    async def test_two_hosts_with_one_address_are_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve_as(monkeypatch, ["127.0.0.1"])
        async with opened(["127.0.0.1", "localhost"]) as addresses:
            assert [host for host, _ in addresses] == ["127.0.0.1"]

    async def test_a_link_local_address_keeps_its_zone(self) -> None:
        host = find_link_local_address()
        if host is None:
            pytest.skip("no interface has a link-local address here")
        async with opened([host]) as addresses:
            assert [host for host, _ in addresses] == [host]

    async def test_a_name_that_leads_to_one_address_in_two_ways_is_listened_on_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve_as(monkeypatch, ["127.0.0.1", "127.0.0.1"])
        async with opened(["twice.test"]) as addresses:
            assert [host for host, _ in addresses] == ["127.0.0.1"]

    async def test_an_address_of_a_name_that_this_machine_lacks_is_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As localhost where IPv6 is switched off: it still leads to ::1.
        resolve_as(monkeypatch, ["203.0.113.1", "127.0.0.1"])
        async with opened(["localhost"]) as addresses:
            assert [host for host, _ in addresses] == ["127.0.0.1"]


class TestRefusedAddresses:
    """An OSError names the address, and nothing is left open."""

    async def test_a_busy_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]
            async with nothing_left():
                with pytest.raises(OSError, match=in_use("127.0.0.1", port)) as caught:
                    await open_sockets(["127.0.0.1"], port, BACKLOG)

                assert caught.value.errno == errno.EADDRINUSE

    @needs_ipv6
    async def test_a_port_that_is_busy_at_the_second_host_frees_the_first(self) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as busy:
            port = busy.getsockname()[1]
            async with nothing_left():
                with pytest.raises(OSError, match=in_use("[::1]", port)):
                    await open_sockets(["127.0.0.1", "::1"], port, BACKLOG)
            assert not is_listening(port)

    @on_linux
    async def test_a_port_on_which_somebody_else_was_quicker_to_listen(self) -> None:
        with Rivals() as rivals:
            port = find_free_port()
            async with nothing_left():
                with (
                    before_listening(rivals.listen_on),
                    pytest.raises(OSError, match=in_use("127.0.0.1", port)),
                ):
                    await open_sockets(["127.0.0.1"], port, BACKLOG)
                rivals.close()

    @on_linux
    async def test_a_free_port_that_is_not_free_at_every_host_is_not_taken(self) -> None:
        with Rivals() as rivals:

            def occupy_the_first_choice(one: socket.socket) -> None:
                if one.getsockname()[0] == "127.0.0.2" and not rivals.ports:
                    rivals.listen_on(one)

            with before_listening(occupy_the_first_choice):
                async with opened(["127.0.0.1", "127.0.0.2"]) as addresses:
                    port = addresses[0][1]
                    assert [port] != rivals.ports
                    assert addresses == [("127.0.0.1", port), ("127.0.0.2", port)]

    @on_linux
    async def test_when_no_port_is_free_at_every_host_it_gives_up(self) -> None:
        with Rivals() as rivals:
            async with nothing_left():
                with before_listening(rivals.listen_on), pytest.raises(OSError, match="in use"):
                    await open_sockets(["127.0.0.1"], 0, BACKLOG)
                rivals.close()

    async def test_an_address_of_another_machine(self) -> None:
        async with nothing_left():
            with pytest.raises(OSError, match=r"http://203\.0\.113\.1:0/: cannot assign requested address"):
                await open_sockets(["203.0.113.1"], 0, BACKLOG)

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "a" * 64 + ".invalid"])
    async def test_a_name_of_nobody(self, host: str) -> None:
        async with nothing_left():
            with pytest.raises(socket.gaierror, match=f"cannot listen on {host}: "):
                await open_sockets([host], 0, BACKLOG)


def in_use(host: str, port: int) -> str:
    """A pattern for what the error says."""
    return re.escape(f"cannot listen on http://{host}:{port}/: address already in use") + "$"


class Rivals(contextlib.ExitStack):
    """Others who want a port that a server has bound already: with SO_REUSEADDR, Linux lets them bind it as
    well, and who listens first has it."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[int] = []

    def listen_on(self, bound: socket.socket) -> None:
        rival = self.enter_context(socket.socket())
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(bound.getsockname())
        _listen(rival, 1)
        self.ports.append(rival.getsockname()[1])


_listen = socket.socket.listen


@contextmanager
def before_listening(act: Callable[[socket.socket], None]) -> Iterator[None]:
    """Calls `act` with each socket that has been bound and is about to listen."""

    def act_and_listen(self: socket.socket, backlog: int) -> None:
        act(self)
        _listen(self, backlog)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", act_and_listen, raising=False)
        yield


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("192.0.2.1", "http://192.0.2.1:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
        ("2001:db8::1", "http://[2001:db8::1]:80/"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:80/"),
        ("example.org", "http://example.org:80/"),
    ],
)
def test_a_url_is_one_that_a_client_on_this_machine_can_use(host: str, url: str) -> None:
    assert format_url(host, 80) == url
