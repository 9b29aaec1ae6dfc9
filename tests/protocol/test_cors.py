"""Which origins may read, and what preflights are answered with (Fetch §3.3)."""

from __future__ import annotations

import pytest

from aioserve.protocol.cors import (
    ALLOWED_HEADERS,
    Cors,
    is_preflight,
    list_fields,
    parse_origin,
    plan_preflight,
)
from aioserve.protocol.message import Fields, Request

APP = "https://app.example"
ALL = Cors(("*",))
LIST = Cors((APP, "http://localhost:3000"))


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("*", "*"),
        ("null", "null"),
        ("https://app.example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app.example",
        "//app.example",
        "https://",
        "https://a/b",
        "https://a b",
        "https://*.a",
        "a\r\nb://c",
        "http://a:",
        "http://a:123456",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_origin(text)


class TestSimpleAnswers:
    @pytest.mark.parametrize("origin", [None, "null", APP])
    def test_what_all_may_read_is_the_same_for_all(self, origin: str | None) -> None:
        fields = dict(list_fields(ALL, origin))
        assert fields["Access-Control-Allow-Origin"] == "*"
        assert fields["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert fields == dict(list_fields(ALL, "https://other.example"))

    def test_an_origin_of_the_list_is_named(self) -> None:
        fields = dict(list_fields(LIST, APP))
        assert fields["Access-Control-Allow-Origin"] == APP
        assert "Cross-Origin-Resource-Policy" not in fields

    @pytest.mark.parametrize(
        "origin",
        [None, "null", "https://app.example.evil", "http://app.example", APP.upper(), "*", f"{APP}, {APP}"],
    )
    def test_any_other_origin_gets_nothing(self, origin: str | None) -> None:
        assert list_fields(LIST, origin) == ()

    def test_a_page_without_an_origin_reads_if_the_list_says_so(self) -> None:
        assert dict(list_fields(Cors(("null",)), "null"))["Access-Control-Allow-Origin"] == "null"

    @pytest.mark.parametrize(
        "name",
        ["Content-Length", "Content-Range", "ETag", "Accept-Ranges", "Last-Modified", "Content-Encoding"],
    )
    def test_what_readers_of_ranges_look_at_is_exposed(self, name: str) -> None:
        assert name in dict(list_fields(ALL, APP))["Access-Control-Expose-Headers"].split(", ")

    def test_credentials_are_never_allowed(self) -> None:
        assert "Access-Control-Allow-Credentials" not in dict(list_fields(LIST, APP))


def make_preflight(origin: str = APP, **fields: str) -> Request:
    values = {"origin": origin, "access-control-request-method": "GET"}
    values |= {name.replace("_", "-"): value for name, value in fields.items()}
    return Request("OPTIONS", b"/a", (1, 1), Fields(values))


class TestPreflights:
    def test_one_is_known_by_its_method_and_two_fields(self) -> None:
        request = make_preflight()
        assert is_preflight(request)
        assert not is_preflight(request._replace(method="GET"))
        assert not is_preflight(request._replace(fields=Fields({"origin": APP})))
        assert not is_preflight(request._replace(fields=Fields({"access-control-request-method": "GET"})))

    @pytest.mark.parametrize("cors", [ALL, LIST])
    def test_the_answer_allows_what_is_understood(self, cors: Cors) -> None:
        plan = plan_preflight(make_preflight(), cors)
        fields = dict(plan.fields)
        assert plan.status == 204
        assert fields["Allow"] == "GET, HEAD, OPTIONS"
        assert fields["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
        assert {"Range", "If-Range", "If-None-Match"} <= set(
            fields["Access-Control-Allow-Headers"].split(", ")
        )
        assert fields["Access-Control-Max-Age"] == "7200"
        assert "Access-Control-Request-Headers" in fields["Vary"]
        assert "Access-Control-Allow-Private-Network" not in fields

    def test_an_origin_that_is_not_allowed_gets_the_answer_to_any_options(self) -> None:
        assert plan_preflight(make_preflight("https://evil.example"), LIST).fields == (
            ("Allow", "GET, HEAD, OPTIONS"),
        )

    def test_other_fields_that_are_asked_for_are_allowed(self) -> None:
        request = make_preflight(access_control_request_headers="range,X-Trace ,\tx-trace, baggage")
        allowed = dict(plan_preflight(request, ALL).fields)["Access-Control-Allow-Headers"]
        assert allowed == ", ".join((*ALLOWED_HEADERS, "X-Trace", "baggage"))

    @pytest.mark.parametrize(
        "asked", ["", ",", "a b", "a,,b", "a\x80", 'x"', "a:b", "a\tb", "x" * 2_000, "a, " * 600]
    )
    def test_what_is_no_list_of_names_is_not_repeated(self, asked: str) -> None:
        request = make_preflight(access_control_request_headers=asked)
        allowed = dict(plan_preflight(request, ALL).fields)["Access-Control-Allow-Headers"]
        assert allowed == ", ".join(ALLOWED_HEADERS)

    @pytest.mark.parametrize("network", ["private", "local"])
    def test_a_private_network_may_be_reached_by_who_may_read(self, network: str) -> None:
        asked = {f"access_control_request_{network}_network": "true"}
        name = f"Access-Control-Allow-{network.capitalize()}-Network"
        assert dict(plan_preflight(make_preflight(**asked), LIST).fields)[name] == "true"
        assert name not in dict(plan_preflight(make_preflight("https://evil.example", **asked), LIST).fields)
