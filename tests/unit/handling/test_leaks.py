"""Ledgers and dispatchers give back what they took: 100,000 events through every way that one may end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda.handlers import GivenBack
from eda.handling._ledger import SharedLedger
from eda.handling._ledger_ordered import OrderedLedger
from leaks import MAX_BLOCKS, MAX_RSS, References, growth, resident
from support.handling.dispatching import Rig, delivery, settle
from support.packs import envelopes_of
from support.reference import bytes_field

N = 100_000
AT_ONCE = 500
PAYLOADS = [encode_event(eda.Event(type="t" * 100, aggregate=str(n), data=eda.Bytes(bytes(100)))) for n in range(50)]
EVENT = decode_event(PAYLOADS[0])
ENVELOPES = envelopes_of(eda.Event(type="t" * 100, data=eda.Bytes(bytes(100))) for _ in range(4))
PACK = b"".join(bytes_field(15, envelope) for envelope in ENVELOPES)
SPOILT_PACK = b"".join(bytes_field(15, envelope) for envelope in (ENVELOPES[0], b"\xff", *ENVELOPES[1:]))


class Flow:
    """Events through a rig that keeps nothing of them, until none is held any more."""

    def __init__(
        self,
        rig: Rig,
        change: Callable[[Rig], None] | None = None,
        turn: Callable[[Rig], None] | None = None,
        **parts: Any,
    ) -> None:
        self.rig = rig
        self.change = change  # once, when the handlers have begun
        self.turn = turn  # in every turn of the loop
        self.parts = parts
        self.seq = 0

    async def run(self, n: int) -> None:
        rig = self.rig
        for _ in range(n // AT_ONCE):
            for _ in range(AT_ONCE):
                self.seq += 1
                rig.deliver(self.seq, **{"payload": PAYLOADS[self.seq % 50]} | self.parts)
            if self.change is not None:
                await settle()
                self.change(rig)
            while rig.dispatcher.n_held or rig.dispatcher.n_running:
                await asyncio.sleep(0)
                rig.dispatcher.take_due()
                if self.turn is not None:
                    self.turn(rig)
            rig.flush()
            for kept in (rig.seen, rig.failures, rig.undecodable, rig.dead_letters, rig.retries, rig.asked, rig.pulls):
                kept.clear()
            rig.records.clear()
            rig.misfits.clear()


def nothing(events: Any) -> None:
    pass


async def asynchronous(events: Any) -> None:
    await asyncio.sleep(0)


def failing_once(event: eda.Event) -> None:
    if event.attempt == 1:
        raise ValueError(event)


def rejecting(event: eda.Event) -> None:
    raise eda.Reject("never")


def misfit(event: eda.Event) -> None:
    raise eda.DecodeError("json", "no", event_id=event.id)


def misfits_without_id(events: list[eda.Event]) -> None:
    """Fail for each batch, and for each second event that is alone."""
    if len(events) > 1 or events[0].sequence % 2:
        raise eda.DecodeError("json", "no")


def failing_in_part(events: list[eda.Event]) -> None:
    if events[0].attempt == 1:
        raise eda.PartialFailure({event: ValueError(event) for event in events[::2]})


def bad_key(event: eda.Event) -> Any:
    return [] if event.sequence % 2 else event.aggregate


class Given:
    """A handler that gives each event back once."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, event: eda.Event) -> None:
        if event.sequence > self.last:
            self.last = event.sequence
            raise GivenBack


async def waiting(event: eda.Event) -> None:
    if event.attempt == 1:
        await asyncio.get_running_loop().create_future()


def time_out(rig: Rig) -> None:
    """Cancel every handler that runs, as the watch does."""
    for index in range(rig.concurrency):
        rig.dispatcher.cancel_overdue(index)


def fence(rig: Rig) -> None:
    rig.dispatcher.fence()
    rig.dispatcher.lease.extend(2**64 - 1)


def begin(rig: Rig) -> None:
    rig.dispatcher.begin_at(rig.dispatcher.highest, 0)
    rig.read_anew()


def give_back_waiting(rig: Rig) -> None:
    rig.dispatcher.outcomes.give_back_waiting()


def redeliver_packs(rig: Rig) -> None:
    for seq in range(rig.dispatcher.outcomes.last_seq + 1, rig.dispatcher.outcomes.last_seq + 100):
        rig.deliver(seq, payload=PACK, attempt=2)


def redeliver(rig: Rig) -> None:
    for seq in range(rig.dispatcher.outcomes.last_seq + 1, rig.dispatcher.outcomes.last_seq + 200):
        rig.feed(*delivery(seq, 2), PAYLOADS[0])


