"""How are bytes compressed and decompressed? gzip, brotli and zstd, whole or piece by piece.

Which coding a client gets is for `protocol.negotiation`, which types are worth it for `protocol.media_types`;
files beside others are written by `precompress`. Nothing here opens a file or waits for anything but the
processor, and all of it lets other threads run meanwhile.

gzip is part of Python. The packages brotli and, before Python 3.14, backports.zstd are imported when they are
first needed; where one is missing, as on PyPy, that coding cannot be made or read here.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Final, Protocol

from aioserve.content.files import EXTENSIONS

_MODULES: Final = {
    "br": "brotli",
    "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    "gzip": "zlib",
}

# zlib: a window of 32 KiB, and the header and trailer of gzip around it, without a name or a time.
_GZIP_WBITS: Final = 31

# The powers of two of how far back repetitions are found, and so of the memory of whoever decodes.
# For zstd, RFC 9659 allows 8 MiB on the web, and browsers refuse more; its levels up to 19 keep to that.
_ZSTD_WINDOW_LOG: Final = 23
_BROTLI_WINDOW_LOG: Final = 22
_BROTLI_LONG_WINDOW_LOG: Final = 24

# A piece of what is decoded has at most so many bytes.
MAX_PIECE_BYTES: Final = 256 * 1024
# brotli looks at its limit between one part of its buffer and the next, which may be as long again.
_BROTLI_LIMIT_BYTES: Final = MAX_PIECE_BYTES // 2
# So much is given to a decoder at once: zlib and zstd copy what they have not read at the end of each member.
_INPUT_BYTES: Final = 16 * 1024


class Effort(Enum):
    """How much CPU time compressing may take, by how often it is done."""

    STREAMED = "for each answer anew: up to 20 ms for a MiB of text"
    KEPT = "once, while somebody may wait: up to 50 ms for a MiB, about what gzip takes at its usual level"
    BEST = "once and written to the disk: what it takes"


# Chosen by `python -m benchmarks compression`. Above 19, zstd gains nothing within its window.
_LEVELS: Final = {
    Effort.STREAMED: {"br": 3, "zstd": 3, "gzip": 1},
    Effort.KEPT: {"br": 5, "zstd": 9, "gzip": 6},
    Effort.BEST: {"br": 11, "zstd": 19, "gzip": 9},
}


@cache
def list_codings() -> tuple[str, ...]:
    """The codings that can be made and read here, in the order of EXTENSIONS. The first call imports them."""
    return tuple(coding for coding in EXTENSIONS if _has_module(coding))


def _has_module(coding: str) -> bool:
    try:
        _load(coding)
    except ImportError:
        return False
    return True


def _load(coding: str) -> ModuleType:
    return importlib.import_module(_MODULES[coding])


def compress(coding: str, data: bytes) -> bytes:
    """Gives `data` compressed to be kept; the same data gives the same bytes, with the same libraries."""
    compressor = Compressor(coding, Effort.KEPT, len(data))
    return compressor.feed(data) + compressor.finish()


class Compressor:
    """Compresses bytes that come in pieces. Give `size_bytes` when it is known how many will come.

    Raises: ImportError when `coding` is not one of `list_codings`.
    """

    __slots__ = ("feed", "finish")

    feed: Callable[[bytes], bytes]
    """Takes a piece; gives what has been compressed by now, which may be nothing."""
    finish: Callable[[], bytes]
    """Gives the rest."""

    def __init__(self, coding: str, effort: Effort = Effort.STREAMED, size_bytes: int | None = None) -> None:
        module, level = _load(coding), _LEVELS[effort][coding]
        match coding:
            case "br":
                # A long window takes memory, and is of use only where there is as much to look back on.
                is_long = effort is Effort.BEST and (size_bytes or 0) > 1 << _BROTLI_WINDOW_LOG
                window_log = _BROTLI_LONG_WINDOW_LOG if is_long else _BROTLI_WINDOW_LOG
                encoder = module.Compressor(quality=level, lgwin=window_log)
                self.feed, self.finish = encoder.process, encoder.finish
            case "zstd":
                encoder = module.ZstdCompressor(level=level)
                encoder.set_pledged_input_size(size_bytes)
                self.feed, self.finish = encoder.compress, encoder.flush
            case _:
                encoder = module.compressobj(level, wbits=_GZIP_WBITS)
                self.feed, self.finish = encoder.compress, encoder.flush


class Decompressor:
    """Decompresses bytes that come in pieces. A short input that stands for gigabytes takes no more memory.

    Raises: ImportError when `coding` is not one of `list_codings`.
    """

    __slots__ = ("_coding", "_member")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._member: _Member = _MEMBERS[coding]()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Gives what `data` continues with, in pieces of up to MAX_PIECE_BYTES, to be read to their end.

        Raises: OSError when it is malformed, or when something follows what had an end.
        """
        for start in range(0, len(data), _INPUT_BYTES):
            rest = data[start : start + _INPUT_BYTES]
            while rest:
                if self._member.is_finished:
                    if not self._member.may_be_followed:
                        raise self._make_error("something follows its end")
                    self._member = type(self._member)()
                try:
                    yield from self._member.decode(rest)
                except self._member.error as error:
                    raise self._make_error(str(error)) from error
                rest = self._member.find_rest()

    def finish(self) -> None:
        """Raises: OSError when what was fed is not complete."""
        if not self._member.is_finished:
            raise self._make_error("its end is missing")

    def _make_error(self, reason: str) -> OSError:
        # As a disk says it that gives other bytes than it was given.
        return OSError(errno.EIO, f"{os.strerror(errno.EIO)}: {self._coding}: {reason}")


