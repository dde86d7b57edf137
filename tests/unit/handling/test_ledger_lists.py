"""Lists of eda.handling._ledger_ordered beside a plain model of them, over random histories."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import eda
from eda._codec import decode_event, encode_event
from eda.handling._ledger_ordered import OrderedLedger

EVENT = encode_event(eda.Event(type="t"))
FIRST_SLOTS = 256
END_OF_TIME = 2**64 - 1

numbers = st.integers(0, 10**6)
# What becomes of each event of a list, in any order.
ends = st.lists(st.tuples(numbers, st.sampled_from(["done", "done", "back", "retry", "dead"])), max_size=8)


def new_event() -> eda.Event:
    return decode_event(EVENT)


class ListsMachine(RuleBasedStateMachine):
    """`rest` is what is left of the list taken last, `fresh` what follows: sequences in order. `running`: by slot."""

    @initialize(position=st.integers(0, 2**40))
    def begin(self, position: int) -> None:
        self.ledger = OrderedLedger()
        self.ledger.drop(position)
        self.now_ns = 1
        self.position = self.highest = position
        self.fresh: list[int] = []
        self.rest: list[int] = []
        self.running: dict[int, int] = {}
        self.orphans: list[int] = []
        self.retrying: dict[int, int] = {}
        self.judged: set[int] = set()  # their dead letters could not be stored
        self.slots: dict[int, int] = {}  # by sequence

    def add_one(self, step: int) -> None:
        self.highest += step
        self.slots[self.highest] = self.ledger.add(new_event(), self.highest, self.now_ns)
        self.fresh.append(self.highest)

    @rule(steps=st.lists(st.sampled_from([1, 1, 1, 3, 2**30]), max_size=12))
    def add(self, steps: list[int]) -> None:
        for step in steps:
            self.add_one(step)

    @precondition(lambda self: len(self.fresh) < FIRST_SLOTS)
    @rule()
    def add_many(self) -> None:
        for _ in range(FIRST_SLOTS + 10):
            self.add_one(1)

    @rule(step=st.integers(1, 3))
    def pass_over(self, step: int) -> None:
        self.highest += step
        self.ledger.pass_over(self.highest)

    @rule(most=st.sampled_from([1, 2, 3, 7, 1000]))
    def take(self, most: int) -> None:
        may_take = not (self.running or self.orphans or self.retrying)
        assert self.ledger.awaits_rest() == (not may_take or bool(self.rest))
        slots = self.ledger.take_list(most)
        expected: list[int] = []
        if may_take:
            for seq in self.rest or self.fresh:
                if len(expected) == most or (expected and seq in self.judged):
                    break
                expected.append(seq)
                if seq in self.judged:
                    break
        assert slots == [self.slots[seq] for seq in expected]
        self.running = dict(zip(slots, expected, strict=True)) if may_take else self.running
        if expected and not self.rest:
            self.rest = list(expected)
            del self.fresh[: len(expected)]

    @rule(ends=ends)
    def end(self, ends: list[tuple[int, str]]) -> None:
        for number, how in ends:
            if self.orphans:
                slot = self.orphans.pop(number % len(self.orphans))
                self.end_slot(slot, how)
            elif self.running:
                slot = list(self.running)[number % len(self.running)]
                self.note_end(slot, self.running.pop(slot), how)

    @rule(delay_ns=st.sampled_from([0, 5, 5, 20]), how=st.sampled_from(["done", "back", "retry"]))
    def end_all(self, delay_ns: int, how: str) -> None:
        for slot in self.orphans:
            self.end_slot(slot, how)
        self.orphans = []
        for slot in [*self.running][::-1]:
            self.note_end(slot, self.running.pop(slot), how, delay_ns)

    def end_slot(self, slot: int, how: str, delay_ns: int = 10) -> None:
        if how == "done":
            self.ledger.finish(slot)
        elif how == "back":
            self.ledger.put_back(slot)
        else:
            verdict = ValueError("x") if how == "dead" else None
            self.ledger.retry(slot, self.now_ns + delay_ns, new_event(), verdict)

    def note_end(self, slot: int, seq: int, how: str, delay_ns: int = 10) -> None:
        self.end_slot(slot, how, delay_ns + seq % 3)
        if how == "done":
            self.rest.remove(seq)
            self.judged.discard(seq)
        elif how in {"retry", "dead"}:
            self.retrying[seq] = self.now_ns + delay_ns + seq % 3
            if how == "dead":
                self.judged.add(seq)

    @rule(passed_ns=st.integers(0, 15))
    def take_due(self, passed_ns: int) -> None:
        self.now_ns += passed_ns
        self.ledger.take_due(self.now_ns)
        self.retrying = {seq: due for seq, due in self.retrying.items() if due > self.now_ns}

    @rule(position=st.integers(0, 2**41), back=st.booleans())
    def drop(self, position: int, back: bool) -> None:
        first = min((*self.rest, *self.fresh), default=self.highest + 1)
        self.highest = self.position = first - 1 if back else position
        self.ledger.drop(self.position)
        self.orphans += list(self.running)
        self.running = {}
        self.retrying = {}
        self.judged = set()
        self.rest, self.fresh = [], []

    @invariant()
    def is_like_the_model(self) -> None:
        ledger = self.ledger
        left = [*self.rest, *self.fresh]
        assert ledger.highest == self.highest
        assert ledger.n_running == len(self.running) + len(self.orphans)
        assert ledger.n_retrying == len(self.retrying)
        assert ledger.n_waiting == len(left) - len(self.running) - len(self.retrying)
        # What the position promises: an event at or before it is never needed again.
        assert ledger.position < min(left) if left else ledger.position == self.highest

    def teardown(self) -> None:
        """What is left is delivered in order, however it was broken off."""
        if not hasattr(self, "ledger"):
            return
        for slot in (*self.orphans, *self.running):
            self.ledger.put_back(slot)
        self.ledger.take_due(END_OF_TIME)
        left = [*self.rest, *self.fresh]
        taken: list[int] = []
        position = self.ledger.position
        while slots := self.ledger.take_list(5):
            for slot in slots[::-1]:
                self.ledger.finish(slot)
            assert self.ledger.position > position
            position = self.ledger.position
            taken += slots
        assert taken == [self.slots[seq] for seq in left]
        assert self.ledger.position == self.highest
        assert self.ledger.n_held == 0


ListsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestLists = ListsMachine.TestCase
