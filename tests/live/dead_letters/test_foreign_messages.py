"""Dead letters of messages that other programs wrote: their headers and their subject are kept, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import pytest
from nats.errors import Error as NatsError

import eda
from eda._codec import encode_event
from eda.dead_letters.letter import kept_headers
from eda.headers import size_of_headers
from helpers import Admin, Logged, until, wire_of
from support.dead_letters.letters import letters_of, stored

KINDS: dict[str, dict[str, Any]] = {
    "shared": {"name": "me", "durable": True, "backfill": True},
    "serial": {"name": "me", "durable": True, "backfill": True, "serial": True},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
LETTER: dict[str, Any] = {
    "event_type": "paid",
    "aggregate": "4711",
    "payload": encode_event(eda.Event(id="e1", type="paid", aggregate="4711")),
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


@pytest.mark.old_server
@every_kind
async def test_dead_letter_when_another_program_wrote_the_message_keeps_its_headers_and_subject_also_in_a_replay(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, options: dict[str, Any], logged: Logged
) -> None:
    logged.expect("rejected", "is not an event")
    await conn.streams.create(stream)
    envelope = encode_event(eda.Event(id="the-id", type="paid", aggregate="7"))
    headers = {"traceparent": "00-ab", "X-Who": "Zo\u00eb 5%", "Nats-Msg-Id": "go-1"}
    await admin.js.publish(f"{stream}.7.paid.more", envelope, headers=headers)
    await admin.js.publish(f"{stream}.x", b"\xff", headers={"a": "b"})
    await conn.publish(stream, eda.Event(type="paid"))
    seen: list[eda.Event] = []

    def handle(event: eda.Event) -> None:
        seen.append(event)
        if len(seen) <= 2:
            raise eda.Reject("no")

    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 3)
        letters = {letter.headers["Eda-Dead-Sequence"]: letter for letter in await stored(admin, dead)}
        for name, text in {"traceparent": "00-ab", "X-Who": "Zo\u00eb 5%", "Nats-Msg-Id": "dead:me:1"}.items():
            assert letters["1"].headers[name] == text
        assert letters["1"].headers["Eda-Dead-Subject"] == f"{stream}.7.paid.more"
        assert letters["1"].payload == envelope
        assert (letters["2"].headers["a"], letters["2"].headers["Eda-Dead-Subject"]) == ("b", f"{stream}.x")
        assert "Eda-Dead-Subject" not in letters["3"].headers
        assert await conn.replay_dead(stream, "me", limit=1) == 1
        await until(lambda: subscription.stats().handled == 1)
    assert dict(seen[-1].headers) == {"traceparent": "00-ab", "X-Who": "Zo\u00eb 5%"}
    assert seen[-1].subject == f"{stream}.7.paid.more"
    assert seen[-1].id.startswith("replay:")


@pytest.mark.parametrize(
    "subject", ["elsewhere.x", "orders.*", "orders.a b", "orders..x", "orders.>", "orders." + "x" * 2000]
)
async def test_replay_when_the_stream_does_not_take_the_old_subject_uses_that_of_the_event(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, subject: str
) -> None:
    await conn.streams.create(stream)
    subject = subject.replace("orders", stream)
    await letters_of(conn).store(dead, **LETTER | {"stream": stream, "subject": subject})
    assert await conn.replay_dead(stream, "billing") == 1
    assert [each.subject for each in await stored(admin, stream)] == [f"{stream}.paid.4711"]


HOSTILE = {
    "Eda-Replay-For\r\nX": "a",
    "a b": "c\nNats-Rollup: all\r\x00",
    "": "nameless",
    "\ufffd": "v",
    "ok": "p%20q\u2028r",
}


async def test_headers_when_they_are_hostile_stay_within_their_lines(
    conn: eda.Conn, stream: str, dead: str, admin: Admin
) -> None:
    await letters_of(conn).store(dead, **LETTER | {"foreign": HOSTILE})
    (letter,) = await stored(admin, dead)
    assert letter.n_header_lines == 8 + 4
    assert letter.headers["Eda-Replay-For%0D%0AX"] == "a"
    assert letter.headers["a%20b"] == "c%0ANats-Rollup: all%0D%00"
    assert letter.headers["ok"] == "p%20q\u2028r"
    assert all(unquote(name) for name in letter.headers)


async def test_headers_when_there_are_many_are_kept_up_to_a_bound_and_go_before_the_payload(
    conn: eda.Conn, stream: str, dead: str, admin: Admin
) -> None:
    many = {f"h{n:03}": "x" * 100 for n in range(1000)}
    kept = kept_headers(many)
    assert list(kept) == list(many)[: len(kept)]
    assert 3900 < size_of_headers(kept) <= 4096 + 16
    most = wire_of(conn).max_payload
    for sequence, size in enumerate((100, most - 2000, most), 1):
        await letters_of(conn).store(dead, **LETTER | {"foreign": many, "sequence": sequence, "payload": bytes(size)})
    letters = await stored(admin, dead)
    assert [sum(name in many for name in letter.headers) for letter in letters] == [len(kept), 0, len(kept)]
    assert [len(letter.payload) for letter in letters] == [100, most - 2000, 0]


async def test_replay_when_an_event_is_too_large_with_its_headers_leaves_the_letter(
    conn: eda.Conn, stream: str, dead: str, admin: Admin
) -> None:
    await conn.streams.create(stream)
    await admin.api(f"STREAM.UPDATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"], "max_msg_size": 500})
    letter = LETTER | {"stream": stream}
    await letters_of(conn).store(dead, **letter | {"foreign": {"a": "x" * 1000}})
    await letters_of(conn).store(dead, **letter | {"sequence": 18})
    async with asyncio.timeout(10):
        assert await conn.replay_dead(stream, "billing") == 1
    assert [each.headers["Eda-Dead-Sequence"] for each in await stored(admin, dead)] == ["17"]
