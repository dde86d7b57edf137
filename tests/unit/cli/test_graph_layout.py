"""eda.cli.graph_layout: where events are drawn."""

from __future__ import annotations

import random

from eda.cli.graph_events import GraphEvent
from eda.cli.graph_layout import Box, laid_out


def caused(*pairs: tuple[str, str]) -> list[GraphEvent]:
    """Return events by their ids and causes."""
    return [GraphEvent(id, cause, "t", "", "s", str(n), "", "") for n, (id, cause) in enumerate(pairs, 1)]


def places(boxes: list[Box]) -> dict[str, tuple[int, int]]:
    return {box.name: (box.column, box.row) for box in boxes}


def test_layout_when_events_form_trees_puts_effects_to_the_right() -> None:
    events = caused(("a", ""), ("b", "a"), ("x", ""), ("c", "a"), ("d", "b"))
    boxes, n_columns, n_rows = laid_out(events)
    assert places(boxes) == {"a": (0, 0), "b": (1, 0), "d": (2, 0), "c": (1, 1), "x": (0, 2)}
    assert (n_columns, n_rows) == (3, 3)


def test_layout_when_a_cause_is_missing_shows_it_once_before_its_effects() -> None:
    boxes, _, _ = laid_out(caused(("a", "gone"), ("b", ""), ("c", "gone")))
    assert places(boxes) == {"gone": (0, 0), "a": (1, 0), "c": (1, 1), "b": (0, 2)}
    assert [box.event is None for box in boxes] == [False, False, False, True]


def test_layout_when_causes_form_a_circle_opens_it_at_the_first_event() -> None:
    boxes, n_columns, n_rows = laid_out(caused(("a", "c"), ("b", "a"), ("c", "b"), ("self", "self")))
    assert places(boxes) == {"a": (0, 0), "b": (1, 0), "c": (2, 0), "self": (0, 1)}
    assert [box.parent for box in boxes] == [None, 0, 1, None]
    assert (n_columns, n_rows) == (3, 2)


def test_layout_when_an_id_is_repeated_takes_the_first_as_the_cause() -> None:
    boxes, _, _ = laid_out(caused(("a", ""), ("a", ""), ("b", "a")))
    assert [box.parent for box in boxes] == [None, None, 0]


def test_layout_when_an_effect_comes_before_its_cause_connects_them() -> None:
    boxes, _, _ = laid_out(caused(("b", "a"), ("a", "")))
    assert places(boxes) == {"a": (0, 0), "b": (1, 0)}


def test_layout_when_a_chain_is_long_needs_no_recursion() -> None:
    boxes, n_columns, n_rows = laid_out(caused(*((f"e{n}", f"e{n - 1}" if n else "") for n in range(5000))))
    assert (len(boxes), n_columns, n_rows) == (5000, 5000, 1)


def test_layout_when_there_are_no_events_is_empty() -> None:
    assert laid_out([]) == ([], 0, 0)


def test_layout_when_causes_are_random_puts_no_two_boxes_in_one_place() -> None:
    chance = random.Random(7)
    for _ in range(50):
        pairs = [(f"e{n}", f"e{chance.randrange(60)}" if chance.random() < 0.8 else "") for n in range(50)]
        boxes, n_columns, n_rows = laid_out(caused(*pairs))
        assert len({(box.column, box.row) for box in boxes}) == len(boxes)
        assert all(box.column < n_columns and box.row < n_rows for box in boxes)
        assert all(box.parent is None or boxes[box.parent].column == box.column - 1 for box in boxes)
