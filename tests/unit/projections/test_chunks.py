"""Chunks: up to which event a lane is applied after each of them, also when they are split in the middle of a pack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple

import pytest

import eda
from eda._pack import stored_events
from eda.projections.chunks import Chunk, parts_of, split
from eda.projections.sink import UpTo
from support.packs import pack_of

STORED = {1: 100, 2: 200, 3: 300}  # when the stream stored its messages


def pack(sequence: int, n: int) -> list[eda.Event]:
    """Return the events of a pack that was read from a stream."""
    events = stored_events(pack_of(eda.Event(type="t") for _ in range(n)), "orders", sequence, STORED[sequence])
    return [event for event in events if event is not None]


def chunk_of(*events: eda.Event, is_part: bool = False) -> Chunk:
    times = [STORED[event.sequence] for event in events]
    if is_part:
        times[-1] = -times[-1]
    return Chunk(list(events), times)


def ends_of(chunks: Iterable[Chunk]) -> list[tuple[int, int, int]]:
    return [astuple(chunk.end) for chunk in chunks]


def test_end_when_the_last_pack_is_whole_is_after_its_message() -> None:
    chunk = chunk_of(*pack(1, 3), *pack(2, 2))
    assert chunk.end == UpTo(2, 1, 200)
    assert (chunk.end.whole, chunk.end.is_part) == (2, False)


def test_end_when_a_pack_goes_on_behind_the_chunk_is_in_the_middle_of_it() -> None:
    chunk = chunk_of(*pack(1, 3), *pack(2, 5)[:2], is_part=True)
    assert chunk.end == UpTo(2, 1, -200)
    assert (chunk.end.whole, chunk.end.is_part, chunk.end.stored_ns) == (1, True, 200)


def test_part_when_it_ends_in_a_pack_tells_it_and_otherwise_not() -> None:
    chunk = chunk_of(*pack(1, 3), *pack(2, 2), *pack(3, 4)[:2], is_part=True)
    ends = ends_of(chunk.part(0, end) for end in range(1, 8))
    assert ends == [(1, 0, -100), (1, 1, -100), (1, 2, 100), (2, 0, -200), (2, 1, 200), (3, 0, -300), (3, 1, -300)]
    assert ends_of(chunk.part(0, end).part(0, 1) for end in range(1, 4)) == [(1, 0, -100)] * 3


def test_part_when_two_lists_were_joined_knows_that_the_first_one_ended_with_its_message() -> None:
    """The lane has no more events of message 1: the list ended in the middle of it, but the next one is of another."""
    chunk = Chunk([*pack(1, 3)[:2], *pack(2, 1)], [100, -100, 200])
    assert ends_of([chunk.part(0, 2), chunk.part(0, 1)]) == [(1, 1, 100), (1, 0, -100)]


def test_halves_when_a_pack_fails_end_in_the_middle_of_it() -> None:
    halves = parts_of(chunk_of(*pack(1, 4)), ValueError("one of them"))
    assert ends_of(halves) == [(1, 1, -100), (1, 3, 100)]


def test_split_when_one_event_of_a_pack_has_an_error_moves_event_by_event() -> None:
    chunk = chunk_of(*pack(1, 5), is_part=True)
    found: list[Exception | None] = [None, None, ValueError("no"), None, None]
    parts = split(chunk, found)
    assert [len(part.events) for part in parts] == [2, 1, 2]
    assert ends_of(parts) == [(1, 1, -100), (1, 2, -100), (1, 4, -100)]


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ((1, 0, 100), (2, 0, -200)),
        ((2, 0, -200), (2, 1, -200)),
        ((2, 70_000, -200), (2, 0, 200)),
        ((2, 5, 0), (3, 0, -300)),  # a time that is not known
    ],
)
def test_places_when_compared_put_a_whole_message_after_all_of_its_events(
    lower: tuple[int, int, int], higher: tuple[int, int, int]
) -> None:
    assert UpTo(*lower).place < UpTo(*higher).place
