"""Observed handlers give back what they took, whichever way an attempt ends, and no later than it ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest

import eda
from eda.middleware.observing import hooked_handler
from leaks import MAX_BLOCKS, MAX_RSS, growth

N = 20_000
SUBSCRIPTION: Any = SimpleNamespace(options=SimpleNamespace(timeout_s=30.0))
EVENT = eda.Event(type="t")
ERROR = ValueError("no")
TUPLE = (1, 2)
RESULTS = {
    "None": None,
    "tuple": TUPLE,
    "no-tuple": (),
    "error": ERROR,
    "text": "x" * 100,
    "stop": StopIteration(TUPLE),
}


class Watch(eda.Middleware):
    """Counts attempts and their ends. With `fails`, the end raises."""

    def __init__(self, *, fails: bool = False) -> None:
        self.n_open = 0
        self.fails = fails

    def observe(self, given: Any, subscription: Any) -> Callable[[BaseException | None], object]:
        self.n_open += 1

        def end(error: BaseException | None) -> None:
            self.n_open -= 1
            if self.fails:
                raise LookupError("no collector")

        return end


class Blind(eda.Middleware):
    def observe(self, given: Any, subscription: Any) -> None:
        pass


class Pause:
    """Waits once, as a future does."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield "waiting")


class Ready:
    """An awaitable that is no coroutine, and whose iterator has neither `throw` nor `close`."""

    def __init__(self, result: Any, n_waits: int = 0) -> None:
        self.result = result
        self.n_waits = n_waits

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self.n_waits:
            self.n_waits -= 1
            return "waiting"
        stop = StopIteration()
        stop.value = self.result
        try:
            raise stop
        finally:
            del stop  # its traceback has this frame


class ReadyToFail(Ready):
    def __next__(self) -> Any:
        raise ERROR.with_traceback(None)


class NotAwaitable:
    def __await__(self) -> Any:
        raise ERROR.with_traceback(None)


def observed(handler: Any, *middleware: eda.Middleware) -> Any:
    function, parts = hooked_handler(middleware, handler, is_batch=False)
    for part in parts:
        part.subscription = SUBSCRIPTION
    return function


async def waiting(event: eda.Event) -> Any:
    return await Pause()


async def raising(event: eda.Event) -> None:
    raise ERROR.with_traceback(None)


def raising_plainly(event: eda.Event) -> None:
    raise ERROR.with_traceback(None)


def generating(event: eda.Event) -> Any:
    yield event


async def swallowing(event: eda.Event) -> Any:
    try:
        await Pause()
    except (ValueError, asyncio.CancelledError):
        return TUPLE


async def waiting_on(event: eda.Event) -> None:
    try:
        await Pause()
    finally:
        await Pause()


def returning(result: Any) -> Callable[[eda.Event], Any]:
    async def handle(event: eda.Event) -> Any:
        return result

    return handle


def drive(attempt: Any, *sent: Any) -> Any:
    """Send values to an awaitable's iterator; return the result, or what it waits for at last."""
    given = None
    for value in (None, *sent):
        try:
            given = attempt.send(value)
        except StopIteration as stopped:
            return stopped.value
    return given


def step(attempt: Any) -> Any:
    """Go on as compiled coroutines and `for` do. Return the result, or what it waits for."""
    try:
        return next(attempt)
    except StopIteration as stopped:
        return stopped.value


async def awaiting(awaitable: Any) -> Any:
    return await awaitable


