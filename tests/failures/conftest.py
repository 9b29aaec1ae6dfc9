"""What the tests of failures share: the library under a server's disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.failures.disk_shim import SOURCE, DiskShim


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled disk_shim.c. Skips where it cannot be made; in CI it has to be."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        reason = "the disk shim needs Linux and a C compiler"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    library = tmp_path_factory.mktemp("shim") / "disk_shim.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O2",
        "-Wall",
        "-Wextra",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True, timeout=50)
    return library


@pytest.fixture
def shim(shim_library: Path, tmp_path: Path) -> DiskShim:
    return DiskShim(shim_library, tmp_path)
