"""eda.jetstream.pull_limits: durations as Go writes them, and what refusals say of limits."""

from __future__ import annotations

from typing import Any

import pytest

from eda.errors import ServerError
from eda.jetstream.pull_limits import PullLimits, duration_s, lowered_consumer

NS = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m0s", 60), ("1h2m3.5s", 3723.5), ("500ms", 0.5), ("1.5s", 1.5), ("2µs", 2e-6), ("7ns", 7e-9)],
)
def test_duration_when_go_wrote_it_is_read(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "30 s", "-1s", "1s!", "1d", "١s" * 2])
def test_duration_when_it_is_none_is_not_read(text: str) -> None:
    assert duration_s(text) is None


@pytest.mark.parametrize(
    ("config", "err_code", "description", "lowered"),
    [
        ({"max_ack_pending": 65_536}, 10121, "max ack pending exceeds system limit of 500", {"max_ack_pending": 500}),
        ({}, 10121, "max ack pending exceeds system limit of 500", {"max_ack_pending": 500}),
        ({"max_ack_pending": 500}, 10121, "max ack pending exceeds system limit of 500", None),
        ({"max_ack_pending": 65_536}, 10121, "max ack pending exceeds system limit of 0", None),
        ({"max_ack_pending": 65_536}, 10121, "max ack pending exceeds system limit of many", None),
        ({"max_ack_pending": 65_536}, 10121, "max ack pending exceeds", None),
        ({"max_ack_pending": 65_536}, 10026, "some limit of 5", None),
        ({"inactive_threshold": 60 * NS}, 10153, "system limit of 5s", {"inactive_threshold": 5 * NS}),
        ({"inactive_threshold": 60 * NS}, 10153, "system limit of 5", None),
    ],
)
def test_consumer_when_a_limit_refuses_it_asks_for_less(
    config: dict[str, Any], err_code: int, description: str, lowered: dict[str, Any] | None
) -> None:
    assert lowered_consumer(config, ServerError(400, err_code, description)) == lowered


def test_pull_when_limits_are_known_stays_within_them() -> None:
    limits = PullLimits()
    assert limits.within(4096, 30 * NS, 1000) == (4096, 30 * NS, 1000)
    limits.read({"max_batch": 10, "max_expires": NS, "max_bytes": 500, "max_waiting": 3})
    assert limits.within(4096, 30 * NS, 1000) == (10, NS, 500)
    assert limits.within(5, NS // 2, 100) == (5, NS // 2, 100)
    assert limits.within(1, NS, None) == (1, NS, None)
    assert limits.n_waiting == 3
    limits.read({"max_batch": -1, "max_expires": None})
    assert limits.within(4096, 30 * NS, 1000) == (4096, 30 * NS, 1000)


def test_pull_when_its_refusal_names_a_limit_learns_it_once() -> None:
    limits = PullLimits()
    assert limits.learn("exceeded maxrequestbatch of 100") is True
    assert limits.learn("exceeded maxrequestbatch of 100") is False
    assert limits.learn("exceeded maxrequestbatch of 50") is True
    assert limits.learn("exceeded maxrequestexpires of 1m0s") is True
    assert limits.learn("exceeded maxrequestmaxbytes of 2048") is True
    assert limits.within(4096, 600 * NS, 4096) == (50, 60 * NS, 2048)


@pytest.mark.parametrize(
    "description",
    [
        "exceeded maxwaiting",
        "leadership change",
        "exceeded maxrequestbatch of 0",
        "exceeded maxrequestbatch of -5",
        "exceeded maxrequestbatch of 99999999999999999999999",
        "exceeded maxrequestexpires of 5",
    ],
)
def test_pull_when_its_refusal_names_no_limit_learns_nothing(description: str) -> None:
    limits = PullLimits()
    assert limits.learn(description) is None
    assert limits.within(4096, NS, 4096) == (4096, NS, 4096)
