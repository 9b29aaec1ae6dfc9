"""What the machine tells about itself is true, and nothing is told where it cannot be known."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from pathlib import Path

import pytest

from aioserve.network import machine
from aioserve.network.machine import find_addresses, find_outward_address, find_port_owner

FAMILIES = [
    pytest.param(socket.AF_INET, "127.0.0.1", id="IPv4"),
    pytest.param(socket.AF_INET6, "::1", id="IPv6"),
]

ON_LINUX = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells")


def has_loopback(family: int, loopback: str) -> bool:
    try:
        with socket.socket(family) as one:
            one.bind((loopback, 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("family", "loopback"), FAMILIES)
class TestAddresses:
    def test_every_address_is_one_of_this_machine(self, family: int, loopback: str) -> None:
        if not has_loopback(family, loopback):
            pytest.skip("this machine does not have this family")
        for address in find_addresses(family):
            with socket.socket(family) as one:
                one.bind((address, 0))

    def test_the_loopback_comes_first(self, family: int, loopback: str) -> None:
        assert find_addresses(family)[0] == loopback

    def test_none_needs_the_name_of_an_interface(self, family: int, loopback: str) -> None:
        assert not [address for address in find_addresses(family) if address.startswith("fe80:")]

    def test_the_loopback_remains_when_the_system_refuses(self, family: int, loopback: str) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # getifaddrs asks the kernel through a socket, for which there is no descriptor now.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            found = find_addresses(family)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert found == (loopback,)

    def test_the_loopback_remains_where_no_libc_can_be_asked(
        self, family: int, loopback: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: object())

        assert find_addresses(family) == (loopback,)


class TestPortOwner:
    @ON_LINUX
    @pytest.mark.parametrize(("family", "loopback"), FAMILIES)
    def test_the_process_that_listens_is_named(self, family: int, loopback: str) -> None:
        if not has_loopback(family, loopback):
            pytest.skip("this machine does not have this family")
        name = Path("/proc/self/comm").read_text().strip()
        with socket.create_server((loopback, 0), family=family) as listening:
            owner = find_port_owner(listening.getsockname()[1])

        assert owner == f"{name} (pid {os.getpid()})"

    def test_a_port_that_is_bound_but_not_listened_on_has_no_owner(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))

            assert find_port_owner(bound.getsockname()[1]) is None

    def test_nobody_is_named_where_the_system_does_not_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_SOCKET_TABLES", ("/nowhere/tcp",))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            assert find_port_owner(listening.getsockname()[1]) is None

    def test_nobody_is_named_when_the_socket_is_in_no_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_DESCRIPTORS", "/nowhere/*")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            assert find_port_owner(listening.getsockname()[1]) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_others_see_is_an_address_of_an_interface(family: int) -> None:
    address = find_outward_address(family)

    assert address is None or address in find_addresses(family)
