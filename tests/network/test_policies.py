"""The owner's wishes on the wire: which fields each kind of answer has, with each of the options."""

from __future__ import annotations

from pathlib import Path

import pytest

from aioserve.protocol.cors import EXPOSED
from tests.network.conftest import Serve
from tests.raw_client import Answer, RawClient, get

APP = "https://app.example"
TAGGED = "If-None-Match: *"


@pytest.fixture(autouse=True)
def assets(site_root: Path) -> None:
    (site_root / "assets").mkdir()
    (site_root / "assets" / "index-BhbPfTHF.js").write_bytes(b"export {}\n")
    (site_root / "assets" / "app.js").write_bytes(b"export {}\n")


async def get_each_kind(port: int, *fields: str) -> dict[str, Answer]:
    """One answer of each kind that a client can get."""
    return {
        "200": await get(port, "/hello.txt", *fields),
        "200 to HEAD": await get(port, "/hello.txt", *fields, method="HEAD"),
        "206": await get(port, "/hello.txt", "Range: bytes=0-1", *fields),
        "206 in parts": await get(port, "/large.bin", "Range: bytes=0-1,9-9", *fields),
        "304": await get(port, "/hello.txt", TAGGED, *fields),
        "308": await get(port, "/folder", *fields),
        "404": await get(port, "/none", *fields),
        "405": await get(port, "/hello.txt", *fields, method="PUT"),
        "412": await get(port, "/hello.txt", 'If-Match: "other"', *fields),
        "416": await get(port, "/hello.txt", "Range: bytes=99-", *fields),
        "204": await get(port, "/hello.txt", *fields, method="OPTIONS"),
        "501": await get(port, "/hello.txt", *fields, method="BREW"),
        "400": await get(port, "/%", *fields),
    }


class TestCacheControl:
    """RFC 9111 §5.2, RFC 8246."""

    async def test_what_may_change_is_asked_about_and_a_hashed_name_is_not(self, serve: Serve) -> None:
        async with serve() as server:
            kinds = await get_each_kind(server.port)
            hashed = [
                await get(server.port, "/assets/index-BhbPfTHF.js", *fields)
                for fields in ((), ("Range: bytes=0-1",), (TAGGED,))
            ]
            failed = await get(server.port, "/assets/index-BhbPfTHF.js", "Range: bytes=99-")
            missing = await get(server.port, "/assets/main-BhbPfTHF.js")

        found = {kind: answer.fields.get("cache-control") for kind, answer in kinds.items()}
        assert found == {**dict.fromkeys(kinds, "no-cache"), "204": None}
        assert [answer.status for answer in hashed] == [200, 206, 304]
        assert {answer.fields["cache-control"] for answer in hashed} == {
            "public, max-age=31536000, immutable"
        }
        assert (failed.status, failed.fields["cache-control"]) == (416, "no-cache")
        assert (missing.status, missing.fields["cache-control"]) == (404, "no-cache")

    async def test_the_last_glob_that_names_the_file_counts(self, serve: Serve) -> None:
        options = [
            "*.html: max-age=1, stale-while-revalidate=2",
            "/assets/**: max-age=3",
            "*-*.js: max-age=4",
        ]
        async with serve(cache_control=options) as server:
            found = [
                (await get(server.port, target)).fields["cache-control"]
                for target in (
                    "/",
                    "/assets/app.js",
                    "/assets/index-BhbPfTHF.js",
                    "/hello.txt",
                    "/assets/none",
                )
            ]

        assert found == [
            "max-age=1, stale-while-revalidate=2",
            "max-age=3",
            "max-age=4",
            "no-cache",
            "no-cache",
        ]


class TestHeader:
    async def test_a_field_is_on_every_answer(self, serve: Serve) -> None:
        async with serve(header=["X-One: a, b", "Link: </a>; rel=preload"]) as server:
            kinds = await get_each_kind(server.port)

        assert {kind: answer.fields.get("x-one") for kind, answer in kinds.items()} == dict.fromkeys(
            kinds, "a, b"
        )
        assert {answer.fields["link"] for answer in kinds.values()} == {"</a>; rel=preload"}

    async def test_presets_are_on_every_answer(self, serve: Serve) -> None:
        async with serve(coi=True, security_headers=True) as server:
            kinds = await get_each_kind(server.port)

        for name, value in {
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-embedder-policy": "require-corp",
            "x-content-type-options": "nosniff",
            "content-security-policy": "frame-ancestors 'self'",
        }.items():
            assert {kind: answer.fields.get(name) for kind, answer in kinds.items()} == dict.fromkeys(
                kinds, value
            )


