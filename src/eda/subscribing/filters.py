"""Which subjects a subscription, its consumer and the other members ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eda.jetstream.consumer_settings import subjects_of
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import escape_token, stream_subjects
from eda.names import FORGOTTEN

__all__ = ["FILTER_NOTE", "noted_filter", "server_filter", "shared_filter", "types_with_tombstones"]

FILTER_NOTE = "eda-filter"  # the key in a shared consumer's metadata under which its members note their filter


def server_filter(info: StreamInfo, wanted: list[str], *, filters_reliably: bool) -> list[str]:
    """Return the subjects that the server may be asked to filter by. If there are none, only the client filters.

    `wanted` is the result of `filter_subjects`. `filters_reliably` says whether the server has no bug in its filters.

    The server can filter only where the subject of every event begins with the stream's name. A mirror and a sourced
    stream keep the subjects of their origin, and a stream that somebody else made has its own subjects. There, such a
    filter would match nothing, and the server would report no error.

    In the stream of an event store, a filter of types also asks for tombstones. They are not part of `wanted`, because
    that is the filter that members compare and keep: it must not change when a stream becomes an event store.
    """
    has_own_subjects = set(info.subjects) <= set(stream_subjects(info.name))
    is_copy = info.mirror is not None or info.sources or info.subject_transform is not None
    if not filters_reliably or is_copy or not has_own_subjects:
        return []
    if info.retention == "workqueue":
        # Two consumers of a work queue may not ask for the same subject, so no consumer asks for the stream's own.
        return [subject for subject in wanted if subject != info.name]
    return _with_tombstones(info.name, wanted) if info.options.store else wanted


def _with_tombstones(stream: str, wanted: list[str]) -> list[str]:
    """Return the subjects, and the subjects of the tombstones of the same aggregates."""
    tombstones = []
    for subject in wanted:
        _, *tokens = subject.split(".")
        if tokens and tokens[0] != "*":
            tombstones.append(f"{stream}.{escape_token(FORGOTTEN)}.{tokens[1]}")
    return list(dict.fromkeys([*wanted, *tombstones]))


def types_with_tombstones(types: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return the types of events that a subscription handles, by its option `types`; None: all types.

    A tombstone says that an aggregate was forgotten. Whoever has copies of the aggregate's events must learn of it.
    """
    return None if types is None else (*types, FORGOTTEN)


def noted_filter(config: dict[str, Any]) -> list[str]:
    """Return the filter that the members of a shared consumer have noted in its metadata; empty if there is no note."""
    note: str = (config.get("metadata") or {}).get(FILTER_NOTE, "")
    return note.split()


def shared_filter(config: dict[str, Any]) -> list[str]:
    """Return the subjects that the members of a shared consumer want; empty if they want all events.

    The note in the metadata is used first, because the consumer itself may have no filter: the members filter as well.
    """
    return noted_filter(config) or subjects_of(config)
