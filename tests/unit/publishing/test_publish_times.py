"""How long events were pending, as the cores of publishers and `conn.publish` count it."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

import eda
from eda.errors import Closed
from eda.publishing._stream_sender import Destination, StreamSender
from eda.publishing._window import PublishWindow
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from support.publishing.publisher_core import Rig

PACKS = {"max_events": 3, "max_pack_bytes": 10_000, "compress": None}


def n_timed(core: object) -> int:
    return sum(core.durations.read()[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("wants_acks", [False, True])
def test_time_in_window_mode_is_counted_for_each_acknowledged_event(wants_acks: bool) -> None:
    rig = Rig(wants_acks=wants_acks)
    rig.window()
    rig.accept(3)
    rig.written()
    time.sleep(0.02)
    rig.acknowledge(1)
    rig.acknowledge(3)
    rig.acknowledge(3)
    counts, sum_s = rig.core.durations.read()
    assert sum(counts) == 2
    assert 0.04 <= sum_s < 4


@pytest.mark.parametrize("wants_acks", [False, True])
def test_time_in_fast_mode_is_counted_for_each_event_that_an_answer_settles(wants_acks: bool) -> None:
    rig = Rig(wants_acks=wants_acks)
    rig.accept(2)
    time.sleep(0.02)
    rig.accept(3)
    rig.batch_open()
    rig.written()
    rig.flow(4)
    counts, sum_s = rig.core.durations.read()
    assert (sum(counts), rig.core.n_acknowledged) == (4, 4)
    assert 0.04 <= sum_s < 4
    rig.flow(5)
    assert n_timed(rig.core) == 5


@pytest.mark.parametrize("mode", ["window", "fast"])
def test_time_with_packs_is_counted_for_each_event(mode: str) -> None:
    rig = Rig(packs=PACKS)
    if mode == "window":
        rig.window()
        rig.accept(3)
        rig.written()
        rig.acknowledge(1)
    else:
        rig.accept(3)
        rig.batch_open()
        rig.written()
        rig.flow(1)
    assert (n_timed(rig.core), rig.core.n_acknowledged) == (3, 3)


def test_time_when_an_event_fails_is_not_counted() -> None:
    rig = Rig()
    rig.window()
    rig.accept(1)
    rig.written()
    rig.core.fail(1)
    assert n_timed(rig.core) == 0


@pytest.mark.parametrize("packs", [None, PACKS])
def test_oldest_age_is_that_of_the_oldest_unsettled_event(packs: dict[str, object] | None) -> None:
    rig = Rig(packs=packs)
    rig.window()
    assert rig.core.oldest_age_s() == 0.0
    rig.accept(1)
    time.sleep(0.02)
    assert 0.02 <= rig.core.oldest_age_s() < 2
    rig.core.close_pack()
    rig.written()
    assert 0.02 <= rig.core.oldest_age_s() < 2
    rig.acknowledge(1)
    assert rig.core.oldest_age_s() == 0.0


def test_publish_when_it_is_settled_counts_times_and_errors() -> None:
    out = Outbound(lambda: None)
    out.set_write(lambda data: None)
    sender = StreamSender(PublishWindow(10), out, b"in.", "me", lambda *answer: None)
    parser = Parser()
    parser.register(1, sender)
    waiters: list[Future[int]] = [Future(), Future()]
    assert sender.oldest_age_s() == 0.0
    for waiter in waiters:
        sender.publish(Destination("orders", 10**6), eda.Event(type="t"), waiter, 5.0, 30.0)  # type: ignore[arg-type]
    out.flush()
    time.sleep(0.02)
    sender.resend(1, 5.0)
    assert 0.02 <= sender.oldest_age_s() < 2
    payload = b'{"stream":"orders","seq":7}'
    parser.feed(b"MSG in.1 1 %d\r\n%s\r\n" % (len(payload), payload))
    sender.fail(2, Closed("it"))
    sender.fail(2, Closed("it"))
    assert sender.oldest_age_s() == 0.0
    counts, sum_s = sender.durations.read()
    assert (sum(counts), sender.errors.counts) == (1, {"eda.errors.Closed": 1})
    assert 0.02 <= sum_s < 2
