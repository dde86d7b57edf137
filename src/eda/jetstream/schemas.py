"""The types of JetStream's answers, with only the fields that eda reads.

Each answer is checked against its type before it is used. An answer that does not fit is an error of the server.

Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec

from eda.times import EPOCH

__all__ = [
    "Account",
    "Consumer",
    "ConsumerPage",
    "Message",
    "Purged",
    "Stream",
    "StreamPage",
    "Subjects",
    "nanoseconds",
]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_TIME = re.compile(r"([^.]+)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")


def nanoseconds(text: str) -> int:
    """Return a server's time (RFC 3339) in nanoseconds since 1970; 0 if the text is not a time."""
    parts = _TIME.fullmatch(text)
    try:
        since = datetime.fromisoformat(parts[1] + parts[3]) - EPOCH if parts else None
    except ValueError:
        since = None
    if parts is None or since is None:
        return 0
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int((parts[2] or "").ljust(9, "0"))


class _Limits(msgspec.Struct):
    level: _Count = 0


class Account(msgspec.Struct):
    """The answer to INFO."""

    api: _Limits = msgspec.field(default_factory=_Limits)
    domain: str = ""


class _Origin(msgspec.Struct):
    name: str


class _Transform(msgspec.Struct):
    dest: str = ""


class _StreamConfig(msgspec.Struct):
    name: str
    subjects: list[str] | None = None
    num_replicas: _Number = 1
    storage: str = "file"
    max_age: _Count = 0
    max_bytes: _Number = -1
    max_msgs: _Number = -1
    duplicate_window: _Count = 0
    compression: str = "none"
    discard: str = "old"
    allow_atomic: bool = False
    allow_batched: bool = False
    retention: str = "limits"
    mirror: _Origin | None = None
    sources: list[_Origin] | None = None
    subject_transform: _Transform | None = None
    no_ack: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    sealed: bool = False
    max_msgs_per_subject: _Number = -1
    max_msg_size: _Number = -1
    max_consumers: _Number = -1
    allow_direct: bool = False
    allow_msg_ttl: bool = False
    allow_msg_counter: bool = False
    discard_new_per_subject: bool = False
    metadata: dict[str, str] | None = None


class _StreamState(msgspec.Struct):
    messages: _Count
    bytes: _Count
    first_seq: _Count
    last_seq: _Count
    num_deleted: _Count = 0
    consumer_count: _Count = 0
    first_ts: str = ""
    last_ts: str = ""
    subjects: dict[str, _Count] | None = None


class _Cluster(msgspec.Struct):
    name: str = ""
    leader: str = ""


class Stream(msgspec.Struct):
    """The answer to STREAM.INFO, CREATE and UPDATE."""

    config: _StreamConfig
    state: _StreamState
    created: str
    cluster: _Cluster | None = None

    def __post_init__(self) -> None:
        if datetime.fromisoformat(self.created).tzinfo is None:
            raise ValueError("a time without a zone")


class StreamPage(msgspec.Struct):
    """The answer to STREAM.LIST."""

    streams: list[Stream] | None = None
    total: _Count = 0
    missing: list[str] | None = None  # streams of which nobody has answered


class Purged(msgspec.Struct):
    """The answer to STREAM.PURGE."""

    purged: _Count = 0


class _ConsumerConfig(msgspec.Struct):
    deliver_subject: str = ""
    deliver_policy: str = "all"
    opt_start_seq: _Count = 0
    durable_name: str = ""
    ack_policy: str = ""
    filter_subject: str = ""
    filter_subjects: list[str] | None = None
    metadata: dict[str, str] | None = None
    max_ack_pending: _Number = -1
    max_batch: _Number = 0
    max_expires: _Number = 0
    max_bytes: _Number = 0
    max_waiting: _Number = 0
    ack_wait: _Count = 0
    max_deliver: _Number = -1
    backoff: list[_Count] | None = None
    inactive_threshold: _Count = 0
    headers_only: bool = False
    replay_policy: str = "instant"
    mem_storage: bool = False
    num_replicas: _Count = 0
    priority_policy: str | None = None
    priority_groups: list[str] | None = None


class _Delivered(msgspec.Struct):
    consumer_seq: _Count = 0
    stream_seq: _Count = 0
    last_active: str | None = None


class Consumer(msgspec.Struct):
    """The answer to CONSUMER.INFO and CREATE."""

    config: _ConsumerConfig
    created: str = ""
    delivered: _Delivered | None = None
    num_pending: _Count = 0
    num_ack_pending: _Count = 0
    num_waiting: _Count = 0
    paused: bool = False


class _Listed(Consumer, kw_only=True):
    name: str
    ack_floor: _Delivered | None = None
    num_redelivered: _Count = 0


class ConsumerPage(msgspec.Struct):
    """The answer to CONSUMER.LIST."""

    consumers: list[_Listed] | None = None
    total: _Count = 0
    missing: list[str] | None = None  # consumers of which nobody has answered


class _SubjectsState(msgspec.Struct):
    subjects: dict[str, _Count] | None = None


class Subjects(msgspec.Struct):
    """The answer to STREAM.INFO with `subjects_filter`."""

    state: _SubjectsState
    total: _Count = 0


class Message(msgspec.Struct):
    """The message in the answer to STREAM.MSG.GET. In JSON, headers and payload are base64."""

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    data: bytes = b""
    hdrs: bytes = b""
    time: str = ""
