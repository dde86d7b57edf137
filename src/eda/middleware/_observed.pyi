from collections.abc import Callable
from typing import Any, final

from typing_extensions import disjoint_base

from eda.handlers import AnyHandler
from eda.subscribing.subscription import Subscription

__all__ = ["AttemptEnd", "Observed", "Observer"]

@disjoint_base
class Observer:
    def __call__(self, given: Any, subscription: Subscription) -> Callable[[BaseException | None], object] | None: ...

@disjoint_base
class AttemptEnd:
    def __call__(self, error: BaseException | None) -> None: ...

@final
class Observed:
    subscription: Subscription
    is_outermost: bool
    def __init__(
        self,
        observe: Callable[[Any, Subscription], Callable[[BaseException | None], object] | None],
        handler: AnyHandler,
    ) -> None: ...
    def __call__(self, given: Any) -> Any: ...
