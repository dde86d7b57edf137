"""The spans of handlers: of every kind of subscription, and of projections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

import eda
from helpers import Admin, Connect, Logged, until
from support.projections.memory_sink import MemorySink
from support.telemetry.spans import Spans, attributes, entry_of, links, notes, parent_of

T = eda.Event(type="t")
SOON = eda.Retry(initial_s=0.01, factor=1.0, max_attempts=2)
FAILURE = "handler failed"
KINDS: dict[str, dict[str, Any]] = {
    "shared": {},
    "serial": {"serial": True, "durable": True},
    "strict": {"serial": "strict", "durable": True},
    "key": {"key": lambda event: event.type, "durable": True, "concurrency": 4},
    "exclusive": {"exclusive": True, "durable": True},
    "private": {},
}


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize("kind", KINDS)
async def test_handler_when_it_runs_is_in_the_trace_of_the_publish_and_so_is_what_it_publishes(
    connect: Connect, stream: str, spans: Spans, kind: str, is_plain: bool
) -> None:
    conn = await connect(client="shop", middleware=spans.middleware())
    current: list[trace.Span] = []
    tasks: list[asyncio.Task[Any]] = []

    async def handle(event: eda.Event) -> None:
        current.append(trace.get_current_span())
        await asyncio.sleep(0)
        await conn.publish(f"{stream}-dead", eda.Event(type="answer", cause=event.id))

    def handle_plainly(event: eda.Event) -> None:
        current.append(trace.get_current_span())
        tasks.append(asyncio.get_running_loop().create_task(conn.publish(f"{stream}-dead", T)))

    receipt = await conn.publish(stream, eda.Event(type="order-paid", cause="before"))
    options = {**KINDS[kind], **({} if kind == "private" else {"name": "billing"})}
    async with conn.subscribe(stream, handle_plainly if is_plain else handle, backfill=True, **options):
        await spans.one(f"send {stream}-dead")
        process = await spans.one(f"process {stream}")
    send, answer = await spans.one(f"send {stream}"), await spans.one(f"send {stream}-dead")
    assert process.kind is SpanKind.CONSUMER
    assert parent_of(process) == send.context.span_id
    assert links(process) == [send.context.span_id]
    assert parent_of(answer) == process.context.span_id
    assert {span.context.trace_id for span in (send, process, answer)} == {send.context.trace_id}
    assert [span.get_span_context() for span in current] == [process.context]
    assert trace.get_current_span() is trace.INVALID_SPAN
    server, port = conn.server or ("", 0)
    group = {} if kind == "private" else {"messaging.consumer.group.name": "billing"}
    assert attributes(process) == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": stream,
        "messaging.client.id": "shop",
        "messaging.message.id": receipt.id,
        "messaging.message.conversation_id": "before",
        "server.address": server,
        "server.port": port,
        "eda.event.type": "order-paid",
        "eda.event.place": "1",
        "eda.attempt": 1,
        **group,
    }
    await asyncio.gather(*tasks)


async def test_handler_when_events_are_of_a_pack_names_their_places(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn = await connect(middleware=spans.middleware())
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    async with conn.publisher(stream, pack=eda.Pack()) as publisher:
        await publisher.send_many([T] * 3)
    async with conn.subscribe(stream, lambda event: None, backfill=True):
        processed = await spans.wait_for(f"process {stream}", 3)
    send = await spans.one(f"send {stream}")
    assert [attributes(span)["eda.event.place"] for span in processed] == ["1.0", "1.1", "1.2"]
    assert {parent_of(span) for span in processed} == {send.context.span_id}


async def test_event_when_it_has_no_context_begins_a_trace(connect: Connect, stream: str, spans: Spans) -> None:
    plain, conn = await connect(), await connect(middleware=spans.middleware())
    await plain.publish(stream, T)
    await plain.publish(stream, eda.Event(type="t", meta={"traceparent": "nonsense"}))
    with spans.tracer.start_as_current_span("main"):  # not the parent: it has nothing to do with the events
        async with conn.subscribe(stream, lambda event: None, backfill=True):
            processed = await spans.wait_for(f"process {stream}", 2)
    assert [(span.parent, links(span)) for span in processed] == [(None, [])] * 2
    assert len({span.context.trace_id for span in processed}) == 2


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"serial": True}], ids=["shared", "serial"])
async def test_batch_when_handled_has_one_span_with_a_link_to_each_context(
    connect: Connect, stream: str, spans: Spans, options: Any
) -> None:
    conn = await connect(middleware=spans.middleware())
    receipts = [await conn.publish(stream, T) for _ in range(3)]
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([T] * 2)
    sent = await spans.wait_for(f"send {stream}", 4)
    current: list[trace.Span] = []

    async def handle(events: list[eda.Event]) -> None:
        current.append(trace.get_current_span())

    async with conn.subscribe(stream, handle, batch=5, linger_s=1, backfill=True, **options):
        span = await spans.one(f"process {stream}")
    assert span.parent is None
    assert links(span) == [each.context.span_id for each in sent]
    assert attributes(span)["messaging.batch.message_count"] == 5
    assert "messaging.message.id" not in attributes(span)
    assert [each.get_span_context() for each in current] == [span.context]
    assert len(receipts) == 3


async def test_batch_when_it_has_more_than_128_contexts_counts_the_rest(
    connect: Connect, stream: str, spans: Spans
) -> None:
    plain, conn = await connect(), await connect(middleware=spans.middleware())
    async with plain.publisher(stream) as publisher:
        for number in range(150):
            meta = {"traceparent": f"00-{7:032x}-{number % 140 + 1:016x}-01"}
            await publisher.send(eda.Event(type="t", meta=meta))

    async def handle(events: list[eda.Event]) -> None: ...

    async with conn.subscribe(stream, handle, batch=150, linger_s=1, backfill=True):
        span = await spans.one(f"process {stream}")
    assert links(span) == list(range(1, 129))
    assert attributes(span)["eda.links_left_out"] == 12


async def test_handler_when_the_text_of_its_error_fails_has_its_outcome_and_a_span(
    connect: Connect, stream: str, spans: Spans, logged: Logged
) -> None:
    class Unprintable(eda.Reject):
        def __str__(self) -> str:
            raise LookupError("no text")

    async def handle(event: eda.Event) -> None:
        raise Unprintable("wrong")

    logged.expect("handler rejected")
    conn = await connect(middleware=spans.middleware())
    await conn.publish(stream, T)
    async with conn.subscribe(stream, handle, backfill=True, retry=SOON) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
    span = await spans.one(f"process {stream}")
    assert attributes(span)["error.type"].endswith("Unprintable")
    assert [name for name, _ in notes(span)] == ["eda.dead_letter"]


async def test_batch_when_some_of_its_events_fail_notes_each(
    connect: Connect, stream: str, spans: Spans, logged: Logged
) -> None:
    logged.expect(FAILURE)
    logged.expect("handler rejected")
    conn = await connect(middleware=spans.middleware())
    receipts = [await conn.publish(stream, T) for _ in range(3)]

    async def handle(events: list[eda.Event]) -> None:
        if len(events) == 3:
            raise eda.PartialFailure({events[0]: eda.Reject("wrong"), events[2]: ValueError("no")})

    async with conn.subscribe(stream, handle, batch=3, linger_s=1, backfill=True, retry=SOON):
        first, second = await spans.wait_for(f"process {stream}", 2)
    assert attributes(first)["error.type"] == "eda.handlers.PartialFailure"
    assert attributes(first)["eda.failed"] == 2
    assert notes(first) == [
        (
            "eda.dead_letter",
            {
                "eda.attempt": 1,
                "error.type": "eda.handlers.Reject",
                "messaging.message.id": receipts[0].id,
                "eda.event.place": "1",
            },
        ),
        (
            "eda.retry",
            {
                "eda.attempt": 1,
                "error.type": "ValueError",
                "eda.delay_s": 0.01,
                "messaging.message.id": receipts[2].id,
                "eda.event.place": "3",
            },
        ),
    ]
    assert (second.status.status_code, attributes(second)["messaging.batch.message_count"]) == (StatusCode.UNSET, 1)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "plain"])
async def test_handler_when_it_fails_has_a_span_for_each_attempt_that_tells_what_follows(
    connect: Connect, stream: str, spans: Spans, logged: Logged, is_plain: bool
) -> None:
    logged.expect(FAILURE)
    conn = await connect(middleware=spans.middleware())

    async def handle(event: eda.Event) -> None:
        raise LookupError("no such order")

    def handle_plainly(event: eda.Event) -> None:
        raise LookupError("no such order")

    await conn.publish(stream, T)
    async with conn.subscribe(stream, handle_plainly if is_plain else handle, backfill=True, retry=SOON):
        first, second = await spans.wait_for(f"process {stream}", 2)
    for number, span in enumerate((first, second), 1):
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no such order")
        assert attributes(span)["error.type"] == "LookupError"
        assert attributes(span)["eda.attempt"] == number
        assert [event.name for event in span.events].count("exception") == 1
    assert notes(first) == [("eda.retry", {"eda.attempt": 1, "error.type": "LookupError", "eda.delay_s": 0.01})]
    assert notes(second) == [("eda.dead_letter", {"eda.attempt": 2, "error.type": "LookupError"})]
    assert {parent_of(span) for span in (first, second)} == {spans.named(f"send {stream}")[0].context.span_id}


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_handler_when_its_time_is_over_tells_the_retry(
    connect: Connect, stream: str, spans: Spans, logged: Logged, kind: str
) -> None:
    logged.expect(FAILURE)
    conn = await connect(middleware=spans.middleware())
    attempts: list[int] = []

    async def handle(event: eda.Event) -> None:
        attempts.append(event.attempt)
        if event.attempt == 1:
            await asyncio.Event().wait()

    await conn.publish(stream, T)
    async with conn.subscribe(
        stream, handle, backfill=True, retry=SOON, timeout_s=0.1, name="n", durable=True, serial=kind == "serial"
    ):
        first, second = await spans.wait_for(f"process {stream}", 2)
    assert attributes(first)["error.type"] == "eda.errors.Timeout"
    assert "took longer than 0.1 s" in first.status.description
    (note,) = notes(first)
    assert (note[0], note[1]["error.type"]) == ("eda.retry", "eda.errors.Timeout")
    assert (second.status.status_code, notes(second)) == (StatusCode.UNSET, [])


async def test_handler_when_it_raises_a_cancellation_by_itself_has_failed(
    connect: Connect, stream: str, spans: Spans, logged: Logged
) -> None:
    logged.expect(FAILURE)
    conn = await connect(middleware=spans.middleware())

    async def handle(event: eda.Event) -> None:
        if event.attempt == 1:
            raise asyncio.CancelledError

    await conn.publish(stream, T)
    async with conn.subscribe(stream, handle, backfill=True, retry=SOON, name="n", durable=True):
        first, second = await spans.wait_for(f"process {stream}", 2)
    assert first.status.status_code is StatusCode.ERROR
    assert attributes(first)["error.type"] == "asyncio.exceptions.CancelledError"
    assert [name for name, _ in notes(first) if name != "exception"] == ["eda.retry"]
    assert second.status.status_code is StatusCode.UNSET


async def test_handler_when_cancelled_by_closing_gives_the_event_back(
    connect: Connect, stream: str, spans: Spans, logged: Logged
) -> None:
    conn = await connect(middleware=spans.middleware())
    began = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        began.set()
        await asyncio.Event().wait()

    await conn.publish(stream, T)
    await conn.subscribe(stream, handle, backfill=True)
    await began.wait()
    await conn.close(0.5)
    span = await spans.one(f"process {stream}")
    assert notes(span) == [("eda.given_back", {"eda.attempt": 1})]
    assert (span.status.status_code, "error.type" in attributes(span)) == (StatusCode.UNSET, False)
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("kind", ["shared", "serial", "projection"])
async def test_dead_letter_when_stored_has_a_span_in_the_trace_of_the_event(
    connect: Connect, stream: str, spans: Spans, logged: Logged, kind: str
) -> None:
    logged.expect("rejected")
    conn = await connect(middleware=spans.middleware())

    async def handle(event: eda.Event) -> None:
        raise eda.Reject("wrong")

    async def apply(event: eda.Event, tx: Any) -> None:
        raise eda.Reject("wrong")

    receipt = await conn.publish(stream, eda.Event(type="t", cause="before"))
    if kind == "projection":
        async with conn.projection(stream, apply, into=MemorySink(), name="n", batch=None):
            settle = await spans.one(f"settle {stream}")
    else:
        async with conn.subscribe(stream, handle, backfill=True, name="n", durable=True, serial=kind == "serial"):
            settle = await spans.one(f"settle {stream}")
    send, process = await spans.one(f"send {stream}"), await spans.one(f"process {stream}")
    assert settle.kind is SpanKind.CLIENT
    assert parent_of(settle) == parent_of(process) == send.context.span_id
    assert settle.status.status_code is StatusCode.UNSET
    told = attributes(settle)
    assert (told["messaging.operation.name"], told["messaging.operation.type"]) == ("settle", "settle")
    assert told["messaging.consumer.group.name"] == ("n-v1" if kind == "projection" else "n")
    assert (told["messaging.message.id"], told["eda.event.place"], told["eda.attempt"]) == (receipt.id, "1", 1)
    assert (told["eda.event.type"], told["messaging.message.conversation_id"]) == ("t", "before")
    assert (told["eda.dead_letter.reason"], told["eda.dead_letter.stream"]) == ("rejected", f"{stream}-dead")


async def test_dead_letter_when_the_message_is_no_event_has_a_span_of_its_own(
    connect: Connect, admin: Admin, stream: str, spans: Spans, logged: Logged
) -> None:
    logged.expect("decode")
    conn = await connect(middleware=spans.middleware())
    await conn.streams.create(stream, eda.StreamOptions())
    await admin.js.publish(f"{stream}.t", b"\xff\xff", headers={"Eda-Pack": "nonsense"})
    async with conn.subscribe(stream, lambda event: None, backfill=True):
        settle = await spans.one(f"settle {stream}")
    assert settle.parent is None
    assert attributes(settle)["eda.dead_letter.reason"] == "undecodable"
    assert not {"messaging.message.id", "eda.event.type"} & attributes(settle).keys()


async def test_dead_letter_when_a_hook_raises_is_stored_all_the_same(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect("rejected")
    logged.expect("middleware Failing.dead_letter failed")
    seen: list[Any] = []

    class Failing(eda.Middleware):
        def dead_letter(self, letter: eda.NewDeadLetter) -> Any:
            raise LookupError("no collector")

    class Noting(eda.Middleware):
        def dead_letter(self, letter: eda.NewDeadLetter) -> Any:
            seen.append((letter.stream, letter.reason, letter.error))
            return seen.append

    async def handle(event: eda.Event) -> None:
        raise eda.Reject("wrong")

    conn = await connect(middleware=[Noting(), Failing()])
    await conn.publish(stream, T)
    async with conn.subscribe(stream, handle, backfill=True) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
    assert seen == [(stream, "rejected", "wrong"), None]


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("follows", [True, False], ids=["follows", "decides"])
async def test_event_when_its_trace_is_not_sampled_has_no_span_and_its_handler_passes_that_on(
    connect: Connect, stream: str, follows: bool
) -> None:
    sender, receiver = Spans(ParentBased(ALWAYS_OFF)), Spans(ALWAYS_ON)
    sending = await connect(middleware=sender.middleware())
    conn = await connect(middleware=receiver.middleware(follow_sampling=follows))
    current: list[trace.SpanContext] = []

    async def handle(event: eda.Event) -> None:
        current.append(trace.get_current_span().get_span_context())

    async with sending.publisher(stream) as publisher:
        await publisher.send_many([T] * 2)
    async with conn.subscribe(stream, handle, backfill=True):
        await until(lambda: len(current) == 2)
    plain = await connect()
    async with plain.events(stream, backfill=True) as events:
        entry = (await anext(events)).meta["traceparent"]
    assert int(entry[-2:], 16) & trace.TraceFlags.SAMPLED == 0
    assert {f"{each.trace_id:032x}" for each in current} == {entry.split("-")[1]}
    assert [each.trace_flags.sampled for each in current] == [not follows] * 2
    assert len(receiver.named(f"process {stream}")) == (0 if follows else 2)
    assert sender.all() == []


async def test_handler_when_the_context_changes_from_event_to_event_always_has_its_own(
    connect: Connect, stream: str, spans: Spans
) -> None:
    plain, conn = await connect(), await connect(middleware=spans.middleware())
    entries = [f"00-{number + 1:032x}-{number + 1:016x}-0{number % 2}" for number in (0, 0, 1, 2, 2, 1, 4)]
    for entry in entries:
        await plain.publish(stream, eda.Event(type="t", meta={"traceparent": entry}))
    await plain.publish(stream, T)
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    async with conn.subscribe(stream, handle, backfill=True, serial=True):
        await until(lambda: len(seen) == 8)
    assert seen[:7] == [1, 1, 2, 3, 3, 2, 5]
    assert seen[7] > 5


class Looking(eda.Middleware):
    """Notes which trace is current when an attempt begins, and when it has ended."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def observe(self, given: Any, subscription: eda.Subscription) -> Any:
        self.look()
        return lambda error: self.look()

    def look(self) -> None:
        self.seen.append(trace.get_current_span().get_span_context().trace_id)


