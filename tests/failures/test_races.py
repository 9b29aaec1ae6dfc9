"""Names that change while they are asked for: nothing from outside, no mixture, no waiting."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.failures.churn import churning, format_version, parse_version, size_of
from tests.failures.disk_shim import DiskShim
from tests.failures.subject import serving
from tests.failures.traffic import ask_often, format_request
from tests.raw_client import Answer, RawClient, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are exchanged with renameat2")

INSIDE = b"inside\n" * 100
OUTSIDE = b"outside\n" * 100

LARGE_BYTES = 32 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """A folder on the same disk, out of reach."""
    folder = tmp_path / "aside"
    folder.mkdir()
    (folder / "page.txt").write_bytes(OUTSIDE)
    return folder


def make_folder(path: Path, content: bytes) -> Path:
    path.mkdir(parents=True)
    (path / "page.txt").write_bytes(content)
    return path


class TestContainment:
    """RENAME_EXCHANGE swaps what is inside with links and folders that lead outside."""

    @pytest.mark.parametrize(
        ("has_openat2", "count"),
        [pytest.param(True, 10_000, id="by openat2"), pytest.param(False, 5_000, id="by a walk")],
    )
    async def test_no_byte_from_outside_in_thousands_of_answers(
        self, root: Path, aside: Path, tmp_path: Path, shim: DiskShim, has_openat2: bool, count: int
    ) -> None:
        if not has_openat2:
            shim.hide_openat2()
        pairs: list[Path] = []
        for kind, target in [("absolute", aside), ("relative", Path("../aside"))]:
            (root / f"{kind}.txt").write_bytes(INSIDE)
            (tmp_path / f"{kind}-link").symlink_to(target / "page.txt")
            make_folder(root / kind, INSIDE)
            (tmp_path / f"{kind}-folder-link").symlink_to(target)
            pairs += [root / f"{kind}.txt", tmp_path / f"{kind}-link"]
            pairs += [root / kind, tmp_path / f"{kind}-folder-link"]
        # A link that stays inside, through a folder that does not.
        (root / "through").symlink_to("relative/page.txt")
        # ".." out of a folder that is moved away while it is being crossed.
        (root / "page.txt").write_bytes(INSIDE)
        for moved in (root / "moved", aside / "moved"):
            moved.mkdir()
            (moved / "up.txt").symlink_to("../page.txt")
        pairs += [root / "moved", aside / "moved"]
        targets = ["/absolute.txt", "/relative.txt", "/absolute/page.txt", "/relative/page.txt", "/through"]
        targets += ["/moved/up.txt"]

        def judge(target: str, answer: Answer) -> None:
            assert b"outside" not in answer.body, target
            assert answer.status in (200, 404), target
            assert answer.status == 404 or answer.body == INSIDE, target

        with (
            serving(root, folder=tmp_path, environment=shim.environment) as server,
            churning("exchange", *pairs) as churn,
        ):
            statuses = await ask_often(server.port, targets, count, judge)

        assert churn.turns > 1000
        # Both halves of the race have been met.
        assert min(statuses[200], statuses[404]) > 100


class TestReplacement:
    @pytest.mark.parametrize(
        ("sizes", "count"),
        [
            pytest.param((8, 4_096, 16_008), 2_000, id="small files, sent from memory"),
            pytest.param((80_000, 262_144, 800_008), 500, id="large files, sent in pieces"),
            pytest.param((8, 65_200, 80_000), 1_000, id="files on both sides of what is kept in memory"),
        ],
    )
    async def test_each_answer_is_wholly_one_version_and_each_tag_stands_for_one_content(
        self, root: Path, tmp_path: Path, sizes: tuple[int, ...], count: int
    ) -> None:
        (root / "page.bin").write_bytes(format_version(0, size_of(0, sizes)))
        versions: dict[str, int] = {}

        def judge(target: str, answer: Answer) -> None:
            assert answer.status == 200
            version = parse_version(answer.body)
            assert len(answer.body) == size_of(version, sizes)
            assert versions.setdefault(answer.fields["etag"], version) == version

        with (
            serving(root, folder=tmp_path) as server,
            churning("replace", root / "page.bin", *sizes) as churn,
        ):
            await ask_often(server.port, ["/page.bin"], count, judge)

        assert churn.turns > 100
        assert len(versions) > 20

    async def test_ranges_of_a_file_that_is_replaced_fit_together_when_their_tags_agree(
        self, root: Path, tmp_path: Path
    ) -> None:
        (root / "page.bin").write_bytes(format_version(0, 400_000))
        whole, mixed = 0, 0

        with (
            serving(root, folder=tmp_path) as server,
            churning("replace", root / "page.bin", 400_000),
        ):
            async with RawClient(server.port) as client:
                for _ in range(300):
                    first = await client.ask(format_request("/page.bin", "Range: bytes=0-199999"))
                    tag = first.fields["etag"]
                    rest = await client.ask(
                        format_request("/page.bin", "Range: bytes=200000-", f"If-Range: {tag}")
                    )
                    if rest.status == 206:
                        assert rest.fields["etag"] == tag
                        parse_version(first.body + rest.body)
                        whole += 1
                    else:
                        assert rest.status == 200
                        assert rest.fields["etag"] != tag
                        parse_version(rest.body)
                        mixed += 1

        assert whole + mixed == 300
        assert mixed > 10

    async def test_a_name_that_comes_and_goes_gives_the_file_or_404(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(INSIDE)

        def judge(target: str, answer: Answer) -> None:
            assert answer.status in (200, 404)
            assert answer.status == 404 or answer.body == INSIDE

        with (
            serving(root, folder=tmp_path) as server,
            churning("blink", tmp_path / "source", root / "page.txt") as churn,
        ):
            statuses: Counter[int] = Counter()
            # Who finds it looks at it once more: it is gone more often than it is there.
            for _ in range(30):
                statuses += await ask_often(server.port, ["/page.txt"], 1_000, judge)
                if min(statuses[200], statuses[404]) > 30:
                    break

        assert churn.turns > 1000
        assert min(statuses[200], statuses[404]) > 30

    async def test_fifos_that_are_swapped_in_are_404_and_hold_nobody(
        self, root: Path, tmp_path: Path
    ) -> None:
        pairs: list[Path] = []
        for number in range(4):
            (root / f"{number}.txt").write_bytes(INSIDE)
            os.mkfifo(tmp_path / f"{number}.fifo")
            pairs += [root / f"{number}.txt", tmp_path / f"{number}.fifo"]
        os.mkfifo(root / "fifo")

        def judge(target: str, answer: Answer) -> None:
            assert answer.status == 404 or (answer.status == 200 and answer.body == INSIDE)
            assert target != "/fifo" or answer.status == 404

        targets = [*(f"/{number}.txt" for number in range(4)), "/fifo"]
        # One thread: the first that is held would hold everybody.
        with (
            serving(root, "--threads", "1", folder=tmp_path) as server,
            churning("exchange", *pairs) as churn,
        ):
            statuses = await ask_often(server.port, targets, 1_500, judge)

        assert churn.turns > 1000
        assert min(statuses[200], statuses[404]) > 100


class TestDeploy:
    """The root is a link, and a deploy tool leads it to another release."""

    async def test_each_answer_is_from_one_release(self, tmp_path: Path) -> None:
        # What is a file in one release is a folder in the other: who looks in both finds neither.
        releases = [tmp_path / "release-a", tmp_path / "release-b"]
        for release, (file, folder) in zip(releases, [("x", "y"), ("y", "x")], strict=True):
            release.mkdir()
            (release / file).write_bytes(release.name.encode() * 1000)
            (release / folder).mkdir()
            (release / "404.html").write_text(release.name)
        current = tmp_path / "current"
        current.symlink_to(releases[0].name)
        seen: list[str] = []

        def judge(target: str, answer: Answer) -> None:
            if target == "/none":
                assert answer.status == 404
                release = answer.body.decode()
                assert release in ("release-a", "release-b")
                if seen[-1:] != [release]:
                    seen.append(release)
            else:
                assert answer.status in (200, 308), target

        with (
            serving(current, folder=tmp_path) as server,
            churning("switch", current, *(release.name for release in releases)) as churn,
        ):
            # The name of the root is looked at once a second, and then leads to either.
            for _ in range(300):
                await ask_often(server.port, ["/x", "/y", "/none"], 300, judge)
                if len(seen) >= 3:
                    break

        assert churn.turns > 1000
        assert len(seen) >= 2

    async def test_a_switch_is_seen_by_clients_that_stay_connected(self, tmp_path: Path) -> None:
        for name in ("old", "new"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "index.html").write_text(name)
        current = tmp_path / "current"
        current.symlink_to("old")

        with serving(current, folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                assert (await client.ask(format_request("/"))).body == b"old"
                (tmp_path / "next").symlink_to("new")
                os.rename(tmp_path / "next", current)
                answers: list[Answer] = []
                while not answers or answers[-1].body != b"new":
                    assert len(answers) < 1000
                    answers.append(await client.ask(format_request("/")))
                    await asyncio.sleep(0.01)

        assert {answer.status for answer in answers} == {200}
        assert {answer.body for answer in answers} <= {b"old", b"new"}


class TestChangeDuringTheTransfer:
    """The client has the head and a part of the body when the file changes."""

    @pytest.fixture
    def large(self, root: Path) -> Path:
        path = root / "large.bin"
        path.write_bytes(format_version(1, LARGE_BYTES))
        return path

    async def begin(self, client: RawClient) -> int:
        """Reads the head of large.bin and gives the length that it announces."""
        await client.send(format_request("/large.bin"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return int(length)

    async def test_a_file_that_shrinks_aborts_the_connection(
        self, root: Path, large: Path, tmp_path: Path
    ) -> None:
        (root / "small.txt").write_bytes(INSIDE)
        with serving(root, folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                assert await self.begin(client) == LARGE_BYTES
                os.truncate(large, LARGE_BYTES // 2)
                await client.send(format_request("/small.txt"))
                try:
                    rest = await client.read_to_end()
                except ConnectionResetError:
                    rest = b""
                assert len(rest) < LARGE_BYTES
                assert b"HTTP/" not in rest
            assert (await get(server.port, "/small.txt")).body == INSIDE

    async def test_a_file_that_grows_is_sent_as_announced(
        self, root: Path, large: Path, tmp_path: Path
    ) -> None:
        with serving(root, folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                length = await self.begin(client)
                with large.open("ab") as file:
                    file.write(b"more" * 1000)
                assert parse_version(await client.reader.readexactly(length)) == 1
                # The connection is in step: the next answer begins where the first one ended.
                again = await client.ask(format_request("/large.bin", method="HEAD"), "HEAD")
                assert again.fields["content-length"] == str(LARGE_BYTES + 4000)

    async def test_a_file_that_is_rewritten_in_place_keeps_its_length_and_gets_another_tag(
        self, root: Path, large: Path, tmp_path: Path
    ) -> None:
        with serving(root, folder=tmp_path) as server:
            async with RawClient(server.port) as client:
                before = await client.ask(format_request("/large.bin", method="HEAD"), "HEAD")
                length = await self.begin(client)
                with large.open("r+b") as file:
                    file.write(format_version(2, LARGE_BYTES))
                body = await client.reader.readexactly(length)
                assert {body[index : index + 8] for index in range(0, length, 8)} <= {
                    b"00000001",
                    b"00000002",
                }
                after = await client.ask(format_request("/large.bin"))
                assert after.body == format_version(2, LARGE_BYTES)
                assert after.fields["etag"] != before.fields["etag"]

    async def test_a_file_that_is_replaced_or_removed_is_sent_as_it_was(
        self, root: Path, large: Path, tmp_path: Path
    ) -> None:
        (root / "new.bin").write_bytes(format_version(2, LARGE_BYTES))
        with serving(root, folder=tmp_path) as server:
            for what_comes in ("another", "nothing"):
                async with RawClient(server.port) as client:
                    version = 1 if what_comes == "another" else 2
                    length = await self.begin(client)
                    if what_comes == "another":
                        os.rename(root / "new.bin", large)
                    else:
                        os.unlink(large)
                    assert parse_version(await client.reader.readexactly(length)) == version
            assert (await get(server.port, "/large.bin")).status == 404
