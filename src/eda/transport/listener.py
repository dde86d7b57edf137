"""Hearing of what happens to a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eda.transport.wire import Wire

__all__ = ["ConnectionListener"]


class ConnectionListener:
    """Calls for what happens to a connection, begun and ended together."""

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
        """Call from now on."""
        for calls, call in self._calls:
            calls.append(call)

    def stop(self) -> None:
        """Call no more; harmless when it has not begun."""
        for calls, call in self._calls:
            if call in calls:
                calls.remove(call)
