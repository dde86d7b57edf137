"""Middleware around the handlers of every kind of subscription, and around the loop of conn.events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from dataclasses import dataclass
from typing import Any

import pytest

import eda
from eda._pack import place_of
from helpers import Admin, Connect, Logged, until
from support.dead_letters.letters import stored
from support.middleware.hooks import Base64, HandleHook, Zlib
from support.packs import publish_pack

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", "concurrency": 4, **KEPT},
    "exclusive": {"exclusive": True, **KEPT},
    "private": {"backfill": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
QUICK = eda.Retry(initial_s=0.02, factor=1)
LAYERS = [Zlib(), Base64()]


async def publish(connect: Connect, stream: str, n: int) -> eda.Conn:
    """Publish n events with the numbers from 1 as data, through the layers; returns a connection with them."""
    conn = await connect(middleware=LAYERS)
    for number in range(1, n + 1):
        await conn.publish(stream, eda.Event(type="t", aggregate=str(number % 3), data=eda.JSON(number)))
    return conn


# --- every way in ----------------------------------------------------------------------------------------------------


@each_kind
async def test_handler_when_layers_have_encoded_the_events_gets_them_decoded(
    connect: Connect, stream: str, kind: str
) -> None:
    conn = await publish(connect, stream, 20)
    got: list[eda.Event] = []

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0)
        got.append(event)

    for handler in (handle, got.append, eda.threaded(got.append)):
        got.clear()
        async with conn.subscribe(stream, handler, reset="durable" in KINDS[kind], **KINDS[kind]) as sub:
            await until(lambda: len(got) == 20)
            await until(lambda sub=sub: sub.stats().handled == 20)
        assert sorted(event.data.decode() for event in got) == list(range(1, 21))
        assert sorted(event.sequence for event in got) == list(range(1, 21))
        assert {event.attempt for event in got} == {1}
        assert {event.stream for event in got} == {stream}
        if kind in ("serial", "strict", "private", "exclusive"):
            assert [event.sequence for event in got] == list(range(1, 21))


@pytest.mark.parametrize("kind", ["shared", "exclusive", "private"])
async def test_batch_handler_when_layers_have_encoded_the_events_gets_them_decoded(
    connect: Connect, stream: str, kind: str
) -> None:
    conn = await publish(connect, stream, 20)
    got: list[list[eda.Event]] = []
    async with conn.subscribe(stream, got.append, batch=10, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 20)
    assert [event.data.decode() for events in got for event in events] == list(range(1, 21))


@pytest.mark.parametrize("kind", ["shared", "serial", "private"])
@pytest.mark.parametrize("batch", [None, 5])
async def test_events_when_layers_have_encoded_the_events_gives_them_decoded(
    connect: Connect, stream: str, kind: str, batch: int | None
) -> None:
    conn = await publish(connect, stream, 20)
    got: list[int] = []
    async with conn.events(stream, batch=batch, **KINDS[kind]) as events:
        async for given in events:
            got += [event.data.decode() for event in (given if batch else [given])]
            if len(got) == 20:
                break
    assert got == list(range(1, 21))
    assert events.subscription.stats().handled == 20


@dataclass
class Ordered:
    number: int


async def test_router_when_layers_have_encoded_the_events_decodes_the_payloads(connect: Connect, stream: str) -> None:
    eda.payload("middleware-ordered")(Ordered)
    conn = await connect(middleware=LAYERS)
    got: list[Ordered] = []
    router = eda.Router()

    @router.on
    async def ordered(payload: Ordered) -> None:
        got.append(payload)

    await conn.publish(stream, eda.Event(data=Ordered(5)))
    async with conn.subscribe(stream, router, backfill=True):
        await until(lambda: got)
    assert got == [Ordered(5)]


async def test_handler_when_decoded_data_is_wrong_is_a_misfit_of_its_event(
    connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("can't be decoded")
    conn = await connect(middleware=LAYERS)
    await conn.publish(stream, eda.Event(id="i1", type="t", data=eda.Data.from_encoded("json", b"[1")))

    async def handle(event: eda.Event) -> None:
        event.data.decode()

    async with conn.subscribe(stream, handle, **KEPT) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
        assert (sub.stats().undecodable, sub.stats().failed) == (1, 0)
    (letter,) = await stored(admin, f"{stream}-dead")
    assert letter.headers["Eda-Dead-Reason"] == "undecodable"


# --- outcomes --------------------------------------------------------------------------------------------------------


async def test_hook_when_it_runs_knows_subscription_and_attempt(connect: Connect, stream: str, logged: Logged) -> None:
    logged.allow("failed")
    seen: list[Any] = []

    async def note(event: eda.Event, call_next: Any) -> None:
        seen.append((call_next.subscription, event.attempt))
        await call_next(event)

    async def handle(event: eda.Event) -> None:
        if event.attempt < 3:
            raise KeyError("x")

    conn = await connect(middleware=[HandleHook(note)])
    await conn.publish(stream)
    async with conn.subscribe(stream, handle, retry=QUICK, **KEPT) as sub:
        await until(lambda: sub.stats().handled == 1)
        assert sub.stats().failed == 2
    assert seen == [(sub, 1), (sub, 2), (sub, 3)]
    assert (sub.name, sub.options.retry) == ("me", QUICK)


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_hook_when_it_raises_has_the_event_retried_or_given_up(
    connect: Connect, stream: str, admin: Admin, logged: Logged, kind: str
) -> None:
    logged.expect("failed")
    logged.expect("rejected")
    handled: list[int] = []

    async def fail(event: eda.Event, call_next: Any) -> None:
        if event.data.decode() == 1 and event.attempt == 1:
            raise KeyError("once")
        if event.data.decode() == 2:
            raise eda.Reject("never")
        await call_next(event)

    plain = await publish(connect, stream, 3)
    conn = await connect(middleware=[HandleHook(fail), *LAYERS])
    async with conn.subscribe(
        stream, lambda event: handled.append(event.data.decode()), retry=QUICK, **KINDS[kind]
    ) as sub:
        await until(lambda: sub.stats().handled == 2 and sub.stats().dead_lettered == 1)
    assert sorted(handled) == [1, 3]
    (letter,) = await stored(admin, f"{stream}-dead")
    assert (letter.headers["Eda-Dead-Reason"], letter.headers["Eda-Dead-Error"]) == ("rejected", "never")
    # The letter holds the event as it was stored, and replayed it passes the hooks as any event.
    async with conn.events(stream, start=2, types=["t"]) as events:
        assert (await anext(events)).data.decode() == 3
    assert plain.state == "connected"
    handled.clear()
    again = await connect(middleware=LAYERS)
    async with again.subscribe(stream, lambda event: handled.append(event.data.decode()), **KINDS[kind]):
        assert await again.replay_dead(stream, "me") == 1
        await until(lambda: handled == [2])


async def test_hook_when_the_handler_fails_can_tell_what_becomes_of_the_event(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.allow("failed", "rejected", "can't be decoded")
    told: list[tuple[str, int, float | None]] = []

    async def tell(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except Exception as error:
            told.append((event.type, event.attempt, call_next.subscription.retry_delay_s(event, error)))
            raise

    async def handle(event: eda.Event) -> None:
        if event.type == "rejected":
            raise eda.Reject("no")
        if event.type == "misfit":
            event.data.decode()
        raise KeyError("x")

    conn = await connect(middleware=[HandleHook(tell)])
    for type in ("failing", "rejected", "misfit"):
        await conn.publish(stream, eda.Event(type=type, data=eda.Data.from_encoded("json", b"[1")))
    retry = eda.Retry(initial_s=0.02, factor=2, max_attempts=3)
    async with conn.subscribe(stream, handle, retry=retry, **KEPT, serial=True) as sub:
        await until(lambda: sub.stats().dead_lettered == 3)
    assert told == [
        ("failing", 1, 0.02),
        ("failing", 2, 0.04),
        ("failing", 3, None),
        ("rejected", 1, None),
        ("misfit", 1, None),
    ]


@each_kind
async def test_hook_when_it_does_not_call_call_next_has_handled_the_event(
    connect: Connect, stream: str, kind: str
) -> None:
    async def skip(event: eda.Event, call_next: Any) -> None:
        if event.sequence != 2:
            await call_next(event)

    conn = await connect(middleware=[HandleHook(skip)])
    for _ in range(3):
        await conn.publish(stream)
    got: list[int] = []
    async with conn.subscribe(stream, lambda event: got.append(event.sequence), **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 3)
        assert sub.stats().failed == 0
    assert sorted(got) == [1, 3]


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_hook_when_it_takes_too_long_times_out_as_a_handler(
    connect: Connect, stream: str, logged: Logged, kind: str
) -> None:
    logged.allow("failed")
    seen: list[int] = []

    async def wait(event: eda.Event, call_next: Any) -> None:
        seen.append(event.attempt)
        await call_next(event)
        if event.attempt == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def handle(event: eda.Event) -> None:
        pass

    conn = await connect(middleware=[HandleHook(wait)])
    await conn.publish(stream)
    async with conn.subscribe(stream, handle, timeout_s=0.1, retry=QUICK, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 1)
        assert sub.stats().failed == 1
    assert seen == [1, 2]


async def test_plain_handler_when_it_blocks_too_long_is_reported_as_without_middleware(
    connect: Connect, stream: str, logged: Logged
) -> None:
    async def pass_on(event: eda.Event, call_next: Any) -> None:
        await call_next(event)

    conn = await connect(middleware=[HandleHook(pass_on)])
    logged.expect(r"took too long for \d+ more events")
    await conn.publish_batch(stream, [eda.Event()] * 20)
    async with conn.subscribe(stream, lambda event: time.sleep(0.02), timeout_s=0.01, **KEPT) as sub:
        await until(lambda: sub.stats().handled == 20)
    found = logged.find("a plain function can't be cancelled")
    assert "sequence 1, attempt 1" in found[0].getMessage()
    assert len(found) < 15


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
async def test_batch_hook_when_it_drops_and_reorders_the_right_events_are_retried(
    connect: Connect, stream: str, logged: Logged, kind: str
) -> None:
    logged.allow("failed")
    conn = await publish(connect, stream, 10)
    got: list[list[int]] = []

    async def reverse(events: list[eda.Event], call_next: Any) -> None:
        await call_next([event.replace(data=eda.JSON(-event.sequence)) for event in reversed(events[1:])])

    async def handle(events: list[eda.Event]) -> None:
        got.append([event.data.decode() for event in events])
        failed = {event: KeyError("x") for event in events if event.sequence in (3, 7) and event.attempt == 1}
        if failed:
            raise eda.PartialFailure(failed)

    hooked = await connect(middleware=[HandleHook(reverse)])
    async with hooked.subscribe(stream, handle, batch=10, retry=QUICK, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 10)
        assert sub.stats().failed == 2
    # Of the retried batch the hook drops the first event as well.
    assert got[0] == [-n for n in range(10, 1, -1)]
    assert conn.state == "connected"


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
async def test_batch_hook_when_it_changes_events_of_packs_the_right_ones_are_retried(
    connect: Connect, admin: Admin, stream: str, logged: Logged, kind: str
) -> None:
    """All events of a pack have one sequence."""
    logged.expect(r"sequences 1\.3 to 2\.1\)")
    failing = {"1.3", "2.1"}
    conn = await connect()
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    for _ in range(2):
        await publish_pack(admin.js, stream, [eda.Event(type="t")] * 5)
    handled: list[str] = []

    async def reverse(events: list[eda.Event], call_next: Any) -> None:
        await call_next([event.replace(id="", data=eda.String(place_of(event))) for event in reversed(events)])

    async def handle(events: list[eda.Event]) -> None:
        failed = {each: KeyError("x") for each in events if place_of(each) in failing and each.attempt == 1}
        handled.extend(each.data.decode() for each in events if each not in failed)
        if failed:
            raise eda.PartialFailure(failed)

    hooked = await connect(middleware=[HandleHook(reverse)])
    async with hooked.subscribe(stream, handle, batch=10, linger_s=5.0, retry=QUICK, **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 10)
        assert sub.stats().failed == 2
    assert handled[:8] == [
        f"{pack}.{index}" for pack in (2, 1) for index in (4, 3, 2, 1, 0) if f"{pack}.{index}" not in failing
    ]
    assert sorted(handled[8:]) == sorted(failing)


async def test_key_function_when_there_are_layers_sees_the_event_before_them(connect: Connect, stream: str) -> None:
    conn = await publish(connect, stream, 5)
    seen: list[str] = []

    def key(event: eda.Event) -> str:
        seen.append(event.data.type)
        return event.aggregate

    async with conn.subscribe(stream, lambda event: None, key=key, **KEPT) as sub:
        await until(lambda: sub.stats().handled == 5)
    assert seen == ["bytes"] * 5


@pytest.mark.parametrize("batch", [None, 5])
async def test_handler_when_a_hook_has_set_a_context_variable_sees_it(
    connect: Connect, stream: str, batch: int | None
) -> None:
    span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")
    seen: list[str] = []

    async def trace(given: Any, call_next: Any) -> None:
        token = span.set("process")
        try:
            await call_next(given)
        finally:
            span.reset(token)

    async def handle(given: Any) -> None:
        seen.append(span.get())
        seen.append(await asyncio.create_task(of_a_task()))

    async def of_a_task() -> str:
        return span.get()

    conn = await connect(middleware=[HandleHook(trace)])
    await conn.publish(stream)
    async with conn.subscribe(stream, handle, batch=batch, **KEPT) as sub:
        await until(lambda: sub.stats().handled == 1)
    assert seen == ["process", "process"]
    assert span.get() == "none"


# --- closing, and conn.events ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_subscription_when_closed_while_a_hook_runs_gives_the_event_back(
    connect: Connect, stream: str, kind: str, logged: Logged
) -> None:
    logged.allow("cancelled")
    began = asyncio.Event()

    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await call_next(event)

    async def handle(event: eda.Event) -> None:
        began.set()
        await asyncio.sleep(60)

    conn = await connect(middleware=[HandleHook(swallow)])
    await conn.publish(stream)
    sub = await conn.subscribe(stream, handle, timeout_s=0.3, **KINDS[kind])
    await began.wait()
    await sub.close()
    assert sub.stats().handled == 0
    got: list[int] = []
    async with (await connect()).subscribe(stream, lambda event: got.append(event.sequence), **KINDS[kind]):
        await until(lambda: got == [1])


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_events_when_hooks_surround_the_body_acknowledges_after_them(
    connect: Connect, stream: str, kind: str
) -> None:
    order: list[str] = []

    async def note(event: eda.Event, call_next: Any) -> None:
        order.append(f"before {event.sequence}")
        await call_next(event)
        await asyncio.sleep(0.01)
        order.append(f"after {event.sequence}")

    conn = await connect(middleware=[HandleHook(note)])
    for _ in range(3):
        await conn.publish(stream)
    async with conn.events(stream, **KINDS[kind]) as events:
        async for event in events:
            order.append(f"body {event.sequence}")
            if event.sequence == 3:
                break
    assert order == [f"{what} {n}" for n in (1, 2, 3) for what in ("before", "body", "after")]
    assert events.subscription.stats().handled == 3


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_events_when_left_by_an_exception_gives_the_event_back_whatever_the_hook_does(
    connect: Connect, stream: str, kind: str
) -> None:
    seen: list[str] = []

    async def swallow(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except BaseException as error:
            seen.append(type(error).__name__)

    conn = await connect(middleware=[HandleHook(swallow)])
    await conn.publish(stream)
    with pytest.raises(KeyError):
        async with conn.events(stream, **KINDS[kind]) as events:
            async for _ in events:
                raise KeyError("mine")
    assert seen == ["GivenBack"]
    assert events.subscription.stats().handled == 0
    async with asyncio.timeout(10), (await connect()).events(stream, **KINDS[kind]) as events:
        assert (await anext(events)).sequence == 1


async def test_events_when_closed_while_a_hook_prepares_an_event_ends_soon(connect: Connect, stream: str) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def prepare(event: eda.Event, call_next: Any) -> None:
        began.set()
        await go_on.wait()
        await call_next(event)

    conn = await connect(middleware=[HandleHook(prepare)])
    await conn.publish(stream)
    events = await conn.events(stream, **KEPT)
    await began.wait()
    closing = asyncio.create_task(events.aclose())
    await asyncio.sleep(0.1)
    go_on.set()
    await asyncio.wait_for(closing, 5)
    assert events.subscription.stats().handled == 0
    async with asyncio.timeout(10), (await connect()).events(stream, **KEPT) as events:
        assert (await anext(events)).sequence == 1


async def test_events_when_the_body_takes_too_long_the_hook_sees_the_timeout(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.allow("failed")
    seen: list[BaseException] = []

    async def note(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except Exception as error:
            seen.append(error)
            raise

    conn = await connect(middleware=[HandleHook(note)])
    await conn.publish(stream)
    async with conn.events(stream, timeout_s=0.1, retry=QUICK, **KEPT) as events:
        assert (await anext(events)).attempt == 1
        await until(lambda: seen)
        assert (await anext(events)).attempt == 2
    assert isinstance(seen[0], eda.Timeout)
