"""The words on the command line, and the run that they ask for.

What the options of serving are is said by `config`; what serving is, by `network`; what the person is told,
by `console`; what `compress` does, by `content.precompress`. All but `config` and `console` is imported where
a run needs it, so that `--help` and `--version` answer at once and a server listens soon.

Exit status: 0 when it was told to stop and did; 1 when it cannot serve (a port in use); 2 when it was asked
for something wrong (an option, a root that cannot be read); 128 and the signal's number when a second signal
ended it at once. `compress`: 0 when all forms are up to date, 1 when something went wrong with a file, 2 when
it was asked for something wrong, 128 and the signal's number when one ended it.

The module is longer than others because the commands share their options and their ends.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import re
import signal
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import click

from aioserve import __version__, console
from aioserve.config import GROUPS, OPTIONS, ConfigError, Option, Settings, load_config

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping

    from aioserve.network.access_log import AccessLog

    _MakeLoop = Callable[[], asyncio.AbstractEventLoop]

# How many ports are tried beside the default one before it is called a failure.
_PORTS_TRIED = 100
# Files that are compressed at the same time; as for workers.
_MAX_JOBS = 256


def main() -> NoReturn:
    """Runs the command and ends the process with its exit status. No traceback reaches the user unasked."""
    _fill_standard_descriptors()
    sys.excepthook = console.report_crash
    try:
        command.main(prog_name="aioserve")
    finally:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            console.flush(stream, number)


def _fill_standard_descriptors() -> None:
    """Opens what of standard input, output and error was closed by the caller, on nowhere.

    Otherwise a socket would get that number, and be written to by whoever complains; libuv even aborts when
    it closes such a one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def command() -> None:
    """An HTTP server for files."""


class _ServeCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gives a value to each flag that may be without one and is: what follows is none that it could have.

        `--cors public` allows all origins and serves the folder.
        """
        bare = {flag: option for option in OPTIONS if option.kind.bare for flag in option.flags}
        words: list[str] = []
        for index, word in enumerate(args):
            words.append(word)
            if word == "--":
                return super().parse_args(ctx, words + args[index + 1 :])
            if word in bare and not _is_value(bare[word], args[index + 1 : index + 2]):
                words.append(bare[word].kind.bare)
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options in the groups of the table."""
        groups = {option.name: option.group for option in OPTIONS}
        for group in GROUPS:
            rows = [
                row
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option)
                and groups.get(parameter.name or "", GROUPS[-1]) == group
                and (row := parameter.get_help_record(ctx))
            ]
            with formatter.section(group):
                formatter.write_dl(rows)


def _is_value(option: Option, words: list[str]) -> bool:
    """Whether there is a word, and it can be the value of `option`.

    `--spa build` has no value where `build` is a folder: that is ROOT, as it is for other servers.
    """
    if words and option.name == "spa" and os.path.isdir(words[0]):
        return False
    try:
        return bool(words) and not words[0].startswith("-") and bool(option.kind.read(words[0]))
    except ValueError:
        return False


def _make_parameter(option: Option) -> click.Option:
    flags = list(option.flags)
    if option.kind.switch:
        # What the environment or a file has switched on can be switched off here.
        flags[-1] += "/--no-" + flags[-1].removeprefix("--")
    default = option.kind.show(option.default)
    return click.Option(
        [option.name, *flags],
        default=None,
        multiple=option.kind.repeatable,
        metavar=option.kind.metavar or None,
        help=option.help + (f"  [{default}]" if default else ""),
    )


