"""Users' handlers: their checks, handlers from blocking functions, and the exceptions that handlers raise."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeAlias

from eda._event import Event
from eda.callables import kind_of_call
from eda.errors import ConfigError, picklable, printable

__all__ = [
    "AnyHandler",
    "BatchHandler",
    "GivenBack",
    "Handler",
    "PartialFailure",
    "Reject",
    "check_callable",
    "check_handler",
    "errors_in",
    "refuse_result",
    "shown_handler",
    "threaded",
]

MAX_WORKERS = 1024

P = ParamSpec("P")

Handler: TypeAlias = Callable[[Event], object]
"""A handler as users write it: an `async def` or a plain function that takes one event."""

BatchHandler: TypeAlias = Callable[[list[Event]], object]
"""A handler for a subscription with `batch`: an `async def` or a plain function that takes a list of events."""

AnyHandler: TypeAlias = Callable[[Any], object]
"""Either of them: the options of the subscription decide which."""


class Reject(Exception):
    """An exception for handlers: the event becomes a dead letter at once, without another attempt."""

    def __init__(self, reason: str = "") -> None:
        # A reason that is not a str must not raise here: the rejection would become a failure, which is retried.
        self.reason: str = str.__str__(reason) if isinstance(reason, str) else str(reason)
        super().__init__(self.reason)

    def __str__(self) -> str:
        return self.reason or "rejected"


class PartialFailure(Exception):
    """An exception for batch handlers: only some events of the batch failed, `{event: error, …}`.

    The failed events are handled again; the others are acknowledged. `failures` is a dict of the failed events, each
    with its error. Events with equal envelopes are equal. So if a batch has an event twice, because it was stored
    twice, both are the same key, and both fail.

    Raises ConfigError if `failures` is empty, or not a mapping of events to exceptions.
    """

    # Events that were handled although an equal event failed. A router knows them, because it handles one by one.
    _handled: Sequence[Event] = ()

    def __init__(self, failures: Mapping[Event, BaseException]) -> None:
        if not isinstance(failures, Mapping):
            raise _wrong_failures(f"must be a mapping of events to their errors, not {type(failures).__name__}")
        if not failures:
            raise _wrong_failures("is empty: if no event of the batch failed, the handler must return")
        for event, error in failures.items():
            if not isinstance(event, Event):
                raise _wrong_failures(f"has a key that is a {type(event).__name__}, not an eda.Event")
            if not isinstance(error, BaseException):
                raise _wrong_failures(f"must map event {printable(event.id)} to an exception, not {error!r}")
        self.failures: dict[Event, BaseException] = dict(failures)
        super().__init__(self.failures)

    def __str__(self) -> str:
        event, error = next(iter(self.failures.items()))
        n_failed = len(self.failures)
        events = "1 event" if n_failed == 1 else f"{n_failed} events"
        return f"{events} of the batch failed; first: event {printable(event.id)}: {str(error) or type(error).__name__}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ({event: picklable(error) for event, error in self.failures.items()},)

    def error_of(self, event: Event) -> BaseException | None:
        """Return the event's error; None if the event did not fail."""
        return None if any(event is each for each in self._handled) else self.failures.get(event)


class GivenBack(BaseException):
    """The event was not handled, and is handled again at once. A handler of eda's own raises it."""


