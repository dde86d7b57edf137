"""eda.publishing._publisher_core.PublisherCore: when events are written, which events can't be sent, and which fail."""

from __future__ import annotations

import time
from typing import Any

import pytest

import eda
from eda._codec import decode_event
from eda.publishing._stream_sender import Destination
from support.publishing.publisher_core import Host, Rig, events, placed

# --- writing ---------------------------------------------------------------------------------------------------------


def test_accept_when_nothing_may_be_written_keeps_the_event() -> None:
    rig = Rig()
    assert rig.accept(3) == ["e0", "e1", "e2"]
    assert rig.written() == []
    assert (rig.core.n_pending, rig.core.n_waiting, rig.core.oldest, rig.core.next_seq) == (3, 3, 1, 4)
    assert not rig.core.oldest_is_written
    assert rig.core.oldest_waited_s() == 0


def test_resume_when_events_wait_writes_them_and_what_comes_later_in_order() -> None:
    rig = Rig()
    rig.accept(3)
    rig.window()
    rig.accept(2)
    written = rig.written()
    assert [each.id for each in written] == ["e0", "e1", "e2", "e3", "e4"]
    assert [each.reply for each in written] == [f"inbox.{seq}" for seq in range(1, 6)]
    assert {each.subject for each in written} == {"s.t._"}
    assert [each.header for each in written] == [b"NATS/1.0\r\nNats-Msg-Id: e%d\r\n\r\n" % i for i in range(5)]
    assert rig.core.n_waiting == 0
    assert rig.core.n_resent == 0


@pytest.mark.parametrize("dedup", [True, False])
def test_write_when_it_is_again_keeps_bytes_and_ids_under_new_reply_subjects(dedup: bool) -> None:
    rig = Rig(dedup=dedup)
    rig.accept(2)
    rig.begin_batch()
    rig.core.start_writing()
    rig.accept(3)
    first = rig.written()
    rig.begin_batch()
    rig.core.start_writing()
    again = rig.written()
    rig.window()
    third = rig.written()
    strip = [(each.subject, each.header, each.payload) for each in first]
    assert [(each.subject, each.header, each.payload) for each in again] == strip
    assert [(each.subject, each.header, each.payload) for each in third] == strip
    assert [each.reply for each in first] == [f"inbox.b1.10.fail.{i}.{int(i > 1)}.$FI" for i in range(1, 6)]
    assert [each.reply for each in again] == [f"inbox.b2.10.fail.{i}.{int(i > 1)}.$FI" for i in range(1, 6)]
    assert [each.reply for each in third] == [f"inbox.{i}" for i in range(1, 6)]
    assert rig.core.n_resent == 10


def test_write_first_when_events_wait_writes_one_of_them() -> None:
    rig = Rig()
    rig.accept(3)
    rig.begin_batch()
    assert placed(rig) == [(1, 0)]
    assert rig.core.oldest_is_written
    rig.accept(2)
    assert rig.written() == []
    rig.core.start_writing()
    assert placed(rig) == [(2, 1), (3, 1), (4, 1), (5, 1)]


def test_write_first_when_alone_commits_with_the_event() -> None:
    rig = Rig()
    rig.accept(3)
    rig.begin_batch(alone=True)
    assert placed(rig) == [(1, 2)]


def test_commit_when_events_are_written_follows_the_last_on_the_subject_of_the_first() -> None:
    rig = Rig()
    rig.core.accept(eda.Event(type="first"))
    rig.accept(4)
    rig.batch_open()
    rig.core.commit_batch()
    written = rig.written()
    assert [each.place for each in written] == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1), (6, 3)]
    assert written[-1].subject == "s.first._"
    assert written[-1].payload == written[-1].header == b""
    rig.accept()
    assert rig.written() == [], "something was written behind the commit"


def test_restart_when_frames_are_not_handed_over_yet_keeps_them() -> None:
    rig = Rig()
    rig.window()
    rig.accept(3)
    rig.core.rewind()
    rig.core.start_writing()
    assert [each.id for each in rig.written()] == ["e0", "e1", "e2", "e0", "e1", "e2"]


