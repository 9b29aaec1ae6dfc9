"""Random edits of a site between requests: each answer is of what the names lead to at that moment.

The server runs in this process, with its cache on, and its clients come over real sockets. Nothing is changed
while a request is under way, so a model knows the one right answer: never an old byte, never the ETag of
another content, never a 304 for what has changed.

Two spans are shorter here than they are. A file is kept when it has not been changed for 20 ms instead of
2 s: that is still more than the step of the clocks of Linux's own file systems (a jiffy, at most 10 ms), so
what is changed after it was kept has another time, as the 2 s promise it for the coarser clocks of others.
And the name of the root is looked up again each 20 ms instead of each second, so that a switch of it can be
waited for.

Left out is what no look at a file can tell: contents that are written twice within a step of the clock (the
model gives each content of one size a time of its own; tests/content/test_files.py has the new files that are
not kept), and writes through shared memory mappings, for which the kernel sets no time at all.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aioserve import Server
from aioserve.content import files as files_module
from aioserve.content.cache import Absent, Kept
from aioserve.content.files import Files
from aioserve.network.shortcuts import Shortcuts
from aioserve.protocol.conditional import format_hash_etag
from tests.content.conftest import needs_at_once, without_privileges
from tests.failures.churn import exchange
from tests.raw_client import Answer, RawClient

pytestmark = needs_at_once  # which has RENAME_EXCHANGE as well

STEP_S = 0.02

# More than what is kept with its content.
LARGE_BYTES = 200_000

NOBODY = 65534

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


# --- the model ---


class File:
    """What it holds, and the ETag that belongs to it. It may have several names."""

    def __init__(self) -> None:
        self.content = b""
        self.tag = ""
        self.is_readable = True


class Folder:
    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}


class Link(NamedTuple):
    text: str


Node = File | Folder | Link


class Expected(NamedTuple):
    status: int
    content: bytes = b""
    tag: str | None = None


class World:
    """A folder with two releases of a site, a link to one of them, and what is outside; on the disk and as a
    model of it. An edit that cannot be done changes nothing."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.top = Folder()
        self._numbers = 0
        self._tags: dict[str, bytes] = {}
        self.is_switched = False
        for release in ("one", "two", "outside"):
            for folder in (release, f"{release}/folder", f"{release}/other"):
                self.make_folder(folder)
                for name in ("a.txt", "index.html"):
                    self.create(f"{folder}/{name}", 500)
            self.create(f"{release}/large", LARGE_BYTES)
            self.link(f"{release}/to-other", "other")
            self.link(f"{release}/to-outside", "../outside/folder")
            self.link(f"{release}/other/up", "../a.txt")
        self.link("current", "one")

    # What is where.

    def find(self, path: str) -> Node | None:
        """What has that name, no link followed."""
        node: Node | None = self.top
        for name in path.split("/"):
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node

    def _find_parent(self, path: str) -> tuple[Folder, str] | None:
        parent, _, name = path.rpartition("/")
        folder = self.find(parent) if parent else self.top
        return (folder, name) if isinstance(folder, Folder) else None

    def _find_free(self, path: str) -> tuple[Folder, str] | None:
        place = self._find_parent(path)
        return None if place is None or place[1] in place[0].entries else place

    def expect(self, target: str) -> Expected:
        names = target.split("/")[1:]
        is_folder = names[-1] == ""
        match self._follow([*names[:-1], "index.html"] if is_folder else names):
            case File(is_readable=False):
                return Expected(403)
            case File() as file:
                return Expected(200, file.content, file.tag)
            case Folder() if not is_folder:
                return Expected(308)
        return Expected(404, b"----Not found----")

    def _follow(self, ahead: list[str]) -> Node | None:
        """What a name below the root leads to, links inside followed."""
        current = self.find("current")
        assert isinstance(current, Link)
        entered = [self.top.entries[current.text]]
        links = 0
        while ahead:
            here, name, ahead = entered[-1], ahead[0], ahead[1:]
            if not isinstance(here, Folder):
                return None
            if name == "..":
                entered.pop()
                if not entered:
                    return None
                continue
            node = here.entries.get(name)
            if isinstance(node, Link):
                links += 1
                if links > 40:
                    return None
                ahead = node.text.split("/") + ahead
            elif node is None:
                return None
            else:
                entered.append(node)
        return entered[-1]

    # Edits of contents.

    def _make_content(self, size_bytes: int) -> bytes:
        self._numbers += 1
        return (b"%07d\n" % self._numbers * (size_bytes // 8 + 1))[:size_bytes]

    def _note(self, path: Path, file: File, content: bytes) -> None:
        """The file has got that content: what its ETag is now, by docs/decisions/0007."""
        file.content = content
        while True:
            status = path.stat()
            file.tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if self._tags.setdefault(file.tag, content) == content:
                return
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 1))

    def _find_writable(self, path: str) -> File | None:
        file = self.find(path)
        return file if isinstance(file, File) and file.is_readable else None

    def rewrite(self, path: str) -> None:
        """In place, as long as before."""
        file = self._find_writable(path)
        if file is not None:
            content = self._make_content(len(file.content))
            with (self.base / path).open("r+b") as opened:
                opened.write(content)
            self._note(self.base / path, file, content)

    def rewrite_with_its_time(self, path: str) -> None:
        """The same, and the time of modification is set back to what it was: its ETag stays."""
        file = self._find_writable(path)
        if file is not None:
            file.content = self._make_content(len(file.content))
            status = (self.base / path).stat()
            (self.base / path).write_bytes(file.content)
            os.utime(self.base / path, ns=(status.st_atime_ns, status.st_mtime_ns))
            self._tags[file.tag] = file.content

    def append(self, path: str) -> None:
        file = self._find_writable(path)
        if file is not None and len(file.content) < 1_000_000:
            more = self._make_content(64)
            with (self.base / path).open("ab") as opened:
                opened.write(more)
            self._note(self.base / path, file, file.content + more)

    def truncate(self, path: str) -> None:
        file = self._find_writable(path)
        if file is not None and len(file.content) >= 16:
            content = file.content[: len(file.content) // 2]
            os.truncate(self.base / path, len(content))
            self._note(self.base / path, file, content)

    def touch(self, path: str) -> None:
        """Another time of modification, an hour ago."""
        file = self._find_writable(path)
        if file is not None:
            status = (self.base / path).stat()
            os.utime(self.base / path, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))
            self._note(self.base / path, file, file.content)

    def create(self, path: str, size_bytes: int) -> None:
        place = self._find_free(path)
        if place is not None:
            content, file = self._make_content(size_bytes), File()
            (self.base / path).write_bytes(content)
            self._note(self.base / path, file, content)
            place[0].entries[place[1]] = file

    def replace(self, path: str, size_bytes: int, is_old: bool) -> None:
        """By rename; with `is_old`, by a file that was made a day ago."""
        place = self._find_parent(path)
        if place is not None and isinstance(self.find(path), File):
            content, file, new = self._make_content(size_bytes), File(), self.base / "new"
            new.write_bytes(content)
            if is_old:
                status = new.stat()
                os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns - 86400 * 10**9))
            self._note(new, file, content)
            new.rename(self.base / path)
            place[0].entries[place[1]] = file

    def replace_by_same_size(self, path: str) -> None:
        file = self.find(path)
        if isinstance(file, File):
            self.replace(path, len(file.content), is_old=False)

    # Edits of names.

    def make_folder(self, path: str) -> None:
        place = self._find_free(path)
        if place is not None:
            (self.base / path).mkdir()
            place[0].entries[place[1]] = Folder()

    def link(self, path: str, text: str) -> None:
        place = self._find_free(path)
        if place is not None:
            (self.base / path).symlink_to(text)
            place[0].entries[place[1]] = Link(text)

    def delete(self, path: str) -> None:
        place = self._find_parent(path)
        if place is not None and isinstance(self.find(path), File | Link):
            (self.base / path).unlink()
            del place[0].entries[place[1]]

    def change_mode(self, path: str) -> None:
        file = self.find(path)
        if isinstance(file, File):
            file.is_readable = not file.is_readable
            (self.base / path).chmod(0o644 if file.is_readable else 0)

    def add_name(self, path: str, other: str) -> None:
        """A hard link."""
        file, place = self.find(path), self._find_free(other)
        if isinstance(file, File) and file.is_readable and place is not None:
            os.link(self.base / path, self.base / other)
            place[0].entries[place[1]] = file

    def move(self, path: str, other: str) -> None:
        node, place, free = self.find(path), self._find_parent(path), self._find_free(other)
        if (
            node is not None
            and place is not None
            and free is not None
            and not f"{other}/".startswith(f"{path}/")
        ):
            (self.base / path).rename(self.base / other)
            del place[0].entries[place[1]]
            free[0].entries[free[1]] = node

    def exchange(self, path: str, other: str) -> None:
        if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/"):
            return
        node, other_node = self.find(path), self.find(other)
        place, other_place = self._find_parent(path), self._find_parent(other)
        if node is not None and other_node is not None and place is not None and other_place is not None:
            if node is other_node:
                return
            exchange(self.base / path, self.base / other)
            place[0].entries[place[1]] = other_node
            other_place[0].entries[other_place[1]] = node

    def put_aside(self, path: str, aside: str) -> None:
        """Moves it there and leaves a link to it in its place."""
        if not f"{aside}/".startswith(f"{path}/") and self._find_free(aside) is not None:
            self.move(path, aside)
            self.link(path, "../" * path.count("/") + aside)

    def put_back(self, path: str, aside: str) -> None:
        if isinstance(self.find(path), Link) and self.find(aside) is not None:
            self.delete(path)
            self.move(aside, path)

    def switch(self) -> None:
        """A deploy: the root is another release."""
        current = self.find("current")
        assert isinstance(current, Link)
        text = "two" if current.text == "one" else "one"
        (self.base / "new").symlink_to(text)
        (self.base / "new").rename(self.base / "current")
        self.top.entries["current"] = Link(text)
        self.is_switched = True


