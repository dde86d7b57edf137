"""Sending through a publisher when no fault happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import eda
import eda._codec
from eda.publishing.pump_machine import PumpMachine
from helpers import LOOPS, Admin, Connect, Logged, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


async def raw(admin: Admin, stream: str, seq: int = 1) -> Any:
    return await admin.js.get_msg(stream, seq)


@both
async def test_send_when_the_context_ends_has_stored_all_in_order(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        ids = [await pub.send(event) for event in numbered(5000)]
    assert ids == [event.id for event in numbered(5000)]
    outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())
    assert not outcomes.failed
    assert pub.stats() == eda.PublisherStats(5000, 5000, 0, 0, 0, 0, mode)
    # Only single acknowledgements have the stream sequence.
    assert outcomes.sequences == ([0] * 5000 if mode == "fast" else list(range(1, 5001)))


@pytest.mark.old_server
async def test_send_when_the_server_is_of_any_version_stores_all_through_the_window(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(stream, mode="window", **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(3000))
        await pub.flush()
        ids.append(await pub.send(eda.Event(type="last")))
    outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())
    assert outcomes.sequences == list(range(1, 3002))


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
@both
def test_send_when_the_loop_is_of_any_kind_stores_all(
    server: eda.EmbeddedServer, new_loop: Callable[[], asyncio.AbstractEventLoop], mode: str
) -> None:
    stream = f"loop-{new_loop.__module__.partition('.')[0]}-{mode}"

    async def main() -> None:
        outcomes = Outcomes()
        async with asyncio.timeout(20), eda.connect(server.url) as conn:
            async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
                ids = [await pub.send(event) for event in numbered(10_000)]
                ids += await pub.send_many(numbered(10_000, start=10_000))
            outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())
            await conn.streams.delete(stream)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@both
async def test_send_when_the_event_says_little_fills_in_what_is_missing(
    connect: Connect, admin: Admin, stream: str, mode: str
) -> None:
    conn = await connect(client="me")
    event = eda.Event(type="a.b", aggregate="c d", data=eda.JSON({"x": 1}))
    async with conn.publisher(stream, mode=mode) as pub:
        event_id = await pub.send(event)
    assert event.id == ""
    message = await raw(admin, stream)
    assert message.subject == f"{stream}.a%2Eb.c%20d"
    assert message.headers == {"Nats-Msg-Id": event_id}
    received = eda._codec.decode_event(message.data)
    assert (received.id, received.client, received.type, received.aggregate) == (event_id, "me", "a.b", "c d")
    assert received.data.decode() == {"x": 1}
    assert abs(received.time_ns - time.time_ns()) < 60e9


@both
async def test_send_when_deduplication_is_off_leaves_the_message_id_out(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with conn.publisher(stream, mode=mode, dedup=False) as pub:
        ids = await pub.send_many([*numbered(700), *numbered(700)])
    assert (await raw(admin, stream)).headers is None
    assert await stored_ids(server.url, stream) == ids
    assert len(ids) == 1400


@both
async def test_send_when_ids_repeat_stores_each_once_and_acknowledges_all(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    acknowledged: list[str] = []
    async with conn.publisher(stream, mode=mode, on_ack=lambda event_id, _: acknowledged.append(event_id)) as pub:
        ids = await pub.send_many([*numbered(700), *numbered(1000)])
    assert acknowledged == ids
    assert await stored_ids(server.url, stream) == [event.id for event in numbered(1000)]
    assert pub.stats().acknowledged == 1700


@both
async def test_send_when_the_id_is_as_long_as_may_be_reports_it_whole(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    ids = ["x" * n for n in (1, 64, 127, 128)]
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        assert await pub.send_many([eda.Event(id=each) for each in ids]) == ids
        with pytest.raises(eda.ConfigError, match="129 bytes"):
            await pub.send(eda.Event(id="x" * 129))
    outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())


# --- what can't be sent --------------------------------------------------------------------------------------------


UNSENDABLE: dict[str, Any] = {
    "no-event": "event",
    "none": None,
    "cannot-encode": eda.Event(data=eda.JSON(object())),
    "unknown-encoding": eda.Event(data=eda.Data("no-such", 1)),
    "bad-id": eda.Event(id="a b"),
    "long-subject": eda.Event(type="t" * 5000),
    "too-large": eda.Event(data=eda.Bytes(bytes(2 * 2**20))),
    "surrogate-meta": eda.Event(meta={"k": "\ud800"}),
}


@both
@pytest.mark.parametrize("culprit", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_send_when_the_event_cannot_be_sent_takes_nothing_of_it(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, culprit: Any
) -> None:
    before, after = numbered(600), numbered(600, start=600)
    async with conn.publisher(stream, mode=mode) as pub:
        ids = [await pub.send(event) for event in before]
        for _ in range(3):
            with pytest.raises((eda.ConfigError, eda.CodecError)):
                await pub.send(culprit)
        ids += [await pub.send(event) for event in after]
        await pub.flush()
        with pytest.raises((eda.ConfigError, eda.CodecError)):
            await pub.send(culprit)
    assert await stored_ids(server.url, stream) == ids
    assert pub.stats().sent == pub.stats().acknowledged == 1200


def generated(events: list[Any]) -> Iterator[Any]:
    yield from events


async def async_generated(events: list[Any]) -> AsyncIterator[Any]:
    for event in events:
        await asyncio.sleep(0)
        yield event


ITERABLES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": generated,
    "async-generator": async_generated,
}


@both
@pytest.mark.parametrize("as_iterable", ITERABLES.values(), ids=ITERABLES)
async def test_send_many_when_given_any_iterable_sends_it_in_order(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, as_iterable: Callable[[list[Any]], Any]
) -> None:
    async with conn.publisher(stream, mode=mode, max_pending=700) as pub:
        assert await pub.send_many(as_iterable([])) == []
        assert pub.stats().sent == 0
        await pub.flush()
        ids = await pub.send_many(as_iterable(numbered(3000)))
    assert ids == [event.id for event in numbered(3000)]
    assert await stored_ids(server.url, stream) == ids


@both
@pytest.mark.parametrize("as_iterable", ITERABLES.values(), ids=ITERABLES)
async def test_send_many_when_one_is_no_event_sends_those_before_it(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, as_iterable: Callable[[list[Any]], Any]
) -> None:
    events: list[Any] = numbered(1500)
    events[1234] = "an event"
    async with conn.publisher(stream, mode=mode) as pub:
        with pytest.raises(eda.ConfigError, match=r"events\[1234\] must be an eda\.Event, not str"):
            await pub.send_many(as_iterable(events))
        assert pub.stats().sent == 1234
        last = await pub.send(eda.Event(id="last"))
    assert await stored_ids(server.url, stream) == [event.id for event in numbered(1234)] + [last]


@both
@pytest.mark.parametrize("as_iterable", ITERABLES.values(), ids=ITERABLES)
async def test_send_many_when_one_cannot_be_encoded_names_it_and_sends_those_before_it(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, as_iterable: Callable[[list[Any]], Any]
) -> None:
    events = numbered(900)
    events[777] = eda.Event(data=eda.JSON(object()))
    async with conn.publisher(stream, mode=mode) as pub:
        with pytest.raises(eda.EncodeError) as caught:
            await pub.send_many(as_iterable(events))
        assert caught.value.__notes__ == ["events[777]"]
    assert await stored_ids(server.url, stream) == [event.id for event in numbered(777)]


@both
async def test_send_many_when_the_iterable_fails_sends_what_it_gave_before(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    def failing() -> Iterator[eda.Event]:
        yield from numbered(600)
        raise LookupError("no more")

    async def failing_later() -> AsyncIterator[eda.Event]:
        for event in numbered(600, start=600):
            yield event
        raise LookupError("no more")

    async with conn.publisher(stream, mode=mode) as pub:
        for events in (failing(), failing_later()):
            with pytest.raises(LookupError):
                await pub.send_many(events)
    assert await stored_ids(server.url, stream) == [event.id for event in numbered(1200)]


# --- callbacks and the idle commit --------------------------------------------------------------------------------


@both
async def test_send_when_nobody_flushes_is_acknowledged_within_some_milliseconds(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    acknowledged: list[str] = []
    async with conn.publisher(stream, mode=mode, on_ack=lambda event_id, _: acknowledged.append(event_id)) as pub:
        for n in (1, 3, 40, 700, 1):
            took = []
            for _ in range(3):
                begin = time.monotonic()
                ids = await pub.send_many([eda.Event() for _ in range(n)])
                await until(lambda ids=ids: acknowledged[-1:] == ids[-1:], 5)
                took.append(time.monotonic() - begin)
            assert min(took) < 0.25, took  # the slower ones may be due to a busy machine


async def test_send_when_events_trickle_waits_for_no_flow_interval(conn: eda.Conn, stream: str) -> None:
    sent: dict[str, float] = {}
    took: list[float] = []

    def on_ack(event_id: str, _: int) -> None:
        took.append(time.monotonic() - sent[event_id])

    async with conn.publisher(stream, mode="fast", ack_timeout_s=0.5, on_ack=on_ack) as pub:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            now = time.monotonic()
            sent[await pub.send(eda.Event())] = now
            await asyncio.sleep(0.001)
    assert pub.stats().resent == 0
    assert sorted(took)[len(took) // 2] < 0.25, "the median event waited for the rest of a flow interval"


async def test_send_when_acknowledgements_are_slow_keeps_its_batch_while_it_waits_for_room(
    connect: Connect, server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To the clock, a sender that waits for room looks like one that pauses.
    commits = []
    commit = PumpMachine.commit
    monkeypatch.setattr(PumpMachine, "commit", lambda machine: (commits.append(machine), commit(machine)))
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        proxy.delay_s = 0.02
        async with conn.publisher(stream, mode="fast", max_pending=2000) as pub:
            for _ in range(20_000):
                await pub.send(eda.Event())
            await pub.flush()
            assert pub.stats().acknowledged == 20_000
        proxy.delay_s = 0.0
        await conn.close()
    assert len(commits) <= 6, "its begin, the tail, and pauses of the machine; without waiting for room it is 10"


@both
@pytest.mark.parametrize("raised", [RuntimeError, asyncio.CancelledError, GeneratorExit])
async def test_callbacks_when_they_raise_break_nothing(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, raised: type[BaseException], logged: Logged
) -> None:
    def on_ack(event_id: str, sequence: int) -> None:
        raise raised("on purpose")

    def on_error(event: eda.Event, error: Exception) -> None:
        raise raised("on purpose")

    logged.expect("on_ack.* failed", "on_error.* failed")
    await conn.streams.create(stream, eda.StreamOptions(max_events=20, discard="new"))
    async with conn.publisher(stream, mode=mode, on_ack=on_ack, on_error=on_error) as pub:
        await pub.send_many(numbered(30))
        await pub.flush()
    assert await stored_ids(server.url, stream) == [event.id for event in numbered(20)]
    assert (pub.stats().acknowledged, pub.stats().failed) == (20, 10)


@both
@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_callbacks_when_they_are_to_end_the_program_end_it_after_all_of_the_read(
    server: eda.EmbeddedServer, mode: str, raised: type[BaseException], logged: Logged
) -> None:
    logged.expect("on_ack.* failed")
    stream = f"ending-{mode}-{raised.__name__}"
    acknowledged: list[str] = []

    def on_ack(event_id: str, sequence: int) -> None:
        acknowledged.append(event_id)
        if len(acknowledged) == 1:
            raise raised("on purpose")

    async def begin() -> None:
        nonlocal conn, pub
        conn = await eda.connect(server.url)
        pub = await conn.publisher(stream, mode=mode, on_ack=on_ack)  # type: ignore[arg-type]
        await pub.send_many(numbered(500))
        await asyncio.sleep(10)

    async def end() -> None:
        await pub.flush()
        assert conn.state == "connected"
        await pub.close()
        await conn.streams.delete(stream)
        await conn.close()

    conn: Any = None
    pub: Any = None
    with asyncio.Runner() as runner:
        with pytest.raises(raised, match="on purpose"):
            runner.run(begin())
        runner.run(end())
    assert acknowledged == [event.id for event in numbered(500)]


@both
async def test_callbacks_when_they_return_coroutines_say_once_that_these_never_run(
    conn: eda.Conn, stream: str, mode: str, logged: Logged
) -> None:
    async def run(*_: object) -> None:
        raise AssertionError

    logged.expect("on_ack returned an awaitable", "on_error returned an awaitable")
    await conn.streams.create(stream, eda.StreamOptions(max_events=20, discard="new"))
    async with conn.publisher(stream, mode=mode, on_ack=lambda *_: run(), on_error=lambda *_: run()) as pub:
        await pub.send_many(numbered(30))
    assert len(logged.find("returned an awaitable")) == 2
    assert (pub.stats().acknowledged, pub.stats().failed) == (20, 10)


@both
async def test_callbacks_when_they_send_more_have_it_published(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    tasks: list[asyncio.Task[str]] = []

    def on_ack(event_id: str, sequence: int) -> None:
        if not event_id.endswith("-again"):
            tasks.append(asyncio.create_task(pub.send(eda.Event(id=f"{event_id}-again"))))

    async with conn.publisher(stream, mode=mode, on_ack=on_ack, max_pending=50) as pub:
        await pub.send_many(numbered(300))
        await until(lambda: len(tasks) == 300)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert len(await stored_ids(server.url, stream)) == 600


@both
async def test_send_when_tens_of_thousands_wait_takes_them_in_order(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    n = 30_000
    async with asyncio.timeout(60), conn.publisher(stream, mode=mode, max_pending=500) as pub:
        sending = [asyncio.create_task(pub.send(event)) for event in numbered(n)]
        await asyncio.sleep(0)
        for task in sending[10_001::10_000]:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    left = [event.id for event, task in zip(numbered(n), sending, strict=True) if not task.cancelled()]
    assert len(left) in (n, n - 1, n - 2)
    assert await stored_ids(server.url, stream) == left


@both
async def test_waiting_when_there_is_more_of_it_takes_each_no_longer(conn: eda.Conn, stream: str, mode: str) -> None:
    async def took(n: int) -> float:
        """Return the CPU time per task for `n` tasks that send and flush."""

        async def one() -> None:
            await pub.send(eda.Event())
            await pub.flush()

        begin = time.process_time()
        await asyncio.gather(*(one() for _ in range(n)))
        return (time.process_time() - begin) / n

    async with asyncio.timeout(60), conn.publisher(stream, mode=mode, max_pending=1000) as pub:
        await took(1000)
        few = min([await took(1000) for _ in range(3)])
        assert await took(16_000) < 6 * few, "16 times as many took more than 6 times as long each"


@both
async def test_stats_when_read_at_any_time_add_up(conn: eda.Conn, stream: str, mode: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=4000, discard="new"))
    pub = conn.publisher(stream, mode=mode)
    assert pub.stats() == eda.PublisherStats(0, 0, 0, 0, 0, 0, "")
    async with pub:
        for i, event in enumerate(numbered(4100), 1):
            await pub.send(event)
            if i % 10 == 0:
                stats = pub.stats()
                assert stats.sent == i == stats.acknowledged + stats.failed + stats.pending
                assert (stats.pending_bytes > 0) == (stats.pending > 0)
        with pytest.raises(eda.PublishFailed):
            await pub.flush()
        stats = pub.stats()
    assert (stats.sent, stats.acknowledged, stats.failed, stats.pending) == (4100, 4000, 100, 0)


@pytest.mark.parametrize("events", [None, eda.Event(), 5])
async def test_send_many_when_it_is_given_no_iterable_is_refused(conn: eda.Conn, stream: str, events: object) -> None:
    async with conn.publisher(stream) as publisher:
        with pytest.raises(eda.ConfigError, match=f"not {type(events).__name__}") as caught:
            await publisher.send_many(events)  # type: ignore[arg-type]
    assert (caught.value.argument, publisher.stats().sent) == ("events", 0)
