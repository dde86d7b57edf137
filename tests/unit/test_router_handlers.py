"""eda.Router: which handlers may be registered, and for which classes."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NewType, Optional, Protocol, TypeVar, Union

import msgspec
import pytest

import eda

if TYPE_CHECKING:
    pass  # type: ignore[import-not-found]


class Base:
    """A base class that is not declared."""


@eda.payload("handlers-paid", aliases=("handlers-payed",))
@dataclass
class Paid(Base):
    amount: int


@eda.payload("handlers-shipped")
class Shipped(msgspec.Struct):
    to: str


@dataclass
class Undeclared:
    amount: int


class Subclass(Paid):
    """A subclass of a declared class, which is not declared itself."""


T = TypeVar("T")
Bound = TypeVar("Bound", bound=Paid)
Either = TypeVar("Either", Paid, Shipped)
Money = NewType("Money", Paid)
OLD_UNION = Union[Paid, Shipped]  # noqa: UP007


class HasAmount(Protocol):
    amount: int


PAID = eda.Event(id="e1", type="handlers-paid", data=eda.JSON({"amount": 5}))


def refused(register: Callable[[], object], match: str) -> eda.ConfigError:
    """Return the ConfigError that registering raises."""
    with pytest.raises(eda.ConfigError, match=match) as caught:
        register()
    return caught.value


# --- registering -----------------------------------------------------------------------------------------------------


async def test_on_when_given_a_class_returns_the_function_unchanged() -> None:
    router = eda.Router()

    async def paid(order: Paid, event: eda.Event) -> str:
        return f"{order.amount} {event.id}"

    assert router.on(Paid)(paid) is paid
    assert await paid(Paid(3), PAID) == "3 e1"
    assert router.types == ("handlers-paid", "handlers-payed")


@pytest.mark.parametrize("style", ["bare", "called"])
def test_on_when_given_nothing_takes_the_classes_from_the_annotation(style: str) -> None:
    router = eda.Router()

    def both(order: Paid | Shipped) -> None:
        """Handle."""

    assert (router.on(both) if style == "bare" else router.on()(both)) is both
    assert router.types == ("handlers-paid", "handlers-payed", "handlers-shipped")


@pytest.mark.parametrize("classes", [(Paid, Shipped), (Paid | Shipped,), (OLD_UNION,), (Shipped, Paid, Paid)])
def test_on_when_given_several_classes_handles_each(classes: tuple[Any, ...]) -> None:
    router = eda.Router()
    seen: list[object] = []
    router.on(*classes)(seen.append)
    router(PAID)
    router(eda.Event(type="handlers-shipped", data=eda.JSON({"to": "x"})))
    assert seen == [Paid(5), Shipped("x")]


ANNOTATIONS: dict[str, Any] = {
    "the class": Paid,
    "its name": "Paid",
    "Annotated": Annotated[Paid, "money"],
    "Annotated in a text": "Annotated[Paid, 'money']",
    "a union of one": Union[Paid],  # noqa: UP007
    "a type variable": Bound,
    "a new type": Money,
}


@pytest.mark.parametrize("annotation", ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_bare_on_when_the_annotation_names_a_class_takes_it(annotation: Any) -> None:
    def paid(order: Any) -> None:
        """Handle."""

    paid.__annotations__["order"] = annotation
    router = eda.Router()
    router.on(paid)
    assert router.types == ("handlers-paid", "handlers-payed")


WIDER: dict[str, Any] = {
    "no annotation": inspect.Parameter.empty,
    "Any": Any,
    "object": object,
    "a base class": Base,
    "a wider union": Paid | Shipped | int,
    "Optional": Optional[Paid],  # noqa: UP045
    "a protocol": HasAmount,
    "a type variable": T,
    "a type variable of several": Either,
    "a text": "Base",
}


@pytest.mark.parametrize("annotation", WIDER.values(), ids=WIDER)
def test_on_when_the_annotation_is_wider_accepts_it(annotation: Any) -> None:
    def paid(order: Any, event: Any) -> None:
        """Handle."""

    if annotation is inspect.Parameter.empty:
        del paid.__annotations__["order"]
    else:
        paid.__annotations__["order"] = annotation
    router = eda.Router()
    router.on(Paid)(paid)
    assert router.types == ("handlers-paid", "handlers-payed")


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (Shipped, "Shipped"),
        (Subclass, "Subclass"),
        (int, "int"),
        (None, "None"),
        (dict[str, int], "dict"),
        ("Shipped", "Shipped"),
    ],
)
def test_on_when_the_annotation_does_not_accept_the_class_names_all_three(annotation: Any, shown: str) -> None:
    def take(order: Any) -> None:
        """Handle."""

    take.__annotations__["order"] = annotation
    error = refused(lambda: eda.Router().on(Paid)(take), "does not accept")
    assert error.argument == "handler"
    assert "take is registered for Paid" in str(error)
    assert shown in str(error)


def test_on_when_a_union_lacks_one_of_the_classes_names_it() -> None:
    def take(order: Paid | int) -> None:
        """Handle."""

    refused(lambda: eda.Router().on(Paid, Shipped)(take), "take is registered for Shipped")


@pytest.mark.parametrize(
    "classes", [(Undeclared,), (Subclass,), (Paid | Undeclared,), (int,), (None,), ("paid",), ([Paid],), (5,)]
)
def test_on_when_a_class_is_not_declared_names_it(classes: tuple[Any, ...]) -> None:
    error = refused(lambda: eda.Router().on(*classes), "is no payload class")
    assert error.argument == "classes"


@pytest.mark.parametrize("annotation", [Undeclared, Paid | Undeclared, Optional[Paid], "Undeclared", list[Undeclared]])  # noqa: UP045
def test_bare_on_when_the_annotation_is_not_declared_names_handler_and_class(annotation: Any) -> None:
    def take(order: Any) -> None:
        """Handle."""

    take.__annotations__["order"] = annotation
    error = refused(lambda: eda.Router().on(take), "is no payload class")
    assert "take: " in str(error)


@pytest.mark.parametrize("annotation", [Any, object, T, list, list[Any]])
def test_bare_on_when_the_annotation_names_no_class_says_so(annotation: Any) -> None:
    def take(order: Any) -> None:
        """Handle."""

    take.__annotations__["order"] = annotation
    refused(lambda: eda.Router().on(take), "take names no payload class")
    refused(lambda: eda.Router().on(lambda order: None), "names no payload class")


def test_on_when_a_class_has_a_handler_already_names_both() -> None:
    router = eda.Router()

    @router.on(Paid)
    def first(order: Paid) -> None:
        """Handle."""

    def second(order: Paid | Shipped) -> None:
        """Handle."""

    error = refused(lambda: router.on(second), "Paid has a handler in this router already")
    assert "first" in str(error)
    assert "second" in str(error)
    assert router.types == ("handlers-paid", "handlers-payed")  # nothing of the refused handler
    router.on(Shipped)(second)


def test_on_when_stacked_registers_one_function_several_times() -> None:
    first, second = eda.Router(), eda.Router()

    @first.on(Paid)
    @first.on(Shipped)
    @second.on
    def both(order: Paid | Shipped) -> None:
        """Handle."""

    assert set(first.types) == set(second.types)


# --- callables -------------------------------------------------------------------------------------------------------


class Orders:
    """Handlers as methods."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def paid(self, order: Paid, event: eda.Event) -> None:
        self.seen.append((order, event.id))

    async def later(self, order: Paid) -> None:
        self.seen.append(order)

    @staticmethod
    def static(order: Paid) -> None:
        """Handle."""

    @classmethod
    def of_class(cls, order: Paid) -> None:
        """Handle."""

    def __call__(self, order: Paid, event: eda.Event) -> None:
        self.seen.append((order, event.id))


