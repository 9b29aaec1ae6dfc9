"""The values that every other module of the room is given."""

from __future__ import annotations

import pytest

from aioserve.protocol.message import BadRequest, Fields, Request


class TestFields:
    FIELDS = Fields({"host": "localhost", "x-empty": "", "accept": "a, b"}, frozenset({"accept"}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            pytest.param("host", "localhost", id="a field that came once"),
            pytest.param("accept", "a, b", id="a field that came twice is one list"),
            pytest.param("x-empty", "", id="an empty value is a value"),
            pytest.param("referer", None, id="a field that did not come"),
            pytest.param("Host", None, id="names are asked for in lower case"),
        ],
    )
    def test_a_field_gives_its_value_or_none(self, name: str, value: str | None) -> None:
        assert self.FIELDS.get(name) == value

    def test_no_field_is_repeated_unless_it_is_said(self) -> None:
        assert Fields({"host": "localhost"}).repeated == frozenset()


def test_a_bad_request_says_its_status_and_a_reason_that_can_be_sent() -> None:
    error = BadRequest(414, "the request line is too long")

    assert (error.status, error.reason) == (414, "the request line is too long")
    assert str(error) == "(414, 'the request line is too long')"


def test_a_request_cannot_be_changed_once_it_is_read() -> None:
    request = Request("GET", b"/", (1, 1), Fields({}))

    with pytest.raises(AttributeError):
        request.method = "PUT"  # type: ignore[misc]
