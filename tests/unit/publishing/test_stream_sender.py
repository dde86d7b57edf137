"""eda.publishing._stream_sender without a server: frames of publishes out; acknowledgements in, also forged ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import eda
from eda._codec import decode_event
from eda.publishing._stream_sender import Destination, StreamSender, frame_of
from eda.publishing._window import PublishWindow
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound

INBOX = b"_INBOX.me."


class Rig:
    """A sender whose writes are recorded, and the parser that passes it answers in the server's form."""

    def __init__(self, limit: int = 1024, stream: str = "orders") -> None:
        self.writes: list[bytes] = []
        self.answers: list[tuple[int, int, bytes]] = []
        self.n_scheduled = 0
        self.out = Outbound(self._schedule)
        self.out.set_write(self.writes.append)
        self.window = PublishWindow(limit)
        self.sender = StreamSender(self.window, self.out, INBOX, "me", lambda *answer: self.answers.append(answer))
        self.parser = Parser()
        self.parser.register(1, self.sender)
        self.target = Destination(stream, 2**20)

    def _schedule(self) -> None:
        self.n_scheduled += 1

    def publish(self, event: eda.Event | None = None, **options: float) -> tuple[str, Future[int]]:
        waiter: Future[int] = Future()
        options = {"resend_s": 5.0, "give_up_s": 30.0} | options
        id = self.sender.publish(self.target, event or eda.Event(type="t"), waiter, *options.values())
        return id, waiter

    def flush(self) -> bytes:
        """Flush the buffer, and return the bytes that were written."""
        self.writes.clear()
        self.out.flush()
        return b"".join(self.writes)

    def answer(self, number: object, payload: bytes, headers: bytes = b"") -> None:
        subject = INBOX + str(number).encode()
        body = headers + payload
        sizes = b"%d %d" % (len(headers), len(body)) if headers else b"%d" % len(body)
        verb = b"HMSG" if headers else b"MSG"
        assert self.parser.feed(b"%s %s 1 %s\r\n%s\r\n" % (verb, subject, sizes, body)) is None

    def acknowledge(self, number: object, stream_seq: int = 7, stream: str = "orders", more: str = "") -> None:
        self.answer(number, f'{{"stream":"{stream}", {more}"seq":{stream_seq}}}'.replace(", ", ",", 1).encode())


# --- frames ----------------------------------------------------------------------------------------------------------


def test_publish_when_flushed_writes_frame_header_and_envelope() -> None:
    rig = Rig()
    event = eda.Event(id="id-1", type="placed", aggregate="o 1", time=5, data=eda.JSON([1]), meta={"a": "b"})
    assert rig.publish(event)[0] == "id-1"
    assert rig.writes == []
    frame = rig.flush()
    line, _, rest = frame.partition(b"\r\n")
    verb, subject, reply, n_header, n_total = line.split()
    assert (verb, subject, reply) == (b"HPUB", b"orders.placed.o%201", INBOX + b"1")
    header, envelope = rest[: int(n_header)], rest[int(n_header) : int(n_total)]
    assert header == b"NATS/1.0\r\nNats-Msg-Id: id-1\r\n\r\n"
    assert rest[int(n_total) :] == b"\r\n"
    assert decode_event(envelope) == event.replace(client="me")
    assert frame_of(rig.target, event.replace(client="me"), INBOX, 1) == frame


def test_publish_when_many_are_sent_in_one_turn_writes_once_and_numbers_them() -> None:
    rig = Rig()
    for _ in range(100):
        rig.publish()
    assert rig.n_scheduled == 1
    frames = rig.flush()
    assert len(rig.writes) == 1
    assert [frames.count(INBOX + b"%d " % n) for n in range(1, 101)] == [1] * 100
    assert rig.window.pending() == list(range(1, 101))
    assert rig.window.n_bytes == len(frames)


def test_publish_when_much_is_sent_in_one_turn_writes_in_pieces() -> None:
    rig = Rig()
    for _ in range(10):
        rig.publish(eda.Event(data=eda.Bytes(bytes(50_000))))
    assert len(rig.writes) == 5
    rig.out.flush()
    assert sum(map(len, rig.writes)) == rig.window.n_bytes


