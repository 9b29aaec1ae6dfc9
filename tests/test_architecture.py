"""What a program can check of what is written about this one.

The rules of ARCHITECTURE.md: who imports whom, what a room lacks, the map; and the list of failures.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import failures

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "aioserve"

# What each room, and each module that stands outside of them, may import of the package. "" is the door.
MAY_IMPORT = {
    "": {"config", "network"},
    "__main__": {"cli"},
    "cli": {"", "console", "config", "network", "content"},
    "console": {"", "config", "network"},
    "config": {"protocol"},  # which knows what a rule is
    "network": {"network", "content", "protocol"},
    "content": {"content", "protocol"},
    "protocol": {"protocol"},
}

# These make values for the rooms out of the options.
SEE_CONFIG = {"network.server", "network.workers"}

# What waits, opens, logs, or asks for the time.
FORBIDDEN_IN_PROTOCOL = {"os", "io", "socket", "ssl", "asyncio", "time", "logging"}

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "types", "constants", "errors", "misc"}

PATHS = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
    for path in PATHS
}


def read(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_bytes())


def find_room(module: str) -> str:
    return module.partition(".")[0]


PROTOCOL = [module for module in MODULES if find_room(module) == "protocol"]


def find_imports(module: str) -> Iterator[str]:
    """The absolute names of all that a module imports, wherever in it and under whatever condition."""
    for node in ast.walk(read(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            # `from package import module` imports the module, `from module import name` does not.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("aioserve.") in MODULES else node.module


def find_own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports, without the package's name; "" is the door."""
    names = {name for name in find_imports(module) if name.partition(".")[0] == "aioserve"}
    return {name.removeprefix("aioserve").removeprefix(".") for name in names}


class TestDirectionOfImports:
    """cli → console → config, network → content → protocol → the standard library; never back.

    The command that compresses files knows content as well.
    """

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_imports_only_what_its_room_may(self, module: str) -> None:
        allowed = set(MAY_IMPORT[find_room(module)])
        if module in SEE_CONFIG:
            allowed.add("config")

        assert {find_room(imported) for imported in find_own_imports(module)} <= allowed

    @pytest.mark.parametrize("module", MODULES)
    def test_what_is_imported_of_the_package_exists(self, module: str) -> None:
        assert find_own_imports(module) <= set(MODULES)

    @pytest.mark.parametrize("module", MODULES)
    def test_no_module_imports_itself_by_a_detour(self, module: str) -> None:
        reached: set[str] = set()
        waiting = find_own_imports(module)
        while waiting:
            reached |= waiting
            waiting = {far for near in waiting for far in find_own_imports(near)} - reached

        # The door imports the server for type checkers alone, and the command imports the door.
        assert module not in reached

    def test_every_room_is_known(self) -> None:
        assert {find_room(module) for module in MODULES} <= set(MAY_IMPORT)


class TestProtocol:
    """It never awaits, opens, logs, or asks for the time."""

    @pytest.mark.parametrize("module", PROTOCOL)
    def test_it_imports_the_standard_library_and_itself(self, module: str) -> None:
        roots = {name.partition(".")[0] for name in find_imports(module)} - {"aioserve"}

        assert roots <= sys.stdlib_module_names
        assert not roots & FORBIDDEN_IN_PROTOCOL

    @pytest.mark.parametrize("module", PROTOCOL)
    def test_it_is_not_asynchronous(self, module: str) -> None:
        asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

        assert [node for node in ast.walk(read(module)) if isinstance(node, asynchronous)] == []

    @pytest.mark.parametrize("module", PROTOCOL)
    def test_it_opens_and_prints_nothing(self, module: str) -> None:
        names = {node.id for node in ast.walk(read(module)) if isinstance(node, ast.Name)}

        assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


class TestNames:
    """A thing lives with the file whose question it answers, and the name of a file says where it is."""

    def test_no_two_files_of_the_package_have_the_same_name(self) -> None:
        names = [path.name for path in PATHS if path.name != "__init__.py"]

        assert sorted(set(names)) == sorted(names)

    def test_no_file_is_named_for_what_belongs_nowhere(self) -> None:
        assert not {path.stem.strip("_") for path in PATHS} & FORBIDDEN_NAMES
        assert not {path.parent.name for path in PATHS} & FORBIDDEN_NAMES

    @pytest.mark.parametrize(
        "path",
        [
            pytest.param(path, id=path.parent.name)
            for path in PATHS
            if path.stem == "__init__" and path.parent != PACKAGE
        ],
    )
    def test_a_room_has_no_door_of_its_own(self, path: Path) -> None:
        (only,) = ast.parse(path.read_bytes()).body

        assert isinstance(only, ast.Expr)
        assert isinstance(only.value, ast.Constant)


