from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioserve.network.access_log import (
    FORMATS,
    AccessLog,
    Exchange,
    format_combined,
    format_common,
    format_json,
    make_log_observer,
)

AT_S = 1_700_000_000  # 14 November 2023, 22:13:20 UTC

EXCHANGE = Exchange(
    client="192.0.2.1",
    at_s=AT_S + 0.25,
    request_line="GET /page.html?a=b HTTP/1.1",
    status=200,
    sent_bytes=1234,
    duration_s=0.0123456789,
    referer="http://localhost/",
    user_agent="Mozilla/5.0 (X11)",
    is_whole=True,
)

# Apache httpd, mod_log_config: %h %l %u %t "%r" %>s %b, then "%{Referer}i" "%{User-agent}i".
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
COMMON = re.compile(rf"(\S+) - - \[([^\]]+)\] {_QUOTED} (\d{{3}}) (\d+|-)")
COMBINED = re.compile(rf"{COMMON.pattern} {_QUOTED} {_QUOTED}")

# What a client can write: fields are Latin-1.
EVERYTHING = "".join(map(chr, range(0x100)))
client_text = st.text(st.characters(max_codepoint=0xFF))


def unescape(text: str) -> str:
    """What was escaped, as a reader of the log gets it back."""

    def decode(match: re.Match[str]) -> str:
        return chr(int(match[1][1:], 16)) if match[1][0] == "x" else match[1]

    return re.sub(r"\\(x[0-9a-f]{2}|.)", decode, text)


@pytest.fixture
def set_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def set_time_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_time_zone
    monkeypatch.undo()
    time.tzset()


