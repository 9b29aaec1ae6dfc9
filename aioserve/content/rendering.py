"""How a list of a folder looks: a page for people, JSON for programs, text for the shell.

The page is made by Jinja2 with everything escaped, from `templates/listing.html` or from a template of one's
own, which gets the same data (docs/browsing.md).

The module is longer than others because the tables of kinds of files stand in it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_from_bytes

from aioserve.content.folder import Entry
from aioserve.content.readme import Readme, render_markdown
from aioserve.protocol.conditional import format_http_date
from aioserve.protocol.media_types import find_content_type
from aioserve.protocol.plan import Field
from aioserve.protocol.view import PAGE_ROWS, Form, Sort, View

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATES = Path(__file__).with_name("templates")
_TEMPLATE_NAME = "listing.html"

# Part of every entity tag: raised when what is made of the same folder changes.
_VERSION = "1"

# Beside letters and digits, what may stand in a link as it is: nothing that HTML or a pattern would have to
# undo, and no colon, before which a scheme could be read.
_PLAIN_IN_LINK = "!$()*+,;=@"
# As Go's net/url leaves it, for Caddy's form.
_PLAIN_IN_GO = "$&+,/:;=@"

# What is not seen, or changes what is seen around it. The joiners (U+200C, U+200D) are parts of words and
# emoji.
_UNSEEN = r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"

# Dates that can be written.
_FIRST_S = -62_135_596_800
_LAST_S = 253_402_300_799

# What kind of file has an icon of its own, by its media type: the whole one, else its first part.
_KINDS: Mapping[str, str] = {
    "text/html": "code",
    "text/css": "code",
    "text/javascript": "code",
    "text/csv": "table",
    "text/tab-separated-values": "table",
    "application/json": "code",
    "application/xml": "code",
    "application/yaml": "code",
    "application/toml": "code",
    "application/pdf": "document",
    "application/rtf": "document",
    "application/epub+zip": "document",
    "application/msword": "document",
    "application/vnd.ms-excel": "table",
    "application/vnd.ms-powerpoint": "document",
    "application/vnd.apache.parquet": "table",
    "application/vnd.sqlite3": "table",
    **dict.fromkeys(
        (
            "application/gzip",
            "application/x-bzip2",
            "application/x-xz",
            "application/zstd",
            "application/x-lzip",
            "application/x-lzma",
            "application/x-lz4",
            "application/zip",
            "application/x-7z-compressed",
            "application/vnd.rar",
            "application/x-tar",
            "application/x-cpio",
            "application/java-archive",
            "application/vnd.debian.binary-package",
            "application/x-rpm",
        ),
        "archive",
    ),
}

# What browsers show in a page; text is everything that is text, as it was written.
_SHOWN = {
    "image": "png apng jpeg gif webp avif svg+xml bmp vnd.microsoft.icon",
    "video": "mp4 webm ogg",
    "audio": "mpeg mp4 aac ogg flac wav webm",
}
_TEXT_TYPES = {
    "application/json",
    "application/json5",
    "application/jsonl",
    "application/x-ndjson",
    "application/ld+json",
    "application/geo+json",
    "application/manifest+json",
    "application/xml",
    "application/yaml",
    "application/toml",
    "application/x-subrip",
    "image/svg+xml",
}

# The bits of a mode as Go's os.FileMode has them.
_GO_MODES = (
    (stat.S_ISDIR, 1 << 31),
    (stat.S_ISLNK, 1 << 27),
    (lambda mode: bool(mode & stat.S_ISUID), 1 << 23),
    (lambda mode: bool(mode & stat.S_ISGID), 1 << 22),
    (lambda mode: bool(mode & stat.S_ISVTX), 1 << 20),
)


class Listed(NamedTuple):
    """What a list shows: `entries` of the folder that has that many `folders` and `files`.

    `size_bytes` is that of all files in it, None where it is not known.
    """

    segments: tuple[bytes, ...]
    entries: Sequence[Entry]
    folders: int
    files: int
    size_bytes: int | None
    readme: Readme | None


class Row(NamedTuple):
    """An entry as the template gets it."""

    name: str
    href: str
    kind: str
    preview: str
    is_folder: bool
    is_symlink: bool
    size_bytes: int
    size: str
    mtime: str
    date: str
    time: str


class Crumb(NamedTuple):
    name: str
    href: str


class Column(NamedTuple):
    """A column that the list can be sorted by; `order` is the one that it would get next."""

    sort: str
    title: str
    aria_sort: str
    order: str


class Rows:
    """The rows of a page, made while it is rendered."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Row]:
        return map(_make_row, self._entries)


