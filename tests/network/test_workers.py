"""Several processes on one port: whole workers of the real command, killed and stopped in every way."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioserve.network import workers
from aioserve.network.sockets import open_sockets
from tests.process import PATIENCE_S, RunningServer, make_command, make_environment, running_server

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")
BOTH_LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

SMALL = b"small"

# Larger than what the kernel keeps for a client that does not read.
LARGE_BYTES = 16 << 20

# So many connections that each of three or four workers gets some of them.
CLIENTS = 60
DOWNLOADS = 16

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "small.txt").write_bytes(SMALL)
    (folder / "large.bin").touch()
    os.truncate(folder / "large.bin", LARGE_BYTES)
    return folder


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it does not come to that"
        time.sleep(0.01)


# ---- processes, as the system sees them ------------------------------------------------------------------


def find_children(pid: int) -> list[int]:
    """The processes that it has started and that have not ended, in the order of their start."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if not has_ended(int(child))]


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def orphans() -> Iterator[list[int]]:
    """Processes that end with the test, whatever comes of it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


def count_sockets(pid: int) -> int:
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return count


class Group:
    """The workers of a server, without a log, and how many sockets each one has before its first client."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.pids = find_children(server.process.pid)
        self._idle = {pid: count_sockets(pid) for pid in self.pids}

    def count_connections(self) -> dict[int, int]:
        return {pid: count_sockets(pid) - idle for pid, idle in self._idle.items()}

    def kill(self, pid: int) -> None:
        """Kills that worker; returns when another has its place."""
        count = len(find_children(self.server.process.pid))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid) and len(find_children(self.server.process.pid)) == count)


# ---- clients ---------------------------------------------------------------------------------------------


def connect(port: int) -> http.client.HTTPConnection:
    """A connection that fails when it is lost, instead of making another."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.connect()
    connection.auto_open = 0
    return connection


def ask(connection: http.client.HTTPConnection, target: str = "/small.txt") -> bool:
    """True when it is answered, False when the connection has been lost."""
    try:
        connection.request("GET", target)
    except (ConnectionError, http.client.NotConnected):
        return False
    return gets_answer(connection)


def gets_answer(connection: http.client.HTTPConnection) -> bool:
    """True when the answer comes that has been asked for, False when the connection has been lost."""
    try:
        return connection.getresponse().read() == SMALL
    except ConnectionError:
        return False


def count_readable(connections: list[http.client.HTTPConnection]) -> int:
    return len(select.select([connection.sock for connection in connections], [], [], 0)[0])


@contextlib.contextmanager
def connected(port: int, count: int = CLIENTS) -> Iterator[list[http.client.HTTPConnection]]:
    """So many connections, each of which has been answered once."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(connect(port))) for _ in range(count)]
        assert all(map(ask, clients))
        yield clients


@contextlib.contextmanager
def downloading(port: int) -> Iterator[list[http.client.HTTPResponse]]:
    """Answers whose heads have been read, and whose bodies wait."""
    with contextlib.ExitStack() as stack:
        answers = []
        for _ in range(DOWNLOADS):
            client = stack.enter_context(contextlib.closing(connect(port)))
            client.request("GET", "/large.bin", headers={"Connection": "close"})
            answers.append(client.getresponse())
        yield answers


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionError:
        return True
    return False


