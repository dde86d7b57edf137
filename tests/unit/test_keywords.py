"""The TypedDicts of the keyword options, which must say the same as SubscriptionOptions."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, Literal, get_type_hints

import pytest

from eda import (
    Event,
    EventsBatchKeywords,
    EventsKeywords,
    Retry,
    StreamKeywords,
    StreamOptions,
    SubscribeBatchKeywords,
    SubscribeKeywords,
    SubscriptionOptions,
    keywords,
)

SINGLE: list[Any] = [SubscribeKeywords, EventsKeywords]
BATCH: list[Any] = [SubscribeBatchKeywords, EventsBatchKeywords]
SUBSCRIBE: list[Any] = [SubscribeKeywords, SubscribeBatchKeywords]

# The dataclass fits every handler, and it is one of the words, which don't know Event. So these options have
# narrower types here.
KEY = Literal["aggregate"] | Callable[[Event], Hashable] | None
NARROWER: dict[str, tuple[Any, Any]] = {  # for single events, for a batch
    "key": (KEY, NoneType),
    "batch": (NoneType, int),
}


def defaults_in(cls: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Yield the default that the text of each option names."""
    for option, text in itertools.pairwise(cls.body):
        if isinstance(option, ast.AnnAssign) and isinstance(option.target, ast.Name):
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            words, _, default = str(text.value.value).partition(" Default: ")
            assert words.endswith("."), option.target.id
            yield option.target.id, eval(default, {"Retry": Retry}) if default else MISSING


@pytest.mark.parametrize("options", [SubscriptionOptions, StreamOptions, Retry])
def test_options_when_help_is_asked_for_are_all_described(options: Any) -> None:
    assert [field.name for field in fields(options) if f"`{field.name}`" not in options.__doc__] == []


@pytest.mark.parametrize("kind", [*SINGLE, *BATCH])
def test_keywords_when_compared_with_the_options_have_the_same_names_and_types(kind: Any) -> None:
    expected = get_type_hints(SubscriptionOptions)
    for name, (single, batch) in NARROWER.items():
        expected[name] = batch if kind in BATCH else single
    if kind not in SUBSCRIBE:
        del expected["concurrency"]  # an iterator has one event at a time
    assert get_type_hints(kind) == expected


@pytest.mark.parametrize("kind", [*SINGLE, *BATCH])
def test_keywords_when_options_have_defaults_may_be_left_out_but_a_batch_needs_its_size(kind: Any) -> None:
    assert all(
        option.default is not MISSING or option.default_factory is not MISSING for option in fields(SubscriptionOptions)
    )
    assert kind.__required_keys__ == ({"batch"} if kind in BATCH else set())


def test_keywords_of_a_stream_when_compared_with_its_options_are_the_same() -> None:
    assert get_type_hints(StreamKeywords) == get_type_hints(StreamOptions)
    assert StreamKeywords.__required_keys__ == set()


def test_keywords_when_their_text_names_a_default_it_is_the_one_of_the_options() -> None:
    options = SubscriptionOptions()
    classes = [node for node in ast.parse(inspect.getsource(keywords)).body if isinstance(node, ast.ClassDef)]
    found = [(name, default) for each in classes for name, default in defaults_in(each)]
    assert {name for name, _ in found} == {option.name for option in fields(SubscriptionOptions)}
    wrong = [(name, default) for name, default in found if default is not MISSING and default != getattr(options, name)]
    assert wrong == []
    assert [name for name, default in found if default is MISSING] == ["batch"]  # where it is required
