"""The requests of a work, twice from one template: for the check of the bytes, and as a script for wrk."""

from __future__ import annotations

import http.client
import json
import random
import re
import secrets
import socket
import time
import zlib
from dataclasses import dataclass

from benchmarks.folders import PER_FOLDER, Folder
from benchmarks.processes import PATIENCE_S, Failed
from benchmarks.serving import Unfit
from benchmarks.works import RANGE_BYTES, Work

BROWSERS = 100

# Requests whose answers are compared before something is measured.
EXAMPLES = 20

# Each function gives one value of the placeholder of its name. The generator of LuaJIT starts the same each
# time unless it is seeded.
LUA = """
math.randomseed(%(seed)d)
local count = 0
local function file()
  local number = math.random(0, %(files)d - 1)
  local inside = number %% %(per_folder)d
  return string.format("%(pattern)s", (number - inside) / %(per_folder)d, inside)
end
local function cookie()
  count = count + 1
  return string.format("%(secret)s%%016x", count)
end
local function browser()
  return string.format("browser-%%023d", math.random(0, %(browsers)d - 1))
end
local function range()
  local start = math.random(0, %(size)d - %(range)d)
  return string.format("bytes=%%d-%%d", start, start + %(range)d - 1)
end
"""

# A request that is always the same is made once, which leaves wrk more time.
LUA_ONCE = "wrk.format = function() return %s end\n"
LUA_EACH = "request = function() return %s end\n"

LUA_DONE = """
done = function(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\\n{"requests": %d, "bytes": %d, "seconds": %f, "bad_statuses": %d, "broken": %d',
    summary.requests, summary.bytes, summary.duration / 1e6, errors.status, broken))
  io.write(string.format(
    ', "p50_us": %f, "p99_us": %f}\\n', latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One request of a work, and the body that it must be answered with; None: any that is not empty."""

    request: bytes
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    coding: str
    etag: str | None
    # With its head.
    size_bytes: int


def is_varied(work: Work) -> bool:
    names = set(re.findall(r"{(\w+)}", work.request)) - {"etag"}
    return bool(names - {"file"}) or ("file" in names and work.files.count > 1)


def make_script(work: Work, etag: str, seed: int) -> str:
    """The script that lets wrk send the requests and print what it saw as the last line, in JSON."""
    values = {
        "seed": seed,
        "files": work.files.count,
        "pattern": work.files.pattern,
        "size": work.files.size_bytes,
        "per_folder": PER_FOLDER,
        "secret": secrets.token_hex(8),
        "browsers": BROWSERS,
        "range": RANGE_BYTES,
    }
    texts = re.split(r"{(\w+)}", work.request.replace("{etag}", etag))
    parts = [f"{part}()" if number % 2 else json.dumps(part) for number, part in enumerate(texts)]
    template = LUA_EACH if is_varied(work) else LUA_ONCE
    return LUA % values + template % " .. ".join(parts) + LUA_DONE


def make_examples(work: Work, folder: Folder, etag: str, seed: int) -> list[Example]:
    chooser = random.Random(seed)
    return [make_example(work, folder, etag, chooser) for _ in range(EXAMPLES)]


def make_example(work: Work, folder: Folder, etag: str, chooser: random.Random) -> Example:
    number = chooser.randrange(work.files.count)
    body = folder.read(work.files, number, "" if work.is_made else work.coding)
    start = chooser.randrange(max(1, len(body) - RANGE_BYTES))
    request = work.request.format(
        file=work.files.name(number),
        cookie=secrets.token_hex(16),
        browser=f"browser-{chooser.randrange(BROWSERS):023}",
        range=f"bytes={start}-{start + RANGE_BYTES - 1}",
        etag=etag,
    )
    match work.status:
        case 200:
            return Example(request.encode(), body if work.has_body else b"")
        case 206:
            return Example(request.encode(), body[start : start + RANGE_BYTES])
        case 304:
            return Example(request.encode(), b"")
    return Example(request.encode(), None)


def ask(port: int, request: bytes, method: str) -> Answer:
    """Raises: OSError or HTTPException when there is no whole answer."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(request)
        return read_answer(client, method)


def read_answer(client: socket.socket, method: str) -> Answer:
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    body = response.read()
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.getheaders()]
    head_bytes = sum(len(line) + 2 for line in lines) + 2
    coding = response.getheader("Content-Encoding", "")
    return Answer(response.status, body, coding, response.getheader("ETag"), head_bytes + len(body))


def find_etag(work: Work, port: int) -> str:
    """What stands for `{etag}`; nothing where no request has it. Raises Unfit when the server gives none."""
    if "{etag}" not in work.request:
        return ""
    target = f"GET /{work.files.name(0)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    etag = ask(port, target.encode(), "GET").etag
    if etag is None:
        raise Unfit("gives no ETag")
    return etag


def check(work: Work, port: int, example: Example) -> Answer:
    """Asks for the example. Raises Failed when the answer is another one, and what `ask` raises.

    Until a server has compressed a file by itself, it may send it as it is.
    """
    end_s = time.monotonic() + PATIENCE_S
    answer = ask(port, example.request, work.method)
    while work.is_made and not answer.coding and time.monotonic() < end_s:
        answer = ask(port, example.request, work.method)
    if answer.status != work.status:
        raise Failed(f"status {answer.status} instead of {work.status}")
    if answer.coding != work.coding:
        raise Failed(f"coding {answer.coding or 'none'} instead of {work.coding or 'none'}")
    body = zlib.decompress(answer.body, wbits=31) if work.is_made else answer.body
    if body != example.body and not (example.body is None and body):
        raise Failed("another body")
    return answer
