"""eda.publishing._packing_core: which events are in which message, and what becomes of each of them."""

from __future__ import annotations

import sys
import time
from hashlib import blake2b
from typing import Any

import pytest
import zstandard

import eda
from eda._codec import encode_event
from eda.publishing._stream_sender import Destination
from support.publishing.packs import events_in
from support.publishing.publisher_core import Rig, Written, events

KIB = 1024


def rig_of(max_events: int = 4, max_pack_bytes: int = 64 * KIB, **options: Any) -> Rig:
    """Return a rig in window mode whose packs have few events."""
    packs = {"max_events": max_events, "max_pack_bytes": max_pack_bytes, "compress": options.pop("compress", None)}
    rig = Rig(packs=packs, **options)
    rig.window()
    rig.written()
    return rig


def ids_of(written: list[Written]) -> list[list[str]]:
    """Return the ids of the events in each message."""
    return [[event.id for event in events_in(each.payload)] for each in written]


def headers(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("NATS/1.0", *lines, "")).encode()


def pack_id(*ids: str) -> str:
    return blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


# --- what is written -------------------------------------------------------------------------------------------------


def test_accept_when_the_pack_has_max_events_writes_it() -> None:
    rig = rig_of(3)
    rig.accept(2)
    assert rig.written() == []
    rig.accept(5)
    written = rig.written()
    assert ids_of(written) == [["e0", "e1", "e2"], ["e3", "e4", "e5"]]
    assert [each.reply for each in written] == ["inbox.1", "inbox.2"]
    assert written[0].header == headers(f"Nats-Msg-Id: {pack_id('e0', 'e1', 'e2')}", "Eda-Pack: 3")
    assert (rig.core.n_open, rig.core.n_packs, rig.core.n_accepted) == (1, 2, 7)


def test_accept_when_an_event_is_in_a_pack_writes_the_same_envelope_as_alone() -> None:
    rig = rig_of(3)
    full = {"id": "a", "time": 5, "type": "t", "schema": "s", "cause": "c", "client": "x", "aggregate": "g"}
    three = [
        eda.Event(**full, data=eda.JSON({"x": 1}), meta={f"k{i}": "v" for i in range(20)}),  # type: ignore[arg-type]
        eda.Event(id="b", time=6, data=eda.Bytes(bytes(300))),
        eda.Event(id="c", time=7),
    ]
    for event in three:
        rig.core.accept(event)
    (written,) = rig.written()
    envelopes = [encode_event(event, client="me") for event in three]
    assert [each.SerializeToString() for each in events_in(written.payload)]
    at = 0
    for envelope in envelopes:
        at = written.payload.index(envelope, at) + len(envelope)
    assert at == len(written.payload)


def test_close_pack_when_it_has_one_event_writes_an_ordinary_message() -> None:
    rig = rig_of()
    event = eda.Event(id="one", type="t", aggregate="a.b", time=5)
    rig.core.accept(event)
    rig.core.close_pack()
    (written,) = rig.written()
    assert (written.subject, written.header) == ("s.t.a%2Eb", headers("Nats-Msg-Id: one"))
    assert written.payload == encode_event(event, client="me")
    rig.core.close_pack()
    assert (rig.written(), rig.core.n_open) == ([], 0)


def test_close_pack_without_dedup_writes_no_ids() -> None:
    rig = rig_of(2, dedup=False)
    rig.accept(3)
    rig.core.close_pack()
    pack, alone = rig.written()
    assert pack.header == headers("Eda-Pack: 2")
    assert (alone.header, ids_of([alone])) == (b"", [["e2"]])


@pytest.mark.parametrize(
    ("parts", "subject"),
    [
        ([("t", "a"), ("t", "a")], "s.t.a"),
        ([("t", "a"), ("t", "b")], "s.t.%pack"),
        ([("t", "a"), ("u", "a")], "s.%pack.a"),
        ([("t", "a"), ("u", "a"), ("t", "b")], "s.%pack.%pack"),
        ([("a.b", "%pack"), ("a.b", "%pack")], "s.a%2Eb.%25pack"),
        ([("", ""), ("", "")], "s._._"),
        ([("", ""), ("", "_")], "s._.%pack"),
        ([("t", "é" * 40), ("t", "é" * 40)], f"s.t.{'é' * 40}"),
    ],
)
def test_subject_of_a_pack_has_what_its_events_agree_in(parts: list[tuple[str, str]], subject: str) -> None:
    rig = rig_of(100)
    for type_, aggregate in parts:
        # Texts of their own, so that they are equal and not the same.
        rig.core.accept(eda.Event(type="".join(list(type_)), aggregate="".join(list(aggregate))))
    rig.core.close_pack()
    assert [each.subject for each in rig.written()] == [subject]


