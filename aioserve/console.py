"""What the command tells the person who typed it: on the terminal, in the log of events, in a browser.

Logging, and what knows the machine, is imported when it is needed, as in `cli`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from aioserve import __version__
from aioserve.config import OPTIONS, Config, Settings

if TYPE_CHECKING:
    import logging
    import socket
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from aioserve.network.explanation import Findings


# Loopback, and link-local addresses, which mean something on one machine alone.
_LOCAL = ("127.", "::1", "fe80:")

# Two modules of a QR code in one character: none is dark, the upper, the lower, both.
_HALF_BLOCKS = " \N{UPPER HALF BLOCK}\N{LOWER HALF BLOCK}\N{FULL BLOCK}"

# ISO/IEC 18004: so many light modules around the code.
_QUIET_MODULES = 4


def announce(root: str, sockets: list[socket.socket], settings: Settings) -> None:
    """Says where the server is; it listens already."""
    urls = _list_urls(sockets)
    if not settings.console.quiet:
        shown = make_printable(os.path.abspath(root))
        if _is_terminal():
            places = "".join(f"\n  {url}" for url in urls)
            say(f"aioserve {__version__} serves {shown}\n{places}\n\nPress Ctrl-C to stop.\n")
        else:
            say(f"Serving {shown} at {' '.join(urls)}")
        if settings.console.qr and (url := find_lan_url(sockets)):
            say(f"\n{draw_qr_code(url, sys.stdout)}\n  {url}\n")


def say_stopping(settings: Settings) -> None:
    if _is_terminal() and not settings.console.quiet:
        say("\nStopping when the answers on their way are sent. Ctrl-C again stops at once.")


def _list_urls(sockets: list[socket.socket]) -> list[str]:
    """The URLs that lead to these sockets; for "all addresses" those of the machine's interfaces."""
    from aioserve.network.sockets import format_url

    return [format_url(host, port) for host, port in _list_addresses(sockets)]


