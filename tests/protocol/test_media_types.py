"""The types that clients depend on, one by one, and what holds for the whole table."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from aioserve.protocol import media_types
from aioserve.protocol.media_types import UNKNOWN, find_content_type, is_compressible

# A wrong type here breaks a page, a player or a download.
EXPECTED = {
    # pages
    b"index.html": "text/html; charset=utf-8",
    b"page.htm": "text/html; charset=utf-8",
    b"page.xhtml": "application/xhtml+xml",
    b"style.css": "text/css; charset=utf-8",
    b"app.js": "text/javascript; charset=utf-8",
    b"app.mjs": "text/javascript; charset=utf-8",
    b"app.js.map": "application/json",
    b"app.wasm": "application/wasm",
    b"site.webmanifest": "application/manifest+json",
    # text
    b"robots.txt": "text/plain; charset=utf-8",
    b"notes.md": "text/markdown; charset=utf-8",
    b"server.py": "text/plain; charset=utf-8",
    b"captions.vtt": "text/vtt; charset=utf-8",
    # data
    b"data.json": "application/json",
    b"data.csv": "text/csv; charset=utf-8",
    b"data.xml": "application/xml",
    b"data.jsonld": "application/ld+json",
    b"data.ndjson": "application/x-ndjson",
    b"data.yaml": "application/yaml",
    b"data.parquet": "application/vnd.apache.parquet",
    b"data.arrow": "application/vnd.apache.arrow.file",
    b"world.pmtiles": "application/vnd.pmtiles",
    b"roads.fgb": "application/flatgeobuf",
    b"points.copc.laz": "application/vnd.laszip",
    b"points.las": "application/vnd.las",
    b"field.nc": "application/x-netcdf",
    b"field.h5": "application/x-hdf5",
    b"elevation.tif": "image/tiff",
    b"world.geojson": "application/geo+json",
    b"zarr.json": "application/json",
    b".zarray": "application/json",
    b".zmetadata": "application/json",
    # feeds
    b"feed.rss": "application/rss+xml",
    b"feed.atom": "application/atom+xml",
    b"events.ics": "text/calendar; charset=utf-8",
    # images
    b"a.svg": "image/svg+xml",
    b"a.png": "image/png",
    b"a.jpg": "image/jpeg",
    b"a.jpeg": "image/jpeg",
    b"a.gif": "image/gif",
    b"a.webp": "image/webp",
    b"a.avif": "image/avif",
    b"a.jxl": "image/jxl",
    b"favicon.ico": "image/vnd.microsoft.icon",
    # fonts
    b"a.woff2": "font/woff2",
    b"a.woff": "font/woff",
    b"a.ttf": "font/ttf",
    b"a.otf": "font/otf",
    # sound and video
    b"a.mp3": "audio/mpeg",
    b"a.m4a": "audio/mp4",
    b"a.ogg": "audio/ogg",
    b"a.opus": "audio/ogg",
    b"a.flac": "audio/flac",
    b"a.wav": "audio/wav",
    b"a.mp4": "video/mp4",
    b"a.webm": "video/webm",
    b"a.mkv": "video/matroska",
    b"live.m3u8": "application/vnd.apple.mpegurl",
    b"live.mpd": "application/dash+xml",
    b"live0001.ts": "video/mp2t",
    b"live0001.m4s": "video/iso.segment",
    # documents
    b"a.pdf": "application/pdf",
    b"a.epub": "application/epub+zip",
    b"a.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    b"a.odt": "application/vnd.oasis.opendocument.text",
    # archives
    b"a.zip": "application/zip",
    b"a.gz": "application/gzip",
    b"a.tar.gz": "application/gzip",
    b"a.tgz": "application/gzip",
    b"a.svgz": "application/gzip",
    b"a.tar.xz": "application/x-xz",
    b"a.tar.zst": "application/zstd",
    b"a.7z": "application/x-7z-compressed",
    # packages and images of disks
    b"a.deb": "application/vnd.debian.binary-package",
    b"a.rpm": "application/x-rpm",
    b"a.apk": "application/vnd.android.package-archive",
    b"Tool-x86_64.AppImage": "application/vnd.appimage",
    b"Tool-x86_64.AppImage.zsync": "application/x-zsync",
    b"live.iso": "application/vnd.efi.iso",
    b"a.torrent": "application/x-bittorrent",
}


@pytest.mark.parametrize(
    ("name", "content_type"), [pytest.param(*item, id=item[0].decode()) for item in EXPECTED.items()]
)
def test_a_known_extension_has_its_type(name: bytes, content_type: str) -> None:
    assert find_content_type(name) == content_type


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        pytest.param(b"INDEX.HTML", "text/html; charset=utf-8", id="upper case"),
        pytest.param(b"a.b.c.d.png", "image/png", id="many dots"),
        pytest.param(b"photo.png.html", "text/html; charset=utf-8", id="the last of two extensions decides"),
        pytest.param(b"lib.d.ts", "text/plain; charset=utf-8", id="an extension of two parts comes first"),
        pytest.param(b"some.lib.d.ts", "text/plain; charset=utf-8", id="two parts behind a dot"),
        pytest.param(b"d.ts", "video/mp2t", id="two parts need a name before them"),
        pytest.param(b".gitignore", "text/plain; charset=utf-8", id="what follows a leading dot"),
        pytest.param(b"\xff\xfe.png", "image/png", id="a name that is not UTF-8"),
        pytest.param("☃.css".encode(), "text/css; charset=utf-8", id="a name beyond ASCII"),
        pytest.param(b"README", "text/plain; charset=utf-8", id="a known name without extension"),
        pytest.param(b"apple-app-site-association", "application/json", id="a well-known name"),
        pytest.param(b"readme.unknownext", UNKNOWN, id="an unknown extension"),
        pytest.param(b"x.p\xffng", UNKNOWN, id="an extension that is not ASCII"),
        pytest.param(b"no_ext", UNKNOWN, id="an unknown name without extension"),
        pytest.param(b"html", UNKNOWN, id="an extension alone is a name"),
        pytest.param(b"name.", UNKNOWN, id="a dot at the end"),
        pytest.param(b"", UNKNOWN, id="no name"),
    ],
)
def test_the_end_of_the_name_decides(name: bytes, content_type: str) -> None:
    assert find_content_type(name) == content_type


@pytest.mark.parametrize("table", [media_types._EXTENSIONS, media_types._NAMES])
class TestTables:
    def test_nothing_is_listed_twice(self, table: dict[str, str]) -> None:
        keys = Counter(key for keys in table.values() for key in keys.split())
        assert [key for key, count in keys.items() if count > 1] == []

    def test_everything_is_listed_in_lower_case(self, table: dict[str, str]) -> None:
        assert [keys for keys in table.values() if keys != keys.lower()] == []

    def test_each_type_is_written_as_a_media_type(self, table: dict[str, str]) -> None:
        """RFC 6838 §4.2: the names that can be registered."""
        name = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
        assert [kind for kind in table if not re.fullmatch(f"{name}/{name}", kind)] == []


def test_text_has_a_charset_and_nothing_else_has() -> None:
    for extension in media_types._TYPE_BY_EXTENSION:
        content_type = find_content_type(b"a." + extension)
        assert content_type.startswith("text/") == content_type.endswith("; charset=utf-8")


def test_the_table_is_large_enough_to_need_no_other() -> None:
    assert len(media_types._TYPE_BY_EXTENSION) >= 400


SHRINKS = (
    "index.html style.css app.js app.mjs app.js.map notes.txt notes.md data.csv data.tsv data.json "
    "data.jsonl data.jsonld data.geojson data.ndjson data.xml feed.rss feed.atom site.webmanifest logo.svg "
    "app.wasm captions.vtt captions.srt live.m3u8 events.ics data.yaml data.toml a.ttf a.otf a.ttc a.eot "
    "favicon.ico a.bmp a.gltf a.obj a.stl server.py LICENSE data.n3 data.nt letter.eml letter.rtf "
    "figure.eps chain.pem"
)
STAYS = (
    "a.png a.jpg a.gif a.webp a.avif a.jxl a.svgz a.woff a.woff2 a.mp3 a.flac a.ogg a.mp4 a.webm a.ts a.pdf "
    "a.docx a.epub a.zip a.gz a.tar.gz a.br a.zst a.xz a.7z a.jar a.apk a.deb a.iso a.exe a.tar a.parquet "
    "a.arrow a.sqlite a.pmtiles a.h5 a.glb a.kmz a.swf a.unknown"
)


@pytest.mark.parametrize("name", SHRINKS.split())
def test_text_and_what_is_like_it_is_worth_compressing(name: str) -> None:
    assert is_compressible(find_content_type(name.encode()))


@pytest.mark.parametrize("name", STAYS.split())
def test_what_is_compressed_already_or_read_in_parts_is_not(name: str) -> None:
    assert not is_compressible(find_content_type(name.encode()))


@pytest.mark.parametrize(
    "content_type",
    ["TEXT/HTML", "application/json ; charset=utf-8", "application/vnd.api+json", "application/javascript"],
)
def test_types_of_an_owner_are_judged_the_same_way(content_type: str) -> None:
    assert is_compressible(content_type)


def test_each_type_that_is_named_as_compressible_belongs_to_a_file() -> None:
    # JavaScript's old name is what owners still write.
    assert media_types._COMPRESSIBLE_TYPES - {"application/javascript"} <= set(media_types._EXTENSIONS)


@pytest.mark.parametrize("content_type", ["application/x", "a", ""])
def test_neither_are_types_that_are_a_part_of_another_name(content_type: str) -> None:
    assert not is_compressible(content_type)