def test_subject_of_a_pack_of_received_events_is_the_same() -> None:
    rig = rig_of(100)
    for number in range(3):
        envelope = encode_event(eda.Event(id=f"i{number}", type="type", aggregate="aggregate"))
        rig.core.accept(eda._codec.decode_event(envelope))  # its texts are in the envelope
    rig.core.close_pack()
    assert [each.subject for each in rig.written()] == ["s.type.aggregate"]


def test_message_id_follows_from_the_ids_and_their_order_alone() -> None:
    found = []
    for ids, data in ((("a", "bc"), b"1"), (("a", "bc"), b"2"), (("ab", "c"), b"1"), (("bc", "a"), b"1")):
        rig = rig_of(2)
        for each in ids:
            rig.core.accept(eda.Event(id=each, data=eda.Bytes(data)))
        found += [each.header for each in rig.written()]
    assert len(set(found)) == 3
    assert found[0] == found[1]


def test_ids_when_events_have_none_are_those_that_were_returned() -> None:
    rig = rig_of(3)
    ids = [rig.core.accept(eda.Event(type="t")) for _ in range(3)]
    (written,) = rig.written()
    assert ids_of([written]) == [ids]
    assert written.header == headers(f"Nats-Msg-Id: {ids[0]}.pack", "Eda-Pack: 3")
    rig.acknowledge(1)
    assert list(rig.host.acknowledged) == ids


def test_message_id_when_some_events_have_ids_is_that_of_the_first_new_id() -> None:
    rig = rig_of(3)
    ids = [rig.core.accept(eda.Event(id=each)) for each in ("a", "", "")]
    (written,) = rig.written()
    assert written.header == headers(f"Nats-Msg-Id: {ids[1]}.pack", "Eda-Pack: 3")


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_accept_when_the_next_event_would_be_too_much_closes_the_pack_first() -> None:
    rig = rig_of(1000, 4 * KIB)
    rig.accept(10, size=KIB)
    rig.core.close_pack()
    written = rig.written()
    assert ids_of(written) == [["e0", "e1", "e2"], ["e3", "e4", "e5"], ["e6", "e7", "e8"], ["e9"]]
    assert all(len(each.payload) <= 4 * KIB for each in written)


def test_accept_when_an_event_is_larger_than_a_pack_writes_it_alone_and_in_order() -> None:
    rig = rig_of(1000, 4 * KIB)
    rig.accept(2)
    rig.accept(1, size=200 * KIB)
    rig.accept(2)
    rig.core.close_pack()
    written = rig.written()
    assert ids_of(written) == [["e0", "e1"], ["e2"], ["e3", "e4"]]
    assert written[1].header == headers("Nats-Msg-Id: e2")


@pytest.mark.parametrize("size", range(3900, 4001, 10))
def test_packs_never_are_over_the_servers_max_payload(size: int) -> None:
    rig = rig_of(1000, 64 * KIB, max_payload=2 * 4096)
    rig.accept(7, size=size)
    rig.core.close_pack()
    written = rig.written()
    assert all(len(each.header) + len(each.payload) <= 2 * 4096 for each in written)
    assert [id for ids in ids_of(written) for id in ids] == [f"e{i}" for i in range(7)]


