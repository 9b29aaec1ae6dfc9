"""A site on its sockets: `Server` and `serve()`. Binds, accepts within limits, drains, stops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, cast

from aioserve.config import Config
from aioserve.content.containment import Symlinks
from aioserve.content.disk import Disk
from aioserve.content.files import Files
from aioserve.network.clock import Clock
from aioserve.network.listener import Listener
from aioserve.network.stream import Stream, StreamLimits

if TYPE_CHECKING:
    from aioserve.network.access_log import Exchange
    from aioserve.network.connection import Connection
    from aioserve.protocol.plan import Field

if sys.platform != "win32":
    import resource

_logger = logging.getLogger("aioserve")

# Descriptors that are not for connections: the loop, the root, the log, what the program itself holds.
_RESERVED_DESCRIPTORS = 64
_MAX_AUTOMATIC_CONNECTIONS = 10_000

# Descriptors that are left when accepting pauses. Their numbers are given out lowest first, so the number of
# a new connection tells how many are in use, whoever in the process uses them.
_SPARE_DESCRIPTORS = 16

# Above this share of the connections allowed, idle ones have to go sooner.
_BUSY_SHARE = 0.8

# What the system says of an address, or of a family of addresses, that the machine does not have.
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# How many free ports are tried when several addresses have to share one.
_FREE_PORTS_TRIED = 10

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
        make_files = functools.partial(
            Files,
            self._root,
            symlinks=Symlinks(self._config.symlinks),
            hidden=self._config.hidden,
            disk=self._disk,
            cache_bytes=self._config.cache_bytes,
        )
        try:
            self._files = await self._disk.run("root", make_files, queue_s=None, discard=Files.close)
        except BaseException:
            self._disk.close()
            self._is_started = False
            raise
        self._connect: Callable[..., Connection] | None = None
        try:
            await self._listen()
            self._clock.start()
        except BaseException:
            await self._stop(0)
            raise
        asyncio.get_running_loop().call_soon(self._load)

    def _load(self) -> None:
        """Loads what the first client needs: after listening, which a command is waited for to do."""
        self._disk.load()
        self._load_connect()

    def _load_connect(self) -> Callable[..., Connection]:
        """Loads what answers requests; gives what makes a connection of a stream and a client."""
        if self._connect is None:
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
            site = Site(self._files, index=config.index)
            self._connect = functools.partial(
                Connection,
                site=site,
                shortcuts=Shortcuts(
                    site,
                    self._clock,
                    self._server_field,
                    max_line_bytes=limits.request_line_bytes,
                    max_head_bytes=limits.head_bytes,
                    max_fields=limits.fields,
                ),
                clock=self._clock,
                limits=limits,
                server_field=self._server_field,
                observe=self._observe,
            )
        return self._connect

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
        is_busy = len(self._streams) > self._max_connections * _BUSY_SHARE
        for stream, connection in list(self._streams.items()):
            stream.sweep(now)
            if is_busy and connection is not None:
                connection.hurry(now)


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


# An address of the machine: family, host, and what an IPv6 address has besides.
_Address = tuple[int, str, tuple[int, ...]]

# All addresses of a family.
_EVERYTHING = ("0.0.0.0", "::")


async def open_sockets(hosts: Sequence[str], port: int, backlog: int) -> list[socket.socket]:
    """A listening socket for each address of `hosts`, all on one port; for 0 on one that is free.

    Where a name has several addresses, those that the machine lacks are left out (::1 of localhost, without
    IPv6). Raises OSError that names the host.
    """
    addresses = _leave_out_covered({host: await _resolve(host) for host in hosts})
    for _ in range(0 if port else _FREE_PORTS_TRIED):
        # A port that is free at one address may be in use at another.
        try:
            return _open_sockets(addresses, port, backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _open_sockets(addresses, port, backlog)


async def _resolve(host: str) -> list[_Address]:
    loop = asyncio.get_running_loop()
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        try:
            # For what is no name nobody has to be asked; and uvloop loses the zone of a link-local address.
            # As bytes, since for a text Python loads the tables of international names.
            found = socket.getaddrinfo(host.encode(), 0, type=kind, flags=flags | socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await loop.getaddrinfo(host, 0, type=kind, flags=flags)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise type(error)(error.errno, f"cannot listen on {host}: {reason}") from None
    except UnicodeError:  # no query can hold it
        raise socket.gaierror(socket.EAI_NONAME, f"cannot listen on {host}: not a name of a host") from None
    return [(family, str(address[0]), tuple(address[2:])) for family, _, _, _, address in found]


def _leave_out_covered(addresses: Mapping[str, list[_Address]]) -> dict[str, list[_Address]]:
    """Without single addresses of a family all of whose addresses are listened on: they are among these."""
    everything = {address for found in addresses.values() for address in found if address[1] in _EVERYTHING}
    families = {family for family, *_ in everything}
    kept = {
        host: [address for address in found if address[0] not in families or address in everything]
        for host, found in addresses.items()
    }
    return {host: found for host, found in kept.items() if found}


def _open_sockets(addresses: Mapping[str, list[_Address]], port: int, backlog: int) -> list[socket.socket]:
    opened: dict[_Address, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for host, its_addresses in addresses.items():
            lacking: list[OSError] = []
            for address in its_addresses:
                if address in opened:
                    continue
                try:
                    opened[address] = stack.enter_context(_open_socket(host, address, port, backlog))
                except OSError as error:
                    if error.errno not in _LACKING:
                        raise
                    lacking.append(error)
                else:
                    port = port or opened[address].getsockname()[1]
            if opened.keys().isdisjoint(its_addresses):
                raise lacking[0]
        stack.pop_all()
    return list(opened.values())


def _open_socket(host: str, address: _Address, port: int, backlog: int) -> socket.socket:
    family, its_host, more = address
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if os.name == "posix":
                # Not the Windows meaning, where it would share the port. SO_REUSEPORT is never set: a second
                # server on a port in use has to fail.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setblocking(False)
            opened.bind((its_host, port, *more))
            # Here, not later: with SO_REUSEADDR two may bind the port, and the one who listens has it.
            opened.listen(backlog)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(error.errno, f"cannot listen on {format_url(host, port)}: {reason}") from None
        stack.pop_all()
    return opened


def format_url(host: str, port: int) -> str:
    """The URL at which a client on this machine reaches a server that is bound to `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    # RFC 6874: the zone of a link-local address begins with an encoded percent sign.
    host = host.replace("%", "%25")
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def find_descriptor_limit() -> float:
    """How many descriptors the process may have: the soft limit, inf for none."""
    if sys.platform == "win32":
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def find_connection_limit() -> int:
    """How many connections the process has descriptors for: each may need one more for its file."""
    available = min(find_descriptor_limit() - _RESERVED_DESCRIPTORS, 2 * _MAX_AUTOMATIC_CONNECTIONS)
    return max(1, int(available // 2))


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open descriptors to the hard one, for the whole process; keeps it where the
    system says no."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
