"""Which files of a folder need compressed forms beside them, and how are those written? `aioserve compress`

A form has the time of its file, and is outdated when the file is newer, for this module as for the server. It
appears whole under its name, or not at all. No link below the folder is followed, neither one that is found
nor one that somebody puts there meanwhile: each segment of a path is opened by itself. That is why nothing
here goes by `containment`, which follows them.

The work is done by threads: all three codings let others run while they compress.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from enum import Enum
from fnmatch import fnmatchcase
from typing import BinaryIO, NamedTuple

from aioserve.content.compression import Compressor, Effort
from aioserve.content.files import EXTENSIONS
from aioserve.protocol.media_types import find_content_type, is_compressible

_TO_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that has taken the name meanwhile would hold the thread for ever.
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# A form has to be smaller by 5 %, or decoding it is not worth its while.
_MOST_PERCENT = 95
# brotli takes half a second for as much, and so long may Ctrl-C have to wait.
_PIECE_BYTES = 256 * 1024
# Against somebody who keeps writing to a file. Past these, it is left to the next run.
_MAX_TRIES = 3
# How often it is told how far it is.
_LOOK_S = 0.1


class Job(NamedTuple):
    """A file below the folder: the names that lead to it, and its size when it was found."""

    segments: tuple[bytes, ...]
    size_bytes: int


class Outcome(Enum):
    """What has become of one form of a file, in words for people."""

    WRITTEN = "written"
    CURRENT = "up to date"
    REMOVED = "outdated and removed, since it would not be 5 % smaller"
    USELESS = "would not be 5 % smaller"


class Form(NamedTuple):
    """`size_bytes` is that of the file which stands now, 0 where there is none."""

    outcome: Outcome
    size_bytes: int


class Result(NamedTuple):
    """What has become of one file: its forms by their coding, and what went wrong, for people."""

    path: bytes
    size_bytes: int
    forms: dict[str, Form]
    problems: list[str]


class _Changed(Exception):
    """The file is not any more what it was when it was opened."""


class _Stopped(Exception):
    """Nobody wants the rest."""


def make_filter(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Gives what tells whether a Content-Type is wanted; without patterns, those are that usually shrink."""
    if not patterns:
        return is_compressible
    return lambda content_type: any(
        fnmatchcase(content_type.partition(";")[0], pattern) for pattern in patterns
    )


def find_jobs(root: int, is_wanted: Callable[[str], bool]) -> tuple[list[Job], list[Result]]:
    """Finds the files below the folder `root` whose Content-Type is wanted, the largest first.

    Links, hidden names and what is named like a form are passed over. The results are for folders that cannot
    be read.
    """
    jobs: list[Job] = []
    failures: list[Result] = []
    waiting: list[tuple[bytes, ...]] = [()]
    while waiting:
        segments = waiting.pop()
        try:
            with _opened_folder(root, segments) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if name.startswith(b".") or name.lower().endswith(tuple(EXTENSIONS.values())):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((*segments, name))
                    elif entry.is_file(follow_symlinks=False) and is_wanted(find_content_type(name)):
                        size_bytes = entry.stat(follow_symlinks=False).st_size
                        jobs.append(Job((*segments, name), size_bytes))
        except FileNotFoundError:
            continue  # gone since it was found
        except OSError as error:
            failures.append(Result(b"/".join(segments) or b".", 0, {}, [_explain(error)]))
    # The largest takes longest: begun last, one thread would be left alone with it.
    jobs.sort(key=lambda job: (-job.size_bytes, job.segments))
    return jobs, failures


