"""Handlers with middleware around them: the hooks `handle` and `handle_batch`, and the plain hook `observe`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from eda.dead_letters.letter import NewDeadLetter
from eda.handlers import AnyHandler
from eda.middleware._observed import Observed
from eda.middleware.around_handler import BatchChain, HandleChain
from eda.middleware.base import Middleware, overrides
from eda.middleware.calls import Hook

__all__ = ["dead_letter_observer", "hooked_handler"]


def dead_letter_observer(
    middleware: Sequence[Middleware], logger: logging.Logger
) -> Callable[[NewDeadLetter], Callable[[BaseException | None], object]] | None:
    """Return the function that calls all hooks `dead_letter`; None without such a hook. It raises nothing."""
    hooks = [Hook(each, "dead_letter") for each in reversed(middleware) if overrides(each, "dead_letter")]
    if not hooks:
        return None

    def call(name: str, function: Callable[[Any], Any], given: Any) -> Any:
        try:
            return function(given)
        except Exception:
            logger.exception("middleware %s failed", name)
            return None

    def begin(letter: NewDeadLetter) -> Callable[[BaseException | None], object]:
        ends = [(hook.name, call(hook.name, hook.run, letter)) for hook in hooks]

        def end(error: BaseException | None) -> None:
            for name, function in reversed(ends):
                if function is not None:
                    call(name, function, error)

        return end

    return begin


def hooked_handler(
    middleware: Sequence[Middleware], handler: AnyHandler, *, is_batch: bool
) -> tuple[AnyHandler, list[HandleChain | BatchChain | Observed]]:
    """Return the handler with the hooks around it, and the objects whose `subscription` the caller must set.

    Without hooks it is the very handler, and there are no such objects. The first middleware is the innermost. Its hook
    `observe` is around its hook `handle`.
    """
    hook = "handle_batch" if is_batch else "handle"
    parts: list[HandleChain | BatchChain | Observed] = []
    hooks: list[Hook] = []  # not in `handler` yet, the outermost first

    def put_around(handler: AnyHandler) -> AnyHandler:
        if not hooks:
            return handler
        chain = BatchChain(tuple(hooks), handler) if is_batch else HandleChain(tuple(hooks), handler)
        hooks.clear()
        parts.append(chain)
        return chain.call

    for each in middleware:
        if overrides(each, hook):
            hooks.insert(0, Hook(each, hook))
        if overrides(each, "observe"):
            observed = Observed(each.observe, put_around(handler))
            parts.append(observed)
            handler = observed
    if isinstance(handler, Observed):
        handler.is_outermost = not hooks
    return put_around(handler), parts
