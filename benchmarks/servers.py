"""The servers, and how each is told to do the same work: one process, no access log unless the work has one.

Each is set up as somebody would who wants it to be fast at files: sendfile on, connections kept for as many
requests as the client likes, caches of its own as they are by default.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.processes import make_environment
from benchmarks.serving import Log, Server, Setup, Unfit, find_program


def needs_one_process(setup: Setup) -> None:
    if setup.workers != 1:
        raise Unfit("has one process only")


def needs_no_log(setup: Setup) -> None:
    if setup.log is not Log.OFF:
        raise Unfit("does not write this log")


# ---- ours ------------------------------------------------------------------------------------------------


@functools.cache
def read_options() -> str:
    command = [sys.executable, "-m", "aioserve", "serve", "--help"]
    return subprocess.run(command, env=make_environment(), capture_output=True, text=True, timeout=20).stdout


def make_aioserve(setup: Setup, *, loop: str = "") -> list[str]:
    command = [sys.executable, "-m", "aioserve", "serve", str(setup.root), "--port", str(setup.port)]
    command += ["--log-format", "off" if setup.log is Log.OFF else "combined"]
    # Options by which it can be told what it does by itself without them.
    options = read_options()
    if not setup.has_cache and "--cache-size" in options:
        command += ["--cache-size", "0"]
    if "--workers" in options:
        command += ["--workers", str(setup.workers)]
    else:
        needs_one_process(setup)
    if loop:
        if "--loop" not in options:
            raise Unfit("has one loop only")
        command += ["--loop", loop]
    return command


# As many as this user may have, since caches of open files want them.
MAX_DESCRIPTORS = min(1 << 17, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

# ---- written in C or Go ----------------------------------------------------------------------------------

# Debian: libnginx-mod-http-brotli-static.
NGINX_BROTLI = Path("/usr/lib/nginx/modules/ngx_http_brotli_static_module.so")


def find_nginx_coding(setup: Setup) -> tuple[str, str]:
    """What nginx has to be told for the coding of the answers: before everything, and as the site's."""
    match setup.coding:
        case "":
            return "", ""
        case "gzip" if setup.is_made:
            return "", "gzip on; gzip_types *;"
        case "gzip":
            return "", "gzip_static on;"
        case "br" if NGINX_BROTLI.exists() and not setup.is_made:
            return f"load_module {NGINX_BROTLI};", "brotli_static on;"
    raise Unfit(f"has no {setup.coding} here")