@pytest.mark.parametrize("is_outer", [True, False], ids=["outer", "inner"])
@pytest.mark.parametrize("sampled", [0, 1], ids=["unsampled", "sampled"])
async def test_middleware_when_it_is_outside_sees_no_context_of_an_event(
    connect: Connect, stream: str, spans: Spans, is_outer: bool, sampled: int
) -> None:
    looking = Looking()
    middleware = [*spans.middleware(), looking]
    conn = await connect(middleware=middleware if is_outer else middleware[::-1])
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    for _ in range(3):
        await conn.publish(stream, eda.Event(type="t", meta={"traceparent": f"00-{7:032x}-{7:016x}-0{sampled}"}))
    async with conn.subscribe(stream, handle, backfill=True):
        await until(lambda: len(looking.seen) == 6)
    assert seen == [7] * 3
    assert looking.seen == [0 if is_outer else 7] * 6


@pytest.mark.parametrize("with_baggage", [False, True], ids=["without", "with"])
async def test_baggage_when_opted_in_is_current_in_the_handler(
    connect: Connect, stream: str, spans: Spans, with_baggage: bool
) -> None:
    sending, conn = await connect(), await connect(middleware=spans.middleware(baggage=with_baggage))
    await sending.publish(stream, eda.Event(type="t", meta={"baggage": "tenant=acme"}))
    await sending.publish(stream, eda.Event(type="t", meta={"baggage": "tenant=globex"}))
    seen: list[object] = []

    async def handle(event: eda.Event) -> None:
        seen.append(baggage.get_baggage("tenant"))

    async with conn.subscribe(stream, handle, backfill=True):
        await until(lambda: len(seen) == 2)
    assert seen == (["acme", "globex"] if with_baggage else [None, None])