def with_database(database: str, order: Paid, event: eda.Event | None = None, *, n: int = 1) -> None:
    """Handle with something that is bound."""


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def outer(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return outer


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize(
    "handler",
    [
        Orders().paid,
        Orders().later,
        Orders.static,
        Orders.of_class,
        Orders(),
        functools.partial(with_database, "db", n=2),
        logged(functools.partial(with_database, "db")),
        logged(Orders().paid),
    ],
    ids=["method", "coroutine-method", "static", "class-method", "callable", "partial", "wrapped-partial", "wrapped"],
)
async def test_on_when_it_is_any_callable_calls_it(handler: Any, bare: bool) -> None:
    router = eda.Router()
    assert (router.on(handler) if bare else router.on(Paid)(handler)) is handler
    await router(PAID)


def recording(seen: list[tuple[Any, ...]], signature: str) -> Any:
    """Return a function with this signature that notes its arguments."""
    names: dict[str, Any] = {"seen": seen, "eda": eda, "Paid": Paid}
    exec(f"def handler({signature}):\n    seen.append(tuple(locals().values()))", names)
    return names["handler"]


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("order", (Paid(5),)),
        ("order, /", (Paid(5),)),
        ("order, event", (Paid(5), PAID)),
        ("order, whatever", (Paid(5), PAID)),
        ("order, event, /", (Paid(5), PAID)),
        ("order, event=None", (Paid(5), PAID)),
        ("order, it: eda.Event = None", (Paid(5), PAID)),
        ("order, it: 'eda.Event | None' = None", (Paid(5), PAID)),
        ("order, database=7", (Paid(5), 7)),
        ("order, database: int = 7", (Paid(5), 7)),
        ("order, event, more=1", (Paid(5), PAID, 1)),
        ("order, first, event=1", (Paid(5), PAID, 1)),
        ("order, **event", (Paid(5), {})),
        ("order, *, more=1", (Paid(5), 1)),
        ("order=None", (Paid(5),)),
        ("*both", ((Paid(5), PAID),)),
        ("order, *rest", (Paid(5), (PAID,))),
        ("order, **more", (Paid(5), {})),
    ],
)
def test_handler_when_called_gets_what_its_signature_asks_for(signature: str, expected: tuple[Any, ...]) -> None:
    seen: list[tuple[Any, ...]] = []
    router = eda.Router()
    router.on(Paid)(recording(seen, signature))
    router(PAID)
    assert seen == [expected]


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("", "takes no positional argument"),
        ("**more", "takes no positional argument"),
        ("*, order", "needs 'order' as a keyword"),
        ("order, *, event", "needs 'event' as a keyword"),
        ("order, event, more", "needs 3 arguments"),
        ("order, database=7, event=None", "'event' would never get the event, because it is not the second one"),
        ("order, *, event=None", "'event' would never get the event"),
        ("order, *, it: eda.Event | None = None", "'it' would never get the event"),
        ("order, event: int", "annotate 'event' with eda.Event, not int"),
        ("order, event: Paid", "annotate 'event' with eda.Event, not"),
        ("order, event: list[eda.Event]", "annotate 'event' with eda.Event, not list"),
        ("order: list[Paid], event: eda.Event", r"annotate 'event' with list\[eda.Event\], not"),
        ("order: list[Paid], event: list[int]", r"annotate 'event' with list\[eda.Event\], not"),
        ("order: list[Paid] | Paid", "write one list of a union"),
        ("self, order: Paid", "is a method without its object"),
    ],
)
def test_on_when_a_handler_can_not_be_called_with_payload_and_event_says_why(signature: str, problem: str) -> None:
    handler = recording([], signature)
    error = refused(lambda: eda.Router().on(Paid)(handler), problem)
    assert error.argument == "handler"
    assert "handler" in str(error)


