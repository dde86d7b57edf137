"""eda.publishing._message_sender without a server: the frames of ready messages, and how they are settled."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

import eda
from eda.publishing._message_sender import MessageSender
from eda.publishing._stream_sender import Destination
from eda.publishing._window import PublishWindow
from eda.transport._frame import MAX_CONTROL_LINE, Parser
from eda.transport._outbound import Outbound

INBOX = b"_INBOX.me."
HEADERS = b"NATS/1.0\r\nNats-Msg-Id: i1\r\nNats-Expected-Last-Subject-Sequence: 5\r\n\r\n"


class Rig:
    """A sender whose writes are recorded."""

    def __init__(self, max_payload: int = 2**20) -> None:
        self.writes: list[bytes] = []
        self.answers: list[tuple[int, int, bytes]] = []
        self.out = Outbound(lambda: None)
        self.out.set_write(self.writes.append)
        self.window = PublishWindow(1024)
        self.sender = MessageSender(self.window, self.out, INBOX, "me", lambda *answer: self.answers.append(answer))
        self.parser = Parser()
        self.parser.register(1, self.sender)
        self.target = Destination("orders", max_payload)

    def publish(self, subject: bytes = b"orders.t.a", headers: bytes = HEADERS, envelope: bytes = b"x") -> Future[int]:
        waiter: Future[int] = Future()
        self.sender.publish_message(self.target, subject, headers, envelope, waiter, 5.0, 30.0)  # type: ignore[arg-type]
        return waiter

    def flush(self) -> bytes:
        self.writes.clear()
        self.out.flush()
        return b"".join(self.writes)

    def answer(self, number: int, payload: bytes) -> None:
        self.parser.feed(b"MSG %s%d 1 %d\r\n%s\r\n" % (INBOX, number, len(payload), payload))


def test_publish_message_writes_the_frame_byte_for_byte() -> None:
    rig = Rig()
    rig.publish(envelope=b"\x00\r\nbody")
    sizes = b"%d %d" % (len(HEADERS), len(HEADERS) + 7)
    assert rig.flush() == b"HPUB orders.t.a " + INBOX + b"1 " + sizes + b"\r\n" + HEADERS + b"\x00\r\nbody\r\n"


def test_publish_message_beside_events_shares_window_and_write() -> None:
    rig = Rig()
    rig.sender.publish(rig.target, eda.Event(type="t"), Future(), 5.0, 30.0)  # type: ignore[arg-type]
    rig.publish()
    frames = rig.flush()
    assert len(rig.writes) == 1
    assert [frames.count(INBOX + b"%d " % number) for number in (1, 2)] == [1, 1]
    assert (rig.window.pending(), rig.window.n_bytes) == ([1, 2], len(frames))
    assert rig.sender.subject_of(2) == "orders.t.a"
    assert rig.sender.size_of(2) == len(HEADERS) + 1


@pytest.mark.parametrize(("more", "result"), [(b"", 9), (b',"duplicate": true', -9)])
def test_publish_message_when_acknowledged_gives_the_sequence(more: bytes, result: int) -> None:
    rig = Rig()
    waiter = rig.publish()
    rig.flush()
    rig.answer(1, b'{"stream":"orders","seq":9%b}' % more)
    assert waiter.result(0) == result
    assert rig.answers == []


@pytest.mark.parametrize(
    "payload",
    [
        b'{"stream":"other","seq":9}',
        b'{"stream":"orders","domain":"far","seq":9}',
        b'{"stream":"orders","seq":0,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"}}',
    ],
)
def test_publish_message_when_answered_otherwise_leaves_the_answer_to_its_owner(payload: bytes) -> None:
    rig = Rig()
    waiter = rig.publish()
    rig.flush()
    rig.answer(1, payload)
    assert not waiter.done()
    assert rig.answers == [(1, 0, payload)]


def test_publish_message_when_resent_writes_the_same_bytes() -> None:
    rig = Rig()
    rig.publish()
    frame = rig.flush()
    rig.sender.resend(1, 5.0)
    assert rig.flush() == frame


def test_publish_message_when_it_fits_exactly_is_written() -> None:
    rig = Rig(max_payload=len(HEADERS) + 10)
    rig.publish(envelope=bytes(10))
    n_line = len(b"HPUB  %b2 %d %d" % (INBOX, len(HEADERS), len(HEADERS) + 1))
    rig.publish(subject=b"orders.t." + b"a" * (MAX_CONTROL_LINE - n_line - 9))
    first, second = rig.flush().split(b"HPUB ")[1:]
    assert len(b"HPUB " + second.split(b"\r\n")[0]) == MAX_CONTROL_LINE
    assert first.endswith(bytes(10) + b"\r\n")


@pytest.mark.parametrize(
    ("subject", "envelope", "argument"),
    [(b"orders.t." + b"a" * MAX_CONTROL_LINE, b"", "aggregate"), (b"orders.t.a", bytes(11), "data")],
)
def test_publish_message_when_too_large_writes_nothing(subject: bytes, envelope: bytes, argument: str) -> None:
    rig = Rig(max_payload=len(HEADERS) + 10)
    rig.publish()
    with pytest.raises(eda.ConfigError) as refusal:
        rig.publish(subject, HEADERS, envelope)
    assert refusal.value.argument == argument
    rig.publish()
    frames = rig.flush()
    assert (rig.window.pending(), rig.window.n_bytes) == ([1, 2], len(frames))


def test_publish_message_when_the_destination_has_a_check_does_not_call_it() -> None:
    rig = Rig()
    rig.target = Destination("orders", 2**20, "", lambda _: pytest.fail("called"))
    rig.publish()
    assert rig.window.pending() == [1]
