"""Columns of progress bars."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text

__all__ = ["Done", "Rate"]


class Done(ProgressColumn):
    """How many are done, and of how many."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        done = f"{task.completed:,.0f}"
        return Text(f"{done}/{task.total:,.0f}" if task.total is not None else done)


class Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>9,.0f}/s" if speed else "         -/s")
