"""eda.cli.check: the demo's check finds what it is told to look for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest

from eda.cli.check import Arrivals, ReadModel, Verdict, check, sensor_id, share_of, value_of
from eda.cli.limits import N_SENSORS

N_EVENTS = 3 * N_SENSORS + 1  # sensor 0 has four readings, every other one three
ALL_IS_WELL = Verdict(lost=0, duplicated=0, reordered=0, unexpected=0, wrong_values=0)

Reading = tuple[str, int, float]


def readings(n_events: int = N_EVENTS) -> list[Reading]:
    """Give what the demo publishes, in the order of rounds over all sensors."""
    every = [
        (count, sensor_id(sensor), value_of(sensor, count))
        for sensor in range(N_SENSORS)
        for count in range(1, share_of(sensor, n_events, N_SENSORS) + 1)
    ]
    return [(sensor, count, value) for count, sensor, value in sorted(every)]


def judge(received: Iterable[Reading], n_events: int = N_EVENTS) -> Verdict:
    model = ReadModel(n_events)
    for sensor, count, value in received:
        model.add(sensor, count, value)
    return check(n_events, model)


def place_of(sensor: int, count: int) -> int:
    """Give where that reading stands among all."""
    return readings().index((sensor_id(sensor), count, value_of(sensor, count)))


@pytest.mark.parametrize("n_events", [1, 999, 1000, 1001, N_EVENTS])
def test_check_when_everything_came_once_and_in_order_passes(n_events: int) -> None:
    assert len(readings(n_events)) == n_events
    assert judge(readings(n_events), n_events) == ALL_IS_WELL
    assert ALL_IS_WELL.ok


def test_check_when_aggregates_are_mixed_but_each_is_in_order_passes() -> None:
    assert judge(sorted(readings())) == ALL_IS_WELL


def test_check_when_nothing_came_fails() -> None:
    verdict = judge([])
    assert (verdict.lost, verdict.wrong_values, verdict.ok) == (N_EVENTS, N_SENSORS, False)


@pytest.mark.parametrize("count", [1, 2])
def test_check_when_an_event_in_between_is_lost_fails(count: int) -> None:
    received = readings()
    del received[place_of(7, count)]
    assert judge(received) == Verdict(lost=1, duplicated=0, reordered=0, unexpected=0, wrong_values=0)
    assert not judge(received).ok


def test_check_when_the_last_event_of_an_aggregate_is_lost_fails_and_the_model_is_wrong() -> None:
    received = readings()
    del received[place_of(0, 4)]
    assert judge(received) == Verdict(lost=1, duplicated=0, reordered=0, unexpected=0, wrong_values=1)


def test_check_when_an_aggregate_is_lost_counts_all_of_it() -> None:
    received = [reading for reading in readings() if reading[0] != sensor_id(5)]
    assert judge(received) == Verdict(lost=3, duplicated=0, reordered=0, unexpected=0, wrong_values=1)


@pytest.mark.parametrize("distance", [1, N_SENSORS])
def test_check_when_an_event_comes_twice_fails(distance: int) -> None:
    received = readings()
    at = place_of(7, 1)
    received.insert(at + distance, received[at])
    assert judge(received) == Verdict(lost=0, duplicated=1, reordered=0, unexpected=0, wrong_values=0)
    assert not judge(received).ok


def test_check_when_the_last_event_comes_twice_fails() -> None:
    assert judge([*readings(), readings()[-1]]).duplicated == 1


def test_check_when_everything_comes_twice_counts_each_once() -> None:
    assert judge([reading for reading in readings() for _ in range(2)]).duplicated == N_EVENTS


def test_check_when_two_events_of_an_aggregate_change_places_fails() -> None:
    received = readings()
    one, other = place_of(7, 1), place_of(7, 2)
    received[one], received[other] = received[other], received[one]
    assert judge(received) == Verdict(lost=0, duplicated=0, reordered=1, unexpected=0, wrong_values=0)
    assert not judge(received).ok


def test_check_when_the_last_two_change_places_the_model_is_wrong_too() -> None:
    received = readings()
    one, other = place_of(7, 2), place_of(7, 3)
    received[one], received[other] = received[other], received[one]
    assert judge(received) == Verdict(lost=0, duplicated=0, reordered=1, unexpected=0, wrong_values=1)


def test_check_when_an_event_comes_late_and_again_counts_both() -> None:
    received = readings()
    late = received.pop(place_of(7, 2))
    received += [late, late]
    assert judge(received) == Verdict(lost=0, duplicated=1, reordered=1, unexpected=0, wrong_values=1)


def test_check_when_the_last_value_is_wrong_fails() -> None:
    received = readings()
    sensor, count, value = received[place_of(7, 3)]
    received[place_of(7, 3)] = (sensor, count, value + 0.01)
    assert judge(received) == Verdict(lost=0, duplicated=0, reordered=0, unexpected=0, wrong_values=1)
    assert not judge(received).ok


@pytest.mark.parametrize("count", [0, -1, 4, 10**15])
def test_check_when_a_count_was_never_published_fails_and_keeps_memory_small(count: int) -> None:
    received = readings()
    received.insert(0, (sensor_id(7), count, 1.0))
    assert judge(received) == Verdict(lost=0, duplicated=0, reordered=0, unexpected=1, wrong_values=0)
    assert not judge(received).ok


def test_check_when_an_aggregate_was_never_published_fails() -> None:
    assert judge([*readings(), ("sensor-x", 1, 1.0)]) == Verdict(
        lost=0, duplicated=0, reordered=0, unexpected=1, wrong_values=1
    )


@pytest.mark.parametrize("n_events", [1, 999, 12_345, 100_000_000])
def test_readings_when_shared_out_add_up(n_events: int) -> None:
    assert sum(share_of(sensor, n_events, N_SENSORS) for sensor in range(N_SENSORS)) == n_events


def test_value_of_when_counting_on_changes_every_time() -> None:
    for sensor in (0, 1, 999):
        values = [value_of(sensor, count) for count in range(1, 1000)]
        assert all(one != other for one, other in pairwise(values))


@pytest.mark.parametrize(
    ("came", "lost", "beyond", "duplicated"),
    [
        ([1, 2, 3], 0, 0, 0),
        ([1, 3, 2], 0, 0, 0),
        ([1, 3], 1, 0, 0),
        ([1, 2], 1, 0, 0),
        ([], 3, 0, 0),
        ([1, 2, 2, 3], 0, 0, 1),
        ([1, 2, 3, 4], 0, 1, 0),
        ([1, 3, 5], 1, 2, 0),
    ],
)
def test_arrivals_when_the_number_published_is_told_afterwards_are_judged_by_it(
    came: list[int], lost: int, beyond: int, duplicated: int
) -> None:
    arrivals = Arrivals({"a": 1000})
    for number in came:
        arrivals.arrive("a", number)
    assert (arrivals.n_lost({"a": 3}), arrivals.n_beyond({"a": 3}), arrivals.n_duplicated) == (lost, beyond, duplicated)
