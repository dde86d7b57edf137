"""Checks of the subjects of a stream, and of other streams that listen to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eda.diagnosis.facts import Facts, StreamFacts
from eda.diagnosis.finding import Finding, listed
from eda.jetstream.subjects import is_covered, overlaps, stream_subjects
from eda.names import STREAM_NAME

__all__ = ["check_subjects"]


def check_subjects(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    """Yield what is found about the subjects of a stream."""
    info, name = stream.info, stream.name
    if not STREAM_NAME.fullmatch(name):
        yield Finding(
            severity="problem",
            check="name",
            stream=name,
            message="eda can't use a stream of this name: a name has 1 to 64 of A-Z a-z 0-9 _ - and begins with a "
            "letter or digit.",
        )
        return
    own = stream_subjects(name)
    for other, captured in _takers(facts.every, own):
        if other == name:
            continue
        yield Finding(
            severity="problem",
            check="subject_overlap",
            stream=name,
            message=f"The stream {other} listens to {listed(captured)}: it stores events that are published to {name}.",
            advice=f"Remove these subjects from {other}, and add {name}.> to {name}.",
        )
    for domain, streams in facts.elsewhere.items():
        for other, captured in _takers(streams, own):
            yield Finding(
                severity="warning",
                check="domain_overlap",
                stream=name,
                message=f"The stream {other} of the JetStream domain {domain} listens to {listed(captured)}. Unless "
                f"the leaf node denies these subjects, it also stores events that are published to {name}.",
                advice="Give the streams different names, or deny the subjects between the domains (deny_imports and "
                "deny_exports of the leaf node). A stream that should have the same events can be a mirror.",
            )
    if info.mirror is not None or (info.sources and not info.subjects):
        return
    if not any(overlaps(subject, f"{name}.*.*") for subject in info.subjects):
        yield Finding(
            severity="problem",
            check="subjects",
            stream=name,
            message=f"The stream does not listen to {name}.<type>.<aggregate>, so eda can't publish to it; it listens "
            f"to {listed(list(info.subjects)) or 'nothing'}.",
            advice=f"Add the subjects {name} and {name}.>.",
        )
    elif not is_covered(f"{name}.*.*", info.subjects):
        yield Finding(
            severity="warning",
            check="subjects",
            stream=name,
            message=f"The stream listens to some types and aggregates only, and refuses all others; it listens to "
            f"{listed(list(info.subjects))}.",
            advice=f"Add the subjects {name} and {name}.>.",
        )
    foreign = [each for each in info.subjects if not is_covered(each, own)]
    if foreign:
        yield Finding(
            severity="note",
            check="foreign_subjects",
            stream=name,
            message=f"The stream also stores what is published to {listed(foreign)}. Subscriptions without a "
            "filter get these messages too. For those with a filter each member filters by itself, which is slower.",
            advice="Use a stream of its own for them.",
        )


def _takers(streams: dict[str, dict[str, Any]], own: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the streams that listen to a stream's own subjects, by name, and the subjects with which they do."""
    for name, config in sorted(streams.items()):
        captured = [each for each in config.get("subjects") or [] if any(overlaps(each, one) for one in own)]
        if captured:
            yield name, captured
