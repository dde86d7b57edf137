"""The hooks at the beginning and at the end of a connection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from eda.deadline import Deadline
from eda.middleware.base import Middleware, overrides
from eda.middleware.calls import Hook

__all__ = ["ConnHooks"]


class ConnHooks:
    """Runs the hooks `opened` and `closed` of a connection. Each middleware that was opened is closed, once."""

    def __init__(self, middleware: Sequence[Middleware], conn: Any, logger: logging.Logger) -> None:
        self._middleware = middleware
        self._conn = conn
        self._logger = logger
        self._to_close: list[Middleware] = []

    async def opened(self) -> None:
        """Run the hooks `opened`, from the first middleware to the last. Raises what a hook raises."""
        for each in self._middleware:
            if overrides(each, "opened"):
                hook = Hook(each, "opened")
                try:
                    await hook.run(self._conn)
                except Exception as error:
                    error.add_note(f"{hook.name} raised this, so the connection was closed")
                    raise
            self._to_close.append(each)

    async def closed(self, deadline: Deadline) -> None:
        """Run the hooks `closed`, from the last middleware to the first. An exception of a hook is logged.

        A hook that runs at the deadline is cancelled. Each hook runs up to its first wait, even after the deadline.
        """
        while self._to_close:
            each = self._to_close.pop()
            if overrides(each, "closed"):
                hook = Hook(each, "closed")
                try:
                    await deadline.run(hook.run(self._conn))
                except Exception:
                    self._logger.exception("middleware %s failed", hook.name)
