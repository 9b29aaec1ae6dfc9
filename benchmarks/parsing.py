"""What do reading a request and deciding its answer cost alone? `python -m benchmarks parsing`

Nothing here opens a file or touches a socket. pyperf measures each in processes of its own, and takes its
options from the command line: `--fast`, `-o FILE`. For comparison the same heads are read by httptools and
h11 where they are installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pyperf

from aioserve.content.disk import Disk
from aioserve.content.handle import OpenFile
from aioserve.protocol.http1 import find_head_end, format_head, parse_head
from aioserve.protocol.message import Request
from aioserve.protocol.plan import Plan, plan_file
from aioserve.protocol.target import parse_target
from aioserve.protocol.variant import Variant
from benchmarks.works import BROWSER, GET

NAME = "4096/0000/00.jpg"
HEADS = {
    "a small head": GET.format(file=NAME).encode(),
    "a browser's head": f"{BROWSER.format(file=NAME)}{'0' * 32}\r\n\r\n".encode(),
}

NOW_S = 1_700_000_000


VARIANT = Variant(None, 4096, NOW_S * 1_000_000_000, OpenFile(Disk(), (0, 0), data=b""))


def read_head(data: bytes) -> object:
    end = find_head_end(bytearray(data), 0, max_line_bytes=8190, max_head_bytes=32768)
    return parse_head(data[:end], max_fields=100)


def plan(request: Request) -> Plan:
    return plan_file(request, VARIANT, "image/jpeg", now_s=NOW_S, boundary="")


def answer(data: bytes) -> bytes:
    """From the bytes of a request to those of an answer's head, without what the disk says in between."""
    request = parse_head(data, max_fields=100)
    parse_target(request.method, request.target)
    planned = plan(request)
    return format_head(planned.status, planned.fields, (("Date", "Tue, 14 Nov 2023 22:13:20 GMT"),))


def find_other_readers() -> dict[str, Callable[[bytes], object]]:
    readers: dict[str, Callable[[bytes], object]] = {}
    with contextlib.suppress(ImportError):
        import httptools

        class Sink:
            """Keeps what a server would keep."""

            def __init__(self) -> None:
                self.target = b""
                self.fields: list[tuple[bytes, bytes]] = []

            def on_url(self, target: bytes) -> None:
                self.target += target

            def on_header(self, name: bytes, value: bytes) -> None:
                self.fields.append((name.lower(), value))

        def read_by_httptools(data: bytes) -> object:
            sink = Sink()
            httptools.HttpRequestParser(sink).feed_data(data)
            return sink

        readers["httptools"] = read_by_httptools
    with contextlib.suppress(ImportError):
        import h11

        def read_by_h11(data: bytes) -> object:
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(data)
            return connection.next_event()

        readers["h11"] = read_by_h11
    return readers


def main(arguments: list[str]) -> int:
    # pyperf starts this module again for each of its processes.
    runner = pyperf.Runner(program_args=("-m", "benchmarks", "parsing"))
    runner.parse_args(arguments)
    request = parse_head(HEADS["a small head"], max_fields=100)
    for name, data in HEADS.items():
        runner.bench_func(f"read {name}", read_head, data)
        for reader, read in find_other_readers().items():
            runner.bench_func(f"read {name} with {reader}", read, data)
    runner.bench_func("split a target", parse_target, "GET", request.target)
    runner.bench_func("plan a file", plan, request)
    for name, data in HEADS.items():
        runner.bench_func(f"from {name} to that of its answer", answer, data)
    return 0
