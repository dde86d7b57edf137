"""eda.publishing._publisher_core.PublisherCore: which events an answer settles, and how answers change the limit."""

from __future__ import annotations

import time

import pytest

from eda.publishing._stream_sender import Destination
from support.publishing.publisher_core import Rig

# --- the window's answers --------------------------------------------------------------------------------------------


def test_acknowledgements_when_they_come_in_any_order_settle_each_once() -> None:
    rig = Rig()
    rig.window()
    ids = rig.accept(5)
    for seq in (3, 1, 1, 3, 5, 2, 4, 4):
        rig.acknowledge(seq, stream_seq=seq * 10)
    assert rig.host.acknowledged == dict.fromkeys(ids, 1)
    assert rig.host.sequences == [30, 10, 50, 20, 40]
    assert (rig.core.n_acknowledged, rig.core.n_pending, rig.core.n_bytes, rig.core.oldest) == (5, 0, 0, 6)


@pytest.mark.parametrize("seq", ["0", "4", "99", "-1", "+1", "x", "1.2", "18446744073709551616", "b1.10.fail.1.1.$FI"])
def test_acknowledgement_when_it_is_for_nothing_settles_nothing(seq: str) -> None:
    rig = Rig()
    rig.window()
    rig.accept(3)
    rig.written()
    rig.tell(f"inbox.{seq}", b'{"stream":"s", "seq":9}')
    assert rig.core.n_pending == 3
    assert rig.host.answers == []


def test_acknowledgement_when_the_event_was_never_written_is_ignored() -> None:
    rig = Rig()
    rig.accept(3)
    rig.acknowledge(1)
    rig.core.use_window_mode()
    rig.core.write_oldest(False)
    rig.acknowledge(2)
    assert rig.core.n_pending == 3
    rig.acknowledge(1)
    assert rig.core.n_pending == 2


def test_acknowledgement_when_the_frame_is_not_handed_over_is_ignored() -> None:
    rig = Rig()
    rig.window()
    rig.accept()
    for wanted in (1, 0):
        rig.tell("inbox.1", b'{"stream":"s", "seq":9}')
        assert rig.core.n_pending == wanted
        rig.out.flush()


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b'{"stream":"s"}', b'{"stream":"t", "seq":1}', b'{"error":{"code":400}}'],
)
def test_answer_when_it_is_no_acknowledgement_of_this_stream_is_handed_on(payload: bytes) -> None:
    rig = Rig()
    rig.window()
    rig.accept()
    rig.written()
    rig.tell("inbox.1", payload)
    assert rig.host.answers == [("window", 1, 0, payload)]
    assert rig.core.n_pending == 1


def test_answer_when_it_has_a_status_hands_that_on() -> None:
    rig = Rig()
    rig.window()
    rig.accept()
    rig.written()
    rig.tell("inbox.1", b"", b"NATS/1.0 503\r\n\r\n")
    assert rig.host.answers == [("window", 1, 503, b"")]


def test_probe_when_others_are_acknowledged_late_still_waits_for_its_own() -> None:
    rig = Rig()
    rig.window()
    rig.accept(5)
    rig.written()
    rig.core.rewind()
    rig.core.write_oldest(False)
    assert [each.id for each in rig.written()] == ["e0"]
    rig.acknowledge(3)
    rig.acknowledge(5)
    assert rig.host.n_probed == 0
    rig.acknowledge(1)
    assert rig.host.n_probed == 1
    rig.core.start_writing()
    assert [each.id for each in rig.written()] == ["e1", "e3"]


def test_acknowledgements_when_they_come_during_a_pause_leave_nothing_stuck() -> None:
    """Events that are settled during the pause are not written again: the next write is the oldest unsettled event."""
    rig = Rig()
    rig.window()
    rig.accept(5)
    rig.written()
    rig.core.rewind()
    for seq in (1, 2, 3):
        rig.acknowledge(seq)
    assert rig.core.n_waiting == 2
    rig.core.write_oldest(False)
    assert [each.id for each in rig.written()] == ["e3"]
    assert rig.core.oldest_is_written


