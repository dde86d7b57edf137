"""eda.cursors.liveness: when a standby may take over, by its own clock."""

from __future__ import annotations

import asyncio

import pytest

import eda.cursors.liveness
from eda.cursors.liveness import HINT_PAUSE_S, TAKEOVER_S, Silence
from eda.cursors.value import Kept, new_value

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


def kept(revision: int, text: bytes = b"", holder: str = "a") -> Kept:
    return Kept(revision, new_value(1, 1, holder, 0, [], ""), text)


def test_silence_when_a_revision_is_read_again_5_s_later_is_long(clock: Clock) -> None:
    silence = Silence()
    silence.note(kept(3))
    assert not silence.is_long
    clock.pass_(TAKEOVER_S - 0.001)
    silence.note(kept(3))
    assert not silence.is_long
    clock.pass_(0.001)
    assert not silence.is_long  # what was read before is not what is there now
    silence.note(kept(3))
    assert silence.is_long


def test_silence_when_another_revision_is_read_begins_anew(clock: Clock) -> None:
    silence = Silence()
    silence.note(kept(3))
    clock.pass_(2 * TAKEOVER_S)
    silence.note(kept(4))
    assert not silence.is_long
    clock.pass_(TAKEOVER_S)
    silence.note(kept(4))
    assert silence.is_long


def test_silence_when_a_hint_had_the_text_that_is_read_counts_from_the_hint(clock: Clock) -> None:
    silence = Silence()
    silence.note(kept(3, b"old"))
    clock.pass_(1)
    silence.on_hint(b"last", False)
    silence.on_hint(b"refused by the stream", False)
    clock.pass_(TAKEOVER_S - 1)
    silence.note(kept(4, b"last"))
    assert not silence.is_long
    clock.pass_(1)
    silence.note(kept(4, b"last"))
    assert silence.is_long


def test_silence_when_hints_do_not_match_is_not_prolonged_by_them(clock: Clock) -> None:
    silence = Silence()
    silence.note(kept(3, b"old"))
    for _ in range(100):
        clock.pass_(TAKEOVER_S / 100)
        silence.on_hint(b"lie", False)
        silence.on_hint(b"old", False)
    silence.note(kept(3, b"old"))
    assert silence.is_long


def test_silence_when_the_connection_is_back_begins_anew(clock: Clock) -> None:
    silence = Silence()
    silence.note(kept(3))
    clock.pass_(100)
    silence.restart()
    silence.note(kept(3))
    assert not silence.is_long


async def test_last_when_a_hint_says_free_returns_at_once_but_not_more_often_than_allowed() -> None:
    loop = asyncio.get_running_loop()
    silence = Silence()
    silence.note(kept(3))
    begin = loop.time()
    loop.call_later(0.01, silence.on_hint, b"", True)
    await silence.last()
    assert HINT_PAUSE_S * 0.9 < loop.time() - begin < TAKEOVER_S / 2


async def test_last_when_hints_say_nothing_of_the_kind_waits_for_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eda.cursors.liveness, "TAKEOVER_S", 0.3)
    loop = asyncio.get_running_loop()
    silence = Silence()
    silence.note(kept(3))
    begin = loop.time()
    silence.on_hint(b"x", False)
    await silence.last()
    assert loop.time() - begin > 0.29


async def test_last_when_nobody_holds_the_key_does_not_wait_for_silence() -> None:
    silence = Silence()
    silence.note(kept(3, holder=""))
    async with asyncio.timeout(1.0):
        await silence.last()


async def test_last_when_no_hints_arrive_returns_long_before_the_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eda.cursors.liveness, "DEAF_PAUSE_S", 0.05)
    silence = Silence()
    silence.note(kept(3))
    async with asyncio.timeout(TAKEOVER_S / 2):
        await silence.last(is_told=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await silence.last()
