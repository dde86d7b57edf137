"""Events and snapshots over the limits of the server and of the stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.jetstream.subjects import fits_protocol_line, subject_of
from helpers import Admin, Logged

MAX = 2000  # bytes of a message, headers among them


def text(n: int) -> eda.Event:
    return eda.Event(type="text", data=eda.String("x" * n))


def evolve(state: str, event: eda.Event) -> str:
    return state + event.data.decode()


def decide(_: str, sizes: list[int]) -> list[eda.Event]:
    return [text(n) for n in sizes]


DECIDER: eda.Decider[str, list[int]] = eda.Decider("", evolve, decide, state=str)


async def limit(admin: Admin, stream: str, max_msg_size: int) -> None:
    """Set the stream's limit, as another program does."""
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"] | {"max_msg_size": max_msg_size}
    await admin.api(f"STREAM.UPDATE.{stream}", config)


@pytest.mark.parametrize(
    ("sizes", "named"), [([MAX], 0), ([10, MAX], 1), ([MAX, 10], 0), ([10, MAX, 10], 1)], ids=["single", "b", "c", "d"]
)
async def test_append_when_an_event_is_over_the_streams_limit_names_it_and_sends_nothing(
    conn: eda.Conn, admin: Admin, stream: str, sizes: list[int], named: int
) -> None:
    await conn.store(stream)
    await limit(admin, stream, MAX)
    await conn.streams.info(stream)
    store = await conn.store(stream, DECIDER)
    sent = await admin.client.subscribe(f"{stream}.>")
    await admin.flush()
    async with asyncio.timeout(3):
        for call in (store.execute("a", sizes), store.append("a", [text(n) for n in sizes], expected="any")):
            with pytest.raises(eda.ConfigError, match=rf"events\[{named}\]: .* over the stream's max_msg_size of 2000"):
                await call
    await admin.flush()
    assert sent.pending_msgs == 0
    result = await store.execute("a", [MAX - 400, MAX - 400])
    assert result.version == 2


@pytest.mark.parametrize("sizes", [[MAX], [10, MAX]], ids=["single", "several"])
async def test_append_when_the_streams_limit_was_lowered_meanwhile_raises_soon(
    conn: eda.Conn, admin: Admin, stream: str, sizes: list[int]
) -> None:
    store = conn.store(stream, DECIDER)
    await store.execute("a", [1, 1])
    await limit(admin, stream, MAX)
    async with asyncio.timeout(3):
        with pytest.raises(eda.ConfigError, match=r"too large: .*(exceeds maximum|max_msg_size of 2000)"):
            await store.execute("a", sizes)
        assert (await store.execute("a", [1])).version == 3


async def test_publish_batch_when_an_event_is_over_the_streams_limit_names_it(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    await limit(admin, stream, MAX)
    async with asyncio.timeout(3):
        with pytest.raises(eda.ConfigError, match=r"events\[1\]: .* over the stream's max_msg_size of 2000"):
            await conn.publish_batch(stream, [text(10), text(MAX)])
    assert await admin.last_seq(stream) == 0


@pytest.mark.parametrize("limited", ["stream", "server"])
async def test_snapshot_that_is_too_large_is_tried_once_when_due_and_warned_of_once(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged, limited: str
) -> None:
    snapshots = f"{stream}-snapshots"
    n = 200 if limited == "stream" else 600_000
    tried: list[Any] = []

    async def note(message: Any) -> None:
        tried.append(message.subject)

    try:
        async with conn.store(stream, DECIDER, snapshot_every=2) as store:
            await store.execute("small", [1, 1])
        if limited == "stream":
            await limit(admin, snapshots, 500)
        await admin.client.subscribe(f"{snapshots}.>", cb=note)
        await admin.flush()
        async with store:
            for _ in range(8):
                await store.execute("a", [n])
                await store.__aexit__()  # waits for the snapshot
                await store.load("a")
            await store.__aexit__()
        await admin.flush()
        assert len(logged.find("snapshot of aggregate a is too large to be stored")) == 1
        # Due after each second event, whatever number of loads find none. The server's own limit is known.
        assert len(tried) == (4 if limited == "stream" else 0)
        assert (await store.load("a")).version == 8
        async with store:
            await store.execute("other", [1, 1])  # writes of other snapshots go on
        assert f"{snapshots}.other" in tried
    finally:
        if snapshots in await admin.stream_names():
            await admin.js.delete_stream(snapshots)


async def test_aggregate_when_its_name_is_too_long_for_a_tombstone_or_snapshot_does_not_end_the_connection(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    """Its events have a shorter subject: the type has one character."""
    snapshots = f"{stream}-snapshots"
    store = conn.store(stream, DECIDER, snapshot_every=1)
    decided = eda.Event(type="t", data=eda.String("x"))
    name = next(
        name
        for n in range(4060, 3000, -1)
        if fits_protocol_line(subject_of(stream, "t", name := "n" * n)) and len(stream) + n < 4096
    )
    try:
        async with asyncio.timeout(5):
            async with store:
                assert (await store.append(name, [decided], expected="new")).version == 1
            assert (await store.load(name)).version == 1
            with pytest.raises(eda.ConfigError, match="too long for the server's protocol line"):
                await store.forget(name)
            assert [event.version for event in await store.history(name)] == [1]
            async with store:
                await store.execute("a", [1])
        assert len(logged.find("snapshot of aggregate n+ is too large to be stored")) == 1
        assert logged.find("disconnected|control line") == []
        assert await admin.last_seq(snapshots) == 1  # of the other aggregate
    finally:
        if snapshots in await admin.stream_names():
            await admin.js.delete_stream(snapshots)


async def test_aggregate_when_its_name_is_no_text_does_not_stop_the_snapshots_of_others(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    async with conn.store(stream, DECIDER, snapshot_every=1) as store:
        await store.execute("a", [1])
    try:
        with pytest.raises(eda.ConfigError, match="not valid Unicode"):
            await store.load("\ud800")
        assert (await store.load("a")).events == []
        assert logged.find("snapshot") == []
    finally:
        await admin.js.delete_stream(f"{stream}-snapshots")
