"""A server in a program: where it listens, what it refuses, its life, its limits, what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import importlib.util
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from aioserve import Config, ConfigError, Server, serve
from aioserve.network.access_log import Exchange
from aioserve.network.sockets import open_sockets
from aioserve.protocol.plan import Plan, plan_error
from tests.content.conftest import is_open
from tests.failures.traffic import format_request
from tests.network.addresses import (
    find_free_port,
    find_link_local_address,
    is_listening,
    needs_ipv6,
    on_linux,
)
from tests.network.breaking import PATIENCE_S, answer_by, begin_transfer, read_what_comes
from tests.network.conftest import MIB, Serving, count_open, descriptor_limit, expect_open
from tests.network.waiting import count_in_backlog, needs_proc_net, wait_until, wait_until_accepted
from tests.process import make_environment
from tests.raw_client import RawClient, get

HELLO = format_request("/hello.txt")

# So long that a test which waits for it fails.
FOR_EVER_S = 1000


@pytest.fixture(autouse=True)
def no_complaint(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing here makes the server or asyncio complain."""
    caplog.set_level(logging.INFO)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []


# ---- what the tests share --------------------------------------------------------------------------------


def find_disk_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("aioserve")]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """The block closes every descriptor that it opens, and ends every thread of a server."""
    before = count_open()
    yield
    await expect_open(before)
    await wait_until(lambda: not find_disk_threads())


async def expect_service(port: int, host: str = "127.0.0.1") -> None:
    async with RawClient(port, host=host) as client:
        assert (await client.ask(HELLO)).body == b"hello\n"


@contextmanager
def connected(port: int, data: bytes = b"", host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A client of which nobody knows but the kernel, until the loop runs."""
    with socket.create_connection((host, port), 20) as client:
        client.sendall(data)
        client.setblocking(False)
        yield client


async def receive(client: socket.socket) -> bytes:
    """All that still comes, until the server ends the connection."""
    loop = asyncio.get_running_loop()
    received = b""
    async with asyncio.timeout(20):
        while data := await loop.sock_recv(client, 65536):
            received += data
    return received


async def receive_hello(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    received = b""
    async with asyncio.timeout(20):
        while not received.endswith(b"\r\n\r\nhello\n"):
            data = await loop.sock_recv(client, 65536)
            assert data
            received += data


def reset(client: socket.socket) -> None:
    """Leaves with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


LEAVING = pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["politely", "with a reset"])

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") is not None else [])]


# ---- where it listens ------------------------------------------------------------------------------------


class TestAddress:
    async def test_without_a_port_it_takes_a_free_one(self, site_root: Path) -> None:
        async with Server(site_root) as server:
            assert server.addresses == (("127.0.0.1", server.port),)
            assert server.url == f"http://127.0.0.1:{server.port}/"
            await expect_service(server.port)

    async def test_a_port_that_is_asked_for_is_taken(self, site_root: Path) -> None:
        port = find_free_port()
        async with Server(site_root, port) as server:
            assert server.port == port
            await expect_service(port)

    async def test_before_the_start_it_tells_what_was_asked_for(self, site_root: Path) -> None:
        server = Server(site_root, 8080, host="::1")

        assert server.addresses == ()
        assert server.port == 8080
        assert server.url == "http://[::1]:8080/"

    @needs_ipv6
    async def test_an_ipv6_address_is_served(self, serving: Serving) -> None:
        async with serving(host="::1") as server:
            assert server.addresses == (("::1", server.port),)
            assert server.url == f"http://[::1]:{server.port}/"
            await expect_service(server.port, "::1")

    @needs_ipv6
    async def test_several_hosts_share_one_free_port(self, serving: Serving) -> None:
        async with serving(host=["::1", "127.0.0.1"]) as server:
            assert server.addresses == (("::1", server.port), ("127.0.0.1", server.port))
            await expect_service(server.port, "::1")
            await expect_service(server.port, "127.0.0.1")

    @needs_ipv6
    async def test_all_addresses_of_both_families_do_not_get_into_each_others_way(
        self, serving: Serving
    ) -> None:
        async with serving(host="0.0.0.0, ::") as server:
            assert server.addresses == (("0.0.0.0", server.port), ("::", server.port))
            assert server.url == f"http://127.0.0.1:{server.port}/"
            await expect_service(server.port, "127.0.0.1")
            await expect_service(server.port, "::1")

    async def test_a_link_local_address_is_served_in_its_zone(self, serving: Serving) -> None:
        host = find_link_local_address()
        if host is None:
            pytest.skip("no interface has a link-local address here")
        async with serving(host=host) as server:
            assert server.addresses == ((host, server.port),)
            assert server.url == f"http://[{host.replace('%', '%25')}]:{server.port}/"
            await expect_service(server.port, host)