def test_restart_when_there_is_no_connection_writes_them_to_the_next_one() -> None:
    rig = Rig()
    rig.window()
    rig.accept(2)
    rig.connect(False)
    rig.core.rewind()
    rig.accept(1)
    rig.connect()
    rig.core.start_writing()
    assert [each.id for each in rig.written()] == ["e0", "e1", "e2"]


def test_limit_when_reached_lets_the_others_wait_until_there_is_an_answer() -> None:
    rig = Rig()
    rig.accept(10)
    rig.begin_batch()
    rig.core.set_limit(4)
    rig.core.start_writing()
    assert len(rig.written()) == 4
    assert rig.core.is_full
    rig.flow(2)
    rig.core.start_writing()
    assert placed(rig) == [(5, 1), (6, 1)]


@pytest.mark.parametrize("max_pending", [1, 2, 3, 4, 7, 300])
def test_window_when_it_is_small_is_full_with_as_many(max_pending: int) -> None:
    rig = Rig(max_pending=max_pending)
    rig.window()
    for _ in range(3):
        while not rig.core.is_full:
            rig.accept()
        assert rig.core.n_pending == max_pending
        rig.core.room_wanted = True
        for seq in range(rig.core.oldest, rig.core.next_seq):
            rig.acknowledge(seq)
        assert not rig.core.room_wanted
    assert rig.host.n_room == 3


def test_window_when_an_event_is_larger_than_its_bytes_takes_it_alone() -> None:
    rig = Rig(max_bytes=1)
    rig.window()
    for seq in range(1, 4):
        assert not rig.core.is_full
        rig.accept(size=1000)
        assert rig.core.is_full
        rig.core.room_wanted = True
        rig.acknowledge(seq)
    assert rig.host.n_room == 3
    assert rig.core.n_bytes == 0


def test_stop_when_what_waits_has_more_room_than_what_flows_tells_of_it() -> None:
    rig = Rig(max_pending=100)
    rig.accept()
    rig.begin_batch()
    rig.core.set_limit(8)
    rig.core.start_writing()
    rig.accept(7)
    assert rig.core.is_full
    rig.core.room_wanted = True
    rig.core.stop_writing()
    assert rig.host.n_room == 1
    assert not rig.core.is_full


# --- what can't be sent ----------------------------------------------------------------------------------------------


CULPRITS: dict[str, Any] = {
    "bad-id": eda.Event(id="a b"),
    "long-id": eda.Event(id="x" * 129),
    "cannot-encode": eda.Event(data=eda.JSON(object())),
    "too-large": eda.Event(data=eda.Bytes(bytes(5000))),
    "long-subject": eda.Event(aggregate="a" * 5000),
    "surrogate": eda.Event(meta={"k": "\ud800"}),
}


@pytest.mark.parametrize("flowing", [True, False])
@pytest.mark.parametrize("culprit", CULPRITS.values(), ids=CULPRITS)
def test_accept_when_the_event_cannot_be_sent_leaves_no_byte_of_it(culprit: eda.Event, flowing: bool) -> None:
    rig = Rig(max_payload=4096)
    rig.accept(2)
    if flowing:
        rig.batch_open()
    rig.accept(2)
    size = rig.out.size
    with pytest.raises((eda.ConfigError, eda.CodecError)):
        rig.core.accept(culprit)
    assert rig.out.size == size
    assert rig.core.next_seq == 5
    assert rig.core.n_accepted == rig.core.n_pending == 4
    rig.accept(1)
    if not flowing:
        rig.batch_open()
    written = rig.written()
    assert [each.id for each in written] == ["e0", "e1", "e2", "e3", "e4"]
    assert [each.place[0] for each in written] == [1, 2, 3, 4, 5]


def test_accept_many_when_one_is_no_event_takes_those_before_it() -> None:
    rig = Rig()
    ids = ["from", "before"]
    some: list[Any] = [*events(3), 5, *events(2)]
    with pytest.raises(eda.ConfigError, match=r"events\[5\] must be an eda\.Event, not int"):
        rig.core.accept_many(some, 0, ids)
    assert ids == ["from", "before", "e0", "e1", "e2"]
    assert rig.core.n_accepted == 3


