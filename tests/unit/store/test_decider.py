"""Decider: what evolve and decide get and may return, and states that aggregates do not share."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NewType, Optional, TypeVar, Union

import msgspec
import pytest

import eda
from eda._codec import encode_event, stored_event
from eda.store.decider import decided_events

if TYPE_CHECKING:
    from collections import OrderedDict as OnlyForCheckers


@eda.payload("test-decider-placed", aliases=["test-decider-ordered"])
@dataclass
class Placed:
    amount: int


@eda.payload("test-decider-paid")
@dataclass
class Paid:
    amount: int


@dataclass
class Undeclared:
    amount: int


pytestmark = pytest.mark.usefixtures("declarations")

Either = Placed | Paid
Number = TypeVar("Number", bound=Placed)
NewPaid = NewType("NewPaid", Paid)


def stored(*payloads: Any, aggregate: str = "4711") -> list[eda.Event]:
    """Return the events as they would be read from a stream."""
    events = [each if isinstance(each, eda.Event) else eda.Event(data=each) for each in payloads]
    return [
        stored_event(
            encode_event(event.replace(aggregate=aggregate), event.id or f"e{version}", "me", 1, version),
            "orders", 100 + version, 1,
        )
        for version, event in enumerate(events, 1)
    ]  # fmt: skip


def keep(state: list[Any], event: Any) -> list[Any]:
    return [*state, event]


def refused(match: str, *arguments: Any, argument: str, **options: Any) -> None:
    with pytest.raises(eda.ConfigError, match=match) as caught:
        eda.Decider(*arguments, **options)
    assert caught.value.argument == argument


# --- evolve: arguments -----------------------------------------------------------------------------------------------


async def evolve_async(state: int, event: eda.Event) -> int:
    return state


def evolve_generator(state: int, event: eda.Event) -> Iterator[int]:
    yield state


def one(state: int) -> int:
    return state


def three(state: int, event: eda.Event, more: int) -> int:
    return state


def needs_keyword(state: int, event: eda.Event, *, clock: int) -> int:
    return state


def returns_none(state: int, event: eda.Event) -> None: ...


def takes_undeclared(state: int, event: Undeclared) -> int:
    return state


def takes_a_list(state: int, event: list[Placed]) -> int:
    return state


def takes_none(state: int, event: Placed | None) -> int:
    return state


class Methods:
    def evolve(self, state: int, event: eda.Event) -> int:
        return state + 1


@pytest.mark.parametrize(
    ("evolve", "match"),
    [
        (None, "evolve must be callable, not None"),
        (5, "evolve must be callable, not 5"),
        (evolve_async, "evolve .*evolve_async is an async def: only decide may be async"),
        (functools.partial(evolve_async), "is an async def"),
        (evolve_generator, "evolve .*evolve_generator is a generator function"),
        (eda.Router(), "is a Router"),
        (one, r"must take the state and an event: \(state, event\); it takes 1 argument$"),
        (lambda: 0, "it takes 0 arguments"),
        (three, "it needs 3 arguments$"),
        (Methods.evolve, "it needs 3 arguments: it is a method without its object"),
        (needs_keyword, "it needs 'clock' as a keyword"),
        (returns_none, "is annotated to return None; it must return the state"),
        (takes_undeclared, r"annotated with .*Undeclared, which is no payload class: write @eda\.payload"),
        (takes_a_list, r"annotated with list\[.*Placed\], which is no payload class$"),
        (takes_none, "annotated with NoneType, which is no payload class$"),
    ],
)
def test_evolve_when_it_can_not_be_called_is_refused(evolve: Any, match: str) -> None:
    refused(match, 0, evolve, argument="evolve")


class Callable:
    def __call__(self, state: int, event: eda.Event) -> int:
        return state + 1


@pytest.mark.parametrize(
    "evolve",
    [
        lambda state, event: state + 1,
        lambda state, event, more=1: state + more,
        lambda *arguments: arguments[0] + 1,
        functools.partial(lambda step, state, event: state + step, 1),
        Methods().evolve,
        Callable(),
    ],
    ids=["lambda", "default", "any arguments", "partial", "bound method", "object"],
)
def test_evolve_when_it_takes_state_and_event_is_called(evolve: Any) -> None:
    assert eda.Decider(0, evolve).fold(0, stored(Placed(1), Paid(2))) == 2


# --- evolve: what it gets --------------------------------------------------------------------------------------------


def test_evolve_when_annotated_with_event_or_nothing_gets_events() -> None:
    def annotated(state: list[Any], event: eda.Event) -> list[Any]:
        return keep(state, event)

    def with_any(state: list[Any], event: Any) -> list[Any]:
        return keep(state, event)

    events = stored(Placed(1), eda.Event(type="other"))
    for evolve in (annotated, with_any, lambda state, event: keep(state, event)):
        assert eda.Decider([], evolve).fold([], events) == events


@pytest.mark.parametrize(
    "annotation",
    [
        Placed | Paid,
        Union[Placed, Paid],  # noqa: UP007
        Either,
        "Placed | Paid",
        "Either",
        Annotated[Placed | Paid, "both"],
        Union[Number, NewPaid],  # noqa: UP007
    ],
    ids=["union", "Union", "alias", "text", "text of an alias", "Annotated", "TypeVar and NewType"],
)
def test_evolve_when_annotated_with_payload_classes_gets_payloads(annotation: Any) -> None:
    def evolve(state: list[Any], event: Any) -> list[Any]:
        return keep(state, event)

    evolve.__annotations__["event"] = annotation
    decider = eda.Decider([], evolve)
    former = eda.Event(type="test-decider-ordered", data=eda.JSON({"amount": 3}))
    assert decider.fold([], stored(Placed(1), Paid(2), former)) == [Placed(1), Paid(2), Placed(3)]
    with pytest.raises(eda.UnknownType, match="for the type 'other' of event e1") as caught:
        decider.fold([], stored(eda.Event(type="other")))
    assert (caught.value.type, caught.value.event_id) == ("other", "e1")
    assert caught.value.__notes__ == [
        "add its payload class to the annotation of evolve, or eda.Event for all other events",
        "while folding event e1 of type 'other', aggregate '4711', version 1, sequence 101",
    ]


def test_evolve_when_annotated_with_classes_and_event_gets_all_other_events_as_they_are() -> None:
    def evolve(state: list[Any], event: Placed | eda.Event) -> list[Any]:
        return keep(state, event)

    events = stored(Placed(1), Paid(2), eda.Event(type="other"))
    assert eda.Decider([], evolve).fold([], events) == [Placed(1), *events[1:]]


def test_evolve_when_it_is_a_method_of_the_state_gets_the_state_as_self() -> None:
    @dataclass(frozen=True)
    class Order:
        due: int = 0

        def apply(self, event: Placed | Paid) -> Order:
            return Order(self.due + (event.amount if isinstance(event, Placed) else -event.amount))

    decider: eda.Decider[Order, Any] = eda.Decider(Order, Order.apply)
    assert decider.fold(decider.new_state(), stored(Placed(5), Paid(2))) == Order(3)


def test_evolve_when_it_names_a_local_class_finds_it() -> None:
    @eda.payload("test-decider-local")
    @dataclass
    class Local:
        amount: int

    def evolve(state: list[Any], event: Local) -> list[Any]:
        return keep(state, event)

    plain = eda.Decider([], evolve)
    generic = eda.Decider[list[Any], None]([], evolve)  # type: ignore[arg-type]
    for decider in (plain, generic):
        assert decider.fold([], stored(Local(1))) == [Local(1)]


def test_evolve_when_it_names_a_class_that_is_defined_later_finds_it_at_the_first_fold() -> None:
    names: dict[str, Any] = {"eda": eda, "dataclass": dataclass}
    exec(
        "from __future__ import annotations\n"
        "def evolve(state: list, event: Later) -> list:\n    return [*state, event]\n"
        "decider = eda.Decider([], evolve)\n",
        names,
    )
    with pytest.raises(eda.ConfigError, match="annotation 'Later' can't be resolved: name 'Later' is not defined"):
        names["decider"].fold([], [])
    exec("@eda.payload('test-decider-later')\n@dataclass\nclass Later:\n    amount: int\n", names)
    assert names["decider"].fold([], stored(names["Later"](1))) == [names["Later"](1)]


def test_evolve_when_its_name_is_only_for_type_checkers_is_refused_at_the_first_fold() -> None:
    def evolve(state: int, event: OnlyForCheckers[str, str]) -> int:
        return state

    with pytest.raises(eda.ConfigError, match="OnlyForCheckers"):
        eda.Decider(0, evolve).fold(0, [])


# --- fold ------------------------------------------------------------------------------------------------------------


def test_fold_when_evolve_raises_notes_the_event_once() -> None:
    always = ValueError("no")

    def evolve(state: int, event: Placed | Paid) -> int:
        if isinstance(event, Paid):
            raise always
        return state

    for _ in range(3):
        with pytest.raises(ValueError, match=r"^no\n") as caught:
            eda.Decider(0, evolve).fold(0, stored(Placed(1), Paid(2)))
        assert caught.value is always
    assert always.__notes__ == [
        "while folding event e2 of type 'test-decider-paid', aggregate '4711', version 2, sequence 102"
    ]


def test_fold_when_a_payload_does_not_decode_raises_a_decode_error_with_a_note() -> None:
    def evolve(state: int, event: Placed) -> int:
        return state

    wrong = eda.Event(type="test-decider-placed", data=eda.JSON({"amount": "many"}))
    with pytest.raises(eda.DecodeError) as caught:
        eda.Decider(0, evolve).fold(0, stored(wrong))
    assert caught.value.event_id == "e1"
    assert "version 1, sequence 101" in caught.value.__notes__[0]


def test_fold_when_evolve_returns_a_coroutine_is_refused() -> None:
    with pytest.raises(eda.ConfigError, match="returned a coroutine; it must return the state"):
        eda.Decider(0, lambda state, event: evolve_async(0, event)).fold(0, stored(Placed(1)))


def test_fold_when_there_are_no_events_returns_the_state() -> None:
    state = object()
    assert eda.Decider(object, lambda state, event: None).fold(state, []) is state


def test_fold_when_timed_takes_less_than_a_microsecond_for_each_event() -> None:
    events = stored(Placed(1)) * 20_000
    decider = eda.Decider(0, lambda state, event: state)

    def seconds() -> float:
        began = time.perf_counter()
        decider.fold(0, events)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(10)) < 0.02


# --- the initial state -----------------------------------------------------------------------------------------------


def test_initial_when_it_is_a_value_is_never_shared() -> None:
    @dataclass
    class Order:
        lines: list[int] = field(default_factory=list)

    def evolve(state: Any, event: eda.Event) -> Any:
        (state.lines if isinstance(state, Order) else state).append(1)
        return state

    for initial in (Order(), []):
        decider: eda.Decider[Any, Any] = eda.Decider(initial, evolve)
        first = decider.fold(decider.new_state(), stored(Placed(1)))
        second = decider.new_state()
        assert first != second == initial
        evolve(initial, stored(Placed(1))[0])
        assert decider.new_state() == second
        assert decider.new_state() is not decider.new_state()


def make_dict() -> dict[str, int]:
    return {}


@pytest.mark.parametrize("make", [dict, make_dict, functools.partial(dict), dict.fromkeys("").copy])
def test_initial_when_it_is_a_class_or_function_is_called_for_each_aggregate(make: Any) -> None:
    decider = eda.Decider(make, lambda state, event: state)
    assert decider.new_state() == {}
    assert decider.new_state() is not decider.new_state()


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("initial", [None, 0, "", (), Colour.RED])
def test_initial_when_it_can_not_change_is_returned_as_it_is(initial: Any) -> None:
    assert eda.Decider(initial, lambda state, event: state).new_state() is initial


def test_initial_when_it_is_an_object_that_can_be_called_is_a_value() -> None:
    assert isinstance(eda.Decider(Callable(), lambda state, event: state).new_state(), Callable)


async def make_async() -> int:
    return 0


@pytest.mark.parametrize(
    ("initial", "match"),
    [
        (Placed, r"initial .*Placed\(amount: .*\).* must be callable without arguments"),
        (lambda aggregate: 0, "must be callable without arguments"),
        (make_async, "is an async def: give a plain function"),
        (iter([]), None),
        ((each for each in []), "can't be copied for each aggregate .*: give a function that makes one"),
    ],
    ids=["class with arguments", "function with arguments", "async", "iterator", "generator"],
)
def test_initial_when_no_state_can_be_made_of_it_is_refused(initial: Any, match: str | None) -> None:
    if match is None:
        assert eda.Decider(initial, lambda state, event: state)
    else:
        refused(match, initial, lambda state, event: state, argument="initial")


# --- decide ----------------------------------------------------------------------------------------------------------


async def decide_async_generator(state: int, command: int) -> AsyncIterator[Placed]:
    yield Placed(1)


@pytest.mark.parametrize(
    ("decide", "match"),
    [
        (5, "decide must be callable, not 5"),
        (decide_async_generator, "is an async generator function: return a list of events"),
        (one, r"must take the state and a command: \(state, command\); it takes 1 argument$"),
        (three, "it needs 3 arguments"),
        (needs_keyword, "it needs 'clock' as a keyword"),
        (eda.Router(), "is a Router"),
    ],
)
def test_decide_when_it_can_not_be_called_is_refused(decide: Any, match: str) -> None:
    refused(match, 0, lambda state, event: state, decide, argument="decide")


PLACED, PAID, RAW = Placed(1), Paid(2), eda.Event(type="raw")


@pytest.mark.parametrize(
    ("result", "types"),
    [
        (None, []),
        ([], []),
        ((), []),
        (RAW, ["raw"]),
        (PLACED, ["test-decider-placed"]),
        ([PLACED], ["test-decider-placed"]),
        ((PLACED, RAW, PAID), ["test-decider-placed", "raw", "test-decider-paid"]),
        ({RAW: 1}.keys(), ["raw"]),
    ],
    ids=["None", "list", "tuple", "event", "payload", "list of one", "several", "keys"],
)
async def test_decided_when_decide_returns_events_or_payloads_is_a_list_of_events(
    result: Any, types: list[str]
) -> None:
    async def decide_async(state: int, command: Any) -> Any:
        await asyncio.sleep(0)
        return command

    for decide in (decide_async, lambda state, command: command):
        decided = await eda.Decider(0, lambda state, event: state, decide).decided(0, result)
        assert type(decided) is list
        assert [event.type for event in decided] == types


async def test_decided_when_decide_is_a_generator_function_has_its_events() -> None:
    def decide(state: int, command: int) -> Iterator[Any]:
        for number in range(command):
            yield Placed(number)

    decided = await eda.Decider(0, lambda state, event: state, decide).decided(0, 3)
    assert [event.payload() for event in decided] == [Placed(0), Placed(1), Placed(2)]


async def test_decided_when_a_payload_can_be_iterated_over_is_one_event() -> None:
    @eda.payload("test-decider-iterable")
    class Pair(msgspec.Struct):
        one: int
        other: int

        def __iter__(self) -> Iterator[int]:
            return iter((self.one, self.other))

    assert [event.payload() for event in decided_events(Pair(1, 2))] == [Pair(1, 2)]


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("paid", "a str"),
        (b"paid", "a bytes"),
        ({"amount": 1}, "a dict"),
        (5, "an int"),
        (False, "a bool"),
        (Placed, "the class Placed"),
        ([5], "an int"),
        (["paid"], "a str"),
        ([None], "a NoneType"),
        ([[PLACED]], "a list"),
        (eda.JSON(1), "a Data"),
        ([eda.JSON(1)], "a Data"),
        (Undeclared(1), "an Undeclared"),
        ([Undeclared(1)], "an Undeclared"),
        ([Placed], "the class Placed"),
    ],
)
async def test_decided_when_decide_returns_anything_else_is_a_config_error(result: Any, shown: str) -> None:
    decider = eda.Decider(0, lambda state, event: state, lambda state, command: result)
    with pytest.raises(eda.ConfigError, match=f"^decide returned {shown}: an event is an eda.Event, or") as caught:
        await decider.decided(0, None)
    assert caught.value.argument == "decide"


def test_decided_when_a_declared_class_can_not_be_used_says_why() -> None:
    @eda.payload("test-decider-unusable", encoding="test-decider-unregistered")
    @dataclass
    class Unusable:
        amount: int

    with pytest.raises(eda.ConfigError, match="its encoding 'test-decider-unregistered' is not registered"):
        decided_events([Unusable(1)])


class Refusal(Exception):
    pass


async def test_decided_when_decide_raises_raises_the_same_error_unchanged() -> None:
    error = Refusal("no")

    async def later(state: int, command: int) -> None:
        raise error

    def at_once(state: int, command: int) -> None:
        raise error

    def in_the_middle(state: int, command: int) -> Iterator[eda.Event]:
        yield RAW
        raise error

    for decide in (later, at_once, in_the_middle):
        decider: eda.Decider[int, int] = eda.Decider(0, lambda state, event: state, decide)
        with pytest.raises(Refusal) as caught:
            await decider.decided(0, 1)
        assert caught.value is error
    assert not hasattr(error, "__notes__")


async def test_decided_when_there_is_no_decide_is_a_config_error() -> None:
    decider = eda.Decider(0, lambda state, event: state)
    with pytest.raises(eda.ConfigError, match="has no decide, so it can't execute commands"):
        await decider.decided(0, None)  # type: ignore[arg-type]


# --- the other arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "names"),
    [
        (None, None),
        (["a", "b", "a"], ("a", "b")),
        ([Placed], ("test-decider-placed", "test-decider-ordered")),
        ([Placed | Paid, "x"], ("test-decider-placed", "test-decider-ordered", "test-decider-paid", "x")),
        (iter(["a"]), ("a",)),
    ],
)
def test_types_when_given_are_names_with_aliases(types: Any, names: Any) -> None:
    assert eda.Decider(0, lambda state, event: state, types=types).types == names


@pytest.mark.parametrize(
    ("types", "match"),
    [
        ("order", "types must be a list of type names and payload classes"),
        (Placed, "types must be a list"),
        (5, "types must be a list"),
        ({"a": 1}, "types must be a list"),
        ([], "types is empty"),
        ([5], "types has 5, which is no payload class$"),
        ([""], "types must be a str that is not empty"),
        ([Undeclared], r"Undeclared, which is no payload class: write @eda\.payload"),
        ([eda.Event], "Event, which is no payload class"),
        (["a", "eda.forgotten"], "types has 'eda.forgotten', which only the event store handles"),
    ],
)
def test_types_when_wrong_are_refused(types: Any, match: str) -> None:
    refused(match, 0, lambda state, event: state, types=types, argument="types")


def test_types_when_evolve_does_not_take_one_are_refused() -> None:
    def evolve(state: int, event: Placed) -> int:
        return state

    def evolve_all(state: int, event: Placed | eda.Event) -> int:
        return state

    refused("types has 'test-decider-paid', 'x', which evolve", 0, evolve, types=[Placed, Paid, "x"], argument="types")
    assert eda.Decider(0, evolve_all, types=[Placed, Paid, "x"]).types


@pytest.mark.parametrize("version", [1, None, b"1", "", "a b", "a\nb", "ä", "x" * 65])
def test_snapshot_version_when_wrong_is_refused(version: Any) -> None:
    refused("snapshot_version must", 0, lambda s, e: s, snapshot_version=version, argument="snapshot_version")


@pytest.mark.parametrize("state", [5, "Order", Undeclared(1), [], lambda: 0])
def test_state_when_it_is_no_type_is_refused(state: Any) -> None:
    refused("state must be the type of the state", 0, lambda s, e: s, state=state, argument="state")


@pytest.mark.parametrize(
    "state",
    [
        None,
        Undeclared,
        dict[str, int],
        Undeclared | None,
        Optional[int],  # noqa: UP045
        Annotated[int, 1],
    ],
)
def test_state_when_it_is_a_type_is_kept(state: Any) -> None:
    decider = eda.Decider(0, lambda s, e: s, state=state, snapshot_version="2026-11.b")
    assert (decider.state, decider.snapshot_version) == (state, "2026-11.b")


def test_decider_when_made_can_not_be_changed() -> None:
    decider = eda.Decider(0, keep, types=["a"])  # type: ignore[type-var]
    for name in ("initial", "evolve", "decide", "types", "snapshot_version", "state", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(decider, name, None)
    assert repr(decider).startswith("<Decider evolve=")
    assert " decide=" not in repr(decider)
    assert decider == decider
    assert decider != eda.Decider(0, keep, types=["a"])  # type: ignore[type-var]
    assert len({decider, decider}) == 1