def make_nginx(setup: Setup, *, keeps_open: bool = False) -> list[str]:
    log = {
        Log.OFF: "off",
        Log.ON: f"{setup.log_path} combined",
        Log.BUFFERED: f"{setup.log_path} combined buffer=64k flush=1s",
    }[setup.log]
    temporary = "\n".join(
        f"    {kind}_temp_path {setup.scratch}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    types = Path("/etc/nginx/mime.types")
    # Holding back what does not fill a segment saves a tenth on small answers, where the head comes with the
    # file then, and costs half as much again on large ones over the loopback.
    push = "off" if setup.is_large else "on"
    module, coding = find_nginx_coding(setup)
    config = f"""
{module}
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
pid {setup.scratch}/nginx.pid;
error_log stderr crit;
worker_processes {setup.workers};
worker_rlimit_nofile {MAX_DESCRIPTORS};
events {{ worker_connections 8192; }}
http {{
    {f"include {types};" if types.exists() else ""}
    default_type application/octet-stream;
    access_log {log};
    log_not_found off;
    sendfile on;
    tcp_nopush {push};
    etag on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    open_file_cache {f"max={MAX_DESCRIPTORS // 2} inactive=60s" if keeps_open else "off"};
{temporary}
    server {{
        listen 127.0.0.1:{setup.port} backlog=4096 {"reuseport" if setup.workers > 1 else ""};
        root {setup.root};
        {coding}
    }}
}}
"""
    path = setup.write("nginx.conf", config)
    return [find_program("nginx"), "-p", str(setup.scratch), "-c", path, "-e", "stderr"]


def make_lighttpd(setup: Setup) -> list[str]:
    log = f"""
server.modules += ("mod_accesslog")
accesslog.filename = "{setup.log_path}"
accesslog.format = "%h - %u %t \\"%r\\" %>s %b \\"%{{Referer}}i\\" \\"%{{User-Agent}}i\\""
"""
    config = f"""
server.modules = ()
server.document-root = "{setup.root}"
server.bind = "127.0.0.1"
server.port = {setup.port}
server.listen-backlog = 4096
server.event-handler = "linux-sysepoll"
server.network-backend = "sendfile"
server.max-fds = {MAX_DESCRIPTORS}
server.max-connections = 8192
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = 75
server.stat-cache-engine = "simple"
server.max-worker = {setup.workers if setup.workers > 1 else 0}
server.upload-dirs = ("{setup.scratch}")
mimetype.assign = (".jpg" => "image/jpeg", "" => "application/octet-stream")
{log if setup.log is not Log.OFF else ""}
"""
    return [find_program("lighttpd"), "-D", "-f", setup.write("lighttpd.conf", config)]


def make_caddy(setup: Setup) -> list[str]:
    needs_no_log(setup)
    encode = f"encode {setup.coding}" if setup.is_made else ""
    precompressed = "precompressed br zstd gzip" if setup.coding and not setup.is_made else ""
    config = f"""
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
http://127.0.0.1:{setup.port} {{
    bind 127.0.0.1
    root * {setup.root}
    {encode}
    file_server {{
        {precompressed}
    }}
}}
"""
    # Go takes as many threads as the process has cores.
    path = setup.write("Caddyfile", config)
    command = [find_program("caddy"), "run", "--adapter", "caddyfile", "--config", path]
    return ["env", f"XDG_CONFIG_HOME={setup.scratch}", f"XDG_DATA_HOME={setup.scratch}", *command]


def make_lower_limit(setup: Setup) -> list[str]:
    needs_one_process(setup)
    needs_no_log(setup)
    if setup.only_file is None:
        raise Unfit("has one answer only")
    program = setup.scratch / "lower_limit"
    source = Path(__file__).with_name("lower_limit.c")
    subprocess.run([find_program("cc"), "-O2", "-o", program, source], check=True, timeout=60)
    return [str(program), str(setup.port), str(setup.only_file), *(["close"] if setup.closes else [])]


# ---- written in Python -----------------------------------------------------------------------------------


def make_python(setup: Setup, *arguments: str) -> list[str]:
    needs_one_process(setup)
    needs_no_log(setup)
    return [sys.executable, "-m", *arguments]


def make_http_server(setup: Setup) -> list[str]:
    options = ("--bind", "127.0.0.1", "--protocol", "HTTP/1.1", "--directory", str(setup.root))
    return make_python(setup, "http.server", *options, str(setup.port))


def make_aiohttp(setup: Setup) -> list[str]:
    return make_python(setup, "benchmarks.apps", "aiohttp", str(setup.root), str(setup.port))


def make_uvicorn(setup: Setup) -> list[str]:
    return make_python(setup, "benchmarks.apps", "uvicorn", str(setup.root), str(setup.port))


def make_granian(setup: Setup) -> list[str]:
    # The files are served by its own code in Rust; the program only has to be there.
    options = ["--port", str(setup.port), "--no-log", "--interface", "rsgi"]
    for folder in setup.root.iterdir():  # the route "/" is answered with 500
        options += ["--static-path-route", f"/{folder.name}", "--static-path-mount", str(folder)]
    return make_python(setup, "granian", *options, "benchmarks.apps:answer_nothing")


# ---- written for Node ------------------------------------------------------------------------------------


def make_node(setup: Setup, program: str, *arguments: str) -> list[str]:
    needs_one_process(setup)
    needs_no_log(setup)
    return [find_program(program), str(setup.root), *arguments]


def make_serve(setup: Setup) -> list[str]:
    listen = ("--listen", f"tcp://127.0.0.1:{setup.port}", "--no-port-switching")
    return make_node(setup, "serve", *listen, "--no-request-logging", "--no-clipboard")


def make_sirv(setup: Setup) -> list[str]:
    return make_node(
        setup, "sirv", "--host", "127.0.0.1", "--port", str(setup.port), "--quiet", "--etag", "--dotfiles"
    )


def make_node_http_server(setup: Setup) -> list[str]:
    return make_node(setup, "http-server", "-a", "127.0.0.1", "-p", str(setup.port), "--silent")


# ---- all of them -----------------------------------------------------------------------------------------

NODE = {"NODE_ENV": "production", "NO_UPDATE_CHECK": "1"}

SERVERS = {
    server.name: server
    for server in (
        Server("aioserve", "aioserve.py", make_aioserve, prints_log=True),
        Server(
            "aioserve-asyncio",
            "aioserve.py",
            functools.partial(make_aioserve, loop="asyncio"),
            prints_log=True,
        ),
        Server("nginx", "nginx", make_nginx),
        Server("nginx-cache", "nginx", functools.partial(make_nginx, keeps_open=True)),
        Server("lighttpd", "lighttpd", make_lighttpd),
        Server("caddy", "caddy", make_caddy),
        Server("lower-limit", "cc", make_lower_limit),
        Server("http.server", "http.py", make_http_server, is_noisy=True),
        Server("aiohttp", "aiohttp.py", make_aiohttp),
        Server("uvicorn", "uvicorn.py", make_uvicorn),
        Server("granian", "granian.py", make_granian),
        Server("serve", "serve", make_serve, NODE),
        Server("sirv", "sirv", make_sirv, NODE),
        Server("http-server", "http-server", make_node_http_server, NODE),
    )
}


def find_installed(names: Iterable[str] = SERVERS) -> list[Server]:
    return [SERVERS[name] for name in names if SERVERS[name].find() is not None]


def parse_servers(text: str) -> list[Server]:
    """Names with commas between, for argparse."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SERVERS]:
        raise argparse.ArgumentTypeError(f"no server {', '.join(unknown)}; `list` shows them")
    found = find_installed(names)
    if missing := set(names) - {server.name for server in found}:
        raise argparse.ArgumentTypeError(f"not installed: {', '.join(sorted(missing))}")
    return found
