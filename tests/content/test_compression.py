"""What is compressed can be read, by ours and by others; what is broken is told; memory stays bounded."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.content import compression
from aioserve.content.compression import (
    MAX_PIECE_BYTES,
    Compressor,
    Decompressor,
    Effort,
    compress,
    list_codings,
)
from aioserve.content.files import EXTENSIONS
from aioserve.protocol.negotiation import Codings
from tests.process import make_environment

MIB = 1 << 20
TEXT = "".join(f"{number}: {number * number % 977} steps\n" for number in range(20_000)).encode()
NOISE = random.Random(4).randbytes(300_000)

# What other programs decode each coding with.
PROGRAMS = {"br": ["brotli", "-dc"], "zstd": ["zstd", "-dcq"], "gzip": ["gzip", "-dc"]}

each_coding = pytest.mark.parametrize(
    "coding",
    [
        pytest.param(
            coding,
            marks=pytest.mark.skipif(coding not in list_codings(), reason="its package is not installed"),
        )
        for coding in EXTENSIONS
    ],
)


def decode(coding: str, data: bytes, piece_bytes: int = MIB) -> bytes:
    decompressor = Decompressor(coding)
    pieces = []
    for start in range(0, len(data), piece_bytes):
        for piece in decompressor.feed(data[start : start + piece_bytes]):
            assert 0 < len(piece) <= MAX_PIECE_BYTES
            pieces.append(piece)
    decompressor.finish()
    return b"".join(pieces)


def encode(compressor: Compressor, data: bytes, piece_bytes: int) -> bytes:
    pieces = [
        compressor.feed(data[start : start + piece_bytes]) for start in range(0, len(data), piece_bytes)
    ]
    return b"".join([*pieces, compressor.finish()])


def test_the_codings_are_those_that_are_negotiated_in_the_same_order() -> None:
    assert (*EXTENSIONS, "identity") == Codings._fields


def test_gzip_is_always_there() -> None:
    assert "gzip" in list_codings()


@each_coding
class TestCompressing:
    @pytest.mark.parametrize("data", [b"", b"a", TEXT, NOISE], ids=["nothing", "a byte", "text", "noise"])
    def test_what_is_compressed_is_decoded_to_the_same(self, coding: str, data: bytes) -> None:
        assert decode(coding, compress(coding, data)) == data

    @pytest.mark.parametrize("data", [b"", TEXT], ids=["nothing", "text"])
    def test_other_programs_decode_it_as_well(self, coding: str, data: bytes) -> None:
        program, *options = PROGRAMS[coding]
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")

        done = subprocess.run([path, *options], input=compress(coding, data), capture_output=True, check=True)

        assert done.stdout == data

    def test_the_same_data_gives_the_same_bytes(self, coding: str) -> None:
        assert compress(coding, TEXT) == compress(coding, bytes(bytearray(TEXT)))

    @pytest.mark.parametrize("effort", Effort)
    @pytest.mark.parametrize("size_bytes", [None, len(TEXT)], ids=["of unknown size", "of known size"])
    def test_a_stream_is_decoded_to_the_same(
        self, coding: str, effort: Effort, size_bytes: int | None
    ) -> None:
        compressed = encode(Compressor(coding, effort, size_bytes), TEXT, piece_bytes=10_000)

        assert decode(coding, compressed) == TEXT

    def test_an_empty_stream_is_complete(self, coding: str) -> None:
        assert decode(coding, Compressor(coding).finish()) == b""

    def test_more_effort_gives_less(self, coding: str) -> None:
        text = Path(__file__).read_bytes()
        sizes = [len(encode(Compressor(coding, effort), text, len(text))) for effort in Effort]

        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] < len(text) / 2

    def test_a_stream_comes_out_while_it_goes_in(self, coding: str) -> None:
        compressor = Compressor(coding)

        given = [
            len(compressor.feed(random.Random(seed).randbytes(50_000).hex().encode())) for seed in range(20)
        ]

        assert sum(given) > 20 * 50_000 / 2


@each_coding
class TestDecompressing:
    @pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
    def test_input_may_come_in_any_pieces(self, coding: str, piece_bytes: int) -> None:
        data = TEXT[:5000]

        assert decode(coding, compress(coding, data), piece_bytes) == data

    @pytest.mark.parametrize("size_bytes", [k * MAX_PIECE_BYTES + d for k in (1, 2) for d in (-1, 0, 1)])
    @pytest.mark.parametrize("piece_bytes", [1, MIB])
    def test_what_fills_whole_pieces_is_complete(
        self, coding: str, size_bytes: int, piece_bytes: int
    ) -> None:
        data = bytes(size_bytes)

        assert decode(coding, compress(coding, data), piece_bytes) == data

    def test_what_ends_too_early_is_broken_wherever_it_ends(self, coding: str) -> None:
        compressed = compress(coding, TEXT[:3000])

        for stop in range(len(compressed)):
            with pytest.raises(OSError, match="its end is missing") as caught:
                decode(coding, compressed[:stop])
            assert caught.value.errno == errno.EIO

    @pytest.mark.parametrize("piece_bytes", [1, MIB])
    @pytest.mark.parametrize("garbage", [b"\0", b"x", b"\0" * 100, b"garbage" * 20_000])
    def test_what_follows_its_end_is_refused(self, coding: str, garbage: bytes, piece_bytes: int) -> None:
        with pytest.raises(OSError, match=coding):
            decode(coding, compress(coding, TEXT) + garbage, piece_bytes)

    @pytest.mark.parametrize("data", [b"plain text that was never compressed" * 100, bz2.compress(TEXT)])
    def test_another_format_is_refused(self, coding: str, data: bytes) -> None:
        with pytest.raises(OSError, match=coding):
            decode(coding, data)

    @given(data=st.binary(max_size=200))
    def test_no_input_raises_anything_else(self, coding: str, data: bytes) -> None:
        with contextlib.suppress(OSError):
            decode(coding, data, piece_bytes=50)

    @given(position=st.integers(0, 10**9), value=st.integers(0, 255))
    def test_a_changed_byte_raises_nothing_else(self, coding: str, position: int, value: int) -> None:
        compressed = bytearray(compress(coding, TEXT[:2000]))
        compressed[position % len(compressed)] = value
        with contextlib.suppress(OSError):
            decode(coding, bytes(compressed))

    def test_the_other_codings_are_refused(self, coding: str) -> None:
        for other in set(list_codings()) - {coding}:
            with pytest.raises(OSError, match=coding):
                decode(coding, compress(other, TEXT))


def test_members_of_gzip_that_follow_each_other_are_one_text() -> None:
    members = [b"first ", b"", TEXT, b" last"]
    data = b"".join(map(gzip.compress, members))

    assert decode("gzip", data) == decode("gzip", data, 1) == b"".join(members)


def test_thousands_of_empty_members_are_nothing() -> None:
    assert decode("gzip", gzip.compress(b"") * 20_000) == b""


def test_gzip_names_no_file_and_no_time() -> None:
    header = compress("gzip", TEXT)[:10]

    assert header[:4] == b"\x1f\x8b\x08\x00"
    assert header[4:8] == bytes(4)


def test_a_changed_byte_of_gzip_is_found_by_its_checksum() -> None:
    compressor = zlib.compressobj(0, wbits=31)
    data = bytearray(compressor.compress(b"stored as it is") + compressor.flush())
    data[data.index(b"stored")] ^= 1

    with pytest.raises(OSError, match=r"gzip: .*incorrect data check"):
        decode("gzip", bytes(data))


@pytest.mark.skipif("zstd" not in list_codings(), reason="its package is not installed")
class TestZstd:
    def test_frames_that_follow_each_other_are_one_text(self) -> None:
        frames = [b"first ", b"", TEXT, b" last"]
        data = b"".join(compress("zstd", frame) for frame in frames)

        assert decode("zstd", data) == decode("zstd", data, 1) == b"".join(frames)

    def test_frames_that_are_to_be_skipped_are_skipped(self) -> None:
        skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00note"

        assert decode("zstd", skipped + compress("zstd", TEXT) + skipped) == TEXT

    @pytest.mark.parametrize("effort", Effort)
    def test_it_needs_no_longer_window_than_the_web_allows(self, effort: Effort) -> None:
        zstd = compression._load("zstd")
        compressor = Compressor("zstd", effort)
        start = compressor.feed(NOISE) + compressor.feed(NOISE)
        frame = start or compressor.finish()

        # The frame's header ends with the descriptor of its window: RFC 8878 §3.1.1.1.2.
        assert not frame[4] & 0x20
        exponent, mantissa = frame[5] >> 3, frame[5] & 7
        window_bytes = (1 << 10 + exponent) * (8 + mantissa) // 8
        assert window_bytes <= 8 * MIB
        assert zstd.get_frame_info(frame).dictionary_id == 0

    def test_one_that_needs_a_longer_window_is_refused(self) -> None:
        zstd = compression._load("zstd")
        # Without the size in its header, the window is what was asked for.
        compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
        data = compressor.compress(TEXT) + compressor.flush()

        with pytest.raises(OSError, match="zstd"):
            decode("zstd", data)


@pytest.mark.skipif("br" not in list_codings(), reason="its package is not installed")
def test_streams_of_brotli_that_follow_each_other_are_refused() -> None:
    data = compress("br", TEXT)

    for piece_bytes in (1, len(data), MIB):
        with pytest.raises(OSError, match="br: "):
            decode("br", data + data, piece_bytes)


def list_zeros(coding: str, count_mib: int) -> Iterator[bytes]:
    compressor = Compressor(coding, Effort.KEPT)
    for _ in range(count_mib):
        yield compressor.feed(bytes(MIB))
    yield compressor.finish()


DECODE_A_BOMB = """
import resource, sys
from aioserve.content.compression import Decompressor

