"""What the servers serve: files of random content, made once for a run."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from aioserve.content.compression import compress
from aioserve.content.files import EXTENSIONS

# Files of one folder; more get one beside it.
PER_FOLDER = 100

# Seconds for which a server may take a file for one that is still being written, with some room.
SETTLE_S = 3

KIB, MIB = 1 << 10, 1 << 20


class Kind(Enum):
    """What is in files, by the extension of their names."""

    # Random bytes. A type that nobody compresses or adds a charset to.
    IMAGE = "jpg"
    # Random bytes and as many zeros, and beside each file all its compressed forms. These have the size, but
    # for a hundredth.
    SCRIPT = "js"
    # Words, and nothing beside.
    TEXT = "txt"


@dataclass(frozen=True, slots=True)
class Files:
    """So many files of the same size."""

    size_bytes: int
    count: int = 1
    kind: Kind = Kind.IMAGE

    @property
    def folder(self) -> str:
        return str(self.size_bytes) if self.kind is Kind.IMAGE else f"{self.kind.value}-{self.size_bytes}"

    @property
    def pattern(self) -> str:
        """How `printf` makes the path of one below the root, of the folder's number and its own in that."""
        return f"{self.folder}/%04d/%02d.{self.kind.value}"

    def name(self, number: int) -> str:
        """The path of one below the root, which is its target too."""
        return self.pattern % divmod(number, PER_FOLDER)


class Folder:
    """The root of the site: each kind of files is made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._counts: dict[str, int] = {}
        self._made_at_s = 0.0

    def make(self, files: Files) -> None:
        begin = self._counts.get(files.folder, 0)
        for number in range(begin, files.count):
            path = self.root / files.name(number)
            if number % PER_FOLDER == 0:
                path.parent.mkdir(parents=True)
            content = make_content(files, number)
            path.write_bytes(content)
            if files.kind is Kind.SCRIPT:
                # Written after it: a form that is older is none of this file.
                for coding in EXTENSIONS:
                    find_form(path, coding).write_bytes(compress(coding, content))
        if files.count > begin:
            self._counts[files.folder] = files.count
            self._made_at_s = time.monotonic()

    def settle(self) -> None:
        """Waits until nobody can take a file for a new one, which no server keeps."""
        time.sleep(max(0.0, self._made_at_s + SETTLE_S - time.monotonic()))

    def read(self, files: Files, number: int, coding: str = "") -> bytes:
        """The content of one, or of its compressed form."""
        path = self.root / files.name(number)
        return (find_form(path, coding) if coding else path).read_bytes()


def make_content(files: Files, number: int) -> bytes:
    chooser = random.Random(f"{files.size_bytes} {number}")
    if files.kind is Kind.TEXT:
        # Some words come often and most of them seldom, as in a language.
        words = [chooser.randbytes(chooser.randint(1, 5)).hex() for _ in range(1000)]
        chosen = (words[int(1000 * chooser.random() ** 3)] for _ in range(files.size_bytes // 2))
        return " ".join(chosen).encode()[: files.size_bytes]
    if files.kind is Kind.SCRIPT:
        content = chooser.randbytes(files.size_bytes - files.size_bytes // 100)
        return content + bytes(len(content))
    return chooser.randbytes(files.size_bytes)


def find_form(path: Path, coding: str) -> Path:
    return path.with_name(path.name + EXTENSIONS[coding].decode())