@pytest.mark.parametrize(
    "event", [Any, object, eda.Event, "eda.Event", eda.Event | None, Annotated[eda.Event, 1], T, "Missing"]
)
def test_on_when_the_event_is_annotated_with_anything_that_fits_accepts_it(event: Any) -> None:
    def paid(order: Paid, it: Any) -> None:
        """Handle."""

    paid.__annotations__["it"] = event
    eda.Router().on(Paid)(paid)


def generator(order: Paid) -> Iterator[None]:
    yield


async def agenerator(order: Paid) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("handler", [generator, agenerator, functools.partial(generator)])
def test_on_when_it_is_a_generator_function_refuses_it(handler: Any) -> None:
    refused(lambda: eda.Router().on(Paid)(handler), "generator function")
    refused(lambda: eda.Router().on(handler), "generator function")


@pytest.mark.parametrize("handler", [None, 7, "text", classmethod(generator)])
def test_on_when_it_is_not_callable_refuses_it(handler: Any) -> None:
    refused(lambda: eda.Router().on(Paid)(handler), "must be callable")


def test_on_when_it_is_a_running_coroutine_hints_at_the_function() -> None:
    running = Orders().later(Paid(1))
    refused(lambda: eda.Router().on(Paid)(running), "give the function itself")  # type: ignore[type-var]
    running.close()


