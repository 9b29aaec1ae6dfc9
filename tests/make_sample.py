"""Makes public/files/sample.txt, the download of the sample site: `python -m tests.make_sample`.

Each line is 32 bytes and says at which byte it begins, so that any part of the file proves by itself that it
is the part that was asked for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SAMPLE_PATH = Path(__file__).parent.parent / "public" / "files" / "sample.txt"
SAMPLE_BYTES = 1_048_576
LINE_BYTES = 32


def format_sample() -> bytes:
    """The whole content, the same on every machine: 32,768 lines of ASCII that end in LF."""
    return b"".join(_format_line(start) for start in range(0, SAMPLE_BYTES, LINE_BYTES))


def _format_line(start: int) -> bytes:
    text = f"byte {start:07} of {SAMPLE_BYTES} "
    # The digest fills the line: without it the file would compress to almost nothing.
    fill = hashlib.sha256(text.encode()).hexdigest()[: LINE_BYTES - 1 - len(text)]
    return f"{text}{fill}\n".encode()


if __name__ == "__main__":
    SAMPLE_PATH.write_bytes(format_sample())
