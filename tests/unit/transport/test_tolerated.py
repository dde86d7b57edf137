"""eda.transport.tolerated: a subject is tolerated until everybody who has added it has discarded it."""

from __future__ import annotations

import pytest

from eda.transport.tolerated import Tolerated


def test_subject_when_two_have_added_it_is_tolerated_until_both_have_discarded_it() -> None:
    tolerated = Tolerated()
    assert "a" not in tolerated
    tolerated.add("a")
    tolerated.add("a")
    tolerated.discard("a")
    assert "a" in tolerated
    tolerated.discard("a")
    assert "a" not in tolerated
    assert not tolerated._n_of


def test_subject_when_discarded_without_being_added_changes_nothing() -> None:
    tolerated = Tolerated()
    tolerated.discard("a")
    tolerated.add("a")
    assert "a" in tolerated


def test_subjects_when_a_block_has_failed_are_not_tolerated_any_more() -> None:
    tolerated = Tolerated()
    tolerated.add("a")
    with pytest.raises(ValueError, match="x"), tolerated.during(["a", "b"]):
        assert "b" in tolerated
        raise ValueError("x")
    assert "a" in tolerated
    assert "b" not in tolerated
