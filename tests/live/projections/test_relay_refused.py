"""What becomes of rows that their stream refuses: they block their aggregate, or go to the table of dead rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eda
import eda.projections.refused_rows
import eda.sql
from helpers import Admin, Connect, Logged, until
from support.projections.outboxes import Box

TOO_LARGE = eda.Bytes(bytes(5000))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eda.projections.refused_rows, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(eda.projections.refused_rows, "MAX_PAUSE_S", 0.2)


async def small_stream(admin: Admin, conn: eda.Conn, stream: str, limit: int | None = 2000) -> None:
    """Make a stream, or let an existing one take larger events."""
    await conn.streams.create(stream)
    await limit_events(admin, stream, limit)


async def limit_events(admin: Admin, stream: str, limit: int | None) -> None:
    info = await admin.js.stream_info(stream)
    await admin.js.update_stream(info.config.evolve(max_msg_size=limit or -1))


def events(*specs: str) -> list[eda.Event]:
    """Return an event for each text: its id, the first letter of which is its aggregate; "!" makes it too large."""
    return [
        eda.Event(id=spec.strip("!"), aggregate=spec[0], type="t", data=TOO_LARGE if "!" in spec else eda.JSON(1))
        for spec in specs
    ]


async def test_refused_when_it_blocks_holds_back_its_aggregate_alone_and_is_tried_again(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("refuses event a2 of aggregate a")
    await small_stream(admin, conn, stream)
    await box.add(stream, *events("a1", "a2!", "b1", "a3", "b2", "a4"))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 3)
        await box.add(stream, *events("a5", "b3", "c1"))
        await until(lambda: relay.stats().acknowledged == 5)
        await until(lambda: relay.stats().refused >= 3)  # it is tried again
        assert await admin.ids(stream) == ["a1", "b1", "b2", "b3", "c1"]
        assert await box.ids() == ["a2", "a3", "a4", "a5"]
        await limit_events(admin, stream, None)
        await until(lambda: relay.stats().acknowledged == 9)
    assert [each for each in await admin.ids(stream) if each[0] == "a"] == ["a1", "a2", "a3", "a4", "a5"]
    assert await box.ids() == []
    assert len(logged.find("refuses event")) == 1  # at most once a minute


async def test_refused_when_it_goes_to_the_dead_rows_lets_its_aggregate_go_on(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("refuses event a2 of aggregate a")
    await small_stream(admin, conn, stream)
    await box.add(stream, *events("a1", "a2!", "b1", "a3"))
    async with conn.relay(box.outbox, refused="dead") as relay:
        await until(lambda: relay.stats().acknowledged == 3)
    assert sorted(await admin.ids(stream)) == ["a1", "a3", "b1"]
    assert await box.ids() == []
    ((event_id, key, reason),) = await box.rows("SELECT id, key, reason FROM eda_outbox_dead")
    assert (event_id, key) == ("a2", "a")
    assert "ServerError" in reason
    assert relay.stats().dead == 1


async def missing(conn: eda.Conn, admin: Admin, stream: str) -> None:
    """Leave the stream missing."""


async def marked(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))


async def sealed(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream)
    info = await admin.js.stream_info(stream)
    await admin.js.update_stream(info.config.evolve(sealed=True))


@pytest.mark.parametrize("prepare", [missing, marked, sealed])
@pytest.mark.parametrize("refused", ["block", "dead"])
async def test_refused_when_the_whole_stream_takes_no_events_lets_other_streams_go_on(
    box: Box,
    connect: Connect,
    admin: Admin,
    stream: str,
    logged: Logged,
    prepare: Callable[[eda.Conn, Admin, str], Awaitable[None]],
    refused: Any,
) -> None:
    logged.expect("refuses event a1" if refused == "dead" else "takes no events")
    conn = await connect(auto_create=False)
    other = f"{stream}-other"
    await prepare(conn, admin, stream)
    await conn.streams.create(other)
    await box.add(stream, *events("a1", "a2", "b1"))
    await box.add(other, *events("x1", "x2"))
    async with conn.relay(box.outbox, refused=refused) as relay:
        await until(lambda: relay.stats().acknowledged == 2)
        await until(lambda: relay.stats().refused >= 3)
    assert await admin.ids(other) == ["x1", "x2"]
    assert await box.ids() == ([] if refused == "dead" else ["a1", "a2", "b1"])
    assert await box.ids("_dead") == (["a1", "a2", "b1"] if refused == "dead" else [])
    await conn.streams.delete(other)


async def test_refused_when_the_stream_is_made_meanwhile_is_published(
    box: Box, connect: Connect, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("takes no events")
    conn = await connect(auto_create=False)
    await box.add(stream, *events("a1", "a2", "b1"))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().refused >= 3)
        await conn.streams.create(stream)
        await until(lambda: relay.stats().acknowledged == 3)
    assert await admin.ids(stream) == ["a1", "a2", "b1"]


async def test_refused_when_a_subject_may_have_one_message_keeps_the_order_of_its_aggregate(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("refuses event a2")
    await conn.streams.create(stream)
    info = await admin.js.stream_info(stream)
    await admin.api(
        f"STREAM.UPDATE.{stream}",
        {**info.config.as_dict(), "discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 1},
    )
    others = [each.replace(type="other", id=f"{each.id}-other") for each in events("a1", "b1")]
    await box.add(stream, *events("a1", "a2", "b1"), *others)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 3 and relay.stats().refused)
    assert await admin.ids(stream) == ["a1", "b1", "b1-other"]
    assert await box.ids() == ["a2", "a1-other"]


async def test_refused_when_middleware_raises_blocks_the_aggregate(
    box: Box, connect: Connect, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("refuses event a2")
    seen: list[str] = []

    class Hook(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> object:
            seen.append(event.id)
            if event.id == "a2":
                raise ZeroDivisionError
            return await call_next(event.replace(meta={"hooked": "yes"}))

    conn = await connect(middleware=[Hook()])
    await conn.streams.create(stream)
    await box.add(stream, *events("a1", "a2", "a3", "b1"))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 2)
        async with conn.events(stream, start=1) as received:
            assert (await anext(received)).meta == {"hooked": "yes"}
    assert await admin.ids(stream) == ["a1", "b1"]
    assert await box.ids() == ["a2", "a3"]
    assert "a3" not in seen


async def test_relay_when_middleware_changes_an_id_ends_with_an_error(
    box: Box, connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect("has changed the id")

    class Hook(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> object:
            return await call_next(event.replace(id=f"other-{event.id}"))

    conn = await connect(middleware=[Hook()])
    await conn.streams.create(stream)
    await box.add(stream, *events("a1"))
    relay = await conn.relay(box.outbox)
    with pytest.raises(
        eda.ConfigError, match="has changed the id of an event of outbox eda_outbox from a1 to other-a1"
    ):
        async with asyncio.timeout(10):
            await relay.wait()
    assert await box.ids() == ["a1"]
