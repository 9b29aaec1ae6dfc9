from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioserve.content import cache as cache_module
from aioserve.content.cache import Cache, Kept, Ready, Version, remember, share
from aioserve.content.disk import Disk
from aioserve.content.handle import OpenFile
from aioserve.protocol.variant import Variant
from tests.content.conftest import Clock, count_open, is_open

PLACE = object()
READY = Ready(b"HTTP/1.1 200 OK\r\nDate: ", b"\r\n\r\n", b"content", 60, 200)

# What a file costs beside its content.
OVERHEAD_BYTES = cache_module._OVERHEAD_BYTES


def version_of(number: int) -> Version:
    return (1, number, 7, 0, 0)


def name_of(number: int) -> tuple[bytes, ...]:
    return (b"folder", b"%d" % number)


def in_memory(disk: Disk, content: bytes) -> Variant:
    return Variant(None, len(content), 0, OpenFile(disk, (0, 0), data=content))


Opened = Callable[[int], Variant]


@pytest.fixture
def opened(tmp_path: Path, disk: Disk) -> Opened:
    """Makes variants of the open files "0", "1" and so on; whoever gets one closes its handle."""

    def opened(number: int) -> Variant:
        path = tmp_path / str(number)
        path.write_bytes(b"content")
        return Variant(None, 7, 0, OpenFile(disk, (0, number), descriptor=os.open(path, os.O_RDONLY)))

    return opened


def keep_open(cache: Cache, opened: Opened, numbers: range) -> None:
    """Keeps these files, and nothing but the cache has them open."""
    for number in numbers:
        variant = opened(number)
        cache.keep(name_of(number), PLACE, version_of(number), variant)
        variant.handle.close()


def touch(cache: Cache, number: int) -> None:
    kept = cache.find(name_of(number))
    assert kept is not None
    cache.touch(kept)