def test_accept_many_when_the_window_fills_up_says_where_it_stopped() -> None:
    rig = Rig(max_pending=5)
    ids: list[str] = []
    assert rig.core.accept_many(events(8), 1, ids) == 6
    assert ids == ["e1", "e2", "e3", "e4", "e5"]
    assert rig.core.accept_many(events(8), 6, ids) == 6


def test_accept_flowing_when_anything_else_has_to_be_looked_at_takes_nothing() -> None:
    rig = Rig(max_pending=8)
    rig.batch_open()
    (event,) = events(1)
    assert rig.core.accept_if_flowing(event) is None  # the timer does not run
    rig.core.timer_runs = True
    assert rig.core.accept_if_flowing(event) == event.id
    assert rig.core.accept_if_flowing("no event") is None
    rig.out.set_paused(True)
    assert rig.core.accept_if_flowing(event) is None
    rig.out.set_paused(False)
    rig.core.set_limit(rig.core.n_pending)
    assert rig.core.accept_if_flowing(event) is None  # the window is full
    rig.core.set_limit(8)
    assert rig.core.accept_if_flowing(event) == event.id
    rig.core.stop_writing()
    assert rig.core.accept_if_flowing(event) is None
    assert [each.id for each in rig.written()] == [event.id, event.id]


@pytest.mark.parametrize("flowing", [True, False])
def test_accept_when_an_encoder_publishes_too_keeps_both(flowing: bool, request: pytest.FixtureRequest) -> None:
    rig = Rig()
    rig.accept()
    if flowing:
        rig.batch_open()
    name = f"nested-{flowing}"

    def encode(value: object) -> bytes:
        rig.core.accept(eda.Event(id="inner", type="t", data=eda.Bytes(b"i" * 300)))
        return b"outer"

    eda.register_encoding(name, encode, bytes)
    rig.core.accept(eda.Event(id="outer", type="t", data=eda.Data(name, None)))
    if not flowing:
        rig.batch_open()
    written = rig.written()
    assert [each.id for each in written] == ["e0", "inner", "outer"]
    assert [each.place[0] for each in written] == [1, 2, 3]
    assert decode_event(written[2].payload).data.encode() == b"outer"


# --- failures --------------------------------------------------------------------------------------------------------


def test_fail_when_events_are_in_mid_batch_leaves_the_others_their_places() -> None:
    rig = Rig()
    rig.accept(6)
    rig.batch_open()
    assert rig.core.oldest_opened_batch
    for seq in (1, 4):
        ((event, event_id, _),) = rig.core.fail(seq)
        assert event.id == event_id == f"e{seq - 1}"
    assert rig.core.fail(1) == []
    assert rig.core.fail(99) == []
    assert not rig.core.oldest_opened_batch, "the answer to the first event is for one that is gone"
    rig.flow(3)
    assert list(rig.host.acknowledged) == ["e1", "e2"]
    rig.flow(6)
    assert list(rig.host.acknowledged) == ["e1", "e2", "e4", "e5"]
    assert (rig.core.n_failed, rig.core.n_pending) == (2, 0)


def test_fail_when_events_wait_to_be_written_passes_them_over() -> None:
    rig = Rig()
    rig.accept(5)
    for seq in (1, 3, 5):
        rig.core.fail(seq)
    rig.begin_batch()
    rig.core.start_writing()
    assert [(each.id, *each.place) for each in rig.written()] == [("e1", 1, 0), ("e3", 2, 1)]
    rig.core.commit_batch()
    assert placed(rig) == [(3, 3)]


@pytest.mark.parametrize("packs", [None, {"max_events": 1, "max_pack_bytes": 65536}], ids=["messages", "packs"])
def test_fail_when_the_last_event_waits_and_a_receipt_is_awaited_lets_the_next_one_follow_in_order(packs: Any) -> None:
    rig = Rig(packs=packs)
    (awaited,) = events(1)
    rig.core.accept_with_receipt(awaited, "receipt")
    rig.begin_batch()
    rig.accept(1)
    assert rig.core.fail(2)
    rig.core.start_writing()
    later = rig.accept(2)
    rig.core.close_pack()
    assert [each.id for each in rig.written()] == [awaited.id, *later]
    assert rig.core.n_waiting == 0


