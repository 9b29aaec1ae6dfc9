"""Random trees, asked for by random targets over real sockets: each answer is the one that a model expects.

The model knows the tree as it was made and follows names and links by itself. It never asks the disk, and
what is outside of the root does not exist for it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, assert_never
from urllib.parse import quote_from_bytes, unquote_to_bytes, urljoin

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aioserve import Server
from tests.raw_client import Answer, RawClient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names are not any bytes")


class Folder(NamedTuple):
    pass


class File(NamedTuple):
    """Its content says where it stands, and goes on up to a size."""

    size_bytes: int


class Fifo(NamedTuple):
    """Nobody writes to it: who opens it to read may wait for ever."""


class Link(NamedTuple):
    """Its text; an absolute one may begin with BASE, which stands for the folder around the root."""

    text: bytes


Node = Folder | File | Fifo | Link

# By paths: b"" is the root, b"/a/b" is b in a, which stands before it.
Tree = dict[bytes, Node]

BASE = b"/BASE"
ROOT = BASE + b"/root"

# Beside the root stand the same files and folders. Nothing of that may be seen, nor decide what is found.
OUTSIDE = b"OUTSIDE"
BESIDE = [b"", b"/outside", b"/root-private"]


class Request(NamedTuple):
    target: bytes
    method: str


class Expected(NamedTuple):
    """`body` is that of a GET, None when anything will do; `names` are those that a redirect leads to."""

    status: int
    body: bytes | None = None
    names: tuple[bytes, ...] = ()


class Model:
    """What a site of `tree` answers."""

    def __init__(self, tree: Tree, *, follows_links: bool, shows_hidden: bool) -> None:
        self._tree = tree
        self._follows_links = follows_links
        self._shows_hidden = shows_hidden

    def expect(self, target: bytes) -> Expected:
        read = read_target(target)
        if read is None:
            return Expected(400)
        names, is_folder = read
        match self._find((*names, b"index.html") if is_folder else names):
            case (path, File() as file):
                return Expected(200, make_content(path, file))
            case (_, Folder()) if not is_folder:
                return Expected(308, b"", names)
        match self._find((b"404.html",)):
            case (path, File() as file):
                return Expected(404, make_content(path, file))
        return Expected(404, b"----Not found----")

    def _find(self, names: tuple[bytes, ...]) -> tuple[bytes, Node] | None:
        """What has that name, all links followed, and its path; None when nothing there may be served."""
        checked = names[1:] if names[0] == b".well-known" else names
        if not self._shows_hidden and any(name.startswith(b".") for name in checked):
            return None
        here, ahead, links = b"", [*names], 0
        while ahead:
            name = ahead.pop(0)
            if not isinstance(self._tree[here], Folder):
                return None
            if name in (b"", b"."):
                continue
            if name == b"..":
                if not here:
                    return None
                here = here.rpartition(b"/")[0]
                continue
            node = self._tree.get(here + b"/" + name)
            if node is None:
                return None
            if not isinstance(node, Link):
                here += b"/" + name
                continue
            links += 1
            text = node.text
            if links > 40 or not self._follows_links:
                return None
            if text.startswith(b"/"):
                if text != ROOT and not text.startswith(ROOT + b"/"):
                    return None
                here, text = b"", text.removeprefix(ROOT)
            ahead = text.split(b"/") + ahead
        return here, self._tree[here]


def read_target(target: bytes) -> tuple[tuple[bytes, ...], bool] | None:
    """The names of a target and whether it ends like a folder; None when it has to be refused."""
    path = target.removeprefix(b"http://localhost").partition(b"?")[0]
    if b"#" in target or re.search(rb"%(?![0-9A-Fa-f]{2})|%2[Ff]|%00", path):
        return None
    names: list[bytes] = []
    name = b""
    for name in map(unquote_to_bytes, path.split(b"/")):
        if name == b"..":
            names = names[:-1]
        elif name not in (b"", b"."):
            names.append(name)
    return tuple(names), name in (b"", b".", b"..")


def make_content(path: bytes, file: File) -> bytes:
    line = path + b"\n"
    return (line * (file.size_bytes // len(line) + 1))[: max(file.size_bytes, len(line))]


def plant(base: bytes, tree: Tree) -> None:
    """Makes the tree, and what stands beside it, in the empty folder `base`."""
    for path, node in tree.items():
        place = base + b"/root" + path
        match node:
            case Folder():
                for folder in (place, *(base + beside + path for beside in BESIDE)):
                    os.makedirs(folder, exist_ok=True)
            case File():
                write(place, make_content(path, node))
                for beside in BESIDE:
                    write(base + beside + path, OUTSIDE)
            case Fifo():
                os.mkfifo(place)
            case Link(text):
                os.symlink(base + text.removeprefix(BASE) if text.startswith(BASE) else text, place)
            case _:
                assert_never(node)
    os.symlink(b"../root", base + b"/outside/back")


def write(path: bytes, content: bytes) -> None:
    Path(os.fsdecode(path)).write_bytes(content)


T = TypeVar("T")


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return st.sampled_from([usual, usual, usual, other]).flatmap(lambda chosen: chosen)


# --- trees ---

# Few, so that links and targets often meet them; and now and then any byte.
KNOWN_NAMES = [
    b"a", b"b", b"c d", b"A", b"%41", b"%2e%2e", b"a\\..\\b", b"?#;", b"\xff\xfe", "ü".encode(),
    b"...", b".hidden", b".well-known", b"index.html", b"404.html",
]  # fmt: skip
NAMES = KNOWN_NAMES * 50 + [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
names = st.sampled_from(NAMES)

pieces = names | st.sampled_from([b"..", b".", b""])

# UP stands for the way from a link to the root.
UP = b"/UP/"
link_starts = mostly(
    st.sampled_from([UP, ROOT + b"/"]),
    st.sampled_from([
        b"", b"../", UP + b"../", UP + b"../outside/", UP + b"../outside/back/", UP + b"../root/",
        UP + b"../root-private/", ROOT, ROOT + b"/../root/", ROOT + b"-private/", BASE + b"/outside/",
        b"/", b"/dev/", b"/proc/self/root/",
    ]),
)  # fmt: skip


def put(tree: Tree, entries: Sequence[tuple[int, bytes, Node]]) -> Tree:
    """The tree with more nodes, each in one of the folders that are there before it."""
    tree = dict(tree)
    for number, name, node in entries:
        folders = [path for path, node in tree.items() if isinstance(node, Folder)]
        folder = folders[number % len(folders)]
        if isinstance(node, Link):
            node = Link(node.text.replace(UP, b"../" * folder.count(b"/")) or b".")
        tree.setdefault(folder + b"/" + name, node)
    return tree


def paths_in(tree: Tree) -> st.SearchStrategy[list[bytes]]:
    """The names that lead to what is in the tree, the root included."""
    return st.sampled_from([path.split(b"/")[1:] for path in tree])


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    pages = draw(st.lists(st.sampled_from([b"index.html", b"404.html"]), unique=True))
    tree = put({b"": Folder()}, [(0, name, File(0)) for name in pages])

    places = st.integers(0, 20)
    files = st.builds(File, st.sampled_from([0, 0, 0, 1000, 100_000]))
    nodes: st.SearchStrategy[Node] = mostly(files | st.builds(Folder), st.builds(Fifo))
    tree = put(tree, draw(st.lists(st.tuples(places, names, nodes), min_size=5, max_size=20)))

    for _ in range(2):  # the second ones may lead to the first
        links = st.builds(
            lambda start, path, more: Link(start + b"/".join([*path, *more])),
            link_starts,
            paths_in(tree),
            mostly(st.just([]), st.lists(pieces, max_size=2)),
        )
        tree = put(tree, draw(st.lists(st.tuples(places, names, links), min_size=2, max_size=5)))
    return tree


# --- targets ---


def encode_needful(name: bytes) -> bytes:
    return quote_from_bytes(name, safe="!\"$&'()*+,:;<=>@[\\]^`{|}~").encode()


def encode_usual(name: bytes) -> bytes:
    return quote_from_bytes(name, safe="").encode()


def encode_all(name: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in name)


encodings = st.sampled_from([encode_needful, encode_usual, encode_all])
starts = st.sampled_from([
    *[b"/"] * 8, b"//", b"/./", b"/../../", b"/%2e%2e/", b"//localhost/../", b"http://localhost/",
])  # fmt: skip
ends = st.sampled_from([
    *[b""] * 10, b"/", b"/", b"/", b"/.", b"/%2E", b"?", b"?a=/../a%", b"/?a", b"#a",
])  # fmt: skip
noise = st.sampled_from([
    b"", b".", b"..", b"%2e", b"%2E%2e", b".%2e", b"..%2f..", b"..%5c..", b"..\\..", b"..;", b"%252e%252e",
    b"%c0%ae%c0%ae", b"%00", b"a%00", b"%", b"%zz", b"%e", b"outside", b"root", b"root-private", b"~", b"*",
])  # fmt: skip
wild_targets = st.text("/.%02eEfF5cC\\ab?:@", max_size=20).map(lambda text: b"/" + text.encode())


def write_target(
    start: bytes,
    path: Sequence[bytes],
    more: Sequence[bytes],
    encode: Callable[[bytes], bytes],
    noises: Sequence[tuple[int, bytes]],
    end: bytes,
) -> bytes:
    parts = [encode(name) for name in (*path, *more)]
    for position, piece in noises:
        parts.insert(position % (len(parts) + 1), piece)
    return start + b"/".join(parts) + end


def targets_in(tree: Tree) -> st.SearchStrategy[bytes]:
    """Targets most of which mean something in the tree."""
    written = st.builds(
        write_target,
        starts,
        paths_in(tree),
        mostly(st.just([]), st.lists(names, max_size=2) | paths_in(tree)),
        encodings,
        mostly(st.just([]), st.lists(st.tuples(st.integers(0, 5), noise), max_size=2)),
        ends,
    )
    return mostly(written, wild_targets)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tree, list[Request]]:
    tree = draw(trees())
    methods = st.sampled_from(["GET", "GET", "GET", "HEAD"])
    requests = st.builds(Request, targets_in(tree), methods)
    return tree, draw(st.lists(requests, min_size=10, max_size=20))


# --- what is promised ---

EVERYTHING: Tree = {
    b"": Folder(),
    b"/index.html": File(0),
    b"/c d": Folder(),
    b"/c d/%41": File(0),
    b"/c d/\xff\xfe": File(100_000),
    b"/c d/\xc3\xbc": Folder(),
    b"/c d/\xc3\xbc/index.html": Link(b"../%41"),
    b"/.hidden": Folder(),
    b"/.hidden/index.html": File(0),
    b"/.well-known": Folder(),
    b"/.well-known/a": File(0),
    b"/fifo": Fifo(),
    b"/to-fifo": Link(b"fifo"),
    b"/inside": Link(b"c d"),
    b"/absolute": Link(ROOT + b"/c d/%41"),
    b"/out": Link(b"../outside"),
    b"/out-file": Link(BASE + b"/a"),
    b"/out-and-back": Link(b"../outside/back/index.html"),
    b"/loop": Link(b"loop"),
    b"/circle": Link(b"c d/../circle-2"),
    b"/circle-2": Link(b"circle"),
    b"/404.html": Link(b"inside/%41"),
}
ENDS = [
    b"", b"/", b"/a", b"/index.html", b"/%2541", b"/%FF%FE", b"/%C3%BC", b"/%C3%BC/", b"/../a", b"/%2e%2e",
]  # fmt: skip
ABOUT_EVERYTHING = [
    Request(b"/" + encode_usual(path[1:]) + end, "GET")
    for path in (*EVERYTHING, b"/nothing")
    if path.count(b"/") == 1
    for end in ENDS
]


async def ask_all(port: int, requests: Sequence[Request]) -> list[Answer]:
    """One after the other, on as few connections as the server lets them be."""
    answers: list[Answer] = []
    while len(answers) < len(requests):
        async with RawClient(port) as client:
            for target, method in requests[len(answers) :]:
                head = b"%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method.encode(), target)
                answers.append(await client.ask(head, method))
                if "connection" in answers[-1].fields:
                    break
    return answers


def check(answer: Answer, request: Request, expected: Expected) -> None:
    assert OUTSIDE not in answer.head + answer.body, request
    assert answer.status == expected.status, request
    if expected.body is not None:
        assert answer.body == (expected.body if request.method == "GET" else b""), request
        assert answer.fields["content-length"] == str(len(expected.body)), request
    if expected.status == 308:
        target, location = request.target.decode(), answer.fields["location"]
        assert location.partition("?")[1:] == target.partition("?")[1:]
        url = urljoin("http://localhost" + target.removeprefix("http://localhost"), location)
        assert url.startswith("http://localhost/")
        assert read_target(url.encode()) == (expected.names, True)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(scenes(), st.sampled_from(["inside", "inside", "none"]), st.booleans())
@example((EVERYTHING, ABOUT_EVERYTHING), "inside", False)
@example((EVERYTHING, ABOUT_EVERYTHING), "none", True)
def test_each_target_gets_its_file_below_the_root_or_an_error(
    scene: tuple[Tree, list[Request]], symlinks: str, hidden: bool
) -> None:
    tree, requests = scene
    model = Model(tree, follows_links=symlinks == "inside", shows_hidden=hidden)

    async def serve_and_ask(root: bytes) -> list[Answer]:
        async with Server(os.fsdecode(root), symlinks=symlinks, hidden=hidden) as server:
            return await ask_all(server.port, requests)

    with tempfile.TemporaryDirectory() as name:
        base = os.path.realpath(os.fsencode(name))
        plant(base, tree)
        answers = asyncio.run(serve_and_ask(base + b"/root"))

    for request, answer in zip(requests, answers, strict=True):
        check(answer, request, model.expect(request.target))
