"""Callbacks for the loss, return, refusals and end of a connection, added and removed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eda.transport.wire import Wire

__all__ = ["ConnectionListener"]


class ConnectionListener:
    """The callbacks of one object for a connection. `Wire` describes when each is called."""

    def __init__(
        self,
        wire: Wire,
        *,
        on_lost: Callable[[], None],
        on_restored: Callable[[], None],
        on_refused: Callable[[str, str], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._calls: list[tuple[list[Any], Any]] = [
            (wire.on_lost, on_lost),
            (wire.on_restored, on_restored),
            (wire.on_refused, on_refused),
            (wire.on_closed, on_closed),
        ]

    def start(self) -> None:
        """Add the callbacks to the connection."""
        for calls, call in self._calls:
            calls.append(call)

    def stop(self) -> None:
        """Remove the callbacks, if they were added."""
        for calls, call in self._calls:
            if call in calls:
                calls.remove(call)
