"""The bytes of a tar file around its contents: ustar, and pax where ustar cannot say it.

POSIX.1-2017, pax: "ustar Interchange Format" and "pax Interchange Format". Owners are left out, as they tell
about the machine and mean nothing on another.
"""

from __future__ import annotations

import struct
from typing import Final

from aioserve.protocol.archive_layout import Layout, Member, Part, Segment

_BLOCK_BYTES: Final = 512
# The end is marked by two blocks of zeros.
_END_BYTES: Final = 2 * _BLOCK_BYTES

_NAME_BYTES: Final = 100
_PREFIX_BYTES: Final = 155
# Eleven octal digits.
_MAX_NUMBER: Final = 8**11 - 1

# name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, owner, group, device, prefix
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_CHECKSUM_AT: Final = 148


class TarLayout(Layout):
    def format(self, segment: Segment, crc: int) -> bytes:
        if segment.part is Part.HEAD:
            return _format_head(self[segment.number])
        return bytes(segment.stop - segment.start)

    def _measure(self, member: Member) -> tuple[int, int]:
        extended_bytes = len(_format_extended(member))
        if extended_bytes:
            extended_bytes += _BLOCK_BYTES + -extended_bytes % _BLOCK_BYTES
        return extended_bytes + _BLOCK_BYTES, -member.size_bytes % _BLOCK_BYTES

    def _measure_record(self, member: Member, start: int) -> int:
        return 0

    def _measure_end(self) -> int:
        return _END_BYTES


def _format_head(member: Member) -> bytes:
    prefix, name = _split_name(member) or (b"", _find_path(member)[:_NAME_BYTES])
    mtime_s = member.mtime_ns // 1_000_000_000
    header = _format_header(
        prefix,
        name,
        member.mode,
        member.size_bytes if member.size_bytes <= _MAX_NUMBER else 0,
        min(max(mtime_s, 0), _MAX_NUMBER),
        b"5" if member.is_folder else b"0",
    )
    extended = _format_extended(member)
    if not extended:
        return header
    padding = bytes(-len(extended) % _BLOCK_BYTES)
    # The name is that which old readers give to what they do not know.
    return _format_header(b"", b"././@PaxHeader", 0o644, len(extended), 0, b"x") + extended + padding + header


def _find_path(member: Member) -> bytes:
    return member.name + b"/" if member.is_folder else member.name


def _split_name(member: Member) -> tuple[bytes, bytes] | None:
    """The path as the prefix and the name of a ustar header; None when it does not fit."""
    path = _find_path(member)
    if len(path) <= _NAME_BYTES:
        return b"", path
    # The slash between them is not written; that of a folder ends the name.
    slash = member.name.rfind(b"/", 0, _PREFIX_BYTES + 1)
    if slash <= 0 or len(path) - slash - 1 > _NAME_BYTES:
        return None
    return path[:slash], path[slash + 1 :]


def _format_extended(member: Member) -> bytes:
    """The records of the pax header for what the ustar header cannot hold; nothing when it holds all."""
    path = _find_path(member)
    records = b""
    try:
        is_utf8 = bool(path.decode())
    except UnicodeDecodeError:
        is_utf8 = False
    # The names of ustar are ASCII, and those of pax UTF-8, or, as BINARY says, whatever the sender had. GNU
    # tar complains of BINARY, and everybody takes a name from a ustar header as it is.
    if _split_name(member) is None or (is_utf8 and not path.isascii()):
        records += b"" if is_utf8 else _format_record(b"hdrcharset", b"BINARY")
        records += _format_record(b"path", path)
    if member.size_bytes > _MAX_NUMBER:
        records += _format_record(b"size", b"%d" % member.size_bytes)
    mtime_s = member.mtime_ns // 1_000_000_000
    if not 0 <= mtime_s <= _MAX_NUMBER:
        records += _format_record(b"mtime", b"%d" % mtime_s)
    return records


def _format_record(key: bytes, value: bytes) -> bytes:
    """One record, which begins with its own length in decimal digits."""
    rest_bytes = len(key) + len(value) + 3
    size_bytes = rest_bytes + len(str(rest_bytes))
    size_bytes = rest_bytes + len(str(size_bytes))
    return b"%d %s=%s\n" % (size_bytes, key, value)


def _format_header(
    prefix: bytes, name: bytes, mode: int, size_bytes: int, mtime_s: int, kind: bytes
) -> bytes:
    fields = (
        name,
        b"%07o\0" % mode,
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size_bytes,
        b"%011o\0" % mtime_s,
        b" " * 8,  # the checksum counts itself as blanks
        kind,
        b"",
        b"ustar\00000",
        b"",
        b"",
        b"0000000\0",
        b"0000000\0",
        prefix,
    )
    header = _HEADER.pack(*fields)
    checksum = b"%06o\0 " % sum(header)
    return header[:_CHECKSUM_AT] + checksum + header[_CHECKSUM_AT + 8 :]