def test_publish_when_refused_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.publish(eda.Event(id="before"))
    for bad in (
        eda.Event(id="with space"),
        eda.Event(type="t" * 5000),
        eda.Event(data=eda.Bytes(bytes(2**20))),
        eda.Event(data=eda.JSON(object())),
        eda.Event(data=eda.Data("unheard-of", 1)),
    ):
        with pytest.raises(eda.EdaError):
            rig.publish(bad)
    rig.publish(eda.Event(id="after"))
    frames = rig.flush()
    assert rig.window.pending() == [1, 2]
    assert rig.window.n_bytes == len(frames)
    assert frames.count(b"HPUB") == 2
    assert frames.index(b"before") < frames.index(b"after")


@pytest.mark.parametrize("flushes", [False, True])
def test_publish_when_an_encoder_publishes_too_keeps_both(flushes: bool) -> None:
    rig = Rig()
    rig.publish(eda.Event(id="before"))
    name = f"publishes-{flushes}"
    inner: list[Future[int]] = []
    early: list[bytes] = []

    def encode(value: object) -> bytes:
        inner.append(rig.publish(eda.Event(id="inner", data=eda.Bytes(b"i" * 300)))[1])
        if flushes:
            early.append(rig.flush())
        return b"outer"

    eda.register_encoding(name, encode, bytes)
    outer = rig.publish(eda.Event(id="outer", data=eda.Data(name, None)))[1]
    written = b"".join(early) + rig.flush()
    assert [written.count(INBOX + b"%d " % n) for n in (1, 2, 3)] == [1, 1, 1]
    assert rig.window.n_bytes == len(written)
    rig.acknowledge(2, 20)
    assert (inner[0].result(0), outer.done()) == (20, False)
    rig.sender.resend(3, 5.0)
    again = rig.flush()
    assert again == written[-len(again) :]
    assert b"Nats-Msg-Id: outer\r\n" in again
    assert INBOX + b"3 " in again
    rig.acknowledge(3, 30)
    assert outer.result(0) == 30


def test_frame_of_when_an_encoder_makes_one_too_is_one_frame() -> None:
    rig = Rig()

    def encode(value: object) -> bytes:
        frame_of(rig.target, eda.Event(id="inner"), INBOX, 1)
        return b"outer"

    eda.register_encoding("frames", encode, bytes)
    frame = frame_of(rig.target, eda.Event(id="outer", data=eda.Data("frames", None)), INBOX, 2)
    assert frame.count(b"HPUB") == 1
    assert b"inner" not in frame


def test_publish_when_the_encoder_encodes_the_same_data_keeps_one_encoding() -> None:
    rig = Rig()
    seen: list[bytes] = []

    def encode(value: object) -> bytes:
        if not seen:
            seen.append(b"")
            seen.append(data.encode())
            return b"second"
        return b"first"

    eda.register_encoding("twice", encode, bytes)
    data = eda.Data("twice", None)
    rig.publish(eda.Event(data=data))
    assert data.encode() is seen[1]
    assert b"first" in rig.flush()


def test_publish_when_the_server_takes_less_from_now_on_is_refused() -> None:
    rig = Rig()
    event = eda.Event(data=eda.Bytes(bytes(1000)))
    rig.publish(event)
    rig.target.set_max_payload(500)
    with pytest.raises(eda.ConfigError, match="max_payload of 500"):
        rig.publish(event)


def test_room_when_the_window_is_full_is_none_until_the_oldest_is_settled() -> None:
    rig = Rig(limit=3)
    for _ in range(3):
        assert rig.sender.has_room
        rig.publish()
    assert not rig.sender.has_room
    rig.flush()
    rig.acknowledge(2)
    assert not rig.sender.has_room  # the limit counts from the oldest unsettled publish
    rig.acknowledge(1)
    assert rig.sender.has_room


# --- acknowledgements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b'{"stream":"orders","seq":7}',
        b'{"stream":"orders", "seq":7}',
        b'{"stream":"orders","seq": 7}',
        b'{"stream":"orders","seq":7,"duplicate":false}',
        b'{"stream":"orders","domain":"","seq":7}',
        b'{"stream":"orders","seq":7, "value":"5"}',
        b'{"stream":"orders","seq":7 }',
    ],
)
def test_acknowledgement_when_plain_settles_the_publish(payload: bytes) -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.flush()
    rig.answer(1, payload)
    assert waiter.result(0) == 7
    assert (rig.sender.n_pending, rig.sender.n_acknowledged, rig.answers) == (0, 1, [])
    rig.answer(1, payload)  # the same answer again
    assert (rig.sender.n_pending, rig.sender.n_acknowledged, rig.answers) == (0, 1, [])


