"""Programs that serve a folder with a framework of Python: `python -m benchmarks.apps aiohttp ROOT PORT`."""

from __future__ import annotations

import sys


def run_aiohttp(root: str, port: int) -> None:
    import uvloop
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", root)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
        backlog=4096,
    )


def run_uvicorn(root: str, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    app = Starlette(routes=[Mount("/", StaticFiles(directory=root))])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
    )


async def answer_nothing(scope: object, protocol: object) -> None:
    """What granian needs beside its static files; nobody asks for it."""


if __name__ == "__main__":
    {"aiohttp": run_aiohttp, "uvicorn": run_uvicorn}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
