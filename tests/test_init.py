"""The door of the package: what it offers, and that opening it costs and starts nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import aioserve


@pytest.mark.parametrize("name", aioserve.__all__)
def test_every_name_that_is_offered_can_be_had(name: str) -> None:
    assert getattr(aioserve, name) is not None


def test_another_name_is_refused_as_any_module_does() -> None:
    with pytest.raises(AttributeError, match="module 'aioserve' has no attribute 'absent'"):
        _ = aioserve.absent


def test_the_import_brings_no_loop_no_sockets_and_no_logging() -> None:
    program = "import sys; before = set(sys.modules); import aioserve; print(*(set(sys.modules) - before))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("aioserve")} == {"aioserve"}
    assert loaded.isdisjoint({"asyncio", "socket", "logging", "aiofiles", "click", "uvloop"})
