"""How rules are written: `_redirects` and `_headers` as Netlify and Cloudflare Pages read them, and tables.

What is wrong is left out and told with its place; the rest holds. The two services differ here and there:
docs/rules.md says which one is followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

from aioserve.protocol.patterns import SPLAT, Pattern, Template, Unreadable, parse_pattern, parse_template
from aioserve.protocol.rules import REDIRECTS, REWRITES, Condition, HeaderField, HeaderRule, RedirectRule

T = TypeVar("T")
P = ParamSpec("P")

# Cloudflare has 2,000 paths and 100 patterns, and Netlify advises against 10,000. A path is found at once; a
# pattern that begins like the path has to be compared.
MAX_RULES = 20_000
MAX_PATTERNS = 1_000

# Cloudflare: 1,000 in _redirects, 2,000 in _headers.
MAX_LINE_CHARS = 2_000

# More would tell nobody more: such a file is no file of rules.
MAX_PROBLEMS = 100

_WORD = re.compile(r"[^ \t]+")
_STATUS = re.compile(r"([0-9]+)(!?)")
_PARAMETER = re.compile(r"([^=]+)=(.*)")
_PLACEHOLDER = re.compile(r":([A-Za-z][A-Za-z0-9_]*)")
_STATUSES = "one of " + ", ".join(map(str, sorted((*REDIRECTS, *REWRITES))))

# What Netlify can decide by, because it knows who is asking and from where.
_UNSUPPORTED_CONDITIONS = ("country", "language", "role", "cookie", "sign", "signed")

# RFC 9110 §5.6.2 and §5.5. Beyond ASCII a value means something else to everybody.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20-\x7E\t]*")

_FRAMING = "it says where the answer ends, which the server alone knows"
_CONNECTION = "it belongs to the connection"
_BYTES = "it says which bytes these are, which the server alone knows"
# Fields that no owner can set, and why.
REFUSED = {
    "accept-ranges": _BYTES,
    "age": "only a cache can say it",
    "allow": "it says what the server can do",
    "connection": _CONNECTION,
    "content-digest": _BYTES,
    "content-encoding": "it says how the bytes are encoded, which the server chooses",
    "content-length": _FRAMING,
    "content-md5": _BYTES,
    "content-range": _BYTES,
    "date": "it is the time of the answer",
    "digest": _BYTES,
    "etag": _BYTES,
    "keep-alive": _CONNECTION,
    "last-modified": _BYTES,
    "location": "_redirects says where a path leads",
    "proxy-connection": _CONNECTION,
    "repr-digest": _BYTES,
    "server": "--no-server-header removes it",
    "te": _CONNECTION,
    "trailer": _FRAMING,
    "transfer-encoding": _FRAMING,
    "upgrade": _CONNECTION,
}


class Problem(NamedTuple):
    """What is wrong in a file, and what was expected there. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    expected: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: expected {self.expected}"


