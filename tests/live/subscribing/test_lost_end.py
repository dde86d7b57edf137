"""A stream whose server lost power comes back without its end, and gives those sequences to other events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import eda
from helpers import Admin, Logged, Proxy, until
from support.cursors.member import Keys
from support.subscribing.machine import Machine

LOST = r"stream s has lost its end: event {}, .* ends at {} now; subscription {} continues after {}$"

DURABLE: dict[str, dict[str, Any]] = {
    "exclusive": {"exclusive": True},
    "serial": {"serial": True},
    "strict": {"serial": "strict"},
    "key": {"key": "aggregate", "concurrency": 4},
}
DURABLE = {kind: options | {"name": "n", "durable": True, "backfill": True} for kind, options in DURABLE.items()}
KINDS: dict[str, dict[str, Any]] = {"private": {"backfill": True}, **DURABLE}


@pytest.fixture
async def machine(tmp_path: Path, executable: Path | None) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path, executable)
    async with machine.server:
        yield machine


class Seen(list[str]):
    """A handler that notes the ids."""

    def __call__(self, event: eda.Event) -> None:
        self.append(event.id)


async def handled(machine: Machine, options: dict[str, Any], n: int, *, more_s: float = 0.0) -> list[str]:
    """Return what a subscription that is opened now handles, up to `n` events and what comes after them."""
    seen = Seen()
    async with eda.connect(machine.server.url, client="c", **machine.login) as conn:
        async with conn.subscribe("s", seen, **options):
            await until(lambda: len(seen) >= n)
            await asyncio.sleep(more_s)
    return seen


# --- while nobody reads ----------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", DURABLE)
@pytest.mark.parametrize("n_new", [3, 5, 12])
async def test_end_when_lost_and_grown_again_while_nobody_reads_begins_with_the_first_new_event(
    machine: Machine, kind: str, n_new: int, logged: Logged
) -> None:
    """The new end lies before the kept position, at it, and behind it."""
    options = DURABLE[kind]
    old = await machine.publish(5)
    await machine.save()
    old += await machine.publish(5)
    assert sorted(await handled(machine, options, 10)) == sorted(old)
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(n_new)
    assert await handled(machine, options, n_new, more_s=0.2) == new
    assert logged.find(LOST.format(10, 5 + n_new, "n", 5))
    # The next reader has nothing to say any more.
    logged.records.clear()
    new = await machine.publish(1)
    assert await handled(machine, options, 1, more_s=0.2) == new
    assert not logged.find("lost its end")


@pytest.mark.parametrize("n_new", [0, 2, 12])
async def test_lag_when_the_end_is_lost_counts_from_where_the_next_member_goes_on(machine: Machine, n_new: int) -> None:
    await machine.publish(3)
    await machine.save()
    await machine.publish(7)
    await handled(machine, DURABLE["serial"], 10)
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(n_new)
    async with eda.connect(machine.server.url, client="a") as conn:
        (info,) = await conn.subscriptions("s")
        assert (info.position, info.lag) == (3, n_new)
    assert await handled(machine, DURABLE["serial"], n_new) == new
    async with eda.connect(machine.server.url, client="a") as conn:
        (info,) = await conn.subscriptions("s")
        assert (info.position, info.lag) == (3 + n_new, 0)


@pytest.mark.parametrize("is_grown", [True, False])
async def test_end_when_all_events_are_lost_begins_with_the_first_new_one(
    machine: Machine, is_grown: bool, logged: Logged
) -> None:
    async with eda.connect(machine.server.url) as conn:
        await conn.streams.create("s")
    await machine.save()
    old = await machine.publish(4)
    assert await handled(machine, DURABLE["serial"], 4) == old
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(6) if is_grown else []
    seen = Seen()
    async with eda.connect(machine.server.url, client="c") as conn, conn.subscribe("s", seen, **DURABLE["serial"]):
        new += [] if is_grown else await machine.publish(6)
        await until(lambda: len(seen) >= 6)
    assert seen == new
    assert len(logged.find("lost its end")) == 1


async def test_standby_when_the_stream_lost_its_end_meanwhile_begins_with_the_first_new_event(
    machine: Machine, logged: Logged
) -> None:
    """The holder is gone with the server, and leaves its position to the one that stands by."""
    await machine.publish(5)
    await machine.save()
    await machine.publish(5)
    first, second = Seen(), Seen()
    options = DURABLE["serial"]
    leaving = await eda.connect(machine.server.url, client="a")
    await leaving.subscribe("s", first, **options)
    await until(lambda: len(first) == 10)
    async with eda.connect(machine.server.url, client="b") as staying:
        async with staying.subscribe("s", second, **options) as subscription:
            await asyncio.sleep(1.2)  # the position is in the key
            await machine.lose()
            closing = asyncio.ensure_future(leaving.close())
            await machine.server.start()
            new = await machine.publish(8)
            await until(lambda: subscription.is_active, 20)
            await until(lambda: len(second) == 8)
            assert second == new
            await closing


async def test_new_subscription_when_the_end_is_lost_gets_what_is_new_all_the_same(machine: Machine) -> None:
    """One that began at the stream's end, and had no event yet: the end itself is its position."""
    options = DURABLE["serial"] | {"backfill": False}
    await machine.publish(5)
    await machine.save()
    await machine.publish(5)
    assert await handled(machine, options, 0) == []
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(9)
    assert await handled(machine, options, 9, more_s=0.1) == new


