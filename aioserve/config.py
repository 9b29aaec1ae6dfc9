"""Which options there are, and which value each one has.

`Config` is the table: one attribute for each option, with everything else that is said about it (flags,
kind, help, precedents) in its row. The flags, the environment names, the keys of the file, `--help` and
docs/configuration.md are all made from it. `Console` continues the table with what only the command
line knows. A program that embeds the server comes in through `Config.from_options`; environment and files
are read by `load_config` alone, which is called by the command and by nothing else.

The module is longer than others because the table stands in one piece.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, Self, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from aioserve.protocol.rules import HeaderRule, RedirectRule

T = TypeVar("T")

ENVIRONMENT_PREFIX = "AIOSERVE_"
FILE_NAME = "aioserve.toml"
PROJECT_FILE_NAME = "pyproject.toml"


class ConfigError(ValueError):
    """A wrong option or value; the text says where it stands, what it is, and what was expected."""


class _WrongPart(ValueError):
    """A part of a value is wrong: `path` leads there from the value, as "[0].from" does."""

    def __init__(self, path: str, value: object, expected: str) -> None:
        super().__init__(path, value, expected)
        self.path = path
        self.value = value
        self.expected = expected


# ---- kinds: what a value may be --------------------------------------------------------------------------


class Kind(NamedTuple):
    """What one option takes.

    `read` turns a typed value or a text into the value of the option and raises ValueError for anything
    else; what it returns, it returns unchanged when it is given again. `show` is the way back: `read`
    understands what it gives. `expected` completes the sentence "expected ...". `separator` stands between
    several values in one text. `bare` is meant by a flag without a value, if it may be without. A kind that
    `is_table` can be written in a file and in a program, but not as text.
    """

    metavar: str
    expected: str
    read: Callable[[object], object]
    show: Callable[[object], str] = str
    repeatable: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()
    separator: str = ","
    bare: str = ""
    is_table: bool = False


# Fifteen digits hold every number that has a meaning here, and cost nothing to convert. These patterns are
# not compiled before they are needed: the command is waited for while it starts.
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *([a-zA-Z]*)"
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}
# KB and MB are not read: to some they are powers of ten, and a limit should not be guessed.
_BYTES = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
}
_ON_OFF = {
    **dict.fromkeys(("on", "true", "yes", "1"), True),
    **dict.fromkeys(("off", "false", "no", "0"), False),
}


def _read_number(value: object, units: Mapping[str, float]) -> float:
    # bool is an int to isinstance, but port=True is a mistake and not port 1.
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := re.fullmatch(_NUMBER, value.strip())):
        digits, unit = match[1], match[2].lower()
        if unit in units:
            return (float(digits) if "." in digits else int(digits)) * units[unit]
    raise ValueError


def _read_whole(value: object, units: Mapping[str, float], minimum: int, maximum: int) -> int:
    number = _read_number(value, units)
    if isinstance(number, int) and minimum <= number <= maximum:
        return number
    raise ValueError


def _count(minimum: int, maximum: int, metavar: str = "N", zero: str = "") -> Kind:
    def read(value: object) -> int:
        return _read_whole(value, {"": 1}, minimum, maximum)

    return Kind(metavar, f"a whole number from {minimum} to {maximum}{zero}", read)


def _count_or_auto(maximum: int) -> Kind:
    def read(value: object) -> int | str:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return "auto"
        return _read_whole(value, {"": 1}, 1, maximum)

    return Kind("N|auto", f"a whole number from 1 to {maximum}, or auto", read)


def _show_size(value: object) -> str:
    assert isinstance(value, int)
    for unit in ("GiB", "MiB", "KiB"):
        scale = _BYTES[unit.lower()]
        if value >= scale and value % scale == 0:
            return f"{value // scale}{unit}"
    return str(value)


def _size(minimum: int, maximum: int) -> Kind:
    def read(value: object) -> int:
        return _read_whole(value, _BYTES, minimum, maximum)

    span = f"{minimum} bytes to {_show_size(maximum)}"
    return Kind("SIZE", f"a size from {span}, such as 65536, 64K or 64KiB", read, _show_size)


# A day: what is longer than that is no limit, and most likely meant as milliseconds.
_LONGEST_S = 86_400


def _seconds(minimum: float) -> Kind:
    def read(value: object) -> float:
        number = _read_number(value, _SECONDS)
        if minimum <= number <= _LONGEST_S:  # False for NaN
            return float(number)
        raise ValueError

    expected = f"seconds from {minimum:g} to {_LONGEST_S}, such as 15, 1.5, 15s or 2m"
    return Kind("SECONDS", expected, read, lambda value: f"{value:g}")


def _choice(*choices: str) -> Kind:
    def read(value: object) -> str:
        if isinstance(value, str) and value.strip().lower() in choices:
            return value.strip().lower()
        raise ValueError

    expected = "one of " + ", ".join(choices)
    return Kind("|".join(choices), expected, read, choices=choices)


def _read_switch(value: object) -> bool:
    if isinstance(value, str):
        value = _ON_OFF.get(value.strip().lower())
    if isinstance(value, bool):
        return value
    raise ValueError


def _read_items(value: object, separator: str = ",") -> tuple[str, ...]:
    """A text is a list with commas; the items of a sequence are taken as they are."""
    if isinstance(value, str):
        return tuple(item for part in value.split(separator) if (item := part.strip()))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        items = tuple(item for item in value if isinstance(item, str))
        if len(items) == len(value):
            return items
    raise ValueError


def _show_items(value: object) -> str:
    return ",".join(_read_items(value))


def _read_names(value: object) -> tuple[str, ...]:
    names = _read_items(value)
    if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise ValueError
    return tuple(dict.fromkeys(names))


def _read_hosts(value: object) -> tuple[str, ...]:
    hosts: dict[str, None] = {}
    for item in _read_items(value):
        # [::1] is how an address stands in a URL, from which people copy it.
        host = item[1:-1] if item[:1] == "[" and item[-1:] == "]" else item
        # One colon is a port; more are an IPv6 address.
        if not host.isprintable() or not host or host.count(":") == 1 or set(host) & set(" /[]@"):
            raise ValueError
        hosts[host] = None
    if not hosts:
        raise ValueError
    return tuple(hosts)


def _read_path(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value and "\0" not in value):
        return value
    raise ValueError


def _read_page_option(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        segments = value.removeprefix("/").split("/")
        if not any(segment in ("", ".", "..") or "\0" in segment for segment in segments):
            return "/".join(segments)
    raise ValueError


def _show_switch(value: object) -> str:
    return "on" if value else "off"


# What the following mean is known to the protocol, which is not loaded before there is one.


def _read_header(value: object) -> tuple[str, ...]:
    lines = _read_items(value, "\n")
    if lines:
        from aioserve.protocol.policy import parse_field

        _check_each(lines, parse_field)
    return lines


def _read_cache_control(value: object) -> tuple[str, ...]:
    lines = _read_items(value, "\n")
    if lines:
        from aioserve.protocol.policy import parse_cache_control

        _check_each(lines, parse_cache_control)
    return lines


def _check_each(lines: Iterable[str], parse: Callable[[str], object]) -> None:
    for line in lines:
        try:
            parse(line)
        except ValueError as error:
            raise _WrongPart("", line, str(error)) from None


def _show_lines(value: object) -> str:
    return "\n".join(_read_items(value, "\n"))


def _read_origins(value: object) -> tuple[str, ...]:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _ON_OFF):
        return ("*",) if _read_switch(value) else ()
    origins = _read_items(value)
    if origins:
        from aioserve.protocol.cors import parse_origin

        origins = tuple(dict.fromkeys(map(parse_origin, origins)))
    return origins


_HEADER = Kind(
    "'NAME: VALUE'",
    "fields such as 'X-Robots-Tag: noindex'",
    _read_header,
    _show_lines,
    repeatable=True,
    separator="\n",
)
_CACHE_CONTROL = Kind(
    "'GLOB: VALUE'",
    "globs and what is sent, such as '/fonts/**: public, max-age=604800'",
    _read_cache_control,
    _show_lines,
    repeatable=True,
    separator="\n",
)
_ORIGINS = Kind(
    "[ORIGIN]",
    "*, null, or origins such as https://app.example",
    _read_origins,
    _show_items,
    repeatable=True,
    bare="*",
)


def _read_tables(value: object, rule: type[T], read: Callable[[object, int], T]) -> tuple[T, ...]:
    """Rules, each read from a table unless it is one already. Text is none, but for none at all."""
    if value == "":
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, rule)):
        raise ValueError
    return tuple(item if isinstance(item, rule) else read(item, index) for index, item in enumerate(value))


def _read_redirects(value: object, *, key: str, is_rewrite: bool) -> object:
    from aioserve.protocol.rule_syntax import WrongTable, read_redirect
    from aioserve.protocol.rules import RedirectRule

    def read(table: object, index: int) -> RedirectRule:
        try:
            return read_redirect(table, f"{key}[{index}]", is_rewrite=is_rewrite)
        except WrongTable as error:
            raise _WrongPart(_format_part(index, error.key), error.value, error.expected) from None

    return _read_tables(value, RedirectRule, read)


def _read_headers(value: object) -> object:
    from aioserve.protocol.rule_syntax import WrongTable, read_headers
    from aioserve.protocol.rules import HeaderRule

    def read(table: object, index: int) -> HeaderRule:
        try:
            return read_headers(table, f"headers[{index}]")
        except WrongTable as error:
            raise _WrongPart(_format_part(index, error.key), error.value, error.expected) from None

    return _read_tables(value, HeaderRule, read)


def _format_part(index: int, key: str) -> str:
    return f"[{index}].{key}" if key else f"[{index}]"


_ERROR_STATUSES = range(400, 600)


def _read_errors(value: object) -> object:
    """Statuses and the files that are sent with them, sorted by status."""
    if value == "":
        return ()
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise ValueError
    pages: dict[int, str] = {}
    for item in value:
        if not isinstance(item, tuple) or len(item) != 2:
            raise ValueError
        status, path = item
        number = int(status) if isinstance(status, str) and re.fullmatch("[0-9]{3}", status) else status
        if not isinstance(number, int) or number not in _ERROR_STATUSES or number in pages:
            raise _WrongPart("", status, "a status from 400 to 599, once, such as 404")
        pages[number] = _read_page(f".{number}", path)
    return tuple(sorted(pages.items()))


def _read_page(part: str, value: object) -> str:
    try:
        page = _read_page_option(value)
    except ValueError:
        page = None
    if page is not None:
        return page
    raise _WrongPart(part, value, "the path of a file in the root, such as 404.html")


def _show_table(value: object) -> str:
    # Only the default is shown: none at all.
    return ""


_SWITCH = Kind("", "on or off (or true, false, yes, no, 1, 0)", _read_switch, _show_switch, switch=True)
_HOSTS = Kind("ADDRESS", "addresses or host names, without a port", _read_hosts, _show_items, repeatable=True)
_NAMES = Kind("NAME", "file names, without a folder", _read_names, _show_items, repeatable=True)
_PAGE = Kind(
    "[FILE]",
    "the path of a file in the root, such as index.html",
    _read_page_option,
    lambda value: str(value or ""),
    bare="index.html",
)
_PATH = Kind("PATH", "a path", _read_path, lambda value: str(value or ""))
_REDIRECTS = Kind(
    "TABLES",
    "tables with from, to, and perhaps status, force, query",
    partial(_read_redirects, key="redirects", is_rewrite=False),
    _show_table,
    is_table=True,
)
_REWRITES = Kind(
    "TABLES",
    "tables with from, to, and perhaps force, query",
    partial(_read_redirects, key="rewrites", is_rewrite=True),
    _show_table,
    is_table=True,
)
_HEADERS = Kind("TABLES", "tables with for, values", _read_headers, _show_table, is_table=True)
_ERRORS = Kind("TABLE", "a table of statuses and files", _read_errors, _show_table, is_table=True)

# ---- the table -------------------------------------------------------------------------------------------

_ADDRESS = "Address"
_CONTENT = "Content"
_OUTPUT = "Output"
_TIMEOUTS = "Timeouts"
_LIMITS = "Limits"
_PROCESSES = "Processes"
_GENERAL = "General"
GROUPS = (_ADDRESS, _CONTENT, _OUTPUT, _TIMEOUTS, _LIMITS, _PROCESSES, _GENERAL)


class Option(NamedTuple):
    """One option as each of the places where it can be given sees it.

    `name` is the attribute of `Config` (`head_timeout_s`); `word` is the name without its unit, from which
    the other names come: `--head-timeout`, `AIOSERVE_HEAD_TIMEOUT`, and `head-timeout` in a file. A table has
    neither flag nor variable.
    """

    default: object
    kind: Kind
    flags: tuple[str, ...]
    group: str
    help: str
    precedents: str
    in_file: bool
    name: str = ""
    embeddable: bool = False

    @property
    def word(self) -> str:
        # --bind comes first in --help; the host is what it names.
        return self.flags[-1][2:].replace("-", "_") if self.flags else self.name

    @property
    def environment(self) -> str | None:
        """The name of the variable; None for a table, which no text can hold."""
        return None if self.kind.is_table else ENVIRONMENT_PREFIX + self.word.upper()

    @property
    def key(self) -> str | None:
        """The key in a file; None for an option that a file cannot hold."""
        return self.word.replace("_", "-") if self.in_file else None

    def parse(self, value: object, where: str) -> object:
        """The option's value for a typed value or a text; raises ConfigError, which says where it stood."""
        try:
            return self.kind.read(value)
        except _WrongPart as error:
            _refuse(where + error.path, error.value, error.expected)
        except ValueError:
            _refuse(where, value, self.kind.expected)


