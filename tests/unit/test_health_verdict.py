"""eda.health_verdict: which conditions are problems, and which verdict they lead to."""

from __future__ import annotations

from typing import Any

import pytest

from eda.health_verdict import verdict_of


def report(**changes: Any) -> dict[str, Any]:
    """Return a report in which all is well, apart from these changes."""
    server = {"address": "nats://h:1", "silent_s": None}
    well: dict[str, Any] = {"connected": True, "state": "connected", "closing": False, "server": server}
    well |= {"disconnected_s": None, "last_failure": None, "subscriptions": [], "publishers": []}
    return well | {"projections": [], "views": [], "relays": []} | changes


def subscription(**changes: Any) -> dict[str, Any]:
    return {"name": "me", "stream": "s", "state": "active", "error": None, "stalled": None} | changes


def publisher(**changes: Any) -> dict[str, Any]:
    return {"kind": "publisher", "stream": "s", "oldest_pending_s": 0.0, "timeout_s": 30.0} | changes


def projection(**changes: Any) -> dict[str, Any]:
    streams = [{"stream": "s", "state": "active"}]
    return {"name": "p", "version": 1, "state": "open", "error": None, "streams": streams} | changes


DOWN: dict[str, dict[str, Any]] = {
    "the connection is not open yet": {"state": "new", "connected": False},
    "the connection is closed": {"state": "closed", "connected": False},
    "the connection is being closed": {"closing": True},
    "the connection to nats://h:1 has been lost for 3.2 s": {"connected": False, "disconnected_s": 3.21},
    "the connection to nats://h:1 has been lost for 3.2 s; the last attempt to reconnect failed: refused": {
        "connected": False,
        "disconnected_s": 3.21,
        "last_failure": "refused",
    },
    "the server at nats://h:1 has not answered for 0.8 s": {"server": {"address": "nats://h:1", "silent_s": 0.8}},
}

DEGRADED: dict[str, dict[str, Any]] = {
    "subscription me to s has ended: Closed: x": {"subscriptions": [subscription(state="ended", error="Closed: x")]},
    "subscription me to s is suspended: another member changed the consumer's filter": {
        "subscriptions": [subscription(state="suspended")]
    },
    "subscription me to s handles nothing, because its position can't be stored": {
        "subscriptions": [subscription(state="not_stored")]
    },
    "subscription me to s has an open circuit: its handlers fail for one event after another": {
        "subscriptions": [subscription(state="circuit_open")]
    },
    "subscription me to s makes no progress: why": {"subscriptions": [subscription(stalled="why")]},
    "the publisher to s has waited 15.1 s for the acknowledgement of its oldest event, which fails after 30 s": {
        "publishers": [publisher(oldest_pending_s=15.1)]
    },
    "a call of publish to s has waited 20.0 s for the acknowledgement of its oldest event, which fails after 30 s": {
        "publishers": [publisher(kind="publish", oldest_pending_s=20.0)]
    },
    "projection p version 1 has ended: Closed: x": {"projections": [projection(state="ended", error="Closed: x")]},
    "projection p version 1 can't use its database, and applies nothing of s": {
        "projections": [projection(streams=[{"stream": "s", "state": "no_database"}])]
    },
    "the view of projection p can't use its database": {"views": [{"name": "p", "state": "no_database"}]},
    "the relay of outbox o has ended: x": {"relays": [{"name": "o", "state": "ended", "error": "x"}]},
    "the relay of outbox o can't use its database": {"relays": [{"name": "o", "state": "no_database"}]},
}

WELL: dict[str, dict[str, Any]] = {
    "nothing": {},
    "reconnected": {"state": "reconnected"},
    "standby": {"subscriptions": [subscription(state="standby")]},
    "paused": {"subscriptions": [subscription(state="paused")]},
    "opening": {"subscriptions": [subscription(state="opening")]},
    "publisher within half of its time": {"publishers": [publisher(oldest_pending_s=15.0)]},
    "publisher that is not open yet": {"publishers": [publisher(timeout_s=None)]},
    "projection that stands by": {"projections": [projection(streams=[{"stream": "s", "state": "standby"}])]},
    "relay that stands by": {"relays": [{"name": "o", "state": "standby"}]},
}


@pytest.mark.parametrize("problem", DOWN)
def test_verdict_when_the_connection_can_not_be_used_is_down(problem: str) -> None:
    assert verdict_of(report(**DOWN[problem])) == ("down", [problem])


@pytest.mark.parametrize("problem", DEGRADED)
def test_verdict_when_something_does_not_do_its_work_is_degraded(problem: str) -> None:
    assert verdict_of(report(**DEGRADED[problem])) == ("degraded", [problem])


@pytest.mark.parametrize("name", WELL)
def test_verdict_when_all_do_their_work_or_wait_as_told_is_ok(name: str) -> None:
    assert verdict_of(report(**WELL[name])) == ("ok", [])


def test_verdict_when_there_are_several_problems_names_all_and_the_worst_counts() -> None:
    status, problems = verdict_of(
        report(closing=True, subscriptions=[subscription(stalled="a")], publishers=[publisher(oldest_pending_s=29.0)])
    )
    assert (status, len(problems)) == ("down", 3)
