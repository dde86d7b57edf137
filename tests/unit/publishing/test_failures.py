"""eda.publishing.failures: each failure is reported to all callers that wait for it, and then removed."""

from __future__ import annotations

import eda
from eda.publishing.failures import MAX_KEPT, Failures


def add(failures: Failures, *seqs: int) -> None:
    for seq in seqs:
        failures.add(seq, eda.Event(id=f"e{seq}"), RuntimeError())


def ids_of(error: eda.PublishFailed | None) -> list[int]:
    return [int(event.id[1:]) for event, _ in error.failed] if error else []


def test_failures_when_told_are_told_once() -> None:
    failures = Failures()
    add(failures, 3, 1)
    listener = failures.listen(10)
    add(failures, 2)
    assert ids_of(failures.tell(listener)) == [1, 2, 3]
    failures.leave(listener)
    assert not failures
    listener = failures.listen(10)
    assert failures.tell(listener) is None


def test_failures_when_several_listen_are_told_to_each_up_to_where_it_waits() -> None:
    failures = Failures()
    first, second = failures.listen(3), failures.listen(5)
    add(failures, 1, 2, 3, 4, 5)
    assert ids_of(failures.tell(first)) == [1, 2]
    failures.leave(first)
    third = failures.listen(6)
    assert ids_of(failures.tell(second)) == [1, 2, 3, 4]
    failures.leave(second)
    assert ids_of(failures.tell(third)) == [3, 4, 5], "1 and 2 were told before it came"
    failures.leave(third)
    assert not failures


def test_failures_when_a_listener_leaves_untold_stay_for_the_next() -> None:
    failures = Failures()
    listener = failures.listen(5)
    add(failures, 1)
    failures.leave(listener)
    listener = failures.listen(5)
    assert ids_of(failures.tell(listener)) == [1]


def test_failures_when_too_many_are_untold_overflow_until_they_are_told() -> None:
    failures = Failures()
    waiting = failures.listen(2)
    add(failures, *range(MAX_KEPT + 1))
    assert failures.is_overfull
    assert len(failures.tell_all().failed) == MAX_KEPT + 1
    assert not failures.is_overfull
    assert ids_of(failures.tell(waiting)) == [0, 1], "it came before they were told to somebody else"
    failures.leave(waiting)
    assert not failures


def test_failures_when_listeners_always_overlap_do_not_pile_up() -> None:
    failures = Failures()
    listener = failures.listen(0)
    for seq in range(10_000):
        add(failures, seq)
        following = failures.listen(seq + 1)
        failures.tell(following)
        failures.leave(listener)
        listener = following
        assert len(failures._kept) <= 1001
