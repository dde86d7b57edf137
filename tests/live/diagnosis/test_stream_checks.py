"""eda.diagnosis: what is found about streams that are configured that way on a real server."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from helpers import Admin
from support.diagnosis.settings import consume, create, only, severities

# What a stream has that eda itself creates on a single server.
USUAL = {"sync_interval": "note", "replicas": "note"}

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("settings", "check", "severity", "told"),
    [
        ({"storage": "memory"}, "memory_storage", "warning", "when its servers stop, all its events are lost"),
        ({"persist_mode": "async"}, "async_persist", "warning", "if it is killed, acknowledged events are lost"),
        ({"duplicate_window": 5 * SECOND}, "dedup_window", "warning", "gives up after half of it, 2.5 s"),
        ({"duplicate_window": 30 * SECOND}, "dedup_window", "note", "remembers ids for 30 s"),
        ({"duplicate_window": 86400 * SECOND}, "dedup_window", "note", "keeps each of them in memory"),
        ({"allow_direct": False}, "direct_get", "note", "only its leader reads single events"),
        ({"allow_atomic": False}, "atomic", "note", "conn.publish_batch is refused"),
        ({"allow_batched": False}, "fast_ingest", "note", "publishers are slower"),
        ({"max_age": 3600 * SECOND}, "max_age", "note", "drops events after 60 min"),
        ({"max_msgs": 100}, "max_events", "note", "drops its oldest events, whether or not they were handled"),
        ({"max_bytes": 10**6, "discard": "new"}, "max_bytes", "note", "refuses new events: it has 0 B of 1 MB"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject", "warning", "keeps the last 1 events of each type"),
        (
            {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True},
            "max_msgs_per_subject",
            "warning",
            "refuses an event of a type and aggregate of which it has 1",
        ),
        ({"max_msg_size": 1024}, "max_msg_size", "note", "of more than 1.02 kB"),
        ({"retention": "interest"}, "retention", "warning", "until all consumers have acknowledged it"),
        ({"retention": "workqueue"}, "retention", "warning", "when one consumer has acknowledged it"),
        ({"no_ack": True}, "no_ack", "problem", "never acknowledges"),
        ({"allow_msg_counter": True}, "counter", "problem", "it refuses events"),
        ({"subject_transform": {"src": ">", "dest": "other.>"}}, "subject_transform", "warning", "'other.>'"),
        ({"consumer_limits": {"inactive_threshold": 60 * SECOND}}, "consumer_inactive_threshold", "problem", "60 s"),
        ({"consumer_limits": {"max_ack_pending": 10}}, "consumer_max_ack_pending", "note", "allows 10 unacknowledged"),
        ({"metadata": {"eda-store": "1"}, "deny_delete": True}, "deny_delete", "warning", "can't be forgotten"),
        ({"metadata": {"eda-store": "1"}, "allow_rollup_hdrs": True}, "rollup", "warning", "remove all earlier ones"),
        ({"metadata": {"eda-store": "1"}, "max_age": 3600 * SECOND}, "max_age", "problem", "refuses this stream"),
        ({"metadata": {"eda-store": "1"}, "max_msgs": 9}, "max_events", "problem", "refuses this stream"),
        (
            {"metadata": {"eda-store": "1"}, "max_msgs_per_subject": 9},
            "max_msgs_per_subject",
            "problem",
            "refuses this stream",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
async def test_diagnose_when_a_stream_has_a_setting_that_bites_says_so(
    admin: Admin, conn: eda.Conn, stream: str, settings: dict[str, Any], check: str, severity: str, told: str
) -> None:
    if settings.get("allow_msg_counter") or "persist_mode" in settings:
        settings = settings | {"allow_atomic": False, "allow_batched": False}
    await create(admin, stream, **settings)
    findings = await conn.diagnose([stream])
    found = only(findings, check)
    assert (found.severity, found.stream, found.subscription) == (severity, stream, None)
    assert told in found.message
    # Nothing else is found, except what every stream has and what was switched off above.
    others = severities(findings).keys() - USUAL.keys() - {check, "atomic", "fast_ingest"}
    assert others <= ({"dedup_window"} if "max_age" in settings else set())


async def test_diagnose_when_eda_made_the_stream_finds_only_what_every_server_has(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="made"))
    async with conn.subscribe(stream, lambda _: None, name="billing", durable=True, backfill=True):
        findings = await conn.diagnose([stream])
    assert severities(findings) == USUAL
    assert only(findings, "stream").message.startswith("The stream has 1 event, ")
    assert {each.check for each in findings} >= {"version", "features", "max_payload", "round_trip", "clock", "account"}
    assert all(each.message.endswith(".") for each in findings)
    assert all(each.advice is None or each.advice.endswith((".", "`.", ")")) for each in findings)


async def test_diagnose_when_a_stream_is_a_copy_names_its_origin(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await create(admin, stream)
    copies = {f"{stream}-mirror": {"mirror": {"name": stream}}, f"{stream}-sum": {"sources": [{"name": stream}]}}
    try:
        for name, settings in copies.items():
            await admin.api(f"STREAM.CREATE.{name}", {"name": name, **settings})
        findings = await conn.diagnose(list(copies))
        assert f"a mirror of {stream}" in only(findings, "mirror").message
        assert f"copies the events of {stream}" in only(findings, "sources").message
        assert "subjects" not in severities(findings)
    finally:
        for name in copies:
            await admin.js.delete_stream(name)


async def test_diagnose_when_a_stream_is_sealed_says_so(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await create(admin, stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"sealed": True})
    findings = await conn.diagnose([stream])
    assert only(findings, "sealed").severity == "note"
    assert "atomic" not in severities(findings)


async def test_diagnose_when_dead_letters_can_not_be_deleted_says_so(admin: Admin, conn: eda.Conn, stream: str) -> None:
    name = f"{stream}-dead"
    await create(admin, name, deny_delete=True, deny_purge=True)
    try:
        found = only(await conn.diagnose([name]), "deny_delete")
        assert found.severity == "warning"
        assert "has deny_delete and deny_purge: dead letters stay" in found.message
    finally:
        await admin.js.delete_stream(name)


@pytest.mark.parametrize(
    ("n_events", "discard", "severity"),
    [
        (7, "old", "note"),
        (8, "old", "warning"),
        (10, "old", "warning"),
        (7, "new", "note"),
        (8, "new", "warning"),
        (10, "new", "problem"),
    ],
)
async def test_diagnose_when_a_limit_is_nearly_reached_becomes_more_severe(
    admin: Admin, conn: eda.Conn, stream: str, n_events: int, discard: str, severity: str
) -> None:
    await create(admin, stream, max_msgs=10, discard=discard)
    for _ in range(n_events):
        await conn.publish(stream)
    found = only(await conn.diagnose([stream]), "max_events")
    assert found.severity == severity
    assert f"it has {n_events} of 10 events (max_events, {n_events}0 %)" in found.message


@pytest.mark.parametrize(("n_consumers", "severity"), [(3, None), (4, "warning"), (5, "problem")])
async def test_diagnose_when_consumers_are_nearly_too_many_says_so(
    admin: Admin, conn: eda.Conn, stream: str, n_consumers: int, severity: str | None
) -> None:
    await create(admin, stream, max_consumers=5)
    for number in range(n_consumers):
        await consume(admin, stream, f"c{number}")
    findings = await conn.diagnose([stream])
    assert severities(findings).get("max_consumers") == severity
