"""Events of packs that subscriptions give up: each dies alone. A pack that can't be read dies as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda._pack
from helpers import Admin, Logged, until
from support.dead_letters.letters import stored
from support.packs import compressed, envelopes_of, pack_of, pack_of_envelopes, publish_pack

EVENTS = [eda.Event(id=f"e{number}", type=f"type-{number}", aggregate="a", time=number + 1) for number in range(3)]


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


class Handling:
    """A handler of events or lists that fails as `fail` says until it is mended, and notes what it handled."""

    def __init__(self, fail: Callable[[eda.Event], None]) -> None:
        self.fail: Callable[[eda.Event], None] | None = fail
        self.handled: list[str] = []

    def __call__(self, given: eda.Event | list[eda.Event]) -> None:
        failures: dict[eda.Event, BaseException] = {}
        for event in given if isinstance(given, list) else [given]:
            try:
                if self.fail is not None:
                    self.fail(event)
            except Exception as error:
                if not isinstance(given, list):
                    raise
                failures[event] = error
            else:
                self.handled.append(event.type)
        if failures:
            raise eda.PartialFailure(failures)


def reject_second(event: eda.Event) -> None:
    if event.type == "type-1":
        raise eda.Reject("never")


def decode_second(event: eda.Event) -> None:
    if event.type == "type-1":
        raise eda.DecodeError("json", "no such field", event_id=event.id)


def fail_second(event: eda.Event) -> None:
    if event.type == "type-1":
        raise ValueError(f"attempt {event.attempt}")


KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "shared-batch": {"batch": 5, **KEPT},
    "exclusive": {"exclusive": True, **KEPT},
    "exclusive-batch": {"exclusive": True, "batch": 5, **KEPT},
    "serial": {"serial": True, **KEPT},
    "key": {"key": "aggregate", **KEPT},
}
WAYS: dict[str, tuple[Callable[[eda.Event], None], str, str, str]] = {
    "rejected": (reject_second, "rejected", "never", "1"),
    "undecodable": (decode_second, "undecodable", "no such field", "1"),
    "attempts": (fail_second, "attempts", "ValueError: attempt 2", "2"),
}
RETRY = eda.Retry(initial_s=0.01, max_attempts=2)


@pytest.mark.parametrize(("fail", "reason", "error", "attempts"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_event_of_a_pack_when_it_is_given_up_dies_alone_and_is_replayed_alone(
    conn: eda.Conn,
    admin: Admin,
    stream: str,
    dead: str,
    logged: Logged,
    kind: str,
    fail: Callable[[eda.Event], None],
    reason: str,
    error: str,
    attempts: str,
) -> None:
    logged.expect(r"sequence 1\.1")
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, EVENTS)
    handling, others = Handling(fail), [Handling(lambda event: None) for _ in range(2)]
    async with (
        conn.subscribe(stream, handling, retry=RETRY, **KINDS[kind]) as sub,
        conn.subscribe(stream, others[0], name="serial", durable=True, backfill=True, serial=True),
        conn.subscribe(stream, others[1], name="shared", durable=True, backfill=True),
    ):
        await until(lambda: sub.stats().dead_lettered == 1 and len(handling.handled) == 2)
        (letter,) = await stored(admin, dead)
        wanted = {
            "Nats-Msg-Id": "dead:me:1.1",
            "Eda-Dead-Reason": reason,
            "Eda-Dead-Sequence": "1",
            "Eda-Dead-Index": "1",
            "Eda-Dead-Attempts": attempts,
        }
        assert {name: letter.headers.get(name) for name in wanted} == wanted
        assert error in letter.headers["Eda-Dead-Error"]
        assert letter.payload == envelopes_of(EVENTS)[1]
        handling.fail = None
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: len(handling.handled) == 3)
        await conn.publish(stream, eda.Event(type="last"))
        await until(lambda: all(each.handled[-1] == "last" for each in (handling, *others)))
    assert sorted(handling.handled[:2]) == ["type-0", "type-2"]
    assert handling.handled[2:] == ["type-1", "last"]
    assert [each.handled for each in others] == [["type-0", "type-1", "type-2", "last"]] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_envelope_of_a_pack_when_it_can_not_be_read_dies_alone(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, kind: str
) -> None:
    logged.expect(r"the envelope in stream .*, sequence 1\.1 is not an event")
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    first, _, third = envelopes_of(EVENTS)
    bad = pack_of(EVENTS)  # an event of a pack is never a pack itself
    await publish_pack(admin.js, stream, EVENTS, payload=pack_of_envelopes([first, bad, third]))
    handling = Handling(lambda event: None)
    async with conn.subscribe(stream, handling, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().dead_lettered == 1 and len(handling.handled) == 2)
        (letter,) = await stored(admin, dead)
        assert (letter.headers["Nats-Msg-Id"], letter.headers["Eda-Dead-Index"]) == ("dead:me:1.1", "1")
        assert (letter.headers["Eda-Dead-Reason"], letter.payload) == ("undecodable", bad)
        assert await conn.replay_dead(stream, "me") == 0
        assert len(await stored(admin, dead)) == 1
    assert sorted(handling.handled) == ["type-0", "type-2"]


@pytest.mark.parametrize("kind", KINDS)
async def test_pack_when_it_can_not_be_read_is_one_letter_and_its_events_are_handled_once_it_can(
    conn: eda.Conn,
    admin: Admin,
    stream: str,
    dead: str,
    logged: Logged,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged.expect("the message in stream .*, sequence [12] is not an event")
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    payload = compressed(pack_of(EVENTS))
    await publish_pack(admin.js, stream, EVENTS, payload=payload, id="of-the-pack")
    await publish_pack(admin.js, stream, EVENTS, payload=b"\x7a\x05x")
    await conn.publish(stream, eda.Event(type="last"))
    handling, other = Handling(lambda event: None), Handling(lambda event: None)
    with monkeypatch.context() as patch:
        patch.setattr(eda._pack, "decompress", refuse)
        async with conn.subscribe(stream, handling, **KINDS[kind]) as sub:
            await until(lambda: sub.stats().dead_lettered == 2 and handling.handled == ["last"])
    first, second = await stored(admin, dead)
    wanted = {
        "Nats-Msg-Id": "dead:me:1",
        "Eda-Dead-Reason": "undecodable",
        "Eda-Dead-Subject": f"{stream}.%25pack.%25pack",
        "Eda-Dead-Id": "of-the-pack",
    }
    assert {name: first.headers.get(name) for name in wanted} == wanted
    assert not any("Eda-Dead-Index" in each.headers for each in (first, second))
    assert [each.payload for each in (first, second)] == [payload, b"\x7a\x05x"]
    async with (
        conn.subscribe(stream, handling, **KINDS[kind]),
        conn.subscribe(stream, other, name="other", start=3, serial=True, durable=True),
    ):
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: len(handling.handled) == 4)
        await conn.publish(stream, eda.Event(type="very last"))
        await until(lambda: handling.handled[-1] == other.handled[-1] == "very last")
    assert sorted(handling.handled[:4]) == ["last", "type-0", "type-1", "type-2"]
    assert other.handled == ["last", "very last"]
    assert [each.headers["Nats-Msg-Id"] for each in await stored(admin, dead)] == ["dead:me:2"]


def refuse(name: str, data: bytes, size: int) -> bytes:
    raise eda.DecodeError("pack", f"its compression {name!r} is not known here")


@pytest.mark.parametrize("kind", KINDS)
async def test_event_of_a_pack_when_its_letter_can_not_hold_it_is_replayed_from_the_pack(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, kind: str
) -> None:
    logged.expect("rejected event e1")
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [f"{dead}.>"], "max_msg_size": 2000})
    events = [each.replace(data=eda.Bytes(bytes([number]) * 3000)) for number, each in enumerate(EVENTS)]
    await publish_pack(admin.js, stream, events, payload=compressed(pack_of(events)))
    sizes: list[int] = []
    handling = Handling(reject_second)
    async with conn.subscribe(stream, handling, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().dead_lettered == 1 and len(handling.handled) == 2)
        (letter,) = await stored(admin, dead)
        assert (letter.payload, letter.headers["Eda-Dead-Index"]) == (b"", "1")
        assert letter.headers["Eda-Dead-Omitted"] == str(len(envelopes_of(events)[1]))
        handling.fail = lambda event: sizes.append(len(event.data.decode()))
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: len(handling.handled) == 3)
    assert (handling.handled[-1], sizes) == ("type-1", [3000])


@pytest.mark.parametrize("kind", ["shared", "exclusive", "serial"])
async def test_events_when_left_because_an_event_of_a_pack_can_not_be_decoded_store_its_dead_letter_alone(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, kind: str
) -> None:
    logged.expect(r"the payload of event e1 .*sequence 1\.1, attempt 1\) can't be decoded")
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, EVENTS)
    first: list[str] = []
    with pytest.raises(eda.DecodeError):
        async with conn.events(stream, **KINDS[kind]) as events:
            async for event in events:
                decode_second(event)
                first.append(event.type)
    assert first == ["type-0"]
    (letter,) = await stored(admin, dead)
    assert letter.headers["Nats-Msg-Id"] == "dead:me:1.1"
    then: list[str] = []
    async with conn.events(stream, **KINDS[kind]) as events:
        async for event in events:
            then.append(event.type)
            if event.type == "type-2":
                break
    # A shared subscription gets a pack that is partly done again as a whole.
    assert then == (["type-0", "type-1", "type-2"] if kind == "shared" else ["type-2"])
