"""conn.publish and publish_batch while a stream of the same name in another JetStream domain answers too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
from helpers import freeze, needs_freeze, until
from support.embedded.domains import Domains
from support.publishing.sent import ids_of, numbered, stored_ids


async def test_publish_when_two_domains_answer_gives_the_place_in_the_one_that_is_meant(
    domains: Domains, gateway: eda.Conn
) -> None:
    async with eda.connect(domains.hub.url) as at_hub:
        await at_hub.streams.update("orders", eda.StreamOptions(max_events=1000))
        await at_hub.publish("orders", eda.Event(id="other", type="x"))
    async with eda.connect(domains.leaf.url) as at_leaf:
        await until(lambda: stored_at(at_leaf, 1))
    receipts = [await gateway.publish("orders", event) for event in numbered(20)]
    assert ids_of(receipts) == (await stored_ids(domains.hub.url, "orders"))[1:]
    assert [each.sequence for each in receipts] == list(range(2, 22))


async def stored_at(conn: eda.Conn, n: int) -> bool:
    return (await conn.streams.info("orders")).events >= n


async def test_publish_when_another_domain_refuses_succeeds(domains: Domains, gateway: eda.Conn) -> None:
    await domains.change("edge", max_msg_size=10)
    receipts = await asyncio.gather(*(gateway.publish("orders", event) for event in numbered(20)))
    assert sorted(ids_of(receipts)) == sorted(await stored_ids(domains.hub.url, "orders"))


async def test_publish_when_the_meant_domain_refuses_fails_though_another_stores(
    domains: Domains, gateway: eda.Conn
) -> None:
    await domains.change("hub", max_msg_size=10)
    began = time.monotonic()
    with pytest.raises(eda.ServerError) as caught:
        await gateway.publish("orders", eda.Event(data=eda.Bytes(bytes(100))))
    assert caught.value.err_code == 10054
    assert time.monotonic() - began < 3


async def test_batch_when_two_domains_answer_is_that_of_the_one_that_is_meant(
    domains: Domains, gateway: eda.Conn
) -> None:
    async with eda.connect(domains.hub.url) as at_hub:
        await at_hub.publish("orders")
    for n in range(0, 100, 10):
        receipts = await gateway.publish_batch("orders", numbered(10, start=n))
        assert [each.sequence for each in receipts] == list(range(n + 2, n + 12))
    assert (await stored_ids(domains.hub.url, "orders"))[1:] == [event.id for event in numbered(100)]


@pytest.mark.parametrize("settings", [{"allow_atomic": False}, {"max_msg_size": 10}], ids=repr)
async def test_batch_when_another_domain_refuses_is_stored(
    domains: Domains, gateway: eda.Conn, settings: dict[str, Any]
) -> None:
    await domains.change("edge", **settings)
    for n in range(0, 50, 10):
        await gateway.publish_batch("orders", numbered(10, start=n))
    assert await stored_ids(domains.hub.url, "orders") == [event.id for event in numbered(50)]


@needs_freeze
async def test_batch_when_the_meant_domain_is_gone_does_not_return(
    domains: Domains, gateway: eda.Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(eda.publishing.atomic_batch, "TIMEOUT_S", 2.0)
    original = eda.publishing.atomic_batch.AtomicBatch._try
    pid = domains.hub.pid
    assert pid is not None
    frozen: list[int] = []

    async def after_a_freeze(self: Any) -> Any:
        if not frozen:
            frozen.append(pid)
            freeze(pid)
        return await original(self)

    monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "_try", after_a_freeze)
    try:
        with pytest.raises(eda.Timeout):
            await gateway.publish_batch("orders", numbered(3))
    finally:
        os.kill(pid, signal.SIGCONT)
    async with eda.connect(domains.leaf.url) as at_leaf:
        assert (await at_leaf.streams.info("orders")).events == 3  # the other domain's stream has answered
