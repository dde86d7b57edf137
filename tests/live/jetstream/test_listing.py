"""Lists of streams and subscriptions while servers of a cluster are away."""

from __future__ import annotations

from pathlib import Path

import pytest

import eda
from helpers import Logged, until
from support.embedded.cluster import Cluster

LEFT_OUT = "no server answers for 1 streams, left out of a list: one"


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_list_when_the_only_server_of_a_stream_is_away_says_what_is_left_out(
    tmp_path: Path, logged: Logged, is_killed: bool
) -> None:
    logged.allow("")
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn:
        for name, replicas in (("one", 1), ("three", 3)):
            await conn.streams.create(name, eda.StreamOptions(replicas=replicas))
            async with conn.subscribe(name, print, name="kept", durable=True):
                pass
        victim = await cluster.leader("one")
        if is_killed:
            await cluster.kill(victim)
        else:
            await cluster.nodes[victim].stop()
        await cluster.until_led()
        await cluster.leader("three")
        await until(lambda: conn.state in ("connected", "reconnected"))
        assert [info.name for info in await conn.streams.list()] == ["three"]
        # Each list takes some 4 s if the cluster does not know yet that the server is away.
        assert [each.stream for each in await conn.subscriptions()] == ["three"]
        assert [each.levelname for each in logged.find(LEFT_OUT)] == ["WARNING", "DEBUG"]
        await cluster.start(victim)
        await cluster.leader("one")
        assert [info.name for info in await conn.streams.list()] == ["one", "three"]
        assert [each.stream for each in await conn.subscriptions()] == ["one", "three"]
