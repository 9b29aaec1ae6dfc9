"""How many descriptors the process may have, and how many connections that is enough for.

What happens when they run out is for `server` and `listener`.
"""

from __future__ import annotations

import contextlib
import math
import sys

if sys.platform != "win32":
    import resource

# Descriptors that are not for connections: the loop, the root, the log, what the program itself holds.
_RESERVED_DESCRIPTORS = 64
_MAX_AUTOMATIC_CONNECTIONS = 10_000


def find_descriptor_limit() -> float:
    """How many descriptors the process may have: the soft limit, inf for none."""
    if sys.platform == "win32":
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def find_connection_limit() -> int:
    """How many connections the process has descriptors for: each may need one more for its file."""
    available = min(find_descriptor_limit() - _RESERVED_DESCRIPTORS, 2 * _MAX_AUTOMATIC_CONNECTIONS)
    return max(1, int(available // 2))


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open descriptors to the hard one, for the whole process; keeps it where the
    system says no."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
