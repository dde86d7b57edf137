"""Messages in a stream that eda did not publish: events of others, and what is no event at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import Admin, Connect, Logged, Proxy, until, wire_of

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}


@pytest.mark.old_server
async def test_message_when_it_is_no_envelope_is_logged_ended_and_passed_over(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    bad = [b"\xff", b"\x0a\x05abc", b'{"json": true}', b"\x0a\x02\xff\xfe", b"\x08\x01", bytes(20)]
    bad += [b"\x3a\x01x", b"\x0a\x02i1\x78\x01", b"\x0a\x02i1\x8a\x01\x00"]  # neither id nor type, and parts of packs
    logged.expect(*(f"stream {stream}, sequence {2 * n + 1} is not an event" for n in range(len(bad))))
    await conn.streams.create(stream)
    for payload in bad:
        await admin.js.publish(f"{stream}.t._", payload)
        await conn.publish(stream, eda.Event(type="t"))
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), **KEPT) as subscription:
        await until(lambda: len(seen) == len(bad))
    assert seen == [2 * n + 2 for n in range(len(bad))]
    stats = subscription.stats()
    assert (stats.undecodable, stats.handled, stats.failed) == (len(bad), len(bad), 0)
    info = await admin.consumer(stream, "me")
    assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (0, 2 * len(bad))
    async with conn.subscribe(stream, print, name="me", durable=True) as again:
        await asyncio.sleep(0.05)
    assert again.stats().undecodable == 0


@pytest.mark.old_server
async def test_message_when_a_foreign_client_published_it_is_an_event(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, **KEPT):
        sent = eda.Event(type="t", aggregate="a", meta={"k": "v"}, data=eda.JSON({"n": 1}), time=123)
        for subject in (stream, f"{stream}.t.a", f"{stream}.a.b.c.d", f"{stream}.other"):
            await admin.client.publish(subject, encode_event(sent, "go-1", "go-client"), headers={"Some": "header"})
        await until(lambda: len(seen) == 4)
    for event in seen:
        assert (event.id, event.client, event.type, event.aggregate) == ("go-1", "go-client", "t", "a")
        assert (event.meta, event.data.decode(), event.time_ns) == ({"k": "v"}, {"n": 1}, 123)


async def test_delivery_when_forged_is_not_an_event_and_not_acknowledged(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin
) -> None:
    seen: list[eda.Event] = []
    numbers = "1.1.1.1.1"
    replies = [
        *("", "stolen.x", "$JS.ACK", f"$JS.ACK.other.me.{numbers}", f"$JS.ACK.{stream}.other.{numbers}"),
        *(f"$JS.ACK.{stream}.me.{wrong}" for wrong in ("1.1.1.1", "0.1.1.1.1", "1.0.1.1.1", "x.1.1.1.1", "1.-1.1.1.1")),
    ]
    payload = encode_event(eda.Event(), "forged")
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        subscription = await conn.subscribe(stream, seen.append, **KEPT)
        await wire_of(conn).barrier(5)
        (line,) = [
            line
            for line in bytes(proxy.sent).split(b"\r\n")
            if line.startswith(b"SUB " + subscription._pipeline.source.inbox)
        ]
        inbox, sid = subscription._pipeline.source.inbox, line.split()[-1]
        proxy.sent.clear()
        for reply in replies:
            proxy.inject(b"MSG %s1 %s %s %d\r\n%s\r\n" % (inbox, sid, reply.encode(), len(payload), payload))
        for status in (b"404", b"408", b"409", b"503", b"999", b"abc", b"1"):
            head = b"NATS/1.0 %s Said\r\nNats-Pending-Messages: 99999999999999999999999\r\n\r\n" % status
            for tail in (b"1", b"0", b"x", b"99999999999999999999999", b"1.2"):
                proxy.inject(b"HMSG %s%s %s %d %d\r\n%s\r\n" % (inbox, tail, sid, len(head), len(head), head))
        await conn.publish(stream, eda.Event(id="real"))
        await until(lambda: seen)
        await until(lambda: subscription.stats().handled == 1)
        await conn.close()
    assert [event.id for event in seen] == ["real"]
    acknowledged = [line for line in bytes(proxy.sent).split(b"\r\n") if b"JS.ACK" in line or b"stolen" in line]
    assert all(line.startswith(f"PUB $JS.ACK.{stream}.me.1.1.1.".encode()) for line in acknowledged)
    assert subscription.stats().handled == 1
