"""A dispatcher between a parser that is fed by hand and an outbound whose writes are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import eda
from eda._codec import encode_event
from eda.errors import DecodeError
from eda.handlers import PartialFailure, Reject, refuse_result
from eda.handling._dispatch import Dispatcher
from eda.handling.misfits import find_misfits
from eda.handling.running_handler import note_task
from eda.handling.verdicts import Exhausted, Misfit, Suspect, Undecodable
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound

__all__ = ["Rig", "delivery", "settle"]

Acknowledgement = tuple[bytes, bytes]


def delivery(
    seq: int, attempt: int = 1, time_ns: int = 1, pending: int = 0, consumer_seq: int | None = None
) -> tuple[bytes, bytes]:
    """Return subject and reply subject of a delivery of the stream `orders` to the consumer `me`."""
    numbers = (attempt, seq, seq if consumer_seq is None else consumer_seq, time_ns, pending)
    return b"orders.t._", b"$JS.ACK.orders.me.%d.%d.%d.%d.%d" % numbers


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """A dispatcher with its workers running; is its host and its source.

    With `hold` each event's handler waits until `release(sequence)`; for a later event of a pack, `release((sequence,
    index))`. With `ordered` there is a reader from the start.
    """

    def __init__(
        self,
        handler: Any = None,
        *,
        hold: bool = False,
        limit: int = 100,
        limit_bytes: int = 10**6,
        concurrency: int = 1,
        start: bool = True,
        **options: Any,
    ) -> None:
        self.writes: list[bytes] = []
        self.seen: list[eda.Event] = []
        self.held: dict[int | tuple[int, int], asyncio.Future[None]] = {}
        self.failures: list[tuple[eda.Event, BaseException]] = []
        self.misfits: list[int] = []
        self.undecodable: list[tuple[int, DecodeError]] = []
        self.statuses: list[tuple[int, bytes, bytes]] = []
        self.pulls: list[tuple[int, int]] = []
        self.overruns: list[tuple[eda.Event, float]] = []
        self.dead_letters: list[tuple[eda.Event, bytes, BaseException]] = []
        self.dead_letter_delay_ns = -1
        self.openings: list[int] = []  # of the circuit
        self.records: list[tuple[str, int]] = []  # of suspects
        self.record_answer = 0
        self.retries: list[float] = []
        self.positions: list[int] = []
        self.asked: list[int] = []
        self.asked_places: list[tuple[int, int]] = []
        self.confirmation = asyncio.Event()
        self.confirmation.set()
        self.gaps: list[tuple[int, int]] = []
        self.unreadable: list[Exception] = []
        self.parts_gone: list[int] = []  # the position then
        self.n_delivered: int | None = 0 if options.get("ordered") else None  # of the reader
        self.out = Outbound(lambda: None)
        self.out.set_write(self.writes.append)
        self.dispatcher = Dispatcher(
            self, self, handler or (self._hold if hold else self.seen.append), self.out,
            stream="orders", consumer="me", inbox=b"_INBOX.me.", limit=limit, limit_bytes=limit_bytes,
            concurrency=concurrency, **options,
        )  # fmt: skip
        self.parser = Parser()
        self.parser.register(1, self.dispatcher.intake)
        self.tasks: list[asyncio.Task[None]] = []
        self.concurrency = concurrency
        if start:
            self.start()

    def start(self) -> None:
        """Start the workers."""
        for index in range(self.concurrency):
            self.tasks.append(asyncio.ensure_future(self.dispatcher.work(index)))
            self.dispatcher.set_task(index, self.tasks[index])
            note_task(self.tasks[index], self.dispatcher, index)

    async def _hold(self, event: eda.Event) -> None:
        self.seen.append(event)
        place = (event.sequence, event.index) if event.index else event.sequence
        self.held[place] = asyncio.get_running_loop().create_future()
        try:
            await self.held[place]
        finally:
            del self.held[place]

    def release(self, *seqs: int | tuple[int, int]) -> None:
        """Let the handlers of these events return, now or when they are called."""
        for seq in seqs:
            self.held[seq].set_result(None)

    # --- in ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def frame(subject: bytes, reply: bytes, payload: bytes, headers: bytes = b"") -> bytes:
        """Return a message as the server sends it to subscription 1."""
        parts = [b"HMSG" if headers else b"MSG", subject, b"1", reply]
        sizes = [len(headers)] * bool(headers) + [len(headers) + len(payload)]
        line = b" ".join([part for part in parts if part] + [b"%d" % size for size in sizes])
        return line + b"\r\n" + headers + payload + b"\r\n"

    def feed(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes = b"") -> int:
        """Feed a message; returns what it counts against a pull's max_bytes."""
        assert self.parser.feed(self.frame(subject, reply, payload, headers)) is None
        return len(subject) + len(reply) + len(payload) + len(headers)

    def deliver(
        self,
        *seqs: int,
        attempt: int = 1,
        event: eda.Event | None = None,
        payload: bytes | None = None,
        headers: bytes = b"",
        **parts: int,
    ) -> int:
        """Feed deliveries; returns what they count against a pull's max_bytes."""
        if payload is None:
            event = event or eda.Event(type="t")
            payload = encode_event(event, "" if event.type else "i1")  # no envelope is without both
        size = 0
        for seq in seqs:
            if self.n_delivered is not None:
                self.n_delivered += 1
                parts["consumer_seq"] = self.n_delivered
            size += self.feed(*delivery(seq, attempt, **parts), payload, headers)
        return size

    def read_anew(self) -> None:
        """Ordered: have a new reader deliver from now on."""
        self.dispatcher.intake.use_reader("me", 0)
        self.n_delivered = 0

    @property
    def seqs(self) -> list[int]:
        """The sequences of the events that handlers got, in order."""
        return [event.sequence for event in self.seen]

    # --- out ---------------------------------------------------------------------------------------------------------

    def flush(self) -> list[Acknowledgement]:
        """Write what waits; returns all publishes written so far, as (subject, payload)."""
        self.out.flush()
        data = b"".join(self.writes)
        self.writes.clear()
        found: list[Acknowledgement] = []
        while data:
            line, _, data = data.partition(b"\r\n")
            verb, subject, n = line.split(b" ")
            assert verb == b"PUB"
            found.append((subject, data[: int(n)]))
            assert data[int(n) : int(n) + 2] == b"\r\n"
            data = data[int(n) + 2 :]
        return found

    async def end(self) -> None:
        """End the workers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # --- host and source ---------------------------------------------------------------------------------------------

    def make_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def make_future_within(self, seconds: float) -> asyncio.Future[None]:
        future = self.make_future()
        asyncio.get_running_loop().call_later(seconds, lambda: future.done() or future.set_result(None))
        return future

    def cancelled_error(self) -> BaseException:
        return asyncio.CancelledError()

    def refuse(self, result: object) -> BaseException | None:
        return refuse_result(result)

    def overdue_error(self, event: eda.Event, error: BaseException | None) -> BaseException:
        return TimeoutError("overdue")

    def on_overrun(self, event: eda.Event, seconds: float) -> None:
        self.overruns.append((event, seconds))

    def errors_of(self, events: list[eda.Event], error: BaseException) -> list[BaseException | None]:
        misfits = find_misfits(events, error)
        if misfits is not None:
            return [*misfits]
        if isinstance(error, PartialFailure):
            return [error.error_of(event) for event in events]
        return [error] * len(events)

    def on_failure(self, event: eda.Event, error: BaseException) -> int:
        if isinstance(error, Misfit):
            self.misfits.append(event.sequence)
            return -1
        if isinstance(error, Undecodable):
            assert isinstance(error.__cause__, DecodeError)
            self.undecodable.append((event.sequence, error.__cause__))
            return -1
        self.failures.append((event, error))
        return -1 if isinstance(error, Exhausted | Reject) else 250

    def on_failures(self, events: Sequence[eda.Event], errors: Sequence[BaseException]) -> list[int]:
        return [self.on_failure(event, error) for event, error in zip(events, errors, strict=True)]

    def is_failure(self, errors: Sequence[BaseException]) -> bool:
        return any(not isinstance(error, Undecodable | Exhausted | Reject) for error in errors)

    def on_circuit(self, n_openings: int) -> None:
        self.openings.append(n_openings)

    async def store_dead_letter(self, event: eda.Event, payload: bytes, error: BaseException) -> int:
        self.dead_letters.append((event, payload, error))
        return self.dead_letter_delay_ns

    async def try_on_record(self, event: eda.Event, suspect: Suspect) -> int:
        self.records.append(("begin", event.sequence))
        await asyncio.sleep(0)
        return self.record_answer

    async def end_record(self, event: eda.Event, suspect: Suspect, is_begun: bool) -> None:
        self.records.append(("end", event.sequence))
        await asyncio.sleep(0)

    def end_records(self, sequence: int, is_acknowledged: bool) -> None:
        self.records.append(("end all" if is_acknowledged else "forget all", sequence))

    def on_retry(self, delay_s: float) -> None:
        self.retries.append(delay_s)

    def on_progress(self) -> None:
        self.positions.append(self.dispatcher.position)

    async def confirmed(self, seq: int, idx: int) -> None:
        self.asked.append(seq)
        self.asked_places.append((seq, idx))
        await self.confirmation.wait()

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        self.statuses.append((status, tail, headers))

    def on_gap(self, expected: int, got: int) -> None:
        self.gaps.append((expected, got))

    def on_unreadable(self, error: Exception) -> None:
        self.unreadable.append(error)

    def on_part_gone(self) -> None:
        self.parts_gone.append(self.dispatcher.position)

    def pull(self, n: int, n_bytes: int) -> None:
        self.pulls.append((n, n_bytes))
        self.dispatcher.credit.grant(len(self.pulls), n, n_bytes)