def _list_addresses(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    from aioserve.network.listener import find_address

    addresses = []
    for host, port in map(find_address, sockets):
        hosts: tuple[str, ...] = (host,)
        if host in ("0.0.0.0", "::"):
            import socket

            from aioserve.network.machine import find_addresses

            hosts = find_addresses(socket.AF_INET6 if ":" in host else socket.AF_INET)
        addresses += [(host, port) for host in hosts]
    return addresses


def find_lan_url(sockets: list[socket.socket]) -> str | None:
    """The URL that leads here from another machine of the network; None when there is none."""
    import socket

    from aioserve.network.machine import find_outward_address
    from aioserve.network.sockets import format_url

    reachable = [(host, port) for host, port in _list_addresses(sockets) if not host.startswith(_LOCAL)]
    outward = [find_outward_address(family) for family in (socket.AF_INET, socket.AF_INET6)]
    # Those that others see come first, and of these IPv4, which each phone has.
    reachable.sort(key=lambda place: outward.index(place[0]) if place[0] in outward else len(outward))
    return format_url(*reachable[0]) if reachable else None


def find_qr_problem(sockets: list[socket.socket]) -> str | None:
    """Why no QR code can be shown; None when it can."""
    from importlib.util import find_spec

    if find_spec("segno") is None:
        return "--qr: segno is not installed, expected it from: pip install 'aioserve[qr]'"
    if find_lan_url(sockets) is None:
        return (
            "--qr: only this machine can reach the server, expected an address of the network: --bind 0.0.0.0"
        )
    return None


def draw_qr_code(text: str, output: TextIO) -> str:
    """A QR code as lines of text: half blocks where `output` can hold them, else ASCII.

    On a terminal, colours make it dark on light, whatever its own are.
    """
    import segno

    code = segno.make(text, error="l", micro=False)
    rows = [[bool(module) for module in row] for row in code.matrix_iter(border=_QUIET_MODULES)]
    try:
        _HALF_BLOCKS.encode(output.encoding)
    except UnicodeEncodeError:
        dark, light = ("\x1b[40m  ", "\x1b[107m  ") if output.isatty() else ("##", "  ")
        lines = ["".join(dark if module else light for module in row) for row in rows]
        begin = ""
    else:
        if len(rows) % 2:
            rows.append([False] * len(rows[0]))
        lines = [
            "".join(_HALF_BLOCKS[upper + 2 * lower] for upper, lower in zip(*pair, strict=True))
            for pair in zip(rows[::2], rows[1::2], strict=True)
        ]
        begin = "\x1b[30;107m"
    if output.isatty():
        lines = [f"{begin}{line}\x1b[0m" for line in lines]
    return "\n".join(lines)


def start_browser(sockets: list[socket.socket]) -> None:
    import threading

    # A thread that nobody waits for: some browsers return when they are closed.
    threading.Thread(target=_open_browser, args=(_list_urls(sockets)[0],), daemon=True).start()


def _open_browser(url: str) -> None:
    import logging
    import webbrowser

    if not webbrowser.open(url):
        logging.getLogger("aioserve").warning("no browser was found to open %s", url)


def explain(error: OSError, config: Config) -> str:
    """One line for a server that cannot listen: what is in the way, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            owner = name_owner(config.port)
            return f"port {config.port} is in use{owner}; choose another with --port, or 0 for a free one"
        case errno.EACCES:
            return (
                f"this user may not listen on port {config.port}; choose one above 1023 with --port, "
                "or give the process the capability CAP_NET_BIND_SERVICE"
            )
        case errno.EADDRNOTAVAIL:
            return f"cannot listen on {', '.join(config.host)}: this machine has no such address"
    return error.strerror or str(error)


def name_owner(port: int) -> str:
    """Who has the port, to be put behind its number; nothing where that cannot be known."""
    from aioserve.network.machine import find_port_owner

    owner = find_port_owner(port)
    return f" by {owner}" if owner else ""


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str) -> None:
    """Writes to standard output; that nobody reads it any more is no reason to stop."""
    with contextlib.suppress(OSError):
        click.echo(text)
    flush(sys.stdout, 1)


def tell(findings: Findings) -> None:
    """Says what was found of a site: what is wrong, then the answers, then how much there is."""
    lines = [
        line
        for text in (*findings.problems, *findings.answers, findings.summary)
        for line in text.split("\n")
    ]
    say("\n".join(map(make_printable, lines)))


@contextlib.contextmanager
def show_progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Draws a bar on a terminal until the block is left; gives what is called with each part of `length`."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def complain(status: int, text: str) -> int:
    """Writes a line to standard error; gives `status`, for the exit of a command that it ends."""
    with contextlib.suppress(OSError):
        click.echo(f"aioserve: {text}", err=True)
    return status


def fail(status: int, text: str) -> NoReturn:
    sys.exit(complain(status, text))


def flush(stream: TextIO | None, number: int) -> None:
    """Writes what waits in `stream`; where it cannot be written, it goes to nowhere from here on."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        # Otherwise the interpreter would try again when it ends, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def make_printable(name: str) -> str:
    """`name` without what would move a terminal's cursor or cannot be encoded."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


# ---- logging ---------------------------------------------------------------------------------------------


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Puts the events of the process on standard error: warnings in one line each, or all with --verbose."""
    import logging
    import threading

    logging.raiseExceptions = False  # a standard error that is closed is no event
    handler = logging.StreamHandler()
    if verbose:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.addFilter(_make_one_line)
        handler.setFormatter(logging.Formatter("aioserve: %(message)s"))
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler])
    sys.unraisablehook = lambda event: report_crash(event.exc_type, event.exc_value, event.exc_traceback)
    threading.excepthook = lambda event: report_crash(event.exc_type, event.exc_value, event.exc_traceback)


def log_set_up(settings: Settings, loop: str) -> None:
    import logging

    given = {
        option.name: getattr(settings.config if option.embeddable else settings.console, option.name)
        for option in OPTIONS
        if option.name in settings.given
    }
    version = sys.version.partition(" ")[0]
    logging.getLogger("aioserve").debug("Python %s, loop of %s, options given: %s", version, loop, given)


def _make_one_line(record: logging.LogRecord) -> bool:
    """Leaves of a record what happened, not where: that is for --verbose."""
    text = record.getMessage().partition("\n")[0]
    if record.exc_info and record.exc_info[0] is not None:
        text += f" ({record.exc_info[0].__name__}: {record.exc_info[1]})".replace("\n", " ")
    record.msg, record.args = make_printable(text), ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def report_crash(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """The last resort: an exception that nobody expected becomes one line, or a traceback with --verbose."""
    if not issubclass(kind, Exception):
        return  # Ctrl-C
    import logging

    if not logging.getLogger().handlers:
        set_up_logging(verbose=False, quiet=False)
    logging.getLogger("aioserve").critical(
        "a mistake of its own", exc_info=(kind, error or kind(), traceback)
    )
