"""What projections, views and relays have in common: how they close, and which functions of the user they run."""

from __future__ import annotations

import logging

from eda.deadline import Deadline
from eda.errors import Closed
from eda.life import Life, OnLife
from eda.run_in import RUN_IN

__all__ = ["Side"]

OPENING_SHARE = 0.5  # of the time for closing, this share is kept while the opening is cancelled


class Side(Life):
    """A projection, a view or a relay. Await it or enter it with `async with` to open it."""

    def __init__(self, label: str, logger: logging.Logger, on_opening: OnLife, on_closed: OnLife) -> None:
        super().__init__(label, logger, on_opening, on_closed)
        self._token = object()  # and not the object itself: what a function has started may outlive this

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "open" if self._has_opened else "not opened"
        return f"<{type(self).__name__} {self._label}, {state}>"

    # --- what each kind does -----------------------------------------------------------------------------------------

    async def _close(self, deadline: Deadline) -> None:
        """Close it by the deadline."""
        raise NotImplementedError

    def stop(self) -> None:
        """Begin nothing any more. `close` does the rest."""

    @property
    def _is_busy(self) -> bool:
        """Whether a function of the user runs."""
        return False

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def _in_use(self) -> None:
        """Open it, unless it is open already. Raises the error that has ended it, or Closed if it is being closed."""
        await self.opened()
        if self._closing is not None:
            raise self._error or Closed(self._label)

    async def _close_all(self) -> None:
        try:
            if self._opening is not None:
                await self._deadline.wait({self._opening}, keeps_s=self._deadline.left_s * OPENING_SHARE)
            await self._close(self._deadline)
        except Exception as error:
            self._error = self._error or error
            self._logger.exception("closing %s failed", self._label)
        finally:
            self._finished()

    # --- functions of the user ---------------------------------------------------------------------------------------

    def is_run_by_caller(self) -> bool:
        """Return whether the caller is a function of the user that this object runs, or was started by one."""
        return self._is_busy and self._token in RUN_IN.get()

    def _note_user_code(self) -> None:
        """Note that the running task, and what it starts, runs functions of the user for this object."""
        RUN_IN.set((*RUN_IN.get(), self._token))
