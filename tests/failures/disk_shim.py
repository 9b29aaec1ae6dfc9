"""A disk that stands still or fails for files whose names say so, made of a small library for LD_PRELOAD.

disk_shim.c says which names; conftest.py compiles it. A test holds the disk and lets it go on, so that what
happens meanwhile is a matter of order and not of time.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).with_name("disk_shim.c")


class DiskShim:
    """`environment` puts this disk under a process; `hold` and `release` are for all held files at once."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._hold = folder / "hold"
        self.environment = {"LD_PRELOAD": str(library), "DISK_SHIM_HOLD": str(self._hold)}

    def hide_openat2(self) -> None:
        """Makes a kernel without openat2 of it, for processes that are started after this."""
        self.environment["DISK_SHIM_NO_OPENAT2"] = "1"

    def hold(self) -> None:
        self._hold.touch()

    def release(self) -> None:
        self._hold.unlink(missing_ok=True)
