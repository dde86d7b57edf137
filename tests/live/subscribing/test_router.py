"""A router as the handler of a subscription: its filter, every kind of subscription, batches, dead letters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import eda
from helpers import Admin, Connect, Logged, until


@eda.payload("live-paid", aliases=("live-payed",))
class Paid(msgspec.Struct, frozen=True):
    n: int


@eda.payload("live-shipped")
@dataclass(frozen=True)
class Shipped:
    n: int


TYPES = ("live-paid", "live-payed", "live-shipped")
SHARED: dict[str, Any] = {"name": "n", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "private": {"backfill": True},
    "private serial": {"backfill": True, "serial": True},
    "shared": {"name": "n", "backfill": True},
    "durable": SHARED,
    "concurrent": SHARED | {"concurrency": 4},
    "exclusive": SHARED | {"exclusive": True},
    "serial": SHARED | {"serial": True},
    "strict": SHARED | {"serial": "strict"},
    "key": SHARED | {"key": "aggregate", "concurrency": 4},
    "batch": SHARED | {"batch": 4},
    "exclusive batch": SHARED | {"exclusive": True, "batch": 4},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
soon = eda.Retry(initial_s=0.01)


def router_into(seen: list[Any], **options: Any) -> eda.Router:
    """Return a router whose handlers note payloads: an `async def` with the event, and a plain function."""
    router = eda.Router(**options)

    @router.on(Paid)
    async def paid(order: Paid, event: eda.Event) -> None:
        await asyncio.sleep(0)
        assert event.sequence > 0
        seen.append(order)

    @router.on
    def shipped(order: Shipped) -> None:
        seen.append(order)

    return router


async def publish(conn: eda.Conn, stream: str, *payloads: Any) -> None:
    """Publish payloads in order; a text stands for an event of that type without a class."""
    for n, each in enumerate(payloads):
        if isinstance(each, str):
            event = eda.Event(type=each, data=eda.JSON({"n": n}))
        elif isinstance(each, eda.Event):
            event = each
        else:
            event = eda.Event(data=each, aggregate=str(each.n % 2))
        await conn.publish(stream, event)


BROKEN = eda.Event(type="live-paid", data=eda.JSON({"n": "five"}))


async def dead(conn: eda.Conn, stream: str, n: int) -> list[eda.Event]:
    """Return the first `n` dead letters of a stream."""
    found: list[eda.Event] = []
    async with conn.subscribe(f"{stream}-dead", found.append, backfill=True):
        await until(lambda: len(found) >= n)
    return found


@pytest.fixture
async def dead_stream(stream: str, admin: Admin) -> AsyncIterator[str]:
    yield f"{stream}-dead"
    if f"{stream}-dead" in await admin.stream_names():
        await admin.js.delete_stream(f"{stream}-dead")


# --- every kind ------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@every_kind
async def test_router_when_subscribed_gets_only_events_of_its_types_decoded(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    seen: list[Any] = []
    alias = eda.Event(type="live-payed", data=eda.JSON({"n": 5}))
    await publish(conn, stream, Paid(1), "live-other", Shipped(2), "", Paid(3), "live-more", alias, Shipped(6))
    async with conn.subscribe(stream, router_into(seen), **options) as sub:
        assert sub.options.types == TYPES
        await until(lambda: len(seen) == 5)
        await publish(conn, stream, "live-other", Shipped(7))
        await until(lambda: len(seen) == 6)
        await until(lambda: sub.stats().handled == 6)
    assert Counter(seen) == Counter([Paid(1), Shipped(2), Paid(3), Paid(5), Shipped(6), Shipped(7)])
    if options.get("concurrency", 1) == 1:
        assert seen == [Paid(1), Shipped(2), Paid(3), Paid(5), Shipped(6), Shipped(7)]


@every_kind
async def test_router_when_a_handler_fails_has_the_event_delivered_again(
    conn: eda.Conn, stream: str, logged: Logged, options: dict[str, Any]
) -> None:
    logged.expect("handler failed")
    seen: list[Paid] = []
    attempts: Counter[int] = Counter()
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        attempts[order.n] += 1
        if order.n == 3 and attempts[3] < 3:
            raise OSError("down")
        seen.append(order)

    await publish(conn, stream, *(Paid(n) for n in range(1, 7)))
    async with conn.subscribe(stream, router, retry=soon, **options) as sub:
        await until(lambda: len(seen) == 6)
        await until(lambda: sub.stats().handled == 6)
    assert attempts == {1: 1, 2: 1, 3: 3, 4: 1, 5: 1, 6: 1}
    if options.get("serial"):
        assert [order.n for order in seen] == [1, 2, 3, 4, 5, 6]


@every_kind
async def test_router_when_data_does_not_fit_makes_it_a_dead_letter_at_once(
    conn: eda.Conn, stream: str, dead_stream: str, logged: Logged, options: dict[str, Any]
) -> None:
    logged.allow("")
    seen: list[Any] = []
    broken = BROKEN.replace(id="broken", meta={"a": "b"})
    await publish(conn, stream, Paid(1), broken, Paid(2))
    name = options if "name" in options else options | {"durable": True, "name": "n"}
    async with conn.subscribe(stream, router_into(seen), **name) as sub:
        await until(lambda: len(seen) == 2)
        await until(lambda: sub.stats().dead_lettered == 1)
        (letter,) = await dead(conn, stream, 1)
    assert letter.data.encode() == broken.data.encode()
    assert (letter.type, letter.meta) == ("live-paid", {"a": "b"})
    assert Counter(seen) == Counter([Paid(1), Paid(2)])


# --- the filter ------------------------------------------------------------------------------------------------------


async def test_router_when_durable_has_the_server_filter_its_types(conn: eda.Conn, stream: str, admin: Admin) -> None:
    async with conn.subscribe(stream, router_into([]), **SHARED):
        (consumer,) = await admin.consumers(stream)
        config = (await admin.consumer(stream, consumer))["config"]
    assert set(config["filter_subjects"]) == {stream, *(f"{stream}.{each}.*" for each in TYPES)}


async def test_router_when_unknown_is_raise_or_raw_has_no_filter(conn: eda.Conn, stream: str, admin: Admin) -> None:
    raw = router_into([], unknown="raw")
    raw.otherwise(lambda event: None)
    for n, router in enumerate((router_into([], unknown="raise"), raw)):
        async with conn.subscribe(stream, router, **SHARED | {"name": f"n{n}"}) as sub:
            assert sub.options.types is None
    for consumer in await admin.consumers(stream):
        config = (await admin.consumer(stream, consumer))["config"]
        assert not config.get("filter_subjects")
        assert not config.get("filter_subject")


@pytest.mark.parametrize("kind", [{}, {"exclusive": True}])
async def test_router_when_a_class_is_added_needs_on_filter_change(
    conn: eda.Conn, stream: str, logged: Logged, kind: dict[str, Any]
) -> None:
    logged.allow("")
    before: list[Any] = []
    first = eda.Router()
    first.on(Paid)(before.append)
    await publish(conn, stream, Paid(1), Shipped(2))
    async with conn.subscribe(stream, first, **SHARED, **kind):
        await until(lambda: before == [Paid(1)])
    seen: list[Any] = []
    with pytest.raises(eda.ConfigError, match="on_filter_change='from_here'"):
        await conn.subscribe(stream, router_into(seen), **SHARED, **kind)
    async with conn.subscribe(stream, router_into(seen), on_filter_change="from_here", **SHARED, **kind):
        await publish(conn, stream, Shipped(3), Paid(4))
        await until(lambda: seen[-2:] == [Shipped(3), Paid(4)])  # perhaps also Shipped(2), behind the position


async def test_router_when_types_are_given_gets_those(conn: eda.Conn, stream: str) -> None:
    seen: list[Any] = []
    await publish(conn, stream, Paid(1), Shipped(2), Paid(3))
    async with conn.subscribe(stream, router_into(seen), types=["live-shipped"], backfill=True) as sub:
        await until(lambda: seen == [Shipped(2)])
        assert sub.options.types == ("live-shipped",)
    with pytest.raises(eda.ConfigError, match="none of the types that the router handles"):
        conn.subscribe(stream, router_into(seen), eda.SubscriptionOptions(types=["other"]))


async def test_router_when_subscribed_several_times_works_for_each(connect: Connect, stream: str) -> None:
    one, two = await connect(), await connect()
    seen: list[Any] = []
    router = router_into(seen)
    async with one.subscribe(stream, router, backfill=True), two.subscribe(stream, router, backfill=True, batch=5):
        await publish(one, stream, Paid(1), Shipped(2))
        await until(lambda: len(seen) == 4)
    assert [(seen.count(each), each) for each in (Paid(1), Shipped(2))] == [(2, Paid(1)), (2, Shipped(2))]


@pytest.mark.parametrize("options", [SHARED, SHARED | {"exclusive": True}], ids=["shared", "exclusive"])
async def test_router_when_the_stream_is_a_mirror_filters_in_the_client(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    mirror = f"{stream}-mirror"
    await publish(conn, stream, "live-other", Paid(1), Shipped(2), "live-other", Paid(3))
    body = {"name": mirror, "mirror": {"name": stream}, "storage": "file"}
    await admin.api(f"STREAM.CREATE.{mirror}", body)
    try:
        seen: list[Any] = []
        async with conn.subscribe(mirror, router_into(seen), **options):
            await until(lambda: len(seen) == 3)
        assert seen == [Paid(1), Shipped(2), Paid(3)]
    finally:
        await admin.js.delete_stream(mirror)


async def test_router_when_the_stream_is_a_work_queue_leaves_other_types_to_others(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    subjects = [stream, f"{stream}.>"]
    body = {"name": stream, "subjects": subjects, "storage": "file", "retention": "workqueue"}
    await admin.api(f"STREAM.CREATE.{stream}", body)
    seen: list[Any] = []
    others: list[str] = []
    await publish(conn, stream, "live-other", Paid(1), Shipped(2))
    async with (
        conn.subscribe(stream, router_into(seen), **SHARED),
        conn.subscribe(stream, lambda event: others.append(event.type), types=["live-other"], **SHARED | {"name": "m"}),
    ):
        await until(lambda: len(seen) == 2 and len(others) == 1)
    assert (seen, others) == ([Paid(1), Shipped(2)], ["live-other"])


# --- types that the router does not know -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [{}, {"batch": 5}], ids=["single", "batch"])
@pytest.mark.parametrize(("unknown", "types"), [(None, ["live-paid", "live-other"]), ("raise", None)])
async def test_unknown_type_when_not_skipped_is_a_dead_letter(
    conn: eda.Conn, stream: str, dead_stream: str, logged: Logged, unknown: Any, types: Any, batch: dict[str, Any]
) -> None:
    logged.allow("")
    seen: list[Any] = []
    await publish(conn, stream, Paid(1), "live-other", Paid(2))
    async with conn.subscribe(stream, router_into(seen, unknown=unknown), types=types, **SHARED, **batch) as sub:
        await until(lambda: seen == [Paid(1), Paid(2)])
        await until(lambda: sub.stats().dead_lettered == 1)
        (letter,) = await dead(conn, stream, 1)
    assert letter.type == "live-other"


async def test_unknown_type_when_skipped_is_acknowledged(conn: eda.Conn, stream: str, admin: Admin) -> None:
    seen: list[Any] = []
    router = router_into(seen, unknown="skip")
    await publish(conn, stream, Paid(1), "live-other", Paid(2))
    async with conn.subscribe(stream, router, types=["live-paid", "live-other"], **SHARED) as sub:
        await until(lambda: sub.stats().handled == 3)
    assert seen == [Paid(1), Paid(2)]
    (consumer,) = await admin.consumers(stream)
    assert (await admin.consumer(stream, consumer))["num_ack_pending"] == 0


@pytest.mark.parametrize("batch", [{}, {"batch": 5}], ids=["single", "batch"])
async def test_unknown_type_when_raw_goes_to_the_other_handler_in_order(
    conn: eda.Conn, stream: str, batch: dict[str, Any]
) -> None:
    seen: list[Any] = []
    router = router_into(seen, unknown="raw")

    @router.otherwise
    async def others(event: eda.Event) -> None:
        seen.append(event.type)

    await publish(conn, stream, Paid(1), "live-other", Shipped(2), "", Paid(3))
    async with conn.subscribe(stream, router, backfill=True, **batch):
        await until(lambda: len(seen) == 5)
    assert seen == [Paid(1), "live-other", Shipped(2), "", Paid(3)]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"exclusive": True}], ids=["shared", "exclusive"])
async def test_batch_when_events_fail_only_they_are_retried_or_dead(
    conn: eda.Conn, stream: str, dead_stream: str, logged: Logged, kind: dict[str, Any]
) -> None:
    logged.allow("")
    attempts: Counter[int] = Counter()
    runs: list[list[int]] = []
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        attempts[order.n] += 1
        if order.n == 2 and attempts[2] == 1:
            raise OSError("down")
        if order.n == 3:
            raise eda.Reject("never")

    @router.on
    async def shipped(orders: list[Shipped], events: list[eda.Event]) -> None:
        runs.append([order.n for order in orders])
        attempts.update(runs[-1])
        if attempts[12] == 1 and 12 in runs[-1]:
            raise eda.PartialFailure({events[runs[-1].index(12)]: OSError("down")})

    events = [Paid(1), Paid(2), Paid(3), Shipped(11), Shipped(12), Shipped(13), BROKEN, Paid(4)]
    await publish(conn, stream, *events)
    async with conn.subscribe(stream, router, batch=8, linger_s=1.0, retry=soon, **SHARED, **kind) as sub:
        await until(lambda: sub.stats().handled == 6)
        await until(lambda: sub.stats().dead_lettered == 2)
        letters = await dead(conn, stream, 2)
    assert attempts == {1: 1, 2: 2, 3: 1, 4: 1, 11: 1, 12: 2, 13: 1}
    assert runs == [[11, 12, 13], [12]]
    assert sorted(letter.data.decode()["n"] for letter in letters if letter.data.decode()["n"] == 3) == [3]
    assert [letter.data.decode()["n"] for letter in letters if letter.data.decode()["n"] != 3] == ["five"]


async def test_batch_when_it_runs_too_long_is_handled_again(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.allow("")
    seen: list[int] = []
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        seen.append(order.n)
        if order.n == 2 and seen.count(2) == 1:
            await asyncio.sleep(60)

    await publish(conn, stream, Paid(1), Paid(2), Paid(3))
    options = SHARED | {"batch": 3, "linger_s": 1.0, "timeout_s": 0.2, "retry": soon}
    async with conn.subscribe(stream, router, **options) as sub:
        await until(lambda: sub.stats().handled == 3)
    assert seen == [1, 2, 1, 2, 3]


class Stamp(eda.Middleware):
    """Passes other events on than it gets, as one that decrypts does."""

    async def handle(self, event: eda.Event, call_next: Any) -> None:
        await call_next(event.replace(meta={"by": "stamp"}))

    async def handle_batch(self, events: list[eda.Event], call_next: Any) -> None:
        await call_next([event.replace(meta={"by": "stamp"}) for event in events])


@pytest.mark.parametrize("batch", [{}, {"batch": 4}], ids=["single", "batch"])
async def test_router_when_there_is_middleware_gets_what_it_passes_on(
    connect: Connect, stream: str, dead_stream: str, logged: Logged, batch: dict[str, Any]
) -> None:
    logged.allow("")
    conn = await connect(middleware=[Stamp()])
    attempts: Counter[int] = Counter()
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid, event: eda.Event) -> None:
        assert event.meta == {"by": "stamp"}
        attempts[order.n] += 1
        if order.n == 2 and attempts[2] == 1:
            raise OSError("down")

    await publish(conn, stream, Paid(1), Paid(2), "live-other", BROKEN, Paid(3))
    async with conn.subscribe(stream, router, retry=soon, **SHARED, **batch) as sub:
        assert sub.options.types == ("live-paid", "live-payed")
        await until(lambda: sub.stats().handled == 3)
        await until(lambda: sub.stats().dead_lettered == 1)
    assert attempts == {1: 1, 2: 2, 3: 1}


async def test_subscribe_when_a_router_can_not_work_is_refused_at_once(conn: eda.Conn, stream: str) -> None:
    router = eda.Router()

    @router.on
    def paid(orders: list[Paid]) -> None:
        """Handle."""

    for handler, match in [
        (router, "takes lists, so the subscription needs batch"),
        (eda.Router(), "has no handlers"),
        (eda.Router, "is the class eda.Router"),
        (eda.Router(unknown="raw"), "register one with @router.otherwise"),
    ]:
        with pytest.raises(eda.ConfigError, match=match):
            conn.subscribe(stream, handler)  # type: ignore[arg-type]
    async with conn.subscribe(stream, router, batch=5):
        pass
