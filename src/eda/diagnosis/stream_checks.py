"""Checks of settings of a stream that programs don't expect."""

from __future__ import annotations

from collections.abc import Iterator

from eda.amounts import duration_text, size_text
from eda.diagnosis.facts import Facts, StreamFacts
from eda.diagnosis.finding import Finding, counted, listed
from eda.times import NS

__all__ = ["check_stream"]

# The default time-out of a publish is 30 s, or half of the window if that is shorter.
WANTED_WINDOW_S = 60.0
SHORT_WINDOW_S = 10.0
LONG_WINDOW_S = 3600.0


def check_stream(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the settings of a stream."""
    info = stream.info
    yield Finding(
        severity="ok",
        check="stream",
        stream=info.name,
        message=f"The stream has {counted(info.events, 'event')}, {size_text(info.bytes)}, and "
        f"{counted(len(stream.consumers), 'consumer')}.",
    )
    if stream.unread:
        yield Finding(
            severity="note",
            check="unread",
            stream=info.name,
            message=f"The subscriptions of the stream could not be examined: {stream.unread}.",
            advice="Use credentials that may read the stream, its consumers and the bucket of positions.",
        )
    yield from _publishing(facts, stream)
    if info.mirror is None:
        yield from _window(stream)
    yield from _retention(stream)
    yield from _reading(stream)
    yield from _removing(stream)
    yield from _consumer_limits(stream)
    yield from _consumers(facts, stream)


def _publishing(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    info, name = stream.info, stream.name
    if info.no_ack:
        yield Finding(
            severity="problem",
            check="no_ack",
            stream=name,
            message="The stream has no_ack: it never acknowledges, so eda refuses to publish to it.",
            advice="Set no_ack to false.",
        )
    if info.allow_msg_counter:
        yield Finding(
            severity="problem",
            check="counter",
            stream=name,
            message="The stream takes only changes of counters (allow_msg_counter): it refuses events.",
            advice="Use another stream for events.",
        )
    if info.sealed:
        yield Finding(
            severity="note",
            check="sealed",
            stream=name,
            message="The stream is sealed: nothing can be stored in it or removed from it any more.",
        )
    if info.mirror is not None:
        yield Finding(
            severity="note",
            check="mirror",
            stream=name,
            message=f"The stream is a mirror of {info.mirror}: nothing can be published to it, and it may be behind.",
            advice=f"Publish to {info.mirror}.",
        )
    if info.sources:
        yield Finding(
            severity="note",
            check="sources",
            stream=name,
            message=f"The stream copies the events of {listed(list(info.sources))}. They keep their subjects, and "
            "their duplicates are not removed by the ids of this stream.",
        )
    if info.subject_transform is not None:
        yield Finding(
            severity="warning",
            check="subject_transform",
            stream=name,
            message=f"The stream changes subjects to {info.subject_transform!r}: filters by type and aggregate may "
            "match nothing.",
            advice="Remove subject_transform, or make sure that stream, type and aggregate keep their places.",
        )
    if info.mirror is None and not info.sealed:
        for setting, is_on, has, effect in (
            ("atomic", info.atomic, facts.api.has_atomic, "conn.publish_batch is refused"),
            ("fast_ingest", info.fast_ingest, facts.api.has_fast_ingest, "publishers are slower"),
        ):
            if has and not is_on:
                yield Finding(
                    severity="note",
                    check=setting,
                    stream=name,
                    message=f"The stream does not allow what the server can do: {setting} is off, so {effect}.",
                    advice=f"Set {setting}: `eda streams update`.",
                )


def _window(stream: StreamFacts) -> Iterator[Finding]:
    window_s = stream.config.get("duplicate_window", 0) / NS
    if window_s < WANTED_WINDOW_S:
        yield Finding(
            severity="warning" if window_s < SHORT_WINDOW_S else "note",
            check="dedup_window",
            stream=stream.name,
            message=f"The stream remembers ids for {duration_text(window_s)}. A publish gives up after half of it, "
            f"{duration_text(window_s / 2)}: an outage that lasts longer makes publishes fail.",
            advice="Set dedup_window_s to 120: `eda streams update`.",
        )
    elif window_s > LONG_WINDOW_S:
        yield Finding(
            severity="note",
            check="dedup_window",
            stream=stream.name,
            message=f"The stream remembers ids for {duration_text(window_s)}. The server keeps each of them in memory.",
            advice="If the server needs too much memory, set a shorter dedup_window_s.",
        )


def _retention(stream: StreamFacts) -> Iterator[Finding]:
    retention = stream.info.retention
    if retention == "interest":
        yield Finding(
            severity="warning",
            check="retention",
            stream=stream.name,
            message="The stream keeps an event only until all consumers have acknowledged it (retention interest). "
            "Without a consumer, events are dropped at once. Events can't be replayed, and ordered subscriptions are "
            "refused.",
            advice="Set retention to limits.",
        )
    elif retention == "workqueue":
        yield Finding(
            severity="warning",
            check="retention",
            stream=stream.name,
            message="The stream removes each event when one consumer has acknowledged it (retention workqueue). Events "
            "can't be replayed, and only one subscription may get each event.",
            advice="Copy the events to a stream with retention limits (`eda copy`).",
        )


def _reading(stream: StreamFacts) -> Iterator[Finding]:
    info = stream.info
    if not info.allow_direct:
        yield Finding(
            severity="note",
            check="direct_get",
            stream=info.name,
            message="The stream does not allow direct reads, so only its leader reads single events: slower.",
            advice="Set allow_direct.",
        )
    most = info.max_event_bytes
    if most is not None:
        yield Finding(
            severity="note",
            check="max_msg_size",
            stream=info.name,
            message=f"The stream refuses events, and packs of events, of more than {size_text(most)} (max_msg_size).",
        )


def _removing(stream: StreamFacts) -> Iterator[Finding]:
    info = stream.info
    denied = [name for name, is_on in (("deny_delete", info.deny_delete), ("deny_purge", info.deny_purge)) if is_on]
    if denied and info.options.store:
        yield Finding(
            severity="warning",
            check="deny_delete",
            stream=info.name,
            message=f"The stream has {' and '.join(denied)}: aggregates can't be forgotten.",
            advice="If personal data must be deleted one day, copy the events to a stream without it.",
        )
    elif denied and info.name.endswith("-dead"):
        yield Finding(
            severity="warning",
            check="deny_delete",
            stream=info.name,
            message=f"The stream has {' and '.join(denied)}: dead letters stay after they were replayed.",
            advice="Use a dead-letter stream without it.",
        )
    if stream.config.get("allow_rollup_hdrs") and info.options.store:
        yield Finding(
            severity="warning",
            check="rollup",
            stream=info.name,
            message="The stream belongs to event stores, and allows messages that remove all earlier ones (rollup).",
            advice="Set allow_rollup_hdrs to false.",
        )


def _consumer_limits(stream: StreamFacts) -> Iterator[Finding]:
    info, limits = stream.info, stream.config.get("consumer_limits") or {}
    if life_ns := limits.get("inactive_threshold", 0):
        yield Finding(
            severity="problem",
            check="consumer_inactive_threshold",
            stream=info.name,
            message=f"The stream lets each consumer be deleted after {duration_text(life_ns / NS)} without members "
            "(consumer_limits): a shared subscription then loses its position.",
            advice="Remove inactive_threshold from the stream's consumer_limits.",
        )
    if most := limits.get("max_ack_pending", 0):
        yield Finding(
            severity="note",
            check="consumer_max_ack_pending",
            stream=info.name,
            message=f"The stream allows {most} unacknowledged events for each shared subscription, for all members "
            "together (consumer_limits).",
            advice="If members wait for events, raise max_ack_pending in the stream's consumer_limits.",
        )


def _consumers(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    """The server applies the smaller one of two limits. It applies that of the account to each stream by itself."""
    tier = (facts.account.get("tiers") or {}).get(f"R{stream.info.options.replicas}", facts.account)
    by_account = (tier.get("limits") or {}).get("max_consumers", -1)
    by_stream = stream.info.max_consumers
    is_by_account = by_account > 0 and (by_stream is None or by_account < by_stream)
    most, n_consumers = by_account if is_by_account else by_stream, len(stream.consumers)
    if most is None or n_consumers < 0.8 * most:
        return
    owner = "account" if is_by_account else "stream"
    yield Finding(
        severity="problem" if n_consumers >= most else "warning",
        check="account_consumers" if is_by_account else "max_consumers",
        stream=stream.name,
        message=f"The stream has {n_consumers} of at most {most} consumers (max_consumers of the {owner}). At the "
        "limit no subscription can be opened.",
        advice=f"Raise max_consumers of the {owner}, or remove consumers that nobody uses.",
    )
