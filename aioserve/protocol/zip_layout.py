"""The bytes of a zip file around contents that are stored as they are.

After PKWARE's APPNOTE 6.3.10, whose sections are named, and Info-ZIP's extra fields. The sum of a content
stands behind it (bit 3), so that nothing has to be read before the first byte is sent; where everything lies
depends on names, sizes and times alone. What exceeds 32 bits is written in the form of zip64, and only that:
old readers take all the others.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from aioserve.protocol.archive_layout import Layout, Member, Part, Segment

_MAX_16: Final = 0xFFFF
_MAX_32: Final = 0xFFFF_FFFF

# 4.4.2: made on Unix, so that the upper half of the external attributes is a mode.
_MADE_ON_UNIX: Final = 3 << 8
# 4.4.3: 2.0 is that of folders, 4.5 that of zip64.
_VERSION: Final = 20
_VERSION_64: Final = 45

# 4.4.4
_SUM_FOLLOWS: Final = 1 << 3
_NAME_IS_UTF8: Final = 1 << 11

_MODE_FOLDER: Final = 0o040000
_MODE_REGULAR: Final = 0o100000
_DOS_FOLDER: Final = 0x10

_LOCAL: Final = struct.Struct("<4s5H3L2H")  # 4.3.7
_DESCRIPTOR: Final = struct.Struct("<4s3L")  # 4.3.9
_DESCRIPTOR_64: Final = struct.Struct("<4sL2Q")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16
_END_64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR_64: Final = struct.Struct("<4sLQL")  # 4.3.15
_TIMESTAMP: Final = struct.Struct("<2HBl")  # Info-ZIP 0x5455, with the modification time alone
_SIZES_64: Final = struct.Struct("<2H2Q")  # 4.5.3

_EARLIEST_S: Final = 315_532_800  # 1980-01-01
_LATEST_S: Final = 4_354_819_198  # 2107-12-31 23:59:58


class ZipLayout(Layout):
    def needs_sum(self, segment: Segment) -> bool:
        return segment.part in (Part.FOOT, Part.RECORD) and self[segment.number].size_bytes > 0

    def format(self, segment: Segment, crc: int) -> bytes:
        if segment.part is Part.END:
            return self._format_end()
        member = self[segment.number]
        if segment.part is Part.HEAD:
            return _format_local(member)
        if segment.part is Part.FOOT:
            size_bytes = member.size_bytes
            form = _DESCRIPTOR_64 if size_bytes >= _MAX_32 else _DESCRIPTOR
            return form.pack(b"PK\x07\x08", crc, size_bytes, size_bytes)
        return _format_central(member, self._starts[segment.number], crc if member.size_bytes else 0)

    def _measure(self, member: Member) -> tuple[int, int]:
        head_bytes = _LOCAL.size + len(_find_name(member)) + _measure_timestamp(member.mtime_ns)
        if member.size_bytes >= _MAX_32:
            return head_bytes + _SIZES_64.size, _DESCRIPTOR_64.size
        return head_bytes, _DESCRIPTOR.size if member.size_bytes else 0

    def _measure_record(self, member: Member, start: int) -> int:
        size_bytes = _CENTRAL.size + len(_find_name(member)) + _measure_timestamp(member.mtime_ns)
        wide_bytes = 16 * (member.size_bytes >= _MAX_32) + 8 * (start >= _MAX_32)
        return size_bytes + (4 + wide_bytes if wide_bytes else 0)

    def _is_large(self) -> bool:
        return len(self) >= _MAX_16 or self._records_bytes >= _MAX_32 or self._records_start >= _MAX_32

    def _measure_end(self) -> int:
        return _END.size + (_END_64.size + _LOCATOR_64.size if self._is_large() else 0)

    def _format_end(self) -> bytes:
        count, size_bytes, start = len(self), self._records_bytes, self._records_start
        end = b""
        if self._is_large():
            version = _MADE_ON_UNIX | _VERSION_64
            # 4.3.14.1: the size of the record is without its first 12 bytes.
            end = _END_64.pack(
                b"PK\x06\x06",
                _END_64.size - 12,
                version,
                _VERSION_64,
                0,
                0,
                count,
                count,
                size_bytes,
                start,
            ) + _LOCATOR_64.pack(b"PK\x06\x07", 0, start + size_bytes, 1)
        short_count = min(count, _MAX_16)
        return end + _END.pack(
            b"PK\x05\x06",
            0,
            0,
            short_count,
            short_count,
            min(size_bytes, _MAX_32),
            min(start, _MAX_32),
            0,
        )


def _format_local(member: Member) -> bytes:
    name = _find_name(member)
    flags = _find_flags(member, name)
    extra = _format_timestamp(member.mtime_ns)
    size, version = 0, _VERSION
    if member.size_bytes >= _MAX_32:
        # 4.3.9.2: this field is what makes the numbers behind the content 8 bytes wide.
        extra += _SIZES_64.pack(1, 16, 0, 0)
        size, version = _MAX_32, _VERSION_64
    time, date = _find_dos_time(member.mtime_ns // 1_000_000_000)
    return (
        _LOCAL.pack(b"PK\x03\x04", version, flags, 0, time, date, 0, size, size, len(name), len(extra))
        + name
        + extra
    )


def _format_central(member: Member, start: int, crc: int) -> bytes:
    name = _find_name(member)
    flags = _find_flags(member, name)
    size_bytes = member.size_bytes
    # 4.5.3: only what does not fit stands here, in this order.
    wide = struct.pack("<2Q", size_bytes, size_bytes) if size_bytes >= _MAX_32 else b""
    if start >= _MAX_32:
        wide += struct.pack("<Q", start)
    extra = _format_timestamp(member.mtime_ns)
    if wide:
        extra += struct.pack("<2H", 1, len(wide)) + wide
    version = _VERSION_64 if wide else _VERSION
    mode = _MODE_FOLDER | member.mode if member.is_folder else _MODE_REGULAR | member.mode
    time, date = _find_dos_time(member.mtime_ns // 1_000_000_000)
    size = min(size_bytes, _MAX_32)
    return (
        _CENTRAL.pack(
            b"PK\x01\x02",
            _MADE_ON_UNIX | version,
            version,
            flags,
            0,
            time,
            date,
            crc,
            size,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            mode << 16 | (_DOS_FOLDER if member.is_folder else 0),
            min(start, _MAX_32),
        )
        + name
        + extra
    )


def _find_name(member: Member) -> bytes:
    """The name as it stands in the archive, where it is always UTF-8.

    Bytes that are none are written as in a URL (%FF). As they are, they would be in code page 437 (Appendix
    D): one reader leaves them out, one obeys, and one takes them for the letters of its own machine.
    """
    name = member.name + b"/" if member.is_folder else member.name
    if name.isascii():
        return name
    text = name.decode("utf-8", "surrogateescape")
    # A byte 0x80 that is no UTF-8 is decoded as U+DC80.
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text).encode()


def _find_flags(member: Member, name: bytes) -> int:
    return (_SUM_FOLLOWS if member.size_bytes else 0) | (0 if name.isascii() else _NAME_IS_UTF8)


def _measure_timestamp(mtime_ns: int) -> int:
    return _TIMESTAMP.size if -(1 << 31) <= mtime_ns // 1_000_000_000 < 1 << 31 else 0


def _format_timestamp(mtime_ns: int) -> bytes:
    """The time in UTC, which the field of DOS cannot say; none where 32 bits do not hold it."""
    if not _measure_timestamp(mtime_ns):
        return b""
    return _TIMESTAMP.pack(0x5455, _TIMESTAMP.size - 4, 1, mtime_ns // 1_000_000_000)


# Files are unpacked, copied and built in groups.
@lru_cache(maxsize=1024)
def _find_dos_time(mtime_s: int) -> tuple[int, int]:
    """The time and the date of 4.4.6, in UTC: the same bytes on every machine."""
    at = datetime.fromtimestamp(min(max(mtime_s, _EARLIEST_S), _LATEST_S), UTC)
    return (
        at.hour << 11 | at.minute << 5 | at.second // 2,
        (at.year - 1980) << 9 | at.month << 5 | at.day,
    )
