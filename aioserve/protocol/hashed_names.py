"""Does the name of a file carry a hash of its content, so that a copy never grows old?

A build tool that puts a hash into each name makes another name for another content: a copy may be kept for a
year without being asked about. A name that only looks so keeps an old page alive for that year, and nobody
can call it back; one that is overlooked costs a short exchange. So whatever could be a word, a date, a
version, a number or an identifier is none, and hashes that could be words are overlooked: one in seven of
Vite's, one in four of esbuild's, one in eleven of eight hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

# Below these folders each name is new with each build: the tools' own servers say immutable to all of it.
IMMUTABLE_FOLDERS: Final = (
    (b"_app", b"immutable"),  # SvelteKit
    (b"_next", b"static"),  # Next.js
)

# Pages are what links lead to: they keep their names.
_PAGES: Final = frozenset({"html", "htm", "shtml", "xhtml", "xht"})

# What build tools give short hashes to. In other files eight characters are more often an identifier.
_ASSET_EXTENSIONS: Final = (
    "js mjs cjs css map wasm webmanifest svg png apng jpg jpeg gif webp avif jxl ico bmp cur "
    "woff2 woff ttf otf eot mp3 m4a ogg opus flac wav aac mp4 webm ogv mov vtt glb gltf ktx2 hdr"
)
_ASSETS: Final = frozenset(_ASSET_EXTENSIONS.split())
_IMAGES: Final = frozenset({"jpg", "jpeg", "png", "gif", "webp", "avif", "bmp", "tif", "tiff"})

# What tools write behind the hash: "main.8e3f9a1b.chunk.js", "main.8e3f9a1b.js.map", "app-3f...5a_bg.wasm".
_LICENSE: Final = ".LICENSE.txt"
_ROLES: Final = (".chunk", ".min", ".bundle", ".module", ".worker", ".async", "_bg")

# RFC 9562 §5: 4 or another version at the thirteenth digit, and one of four at the seventeenth.
_UUID: Final = "[0-9a-f]{12}[1-8][0-9a-f]{3}[89ab][0-9a-f]{15}"

# The months that can be written in hexadecimal digits, beside a year: "report-2024dec1.png".
_DATE: Final = "(?=.*(?:19|20)[0-9]{2}).*(?:feb|dec)"


def _is_hex_hash(text: str) -> bool:
    """True for hexadecimal digits that are no number, no word, no word with a number, no date and no UUID."""
    # At least two changes between figures and letters: "cafe2024" and "2024face" have one.
    changes = len(re.findall("[0-9](?=[a-f])|[a-f](?=[0-9])", text))
    return changes >= 2 and not re.match(_DATE, text) and not re.fullmatch(_UUID, text)


def _is_base64_hash(text: str) -> bool:
    """True for text of the base64url alphabet that no one would write."""
    has_both_cases = re.search("[a-z]", text) and re.search("[A-Z]", text)
    return has_both_cases is not None and _count_oddities(text) >= 5


def _is_base32_hash(text: str) -> bool:
    """True for text of the base32 alphabet (A-Z, 2-7) that no one would write."""
    return re.search("[2-7]", text) is not None and _count_oddities(text) >= 4


def _is_decimal_hash(text: str) -> bool:
    return True


class _Form(NamedTuple):
    """How a tool writes a hash.

    `pattern` matches a name without what stands behind the hash; `is_hash` says whether group 1 can be one;
    `extensions` are those that it is believed for, None all but pages.
    """

    pattern: str
    is_hash: Callable[[str], bool]
    extensions: frozenset[str] | None


_FORMS: Final = (
    # webpack (20), Angular (16), Trunk (16), Gatsby (20), create-react-app's media (32), Hugo, Phoenix and
    # Sprockets (32, 40, 64, 96, 128).
    _Form(r".+[.\-]([0-9a-f]{16}|[0-9a-f]{20}|[0-9a-f]{32}|[0-9a-f]{40})", _is_hex_hash, None),
    _Form(r".+[.\-]([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})", _is_hex_hash, None),
    # webpack's assets have no other name. 32 or 40 digits alone are as often the hash of an address.
    _Form(r"([0-9a-f]{20}|[0-9a-f]{64})", _is_hex_hash, _ASSETS),
    # Django's manifest storage, and WhiteNoise. Behind a hyphen they would be the end of a UUID.
    _Form(r".+\.([0-9a-f]{12})", _is_hex_hash, None),
    # webpack with [contenthash:8] as create-react-app and Vue CLI have it, Parcel, Vite up to 4, Rollup up
    # to 3, Docusaurus, Propshaft.
    _Form(r".+[.\-]([0-9a-f]{8})", _is_hex_hash, _ASSETS),
    # Vite, Rollup; with a point SvelteKit and Astro, which writes a second hash behind the one of an image.
    _Form(r".+[.\-]([0-9A-Za-z_\-]{8})", _is_base64_hash, _ASSETS),
    _Form(r".+\.([0-9A-Za-z_\-]{8})_[0-9A-Za-z]{4,7}", _is_base64_hash, _IMAGES),
    # esbuild, and Angular with it.
    _Form(r".+-([A-Z2-7]{8})", _is_base32_hash, _ASSETS),
    # Hugo's processed images, in three of its ages.
    _Form(r".+_hu_?([0-9a-f]{16})", _is_hex_hash, _IMAGES),
    _Form(r".+_hu_?([0-9]{17,20})", _is_decimal_hash, _IMAGES),
    _Form(r".+_hu([0-9a-f]{32})_[0-9]+_[0-9]+x[0-9]+_.+", _is_hex_hash, _IMAGES),
)


# Each file of a page is asked for many times.
@lru_cache(maxsize=4096)
def has_content_hash(segments: tuple[bytes, ...]) -> bool:
    """Tells whether the file at this path has a name that another content would not have."""
    if not segments:
        return False
    name = segments[-1].decode("latin-1").removesuffix(_LICENSE)
    stem, point, extension = name.rpartition(".")
    extension = extension.lower()
    if not stem or not point or extension in _PAGES:
        return False
    if any(pair in IMMUTABLE_FOLDERS for pair in pairwise(segments[:-1])):
        return True
    if extension == "map":
        stem = stem.rpartition(".")[0]
    for role in _ROLES:
        stem = stem.removesuffix(role)
    for pattern, is_hash, extensions in _FORMS:
        if extensions is None or extension in extensions:
            match = re.fullmatch(pattern, stem)
            if match is not None and is_hash(match[1]):
                return True
    return False


# ---- words -----------------------------------------------------------------------------------------------

# The 250 pairs of letters that are most frequent in the words of programs and of English: 92 of 100 pairs in
# a word are one of them, and 37 of 100 in a random text. A letter, then those that follow it.
_ROWS: Final = (
    "abcdgiklmnprstuvxy baeilorsu cacehiklorstu dadeilorsu eabcdefgilmnopqrstvwxy faefilorstu "
    "gaehilnorsu haeiot iabcdefglmnoprstvxz keis ladeilostuy mabeilmopsu nacdefgiklnostuv "
    "oabcdfgiklmnoprstuvw paehiloprstuy qu racdefgiklmnoprstuy sacehilopstuy tacefhilmoprstuy "
    "uabceilmnprst vaei waeio xept yps ze "
)
_FOLLOWERS: Final = {row[0]: row[1:] for row in _ROWS.split()}

# What a name is written with: a word, capitals, a number.
_PIECE: Final = "[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[-_]"


def _count_oddities(text: str) -> int:
    """How much there is in `text` that words do not have: pairs of letters, and pieces."""
    pieces = re.findall(_PIECE, text)
    letters = [piece.lower() for piece in pieces if piece.isalpha()]
    pairs = [pair for word in letters for pair in pairwise(word)]
    odd_pairs = sum(after not in _FOLLOWERS.get(letter, "") for letter, after in pairs)
    return len(pieces) - 1 + odd_pairs
