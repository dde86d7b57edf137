"""send_and_wait: the receipt has the event's sequence, and the event keeps its order among the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import eda
from eda._codec import decode_event
from helpers import Admin, Connect, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


async def check(admin: Admin, receipt: eda.Receipt) -> None:
    """Check that the event is stored at the receipt's sequence."""
    message = await admin.js.get_msg(receipt.stream, receipt.sequence)
    assert message.data is not None
    assert decode_event(message.data).id == receipt.id == str(receipt)
    assert (receipt.index, receipt.stream) == (0, receipt.stream)


@both
async def test_send_and_wait_when_alone_tells_where_the_event_is(
    conn: eda.Conn, admin: Admin, stream: str, mode: str
) -> None:
    async with conn.publisher(stream, mode=mode) as pub:
        for n in range(1, 6):
            receipt = await pub.send_and_wait(eda.Event(type="t"))
            assert (receipt.stream, receipt.sequence, receipt.index, receipt.duplicate) == (stream, n, 0, False)
            await check(admin, receipt)
    assert pub.stats().acknowledged == 5


@both
async def test_send_and_wait_when_others_are_sent_around_it_keeps_its_turn(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with asyncio.timeout(30), conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        ids: list[str] = []
        waiting: list[asyncio.Task[eda.Receipt]] = []
        for n in range(20):
            ids += await pub.send_many(numbered(150, start=1000 * n))
            waiting.append(asyncio.create_task(pub.send_and_wait(eda.Event(id=f"w{n}"))))
            await asyncio.sleep(0)
            ids.append(f"w{n}")
        receipts = await asyncio.gather(*waiting)
        await pub.flush()
    stored = await stored_ids(server.url, stream)
    assert stored == ids
    for receipt in receipts:
        assert stored[receipt.sequence - 1] == receipt.id
    outcomes.check(ids, stored, pub.stats())


@both
async def test_send_and_wait_when_called_by_many_gives_each_its_own(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with asyncio.timeout(30), conn.publisher(stream, mode=mode, max_pending=50) as pub:
        receipts = await asyncio.gather(*(pub.send_and_wait(event) for event in numbered(300)))
    assert [receipt.id for receipt in receipts] == [event.id for event in numbered(300)]
    assert [receipt.sequence for receipt in receipts] == list(range(1, 301))
    assert not pub._core.receipts  # type: ignore[union-attr]


@both
async def test_send_and_wait_when_the_id_is_known_tells_where_the_first_one_is(
    conn: eda.Conn, admin: Admin, stream: str, mode: str
) -> None:
    async with conn.publisher(stream, mode=mode) as pub:
        await pub.send_many(numbered(300))
        receipt = await pub.send_and_wait(numbered(300)[6])
        assert (receipt.sequence, receipt.duplicate) == (7, True)
        await pub.send_many(numbered(10, start=300))
        receipt = await pub.send_and_wait(numbered(300)[8])
        assert (receipt.sequence, receipt.duplicate) == (9, True)


@both
async def test_send_and_wait_when_its_answer_is_lost_tells_where_the_event_is(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, ack_timeout_s=0.2) as pub:
        await pub.send_and_wait(eda.Event())
        proxy.drop_if = lambda message: b'{"stream":"' in message and b'"seq":' in message
        waiting = asyncio.create_task(pub.send_and_wait(eda.Event(id="once")))
        await asyncio.sleep(0.3)
        proxy.drop_if = None
        receipt = await asyncio.wait_for(waiting, 10)
        assert (receipt.id, receipt.sequence, receipt.duplicate) == ("once", 2, True)


@both
async def test_send_and_wait_when_refused_raises_what_the_event_failed_with(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    told: list[str] = []
    async with conn.publisher(stream, mode=mode) as pub:
        await pub.send_and_wait(eda.Event())
        for _ in range(3):
            with pytest.raises(eda.ServerError, match="maximum messages exceeded"):
                await pub.send_and_wait(eda.Event())
        await pub.flush()
    async with conn.publisher(stream, mode=mode, on_error=lambda event, _: told.append(event.id)) as pub:
        with pytest.raises(eda.ServerError):
            await pub.send_and_wait(eda.Event(id="told"))
    assert told == ["told"]
    for bad in ("no event", eda.Event(id="a b"), eda.Event(data=eda.JSON(object()))):
        async with conn.publisher(stream, mode=mode) as pub:
            with pytest.raises((eda.ConfigError, eda.CodecError)):
                await pub.send_and_wait(bad)  # type: ignore[arg-type]
            assert pub.stats().sent == 0


@both
async def test_send_and_wait_when_there_is_no_answer_raises_timeout(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, timeout_s=0.5) as pub:
        await pub.send_and_wait(eda.Event())
        proxy.hold()
        with pytest.raises(eda.Timeout) as caught:
            await pub.send_and_wait(eda.Event(id="late"))
        assert caught.value.event_id == "late"
        await pub.flush()
        proxy.release()


@both
async def test_send_and_wait_when_cancelled_publishes_the_event_all_the_same(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode) as pub:
        await pub.send_and_wait(eda.Event(id="first"))
        proxy.hold()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pub.send_and_wait(eda.Event(id="left")), 0.05)
        assert not pub._core.receipts  # type: ignore[union-attr]
        await pub.send(eda.Event(id="last"))
        proxy.release()
        await asyncio.wait_for(pub.flush(), 10)
    assert await stored_ids(server.url, stream) == ["first", "left", "last"]


@both
async def test_send_and_wait_when_cancelled_as_its_event_fails_leaves_the_failure_to_flush(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    async with conn.publisher(stream, mode=mode) as pub:
        for event_id in ("kept", ""):
            waiting = asyncio.create_task(pub.send_and_wait(eda.Event(id=event_id)))
            await asyncio.sleep(0)
            (seq,) = pub._core.receipts  # type: ignore[union-attr]
            pub._outcomes.on_failed(seq, eda.ServerError(500, 1, "refused"))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(eda.PublishFailed) as caught:
                await pub.flush()
            ((event, error),) = caught.value.failed
            assert (event.id == event_id or not event_id, bool(event.id)) == (True, True)
            assert isinstance(error, eda.ServerError)
            await pub.flush()


@both
async def test_send_and_wait_when_cancelled_as_its_event_fails_tells_on_error_once(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        waiting = asyncio.create_task(pub.send_and_wait(eda.Event(id="e")))
        await asyncio.sleep(0)
        (seq,) = pub._core.receipts  # type: ignore[union-attr]
        pub._outcomes.on_failed(seq, eda.ServerError(500, 1, "refused"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await pub.flush()
    assert dict(outcomes.failed) == {"e": 1}


@both
@pytest.mark.parametrize("what", ["publisher", "connection"])
async def test_send_and_wait_when_closed_raises_closed(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str, what: str
) -> None:
    conn = await connect(proxy.url(server.url))
    pub = await conn.publisher(stream, mode=mode)
    await pub.send_and_wait(eda.Event())
    proxy.hold()
    waiting = [asyncio.create_task(pub.send_and_wait(eda.Event())) for _ in range(3)]
    await until(lambda: pub.stats().pending == 3)
    if what == "publisher":
        await pub.close()
    else:
        await conn.close(0.5)
    for each in waiting:
        with pytest.raises(eda.Closed):
            await asyncio.wait_for(each, 5)
    with pytest.raises(eda.Closed):
        await pub.send_and_wait(eda.Event())
    proxy.release()
