"""Streams and consumers that somebody purges, edits and deletes under load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import eda
from helpers import Admin, Logged
from support.faults.evidence import assert_stored_once, read_stream
from support.faults.scene import Scene, packed_too, packed_too_if_long, scaled

Report = Callable[[Mapping[str, object]], None]


@packed_too
async def test_load_when_the_stream_is_purged_and_edited_loses_nothing_else(
    own_server: eda.EmbeddedServer, admin: Admin, tmp_path: Path, report: Report, packed: bool
) -> None:
    """What was purged is gone, and nothing beside it. Duplicates: none."""
    n = scaled(3, 30)
    async with Scene(own_server.url, tmp_path, packed=packed) as scene:
        for number in range(n):
            await scene.more(100)
            stored = await read_stream(own_server.url, "stream")
            purged = await admin.api("STREAM.PURGE.stream", {"seq": stored[-1].sequence + 1})
            assert purged["purged"] == len({each.sequence for each in stored})
            scene.gone.update(each.id for each in stored)
            options = eda.StreamOptions(
                max_events=1_000_000 + number, compression="s2" if number % 2 else None, packed=packed
            )
            await scene.conn.streams.update("stream", options)
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "purged": len(scene.gone)})
    assert sum(scene.duplicates.values()) == 0


@packed_too
async def test_load_when_consumers_are_edited_and_readers_deleted_loses_nothing(
    own_server: eda.EmbeddedServer, admin: Admin, tmp_path: Path, report: Report, packed: bool
) -> None:
    """The shared consumer's limits change; readers of ordered subscriptions are deleted. Duplicates: none."""
    n = scaled(2, 20)
    async with Scene(own_server.url, tmp_path, packed=packed) as scene:
        for number in range(n):
            await scene.more(50)
            config = (await admin.consumer("stream", "shared"))["config"]
            config |= {"max_ack_pending": 500 + number, "ack_wait": config["ack_wait"] + 10**9}
            body = {"stream_name": "stream", "config": config, "action": "update"}
            await admin.api("CONSUMER.CREATE.stream.shared", body)
            for name in await admin.consumers("stream"):
                if name.startswith("eda-r-"):
                    await admin.api(f"CONSUMER.DELETE.stream.{name}")
            await scene.more(50)
    report(scene.duplicates | {"events": len(scene.stored), "times": n})
    assert sum(scene.duplicates.values()) == 0


@packed_too_if_long
async def test_load_when_the_shared_consumer_is_deleted_is_told_and_can_begin_again(
    own_server: eda.EmbeddedServer, admin: Admin, tmp_path: Path, logged: Logged, report: Report, packed: bool
) -> None:
    """Its place is gone with it, and so it ends. One that begins anew gets every event of the stream once more."""
    logged.expect("subscription shared to stream ends")
    async with Scene(own_server.url, tmp_path, packed=packed) as scene:
        for number in range(scaled(1, 10)):
            await scene.more(100)
            await admin.api("CONSUMER.DELETE.stream.shared")
            with pytest.raises(eda.ConsumerDeleted):
                await asyncio.wait_for(scene.subscriptions["shared"].wait(), 15)
            await scene.subscribe("shared", member=f"shared-{number}")
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored)})
    assert {kind for kind, again in scene.duplicates.items() if again} <= {"shared"}


async def test_load_when_the_stream_is_deleted_ends_every_subscription(
    own_server: eda.EmbeddedServer, admin: Admin, logged: Logged, report: Report
) -> None:
    """Each subscription ends with StreamNotFound, each publish with an error or in the stream that there is then."""
    logged.expect("to stream ends")
    acknowledged: list[str] = []
    errors: list[BaseException] = []

    async def publish(conn: eda.Conn) -> None:
        try:
            while True:
                # What is on its way while the stream is deleted gets no answer: 5 s later the stream is looked at.
                acknowledged.append((await conn.publish("stream", timeout_s=25)).id)
        except eda.EdaError as error:
            errors.append(error)

    async with eda.connect(own_server.url, auto_create=False) as conn:
        for _ in range(scaled(1, 10)):
            acknowledged.clear()
            await conn.streams.create("stream")
            kept = {"durable": True, "backfill": True, "reset": True}
            subscriptions = [
                await conn.subscribe("stream", id, name=f"n{i}", **kept | options)
                for i, options in enumerate(({}, {"serial": True}, {"key": "aggregate"}))
            ]
            task = asyncio.create_task(publish(conn))
            await asyncio.sleep(0.2)
            before = len(acknowledged)
            stored = await read_stream(own_server.url, "stream")
            assert_stored_once(acknowledged[:before], stored)
            await admin.js.delete_stream("stream")
            await asyncio.wait_for(task, 30)
            for each in subscriptions:
                with pytest.raises((eda.StreamNotFound, eda.ConsumerDeleted)):
                    await asyncio.wait_for(each.wait(), 20)
    report({"publish": ", ".join(sorted({type(each).__name__ for each in errors}))})
    assert {type(each) for each in errors} == {eda.StreamNotFound}
