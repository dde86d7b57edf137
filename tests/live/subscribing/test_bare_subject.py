"""Messages on a stream's own subject: filters ask for it only where there are any, and lose none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import eda
import eda._codec
import eda.subscribing.bare_subject
import eda.subscribing.ordered_source
from eda._codec import encode_event
from helpers import Admin, Connect, Logged, Proxy, until, wire_of

KINDS: dict[str, dict[str, Any]] = {
    "private": {"backfill": True},
    "serial": {"name": "n", "durable": True, "serial": True, "backfill": True},
    "key": {"name": "n", "durable": True, "key": "aggregate", "concurrency": 4, "backfill": True},
}
WANTED: dict[str, Any] = {"aggregate": "a"}


def envelope(id: str, **fields: str) -> bytes:
    return encode_event(eda.Event(id=id, type="t", **(WANTED | fields)))


async def asked(admin: Admin, stream: str) -> list[str]:
    """Return what the stream's only consumer asks for."""
    consumers = await admin.consumers(stream)
    if len(consumers) != 1:
        return []
    try:
        config = (await admin.consumer(stream, consumers[0]))["config"]
    except AssertionError:  # replaced just now
        return []
    return sorted(config.get("filter_subjects") or [config.get("filter_subject", "")])


async def publish(conn: eda.Conn, stream: str, *ids: str) -> None:
    for each in ids:
        await conn.publish(stream, eda.Event(id=each, type="t", **WANTED))


class Seen(list[str]):
    def __call__(self, event: eda.Event) -> None:
        self.append(event.id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"aggregate": "a"}, {"types": ["t"]}, {"types": ["t"], "aggregate": "a"}])
async def test_filter_when_the_stream_has_no_message_of_its_own_subject_does_not_ask_for_it(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, options: dict[str, Any]
) -> None:
    subject = f"{stream}.{'t' if 'types' in options else '*'}.{options.get('aggregate', '*')}"
    await publish(conn, stream, "1")
    seen = Seen()
    async with conn.subscribe(stream, seen, **KINDS[kind], **options):
        await until(lambda: seen == ["1"])
        assert await asked(admin, stream) == [subject]
    await admin.client.publish(stream, envelope("2"))
    await admin.flush()
    seen.clear()
    async with conn.subscribe(stream, seen, **KINDS[kind], **options):
        await until(lambda: seen[-1:] == ["2"])
        assert await asked(admin, stream) == sorted([stream, subject])


@pytest.mark.parametrize("kind", KINDS)
async def test_message_when_published_to_the_streams_own_subject_while_subscribed_comes_in_its_place(
    connect: Connect, stream: str, admin: Admin, kind: str
) -> None:
    """Among many others, some before and some behind it in the stream, each once."""
    conn, publisher = await connect(), await connect()
    await publish(publisher, stream, "first")
    seen = Seen()
    async with conn.subscribe(stream, seen, prefetch=50, **KINDS[kind], **WANTED):
        await until(lambda: seen)
        assert await asked(admin, stream) == [f"{stream}.*.a"]
        for n in range(300):
            if n in (100, 101, 200):
                await admin.client.publish(stream, envelope(f"bare{n}"))
                await admin.client.publish(stream, envelope(f"other{n}", aggregate="b"))
                await admin.client.flush()
            await publish(publisher, stream, f"e{n}")
        await until(lambda: len(seen) == 304)
        assert await asked(admin, stream) == [stream, f"{stream}.*.a"]
    assert seen == [each for each in await stored(admin, stream) if not each.startswith("other")]


