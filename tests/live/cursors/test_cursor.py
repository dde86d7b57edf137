"""eda.cursors.cursor on real servers: taking, holding and giving up; what the entry may hold; resetting."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from typing import Any

import pytest
from nats.js.api import KeyValueConfig

import eda
from eda.cursors.position import FIRST, Position
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys, Member


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    """A connection, with the stream in place."""
    conn = await connect()
    await conn.streams.create(stream)
    return conn


@pytest.fixture
def keys(admin: Admin, stream: str) -> Keys:
    return Keys(admin, stream)


# --- the first member ------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_open_when_there_is_no_cursor_makes_it_and_is_active(conn: eda.Conn, stream: str, keys: Keys) -> None:
    member = await Member(conn, stream, filter=["a.b", "a"]).open(first=7)
    assert member.story == ["active"]
    assert (await member.active()) == (7, 0)
    value = await keys.get()
    assert value is not None
    assert datetime.fromisoformat(value.pop("updated")).tzinfo is not None
    created = (await keys.admin.api(f"STREAM.INFO.{stream}"))["created"]
    assert value == {
        "v": 1, "seq": 7, "epoch": 1, "holder": member.cursor.holder, "tries": 0, "filter": ["a.b", "a"],
        "created": created, "start": 0, "time": "0",
    }  # fmt: skip
    assert re.fullmatch(r"m\d+-\w{22}", member.cursor.holder)
    assert await member.close()


@pytest.mark.old_server
async def test_position_when_closed_is_kept_for_the_next_member(conn: eda.Conn, stream: str, keys: Keys) -> None:
    member = await Member(conn, stream).open()
    for seq in range(1, 1001):
        member.cursor.advance(Position(seq))
    assert await member.close(1001)
    value = await keys.get()
    assert value is not None
    assert (value["seq"], value["holder"], value["epoch"], value["tries"]) == (1001, "", 1, 0)
    following = await Member(conn, stream).open(first=5)
    assert (await following.active()) == (1001, 0)
    assert following.cursor.epoch == 2
    assert await following.close()


@pytest.mark.old_server
async def test_close_when_another_stands_by_hands_over_at_once(conn: eda.Conn, stream: str, connect: Connect) -> None:
    member = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    assert standby.story == []
    member.cursor.advance(Position(3))
    assert await member.close(4)
    async with asyncio.timeout(1.0):
        assert (await standby.active()) == (4, 0)
    assert standby.cursor.epoch == 2
    assert await standby.close()


@pytest.mark.old_server
async def test_store_when_called_for_each_event_takes_a_round_trip_each(
    conn: eda.Conn, stream: str, keys: Keys
) -> None:
    member = await Member(conn, stream).open()
    before = await keys.n_writes()
    async with asyncio.timeout(10):
        for seq in range(1, 201):
            await member.cursor.store(Position(seq))
            assert member.kept >= seq
    assert await keys.n_writes() - before <= 202
    value = await keys.get()
    assert value is not None
    assert value["seq"] == 200
    assert await member.close()


@pytest.mark.old_server
async def test_advance_when_called_100_000_times_writes_seldom_and_keeps_the_last(
    conn: eda.Conn, stream: str, keys: Keys
) -> None:
    member = await Member(conn, stream).open()
    before, begin = await keys.n_writes(), asyncio.get_running_loop().time()
    for seq in range(1, 100_001):
        member.cursor.advance(Position(seq))
        if seq % 1000 == 0:
            await asyncio.sleep(0.001)
    elapsed_s = asyncio.get_running_loop().time() - begin
    await until(lambda: member.kept == 100_000)
    assert await keys.n_writes() - before <= elapsed_s / 0.005 + 3
    assert await member.close()


# --- the bucket ------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_bucket_when_made_is_as_a_key_value_client_makes_it(own_server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.streams.create(stream)
        member = await Member(conn, stream).open()
        js = member.wire.jetstream()
        ours: dict[str, Any] = (await Admin(member.wire).api(f"STREAM.INFO.{BUCKET_STREAM}"))["config"]
        await js.create_key_value(KeyValueConfig(bucket="theirs", history=1, direct=True))
        theirs: dict[str, Any] = (await Admin(member.wire).api("STREAM.INFO.KV_theirs"))["config"]
        for config in (ours, theirs):
            # The last one is of no use without limits.
            for key in ("name", "subjects", "description", "metadata", "allow_msg_ttl"):
                config.pop(key, None)
        assert ours == theirs
        kv = await js.key_value(BUCKET)
        entry = await kv.get(f"{stream}.n")
        assert json.loads(entry.value or b"")["holder"] == member.cursor.holder
        assert await member.close()


async def test_open_when_many_do_at_once_on_a_new_server_makes_one_active(
    own_server: eda.EmbeddedServer, stream: str
) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.streams.create(stream)
        members = [Member(conn, stream) for _ in range(8)]
        await asyncio.gather(*(member.open() for member in members))
        assert [member.story for member in members].count(["active"]) == 1
        assert [member.story for member in members].count([]) == 7
        for member in members:
            await member.close()


async def test_open_when_the_bucket_has_other_settings_uses_it(own_server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.streams.create(stream)
        js = Member(conn, stream).wire.jetstream()
        await js.create_key_value(KeyValueConfig(bucket=BUCKET, history=5))
        member = await Member(conn, stream).open()
        await member.cursor.store(Position(3))
        assert await member.close(4)


# --- what is found in the key ----------------------------------------------------------------------------------------


async def test_open_when_the_filter_differs_is_refused_and_names_both(conn: eda.Conn, stream: str, keys: Keys) -> None:
    assert await (await Member(conn, stream, filter=["a", "b"]).open()).close(5)
    same = await Member(conn, stream, filter=["b", "a"]).open()
    assert (await same.active()) == (5, 0)
    for wrong in (["a"], []):
        member = Member(conn, stream, filter=wrong)
        with pytest.raises(eda.ConfigError, match=r"\['a', 'b'\].*reset=True") as caught:
            await member.open()
        assert caught.value.argument == "name"
        assert await member.close()
    assert await same.close()
    value = await keys.get()
    assert value is not None
    assert value["holder"] == ""


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b'{"v":2,"seq":1}', b"\xff", b"[" * 10_000])
async def test_open_when_the_entry_holds_no_cursor_is_refused_and_reset_helps(
    conn: eda.Conn, stream: str, keys: Keys, text: bytes
) -> None:
    assert await (await Member(conn, stream).open()).close()
    await keys.put(text)
    member = Member(conn, stream)
    with pytest.raises(eda.ConfigError, match=rf"{stream}\.n of the bucket eda-cursors.*reset=True"):
        await member.open()
    assert await member.close()
    member = await Member(conn, stream).open(reset=True, first=2)
    assert (await member.active()) == (2, 0)
    assert await member.close()


async def test_open_when_the_value_has_unknown_fields_takes_it(conn: eda.Conn, stream: str, keys: Keys) -> None:
    assert await (await Member(conn, stream).open()).close()
    value = {"v": 1, "seq": 9, "epoch": 4, "holder": "", "tries": 2, "filter": [], "updated": 5, "more": {"a": [1]}}
    await keys.put(json.dumps(value, indent=2).encode())
    member = await Member(conn, stream).open()
    assert (await member.active()) == (9, 2)
    assert member.cursor.epoch == 5
    assert await member.close()


async def test_open_when_the_stream_was_made_again_begins_anew_and_warns(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    assert await (await Member(conn, stream).open()).close(500)
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    member = await Member(conn, stream).open(first=1)
    assert (await member.active()) == (1, 0)
    assert member.cursor.epoch == 2
    assert logged.find(f"subscription n to {stream}: the stream was made again")
    await member.cursor.store(Position(2))
    assert await member.close()
    member = await Member(conn, stream).open(first=9)
    assert (await member.active()) == (2, 0)
    assert await member.close()


async def test_open_when_there_is_no_stream_is_refused(connect: Connect, stream: str) -> None:
    member = Member(await connect(), stream)
    with pytest.raises(eda.StreamNotFound):
        await member.open()
    assert await member.close()
    assert member.story == []


async def test_rewind_when_active_goes_on_at_a_lower_position(conn: eda.Conn, stream: str, keys: Keys) -> None:
    member = await Member(conn, stream).open()
    await member.cursor.store(Position(100))
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    created = (await keys.admin.api(f"STREAM.INFO.{stream}"))["created"]
    member.cursor.rewind(created, FIRST)
    await member.cursor.store(Position(3))
    value = await keys.get()
    assert value is not None
    assert (value["seq"], value["created"]) == (3, created)
    assert await member.close()
    following = await Member(conn, stream).open(first=9)
    assert (await following.active()) == (3, 0)
    assert await following.close()


# --- resetting and forgetting ----------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_reset_when_others_hold_and_stand_by_ends_them(conn: eda.Conn, stream: str, connect: Connect) -> None:
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    holder.cursor.advance(Position(50))
    new = await Member(await connect(), stream).open(reset=True, first=20)
    assert (await new.active()) == (20, 0)
    await until(lambda: "end" in holder.story and "end" in standby.story, 3.0)
    for member in (holder, standby):
        assert isinstance(member.tells("end")[0][0], eda.ConsumerDeleted)
        assert not member.cursor.is_active
        assert not await member.close(51)
    assert new.story == ["active"]
    assert await new.close()


@pytest.mark.old_server
async def test_forget_when_others_hold_and_stand_by_ends_them(
    conn: eda.Conn, stream: str, connect: Connect, keys: Keys
) -> None:
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    other = await Member(await connect(), stream).open()
    await other.cursor.forget()
    await until(lambda: "end" in holder.story and "end" in standby.story, 3.0)
    assert (holder.story, standby.story, other.story) == (["active", "end"], ["end"], [])
    assert await keys.get() is None
    for member in (holder, standby, other):
        await member.close()
    again = await Member(conn, stream).open(first=3)
    assert (await again.active()) == (3, 0)
    assert again.cursor.epoch == 1
    assert await again.close()


async def test_forget_when_active_ends_without_a_word(conn: eda.Conn, stream: str, keys: Keys) -> None:
    member = await Member(conn, stream).open()
    waiting = asyncio.ensure_future(member.cursor.store(Position(5)))
    await asyncio.sleep(0)
    await member.cursor.forget()
    with pytest.raises(eda.Closed):
        await asyncio.wait_for(waiting, 10)
    assert await keys.get() is None
    await asyncio.sleep(0.05)
    assert await keys.get() is None
    assert member.story == ["active"]
    await member.cursor.forget()


async def test_forget_when_there_is_nothing_is_no_error(own_server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await Member(conn, stream).cursor.forget()


async def test_store_when_not_the_holder_raises_closed(conn: eda.Conn, stream: str) -> None:
    member = Member(conn, stream)
    with pytest.raises(eda.Closed):
        await member.cursor.store(Position(1))
    await member.open()
    await member.cursor.store(Position(1))
    assert await member.close()
    with pytest.raises(eda.Closed):
        await member.cursor.store(Position(2))
    assert (member.cursor.lease_until_ns, member.cursor.is_active) == (0, False)
