"""The ledger of a shared subscription beside a plain model, over random histories of messages and packs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import eda
from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._pack import stored_events
from eda.handling._ledger import SharedLedger
from support.packs import pack_of

PAYLOAD = pack_of([eda.Event(type="t" * (n + 1)) for n in range(40)])
EVENTS: list[Event] = [event for event in stored_events(PAYLOAD, "s", 1, 1) if event is not None]
SINGLE = decode_event(encode_event(eda.Event(type="t")))
N_SINGLE = len(encode_event(eda.Event(type="t")))
WAITING, RUNNING, RETRYING = "waiting", "running", "retrying"

numbers = st.integers(0, 10**6)
# Some meet in the hash table, some are far apart.
sequences = st.one_of(st.integers(1, 40), st.integers(1, 2**64 - 1), numbers.map(lambda n: 1 + (n << 22)))


@dataclass(eq=False)
class Pack:
    seq: int
    entry: int
    size: int
    is_open: bool = True
    is_given_back: bool = False


@dataclass(eq=False)
class Held:
    seq: int
    index: int
    slot: int
    pack: Pack | None
    state: str = WAITING
    due_ns: int = 0

    @property
    def place(self) -> tuple[int, int]:
        return self.seq, self.index


@settings(max_examples=100, stateful_step_count=60, deadline=None)
class Machine(RuleBasedStateMachine):
    """Whoever uses the ledger forgets a pack when its last event is done, as Outcomes does."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = SharedLedger()
        self.packs: list[Pack] = []
        self.held: list[Held] = []
        self.ready: list[Held] = []
        self.now_ns = 1

    def of(self, *states: str) -> list[Held]:
        return [each for each in self.held if each.state in states]

    def events_of(self, pack: Pack) -> list[Held]:
        return [each for each in self.held if each.pack is pack]

    def is_held(self, seq: int) -> bool:
        return any(each.seq == seq for each in (*self.held, *self.packs))

    def hold(self, held: Held) -> None:
        assert held.slot not in {each.slot for each in self.held}
        self.held.append(held)
        self.ready.append(held)

    @rule(seq=sequences)
    def add(self, seq: int) -> None:
        if not self.is_held(seq):
            self.hold(Held(seq, 0, self.ledger.add(SINGLE, seq, self.now_ns), None))

    @rule(seq=sequences, n=st.integers(0, len(EVENTS)), n_delivered=st.integers(1, 9), closes=st.booleans())
    def add_pack(self, seq: int, n: int, n_delivered: int, closes: bool) -> None:
        if self.is_held(seq):
            return
        size = len(PAYLOAD)
        pack = Pack(seq, self.ledger.add_pack(seq, b"reply %d" % seq, n_delivered, size, self.now_ns), size)
        assert pack.entry not in {each.entry for each in self.packs}
        self.packs.append(pack)
        for event in EVENTS[:n]:
            self.hold(Held(seq, event.index, self.ledger.add_of_pack(pack.entry, event, self.now_ns), pack))
        if closes:
            self.close(pack)

    @precondition(lambda self: any(pack.is_open for pack in self.packs))
    @rule(number=numbers)
    def close_one(self, number: int) -> None:
        """Whether other members want the pack is known by now."""
        found = [pack for pack in self.packs if pack.is_open]
        self.close(found[number % len(found)])

    def close(self, pack: Pack) -> None:
        pack.is_open = False
        assert self.ledger.let_go(pack.entry) == (not self.events_of(pack))
        self.forget_if_done(pack)

    def forget_if_done(self, pack: Pack) -> None:
        if not pack.is_open and not self.events_of(pack):
            self.ledger.forget_pack(pack.entry)
            self.packs.remove(pack)

    @rule()
    def take(self) -> None:
        slot = self.ledger.take_ready()
        if not self.ready:
            assert slot == -1
            return
        held = self.ready.pop(0)
        assert slot == held.slot
        held.state = RUNNING

    @precondition(lambda self: self.of(RUNNING))
    @rule(number=numbers, what=st.sampled_from(["finish", "finish", "put back", "retry"]), delay_ns=st.integers(0, 50))
    def end(self, number: int, what: str, delay_ns: int) -> None:
        found = self.of(RUNNING)
        held = found[number % len(found)]
        if what == "finish":
            self.ledger.finish(held.slot)
            self.held.remove(held)
            if held.pack is not None:
                self.forget_if_done(held.pack)
        elif what == "put back":
            self.ledger.put_back(held.slot)
            held.state = WAITING
            self.ready.insert(0, held)
        else:
            event = SINGLE if held.pack is None else EVENTS[held.index]
            self.ledger.retry(held.slot, self.now_ns + delay_ns, event, None)
            held.state, held.due_ns = RETRYING, self.now_ns + delay_ns

    @rule(passed_ns=st.integers(0, 40))
    def take_due(self, passed_ns: int) -> None:
        self.now_ns += passed_ns
        due = sorted((held for held in self.of(RETRYING) if held.due_ns <= self.now_ns), key=lambda held: held.place)
        assert self.ledger.take_due(self.now_ns) == len(due)
        for held in due:
            held.state = WAITING
        self.ready[:0] = due

    @precondition(lambda self: self.packs)
    @rule(picked=st.sets(numbers, max_size=3))
    def give_back(self, picked: set[int]) -> None:
        packs = {id(pack): pack for pack in (self.packs[n % len(self.packs)] for n in picked)}
        for pack in packs.values():
            pack.is_given_back = True
            self.ledger.mark_given_back(pack.entry)
        self.ledger.drop_waiting()
        dropped = [held for held in self.of(WAITING, RETRYING) if held.pack is not None and held.pack.is_given_back]
        self.held = [held for held in self.held if held not in dropped]
        self.ready = [held for held in self.ready if held not in dropped]
        for pack in [pack for pack in self.packs if pack.is_given_back]:
            self.forget_if_done(pack)

    @rule(number=numbers)
    def renew(self, number: int) -> None:
        known = [*self.held, *self.packs]
        seq = known[number % len(known)].seq if known and number % 3 else number
        assert self.ledger.renew(seq, b"later %d" % number, self.now_ns) == self.is_held(seq)

    @invariant()
    def counts(self) -> None:
        ledger = self.ledger
        assert ledger.n_held == len(self.held)
        assert ledger.n_ready() == len(self.ready)
        assert ledger.n_waiting == len(self.of(WAITING))
        assert ledger.n_running == len(self.of(RUNNING))
        assert ledger.n_retrying == len(self.of(RETRYING))
        assert ledger.packs.n_held == len(self.packs)
        singles = [held for held in self.held if held.pack is None]
        assert ledger.n_bytes == len(singles) * N_SINGLE + sum(pack.size for pack in self.packs)
        assert ledger.held_packs() == [pack.entry for pack in sorted(self.packs, key=lambda pack: pack.seq)]
        oldest = min(self.of(RUNNING, RETRYING), key=lambda held: held.place, default=None)
        busy = ledger.running_since()
        if oldest is None:
            assert busy is None
        else:
            seq, index = oldest.place
            assert busy
            assert busy[0] == (f"{seq}" if oldest.pack is None else f"{seq}.{index}")

    @invariant()
    def is_found(self) -> None:
        for pack in self.packs:
            assert self.ledger.lookup_pack(pack.seq) == pack.entry
            assert self.ledger.lookup(pack.seq) == -1
        for held in self.held:
            if held.pack is None:
                assert self.ledger.lookup(held.seq) == held.slot
                assert self.ledger.lookup_pack(held.seq) == -1
        for seq in range(1, 40):
            if not self.is_held(seq):
                assert self.ledger.lookup(seq) == self.ledger.lookup_pack(seq) == -1


