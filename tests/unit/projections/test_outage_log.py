"""What the log says about a database that does not work."""

from __future__ import annotations

import logging

import pytest

import eda.projections.outage_log
from eda.projections.outage_log import OutageLog
from helpers import Logged


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may move."""
    time = [1_000.0]
    monkeypatch.setattr(eda.projections.outage_log.time, "monotonic", lambda: time[0])
    return time


def outage_log() -> OutageLog:
    return OutageLog(logging.getLogger("eda"), "orders-v1", "memory")


def test_log_when_an_outage_lasts_has_one_line_each_minute_and_one_at_the_end(logged: Logged, now: list[float]) -> None:
    log = outage_log()
    for _ in range(200):
        log.failed("a transaction", OSError("down"))
        now[0] += 1
    log.works()
    log.works()
    assert [each.levelname for each in logged.records] == ["WARNING"] * 4 + ["INFO"]
    assert logged.find("projection orders-v1: a transaction failed, because of the database memory .*: down")


def test_log_when_short_failures_follow_each_other_has_few_lines(logged: Logged, now: list[float]) -> None:
    log = outage_log()
    for _ in range(200):
        log.failed("a transaction", OSError("deadlock"))
        log.works()
        now[0] += 1
    assert len(logged.records) == 8
