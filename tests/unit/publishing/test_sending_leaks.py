"""The coroutines of `send` give back what they took, whichever way they take and whatever changes their events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._stamp import Stamp
from eda.publishing._sending import Sending
from leaks import MAX_BLOCKS, MAX_RSS, growth
from support.publishing.short_sender import Short, ended


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


STAMP = Stamp({"trace": "t" * 100}, ("trace",))
EVENT = eda.Event(id="e", type="t")
MARKED = eda.Event(id="m", type="t", meta={"a": "b"})
REFUSED = eda.Event(id="a b")
ERROR = LookupError("no")


def fail(event: eda.Event, publisher: Any) -> Any:
    raise ERROR.with_traceback(None)


MARKS: dict[str, tuple[Callable[[eda.Event, Any], Any], type[BaseException]]] = {
    "the-same": (lambda event, publisher: event, StopIteration),
    "another": (lambda event, publisher: MARKED, StopIteration),
    "new": (lambda event, publisher: eda.Event(id="n", meta={"a": "b"}), StopIteration),
    "stamped": (lambda event, publisher: STAMP.on(event), StopIteration),
    "refused": (lambda event, publisher: REFUSED, eda.ConfigError),
    "failing": (fail, LookupError),
}


@pytest.mark.parametrize("is_slow", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("name", MARKS)
def test_memory_when_many_events_are_changed_before_they_are_sent_does_not_grow(name: str, is_slow: bool) -> None:
    sender = Short()
    sender._mark, raised = MARKS[name]
    core = sender.rig.core
    core.is_overfull = is_slow

    def send() -> None:
        with pytest.raises(StopIteration if is_slow and name == "refused" else raised):
            sending = sender.send(EVENT)
            while True:
                sending.send(None)
        if core.n_pending:
            core.settle(core.next_seq - 1, 1)
        sender.slow.clear()
        sender.rig.written()

    blocks, tracked, size = growth(send, 10_000, shared=(EVENT, MARKED, REFUSED, ERROR, STAMP, sender, core, fail))
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


@pytest.mark.parametrize("way", ["sent", "closed", "never awaited"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_event_when_its_send_has_ended_is_not_referred_to(way: str) -> None:
    sender = Short()
    sender._mark = lambda event, publisher: MARKED
    before = sys.getrefcount(EVENT), sys.getrefcount(sender)
    sending = sender.send(EVENT)
    if way == "sent":
        assert ended(sending) == "m"
    elif way == "closed":
        sending.close()
    else:
        del sending
    assert (sys.getrefcount(EVENT), sys.getrefcount(sender)) == before
