"""eda.handling._ledger beside a plain model of what it holds, over random histories."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import eda
from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._pack import stored_events
from eda.handling._ledger import Ledger, SharedLedger
from eda.handling._ledger_ordered import OrderedLedger
from eda.handling._outcome import attempted
from support.packs import pack_of

# Many small ones, and one that is large enough to be noticed in n_bytes.
EVENTS = [decode_event(encode_event(eda.Event(type="t" * n))) for n in (*range(1, 21), 5000)]
SIZES = [len(encode_event(event)) for event in EVENTS]
MOST_PACKED = 5  # events in a pack
PACKED = [event for event in stored_events(pack_of(EVENTS[:MOST_PACKED]), "s", 1, 1) if event is not None]
WAITING, RUNNING, RETRYING, DONE, ORPHAN = "waiting", "running", "retrying", "done", "orphan"
FIRST_SLOTS = 256

numbers = st.integers(0, 10**6)
parts = st.tuples(st.integers(0, 3), st.integers(1, 9))  # how much of which later pack is done
steps = st.one_of(st.just(1), st.integers(1, 5), st.integers(1, 2**40))  # from one sequence to the next


@dataclass(eq=False)
class Held:
    seq: int
    size: int
    state: str
    slot: int
    index: int = 0
    is_last: bool = True
    pack: int = 0  # number of its pack; its events share `size` bytes; 0: it has its own
    key: Any = None
    due_ns: int = 0
    since_ns: int = 0


def place(held: Held) -> tuple[int, int]:
    return held.seq, held.index


def text_of(held: Held) -> str:
    return f"{held.seq}.{held.index}" if held.pack else str(held.seq)


class Machine(RuleBasedStateMachine):
    """What both kinds have in common. `held` is in the order of arrival, `ready` in that of handing out."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Held] = []
        self.ready: list[Held] = []
        self.now_ns = 1
        self.n_added = 0

    def of(self, *states: str) -> list[Held]:
        return [each for each in self.held if each.state in states]

    def pick(self, number: int, *states: str) -> Held:
        found = self.of(*states)
        return found[number % len(found)]

    def note(self, slot: int, seq: int, size: int, key: Any = None, **place: Any) -> Held:
        assert slot not in {each.slot for each in self.held if each.state != DONE}
        held = Held(seq, size, WAITING, slot, key=key, since_ns=self.now_ns, **place)
        self.held.append(held)
        return held

    def done(self, held: Held) -> None:
        raise NotImplementedError

    @rule()
    def take(self) -> None:
        slot = self.ledger.take_ready()
        if not self.ready:
            assert slot == -1
            return
        held = self.ready.pop(0)
        assert slot == held.slot
        held.state = RUNNING

    @precondition(lambda self: self.of(RUNNING, ORPHAN))
    @rule(number=numbers)
    def finish(self, number: int) -> None:
        held = self.pick(number, RUNNING, ORPHAN)
        self.ledger.finish(held.slot)
        self.done(held)

    @precondition(lambda self: self.of(RUNNING, ORPHAN))
    @rule(number=numbers)
    def put_back(self, number: int) -> None:
        held = self.pick(number, RUNNING, ORPHAN)
        self.ledger.put_back(held.slot)
        if held.state == ORPHAN:
            self.done(held)
        else:
            held.state = WAITING
            self.ready.insert(0, held)

    @precondition(lambda self: self.of(RUNNING, ORPHAN))
    @rule(number=numbers, delay_ns=st.integers(0, 50), dead=st.booleans(), which=numbers)
    def retry(self, number: int, delay_ns: int, dead: bool, which: int) -> None:
        held = self.pick(number, RUNNING, ORPHAN)
        if held.pack:
            copy = attempted(PACKED[held.index], 2)
        else:
            event = next(event for event, size in zip(EVENTS, SIZES, strict=True) if size == held.size)
            copy = decode_event(encode_event(event))
        self.ledger.retry(held.slot, self.now_ns + delay_ns, copy, ValueError("x") if dead else None)
        if held.state == ORPHAN:
            self.done(held)
        else:
            held.state, held.due_ns = RETRYING, self.now_ns + delay_ns

    @rule(passed_ns=st.integers(0, 40))
    def take_due(self, passed_ns: int) -> None:
        self.now_ns += passed_ns
        due = sorted((held for held in self.of(RETRYING) if held.due_ns <= self.now_ns), key=place)
        assert self.ledger.take_due(self.now_ns) == len(due)
        for held in due:
            held.state = WAITING
        self.ready[:0] = due

    @invariant()
    def counts(self) -> None:
        ledger = self.ledger
        assert ledger.n_ready() == len(self.ready)
        self.check_n_held()
        assert ledger.n_waiting == len(self.of(WAITING))
        assert ledger.n_running == len(self.of(RUNNING, ORPHAN))
        assert ledger.n_retrying == len(self.of(RETRYING))
        kept = {held.pack or held: held.size for held in self.held if held.state != DONE}
        assert ledger.n_bytes == sum(kept.values())
        busy = self.of(RUNNING, RETRYING, ORPHAN)
        first = min(map(place, busy), default=None)
        # Two where it came again while an orphan has it.
        oldest = [(text_of(held), held.since_ns) for held in busy if place(held) == first]
        assert ledger.running_since() in (oldest or [None])

    def check_n_held(self) -> None:
        assert self.ledger.n_held == len(self.held)


