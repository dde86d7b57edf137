"""eda._acks through what drives it: window and ledger against a dictionary, over random histories."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eda
from dispatching import Rig, delivery, settle
from eda._acks import PublishWindow
from eda._frame import Outbound, Parser
from eda._send import Target, WindowSender


def test_window_when_made_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        PublishWindow(0)


class Window:
    """A publish window behind a sender, and the dictionary that it should be like."""

    def __init__(self, limit: int) -> None:
        self.out = Outbound(lambda: None)
        self.out.connected(lambda data: None)
        self.window = PublishWindow(limit)
        self.sender = WindowSender(self.window, self.out, b"in.", "me", lambda *answer: None)
        self.parser = Parser()
        self.parser.register(1, self.sender)
        self.target = Target("orders", 10**6)
        self.limit = limit
        self.next_seq = 1
        self.pending: dict[int, Future[int]] = {}
        self.sizes: dict[int, int] = {}

    def publish(self, size: int) -> None:
        assert self.sender.has_room == (self.next_seq - min(self.pending, default=self.next_seq) < self.limit)
        if self.sender.has_room:
            before = self.window.n_bytes
            waiter: Future[int] = Future()
            self.sender.publish(self.target, eda.Event(data=eda.Bytes(bytes(size))), waiter, 5.0, 30.0)
            self.pending[self.next_seq] = waiter
            self.sizes[self.next_seq] = self.window.n_bytes - before
            self.next_seq += 1

    def settle(self, seq: int, how: str) -> None:
        self.out.flush()
        waiter = self.pending.pop(seq, None)
        if how == "acknowledge":
            payload = b'{"stream":"orders","seq":%d}' % (seq + 1000)
            self.parser.feed(b"MSG in.%d 1 %d\r\n%s\r\n" % (seq, len(payload), payload))
            assert waiter is None or waiter.result(0) == seq + 1000
        else:
            self.sender.fail(seq, eda.Closed("it"))
            assert waiter is None or isinstance(waiter.exception(0), eda.Closed)

    def check(self) -> None:
        assert self.window.pending() == sorted(self.pending)
        assert self.window.n_pending == self.sender.n_pending == len(self.pending)
        assert self.window.n_bytes == sum(self.sizes[seq] for seq in self.pending)
        assert not any(waiter.done() for waiter in self.pending.values())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2000), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700), st.integers(0, 300)), max_size=60)
)
def test_window_when_driven_at_random_is_like_a_dictionary(limit: int, steps: list[tuple[int, int, int]]) -> None:
    window = Window(limit)
    for kind, number, size in steps:
        if kind <= 1:
            for _ in range(number if kind else 1):
                window.publish(size)
        else:
            window.settle(number, "acknowledge" if kind == 2 else "fail")
            for seq in list(window.pending)[: size // 4]:
                window.settle(seq, "acknowledge")
        window.check()
    for seq in random.sample(list(window.pending), len(window.pending)):
        window.settle(seq, "acknowledge")
    window.check()
    assert window.sender.has_room


# --- the ledger ------------------------------------------------------------------------------------------------------

Step = tuple[str, int, int]
# Sequences that meet in the ledger's hash table, and some that are far apart.
SEQS = st.one_of(st.integers(1, 40), st.integers(1, 2**63 - 1), st.integers(0, 40).map(lambda n: 1 + (n << 22)))
STEPS = st.lists(st.tuples(st.sampled_from(["deliver", "redeliver", "release", "release"]), SEQS, st.integers(0, 99)))


class Ledger:
    """A dispatcher whose handlers are held, and the dictionaries that its ledger should be like."""

    def __init__(self, concurrency: int) -> None:
        self.rig = Rig(hold=True, concurrency=concurrency, limit=10**6)
        self.concurrency = concurrency
        self.held: dict[int, bytes] = {}  # sequence > newest acknowledgement subject, in order of arrival
        self.attempts: dict[int, int] = {}
        self.n_handled = 0

    def running(self) -> list[int]:
        return list(self.held)[: self.concurrency]

    async def deliver(self, seq: int, *, again: bool) -> None:
        attempt = self.attempts.get(seq, 0) + 1
        if again and self.held:
            seq = list(self.held)[seq % len(self.held)]
            attempt = self.attempts[seq] + 1
        elif seq in self.held:
            return
        self.attempts[seq] = attempt
        self.rig.deliver(seq, attempt=attempt)
        self.held[seq] = delivery(seq, attempt)[1]
        await settle()

    async def release(self, number: int) -> None:
        running = self.running()
        if running:
            seq = running[number % len(running)]
            self.rig.release(seq)
            await settle()
            assert self.rig.flush() == [(self.held.pop(seq), b"")]
            self.n_handled += 1

    def check(self) -> None:
        dispatcher, running = self.rig.dispatcher, self.running()
        assert set(self.rig.held) == set(running)
        assert dispatcher.n_running == dispatcher.ledger.n_running == len(running)
        assert dispatcher.n_waiting == dispatcher.ledger.n_waiting == len(self.held) - len(running)
        assert dispatcher.n_held == dispatcher.ledger.n_held == len(self.held)
        assert dispatcher.n_handled == self.n_handled
        assert bool(dispatcher.ledger.n_bytes) == bool(self.held)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), STEPS)
def test_ledger_when_driven_at_random_is_like_a_dictionary(concurrency: int, steps: list[Step]) -> None:
    async def drive() -> None:
        ledger = Ledger(concurrency)
        await settle()
        for kind, seq, number in steps:
            if kind == "release":
                await ledger.release(number)
            else:
                await ledger.deliver(seq, again=kind == "redeliver")
            ledger.check()
        while ledger.held:
            await ledger.release(0)
        ledger.check()
        assert ledger.rig.dispatcher.ledger.n_bytes == 0
        await ledger.rig.end()

    asyncio.run(drive())


async def test_ledger_when_it_grows_keeps_what_it_holds_and_its_order() -> None:
    rig = Rig(hold=True, limit=10**6)
    seqs = random.sample(range(1, 10**9), 3000)
    rig.deliver(*seqs)
    rig.deliver(*seqs[::-1], attempt=2)
    await settle()
    assert (rig.dispatcher.n_held, rig.dispatcher.n_waiting) == (3000, 2999)
    for seq in seqs:
        rig.release(seq)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await settle()
    assert [event.sequence for event in rig.seen] == seqs
    assert rig.flush() == [(delivery(seq, 2)[1], b"") for seq in seqs]
    assert rig.dispatcher.ledger.n_bytes == 0
    await rig.end()