class _Member(Protocol):
    """What a compressed file consists of: in gzip members, in zstd frames, one after the other."""

    may_be_followed: ClassVar[bool]

    @property
    def error(self) -> type[Exception]: ...

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Gives what `data` continues with, until the end of the member."""

    @property
    def is_finished(self) -> bool: ...

    def find_rest(self) -> bytes:
        """What of the data stands behind the end of the member."""


class _GzipMember:
    may_be_followed: ClassVar[bool] = True
    error: type[Exception] = zlib.error

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_WBITS)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._decoder.decompress(data, MAX_PIECE_BYTES)
            data = self._decoder.unconsumed_tail
            if piece:
                yield piece
            # A whole piece may leave more behind although nothing of the data is left.
            if self._decoder.eof or not (data or len(piece) == MAX_PIECE_BYTES):
                return

    @property
    def is_finished(self) -> bool:
        return self._decoder.eof

    def find_rest(self) -> bytes:
        return self._decoder.unused_data


class _ZstdFrame:
    may_be_followed: ClassVar[bool] = True

    def __init__(self) -> None:
        module = _load("zstd")
        self.error: type[Exception] = module.ZstdError
        # One that needs a longer window could be decoded by no browser, and would take 128 MiB and more here.
        limit = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._decoder: Any = module.ZstdDecompressor(options=limit)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece: bytes = self._decoder.decompress(data, MAX_PIECE_BYTES)
            data = b""
            if piece:
                yield piece
            if self._decoder.eof or self._decoder.needs_input:
                return

    @property
    def is_finished(self) -> bool:
        return bool(self._decoder.eof)

    def find_rest(self) -> bytes:
        return bytes(self._decoder.unused_data)


class _BrotliStream:
    may_be_followed: ClassVar[bool] = False

    def __init__(self) -> None:
        module = _load("br")
        self.error: type[Exception] = module.error
        self._decoder: Any = module.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece: bytes = self._decoder.process(data, output_buffer_limit=_BROTLI_LIMIT_BYTES)
            data = b""
            if piece:
                yield piece
            # It also says that it can take more when it has read all and not yet given all.
            if self.is_finished or not (piece or not self._decoder.can_accept_more_data()):
                return

    @property
    def is_finished(self) -> bool:
        return bool(self._decoder.is_finished())

    def find_rest(self) -> bytes:
        return b""  # it has complained


_MEMBERS: Final[dict[str, type[_GzipMember | _ZstdFrame | _BrotliStream]]] = {
    "br": _BrotliStream,
    "zstd": _ZstdFrame,
    "gzip": _GzipMember,
}
