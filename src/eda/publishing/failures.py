"""The failures of a publisher that nobody was told of yet, and who is to hear of them."""

from __future__ import annotations

from eda._event import Event
from eda.errors import PublishFailed

__all__ = ["Failures", "Listener"]

MAX_KEPT = 10_000


class Listener:
    """Somebody who is to hear of the failures of the events before `to` that were not told when it came."""

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
    """Keeps failures until they are told. One that several listeners wait for at the same time is told to each.

    Its time is a count of listeners. A failure that was told is kept while a listener is there that came before.
    """

    def __init__(self) -> None:
        self._kept: list[_Failure] = []
        self._listeners: dict[Listener, None] = {}  # in the order in which they came
        self._time = 1
        self._n_untold = 0
        self._forget_at = 1000  # as many are looked through for what can go, while there are listeners

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def overflow(self) -> bool:
        """Whether more are untold than should be kept."""
        return self._n_untold > MAX_KEPT

    def add(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep the failure of an event."""
        self._kept.append(_Failure(seq, event, error))
        self._n_untold += 1

    def listen(self, to: int) -> Listener:
        """Have the failures of the events before `to` kept until `leave`."""
        self._time += 1
        listener = Listener(to, self._time)
        self._listeners[listener] = None
        return listener

    def tell(self, listener: Listener) -> PublishFailed | None:
        """Return what a listener has to hear, None where there is nothing."""
        return self._told([each for each in self._kept if each.seq < listener.to and not 0 < each.told < listener.came])

    def leave(self, listener: Listener) -> None:
        """Forget a listener, and what was kept for it alone."""
        self._listeners.pop(listener, None)
        if not self._kept or (self._listeners and len(self._kept) < self._forget_at):
            return
        if self._listeners:  # they came in the order of what they wait for
            first, last = next(iter(self._listeners)), next(reversed(self._listeners))
            self._kept = [
                each for each in self._kept if not each.told or (each.told >= first.came and each.seq < last.to)
            ]
        else:
            self._kept = [each for each in self._kept if not each.told]
        self._forget_at = 2 * len(self._kept) + 1000

    def tell_all(self) -> PublishFailed:
        """Return all that was never told."""
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
