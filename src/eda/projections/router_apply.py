"""A router as `apply`: each payload goes to the handler of its class, together with the transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from eda._event import Event
from eda._router import Router, routes_of
from eda.callables import kind_of_call
from eda.errors import ConfigError, UnknownType
from eda.handlers import PartialFailure, shown_handler
from eda.names import FORGOTTEN
from eda.projections.sink import Sink

__all__ = ["routed_apply"]

# A call of a handler with all that it takes but the transaction: its arguments, and the events that they are of.
_Call = tuple[Callable[..., object], tuple[Any, ...], list[Event]]


def routed_apply(
    router: Router, sink: Sink, *, is_single: bool
) -> tuple[Callable[[Any, Any], object], tuple[str, ...] | None]:
    """Return the function that applies events by the handlers of a router, and the types that it asks for; None: all.

    If one event of a list fails, the function raises a PartialFailure that names it. Raises ConfigError for a handler
    that the sink can't call.
    """
    routes = _Routes(router)
    is_async = False
    for handler, _, takes_list, takes_tx in routes.handlers:
        name = shown_handler(handler)
        if not takes_tx:
            raise ConfigError(
                f"handler {name} takes no transaction: in a projection, the last parameter of a router's handler must "
                "be `tx`, as in (order, tx) or (order, event, tx)",
                argument="apply",
            )
        if takes_list and is_single:
            raise ConfigError(f"handler {name} takes lists, so the projection needs batch=...", argument="batch")
        is_plain = not kind_of_call(handler)
        sink.check_apply(is_async=not is_plain)
        is_async = is_async or not is_plain
    types = routes.types if routes.unknown in (None, "skip") else None
    if is_async:

        async def apply(given: Any, tx: Any) -> None:
            calls = routes.calls([given] if is_single else given)
            for handler, arguments, events in calls:
                try:
                    result = handler(*arguments, tx)
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:
                    if is_single or len(events) > 1:
                        raise
                    raise PartialFailure({events[0]: error}) from error

        return apply, types

    def apply_in_thread(given: Any, tx: Any) -> None:
        for handler, arguments, events in routes.calls([given] if is_single else given):
            try:
                handler(*arguments, tx)
            except Exception as error:
                if is_single or len(events) > 1:
                    raise
                raise PartialFailure({events[0]: error}) from error

    return apply_in_thread, types


class _Routes:
    """The handlers of a router, by the type of the event."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.types, self._by_type, self.unknown, self._other = routes_of(router)
        if self.unknown == "raw" and self._other is None:
            raise ConfigError(
                f'{router!r} has unknown="raw" and no handler for events of unknown types: register one with '
                "@router.otherwise",
                argument="apply",
            )
        if not self.types and self._other is None:
            raise ConfigError(f"{router!r} has no handlers: register them with @router.on", argument="apply")

    @property
    def handlers(self) -> list[tuple[Callable[..., object], bool, bool, bool]]:
        """Return all handlers, each with what it takes."""
        found = list(dict.fromkeys(self._by_type.values()))
        return found if self._other is None else [*found, self._other]

    def calls(self, events: list[Event]) -> list[_Call]:
        """Return the calls of handlers that apply these events, in order. Consecutive events may share one call.

        Raises PartialFailure for an event whose payload can't be decoded, or whose type is not known.
        """
        calls: list[_Call] = []
        running: Any = None  # the route of the last call, if it takes lists
        for event in events:
            route = self._by_type.get(event.type)
            try:
                payload = event.payload() if route is not None else event
                if route is None:
                    route = self._route_of_unknown(event)
            except Exception as error:
                if len(events) == 1:
                    raise
                raise PartialFailure({event: error}) from error
            if route is None:
                continue
            handler, takes_event, takes_list, _ = route
            if not takes_list:
                running = None
                calls.append((handler, (payload, event) if takes_event else (payload,), [event]))
            elif running is route:
                arguments, of = calls[-1][1:]
                arguments[0].append(payload)
                of.append(event)
            else:
                running = route
                of = [event]
                calls.append((handler, ([payload], of) if takes_event else ([payload],), of))
        return calls

    def _route_of_unknown(self, event: Event) -> tuple[Callable[..., object], bool, bool, bool] | None:
        """Return the handler of an event of an unknown type; None if the event is passed over."""
        if self.unknown == "raw":
            return self._other
        if self.unknown == "skip" or event.type == FORGOTTEN:
            return None
        raise UnknownType(event.type, encoding=event.data.type, event_id=event.id, router=repr(self._router))
