"""Results of the event store."""

from __future__ import annotations

import copy
import pickle

import pytest

import eda


def test_loaded_when_there_are_no_events_does_not_exist() -> None:
    loaded: eda.Loaded[int] = eda.Loaded("4711", 0, stream="orders")
    assert not loaded.exists
    assert (loaded.version, loaded.events, loaded.position) == (0, [], ("orders", 0, 0))


def test_loaded_when_there_are_events_has_the_position_of_the_last_receipt() -> None:
    loaded = eda.Loaded("4711", "state", 3, [], "orders", 17, "e3")
    assert loaded.exists
    assert loaded.position == eda.Receipt("e3", "orders", 17).position


def test_appended_when_it_has_receipts_has_the_last_one() -> None:
    receipts = [eda.Receipt("e1", "orders", 16), eda.Receipt("e2", "orders", 17)]
    assert eda.Appended("4711", 2, receipts).receipt is receipts[1]
    assert eda.Appended("4711", 2, receipts).state is None
    assert eda.Appended("4711", 0).receipt is None


def test_results_when_copied_are_equal_and_can_not_be_changed() -> None:
    loaded = eda.Loaded("4711", {"a": 1}, 3, [eda.Event(type="t")], "orders", 17, "e3")
    appended = eda.Appended("4711", 2, [eda.Receipt("e1", "orders", 16)], 5)
    for result in (loaded, appended):
        assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
        with pytest.raises(AttributeError):
            result.version = 5  # type: ignore[misc]
