"""The user's function `apply`, checked: a plain function or an async def, which takes events and the transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eda._router import Router
from eda.callables import kind_of_call
from eda.errors import ConfigError
from eda.handler_signatures import read_parameters
from eda.handlers import shown_handler
from eda.projections.router_apply import routed_apply
from eda.projections.sink import Sink

__all__ = ["Apply", "ApplyFunction", "apply_function"]

ApplyFunction = Callable[[Any, Any], object]


@dataclass(frozen=True, slots=True)
class Apply:
    """A function that applies events. `types`: the types of events that it asks for; None: all."""

    call: ApplyFunction
    types: tuple[str, ...] | None


def apply_function(apply: Any, sink: Sink, *, is_single: bool) -> Apply:
    """Return the function that applies a list of events (`is_single`: one event). Raises ConfigError."""
    if isinstance(apply, Router):
        return Apply(*routed_apply(apply, sink, is_single=is_single))
    if apply is Router:
        raise ConfigError("apply is the class eda.Router: give a router, eda.Router()", argument="apply")
    if not callable(apply):
        raise ConfigError(f"apply must be a function, not {type(apply).__name__}", argument="apply")
    kind = kind_of_call(apply)
    if "generator" in kind:
        raise ConfigError(
            f"apply {shown_handler(apply)} is {kind}: calling it runs nothing, so it would apply nothing",
            argument="apply",
        )
    read_parameters(apply, "apply", f"{'an event' if is_single else 'a list of events'} and the transaction", 2)
    sink.check_apply(is_async=bool(kind))
    return Apply(apply, None)
