"""Drives _publish.PublisherCore without a server or a loop: its frames are read from memory, its answers made up."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from eda._codec import decode_event
from eda._data import Bytes
from eda._event import Event
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound

__all__ = ["Host", "ModelHost", "Rig", "Written", "events", "placed"]

_LINE = re.compile(rb"(H?)PUB (\S+) (\S+) (?:(\d+) )?(\d+)\r\n")


class Written(NamedTuple):
    """A publish as it went out."""

    subject: str
    reply: str
    header: bytes
    payload: bytes

    @property
    def id(self) -> str:
        return decode_event(self.payload).id

    @property
    def place(self) -> tuple[int, int]:
        """Its sequence in the batch and its operation."""
        seq, operation = self.reply.split(".")[-3:-1]
        return int(seq), int(operation)


def read_written(data: bytes) -> list[Written]:
    """Take apart what a client writes."""
    found = []
    at = 0
    while at < len(data):
        line = _LINE.match(data, at)
        assert line is not None, data[at : at + 80]
        body = line.end()
        n_header, n_total = int(line[4] or 0), int(line[5])
        assert bool(line[1]) == bool(n_header)
        assert data[body + n_total : body + n_total + 2] == b"\r\n"
        found.append(
            Written(
                line[2].decode(), line[3].decode(), data[body : body + n_header], data[body + n_header : body + n_total]
            )
        )
        at = body + n_total + 2
    return found


class Host:
    """Notes what an PublisherCore tells."""

    def __init__(self) -> None:
        self.n_room = self.n_flushed = self.n_probed = 0
        self.flows: list[int] = []
        self.answers: list[tuple[str, int, int, bytes]] = []
        self.acknowledged: Counter[str] = Counter()
        self.sequences: list[int] = []
        self.receipts: list[tuple[Any, int]] = []
        self.n_opened = self.n_closed = 0

    def on_pack_opened(self) -> None:
        self.n_opened += 1

    def on_pack_closed(self) -> None:
        self.n_closed += 1

    def on_receipt(self, receipt: Any, sequence: int) -> None:
        self.receipts.append((receipt, sequence))

    def on_room(self) -> None:
        self.n_room += 1

    def on_flushed(self) -> None:
        self.n_flushed += 1

    def on_probed(self) -> None:
        self.n_probed += 1

    def on_flow(self, n_messages: int) -> None:
        self.flows.append(n_messages)

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        self.answers.append(("window", seq, status, payload))

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        self.answers.append(("batch", seq, status, payload))

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        self.acknowledged[event_id] += 1
        self.sequences.append(sequence)


def events(n: int, *, start: int = 0, size: int = 0) -> list[Event]:
    return [Event(id=f"e{i}", type="t", data=Bytes(bytes(size))) for i in range(start, start + n)]


class Rig:
    """An PublisherCore to stream `s` with everything around it written out; with `packs`, a PackingCore."""

    def __init__(
        self,
        *,
        host: Any = None,
        packs: dict[str, Any] | None = None,
        max_pending: int = 1000,
        max_bytes: int = 2**20,
        **options: Any,
    ) -> None:
        self.host = host or Host()
        self._data: list[bytes] = []
        self.out = Outbound(lambda: None)
        self.out.set_write(self._data.append)
        make: Any = PublisherCore if packs is None else PackingCore
        self.core: Any = make(
            self.host,
            self.out,
            Destination("s", options.pop("max_payload", 2**20), options.pop("domain", ""), options.pop("check", None)),
            b"inbox.",
            "me",
            dedup=options.pop("dedup", True),
            wants_acks=options.pop("wants_acks", True),
            max_pending=max_pending,
            max_bytes=max_bytes,
            give_up_s=options.pop("give_up_s", 30.0),
            **(packs or {}),
        )
        assert not options
        self.parser = Parser()
        self.parser.register(1, self.core)
        self.batch = ""
        self._n_batches = 0

    # --- doing -------------------------------------------------------------------------------------------------------

    def accept(self, n: int = 1, **options: Any) -> list[str]:
        """Accept new events; returns their ids."""
        return [self.core.accept(event) for event in events(n, start=self.core.n_accepted, **options)]

    def window(self) -> None:
        """Begin anew in window mode, without a probe."""
        self.core.rewind()
        self.core.use_window_mode()
        self.core.start_writing()

    def begin_batch(self, *, alone: bool = False, flow: int = 10) -> None:
        """Begin a batch: its first event is written."""
        self.core.rewind()
        self._n_batches += 1
        self.batch = f"inbox.b{self._n_batches}.{flow}.fail"
        self.core.begin_batch(f"b{self._n_batches}".encode(), flow)
        self.core.write_oldest(alone)

    def batch_open(self) -> None:
        """Begin a batch, and have it flow."""
        self.begin_batch()
        self.core.start_writing()

    def connect(self, connected: bool = True) -> None:
        self.out.set_write(self._data.append if connected else None)

    def written(self) -> list[Written]:
        """Return what was written since the last call."""
        self.out.flush()
        data = b"".join(self._data)
        self._data.clear()
        return read_written(data)

    # --- answers -----------------------------------------------------------------------------------------------------

    def tell(self, subject: str, payload: bytes, header: bytes = b"") -> None:
        """Let a message arrive."""
        if header:
            line = b"HMSG %b 1 %d %d\r\n" % (subject.encode(), len(header), len(header) + len(payload))
        else:
            line = b"MSG %b 1 %d\r\n" % (subject.encode(), len(payload))
        assert self.parser.feed(line + header + payload + b"\r\n") is None

    def acknowledge(self, seq: int, stream_seq: int = 7, stream: str = "s", domain: str = "") -> None:
        """Window: acknowledge one event, after what was to be written is."""
        self.out.flush()
        name = f'{stream}","domain":"{domain}' if domain else stream
        self.tell(f"inbox.{seq}", b'{"stream":"%b", "seq":%d}' % (name.encode(), stream_seq))

    def flow(self, n: int, messages: int = 10, *, batch: str = "") -> None:
        """Fast ingest: acknowledge the first `n` of the batch."""
        self.tell(f"{batch or self.batch}.{max(n, 1)}.1.$FI", b'{"type":"ack","seq":%d,"msgs":%d}' % (n, messages))


def placed(rig: Rig) -> list[tuple[int, int]]:
    """Return the places in the batch, and operations, of what was written since the last call."""
    return [each.place for each in rig.written()]


class ModelHost(Host):
    """A host that sets the limit after a flow acknowledgement, as the pump does."""

    rig: Rig

    def on_flow(self, n_messages: int) -> None:
        super().on_flow(n_messages)
        self.rig.core.set_limit(n_messages * 8)