async def stored(admin: Admin, stream: str) -> list[str]:
    """Return the ids of the stream's events, in order."""
    subscription = await admin.js.subscribe(">", stream=stream, ordered_consumer=True)
    n = (await admin.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
    ids = [eda._codec.decode_event((await subscription.next_msg(timeout=5)).data).id for _ in range(n)]
    await subscription.unsubscribe()
    return ids


@pytest.mark.parametrize("kind", KINDS)
async def test_message_when_published_to_the_streams_own_subject_during_an_outage_comes(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin, kind: str
) -> None:
    publisher = await connect()
    await publish(publisher, stream, "1")
    seen = Seen()
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        async with conn.subscribe(stream, seen, **KINDS[kind], **WANTED):
            await until(lambda: seen == ["1"])
            proxy.refusing = True
            proxy.drop()
            await admin.client.publish(stream, envelope("2"))
            await admin.flush()
            await publish(publisher, stream, "3")
            proxy.refusing = False
            await until(lambda: len(seen) == 3)
        await conn.close()
    assert seen == ["1", "2", "3"]


class Deaf(eda.subscribing.bare_subject.BareSubject):
    """Hears nothing of what is published to the stream's own subject."""

    async def _listen(self) -> None:
        self._hints = await self._wire.attach(
            self._wire.new_inbox(), eda.subscribing.bare_subject.CallbackSink(0, print)
        )


@pytest.mark.parametrize("is_handled", [True, False])
async def test_message_when_heard_of_after_later_events_came_is_gone_back_to(
    connect: Connect,
    stream: str,
    admin: Admin,
    is_handled: bool,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a cluster, where it may be heard of by another way than that of the later events."""
    monkeypatch.setattr(eda.subscribing.ordered_source, "BareSubject", Deaf)
    monkeypatch.setattr(eda.subscribing.bare_subject, "SUBSCRIBED_S", 60.0)
    conn, publisher = await connect(), await connect()
    await publish(publisher, stream, "1")
    seen: list[str] = []
    gate = asyncio.Event()
    if is_handled:
        gate.set()

    async def handle(event: eda.Event) -> None:
        await gate.wait()
        seen.append(event.id)

    async with conn.subscribe(stream, handle, **KINDS["serial"], **WANTED) as subscription:
        await until(lambda: subscription._pipeline.source.consumer and subscription.stats().in_flight + len(seen) == 1)
        await admin.client.publish(stream, envelope("bare"))
        await admin.flush()
        await publish(publisher, stream, "3", "4")
        await until(lambda: subscription.stats().buffered + subscription.stats().in_flight + len(seen) == 3)
        await until(lambda: len(seen) == 3 or not is_handled)
        subscription._pipeline.source._bare._need("heard of it")  # type: ignore[union-attr]
        await until(lambda: logged.find(rf"message 2 on the subject {stream} itself was not read, but event 4 was"))
        gate.set()
        await until(lambda: "bare" in seen and seen[-1] == "4")
    again = ["bare", "3", "4"]
    assert [each for each in seen if each != "1"] == (["3", "4", *again] if is_handled else again)


async def test_message_when_never_heard_of_is_found_by_a_second_look(
    connect: Connect, stream: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a moment until all servers of a cluster know of a subscription."""
    monkeypatch.setattr(eda.subscribing.ordered_source, "BareSubject", Deaf)
    monkeypatch.setattr(eda.subscribing.bare_subject, "SUBSCRIBED_S", 0.3)
    conn = await connect()
    await publish(conn, stream, "1")
    seen = Seen()
    async with conn.subscribe(stream, seen, **KINDS["serial"], **WANTED):
        await until(lambda: seen == ["1"])
        await admin.client.publish(stream, envelope("2"))
        await until(lambda: seen == ["1", "2"])


@pytest.mark.parametrize(
    "denied", [{"subscribe": {"deny": ["s"]}}, {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.s"]}}]
)
async def test_filter_when_it_may_not_listen_or_look_asks_for_the_streams_own_subject(
    denied: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.subscribing.bare_subject, "SUBSCRIBED_S", 0.3)
    users = [{"user": "u", "password": "p", "permissions": denied}, {"user": "all", "password": "p"}]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        async with (
            eda.connect(server.url, user="u", password="p") as conn,
            eda.connect(server.url, user="all", password="p") as other,
        ):
            admin = Admin(wire_of(other))
            await publish(other, "s", "1")
            seen = Seen()
            async with conn.subscribe("s", seen, backfill=True, **WANTED):
                await until(lambda: seen == ["1"])

                async def asks_for_both() -> bool:
                    return await asked(admin, "s") == ["s", "s.*.a"]

                await until(asks_for_both)
                await admin.client.publish("s", envelope("2"))
                await until(lambda: seen[-1:] == ["2"])


async def test_filter_when_a_domain_is_given_asks_for_the_streams_own_subject() -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "d"}}) as server:
        async with eda.connect(server.url, cluster="d") as conn:
            await publish(conn, "s", "1")
            seen = Seen()
            async with conn.subscribe("s", seen, backfill=True, **WANTED):
                await until(lambda: seen == ["1"])
                assert await asked(Admin(wire_of(conn)), "s") == ["s", "s.*.a"]


async def test_subscription_when_closed_or_cancelled_listens_no_more(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "1")
    before = len(wire_of(conn)._subs)
    for delay_s in (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s), conn.subscribe(stream, print, backfill=True, **WANTED):
                pass
    async with conn.subscribe(stream, print, backfill=True, **WANTED):
        pass
    await until(lambda: len(wire_of(conn)._subs) <= before + 1)  # the answers to requests are one
