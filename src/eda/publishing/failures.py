"""The failures of a publisher's events, kept until a caller of `flush` has been told of them."""

from __future__ import annotations

from eda._event import Event
from eda.errors import PublishFailed

__all__ = ["Failures", "Listener"]

MAX_KEPT = 10_000


class Listener:
    """A caller of `flush` that waits for the events before `to`.

    It is told of their failures, except those that another caller was told of before this one came.
    """

    __slots__ = ("came", "to")

    def __init__(self, to: int, came: int) -> None:
        self.to: int = to
        self.came: int = came


class _Failure:
    __slots__ = ("error", "event", "seq", "told")

    def __init__(self, seq: int, event: Event, error: BaseException) -> None:
        self.seq = seq
        self.event = event
        self.error = error
        self.told = 0  # the time (see Failures) when a listener was first told of it; 0: never


class Failures:
    """Keeps failures until a caller is told of them. Of several callers that wait at the same time, each is told.

    Time is a count here: the number of listeners that have come so far. After the first listener was told of a failure,
    the failure is kept for the listeners that had come before.
    """

    def __init__(self) -> None:
        self._kept: list[_Failure] = []
        self._listeners: dict[Listener, None] = {}  # in the order in which they came
        self._time = 1
        self._n_untold = 0
        self._prune_at = 1000  # while there are listeners, the list is pruned when it has this length

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def is_overfull(self) -> bool:
        """Return whether more than 10,000 failures are kept that nobody was told of."""
        return self._n_untold > MAX_KEPT

    def add(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep the failure of an event."""
        self._kept.append(_Failure(seq, event, error))
        self._n_untold += 1

    def listen(self, to: int) -> Listener:
        """Add and return a listener. Failures of the events before `to` are kept for it until it leaves."""
        self._time += 1
        listener = Listener(to, self._time)
        self._listeners[listener] = None
        return listener

    def tell(self, listener: Listener) -> PublishFailed | None:
        """Return the failures that this listener must be told of; None if there are none."""
        return self._told([each for each in self._kept if each.seq < listener.to and not 0 < each.told < listener.came])

    def leave(self, listener: Listener) -> None:
        """Remove a listener, and failures that were kept only for it."""
        self._listeners.pop(listener, None)
        if not self._kept or (self._listeners and len(self._kept) < self._prune_at):
            return
        if self._listeners:  # they are in the order of `to`, so no listener waits for `last.to` or later
            first, last = next(iter(self._listeners)), next(reversed(self._listeners))
            self._kept = [
                each for each in self._kept if not each.told or (each.told >= first.came and each.seq < last.to)
            ]
        else:
            self._kept = [each for each in self._kept if not each.told]
        self._prune_at = 2 * len(self._kept) + 1000

    def tell_all(self) -> PublishFailed:
        """Return all failures that nobody was told of."""
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
