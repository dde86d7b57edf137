"""A connection belongs to the event loop that opened it."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop as running_loop

from eda.errors import ConfigError

__all__ = ["check_loop", "running_loop"]


def check_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Raise ConfigError unless this runs in the loop. None: in any.

    From anywhere else, what is asked for might be done, and its caller would never hear of it.
    """
    if loop is not None and running_loop() is not loop:
        raise ConfigError(
            "a connection is used only in the event loop that opened it, and this is another event loop, or none. From "
            "another thread, use asyncio.run_coroutine_threadsafe(conn.publish(...), loop) with that loop; or open a "
            "connection of its own in each loop"
        )
