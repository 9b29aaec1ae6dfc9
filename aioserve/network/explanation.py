"""What a site would answer and why, told to the person who wrote its rules: for `aioserve check`.

The site is the one that serves, asked without a socket; here is only how what it decided is put into words.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from aioserve.content.site import Response, Site
from aioserve.network.server import Server
from aioserve.protocol.http1 import REASONS
from aioserve.protocol.message import BadRequest, Fields, Request
from aioserve.protocol.plan import Plan
from aioserve.protocol.rules import Redirect, find_host
from aioserve.protocol.target import is_authority, parse_target

# What a browser says of itself when somebody follows a link.
_BROWSER = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br, zstd",
}
_URL = re.compile(r"(?i:https?)://(?P<host>[^/?#]+)")
_UNSENT = re.compile(rb"[^\x21-\x7E]")


class Findings(NamedTuple):
    """`problems` is what is wrong in the files of rules, by its places; `answers` has a text for each URL."""

    summary: str
    problems: tuple[str, ...]
    answers: tuple[str, ...]


def parse_url(url: str) -> Request:
    """The request of a browser for `url`, a path or an http(s) URL. Raises ValueError for anything else."""
    host, rest = "localhost", url.partition("#")[0]
    if match := _URL.match(rest):
        host, rest = match["host"], rest[match.end() :]
        if not rest.startswith("/"):
            rest = f"/{rest}"
    if not rest.startswith("/") or not is_authority(host):
        raise ValueError(url)
    target = _UNSENT.sub(lambda byte: b"%%%02X" % ord(byte[0]), rest.encode("utf-8", "surrogateescape"))
    return Request("GET", target, (1, 1), Fields({"host": host, **_BROWSER}))


async def find(server: Server, root: str, urls: Sequence[str]) -> Findings:
    """What is wrong in the rules of the site of `server`, and how it would answer `urls`.

    Raises OSError when the root cannot be read, and ValueError for what is no URL.
    """
    requests = [(url, parse_url(url)) for url in urls]
    async with server.open_site() as (site, rule_files):
        problems = tuple(os.path.join(root, str(problem)) for problem in rule_files.problems)
        answers = [f"{url}\n{await _explain(site, request)}" for url, request in requests]
        rules = site.rules
        summary = (
            f"{root}: {_count(len(rules.redirects) if rules else 0, 'rule that leads', 'rules that lead')} "
            f"elsewhere, {_count(len(rules.headers) if rules else 0, 'rule', 'rules')} with fields, "
            f"{_count(len(problems), 'problem', 'problems')}"
        )
    return Findings(summary, problems, tuple(answers))


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


async def _explain(site: Site, request: Request) -> str:
    response = site.respond(request, int(time.time()))
    try:
        async with response as plan:
            rows = [*_explain_rules(site, response), *_explain_file(response, plan), *_explain_answer(plan)]
    except BadRequest as error:
        plan = site.plan_failure(request, error.status)
        rows = [("refused", error.reason), *_explain_answer(plan)]
    return "".join(f"  {name:<8} {text}\n" for name, text in rows)


_Rows = list[tuple[str, str]]


def _explain_rules(site: Site, response: Response) -> _Rows:
    rows = []
    rule, found = response.route.rule, response.found
    if rule is not None:
        if isinstance(rule, Redirect):
            what = f"leads to {rule.location}"
        else:
            path = b"/".join(rule.target.segments).decode("utf-8", "backslashreplace")
            what = f"sends /{path} as {rule.status}"
        used = (
            what
            if response.route.obeys(None if found is None else found.candidate)
            else "not used, as there is something of that name"
        )
        rows.append(("rule", f"{rule.origin}, {used}"))
    if site.rules is not None:
        target = parse_target(response.request.method, response.request.target)
        rows += [
            ("fields", origin)
            for origin in site.rules.find_headers(target, find_host(response.request)).origins
        ]
    return rows


def _explain_file(response: Response, plan: Plan) -> _Rows:
    found = response.found
    if found is None:
        # Where a redirect is forced, nothing was looked for.
        return [] if isinstance(response.route.rule, Redirect) else [("file", "none")]
    name = b"/".join(found.candidate.segments).decode("utf-8", "backslashreplace")
    if found.variant is None:
        return [("folder", name)]
    coding = next((value for key, value in plan.fields if key == "Content-Encoding"), None)
    rows = [("page" if response.is_error(found) else "file", name)]
    if coding is not None:
        sidecars = {sidecar.candidate.coding for sidecar in found.sidecars}
        source = (
            "made by the server"
            if coding not in {found.candidate.coding, *sidecars}
            else "the file beside it"
        )
        rows.append(("variant", f"{coding}, {source}"))
    return rows


def _explain_answer(plan: Plan) -> _Rows:
    return [
        ("answer", f"{plan.status} {REASONS[plan.status]}"),
        *(("", f"{name}: {value}") for name, value in plan.fields),
    ]