def test_on_when_it_is_another_router_refuses_it() -> None:
    refused(lambda: eda.Router().on(Paid)(eda.Router()), "can't be the handler of another router")


def test_on_when_a_signature_can_not_be_read_asks_for_a_function() -> None:
    refused(lambda: eda.Router().on(Paid)(type), "the signature of handler builtins.type can't be read")


def test_threaded_when_given_a_router_refuses_it() -> None:
    with pytest.raises(eda.ConfigError, match="must be a plain blocking function, not a Router"):
        eda.threaded(eda.Router())


# --- annotations that are resolved later -----------------------------------------------------------------------------


def test_bare_on_when_the_class_is_declared_later_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    router = eda.Router()

    @router.on
    def handler(order: Later) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Handle."""

    refused(lambda: router.types, "annotation 'Later' can't be resolved: name 'Later' is not defined")
    refused(lambda: router(PAID), "handler: its annotation 'Later'")
    monkeypatch.setitem(globals(), "Later", Paid)
    assert router.types == ("handlers-paid", "handlers-payed")


def test_bare_on_when_the_class_is_local_finds_it_too() -> None:
    @eda.payload("handlers-local")
    @dataclass
    class Local:
        n: int

    router = eda.Router()

    @router.on
    def handler(order: Local) -> None:
        """Handle."""

    assert router.types == ("handlers-local",)


def test_on_when_a_first_annotation_can_not_be_resolved_tells_at_the_latest_when_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = eda.Router()

    @router.on(Paid)
    def handler(order: list[Later]) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Handle."""

    def other(order: Paid) -> None:
        """Handle."""

    refused(lambda: router.on(Paid)(other), "has a handler in this router already")
    refused(lambda: router.types, "can't be resolved")
    monkeypatch.setitem(globals(), "Later", Shipped)
    refused(lambda: router.types, "does not accept")
    monkeypatch.setitem(globals(), "Later", Paid)
    assert router.types == ("handlers-paid", "handlers-payed")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements are of Python 3.12")
def test_bare_on_when_the_annotation_is_an_alias_takes_its_classes() -> None:
    names: dict[str, Any] = {"Paid": Paid, "Shipped": Shipped}
    exec("type Orders = Paid | Shipped\ndef handler(order: Orders): pass", names)
    router = eda.Router()
    router.on(names["handler"])
    assert len(router.types) == 3
    other = eda.Router()
    other.on(names["Orders"])(lambda order: None)
    assert other.types == router.types


def test_on_when_annotations_were_written_in_another_module_uses_its_names() -> None:
    module = types.ModuleType("elsewhere")
    vars(module).update(Order=Paid)
    exec("def handler(order: 'Order'): pass\nclass A:\n    def method(self, order: 'Order'): pass", vars(module))
    for handler in (module.handler, module.A().method, logged(module.handler), functools.partial(module.handler)):
        router = eda.Router()
        router.on(handler)
        assert len(router.types) == 2


