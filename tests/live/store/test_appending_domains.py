"""Appends into a stream of another domain, while a stream of the same name at hand answers as well."""

from __future__ import annotations

import asyncio
import time

import pytest

import eda
from eda.store.appending import Refused
from helpers import until
from support.embedded.domains import Domains
from support.store.appends import Writer

single_or_batch = pytest.mark.parametrize("ids", [["i1"], ["i1", "i2", "i3"]], ids=["single", "batch"])


async def fill(url: str, *ids: str) -> None:
    async with eda.connect(url) as conn:
        await Writer(conn, "orders").store(*ids, sequence=0)


async def _events(conn: eda.Conn) -> int:
    return (await conn.streams.info("orders")).events


@single_or_batch
async def test_append_when_only_the_other_domain_refuses_is_stored(
    domains: Domains, gateway: eda.Conn, ids: list[str]
) -> None:
    await fill(domains.leaf.url, "x1")
    await until(lambda: _events(gateway))  # both streams have stored it
    await gateway.streams.purge("orders")
    stored = await Writer(gateway, "orders").store(*ids, sequence=0)
    assert stored.sequences == list(range(2, 2 + len(ids)))
    assert (await gateway.streams.info("orders")).events == len(ids)


@single_or_batch
async def test_append_when_the_right_domain_refuses_is_refused(
    domains: Domains, gateway: eda.Conn, ids: list[str]
) -> None:
    await fill(domains.hub.url, "x1")
    with pytest.raises(Refused):
        await Writer(gateway, "orders").store(*ids, sequence=0)
    assert (await gateway.streams.info("orders")).events == 1


async def test_conflict_when_the_server_has_a_domain_is_told_without_a_pause(domains: Domains) -> None:
    await fill(domains.hub.url, "x1")
    async with eda.connect(domains.hub.url) as conn:
        writer = Writer(conn, "orders")
        await writer.store("y", aggregate="b", sequence=0)
        began = time.monotonic()
        results = await asyncio.gather(*(writer.store(f"i{n}", sequence=0) for n in range(20)), return_exceptions=True)
        assert all(isinstance(each, Refused) for each in results)
        assert time.monotonic() - began < 0.25