class WrongTable(ValueError):
    """The value of `key` is not what was `expected`; without a key, the table itself."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(key, value, expected)
        self.key = key
        self.value = value
        self.expected = expected


def find_field_problem(name: str, value: str | None) -> str | None:
    """Why an owner cannot give answers that field (None: remove it); None when he can."""
    if not _NAME.fullmatch(name):
        return "the name of a header field"
    if reason := REFUSED.get(name.lower()):
        return f"a field other than {name}: {reason}"
    if name.lower() == "vary" and value is None:
        return "a field other than Vary, which can be added to: caches need what is in it"
    if value is not None and not _VALUE.fullmatch(value):
        return "a value of ASCII characters"
    return None


# ---- files -----------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a file as text, without their ends and what is blank there, and the problems in them."""

    def __init__(self, data: bytes, file: str) -> None:
        self._lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        self._file = file
        self._number = 0
        self.problems: list[Problem] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line that can be read and says something."""
        while self._number < len(self._lines):
            data = self._lines[self._number].rstrip(b" \t\r")
            self._number += 1
            try:
                line = data.decode()
            except UnicodeDecodeError as error:
                self.report(len(data[: error.start].decode()), "UTF-8")
                continue
            if len(line) > MAX_LINE_CHARS:
                self.report(MAX_LINE_CHARS, f"{MAX_LINE_CHARS} characters in a line at most")
                continue
            if line.strip(" \t") and not line.lstrip(" \t").startswith("#"):
                return line
        raise StopIteration

    def report(self, offset: int, expected: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self._file, self._number, offset + 1, expected))

    @property
    def origin(self) -> str:
        return f"{self._file}:{self._number}"


class _Room:
    """Counts the rules of a file and refuses those that are too many."""

    def __init__(self) -> None:
        self._rules = self._patterns = 0

    def take(self, pattern: Pattern) -> None:
        self._rules += 1
        self._patterns += not pattern.is_literal
        if self._rules > MAX_RULES:
            raise Unreadable(0, f"{MAX_RULES} rules in a file at most")
        if self._patterns > MAX_PATTERNS and not pattern.is_literal:
            raise Unreadable(0, f"{MAX_PATTERNS} paths with placeholders or * in a file at most")


def parse_redirects(data: bytes, file: str) -> tuple[tuple[RedirectRule, ...], tuple[Problem, ...]]:
    """The rules of a `_redirects` file, and what is wrong in it."""
    lines, room, rules = _Lines(data, file), _Room(), []
    for line in lines:
        try:
            rule = _parse_redirect(line, lines.origin)
            room.take(rule.pattern)
        except Unreadable as error:
            lines.report(error.offset, error.expected)
        else:
            rules.append(rule)
    return tuple(rules), tuple(lines.problems)


def _at(offset: int, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `parse` gives; its offsets are those of a text that begins at `offset`."""
    try:
        return parse(*args, **kwargs)
    except Unreadable as error:
        raise Unreadable(offset + error.offset, error.expected) from None


def _parse_redirect(line: str, origin: str) -> RedirectRule:
    words: list[tuple[int, str]] = []
    end = 0
    for match in _WORD.finditer(line):
        if match[0].startswith("#"):
            break
        words.append((match.start(), match[0]))
        end = match.end()
    offset, word = words[0]
    host, pattern = _at(offset, parse_pattern, word)
    names = set(pattern.names)
    conditions: list[Condition] = []
    position = 1
    while position < len(words) and not _is_target(words[position][1]):
        offset, word = words[position]
        if _STATUS.fullmatch(word):
            raise Unreadable(offset, "a path or a URL to lead to, before the status")
        conditions.append(_at(offset, _parse_condition, word, names))
        position += 1
    if position == len(words):
        raise Unreadable(end + 1, "a path that begins with /, or a URL, to lead to")
    target_offset, target = words[position]
    template = _at(target_offset, parse_template, target, frozenset(names))
    status, is_forced = 301, False
    if position + 1 < len(words):
        offset, word = words[position + 1]
        status, is_forced = _parse_status(offset, word)
    for offset, word in words[position + 2 :]:
        _refuse_condition(offset, word)
    _at(target_offset, _check_template, template, status, frozenset(names))
    return RedirectRule(origin, host, pattern, tuple(conditions), template, status, is_forced)


def _is_target(word: str) -> bool:
    return word.startswith("/") or re.match(r"(?i:https?):", word) is not None


def _parse_status(offset: int, word: str) -> tuple[int, bool]:
    match = _STATUS.fullmatch(word)
    if match is None:
        _refuse_condition(offset, word)
    # Compared as text: int() of a text of any length costs quadratic time.
    if match[1] not in map(str, (*REDIRECTS, *REWRITES)):
        raise Unreadable(offset, _STATUSES)
    return int(match[1]), bool(match[2])


