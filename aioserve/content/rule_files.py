"""Which rules a site has: those of its `_redirects` and `_headers`, before those of the configuration.

The files are read at the start, and again when they have changed. What they say is for `protocol/rules`,
which is loaded when there is a first rule; sites without one pay for a look at two names each second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aioserve.content.disk import Busy, Disk
from aioserve.content.files import Files, Refused

if TYPE_CHECKING:
    from aioserve.content.cache import Version
    from aioserve.protocol.rule_syntax import Problem
    from aioserve.protocol.rules import HeaderRule, RedirectRule, Rules

_logger = logging.getLogger("aioserve")

REDIRECTS_NAME = b"_redirects"
HEADERS_NAME = b"_headers"
RULE_NAMES = (REDIRECTS_NAME, HEADERS_NAME)

# Thousands of rules. What is longer is something else, and would be read whole.
MAX_BYTES = 1 << 20


class _Read(NamedTuple):
    """What a file said when it was read. `data` is None when there was none."""

    data: bytes | None
    version: Version | None
    rules: tuple[RedirectRule, ...] | tuple[HeaderRule, ...] = ()
    problems: tuple[Problem, ...] = ()


_ABSENT = _Read(None, None)


class RuleFiles:
    """The rules of one site: `rules` is another value after a change, None while there are none.

    `redirects` and `headers` are those of the configuration. Without `reads` there are no files of rules, and
    files of these names are like others.
    """

    def __init__(
        self,
        files: Files,
        disk: Disk,
        *,
        redirects: Sequence[RedirectRule] = (),
        headers: Sequence[HeaderRule] = (),
        reads: bool = True,
    ) -> None:
        self._files = files
        self._disk = disk
        self._redirects = tuple(redirects)
        self._headers = tuple(headers)
        self._names = RULE_NAMES if reads and files.only_name is None else ()
        self._read: dict[bytes, _Read] = dict.fromkeys(RULE_NAMES, _ABSENT)
        self._is_unreadable = False
        self.rules: Rules | None = None
        self._make_rules()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong in the files, and therefore left out."""
        return tuple(problem for name in self._names for problem in self._read[name].problems)

    def load(self) -> None:
        """Reads the files for the first time. It waits, so it belongs into a thread."""
        for name in self._names:
            try:
                self._take(name, self._read_file(name))
            except Refused:
                self._take(name, _refuse(name, "a file that can be read"))
                self._is_unreadable = True
        self._make_rules()

    def may_have_changed(self) -> bool:
        """Whether a look at the names, without waiting, finds anything but what was read."""
        try:
            return any(not self._is_as_read(name) for name in self._names)
        except BlockingIOError:
            return True

    def _is_as_read(self, name: bytes) -> bool:
        read, version = self._read[name], self._files.look_at_name(name)
        return read.data is None and not read.problems if version is None else version == read.version

    async def refresh(self) -> bool:
        """Reads again what has changed; True when `rules` are others now.

        While a file cannot be read, what it said before holds.
        """
        before = self.rules
        for name in self._names:
            try:
                # The name is the key: one thread at a time is enough for it.
                read = await self._disk.run(name, partial(self._read_again, name), queue_s=None)
            except (Busy, Refused):
                if not self._is_unreadable:
                    _logger.warning("%s cannot be read: what it said before holds", name.decode())
                self._is_unreadable = True
                return False
            if read.data != self._read[name].data:
                self._take(name, read)
                self._make_rules()
            else:
                self._read[name] = read
        self._is_unreadable = False
        return self.rules is not before

    def _take(self, name: bytes, read: _Read) -> None:
        self._read[name] = read
        for problem in read.problems:
            _logger.warning("%s; left out", problem)

    def _make_rules(self) -> None:
        redirects = (*self._read[REDIRECTS_NAME].rules, *self._redirects)
        headers = (*self._read[HEADERS_NAME].rules, *self._headers)
        if not redirects and not headers:
            self.rules = None
            return
        from aioserve.protocol.rules import Rules

        self.rules = Rules(redirects, headers)

    # In a thread.

    def _read_again(self, name: bytes) -> _Read:
        self._files.load()
        return self._read_file(name)

    def _read_file(self, name: bytes) -> _Read:
        """What the file says now: what was read before, when it has not changed. Raises Refused."""
        before = self._read[name]
        named = self._files.read_named(name, before.version, MAX_BYTES)
        if named is None:
            return _ABSENT
        if named.data is None:
            return before
        if named.data == before.data:
            return before._replace(version=named.version)
        if len(named.data) > MAX_BYTES:
            return _refuse(name, f"{MAX_BYTES} bytes at most")._replace(
                version=named.version, data=named.data
            )
        from aioserve.protocol.rule_syntax import parse_headers, parse_redirects

        parse = parse_redirects if name == REDIRECTS_NAME else parse_headers
        rules, problems = parse(named.data, name.decode())
        return _Read(named.data, named.version, rules, problems)


def _refuse(name: bytes, expected: str) -> _Read:
    from aioserve.protocol.rule_syntax import Problem

    return _Read(None, None, (), (Problem(name.decode(), 1, 1, expected),))
