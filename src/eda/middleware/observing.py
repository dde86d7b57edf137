"""Handlers with middleware around them: the hooks `handle` and `handle_batch`, and the plain hook `observe`."""

from __future__ import annotations

from collections.abc import Sequence

from eda.handlers import AnyHandler
from eda.middleware._observed import Observed
from eda.middleware.around_handler import BatchChain, HandleChain
from eda.middleware.base import Middleware, overrides
from eda.middleware.calls import Hook

__all__ = ["hooked_handler"]


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
    return put_around(handler), parts