class TestRefusedAddresses:
    """Starting raises an OSError that names the address, and leaves nothing behind."""

    async def test_a_busy_port(self, site_root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]
            async with nothing_left():
                server = Server(site_root, port)
                with pytest.raises(
                    OSError, match=f"http://127.0.0.1:{port}/: address already in use"
                ) as caught:
                    await server.start()

                assert caught.value.errno == errno.EADDRINUSE
                assert server.addresses == ()

    async def test_a_port_of_another_server_which_goes_on(self, serving: Serving, site_root: Path) -> None:
        async with serving() as first:
            with pytest.raises(OSError, match=f"http://127.0.0.1:{first.port}/: address already in use"):
                await Server(site_root, first.port).start()

            await expect_service(first.port)

    async def test_it_can_be_started_once_the_port_is_free(self, site_root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            server = Server(site_root, busy.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                await server.start()
        async with server:
            await expect_service(server.port)

    @on_linux
    async def test_a_start_that_fails_half_way_lets_go_who_has_come_already(
        self, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last address finds no descriptor, when the first ones have clients."""
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        duplicate = socket.socket.dup
        with contextlib.ExitStack() as clients:
            connections: list[socket.socket] = []

            def dup(self: socket.socket) -> socket.socket:
                host, port = self.getsockname()
                if host == hosts[1]:
                    connections.append(clients.enter_context(connected(port, host=hosts[0])))
                if host == hosts[2]:
                    raise OSError(errno.EMFILE, "no descriptor is left")
                return duplicate(self)

            monkeypatch.setattr(socket.socket, "dup", dup)
            before = count_open()
            with pytest.raises(OSError, match="no descriptor is left"):
                await serving(host=hosts).start()

            with contextlib.suppress(ConnectionResetError):
                assert await receive(connections[0]) == b""
            connections[0].close()
            await expect_open(before)
            await wait_until(lambda: not find_disk_threads())


class TestRoot:
    async def test_one_that_is_missing_is_an_os_error_and_leaves_nothing_open(self, tmp_path: Path) -> None:
        async with nothing_left():
            server = Server(tmp_path / "absent")
            with pytest.raises(FileNotFoundError) as caught:
                await server.start()

            assert os.fsdecode(caught.value.filename) == str(tmp_path / "absent")
            assert server.addresses == ()

    async def test_one_that_is_there_in_time_is_served(self, tmp_path: Path) -> None:
        root = tmp_path / "later"
        server = Server(root)
        with pytest.raises(FileNotFoundError):
            await server.start()
        root.mkdir()
        (root / "hello.txt").write_bytes(b"hello\n")
        async with server:
            await expect_service(server.port)

    async def test_a_single_file_is_served_as_text_and_as_path(self, site_root: Path) -> None:
        async with Server(str(site_root / "hello.txt")) as server:
            await expect_service(server.port)
            assert (await get(server.port, "/")).body == b"hello\n"
            assert (await get(server.port, "/index.html")).status == 404


# ---- options ---------------------------------------------------------------------------------------------


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"port": 99_999}, "port: got 99999, expected a whole number from 0 to 65535"),
            ({"port": True}, "port: got True, expected a whole number"),
            ({"host": "127.0.0.1:80"}, "host: got '127.0.0.1:80', expected addresses or host names"),
            ({"host": []}, r"host: got \[\], expected addresses or host names"),
            ({"grace_s": "soon"}, "grace_s: got 'soon', expected seconds from 0 to 86400"),
            ({"grace": -1}, "grace: got -1, expected seconds from 0 to 86400"),
            ({"symlinks": "maybe"}, "symlinks: got 'maybe', expected one of none, inside, all"),
            ({"head_bytes": "1KB"}, "head_bytes: got '1KB', expected a size from 256 bytes to 16MiB"),
            ({"index": ["a/b"]}, r"index: got \['a/b'\], expected file names, without a folder"),
            ({"grace_s": 1, "grace": 1}, "grace: the same option as grace_s, expected one of the two"),
            ({"graces": 1}, "graces: no such option; did you mean grace_s?"),
            ({"quiet": True}, "quiet: an option of the command line, expected one of the server"),
        ],
    )
    async def test_a_wrong_one_says_what_was_expected(
        self, options: dict[str, object], message: str, site_root: Path
    ) -> None:
        with pytest.raises(ConfigError, match=f"^{message}"):
            Server(site_root, **options)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(ConfigError, match=f"^{message}"):
            await serve(site_root, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "options",
        [{"request_line_bytes": 64}, {"max_request_line": 64}, {"max_request_line": "64"}],
        ids=["with unit", "as on the command line", "as text"],
    )
    async def test_each_name_of_one_is_understood(self, options: dict[str, object], serving: Serving) -> None:
        async with serving(**options) as server:
            assert (await get(server.port, "/" + "a" * 64)).status == 414

    @pytest.mark.parametrize(
        ("options", "request_bytes", "answer"),
        [
            pytest.param({"request_line_bytes": 64}, format_request("/" + "a" * 64), b" 414 ", id="line"),
            pytest.param({"head_bytes": 256}, format_request("/", "A: " + "a" * 256), b" 431 ", id="head"),
            pytest.param({"fields": 1}, format_request("/", "A: a"), b" 431 ", id="fields"),
            pytest.param(
                {"body_discard_bytes": 2},
                format_request("/", "Content-Length: 3") + b"abc",
                b"\r\nConnection: close\r\n",
                id="body",
            ),
            pytest.param({"head_timeout_s": 0.001}, HELLO[:-1], b" 408 ", id="head timeout"),
            pytest.param(
                {"body_timeout_s": 0.001},
                format_request("/", "Content-Length: 3"),
                b" 408 ",
                id="body timeout",
            ),
            pytest.param({"keepalive_timeout_s": 0.001}, HELLO, b" 200 ", id="keep-alive timeout"),
        ],
    )
    async def test_a_limit_reaches_the_connections(
        self, options: dict[str, object], request_bytes: bytes, answer: bytes, serving: Serving
    ) -> None:
        others = dict.fromkeys(("head_timeout_s", "body_timeout_s", "keepalive_timeout_s"), FOR_EVER_S)
        async with serving(**{**others, **options}) as server, RawClient(server.port) as client:
            await client.send(request_bytes)

            assert answer in await client.read_to_end()

    @on_linux
    async def test_a_client_that_takes_nothing_is_cut_off(self, serving: Serving, site_root: Path) -> None:
        async with serving(send_timeout_s=0.001) as server, RawClient(server.port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            await wait_until(lambda: not is_open(site_root / "huge.bin"))

            assert len(await read_what_comes(client)) < announced

    @pytest.mark.parametrize(
        "options", [{"linger_idle_s": 0.001}, {"linger_total_s": 0.001}, {"linger_bytes": 0}], ids=str
    )
    async def test_closing_waits_for_the_client_no_longer_than_it_says(
        self, options: dict[str, object], serving: Serving
    ) -> None:
        others = dict.fromkeys(("linger_idle_s", "linger_total_s"), FOR_EVER_S)
        async with serving(**{**others, **options}) as server, RawClient(server.port) as client:
            await client.ask(HELLO)
            descriptors = count_open()
            await client.ask(format_request("/hello.txt", "Connection: close"))

            await expect_open(descriptors - Counter(["socket:"]))

    async def test_those_of_the_site_reach_it(self, serving: Serving, site_root: Path) -> None:
        (site_root / ".hidden").write_bytes(b"hidden")
        (site_root / "home.html").write_bytes(b"home")
        (site_root / "link").symlink_to("hello.txt")
        async with (
            serving() as usual,
            serving(
                hidden=True, index=["none.html", "home.html"], symlinks="none", server_header=False
            ) as other,
        ):
            assert [
                (await get(usual.port, "/")).body == (site_root / "index.html").read_bytes(),
                (await get(usual.port, "/.hidden")).status,
                (await get(usual.port, "/link")).status,
                (await get(usual.port, "/")).fields.get("server"),
            ] == [True, 404, 200, "aioserve"]
            assert [
                (await get(other.port, "/")).body == b"home",
                (await get(other.port, "/.hidden")).status,
                (await get(other.port, "/link")).status,
                (await get(other.port, "/")).fields.get("server"),
            ] == [True, 200, 404, None]


# ---- its life --------------------------------------------------------------------------------------------


class TestLife:
    async def test_a_block_serves_from_its_beginning_to_its_end(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving()
            async with server:
                port = server.port
                await expect_service(port)

            assert server.addresses == ()
            assert not is_listening(port)

    async def test_several_in_one_loop_share_nothing(self, serving: Serving, site_root: Path) -> None:
        async with serving() as first, Server(site_root / "folder") as second:
            assert first.port != second.port
            assert b"home" in (await get(first.port, "/")).body
            assert b"folder" in (await get(second.port, "/")).body
            await first.stop()
            await expect_service(second.port)

    async def test_one_that_has_been_stopped_can_be_started_again(self, serving: Serving) -> None:
        server = serving()
        async with nothing_left():
            for _ in range(3):
                async with server:
                    await expect_service(server.port)

    @pytest.mark.parametrize("loop", LOOPS)
    def test_it_can_be_started_again_on_another_loop(self, loop: str, serving: Serving) -> None:
        server = serving()

        async def use() -> None:
            async with server:
                await expect_service(server.port)

        for name in (loop, "asyncio", loop):
            importlib.import_module(name).run(use())

    async def test_starting_one_that_is_started_raises_and_changes_nothing(self, serving: Serving) -> None:
        async with serving() as server:
            with pytest.raises(RuntimeError, match="the server has been started already"):
                await server.start()

            await expect_service(server.port)

    async def test_of_two_starts_at_once_one_raises(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving()
            outcomes = await asyncio.gather(server.start(), server.start(), return_exceptions=True)

            assert [type(outcome) for outcome in outcomes] == [type(None), RuntimeError]
            await expect_service(server.port)
            await server.stop()

    async def test_stopping_one_that_is_stopped_does_nothing(self, serving: Serving) -> None:
        server = serving()
        await server.stop()
        async with server:
            pass
        await server.stop()

    @pytest.mark.parametrize("turns", range(12))
    async def test_a_start_that_is_interrupted_leaves_nothing(self, turns: int, serving: Serving) -> None:
        async with nothing_left():
            server = serving()
            starting = asyncio.create_task(server.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            # Where it was too late to interrupt it.
            await server.stop()
            async with server:
                await expect_service(server.port)

    async def test_a_tick_that_fails_in_the_start_leaves_nothing(self, site_root: Path) -> None:
        def fail() -> None:
            raise RuntimeError("the program has a defect")

        async with nothing_left():
            server = Server.from_config(site_root, Config(port=0), on_tick=fail)
            with pytest.raises(RuntimeError, match="the program has a defect"):
                await server.start()

            assert server.addresses == ()

    @LEAVING
    async def test_who_leaves_before_anybody_looked_leaves_nothing(
        self, leave: Callable[[socket.socket], None], serving: Serving
    ) -> None:
        async with serving(connections=1) as server:
            await expect_service(server.port)
            before = count_open()
            for data in (b"", HELLO):
                with connected(server.port, data) as client:
                    leave(client)
                await expect_service(server.port)

            await expect_open(before)


class TestObservers:
    async def test_a_program_gets_a_record_for_each_exchange(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving() as server:
            await get(server.port, "/hello.txt")
            await get(server.port, "/absent")

        records = [record for record in caplog.records if record.name == "aioserve.access"]
        assert [record.__dict__["exchange"].status for record in records] == [200, 404]
        assert '"GET /hello.txt HTTP/1.1" 200 6' in records[0].getMessage()

    async def test_the_records_can_be_switched_off(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(log_format="off") as server:
            await get(server.port, "/hello.txt")

        assert caplog.records == []

    async def test_an_observer_gets_them_instead(
        self, site_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchanges: list[Exchange] = []
        async with Server.from_config(site_root, Config(port=0), observer=exchanges.append) as server:
            await get(server.port, "/hello.txt")
        async with Server.from_config(site_root, Config(port=0)) as server:
            await get(server.port, "/hello.txt")

        assert [(one.client, one.status) for one in exchanges] == [("127.0.0.1", 200)]
        assert caplog.records == []

    async def test_every_second_is_told_until_the_server_stops(self, site_root: Path) -> None:
        ticks: list[None] = []
        server = Server.from_config(site_root, Config(port=0), on_tick=lambda: ticks.append(None))
        async with server:
            await wait_until(lambda: len(ticks) > 2)
        count = len(ticks)
        await asyncio.sleep(1.1)

        assert len(ticks) == count


class TestDividedProcess:
    """What a process needs that opens the sockets and then divides."""

    async def test_sockets_that_are_given_are_served_and_closed_in_the_end(self, site_root: Path) -> None:
        async with nothing_left():
            sockets = await open_sockets(["127.0.0.1"], 0, 10)
            port = sockets[0].getsockname()[1]
            async with Server.from_config(site_root, Config(port=1), sockets=sockets) as server:
                assert server.addresses == (("127.0.0.1", port),)
                await expect_service(port)
            assert not is_listening(port)

    def test_all_that_the_first_client_needs_can_be_loaded_before(self, site_root: Path) -> None:
        subprocess.run([sys.executable, "-c", _LOADING, site_root], env=make_environment(), check=True)


_LOADING = """
import asyncio, socket, sys
from aioserve import Config
from aioserve.network.server import Server, load

load()
socket.getaddrinfo("127.0.0.1", 80)  # of the client
before = set(sys.modules)

async def main():
    async with Server.from_config(sys.argv[1], Config(port=0)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /hello.txt HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()

asyncio.run(main())
assert not set(sys.modules) - before, set(sys.modules) - before
"""


class TestServe:
    async def test_a_task_of_a_group_serves_until_it_is_cancelled(self, site_root: Path) -> None:
        port = find_free_port()
        async with nothing_left():
            async with asyncio.TaskGroup() as group:
                site = group.create_task(serve(site_root, port))
                await wait_until(lambda: is_listening(port))
                await expect_service(port)
                assert not site.done()
                site.cancel()

            assert site.cancelled()
            assert not is_listening(port)

    async def test_a_group_that_fails_ends_it(self, site_root: Path) -> None:
        port = find_free_port()

        async def fail() -> None:
            await wait_until(lambda: is_listening(port))
            raise RuntimeError("the program has a defect")

        async def run_both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(serve(site_root, port))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await run_both()

        assert [str(error) for error in caught.value.exceptions] == ["the program has a defect"]
        assert not is_listening(port)

    async def test_cancelled_it_lets_a_download_finish(self, site_root: Path) -> None:
        port = find_free_port()
        site = asyncio.create_task(serve(site_root, port, grace_s=FOR_EVER_S))
        await wait_until(lambda: is_listening(port))
        async with RawClient(port, timeout_s=30) as client:
            announced = await begin_transfer(client, "/huge.bin")
            site.cancel()
            await wait_until(lambda: not is_listening(port))
            assert not site.done()

            assert await client.reader.readexactly(announced) == bytes(64 * MIB)
        with pytest.raises(asyncio.CancelledError):
            await site

    async def test_cancelled_it_ends_after_the_grace_period_at_the_latest(self, site_root: Path) -> None:
        port = find_free_port()
        site = asyncio.create_task(serve(site_root, port, grace="100ms"))
        await wait_until(lambda: is_listening(port))
        async with RawClient(port) as client:
            announced = await begin_transfer(client, "/huge.bin")
            site.cancel()
            with pytest.raises(asyncio.CancelledError):
                await site

            assert len(await read_what_comes(client)) < announced

    async def test_what_start_raises_it_raises(self, site_root: Path, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy, pytest.raises(OSError, match="in use"):
            await serve(site_root, busy.getsockname()[1])
        with pytest.raises(FileNotFoundError):
            await serve(tmp_path / "absent", 0)

    async def test_it_takes_the_host_and_the_options_of_a_server(self, site_root: Path) -> None:
        port = find_free_port()
        site = asyncio.create_task(serve(site_root, port, host=["127.0.0.1"], max_request_line=64))
        await wait_until(lambda: is_listening(port))
        answer = await get(port, "/" + "a" * 64)
        site.cancel()
        await asyncio.wait([site])

        assert answer.status == 414

    @pytest.mark.parametrize("loop", LOOPS)
    def test_it_is_a_whole_program_until_it_is_interrupted(self, loop: str, site_root: Path) -> None:
        port = find_free_port()
        # Where the tests run in the background, the shell has told everybody to ignore Ctrl-C.
        listens_to_ctrl_c = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = f"{listens_to_ctrl_c}; import {loop}, aioserve; {loop}.run(aioserve.serve('.', {port}))"
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            cwd=site_root,
            env=make_environment(),
            stderr=subprocess.PIPE,
        ) as process:
            try:
                while not is_listening(port):
                    assert process.poll() is None, "it has ended"
                    time.sleep(0.01)
                with connected(port, format_request("/huge.bin")) as client:
                    client.settimeout(PATIENCE_S)
                    received = len(client.recv(1))
                    process.send_signal(signal.SIGINT)
                    while is_listening(port):
                        time.sleep(0.01)
                    # The download is waited for, and becomes whole.
                    assert process.poll() is None
                    while data := client.recv(MIB):
                        received += len(data)
                assert process.stderr is not None
                errors = process.stderr.read().decode()
            finally:
                process.kill()

        assert received > 64 * MIB
        assert errors.splitlines()[-1] == "KeyboardInterrupt"
        assert "Warning" not in errors


# ---- its end ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def downloading(server: Server) -> AsyncIterator[RawClient]:
    """A client that has begun a download which cannot end before it reads on."""
    async with RawClient(server.port, timeout_s=30) as client:
        await begin_transfer(client, "/huge.bin")
        yield client


class TestStop:
    async def test_idle_connections_are_not_waited_for(self, serving: Serving) -> None:
        options = dict.fromkeys(("grace_s", "linger_idle_s", "linger_total_s"), FOR_EVER_S)
        async with nothing_left():
            server = serving(**options)
            await server.start()
            async with RawClient(server.port) as idle, RawClient(server.port) as silent:
                await idle.ask(HELLO)
                await server.stop()

                assert await idle.read_to_end() == b""
                assert await silent.read_to_end() == b""

    @pytest.mark.parametrize("turns", range(8))
    async def test_who_has_just_connected_is_not_waited_for_either(
        self, turns: int, serving: Serving
    ) -> None:
        options = dict.fromkeys(("grace_s", "linger_idle_s", "linger_total_s"), FOR_EVER_S)
        server = serving(connections=2, **options)
        await server.start()
        with contextlib.ExitStack() as clients:
            for _ in range(5):
                clients.enter_context(connected(server.port))
            for _ in range(turns):
                await asyncio.sleep(0)

            await server.stop()

    @needs_proc_net
    @pytest.mark.parametrize("connections", [1, 1000])
    async def test_every_client_that_was_accepted_is_answered(
        self, connections: int, serving: Serving
    ) -> None:
        server = serving(connections=connections, grace_s=FOR_EVER_S)
        await server.start()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connected(server.port, HELLO)) for _ in range(8)]
            if connections == 1:
                await wait_until(lambda: count_in_backlog(server.port) < 8)
            else:
                await wait_until_accepted(server.port)
            accepted = clients[: 8 - count_in_backlog(server.port)]
            stopping = asyncio.create_task(server.stop())
            for client in accepted:
                answer = await receive(client)
                client.close()

                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.endswith(b"\r\n\r\nhello\n")
        await stopping

    async def test_a_download_is_finished(self, serving: Serving) -> None:
        server = serving(grace_s=FOR_EVER_S)
        await server.start()
        port = server.port
        async with downloading(server) as client:
            stopping = asyncio.create_task(server.stop())
            await wait_until(lambda: not is_listening(port))
            assert not stopping.done()

            assert await client.reader.readexactly(64 * MIB) == bytes(64 * MIB)
        await stopping
        assert server.addresses == ()

    async def test_what_is_not_finished_in_time_is_aborted(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving(grace_s=FOR_EVER_S)
            await server.start()
            async with downloading(server) as client:
                await server.stop(0.1)

                assert len(await read_what_comes(client)) < 64 * MIB

    async def test_who_waits_for_the_place_of_another_gets_nothing_after_it(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving(connections=1)
            await server.start()
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(connected(server.port, format_request("/huge.bin")))
                others = [stack.enter_context(connected(server.port, HELLO)) for _ in range(3)]
                assert await asyncio.get_running_loop().sock_recv(first, 1) == b"H"
                await server.stop(0)

                for other in others:
                    with contextlib.suppress(ConnectionResetError):
                        assert await receive(other) == b""

    async def test_an_answer_for_which_its_disk_does_not_come_back_is_left(
        self, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = asyncio.Event()

        async def respond(*_: object) -> AsyncIterator[Plan]:
            asked.set()
            await asyncio.get_running_loop().create_future()
            yield plan_error(None, 503)

        answer_by(monkeypatch, respond)
        async with nothing_left():
            server = serving()
            await server.start()
            async with RawClient(server.port) as client:
                await client.send(HELLO)
                await asked.wait()
                await server.stop(0)

                assert await read_what_comes(client) == b""

    async def test_the_grace_period_is_an_option(self, serving: Serving) -> None:
        server = serving(grace_s=0.1)
        await server.start()
        async with downloading(server) as client:
            await server.stop()

            assert len(await read_what_comes(client)) < 64 * MIB

    async def test_one_that_is_cancelled_aborts_at_once(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving()
            await server.start()
            port = server.port
            async with downloading(server) as client:
                stopping = asyncio.create_task(server.stop(FOR_EVER_S))
                await wait_until(lambda: not is_listening(port))
                stopping.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await stopping

                assert len(await read_what_comes(client)) < 64 * MIB
            async with server:
                await expect_service(server.port)

    @pytest.mark.parametrize("turns", range(8))
    async def test_one_that_is_cancelled_early_leaves_nothing(self, turns: int, serving: Serving) -> None:
        async with nothing_left():
            server = serving(host=["127.0.0.1", "127.0.0.2"] if sys.platform == "linux" else "127.0.0.1")
            await server.start()
            port = server.port
            async with downloading(server):
                stopping = asyncio.create_task(server.stop(FOR_EVER_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                stopping.cancel()
                await asyncio.wait([stopping])

                await server.stop(0)
                assert not is_listening(port)

    async def test_another_one_with_less_patience_ends_the_first(self, serving: Serving) -> None:
        async with nothing_left():
            server = serving()
            await server.start()
            port = server.port
            async with downloading(server):
                patient = asyncio.create_task(server.stop(FOR_EVER_S))
                await wait_until(lambda: not is_listening(port))
                await server.stop(0)
                await patient

    async def test_one_that_is_stopping_cannot_be_started(self, serving: Serving) -> None:
        async with serving() as server, downloading(server):
            port = server.port
            stopping = asyncio.create_task(server.stop(FOR_EVER_S))
            await wait_until(lambda: not is_listening(port))
            with pytest.raises(RuntimeError, match="started already"):
                await server.start()
            stopping.cancel()
            await asyncio.wait([stopping])

    async def test_a_server_that_is_full_stops_and_takes_clients_again_when_started(
        self, serving: Serving
    ) -> None:
        server = serving(connections=1)
        async with server, RawClient(server.port) as client:
            await client.ask(HELLO)
        async with server:
            await expect_service(server.port)


# ---- its limits ------------------------------------------------------------------------------------------


class TestConnections:
    @needs_proc_net
    async def test_more_than_are_allowed_wait_in_the_kernel_until_others_leave(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(connections=2, log_format="off") as server, contextlib.AsyncExitStack() as later:
            async with RawClient(server.port) as first:
                async with RawClient(server.port) as second:
                    await first.ask(HELLO)
                    await second.ask(HELLO)
                    others = [await later.enter_async_context(RawClient(server.port)) for _ in range(3)]
                    for other in others:
                        await other.send(HELLO)
                    # They are not even looked at, however often the loop turns.
                    for _ in range(20):
                        assert (await second.ask(HELLO)).status == 200
                    assert count_in_backlog(server.port) == 3
                assert (await others[0].read_answer()).body == b"hello\n"
                assert (await first.ask(HELLO)).body == b"hello\n"
            assert (await others[1].read_answer()).body == b"hello\n"
            others[0].writer.close()
            assert (await others[2].read_answer()).body == b"hello\n"

        assert caplog.messages[0] == "2 connections are open: others wait"
        assert set(caplog.messages) == {caplog.messages[0]}

    async def test_a_crowd_is_served_one_by_one(self, serving: Serving) -> None:
        async with serving(connections=1) as server:
            answers = await asyncio.gather(*(get(server.port, "/hello.txt") for _ in range(30)))

        assert [answer.body for answer in answers] == 30 * [b"hello\n"]

    @LEAVING
    async def test_who_gives_up_waiting_does_not_take_anybodys_place(
        self, leave: Callable[[socket.socket], None], serving: Serving
    ) -> None:
        async with serving(connections=1) as server:
            before = count_open()
            with contextlib.ExitStack() as stack:
                first, *others, last = (
                    stack.enter_context(connected(server.port, data))
                    for data in (HELLO, b"", HELLO, b"", HELLO, HELLO)
                )
                await receive_hello(first)
                for other in others:
                    leave(other)
                await expect_nobody_answers(last)
                first.close()
                await receive_hello(last)
            await expect_open(before)

    async def test_a_server_that_was_full_takes_clients_again(self, serving: Serving) -> None:
        async with serving(connections=3) as server:
            for _ in range(3):
                async with contextlib.AsyncExitStack() as clients:
                    for _ in range(3):
                        client = await clients.enter_async_context(RawClient(server.port))
                        await client.ask(HELLO)

    async def test_above_four_fifths_idle_ones_have_to_go_sooner(self, site_root: Path) -> None:
        ticks: list[None] = []
        config = Config(port=0, connections=10, keepalive_timeout_busy_s=0.001)
        async with (
            Server.from_config(site_root, config, on_tick=lambda: ticks.append(None)) as server,
            contextlib.AsyncExitStack() as stack,
        ):
            clients = [await stack.enter_async_context(RawClient(server.port)) for _ in range(8)]
            for client in clients:
                await client.ask(HELLO)
            looked_at = len(ticks) + 2
            await wait_until(lambda: len(ticks) >= looked_at)
            for client in clients:
                assert (await client.ask(HELLO)).status == 200

            ninth = await stack.enter_async_context(RawClient(server.port))
            await ninth.ask(HELLO)
            # The last ones may not have been idle for so long when this is looked at.
            for client in clients[:4]:
                assert await client.read_to_end() == b""

    async def test_without_a_limit_descriptors_are_the_limit(self, serving: Serving) -> None:
        with descriptor_limit(64 + 2 * 2):
            server = serving(log_format="off")
        async with server, RawClient(server.port) as first, RawClient(server.port) as second:
            await first.ask(HELLO)
            await second.ask(HELLO)
            with connected(server.port, HELLO) as third:
                await expect_nobody_answers(third)


async def expect_nobody_answers(client: socket.socket) -> None:
    """Has nothing been sent to it, although the loop has turned for a while."""
    for _ in range(100):
        await asyncio.sleep(0.001)
    with pytest.raises(BlockingIOError):
        client.recv(1, socket.MSG_PEEK)


class TestDescriptors:
    @on_linux
    async def test_when_few_are_left_clients_wait_a_moment_and_one_line_says_so(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        with descriptor_limit(lowest_free + 20):
            server = serving(log_format="off", connections=1000)
        async with server, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(server.port)) for _ in range(3)]
            for client in clients:
                assert (await client.ask(HELLO)).body == b"hello\n"

        assert caplog.messages == ["out of file descriptors: connections wait until some are free again"]


# ---- what it leaves alone --------------------------------------------------------------------------------

_EMBEDDING = """
import asyncio, gc, logging, os, resource, signal, sys, threading
from aioserve import Server

def look():
    loggers = [logging.getLogger(name) for name in (None, "aioserve", "aioserve.access", "asyncio")]
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "loggers": [(one.handlers[:], one.filters[:], one.level, one.disabled) for one in loggers],
        "logging": (logging.raiseExceptions, logging.root.manager.disable, logging.lastResort),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "place": (os.getcwd(), dict(os.environ), sys.argv),
    }

async def main():
    before = look()
    server = Server("site")
    assert look() == before
    async with server:
        assert server.port != 1, "the environment was read"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /.hidden HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        assert b" 404 " in await reader.readline(), "the environment was read"
        writer.close()
        await writer.wait_closed()
        assert look() == before
    assert look() == before

RUN(main())
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_keeps_its_signals_its_logging_and_everything_else(loop: str, tmp_path: Path) -> None:
    """Nor is the environment read, or a file: they would be refused, or show hidden names."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".hidden").touch()
    (tmp_path / "aioserve.toml").write_text("hidden = true\nport = 1\n")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"from {loop} import run as RUN\n{_EMBEDDING}"],
        cwd=tmp_path,
        env=make_environment(AIOSERVE_PORT="1", AIOSERVE_HIDDEN="on", AIOSERVE_NONSENSE="yes"),
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (done.returncode, done.stderr) == (0, "")
