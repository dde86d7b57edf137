"""The failed events of a publisher that no caller has been told of yet."""

from __future__ import annotations

from eda._event import Event
from eda.errors import PublishFailed

__all__ = ["Failures", "Listener"]

MAX_KEPT = 10_000


class Listener:
    """A caller of `flush`: it is told of failures among the events before `to`, unless told before it came."""

    __slots__ = ("came", "to")

    def __init__(self, to: int, came: int) -> None:
        self.to = to
        self.came = came


class _Failure:
    __slots__ = ("error", "event", "seq", "told")

    def __init__(self, seq: int, event: Event, error: BaseException) -> None:
        self.seq = seq
        self.event = event
        self.error = error
        self.told = 0  # the time at which it was first told; 0: never


class Failures:
    """Keeps failures until a caller is told of them. Callers that wait at the same time are each told.

    Time is a count here: the number of listeners that have come so far. A failure that was told stays while a listener
    is there that came before that.
    """

    def __init__(self) -> None:
        self._kept: list[_Failure] = []
        self._listeners: dict[Listener, None] = {}  # in the order in which they came
        self._time = 1
        self._n_untold = 0
        self._prune_at = 1000  # while there are listeners, failures are pruned when so many are kept

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def is_overfull(self) -> bool:
        """Return whether more failures are untold than should be kept."""
        return self._n_untold > MAX_KEPT

    def add(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep the failure of an event."""
        self._kept.append(_Failure(seq, event, error))
        self._n_untold += 1

    def listen(self, to: int) -> Listener:
        """Return a new listener; failures of the events before `to` are kept for it until it leaves."""
        self._time += 1
        listener = Listener(to, self._time)
        self._listeners[listener] = None
        return listener

    def tell(self, listener: Listener) -> PublishFailed | None:
        """Return the failures that a listener has to be told, None if there are none."""
        return self._told([each for each in self._kept if each.seq < listener.to and not 0 < each.told < listener.came])

    def leave(self, listener: Listener) -> None:
        """Remove a listener, and the failures that were kept only for it."""
        self._listeners.pop(listener, None)
        if not self._kept or (self._listeners and len(self._kept) < self._prune_at):
            return
        if self._listeners:  # a listener that came later waits for more events
            first, last = next(iter(self._listeners)), next(reversed(self._listeners))
            self._kept = [
                each for each in self._kept if not each.told or (each.told >= first.came and each.seq < last.to)
            ]
        else:
            self._kept = [each for each in self._kept if not each.told]
        self._prune_at = 2 * len(self._kept) + 1000

    def tell_all(self) -> PublishFailed:
        """Return all failures that were never told."""
        error = self._told([each for each in self._kept if not each.told])
        if not self._listeners:
            self._kept.clear()
        return error or PublishFailed([])

    def _told(self, failures: list[_Failure]) -> PublishFailed | None:
        for each in failures:
            if not each.told:
                each.told = self._time
                self._n_untold -= 1
        failures.sort(key=lambda each: each.seq)
        return PublishFailed([(each.event, each.error) for each in failures]) if failures else None
