"""Handlers with middleware around them: the hooks `handle` and `handle_batch`, and the plain hook `observe`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from eda.handlers import AnyHandler, refuse_result
from eda.middleware.around_handler import BatchChain, HandleChain
from eda.middleware.base import Middleware, overrides
from eda.middleware.calls import Hook
from eda.subscribing.subscription import Subscription

__all__ = ["Observed", "hooked_handler"]

End = Callable[[BaseException | None], object]


@final
class Observed:
    """A handler with one hook `observe` around it, called as the handler is.

    It calls no coroutine of its own for a plain function, so the worker measures how long this function takes. The
    owner sets `subscription` before the first event is handled.
    """

    __slots__ = ("_handler", "_observe", "subscription")
    subscription: Subscription

    def __init__(self, observe: Callable[[Any, Subscription], End | None], handler: AnyHandler) -> None:
        self._observe = observe
        self._handler: Callable[[Any], Any] = handler

    def __call__(self, given: Any) -> Any:
        end = self._observe(given, self.subscription)
        if end is None:
            return self._handler(given)
        try:
            result = self._handler(given)
            if result is not None:
                if hasattr(result, "__await__"):
                    return _awaited(result, end)
                refused = refuse_result(result)
                if refused is not None:
                    raise refused
        except BaseException as error:
            end(error)
            raise
        end(None)
        return result


async def _awaited(result: Any, end: End) -> None:
    try:
        await result
    except BaseException as error:
        end(error)
        raise
    end(None)


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
