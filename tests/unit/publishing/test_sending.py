"""eda.publishing._sending: the coroutine of `send` takes the short way or the long one, once."""

from __future__ import annotations

import asyncio
import gc
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.publishing._sending import Sender, Sending, with_own_send
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


def test_send_when_its_memory_is_used_again_is_a_new_one() -> None:
    sender = Short()
    assert ended(sender.send(eda.Event(id="a"))) == "a"
    sending = sender.send(eda.Event(id="b"))  # it has the place in memory of the first one
    with pytest.raises(LookupError):
        sending.throw(LookupError("x"))
    del sending
    with pytest.warns(RuntimeWarning, match="coroutine 'Publisher.send' was never awaited"):
        sender.send(eda.Event(id="c"))
    sending = sender.send(eda.Event(id="d"))
    assert ended(sending) == "d"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        sending.send(None)
    assert sender.rig.core.n_accepted == 2


def test_send_when_it_waits_and_is_part_of_a_cycle_is_collected() -> None:
    class Waiting(Short):
        async def _send_slowly(self, event: eda.Event) -> str:
            self.slow.append(event)
            await asyncio.Future(loop=self.loop)
            return ""

    loop = asyncio.new_event_loop()
    sender = Waiting()
    sender.loop = loop  # type: ignore[attr-defined]
    sender._closed = True
    sending = sender.send(eda.Event(id="e"))
    sending.send(None)
    sender.slow.append(sending)
    gone = weakref.ref(sender)
    del sender, sending
    gc.collect()
    assert gone() is None
    loop.close()


def test_publisher_has_a_send_of_its_own_that_is_a_method_as_any_other() -> None:
    assert isinstance(eda.Publisher.__dict__["send"], types.MethodDescriptorType)
    assert eda.Publisher.send.__qualname__ == "Publisher.send"
    assert str(inspect.signature(eda.Publisher.send)) == str(inspect.signature(Sender.send))
    assert eda.Publisher.send.__doc__ == Sender.send.__doc__
    with pytest.raises(TypeError):
        eda.Publisher.send(Short(), eda.Event())  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["close", "throw"])
def test_sending_when_a_program_makes_one_without_a_publisher_is_not_used_again(end: str) -> None:
    made = Sending()
    with pytest.raises(TypeError, match="only a publisher makes"):
        made.send(None)
    made = type(made)()
    if end == "close":
        made.close()
    else:
        with pytest.raises(LookupError):
            made.throw(LookupError("x"))
    del made
    gc.collect()
    sender = Short()
    sendings = [sender.send(eda.Event(id=f"e{i}")) for i in range(10)]
    gc.collect()
    assert len({id(each) for each in sendings}) == 10
    assert [ended(each) for each in sendings] == [f"e{i}" for i in range(10)]


def test_with_own_send_when_the_class_is_no_sender_is_refused() -> None:
    with pytest.raises(TypeError, match="int is no subclass of Sender"):
        with_own_send(int)  # type: ignore[type-var]
