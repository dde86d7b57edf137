"""eda.cursors.liveness: when a standby may take over, measured by its own clock."""

from __future__ import annotations

import asyncio

import pytest

import eda.cursors.liveness
from eda.cursors.liveness import HINT_PAUSE_S, TAKEOVER_S, HolderLiveness
from eda.cursors.position import Position
from eda.cursors.value import Snapshot, new_value

NS = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = 5 * NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(eda.cursors.liveness, "read_monotonic_ns", clock)
    return clock


def snapshot(revision: int, text: bytes = b"", holder: str = "a") -> Snapshot:
    return Snapshot(revision, new_value(Position(1), 1, holder, 0, [], ""), text)


def test_silence_when_a_revision_is_read_again_5_s_later_is_long(clock: Clock) -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    assert not liveness.is_silent
    clock.pass_(TAKEOVER_S - 0.001)
    liveness.on_read(snapshot(3))
    assert not liveness.is_silent
    clock.pass_(0.001)
    assert not liveness.is_silent  # only a new read shows whether the entry has changed
    liveness.on_read(snapshot(3))
    assert liveness.is_silent


def test_silence_when_another_revision_is_read_begins_anew(clock: Clock) -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    clock.pass_(2 * TAKEOVER_S)
    liveness.on_read(snapshot(4))
    assert not liveness.is_silent
    clock.pass_(TAKEOVER_S)
    liveness.on_read(snapshot(4))
    assert liveness.is_silent


def test_silence_when_a_hint_had_the_text_that_is_read_counts_from_the_hint(clock: Clock) -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3, b"old"))
    clock.pass_(1)
    liveness.on_hint(b"last", False)
    liveness.on_hint(b"refused by the stream", False)
    clock.pass_(TAKEOVER_S - 1)
    liveness.on_read(snapshot(4, b"last"))
    assert not liveness.is_silent
    clock.pass_(1)
    liveness.on_read(snapshot(4, b"last"))
    assert liveness.is_silent


def test_silence_when_hints_do_not_match_is_not_prolonged_by_them(clock: Clock) -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3, b"old"))
    for _ in range(100):
        clock.pass_(TAKEOVER_S / 100)
        liveness.on_hint(b"lie", False)
        liveness.on_hint(b"old", False)
    liveness.on_read(snapshot(3, b"old"))
    assert liveness.is_silent


def test_silence_when_the_connection_is_back_begins_anew(clock: Clock) -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    clock.pass_(100)
    liveness.on_restored()
    liveness.on_read(snapshot(3))
    assert not liveness.is_silent


async def test_until_next_read_when_a_hint_says_free_returns_at_once_but_not_more_often_than_allowed() -> None:
    loop = asyncio.get_running_loop()
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    begin = loop.time()
    loop.call_later(0.01, liveness.on_hint, b"", True)
    await liveness.until_next_read()
    assert HINT_PAUSE_S * 0.9 < loop.time() - begin < TAKEOVER_S / 2


async def test_until_next_read_when_hints_say_nothing_of_the_kind_waits_for_the_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eda.cursors.liveness, "TAKEOVER_S", 0.3)
    loop = asyncio.get_running_loop()
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    begin = loop.time()
    liveness.on_hint(b"x", False)
    await liveness.until_next_read()
    assert loop.time() - begin > 0.29


async def test_until_next_read_when_nobody_holds_the_cursor_does_not_wait_for_silence() -> None:
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3, holder=""))
    async with asyncio.timeout(1.0):
        await liveness.until_next_read()


async def test_until_next_read_when_no_hints_arrive_returns_long_before_the_takeover(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eda.cursors.liveness, "DEAF_PAUSE_S", 0.05)
    liveness = HolderLiveness()
    liveness.on_read(snapshot(3))
    async with asyncio.timeout(TAKEOVER_S / 2):
        await liveness.until_next_read(has_hints=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await liveness.until_next_read()
