"""Holding deliveries until they are handled, beside plain Python: dictionary, deque, a list per delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from eda._codec import decode_event, encode_event
from eda._event import Event
from eda.handling._ledger import SharedLedger
from eda.handling._ledger_ordered import OrderedLedger
from micro import Maker, Round
from micro.codec import EVENT

__all__ = ["CONTENDERS", "N_HELD"]

N_HELD = 256
KEYS = [f"sensor-{n % 64}" for n in range(N_HELD)]

EVENTS = [decode_event(encode_event(EVENT.replace(aggregate=key))) for key in KEYS]
SIZE = len(encode_event(EVENTS[0]))

Ends = tuple[int, int]


# --- shared: found by sequence, for redeliveries ---------------------------------------------------------------------


def eda_shared() -> Round:
    ledger = SharedLedger()
    seq = 0

    def run() -> Ends:
        nonlocal seq
        for event in EVENTS:
            seq += 1
            if ledger.lookup(seq) < 0:
                ledger.add(event, seq, 1)
        n = 0
        while (slot := ledger.take_ready()) >= 0:
            ledger.finish(slot)
            n += 1
        return n, ledger.n_held

    return Round(run, N_HELD)


WAITING, RUNNING = range(2)


class DictLedger:
    """Deliveries by sequence: [event, sequence, state, when the lease began, bytes]."""

    def __init__(self) -> None:
        self.held: dict[int, list[Any]] = {}
        self.ready: deque[list[Any]] = deque()
        self.n_waiting = self.n_running = self.n_bytes = 0

    def lookup(self, seq: int) -> list[Any] | None:
        return self.held.get(seq)

    def add(self, event: Event, seq: int, now_ns: int) -> None:
        self.held[seq] = entry = [event, seq, WAITING, now_ns, SIZE]
        self.ready.append(entry)
        self.n_waiting += 1
        self.n_bytes += SIZE

    def take_ready(self) -> list[Any] | None:
        if not self.ready:
            return None
        entry = self.ready.popleft()
        entry[2] = RUNNING
        self.n_waiting -= 1
        self.n_running += 1
        return entry

    def finish(self, entry: list[Any]) -> None:
        del self.held[entry[1]]
        self.n_running -= 1
        self.n_bytes -= entry[4]


def dict_shared() -> Round:
    ledger = DictLedger()
    seq = 0

    def run() -> Ends:
        nonlocal seq
        for event in EVENTS:
            seq += 1
            if ledger.lookup(seq) is None:
                ledger.add(event, seq, 1)
        n = 0
        while (entry := ledger.take_ready()) is not None:
            ledger.finish(entry)
            n += 1
        return n, len(ledger.held)

    return Round(run, N_HELD)


# --- ordered: the done prefix moves, events of one key wait for each other -------------------------------------------


def eda_ordered() -> Round:
    ledger = OrderedLedger()
    seq = 0

    def run() -> Ends:
        nonlocal seq
        for event, key in zip(EVENTS, KEYS, strict=True):
            seq += 1
            ledger.add_keyed(event, seq, 1, key)
        n = 0
        while (slot := ledger.take_ready()) >= 0:
            ledger.finish(slot)
            n += 1
        return n, seq - ledger.position

    return Round(run, N_HELD)


class OrderedDictLedger(DictLedger):
    """The same in stream order, with a lane for each key whose first delivery alone is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.order: deque[int] = deque()
        self.lanes: dict[str, deque[list[Any]]] = {}
        self.position = 0

    def add_keyed(self, event: Event, seq: int, now_ns: int, key: str) -> None:
        self.held[seq] = entry = [event, seq, WAITING, now_ns, SIZE, key]
        self.order.append(seq)
        self.n_waiting += 1
        self.n_bytes += SIZE
        lane = self.lanes.get(key)
        if lane is None:
            self.lanes[key] = deque((entry,))
            self.ready.append(entry)
        else:
            lane.append(entry)

    def finish(self, entry: list[Any]) -> None:
        super().finish(entry)
        lane = self.lanes[entry[5]]
        lane.popleft()
        if lane:
            self.ready.append(lane[0])
        else:
            del self.lanes[entry[5]]
        while self.order and self.order[0] not in self.held:
            self.position = self.order.popleft()


def dict_ordered() -> Round:
    ledger = OrderedDictLedger()
    seq = 0

    def run() -> Ends:
        nonlocal seq
        for event, key in zip(EVENTS, KEYS, strict=True):
            seq += 1
            ledger.add_keyed(event, seq, 1, key)
        n = 0
        while (entry := ledger.take_ready()) is not None:
            ledger.finish(entry)
            n += 1
        return n, seq - ledger.position

    return Round(run, N_HELD)


_MAKERS: tuple[Callable[[], Round], ...] = (eda_shared, dict_shared, eda_ordered, dict_ordered)
CONTENDERS: dict[str, Maker] = {maker.__name__: maker for maker in _MAKERS}
