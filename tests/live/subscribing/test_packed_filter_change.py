"""A kept subscription to a packed stream whose filter changes: no event is lost, and none is repeated without need."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.subscribing.shared_source import SharedSource
from helpers import Admin, Connect, Logged, until
from support.packs import publish_pack

PACKED = eda.StreamOptions(packed=True)
SHARED: dict[str, Any] = {"name": "n", "durable": True, "backfill": True}
FROM_HERE: dict[str, Any] = SHARED | {"on_filter_change": "from_here"}

Place = tuple[int, int]


async def publish(admin: Admin, stream: str, types: str) -> None:
    """Publish one pack of events of these types."""
    await publish_pack(admin.js, stream, [eda.Event(type=each) for each in types])


async def take(conn: eda.Conn, stream: str, n: int, **options: Any) -> list[str]:
    """Return the types of the events that are handled, `n` or more."""
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), **options) as sub:
        await until(lambda: len(seen) >= n)
        await until(lambda: sub.stats().pending == 0)
    return seen


async def is_all_acknowledged(admin: Admin, stream: str) -> bool:
    info = await admin.consumer(stream, "n")
    return (info["num_pending"], info["num_ack_pending"]) == (0, 0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["a"], ["a", "b"], "ab"),
        (["a"], None, "abc"),
        (["a", "b"], ["b"], "b"),
        (["a"], ["c"], "c"),
        (None, ["a"], "a"),
    ],
)
async def test_packed_filter_when_changed_from_here_holds_from_the_position_onward(
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    logged: Logged,
    before: list[str] | None,
    after: list[str] | None,
    expected: str,
) -> None:
    await conn.streams.create(stream, PACKED)
    await publish(admin, stream, "cba")
    known = [each for each in "cba" if before is None or each in before]
    assert await take(conn, stream, len(known), types=before, **SHARED) == known
    await publish(admin, stream, "abc")
    with pytest.raises(eda.ConfigError, match="on_filter_change='from_here'"):
        await conn.subscribe(stream, print, types=after, **SHARED)
    assert await take(conn, stream, len(expected), types=after, **FROM_HERE) == list(expected)
    assert logged.find("its filter was .* and is .* now")
    config = (await admin.js.consumer_info(stream, "n")).config
    asked = {f"{stream}.{each}.*" for each in after or ()} | {stream, f"{stream}.%pack.*"}
    assert set(config.filter_subjects or [config.filter_subject]) == (asked if after else {">"})
    assert await is_all_acknowledged(admin, stream)


async def test_packed_filter_when_a_member_with_the_old_one_is_attached_loses_nothing(
    connect: Connect, stream: str, admin: Admin
) -> None:
    old_conn, new_conn = await connect(), await connect()
    await old_conn.streams.create(stream, PACKED)
    old: set[Place] = set()
    new: set[Place] = set()
    await publish(admin, stream, "ab")
    async with old_conn.subscribe(
        stream, lambda event: old.add((event.sequence, event.index)), types=["a"], **SHARED
    ) as older:
        await until(lambda: old == {(1, 0)})
        await until(lambda: is_all_acknowledged(admin, stream))
        async with new_conn.subscribe(
            stream, lambda event: new.add((event.sequence, event.index)), types=["a", "b"], **FROM_HERE
        ):
            expected = set()
            for sequence in range(2, 60):
                await publish(admin, stream, "bab")
                expected |= {(sequence, 0), (sequence, 2)}
            # Only the new member handles the events of type b. The old one gives its packs back.
            await until(lambda: expected <= new)
            await until(lambda: not older.stats().active)
            await until(lambda: is_all_acknowledged(admin, stream))
        assert not any(index in (0, 2) for _, index in old - {(1, 0)})
        assert {place for place in old | new if place[1] == 1} == {(sequence, 1) for sequence in range(2, 60)}


async def test_packed_filter_when_it_changes_while_a_pack_is_handled_gives_the_pack_back(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """The member with the old filter handles its part of the pack, and learns that another one wants the rest."""
    old_conn, new_conn = await connect(), await connect()
    await old_conn.streams.create(stream, PACKED)
    gate, is_changed = asyncio.Event(), asyncio.Event()
    old: list[Place] = []
    new: set[Place] = set()

    async def handle(event: eda.Event) -> None:
        await gate.wait()
        old.append((event.sequence, event.index))

    async with old_conn.subscribe(stream, handle, types=["a"], **SHARED) as older:
        source = older._pipeline.source
        assert isinstance(source, SharedSource)
        look = source._unwanted._look

        async def look_later() -> Any:
            await is_changed.wait()
            return await look()

        source._unwanted._look = look_later
        await publish(admin, stream, "ab")
        await until(lambda: older.stats().in_flight == 1)
        async with new_conn.subscribe(
            stream, lambda event: new.add((event.sequence, event.index)), types=["a", "b"], **FROM_HERE
        ):
            is_changed.set()
            await until(lambda: not older.stats().active)
            gate.set()
            await until(lambda: new == {(1, 0), (1, 1)})
            await until(lambda: is_all_acknowledged(admin, stream))
        assert old == [(1, 0)]


@pytest.mark.parametrize("types", [["a"], ["none"]])
async def test_packed_filter_when_the_subscription_is_closed_at_once_repeats_nothing(
    conn: eda.Conn, stream: str, admin: Admin, types: list[str]
) -> None:
    await conn.streams.create(stream, PACKED)
    seen: list[Place] = []
    for round in range(1, 4):
        for _ in range(20):
            await publish(admin, stream, "bab")
        async with conn.subscribe(
            stream, lambda event: seen.append((event.sequence, event.index)), types=types, **SHARED
        ) as sub:
            last = (round * 20, 1)
            await until(lambda last=last: last in seen if types == ["a"] else sub.stats().pending == 0)
        await until(lambda: is_all_acknowledged(admin, stream))
    assert seen == ([(sequence, 1) for sequence in range(1, 61)] if types == ["a"] else [])


async def test_looks_when_each_pack_has_unwanted_events_are_few(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.streams.create(stream, PACKED)
    n_looks = 0
    async with conn.subscribe(stream, lambda _: None, types=["a"], **SHARED) as sub:
        source = sub._pipeline.source
        assert isinstance(source, SharedSource)
        look = source._unwanted._look

        async def counted() -> Any:
            nonlocal n_looks
            n_looks += 1
            return await look()

        source._unwanted._look = counted
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(300):
            await publish(admin, stream, "ab")
        await until(lambda: sub.stats().handled == 300)
        await until(lambda: is_all_acknowledged(admin, stream))
        took_s = loop.time() - began
    assert 1 <= n_looks <= took_s / 0.02 + 2
