"""Names that carry a hash of their content, as the tools write them, and names that only look so."""

from __future__ import annotations

import random
import string

import pytest

from aioserve.protocol.hashed_names import has_content_hash

HASHED = {
    "webpack": [
        "main.3f2a9b1c8d7e6f5a4b3c.js",
        "vendors-node_modules_react-dom_index_js.8e3f9a1b2c4d5e6f7a80.js",
        "static/js/main.8e3f9a1b.js",
        "static/js/2.4e5f6a7b.chunk.js",
        "static/js/main.8e3f9a1b.js.map",
        "static/js/main.8e3f9a1b.js.LICENSE.txt",
        "static/css/main.f855e6bc.css",
        "static/media/logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg",
        "assets/3f2a9b1c8d7e6f5a4b3c.png",
        "js/chunk-vendors.1a2b3c4d.js",
    ],
    "gatsby": ["app-3f2a9b1c8d7e6f5a4b3c.js", "webpack-runtime-9d0e1f2a3b4c5d6e7f80.js"],
    "docusaurus": ["assets/js/runtime~main.1f2e3d4c.js", "assets/css/styles.0a1b2c3d.css"],
    "angular": ["main.3f2a9b1c8d7e6f5a.js", "polyfills-5CFQRCPP.js", "styles-WZ3KX5QT.css"],
    "vite": [
        "assets/index-BhbPfTHF.js",
        "assets/index-DVoHNO1Y.css",
        "assets/index-4sK-3FjT.js",
        "assets/react-CHdo91hT.svg",
        "assets/vendor-C_jTnl5q.js",
        "assets/index-legacy-BhbPfTHF.js",
        "assets/index-BhbPfTHF.js.map",
        "assets/model-Cx4Jq8wZ.glb",
        "assets/inter-latin-wght-normal-Dx4kXJAl.woff2",
        "assets/index.4f3a2b1c.js",
        "assets/index-d526a0c5.css",
        "assets/logo-03d6d6da.png",
    ],
    "rollup": ["main-Bx3vQ9dK.mjs", "chunk-e1f2a3b4.js"],
    "esbuild": [
        "app-Q5VK7GLX.js",
        "chunk-4VZTP3UB.js",
        "app-B7KXQ2WN.css",
        "logo-WEL6QHTB.png",
        "app-Q5VK7GLX.js.map",
    ],
    "parcel": ["index.1b2c3d4e.js", "index.8d9fa02c.css", "manifest.5b6c7d8e.webmanifest"],
    "hugo": [
        "css/main.min.e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.css",
        "js/main.9e107d9d372bb6826bd81d3542a419d6.js",
        "css/main." + "0a1b2c3d" * 12 + ".css",
        "css/main." + "0a1b2c3d" * 16 + ".css",
        "sunset_hu_9cb1a3ffd50b1c5d.jpg",
        "sunset_hu15210517121918042184.jpg",
        "sunset_hu_15210517121918042184.webp",
        "sunset_hu3d03a01dcc18bc5be0e67db3d8d209a6_84298_600x400_fill_q75_box_smart1.jpg",
    ],
    "django": [
        "admin/css/base.5b0d3cb0ad5d.css",
        "admin/js/vendor/jquery/jquery.min.b2b7b9f1a0c4.js",
        "fonts/roboto.0a1b2c3d4e5f.woff2",
        "guide.27e20196a850.pdf",
    ],
    "phoenix and sprockets": [
        "app-9e107d9d372bb6826bd81d3542a419d6.css",
        "application-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.js",
        "application-2fd4e1c67a2d28fced849ee1bb76e7391b93eb12.js",
        "application-1a2b3c4d.js",
    ],
    "trunk": ["yew-app-9c2b0e7a9d1c2e1f.js", "yew-app-9c2b0e7a9d1c2e1f_bg.wasm"],
    "astro": ["_astro/index.BhbPfTHF.css", "_astro/hero.DtR3qBKf_1Qz2Yp.webp"],
    "sveltekit": [
        "_app/immutable/entry/start.BhbPfTHF.js",
        "_app/immutable/assets/words.svg",
        "base/_app/immutable/nodes/0.js",
    ],
    "next": [
        "_next/static/chunks/main-app.js",
        "_next/static/Xq3vPdUo0rT_y1/_buildManifest.js",
        "docs/_next/static/media/font.woff2",
    ],
}

