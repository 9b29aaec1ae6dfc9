"""Lines of several processes in one output: whole, whatever a killed one leaves, and counted when lost."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from aioserve.network.joined_log import begin_log, copy_lines

# More than a pipe takes at once, and than is read from one at once.
LONG = b"x" * 200_000


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = (io.FileIO(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True))

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def pipes() -> Iterator[list[Pipe]]:
    """Three pipes."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Pipe())) for _ in range(3)]


@contextlib.contextmanager
def copying(inputs: list[Pipe], output: Pipe) -> Iterator[None]:
    """Copies in a thread while the block runs, and until the pipes, which it ends, have been read."""

    def copy() -> None:
        copy_lines([pipe.reader.fileno() for pipe in inputs], output.writer.fileno(), os.getppid())
        output.writer.close()

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield
    finally:
        for pipe in inputs:
            pipe.writer.close()
        thread.join()


def copy(inputs: list[Pipe], *written: bytes) -> bytes:
    """What becomes of these, each of which is all that comes through one pipe."""
    output = Pipe()
    with contextlib.closing(output), copying(inputs, output):
        for pipe, data in zip(inputs, written, strict=False):
            pipe.writer.write(data)
            pipe.writer.close()
        return output.reader.readall()


class TestLines:
    def test_those_of_several_pipes_come_whole(self, pipes: list[Pipe]) -> None:
        assert sorted(copy(pipes, b"a\nb\n", b"c\n", b"").splitlines()) == [b"a", b"b", b"c"]

    def test_one_that_comes_in_parts_goes_out_when_it_is_whole(self, pipes: list[Pipe]) -> None:
        source, output, _ = pipes
        with copying([source], output):
            source.writer.write(b"first\nsec")
            assert output.reader.read(100) == b"first\n"
            source.writer.write(b"ond\n")
            assert output.reader.read(100) == b"second\n"

    def test_long_ones_of_several_pipes_do_not_mix(self, pipes: list[Pipe]) -> None:
        first, second, output = pipes

        def write(pipe: Pipe, line: bytes) -> None:
            with io.BufferedWriter(pipe.writer) as buffered:
                for _ in range(5):
                    buffered.write(line)

        lines = [LONG + b"1\n", LONG + b"2\n"]
        with copying([first, second], output):
            threads = [
                threading.Thread(target=write, args=args) for args in zip((first, second), lines, strict=True)
            ]
            for thread in threads:
                thread.start()
            text = output.reader.readall()
            for thread in threads:
                thread.join()

        assert sorted(text.splitlines(keepends=True)) == sorted(lines * 5)

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            pytest.param(b"\x18a\nb\n", b"a\nb\n", id="nothing was left by anybody"),
            pytest.param(b"a\nto\x18b\n", b"a\nb\n", id="half a line was left"),
            pytest.param(b"a\nto\x18\x18rn\x18b\n", b"a\nb\n", id="several were killed"),
            pytest.param(b"to\x18b\n", b"b\n", id="half of the first line was left"),
            pytest.param(b"a\nto", b"a\n", id="half a line is left at the end"),
            pytest.param(b"to", b"", id="there is no whole line"),
        ],
    )
    def test_what_a_killed_process_has_left_of_one_is_dropped(
        self, written: bytes, expected: bytes, pipes: list[Pipe]
    ) -> None:
        assert copy(pipes[:1], written) == expected

    def test_a_process_begins_by_dropping_what_another_has_left(self, pipes: list[Pipe]) -> None:
        source, output, _ = pipes
        with copying([source], output):
            source.writer.write(b"whole\nto")
            assert output.reader.read(100) == b"whole\n"
            log = begin_log(source.writer)
            log.write(b"next\n")
            log.flush()
            assert output.reader.read(100) == b"next\n"

    def test_a_process_without_a_line_writes_nothing(self, pipes: list[Pipe]) -> None:
        source, *_ = pipes
        os.set_blocking(source.reader.fileno(), False)
        log = begin_log(source.writer)

        assert source.reader.read(100) is None
        log.close()


class TestLost:
    def test_what_cannot_be_written_is_counted_and_told(
        self, pipes: list[Pipe], caplog: pytest.LogCaptureFixture
    ) -> None:
        source, output, _ = pipes
        output.reader.close()
        source.writer.write(b"a\nb\nc\n")
        with caplog.at_level(logging.WARNING, "aioserve"), copying([source], output):
            pass

        assert caplog.messages == ["access log: the output took no lines for a while; 3 are lost"]

    def test_an_output_that_stands_still_is_not_waited_for_when_the_parent_is_gone(
        self, pipes: list[Pipe], caplog: pytest.LogCaptureFixture
    ) -> None:
        source, output, _ = pipes
        os.set_blocking(output.writer.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while output.writer.write(LONG):
                pass
        source.writer.write(b"a\nb\n")
        source.writer.close()
        nobody = 0
        with caplog.at_level(logging.WARNING, "aioserve"):
            copy_lines([source.reader.fileno()], output.writer.fileno(), nobody)

        assert caplog.messages == ["access log: the output took no lines for a while; 2 are lost"]