@settings(max_examples=60, stateful_step_count=60, deadline=None)
class SharedMachine(Machine):
    ledger: SharedLedger

    @initialize()
    def begin(self) -> None:
        self.ledger = SharedLedger()
        self.gone: list[int] = []

    def add_one(self, seq: int, which: int) -> None:
        which %= len(EVENTS)
        if all(held.seq != seq for held in self.held):
            slot = self.ledger.add(EVENTS[which], seq, self.now_ns)
            self.ready.append(self.note(slot, seq, SIZES[which]))

    # Some meet in the hash table, some are far apart.
    @rule(
        seq=st.one_of(st.integers(1, 60), st.integers(1, 2**64 - 1), numbers.map(lambda n: 1 + (n << 22))),
        which=numbers,
    )
    def add(self, seq: int, which: int) -> None:
        self.add_one(seq, which)

    @precondition(lambda self: len(self.held) < 2 * FIRST_SLOTS)
    @rule(first=st.integers(1, 2**62), step=steps, which=numbers)
    def add_many(self, first: int, step: int, which: int) -> None:
        for n in range(FIRST_SLOTS + 10):
            self.add_one(first + n * step, which + n)

    @rule(number=numbers)
    def renew(self, number: int) -> None:
        if self.held and number % 3:
            held = self.pick(number, WAITING, RUNNING, RETRYING)
            assert self.ledger.renew(held.seq, b"reply %d" % number, self.now_ns)
            held.since_ns = self.now_ns
        elif all(held.seq != number for held in self.held):
            assert not self.ledger.renew(number, b"reply", self.now_ns)

    def done(self, held: Held) -> None:
        self.held.remove(held)
        self.gone.append(held.seq)

    @invariant()
    def is_found(self) -> None:
        seqs = {held.seq for held in self.held}
        assert all(self.ledger.lookup(held.seq) == held.slot for held in self.held)
        assert all(self.ledger.lookup(seq) == -1 for seq in self.gone[-50:] if seq not in seqs)


def stored_ns(seq: int) -> int:
    """When the event with that sequence was stored."""
    return seq * 3


