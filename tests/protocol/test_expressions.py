"""The regular expressions of the room mean the same in every Python that is supported."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

from aioserve import protocol

# Parts of a group that match in more than one way: before Python 3.11.5, a possessive quantifier behind such
# a group does not try all of them.
_CHOICES = {"BRANCH", "MAX_REPEAT", "MIN_REPEAT"}


def find_expressions() -> Iterator[tuple[str, str | bytes]]:
    for module in pkgutil.iter_modules(protocol.__path__):
        for name, value in vars(importlib.import_module(f"{protocol.__name__}.{module.name}")).items():
            if isinstance(value, re.Pattern):
                yield f"{module.name}.{name}", value.pattern
            elif isinstance(value, str | bytes) and name.startswith("_") and not name.startswith("__"):
                yield f"{module.name}.{name}", value


def find_operations(node: object) -> Iterator[tuple[str, object]]:
    if isinstance(node, tuple) and node and hasattr(node[0], "name"):
        yield node[0].name, node[1:]
    children = node if isinstance(node, tuple | list) else getattr(node, "data", ())
    for child in children:
        yield from find_operations(child)


def list_choices_under_a_possessive_quantifier(expression: str | bytes) -> list[str]:
    return [
        name
        for operation, arguments in find_operations(re._parser.parse(expression))  # type: ignore[attr-defined]
        if operation == "POSSESSIVE_REPEAT"
        for name, _ in find_operations(arguments)
        if name in _CHOICES
    ]


@pytest.mark.parametrize(
    ("expression", "choices"),
    [
        (r"(?:a|bc)*+", ["BRANCH"]),
        (r"(?:ab?)++", ["MAX_REPEAT"]),
        (r"(?:a++:[b-d]*+\r\n)*+", []),
        (r"(?:a|bc)*", []),
    ],
)
def test_a_choice_under_a_possessive_quantifier_is_found(expression: str, choices: list[str]) -> None:
    assert list_choices_under_a_possessive_quantifier(expression) == choices


def test_no_group_with_a_choice_has_a_possessive_quantifier() -> None:
    expressions = dict(find_expressions())

    assert "http1._CHUNK_LINE" in expressions
    assert [
        name for name, text in expressions.items() if list_choices_under_a_possessive_quantifier(text)
    ] == []
