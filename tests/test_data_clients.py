"""The libraries that read large data by ranges, against `--data`: each reads what it wants, and little else.

What they ask for is theirs to change, so the tests hold bounds; docs/data.md has the figures of one day.
"""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.http import HTTPFileSystem
from pmtiles.reader import Reader
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from tests.process import RunningServer, running_server

ROWS = 400_000
TILES = {(zoom, x, y) for zoom in range(6) for x in range(2**zoom) for y in range(2**zoom)}


class Asked(NamedTuple):
    """One request as the log has it."""

    method: str
    target: str
    status: int
    sent_bytes: int


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    duckdb.execute(
        f"copy (select i as id, hash(i) as x, hash(i + 1) as y, 'name ' || hash(i) as name "
        f"from range({ROWS}) t(i)) "
        f"to '{root}/points.parquet' (format parquet, row_group_size 20480)"
    )
    field = zarr.create_array(
        root / "field.zarr", shape=(600, 600), chunks=(100, 100), dtype="f4", fill_value=-1
    )
    field[:300] = np.arange(300 * 600, dtype="f4").reshape(300, 600)
    with (root / "map.pmtiles").open("wb") as file:
        writer = Writer(file)
        for tile in sorted(TILES, key=lambda tile: zxy_to_tileid(*tile)):
            writer.write_tile(zxy_to_tileid(*tile), make_tile(*tile))
        bounds = dict.fromkeys(("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7"), 0)
        center = {"center_zoom": 0, "center_lon_e7": 0, "center_lat_e7": 0}
        kind = {"tile_type": TileType.PNG, "tile_compression": Compression.NONE, "min_zoom": 0, "max_zoom": 5}
        writer.finalize({**kind, **bounds, **center}, {})
    (root / "film.mp4").write_bytes(random.Random(1).randbytes(3_000_000))
    return root


def make_tile(zoom: int, x: int, y: int) -> bytes:
    return random.Random(f"{zoom}/{x}/{y}").randbytes(2_000)


@pytest.fixture
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(root, "--data", "--log-format", "json") as server:
        yield server


def list_asked(server: RunningServer) -> list[Asked]:
    """Every request so far, once the server has ended."""
    server.stop()
    lines = [json.loads(line) for line in server.output.text.splitlines()[1:]]
    words = [line["request"].split() for line in lines]
    return [
        Asked(method, target, line["status"], line["bytes"])
        for (method, target, _), line in zip(words, lines, strict=True)
    ]


class DatedHttp(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's file system over HTTP, with the one question of DuckDB that it cannot answer."""

    def modified(self, path: str) -> datetime:
        with urllib.request.urlopen(urllib.request.Request(path, method="HEAD")) as answer:
            return parsedate_to_datetime(answer.headers["Last-Modified"])


def ask_duckdb(server: RunningServer, query: str) -> Any:
    connection = duckdb.connect()
    connection.register_filesystem(DatedHttp(block_size=1 << 16, skip_instance_cache=True))
    return connection.execute(query.format(f"read_parquet('{server.url}points.parquet')")).fetchall()


def test_duckdb_reads_a_few_columns_of_a_few_rows(server: RunningServer, root: Path) -> None:
    rows = ask_duckdb(server, "select id, x from {} where id between 100000 and 100002 order by id")

    expected = duckdb.execute("select i, hash(i) from range(100000, 100003) t(i) order by 1").fetchall()
    assert rows == expected
    asked = list_asked(server)
    parts = [one for one in asked if one.status == 206]
    assert {one.status for one in asked} <= {200, 206}
    assert parts
    assert sum(one.sent_bytes for one in parts) < (root / "points.parquet").stat().st_size / 5


def test_duckdb_counts_rows_from_the_end_of_the_file_alone(server: RunningServer, root: Path) -> None:
    assert ask_duckdb(server, "select count(*) from {}") == [(ROWS,)]

    parts = [one for one in list_asked(server) if one.status == 206]
    assert sum(one.sent_bytes for one in parts) < (root / "points.parquet").stat().st_size / 10


def test_zarr_reads_the_chunks_that_it_needs(server: RunningServer) -> None:
    field = zarr.open_array(f"{server.url}field.zarr", mode="r")
    assert isinstance(field, zarr.Array)

    part = field[150:160, 150:260]

    assert np.array_equal(part, np.arange(600 * 300, dtype="f4").reshape(300, 600)[150:160, 150:260])
    chunks = [one.target for one in list_asked(server) if "/c/" in one.target]
    assert sorted(chunks) == ["/field.zarr/c/1/1", "/field.zarr/c/1/2"]


def test_zarr_takes_a_chunk_that_is_missing_for_the_fill_value(server: RunningServer) -> None:
    field = zarr.open_array(f"{server.url}field.zarr", mode="r")
    assert isinstance(field, zarr.Array)

    assert field[599, 599] == -1
    assert [one.status for one in list_asked(server) if "/c/" in one.target] == [404]


def test_fsspec_reads_the_bytes_that_are_asked_for(server: RunningServer, root: Path) -> None:
    size_bytes = (root / "film.mp4").stat().st_size
    system = fsspec.filesystem("http", skip_instance_cache=True)
    url = f"{server.url}film.mp4"

    assert system.info(url)["size"] == size_bytes
    assert system.cat_file(url, 1_000_000, 1_000_010) == (root / "film.mp4").read_bytes()[1_000_000:1_000_010]
    with system.open(url, block_size=1000, cache_type="readahead") as file:
        file.seek(-10, 2)
        assert file.read() == (root / "film.mp4").read_bytes()[-10:]
    parts = [one.sent_bytes for one in list_asked(server) if one.status == 206]
    assert len(parts) == 2
    assert sum(parts) < 5_000


def test_pmtiles_reads_the_header_the_directory_and_the_tile(server: RunningServer) -> None:
    def get_bytes(offset: int, length: int) -> bytes:
        fields = {"Range": f"bytes={offset}-{offset + length - 1}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{server.url}map.pmtiles", headers=fields)
        ) as answer:
            assert answer.status == 206
            content: bytes = answer.read()
            return content

    assert Reader(get_bytes).get(5, 3, 4) == make_tile(5, 3, 4)
    asked = list_asked(server)
    assert [one.status for one in asked] == [206, 206, 206]
    assert asked[-1].sent_bytes == 2_000


@pytest.mark.parametrize(
    ("target", "content_type"),
    [
        ("points.parquet", "application/vnd.apache.parquet"),
        ("map.pmtiles", "application/vnd.pmtiles"),
        ("field.zarr/zarr.json", "application/json"),
        ("field.zarr/c/0/0", "application/octet-stream"),
        ("film.mp4", "video/mp4"),
    ],
)
def test_what_is_binary_is_never_compressed(server: RunningServer, target: str, content_type: str) -> None:
    request = urllib.request.Request(
        f"{server.url}{target}",
        headers={"Accept-Encoding": "gzip, br, zstd", "Origin": "https://app.example"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        if content_type != "application/json":
            assert answer.headers["Content-Encoding"] is None
            assert answer.headers["Accept-Ranges"] == "bytes"
