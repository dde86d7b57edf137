"""Calls of `execute` and `append` as coroutines: tasks run them, cancel them, close them and forget to await them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

import eda
from eda.store._call import Call


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def decider() -> eda.Decider[int, int]:
    return eda.Decider(0, lambda total, event: total + event.data.decode(), lambda _, n: added(n))


@pytest.fixture
async def store(conn: eda.Conn, stream: str) -> AsyncIterator[eda.EventStore[Any, Any]]:
    async with conn.store(stream, decider()) as opened:
        await opened.execute("a", 1)
        yield opened


async def free(store: eda.EventStore[Any, Any], aggregate: str = "a") -> bool:
    """Return whether nobody has the turn of the aggregate any more."""
    async with asyncio.timeout(10):
        return (await store.execute(aggregate, 1)).version > 1


async def test_call_when_made_is_a_coroutine(store: eda.EventStore[Any, Any]) -> None:
    call = store.execute("a", 1)
    assert asyncio.iscoroutine(call)
    assert isinstance(call, Coroutine)
    assert call.__qualname__ == "EventStore.execute"
    assert (await call).version == 2
    task = asyncio.ensure_future(store.append("a", [added(1)], expected=2))
    assert "EventStore.append" in repr(task)
    assert (await task).version == 3


@pytest.mark.parametrize("run", [asyncio.ensure_future, asyncio.create_task, asyncio.gather, asyncio.shield])
async def test_call_when_run_by_asyncio_returns_its_result(store: eda.EventStore[Any, Any], run: Any) -> None:
    found = await run(store.execute("a", 1))
    result = found[0] if isinstance(found, list) else found
    assert result.version == 2


async def test_call_when_waited_for_with_a_time_limit_returns_its_result(store: eda.EventStore[Any, Any]) -> None:
    assert (await asyncio.wait_for(store.execute("a", 1), 10)).version == 2
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.append("b", [added(1)], expected="any")) for _ in range(5)]
    assert sorted(task.result().version for task in tasks) == [1, 2, 3, 4, 5]


async def test_call_when_not_begun_does_nothing(store: eda.EventStore[Any, Any]) -> None:
    call = store.execute("a", 1)
    await asyncio.sleep(0.05)
    assert (await store.load("a")).version == 1
    call.close()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await call
    assert (await store.load("a")).version == 1


async def test_call_when_never_awaited_warns(store: eda.EventStore[Any, Any]) -> None:
    with pytest.warns(RuntimeWarning, match=r"'EventStore.execute' was never awaited"):
        store.execute("a", 1)


async def test_call_when_awaited_twice_says_so(store: eda.EventStore[Any, Any]) -> None:
    call = store.execute("a", 1)
    await call
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await call
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del call


async def test_call_when_cancelled_on_its_way_gives_the_turn_back(store: eda.EventStore[Any, Any]) -> None:
    for _ in range(20):
        task = asyncio.create_task(store.execute("a", 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await free(store)


async def test_call_when_closed_on_its_way_gives_the_turn_back(store: eda.EventStore[Any, Any]) -> None:
    call = store.execute("a", 1)
    call.send(None)
    other = asyncio.create_task(store.execute("a", 1))
    await asyncio.sleep(0)
    call.close()
    async with asyncio.timeout(10):
        assert (await other).version == 3
    assert await free(store)


async def test_call_when_dropped_on_its_way_gives_the_turn_back(store: eda.EventStore[Any, Any]) -> None:
    call = store.append("a", [added(1)], expected=1)
    call.send(None)
    del call
    gc.collect()
    assert await free(store)


async def test_call_when_an_error_is_thrown_into_it_raises_it(store: eda.EventStore[Any, Any]) -> None:
    class Stop(Exception):
        pass

    call = store.execute("a", 1)
    call.send(None)
    with pytest.raises(Stop):
        call.throw(Stop())
    begun = store.execute("b", 1)  # not in the cache: a coroutine of Python does it
    begun.send(None)
    with pytest.raises(Stop):
        begun.throw(Stop)
    with pytest.raises(Stop):
        store.execute("a", 1).throw(Stop())
    assert await free(store)
    assert (await store.execute("b", 1)).version in (1, 2)


async def test_call_when_driven_by_hand_yields_its_wait_again(store: eda.EventStore[Any, Any]) -> None:
    call = store.execute("a", 1)
    first = call.send(None)
    assert call.send(None) is first
    call.close()


async def test_call_when_another_writer_is_quicker_decides_again(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str
) -> None:
    async with eda.connect(server.url) as other, conn.store(stream, decider()) as ours:
        theirs = other.store(stream, decider())
        await ours.execute("a", 1)
        await theirs.execute("a", 10)
        task = asyncio.create_task(ours.execute("a", 100))
        assert (await task).version == 3
        with pytest.raises(eda.VersionConflict):
            await theirs.append("a", [added(1)], expected=2)


@pytest.mark.parametrize("what", ["execute", "append"])
async def test_call_when_it_comes_from_another_loop_is_refused_and_sends_nothing(
    store: eda.EventStore[Any, Any], conn: eda.Conn, what: str
) -> None:
    def call() -> Coroutine[Any, Any, Any]:
        return store.execute("a", 1) if what == "execute" else store.append("a", [added(1)], expected=1)

    own = asyncio.ensure_future(store.execute("b", 1))  # its event waits for the write at the end of this turn
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(eda.ConfigError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(lambda: asyncio.run(call()))
    assert (await own).version == 1
    assert (await store.load("a")).version == 1
    assert (await call()).version == 2


def test_call_when_made_without_a_store_is_refused() -> None:
    kind: Any = Call
    with pytest.raises(TypeError, match="StoreCalls makes it"):
        kind()
    with pytest.raises(TypeError, match="without its store"):
        kind.__new__(kind).send(None)
