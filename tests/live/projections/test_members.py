"""Owner, standby and view over every database: long transactions, lost claims, released and silent owners."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest

import eda
from eda.projections import ownership
from helpers import Connect, Logged
from support.projections.sinks import TABLE, Place


def applying(place: Place, pause_s: dict[str, float]) -> Any:
    """Return a function that inserts the events' sequences after a pause, as this database wants it."""
    execute = place.kind.execute

    def statements(events: list[eda.Event]) -> list[str]:
        return [TABLE, *(f"INSERT INTO applied (n) VALUES ({event.sequence})" for event in events)]

    def plain(events: list[eda.Event], tx: Any) -> None:
        time.sleep(pause_s["pause"])
        for text in statements(events):
            execute(tx, text)

    async def asynchronous(events: list[eda.Event], tx: Any) -> None:
        await asyncio.sleep(pause_s["pause"])
        for text in statements(events):
            done = execute(tx, text)
            assert inspect.isawaitable(done)
            await done

    return asynchronous if place.kind.is_async else plain


async def publish(conn: eda.Conn, stream: str, n: int) -> eda.Receipt:
    return [await conn.publish(stream) for _ in range(n)][-1]


async def test_owner_in_a_long_transaction_keeps_its_claim(
    connect: Connect, stream: str, place: Place, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """Its signs of life need no lock that its own transaction holds; on SQLite the standby meets that lock itself."""
    monkeypatch.setattr(ownership, "STALE_S", 1.0)
    monkeypatch.setattr(ownership, "TOUCH_S", 0.3)
    monkeypatch.setattr(ownership, "LOOK_S", 0.1)
    first, second = await connect(), await connect()
    await publish(first, stream, 1)
    pause = {"pause": 0.0}
    owner = await first.projection(stream, applying(place, pause), into=place.sink(), name="list")
    await owner.wait_for((stream, 1, 0), 20)
    standby = await second.projection(stream, applying(place, {"pause": 0.0}), into=place.sink(), name="list")
    view = await second.view("list", into=place.sink())
    pause["pause"] = 1.8
    receipt = await publish(first, stream, 1)
    await asyncio.gather(owner.wait_for(receipt, 20), standby.wait_for(receipt, 20), view.wait_for(receipt, 20))
    assert [(await each.stats()).active for each in (owner, standby)] == [True, False]
    assert not logged.find("has lost stream|takes stream .* over")
    pause["pause"] = 0.0
    await owner.close()
    receipt = await publish(first, stream, 3)
    await asyncio.gather(standby.wait_for(receipt, 20), view.wait_for(receipt, 20))
    (progress,) = (await view.stats()).streams
    assert (progress.position, progress.lag) == (5, 0)
    await standby.close()
    await view.close()
