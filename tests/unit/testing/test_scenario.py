"""eda.testing: given(decider, events).when(command).then(events)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import eda
from eda.testing import given

pytestmark = pytest.mark.usefixtures("declarations")


@eda.payload("test-order-placed")
@dataclass
class Placed:
    amount: int


@eda.payload("test-order-paid")
@dataclass
class Paid:
    amount: int
    by: str = "card"


@dataclass
class State:
    due: int = 0
    log: list[str] = field(default_factory=list)


def evolve(state: State, event: Placed | Paid) -> State:
    if isinstance(event, Placed):
        return State(event.amount, [*state.log, "placed"])
    return State(state.due - event.amount, [*state.log, "paid"])


def pay(state: State, command: int) -> list[Paid] | None:
    if command > state.due:
        raise ValueError(f"{command} is too much: {state.due} is due")
    return [Paid(command)] if command else None


def decider_with(decide: Any = pay, **options: Any) -> eda.Decider[State, Any]:
    return eda.Decider(State, evolve, decide, **options)


def failure(check: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check(*arguments, **options)
    return str(caught.value)


# --- then ------------------------------------------------------------------------------------------------------------


def test_decision_when_it_is_as_expected_passes_each_check() -> None:
    decision = given(decider_with(), [Placed(30)]).when(20)
    decision.then([Paid(20)]).then_state(State(10, ["placed", "paid"])).then(Paid(20))
    assert decision.error is None
    (event,) = decision.events
    assert (event.type, event.version, event.payload()) == ("test-order-paid", 2, Paid(20))
    given(decider_with(), [Placed(30)]).when(0).then_nothing().then([])
    given(decider_with(), [Placed(30)]).when(31).then_raises(ValueError).then_state(State(30, ["placed"]))
    given(decider_with()).when(1).then_raises(ValueError, match="0 is due")
    given(decider_with(), [Placed(5), Paid(5)]).then_state(State(0, ["placed", "paid"]))


def test_then_when_an_event_differs_shows_both_and_the_other_fields() -> None:
    decision = given(decider_with(lambda state, command: [Placed(1), Paid(2), Placed(3)])).when(0)
    text = failure(decision.then, [Placed(1), Paid(2, by="cash"), Placed(3)])
    assert text.splitlines() == [
        "decide returned other events than expected (- expected, + decided)",
        f"    test-order-placed {Placed(1)!r}",
        f"  - test-order-paid {Paid(2, by='cash')!r}",
        f"  + test-order-paid {Paid(2)!r}",
        "      by: expected 'cash', decided 'card'",
        f"    test-order-placed {Placed(3)!r}",
    ]


def test_then_when_events_are_missing_or_too_many_shows_them() -> None:
    decision = given(decider_with(), [Placed(30)]).when(20)
    assert failure(decision.then, []).endswith(f"\n  + test-order-paid {Paid(20)!r}")
    assert failure(decision.then, [Placed(1), Paid(20)]).endswith(
        f"\n  - test-order-placed {Placed(1)!r}\n    test-order-paid {Paid(20)!r}"
    )
    assert "no event was expected, but decide returned\n    test-order-paid" in failure(decision.then_nothing)


def test_then_when_an_error_was_raised_shows_and_chains_it() -> None:
    decision = given(decider_with()).when(7)
    for check in (decision.then_nothing, lambda: decision.then([Paid(7)])):
        with pytest.raises(AssertionError, match="decide raised ValueError") as caught:
            check()
        assert caught.value.__cause__ is decision.error
    assert "but these events were expected:\n    test-order-paid" in failure(decision.then, [Paid(7)])


@pytest.mark.parametrize(
    ("data", "other", "is_same"),
    [
        (eda.JSON({"a": 1}), eda.JSON({"a": 1}), True),
        (eda.JSON({"a": 1}), eda.JSON({"a": 2}), False),
        (eda.JSON({"a": 1, "b": 2}), eda.JSON({"b": 2, "a": 1}), True),
        (eda.JSON(1), eda.JSON(True), False),
        (eda.JSON("a"), eda.Bytes(b"a"), False),
        (None, eda.JSON(None), True),
        (eda.Data.from_encoded("odd", b"a"), eda.Data.from_encoded("odd", b"b"), False),
        (eda.Data.from_encoded("odd", b"a"), eda.Data.from_encoded("odd", b"a"), True),
        (eda.MsgPack({"a": b"x"}), eda.MsgPack({"a": b"x"}), True),
    ],
)
def test_events_when_they_have_no_payload_class_are_compared_by_type_and_data(
    data: Any, other: Any, is_same: bool
) -> None:
    decider = eda.Decider(0, lambda state, event: state, lambda state, command: command)
    decision = given(decider).when(eda.Event(type="a", data=data))
    if is_same:
        decision.then([eda.Event(type="a", data=other)])
    else:
        assert "+ a" in failure(decision.then, [eda.Event(type="a", data=other)])
    assert "- b" in failure(decision.then, [eda.Event(type="b", data=data)])


def test_events_when_the_expected_one_sets_more_fields_are_compared_by_them() -> None:
    decider = eda.Decider(0, lambda state, event: state, lambda state, command: command)
    decided = eda.Event(type="a", id="1", cause="c", meta={"tenant": "x", "more": "y"}, time=5, aggregate="other")
    decision = given(decider).when(decided)
    decision.then([eda.Event(type="a")])
    decision.then([eda.Event(type="a", cause="c", meta={"tenant": "x"}, id="2", time=7)])
    assert "cause: expected 'd', decided 'c'" in failure(decision.then, [eda.Event(type="a", cause="d")])
    assert "meta['tenant']: expected 'z', decided 'x'" in failure(
        decision.then, [eda.Event(type="a", meta={"tenant": "z"})]
    )


def test_payloads_when_their_class_has_no_eq_are_compared_by_their_bytes() -> None:
    @eda.payload("odd")
    @dataclass(eq=False, repr=False)
    class Odd:
        number: int

    decider = eda.Decider(0, lambda state, event: state, lambda state, command: Odd(command))
    decision = given(decider).when(3)
    decision.then([Odd(3)])
    text = failure(decision.then, [Odd(4)])
    assert "- odd {'number': 4}\n  + odd {'number': 3}\n      number: expected 4, decided 3" in text


def test_payloads_when_they_look_the_same_show_their_difference() -> None:
    @eda.payload("hidden")
    @dataclass(repr=False)
    class Hidden:
        number: int

        def __repr__(self) -> str:
            return "Hidden"

    decider = eda.Decider(0, lambda state, event: state, lambda state, command: Hidden(command))
    assert "number: expected 4, decided 3" in failure(given(decider).when(3).then, [Hidden(4)])


# --- then_raises -----------------------------------------------------------------------------------------------------


def test_then_raises_when_the_error_is_another_shows_and_chains_it() -> None:
    decision = given(decider_with()).when(7)
    text = "7 is too much: 0 is due"
    decision.then_raises(ValueError(text)).then_raises((KeyError, ValueError), match="too much").then_raises(Exception)
    assert "was expected to raise KeyError, but it raised ValueError" in failure(decision.then_raises, KeyError)
    assert "to raise KeyError or TypeError" in failure(decision.then_raises, (KeyError, TypeError))
    assert "to raise ValueError('other')" in failure(decision.then_raises, ValueError("other"))
    assert "to raise Exception(" in failure(decision.then_raises, Exception(text))
    assert "expected to match 'abc'" in failure(decision.then_raises, ValueError, match="abc")
    with pytest.raises(AssertionError) as caught:
        decision.then_raises(KeyError)
    assert caught.value.__cause__ is decision.error


def test_then_raises_when_nothing_was_raised_shows_the_decided_events() -> None:
    decision = given(decider_with(), [Placed(3)]).when(3)
    assert "to raise KeyError, but it returned\n    test-order-paid" in failure(decision.then_raises, KeyError)
    assert failure(given(decider_with()).when(0).then_raises, KeyError).endswith("returned\n    no event")


@pytest.mark.parametrize("wrong", [5, "ValueError", (), (ValueError, 5), BaseException, None])
def test_then_raises_when_given_no_error_refuses(wrong: Any) -> None:
    with pytest.raises(eda.ConfigError, match="must be an exception or its type"):
        given(decider_with()).when(7).then_raises(wrong)


# --- how it runs -----------------------------------------------------------------------------------------------------


def decide_later(threads: list[str]) -> Any:
    async def decide(state: Any, command: Any) -> Any:
        await asyncio.sleep(0.001)
        threads.append(threading.current_thread().name)
        if command == "fail":
            raise LookupError(command)
        return eda.Event(type=command)

    return decide


def check_async() -> None:
    threads: list[str] = []
    decider = eda.Decider(0, lambda state, event: state + 1, decide_later(threads))
    given(decider, [eda.Event(type="a")]).when("b").then([eda.Event(type="b")]).then_state(2)
    given(decider).when("fail").then_raises(LookupError, match="fail")
    assert all(name.startswith("eda decide") for name in threads)


def test_async_decide_when_the_test_is_plain_is_run() -> None:
    check_async()


async def test_async_decide_when_the_test_has_a_running_loop_is_run() -> None:
    check_async()


def test_decide_when_it_is_a_generator_function_is_run_to_its_end() -> None:
    def decide(state: int, command: int) -> Iterator[eda.Event]:
        yield eda.Event(type="a")
        if command:
            raise ValueError("later")

    decider = eda.Decider(0, lambda state, event: state, decide)
    given(decider).when(0).then([eda.Event(type="a")])
    given(decider).when(1).then_raises(ValueError, match="later")


def test_decide_when_it_returns_no_events_is_a_config_error_at_once() -> None:
    with pytest.raises(eda.ConfigError, match="decide returned a str: an event is"):
        given(decider_with(lambda state, command: "paid")).when(1)
    with pytest.raises(eda.ConfigError, match="has no decide"):
        given(eda.Decider(0, lambda state, event: state)).when(1)


def test_decide_when_it_changes_the_state_is_found() -> None:
    def decide(state: Any, command: Any) -> Any:
        state.due -= command

    text = failure(given(decider_with(decide), [Placed(30)]).when, 10)
    assert text.startswith("decide has changed the state")
    assert "due=30" in text
    assert "due=20" in text


def test_history_when_folded_has_versions_and_decoded_data() -> None:
    seen: list[eda.Event] = []

    def evolve(state: int, event: eda.Event) -> int:
        seen.append(event)
        return state + event.data.decode()["amount"]

    decider = eda.Decider(0, evolve)
    history = [Placed(30), eda.Event(type="test-order-paid", id="e2", data=eda.JSON({"amount": 5}), aggregate="7")]
    given(decider, history, aggregate="4711").then_state(35)
    assert [(event.version, event.sequence, event.aggregate) for event in seen[:2]] == [(1, 1, "4711"), (2, 2, "7")]
    assert seen[1].id == "e2"
    assert all(event.id and event.time and event.ack_time and not event.attempt for event in seen)


def test_history_when_an_event_works_only_in_memory_fails() -> None:
    decider = eda.Decider(0, lambda state, event: state)
    with pytest.raises(eda.EncodeError):
        given(decider, [eda.Event(type="a", data=eda.JSON({"when": object()}))])
    with pytest.raises(eda.DecodeError) as caught:
        given(decider_with(), [Placed("thirty")])
    assert "while folding event" in caught.value.__notes__[0]


def test_history_when_it_is_no_list_of_events_is_refused() -> None:
    for wrong in (5, "placed", {"a": 1}, [5], Placed):
        with pytest.raises(eda.ConfigError, match=r"^events has (an int|a str|a dict|the class .*Placed): an event is"):
            given(decider_with(), wrong)
    with pytest.raises(eda.ConfigError, match="decider must be"):
        given(5, [])
    given(decider_with(), Placed(30)).when(30).then([Paid(30)])


def test_state_when_its_snapshot_would_lose_something_fails() -> None:
    @dataclass
    class Total:
        by_day: dict[int, int]

    def evolve(state: Any, event: eda.Event) -> Any:
        return Total({**state.by_day, "mon": 1})

    given(eda.Decider(Total({}), evolve, state=Total)).then_state(Total({}))
    given(eda.Decider(Total({}), evolve), [eda.Event(type="a")])
    text = failure(given, eda.Decider(Total({}), evolve, state=Total), [eda.Event(type="a")])
    assert text.startswith("the state can't be kept in a snapshot")
    decider = eda.Decider(Total({}), evolve, lambda state, command: eda.Event(type="a"), state=Total)
    assert "can't be kept in a snapshot" in failure(given(decider).when, 1)


def test_then_state_when_the_state_differs_shows_both() -> None:
    text = failure(given(decider_with(), [Placed(5)]).then_state, State(6, ["placed"]))
    assert f"expected: {State(6, ['placed'])!r}\n  found:    {State(5, ['placed'])!r}" in text


# --- as a module -----------------------------------------------------------------------------------------------------


def test_module_when_eda_is_imported_is_an_attribute_and_not_loaded() -> None:
    code = (
        "import eda, sys\n"
        "assert 'eda.testing' not in sys.modules\n"
        "assert callable(eda.testing.given)\n"
        "decider = eda.Decider(0, lambda state, event: state + 1, lambda state, command: eda.Event(type=command))\n"
        "eda.testing.given(decider, [eda.Event(type='a')]).when('b').then([eda.Event(type='b')]).then_state(2)\n"
        "assert 'asyncio' in sys.modules and 'nats' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
