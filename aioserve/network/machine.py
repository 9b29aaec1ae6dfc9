"""What the machine says about itself, for messages to people: its addresses, and who has a port.

Nothing here decides anything: where the system does not tell, the message says less.
"""

from __future__ import annotations

import ctypes
import glob
import os
import socket
import sys

_SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_DESCRIPTORS = "/proc/[0-9]*/fd/*"

# The state of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
_TCP_LISTEN = "0A"

_IFF_UP = 0x1


class _InterfaceAddress(ctypes.Structure):
    """struct ifaddrs, as far as Linux, macOS and the BSDs agree on it."""


_InterfaceAddress._fields_ = [
    ("next", ctypes.POINTER(_InterfaceAddress)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def find_addresses(family: int) -> tuple[str, ...]:
    """The addresses of this machine's interfaces that a URL can hold, those of the loopback first.

    `family` is socket.AF_INET or AF_INET6. Link-local IPv6 addresses are left out: they need the name of an
    interface beside them, which no browser takes. Only the loopback where the system cannot be asked.
    """
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        addresses = _list_addresses(family)
    except (OSError, AttributeError):  # no libc to be found, or one without getifaddrs
        addresses = []
    usable = [address for address in addresses if not address.startswith("fe80:")]
    return tuple(dict.fromkeys(sorted(usable, key=lambda address: address != loopback))) or (loopback,)


def find_outward_address(family: int) -> str | None:
    """The address that others in the network would see as ours; None without a network. Sends nothing.

    Of several interfaces it is the one of the default route, and not the bridge of some containers.
    """
    # Addresses for examples (RFC 5737, RFC 3849), which no network has.
    far = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return address


def _list_addresses(family: int) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_InterfaceAddress)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    # Where the address stands in struct sockaddr_in and sockaddr_in6, behind family and port (and flow).
    start, size = (4, 4) if family == socket.AF_INET else (8, 16)
    found = []
    try:
        entry = first
        while entry:
            interface = entry.contents
            if interface.address and interface.flags & _IFF_UP:
                raw = ctypes.string_at(interface.address, 2)
                # The BSDs keep the length in the first byte and the family in the second.
                its_family = int.from_bytes(raw, sys.byteorder) if sys.platform == "linux" else raw[1]
                if its_family == family:
                    packed = ctypes.string_at(interface.address + start, size)
                    found.append(socket.inet_ntop(family, packed))
            entry = interface.next
    finally:
        libc.freeifaddrs(first)
    return found


def find_port_owner(port: int) -> str | None:
    """The process that listens on TCP `port`, as "nginx (pid 812)"; None where it cannot be known.

    Linux tells it to everybody for one's own processes, and to root for all.
    """
    sockets = {f"socket:[{inode}]" for inode in _find_listeners(port)}
    if not sockets:
        return None
    for link in glob.iglob(_DESCRIPTORS):
        try:
            if os.readlink(link) not in sockets:
                continue
            process = link.split("/")[2]
            with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as comm:
                name = "".join(char if char.isprintable() else "?" for char in comm.read().strip())
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
        return f"{name} (pid {process})"
    return None


def _find_listeners(port: int) -> list[str]:
    """The inodes of the sockets that listen on `port`."""
    inodes = []
    for table in _SOCKET_TABLES:
        try:
            with open(table, encoding="ascii") as file:
                rows = file.readlines()[1:]
        except OSError:  # no Linux, or one without IPv6
            continue
        for row in rows:
            # sl, local address:port, remote address:port, state, ..., the inode in tenth place
            columns = row.split()
            if int(columns[1].rpartition(":")[2], 16) == port and columns[3] == _TCP_LISTEN:
                inodes.append(columns[9])
    return inodes
