"""Which states can be changed in place."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import pytest

from eda.store.changeable import is_immutable


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: int
    b: object = None


class Plain:
    pass


class WithHash:
    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True


@dataclass(frozen=True)
class Frozen:
    a: object = 1
    b: object = 2


@dataclass(frozen=True)
class Unset:
    a: int = field(init=False)


@dataclass(unsafe_hash=True)
class Hashed:
    a: int = 1


class NotFrozenChild(Frozen):
    pass


class FrozenStruct(msgspec.Struct, frozen=True):
    a: object = 1


class OpenStruct(msgspec.Struct):
    a: int = 1


@pytest.mark.parametrize(
    "state",
    [
        *(None, 1, 1.5, "a", b"a", True, (), (1, ("a", None)), frozenset({1}), Colour.RED, Pair(1), Frozen()),
        *(Frozen(Frozen(), (1,)), FrozenStruct(Frozen()), datetime.datetime.now(datetime.UTC)),
    ],
)
def test_is_immutable_when_nothing_can_change_is_true(state: object) -> None:
    assert is_immutable(state)


@pytest.mark.parametrize(
    "state",
    [
        *([], {}, set(), bytearray(), Plain(), WithHash(), Hashed(), OpenStruct(), ([],), (1, (Plain(),)), Unset()),
        *(Frozen([]), Frozen(1, Plain()), FrozenStruct([]), FrozenStruct(Hashed()), Pair(1, Plain()), NotFrozenChild()),
        frozenset({WithHash()}),
    ],
)
def test_is_immutable_when_a_part_may_change_is_false(state: object) -> None:
    assert not is_immutable(state)