def find_catchers(module: str) -> int:
    """How many places of a module catch Exception, or everything without a name."""

    def names_exception(node: ast.expr | None) -> bool:
        if isinstance(node, ast.Tuple):
            return any(map(names_exception, node.elts))
        return node is None or (isinstance(node, ast.Name) and node.id == "Exception")

    count = 0
    for node in ast.walk(read(module)):
        if isinstance(node, ast.ExceptHandler):
            count += names_exception(node.type)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            count += any(map(names_exception, node.args))
    return count


def test_every_exception_is_caught_around_the_coroutine_and_where_data_arrives_alone() -> None:
    found = {module: count for module in MODULES if (count := find_catchers(module))}

    assert found == {"network.connection": 2}


IMPORT_EVERYTHING = """
import importlib, logging, os, signal, sys, threading

class Watched(type(os.environ)):
    def __getitem__(self, name):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] in ("os", "collections.abc"):
            frame = frame.f_back
        assert not frame.f_globals["__name__"].startswith("aioserve"), f"{name} is read from the environment"
        return super().__getitem__(name)

def find_handlers():
    return [signal.getsignal(number) for number in sorted(signal.valid_signals())]

os.environ.__class__ = Watched
handlers = find_handlers()
for module in sys.argv[1:]:
    importlib.import_module(module)
assert find_handlers() == handlers
assert threading.active_count() == 1, threading.enumerate()
for name in ("", "aioserve", "aioserve.access", "asyncio"):
    logger = logging.getLogger(name)
    assert logger.handlers == [], name
    assert logger.level == (logging.NOTSET if name else logging.WARNING), name
"""


def test_importing_all_of_the_package_starts_nothing_and_configures_nothing() -> None:
    modules = [f"aioserve.{module}".removesuffix(".") for module in MODULES if module != "__main__"]

    subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING, *modules], cwd=PROJECT, check=True)


def find_mapped_files(text: str) -> set[str]:
    """The files that the map of ARCHITECTURE.md names, as paths in the package."""
    section = text.partition("\n## Map\n")[2].partition("\n## ")[0]
    files, room = set(), ""
    for line in section.splitlines():
        match = re.match(r"(?P<branch>[│├└─ ]*)(?P<name>[\w.]+)(?P<slash>/?)(?:\s|$)", line)
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        if depth == 1:
            room = match["name"] + "/" if match["slash"] else ""
        if match["name"].endswith(".py"):
            files.add(room + match["name"])
    return files


def test_the_map_names_every_file_and_no_other() -> None:
    # The rooms' own __init__.py hold nothing but a sentence.
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PATHS
        if path.parent == PACKAGE or path.stem != "__init__"
    }

    assert find_mapped_files((PROJECT / "ARCHITECTURE.md").read_text("utf-8")) == files


FAILURES = PROJECT / "tests" / "failures"
LISTED = [line for line in (failures.__doc__ or "").splitlines() if line.startswith("    ")]
NAMED = [
    (match["file"], match["name"])
    for line in LISTED
    for match in re.finditer(r"(?P<file>[\w/]+\.py)(?: (?P<name>\w+))?", line)
]


def find_classes(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef)}


class TestListOfFailures:
    """What tests/failures/__init__.py says of the tests."""

    def test_each_failure_has_a_test(self) -> None:
        assert LISTED
        assert [line for line in LISTED if not re.fullmatch(r" {4}\S.* {2}[\w/]+\.py[\w/., ]*", line)] == []

    @pytest.mark.parametrize(("file", "name"), dict.fromkeys(NAMED))
    def test_each_test_exists(self, file: str, name: str | None) -> None:
        found = [folder / file for folder in (FAILURES, FAILURES.parent, PROJECT) if (folder / file).exists()]

        assert found
        assert name is None or name in find_classes(found[0])

    def test_each_class_of_the_folder_is_listed(self) -> None:
        classes = {(path.name, name) for path in FAILURES.glob("test_*.py") for name in find_classes(path)}

        assert classes <= set(NAMED)
