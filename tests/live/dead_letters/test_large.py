"""Dead letters that are too large to be stored whole: stored without their payload, which is found where it lies."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
from eda._codec import encode_event
from helpers import Admin, Logged, until, wire_of
from support.dead_letters.letters import letters_of, stored

MIB = 1024 * 1024
KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "exclusive": {"exclusive": True, **KEPT},
    "serial": {"serial": True, **KEPT},
    "key": {"key": "aggregate", **KEPT},
    "batch": {"batch": 5, **KEPT},
}
LETTER: dict[str, Any] = {
    "event_type": "paid",
    "aggregate": "4711",
    "payload": bytes(5000),
    "reason": "attempts",
    "error": "ValueError: no",
    "stream": "orders",
    "sequence": 17,
    "subscription": "billing",
    "attempts": 5,
}


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


def event_of(n_bytes: int) -> eda.Event:
    """Return an event whose envelope is as long as that, or a byte or two less."""
    event = eda.Event(id="the-id", type="t", aggregate="a", data=eda.Bytes(bytes(n_bytes - 100)))
    n_more = n_bytes - len(encode_event(event))
    return event.replace(data=eda.Bytes(bytes(n_bytes - 100 + n_more)))


# --- storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_store_when_over_max_payload_leaves_out_the_payload_and_says_where_it_lies(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    payload = bytes(range(256)) * 4096
    assert len(payload) == wire_of(conn).max_payload
    for _ in range(2):  # the second is the same letter
        await letters_of(conn).store(dead, **LETTER | {"payload": payload, "subject": "foreign.\u00e9 x"})
    (letter,) = await stored(admin, dead)
    assert letter.payload == b""
    wanted = {
        "Eda-Dead-Error": "ValueError: no",
        "Eda-Dead-Stream": "orders",
        "Eda-Dead-Sequence": "17",
        "Eda-Dead-Subject": "foreign.%C3%A9 x",
        "Eda-Dead-Omitted": str(MIB),
        "Eda-Dead-Digest": hashlib.sha256(payload).hexdigest(),
    }
    assert {name: letter.headers[name] for name in wanted} == wanted
    assert wire_of(conn).is_up


async def test_store_when_over_the_streams_max_msg_size_leaves_out_the_payload(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    config = {"name": dead, "subjects": [dead, f"{dead}.>"], "max_msg_size": 4000}
    await admin.api(f"STREAM.CREATE.{dead}", config)
    await letters_of(conn).store(dead, **LETTER)
    await letters_of(conn).store(dead, **LETTER | {"sequence": 18, "payload": bytes(1000)})
    await admin.api(f"STREAM.UPDATE.{dead}", config | {"max_msg_size": 800})  # nobody tells us
    await letters_of(conn).store(dead, **LETTER | {"sequence": 19, "payload": bytes(1000), "error": "x" * 900})
    letters = await stored(admin, dead)
    assert [len(letter.payload) for letter in letters] == [0, 1000, 0]
    assert [letter.headers.get("Eda-Dead-Omitted") for letter in letters] == ["5000", None, "1000"]
    assert letters[0].headers["Eda-Dead-Subject"] == "orders.paid.4711"
    assert 0 < len(letters[2].headers["Eda-Dead-Error"]) < 900


async def test_store_when_not_even_the_headers_fit_raises_config_error(conn: eda.Conn, admin: Admin, dead: str) -> None:
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [f"{dead}.>"], "max_msg_size": 100})
    with pytest.raises(eda.ConfigError, match=r"at most 100 bytes.*dead:billing:17 alone"):
        await letters_of(conn).store(dead, **LETTER)


# --- in a subscription -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_message_when_it_is_too_large_for_a_dead_letter_holds_nothing_up(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect(f"sequence 1 is not an event.* dead-letter stream {dead}")
    await conn.streams.create(stream)
    garbage = b"\xff" * (MIB - 100)
    await admin.js.publish(f"{stream}.x.y", garbage)
    for _ in range(3):
        await conn.publish(stream, eda.Event(aggregate="a"))
    seen: list[int] = []

    def handle(given: eda.Event | list[eda.Event]) -> None:
        seen.extend(event.sequence for event in (given if isinstance(given, list) else [given]))

    async with conn.subscribe(stream, handle, **KINDS[kind]) as subscription:
        await until(lambda: len(seen) == 3)
        await until(lambda: subscription.stats().dead_lettered == 1)
        assert subscription.stats().in_flight + subscription.stats().buffered == 0
    assert seen == [2, 3, 4]
    (letter,) = await stored(admin, dead)
    assert (letter.payload, letter.headers["Eda-Dead-Reason"]) == (b"", "undecodable")
    assert letter.headers["Eda-Dead-Digest"] == hashlib.sha256(garbage).hexdigest()
    assert not logged.find("passed over|skipped")
    assert await conn.replay_dead(stream, "me") == 0


class Rejecting:
    """A handler that rejects everything until it is `good`."""

    def __init__(self) -> None:
        self.good = False
        self.sizes: list[int] = []

    def __call__(self, event: eda.Event) -> None:
        if not self.good:
            raise eda.Reject("no")
        self.sizes.append(len(event.data.encode()))


async def one_large_letter(conn: eda.Conn, admin: Admin, stream: str, dead: str, n_bytes: int) -> None:
    """Have a large event rejected."""
    await conn.publish(stream, event_of(n_bytes))
    async with conn.subscribe(stream, Rejecting(), serial=True, **KEPT) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
    (letter,) = await stored(admin, dead)
    assert letter.headers["Eda-Dead-Omitted"]


@pytest.mark.old_server
async def test_replay_when_the_payload_was_left_out_takes_it_from_where_it_lies(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("rejected")
    await one_large_letter(conn, admin, stream, dead, MIB - 200)
    handler = Rejecting()
    handler.good = True
    async with conn.subscribe(stream, handler, serial=True, **KEPT) as subscription:
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: subscription.stats().handled == 1)
    assert MIB - 400 < handler.sizes[0] < MIB
    assert await stored(admin, dead) == []


@pytest.mark.parametrize("how", ["deleted", "another"])
async def test_replay_when_the_payload_that_was_left_out_is_gone_leaves_the_letter_and_says_so(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged, how: str
) -> None:
    logged.expect("rejected")
    await one_large_letter(conn, admin, stream, dead, MIB - 200)
    if how == "deleted":
        await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    else:
        await admin.js.delete_stream(stream)
        await conn.streams.create(stream)
        await conn.publish(stream, eda.Event(id="another"))
    assert await conn.replay_dead(stream, "me") == 0
    why = "its payload is gone from" if how == "deleted" else "has another message at"
    assert logged.find(f"dead letter in stream {dead}, sequence 1 is not replayed and stays: .*{why}")
    assert len(await stored(admin, dead)) == 1


async def test_replay_when_an_event_is_too_large_for_its_headers_leaves_it_and_goes_on(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("rejected")
    await one_large_letter(conn, admin, stream, dead, MIB - 60)
    await letters_of(conn).store(
        dead, **LETTER | {"payload": encode_event(eda.Event(type="small")), "stream": stream, "subscription": "me"}
    )
    assert await conn.replay_dead(stream, "me") == 1
    assert logged.find("sequence 1 is not replayed and stays: it is too large")
    assert [letter.sequence for letter in await stored(admin, dead)] == [1]
