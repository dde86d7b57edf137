"""Forgetting an aggregate on a real server: what stays, and that it can be stopped anywhere and finished later."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda._codec import decode_event
from eda.errors import ServerError
from eda.jetstream.direct_get import DirectGet
from eda.store.forgetting import Forgetting
from eda.store.history import History
from eda.store.snapshot import is_marker
from eda.store.tail import Baseline
from eda.store_errors import HistoryIncomplete
from helpers import Admin, Connect
from support.store.snapshotting import Order, Side, cached

CHILD = Path(__file__).resolve().parents[2] / "support" / "store" / "forgetter.py"


class Stopped(Exception):
    """Stands for the end of the process."""


async def history_of(side: Side) -> History:
    direct = DirectGet(side.api, side.stream)
    await direct.open()
    return History(side.api, side.stream, direct)


async def forgetting_of(side: Side) -> Forgetting:
    return Forgetting(side.api, side.stream, await history_of(side), side.snapshot_stream)


@pytest.fixture
async def side(conn: eda.Conn, stream: str) -> AsyncIterator[Side]:
    await conn.streams.create(stream)
    side = Side(conn, stream)
    yield side
    await side.snapshots.flush(5)
    if await side.snapshot_stream.config() is not None:
        await conn.streams.delete(side.snapshot_stream.name)


async def subjects_of(admin: Admin, stream: str) -> dict[str, int]:
    info = await admin.js.stream_info(stream, subjects_filter=">")
    return info.state.subjects or {}


async def fill(side: Side, aggregate: str = "4711", n: int = 5) -> tuple[int, str]:
    last = (0, "")
    for version in range(1, n + 1):
        last = await side.append(aggregate, version, type=("opened", "paid", "sent")[version % 3])
    return last


async def test_aggregate_when_it_is_forgotten_has_a_tombstone_and_nothing_else(
    side: Side, admin: Admin, stream: str
) -> None:
    last = await fill(side)
    await fill(side, "4712")
    await side.write("4711", cached(Order(5), 5, *last))
    await side.write("4712", cached(Order(5), 5, *last))
    forgetting = await forgetting_of(side)
    assert await forgetting.forget("4711")
    history = await history_of(side)
    (tombstone,) = (await history.read("4711")).events
    assert (tombstone.type, tombstone.version, tombstone.aggregate) == ("eda.forgotten", 6, "4711")
    assert tombstone.data.type == "nil"
    tail = await history.read("4711", Baseline(5, *last))
    assert ([event.version for event in tail.events], tail.is_continued) == ([6], False)
    assert len((await history.read("4712")).events) == 5
    found = await side.stored("4711")
    assert found is not None
    assert is_marker(found[0])
    assert (await subjects_of(admin, side.snapshot_stream.name)) == {
        f"{stream}-snapshots.4711": 1,
        f"{stream}-snapshots.4712": 1,
    }
    assert [key for key in await subjects_of(admin, stream) if key.endswith(".4711")] == [
        f"{stream}.eda%2Eforgotten.4711"
    ]
    # once more: nothing is appended
    assert await forgetting.forget("4711")
    assert (await history.read("4711")).events == [tombstone]
    assert await side.stored("4711") == found


async def test_snapshot_of_a_forgotten_aggregate_when_a_writer_is_late_is_refused(
    side: Side, connect: Connect, stream: str
) -> None:
    last = await fill(side)
    entry = cached(Order(5), 5, *last)
    await side.write("4711", entry)
    await (await forgetting_of(side)).forget("4711")
    for late in (entry, cached(Order(5), 5, *last), cached(Order(9), 9, *last, 7)):
        await Side(await connect(), stream).write("4711", late)
        found = await side.stored("4711")
        assert found is not None
        assert is_marker(found[0])


async def test_aggregate_without_a_snapshot_when_it_is_forgotten_gets_a_marker_where_others_have_snapshots(
    side: Side,
) -> None:
    last = await fill(side)
    await side.write("other", cached(Order(5), 5, *last))
    await (await forgetting_of(side)).forget("4711")
    await side.write("4711", cached(Order(5), 5, *last))
    found = await side.stored("4711")
    assert found is not None
    assert is_marker(found[0])


async def test_aggregate_that_does_not_exist_when_it_is_forgotten_leaves_nothing(side: Side, conn: eda.Conn) -> None:
    assert not await (await forgetting_of(side)).forget("4711")
    assert (await conn.streams.info(side.stream)).last_sequence == 0
    assert await side.snapshot_stream.config() is None


@pytest.mark.parametrize("setting", ["deny_purge", "sealed"])
async def test_stream_that_can_not_be_purged_is_refused_before_anything_changes(
    side: Side, conn: eda.Conn, admin: Admin, setting: str
) -> None:
    await fill(side)
    config = (await side.api.request(f"STREAM.INFO.{side.stream}"))["config"]
    await side.api.request(f"STREAM.UPDATE.{side.stream}", config | {setting: True})
    with pytest.raises(eda.ConfigError, match=setting):
        await (await forgetting_of(side)).forget("4711")
    assert (await conn.streams.info(side.stream)).last_sequence == 5


async def test_stream_that_does_not_exist_is_told(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound):
        await (await forgetting_of(Side(conn, stream))).forget("4711")


async def test_aggregate_with_an_event_without_version_is_not_forgotten(side: Side, conn: eda.Conn) -> None:
    await conn.publish(side.stream, eda.Event(type="paid", aggregate="4711"))
    with pytest.raises(HistoryIncomplete, match="no version"):
        await (await forgetting_of(side)).forget("4711")
    assert (await conn.streams.info(side.stream)).events == 1


async def test_tombstone_when_the_stream_allows_ttls_has_one_that_never_ends(conn: eda.Conn, stream: str) -> None:
    side = Side(conn, stream)
    await side.api.request(
        f"STREAM.CREATE.{stream}",
        {"name": stream, "subjects": [stream, f"{stream}.>"], "allow_direct": True, "allow_msg_ttl": True},
    )
    await fill(side)
    await (await forgetting_of(side)).forget("4711")
    message = await side.api.message(stream, {"last_by_subj": f"{stream}.*.4711"})
    assert b"\r\nNats-TTL: never\r\n" in message.hdrs


# --- stopped and finished --------------------------------------------------------------------------------------------

# After the tombstone; after the purge; before and after the marker is put.
STEPS = ["_purge", "_remove_snapshot", "put", "put+", "end"]


@pytest.mark.parametrize("step", STEPS)
async def test_forget_when_it_is_stopped_anywhere_is_finished_by_the_next_call(
    side: Side, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    last = await fill(side)
    await side.write("4711", cached(Order(5), 5, *last))
    with monkeypatch.context() as patched:
        stop_at(patched, side, step)
        if step != "end":
            with pytest.raises(Stopped):
                await (await forgetting_of(side)).forget("4711")
        else:
            await (await forgetting_of(side)).forget("4711")
    # Until it is finished, the aggregate is gone all the same.
    assert [event.type for event in (await (await history_of(side)).read("4711")).events] == ["eda.forgotten"]
    with pytest.raises(ServerError, match="wrong last sequence"):
        await append_after(side, 5, last[0])
    other = Side(await connect(), stream)
    assert await (await forgetting_of(other)).forget("4711")
    await check_forgotten(other)


def stop_at(patched: pytest.MonkeyPatch, side: Side, step: str) -> None:
    async def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    put = side.snapshot_stream.put

    async def put_and_stop(*arguments: Any) -> None:
        await put(*arguments)
        raise Stopped

    if step.startswith("_"):
        patched.setattr(Forgetting, step, stop)
    elif step.startswith("put"):
        patched.setattr(side.snapshot_stream, "put", put_and_stop if step == "put+" else stop)


async def append_after(side: Side, version: int, sequence: int) -> None:
    filter = f"{side.stream}.*.4711"
    await side.append(
        "4711",
        version,
        headers={
            "Nats-Expected-Last-Subject-Sequence": str(sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": filter,
        },
    )


async def check_forgotten(side: Side) -> None:
    (tombstone,) = (await (await history_of(side)).read("4711")).events
    assert (tombstone.type, tombstone.version) == ("eda.forgotten", 6)
    info = await side.api.request(f"STREAM.INFO.{side.stream}", {"subjects_filter": f"{side.stream}.*.4711"})
    assert info["state"]["subjects"] == {f"{side.stream}.eda%2Eforgotten.4711": 1}
    found = await side.stored("4711")
    assert found is not None
    assert is_marker(found[0])
    assert decode_event(found[0]).version == 6


@pytest.mark.parametrize("step", STEPS)
async def test_forget_when_its_process_is_killed_is_finished_by_another(
    side: Side, server: eda.EmbeddedServer, step: str
) -> None:
    last = await fill(side)
    await side.write("4711", cached(Order(5), 5, *last))
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), server.url, side.stream, step)
    assert await asyncio.wait_for(child.wait(), 60) == (0 if step == "end" else 9)
    await (await forgetting_of(side)).forget("4711")
    await check_forgotten(side)


async def test_forget_when_several_call_it_at_once_leaves_one_tombstone(
    side: Side, connect: Connect, stream: str
) -> None:
    last = await fill(side)
    await side.write("4711", cached(Order(5), 5, *last))
    sides = [side, *[Side(await connect(), stream) for _ in range(4)]]
    forgettings = [await forgetting_of(each) for each in sides for _ in range(3)]
    assert all(await asyncio.gather(*[each.forget("4711") for each in forgettings]))
    await check_forgotten(side)


async def test_forget_when_writers_go_on_appends_after_the_last_of_them(
    side: Side, connect: Connect, stream: str
) -> None:
    """No event that was acknowledged to a writer is after the tombstone, and snapshots are written meanwhile."""
    sequence, event_id = await fill(side, n=1)
    other = Side(await connect(), stream)
    stored = [1]

    async def write() -> None:
        nonlocal sequence, event_id
        filter = f"{stream}.*.4711"
        while True:
            headers = {
                "Nats-Expected-Last-Subject-Sequence": str(sequence),
                "Nats-Expected-Last-Subject-Sequence-Subject": filter,
            }
            try:
                sequence, event_id = await other.append("4711", stored[-1] + 1, headers=headers)
            except ServerError as error:
                if error.err_code not in (10071, 10164):
                    raise
                return
            stored.append(stored[-1] + 1)
            other.snapshots.write_soon("4711", cached(Order(stored[-1]), stored[-1], sequence, event_id))

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    assert await (await forgetting_of(side)).forget("4711")
    await asyncio.wait_for(writing, 10)
    await other.idle()
    (tombstone,) = (await (await history_of(side)).read("4711")).events
    assert (tombstone.type, tombstone.version) == ("eda.forgotten", stored[-1] + 1)
    found = await side.stored("4711")
    assert found is None or is_marker(found[0])
    await other.snapshots.flush(5)


async def test_forget_when_the_stream_of_snapshots_holds_other_messages_leaves_them(
    side: Side, admin: Admin, conn: eda.Conn
) -> None:
    name = side.snapshot_stream.name
    await conn.publish(name, eda.Event(type="x", aggregate="y"))
    await fill(side)
    assert await (await forgetting_of(side)).forget("4711")
    assert (await conn.streams.info(name)).last_sequence == 1


async def test_forget_when_snapshots_had_a_history_removes_all_of_it(side: Side, admin: Admin) -> None:
    last = await fill(side)
    entry = cached(Order(5), 5, *last)
    await side.write("4711", entry)
    config = (await side.api.request(f"STREAM.INFO.{side.snapshot_stream.name}"))["config"]
    await side.api.request(f"STREAM.UPDATE.{side.snapshot_stream.name}", config | {"max_msgs_per_subject": 5})
    await side.write("4711", entry)
    assert (await admin.js.stream_info(side.snapshot_stream.name)).state.messages == 2
    await (await forgetting_of(side)).forget("4711")
    assert (await admin.js.stream_info(side.snapshot_stream.name)).state.messages == 0
