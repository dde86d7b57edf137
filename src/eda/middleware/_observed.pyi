from collections.abc import Callable
from typing import Any, final

from eda.handlers import AnyHandler
from eda.subscribing.subscription import Subscription

__all__ = ["Observed"]

@final
class Observed:
    subscription: Subscription
    def __init__(
        self,
        observe: Callable[[Any, Subscription], Callable[[BaseException | None], object] | None],
        handler: AnyHandler,
    ) -> None: ...
    def __call__(self, given: Any) -> Any: ...
