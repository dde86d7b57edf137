"""The options of subscriptions, each proven on a server; and those that can't work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import N_QUICK, Admin, Connect, Logged, until


async def test_start_when_the_sequence_is_yet_to_come_waits_for_it(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    await conn.publish(stream)
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), start=5):
        for _ in range(4):
            await conn.publish(stream)
        await until(lambda: len(seen) == 2)
    assert seen == [5, 6]


# --- filters ---------------------------------------------------------------------------------------------------------

TYPES = ["a", "b", "a.b", "*", "", "_", "with space", "é"]


OPTIONS: list[dict[str, Any]] = [
    *({"types": [each]} for each in TYPES),
    *({"types": TYPES[:3]}, {"types": frozenset(["*"]), "aggregate": "x"}),
    *({"aggregate": "x"}, {"aggregate": ""}, {"types": ["a"], "aggregate": "y.>"}),
]
EVENTS = [eda.Event(type=type, aggregate=aggregate) for type in TYPES for aggregate in ("x", "y.>", "")]


def matches(event: eda.Event, options: dict[str, Any]) -> bool:
    aggregate = options.get("aggregate", event.aggregate)
    return event.type in options.get("types", TYPES) and event.aggregate == aggregate


@pytest.mark.old_server
@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_filter_when_given_lets_only_those_through(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await asyncio.gather(*(conn.publish(stream, event) for event in EVENTS))
    wanted = [(event.type, event.aggregate) for event in EVENTS if matches(event, options)]
    seen: list[tuple[str, str]] = []
    handler = lambda event: seen.append((event.type, event.aggregate))  # noqa: E731
    async with conn.subscribe(stream, handler, backfill=True, name="me", **options) as subscription:
        # The last ones may be unwanted, and come after all that are wanted.
        await until(lambda: len(seen) == len(wanted) and subscription.stats().pending == 0)
    assert seen == wanted
    stats = subscription.stats()
    # Old servers filter too much, so there the client does it alone (Api.filters_reliably).
    assert (stats.handled, stats.pending) == (len(wanted), 0)
    assert stats.passed_over in (0, len(EVENTS) - len(wanted))
    assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 0


@pytest.mark.old_server
@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_filter_when_others_publish_to_the_bare_stream_looks_at_the_envelope(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await asyncio.gather(*(conn.publish(stream, event) for event in EVENTS))
    bare = EVENTS[::4]
    for n, event in enumerate(bare):
        await admin.client.publish(stream, encode_event(event, f"bare-{n}"))
    await admin.flush()
    seen: list[tuple[str, str]] = []
    wanted = [(event.type, event.aggregate) for event in EVENTS + bare if matches(event, options)]
    handler = lambda event: seen.append((event.type, event.aggregate))  # noqa: E731
    async with conn.subscribe(stream, handler, backfill=True, name="me", **options) as subscription:
        await until(lambda: subscription.stats().passed_over >= sum(not matches(event, options) for event in bare))
        await until(lambda: len(seen) >= len(wanted))
    assert seen == wanted
    assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 0


async def test_stats_when_asked_tell_exactly(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("handler failed")
    release = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.type == "fail" and event.attempt == 1:
            raise ValueError("once")
        if event.type == "wait":
            await release.wait()

    for type in ("fine", "fail", "fine", "wait", "fine", "fine"):
        await conn.publish(stream, eda.Event(type=type))
    retry = eda.Retry(initial_s=0.01)
    options: dict[str, Any] = {"backfill": True, "name": "me", "retry": retry, "prefetch": 5}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().redelivered == 1)
        stats = subscription.stats()
        assert (stats.handled, stats.failed, stats.in_flight, stats.last_sequence) == (2, 1, 1, 3)
        # Of the other three at least the redelivered one is here, and what is not here is pending.
        assert stats.buffered + stats.pending == 3
        release.set()
        await until(lambda: subscription.stats().handled == 6)
    stats = subscription.stats()
    assert (stats.handled, stats.failed, stats.redelivered, stats.dead_lettered) == (6, 1, 1, 0)
    assert (stats.in_flight, stats.buffered, stats.last_sequence, stats.pending) == (0, 0, 6, 0)
    assert (stats.passed_over, stats.undecodable) == (0, 0)


# --- how many at once ------------------------------------------------------------------------------------------------


class Gauge:
    """A handler that tells how many of its calls run at once."""

    def __init__(self, pause_s: float = 0.005) -> None:
        self.running = self.most = self.n_done = 0
        self.pause_s = pause_s
        self.order: list[int] = []

    async def __call__(self, event: eda.Event) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(event.sequence)
        try:
            await asyncio.sleep(self.pause_s)
        finally:
            self.running -= 1
        self.n_done += 1


@pytest.mark.old_server
@pytest.mark.parametrize("concurrency", [1, 2, 7, 50])
async def test_concurrency_when_given_is_reached_and_kept(conn: eda.Conn, stream: str, concurrency: int) -> None:
    await asyncio.gather(*(conn.publish(stream) for _ in range(200)))
    gauge = Gauge()
    async with conn.subscribe(stream, gauge, backfill=True, name="me", concurrency=concurrency) as subscription:
        await until(lambda: subscription.stats().in_flight == concurrency)
        await until(lambda: gauge.n_done == 200)
    assert gauge.most == concurrency
    assert sorted(gauge.order) == list(range(1, 201))


async def test_concurrency_when_one_keeps_the_order(conn: eda.Conn, stream: str) -> None:
    await asyncio.gather(*(conn.publish(stream) for _ in range(100)))
    gauge = Gauge(0)
    async with conn.subscribe(stream, gauge, backfill=True, name="me"):
        await until(lambda: gauge.n_done == 100)
    assert gauge.order == list(range(1, 101))


@pytest.mark.old_server
async def test_serial_when_handlers_fail_keeps_the_order_one_at_a_time(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    tried: list[tuple[int, int]] = []
    gauge = Gauge(0.001)

    async def handle(event: eda.Event) -> None:
        await gauge(event)
        tried.append((event.sequence, event.attempt))
        if event.attempt < 3 and event.sequence % 4 == 0:
            raise ValueError("not yet")

    await asyncio.gather(*(conn.publish(stream) for _ in range(20)))
    retry = eda.Retry(initial_s=0.01)
    async with conn.subscribe(stream, handle, backfill=True, name="me", durable=True, serial=True, retry=retry):
        await until(lambda: gauge.n_done == 20 + 5 * 2)
    assert gauge.most == 1
    assert tried == [(seq, attempt) for seq in range(1, 21) for attempt in ((1, 2, 3) if seq % 4 == 0 else (1,))]


async def test_serial_when_shared_by_members_and_restarts_keeps_the_order(connect: Connect, stream: str) -> None:
    gauge = Gauge(0.001)
    options: dict[str, Any] = {"name": "team", "durable": True, "serial": True, "backfill": True}
    publisher = await connect()
    await asyncio.gather(*(publisher.publish(stream) for _ in range(60)))
    for _ in range(3):
        conns = [await connect() for _ in range(2)]
        n = gauge.n_done
        for conn in conns:
            await conn.subscribe(stream, gauge, **options)
        await until(lambda n=n: gauge.n_done >= n + 15)
        for conn in conns:
            await conn.close()
    async with publisher.subscribe(stream, gauge, **options):
        await until(lambda: gauge.n_done == 60)
    assert gauge.most == 1
    assert gauge.order == list(range(1, 61))


# --- how much is held ------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("prefetch", [1, 10, 1000])
async def test_prefetch_when_the_handler_is_slow_bounds_what_is_held(
    conn: eda.Conn, stream: str, admin: Admin, prefetch: int
) -> None:
    await asyncio.gather(*(conn.publish(stream) for _ in range(2000)))
    release = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.sequence > N_QUICK:
            await release.wait()

    async with conn.subscribe(stream, handle, backfill=True, name="me", prefetch=prefetch) as subscription:
        await until(lambda: subscription.stats().handled == N_QUICK)
        # What is missing is asked for a quarter at a time.
        await until(lambda: subscription.stats().buffered >= prefetch * 3 // 4)
        await asyncio.sleep(0.05)
        stats = subscription.stats()
        assert stats.in_flight == 1
        assert stats.buffered < prefetch
        assert stats.pending == 2000 - N_QUICK - 1 - stats.buffered
        assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 1 + stats.buffered
        release.set()
        await until(lambda: subscription.stats().handled == 2000)


@pytest.mark.old_server
async def test_prefetch_when_it_is_not_known_how_long_handlers_take_is_small(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await asyncio.gather(*(conn.publish(stream) for _ in range(100)))
    release = asyncio.Event()
    options: dict[str, Any] = {"backfill": True, "name": "me", "durable": True}
    async with conn.subscribe(stream, lambda event: release.wait(), **options) as subscription:
        await until(lambda: subscription.stats().buffered == 7)
        await asyncio.sleep(0.05)
        assert subscription.stats().buffered == 7
        assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 8
        release.set()
        await until(lambda: subscription.stats().handled == 100)


@pytest.mark.old_server
async def test_prefetch_bytes_when_the_handler_is_slow_bounds_what_is_held(conn: eda.Conn, stream: str) -> None:
    event = eda.Event(data=eda.Bytes(bytes(10_000)))
    await asyncio.gather(*(conn.publish(stream, event) for _ in range(200)))
    release = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        await release.wait()

    options: dict[str, Any] = {"backfill": True, "name": "me", "prefetch_bytes": 100_000}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().buffered >= 5)
        await asyncio.sleep(0.05)
        assert subscription._dispatcher.ledger.n_bytes <= 100_000
        assert subscription.stats().buffered <= 9
        release.set()
        await until(lambda: subscription.stats().handled == 200)


@pytest.mark.old_server
async def test_event_when_larger_than_prefetch_bytes_still_comes(conn: eda.Conn, stream: str) -> None:
    sizes = [10, 900_000, 10, 10, 500_000, 500_000, 10]
    for size in sizes:
        await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(size))))
    seen: list[int] = []
    handler = lambda event: seen.append(len(event.data.encode()))  # noqa: E731
    few: list[dict[str, Any]] = [
        {"prefetch_bytes": 1},
        {"prefetch_bytes": 1000},
        {"prefetch_bytes": 10**5, "prefetch": 2},
    ]
    for n, options in enumerate(few):
        seen.clear()
        async with conn.subscribe(stream, handler, backfill=True, name=f"me-{n}", **options):
            await until(lambda: len(seen) == len(sizes))
        assert seen == sizes


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"start": 5, "backfill": True}, "start"),
        ({"batch": 10, "key": "aggregate", "durable": True}, "batch"),
        ({"concurrency": 2, "serial": True}, "concurrency"),
        ({"serial": True, "name": "me"}, "serial"),
        ({"reset": True}, "reset"),
        ({"concurrency": 10, "prefetch": 5}, "concurrency"),
        ({"name": "a.b"}, "name"),
        ({"name": ""}, "name"),
        ({"types": "order"}, "types"),
        ({"types": []}, "types"),
        ({"start": 0}, "start"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"retry": 5}, "retry"),
        ({"backfil": True}, "backfil"),
        ({"durable": 1}, "durable"),
    ],
    ids=str,
)
async def test_options_when_they_can_not_work_are_refused_at_once(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any], argument: str
) -> None:
    with pytest.raises(eda.ConfigError, match=argument) as caught:
        conn.subscribe(stream, print, **options)
    assert caught.value.argument == argument
    assert stream not in await admin.stream_names()


async def test_options_when_given_as_an_object_can_be_overridden(conn: eda.Conn, stream: str) -> None:
    options = eda.SubscriptionOptions(name="me", backfill=True)
    subscription = conn.subscribe(stream, print, options, backfill=False, concurrency=3)
    assert (subscription.options.name, subscription.options.backfill, subscription.options.concurrency) == (
        "me",
        False,
        3,
    )
    assert not options.backfill or options.concurrency == 1


async def test_handler_when_it_can_not_handle_an_event_is_refused_before_anything_is_asked(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    async def endless(event: eda.Event) -> AsyncIterator[eda.Event]:
        yield event

    wrong: list[Any] = [endless, lambda: None, "print"]
    for handler in wrong:
        with pytest.raises(eda.ConfigError, match="handler") as caught:
            conn.subscribe(stream, handler)
        assert caught.value.argument == "handler"
    assert stream not in await admin.stream_names()


async def test_durable_when_nobody_has_a_name_is_refused(connect: Connect, stream: str) -> None:
    conn = await connect(client=None)
    with pytest.raises(eda.ConfigError, match="name") as caught:
        conn.subscribe(stream, print, durable=True)
    assert caught.value.argument == "name"
    odd = await connect(client="odd client.name")
    with pytest.raises(eda.ConfigError, match=r"odd client\.name"):
        odd.subscribe(stream, print, durable=True)
    async with odd.subscribe(stream, print, durable=True, name="fine"):
        pass


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"types": ["a"]}, {"types": ["b"]}, r"\.a\.\*.*\.b\.\*"),
        ({"types": ["a"]}, {}, "nothing"),
        ({}, {"aggregate": "x"}, r"nothing.*\.\*\.x"),
        ({}, {"serial": True}, "it is a shared one.*ask for an ordered one"),
        ({"serial": True}, {}, "it is an ordered one.*ask for a shared one"),
        ({"serial": True, "types": ["a"]}, {"exclusive": True}, r"\.a\.\*.*nothing"),
    ],
    ids=str,
)
async def test_durable_when_what_is_kept_contradicts_is_refused_naming_it(
    conn: eda.Conn, stream: str, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    async with conn.subscribe(stream, print, name="me", durable=True, **first):
        pass
    with pytest.raises(eda.ConfigError, match=said) as caught:
        await conn.subscribe(stream, print, name="me", durable=True, **second)
    assert caught.value.argument == "name"
    assert "'me'" in str(caught.value)
    assert "reset=True" in str(caught.value)
    async with conn.subscribe(stream, print, name="me", durable=True, reset=True, **second):
        pass


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ack_policy": "none"}, "ack_policy"),
        ({"ack_policy": "all"}, "ack_policy"),
        ({"ack_policy": "explicit", "deliver_subject": "somewhere"}, "push"),
        ({"ack_policy": "explicit", "durable_name": None}, "durable=False"),
    ],
    ids=str,
)
async def test_durable_when_a_foreign_consumer_has_the_name_is_refused_naming_why(
    conn: eda.Conn, stream: str, admin: Admin, config: dict[str, Any], said: str
) -> None:
    await conn.publish(stream)
    wanted = {"durable_name": "me", "name": "me"} | config
    body = {"stream_name": stream, "config": {key: value for key, value in wanted.items() if value}}
    await admin.api(f"CONSUMER.CREATE.{stream}.me", body)
    with pytest.raises(eda.ConfigError, match=said):
        await conn.subscribe(stream, print, name="me", durable=True)


@pytest.mark.old_server
async def test_durable_when_a_foreign_consumer_fits_is_used_and_updated(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    await conn.publish(stream)
    config = {"durable_name": "me", "ack_policy": "explicit", "ack_wait": int(5e9), "max_deliver": 3}
    await admin.api(f"CONSUMER.CREATE.{stream}.me", {"stream_name": stream, "config": config | {"description": "kept"}})
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, name="me", durable=True):
        await until(lambda: seen)
    kept = (await admin.consumer(stream, "me"))["config"]
    assert (kept["ack_wait"], kept["max_deliver"], kept["description"]) == (int(30e9), -1, "kept")
    assert logged.find("max_deliver=3 .*ack_wait=5 s .30 s is needed.*that was changed")


@pytest.mark.parametrize("kind", [{}, {"serial": True}, {"exclusive": True}, {"key": "aggregate"}])
@pytest.mark.parametrize("other", [{}, {"name": "shop"}])
async def test_durable_when_a_second_one_without_name_would_share_its_position_is_refused(
    connect: Connect, stream: str, kind: dict[str, Any], other: dict[str, Any]
) -> None:
    conn = await connect(client="shop")
    await conn.publish(stream)
    first: list[int] = []
    async with conn.subscribe(stream, lambda event: first.append(event.sequence), durable=True, backfill=True, **kind):
        with pytest.raises(eda.ConfigError, match=r"'shop'.*give each of them name=") as caught:
            await conn.subscribe(stream, print, durable=True, **kind, **other)
        assert caught.value.argument == "name"
        await until(lambda: first)
        async with conn.subscribe(stream, print, durable=True, name="mine", **kind):  # one with a name of its own
            pass
    async with conn.subscribe(stream, print, durable=True, **kind):  # the first one is closed
        pass
    async with conn.subscribe(stream, print, durable=True, name="shop", **kind):
        with pytest.raises(eda.ConfigError, match="give each of them name="):
            await conn.subscribe(stream, print, durable=True, **kind)
        async with conn.subscribe(stream, print, durable=True, name="shop", **kind):  # a member, and meant as one
            pass


async def test_durable_when_two_streams_are_subscribed_to_without_name_is_two_positions(
    connect: Connect, stream: str
) -> None:
    conn = await connect(client="shop")
    other = f"{stream}-other"
    try:
        async with conn.subscribe(stream, print, durable=True), conn.subscribe(other, print, durable=True):
            pass
    finally:
        await conn.streams.delete(other)
