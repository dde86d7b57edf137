from collections.abc import Coroutine
from types import TracebackType
from typing import Any, final

from eda._event import Event

__all__ = ["Call"]

@final
class Call(Coroutine[Any, Any, Any]):
    def __init__(
        self,
        store: Any,
        aggregate: object,
        given: object,
        command_id: object,
        handled: Event | None,
        expected: object = None,
        is_append: bool = False,
    ) -> None: ...
    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...
    def __await__(self) -> Any: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any: ...
    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any: ...
    def close(self) -> None: ...
    def advanced(self, value: Any) -> Any: ...
