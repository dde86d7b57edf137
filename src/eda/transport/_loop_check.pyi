import asyncio
from collections.abc import Callable
from typing import final

__all__ = ["LoopCheck"]

@final
class LoopCheck:
    """Whether `loop` runs in this thread. `running_loop`: a function that returns the running loop, or None."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        running_loop: Callable[[], asyncio.AbstractEventLoop | None],
    ) -> None: ...
    def passes(self) -> bool: ...