def read_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

data = sys.stdin.buffer.read()
decompressor = Decompressor(sys.argv[1])
sum(map(len, decompressor.feed(data[:1])))
before, size_bytes = read_peak(), 0
for piece in decompressor.feed(data[1:]):
    size_bytes += len(piece)
decompressor.finish()
print(size_bytes, read_peak() - before)
"""


@each_coding
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak differs")
def test_a_short_input_that_stands_for_much_takes_no_memory(coding: str) -> None:
    bomb = b"".join(list_zeros(coding, 256))
    assert len(bomb) < MIB

    done = subprocess.run(
        [sys.executable, "-c", DECODE_A_BOMB, coding],
        input=bomb,
        env=make_environment(),
        capture_output=True,
        check=True,
    )

    size_bytes, grown_kib = map(int, done.stdout.split())
    assert size_bytes == 256 * MIB
    # Windows of up to 8 MiB, and what is on its way.
    assert grown_kib < 32 * 1024


WITHOUT_PACKAGES = """
import sys
sys.modules.update({"brotli": None, "backports.zstd": None, "compression.zstd": None})
from aioserve.content.compression import Compressor, Decompressor, compress, list_codings

assert list_codings() == ("gzip",), list_codings()
assert b"".join(Decompressor("gzip").feed(compress("gzip", b"text"))) == b"text"
for make in (Compressor, Decompressor):
    for coding in ("br", "zstd"):
        try:
            make(coding)
        except ImportError:
            continue
        raise AssertionError(coding)
"""


def test_a_package_that_is_missing_leaves_the_other_codings() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES], env=make_environment(), check=True)


def test_importing_the_module_imports_no_package() -> None:
    program = "import sys, aioserve.content.compression; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], env=make_environment(), capture_output=True, text=True, check=True
    )

    assert not {"brotli", "_brotli", "backports.zstd", "compression.zstd"} & set(done.stdout.split())
