"""What the servers serve: files of random bytes, made once for a run."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

# Files of one folder; more get one beside it.
PER_FOLDER = 100

# Seconds for which a server may take a file for one that is still being written, with some room.
SETTLE_S = 3

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Files:
    """So many files of the same size. JPEG by name: a type that nobody compresses or adds a charset to."""

    size_bytes: int
    count: int = 1

    def name(self, number: int) -> str:
        """The path of one below the root, which is its target too."""
        return f"{self.size_bytes}/{number // PER_FOLDER:04d}/{number % PER_FOLDER:02d}.jpg"


class Folder:
    """The root of the site: each kind of files is made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._counts: dict[int, int] = {}
        self._made_at_s = 0.0

    def make(self, files: Files) -> None:
        begin = self._counts.get(files.size_bytes, 0)
        for number in range(begin, files.count):
            path = self.root / files.name(number)
            if number % PER_FOLDER == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(random.Random(f"{files.size_bytes} {number}").randbytes(files.size_bytes))
        if files.count > begin:
            self._counts[files.size_bytes] = files.count
            self._made_at_s = time.monotonic()

    def settle(self) -> None:
        """Waits until nobody can take a file for a new one, which no server keeps."""
        time.sleep(max(0.0, self._made_at_s + SETTLE_S - time.monotonic()))

    def read(self, files: Files, number: int) -> bytes:
        return (self.root / files.name(number)).read_bytes()
