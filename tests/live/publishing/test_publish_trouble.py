"""conn.publish while the server dies, freezes or is slow: each publish ends once, each event is stored once."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import nats
import pytest

import eda
import eda.publishing.stream_publisher
import eda.transport.wire
from helpers import Admin, Connect, Proxy, freeze, needs_freeze, sender_of, until, wire_of
from leaks import resident
from support.transport.faulty_proxy import FaultyProxy


@contextmanager
def frozen(server: eda.EmbeddedServer) -> Iterator[None]:
    """Stop the server's process, and let it go on afterwards."""
    assert server.pid is not None
    freeze(server.pid)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def stored_ids(server: eda.EmbeddedServer, stream: str) -> list[str]:
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        return await Admin(client).ids(stream)
    finally:
        await client.close()


@pytest.mark.old_server
async def test_publish_when_the_server_is_killed_meanwhile_stores_each_event_once(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream", eda.Event(id="first"))
        ids: list[str] = []
        for n in range(3):
            # When the server dies, some are acknowledged, some are stored only, and some are not sent.
            publishing = [asyncio.create_task(conn.publish("stream", eda.Event(type=str(n)))) for _ in range(1000)]
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            await own_server.kill()
            await own_server.start()
            ids += [receipt.id for receipt in await asyncio.wait_for(asyncio.gather(*publishing), 20)]
        assert len(set(ids)) == 3000
        assert Counter(await stored_ids(own_server, "stream")) == Counter(["first", *ids])


@needs_freeze
@pytest.mark.parametrize(("timeout_s", "resend_s"), [(0.2, 20.0), (0.45, 0.3)])
async def test_publish_when_the_server_is_frozen_raises_timeout_with_the_id(
    own_server: eda.EmbeddedServer, timeout_s: float, resend_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", resend_s)
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        with frozen(own_server):
            begin = time.monotonic()
            mine = conn.publish("stream", eda.Event(id="mine"), timeout_s=timeout_s)
            made = conn.publish("stream", eda.Event(), timeout_s=timeout_s)
            errors = await asyncio.gather(mine, made, return_exceptions=True)
            seconds = time.monotonic() - begin
        assert all(isinstance(error, eda.Timeout) for error in errors)
        assert [error.timeout_s for error in errors if isinstance(error, eda.Timeout)] == [timeout_s] * 2
        ids = [error.event_id for error in errors if isinstance(error, eda.Timeout)]
        assert ids[0] == "mine"
        assert timeout_s <= seconds < timeout_s + 4
        assert f"event mine took longer than {timeout_s:g} s" in str(errors[0])
        # Events that timed out may be stored all the same, once, under the id that the error names.
        await until(lambda: conn.streams.info("stream"))
        await conn.publish("stream", eda.Event(id=ids[1]))
        stored = await stored_ids(own_server, "stream")
        assert Counter(stored[1:]) == Counter(ids)


@needs_freeze
async def test_publish_when_the_server_thaws_in_time_succeeds(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 0.05)
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        with frozen(own_server):
            publishing = asyncio.gather(*(conn.publish("stream") for _ in range(100)))
            await asyncio.sleep(0.3)
            assert not publishing.done()
        ids = [receipt.id for receipt in await asyncio.wait_for(publishing, 10)]
        assert sorted((await stored_ids(own_server, "stream"))[1:]) == sorted(ids)


async def test_publish_when_the_server_stays_away_raises_timeout(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        await own_server.kill()
        begin = time.monotonic()
        with pytest.raises(eda.Timeout) as caught:
            await conn.publish("stream", eda.Event(id="mine"), timeout_s=0.3)
        assert 0.3 <= time.monotonic() - begin < 4
        assert caught.value.event_id == "mine"


async def test_publish_when_cancelled_while_the_server_is_away_is_not_sent_later(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream", eda.Event(id="first"))
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        task = asyncio.create_task(conn.publish("stream", eda.Event(id="cancelled")))
        await asyncio.sleep(0.01)
        task.cancel()
        kept = asyncio.create_task(conn.publish("stream", eda.Event(id="kept")))
        await asyncio.sleep(0.01)
        await own_server.start()
        await asyncio.wait_for(kept, 10)
        await conn.publish("stream", eda.Event(id="last"))
        assert await stored_ids(own_server, "stream") == ["first", "kept", "last"]


async def test_publish_when_nobody_knows_the_stream_any_more_says_why_in_the_end(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        await own_server.kill()
        own_server._config["jetstream"] = False
        await own_server.start()
        await until(lambda: conn.state == "reconnected")
        with pytest.raises(eda.EdaError) as caught:
            await asyncio.wait_for(conn.publish("stream", timeout_s=1.0), 5)
        assert "responders" in f"{caught.value} {caught.value.__cause__}"


async def test_publish_when_the_server_takes_less_than_before_fails_the_large_ones_only(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        large = asyncio.create_task(conn.publish("stream", eda.Event(data=eda.Bytes(bytes(50_000)))))
        small = [asyncio.create_task(conn.publish("stream", eda.Event(data=eda.Bytes(bytes(500))))) for _ in range(9)]
        await asyncio.sleep(0.01)
        own_server._config["max_payload"] = 10_000
        await own_server.start()
        with pytest.raises(eda.EdaError, match="max_payload"):
            await asyncio.wait_for(large, 10)
        await asyncio.wait_for(asyncio.gather(*small), 10)


# --- a slow peer -----------------------------------------------------------------------------------------------------

LARGE = eda.Bytes(bytes(500_000))


async def test_publish_when_the_peer_is_slow_waits_and_holds_little(
    server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.hold()
        publishing = [asyncio.create_task(conn.publish(stream, eda.Event(data=LARGE))) for _ in range(200)]
        await until(lambda: wire_of(conn).out.paused)
        await asyncio.sleep(0.1)
        transport = wire_of(conn)._interceptor.transport
        # 100 MB wait to be sent; only publishes that began before the pause are accepted.
        assert transport.get_write_buffer_size() < 20e6
        assert sender_of(conn).n_pending < 40
        proxy.release()
        ids = await asyncio.wait_for(asyncio.gather(*publishing), 30)
        assert len(set(ids)) == 200
        assert (await conn.streams.info(stream)).events == 201
        await conn.close()


async def test_publish_when_the_peer_takes_nothing_times_out_all_the_same(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 0.05)
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.hold()
        begin = time.monotonic()
        events = [eda.Event(id=f"e{n}", data=LARGE) for n in range(60)]
        errors = await asyncio.gather(
            *(conn.publish(stream, event, timeout_s=0.5) for event in events), return_exceptions=True
        )
        assert 0.5 <= time.monotonic() - begin < 4
        assert all(isinstance(error, eda.Timeout) for error in errors)
        assert [error.event_id for error in errors if isinstance(error, eda.Timeout)] == [event.id for event in events]
        # Nothing is sent again into a full buffer.
        assert wire_of(conn)._interceptor.transport.get_write_buffer_size() < 20e6
        proxy.release()
        await conn.publish(stream)
        await conn.close()


async def test_memory_when_many_events_are_published_is_flat(conn: eda.Conn, stream: str) -> None:
    async def publish(n: int) -> int:
        """Return the peak of memory in use during the test."""
        most = 0
        for _ in range(n // 1000):
            await asyncio.gather(*(conn.publish(stream, event) for _ in range(1000)))
            most = max(most, resident())
        return most

    event = eda.Event(type="t", data=eda.Bytes(bytes(100)))
    before = await publish(20_000)
    assert await publish(100_000) - before < 8 * 2**20


async def test_publish_when_the_client_gave_the_connection_up_raises_closed(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    wire = wire_of(conn)
    await wire.close()  # as nats-py does by itself after some errors of the server
    assert not wire.closing
    async with asyncio.timeout(5):
        with pytest.raises(eda.Closed):
            await conn.publish(stream)


async def test_single_publisher_when_closed_forgets_its_clock(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    assert conn._lifetime._services is not None
    (single,) = conn._lifetime._services.stream_publishers._of_stream.values()
    assert single._timer is not None
    single.close()
    assert single._timer is None
    wire_of(conn).out.set_write(None)  # published bytes are dropped
    with pytest.raises(eda.Timeout):
        await asyncio.wait_for(conn.publish(stream, timeout_s=0.2), 5)


async def test_publish_when_the_stream_has_no_leader_for_a_while_does_not_wait_for_what_is_known(
    server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    """A publish gets 503, and the check of the stream gets no answer. Later publishes are sent all the same."""
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        n_refused = 0

        def refuse(message: bytes) -> bytes:
            nonlocal n_refused
            line, _, rest = message.partition(b"\r\n")
            if n_refused or not rest.startswith(b'{"stream":"%b"' % stream.encode()):
                return message
            n_refused += 1
            head = b"NATS/1.0 503\r\n\r\n"
            return b"H%b %d %d\r\n%b\r\n" % (line.rpartition(b" ")[0], len(head), len(head), head)

        proxy.change = refuse
        proxy.drop_if = lambda message: b"stream_info_response" in message
        refused = asyncio.create_task(conn.publish(stream))
        await until(lambda: proxy.n_dropped)
        async with asyncio.timeout(4):
            await conn.publish(stream)
            await refused
        assert n_refused == 1
        proxy.drop_if = None
        assert (await conn.streams.info(stream)).events == 3
        await conn.close()


@pytest.mark.parametrize("how", ["publish", "window"])
async def test_publish_when_an_acknowledgement_is_written_in_another_order_is_acknowledged(
    connect: Connect, server: eda.EmbeddedServer, stream: str, how: str
) -> None:
    """The server may change the order of JSON keys."""

    def reorder(message: bytes) -> bytes:
        return re.sub(rb'{("stream":"[^"]*"),( ?)("seq":\d+)}', rb"{\3,\2\1}", message)

    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.streams.create(stream)
        proxy.change = reorder
        async with asyncio.timeout(5):
            if how == "publish":
                receipts = [await conn.publish(stream, eda.Event(type="t")) for _ in range(3)]
            else:
                async with conn.publisher(stream, mode="window") as pub:
                    await pub.send(eda.Event(type="t"))
                    receipts = [await pub.send_and_wait(eda.Event(type="t")) for _ in range(2)]
                    assert pub.stats().resent == 0
        assert receipts[-1].sequence == 3
