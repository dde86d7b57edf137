"""Connections that are cut at every byte of a pack, in both directions, and acknowledgements of packs that are lost."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

import eda
import eda.options
from helpers import until
from support.faults.evidence import Place, assert_stored_once, read_stream
from support.faults.scene import IS_LONG, KINDS, LISTS, scaled
from support.publishing.sent import MODES
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy, Way

Report = Callable[[Mapping[str, object]], None]
WAYS = (UP, DOWN)
SIZE = 5  # events of a pack
PACK = eda.Pack(max_events=SIZE, linger_s=10)
STEP = scaled(7, 1)  # bytes from one cut to the next


def packs() -> Any:
    """Yield the events of one pack after the other."""
    for number in itertools.count():
        yield [
            eda.Event(id=f"e{number:05}-{i}", type="t", aggregate=str(i % 3), data=eda.Bytes(bytes(8)))
            for i in range(SIZE)
        ]


async def cut(proxy: FaultyProxy, n: int, way: Way) -> None:
    """Have the connection cut after `n` bytes, from when nothing is under way."""
    before = -1
    while proxy.n_bytes[UP] + proxy.n_bytes[DOWN] != before:
        before = proxy.n_bytes[UP] + proxy.n_bytes[DOWN]
        await asyncio.sleep(0.005)
    proxy.cut_after(n, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_publisher_when_it_is_cut_at_each_byte_of_a_pack_stores_each_event_once(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, mode: Any, way: Way, report: Report
) -> None:
    """What is cut is the pack on its way to the server, or its acknowledgement. The pack is sent again as it was.

    Each receipt says where the event is, also if the pack had been stored by the first attempt.
    """
    acknowledged: list[str] = []
    receipts: list[eda.Receipt] = []
    async with eda.connect(proxy.url(own_server.url)) as conn:
        await conn.streams.create("stream", eda.StreamOptions(packed=True))
        async with conn.publisher(
            "stream", pack=PACK, mode=mode, ack_timeout_s=1.0, on_ack=lambda each, _: acknowledged.append(each)
        ) as publisher:
            events = packs()
            await publisher.send_many(next(events))
            await publisher.flush()
            before = proxy.n_bytes[way]
            await publisher.send_many(next(events))
            await publisher.flush()
            size = proxy.n_bytes[way] - before
            assert size > (SIZE * 20 if way == UP else 20)
            for n in range(0, size, STEP):
                await cut(proxy, n, way)
                receipts += await asyncio.gather(*map(publisher.send_and_wait, next(events)))
                await publisher.flush()
    stored = await read_stream(own_server.url, "stream")
    report({"bytes": size, "cuts": proxy.n_cut})
    assert proxy.n_cut >= size // STEP
    assert Counter(acknowledged) == Counter(each.id for each in stored)
    assert_stored_once(acknowledged, stored)
    assert [each.id for each in stored] == sorted(acknowledged)
    places = {each.id: each.place for each in stored}
    assert [(each.sequence, each.index) for each in receipts] == [places[each.id] for each in receipts]
    assert len(receipts) == len(stored) - 2 * SIZE
    assert {each.n_beside for each in stored} == {SIZE - 1}


@pytest.mark.parametrize("way", WAYS)
async def test_subscriptions_when_they_are_cut_at_each_byte_of_a_pack_handle_each_event(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch, way: Way, report: Report
) -> None:
    """What is cut is the pack on its way to the subscription, or its acknowledgement, or a position.

    Each kind of subscription has a connection of its own. Ordered ones handle no event twice. The shared one gets what
    was cut off when its lease is over.
    """
    monkeypatch.setattr(eda.options, "MIN_LEASE_S", 0.3)
    monkeypatch.setattr(eda.options, "DEFAULT_LEASE_S", 0.3)
    kinds = KINDS | LISTS
    handled: dict[str, Counter[Place]] = {kind: Counter() for kind in kinds}

    def handler(kind: str) -> Callable[[Any], Any]:
        async def handle(what: eda.Event | list[eda.Event]) -> None:
            await asyncio.sleep(0)
            handled[kind].update(
                (event.sequence, event.index) for event in (what if isinstance(what, list) else [what])
            )

        return handle

    n_cuts = {}
    events = packs()
    async with eda.connect(own_server.url) as conn, AsyncExitStack() as stack:
        await conn.streams.create("stream", eda.StreamOptions(packed=True))
        publisher = await stack.enter_async_context(conn.publisher("stream", pack=PACK))
        proxies = {}
        for kind, options in kinds.items():
            proxies[kind] = await stack.enter_async_context(FaultyProxy(own_server.port))
            suffering = await stack.enter_async_context(eda.connect(proxies[kind].url(own_server.url)))
            await suffering.subscribe("stream", handler(kind), name=kind, **options)

        async def more() -> None:
            """Publish a pack, and wait until all have handled it."""
            await publisher.send_many(next(events))
            await publisher.flush()
            n = publisher.stats().acknowledged
            await until(lambda: all(len(each) == n for each in handled.values()), 20)

        await more()
        before = {kind: each.n_bytes[way] for kind, each in proxies.items()}
        await more()
        await asyncio.sleep(0.05)  # what is written after the handlers
        size = max(each.n_bytes[way] - before[kind] for kind, each in proxies.items())
        for n in range(0, size, 2 * STEP if not IS_LONG else 1):
            await asyncio.gather(*(cut(each, n, way) for each in proxies.values()))
            await more()
        n_cuts = {kind: each.n_cut for kind, each in proxies.items()}
    stored = await read_stream(own_server.url, "stream")
    again = {kind: sum(each.values()) - len(each) for kind, each in handled.items()}
    report(again | {"bytes": size, "cuts": sum(n_cuts.values())})
    assert min(n_cuts.values()) > 5
    for kind, each in handled.items():
        assert set(each) == {event.place for event in stored}, kind
        assert again[kind] <= (n_cuts[kind] * SIZE if kind == "shared" else 0), kind


async def test_publisher_when_acknowledgements_of_packs_are_lost_stores_each_event_once(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, report: Report
) -> None:
    """Every third acknowledgement is taken out of the stream of bytes. The pack is sent again under its id."""
    numbers = itertools.count()
    acknowledged: list[str] = []
    async with eda.connect(proxy.url(own_server.url)) as conn:
        await conn.streams.create("stream", eda.StreamOptions(packed=True))
        async with conn.publisher(
            "stream", pack=PACK, mode="window", ack_timeout_s=0.2, on_ack=lambda each, _: acknowledged.append(each)
        ) as publisher:
            proxy.drop_if = lambda message: b'"stream":"stream"' in message and next(numbers) % 3 == 0
            for events in itertools.islice(packs(), scaled(40, 400)):
                await publisher.send_many(events)
            await publisher.flush()
            proxy.drop_if = None
    stored = await read_stream(own_server.url, "stream")
    report({"events": len(stored), "lost": proxy.n_dropped})
    assert proxy.n_dropped >= 10
    assert Counter(acknowledged) == Counter(each.id for each in stored)
    assert_stored_once(acknowledged, stored)
