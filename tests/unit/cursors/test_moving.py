"""eda.cursors.moving with an entry that is not stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
import eda.cursors.moving
from eda.cursors.moving import give_up_move
from eda.cursors.position import Position
from eda.cursors.value import CursorValue, Snapshot, new_value
from eda.jetstream.publish_answers import Answer

HELD = new_value(Position(3), 2, "eda-move-x", 0, [], "")


class Entry:
    """An entry whose writes get no answer, and are not stored. `fails`: raised by each read."""

    stream, name = "orders", "billing"

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails

    async def put(self, value: CursorValue, revision: int) -> tuple[Answer, int]:
        await asyncio.sleep(0.01)
        return Answer(), 0

    async def read(self) -> Snapshot:
        if self.fails is not None:
            raise self.fails
        return Snapshot(7, HELD)


@pytest.mark.parametrize(
    ("fails", "text"),
    [
        (None, "giving up the moved cursor orders.billing took longer than 0.1 s"),
        (eda.Timeout("a read", 2), "a read took longer than 2 s"),
    ],
    ids=["unanswered", "read fails"],
)
async def test_give_up_when_the_write_is_never_stored_ends_and_says_where_the_position_is(
    monkeypatch: pytest.MonkeyPatch, fails: Exception | None, text: str
) -> None:
    monkeypatch.setattr(eda.cursors.moving, "MOVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(eda.cursors.moving, "TAKEOVER_S", 0.01)
    entry: Any = Entry(fails)
    with pytest.raises(eda.Timeout) as late:
        async with asyncio.timeout(5):
            await give_up_move(entry, HELD, 7)
    assert str(late.value) == text
    assert late.value.__notes__ == ["the position is moved, and the members go on there 0.01 s later"]
