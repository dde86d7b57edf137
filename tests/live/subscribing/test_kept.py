"""Positions of kept subscriptions, moved and forgotten from outside, as a member gets events afterwards."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

import eda
import eda.cursors.moving
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.packs import publish_pack
from support.subscribing.kept import BOTH, ORDERED, N, fill, handle_all, member, places


@pytest.fixture
async def filled(conn: eda.Conn, stream: str) -> str:
    """A stream with ten events."""
    await fill(conn, stream)
    return stream


# --- moved without members -------------------------------------------------------------------------------------------


@pytest.mark.old_server
@BOTH
@pytest.mark.parametrize(("to", "first"), [(4, 4), ("4", 4), (1, 1), ("first", 1), (10, 10)], ids=str)
async def test_move_when_nobody_is_open_gives_the_next_member_what_follows(
    conn: eda.Conn, filled: str, options: dict[str, Any], to: Any, first: int
) -> None:
    await handle_all(conn, filled, **options)
    moved = await conn.move_subscription(filled, "n", to=to)
    assert (moved.name, moved.stream, moved.before, moved.after) == ("n", filled, "10", str(first - 1))
    assert moved.kind == ("ordered" if options else "shared")
    (info,) = await conn.subscriptions(filled)
    assert (info.kind, info.position, info.lag) == (moved.kind, first - 1, N + 1 - first)
    assert await handle_all(conn, filled, N + 1 - first, **options) == places(first)
    (info,) = await conn.subscriptions(filled)
    assert (info.position, info.lag) == (N, 0)


@BOTH
@pytest.mark.parametrize("to", ["end", 11], ids=str)
async def test_move_when_to_the_end_waits_for_the_next_event(
    conn: eda.Conn, filled: str, options: dict[str, Any], to: Any
) -> None:
    await handle_all(conn, filled, 10, **options)
    await conn.move_subscription(filled, "n", to=2)
    await conn.move_subscription(filled, "n", to=to)
    async with member(conn, filled, **options) as (_, got):
        await conn.publish(filled)
        await until(lambda: got)
        assert got == ["11"]


@BOTH
async def test_move_when_to_a_time_begins_with_the_first_event_since(
    conn: eda.Conn, filled: str, options: dict[str, Any]
) -> None:
    await handle_all(conn, filled, **options)
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await conn.publish(filled)
    await handle_all(conn, filled, 1, **options)
    await conn.move_subscription(filled, "n", to=since)
    assert await handle_all(conn, filled, 1, **options) == ["11"]
    await conn.move_subscription(filled, "n", to=since + timedelta(days=1))
    assert (await conn.subscriptions(filled))[0].position == 11


@BOTH
async def test_move_when_events_are_purged_begins_with_the_first_that_is_left(
    conn: eda.Conn, filled: str, options: dict[str, Any]
) -> None:
    await handle_all(conn, filled, **options)
    assert await conn.streams.purge(filled, before=6) == 5
    assert (await conn.move_subscription(filled, "n", to=2)).after == "5"
    assert await handle_all(conn, filled, 5, **options) == places(6)
    await conn.streams.purge(filled)
    await conn.move_subscription(filled, "n", to="first")
    async with member(conn, filled, **options) as (_, got):
        await conn.publish(filled)
        await until(lambda: got)
        assert got == ["11"]


@BOTH
async def test_move_when_the_event_does_not_exist_yet_is_refused(
    conn: eda.Conn, filled: str, options: dict[str, Any]
) -> None:
    await handle_all(conn, filled, **options)
    with pytest.raises(eda.ConfigError, match=r"to=12: stream '.*' ends at 10\. 'end' waits") as refused:
        await conn.move_subscription(filled, "n", to=12)
    assert refused.value.argument == "to"
    assert (await conn.subscriptions(filled))[0].position == N


@pytest.mark.parametrize("to", [0, -1, True, 1.5, None, "", "7.", "x", "1e3", 2**63, datetime(2026, 1, 1)], ids=str)
async def test_move_when_the_target_is_none_names_what_works(conn: eda.Conn, stream: str, to: Any) -> None:
    with pytest.raises(eda.ConfigError, match=r"^to must be") as refused:
        await conn.move_subscription(stream, "n", to=to)
    assert refused.value.argument == "to"


async def test_move_when_there_is_no_subscription_says_so(conn: eda.Conn, filled: str) -> None:
    with pytest.raises(eda.ConfigError, match="keeps no position") as refused:
        await conn.move_subscription(filled, "n", to=1)
    assert refused.value.argument == "name"
    with pytest.raises(eda.StreamNotFound):
        await conn.move_subscription(f"{filled}-no", "n", to=1)
    assert await conn.subscription(filled, "n") is None


async def test_move_when_shared_keeps_the_settings_of_the_consumer(conn: eda.Conn, filled: str, admin: Admin) -> None:
    options: dict[str, Any] = {"types": ["t"], "lease_s": 7.0}
    await handle_all(conn, filled, **options)
    before = await conn.subscription(filled, "n")
    await conn.move_subscription(filled, "n", to=3)
    after = await conn.subscription(filled, "n")
    assert before is not None
    assert after is not None
    assert (after.filter, after.lease_s, after.made_by) == (before.filter, 7.0, before.made_by)
    assert (after.is_durable, after.is_filtered_by_server) == (True, True)
    assert await Keys(admin, filled).get() is None, "the moved position is left"
    assert await handle_all(conn, filled, 8, **options) == places(3)


# --- packs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def packed(conn: eda.Conn, admin: Admin, stream: str) -> str:
    """A stream with an event, a pack of four, and an event."""
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await conn.publish(stream)
    await publish_pack(admin.js, stream, [eda.Event(type="t", id=f"p{number}") for number in range(4)])
    await conn.publish(stream)
    return stream


PACKED = ["1", "2.0", "2.1", "2.2", "2.3", "3"]


@pytest.mark.parametrize("place", ["2.0", "2.1", "2.3", "2", "3"])
async def test_move_when_ordered_may_go_into_a_pack(conn: eda.Conn, packed: str, place: str) -> None:
    await handle_all(conn, packed, 6, **ORDERED)
    moved = await conn.move_subscription(packed, "n", to=place)
    assert moved.before == "3"
    wanted = PACKED[PACKED.index(place if place != "2" else "2.0") :]
    found = await conn.subscription(packed, "n")
    assert found is not None
    assert found.done == moved.after == ("1" if wanted[0] == "2.0" else PACKED[-len(wanted) - 1].replace("2.3", "2"))
    assert await handle_all(conn, packed, len(wanted), **ORDERED) == wanted


@pytest.mark.parametrize(
    ("place", "why"),
    [("2.4", "a pack of 4 events, from 2.0 to 2.3"), ("1.1", "is no pack"), ("3.2", "is no pack")],
)
async def test_move_when_the_pack_has_no_such_event_is_refused(
    conn: eda.Conn, packed: str, place: str, why: str
) -> None:
    await handle_all(conn, packed, 6, **ORDERED)
    with pytest.raises(eda.ConfigError, match=why):
        await conn.move_subscription(packed, "n", to=place)


async def test_move_when_shared_goes_to_whole_packs_only(conn: eda.Conn, packed: str) -> None:
    await handle_all(conn, packed, 6)
    with pytest.raises(eda.ConfigError, match="acknowledges whole packs: give the sequence 2"):
        await conn.move_subscription(packed, "n", to="2.1")
    await conn.move_subscription(packed, "n", to="2")
    assert await handle_all(conn, packed, 5) == PACKED[1:]


# --- the stream was made again ---------------------------------------------------------------------------------------


async def test_move_when_the_stream_was_made_again_takes_the_position_in_the_new_one(
    conn: eda.Conn, filled: str, logged: Logged
) -> None:
    await handle_all(conn, filled, **ORDERED)
    await conn.streams.delete(filled)
    for _ in range(3):
        await conn.publish(filled)
    moved = await conn.move_subscription(filled, "n", to=2)
    assert (moved.before, moved.after) == (None, "1")
    assert await handle_all(conn, filled, 2, **ORDERED) == ["2", "3"]


# --- refused ---------------------------------------------------------------------------------------------------------


async def test_move_when_events_are_removed_once_acknowledged_is_refused(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.js.add_stream(name=stream, subjects=[stream, f"{stream}.>"], retention="workqueue")
    await conn.publish(stream)
    await handle_all(conn, stream, 1)
    with pytest.raises(eda.ConfigError, match="retention='workqueue'"):
        await conn.move_subscription(stream, "n", to="first")


async def test_move_when_it_is_not_durable_or_of_others_is_refused(conn: eda.Conn, filled: str, admin: Admin) -> None:
    async with conn.subscribe(filled, print, name="n", backfill=True):
        with pytest.raises(eda.ConfigError, match="it is not durable"):
            await conn.move_subscription(filled, "n", to="first", force=True)
    await admin.js.pull_subscribe(f"{filled}.>", durable="theirs", stream=filled)
    with pytest.raises(eda.ConfigError, match="another program has made its consumer"):
        await conn.move_subscription(filled, "theirs", to="first", force=True)


async def test_move_when_the_name_is_taken_twice_is_refused(conn: eda.Conn, filled: str, admin: Admin) -> None:
    await handle_all(conn, filled, **ORDERED)
    await admin.js.pull_subscribe(f"{filled}.>", durable="n", stream=filled)
    with pytest.raises(eda.ConfigError, match="exists twice"):
        await conn.move_subscription(filled, "n", to="first", force=True)


@BOTH
async def test_change_when_a_member_is_open_is_refused(conn: eda.Conn, filled: str, options: dict[str, Any]) -> None:
    async with member(conn, filled, **options) as (sub, got):
        await until(lambda: len(got) == N)
        with pytest.raises(eda.ConfigError, match="can't be moved while") as refused:
            await conn.move_subscription(filled, "n", to=1)
        assert refused.value.argument == "force"
        with pytest.raises(eda.ConfigError, match="can't be deleted while"):
            await conn.delete_subscription(filled, "n")
        await asyncio.sleep(0.1)
        assert len(got) == N
        assert sub.is_active


# --- with members ----------------------------------------------------------------------------------------------------


async def test_move_when_ordered_members_are_open_lets_them_go_on_one_at_a_time(
    connect: Connect, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[float, float, int]] = []
    loop = asyncio.get_running_loop()

    async def handle(event: eda.Event) -> None:
        began = loop.time()
        try:
            # The tenth event is the only one that takes long, and only the first time.
            await asyncio.sleep(20 if event.sequence == N and len(spans) < N else 0.02)
        finally:
            spans.append((began, loop.time(), event.sequence))

    one, two, operator = await connect(), await connect(), await connect()
    options: dict[str, Any] = {"name": "n", "durable": True, "backfill": True, "exclusive": True}
    async with one.subscribe(filled, handle, **options) as first, two.subscribe(filled, handle, **options) as second:
        await until(lambda: first.stats().in_flight and len(spans) == N - 1)
        moved = await operator.move_subscription(filled, "n", to=7, force=True)
        assert (moved.before, moved.after) == ("9", "6")
        await until(lambda: len(spans) >= N + 3)
        assert first.is_active != second.is_active
    # The handler of the tenth event was cancelled; then the seventh came.
    assert [sequence for _, _, sequence in spans][: N + 3] == [*range(1, N + 1), 7, 8, 9]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(spans)))


async def test_move_when_shared_members_are_open_ends_them(conn: eda.Conn, filled: str, logged: Logged) -> None:
    logged.expect("was deleted")
    with pytest.raises(eda.ConsumerDeleted):
        async with member(conn, filled) as (sub, got):
            await until(lambda: len(got) == N)
            await conn.move_subscription(filled, "n", to=9, force=True)
            await sub.wait()
    assert await handle_all(conn, filled, 2) == ["9", "10"]


async def test_move_when_the_holder_has_vanished_needs_no_force(
    conn: eda.Conn, connect: Connect, filled: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.cursors.moving, "TAKEOVER_S", 0.3)
    await handle_all(conn, filled, **ORDERED)
    keys = Keys(admin, filled)
    value = await keys.get()
    assert value is not None
    await keys.put(msgspec.json.encode(value | {"holder": "gone"}))
    await asyncio.sleep(0.4)
    await conn.move_subscription(filled, "n", to=3)
    after = await keys.get()
    assert after is not None
    assert (after["holder"], after["tries"], after["epoch"]) == ("", 0, value["epoch"] + 1)
    assert await handle_all(conn, filled, 8, **ORDERED) == places(3)


# --- forgotten -------------------------------------------------------------------------------------------------------


@BOTH
async def test_delete_when_nobody_is_open_lets_the_next_member_begin_as_it_says(
    conn: eda.Conn, filled: str, options: dict[str, Any]
) -> None:
    await handle_all(conn, filled, **options)
    assert await conn.delete_subscription(filled, "n")
    assert await conn.subscriptions(filled) == []
    assert not await conn.delete_subscription(filled, "n")
    assert await handle_all(conn, filled, **options) == places(1)


@BOTH
async def test_delete_when_forced_ends_the_members(
    conn: eda.Conn, filled: str, options: dict[str, Any], logged: Logged
) -> None:
    logged.expect("was deleted")
    with pytest.raises(eda.ConsumerDeleted):
        async with member(conn, filled, **options) as (sub, got):
            await until(lambda: len(got) == N)
            assert await conn.delete_subscription(filled, "n", force=True)
            await conn.publish(filled)
            await sub.wait()


async def test_delete_when_the_stream_is_gone_removes_the_cursor(conn: eda.Conn, filled: str, admin: Admin) -> None:
    await handle_all(conn, filled, **ORDERED)
    await conn.streams.delete(filled)
    left = [each for each in await conn.subscriptions() if each.stream == filled]
    assert [(each.name, each.kind, each.position, each.lag) for each in left] == [("n", "ordered", 10, None)]
    assert await conn.delete_subscription(filled, "n")
    assert [each for each in await conn.subscriptions() if each.stream == filled] == []
    with pytest.raises(eda.StreamNotFound):
        await conn.delete_subscription(filled, "n")


async def test_delete_when_the_entry_holds_something_else_removes_it(conn: eda.Conn, filled: str, admin: Admin) -> None:
    await handle_all(conn, filled, **ORDERED)
    await Keys(admin, filled).put(b"not a cursor")
    with pytest.raises(eda.ConfigError, match="holds no cursor"):
        await conn.subscription(filled, "n")
    assert await conn.delete_subscription(filled, "n")
    assert await handle_all(conn, filled, **ORDERED) == places(1)


async def test_delete_when_shared_removes_the_records_of_suspects(conn: eda.Conn, filled: str, admin: Admin) -> None:
    await handle_all(conn, filled, **ORDERED)  # makes the bucket
    await conn.delete_subscription(filled, "n")
    await handle_all(conn, filled)
    for place in ("3", "4.1"):
        await admin.js.publish(f"$KV.{BUCKET}.{filled}.n.{place}", b"{}")
    await admin.js.publish(f"$KV.{BUCKET}.{filled}.other.3", b"{}")
    await conn.delete_subscription(filled, "n")
    subjects = (await admin.api(f"STREAM.INFO.{BUCKET_STREAM}", {"subjects_filter": f"$KV.{BUCKET}.{filled}.*.>"}))[
        "state"
    ]
    assert list(subjects["subjects"]) == [f"$KV.{BUCKET}.{filled}.other.3"]


async def test_move_when_the_holder_writes_all_the_time_gets_through(
    conn: eda.Conn, connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    operator = await connect()
    async with conn.publisher(stream) as publisher:
        for _ in range(30_000):
            await publisher.send(eda.Event())
    got: list[int] = []

    async def handle(event: eda.Event) -> None:
        got.append(event.sequence)
        await asyncio.sleep(0.001)

    async with conn.subscribe(stream, handle, name="n", durable=True, backfill=True, serial=True):
        await until(lambda: len(got) > 100)
        await operator.move_subscription(stream, "n", to="end", force=True)
        assert len(got) < 30_000, "it was no longer busy"
        await conn.publish(stream)
        await until(lambda: got[-1] == 30_001)
        value = await Keys(admin, stream).get()
        assert value is not None
        assert value["tries"] == 0
    assert len(got) < 30_000
    assert not logged.find("is silent"), "a standby has taken the cursor over from the mover"