class TestContents:
    def test_what_is_kept_is_found_by_its_name(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(100_000, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b"content"))
        kept = cache.find(name_of(1))
        assert kept is not None
        assert kept.key == name_of(1)
        assert kept.place is PLACE
        assert kept.version == version_of(1)
        assert kept.variant.handle.data == b"content"
        assert cache.find(name_of(2)) is None

    def test_the_same_version_again_changes_nothing(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(100_000, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b"content"))
        kept = cache.find(name_of(1))
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b"content"))
        assert cache.find(name_of(1)) is kept

    @pytest.mark.parametrize(
        ("place", "version"),
        [
            pytest.param(PLACE, version_of(2), id="another version"),
            pytest.param(object(), version_of(1), id="another place"),
        ],
    )
    def test_something_else_of_that_name_takes_its_place(
        self, disk: Disk, clock: Clock, place: object, version: Version
    ) -> None:
        cache = Cache(100_000, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b"before"))
        before = cache.find(name_of(1))
        cache.keep(name_of(1), place, version, in_memory(disk, b"after"))
        kept = cache.find(name_of(1))
        assert kept is not None
        assert kept is not before
        assert kept.place is place
        assert kept.version == version
        assert kept.variant.handle.data == b"after"

    def test_what_was_used_least_recently_goes_first(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(3 * (1000 + OVERHEAD_BYTES), clock)
        for number in (1, 2, 3):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, bytes(1000)))
        touch(cache, 1)
        cache.find(name_of(2))  # to look is not to use
        cache.keep(name_of(4), PLACE, version_of(4), in_memory(disk, bytes(1000)))
        assert [number for number in (1, 2, 3, 4) if cache.find(name_of(number))] == [1, 3, 4]

    def test_one_large_file_takes_the_room_of_several(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(3 * (1000 + OVERHEAD_BYTES), clock)
        for number in (1, 2, 3):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, bytes(1000)))
        cache.keep(name_of(4), PLACE, version_of(4), in_memory(disk, bytes(2000)))
        assert [number for number in (1, 2, 3, 4) if cache.find(name_of(number))] == [3, 4]

    def test_what_is_larger_than_the_cache_is_not_kept_and_costs_no_other_its_place(
        self, disk: Disk, clock: Clock
    ) -> None:
        cache = Cache(1000 + OVERHEAD_BYTES, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, bytes(1000)))
        cache.keep(name_of(2), PLACE, version_of(2), in_memory(disk, bytes(1001)))
        assert cache.find(name_of(1)) is not None
        assert cache.find(name_of(2)) is None

    def test_grown_larger_than_the_cache_its_older_version_is_let_go(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(1000 + OVERHEAD_BYTES, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, bytes(1000)))
        cache.keep(name_of(1), PLACE, version_of(2), in_memory(disk, bytes(1001)))
        assert cache.find(name_of(1)) is None

    def test_empty_files_are_not_kept_without_end(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(10 * OVERHEAD_BYTES, clock)
        for number in range(100):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, b""))
        assert [number for number in range(100) if cache.find(name_of(number))] == [*range(90, 100)]

    def test_what_is_forgotten_makes_room(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(2 * (1000 + OVERHEAD_BYTES), clock)
        for number in (1, 2):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, bytes(1000)))
        cache.forget(name_of(2))
        cache.forget(name_of(2))
        cache.keep(name_of(3), PLACE, version_of(3), in_memory(disk, bytes(1000)))
        assert [number for number in (1, 2, 3) if cache.find(name_of(number))] == [1, 3]

    def test_cleared_it_is_empty_and_has_all_its_room(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(2 * OVERHEAD_BYTES, clock)
        for number in (1, 2):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, b""))
        cache.clear()
        assert not any(cache.find(name_of(number)) for number in (1, 2))
        for number in (3, 4):
            cache.keep(name_of(number), PLACE, version_of(number), in_memory(disk, b""))
        assert all(cache.find(name_of(number)) for number in (3, 4))

    def test_without_room_nothing_is_kept(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(0, clock)
        assert not cache.keeps
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b""))
        assert cache.find(name_of(1)) is None
        assert Cache(1, clock).keeps

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["find", "touch", "keep", "forget"]),
                st.integers(0, 5),
                st.integers(1, 3),
                st.sampled_from([0, 500, 1000, 3000, 9000]),
            ),
            max_size=60,
        )
    )
    def test_it_has_what_a_plain_model_of_it_has(self, steps: list[tuple[str, int, int, int]]) -> None:
        limit_bytes = 4 * OVERHEAD_BYTES + 4000
        disk = Disk()
        cache = Cache(limit_bytes, Clock())
        model: OrderedDict[int, tuple[int, int]] = OrderedDict()
        for action, number, version, size_bytes in steps:
            if action == "find":
                assert (cache.find(name_of(number)) is not None) is (number in model)
            elif action == "touch":
                if number in model:
                    touch(cache, number)
                    model.move_to_end(number)
            elif action == "forget":
                cache.forget(name_of(number))
                model.pop(number, None)
            else:
                cache.keep(name_of(number), PLACE, version_of(version), in_memory(disk, bytes(size_bytes)))
                if number in model and model[number][0] == version:
                    model.move_to_end(number)
                    continue
                model.pop(number, None)
                if size_bytes + OVERHEAD_BYTES <= limit_bytes:
                    model[number] = (version, size_bytes)
                while sum(size + OVERHEAD_BYTES for _, size in model.values()) > limit_bytes:
                    model.popitem(last=False)
        found = [cache.find(name_of(number)) for number in range(6)]
        assert {kept.key: (kept.version, kept.variant.size_bytes) for kept in found if kept} == {
            name_of(number): (version_of(version), size_bytes)
            for number, (version, size_bytes) in model.items()
        }


