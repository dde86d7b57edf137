"""What became of the events of atomic batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eda._clock import read_monotonic_ns
from eda._durations import Durations
from eda.error_counts import ErrorCounts
from eda.stats import Histogram, PublisherStats

__all__ = ["BatchCounts"]


class BatchCounts:
    """Counts the events of the atomic batches into one stream."""

    def __init__(self) -> None:
        self._n_sent = 0
        self._n_acknowledged = 0
        self._n_failed = 0
        self._errors = ErrorCounts()
        self.durations: Durations = Durations()
        self._under_way: dict[object, int] = {}  # for each batch: when it was begun

    @contextmanager
    def under_way(self, n: int) -> Iterator[None]:
        """Count `n` events of a batch that the block publishes. If the block raises, they have failed."""
        batch = object()
        began_ns = self._under_way[batch] = read_monotonic_ns()
        self._n_sent += n
        try:
            yield
        except BaseException as error:
            self._n_failed += n
            self._errors.add(error, n)
            raise
        else:
            self._n_acknowledged += n
            self.durations.note(read_monotonic_ns() - began_ns, n)
        finally:
            del self._under_way[batch]

    def stats(self) -> PublisherStats:
        """Return the counts as of now."""
        oldest_ns = min(list(self._under_way.values()), default=0)
        n_done = self._n_acknowledged + self._n_failed
        return PublisherStats(
            sent=self._n_sent,
            acknowledged=self._n_acknowledged,
            resent=0,
            failed=self._n_failed,
            pending=max(self._n_sent - n_done, 0),
            pending_bytes=0,
            mode="",
            oldest_pending_s=(read_monotonic_ns() - oldest_ns) / 1e9 if oldest_ns else 0.0,
            publishing=Histogram(*self.durations.read()),
            errors=dict(self._errors.counts),
            open=0,
        )
