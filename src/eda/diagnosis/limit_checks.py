"""Checks of the limits of a stream that drop or refuse events."""

from __future__ import annotations

from collections.abc import Iterator

from eda.amounts import duration_text, size_text
from eda.diagnosis.facts import StreamFacts
from eda.diagnosis.finding import Finding, Severity, share

__all__ = ["check_limits"]

NEARLY_FULL = 0.8
FULL = 0.95

_REFUSED = "an event store needs all events of an aggregate, so it refuses this stream"


def check_limits(stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the limits of a stream."""
    yield from _age(stream)
    yield from _size(stream)
    yield from _per_subject(stream)


def _age(stream: StreamFacts) -> Iterator[Finding]:
    options = stream.info.options
    if options.max_age_s is None:
        return
    limit_s = options.max_age_s
    message = f"The stream drops events after {duration_text(limit_s)} (max_age), whether or not they were handled"
    yield Finding(
        severity="problem" if options.store else "note",
        check="max_age",
        stream=stream.name,
        message=f"{message}; {_REFUSED}." if options.store else f"{message}.",
        advice="Remove max_age_s." if options.store else None,
    )
    for each in stream.subscriptions:
        if each.lag and each.lag_s is not None and each.lag_s >= limit_s / 2:
            yield Finding(
                severity="problem" if each.lag_s >= FULL * limit_s else "warning",
                check="lag_near_max_age",
                stream=stream.name,
                subscription=each.name,
                message=f"The oldest event that the subscription has not handled is {duration_text(each.lag_s)} old. "
                f"The stream drops it after {duration_text(limit_s)} (max_age).",
                advice="Start more members, make the handler faster, or raise max_age_s.",
            )


def _size(stream: StreamFacts) -> Iterator[Finding]:
    info = stream.info
    options = info.options
    is_dropping = options.discard == "old"
    limits = (("max_bytes", info.bytes, options.max_bytes), ("max_events", info.events, options.max_events))
    for name, used, limit in limits:
        if limit is None:
            continue
        shown = f"{size_text(used)} of {size_text(limit)}" if name == "max_bytes" else f"{used} of {limit} events"
        what = "drops its oldest events, whether or not they were handled" if is_dropping else "refuses new events"
        severity: Severity = "note"
        if used >= NEARLY_FULL * limit:
            severity = "problem" if used >= FULL * limit and not is_dropping else "warning"
        message = f"At its limit the stream {what}: it has {shown} ({name}, {share(used, limit)})"
        if is_dropping and options.store:
            severity, message = "problem", f"{message}; {_REFUSED}"
        yield Finding(
            severity=severity,
            check=name,
            stream=stream.name,
            message=f"{message}.",
            advice=f"Raise {name}, or set discard='new': a full stream then refuses events, and drops none."
            if is_dropping
            else f"Raise {name}, or remove old events: `eda streams update`, `eda streams purge`.",
        )


def _per_subject(stream: StreamFacts) -> Iterator[Finding]:
    info = stream.info
    limit = info.max_events_per_subject
    if limit is None:
        return
    if info.discard_new_per_subject:
        message = f"The stream refuses an event of a type and aggregate of which it has {limit} (max_msgs_per_subject)."
        severity: Severity = "warning"
    else:
        message = (
            f"The stream keeps the last {limit} events of each type and aggregate, and drops the others "
            "(max_msgs_per_subject)"
        )
        message += f"; {_REFUSED}." if info.options.store else "."
        severity = "problem" if info.options.store else "warning"
    yield Finding(
        severity=severity,
        check="max_msgs_per_subject",
        stream=stream.name,
        message=message,
        advice="Remove max_msgs_per_subject, unless programs need only the latest events.",
    )