class Load:
    """Threads that ask again and again, each time on a new connection, while the block runs."""

    def __init__(self, port: int, threads: int = 4) -> None:
        self.answered, self.lost, self.refused = [0] * threads, [0] * threads, [0] * threads
        self._port = port
        self._is_over = False
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Returns when every thread has been answered some more times."""
        wanted = [count + 5 for count in self.answered]
        wait_until(lambda: all(has >= want for has, want in zip(self.answered, wanted, strict=True)))

    def _ask(self, number: int) -> None:
        while not self._is_over:
            try:
                client = connect(self._port)
            except ConnectionError:
                self.refused[number] += 1
                continue
            with contextlib.closing(client):
                if ask(client):
                    self.answered[number] += 1
                else:
                    self.lost[number] += 1


# ---- the sockets -----------------------------------------------------------------------------------------


def open_now(hosts: list[str], port: int = 0) -> list[socket.socket]:
    return asyncio.run(open_sockets(hosts, port, backlog=100))


@pytest.fixture
def places() -> Iterator[list[list[socket.socket]]]:
    """Sockets for three workers, of which none is there."""
    with contextlib.ExitStack() as stack:
        shared = workers.share(open_now(["127.0.0.1"]), 3, 100)
        for place in shared:
            for bound in place:
                stack.callback(bound.close)
        yield shared


def accept_all(bound: socket.socket) -> int:
    """How many connections wait in a socket."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            bound.accept()[0].close()
            count += 1
    return count


class TestSockets:
    def test_every_worker_listens_at_the_same_addresses(self) -> None:
        hosts = ["127.0.0.1", "127.0.0.2"] if sys.platform == "linux" else ["127.0.0.1"]
        if socket.has_dualstack_ipv6():
            hosts.append("::1")
        shared = workers.share(open_now(hosts), 3, 100)
        addresses = [[bound.getsockname()[:2] for bound in place] for place in shared]
        for place in shared:
            for bound in place:
                bound.close()

        port = addresses[0][0][1]
        assert addresses == [[(host, port) for host in hosts]] * 3

    @ON_LINUX
    def test_the_kernel_spreads_connections_over_them(self, places: list[list[socket.socket]]) -> None:
        address = places[0][0].getsockname()
        clients = [socket.create_connection(address) for _ in range(CLIENTS)]
        counts = [accept_all(bound) for (bound,) in places]
        for client in clients:
            client.close()

        assert sum(counts) == CLIENTS
        assert all(counts)

    def test_a_server_that_comes_later_cannot_have_the_port(self, places: list[list[socket.socket]]) -> None:
        _, port = places[0][0].getsockname()

        with pytest.raises(OSError, match="in use"):
            open_now(["127.0.0.1"], port)
        with pytest.raises(OSError, match="in use"):
            open_now(["0.0.0.0"], port)

    def test_where_the_kernel_does_not_spread_all_have_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "_KERNEL_SPREADS", False)
        (first,), (second,) = workers.share(open_now(["127.0.0.1"]), 2, 100)
        with first, second, socket.create_connection(first.getsockname()):
            assert accept_all(second) == 1
            assert accept_all(first) == 0


# ---- who serves ------------------------------------------------------------------------------------------


