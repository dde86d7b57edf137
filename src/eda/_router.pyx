"""Router: passes each event, decoded into its payload class, to the handler of that class."""

cimport cython
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject

import sys
from dataclasses import replace
from functools import partial

from eda._event cimport F_TYPE, Event

from eda.callables import AWAITED
from eda.errors import ConfigError, UnknownType
from eda.handler_signatures import (
    Unresolved, accepts, declared_classes, named_classes, names_classes, read_signature, refuse_payload_handler,
    shown_annotation,
)
from eda.handlers import GivenBack, PartialFailure, errors_in, refuse_result, shown_handler
from eda.names import FORGOTTEN
from eda.typed.registry import payload_class_of

__all__ = ["Router", "routed", "routes_of"]

cdef enum:
    MAX_SHOWN = 10                  # types that the text of a router names

# How a handler is called. The first three take one event, the other three a list of events.
cdef enum Call:
    PAYLOAD = 0
    PAYLOAD_AND_EVENT = 1
    EVENT_ONLY = 2
    PAYLOADS = 3
    PAYLOADS_AND_EVENTS = 4
    EVENTS_ONLY = 5

# What the router does with an event whose type it does not know.
cdef enum Unknown:
    UNASKED = 0
    SKIP = 1
    RAISE = 2
    RAW = 3

cdef dict UNKNOWN = {None: UNASKED, "skip": SKIP, "raise": RAISE, "raw": RAW}

cdef extern from "Python.h":
    bint is_coroutine "PyCoro_CheckExact"(object it)


@cython.final
cdef class _Route:
    """A handler, and how it is called."""

    cdef object handler
    cdef int call                   # a Call
    cdef tuple classes              # the payload classes that were given for it; (): its annotation names them
    cdef bint takes_tx              # with the transaction of a projection as its last argument

    def __init__(self, object handler, tuple classes):
        self.handler = handler
        self.classes = classes

    cdef object call_one(self, object payload, Event event):
        """Call the handler with one event; returns what the handler returned."""
        if self.call == PAYLOAD_AND_EVENT:
            return self.handler(payload, event)
        if self.call < PAYLOADS:
            return self.handler(payload)            # EVENT_ONLY: the payload is the event
        raise ConfigError(
            f"handler {shown_handler(self.handler)} takes a list: subscribe the router with batch=..., or call it with "
            "a list of events",
            argument="batch",
        )

    cdef object call_many(self, list payloads, list events):
        """Call the handler with a list of payloads; returns what the handler returned."""
        if self.call == PAYLOADS_AND_EVENTS:
            return self.handler(payloads, events)
        return self.handler(payloads)


@cython.final
cdef class _Done:
    """An awaitable whose result is None at once."""

    def __await__(self):
        return iter(())


cdef _Done DONE = _Done()


