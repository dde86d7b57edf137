"""What a program can do with the coroutine that `publisher.send` returns, which is no coroutine of Python."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from collections.abc import AsyncIterator, Coroutine

import pytest

import eda


@pytest.fixture
async def publisher(conn: eda.Conn, stream: str) -> AsyncIterator[eda.Publisher]:
    async with conn.publisher(stream) as publisher:
        await publisher.send(eda.Event(id="first"))
        await publisher.flush()
        yield publisher


async def ids_in(conn: eda.Conn, stream: str) -> list[str]:
    async with conn.events(stream, backfill=True) as events:
        last = (await conn.streams.info(stream)).last_sequence
        return [event.id async for event in until(events, last)]


async def until(events: eda.Events[eda.Event], last: int) -> AsyncIterator[eda.Event]:
    async for event in events:
        yield event
        if event.sequence >= last:
            return


async def test_send_when_it_is_made_a_task_or_gathered_sends(
    conn: eda.Conn, publisher: eda.Publisher, stream: str
) -> None:
    assert await asyncio.create_task(publisher.send(eda.Event(id="task"))) == "task"
    assert await asyncio.gather(*(publisher.send(eda.Event(id=f"g{i}")) for i in range(3))) == ["g0", "g1", "g2"]
    assert await asyncio.wait_for(publisher.send(eda.Event(id="waited")), 5) == "waited"
    other = asyncio.get_running_loop()
    later = await asyncio.to_thread(
        lambda: asyncio.run_coroutine_threadsafe(publisher.send(eda.Event(id="thread")), other).result(5)
    )
    assert later == "thread"
    await publisher.flush()
    assert await ids_in(conn, stream) == ["first", "task", "g0", "g1", "g2", "waited", "thread"]


async def test_send_when_it_is_not_awaited_sends_nothing_and_warns(
    conn: eda.Conn, publisher: eda.Publisher, stream: str
) -> None:
    with pytest.warns(RuntimeWarning, match=r"coroutine 'Publisher\.send' was never awaited: the event was not sent"):
        publisher.send(eda.Event(id="lost"))  # type: ignore[unused-coroutine]
    publisher.send(eda.Event(id="closed")).close()
    assert publisher.stats().sent == 1
    assert await ids_in(conn, stream) == ["first"]


async def test_send_when_it_is_no_task_behaves_as_a_coroutine(publisher: eda.Publisher) -> None:
    sending = publisher.send(eda.Event(id="by-hand"))
    assert isinstance(sending, Coroutine)
    assert asyncio.iscoroutine(sending)
    assert inspect.isawaitable(sending)
    with pytest.raises(StopIteration) as stopped:
        sending.send(None)
    assert stopped.value.value == "by-hand"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await sending
    sending.close()
    for error in (ValueError("thrown"), ValueError):
        thrown = publisher.send(eda.Event(id="thrown"))
        with pytest.raises(ValueError, match=None if error is ValueError else "thrown"):
            thrown.throw(error)
        with pytest.raises(RuntimeError, match="cannot reuse"):
            thrown.send(None)
    assert publisher.stats().sent == 2


async def test_send_when_it_fails_raises_and_can_not_be_awaited_again(publisher: eda.Publisher) -> None:
    for wrong in (eda.Event(id="a b"), "no event"):
        sending = publisher.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(eda.ConfigError):
            await sending
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await sending
    assert publisher.stats().sent == 1


async def test_send_when_it_waits_for_room_can_be_cancelled_thrown_into_and_closed(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream, max_pending=1, mode="window") as publisher:
        await publisher.send(eda.Event(id="first"))
        tasks = [asyncio.create_task(publisher.send(eda.Event(id=f"t{i}"))) for i in range(3)]
        by_hand = publisher.send(eda.Event(id="by-hand"))
        assert asyncio.isfuture(by_hand.send(None))
        left = publisher.send(eda.Event(id="left"))
        left.send(None)
        with pytest.raises(LookupError):
            by_hand.throw(LookupError())
        left.close()
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each if isinstance(each, str) else type(each) for each in done] == ["t0", asyncio.CancelledError, "t2"]
    assert await ids_in(conn, stream) == ["first", "t0", "t2"]


async def test_send_when_it_is_dropped_while_it_waits_lets_others_send(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream, max_pending=1, mode="window") as publisher:
        await publisher.send(eda.Event(id="first"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sending = publisher.send(eda.Event(id="dropped"))
            sending.send(None)
            del sending
            gc.collect()
        await publisher.send(eda.Event(id="last"))
    assert await ids_in(conn, stream) == ["first", "last"]
