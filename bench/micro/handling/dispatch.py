"""From bytes to the handler and the acknowledgement, without a server, beside a plain loop over ready-made events.

The worker is driven by hand: no event loop, whose turns would be counted too, and no clock that decides on them.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from typing import Any

import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from eda.handling._dispatch import Dispatcher
from eda.jetstream.subjects import subject_of
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from micro import Maker, Round
from micro.codec import DATA, EVENT

__all__ = ["CONTENDERS", "N_DISPATCH", "dispatched", "frames_of", "make_event"]

N_DISPATCH = 1000
STREAM = "consume"


def make_event(n: int) -> eda.Event:
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 10_000}", data=eda.Bytes(DATA))


def full_event(n: int) -> eda.Event:
    """With every field set, as the message that protobuf builds."""
    return EVENT.replace(aggregate=f"sensor-{n % 10_000}")


class _Waiter:
    """What a worker waits on when it has nothing to do: a future without a loop."""

    def __init__(self) -> None:
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, _: None) -> None:
        self._done = True

    def __await__(self) -> Generator[None, None, None]:
        while not self._done:
            yield


class _Host:
    """The host and source of a dispatcher without a server."""

    def __init__(self) -> None:
        self.dispatcher: Dispatcher | None = None
        self.n_pulls = 0

    def make_future(self) -> _Waiter:
        return _Waiter()

    def pull(self, n: int, n_bytes: int) -> None:
        """There is nobody to ask, but the credit is used as if there were."""
        if self.dispatcher is not None:
            self.n_pulls += 1
            self.dispatcher.credit.grant(self.n_pulls, n, n_bytes)

    def on_progress(self) -> None:
        """There is no cursor."""


def frames_of(events: list[eda.Event]) -> bytes:
    """Return deliveries as the server writes them, numbered from 1."""
    frames = []
    for seq, event in enumerate(events, 1):
        event_id = event.id or next_nuid()
        envelope = encode_event(event, event_id, "bench", time.time_ns())
        reply = b"$JS.ACK.%s.me.1.%d.%d.%d.0" % (STREAM.encode(), seq, seq, time.time_ns())
        headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % event_id.encode()
        sizes = b"%d %d" % (len(headers), len(headers) + len(envelope))
        frames.append(
            b"HMSG %s 1 %s %s\r\n%s%s\r\n"
            % (subject_of(STREAM, event.type, event.aggregate).encode(), reply, sizes, headers, envelope)
        )
    return b"".join(frames)


async def handle(event: eda.Event) -> None:
    _ = event.type, event.data


async def handle_unread(event: eda.Event) -> None:
    """Read nothing: what it takes to get here is asked."""


def dispatched(handler: Any, data: bytes, *, ordered: bool = False, **options: Any) -> Round:
    """Parse, decode, hand to the handler, acknowledge into the buffer; ordered: move the position instead.

    A round settles all its sequences, so the same ones can come again. `options`: more of the dispatcher's.
    """
    written: list[int] = [0]
    out = Outbound(lambda: None)
    out.set_write(lambda chunk: written.__setitem__(0, written[0] + chunk.count(b"PUB $JS.ACK.")))
    host: Any = _Host()
    dispatcher = Dispatcher(
        host, host, handler, out, stream=STREAM, consumer="me", inbox=b"_INBOX.me.", limit=4096, limit_bytes=1 << 30,
        ordered=ordered, **options,
    )  # fmt: skip
    host.dispatcher = dispatcher
    dispatcher.credit.refill()
    parser = Parser()
    parser.register(1, dispatcher.intake)
    worker: Coroutine[Any, Any, None] = dispatcher.work(0)
    worker.send(None)

    def run() -> tuple[int, int]:
        handled = dispatcher.outcomes.n_handled + N_DISPATCH
        written[0] = 0
        if ordered:
            dispatcher.begin_at(0)
            dispatcher.intake.use_reader("me", 0)
            dispatcher.credit.refill()
        parser.feed(data)
        while dispatcher.outcomes.n_handled < handled:
            worker.send(None)
        out.flush()
        return dispatcher.n_held, written[0]

    return Round(run, N_DISPATCH)


def eda_dispatch() -> Round:
    return dispatched(handle, frames_of([make_event(n) for n in range(N_DISPATCH)]))


def eda_to_handler() -> Round:
    return dispatched(handle_unread, frames_of([full_event(n) for n in range(N_DISPATCH)]))


def plain_await() -> Round:
    events = [make_event(n) for n in range(N_DISPATCH)]

    async def loop() -> tuple[int, int]:
        for event in events:
            await handle(event)
        return 0, N_DISPATCH

    def run() -> tuple[int, int]:
        try:
            loop().send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError("the handler waits for something")

    return Round(run, N_DISPATCH)


CONTENDERS: dict[str, Maker] = {maker.__name__: maker for maker in (eda_dispatch, eda_to_handler, plain_await)}
