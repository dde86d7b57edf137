"""A dispatcher between a parser that is fed by hand and an outbound whose writes are kept."""

from __future__ import annotations

import asyncio
from typing import Any

import eda
from eda._codec import encode_event
from eda._dispatch import Dispatcher
from eda._frame import Outbound, Parser
from eda.errors import DecodeError

__all__ = ["Rig", "delivery", "settle"]

Acknowledgement = tuple[bytes, bytes]


def delivery(seq: int, attempt: int = 1, time_ns: int = 1, pending: int = 0) -> tuple[bytes, bytes]:
    """Return subject and reply subject of a delivery of the stream `orders` to the consumer `me`."""
    return b"orders.t._", b"$JS.ACK.orders.me.%d.%d.%d.%d.%d" % (attempt, seq, seq, time_ns, pending)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """A dispatcher with its workers running; is its host and its source.

    With `hold` each event's handler waits until `release(sequence)`.
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
        self.held: dict[int, asyncio.Future[None]] = {}
        self.failures: list[tuple[eda.Event, BaseException]] = []
        self.undecodable: list[tuple[int, DecodeError]] = []
        self.statuses: list[tuple[int, bytes, bytes]] = []
        self.pulls: list[tuple[int, int]] = []
        self.out = Outbound(lambda: None)
        self.out.connected(self.writes.append)
        self.dispatcher = Dispatcher(
            self, self, handler or (self._hold if hold else self.seen.append), self.out,
            stream="orders", consumer="me", inbox=b"_INBOX.me.", limit=limit, limit_bytes=limit_bytes,
            concurrency=concurrency, **options,
        )  # fmt: skip
        self.parser = Parser()
        self.parser.register(1, self.dispatcher)
        self.tasks: list[asyncio.Task[None]] = []
        for index in range(concurrency if start else 0):
            self.tasks.append(asyncio.ensure_future(self.dispatcher.work(index)))
            self.dispatcher.set_task(index, self.tasks[index])

    async def _hold(self, event: eda.Event) -> None:
        self.seen.append(event)
        self.held[event.sequence] = asyncio.get_running_loop().create_future()
        try:
            await self.held[event.sequence]
        finally:
            del self.held[event.sequence]

    def release(self, *seqs: int) -> None:
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
        self, *seqs: int, attempt: int = 1, event: eda.Event | None = None, payload: bytes | None = None, **parts: int
    ) -> int:
        """Feed deliveries; returns what they count against a pull's max_bytes."""
        if payload is None:
            payload = encode_event(event or eda.Event(type="t"))
        return sum(self.feed(*delivery(seq, attempt, **parts), payload) for seq in seqs)

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

    def on_undecodable(self, seq: int, error: DecodeError) -> None:
        self.undecodable.append((seq, error))

    def on_failure(self, event: eda.Event, error: BaseException) -> int:
        self.failures.append((event, error))
        return 250

    def overdue_error(self, event: eda.Event, error: BaseException | None) -> BaseException:
        return TimeoutError("overdue")

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        self.statuses.append((status, tail, headers))

    def pull(self, n: int, n_bytes: int) -> None:
        self.pulls.append((n, n_bytes))
        self.dispatcher.grant(n, n_bytes)
