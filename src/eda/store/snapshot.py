"""A snapshot of an aggregate and its envelope; and the marker in place of the snapshot of a forgotten aggregate."""

from __future__ import annotations

from dataclasses import dataclass
from time import time_ns
from typing import Any, Generic, TypeVar

from eda._codec import decode_event, encode_event
from eda._data import Data
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import CodecError
from eda.names import FORGOTTEN, SNAPSHOT
from eda.store._recent_commands import RecentCommands
from eda.store.state_codec import StateCodec

__all__ = [
    "Snapshot",
    "UnusableSnapshot",
    "check_snapshot",
    "encode_marker",
    "is_marker",
    "read_snapshot",
    "snapshot_event",
]

S = TypeVar("S")

# The keys of a snapshot's metadata.
SEQUENCE = "sequence"
LAST_ID = "last-id"
COMMANDS = "commands"


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """The state of an aggregate after its event `version`.

    `sequence` and `last_id` are the sequence and the id of that event. `commands` are the latest commands.
    `subject_sequence` is the sequence of the snapshot itself, which the next snapshot replaces.
    """

    state: S
    version: int
    sequence: int
    last_id: str
    commands: RecentCommands
    subject_sequence: int = 0


class UnusableSnapshot(Exception):
    """A message that is no snapshot that this store can use. `kind` is the kind of reason, and the text is for people.

    `is_marker`: the aggregate was forgotten, so there is nothing to report.
    """

    def __init__(self, kind: str, text: str, *, is_marker: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.is_marker = is_marker


def snapshot_event(aggregate: str, snapshot: Snapshot[Any], data: Data, *, snapshot_version: str) -> Event:
    """Return the event of a snapshot whose state is `data`. Its version is written into the envelope."""
    meta = {SEQUENCE: str(snapshot.sequence), LAST_ID: snapshot.last_id}
    commands = snapshot.commands.to_text()
    if commands:
        meta[COMMANDS] = commands
    return Event(type=SNAPSHOT, schema=snapshot_version, aggregate=aggregate, data=data, meta=meta)


def check_snapshot(envelope: bytes, aggregate: str) -> Event:
    """Return the event in an envelope. Raises UnusableSnapshot if it is not a snapshot of this aggregate."""
    try:
        event = decode_event(envelope)
    except CodecError as error:
        raise UnusableSnapshot("undecodable", f"it can't be decoded: {error}") from error
    if event.type == FORGOTTEN:
        raise UnusableSnapshot("forgotten", "it is the marker of a forgotten aggregate", is_marker=True)
    if event.type != SNAPSHOT or event.aggregate != aggregate or event.version < 1:
        raise UnusableSnapshot("foreign", "it is not a snapshot of this aggregate")
    return event


def read_snapshot(event: Event, codec: StateCodec, *, snapshot_version: str, subject_sequence: int) -> Snapshot[Any]:
    """Return the snapshot in its event. Raises UnusableSnapshot, which says why this store can't use it."""
    if event.schema != snapshot_version:
        text = f"it has snapshot_version {event.schema!r}, and this store's decider has {snapshot_version!r}"
        raise UnusableSnapshot("version", text)
    try:
        meta = event.meta
        return Snapshot(
            state=codec.decode(event.data),
            version=event.version,
            sequence=_number(meta[SEQUENCE]),
            last_id=meta[LAST_ID],
            commands=RecentCommands.from_text(meta.get(COMMANDS, "")),
            subject_sequence=subject_sequence,
        )
    except CodecError as error:
        raise UnusableSnapshot("undecodable", f"it can't be decoded: {error}") from error
    except (KeyError, ValueError) as error:
        raise UnusableSnapshot("undecodable", f"its metadata can't be read: {error!r}") from error


def encode_marker(aggregate: str, *, version: int, sequence: int, client: str) -> bytes:
    """Return the envelope of the marker of an aggregate whose tombstone has this version and sequence."""
    event = Event(type=FORGOTTEN, aggregate=aggregate, meta={SEQUENCE: str(sequence)})
    return encode_event(event, next_nuid(), client, time_ns(), version)


def is_marker(envelope: bytes) -> bool:
    """Return whether the envelope is the marker of a forgotten aggregate."""
    try:
        return decode_event(envelope).type == FORGOTTEN
    except CodecError:
        return False


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(f"{text!r} is out of range")
    return number