# --- other consumers -------------------------------------------------------------------------------------------------


async def test_events_when_iterated_have_a_span_until_the_next_is_asked_for(
    connect: Connect, stream: str, spans: Spans, logged: Logged
) -> None:
    conn = await connect(middleware=spans.middleware())
    for _ in range(3):
        await conn.publish(stream, T)
    with pytest.raises(LookupError):
        async with conn.events(stream, backfill=True) as events:
            async for event in events:
                assert trace.get_current_span() is trace.INVALID_SPAN
                assert len(spans.named(f"process {stream}")) == event.sequence - 1
                if event.sequence == 2:
                    raise LookupError
    first, second = await spans.wait_for(f"process {stream}", 2)
    assert (notes(first), [name for name, _ in notes(second)]) == ([], ["eda.given_back"])


@pytest.mark.parametrize("batch", [10, None], ids=["batch", "single"])
async def test_projection_when_it_applies_has_spans(connect: Connect, stream: str, spans: Spans, batch: Any) -> None:
    conn = await connect(middleware=spans.middleware())
    last = None
    for _ in range(3):
        last = await conn.publish(stream, T)
    assert last is not None
    current: list[int] = []

    async def apply(given: Any, tx: Any) -> None:
        current.append(trace.get_current_span().get_span_context().span_id)

    async with conn.projection(stream, apply, into=MemorySink(), name="orders", batch=batch, linger_s=0.5) as applying:
        await applying.wait_for(last, 10)
    processed = await spans.wait_for(f"process {stream}", 1 if batch else 3)
    assert [span.context.span_id for span in processed] == current
    sent = spans.named(f"send {stream}")
    assert [each for span in processed for each in links(span)] == [span.context.span_id for span in sent]


async def test_handler_when_a_publisher_is_shared_keeps_what_it_sends_in_its_trace(
    connect: Connect, stream: str, spans: Spans
) -> None:
    conn, into = await connect(middleware=spans.middleware()), f"{stream}-dead"
    await conn.publish(stream, T)
    await conn.publish(stream, T)
    async with conn.publisher(into) as publisher:
        await publisher.send(T)

        async def handle(event: eda.Event) -> None:
            await publisher.send(eda.Event(type="answer"))

        async with conn.subscribe(stream, handle, backfill=True):
            processed = await spans.wait_for(f"process {stream}", 2)
    plain = await connect()
    async with plain.events(into, backfill=True) as events:
        entries = [(await anext(events)).meta["traceparent"] for _ in range(3)]
    assert entries[1:] == [entry_of(span) for span in processed]
    assert links(await spans.one(f"send {into}")) == [span.context.span_id for span in processed]


async def test_context_when_a_test_ends_is_the_one_before() -> None:
    assert context.get_current() == context.Context()
