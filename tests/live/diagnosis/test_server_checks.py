"""eda.diagnosis: servers, accounts and clusters that are configured that way."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import nats
import pytest
from cryptography import x509

import eda
import eda.diagnosis.account_checks
import eda.diagnosis.facts
import eda.diagnosis.server_checks
from eda.jetstream.bucket import BUCKET_STREAM
from helpers import Admin, Logged
from support.diagnosis.settings import consume, create, only, severities
from support.embedded.cluster import Cluster
from support.transport.certificates import LOOPBACK, Authority


@asynccontextmanager
async def admin_of(url: str) -> AsyncIterator[Admin]:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        yield Admin(client)
    finally:
        await client.close()


@asynccontextmanager
async def limited(**limits: Any) -> AsyncIterator[str]:
    """Give the address of a server whose account has these limits; its user is `a` with the password `b`."""
    account = {"jetstream": {"max_mem": -1, "max_file": -1, **limits}, "users": [{"user": "a", "password": "b"}]}
    async with eda.EmbeddedServer(config={"authorization": None, "accounts": {"A": account}}) as server:
        yield f"127.0.0.1:{server.port}"


def own_address() -> str:
    """Return an address of this machine that is not loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has a loopback address only")
        return str(probe.getsockname()[0])


@pytest.mark.old_server
async def test_diagnose_when_the_server_is_old_says_what_it_lacks(server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    findings = await conn.diagnose([])
    version = tuple(map(int, server.version().split(".")[:3]))
    assert f"nats-server {server.version()}" in only(findings, "version").message
    lacking = {each.message.split(":")[0] for each in findings if each.check == "features" and each.severity == "note"}
    expected = {
        "event stores": (2, 11, 0),
        "message TTL": (2, 11, 0),
        "reliable filters": (2, 12, 0),
        "atomic batches": (2, 12, 1),
        "fast ingest": (2, 14, 0),
    }
    assert lacking == {f"The server does not have {name}" for name, since in expected.items() if version < since}
    is_unsound = (2, 12, 0) <= version < (2, 12, 14)
    assert ("unsound_batches" in severities(findings)) == is_unsound


async def test_diagnose_when_the_server_is_on_this_machine_finds_nothing_insecure(conn: eda.Conn) -> None:
    assert severities(await conn.diagnose([])) == {"sync_interval": "note"}


async def test_diagnose_when_the_server_lets_everybody_in_says_so() -> None:
    config = {"authorization": None}
    async with eda.EmbeddedServer(config=config, host="0.0.0.0") as server, eda.connect(server.url) as conn:
        assert severities(await conn.diagnose())["authentication"] == "warning"


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_diagnose_when_the_connection_leaves_the_machine_says_whether_others_can_read_it(
    tmp_path: Path, is_encrypted: bool
) -> None:
    address, authority = own_address(), Authority(tmp_path)
    settings = authority.issue("server", *LOOPBACK, x509.IPAddress(ip_address(address)))
    config = {"tls": settings, "allow_non_tls": True} if is_encrypted else {}
    options = {"tls": authority.context()} if is_encrypted else {}
    async with (
        eda.EmbeddedServer(config=config, host="0.0.0.0") as server,
        eda.connect(f"{address}:{server.port}", token=server.token, **options) as conn,
    ):
        assert severities(await conn.diagnose()).get("encryption") == (None if is_encrypted else "warning")


async def test_diagnose_when_payloads_are_small_says_so() -> None:
    async with eda.EmbeddedServer(config={"max_payload": 65536}) as server, eda.connect(server.url) as conn:
        found = only(await conn.diagnose(), "max_payload")
        assert (found.severity, found.message[:56]) == (
            "warning",
            "An event, or a pack of events, has at most 65.5 kB (max_",
        )


@pytest.mark.parametrize(("least_s", "severity"), [("SLOW_S", "note"), ("TOO_SLOW_S", "warning")])
async def test_diagnose_when_the_server_is_far_away_says_so(
    conn: eda.Conn, monkeypatch: pytest.MonkeyPatch, least_s: str, severity: str
) -> None:
    monkeypatch.setattr(eda.diagnosis.server_checks, "SLOW_S", 0.0)
    if least_s == "TOO_SLOW_S":
        monkeypatch.setattr(eda.diagnosis.server_checks, "TOO_SLOW_S", 0.0)
    assert only(await conn.diagnose([]), "round_trip").severity == severity


@pytest.mark.parametrize(("ahead_s", "severity"), [(10, "warning"), (-10, "warning"), (1000, "problem")])
async def test_diagnose_when_the_clocks_differ_says_by_how_much(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch, ahead_s: int, severity: str
) -> None:
    await conn.publish(stream)
    assert only(await conn.diagnose([]), "clock").severity == "ok"
    true_ns = eda.diagnosis.facts.time.time_ns
    monkeypatch.setattr(eda.diagnosis.facts.time, "time_ns", lambda: true_ns() - ahead_s * 10**9)
    found = only(await conn.diagnose([]), "clock")
    assert found.severity == severity
    assert ("ahead of" if ahead_s > 0 else "behind") in found.message


@pytest.mark.parametrize(
    ("limits", "check", "severity"),
    [
        ({"max_streams": 5}, None, None),
        ({"max_streams": 2}, "account_streams", "warning"),
        ({"max_streams": 1}, "account_streams", "problem"),
        ({"max_file": 1100}, "account_storage", "warning"),
        ({"max_file": 1000}, "account_storage", "problem"),
        ({"max_mem": 1100}, "account_memory", "warning"),
        ({"max_mem": 1000}, "account_memory", "problem"),
        ({"max_bytes_required": True}, "account_max_bytes_required", "note"),
        ({"max_ack_pending": 100}, "account_max_ack_pending", "note"),
        ({"disk_max_stream_bytes": 10**6}, "account_max_stream_bytes", "note"),
    ],
)
async def test_diagnose_when_the_account_has_limits_says_which_are_near(
    limits: dict[str, Any], check: str | None, severity: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limits == {"max_streams": 2}:
        monkeypatch.setattr(eda.diagnosis.account_checks, "NEARLY_FULL", 0.5)
    async with limited(**limits) as address:
        async with eda.connect(address, user="a", password="b") as conn:
            for storage in ("file", "memory") if "max_mem" in limits else ("file",):
                await conn.streams.create(f"in-{storage}", eda.StreamOptions(max_bytes=1000, storage=storage))
            findings = await conn.diagnose()
    found = {name: value for name, value in severities(findings).items() if name.startswith("account")}
    assert found == ({check: severity} if check else {})


@pytest.mark.parametrize(
    ("most", "own_most", "check", "owner"),
    [
        (2, -1, "account_consumers", "account"),
        (5, 2, "max_consumers", "stream"),
    ],
)
async def test_diagnose_when_the_account_limits_consumers_counts_those_of_each_stream(
    most: int, own_most: int, check: str, owner: str
) -> None:
    async with (
        limited(max_consumers=most) as address,
        eda.connect(address, user="a", password="b") as conn,
        admin_of(f"nats://a:b@{address}") as admin,
    ):
        for stream in ("full", "free"):
            await create(admin, stream, max_consumers=own_most)
        for name in ("one", "two"):
            await consume(admin, "full", name)
        await consume(admin, "free", "one")
        # The server counts the same way: the account has three consumers, and may get a fourth.
        with pytest.raises(AssertionError, match="maximum consumers limit reached"):
            await consume(admin, "full", "three")
        found = only(await conn.diagnose(), check)
        await consume(admin, "free", "two")
    assert (found.severity, found.stream) == ("problem", "full")
    assert f"has 2 of at most 2 consumers (max_consumers of the {owner})" in found.message


async def test_diagnose_when_the_credentials_may_not_read_consumers_says_so(logged: Logged) -> None:
    denied = ["$JS.API.CONSUMER.LIST.>"]
    users = [
        {"user": "a", "password": "a"},
        {"user": "b", "password": "b", "permissions": {"publish": {"deny": denied}}},
    ]
    logged.allow("")
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = f"127.0.0.1:{server.port}"
        async with eda.connect(address, user="a", password="a") as conn:
            await conn.streams.create("orders")
        async with eda.connect(address, user="b", password="b") as conn:
            found = only(await conn.diagnose(), "unread")
    assert (found.severity, found.stream) == ("note", "orders")
    assert found.message.startswith("The subscriptions of the stream could not be examined: ")


async def test_diagnose_when_positions_have_fewer_copies_than_a_stream_says_so(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn:
        await conn.streams.create("orders", eda.StreamOptions(replicas=3))
        async with admin_of(cluster.urls[0]) as admin:
            await create(admin, BUCKET_STREAM, subjects=["$KV.x.>"])
        found = only(await conn.diagnose(), "positions_replicas")
        assert found.severity == "warning"
        assert "have 1 replicas" in found.message


async def test_diagnose_when_the_positions_are_kept_in_memory_says_so(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn, admin_of(own_server.url) as admin:
        await create(admin, BUCKET_STREAM, subjects=["$KV.x.>"], storage="memory")
        assert severities(await conn.diagnose()) == {"sync_interval": "note", "positions_in_memory": "problem"}
