"""eda.upcast: what it refuses at once, and what the check at the start of a program refuses."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from eda.errors import ConfigError
from eda.typed.registry import payload_class_of
from eda.typed.upcasters import _chains, chain_of, check_upcasters, upcasters_of


@dataclass
class Paid:
    amount: int


def same(data: Any) -> Any:
    return data


class Caller:
    def __call__(self, data: Any) -> Any:
        return data

    def method(self, data: Any) -> Any:
        return data

    async def coroutine(self, data: Any) -> Any:
        return data


async def coroutine(data: Any) -> Any:
    return data


def generator(data: Any) -> Iterator[Any]:
    yield data


async def async_generator(data: Any) -> AsyncIterator[Any]:
    yield data


@pytest.mark.parametrize(
    "function",
    [same, Caller(), Caller().method, lambda data, more=1: data, functools.partial(lambda a, data: data, 1), dict],
)
def test_function_when_it_takes_one_argument_is_returned_as_it_is(function: Any) -> None:
    if function is dict:  # a class is no upcaster, but a wrapped one is
        function = functools.partial(dict)
    assert eda.upcast("paid", "1", "2")(function) is function
    assert upcasters_of("paid")["1"].function is function


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (coroutine, "must be a plain function, not an async def"),
        (Caller().coroutine, "must be a plain function, not an async def"),
        (functools.partial(coroutine), "must be a plain function, not an async def"),
        (generator, "must be a plain function, not a generator function"),
        (async_generator, "must be a plain function, not an async generator function"),
        (Paid, "must be a plain function, not a class"),
        (lambda: None, r"must take one argument, the plain data: its signature is \(\)"),
        (lambda a, b: None, r"must take one argument, .* \(a, b\)"),
        (lambda *, data: None, r"must take one argument"),
        (None, "must be a function, not None"),
        ("same", "must be a function, not 'same'"),
    ],
)
def test_function_when_it_is_no_upcaster_is_refused(function: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=rf"the upcaster of type 'paid' from schema '1' to '2' {match}"):
        eda.upcast("paid", "1", "2")(function)
    assert upcasters_of("paid") == {}


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (("", "1", "2"), "type"),
        ((5, "1", "2"), "type"),
        ((Paid, "1", "2"), "type"),
        (("paid", 1, "2"), "old"),
        (("paid", None, "2"), "old"),
        (("paid", "1", 2), "new"),
        (("paid", "1", ""), "new"),
        (("paid", "1", "\ud800"), "new"),
    ],
)
def test_argument_when_wrong_is_refused(arguments: Any, argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        eda.upcast(*arguments)
    assert caught.value.argument == argument


def test_source_when_it_has_an_upcaster_already_is_refused() -> None:
    eda.upcast("paid", "1", "2")(same)
    with pytest.raises(ConfigError, match="type 'paid' already has an upcaster from schema '1', which leads to '2'"):
        eda.upcast("paid", "1", "3")(same)
    eda.payload("paid", schema="2", aliases=["payed"])(Paid)
    with pytest.raises(ConfigError, match="type 'payed' already has an upcaster from schema '1'"):
        eda.upcast("payed", "1", "2")(same)
    eda.upcast("other", "1", "2")(same)


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ([("1", "1")], "'1' → '1'"),
        ([("1", "2"), ("2", "1")], "'2' → '1' → '2'"),
        ([("2", "3"), ("1", "2"), ("3", "1")], "'3' → '1' → '2' → '3'"),
    ],
)
def test_circle_when_closed_is_refused_at_once(steps: list[tuple[str, str]], shown: str) -> None:
    *before, last = steps
    for old, new in before:
        eda.upcast("paid", old, new)(same)
    with pytest.raises(ConfigError, match=f"the upcasters of type 'paid' would go in a circle: {shown}"):
        eda.upcast("paid", *last)(same)


def test_chains_when_all_lead_to_the_class_pass_the_check() -> None:
    eda.upcast("paid", "1", "2")(same)
    eda.upcast("paid", "", "2")(same)
    eda.upcast("payed", "0", "1")(same)
    eda.payload("paid", schema="3", aliases=["payed"])(Paid)
    eda.upcast("paid", "2", "3")(same)
    check_upcasters()
    declared = payload_class_of(Paid)
    assert declared is not None
    ways = {old: [step.new for step in chain_of(declared, old) or ()] for old in ("", "0", "1", "2", "3")}
    assert ways == {"": ["2", "3"], "0": ["1", "2", "3"], "1": ["2", "3"], "2": ["3"], "3": []}
    assert chain_of(declared, "4") is None


def test_chains_when_events_bring_any_schema_stay_few() -> None:
    eda.payload("paid", schema="2")(Paid)
    eda.upcast("paid", "1", "2")(same)
    declared = payload_class_of(Paid)
    assert declared is not None
    for i in range(100):
        chain_of(declared, str(i))
    assert len(_chains) == 1
    eda.upcast("paid", "0", "1")(same)
    assert len(chain_of(declared, "0") or ()) == 2


@pytest.mark.parametrize("start", [check_upcasters, lambda: eda.connect("nats://localhost:1")])
@pytest.mark.parametrize(
    ("schema", "steps", "match"),
    [
        (None, [("1", "2")], "from schema '1' to '2' has no class: no payload class declares the type"),
        ("", [("1", "2")], "would never be called: .*Paid is declared without a schema"),
        (
            "3",
            [("1", "2")],
            "'1' to '2' does not lead to the schema '3' of .*Paid: '1' → '2', and from '2' there is no",
        ),
        ("4", [("1", "2"), ("2", "3")], "'1' → '2' → '3', and from '3' there is no further upcaster"),
        ("2", [("1", "2"), ("2", "3")], "from schema '2' to '3' leads away from the schema '2'"),
    ],
)
def test_chain_when_it_does_not_lead_to_the_class_is_refused_at_the_start(
    schema: str | None, steps: list[tuple[str, str]], match: str, start: Any
) -> None:
    if schema is not None:
        eda.payload("paid", schema=schema)(Paid)
    for old, new in steps:
        eda.upcast("paid", old, new)(same)
    for _ in range(2):
        with pytest.raises(ConfigError, match=match):
            start()


def test_upcaster_when_its_class_is_a_protobuf_message_is_refused_at_the_start() -> None:
    eda.payload("text", schema="2")(StringValue)
    eda.upcast("text", "1", "2")(same)
    with pytest.raises(ConfigError, match=r"would never be called: .*StringValue is a protobuf message"):
        check_upcasters()


def test_upcasters_when_an_alias_brings_a_second_one_or_a_circle_are_refused_at_the_start() -> None:
    eda.upcast("paid", "1", "2")(same)
    eda.upcast("payed", "1", "2")(same)
    eda.payload("paid", schema="2", aliases=["payed"])(Paid)
    with pytest.raises(ConfigError, match="is the second one from schema '1': one is declared for an alias"):
        check_upcasters()


def test_circle_when_closed_by_an_alias_is_refused_at_the_start() -> None:
    eda.upcast("paid", "1", "2")(same)
    eda.upcast("payed", "2", "1")(same)
    eda.payload("paid", schema="3", aliases=["payed"])(Paid)
    with pytest.raises(ConfigError, match="does not lead to the schema '3'"):
        check_upcasters()
