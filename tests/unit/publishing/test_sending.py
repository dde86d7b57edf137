"""eda.publishing._sending: the coroutine of `send` takes the short way or the long one, once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.publishing.waiters import QueuedSender
from support.publishing.short_sender import Short, ended


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
