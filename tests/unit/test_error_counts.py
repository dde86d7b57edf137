"""eda.error_counts: failures by the type of their error, and never more than 33 types."""

from __future__ import annotations

from eda.error_counts import OTHER, ErrorCounts, name_of
from eda.errors import Timeout


def test_count_when_errors_are_added_is_by_type() -> None:
    errors = ErrorCounts()
    errors.add(ValueError("a"))
    errors.add(ValueError("b"), 2)
    errors.add(Timeout("publish", 1.0))
    assert errors.counts == {"ValueError": 3, "eda.errors.Timeout": 1}


def test_name_when_a_class_is_not_builtin_has_its_module() -> None:
    assert name_of(KeyError()) == "KeyError"
    assert name_of(Timeout("publish", 1.0)) == "eda.errors.Timeout"


def test_count_when_there_are_too_many_types_puts_the_rest_together() -> None:
    errors = ErrorCounts()
    types = [type(f"Error{n}", (Exception,), {}) for n in range(40)]
    for each in types:
        errors.add(each())
    assert len(errors.counts) == 33
    assert errors.counts[OTHER] == 8
    errors.add(types[0]())
    assert errors.counts[name_of(types[0]())] == 2
    assert sum(errors.counts.values()) == 41
