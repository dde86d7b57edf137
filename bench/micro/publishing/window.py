"""Publishing at volume without a server: events into frames, window and buffer, and their acknowledgements.

Beside a window of plain Python (whose frames are made by our codec, so that only the window differs), and beside the
official protobuf package making nothing but the envelopes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from eda._codec import encode_event
from eda._data import Bytes
from eda._event import Event
from eda._nuid import next_nuid
from eda.publishing._columns import Columns
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._sending import Sender
from eda.publishing._stream_sender import Destination, frame_of
from eda.publishing.publisher import SEND_MANY
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from micro import Maker, Round
from micro.codec import DATA, EVENT, FIELDS, TIME_NS
from support.reference import Envelope

__all__ = ["CONTENDERS", "N_EVENTS"]

N_EVENTS = 1000
STREAM = "volume"
INBOX = b"_INBOX.sink0000000000000000000."
TARGET = Destination(STREAM, 1 << 20)
CAUSE, TRACE = FIELDS["cause"], FIELDS["meta"]["trace"]
IDS = [next_nuid() for _ in range(N_EVENTS)]
EVENTS = [EVENT.replace(id=event_id) for event_id in IDS]
VALUES = [FIELDS | {"id": event_id, "time": TIME_NS, "data": DATA, "encoding": "bytes"} for event_id in IDS]


class _Nobody:
    """The host of an PublisherCore whose server is made up."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


class Sink:
    """An PublisherCore (or, with packs, a PackingCore), a parser for its answers, and the last chunk that it wrote."""

    def __init__(self, **packs: Any) -> None:
        self.n_written = 0
        self.out = Outbound(lambda: None)
        self.out.set_write(self._write)
        self.core = (PackingCore if packs else PublisherCore)(
            _Nobody(), self.out, TARGET, INBOX, "bench",
            dedup=True, wants_acks=False, max_pending=4096, max_bytes=1 << 30, give_up_s=30.0, **packs,
        )  # fmt: skip
        self.parser = Parser()
        self.parser.register(1, self.core)

    def _write(self, data: bytes) -> None:
        self.n_written += len(data)


def message(reply: bytes, payload: bytes) -> bytes:
    return b"MSG %b 1 %d\r\n%b\r\n" % (reply, len(payload), payload)


def window_answers() -> bytes:
    return b"".join(
        message(INBOX + b"%d" % seq, b'{"stream":"volume","seq":%d}' % seq) for seq in range(1, N_EVENTS + 1)
    )


Ends = tuple[int, int, int]


def eda_window() -> Round:
    """One acknowledgement each; a new window each round, so that the answers can be made beforehand."""
    answers = window_answers()

    def run() -> Ends:
        sink = Sink()
        sink.core.use_window_mode()
        sink.core.start_writing()
        sink.core.accept_many(EVENTS, 0, [])
        sink.out.flush()
        sink.parser.feed(answers)
        return sink.core.n_acknowledged, sink.core.n_pending, sink.n_written

    return Round(run, N_EVENTS)


class DictWindow:
    """Publishes that wait for their acknowledgement, by number: [event, frame, deadline]."""

    def __init__(self) -> None:
        self.pending: dict[int, list[Any]] = {}
        self.buffer: list[bytes] = []
        self.n_bytes = self.n_acknowledged = self.seq = 0

    def accept(self, event: Event) -> str:
        self.seq += 1
        frame = frame_of(TARGET, event, INBOX, self.seq)
        self.pending[self.seq] = [event, frame, time.monotonic() + 30.0]
        self.n_bytes += len(frame)
        self.buffer.append(frame)
        return event.id

    def flush(self) -> bytes:
        data = b"".join(self.buffer)
        self.buffer.clear()
        return data

    def feed(self, data: bytes) -> None:
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            _, subject, _, size = data[at:end].split(b" ")
            at = end + 2 + int(size) + 2
            answer = json.loads(data[end + 2 : at - 2])
            entry = self.pending.pop(int(subject[len(INBOX) :]), None)
            if entry is not None and answer.get("stream") == STREAM:
                self.n_bytes -= len(entry[1])
                self.n_acknowledged += 1


def dict_window() -> Round:
    answers = window_answers()

    def run() -> Ends:
        window = DictWindow()
        for event in EVENTS:
            window.accept(event)
        n_written = len(window.flush())
        window.feed(answers)
        return window.n_acknowledged, len(window.pending), n_written

    return Round(run, N_EVENTS)


def _accept(sink: Sink, events: list[Event]) -> int:
    """Take the events into a fast-ingest batch, and its acknowledgement."""
    return _accept_by(sink, lambda core: core.accept_many(events, 0, []))


def _accept_by(sink: Sink, take: Callable[[PublisherCore], object]) -> int:
    """Let 1,000 events be taken into a fast-ingest batch, and its acknowledgement."""
    sink.core.begin_batch(b"batch", 500)
    sink.core.start_writing()
    take(sink.core)
    n = N_EVENTS
    reply = INBOX + b"batch.500.fail.%d.1.$FI" % n
    sink.parser.feed(message(reply, b'{"type":"ack","seq":%d,"msgs":500}' % n))
    return sink.core.n_pending


def eda_send_many() -> Round:
    """1,000 prepared events, fast ingest: what `send_many` does."""
    sink = Sink()
    return Round(lambda: _accept(sink, EVENTS), N_EVENTS)


