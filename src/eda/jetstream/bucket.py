"""The bucket of cursors, a key-value bucket: its settings, and the check of a bucket that exists.

Source: ADR-8 (key-value buckets: names and settings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eda.options import StreamOptions

__all__ = ["BUCKET", "BUCKET_STREAM", "MIN_MESSAGE", "Bucket", "bucket_for", "fault_of", "settings_of"]

BUCKET = "eda-cursors"
BUCKET_STREAM = f"KV_{BUCKET}"

MAX_BYTES = 8 * 2**20  # the bucket's limit if the account demands one; room for about 10,000 positions
MIN_MESSAGE = 2048  # bytes; the bucket must accept such a write: a position with some filters, and headers

# As nats.go creates a bucket with a history of 1. A full bucket must refuse new positions, not discard old ones.
_SETTINGS: dict[str, Any] = {
    "name": BUCKET_STREAM,
    "subjects": [f"$KV.{BUCKET}.>"],
    "retention": "limits",
    "discard": "new",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_msgs_per_subject": 1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msg_size": -1,
    "duplicate_window": 120_000_000_000,
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The requirements of a subscription for the bucket.

    If the bucket has to be created, it gets `replicas` and `storage`; `least_replicas` if the server refuses
    `replicas`; and `max_bytes` if the account demands a limit. `outlives`: the subscription's stream is on disk and
    outlives a restart of all servers, so the positions must outlive it as well. With False, the
    stream is in memory. With replicas, such a stream outlives the restart of one server.
    """

    replicas: int = 1
    storage: str = "file"
    least_replicas: int = 1
    max_bytes: int = MAX_BYTES
    outlives: bool = True


def bucket_for(stream: StreamOptions, defaults: StreamOptions) -> Bucket:
    """Return the requirements of subscriptions to a stream, on a connection with these `stream_defaults`."""
    in_memory = stream.storage == "memory"
    return Bucket(
        replicas=max(stream.replicas, defaults.replicas),
        storage="memory" if in_memory and defaults.storage == "memory" else "file",
        least_replicas=stream.replicas,
        max_bytes=min(MAX_BYTES, defaults.max_bytes or MAX_BYTES),
        outlives=not in_memory,
    )


def settings_of(bucket: Bucket) -> dict[str, Any]:
    """Return the settings with which to create the bucket."""
    return _SETTINGS | {"num_replicas": bucket.replicas, "storage": bucket.storage}


def fault_of(config: dict[str, Any], bucket: Bucket) -> str:
    """Return a text about the first setting that prevents the bucket from keeping positions; "" if there is none.

    `config` is the configuration of the bucket's stream, as the server returns it. The text names the setting, its
    effect, and a value that works.
    """
    for setting, is_wrong, consequence, remedy in _faults(config, bucket):
        if is_wrong:
            return f"{setting}={config.get(setting)!r}: {consequence}; {remedy} works"
    return ""


def _faults(config: dict[str, Any], bucket: Bucket) -> list[tuple[str, bool, str, str]]:
    drops_old = config.get("discard", "old") == "old"
    vanishes = "the oldest positions vanish when it is full"
    unwritten = "nothing can be written to it"
    unanswered = "no write is confirmed"
    message_size = config.get("max_msg_size", -1)
    outlived = bucket.outlives or (bucket.least_replicas > 1 and config.get("num_replicas", 1) < 2)
    in_memory = config.get("storage") == "memory"
    covers = not _SUBJECTS.isdisjoint(config.get("subjects") or ())
    return [
        ("max_age", config.get("max_age", 0) > 0, "the position of a subscription that is away longer vanishes", "0"),
        ("max_bytes", config.get("max_bytes", -1) > 0 and drops_old, vanishes, "-1, or discard 'new',"),
        ("max_msgs", config.get("max_msgs", -1) > 0 and drops_old, vanishes, "-1, or discard 'new',"),
        ("max_msg_size", 0 <= message_size < MIN_MESSAGE, "a position is too large for it", f"{MIN_MESSAGE} or more"),
        ("discard_new_per_subject", bool(config.get("discard_new_per_subject")), "a position can't move on", "False"),
        ("retention", config.get("retention", "limits") != "limits", "positions vanish", "'limits'"),
        ("no_ack", bool(config.get("no_ack")), unanswered, "False"),
        ("sealed", bool(config.get("sealed")), unwritten, "False"),
        ("mirror", bool(config.get("mirror")), unwritten, "a bucket of its own"),
        ("allow_msg_counter", bool(config.get("allow_msg_counter")), unwritten, "False"),
        ("subject_transform", bool(config.get("subject_transform")), "a position is stored elsewhere", "None"),
        ("subjects", not covers, unwritten, f"{_SETTINGS['subjects']!r}"),
        ("storage", in_memory and outlived, "positions are gone when its server restarts, events remain", "'file'"),
    ]


_SUBJECTS = frozenset({f"$KV.{BUCKET}.>", "$KV.*.>", "$KV.>"})
