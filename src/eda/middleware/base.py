"""`Middleware`: a user's code around each publish and each handler call, and the check of `connect(middleware=…)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from eda._event import Event
from eda.callables import kind_of_call
from eda.dead_letters.letter import NewDeadLetter
from eda.errors import ConfigError
from eda.publishing.publisher import Publisher
from eda.receipt import Receipt
from eda.subscribing.subscription import Subscription

__all__ = [
    "HOOKS",
    "FlushNext",
    "HandleBatchNext",
    "HandleNext",
    "Middleware",
    "PublishBatch",
    "PublishNext",
    "bound",
    "check_middleware",
    "overrides",
]

HOOKS = ("opened", "closed", "publish", "mark", "flush", "handle", "handle_batch", "observe", "dead_letter", "load")
PLAIN = ("mark", "observe", "dead_letter")  # these are plain functions, all others are `async def`


class PublishBatch(Protocol):
    """Events that are published together: those of one `conn.publish_batch`, or of one append to an event store."""

    @property
    def events(self) -> Sequence[Event]:
        """All events, as they were before the first hook."""


class PublishNext(Protocol):
    """The `call_next` of the hook `publish`: passes the event on to the next middleware, and at last to the server.

    Returns the event's Receipt if the program waits for it (`conn.publish`, `conn.publish_batch`, `send_and_wait`), and
    the event's id if a publisher has accepted the event (`send`, `send_many`, `send_columns`). `str()` of either is the
    id. Raises what the publish raises. It can be called once.
    """

    @property
    def publisher(self) -> Publisher | None:
        """The publisher that the program uses; None for `conn.publish` and `conn.publish_batch`."""

    @property
    def batch(self) -> PublishBatch | None:
        """The events that are published together with this one: the same object in the hooks of all of them.

        None for `conn.publish` and for a publisher.
        """

    def __call__(self, event: Event) -> Coroutine[Any, Any, Receipt | str]: ...


class FlushNext(Protocol):
    """The `call_next` of the hook `flush`: waits as `Publisher.flush` does. It can be called once."""

    def __call__(self) -> Coroutine[Any, Any, None]: ...


class HandleNext(Protocol):
    """The `call_next` of the hook `handle`: passes the event on to the next middleware, and at last to the handler.

    Raises what the handler raises. It can be called once.
    """

    @property
    def subscription(self) -> Subscription:
        """The subscription that the event belongs to: its `name`, its `options`, its counts."""

    def __call__(self, event: Event) -> Coroutine[Any, Any, None]: ...


class HandleBatchNext(Protocol):
    """The `call_next` of the hook `handle_batch`: passes a list of events on, at last to the handler.

    Raises what the handler raises. The events of a PartialFailure are those that were passed on. It can be called once.
    """

    @property
    def subscription(self) -> Subscription:
        """The subscription that the events belong to: its `name`, its `options`, its counts."""

    def __call__(self, events: list[Event]) -> Coroutine[Any, Any, None]: ...


class Middleware:
    """The base class of middleware: code around each publish and each handler call of a connection.

    Give instances to `connect(middleware=[...])`. The list goes from the program to the server: the hook `publish` runs
    from the first to the last middleware, the hooks `handle`, `handle_batch` and `load` run from the last to the first.
    A subclass overrides the hooks that it needs, as `async def`. Each hook around a call passes on what it was given,
    or a changed event, by `await call_next(...)`.
    """

    async def opened(self, conn: Any, /) -> None:
        """Run when a connection has opened, before the program gets it. `conn` is the `eda.Conn`, which may be used.

        It runs from the first to the last middleware. If it raises, the connection is closed, and whoever opens it gets
        the exception. `connect_timeout_s` does not include the hook. It must not open `conn` again.
        """

    async def closed(self, conn: Any, /) -> None:
        """Run when a connection has closed with all its subscriptions and publishers. Their counts can still be read.

        It runs from the last to the first middleware, once for each whose hook `opened` has returned. If the time for
        closing is over, the hook is cancelled at its first wait. An exception is logged.
        """

    async def publish(self, event: Event, call_next: PublishNext, /) -> object:
        """Run around each publish of an event. `event.stream` is the stream, and `event.id` is never empty.

        The event may be changed with `event.replace`, but not its `stream`. To refuse it, raise an exception, which the
        caller of the publish gets. A hook that returns without having called `call_next` is an error. The caller
        always gets the receipt or id of the publish itself, whatever the hook returns.
        """
        return await call_next(event)

    def mark(self, event: Event, publisher: Publisher, /) -> Event:
        """Return an event that a publisher sends, or a copy with other fields. It runs in place of `publish`.

        It runs for the events of `send`, `send_many` and `send_columns`. A middleware that has both hooks runs `mark`
        for these events, and `publish` for all others. `mark` is a plain function, and costs much less. It can't wait,
        and can't know whether the event is stored. The event is as the program has made it: its id may be empty. If
        `mark` raises, the caller of `send` gets the exception.
        """
        return event

    async def flush(self, publisher: Publisher, call_next: FlushNext, /) -> None:
        """Run around each flush of a publisher, also at the end of its `async with` block."""
        await call_next()

    async def handle(self, event: Event, call_next: HandleNext, /) -> None:
        """Run around each attempt to handle an event. `event.attempt` is its number.

        If the hook returns, the event is acknowledged, also if the hook has not called `call_next`. If it raises, the
        handler has failed: the event is retried, or becomes a dead letter. The subscription's `timeout_s` includes the
        hooks.
        """
        await call_next(event)

    async def handle_batch(self, events: list[Event], call_next: HandleBatchNext, /) -> None:
        """Run around each attempt to handle a batch; as `handle`.

        The events that are passed on may be changed with `event.replace`, be fewer, and have another order. Events that
        are left out are acknowledged with the batch.
        """
        await call_next(events)

    def observe(
        self, given: Event | list[Event], subscription: Subscription, /
    ) -> Callable[[BaseException | None], object] | None:
        """Begin to observe one attempt to handle an event, or with `batch` a list of events, which must not be changed.

        It may return a function. This function is called when the attempt has ended, with the exception of the attempt;
        None if it has succeeded. Both are plain functions, run in the task of the handler, and cost much less than a
        hook `handle`. A context variable that is set here is seen by the handler; the returned function must reset it.
        They can't change the event or its outcome, but if one of them raises, the attempt fails.

        A middleware may have this hook and `handle` too. Then `observe` is around `handle`.
        """
        return None

    def dead_letter(self, letter: NewDeadLetter, /) -> Callable[[BaseException | None], object] | None:
        """Begin to observe the storing of a dead letter: of an event that a subscription or projection gives up.

        It may return a function, which is called with the exception if the letter was not stored, else with None. A
        letter that was not stored is stored again later. Both are plain functions. They change nothing, and an
        exception of theirs is only logged.
        """
        return None

    async def load(self, event: Event, /) -> Event:
        """Return an event that an event store has read, as it was before this middleware's hook `publish` changed it.

        It runs for each event of `load`, `execute` and `history`, before the event is folded. Data, schema and meta may
        be changed with `event.replace`; `id`, `type`, `aggregate` and `version` may not. If it raises, the load fails
        with the exception. `conn.store` refuses a middleware that has the hook `publish` and a hook for handlers, but
        not this hook, because nobody would undo its changes.
        """
        return event

    def bound_to(self, conn: Any, /) -> Middleware:
        """Return the middleware whose hooks run for this connection, an `eda.Conn` that is not open yet.

        It is called once for each connection. By default it is the object itself. A middleware that has to know the
        connection of each event can return a new object for each connection.
        """
        return self


def overrides(middleware: Middleware, hook: str) -> bool:
    """Return whether the middleware has a hook of its own of this name."""
    return getattr(getattr(middleware, hook), "__func__", None) is not getattr(Middleware, hook)


def check_middleware(middleware: object) -> tuple[Middleware, ...]:
    """Return the middleware of a connection. Raises ConfigError if one of them can't work."""
    if not isinstance(middleware, list | tuple):
        raise _wrong(f"must be a list of eda.Middleware objects, not {type(middleware).__name__}")
    for index, each in enumerate(middleware):
        if isinstance(each, type) and issubclass(each, Middleware):
            raise _wrong(f"[{index}] is the class {each.__name__}: give an object, {each.__name__}(...)")
        if not isinstance(each, Middleware):
            raise _wrong(f"[{index}] must be an object of a subclass of eda.Middleware, not {each!r}")
        for before in range(index):
            if middleware[before] is each:
                raise _wrong(f"[{index}] is the same object as middleware[{before}]: its hooks would run twice")
        if not overrides(each, "bound_to"):
            _check_hooks(each, f"[{index}]")
    return tuple(middleware)


