"""Checks whether every published event arrived. It does no input or output, so that tests can feed it wrong results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eda.cli.limits import N_SENSORS

__all__ = ["Arrivals", "ReadModel", "Verdict", "check", "sensor_id", "share_of", "value_of"]


def sensor_id(sensor: int) -> str:
    """Return the id of a sensor's aggregate."""
    return f"sensor-{sensor:04d}"


def share_of(index: int, n_events: int, n_shares: int) -> int:
    """Return the size of share `index` (from 0) when `n_events` are divided evenly into `n_shares`."""
    return n_events // n_shares + (index < n_events % n_shares)


def value_of(sensor: int, count: int) -> float:
    """Return the sensor's `count`-th value, which always differs from the one before."""
    return ((sensor * 7919 + count * 104_729) % 100_003) / 100


class Arrivals:
    """Checks the order of received events, which are numbered from 1 within their aggregate.

    `missing` has the numbers that were skipped and have not come since. Memory use grows only with their count.
    """

    def __init__(self, n_expected: dict[str, int]) -> None:
        self.n_expected = n_expected
        self.next: dict[str, int] = dict.fromkeys(n_expected, 1)
        self.missing: dict[str, set[int]] = {}
        self.n_received: int = 0
        self.n_duplicated: int = 0
        self.n_reordered: int = 0
        self.n_unexpected: int = 0

    def arrive(self, aggregate: str, number: int) -> None:
        """Count an event: the one with this number in its aggregate."""
        self.n_received += 1
        if number == self.next.get(aggregate) and number <= self.n_expected[aggregate]:
            self.next[aggregate] = number + 1
        else:
            self._arrive_out_of_turn(aggregate, number)

    def _arrive_out_of_turn(self, aggregate: str, number: int) -> None:
        """Count an event that came early, late or twice, or that nobody published."""
        due = self.next.get(aggregate)
        if due is None or not 1 <= number <= self.n_expected[aggregate]:
            self.n_unexpected += 1
            return
        missing = self.missing.setdefault(aggregate, set())
        if number > due:
            missing.update(range(due, number))
            self.next[aggregate] = number + 1
        elif number in missing:
            missing.remove(number)
            self.n_reordered += 1
        else:
            self.n_duplicated += 1

    def n_lost(self, published: dict[str, int]) -> int:
        """Return how many events did not come. `published` has the number published in each aggregate."""
        never_reached = sum(max(n + 1 - self.next[aggregate], 0) for aggregate, n in published.items())
        skipped = sum(number <= published[aggregate] for aggregate, some in self.missing.items() for number in some)
        return never_reached + skipped

    def n_beyond(self, published: dict[str, int]) -> int:
        """Return how far the highest received number is beyond the last published one, summed over all aggregates."""
        return sum(max(self.next[aggregate] - 1 - n, 0) for aggregate, n in published.items())


class ReadModel(Arrivals):
    """The demo's read model: the latest value of each sensor. It also checks the order of the readings."""

    def __init__(self, n_events: int) -> None:
        sensors = range(min(N_SENSORS, n_events))
        super().__init__({sensor_id(i): share_of(i, n_events, N_SENSORS) for i in sensors})
        self.latest: dict[str, float] = {}

    def add(self, sensor: str, count: int, value: float) -> None:
        """Store a reading: the `count`-th (from 1) of its sensor."""
        self.arrive(sensor, count)
        self.latest[sensor] = value


@dataclass(frozen=True)
class Verdict:
    """The result of the check. If everything is right, all counts are 0."""

    lost: int
    """events that did not come"""
    duplicated: int
    """events that came more than once"""
    reordered: int
    """events that came after a later one of their aggregate"""
    unexpected: int
    """events that nobody published"""
    wrong_values: int
    """aggregates whose value in the read model is not the last one published"""

    @property
    def ok(self) -> bool:
        """Return whether all counts are 0."""
        return not any(asdict(self).values())

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by name."""
        return asdict(self)


def check(n_events: int, received: ReadModel) -> Verdict:
    """Compare the read model with the published events."""
    sensors = range(min(N_SENSORS, n_events))
    expected = {sensor_id(i): value_of(i, share_of(i, n_events, N_SENSORS)) for i in sensors}
    return Verdict(
        lost=received.n_lost(received.n_expected),
        duplicated=received.n_duplicated,
        reordered=received.n_reordered,
        unexpected=received.n_unexpected,
        wrong_values=sum(
            received.latest.get(sensor) != expected.get(sensor) for sensor in expected.keys() | received.latest.keys()
        ),
    )
