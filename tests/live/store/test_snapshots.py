"""Snapshots as a real server keeps them: written in the background, read, replaced, and never trusted blindly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda.middleware.around_store import StoreHooks
from eda.store.snapshot import is_marker
from helpers import Admin, Connect, Logged, Proxy, until
from support.store.snapshotting import Order, Side, cached


@pytest.fixture
async def side(conn: eda.Conn, stream: str, admin: Admin) -> Any:
    await conn.streams.create(stream)
    side = Side(conn, stream)
    yield side
    await side.snapshots.flush(5)
    if await side.snapshot_stream.config() is not None:
        await conn.streams.delete(side.snapshot_stream.name)


async def test_snapshot_when_written_is_read_back_by_another_store(side: Side, connect: Connect, stream: str) -> None:
    seq, last_id = await side.append("4711", 1)
    entry = cached(Order(3, ["a"]), 1, seq, last_id)
    await side.write("4711", entry)
    other = Side(await connect(), stream)
    await other.snapshots.check()
    snapshot = await other.snapshots.read("4711")
    assert snapshot is not None
    assert (snapshot.state, snapshot.version, snapshot.sequence, snapshot.last_id) == (Order(3, ["a"]), 1, seq, last_id)
    assert snapshot.subject_sequence == entry.snapshot_sequence == 1
    assert entry.snapshot_version == 1


async def test_snapshot_when_the_aggregate_has_a_strange_name_is_read_back(side: Side) -> None:
    for name in ("a.b *", "_", "é>", "x" * 500):
        seq, last_id = await side.append(name, 1)
        await side.write(name, cached(Order(len(name)), 1, seq, last_id))
        snapshot = await side.snapshots.read(name)
        assert snapshot is not None
        assert snapshot.state == Order(len(name))


async def test_snapshot_when_nobody_has_written_one_is_none_and_makes_no_stream(side: Side) -> None:
    await side.snapshots.check()
    assert await side.snapshots.read("4711") is None
    assert await side.snapshot_stream.config() is None


async def test_stream_when_the_first_snapshot_is_written_has_the_settings_of_the_stores_stream(
    conn: eda.Conn, side: Side
) -> None:
    await side.write("4711", cached(Order(), 1, *await side.append("4711", 1)))
    config = await side.snapshot_stream.config()
    assert config is not None
    assert config["subjects"] == [side.snapshot_stream.name, f"{side.snapshot_stream.name}.>"]
    assert (config["max_msgs_per_subject"], config["allow_direct"], config["storage"]) == (1, True, "file")
    assert config["metadata"]["eda-kind"] == "snapshots"
    info = await conn.streams.info(side.snapshot_stream.name)
    assert info.max_events_per_subject == 1


async def test_snapshot_when_a_newer_one_is_there_does_not_replace_it(
    side: Side, connect: Connect, stream: str
) -> None:
    first, second = await side.append("4711", 1), await side.append("4711", 2)
    entry = cached(Order(1), 1, *first)
    await side.write("4711", entry)
    other = Side(await connect(), stream)
    await other.write("4711", cached(Order(2), 2, *second))  # it does not know of the first: its expectation fails
    await side.write("4711", cached(Order(99), 1, *first, entry.snapshot_sequence))
    snapshot = await side.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(2)


async def test_snapshots_when_two_stores_write_at_once_end_with_the_newest(
    side: Side, connect: Connect, stream: str
) -> None:
    other = Side(await connect(), stream)
    events = [await side.append("4711", version) for version in range(1, 21)]
    for version in range(1, 21, 2):
        side.snapshots.write_soon("4711", cached(Order(version), version, *events[version - 1]))
        other.snapshots.write_soon("4711", cached(Order(version + 1), version + 1, *events[version]))
        await asyncio.sleep(0)
    await side.idle()
    await other.idle()
    snapshot = await side.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(20)


async def test_snapshot_of_another_version_is_skipped_with_one_warning_and_replaced(
    side: Side, connect: Connect, stream: str, logged: Logged
) -> None:
    for aggregate in ("4711", "4712"):
        await side.write(aggregate, cached(Order(1), 1, *await side.append(aggregate, 1)))
    newer = Side(await connect(), stream, snapshot_version="2")
    assert await newer.snapshots.read("4711") is None
    assert await newer.snapshots.read("4712") is None
    assert len(logged.find("snapshot_version '1', and this store's decider has '2'")) == 1
    await newer.write("4711", cached(Order(7), 1, 1, "any"))
    snapshot = await newer.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(7)
    assert await side.snapshots.read("4711") is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xff", "it can't be decoded"),
        (b"", "it can't be decoded"),
        (encode_event(eda.Event(type="paid", aggregate="4711")), "it is not a snapshot of this aggregate"),
        (
            encode_event(
                eda.Event(type="eda.snapshot", schema="1", aggregate="4711", data=eda.JSON(Order())), version=1
            ),
            r"its metadata can't be read: KeyError\('sequence'\)",
        ),
        (
            encode_event(
                eda.Event(
                    type="eda.snapshot",
                    schema="1",
                    aggregate="4711",
                    meta={"sequence": "1", "last-id": "x"},
                    data=eda.String("{"),
                ),
                version=1,
            ),
            "it can't be decoded",
        ),
    ],
    ids=["bytes", "empty", "event", "metadata", "state"],
)
async def test_snapshot_when_it_can_not_be_read_is_skipped_with_one_warning_and_replaced(
    side: Side, admin: Admin, logged: Logged, message: bytes, reason: str
) -> None:
    await side.snapshot_stream.ensure()
    await admin.js.publish(side.snapshot_stream.subject("4711"), message)
    for _ in range(2):
        assert await side.snapshots.read("4711") is None
    assert len(logged.find(reason)) == 1
    await side.write("4711", cached(Order(5), 1, *await side.append("4711", 1)))
    snapshot = await side.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(5)


async def test_snapshot_of_a_stream_that_was_restored_is_replaced_by_an_older_one(
    conn: eda.Conn, side: Side, connect: Connect, stream: str
) -> None:
    for version in range(1, 6):
        last = await side.append("4711", version)
    await side.write("4711", cached(Order(5), 5, *last))
    await conn.streams.purge(stream)
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    for version in range(1, 6):
        last = await side.append("4711", version)
    # It has read the snapshot, which did not fit; another store has not read it.
    for n, expected in ((1, 1), (2, 0)):
        await Side(conn, stream).write("4711", cached(Order(n), 2, *last, expected))
        snapshot = await side.snapshots.read("4711")
        assert snapshot is not None
        assert snapshot.state == Order(1)


async def test_state_that_is_read_back_changed_is_not_kept_and_warned_of_once(side: Side, logged: Logged) -> None:
    for aggregate, state in (("a", {1: 2}), ("b", {"x": (1, 2)})):
        entry = cached(state, 1, *await side.append(aggregate, 1))
        await side.write(aggregate, entry)
        assert await side.stored(aggregate) is None
        assert entry.snapshot_version == 1  # not tried again at each append
    assert len(logged.find("can't be kept in a snapshot")) == 1


async def test_state_that_is_too_large_is_not_kept_and_warned_of_once(side: Side, logged: Logged) -> None:
    for aggregate in ("a", "b"):
        await side.write(aggregate, cached(Order(1, ["x" * 2_000_000]), 1, *await side.append(aggregate, 1)))
        assert await side.stored(aggregate) is None
    assert len(logged.find("is too large to be stored")) == 1
    await side.write("c", cached(Order(1), 1, *await side.append("c", 1)))
    assert await side.stored("c") is not None


async def test_snapshots_when_very_many_are_written_at_once_stay_bounded(side: Side) -> None:
    first = await side.append("a", 1)
    for n in range(500):
        side.snapshots.write_soon(f"a{n}", cached(Order(n), 1, *first))
        assert len(side.snapshots._waiting) <= 64
        assert len(side.snapshots._writers) <= 4
    await side.idle()
    assert await side.stored("a499") is not None
    assert await side.stored("a0") is None


async def test_snapshot_when_the_store_closes_is_waited_for(side: Side) -> None:
    side.snapshots.write_soon("a", cached(Order(1), 1, *await side.append("a", 1)))
    await side.snapshots.flush(5)
    assert await side.stored("a") is not None


async def test_snapshot_when_the_connection_is_closed_meanwhile_ends_quietly(
    side: Side, connect: Connect, stream: str
) -> None:
    conn = await connect()
    other = Side(conn, stream)
    for n in range(20):
        other.snapshots.write_soon(f"a{n}", cached(Order(1), 1, 1, "x"))
    await conn.close()
    assert await other.snapshots.read("a1") is None
    await other.snapshots.flush(5)
    assert not other.snapshots._writers


async def test_snapshot_when_the_aggregate_was_forgotten_before_leaves_a_marker(side: Side) -> None:
    """A process was slow: the aggregate was forgotten before any stream of snapshots existed."""
    await side.append("4711", 2, type="eda.forgotten")
    entry = cached(Order(1), 1, 1, "x")
    await side.write("4711", entry)
    found = await side.stored("4711")
    assert found is not None
    assert is_marker(found[0])
    assert decode_event(found[0]).version == 2
    assert await side.snapshots.read("4711") is None
    await side.write("4711", entry)
    assert (await side.stored("4711")) == found


async def test_snapshots_when_somebody_deletes_their_stream_make_it_again(conn: eda.Conn, side: Side) -> None:
    first = await side.append("4711", 1)
    entry = cached(Order(1), 1, *first)
    await side.write("4711", entry)
    await conn.streams.delete(side.snapshot_stream.name)
    assert await side.snapshots.read("4711") is None
    await side.write("4711", entry)
    assert await side.stored("4711") is not None


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "max_msgs_per_subject=-1"),
        ({"max_msgs_per_subject": 1, "retention": "workqueue"}, "retention='workqueue'"),
        ({"max_msgs_per_subject": 1, "no_ack": True}, "no_ack=True"),
        ({"max_msgs_per_subject": 1, "subjects": ["{name}.a"]}, "subjects="),
    ],
    ids=["events", "workqueue", "no_ack", "subjects"],
)
async def test_stream_of_that_name_that_does_not_fit_is_refused_when_the_store_opens(
    side: Side, admin: Admin, logged: Logged, settings: dict[str, Any], fault: str
) -> None:
    name = side.snapshot_stream.name
    subjects = [each.format(name=name) for each in settings.get("subjects", ["{name}", "{name}.>"])]
    await admin.js.add_stream(name=name, **(settings | {"subjects": subjects}))
    with pytest.raises(eda.ConfigError, match=fault) as caught:
        await side.snapshots.check()
    assert caught.value.argument == "snapshot_every"
    await side.write("4711", cached(Order(), 1, *await side.append("4711", 1)))  # it was made after the store opened
    assert len(logged.find(fault)) == 1
    assert (await admin.js.stream_info(name)).state.messages == 0


async def test_stream_that_an_operator_made_and_that_fits_is_used(side: Side, admin: Admin) -> None:
    name = side.snapshot_stream.name
    await admin.js.add_stream(
        name=name, subjects=[f"{name}.*"], max_msgs_per_subject=1, max_age=3600, allow_direct=True
    )
    await side.snapshots.check()
    await side.write("4711", cached(Order(6), 1, *await side.append("4711", 1)))
    snapshot = await side.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(6)


async def test_reads_when_the_server_is_away_end_soon_and_are_not_tried_at_once_again(
    own_server: eda.EmbeddedServer, logged: Logged
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("orders")
        side = Side(conn, "orders")
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        async with asyncio.timeout(4):
            for _ in range(100):
                assert await side.snapshots.read("4711") is None
    assert len(logged.find("reading a snapshot failed")) == 1


class Cipher(eda.Middleware):
    """Middleware that lets nobody read the data of events in the stream."""

    async def publish(self, event: eda.Event, call_next: Any) -> Any:
        return await call_next(
            event.replace(data=eda.Bytes(event.data.type.encode() + b":" + event.data.encode()[::-1]))
        )

    async def load(self, event: eda.Event) -> eda.Event:
        encoding, _, data = event.data.encode().partition(b":")
        return event.replace(data=eda.Data.from_encoded(encoding.decode(), data[::-1]))


async def test_snapshot_when_middleware_encrypts_events_is_encrypted_as_well(
    conn: eda.Conn, side: Side, stream: str, logged: Logged
) -> None:
    secret = Side(conn, stream, hooks=StoreHooks([Cipher()]))
    for version in (1, 2):
        entry = cached(Order(version, ["secret"]), version, *await side.append("4711", version))
        await secret.write("4711", entry)
    snapshot = await secret.snapshots.read("4711")
    assert snapshot is not None
    assert snapshot.state == Order(2, ["secret"])
    found = await side.stored("4711")
    assert found is not None
    assert b"secret" not in found[0]
    assert await side.snapshots.read("4711") is None  # a store without the middleware
    assert len(logged.find("is not used, and a new one replaces it")) == 1
    # A hook that can't read it fails no load.
    await side.write("4711", cached(Order(3), 3, *await side.append("4711", 3)))
    assert await Side(conn, stream, hooks=StoreHooks([Cipher()])).snapshots.read("4711") is None


async def test_snapshots_of_one_store_are_each_written_by_one_request(
    own_server: eda.EmbeddedServer,
) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        orders: Any = conn.store("orders", eda.Decider(0, lambda paid, event: paid + 1), snapshot_every=1)
        async with orders:
            for version in range(6):
                await orders.append("4711", [eda.Event(type="paid")], expected=version)
                await orders._core.snapshots.flush(5)
        assert proxy.sent.count(b" orders-snapshots.4711 ") == 6
        # The state that is loaded is the snapshot's.
        direct = b"DIRECT.GET.orders-snapshots "
        assert (await conn.store("orders", orders._core.decider, snapshot_every=1).load("4711")).events == []
        assert proxy.sent.count(direct) == 1


async def test_aggregate_of_a_store_when_it_is_forgotten_leaves_a_marker_and_stays_gone(
    conn: eda.Conn, connect: Connect, stream: str
) -> None:
    decider = eda.Decider(0, lambda paid, event: paid + 1)
    orders = conn.store(stream, decider, snapshot_every=2)
    for version in range(5):
        await orders.append("4711", [eda.Event(type="paid")], expected=version)
    other = (await connect()).store(stream, decider, snapshot_every=2)
    assert (await other.load("4711")).state == 5
    await orders.forget("4711")
    await orders.forget("4711")
    for store in (orders, other):
        with pytest.raises(eda.AggregateForgotten):
            await store.load("4711")
        with pytest.raises(eda.AggregateForgotten):
            await store.append("4711", [eda.Event(type="paid")], expected="any")
    found = await Side(conn, stream).stored("4711")
    assert found is not None
    assert is_marker(found[0])
    await conn.streams.delete(f"{stream}-snapshots")


async def test_store_when_another_decider_has_snapshots_of_the_same_version_is_refused(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    def total(state: int, event: eda.Event) -> int:
        n: int = event.data.decode()
        return state + n

    def count(state: int, event: eda.Event) -> int:
        return state + 1

    try:
        for _ in range(2):  # a program may make its decider for each request
            async with conn.store(stream, eda.Decider(0, total, state=int), snapshot_every=1) as store:
                await store.append("a", [eda.Event(type="paid", data=eda.JSON(10))], expected="any")
                await store.load("a")
        with pytest.raises(eda.ConfigError, match=r"two deciders .* evolve is .*total and .*count\."):
            await conn.store(stream, eda.Decider(0, count, state=int), snapshot_every=1).load("a")
        assert (await conn.store(stream, eda.Decider(0, count, state=int)).load("a")).state == 2
        other = eda.Decider(0, count, state=int, snapshot_version="count")
        assert (await conn.store(stream, other, snapshot_every=1).load("a")).state == 2
    finally:
        await admin.js.delete_stream(f"{stream}-snapshots")
