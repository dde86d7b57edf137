"""Exact reads of one aggregate's events, on one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from eda.jetstream.direct_get import DirectGet
from eda.store._earlier import EARLIER
from eda.store._tail_reading import MAX_FOLLOWED
from eda.store.history import History
from eda.store.tail import Baseline
from eda.store_errors import HistoryIncomplete
from helpers import Admin, Connect
from support.store.appends import ListingSide
from support.store.snapshotting import Side

NAMES = ["4711", "a.b", "a b", "*", ">", "%", "%25", "_", "é…☃", "a*b>c", "x" * 500, "\n\r\0"]


@pytest.fixture(params=[Side, ListingSide], ids=["searched", "listed"])
async def side(request: pytest.FixtureRequest, conn: eda.Conn, stream: str) -> Side:
    """Appends without the header that names earlier events, or as an event store does."""
    await conn.streams.create(stream)
    side: Side = request.param(conn, stream)
    return side


@pytest.fixture
async def searching(conn: eda.Conn, stream: str) -> Side:
    """Appends without the header. For tests with so many events that a read searches them anyway."""
    await conn.streams.create(stream)
    return Side(conn, stream)


@pytest.fixture(params=[False, True], ids=["leader", "direct"])
async def history(request: pytest.FixtureRequest, conn: eda.Conn, stream: str) -> AsyncIterator[History]:
    """A history that asks the stream's leader for the last event, or the stream, which has one copy."""
    api = Side(conn, stream).api
    direct = DirectGet(api, stream)
    await direct.open()
    yield History(api, stream, direct, lambda: request.param)
    assert not len(direct._reads)
    await direct.close()


def versions(events: list[eda.Event]) -> list[int]:
    return [event.version for event in events]


async def fill(side: Side, aggregate: str, n: int, types: list[str], first: int = 1) -> list[tuple[int, str]]:
    """Append `n` events, of these types in turn, and return sequence and id of each."""
    return [await side.append(aggregate, version, types[version % len(types)]) for version in range(first, first + n)]


async def fill_fast(side: Side, admin: Admin, aggregate: str, n: int, types: list[str], data: bytes = b"") -> None:
    """Publish `n` events without waiting for each."""
    waiting = []
    for version in range(1, n + 1):
        type = types[version % len(types)]
        event = eda.Event(type=type, aggregate=aggregate, data=eda.Bytes(data) if data else None)
        envelope = encode_event(event, next_nuid(), "", 1, version)
        waiting.append(await admin.js.publish_async(f"{side.stream}.{type}.{aggregate}", envelope))
        if len(waiting) == 1000:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("name", NAMES)
async def test_read_when_a_name_is_odd_returns_all_its_events(side: Side, history: History, name: str) -> None:
    for other in ("4712", "a", "b"):
        await fill(side, other, 1, ["x"])
    placed = await fill(side, name, 7, ["made", "a.b", "paid"])
    for types in (None, ["made", "a.b", "paid", "never"], ["paid"]):
        tail = await history.read(name, types=types)
        assert [(event.sequence, event.id) for event in tail.events] == placed
        assert versions(tail.events) == list(range(1, 8))
        assert {event.aggregate for event in tail.events} == {name}
        assert tail.is_continued


async def test_read_when_there_are_no_events_is_empty(searching: Side, history: History) -> None:
    tail = await history.read("4711")
    assert (tail.events, tail.is_continued) == ([], True)
    tail = await history.read("4711", Baseline(3, 10, "x"))
    assert (tail.events, tail.is_continued) == ([], False)


@pytest.mark.parametrize("at", range(1, 6))
async def test_read_when_there_is_a_baseline_returns_what_follows(side: Side, history: History, at: int) -> None:
    placed = await fill(side, "4711", 5, ["a", "b"])
    tail = await history.read("4711", Baseline(at, *placed[at - 1]))
    assert (versions(tail.events), tail.is_continued) == (list(range(at + 1, 6)), True)


@pytest.mark.parametrize("wrong", ["id", "version", "sequence", "other"])
async def test_read_when_the_baseline_is_not_in_the_stream_returns_everything(
    side: Side, history: History, wrong: str
) -> None:
    other = await side.append("4712", 2, "a")
    placed = await fill(side, "4711", 5, ["a", "b"])
    sequence, event_id = placed[1]
    baseline = {
        "id": Baseline(2, sequence, "x"),
        "version": Baseline(3, sequence, event_id),
        "sequence": Baseline(2, sequence + 1, event_id),
        "other": Baseline(2, *other),
    }[wrong]
    tail = await history.read("4711", baseline)
    assert (versions(tail.events), tail.is_continued) == ([1, 2, 3, 4, 5], False)