def test_window_when_answers_make_room_writes_what_waits() -> None:
    rig = Rig(max_pending=5000)
    rig.window()
    assert rig.core.limit == 1024
    rig.core.stop_writing()
    rig.accept(1030)
    rig.core.start_writing()
    assert len(rig.written()) == 1024
    rig.acknowledge(1)
    assert [each.id for each in rig.written()] == ["e1024"]
    rig.tell("inbox.2", b"{}")
    assert rig.written() == []
    rig.core.fail(2)
    rig.tell("inbox.3", b"{}")
    assert [each.id for each in rig.written()] == ["e1025"]


def answer_all(rig: Rig) -> None:
    for seq in range(rig.core.oldest, rig.core.next_seq):
        rig.acknowledge(seq)


@pytest.mark.parametrize(("max_pending", "most"), [(100, 100), (256, 256), (1500, 1500), (5000, 4096)])
def test_limit_when_answers_are_quick_grows_up_to_the_window(max_pending: int, most: int) -> None:
    rig = Rig(max_pending=max_pending)
    rig.window()
    assert rig.core.limit == min(1024, max_pending)
    for _ in range(3):
        rig.accept(min(rig.core.limit, max_pending))
        rig.written()
        answer_all(rig)
        assert rig.core.limit <= max_pending
    assert rig.core.limit >= most


