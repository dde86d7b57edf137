import asyncio
from collections.abc import Callable, Sequence
from typing import Any, final

from typing_extensions import disjoint_base

from eda._event import Event
from eda.store._cache import Cache, Cached
from eda.store.results import Appended

__all__ = ["Message", "Single", "Singles"]

@disjoint_base
class Message:
    def __init__(
        self, stream: str, aggregate: str, type: str, id: str, envelope: bytes, sequence: int, earlier: str
    ) -> None: ...
    @property
    def stream(self) -> str: ...
    @property
    def aggregate(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def subject(self) -> bytes: ...
    @property
    def headers(self) -> bytes: ...
    @property
    def envelope(self) -> bytes: ...
    @property
    def sequence(self) -> int: ...
    @property
    def filter(self) -> str: ...

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
        loop: asyncio.AbstractEventLoop,
        running_loop: Callable[[], asyncio.AbstractEventLoop | None],
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
    def execute(
        self, aggregate: object, command: object, command_id: object, handled: Event | None
    ) -> Single | None: ...
    def append(
        self, aggregate: object, events: object, expected: object, command_id: object, handled: Event | None
    ) -> Single | None: ...
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
