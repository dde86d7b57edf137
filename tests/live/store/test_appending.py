"""Appends under an expectation, as real servers judge them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
from eda.publishing.stream_publisher import MAX_BATCHES
from eda.store.appending import Refused, Stored
from helpers import Admin, Connect, Proxy, until
from support.store.appends import Writer, envelope_of, stored_in

SERVERS = ["current", "2.12.8", "2.11.11"]
since_2_11 = pytest.mark.parametrize("server_version", SERVERS, indirect=True)
since_2_12 = pytest.mark.parametrize("server_version", SERVERS[:2], indirect=True)


@pytest.fixture
async def writer(conn: eda.Conn, stream: str) -> Writer:
    await conn.streams.create(stream)
    return Writer(conn, stream)


# --- what is sent ----------------------------------------------------------------------------------------------------


@since_2_11
async def test_append_when_stored_has_its_id_and_its_expectation(writer: Writer, admin: Admin, stream: str) -> None:
    assert await writer.store("i1", sequence=0) == Stored([1], False)
    assert await writer.store("i2", sequence=1) == Stored([2], False)
    (subject, event, headers), _ = await stored_in(admin, stream)
    assert (subject, event.id, event.version) == (f"{stream}.t0.a", "i1", 1)
    assert headers == {
        "Nats-Msg-Id": "i1",
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": f"{stream}.*.a",
        "Eda-Earlier": "0",
    }


@since_2_12
async def test_append_when_of_several_events_states_its_expectation_once(
    writer: Writer, admin: Admin, stream: str
) -> None:
    assert await writer.store("i1", "i2", "i3", sequence=0) == Stored([1, 2, 3], False)
    assert await writer.store("i4", "i5", sequence=3) == Stored([4, 5], False)
    stored = await stored_in(admin, stream)
    assert [event.id for _, event, _ in stored] == ["i1", "i2", "i3", "i4", "i5"]
    expectations = [headers.get("Nats-Expected-Last-Subject-Sequence") for _, _, headers in stored]
    assert expectations == ["0", None, None, "3", None]


async def test_append_when_of_no_events_sends_nothing(writer: Writer, admin: Admin, stream: str) -> None:
    assert await writer.appending.store("a", [], sequence=0) == Stored([], False)
    assert await admin.last_seq(stream) == 0


async def test_append_to_a_marked_stream_is_stored(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    writer = Writer(conn, stream)
    assert await writer.store("i1", sequence=0) == Stored([1], False)
    assert await writer.store("i2", "i3", sequence=1) == Stored([2, 3], False)
    with pytest.raises(eda.ConfigError, match=r"conn\.store"):
        await conn.publish(stream, eda.Event(type="t", aggregate="a"))


# --- expectations ----------------------------------------------------------------------------------------------------


@since_2_11
@pytest.mark.parametrize("sequence", [0, 1, 3])
async def test_append_when_the_expectation_does_not_hold_is_refused(
    writer: Writer, admin: Admin, stream: str, sequence: int
) -> None:
    await writer.store("i1", sequence=0)
    await writer.appending.store("a", [envelope_of("i2", type="other")], sequence=1)
    with pytest.raises(Refused, match="expectation does not hold") as refusal:
        await writer.store("i3", sequence=sequence)
    assert not refusal.value.is_under_way
    assert isinstance(refusal.value.__cause__, eda.ServerError)
    assert await admin.last_seq(stream) == 2


@since_2_12
@pytest.mark.parametrize("sequence", [0, 1, 3])
async def test_append_of_several_events_when_the_expectation_does_not_hold_is_refused(
    writer: Writer, admin: Admin, stream: str, sequence: int
) -> None:
    await writer.store("i1", "i2", sequence=0)
    with pytest.raises(Refused) as refusal:
        await writer.store("i3", "i4", sequence=sequence)
    assert not refusal.value.is_under_way
    assert await admin.last_seq(stream) == 2


@pytest.mark.parametrize("aggregate", ["b", "a.b", "*", ">", "a b", "_", "%", "Zoë", "a\r\nPUB x 0"])
async def test_append_when_the_name_is_strange_concerns_this_aggregate_only(
    writer: Writer, admin: Admin, stream: str, aggregate: str
) -> None:
    await writer.store("i1", sequence=0)
    assert await writer.store("i2", aggregate=aggregate, sequence=0) == Stored([2], False)
    assert await writer.store("i3", "i4", aggregate=aggregate, sequence=2) == Stored([3, 4], False)
    assert await writer.store("i5", sequence=1) == Stored([5], False)
    assert await admin.last_seq(stream) == 5


# --- ids that were stored before -------------------------------------------------------------------------------------


@since_2_11
async def test_append_when_its_id_was_stored_before_says_so(writer: Writer) -> None:
    await writer.store("i1", sequence=0)
    await writer.store("i2", sequence=1)
    assert await writer.store("i1", sequence=2) == Stored([1], True)
    assert await writer.store("i1", aggregate="b", sequence=0) == Stored([1], True)


async def test_append_on_one_server_judges_the_expectation_before_the_id(writer: Writer) -> None:
    await writer.store("i1", sequence=0)
    with pytest.raises(Refused):
        await writer.store("i1", sequence=0)


@since_2_12
async def test_append_of_several_events_when_an_id_was_stored_before_says_so(
    writer: Writer, admin: Admin, stream: str
) -> None:
    await writer.store("i1", sequence=0)
    assert await writer.store("i2", "i1", sequence=1) == Stored([], True)
    assert await admin.last_seq(stream) == 1


# --- bad input -------------------------------------------------------------------------------------------------------

TOO_LARGE = 2**20
BAD: dict[str, tuple[list[tuple[str, bytes, str]], str]] = {
    "too large": ([envelope_of("i1", size=TOO_LARGE)], r"events\[0\]: .* over the server's max_payload"),
    "too large, of several": (
        [envelope_of("i1"), envelope_of("i2", size=TOO_LARGE)],
        r"events\[1\]: .* over the server's max_payload",
    ),
    "long type": ([envelope_of("i1", type="t" * 4096)], r"events\[0\]: .* too long for the server's protocol line"),
    "long type, of several": (
        [envelope_of("i1"), envelope_of("i2", type="t" * 4096)],
        r"events\[1\]: .* too long for the server's protocol line",
    ),
    "id": ([envelope_of("i\r\n1")], r"events\[0\]: id must be printable ASCII"),
    "id, of several": ([envelope_of("i1"), envelope_of("i 2")], r"events\[1\]: id must be printable ASCII"),
    "id twice": ([envelope_of("i1"), envelope_of("i1")], r"events\[1\] has the id of events\[0\]"),
    "too many": ([envelope_of(f"i{n}") for n in range(1001)], "at most 1000 events"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_append_when_the_server_would_not_take_it_sends_nothing(
    server: eda.EmbeddedServer, connect: Connect, admin: Admin, stream: str, bad: str
) -> None:
    envelopes, message = BAD[bad]
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.streams.create(stream)
        writer = Writer(conn, stream)
        await writer.store("before", aggregate="b", sequence=0)
        n_sent = len(proxy.sent)
        with pytest.raises(eda.ConfigError, match=message) as refusal:
            await writer.appending.store("a", envelopes, sequence=0)
        assert refusal.value.argument == "events"
        assert len(proxy.sent) == n_sent
        assert await writer.store("after", sequence=0) == Stored([2], False)
        await conn.close()


async def test_append_when_the_time_out_is_too_long_raises(writer: Writer) -> None:
    with pytest.raises(eda.ConfigError, match="timeout_s"):
        await writer.store("i1", sequence=0, timeout_s=61)


@pytest.mark.parametrize("server_version", ["2.11.11"], indirect=True)
async def test_append_of_several_events_when_the_server_is_too_old_is_not_supported(writer: Writer) -> None:
    with pytest.raises(
        eda.NotSupported, match=r"several events .* needs nats-server 2\.12\.1 \(found nats-server 2\.11"
    ):
        await writer.store("i1", "i2", sequence=0)


async def test_append_of_several_events_when_the_stream_does_not_take_them_is_not_supported(
    conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(atomic=False))
    with pytest.raises(eda.NotSupported, match="a stream with atomic on"):
        await Writer(conn, stream).store("i1", "i2", sequence=0)


@pytest.mark.parametrize("ids", [["i1"], ["i1", "i2"]])
async def test_append_when_the_stream_is_deleted_does_not_make_it_again(
    writer: Writer, admin: Admin, stream: str, ids: list[str]
) -> None:
    await writer.store("i0", aggregate="b", sequence=0)
    await admin.js.delete_stream(stream)
    with pytest.raises(eda.StreamNotFound):
        await writer.store(*ids, sequence=0, timeout_s=5)
    assert stream not in await admin.stream_names()


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_appends_when_many_run_at_once_are_all_stored(writer: Writer, admin: Admin, stream: str) -> None:
    ids = [[f"s{n}"] if n % 2 else [f"b{n}", f"c{n}"] for n in range(200)]
    stored = await asyncio.gather(*(writer.store(*each, aggregate=f"a{n}", sequence=0) for n, each in enumerate(ids)))
    assert sorted(seq for each in stored for seq in each.sequences) == list(range(1, 301))
    assert [event.id for _, event, _ in await stored_in(admin, stream)][stored[0].sequences[0] - 1] == "b0"
    assert not writer.under_way


async def test_batches_when_many_run_at_once_are_bounded(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, stream: str, conn: eda.Conn
) -> None:
    n_running, most = 0, 0
    original: Any = eda.publishing.atomic_batch.AtomicBatch.store

    async def counted(self: Any, **options: Any) -> Any:
        nonlocal n_running, most
        n_running += 1
        most = max(most, n_running)
        try:
            return await original(self, **options)
        finally:
            n_running -= 1

    monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "store", counted)
    other = Writer(conn, stream)
    writers = [writer, other] * 100
    tasks = [
        asyncio.create_task(each.store(f"a{n}", f"b{n}", aggregate=str(n), sequence=0))
        for n, each in enumerate(writers)
    ]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == MAX_BATCHES
    assert all(isinstance(each, Stored | asyncio.CancelledError) for each in results)
    assert not writer.under_way
    assert (await writer.store("last1", "last2", aggregate="last", sequence=0)).sequences


@pytest.mark.parametrize("ids", [["i1"], ["i1", "i2"]])
async def test_append_when_the_caller_is_cancelled_leaves_nothing_behind(writer: Writer, ids: list[str]) -> None:
    task = asyncio.create_task(writer.store(*ids, sequence=0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not writer.under_way
    await writer.store("x1", "x2", aggregate="b", sequence=0)
    await writer.conn.close(timeout_s=5)


async def test_close_when_appends_are_under_way_waits_for_them(
    server: eda.EmbeddedServer, connect: Connect, admin: Admin, stream: str
) -> None:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.streams.create(stream)
        writer = Writer(conn, stream)
        await writer.store("i0", aggregate="b", sequence=0)
        proxy.hold()
        tasks = [asyncio.create_task(writer.store("i1", aggregate="c", sequence=0))]
        tasks += [asyncio.create_task(writer.store(f"a{n}", f"b{n}", aggregate=f"d{n}", sequence=0)) for n in range(60)]
        await until(lambda: len(writer.under_way) == 60)
        closing = asyncio.create_task(conn.close())
        await asyncio.sleep(0.05)
        proxy.release()
        stored = await asyncio.gather(*tasks)
        await closing
    assert sum(len(each.sequences) for each in stored) == 121
    assert await admin.last_seq(stream) == 122
    with pytest.raises(eda.Closed):
        await writer.store("late", sequence=0)
