"""Folders as downloads, from the real command to the programs that people fetch and unpack with."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.process import RunningServer, running_server
from tests.test_clients import find_program, run

MTIME_S = 1_700_000_000

CURL = ("-q", "--silent", "--show-error", "--max-time", "40")

UNPACKING = [
    pytest.param("zip", ("unzip", "-q"), id="unzip"),
    pytest.param("zip", ("bsdtar", "-xf"), id="bsdtar of zip"),
    pytest.param("tar", ("tar", "-xf"), id="tar"),
    pytest.param("tar", ("bsdtar", "-xf"), id="bsdtar of tar"),
    pytest.param("tar.gz", ("tar", "-xzf"), id="tar with gzip"),
    pytest.param("tar.zst", ("tar", "--zstd", "-xf"), id="tar with zstd"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    tree = root / "photos"
    (tree / "2023/summer").mkdir(parents=True)
    (tree / "index.html").write_bytes(b"<title>photos</title>")
    (tree / "2023/summer/žluť.raw").write_bytes(os.urandom(3 << 20))
    (tree / "2023/empty").touch()
    (tree / "2023/small.txt").write_bytes(b"small\n")
    for folder, folders, names in os.walk(tree):
        for name in (*folders, *names):
            os.utime(Path(folder, name), (MTIME_S, MTIME_S))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(root, "--archive") as server:
        yield server


@pytest.fixture
def url(server: RunningServer) -> str:
    return server.url + "photos/?archive="


def assert_same(folder: Path, other: Path) -> None:
    compared = subprocess.run(["diff", "-r", folder, other], capture_output=True, timeout=50)
    assert compared.stdout == b""
    assert compared.returncode == 0


class TestPrograms:
    @pytest.mark.parametrize(("form", "command"), UNPACKING)
    def test_what_is_fetched_can_be_unpacked(
        self, root: Path, url: str, tmp_path: Path, form: str, command: tuple[str, ...]
    ) -> None:
        if form == "tar.zst":
            find_program("zstd")
        fetched = run(tmp_path, "curl", *CURL, "-OJ", "--fail", url + form)
        assert (fetched.returncode, fetched.stderr) == (0, b"")

        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        arguments = [find_program(command[0]), *command[1:], f"photos.{form}"]
        unpacked = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, timeout=50)

        assert (unpacked.returncode, unpacked.stderr) == (0, b"")
        assert_same(root / "photos", tmp_path / "photos")
        assert (tmp_path / "photos/2023/small.txt").stat().st_mtime == MTIME_S

    @pytest.mark.parametrize("form", ["zip", "tar"])
    @pytest.mark.parametrize("cut_bytes", [1, 1000, 2_000_001])
    def test_curl_completes_a_download_that_was_cut(
        self, url: str, tmp_path: Path, form: str, cut_bytes: int
    ) -> None:
        whole = httpx.get(url + form).content
        (tmp_path / "cut").write_bytes(whole[:cut_bytes])

        done = run(
            tmp_path, "curl", *CURL, "-C", "-", "-o", "cut", "-w", "%{http_code} %{size_download}", url + form
        )

        assert done.stdout.decode() == f"206 {len(whole) - cut_bytes}"
        assert (tmp_path / "cut").read_bytes() == whole

    def test_curl_completes_what_a_connection_broke_off(self, root: Path, tmp_path: Path) -> None:
        """By another process than the one that began, as after a restart."""
        path = tmp_path / "photos.zip"
        command = [find_program("curl"), *CURL, "-o", str(path), "-C", "-"]
        with running_server(root, "--archive") as server:
            slowly = [*command, "--limit-rate", "100K", server.url + "photos/?archive=zip"]
            with subprocess.Popen(slowly, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None and not (path.exists() and path.stat().st_size):
                    time.sleep(0.01)
                server.process.kill()
        assert process.returncode not in (0, 28)
        part_bytes = path.stat().st_size

        with running_server(root, "--archive") as server:
            url = server.url + "photos/?archive=zip"
            completed = subprocess.run([*command, url], timeout=50)
            whole = httpx.get(url).content

        assert completed.returncode == 0
        assert 0 < part_bytes < len(whole)
        assert path.read_bytes() == whole


class TestAnswers:
    def test_a_known_length_is_said(self, url: str) -> None:
        got, head = httpx.get(url + "zip"), httpx.head(url + "zip")

        assert got.headers["content-length"] == head.headers["content-length"] == str(len(got.content))
        assert got.headers["etag"] == head.headers["etag"]
        assert head.content == b""

    def test_without_one_it_comes_in_chunks(self, url: str) -> None:
        answer = httpx.get(url + "tar.gz", headers={"Range": "bytes=10-"})

        assert answer.status_code == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["accept-ranges"] == "none"

    def test_who_has_it_is_told_so(self, url: str) -> None:
        etag = httpx.head(url + "zip").headers["etag"]

        assert httpx.get(url + "zip", headers={"If-None-Match": etag}).status_code == 304

    def test_the_folder_itself_is_served_as_before(self, server: RunningServer) -> None:
        with httpx.Client() as client:
            for _ in range(3):
                assert client.get(server.url + "photos/").text == "<title>photos</title>"
                assert client.get(server.url + "photos/?archive=zip").content.startswith(b"PK\x03\x04")
                assert client.get(server.url + "photos/?other=zip").text == "<title>photos</title>"

    def test_a_missing_slash_is_added_with_the_query(self, server: RunningServer) -> None:
        answer = httpx.get(server.url + "photos?archive=zip")

        assert (answer.status_code, answer.headers["location"]) == (308, "./photos/?archive=zip")

    def test_what_is_no_folder_is_not_found(self, server: RunningServer) -> None:
        assert httpx.get(server.url + "missing/?archive=zip").status_code == 404
        assert httpx.get(server.url + "photos/index.html?archive=zip").text == "<title>photos</title>"

    def test_an_unknown_form_is_refused_with_those_that_are(self, url: str) -> None:
        answer = httpx.get(url + "rar")

        assert answer.status_code == 400
        assert "zip, tar, tar.gz" in answer.text

    def test_other_methods_are_refused(self, url: str) -> None:
        assert httpx.post(url + "zip").status_code == 405

    def test_it_is_off_until_it_is_wanted(self, root: Path) -> None:
        with running_server(root) as server:
            assert httpx.get(server.url + "photos/?archive=zip").text == "<title>photos</title>"


class TestTreeThatChanges:
    @pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
    def test_the_connection_is_aborted(self, tmp_path: Path, form: str) -> None:
        # More than the kernel's buffers of one connection hold, also when it is compressed.
        (tmp_path / "a").write_bytes(os.urandom(16 << 20))
        (tmp_path / "b").write_bytes(b"b")
        with running_server(tmp_path, "--archive") as server:
            with httpx.stream("GET", server.url + f"?archive={form}") as answer:
                pieces = answer.iter_raw()
                next(pieces)
                (tmp_path / "b").write_bytes(b"changed")
                with pytest.raises(httpx.RemoteProtocolError):
                    list(pieces)
            assert httpx.get(server.url + "b").content == b"changed"


def test_a_copy_of_a_folder_elsewhere_completes_a_download(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "photos", tmp_path / "photos")
    shutil.copystat(root / "photos", tmp_path / "photos")

    with running_server(root, "--archive") as first, running_server(tmp_path, "--archive") as second:
        begun = httpx.get(first.url + "photos/?archive=zip")
        fields = {"Range": "bytes=1000-", "If-Range": begun.headers["etag"]}
        rest = httpx.get(second.url + "photos/?archive=zip", headers=fields)

    assert rest.status_code == 206
    assert begun.content[1000:] == rest.content
