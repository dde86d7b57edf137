from collections.abc import Callable
from typing import Any, final

from opentelemetry.context import Context

from eda._event import Event
from eda._stamp import Stamp
from eda.middleware._observed import Observer
from eda.publishing._sending import Marker
from eda.publishing.publisher import Publisher
from eda.subscribing.subscription import Subscription

__all__ = ["Current", "Entering", "Marking"]

@final
class Current:
    def __init__(
        self, get_current: Callable[[], Context], attach: Callable[[Context], Any], detach: Callable[[Any], None]
    ) -> None: ...
    def get(self) -> Context: ...
    def attach(self, context: Context) -> Any: ...
    def detach(self, token: Any) -> None: ...

@final
class Marking(Marker):
    def __init__(self, current: Current, begin: Callable[[Event, Publisher], Event]) -> None: ...
    def use(self, publisher: Publisher, context: Context, stamp: Stamp, until_ns: int) -> None: ...
    def take_count(self) -> int: ...

@final
class Entering(Observer):
    def __init__(
        self, current: Current, begin: Callable[[Any, Subscription], Callable[[BaseException | None], object]]
    ) -> None: ...
    def use(self, event: Event, context: Context) -> None: ...
    def enter(self, context: Context) -> Callable[[BaseException | None], object]: ...