def expect(error: type[BaseException], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except error:
        return
    raise AssertionError("it did not fail")


def begun(handler: Any, watch: eda.Middleware) -> Any:
    attempt = observed(handler, watch)(EVENT)
    assert attempt.send(None) == "waiting"
    return attempt


def thrown(watch: Watch, handler: Any, error: BaseException) -> Any:
    try:
        return begun(handler, watch).throw(error)
    except StopIteration as stopped:
        return stopped.value


def thrown_and_waiting_on(watch: Watch) -> None:
    attempt = begun(waiting_on, watch)
    assert attempt.throw(ERROR.with_traceback(None)) == "waiting"
    expect(ValueError, attempt.send, None)


def closed(watch: Watch, handler: Any) -> None:
    begun(handler, watch).close()


def closed_before(watch: Watch) -> None:
    observed(waiting, watch)(EVENT).close()


def used_again(watch: Watch) -> None:
    attempt = observed(returning(TUPLE), watch)(EVENT)
    assert drive(attempt) is TUPLE
    expect(RuntimeError, attempt.send, None)
    expect(RuntimeError, attempt.throw, ERROR)
    attempt.close()


def in_a_cycle(watch: Watch) -> None:
    held: list[Any] = []

    async def handle(event: eda.Event) -> None:
        assert held
        await Pause()

    held.append(observed(handle, watch)(EVENT))
    held[0].send(None)
    held[0].close()
    held.append(held)


def result_of(result: Any, how: Callable[[Any], Any]) -> Callable[[Watch], None]:
    def path(watch: Watch) -> None:
        assert how(observed(returning(result), watch)(EVENT)) is result
        assert how(observed(lambda event: Ready(result), watch)(EVENT)) is result

    return path


# Each is taken with a middleware that must have seen every attempt end.
PATHS: dict[str, Callable[[Watch], Any]] = {
    "plain": lambda watch: observed(lambda event: None, watch)(EVENT),
    "plain-failing": lambda watch: expect(ValueError, observed(raising_plainly, watch), EVENT),
    "plain-with-a-result": lambda watch: observed(lambda event: TUPLE, watch)(EVENT),
    "refused-generator": lambda watch: expect(TypeError, observed(generating, watch), EVENT),
    "blind": lambda watch: drive(observed(returning(TUPLE), Blind())(EVENT)),
    "failing": lambda watch: expect(ValueError, drive, observed(raising, watch)(EVENT)),
    "failing-awaited": lambda watch: expect(ValueError, drive, awaiting(observed(raising, watch)(EVENT))),
    "waiting": lambda watch: drive(observed(waiting, watch)(EVENT), TUPLE),
    "waiting-by-next": lambda watch: expect(
        StopIteration, lambda: [next(each) for each in [begun(waiting, watch)] * 2]
    ),
    "waiting-awaited": lambda watch: drive(awaiting(observed(waiting, watch)(EVENT)), ERROR),
    "two-hooks": lambda watch: drive(observed(waiting, watch, Watch(), Blind())(EVENT), TUPLE),
    "awaitable": lambda watch: drive(observed(lambda event: Ready(TUPLE, 1), watch)(EVENT), None),
    "awaitable-failing": lambda watch: expect(
        ValueError, drive, observed(lambda event: ReadyToFail(None), watch)(EVENT)
    ),
    "awaitable-that-is-none": lambda watch: expect(ValueError, observed(lambda event: NotAwaitable(), watch), EVENT),
    "awaitable-sent-a-value": lambda watch: expect(
        AttributeError, drive, observed(lambda event: Ready(TUPLE, 1), watch)(EVENT), "value"
    ),
    "awaitable-thrown-into": lambda watch: expect(
        AttributeError, begun(lambda event: Ready(TUPLE, 1), watch).throw, ERROR.with_traceback(None)
    ),
    "awaitable-closed": lambda watch: closed(watch, lambda event: Ready(TUPLE, 1)),
    "thrown": lambda watch: expect(ValueError, thrown, watch, waiting, ERROR.with_traceback(None)),
    "thrown-and-swallowed": lambda watch: thrown(watch, swallowing, ERROR.with_traceback(None)),
    "thrown-and-waiting-on": thrown_and_waiting_on,
    "thrown-before": lambda watch: expect(LookupError, observed(waiting, watch)(EVENT).throw, LookupError()),
    "closed": lambda watch: closed(watch, waiting),
    "closed-before": closed_before,
    "closed-and-waiting-on": lambda watch: expect(RuntimeError, closed, watch, waiting_on),
    "used-again": used_again,
    "cycle": in_a_cycle,
    **{f"result-{name}-by-next": result_of(result, step) for name, result in RESULTS.items()},
    **{f"result-{name}-sent": result_of(result, drive) for name, result in RESULTS.items() if name != "stop"},
    **{
        f"result-{name}-awaited": result_of(result, lambda attempt: drive(awaiting(attempt)))
        for name, result in RESULTS.items()
    },
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_many_attempts_end_in_one_way_does_not_grow(path: Callable[[Watch], Any]) -> None:
    watch = Watch()
    shared = (EVENT, ERROR, *TUPLE, TUPLE, SUBSCRIPTION, watch, waiting, *RESULTS.values())
    blocks, tracked, size = growth(lambda: path(watch), N, shared=shared)
    assert watch.n_open == 0
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


FAILING_ENDS: dict[str, Callable[[Watch], Any]] = {
    "plain": lambda watch: observed(lambda event: None, watch)(EVENT),
    "plain-failing": lambda watch: observed(raising_plainly, watch)(EVENT),
    "returned": lambda watch: drive(observed(returning(TUPLE), watch)(EVENT)),
    "returned-awaited": lambda watch: drive(awaiting(observed(returning(ERROR), watch)(EVENT))),
    "failed": lambda watch: drive(observed(raising, watch)(EVENT)),
    "thrown": lambda watch: thrown(watch, waiting, ERROR.with_traceback(None)),
    "swallowed": lambda watch: thrown(watch, swallowing, ERROR.with_traceback(None)),
    "closed": lambda watch: closed(watch, waiting),
}


@pytest.mark.parametrize("path", FAILING_ENDS.values(), ids=FAILING_ENDS)
def test_memory_when_the_end_of_the_hook_fails_does_not_grow(path: Callable[[Watch], Any]) -> None:
    watch = Watch(fails=True)

    def fail() -> None:
        expect(LookupError, path, watch)
        ERROR.__traceback__ = None

    blocks, tracked, size = growth(fail, N, shared=(EVENT, ERROR, TUPLE, watch))
    assert watch.n_open == 0
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


# --- in tasks --------------------------------------------------------------------------------------------------------


async def resting(event: eda.Event) -> None:
    await asyncio.get_running_loop().create_future()


async def taking_its_time(event: eda.Event) -> Any:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(0)


async def cancel(function: Any, *, at_once: bool = False) -> None:
    task = asyncio.ensure_future(awaiting(function(EVENT)))
    if not at_once:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def time_out(function: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await function(EVENT)


TASKS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "cancelled": (resting, cancel),
    "cancelled-at-leisure": (taking_its_time, cancel),
    "cancelled-before": (resting, lambda function: cancel(function, at_once=True)),
    "timed-out": (resting, time_out),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # where a task is cancelled before it has begun
def test_memory_when_attempts_in_tasks_are_cancelled_does_not_grow(name: str) -> None:
    watch = Watch()
    handler, way = TASKS[name]
    with asyncio.Runner() as runner:

        async def some() -> None:
            for _ in range(100):
                await way(observed(handler, watch))

        blocks, tracked, size = growth(lambda: runner.run(some()), 50, n_before=20, shared=(EVENT, watch, SUBSCRIPTION))
    assert watch.n_open == (0 if name != "cancelled-before" else 70 * 100)  # a coroutine that never began has no end
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


# --- how long things live --------------------------------------------------------------------------------------------


class Thing:
    """May be referred to weakly."""


class Failure(Exception):
    pass


@pytest.fixture
def without_collector() -> Any:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_result_when_it_is_taken_is_freed_with_the_attempt() -> None:
    watch = Watch()
    for handler in (returning, lambda result: lambda event: Ready(result)):
        thing = Thing()
        seen = weakref.ref(thing)
        attempt = observed(handler(thing), watch)(EVENT)
        assert drive(awaiting(attempt)) is thing
        del attempt, thing, handler
        assert seen() is None


@pytest.mark.usefixtures("without_collector")
def test_error_when_an_attempt_fails_is_freed_with_it() -> None:
    seen: list[weakref.ref[Failure]] = []

    def fail(event: eda.Event) -> None:
        error = Failure()
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def fail_later(event: eda.Event) -> None:
        fail(event)

    expect(Failure, observed(fail, Watch(), Watch()), EVENT)
    expect(Failure, drive, observed(fail_later, Watch(), Watch())(EVENT))
    expect(Failure, drive, awaiting(observed(fail_later, Watch())(EVENT)))
    assert [each() for each in seen] == [None] * 3


@pytest.mark.usefixtures("without_collector")
def test_attempt_when_it_is_dropped_where_it_waits_frees_the_handler() -> None:
    ended: list[str] = []
    seen: list[weakref.ref[Thing]] = []

    async def handle(event: eda.Event) -> None:
        thing = Thing()
        seen.append(weakref.ref(thing))
        try:
            await Pause()
        finally:
            ended.append("handler")

    before = sys.getrefcount(EVENT)
    attempt = begun(handle, Watch())
    assert seen[0]() is not None
    del attempt
    assert seen[0]() is None
    assert ended == ["handler"]
    assert sys.getrefcount(EVENT) == before


def test_attempt_when_its_hook_refers_back_to_it_is_collected() -> None:
    class Back(eda.Middleware):
        def observe(self, given: Any, subscription: Any) -> Any:
            kept = Thing()
            seen.append(weakref.ref(kept))

            def end(error: BaseException | None) -> None:
                assert kept

            ends.append(end)
            return end

    seen: list[weakref.ref[Thing]] = []
    ends: list[Any] = []
    attempt = observed(waiting, Back())(EVENT)
    attempt.send(None)
    ends.pop().attempt = attempt
    del attempt
    gc.collect()
    assert seen[0]() is None
