"""`python -m aioserve`: the command, where its script is not on the PATH."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # as the command does it, but before it is loaded
    from aioserve.cli import main

    main()
