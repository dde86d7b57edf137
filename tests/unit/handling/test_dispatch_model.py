"""What _dispatch holds beside dictionaries, over random histories; _ledger by itself is in test_ledger.py."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from support.handling.dispatching import Rig, delivery, settle

Step = tuple[str, int, int]
# Sequences that meet in the ledger's hash table, and some that are far apart.
SEQS = st.one_of(st.integers(1, 40), st.integers(1, 2**63 - 1), st.integers(0, 40).map(lambda n: 1 + (n << 22)))
STEPS = st.lists(st.tuples(st.sampled_from(["deliver", "redeliver", "release", "release"]), SEQS, st.integers(0, 99)))


class Beside:
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
        assert dispatcher.outcomes.n_handled == self.n_handled
        assert bool(dispatcher.ledger.n_bytes) == bool(self.held)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), STEPS)
def test_dispatcher_when_driven_at_random_holds_what_a_dictionary_does(concurrency: int, steps: list[Step]) -> None:
    async def drive() -> None:
        beside = Beside(concurrency)
        await settle()
        for kind, seq, number in steps:
            if kind == "release":
                await beside.release(number)
            else:
                await beside.deliver(seq, again=kind == "redeliver")
            beside.check()
        while beside.held:
            await beside.release(0)
        beside.check()
        assert beside.rig.dispatcher.ledger.n_bytes == 0
        await beside.rig.end()

    asyncio.run(drive())


async def test_dispatcher_when_its_ledger_grows_keeps_what_it_holds_and_its_order() -> None:
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
