"""eda.publishing._sending: the coroutine of `send` takes the short way or the long one, once, and leaks nothing."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.publishing._sending import Sender, Sending
from eda.publishing.waiters import QueuedSender
from leaks import MAX_BLOCKS, MAX_RSS, growth
from support.publishing.publisher_core import Rig


class Short(Sender):
    """A publisher that is open, with room, and notes what takes the long way."""

    def __init__(self) -> None:
        self.rig = Rig(max_pending=1000, wants_acks=False)
        self.rig.window()
        self.rig.core.timer_runs = True
        self._core = self.rig.core
        self._senders: deque[QueuedSender] = deque()
        self._closed = False
        self.slow: list[object] = []

    async def _send_slowly(self, event: eda.Event) -> str:
        self.slow.append(event)
        await asyncio.sleep(0)
        return f"slow {event.id}"


def ended(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing, and return its result."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def test_send_when_events_flow_gives_the_event_to_the_core() -> None:
    sender = Short()
    assert [ended(sender.send(eda.Event(id=each))) for each in "ab"] == ["a", "b"]
    assert sender.slow == []
    assert sender.rig.core.n_accepted == 2


OBSTACLES: dict[str, Callable[[Any], None]] = {
    "not-open": lambda sender: setattr(sender, "_core", None),
    "closed": lambda sender: setattr(sender, "_closed", True),
    "queue": lambda sender: sender._senders.append(QueuedSender()),
    "overfull": lambda sender: setattr(sender._core, "is_overfull", True),
    "not-writing": lambda sender: sender._core.stop_writing(),
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_send_when_something_is_in_the_way_takes_the_long_way_once(obstacle: Callable[[Any], None]) -> None:
    sender = Short()
    obstacle(sender)
    sending = sender.send(eda.Event(id="e"))
    assert sender.slow == []
    assert next(iter(sending.__await__())) is None
    assert [each.id for each in sender.slow] == ["e"]  # type: ignore[attr-defined]
    assert ended(sending) == "slow e"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        sending.send(None)
    assert sender.rig.core.n_accepted == 0


def test_send_when_a_value_is_sent_before_it_has_begun_is_refused() -> None:
    sending = Short().send(eda.Event())
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        sending.send(1)
    ended(sending)


def test_throw_when_it_runs_reaches_the_coroutine_that_waits() -> None:
    sender = Short()
    sender._closed = True
    sending = sender.send(eda.Event(id="e"))
    sending.send(None)
    with pytest.raises(LookupError):
        sending.throw(LookupError("x"))
    with pytest.raises(RuntimeError, match="cannot reuse"):
        sending.throw(LookupError("x"))


@pytest.mark.parametrize("way", ["close", "throw", "send"])
def test_send_when_it_is_ended_by_what_it_runs_is_refused_and_goes_on(way: str) -> None:
    """A coroutine that runs can't be closed. It must not be freed either, although nobody else has a reference."""

    class Ending(Short):
        async def _send_slowly(self, event: eda.Event) -> str:
            end()
            try:
                await asyncio.sleep(0)
            except LookupError:
                end()
                await asyncio.sleep(0)
            return f"slow {event.id}"

    def end() -> None:
        with pytest.raises(ValueError, match="already executing"):
            if way == "close":
                sending.close()
            elif way == "throw":
                sending.throw(LookupError("x"))
            else:
                sending.send(None)
        gc.collect()

    sender = Ending()
    sender._closed = True
    sending: Any = sender.send(eda.Event(id="e"))
    assert sending.send(None) is None
    assert sending.throw(LookupError("y")) is None
    assert ended(sending) == "slow e"


@pytest.mark.parametrize("way", ["short", "long", "refused", "closed", "thrown", "left"])
def test_memory_when_100000_events_are_sent_does_not_grow(way: str) -> None:
    sender = Short()
    event = eda.Event(id="e", type="t")
    sender._closed = way in ("long", "left")
    given: Any = eda.Event(id="a b") if way == "refused" else event

    def send() -> None:
        sending = sender.send(given)
        assert type(sending) is Sending
        if way == "closed":
            sending.close()
        elif way == "thrown":
            with pytest.raises(LookupError):
                sending.throw(LookupError())
        elif way == "refused":
            with pytest.raises(eda.ConfigError):
                sending.send(None)
        else:
            try:
                while way != "left" or not sender.slow:
                    sending.send(None)
            except StopIteration:
                sender.rig.core.settle(sender.rig.core.next_seq - 1, 1)
        sender.slow.clear()
        if sender.rig.core.n_pending:
            raise AssertionError("it is not settled")
        sender.rig.written()

    blocks, tracked, size = growth(send, 100_000 if way in ("short", "long", "left", "closed") else 10_000)
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS
