"""Filters on packed streams: what the server is asked for, and which filters can't keep their promise there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.subscribing.shared_source import SharedSource
from helpers import Admin, Connect, Logged, until

PACKED = eda.StreamOptions(packed=True)
SHARED: dict[str, Any] = {"name": "n", "durable": True, "backfill": True}
FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"types": ["a"]}, ["{}", "{}.a.*", "{}.%pack.*"]),
    ({"aggregate": "x"}, ["{}", "{}.*.x", "{}.*.%pack"]),
    ({"types": ["a"], "aggregate": "x"}, ["{}", "{}.a.x", "{}.%pack.x", "{}.a.%pack", "{}.%pack.%pack"]),
]


@pytest.mark.parametrize(("filter", "asked"), FILTERS, ids=str)
async def test_shared_when_the_stream_is_packed_asks_for_packs_and_notes_its_own_filter(
    conn: eda.Conn, stream: str, admin: Admin, filter: dict[str, Any], asked: list[str]
) -> None:
    await conn.streams.create(stream, PACKED)
    async with conn.subscribe(stream, print, **SHARED, **filter):
        config = (await admin.js.consumer_info(stream, "n")).config
    assert set(config.filter_subjects or ()) == {each.format(stream) for each in asked}
    assert config.metadata is not None
    assert "%pack" not in config.metadata["eda-filter"]
    async with conn.subscribe(stream, print, **SHARED, **filter):  # it is adopted
        pass


@pytest.mark.parametrize(
    "kind", [{}, {"serial": True}, SHARED | {"serial": True}, SHARED | {"key": "aggregate"}], ids=str
)
@pytest.mark.parametrize(("filter", "asked"), FILTERS, ids=str)
async def test_ordered_when_the_stream_is_packed_asks_for_packs(
    conn: eda.Conn, stream: str, admin: Admin, kind: dict[str, Any], filter: dict[str, Any], asked: list[str]
) -> None:
    await conn.streams.create(stream, PACKED)
    async with conn.subscribe(stream, print, **kind, **filter) as sub:
        (reader,) = await until(lambda: admin.consumers(stream))
        config = (await admin.js.consumer_info(stream, reader)).config
        await until(lambda: sub.is_active)
    subjects = set(config.filter_subjects or [config.filter_subject])
    assert subjects == {each.format(stream) for each in asked} - {stream}  # nobody publishes to the stream's subject


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=str)
async def test_filter_when_events_are_published_singly_gets_them(
    conn: eda.Conn, stream: str, kind: dict[str, Any]
) -> None:
    await conn.streams.create(stream, PACKED)
    for event_type in "abab":
        await conn.publish(stream, eda.Event(type=event_type, aggregate="x"))
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), types=["b"], **SHARED, **kind):
        await until(lambda: len(seen) == 2)
    assert seen == [2, 4]


async def test_ordered_filter_when_it_is_changed_from_here_is_changed(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    await conn.streams.create(stream, PACKED)
    seen: list[str] = []
    for event_type in "ab":
        await conn.publish(stream, eda.Event(type=event_type))
    options = SHARED | {"serial": True, "on_filter_change": "from_here"}
    async with conn.subscribe(stream, lambda event: seen.append(event.type), types=["a"], **options):
        await until(lambda: seen == ["a"])
    async with conn.subscribe(stream, lambda event: seen.append(event.type), types=["a", "b"], **options):
        await until(lambda: seen == ["a", "b"])
    assert logged.find("its filter was")


@pytest.mark.parametrize("is_noted", [True, False])
async def test_shared_when_another_tool_left_packs_out_of_its_filter_asks_for_them_again(
    connect: Connect, conn: eda.Conn, stream: str, admin: Admin, logged: Logged, is_noted: bool
) -> None:
    await conn.streams.create(stream, PACKED)
    config: dict[str, Any] = {
        "name": "n",
        "durable_name": "n",
        "ack_policy": "explicit",
        "ack_wait": 30 * 10**9,
        "max_ack_pending": 65_536,
        "deliver_policy": "all",
        "filter_subjects": [stream, f"{stream}.a.*"],
        "metadata": {"eda-filter": f"{stream} {stream}.a.*"} if is_noted else {},
    }
    await admin.api(f"CONSUMER.DURABLE.CREATE.{stream}.n", {"stream_name": stream, "config": config})
    async with conn.subscribe(stream, print, types=["a"], **SHARED):
        subjects = (await admin.js.consumer_info(stream, "n")).config.filter_subjects or []
    assert set(subjects) == {stream, f"{stream}.a.*", f"{stream}.%pack.*"}
    assert logged.find("its consumer had filter_subjects=")


async def test_shared_when_somebody_takes_packs_out_of_its_filter_asks_for_them_again(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    await conn.streams.create(stream, PACKED)
    async with conn.subscribe(stream, print, types=["a"], **SHARED) as sub:
        config = (await admin.api(f"CONSUMER.INFO.{stream}.n"))["config"]
        config["filter_subjects"] = [f"{stream}.a.*"]
        body = {"stream_name": stream, "config": config, "action": "update"}
        await admin.api(f"CONSUMER.CREATE.{stream}.n", body)
        source = sub._pipeline.source
        assert isinstance(source, SharedSource)
        source.check_consumer("a test")
        await until(lambda: logged.find("its consumer had filter_subjects="))
        subjects = (await admin.js.consumer_info(stream, "n")).config.filter_subjects or []
    assert set(subjects) == {stream, f"{stream}.a.*", f"{stream}.%pack.*"}


@pytest.mark.parametrize("option", [{"types": ["a"]}, {"aggregate": "x"}], ids=str)
async def test_work_queue_when_packed_allows_no_filter(
    conn: eda.Conn, stream: str, admin: Admin, option: dict[str, Any]
) -> None:
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "retention": "workqueue"}
    await admin.api(f"STREAM.CREATE.{stream}", config | {"metadata": {"eda-packed": "1"}})
    with pytest.raises(eda.ConfigError, match="Subscribe without types and aggregate") as caught:
        await conn.subscribe(stream, print, **SHARED, **option)
    assert caught.value.argument == next(iter(option))
    assert await admin.consumers(stream) == []
    await conn.publish(stream, eda.Event(type="a"))
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), **SHARED):
        await until(lambda: seen == ["a"])


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=str)
async def test_lag_when_a_filter_asks_for_packs_counts_their_messages(
    conn: eda.Conn, stream: str, admin: Admin, kind: dict[str, Any]
) -> None:
    await conn.streams.create(stream, PACKED)
    async with conn.subscribe(stream, print, types=["a"], **SHARED, **kind):
        await asyncio.sleep(0)
    for subject in ("a.x", "%pack.x", "%pack.%pack", "a.%pack", "b.x", "b.%pack"):
        await admin.js.publish(f"{stream}.{subject}", b"7")
    (info,) = await conn.subscriptions(stream)
    assert info.lag == 4


async def test_ordered_when_somebody_removes_the_mark_while_it_is_open_still_asks_for_packs(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.streams.create(stream, PACKED)
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), types=["a"], serial=True) as sub:
        (first,) = await until(lambda: admin.consumers(stream))
        config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        del config["metadata"]["eda-packed"]
        await admin.api(f"STREAM.UPDATE.{stream}", config)
        await admin.js.delete_consumer(stream, first)
        (second,) = await until(lambda: admin.consumers(stream), timeout_s=20)
        assert second != first
        subjects = (await admin.js.consumer_info(stream, second)).config.filter_subjects or []
        assert set(subjects) == {f"{stream}.a.*", f"{stream}.%pack.*"}
        await conn.publish(stream, eda.Event(type="a"))
        await until(lambda: seen == [1])
        assert sub.is_active
