"""The limit of descriptors is what the system says, and connections get half of them."""

from __future__ import annotations

import math
import resource
import sys

import pytest

from aioserve.network.descriptors import (
    find_connection_limit,
    find_descriptor_limit,
    raise_descriptor_limit,
)
from tests.network.conftest import descriptor_limit


@pytest.mark.parametrize(
    ("limit", "connections"),
    [
        pytest.param(10, 1, id="there is always one"),
        pytest.param(66, 1, id="one for its socket and one for its file"),
        pytest.param(1064, 500, id="half of those that are left"),
    ],
)
def test_connections_get_half_of_them(limit: int, connections: int) -> None:
    with descriptor_limit(limit):
        assert find_descriptor_limit() == limit
        assert find_connection_limit() == connections


@pytest.mark.parametrize("limit", [20_064, 1 << 20, resource.RLIM_INFINITY])
def test_there_are_never_more_than_ten_thousand_connections(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may not allow so many.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    assert find_connection_limit() == 10_000


def test_the_limit_is_raised_as_far_as_it_may_be() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptor_limit(100):
        raise_descriptor_limit()

        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_the_limit_stays_where_the_system_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with monkeypatch.context() as patch:
        # More than any system has.
        patch.setattr(resource, "getrlimit", lambda _: (100, 1 << 60))
        raise_descriptor_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_windows_has_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(sys, "platform", "win32")
    raise_descriptor_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert find_descriptor_limit() == math.inf
    assert find_connection_limit() == 10_000
