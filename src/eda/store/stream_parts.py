"""What all event stores of one stream on one connection share."""

from __future__ import annotations

from typing import Any

from eda.errors import ConfigError
from eda.store.appending import Appending
from eda.store.decider import Decider
from eda.store.history import History
from eda.store.opening import OpenedStream
from eda.store.turns import Turns

__all__ = ["StreamParts"]


class StreamParts:
    """The open stream of event stores: how its aggregates are read and appended to.

    `epoch` grows with each reconnect, and if the stream was made again. What was cached in an earlier epoch is checked
    before it is used. `turns`: who appends to an aggregate now. All stores share them, so that two never conflict.
    """

    __slots__ = ("_evolves", "appending", "epoch", "history", "opened", "turns")

    def __init__(self, opened: OpenedStream, history: History, appending: Appending) -> None:
        self.opened: OpenedStream = opened
        self.history: History = history
        self.appending: Appending = appending
        self.turns: Turns = Turns()
        self.epoch: int = 0
        self._evolves: dict[str, str] = {}  # the names of the functions that make the states in snapshots, by version

    def check_snapshots_of(self, decider: Decider[Any, Any]) -> None:
        """Raise ConfigError if a decider with another `evolve` has snapshots of the same version in this stream."""
        evolve = decider.evolve
        module, name = getattr(evolve, "__module__", None), getattr(evolve, "__qualname__", None)
        if module is None or name is None:
            return
        version, found = decider.snapshot_version, f"{module}.{name}"
        other = self._evolves.setdefault(version, found)
        if other != found:
            raise ConfigError(
                f"stream {self.opened.name!r} has snapshots of two deciders with snapshot_version {version!r}, so each "
                f"would take the other's states for its own: their evolve is {other} and {found}. "
                "Use snapshot_every with only one of them",
                argument="snapshot_every",
            )

    def begin_epoch(self) -> None:
        """Make the stores check what they have cached until now before they use it."""
        self.epoch += 1
