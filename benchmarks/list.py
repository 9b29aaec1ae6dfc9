"""What can be measured here: `python -m benchmarks list`"""

from __future__ import annotations

import argparse
import sys

from benchmarks.servers import SERVERS
from benchmarks.works import SERIES, WORKS


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks list", description=__doc__)
    parser.parse_args(arguments)
    lines = ["Works:"]
    for work in WORKS.values():
        bars = ", ".join(f"{bar.at_most:g} x {bar.work or bar.server}" for bar in work.bars)
        lines.append(f"  {work.name:<18}{work.title}{f'; at most {bars}' if bars else ''}")
    lines += ["", "Series, by the name of which all of its works are run:"]
    lines += [f"  {name:<18}against {what}" for name, what in SERIES.items()]
    lines += ["", "Servers:"]
    lines += [f"  {name:<18}{server.find() or '-'}" for name, server in SERVERS.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
