"""Packs as another program writes them: made by hand after docs/wire.md, and published without eda."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import zstandard
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from eda._codec import encode_event
from eda._event import Event
from eda._pack import stored_events
from eda.handling._outcome import attempted
from support.reference import bytes_field, number_field

__all__ = [
    "PackMessage",
    "compressed",
    "envelopes_of",
    "events_of_pack",
    "pack_of",
    "pack_of_envelopes",
    "publish_pack",
]

N_EVENTS, N_CODEC, N_DATA, N_SIZE = 15, 17, 18, 19


def _make_pack_message() -> Any:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pack.proto", package="reference", syntax="proto3")
    message = file.message_type.add(name="Pack")
    message.field.add(name="events", number=N_EVENTS, type=kind.TYPE_BYTES, label=kind.LABEL_REPEATED)
    message.field.add(name="codec", number=N_CODEC, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    message.field.add(name="data", number=N_DATA, type=kind.TYPE_BYTES, label=kind.LABEL_OPTIONAL)
    message.field.add(name="size", number=N_SIZE, type=kind.TYPE_INT64, label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("reference.Pack"))


PackMessage = _make_pack_message()  # the pack as the official protobuf package has it; its events are bytes


def envelopes_of(events: Iterable[Event]) -> list[bytes]:
    """Return the envelopes. An event without an id gets `e<number>`, counted from 0."""
    return [encode_event(event, event.id or f"e{number}") for number, event in enumerate(events)]


def pack_of(events: Iterable[Event]) -> bytes:
    """Return the pack of these events."""
    return pack_of_envelopes(envelopes_of(events))


def pack_of_envelopes(envelopes: Iterable[bytes]) -> bytes:
    """Return the pack of these envelopes, whatever they are."""
    return b"".join(bytes_field(N_EVENTS, envelope) for envelope in envelopes)


def compressed(pack: bytes, *, codec: str = "zstd", size: int | None = None) -> bytes:
    """Return a compressed pack. `size` replaces the true one."""
    data = zstandard.ZstdCompressor().compress(pack)
    return (
        bytes_field(N_CODEC, codec.encode())
        + bytes_field(N_DATA, data)
        + number_field(N_SIZE, len(pack) if size is None else size)
    )


def events_of_pack(events: Iterable[Event], stream: str, sequence: int, attempt: int) -> list[Event]:
    """Return the events as a subscription gets them from one pack."""
    subject = f"{stream}.%pack.%pack".encode()
    found = stored_events(pack_of(events), stream, sequence, 0, subject)
    return [attempted(event, attempt) for event in found if event is not None]


async def publish_pack(
    js: Any, stream: str, events: list[Event], *, subject: str = "", payload: bytes | None = None, id: str = ""
) -> int:
    """Publish one pack with nats-py (`js`: its JetStream context), and return its sequence.

    `subject`: by default `<stream>.%pack.%pack`. `payload` replaces the pack of `events`.
    """
    pack = pack_of(events) if payload is None else payload
    headers = {"Eda-Pack": str(len(events))} | ({"Nats-Msg-Id": id} if id else {})
    answer = await js.publish(subject or f"{stream}.%pack.%pack", pack, headers=headers)
    return int(answer.seq)
