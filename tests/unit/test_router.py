"""eda.Router: which handler gets an event, what becomes of unknown types, and batches. Without a server."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import eda
from eda._router import routed
from helpers import until


@eda.payload("router-paid", aliases=("router-payed",))
class Paid(msgspec.Struct, frozen=True):
    n: int


@eda.payload("router-shipped")
@dataclass(frozen=True)
class Shipped:
    n: int


@eda.payload("router-closed")
@dataclass(frozen=True)
class Closed:
    """Declared, and known to no router here."""

    n: int


def event(payload: Any, n: int = 0) -> eda.Event:
    return eda.Event(data=payload, id=f"e{payload.n or n}")


def broken(type: str, n: int) -> eda.Event:
    """Return an event whose data does not fit its class."""
    return eda.Event(type=type, id=f"e{n}", data=eda.JSON({"n": "no number"}))


def of_type(type: str, n: int = 1) -> eda.Event:
    return eda.Event(type=type, id=f"e{n}", data=eda.JSON({"n": n}))


class Seen(list[Any]):
    """What handlers were called with."""

    def router(self, **options: Any) -> eda.Router:
        """Return a router with an `async def`, with event, and a plain function."""
        router = eda.Router(**options)

        @router.on(Paid)
        async def paid(order: Paid, event: eda.Event) -> None:
            await asyncio.sleep(0)
            self.append((order, event.id))

        @router.on
        def shipped(order: Shipped) -> None:
            self.append(order)

        return router


# --- one event -------------------------------------------------------------------------------------------------------


async def test_router_when_awaited_calls_the_handler_of_the_class() -> None:
    seen = Seen()
    router = seen.router()
    assert await router(event(Paid(1))) is None
    assert await router(event(Shipped(2))) is None
    assert await router(of_type("router-payed", 3)) is None
    assert seen == [(Paid(1), "e1"), Shipped(2), (Paid(3), "e3")]


def test_router_when_the_handler_is_a_plain_function_has_called_it_at_once() -> None:
    seen = Seen()
    seen.router()(event(Shipped(1)))
    assert seen == [Shipped(1)]


def test_router_when_called_decodes_anew_for_each_handler() -> None:
    seen = Seen()
    shipped = Shipped(1)
    seen.router()(event(shipped))
    assert seen[0] is not shipped


@pytest.mark.parametrize("result", [None, 5, "text", [], object()])
async def test_router_when_a_plain_function_returns_anything_ignores_it(result: object) -> None:
    router = eda.Router()
    router.on(Paid)(lambda order: result)
    assert await router(event(Paid(1))) is None


async def test_router_when_a_handler_returns_an_awaitable_awaits_it() -> None:
    future = asyncio.get_running_loop().create_future()
    router = eda.Router()
    router.on(Paid)(lambda order: future)
    waiting = asyncio.ensure_future(router(event(Paid(1))))
    await asyncio.sleep(0)
    assert not waiting.done()
    future.set_result(None)
    await waiting


async def test_router_when_a_function_returns_a_generator_refuses_it() -> None:
    router = eda.Router()
    router.on(Paid)(lambda order: (each for each in [1]))
    with pytest.raises(TypeError, match="returned a generator"):
        await router(event(Paid(1)))
    with pytest.raises(eda.PartialFailure, match="returned a generator"):
        await router([event(Paid(1))])


async def test_router_when_a_handler_raises_passes_its_error_on() -> None:
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        raise KeyError(order.n)

    @router.on(Shipped)
    def shipped(order: Shipped) -> None:
        raise eda.Reject("no such customer")

    with pytest.raises(KeyError, match="1"):
        await router(event(Paid(1)))
    with pytest.raises(eda.Reject, match="no such customer"):
        router(event(Shipped(1)))


def test_router_when_the_data_does_not_fit_does_not_call_the_handler() -> None:
    seen = Seen()
    with pytest.raises(eda.DecodeError) as caught:
        seen.router()(broken("router-paid", 1))
    assert caught.value.event_id == "e1"
    assert seen == []


@pytest.mark.parametrize("wrong", [None, "event", 5, (), {}])
def test_router_when_called_with_anything_else_says_so(wrong: Any) -> None:
    with pytest.raises(eda.ConfigError, match=r"takes an eda.Event or a list of them, not "):
        Seen().router()(wrong)


def test_router_when_it_has_no_handler_still_says_what_is_unknown() -> None:
    with pytest.raises(eda.UnknownType):
        eda.Router()(event(Paid(1)))


@pytest.mark.parametrize("bare", [True, False])
async def test_router_when_the_handler_blocks_calls_it_in_a_thread(bare: bool) -> None:
    seen: list[Any] = []

    def paid(order: Paid, event: eda.Event) -> None:
        seen.append((order, event.id, threading.current_thread().name))

    async def handle() -> None:
        router = eda.Router()
        handler = eda.threaded(paid)
        assert (router.on(handler) if bare else router.on(Paid)(handler)) is handler
        await router(event(Paid(1)))
        await router([event(Paid(2))])

    await handle()
    assert [each[:2] for each in seen] == [(Paid(1), "e1"), (Paid(2), "e2")]
    assert all(each[2].startswith("eda ") for each in seen)
    gc.collect()
    await until(lambda: not any(thread.name.startswith("eda ") for thread in threading.enumerate()))


# --- types that the router does not know -----------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["router-closed", "router-nobody", ""])
@pytest.mark.parametrize("unknown", [None, "raise"])
async def test_unknown_type_when_not_skipped_is_an_error_with_the_id(unknown: Any, type: str) -> None:
    seen = Seen()
    with pytest.raises(eda.UnknownType) as caught:
        await seen.router(unknown=unknown)(of_type(type))
    assert (caught.value.type, caught.value.event_id, caught.value.encoding) == (type, "e1", "json")
    shown = f"<Router {', '.join(TYPES)}{(unknown and ' unknown=' + repr(unknown)) or ''}> has no handler for the type "
    assert str(caught.value).startswith(shown)
    assert str(caught.value).endswith(" of event e1")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(eda.PartialFailure) as batch:
        await seen.router(unknown=unknown)([of_type(type)])
    assert isinstance(batch.value.failures[of_type(type)], eda.UnknownType)
    assert seen == []


async def test_unknown_type_when_skipped_is_passed_over() -> None:
    seen = Seen()
    router = seen.router(unknown="skip")
    await router(of_type("router-closed"))
    await router([of_type("router-nobody"), event(Shipped(2)), of_type("")])
    assert seen == [Shipped(2)]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_unknown_type_when_raw_goes_to_the_other_handler_as_it_is(asynchronous: bool) -> None:
    seen = Seen()
    router = seen.router(unknown="raw")

    async def later(event: eda.Event) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    router.otherwise(later if asynchronous else seen.append)
    closed, nobody = of_type("router-closed"), of_type("router-nobody", 2)
    await router(closed)
    await router([event(Shipped(1)), nobody, event(Shipped(2))])
    assert seen == [closed, Shipped(1), nobody, Shipped(2)]


async def test_unknown_type_when_raw_and_otherwise_is_missing_is_an_error() -> None:
    router = eda.Router(unknown="raw")
    router.on(Paid)(lambda order: None)
    event = eda.Event(type="unheard-of", id="e1")
    with pytest.raises(eda.ConfigError, match=r"register one with @router.otherwise"):
        await router(event)
    with pytest.raises(eda.PartialFailure) as caught:
        await router([event])
    assert isinstance(caught.value.error_of(event), eda.ConfigError)


async def test_known_type_when_raw_and_its_data_does_not_fit_is_an_error() -> None:
    seen = Seen()
    router = seen.router(unknown="raw")
    router.otherwise(seen.append)
    with pytest.raises(eda.DecodeError):
        await router(broken("router-paid", 1))
    assert seen == []


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_batch_when_handlers_take_one_event_calls_them_in_order() -> None:
    seen = Seen()
    await seen.router()([event(Paid(1)), event(Shipped(2)), event(Paid(3)), of_type("router-payed", 4)])
    assert seen == [(Paid(1), "e1"), Shipped(2), (Paid(3), "e3"), (Paid(4), "e4")]


async def test_batch_when_an_event_is_in_it_twice_has_an_outcome_for_each() -> None:
    attempts: list[Any] = []
    router = eda.Router()

    @router.on(Paid, Shipped)
    def handle(order: Paid | Shipped) -> None:
        attempts.append(order)
        if attempts.count(order) == 2:
            raise eda.Reject("handled already")

    first, second, other = event(Paid(1)), event(Paid(1)), event(Shipped(2))
    assert first == second
    with pytest.raises(eda.PartialFailure) as caught:
        await router([first, other, second])
    assert [caught.value.error_of(each) is None for each in (first, other, second)] == [True, True, False]
    assert list(caught.value.failures) == [second]


async def test_batch_when_empty_calls_nothing() -> None:
    seen = Seen()
    assert await seen.router()([]) is None
    assert seen == []


async def test_batch_when_some_events_fail_names_them_and_handles_the_others() -> None:
    seen = Seen()
    router = eda.Router()

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        await asyncio.sleep(0)
        if order.n == 2:
            raise KeyError(order.n)
        if order.n == 3:
            raise eda.Reject("never")
        seen.append(order)

    @router.on(Shipped)
    def shipped(order: Shipped) -> None:
        if order.n == 5:
            raise eda.PartialFailure({of_type("router-paid"): OSError()})
        seen.append(order)

    events = [
        *(event(Paid(n)) for n in (1, 2, 3)),
        *(event(Shipped(n)) for n in (4, 5)),
        broken("router-paid", 6), of_type("router-closed", 7), event(Paid(8)),
    ]  # fmt: skip
    with pytest.raises(eda.PartialFailure) as caught:
        await router(events)
    errors = {each.id: type(error) for each, error in caught.value.failures.items()}
    assert errors == {
        "e2": KeyError, "e3": eda.Reject, "e5": eda.PartialFailure, "e6": eda.DecodeError, "e7": eda.UnknownType,
    }  # fmt: skip
    assert seen == [Paid(1), Shipped(4), Paid(8)]
    assert [each.id for each in caught.value.failures] == ["e2", "e3", "e5", "e6", "e7"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_batch_when_a_handler_raises_no_exception_passes_it_on(
    error: type[BaseException], asynchronous: bool
) -> None:
    seen = Seen()
    router = eda.Router()

    def plain(order: Paid) -> None:
        seen.append(order.n)
        if order.n == 2:
            raise error

    async def later(order: Paid) -> None:
        plain(order)

    router.on(Paid)(later if asynchronous else plain)
    with pytest.raises(error):
        await router([event(Paid(n)) for n in (1, 2, 3)])
    assert seen == [1, 2]


async def test_batch_when_cancelled_cancels_the_running_handler() -> None:
    router = eda.Router()
    ended: list[str] = []

    @router.on(Paid)
    async def paid(order: Paid) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    running = asyncio.ensure_future(router([event(Paid(1)), event(Paid(2))]))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["cancelled"]


# --- list handlers ---------------------------------------------------------------------------------------------------


def lists(seen: Seen, **options: Any) -> eda.Router:
    """Return a router with a handler of lists of Paid, with events, and one of single Shipped."""
    router = eda.Router(**options)

    @router.on
    async def paid(orders: list[Paid], events: list[eda.Event]) -> None:
        await asyncio.sleep(0)
        assert [event.payload() for event in events] == orders
        seen.append([order.n for order in orders])

    @router.on(Shipped)
    def shipped(order: Shipped) -> None:
        seen.append(order.n)

    return router


async def test_list_handler_when_given_a_batch_gets_runs_of_consecutive_events() -> None:
    seen = Seen()
    events = [event(Paid(n)) for n in (1, 2)] + [event(Shipped(3)), event(Paid(4)), event(Shipped(5)), event(Paid(6))]
    await lists(seen)(events)
    assert seen == [[1, 2], 3, [4], 5, [6]]


async def test_list_handler_when_it_takes_several_classes_gets_them_in_one_run() -> None:
    seen = Seen()
    router = eda.Router()

    @router.on
    def both(orders: list[Paid | Shipped]) -> None:
        seen.append(orders)

    await router([event(Paid(1)), event(Shipped(2)), event(Paid(3))])
    assert seen == [[Paid(1), Shipped(2), Paid(3)]]


async def test_list_handler_when_events_between_are_not_handled_gets_one_run() -> None:
    seen = Seen()
    with pytest.raises(eda.PartialFailure) as caught:
        await lists(seen, unknown="skip")(
            [event(Paid(1)), broken("router-paid", 2), of_type("router-nobody", 3), event(Paid(4))]
        )
    assert seen == [[1, 4]]
    assert [each.id for each in caught.value.failures] == ["e2"]


async def test_list_handler_when_it_fails_only_its_run_fails() -> None:
    seen = Seen()
    router = eda.Router()

    @router.on
    async def paid(orders: list[Paid]) -> None:
        if any(order.n in (2, 4) for order in orders):
            raise OSError(len(orders))
        seen.append(orders)

    @router.on
    async def shipped(orders: list[Shipped], events: list[eda.Event]) -> None:
        raise eda.PartialFailure({events[1]: KeyError(), of_type("router-paid", 77): ValueError()})

    paids = {n: event(Paid(n)) for n in (1, 2, 4, 5)}
    shippeds = {n: event(Shipped(n)) for n in (3, 6, 7, 8)}
    with pytest.raises(eda.PartialFailure) as caught:
        await router([paids[1], paids[2], shippeds[3], shippeds[6], paids[4], shippeds[7], shippeds[8], paids[5]])
    errors = {each.id: repr(error) for each, error in caught.value.failures.items()}
    assert errors == {
        "e1": "OSError(2)",
        "e2": "OSError(2)",
        "e6": "KeyError()",
        "e4": "OSError(1)",
        "e8": "KeyError()",
    }
    assert seen == [[Paid(5)]]


async def test_list_handler_when_its_partial_failure_names_no_event_of_the_run_fails_the_run() -> None:
    router = eda.Router()

    @router.on
    def paid(orders: list[Paid]) -> None:
        raise eda.PartialFailure({of_type("router-paid", 77): ValueError()})

    with pytest.raises(eda.PartialFailure) as caught:
        await router([event(Paid(1)), event(Paid(2))])
    assert [type(error) for error in caught.value.failures.values()] == [eda.ConfigError] * 2
    assert "names no event of the batch" in str(caught.value)


async def test_list_handler_when_it_changes_its_lists_changes_no_outcome() -> None:
    router = eda.Router()

    @router.on
    def paid(orders: list[Paid], events: list[eda.Event]) -> None:
        orders.clear()
        events.clear()
        raise OSError

    with pytest.raises(eda.PartialFailure) as caught:
        await router([event(Paid(1)), event(Paid(2))])
    assert len(caught.value.failures) == 2


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
async def test_list_handler_when_it_raises_no_exception_passes_it_on(error: type[BaseException]) -> None:
    router = eda.Router()

    @router.on
    def paid(orders: list[Paid]) -> None:
        raise error

    with pytest.raises(error):
        await router([event(Paid(1))])


async def test_list_handler_under_otherwise_when_raw_gets_runs() -> None:
    seen = Seen()
    router = eda.Router(unknown="raw")
    router.on(Shipped)(seen.append)

    @router.otherwise
    async def others(events: list[eda.Event]) -> None:
        seen.append([each.id for each in events])

    await router([of_type("a", 1), of_type("router-closed", 2), event(Shipped(3)), of_type("b", 4)])
    assert seen == [["e1", "e2"], Shipped(3), ["e4"]]


def test_list_handler_when_given_a_single_event_says_how_to_call_it() -> None:
    with pytest.raises(eda.ConfigError, match="paid takes a list: subscribe the router with batch=") as caught:
        lists(Seen())(event(Paid(1)))
    assert caught.value.argument == "batch"


# --- subscribing -----------------------------------------------------------------------------------------------------


TYPES = ("router-paid", "router-payed", "router-shipped")


def subscribed(router: Any, **options: Any) -> tuple[Any, eda.SubscriptionOptions]:
    return routed(router, eda.SubscriptionOptions(**options))


@pytest.mark.parametrize(
    ("unknown", "types"), [(None, TYPES), ("skip", TYPES), ("raise", None), ("raw", None)], ids=repr
)
def test_subscribing_when_no_types_are_given_filters_as_unknown_says(unknown: Any, types: object) -> None:
    router = Seen().router(unknown=unknown)
    if unknown == "raw":
        router.otherwise(print)
    _, options = subscribed(router, serial=True)
    assert options.types == types
    assert options.serial is True


@pytest.mark.parametrize("unknown", [None, "skip", "raise"])
def test_subscribing_when_types_are_given_keeps_them(unknown: Any) -> None:
    _, options = subscribed(Seen().router(unknown=unknown), types=["other", "router-payed"])
    assert options.types == ("other", "router-payed")


@pytest.mark.parametrize("unknown", [None, "skip", "raise"])
def test_subscribing_when_the_given_types_are_all_others_is_refused(unknown: Any) -> None:
    with pytest.raises(eda.ConfigError, match="none of the types that the router handles: router-paid, ") as caught:
        subscribed(Seen().router(unknown=unknown), types=["other"])
    assert caught.value.argument == "types"


@pytest.mark.parametrize("unknown", [None, "skip", "raise"])
def test_subscribing_when_there_are_no_handlers_is_refused(unknown: Any) -> None:
    with pytest.raises(eda.ConfigError, match=r"<Router without handlers.*> has no handlers") as caught:
        subscribed(eda.Router(unknown=unknown))
    assert caught.value.argument == "handler"


def test_subscribing_when_raw_and_otherwise_is_missing_is_refused() -> None:
    with pytest.raises(eda.ConfigError, match=r"register one with @router.otherwise"):
        subscribed(Seen().router(unknown="raw"))


def test_subscribing_when_raw_needs_no_class() -> None:
    router = eda.Router(unknown="raw")
    router.otherwise(print)
    assert subscribed(router, types=["other"])[1].types == ("other",)


def test_subscribing_when_a_handler_takes_lists_needs_batch() -> None:
    with pytest.raises(eda.ConfigError, match=r"paid takes lists, so the subscription needs batch=") as caught:
        subscribed(lists(Seen()))
    assert caught.value.argument == "batch"
    router = eda.Router(unknown="raw")

    @router.otherwise
    def others(events: list[eda.Event]) -> None:
        """Handle."""

    with pytest.raises(eda.ConfigError, match=r"others takes lists"):
        subscribed(router)
    subscribed(router, batch=5)


def test_subscribing_when_given_the_class_says_so() -> None:
    with pytest.raises(eda.ConfigError, match=r"is the class eda.Router: give a router, eda.Router\(\)"):
        subscribed(eda.Router)


def test_subscribing_when_given_a_payload_class_says_so() -> None:
    # A call of the class would make a payload of the event, and the event would be acknowledged.
    with pytest.raises(eda.ConfigError, match=r"handler is the payload class Paid: give a function, or a router"):
        subscribed(Paid)


def test_subscribing_when_the_handler_takes_payloads_names_the_router() -> None:
    async def paid(order: Paid) -> None:
        """Handle."""

    def shipped(orders: list[Shipped | Paid]) -> None:
        """Handle."""

    class Service:
        def paid(self, order: Paid | None, event: eda.Event) -> None:
            """Handle."""

    for handler, name in ((paid, "Paid"), (shipped, "Shipped, Paid"), (Service().paid, "Paid")):
        with pytest.raises(
            eda.ConfigError, match=f"takes payloads, {name}, but a subscription passes events"
        ) as caught:
            subscribed(handler)
        assert caught.value.argument == "handler"


def test_subscribing_when_a_handler_may_take_an_event_accepts_it() -> None:
    @functools.wraps(Shipped)
    def decorated(event: Shipped) -> None:
        """Handle."""

    def either(event: eda.Event | Paid) -> None:
        """Handle."""

    def untyped(event):  # type: ignore[no-untyped-def]
        """Handle."""

    def unknown(event: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Handle."""

    for handler in (decorated, either, untyped, unknown, print, [].append, len, int, lambda *events: None):
        subscribed(handler)


