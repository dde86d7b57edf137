"""Ordered subscriptions of packs: every event, in order, and a position that may lie in the middle of a pack."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

import eda
from eda._pack import place_of
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.packs import publish_pack

KINDS: dict[str, dict[str, Any]] = {
    "private": {},
    "private serial": {"serial": True},
    "exclusive": {"name": "me", "durable": True, "exclusive": True},
    "exclusive batch": {"name": "me", "durable": True, "exclusive": True, "batch": 7},
    "serial": {"name": "me", "durable": True, "serial": True},
    "serial batch": {"name": "me", "durable": True, "serial": True, "batch": 7},
    "strict": {"name": "me", "durable": True, "serial": "strict"},
    "key": {"name": "me", "durable": True, "key": "aggregate", "concurrency": 3},
}
DURABLE = [kind for kind, options in KINDS.items() if "durable" in options]

Place = tuple[int, int]


def events_of(n: int, first: int = 0) -> list[eda.Event]:
    """Return `n` events with ids that count, of types and aggregates that take turns."""
    return [
        eda.Event(id=f"e{number}", type="ab"[number % 2], aggregate="xyz"[number % 3], data=eda.JSON(number))
        for number in range(first, first + n)
    ]


async def fill(conn: eda.Conn, admin: Admin, stream: str, *sizes: int) -> list[Place]:
    """Store a pack for each size, and an ordinary message for each 0; returns the places of all events."""
    places: list[Place] = []
    for size in sizes:
        events = events_of(size or 1, len(places))
        if size:
            sequence = await publish_pack(admin.js, stream, events)
        else:
            sequence = (await conn.publish(stream, events[0])).sequence
        places += [(sequence, index) for index in range(len(events))]
    return places


class Seen(list[Place]):
    """A handler that keeps the places of the events that it gets, one by one or in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[eda.Event] = []

    async def __call__(self, given: eda.Event | list[eda.Event]) -> None:
        await asyncio.sleep(0)
        for event in given if isinstance(given, list) else [given]:
            self.events.append(event)
            self.append((event.sequence, event.index))


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    conn = await connect()
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    return conn


@pytest.fixture
def keys(admin: Admin, stream: str) -> Keys:
    return Keys(admin, stream, "me")


# --- every event, in order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_packs_when_they_are_there_and_come_give_each_event_in_order(
    conn: eda.Conn, admin: Admin, stream: str, kind: str
) -> None:
    places = await fill(conn, admin, stream, 3, 0, 1, 20, 0)
    seen = Seen()
    async with conn.subscribe(stream, seen, backfill=True, **KINDS[kind]) as subscription:
        await until(lambda: len(seen) == len(places))
        more = await publish_pack(admin.js, stream, events_of(5, len(places)))
        places += [(more, index) for index in range(5)]
        await until(lambda: len(seen) == len(places))
        await until(lambda: subscription.stats().pending == 0)
        stats = subscription.stats()
    assert (seen if kind != "key" else sorted(seen)) == places
    if kind == "key":
        for aggregate in "xyz":
            mine = [(event.sequence, event.index) for event in seen.events if event.aggregate == aggregate]
            assert mine == sorted(mine)
    numbers = {event.data.decode() for event in seen.events}
    assert numbers == set(range(len(places)))
    assert {event.id for event in seen.events} == {f"e{number}" for number in range(len(places))}
    assert {event.attempt for event in seen.events} == {1}
    assert {event.stream for event in seen.events} == {stream}
    assert (stats.handled, stats.last_sequence, stats.in_flight, stats.buffered) == (len(places), more, 0, 0)
    assert (stats.failed, stats.skipped, stats.passed_over, stats.undecodable) == (0, 0, 0, 0)


async def handle_some(conn: eda.Conn, stream: str, seen: Seen, n: int, options: dict[str, Any]) -> None:
    """Handle events, up to `n` more and then what runs already, in a subscription of their own."""
    n_before = len(seen)

    async def handle(given: Any) -> None:
        await seen(given)
        if len(seen) >= n_before + n:
            subscription.pause()

    subscription = conn.subscribe(stream, handle, backfill=True, **options)
    async with subscription:
        await until(lambda: subscription.is_paused)


@pytest.mark.parametrize("kind", DURABLE)
async def test_position_when_closed_in_a_pack_is_kept_and_no_event_comes_twice(
    connect: Connect, conn: eda.Conn, admin: Admin, stream: str, keys: Keys, kind: str
) -> None:
    """Each subscription handles some events, and its successor goes on with the next one, also within a pack."""
    places = await fill(conn, admin, stream, 4, 0, 30, 1, 6)
    seen = Seen()
    n_closed = 0
    for n in (2, 7, 1, 10, 9, 3, 10):
        await handle_some(await connect(), stream, seen, min(n, len(places) - len(set(seen))), KINDS[kind])
        n_closed += 1
        if len(set(seen)) == len(places):
            break
    if kind == "key":
        assert sorted(set(seen)) == places  # what is done behind an event that is not comes again
    else:
        assert seen == places
    assert n_closed > 3
    value = await keys.get()
    assert value is not None
    assert (value["v"], value["seq"], value["idx"]) == (2, places[-1][0], 0)


