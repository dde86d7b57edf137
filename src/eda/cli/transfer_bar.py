"""The progress bar of `eda copy` and `eda replay`: how many messages of the range are done."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from eda.cli.event_range import Bounds
from eda.cli.output import console
from eda.cli.places import Place

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["TransferBar"]

EVERY_S = 0.1


class TransferBar:
    """A progress bar on standard error; nothing if that is not a terminal."""

    def __init__(self, title: str, bounds: Bounds) -> None:
        self._first = bounds.first.sequence
        self._shown_at = 0.0
        self._bar: tuple[Progress, TaskID] | None = None
        if sys.stderr.isatty():
            bar = _progress()
            self._bar = bar, bar.add_task(title, total=bounds.n_sequences)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show(self, place: Place) -> None:
        """Show that all messages before this place are done."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown_at >= EVERY_S:
            self._shown_at = now
            bar, task = self._bar
            bar.update(task, completed=place.sequence - self._first)

    def note(self, text: str) -> None:
        """Show a text in place of the title."""
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, description=text)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar[0].stop()


def _progress() -> Progress:
    # Here, because a command without a terminal would answer a tenth later.
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from eda.cli.columns import Done, Rate

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), Done(), Rate())
    to = console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=to, transient=True)
