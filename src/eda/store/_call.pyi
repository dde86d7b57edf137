from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar, final

from typing_extensions import disjoint_base

from eda._event import Event
from eda.store._single import Singles
from eda.store.event_store import Expected
from eda.store.results import Appended

__all__ = ["Call", "StoreCalls"]

_S = TypeVar("_S")
_C = TypeVar("_C")

@final
class Call(Coroutine[Any, Any, Any]):
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

@disjoint_base
class StoreCalls(Generic[_S, _C]):
    _singles: Singles | None
    def __class_getitem__(cls, types: Any) -> type[Any]: ...
    def execute(
        self, aggregate: str, command: _C, *, command_id: str | None = None
    ) -> Coroutine[Any, Any, Appended[_S]]:
        """Have the decider decide on a command, append the events that it returns, and return where they are stored.

        If another process has appended meanwhile, its events are folded, and the decider decides again, up to the
        store's `attempts`. If it decides on no event, nothing is appended, and the result has no receipts. If it raises
        or decides on no event, and its state came from the cache, the aggregate's new events are read first. If there
        are any, the decider decides again.

        `command_id` (1 to 100 printable ASCII characters, or the id of an event that a store has appended) makes the
        command idempotent: if it was executed before, the stored result is returned, and the decider is not asked. This
        holds for the 256 latest commands of the aggregate, and for all commands within the stream's duplicate window. A
        command that decided on no event is decided again.

        Raises unchanged what `decide` raises; then nothing is appended. Raises VersionConflict after the last attempt,
        AggregateForgotten, HistoryIncomplete, and ConfigError for events that can't be appended. After a Timeout,
        Closed or a cancellation the events may be stored or not: execute the command again with the same `command_id`.
        """

    def append(
        self, aggregate: str, events: Iterable[Event | object], *, expected: Expected, command_id: str | None = None
    ) -> Coroutine[Any, Any, Appended[_S]]:
        """Append events to the aggregate, all or none, and return where they are stored.

        `events` are 1 to 1,000 Events or instances of payload classes. Several at once need nats-server 2.12.1; on a
        stream with several replicas 2.12.14, or 2.14.4.
        `expected` is the version that the aggregate must have: a number, the result of `load` or of an earlier append,
        "new" (no events), "exists" (at least one event), or "any". `command_id` is as in `execute`: if an append with
        the same id and as many events is stored, its result is returned.

        Raises VersionConflict if the aggregate has another version; nothing is stored then. Raises AggregateForgotten,
        HistoryIncomplete, and ConfigError before anything is sent. After a Timeout, Closed or a cancellation the events
        may be stored or not.
        """