def test_limit_when_answers_are_slow_shrinks_down_to_256() -> None:
    rig = Rig(max_pending=5000)
    rig.window()
    for wanted in (512, 256, 256):
        rig.accept(rig.core.limit // 2)
        rig.written()
        time.sleep(0.26)  # the simulated time of the server's answer
        answer_all(rig)
        assert rig.core.limit == wanted


# --- fast ingest's answers -------------------------------------------------------------------------------------------


def test_flow_acknowledgements_when_they_come_settle_all_up_to_there() -> None:
    rig = Rig()
    rig.accept(3)
    rig.batch_open()
    rig.accept(7)
    rig.flow(0, 5)
    assert rig.core.n_acknowledged == 0
    rig.flow(5, 5)
    assert rig.core.n_acknowledged == rig.core.n_batch_settled == 5
    rig.flow(5, 5)
    rig.flow(3, 5)
    rig.flow(10, 7)
    assert rig.host.acknowledged == {f"e{i}": 1 for i in range(10)}
    assert rig.host.flows == [5, 5, 5, 5, 7]
    assert set(rig.host.sequences) == {0}


@pytest.mark.parametrize("n", [4, 5, 2**62, 2**63 - 1])
def test_flow_acknowledgement_when_it_is_ahead_of_the_batch_settles_nothing(n: int) -> None:
    rig = Rig()
    rig.accept(3)
    rig.batch_open()
    rig.accept(3)
    rig.core.set_limit(3)
    rig.begin_batch()
    rig.core.set_limit(3)
    rig.core.start_writing()
    rig.tell(f"{rig.batch}.3.1.$FI", b'{"type":"ack","seq":%d,"msgs":10}' % n)
    assert rig.core.n_acknowledged == 0
    assert rig.host.flows == []


def test_flow_acknowledgement_when_its_spacing_is_absurd_is_bounded() -> None:
    rig = Rig(max_pending=100)
    rig.accept(3)
    rig.batch_open()
    rig.flow(1, 2**63 - 1)
    assert rig.host.flows == [100]


def test_answers_when_their_batch_is_over_are_ignored() -> None:
    rig = Rig()
    rig.accept(5)
    rig.batch_open()
    old = rig.batch
    rig.batch_open()
    rig.flow(5, batch=old)
    rig.tell(f"{old}.6.3.$FI", b'{"stream":"s","seq":5,"batch":"b1","count":5}')
    rig.tell(f"{old}.1.0.$FI", b'{"error":{"code":400}}')
    assert rig.core.n_acknowledged == 0
    assert rig.host.answers == []
    rig.window()
    rig.flow(5)
    assert rig.core.n_acknowledged == 0


def test_acknowledgements_when_the_mode_has_changed_are_ignored() -> None:
    rig = Rig()
    rig.window()
    rig.accept(3)
    rig.written()
    rig.batch_open()
    rig.acknowledge(1)
    assert rig.core.n_acknowledged == 0
    rig.flow(3)
    assert rig.core.n_acknowledged == 3


def test_late_flow_acknowledgement_when_all_is_to_be_written_again_settles_nothing() -> None:
    rig = Rig()
    rig.accept(5)
    rig.batch_open()
    rig.core.rewind()
    rig.flow(5)
    assert rig.core.n_acknowledged == 0
    rig.batch_open()
    rig.flow(5)
    assert rig.core.n_acknowledged == 5


@pytest.mark.parametrize("tail", ["7.1.$FI", "99.1.$FI", "0x1.1.$FI", "-1.1.$FI", "1", "$FI"])
def test_batch_answer_when_its_place_cannot_be_is_ignored(tail: str) -> None:
    rig = Rig()
    rig.accept(5)
    rig.batch_open()
    rig.tell(f"{rig.batch}.{tail}", b'{"type":"ack","seq":5,"msgs":5}')
    rig.tell(f"{rig.batch}.{tail}", b'{"stream":"s"}')
    assert rig.core.n_acknowledged == 0
    assert rig.host.answers == []


def test_batch_answer_when_it_is_anything_else_is_handed_on() -> None:
    rig = Rig()
    rig.accept(5)
    rig.batch_open()
    final = b'{"stream":"s","seq":5,"batch":"b1","count":5}'
    rig.tell(f"{rig.batch}.6.3.$FI", final)
    rig.tell(f"{rig.batch}.1.0.$FI", b"", b"NATS/1.0 503\r\n\r\n")
    rig.tell(f"{rig.batch}.2.1.$FI", b'{"type":"ack","seq":5,"msgs":5')
    assert rig.host.answers == [
        ("batch", 6, 0, final),
        ("batch", 1, 503, b""),
        ("batch", 2, 0, b'{"type":"ack","seq":5,"msgs":5'),
    ]
    assert rig.core.n_acknowledged == 0


def test_settle_first_when_the_batch_has_not_so_many_refuses() -> None:
    rig = Rig()
    rig.accept(5)
    rig.batch_open()
    assert not rig.core.settle_batch_to(6)
    assert rig.core.n_acknowledged == 0
    assert rig.core.settle_batch_to(3)
    assert rig.core.settle_batch_to(0)
    assert rig.core.n_acknowledged == 3
    assert not rig.core.oldest_opened_batch


# --- domains ---------------------------------------------------------------------------------------------------------


def test_acknowledgement_when_of_another_domain_is_handed_on_and_settles_nothing() -> None:
    rig = Rig(domain="hub")
    rig.window()
    rig.accept(2)
    for domain in ("", "edge", "hu", "hub2", "HUB"):
        rig.acknowledge(1, domain=domain)
    assert rig.core.n_pending == 2
    assert len(rig.host.answers) == 5
    rig.acknowledge(1, domain="hub")
    assert rig.core.n_pending == 1
    rig.core.use_destination(Destination("s", 2**20))
    rig.acknowledge(2, domain="hub")
    assert rig.core.n_pending == 1
    rig.acknowledge(2)
    assert rig.core.n_pending == 0


def test_flow_when_there_are_domains_paces_and_settles_nothing() -> None:
    rig = Rig(domain="hub", max_pending=100)
    rig.accept(60)
    rig.begin_batch()
    rig.core.set_limit(20)
    rig.core.start_writing()
    assert len(rig.written()) == 20
    rig.core.room_wanted = True
    rig.flow(10)
    rig.core.set_limit(20)
    rig.core.start_writing()
    assert len(rig.written()) == 10
    assert (rig.core.n_pending, rig.core.n_acknowledged, rig.core.n_batch_answered) == (60, 0, 10)
    assert not rig.core.needs_batch_end
    rig.flow(30)
    rig.core.set_limit(20)
    rig.core.start_writing()
    rig.flow(50)
    rig.core.set_limit(60)
    rig.core.start_writing()
    assert len(rig.written()) == 30
    assert rig.core.limit == 100
    assert rig.core.needs_batch_end, "the window is full of what only the end of the batch settles"
    rig.flow(60)
    assert not rig.core.room_wanted, "a sender was not told of the room that is left"
    assert rig.core.settle_batch_to(60)
    assert (rig.core.n_pending, rig.core.n_acknowledged) == (0, 60)


def test_flow_when_there_are_domains_and_bytes_run_out_needs_the_end() -> None:
    rig = Rig(domain="hub", max_bytes=4000)
    rig.accept(2)
    rig.batch_open()
    rig.core.set_limit(80)
    assert not rig.core.needs_batch_end
    rig.accept(1, size=3500)
    assert rig.core.needs_batch_end