async def test_position_when_in_a_pack_names_the_pack_and_the_index(
    conn: eda.Conn, admin: Admin, stream: str, keys: Keys
) -> None:
    await fill(conn, admin, stream, 0, 10)
    entered = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.index == 4:
            entered.set()
            await asyncio.sleep(60)

    async with conn.subscribe(stream, handle, backfill=True, timeout_s=0.5, **KINDS["serial"]):
        await asyncio.wait_for(entered.wait(), 10)
    value = await keys.get()
    assert value is not None
    assert (value["v"], value["seq"], value["idx"], value["part"]) == (2, 1, 4, 2)
    message = await admin.js.get_msg(stream, 2)
    assert message.time is not None
    assert abs(int(value["part_time"]) / 1e9 - message.time.timestamp()) < 1e-3
    (info,) = await conn.subscriptions(stream)
    assert (info.position, info.lag) == (1, 1)  # messages, not events
    seen = Seen()
    async with conn.subscribe(stream, seen, **KINDS["serial"]):
        await until(lambda: len(seen) == 6)
    assert seen == [(2, index) for index in range(4, 10)]


@pytest.mark.parametrize(("prefetch", "most"), [(1, 50), (20, 50), (120, 170), (1000, 1050)])
async def test_prefetch_when_the_stream_has_packs_counts_their_events_and_admits_one_pack_more(
    conn: eda.Conn, admin: Admin, stream: str, prefetch: int, most: int
) -> None:
    places = await fill(conn, admin, stream, *[50] * 40)
    release = asyncio.Event()
    held: list[int] = []
    seen: list[Place] = []

    async def handle(event: eda.Event) -> None:
        await release.wait()
        held.append(subscription.stats().buffered)
        seen.append((event.sequence, event.index))

    subscription = conn.subscribe(stream, handle, backfill=True, prefetch=prefetch)
    async with subscription:
        await until(lambda: subscription.stats().buffered)
        await asyncio.sleep(0.2)
        assert subscription.stats().buffered < most
        release.set()
        await until(lambda: len(seen) == len(places))
    assert max(held) < most
    assert seen == places