# --- what happens ---


class Edit(NamedTuple):
    """A method of World and its arguments; NOW stands for the release that is served then."""

    name: str
    arguments: tuple[str | int | bool, ...] = ()

    def do(self, world: World) -> None:
        current = world.find("current")
        assert isinstance(current, Link)
        arguments = (
            argument.replace(NOW, f"{current.text}/") if isinstance(argument, str) else argument
            for argument in self.arguments
        )
        getattr(world, self.name)(*arguments)


class Wait(NamedTuple):
    """Until what has been changed before can be kept."""


class Ask(NamedTuple):
    """The same request some times. Each time, its tag is that of the latest answer to its target, or one
    before it."""

    target: str
    method: str
    condition: str
    tag_age: int
    is_new_connection: bool
    is_in_pieces: bool
    times: int


Step = Wait | Ask | Edit

NOW = "now/"
NAMES = ["a.txt", "index.html", "folder", "other", "large", "to-other", "to-outside", "x"]
IN_FOLDERS = [f"{folder}/{name}" for folder in ("folder", "other") for name in ("a.txt", "index.html", "x")]
FILES = ["a.txt", "large", "index.html", "folder/a.txt", "folder/index.html", "x", "folder/x", "x/a.txt"]

anywhere = st.sampled_from(
    [f"{top}/{name}" for top in ("now", "now", "one", "two", "outside") for name in NAMES]
)
anywhere |= st.sampled_from([f"{top}/{name}" for top in ("now", "outside") for name in IN_FOLDERS])
asides = st.sampled_from(["outside/x", "outside/folder/x", NOW + "x", NOW + "folder/x"])
sizes = st.sampled_from([8, 500, 500, 70_000, LARGE_BYTES])


