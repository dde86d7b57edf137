"""Streams that somebody else made: another retention, a mirror, sources, subjects of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js.errors import NotFoundError

import eda
import eda.subscribing.monitor
import eda.subscribing.source
from helpers import Admin, until

ORDERED: list[dict[str, Any]] = [
    {"name": "n", "durable": True, "serial": True, "backfill": True},
    {"name": "n", "durable": True, "serial": "strict"},
    {"name": "n", "durable": True, "exclusive": True, "backfill": True},
    {"name": "n", "durable": True, "key": "aggregate", "backfill": True},
    {"serial": True},
    {"backfill": True},
    {"start": 1, "types": ["paid"]},
]


@pytest.fixture
async def other(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The name of a second stream of the test's own."""
    name = f"{stream}-other"
    yield name
    if name in await admin.stream_names():
        await admin.js.delete_stream(name)


async def make(admin: Admin, name: str, **config: Any) -> None:
    subjects = [] if "mirror" in config else [name, f"{name}.>"]
    await admin.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects, "storage": "file"} | config)


async def handled_by(conn: eda.Conn, stream: str, n: int, **options: Any) -> list[str]:
    """Return the aggregates of the first `n` events that a subscription handles, and of what comes right behind."""
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.aggregate), **options):
        await until(lambda: len(seen) >= n)
        await asyncio.sleep(0.05)
    return seen


# --- what the stream keeps -------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("options", ORDERED)
@pytest.mark.parametrize("retention", ["interest", "workqueue"])
async def test_ordered_when_the_stream_removes_what_is_acknowledged_is_refused_at_once(
    conn: eda.Conn, stream: str, admin: Admin, retention: str, options: dict[str, Any]
) -> None:
    await make(admin, stream, retention=retention)
    with pytest.raises(eda.ConfigError, match=f"retention='{retention}'.*shared") as caught:
        await conn.subscribe(stream, print, **options)
    assert caught.value.argument == "stream"
    with pytest.raises(eda.ConfigError, match=f"retention='{retention}'.*shared"):
        async with conn.events(stream, **options) as events:
            await anext(events)
    assert await admin.consumers(stream) == []