@settings(max_examples=100, stateful_step_count=60, deadline=None)
class OrderedMachine(Machine):
    ledger: OrderedLedger

    @initialize(
        kind=st.sampled_from(["plain", "serial", "keyed", "many keys", "mixed"]),
        position=st.integers(0, 2**40),
        part=parts,
    )
    def begin(self, kind: str, position: int, part: tuple[int, int]) -> None:
        self.kind = kind
        self.n_packs = 0
        self.ledger = OrderedLedger(serial=kind == "serial")
        self.begin_at(position, *part)

    def begin_at(self, position: int, idx: int, step: int) -> None:
        """Continue in the middle of a pack, if `idx` is not 0."""
        self.position = self.highest = position
        self.part = (idx, position + step, stored_ns(position + step)) if idx else (0, 0, 0)
        self.ledger.drop(position, stored_ns(position), *self.part)
        self.last_place = (position, self.part[1], idx)

    def key_of(self, number: int) -> Any:
        """A key in whatever way the kind has them; None: none."""
        if self.kind == "mixed":
            return [None, "a", ("b", number % 3)][number % 3]
        return {"keyed": number % 3, "many keys": str(number)}.get(self.kind)

    def add_one(self, step: int, which: int) -> None:
        seq = self.highest = self.highest + step
        key = self.key_of(which)
        event, size = EVENTS[which % len(EVENTS)], SIZES[which % len(EVENTS)]
        self.ledger.highest_ns = stored_ns(seq)
        self.hold(event, seq, size, key)

    def hold(self, event: Event, seq: int, size: int, key: Any, **place: Any) -> None:
        is_last = place.get("is_last", True)
        if key is None:
            slot = self.ledger.add(event, seq, self.now_ns, is_last)
        else:
            slot = self.ledger.add_keyed(event, seq, self.now_ns, key, is_last)
        self.note(slot, seq, size, "the only one" if self.kind == "serial" else key, **place)

    @rule(step=steps, which=numbers, wanted=st.lists(st.booleans(), min_size=1, max_size=MOST_PACKED))
    def add_pack(self, step: int, which: int, wanted: list[bool]) -> None:
        """Add a pack, without the events of it that were done at the start; the filter leaves out others."""
        seq = self.highest = self.highest + step
        self.ledger.highest_ns = stored_ns(seq)
        n_done = self.part[0] if seq == self.part[1] else 0
        wanted += [True] * (n_done + 1 - len(wanted))
        self.n_packs += 1
        n_bytes = 1000 + which % 100
        self.ledger.begin_pack(seq, n_bytes)
        for index, is_wanted in enumerate(wanted):
            if index < n_done:
                continue
            is_last = index == len(wanted) - 1
            if is_wanted:
                where = {"index": index, "is_last": is_last, "pack": self.n_packs}
                self.hold(PACKED[index], seq, n_bytes, self.key_of(which + index), **where)
            else:
                self.ledger.pass_over(seq, index, is_last)
                self.pass_one(seq, index, is_last)
        self.ledger.end_pack()
        assert self.ledger.packs.n_held == len({held.pack for held in self.held if held.pack and held.state != DONE})
        self.find_ready()

    @rule(step=steps, which=numbers)
    def add(self, step: int, which: int) -> None:
        self.add_one(step, which)
        self.find_ready()

    @precondition(lambda self: len(self.held) < 2 * FIRST_SLOTS)
    @rule(step=steps, which=numbers)
    def add_many(self, step: int, which: int) -> None:
        for n in range(FIRST_SLOTS + 10):
            self.add_one(step, which + n)
        self.find_ready()

    @rule(key=st.sampled_from([[], {}, set()]))
    def add_without_hash(self, key: Any) -> None:
        with pytest.raises(TypeError):
            self.ledger.add_keyed(EVENTS[0], self.highest + 1, self.now_ns, key)

    @rule(step=steps)
    def pass_over(self, step: int) -> None:
        self.highest += step
        self.ledger.highest_ns = stored_ns(self.highest)
        self.ledger.pass_over(self.highest)
        self.pass_one(self.highest, 0, True)

    def pass_one(self, seq: int, index: int, is_last: bool) -> None:
        self.held.append(Held(seq, 0, DONE, -1, index, is_last))
        self.advance()

    def advance(self) -> None:
        """Move the position over the first events, as far as they are done."""
        ring = [held for held in self.held if held.state != ORPHAN]
        for held in itertools.takewhile(lambda held: held.state == DONE, ring):
            self.move_to(held)
            self.held.remove(held)

    def move_to(self, held: Held) -> None:
        """Move the position over an event that is done."""
        if held.is_last:
            self.position = held.seq
            if self.part[1] <= held.seq:
                self.part = (0, 0, 0)
        elif held.seq >= self.part[1]:
            self.part = (held.index + 1, held.seq, stored_ns(held.seq))

    @rule(position=st.integers(0, 2**41), back=st.booleans(), part=parts)
    def drop(self, position: int, back: bool, part: tuple[int, int]) -> None:
        if back:
            self.begin_at(self.position, self.part[0], self.part[1] - self.position)
        else:
            self.begin_at(position, *part)
        self.held = [held for held in self.held if held.state in (RUNNING, ORPHAN)]
        for held in self.held:
            held.state = ORPHAN
        self.ready = []

    def done(self, held: Held) -> None:
        if held.state == ORPHAN:
            self.held.remove(held)
        held.state = DONE
        self.advance()
        self.find_ready()

    def may_be_handed_out(self) -> list[Held]:
        """What waits and has no earlier one of its key before it that is not done."""
        busy: set[Any] = set()
        found = []
        for held in self.held:
            if held.state == WAITING and (held.key is None or held.key not in busy):
                found.append(held)
            if held.state != DONE:
                busy.add(held.key)
        return found

    def find_ready(self) -> None:
        known = set(self.ready)
        self.ready += [held for held in self.may_be_handed_out() if held not in known]

    @invariant()
    def places(self) -> None:
        ledger = self.ledger
        assert (ledger.position, ledger.highest) == (self.position, self.highest)
        assert (ledger.position_ns, ledger.highest_ns) == (stored_ns(self.position), stored_ns(self.highest))
        assert (ledger.idx, ledger.part, ledger.part_ns) == self.part
        new_place = (ledger.position, ledger.part, ledger.idx)
        assert new_place >= self.last_place
        self.last_place = new_place
        assert sorted(map(place, self.ready)) == sorted(map(place, self.may_be_handed_out()))
        running = [held.key for held in self.of(RUNNING, ORPHAN) if held.key is not None]
        assert len(running) == len(set(running))

    def check_n_held(self) -> None:
        # Events that are passed over need at most two slots behind each other event: one for the last message that
        # ends there, one for a part of the next message.
        ring = [held for held in self.held if held.state != ORPHAN]
        n_left = sum(held.state != DONE for held in ring)
        assert n_left <= self.ledger.n_held <= 3 * sum(held.slot >= 0 for held in ring)


