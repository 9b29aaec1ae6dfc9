"""A site on its sockets: `Server` and `serve()`. Listens, accepts within limits, drains, stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, cast

from aioserve.config import Config
from aioserve.content.containment import Symlinks
from aioserve.content.disk import Disk
from aioserve.content.files import Files
from aioserve.content.rule_files import RULE_NAMES, RuleFiles
from aioserve.network.clock import Clock
from aioserve.network.descriptors import find_connection_limit, find_descriptor_limit
from aioserve.network.listener import Listener
from aioserve.network.sockets import format_url, open_sockets
from aioserve.network.stream import Stream, StreamLimits

if TYPE_CHECKING:
    from aioserve.content.forms import Forms
    from aioserve.content.route import Routes
    from aioserve.content.site import Site
    from aioserve.network.access_log import Exchange
    from aioserve.network.connection import Connection
    from aioserve.protocol.plan import Field
    from aioserve.protocol.policy import Policies

_logger = logging.getLogger("aioserve")

# Descriptors that are left when accepting pauses. Their numbers are given out lowest first, so the number of
# a new connection tells how many are in use, whoever in the process uses them.
_SPARE_DESCRIPTORS = 16

# Above this share of the connections allowed, idle ones have to go sooner.
_BUSY_SHARE = 0.8

# Connections up to which one turn of the loop is one question to the kernel: libuv asks for 1,024 events, and
# again when it got as many.
_MAX_SHARING = 1000

# Seconds until an aborted connection must be gone: one turn of the loop, generously.
_ABORT_S = 1.0

# Accepting begins again when this share of the connections allowed is free: not at each single one.
_RESUME_SHARE = 0.05


class Server:
    """Serves the folder (or the one file) `root` over HTTP/1.1 while it is started.

    As a context manager it starts and stops itself; it can be started again. It runs on the loop of the
    caller and touches nothing else of the process: no signals, no logging set-up, no environment.

    Without a `port` it takes a free one. `options` are those of `aioserve serve`, by their names in
    docs/configuration.md. Raises ConfigError for an unknown one or a wrong value. `start` raises OSError
    when the root cannot be read or an address not be listened on.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        port: int = 0,
        *,
        host: str | Sequence[str] = "127.0.0.1",
        **options: object,
    ) -> None:
        from aioserve.network.access_log import make_log_observer

        config = Config.from_options(port=port, host=host, **options)
        observe = make_log_observer(config.log_format) if config.log_format != "off" else None
        self._set_up(root, config, observe)

    @classmethod
    def from_config(
        cls,
        root: str | os.PathLike[str],
        config: Config,
        *,
        sockets: Sequence[socket.socket] | None = None,
        observer: Callable[[Exchange], None] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> Server:
        """A server whose exchanges go to `observer` instead of `logging`; `on_tick` is called each second.

        With `sockets` it takes connections from these instead of opening its own; it closes them when it
        stops, and cannot be started again.
        """
        server = cls.__new__(cls)
        server._set_up(root, config, observer)
        server._sockets = sockets
        if on_tick is not None:
            server._clock.each_tick(lambda _: on_tick())
        return server

    def _set_up(
        self,
        root: str | os.PathLike[str],
        config: Config,
        observe: Callable[[Exchange], None] | None,
    ) -> None:
        self._root = root
        self._config = config
        self._observe = observe
        self._sockets: Sequence[socket.socket] | None = None
        self._clock = Clock()
        self._clock.each_tick(self._sweep)
        self._server_field: tuple[Field, ...] = (("Server", "aioserve"),) if config.server_header else ()
        self._stream_limits = StreamLimits(
            send_timeout_s=config.send_timeout_s,
            min_rate_bytes_s=config.min_rate,
            linger_idle_s=config.linger_idle_s,
            linger_total_s=config.linger_total_s,
            linger_bytes=config.linger_bytes,
        )
        self._max_connections = config.connections or find_connection_limit()
        self._max_descriptor = find_descriptor_limit() - _SPARE_DESCRIPTORS
        self._resume_at = self._max_connections - max(1, int(self._max_connections * _RESUME_SHARE))
        self._listeners: list[Listener] = []
        self._addresses: tuple[tuple[str, int], ...] = ()
        # Every stream that is open, with its connection, or None while more were accepted than may be served.
        self._streams: dict[Stream, Connection | None] = {}
        self._waiting: dict[Stream, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._is_started = False
        self._is_paused = False
        self._is_draining = False

    # What embedding programs ask.

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """(host, port) of each socket, as bound; empty when not started."""
        return self._addresses

    @property
    def port(self) -> int:
        """The port of the first address: the real one when 0 was asked for."""
        return self._addresses[0][1] if self._addresses else self._config.port

    @property
    def url(self) -> str:
        """The URL of the root at the first address, one that a client on this machine can use."""
        host = self._addresses[0][0] if self._addresses else self._config.host[0]
        return format_url(host, self.port)

    # Its life.

    async def start(self) -> None:
        """Binds and listens. When this returns, the server answers."""
        await self._open()
        try:
            await self._listen()
            self._clock.start()
        except BaseException:
            await self._stop(0)
            raise
        asyncio.get_running_loop().call_soon(self._load)

    @contextlib.asynccontextmanager
    async def open_site(self) -> AsyncIterator[tuple[Site, RuleFiles]]:
        """The site by which clients would be answered, for a block and without listening."""
        await self._open()
        try:
            self._load_connect()
            yield self._site, self._rule_files
        finally:
            await self._end()

    async def _open(self) -> None:
        if self._is_started:
            raise RuntimeError("the server has been started already")
        self._is_started = True
        self._is_draining = False
        # An event belongs to the loop that it was waited for in; the next start may have another.
        self._all_left = asyncio.Event()
        self._disk = Disk(
            threads=self._config.threads,
            threads_per_file=self._config.threads_per_file,
            queue_s=self._config.queue_timeout_s,
        )
        try:
            self._files, self._rule_files = await self._disk.run(
                "root", self._open_root, queue_s=None, discard=lambda opened: opened[0].close()
            )
        except BaseException:
            self._disk.close()
            self._is_started = False
            raise
        self._connect: Callable[..., Connection] | None = None
        self._forms: Forms | None = None

    def _open_root(self) -> tuple[Files, RuleFiles]:
        """Opens the root and reads its rules, in a thread."""
        config = self._config
        files = Files(
            self._root,
            symlinks=Symlinks(config.symlinks),
            hidden=config.hidden,
            disk=self._disk,
            cache_bytes=config.cache_bytes,
        )
        rule_files = RuleFiles(
            files,
            self._disk,
            redirects=(*config.redirects, *config.rewrites),
            headers=config.headers,
            reads=config.rules,
        )
        rule_files.load()
        return files, rule_files

    async def _renew_rules(self) -> None:
        """Takes over what the files of rules say, and forgets what followed from what they said."""
        if await self._rule_files.refresh() and self._connect is not None:
            self._site.rules = self._rule_files.rules
            self._shortcuts.forget()

    def _load(self) -> None:
        """Loads what the first client needs: after listening, which a command is waited for to do."""
        self._disk.load()
        self._load_connect()

    def _load_connect(self) -> Callable[..., Connection]:
        """Loads what answers requests; gives what makes a connection of a stream and a client."""
        if self._connect is None:
            from aioserve.content.forms import Forms
            from aioserve.content.site import Site
            from aioserve.network.connection import Connection, ConnectionLimits
            from aioserve.network.shortcuts import Shortcuts

            config = self._config
            limits = ConnectionLimits(
                request_line_bytes=config.request_line_bytes,
                head_bytes=config.head_bytes,
                fields=config.fields,
                head_timeout_s=config.head_timeout_s,
                body_timeout_s=config.body_timeout_s,
                body_discard_bytes=config.body_discard_bytes,
                keepalive_timeout_s=config.keepalive_timeout_s,
                keepalive_timeout_busy_s=config.keepalive_timeout_busy_s,
            )
            if config.compress == "auto":
                self._forms = Forms(self._files, self._disk)
            archives = None
            if config.archive:
                from aioserve.content.archive import Archives

                archives = Archives(self._files, self._disk)
            self._site = Site(
                self._files,
                routes=self._make_routes(self._files, unsent=RULE_NAMES if config.rules else ()),
                precompressed=config.precompressed,
                forms=self._forms,
                policies=_make_policies(config),
                head_ranges=config.data,
                rules=self._rule_files.rules,
                archives=archives,
            )
            self._shortcuts = Shortcuts(
                self._site,
                self._clock,
                self._server_field,
                max_line_bytes=limits.request_line_bytes,
                max_head_bytes=limits.head_bytes,
                max_fields=limits.fields,
            )
            self._connect = functools.partial(
                Connection,
                site=self._site,
                shortcuts=self._shortcuts,
                clock=self._clock,
                limits=limits,
                server_field=self._server_field,
                observe=self._observe,
            )
        return self._connect

    def _make_routes(self, files: Files, unsent: Sequence[bytes] = ()) -> Routes:
        from aioserve.content.route import Routes

        config = self._config
        return Routes(
            index=config.index,
            only_name=files.only_name,
            sidecars=config.precompressed,
            unsent=unsent,
            clean_urls=config.clean_urls,
            spa=config.spa,
            pages=dict(config.errors),
        )

    async def _listen(self) -> None:
        sockets = self._sockets
        if sockets is None:
            sockets = await open_sockets(self._config.host, self._config.port, self._config.backlog)
        self._listeners = [Listener(one, self._config.backlog, self._connected) for one in sockets]
        for listener in self._listeners:
            await listener.start()
        self._addresses = tuple(listener.address for listener in self._listeners)

    async def stop(self, grace_s: float | None = None) -> None:
        """Stops accepting, ends idle connections, lets answers finish for `grace_s` seconds (None: as the
        option says), then aborts the rest. When cancelled it aborts at once."""
        if self._addresses:
            await self._stop(self._config.grace_s if grace_s is None else grace_s)

    async def _stop(self, grace_s: float) -> None:
        try:
            await self._close_listeners()
            self._is_draining = True
            for connection in list(self._streams.values()):
                if connection is not None:
                    connection.drain()
            await self._wait_until_all_left(grace_s)
        finally:
            await self._end()

    async def _wait_until_all_left(self, timeout_s: float) -> None:
        if self._streams:
            self._all_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), timeout_s)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for stream in list(self._streams):
            stream.abort()
        try:
            await self._wait_until_all_left(_ABORT_S)
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._clock.stop()
            if self._forms is not None:
                self._forms.close()
            self._files.close()
            self._disk.close()
            self._addresses = ()
            self._is_started = False

    async def _close_listeners(self) -> None:
        # A stack, because it closes the others when one of them is interrupted.
        async with contextlib.AsyncExitStack() as listeners:
            while self._listeners:
                listeners.push_async_callback(self._listeners.pop().close)

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    # Its connections.

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = Stream(self._stream_limits, self._lost)
        # typeshed knows half of what it is: a connection's transport reads as well.
        stream.attach(cast(asyncio.Transport, writer.transport), writer)
        self._streams[stream] = None
        self._files.shares_looks = len(self._streams) < _MAX_SHARING
        peer = writer.get_extra_info("peername")
        self._waiting[stream] = peer[0] if isinstance(peer, tuple) else "-"
        self._serve_waiting()
        # uvloop, when out of descriptors, takes connections and drops them: it must not come to that.
        if writer.get_extra_info("socket").fileno() >= self._max_descriptor:
            for listener in self._listeners:
                listener.pause_for_a_moment()
        if len(self._streams) >= self._max_connections and not self._is_paused:
            self._is_paused = True
            _logger.info("%d connections are open: others wait", len(self._streams))
            for listener in self._listeners:
                listener.hold()

    def _serve_waiting(self) -> None:
        while self._waiting and len(self._streams) - len(self._waiting) < self._max_connections:
            stream = next(iter(self._waiting))
            connection = self._load_connect()(stream, client=self._waiting.pop(stream))
            self._streams[stream] = connection
            if self._is_draining:
                connection.drain()
            task = asyncio.get_running_loop().create_task(connection.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _lost(self, stream: Stream) -> None:
        del self._streams[stream]
        self._files.shares_looks = len(self._streams) < _MAX_SHARING
        self._waiting.pop(stream, None)
        self._serve_waiting()
        if self._is_paused and len(self._streams) <= self._resume_at:
            self._is_paused = False
            for listener in self._listeners:
                listener.resume()
        if not self._streams:
            self._all_left.set()

    def _sweep(self, now: float) -> None:
        self._files.close_idle()
        if self._renewing is None and self._rule_files.may_have_changed():
            self._renewing = asyncio.get_running_loop().create_task(self._renew_rules())
            self._tasks.add(self._renewing)
            self._renewing.add_done_callback(self._renewed)
        is_busy = len(self._streams) > self._max_connections * _BUSY_SHARE
        for stream, connection in list(self._streams.items()):
            stream.sweep(now)
            if is_busy and connection is not None:
                connection.hurry(now)

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._renewing = None
        self._tasks.discard(task)


def _make_policies(config: Config) -> Policies:
    """What the options say of the fields of answers."""
    from aioserve.protocol.cors import ANY, Cors
    from aioserve.protocol.policy import (
        COI_FIELDS,
        SECURITY_FIELDS,
        Policies,
        parse_cache_control,
        parse_field,
    )

    origins = config.cors or ((ANY,) if config.data else ())
    return Policies(
        presets=(
            *((SECURITY_FIELDS,) if config.security_headers else ()),
            *((COI_FIELDS,) if config.coi else ()),
        ),
        fields=tuple(map(parse_field, config.header)),
        cache_control=tuple(map(parse_cache_control, config.cache_control)),
        cors=Cors(origins) if origins else None,
    )


async def serve(
    root: str | os.PathLike[str],
    port: int = 8080,
    *,
    host: str | Sequence[str] = "127.0.0.1",
    **options: object,
) -> None:
    """Serves the folder (or the one file) `root` until cancelled; then lets answers finish, for the grace
    period at most.

    Arguments and errors are those of `Server`.
    """
    async with Server(root, port, host=host, **options):
        await asyncio.get_running_loop().create_future()


def load() -> None:
    """Loads at once what a server loads when it listens, for a process that divides before."""
    import importlib

    for name in ("ctypes", "aiofiles.os", "aioserve.content.site", "aioserve.network.connection"):
        importlib.import_module(name)
