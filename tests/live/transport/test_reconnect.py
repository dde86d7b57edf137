"""A connection whose server goes away: what was going on goes on, and the state tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import eda
import eda.jetstream.streams
import eda.transport.wire
import servers as old_servers
from helpers import LOOPS, Logged, Proxy, freeze, needs_freeze, until, wire_of


@pytest.mark.old_server
async def test_state_when_the_server_restarts_tells_each_step(own_server: eda.EmbeddedServer) -> None:
    states: list[str] = []
    async with eda.connect(own_server.url, on_state=states.append) as conn:
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        await own_server.start()
        await until(lambda: conn.state == "reconnected")
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        await own_server.start()
        await until(lambda: conn.state == "reconnected")
        await conn.publish("stream")
    once = ["disconnected", "reconnected"]
    assert states == ["connected", *once, *once, "closed"]


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_publish_and_subscribe_when_the_server_is_killed_and_restarted_go_on(
    new_loop: Callable[[], asyncio.AbstractEventLoop], short_lease: float
) -> None:
    async def main() -> None:
        async with eda.EmbeddedServer() as server, asyncio.timeout(40):
            await go_on(server)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def go_on(server: eda.EmbeddedServer) -> None:
    """Publish and consume while the server is killed three times; nothing is lost."""
    sent: list[str] = []
    seen: Counter[str] = Counter()
    done = False

    async def publish(conn: eda.Conn) -> None:
        while not done:
            sent.append((await conn.publish("stream", eda.Event(type="t", aggregate=str(len(sent) % 7)))).id)

    async with eda.connect(server.url, client="me") as conn:
        async with conn.subscribe("stream", lambda event: seen.update([event.id]), durable=True, backfill=True):
            publishers = [asyncio.create_task(publish(conn)) for _ in range(8)]
            for _ in range(3):
                n = len(sent)
                await until(lambda n=n: len(sent) > n + 200)
                await server.kill()
                await asyncio.sleep(0.05)
                await server.start()
            n = len(sent)
            await until(lambda: len(sent) > n + 200)
            done = True
            await asyncio.gather(*publishers)
            await until(lambda: set(sent) <= set(seen), 15)
        info = await conn.streams.info("stream")
    assert set(seen) == set(sent)
    assert info.events == len(sent)


async def test_reconnect_when_it_is_another_server_knows_what_that_one_takes() -> None:
    config: dict[str, Any] = {"authorization": None}
    executable = old_servers.path_of(old_servers.OLDEST)
    oldest = eda.EmbeddedServer(config=config | {"max_payload": 4096}, executable=executable)
    async with eda.EmbeddedServer(config=config) as newest, oldest, Proxy(newest.port) as proxy:
        conn = await eda.connect(proxy.url(newest.url))
        big = eda.Event(data=eda.Bytes(bytes(10_000)))
        await conn.publish("stream", big)
        assert (await conn.streams.info("stream")).atomic
        proxy.target = oldest.port
        proxy.drop()
        await until(lambda: conn.state == "reconnected")
        with pytest.raises(eda.ConfigError, match="max_payload of 4096"):
            await conn.publish("stream", big)
        await conn.publish("stream")
        assert not (await conn.streams.info("stream")).atomic
        with pytest.raises(eda.NotSupported, match=r"nats-server 2\.10\.26"):
            await conn.streams.create("other", eda.StreamOptions(atomic=True))
        await conn.close()


async def test_reconnect_when_several_servers_are_known_takes_the_one_that_lives() -> None:
    config = {"authorization": None}
    async with eda.EmbeddedServer(config=config) as one, eda.EmbeddedServer(config=config) as other:
        states: list[str] = []
        async with eda.connect([one.url, other.url], on_state=states.append) as conn:
            for n in (1, 2, 3):
                assert wire_of(conn).connected_url is not None
                used = one if wire_of(conn).connected_url.port == one.port else other
                await used.kill()
                await until(lambda n=n: states.count("reconnected") == n)
                await conn.publish("stream")
                await used.start()


async def test_publish_when_the_server_is_away_waits_for_it(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        publishing = asyncio.gather(*(conn.publish("stream") for _ in range(100)))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        await own_server.start()
        ids = await asyncio.wait_for(publishing, 10)
        assert (await conn.streams.info("stream")).events == len(set(ids)) + 1 == 101


async def test_api_when_the_server_is_away_waits_for_it(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn:
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        listing = asyncio.create_task(conn.streams.list())
        await asyncio.sleep(0.05)
        await own_server.start()
        assert await asyncio.wait_for(listing, 10) == []


async def test_api_when_the_request_was_given_up_is_not_sent_after_the_reconnect(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("stream")
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        assert conn._lifetime._services is not None
        begin = time.monotonic()
        with pytest.raises(eda.Timeout):
            await conn._lifetime._services.api.request("STREAM.PURGE.stream", timeout_s=0.2)
        assert time.monotonic() - begin < 4
        await own_server.start()
        await until(lambda: conn.state == "reconnected")
        await conn.publish("stream")
        assert (await conn.streams.info("stream")).events == 2


async def test_delete_and_purge_when_the_server_is_slow_are_done_once(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.jetstream.streams, "ATTEMPT_TIMEOUT_S", 0.1)
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await conn.publish("stream")
        for work in (conn.streams.purge, conn.streams.delete):
            proxy.hold()
            proxy.sent.clear()
            working = asyncio.create_task(work("stream"))
            await asyncio.sleep(0.35)
            proxy.release()
            assert await asyncio.wait_for(working, 5) in (1, None)
            assert proxy.sent.count(b"PUB $JS.API.STREAM.") == 1


async def test_close_when_the_server_is_away_ends_in_time(own_server: eda.EmbeddedServer, logged: Logged) -> None:
    conn = await eda.connect(own_server.url)
    await conn.publish("stream")
    subscription = await conn.subscribe("stream", print, timeout_s=0.5)
    await own_server.kill()
    await until(lambda: conn.state == "disconnected")
    publishing = asyncio.create_task(conn.publish("stream"))
    await asyncio.sleep(0.01)
    begin = time.monotonic()
    await conn.close(timeout_s=0.5)
    assert time.monotonic() - begin < 4
    assert conn.state == "closed"
    assert logged.find("closed before these had ended: 1 publishes", logging.WARNING)
    with pytest.raises(eda.Closed):
        await publishing
    await subscription.wait()


async def test_close_when_the_server_is_away_and_closing_fails_is_closed_with_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def close_within(wire: eda.transport.wire.Wire, timeout_s: float) -> None:
        await original(wire, timeout_s)
        raise RuntimeError("nobody expects this")

    original = eda.transport.wire.Wire.close_within
    conn = await eda.connect("embedded:")
    process = conn._lifetime._server.process if conn._lifetime._server else None
    monkeypatch.setattr(eda.transport.wire.Wire, "close_within", close_within)
    with pytest.raises(RuntimeError):
        await conn.close()
    assert conn.state == "closed"
    assert process is not None
    assert process.returncode is not None


async def test_close_when_it_fails_after_a_handler_called_it_is_logged(
    server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    async def close_within(wire: eda.transport.wire.Wire, timeout_s: float) -> None:
        await original(wire, timeout_s)
        raise RuntimeError("nobody expects this")

    async def handle(event: eda.Event) -> None:
        await conn.close()

    original = eda.transport.wire.Wire.close_within
    conn = await eda.connect(server.url)
    await conn.publish("closes-in-a-handler")
    with monkeypatch.context() as patch:
        patch.setattr(eda.transport.wire.Wire, "close_within", close_within)
        await conn.subscribe("closes-in-a-handler", handle, backfill=True)
        await until(lambda: conn.state == "closed")
        await until(lambda: logged.find("closing the connection to .* failed"))
    logged.expect("closing the connection to .* failed")
    async with eda.connect(server.url) as other:
        await other.streams.delete("closes-in-a-handler")


@needs_freeze
async def test_close_when_the_server_is_frozen_ends_in_time(own_server: eda.EmbeddedServer) -> None:
    conn = await eda.connect(own_server.url)
    await conn.publish("stream")
    big = eda.Event(data=eda.Bytes(bytes(900_000)))
    assert own_server.pid is not None
    freeze(own_server.pid)
    try:
        publishing = [asyncio.create_task(conn.publish("stream", big)) for _ in range(40)]
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        await asyncio.wait_for(conn.close(timeout_s=0.5), 5)
        assert time.monotonic() - begin < 4
        for each in publishing:
            with pytest.raises(eda.Closed):
                await asyncio.wait_for(each, 5)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


async def test_connection_when_the_server_falls_silent_is_given_up_and_made_anew(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.transport.wire, "PING_INTERVAL_S", 0.2)
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await conn.publish("stream")
        proxy.hold()
        # More than the socket takes: the transport can't be emptied when it is closed.
        big = eda.Event(data=eda.Bytes(bytes(900_000)))
        publishing = [asyncio.create_task(conn.publish("stream", big)) for _ in range(30)]
        await until(lambda: conn.state == "disconnected", 5)
        proxy.release()
        await until(lambda: conn.state == "reconnected", 5)
        assert len(set(await asyncio.wait_for(asyncio.gather(*publishing), 15))) == 30
        assert (await conn.streams.info("stream")).events == 31


async def test_reconnect_when_the_connection_drops_again_and_again_goes_on(
    own_server: eda.EmbeddedServer, short_lease: float
) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url), client="me") as conn:
        ids: set[str] = set()
        seen: set[str] = set()
        async with conn.subscribe("stream", lambda event: seen.add(event.id), durable=True, backfill=True):
            for _ in range(10):
                publishing = asyncio.gather(*(conn.publish("stream") for _ in range(20)))
                await asyncio.sleep(0.01)
                n = proxy.n_accepted
                proxy.drop()
                await until(lambda n=n: proxy.n_accepted > n)
                ids |= {receipt.id for receipt in await asyncio.wait_for(publishing, 10)}
            await until(lambda: seen == ids)
        assert (await conn.streams.info("stream")).events == len(ids) == 200


async def test_reconnect_when_the_server_refuses_for_a_while_backs_off_and_succeeds(
    own_server: eda.EmbeddedServer,
) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        proxy.refusing = True
        proxy.drop()
        await until(lambda: proxy.n_accepted >= 5)
        proxy.refusing = False
        await until(lambda: conn.state == "reconnected")
        assert proxy.n_accepted < 12
        await conn.publish("stream")


@pytest.mark.parametrize("hook", ["_connect_to_server", "_process_connect_init"])
async def test_close_when_reconnecting_misses_its_cancellation_stays_closed(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    """As asyncio.wait_for does on Python 3.11 when what it waits for is done in the same turn of the loop."""
    original = getattr(eda.transport.wire.Wire, hook)
    reached = asyncio.Event()

    async def deaf(*args: Any) -> None:
        await original(*args)
        reached.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)

    states: list[str] = []
    async with eda.connect(own_server.url, on_state=states.append) as conn:
        wire = wire_of(conn)
        monkeypatch.setattr(eda.transport.wire.Wire, hook, deaf)
        await own_server.kill()
        await own_server.start()
        await reached.wait()
    assert wire.is_closed
    assert states[-1] == "closed"
    await asyncio.sleep(0.1)
    assert wire.is_closed
