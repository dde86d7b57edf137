"""No publish leaks memory or references: 100,000 events for each way in which a publish can end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eda._data import JSON, Bytes
from eda._event import Event
from eda.errors import ConfigError, EncodeError
from eda.jetstream.publish_answers import decode_answer
from eda.publishing._message_sender import MessageSender
from eda.publishing._stream_sender import Destination, StreamSender, frame_of
from eda.publishing._window import PublishWindow
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from leaks import MAX_BLOCKS, MAX_RSS, growth
from support.publishing.publisher_core import Host, Rig

N = 100_000
AT_ONCE = 100  # events of one round
EVENT = Event(type="t" * 100, aggregate="é", data=Bytes(bytes(100)), meta={"k": "v"})
REFUSED = {
    "id": Event(id="a b"),
    "id-long": Event(id="x" * 129),
    "subject": Event(type="t" * 5000),
    "size": Event(data=Bytes(bytes(5000))),
    "data": Event(data=JSON(object())),
    "text": Event(type="\ud800"),
}
PROBLEM = b'{"error":{"code":503,"err_code":10077,"description":"no"},"stream":"s","seq":0}'


def refused(function: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises((ConfigError, EncodeError)):
        function(*arguments)


class Waiter:
    """Has the methods of a future that the sender calls."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: object = None

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, result: int) -> None:
        self.outcome = result

    def set_exception(self, error: BaseException) -> None:
        self.outcome = error


class Single:
    """Runs rounds of events through the sender of `conn.publish`."""

    def __init__(self) -> None:
        self.out = Outbound(lambda: None)
        self.out.set_write(lambda data: None)
        self.n_answers = 0
        self.window = PublishWindow(1024)
        self.sender = StreamSender(self.window, self.out, b"inbox.", "me", self.answered)
        self.parser = Parser()
        self.parser.register(1, self.sender)
        self.target = Destination("s", 4096)
        self.seq = 0

    def answered(self, seq: int, status: int, payload: bytes) -> None:
        self.n_answers += 1

    def publish(self) -> list[Waiter]:
        waiters = [Waiter() for _ in range(AT_ONCE)]
        for waiter in waiters:
            self.sender.publish(self.target, EVENT, waiter, 5.0, 30.0)  # type: ignore[arg-type]
        self.out.flush()
        return waiters

    def answer(self, payload: bytes) -> None:
        for seq in range(self.seq + 1, self.seq + AT_ONCE + 1):
            self.parser.feed(b"MSG inbox.%d 1 %d\r\n%b\r\n" % (seq, len(payload), payload))

    def end(self) -> None:
        self.seq += AT_ONCE
        assert self.window.n_pending == 0

    def acknowledged(self) -> None:
        waiters = self.publish()
        self.answer(b'{"stream":"s", "seq":7}')
        self.end()
        assert all(waiter.outcome == 7 for waiter in waiters)

    def failed(self) -> None:
        self.publish()
        self.answer(PROBLEM)
        for seq in self.window.pending():
            self.sender.fail(seq, ValueError(seq))
        self.end()

    def sent_again(self) -> None:
        self.publish()
        self.answer(b"\xff")
        for seq in self.window.pending():
            assert self.sender.subject_of(seq).startswith("s.")
            assert self.sender.size_of(seq) < 4096
            self.sender.defer(seq, 0.0)
        for seq in self.sender.due()[0]:
            self.sender.resend(seq, 5.0)
        self.acknowledge_all()

    def cancelled(self) -> None:
        for waiter in self.publish():
            waiter.outcome = "cancelled"
        for seq in self.sender.due()[1]:
            self.sender.fail(seq, ValueError(seq))
        self.end()

    def unconnected(self) -> None:
        self.out.set_write(None)
        self.publish()
        self.out.set_write(lambda data: None)
        for seq in self.window.pending():
            self.sender.resend(seq, 5.0)
        self.acknowledge_all()

    def acknowledge_all(self) -> None:
        self.answer(b'{"stream":"s", "seq":7}')
        self.end()

    def refused(self) -> None:
        for event in REFUSED.values():
            refused(self.sender.publish, self.target, event, Waiter(), 5.0, 30.0)
        assert self.window.n_pending == 0


class Ready(Single):
    """Runs rounds of ready messages through the sender of an event store."""

    def __init__(self) -> None:
        super().__init__()
        self.sender: MessageSender = MessageSender(self.window, self.out, b"inbox.", "me", self.answered)
        self.parser.register(1, self.sender)

    def publish(self) -> list[Waiter]:
        waiters = [Waiter() for _ in range(AT_ONCE)]
        for waiter in waiters:
            self.publish_one(b"s.t.a", waiter)
        self.out.flush()
        return waiters

    def publish_one(self, subject: bytes, waiter: Waiter, size: int = 100) -> None:
        headers = b"NATS/1.0\r\nNats-Msg-Id: i\r\n\r\n"
        self.sender.publish_message(self.target, subject, headers, bytes(size), waiter, 5.0, 30.0)  # type: ignore[arg-type]

    def refused(self) -> None:
        refused(self.publish_one, b"s.t." + b"a" * 5000, Waiter())
        refused(self.publish_one, b"s.t.a", Waiter(), 5000)


