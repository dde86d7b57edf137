"""Events whose payload can't be decoded: dead letters at once, replayed when the class was mended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda.handling.dead_lettering
from eda._codec import encode_event
from eda.dead_letters.store import DeadLetters
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.dead_letters.letters import letters_of, stored

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "exclusive": {"exclusive": True, **KEPT},
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", **KEPT},
    "private": {"backfill": True},
}
BATCHED = {kind: KINDS[kind] | {"batch": 100} for kind in ("shared", "exclusive", "private")}
each_kind = pytest.mark.parametrize("kind", KINDS)
two_kinds = pytest.mark.parametrize("kind", ["shared", "serial"])
GOOD, BAD = {"amount": 30}, {"amount": "thirty"}
IN_A_MINUTE = eda.Retry(initial_s=60, max_s=60)  # a retry would show: the test would time out


@dataclass
class Paid:
    amount: int


@eda.payload("misfit-shipped")
@dataclass
class Shipped:
    parcel: str


@dataclass
class Mended:
    amount: int | str


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


async def publish(conn: eda.Conn, stream: str, *values: Any) -> None:
    for number, value in enumerate(values):
        event = eda.Event(id=f"e{number + 1}", type="paid", schema="2", aggregate="a", data=eda.JSON(value))
        await conn.publish(stream, event)


async def assert_kept(admin: Admin, stream: str, kind: str, seq: int) -> None:
    """Check that the position on the server is `seq`, and that no event is in flight."""
    if kind == "shared":
        info = await admin.consumer(stream, "me")
        assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (seq, 0)
    elif kind != "private":
        value = await Keys(admin, stream, "me").get()
        assert value is not None
        assert value["seq"] == seq


@pytest.mark.old_server
@each_kind
async def test_event_when_its_payload_can_not_be_decoded_is_a_dead_letter_at_once(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("the payload of event e2 of type 'paid', schema '2' .* can't be decoded; the event is to be stored")
    await publish(conn, stream, GOOD, BAD, GOOD)
    seen: list[int] = []
    attempts: list[int] = []

    async def handle(event: eda.Event) -> None:
        attempts.append(event.attempt)
        event.data.decode(into=Paid)
        seen.append(event.sequence)

    async with conn.subscribe(stream, handle, retry=IN_A_MINUTE, circuit=1, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1 and subscription.stats().handled == 2)
        stats = subscription.stats()
    assert (seen, attempts) == ([1, 3], [1, 1, 1])
    assert (stats.undecodable, stats.failed, stats.passed_over, stats.circuit_open) == (1, 0, 0, False)
    original = (await stored(admin, stream))[1]
    (letter,) = await stored(admin, dead)
    assert letter.payload == original.payload
    assert letter.subject == f"{dead}.paid.a"
    assert letter.headers["Eda-Dead-Reason"] == "undecodable"
    assert letter.headers["Eda-Dead-Error"].startswith(
        "cannot decode json of event e2: ValidationError: Expected `int`"
    )
    assert letter.headers["Eda-Dead-Attempts"] == "1"
    assert "Eda-Dead-Id" not in letter.headers
    await assert_kept(admin, stream, kind, 3)


@pytest.mark.parametrize("kind", BATCHED)
async def test_batch_when_payloads_can_not_be_decoded_handles_the_others_in_their_first_attempt(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await publish(conn, stream, *[BAD if number in (4, 9) else GOOD for number in range(1, 21)])
    attempts: set[int] = set()
    seen: list[int] = []

    async def handle(events: list[eda.Event]) -> None:
        attempts.update(event.attempt for event in events)
        for event in events:
            event.data.decode(into=Paid)
        seen.extend(event.sequence for event in events)

    once = eda.Retry(initial_s=60, max_s=60, max_attempts=1)
    async with conn.subscribe(stream, handle, retry=once, **BATCHED[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 2 and subscription.stats().handled == 18)
        assert (subscription.stats().undecodable, subscription.stats().failed) == (2, 0)
    assert seen == [number for number in range(1, 21) if number not in (4, 9)]
    assert attempts == {1}
    letters = await stored(admin, dead)
    assert [(each.headers["Eda-Dead-Reason"], each.headers["Eda-Dead-Sequence"]) for each in letters] == [
        ("undecodable", "4"),
        ("undecodable", "9"),
    ]
    await assert_kept(admin, stream, kind, 20)


@pytest.mark.parametrize("options", (KINDS | {f"{kind} batch": BATCHED[kind] for kind in BATCHED}).values())
async def test_router_when_payloads_do_not_fit_their_class_or_have_none_handles_the_others(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, options: dict[str, Any], logged: Logged
) -> None:
    logged.expect("can't be decoded")
    for number in range(1, 10):
        data = eda.JSON({"parcel": number if number == 3 else str(number)})
        event_type = "misfit-unheard-of" if number == 7 else "misfit-shipped"
        await conn.publish(stream, eda.Event(type=event_type, aggregate="a", data=data))
    router = eda.Router(unknown="raise")
    seen: list[str] = []

    @router.on(Shipped)
    async def shipped(payload: Shipped, event: eda.Event) -> None:
        assert event.attempt == 1
        seen.append(payload.parcel)

    once = eda.Retry(initial_s=60, max_s=60, max_attempts=1)
    async with conn.subscribe(stream, router, retry=once, circuit=1, **options) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 2 and subscription.stats().handled == 7)
        assert (subscription.stats().undecodable, subscription.stats().failed) == (2, 0)
    assert seen == list("1245689")
    letters = await stored(admin, dead)
    assert [(each.headers["Eda-Dead-Reason"], each.headers["Eda-Dead-Sequence"]) for each in letters] == [
        ("undecodable", "3"),
        ("undecodable", "7"),
    ]
    assert "Shipped" in letters[0].headers["Eda-Dead-Error"]
    assert "misfit-unheard-of" in letters[1].headers["Eda-Dead-Error"]


@pytest.mark.parametrize("is_group", [False, True], ids=["error", "group"])
@pytest.mark.parametrize("kind", BATCHED)
async def test_router_when_a_list_handler_can_not_decode_an_event_handles_the_others_in_their_first_attempt(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, is_group: bool, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    for number in range(1, 10):
        await conn.publish(stream, eda.Event(data=Shipped(str(number)), aggregate="a"))
    await conn.publish(stream, eda.Event(type="misfit-other", aggregate="a"))
    router = eda.Router(unknown="raw")
    seen: list[str] = []
    others: list[eda.Event] = []
    router.otherwise(others.append)

    @router.on
    async def shipped(payloads: list[Shipped], events: list[eda.Event]) -> None:
        errors = []
        for event in events:
            assert event.attempt == 1
            if event.sequence in (3, 7):
                error = eda.errors.DecodeError("json", "no parcel", event_id=event.id)
                if not is_group:
                    raise error
                errors.append(error)
        if errors:
            raise ExceptionGroup("no parcels", errors)
        seen.extend(payload.parcel for payload in payloads)

    once = eda.Retry(initial_s=60, max_s=60, max_attempts=1)
    async with conn.subscribe(stream, router, retry=once, **BATCHED[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 2 and subscription.stats().handled == 8)
        assert (subscription.stats().undecodable, subscription.stats().failed) == (2, 0)
    assert seen == list("1245689")
    assert len(others) == 1
    assert [each.headers["Eda-Dead-Sequence"] for each in await stored(admin, dead)] == ["3", "7"]


@two_kinds
async def test_event_when_its_payload_can_not_be_decoded_and_there_is_no_dead_letter_is_passed_over(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded; the event is skipped, as dead_letter is None")
    await publish(conn, stream, BAD, GOOD)
    handle = lambda event: event.data.decode(into=Paid) and None  # noqa: E731
    async with conn.subscribe(stream, handle, dead_letter=None, retry=IN_A_MINUTE, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 1 and subscription.stats().passed_over == 1)
        assert (subscription.stats().dead_lettered, subscription.stats().undecodable) == (0, 1)
    await assert_kept(admin, stream, kind, 2)
    assert dead not in await admin.stream_names()


async def test_event_when_it_is_given_up_as_undecodable_is_terminated_at_the_server(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    """Whoever watches the server's advisories learns of it."""
    logged.expect("can't be decoded")
    advisories: list[bytes] = []

    async def note(message: Any) -> None:
        advisories.append(message.data)

    await admin.client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.me", cb=note)
    await admin.flush()
    await publish(conn, stream, BAD)
    async with conn.subscribe(stream, lambda event: event.data.decode(into=Paid) and None, **KEPT):
        await until(lambda: advisories)
    assert b'"reason":"undecodable"' in advisories[0]


