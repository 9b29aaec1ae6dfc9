"""aioserve: an asyncio HTTP file server. The one public door of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Server", "__version__", "serve"]

if TYPE_CHECKING:
    from aioserve.config import Config, ConfigError
    from aioserve.network.server import Server, serve

_HOMES = {
    "Config": "aioserve.config",
    "ConfigError": "aioserve.config",
    "Server": "aioserve.network.server",
    "serve": "aioserve.network.server",
}


def __getattr__(name: str) -> object:
    # Loaded when first asked for: `aioserve --version` does not pay for a server.
    if name not in _HOMES:
        raise AttributeError(f"module 'aioserve' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
