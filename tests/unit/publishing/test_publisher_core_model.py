"""eda.publishing._publisher_core compared with a simple model: accept, write, answer, rewind, fail in any order."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.publishing.publisher_core import ModelHost, Rig, Written

MAX_PENDING = 12


class Machine(RuleBasedStateMachine):
    """Checks that every event is settled once, and that waiting events are written in order."""

    def __init__(self) -> None:
        super().__init__()
        host = ModelHost()
        self.rig = host.rig = Rig(host=host, max_pending=MAX_PENDING)
        self.host = host
        self.ids: list[str] = []  # of all accepted events, in order
        self.outcome: dict[int, str] = {}  # sequence > its outcome
        self.mode = ""
        self.connected = True
        self.under_way: list[int] = []  # sequences in the order written since the last restart
        self.frames: dict[int, tuple[str, bytes, bytes]] = {}  # as each was first written
        self.n_settled = 0
        self.old_batches: list[tuple[str, int]] = []
        self.committed = False

    @property
    def core(self):  # type: ignore[no-untyped-def]
        return self.rig.core

    @property
    def pending(self) -> list[int]:
        return [seq for seq in range(1, len(self.ids) + 1) if seq not in self.outcome]

    def look(self) -> None:
        """Compare the written frames with the model."""
        for each in self.rig.written():
            if not each.payload:
                assert each.place == (len(self.under_way) + 1, 3)
                assert not self.committed
                self.committed = True
                continue
            self.look_at(each)

    def look_at(self, each: Written) -> None:
        seq = self.ids.index(each.id) + 1
        if self.under_way:
            assert seq > self.under_way[-1], "written out of order"
        else:
            assert seq == (self.pending[0] if self.pending else seq), "something overtakes the oldest event"
        assert not self.committed, "written behind a commit"
        if self.mode == "fast":
            place, operation = each.place
            assert place == len(self.under_way) + 1
            assert (operation in (0, 2)) == (place == 1)
            assert each.reply.startswith(f"{self.rig.batch}.")
            self.committed = operation == 2
        else:
            assert each.reply == f"inbox.{seq}"
        frame = (each.subject, each.header, each.payload)
        assert self.frames.setdefault(seq, frame) == frame, "written again with other bytes"
        self.under_way.append(seq)

    def settle(self, seqs: list[int], how: str) -> None:
        for seq in seqs:
            assert seq not in self.outcome
            self.outcome[seq] = how

    def begin(self, mode: str) -> None:
        if self.mode == "fast":
            self.old_batches.append((self.rig.batch, len(self.under_way)))
        self.rig.written()  # drop frames from before the restart
        self.mode = mode
        self.under_way.clear()
        self.n_settled = 0
        self.committed = False

    # --- accepting and writing ---------------------------------------------------------------------------------------

    @rule(n=st.integers(1, 5))
    def accept(self, n: int) -> None:
        for _ in range(n):
            if not self.core.is_full:
                self.ids += self.rig.accept()
        self.look()

    @precondition(lambda self: self.connected)
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

    @precondition(lambda self: self.connected and self.pending)
    @rule(alone=st.booleans())
    def begin_batch(self, alone: bool) -> None:
        self.core.rewind()
        self.begin("fast")
        self.rig.begin_batch(alone=alone)
        self.look()
        assert len(self.under_way) == 1

    @precondition(lambda self: self.connected and self.mode and not self.committed)
    @rule()
    def resume(self) -> None:
        self.core.start_writing()
        self.look()
        if self.core.n_waiting == 0:
            assert set(self.pending) <= set(self.under_way)

    @precondition(lambda self: self.connected and self.mode == "fast" and self.under_way and not self.committed)
    @rule()
    def commit(self) -> None:
        self.core.commit_batch()
        self.look()
        assert self.committed

    @rule()
    def stop(self) -> None:
        self.core.stop_writing()

    @rule()
    def restart(self) -> None:
        self.core.rewind()
        self.begin("")

    @precondition(lambda self: self.connected)
    @rule()
    def lose_connection(self) -> None:
        self.rig.connect(False)
        self.connected = False
        self.core.rewind()
        self.begin("")

    @precondition(lambda self: not self.connected)
    @rule()
    def restore_connection(self) -> None:
        self.rig.connect()
        self.connected = True

    # --- answers -----------------------------------------------------------------------------------------------------

    @rule(seq=st.integers(0, 60), stream_seq=st.integers(1, 99))
    def acknowledge(self, seq: int, stream_seq: int) -> None:
        """Check that an acknowledgement settles an event that was last written in window mode."""
        sent_this_way = self.mode == "window" and seq in self.under_way
        before = self.core.n_acknowledged
        self.rig.acknowledge(seq, stream_seq)
        if self.core.n_acknowledged > before:
            assert seq in self.frames, "an event that was never written is acknowledged"
            self.settle([seq], "acknowledged")
        else:
            assert not sent_this_way or seq in self.outcome
        self.look()

    @precondition(lambda self: self.mode == "fast")
    @rule(n=st.integers(0, 20), messages=st.integers(0, 5))
    def flow(self, n: int, messages: int) -> None:
        self.rig.flow(n, messages)
        self.batch_holds(n)
        self.look()

    @precondition(lambda self: self.mode == "fast")
    @rule(n=st.integers(0, 20))
    def final(self, n: int) -> None:
        assert self.core.settle_batch_to(n) == (n <= len(self.under_way))
        self.batch_holds(n)

    def batch_holds(self, n: int) -> None:
        if self.n_settled < n <= len(self.under_way):
            self.settle([seq for seq in self.under_way[:n] if seq not in self.outcome], "acknowledged")
            self.n_settled = n

    @precondition(lambda self: self.old_batches)
    @rule(data=st.data())
    def late_answer(self, data: st.DataObject) -> None:
        batch, n = data.draw(st.sampled_from(self.old_batches))
        if batch == self.rig.batch and self.mode == "fast":
            return
        self.rig.flow(n, batch=batch)
        self.rig.tell(f"{batch}.{n + 1}.3.$FI", b'{"stream":"s","seq":5,"batch":"b","count":%d}' % n)

    # --- failures ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.pending))
        ((_, event_id, _),) = self.core.fail(seq)
        assert event_id == self.ids[seq - 1]
        assert self.core.fail(seq) == []
        self.settle([seq], "failed")

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def every_event_is_in_one_place(self) -> None:
        core, pending = self.core, self.pending
        assert core.window.pending() == pending
        assert core.n_accepted == len(self.ids) == core.n_acknowledged + core.n_failed + core.n_pending
        acknowledged = [self.ids[seq - 1] for seq, how in self.outcome.items() if how == "acknowledged"]
        assert self.host.acknowledged == dict.fromkeys(acknowledged, 1)
        assert core.n_failed == len(self.outcome) - len(acknowledged)
        assert (core.n_bytes > 0) == bool(pending)
        assert len(pending) <= core.next_seq - core.oldest <= MAX_PENDING
        assert core.oldest == (pending[0] if pending else core.next_seq)
        assert 0 <= core.n_waiting <= core.next_seq - core.oldest

    @invariant()
    def what_is_out_was_written(self) -> None:
        if self.pending:
            assert self.core.oldest_is_written == (self.pending[0] in self.under_way)
        else:
            assert not self.core.oldest_is_written


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