NOT_HASHED = {
    "pages": [
        "index-BhbPfTHF.html",
        "main.3f2a9b1c8d7e6f5a4b3c.html",
        "report-20260101.html",
        "_app/immutable/index.html",
        "_next/static/page.htm",
        "INDEX.3f2a9b1c8d7e6f5a4b3c.HTML",
        "page.8e3f9a1b.xhtml",
    ],
    "plain names": [
        "main.js",
        "style.css",
        "favicon.ico",
        "sw.js",
        "service-worker.js",
        "manifest.json",
        ".htaccess",
        "README",
        "CNAME",
        "app.min.js",
        "app.bundle.js",
        "app.js.map",
        "my-component.module.css",
        "vendor.chunk.js",
    ],
    "words of eight letters": [
        "user-settings.js",
        "admin-dashboard.js",
        "my-calendar.css",
        "app-template.js",
        "site-overview.png",
        "page-document.css",
        "john-doe-unsplash.jpg",
        "hero.original.png",
        "lib.standard.js",
        "foo-bar-name.js",
        "a-in-a-box.js",
    ],
    "words in camel case": [
        "index-DashBoard.js",
        "index-UserList.js",
        "page-MyWidget.js",
        "use-NavLinks.js",
        "chunk-AboutUsX.js",
        "icon-iPhone15.png",
        "view-Web3Form.js",
        "view-H264Dash.js",
        "book.Chapter1.png",
        "book-Kapitel2.png",
        "lib-OAuth2UI.js",
        "lib-I18nHelp.js",
        "lib-JsonHttp.js",
        "svg-IconHTML.svg",
        "x-JavaFXUI.js",
        "lib-PowerKVM.js",
        "lib-Syzygies.js",
        "lib-KvSetNum.js",
        "lib-ARBody2D.js",
    ],
    "capitals": [
        "IMG-HOLIDAYS.jpg",
        "app-README22.js",
        "font-MP3FILES.css",
        "a-CHAPTER3.png",
        "a-VERSION2.png",
        "a-SHUTDOWN.png",
        "photo-IMG2345X.jpg",
        "scan-A4POSTER.png",
    ],
    "versions": [
        "jquery-3.7.1.min.js",
        "jquery-3.7.1.js",
        "lib.1.2.3.js",
        "bootstrap-5.3.0-alpha1.css",
        "three.r152.js",
        "react-18.2.0.production.min.js",
        "app-v2.js",
        "d3.v7.min.js",
        "app-1.0.0-rc.12345678.js",
        "app-10.15.70.js",
    ],
    "dates and times": [
        "report-20260101.html",
        "photo-20240115.jpg",
        "photo.20240115.jpg",
        "backup.202401151230.css",
        "screen-20240115123045.png",
        "IMG_20240115_123456.jpg",
        "PXL_20240115_123456789.jpg",
        "photo-2024-01-15.jpg",
        "style.1700000000.css",
        "style-1700000000000.css",
        "menu-1dec2023.png",
        "menu-2024dec1.png",
        "menu.05dec2023a.css",
    ],
    "numbers": [
        "call-5550123456.mp3",
        "call-+15550123.mp3",
        "part-12345678.mp4",
        "tile.000012345678.png",
        "isbn-9780131103627.jpg",
        "status-1234567890123456.png",
        "order.12345678901234567890.png",
    ],
    "words of the letters a to f": [
        "my-facade.png",
        "deadbeef.js",
        "app-deadbeef.js",
        "menu-cafe2024.png",
        "menu-2024cafe.png",
        "face.fade1999.css",
        "id.abcdefab.js",
    ],
    "identifiers": [
        "3f2a9b1c-8d7e-4f5a-9b3c-1a2b3c4d5e6f.jpg",
        "avatar-3f2a9b1c-8d7e-4f5a-9b3c-1a2b3c4d5e6f.jpg",
        "avatar.3f2a9b1c-8d7e-4f5a-9b3c-1a2b3c4d5e6f.jpg",
        "avatar-3f2a9b1c8d7e4f5a9b3c1a2b3c4d5e6f.jpg",
        "3f2a9b1c8d7e4f5a9b3c1a2b3c4d5e6f.jpg",
        "9e107d9d372bb6826bd81d3542a419d6.jpg",
        "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12.png",
        "user-507f1f77bcf86cd799439011.png",
        "user-1a2b3c4d.json",
        "invoice-1a2b3c4d.pdf",
        "photo-1519681393784-724e4d8f9e1b.jpg",
        "8e3f9a1b.js",
        "BhbPfTHF.js",
        "Q5VK7GLX.js",
        "main_8e3f9a1b.js",
        "main.8E3F9A1B.js",
    ],
    "folders of the tools": [
        "_app/version.json",
        "_app/immutable",
        "_next/static",
        "_next/data/x/index.json",
        "immutable/app.js",
        "static/_next/app.js",
        "my_app/immutable/app.js",
        "8e3f9a1b2c4d5e6f7a80/main.js",
        "main.3f2a9b1c8d7e6f5a4b3c.js/readme.txt",
    ],
    "hugo's images": ["cat_hu_12345.jpg", "cat_hu.jpg", "lake_hudson.jpg", "a_hu_9cb1a3ffd50b1c5d.css"],
}