def make_edits(path: str) -> st.SearchStrategy[Edit]:
    """What can happen to that file, or to what is around it."""

    def edit(
        name: str, *arguments: st.SearchStrategy[str] | st.SearchStrategy[int]
    ) -> st.SearchStrategy[Edit]:
        return st.builds(Edit, st.just(name), st.tuples(*arguments))

    # Itself, its folder, or another.
    files = st.sampled_from([path] * 5 + [NOW + "a.txt"]) | anywhere
    names = st.sampled_from([path, path, path, path.rpartition("/")[0]]) | anywhere
    return st.one_of(
        edit("rewrite", files),
        edit("rewrite_with_its_time", files),
        edit("append", files),
        edit("truncate", files),
        edit("touch", files),
        edit("replace_by_same_size", files),
        edit("replace", files, sizes, st.booleans()),
        edit("create", files, sizes),
        edit("delete", files),
        edit("change_mode", files),
        edit("add_name", files, anywhere),
        edit("add_name", anywhere, files),
        edit("move", names, anywhere),
        edit("move", anywhere, names),
        edit("exchange", names, anywhere),
        edit("exchange", names, anywhere),
        edit("put_aside", names, asides),
        edit("put_aside", names, asides),
        edit("put_back", names, asides),
        edit("switch"),
    )