class TestCommon:
    @pytest.mark.parametrize(
        ("zone", "at"),
        [
            pytest.param("UTC0", "14/Nov/2023:22:13:20 +0000", id="Greenwich"),
            pytest.param("IST-05:30", "15/Nov/2023:03:43:20 +0530", id="half an hour in the east"),
            pytest.param("NST+03:30", "14/Nov/2023:18:43:20 -0330", id="half an hour in the west"),
        ],
    )
    def test_a_line_has_the_local_time(
        self, set_time_zone: Callable[[str], None], zone: str, at: str
    ) -> None:
        set_time_zone(zone)

        assert format_common(EXCHANGE) == f'192.0.2.1 - - [{at}] "GET /page.html?a=b HTTP/1.1" 200 1234'

    def test_months_have_english_names(self) -> None:
        days = [datetime(2024, month, 15, tzinfo=UTC).timestamp() for month in range(1, 13)]
        lines = [format_common(EXCHANGE._replace(at_s=at_s)) for at_s in days]

        assert [line.split("/")[1] for line in lines] == [
            *("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
        ]

    def test_without_a_body_there_is_a_dash_for_its_length(self) -> None:
        assert format_common(EXCHANGE._replace(status=304, sent_bytes=0)).endswith('" 304 -')

    def test_without_a_request_there_is_a_dash_for_its_line(self) -> None:
        assert '] "-" 400 16' in format_common(EXCHANGE._replace(request_line="-", status=400, sent_bytes=16))

    @given(client_text)
    @example(EVERYTHING)
    def test_whatever_the_client_wrote_it_is_one_line_and_can_be_read_back(self, text: str) -> None:
        line = format_common(EXCHANGE._replace(request_line=text))

        assert re.fullmatch("[ -~]*", line)
        match = COMMON.fullmatch(line)
        assert match is not None
        assert unescape(match[3]) == text
        assert match.group(1, 4, 5) == ("192.0.2.1", "200", "1234")


class TestCombined:
    def test_a_line_ends_with_referer_and_agent(self) -> None:
        assert format_combined(EXCHANGE) == (
            f'{format_common(EXCHANGE)} "http://localhost/" "Mozilla/5.0 (X11)"'
        )

    def test_what_was_not_sent_is_a_dash(self) -> None:
        assert format_combined(EXCHANGE._replace(referer=None, user_agent=None)).endswith(
            '" 200 1234 "-" "-"'
        )
        assert format_combined(EXCHANGE._replace(referer="", user_agent="")).endswith('" 200 1234 "-" "-"')

    @pytest.mark.parametrize(
        ("text", "escaped"),
        [
            ('"', '\\"'),
            ("\\", "\\\\"),
            ('\\"', '\\\\\\"'),
            ("\\x0a", "\\\\x0a"),
            ("\n", "\\x0a"),
            ("\r\n", "\\x0d\\x0a"),
            ("\t", "\\x09"),
            ("\0", "\\x00"),
            ("\x1b[2J", "\\x1b[2J"),
            ("\x7f", "\\x7f"),
            ("\x9b2J", "\\x9b2J"),
            ("ÿ", "\\xff"),
            ("a b ~", "a b ~"),
        ],
    )
    def test_what_could_end_a_line_or_move_a_cursor_is_escaped(self, text: str, escaped: str) -> None:
        line = format_combined(EXCHANGE._replace(user_agent=text))

        assert line.endswith(f' "{escaped}"')

    @given(client_text.filter(bool), client_text.filter(bool), client_text)
    @example(EVERYTHING, EVERYTHING, EVERYTHING)
    def test_whatever_the_client_wrote_it_is_one_line_and_can_be_read_back(
        self, referer: str, agent: str, request_line: str
    ) -> None:
        line = format_combined(
            EXCHANGE._replace(referer=referer, user_agent=agent, request_line=request_line)
        )

        assert re.fullmatch("[ -~]*", line)
        match = COMBINED.fullmatch(line)
        assert match is not None
        assert [unescape(text) for text in match.group(3, 6, 7)] == [request_line, referer, agent]


class TestJson:
    def test_an_object_has_these_members(self) -> None:
        assert json.loads(format_json(EXCHANGE)) == {
            "time": "2023-11-14T22:13:20.250Z",
            "client": "192.0.2.1",
            "request": "GET /page.html?a=b HTTP/1.1",
            "status": 200,
            "bytes": 1234,
            "duration": 0.012346,
            "referer": "http://localhost/",
            "user_agent": "Mozilla/5.0 (X11)",
            "whole": True,
        }

    def test_what_was_not_sent_is_null_and_an_answer_that_broke_off_is_not_whole(self) -> None:
        line = format_json(EXCHANGE._replace(referer=None, user_agent=None, sent_bytes=0, is_whole=False))

        values = json.loads(line)
        assert [values[name] for name in ("referer", "user_agent", "bytes", "whole")] == [
            None,
            None,
            0,
            False,
        ]

    @given(st.floats(0, 4_000_000_000))
    def test_the_time_is_the_millisecond_in_which_it_was(self, at_s: float) -> None:
        text = json.loads(format_json(EXCHANGE._replace(at_s=at_s)))["time"]

        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
        # Of 0.001 s, binary fractions are some nanoseconds too small.
        behind_s = at_s - datetime.fromisoformat(text).timestamp()
        assert -0.0001 < behind_s < 0.0011

    @given(client_text, client_text, client_text)
    @example(EVERYTHING, EVERYTHING, EVERYTHING)
    def test_whatever_the_client_wrote_it_is_one_line_and_can_be_read_back(
        self, referer: str, agent: str, request_line: str
    ) -> None:
        line = format_json(EXCHANGE._replace(referer=referer, user_agent=agent, request_line=request_line))

        assert re.fullmatch("[ -~]*", line)
        values = json.loads(line)
        assert [values[name] for name in ("request", "referer", "user_agent")] == [
            request_line,
            referer,
            agent,
        ]


class TestLogObserver:
    @pytest.mark.parametrize("log_format", FORMATS)
    def test_a_record_has_the_line_and_the_values(
        self, log_format: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = EXCHANGE._replace(request_line="GET /%s%d HTTP/1.1")
        with caplog.at_level(logging.INFO, "aioserve.access"):
            make_log_observer(log_format)(exchange)

        (record,) = caplog.records
        assert (record.name, record.levelno) == ("aioserve.access", logging.INFO)
        assert record.getMessage() == FORMATS[log_format](exchange)
        assert record.__dict__["exchange"] == exchange

    def test_while_nobody_listens_there_is_none(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "aioserve.access"):
            make_log_observer("common")(EXCHANGE)

        assert caplog.records == []


def make_exchanges(count: int, start: int = 0) -> list[Exchange]:
    """So many exchanges that can be told apart."""
    return [EXCHANGE._replace(sent_bytes=start + index + 1) for index in range(count)]


def make_lines(exchanges: list[Exchange]) -> bytes:
    return "".join(f"{format_common(exchange)}\n" for exchange in exchanges).encode()


def record_all(log: AccessLog, exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        log.record(exchange)


def count_log_threads() -> int:
    return sum(thread.name == "aioserve-log" for thread in threading.enumerate())


def flush_until_reported(log: AccessLog, caplog: pytest.LogCaptureFixture) -> None:
    """Until the log says what was lost, once more than before."""
    count = len(caplog.records)
    while len(caplog.records) == count:
        log.flush()
        time.sleep(0.001)


def sum_lost(caplog: pytest.LogCaptureFixture) -> int:
    """How many lines were reported as lost so far."""
    return sum(int(lost) for lost in re.findall(r"; (\d+) are lost$", caplog.text, re.MULTILINE))


class Pipe:
    """A pipe whose one end is the log's output; nobody reads the other until the test does."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.reader, self.writer = os.fdopen(reader, "rb", 0), os.fdopen(writer, "wb")

    def is_empty(self) -> bool:
        os.set_blocking(self.reader.fileno(), False)
        try:
            return self.reader.read(1) is None
        finally:
            os.set_blocking(self.reader.fileno(), True)

    def close(self) -> None:
        self.reader.close()
        with suppress(BrokenPipeError):
            self.writer.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


class Reading:
    """A thread that counts the lines of a pipe until its other end is closed."""

    def __init__(self, reader: BinaryIO) -> None:
        self.lines = 0
        self._reader = reader
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._reader.read(65536):
            self.lines += data.count(b"\n")

    def wait_for(self, lines: int) -> None:
        while self.lines < lines:
            time.sleep(0.001)

    def join(self) -> None:
        self._thread.join()


@pytest.fixture
def output(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "access.log").open("w+b") as output:
        yield output


class TestAccessLog:
    @pytest.mark.parametrize("log_format", FORMATS)
    def test_each_exchange_is_one_line_in_the_format(self, log_format: str, pipe: Pipe) -> None:
        log = AccessLog(log_format, pipe.writer)
        exchanges = make_exchanges(3)
        record_all(log, exchanges)
        log.close()

        expected = "".join(f"{FORMATS[log_format](exchange)}\n" for exchange in exchanges)
        assert pipe.reader.read(65536) == expected.encode()

    def test_what_is_recorded_waits_for_the_flush_and_is_written_at_once(self, pipe: Pipe) -> None:
        log = AccessLog("common", pipe.writer)
        record_all(log, make_exchanges(20))
        assert pipe.is_empty()

        log.flush()
        # All that is there: a batch of this size is one write.
        assert pipe.reader.read(65536) == make_lines(make_exchanges(20))
        log.close()
        assert pipe.is_empty()

    def test_lines_stand_in_their_order_over_many_batches(self, pipe: Pipe) -> None:
        log = AccessLog("common", pipe.writer)
        exchanges = make_exchanges(3000)
        for start in range(0, 3000, 100):
            record_all(log, exchanges[start : start + 100])
            log.flush()

        expected = make_lines(exchanges)
        with os.fdopen(os.dup(pipe.reader.fileno()), "rb") as reader:
            assert reader.read(len(expected)) == expected
        log.close()

    def test_close_writes_what_is_left(self, output: BinaryIO) -> None:
        log = AccessLog("common", output)
        record_all(log, make_exchanges(1000))
        log.flush()
        record_all(log, make_exchanges(5, 1000))
        log.close()

        output.seek(0)
        assert output.read() == make_lines(make_exchanges(1005))
        assert count_log_threads() == 0

    def test_closed_twice_it_writes_once(self, output: BinaryIO) -> None:
        log = AccessLog("common", output)
        record_all(log, make_exchanges(1))
        log.close()
        log.close()

        output.seek(0)
        assert output.read() == make_lines(make_exchanges(1))

    def test_without_exchanges_there_is_no_thread(self, output: BinaryIO) -> None:
        log = AccessLog("common", output)
        log.flush()
        assert count_log_threads() == 0
        log.close()

        assert output.tell() == 0

    def test_what_is_not_ascii_is_escaped(self, pipe: Pipe) -> None:
        log = AccessLog("combined", pipe.writer)
        log.record(EXCHANGE._replace(client="fe80::1%\u2028", user_agent="\ud800"))
        log.close()

        line = pipe.reader.read(65536)
        assert line.startswith(b"fe80::1%\\u2028 - - [")
        assert line.endswith(b' "\\ud800"\n')


# More than may wait for an output; the pipe has room for less than one batch.
MANY, BATCH = 60_000, 2_000


class TestOutputThatStandsStill:
    def test_what_exceeds_the_limit_is_dropped_counted_and_reported_when_it_gets_on(
        self, pipe: Pipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = AccessLog("common", pipe.writer)
        for start in range(0, MANY, BATCH):
            record_all(log, make_exchanges(BATCH, start))
            log.flush()
        assert caplog.records == []

        reading = Reading(pipe.reader)
        flush_until_reported(log, caplog)
        lost = sum_lost(caplog)
        assert lost == MANY - 50_000

        record_all(log, make_exchanges(10))
        log.flush()
        reading.wait_for(MANY - lost + 10)
        log.close()
        pipe.writer.close()
        reading.join()
        assert reading.lines == MANY - lost + 10
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("aioserve", logging.WARNING)

    def test_close_gives_it_up_and_what_was_handed_over_is_written_when_it_gets_on(self, pipe: Pipe) -> None:
        log = AccessLog("common", pipe.writer)
        record_all(log, make_exchanges(BATCH))
        log.close()
        assert count_log_threads() == 1

        expected = make_lines(make_exchanges(BATCH))
        with os.fdopen(os.dup(pipe.reader.fileno()), "rb") as reader:
            assert reader.read(len(expected)) == expected
        log.close()
        assert count_log_threads() == 0


def open_pipe_without_reader(folder: Path) -> BinaryIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


def open_full_disk(folder: Path) -> BinaryIO:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    return open("/dev/full", "wb")


def open_closed_file(folder: Path) -> BinaryIO:
    output = (folder / "access.log").open("wb")
    output.close()
    return output


class TestOutputThatTakesNothing:
    @pytest.mark.parametrize(
        "open_output",
        [
            pytest.param(open_pipe_without_reader, id="a pipe whose reader has gone"),
            pytest.param(open_full_disk, id="a full disk"),
            pytest.param(open_closed_file, id="a file that is closed"),
        ],
    )
    def test_nothing_is_raised_and_what_is_lost_is_counted_and_reported(
        self, open_output: Callable[[Path], BinaryIO], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        output = open_output(tmp_path)
        log = AccessLog("common", output)
        record_all(log, make_exchanges(3))
        flush_until_reported(log, caplog)
        assert sum_lost(caplog) == 3

        record_all(log, make_exchanges(4))
        flush_until_reported(log, caplog)
        assert sum_lost(caplog) == 7

        log.flush()
        log.close()
        log.close()
        assert sum_lost(caplog) == 7
        assert count_log_threads() == 0
        # Its buffer still holds what could not be written.
        with suppress(OSError):
            output.close()

    def test_what_close_could_not_write_is_reported_too(
        self, pipe: Pipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = AccessLog("common", pipe.writer)
        pipe.reader.close()
        record_all(log, make_exchanges(5))
        log.close()

        assert sum_lost(caplog) == 5
