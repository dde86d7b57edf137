"""What kind of function a user gave."""

from __future__ import annotations

import functools
import inspect
from typing import Any

__all__ = ["AWAITED", "kind_of_call"]

# Classes whose calls return an awaitable, although a look at them does not show it.
AWAITED: set[type] = set()


def kind_of_call(call: Any) -> str:
    """Return the kind of a callable that is not a plain function, such as "an async def"; "" for a plain function.

    The kinds are those whose result must be awaited or iterated.
    """
    while isinstance(call, functools.partial):
        call = call.func
    if type(call) in AWAITED:
        return f"a {type(call).__name__}"
    # For an object with an async __call__, only __call__ is a coroutine function. Some mocks claim to be one.
    for function in (call, type(call).__call__ if not (inspect.isroutine(call) or inspect.isclass(call)) else call):
        if inspect.iscoroutinefunction(function):
            return "an async def"
        if inspect.isasyncgenfunction(function):
            return "an async generator function"
        if inspect.isgeneratorfunction(function):
            return "a generator function"
    return ""