def eda_build_and_send() -> Round:
    """From the construction of each event to its bytes in the buffer, and the acknowledgement of all."""
    sink = Sink()

    def run() -> int:
        return _accept(
            sink,
            [
                Event(
                    id=event_id, time=TIME_NS, data=Bytes(DATA), type="reading-recorded", schema="reading/1",
                    cause=CAUSE, client="sensor-gateway", aggregate="sensor-17",
                    meta={"tenant": "acme", "trace": TRACE},
                )
                for event_id in IDS
            ],
        )  # fmt: skip

    return Round(run, N_EVENTS)


def _accept_packed(sink: Sink, take: Callable[[PublisherCore], object]) -> int:
    """Take the events into packs of a fast-ingest batch, and its acknowledgement."""
    core = sink.core
    core.begin_batch(b"batch", 500)
    core.start_writing()
    take(core)
    core.close_pack()
    n = core.n_in_batch
    reply = INBOX + b"batch.500.fail.%d.1.$FI" % n
    sink.parser.feed(message(reply, b'{"type":"ack","seq":%d,"msgs":500}' % n))
    return core.n_pending


def eda_send_many_packed() -> Round:
    """1,000 prepared events in packs: what `send_many` does."""
    sink = Sink(max_events=128, max_pack_bytes=1 << 16)
    return Round(lambda: _accept_packed(sink, lambda core: core.accept_many(EVENTS, 0, [])), N_EVENTS)


def _build(event_id: str) -> Event:
    return Event(
        id=event_id, time=TIME_NS, data=Bytes(DATA), type="reading-recorded", schema="reading/1", cause=CAUSE,
        client="sensor-gateway", aggregate="sensor-17", meta={"tenant": "acme", "trace": TRACE},
    )  # fmt: skip


def eda_build_and_send_packed() -> Round:
    """From the construction of each event to its bytes in a pack, one by one, and the acknowledgement of all."""
    sink = Sink(max_events=128, max_pack_bytes=1 << 16)

    def take(core: PublisherCore) -> None:
        for event_id in IDS:
            core.accept_if_flowing(_build(event_id))

    return Round(lambda: _accept_packed(sink, take), N_EVENTS)


AGGREGATES = [f"sensor-{n % 100}" for n in range(N_EVENTS)]
PAYLOADS = [DATA] * N_EVENTS


class _Columns(Sender):
    """A publisher that sends a table with a column of aggregates and one of payloads."""

    def __init__(self, core: PublisherCore) -> None:
        self._core = core

    def take(self, _: object = None) -> None:
        given = dict.fromkeys(("id", "schema", "cause", "client"), "") | {"time": None, "meta": None}
        rows = Columns(given | {"type": "reading-recorded", "aggregate": AGGREGATES, "data": PAYLOADS})
        rows.accept(self, 0, [])


def _take_rows(core: PublisherCore) -> None:
    """Make the events of the same table on the way, as a generator for `send_many` does."""
    rows = zip(AGGREGATES, PAYLOADS, strict=True)
    events = (Event(type="reading-recorded", aggregate=aggregate, data=Bytes(data)) for aggregate, data in rows)
    ids: list[str] = []
    while part := list(islice(events, SEND_MANY)):
        core.accept_many(part, 0, ids)


def eda_send_columns() -> Round:
    """1,000 rows of a table, fast ingest: what `send_columns` does."""
    sink = Sink()
    return Round(lambda: _accept_by(sink, _Columns(sink.core).take), N_EVENTS)


def eda_send_rows() -> Round:
    """The same rows, as events for `send_many`."""
    sink = Sink()
    return Round(lambda: _accept_by(sink, _take_rows), N_EVENTS)


def eda_send_columns_packed() -> Round:
    """1,000 rows of a table in packs: what `send_columns` does."""
    sink = Sink(max_events=128, max_pack_bytes=1 << 16)
    return Round(lambda: _accept_packed(sink, _Columns(sink.core).take), N_EVENTS)


def eda_send_rows_packed() -> Round:
    """The same rows in packs, as events for `send_many`."""
    sink = Sink(max_events=128, max_pack_bytes=1 << 16)
    return Round(lambda: _accept_packed(sink, _take_rows), N_EVENTS)


def eda_build_and_encode() -> Round:
    """What each event costs without any publisher."""

    def run() -> int:
        for event_id in IDS:
            encode_event(_build(event_id))
        return 0

    return Round(run, N_EVENTS)


def protobuf_serialise() -> Round:
    messages = [Envelope(**value) for value in VALUES]

    def run() -> int:
        for each in messages:
            each.SerializeToString()
        return 0

    return Round(run, N_EVENTS)


def protobuf_build() -> Round:
    def run() -> int:
        for event_id in IDS:
            Envelope(
                id=event_id, time=TIME_NS, data=DATA, type="reading-recorded", schema="reading/1", encoding="bytes",
                cause=CAUSE, client="sensor-gateway", aggregate="sensor-17", meta={"tenant": "acme", "trace": TRACE},
            ).SerializeToString()  # fmt: skip
        return 0

    return Round(run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        eda_window, dict_window, eda_send_many, eda_build_and_send, eda_send_many_packed, eda_build_and_send_packed,
        eda_send_columns, eda_send_rows, eda_send_columns_packed, eda_send_rows_packed,
        eda_build_and_encode, protobuf_serialise, protobuf_build,
    )
}  # fmt: skip
