"""What all event stores of one stream on one connection share."""

from __future__ import annotations

from eda.store.appending import Appending
from eda.store.history import History
from eda.store.opening import OpenedStream
from eda.store.turns import Turns

__all__ = ["StreamParts"]


class StreamParts:
    """The open stream of event stores: how its aggregates are read and appended to.

    `epoch` grows with each reconnect, and if the stream was made again. What was cached in an earlier epoch is checked
    before it is used. `turns`: who appends to an aggregate now. All stores share them, so that two never conflict.
    """

    __slots__ = ("appending", "epoch", "history", "opened", "turns")

    def __init__(self, opened: OpenedStream, history: History, appending: Appending) -> None:
        self.opened: OpenedStream = opened
        self.history: History = history
        self.appending: Appending = appending
        self.turns: Turns = Turns()
        self.epoch: int = 0

    def begin_epoch(self) -> None:
        """Make the stores check what they have cached until now before they use it."""
        self.epoch += 1