@pytest.mark.parametrize("text", ['"duplicate": true}', '"duplicate":true}', '"duplicate":true,"x":1}'])
def test_acknowledgement_when_it_is_of_a_duplicate_says_so(text: str) -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.flush()
    rig.answer(1, b'{"stream":"orders", "seq":7,%b' % text.encode())
    assert waiter.result(0) == -7


@pytest.mark.parametrize("space", [b"", b" "])
@pytest.mark.parametrize("domain", ["hub", "h", "a domain, \u00e9"])
def test_acknowledgement_when_of_the_domain_that_is_meant_settles_the_publish(domain: str, space: bytes) -> None:
    rig = Rig()
    rig.target = Destination("orders", 2**20, domain)
    waiter = rig.publish()[1]
    rig.flush()
    for other in (b"edge", b"", b"hub2", b"hu", b"HUB"):
        rig.answer(1, b'{"stream":"orders","domain":"%b","seq":5}' % other)
    rig.answer(1, b'{"stream":"orders","seq":5}')
    rig.answer(1, b'{"stream":"orders","seq":5,"domain":"hub"}')
    assert not waiter.done()
    assert len(rig.answers) == 7
    rig.answer(1, b'{"stream":"orders",%b"domain":"%b",%b"seq":7}' % (space, domain.encode(), space))
    assert waiter.result(0) == 7


def test_acknowledgements_when_in_any_order_settle_each_their_own() -> None:
    rig = Rig()
    waiters = [rig.publish()[1] for _ in range(600)]  # more than the window's first slots
    rig.flush()
    for number in [*range(600, 300, -1), *range(1, 301)]:
        rig.acknowledge(number, stream_seq=number + 1000)
        assert sum(waiter.done() for waiter in waiters) == rig.sender.n_acknowledged
    assert [waiter.result(0) for waiter in waiters] == list(range(1001, 1601))
    assert (rig.window.n_pending, rig.window.n_bytes, rig.window.pending()) == (0, 0, [])


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{}", b"null", b'{"stream":"orders"}', b'{"stream":"orders","seq":0}', b'{"stream":"orders","seq":-1}'),
        *(b'{"stream":"orders","seq":x}', b'{"stream":"orders","seq":99999999999999999999999}', b'{"seq":7}'),
        *(b'{"stream":"orders","domain":"hub","seq":7}', b'{"stream":"orders","seq":7,"domain":"hub"}'),
        *(b'{"stream":"order","seq":7}', b'{"stream":"orders2","seq":7}', b'{"stream":"","seq":7}'),
        *(b'{"stream":"ORDERS","seq":7}', b'{"stream":"ord\\u0065rs","seq":7}'),
        *(b'{"error":{"code":503}}', b'{"stream":"orders', b"\xff" * 40, b'{"stream":"' + b"o" * 100_000),
        *(b'{"stream":"orders","x":"\\"seq\\":7"}', b'[{"stream":"orders","seq":7}]'),
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_answer_when_no_plain_acknowledgement_of_this_stream_is_left_to_the_host(payload: bytes) -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.flush()
    rig.answer(1, payload)
    assert not waiter.done()
    assert rig.answers == [(1, 0, payload)]
    assert rig.sender.n_pending == 1
    rig.acknowledge(1)
    assert waiter.result(0) == 7


def test_answer_when_it_has_a_status_tells_it() -> None:
    rig = Rig()
    rig.publish()
    rig.flush()
    rig.answer(1, b"", b"NATS/1.0 503\r\n\r\n")
    rig.answer(1, b'{"stream":"orders","seq":7}', b"NATS/1.0 429 Slow\r\n\r\n")
    assert rig.answers == [(1, 503, b""), (1, 429, b'{"stream":"orders","seq":7}')]
    assert rig.sender.n_pending == 1


@pytest.mark.parametrize("number", [0, 2, 99, 2**64 - 1, 2**64 + 1, -1, "", "x", "1x", "1.1", "01x"])
def test_answer_when_for_no_publish_is_passed_over(number: object) -> None:
    rig = Rig()
    rig.publish()
    rig.flush()
    rig.acknowledge(number)
    assert rig.sender.n_pending == 1
    assert rig.answers == []


def test_acknowledgement_when_it_comes_before_the_frame_was_written_is_passed_over() -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.acknowledge(1)
    rig.answer(1, b"{}")
    assert not waiter.done()
    assert rig.answers == []
    rig.flush()
    rig.acknowledge(1)
    assert waiter.result(0) == 7


def test_acknowledgement_when_the_waiter_was_cancelled_frees_the_place() -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.flush()
    waiter.cancel()
    rig.acknowledge(1)
    assert rig.sender.n_pending == 0


