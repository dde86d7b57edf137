"""Answers that make no sense, were never asked for, or come twice: nothing is settled by them, and nothing breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import eda
import eda.jetstream.listing
from eda._codec import encode_event
from helpers import Logged, until, wire_of
from support.publishing.sent import Outcomes, numbered
from support.transport.fake_server import Command, FakeServer, stream_info


async def works(conn: eda.Conn) -> None:
    async with asyncio.timeout(5):
        assert (await conn.publish("still", eda.Event(id="here"))).id == "here"


# --- JetStream's API -------------------------------------------------------------------------------------------------

GOOD = stream_info("s")
ODD_ANSWERS: dict[str, Any] = {
    "nothing": b"",
    "no json": b"{",
    "not utf-8": b'{"a":"\xff"}',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1e999",
    "an empty object": b"{}",
    "deep": b'{"config":' * 20_000,
    "deep list": b'{"config":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "endless": b'{"config":{"name":"' + b"x" * 9_000_000,
    "small objects": b'{"config":[' + b"[]," * 3_000_000 + b"[]]}",
    "error of text": {"error": "no"},
    "error of list": {"error": []},
    "error of odd codes": {"error": {"code": [1], "err_code": {}, "description": 5}},
    "error of huge codes": b'{"error":{"code":99999999999999999999,"err_code":-1}}',
    "error without anything": {"error": {}},
    "error of control characters": {"error": {"code": 400, "err_code": 1, "description": "\x1b[31m\r\n" * 1000}},
    "config of list": {**GOOD, "config": []},
    "config of null": {**GOOD, "config": None},
    "config without name": {**GOOD, "config": {}},
    "name of number": {**GOOD, "config": {"name": 5}},
    "window of text": stream_info("s", duplicate_window="long"),
    "window negative": stream_info("s", duplicate_window=-5),
    "window overflowing": stream_info("s", duplicate_window=10**40),
    "subjects of numbers": stream_info("s", subjects=[1]),
    "state of list": {**GOOD, "state": [1, 2]},
    "state without anything": {**GOOD, "state": {}},
    "sequences of text": {**GOOD, "state": {"messages": "1", "bytes": "1", "first_seq": "1", "last_seq": "1"}},
    "sequences overflowing": {**GOOD, "state": {"messages": 2**64, "bytes": 0, "first_seq": 0, "last_seq": 2**70}},
    "sequences negative": {**GOOD, "state": {"messages": -1, "bytes": -1, "first_seq": -1, "last_seq": -1}},
    "created of number": {**GOOD, "created": 5},
    "created of words": {**GOOD, "created": "yesterday"},
    "created without a zone": {**GOOD, "created": "2026-01-01T00:00:00"},
}


OPERATIONS: dict[str, Callable[[eda.Conn], Awaitable[object]]] = {
    "info": lambda conn: conn.streams.info("s"),
    "create": lambda conn: conn.streams.create("s"),
    "update": lambda conn: conn.streams.update("s", eda.StreamOptions()),
    "publish": lambda conn: conn.publish("s"),
    "batch": lambda conn: conn.publish_batch("s", [eda.Event()]),
    "ordered": lambda conn: conn.subscribe("s", print),
    "replay": lambda conn: conn.replay_dead("s", "me"),
    "subscriptions": lambda conn: conn.subscriptions("s"),
}


@pytest.mark.parametrize("odd", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
async def test_answer_when_it_makes_no_sense_is_a_clear_error_for_each_operation(
    odd: Any, fake: FakeServer, growing_by_at_most: Any
) -> None:
    fake.answers |= {"STREAM.INFO.s*": odd, "STREAM.CREATE.s": odd, "STREAM.UPDATE.s": odd}
    async with eda.connect(fake.url) as conn:
        with growing_by_at_most(150):
            for name, operation in OPERATIONS.items():
                async with asyncio.timeout(5):
                    with pytest.raises(eda.ServerError) as caught:
                        await operation(conn)
                assert "STREAM." in str(caught.value), name
                assert str(caught.value).isprintable(), name
                assert len(str(caught.value)) < 1200, name
        fake.answers.clear()
        await works(conn)
        assert (await conn.streams.info("s")).name == "s"
    assert fake.n_accepted == 1


ODD_CONSUMERS: dict[str, Any] = {
    "no json": b"{",
    "a list": b"[]",
    "an empty object": b"{}",
    "config of list": {"config": []},
    "metadata of list": {"config": {"metadata": [1]}},
    "metadata of numbers": {"config": {"metadata": {"eda-filter": 5}}},
    "filter of numbers": {"config": {"filter_subjects": [[1]]}},
    "delivered of list": {"config": {}, "delivered": [1]},
    "delivered negative": {"config": {}, "delivered": {"stream_seq": -1}},
    "pending of text": {"config": {}, "num_pending": "all"},
    "pending overflowing": {"config": {}, "num_pending": 2**64},
    "created of list": {"config": {}, "created": []},
}


@pytest.mark.parametrize("odd", ODD_CONSUMERS.values(), ids=ODD_CONSUMERS)
async def test_consumer_when_it_makes_no_sense_is_a_clear_error(odd: Any, fake: FakeServer) -> None:
    async with eda.connect(fake.url, client="me") as conn:
        for verb in ("CONSUMER.INFO.*", "CONSUMER.CREATE.*"):
            fake.answers = {verb: odd}
            options = [{"durable": True}, {"durable": True, "serial": True}]
            for each in options[: 1 if "CREATE" in verb else 2]:
                async with asyncio.timeout(5):
                    with pytest.raises(eda.ServerError, match=r"CONSUMER\.") as caught:
                        await conn.subscribe("s", print, **each)
                assert "makes no sense" in str(caught.value)
        fake.answers.clear()
        await works(conn)


async def test_list_when_the_server_always_has_more_ends(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answers["STREAM.LIST"] = {"total": 2**62, "streams": [GOOD]}
    async with eda.connect(fake.url) as conn:
        async with asyncio.timeout(5):
            assert [info.name for info in await conn.streams.list()] == ["s"]
        monkeypatch.setattr(eda.jetstream.listing, "LIST_TIMEOUT_S", 0.0)
        with pytest.raises(eda.Timeout, match="listing the streams"):
            await conn.streams.list()


CONSUMER = {"name": "n", "config": {"ack_policy": "explicit"}}


@pytest.mark.parametrize("odd", [each for each in ODD_CONSUMERS.values() if isinstance(each, dict)], ids=repr)
async def test_subscriptions_when_a_consumer_makes_no_sense_are_a_clear_error(odd: Any, fake: FakeServer) -> None:
    fake.answers |= {"STREAM.INFO.KV*": {"state": {}}, "CONSUMER.LIST.s": {"total": 1, "consumers": [CONSUMER | odd]}}
    async with eda.connect(fake.url) as conn, asyncio.timeout(5):
        with pytest.raises(eda.ServerError, match=r"CONSUMER\.LIST.*makes no sense"):
            await conn.subscriptions("s")


@pytest.mark.parametrize("more", [2**62, 0])
async def test_subscriptions_when_the_server_always_has_more_end(more: int, fake: FakeServer) -> None:
    names = {"$KV.eda-cursors.s.n": 1, "$KV.eda-cursors.s.x y\r\nPUB a 0": 1, "other": 1}
    fake.answers |= {
        "STREAM.INFO.KV*": {"state": {"subjects": names}, "total": more},
        "STREAM.MSG.GET.KV*": {"error": {"code": 404, "err_code": 10037}},
        "CONSUMER.LIST.s": {"total": more, "consumers": [CONSUMER]},
    }
    async with eda.connect(fake.url) as conn, asyncio.timeout(5):
        assert [each.name for each in await conn.subscriptions("s")] == ["n"]


@pytest.mark.parametrize(
    "odd",
    [
        b"{}",
        {"message": {}},
        {"message": {"seq": 0, "data": ""}},
        {"message": {"seq": "1", "data": ""}},
        {"message": {"seq": 1, "data": "/not base64/!"}},
        {"message": {"seq": 1, "data": [1]}},
        {"message": [1]},
        {"message": {"seq": 2**64}},
    ],
    ids=repr,
)
async def test_stored_message_when_it_makes_no_sense_is_a_clear_error(odd: Any, fake: FakeServer) -> None:
    state = {"messages": 3, "bytes": 3, "first_seq": 1, "last_seq": 3}
    fake.answers |= {"STREAM.INFO.s-dead": {**stream_info("s-dead"), "state": state}, "STREAM.MSG.GET.*": odd}
    async with eda.connect(fake.url, client="me") as conn:
        for operation in (conn.replay_dead("s", "me"), _opened(conn, durable=True, serial=True)):
            async with asyncio.timeout(5):
                with pytest.raises(eda.ServerError, match=r"STREAM\.MSG\.GET"):
                    await operation


async def _opened(conn: eda.Conn, **options: Any) -> object:
    return await conn.subscribe("s", print, **options)


async def test_stored_messages_when_they_go_backwards_are_not_replayed_for_ever(fake: FakeServer) -> None:
    state = {"messages": 3, "bytes": 3, "first_seq": 2, "last_seq": 9}
    fake.answers |= {
        "STREAM.INFO.s-dead": {**stream_info("s-dead"), "state": state},
        "STREAM.MSG.GET.*": {"message": {"seq": 1, "data": ""}},
    }
    async with eda.connect(fake.url) as conn, asyncio.timeout(5):
        with pytest.raises(eda.ServerError, match="without the message"):
            await conn.replay_dead("s", "me")


# --- acknowledgements ------------------------------------------------------------------------------------------------


def number_of(command: Command) -> int:
    return int(command.reply.rpartition(b".")[2])


def inbox_of(command: Command) -> bytes:
    return command.reply.rpartition(b".")[0] + b"."


@pytest.mark.parametrize("mode", ["single", "window"])
async def test_acknowledgements_when_duplicated_reordered_and_invented_settle_each_event_once(
    mode: str, fake: FakeServer
) -> None:
    held: list[Command] = []
    fake.on_publish = held.append
    outcomes = Outcomes()
    n = 200
    async with eda.connect(fake.url) as conn, AsyncExitStack() as stack:
        if mode == "single":
            sent = [asyncio.create_task(conn.publish("s", event)) for event in numbered(n)]
        else:
            pub = await stack.enter_async_context(conn.publisher("s", mode="window", **outcomes.callbacks))
            await pub.send_many(numbered(n))
        await until(lambda: len(held) >= n)
        first, inbox = number_of(held[0]), inbox_of(held[0])
        sid = fake.sid_of(inbox + (b"*" if mode == "single" else b">"))
        never_sent = [first + n, first + n + 1, 2**63, 2**64 - 1, 2**64, 10**30, -1]
        for number in never_sent + ([first - 1] if first else []):
            fake.say(inbox + b"%d" % number, b'{"stream":"s", "seq":9}')
        for tail in (b"", b"x", b"1.2", b"+1", b"0x1", b" 1", b"1 "):
            fake.send(b"MSG %b%b %b 23\r\n" % (inbox, tail, sid) + b'{"stream":"s", "seq":9}\r\n')
        for place, command in reversed(list(enumerate(held))):
            for _ in range(3):
                fake.say(command.reply, b'{"stream":"s", "seq":%d}' % (place + 1))
        if mode == "single":
            assert [receipt.id for receipt in await asyncio.gather(*sent)] == [event.id for event in numbered(n)]
        else:
            async with asyncio.timeout(5):
                await pub.flush()
            assert pub.stats().acknowledged == n
            assert set(outcomes.acknowledged.values()) == {1}
            assert not outcomes.failed
        fake.on_publish = None
        await works(conn)
    assert fake.n_accepted == 1


async def test_acknowledgement_when_it_comes_for_what_is_still_to_be_sent_does_not_settle_it(fake: FakeServer) -> None:
    """Numbers can be guessed: an answer that is there before the question is none."""
    held: list[Command] = []
    async with eda.connect(fake.url) as conn:
        await works(conn)
        last = fake.find(b"HPUB", b"still.")[-1]
        for n in range(1, 20):
            fake.say(inbox_of(last) + b"%d" % (number_of(last) + n), b'{"stream":"still", "seq":99}')
        await wire_of(conn).barrier(2)
        fake.on_publish = held.append
        publishing = asyncio.create_task(conn.publish("still", eda.Event(id="later")))
        await until(lambda: held)
        await wire_of(conn).barrier(2)
        assert not publishing.done()
        fake.acknowledge(held[0])
        assert (await asyncio.wait_for(publishing, 10)).id == "later"


@pytest.mark.parametrize(
    "answer",
    [
        b'{"type":"ack","seq":99999,"msgs":10}',
        b'{"type":"ack","seq":18446744073709551615,"msgs":0}',
        b'{"type":"ack","seq":-1,"msgs":-1}',
        b'{"stream":"s","seq":9,"batch":"x","count":5}',
        b'{"error":{"code":"x"}}',
        b"[" * 100_000,
    ],
    ids=lambda answer: answer[:40].decode(),
)
async def test_fast_acknowledgement_when_it_can_not_be_settles_nothing(
    answer: bytes, fake: FakeServer, logged: Logged
) -> None:
    """Acknowledgements of a batch that go beyond it, backwards, or belong to another."""
    held: list[Command] = []
    fake.on_publish = held.append
    fake.answers["STREAM.INFO.s"] = stream_info("s", allow_batched=True)
    outcomes = Outcomes()
    async with eda.connect(fake.url) as conn:
        async with conn.publisher("s", mode="fast", **outcomes.callbacks) as pub:
            await pub.send_many(numbered(100))
            await until(lambda: held)
            fake.say(held[0].reply, b'{"type":"ack","seq":0,"msgs":500}')
            await until(lambda: len(held) >= 100)
            for _ in range(3):
                for command in (held[0], held[50], held[-1]):
                    fake.say(command.reply, answer)
            await wire_of(conn).barrier(2)
            assert not outcomes.acknowledged
            await until(lambda: held[-1].reply.split(b".")[-2] in (b"2", b"3"))
            batch = held[-1].reply.split(b".")[-6]
            for seq in (60, 20, 60, 40, 100):  # out of order, and twice
                fake.say(held[1].reply, b'{"type":"ack","seq":%d,"msgs":10}' % seq)
            final = b'{"stream":"s","seq":100,"batch":"%b","count":100}' % batch
            for _ in range(3):
                fake.say(held[-1].reply, final)
            await asyncio.wait_for(pub.flush(), 5)
        assert len(outcomes.acknowledged) == 100
        assert set(outcomes.acknowledged.values()) == {1}
        fake.on_publish = None
        await works(conn)
    assert fake.n_accepted == 1


# --- pulls -----------------------------------------------------------------------------------------------------------

KEPT = {"config": {"name": "me"}, "created": "2026-01-01T00:00:00Z"}
STATUSES = [100, 200, 400, 404, 408, 409, 423, 503, 999]
NUMBERS = [b"0", b"1", b"-1", b"99999999999999999999", b"1e3", b"x", b"", b"\xff"]


@pytest.mark.parametrize("options", [{"durable": True}, {}], ids=["shared", "ordered"])
async def test_statuses_when_nobody_asked_for_them_change_nothing(
    options: dict[str, Any], fake: FakeServer, growing_by_at_most: Any
) -> None:
    async with eda.connect(fake.url, client="me") as conn:
        seen: list[str] = []
        subscription = await conn.subscribe("s", lambda event: seen.append(event.id), **options)
        await until(lambda: fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s."))
        fake.answers["CONSUMER.INFO.*"] = KEPT  # it makes sure that the consumer is still there
        with growing_by_at_most(30):
            inbox = inbox_of(fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s.")[-1])
            for status in STATUSES:
                for number in NUMBERS:
                    for tail in (b"1", b"2", b"7", b"99999999999999999999", b"x", b"1.1"):
                        headers = (
                            b"NATS/1.0 %d Some Thing\r\nNats-Pending-Messages: %b\r\nNats-Last-Consumer: %b\r\n\r\n"
                        )
                        fake.say(inbox + tail, b"", headers=headers % (status, number, number))
            fake.say(inbox + b"1", b"", headers=b"NATS/1.0 409 " + b"\r\n" * 500_000)
            await wire_of(conn).barrier(5)
        fake.commands.clear()
        await until(lambda: fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s."))  # it goes on
        await works(conn)
        await subscription.close()
    assert fake.n_accepted == 1


async def test_deliveries_when_forged_are_acknowledged_to_this_consumer_or_not_at_all(fake: FakeServer) -> None:
    """Who publishes to our inbox can't make us publish anywhere but to acknowledgements of this very consumer."""
    numbers = b"1.5.1.1700000000000000000.0"
    replies = [
        b"orders.paid.1",
        b"$JS.API.STREAM.DELETE.s",
        b"$JS.API.STREAM.PURGE.s",
        b"$JS.ACK.other.me." + numbers,
        b"$JS.ACK.s.other." + numbers,
        b"$JS.ACK.s.me.x.$JS.API.STREAM.DELETE.s",
        b"$JS.ACK.s.me." + numbers + b".more",
        b"$JS.ACK.d.a.s.other." + numbers,
        b"$JS.ACK.d.a.s.me." + numbers + b".\xff\xfe",
        b"$JS.ACK.d.a.s.me." + numbers + b"." + b"x" * 4000,
        b"$JS.ACK.d.a.s.me." + numbers + b".>",
        b"$JS.ACK.*.a.s.me." + numbers,
        b"$JS.ACK.d\x00.a.s.me." + numbers,
        b"$JS.ACK.d\r.a.s.me." + numbers,
        b"$JS.FC.s.me.1.1",
        b"_INBOX.x",
        b"$SYS.REQ.SERVER.PING",
    ]
    payload = encode_event(eda.Event(type="t"), "forged")
    async with eda.connect(fake.url, client="me") as conn:
        seen: list[str] = []
        subscription = await conn.subscribe("s", lambda event: seen.append(event.id), durable=True)
        await until(lambda: fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s."))
        inbox = inbox_of(fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s.")[-1])
        fake.answers["CONSUMER.INFO.*"] = KEPT
        fake.commands.clear()
        for reply in replies:
            fake.say(inbox + b"1", payload, reply=reply)
            fake.say(inbox + b"1", payload, reply=reply, headers=b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
        await wire_of(conn).barrier(2)
        assert seen == []
        fake.say(inbox + b"1", payload, reply=b"$JS.ACK.s.me." + numbers)
        await until(lambda: seen == ["forged"])
        await works(conn)
        await subscription.close()
        published = {each.subject for each in fake.commands if each.verb in (b"PUB", b"HPUB")}
    allowed = (b"$JS.ACK.s.me." + numbers, b"$JS.API.CONSUMER.MSG.NEXT.s.me", b"$JS.API.CONSUMER.INFO.s.me", b"still.")
    assert all(subject.startswith(allowed) or subject == b"$JS.API.STREAM.INFO.still" for subject in published), (
        published
    )


async def test_inboxes_when_one_is_seen_tell_nothing_of_the_others(fake: FakeServer) -> None:
    """A publish shows its inbox to all who read the stream: where pulls and requests are answered must not follow."""
    async with eda.connect(fake.url, client="me") as conn:
        for n in range(5):
            await conn.subscribe(f"s{n}", print, durable=True)
        await works(conn)
        inboxes = {each.subject.split(b".")[1] for each in fake.find(b"SUB", b"_INBOX.")}
        tokens = {each.reply.split(b".")[2] for each in fake.find(b"PUB", b"$JS.API.STREAM.INFO")}
    assert len(inboxes) == 7
    for each in (inboxes, tokens):
        assert len({token[:6] for token in each}) == len(each), "they begin alike"
        assert all(len(token) >= 22 for token in each)