@pytest.mark.parametrize(
    ("event", "argument"),
    [
        (eda.Event(id="bad id"), "id"),
        (eda.Event(id="x" * 129), "id"),
        (eda.Event(type="t" * 5000), "type"),
        (eda.Event(aggregate="*" * 1400), "aggregate"),
        (eda.Event(data=eda.Bytes(bytes(8192))), "data"),
    ],
)
def test_accept_when_an_event_is_refused_leaves_the_pack_as_it_was(event: eda.Event, argument: str) -> None:
    rig = rig_of(100, max_payload=8192)
    plain = Rig(max_payload=8192)
    rig.accept(2)
    with pytest.raises(eda.ConfigError) as as_today:
        plain.core.accept(event)
    with pytest.raises(eda.ConfigError) as found:
        rig.core.accept(event)
    assert (str(found.value), found.value.argument) == (str(as_today.value), argument)
    with pytest.raises(eda.EncodeError):
        rig.core.accept(eda.Event(data=eda.JSON(object())))
    assert rig.written() == []
    rig.accept(1)
    rig.core.close_pack()
    assert ids_of(rig.written()) == [["e0", "e1", "e2"]]


def test_accept_when_the_destination_refuses_the_event_raises_that() -> None:
    def check(event: eda.Event) -> None:
        if event.type == "no":
            raise eda.ConfigError("no", argument="stream")

    rig = rig_of(100, check=check)
    rig.accept(1)
    with pytest.raises(eda.ConfigError, match="no"):
        rig.core.accept(eda.Event(type="no"))
    assert rig.core.n_open == 1


@pytest.mark.parametrize("n", [1300, 2600, 4040])
def test_accept_when_the_subject_is_as_long_as_can_be_writes_the_event_alone(n: int) -> None:
    rig = rig_of(100)
    rig.accept(1)
    rig.core.accept(eda.Event(id="long", type="t" * n))
    rig.accept(1)
    rig.core.close_pack()
    written = rig.written()
    assert ids_of(written) == [["e0"], ["long"], ["e2"]]
    assert written[1].subject == f"s.{'t' * n}._"


def test_use_destination_when_it_takes_less_closes_the_pack_and_names_packs_that_are_too_large() -> None:
    rig = rig_of(100)
    rig.core.stop_writing()
    rig.accept(50, size=100)
    ((seq, size),) = rig.core.use_destination(Destination("s", 4096))
    assert (seq, size > 5000) == (1, True)
    assert len(rig.core.fail(1)) == 50
    rig.accept(50, size=100)
    rig.core.close_pack()
    rig.core.start_writing()
    assert all(len(each.payload) < 4096 for each in rig.written())


# --- room ------------------------------------------------------------------------------------------------------------


def test_is_full_counts_the_events_of_the_open_pack_and_of_all_others() -> None:
    rig = rig_of(4, max_pending=10)
    assert rig.core.max_messages == 2
    rig.accept(9)
    assert (rig.core.is_full, rig.core.room, rig.core.n_open) == (False, 1, 1)
    rig.accept(1)
    assert (rig.core.is_full, rig.core.room) == (True, 0)
    rig.core.room_wanted = True
    rig.acknowledge(1)
    assert (rig.host.n_room, rig.core.is_full, rig.core.room) == (1, False, 4)


def test_is_full_counts_the_bytes_of_the_open_pack() -> None:
    rig = rig_of(1000, max_bytes=2048)
    rig.core.accept(eda.Event(data=eda.Bytes(bytes(4000))))
    assert rig.core.is_full
    assert rig.core.n_bytes > 4000
    rig.core.close_pack()
    assert rig.core.is_full
    rig.core.room_wanted = True
    rig.acknowledge(1)
    assert (rig.host.n_room, rig.core.is_full, rig.core.n_bytes) == (1, False, 0)


def test_accept_many_stops_where_the_window_is_full() -> None:
    rig = rig_of(4, max_pending=10)
    ids: list[str] = []
    assert rig.core.accept_many(events(25), 0, ids) == 10
    assert ids == [f"e{i}" for i in range(10)]
    with pytest.raises(eda.ConfigError, match=r"events\[10\]"):
        rig_of(4).core.accept_many([*events(10), "x"], 0, [])


def test_accept_many_stops_after_4096_events_and_when_the_connection_takes_no_more() -> None:
    rig = rig_of(100, max_pending=50_000, max_bytes=10 * KIB**2)
    many = events(10_000, size=200)
    assert [rig.core.accept_many(many, at, []) for at in (0, 4096, 8192)] == [4096, 8192, 10_000]
    rig.out.set_write(lambda data: rig.out.set_paused(True))
    at = rig.core.accept_many(many, 0, [])
    assert 0 < at < 4096
    assert rig.core.accept_many(many, at, []) == at


