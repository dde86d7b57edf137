"""Handlers with the hooks `observe` and `handle` around them."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace
from typing import Any

import pytest

import eda
from eda.middleware._observed import Observed
from eda.middleware.observing import hooked_handler

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")
SUBSCRIPTION: Any = SimpleNamespace(options=SimpleNamespace(timeout_s=30.0))


class Watch(eda.Middleware):
    """Notes when attempts begin and how they end, and sets a context variable meanwhile."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    def observe(self, given: Any, subscription: Any) -> Any:
        assert subscription is SUBSCRIPTION
        self.notes.append(f"{self.name} begins")
        token = VARIABLE.set(self.name)

        def end(error: BaseException | None) -> None:
            VARIABLE.reset(token)
            self.notes.append((f"{self.name} ends", error))

        return end


class Around(eda.Middleware):
    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        self.notes.append(f"{self.name} before")
        await call_next(event)
        self.notes.append(f"{self.name} after")


class Both(Watch, Around):
    pass


class Blind(eda.Middleware):
    """Does not want to know how an attempt ends."""

    def observe(self, given: Any, subscription: Any) -> None:
        assert isinstance(given, eda.Event | list)


def hooked(middleware: list[eda.Middleware], handler: Any, *, is_batch: bool = False) -> Any:
    function, parts = hooked_handler(middleware, handler, is_batch=is_batch)
    for part in parts:
        part.subscription = SUBSCRIPTION
    return function


async def call(function: Any, given: Any) -> Any:
    result = function(given)
    return result if result is None else await result


def test_handler_when_nothing_is_hooked_is_the_very_handler() -> None:
    def handle(event: eda.Event) -> None: ...

    assert hooked_handler([eda.Middleware()], handle, is_batch=False) == (handle, [])


@pytest.mark.parametrize("is_async", [True, False])
async def test_observers_when_the_handler_succeeds_nest(is_async: bool) -> None:
    notes: list[Any] = []

    async def handle(event: eda.Event) -> None:
        notes.append(VARIABLE.get())
        await asyncio.sleep(0)

    def handle_plainly(event: eda.Event) -> None:
        notes.append(VARIABLE.get())

    function = hooked([Watch("one", notes), Blind(), Watch("two", notes)], handle if is_async else handle_plainly)
    await call(function, eda.Event())
    assert notes == ["two begins", "one begins", "one", ("one ends", None), ("two ends", None)]
    assert VARIABLE.get() == "outside"


async def test_observer_when_the_handler_is_plain_makes_no_coroutine() -> None:
    function = hooked([Watch("one", [])], lambda event: None)
    assert function(eda.Event()) is None


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()], ids=["error", "cancelled"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_observer_when_the_handler_fails_gets_the_error(is_async: bool, error: BaseException) -> None:
    notes: list[Any] = []

    async def handle(event: eda.Event) -> None:
        raise error

    def handle_plainly(event: eda.Event) -> None:
        raise error

    function = hooked([Watch("one", notes)], handle if is_async else handle_plainly)
    with pytest.raises(type(error)) as caught:
        await call(function, eda.Event())
    assert caught.value is error
    assert notes == ["one begins", ("one ends", error)]
    assert VARIABLE.get() == "outside"


async def test_hooks_when_both_kinds_are_there_keep_their_order() -> None:
    notes: list[Any] = []

    async def handle(event: eda.Event) -> None:
        notes.append("handler")

    middleware = [Around("one", notes), Both("two", notes), Around("three", notes)]
    await call(hooked(middleware, handle), eda.Event())
    assert notes == [
        "three before",
        "two begins",
        "two before",
        "one before",
        "handler",
        "one after",
        "two after",
        ("two ends", None),
        "three after",
    ]


async def test_observer_when_the_handler_returns_a_generator_gets_the_refusal() -> None:
    notes: list[Any] = []

    def handle(event: eda.Event) -> Any:
        yield event

    with pytest.raises(TypeError) as caught:
        hooked([Watch("one", notes)], handle)(eda.Event())
    assert notes == ["one begins", ("one ends", caught.value)]


@pytest.mark.parametrize("where", ["begin", "end"])
async def test_observer_when_it_raises_fails_the_attempt(where: str) -> None:
    handled: list[eda.Event] = []

    class Failing(eda.Middleware):
        def observe(self, given: Any, subscription: Any) -> Any:
            if where == "begin":
                raise LookupError("no collector")

            def end(error: BaseException | None) -> None:
                raise LookupError("no collector")

            return end

    async def handle(event: eda.Event) -> None:
        handled.append(event)

    with pytest.raises(LookupError, match="no collector"):
        await call(hooked([Failing()], handle), eda.Event())
    assert len(handled) == (0 if where == "begin" else 1)


async def test_observer_when_the_handler_is_for_batches_gets_the_list() -> None:
    seen: list[Any] = []
    batch = [eda.Event(), eda.Event()]

    async def handle(events: list[eda.Event]) -> None:
        seen.append(events)

    await call(hooked([Blind(), Watch("one", seen)], handle, is_batch=True), batch)
    assert seen == ["one begins", batch, ("one ends", None)]


async def test_observed_when_its_coroutine_is_closed_tells_the_observer() -> None:
    notes: list[Any] = []

    async def handle(event: eda.Event) -> None:
        await asyncio.Event().wait()

    observed = hooked([Watch("one", notes)], handle)
    assert type(observed) is Observed
    coroutine = observed(eda.Event())
    coroutine.send(None)
    coroutine.close()
    assert [type(note[1]) for note in notes if isinstance(note, tuple)] == [GeneratorExit]
