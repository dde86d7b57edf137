"""Messages that others wrote, as the dispatcher hands them out: headers, subjects, ids in headers, schedules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda.errors import DecodeError
from support.handling.dispatching import Rig, delivery, settle
from support.packs import pack_of

Make = Callable[..., Rig]

both_kinds = pytest.mark.parametrize("ordered", [False, True], ids=["shared", "ordered"])


def block(*lines: str) -> bytes:
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()


async def handed_out(rig: Rig, subject: bytes, payload: bytes, headers: bytes = b"") -> eda.Event:
    rig.feed(subject, delivery(1)[1], payload, headers)
    await settle()
    return rig.seen[0]


# --- headers ---------------------------------------------------------------------------------------------------------


@both_kinds
async def test_headers_when_another_program_wrote_them_are_read(make: Make, ordered: bool) -> None:
    rig = make(ordered=ordered)
    headers = block("Nats-Msg-Id: i1", "traceparent: 00-ab", "X-Empty:", "x-é:  ü ", "twice: 1", "twice: 2", "no colon")
    event = await handed_out(rig, b"orders.t._", encode_event(eda.Event(id="i1", type="t")), headers)
    assert dict(event.headers) == {"traceparent": "00-ab", "X-Empty": "", "x-é": "ü", "twice": "1"}
    with pytest.raises(TypeError):
        event.headers["a"] = "b"  # type: ignore[index]
    assert event.data.type == "nil"
    assert event.headers == pickle.loads(pickle.dumps(event)).headers == copy.deepcopy(event).headers


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        block("Nats-Msg-Id: i1"),
        block("Nats-Msg-Id: i1", "Nats-Batch-Id: b", "Nats-Batch-Sequence: 1"),
        block("Nats-Msg-Id: i1", "Eda-Replay-For: me"),
        block("Nats-Expected-Stream: orders", "Nats-TTL: 5s"),
    ],
)
@both_kinds
async def test_headers_when_they_are_those_of_eda_and_nats_are_empty(make: Make, ordered: bool, headers: bytes) -> None:
    rig = make(ordered=ordered, name="me")
    event = await handed_out(rig, b"orders.t._", encode_event(eda.Event(id="i1", type="t")), headers)
    assert dict(event.headers) == {}
    assert event.id == "i1"
    with pytest.raises(TypeError):
        event.headers["a"] = "b"  # type: ignore[index]


@pytest.mark.parametrize("name", ["Nats-Msg-Ix: i1", "Nats-Msg-Id:  i", "X: 12345678901"])
async def test_headers_when_they_are_as_long_as_ours_are_told_apart(make: Make, name: str) -> None:
    event = await handed_out(make(), b"orders.t._", encode_event(eda.Event(id="i1", type="t")), block(name))
    assert dict(event.headers) == ({"X": "12345678901"} if name.startswith("X") else {})


@both_kinds
@pytest.mark.parametrize("line", ["X: 1", "Eda-Replay-For: another", "Nats-Schedule: @every 1h"])
async def test_headers_when_two_are_as_long_as_ours_are_told_apart(make: Make, ordered: bool, line: str) -> None:
    rig = make(ordered=ordered, name="me")
    payload = encode_event(eda.Event(id="i" * len(f"i1\r\n{line}"), type="t"))
    rig.feed(b"orders.t._", delivery(1)[1], payload, block("Nats-Msg-Id: i1", line))
    await settle()
    assert [dict(event.headers) for event in rig.seen] == ([{"X": "1"}] if line == "X: 1" else [])


@both_kinds
@pytest.mark.parametrize("before", [b"\xff", encode_event(eda.Event(id="i1"))], ids=["undecodable", "event"])
async def test_pack_when_it_is_replayed_for_another_subscription_is_passed_over(
    make: Make, ordered: bool, before: bytes
) -> None:
    rig = make(ordered=ordered, name="me")
    rig.deliver(1, payload=before)
    rig.deliver(2, payload=pack_of([eda.Event(type="t")]), headers=block("Eda-Pack: 1", "Eda-Replay-For: another"))
    await settle()
    assert [event.sequence for event in rig.seen] == ([] if before == b"\xff" else [1])
    assert (rig.dispatcher.n_held, rig.dispatcher.intake.n_passed_over) == (0, 1)
    if ordered:
        assert rig.dispatcher.position == 2
    else:
        assert (delivery(2)[1], b"") in rig.flush()


@both_kinds
async def test_headers_when_a_handler_fails_are_there_again(make: Make, ordered: bool) -> None:
    seen: list[eda.Event] = []

    def handler(event: eda.Event) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise RuntimeError("no")

    rig = make(handler, ordered=ordered)
    payload = encode_event(eda.Event(type="t", data=eda.JSON(1)))
    headers = block("Nats-Msg-Id: from-header", "a: b")
    rig.feed(b"orders.x.y.z", delivery(1)[1], payload, headers)
    await settle()
    if not ordered:
        rig.feed(b"orders.x.y.z", delivery(1, 2)[1], payload, headers)
    for _ in range(100):
        await settle()
        rig.dispatcher.take_due()
        if len(seen) == 2:
            break
    first, second = seen
    assert first == second
    for event in seen:
        assert (event.id, dict(event.headers), event.subject) == ("from-header", {"a": "b"}, "orders.x.y.z")
        assert event.data.decode() == 1


# --- ids -------------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(("header", "event_id"), [("n-1", "n-1"), ("a b", ""), ("é", ""), ("x" * 129, ""), ("", "")])
async def test_id_when_only_the_headers_have_one_is_that(make: Make, ordered: bool, header: str, event_id: str) -> None:
    rig = make(ordered=ordered)
    event = await handed_out(
        rig, b"orders.t._", encode_event(eda.Event(type="t", data=eda.Bytes(b"{"))), block(f"Nats-Msg-Id: {header}")
    )
    assert event.id == event_id
    assert decode_event(encode_event(event)).id == event_id  # also where it is published again
    assert dict(event.headers) == {}


async def test_id_when_only_the_headers_have_one_is_named_in_errors(make: Make) -> None:
    envelope = encode_event(eda.Event(type="t", data=eda.Bytes(b"{"))).replace(b"\x42\x05bytes", b"\x42\x04json")
    event = await handed_out(make(), b"orders.t._", envelope, block("Nats-Msg-Id: n-1"))
    with pytest.raises(DecodeError) as caught:
        event.data.decode()
    assert caught.value.event_id == "n-1"


async def test_id_when_both_have_one_is_that_of_the_envelope(make: Make) -> None:
    payload = encode_event(eda.Event(type="t", id="envelope"))
    assert (await handed_out(make(), b"orders.t._", payload, block("Nats-Msg-Id: header"))).id == "envelope"


# --- subjects --------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(
    ("type", "aggregate", "subject"),
    [
        ("t", "", "orders.t._"),
        ("t", "a", "orders.t.a"),
        ("t", "a", "orders"),
        ("t", "a", "orders.a.t"),
        ("t", "a", "orders.t.b"),
        ("t", "", "orders.t.x"),
        ("", "a", "orders._.a"),
        ("", "a", "orders.x.a"),
        ("order-paid", "4711", "orders.4711.order-paid"),
        ("order-paid", "order-4711", "orders.order-paid.order-4711"),
        ("order-paid", "order-4711", "orders.order-paid.order-4712"),
        ("order.paid", "50 %", "orders.order%2Epaid.50%20%25"),
        ("é", "_", "orders.é.%5F"),
        ("t", "a", "orders.one.two.three.four"),
        ("order.created", "4711", "orders.order.created.4711"),  # other programs escape nothing
        ("t", "a.b", "orders.t.a.b"),
        ("t", "order-4711.b", "orders.t.order-4711.b"),
        ("50%", "", "orders.50%._"),
        ("a*b", "a>b", "orders.a*b.a>b"),
        ("order-created-at*", "a", "orders.order-created-at*.a"),
        ("_", "_", "orders._._"),
        ("\x01", "\x7f", "orders.\x01.\x7f"),
        ("t", "a", "stores.t.a"),  # a mirror has the subjects of its origin, whose name may be as long
        ("t", "", "stores.t._"),
        ("", "", "stores._._"),
        ("order-paid", "4711", "orders.order-paid-4711"),
        ("t", "", "orders.t-_"),
        ("", "a", "orders._-a"),
        ("t", "a", "orders-t.a"),
    ],
)
async def test_subject_when_an_event_was_received_is_that_of_its_message(
    make: Make, ordered: bool, type: str, aggregate: str, subject: str
) -> None:
    payload = encode_event(eda.Event(id="i1", type=type, aggregate=aggregate))
    event = await handed_out(make(ordered=ordered), subject.encode(), payload, block("Nats-Msg-Id: i1"))
    assert event.subject == subject
    assert pickle.loads(pickle.dumps(event)).subject == subject
    assert event.replace(type="u").subject == ""


def test_subject_when_an_event_was_not_received_is_empty() -> None:
    assert eda.Event(type="t", stream="orders").subject == ""


# --- undecodable ones ------------------------------------------------------------------------------------------------


async def test_headers_when_a_message_is_no_event_are_given_to_its_dead_letter(make: Make) -> None:
    rig = make()
    rig.feed(b"orders.odd", delivery(1)[1], b"\xff\xfe", block("a: b", "Nats-TTL: 1h", "Nats-Msg-Id: go-1"))
    await settle()
    ((event, payload, _),) = rig.dead_letters
    assert (event.id, dict(event.headers), event.subject) == ("go-1", {"a": "b"}, "orders.odd")
    assert payload == b"\xff\xfe"


# --- markers ---------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("reason", ["MaxAge", "Purge", "Remove", "another"])
async def test_message_when_it_is_a_delete_marker_is_passed_over(make: Make, ordered: bool, reason: str) -> None:
    rig = make(ordered=ordered)
    rig.feed(b"orders.t._", delivery(1)[1], b"", block(f"Nats-Marker-Reason: {reason}", "Nats-TTL: 1m"))
    rig.feed(b"orders.t._", delivery(2)[1], encode_event(eda.Event(type="t")))
    await settle()
    assert [event.sequence for event in rig.seen] == [2]
    assert (rig.dispatcher.intake.n_passed_over, rig.dead_letters) == (1, [])


# --- schedules -------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("payload", [encode_event(eda.Event(type="t")), b"\xff", b""], ids=["event", "none", "empty"])
async def test_message_when_it_is_a_schedule_is_passed_over(make: Make, ordered: bool, payload: bytes) -> None:
    rig = make(ordered=ordered)
    schedule = block("Nats-Schedule: @at 2030-01-01T00:00:00Z", "Nats-Schedule-Target: orders.t._")
    rig.feed(b"orders.plans.1", delivery(1)[1], payload, schedule)
    rig.feed(b"orders.t._", delivery(2)[1], encode_event(eda.Event(type="t")), block("Nats-Scheduler: orders.plans.1"))
    await settle()
    assert [event.sequence for event in rig.seen] == [2]
    assert (rig.dispatcher.intake.n_passed_over, rig.dead_letters) == (1, [])
    answers: list[Any] = rig.flush()
    assert answers == ([] if ordered else [(delivery(1)[1], b""), (delivery(2)[1], b"")])
