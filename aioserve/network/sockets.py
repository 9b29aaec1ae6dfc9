"""How the addresses that were asked for become listening sockets, all on one port, and which URL leads there.

Taking connections from them is for `listener`; to share them between processes, for `workers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping, Sequence

# An address of the machine: family, host, and what an IPv6 address has besides.
_Address = tuple[int, str, tuple[int, ...]]

# All addresses of a family.
_EVERYTHING = ("0.0.0.0", "::")

# What the system says of an address, or of a family of addresses, that the machine does not have.
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# How many free ports are tried when several addresses have to share one.
_FREE_PORTS_TRIED = 10


async def open_sockets(hosts: Sequence[str], port: int, backlog: int) -> list[socket.socket]:
    """A listening socket for each address of `hosts`, all on one port; for 0 on one that is free.

    Where a name has several addresses, those that the machine lacks are left out (::1 of localhost, without
    IPv6). Raises OSError that names the host.
    """
    addresses = _leave_out_covered({host: await _resolve(host) for host in hosts})
    for _ in range(0 if port else _FREE_PORTS_TRIED):
        # A port that is free at one address may be in use at another.
        try:
            return _open_sockets(addresses, port, backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _open_sockets(addresses, port, backlog)


async def _resolve(host: str) -> list[_Address]:
    loop = asyncio.get_running_loop()
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        try:
            # For what is no name nobody has to be asked; and uvloop loses the zone of a link-local address.
            # As bytes, since for a text Python loads the tables of international names.
            found = socket.getaddrinfo(host.encode(), 0, type=kind, flags=flags | socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await loop.getaddrinfo(host, 0, type=kind, flags=flags)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise type(error)(error.errno, f"cannot listen on {host}: {reason}") from None
    except UnicodeError:  # no query can hold it
        raise socket.gaierror(socket.EAI_NONAME, f"cannot listen on {host}: not a name of a host") from None
    return [(family, str(address[0]), tuple(address[2:])) for family, _, _, _, address in found]


def _leave_out_covered(addresses: Mapping[str, list[_Address]]) -> dict[str, list[_Address]]:
    """Without single addresses of a family all of whose addresses are listened on: they are among these."""
    everything = {address for found in addresses.values() for address in found if address[1] in _EVERYTHING}
    families = {family for family, *_ in everything}
    kept = {
        host: [address for address in found if address[0] not in families or address in everything]
        for host, found in addresses.items()
    }
    return {host: found for host, found in kept.items() if found}


def _open_sockets(addresses: Mapping[str, list[_Address]], port: int, backlog: int) -> list[socket.socket]:
    opened: dict[_Address, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for host, its_addresses in addresses.items():
            lacking: list[OSError] = []
            for address in its_addresses:
                if address in opened:
                    continue
                try:
                    opened[address] = stack.enter_context(_open_socket(host, address, port, backlog))
                except OSError as error:
                    if error.errno not in _LACKING:
                        raise
                    lacking.append(error)
                else:
                    port = port or opened[address].getsockname()[1]
            if opened.keys().isdisjoint(its_addresses):
                raise lacking[0]
        stack.pop_all()
    return list(opened.values())


def _open_socket(host: str, address: _Address, port: int, backlog: int) -> socket.socket:
    family, its_host, more = address
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if os.name == "posix":
                # Not the Windows meaning, where it would share the port. SO_REUSEPORT is never set: a second
                # server on a port in use has to fail.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setblocking(False)
            opened.bind((its_host, port, *more))
            # Here, not later: with SO_REUSEADDR two may bind the port, and the one who listens has it.
            opened.listen(backlog)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(error.errno, f"cannot listen on {format_url(host, port)}: {reason}") from None
        stack.pop_all()
    return opened


def format_url(host: str, port: int) -> str:
    """The URL at which a client on this machine reaches a server that is bound to `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    # RFC 6874: the zone of a link-local address begins with an encoded percent sign.
    host = host.replace("%", "%25")
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
