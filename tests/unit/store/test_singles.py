"""Appends of single events, made and not sent."""

from __future__ import annotations

import random
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda._codec import decode_event
from eda.store._cache import Cache, Cached
from eda.store._earlier import MOST, with_all
from eda.store._single import Single, Singles
from eda.transport._loop_check import LoopCheck


def singles(cache: Cache, decider: eda.Decider[Any, Any] | None = None) -> Singles:
    loop: Any = None
    opened, parts = SimpleNamespace(name="ORDERS", is_unfit=False), SimpleNamespace(epoch=0)
    return Singles(LoopCheck(loop, lambda: None), opened, parts, {}, "client", decider, cache, {})


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def total(state: int, event: eda.Event) -> int:
    return state + int(event.data.decode())


def kept(state: list[int], event: eda.Event) -> list[int]:
    return [*state, event.data.decode()]


@given(st.lists(st.integers(1, 2**63 - 1), max_size=40, unique=True).map(sorted))
def test_aggregate_when_events_are_stored_names_the_same_sequences_as_a_batch(sequences: list[int]) -> None:
    cache = Cache(1)
    made = singles(cache)
    known = Cached(None, has_state=False)
    for number, sequence in enumerate(sequences, 1):
        single = made.make("a", known, added(number), f"c{number}", None, None)
        appended = single.stored(sequence)
        known = single.after
        assert cache.get("a") is known
        assert (appended.version, known.version, known.sequence, known.last_id) == (number, number, sequence, single.id)
        assert known.earlier == " ".join(map(str, sequences[:number][: -MOST - 1 : -1]))
        assert known.commands.find(f"c{number}") == (number, sequence, 1)
    assert known.earlier == with_all("", sequences)


def test_append_when_the_version_is_the_largest_is_refused() -> None:
    made = singles(Cache(1))
    with pytest.raises(OverflowError, match="no version can follow"):
        made.make("a", Cached(None, 2**63 - 1, 7, "e"), added(1), None, None, None)
    single = made.make("a", Cached(None, 2**63 - 2, 7, "e"), added(1), None, None, None)
    assert decode_event(single.envelope).version == 2**63 - 1


def test_state_when_evolve_uses_the_cache_meanwhile_is_that_of_the_append() -> None:
    cache = Cache(1)

    def evolve(state: list[int], event: eda.Event) -> list[int]:
        cache.put("other", Cached("other"))
        cache.drop("a")
        return [*state, event.data.decode()]

    known = Cached([1], 1, 10, "e1")
    cache.put("a", known)
    single = singles(cache, eda.Decider(list, evolve)).make("a", known, added(2), None, None, None)
    assert not single.before.has_state  # `evolve` may have changed it in place
    assert cache.get("a") is None
    assert single.stored(20).state == [1, 2]
    assert (cache.get("a"), cache.get("other")) == (single.after, None)


@pytest.mark.parametrize("removed", ["dropped", "pushed out", "dropped and put again"])
def test_stored_when_the_aggregate_has_left_the_cache_meanwhile_caches_it_once(removed: str) -> None:
    cache = Cache(2)
    for name in ("a", "b"):
        cache.put(name, Cached([1], 1, 10, "e1"))

    single = singles(cache, eda.Decider(list, kept)).make("a", Cached([1], 1, 10, "e1"), added(2), None, None, None)
    if removed == "pushed out":
        for name in ("c", "b"):
            cache.put(name, Cached(name))
    else:
        cache.drop("a")
    if removed == "dropped and put again":
        cache.put("a", Cached("newer"))
    assert single.stored(20).state == [1, 2]
    assert cache.get("a") is single.after
    assert len(cache) == 2
    for name in ("d", "e"):  # the order of use is whole: both others are pushed out
        cache.put(name, Cached(name))
    assert [name for name in "abcde" if cache.get(name)] == ["d", "e"]


@pytest.mark.parametrize("bound", [0, 1, 2, 7])
@pytest.mark.parametrize("decider", [None, eda.Decider(0, total), eda.Decider(list, kept)])
def test_cache_when_events_are_stored_at_random_has_the_order_of_an_ordered_dict(
    decider: eda.Decider[Any, Any] | None, bound: int
) -> None:
    chance = random.Random(bound)
    cache = Cache(bound)
    appends = singles(cache, decider)
    reference: OrderedDict[str, None] = OrderedDict()
    waiting: list[Single] = []

    def use(name: str) -> None:
        if name in reference:
            reference.move_to_end(name)

    def put(name: str) -> None:
        reference[name] = None
        use(name)
        while len(reference) > bound:
            reference.popitem(last=False)

    for number in range(1, 3000):
        name = str(chance.randrange(12))
        what = chance.random() if number < 2500 else 0.5  # at last only the appends that wait are stored
        if what < 0.4:
            use(name)
            known = cache.get(name) or Cached(decider.new_state() if decider else None, has_state=decider is not None)
            waiting.append(single := appends.make(name, known, added(1), None, None, None))
            if not single.before.has_state:
                use(name)
        elif what < 0.8:
            if not waiting:
                continue
            single = waiting.pop(chance.randrange(len(waiting)))
            single.stored(number)
            put(single.aggregate)
            assert cache.get(single.aggregate) is (single.after if bound else None)
        elif what < 0.9:
            use(name)
            cache.get(name)
        else:
            cache.drop(name)
            reference.pop(name, None)
        assert len(cache) == len(reference) <= bound
    assert not waiting
    for number in range((bound + 1) // 2):  # each pushes out the aggregate that was not used longest
        cache.put(f"new-{number}", Cached(None))
        put(f"new-{number}")
    names = [*map(str, range(12)), *[f"new-{number}" for number in range(bound)]]
    assert {name for name in names if cache.get(name)} == set(reference)