def test_subscribing_when_the_handler_is_no_router_changes_nothing() -> None:
    options = eda.SubscriptionOptions()
    assert routed(print, options) == (print, options)
    assert routed(print, options)[1] is options


def test_handlers_when_the_router_is_subscribed_can_not_be_added() -> None:
    seen = Seen()
    router = seen.router(unknown="raw")
    router.otherwise(print)
    subscribed(router)
    adding: list[Callable[[], object]] = [
        lambda: router.on(Closed)(print),
        lambda: router.on(lambda order: None),
        lambda: router.otherwise(print),
    ]
    for add in adding:
        with pytest.raises(eda.ConfigError, match="is subscribed already"):
            add()
    assert subscribed(router)[1].types is None  # it may be subscribed several times


def test_handlers_when_subscribing_was_refused_can_be_added() -> None:
    router = eda.Router()
    with pytest.raises(eda.ConfigError):
        subscribed(router)
    router.on(Paid)(print)
    assert subscribed(router)[1].types == ("router-paid", "router-payed")


def test_subscribing_when_an_annotation_can_not_be_resolved_names_handler_and_name() -> None:
    router = eda.Router()

    @router.on
    def handler(order: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Handle."""

    with pytest.raises(eda.ConfigError, match=r"handler: its annotation 'Nowhere' can't be resolved: .*'Nowhere'"):
        subscribed(router)


async def test_subscribed_function_when_called_does_what_the_router_does() -> None:
    seen = Seen()
    handle, _ = subscribed(seen.router())
    coroutine = handle(event(Paid(1)))
    assert inspect.iscoroutine(coroutine)
    await coroutine
    assert handle(event(Shipped(2))) is None
    with pytest.raises(eda.UnknownType):
        handle(of_type("other"))
    handle, _ = subscribed(seen.router(), batch=3)
    await handle([event(Paid(3)), event(Shipped(4))])
    assert seen == [(Paid(1), "e1"), Shipped(2), (Paid(3), "e3"), Shipped(4)]
