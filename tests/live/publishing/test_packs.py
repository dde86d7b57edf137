"""A publisher with packs when no fault happens: what is stored, who is told of what, and when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import eda
from helpers import LOOPS, Admin, Connect, until
from support.publishing.packs import ids_in, messages_in
from support.publishing.sent import MODES, Outcomes, numbered

both = pytest.mark.parametrize("mode", MODES)
PACKED = eda.StreamOptions(packed=True)
SLOW = eda.Pack(linger_s=10.0)


@pytest.fixture
async def packed(conn: eda.Conn, stream: str) -> str:
    await conn.streams.create(stream, PACKED)
    return stream


@both
async def test_packs_when_the_context_ends_have_stored_all_events_in_order(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(), **outcomes.callbacks) as pub:
        ids = [await pub.send(event) for event in numbered(5000)]
        ids += await pub.send_many(numbered(5000, start=5000))
    messages = await messages_in(server.url, packed)
    outcomes.check(ids, ids_in(messages), pub.stats())
    assert not outcomes.failed
    stats = pub.stats()
    assert (stats.packs, stats.in_open_pack) == (len(messages), 0)
    assert len(messages) <= 200
    assert sum(len(each.ids) == 128 for each in messages) >= 60
    if mode == "fast":
        assert outcomes.sequences == [0] * 10_000
    else:
        assert outcomes.sequences == [each.sequence for each in messages for _ in each.ids]


@pytest.mark.old_server
async def test_packs_when_the_server_is_of_any_version_are_stored_through_the_window(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(packed, mode="window", pack=eda.Pack(), **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(3000))
        receipt = await pub.send_and_wait(eda.Event(id="last", type="u"))
        ids.append("last")
    messages = await messages_in(server.url, packed)
    outcomes.check(ids, ids_in(messages), pub.stats())
    assert messages[receipt.sequence - 1].ids[receipt.index] == "last"


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
@both
def test_packs_when_the_loop_is_of_any_kind_are_stored(
    server: eda.EmbeddedServer, new_loop: Callable[[], asyncio.AbstractEventLoop], mode: str
) -> None:
    stream = f"packed-{new_loop.__module__.partition('.')[0]}-{mode}"

    async def main() -> None:
        async with asyncio.timeout(20), eda.connect(server.url) as conn:
            await conn.streams.create(stream, PACKED)
            async with conn.publisher(stream, mode=mode, pack=eda.Pack()) as pub:
                ids = [await pub.send(event) for event in numbered(3000)]
                await asyncio.sleep(0.02)
                assert pub.stats().in_open_pack == 0
            assert ids_in(await messages_in(server.url, stream)) == ids
            await conn.streams.delete(stream)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@both
async def test_pack_on_the_wire_has_the_subject_headers_and_envelopes_of_the_contract(
    connect: Connect, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    conn = await connect(client="me")
    async with conn.publisher(packed, mode=mode, pack=SLOW) as pub:
        for number in range(3):
            await pub.send(eda.Event(type="t", aggregate=f"a{number}", data=eda.JSON({"n": number})))
        await pub.flush()
        await pub.send(eda.Event(id="alone", type="t.u", aggregate="a"))
    pack, alone = await messages_in(server.url, packed)
    assert (pack.subject, pack.headers["Eda-Pack"]) == (f"{packed}.t.%pack", "3")
    assert pack.headers["Nats-Msg-Id"] == f"{pack.events[0].id}.pack"
    assert [(each.type, each.aggregate, each.data, each.client) for each in pack.events] == [
        ("t", f"a{number}", b'{"n":%d}' % number, "me") for number in range(3)
    ]
    assert all(abs(each.time - time.time_ns()) < 60e9 for each in pack.events)
    assert (alone.subject, alone.headers, alone.ids) == (f"{packed}.t%2Eu.a", {"Nats-Msg-Id": "alone"}, ["alone"])


async def test_packs_and_single_events_mix_in_a_stream(conn: eda.Conn, server: eda.EmbeddedServer, packed: str) -> None:
    async with conn.publisher(packed, pack=eda.Pack()) as pub:
        ids = await pub.send_many(numbered(200))
        await pub.flush()
        ids.append((await conn.publish(packed, eda.Event(id="one"))).id)
        ids += await pub.send_many(numbered(200, start=200))
    assert ids_in(await messages_in(server.url, packed)) == ids


# --- when a pack is closed -------------------------------------------------------------------------------------------


@both
async def test_send_one_by_one_lets_the_event_loop_run_and_keeps_the_order_of_all_senders(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    sent: list[str] = []
    n_turns = 0

    async def send(name: str) -> None:
        for number in range(8000):
            sent.append(f"{name}{number}")  # no other task runs between this and `send`
            await pub.send(eda.Event(id=sent[-1], type="t"))

    async def count() -> None:
        nonlocal n_turns
        while True:
            await asyncio.sleep(0)
            n_turns += 1

    async with conn.publisher(packed, mode=mode, pack=eda.Pack()) as pub:
        counting = asyncio.create_task(count())
        await asyncio.gather(*(send(name) for name in "abc"))
        counting.cancel()
    assert n_turns >= 20  # 24,000 events fit into the window
    assert ids_in(await messages_in(server.url, packed)) == sent


@both
@pytest.mark.parametrize("linger_s", [0, 0.05])
async def test_event_alone_when_the_publisher_is_idle_is_stored_after_linger_s(
    conn: eda.Conn, packed: str, mode: str, linger_s: float
) -> None:
    took = []
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(linger_s=linger_s)) as pub:
        for _ in range(5):
            before = time.monotonic()
            receipt = await pub.send_and_wait(eda.Event(type="t"))
            took.append(time.monotonic() - before)
            assert receipt.index == 0
            await asyncio.sleep(0.02)
    assert min(took) >= linger_s - 0.001
    assert min(took) < linger_s + 0.1


@both
async def test_linger_counts_from_the_first_event_of_each_pack(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(linger_s=0.2)) as pub:
        await pub.send(eda.Event(id="a"))
        await asyncio.sleep(0.15)
        await pub.send(eda.Event(id="b"))
        await until(lambda: pub.stats().acknowledged == 2, 0.15)
        await pub.send(eda.Event(id="c"))
        await asyncio.sleep(0.1)
        assert pub.stats().in_open_pack == 1
        await pub.send_many(numbered(300))
        assert pub.stats().packs == 3
        await until(lambda: pub.stats().pending == 0, 2.0)
    assert [len(each.ids) for each in await messages_in(server.url, packed)] == [2, 128, 128, 45]


@both
async def test_flush_closes_the_pack_and_waits_for_it(conn: eda.Conn, packed: str, mode: str) -> None:
    async with conn.publisher(packed, mode=mode, pack=SLOW) as pub:
        await pub.flush()
        await pub.send(eda.Event())
        assert pub.stats().in_open_pack == 1
        async with asyncio.timeout(5):
            await pub.flush()
        assert (pub.stats().acknowledged, pub.stats().in_open_pack) == (1, 0)


@both
@pytest.mark.parametrize(("max_pending", "max_pending_bytes"), [(1, None), (10, None), (None, 1), (None, 2000)])
async def test_window_when_it_is_smaller_than_a_pack_closes_the_pack(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str, max_pending: int, max_pending_bytes: int
) -> None:
    if mode == "fast" and max_pending == 1:
        max_pending = 4
    options: Any = {"max_pending": max_pending, "max_pending_bytes": max_pending_bytes}
    async with asyncio.timeout(20), conn.publisher(packed, mode=mode, pack=SLOW, **options) as pub:
        ids = [await pub.send(event) for event in numbered(50)]
        ids += await pub.send_many(numbered(50, start=50))
    assert ids_in(await messages_in(server.url, packed)) == ids


@both
async def test_linger_when_much_is_sent_does_not_limit_the_rate(conn: eda.Conn, packed: str, mode: str) -> None:
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(linger_s=0.5, max_events=100)) as pub:
        before = time.monotonic()
        for event in numbered(20_000):
            await pub.send(event)
        assert time.monotonic() - before < 10  # with a pack for each linger_s, it would take 100 s
    assert pub.stats().packs == 200


# --- receipts --------------------------------------------------------------------------------------------------------


@both
async def test_send_and_wait_when_many_wait_has_them_share_packs(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(max_events=50)) as pub:
        await pub.send_many(numbered(20))
        receipts = await asyncio.gather(*(pub.send_and_wait(eda.Event(id=f"w{i}")) for i in range(400)))
        await pub.send_many(numbered(20, start=20))
    messages = await messages_in(server.url, packed)
    found = {(each.sequence, index): id for each in messages for index, id in enumerate(each.ids)}
    assert [found[each.sequence, each.index] for each in receipts] == [each.id for each in receipts]
    assert {(each.stream, each.duplicate) for each in receipts} == {(packed, False)}
    assert len(messages) <= 12
    assert receipts[30].position == (packed, receipts[30].sequence, receipts[30].index)


@both
async def test_send_and_wait_when_it_is_cancelled_leaves_the_others_their_receipts(
    conn: eda.Conn, packed: str, mode: str
) -> None:
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(linger_s=0.1)) as pub:
        waiting = [asyncio.create_task(pub.send_and_wait(eda.Event(id=f"w{i}"))) for i in range(5)]
        await until(lambda: pub.stats().in_open_pack == 5)
        waiting[2].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in done] == [eda.Receipt] * 2 + [asyncio.CancelledError] + [eda.Receipt] * 2
    assert [each.index for each in done if isinstance(each, eda.Receipt)] == [0, 1, 3, 4]
    assert pub.stats().acknowledged == 5


@both
async def test_receipt_when_the_stream_has_the_pack_already_is_that_of_the_first(
    conn: eda.Conn, packed: str, mode: str
) -> None:
    found = []
    for _ in range(2):
        async with conn.publisher(packed, mode=mode, pack=eda.Pack(max_events=3, linger_s=10)) as pub:
            found.append(await asyncio.gather(*(pub.send_and_wait(eda.Event(id=f"w{i}")) for i in range(3))))
    first, again = found
    assert [(each.sequence, each.index, each.duplicate) for each in first] == [(1, i, False) for i in range(3)]
    assert [(each.sequence, each.index, each.duplicate) for each in again] == [(1, i, True) for i in range(3)]


# --- what refuses packs ----------------------------------------------------------------------------------------------


async def test_publisher_with_packs_into_a_stream_that_is_not_packed_is_refused(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    with pytest.raises(eda.ConfigError, match="packed=True") as found:
        async with conn.publisher(stream, pack=eda.Pack()):
            pass
    assert found.value.argument == "pack"
    with pytest.raises(eda.ConfigError, match=r"must be an eda.Pack") as wrong:
        conn.publisher(stream, pack=128)  # type: ignore[arg-type]
    assert wrong.value.argument == "pack"


async def test_publisher_with_packs_creates_a_missing_stream_packed(connect: Connect, stream: str) -> None:
    conn = await connect()
    async with conn.publisher(stream, pack=eda.Pack()) as pub:
        await pub.send_many(numbered(10))
    assert (await conn.streams.info(stream)).options.packed


async def test_publisher_when_its_packs_would_linger_for_too_long_is_refused(conn: eda.Conn, packed: str) -> None:
    with pytest.raises(eda.ConfigError, match="linger_s=2") as found:
        await conn.publisher(packed, pack=eda.Pack(linger_s=2), timeout_s=3)
    assert found.value.argument == "pack"


async def test_events_over_the_streams_max_msg_size_are_refused_and_packs_stay_below(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, packed: str
) -> None:
    config = (await admin.js.stream_info(packed)).config
    config.max_msg_size = 2000
    await admin.js.update_stream(config)
    async with conn.publisher(packed, pack=eda.Pack()) as pub:
        ids = await pub.send_many(numbered(500))
        with pytest.raises(eda.ConfigError, match="max_msg_size of 2000") as found:
            await pub.send(eda.Event(data=eda.Bytes(bytes(2000))))
        assert found.value.argument == "data"
    messages = await messages_in(server.url, packed)
    assert ids_in(messages) == ids
    assert Counter(len(each.ids) for each in messages).most_common(1)[0][0] >= 25


@both
async def test_publisher_when_it_is_closed_without_a_flush_fails_the_events_of_the_open_pack(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str, logged: Any
) -> None:
    logged.allow("closed with 3 events pending")
    outcomes = Outcomes()
    pub = await conn.publisher(packed, mode=mode, pack=SLOW, **outcomes.callbacks)
    await pub.send_many(numbered(3))
    await pub.close()
    assert {type(error) for error in outcomes.errors.values()} == {eda.Closed}
    assert len({id(error) for error in outcomes.errors.values()}) == 3
    assert pub.stats() == eda.PublisherStats(3, 0, 0, 3, 0, 0, mode, packs=1)
    assert await messages_in(server.url, packed) == []


async def test_middleware_gets_each_event(connect: Connect, server: eda.EmbeddedServer, packed: str) -> None:
    seen: list[str] = []

    class Notes(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: Any) -> Any:
            seen.append(event.id)
            return await call_next(event.replace(meta={"seen": "yes"}))

    conn = await connect(middleware=[Notes()])
    async with conn.publisher(packed, pack=eda.Pack()) as pub:
        ids = await pub.send_many(numbered(300))
    messages = await messages_in(server.url, packed)
    assert ids_in(messages) == ids == seen
    assert {each.meta["seen"] for message in messages for each in message.events} == {"yes"}
    assert len(messages) < 10


@both
async def test_compressed_packs_are_small_and_hold_all_events(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    made = [
        eda.Event(id=f"i{i}", type="reading", aggregate=f"sensor-{i % 50}", data=eda.JSON({"at": i, "value": i % 7}))
        for i in range(2000)
    ]
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(compression="zstd")) as pub:
        ids = await pub.send_many(made)
    messages = await messages_in(server.url, packed)
    assert ids_in(messages) == ids
    assert all(each.is_compressed for each in messages)
    assert sum(len(each.payload) for each in messages) < 2000 * 110 / 5