# --- list handlers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation", [list[Paid], "list[Paid]", Sequence[Paid], Iterable[Paid], Annotated[list[Paid], 1], list["Paid"]]
)
def test_bare_on_when_the_annotation_is_a_list_takes_the_class_of_its_items(annotation: Any) -> None:
    def take(orders: Any, events: Any) -> None:
        """Handle."""

    take.__annotations__["orders"] = annotation
    router = eda.Router()
    router.on(take)
    assert router.types == ("handlers-paid", "handlers-payed")


@pytest.mark.parametrize("events", [list[eda.Event], Sequence[eda.Event], "list[eda.Event]", list, list[Any], Any])
def test_on_when_a_list_handler_takes_events_accepts_lists_of_them(events: Any) -> None:
    def take(orders: list[Paid], them: Any) -> None:
        """Handle."""

    take.__annotations__["them"] = events
    eda.Router().on(Paid)(take)


def test_on_when_a_list_is_narrower_refuses_it() -> None:
    def take(orders: list[Shipped]) -> None:
        """Handle."""

    refused(lambda: eda.Router().on(Paid)(take), "does not accept")


# --- otherwise, and the router itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [None, "raise", "skip"])
def test_otherwise_when_unknown_is_not_raw_is_refused(unknown: Any) -> None:
    error = refused(lambda: eda.Router(unknown=unknown).otherwise(print), "would never be called")
    assert error.argument == "unknown"


def test_otherwise_when_given_twice_names_both() -> None:
    router = eda.Router(unknown="raw")

    @router.otherwise
    async def first(event: eda.Event) -> None:
        """Handle."""

    def second(event: eda.Event) -> None:
        """Handle."""

    error = refused(lambda: router.otherwise(second), "has a handler under otherwise already")
    assert "first" in str(error)
    assert "second" in str(error)
    assert inspect.iscoroutinefunction(first)


@pytest.mark.parametrize("signature", ["", "event, more", "*, event", "event: Paid", "event: int", "event: list[Paid]"])
def test_otherwise_when_it_does_not_take_an_event_is_refused(signature: str) -> None:
    refused(lambda: eda.Router(unknown="raw").otherwise(recording([], signature)), "must take|an eda.Event")


@pytest.mark.parametrize(
    "signature", ["event", "event: eda.Event", "event: object", "events: list[eda.Event]", "*events"]
)
def test_otherwise_when_it_takes_an_event_accepts_it(signature: str) -> None:
    eda.Router(unknown="raw").otherwise(recording([], signature))


@pytest.mark.parametrize("unknown", ["", "ignore", "RAW", True, 0, ["raw"]])
def test_router_when_unknown_is_wrong_names_the_choices(unknown: Any) -> None:
    with pytest.raises(eda.ConfigError, match="must be None, 'skip', 'raise' or 'raw', not") as caught:
        eda.Router(unknown=unknown)
    assert caught.value.argument == "unknown"


def test_router_when_shown_names_its_types_and_unknown() -> None:
    assert repr(eda.Router()) == "<Router without handlers>"
    router = eda.Router(unknown="skip")
    router.on(Paid)(lambda order: None)
    assert repr(router) == "<Router handlers-paid, handlers-payed unknown='skip'>"


def test_router_when_it_has_many_types_shows_some() -> None:
    router = eda.Router()

    @router.on
    def many(order: Many) -> None:
        """Handle."""

    assert repr(router) == f"<Router many, {', '.join(f'many-{n}' for n in range(9))} and 11 more types>"


@eda.payload("many", aliases=[f"many-{n}" for n in range(20)])
@dataclass
class Many:
    n: int


def test_router_when_copied_or_initialised_again_refuses() -> None:
    import copy
    import pickle

    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="can't be copied or pickled"):
            copying(eda.Router())
    with pytest.raises(TypeError, match="again"):
        eda.Router().__init__()  # type: ignore[misc]