@two_kinds
async def test_registry_when_it_is_down_leaves_the_event_to_be_retried(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    """An encoding of the user's own may need the network. If it fails, the payload may still be good."""
    logged.expect("handler failed for event .* it is handled again")
    is_down = True

    def decode(data: bytes) -> bytes:
        if is_down:
            raise ConnectionRefusedError("the schema registry is down")
        return data

    eda.register_encoding("registered", bytes, decode)
    await conn.publish(stream, eda.Event(type="t", data=eda.Data("registered", b"x")))
    seen: list[Any] = []
    handle = lambda event: seen.append(event.data.decode())  # noqa: E731
    quick = eda.Retry(initial_s=0.05, factor=1)
    async with conn.subscribe(stream, handle, retry=quick, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().failed >= 2)
        is_down = False
        await until(lambda: seen == [b"x"])
    assert dead not in await admin.stream_names()


@two_kinds
async def test_event_when_another_program_wrote_it_without_an_id_is_a_dead_letter_all_the_same(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await conn.streams.create(stream)
    foreign = encode_event(eda.Event(type="paid", data=eda.JSON(BAD)))
    await admin.js.publish(stream, foreign, headers={"Trace": "7"})
    await admin.js.publish(stream, foreign, headers={"Nats-Msg-Id": "theirs"})
    handle = lambda event: event.data.decode(into=Paid) and None  # noqa: E731
    async with conn.subscribe(stream, handle, retry=IN_A_MINUTE, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 2)
    first, second = await stored(admin, dead)
    assert (first.payload, first.headers["Trace"]) == (foreign, "7")
    assert second.headers["Eda-Dead-Id"] == "theirs"
    seen: list[Any] = []
    mended = lambda event: seen.append(event.data.decode(into=Mended))  # noqa: E731
    async with conn.subscribe(stream, mended, **KINDS[kind]):
        assert await conn.replay_dead(stream, "me") == 2
        await until(lambda: seen == [Mended("thirty")] * 2)


@two_kinds
async def test_dead_letter_when_it_can_not_be_stored_keeps_the_event_and_decodes_it_no_more(
    connect: Connect, stream: str, dead: str, admin: Admin, kind: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect("can't be decoded", "did not store event")
    monkeypatch.setattr(eda.handling.dead_lettering, "STORE_RETRY", eda.Retry(initial_s=0.1, factor=1))
    creator, conn = await connect(), await connect(auto_create=False)
    await publish(creator, stream, BAD, GOOD)
    calls: list[int] = []

    def handle(event: eda.Event) -> None:
        calls.append(event.sequence)
        event.data.decode(into=Paid)

    async with conn.subscribe(stream, handle, **KINDS[kind]) as subscription:
        await until(lambda: len(logged.find("which stays where it is")) >= 2)
        assert calls == ([1] if kind == "serial" else [1, 2])
        await creator.streams.create(dead)
        await until(lambda: subscription.stats().dead_lettered == 1 and subscription.stats().handled == 1)
    assert calls == [1, 2]
    assert len(logged.find("can't be decoded")) == 1
    await assert_kept(admin, stream, kind, 2)


@two_kinds
@pytest.mark.parametrize("way", ["publish", "batch", "publisher"])
async def test_handler_when_it_publishes_what_it_can_not_encode_under_the_id_of_its_event_fails_as_usual(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, way: str, logged: Logged
) -> None:
    logged.expect("handler failed for event .* it is handled again")
    await publish(conn, stream, GOOD)
    quick = eda.Retry(initial_s=0.02, factor=1)
    made = dead  # deleted after the test
    attempts: list[int] = []

    async def handle(event: eda.Event) -> None:
        attempts.append(event.attempt)
        if len(attempts) < 3:
            wrong = event.replace(data=eda.Data("misfit-nobody", 5))
            if way == "publish":
                await conn.publish(made, wrong)
            elif way == "batch":
                await conn.publish_batch(made, [wrong])
            else:
                async with conn.publisher(made) as publisher:
                    await publisher.send_many([wrong])

    async with conn.subscribe(stream, handle, retry=quick, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        assert (subscription.stats().undecodable, subscription.stats().failed) == (0, 2)


@pytest.mark.parametrize("kind", BATCHED)
async def test_batch_when_one_of_two_events_with_the_same_id_can_not_be_decoded_handles_the_other(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    """Another program may have stored them, or this one after the stream's duplicate window."""
    logged.expect("can't be decoded")
    await conn.streams.create(stream)
    for number, value in enumerate((GOOD, BAD, GOOD, GOOD)):
        event = eda.Event(id="same" if number < 3 else "e4", type="paid", data=eda.JSON(value))
        await admin.js.publish(f"{stream}.paid", encode_event(event))
    seen: list[int] = []

    async def handle(events: list[eda.Event]) -> None:
        for event in events:
            event.data.decode(into=Paid)
        seen.extend(event.sequence for event in events)

    async with conn.subscribe(stream, handle, retry=IN_A_MINUTE, **BATCHED[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1 and subscription.stats().handled == 3)
        assert (subscription.stats().undecodable, subscription.stats().failed) == (1, 0)
    assert seen == [1, 3, 4]
    (letter,) = await stored(admin, dead)
    assert letter.headers["Eda-Dead-Sequence"] == "2"
    await assert_kept(admin, stream, kind, 4)


# --- replayed --------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "private"])  # it has no name to replay for
async def test_replay_when_the_class_was_mended_brings_the_event_and_leaves_what_is_no_event(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded", "is not an event")
    await publish(conn, stream, BAD, GOOD)
    await admin.js.publish(stream, b"\xff no envelope")
    await admin.js.publish(stream, b"")
    async with conn.subscribe(stream, lambda event: event.data.decode(into=Paid) and None, **KINDS[kind]) as before:
        await until(lambda: before.stats().dead_lettered == 3)
        assert before.stats().undecodable == 3
        # Too early: the same letter comes back, and each call ends.
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: before.stats().dead_lettered == 4)
    seen: list[tuple[Any, int, str]] = []

    def handle(event: eda.Event) -> None:
        seen.append((event.data.decode(into=Mended), event.attempt, event.schema))

    async with conn.subscribe(stream, handle, **KINDS[kind]) as after:
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: after.stats().handled == 1)
    assert seen == [(Mended("thirty"), 1, "2")]
    left = await stored(admin, dead)
    assert [each.payload for each in left] == [b"\xff no envelope", b""]
    assert not logged.find("stays")


async def test_replay_when_the_payload_of_an_undecodable_event_was_left_out_takes_it_from_its_stream(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await conn.streams.create(dead)
    await admin.api(f"STREAM.UPDATE.{dead}", {"name": dead, "subjects": [dead, f"{dead}.>"], "max_msg_size": 2000})
    await publish(conn, stream, {"amount": "x" * 3000})
    async with conn.subscribe(stream, lambda event: event.data.decode(into=Paid) and None, **KEPT) as before:
        await until(lambda: before.stats().dead_lettered == 1)
    seen: list[Any] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.data.decode(into=Mended)), **KEPT):
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: seen == [Mended("x" * 3000)])


async def test_replay_when_a_letter_says_undecodable_and_is_no_event_leaves_it_silently(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    await conn.publish(stream)
    for number, payload in enumerate((b"", b"\xff", encode_event(eda.Event(data=eda.JSON(1))))):
        letter: dict[str, Any] = {"event_type": "", "aggregate": "", "reason": "undecodable", "error": "no"}
        letter |= {"stream": stream, "sequence": number + 1, "subscription": "me", "attempts": 1}
        await letters_of(conn).store(dead, payload=payload, **letter)
    assert await conn.replay_dead(stream, "me") == 0
    assert len(await stored(admin, dead)) == 3
    assert not logged.find("", logging.WARNING)


# --- without a handler -----------------------------------------------------------------------------------------------


@each_kind
async def test_events_when_left_because_the_payload_in_hand_can_not_be_decoded_store_a_dead_letter(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await publish(conn, stream, GOOD, BAD, GOOD)
    seen: list[int] = []
    for _ in range(2):
        with suppress(eda.DecodeError):
            async with asyncio.timeout(10), conn.events(stream, **KINDS[kind]) as events:
                async for event in events:
                    event.data.decode(into=Paid)
                    seen.append(event.sequence)
                    if event.sequence == 3:
                        break
        if kind == "private":
            assert seen == [1]
            break  # it keeps no position, so it would begin with the first event again
    else:
        assert sorted(seen) == [1, 3]
    assert events.subscription.stats().dead_lettered == (1 if kind == "private" else 0)
    (letter,) = await stored(admin, dead)
    assert (letter.headers["Eda-Dead-Reason"], letter.headers["Eda-Dead-Sequence"]) == ("undecodable", "2")
    await assert_kept(admin, stream, kind, 3)


async def test_events_when_left_for_a_payload_keep_the_traceback_of_the_program(
    conn: eda.Conn, stream: str, dead: str, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await publish(conn, stream, BAD)
    with pytest.raises(eda.DecodeError) as caught:
        async with conn.events(stream, **KEPT) as events:
            async for event in events:
                event.data.decode(into=Paid)
    assert caught.traceback[0].name.startswith("test_events")
    assert all("events_iterator" not in str(entry.path) for entry in caught.traceback)


@two_kinds
@pytest.mark.parametrize("wrong", ["another event", "wrapped", "acknowledged"])
async def test_events_when_left_by_another_error_give_the_event_back(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, wrong: str
) -> None:
    await publish(conn, stream, BAD, GOOD)
    with suppress(eda.DecodeError, RuntimeError):
        async with conn.events(stream, **KINDS[kind]) as events:
            async for event in events:
                try:
                    event.data.decode(into=Paid)
                except eda.DecodeError as error:
                    if wrong == "wrapped":
                        raise RuntimeError("could not read it") from error
                    if wrong == "another event":
                        raise eda.DecodeError("json", "no", event_id="e9") from error
                    problem = error
                else:
                    raise problem  # the event that it is about was acknowledged
    wanted = [2] if wrong == "acknowledged" else [1, 2]
    async with asyncio.timeout(10), conn.events(stream, **KINDS[kind]) as events:
        assert sorted([(await anext(events)).sequence for _ in wanted]) == wanted
    assert dead not in await admin.stream_names()


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
async def test_events_when_in_batches_and_left_for_a_payload_give_the_others_back(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    await publish(conn, stream, GOOD, BAD, GOOD)
    with suppress(eda.DecodeError):
        async with conn.events(stream, **BATCHED[kind]) as events:
            async for batch in events:
                assert len(batch) == 3
                for event in batch:
                    event.data.decode(into=Paid)
    assert [each.headers["Eda-Dead-Sequence"] for each in await stored(admin, dead)] == ["2"]
    # An ordered subscription keeps one position, which can't move past the first event of the batch.
    wanted = [1, 3] if kind == "shared" else [1, 2, 3]
    async with asyncio.timeout(10), conn.events(stream, **KINDS[kind]) as events:
        assert sorted([(await anext(events)).sequence for _ in wanted]) == wanted


@two_kinds
async def test_events_when_left_for_a_payload_and_the_letter_can_not_be_stored_give_the_event_back(
    connect: Connect, stream: str, dead: str, kind: str, logged: Logged
) -> None:
    logged.expect("can't be decoded", "did not store event")
    creator, conn = await connect(), await connect(auto_create=False)
    await publish(creator, stream, BAD)
    with suppress(eda.DecodeError):
        async with asyncio.timeout(10), conn.events(stream, **KINDS[kind]) as events:
            async for event in events:
                event.data.decode(into=Paid)
    async with conn.events(stream, **KINDS[kind]) as events:
        assert (await anext(events)).sequence == 1


@two_kinds
@pytest.mark.parametrize("timeout_s", [10.0, 0.2])
async def test_events_when_left_for_a_payload_wait_for_the_letter_within_their_time(
    conn: eda.Conn,
    stream: str,
    dead: str,
    kind: str,
    timeout_s: float,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged.expect("can't be decoded")
    logged.allow("cancelled 0.2.* s after close")
    original = DeadLetters.store

    async def store(letters: DeadLetters, to: str, **letter: Any) -> None:
        await asyncio.sleep(1)
        await original(letters, to, **letter)

    monkeypatch.setattr(DeadLetters, "store", store)
    await publish(conn, stream, BAD, GOOD)
    began = asyncio.get_running_loop().time()
    with suppress(eda.DecodeError):
        async with conn.events(stream, timeout_s=timeout_s, **KINDS[kind]) as events:
            async for event in events:
                event.data.decode(into=Paid)
    is_stored = timeout_s > 1
    assert (asyncio.get_running_loop().time() - began > 1) == is_stored
    assert events.subscription.stats().dead_lettered == is_stored
    wanted = [2] if is_stored else [1, 2]
    async with asyncio.timeout(10), conn.events(stream, **KINDS[kind]) as events:
        assert sorted([(await anext(events)).sequence for _ in wanted]) == wanted