def test_accept_if_flowing_takes_an_event_in_any_state_but_not_if_full_or_paused() -> None:
    rig = rig_of(4, max_pending=10)
    rig.core.stop_writing()
    assert rig.core.accept_if_flowing(eda.Event(id="a")) == "a"
    assert rig.core.accept_if_flowing("a") is None
    rig.out.set_paused(True)
    assert rig.core.accept_if_flowing(eda.Event()) is None
    rig.out.set_paused(False)
    rig.accept(9)
    assert rig.core.accept_if_flowing(eda.Event()) is None


def test_accept_if_flowing_after_2048_events_wants_the_event_loop_to_run() -> None:
    rig = rig_of(100, max_pending=50_000)
    many = events(2048)
    for turn in (rig.core.note_turn, lambda: rig.acknowledge(25)):
        assert not rig.core.needs_turn
        assert all(rig.core.accept_if_flowing(event) for event in many)
        assert rig.core.needs_turn
        assert rig.core.accept_if_flowing(eda.Event()) is None
        assert not rig.core.is_full
        turn()
    assert (rig.core.needs_turn, rig.core.n_accepted) == (False, 4096)
    assert rig.core.accept_if_flowing(eda.Event(id="next")) == "next"


# A tick of the clock takes 1 to 10 ms; a busy machine may take longer between two calls.
TICK_NS = 10_000_000


def test_accept_if_flowing_gives_times_that_are_exact_at_the_begin_of_a_turn_and_late_by_a_tick_at_most() -> None:
    rig = rig_of(3, max_pending=50_000)
    times: list[tuple[int, int]] = []
    for _ in range(40):
        rig.out.flush()
        for _ in range(3):
            before = time.time_ns()
            assert rig.core.accept_if_flowing(eda.Event())
            times.append((before, time.time_ns()))
            time.sleep(0.004)
    sent = [event.time for each in rig.written() for event in events_in(each.payload)]
    assert len(sent) == len(times) == 120
    assert sent == sorted(sent)
    assert all(before <= at <= after for at, (before, after) in list(zip(sent, times, strict=True))[::3])
    assert all(before - TICK_NS <= at <= after for at, (before, after) in zip(sent, times, strict=True))


def test_accept_in_different_ways_in_one_turn_gives_times_that_do_not_go_back() -> None:
    rig = rig_of(4, max_pending=50_000)
    for i in range(30):
        time.sleep(0.0005)
        rig.core.accept_if_flowing(eda.Event())
        time.sleep(0.0005)
        if i % 3 == 0:
            rig.core.accept(eda.Event())
        elif i % 3 == 1:
            rig.core.accept_many([eda.Event()], 0, [])
        else:
            rig.core.accept_with_receipt(eda.Event(), object())
    rig.core.close_pack()
    sent = [event.time for each in rig.written() for event in events_in(each.payload)]
    assert len(sent) == 60
    assert sent == sorted(sent)


def test_accept_if_flowing_in_one_turn_reads_the_clock_anew_at_each_tick() -> None:
    rig = rig_of(100, max_pending=50_000)
    begun = time.time_ns()
    while time.time_ns() < begun + 3 * TICK_NS:
        assert rig.core.accept_if_flowing(eda.Event())
        time.sleep(0.0005)
    rig.core.close_pack()
    sent = [event.time for each in rig.written() for event in events_in(each.payload)]
    assert 3 <= len(set(sent)) < len(sent)
    assert sent == sorted(sent)


# --- the host --------------------------------------------------------------------------------------------------------


def test_host_is_asked_for_a_timer_once_and_told_of_packs_that_are_not_written() -> None:
    rig = rig_of(2)
    rig.core.timer_runs = True
    rig.accept(4)
    assert (rig.host.n_opened, rig.host.n_closed) == (2, 0)
    rig.core.linger_runs = True
    rig.accept(3)
    assert rig.host.n_opened == 2
    assert 0 <= rig.core.open_s() < 1
    rig.core.stop_writing()
    rig.accept(1)
    assert (rig.host.n_closed, rig.core.open_s()) == (1, -1)