def make_asks(targets: st.SearchStrategy[str]) -> st.SearchStrategy[Ask]:
    return st.builds(
        Ask,
        target=targets,
        method=st.sampled_from(["GET", "GET", "GET", "HEAD"]),
        condition=st.sampled_from(["", "", "If-None-Match", "If-None-Match", "Range", "If-Range"]),
        tag_age=st.sampled_from([0, 0, 0, 1, 2]),
        is_new_connection=st.booleans(),
        is_in_pieces=st.sampled_from([False, False, True]),
        times=st.integers(1, 3),
    )


any_asks = make_asks(
    st.sampled_from(["/", *[f"/{name}{end}" for name in NAMES for end in ("", "/", "/a.txt", "/up")]])
)


@st.composite
def scenes(draw: st.DrawFn) -> list[Step]:
    """Rounds in which one file is asked for, so that it is kept, then changed, and asked for again."""
    steps: list[Step] = []
    path = ""
    for _ in range(draw(st.integers(1, 6))):
        if not path or draw(st.booleans()):
            path = draw(st.sampled_from(FILES))
        asks = make_asks(st.just("/" + path.removesuffix("index.html")))
        if draw(st.booleans()):
            steps += [Wait(), draw(asks)._replace(times=3)]
        else:
            steps += draw(st.lists(asks | any_asks, max_size=3))
        steps += draw(st.lists(make_edits(NOW + path), min_size=1, max_size=3))
        steps += [draw(asks), *draw(st.lists(any_asks, max_size=2))]
    return steps


# The version of a file says nothing of the way to it; and its time of modification may lie.
_ASK = Ask("/folder/a.txt", "GET", "", 0, is_new_connection=False, is_in_pieces=False, times=3)
KEPT_AND_MOVED_OUT = [Wait(), _ASK, Edit("put_aside", (NOW + "folder", "outside/x")), _ASK]
KEPT_AND_SET_BACK = [Wait(), _ASK, Edit("rewrite_with_its_time", (NOW + "folder/a.txt",)), _ASK]
ABSENT_AND_MADE = [
    step
    for make in (
        Edit("create", (NOW + "x", 500)),
        Edit("make_folder", (NOW + "x",)),
        Edit("link", (NOW + "x", "a.txt")),
        Edit("move", (NOW + "large", NOW + "x")),
        Edit("switch"),
    )
    for step in (_ASK._replace(target="/x"), make, _ASK._replace(target="/x"), Edit("delete", (NOW + "x",)))
]


# --- what is promised ---


class Visitor:
    """Asks, and checks each answer against the model."""

    def __init__(self, world: World, port: int, etag: str) -> None:
        self._world = world
        self._port = port
        self._has_hashes = etag == "hash"
        self._tags: dict[str, list[str]] = {}

    async def ask(self, ask: Ask, kept: RawClient) -> None:
        for _ in range(ask.times):
            if ask.is_new_connection:
                async with RawClient(self._port) as client:
                    await self._ask_once(ask, client)
            else:
                await self._ask_once(ask, kept)

    async def _ask_once(self, ask: Ask, client: RawClient) -> None:
        tags = self._tags.setdefault(ask.target, [])
        tag = tags[max(-1 - ask.tag_age, -len(tags))] if tags else '"none"'
        lines = [f"{ask.method} {ask.target} HTTP/1.1", "Host: localhost"]
        if ask.condition.startswith("If-"):
            lines.append(f"{ask.condition}: {tag}")
        if ask.condition.endswith("Range"):
            lines.append("Range: bytes=2-5")
        head = "\r\n".join((*lines, "", "")).encode()
        if ask.is_in_pieces:
            await client.send(head[:20])
            await asyncio.sleep(0.001)
            head = head[20:]
        answer = await client.ask(head, ask.method)
        self._check(answer, ask, tag)
        if "etag" in answer.fields and answer.fields["etag"] not in tags[-1:]:
            tags.append(answer.fields["etag"])

    def _check(self, answer: Answer, ask: Ask, tag: str) -> None:
        status, content, its_tag = self._world.expect(ask.target)
        if self._has_hashes:
            its_tag = format_hash_etag(sha256(content).digest())
        length = len(content)
        if status == 200:
            assert answer.fields["etag"] == its_tag, ask
            if ask.condition == "If-None-Match" and tag == its_tag:
                status = 304
            elif ask.method == "GET" and (
                ask.condition == "Range" or (ask.condition == "If-Range" and tag == its_tag)
            ):
                status, content, length = 206, content[2:6], 4
        assert answer.status == status, ask
        if status in (200, 206, 404):
            assert answer.body == (content if ask.method == "GET" else b""), ask
            assert answer.fields["content-length"] == str(length), ask


