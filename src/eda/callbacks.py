"""Users' callbacks: checked when they are given, and called so that a failing callback does not harm the caller."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from eda.callables import kind_of_call
from eda.errors import ConfigError

__all__ = ["Callback", "check_callback"]

_STOPS = (KeyboardInterrupt, SystemExit)


def check_callback(name: str, call: object) -> None:
    """Raise ConfigError unless `call` is None or a plain function. Calling an `async def` runs nothing."""
    if call is None:
        return
    if not callable(call):
        raise ConfigError(f"{name} must be callable or None, not {call!r}", argument=name)
    kind = kind_of_call(call)
    if kind:
        raise ConfigError(
            f"{name} must be a plain function, not {kind}: calling it runs nothing. Give a plain function, which may "
            "start a task (asyncio.create_task)",
            argument=name,
        )


class Callback:
    """A user's callback. A call of this object never raises.

    On the hot path, the caller calls `call` directly and then reports the outcome to `failed` or `returned`.

    If the callback raises KeyboardInterrupt or SystemExit, the event loop ends, but only after the current read is
    processed. So the connection stays intact, and later callbacks of the same read still run. After the first such
    exception, others are only logged: the program is cleaning up by then, and must not be interrupted.
    """

    def __init__(self, name: str, call: Callable[..., object], logger: logging.Logger) -> None:
        check_callback(name, call)
        self.name = name
        self.call = call
        self._logger = logger
        self._told = False
        self._has_ended = False

    def __call__(self, *args: object) -> None:
        """Call the callback."""
        try:
            result = self.call(*args)
        except BaseException as error:
            self.failed(error, *args)
        else:
            if result is not None:
                self.returned(result)

    def failed(self, error: BaseException, *args: object) -> None:
        """Log the error of a call with these arguments. KeyboardInterrupt and SystemExit then end the event loop."""
        self._logger.error("%s(%s) failed", self.name, ", ".join(map(repr, args)), exc_info=error)
        if isinstance(error, _STOPS) and not self._has_ended:
            self._has_ended = True
            asyncio.get_running_loop().call_soon(_raise, error)

    def returned(self, result: object) -> None:
        """Close an awaitable that the callback returned, and log the first one. Futures and tasks are left to run."""
        if isinstance(result, asyncio.Future) or not (inspect.isawaitable(result) or inspect.isasyncgen(result)):
            return
        if inspect.iscoroutine(result):
            result.close()
        if not self._told:
            self._told = True
            self._logger.error(
                "%s returned an awaitable (%s), which nobody awaits: give a plain function, which may start a task",
                self.name,
                type(result).__name__,
            )


def _raise(error: BaseException) -> None:
    raise error
