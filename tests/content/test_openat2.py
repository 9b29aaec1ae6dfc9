"""The system call opens what is below a folder and nothing else, and is not there where it is not known."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioserve.content import openat2 as openat2_module
from aioserve.content.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, load_at_once, load_openat2
from tests.content.conftest import needs_at_once, needs_openat2, until_at_once, without_privileges


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Holds a file, and links to it and to a file outside."""
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"content")
    (tmp_path / "folder" / "to-file").symlink_to("file")
    (tmp_path / "folder" / "out-file").symlink_to("../outside")
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def read_and_close(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


REFUSALS = pytest.mark.parametrize(
    ("path", "resolve", "number"),
    [
        pytest.param(b"../outside", RESOLVE_BENEATH, errno.EXDEV, id="up"),
        pytest.param(b"/etc", RESOLVE_BENEATH, errno.EXDEV, id="an absolute path"),
        pytest.param(b"out-file", RESOLVE_BENEATH, errno.EXDEV, id="a link outside"),
        pytest.param(b"to-file", RESOLVE_NO_SYMLINKS, errno.ELOOP, id="a link where none is followed"),
        pytest.param(b"absent", RESOLVE_BENEATH, errno.ENOENT, id="a name of nothing"),
    ],
)


@needs_openat2
class TestWithWaiting:
    @pytest.mark.parametrize("path", [b"file", b"to-file"])
    def test_what_is_below_the_folder_is_opened(self, path: bytes, folder: int) -> None:
        openat2 = load_openat2()
        assert openat2 is not None
        assert read_and_close(openat2(folder, path, os.O_RDONLY, RESOLVE_BENEATH)) == b"content"

    @REFUSALS
    def test_anything_else_is_refused(self, path: bytes, resolve: int, number: int, folder: int) -> None:
        openat2 = load_openat2()
        assert openat2 is not None
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            openat2(folder, path, os.O_RDONLY, resolve)

        assert (caught.value.errno, caught.value.filename) == (number, path)


@needs_at_once
class TestWithoutWaiting:
    def test_what_is_below_the_folder_is_opened(self, folder: int) -> None:
        make_opener = load_at_once()
        assert make_opener is not None
        open_at_once = make_opener(os.O_RDONLY, RESOLVE_BENEATH)

        def open_file() -> int:
            descriptor = open_at_once(folder, b"file")
            if descriptor == -errno.EAGAIN:
                raise BlockingIOError
            return descriptor

        assert read_and_close(until_at_once(open_file)) == b"content"

    @REFUSALS
    def test_anything_else_is_refused_or_has_to_wait(
        self, path: bytes, resolve: int, number: int, folder: int
    ) -> None:
        make_opener = load_at_once()
        assert make_opener is not None

        assert make_opener(os.O_RDONLY, resolve)(folder, path) in (-number, -errno.EAGAIN)


class TestWhatTheKernelKnows:
    def test_a_call_that_it_does_not_know_is_not_there(self) -> None:
        assert load_openat2(100_000) is None  # no system call has this number

    def test_another_system_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")

        assert load_openat2.__wrapped__() is None

    def test_without_the_call_there_is_none_that_does_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openat2_module, "load_openat2", lambda: None)

        assert load_at_once.__wrapped__() is None

    def test_one_that_cannot_promise_not_to_wait_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openat2_module, "_RESOLVE_CACHED", 1 << 40)  # no kernel knows this one

        assert load_at_once.__wrapped__() is None

    @needs_at_once
    def test_it_is_there_even_when_the_working_folder_may_not_be_entered(
        self, public_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (public_root / "closed").mkdir()
        monkeypatch.chdir(public_root / "closed")
        (public_root / "closed").chmod(0o000)
        with without_privileges():
            assert load_openat2.__wrapped__() is not None
            assert load_at_once.__wrapped__() is not None
