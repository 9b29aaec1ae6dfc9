"""What is measured: each work is one entry, with the bars that it should meet.

In a request `{file}` is a file of the work, another one each time where it has several; `{cookie}` never
comes twice; `{browser}` is one of a hundred; `{range}` begins anywhere; `{etag}` is the server's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.folders import KIB, MIB, Files, Kind
from benchmarks.serving import Log

GET = "GET /{file} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

# What Chromium sends, with as much of a cookie as many sites set: some 700 bytes.
BROWSER = """GET /{file} HTTP/1.1
Host: 127.0.0.1
Connection: keep-alive
sec-ch-ua: "Chromium";v="126", "Not=A?Brand";v="8", "Google Chrome";v="126"
sec-ch-ua-mobile: ?0
User-Agent: Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36
sec-ch-ua-platform: "Linux"
Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: no-cors
Sec-Fetch-Dest: image
Referer: http://127.0.0.1/gallery/index.html
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en;q=0.9,de;q=0.7
Cookie: session=""".replace("\n", "\r\n")

RANGE_BYTES = 64 * KIB

# ---- servers ---------------------------------------------------------------------------------------------

OURS, USUAL = "aioserve", "nginx"
QUICK = (OURS, USUAL, "nginx-cache", "lighttpd", "caddy")
COMPRESSING = (OURS, USUAL, "nginx-cache", "caddy")
HOT = (*QUICK, "aioserve-asyncio", "lower-limit")
SCRIPTED = ("http.server", "aiohttp", "uvicorn", "granian", "serve", "sirv", "http-server")


@dataclass(frozen=True, slots=True)
class Bar:
    """What our CPU time for each request is to be at most, as a multiple of another server's or work's."""

    at_most: float
    server: str = USUAL
    work: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """`coding` is the one that answers must have, if any. `series` and `x` place it in a plot of cost against
    something."""

    name: str
    title: str
    files: Files
    request: str = GET
    status: int = 200
    bars: tuple[Bar, ...] = ()
    servers: tuple[str, ...] = QUICK
    connections: int = 64
    idle: int = 0
    workers: int = 1
    log: Log = Log.OFF
    has_cache: bool = True
    coding: str = ""
    series: str = ""
    x: int = 0

    @property
    def method(self) -> str:
        return self.request.split(" ", 1)[0]

    @property
    def closes(self) -> bool:
        return "\r\nConnection: close\r\n" in self.request

    @property
    def is_made(self) -> bool:
        """Whether the server has to compress by itself."""
        return bool(self.coding) and self.files.kind is not Kind.SCRIPT

    @property
    def is_large(self) -> bool:
        sent_bytes = {200: self.files.size_bytes, 206: RANGE_BYTES}.get(self.status, 0)
        return sent_bytes >= 64 * KIB

    @property
    def has_body(self) -> bool:
        return self.method != "HEAD" and self.status != 304


def add_field(request: str, field: str) -> str:
    return request.removesuffix("\r\n") + f"{field}\r\n\r\n"


ONE_KIB, FOUR_KIB, HUGE = Files(KIB), Files(4 * KIB), Files(100 * MIB)
MANY = Files(4 * KIB, 10_000)

HOT_BARS = (Bar(0.75), Bar(1.0, "lighttpd"), Bar(2.0, "lower-limit"))
SCRIPTED_BARS = tuple(Bar(0.1, server) for server in SCRIPTED)

NOT_MODIFIED = add_field(GET, "If-None-Match: {etag}")
CLOSE = add_field(GET, "Connection: close")
HEAD = GET.replace("GET", "HEAD")
NOWHERE = GET.replace("{file}", "none.jpg")


def make_sidecar_works(coding: str, bar: Bar) -> tuple[Work, Work]:
    """Files that lie compressed beside others."""
    request = add_field(GET, f"Accept-Encoding: {coding}")
    small, large = (Files(size_bytes, kind=Kind.SCRIPT) for size_bytes in (10 * KIB, MIB))
    title = f"{coding} beside the file, hot"
    return (
        Work(coding, f"10 KiB of {title}", small, request, bars=(bar,), servers=COMPRESSING, coding=coding),
        Work(
            f"{coding}-1m",
            f"1 MiB of {title}",
            large,
            request,
            bars=(bar if not bar.work else Bar(bar.at_most, bar.server, f"{bar.work}-1m"),),
            servers=COMPRESSING,
            coding=coding,
        ),
    )


SINGLE = (
    Work("1k", "1 KiB, hot", ONE_KIB, bars=HOT_BARS, servers=HOT),
    Work("10k", "10 KiB, hot", Files(10 * KIB), bars=HOT_BARS + SCRIPTED_BARS, servers=HOT + SCRIPTED),
    Work("100k", "100 KiB, hot", Files(100 * KIB), bars=(Bar(1.0),), servers=HOT),
    Work("1m", "1 MiB, hot", Files(MIB), bars=(Bar(1.0),)),
    Work("100m", "100 MiB, hot", HUGE, bars=(Bar(1.0),), connections=8),
    Work("files", "10,000 files of 4 KiB at random", MANY, bars=(Bar(0.9),)),
    Work("browsers", "the same by 100 browsers", MANY, BROWSER + "{browser}\r\n\r\n"),
    Work("heads", "4 KiB, a new cookie each", FOUR_KIB, BROWSER + "{cookie}\r\n\r\n", bars=(Bar(1.0),)),
    Work("304", "4 KiB, not modified", FOUR_KIB, NOT_MODIFIED, 304, bars=(Bar(0.75),)),
    Work("head", "4 KiB, HEAD", FOUR_KIB, HEAD, bars=(Bar(0.75),)),
    Work("404", "a file that is not there", FOUR_KIB, NOWHERE, 404, bars=(Bar(3.0),)),
    Work(
        "range", "64 KiB anywhere in 100 MiB", HUGE, add_field(GET, "Range: {range}"), 206, bars=(Bar(1.0),)
    ),
    Work("close", "1 KiB, a new connection each", ONE_KIB, CLOSE, bars=(Bar(2.5),), servers=HOT),
    Work("idle", "1 KiB, 1,000 idle connections beside", ONE_KIB, idle=1000),
    Work("cache-off", "4 KiB, without our cache", FOUR_KIB, bars=(Bar(2.0),), has_cache=False),
    Work("log", "1 KiB, access log", ONE_KIB, bars=(Bar(0.9),), log=Log.ON),
    Work("log-buffered", "1 KiB, access log in batches", ONE_KIB, log=Log.BUFFERED),
    *make_sidecar_works("gzip", Bar(0.9)),
    *make_sidecar_works("br", Bar(0.9)),
    # nginx has none of these; as many bytes of gzip are the same work.
    *make_sidecar_works("zstd", Bar(0.9, USUAL, "gzip")),
    Work(
        "made",
        "10 KiB of text, compressed by the server",
        Files(10 * KIB, kind=Kind.TEXT),
        add_field(GET, "Accept-Encoding: gzip"),
        bars=(Bar(0.5),),
        servers=COMPRESSING,
        coding="gzip",
    ),
)

CONNECTIONS = tuple(
    Work(
        f"connections-{count}",
        f"1 KiB, {count:,} connections",
        ONE_KIB,
        servers=HOT,
        connections=count,
        series="connections",
        x=count,
    )
    for count in (1, 4, 16, 64, 256, 1024, 4096)
)

SIZES = tuple(
    Work(f"sizes-{size}", f"{size:,} bytes, hot", Files(size), servers=HOT, series="sizes", x=size)
    for size in (0, *(4**power * KIB for power in range(6)), 4 * MIB, 16 * MIB)
)

NUMBERS = tuple(
    Work(
        f"numbers-{count}",
        f"{count:,} files of 4 KiB at random",
        Files(4 * KIB, count),
        series="numbers",
        x=count,
    )
    for count in (100, 1000, 10_000, 100_000)
)

WORKERS = tuple(
    Work(
        f"workers-{count}",
        f"1 KiB, {count} workers",
        ONE_KIB,
        bars=(Bar(1.05, OURS, "workers-1"),) if count == 2 else (),
        servers=(OURS, USUAL, "lighttpd"),
        workers=count,
        series="workers",
        x=count,
    )
    for count in (1, 2, 4)
)

WORKS = {work.name: work for work in (*SINGLE, *CONNECTIONS, *SIZES, *NUMBERS, *WORKERS)}

# What the x of a series counts.
SERIES = {
    "connections": "number of connections",
    "sizes": "size of the file",
    "numbers": "number of files",
    "workers": "number of workers",
}
