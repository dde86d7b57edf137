"""eda.handlers: what users raise, and blocking functions in threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import pickle
import threading
import time
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from eda import Event, PartialFailure, Reject, StreamNotFound, threaded
from eda.errors import ConfigError
from helpers import until

EVENT = Event(id="e1", type="paid")


# --- Reject ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["no such customer", "", "ünïcode\r\n"])
def test_reject_when_raised_carries_its_reason_and_pickles(reason: str) -> None:
    for error in (Reject(reason), pickle.loads(pickle.dumps(Reject(reason)))):
        assert type(error) is Reject
        assert error.reason == reason
        assert str(error) == (reason or "rejected")


def test_reject_when_the_reason_is_no_text_takes_its_text() -> None:
    error = Reject(ValueError("bad amount"))  # type: ignore[arg-type]
    assert error.reason == "bad amount"
    assert Reject().reason == ""


# --- PartialFailure --------------------------------------------------------------------------------------------------


def test_partial_failure_when_made_has_a_copy_of_the_failures() -> None:
    failures: dict[Event, BaseException] = {EVENT: ValueError("no"), Event(id="e2"): KeyError("key")}
    error = PartialFailure(failures)
    assert error.failures == failures
    assert error.failures is not failures
    assert error.error_of(EVENT) is failures[EVENT]
    assert error.error_of(Event(id="e3")) is None
    assert str(error) == "2 events of the batch failed; first: event e1: no"
    assert str(PartialFailure({EVENT: ValueError()})) == "1 event of the batch failed; first: event e1: ValueError"


def test_partial_failure_when_the_mapping_is_no_dict_is_taken_too() -> None:
    error = ValueError("no")
    assert PartialFailure(types.MappingProxyType({EVENT: error})).error_of(EVENT) is error


def test_partial_failure_when_two_events_are_equal_has_one_error_for_both() -> None:
    twin = Event(id="e1", type="paid")
    other = Event(id="e1", type="refunded")
    error = PartialFailure({EVENT: ValueError("one"), twin: ValueError("two")})
    assert len(error.failures) == 1
    assert error.error_of(EVENT) is error.error_of(twin)
    assert error.error_of(other) is None


def test_partial_failure_when_pickled_keeps_events_and_errors() -> None:
    error = pickle.loads(pickle.dumps(PartialFailure({EVENT: StreamNotFound("s"), Event(id="e2"): ValueError("no")})))
    assert type(error) is PartialFailure
    assert [event.id for event in error.failures] == ["e1", "e2"]
    assert isinstance(error.error_of(EVENT), StreamNotFound)
    assert str(error.error_of(Event(id="e2"))) == "no"


def test_partial_failure_when_an_error_does_not_pickle_keeps_its_text() -> None:
    class Local(Exception):
        pass

    error = pickle.loads(pickle.dumps(PartialFailure({EVENT: Local("here only")})))
    assert str(error.error_of(EVENT)) == "Local: here only"


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ({}, "is empty"),
        ([(EVENT, ValueError())], "not list"),
        (None, "not NoneType"),
        ({"e1": ValueError()}, "a str"),
        ({EVENT: "no"}, "to an exception, not 'no'"),
        ({EVENT: ValueError}, "to an exception, not <class 'ValueError'>"),
        ({EVENT: None}, "to an exception, not None"),
    ],
)
def test_partial_failure_when_it_can_not_be_one_raises_config_error(failures: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=r"^failures ") as caught:
        PartialFailure(failures)
    assert caught.value.argument == "failures"
    assert told in str(caught.value)


# --- threaded --------------------------------------------------------------------------------------------------------


async def test_threaded_when_called_runs_the_function_in_a_thread_of_its_own() -> None:
    def work(event: Event) -> str:
        """Do it."""
        seen.append((event, threading.current_thread().name))
        return "whatever"

    seen: list[tuple[Event, str]] = []
    handler = threaded(work)
    assert inspect.iscoroutinefunction(handler)
    assert handler.__doc__ == "Do it."
    assert not any(thread.name.startswith("eda ") for thread in threading.enumerate())
    assert await handler(EVENT) is None  # type: ignore[func-returns-value]
    (event, thread) = seen[0]
    assert event is EVENT
    assert thread.startswith("eda ")
    assert thread != threading.current_thread().name


async def test_threaded_when_there_are_several_workers_runs_so_many_at_once() -> None:
    def work(event: Event) -> None:
        together.wait(5)

    together = threading.Barrier(3)
    handler = threaded(work, workers=3)
    await asyncio.gather(*(handler(EVENT) for _ in range(6)))


async def test_threaded_when_there_is_one_worker_runs_one_after_the_other() -> None:
    def work(event: Event) -> None:
        nonlocal running
        running += 1
        most.append(running)
        time.sleep(0.005)
        running -= 1

    running = 0
    most: list[int] = []
    handler = threaded(work)
    await asyncio.gather(*(handler(EVENT) for _ in range(4)))
    assert most == [1] * 4


async def test_threaded_when_the_function_raises_raises_the_same() -> None:
    def work(event: Event) -> None:
        raise error

    for error in (Reject("no"), KeyError("key"), PartialFailure({EVENT: ValueError()})):
        with pytest.raises(type(error)) as caught:
            await threaded(work)(EVENT)
        assert caught.value is error


async def test_threaded_when_the_function_raises_stop_iteration_does_not_hang() -> None:
    handler = threaded(lambda events: next(iter(())))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await asyncio.wait_for(handler(EVENT), 5)


async def test_threaded_when_called_has_the_callers_context() -> None:
    def work(event: Event) -> None:
        seen.append(variable.get())
        variable.set("the thread's")

    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    handler = threaded(work)
    for value in ("first", "second"):
        variable.set(value)
        await handler(EVENT)
        assert variable.get() == value
    assert seen == ["first", "second"]


async def test_threaded_when_cancelled_again_and_again_waits_for_the_thread() -> None:
    def work(event: Event) -> None:
        begun.set()
        go_on.wait(5)
        ended.set()

    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    handling = asyncio.ensure_future(threaded(work)(EVENT))
    await until(begun.is_set)
    for _ in range(5):
        handling.cancel()
        await asyncio.sleep(0.005)
        assert not handling.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await handling
    assert ended.is_set()
    assert caught.value.__cause__ is None


async def test_threaded_when_cancelled_and_the_function_fails_tells_why() -> None:
    def work(event: Event) -> None:
        begun.set()
        go_on.wait(5)
        raise error

    error = ValueError("no")
    begun, go_on = threading.Event(), threading.Event()
    handling = asyncio.ensure_future(threaded(work)(EVENT))
    await until(begun.is_set)
    handling.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await handling
    assert caught.value.__cause__ is error


async def test_threaded_when_cancelled_before_a_thread_is_free_is_never_run() -> None:
    def work(event: Event) -> None:
        seen.append(event.id)
        go_on.wait(5)

    go_on = threading.Event()
    seen: list[str] = []
    handler = threaded(work)
    first = asyncio.ensure_future(handler(EVENT))
    second = asyncio.ensure_future(handler(Event(id="e2")))
    await until(lambda: seen)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(second, 4)
    go_on.set()
    await first
    assert seen == ["e1"]


@pytest.mark.parametrize("returned", ["coroutine", "future", "generator", "async generator"])
async def test_threaded_when_the_function_returns_what_nobody_runs_raises_type_error(returned: str) -> None:
    async def later() -> None:
        """Never run."""

    async def agenerator() -> AsyncIterator[None]:
        yield

    made: dict[str, Callable[[Any], Any]] = {
        "coroutine": lambda event: later(),
        "future": lambda event: future,
        "generator": lambda event: (each for each in "abc"),
        "async generator": lambda event: agenerator(),
    }
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="generator" if "generator" in returned else "returned an awaitable"):
        await threaded(made[returned])(EVENT)


async def test_threaded_when_forgotten_ends_its_threads() -> None:
    handler = threaded(lambda event: None, workers=2)
    await handler(EVENT)
    assert any("lambda" in thread.name for thread in threading.enumerate())
    del handler
    gc.collect()
    await until(lambda: not any("lambda" in thread.name for thread in threading.enumerate()))
