"""Fuzz target: what comes to the inboxes of publishers: acknowledgements, flow messages, refusals, statuses.

The first byte says what is published how; a message is `<rest of the subject>\\0<headers><payload>`.
"""

from __future__ import annotations

import re

from eda._data import Bytes
from eda._event import Event
from eda.jetstream.publish_answers import decode_answer
from eda.publishing._stream_sender import Destination, StreamSender
from eda.publishing._window import PublishWindow
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from fuzz.cuts import messages
from support.publishing.publisher_core import Rig

__all__ = ["check"]

N_EVENTS = 4
SUBJECT = re.compile(rb"[^ \t\r\n]+")
ACK = re.compile(rb'\{"stream":"s"(?:, *)?(?:"domain":""(?:, *)?)?"seq": *([0-9]{1,19})(?=[,} ])(.*)', re.DOTALL)
DUPLICATE = re.compile(rb'[, ]*"duplicate": *true.', re.DOTALL)
FLOW = re.compile(rb'\{"type":"ack","seq":([0-9]{1,19}),"msgs":([0-9]{1,19})\}', re.DOTALL)
EVENTS = [Event(id=f"e{i}", type="t", data=Bytes(b"x")) for i in range(N_EVENTS)]


def acknowledged(headers: bytes, payload: bytes) -> int:
    """The sequence in a plain acknowledgement of stream `s`, as slow code reads it; 0 for anything else.

    Negative where the stream had the id already.
    """
    found = ACK.match(payload) if not headers and len(payload) >= 20 else None
    seq = int(found[1]) if found and b'"domain":' not in found[2] else 0
    return 0 if seq >= 2**63 else -seq if found and DUPLICATE.match(found[2]) else seq


def number(text: bytes) -> int:
    """The number of a reply subject; -1 where it is none."""
    return int(text) if re.fullmatch(rb"[0-9]{1,19}", text) and int(text) < 2**63 else -1


def arrived(subject: bytes, headers: bytes, payload: bytes) -> bytes:
    sizes = b"%d %d" % (len(headers), len(headers) + len(payload)) if headers else b"%d" % len(payload)
    return (b"HMSG " if headers else b"MSG ") + subject + b" 1 " + sizes + b"\r\n" + headers + payload + b"\r\n"


def check(data: bytes) -> None:
    """An event is settled by its own plain acknowledgement and by nothing else, and only once."""
    mode, rest = (data[0] % 3, data[1:]) if data else (0, b"")
    for _, headers, payload in messages(rest):
        check_answer(payload, headers)
    (check_single, check_window, check_batch)[mode](rest)


def check_answer(payload: bytes, headers: bytes) -> None:
    for status in (0, 503):
        answer = decode_answer(status, payload)
        if answer is not None:
            assert min(answer.seq, answer.count, answer.msgs) >= 0
            if answer.error is not None:
                assert isinstance(str(answer.error.as_error("s")), str)
                kinds = {answer.error.is_transient, answer.error.bars_batches, answer.error.is_of_ended_batch}
                assert kinds <= {True, False}


class Waiter:
    """What a future is to the sender."""

    def __init__(self) -> None:
        self.results: list[int] = []

    def done(self) -> bool:
        return bool(self.results)

    def set_result(self, result: int) -> None:
        self.results.append(result)


_parser = Parser()


def check_single(data: bytes) -> None:
    out = Outbound(lambda: None)
    out.set_write(lambda written: None)
    answers: list[tuple[int, int, bytes]] = []
    window = PublishWindow(16)
    sender = StreamSender(window, out, b"inbox.", "me", lambda *answer: answers.append(answer))
    waiters = {seq: Waiter() for seq in range(1, N_EVENTS + 2)}
    for seq, event in enumerate(EVENTS, 1):
        sender.publish(Destination("s", 2**20), event, waiters[seq], 5.0, 30.0)
    out.flush()
    sender.publish(Destination("s", 2**20), EVENTS[0], waiters[N_EVENTS + 1], 5.0, 30.0)  # not handed over yet
    _parser.reset()
    _parser.register(1, sender)  # type: ignore[arg-type]
    wanted: dict[int, int] = {}
    n_answers = 0
    for tail, headers, payload in messages(data):
        if not SUBJECT.fullmatch(tail):
            continue
        seq = number(tail)
        if 1 <= seq <= N_EVENTS and seq not in wanted:
            stream_seq = acknowledged(headers, payload)
            if stream_seq:
                wanted[seq] = stream_seq
            else:
                n_answers += 1
        assert _parser.feed(arrived(b"inbox." + tail, headers, payload)) is None
    assert {seq: each.results for seq, each in waiters.items() if each.results} == {
        seq: [stream_seq] for seq, stream_seq in wanted.items()
    }
    assert len(answers) == n_answers
    assert window.n_pending == N_EVENTS + 1 - len(wanted) == len(window.pending())


def check_window(data: bytes) -> None:
    rig = Rig()
    rig.window()
    rig.accept(N_EVENTS)
    rig.written()
    settled: set[int] = set()
    n_answers = 0
    for tail, headers, payload in messages(data):
        if not SUBJECT.fullmatch(tail):
            continue
        seq = number(tail)
        if 1 <= seq <= N_EVENTS and seq not in settled:
            if acknowledged(headers, payload):
                settled.add(seq)
            else:
                n_answers += 1
        assert rig.parser.feed(arrived(b"inbox." + tail, headers, payload)) is None
    assert rig.host.acknowledged == {f"e{seq - 1}": 1 for seq in settled}
    assert len(rig.host.answers) == n_answers
    check_counts(rig, len(settled))


def check_batch(data: bytes) -> None:
    rig = Rig()
    rig.accept(N_EVENTS)
    rig.batch_open()
    rig.written()
    n_settled = n_answers = 0
    for tail, headers, payload in messages(data):
        if not SUBJECT.fullmatch(tail):
            continue
        place, dot, _ = tail.partition(b".")
        if dot and 0 <= number(place) <= N_EVENTS + 1:
            flow = FLOW.fullmatch(payload)
            if flow is None or max(int(flow[1]), int(flow[2])) >= 2**63:
                n_answers += 1
            elif int(flow[1]) <= N_EVENTS:
                n_settled = max(n_settled, int(flow[1]))
        assert rig.parser.feed(arrived(f"{rig.batch}.".encode() + tail, headers, payload)) is None
    assert len(rig.host.answers) == n_answers
    assert all(0 <= flow <= rig.core.max_pending for flow in rig.host.flows)
    check_counts(rig, n_settled)


def check_counts(rig: Rig, n_settled: int) -> None:
    assert rig.core.n_acknowledged == n_settled
    assert rig.core.n_pending == N_EVENTS - n_settled == len(rig.core.window.pending())
    assert rig.written() == []