class TestCors:
    """Fetch §3.3."""

    @pytest.mark.parametrize("origin", [(), (f"Origin: {APP}",), ("Origin: null",)])
    async def test_every_answer_can_be_read_by_all(self, serve: Serve, origin: tuple[str, ...]) -> None:
        async with serve(cors="*") as server:
            kinds = await get_each_kind(server.port, *origin)

        for answer in kinds.values():
            assert answer.fields["access-control-allow-origin"] == "*"
            assert answer.fields["access-control-expose-headers"] == EXPOSED
            assert "Origin" not in answer.fields.get("vary", "")

    async def test_every_answer_can_be_read_by_an_origin_of_the_list(self, serve: Serve) -> None:
        async with serve(cors=[APP]) as server:
            allowed = await get_each_kind(server.port, f"Origin: {APP}")
            others = await get_each_kind(server.port, "Origin: https://evil.example")
            unnamed = await get_each_kind(server.port)

        for kind, answer in allowed.items():
            assert answer.fields.get("access-control-allow-origin") == APP, kind
        for answer in (*others.values(), *unnamed.values()):
            assert "access-control-allow-origin" not in answer.fields
        for answer in (*allowed.values(), *others.values(), *unnamed.values()):
            assert "Origin" in answer.fields["vary"].split(", ")

    async def test_who_asks_again_from_elsewhere_gets_an_answer_of_his_own(self, serve: Serve) -> None:
        async with serve(cors=[APP, "http://b"]) as server, RawClient(server.port) as client:
            for target in ("/hello.txt", "/none"):
                for origin in (APP, "http://b", "http://c", APP, "http://c", "http://b") * 2:
                    answer = await client.ask(
                        f"GET {target} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n".encode()
                    )
                    allowed = origin if origin != "http://c" else None
                    assert answer.fields.get("access-control-allow-origin") == allowed

    async def test_a_preflight_is_answered(self, serve: Serve) -> None:
        preflight = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: range, x-own")
        async with serve(cors=[APP]) as server:
            allowed = await get(server.port, "/any", f"Origin: {APP}", *preflight, method="OPTIONS")
            other = await get(server.port, "/any", "Origin: http://c", *preflight, method="OPTIONS")

        assert allowed.status == other.status == 204
        assert allowed.fields["access-control-allow-origin"] == APP
        assert allowed.fields["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
        assert {"Range", "If-Range", "x-own"} <= set(
            allowed.fields["access-control-allow-headers"].split(", ")
        )
        assert {"Origin", "Access-Control-Request-Headers"} <= set(allowed.fields["vary"].split(", "))
        assert int(allowed.fields["access-control-max-age"]) > 0
        assert not [name for name in other.fields if name.startswith("access-control")]
        assert "Origin" in other.fields["vary"]

    async def test_a_private_network_can_be_reached(self, serve: Serve) -> None:
        fields = (
            f"Origin: {APP}",
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Private-Network: true",
        )
        async with serve(cors="*") as server:
            answer = await get(server.port, "/", *fields, method="OPTIONS")

        assert answer.fields["access-control-allow-private-network"] == "true"

    async def test_without_the_option_nothing_is_said(self, serve: Serve) -> None:
        async with serve() as server:
            kinds = await get_each_kind(server.port, f"Origin: {APP}", "Access-Control-Request-Method: GET")

        assert not [
            name for answer in kinds.values() for name in answer.fields if name.startswith("access-control")
        ]


class TestData:
    async def test_head_with_a_range_tells_what_get_would_get(self, serve: Serve) -> None:
        async with serve(data=True) as server:
            for fields in (("Range: bytes=2-3",), ("Range: bytes=0-1,4-4",), ("Range: bytes=99-",)):
                head = await get(server.port, "/hello.txt", *fields, method="HEAD")
                whole = await get(server.port, "/hello.txt", *fields)
                assert head.status == whole.status != 200
                assert head.body == b""
                assert head.fields.get("content-range") == whole.fields.get("content-range")
                assert head.fields["content-length"] == whole.fields["content-length"]

    async def test_otherwise_head_ignores_it(self, serve: Serve) -> None:
        async with serve() as server:
            answer = await get(server.port, "/hello.txt", "Range: bytes=2-3", method="HEAD")

        assert (answer.status, answer.fields["content-length"]) == (200, "6")

    async def test_all_may_read_unless_a_list_is_given(self, serve: Serve) -> None:
        async with serve(data=True) as server:
            assert (await get(server.port, "/none")).fields["access-control-allow-origin"] == "*"
        async with serve(data=True, cors=[APP]) as server:
            assert "access-control-allow-origin" not in (await get(server.port, "/none")).fields
