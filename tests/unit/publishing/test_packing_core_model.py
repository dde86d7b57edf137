"""eda.publishing._packing_core compared with a simple model: accept, close, write, answer, fail in any order."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import eda
from support.publishing.packs import events_in
from support.publishing.publisher_core import ModelHost, Rig, Written

MAX_PENDING = 30
MAX_EVENTS = 5
MAX_BYTES = 2000


class Machine(RuleBasedStateMachine):
    """Checks that each event is in one pack and has one outcome, and that events are written in order."""

    def __init__(self) -> None:
        super().__init__()
        host = ModelHost()
        packs = {"max_events": MAX_EVENTS, "max_pack_bytes": MAX_BYTES}
        self.rig = host.rig = Rig(host=host, max_pending=MAX_PENDING, packs=packs)
        self.host = host
        self.ids: list[str] = []  # of all accepted events, in order
        self.outcome: dict[str, str] = {}  # id > its outcome
        self.receipts: dict[str, tuple[int, int]] = {}  # id > sequence and index of the pack
        self.packs: dict[int, Written] = {}  # sequence > the message as it was first written
        self.under_way: list[int] = []  # sequences in the order written since the last restart
        self.mode = ""
        self.n_settled = 0
        self.committed = False

    @property
    def core(self):  # type: ignore[no-untyped-def]
        return self.rig.core

    def ids_of(self, seq: int) -> list[str]:
        return [each.id for each in events_in(self.packs[seq].payload)]

    def look(self) -> None:
        """Compare the written messages with the model."""
        for each in self.rig.written():
            if not each.payload:
                assert each.place == (len(self.under_way) + 1, 3)
                assert not self.committed
                self.committed = True
                continue
            self.look_at(each)

    def look_at(self, each: Written) -> None:
        events = events_in(each.payload)
        ids = [event.id for event in events]
        assert 1 <= len(ids) <= MAX_EVENTS
        assert len(ids) == 1 or len(each.payload) <= MAX_BYTES
        first = self.ids.index(ids[0])
        assert self.ids[first : first + len(ids)] == ids, "events are in another order, or one is missing"
        types, aggregates = {event.type for event in events}, {event.aggregate for event in events}
        parts = [set.pop() if len(set) == 1 else "%pack" for set in (types, aggregates)]
        assert each.subject == ".".join(["s", *parts])
        count = b"Eda-Pack: %d\r\n" % len(ids)
        assert (count in each.header) == (len(ids) > 1)
        known = [seq for seq, pack in self.packs.items() if pack.payload == each.payload]
        seq = known[0] if known else self.seq_of(each)
        before = self.packs.setdefault(seq, each)
        assert (before.subject, before.header, before.payload) == (each.subject, each.header, each.payload)
        if self.under_way:
            assert seq > self.under_way[-1], "written out of order"
        assert not self.committed, "written behind a commit"
        if self.mode == "fast":
            place, operation = each.place
            assert place == len(self.under_way) + 1
            assert (operation in (0, 2)) == (place == 1)
            self.committed = operation == 2
        else:
            assert each.reply == f"inbox.{seq}"
        self.under_way.append(seq)

    def seq_of(self, each: Written) -> int:
        """Return the sequence of a pack that is written for the first time."""
        if self.mode == "window":
            return int(each.reply.removeprefix("inbox."))
        later = [seq for seq in self.core.window.pending() if seq not in self.packs]
        ids = [event.id for event in events_in(each.payload)]
        return next(seq for seq in later if self.core.id_at(seq) == ids[0])

    def settle(self, ids: list[str], how: str) -> None:
        for each in ids:
            assert each not in self.outcome
            self.outcome[each] = how

    def begin(self, mode: str) -> None:
        self.look()
        self.mode = mode
        self.under_way.clear()
        self.n_settled = 0
        self.committed = False

    # --- accepting and writing ---------------------------------------------------------------------------------------

    @rule(
        n=st.integers(1, 8),
        type_=st.sampled_from("tu"),
        aggregate=st.sampled_from("abc"),
        size=st.sampled_from([0, 0, 0, 100, 700, 5000]),
    )
    def accept(self, n: int, type_: str, aggregate: str, size: int) -> None:
        for _ in range(n):
            if not self.core.is_full:
                event = eda.Event(id=f"e{len(self.ids)}", type=type_, aggregate=aggregate, data=eda.Bytes(bytes(size)))
                self.ids.append(event.id)
                assert self.core.accept(event) == event.id
        self.look()

    @precondition(lambda self: not self.core.is_full)
    @rule()
    def accept_with_receipt(self) -> None:
        event_id = f"e{len(self.ids)}"
        self.ids.append(event_id)
        seq, index, _ = self.core.accept_with_receipt(eda.Event(id=event_id, type="t", aggregate="a"), event_id)
        self.receipts[event_id] = seq, index
        self.look()

    @rule()
    def close(self) -> None:
        self.core.close_pack()
        assert self.core.n_open == 0
        self.look()

    @rule(probe=st.booleans())
    def begin_window(self, probe: bool) -> None:
        self.core.rewind()
        self.begin("window")
        self.core.use_window_mode()
        if probe:
            self.core.write_oldest(False)
        else:
            self.core.start_writing()
        self.look()

    @precondition(lambda self: self.core.n_pending)
    @rule(alone=st.booleans())
    def begin_batch(self, alone: bool) -> None:
        self.core.rewind()
        self.begin("fast")
        self.rig.begin_batch(alone=alone)
        self.look()
        assert len(self.under_way) == 1

    @precondition(lambda self: self.mode and not self.committed)
    @rule()
    def resume(self) -> None:
        self.core.start_writing()
        self.look()

    @precondition(lambda self: self.mode == "fast" and self.under_way and not self.committed)
    @rule()
    def commit(self) -> None:
        self.core.commit_batch()
        self.look()
        assert self.committed

    @rule()
    def restart(self) -> None:
        self.core.rewind()
        self.begin("")

    # --- outcomes ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.mode == "window" and self.under_way)
    @rule(data=st.data(), stream_seq=st.integers(1, 99))
    def acknowledge(self, data: st.DataObject, stream_seq: int) -> None:
        seq = data.draw(st.sampled_from(self.under_way))
        before = self.core.n_acknowledged
        n_told = len(self.host.sequences)
        self.rig.acknowledge(seq, stream_seq)
        if self.core.n_acknowledged > before:
            ids = self.ids_of(seq)
            assert self.core.n_acknowledged == before + len(ids)
            assert self.host.sequences[n_told:] == [stream_seq] * len(ids)
            self.settle(ids, "acknowledged")
        else:
            assert self.ids_of(seq)[0] in self.outcome
        self.look()

    @precondition(lambda self: self.mode == "fast")
    @rule(n=st.integers(0, 12))
    def final(self, n: int) -> None:
        assert self.core.settle_batch_to(n) == (n <= len(self.under_way))
        if self.n_settled < n <= len(self.under_way):
            for seq in self.under_way[:n]:
                self.settle([each for each in self.ids_of(seq) if each not in self.outcome], "acknowledged")
            self.n_settled = n

    @precondition(lambda self: self.core.n_pending)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.core.window.pending()))
        failed = self.core.fail(seq)
        for event, event_id, receipt in failed:
            assert event.id == event_id
            assert receipt == (event_id if event_id in self.receipts else None)
        for index, (_, event_id, receipt) in enumerate(failed):
            assert receipt is None or self.receipts[event_id] == (seq, index)
        self.settle([event_id for _, event_id, _ in failed], "failed")
        assert self.core.fail(seq) == []

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def counts_add_up(self) -> None:
        core = self.core
        assert core.n_accepted == len(self.ids)
        how = list(self.outcome.values())
        assert (core.n_acknowledged, core.n_failed) == (how.count("acknowledged"), how.count("failed"))
        pending = [each for each in self.ids if each not in self.outcome]
        assert core.is_full == (len(pending) >= MAX_PENDING)
        assert core.room == MAX_PENDING - len(pending) or core.room < MAX_PENDING
        assert core.n_open <= MAX_EVENTS
        assert (core.n_pending == 0) == (len(pending) == core.n_open)
        assert (core.n_bytes == 0) == (not pending)

    @invariant()
    def acknowledged_events_are_told_once(self) -> None:
        acknowledged = {each for each, how in self.outcome.items() if how == "acknowledged"}
        assert self.host.acknowledged == dict.fromkeys(acknowledged, 1)
        given = [receipt for receipt, _ in self.host.receipts]
        assert sorted(given) == sorted(acknowledged & self.receipts.keys())


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