class TestForms:
    def test_a_form_is_kept_beside_the_file_and_goes_by_itself(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(100_000, clock)
        form = in_memory(disk, b"short")._replace(coding="gzip")
        for variant in (in_memory(disk, b"content"), form):
            cache.keep(name_of(1), PLACE, version_of(1), variant)
        file, kept = cache.find(name_of(1)), cache.find(name_of(1), "gzip")
        assert file is not None
        assert kept is not None
        assert (file.variant.handle.data, kept.variant.handle.data) == (b"content", b"short")
        assert kept.path == file.path
        assert cache.find(name_of(1), "br") is None
        cache.forget(kept.key)
        assert cache.find(name_of(1), "gzip") is None
        assert cache.find(name_of(1)) is file

    def test_forms_take_of_the_same_room(self, disk: Disk, clock: Clock) -> None:
        cache = Cache(2 * OVERHEAD_BYTES + 15, clock)
        for variant in (in_memory(disk, b"content"), in_memory(disk, b"short")._replace(coding="gzip")):
            cache.keep(name_of(1), PLACE, version_of(1), variant)
        cache.keep(name_of(2), PLACE, version_of(2), in_memory(disk, b"content"))
        assert cache.find(name_of(1)) is None
        assert cache.find(name_of(1), "gzip") is not None


class TestDescriptors:
    async def test_a_file_is_kept_open_and_closed_when_it_is_let_go(
        self, tmp_path: Path, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(1, clock)  # their contents need no room in it
        keep_open(cache, opened, range(1))
        kept = cache.find(name_of(0))
        assert kept is not None
        assert await kept.variant.handle.read(0, 7) == b"content"
        cache.forget(name_of(0))
        assert cache.find(name_of(0)) is None
        assert not is_open(tmp_path / "0")

    async def test_a_file_that_is_let_go_stays_open_for_those_who_use_it(
        self, tmp_path: Path, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(1, clock)
        keep_open(cache, opened, range(1))
        kept = cache.find(name_of(0))
        assert kept is not None
        used = share(kept.variant)
        assert used == kept.variant._replace(handle=used.handle)
        cache.clear()
        assert await used.handle.read(0, 7) == b"content"
        used.handle.close()
        assert not is_open(tmp_path / "0")

    def test_another_version_takes_its_place_and_it_is_closed(
        self, tmp_path: Path, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(1, clock)
        keep_open(cache, opened, range(1))
        (tmp_path / "0").rename(tmp_path / "old")
        variant = opened(0)
        cache.keep(name_of(0), PLACE, version_of(5), variant)
        variant.handle.close()
        assert not is_open(tmp_path / "old")
        assert is_open(tmp_path / "0")
        cache.clear()

    def test_only_so_many_are_kept_open_those_used_last(
        self, tmp_path: Path, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(1, clock)
        most = cache_module._MAX_DESCRIPTORS
        keep_open(cache, opened, range(most))
        touch(cache, 0)
        cache.find(name_of(1))
        keep_open(cache, opened, range(most, most + 5))
        assert count_open(tmp_path) == most
        assert is_open(tmp_path / "0")
        assert [number for number in range(most + 5) if not cache.find(name_of(number))] == [1, 2, 3, 4, 5]
        cache.clear()

    def test_found_again_as_it_was_it_is_used_now(self, tmp_path: Path, opened: Opened, clock: Clock) -> None:
        cache = Cache(1, clock)
        keep_open(cache, opened, range(2))
        clock.now_s += cache_module._DESCRIPTOR_IDLE_S
        variant = opened(0)
        cache.keep(name_of(0), PLACE, version_of(0), variant)
        variant.handle.close()
        clock.now_s += 0.5
        cache.close_idle()
        assert [number for number in range(2) if is_open(tmp_path / str(number))] == [0]
        cache.clear()

    def test_those_that_nobody_asks_for_are_closed_in_a_while(
        self, tmp_path: Path, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(1, clock)
        keep_open(cache, opened, range(3))
        clock.now_s += cache_module._DESCRIPTOR_IDLE_S
        cache.close_idle()
        assert count_open(tmp_path) == 3
        cache.find(name_of(0))
        touch(cache, 1)
        clock.now_s += 0.5
        cache.close_idle()
        assert [number for number in range(3) if is_open(tmp_path / str(number))] == [1]
        clock.now_s += cache_module._DESCRIPTOR_IDLE_S
        cache.close_idle()
        assert not is_open(tmp_path / "1")

    def test_contents_stay_when_descriptors_have_to_go(
        self, tmp_path: Path, disk: Disk, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(100_000, clock)
        keep_open(cache, opened, range(3))
        cache.keep(name_of(7), PLACE, version_of(7), in_memory(disk, b"content"))
        clock.now_s += 1000
        cache.close_idle()
        cache.close_descriptors()
        assert count_open(tmp_path) == 0
        assert cache.find(name_of(7)) is not None

    def test_shrunk_to_a_small_file_it_is_kept_in_memory_and_closed(
        self, tmp_path: Path, disk: Disk, opened: Opened, clock: Clock
    ) -> None:
        cache = Cache(100_000, clock)
        keep_open(cache, opened, range(1))
        cache.keep(name_of(0), PLACE, version_of(1), in_memory(disk, b"little"))
        kept = cache.find(name_of(0))
        assert kept is not None
        assert kept.variant.handle.data == b"little"
        assert not is_open(tmp_path / "0")

    def test_cleared_nothing_is_left_open(self, tmp_path: Path, opened: Opened, clock: Clock) -> None:
        cache = Cache(1, clock)
        keep_open(cache, opened, range(5))
        cache.clear()
        assert count_open(tmp_path) == 0


class TestAnswers:
    def keep(self, disk: Disk, clock: Clock) -> tuple[Cache, Kept]:
        cache = Cache(100_000, clock)
        cache.keep(name_of(1), PLACE, version_of(1), in_memory(disk, b"content"))
        kept = cache.find(name_of(1))
        assert kept is not None
        return cache, kept

    def test_they_are_remembered_by_role_and_conditions(self, disk: Disk, clock: Clock) -> None:
        _, kept = self.keep(disk, clock)
        remember(kept.find_answers("GET"), "conditions", READY)
        assert kept.find_answers("GET") == {"conditions": READY}
        assert kept.find_answers("HEAD") == {}

    def test_only_so_many_are_remembered(self, disk: Disk, clock: Clock) -> None:
        _, kept = self.keep(disk, clock)
        for number in range(1000):
            answers = kept.find_answers("GET")
            remember(answers, str(number), READY)
            assert answers[str(number)] is READY
            assert len(answers) <= cache_module._MAX_ANSWERS

    def test_in_only_so_many_roles(self, disk: Disk, clock: Clock) -> None:
        _, kept = self.keep(disk, clock)
        all_answers = []
        for number in range(1000):
            all_answers.append(kept.find_answers(number))
            remember(all_answers[-1], "", READY)
            assert sum(map(len, all_answers)) <= cache_module._MAX_ROLES

    def test_those_to_long_conditions_are_not_remembered(self, disk: Disk, clock: Clock) -> None:
        _, kept = self.keep(disk, clock)
        longest = cache_module._MAX_KEY_CHARS
        answers = kept.find_answers("GET")
        remember(answers, "x" * longest, READY)
        remember(answers, "x" * (longest + 1), READY)
        assert list(answers) == ["x" * longest]

    def test_they_end_with_the_file_for_whoever_holds_them(self, disk: Disk, clock: Clock) -> None:
        cache, kept = self.keep(disk, clock)
        answers, others = kept.find_answers("GET"), kept.find_answers("HEAD")
        remember(answers, "", READY)
        remember(others, "", READY)
        assert kept.is_held
        cache.forget(name_of(1))
        assert not kept.is_held
        assert not answers
        assert not others