def _list_rows(table: dict[str, list[str]]) -> list[object]:
    return [pytest.param(name, id=f"{tool}: {name}") for tool, names in table.items() for name in names]


@pytest.mark.parametrize("name", _list_rows(HASHED))
def test_a_name_with_a_content_hash_is_known_by_it(name: str) -> None:
    assert has_content_hash(tuple(name.encode().split(b"/")))


@pytest.mark.parametrize("name", _list_rows(NOT_HASHED))
def test_a_name_that_may_get_another_content_is_not_taken_for_a_hashed_one(name: str) -> None:
    assert not has_content_hash(tuple(name.encode().split(b"/")))


def test_the_root_has_no_name() -> None:
    assert not has_content_hash(())


def test_bytes_that_are_no_utf8_are_a_name_like_any_other() -> None:
    assert has_content_hash((b"\xff\xfe.8e3f9a1b.js",))
    assert not has_content_hash((b"\xff\xfe-\xff\xfe\xfd\xfc.js",))


@pytest.mark.parametrize(
    ("pattern", "alphabet", "length", "least"),
    [
        pytest.param("index-{}.js", string.ascii_letters + string.digits + "-_", 8, 0.84, id="base64url"),
        pytest.param("chunk-{}.js", string.ascii_uppercase + "234567", 8, 0.72, id="base32"),
        pytest.param("main.{}.js", "0123456789abcdef", 8, 0.89, id="8 hexadecimal digits"),
        pytest.param("main.{}.js", "0123456789abcdef", 12, 0.97, id="12 hexadecimal digits"),
        pytest.param("main.{}.js", "0123456789abcdef", 20, 0.99, id="20 hexadecimal digits"),
        pytest.param("main.{}.js", "0123456789abcdef", 64, 0.99, id="64 hexadecimal digits"),
    ],
)
def test_few_random_hashes_are_overlooked(pattern: str, alphabet: str, length: int, least: float) -> None:
    chance = random.Random(20_260_101)
    names = [pattern.format("".join(chance.choices(alphabet, k=length))) for _ in range(5_000)]
    assert sum(has_content_hash((name.encode(),)) for name in names) >= least * len(names)
