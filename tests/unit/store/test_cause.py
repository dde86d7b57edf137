"""Cause and correlation of the events that a handler appends."""

from __future__ import annotations

import pytest

import eda
from eda.store import cause
from eda.store.cause import with_cause

HANDLED = eda.Event(type="order-paid", id="e1")


def test_events_when_no_event_is_handled_stay_as_they_are() -> None:
    events = [eda.Event(type="a"), eda.Event(type="b")]
    assert [each is other for each, other in zip(with_cause(events), events, strict=True)] == [True, True]


def test_events_when_an_event_is_handled_get_its_id_and_the_id_as_correlation() -> None:
    (event,) = with_cause([eda.Event(type="a", meta={"tenant": "x"})], HANDLED)
    assert event.cause == "e1"
    assert event.meta == {"tenant": "x", "correlation": "e1"}
    assert HANDLED.meta == {}


def test_events_when_the_handled_event_has_a_correlation_get_it() -> None:
    (event,) = with_cause([eda.Event(type="a")], HANDLED.replace(meta={"correlation": "request-7"}))
    assert (event.cause, event.meta) == ("e1", {"correlation": "request-7"})


@pytest.mark.parametrize(
    ("own", "cause", "correlation"),
    [
        (eda.Event(type="a", cause="own"), "own", "e1"),
        (eda.Event(type="a", meta={"correlation": "own"}), "e1", "own"),
        (eda.Event(type="a", cause="own", meta={"correlation": "own"}), "own", "own"),
        (eda.Event(type="a", meta={"correlation": ""}), "e1", "e1"),
    ],
    ids=["cause", "correlation", "both", "an empty correlation"],
)
def test_event_when_it_has_its_own_keeps_it(own: eda.Event, cause: str, correlation: str) -> None:
    (event,) = with_cause([own], HANDLED)
    assert (event.cause, event.meta["correlation"]) == (cause, correlation)


def test_events_when_the_handled_event_has_no_id_stay_as_they_are() -> None:
    events = [eda.Event(type="a")]
    assert with_cause(events, eda.Event(type="other"))[0] is events[0]


def test_events_when_a_handler_runs_get_the_cause_that_it_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cause, "handled_event", lambda: HANDLED)
    assert [event.cause for event in with_cause([eda.Event(type="a"), eda.Event(type="b")])] == ["e1", "e1"]
