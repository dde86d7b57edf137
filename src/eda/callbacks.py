"""Users' callbacks: checked when they are given, and called so that a failing callback does not harm the caller."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from eda.errors import ConfigError

__all__ = ["Callback", "check_callback"]

_STOPS = (KeyboardInterrupt, SystemExit)


def check_callback(name: str, call: object) -> None:
    """Raise ConfigError, naming the argument, unless it is None or a callable that does its work when it is called."""
    if call is None:
        return
    if not callable(call):
        raise ConfigError(f"{name} must be callable or None, not {call!r}", argument=name)
    kind = _kind_of(call)
    if kind:
        raise ConfigError(
            f"{name} must be a plain function, not {kind}: a call of it runs nothing. Give a plain function, which may "
            "start a task (asyncio.create_task)",
            argument=name,
        )


def _kind_of(call: Any) -> str:
    """Return the kind of a callable whose call runs nothing, such as "an async def"; "" for any other callable."""
    while isinstance(call, functools.partial):
        call = call.func
    # An object with an async __call__ is not a coroutine function itself, although some mocks say that they are.
    for function in (call, type(call).__call__ if not (inspect.isroutine(call) or inspect.isclass(call)) else call):
        if inspect.iscoroutinefunction(function):
            return "an async def"
        if inspect.isasyncgenfunction(function):
            return "an async generator function"
        if inspect.isgeneratorfunction(function):
            return "a generator function"
    return ""


class Callback:
    """A user's callback. A call of this object never raises.

    On the hot path, the caller calls `call` directly and then reports the outcome to `failed` or `returned`.

    KeyboardInterrupt and SystemExit end the event loop, as in any of its callbacks, but only after the read that led to
    the call is processed. So the connection stays intact, and later callbacks of the same read still run. Only the
    first one ends the loop: a second one would interrupt the clean-up of the program, which runs by then.
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
        """Close a returned awaitable, which nobody awaits, and log the first one. Futures and tasks run anyway."""
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
