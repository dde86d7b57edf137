"""`wait_for`: which event a caller waits for, and the callers that wait until a projection has passed it.

A commit resolves the callers itself, so that nobody asks the database. The heap holds them by sequence: a commit looks
at the first one only, and costs nothing while nobody waits.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from eda.errors import Closed, ConfigError, Timeout
from eda.projection_errors import NotApplied
from eda.projections.sink import WHOLE, place_text
from eda.receipt import Receipt

__all__ = ["MAX_NOT_APPLIED", "Target", "Waiters", "target_of", "timeout_of"]

MAX_NOT_APPLIED = 10_000  # events that were not applied and are remembered, so that `wait_for` can say so


@dataclass(frozen=True, slots=True)
class Target:
    """The event that a caller waits for."""

    stream: str
    sequence: int
    index: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Return where the event is in its stream."""
        return self.sequence, self.index

    @property
    def text(self) -> str:
        """Return the event as messages name it: `7`, or `7.2` for an event of a pack that is not its first one."""
        return place_text((self.sequence, self.index or WHOLE))


def target_of(value: object) -> Target:
    """Return the event that a receipt, or a position as `Receipt.position` returns it, names. Raises ConfigError."""
    position = value.position if type(value) is Receipt else value
    if not isinstance(position, tuple) or len(position) != 3:
        hint = ""
        if value is None:
            hint = ": a command that decided on no event has no receipt, so there is nothing to wait for"
        elif hasattr(value, "receipt"):
            hint = ": give its receipt"
        kind = "None" if value is None else type(value).__name__
        raise ConfigError(
            f"wait_for takes a Receipt, or the position of a receipt, and not {kind}{hint}", argument="position"
        )
    stream, sequence, index = position
    if not isinstance(stream, str) or not _is_int(sequence) or not _is_int(index) or index < 0:
        raise ConfigError(
            f"wait_for takes the position of a receipt: (stream, sequence, index), and not {position!r}",
            argument="position",
        )
    if sequence < 1:
        raise ConfigError(
            f"wait_for can't wait for sequence {sequence}: events are counted from 1. A position with sequence 0 names "
            "no event, such as that of an aggregate without events",
            argument="position",
        )
    return Target(stream, sequence, index)


def timeout_of(timeout_s: object) -> float:
    """Return the seconds that a caller waits at most. Raises ConfigError unless it is a number, 0 or more."""
    if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not 0 <= timeout_s < float("inf"):
        raise ConfigError(f"timeout_s must be a number of seconds, 0 or more: {timeout_s!r}", argument="timeout_s")
    return float(timeout_s)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Stream:
    """How far one stream is applied, and who waits for later events of it."""

    __slots__ = ("heap", "n", "passed")

    def __init__(self) -> None:
        self.passed: tuple[int, int] = (0, WHOLE)  # a place
        self.heap: list[tuple[int, int, int, asyncio.Future[None]]] = []  # sequence, index, a number, the caller
        self.n = 0


class Waiters:
    """The callers that wait until a projection has passed events of its streams.

    `on_wanted(stream)` is called when somebody begins to wait for an event that was not passed yet. So the
    position can be moved at once over messages that the filter leaves out.
    """

    def __init__(
        self, name: str, version: int, streams: Iterable[str], on_wanted: Callable[[str], None] = lambda stream: None
    ) -> None:
        self._name = name
        self._version = version
        self._streams = {stream: _Stream() for stream in streams}
        self._on_wanted = on_wanted
        self._not_applied: OrderedDict[Target, str] = OrderedDict()
        self._error: Exception | None = None

    def passed(self, stream: str) -> tuple[int, int]:
        """Return the place up to which the stream is applied, as far as this process knows."""
        return self._streams[stream].passed

    def wanted(self, stream: str) -> int:
        """Return the highest sequence that anybody waits for; 0: nobody waits."""
        return max((sequence for sequence, _, _, caller in self._streams[stream].heap if not caller.done()), default=0)

    def is_awaited(self, stream: str, place: tuple[int, int]) -> bool:
        """Return whether somebody waits for an event up to this place. Any thread may call it."""
        heap = self._streams[stream].heap
        try:
            return heap[0][:2] <= place
        except IndexError:  # nobody waits, or not any more
            return False

    async def wait(self, target: Target, timeout_s: float) -> None:
        """Wait until the event was passed.

        Raises ConfigError if the projection does not read the event's stream; NotApplied if this process has given the
        event up; Timeout; and the error that ends the projection, Closed if it is closed.
        """
        state = self._streams.get(target.stream)
        if state is None:
            raise ConfigError(
                f"projection {self._name!r} does not read stream {target.stream!r}; it reads "
                f"{', '.join(sorted(self._streams))}",
                argument="position",
            )
        if target.place > state.passed:
            if self._error is not None:
                raise self._error
            await self._wait(state, target, timeout_s)
        reason = self._not_applied.get(target)
        if reason is not None:
            raise NotApplied(self._name, self._version, target.stream, target.sequence, reason, target.index)

    async def _wait(self, state: _Stream, target: Target, timeout_s: float) -> None:
        caller: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state.n += 1
        heappush(state.heap, (target.sequence, target.index, state.n, caller))
        self._on_wanted(target.stream)
        try:
            async with asyncio.timeout(timeout_s):
                await caller
        except TimeoutError as error:
            raise Timeout(
                f"waiting until projection {self._name!r} version {self._version} has applied event {target.text} "
                f"of stream {target.stream!r} (it has applied up to {place_text(state.passed)})",
                timeout_s,
            ) from error
        finally:
            if not caller.cancel() and not caller.cancelled():
                caller.exception()  # retrieved, also if this task was cancelled in the same turn of the loop
            self._drop_done(state)

    def _drop_done(self, state: _Stream) -> None:
        """Drop callers that have given up, so that the heap does not grow while the position stands still."""
        heap = state.heap
        while heap and heap[0][3].done():
            heappop(heap)
        if len(heap) > 64 and sum(entry[3].done() for entry in heap) * 2 > len(heap):
            state.heap = sorted(entry for entry in heap if not entry[3].done())

    def advanced(self, stream: str, sequence: int, index: int = WHOLE) -> None:
        """Note that all events up to this place are committed, and resolve the callers that waited for them.

        Without `index`, all events of the message are committed. With several lanes this is the lowest of their places.
        Places only grow.
        """
        state = self._streams[stream]
        if (sequence, index) <= state.passed:
            return
        state.passed = (sequence, index)
        heap = state.heap
        while heap and heap[0][:2] <= (sequence, index):
            caller = heappop(heap)[3]
            if not caller.done():
                caller.set_result(None)

    def not_applied(self, stream: str, sequence: int, index: int, reason: str) -> None:
        """Note that an event is given up. Call it before `advanced` passes the event."""
        self._not_applied[Target(stream, sequence, index)] = reason
        while len(self._not_applied) > MAX_NOT_APPLIED:
            self._not_applied.popitem(last=False)

    def end(self, error: Exception | None = None) -> None:
        """Let all callers fail with the error that has ended the projection, or with Closed."""
        if self._error is not None:
            return
        self._error = error or Closed(f"projection {self._name}")
        for state in self._streams.values():
            for *_, caller in state.heap:
                if not caller.done():
                    caller.set_exception(self._error)
            state.heap.clear()