async def resting(event: eda.Event) -> None:
    await asyncio.sleep(0)


def reading(event: eda.Event) -> None:
    assert (event.id, event.headers["a"], event.subject) == ("x", "b", "orders.t._")


def reading_and_failing_once(event: eda.Event) -> None:
    reading(event)
    failing_once(event)


async def failing_once_after_a_turn(event: eda.Event) -> None:
    await asyncio.sleep(0)
    if event.attempt == 1 and event.index == 1:
        raise ValueError(event)


PACKS = {"payload": PACK}
FOREIGN = {"headers": b"NATS/1.0\r\nNats-Msg-Id: x\r\na: b\r\n\r\n"}
SCHEDULE = {"headers": b"NATS/1.0\r\nNats-Schedule: @at 2030-01-01T00:00:00Z\r\n\r\n"}

PATHS: dict[str, dict[str, Any]] = {
    "shared": {"handler": nothing},
    "shared-foreign": {"handler": reading, "parts": FOREIGN},
    "shared-schedules": {"handler": nothing, "parts": SCHEDULE},
    "shared-asynchronous": {"handler": asynchronous, "concurrency": 5},
    "shared-batch": {"handler": nothing, "batch": 30},
    "shared-failing": {"handler": failing_once},
    "shared-timed-out": {"handler": waiting, "concurrency": 50, "turn": time_out},
    "shared-batch-failing": {"handler": failing_in_part, "batch": 30},
    "shared-rejecting": {"handler": rejecting},
    "shared-misfit": {"handler": misfit},
    "shared-batch-misfits": {"handler": misfits_without_id, "batch": 30},
    "shared-undecodable": {"handler": nothing, "parts": {"payload": b"\xff" * 200}},
    "shared-filtered": {"handler": nothing, "types": ["x"]},
    "shared-suspect": {"handler": nothing, "max_attempts": 1, "parts": {"attempt": 2}},
    "shared-exhausted": {"handler": nothing, "max_attempts": 1, "parts": {"attempt": 2}, "record": -1},
    "shared-redelivered": {"handler": resting, "change": redeliver},
    "shared-given-back": {"handler": Given()},
    "shared-packs": {"handler": nothing, "parts": PACKS},
    "shared-packs-failing": {"handler": failing_once_after_a_turn, "concurrency": 5, "parts": PACKS},
    "shared-packs-failing-on-record": {"handler": failing_once_after_a_turn, "max_attempts": 3, "parts": PACKS},
    "shared-packs-rejecting": {"handler": rejecting, "parts": PACKS},
    "shared-packs-spoilt": {"handler": nothing, "parts": {"payload": SPOILT_PACK}},
    "shared-packs-suspect": {"handler": nothing, "max_attempts": 1, "parts": {**PACKS, "attempt": 2}},
    "shared-packs-filtered": {"handler": nothing, "types": ["x"], "parts": PACKS},
    "shared-packs-given-back": {"handler": resting, "change": give_back_waiting, "parts": PACKS},
    "shared-packs-redelivered": {"handler": resting, "change": redeliver_packs, "parts": PACKS},
    "ordered": {"handler": nothing, "ordered": True},
    "ordered-foreign-failing": {"handler": reading_and_failing_once, "ordered": True, "parts": FOREIGN},
    "ordered-asynchronous": {"handler": asynchronous, "ordered": True, "concurrency": 5},
    "ordered-failing": {"handler": failing_once, "ordered": True},
    "ordered-timed-out": {"handler": waiting, "ordered": True, "concurrency": 50, "turn": time_out},
    "ordered-rejecting": {"handler": rejecting, "ordered": True},
    "ordered-misfit": {"handler": misfit, "ordered": True},
    "ordered-undecodable": {"handler": nothing, "ordered": True, "parts": {"payload": b"\xff" * 200}},
    "ordered-filtered": {"handler": nothing, "ordered": True, "types": ["x"]},
    "ordered-given-back": {"handler": Given(), "ordered": True},
    "ordered-fenced": {"handler": resting, "ordered": True, "concurrency": 5, "change": fence},
    "ordered-begun-anew": {"handler": resting, "ordered": True, "concurrency": 5, "change": begin},
    "serial": {"handler": asynchronous, "ordered": True, "serial": True},
    "serial-strict": {"handler": nothing, "ordered": True, "serial": True, "strict": True},
    "serial-failing": {"handler": failing_once, "ordered": True, "serial": True},
    "keyed": {"handler": asynchronous, "ordered": True, "key": "aggregate", "concurrency": 5},
    "keyed-failing": {"handler": failing_once, "ordered": True, "key": "aggregate", "concurrency": 5},
    "keyed-begun-anew": {
        "handler": resting, "ordered": True, "key": "aggregate", "concurrency": 5, "change": begin,
    },
    "keyed-badly": {"handler": nothing, "ordered": True, "key": bad_key, "kept": -1},
    "batch": {"handler": nothing, "ordered": True, "batch": 30},
    "batch-failing-in-part": {"handler": failing_in_part, "ordered": True, "batch": 30},
    "batch-misfits": {"handler": misfits_without_id, "ordered": True, "batch": 30},
    "batch-fenced": {"handler": resting, "ordered": True, "batch": 30, "concurrency": 5, "change": fence},
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_memory_when_100000_events_take_a_way_does_not_grow(path: dict[str, Any]) -> None:
    options = dict(path)
    handler, parts = options.pop("handler"), options.pop("parts", {})
    change, turn, delay_ns = options.pop("change", None), options.pop("turn", None), options.pop("kept", 0)
    record = options.pop("record", 0)
    rig = Rig(handler, limit=10**4, **options)
    rig.record_answer = record
    if delay_ns:
        rig.on_failure = lambda event, error: delay_ns  # type: ignore[method-assign]
    flow = Flow(rig, change, turn, **parts)
    await flow.run(5_000)
    gc.collect()
    references = References(handler, rig, rig.dispatcher, rig.dispatcher.ledger, rig.out, EVENT, *PAYLOADS)
    blocks, tracked, size = sys.getallocatedblocks(), len(gc.get_objects()), resident()
    await flow.run(N // 2 if parts.get("payload") is PACK else N)  # with packs, that is 200,000 events
    gc.collect()
    references.check()
    assert sys.getallocatedblocks() - blocks < MAX_BLOCKS
    assert len(gc.get_objects()) - tracked < MAX_BLOCKS
    assert resident() - size < MAX_RSS
    assert rig.dispatcher.ledger.n_bytes == 0
    await rig.end()


# --- what is made and goes -------------------------------------------------------------------------------------------


def shared_round() -> None:
    ledger = SharedLedger()
    for seq in range(1, 301):
        ledger.add(EVENT, seq, 0)
    ledger.renew(3, b"reply" * 10, 0)
    ledger.retry(ledger.take_ready(), 5, EVENT, ValueError("x"))
    ledger.finish(ledger.take_ready())
    for seq in range(1001, 1100):
        pack = ledger.add_pack(seq, b"reply %d" % seq, 1, 100, 0)
        ledger.add_of_pack(pack, EVENT, 0)
        ledger.mark_given_back(pack)
    ledger.renew(1001, b"later" * 10, 0)
    ledger.drop_waiting()


def ordered_round(serial: bool) -> None:
    ledger = OrderedLedger(serial=serial)
    for seq in range(1, 301):
        ledger.add_keyed(EVENT, seq, 0, seq % 7) if seq % 2 else ledger.add(EVENT, seq, 0)
    ledger.pass_over(400)
    ledger.retry(ledger.take_ready(), 5, EVENT, ValueError("x"))
    ledger.take_ready()
    ledger.drop(500)
    ledger.add_keyed(EVENT, 501, 0, "key")


def dispatcher_round(**options: Any) -> None:
    rig = Rig(nothing, start=False, concurrency=3, **options)
    rig.dispatcher.credit.refill()
    for seq in range(1, 6):
        rig.deliver(seq, payload=PAYLOADS[seq] if seq % 2 else b"\xff")
    work = rig.dispatcher.work(0)
    work.send(None)
    work.send(None)
    work.close()
    rig.dispatcher.running_now()
    rig.parser.register(1, None)


ROUNDS: dict[str, Callable[[], Any]] = {
    "shared-ledger": shared_round,
    "ordered-ledger": lambda: ordered_round(False),
    "serial-ledger": lambda: ordered_round(True),
}


@pytest.mark.parametrize("path", ROUNDS.values(), ids=ROUNDS)
def test_memory_when_ledgers_come_and_go_does_not_grow(path: Callable[[], Any]) -> None:
    blocks, tracked, size = growth(path, 3_000)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"ordered": True, "key": "aggregate"}], ids=repr)
async def test_memory_when_dispatchers_come_and_go_does_not_grow(options: dict[str, Any]) -> None:
    grown, sizes = [], [resident()]
    for _ in range(4):  # what leaks does so every time
        gc.collect()
        blocks = sys.getallocatedblocks()
        for _ in range(100):
            dispatcher_round(**options)
        gc.collect()
        grown.append(sys.getallocatedblocks() - blocks)
        sizes.append(resident())
    assert min(grown) < 50
    assert min(after - before for before, after in itertools.pairwise(sizes)) < MAX_RSS // 4
