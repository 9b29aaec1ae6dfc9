"""Where the parts of an archive lie: for zip and tar alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioserve.protocol.archive_layout import Layout, Member, Part
from aioserve.protocol.tar_layout import TarLayout
from aioserve.protocol.zip_layout import ZipLayout

LAYOUTS = [pytest.param(ZipLayout, id="zip"), pytest.param(TarLayout, id="tar")]

MTIME_NS = 1_700_000_000_123_456_789


def make_file(name: bytes, size_bytes: int = 0, *, mtime_ns: int = MTIME_NS, mode: int = 0o644) -> Member:
    return Member(name, size_bytes, mtime_ns, mode, is_folder=False)


def make_folder(name: bytes, *, mode: int = 0o755) -> Member:
    return Member(name, 0, MTIME_NS, mode, is_folder=True)


def lay_out(layout: Layout, members: Sequence[Member]) -> Layout:
    for member in members:
        layout.append(member)
    return layout


def render(layout: Layout, contents: Sequence[bytes], start: int = 0, stop: int | None = None) -> bytes:
    """The bytes of the archive: all of them, or `[start, stop)`."""
    stop = layout.size_bytes if stop is None else stop
    pieces = []
    at = None
    for segment in layout.list_segments(start, stop):
        assert at in (None, segment.start)
        at = segment.stop
        if segment.part is Part.CONTENT:
            data = contents[segment.number]
        else:
            crc = zlib.crc32(contents[segment.number]) if layout.needs_sum(segment) else -1
            data = layout.format(segment, crc)
        assert len(data) == segment.stop - segment.start > 0
        pieces.append(data[max(start - segment.start, 0) : stop - segment.start])
    return b"".join(pieces)


# Names of a disk, of which none can be empty or hold a slash.
_NAMES = st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
_MEMBERS = st.lists(
    st.tuples(
        st.lists(_NAMES, min_size=1, max_size=9).map(b"/".join),
        st.binary(max_size=600) | st.none(),  # None is a folder
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.integers(0, 0o7777),
    ),
    max_size=6,
)


@pytest.mark.parametrize("make", LAYOUTS)
@given(members=_MEMBERS, data=st.data())
def test_each_part_of_an_archive_is_that_of_the_whole(
    make: Callable[[], Layout],
    members: list[tuple[bytes, bytes | None, int, int]],
    data: st.DataObject,
) -> None:
    contents = [content or b"" for _, content, _, _ in members]
    layout = lay_out(
        make(),
        [
            Member(name, len(content or b""), mtime_ns, mode, content is None)
            for name, content, mtime_ns, mode in members
        ],
    )
    whole = render(layout, contents)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))

    assert len(whole) == layout.size_bytes
    assert render(layout, contents, start, stop) == whole[start:stop]


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_offset_can_be_the_first(make: Callable[[], Layout]) -> None:
    contents = [b"", b"content", b"", b"more content"]
    members = [make_folder(b"top")]
    members += [
        make_file(b"top/%d" % number, len(content)) for number, content in enumerate(contents) if number
    ]
    layout = lay_out(make(), members)
    whole = render(layout, contents)

    for start in range(len(whole) + 1):
        assert render(layout, contents, start) == whole[start:], start


@pytest.mark.parametrize("make", LAYOUTS)
def test_what_was_appended_is_given_again(make: Callable[[], Layout]) -> None:
    members = [make_folder(b"a"), make_file(b"a/\xff", 7, mtime_ns=-5, mode=0o100), make_file(b"b", 1 << 40)]

    layout = lay_out(make(), members)

    assert [layout[number] for number in range(len(layout))] == members


@pytest.mark.parametrize("make", LAYOUTS)
def test_of_the_mode_only_the_permissions_are_kept(make: Callable[[], Layout]) -> None:
    layout = lay_out(make(), [make_file(b"a", mode=0o104755)])

    assert layout[0].mode == 0o755


@pytest.mark.parametrize("make", LAYOUTS)
def test_what_no_archive_can_hold_is_refused(make: Callable[[], Layout]) -> None:
    layout = lay_out(make(), [make_file(b"a", (1 << 62) - (1 << 20))])

    with pytest.raises(OverflowError):
        layout.append(make_file(b"b", 1 << 20))
    assert len(layout) == 1
