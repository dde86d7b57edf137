"""A pack that is partly done and is not in the stream any more: no event of another message is taken for a done one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, Proxy, until
from support.cursors.member import Keys
from support.packs import publish_pack
from support.subscribing.machine import Machine

KINDS: dict[str, dict[str, Any]] = {
    "exclusive": {"exclusive": True},
    "serial": {"serial": True},
    "strict": {"serial": "strict"},
    "key": {"key": "aggregate"},
    "serial batch": {"serial": True, "batch": 1},
}
KINDS = {kind: options | {"name": "n", "durable": True, "backfill": True} for kind, options in KINDS.items()}


@pytest.fixture
async def machine(tmp_path: Path, executable: Path | None) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path, executable)
    async with machine.server:
        async with eda.connect(machine.server.url) as conn:
            await conn.streams.create("s", eda.StreamOptions(packed=True))
        yield machine


async def handled(conn: eda.Conn, stream: str, n: int, options: dict[str, Any], *, more_s: float = 0.0) -> list[str]:
    """Return the ids of the events that a subscription handles that is opened now: `n`, and no more."""
    seen: list[str] = []

    def handle(given: Any) -> None:
        seen.extend(event.id for event in (given if isinstance(given, list) else [given]))
        if len(seen) >= n:
            subscription.pause()

    subscription = conn.subscribe(stream, handle, **options)
    async with subscription:
        await until(lambda: len(seen) >= n)
        await asyncio.sleep(more_s)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_new", [2, 10])
async def test_pack_when_lost_and_replaced_by_another_is_handled_from_its_first_event(
    machine: Machine, kind: str, n_new: int
) -> None:
    """The new pack has the sequence of the lost one. It may have fewer events than were done of that."""
    first = await machine.publish(1)
    await machine.save()
    lost = await machine.publish_pack(10)
    async with eda.connect(machine.server.url, client="c") as conn:
        assert await handled(conn, "s", 5, KINDS[kind]) == first + lost[:4]
    await machine.lose()
    await machine.server.start()
    new = await machine.publish_pack(n_new) + await machine.publish_pack(3)
    async with eda.connect(machine.server.url, client="c") as conn:
        assert await handled(conn, "s", len(new), KINDS[kind]) == new
        (info,) = await conn.subscriptions("s")
        assert (info.position, info.lag) == (3, 0)


@pytest.mark.parametrize("kind", ["serial", "key"])
async def test_pack_when_the_end_behind_it_is_lost_is_continued(machine: Machine, kind: str, logged: Logged) -> None:
    pack = await machine.publish_pack(10)
    await machine.save()
    await machine.publish_pack(10)
    async with eda.connect(machine.server.url, client="c") as conn:
        assert await handled(conn, "s", 4, KINDS[kind]) == pack[:4]
    await machine.lose()
    await machine.server.start()
    new = await machine.publish_pack(3)
    async with eda.connect(machine.server.url, client="c") as conn:
        assert await handled(conn, "s", 9, KINDS[kind]) == pack[4:] + new
    assert not logged.find("lost its end")


@pytest.mark.parametrize("kind", ["serial", "strict", "exclusive"])
async def test_pack_when_lost_while_its_events_are_handled_is_not_taken_for_the_new_one(
    machine: Machine, kind: str, logged: Logged
) -> None:
    logged.allow("made again")
    first = await machine.publish(1)
    await machine.save()
    lost = await machine.publish_pack(10)
    seen: list[str] = []
    blocked, gate = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.id == lost[4]:
            blocked.set()
            await gate.wait()
        seen.append(event.id)

    async with Proxy(machine.server.port) as proxy:
        async with eda.connect(proxy.url(machine.server.url), client="c") as conn:
            async with conn.subscribe("s", handle, **KINDS[kind]):
                await blocked.wait()
                proxy.refusing = True
                await machine.lose()
                await machine.server.start()
                new = await machine.publish_pack(10)
                proxy.refusing = False
                await until(lambda: logged.find("lost its end"))
                gate.set()
                await until(lambda: new[-1:] == seen[-1:])
    assert seen[:5] == first + lost[:4]
    assert [each for each in seen[5:] if each != lost[4]] == new
    async with eda.connect(machine.server.url, client="c") as conn:
        (info,) = await conn.subscriptions("s")
        assert (info.position, info.lag) == (2, 0)


# --- on a server that loses nothing ----------------------------------------------------------------------------------


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    conn = await connect()
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    return conn


async def pack(admin: Admin, stream: str, name: str, n: int = 5) -> list[str]:
    """Publish a pack; returns the ids of its events."""
    ids = [f"{name}{number}" for number in range(n)]
    await publish_pack(admin.js, stream, [eda.Event(id=each) for each in ids])
    return ids


@pytest.mark.parametrize("how", ["deleted", "purged", "all purged"])
@pytest.mark.parametrize("kind", ["serial", "strict"])
async def test_pack_when_partly_done_and_removed_lets_the_next_one_be_handled_whole(
    conn: eda.Conn, stream: str, admin: Admin, how: str, kind: str
) -> None:
    first = await pack(admin, stream, "a")
    gone = await pack(admin, stream, "b")
    assert await handled(conn, stream, 8, KINDS[kind]) == first + gone[:3]
    new = [] if how == "all purged" else await pack(admin, stream, "c")
    if how == "deleted":
        await admin.js.delete_msg(stream, 2)
    else:
        await admin.js.purge_stream(stream, keep=1 if new else 0)
    new += await pack(admin, stream, "d")
    assert await handled(conn, stream, len(new), KINDS[kind]) == new
    value = await Keys(admin, stream, "n").get()
    assert value is not None
    assert (value["seq"], value["idx"]) == (await admin.last_seq(stream), 0)


async def test_position_when_the_pack_is_gone_is_set_back_so_that_strict_stores_each_event_of_the_next_one(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    first = await pack(admin, stream, "a")
    assert await handled(conn, stream, 3, KINDS["strict"]) == first[:3]
    await admin.js.delete_msg(stream, 1)
    await pack(admin, stream, "b")
    stored: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        value = await Keys(admin, stream, "n").get()
        assert value is not None
        stored.append((value["part"], value["idx"]))

    async with conn.subscribe(stream, handle, **KINDS["strict"]):
        await until(lambda: len(stored) == 5)
    assert stored[1:] == [(2, 1), (2, 2), (2, 3), (2, 4)]
    assert stored[0] in ((0, 0), (1, 3))  # the position before it; the write that sets it back may be under way


async def test_stream_when_made_again_with_a_pack_partly_done_begins_anew(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    old = await pack(admin, stream, "a")
    assert await handled(conn, stream, 3, KINDS["serial"]) == old[:3]
    await admin.js.delete_stream(stream)
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    new = await pack(admin, stream, "b")
    assert await handled(conn, stream, 5, KINDS["serial"]) == new
    assert logged.find(r"made again at .*; its position 1\.2 was in the stream made at")


async def test_reset_when_a_pack_is_partly_done_begins_with_its_first_event(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    ids = await pack(admin, stream, "a")
    assert await handled(conn, stream, 3, KINDS["serial"]) == ids[:3]
    assert await handled(conn, stream, 5, KINDS["serial"] | {"reset": True}) == ids


async def test_cursor_of_version_1_when_taken_over_on_a_packed_stream_goes_on_and_becomes_version_2(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await pack(admin, stream, "a")
    ids = await pack(admin, stream, "b")
    keys = Keys(admin, stream, "n")
    await handled(conn, stream, 10, KINDS["serial"])  # so that there is a bucket
    old = {"v": 1, "seq": 1, "epoch": 3, "holder": "", "tries": 0, "filter": [], "time": "0"}
    await keys.put(json.dumps(old).encode())
    assert await handled(conn, stream, 5, KINDS["serial"]) == ids
    value = await keys.get()
    assert value is not None
    assert (value["v"], value["seq"], value["idx"], value["epoch"]) == (2, 2, 0, 4)


async def test_cursor_when_the_stream_is_not_packed_is_as_it_always_was(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect()
    await conn.streams.create(stream)
    for _ in range(3):
        await conn.publish(stream)
    await handled(conn, stream, 3, KINDS["serial"])
    value = await Keys(admin, stream, "n").get()
    assert value is not None
    assert list(value) == ["v", "seq", "epoch", "holder", "tries", "filter", "updated", "created", "start", "time"]
    assert (value["v"], value["seq"]) == (1, 3)


async def test_cursor_when_a_pack_is_in_a_stream_that_is_not_packed_has_version_2_all_the_same(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect()
    await conn.streams.create(stream)
    ids = await pack(admin, stream, "a")
    assert await handled(conn, stream, 5, KINDS["serial"]) == ids
    value = await Keys(admin, stream, "n").get()
    assert value is not None
    assert (value["v"], value["seq"], value["idx"]) == (2, 1, 0)


@pytest.mark.parametrize("idx", [5, 6, 65_535])
async def test_cursor_when_it_says_that_more_events_are_done_than_the_pack_has_handles_all(
    conn: eda.Conn, stream: str, admin: Admin, idx: int
) -> None:
    ids = await pack(admin, stream, "a")
    assert await handled(conn, stream, 3, KINDS["serial"]) == ids[:3]
    keys = Keys(admin, stream, "n")
    value = await keys.get()
    await keys.put(json.dumps(value | {"idx": idx}).encode())  # type: ignore[operator]
    assert await handled(conn, stream, 5, KINDS["serial"]) == ids


async def test_filter_when_widened_in_the_middle_of_a_pack_goes_on_there(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.allow("its filter was")
    events = [eda.Event(id=f"{number}", type="ab"[number % 2]) for number in range(10)]
    await publish_pack(admin.js, stream, events)
    options = KINDS["serial"] | {"types": ["a"]}
    assert await handled(conn, stream, 3, options) == ["0", "2", "4"]
    wider = KINDS["serial"] | {"types": ["a", "b"], "on_filter_change": "from_here"}
    rest = await handled(conn, stream, 4, wider)
    assert rest in (["5", "6", "7", "8"], ["6", "7", "8", "9"])