class Many:
    """Runs rounds of events through a publisher's core."""

    def __init__(self, **options: Any) -> None:
        self.rig = Rig(host=Forgetful(), max_payload=4096, **options)
        self.events = [EVENT] * AT_ONCE

    def accept(self) -> None:
        ids: list[str] = []
        assert self.rig.core.accept_many(self.events, 0, ids) == len(ids) == AT_ONCE

    def end(self) -> None:
        self.rig.out.flush()
        self.rig._data.clear()
        assert self.rig.core.n_pending == 0

    def window(self) -> None:
        self.rig.window()
        begin = self.rig.core.next_seq
        self.accept()
        for seq in range(begin, begin + AT_ONCE):
            self.rig.acknowledge(seq)
        self.end()

    def fast(self) -> None:
        for _ in range(3):
            self.rig.core.accept(EVENT)
        self.rig.batch_open()
        self.accept()
        self.rig.out.flush()
        for n in (10, 50, AT_ONCE + 3):
            self.rig.flow(n)
        self.rig.core.commit_batch()
        self.end()

    def flowing(self) -> None:
        self.rig.window()
        self.rig.core.timer_runs = True
        begin = self.rig.core.next_seq
        for _ in range(AT_ONCE):
            assert self.rig.core.accept_if_flowing(EVENT) is not None
        for seq in range(begin, begin + AT_ONCE):
            self.rig.acknowledge(seq)
        self.end()

    def written_again(self) -> None:
        """Write the events as a batch, then again in window mode, as after an interruption."""
        self.accept()
        self.rig.batch_open()
        self.rig.tell(f"{self.rig.batch}.1.0.$FI", PROBLEM)
        begin = self.rig.core.oldest
        self.rig.connect(False)
        self.rig.connect()
        self.rig.window()
        for seq in range(begin, begin + AT_ONCE):
            self.rig.acknowledge(seq)
        self.end()

    def failed(self) -> None:
        self.rig.window()
        begin = self.rig.core.next_seq
        self.accept()
        self.rig.out.flush()
        for seq in range(begin, begin + AT_ONCE):
            self.rig.tell(f"inbox.{seq}", PROBLEM)
            assert len(self.rig.core.fail(seq)) == 1
        self.end()

    def refused(self) -> None:
        self.rig.window()
        for event in REFUSED.values():
            refused(self.rig.core.accept, event)
            refused(self.rig.core.accept_many, [event], 0, [])
        refused(self.rig.core.accept_many, [5], 0, [])
        self.end()


class Forgetful(Host):
    """A host that does not record its calls."""

    def on_flow(self, n_messages: int) -> None: ...

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        decode_answer(status, payload)

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        decode_answer(status, payload)

    def on_acknowledged(self, event_id: str, sequence: int) -> None: ...


# Path > (what it takes, events of a round)
PATHS: dict[str, tuple[Callable[[], Callable[[], Any]], int]] = {
    "single": (lambda: Single().acknowledged, AT_ONCE),
    "single-failed": (lambda: Single().failed, AT_ONCE),
    "single-sent-again": (lambda: Single().sent_again, AT_ONCE),
    "single-cancelled": (lambda: Single().cancelled, AT_ONCE),
    "single-unconnected": (lambda: Single().unconnected, AT_ONCE),
    "single-refused": (lambda: Single().refused, len(REFUSED)),
    "ready": (lambda: Ready().acknowledged, AT_ONCE),
    "ready-failed": (lambda: Ready().failed, AT_ONCE),
    "ready-sent-again": (lambda: Ready().sent_again, AT_ONCE),
    "ready-unconnected": (lambda: Ready().unconnected, AT_ONCE),
    "ready-refused": (lambda: Ready().refused, 2),
    "window": (lambda: Many().window, AT_ONCE),
    "window-untold": (lambda: Many(wants_acks=False).window, AT_ONCE),
    "window-without-ids": (lambda: Many(dedup=False).window, AT_ONCE),
    "window-failed": (lambda: Many().failed, AT_ONCE),
    "window-flowing": (lambda: Many().flowing, AT_ONCE),
    "fast": (lambda: Many().fast, AT_ONCE),
    "fast-untold": (lambda: Many(wants_acks=False).fast, AT_ONCE),
    "fast-then-window": (lambda: Many().written_again, AT_ONCE),
    "many-refused": (lambda: Many().refused, 2 * len(REFUSED) + 1),
}


@pytest.mark.parametrize(("make", "n_events"), PATHS.values(), ids=PATHS)
def test_memory_when_100000_events_are_published_does_not_grow(
    make: Callable[[], Callable[[], Any]], n_events: int
) -> None:
    blocks, tracked, size = growth(
        make(), N // n_events, n_before=50, shared=(EVENT, *REFUSED.values(), PROBLEM, Waiter)
    )
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


ANSWERS = [PROBLEM, b'{"stream":"s","seq":7}', b'{"type":"ack","seq":1,"msgs":2}', b"\xff", b'{"seq":-1}', b""]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_memory_when_100000_answers_are_decoded_does_not_grow(answer: bytes) -> None:
    blocks, tracked, size = growth(lambda: decode_answer(0, answer), N)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_when_frames_are_made_for_a_batch_does_not_grow() -> None:
    target = Destination("s", 4096)

    def path() -> None:
        frame_of(target, EVENT, b"inbox.", 5)
        refused(frame_of, target, REFUSED["size"], b"inbox.", 5)

    blocks, tracked, size = growth(path, N)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_when_publishers_come_and_go_with_what_they_hold_does_not_grow() -> None:
    def path() -> None:
        sender, many = Single(), Many()
        sender.publish()
        many.rig.window()
        many.accept()
        sender.parser.register(1, None)
        many.rig.parser.register(1, None)

    blocks, tracked, size = growth(path, 300, n_before=50)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)