def _option(
    default: T, kind: Kind, flags: str, group: str, text: str, precedents: str = "", *, in_file: bool = True
) -> T:
    """One row of the table; its name is the attribute's, whose value will be the default."""
    row: Any = Option(default, kind, tuple(flags.split()), group, text, precedents, in_file)
    return row  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Table:
    """Options with their values; what is not given has its default.

    To its users a frozen dataclass. A real one writes its methods as text and compiles them, whenever the
    command starts: a twentieth of the time until it listens.
    """

    options: ClassVar[dict[str, Option]]

    def __init_subclass__(cls, *, embeddable: bool) -> None:
        rows = {name: row for name, row in vars(cls).items() if isinstance(row, Option)}
        cls.options = {name: row._replace(name=name, embeddable=embeddable) for name, row in rows.items()}
        for name, row in rows.items():
            setattr(cls, name, row.default)

    def __init__(self, **values: object) -> None:
        for name, value in values.items():
            option = self.options.get(name)
            if option is None:
                raise TypeError(f"{type(self).__name__} has no option {name!r}")
            if option.parse(value, name) != value:
                _refuse(name, value, option.kind.expected)
        vars(self).update(values)

    def replace(self, **values: object) -> Self:
        """The same options but for these."""
        return type(self)(**{**vars(self), **values})

    def _list_values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._list_values() == other._list_values()

    def __hash__(self) -> int:
        return hash(self._list_values())

    def __repr__(self) -> str:
        values = zip(self.options, self._list_values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a {type(self).__name__} cannot be changed")


class Config(_Table, embeddable=True):
    """Every option of the server. An instance is valid: making one with a wrong value raises ConfigError.

    `from_options` also takes what people write: texts such as "64KiB", and one host instead of several.
    """

    port: int = _option(
        8080,
        _count(0, 65_535, "PORT", " (0 takes a free one)"),
        "-p --port",
        _ADDRESS,
        "TCP port to listen on; 0 takes a free one. When it is not given and busy, the next free one.",
        "miniserve, http-server and darkhttpd have 8080, http.server 8000",
    )
    host: tuple[str, ...] = _option(
        ("127.0.0.1",),
        _HOSTS,
        "-b --bind --host",
        _ADDRESS,
        "Address to listen on, IPv4 or IPv6; may be repeated. 0.0.0.0 and :: are all of the machine.",
        "granian and servery have 127.0.0.1; http.server listens on all addresses",
    )
    backlog: int = _option(
        2048,
        _count(1, 65_535),
        "--backlog",
        _ADDRESS,
        "Connections that may wait in the kernel; it cuts this at its own limit.",
        "uvicorn and gunicorn have 2048, nginx 511; Linux cuts at net.core.somaxconn, 4096",
    )

    index: tuple[str, ...] = _option(
        ("index.html",),
        _NAMES,
        "--index",
        _CONTENT,
        "File that stands for its folder; may be repeated, the first that exists is taken.",
        "http.server has index.html and index.htm",
    )
    spa: str | None = _option(
        None,
        _PAGE,
        "-s --single --spa",
        _CONTENT,
        "Send this file where a browser asks for a page that does not exist; without a value index.html.",
        "serve: --single; sirv: --single [FILE]; miniserve: --spa",
    )
    clean_urls: bool = _option(
        False,
        _SWITCH,
        "--pretty-urls --clean-urls",
        _CONTENT,
        "Send about.html for /about, and redirect /about.html and /about/ to there.",
        "serve: cleanUrls; miniserve: --pretty-urls",
    )
    hidden: bool = _option(
        False,
        _SWITCH,
        "--hidden",
        _CONTENT,
        "Serve names that begin with a dot. /.well-known is always served.",
        "off in miniserve, sirv and send; on in http.server and Caddy",
    )
    symlinks: str = _option(
        "inside",
        _choice("none", "inside", "all"),
        "--symlinks",
        _CONTENT,
        "Which symbolic links are followed: none, those whose target is inside the root, or all.",
        "Starlette, aiohttp and dufs follow inside; nginx, Caddy and http.server follow all",
    )
    cache_control: tuple[str, ...] = _option(
        (),
        _CACHE_CONTROL,
        "--cache-control",
        _CONTENT,
        "Cache-Control of the files that the glob names; may be repeated, the last that names a file counts. "
        "Else no-cache, and immutable for names with a content hash.",
        "http-server -c sends max-age=3600 with everything; Caddy, nginx and http.server send nothing",
    )
    header: tuple[str, ...] = _option(
        (),
        _HEADER,
        "--header",
        _CONTENT,
        "Send this field with every answer; may be repeated.",
        "miniserve and darkhttpd have --header, http.server since 3.15",
    )
    cors: tuple[str, ...] = _option(
        (),
        _ORIGINS,
        "--cors",
        _CONTENT,
        "Let pages of these origins read what is here; may be repeated, without a value it is all.",
        "serve, sirv, http-server and live-server have --cors, for all",
    )
    coi: bool = _option(
        False,
        _SWITCH,
        "--coi",
        _CONTENT,
        "Isolate pages from other origins (COOP and COEP), so that SharedArrayBuffer and threads work.",
    )
    security_headers: bool = _option(
        False,
        _SWITCH,
        "--security-headers",
        _CONTENT,
        "Send header fields that protect visitors and leave static sites working.",
    )
    data: bool = _option(
        False,
        _SWITCH,
        "--data",
        _CONTENT,
        "Serve data to programs: --cors for all unless given, and 206 also for HEAD with Range.",
    )
    rules: bool = _option(
        True,
        _SWITCH,
        "--rules",
        _CONTENT,
        "Obey the files _redirects and _headers of the root, and do not serve them.",
        "Netlify and Cloudflare Pages",
    )
    redirects: tuple[RedirectRule, ...] = _option(
        (),
        _REDIRECTS,
        "",
        _CONTENT,
        "What a path leads to instead, after those of _redirects; the first that matches counts.",
        "Netlify: [[redirects]] in netlify.toml",
    )
    rewrites: tuple[RedirectRule, ...] = _option(
        (),
        _REWRITES,
        "",
        _CONTENT,
        "What is sent for a path instead, after the redirects.",
        "Netlify: [[redirects]] with status 200; vercel serve: rewrites",
    )
    headers: tuple[HeaderRule, ...] = _option(
        (),
        _HEADERS,
        "",
        _CONTENT,
        "Header fields for some paths, after those of _headers; all that match count.",
        "Netlify: [[headers]] in netlify.toml",
    )
    errors: tuple[tuple[int, str], ...] = _option(
        (),
        _ERRORS,
        "",
        _CONTENT,
        "Files of the root that are sent with an error, by its status.",
        "nginx: error_page",
    )
    archive: bool = _option(
        False,
        _SWITCH,
        "--archive",
        _CONTENT,
        "Give a folder as one download: /folder/?archive=zip, tar, tar.gz or tar.zst.",
        "off in miniserve (--enable-tar, --enable-zip) and dufs (--allow-archive)",
    )
    precompressed: bool = _option(
        True,
        _SWITCH,
        "--precompressed",
        _CONTENT,
        "Send name.br, name.zst or name.gz in place of name to clients that take it, unless it is older.",
        "nginx: gzip_static; Caddy: precompressed; static-web-server: compression-static",
    )
    compress: str = _option(
        "auto",
        _choice("auto", "off"),
        "--compress",
        _CONTENT,
        "Compress text and the like of 1 KiB and more for clients that take it; up to 8 MiB once, and kept.",
        "on in serve and static-web-server; off in nginx and Caddy",
    )
    server_header: bool = _option(
        True,
        _SWITCH,
        "--server-header",
        _CONTENT,
        "Send the field Server with every answer.",
        "nginx: server_tokens",
    )

    log_format: str = _option(
        "common",
        _choice("off", "common", "combined", "json"),
        "--log-format",
        _OUTPUT,
        "How each exchange is written to standard output.",
        "common and combined as Apache and nginx write them",
    )

    grace_s: float = _option(
        25.0,
        _seconds(0),
        "--grace",
        _TIMEOUTS,
        "When told to stop, wait so long for answers that are being sent.",
        "Kubernetes kills after 30",
    )
    head_timeout_s: float = _option(
        15.0,
        _seconds(0.001),
        "--head-timeout",
        _TIMEOUTS,
        "A request head must be complete so long after its first byte (408).",
        "h2o 10, Apache 20, nginx 60",
    )
    body_timeout_s: float = _option(
        15.0,
        _seconds(0.001),
        "--body-timeout",
        _TIMEOUTS,
        "A request body must be complete so long after its head.",
        "Apache 20; nginx 60 between two reads",
    )
    keepalive_timeout_s: float = _option(
        75.0,
        _seconds(0.001),
        "--keepalive-timeout",
        _TIMEOUTS,
        "An idle connection is kept so long for another request.",
        "nginx 75, node and uvicorn 5; longer than the 60 of common load balancers, which should close first",
    )
    keepalive_timeout_busy_s: float = _option(
        5.0,
        _seconds(0.001),
        "--keepalive-timeout-busy",
        _TIMEOUTS,
        "The same while more than 80 % of --max-connections are open.",
        "Apache 5 at any time",
    )
    send_timeout_s: float = _option(
        60.0,
        _seconds(0.001),
        "--send-timeout",
        _TIMEOUTS,
        "A client that takes not one byte of its answer for so long is cut off.",
        "nginx 60",
    )
    queue_timeout_s: float = _option(
        1.0,
        _seconds(0),
        "--queue-timeout",
        _TIMEOUTS,
        "A request that waits so long for a disk thread gets 503.",
    )
    linger_idle_s: float = _option(
        5.0,
        _seconds(0),
        "--linger-idle",
        _TIMEOUTS,
        "When closing, wait so long for more bytes of the client, so that it can read the last answer.",
        "nginx: lingering_timeout 5",
    )
    linger_total_s: float = _option(
        30.0,
        _seconds(0),
        "--linger-total",
        _TIMEOUTS,
        "When closing, wait so long in all.",
        "nginx: lingering_time 30",
    )

    request_line_bytes: int = _option(
        8190,
        _size(64, 1 << 20),
        "--max-request-line",
        _LIMITS,
        "A longer request line gets 414.",
        "RFC 9112 asks for at least 8000; Apache 8190, nginx 8 KiB",
    )
    head_bytes: int = _option(
        32 << 10,
        _size(256, 16 << 20),
        "--max-head",
        _LIMITS,
        "A larger request head gets 431.",
        "node 16 KiB, nginx 32 KiB, Go 1 MiB",
    )
    fields: int = _option(
        100,
        _count(1, 10_000),
        "--max-fields",
        _LIMITS,
        "A request with more header fields gets 431.",
        "Apache 100, node 2000",
    )
    body_discard_bytes: int = _option(
        64 << 10,
        _size(0, 1 << 30),
        "--max-body-discard",
        _LIMITS,
        "A request body that nobody wants is read so far to keep the connection; beyond that it is closed.",
        "Go 256 KiB",
    )
    connections: int = _option(
        0,
        _count(0, 1_000_000),
        "--max-connections",
        _LIMITS,
        "Open connections; more wait in the backlog. 0 takes what the descriptors allow, at most 10000.",
        "nginx 512; a socket and a file each, so (RLIMIT_NOFILE - 64) / 2",
    )
    cache_bytes: int = _option(
        64 << 20,
        _size(0, 1 << 40),
        "--cache-size",
        _LIMITS,
        "Memory for the contents of small files, each checked to be unchanged when it is used; 0 is off.",
        "nginx and lighttpd keep descriptors or none; lighttpd looks at a file once a second",
    )
    min_rate: int = _option(
        0,
        _size(0, 1 << 30),
        "--min-rate",
        _LIMITS,
        "A client that takes its answer more slowly than this many bytes a second is cut off; 0 is off.",
        "Apache's mod_reqtimeout: 500 for requests",
    )
    threads: int = _option(
        32,
        _count(1, 1024),
        "--threads",
        _LIMITS,
        "Threads that wait for the disk.",
        "nginx 32 in a thread pool; libuv 4, anyio 40",
    )
    threads_per_file: int = _option(
        4,
        _count(1, 1024),
        "--threads-per-file",
        _LIMITS,
        "Of these, so many for one file at a time, so that one slow file does not stop the others.",
    )
    linger_bytes: int = _option(
        64 << 20,
        _size(0, 1 << 30),
        "--max-linger",
        _LIMITS,
        "When closing, read and drop so much of the client in all.",
    )

    @classmethod
    def from_options(cls, **options: object) -> Config:
        """The configuration with these options, typed or as text; raises ConfigError for a wrong one.

        An option may be named as here (`head_timeout_s`) or as on the command line (`head_timeout`).
        """
        return cls(**_parse_layer(_find_embedded(options)))  # type: ignore[arg-type]  # each is parsed


class Console(_Table, embeddable=False):
    """The options of the command line alone; a program that embeds the server decides these by itself."""

    directory: str | None = _option(
        None, _PATH, "-d --directory", _CONTENT, "The same as ROOT.", "http.server: -d"
    )
    quiet: bool = _option(False, _SWITCH, "-q --quiet", _OUTPUT, "Write nothing but errors.")
    verbose: bool = _option(
        False, _SWITCH, "-v --verbose", _OUTPUT, "Write more about what happens to standard error."
    )
    open: bool = _option(False, _SWITCH, "-o --open", _OUTPUT, "Open the browser once the server listens.")
    qr: bool = _option(
        False,
        _SWITCH,
        "--qr",
        _OUTPUT,
        "Show the address in the local network as a QR code, for a phone. It needs the package segno.",
        "miniserve: -q; servery: --qr",
    )
    workers: int | str = _option(
        1,
        _count_or_auto(256),
        "--workers",
        _PROCESSES,
        "Processes that serve, each with the limits above for itself; auto is one for each core.",
        "uvicorn, gunicorn and granian 1; nginx 1, and auto for one for each core",
    )
    loop: str = _option(
        "auto",
        _choice("auto", "asyncio", "uvloop"),
        "--loop",
        _PROCESSES,
        "Event loop; auto is uvloop where it is installed.",
        "uvicorn has auto too",
    )
    config: str | None = _option(
        None,
        _PATH,
        "--config",
        _GENERAL,
        f"Read options from this file; else from {FILE_NAME} or {PROJECT_FILE_NAME} in the current folder.",
        in_file=False,
    )


OPTIONS = (*Config.options.values(), *Console.options.values())
_BY_NAME = {name: option for option in OPTIONS for name in (option.name, option.word)}
_BY_ENVIRONMENT = {option.environment: option for option in OPTIONS if option.environment}

# ---- reading ---------------------------------------------------------------------------------------------

# Every way to begin the table [tool.aioserve], and some things that are none.
_TOOL_TABLE = rb"""tool["']?\s*(\.\s*["']?aioserve|\]|=)"""
# What Kubernetes puts into the environment of every container beside a service that is called "aioserve".
_SERVICE_LINK = r"SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?"


class Settings(NamedTuple):
    """What the command was asked for; `given` names the options that were given somewhere."""

    config: Config
    console: Console
    given: frozenset[str]


def load_config(flags: Mapping[str, object], environ: Mapping[str, str], folder: str) -> Settings:
    """The options of one run: flags before environment before file before default.

    `flags` holds by option name what was given on the command line. The file is the one that `config`
    names, else aioserve.toml in `folder`, else the table [tool.aioserve] of pyproject.toml there. A value
    is checked wherever it stands, also where another place overrides it.

    Raises: ConfigError.
    """
    from_flags = _parse_layer((_BY_NAME[name], _BY_NAME[name].flags[-1], flags[name]) for name in flags)
    from_environment = _parse_layer(_find_in_environment(environ))
    named = {**from_environment, **from_flags}.get("config")
    from_file = _parse_layer(_find_in_file(str(named) if named else None, folder))
    values = {**from_file, **from_environment, **from_flags}
    return Settings(
        Config(**_pick(values, embeddable=True)),  # type: ignore[arg-type]  # each was parsed by its kind
        Console(**_pick(values, embeddable=False)),  # type: ignore[arg-type]
        frozenset(values),
    )


def _pick(values: Mapping[str, object], *, embeddable: bool) -> dict[str, object]:
    names = [option.name for option in OPTIONS if option.embeddable is embeddable]
    return {name: values[name] for name in names if name in values}


def _parse_layer(layer: Iterable[tuple[Option, str, object]]) -> dict[str, object]:
    """The values of one place, by option name, from (option, where it stands, what is written there)."""
    values: dict[str, object] = {}
    places: dict[str, str] = {}
    for option, where, value in layer:
        if option.name in places:
            raise ConfigError(f"{where}: the same option as {places[option.name]}, expected one of the two")
        places[option.name] = where
        values[option.name] = option.parse(value, where)
    return values


def _find_embedded(options: Mapping[str, object]) -> Iterator[tuple[Option, str, object]]:
    for name, value in options.items():
        option = _BY_NAME.get(name)
        if option is None:
            _refuse_unknown(name, name, {option.name: option.name for option in OPTIONS if option.embeddable})
        if not option.embeddable:
            raise ConfigError(f"{name}: an option of the command line, expected one of the server")
        yield option, name, value


def _find_in_environment(environ: Mapping[str, str]) -> Iterator[tuple[Option, str, object]]:
    linked = ENVIRONMENT_PREFIX + "SERVICE_HOST" in environ
    for name, value in environ.items():
        # Container tools pass a variable that is not set as an empty one.
        if not name.startswith(ENVIRONMENT_PREFIX) or not value:
            continue
        word = name.removeprefix(ENVIRONMENT_PREFIX)
        if linked and (re.fullmatch(_SERVICE_LINK, word) or (word == "PORT" and "://" in value)):
            continue
        option = _BY_ENVIRONMENT.get(name)
        if option is None:
            _refuse_unknown(
                name, word, {option.word.upper(): name for name, option in _BY_ENVIRONMENT.items()}
            )
        yield option, name, value


def _find_in_file(named: str | None, folder: str) -> Iterator[tuple[Option, str, object]]:
    for name in (named,) if named else (FILE_NAME, PROJECT_FILE_NAME):
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            if named is None and isinstance(error, FileNotFoundError):
                continue
            reason = os.strerror(error.errno or 0)
            raise ConfigError(f"{path}: {reason}, expected a file with options") from None
        if os.path.basename(path) != PROJECT_FILE_NAME:
            yield from _find_in_table(_parse_toml(data, path), path, "")
            return
        # The file of a project that has no such table is none of our business, whatever is in it.
        if re.search(_TOOL_TABLE, data):
            tools = _parse_toml(data, path).get("tool")
            table = tools.get("aioserve", {}) if isinstance(tools, dict) else {}
            if not isinstance(table, dict):
                _refuse(f"{path}: tool.aioserve", table, "a table")
            yield from _find_in_table(table, path, "tool.aioserve.")


def _find_in_table(
    table: Mapping[str, object], path: str, prefix: str
) -> Iterator[tuple[Option, str, object]]:
    for key, value in table.items():
        where = f"{path}: {prefix}{key}"
        option = _BY_NAME.get(key.replace("-", "_"))
        if option is None or option.key is None:
            keys = {option.key: option.key for option in OPTIONS if option.key}
            _refuse_unknown(where, key.replace("_", "-"), keys)
        if option.kind is _PATH and isinstance(value, str) and value:
            # A path in a file starts at the file, wherever the command is run.
            value = os.path.join(os.path.dirname(path), value)
        yield option, where, value


def _parse_toml(data: bytes, path: str) -> dict[str, object]:
    import tomllib  # only when there is a file: it would be felt in the time to start

    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8, expected TOML") from None
    except tomllib.TOMLDecodeError as error:
        # "Expected '=' after a key (at line 3, column 9)", or "(at end of document)".
        what, _, position = str(error).partition(" (at ")
        match = re.match(r"line ([0-9]+)", position)
        line = int(match[1]) if match else data.count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: {what}, expected TOML") from None


def _refuse(where: str, value: object, expected: str) -> NoReturn:
    written = repr(value)
    if len(written) > 80:
        written = written[:77] + "..."
    raise ConfigError(f"{where}: got {written}, expected {expected}")


def _refuse_unknown(where: str, word: str, known: Mapping[str, str]) -> NoReturn:
    """`known` gives for each word that would have been right how it is written there."""
    from difflib import get_close_matches  # only when something is wrong

    match = get_close_matches(word, known, n=1)
    advice = f"did you mean {known[match[0]]}?" if match else "aioserve serve --help lists them"
    raise ConfigError(f"{where}: no such option; {advice}")
