"""Which addresses and ports this machine has for tests, and whether anybody listens there."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import pytest


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def has_address(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.bind((host, 0))
    except OSError:
        return False
    return True


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port)):
        return True
    return False


def find_link_local_address() -> str | None:
    """One with its zone, as in fe80::1%eth0; None where the machine has or tells none."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/net/if_inet6").read_text().splitlines():
            address, *_, interface = row.split()
            if address.startswith("fe80"):
                return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))}%{interface}"
    return None


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the loopback has other rules elsewhere")
needs_ipv6 = pytest.mark.skipif(not has_address("::1"), reason="this machine has no IPv6")
