"""What a run does: the options that both sides get, and the events: the demo's readings, or payloads of one size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import msgspec

import eda
from eda.cli.check import Arrivals, ReadModel, check, sensor_id, share_of, value_of
from eda.cli.limits import BARE_JSON_BYTES, HEAD, MAX_EVENTS, N_SENSORS

__all__ = ["Kind", "Receiver", "Work"]

Kind = Literal["shared", "exclusive", "serial"]


class Reading(msgspec.Struct):
    """The payload of an event of the demo."""

    sensor: str
    value: float
    count: int
    published_ns: int


class Padded(msgspec.Struct):
    """The payload of an event of the benchmark, in JSON."""

    number: int
    published_ns: int
    pad: str


class Receiver(Protocol):
    """Checks the events of one subscription."""

    def take(self, event: eda.Event) -> int:
        """Check an event, and return when it was published, in ns of Unix time."""

    def check(self, published: list[int]) -> dict[str, int]:
        """Return the counts of errors by name. `published` has the number of events of each publisher."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run: what it publishes, how much or for how long, and how it subscribes. None is a secret.

    `size` is the payload's size in bytes; 0 stands for the demo's readings. Each subscription gets every event.
    `packed`: the publishers publish packs.
    """

    client: str
    events: int | None = None
    seconds: float | None = None
    size: int = 0
    encoding: Literal["bytes", "json"] = "json"
    publishers: int = 1
    subscriptions: int = 1
    mode: Literal["auto", "window", "fast"] = "auto"
    kind: Kind = "shared"
    packed: bool = False

    def published_by(self, publisher: int) -> Iterator[eda.Event]:
        """Yield a publisher's events. Each is made just before it is published."""
        n_events = MAX_EVENTS if self.events is None else share_of(publisher, self.events, self.publishers)
        return self._payloads(publisher, n_events) if self.size else readings(n_events)

    def _payloads(self, publisher: int, n_events: int) -> Iterator[eda.Event]:
        aggregate = aggregate_of(publisher)
        make = making(self.encoding, self.size)
        for number in range(1, n_events + 1):
            yield eda.Event(type="bench-event", aggregate=aggregate, data=make(number, time.time_ns()))

    def options(self, number: int) -> eda.SubscriptionOptions:
        """Return the options of a subscription by its number, from 1."""
        name = f"subscription-{number}"
        exclusive, serial = self.kind == "exclusive", self.kind == "serial"
        return eda.SubscriptionOptions(name=name, backfill=True, durable=True, exclusive=exclusive, serial=serial)

    def receiver(self) -> Receiver:
        """Return a new receiver for one subscription."""
        if self.size:
            return Payloads(self)
        assert self.events is not None
        return Readings(self.events)


def readings(n_events: int) -> Iterator[eda.Event]:
    """Yield the demo's events, one reading of each sensor in turn."""
    for at in range(n_events):
        count, sensor = at // N_SENSORS + 1, at % N_SENSORS
        reading = Reading(sensor_id(sensor), value_of(sensor, count), count, time.time_ns())
        yield eda.Event(type="reading-recorded", aggregate=reading.sensor, data=eda.JSON(reading))


def aggregate_of(publisher: int) -> str:
    """Return the aggregate of all events of a publisher of the benchmark."""
    return f"publisher-{publisher + 1}"


def making(encoding: str, size: int) -> Callable[[int, int], eda.Data]:
    """Return a function that makes a payload of this size from an event's number and the time."""
    if encoding == "bytes":
        rest = bytes(size - HEAD.size)
        return lambda number, now_ns: eda.Bytes(HEAD.pack(number, now_ns) + rest)
    room = size - BARE_JSON_BYTES
    return lambda number, now_ns: eda.JSON(Padded(number, now_ns, "x" * (room - len(str(number)))))


class Readings:
    """The demo's receiver. It builds the read model."""

    def __init__(self, n_events: int) -> None:
        self._n_events = n_events
        self._model = ReadModel(n_events)

    def take(self, event: eda.Event) -> int:
        """Add the reading to the read model."""
        reading: Reading = event.data.decode(into=Reading)
        self._model.add(event.aggregate, reading.count, reading.value)
        return reading.published_ns

    def check(self, published: list[int]) -> dict[str, int]:
        """Compare the read model with the published events."""
        return check(self._n_events, self._model).to_dict()


class Payloads:
    """The benchmark's receiver. It reads each payload and checks its number and size."""

    def __init__(self, work: Work) -> None:
        self._size = work.size
        self._take = self._take_bytes if work.encoding == "bytes" else self._take_json
        self._arrivals = Arrivals(dict.fromkeys(map(aggregate_of, range(work.publishers)), MAX_EVENTS))
        # A shared subscription does not keep the order.
        self._ordered = work.kind != "shared"
        self._last = (0, 0)
        self._n_reordered = 0
        self._n_wrong_size = 0

    def take(self, event: eda.Event) -> int:
        """Count the event."""
        number, published_ns, size = self._take(event.data)
        self._arrivals.arrive(event.aggregate, number)
        if size != self._size:
            self._n_wrong_size += 1
        if self._ordered:
            place = (event.sequence, event.index)
            self._n_reordered += place < self._last
            self._last = place
        return published_ns

    def _take_bytes(self, data: eda.Data) -> tuple[int, int, int]:
        payload: bytes = data.decode()
        return *HEAD.unpack_from(payload), len(payload)

    def _take_json(self, data: eda.Data) -> tuple[int, int, int]:
        padded: Padded = data.decode(into=Padded)
        return padded.number, padded.published_ns, BARE_JSON_BYTES + len(str(padded.number)) + len(padded.pad)

    def check(self, published: list[int]) -> dict[str, int]:
        """Compare the received events with the published ones."""
        by_aggregate = {aggregate_of(publisher): n for publisher, n in enumerate(published)}
        return {
            "lost": self._arrivals.n_lost(by_aggregate),
            "duplicated": self._arrivals.n_duplicated,
            "reordered": self._n_reordered,
            "unexpected": self._arrivals.n_unexpected + self._arrivals.n_beyond(by_aggregate),
            "wrong_size": self._n_wrong_size,
        }