async def test_read_when_there_is_a_tombstone_returns_it_alone(side: Side, history: History) -> None:
    placed = await fill(side, "4711", 3, ["a", "b"])
    await side.append("4711", 4, "eda.forgotten")
    for baseline in (Baseline(), Baseline(2, *placed[1])):
        tail = await history.read("4711", baseline)
        assert [(event.type, event.version) for event in tail.events] == [("eda.forgotten", 4)]


async def test_read_when_an_event_has_no_version_raises(side: Side, history: History, conn: eda.Conn) -> None:
    await fill(side, "4711", 2, ["a"])
    await conn.publish(side.stream, eda.Event(type="a", aggregate="4711"))
    with pytest.raises(HistoryIncomplete, match="sequence 3 has no version"):
        await history.read("4711")


async def test_read_when_a_message_is_no_event_raises(side: Side, history: History, admin: Admin) -> None:
    await admin.js.publish(f"{side.stream}.a.4711", b"\xff")
    with pytest.raises(HistoryIncomplete, match="sequence 1 is no event"):
        await history.read("4711")


async def test_read_when_an_envelope_names_another_aggregate_raises(side: Side, history: History, admin: Admin) -> None:
    envelope = encode_event(eda.Event(type="a", aggregate="9"), next_nuid(), "", 1, 1)
    await admin.js.publish(f"{side.stream}.a.4711", envelope)
    with pytest.raises(HistoryIncomplete, match="names aggregate '9'"):
        await history.read("4711")


async def test_read_when_two_events_have_a_version_raises(side: Side, history: History) -> None:
    for version in (1, 2, 2, 3):
        await side.append("4711", version, "a")
    with pytest.raises(HistoryIncomplete, match=r"two events have version 2 \(sequences 2 and 3\)"):
        await history.read("4711")


async def test_read_when_versions_are_missing_raises(side: Side, history: History, admin: Admin) -> None:
    await fill(side, "4711", 5, ["a", "b"])
    await admin.js.delete_msg(side.stream, 2)
    with pytest.raises(HistoryIncomplete, match=r"version 2 is missing before version 3 \(sequence 3\)"):
        await history.read("4711")
    await admin.js.delete_msg(side.stream, 3)
    with pytest.raises(HistoryIncomplete, match="versions 2 to 3 are missing before version 4"):
        await history.read("4711")


async def test_read_when_a_message_is_on_the_bare_subject_skips_it(side: Side, history: History, admin: Admin) -> None:
    await fill(side, "4711", 2, ["a"])
    await admin.js.publish(side.stream, encode_event(eda.Event(type="a", aggregate="4711"), "x", "", 1))
    assert versions((await history.read("4711")).events) == [1, 2]


async def test_read_when_there_are_ten_thousand_events_returns_them(
    searching: Side, history: History, admin: Admin
) -> None:
    await fill_fast(searching, admin, "4711", 10_000, ["a", "b", "c"])
    for types in (None, ["a", "b", "c"]):
        assert versions((await history.read("4711", types=types)).events) == list(range(1, 10_001))


@pytest.mark.parametrize("n", [200, 1024, 1100])
async def test_read_when_there_are_many_types_returns_all(
    searching: Side, history: History, admin: Admin, n: int
) -> None:
    await fill_fast(searching, admin, "4711", 2 * n, [f"type-{i}" for i in range(n)])
    assert versions((await history.read("4711")).events) == list(range(1, 2 * n + 1))


async def test_read_when_events_are_large_asks_on(searching: Side, history: History, admin: Admin) -> None:
    await fill_fast(searching, admin, "4711", 90, [f"type-{i}" for i in range(80)], b"x" * 900_000)
    assert versions((await history.read("4711")).events) == list(range(1, 91))


async def test_read_when_writers_go_on_is_never_older_than_what_was_acknowledged(
    side: Side, history: History, connect: Connect
) -> None:
    other = type(side)(await connect(), side.stream)
    stored, n = 0, 200

    async def write() -> None:
        nonlocal stored
        for version in range(1, n + 1):
            await other.append("4711", version, "abc"[version % 3])
            stored = version

    async def read(types: Any) -> None:
        baseline = Baseline()
        while stored < n:
            before = stored
            tail = await history.read("4711", baseline, types=types)
            assert tail.is_continued
            last = baseline.version + len(tail.events)
            assert versions(tail.events) == list(range(baseline.version + 1, last + 1))
            assert last >= before
            if tail.events and types is None:
                baseline = Baseline(last, tail.events[-1].sequence, tail.events[-1].id)

    await asyncio.gather(write(), read(None), read(["a", "b"]), read(["a", "b", "c"]))


async def test_read_when_the_connection_is_lost_is_asked_again(side: Side, history: History) -> None:
    await fill(side, "4711", 10, ["a", "b"])
    reads = [asyncio.create_task(history.read("4711")) for _ in range(50)]
    await asyncio.sleep(0)
    side.api.wire._interceptor.transport.abort()  # type: ignore[union-attr]
    for tail in await asyncio.gather(*reads):
        assert versions(tail.events) == list(range(1, 11))


