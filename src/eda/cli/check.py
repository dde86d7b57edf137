"""What the demo publishes, and whether all of it arrived: no input or output, so that tests can lie to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["N_SENSORS", "ReadModel", "Verdict", "check", "n_readings_of", "sensor_id", "value_of"]

N_SENSORS = 1000


def sensor_id(sensor: int) -> str:
    """Return the aggregate's id."""
    return f"sensor-{sensor:04d}"


def n_readings_of(sensor: int, n_events: int) -> int:
    """Return how many of all events are this sensor's; they are shared out evenly."""
    return n_events // N_SENSORS + (sensor < n_events % N_SENSORS)


def value_of(sensor: int, count: int) -> float:
    """Return what the sensor reads the `count`-th time: always other than the time before."""
    return ((sensor * 7919 + count * 104_729) % 100_003) / 100


class ReadModel:
    """The latest value of each sensor, and in which order its readings came.

    `missing` are counts that were skipped and did not come later; memory is bounded by what is missing.
    """

    def __init__(self, n_events: int) -> None:
        self.n_events = n_events
        self.latest: dict[str, float] = {}
        sensors = range(min(N_SENSORS, n_events))
        self.n_readings = {sensor_id(i): n_readings_of(i, n_events) for i in sensors}
        self.next = dict.fromkeys(self.n_readings, 1)
        self.missing: dict[str, set[int]] = {}
        self.n_received = 0
        self.n_duplicated = 0
        self.n_reordered = 0
        self.n_unexpected = 0

    def add(self, sensor: str, count: int, value: float) -> None:
        """Take a reading, the `count`-th of its sensor, from 1."""
        self.n_received += 1
        if count == self.next.get(sensor) and count <= self.n_readings[sensor]:
            self.next[sensor] = count + 1
        else:
            self._add_out_of_turn(sensor, count)
        self.latest[sensor] = value

    def _add_out_of_turn(self, sensor: str, count: int) -> None:
        """Tell a reading that came early from one that came late, twice, or from nowhere."""
        due = self.next.get(sensor)
        if due is None or not 1 <= count <= self.n_readings[sensor]:
            self.n_unexpected += 1
            return
        missing = self.missing.setdefault(sensor, set())
        if count > due:
            missing.update(range(due, count))
            self.next[sensor] = count + 1
        elif count in missing:
            missing.remove(count)
            self.n_reordered += 1
        else:
            self.n_duplicated += 1


@dataclass(frozen=True)
class Verdict:
    """What the check found; everything is 0 when all is well."""

    lost: int
    """events that never came"""
    duplicated: int
    """events that came again"""
    reordered: int
    """events that came after a later one of their aggregate"""
    unexpected: int
    """events that nobody published"""
    wrong_values: int
    """aggregates whose value in the read model is not the last one published"""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(asdict(self).values())

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by name."""
        return asdict(self)


def check(n_events: int, received: ReadModel) -> Verdict:
    """Compare what was received with what was published."""
    sensors = range(min(N_SENSORS, n_events))
    expected = {sensor_id(i): value_of(i, n_readings_of(i, n_events)) for i in sensors}
    never_reached = sum(received.n_readings[sensor] + 1 - due for sensor, due in received.next.items())
    return Verdict(
        lost=never_reached + sum(map(len, received.missing.values())),
        duplicated=received.n_duplicated,
        reordered=received.n_reordered,
        unexpected=received.n_unexpected,
        wrong_values=sum(
            received.latest.get(sensor) != expected.get(sensor) for sensor in expected.keys() | received.latest.keys()
        ),
    )
