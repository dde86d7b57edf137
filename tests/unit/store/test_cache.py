"""The cached aggregates of a store."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable

import pytest

from eda.store._cache import Cache, Cached
from eda.store._recent_commands import RecentCommands


def test_aggregate_when_put_is_returned_until_it_is_dropped() -> None:
    cache = Cache(10)
    cached = Cached("state", 5, 100, "e5")
    assert cache.get("a") is None
    cache.put("a", cached)
    assert cache.get("a") is cached
    cache.put("a", other := Cached("other"))
    assert cache.get("a") is other
    assert len(cache) == 1
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None
    assert len(cache) == 0


def test_cache_when_it_is_full_drops_the_aggregate_that_was_not_used_longest() -> None:
    cache = Cache(3)
    for name in "abc":
        cache.put(name, Cached(name))
    assert cache.get("a") is not None
    cache.put("b", Cached("b"))
    cache.put("d", Cached("d"))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "b", "d"]


@pytest.mark.parametrize("bound", [0, 1, 5])
def test_cache_when_used_at_random_has_what_a_list_has(bound: int) -> None:
    chance = random.Random(bound)
    cache, reference = Cache(bound), []  # oldest first
    for _ in range(3000):
        name = str(chance.randrange(8))
        what = chance.random()
        if what < 0.5:
            found = cache.get(name)
            assert (found is not None) == (name in reference)
            if name in reference:
                reference.append(reference.pop(reference.index(name)))
        elif what < 0.9:
            cache.put(name, Cached(name))
            reference = [*(each for each in reference if each != name), name][-bound:] if bound else []
        else:
            cache.drop(name)
            reference = [each for each in reference if each != name]
        assert len(cache) == len(reference) <= bound


@pytest.mark.parametrize("bound", [0, 1, 2, 7])
def test_cache_when_used_at_random_has_the_order_of_an_ordered_dict(bound: int) -> None:
    chance = random.Random(bound)
    cache = Cache(bound)
    reference: OrderedDict[str, Cached] = OrderedDict()
    for number in range(5000):
        name = str(chance.randrange(12))
        what = chance.random()
        if what < 0.4:
            if name in reference:
                reference.move_to_end(name)
            assert cache.get(name) is reference.get(name)
        elif what < 0.9:
            cached = Cached(number)
            cache.put(name, cached)
            reference[name] = cached
            reference.move_to_end(name)
            while len(reference) > bound:
                reference.popitem(last=False)
        else:
            cache.drop(name)
            reference.pop(name, None)
        assert len(cache) == len(reference)
    for name, cached in reference.items():  # from here on the order does not change
        assert cache.get(name) is cached


class Reentrant:
    """A state that uses the cache when it is dropped."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.then = then

    def __del__(self) -> None:
        self.then()


@pytest.mark.parametrize("bound", [1, 2, 5])
def test_cache_when_a_dropped_state_uses_it_stays_whole(bound: int) -> None:
    chance = random.Random(bound)
    cache = Cache(bound)
    n_dropped = 0

    def use() -> None:
        nonlocal n_dropped
        n_dropped += 1
        for _ in range(3):
            name = str(chance.randrange(4))
            what = chance.randrange(4)
            if what == 0:
                cache.drop(name)
            elif what == 1:
                cache.put(name, Cached("plain", 7))
            else:
                found = cache.get(name)
                assert found is None or found.version in (1, 7)

    for _ in range(3000):
        cache.put(str(chance.randrange(4)), Cached(Reentrant(use), 1))
        if chance.random() < 0.2:
            cache.drop(str(chance.randrange(4)))
        assert len(cache) <= bound
    assert n_dropped > 1000
    for name in "0123":
        cache.drop(name)
    for name in "0123":  # a state may have put others meanwhile
        cache.drop(name)
    assert len(cache) <= bound


def test_cache_when_its_bound_is_0_keeps_nothing() -> None:
    cache = Cache(0)
    cache.put("a", Cached("a"))
    assert (len(cache), cache.get("a")) == (0, None)


def test_cached_when_made_has_commands_of_its_own() -> None:
    one, other = Cached(None), Cached(None)
    assert one.commands is not other.commands
    commands = RecentCommands()
    whole = Cached("s", 7, 70, "e7", commands, snapshot_version=5, snapshot_sequence=50, epoch=3)
    assert whole.commands is commands
    assert (whole.state, whole.version, whole.sequence, whole.last_id) == ("s", 7, 70, "e7")
    assert (whole.snapshot_version, whole.snapshot_sequence, whole.epoch) == (5, 50, 3)
    assert (one.version, one.sequence, one.last_id, one.snapshot_version, one.epoch) == (0, 0, "", 0, 0)
    with pytest.raises(AttributeError):
        one.other = 1  # type: ignore[attr-defined]


def test_cache_when_timed_drops_an_aggregate_in_the_same_time_whatever_its_bound() -> None:
    """A plain dict takes 30 times as long with 10,000 aggregates: its search passes over those that were removed."""
    cached = Cached(None)
    names = [str(number) for number in range(30_000)]

    def seconds(bound: int) -> float:
        cache = Cache(bound)
        began = time.perf_counter()
        for name in names:
            cache.put(name, cached)
        return time.perf_counter() - began

    assert min(seconds(10_000) for _ in range(5)) < 4 * min(seconds(10) for _ in range(5))