def _read_words(root: str | None, flags: Mapping[str, object]) -> tuple[str, Settings]:
    """What is to be served and how; ends the process when that is something wrong."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    try:
        settings = load_config({name: _join(name, value) for name, value in given.items()}, os.environ, "")
    except ConfigError as error:
        console.fail(2, str(error))
    if root is not None and "directory" in given:
        console.fail(2, "ROOT and --directory are the same option, expected one of the two")
    root = settings.console.directory or "." if root is None else root
    for folder in (root, *(folder for _, folder in settings.config.mounts)):
        if problem := _find_root_problem(folder):
            console.fail(2, problem)
    return root, settings


def serve(root: str | None, **flags: object) -> None:
    """Serve the folder ROOT, or the one file, over HTTP until Ctrl-C. ROOT is the current folder by default.

    Every option can also be given in the environment, as AIOSERVE_ and its name (AIOSERVE_PORT=8000), and
    in aioserve.toml, or under [tool.aioserve] in pyproject.toml, in the current folder (port = 8000).
    """
    root, settings = _read_words(root, flags)
    try:
        status = _run(root, settings)
    except KeyboardInterrupt:  # before the loop took the signals
        status = 128 + signal.SIGINT
    sys.exit(status)


def check(words: tuple[str, ...], **flags: object) -> None:
    """Check the configuration and the rules of ROOT, and explain how each URL would be answered.

    A URL is a path, such as /old/page, or has http:// before its host, and stands behind ROOT, which is the
    current folder by default. The options are those of serve.

    Ends with 1 when something is wrong in _redirects or _headers, and with 2 when it is in the configuration.
    """
    has_root = bool(words) and flags.get("directory") is None and "://" not in words[0]
    root, settings = _read_words(words[0] if has_root else None, flags)
    urls = words[1:] if has_root else words
    console.set_up_logging(verbose=settings.console.verbose, quiet=True)
    import asyncio

    from aioserve.network.explanation import find
    from aioserve.network.server import Server

    server = Server.from_config(root, settings.config)
    try:
        findings = asyncio.run(find(server, root, urls))
    except ValueError as error:
        console.fail(2, f"{error} is no URL, expected a path that begins with /, or http:// and a host")
    except OSError as error:
        console.fail(2, f"cannot serve {console.make_printable(root)}: {error.strerror}")
    console.tell(findings)
    sys.exit(1 if findings.problems else 0)


# Those of all commands that are about a site, made once: the command is waited for while it starts.
_PARAMETERS = tuple(_make_parameter(option) for option in OPTIONS if option.flags)

command.add_command(
    _ServeCommand(
        "serve",
        callback=serve,
        help=serve.__doc__,
        params=[
            click.Argument(["root"], required=False),
            *_PARAMETERS,
        ],
    )
)
command.add_command(
    _ServeCommand(
        "check",
        callback=check,
        help=check.__doc__,
        params=[
            click.Argument(["words"], required=False, nargs=-1, metavar="[ROOT] [URL]..."),
            *_PARAMETERS,
        ],
    )
)


def _join(name: str, value: object) -> object:
    if not isinstance(value, tuple):
        return value
    (separator,) = (option.kind.separator for option in OPTIONS if option.name == name)
    return separator.join(value)


@command.command()
@click.argument("folder", metavar="DIR")
@click.option(
    "--types",
    metavar="TYPES",
    help="Media types of the files, with commas between; text/* is all text.  [what usually shrinks]",
)
@click.option("--jobs", metavar="N", help="How many files are compressed at the same time.  [cores]")
def compress(folder: str, types: str | None, jobs: str | None) -> None:
    """Write compressed forms beside the files of the folder DIR: name.br, name.zst and name.gz.

    They are as small as each coding can make them, for a server that sends them as they are. Forms that are
    newer than their file are left alone, and forms that would not be 5 % smaller are not written.
    """
    if os.open not in os.supports_dir_fd:
        console.fail(2, "this system cannot open a file relative to a folder, which Linux and macOS can")
    from aioserve.content import compression, precompress
    from aioserve.content.files import EXTENSIONS

    is_wanted = precompress.make_filter(_split_types(types))
    threads = _count_jobs(jobs)
    shown = console.make_printable(folder)
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        console.fail(2, f"cannot compress {shown}: {getattr(error, 'strerror', None) or error}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    codings = compression.list_codings()
    for coding in EXTENSIONS:
        if coding not in codings:
            console.complain(0, f"no {coding} is written: its package is not installed")
    try:
        found, failures = precompress.find_jobs(root, is_wanted)
        with console.show_progress("Compressing", sum(job.size_bytes for job in found)) as advance:
            results = precompress.run_jobs(root, found, codings, threads, advance)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    status = 0
    for result in (*failures, *results):
        for problem in result.problems:
            path = os.path.join(folder, os.fsdecode(result.path))
            status = console.complain(1, f"{console.make_printable(path)}: {problem}")
    console.say(precompress.format_results(results, codings))
    sys.exit(status)


def _split_types(types: str | None) -> list[str]:
    patterns = [] if types is None else [pattern.strip().lower() for pattern in types.split(",")]
    for pattern in patterns:
        if not re.fullmatch(r"[\w.+*-]+/[\w.+*-]+", pattern, re.ASCII):
            console.fail(2, f"--types: got {pattern!r}, expected media types such as text/html or font/*")
    return patterns


def _count_jobs(jobs: str | None) -> int:
    if jobs is None:
        return _count_cores()
    if not re.fullmatch(r"[1-9][0-9]{0,2}", jobs, re.ASCII) or int(jobs) > _MAX_JOBS:
        console.fail(2, f"--jobs: got {jobs!r}, expected a whole number from 1 to {_MAX_JOBS}")
    return int(jobs)


def _find_root_problem(root: str) -> str | None:
    """Why `root` cannot be served; None when it can."""
    shown = console.make_printable(root)
    try:
        if not os.path.isabs(root):
            os.getcwd()  # a folder that has been removed can still be worked in
        mode = os.stat(root).st_mode
    except (OSError, ValueError) as error:
        return f"cannot serve {shown}: {getattr(error, 'strerror', None) or error}"
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return f"cannot serve {shown}: neither a folder nor a file"
    if not os.access(root, os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK):
        return f"cannot serve {shown}: {os.strerror(errno.EACCES)}"
    return None


def _run(root: str, settings: Settings) -> int:
    """Serves until told to stop; gives the exit status."""
    count = _count_workers(settings.console.workers)
    make_loop = _find_loop(settings.console.loop)
    console.set_up_logging(verbose=settings.console.verbose, quiet=settings.console.quiet)

    from aioserve.network.descriptors import raise_descriptor_limit

    raise_descriptor_limit()
    if settings.config.browse and settings.config.browse_template:
        from aioserve.network.open_site import load_renderer

        try:
            load_renderer(settings.config)
        except ConfigError as error:
            console.fail(2, str(error))
    console.log_set_up(settings, make_loop.__module__)
    try:
        if count > 1:
            return _run_workers(root, settings, count, make_loop)
        return _run_alone(root, settings, make_loop)
    except OSError as error:
        return console.complain(1, console.explain(error, settings.config))


def _count_workers(wanted: int | str) -> int:
    if isinstance(wanted, int):
        if wanted > 1 and not hasattr(os, "fork"):
            console.fail(2, "--workers: this system cannot divide a process, expected 1 or auto")
        return wanted
    return _count_cores() if hasattr(os, "fork") else 1


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find_loop(name: str) -> _MakeLoop:
    if name != "asyncio":
        try:
            from uvloop import new_event_loop

            return new_event_loop
        except ImportError:  # PyPy and Windows have none
            if name == "uvloop":
                console.fail(2, "--loop: uvloop is not installed, expected asyncio or auto")
    import asyncio

    return asyncio.new_event_loop


async def _listen(settings: Settings) -> list[socket.socket]:
    """Sockets that listen; on the next free port when the default one is busy and nobody asked for it.

    Raises: OSError when it cannot listen.
    """
    from aioserve.network.sockets import open_sockets

    config = settings.config
    port = config.port
    last_port = port if "port" in settings.given else port + _PORTS_TRIED
    while True:
        try:
            sockets = await open_sockets(config.host, port, config.backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == last_port:
                raise
            port += 1
            continue
        if port != config.port and not settings.console.quiet:
            console.complain(
                0, f"port {config.port} is in use{console.name_owner(config.port)}; {port} is taken instead"
            )
        return sockets


def _run_alone(root: str, settings: Settings, make_loop: _MakeLoop) -> int:
    import asyncio

    def obey(stop: Callable[[int], None]) -> None:
        def tell(number: int) -> None:
            stop(number)
            console.say_stopping(settings)

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, tell, number)

    async def listen_and_serve() -> int:
        sockets = await _listen(settings)
        if settings.console.qr and (problem := console.find_qr_problem(sockets)):
            return console.complain(2, problem)

        def announce() -> None:
            console.announce(root, sockets, settings)
            if settings.console.open:
                console.start_browser(sockets)

        return await _serve(root, settings, sockets, _open_access_log(settings), obey, announce)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(listen_and_serve())


def _run_workers(root: str, settings: Settings, count: int, make_loop: _MakeLoop) -> int:
    import asyncio

    from aioserve.network.server import load
    from aioserve.network.workers import Place, Workers, share

    with asyncio.Runner() as runner:
        sockets = runner.run(_listen(settings))
    if settings.console.qr and (problem := console.find_qr_problem(sockets)):
        return console.complain(2, problem)

    def work(place: Place) -> int:
        def announce() -> None:
            place.report_ready()
            if settings.console.open and place.is_first:
                console.start_browser(sockets)

        log = _open_access_log(settings, place.log_output)
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(_serve(root, settings, place.sockets, log, place.obey, announce))

    # What is there by now, the workers share while nobody writes to it, as the collector would.
    load()
    gc.freeze()
    gc.enable()
    workers = Workers(
        share(sockets, count, settings.config.backlog),
        work,
        grace_s=settings.config.grace_s,
        log_output=1 if _is_logged(settings) else None,
    )
    return workers.run(
        announce=functools.partial(console.announce, root, sockets, settings),
        say_stopping=functools.partial(console.say_stopping, settings),
    )


async def _serve(
    root: str,
    settings: Settings,
    sockets: list[socket.socket],
    log: AccessLog | None,
    obey: Callable[[Callable[[int], None]], None],
    announce: Callable[[], None],
) -> int:
    """Serves on `sockets` until told to stop.

    `obey` gets the function that is to be called with the signals, `announce` is called when it serves.
    """
    import asyncio

    from aioserve.network.server import Server

    told_to_stop = asyncio.Event()

    def stop(number: int) -> None:
        if told_to_stop.is_set():
            # At once: whatever still runs, an answer or a thread that a dead disk holds, is left as it is.
            if log is not None:
                log.close()
            os._exit(128 + number)
        told_to_stop.set()

    obey(stop)
    observer, on_tick = (log.record, log.flush) if log is not None else (None, None)
    server = Server.from_config(root, settings.config, sockets=sockets, observer=observer, on_tick=on_tick)
    try:
        await server.start()
        announce()
        gc.freeze()
        gc.enable()
        await told_to_stop.wait()
        await server.stop()
    except OSError as error:
        if error.filename is not None:  # the root, gone since it was looked at
            return console.complain(2, f"cannot serve {console.make_printable(root)}: {error.strerror}")
        return console.complain(1, console.explain(error, settings.config))
    finally:
        if log is not None:
            log.close()
    return 0


def _is_logged(settings: Settings) -> bool:
    return not (settings.console.quiet or settings.config.log_format == "off" or sys.stdout is None)


def _open_access_log(settings: Settings, output: BinaryIO | None = None) -> AccessLog | None:
    if not _is_logged(settings):
        return None
    from aioserve.network.access_log import AccessLog

    # A file object of its own: while its thread waits for a reader that stands still, it holds the lock of
    # the object, and the interpreter could not end if that were sys.stdout.
    return AccessLog(settings.config.log_format, output or open(1, "wb", closefd=False))