TestPacks = Machine.TestCase


def test_ledger_when_it_has_many_packs_without_events_finds_them_all() -> None:
    """As when all of their events are done, and it is not known whether other members want the packs."""
    ledger = SharedLedger()
    entries = [ledger.add_pack(seq, b"reply", 1, 10, 1) for seq in range(1, 5000)]
    assert [ledger.lookup_pack(seq) for seq in range(1, 5000)] == entries
    for seq, entry in enumerate(entries, 1):
        assert ledger.let_go(entry)
        ledger.forget_pack(entry)
        assert ledger.lookup_pack(seq) == -1
    assert (ledger.packs.n_held, ledger.n_bytes) == (0, 0)


def test_ledger_when_it_goes_with_packs_gives_back_what_it_holds() -> None:
    events = [event for event in stored_events(PAYLOAD, "s", 1, 1) if event is not None]
    reply, later = b"reply %d" % len(events), b"later %d" % len(events)
    error = ValueError("x")
    held: list[Any] = [*events, reply, later, error]
    before = [sys.getrefcount(each) for each in held]
    ledger = SharedLedger()
    entry = ledger.add_pack(1, reply, 1, len(PAYLOAD), 1)
    for event in events:
        ledger.add_of_pack(entry, event, 1)
    del event
    ledger.renew(1, later, 2)
    ledger.finish(ledger.take_ready())
    ledger.retry(ledger.take_ready(), 10, events[1], error)
    ledger.take_ready()
    del ledger
    assert [sys.getrefcount(each) for each in held] == before
