"""eda.cli.pacing: when the events of a replay are published."""

from __future__ import annotations

import asyncio

import pytest

import eda
from eda._codec import stored_event
from eda.cli.pacing import StoredPace


class FakeTime:
    """The time of the event loop, which only `sleep` moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waits: list[float] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 6))
        self.now += seconds


def stored_at(seconds: float) -> eda.Event:
    """Return an event that a stream stored at this time."""
    return stored_event(b"\x0a\x01x\x1a\x01t", "s", 1, int(seconds * 1e9))


async def waits_of(fake: FakeTime, pace: StoredPace, *times: float, work_s: float = 0.0) -> list[float]:
    for time in times:
        await pace.wait(stored_at(time))
        fake.now += work_s
    return fake.waits


@pytest.mark.parametrize(
    ("speed", "longest_s", "waits"),
    [
        (1.0, None, [2.0, 0.5, 60.0]),
        (10.0, None, [0.2, 0.05, 6.0]),
        (0.5, None, [4.0, 1.0, 120.0]),
        (1.0, 1.0, [1.0, 0.5, 1.0]),
    ],
)
async def test_pace_when_events_come_waits_as_long_as_between_their_storing(
    monkeypatch: pytest.MonkeyPatch, speed: float, longest_s: float | None, waits: list[float]
) -> None:
    fake = FakeTime(monkeypatch)
    assert await waits_of(fake, StoredPace(speed, longest_s), 10, 12, 12.5, 72.5) == waits


async def test_pace_when_publishing_takes_time_waits_less(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    assert await waits_of(fake, StoredPace(1.0, None), 10, 11, 12, work_s=0.4) == [0.6, 0.6]


async def test_pace_when_it_is_late_catches_up_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    assert await waits_of(fake, StoredPace(1.0, None), 10, 11, 12, work_s=1.5) == []


async def test_pace_when_times_go_backwards_or_stand_still_waits_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    assert await waits_of(fake, StoredPace(1.0, None), 10, 10, 5, 6) == [1.0]