def test_accept_when_encoding_sends_too_puts_both_into_packs() -> None:
    rig = rig_of(2)

    class Sends:
        def __init__(self, n: int) -> None:
            self.n = n

    def encode(value: Sends) -> bytes:
        for i in range(value.n):
            rig.core.accept(eda.Event(id=f"inner{i}"))
        return b"{}"

    eda.register_encoding("test-sends", encode, lambda data: data)
    rig.accept(1)
    rig.core.accept(eda.Event(id="outer", data=eda.Data("test-sends", Sends(2))))
    rig.core.close_pack()
    assert ids_of(rig.written()) == [["e0", "inner0"], ["inner1", "outer"]]


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_acknowledgement_of_a_pack_is_that_of_each_event() -> None:
    rig = rig_of(3)
    ids = rig.accept(7)
    rig.core.close_pack()
    rig.acknowledge(2, 12)
    assert (rig.host.acknowledged, rig.host.sequences) == (dict.fromkeys(ids[3:6], 1), [12] * 3)
    rig.acknowledge(1, 11)
    rig.acknowledge(3, 13)
    rig.acknowledge(3, 13)
    assert rig.host.sequences == [12] * 3 + [11] * 3 + [13]
    assert (rig.core.n_acknowledged, rig.core.n_pending, rig.core.n_bytes) == (7, 0, 0)


def test_flow_acknowledgements_count_packs_and_settle_events() -> None:
    rig = rig_of(3)
    rig.core.rewind()
    rig.accept(7)
    rig.batch_open()
    rig.accept(3)
    assert [each.place for each in rig.written()] == [(1, 0), (2, 1), (3, 1)]
    rig.flow(2)
    assert (rig.core.n_acknowledged, list(rig.host.acknowledged)[-1]) == (6, "e5")
    rig.core.close_pack()
    assert rig.core.settle_batch_to(4, 9)
    assert (rig.core.n_acknowledged, rig.host.sequences) == (10, [0] * 10)


def test_fail_returns_each_event_with_its_id_and_receipt() -> None:
    rig = rig_of(3)
    first = rig.core.accept(eda.Event(type="t"))
    receipt = object()
    assert rig.core.accept_with_receipt(eda.Event(id="b"), receipt) == (1, 1, "b")
    rig.accept(1)
    failed = rig.core.fail(1)
    assert [(event.id, event_id) for event, event_id, _ in failed] == [(first, first), ("b", "b"), ("e2", "e2")]
    assert [each for _, _, each in failed] == [None, receipt, None]
    assert rig.core.fail(1) == []
    assert (rig.core.n_failed, rig.core.n_pending, rig.core.receipts) == (3, 0, {})


KINDS = [
    eda.Event(),
    eda.Event(type="t", data=eda.Bytes(b"\x00\xff")),
    eda.Event(type="é", aggregate="a b", data=eda.Bytes(b"")),
    eda.Event(type="t", schema="s", cause="c", meta={"k": "ü", "": "", "k2": "v"}, data=eda.String("text ü")),
    eda.Event(data=eda.String("")),
    eda.Event(data=eda.JSON({"a": [1, 2.5, None]})),
    eda.Event(data=eda.MsgPack((1, 2))),
    eda.Event(time=5, type="t"),
    eda.Event(client="x", type="t"),
    eda.Event(stream="another", type="t"),
    eda.Event(id="own", type="t"),
    eda.Event(data=eda.Data.from_encoded("string", b"\xff not UTF-8")),
    eda.Event(data=eda.Bytes(bytearray(b"changes"))),
]


@pytest.mark.parametrize("compress", [None, zstandard.ZstdCompressor().compress], ids=["plain", "zstd"])
@pytest.mark.parametrize("in_order", [1, -1])
@pytest.mark.parametrize("max_events", [1, 2, 5, 100])
def test_fail_gives_back_events_as_they_were_with_their_ids(compress: Any, in_order: int, max_events: int) -> None:
    rig = rig_of(max_events, compress=compress, wants_acks=False)
    given = KINDS[::in_order] * 3
    ids = [rig.core.accept(event) for event in given]
    rig.core.close_pack()
    failed = [each for seq in range(1, rig.core.next_seq) for each in rig.core.fail(seq)]
    assert [event_id for _, event_id, _ in failed] == ids
    wanted = [event.replace(id=event_id) for event, event_id in zip(given, ids, strict=True)]
    assert [event for event, _, _ in failed] == wanted
    assert [event.data.type for event, _, _ in failed] == [event.data.type for event in wanted]
    assert [event.meta for event, _, _ in failed] == [event.meta for event in wanted]
    assert [(event.sequence, event.index, event.ack_time, event.stream) for event, _, _ in failed] == [
        (0, 0, None, event.stream) for event in given
    ]


