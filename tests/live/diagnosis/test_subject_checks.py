"""eda.diagnosis: subjects of a stream, and other streams that listen to them."""

from __future__ import annotations

import pytest

import eda
from helpers import Admin, until
from support.diagnosis.settings import create, only, severities
from support.embedded.domains import Domains


@pytest.mark.parametrize(
    ("subjects", "check", "severity", "told"),
    [
        (["elsewhere.>"], "subjects", "problem", "eda can't publish to it; it listens to elsewhere.>"),
        (["{}.made.*"], "subjects", "warning", "some types and aggregates only"),
        (["{}.>", "elsewhere.*"], "foreign_subjects", "note", "also stores what is published to elsewhere.*"),
    ],
)
async def test_diagnose_when_the_subjects_differ_says_what_follows(
    admin: Admin, conn: eda.Conn, stream: str, subjects: list[str], check: str, severity: str, told: str
) -> None:
    await create(admin, stream, subjects=[each.format(stream) for each in subjects])
    found = only(await conn.diagnose([stream]), check)
    assert (found.severity, found.stream) == (severity, stream)
    assert told in found.message


async def test_diagnose_when_another_stream_listens_to_its_subjects_names_it(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    other = f"{stream}-other"
    await create(admin, stream, subjects=[f"{stream}.made.*"])
    await admin.api(f"STREAM.CREATE.{other}", {"name": other, "subjects": [f"{stream}.paid.*", "unrelated.x"]})
    try:
        found = only(await conn.diagnose([stream]), "subject_overlap")
        assert found.severity == "problem"
        assert found.message == (
            f"The stream {other} listens to {stream}.paid.*: it stores events that are published to {stream}."
        )
    finally:
        await admin.js.delete_stream(other)


async def test_diagnose_when_the_name_is_none_of_eda_examines_it_only_if_it_is_named(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    await create(admin, stream, subjects=[f"{stream}-elsewhere.>"])
    findings = await conn.diagnose()
    assert stream not in {each.stream for each in findings}
    assert only(findings, "other_streams").severity == "ok"
    assert severities(await conn.diagnose([stream]))["subjects"] == "problem"


async def test_diagnose_when_there_is_no_such_stream_raises(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound, match=stream):
        await conn.diagnose([stream])


async def test_diagnose_when_the_names_are_no_list_of_names_refuses(conn: eda.Conn) -> None:
    with pytest.raises(eda.ConfigError, match=r"write \['orders'\]"):
        await conn.diagnose("orders")
    with pytest.raises(eda.ConfigError, match="stream must be"):
        await conn.diagnose(["a.b"])


async def test_diagnose_when_another_domain_has_a_stream_of_the_name_says_that_both_store_events(
    domains: Domains, gateway: eda.Conn
) -> None:
    async with eda.connect(domains.hub.url) as hub, eda.connect(domains.leaf.url) as leaf:
        for conn, other in ((gateway, "edge"), (hub, "edge"), (leaf, "hub")):
            found = only(await conn.diagnose(), "domain_overlap")
            assert (found.severity, found.stream) == ("warning", "orders")
            assert f"The stream orders of the JetStream domain {other} listens to orders, orders.>." in found.message
        await leaf.publish("orders")
        # It is so: the other stream stores the event as well.
        await until(lambda: has_events(hub, 1))
        await domains.change("edge", subjects=["elsewhere"])
        for conn in (gateway, hub):
            assert "domain_overlap" not in severities(await conn.diagnose())


async def test_diagnose_when_the_credentials_may_not_ask_for_domains_goes_without() -> None:
    denied = {"publish": {"deny": ["$SYS.>"]}}
    users = [{"user": "a", "password": "b", "permissions": denied}]
    config = {"jetstream": {"domain": "hub"}, "authorization": {"users": users}}
    async with (
        eda.EmbeddedServer(config=config) as server,
        eda.connect(f"127.0.0.1:{server.port}", user="a", password="b") as conn,
    ):
        await conn.streams.create("orders")
        assert severities(await conn.diagnose()) == {"sync_interval": "note", "replicas": "note"}


async def has_events(conn: eda.Conn, n: int) -> bool:
    return (await conn.streams.info("orders")).events == n