@cython.final
cdef class Router:
    """Router(*, unknown=None)\n--\n
    A handler that passes each event to the handler of its payload class.

    `unknown` says what happens to an event whose type belongs to no class of the router. None: the subscription asks
    the server for the types of the router only; an event of another type that arrives all the same is a dead letter.
    "skip": the same, but such an event is acknowledged without being handled. "raise": the subscription asks for all
    events; those of other types become dead letters. "raw": the subscription asks for all events; those of other types
    go, as they are, to the handler under `otherwise`. A tombstone (`eda.forgotten`) of an event store goes there, too;
    without such a handler, it is acknowledged without being handled.

    Give the router to `conn.subscribe` in place of a handler; it works for every kind of subscription. In a test, call
    it directly: `await router(event)`.
    """

    cdef object asked               # `unknown` as the user gave it
    cdef int unknown                # an Unknown
    cdef dict by_type               # event type or alias -> _Route
    cdef dict by_class              # payload class -> _Route
    cdef _Route other               # the handler under `otherwise`, or None
    cdef list unread                # routes whose annotations could not be resolved yet
    cdef bint is_subscribed

    def __init__(self, *, unknown=None):
        """Make a router without handlers. Raises ConfigError for another value of `unknown`."""
        if not (unknown is None or isinstance(unknown, str)) or unknown not in UNKNOWN:
            raise ConfigError(
                f"unknown must be None, 'skip', 'raise' or 'raw', not {unknown!r}", argument="unknown"
            )
        if self.by_type is not None:
            raise TypeError("a Router can't be initialised again")
        self.asked = None if unknown is None else str.__str__(unknown)
        self.unknown = UNKNOWN[unknown]
        self.by_type = {}
        self.by_class = {}
        self.unread = []

    # --- adding handlers -----------------------------------------------------------------------------------------

    def on(self, *classes):
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
        if len(classes) == 1 and not names_classes(classes[0]) and callable(classes[0]):
            self.add(classes[0], ())
            return classes[0]
        cdef tuple given = declared_classes(classes, "") if classes else ()

        def register(handler):
            self.add(handler, given)
            return handler

        return register

    def otherwise(self, handler):
        """Register the handler for events of unknown types, and return it unchanged. Needs `unknown="raw"`.

        The handler takes an Event; with `batch` it may take a `list[Event]`. Raises ConfigError, also if the router has
        such a handler already.
        """
        self.check_open(handler)
        name = shown_handler(handler)
        if self.unknown != RAW:
            raise ConfigError(
                f"handler {name} under otherwise would never be called: a router with unknown={self.asked!r} passes on "
                'no event of an unknown type. Write eda.Router(unknown="raw")',
                argument="unknown",
            )
        if self.other is not None:
            raise ConfigError(
                f"the router has a handler under otherwise already, {shown_handler(self.other.handler)}: "
                f"{name} can't be another one",
                argument="handler",
            )
        cdef _Route route = _Route(handler, ())
        signature = self.read(route, False)
        route.call = EVENTS_ONLY if signature.takes_list else EVENT_ONLY
        route.takes_tx = signature.takes_tx
        self.other = route
        return handler

    cdef object add(self, object handler, tuple classes):
        self.check_open(handler)
        cdef _Route route = _Route(handler, classes)
        try:
            signature = self.read(route, True)
        except Unresolved:
            self.put(route, classes)        # finds out at once that a class has a handler already
            self.unread.append(route)
            return
        self.finish(route, signature)

    cdef object finish(self, _Route route, object signature):
        """Check the classes of a handler whose signature was read, and route their events to it."""
        cdef tuple classes = route.classes
        name = shown_handler(route.handler)
        if not classes:
            classes = named_classes(signature.annotation, name)
        for cls in classes:
            if not accepts(signature.annotation, cls):
                raise ConfigError(
                    f"handler {name} is registered for {cls.__qualname__}, but its annotation "
                    f"{shown_annotation(signature.annotation)} does not accept one",
                    argument="handler",
                )
        self.put(route, classes)
        route.takes_tx = signature.takes_tx
        if signature.takes_list:
            route.call = PAYLOADS_AND_EVENTS if signature.takes_event else PAYLOADS
        else:
            route.call = PAYLOAD_AND_EVENT if signature.takes_event else PAYLOAD

    cdef object put(self, _Route route, tuple classes):
        """Route the events of the classes to a handler. Raises ConfigError if a class has another handler."""
        cdef _Route other
        for cls in classes:
            other = self.by_class.get(cls)
            if other is not None and other is not route:
                raise ConfigError(
                    f"{cls.__qualname__} has a handler in this router already, {shown_handler(other.handler)}: "
                    f"{shown_handler(route.handler)} can't be another one",
                    argument="handler",
                )
        for cls in classes:
            self.by_class[cls] = route
            declared = payload_class_of(cls)
            for type in (declared.type, *declared.aliases):
                self.by_type[type] = route

    cdef object check_open(self, object handler):
        if self.is_subscribed:
            raise ConfigError(
                f"the router is subscribed already, so handler {shown_handler(handler)} can't be added: events of its "
                "types were not asked for. Register all handlers first",
                argument="handler",
            )

    cdef object read(self, _Route route, bint of_payloads):
        """Return the signature of a handler that is being registered. Raises ConfigError, Unresolved."""
        try:
            return read_signature(route.handler, None, of_payloads=of_payloads)
        except Unresolved:
            # A class that was defined in a function, like the handler.
            return read_signature(route.handler, sys._getframe(0).f_locals, of_payloads=of_payloads)

    cdef object settle(self):
        """Read the annotations that could not be resolved before. Raises ConfigError if one still can't be."""
        cdef _Route route
        while self.unread:
            route = self.unread[0]
            try:
                signature = read_signature(route.handler, None, of_payloads=True)
            except Unresolved as error:
                raise ConfigError(f"handler {shown_handler(route.handler)}: {error}", argument="handler") from error
            self.finish(route, signature)
            del self.unread[0]

    # --- subscribing ---------------------------------------------------------------------------------------------

    @property
    def types(self):
        """The types of the router's payload classes, aliases included, in the order of registration."""
        self.settle()
        return tuple(self.by_type)

    cdef tuple subscribed(self, object options):
        """Return the function that handles events, or lists of them, and the options with the router's filter."""
        cdef tuple types = self.types
        cdef _Route route
        if self.unknown == RAW and self.other is None:
            raise self.without_other()
        if not types and self.unknown != RAW:
            raise ConfigError(f"{self!r} has no handlers: register them with @router.on", argument="handler")
        for route in (*self.by_class.values(), self.other):
            if route is not None:
                if route.takes_tx:
                    raise ConfigError(
                        f"handler {shown_handler(route.handler)} takes a transaction, tx, which only a projection has",
                        argument="handler",
                    )
                if options.batch is None and route.call >= PAYLOADS:
                    raise ConfigError(
                        f"handler {shown_handler(route.handler)} takes lists, so the subscription needs batch=...",
                        argument="batch",
                    )
        if options.types is None:
            if self.unknown <= SKIP:
                options = replace(options, types=types)
        elif types and not set(types).intersection(options.types):
            raise ConfigError(
                f"types={list(options.types)} has none of the types that the router handles: {', '.join(types)}",
                argument="types",
            )
        self.is_subscribed = True
        handle = self._handle if options.batch is None else self._handle_batch
        return (partial(handle, in_order=True) if options.batch and options.serial else handle), options

    cdef object without_other(self):
        """Return the error of a router with unknown="raw" that has no handler for events of unknown types."""
        return ConfigError(
            f'{self!r} has unknown="raw" and no handler for events of unknown types: register one with '
            "@router.otherwise",
            argument="handler",
        )

    # --- handling ------------------------------------------------------------------------------------------------

    def __call__(self, events):
        """Pass an event, or a list of events, to the handlers, as a subscription does. Await the result.

        If the handler is a plain function, it has run when the call returns. Raises the handler's error; DecodeError if
        the data does not fit the payload class; UnknownType. For a list, PartialFailure has the errors of the events.
        """
        self.settle()
        if isinstance(events, list):
            return self._handle_batch(events)
        if not isinstance(events, Event):
            raise ConfigError(
                f"a router takes an eda.Event or a list of them, not {type(events).__name__}", argument="events"
            )
        result = self.handle(<Event>events)
        return result if result is not None and is_awaitable(result) else DONE

    def _handle(self, Event event not None):
        return self.handle(event)

    cdef inline object handle(self, Event event):
        """Call the handler of an event; returns what the handler returned."""
        cdef PyObject* found = PyDict_GetItem(self.by_type, event.get_text(F_TYPE))
        cdef _Route route
        if found is NULL:
            route = self.route_of_unknown(event)
            return None if route is None else route.call_one(event, event)
        route = <_Route>found
        return route.call_one(event.payload(), event)

    cdef _Route route_of_unknown(self, Event event):
        """Return the handler of an event of an unknown type; None if the event is passed over."""
        if self.unknown == RAW:
            if self.other is None:
                raise self.without_other()      # only in a test: `subscribed` refuses such a router
            return self.other
        if self.unknown == SKIP or event.get_text(F_TYPE) == FORGOTTEN:
            return None
        raise UnknownType(event.type, encoding=event.data.type, event_id=event.id, router=repr(self))

    async def _handle_batch(self, list events not None, *, bint in_order=False):
        """Call the handlers of the events one by one, in order, and list handlers with runs of consecutive events.

        Events that fail become one PartialFailure, at the end. With `in_order`, no handler is called after the first
        failure: the events that follow are given back. Cancellation and other BaseExceptions are raised as they are.
        """
        cdef dict failures = {}
        cdef set failed = set()         # the id() of each event in `failures`, where equal events are one key
        cdef list payloads = []
        cdef list run = []              # the events of `payloads`, which wait for the end of their run
        cdef _Route route
        cdef _Route running = None      # the handler of the run
        cdef PyObject* found
        cdef Event event
        for event in events:
            try:
                found = PyDict_GetItem(self.by_type, event.get_text(F_TYPE))
                route = self.route_of_unknown(event) if found is NULL else <_Route>found
                if route is None:
                    continue
                payload = event if found is NULL else event.payload()
            except Exception as error:
                if in_order and run:
                    await self._end_run(running, payloads, run, failures, failed)
                    payloads, run = [], []
                if not (in_order and failed):
                    failures[event] = error
                    failed.add(id(event))
                if in_order:
                    give_back_from(events, event, failures, failed)
                    break
                continue
            if run and route is not running:
                await self._end_run(running, payloads, run, failures, failed)
                payloads, run = [], []
                if in_order and failed:
                    give_back_from(events, event, failures, failed)
                    break
            if route.call >= PAYLOADS:
                running = route
                payloads.append(payload)
                run.append(event)
                continue
            try:
                result = route.call_one(payload, event)
                if result is not None and is_awaitable(result):
                    await result
            except Exception as error:
                failures[event] = error
                failed.add(id(event))
                if in_order:
                    give_back_from(events, event, failures, failed)
                    break
        if run:
            await self._end_run(running, payloads, run, failures, failed)
        if failures:
            failure = PartialFailure(failures)
            handled = [event for event in events if id(event) not in failed and event in failures]
            if handled:
                failure._handled = handled
            raise failure

    async def _end_run(self, _Route route, list payloads, list events, dict failures, set failed):
        """Call a list handler with a run of events, and note the events that failed."""
        try:
            result = route.call_many(payloads, list(events))
            if result is not None and is_awaitable(result):
                await result
            return
        except PartialFailure as error:
            errors = errors_in(error, events)
        except Exception as error:
            errors = [error] * len(events)
        for event, problem in zip(events, errors):
            if problem is not None:
                failures[event] = problem
                failed.add(id(event))

    # --- as a value ----------------------------------------------------------------------------------------------

    def __repr__(self):
        shown = ", ".join([*self.by_type][:MAX_SHOWN]) or "without handlers"
        if len(self.by_type) > MAX_SHOWN:
            shown += f" and {len(self.by_type) - MAX_SHOWN} more types"
        unknown = "" if self.asked is None else f" unknown={self.asked!r}"
        return f"<Router {shown}{unknown}>"

    def __reduce__(self):
        raise TypeError("a Router can't be copied or pickled: it holds functions")