async def test_read_when_it_is_cancelled_leaves_nothing(side: Side, history: History) -> None:
    await fill(side, "4711", 10, ["a", "b"])
    for n_turns in range(8):
        task = asyncio.create_task(history.read("4711", types=["a", "b"]))
        for _ in range(n_turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert not len(history._direct._reads)


async def test_read_when_the_connection_is_closed_raises(side: Side, history: History, conn: eda.Conn) -> None:
    await fill(side, "4711", 1, ["a"])
    await conn.close()
    with pytest.raises(eda.Closed):
        await history.read("4711")


async def test_read_when_lists_end_early_returns_all(searching: Side, history: History, conn: eda.Conn) -> None:
    """The appends of more than one event are atomic batches; with the 15 sequences, none names all events."""
    side = ListingSide(conn, searching.stream)
    version = 1
    for n in (1, 20, 1, 3, 40, 2, 16, 17):
        await side.append_all("4711", version, n)
        await side.append("4712", version)
        version += n
    assert version - 1 <= MAX_FOLLOWED
    events = (await history.read("4711")).events
    assert versions(events) == list(range(1, version))
    for at in range(1, version, 7):
        known = events[at - 1]
        tail = await history.read("4711", Baseline(at, known.sequence, known.id))
        assert (versions(tail.events), tail.is_continued) == (list(range(at + 1, version)), True)


LISTS = ["0 2", "0 6 2 1", "0 5 3 99", "0 5 5 5", "0 3 5 1", "1 5 3 1", "9999", "-1", "0 x", "0 " + "9" * 19]
LISTS += ["0 " + "5 " * 14 + "5", "0 " + "7 " * 400, "9" * 9000, "0 5 3 1\t", "0 5  3", "\u0661 5"]


@pytest.mark.parametrize("forged", LISTS)
async def test_read_when_a_list_is_wrong_returns_exactly_the_aggregates_events(
    searching: Side, history: History, forged: str
) -> None:
    """The aggregate's events have the sequences 1, 3, 5 and 7. Those between are another aggregate's."""
    placed = []
    for version in range(1, 5):
        headers = {EARLIER: forged} if version == 4 else {}
        placed.append(await searching.append("4711", version, "ab"[version % 2], headers=headers))
        await searching.append("4712", version, "a")
    for at in range(4):
        baseline = Baseline(at, *placed[at - 1]) if at else Baseline()
        tail = await history.read("4711", baseline)
        assert [(event.sequence, event.id) for event in tail.events] == placed[at:]
        assert tail.is_continued


async def test_read_when_a_list_names_an_event_that_is_not_of_the_aggregate_skips_it(
    searching: Side, history: History, stream: str, admin: Admin
) -> None:
    """A message on the bare subject is not of the aggregate that has the stream's name."""
    envelope = encode_event(eda.Event(type="a", aggregate=stream), next_nuid(), "", 1, 1)
    await admin.js.publish(stream, envelope)
    placed = await fill(searching, stream, 1, ["a"])
    placed.append(await searching.append(stream, 2, headers={EARLIER: "0 1"}))
    tail = await history.read(stream)
    assert [(event.sequence, event.id) for event in tail.events] == placed
    tail = await history.read(stream, Baseline(1, 1, "x"))
    assert (versions(tail.events), tail.is_continued) == ([1, 2], False)


async def test_read_when_the_stream_was_restored_never_mixes_the_histories(
    side: Side, history: History, conn: eda.Conn, admin: Admin
) -> None:
    """The stream is made again with the first events only, and goes on otherwise; a writer's list is of before."""
    before = await fill(side, "4711", 8, ["a", "b"])
    copies = [await admin.js.get_msg(side.stream, seq=at) for at in range(1, 5)]
    await conn.streams.delete(side.stream)
    await conn.streams.create(side.stream)
    for copy in copies:
        await admin.js.publish(str(copy.subject), copy.data or b"", headers=dict(copy.headers or {}))
    other = Side(conn, side.stream)
    await fill(other, "4712", 2, ["a"])
    placed = [*before[:4], await other.append("4711", 5, headers={EARLIER: "0 6 5 4 3 2 1"})]
    for at in (0, 4):
        tail = await history.read("4711", Baseline(at, *before[at - 1]) if at else Baseline())
        assert ([(event.sequence, event.id) for event in tail.events], tail.is_continued) == (placed[at:], True)
    for at in (5, 6, 7, 8):
        tail = await history.read("4711", Baseline(at, *before[at - 1]))
        assert ([(event.sequence, event.id) for event in tail.events], tail.is_continued) == (placed, False)