@pytest.mark.parametrize("writing", [True, False])
def test_fail_when_the_pack_is_not_written_yet_gives_back_its_events(writing: bool) -> None:
    rig = rig_of(2, wants_acks=False)
    if not writing:
        rig.core.stop_writing()
    ids = [rig.core.accept(eda.Event(type=f"t{i}")) for i in range(3)]
    rig.core.close_pack(False)
    failed = rig.core.fail(1) + rig.core.fail(2)
    assert [(event.type, event.id, event_id) for event, event_id, _ in failed] == [
        (f"t{i}", ids[i], ids[i]) for i in range(3)
    ]


def test_accept_when_an_event_can_be_read_back_does_not_keep_it() -> None:
    for event, is_kept in ((KINDS[1], False), (KINDS[3], False), (KINDS[5], True), (KINDS[7], True), (KINDS[10], True)):
        for wants_acks in (False, True):
            rig = rig_of(100, wants_acks=wants_acks)
            before = sys.getrefcount(event)
            rig.core.accept(event)
            assert sys.getrefcount(event) - before == int(is_kept or wants_acks)


@pytest.mark.parametrize("n", [1, 3])
def test_id_at_when_events_are_not_kept_is_that_of_the_first(n: int) -> None:
    rig = rig_of(n, wants_acks=False)
    ids = [rig.core.accept(eda.Event(type="t")) for _ in range(n)]
    assert rig.core.id_at(1) == ids[0]
    rig = rig_of(n, wants_acks=False)
    rig.core.accept(eda.Event(id="own"))
    for _ in range(n - 1):
        rig.core.accept(eda.Event())
    assert rig.core.id_at(1) == "own"


def test_rewind_writes_the_same_bytes_again_and_counts_events() -> None:
    rig = rig_of(3)
    rig.accept(7)
    rig.core.close_pack()
    before = rig.written()
    rig.window()
    again = rig.written()
    assert [(each.header, each.payload, each.subject) for each in again] == [
        (each.header, each.payload, each.subject) for each in before
    ]
    assert rig.core.n_resent == 7


def test_receipts_of_a_pack_are_given_back_with_its_sequence() -> None:
    rig = rig_of(3)
    receipts = [object() for _ in range(4)]
    places = [rig.core.accept_with_receipt(event, receipt) for event, receipt in zip(events(4), receipts, strict=True)]
    assert places == [(1, 0, "e0"), (1, 1, "e1"), (1, 2, "e2"), (2, 0, "e3")]
    rig.core.drop_receipt(1, 1)
    rig.core.drop_receipt(1, 1)
    rig.core.drop_receipt(9, 9)
    rig.core.close_pack()
    rig.acknowledge(1, 40)
    rig.acknowledge(2, 41)
    assert rig.host.receipts == [(receipts[0], 40), (receipts[2], 40), (receipts[3], 41)]
    assert rig.core.receipts == {}


def test_pack_with_a_receipt_waits_for_a_batch_of_its_own() -> None:
    rig = rig_of(2)
    rig.core.rewind()
    rig.accept(4)
    rig.batch_open()
    rig.core.accept_with_receipt(eda.Event(id="r"), object())
    rig.accept(3)
    assert [each.place for each in rig.written()] == [(1, 0), (2, 1)]
    assert rig.core.next_wants_receipt
    assert rig.host.n_closed
    rig.core.commit_batch()
    assert rig.core.settle_batch_to(2)
    rig.begin_batch(alone=True)
    assert [each.place for each in rig.written()][-1] == (1, 2)
    rig.flow(1)
    assert rig.host.receipts == []
    assert rig.core.settle_batch_to(1, 77)
    assert [sequence for _, sequence in rig.host.receipts] == [77]


