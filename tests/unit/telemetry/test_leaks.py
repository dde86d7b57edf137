"""The compiled hooks of OpenTelemetry give back what they took, for every way that an event may take through them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import eda
from eda._codec import decode_event, encode_event
from eda.middleware.observing import hooked_handler
from eda.telemetry._usual import Current, Entering
from leaks import MAX_BLOCKS, MAX_RSS, growth

N = 10_000

CONN: Any = SimpleNamespace(client="me", server=None)
SUBSCRIPTION: Any = SimpleNamespace(
    stream="s",
    name="billing",
    options=SimpleNamespace(durable=True, name="billing", timeout_s=30.0),
    retry_delay_s=lambda event, error: 1.0,
    failure_of=lambda event, error: error if isinstance(error, Exception) else None,
)
RECORDING, DROPPING = (TracerProvider(sampler=sampler) for sampler in (ALWAYS_ON, ALWAYS_OFF))
UNSAMPLED, OTHER_UNSAMPLED, SAMPLED = (
    f"00-0af7651916cd43dd8448eb211c80319{n}-b7ad6b7169203331-0{n % 2}" for n in (2, 4, 1)
)
ERROR = ValueError("no")


class Publisher:
    """What the hooks for sent events see of a publisher."""

    stream = "s"

    def stats(self) -> Any:
        return SimpleNamespace(failed=0)


PUBLISHERS: Any = (Publisher(), Publisher())
PLAIN = eda.Event(id="i", type="t" * 100)
WITH_META = eda.Event(id="i", meta={"a": "b"})
TRACED = eda.Event(id="i", meta={"traceparent": SAMPLED})


def received(**meta: str) -> eda.Event:
    return decode_event(encode_event(eda.Event(id="i", type="t", meta=meta)))


async def waiting(event: eda.Event) -> None:
    await asyncio.sleep(0)


async def raising(event: eda.Event) -> None:
    raise ERROR.with_traceback(None)


class Through:
    """Handles and sends events as a connection does whose middleware makes traces."""

    def __init__(self, *, is_outermost: bool = True, is_recorded: bool = False) -> None:
        provider = RECORDING if is_recorded else DROPPING
        self.middleware = eda.OpenTelemetry(metrics=False, tracer_provider=provider).bound_to(CONN)
        self.more = [] if is_outermost else [Outer()]

    def attempt(self, event: Any, handler: Any, *, is_batch: bool = False) -> Any:
        function, parts = hooked_handler([self.middleware, *self.more], handler, is_batch=is_batch)
        for part in parts:
            part.subscription = SUBSCRIPTION
        return function(event)

    def handle(self, handler: Any, *events: Any, error: type[BaseException] | None = None) -> None:
        """Handle events one after the other. With `error`, each of them fails with it."""
        for event in events:
            with pytest.raises(error or StopIteration):
                self.run(self.attempt(event, handler, is_batch=isinstance(event, list)))

    def run(self, attempt: Any) -> None:
        while attempt is not None:
            attempt.send(None)
        raise StopIteration

    def close(self, *events: eda.Event, elsewhere: bool = False) -> None:
        for event in events:
            attempt = self.attempt(event, waiting)
            attempt.send(None)
            contextvars.Context().run(attempt.close) if elsewhere else attempt.close()

    def send(self, *events: eda.Event, publishers: Any = PUBLISHERS[:1], flush: bool = True) -> None:
        for event in events:
            for publisher in publishers:
                self.middleware.mark(event, publisher)
        if flush:
            for publisher in publishers:
                with pytest.raises(StopIteration):
                    self.middleware.flush(publisher, nothing).send(None)


class Outer(eda.Middleware):
    def observe(self, given: Any, subscription: Any) -> None:
        pass


async def nothing() -> None:
    pass


def plain(event: eda.Event) -> None:
    pass


PATHS: dict[str, tuple[dict[str, Any], Callable[[Through], Any]]] = {
    "no-context": ({}, lambda through: through.handle(waiting, received(), received(a="b"))),
    "same-context": ({}, lambda through: through.handle(waiting, *[received(traceparent=UNSAMPLED) for _ in "123"])),
    "same-context-plain": (
        {},
        lambda through: through.handle(plain, *[received(traceparent=UNSAMPLED) for _ in "123"]),
    ),
    "same-context-failing": (
        {},
        lambda through: through.handle(
            raising, received(traceparent=UNSAMPLED), received(traceparent=UNSAMPLED), error=ValueError
        ),
    ),
    "same-context-inside": (
        {"is_outermost": False},
        lambda through: through.handle(waiting, *[received(traceparent=UNSAMPLED) for _ in "123"]),
    ),
    "same-context-inside-failing": (
        {"is_outermost": False},
        lambda through: through.handle(raising, *[received(traceparent=UNSAMPLED) for _ in "123"], error=ValueError),
    ),
    "other-contexts": (
        {},
        lambda through: through.handle(waiting, *[received(traceparent=each) for each in (UNSAMPLED, OTHER_UNSAMPLED)]),
    ),
    "sampled": ({"is_recorded": True}, lambda through: through.handle(waiting, received(traceparent=SAMPLED))),
    "sampled-failing": (
        {"is_recorded": True},
        lambda through: through.handle(raising, received(traceparent=SAMPLED), error=ValueError),
    ),
    "batch": ({}, lambda through: through.handle(waiting, [received(traceparent=UNSAMPLED), received()])),
    "batch-recorded": ({"is_recorded": True}, lambda through: through.handle(waiting, [received(traceparent=SAMPLED)])),
    "closed": ({}, lambda through: through.close(received(traceparent=UNSAMPLED), received(traceparent=UNSAMPLED))),
    "closed-inside": (
        {"is_outermost": False},
        lambda through: through.close(received(traceparent=UNSAMPLED), received(traceparent=UNSAMPLED)),
    ),
    "closed-elsewhere": (
        {"is_outermost": False},
        lambda through: through.close(*[received(traceparent=UNSAMPLED) for _ in "12"], elsewhere=True),
    ),
    "closed-recorded": ({"is_recorded": True}, lambda through: through.close(received(traceparent=SAMPLED))),
    "sent": ({}, lambda through: through.send(PLAIN, PLAIN, WITH_META, TRACED)),
    "sent-recorded": ({"is_recorded": True}, lambda through: through.send(PLAIN, PLAIN, WITH_META, TRACED)),
    "sent-by-turns": ({}, lambda through: through.send(PLAIN, WITH_META, publishers=PUBLISHERS)),
    "sent-in-other-contexts": (
        {},
        lambda through: [
            contextvars.copy_context().run(sent_in, trace.INVALID_SPAN_CONTEXT, through),
            through.send(PLAIN, PLAIN),
        ],
    ),
    "sent-and-not-flushed": ({}, lambda through: through.send(PLAIN, PLAIN, flush=False)),
    "sent-by-publishers-that-end": (
        {},
        lambda through: through.send(PLAIN, PLAIN, publishers=[Publisher()]),
    ),
}


def sent_in(span_context: trace.SpanContext, through: Through) -> None:
    context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span_context), context.Context()))
    through.send(PLAIN, PLAIN, flush=False)


@pytest.mark.parametrize("name", PATHS)
def test_memory_when_many_events_take_a_way_does_not_grow(name: str) -> None:
    options, path = PATHS[name]
    through = Through(**options)
    shared = (ERROR, PLAIN, WITH_META, TRACED, CONN, SUBSCRIPTION, *PUBLISHERS, through.middleware, waiting, context)

    def run() -> None:
        contextvars.Context().run(path, through)

    blocks, tracked, size = growth(run, N, n_before=N // 2, shared=shared)
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


# --- the current context ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["variable", "functions"])
def current(request: pytest.FixtureRequest) -> Iterator[Current]:
    """The current context, kept in a context variable, or as a program's own implementation keeps it."""
    if request.param == "variable":
        yield Current(context.get_current, context.attach, context.detach)
        return
    stack: list[Any] = [context.Context()]

    def attach(to: Any) -> Any:
        stack.append(to)
        return object()

    yield Current(lambda: stack[-1], attach, lambda token: stack.pop())
    assert len(stack) == 1


