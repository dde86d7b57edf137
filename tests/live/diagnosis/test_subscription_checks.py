"""eda.diagnosis: subscriptions, settings that others gave their consumers, and dead letters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
import eda.diagnosis.subscription_checks
from helpers import Admin, Logged, until
from support.diagnosis.settings import consume, create, only, severities

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("settings", "check", "severity", "told"),
    [
        ({"headers_only": True}, "headers_only", "problem", "members get events without their data"),
        ({"max_deliver": 5}, "max_deliver", "problem", "max_deliver=5: after so many deliveries"),
        ({"backoff": [SECOND, 5 * SECOND], "max_deliver": 9}, "backoff", "warning", "backoff=[1.0, 5.0]"),
        ({"inactive_threshold": 60 * SECOND}, "inactive_threshold", "problem", "inactive_threshold=60 s"),
        ({"max_ack_pending": 10}, "max_ack_pending", "note", "max_ack_pending=10"),
        ({"replay_policy": "original"}, "unrepairable", "problem", "replay_policy='original'"),
        ({"mem_storage": True}, "unrepairable", "problem", "mem_storage=True"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
async def test_diagnose_when_a_consumer_has_a_setting_that_bites_says_so(
    admin: Admin, conn: eda.Conn, stream: str, settings: dict[str, Any], check: str, severity: str, told: str
) -> None:
    await create(admin, stream)
    await consume(admin, stream, "billing", **settings)
    found = only(await conn.diagnose([stream]), check)
    assert (found.severity, found.stream, found.subscription) == (severity, stream, "billing")
    assert told in found.message


async def test_diagnose_when_consumers_belong_to_others_names_them(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await create(admin, stream)
    await consume(admin, stream, "pushed", deliver_subject=f"deliver.{stream}")
    await consume(admin, stream, "unacknowledged", ack_policy="none")
    found = only(await conn.diagnose([stream]), "foreign_consumers")
    assert found.severity == "note"
    assert found.message.endswith("belong to other programs: pushed, unacknowledged.")


@pytest.mark.parametrize("options", [{}, {"serial": True}], ids=["shared", "ordered"])
async def test_diagnose_when_no_member_runs_says_how_much_waits(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    await conn.publish(stream)
    handled = asyncio.Event()
    async with conn.subscribe(stream, lambda _: handled.set(), name="billing", durable=True, backfill=True, **options):
        await asyncio.wait_for(handled.wait(), 10)
        assert only(await conn.diagnose([stream]), "lag").severity == "ok"
    found = only(await conn.diagnose([stream]), "lag")
    assert found.message.endswith("subscription has no member now; 0 events to handle.")
    for _ in range(2):
        await conn.publish(stream)
    found = only(await conn.diagnose([stream]), "no_member")
    assert (found.severity, found.subscription) == ("warning", "billing")
    assert found.message.startswith("No member handles events of the subscription, and it has 2 events to handle, the")


async def test_diagnose_when_nobody_came_for_long_says_for_how_long(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await conn.publish(stream)
    handled = asyncio.Event()
    async with conn.subscribe(stream, lambda _: handled.set(), name="billing", durable=True, backfill=True):
        await asyncio.wait_for(handled.wait(), 10)
    monkeypatch.setattr(eda.diagnosis.subscription_checks, "STALE_S", 0.0)
    found = only(await conn.diagnose([stream]), "no_member")
    assert found.severity == "note"
    assert found.message.startswith("No member has handled events of the subscription for ")


async def test_diagnose_when_members_are_too_slow_says_so(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.diagnosis.subscription_checks, "SLOW_S", 0.01)
    go_on = asyncio.Event()

    async def hang(_: eda.Event) -> None:
        await go_on.wait()

    await conn.publish(stream)
    async with conn.subscribe(stream, hang, name="billing", durable=True, backfill=True) as sub:
        await until(lambda: sub.stats().in_flight)
        await asyncio.sleep(0.02)
        found = only(await conn.diagnose([stream]), "lag")
        go_on.set()
    assert found.severity == "warning"
    assert found.message.startswith("The oldest of 1 event to handle was stored ")


async def test_diagnose_when_too_much_is_unacknowledged_says_that_nothing_is_delivered(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    await create(admin, stream)
    await consume(admin, stream, "billing", max_ack_pending=2)
    for _ in range(3):
        await conn.publish(stream)
    subscription = await admin.js.pull_subscribe_bind("billing", stream=stream)
    await subscription.fetch(2, timeout=5)
    found = only(await conn.diagnose([stream]), "stalled")
    assert (found.severity, found.subscription) == ("warning", "billing")
    assert found.message.startswith("2 events are delivered and not acknowledged")


async def test_diagnose_when_events_are_delivered_again_says_so(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await create(admin, stream)
    await consume(admin, stream, "billing")
    await conn.publish(stream)
    subscription = await admin.js.pull_subscribe_bind("billing", stream=stream)
    (message,) = await subscription.fetch(1, timeout=5)
    await message.nak()
    await subscription.fetch(1, timeout=5)
    found = only(await conn.diagnose([stream]), "redelivered")
    assert found.severity == "note"
    assert found.message.startswith("1 of 1 events in flight were delivered before")


async def test_diagnose_when_a_consumer_is_paused_says_until_when(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await create(admin, stream)
    await consume(admin, stream, "billing")
    await admin.api(f"CONSUMER.PAUSE.{stream}.billing", {"pause_until": "2099-01-01T00:00:00Z"})
    found = only(await conn.diagnose([stream]), "paused")
    assert found.severity == "warning"
    assert found.advice is not None
    assert "2099-01-01T00:00:00Z" in found.advice


async def test_diagnose_when_max_age_nears_the_lag_says_that_events_will_be_dropped(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    await create(admin, stream, max_age=2 * SECOND)
    await consume(admin, stream, "billing")
    await conn.publish(stream)

    async def is_old() -> bool:
        return "lag_near_max_age" in severities(await conn.diagnose([stream]))

    await until(is_old)


@pytest.mark.parametrize("is_recent", [True, False])
async def test_diagnose_when_there_are_dead_letters_counts_them(
    conn: eda.Conn, admin: Admin, stream: str, is_recent: bool, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    def reject(_: eda.Event) -> None:
        raise eda.Reject("never")

    logged.allow("")
    for _ in range(2):
        await conn.publish(stream)
    async with conn.subscribe(stream, reject, name="billing", durable=True, backfill=True) as sub:
        await until(lambda: sub.stats().dead_lettered == 2)
    try:
        if not is_recent:
            monkeypatch.setattr(eda.diagnosis.subscription_checks, "RECENT_S", 0.0)
        found = only(await conn.diagnose([stream]), "dead_letters")
        assert (found.severity, found.stream) == ("warning" if is_recent else "note", stream)
        assert found.message.startswith(f"2 dead letters in {stream}-dead, the last one ")
    finally:
        await admin.js.delete_stream(f"{stream}-dead")


async def test_diagnose_when_it_reads_creates_no_consumer(admin: Admin, conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    await consume(admin, stream, "billing")
    before = await admin.api("INFO")
    await conn.diagnose()
    after = await admin.api("INFO")
    assert after["consumers"] == before["consumers"]
    assert after["streams"] == before["streams"]
    assert (await admin.consumer(stream, "billing"))["num_pending"] == 1
