"""Shared subscriptions of packs, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.dead_letters.letters import stored
from support.packs import envelopes_of, publish_pack
from support.reference import bytes_field

TEAM: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}
SHORT = eda.Retry(initial_s=0.02, factor=1.0)


@pytest.fixture
async def packed(conn: eda.Conn, stream: str) -> str:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    return stream


def some(n: int, kind: str = "t", prefix: str = "e") -> list[eda.Event]:
    return [eda.Event(type=kind, id=f"{prefix}{number}") for number in range(n)]


async def fill(admin: Admin, stream: str, n_packs: int, n: int) -> None:
    for number in range(n_packs):
        await publish_pack(admin.js, stream, some(n, prefix=f"{number}."))


async def n_unacknowledged(admin: Admin, stream: str) -> tuple[int, int]:
    info = await admin.consumer(stream, "team")
    return info["num_ack_pending"], info["ack_floor"]["stream_seq"]


@pytest.mark.old_server
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("batch", [None, 50])
async def test_packs_when_read_give_every_event_once_and_in_order(
    conn: eda.Conn, packed: str, admin: Admin, concurrency: int, batch: int | None
) -> None:
    await fill(admin, packed, 20, 100)
    await conn.publish(packed, eda.Event(type="t", id="single"))
    await fill(admin, packed, 20, 100)
    seen: list[eda.Event] = []

    async def handle(given: Any) -> None:
        seen.extend(given if batch else [given])

    async with conn.subscribe(packed, handle, concurrency=concurrency, batch=batch, **TEAM) as subscription:
        await until(lambda: len(seen) == 4001)
        await until(lambda: subscription.stats().handled == 4001)
        assert subscription.stats().last_sequence == 41
        assert subscription.stats().pack_held_s == 0.0
    places = [(event.sequence, event.index) for event in seen]
    assert sorted(places) == [(seq, n) for seq in range(1, 42) for n in range(1 if seq == 21 else 100)]
    if concurrency == 1:
        assert places == sorted(places)
    assert {event.attempt for event in seen} == {1}
    assert await n_unacknowledged(admin, packed) == (0, 41)


async def test_event_when_it_fails_is_retried_here_and_the_pack_waits_for_it(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(admin, packed, 1, 5)
    calls: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        calls.append((event.index, event.attempt))
        if event.index == 1 and event.attempt < 4:
            raise ValueError("not yet")

    async with conn.subscribe(packed, handle, retry=SHORT, **TEAM) as subscription:
        await until(lambda: len(calls) == 5)
        assert (await n_unacknowledged(admin, packed))[0] == 1
        assert subscription.stats().pack_held_s > 0.0
        await until(lambda: subscription.stats().handled == 5)
        stats = subscription.stats()
    assert calls == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 3), (1, 4)]
    assert (stats.failed, stats.redelivered) == (3, 0)
    assert await n_unacknowledged(admin, packed) == (0, 1)


async def test_lease_when_a_pack_is_slow_is_extended_until_it_is_done(
    conn: eda.Conn, connect: Connect, packed: str, admin: Admin, short_lease: float
) -> None:
    await fill(admin, packed, 1, 6)
    seen: Counter[int] = Counter()

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.4 * short_lease)
        seen[event.index] += 1

    other = await connect()
    async with conn.subscribe(packed, handle, **TEAM) as subscription:
        await until(lambda: subscription.stats().in_flight == 1)
        async with other.subscribe(packed, handle, **TEAM):
            await until(lambda: len(seen) == 6)
    assert set(seen.values()) == {1}
    assert (await admin.consumer(packed, "team"))["num_redelivered"] == 0


async def test_pack_when_it_is_delivered_again_while_held_is_handled_once(
    conn: eda.Conn, packed: str, admin: Admin
) -> None:
    """The lease is over, and the server delivers it to the member that still has it."""
    await fill(admin, packed, 1, 4)
    seen: list[tuple[int, int]] = []
    go = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        seen.append((event.index, event.attempt))
        await go.wait()

    async with conn.subscribe(packed, handle, **TEAM) as subscription:
        await until(lambda: len(seen) == 1)
        ledger: Any = subscription._dispatcher.ledger
        assert ledger.packs.n_held == 1
        config = (await admin.consumer(packed, "team"))["config"]
        # A negative acknowledgement by somebody else: the server delivers it at once.
        await admin.client.publish(f"$JS.ACK.{packed}.team.1.1.1.{time.time_ns()}.0", b"-NAK")
        await until(lambda: subscription.stats().redelivered == 4)
        assert ledger.packs.n_held == 1
        go.set()
        await until(lambda: subscription.stats().handled == 4)
        assert config["ack_wait"]
    assert seen == [(n, 1) for n in range(4)]
    assert await n_unacknowledged(admin, packed) == (0, 1)


async def test_dead_letter_when_one_event_is_given_up_is_of_this_event_alone(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed", "handler rejected")
    await fill(admin, packed, 2, 4)
    calls: Counter[tuple[int, int]] = Counter()

    async def handle(event: eda.Event) -> None:
        calls[event.sequence, event.index] += 1
        if event.index == 1:
            raise ValueError("never")
        if event.index == 3:
            raise eda.Reject("not this one")

    retry = eda.Retry(initial_s=0.02, max_attempts=3)
    async with conn.subscribe(packed, handle, retry=retry, circuit=None, **TEAM) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 4)
        await until(lambda: subscription.stats().handled == 4)
    assert calls == {(seq, index): 3 if index == 1 else 1 for seq in (1, 2) for index in range(4)}
    letters = await stored(admin, f"{packed}-dead")
    await admin.js.delete_stream(f"{packed}-dead")
    wanted = [envelopes_of(some(4, prefix=f"{n}."))[index] for n in (0, 1) for index in (1, 3)]
    assert sorted(letter.payload for letter in letters) == sorted(wanted)
    assert sorted(letter.headers["Eda-Dead-Attempts"] for letter in letters) == ["1", "1", "3", "3"]
    assert await n_unacknowledged(admin, packed) == (0, 2)
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{packed}.>"})
    assert not kept["state"].get("subjects"), "no record is left"


async def test_batch_when_it_spans_packs_and_fails_in_part_has_these_events_again(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(admin, packed, 10, 3)
    calls: list[list[tuple[int, int, int]]] = []

    async def handle(events: list[eda.Event]) -> None:
        calls.append([(event.sequence, event.index, event.attempt) for event in events])
        failed = [event for event in events if event.index == 1 and event.attempt == 1]
        if failed:
            raise eda.PartialFailure({event: ValueError("once") for event in failed})

    options = {"retry": SHORT, "batch": 7, "circuit": None, **TEAM}
    async with conn.subscribe(packed, handle, **options) as subscription:
        await until(lambda: subscription.stats().handled == 30)
    counts = Counter((seq, index) for call in calls for seq, index, _ in call)
    assert counts == {(seq, index): 2 if index == 1 else 1 for seq in range(1, 11) for index in range(3)}
    assert any(len({seq for seq, _, _ in call}) > 2 for call in calls)
    assert await n_unacknowledged(admin, packed) == (0, 10)


async def test_misfit_when_it_is_in_a_pack_is_a_dead_letter_alone(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    bad = [eda.Event(type="t", id=f"e{n}", data=eda.JSON({"n": n})) for n in range(3)]
    payload_of = envelopes_of(bad)
    payload_of[1] = payload_of[1].replace(b'{"n":1}', b'{"n":1!')
    assert b'{"n":1!' in payload_of[1]
    await publish_pack(admin.js, packed, bad, payload=b"".join(bytes_field(15, each) for each in payload_of))
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        seen.append(event.data.decode()["n"])

    async with conn.subscribe(packed, handle, **TEAM) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
        await until(lambda: subscription.stats().handled == 2)
        assert subscription.stats().undecodable == 1
    (letter,) = await stored(admin, f"{packed}-dead")
    await admin.js.delete_stream(f"{packed}-dead")
    assert letter.payload == payload_of[1]
    assert seen == [0, 2]
    assert await n_unacknowledged(admin, packed) == (0, 1)


async def test_filter_on_types_gives_these_events_of_packs_alone(conn: eda.Conn, packed: str, admin: Admin) -> None:
    for _ in range(3):
        await publish_pack(admin.js, packed, [*some(2, "a"), *some(2, "b")])
    await publish_pack(admin.js, packed, some(2, "b"), subject=f"{packed}.b.%pack")
    await publish_pack(admin.js, packed, some(2, "a"), subject=f"{packed}.a.%pack")
    seen: list[tuple[int, int]] = []
    async with conn.subscribe(
        packed, lambda event: seen.append((event.sequence, event.index)), types=["a"], **TEAM
    ) as subscription:
        await until(lambda: len(seen) == 8)
        await until(lambda: n_unacknowledged_is_none(admin, packed))
        assert subscription.stats().passed_over == 6
    assert seen == [(seq, index) for seq in (1, 2, 3, 5) for index in (0, 1)]


async def n_unacknowledged_is_none(admin: Admin, stream: str) -> bool:
    return (await n_unacknowledged(admin, stream))[0] == 0


@pytest.mark.parametrize("is_packed", [True, False])
async def test_filter_when_a_member_with_the_old_one_has_a_mixed_pack_loses_nothing(
    conn: eda.Conn, connect: Connect, stream: str, admin: Admin, is_packed: bool
) -> None:
    """The old member handles its part of each pack, and may not acknowledge the rest for the new one."""
    await conn.streams.create(stream, eda.StreamOptions(packed=is_packed))
    new_conn = await connect()
    old: list[str] = []
    new: list[str] = []

    async def put(n: int) -> None:
        mixed = [*some(2, "a", f"{n}a"), *some(2, "b", f"{n}b")]
        await publish_pack(admin.js, stream, mixed, subject=f"{stream}.{'%pack' if is_packed else 'a'}._")

    options = TEAM | {"on_filter_change": "from_here"}
    async with conn.subscribe(stream, lambda event: old.append(event.id), types=["a"], **TEAM) as older:
        await put(0)
        await until(lambda: n_unacknowledged_is_none(admin, stream))
        async with new_conn.subscribe(stream, lambda event: new.append(event.id), types=["a", "b"], **options):
            for n in range(1, 30):
                await put(n)
            await until(lambda: not older.stats().active)
            await until(lambda: len({id for id in new if "b" in id}) == 58)
            await until(lambda: len({id for id in [*old, *new] if "a" in id}) == 60)
            assert not any("b" in id for id in old)
            await until(lambda: n_unacknowledged_is_none(admin, stream))


@pytest.mark.parametrize("is_packed", [True, False])
async def test_close_when_the_packs_have_unwanted_events_acknowledges_what_was_handled(
    conn: eda.Conn, stream: str, admin: Admin, is_packed: bool
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=is_packed))
    for n in range(20):
        mixed = [*some(2, "a", f"{n}a"), *some(2, "b", f"{n}b")]
        await publish_pack(admin.js, stream, mixed, subject=f"{stream}.{'%pack' if is_packed else 'a'}._")
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.id), types=["a"], **TEAM) as subscription:
        await until(lambda: subscription.stats().handled == 40)
    assert await n_unacknowledged(admin, stream) == (0, 20)
    assert len(seen) == 40


# --- pauses, circuit, closing ----------------------------------------------------------------------------------------


async def test_pause_keeps_the_rest_of_a_pack_and_its_lease(
    conn: eda.Conn, packed: str, admin: Admin, short_lease: float
) -> None:
    await fill(admin, packed, 1, 6)
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        seen.append(event.index)
        if event.index == 2:
            subscription.pause()

    async with conn.subscribe(packed, handle, **TEAM) as subscription:
        await until(lambda: len(seen) == 3)
        await asyncio.sleep(2 * short_lease)
        assert (seen, subscription.stats().buffered) == ([0, 1, 2], 3)
        subscription.resume()
        await until(lambda: subscription.stats().handled == 6)
        assert subscription.stats().redelivered == 0
    assert seen == list(range(6))
    assert await n_unacknowledged(admin, packed) == (0, 1)


async def test_circuit_when_it_opens_in_a_pack_goes_on_there_when_it_closes(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    logged.allow("handlers failed for")
    await fill(admin, packed, 3, 10)
    is_down = True
    calls: Counter[tuple[int, int]] = Counter()

    async def handle(event: eda.Event) -> None:
        if is_down:
            raise ConnectionError("down")
        calls[event.sequence, event.index] += 1

    async with conn.subscribe(packed, handle, retry=SHORT, circuit=3, **TEAM) as subscription:
        await until(lambda: subscription.stats().circuit_open)
        await asyncio.sleep(0.2)
        is_down = False
        await until(lambda: subscription.stats().handled == 30)
        assert not subscription.stats().circuit_open
    assert set(calls.values()) == {1}
    assert len(calls) == 30
    assert await n_unacknowledged(admin, packed) == (0, 3)


async def test_close_when_an_event_has_failed_retries_it_first(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(admin, packed, 3, 4)
    calls: list[tuple[int, int, int]] = []
    begun = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        calls.append((event.sequence, event.index, event.attempt))
        if event.index == 1 and event.attempt == 1:
            raise ValueError("once")
        if event.index == 2:
            begun.set()
            await asyncio.sleep(0.05)

    subscription = await conn.subscribe(packed, handle, retry=eda.Retry(initial_s=0.3), **TEAM)
    await begun.wait()
    await subscription.close()
    assert calls == [(1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1), (1, 1, 2)]
    # The server goes on counting a pack that was given back as unacknowledged.
    assert (await n_unacknowledged(admin, packed))[1] == 1
    seen: list[tuple[int, int]] = []
    async with conn.subscribe(packed, lambda event: seen.append((event.sequence, event.index)), **TEAM):
        await until(lambda: len(seen) == 8)
    assert seen == [(seq, index) for seq in (2, 3) for index in range(4)]


async def test_close_when_an_event_goes_on_failing_gives_the_whole_pack_back(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(admin, packed, 1, 4)
    n_failed = 0

    async def handle(event: eda.Event) -> None:
        nonlocal n_failed
        if event.index == 1:
            n_failed += 1
            raise ValueError("never")

    subscription = await conn.subscribe(packed, handle, retry=SHORT, timeout_s=0.5, circuit=None, **TEAM)
    await until(lambda: n_failed)
    begin = time.monotonic()
    await subscription.close()
    assert 0.4 < time.monotonic() - begin < 3
    assert n_failed > 3
    assert logged.find("1 packs were not handled to their end")
    seen: list[tuple[int, int]] = []
    async with conn.subscribe(packed, lambda event: seen.append((event.index, event.attempt)), **TEAM):
        await until(lambda: len(seen) == 4)
    assert seen == [(index, 1) for index in range(4)]
    assert await n_unacknowledged(admin, packed) == (0, 1)


async def test_close_when_a_retry_is_due_later_has_the_next_member_continue_to_count(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(admin, packed, 1, 3)
    calls: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        calls.append((event.index, event.attempt))
        if event.index == 1 and event.attempt == 1:
            raise ValueError("once")

    later = eda.Retry(initial_s=20.0, max_attempts=3)
    subscription = await conn.subscribe(packed, handle, retry=later, circuit=None, timeout_s=5.0, **TEAM)
    await until(lambda: subscription.stats().handled == 2)
    begin = time.monotonic()
    await subscription.close()
    assert time.monotonic() - begin < 3, "the retry is not waited for"
    async with conn.subscribe(packed, handle, retry=later, **TEAM) as subscription:
        await until(lambda: subscription.stats().handled == 3)
    assert calls == [(0, 1), (1, 1), (2, 1), (0, 1), (1, 2), (2, 1)]
    assert await n_unacknowledged(admin, packed) == (0, 1)
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{packed}.>"})
    assert not kept["state"].get("subjects"), "no record is left"


async def test_iterator_when_left_in_a_pack_has_it_delivered_again_whole(
    conn: eda.Conn, packed: str, admin: Admin, logged: Logged
) -> None:
    await fill(admin, packed, 2, 4)
    places: list[tuple[int, int]] = []
    begin = time.monotonic()
    async with conn.events(packed, **TEAM) as events:
        async for event in events:
            places.append((event.sequence, event.index))
            if len(places) == 6:
                break
    assert time.monotonic() - begin < 5, "the rest of the pack is not waited for"
    assert not logged.find("cancelled")
    async with conn.events(packed, **TEAM) as events:
        async for event in events:
            places.append((event.sequence, event.index))
            if len(places) == 10:
                break
    assert places == [*((1, n) for n in range(4)), (2, 0), (2, 1), *((2, n) for n in range(4))]


# --- credit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 16, 128, 1000])
async def test_held_events_when_packs_have_any_size_stay_near_prefetch(
    conn: eda.Conn, packed: str, admin: Admin, n: int
) -> None:
    await fill(admin, packed, 3000 // n, n)
    most = 0
    total = n * (3000 // n)

    async def handle(event: eda.Event) -> None:
        nonlocal most
        stats = subscription.stats()
        most = max(most, stats.buffered + stats.in_flight)

    async with conn.subscribe(packed, handle, prefetch=256, **TEAM) as subscription:
        await until(lambda: subscription.stats().handled == total)
    assert most <= 256 + n


async def test_pack_when_larger_than_prefetch_bytes_is_admitted_alone(
    conn: eda.Conn, packed: str, admin: Admin
) -> None:
    events = [eda.Event(type="t", data=eda.Bytes(bytes(1000))) for _ in range(50)]
    for number in range(4):
        await publish_pack(admin.js, packed, [event.replace(id=f"{number}.{n}") for n, event in enumerate(events)])
    async with conn.subscribe(packed, lambda event: None, prefetch_bytes=10_000, **TEAM) as subscription:
        await until(lambda: subscription.stats().handled == 200)
        assert subscription._dispatcher.ledger.n_bytes == 0
