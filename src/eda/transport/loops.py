"""The check that a connection is used in the event loop that opened it."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop as running_loop

from eda.errors import ConfigError

__all__ = ["check_loop", "running_loop"]


def check_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Raise ConfigError unless the caller runs in this event loop. With None, any caller is accepted.

    A caller in another thread or loop might wait forever for the result of a request.
    """
    if loop is not None and running_loop() is not loop:
        raise ConfigError(
            "a connection can be used only in the event loop that opened it; this is another event loop, or none. From "
            "another thread, use asyncio.run_coroutine_threadsafe(conn.publish(...), loop) with that loop; or open a "
            "separate connection in each loop"
        )
