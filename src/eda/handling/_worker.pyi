from collections.abc import Coroutine
from typing import Any, final

__all__ = ["Worker"]

@final
class Worker:
    def work(self) -> Coroutine[Any, Any, None]: ...
