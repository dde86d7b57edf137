"""Where the events of a graph are drawn: causes on the left, effects on the right, no two boxes in one place.

An event has at most one cause. So the graph is a set of trees, apart from events that cause each other in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eda.cli.graph_events import GraphEvent

__all__ = ["Box", "laid_out"]


@dataclass(slots=True)
class Box:
    """A box of the drawing: an event, or a cause that is not among the events."""

    event: GraphEvent | None
    name: str
    """the event's key, or the id of the missing cause"""
    parent: int | None = None
    """the number of the cause's box"""
    column: int = 0
    row: int = 0


def laid_out(events: Sequence[GraphEvent]) -> tuple[list[Box], int, int]:
    """Return a box for each event and each missing cause, the number of columns, and the number of rows.

    The first effect of an event is in the row of the event, and each further effect begins a new row. If several events
    have one id, the first of them is the cause of what names this id.
    """
    boxes = [Box(event, event.key) for event in events]
    first_of: dict[str, int] = {}
    for number, event in enumerate(events):
        if event.id:
            first_of.setdefault(event.id, number)
    for number, event in enumerate(events):
        if event.cause:
            parent = first_of.get(event.cause)
            if parent is None:
                parent = first_of[event.cause] = len(boxes)
                boxes.append(Box(None, event.cause))
            boxes[number].parent = parent
    effects: list[list[int]] = [[] for _ in boxes]
    for number, box in enumerate(boxes):
        if box.parent is not None:
            effects[box.parent].append(number)
    n_columns, n_rows = _place(boxes, effects)
    return boxes, n_columns, n_rows


def _place(boxes: list[Box], effects: list[list[int]]) -> tuple[int, int]:
    """Give each box its column and row. In a circle of causes, the first event has no cause in the drawing."""
    placed = [False] * len(boxes)
    n_columns = n_rows = 0
    # A missing cause comes where its first effect is. Then come the events that only circles lead to.
    roots = sorted(
        (number for number, box in enumerate(boxes) if box.parent is None),
        key=lambda number: min(effects[number], default=number) if boxes[number].event is None else number,
    )
    for root in (*roots, *range(len(boxes))):
        if placed[root]:
            continue
        boxes[root].parent = None
        waiting = [(root, 0)]
        is_first = False  # whether the next box is the first effect of the box before
        while waiting:
            number, column = waiting.pop()
            if placed[number]:
                continue  # the circle is closed
            placed[number] = True
            box = boxes[number]
            n_rows += not is_first
            box.column, box.row = column, n_rows - 1
            n_columns = max(n_columns, column + 1)
            following = [effect for effect in effects[number] if not placed[effect]]
            waiting += [(effect, column + 1) for effect in reversed(following)]
            is_first = bool(following)
    return n_columns, n_rows
