"""Writes docs/configuration.md from the table of options: `python docs/generate_configuration.py`."""

from __future__ import annotations

from pathlib import Path

from aioserve.config import GROUPS, OPTIONS, Option

_INTRODUCTION = """\
# Configuration

This page is made from the table in `aioserve/config.py` by `docs/generate_configuration.py`; a test compares
the two.

Every option has a default and can be given in three places. What stands further up wins:

1. a flag: `aioserve serve --port 8000`
2. the environment: `AIOSERVE_PORT=8000`
3. a file: `port = 8000`

The file is the one that `--config` or `AIOSERVE_CONFIG` names; else `aioserve.toml` in the current folder;
else the table `[tool.aioserve]` of `pyproject.toml` there. Only one of them is read.

```toml
# aioserve.toml
host = ["127.0.0.1", "::1"]
port = 8000
head-timeout = "10s"
max-head = "16KiB"
```

A program gives options by name, `Server("public", head_timeout_s=10)`, and may leave the unit away,
`head_timeout`. It reads neither environment nor files. See [embedding.md](embedding.md).

How values are written:

- **Sizes**: bytes, or with a unit of 1024: `65536`, `64K`, `64KiB`, `1M`, `1GiB`.
- **Seconds**: `15`, `1.5`, or with a unit: `500ms`, `15s`, `2m`, `1h`. A day at most.
- **Switches**: `on`, `true`, `yes`, `1` or `off`, `false`, `no`, `0`. On the command line the flag switches
  on, and the flag with "no-" behind its dashes switches off, whatever environment and file say.
- **Several values**: repeat the flag, or separate them by commas: `AIOSERVE_INDEX=index.html,index.htm`. A
  file can have an array, in which a value may hold a comma.
- **Tables**: `[[redirects]]`, `[[rewrites]]`, `[[headers]]` and `[errors]` have several parts, and neither
  flag nor variable, which are text. A program gives dictionaries, as in
  `Server("public", redirects=[{"from": "/old", "to": "/new"}])`. See [rules.md](rules.md).

In a file, `-` and `_` are the same in a key, and a path starts at the folder of the file. A variable that is
empty counts as absent. A wrong key, a wrong value, or a variable that begins with `AIOSERVE_` and is none of
these is an error, which says where it stands and what was expected; the exit status is 2. What Kubernetes
adds to the environment of a container beside a service called "aioserve" is left alone.
"""


def render() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for group in GROUPS:
        parts.append(f"\n## {group}\n")
        parts += [_render_option(option) for option in OPTIONS if option.group == group]
    return "".join(parts)


def _render_option(option: Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in option.flags)
    metavar = f" {option.kind.metavar}" if option.kind.metavar else ""
    default = option.kind.show(option.default)
    rows = [
        ("Default", f"`{default}`" if default else "none"),
        ("Expects", option.kind.expected),
        ("Environment", f"`{option.environment}`" if option.environment else "no"),
        ("In a file", f"`{option.key}`" if option.key else "no"),
        ("In a program", f"`{option.name}`" if option.embeddable else "no"),
    ]
    if option.precedents:
        rows.append(("Elsewhere", option.precedents))
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    brackets = ("[[", "]]") if option.kind.metavar == "TABLES" else ("[", "]")
    title = flags + metavar.replace("|", "\\|") if flags else f"`{brackets[0]}{option.word}{brackets[1]}`"
    return f"\n### {title}\n\n{option.help}\n\n| | |\n| --- | --- |\n{table}"


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(render())