@pytest.mark.parametrize("is_dated", [True, False])
async def test_start_when_the_end_is_lost_before_anything_was_handled_gets_what_is_new(
    machine: Machine, is_dated: bool, logged: Logged
) -> None:
    logged.expect("handler failed for event e8")
    await machine.publish(5)
    await machine.save()
    await machine.publish(3)
    async with eda.connect(machine.server.url) as conn:
        async with conn.events("s", start=8) as events:
            start = (await anext(events)).ack_time if is_dated else 8
    options = DURABLE["serial"] | {"backfill": False, "start": start}
    async with eda.connect(machine.server.url, client="c") as conn:
        subscription = await conn.subscribe("s", refuse, **options)
        await until(lambda: subscription.stats().failed)
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(9)
    assert await handled(machine, options, 9, more_s=0.1) == new


def refuse(event: eda.Event) -> None:
    raise ValueError("not now")


# --- while the subscription is open ----------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_new", [0, 3, 12])
async def test_end_when_lost_while_subscribed_goes_on_with_the_first_new_event(
    machine: Machine, kind: str, n_new: int, logged: Logged
) -> None:
    """`n_new` events are stored before the subscription has its connection back; more come later."""
    old = await machine.publish(5)
    await machine.save()
    old += await machine.publish(5)
    seen = Seen()
    async with Proxy(machine.server.port) as proxy:
        async with eda.connect(proxy.url(machine.server.url), client="c") as conn:
            async with conn.subscribe("s", seen, **KINDS[kind]):
                await until(lambda: len(seen) == 10)
                proxy.refusing = True
                await machine.lose()
                await machine.server.start()
                new = await machine.publish(n_new)
                proxy.refusing = False
                await until(lambda: logged.find("lost its end"))
                new += await machine.publish(7)
                await until(lambda: len(seen) >= 10 + len(new))
                await asyncio.sleep(0.1)
                assert seen == old + new
                assert len(logged.find("lost its end")) == 1


@pytest.mark.parametrize("kind", ["private", "serial"])
async def test_events_when_read_and_not_handled_as_the_end_is_lost_come_as_far_as_they_are_there(
    machine: Machine, kind: str, logged: Logged
) -> None:
    old = await machine.publish(8)
    await machine.save()
    await machine.publish(8)
    seen: list[str] = []
    blocked, gate = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.sequence == 6:
            blocked.set()
            await gate.wait()
        seen.append(event.id)

    async with Proxy(machine.server.port) as proxy:
        async with eda.connect(proxy.url(machine.server.url), client="c") as conn:
            async with conn.subscribe("s", handle, **KINDS[kind]) as sub:
                await blocked.wait()
                await until(lambda: sub.stats().buffered == 10)
                proxy.refusing = True
                await machine.lose()
                await machine.server.start()
                new = await machine.publish(20)
                proxy.refusing = False
                await until(lambda: logged.find("lost its end"))
                gate.set()
                await until(lambda: new[-1:] == seen[-1:])
    assert seen[:5] == old[:5]
    assert [each for each in seen[5:] if each != "e6"] == old[6:] + new
    assert "e6" in seen


# --- no false alarm --------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("storage", ["file", "memory"])
@pytest.mark.parametrize("how", ["deleted", "purged", "all purged", "deleted and grown"])
async def test_position_when_its_event_is_gone_is_no_lost_end(
    machine: Machine, how: str, storage: str, logged: Logged
) -> None:
    options = DURABLE["serial"]
    async with eda.connect(machine.server.url) as conn:
        await conn.streams.create("s", eda.StreamOptions(storage=storage))
    await machine.publish(10)
    assert len(await handled(machine, options, 10)) == 10
    admin = await machine.admin()
    new: list[str] = []
    if how.startswith("deleted"):
        for seq in (2, 3, 4, 7, 9, 10):  # so many that nats-server 2.10 finds no time any more
            await admin.api("STREAM.MSG.DELETE.s", {"seq": seq})
    else:
        new += [] if how == "all purged" else await machine.publish(2)
        await admin.api("STREAM.PURGE.s", {"keep": len(new)} if new else None)
    if how == "deleted and grown":
        new += await machine.publish(5)
    await admin.client.close()
    seen = Seen()
    async with eda.connect(machine.server.url, client="c") as conn, conn.subscribe("s", seen, **options):
        new += await machine.publish(3)
        await until(lambda: len(seen) >= len(new))
    assert seen == new
    assert not logged.find("lost its end")


