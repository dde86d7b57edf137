"""eda.cursors.held_cursor against an entry that notes what is written and answers when it is told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from eda._clock import read_monotonic_ns
from eda.cursors.entry import BUCKET_STREAM, Write
from eda.cursors.held_cursor import BYTES_PER_S, HeldCursor
from eda.cursors.position import FIRST, Position
from eda.cursors.value import CursorValue, Snapshot, decode_value, new_value
from eda.jetstream.publish_answers import Answer
from eda.transport._waits import Waits
from helpers import until


class Entry:
    """The entry of a cursor: `written` are its values; the last write is under way until it is answered."""

    stream, name = "s", "n"

    def __init__(self) -> None:
        self.written: list[CursorValue] = []
        self.sizes: list[int] = []
        self.revision = 1
        self._write: Write | None = None

    def write(self, value: bytes, revision: int, on_answer: Callable[[Write, Answer], None]) -> Write:
        assert revision == self.revision
        self.written.append(decode_value(value))
        self.sizes.append(len(value))
        self._write = Write(b"", read_monotonic_ns(), on_answer)
        return self._write

    async def read_patiently(self, logger: logging.Logger) -> Snapshot:
        return Snapshot(self.revision, self.written[-1])

    def store(self) -> None:
        """Answer the write under way: it is stored."""
        write, self._write = self._write, None
        assert write is not None
        self.revision += 1
        write.on_answer(write, Answer(stream=BUCKET_STREAM, seq=self.revision))

    @property
    def is_busy(self) -> bool:
        return self._write is not None

    @property
    def positions(self) -> list[tuple[int, int]]:
        return [value.position[:2] for value in self.written]


def make_held(
    entry: Entry, filter: list[str] | None = None, *, position: Position = FIRST, tries: int = 0
) -> HeldCursor:
    loop = asyncio.get_running_loop()
    wire: Any = SimpleNamespace(is_up=True, waits=Waits(loop, asyncio.current_task, asyncio.CancelledError))
    owner: Any = SimpleNamespace(on_confirmed=lambda *_: None, on_fenced=lambda: None, on_unfenced=lambda: None)
    value = new_value(position, 1, "me", tries, filter or [], "c")

    def fail(*_: object) -> None:
        pytest.fail("the entry is ours")

    held = HeldCursor(wire, entry, logging.getLogger("eda"), owner, value, 1, read_monotonic_ns(), fail, fail)  # type: ignore[arg-type]
    held.start()
    return held


async def test_rewind_when_a_write_is_under_way_writes_the_lower_position_as_soon_as_it_may() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(Position(10, 100))
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", Position(5, 50))
    assert entry.positions == [(10, 100)]
    entry.store()
    assert entry.positions == [(10, 100), (5, 50)]
    entry.store()
    assert held.confirmed == (5, 0)
    assert len(entry.written) == 2
    held.abandon()


async def test_rewind_when_nothing_is_under_way_writes_at_once() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(Position(10, 100))
    await until(lambda: entry.positions == [(10, 100)])
    entry.store()
    held.rewind("c", Position(5, 50))
    assert entry.positions == [(10, 100), (5, 50)]
    held.abandon()


async def test_rewind_when_a_write_is_under_way_and_there_is_progress_writes_that() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(Position(10, 100))
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", Position(5, 50))
    held.advance(Position(6, 60))
    entry.store()
    assert entry.positions == [(10, 100), (6, 60)]
    held.abandon()


async def test_rewind_when_the_answer_to_a_write_is_lost_writes_the_lower_position_after_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eda.cursors.held_cursor.ANSWER_S", 0.5)
    entry = Entry()
    held = make_held(entry)
    held.advance(Position(10, 100))
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", Position(5, 50))
    entry.revision += 1  # stored, but the answer is lost
    await until(lambda: entry.positions == [(10, 100), (5, 50)])
    held.abandon()


async def test_rewind_when_somebody_waits_for_the_higher_position_ends_the_wait() -> None:
    entry = Entry()
    held = make_held(entry)
    waiting = held.store(Position(10, 100))
    held.rewind("c", Position(5, 50))
    entry.store()
    assert entry.positions == [(10, 100), (5, 50)]
    with pytest.raises(Exception, match="closed"):
        await waiting
    held.abandon()


async def test_position_when_it_moves_through_a_pack_is_written_with_the_pack_and_its_index() -> None:
    entry = Entry()
    held = make_held(entry)
    for position in (Position(0, 0, 1, 4, 40), Position(0, 0, 3, 4, 40), Position(4, 40), Position(5, 50)):
        held.advance(position)
        await until(lambda position=position: entry.written[-1:] and entry.written[-1].position == position)
        entry.store()
        assert held.confirmed == position.place
    assert [value.v for value in entry.written] == [2, 2, 2, 2]  # what was of version 2 stays of version 2
    held.abandon()


async def test_position_when_packs_are_noted_is_written_with_version_2_before_any_pack_is_begun() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(Position(1, 10))
    await until(lambda: len(entry.written) == 1)
    entry.store()
    held.note_packs()
    held.advance(Position(2, 20))
    await until(lambda: len(entry.written) == 2)
    assert [value.v for value in entry.written] == [1, 2]
    held.abandon()


async def test_store_when_the_position_is_in_a_pack_waits_until_this_index_is_stored() -> None:
    entry = Entry()
    held = make_held(entry)
    first = held.store(Position(3, 30, 1, 4, 40))
    second = held.store(Position(3, 30, 2, 4, 40))
    entry.store()
    await first
    assert [value.position.place for value in entry.written] == [(3, 1), (3, 2)]
    assert held.confirmed == (3, 1)
    entry.store()
    await second
    await held.store(Position(3, 30, 1, 4, 40))  # that is stored already
    held.abandon()


async def test_rewind_when_the_pack_is_gone_waits_for_the_events_of_another_one_again() -> None:
    entry = Entry()
    held = make_held(entry)
    waiting = held.store(Position(3, 30, 5, 4, 40))
    entry.store()
    await waiting
    held.rewind("c", Position(3, 30))
    assert entry.written[-1].position == Position(3, 30)
    entry.store()
    again = held.store(Position(3, 30, 1, 4, 41))
    assert entry.written[-1].position == Position(3, 30, 1, 4, 41)
    entry.store()
    await again
    held.abandon()


async def test_tries_when_the_position_moves_within_a_pack_are_forgotten() -> None:
    entry = Entry()
    held = make_held(entry, position=Position(3, 30, 5, 4, 40), tries=2)
    await until(lambda: len(entry.written) == 1, 3.0)  # the sign of life
    entry.store()
    held.advance(Position(3, 30, 6, 4, 40))
    await until(lambda: len(entry.written) == 2)
    assert [(value.position.idx, value.tries) for value in entry.written] == [(5, 2), (6, 0)]
    held.abandon()


@pytest.mark.parametrize("n_types", [1, 2000])
async def test_writes_when_the_filter_is_long_are_fewer_so_that_their_bytes_have_a_bound(n_types: int) -> None:
    """Every write contains the whole filter. A position that somebody waits for is still written at once."""
    entry = Entry()
    held = make_held(entry, [f"stream.a-type-with-a-long-name-{n}.*" for n in range(n_types)])
    began = read_monotonic_ns()
    seq = 0
    while read_monotonic_ns() - began < 1_000_000_000:
        seq += 1
        held.advance(Position(seq, seq))
        if entry.is_busy:
            entry.store()
        await asyncio.sleep(0.001)
    elapsed_s = (read_monotonic_ns() - began) / 1e9
    largest = max(entry.sizes)
    assert sum(entry.sizes) <= BYTES_PER_S * elapsed_s + 2 * largest
    assert len(entry.sizes) >= (2 if n_types > 1 else 20)
    assert (largest > 50_000) == (n_types > 1)
    if entry.is_busy:
        entry.store()
    n = len(entry.written)
    waiting = held.store(Position(seq + 1, 1))
    assert len(entry.written) == n + 1
    entry.store()
    await waiting
    held.abandon()
