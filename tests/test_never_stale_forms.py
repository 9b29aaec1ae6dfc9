"""Random edits of files and of their compressed forms between requests: no answer is of what was before.

Two spans are shortened as in test_never_stale. Which form is sent may lag behind for some
seconds, its bytes may not: each answer has to be one of the forms that there are at that moment.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aioserve import Server
from aioserve.content import files as files_module
from aioserve.content import forms as forms_module
from aioserve.content.compression import compress, list_codings
from aioserve.content.files import EXTENSIONS
from aioserve.network import shortcuts as shortcuts_module
from tests.content.conftest import needs_at_once
from tests.content.test_compression import decode
from tests.raw_client import Answer, RawClient
from tests.test_never_stale import LOOPS, STEP_S, Uses

pytestmark = [
    needs_at_once,
    pytest.mark.skipif(len(list_codings()) < len(EXTENSIONS), reason="a package is not installed"),
]

MODIFIED_S = 1_600_000_000

BASES = ["a.css", "b.css", "to-a.css"]
PATHS = [base + extension.decode() for base in BASES for extension in (b"", *EXTENSIONS.values())]

# Too short to be compressed, worth it, not worth it, and read by its descriptor.
CONTENTS = {"short": (500, False), "text": (4000, False), "noise": (3000, True), "long": (200_000, False)}


class Form(NamedTuple):
    coding: str | None
    body: bytes
    tag: str


class File(NamedTuple):
    content: bytes
    modified_s: int


class World:
    """A folder of files, on the disk and as a model of it. An edit that cannot be done changes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, File] = {}
        self._numbers = 0
        self.write("a.css", "text", is_newer=True, in_place=True)
        (root / "to-a.css").symlink_to("a.css")

    # Edits.

    def _make_time(self, is_newer: bool) -> int:
        """One that no other file has had: later than all, or earlier."""
        self._numbers += 1
        return MODIFIED_S + self._numbers * (1 if is_newer else -1)

    def write(self, path: str, kind: str, is_newer: bool, in_place: bool) -> None:
        if path == "to-a.css":
            return
        size_bytes, is_noise = CONTENTS[kind]
        modified_s = self._make_time(is_newer)
        if is_noise:
            content = random.Random(self._numbers).randbytes(size_bytes)
        else:
            content = (b"%07d\n" % self._numbers * (size_bytes // 8))[:size_bytes]
        extension = os.path.splitext(path)[1].encode()
        for coding, its_extension in EXTENSIONS.items():
            if extension == its_extension:
                content = compress(coding, content)
        name = path if in_place else "new"
        (self.root / name).write_bytes(content)
        self._set_time(name, modified_s)
        if not in_place:
            (self.root / name).rename(self.root / path)
        self._files[path] = File(content, modified_s)

    def _set_time(self, name: str, modified_s: int) -> None:
        os.utime(self.root / name, (modified_s, modified_s))

    def touch(self, path: str, is_newer: bool) -> None:
        if path in self._files:
            modified_s = self._make_time(is_newer)
            self._set_time(path, modified_s)
            self._files[path] = self._files[path]._replace(modified_s=modified_s)

    def set_back(self, path: str) -> None:
        """Other bytes of the same length and time, in the base of no form: its tag stays."""
        file = self._files.get(path)
        if file is not None and path in BASES:
            content = bytes(byte ^ 1 for byte in file.content)
            (self.root / path).write_bytes(content)
            self._set_time(path, file.modified_s)
            self._files[path] = file._replace(content=content)

    def delete(self, path: str) -> None:
        if path in self._files:
            (self.root / path).unlink()
            del self._files[path]

    def switch_link(self) -> None:
        target = "b.css" if os.readlink(self.root / "to-a.css") == "a.css" else "a.css"
        (self.root / "new").symlink_to(target)
        (self.root / "new").rename(self.root / "to-a.css")

    # What is where.

    def find(self, base: str) -> File | None:
        return self._files.get(os.readlink(self.root / base) if base == "to-a.css" else base)

    def list_forms(self, base: str, wanted: Sequence[str]) -> tuple[list[Form], Form | None]:
        """All that may be sent for it to a client who takes these codings, and what is best of it."""
        file = self.find(base)
        beside = {
            coding: self._files[base + extension.decode()]
            for coding, extension in EXTENSIONS.items()
            if base + extension.decode() in self._files
        }
        if file is None:
            # The first of them, as it is or decoded.
            for coding, form in beside.items():
                alone = make_form(coding, form.content, form) if coding in wanted else None
                return ([] if alone is None else [alone]), alone
            return [], None
        forms = [make_form(None, file.content, file)]
        best = forms[0]
        for coding in wanted[::-1]:
            made = compress(coding, file.content)
            if len(file.content) >= forms_module.MIN_BYTES and len(made) <= 0.95 * len(file.content):
                best = make_form(coding, made, file)
                forms.append(best)
        beside = {
            coding: form
            for coding, form in beside.items()
            if coding in wanted and form.modified_s >= file.modified_s
        }
        forms += [make_form(coding, form.content, form) for coding, form in beside.items()]
        if beside:
            best = min(forms[-len(beside) :], key=lambda form: len(form.body))
        return forms, best

    def find_alone(self, base: str) -> bytes | None:
        """What is in the form of which the file is not there."""
        for coding, extension in EXTENSIONS.items():
            form = self._files.get(base + extension.decode())
            if form is not None:
                return decode(coding, form.content)
        return None


def make_form(coding: str | None, body: bytes, file: File) -> Form:
    """docs/decisions/0007"""
    suffix = f"-{coding}" if coding else ""
    return Form(coding, body, f'"{file.modified_s * 10**9:x}-{len(body):x}{suffix}"')


class Edit(NamedTuple):
    name: str
    arguments: tuple[str | bool, ...] = ()


class Wait(NamedTuple):
    """Until what has been changed before can be kept."""


class Ask(NamedTuple):
    base: str
    codings: tuple[str, ...]
    condition: str
    is_in_pieces: bool
    times: int


Step = Edit | Wait | Ask


def edit(name: str, *arguments: st.SearchStrategy[str] | st.SearchStrategy[bool]) -> st.SearchStrategy[Edit]:
    return st.builds(Edit, st.just(name), st.tuples(*arguments))


paths = st.sampled_from([*PATHS, "a.css", "a.css", "a.css.gz"])
edits = st.one_of(
    edit("write", paths, st.sampled_from([*CONTENTS, "text"]), st.booleans(), st.booleans()),
    edit("write", paths, st.just("text"), st.just(True), st.booleans()),
    edit("touch", paths, st.booleans()),
    edit("set_back", paths),
    edit("delete", paths),
    edit("switch_link"),
)
asks = st.builds(
    Ask,
    base=st.sampled_from([*BASES, "a.css"]),
    codings=st.sampled_from([(), ("gzip",), ("br",), ("br", "zstd", "gzip"), ("zstd", "gzip")]),
    condition=st.sampled_from(["", "", "If-None-Match", "Range"]),
    is_in_pieces=st.sampled_from([False, False, True]),
    times=st.integers(1, 3),
)
scenes = st.lists(st.one_of(edits, edits, asks, asks, st.just(Wait())), min_size=4, max_size=25)


class Visitor:
    def __init__(self, world: World, port: int, *, is_strict: bool) -> None:
        self._world = world
        self._port = port
        self._is_strict = is_strict
        self._tags: dict[str, str] = {}

    async def ask(self, ask: Ask, client: RawClient) -> None:
        tag = self._tags.get(ask.base, '"none"')
        lines = [f"GET /{ask.base} HTTP/1.1", "Host: a"]
        if ask.codings:
            lines.append(f"Accept-Encoding: {', '.join(ask.codings)}")
        if ask.condition == "If-None-Match":
            lines.append(f"If-None-Match: {tag}")
        elif ask.condition == "Range":
            lines.append("Range: bytes=2-5")
        head = "\r\n".join((*lines, "", "")).encode()
        if ask.is_in_pieces:
            await client.send(head[:20])
            await asyncio.sleep(0.001)
            head = head[20:]
        answer = await client.ask(head)
        self._check(answer, ask, tag)
        if "etag" in answer.fields:
            self._tags[ask.base] = answer.fields["etag"]

    def _check(self, answer: Answer, ask: Ask, tag: str) -> None:
        forms, best = self._world.list_forms(ask.base, ask.codings)
        alone = None if self._world.find(ask.base) else self._world.find_alone(ask.base)
        if alone is None and not forms:
            assert answer.status == 404, ask
            return
        assert answer.fields["vary"] == "Accept-Encoding"
        if not forms:
            # It has a tag of its own, and no parts.
            assert answer.status == 304 or (answer.status, answer.body) == (200, alone), ask
            assert "content-encoding" not in answer.fields
            return
        (form,) = (one for one in forms if one.tag == answer.fields["etag"])
        assert not self._is_strict or form == best, ask
        if answer.status == 304:
            assert (ask.condition, tag) == ("If-None-Match", form.tag), ask
            return
        assert answer.fields.get("content-encoding") == form.coding, ask
        if ask.condition == "Range":
            assert (answer.status, answer.body) == (206, form.body[2:6]), ask
        else:
            assert (answer.status, answer.body) == (200, form.body), ask


async def _visit(world: World, steps: Sequence[Step], *, is_strict: bool) -> None:
    async with Server(world.root, 0) as server, RawClient(server.port) as client:
        visitor = Visitor(world, server.port, is_strict=is_strict)
        for step in steps:
            match step:
                case Wait():
                    await asyncio.sleep(1.5 * STEP_S)
                case Ask():
                    for _ in range(step.times):
                        await visitor.ask(step, client)
                case Edit():
                    getattr(world, step.name)(*step.arguments)


def visit(steps: Sequence[Step], loop: str, *, is_strict: bool) -> Uses:
    """With `is_strict`, the best form has to be sent at once."""
    uses = Uses()
    with (
        tempfile.TemporaryDirectory() as name,
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=LOOPS[loop]) as runner,
    ):
        patch.setattr(files_module, "_RACY_NS", int(STEP_S * 1e9))
        if is_strict:
            patch.setattr(forms_module, "_WAIT_S", 30)
            patch.setattr(shortcuts_module, "_FORMS_AGAIN_S", -1)
        uses.count(patch)
        runner.run(_visit(World(Path(name).resolve()), steps, is_strict=is_strict))
    return uses


GZIPPED = Ask("a.css", ("gzip",), "", is_in_pieces=False, times=3)
LINKED = GZIPPED._replace(base="to-a.css")
A_FORM_BESIDE_A_LINK = [
    Edit("write", ("to-a.css.gz", "text", True, True)),
    Wait(),
    LINKED,
    Edit("write", ("a.css", "text", True, True)),
    LINKED,
    Edit("switch_link"),
    LINKED,
]
A_FORM_THAT_GETS_OLDER = [
    Edit("write", ("a.css.gz", "text", True, True)),
    Wait(),
    GZIPPED,
    Edit("touch", ("a.css.gz", False)),
    GZIPPED,
    Edit("touch", ("a.css.gz", True)),
    GZIPPED,
    Edit("touch", ("a.css", True)),
    GZIPPED,
    Edit("delete", ("a.css",)),
    GZIPPED,
]
MADE_AND_SET_BACK = [Wait(), GZIPPED, Edit("set_back", ("a.css",)), GZIPPED]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(scenes, st.sampled_from(sorted(LOOPS)), st.booleans())
@example(A_FORM_BESIDE_A_LINK, "asyncio", False)
@example(A_FORM_THAT_GETS_OLDER, "asyncio", False)
@example(A_FORM_THAT_GETS_OLDER, "asyncio", True)
@example(MADE_AND_SET_BACK, "asyncio", False)
def test_each_answer_is_a_form_of_what_is_there_when_it_is_asked_for(
    steps: list[Step], loop: str, is_strict: bool
) -> None:
    visit(steps, loop, is_strict=is_strict)


@pytest.mark.parametrize("loop", sorted(LOOPS))
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_known_is_used_in_these_scenes(loop: str, beside: bool) -> None:
    steps: list[Step] = [Wait(), GZIPPED._replace(times=10)]
    if beside:
        steps.insert(0, Edit("write", ("a.css.gz", "text", True, True)))
    for _ in range(20):
        uses = visit(steps, loop, is_strict=False)
        if uses.of_shortcut and uses.of_kept:
            return
    raise AssertionError("nothing is ever known")


async def _ask_while_it_is_replaced(root: Path) -> int:
    """How many answers there were, each of a version that was there within its request."""
    begun, done, count = 0, 0, 0

    def write(name: str, content: bytes, modified_s: int) -> None:
        (root / "new").write_bytes(content)
        os.utime(root / "new", (modified_s, modified_s))
        (root / "new").rename(root / name)

    def replace() -> None:
        nonlocal begun, done
        chance = random.Random(7)
        for number in range(1, 61):
            content = b"%07d\n" % number * 500
            begun = number
            write("a.css", content, MODIFIED_S + 2 * number)
            done = number
            # Without some of them, what lies beside it is of an older one, or a form is made.
            if number % 3:
                write("a.css.gz", compress("gzip", content), MODIFIED_S + 2 * number + 1)
            time.sleep(chance.choice([0, 0.005, 0.03, 0.06]))

    async def ask(client: RawClient, codings: str) -> None:
        head = f"GET /a.css HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {codings}\r\n\r\n".encode()
        earliest = done
        answer = await client.ask(head)
        coding = answer.fields.get("content-encoding")
        content = answer.body if coding is None else decode(coding, answer.body)
        (number,) = set(content.split())
        assert earliest <= int(number) <= begun
        assert len(content) == 4000

    async def ask_on(port: int, codings: str) -> None:
        nonlocal count
        async with RawClient(port) as client:
            while not replacing.done():
                await ask(client, codings)
                count += 1

    write("a.css", b"%07d\n" % 0 * 500, MODIFIED_S)
    async with Server(root, 0, log_format="off") as server:
        replacing = asyncio.get_running_loop().run_in_executor(None, replace)
        async with asyncio.TaskGroup() as group:
            for codings in ("gzip", "gzip, br", "zstd", "identity", "gzip, identity;q=0"):
                group.create_task(ask_on(server.port, codings))
        await replacing
    return count


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_while_a_file_and_its_form_are_replaced_each_answer_is_of_one_that_was_there(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_RACY_NS", int(STEP_S * 1e9))
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(_ask_while_it_is_replaced(tmp_path)) > 0