@pytest.mark.old_server
async def test_shared_when_the_stream_is_of_interest_gets_what_came_while_it_was_away(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await make(admin, stream, retention="interest")
    kept: dict[str, Any] = {"name": "billing", "durable": True, "backfill": True}
    async with conn.subscribe(stream, print, **kept):
        pass
    for n in range(5):
        await conn.publish(stream, eda.Event(type="paid", aggregate=f"a{n}"))
    assert await handled_by(conn, stream, 5, **kept) == [f"a{n}" for n in range(5)]
    await until(lambda: no_events(conn, stream))


async def no_events(conn: eda.Conn, stream: str) -> bool:
    return (await conn.streams.info(stream)).events == 0


@pytest.mark.old_server
async def test_shared_when_the_stream_is_a_work_queue_takes_each_event_once(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await make(admin, stream, retention="workqueue")
    for n in range(5):
        await conn.publish(stream, eda.Event(type="job", aggregate=f"a{n}"))
    assert await handled_by(conn, stream, 5, name="w", durable=True, backfill=True) == [f"a{n}" for n in range(5)]
    await until(lambda: no_events(conn, stream))


@pytest.mark.parametrize("options", [{}, {"start": 1}])
async def test_shared_when_a_work_queue_should_be_read_from_the_middle_is_refused(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await make(admin, stream, retention="workqueue")
    with pytest.raises(eda.ConfigError, match="backfill=True") as caught:
        await conn.subscribe(stream, print, name="w", durable=True, **options)
    assert caught.value.argument == "backfill"


async def test_shared_when_two_filter_one_work_queue_get_their_own_events_each(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await make(admin, stream, retention="workqueue")
    paid: list[str] = []
    sent: list[str] = []
    common: dict[str, Any] = {"durable": True, "backfill": True}
    async with (
        conn.subscribe(stream, lambda event: paid.append(event.aggregate), name="paid", types=["paid"], **common),
        conn.subscribe(stream, lambda event: sent.append(event.aggregate), name="sent", types=["sent"], **common),
    ):
        for n in range(20):
            await conn.publish(stream, eda.Event(type="paid" if n % 2 else "sent", aggregate=f"a{n}"))
        await until(lambda: len(paid) + len(sent) == 20)
    assert paid == [f"a{n}" for n in range(1, 20, 2)]
    assert sent == [f"a{n}" for n in range(0, 20, 2)]


@pytest.mark.old_server
async def test_shared_when_only_the_client_could_filter_a_work_queue_is_refused(
    conn: eda.Conn, stream: str, admin: Admin, server_version: str
) -> None:
    """A filter in the client would acknowledge, and so remove, what another subscription waits for."""
    await make(admin, stream, retention="workqueue", subjects=[stream, f"{stream}.>", f"foreign.{stream}.>"])
    with pytest.raises(eda.ConfigError, match="would remove the events that other") as caught:
        await conn.subscribe(stream, print, name="w", durable=True, backfill=True, types=["paid"])
    assert caught.value.argument == "types"


@pytest.mark.parametrize("how", ["looks", "begins anew"])
@pytest.mark.parametrize("kind", [{"name": "n", "durable": True, "serial": True}, {}])
async def test_ordered_when_the_retention_changes_while_it_is_open_ends_with_the_reason(
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    logged: Any,
    kind: dict[str, Any],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how == "looks":
        monkeypatch.setattr(eda.subscribing.source, "CHECK_EVERY_S", 0.2)
        monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.1)
    logged.expect("retention='interest'")
    await conn.streams.create(stream)
    subscription = await conn.subscribe(stream, print, backfill=True, **kind)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"retention": "interest"})
    if how == "begins anew":
        (reader,) = await until(lambda: admin.consumers(stream))
        await admin.js.delete_consumer(stream, reader)
    with pytest.raises(eda.ConfigError, match="retention='interest'"):
        async with asyncio.timeout(30):
            await subscription.wait()


async def test_filter_when_the_stream_gets_sources_while_subscribed_covers_them(
    conn: eda.Conn, stream: str, other: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of sources have subjects of their origin, so the server's filter must go."""
    monkeypatch.setattr(eda.subscribing.source, "CHECK_EVERY_S", 0.2)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.1)
    await conn.streams.create(stream)
    await conn.publish(other, eda.Event(type="paid", aggregate="sourced"))
    seen: list[str] = []
    async with conn.subscribe(
        stream, lambda event: seen.append(event.aggregate), types=["paid"], backfill=True, serial=True
    ):
        config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        await admin.api(f"STREAM.UPDATE.{stream}", config | {"sources": [{"name": other}]})
        await until(lambda: seen == ["sourced"])


async def test_shared_when_the_retention_changes_while_it_is_open_goes_on(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    seen: list[str] = []
    await conn.publish(stream, eda.Event(aggregate="before"))
    async with conn.subscribe(
        stream, lambda event: seen.append(event.aggregate), name="n", durable=True, backfill=True
    ):
        await until(lambda: seen)
        config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        await admin.api(f"STREAM.UPDATE.{stream}", config | {"retention": "interest"})
        await conn.publish(stream, eda.Event(aggregate="after"))
        await until(lambda: seen == ["before", "after"])
        await until(lambda: no_events(conn, stream))


async def test_publish_when_nobody_has_interest_in_the_stream_stores_nothing(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    """The server's rule for an interest stream: it acknowledges the event, and drops it."""
    await make(admin, stream, retention="interest")
    assert (await conn.publish(stream, eda.Event(type="paid"))).sequence == 1
    assert await no_events(conn, stream)


SETTINGS: dict[str, dict[str, Any]] = {
    "no_ack": {"no_ack": True},
    "deny": {"deny_delete": True, "deny_purge": True},
    "ttl": {"allow_msg_ttl": True, "subject_delete_marker_ttl": 1_000_000_000, "allow_rollup_hdrs": True},
    "latest": {"max_msgs_per_subject": 1},
    "sealed": {},
}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"name": "n", "durable": True},
        {"name": "n", "durable": True, "serial": True},
        {"name": "n", "durable": True, "exclusive": True},
        {"name": "n", "durable": True, "key": "aggregate"},
    ],
)
@pytest.mark.parametrize("settings", SETTINGS)
async def test_subscription_when_the_stream_has_settings_of_others_handles_what_it_holds(
    conn: eda.Conn, stream: str, admin: Admin, settings: str, kind: dict[str, Any]
) -> None:
    await conn.streams.create(stream)
    for n in range(3):
        await conn.publish(stream, eda.Event(type="t", aggregate=f"a{n}"))
    payloads = [(await admin.js.get_msg(stream, n + 1)).data or b"" for n in range(3)]
    await admin.js.delete_stream(stream)
    await make(admin, stream, **SETTINGS[settings])
    for n, payload in enumerate(payloads):
        await admin.client.publish(f"{stream}.t.a{n}", payload)
    await admin.flush()
    await until(lambda: holds(conn, stream, 3))
    if settings == "ttl":
        await admin.client.publish(f"{stream}.t.gone", payloads[0], headers={"Nats-TTL": "1s"})
        await until(lambda: has_marker(admin, stream))
    if settings == "latest":
        await admin.client.publish(f"{stream}.t.a1", payloads[1])  # replaces sequence 2
        await until(lambda: last_is(admin, stream, 4))
    if settings == "sealed":
        config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        await admin.api(f"STREAM.UPDATE.{stream}", config | {"sealed": True})
    expected = ["a0", "a2", "a1"] if settings == "latest" else ["a0", "a1", "a2"]
    assert await handled_by(conn, stream, 3, backfill=True, **kind) == expected


async def holds(conn: eda.Conn, stream: str, n: int) -> bool:
    return (await conn.streams.info(stream)).events == n


async def has_marker(admin: Admin, stream: str) -> bool:
    try:
        last = await admin.js.get_msg(stream, await admin.last_seq(stream))
    except NotFoundError:  # it has expired, and its marker is still to come
        return False
    return "Nats-Marker-Reason" in (last.headers or {})


async def last_is(admin: Admin, stream: str, sequence: int) -> bool:
    return await admin.last_seq(stream) == sequence


async def test_info_when_the_stream_was_made_by_others_tells_what_it_is(
    conn: eda.Conn, stream: str, other: str, admin: Admin
) -> None:
    await make(admin, stream, retention="interest", no_ack=True, max_msgs_per_subject=3, max_consumers=7)
    info = await conn.streams.info(stream)
    assert (info.retention, info.no_ack, info.mirror, info.sources) == ("interest", True, None, ())
    assert (info.max_events_per_subject, info.max_event_bytes, info.max_consumers) == (3, None, 7)
    await admin.js.delete_stream(stream)
    await conn.streams.create(stream)
    await make(admin, other, mirror={"name": stream}, max_msg_size=1000, deny_delete=True)
    info = await conn.streams.info(other)
    assert (info.retention, info.mirror, info.max_event_bytes, info.deny_delete) == ("limits", stream, 1000, True)
    await admin.js.delete_stream(other)
    transform = {"src": f"{other}.*.*", "dest": f"{other}.x.{{{{wildcard(2)}}}}"}
    await make(admin, other, sources=[{"name": stream}], subject_transform=transform)
    info = await conn.streams.info(other)
    assert (info.sources, info.subject_transform) == ((stream,), transform["dest"])


# --- what its subjects are -------------------------------------------------------------------------------------------

FILTERS: list[dict[str, Any]] = [
    {},
    {"types": ["paid"]},
    {"aggregate": "a"},
    {"types": ["paid"], "aggregate": "a"},
]
KINDS: list[dict[str, Any]] = [
    {},
    {"name": "n", "durable": True},
    {"name": "n", "durable": True, "serial": True},
    {"name": "n", "durable": True, "key": "aggregate"},
    {"name": "n"},
]


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filtered", FILTERS)
@pytest.mark.parametrize("how", ["mirror", "sources", "foreign", "transformed"])
async def test_filter_when_the_stream_has_other_subjects_finds_the_same_events(
    conn: eda.Conn, stream: str, other: str, admin: Admin, how: str, filtered: dict[str, Any], kind: dict[str, Any]
) -> None:
    await conn.streams.create(stream)
    if how == "mirror":
        await make(admin, other, mirror={"name": stream})
    elif how == "sources":
        await make(admin, other, sources=[{"name": stream}])
    elif how == "foreign":
        await make(admin, other, subjects=[f"copied.{other}.>"])
    else:
        await make(admin, other, subject_transform={"src": f"{other}.>", "dest": "elsewhere.>"})
    for event_type, aggregate in (("paid", "a"), ("sent", "a"), ("paid", "b"), ("paid", "a")):
        event = eda.Event(type=event_type, aggregate=aggregate)
        await conn.publish(stream, event)
        if how in ("foreign", "transformed"):
            stored = await admin.js.get_msg(stream, await admin.last_seq(stream))
            subject = f"copied.{other}.x.y" if how == "foreign" else f"{other}.x.y"
            await admin.js.publish(subject, stored.data or b"")
    expected = [
        aggregate
        for event_type, aggregate in (("paid", "a"), ("sent", "a"), ("paid", "b"), ("paid", "a"))
        if event_type in filtered.get("types", [event_type]) and aggregate == filtered.get("aggregate", aggregate)
    ]
    seen = await handled_by(conn, other, len(expected), backfill=True, **filtered, **kind)
    assert (sorted(seen) if "key" in kind else seen) == (sorted(expected) if "key" in kind else expected)