def bound(middleware: Sequence[Middleware], conn: Any) -> tuple[Middleware, ...]:
    """Return the middleware whose hooks run for this connection. Raises ConfigError if one of them can't work."""
    results = []
    for each in middleware:
        result = each.bound_to(conn)
        if not isinstance(result, Middleware):
            raise _wrong(f"{type(each).__name__}.bound_to must return an eda.Middleware, not {type(result).__name__}")
        _check_hooks(result, type(result).__name__)
        results.append(result)
    return tuple(results)


def _check_hooks(middleware: Middleware, where: str) -> None:
    """Raise ConfigError if the hooks of a middleware can't work."""
    hooks = [hook for hook in HOOKS if overrides(middleware, hook)]
    for hook in hooks:
        _check_hook(f"{type(middleware).__name__}.{hook}", hook, getattr(middleware, hook))
    if not hooks:
        _check_no_misspelt_hook(middleware, where)


def _check_no_misspelt_hook(middleware: Middleware, where: str) -> None:
    """Raise ConfigError if middleware without hooks has methods that its author may have meant to be hooks."""
    cls = type(middleware)
    methods = [name for name in dir(cls) if name not in HOOKS and not name.startswith("_")]
    methods = [name for name in methods if inspect.iscoroutinefunction(inspect.getattr_static(cls, name))]
    if methods:
        found = ", ".join(f"{cls.__name__}.{name}" for name in methods)
        raise _wrong(f"{where} has no hook: the hooks are {', '.join(HOOKS)}, and it has only {found}")


def _check_hook(name: str, hook: str, function: Any) -> None:
    """Raise ConfigError unless a hook is an `async def` that takes what it will be given."""
    kind = kind_of_call(function) if callable(function) else type(function).__name__
    if hook in PLAIN:
        if kind:
            raise _wrong(f"hook {name} must be a plain function, not {kind}")
    elif kind != "an async def":
        raise _wrong(f"hook {name} must be an async def, not {kind or 'a plain function'}")
    wanted = list(inspect.signature(getattr(Middleware, hook)).parameters)[1:]
    try:
        inspect.signature(function).bind(*[None] * len(wanted))
    except TypeError as error:
        raise _wrong(f"hook {name} must take ({', '.join(wanted)}): {error}") from error
    except Exception:
        return  # some compiled functions have no readable signature


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"middleware{'' if what.startswith('[') else ' '}{what}", argument="middleware")
