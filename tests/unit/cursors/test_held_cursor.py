"""eda.cursors.held_cursor against a key that notes what is written and answers when it is told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from eda._clock import read_monotonic_ns
from eda.cursors.entry import BUCKET_STREAM, Write
from eda.cursors.held_cursor import BYTES_PER_S, Hold
from eda.cursors.value import Kept, Value, decode_value, new_value
from eda.jetstream.publish_answers import Answer
from eda.transport._waits import Waits
from helpers import until


class Key:
    """A key of the bucket: `written` are the values, the last one under way until it is answered."""

    stream, name = "s", "n"

    def __init__(self) -> None:
        self.written: list[Value] = []
        self.sizes: list[int] = []
        self.revision = 1
        self._write: Write | None = None

    def write(self, value: bytes, revision: int, on_answer: Callable[[Write, Answer], None]) -> Write:
        assert revision == self.revision
        self.written.append(decode_value(value))
        self.sizes.append(len(value))
        self._write = Write(b"", read_monotonic_ns(), on_answer)
        return self._write

    async def read(self) -> Kept:
        return Kept(self.revision, self.written[-1])

    def store(self) -> None:
        """Answer what is under way: it is stored."""
        write, self._write = self._write, None
        assert write is not None
        self.revision += 1
        write.on_answer(write, Answer(stream=BUCKET_STREAM, seq=self.revision))

    @property
    def is_busy(self) -> bool:
        return self._write is not None

    @property
    def positions(self) -> list[tuple[int, int]]:
        return [(value.seq, value.time_ns) for value in self.written]


def make_hold(key: Key, filter: list[str] | None = None) -> Hold:
    loop = asyncio.get_running_loop()
    wire: Any = SimpleNamespace(is_up=True, waits=Waits(loop, asyncio.current_task, asyncio.CancelledError))
    owner: Any = SimpleNamespace(on_confirmed=lambda *_: None, on_fenced=lambda: None, on_unfenced=lambda: None)
    value = new_value(0, 1, "me", 0, filter or [], "c")

    def fail(*_: object) -> None:
        pytest.fail("the key is ours")

    hold = Hold(wire, key, logging.getLogger("eda"), owner, value, 1, read_monotonic_ns(), fail, fail)  # type: ignore[arg-type]
    hold.start()
    return hold


async def test_restart_when_a_write_is_under_way_writes_the_lower_position_as_soon_as_it_may() -> None:
    key = Key()
    hold = make_hold(key)
    hold.advance(10, 100)
    await until(lambda: key.positions == [(10, 100)])
    hold.restart("c", 5, 50)
    assert key.positions == [(10, 100)]
    key.store()
    assert key.positions == [(10, 100), (5, 50)]
    key.store()
    assert hold.stored == 5
    assert len(key.written) == 2
    hold.drop()


async def test_restart_when_nothing_is_under_way_writes_at_once() -> None:
    key = Key()
    hold = make_hold(key)
    hold.advance(10, 100)
    await until(lambda: key.positions == [(10, 100)])
    key.store()
    hold.restart("c", 5, 50)
    assert key.positions == [(10, 100), (5, 50)]
    hold.drop()


async def test_restart_when_a_write_is_under_way_and_there_is_progress_writes_that() -> None:
    key = Key()
    hold = make_hold(key)
    hold.advance(10, 100)
    await until(lambda: key.positions == [(10, 100)])
    hold.restart("c", 5, 50)
    hold.advance(6, 60)
    key.store()
    assert key.positions == [(10, 100), (6, 60)]
    hold.drop()


async def test_restart_when_the_answer_to_a_write_is_lost_writes_the_lower_position_after_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eda.cursors.held_cursor.ANSWER_S", 0.05)
    key = Key()
    hold = make_hold(key)
    hold.advance(10, 100)
    await until(lambda: key.positions == [(10, 100)])
    hold.restart("c", 5, 50)
    key.revision += 1  # stored, and nobody hears of it
    await until(lambda: key.positions == [(10, 100), (5, 50)])
    hold.drop()


async def test_restart_when_somebody_waits_for_the_higher_position_ends_the_wait() -> None:
    key = Key()
    hold = make_hold(key)
    waiting = hold.confirmed(10, 100)
    hold.restart("c", 5, 50)
    key.store()
    assert key.positions == [(10, 100), (5, 50)]
    with pytest.raises(Exception, match="closed"):
        await waiting
    hold.drop()


@pytest.mark.parametrize("n_types", [1, 2000])
async def test_writes_when_the_filter_is_long_are_fewer_so_that_their_bytes_have_a_bound(n_types: int) -> None:
    """The whole filter is in every write. What somebody waits for is written at once all the same."""
    key = Key()
    hold = make_hold(key, [f"stream.a-type-with-a-long-name-{n}.*" for n in range(n_types)])
    began = read_monotonic_ns()
    seq = 0
    while read_monotonic_ns() - began < 1_000_000_000:
        seq += 1
        hold.advance(seq, seq)
        if key.is_busy:
            key.store()
        await asyncio.sleep(0.001)
    elapsed_s = (read_monotonic_ns() - began) / 1e9
    largest = max(key.sizes)
    assert sum(key.sizes) <= BYTES_PER_S * elapsed_s + 2 * largest
    assert len(key.sizes) >= (2 if n_types > 1 else 20)
    assert (largest > 50_000) == (n_types > 1)
    if key.is_busy:
        key.store()
    n = len(key.written)
    waiting = hold.confirmed(seq + 1, 1)
    assert len(key.written) == n + 1
    key.store()
    await waiting
    hold.drop()
