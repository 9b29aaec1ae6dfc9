"""Want-Repr-Digest as clients write it, and the digest that they get (RFC 9530)."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.conditional import format_hash_etag
from aioserve.protocol.digest import format_digest, wants_digest

WANTED = [
    "sha-256=10",
    "sha-256=1",
    "sha-512=3, sha-256=10, unixsum=0",
    "sha-512=10,sha-256=1",
    "sha-256=0, sha-256=5",
    " sha-256=5 ",
    "sha-256=5;note=x",
    'sha-256=5; note="a, b"',
    'a, b=?0, c=:AQ==:, d=1.5, e="x\\"y", f=(1 2;q 3), g=tok/en, h=(), sha-256=2',
    "sha-512=10\t, \tsha-256=3",
]

NOT_WANTED = [
    None,
    "",
    "sha-512=10",
    "sha-256",
    "sha-256=0",
    "sha-256=11",
    "sha-256=-1",
    "sha-256=1.0",
    "sha-256=?1",
    'sha-256="10"',
    "sha-256=5, sha-256=0",
    "SHA-256=10",
    "sha-256 =10",
    "sha-256= 10",
    "sha-256=10,",
    ",sha-256=10",
    "sha-256=10 sha-512=1",
    "sha-256=10, !",
    'sha-256=10, x="',
    "sha-256=(10)",
    "sha-256=1234567890123456",
    "sha-256;q=10",
    "sha-256=٣",
    "sha-256=10" + ", x" * 1_000,
]


@pytest.mark.parametrize("text", WANTED)
def test_the_digest_is_wanted(text: str) -> None:
    assert wants_digest(text)


@pytest.mark.parametrize("text", NOT_WANTED)
def test_the_digest_is_not_wanted(text: str | None) -> None:
    assert not wants_digest(text)


@given(st.text('sha-256=10,;()"\\: ?.*' + string.ascii_lowercase[:4], max_size=200))
def test_no_field_breaks_the_reader(text: str) -> None:
    wants_digest(text)


def test_a_long_field_of_parameters_takes_no_time() -> None:
    assert not wants_digest("a;" + ";" * 1_000)
    assert not wants_digest("a=(" + "1 " * 400 + "!")
    assert not wants_digest("a" + ";b=1" * 200 + "!")


def test_the_digest_is_written_as_in_the_rfc() -> None:
    # RFC 9530 §2, the example {"hello": "world"} with its line feed.
    digest = hashlib.sha256(b'{"hello": "world"}\n').digest()
    assert format_digest(digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


class TestTags:
    digest = hashlib.sha256(b"content").digest()

    def test_equal_contents_have_one_tag(self) -> None:
        assert format_hash_etag(self.digest) == format_hash_etag(hashlib.sha256(b"content").digest())
        assert format_hash_etag(self.digest) != format_hash_etag(hashlib.sha256(b"other").digest())

    def test_each_coding_has_its_own(self) -> None:
        tags = {format_hash_etag(self.digest, coding) for coding in (None, "br", "gzip", "zstd")}
        assert len(tags) == 4
        assert format_hash_etag(self.digest, "br").endswith('-br"')

    def test_a_tag_is_strong_and_short(self) -> None:
        tag = format_hash_etag(self.digest)
        assert len(tag) == 24
        assert tag[0] == tag[-1] == '"'
        assert set(tag[1:-1]) <= set(string.ascii_letters + string.digits + "-_")