def test_memory_when_contexts_are_attached_many_times_does_not_grow(current: Current) -> None:
    shared = (context.Context(), context.Context({"a": "b"}))
    entering = Entering(current, lambda given, subscription: lambda error: None)

    def use() -> None:
        for each in shared:
            token = current.attach(each)
            assert current.get() is each
            current.detach(token)
        end = entering.enter(shared[1])
        assert current.get() is shared[1]
        end(ERROR)
        entering(PLAIN, SUBSCRIPTION)

    blocks, tracked, size = growth(use, 50_000, shared=(*shared, current, entering, ERROR))
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_when_middleware_comes_and_goes_does_not_grow() -> None:
    def use() -> None:
        through = Through()
        through.handle(waiting, received(traceparent=UNSAMPLED), received(traceparent=UNSAMPLED))
        through.send(PLAIN, PLAIN)

    shared = (DROPPING, CONN, SUBSCRIPTION, PLAIN, *PUBLISHERS)
    blocks, tracked, size = growth(lambda: contextvars.Context().run(use), 5_000, n_before=1_000, shared=shared)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_context_when_its_attempt_has_ended_is_freed() -> None:
    current = Current(context.get_current, context.attach, context.detach)
    entering = Entering(current, lambda given, subscription: None)
    for error in (None, ERROR, GeneratorExit()):
        mine = context.Context()
        seen = weakref.ref(mine)
        end = entering.enter(mine)
        assert context.get_current() is mine
        end(error)
        assert context.get_current() is not mine
        del mine, end
        gc.collect()
        assert seen() is None