@ON_LINUX
class TestProcesses:
    @BOTH_LOOPS
    def test_as_many_serve_as_asked_for_and_all_get_connections(self, loop: str, root: Path) -> None:
        with running_server(root, "--workers", 4, "--loop", loop, "--log-format", "off") as server:
            group = Group(server)
            with connected(server.port):
                counts = group.count_connections()

        assert len(counts) == 4
        assert sum(counts.values()) == CLIENTS
        assert all(counts.values())

    def test_one_more_writes_the_log(self, root: Path) -> None:
        with running_server(root, "--workers", 2) as server:
            wait_until(lambda: len(find_children(server.process.pid)) == 3)

    def test_one_worker_is_the_process_itself(self, root: Path) -> None:
        with running_server(root, "--workers", 1) as server, connected(server.port, 1):
            assert find_children(server.process.pid) == []

    @pytest.mark.parametrize("count", range(1, min(3, len(CORES)) + 1))
    def test_auto_is_one_for_each_core_that_it_may_use(self, count: int, root: Path) -> None:
        prepare = f"import os; os.sched_setaffinity(0, {CORES[:count]})"
        with running_server(root, "--workers", "auto", "--log-format", "off", prepare=prepare) as server:
            assert len(find_children(server.process.pid)) == (count if count > 1 else 0)

    @pytest.mark.parametrize("count", [1, 3])
    def test_there_is_one_banner_whose_port_is_that_of_all(self, count: int, root: Path) -> None:
        """A name of a host is asked for in a thread, which must not be there any more when it divides."""
        words = ("--workers", count, "--port", 0, "--host", "localhost")
        with running_server(root, *words) as server, connected(server.port):
            status = server.stop()

        assert status == 0
        assert [line for line in server.output.text.splitlines() if "Serving" in line] == [server.line]

    def test_all_serve_on_one_socket_where_the_kernel_does_not_spread(self, root: Path) -> None:
        prepare = "from aioserve.network import workers; workers._KERNEL_SPREADS = False"
        with running_server(root, "--workers", 3, "--log-format", "off", prepare=prepare) as server:
            group = Group(server)
            with Load(server.port):
                group.kill(group.pids[0])
            with connected(server.port):
                pass
            assert server.stop() == 0

    def test_the_limit_of_connections_is_that_of_each(self, root: Path) -> None:
        words = ("--workers", 2, "--max-connections", 4, "--log-format", "off")
        with running_server(root, *words) as server, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(connect(server.port))) for _ in range(CLIENTS)]
            for client in clients:
                client.request("GET", "/small.txt")
            wait_until(lambda: count_readable(clients) >= 8)
            answered = [client for client in clients if count_readable([client])]
            assert all(gets_answer(client) and ask(client) for client in answered)
            assert len(answered) + count_readable(clients) == 8

    def test_a_second_server_on_the_port_fails_and_the_first_goes_on(self, root: Path) -> None:
        with running_server(root, "--workers", 2) as server:
            for count in (1, 2):
                done = subprocess.run(
                    make_command("serve", root, "--port", server.port, "--workers", count),
                    env=make_environment(),
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_S,
                )
                assert (done.returncode, done.stdout) == (1, "")
                assert f"port {server.port} is in use" in done.stderr
            with connected(server.port):
                pass

    @pytest.mark.parametrize("where", [">&- 2>&- <&-", "> /dev/full"], ids=["closed", "full"])
    def test_they_serve_with_an_output_that_takes_nothing(self, where: str, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            _, port = probe.getsockname()
        command = shlex.join(make_command("serve", root, "--port", port, "--workers", 2))
        with subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command} {where}"], env=make_environment(), stderr=subprocess.DEVNULL
        ) as process:
            wait_until(lambda: not is_refused(port))
            with connected(port):
                process.terminate()
            assert process.wait(PATIENCE_S) == 0


# ---- who dies --------------------------------------------------------------------------------------------


