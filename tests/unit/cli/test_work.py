"""eda.cli.work: payloads have the size asked for, and what is wrong with those received is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import eda
from eda.cli.limits import MIN_SIZES
from eda.cli.work import Work

N_EVENTS = 12
ALL_IS_WELL = {"lost": 0, "duplicated": 0, "reordered": 0, "unexpected": 0, "wrong_size": 0}


@dataclass
class Received:
    """What a receiver reads of an event: only a received event has a sequence and an index."""

    aggregate: str
    data: eda.Data
    sequence: int
    index: int = 0


def work_of(**options: Any) -> Work:
    return Work(**{"client": "test", "events": N_EVENTS, "size": 128, "encoding": "bytes", **options})


def received(work: Work) -> list[Received]:
    """Give all events in the order of the stream, one publisher's after the other's."""
    events = [event for publisher in range(work.publishers) for event in work.published_by(publisher)]
    return [Received(event.aggregate, event.data, sequence) for sequence, event in enumerate(events, 1)]


def judge(work: Work, events: list[Received]) -> dict[str, int]:
    receiver = work.receiver()
    for event in events:
        receiver.take(event)  # type: ignore[arg-type]
    return receiver.check([6, 6] if work.publishers == 2 else [N_EVENTS])


@pytest.mark.parametrize("encoding", ["bytes", "json"])
@pytest.mark.parametrize("larger", [0, 1, 1000])
def test_payload_when_made_has_the_size_asked_for(encoding: str, larger: int) -> None:
    size = MIN_SIZES[encoding] + larger
    work = work_of(encoding=encoding, size=size, publishers=2)
    events = received(work)
    assert [len(event.data.encode()) for event in events] == [size] * N_EVENTS
    assert {event.data.type for event in events} == {encoding}
    assert judge(work, events) == ALL_IS_WELL


@pytest.mark.parametrize("encoding", ["bytes", "json"])
def test_check_when_an_event_is_lost_or_comes_twice_or_is_cut_says_so(encoding: str) -> None:
    work = work_of(encoding=encoding, publishers=2)
    events = received(work)
    assert judge(work, events[:3] + events[4:]) == ALL_IS_WELL | {"lost": 1}
    assert judge(work, events[:-1]) == ALL_IS_WELL | {"lost": 1}
    assert judge(work, [*events, events[2]]) == ALL_IS_WELL | {"duplicated": 1}
    other = received(work_of(encoding=encoding, publishers=2, size=127))
    assert judge(work, [*events[:4], other[4], *events[5:]]) == ALL_IS_WELL | {"wrong_size": 1}


def test_check_when_an_event_is_nobody_s_says_so() -> None:
    work = work_of()
    stranger = Received("stranger", received(work)[0].data, N_EVENTS + 1)
    assert judge(work, [*received(work), stranger]) == ALL_IS_WELL | {"unexpected": 1}


@pytest.mark.parametrize(("kind", "reordered"), [("shared", 0), ("exclusive", 1), ("serial", 1)])
def test_check_when_order_is_not_kept_says_so_where_it_is_promised(kind: str, reordered: int) -> None:
    work = work_of(kind=kind)
    events = received(work)
    events[3], events[4] = events[4], events[3]
    assert judge(work, events) == ALL_IS_WELL | {"reordered": reordered}


def test_check_when_the_events_of_a_pack_are_in_another_order_says_so() -> None:
    work = work_of(kind="serial", packed=True)
    events = [Received(each.aggregate, each.data, 7, index) for index, each in enumerate(received(work))]
    assert judge(work, events) == ALL_IS_WELL
    events[3], events[4] = events[4], events[3]
    assert judge(work, events) == ALL_IS_WELL | {"reordered": 1}
