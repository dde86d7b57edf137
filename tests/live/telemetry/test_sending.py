"""The spans of all ways to publish, and the context that their events carry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode

import eda
from helpers import Connect
from support.telemetry.spans import Spans, attributes, entry_of, links, parent_of

T = eda.Event(type="t")
PACKED = eda.StreamOptions(packed=True)


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def stored(connect: Connect, stream: str, n: int) -> list[eda.Event]:
    """Return the events of the stream, read without middleware."""
    conn = await connect()
    async with conn.events(stream, backfill=True) as events:
        return [await anext(events) for _ in range(n)]


async def test_publish_when_traced_has_the_attributes_of_the_conventions(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(client="shop", middleware=spans.middleware())
    receipt = await conn.publish(stream, eda.Event(type="order-paid", cause="before"))
    span = await spans.one(f"send {stream}")
    assert span.kind is SpanKind.PRODUCER
    assert span.parent is None
    server, port = conn.server or ("", 0)
    assert attributes(span) == {
        "messaging.system": "nats",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
        "messaging.client.id": "shop",
        "messaging.message.id": receipt.id,
        "messaging.message.conversation_id": "before",
        "server.address": server,
        "server.port": port,
        "eda.event.type": "order-paid",
    }
    scope = span.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ("eda", "https://opentelemetry.io/schemas/1.44.0")
    (event,) = await stored(connect, stream, 1)
    assert event.meta == {"traceparent": entry_of(span)}


async def test_publish_when_a_span_is_current_is_its_child_and_leaves_it_current(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(middleware=spans.middleware())
    with spans.tracer.start_as_current_span("request") as request:
        await conn.publish(stream, T)
        assert trace.get_current_span() is request
    span = await spans.one(f"send {stream}")
    assert parent_of(span) == request.get_span_context().span_id


async def test_publish_when_it_fails_tells_the_error(connect: Connect, stream: str, spans: Spans) -> None:
    conn = await connect(middleware=spans.middleware(), auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await conn.publish(stream, T)
    span = await spans.one(f"send {stream}")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "eda.errors.StreamNotFound"


@pytest.mark.parametrize("pack", [None, eda.Pack()], ids=["plain", "packs"])
@pytest.mark.parametrize("mode", ["window", "fast"])
@pytest.mark.parametrize("way", ["send", "send_many"])
async def test_publisher_when_flushed_has_one_span_whose_context_its_events_carry(
    connect: Connect, stream: str, spans: Spans, way: str, mode: Any, pack: eda.Pack | None
) -> None:
    conn = await connect(middleware=spans.middleware())
    await conn.streams.create(stream, PACKED if pack else eda.StreamOptions())
    async with conn.publisher(stream, mode=mode, pack=pack) as publisher:
        for _ in range(2):
            if way == "send":
                ids = [await publisher.send(T) for _ in range(3)]
            else:
                ids = await publisher.send_many([T] * 3)
            assert len(set(ids)) == 3
            await publisher.flush()
        await publisher.flush()
    first, second = await spans.wait_for(f"send {stream}", 2)
    for span in (first, second):
        assert span.kind is SpanKind.PRODUCER
        assert attributes(span)["messaging.batch.message_count"] == 3
        assert "messaging.message.id" not in attributes(span)
    events = await stored(connect, stream, 6)
    assert [event.meta["traceparent"] for event in events] == [entry_of(first)] * 3 + [entry_of(second)] * 3


async def test_publisher_when_events_are_sent_in_other_traces_keeps_each_in_its_own(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(middleware=spans.middleware())
    async with conn.publisher(stream) as publisher:
        await publisher.send(T)
        with spans.tracer.start_as_current_span("one") as one:
            await publisher.send(T)
            await publisher.send(T)
        with spans.tracer.start_as_current_span("two") as two:
            await publisher.send(T)
    span = await spans.one(f"send {stream}")
    assert links(span) == [one.get_span_context().span_id, two.get_span_context().span_id]
    assert attributes(span)["messaging.batch.message_count"] == 4
    metas = [event.meta["traceparent"] for event in await stored(connect, stream, 4)]
    assert metas == [entry_of(span), entry_of(one), entry_of(one), entry_of(two)]


async def test_publisher_when_more_than_128_traces_send_counts_the_rest(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(middleware=spans.middleware())
    async with conn.publisher(stream) as publisher:
        await publisher.send(T)
        for _ in range(2):
            for number in range(130):
                parent = trace.SpanContext(7, number + 1, is_remote=False, trace_flags=trace.TraceFlags(1))
                token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
                await publisher.send(T)
                context.detach(token)
    span = await spans.one(f"send {stream}")
    assert links(span) == list(range(1, 129))
    assert attributes(span)["eda.links_left_out"] == 2


async def test_publisher_when_events_fail_tells_how_many(connect: Connect, stream: str, spans: Spans) -> None:
    failed: list[Any] = []
    conn = await connect(middleware=spans.middleware())
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    async with conn.publisher(stream, mode="window", on_error=lambda event, error: failed.append(event)) as publisher:
        for _ in range(3):
            await publisher.send(T)
    assert len(failed) == 2
    span = await spans.one(f"send {stream}")
    assert attributes(span)["eda.failed"] == 2
    with pytest.raises(eda.PublishFailed):
        async with conn.publisher(stream, mode="window") as publisher:
            await publisher.send(T)
    _, span = await spans.wait_for(f"send {stream}", 2)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "eda.errors.PublishFailed"
    assert attributes(span)["eda.failed"] == 1


async def test_publisher_when_closed_without_a_flush_has_its_span_end_with_the_connection(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(middleware=spans.middleware())
    with pytest.raises(asyncio.CancelledError):
        async with conn.publisher(stream) as publisher:
            await publisher.send(T)
            await asyncio.sleep(0.05)
            raise asyncio.CancelledError
    assert spans.all() == []
    await conn.close()
    await spans.one(f"send {stream}")


async def test_send_and_wait_when_traced_has_a_span_of_its_own(connect: Connect, stream: str, spans: Spans) -> None:
    conn = await connect(middleware=spans.middleware())
    async with conn.publisher(stream) as publisher:
        receipt = await publisher.send_and_wait(T)
    span = await spans.one(f"send {stream}")
    assert attributes(span)["messaging.message.id"] == receipt.id


async def test_publish_batch_when_traced_has_one_span(connect: Connect, stream: str, spans: Spans) -> None:
    conn = await connect(middleware=spans.middleware())
    await conn.publish_batch(stream, [T, T, T])
    span = await spans.one(f"send {stream}")
    assert attributes(span)["messaging.batch.message_count"] == 3
    assert {event.meta["traceparent"] for event in await stored(connect, stream, 3)} == {entry_of(span)}
    with pytest.raises(eda.EncodeError):
        await conn.publish_batch(stream, [T, eda.Event(type="t", data=eda.JSON(object()))])
    _, span = await spans.wait_for(f"send {stream}", 2)
    assert span.status.status_code is StatusCode.ERROR


async def test_store_when_traced_has_a_span_for_each_append(connect: Connect, stream: str, spans: Spans) -> None:
    conn = await connect(middleware=spans.middleware())
    decider: eda.Decider[int, int] = eda.Decider(
        lambda: 0, lambda state, _: state + 1, lambda state, n: [eda.Event(type="said")] * n, state=int
    )
    store = conn.store(stream, decider)
    with spans.tracer.start_as_current_span("request") as request:
        await store.append("a", [eda.Event(type="said")], expected=0)
        result = await store.execute("a", 2)
    assert (result.version, result.state) == (3, 3)
    first, second = await spans.wait_for(f"send {stream}", 2)
    assert [attributes(span)["messaging.batch.message_count"] for span in (first, second)] == [1, 2]
    assert {parent_of(span) for span in (first, second)} == {request.get_span_context().span_id}
    assert [event.meta["traceparent"] for event in await store.history("a")] == [
        entry_of(first),
        *[entry_of(second)] * 2,
    ]


WAYS = ["publish", "publish_batch", "send", "send_and_wait"]


async def publish(conn: eda.Conn, stream: str, way: str, event: eda.Event) -> None:
    if way == "publish":
        await conn.publish(stream, event)
    elif way == "publish_batch":
        await conn.publish_batch(stream, [event])
    else:
        async with conn.publisher(stream) as publisher:
            await (publisher.send(event) if way == "send" else publisher.send_and_wait(event))


@pytest.mark.parametrize("way", WAYS)
async def test_event_when_the_user_has_set_a_context_keeps_it(
    connect: Connect, stream: str, spans: Spans, way: str
) -> None:
    conn = await connect(middleware=spans.middleware())
    meta = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "acme"}
    await publish(conn, stream, way, eda.Event(type="t", meta=meta))
    (event,) = await stored(connect, stream, 1)
    assert event.meta == meta
    span = await spans.one(f"send {stream}")
    assert links(span) == ([] if way == "send" else [0xB7AD6B7169203331])


@pytest.mark.parametrize("way", WAYS)
async def test_event_when_it_has_other_metadata_keeps_them(
    connect: Connect, stream: str, spans: Spans, way: str
) -> None:
    conn = await connect(middleware=spans.middleware())
    await publish(conn, stream, way, eda.Event(type="t", meta={"tenant": "acme"}))
    (event,) = await stored(connect, stream, 1)
    assert event.meta == {"tenant": "acme", "traceparent": entry_of(await spans.one(f"send {stream}"))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_baggage", [False, True], ids=["without", "with"])
async def test_baggage_when_opted_in_goes_with_the_event(
    connect: Connect, stream: str, spans: Spans, way: str, with_baggage: bool
) -> None:
    conn = await connect(middleware=spans.middleware(baggage=with_baggage))
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    await publish(conn, stream, way, T)
    context.detach(token)
    (event,) = await stored(connect, stream, 1)
    assert event.meta.get("baggage") == ("tenant=acme" if with_baggage else None)
    assert "traceparent" in event.meta


async def test_two_connections_when_they_share_the_middleware_name_their_own_clients(
    connect: Connect, stream: str, spans: Spans
) -> None:
    middleware = spans.middleware()
    for client in ("one", "two"):
        await (await connect(client=client, middleware=middleware)).publish(stream, T)
    assert [attributes(span)["messaging.client.id"] for span in spans.all()] == ["one", "two"]
