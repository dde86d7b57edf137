"""Checks of where a stream keeps its events, and how many copies there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eda.diagnosis.facts import Facts, StreamFacts
from eda.diagnosis.finding import Finding, listed
from eda.jetstream.bucket import BUCKET_STREAM
from eda.times import NS

__all__ = ["check_bucket", "check_durability", "check_silent"]

SILENT_S = 10.0  # after so long the server counts a replica as not current, even if nothing is written


def check_durability(stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the storage and the replicas of a stream."""
    name, options = stream.name, stream.info.options
    if options.storage == "memory":
        yield Finding(
            severity="warning",
            check="memory_storage",
            stream=name,
            message="The stream keeps its events in memory: when its servers stop, all its events are lost.",
            advice="Copy the events to a stream with file storage (`eda copy`). The storage can't be changed.",
        )
    if stream.config.get("persist_mode") == "async":
        yield Finding(
            severity="warning",
            check="async_persist",
            stream=name,
            message="The server acknowledges events before it has written them even to the system's cache "
            "(persist_mode async): if it is killed, acknowledged events are lost.",
            advice="Create a stream without persist_mode, and copy the events (`eda copy`).",
        )
    if options.replicas == 1:
        yield Finding(
            severity="note" if stream.info.single_server is not False else "warning",
            check="replicas",
            stream=name,
            message="The stream has one copy: while its server is away nothing can be published or read, and if the "
            "server loses its disk, all events are lost.",
            advice="Set replicas to 3 on a cluster of three servers: `eda streams update`.",
        )
    elif options.replicas % 2 == 0:
        yield Finding(
            severity="note",
            check="replicas",
            stream=name,
            message=f"The stream has {options.replicas} replicas. It needs {options.replicas // 2 + 1} of them, so it "
            f"survives the loss of no more servers than with {options.replicas - 1}.",
            advice="Use 3 or 5 replicas.",
        )
    yield from _peers(stream)


def _peers(stream: StreamFacts) -> Iterator[Finding]:
    cluster, name = stream.cluster, stream.name
    has_leader = bool(cluster.get("leader"))
    if cluster.get("name") and not has_leader:
        yield _no_leader(
            name, "The stream has no leader: nothing can be published or read until its servers elect one."
        )
    replicas = cluster.get("replicas") or []
    offline = [str(each.get("name")) for each in replicas if _is_offline(each)]
    # Only the leader knows how much the others have.
    behind = [
        str(each.get("name")) for each in replicas if has_leader and not each.get("current") and not _is_offline(each)
    ]
    if offline:
        yield Finding(
            severity="warning",
            check="replica_offline",
            stream=name,
            message=f"Replicas of the stream are offline or don't answer: {listed(offline)}. The stream stops when "
            "this holds for half of its replicas or more.",
            advice="Bring the servers back, or remove the peers from the stream.",
        )
    if behind:
        yield Finding(
            severity="warning",
            check="replica_behind",
            stream=name,
            message=f"Replicas of the stream do not have all events yet: {listed(behind)}. Until they have them, the "
            "loss of the other servers loses events.",
            advice="If it lasts, look at the load and the disks of these servers.",
        )


def _is_offline(replica: dict[str, Any]) -> bool:
    """Return whether the replica's server has said that it stops, or has been silent for long.

    A server that was killed says nothing. The cluster counts it as offline only after minutes.
    """
    silent_ns = replica.get("active", 0)
    return bool(replica.get("offline")) or (not replica.get("current") and silent_ns > SILENT_S * NS)


def check_silent(facts: Facts) -> Iterator[Finding]:
    """Yield what is found about streams whose leader does not answer."""
    for name in facts.silent:
        effect = "nothing can be published or read"
        if name == BUCKET_STREAM:
            effect = "no ordered subscription can read or store its position"
        yield _no_leader(name, f"No leader of the stream answers: {effect}.")


def _no_leader(stream: str, message: str) -> Finding:
    return Finding(
        severity="problem",
        check="no_leader",
        stream=stream,
        message=message,
        advice="Look whether the servers that keep the stream run and reach each other.",
    )


def check_bucket(facts: Facts) -> Iterator[Finding]:
    """Yield what is found about the bucket in which ordered subscriptions keep their positions."""
    config = facts.every.get(BUCKET_STREAM)
    if config is None:
        return
    if config.get("storage") == "memory":
        yield Finding(
            severity="problem",
            check="positions_in_memory",
            message=f"The positions of ordered subscriptions are kept in memory ({BUCKET_STREAM}): when the server "
            "stops, they are lost, and all events may be handled again.",
            advice="Stop all ordered subscriptions, delete the bucket, and let eda create it again.",
        )
    least = config.get("num_replicas", 1)
    most = max((each.info.options.replicas for each in facts.examined), default=1)
    if least < most:
        yield Finding(
            severity="warning",
            check="positions_replicas",
            message=f"The positions of ordered subscriptions have {least} replicas ({BUCKET_STREAM}), but a stream has "
            f"{most}: when that server is away, no ordered subscription handles events.",
            advice=f"Set the replicas of {BUCKET_STREAM} to {most}.",
        )
