"""Commands on cached aggregates without a server, beside publishes of the same events.

Each runs from the call to the result: the frame is written into memory, and its acknowledgement is made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import eda
from eda.publishing._message_sender import MessageSender
from eda.publishing._stream_sender import Destination
from eda.publishing._window import PublishWindow
from eda.store._cache import Cache, Cached
from eda.store._single import Singles
from eda.store.core import StoreCore
from eda.store.turns import Turns
from eda.transport._frame import Parser
from eda.transport._loop_check import LoopCheck
from eda.transport._outbound import Outbound
from eda.transport._waits import Waits
from eda.transport.loops import running_loop
from macro.store.orders import Add, Added, Command, Order, decider
from micro import Maker, Round

__all__ = ["CONTENDERS", "N_EVENTS"]

N_EVENTS = 1000
STREAM = "orders"
INBOX = b"_INBOX.sink0000000000000000000."
NAMES = [f"order-{n}" for n in range(N_EVENTS)]


class _Future(Future[None]):
    """The one future that is made."""

    def get_loop(self) -> None:
        """Return no event loop: none runs."""


class Line:
    """A stream on a connection whose server is made up: it acknowledges all that is written."""

    def __init__(self) -> None:
        self.out = Outbound(lambda: None)
        self.out.set_write(lambda _: None)
        # It makes one future, and is not asked for more: the acknowledgements come before somebody waits.
        loop: Any = SimpleNamespace(create_future=_Future)
        waits = Waits(loop, lambda _: None, asyncio.CancelledError)
        self.sender = MessageSender(
            PublishWindow(1 << 20), self.out, INBOX, "bench", lambda *_: None, waits, lambda _: None
        )
        self.sender.timer_runs = True
        self.publisher = self
        self.destination = Destination(STREAM, 1 << 20)
        self.usual_s = 30.0
        self.n_acknowledged = 0
        self.parser = Parser()
        self.parser.register(1, self.sender)

    def run(self, begin: Callable[[int], Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run a coroutine for each event, all at once, and return their results."""
        under_way = [begin(n) for n in range(N_EVENTS)]
        for each in under_way:
            each.send(None)
        self.out.flush()
        answers = []
        for _ in under_way:
            self.n_acknowledged += 1
            seq = self.n_acknowledged
            payload = b'{"stream":"orders","seq":%d}' % seq
            answers.append(b"MSG %b%d 1 %d\r\n%b\r\n" % (INBOX, seq, len(payload), payload))
        self.parser.feed(b"".join(answers))
        results = []
        for each in under_way:
            try:
                each.send(None)
            except StopIteration as end:
                results.append(end.value)
        return results


class _Core:
    """The parts of a store that a cached command needs."""

    snapshots = None
    sent = StoreCore.sent

    class opened:
        name = STREAM
        is_unfit = False

    epoch = 0

    def __init__(self, line: Line, known: eda.Decider[Order, Command]) -> None:
        self.parts = self
        self.turns = Turns()
        cache = Cache(N_EVENTS)
        for name in NAMES:
            cache.put(name, Cached(known.new_state(), 1, 1, "id"))
        self.singles = Singles(
            LoopCheck(None, running_loop),  # type: ignore[arg-type]
            self.opened, self, {STREAM: line}, "bench", known, cache, self.turns.taken,
        )  # fmt: skip


def eda_execute() -> Round:
    line, known = Line(), decider()
    store: eda.EventStore[Order, Command] = eda.EventStore(STREAM, None, 10, known)  # type: ignore[arg-type]
    store._core = core = _Core(line, known)  # type: ignore[assignment]
    store._singles = core.singles
    number = iter(range(1 << 60))
    return Round(lambda: line.run(lambda n: store.execute(NAMES[n], Add(), command_id=f"req-{next(number)}")), N_EVENTS)


def eda_publish() -> Round:
    line = Line()

    async def publish(n: int) -> eda.Receipt:
        event = eda.Event(data=Added(), aggregate=NAMES[n])
        event_id, waiter = line.sender.send(line.destination, event, 30.0)
        return eda.Receipt(event_id, STREAM, await waiter, 0, False)

    return Round(lambda: line.run(publish), N_EVENTS)


CONTENDERS: dict[str, Maker] = {maker.__name__: maker for maker in (eda_execute, eda_publish)}
