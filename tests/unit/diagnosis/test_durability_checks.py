"""eda.diagnosis.durability_checks: what a cluster answers only seconds after it has lost servers."""

from __future__ import annotations

from typing import Any

from eda.diagnosis.durability_checks import check_durability
from eda.diagnosis.facts import StreamFacts
from eda.jetstream.stream_info import info_of

LEADER = {"leader": "n2", "leader_since": "2026-01-01T00:00:00Z"}


def replica(name: str, active_s: float, **settings: Any) -> dict[str, Any]:
    return {"name": name, "current": False, "active": int(active_s * 1e9), "peer": f"peer-{name}"} | settings


def found(*replicas: dict[str, Any], **leader: str) -> dict[str, str]:
    """Return the messages about a stream with these replicas, by check."""
    state = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0}
    cluster = {"name": "c", "raft_group": "S-R3F-ZS2iQqix", "replicas": list(replicas), **leader}
    config = {"name": "orders", "subjects": ["orders", "orders.>"], "num_replicas": 3}
    answer = {"config": config, "state": state, "created": "2026-01-01T00:00:00Z", "cluster": cluster}
    facts = StreamFacts(info=info_of(answer), config=config, state=state, cluster=cluster, now_ns=0)
    return {each.check: each.message for each in check_durability(facts)}


def test_durability_when_a_server_without_a_leader_answers_does_not_guess_who_lacks_events() -> None:
    # The server that answers counts itself among the replicas, and has heard nothing of the others.
    messages = found(replica("n1", 0), replica("n2", 0), replica("n3", 3.6, current=True))
    assert messages.keys() == {"no_leader"}


def test_durability_when_a_killed_server_is_silent_for_long_says_that_it_does_not_answer() -> None:
    messages = found(replica("n1", 21.1), replica("n3", 0.09, current=True), **LEADER)
    assert messages.keys() == {"replica_offline"}
    assert "don't answer: n1." in messages["replica_offline"]


def test_durability_when_a_killed_server_was_heard_a_moment_ago_says_only_that_it_lacks_events() -> None:
    messages = found(replica("n1", 2.0, lag=3), replica("n3", 0.09, current=True), **LEADER)
    assert messages.keys() == {"replica_behind"}


def test_durability_when_a_server_has_said_that_it_stops_believes_it() -> None:
    messages = found(replica("n1", 0.5, current=True, offline=True), replica("n3", 0.09, current=True), **LEADER)
    assert messages.keys() == {"replica_offline"}
