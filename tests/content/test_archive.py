"""Folders as archives: what belongs to them, what their bytes are, and a tree that changes meanwhile."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aioserve.content import archive as archive_module
from aioserve.content import files as files_module
from aioserve.content.archive import PIECE_BYTES, Archives, FolderArchive, TooLarge, list_forms
from aioserve.content.containment import Symlinks, Way
from aioserve.content.disk import Disk
from aioserve.content.files import Refused
from aioserve.content.handle import read_at
from aioserve.protocol.download import Form
from aioserve.protocol.zip_layout import ZipLayout
from tests.content.conftest import Open, count_open, without_privileges
from tests.test_clients import find_program

MTIME_S = 1_700_000_000
LARGE = bytes(range(256)) * 4096

FORMS = [pytest.param(form, id=form) for form in Form]
SIZED_FORMS = [pytest.param(form, id=form) for form in (Form.ZIP, Form.TAR)]


@pytest.fixture
def tree(root: Path) -> Path:
    """A folder with files of several sizes, all of one time."""
    tree = root / "tree"
    (tree / "sub/deeper").mkdir(parents=True)
    (tree / "void").mkdir()
    (tree / "a.txt").write_bytes(b"first\n")
    (tree / "empty").touch()
    (tree / "sub/b.bin").write_bytes(bytes(range(256)))
    (tree / "sub/deeper/c").write_bytes(b"c")
    settle(tree)
    return tree


def settle(path: Path) -> None:
    """Gives everything there the same time, which is long ago."""
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            os.utime(Path(folder, name), (MTIME_S, MTIME_S), follow_symlinks=False)


Opening = Callable[..., Archives]


@pytest.fixture
def make_archives(root: Path, disk: Disk, open_files: Open) -> Opening:
    def make_archives(root: Path = root, **options: object) -> Archives:
        ours = {
            name: options.pop(name) for name in ("leaves_out", "max_members", "at_once") if name in options
        }
        return Archives(open_files(root, **options), disk, **ours)  # type: ignore[arg-type]

    return make_archives


async def open_archive(archives: Archives, path: str = "tree", form: Form = Form.ZIP) -> FolderArchive:
    """The archive of a folder that is there; it is closed already, which only lets others be begun."""
    archive = await archives.open(tuple(os.fsencode(path).split(b"/")) if path else (), form)
    assert archive is not None
    archive.close()
    return archive


async def gather(archive: FolderArchive, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in archive.stream(start, stop)])


async def read_zip(archives: Archives, path: str = "tree") -> dict[str, bytes]:
    """The members of the archive of a folder."""
    data = await gather(await open_archive(archives, path))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def read_tree(folder: Path) -> dict[str, bytes]:
    """What `read_zip` should give."""
    members = {}
    for parent, folders, names in os.walk(folder.parent):
        for name in (*folders, *names):
            path = Path(parent, name)
            members[os.fspath(path.relative_to(folder.parent)) + "/" * path.is_dir()] = (
                b"" if path.is_dir() else path.read_bytes()
            )
    return members


class TestContent:
    @pytest.mark.parametrize("form", FORMS)
    async def test_it_holds_the_folder_and_all_below_it(
        self, tree: Path, make_archives: Opening, form: Form
    ) -> None:
        if form not in list_forms():
            pytest.skip("this Python has no zstd")
        archive = await open_archive(make_archives(), form=form)

        data = await gather(archive)

        assert archive.size_bytes == (len(data) if form in (Form.ZIP, Form.TAR) else None)
        assert unpack(form, data) == read_tree(tree)

    async def test_that_of_the_root_lies_in_a_folder_as_well(
        self, tree: Path, make_archives: Opening
    ) -> None:
        archives = make_archives()

        members = await read_zip(archives, "")

        assert list(members)[:2] == ["files/", "files/tree/"]
        assert (await open_archive(archives, "")).name == "files"

    async def test_the_members_stand_in_one_order(self, tree: Path, make_archives: Opening) -> None:
        assert list(await read_zip(make_archives())) == [
            "tree/",
            "tree/a.txt",
            "tree/empty",
            "tree/sub/",
            "tree/sub/b.bin",
            "tree/sub/deeper/",
            "tree/sub/deeper/c",
            "tree/void/",
        ]

    async def test_a_large_file_arrives_whole(self, tree: Path, make_archives: Opening) -> None:
        (tree / "large").write_bytes(LARGE)

        assert (await read_zip(make_archives()))["tree/large"] == LARGE

    @pytest.mark.parametrize("path", ["missing", "tree/a.txt", "tree/missing/deeper", ".hidden"])
    async def test_what_is_no_folder_has_none(self, tree: Path, make_archives: Opening, path: str) -> None:
        (tree.parent / ".hidden").mkdir()

        assert await make_archives().open(tuple(path.encode().split(b"/")), Form.ZIP) is None

    async def test_a_root_that_is_one_file_has_none(self, tree: Path, make_archives: Opening) -> None:
        assert await make_archives(tree / "a.txt").open((), Form.ZIP) is None

    async def test_each_way_to_open_names_gives_the_same(
        self, tree: Path, make_archives: Opening, way: Way
    ) -> None:
        expected = read_tree(tree)
        (tree / "link").symlink_to("sub")

        members = await read_zip(make_archives(way=way))

        assert members == {
            **expected,
            "tree/link/": b"",
            "tree/link/b.bin": bytes(range(256)),
            "tree/link/deeper/": b"",
            "tree/link/deeper/c": b"c",
        }


def unpack(form: Form, data: bytes) -> dict[str, bytes]:
    if form is Form.ZIP:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist()}
    if form is Form.TAR_GZ:
        data = gzip.decompress(data)
    elif form is Form.TAR_ZST:
        decompressed = subprocess.run(
            [find_program("zstd"), "-dc"], input=data, capture_output=True, check=True, timeout=50
        )
        data = decompressed.stdout
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        members = {}
        for info in archive.getmembers():
            file = archive.extractfile(info)
            members[info.name + "/" * info.isdir()] = file.read() if file else b""
        return members


class TestWhatIsLeftOut:
    async def test_hidden_names(self, tree: Path, make_archives: Opening) -> None:
        (tree / ".git/objects").mkdir(parents=True)
        (tree / ".env").write_bytes(b"secret")
        (tree.parent / ".well-known").mkdir()
        (tree.parent / ".well-known/.inner").write_bytes(b"secret")

        members = await read_zip(make_archives(), "")

        assert [name for name in members if "/." in name] == ["files/.well-known/"]
        assert "tree/.env" in await read_zip(make_archives(hidden=True))

    async def test_names_that_the_site_never_serves(self, tree: Path, make_archives: Opening) -> None:
        archives = make_archives(leaves_out=lambda segments: segments == (b"tree", b"sub"))

        assert list(await read_zip(archives)) == ["tree/", "tree/a.txt", "tree/empty", "tree/void/"]

    async def test_what_is_neither_a_file_nor_a_folder(self, tree: Path, make_archives: Opening) -> None:
        expected = read_tree(tree)
        os.mkfifo(tree / "fifo")

        assert await read_zip(make_archives()) == expected


class TestSymlinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        return outside

    async def test_a_link_to_what_is_inside_is_what_it_leads_to(
        self, tree: Path, make_archives: Opening
    ) -> None:
        (tree / "link").symlink_to("sub/b.bin")
        (tree / "folder").symlink_to("sub/deeper")

        members = await read_zip(make_archives())

        assert members["tree/link"] == bytes(range(256))
        assert members["tree/folder/c"] == b"c"

    @pytest.mark.parametrize("symlinks", [Symlinks.NONE, Symlinks.INSIDE])
    async def test_none_that_leads_outside_is_followed(
        self, tree: Path, outside: Path, make_archives: Opening, symlinks: Symlinks
    ) -> None:
        expected = read_tree(tree)
        (tree / "file").symlink_to(outside / "secret")
        (tree / "folder").symlink_to(outside)
        (tree / "relative").symlink_to("../../outside/secret")
        (tree / "dangling").symlink_to("nowhere")

        assert await read_zip(make_archives(symlinks=symlinks)) == expected

    async def test_all_are_followed_when_the_policy_says_so(
        self, tree: Path, outside: Path, make_archives: Opening
    ) -> None:
        (tree / "folder").symlink_to(outside)

        members = await read_zip(make_archives(symlinks=Symlinks.ALL))

        assert members["tree/folder/secret"] == b"secret"

    async def test_none_is_followed_when_the_policy_says_so(self, tree: Path, make_archives: Opening) -> None:
        expected = read_tree(tree)
        (tree / "link").symlink_to("a.txt")

        assert await read_zip(make_archives(symlinks=Symlinks.NONE)) == expected

    @pytest.mark.parametrize("symlinks", [Symlinks.INSIDE, Symlinks.ALL])
    async def test_a_loop_is_not_walked_twice(
        self, tree: Path, make_archives: Opening, symlinks: Symlinks
    ) -> None:
        expected = read_tree(tree)
        (tree / "self").symlink_to("self")
        (tree / "here").symlink_to(".")
        (tree / "sub/up").symlink_to("..")

        assert await read_zip(make_archives(symlinks=symlinks)) == expected

    async def test_links_that_multiply_meet_the_limit(self, tree: Path, make_archives: Opening) -> None:
        for number in range(20):
            (tree / f"level{number}").mkdir()
            for name in "xy":
                (tree / f"level{number}" / name).symlink_to(f"../level{number + 1}")

        with pytest.raises(TooLarge):
            await make_archives(max_members=1000).open((b"tree",), Form.ZIP)


class TestNames:
    NAMES = (
        b"new\nline",
        b"tab\tand \x01\x7f",
        b"back\\slash",
        b'quote"',
        b"<script>",
        "žluť 📁".encode(),
        "e\u0301".encode(),
        b"n" * 255,
        b"bad\xff\xfe",
        b"%41",
        b"..a",
        b" ",
    )

    @pytest.mark.parametrize("name", NAMES)
    async def test_every_name_that_the_disk_can_hold_arrives(
        self, tree: Path, make_archives: Opening, name: bytes
    ) -> None:
        folder = tree / os.fsdecode(name)
        folder.mkdir()
        (folder / os.fsdecode(name)).write_bytes(name)

        archive = await open_archive(make_archives(hidden=True), form=Form.TAR)

        path = "/".join(("tree", os.fsdecode(name), os.fsdecode(name)))
        assert unpack(Form.TAR, await gather(archive))[path] == name

    async def test_a_path_that_is_too_long_to_be_opened_is_noted(
        self, tree: Path, make_archives: Opening
    ) -> None:
        descriptor = os.open(tree, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=descriptor)
            deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
            os.close(os.open("file", os.O_CREAT, dir_fd=descriptor))
        os.close(descriptor)
        try:
            members = await read_zip(make_archives())
        finally:
            shutil.rmtree(tree)

        (noted,) = [line for line in members["tree/UNREADABLE.txt"].splitlines() if line.startswith(b"tree")]
        assert len(noted) > 4000
        assert sum(name.endswith("/file") for name in members) == 16

    async def test_the_folder_names_the_download(self, root: Path, make_archives: Opening) -> None:
        (root / "žluť").mkdir()
        (root / os.fsdecode(b"bad\xff")).mkdir()

        assert (await open_archive(make_archives(), "žluť")).name == "žluť"
        assert (
            await open_archive(make_archives(), os.fsdecode(b"bad\xff"))
        ).name == "bad\N{REPLACEMENT CHARACTER}"


class TestUnreadable:
    @pytest.fixture
    def closed(self, public_root: Path) -> Path:
        """A folder with a file and a folder that only their owner may read."""
        tree = public_root / "tree"
        (tree / "closed").mkdir(parents=True)
        (tree / "closed/inner").touch()
        (tree / "open").write_bytes(b"open")
        (tree / "secret\n.txt").write_bytes(b"secret")
        (tree / "secret\n.txt").chmod(0o600)
        (tree / "closed").chmod(0o700)
        settle(tree)
        return tree

    async def test_what_cannot_be_read_is_left_out_and_noted(
        self, closed: Path, make_archives: Opening
    ) -> None:
        with without_privileges():
            members = await read_zip(make_archives(closed.parent))

        assert members == {
            "tree/": b"",
            "tree/open": b"open",
            "tree/UNREADABLE.txt": (
                b"The server could not read these, and has left them out:\n\n"
                b"tree/secret\\n.txt\ntree/closed\n"
            ),
        }

    async def test_what_can_be_read_by_others_has_another_tag(
        self, closed: Path, make_archives: Opening
    ) -> None:
        archives = make_archives(closed.parent)
        with without_privileges():
            noted = await open_archive(archives)
        whole = await open_archive(archives)

        assert noted.etag != whole.etag

    async def test_the_note_has_a_name_of_its_own(self, closed: Path, make_archives: Opening) -> None:
        (closed / "unreadable.TXT").write_bytes(b"a file of the folder")
        (closed / "UNREADABLE-2.txt").mkdir()

        with without_privileges():
            members = await read_zip(make_archives(closed.parent))

        assert list(members)[-1] == "tree/UNREADABLE-3.txt"
        assert members["tree/unreadable.TXT"] == b"a file of the folder"

    async def test_a_link_to_what_cannot_be_read_is_noted(self, closed: Path, make_archives: Opening) -> None:
        (closed / "to-file").symlink_to("secret\n.txt")
        (closed / "to-folder").symlink_to("closed")

        with without_privileges():
            members = await read_zip(make_archives(closed.parent))

        noted = members["tree/UNREADABLE.txt"].splitlines()
        assert {b"tree/to-file", b"tree/to-folder"} < set(noted)

    async def test_a_folder_that_cannot_be_read_is_refused(
        self, closed: Path, make_archives: Opening
    ) -> None:
        archives = make_archives(closed.parent)

        with without_privileges(), pytest.raises(Refused) as caught:
            await archives.open((b"tree", b"closed"), Form.ZIP)
        assert caught.value.status == 403


class TestParts:
    @pytest.mark.parametrize("form", SIZED_FORMS)
    async def test_each_part_is_that_of_the_whole(
        self, tree: Path, make_archives: Opening, form: Form
    ) -> None:
        archive = await open_archive(make_archives(), form=form)
        whole = await gather(archive)
        step = 1 if form is Form.ZIP else 7

        for start in range(0, len(whole) + 1, step):
            assert await gather(archive, start, len(whole)) == whole[start:], start
            # Without what the other parts have left in memory.
            fresh = await open_archive(make_archives(), form=form) if start % 70 == 0 else archive
            assert await gather(fresh, start, min(start + 100, len(whole))) == whole[start : start + 100]

    async def test_a_download_that_goes_on_reads_only_what_is_missing(
        self, tree: Path, make_archives: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(8):
            (tree / f"large{number}").write_bytes(LARGE)
        settle(tree)
        trust_new_files(monkeypatch)
        archives = make_archives()
        first = await open_archive(archives)
        whole = await gather(first)
        reads = watch_reads(monkeypatch)

        again = await open_archive(archives)
        rest = await gather(again, len(whole) - LARGE_BYTES, len(whole))

        assert again.etag == first.etag
        assert rest == whole[-LARGE_BYTES:]
        assert sum(reads) <= LARGE_BYTES

    async def test_the_end_alone_needs_no_reading(
        self, tree: Path, make_archives: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tree / "sparse").touch()
        os.truncate(tree / "sparse", 5 << 30)
        archive = await open_archive(make_archives())
        reads = watch_reads(monkeypatch)
        assert archive.size_bytes is not None

        end = await gather(archive, archive.size_bytes - 98, archive.size_bytes)

        assert end.startswith(b"PK\x06\x06")
        assert reads == []

    async def test_a_part_of_a_large_file_reads_that_part(
        self, tree: Path, make_archives: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tree / "sparse").touch()
        os.truncate(tree / "sparse", 5 << 30)
        archive = await open_archive(make_archives())
        reads = watch_reads(monkeypatch)

        assert await gather(archive, 3 << 30, (3 << 30) + 1000) == bytes(1000)
        assert reads == [1000]


LARGE_BYTES = len(LARGE)


def trust_new_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing is remembered of what was written just now: it may be written again meanwhile."""
    monkeypatch.setattr(files_module, "_RACY_NS", -(10**18))


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a file gave, from here on."""
    reads: list[int] = []

    def watch(descriptor: int, offset: int, size_bytes: int) -> bytes:
        data = read_at(descriptor, offset, size_bytes)
        reads.append(len(data))
        return data

    monkeypatch.setattr(archive_module, "read_at", watch)
    return reads


class TestEntityTag:
    @pytest.mark.parametrize("form", FORMS)
    async def test_equal_folders_have_equal_ones(
        self, tree: Path, tmp_path: Path, make_archives: Opening, form: Form
    ) -> None:
        shutil.copytree(tree, tmp_path / "copy/tree")
        settle(tmp_path / "copy/tree")

        first = await open_archive(make_archives(), form=form)
        second = await open_archive(make_archives(tmp_path / "copy"), form=form)

        assert first.etag == second.etag
        assert await gather(first) == await gather(second)

    async def test_each_form_has_its_own(self, tree: Path, make_archives: Opening) -> None:
        archives = make_archives()

        assert len({(await open_archive(archives, form=form)).etag for form in Form}) == len(Form)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda tree: (tree / "a.txt").write_bytes(b"longer than before"), id="a size"),
            pytest.param(lambda tree: os.utime(tree / "a.txt", ns=(0, 1)), id="a time"),
            pytest.param(lambda tree: (tree / "a.txt").chmod(0o600), id="a mode"),
            pytest.param(lambda tree: (tree / "a.txt").rename(tree / "b.txt"), id="a name"),
            pytest.param(lambda tree: (tree / "sub/new").touch(), id="a new file"),
            pytest.param(lambda tree: (tree / "void").rmdir(), id="a folder less"),
            pytest.param(
                lambda tree: ((tree / "void").rmdir(), (tree / "void").touch()), id="a file for a folder"
            ),
        ],
    )
    async def test_a_change_gives_another(
        self, tree: Path, make_archives: Opening, change: Callable[[Path], object]
    ) -> None:
        archives = make_archives()
        before = await open_archive(archives)
        change(tree)
        for folder in (tree, tree / "sub"):
            os.utime(folder, (MTIME_S, MTIME_S))

        assert (await open_archive(archives)).etag != before.etag


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def replace(path: Path) -> None:
    """Another file that looks the same."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"x" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.chmod(status.st_mode)
    other.rename(path)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


