"""docs/wire.md, the rules for other writers: what becomes of their ids, headers, subjects and schedules."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import Admin, Logged, until

KINDS: dict[str, dict[str, Any]] = {
    "shared": {"name": "me", "durable": True, "backfill": True},
    "ordered": {"name": "me", "durable": True, "backfill": True, "serial": True},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


@every_kind
@pytest.mark.old_server
async def test_message_when_another_program_wrote_it_shows_its_headers_id_and_subject(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await conn.streams.create(stream)
    envelope = encode_event(eda.Event(type="paid", aggregate="7"))
    headers = {"Nats-Msg-Id": "go-1", "traceparent": "00-ab"}
    await admin.js.publish(f"{stream}.7.paid", envelope, headers=headers)
    await admin.js.publish(stream, envelope)
    receipt = await conn.publish(stream, eda.Event(type="paid", aggregate="7"))
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, **options):
        await until(lambda: len(seen) == 3)
    assert [event.id for event in seen] == ["go-1", "", str(receipt)]
    assert [dict(event.headers) for event in seen] == [{"traceparent": "00-ab"}, {}, {}]
    assert [event.subject for event in seen] == [f"{stream}.7.paid", stream, f"{stream}.paid.7"]


@every_kind
async def test_event_when_its_id_was_in_the_headers_keeps_it_in_another_stream(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await conn.streams.create(stream)
    await admin.js.publish(stream, encode_event(eda.Event(type="t")), headers={"Nats-Msg-Id": "go-1", "a": "b"})
    seen: list[eda.Event] = []

    async def forward(event: eda.Event) -> None:
        await conn.publish(f"{stream}-to", event)

    async with conn.subscribe(stream, forward, **options), conn.subscribe(f"{stream}-to", seen.append, backfill=True):
        await until(lambda: seen)
    assert (seen[0].id, seen[0].type, dict(seen[0].headers)) == ("go-1", "t", {})


@every_kind
async def test_dead_letter_when_only_its_headers_had_an_id_keeps_it(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any], logged: Logged
) -> None:
    logged.expect("handler rejected event", "is not an event")
    await conn.streams.create(stream)
    ids = {"go-1": encode_event(eda.Event(type="t")), "go-2": b"\xff", "go-3": encode_event(eda.Event(id="own"))}
    for message_id, payload in ids.items():
        await admin.js.publish(stream, payload, headers={"Nats-Msg-Id": message_id})

    def handle(event: eda.Event) -> None:
        raise eda.Reject("no")

    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 3)
    letters = [(await admin.js.get_msg(f"{stream}-dead", seq=n)).headers or {} for n in (1, 2, 3)]
    kept = {letter["Eda-Dead-Sequence"]: letter.get("Eda-Dead-Id") for letter in letters}
    assert kept == {"1": "go-1", "2": "go-2", "3": None}
    seen: list[eda.Event] = []
    async with conn.subscribe(f"{stream}-dead", seen.append, backfill=True):
        await until(lambda: len(seen) == 2)
    assert {event.id for event in seen} == {"go-1", "own"}


@every_kind
async def test_dead_letter_when_the_id_of_its_headers_has_to_be_escaped_has_it_back(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any], logged: Logged
) -> None:
    logged.expect("handler rejected event")
    await conn.streams.create(stream)
    ids = ["50%", "a%41b", "%" * 128]
    for message_id in ids:
        await admin.js.publish(stream, encode_event(eda.Event(type="t")), headers={"Nats-Msg-Id": message_id})

    def handle(event: eda.Event) -> None:
        raise eda.Reject("no")

    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().dead_lettered == len(ids))
    seen: list[eda.Event] = []
    async with conn.subscribe(f"{stream}-dead", seen.append, backfill=True):
        await until(lambda: len(seen) == len(ids))
    assert [event.id for event in seen] == ids


@every_kind
async def test_subject_when_it_has_another_depth_is_read_and_filtered_by_the_envelope_only_on_the_stream_itself(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await conn.streams.create(stream)
    envelope = encode_event(eda.Event(type="paid", id="i"))
    for subject in (f"{stream}.deep.er.and.deeper", stream, f"{stream}.paid", f"{stream}.paid._"):
        await admin.js.publish(subject, envelope)
    everything: list[int] = []
    filtered: list[int] = []
    async with (
        conn.subscribe(stream, lambda event: everything.append(event.sequence), **options),
        conn.subscribe(
            stream, lambda event: filtered.append(event.sequence), types=["paid"], **options | {"name": "filtered"}
        ),
    ):
        await until(lambda: len(everything) == 4 and 4 in filtered)
    assert sorted(everything) == [1, 2, 3, 4]
    assert sorted(filtered) == [2, 4]


@every_kind
async def test_message_when_it_is_a_schedule_is_no_event_and_what_it_publishes_is(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any], logged: Logged
) -> None:
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "allow_msg_schedules": True}
    await admin.api(f"STREAM.CREATE.{stream}", config | {"allow_direct": True, "allow_msg_ttl": True})
    at = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    schedule = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"{stream}.due._", "kept": "yes"}
    await admin.js.publish(f"{stream}.plans.1", encode_event(eda.Event(type="due", id="i1")), headers=schedule)
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, **options):
        await until(lambda: seen)
        await asyncio.sleep(0.05)
    assert [(event.id, event.subject) for event in seen] == [("i1", f"{stream}.due._")]
    assert seen[0].sequence == 2
    assert not any(name.startswith("Nats-") for name in seen[0].headers)


@pytest.mark.parametrize("dedup", [True, False])
async def test_event_when_it_is_empty_has_an_id_however_it_is_published(
    conn: eda.Conn, stream: str, dedup: bool
) -> None:
    ids = [str(await conn.publish(stream)), str(await conn.publish(stream, eda.Event()))]
    for mode in ("window", "fast"):
        async with conn.publisher(stream, mode=mode, dedup=dedup) as publisher:
            ids.append(await publisher.send(eda.Event()))
            ids += await publisher.send_many([eda.Event(), eda.Event()])
    ids += map(str, await conn.publish_batch(stream, [eda.Event(), eda.Event()]))
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, backfill=True):
        await until(lambda: len(seen) == len(ids))
    assert [event.id for event in seen] == ids
    assert all(ids)
    assert all(not event.headers for event in seen)


async def test_packs_when_another_program_writes_them_are_refused_with_the_reason(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"stream {stream}, sequence 1 is not an event")
    await conn.streams.create(stream)
    await admin.js.publish(stream, b"\x0a\x02i1" + b"\x78\x01")
    await conn.streams.create(f"{stream}-dead")
    async with conn.subscribe(stream, print, name="me", durable=True, backfill=True):
        dead = await until(lambda: _dead_letter(admin, f"{stream}-dead"))
    assert "marks a pack of events" in dead["Eda-Dead-Error"]


async def _dead_letter(admin: Admin, stream: str) -> dict[str, str]:
    info = await admin.api(f"STREAM.INFO.{stream}")
    if not info["state"]["messages"]:
        return {}
    message = await admin.js.get_msg(stream, seq=1)
    return dict(message.headers or {})