# --- where it begins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["private", "serial"])
async def test_start_when_it_is_a_pack_begins_with_its_first_event(
    conn: eda.Conn, admin: Admin, stream: str, kind: str
) -> None:
    async def first(**options: Any) -> Place:
        seen = Seen()
        subscription = await conn.subscribe(stream, seen, **(KINDS[kind] | options))
        await publish_pack(admin.js, stream, events_of(2))
        await until(lambda: seen)
        await subscription.unsubscribe()
        return seen[0]

    await fill(conn, admin, stream, 3, 3)
    await asyncio.sleep(0.02)
    middle = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await fill(conn, admin, stream, 3, 3)
    assert await first() == (5, 0)
    assert await first(backfill=True) == (1, 0)
    assert await first(start=2) == (2, 0)
    assert await first(start=middle) == (3, 0)
    await admin.js.purge_stream(stream, seq=3)
    assert await first(start=2) == (3, 0)


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["private", "serial", "key", "exclusive batch"])
@pytest.mark.parametrize("wanted", [lambda event: event.type == "a", lambda event: event.aggregate == "x"], ids="ta")
async def test_filter_when_a_pack_has_other_events_passes_over_them_one_by_one(
    conn: eda.Conn, admin: Admin, stream: str, kind: str, wanted: Any
) -> None:
    """The stream has a foreign subject, so only the client filters."""
    options: dict[str, Any] = {"types": ["a"]} if wanted(eda.Event(type="a")) else {"aggregate": "x"}
    await admin.js.update_stream(name=stream, subjects=[stream, f"{stream}.>", f"other-{stream}"])
    sizes = (10, 1, 1, 7, 2)
    places = await fill(conn, admin, stream, *sizes)
    events = events_of(sum(sizes))
    expected = [place for place, event in zip(places, events, strict=True) if wanted(event)]
    seen = Seen()
    async with conn.subscribe(stream, seen, backfill=True, **KINDS[kind] | options) as subscription:
        await until(lambda: len(seen) == len(expected))
        await until(lambda: subscription.stats().passed_over == len(places) - len(expected))
        assert subscription.stats().skipped == 0
        await until(lambda: subscription._dispatcher.position == len(sizes))
    assert sorted(seen) == expected


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["serial", "strict", "key", "exclusive", "serial batch"])
async def test_event_when_it_fails_is_tried_again_before_what_must_wait_for_it(
    conn: eda.Conn, admin: Admin, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    places = await fill(conn, admin, stream, 12, 3)
    seen = Seen()
    attempts: dict[Place, list[int]] = {}

    async def handle(given: Any) -> None:
        events = given if isinstance(given, list) else [given]
        for event in events:
            attempts.setdefault((event.sequence, event.index), []).append(event.attempt)
        failed = [event for event in events if event.id == "e5" and event.attempt < 3]
        if failed and isinstance(given, list):
            await seen([event for event in events if event not in failed])
            raise eda.PartialFailure({failed[0]: ValueError("x")})
        if failed:
            raise ValueError("x")
        await seen(given)

    options = KINDS[kind] | {"retry": eda.Retry(initial_s=0.01, max_attempts=5)}
    async with conn.subscribe(stream, handle, backfill=True, **options):
        await until(lambda: len(seen) == len(places))
    assert sorted(seen) == places
    assert attempts[1, 5] == [1, 2, 3]
    assert all(tried == [1] for place, tried in attempts.items() if place != (1, 5))
    if kind in ("serial", "strict"):
        assert seen == places
    if kind == "key":
        mine = [(event.sequence, event.index) for event in seen.events if event.aggregate == "z"]
        assert mine == sorted(mine)
    assert logged.find(r"event 'e5'|event e5")


async def test_log_when_an_event_of_a_pack_fails_names_its_place(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(conn, admin, stream, 12)
    failed: list[str] = []

    def handle(event: eda.Event) -> None:
        if event.index == 7 and event.attempt == 1:
            failed.append(place_of(event))
            raise ValueError("x")

    options = KINDS["serial"] | {"retry": eda.Retry(initial_s=0.01)}
    async with conn.subscribe(stream, handle, backfill=True, **options) as subscription:
        await until(lambda: subscription.stats().handled == 12)
    assert failed == ["1.7"]


@pytest.mark.parametrize("kind", ["serial", "key"])
async def test_event_when_its_envelope_is_broken_is_one_dead_letter(
    conn: eda.Conn, admin: Admin, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("is not an event")
    good = [eda._codec.encode_event(event) for event in events_of(3)]
    broken = b"\x0a\xff"
    pack = b"".join(b"\x7a" + bytes([len(each)]) + each for each in (good[0], broken, good[1], good[2]))
    await publish_pack(admin.js, stream, [], payload=pack)
    seen = Seen()
    async with conn.subscribe(stream, seen, backfill=True, **KINDS[kind]) as subscription:
        await until(lambda: len(seen) == 3)
        await until(lambda: subscription.stats().dead_lettered == 1)
        assert subscription.stats().undecodable == 1
    assert sorted(seen) == [(1, 0), (1, 2), (1, 3)]
    letter = await admin.js.get_msg(f"{stream}-dead", 1)
    assert letter.data == broken


# --- pause, other readers --------------------------------------------------------------------------------------------


async def test_pause_when_in_the_middle_of_a_pack_goes_on_there(conn: eda.Conn, admin: Admin, stream: str) -> None:
    places = await fill(conn, admin, stream, 20)
    seen = Seen()

    async def handle(event: eda.Event) -> None:
        await seen(event)
        if event.index == 7:
            subscription.pause()

    subscription = conn.subscribe(stream, handle, backfill=True, **KINDS["serial"])
    async with subscription:
        await until(lambda: subscription.is_paused)
        await asyncio.sleep(0.1)
        assert seen == places[:8]
        subscription.resume()
        await until(lambda: len(seen) == 20)
    assert seen == places


async def test_reader_when_it_is_replaced_in_the_middle_of_a_pack_brings_nothing_twice(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    places = await fill(conn, admin, stream, 20, 20, 0, 20)
    seen = Seen()

    async def handle(event: eda.Event) -> None:
        await seen(event)
        if event.index == 10:
            source._renew("the test says so")  # type: ignore[union-attr]

    subscription = conn.subscribe(stream, handle, backfill=True, **KINDS["serial"])
    source = subscription._pipeline.source
    async with subscription:
        await until(lambda: len(seen) == len(places))
    assert seen == places


@pytest.mark.parametrize("batch", [None, 7])
async def test_iterator_when_the_stream_has_packs_yields_each_event(
    conn: eda.Conn, admin: Admin, stream: str, batch: int | None
) -> None:
    places = await fill(conn, admin, stream, 3, 0, 12, 1)
    seen: list[Place] = []
    async with conn.events(stream, backfill=True, batch=batch) as events:
        async for given in events:
            taken = given if isinstance(given, list) else [given]
            seen += [(event.sequence, event.index) for event in taken]
            if len(seen) == len(places):
                break
    assert seen == places


async def test_iterator_when_left_in_the_middle_of_a_pack_goes_on_behind_the_last_event(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    places = await fill(conn, admin, stream, 10)
    seen: list[Place] = []
    for _ in range(5):
        async with conn.events(stream, backfill=True, **KINDS["serial"]) as events:
            n = 0
            async for event in events:
                seen.append((event.sequence, event.index))
                n += 1
                if n == 2:
                    break
    assert seen == places
