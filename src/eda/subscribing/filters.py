"""Which subjects a subscription, its consumer and the other members ask for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from eda.jetstream.consumer_settings import subjects_of
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import PACK_TOKEN, escape_token, stream_subjects
from eda.names import FORGOTTEN

__all__ = ["noted_filter", "server_filter", "shared_filter", "types_with_tombstones", "with_note"]

FILTER_NOTE = "eda-filter"  # the key in a shared consumer's metadata under which its members note their filter


def server_filter(
    info: StreamInfo, wanted: list[str], *, filters_reliably: bool, was_packed: bool = False
) -> list[str]:
    """Return the subjects that the server may be asked to filter by. If there are none, only the client filters.

    `wanted` is the result of `filter_subjects`. `filters_reliably` says whether the server has no bug in its filters.

    The server can filter only where the subject of every event begins with the stream's name. A mirror and a sourced
    stream keep the subjects of their origin, and a stream that somebody else made has its own subjects. There, such a
    filter would match nothing, and the server would report no error.

    In the stream of an event store, a filter of types also asks for tombstones. In a packed stream, a filter also asks
    for packs in which types or aggregates differ. These subjects are not part of `wanted`, because that is the filter
    that members compare and keep: it must not depend on the settings of a stream. `was_packed`: the stream had its mark
    before, so it may have packs even if somebody has removed the mark.
    """
    has_own_subjects = set(info.subjects) <= set(stream_subjects(info.name))
    is_copy = info.mirror is not None or info.sources or info.subject_transform is not None
    if not filters_reliably or is_copy or not has_own_subjects:
        return []
    if info.retention == "workqueue":
        # Two consumers of a work queue may not ask for the same subject, so no consumer asks for the stream's own.
        wanted = [subject for subject in wanted if subject != info.name]
    elif info.options.store:
        wanted = _with_tombstones(info.name, wanted)
    return _with_packs(wanted) if info.options.packed or was_packed else wanted


def _with_packs(wanted: list[str]) -> list[str]:
    """Return the subjects, and the subjects of all packs that may have events on these subjects."""
    asked = []
    for subject in wanted:
        stream, *tokens = subject.split(".")
        choices = [[stream], *([token] if token == "*" else [token, PACK_TOKEN] for token in tokens)]
        asked += [".".join(each) for each in product(*choices)]
    return list(dict.fromkeys(asked))


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


def with_note(metadata: dict[str, str] | None, wanted: list[str]) -> dict[str, str]:
    """Return the metadata of a shared consumer with this filter as its note; without a note if there is no filter."""
    others = {key: value for key, value in (metadata or {}).items() if key != FILTER_NOTE}
    return others | {FILTER_NOTE: " ".join(wanted)} if wanted else others


def noted_filter(config: dict[str, Any]) -> list[str]:
    """Return the filter that the members of a shared consumer have noted in its metadata; empty if there is no note."""
    note: str = (config.get("metadata") or {}).get(FILTER_NOTE, "")
    return note.split()


def shared_filter(config: dict[str, Any]) -> list[str]:
    """Return the subjects that the members of a shared consumer want; empty if they want all events.

    The note in the metadata is used first, because the consumer itself may have no filter: the members filter as well.
    The subjects of packs are left out, as they are in what a subscription wants.
    """
    return noted_filter(config) or [each for each in subjects_of(config) if PACK_TOKEN not in each.split(".")]