@ON_LINUX
class TestDeath:
    @BOTH_LOOPS
    def test_a_killed_worker_takes_its_own_connections_with_it_and_no_other(
        self, loop: str, root: Path
    ) -> None:
        with running_server(root, "--workers", 3, "--loop", loop, "--log-format", "off") as server:
            group = Group(server)
            with connected(server.port) as clients:
                victim = group.pids[1]
                its_own = group.count_connections()[victim]
                with Load(server.port) as load:
                    group.kill(victim)
                    load.wait_for_more()
                lost = len(clients) - sum(map(ask, clients))

                assert 0 < lost == its_own < CLIENTS
                # Each thread of the load has one connection at a time.
                assert all(count <= 1 for count in load.lost)
                assert sum(load.refused) == 0
            said = server.errors.read_until(r"another takes its place")

        assert said == f"aioserve: worker 2 (pid {victim}) ended with signal 9: another takes its place\n"

    def test_another_takes_its_place_and_gets_connections(self, root: Path) -> None:
        with running_server(root, "--workers", 3, "--log-format", "off") as server:
            group = Group(server)
            for pid in group.pids:
                group.kill(pid)
            successors = find_children(server.process.pid)
            assert set(successors).isdisjoint(group.pids)
            with connected(server.port):
                counts = {pid: count_sockets(pid) for pid in successors}
            wait_until(lambda: all(count_sockets(pid) < counts[pid] for pid in successors))

    def test_who_waits_for_a_worker_that_is_killed_is_answered_by_the_next(self, root: Path) -> None:
        with running_server(root, "--workers", 2, "--log-format", "off") as server:
            first, second = find_children(server.process.pid)
            for pid in (first, second):
                os.kill(pid, signal.SIGSTOP)
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(contextlib.closing(connect(server.port))) for _ in range(CLIENTS)
                ]
                for client in clients:
                    client.request("GET", "/small.txt")
                os.kill(first, signal.SIGKILL)
                wait_until(lambda: count_readable(clients) > 0)
                os.kill(second, signal.SIGCONT)
                assert [client.getresponse().read() for client in clients] == [SMALL] * CLIENTS

    def test_a_death_is_noticed_when_whoever_started_the_server_ignores_it(self, root: Path) -> None:
        prepare = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
        with running_server(root, "--workers", 2, "--log-format", "off", prepare=prepare) as server:
            group = Group(server)
            group.kill(group.pids[0])
            server.errors.read_until("ended with signal 9")
            with connected(server.port):
                pass
            assert server.stop() == 0

    def test_when_workers_die_at_once_again_and_again_it_gives_up_with_status_1(self, root: Path) -> None:
        prepare = (
            "import os\nfrom aioserve.network.server import Server\n"
            "async def die(self): os._exit(3)\nServer.start = die"
        )
        done = subprocess.run(
            make_command("serve", root, "--port", 0, "--workers", 2, prepare=prepare),
            env=make_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

        assert (done.returncode, done.stdout) == (1, "")
        *again, last = done.stderr.splitlines()
        for line in again:
            assert re.fullmatch(
                r"aioserve: worker [12] \(pid \d+\) ended with status 3: another takes its place", line
            )
        assert re.fullmatch(
            r"aioserve: worker [12] \(pid \d+\) ended with status 3, 6 times in a row right after its start: "
            "giving up",
            last,
        )

    def test_when_one_gives_up_the_others_finish_their_answers(self, root: Path, tmp_path: Path) -> None:
        # The first to come serves; the others die when the file says so.
        prepare = (
            "import os\nfrom aioserve.network.server import Server\nstart = Server.start\n"
            "async def start_or_die(self):\n"
            f"    if os.path.exists({str(tmp_path / 'die')!r}): os._exit(3)\n"
            "    await start(self)\n"
            "Server.start = start_or_die"
        )
        with running_server(root, "--workers", 2, "--log-format", "off", prepare=prepare) as server:
            _, second = find_children(server.process.pid)
            with downloading(server.port) as answers:
                (tmp_path / "die").touch()
                os.kill(second, signal.SIGKILL)
                server.errors.read_until("giving up")
                whole = 0
                for answer in answers:
                    with contextlib.suppress(ConnectionError, http.client.IncompleteRead):
                        whole += len(answer.read()) == LARGE_BYTES
                assert server.process.wait(PATIENCE_S) == 1

        assert 0 < whole < DOWNLOADS

    def test_a_mistake_in_a_worker_is_told_and_it_is_replaced(self, root: Path, tmp_path: Path) -> None:
        prepare = (
            "import os\nfrom aioserve.network.server import Server\nstart = Server.start\n"
            "async def fail_once(self):\n"
            f"    open({str(tmp_path / 'failed')!r}, 'x').close()\n"
            "    raise KeyError('a')\n"
            "async def start_or_fail(self):\n"
            "    try: await fail_once(self)\n"
            "    except FileExistsError: await start(self)\n"
            "Server.start = start_or_fail"
        )
        with running_server(root, "--workers", 2, prepare=prepare) as server, connected(server.port):
            assert server.stop() == 0

        assert "aioserve: a mistake of its own (KeyError: 'a')\n" in server.errors.text
        assert server.errors.text.count("ended with status 1: another takes its place") == 1

    def test_a_process_that_the_system_refuses_is_asked_for_again(self, root: Path) -> None:
        prepare = (
            "import os\nfork = os.fork\n"
            "def refuse():\n    os.fork = fork\n    raise BlockingIOError(11, 'not now')\n"
            "os.fork = refuse"
        )
        with running_server(root, "--workers", 2, prepare=prepare) as server, connected(server.port):
            assert server.stop() == 0

        refused = "aioserve: worker 1 cannot be started (not now): another takes its place\n"
        assert server.errors.text == refused


# ---- how it ends -----------------------------------------------------------------------------------------


@ON_LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
class TestStop:
    def test_idle_connections_are_closed_at_once(self, number: signal.Signals, root: Path) -> None:
        with running_server(root, "--workers", 3, "--grace", "1h") as server, connected(server.port):
            assert server.stop(number) == 0

        assert server.errors.text == ""

    @BOTH_LOOPS
    def test_what_is_being_sent_is_finished_in_all_of_them(
        self, number: signal.Signals, loop: str, root: Path
    ) -> None:
        with (
            running_server(root, "--workers", 3, "--loop", loop) as server,
            downloading(server.port) as answers,
        ):
            server.process.send_signal(number)
            wait_until(lambda: is_refused(server.port))
            assert [len(answer.read()) for answer in answers] == [LARGE_BYTES] * DOWNLOADS
            assert server.process.wait(PATIENCE_S) == 0

    def test_a_signal_to_every_process_counts_once(self, number: signal.Signals, root: Path) -> None:
        """As a terminal and a service manager do it."""
        with running_server(root, "--workers", 3) as server, downloading(server.port) as answers:
            wait_until(lambda: len(find_children(server.process.pid)) == 4)
            for pid in (*find_children(server.process.pid), server.process.pid):
                os.kill(pid, number)
            wait_until(lambda: is_refused(server.port))
            assert [len(answer.read()) for answer in answers] == [LARGE_BYTES] * DOWNLOADS
            assert server.process.wait(PATIENCE_S) == 0

        assert server.output.read_to_end().count('"GET /large.bin HTTP/1.1" 200') == DOWNLOADS
        assert server.errors.text == ""

    def test_the_second_signal_ends_it_at_once(self, number: signal.Signals, root: Path) -> None:
        with running_server(root, "--workers", 3, "--grace", "1h") as server, downloading(server.port):
            with connected(server.port):
                pass
            pids = find_children(server.process.pid)
            server.process.send_signal(number)
            wait_until(lambda: is_refused(server.port))
            assert server.stop(number) == 128 + number

        assert all(map(has_ended, pids))
        assert server.output.text.count('"GET /small.txt HTTP/1.1" 200 5') == CLIENTS
        assert server.errors.text == ""

    def test_what_is_not_finished_in_time_is_cut(self, number: signal.Signals, root: Path) -> None:
        with (
            running_server(root, "--workers", 3, "--grace", "100ms") as server,
            downloading(server.port),
        ):
            assert server.stop(number) == 0

        assert server.errors.text == ""

    def test_it_ends_before_anybody_serves(self, number: signal.Signals, root: Path, tmp_path: Path) -> None:
        prepare = (
            "import asyncio, os\nfrom aioserve.network.server import Server\nstart = Server.start\n"
            "async def start_late(self):\n"
            f"    open({str(tmp_path / 'begun')!r}, 'a').close()\n"
            f"    while not os.path.exists({str(tmp_path / 'go')!r}): await asyncio.sleep(0.01)\n"
            "    await start(self)\n"
            "Server.start = start_late"
        )
        with subprocess.Popen(
            make_command("serve", root, "--port", 0, "--workers", 2, prepare=prepare),
            env=make_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            wait_until((tmp_path / "begun").exists)
            process.send_signal(number)
            (tmp_path / "go").touch()
            output, errors = process.communicate(timeout=PATIENCE_S)

        assert (process.returncode, output, errors) == (0, b"", b"")


@ON_LINUX
class TestEnd:
    def test_a_worker_that_does_not_end_is_killed(self, root: Path) -> None:
        with running_server(root, "--workers", 2, "--grace", 0) as server:
            pids = find_children(server.process.pid)
            os.kill(pids[0], signal.SIGSTOP)
            assert server.stop() == 1

        assert server.errors.text == "aioserve: worker 1 did not end in time and was killed\n"
        assert all(map(has_ended, pids))

    def test_when_the_parent_is_killed_nobody_is_left(self, orphans: list[int], root: Path) -> None:
        with running_server(root, "--workers", 3) as server, connected(server.port):
            wait_until(lambda: len(find_children(server.process.pid)) == 4)
            orphans += find_children(server.process.pid)
            server.process.kill()
            wait_until(lambda: all(map(has_ended, orphans)))
            assert is_refused(server.port)

        assert server.output.text.count('"GET /small.txt HTTP/1.1" 200 5') == CLIENTS

    def test_when_the_parent_is_killed_answers_are_finished(self, orphans: list[int], root: Path) -> None:
        with running_server(root, "--workers", 3) as server, downloading(server.port) as answers:
            orphans += find_children(server.process.pid)
            server.process.kill()
            wait_until(lambda: is_refused(server.port))
            assert [len(answer.read()) for answer in answers] == [LARGE_BYTES] * DOWNLOADS
            wait_until(lambda: all(map(has_ended, orphans)))

    def test_when_the_parent_is_killed_an_output_that_stands_still_holds_nobody(
        self, orphans: list[int], root: Path
    ) -> None:
        with with_full_output(root) as (process, port, _):
            wait_until(lambda: len(find_children(process.pid)) == 3)
            orphans += find_children(process.pid)
            with connected(port):
                process.kill()
                wait_until(lambda: all(map(has_ended, orphans)))


# ---- the log ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def with_full_output(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Two workers, their port, and the other end of their output: a pipe that is full, and is not read."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        make_command("serve", root, "--port", 0, "--workers", 2), env=make_environment(), stdout=writer
    )
    try:
        url = os.read(reader, 4096).decode().split()[-1]
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n" * 4096)
        os.set_blocking(writer, True)
        os.close(writer)
        yield process, int(url.strip("/").rpartition(":")[2]), reader
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def count_waiting(pid: int) -> int:
    """How many bytes are in the pipe in which a worker's log goes."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if int(name) > 2 and os.readlink(path).startswith("pipe:"):
            with open(path, "rb", opener=lambda path, _: os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
                (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
                assert isinstance(count, int)
                return count
    raise AssertionError("it has no pipe")


@ON_LINUX
class TestLog:
    @pytest.mark.parametrize("is_file", [False, True], ids=["to a pipe", "to a file"])
    def test_every_request_is_one_whole_line(self, is_file: bool, root: Path, tmp_path: Path) -> None:
        """Lines longer than what a pipe takes at once as well."""
        each = 250
        targets = [f"/small.txt?{number}{'x' * (number % 10 * 800)}" for number in range(each)]

        def ask_for_all(port: int) -> None:
            with contextlib.closing(connect(port)) as client:
                for target in targets:
                    assert ask(client, target)

        output = tmp_path / "output"
        with (
            output.open("wb") as file,
            subprocess.Popen(
                make_command("serve", root, "--port", 0, "--workers", 4, "--log-format", "json"),
                env=make_environment(),
                stdout=file if is_file else subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            if process.stdout is None:
                wait_until(lambda: b"\n" in output.read_bytes())
                banner = output.read_bytes()
            else:
                banner = process.stdout.readline()
            port = int(banner.strip(b"/\n").rpartition(b":")[2])
            threads = [threading.Thread(target=ask_for_all, args=(port,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            text, _ = read_while_running(process, threads)

        lines = (output.read_bytes()[len(banner) :] if is_file else text).splitlines()
        requests = [json.loads(line)["request"] for line in lines]
        assert sorted(requests) == sorted(f"GET {target} HTTP/1.1" for target in targets * len(threads))

    def test_the_banner_comes_first(self, root: Path, tmp_path: Path) -> None:
        # One of them announces itself only when the log of the other has had a second for its first lines.
        prepare = (
            "import asyncio, os\nfrom aioserve.network.server import Server\nstart = Server.start\n"
            "async def start_and_wait(self):\n    await start(self)\n"
            f"    try: open({str(tmp_path / 'first')!r}, 'x').close()\n"
            "    except FileExistsError:\n"
            f"        while not os.path.exists({str(tmp_path / 'go')!r}): await asyncio.sleep(0.01)\n"
            "Server.start = start_and_wait"
        )
        with socket.create_server(("127.0.0.1", 0)) as probe:
            _, port = probe.getsockname()
        with subprocess.Popen(
            make_command("serve", root, "--port", port, "--workers", 2, prepare=prepare),
            env=make_environment(),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            wait_until(lambda: not is_refused(port))
            with connected(port):
                time.sleep(1.5)
            (tmp_path / "go").touch()
            banner = process.stdout.readline()
            process.terminate()
            rest = process.stdout.read()

        assert banner == f"Serving {root} at http://127.0.0.1:{port}/\n".encode()
        assert rest.count(b'"GET /small.txt HTTP/1.1" 200 5\n') == CLIENTS

    def test_an_output_that_stands_still_holds_neither_the_service_nor_the_end(self, root: Path) -> None:
        with with_full_output(root) as (process, port, _):
            for _ in range(3):
                with connected(port):
                    pass
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

    def test_a_worker_that_is_killed_while_it_writes_leaves_no_half_line(self, root: Path) -> None:
        with with_full_output(root) as (process, port, reader):
            wait_until(lambda: len(find_children(process.pid)) == 3)
            victim, *_ = find_children(process.pid)
            target = f"/small.txt?{'x' * 7000}"
            with connected(port) as clients:
                for client in clients:
                    # Far more lines than the pipe holds, so it waits in the middle of one.
                    assert ask(client, target)
                wait_until(lambda: count_waiting(victim) > 60_000)
                os.kill(victim, signal.SIGKILL)
            wait_until(lambda: has_ended(victim) and len(find_children(process.pid)) == 3)
            with connected(port):
                process.terminate()
            with open(reader, "rb", closefd=False) as output:
                lines = output.read().splitlines()

        requests = [line.split(b'"')[1] for line in lines if line]
        assert set(requests) == {f"GET {t} HTTP/1.1".encode() for t in (target, "/small.txt")}
        assert all(line.endswith(b'" 200 5') for line in lines if line)

    def test_a_writer_that_is_killed_is_replaced(self, root: Path) -> None:
        with running_server(root, "--workers", 2) as server:
            wait_until(lambda: len(find_children(server.process.pid)) == 3)
            writer = find_children(server.process.pid)[-1]
            os.kill(writer, signal.SIGKILL)
            said = server.errors.read_until("another takes its place")
            with connected(server.port):
                pass
            assert server.stop() == 0

        assert f"aioserve: the writer of the log (pid {writer}) ended with signal 9" in said
        assert server.output.text.count('"GET /small.txt HTTP/1.1" 200 5\n') == CLIENTS

    def test_a_reader_that_leaves_ends_nothing(self, root: Path) -> None:
        with subprocess.Popen(
            make_command("serve", root, "--port", 0, "--workers", 2),
            env=make_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip(b"/\n").rpartition(b":")[2])
            process.stdout.close()
            with connected(port):
                assert process.stderr is not None
                assert process.stderr.readline().startswith(b"aioserve: access log: the output took no lines")
            with connected(port):
                process.terminate()
            assert process.wait(PATIENCE_S) == 0


def read_while_running(
    process: subprocess.Popen[bytes], threads: list[threading.Thread]
) -> tuple[bytes, bytes]:
    """What it writes from now on; it is told to stop when the threads have ended."""

    def stop() -> None:
        for thread in threads:
            thread.join()
        process.terminate()

    stopping = threading.Thread(target=stop)
    stopping.start()
    output, errors = process.communicate(timeout=2 * PATIENCE_S)
    stopping.join()
    assert (process.returncode, errors) == (0, b"")
    return output or b"", errors
