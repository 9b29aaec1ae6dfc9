"""A folder as one download: in which forms, under which name, and how a request for it is answered.

Where the bytes of an archive lie is for `archive_layout`; where they come from, for `content/archive`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Final, Protocol

from aioserve.protocol.conditional import Validators, Verdict, evaluate_preconditions, keeps_range
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Body, Bytes, Empty, Field, Pieces, Plan, plan_error
from aioserve.protocol.ranges import Span, format_content_range, format_unsatisfied_range, parse_range


class Form(StrEnum):
    """What `?archive=` may ask for, which is also what the name of the file ends in."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_ZST = "tar.zst"


_CONTENT_TYPES: Final = {
    Form.ZIP: "application/zip",
    Form.TAR: "application/x-tar",
    Form.TAR_GZ: "application/gzip",
    Form.TAR_ZST: "application/zstd",
}

# The same as for files: revalidation costs a walk through the folder, which is less than the download.
_REVALIDATE: Final[Field] = ("Cache-Control", "no-cache")
_NOSNIFF: Final[Field] = ("X-Content-Type-Options", "nosniff")

# RFC 8187 §3.2.1: attr-char, what needs no encoding in filename*.
_ATTR_CHARS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~")
_ENCODED: Final = tuple(chr(byte) if byte in _ATTR_CHARS else f"%{byte:02X}" for byte in range(256))
# What a quoted filename had better not hold: clients disagree about escapes and percent signs (RFC 6266
# appendix D), and some systems cannot have the others in a name.
_PLAIN_CHARS: Final = frozenset(" !#$&'()+,-.0123456789;=@[]^_`{}~") | frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


class Archive(Protocol):
    """A folder that can be sent in one form. Only `content/archive` makes one."""

    @property
    def form(self) -> Form: ...

    @property
    def name(self) -> str:
        """What the download is called, without what it ends in."""

    @property
    def etag(self) -> str:
        """A strong entity tag, with its quotes."""

    @property
    def size_bytes(self) -> int | None:
        """The length; None when it is known only at the end, and no part of it can be had alone."""

    def stream(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes `[start, stop)`; all of them for an archive without a length. It raises OSError."""


def find_asked_form(query: bytes | None) -> str | None:
    """What `archive=` in a query asks for, which need not be a form; None when it does not stand there."""
    for item in (query or b"").split(b"&"):
        key, equals, value = item.partition(b"=")
        if key == b"archive" and equals:
            return value.decode("latin-1")
    return None


def plan_archive(request: Request, archive: Archive, *, now_s: int) -> Plan:
    """The answer to GET or HEAD of an archive: 200, 206, 304, 412 or 416. `now_s` is the time of the Date."""
    validators = Validators(archive.etag, None)
    verdict = evaluate_preconditions(request.method, request.fields, validators, now_s)
    if verdict is Verdict.FAILED:
        return plan_error(request, 412)
    if verdict is Verdict.NOT_MODIFIED:
        return Plan(304, (("ETag", archive.etag), _REVALIDATE), Empty())
    described: tuple[Field, ...] = (
        ("Content-Type", _CONTENT_TYPES[archive.form]),
        ("Content-Disposition", format_attachment(f"{archive.name}.{archive.form}")),
        ("ETag", archive.etag),
        ("Accept-Ranges", "none" if archive.size_bytes is None else "bytes"),
        _REVALIDATE,
        _NOSNIFF,
    )
    is_head = request.method == "HEAD"
    size_bytes = archive.size_bytes
    if size_bytes is None:
        return Plan(200, described, Empty() if is_head else Pieces(archive.stream(0, None), None))
    field = None if is_head else request.fields.get("range")
    if field is not None and keeps_range(request.fields, validators, now_s):
        spans = parse_range(field, size_bytes)
        if spans == ():
            return plan_error(request, 416, (("Content-Range", format_unsatisfied_range(size_bytes)),))
        # Several parts in one answer are for those who look into a file: they can ask for one at a time.
        if spans is not None and len(spans) == 1:
            (span,) = spans
            content_range = ("Content-Range", format_content_range(span, size_bytes))
            return Plan(206, (_length(span.size_bytes), content_range, *described), _slice(archive, span))
    body: Body = Empty() if is_head else _slice(archive, Span(0, size_bytes))
    return Plan(200, (_length(size_bytes), *described), body)


def _length(size_bytes: int) -> Field:
    return "Content-Length", str(size_bytes)


def _slice(archive: Archive, span: Span) -> Pieces:
    return Pieces(archive.stream(span.start, span.stop), span.size_bytes)


def plan_unknown_form(request: Request, forms: tuple[str, ...]) -> Plan:
    """The answer to `?archive=` with anything else than one of `forms` (400)."""
    return _plan_refusal(request, 400, f"archive= can be one of {', '.join(forms)}")


def plan_too_large(request: Request, max_members: int) -> Plan:
    """The answer when a folder holds more than one archive may (413)."""
    return _plan_refusal(
        request, 413, f"more than {max_members} files and folders, or 4 EiB: ask for the folders in it"
    )


def _plan_refusal(request: Request, status: int, reason: str) -> Plan:
    body = f"{status} {reason}\n".encode()
    fields = (("Content-Type", "text/plain; charset=utf-8"), _length(len(body)), _REVALIDATE, _NOSNIFF)
    return Plan(status, fields, Empty() if request.method == "HEAD" else Bytes(body))


def format_attachment(name: str) -> str:
    """The value of Content-Disposition that saves the answer under that name (RFC 6266 §4).

    The plain form is for those who do not read the other one, and looks like it as far as ASCII goes.
    """
    plain = "".join(char if char in _PLAIN_CHARS else "_" for char in name)
    value = f'attachment; filename="{plain}"'
    if plain != name:
        encoded = "".join(map(_ENCODED.__getitem__, name.encode("utf-8", "replace")))
        value += f"; filename*=UTF-8''{encoded}"
    return value
