"""Filters on packed streams find the same events, in packs and beside them, as filters on other streams."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import eda
from eda.jetstream.subjects import PACK_TOKEN, escape_token
from helpers import Admin, until
from support.packs import publish_pack

PACKED = eda.StreamOptions(packed=True)
KEPT: dict[str, Any] = {"name": "n", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "private": {"backfill": True},
    "serial": KEPT | {"serial": True},
    "exclusive batch": KEPT | {"exclusive": True, "batch": 50},
    "shared batch": KEPT | {"batch": 50},
    "key": KEPT | {"key": "aggregate", "concurrency": 4},
}
FILTERS: list[dict[str, Any]] = [
    {},
    {"types": ["a"]},
    {"types": ["a", "b.c"]},
    {"aggregate": "x"},
    {"types": ["a", ""], "aggregate": "y%"},
    {"types": ["%pack"]},
]
TYPES = ["a", "b.c", "d", "", "%pack"]
AGGREGATES = ["x", "y%", "", "%pack"]

Place = tuple[int, int]


def subject_of_pack(stream: str, events: list[eda.Event]) -> str:
    """Return the subject of a pack, after docs/wire.md."""
    types, aggregates = {event.type for event in events}, {event.aggregate for event in events}
    type_token = escape_token(types.pop()) if len(types) == 1 else PACK_TOKEN
    aggregate_token = escape_token(aggregates.pop()) if len(aggregates) == 1 else PACK_TOKEN
    return f"{stream}.{type_token}.{aggregate_token}"


async def publish_all(conn: eda.Conn, admin: Admin, stream: str) -> dict[Place, eda.Event]:
    """Publish packs of many shapes, and events beside them. Return all events by sequence and index."""
    random = Random(18)
    places: dict[Place, eda.Event] = {}

    def event_of(types: list[str], aggregates: list[str]) -> eda.Event:
        event_type, aggregate = random.choice(types), random.choice(aggregates)
        return eda.Event(id=f"e{len(places)}-{random.random()}", type=event_type, aggregate=aggregate)

    for _ in range(60):
        types = random.sample(TYPES, random.choice([1, 1, 3]))
        aggregates = random.sample(AGGREGATES, random.choice([1, 1, 3]))
        events = [event_of(types, aggregates) for _ in range(random.choice([1, 2, 5]))]
        if random.random() < 0.3:
            receipt = await conn.publish(stream, events[0])
            places[receipt.sequence, 0] = events[0]
            continue
        sequence = await publish_pack(admin.js, stream, events, subject=subject_of_pack(stream, events))
        places |= {(sequence, index): event for index, event in enumerate(events)}
    return places


def wanted(places: dict[Place, eda.Event], types: list[str] | None = None, aggregate: str | None = None) -> list[Place]:
    """Return where the events are that a filter matches, in order."""
    return [
        place
        for place, event in sorted(places.items())
        if (types is None or event.type in types) and (aggregate is None or event.aggregate == aggregate)
    ]


@pytest.fixture
async def places(conn: eda.Conn, admin: Admin, stream: str) -> dict[Place, eda.Event]:
    await conn.streams.create(stream, PACKED)
    return await publish_all(conn, admin, stream)


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_filter_when_events_are_in_packs_finds_exactly_what_it_matches(
    conn: eda.Conn, stream: str, places: dict[Place, eda.Event], kind: dict[str, Any], filter: dict[str, Any]
) -> None:
    seen: list[Place] = []

    def handle(given: Any) -> None:
        for event in given if isinstance(given, list) else [given]:
            there = places[event.sequence, event.index]
            assert (event.id, event.type, event.aggregate) == (there.id, there.type, there.aggregate)
            seen.append((event.sequence, event.index))

    expected = wanted(places, **filter)
    assert expected
    async with conn.subscribe(stream, handle, **kind, **filter) as sub:
        await until(lambda: len(seen) >= len(expected))
        await until(lambda: sub.stats().pending == 0 and sub.stats().buffered + sub.stats().in_flight == 0)
    assert sorted(seen) == expected
    if "key" not in kind:
        assert seen == expected
    assert sub.stats().dead_lettered == 0


@pytest.mark.parametrize("kind", [KEPT, KEPT | {"serial": True}], ids=["shared", "serial"])
async def test_filter_when_a_subscription_begins_again_gets_nothing_twice(
    conn: eda.Conn, stream: str, admin: Admin, places: dict[Place, eda.Event], kind: dict[str, Any]
) -> None:
    seen: list[Place] = []
    expected = wanted(places, types=["a"])
    for _ in range(2):
        async with conn.subscribe(
            stream, lambda event: seen.append((event.sequence, event.index)), types=["a"], **kind
        ) as sub:
            await until(lambda: len(seen) >= len(expected))
            await until(lambda: sub.stats().pending == 0)
    assert seen == expected
    (info,) = await conn.subscriptions(stream)
    assert info.lag == 0


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("kind", [KEPT, KEPT | {"serial": True}], ids=["shared", "serial"])
async def test_filter_when_the_stream_is_a_mirror_finds_the_same_events(
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    places: dict[Place, eda.Event],
    kind: dict[str, Any],
    filter: dict[str, Any],
) -> None:
    mirror = f"{stream}-mirror"
    await admin.api(f"STREAM.CREATE.{mirror}", {"name": mirror, "mirror": {"name": stream}})
    expected = wanted(places, **filter)
    seen: list[Place] = []
    try:
        async with conn.subscribe(mirror, lambda event: seen.append((event.sequence, event.index)), **kind, **filter):
            await until(lambda: len(seen) >= len(expected))
        assert seen == expected
    finally:
        await admin.js.delete_stream(mirror)


async def test_events_when_filtered_are_iterated_with_their_places(
    conn: eda.Conn, stream: str, places: dict[Place, eda.Event]
) -> None:
    expected = wanted(places, types=["a", "d"])
    seen: list[Place] = []
    async with conn.events(stream, types=["a", "d"], backfill=True) as events:
        async for event in events:
            seen.append((event.sequence, event.index))
            if len(seen) == len(expected):
                break
    assert seen == expected


async def test_work_queue_when_packed_is_emptied_by_one_subscription(conn: eda.Conn, stream: str, admin: Admin) -> None:
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "retention": "workqueue"}
    await admin.api(f"STREAM.CREATE.{stream}", config | {"metadata": {"eda-packed": "1"}})
    places = await publish_all(conn, admin, stream)
    seen: list[Place] = []
    async with conn.subscribe(stream, lambda event: seen.append((event.sequence, event.index)), **KEPT):
        await until(lambda: len(seen) >= len(places))

        async def is_empty() -> bool:
            return (await conn.streams.info(stream)).events == 0

        await until(is_empty)
    assert seen == sorted(places)
