"""eda.diagnosis: streams on a cluster whose servers leave, freeze or die."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import eda
import eda.diagnosis.durability_checks
from eda.jetstream.bucket import BUCKET_STREAM
from helpers import Logged, freeze, needs_freeze, until, wire_of
from support.diagnosis.settings import only, severities
from support.embedded.cluster import Cluster

ABOUT_SERVERS = {"no_leader", "replica_offline", "replica_behind"}


def about_servers(findings: list[eda.Finding]) -> dict[tuple[str | None, str], str]:
    """Return the severities of what is found about the servers of streams, by stream and check."""
    return {(each.stream, each.check): each.severity for each in findings if each.check in ABOUT_SERVERS}


async def create(cluster: Cluster, conn: eda.Conn, **replicas: int) -> None:
    """Create streams with so many replicas each."""
    for name, n in replicas.items():
        await conn.streams.create(name, eda.StreamOptions(replicas=n))
        if n == len(cluster.nodes):
            await cluster.until_current(name)


@asynccontextmanager
async def frozen_follower(cluster: Cluster, leader: str) -> AsyncIterator[str]:
    """Freeze a node that leads nothing, also not the cluster; the others would need seconds to elect a leader."""
    for name in cluster.nodes.keys() - {leader}:
        pid = cluster.nodes[name].pid
        assert pid is not None
        freeze(pid)
        try:
            if await cluster.api("INFO", frozen=name):
                yield name
                return
        finally:
            os.kill(pid, signal.SIGCONT)
    pytest.fail("no node but the leaders can be frozen")


async def test_diagnose_when_a_server_of_the_cluster_stops_names_the_streams_that_lack_it(
    tmp_path: Path, logged: Logged
) -> None:
    logged.allow("")
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn:
        await create(cluster, conn, one=1, three=3)
        async with conn.subscribe("one", lambda _: None, name="projector", durable=True, serial=True):
            findings = await conn.diagnose()
        assert about_servers(findings) == {}
        assert [(each.stream, each.severity) for each in findings if each.check == "replicas"] == [("one", "warning")]
        victim = await cluster.leader("one")
        lacking: dict[tuple[str | None, str], str] = {
            ("one", "no_leader"): "problem",
            ("three", "replica_offline"): "warning",
        }
        if await cluster.leader(BUCKET_STREAM) == victim:
            lacking[BUCKET_STREAM, "no_leader"] = "problem"
        await cluster.nodes[victim].stop()
        await cluster.until_led()

        async def is_told() -> bool:
            return about_servers(await conn.diagnose()) == lacking

        await until(is_told, 30)
        findings = await conn.diagnose(["one", "three"])
        assert about_servers(findings) == lacking
        assert f"don't answer: {victim}." in only(findings, "replica_offline").message


@needs_freeze
async def test_diagnose_when_a_replica_is_frozen_says_that_it_lacks_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path) as cluster:
        async with eda.connect(cluster.urls) as conn:
            await create(cluster, conn, three=3)
            leader = await cluster.leader("three")
        async with frozen_follower(cluster, leader) as victim, eda.connect(cluster.nodes[leader].url) as conn:
            await conn.publish("three")
            found = only(await conn.diagnose(["three"]), "replica_behind")
            assert (found.severity, found.stream) == ("warning", "three")
            assert f"do not have all events yet: {victim}." in found.message
            monkeypatch.setattr(eda.diagnosis.durability_checks, "SILENT_S", 0.0)
            assert about_servers(await conn.diagnose(["three"])) == {("three", "replica_offline"): "warning"}


async def test_diagnose_when_most_servers_of_a_stream_stop_says_that_it_has_no_leader(
    tmp_path: Path, logged: Logged
) -> None:
    logged.allow("")
    async with Cluster(tmp_path, n_nodes=5) as cluster, eda.connect(cluster.urls) as conn:
        await create(cluster, conn, three=3)
        for _ in range(2):
            await cluster.nodes[await cluster.leader("three")].stop()
        await cluster.until_led()
        found = only(await conn.diagnose(), "no_leader")
        assert (found.severity, found.stream) == ("problem", "three")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no signal tells a server to leave")
async def test_diagnose_when_the_server_is_about_to_end_says_so(tmp_path: Path, logged: Logged) -> None:
    logged.allow("")
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.nodes["n1"].url) as conn:
        assert "lame_duck" not in severities(await conn.diagnose())
        pid = cluster.nodes["n1"].pid
        assert pid is not None
        os.kill(pid, signal.SIGUSR2)
        await until(lambda: wire_of(conn).is_lame_duck)
        await until(lambda: cluster.api("INFO", frozen="n1"))
        assert only(await conn.diagnose(), "lame_duck").severity == "warning"
        await cluster.kill("n1")
        await until(lambda: wire_of(conn).is_up and wire_of(conn).info["server_name"] != "n1")
        assert "lame_duck" not in severities(await conn.diagnose())