async def test_position_when_its_event_is_gone_and_the_end_is_lost_begins_with_the_first_new_event(
    machine: Machine,
) -> None:
    """Event 10 is another one now and was deleted in its turn: that 6 to 9 are new shows by their times."""
    options = DURABLE["serial"]
    await machine.publish(5)
    await machine.save()
    await machine.publish(5)
    await handled(machine, options, 10)
    await machine.lose()
    await machine.server.start()
    new = await machine.publish(9)
    admin = await machine.admin()
    await admin.api("STREAM.MSG.DELETE.s", {"seq": 10})
    await admin.client.close()
    del new[4]
    assert await handled(machine, options, len(new), more_s=0.1) == new


@pytest.mark.parametrize("is_lost", [True, False])
async def test_reader_when_it_may_not_fetch_messages_goes_by_their_times(tmp_path: Path, is_lost: bool) -> None:
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.s"]}}}
    machine = Machine(tmp_path, None, config={"authorization": {"users": [user]}})
    async with machine.server:
        await machine.publish(5)
        await machine.save()
        await machine.publish(5)
        assert len(await handled(machine, DURABLE["serial"], 10)) == 10
        if is_lost:
            await machine.lose()
            await machine.server.start()
        new = await machine.publish(9)
        assert await handled(machine, DURABLE["serial"], 9, more_s=0.1) == new


@pytest.mark.old_server
@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_start_when_a_time_and_events_were_deleted_begins_with_the_first_one_stored_then(
    conn: eda.Conn, stream: str, admin: Admin, storage: str
) -> None:
    """nats-server 2.10 finds a place far from it in memory."""
    await conn.streams.create(stream, eda.StreamOptions(storage=storage))
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(type="t") for _ in range(60)])
    times: dict[int, Any] = {}
    async with conn.subscribe(stream, lambda event: times.update({event.sequence: event.ack_time}), backfill=True):
        await until(lambda: len(times) == 60)
    for seq in [*range(5, 40, 2), *range(40, 58)]:
        await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})
        del times[seq]
    for start in (6, 20, 38, 58, 60):
        seen: list[int] = []
        async with conn.subscribe(stream, lambda event, seen=seen: seen.append(event.sequence), start=times[start]):
            await until(lambda seen=seen: seen[-1:] == [60])
        # Times of datetimes are to the microsecond, those of the server to the nanosecond.
        assert seen == [seq for seq, time in times.items() if time >= times[start]]


# --- kept positions --------------------------------------------------------------------------------------------------


async def kept(admin: Admin) -> dict[str, Any]:
    value = await Keys(admin, "s", "n").get()
    assert value is not None
    return value


@pytest.mark.old_server
async def test_key_when_written_has_the_time_at_which_its_event_was_stored(machine: Machine) -> None:
    await machine.publish(3)
    seen: list[eda.Event] = []
    options = DURABLE["serial"]
    async with eda.connect(machine.server.url, client="c") as conn, conn.subscribe("s", seen.append, **options):
        await until(lambda: len(seen) == 3)
    admin = await machine.admin()
    value = await kept(admin)
    assert (value["seq"], value["time"]) == (3, str(seen[-1].ack_time_ns))
    await admin.client.close()


@pytest.mark.parametrize("is_short", [True, False])
async def test_key_when_written_without_a_time_is_understood(machine: Machine, is_short: bool, logged: Logged) -> None:
    """As earlier versions wrote it: then only a stream that ends before the position shows that it lost its end."""
    options = DURABLE["serial"]
    old = await machine.publish(5)
    assert await handled(machine, options, 5) == old
    admin = await machine.admin()
    value = await kept(admin)
    del value["time"]
    value["seq"] = 9 if is_short else 3
    await Keys(admin, "s", "n").put(msgspec.json.encode(value))
    if is_short:
        seen = Seen()
        async with eda.connect(machine.server.url, client="c") as conn, conn.subscribe("s", seen, **options):
            await until(lambda: logged.find(LOST.format(9, 5, "n", 5)))
            new = await machine.publish(2)
            await until(lambda: seen == new)
    else:
        assert await handled(machine, options, 2) == old[3:]
        assert not logged.find("lost its end")
    assert (await kept(admin))["time"]
    await admin.client.close()


async def test_position_when_the_servers_clock_went_back_repeats_once_rather_than_lose(
    machine: Machine, logged: Logged
) -> None:
    """Event 4 was stored before the time that the position has: what else is new can't be told."""
    options = DURABLE["serial"]
    old = await machine.publish(5)
    assert await handled(machine, options, 5) == old
    admin = await machine.admin()
    value = await kept(admin)
    value |= {"seq": 4, "time": str(int(value["time"]) + 3600 * 10**9)}
    await Keys(admin, "s", "n").put(msgspec.json.encode(value))
    assert await handled(machine, options, 5, more_s=0.1) == old
    assert len(logged.find(LOST.format(4, 5, "n", 0))) == 1
    assert await handled(machine, options, 0, more_s=0.3) == []
    assert len(logged.find("lost its end")) == 1
    await admin.client.close()
