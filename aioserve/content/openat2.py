"""How Linux is asked to open a path that must not leave a folder: the system call openat2, through ctypes.

What it has to be told, and what is done where there is none or where it refuses, is for `containment`.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import sys
from collections.abc import Callable

OpenAt2 = Callable[[int, bytes, int, int], int]
"""Takes a folder, a path, flags and resolve flags; gives a descriptor or raises OSError."""

Opener = Callable[[int, bytes], int]
"""Takes a folder and a path; gives a descriptor, or the negative number of an error: EAGAIN when it had to
wait. That nothing is there is not worth an exception: most forms that are looked for do not exist."""

_OPENAT2 = 437
# struct open_how: flags, mode, resolve.
_OPEN_HOW = "=QQQ"
AT_FDCWD = -100
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
_RESOLVE_CACHED = 0x20  # Linux 5.12: EAGAIN instead of waiting for a disk

# Where it is missing, or forbidden by a seccomp filter that does not know it.
_NO_OPENAT2 = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG}


@functools.cache
def load_openat2(number: int = _OPENAT2) -> OpenAt2 | None:
    """The system call as a function; None where there is none (before Linux 5.6, and elsewhere)."""
    if sys.platform != "linux":
        return None
    # Not at the top: it costs the start some milliseconds, and is needed by the first request only.
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall  # lets the other threads run meanwhile
    syscall.restype = ctypes.c_long
    syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)

    def openat2(folder: int, path: bytes, flags: int, resolve: int) -> int:
        how = struct.pack(_OPEN_HOW, flags, 0, resolve)
        descriptor: int = syscall(number, folder, path, how, len(how))
        if descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return descriptor

    return openat2 if _is_known(openat2, RESOLVE_BENEATH) else None


@functools.cache
def load_at_once() -> Callable[[int, int], Opener] | None:
    """What makes a function of flags and resolve flags that does not wait for a disk; None where the kernel
    cannot promise that (before Linux 5.12)."""
    openat2 = load_openat2()
    if openat2 is None or not _is_known(openat2, RESOLVE_BENEATH | _RESOLVE_CACHED):
        return None
    import ctypes

    # A PyDLL keeps the lock of the interpreter: for so short a time, letting go of it costs more. So does
    # converting what is the same in each call.
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    number = ctypes.c_long(_OPENAT2)

    def make_opener(flags: int, resolve: int) -> Opener:
        packed = struct.pack(_OPEN_HOW, flags, 0, resolve | _RESOLVE_CACHED)
        how, size = ctypes.c_char_p(packed), ctypes.c_size_t(len(packed))

        def open_at_once(folder: int, path: bytes) -> int:
            descriptor: int = syscall(number, folder, path, how, size)
            return descriptor if descriptor >= 0 else -ctypes.get_errno()

        return open_at_once

    return make_opener


def _is_known(openat2: OpenAt2, resolve: int) -> bool:
    """Whether the kernel knows the call and these flags, whatever it answers."""
    try:
        os.close(openat2(AT_FDCWD, b".", os.O_PATH | os.O_CLOEXEC, resolve))
    except OSError as error:
        return error.errno not in _NO_OPENAT2
    return True
