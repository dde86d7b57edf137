from collections.abc import Awaitable, Callable
from types import UnionType
from typing import Any, Literal, TypeVar, final, overload

from eda._event import Event
from eda.handlers import AnyHandler
from eda.options import SubscriptionOptions

__all__ = ["Router", "routed", "routes_of"]

_H = TypeVar("_H", bound=Callable[..., object])

@final
class Router:
    """A handler that passes each event to the handler of its payload class.

    `unknown` says what happens to an event whose type belongs to no class of the router. None: the subscription asks
    the server for the types of the router only; an event of another type that arrives all the same is a dead letter.
    "skip": the same, but such an event is acknowledged without being handled. "raise": the subscription asks for all
    events; those of other types become dead letters. "raw": the subscription asks for all events; those of other types
    go, as they are, to the handler under `otherwise`. A tombstone (`eda.forgotten`) of an event store goes there, too;
    without such a handler, it is acknowledged without being handled.

    Give the router to `conn.subscribe` in place of a handler; it works for every kind of subscription. In a test, call
    it directly: `await router(event)`.
    """

    def __init__(self, *, unknown: Literal["skip", "raise", "raw"] | None = None) -> None:
        """Make a router without handlers. Raises ConfigError for another value of `unknown`."""
    @overload
    def on(self, *classes: type[Any] | UnionType) -> Callable[[_H], _H]:
        """Register a handler for one or several payload classes: `@router.on(OrderPaid)`, `@router.on(A, B)`.

        A union counts as its members. `@router.on` and `@router.on()` take the classes from the annotation of the
        handler's first parameter. The handler is returned unchanged.

        The handler is an `async def` or a plain function. It gets the payload and, if it has a second parameter, the
        event. If its first parameter is annotated `list[...]`, it gets lists of payloads, and of events, and the
        subscription needs `batch`. In a projection, the last parameter must be `tx`: it gets the transaction.

        Raises ConfigError for a class that is not declared with `eda.payload` or that has a handler already, for a
        handler that can't be called like this, for an annotation that does not fit the classes, and if the router is
        subscribed already.
        """
    @overload
    def on(self, handler: _H, /) -> _H: ...
    def otherwise(self, handler: _H) -> _H:
        """Register the handler for events of unknown types, and return it unchanged. Needs `unknown="raw"`.

        The handler takes an Event; with `batch` it may take a `list[Event]`. Raises ConfigError, also if the router has
        such a handler already.
        """
    @property
    def types(self) -> tuple[str, ...]:
        """The types of the router's payload classes, aliases included, in the order of registration."""
    def __call__(self, events: Event | list[Event]) -> Awaitable[None]:
        """Pass an event, or a list of events, to the handlers, as a subscription does. Await the result.

        If the handler is a plain function, it has run when the call returns. Raises the handler's error; DecodeError if
        the data does not fit the payload class; UnknownType. For a list, PartialFailure has the errors of the events.
        """

def routed(handler: AnyHandler, options: SubscriptionOptions) -> tuple[AnyHandler, SubscriptionOptions]:
    """Return a subscription's handler and options: for a router, its function and the options with its filter.

    Any other handler is returned as it is. Raises ConfigError for a router that can't handle this subscription, for
    a payload class, and for a handler that takes payloads.
    """

_Signed = tuple[Callable[..., object], bool, bool, bool]

def routes_of(
    router: Router,
) -> tuple[tuple[str, ...], dict[str, _Signed], Literal["skip", "raise", "raw"] | None, _Signed | None]:
    """Return what a projection calls: the router's types, handlers by type, `unknown`, and the handler `otherwise`.

    A handler is (handler, takes_event, takes_list, takes_tx). Raises ConfigError for an annotation without a class.
    """