# --- compression -----------------------------------------------------------------------------------------------------


def compress(data: Any) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_compression_when_it_makes_a_pack_smaller_is_written() -> None:
    rig = rig_of(50, compress=compress)
    rig.accept(50, size=100)
    (written,) = rig.written()
    assert written.payload.startswith(b"\x8a\x01\x04zstd\x92\x01")
    assert len(written.payload) < 1000
    assert ids_of([written]) == [[f"e{i}" for i in range(50)]]
    assert b"Eda-Pack: 50\r\n" in written.header


def test_compression_when_it_saves_nothing_is_not_written() -> None:
    rig = rig_of(3, compress=lambda data: bytes(data) + b"x")
    rig.accept(3)
    rig.accept(1)
    rig.core.close_pack()
    pack, alone = rig.written()
    assert pack.payload.startswith(b"\x7a")
    assert alone.header == headers("Nats-Msg-Id: e3")


def test_compression_of_an_event_alone_makes_a_pack_of_one() -> None:
    rig = rig_of(3, compress=compress)
    rig.accept(1, size=100_000)
    (written,) = rig.written()
    assert (written.subject, ids_of([written])) == ("s.t._", [["e0"]])
    assert b"Eda-Pack: 1\r\n" in written.header
    assert len(written.payload) < 500


class Flaky:
    """Compresses, unless it is to fail."""

    def __init__(self) -> None:
        self.fails = True

    def __call__(self, data: Any) -> bytes:
        if self.fails:
            raise MemoryError
        return compress(data)


def test_close_pack_when_compression_fails_leaves_the_pack_open() -> None:
    flaky = Flaky()
    rig = rig_of(50, compress=flaky)
    rig.accept(3)
    with pytest.raises(MemoryError):
        rig.core.close_pack()
    flaky.fails = False
    rig.accept(1)
    rig.core.close_pack()
    assert ids_of(rig.written()) == [["e0", "e1", "e2", "e3"]]


@pytest.mark.parametrize(
    ("n", "event"),
    [
        (2, eda.Event(id="last", type="t")),
        (0, eda.Event(id="last", type="t", data=eda.Bytes(bytes(5 * KIB)))),
        (0, eda.Event(id="last", type="t" * 1300)),
    ],
)
def test_accept_when_a_whole_pack_cannot_be_closed_takes_the_event_once_and_no_other(n: int, event: eda.Event) -> None:
    flaky = Flaky()
    rig = rig_of(3, 4 * KIB, compress=flaky)
    rig.accept(n)
    assert rig.core.accept(event) == "last"  # an error would make the caller send it again
    assert (rig.core.n_accepted, rig.core.n_open) == (n + 1, n + 1)
    with pytest.raises(MemoryError):
        rig.core.accept(eda.Event(id="next"))
    assert (rig.core.n_accepted, rig.core.n_open, rig.written()) == (n + 1, n + 1, [])
    flaky.fails = False
    rig.core.accept(eda.Event(id="next"))
    rig.core.close_pack()
    assert [ids[-1] for ids in ids_of(rig.written())] == ["last", "next"]


def test_close_pack_without_write_does_not_compress() -> None:
    rig = rig_of(50, compress=Flaky())
    rig.accept(3)
    rig.core.close_pack(write=False)
    assert rig.core.unwritten() == [1]
    assert [event.id for event, _, _ in rig.core.fail(1)] == ["e0", "e1", "e2"]
    assert (rig.written(), rig.core.n_pending) == ([], 0)


def test_accept_when_no_pack_could_be_opened_begins_the_next_one_anew() -> None:
    rig = rig_of(100)

    def fail() -> None:
        raise MemoryError

    noted = rig.host.on_pack_opened
    rig.host.on_pack_opened = fail
    with pytest.raises(MemoryError):
        rig.core.accept(eda.Event(id="first", type="t" * 200, aggregate="a"))
    assert (rig.core.n_accepted, rig.core.n_open) == (0, 0)
    rig.host.on_pack_opened = noted
    rig.core.accept(eda.Event(id="second", type="u"))
    rig.core.close_pack()
    (written,) = rig.written()
    assert (written.subject, ids_of([written])) == ("s.u._", [["second"]])
    assert written.payload.startswith(b"\x0a\x06second")
