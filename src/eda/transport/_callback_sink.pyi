from collections.abc import Callable
from typing import final

from eda.transport._frame import Sink

__all__ = ["CallbackSink"]

@final
class CallbackSink(Sink):
    def __init__(self, n_prefix: int, callback: Callable[[bytes, bytes, bytes], object]) -> None: ...
