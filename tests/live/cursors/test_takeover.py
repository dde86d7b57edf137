"""eda.cursors.cursor standing by: who takes over and when; two members are never the holder at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from typing import Any

import pytest

import eda
from eda._clock import read_monotonic_ns
from eda.cursors.position import Position
from helpers import Admin, Connect, Logged, freeze, needs_freeze, until, wire_of
from processes import environment
from support.cursors.member import Keys, Member, overlaps, shorten
from support.transport.faulty_proxy import FaultyProxy


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    """A connection, with the stream in place."""
    conn = await connect()
    await conn.streams.create(stream)
    return conn


@pytest.fixture
def keys(admin: Admin, stream: str) -> Keys:
    return Keys(admin, stream)


# --- with the real times ---------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_takeover_when_the_holder_vanishes_comes_within_5_to_7_seconds(
    conn: eda.Conn, stream: str, connect: Connect
) -> None:
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    await holder.cursor.store(Position(10))
    begin = time.monotonic()
    holder.vanish()
    assert (await standby.active()) == (10, 1)
    assert 4.0 < time.monotonic() - begin < 9.0  # 7 s, and some for a busy machine
    assert not overlaps(holder, standby)
    assert await standby.close()


async def test_holder_when_cut_off_for_2_s_goes_on_and_for_10_s_is_fenced_at_4_and_lost(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, connect: Connect
) -> None:
    standby = Member(conn, stream)
    async with FaultyProxy(server.port) as proxy:
        holder = await Member(await connect(proxy.url(server.url)), stream).open()
        await standby.open()
        await holder.cursor.store(Position(1))
        proxy.hold()
        await asyncio.sleep(2.0)
        proxy.release()
        await holder.cursor.store(Position(2))
        assert (holder.story, standby.story) == (["active"], [])
        begin = time.monotonic_ns()
        proxy.hold()
        holder.cursor.advance(Position(3))
        await asyncio.sleep(10.0)
        assert holder.story == ["active", "fenced"]
        assert standby.story == ["active"]
        fenced_at_ns = next(at_ns for at_ns, what, _ in holder.told if what == "fenced")
        assert 2.9e9 < fenced_at_ns - begin < 4.2e9
        assert holder.cursor.lease_until_ns <= fenced_at_ns
        proxy.release()
        await until(lambda: "lost" in holder.story)
        assert holder.cursor.lease_until_ns == 0
        assert (await standby.active()) == (2, 1)
        assert await standby.close(7)
        assert (await holder.active()) == (7, 0)
        assert holder.cursor.epoch == 3
        assert not overlaps(holder, standby)
        assert await holder.close()


async def test_standby_when_the_holder_writes_once_a_second_leaves_it_alone(
    conn: eda.Conn, stream: str, connect: Connect, keys: Keys
) -> None:
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    before = await keys.n_writes()
    await asyncio.sleep(7.0)
    assert 6 <= await keys.n_writes() - before <= 8
    assert (holder.story, standby.story) == (["active"], [])
    value = await keys.get()
    assert value is not None
    assert (value["seq"], value["tries"]) == (0, 0)
    for member in (standby, holder):
        assert await member.close()


# --- shortened -------------------------------------------------------------------------------------------------------


async def test_three_members_when_holders_come_and_go_are_active_one_at_a_time(
    conn: eda.Conn, stream: str, connect: Connect, server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    async with FaultyProxy(server.port) as proxy:
        members = [await Member(await connect(proxy.url(server.url)), stream).open() for _ in range(3)]
        gone: list[Member] = []
        done = 0
        for round in range(9):
            active = await until(lambda: next((each for each in members if each.cursor.is_active), None))
            for _ in range(20):
                done += 1
                active.cursor.advance(Position(done))
                await asyncio.sleep(0.002)
            kind = round % 3
            if kind == 0:
                assert await active.close(done)
            elif kind == 1:
                await active.cursor.store(Position(done))
                active.vanish()
            else:
                await active.cursor.store(Position(done))
                proxy.cut()
                await asyncio.sleep(0.1)
                continue
            members.remove(active)
            gone.append(active)
            members.append(await Member(await connect(proxy.url(server.url)), stream).open())
        last = await until(lambda: next((each for each in members if each.cursor.is_active), None))
        assert not overlaps(*members, *gone)
        assert [each.cursor.is_active for each in members].count(True) == 1
        positions = sorted(
            (at_ns, arguments[0]) for each in (*members, *gone) for at_ns, what, arguments in each.told
            if what == "active"
        )  # fmt: skip
        assert [position for _, position in positions] == sorted(position for _, position in positions)
        assert last.tells("active")[-1][0] <= done
        for each in members:
            if each is not last:
                assert await each.close()
        assert await last.close()


async def test_takeover_when_many_stand_by_has_one_winner(
    conn: eda.Conn, stream: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    holder = await Member(conn, stream).open()
    conns = [await connect() for _ in range(3)]
    standbys = [await Member(conns[i % 3], stream).open() for i in range(9)]
    holder.vanish()
    await until(lambda: any(each.cursor.is_active for each in standbys))
    await asyncio.sleep(0.5)
    assert [each.story for each in standbys].count(["active"]) == 1
    assert [each.story for each in standbys].count([]) == 8
    for each in sorted(standbys, key=lambda each: each.cursor.is_active):
        assert await each.close()


async def test_takeover_when_closed_while_it_stops_standing_by_holds_nothing(
    conn: eda.Conn, stream: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop() -> None:
        # nats-py swallows a cancellation while its queue of writes is full.
        monkeypatch.undo()
        closing.append(asyncio.create_task(member.close()))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)

    closing: list[asyncio.Task[bool]] = []
    member = Member(conn, stream)
    monkeypatch.setattr(member.cursor._standby, "stop", stop)
    with pytest.raises(eda.Closed):
        await member.open()
    assert await closing[0]
    assert not member.cursor.is_active
    assert member.story == []
    value = await keys.get()
    assert value is None or not value["holder"]


async def test_tries_when_holders_vanish_without_progress_counts_them(
    conn: eda.Conn, stream: str, connect: Connect, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, 0.1)
    standing = [await Member(await connect(), stream).open()]
    await standing[0].cursor.store(Position(10))
    for tries in (1, 2, 3):
        standing.append(await Member(await connect(), stream).open())
        standing[-2].vanish()
        assert (await standing[-1].active()) == (10, tries)
        await asyncio.sleep(0.25)  # signs of life leave `tries` as it is
    assert await standing[-1].close()  # so does giving up the cursor
    following = await Member(conn, stream).open()
    assert (await following.active()) == (10, 3)
    await following.cursor.store(Position(11))
    value = await keys.get()
    assert value is not None
    assert (value["seq"], value["tries"]) == (11, 0)
    standby = await Member(await connect(), stream).open()
    following.vanish()
    assert (await standby.active()) == (11, 1)
    assert await standby.close()


async def test_takeover_when_the_stream_was_made_again_meanwhile_begins_anew(
    conn: eda.Conn, stream: str, connect: Connect, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open(first=4)
    await holder.cursor.store(Position(100))
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    assert await holder.close()
    assert (await standby.active()) == (4, 0)
    assert logged.find("was made again")
    assert await standby.close()


async def test_takeover_when_the_stream_is_gone_ends(
    conn: eda.Conn, stream: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    await conn.streams.delete(stream)
    assert await holder.close()
    await until(lambda: standby.story == ["end"])
    assert isinstance(standby.tells("end")[0][0], eda.StreamNotFound)
    assert not await standby.close()


# --- hints -----------------------------------------------------------------------------------------------------------


async def test_standby_when_flooded_with_hints_reads_seldom_and_still_takes_over(
    conn: eda.Conn, stream: str, connect: Connect, admin: Admin, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    n_reads = 0
    read = standby.cursor._entry.read

    async def counting() -> Any:
        nonlocal n_reads
        n_reads += 1
        return await read()

    monkeypatch.setattr(standby.cursor._entry, "read", counting)
    holder.vanish()
    begin = time.monotonic()
    lies = [b"", b"nonsense", json.dumps(await keys.get() or {}).encode(), b'{"holder":""}']
    while not standby.cursor.is_active:
        assert time.monotonic() - begin < 5.0
        for lie in lies:  # refused by the stream, which has another sequence, but published to all who listen
            headers = {"Nats-Expected-Last-Subject-Sequence": "1"}
            await admin.client.publish(keys.subject, lie, headers=headers)
        await asyncio.sleep(0.005)
    elapsed_s = time.monotonic() - begin
    assert elapsed_s < 3.0
    assert n_reads <= elapsed_s / 0.1 + 3
    assert await standby.close()


async def test_standby_when_it_may_not_subscribe_takes_over_all_the_same(
    stream: str, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    shorten(monkeypatch)
    logged.allow("the server forbids")
    users = [
        {"user": "all", "password": "p"},
        {"user": "deaf", "password": "p", "permissions": {"subscribe": {"deny": ["$KV.>"]}}},
    ]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        async with eda.connect(server.url, user="all", password="p") as conn:
            await conn.streams.create(stream)
            holder = await Member(conn, stream).open()
            async with eda.connect(server.url, user="deaf", password="p") as deaf:
                standby = await Member(deaf, stream).open()
                await holder.cursor.store(Position(5))
                holder.vanish()
                assert (await standby.active()) == (5, 1)
                assert await standby.close()


@pytest.mark.parametrize("subject", ["$KV.>", "$JS.API.STREAM.MSG.GET.>"])
async def test_cursor_when_it_may_not_publish_ends_and_says_what(stream: str, subject: str, logged: Logged) -> None:
    logged.allow("the server forbids")
    users = [
        {"user": "all", "password": "p"},
        {"user": "mute", "password": "p", "permissions": {"publish": {"deny": [subject]}}},
    ]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        async with eda.connect(server.url, user="all", password="p") as conn:
            await conn.streams.create(stream)
            async with eda.connect(server.url, user="mute", password="p") as mute:
                member = Member(mute, stream)
                with pytest.raises(eda.ServerError, match=r"no permission for \$.*where cursors are kept"):
                    await member.open()
                assert not await member.close()
                assert member.story == []


async def test_members_when_the_connection_closes_end(conn: eda.Conn, stream: str, connect: Connect) -> None:
    other = await connect()
    holder = await Member(conn, stream).open()
    standby = await Member(other, stream).open()
    waiting = asyncio.ensure_future(holder.cursor.store(Position(3)))
    for each in (conn, other):
        await wire_of(each).close_within()
    for member in (holder, standby):
        assert isinstance(member.tells("end")[0][0], eda.Closed)
        assert not await member.close()
    with pytest.raises(eda.Closed):
        await asyncio.wait_for(waiting, 10)


# --- processes -------------------------------------------------------------------------------------------------------


@needs_freeze
async def test_process_when_frozen_while_holding_begins_nothing_after_another_took_over(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    command = [sys.executable, "-m", "support.cursors.process", server.url, stream]
    process = await asyncio.create_subprocess_exec(*command, env=environment(), stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"active\n"
        standby = await Member(conn, stream).open()
        await asyncio.sleep(0.5)
        frozen_ns = read_monotonic_ns()
        freeze(process.pid)
        position, tries = await standby.active()
        taken_ns = standby.told[0][0]
        assert 4.9e9 < taken_ns - frozen_ns < 9e9  # 7 s, and some for a busy machine
        assert position > 100
        assert tries == 1
        process.send_signal(signal.SIGCONT)
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
        assert told["story"] in (["active", "fenced", "lost"], ["active", "lost"])
        assert max(told["begun"]) < taken_ns
        assert max(told["begun"]) < frozen_ns + 1e8
        assert standby.story == ["active"]
        assert await standby.close()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
