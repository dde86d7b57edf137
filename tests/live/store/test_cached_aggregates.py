"""Cached aggregates on a real server: states that are changed in place, shared streams, streams that were emptied."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

import eda


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def decide(_: Any, command: int) -> eda.Event:
    return added(command)


def append_to(state: list[int], event: eda.Event) -> list[int]:
    state.append(event.data.decode())
    return state


IN_PLACE = eda.Decider(list, append_to, decide)


class Items:
    """Has the hash of its identity, and can be changed."""

    def __init__(self) -> None:
        self.numbers: list[int] = []


@dataclass(frozen=True)
class Basket:
    items: Items = field(default_factory=Items)


def put(basket: Basket, event: eda.Event) -> Basket:
    value = event.data.decode()
    basket.items.numbers.append(value if isinstance(value, int) else -1)
    return basket


async def test_state_when_a_frozen_class_holds_what_changes_is_not_used_after_a_conflict(
    conn: eda.Conn, stream: str
) -> None:
    one = conn.store(stream, eda.Decider(Basket, put, decide))
    await one.execute("a", 1)
    await conn.store(stream).append("a", [added(2)], expected="any")
    result = await one.execute("a", 3)
    assert result.state is not None
    assert result.state.items.numbers == [1, 2, 3]


async def test_state_when_a_frozen_class_holds_what_changes_is_not_used_after_a_refusal(
    conn: eda.Conn, stream: str
) -> None:
    decider: eda.Decider[Basket, int] = eda.Decider[Basket, int](
        Basket, put, lambda _, n: eda.Event(type="added", data=eda.JSON("x" * n if n > 9 else n))
    )
    store = conn.store(stream, decider)
    await store.execute("a", 1)
    with pytest.raises(eda.ConfigError, match="max_payload"):
        await store.execute("a", 2_000_000)
    result = await store.execute("a", 3)
    assert result.state is not None
    assert result.state.items.numbers == [1, 3]


async def test_state_when_evolve_fails_after_a_lost_connection_is_read_again(conn: eda.Conn, stream: str) -> None:
    fails = True

    def evolve(state: list[int], event: eda.Event) -> list[int]:
        if fails and event.data.decode() == 13:
            raise KeyError(13)
        return append_to(state, event)

    store = conn.store(stream, eda.Decider(list, evolve, decide))
    await store.execute("a", 1)
    for n in (2, 13):
        await conn.store(stream).append("a", [added(n)], expected="any")
    store._core.parts.begin_epoch()  # type: ignore[union-attr]  # as after a lost connection
    for _ in range(2):
        with pytest.raises(KeyError):
            await store.execute("a", 5)
    fails = False
    assert (await store.execute("a", 5)).state == [1, 2, 13, 5]


async def test_store_when_one_is_made_for_each_request_does_not_conflict_with_the_others(
    conn: eda.Conn, stream: str
) -> None:
    await conn.store(stream)
    results = await asyncio.gather(*(conn.store(stream, IN_PLACE, attempts=1).execute("a", n) for n in range(60)))
    assert sorted(result.version for result in results) == list(range(1, 61))


async def test_aggregate_when_the_stream_was_emptied_is_a_conflict_or_decided_again(
    conn: eda.Conn, stream: str
) -> None:
    store = conn.store(stream, IN_PLACE)
    await store.execute("a", 1)
    loaded = await store.load("a")
    await conn.streams.purge(stream)
    async with asyncio.timeout(3.0):
        with pytest.raises(eda.VersionConflict) as caught:
            await store.append("a", [added(9)], expected=loaded)
        assert (caught.value.actual, caught.value.events) == (0, [])
        await store.execute("a", 1)
        await conn.streams.purge(stream)
        result = await store.execute("a", 2)
    assert (result.version, result.state) == (1, [2])


async def test_stream_when_deleted_is_not_found_and_a_new_store_creates_it(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, IN_PLACE)
    await store.execute("a", 1)
    await conn.streams.delete(stream)
    for call in (
        lambda: store.load("a"),
        lambda: store.execute("a", 1),
        lambda: store.append("a", [added(1)], expected="any"),
        lambda: store.forget("a"),
    ):
        with pytest.raises(eda.StreamNotFound):
            await call()
    assert (await conn.store(stream, IN_PLACE).execute("a", 4)).state == [4]
    result = await store.execute("a", 5)
    assert (result.version, result.state) == (2, [4, 5])


async def test_expected_when_it_is_of_another_stream_or_made_up_is_refused(conn: eda.Conn, stream: str) -> None:
    store: eda.EventStore[None, Any] = conn.store(stream)
    appended = await store.append("a", [added(1)], expected="new")
    loaded = await store.load("a")
    other: eda.EventStore[None, Any] = conn.store(f"{stream}-b")
    try:
        for wrong in (appended, loaded):
            with pytest.raises(eda.ConfigError, match="of stream"):
                await other.append("a", [added(1)], expected=wrong)
    finally:
        if f"{stream}-b" in [info.name for info in await conn.streams.list()]:
            await conn.streams.delete(f"{stream}-b")
    for wrong in (
        eda.Loaded("a", version=2**63 - 1, sequence=1),
        eda.Loaded("a", version=-1),
        eda.Loaded("a", version=1, sequence="1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(eda.ConfigError, match="not the result of this store"):
            await store.append("a", [added(1)], expected=wrong)


@pytest.mark.parametrize("expected", ["any", "exists"])
async def test_append_when_its_command_is_stored_and_the_window_is_over_returns_it(
    conn: eda.Conn, stream: str, expected: Any
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True, dedup_window_s=0.2))
    await conn.store(stream, IN_PLACE).append("a", [added(1)], expected="new", command_id="c")
    await asyncio.sleep(0.8)
    again = await conn.store(stream, IN_PLACE).append("a", [added(1)], expected=expected, command_id="c")
    assert (again.version, again.receipts[0].duplicate) == (1, True)
    assert len(await conn.store(stream).history("a")) == 1


async def test_store_when_its_connection_is_closed_keeps_nothing_of_it(server: eda.EmbeddedServer, stream: str) -> None:
    conn = await eda.connect(server.url)
    await conn.store(stream, IN_PLACE).execute("a", 1)
    wire = weakref.ref(conn._lifetime.require_open().wire)
    await conn.close()
    del conn
    await asyncio.sleep(0.05)
    gc.collect()
    assert wire() is None


class Total:
    def __init__(self, n: int = 0) -> None:
        self.n = n


@pytest.mark.parametrize("is_async", [False, True])
async def test_state_when_a_conflict_has_made_it_old_needs_no_garbage_collector(
    conn: eda.Conn, stream: str, *, is_async: bool
) -> None:
    async def decide_later(_: Total, command: int) -> eda.Event:
        return added(command)

    def evolve(total: Total, event: eda.Event) -> Total:
        return Total(total.n + event.data.decode())

    store = conn.store(stream, eda.Decider[Total, int](Total, evolve, decide_later if is_async else decide))
    await store.execute("a", 1)
    await conn.store(stream).append("a", [added(2)], expected="any")
    gc.collect()
    gc.disable()
    try:
        result = await store.execute("a", 3)
        states = [each for each in gc.get_objects() if type(each) is Total]
        assert result.state is not None
        assert [each.n for each in states] == [6]
    finally:
        gc.enable()
