"""Views: what they wait for, which version they read, and how they begin and end. The sink is in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import eda
from eda.projections import view as view_module
from eda.projections.sink import PositionRow
from eda.projections.view import View
from helpers import Logged, until
from support.projections.memory_sink import MemorySink, Outage

SERVICES: Any = SimpleNamespace(wire=None, api=None, logger=logging.getLogger("eda"))


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
async def view(sink: MemorySink) -> AsyncIterator[View]:
    view = View(SERVICES, "list", sink)
    yield view
    await view.close()


def put(sink: MemorySink, sequence: int, *, version: int = 1, stream: str = "orders", lanes: int = 1) -> None:
    """Let the projection be at a sequence, the last of its lanes; the others are further."""
    rows = [PositionRow(stream, lane, "then", sequence + lanes - lane - 1, owner_epoch=1) for lane in range(lanes)]
    sink.stored["list", version, stream] = rows


async def test_wait_for_when_the_event_was_passed_returns_at_once(sink: MemorySink, view: View) -> None:
    put(sink, 7)
    await sink.promote("list", 1)
    await view
    await view.wait_for(eda.Receipt("id", "orders", 7), 0)
    assert view.version == 1


async def test_wait_for_when_the_rows_move_returns_soon_after_the_lowest_lane(sink: MemorySink, view: View) -> None:
    put(sink, 6, lanes=3)
    await sink.promote("list", 1)
    async with view:
        call = asyncio.ensure_future(view.wait_for(("orders", 7, 0), 10))
        await asyncio.sleep(0.1)
        assert not call.done()
        put(sink, 7, lanes=3)
        async with asyncio.timeout(1):
            await call


async def test_wait_for_when_a_pack_is_partly_applied_ends_with_its_event_and_not_before(
    sink: MemorySink, view: View
) -> None:
    def put_part(index: int, time: int) -> None:
        sink.stored["list", 1, "orders"] = [PositionRow("orders", 0, "then", 7, index, time, owner_epoch=1)]

    put_part(2, -100)
    await sink.promote("list", 1)
    async with view:
        await view.wait_for(("orders", 7, 2), 0)
        with pytest.raises(eda.Timeout, match=r"event 7\.3 of stream 'orders' \(it has applied up to 7\.2\)"):
            await view.wait_for(("orders", 7, 3), 0.05)
        call = asyncio.ensure_future(view.wait_for(("orders", 7, 9), 10))
        put_part(8, -100)
        await asyncio.sleep(0.1)
        assert not call.done()
        put_part(8, 100)  # the events after it were not for this projection
        async with asyncio.timeout(1):
            await call


async def test_wait_for_when_nobody_waits_asks_the_database_once_a_second(sink: MemorySink, view: View) -> None:
    await view
    sink.calls.clear()
    await asyncio.sleep(0.5)
    assert len(sink.calls) <= 1


async def test_wait_for_when_the_projection_never_ran_waits_until_the_timeout(view: View) -> None:
    await view
    with pytest.raises(eda.Timeout, match="'list', of which no version was opened yet, has applied event 7 of stream"):
        await view.wait_for(("orders", 7, 0), 0.1)
    assert view.version is None


async def test_wait_for_when_the_projection_begins_meanwhile_returns(sink: MemorySink, view: View) -> None:
    call = asyncio.ensure_future(view.wait_for(("orders", 7, 0), 10))
    await asyncio.sleep(0.05)
    put(sink, 7)
    await sink.promote("list", 1)
    await call


async def test_wait_for_when_another_version_is_promoted_waits_for_that_one(sink: MemorySink, view: View) -> None:
    put(sink, 5)
    put(sink, 3, version=2)
    await sink.promote("list", 1)
    await view
    call = asyncio.ensure_future(view.wait_for(("orders", 7, 0), 10))
    await asyncio.sleep(0.05)
    await sink.promote("list", 2)
    await until(lambda: view.version == 2)
    put(sink, 7)
    await asyncio.sleep(0.1)
    assert not call.done()
    put(sink, 7, version=2)
    await call
    assert view.version == 2


async def test_version_when_nobody_waits_follows_a_promotion(sink: MemorySink, view: View) -> None:
    put(sink, 5)
    await sink.promote("list", 1)
    await view
    await sink.promote("list", 2)
    put(sink, 5, version=2)
    await until(lambda: view.version == 2)


async def test_wait_for_when_time_is_over_says_how_far_it_is(sink: MemorySink, view: View) -> None:
    put(sink, 5)
    await sink.promote("list", 1)
    with pytest.raises(
        eda.Timeout, match=r"version 1 has applied event 7 of stream 'orders' \(it has applied up to 5\)"
    ):
        await view.wait_for(("orders", 7, 0), 0.05)
    with pytest.raises(eda.Timeout, match="it has not begun with this stream"):
        await view.wait_for(("users", 7, 0), 0.05)


async def test_wait_for_when_the_stream_is_another_is_refused(
    sink: MemorySink, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "UNKNOWN_STREAM_S", 0.05)
    put(sink, 5)
    put(sink, 5, stream="payments")
    await sink.promote("list", 1)
    with pytest.raises(eda.ConfigError, match="does not read stream 'users'; it reads orders, payments"):
        await view.wait_for(("users", 7, 0), 10)


async def test_wait_for_when_the_database_fails_for_a_while_goes_on(
    sink: MemorySink, view: View, logged: Logged
) -> None:
    put(sink, 5)
    await sink.promote("list", 1)
    await view
    failures = [Outage("away")] * 2

    def fails(method: str) -> None:
        if failures:
            raise failures.pop()

    sink.fails = fails
    call = asyncio.ensure_future(view.wait_for(("orders", 7, 0), 10))
    await until(lambda: not failures)
    put(sink, 7)
    await call
    assert len(logged.find("reading the positions of a view failed")) == 1
    assert logged.find("the database memory works again")


async def test_wait_when_the_database_fails_otherwise_raises_its_error(
    sink: MemorySink, view: View, logged: Logged
) -> None:
    logged.expect("view 'list' ends: unheard of")
    await view

    def fails(method: str) -> None:
        raise ValueError("unheard of")

    sink.fails = fails
    for call in (view.wait_for(("orders", 7, 0), 10), view.wait()):
        with pytest.raises(ValueError, match="unheard of"):
            await call
    assert view.is_closed


async def test_open_when_the_database_is_away_raises_its_error_and_closes(sink: MemorySink, view: View) -> None:
    def fails(method: str) -> None:
        raise Outage("away")

    sink.fails = fails
    with pytest.raises(Outage):
        await view
    assert view.is_closed


async def test_open_when_its_caller_is_cancelled_closes(sink: MemorySink, view: View) -> None:
    opening = asyncio.ensure_future(view.opened())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait({opening})
    await until(lambda: view.is_closed)
    with pytest.raises(eda.Closed):
        await view.wait_for(("orders", 7, 0), 1)


async def test_close_when_callers_wait_lets_them_fail(sink: MemorySink, view: View) -> None:
    call = asyncio.ensure_future(view.wait_for(("orders", 7, 0), 10))
    await until(lambda: view._waiting)
    await view.close()
    await view.close()
    with pytest.raises(eda.Closed):
        await call
    with pytest.raises(eda.Closed):
        await view.wait_for(("orders", 7, 0), 1)
    assert not sink.is_open
    assert repr(view).endswith("'list', closed>")


async def test_view_when_it_is_used_writes_nothing(sink: MemorySink, view: View) -> None:
    put(sink, 5)
    before = replace(sink.stored["list", 1, "orders"][0])
    with pytest.raises(eda.Timeout):
        await view.wait_for(("orders", 7, 0), 0.05)
    assert set(sink.calls) == {"open", "versions"}
    assert sink.stored["list", 1, "orders"] == [before]
