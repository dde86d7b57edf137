"""Right and wrong uses of eda, which mypy and pyright read; nobody runs them.

`.ci/check_types.py` compares the lines in which they find errors with those marked `# error: …`. mypy's message must
have the words of the mark; pyright's may differ. No other line may have an error, also in pyright's strict mode.
"""

# pyright: strict, reportUnusedCoroutine=false, reportUnusedVariable=false

import functools
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Never, ParamSpec, TypeVar, assert_type

import attrs
import msgspec
import pydantic

import eda

P = ParamSpec("P")
R = TypeVar("R")


async def one(event: eda.Event) -> None: ...
async def many(events: list[eda.Event]) -> None: ...
async def text(event: str) -> None: ...
async def either(event: eda.Event | list[eda.Event]) -> None: ...
async def anything(event: Any) -> None: ...
async def nothing() -> None: ...
def plain(event: eda.Event) -> int: ...  # type: ignore[empty-body]
def plain_list(events: list[eda.Event]) -> None: ...
def blocking(event: eda.Event) -> bytes: ...  # type: ignore[empty-body]


def timed(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @functools.wraps(function)
    async def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        return await function(*args, **kwargs)

    return inner


async def stored(database: str, event: eda.Event) -> None: ...
async def with_default(event: eda.Event, database: str = "") -> None: ...


class Handler:
    async def __call__(self, event: eda.Event) -> None: ...
    def plain(self, event: eda.Event) -> None: ...
    def of_batch(self, events: list[eda.Event]) -> object: ...


OPTIONS = eda.SubscriptionOptions(durable=True, name="billing")
NOW = datetime.now(UTC)


def handlers(conn: eda.Conn, options: eda.SubscriptionOptions | None, batch: int | None) -> None:
    conn.subscribe("orders", one)
    conn.subscribe("orders", plain)
    conn.subscribe("orders", Handler())
    conn.subscribe("orders", lambda event: print(event.type))
    conn.subscribe("orders", eda.threaded(blocking, workers=3), concurrency=3)
    conn.subscribe("orders", many, batch=100)
    conn.subscribe("orders", plain_list, batch=100, linger_s=0.1)
    conn.subscribe("orders", Handler().of_batch, batch=100)
    conn.subscribe("orders", lambda events: print(events[0].type), batch=100)
    conn.subscribe("orders", eda.threaded(plain_list), batch=100)
    conn.subscribe("orders", timed(one))
    conn.subscribe("orders", timed(many), batch=100)
    conn.subscribe("orders", functools.partial(stored, "db"))
    conn.subscribe("orders", with_default)
    conn.subscribe("orders", lambda event: one(event))
    conn.subscribe("orders", eda.threaded(Handler().plain))
    conn.subscribe("orders", either)
    conn.subscribe("orders", either, batch=100)
    conn.subscribe("orders", anything, batch=batch)
    conn.subscribe("orders", one, OPTIONS)
    conn.subscribe("orders", many, OPTIONS)
    conn.subscribe("orders", many, OPTIONS, batch=100)
    conn.subscribe("orders", one, options)
    conn.subscribe("orders", one, options=OPTIONS, concurrency=2)

    conn.subscribe("orders", many)  # error: Argument 2
    conn.subscribe("orders", timed(many))  # error: Argument 1 to "timed"
    conn.subscribe("orders", stored)  # error: Argument 2
    conn.subscribe("orders", Handler)  # error: Argument 2
    conn.subscribe("orders", one, batch=100)  # error: Argument 2
    conn.subscribe("orders", plain, batch=100)  # error: Argument 2
    conn.subscribe("orders", plain_list)  # error: Argument 2
    conn.subscribe("orders", Handler().of_batch)  # error: Argument 2
    conn.subscribe("orders", Handler(), batch=100)  # error: Argument 2
    conn.subscribe("orders", eda.threaded(plain_list))  # error: threaded
    conn.subscribe("orders", eda.threaded(blocking), batch=100)  # error: threaded
    conn.subscribe("orders", text)  # error: Argument 2
    conn.subscribe("orders", nothing)  # error: Argument 2
    conn.subscribe("orders", "one")  # error: No overload
    conn.subscribe("orders", one, OPTIONS, batch=100)  # error: Argument 2
    conn.subscribe("orders")  # error: No overload


def options_of_subscribe(conn: eda.Conn) -> None:
    conn.subscribe(
        "orders", one, name="billing", backfill=True, durable=True, reset=False, serial="strict", timeout_s=5,
        types=["order-paid"], aggregate="4711", on_filter_change="from_here", prefetch=10, prefetch_bytes=2**20,
        circuit=None, retry=eda.Retry(max_attempts=5), dead_letter=None,
    )  # fmt: skip
    conn.subscribe("orders", one, key="aggregate", concurrency=4, exclusive=True)
    conn.subscribe("orders", one, key=lambda event: event.meta["tenant"], lease_s=1.5)
    conn.subscribe("orders", one, start=NOW)
    conn.subscribe("orders", one, start=5)
    keywords: eda.SubscribeKeywords = {"durable": True, "name": "billing"}
    conn.subscribe("orders", one, **keywords)
    of_batch: eda.SubscribeBatchKeywords = {"batch": 100}
    conn.subscribe("orders", many, **of_batch)
    conn.subscribe("orders", many, batch=100, serial=True)
    conn.subscribe("orders", many, batch=100, serial="strict")

    conn.subscribe("orders", one, durabel=True)  # error: did you mean "durable"?
    conn.subscribe("orders", one, OPTIONS, durabel=True)  # error: did you mean "durable"?
    conn.subscribe("orders", many, batch=100, durabel=True)  # error: did you mean "durable"?
    conn.subscribe("orders", one, durable="yes")  # error: No overload
    conn.subscribe("orders", one, concurrency="4")  # error: No overload
    conn.subscribe("orders", one, batch=True)  # error: Argument 2
    conn.subscribe("orders", many, batch="100")  # error: No overload
    conn.subscribe("orders", many, batch=100, key="aggregate")  # error: No overload
    conn.subscribe("orders", one, serial="very")  # error: No overload
    conn.subscribe("orders", one, key="agregate")  # error: No overload
    conn.subscribe("orders", one, key=lambda event: [event.aggregat])  # error: aggregat
    conn.subscribe("orders", one, start="yesterday")  # error: No overload
    conn.subscribe("orders", one, types=1)  # error: No overload
    conn.subscribe("orders", one, on_filter_change="ignore")  # error: No overload
    conn.subscribe("orders", one, retry=5)  # error: No overload
    conn.subscribe("orders", one, timeout_s=None)  # error: No overload
    conn.subscribe("orders", one, lease_s="30")  # error: No overload
    conn.subscribe(b"orders", one)  # error: No overload
    keywords = {"durabel": True}  # error: durabel
    of_batch = {"durable": True}  # error: batch
    eda.SubscriptionOptions(durabel=True)  # error: durabel
    eda.SubscriptionOptions(concurrency="4")  # error: concurrency
    eda.Retry(max_attempt=5)  # error: max_attempt
    eda.StreamOptions(storage="disk")  # error: storage


async def events(conn: eda.Conn, options: eda.SubscriptionOptions | None) -> AsyncIterator[eda.Event]:
    assert_type(conn.events("orders"), eda.Events[eda.Event])
    assert_type(conn.events("orders", durable=True, serial=True), eda.Events[eda.Event])
    assert_type(conn.events("orders", batch=100), eda.Events[list[eda.Event]])
    assert_type(conn.events("orders", OPTIONS, batch=100), eda.Events[list[eda.Event]])
    assert_type(conn.events("orders", OPTIONS), eda.Events[Any])
    async for event in conn.events("orders", backfill=True):
        assert_type(event, eda.Event)
        yield event
    async with conn.events("orders", batch=100) as batches:
        async for batch in batches:
            assert_type(batch, list[eda.Event])
    opened = await conn.events("orders")
    assert_type(await anext(opened), eda.Event)
    assert_type(opened.subscription, eda.Subscription)
    conn.events("orders", options)

    conn.events("orders", durabel=True)  # error: did you mean "durable"?
    conn.events("orders", concurrency=4)  # error: concurrency
    conn.events("orders", backfill=1)  # error: No overload
    conn.events("orders", batch="100")  # error: No overload
    conn.events("orders", batch=100, key="aggregate")  # error: No overload
    conn.events("orders", one)  # error: No overload
    async for each in conn.events("orders", batch=100):
        print(each.type)  # error: type
    async for each_event in conn.events("orders"):
        print(each_event[0])  # error: index


async def publishing(conn: eda.Conn, event: eda.Event) -> None:
    assert_type(await conn.publish("orders", event), eda.Receipt)
    assert_type(await conn.publish_batch("orders", [event]), list[eda.Receipt])
    mode: eda.Mode = "fast"
    async with conn.publisher("orders", mode=mode, dedup=False, max_pending=10, on_ack=print) as publisher:
        assert_type(publisher, eda.Publisher)
    pack = eda.Pack(max_events=64, max_bytes=4096, linger_s=0, compression="zstd")
    async with conn.publisher("orders", pack=pack, max_pending=None) as publisher:
        assert_type(publisher.stats().packs, int)
    conn.publisher("orders", ack_timeout_s=1, timeout_s=None, on_error=lambda event, error: print(event.id, error.args))

    await conn.publish("orders", [event])  # error: Argument 2
    await conn.publish("orders", event, timeout=3)  # error: timeout
    await conn.publish("orders", event, timeout_s="3")  # error: timeout_s
    await conn.publish_batch("orders", event)  # error: Argument 2
    conn.publisher("orders", mode="quick")  # error: mode
    conn.publisher("orders", pack=128)  # error: pack
    eda.Pack(compression="gzip")  # error: compression
    conn.publisher("orders", dedupe=False)  # error: did you mean "dedup"?
    conn.publisher("orders", max_pending="10")  # error: max_pending
    conn.publisher("orders", timeout_s="3")  # error: timeout_s
    conn.publisher("orders", on_ack=lambda event_id: None)  # error: on_ack
    conn.publisher("orders", on_error=True)  # error: on_error


async def connecting() -> None:
    conn = await eda.connect(["nats://a", "nats://b"], client="billing", logger=logging.getLogger(), on_state=print)
    assert_type(conn, eda.Conn)
    assert_type(conn.streams, eda.Streams)
    assert_type(conn.state, eda.ConnState)
    states: list[str] = []
    eda.connect(on_state=states.append)
    await conn.streams.create("orders", eda.StreamOptions(replicas=3))
    await conn.streams.create("readings", eda.StreamOptions(packed=True))
    await conn.streams.update("readings", packed=True, max_bytes=10**9)
    assert_type(await conn.streams.update("orders", max_age_s=3600, compression="s2"), eda.StreamInfo)
    await conn.streams.update("orders", eda.StreamOptions(replicas=3))
    await eda.connect("embedded:", stream_defaults=eda.StreamOptions(), auto_create=False, connect_timeout_s=1)

    eda.connect("nats://a", nkeys="a.nk")  # error: did you mean "nkey"?
    eda.connect(client=5)  # error: client
    eda.connect(logger="eda")  # error: logger
    eda.connect(auto_create="no")  # error: auto_create
    eda.connect(connect_timeout_s="5")  # error: connect_timeout_s
    eda.connect(tls=True)  # error: tls
    eda.connect(credentials=b"a.creds")  # error: credentials
    eda.connect(stream_defaults={"replicas": 3})  # error: stream_defaults
    await conn.streams.update("orders", max_age=3600)  # error: max_age
    await conn.streams.update("orders", max_age_s="1h")  # error: No overload
    await conn.streams.update("orders", eda.StreamOptions(), replicas=3)  # error: No overload
    conn.state = "closed"  # error: read-only
    eda.connect(on_state=[5].append)  # error: on_state
    eda.connect(on_state=lambda: None)  # error: on_state
    eda.connect("nats://a", None, None, logging.getLogger())  # error: positional


@eda.payload("order-paid", schema="2", aliases=["payment-made"])
@dataclass
class Order:
    amount: int


@eda.payload("order-sent")
class OrderSent(msgspec.Struct, rename="camel"):
    amount: int


@eda.payload("order-lost")
class OrderLost(pydantic.BaseModel):
    amount: int


@eda.payload("order-found")
@attrs.define
class OrderFound:
    amount: int


def classes_stay_what_they_are() -> None:
    assert_type(Order(30), Order)
    assert_type(OrderSent(30).amount, int)
    assert_type(OrderLost(amount=30).amount, int)
    assert_type(OrderFound(30).amount, int)
    eda.Router().on(OrderSent | OrderLost)

    Order("30")  # error: Argument 1
    OrderSent("30")  # error: Argument 1
    OrderLost(amount="a")  # error: amount
    OrderFound("30")  # error: Argument 1
    print(Order(30).amuont)  # error: amuont
    eda.payload("order")(one)  # error: type variable


@eda.upcast("order-paid", "1", "2")
def from_1(data: dict[str, Any]) -> dict[str, Any]:
    return {"amount": data["cents"] // 100}


def payloads(conn: eda.Conn) -> None:
    router = eda.Router(unknown="raw")

    @router.on(Order)
    async def paid(order: Order, event: eda.Event) -> None: ...

    @router.on
    def also_paid(order: Order) -> None: ...

    @router.otherwise
    async def other(event: eda.Event) -> None: ...

    assert_type(router.types, tuple[str, ...])
    conn.subscribe("orders", router, durable=True)
    conn.subscribe("orders", router, batch=100)
    conn.subscribe("orders", router, OPTIONS)
    eda.Event(data=Order(30), aggregate="4711").replace(data=Order(31))

    eda.Router(unknown="pass")  # error: unknown
    router.on(Order)(5)  # error: Value of type variable
    eda.payload("order-paid", shema="2")  # error: shema
    eda.payload("order-paid", aliases=5)  # error: aliases
    eda.payload(Order)  # error: payload
    eda.upcast("order-paid", "1")  # error: upcast


def of_events(event: eda.Event) -> None:
    assert_type(event.data, eda.Data)
    assert_type(event.data.decode(into=Order), Order)
    assert_type(event.time, datetime | None)
    assert_type(event.replace(type="order-paid"), eda.Event)
    assert_type(event.data.encode(), bytes)
    eda.Event(type="order-paid", data=eda.JSON({"amount": 30}), time=NOW, cause=event.id, meta={"tenant": "a"})
    eda.Event(data=eda.Data("avro", b""), cause=eda.Receipt("a", "orders", 1, 0, False))

    eda.Event("order-paid")  # error: positional
    eda.Event(tpye="order-paid")  # error: tpye
    eda.Event(type=5)  # error: type
    eda.Event(time="now")  # error: time
    eda.Event(meta={"tenant": 5})  # error: Dict entry
    event.replace(tpye="order-paid")  # error: tpye
    event.replace(time="now")  # error: time
    event.type = "order-paid"  # error: read-only
    event.data.type = "json"  # error: read-only
    eda.String(b"text")  # error: String
    eda.Bytes("text")  # error: Bytes
    eda.threaded(blocking, worker=3)  # error: worker
    eda.conect()  # error: conect


class Audit(eda.Middleware):
    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> object:
        assert_type(call_next.publisher, eda.Publisher | None)
        assert_type(await call_next(event.replace(client="audit")), eda.Receipt | str)
        return None

    async def flush(self, publisher: eda.Publisher, call_next: eda.FlushNext) -> None:
        await call_next()

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        assert_type(call_next.subscription, eda.Subscription)
        await call_next(event)

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        await call_next(events[:1])
        await call_next(events[0])  # error: HandleBatchNext


class Returning(eda.Middleware):
    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> eda.Receipt | str:
        return await call_next(event)


class OwnNames(eda.Middleware):
    async def publish(self, paid: eda.Event, publish: eda.PublishNext) -> object:
        return await publish(paid)

    async def handle(self, paid: eda.Event, run: eda.HandleNext) -> None:
        await run(paid)


class Wrong(eda.Middleware):
    async def publish(self, event: eda.Event) -> object: ...  # error: incompatible with supertype
    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await call_next([event])  # error: Argument 1
        print(call_next.publisher)  # error: publisher


async def with_middleware() -> None:
    await eda.connect(middleware=[Audit()])
    await eda.connect(middleware=(Audit(), Returning()))

    eda.connect(middleware=Audit())  # error: middleware
    eda.connect(middleware=[Audit])  # error: List item 0


@eda.payload("placed")
@dataclass
class Placed:
    amount: int


@eda.payload("paid")
@dataclass
class Paid:
    amount: int


@dataclass(frozen=True)
class Cart:
    due: int = 0

    def after(self, event: Placed | Paid) -> "Cart":
        return self


@dataclass
class Pay:
    amount: int


def evolve(state: Cart, event: Placed | Paid) -> Cart:
    return state


def evolve_event(state: Cart, event: eda.Event) -> Cart:
    return state


def evolve_either(state: Cart, event: Placed | eda.Event) -> Cart:
    return state


def evolve_optional(state: Cart | None, event: Placed | Paid) -> Cart:
    return state or Cart()


def evolve_dict(state: dict[str, int], event: eda.Event) -> dict[str, int]:
    return state


def evolve_nothing(state: Cart) -> Cart:
    return state


def decide(state: Cart, command: Pay | str) -> list[Placed | Paid]:
    return [Paid(5)]


async def decide_later(state: Cart, command: Pay) -> eda.Event | None:
    return None


def deciders() -> None:
    assert_type(eda.Decider(Cart(), evolve, decide), eda.Decider[Cart, Pay | str])
    assert_type(eda.Decider(Cart, evolve, decide), eda.Decider[Cart, Pay | str])
    assert_type(eda.Decider(lambda: Cart(5), evolve_event, decide_later), eda.Decider[Cart, Pay])
    assert_type(eda.Decider(Cart(), Cart.after, decide_later, types=[Placed, "paid"]), eda.Decider[Cart, Pay])
    assert_type(eda.Decider(Cart(), evolve_either, snapshot_version="2", state=Cart), eda.Decider[Cart, Never])
    assert_type(eda.Decider(None, evolve_optional), eda.Decider[Cart | None, Never])
    assert_type(eda.Decider(dict[str, int], evolve_dict), eda.Decider[dict[str, int], Never])
    assert_type(eda.Decider({"a": 1}, evolve_dict, state=dict[str, int]), eda.Decider[dict[str, int], Never])
    written: eda.Decider[Cart, Pay] = eda.Decider(Cart(), evolve, decide_later)
    written = eda.Decider(Cart(), evolve)  # error: Incompatible types in assignment

    assert_type(written.new_state(), Cart)
    assert_type(written.fold(Cart(), []), Cart)
    written.fold(5, [])  # error: Argument 1
    written.types = ("a",)  # error: read-only
    eda.Decider()  # error: overload
    eda.Decider(Cart())  # error: overload
    eda.Decider(5, evolve)  # error: Decider
    eda.Decider(Cart(), evolve_nothing)  # error: Decider
    eda.Decider(Cart(), evolve, evolve_nothing)  # error: Argument 3
    eda.Decider(Cart(), evolve, decide, types="paid", state=Cart)
    eda.Decider(Cart(), evolve, decide, types=[5])  # error: List item 0
    eda.Decider(Cart(), evolve, snapshot_version=2)  # error: overload
    eda.Decider(Cart(), evolve, initial=5)  # error: overload


def results(loaded: eda.Loaded[Cart], appended: eda.Appended[Cart]) -> None:
    assert_type(loaded.state, Cart)
    assert_type(loaded.events, list[eda.Event])
    assert_type(loaded.position, tuple[str, int, int])
    assert_type(appended.receipt, eda.Receipt | None)
    assert_type(appended.state, Cart)
    loaded.version = 5  # error: read-only


async def event_store(conn: eda.Conn) -> None:
    store = conn.store("orders", eda.Decider(Cart(), evolve, decide_later, state=Cart), snapshot_every=100, cache=10)
    assert_type(store, eda.EventStore[Cart, Pay])
    loaded = await store.load("4711")
    assert_type(loaded, eda.Loaded[Cart])
    appended = await store.execute("4711", Pay(5), command_id="request-81")
    assert_type(appended, eda.Appended[Cart])
    await store.append("4711", [Placed(5), eda.Event(type="paid")], expected=loaded)
    await store.append("4711", [Placed(5)], expected="new", command_id="request-82")
    await store.append("4711", [Placed(5)], expected=appended.version)
    assert_type(await store.history("4711", after=3), list[eda.Event])
    async for name in store.aggregates():
        assert_type(name, str)
    await store.forget("4711")
    async with conn.store("orders") as plain:
        assert_type(plain, eda.EventStore[None, Never])
        assert_type((await plain.load("4711")).state, None)

    await store.execute("4711", "pay")  # error: Argument 2
    await plain.execute("4711", Pay(5))  # error: Argument 2
    await store.append("4711", [Placed(5)])  # error: expected
    await store.append("4711", [Placed(5)], expected="old")  # error: expected
    conn.store("orders", decide_later)  # error: No overload
    conn.store("orders", snapshot_every=5)  # error: No overload


def prepare(connection: sqlite3.Connection) -> None: ...


async def databases(sink: eda.sql.Sink) -> None:
    database = eda.sql.SQLite("read.db", timeout_s=2.5, on_connect=prepare)
    assert_type(database, eda.sql.SQLite)
    assert_type(database.max_lanes, int | None)
    assert_type(await sink.rows("orders", 1, "orders"), list[eda.sql.PositionRow])
    assert_type(await sink.versions(), list[eda.sql.ViewVersion])
    assert_type(await sink.current("orders"), int | None)
    sinks: list[eda.sql.Sink] = [database, eda.sql.from_url("sqlite:///read.db")]
    assert_type(sinks[0].label, str)

    eda.sql.SQLite(5)  # error: Argument 1
    eda.sql.SQLite("read.db", timeout_s="2")  # error: timeout_s
    eda.sql.SQLAlchemy("sqlite:///read.db")  # error: Argument 1
    eda.sql.MySQL("orders")  # error: attribute


def apply_all(events: list[eda.Event], tx: sqlite3.Connection) -> None: ...


async def apply_one(event: eda.Event, tx: object) -> None: ...


async def projections(conn: eda.Conn, router: eda.Router, receipt: eda.Receipt) -> None:
    into = eda.sql.SQLite("read.db")
    async with conn.projection("orders", apply_all, into=into, name="orders", types=["paid"], version=2) as projection:
        assert_type(projection, eda.Projection)
        await projection.wait_for(receipt, timeout_s=2)
        await projection.wait_for(receipt.position)
    await conn.projection(["orders", "payments"], apply_one, into=into, name="orders", batch=None)
    await conn.projection("orders", router, into=into, name="orders", key=lambda event: event.client, lanes=4)

    conn.projection("orders", apply_all, into=into)  # error: No overload
    conn.projection("orders", apply_all, into=into, name="orders", batch=None)  # error: Argument 2
    conn.projection("orders", apply_one, into=into, name="orders")  # error: Argument 2


def tests_of_deciders() -> None:
    decider = eda.Decider(Cart(), evolve, decide_later)
    assert_type(eda.testing.given(decider), eda.testing.Given[Cart, Pay])
    decision = eda.testing.given(decider, [Placed(5), eda.Event(type="paid")], aggregate="4711").when(Pay(5))
    assert_type(decision, eda.testing.Decision[Cart])
    decision.then([Paid(5)]).then_state(Cart())
    decision.then_nothing()
    decision.then_raises(ValueError, match="too much").then_raises((KeyError, ValueError)).then_raises(ValueError("no"))
    eda.testing.given(decider).then_state(Cart(5)).when(Pay(1))

    eda.testing.given(decider).when("pay")  # error: Argument 1
    eda.testing.given(eda.Decider(Cart(), evolve)).when(Pay(5))  # error: Argument 1
    eda.testing.given(evolve)  # error: Argument 1
    decision.then_state(5)  # error: Argument 1
    decision.then_raises("ValueError")  # error: Argument 1
    eda.testing.give(decider)  # error: give