def run_jobs(
    root: int,
    jobs: Iterable[Job],
    codings: Sequence[str],
    threads: int,
    advance: Callable[[int], None],
) -> list[Result]:
    """Does what `compress_file` does for each of the files.

    `advance` is called from time to time with how many bytes of the files have been dealt with since. However
    this is left, the threads have ended and nothing that is unfinished stays behind.
    """
    ahead, results = deque(jobs), list[Result]()
    lock, stop = threading.Lock(), threading.Event()
    counted = told = 0

    def count(size_bytes: int) -> None:
        nonlocal counted
        if stop.is_set():
            raise _Stopped
        with lock:
            counted += size_bytes

    def work() -> None:
        with contextlib.suppress(_Stopped):
            while True:
                try:
                    job = ahead.popleft()
                except IndexError:
                    return
                if result := compress_file(root, job, codings, count):
                    results.append(result)

    with ThreadPoolExecutor(threads) as pool:
        try:
            working = {pool.submit(work) for _ in range(threads)}
            while working:
                done, working = wait(working, _LOOK_S, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                now = counted
                advance(now - told)
                told = now
        finally:
            stop.set()
    return sorted(results)


def compress_file(root: int, job: Job, codings: Sequence[str], count: Callable[[int], None]) -> Result | None:
    """Brings the forms of a file up to date; gives None when it has gone.

    `count` is called with the bytes that have been read, or need not be, and may raise to end it all.
    """
    *above, name = job.segments
    size_bytes, forms, problems = job.size_bytes, dict[str, Form](), list[str]()
    counted = 0

    def count_once(read_bytes: int) -> None:
        nonlocal counted
        read_bytes = min(read_bytes, job.size_bytes - counted)  # not again what is read again
        counted += read_bytes
        count(read_bytes)

    try:
        with _opened_folder(root, above) as folder:
            for _ in range(_MAX_TRIES):
                with contextlib.suppress(_Changed):
                    size_bytes = _bring_up_to_date(folder, name, codings, forms, problems, count_once)
                    break
            else:
                problems.append("it changes while it is read, and was left to the next run")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(_explain(error))
    count_once(job.size_bytes)
    return Result(b"/".join(job.segments), size_bytes, forms, problems)


def format_results(results: Sequence[Result], codings: Sequence[str]) -> str:
    """Gives what was done in lines for people."""
    size_bytes = sum(result.size_bytes for result in results)
    lines = [f"{len(results):,} files of {_format_size(size_bytes)}"]
    for coding in codings:
        extension = EXTENSIONS[coding].decode()
        counts = Counter(result.forms[coding].outcome for result in results if coding in result.forms)
        told = ", ".join(f"{counts[outcome]:,} {outcome.value}" for outcome in Outcome if counts[outcome])
        saved_bytes = sum(
            result.size_bytes - form.size_bytes
            for result in results
            if (form := result.forms.get(coding)) and form.size_bytes
        )
        lines.append(f"  {extension:<5}{told or 'nothing'}; saves {_format_size(saved_bytes)}")
    return "\n".join(lines)


def _format_size(size_bytes: int) -> str:
    if size_bytes < 1024:
        return f"{size_bytes} bytes"
    size = size_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@contextlib.contextmanager
def _opened_folder(root: int, segments: Iterable[bytes]) -> Iterator[int]:
    folder = os.open(b".", _TO_LIST, dir_fd=root)
    try:
        for segment in segments:
            above, folder = folder, os.open(segment, _TO_LIST, dir_fd=folder)
            os.close(above)
        yield folder
    finally:
        os.close(folder)


def _bring_up_to_date(
    folder: int,
    name: bytes,
    codings: Sequence[str],
    forms: dict[str, Form],
    problems: list[str],
    count: Callable[[int], None],
) -> int:
    """Writes the forms that are missing or outdated; gives the size of the file.

    Raises: _Changed when the file did not keep still, in which case nothing has been written. OSError.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(os.open(name, _TO_READ, dir_fd=folder), "rb", buffering=0))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError
        forms.clear()
        problems.clear()
        drafts: list[_Draft] = []
        for coding in codings:
            target = name + EXTENSIONS[coding]
            beside = _look(target, folder)
            if beside is not None and not stat.S_ISREG(beside.st_mode):
                problems.append(
                    f"what is named {EXTENSIONS[coding].decode()} beside it is no file, and stays"
                )
            elif beside is not None and beside.st_mtime_ns >= status.st_mtime_ns:
                forms[coding] = Form(Outcome.CURRENT, beside.st_size)
            else:
                drafts.append(stack.enter_context(_drafted(folder, coding, target, status)))
        if drafts:
            _compress(file.fileno(), status, drafts, count)
            now = _look(name, folder)
            if now is None or _get_version(now) != _get_version(status):
                raise _Changed
        for draft in drafts:
            forms[draft.coding] = draft.publish()
    return status.st_size


def _compress(
    descriptor: int, status: os.stat_result, drafts: Sequence[_Draft], count: Callable[[int], None]
) -> None:
    """Reads the file once for all of the drafts."""
    left_bytes = status.st_size
    while left_bytes:
        data = os.read(descriptor, min(left_bytes, _PIECE_BYTES))
        if not data:
            raise _Changed
        left_bytes -= len(data)
        for draft in drafts:
            draft.feed(data)
        count(len(data))
    if _get_version(os.fstat(descriptor)) != _get_version(status):
        raise _Changed
    for draft in drafts:
        draft.finish()


class _Draft:
    """A form while it is written, under a hidden name."""

    def __init__(
        self, folder: int, name: bytes, file: BinaryIO, coding: str, target: bytes, source: os.stat_result
    ) -> None:
        self.coding = coding
        self.is_published = False
        self._folder = folder
        self._name = name
        self._file = file
        self._target = target
        self._source = source
        self._compressor = Compressor(coding, Effort.BEST, source.st_size)

    def feed(self, data: bytes) -> None:
        self._file.write(self._compressor.feed(data))

    def finish(self) -> None:
        self._file.write(self._compressor.finish())
        self._file.flush()

    def publish(self) -> Form:
        """Gives it its name, unless it is not worth it."""
        size_bytes = self._file.tell()
        if size_bytes * 100 > self._source.st_size * _MOST_PERCENT:
            try:
                os.unlink(self._target, dir_fd=self._folder)
            except FileNotFoundError:
                return Form(Outcome.USELESS, 0)
            return Form(Outcome.REMOVED, 0)
        descriptor = self._file.fileno()
        # Whoever may read the file may read it. Only root can give it to another owner, which comes first,
        # since it takes some of the permissions away.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, self._source.st_uid, self._source.st_gid)
        os.fchmod(descriptor, self._source.st_mode & 0o777)
        os.utime(descriptor, ns=(self._source.st_atime_ns, self._source.st_mtime_ns))
        # Otherwise a machine that fails could keep the name and lose the bytes.
        os.fsync(descriptor)
        os.rename(self._name, self._target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.is_published = True
        return Form(Outcome.WRITTEN, size_bytes)


@contextlib.contextmanager
def _drafted(folder: int, coding: str, target: bytes, source: os.stat_result) -> Iterator[_Draft]:
    """A draft that is gone when the block is left, unless it was published."""
    name = b".aioserve-" + secrets.token_hex(8).encode()
    descriptor, draft = os.open(name, _TO_WRITE, 0o600, dir_fd=folder), None
    try:
        with open(descriptor, "wb") as file:
            draft = _Draft(folder, name, file, coding, target, source)
            yield draft
    finally:
        if draft is None or not draft.is_published:
            os.unlink(name, dir_fd=folder)


def _look(name: bytes, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _get_version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _explain(error: OSError) -> str:
    return error.strerror or str(error)