def test_fail_when_all_that_is_out_fails_says_that_nothing_is() -> None:
    rig = Rig()
    rig.accept(5)
    rig.core.use_window_mode()
    rig.core.write_oldest(False)
    rig.core.fail(1)
    assert not rig.core.oldest_is_written
    assert rig.core.oldest_waited_s() == 0
    rig.core.write_oldest(False)
    assert [each.id for each in rig.written()] == ["e0", "e1"]


def test_fail_when_the_event_had_no_id_gives_it_the_one_it_went_under() -> None:
    rig = Rig()
    event = eda.Event(type="t", meta={"a": "b"})
    event_id = rig.core.accept(event)
    failed = rig.core.fail(1)
    assert failed == [(event.replace(id=event_id), event_id, None)]
    assert event.id == ""


@pytest.mark.parametrize("n", [1, 126, 127, 128])
@pytest.mark.parametrize("flushed", [True, False])
def test_ids_when_they_are_long_are_told_whole(n: int, flushed: bool) -> None:
    rig = Rig()
    rig.window()
    for i in "ab":
        rig.core.accept(eda.Event(id=i * n, data=eda.Bytes(bytes(300))))
    if flushed:
        rig.out.flush()
    assert rig.core.id_at(1) == "a" * n
    assert rig.core.fail(1) == [(eda.Event(id="a" * n, data=eda.Bytes(bytes(300))), "a" * n, None)]
    assert rig.core.id_at(1) == ""
    rig.acknowledge(2)
    assert rig.host.acknowledged == {"b" * n: 1}


def test_overdue_when_events_are_past_their_time_names_them_in_order() -> None:
    rig = Rig(give_up_s=0.5)
    rig.accept(3)
    rig.core.fail(2)
    assert rig.core.window.overdue() == []
    time.sleep(0.51)
    rig.accept(1)
    assert rig.core.window.overdue() == [1, 3]


def test_pending_to_when_events_go_there_names_them() -> None:
    rig = Rig()
    rig.core.accept(eda.Event(type="a"))
    rig.window()
    rig.core.accept(eda.Event(type="b"))
    rig.core.accept(eda.Event(type="a", aggregate="x y"))
    assert rig.core.pending_to(b"s.a._") == [1]
    assert rig.core.pending_to(b"s.a.x%20y") == [3]
    assert rig.core.pending_to(b"s.c._") == []


@pytest.mark.parametrize("dedup", [True, False])
def test_use_destination_when_it_takes_less_names_what_is_too_large(dedup: bool) -> None:
    rig = Rig(dedup=dedup)
    rig.accept(1, size=3000)
    rig.window()
    rig.accept(1, size=10)
    rig.accept(1, size=5000)
    sizes = [len(each.header) + len(each.payload) for each in rig.written()]
    assert rig.core.use_destination(Destination("s", sizes[0])) == [(3, sizes[2])]
    assert rig.core.use_destination(Destination("s", sizes[0] - 1)) == [(1, sizes[0]), (3, sizes[2])]
    with pytest.raises(eda.ConfigError, match="max_payload"):
        rig.accept(1, size=5000)


# --- flushing --------------------------------------------------------------------------------------------------------


def test_flushed_when_all_before_it_is_settled_is_told_once() -> None:
    rig = Rig()
    rig.window()
    rig.accept(5)
    rig.written()
    rig.core.flush_to = 4
    for seq in (2, 3, 5):
        rig.acknowledge(seq)
    assert rig.host.n_flushed == 0
    rig.core.fail(1)
    assert rig.host.n_flushed == 1
    assert rig.core.flush_to == 0
    rig.acknowledge(4)
    assert rig.host.n_flushed == 1


def test_callbacks_when_they_publish_again_are_counted_rightly() -> None:
    class Again(Host):
        def on_acknowledged(self, event_id: str, sequence: int) -> None:
            super().on_acknowledged(event_id, sequence)
            if "-" not in event_id:
                rig.core.accept(eda.Event(id=f"{event_id}-{sequence}"))

    rig = Rig(host=Again())
    rig.accept(300)
    rig.batch_open()
    rig.flow(300)
    assert rig.core.n_accepted == 600
    rig.flow(600)
    assert rig.core.n_pending == 0
    assert len(rig.host.acknowledged) == 600