# --- failing, sending again ------------------------------------------------------------------------------------------


def test_fail_when_pending_settles_with_the_error_once() -> None:
    rig = Rig()
    waiter = rig.publish()[1]
    rig.flush()
    rig.sender.fail(1, eda.Closed("it"))
    rig.sender.fail(1, KeyError("never seen"))
    rig.sender.fail(99, KeyError("never seen"))
    rig.acknowledge(1)
    assert isinstance(waiter.exception(0), eda.Closed)
    assert rig.sender.n_pending == 0


def test_resend_when_pending_writes_the_same_bytes_again() -> None:
    rig = Rig()
    for n in range(3):
        rig.publish(eda.Event(id=f"id-{n}", data=eda.Bytes(bytes([n]) * 1000)))
    frames = rig.flush()
    for seq in (1, 2, 3):
        rig.sender.resend(seq, 5.0)
    assert rig.flush() == frames
    rig.acknowledge(2)
    for seq in (3, 2, 1, 0, 99):
        rig.sender.resend(seq, 5.0)
    again = rig.flush()
    assert again.count(b"HPUB") == 2
    assert again.index(b"id-2") < again.index(b"id-0")
    assert rig.sender.defer(1, 0) == 3


def test_resend_when_not_written_yet_or_cancelled_writes_nothing_more() -> None:
    rig = Rig()
    rig.publish()
    waiter = rig.publish()[1]
    rig.sender.resend(1, 5.0)
    assert rig.flush().count(b"HPUB") == 2
    waiter.cancel()
    rig.sender.resend(1, 5.0)
    rig.sender.resend(2, 5.0)
    assert rig.flush().count(b"HPUB") == 1


def test_publish_when_there_is_no_connection_is_sent_when_there_is_one() -> None:
    rig = Rig()
    rig.out.set_write(None)
    rig.publish(eda.Event(id="kept"))
    assert rig.flush() == b""
    rig.out.set_write(rig.writes.append)
    assert rig.flush() == b""
    rig.sender.resend(1, 5.0)
    assert b"kept" in rig.flush()


def after(seconds: float, call: Callable[[], Any]) -> Any:
    time.sleep(seconds)
    return call()


def test_due_when_time_passes_tells_what_to_do_and_when_next() -> None:
    rig = Rig()
    rig.publish(resend_s=0.2, give_up_s=0.6)
    rig.publish(resend_s=5, give_up_s=30)
    rig.flush()
    resend, give_up, next_s = rig.sender.due()
    assert (resend, give_up) == ([], [])
    assert next_s is not None
    assert 0 < next_s <= 0.2
    resend, give_up, next_s = after(0.21, rig.sender.due)
    assert (resend, give_up) == ([1], [])
    # The event that is sent again is given up before its next try is due.
    assert next_s is not None
    assert 0 < next_s <= 0.4
    rig.sender.resend(1, 5.0)
    resend, give_up, next_s = after(0.4, rig.sender.due)
    assert (resend, give_up) == ([], [1])
    rig.sender.fail(1, eda.Timeout("publish", 1))
    resend, give_up, next_s = rig.sender.due()
    assert (resend, give_up) == ([], [])
    assert next_s is not None
    assert 3 < next_s <= 5


def test_due_when_a_waiter_was_cancelled_gives_it_up() -> None:
    rig = Rig()
    rig.publish()[1].cancel()
    rig.publish()
    assert rig.sender.due()[:2] == ([], [1])


def test_due_when_deferred_comes_up_later() -> None:
    rig = Rig()
    rig.publish(resend_s=0.001)
    assert after(0.005, rig.sender.due)[0] == [1]
    assert rig.sender.defer(1, 0.2) == 1
    assert rig.sender.due()[0] == []
    assert after(0.21, rig.sender.due)[0] == [1]
    assert rig.sender.defer(99, 1) == 0


def test_subject_and_size_when_asked_are_those_of_the_frame() -> None:
    rig = Rig()
    rig.publish(eda.Event(type="a b", aggregate="x", data=eda.Bytes(b"\n" * 500)))
    assert (rig.sender.subject_of(1), rig.sender.size_of(1)) == ("", 0)
    frame = rig.flush()
    assert rig.sender.subject_of(1) == "orders.a%20b.x"
    assert rig.sender.size_of(1) == int(frame.split(b"\r\n")[0].split()[-1])
    rig.acknowledge(1)
    assert (rig.sender.subject_of(1), rig.sender.size_of(1)) == ("", 0)
