"""eda.cursors.cursor when answers are lost, connections break, servers die, and others write to its entry."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable

import pytest

import eda
from eda.cursors.position import Position
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys, Member, overlaps, shorten
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

ACK = b'{"stream":"KV_eda-cursors"'


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    """A connection, with the stream in place."""
    conn = await connect()
    await conn.streams.create(stream)
    return conn


@pytest.fixture
def keys(admin: Admin, stream: str) -> Keys:
    return Keys(admin, stream)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


def next_answers(proxy: FaultyProxy, n: int = 1) -> Callable[[bytes], bool]:
    """Return a filter that drops the next `n` acknowledgements of the bucket."""
    limit = proxy.n_dropped + n
    return lambda message: ACK in message and proxy.n_dropped < limit


# --- lost answers ----------------------------------------------------------------------------------------------------


async def test_write_when_its_answer_is_lost_is_looked_up_and_goes_on(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shorten(monkeypatch)
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    for seq in range(1, 6):
        proxy.drop_if = next_answers(proxy)
        lease_ns = member.cursor.lease_until_ns
        await asyncio.wait_for(member.cursor.store(Position(seq)), 10)
        await until(lambda lease_ns=lease_ns: member.cursor.lease_until_ns > lease_ns)
    assert proxy.n_dropped == 5
    assert member.story == ["active"]
    assert await member.close()


async def test_lease_when_a_write_is_only_read_is_not_longer(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shorten(monkeypatch)
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    lease_ns = member.cursor.lease_until_ns
    proxy.drop_if = next_answers(proxy, 1000)
    await asyncio.wait_for(member.cursor.store(Position(1)), 10)
    assert member.cursor.lease_until_ns == lease_ns
    await until(lambda: "fenced" in member.story)
    proxy.drop_if = None
    await until(lambda: member.story == ["active", "fenced", "unfenced"])
    assert member.cursor.lease_until_ns > lease_ns
    assert await member.close()


@pytest.mark.old_server
async def test_open_when_the_answers_to_taking_the_cursor_are_lost_takes_it(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shorten(monkeypatch)
    other = await connect(proxy.url(server.url))
    for epoch in range(1, 4):
        proxy.drop_if = next_answers(proxy, 2)
        member = await Member(other, stream).open()
        assert (await member.active()) == (epoch - 1, 0)
        assert member.cursor.epoch == epoch
        assert member.cursor.lease_until_ns > time.monotonic_ns()
        assert await member.close(epoch)
    assert proxy.n_dropped == 6


async def test_close_when_the_answer_is_lost_still_knows_that_it_is_kept(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy, keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shorten(monkeypatch)
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    standby = await Member(conn, stream).open()
    proxy.drop_if = lambda message: ACK in message
    assert await member.close(8)
    assert (await standby.active()) == (8, 0)
    assert await standby.close()


async def test_close_when_a_write_is_under_way_keeps_the_last_position(conn: eda.Conn, stream: str, keys: Keys) -> None:
    for _ in range(20):
        member = await Member(conn, stream).open()
        position = member.tells("active")[0][0]
        member.cursor.advance(Position(position + 1))  # is written
        member.cursor.advance(Position(position + 2))  # waits for that
        assert await member.close(position + 3)
        value = await keys.get()
        assert value is not None
        assert (value["seq"], value["holder"]) == (position + 3, "")


async def test_close_when_cut_off_gives_up_in_time_and_says_so(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy, logged: Logged
) -> None:
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    proxy.hold()
    begin = time.monotonic()
    assert not await member.close(3, timeout_s=0.5)
    assert 0.4 < time.monotonic() - begin < 4
    assert logged.find("its last position may not be stored.*no answer within 0.5 s")
    proxy.release()


async def test_close_after_an_open_that_was_cancelled_gives_up_what_it_may_have_taken(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy, keys: Keys
) -> None:
    member = Member(await connect(proxy.url(server.url)), stream)
    proxy.drop_if = lambda message: ACK in message
    opening = asyncio.ensure_future(member.open(first=4))
    value = None
    while value is None:
        value = await keys.get()
    assert value["holder"] == member.cursor.holder
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    proxy.drop_if = None
    assert await member.close()
    value = await keys.get()
    assert value is not None
    assert (value["holder"], value["seq"]) == ("", 4)
    assert member.story == []


async def test_open_when_closed_meanwhile_raises_closed(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy
) -> None:
    member = Member(await connect(proxy.url(server.url)), stream)
    proxy.hold()
    opening = asyncio.ensure_future(member.open())
    await asyncio.sleep(0.05)
    await member.close(timeout_s=0.2)
    with pytest.raises(eda.Closed):
        await opening
    proxy.release()


# --- broken connections ----------------------------------------------------------------------------------------------


async def test_position_when_connections_break_all_the_time_is_right_in_the_end(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy
) -> None:
    rng = random.Random(5)
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    standby = await Member(conn, stream).open()
    for seq in range(1, 301):
        if seq % 20 == 0:
            proxy.cut_after(rng.randrange(1, 1500), rng.choice([UP, DOWN]))
        if seq % 50 == 0:
            proxy.drop_if = next_answers(proxy)
        for each in (member, standby):
            each.cursor.advance(Position(seq))
        await asyncio.sleep(0.005)
    await until(lambda: member.kept == 300 or standby.kept == 300)
    assert not overlaps(member, standby)
    assert proxy.n_cut >= 3
    assert (member.story, standby.story) == (["active"], [])  # cut off for moments only
    assert await member.close()
    assert (await standby.active()) == (300, 0)
    assert await standby.close()


@pytest.mark.old_server
async def test_holder_when_the_server_is_killed_and_comes_back_goes_on(
    own_server: eda.EmbeddedServer, stream: str
) -> None:
    async with eda.connect(own_server.url, client="a") as conn, eda.connect(own_server.url, client="b") as other:
        await conn.streams.create(stream)
        holder = await Member(conn, stream).open()
        standby = await Member(other, stream).open()
        await holder.cursor.store(Position(5))
        holder.cursor.advance(Position(6))
        await own_server.kill()
        holder.cursor.advance(Position(7))
        await asyncio.sleep(1.0)
        await own_server.start()
        await holder.cursor.store(Position(8))
        assert (holder.story, standby.story) == (["active"], [])
        assert holder.kept == 8
        assert await holder.close()
        assert (await standby.active()) == (8, 0)
        assert await standby.close()


async def test_holder_when_the_server_is_away_for_longer_than_its_lease_is_fenced_and_goes_on(
    own_server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    async with eda.connect(own_server.url, client="a") as conn, eda.connect(own_server.url, client="b") as other:
        await conn.streams.create(stream)
        holder = await Member(conn, stream).open()
        standby = await Member(other, stream).open()
        await holder.cursor.store(Position(5))
        await own_server.kill()
        holder.cursor.advance(Position(6))
        await until(lambda: holder.story == ["active", "fenced"])
        await asyncio.sleep(1.0)
        await own_server.start()
        active = await until(
            lambda: next((each for each in (holder, standby) if each.cursor.lease_until_ns > time.monotonic_ns()), None)
        )
        await until(lambda: len(holder.story) == 3)  # it may learn that it lost the cursor after the standby is active
        assert holder.story in (["active", "fenced", "unfenced"], ["active", "fenced", "lost"])
        assert not overlaps(holder, standby)
        await active.cursor.store(Position(9))
        for each in (standby, holder) if active is holder else (holder, standby):
            assert await each.close()


async def test_store_when_the_connection_breaks_waits_for_the_reconnect(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect, proxy: FaultyProxy
) -> None:
    member = await Member(await connect(proxy.url(server.url)), stream).open()
    proxy.refusing = True
    proxy.cut()
    waiting = asyncio.ensure_future(member.cursor.store(Position(3)))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    proxy.refusing = False
    await asyncio.wait_for(waiting, 5.0)
    assert member.story == ["active"]
    assert await member.close()


async def test_open_when_the_server_is_away_for_a_moment_waits_for_it(
    own_server: eda.EmbeddedServer, stream: str
) -> None:
    async with eda.connect(own_server.url, client="a") as conn:
        await conn.streams.create(stream)
        await own_server.kill()
        member = Member(conn, stream)
        opening = asyncio.ensure_future(member.open())
        await asyncio.sleep(2.5)
        assert not opening.done()
        await own_server.start()
        await opening
        assert member.story == ["active"]
        assert await member.close()


# --- others write to the key -----------------------------------------------------------------------------------------


async def test_write_when_somebody_wrote_the_same_holder_adopts_that_and_goes_on(
    conn: eda.Conn, stream: str, keys: Keys
) -> None:
    member = await Member(conn, stream).open()
    await member.cursor.store(Position(5))
    message = await keys._message()
    assert message is not None
    value = await keys.get()
    assert value is not None
    await keys.put(eda.JSON(value).encode())
    await member.cursor.store(Position(6))
    assert member.story == ["active"]
    assert await member.close()


async def test_write_when_another_has_taken_the_cursor_is_lost_and_stands_by(
    conn: eda.Conn, stream: str, keys: Keys
) -> None:
    member = await Member(conn, stream).open()
    value = await keys.get()
    assert value is not None
    await keys.put(eda.JSON(value | {"holder": "x", "epoch": 2, "seq": 40}).encode())
    waiting = asyncio.ensure_future(member.cursor.store(Position(6)))
    with pytest.raises(eda.Closed):
        await asyncio.wait_for(waiting, 10)
    assert member.story == ["active", "lost"]
    assert (member.cursor.is_active, member.cursor.lease_until_ns) == (False, 0)
    await keys.put(eda.JSON(value | {"holder": "", "epoch": 2, "seq": 41}).encode())
    assert (await member.active(1.0)) == (41, 0)
    assert member.cursor.epoch == 3
    assert await member.close()


@pytest.mark.parametrize("what", ["purge", "delete", "nonsense", "older", "same epoch", "bucket", "stream purge"])
async def test_members_when_the_cursor_is_destroyed_end_and_say_how(
    own_server: eda.EmbeddedServer, stream: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    async with eda.connect(own_server.url, client="a") as conn:
        await conn.streams.create(stream)
        assert await (await Member(conn, stream).open()).close()
        holder = await Member(conn, stream).open()
        standby = await Member(conn, stream).open()
        admin = Admin(holder.wire)
        keys = Keys(admin, stream)
        value = await keys.get()
        assert value is not None
        kv = await admin.js.key_value(BUCKET)
        if what == "purge":
            await kv.purge(f"{stream}.n")
        elif what == "delete":
            await kv.delete(f"{stream}.n")
        elif what == "nonsense":
            await keys.put(b"nonsense")
        elif what == "older":
            await keys.put(eda.JSON(value | {"holder": "x", "epoch": 1}).encode())
        elif what == "same epoch":
            await keys.put(eda.JSON(value | {"holder": "x"}).encode())
        elif what == "bucket":
            await admin.js.delete_key_value(BUCKET)
        else:
            await admin.js.purge_stream(BUCKET_STREAM)
        await until(lambda: holder.story == ["active", "end"] and standby.story == ["end"], 8.0)
        expected = {"nonsense": eda.ConfigError}.get(what, eda.ConsumerDeleted)
        for member in (holder, standby):
            assert isinstance(member.tells("end")[0][0], expected)
            assert not await member.close()
        assert await (await Member(conn, stream).open(reset=True)).close()


async def test_write_when_the_bucket_is_full_says_so_once_and_is_fenced(
    own_server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    shorten(monkeypatch)
    async with eda.connect(own_server.url, client="a") as conn:
        await conn.streams.create(stream)
        member = await Member(conn, stream).open()
        admin = Admin(member.wire)
        config = (await admin.api(f"STREAM.INFO.{BUCKET_STREAM}"))["config"]
        await admin.api(f"STREAM.UPDATE.{BUCKET_STREAM}", config | {"max_msg_size": 10})
        logged.expect("storing its position failed.*publish to KV_eda-cursors: message size exceeds maximum allowed")
        await until(lambda: member.story == ["active", "fenced"])
        await admin.api(f"STREAM.UPDATE.{BUCKET_STREAM}", config)
        await until(lambda: member.story == ["active", "fenced", "unfenced"])
        assert len(logged.find("storing its position failed")) == 1
        await member.cursor.store(Position(3))
        assert await member.close()


async def test_answers_when_forged_or_odd_are_passed_over(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    member = await Member(conn, stream).open()
    inbox = member.cursor._entry._inbox
    stop = asyncio.get_running_loop().time() + 0.5
    seq = 0
    while asyncio.get_running_loop().time() < stop:
        for tail in ("0", "x", "99999999", "18446744073709551616"):
            for lie in (b"", b"nonsense", b'{"stream":"KV_eda-cursors","seq":1}', b'{"type":"ack","seq":3}'):
                await admin.client.publish(f"{inbox}.{tail}", lie)
        await admin.flush()
        seq += 1
        await member.cursor.store(Position(seq))
    assert member.story == ["active"]
    assert await member.close()