def _refuse_condition(offset: int, word: str) -> NoReturn:
    name = word.partition("=")[0]
    if "=" in word and name.lower() in _UNSUPPORTED_CONDITIONS:
        raise Unreadable(offset, f"no condition {name}: it is not supported")
    raise Unreadable(offset, f"{_STATUSES}, with ! behind it or not, and nothing more")


def _parse_condition(word: str, names: set[str]) -> Condition:
    match = _PARAMETER.fullmatch(word)
    if match is None:
        raise Unreadable(0, "a query parameter, such as id=:id, or a path or a URL to lead to")
    return _make_condition(match[1], match[2], names, match.start(2))


def _make_condition(name: str, value: str, names: set[str], offset: int) -> Condition:
    """`names` are those that are taken, and get another one."""
    data = _decode_parameter(name)
    if not (placeholder := _PLACEHOLDER.fullmatch(value)):
        return Condition(data, _decode_parameter(value), None)
    if placeholder[1] in names or placeholder[1] == SPLAT:
        raise Unreadable(offset, "a name that is not used twice")
    names.add(placeholder[1])
    return Condition(data, None, placeholder[1])


def _decode_parameter(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))


def _check_template(template: Template, status: int, names: frozenset[str]) -> None:
    if status in REDIRECTS:
        return
    if not template.is_own:
        raise Unreadable(0, f"a path of this site for status {status}: there is no proxy here")
    if template.fragment:
        raise Unreadable(0, f"a path without # for status {status}: no browser would see it")
    if template.make_target(dict.fromkeys(names, b"x"), None) is None:
        raise Unreadable(0, "a path without encoded slashes and NUL, which no file can have")


def parse_headers(data: bytes, file: str) -> tuple[tuple[HeaderRule, ...], tuple[Problem, ...]]:
    """The rules of a `_headers` file, and what is wrong in it.

    A line that begins with a slash or as a URL begins a rule, indented or not; others are its fields.
    """
    lines, room = _Lines(data, file), _Room()
    # Each with the fields that it gets from the lines behind it.
    rules: list[tuple[HeaderRule, list[HeaderField]]] = []
    is_lost = False  # the rule, because its path is wrong: its fields are as well
    for line in lines:
        text = line.lstrip(" \t")
        offset = len(line) - len(text)
        try:
            if text.startswith("/") or re.match(r"(?i:https?)://", text):
                is_lost = True
                host, pattern = _at(offset, parse_pattern, text)
                room.take(pattern)
                rules.append((HeaderRule(lines.origin, host, pattern, ()), []))
                is_lost = False
            elif is_lost:
                continue
            elif rules:
                rule, fields = rules[-1]
                fields.append(_at(offset, _parse_field, text, rule.pattern))
            else:
                raise Unreadable(offset, "a path that begins with /, before its fields")
        except Unreadable as error:
            lines.report(error.offset, error.expected)
    whole = (rule._replace(fields=tuple(fields)) for rule, fields in rules if fields)
    return tuple(whole), tuple(lines.problems)


def _parse_field(text: str, pattern: Pattern) -> HeaderField:
    if text.startswith("!"):
        name = text[1:].strip(" \t")
        if problem := find_field_problem(name, None):
            raise Unreadable(len(text) - len(text[1:].lstrip(" \t")), problem)
        return name, None
    name, colon, value = text.partition(":")
    if not colon:
        raise Unreadable(len(text), "a colon and a value, behind the name of a field")
    name = name.rstrip(" \t")
    start = len(text) - len(value.lstrip(" \t"))
    value = value.strip(" \t")
    if not value:
        raise Unreadable(len(text), "a value; a field is removed by '! ' before its name")
    if problem := find_field_problem(name, value):
        is_value = find_field_problem(name, "") is None
        raise Unreadable(start if is_value else 0, problem)
    return name, _parse_value(value, pattern.names)


