"""Checks of subscriptions: lag, members, settings that others have changed; and of dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eda.amounts import duration_text
from eda.diagnosis.facts import Facts, StreamFacts
from eda.diagnosis.finding import Finding, Severity, counted, listed
from eda.jetstream.consumer_settings import Fault, Needs, find_faults, is_attended, subjects_of, unrepairable
from eda.jetstream.schemas import nanoseconds
from eda.subscribing.behind import SubscriptionInfo
from eda.times import NS

__all__ = ["check_dead_letters", "check_subscriptions"]

SLOW_S = 60.0
STALE_S = 7 * 86400.0
RECENT_S = 3600.0
FEW_UNACKNOWLEDGED = 1000

# By setting: how severe it is, and what follows from it.
_EFFECTS: dict[str, tuple[Severity, str]] = {
    "headers_only": ("problem", "members get events without their data"),
    "max_deliver": ("problem", "after so many deliveries the server gives an event up, and it becomes no dead letter"),
    "backoff": ("warning", "the first pause replaces the lease, so events may be delivered again too early"),
    "inactive_threshold": ("problem", "the server deletes the subscription's position when no member runs for so long"),
    "num_replicas": ("warning", "when a server is lost, the position may be lost although the stream is not"),
    "max_ack_pending": ("note", "so many events of all members together may be unacknowledged"),
}


def check_subscriptions(stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the subscriptions of a stream, and about consumers of other programs."""
    raw = {each["name"]: each for each in stream.consumers}
    for each in stream.subscriptions:
        if each.kind == "shared":
            consumer = raw.get(each.name)
            if consumer is None:
                continue  # it was created meanwhile
            yield from _settings(stream, consumer)
            yield from _stalled(stream, consumer)
            has_member = is_attended(consumer)
        else:
            has_member = each.holder is not None
        yield from _lag(stream, each, has_member=has_member)
    shared = {each.name for each in stream.subscriptions if each.kind == "shared"}
    foreign = [name for name, each in raw.items() if name not in shared and each["config"].get("durable_name")]
    if foreign:
        yield Finding(
            severity="note",
            check="foreign_consumers",
            stream=stream.name,
            message=f"Consumers that eda can't use belong to other programs: {listed(sorted(foreign))}.",
        )


def _settings(stream: StreamFacts, consumer: dict[str, Any]) -> Iterator[Finding]:
    config, info = consumer["config"], stream.info
    is_durable = bool(config.get("durable_name"))
    needs = Needs(
        ack_wait_ns=0,
        life_ns=0 if is_durable else config.get("inactive_threshold", 0),
        filter_subjects=tuple(subjects_of(config)),
        replicas=info.options.replicas,
        most_unacknowledged=FEW_UNACKNOWLEDGED,
    )
    for fault in find_faults(config, needs, is_filter_ours=False):
        severity, effect = _EFFECTS[fault.setting]
        yield Finding(
            severity=severity,
            check=fault.setting,
            stream=stream.name,
            subscription=consumer["name"],
            message=f"The subscription's consumer has {fault.setting}={_value(fault)}: {effect}.",
            advice="Start a member, which repairs it, and find out who has changed the consumer."
            if fault.setting != "max_ack_pending"
            else "If members wait for events, raise max_ack_pending of the consumer.",
        )
    for text in unrepairable(config, is_durable=is_durable, is_file=info.options.storage == "file"):
        yield Finding(
            severity="problem",
            check="unrepairable",
            stream=stream.name,
            subscription=consumer["name"],
            message=f"The subscription's consumer can't be used: {text}.",
            advice="Delete the consumer, and begin at its position: subscribe with start=.",
        )


def _value(fault: Fault) -> str:
    if fault.setting == "inactive_threshold":
        return duration_text(fault.found / NS)
    return str(fault.found)


def _stalled(stream: StreamFacts, consumer: dict[str, Any]) -> Iterator[Finding]:
    config, name = consumer["config"], consumer["name"]
    most, open_now = config.get("max_ack_pending", -1), consumer.get("num_ack_pending", 0)
    if 0 < most <= open_now and consumer.get("num_pending", 0):
        yield Finding(
            severity="warning",
            check="stalled",
            stream=stream.name,
            subscription=name,
            message=f"{open_now} events are delivered and not acknowledged, and the server delivers no more until some "
            f"are (max_ack_pending {most}).",
            advice="Look whether the handlers hang. If they are only slow, start more members with a lower prefetch.",
        )
    if consumer.get("paused"):
        yield Finding(
            severity="warning",
            check="paused",
            stream=stream.name,
            subscription=name,
            message="The subscription's consumer is paused on the server: members get no events.",
            advice=f"It ends at {config.get('pause_until', 'an unknown time')}; resume it if that is too late.",
        )
    redelivered = consumer.get("num_redelivered", 0)
    if redelivered and redelivered >= 0.1 * open_now:
        yield Finding(
            severity="note",
            check="redelivered",
            stream=stream.name,
            subscription=name,
            message=f"{redelivered} of {open_now} events in flight were delivered before: handlers fail, or members "
            "were killed.",
            advice="Look at the members' logs.",
        )


def _lag(stream: StreamFacts, each: SubscriptionInfo, *, has_member: bool) -> Iterator[Finding]:
    waiting_s = each.lag_s if each.lag_s is not None else 0.0
    idle_s = None if each.updated is None else stream.now_ns / NS - each.updated.timestamp()
    events = "an unknown number of events" if each.lag is None else counted(each.lag, "event")
    common = {"stream": stream.name, "subscription": each.name}
    if not has_member and each.lag:
        age = f", the oldest stored {duration_text(waiting_s)} ago" if each.lag_s is not None else ""
        yield Finding(
            severity="warning",
            check="no_member",
            message=f"No member handles events of the subscription, and it has {events} to handle{age}.",
            advice="Start a member. If nobody needs the subscription any more, remove it: `eda subs rm`.",
            **common,
        )
    elif not has_member and idle_s is not None and idle_s >= STALE_S:
        yield Finding(
            severity="note",
            check="no_member",
            message=f"No member has handled events of the subscription for {duration_text(idle_s)}.",
            advice="If nobody needs the subscription any more, remove it: `eda subs rm`.",
            **common,
        )
    elif each.lag and waiting_s >= SLOW_S:
        yield Finding(
            severity="warning",
            check="lag",
            message=f"The oldest of {events} to handle was stored {duration_text(waiting_s)} ago: members are slower "
            "than those who publish, or handlers fail.",
            advice="Look at the members' logs. Raise concurrency, or start more members.",
            **common,
        )
    else:
        state = "has members" if has_member else "has no member now"
        yield Finding(
            severity="ok", check="lag", message=f"The {each.kind} subscription {state}; {events} to handle.", **common
        )


def check_dead_letters(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the stream with the dead letters of this one, if it has the usual name."""
    letters = f"{stream.name}-dead"
    state = facts.states.get(letters) or {}
    if not state.get("messages"):
        return
    latest = nanoseconds(state.get("last_ts") or "")
    ago_s = max((stream.now_ns - latest) / NS, 0.0) if latest else None
    is_growing = ago_s is not None and ago_s < RECENT_S
    when = "" if ago_s is None else f", the last one {duration_text(ago_s)} ago"
    yield Finding(
        severity="warning" if is_growing else "note",
        check="dead_letters",
        stream=stream.name,
        message=f"{counted(state['messages'], 'dead letter')} in {letters}{when}: events that could not be handled.",
        advice=f"Look at them with `eda dead ls {stream.name}`, and replay or drop them.",
    )
