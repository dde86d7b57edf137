"""A publisher under load while server and network fail: every event is stored once, in order, with one outcome."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import pytest

import eda
from helpers import freeze, needs_freeze, until
from support.publishing.sent import MODES_AND_PACKS, Outcomes, endless, numbered, options_of, stored_ids
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

pytestmark = pytest.mark.parametrize("mode", MODES_AND_PACKS)


@pytest.fixture
async def proxy(own_server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(own_server.port) as proxy:
        yield proxy


class Load:
    """Sends events to a publisher without pause. At the end of the context, all outcomes are checked."""

    def __init__(self, server: eda.EmbeddedServer, mode: str, *, url: str = "", n_ready: int = 100, **options) -> None:
        self.server = server
        self.mode = mode
        self.url = url or server.url
        self.n_ready = n_ready
        self.options = options
        self.outcomes = Outcomes()
        self.ids: list[str] = []

    async def __aenter__(self) -> Load:
        self.conn = await eda.connect(self.url, client="loader")
        options = {"ack_timeout_s": 1.0, "max_pending": 1000} | options_of(self.mode) | self.options
        self.pub = await self.conn.publisher("stream", **self.outcomes.callbacks, **options)
        self._ending = False
        self._sending = asyncio.create_task(self._send())
        return self

    async def _send(self) -> None:
        for i, event in enumerate(endless(), 1):
            self.ids.append(await self.pub.send(event))
            if self._ending:
                return
            if i % 50 == 0:
                await asyncio.sleep(0.001)

    def is_full(self) -> bool:
        """Return whether a sender waits for room."""
        return bool(self.pub._senders)

    async def more(self, n: int = 0, timeout_s: float = 20.0) -> None:
        """Wait until `n` more events are acknowledged."""
        goal = self.pub.stats().acknowledged + (n or self.n_ready)
        await until(lambda: self.pub.stats().acknowledged >= goal, timeout_s)

    async def __aexit__(self, exc_type: object, *_: object) -> None:
        self._ending = True
        try:
            async with asyncio.timeout(30):
                await self._sending
                await self.pub.flush()
            if exc_type is None:
                self.outcomes.check(self.ids, await stored_ids(self.server.url, "stream"), self.pub.stats())
                assert not self.outcomes.failed
        finally:
            self._sending.cancel()
            await self.pub.close()
            await self.conn.close()


async def test_publisher_when_the_server_is_killed_twenty_times_loses_nothing(
    own_server: eda.EmbeddedServer, mode: str
) -> None:
    async with Load(own_server, mode) as load:
        for _ in range(20):
            await load.more(1000)
            await own_server.kill()
            await own_server.start()
        await load.more(1000)
    assert len(load.ids) > 20_000


async def test_publisher_when_connections_are_cut_at_random_bytes_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    chance = random.Random(mode)
    async with Load(own_server, mode, url=proxy.url(own_server.url)) as load:
        for _ in range(40):
            # On a busy machine a handshake may fail by itself, so a new connection alone is no sign of a cut.
            n_cut, n_accepted = proxy.n_cut, proxy.n_accepted
            if chance.random() < 0.5:
                proxy.cut_after(chance.randrange(100_000), UP)
            else:
                proxy.cut_after(chance.randrange(2000 if mode.startswith("fast") else 20_000), DOWN)
            await until(lambda cut=n_cut, was=n_accepted: proxy.n_cut > cut and proxy.n_accepted > was, 20)
        await load.more()
    assert proxy.n_cut >= 40


async def test_publisher_when_half_of_the_acknowledgements_is_dropped_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    chance = random.Random(mode)
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=0.1, max_pending=100) as load:
        await load.more()
        proxy.drop_if = lambda message: b"{" in message and chance.random() < 0.5
        await load.more(500)
        await until(lambda: load.pub.stats().resent > 0)
        proxy.drop_if = None
        await load.more()


async def test_publisher_when_all_acknowledgements_are_dropped_for_a_while_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=0.3) as load:
        await load.more()
        proxy.drop_if = lambda message: b"{" in message
        await until(load.is_full)
        await until(lambda: proxy.n_dropped > 5)
        await asyncio.sleep(0.7)
        proxy.drop_if = None
        await load.more()
    assert load.pub.stats().resent > 0


async def test_publisher_when_the_last_acknowledgement_is_dropped_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    outcomes = Outcomes()
    async with eda.connect(proxy.url(own_server.url)) as conn:
        async with conn.publisher("stream", **options_of(mode), ack_timeout_s=0.2, **outcomes.callbacks) as pub:
            ids: list[str] = []
            for n in range(1, 6):
                proxy.drop_if = lambda message, n=n: b'"stream":"stream"' in message and proxy.n_dropped < n
                ids += await pub.send_many(numbered(n, start=n * 10))
                async with asyncio.timeout(10):
                    await pub.flush()
                assert proxy.n_dropped == n
            outcomes.check(ids, await stored_ids(own_server.url, "stream"), pub.stats())
            assert not outcomes.failed
            assert pub.stats().resent >= 5


@needs_freeze
async def test_publisher_when_the_server_is_stopped_for_three_seconds_loses_nothing(
    own_server: eda.EmbeddedServer, mode: str
) -> None:
    async with Load(own_server, mode) as load:
        await load.more()
        process = own_server.process
        assert process is not None
        freeze(process.pid)
        try:
            await until(load.is_full)
            await asyncio.sleep(3)
            assert load.pub.stats().failed == 0
        finally:
            process.send_signal(signal.SIGCONT)
        await load.more(1000)


async def test_publisher_when_the_network_holds_longer_than_the_acknowledgement_timeout_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=0.2) as load:
        for _ in range(3):
            await load.more()
            proxy.hold()
            await until(load.is_full)
            n = load.pub.stats().resent
            await until(lambda n=n: load.pub.stats().resent > n)
            proxy.release()
        await load.more(1000)


async def test_publisher_when_one_direction_is_lost_for_a_while_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=0.3) as load:
        for way in (UP, DOWN):
            await load.more()
            proxy.lost = {way}
            await until(load.is_full)
            # Lost bytes leave both ends in the middle of a frame, so a new connection is needed.
            proxy.cut()
            proxy.lost = set()
        await load.more(1000)


async def test_publisher_when_every_byte_comes_alone_is_acknowledged(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    proxy.one_byte = True
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=5, max_pending=20, n_ready=40):
        await until(lambda: proxy.n_bytes[DOWN] > 1000)


async def test_publisher_when_the_network_is_slow_is_acknowledged(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    async with Load(own_server, mode, url=proxy.url(own_server.url), ack_timeout_s=5) as load:
        proxy.delay_s = 0.05
        await load.more(1000)
        proxy.delay_s = 0
        proxy.rate = 200_000
        await load.more(1000)
        proxy.rate = None
    assert load.pub.stats().resent == 0


async def test_publisher_when_the_cluster_has_no_leader_after_a_reconnect_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: str
) -> None:
    """Until a leader is elected, JetStream requests get 503. The publisher must not fail its events for that."""
    n_told = 0

    def without_leader(message: bytes) -> bytes:
        nonlocal n_told
        line, _, body = message.partition(b"\r\n")
        if b"account_info_response" not in body:
            return message
        n_told += 1
        answer = b'{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}'
        return b"%b %d\r\n%b\r\n" % (line.rpartition(b" ")[0], len(answer), answer)

    async with Load(own_server, mode, url=proxy.url(own_server.url)) as load:
        await load.more()
        proxy.change = without_leader
        proxy.cut()
        await until(lambda: n_told >= 4)
        assert load.pub.stats().failed == 0
        proxy.change = bytes
        await load.more(1000)
