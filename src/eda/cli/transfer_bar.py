"""The progress bar of `eda copy` and `eda replay`: how many messages of the range are done."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eda.cli.columns import Done, Rate
from eda.cli.event_range import Bounds
from eda.cli.output import console
from eda.cli.places import Place

__all__ = ["TransferBar"]

EVERY_S = 0.1


class TransferBar:
    """A progress bar on standard error; nothing if that is not a terminal."""

    def __init__(self, title: str, bounds: Bounds) -> None:
        to = console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), Done(), Rate())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=to, disable=not to.is_terminal, transient=True
        )
        self._first = bounds.first.sequence
        self._task = self._bar.add_task(title, total=bounds.n_sequences)
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show(self, place: Place) -> None:
        """Show that all messages before this place are done."""
        now = time.monotonic()
        if now - self._shown_at >= EVERY_S:
            self._shown_at = now
            self._bar.update(self._task, completed=place.sequence - self._first)

    def note(self, text: str) -> None:
        """Show a text in place of the title."""
        self._bar.update(self._task, description=text)

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()