def threaded(function: Callable[P, object], workers: int = 1) -> Callable[P, Coroutine[Any, Any, None]]:
    """Return a handler that calls a blocking function with one event (with `batch`, with a list of events).

    Under `router.on` the function gets the payload and, if it has a second parameter, the event.

    The function runs in threads of this handler, with the context variables of the caller. There are at most `workers`
    threads (1 to 1,024), and each is started when it is first needed. Give the subscription a `concurrency` that
    matches. The handler raises the exceptions of the function. The function's result is ignored; but for an awaitable
    or a generator the handler raises TypeError.

    A thread can't be cancelled. If the handler is cancelled (by a time-out or a closing connection), a call that has
    not begun is dropped. The handler waits for a call that has begun, however long it takes, so that the event is not
    handled twice at the same time. Then the cancellation continues.

    Raises ConfigError if the function can't be called or is not a plain function (an `async def`, a generator, a
    Router), and if `workers` is out of range.
    """
    if not callable(function):
        raise ConfigError(f"function must be callable, not {type(function).__name__}", argument="function")
    kind = kind_of_call(function)
    if kind:
        raise ConfigError(f"function must be a plain blocking function, not {kind}", argument="function")
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= MAX_WORKERS:
        raise ConfigError(f"workers must be an int from 1 to {MAX_WORKERS}, not {workers!r}", argument="workers")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    threads: ThreadPoolExecutor | None = None

    def run(*arguments: P.args, **options: P.kwargs) -> object:
        try:
            return function(*arguments, **options)
        except StopIteration as error:  # a future refuses this exception
            raise RuntimeError(f"{name} raised StopIteration") from error

    async def handler(*arguments: P.args, **options: P.kwargs) -> None:
        nonlocal threads
        if threads is None:
            threads = ThreadPoolExecutor(workers, thread_name_prefix=f"eda {name}")
        running = threads.submit(contextvars.copy_context().run, functools.partial(run, *arguments, **options))
        done = asyncio.wrap_future(running)
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await asyncio.wait({done})
            except asyncio.CancelledError as error:
                cancelled = error
                running.cancel()  # has no effect on a call that has begun
        if cancelled is not None:
            raise cancelled from None if done.cancelled() else done.exception()
        result = done.result()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{name}, a function for threads, returned an awaitable: {type(result).__name__}")
        refused = refuse_result(result)
        if refused is not None:
            raise refused

    functools.update_wrapper(handler, function, updated=())
    return handler


def check_handler(handler: Any, *, batch: bool) -> None:
    """Raise ConfigError for a handler that clearly can't be called with an event (with `batch`, a list of events)."""
    argument = "a list of events" if batch else "an event"
    name = shown_handler(handler)
    check_callable(handler, name)
    try:
        # If the handler is decorated, eda calls the outer function, so the outer signature counts.
        signature = inspect.signature(handler, follow_wrapped=False)
    except Exception:
        # Some compiled functions have no readable signature. From Python 3.14 onwards annotations are evaluated here,
        # which may raise anything.
        return
    try:
        signature.bind(object())
    except TypeError as error:
        message = f"handler must take one argument, {argument}: {name}{signature} does not ({error})"
        raise ConfigError(message, argument="handler") from error


def check_callable(handler: object, name: str) -> None:
    """Raise ConfigError for a handler that can't be called, and for a generator function, whose call runs nothing."""
    if not callable(handler):
        hint = ": give the function itself, not what it returns" if inspect.isawaitable(handler) else ""
        raise ConfigError(f"handler must be callable, not {type(handler).__name__}{hint}", argument="handler")
    kind = kind_of_call(handler)
    if "generator" in kind:
        message = f"handler {name} is {kind}: calling it runs nothing, so it would handle nothing"
        raise ConfigError(message, argument="handler")


def shown_handler(handler: Any) -> str:
    """Return the name of a handler for messages, with its module."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    named = handler if hasattr(handler, "__qualname__") and hasattr(handler, "__module__") else type(handler)
    return f"{named.__module__}.{named.__qualname__}"


def refuse_result(result: object) -> TypeError | None:
    """Return an error if the handler returned a generator, which nobody will run; None for any other result.

    Call it for results that are neither None nor an awaitable.
    """
    if isinstance(result, types.GeneratorType | types.AsyncGeneratorType):
        what = "a generator" if isinstance(result, types.GeneratorType) else "an async generator"
        return TypeError(f"the handler returned {what}, which nobody runs: {result.__qualname__}")
    return None


def errors_in(failure: PartialFailure, events: Sequence[Event]) -> list[BaseException | None]:
    """Return the error of each event of a batch, None for an event that was handled.

    If the failure names no event of the batch, all events have a ConfigError that says so.
    """
    found = [failure.error_of(event) for event in events]
    if not any(each is not None for each in found):
        return [ConfigError("PartialFailure names no event of the batch", argument="failures")] * len(events)
    return found


def _wrong_failures(what: str) -> ConfigError:
    return ConfigError(f"failures {what}", argument="failures")
