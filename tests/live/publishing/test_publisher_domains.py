"""Publishing to a stream while a stream of the same name in another domain answers too."""

from __future__ import annotations

import asyncio
import time

import pytest

import eda
from helpers import Logged, until
from support.embedded.domains import Domains
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids

both = pytest.mark.parametrize("mode", MODES)


@both
async def test_publisher_when_two_domains_answer_is_acknowledged_by_the_one_that_is_meant(
    domains: Domains, gateway: eda.Conn, mode: str
) -> None:
    outcomes = Outcomes()
    async with asyncio.timeout(30), gateway.publisher("orders", mode=mode, **outcomes.callbacks) as pub:
        ids = [await pub.send(event) for event in numbered(10_000)]
        await pub.flush()
        ids.append(await pub.send(eda.Event(id="alone")))
        await pub.flush()
        assert pub.stats().pending == 0
    outcomes.check(ids, await stored_ids(domains.hub.url, "orders"), pub.stats())
    assert not outcomes.failed
    assert pub.stats().resent == 0


@both
@pytest.mark.parametrize(
    "limits",
    [{"max_pending": 4}, {"max_pending": 50}, {"max_pending": 65_536}, {"max_pending_bytes": 20_000}],
    ids=str,
)
async def test_publisher_when_the_window_fills_up_with_a_domain_goes_on(
    domains: Domains, gateway: eda.Conn, mode: str, limits: dict[str, int]
) -> None:
    n = 300 if limits.get("max_pending") == 4 else 12_000
    async with asyncio.timeout(30), gateway.publisher("orders", mode=mode, **limits) as pub:  # type: ignore[arg-type]
        ids = [await pub.send(event) for event in numbered(n)]
        await pub.flush()
    assert await stored_ids(domains.hub.url, "orders") == ids
    assert pub.stats().failed == 0


@both
async def test_publisher_when_the_meant_domain_is_gone_fails_with_who_has_answered(
    domains: Domains, gateway: eda.Conn, mode: str, logged: Logged
) -> None:
    outcomes = Outcomes()
    async with gateway.publisher("orders", mode=mode, timeout_s=2.0, ack_timeout_s=0.5, **outcomes.callbacks) as pub:
        await pub.send_many(numbered(100))
        await pub.flush()
        await domains.hub.kill()
        ids = await pub.send_many(numbered(700, start=100))
        begin = time.monotonic()
        await pub.flush()
        assert 1 < time.monotonic() - begin < 10
    assert pub.stats().acknowledged == 100
    assert list(outcomes.failed) == ids
    for error in outcomes.errors.values():
        assert isinstance(error, eda.Timeout)
        assert "domain 'edge' has answered" in str(error.__cause__)
    assert len(logged.find("domain 'edge' acknowledges events that are published to domain 'hub'")) == 1


@both
async def test_publisher_when_the_meant_domain_comes_back_stores_all(
    domains: Domains, gateway: eda.Conn, mode: str
) -> None:
    outcomes = Outcomes()
    async with gateway.publisher("orders", mode=mode, ack_timeout_s=0.5, **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(100))
        await pub.flush()
        await domains.hub.kill()
        ids += await pub.send_many(numbered(700, start=100))
        await asyncio.sleep(1.0)
        assert pub.stats().pending == 700
        await domains.hub.start()
        async with asyncio.timeout(30):
            await pub.flush()
    outcomes.check(ids, await stored_ids(domains.hub.url, "orders"), pub.stats())
    assert not outcomes.failed


@both
async def test_publisher_when_another_domain_refuses_is_acknowledged_by_the_one_that_is_meant(
    domains: Domains, gateway: eda.Conn, mode: str
) -> None:
    await domains.change("edge", max_msgs=5, discard="new", max_msg_size=300)
    outcomes = Outcomes()
    async with asyncio.timeout(30), gateway.publisher("orders", mode=mode, **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(3))
        ids += await pub.send_many(numbered(2000, start=3, size=400))
        await pub.flush()
        ids += await pub.send_many(numbered(3, start=5000))
        await pub.flush()
    outcomes.check(ids, await stored_ids(domains.hub.url, "orders"), pub.stats())
    assert not outcomes.failed


@both
async def test_publisher_when_the_meant_domain_refuses_fails_though_another_stores(
    domains: Domains, gateway: eda.Conn, mode: str
) -> None:
    await domains.change("hub", max_msgs=5, discard="new")
    outcomes = Outcomes()
    async with asyncio.timeout(30), gateway.publisher("orders", mode=mode, **outcomes.callbacks) as pub:
        await pub.send_many(numbered(8))
        await pub.flush()
    assert list(outcomes.acknowledged) == [event.id for event in numbered(5)]
    assert {type(error) for error in outcomes.errors.values()} == {eda.ServerError}
    assert await stored_ids(domains.hub.url, "orders") == list(outcomes.acknowledged)


@both
async def test_publisher_when_the_server_has_one_domain_of_its_own_works(domains: Domains, mode: str) -> None:
    async with eda.connect(domains.leaf.url) as conn:
        outcomes = Outcomes()
        async with asyncio.timeout(30), conn.publisher("orders", mode=mode, **outcomes.callbacks) as pub:
            ids = await pub.send_many(numbered(5000))
        outcomes.check(ids, await stored_ids(domains.leaf.url, "orders"), pub.stats())
        assert pub.stats().acknowledged == 5000


async def test_publish_when_the_meant_domain_is_gone_does_not_return(domains: Domains, gateway: eda.Conn) -> None:
    await gateway.publish("orders", eda.Event(id="before"))
    await domains.hub.kill()
    with pytest.raises(eda.Timeout) as caught:
        await gateway.publish("orders", eda.Event(id="after"), timeout_s=1.0)
    assert "domain 'edge' has answered" in str(caught.value.__cause__)
    await domains.hub.start()
    await domains.until_linked()
    await until(lambda: stored_ids(domains.hub.url, "orders"))
    assert await stored_ids(domains.hub.url, "orders") == ["before"]
