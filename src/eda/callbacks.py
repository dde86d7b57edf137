"""Callbacks that users give: checked when they are given, and called so that nothing they do harms their caller."""

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
    """Raise ConfigError naming the argument unless it is None or a callable that runs when it is called."""
    if call is None:
        return
    if not callable(call):
        raise ConfigError(f"{name} must be callable or None, not {call!r}", argument=name)
    kind = _kind_of(call)
    if kind:
        raise ConfigError(
            f"{name} must be a plain function, not {kind}: calling it runs nothing. Give a plain function, which may "
            "start a task (asyncio.create_task)",
            argument=name,
        )


def _kind_of(call: Any) -> str:
    """Return in which way calling this runs nothing; nothing when it runs something."""
    while isinstance(call, functools.partial):
        call = call.func
    # An object with an async __call__ is no coroutine function itself. Some mocks say that they are one.
    for function in (call, type(call).__call__ if not (inspect.isroutine(call) or inspect.isclass(call)) else call):
        if inspect.iscoroutinefunction(function):
            return "an async def"
        if inspect.isasyncgenfunction(function):
            return "an async generator function"
        if inspect.isgeneratorfunction(function):
            return "a generator function"
    return ""


class Callback:
    """A user's callback. Calling it never raises; a caller on the hot path calls `call` itself, and says how it ended.

    KeyboardInterrupt and SystemExit end the event loop as they do in any callback of it, but only when the read that
    led to the call is done: the connection stays whole, and later callbacks of the same read run. They do so once: the
    next call that raises would end the clean-up of the program, which is on its way.
    """

    def __init__(self, name: str, call: Callable[..., object], logger: logging.Logger) -> None:
        check_callback(name, call)
        self.name = name
        self.call = call
        self._logger = logger
        self._told = False
        self._has_ended = False

    def __call__(self, *args: object) -> None:
        """Call it."""
        try:
            result = self.call(*args)
        except BaseException as error:
            self.failed(error, *args)
        else:
            if result is not None:
                self.returned(result)

    def failed(self, error: BaseException, *args: object) -> None:
        """Log what a call with these arguments raised; see that the loop ends by what is meant to end it."""
        self._logger.error("%s(%s) failed", self.name, ", ".join(map(repr, args)), exc_info=error)
        if isinstance(error, _STOPS) and not self._has_ended:
            self._has_ended = True
            asyncio.get_running_loop().call_soon(_raise, error)

    def returned(self, result: object) -> None:
        """Close an awaitable that nobody will await, and log it the first time. Futures and tasks run by themselves."""
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
