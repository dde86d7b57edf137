from collections.abc import Sequence
from typing import Any, final

from eda._event import Event
from eda.store._cache import Cache, Cached
from eda.store._message import Message
from eda.store.results import Appended
from eda.transport._loop_check import LoopCheck

__all__ = ["Single", "Singles"]

@final
class Single(Message):
    @property
    def command_id(self) -> str | None: ...
    @property
    def waiter(self) -> Any: ...
    @property
    def decided(self) -> object: ...
    @property
    def before(self) -> Cached: ...
    @property
    def after(self) -> Cached: ...
    def take_refusal(self) -> Exception | None: ...
    def forget_waiter(self) -> None: ...
    def stored(self, sequence: int) -> Appended[Any]: ...

@final
class Singles:
    def __init__(
        self,
        loop_check: LoopCheck,
        opened: Any,
        parts: Any,
        known: dict[str, Any],
        client: str,
        decider: Any,
        cache: Cache,
        turns: dict[str, Any],
        on_stored: object = None,
    ) -> None: ...
    @property
    def on_stored(self) -> object: ...
    def make(
        self,
        aggregate: str,
        known: Cached,
        event: Event,
        command_id: str | None,
        id: str | None,
        folded: Sequence[Event] | None,
    ) -> Single: ...
    def send(self, single: Single, known_stream: Any, give_up_s: float) -> None: ...
