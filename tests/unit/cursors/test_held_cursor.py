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
        return [(value.seq, value.stored_ns) for value in self.written]


def make_held(entry: Entry, filter: list[str] | None = None) -> HeldCursor:
    loop = asyncio.get_running_loop()
    wire: Any = SimpleNamespace(is_up=True, waits=Waits(loop, asyncio.current_task, asyncio.CancelledError))
    owner: Any = SimpleNamespace(on_confirmed=lambda *_: None, on_fenced=lambda: None, on_unfenced=lambda: None)
    value = new_value(0, 1, "me", 0, filter or [], "c")

    def fail(*_: object) -> None:
        pytest.fail("the entry is ours")

    held = HeldCursor(wire, entry, logging.getLogger("eda"), owner, value, 1, read_monotonic_ns(), fail, fail)  # type: ignore[arg-type]
    held.start()
    return held


async def test_rewind_when_a_write_is_under_way_writes_the_lower_position_as_soon_as_it_may() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(10, 100)
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", 5, 50)
    assert entry.positions == [(10, 100)]
    entry.store()
    assert entry.positions == [(10, 100), (5, 50)]
    entry.store()
    assert held.confirmed_seq == 5
    assert len(entry.written) == 2
    held.abandon()


async def test_rewind_when_nothing_is_under_way_writes_at_once() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(10, 100)
    await until(lambda: entry.positions == [(10, 100)])
    entry.store()
    held.rewind("c", 5, 50)
    assert entry.positions == [(10, 100), (5, 50)]
    held.abandon()


async def test_rewind_when_a_write_is_under_way_and_there_is_progress_writes_that() -> None:
    entry = Entry()
    held = make_held(entry)
    held.advance(10, 100)
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", 5, 50)
    held.advance(6, 60)
    entry.store()
    assert entry.positions == [(10, 100), (6, 60)]
    held.abandon()


async def test_rewind_when_the_answer_to_a_write_is_lost_writes_the_lower_position_after_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eda.cursors.held_cursor.ANSWER_S", 0.5)
    entry = Entry()
    held = make_held(entry)
    held.advance(10, 100)
    await until(lambda: entry.positions == [(10, 100)])
    held.rewind("c", 5, 50)
    entry.revision += 1  # stored, but the answer is lost
    await until(lambda: entry.positions == [(10, 100), (5, 50)])
    held.abandon()


async def test_rewind_when_somebody_waits_for_the_higher_position_ends_the_wait() -> None:
    entry = Entry()
    held = make_held(entry)
    waiting = held.store(10, 100)
    held.rewind("c", 5, 50)
    entry.store()
    assert entry.positions == [(10, 100), (5, 50)]
    with pytest.raises(Exception, match="closed"):
        await waiting
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
        held.advance(seq, seq)
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
    waiting = held.store(seq + 1, 1)
    assert len(entry.written) == n + 1
    entry.store()
    await waiting
    held.abandon()