class Renderer:
    """Makes lists. `template` is the path of one's own; `archives` are the forms that a folder can be had in.

    Making one reads the template of one's own. Raises OSError when that cannot be read, and ValueError, which
    says where, when it is none. Ours is loaded, and Jinja2 with it, when the first page is rendered.
    """

    def __init__(self, template: str | None = None, archives: Sequence[str] = ()) -> None:
        self._path = template
        self._archives = tuple(archives)
        source = (Path(template) if template else _TEMPLATES / _TEMPLATE_NAME).read_text("utf-8")
        self._style = (_TEMPLATES / "listing.css").read_text("utf-8")
        self._script = (_TEMPLATES / "listing.js").read_text("utf-8")
        parts = [source, self._style, self._script, *self._archives]
        self.version = hashlib.blake2b("\0".join([_VERSION, *parts]).encode(), digest_size=8).hexdigest()
        self.fields: tuple[Field, ...] = (
            ("Content-Security-Policy", self._format_policy(source)),
            ("Referrer-Policy", "same-origin"),
        )
        self._source = source
        self._template: Template | None = self._load() if template else None

    def render(self, listed: Listed, view: View) -> Iterator[bytes]:
        """The pieces of the list. They are made as they are taken, which takes long enough for a thread."""
        match view.form:
            case Form.HTML:
                return self._render_html(listed, view)
            case Form.JSON:
                return _join(b"[", b",\n", b"]\n", map(_format_caddy, listed.entries))
            case Form.NGINX:
                return _join(b"[\n", b",\n", b"\n]\n", map(_format_nginx, listed.entries))
            case Form.TEXT:
                return map(_format_line, listed.entries)

    def _load(self) -> Template:
        from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
        from jinja2.exceptions import TemplateSyntaxError

        own = Path(self._path).parent if self._path else _TEMPLATES
        loaders = [DictLoader({"": self._source}), FileSystemLoader([own, _TEMPLATES])]
        environment = Environment(
            loader=ChoiceLoader(loaders),
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        environment.filters["size"] = format_size
        environment.filters["count"] = _format_count
        try:
            return environment.get_template("")
        except TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None

    def _format_policy(self, source: str) -> str:
        """What the page may do: its own style and script, and what lies on the same site."""
        inline: dict[str, list[str]] = {"style": [self._style], "script": [self._script]}
        own = ""
        if self._path is not None:
            # The owner's page may load what the owner has put on the site.
            own = "'self' "
            for tag, text in re.findall(r"(?s)<(style|script)\b[^>]*>(.*?)</", source):
                inline[tag].append(text)
        hashes = {tag: " ".join(map(_format_hash, texts)) for tag, texts in inline.items()}
        font = "font-src 'self'; " if own else ""
        return (
            f"default-src 'none'; style-src {own}{hashes['style']}; script-src {own}{hashes['script']}; "
            f"img-src 'self' data:; media-src 'self'; connect-src 'self'; {font}"
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def _render_html(self, listed: Listed, view: View) -> Iterator[bytes]:
        template = self._template = self._template or self._load()
        for piece in template.generate(self._make_data(listed, view)):
            # A name that is no text has been replaced before; a template of one's own may hold anything.
            yield piece.encode("utf-8", "replace")

    def _make_data(self, listed: Listed, view: View) -> dict[str, object]:
        from markupsafe import Markup

        total, shown = listed.folders + listed.files, len(listed.entries)
        crumbs = _make_crumbs(listed.segments)
        readme = listed.readme
        return {
            "path": "/" + "".join(f"{crumb.name}/" for crumb in crumbs[1:]),
            "name": crumbs[-1].name,
            "crumbs": crumbs,
            "parent": "../" if listed.segments else None,
            "rows": Rows(listed.entries),
            "columns": [_make_column(sort, view) for sort in Sort],
            "sort": view.sort.value,
            "order": "desc" if view.is_descending else "asc",
            "folders": listed.folders,
            "files": listed.files,
            "total": total,
            "size_bytes": listed.size_bytes,
            "offset": view.offset,
            "limit": view.limit,
            "shown": shown,
            "previous": _format_page(view, view.offset - (view.limit or 0)) if view.offset else None,
            "next": _format_page(view, view.offset + shown)
            if shown and view.offset + shown < total
            else None,
            "archives": [Crumb(form, f"?archive={form}") for form in self._archives],
            "readme": None
            if readme is None
            else {
                "name": format_name(readme.name),
                "html": Markup(render_markdown(readme.text)) if readme.is_markdown else None,
                "text": readme.text,
                "is_whole": readme.is_whole,
            },
            # They are ours, and their hashes are in the policy.
            "style": Markup(self._style),
            "script": Markup(self._script),
        }


# --- what a name looks like ---


def format_link(name: bytes, *, is_folder: bool) -> str:
    """The relative reference of an entry: its bare name, so that programs can take it for that."""
    return quote_from_bytes(name, safe=_PLAIN_IN_LINK) + ("/" if is_folder else "")


def format_name(name: bytes) -> str:
    """The name as people can read it: what is not seen is named, what is no UTF-8 replaced."""
    return re.sub(_UNSEEN, _name_unseen, name.decode("utf-8", "replace"))


def _name_unseen(match: re.Match[str]) -> str:
    return f"[U+{ord(match[0]):04X}]"


def find_kind(name: bytes) -> str:
    """Which icon a file has: image, video, audio, font, text, code, table, document, archive or file."""
    return _find_kind(find_content_type(name))


@cache  # there are as many as there are content types
def _find_kind(content_type: str) -> str:
    media_type = content_type.partition(";")[0]
    main_type = media_type.partition("/")[0]
    if media_type in _KINDS:
        return _KINDS[media_type]
    if main_type in ("image", "video", "audio", "font", "text"):
        return main_type
    if media_type in _TEXT_TYPES or media_type.endswith(("+json", "+xml")):
        return "code"
    if "opendocument" in media_type or "officedocument" in media_type:
        return "table" if "sheet" in media_type else "document"
    return "file"


@cache
def _find_preview(content_type: str) -> str:
    """How a browser can show it in the page: as an image, video, audio or text; nothing when it cannot."""
    media_type = content_type.partition(";")[0]
    main_type, _, subtype = media_type.partition("/")
    if subtype in _SHOWN.get(main_type, "").split():
        return main_type
    return "text" if main_type == "text" or media_type in _TEXT_TYPES else ""


# --- numbers and dates ---


_SIZE_UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_size(size_bytes: int) -> str:
    """Three digits and a unit of 1000, as file managers have them."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value, power = size_bytes / 1000, 0
    while value >= 999.5 and power < len(_SIZE_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.{1 if value < 99.95 else 0}f} {_SIZE_UNITS[power]}"


def _format_count(number: int) -> str:
    return f"{number:,}"


# Our own names, because those of the standard library follow the locale of the program that embeds us.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _find_date(mtime_ns: int) -> datetime:
    """The date in UTC, or the nearest that can be written."""
    seconds = min(max(mtime_ns // 1_000_000_000, _FIRST_S), _LAST_S)
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


# --- the page ---


def _make_row(entry: Entry) -> Row:
    content_type = find_content_type(entry.name)
    date = _find_date(entry.mtime_ns)
    return Row(
        name=format_name(entry.name),
        href=format_link(entry.name, is_folder=entry.is_folder),
        kind="folder" if entry.is_folder else _find_kind(content_type),
        preview="" if entry.is_folder else _find_preview(content_type),
        is_folder=entry.is_folder,
        is_symlink=entry.is_symlink,
        size_bytes=entry.size_bytes,
        size="" if entry.is_folder else format_size(entry.size_bytes),
        mtime=f"{date.isoformat()}Z",
        date=f"{date.day} {_MONTHS[date.month - 1]} {date.year}",
        time=f"{date.hour:02}:{date.minute:02}",
    )


def _make_crumbs(segments: Sequence[bytes]) -> list[Crumb]:
    depth = len(segments)
    crumbs = [Crumb("/", "../" * depth or "./")]
    for index, segment in enumerate(segments, 1):
        crumbs.append(Crumb(format_name(segment), "../" * (depth - index) or "./"))
    return crumbs


_TITLES = {Sort.NAME: "Name", Sort.SIZE: "Size", Sort.DATE: "Modified"}


def _make_column(sort: Sort, view: View) -> Column:
    if sort is not view.sort:
        # Whoever looks for a size or a date wants the largest or the latest.
        return Column(sort.value, _TITLES[sort], "none", "asc" if sort is Sort.NAME else "desc")
    if view.is_descending:
        return Column(sort.value, _TITLES[sort], "descending", "asc")
    return Column(sort.value, _TITLES[sort], "ascending", "desc")


def _format_page(view: View, offset: int) -> str:
    query = [f"offset={max(offset, 0)}"]
    if view.limit != PAGE_ROWS:
        query.append(f"limit={view.limit}")
    if view.sort is not Sort.NAME or view.is_descending:
        query.append(f"sort={view.sort}&order={'desc' if view.is_descending else 'asc'}")
    return "?" + "&".join(query)


def _format_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# --- for programs ---


def _join(start: bytes, separator: bytes, stop: bytes, items: Iterator[str]) -> Iterator[bytes]:
    before = start
    for item in items:
        yield before + item.encode()
        before = separator
    yield stop if before is separator else start + stop


# Written out: for many entries, an encoder that can do everything takes most of the time.
_CADDY = (
    '{{"name":{name},"size":{size},"url":{url},"mod_time":"{date}","mode":{mode},'
    '"is_dir":{is_folder},"is_symlink":{is_symlink}}}'
).format
_BOOLEANS = ("false", "true")


def _format_caddy(entry: Entry) -> str:
    slash = "/" if entry.is_folder else ""
    # RFC 3339 as Go writes it: as many decimals as there are.
    fraction = f".{entry.mtime_ns % 1_000_000_000:09}".rstrip("0").rstrip(".")
    return _CADDY(
        name=encode_basestring(entry.name.decode("utf-8", "replace") + slash),
        size=entry.size_bytes,
        url=encode_basestring("./" + quote_from_bytes(entry.name, safe=_PLAIN_IN_GO) + slash),
        date=f"{_find_date(entry.mtime_ns).isoformat()}{fraction}Z",
        mode=_find_go_mode(entry.mode),
        is_folder=_BOOLEANS[entry.is_folder],
        is_symlink=_BOOLEANS[entry.is_symlink],
    )


@lru_cache(maxsize=256)
def _find_go_mode(mode: int) -> int:
    return mode & 0o777 | sum(bit for has, bit in _GO_MODES if has(mode))


def _format_nginx(entry: Entry) -> str:
    name = encode_basestring(entry.name.decode("utf-8", "replace"))
    date = format_http_date(entry.mtime_ns // 1_000_000_000)
    if entry.is_folder:
        return f'{{ "name":{name}, "type":"directory", "mtime":"{date}" }}'
    return f'{{ "name":{name}, "type":"file", "mtime":"{date}", "size":{entry.size_bytes} }}'


def _format_line(entry: Entry) -> bytes:
    """The name as its bytes are; what would end the line, or move the cursor, is shown instead."""
    name = re.sub(rb"[\x00-\x1f\x7f]", lambda match: b"%%%02X" % match[0][0], entry.name)
    return name + (b"/\n" if entry.is_folder else b"\n")