def _parse_value(value: str, names: frozenset[str]) -> tuple[tuple[str, str | None], ...]:
    """A value with placeholders of its path in it, as Cloudflare has them; any other colon is a colon."""
    pieces: list[tuple[str, str | None]] = []
    position = 0
    for match in _PLACEHOLDER.finditer(value):
        if match[1] in names:
            pieces.append((value[position : match.start()], match[1]))
            position = match.end()
    return (*pieces, (value[position:], None))


# ---- tables ----------------------------------------------------------------------------------------------


def read_redirect(table: object, origin: str, *, is_rewrite: bool = False) -> RedirectRule:
    """The rule that a table `from`, `to`, `status`, `force`, `query` says; a rewrite has status 200.

    Raises WrongTable.
    """
    keys = ("from", "to", "force", "query") if is_rewrite else ("from", "to", "status", "force", "query")
    table = _take_table(table, keys)
    source, target = _take(table, "from"), _take(table, "to")
    host, pattern = _read("from", source, parse_pattern, source)
    names = set(pattern.names)
    conditions = []
    query = table.get("query", {})
    if not isinstance(query, Mapping):
        raise WrongTable("query", query, 'a table of parameters, such as { id = ":id" }')
    for name, value in query.items():
        if not (isinstance(name, str) and name and isinstance(value, str)):
            raise WrongTable(f"query.{name}", value, 'a text, such as ":id"')
        conditions.append(_read(f"query.{name}", value, _make_condition, name, value, names, 0))
    status = 200 if is_rewrite else table.get("status", 301)
    if status not in (*REDIRECTS, *REWRITES) or not isinstance(status, int):
        raise WrongTable("status", status, _STATUSES)
    is_forced = table.get("force", False)
    if not isinstance(is_forced, bool):
        raise WrongTable("force", is_forced, "true or false")
    template = _read("to", target, parse_template, target, frozenset(names))
    _read("to", target, _check_template, template, status, frozenset(names))
    return RedirectRule(origin, host, pattern, tuple(conditions), template, status, is_forced)


def read_headers(table: object, origin: str) -> HeaderRule:
    """The rule that a table `for`, `values` says; false removes a field. Raises WrongTable."""
    table = _take_table(table, ("for", "values"))
    path = _take(table, "for")
    host, pattern = _read("for", path, parse_pattern, path)
    values = table.get("values")
    if not isinstance(values, Mapping) or not values:
        raise WrongTable("values", values, 'a table of fields, such as { X-Robots-Tag = "noindex" }')
    fields: list[HeaderField] = []
    for name, value in values.items():
        several = value if isinstance(value, (list, tuple)) and value else [value]
        for one in several:
            if not isinstance(name, str) or not (
                isinstance(one, str) or (one is False and len(several) == 1)
            ):
                raise WrongTable(
                    f"values.{name}", value, "a text, a list of texts, or false to remove the field"
                )
            one = one.strip(" \t") if isinstance(one, str) else None
            if problem := find_field_problem(name, one):
                raise WrongTable(f"values.{name}", value, problem)
            fields.append((name, None if one is None else _parse_value(one, pattern.names)))
    return HeaderRule(origin, host, pattern, tuple(fields))


def _take_table(table: object, keys: tuple[str, ...]) -> Mapping[object, object]:
    expected = "a table with " + ", ".join(keys)
    if not isinstance(table, Mapping):
        raise WrongTable("", table, expected)
    for key in table:
        if key not in keys:
            unsupported = key in ("conditions", "signed", "headers")
            reason = f"no {key}: it is not supported" if unsupported else f"no such key: {expected}"
            raise WrongTable(str(key), table[key], reason)
    return table


def _take(table: Mapping[object, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise WrongTable(key, value, "a text: a path or a URL")
    return value


def _read(key: str, value: object, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return parse(*args, **kwargs)
    except Unreadable as error:
        raise WrongTable(key, value, error.expected) from None