async def _visit(world: World, steps: Sequence[Step], etag: str) -> None:
    """Serves the world and goes through the steps."""
    async with Server(world.base / "current", etag=etag) as server, RawClient(server.port) as client:
        # All that is imported by the first requests: who has no privileges may not be able to.
        for _ in range(2):
            await client.ask(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with without_privileges():
            visitor = Visitor(world, server.port, etag)
            for step in steps:
                match step:
                    case Wait():
                        await asyncio.sleep(1.5 * STEP_S)
                    case Ask():
                        await visitor.ask(step, client)
                    case Edit():
                        step.do(world)
                        if world.is_switched:
                            world.is_switched = False
                            await asyncio.sleep(1.5 * STEP_S)


class Uses:
    """How often what was known was found unchanged by a look, and how often a request took the shortcut."""

    def __init__(self) -> None:
        self.of_kept = 0
        self.of_absent = 0
        self.of_shortcut = 0

    def count(self, patch: pytest.MonkeyPatch) -> None:
        is_current, is_absent, find = Files.is_current, Files.is_absent, Shortcuts.find

        def counting_is_current(files: Files, kept: Kept) -> bool:
            is_so = is_current(files, kept)
            self.of_kept += is_so
            return is_so

        def counting_is_absent(files: Files, absent: Absent) -> bool:
            is_so = is_absent(files, absent)
            self.of_absent += is_so
            return is_so

        def counting_find(shortcuts: Shortcuts, head: bytes) -> object:
            found = find(shortcuts, head)
            self.of_shortcut += found is not None
            return found

        patch.setattr(Files, "is_current", counting_is_current)
        patch.setattr(Files, "is_absent", counting_is_absent)
        patch.setattr(Shortcuts, "find", counting_find)


def visit(steps: Sequence[Step], loop: str, etag: str) -> Uses:
    uses = Uses()
    with (
        tempfile.TemporaryDirectory() as name,
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=LOOPS[loop]) as runner,
    ):
        patch.setattr(files_module, "_RACY_NS", int(STEP_S * 1e9))
        patch.setattr(files_module, "_ROOT_LOOK_S", STEP_S)
        base = Path(name).resolve()
        if os.geteuid() == 0:
            os.chown(base, NOBODY, NOBODY)
        with without_privileges():
            world = World(base)
        uses.count(patch)
        runner.run(_visit(world, steps, etag))
    return uses


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes(), st.sampled_from(sorted(LOOPS)), st.sampled_from(["mtime", "hash"]))
@example(KEPT_AND_MOVED_OUT, "asyncio", "mtime")
@example(KEPT_AND_SET_BACK, "asyncio", "mtime")
@example(KEPT_AND_SET_BACK, "asyncio", "hash")
@example(ABSENT_AND_MADE, "asyncio", "mtime")
def test_each_answer_is_of_what_is_there_when_it_is_asked_for(
    steps: list[Step], loop: str, etag: str
) -> None:
    visit(steps, loop, etag)


@pytest.mark.parametrize("loop", sorted(LOOPS))
@pytest.mark.parametrize("target", ["/a.txt", "/large", "/none"])
@pytest.mark.parametrize("etag", ["mtime", "hash"])
def test_what_is_known_is_used_in_these_scenes(target: str, loop: str, etag: str) -> None:
    ask = Ask(target, "GET", "", 0, is_new_connection=False, is_in_pieces=False, times=10)
    # A machine with much else to do may take longer for an answer than the root is trusted.
    for _ in range(20):
        uses = visit([Wait(), ask], loop, etag)
        if uses.of_shortcut and (uses.of_absent if target == "/none" else uses.of_kept):
            return
    raise AssertionError("nothing is ever known")
