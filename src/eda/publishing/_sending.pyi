from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar, final

from typing_extensions import disjoint_base

from eda._event import Event
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.waiters import QueuedSender

__all__ = ["Marker", "Sender", "Sending", "with_own_send"]

_T = TypeVar("_T", bound="Sender")

@disjoint_base
class Marker:
    def __call__(self, event: Event, publisher: Any) -> Event: ...

@disjoint_base
class Sender:
    _core: PublisherCore | None
    _senders: deque[QueuedSender]
    _mark: Callable[[Event, Any], Event] | None
    _closed: bool
    def send(self, event: Event) -> Coroutine[Any, Any, str]: ...

def with_own_send(cls: type[_T]) -> type[_T]: ...

@final
class Sending(Coroutine[Any, Any, str]):
    __name__: str
    __qualname__: str
    def __next__(self) -> Any: ...
    def __await__(self) -> Generator[Any, None, str]: ...
    def send(self, value: Any, /) -> Any: ...
    def throw(self, type: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any: ...
    def close(self) -> None: ...
