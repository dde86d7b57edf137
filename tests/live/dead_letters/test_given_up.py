"""What becomes of events that can't be handled: stored as dead letters, once and for sure, and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda.handling.dead_lettering
from eda._codec import encode_event
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.dead_letters.letters import stored

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "exclusive": {"exclusive": True, **KEPT},
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", **KEPT},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
two_kinds = pytest.mark.parametrize("kind", ["shared", "serial"])
TWICE = eda.Retry(initial_s=0.01, factor=1, max_attempts=2)


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


async def assert_kept(admin: Admin, stream: str, kind: str, seq: int) -> None:
    """Check that the position on the server is `seq`, and that no event is in flight."""
    if kind == "shared":
        info = await admin.consumer(stream, "me")
        assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (seq, 0)
    else:
        value = await Keys(admin, stream, "me").get()
        assert value is not None
        assert value["seq"] == seq


# --- dead ------------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@each_kind
async def test_event_when_it_has_had_its_attempts_is_stored_as_a_dead_letter(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    sent = eda.Event(id="the-id", type="a b", aggregate="x", data=eda.JSON({"n": 1}), meta={"k": "v"}, cause="c")
    for event in (eda.Event(), sent, eda.Event()):
        await conn.publish(stream, event)
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        if event.id == "the-id":
            raise ValueError("äh\r\nInjected: yes")
        seen.append(event.sequence)

    async with conn.subscribe(stream, handle, retry=TWICE, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
        await until(lambda: len(seen) == 2)
        stats = subscription.stats()
    assert (stats.handled, stats.failed, stats.in_flight, stats.buffered) == (2, 2, 0, 0)
    (original,) = [each for each in await stored(admin, stream) if each.sequence == 2]
    (letter,) = await stored(admin, dead)
    assert letter.subject == original.subject.replace(stream, dead)
    assert letter.payload == original.payload
    wanted = {
        "Nats-Msg-Id": "dead:me:2",
        "Eda-Dead-Reason": "attempts",
        "Eda-Dead-Error": "ValueError: %C3%A4h%0D%0AInjected: yes",
        "Eda-Dead-Stream": stream,
        "Eda-Dead-Sequence": "2",
        "Eda-Dead-Subscription": "me",
        "Eda-Dead-Attempts": "2",
    }
    assert {name: letter.headers[name] for name in wanted} == wanted
    assert set(letter.headers) == {*wanted, "Eda-Dead-Time"}
    await assert_kept(admin, stream, kind, 3)
    kept: list[eda.Event] = []
    async with conn.subscribe(dead, kept.append, backfill=True):
        await until(lambda: kept)
    assert (kept[0].id, kept[0].type, kept[0].data.decode()) == ("the-id", "a b", {"n": 1})


@two_kinds
async def test_event_when_rejected_is_dead_at_once(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected")
    calls: list[int] = []

    async def handle(event: eda.Event) -> None:
        calls.append(event.attempt)
        raise eda.Reject("not for us")

    await conn.publish(stream)
    async with conn.subscribe(stream, handle, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
    assert calls == [1]
    (letter,) = await stored(admin, dead)
    assert (letter.headers["Eda-Dead-Reason"], letter.headers["Eda-Dead-Error"]) == ("rejected", "not for us")
    await assert_kept(admin, stream, kind, 1)


@pytest.mark.old_server
@each_kind
async def test_message_when_it_is_no_envelope_is_stored_with_its_raw_bytes(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("is not an event")
    raw = [b"\xff\xff no envelope", b"", b"\x0a\xff"]
    await conn.publish(stream)
    for payload in raw:
        await admin.js.publish(stream, payload)
    await admin.js.publish(f"{stream}.a.b", raw[0])
    await conn.publish(stream)
    seen: list[int] = []
    handler = lambda event: seen.append(event.sequence)  # noqa: E731
    async with conn.subscribe(stream, handler, **KINDS[kind]) as subscription:
        await until(lambda: len(seen) >= 2)
        await until(lambda: subscription.stats().dead_lettered == 4)
        stats = subscription.stats()
    assert (stats.undecodable, stats.handled) == (4, 2)
    letters = await stored(admin, dead)
    assert [letter.payload for letter in letters] == [*raw, raw[0]]
    assert {letter.headers["Eda-Dead-Reason"] for letter in letters} == {"undecodable"}
    assert [letter.headers["Eda-Dead-Sequence"] for letter in letters] == ["2", "3", "4", "5"]
    await assert_kept(admin, stream, kind, 6)


async def test_event_when_dead_for_two_subscriptions_is_stored_for_both(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("rejected")

    async def handle(event: eda.Event) -> None:
        raise eda.Reject("no")

    await conn.publish(stream)
    for name, options in (("one", {}), ("two", {"serial": True})):
        async with conn.subscribe(stream, handle, **(KEPT | {"name": name}), **options) as subscription:
            await until(lambda subscription=subscription: subscription.stats().dead_lettered == 1)
    letters = await stored(admin, dead)
    assert [letter.headers["Eda-Dead-Subscription"] for letter in letters] == ["one", "two"]


@two_kinds
async def test_dead_letter_when_none_passes_the_event_over_and_when_given_goes_there(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected")

    async def handle(event: eda.Event) -> None:
        if event.sequence == 1:
            raise eda.Reject("no")

    await conn.publish(stream)
    await conn.publish(stream)
    async with conn.subscribe(stream, handle, dead_letter=None, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        stats = subscription.stats()
        assert (stats.dead_lettered, stats.passed_over) == (0, 1)
    await assert_kept(admin, stream, kind, 2)
    assert dead not in await admin.stream_names()
    options = KINDS[kind] | {"reset": True, "dead_letter": "{stream}-other"}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
    assert (await conn.streams.info(f"{stream}-other")).events == 1
    await admin.js.delete_stream(f"{stream}-other")


@two_kinds
async def test_dead_letter_when_the_stream_is_of_dead_letters_is_none_by_default(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected")

    async def handle(event: eda.Event) -> None:
        raise eda.Reject("no")

    await conn.publish(dead)
    async with conn.subscribe(dead, handle, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().passed_over == 1)
    assert f"{dead}-dead" not in await admin.stream_names()


@each_kind
async def test_dead_letter_when_its_stream_is_missing_keeps_the_event_until_it_is_there(
    connect: Connect,
    stream: str,
    dead: str,
    admin: Admin,
    kind: str,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
    short_lease: float,
) -> None:
    logged.expect("rejected", "did not store (an )?event")
    monkeypatch.setattr(eda.handling.dead_lettering, "STORE_RETRY", eda.Retry(initial_s=0.1, factor=1))
    creator, conn = await connect(), await connect(auto_create=False)
    for _ in range(3):
        await creator.publish(stream, eda.Event(aggregate="a"))
    calls: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        calls.append((event.sequence, event.attempt))
        if event.sequence == 2:
            raise eda.Reject("no")

    async with conn.subscribe(stream, handle, **KINDS[kind]) as subscription:
        await until(lambda: len(logged.find("which stays where it is")) >= 3)
        await asyncio.sleep(1.5 * short_lease if kind == "shared" else 0)
        stats = subscription.stats()
        n_held = 2 if kind in ("serial", "strict", "key") else 1
        assert (stats.dead_lettered, stats.buffered + stats.in_flight) == (0, n_held)
        await creator.streams.create(dead)
        await until(lambda: subscription.stats().dead_lettered == 1)
        await until(lambda: subscription.stats().handled == 2)
        assert subscription.stats().redelivered == 0
    # Its handler was not asked again.
    assert calls == [(1, 1), (2, 1), (3, 1)]
    (letter,) = await stored(admin, dead)
    assert letter.headers["Eda-Dead-Attempts"] == "1"
    await assert_kept(admin, stream, kind, 3)


@two_kinds
async def test_dead_letter_when_its_stream_is_missing_at_close_leaves_the_event(
    connect: Connect, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected", "did not store (an )?event")
    creator, conn = await connect(), await connect(auto_create=False)
    for _ in range(2):
        await creator.publish(stream)

    async def handle(event: eda.Event) -> None:
        if event.sequence == 1:
            raise eda.Reject("no")

    async with conn.subscribe(stream, handle, **KINDS[kind]):
        await until(lambda: logged.find("which stays where it is"))
    async with creator.subscribe(stream, handle, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
        if kind == "serial":
            await until(lambda: subscription.stats().handled == 1)
    assert len(await stored(admin, dead)) == 1
    await assert_kept(admin, stream, kind, 2)


# --- replayed --------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@each_kind
async def test_replay_when_called_gives_the_letters_to_their_subscription_alone(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected")
    good = False
    mine: list[tuple[str, int]] = []
    others: list[int] = []

    async def handle(event: eda.Event) -> None:
        if not good and int(event.type) % 2:
            raise eda.Reject("no")
        mine.append((event.type, event.attempt))

    for n in range(10):
        await conn.publish(stream, eda.Event(type=str(n), aggregate="a", cause="c"))
    async with (
        conn.subscribe(stream, handle, **KINDS[kind]) as subscription,
        conn.subscribe(stream, lambda event: others.append(event.sequence), backfill=True) as private,
        conn.subscribe(stream, lambda event: None, name="other", durable=True, backfill=True) as shared,
        conn.subscribe(stream, lambda event: None, name="serial", durable=True, backfill=True, serial=True) as serial,
    ):
        await until(lambda: subscription.stats().dead_lettered == 5)
        good = True
        assert await conn.replay_dead(stream, "stranger") == 0
        assert await conn.replay_dead(stream, "me", limit=2) == 2
        assert await conn.replay_dead(stream, "me") == 3
        assert await conn.replay_dead(stream, "me") == 0
        await until(lambda: len(mine) == 10)
        for each in (private, shared, serial):
            await until(lambda each=each: each.stats().passed_over == 5)
            assert each.stats().handled == 10
    assert mine[5:] == [(str(n), 1) for n in (1, 3, 5, 7, 9)]
    assert others == list(range(1, 11))
    assert await stored(admin, dead) == []
    assert await admin.last_seq(stream) == 15


async def test_replay_when_the_event_was_published_bare_works_as_well(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("rejected")
    good = False
    seen: list[eda.Event] = []

    async def handle(event: eda.Event) -> None:
        if not good:
            raise eda.Reject("no")
        seen.append(event)

    await conn.streams.create(stream)
    await admin.js.publish(stream, encode_event(eda.Event(type="t", aggregate="x", id="bare", data=eda.String("d"))))
    async with conn.subscribe(stream, handle, serial=True, **KEPT) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
        good = True
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: seen)
    assert (seen[0].type, seen[0].aggregate, seen[0].data.decode()) == ("t", "x", "d")
    assert seen[0].id != "bare"
