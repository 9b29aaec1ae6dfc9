"""`python -m benchmarks COMMAND`: each command is the module of that name."""

from __future__ import annotations

import importlib
import signal
import sys

COMMANDS = {
    "list": "the works, and the servers that are installed",
    "run": "what does a request cost a server?",
    "parsing": "what do reading a request and deciding its answer cost alone?",
    "startup": "how long until a server listens?",
    "memory": "what does a server take of memory?",
    "latency": "do cold downloads delay the others?",
    "soak": "do slow clients disturb the others, and what do they cost?",
    "compression": "which level of which coding, by size and CPU time?",
    "plot": "results as pictures",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        lines = [f"  {name:<12}{question}" for name, question in COMMANDS.items()]
        text = "\n".join(["usage: python -m benchmarks COMMAND [--help]", "", *lines, ""])
        is_asked = arguments[:1] in (["-h"], ["--help"])
        (sys.stdout if is_asked else sys.stderr).write(text)
        return 0 if is_asked else 2
    # Ended from outside, it still ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    module = importlib.import_module(f"benchmarks.{arguments[0]}")
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