AWAITED.add(Router)


def routes_of(Router router not None):
    """Return what a projection calls: the router's types, handlers by type, `unknown`, and the handler `otherwise`.

    A handler is (handler, takes_event, takes_list, takes_tx). Raises ConfigError for an annotation without a class.
    """
    cdef tuple types = router.types
    router.is_subscribed = True
    return types, {type: signed(route) for type, route in router.by_type.items()}, router.asked, signed(router.other)


cdef tuple signed(_Route route):
    if route is None:
        return None
    return route.handler, route.call in (PAYLOAD_AND_EVENT, PAYLOADS_AND_EVENTS), route.call >= PAYLOADS, route.takes_tx


def routed(handler, options):
    """Return a subscription's handler and options: for a router, its function and the options with its filter.

    Any other handler is returned as it is. Raises ConfigError for a router that can't handle this subscription, for
    a payload class, and for a handler that takes payloads.
    """
    if type(handler) is Router:
        return (<Router>handler).subscribed(options)
    if handler is Router:
        raise ConfigError("handler is the class eda.Router: give a router, eda.Router()", argument="handler")
    if isinstance(handler, type) and payload_class_of(handler) is not None:
        # A call would make a payload whose first field is the event, and the event would be acknowledged.
        raise ConfigError(
            f"handler is the payload class {handler.__qualname__}: give a function, or a router with a handler for "
            "the class",
            argument="handler",
        )
    refuse_payload_handler(handler)
    return handler, options


cdef int give_back_from(list events, Event first, dict failures, set failed) except -1:
    """Give back `first`, unless it has failed, and the events after it: they were not handled."""
    cdef bint follows = False
    cdef Event event
    for event in events:
        if follows or event is first:
            follows = True
            failed.add(id(event))
            failures.setdefault(event, GivenBack("an earlier event of the list has failed"))
    return 0


cdef bint is_awaitable(object result) except -1:
    """Return whether the result of a handler has to be awaited. Raises TypeError for a generator, which nobody runs."""
    if is_coroutine(result) or hasattr(result, "__await__"):
        return True
    if (error := refuse_result(result)) is not None:
        raise error
    return False