class PacksMachine(OrderedMachine):
    """Few events and many packs, so that all of what is held is often done, and events are often passed over."""

    add_many = None  # type: ignore[assignment]
    drop = None  # type: ignore[assignment]
    take_due = None  # type: ignore[assignment]
    retry = None  # type: ignore[assignment]

    @rule(count=st.integers(1, 8))
    def handle(self, count: int) -> None:
        for _ in range(count):
            self.take()
            if self.of(RUNNING):
                self.finish(0)


TestShared = SharedMachine.TestCase
TestOrdered = OrderedMachine.TestCase
TestPacks = PacksMachine.TestCase
TestPacks.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


# --- keys that misbehave ---------------------------------------------------------------------------------------------


class Key:
    """A key that fails, or changes, when it is told to."""

    def __init__(self, value: int = 1) -> None:
        self.value = value
        self.broken = False

    def __hash__(self) -> int:
        if self.broken:
            raise ValueError("no hash")
        return self.value

    def __eq__(self, other: object) -> bool:
        if self.broken:
            raise ValueError("no comparison")
        return isinstance(other, Key) and other.value == self.value


def add_all(ledger: OrderedLedger, keys: Iterable[object], first: int = 1) -> list[int]:
    return [ledger.add_keyed(EVENTS[0], seq, 0, key) for seq, key in enumerate(keys, first)]


def drain(ledger: OrderedLedger) -> int:
    n = 0
    while (slot := ledger.take_ready()) >= 0:
        ledger.finish(slot)
        n += 1
    return n


@pytest.mark.parametrize("change", ["broken", "value"])
def test_key_when_it_changes_while_held_lets_all_of_its_events_go(change: str) -> None:
    ledger = OrderedLedger()
    key = Key()
    add_all(ledger, [key, key, key])
    setattr(key, change, 5)
    assert drain(ledger) == 3
    key.broken = False
    add_all(ledger, [key, Key(1), Key(5)], 4)
    assert drain(ledger) == 3
    assert (ledger.position, ledger.n_held, ledger.n_bytes) == (6, 0, 0)


def test_key_when_it_comes_to_equal_another_does_not_take_its_events() -> None:
    ledger = OrderedLedger()
    changing, other = Key(1), Key(2)
    first, *_ = add_all(ledger, [changing, other, other])
    assert ledger.take_ready() == first
    changing.value = 2
    ledger.finish(first)
    add_all(ledger, [Key(2)], 4)
    second = ledger.take_ready()
    assert ledger.take_ready() == -1  # the lane of the other is still known
    ledger.finish(second)
    assert drain(ledger) == 2


def test_ledger_when_dropped_with_a_broken_key_begins_anew() -> None:
    ledger = OrderedLedger()
    key = Key()
    slots = add_all(ledger, [key, key])
    assert ledger.take_ready() == slots[0]
    key.broken = True
    ledger.drop(10)
    add_all(ledger, ["a", "a"], 11)
    ledger.finish(slots[0])
    assert drain(ledger) == 2
    assert (ledger.position, ledger.n_held, ledger.n_running) == (12, 0, 0)


# --- what it owns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SharedLedger, OrderedLedger, lambda: OrderedLedger(serial=True)])
def test_ledger_when_it_goes_gives_back_what_it_holds_in_any_state(make: Callable[[], Any]) -> None:
    event = decode_event(encode_event(eda.Event(type="t")))
    error = ValueError("x")
    before = sys.getrefcount(event), sys.getrefcount(error)
    ledger = make()
    for seq in range(1, 600):
        ledger.add(event, seq, 0)
    for verdict in (error, None):
        ledger.retry(ledger.take_ready(), 10, event, verdict)
        ledger.take_due(20)
    ledger.take_ready()
    if isinstance(ledger, SharedLedger):
        ledger.renew(5, b"reply" * 100, 0)
    else:
        ledger.drop(3)
        ledger.add(event, 4, 0)
    del ledger
    assert (sys.getrefcount(event), sys.getrefcount(error)) == before


class Owner:
    """Something that an error leads back to: a traceback does, to whatever is in a handler's frame."""

    def __init__(self) -> None:
        self.ledger = OrderedLedger()
        self.ledger.add(EVENTS[0], 1, 0)
        error = ValueError("x")
        error.owner = self  # type: ignore[attr-defined]
        self.ledger.retry(self.ledger.take_ready(), 10, EVENTS[0], error)


def test_ledger_when_an_error_that_it_keeps_leads_back_to_it_is_collected() -> None:
    gc.collect()
    for _ in range(50):
        Owner()
    gc.collect()
    assert not any(isinstance(each, Owner) for each in gc.get_objects())