class TestTreeThatChanges:
    """A download is complete, or it is cut off."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: path.write_bytes(b"longer than it was"), id="it is longer"),
            pytest.param(lambda path: os.truncate(path, 3), id="it is shorter"),
            pytest.param(lambda path: path.write_bytes(b"First\n"), id="it has another time"),
            pytest.param(replace, id="it is another file"),
            pytest.param(lambda path: path.unlink(), id="it is gone"),
            pytest.param(lambda path: (path.unlink(), path.mkdir()), id="it is a folder"),
            pytest.param(
                lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), id="it leads outside"
            ),
            pytest.param(replace_by_fifo, id="it is a fifo"),
        ],
    )
    async def test_a_file_that_is_another_one_ends_the_download(
        self, tree: Path, make_archives: Opening, form: Form, change: Callable[[Path], object]
    ) -> None:
        archive = await open_archive(make_archives(), form=form)
        change(tree / "a.txt")

        with pytest.raises(OSError, match="changed") as caught:
            await gather(archive)
        assert caught.value.errno == errno.ESTALE

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: os.truncate(path, len(LARGE) + 1), id="it grows"),
            pytest.param(lambda path: os.truncate(path, len(LARGE) - 1), id="it shrinks"),
            pytest.param(write_into, id="it is written to"),
        ],
    )
    async def test_a_file_that_changes_while_it_is_read_ends_the_download(
        self, tree: Path, make_archives: Opening, form: Form, change: Callable[[Path], object]
    ) -> None:
        (tree / "a.txt").write_bytes(LARGE)
        settle(tree)
        stream = (await open_archive(make_archives(), form=form)).stream(0, None)
        await anext(stream)
        change(tree / "a.txt")

        with pytest.raises(OSError, match="changed"):
            [piece async for piece in stream]

    async def test_a_file_that_was_passed_over_may_not_have_changed_either(
        self, tree: Path, make_archives: Opening
    ) -> None:
        archive = await open_archive(make_archives())
        assert archive.size_bytes is not None
        os.utime(tree / "a.txt", (0, 0))

        with pytest.raises(OSError, match="changed"):
            await gather(archive, archive.size_bytes // 2, archive.size_bytes)

    async def test_a_root_that_is_another_folder_ends_the_download(
        self, tree: Path, tmp_path: Path, make_archives: Opening, clock: Callable[[], float]
    ) -> None:
        archive = await open_archive(make_archives(clock=clock))
        tree.parent.rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", tree.parent)
        clock.now_s += 10  # type: ignore[attr-defined]

        with pytest.raises(OSError, match="changed"):
            await gather(archive)


class TestBounds:
    @pytest.mark.parametrize("count", [5, 6])
    async def test_a_folder_may_hold_so_many(self, root: Path, make_archives: Opening, count: int) -> None:
        (root / "tree").mkdir()
        for number in range(count):
            (root / "tree" / str(number)).touch()
        archives = make_archives(max_members=5)

        if count == 5:
            assert len(await read_zip(archives)) == 6
        else:
            with pytest.raises(TooLarge):
                await archives.open((b"tree",), Form.ZIP)

    async def test_they_are_counted_through_all_folders(self, tree: Path, make_archives: Opening) -> None:
        with pytest.raises(TooLarge):
            await make_archives(max_members=6).open((b"tree",), Form.ZIP)
        assert len(await read_zip(make_archives(max_members=7))) == 8

    async def test_more_than_may_be_at_a_time_are_refused(
        self, tree: Path, make_archives: Opening, disk: Disk
    ) -> None:
        disk.queue_s = 0.01
        archives = make_archives(at_once=1)
        first = await archives.open((b"tree",), Form.ZIP)
        assert first is not None

        with pytest.raises(Refused) as caught:
            await archives.open((b"tree",), Form.TAR)
        assert caught.value.status == 503

        first.close()
        first.close()
        await open_archive(archives)
        await open_archive(archives)

    @pytest.mark.parametrize("path", ["missing", "tree"])
    async def test_one_that_comes_to_nothing_takes_no_place(
        self, tree: Path, make_archives: Opening, path: str
    ) -> None:
        archives = make_archives(at_once=1, max_members=1)
        for _ in range(3):
            try:
                assert await archives.open((path.encode(),), Form.ZIP) is None
            except TooLarge:
                continue
        await open_archive(archives, "tree/void")

    @pytest.mark.parametrize("form", FORMS)
    async def test_a_download_takes_a_few_pieces_of_memory(
        self, tree: Path, make_archives: Opening, form: Form
    ) -> None:
        (tree / "sparse").touch()
        os.truncate(tree / "sparse", 32 << 20)
        for number in range(200):
            (tree / f"small{number}").write_bytes(bytes(10_000))
        archive = await open_archive(make_archives(), form=form)
        await gather(archive, 0, 1 if archive.size_bytes else None)

        tracemalloc.start()
        try:
            async for piece in archive.stream(0, archive.size_bytes):
                assert len(piece) < 2 * PIECE_BYTES
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak_bytes < 10 * PIECE_BYTES

    async def test_a_million_members_fit_into_memory(self) -> None:
        contents = archive_module.Contents(ZipLayout(), (b"tree",))
        status = os.stat(".")
        tracemalloc.start()
        try:
            for number in range(20_000):
                contents.append(b"tree/%07d" % number, status)
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert size_bytes / 20_000 < 80


class TestLeaving:
    """What is open is closed, whenever a client leaves."""

    @pytest.mark.parametrize("pieces", [0, 1, 3])
    async def test_a_stream_that_is_closed_leaves_nothing_open(
        self, tree: Path, make_archives: Opening, pieces: int
    ) -> None:
        (tree / "a.txt").write_bytes(LARGE)
        stream = (await open_archive(make_archives())).stream(0, None)
        for _ in range(pieces):
            await anext(stream)

        await stream.aclose()

        # The fixture of the disk looks for the descriptor of a thread that was still reading.
        assert count_open(tree / "sub") == 0

    async def test_a_disk_that_is_closed_ends_the_download(
        self, tree: Path, root: Path, open_files: Open
    ) -> None:
        disk = Disk()
        archive = await open_archive(Archives(open_files(root), disk))
        disk.close()

        with pytest.raises(OSError, match="closed"):
            await gather(archive)
