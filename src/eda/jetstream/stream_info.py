"""A stream as the server describes it, and the checks that it takes events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eda.errors import ConfigError
from eda.jetstream.labels import PACKED, STORE
from eda.jetstream.schemas import nanoseconds
from eda.jetstream.subjects import is_covered, overlaps
from eda.options import StreamOptions
from eda.times import NS

__all__ = ["StreamInfo", "check_takes_events", "check_takes_subject", "info_of"]


@dataclass(frozen=True)
class StreamInfo:
    """A stream as the server describes it.

    `events` and `bytes`: how much it stores. A pack counts as one event. `created`: when it was created. `subjects`:
    the subjects to which it listens. `options`: its settings, as far as StreamOptions has them; `Streams.update` leaves
    all others untouched. `atomic` and `fast_ingest`: whether the stream accepts atomic and fast-ingest batches.

    The fields from `retention` onwards are settings that only other tools change. `retention`: `limits`, `interest` or
    `workqueue`. `mirror`: the stream of which this one is a copy, or None. `sources`: the streams that are copied into
    this one. `subject_transform`: the pattern to which the stream changes subjects; None: it does not change them.
    `no_ack`: the stream never acknowledges a publish. `sealed`: nothing can be stored or removed. `deny_delete`:
    single events can't be removed. `deny_purge`: the stream can't be purged. `max_events_per_subject`,
    `max_event_bytes` and `max_consumers`: limits; None: no limit. `discard_new_per_subject`: a full subject refuses new
    events. `allow_direct`: each replica answers reads. `allow_msg_ttl`: a message may say when it expires.
    `allow_msg_counter`: the stream takes only changes of counters. `single_server`: the server that has the stream
    belongs to no cluster, so there is no other copy. None: not known; a single server does not say so after a change.

    `last_time_ns`: when the last event was stored, in nanoseconds since 1970; 0 if no event was ever stored.
    `first_time_ns`: when the first event was stored that is still there; 0 if there is none. `consumers`: how many
    consumers the stream has; readers of ordered subscriptions are among them.
    """

    name: str
    events: int
    bytes: int
    first_sequence: int
    last_sequence: int
    created: datetime
    subjects: tuple[str, ...]
    options: StreamOptions
    atomic: bool
    fast_ingest: bool
    retention: str = "limits"
    mirror: str | None = None
    sources: tuple[str, ...] = ()
    subject_transform: str | None = None
    no_ack: bool = False
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    max_events_per_subject: int | None = None
    max_event_bytes: int | None = None
    max_consumers: int | None = None
    last_time_ns: int = 0
    discard_new_per_subject: bool = False
    allow_direct: bool = False
    allow_msg_ttl: bool = False
    allow_msg_counter: bool = False
    single_server: bool | None = None
    first_time_ns: int = 0
    consumers: int = 0


def check_takes_events(info: StreamInfo) -> bool:
    """Return whether the stream listens to the subjects of all events. If not, check each with `check_takes_subject`.

    Raises ConfigError if nothing can be published to the stream, or if the stream acknowledges nothing.
    """
    name = info.name
    if info.mirror is not None:
        why = f"it is a mirror of stream {info.mirror!r}: publish to that one"
    elif info.sealed:
        why = "it is sealed: nothing can be stored in it any more"
    elif info.no_ack:
        why = "it has no_ack: it acknowledges nothing, so nobody would learn whether an event is stored"
    elif not any(overlaps(subject, f"{name}.*.*") for subject in info.subjects):
        why = f"it does not listen to {name}.<type>.<aggregate>, the subjects of its events; {_listens_to(info)}"
    else:
        return is_covered(f"{name}.*.*", info.subjects)
    raise ConfigError(f"stream {name!r} takes no events: {why}", argument="stream")


def check_takes_subject(info: StreamInfo, subject: str) -> None:
    """Raise ConfigError unless the stream listens to an event's subject."""
    if not is_covered(subject, info.subjects):
        message = f"stream {info.name!r} takes no event with this type and aggregate: it does not listen to {subject!r}"
        raise ConfigError(f"{message}; {_listens_to(info)}", argument="type")


def _listens_to(info: StreamInfo) -> str:
    if info.subjects:
        return f"it listens to {', '.join(info.subjects)}"
    return f"it listens to no subject, and is filled from {', '.join(info.sources) or 'nowhere'}"


def info_of(answer: dict[str, Any]) -> StreamInfo:
    """Return the stream in an answer of the server, which was checked against `schemas.Stream`."""
    config = answer["config"]
    state = answer["state"]
    cluster = answer.get("cluster") or {}
    atomic = bool(config.get("allow_atomic", False))
    fast_ingest = bool(config.get("allow_batched", False))

    def limit(key: str) -> int | None:
        value: int = config.get(key, -1)
        return value if value > 0 else None

    return StreamInfo(
        name=config["name"],
        events=state["messages"],
        bytes=state["bytes"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        first_time_ns=max(nanoseconds(state.get("first_ts") or ""), 0) if state["messages"] else 0,
        last_time_ns=max(nanoseconds(state.get("last_ts") or ""), 0),
        consumers=state.get("consumer_count", 0),
        created=datetime.fromisoformat(answer["created"]),
        subjects=tuple(config.get("subjects") or ()),
        options=_options_of(config, limit("max_bytes"), limit("max_msgs"), atomic, fast_ingest),
        atomic=atomic,
        fast_ingest=fast_ingest,
        retention=config.get("retention") or "limits",
        mirror=(config.get("mirror") or {}).get("name"),
        sources=tuple(source["name"] for source in config.get("sources") or ()),
        subject_transform=(config.get("subject_transform") or {}).get("dest"),
        no_ack=bool(config.get("no_ack", False)),
        sealed=bool(config.get("sealed", False)),
        deny_delete=bool(config.get("deny_delete", False)),
        deny_purge=bool(config.get("deny_purge", False)),
        max_events_per_subject=limit("max_msgs_per_subject"),
        max_event_bytes=limit("max_msg_size"),
        max_consumers=limit("max_consumers"),
        discard_new_per_subject=bool(config.get("discard_new_per_subject", False)),
        allow_direct=bool(config.get("allow_direct", False)),
        allow_msg_ttl=bool(config.get("allow_msg_ttl", False)),
        allow_msg_counter=bool(config.get("allow_msg_counter", False)),
        # Only a server without a cluster names none. A server with leaf node remotes names itself as its cluster.
        single_server=not cluster.get("name") if cluster.get("leader") else None,
    )


def _options_of(
    config: dict[str, Any], max_bytes: int | None, max_events: int | None, atomic: bool, fast_ingest: bool
) -> StreamOptions:
    compression = config.get("compression", "none")
    options = StreamOptions(
        replicas=config.get("num_replicas", 1),
        storage=config.get("storage", "file"),
        max_age_s=config["max_age"] / NS if config.get("max_age") else None,
        max_bytes=max_bytes,
        max_events=max_events,
        dedup_window_s=max(config.get("duplicate_window", 0) / NS, 0.1),  # a mirror has no window
        compression=None if compression == "none" else compression,
        discard=config.get("discard", "old"),
        atomic=atomic,
        fast_ingest=fast_ingest,
    )
    # Another program may have given the stream a setting that StreamOptions refuses together with a mark.
    for mark, option in ((STORE, "store"), (PACKED, "packed")):
        if mark in (config.get("metadata") or {}):
            object.__setattr__(options, option, True)
    return options
