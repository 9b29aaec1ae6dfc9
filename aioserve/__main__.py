"""The command as a process: `aioserve`, and `python -m aioserve` where its script is not on the PATH."""

from __future__ import annotations

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command and ends the process with its exit status."""
    # What is loaded and made on the way to a listening server is no garbage; looking for some in it takes an
    # eighth of the time. The command begins to look when it listens.
    gc.disable()
    from aioserve.cli import main as run

    run()


if __name__ == "__main__":
    main()
