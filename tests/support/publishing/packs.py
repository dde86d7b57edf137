"""What a stream with packs holds, read without eda: each message, and its events by the official protobuf package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nats
import zstandard
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from support.packs import PackMessage
from support.reference import Envelope

__all__ = ["Message", "events_in", "ids_in", "messages_in"]

FIRST_TAGS = (b"\x7a", b"\x8a\x01")  # of a pack, compressed or not


@dataclass(frozen=True)
class Message:
    """A stored message."""

    sequence: int
    subject: str
    headers: dict[str, str]
    payload: bytes

    @property
    def is_pack(self) -> bool:
        return self.payload.startswith(FIRST_TAGS)

    @property
    def is_compressed(self) -> bool:
        return self.payload.startswith(FIRST_TAGS[1])

    @property
    def events(self) -> list[Any]:
        """Its envelopes."""
        return events_in(self.payload)

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


def events_in(payload: bytes) -> list[Any]:
    """Return the envelopes in a payload: one, or those of a pack."""
    if not payload.startswith(FIRST_TAGS):
        return [Envelope.FromString(payload)]
    pack = PackMessage.FromString(payload)
    if pack.codec:
        assert pack.codec == "zstd"
        assert not pack.events
        whole = zstandard.ZstdDecompressor().decompress(pack.data)
        assert len(whole) == pack.size
        pack = PackMessage.FromString(whole)
    assert (pack.codec, pack.data, pack.size) == ("", b"", 0)
    return [Envelope.FromString(each) for each in pack.events]


async def messages_in(url: str, stream: str, *, timeout_s: float = 20.0) -> list[Message]:
    """Return all messages of a stream in order."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream()
        n = (await js.stream_info(stream)).state.messages
        found: list[Msg] = []
        subscription = await client.subscribe(client.new_inbox())
        if n:
            config = ConsumerConfig(
                deliver_subject=subscription.subject, ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=60
            )
            await js.add_consumer(stream, config)
        while len(found) < n:
            found.append(await subscription.next_msg(timeout=timeout_s))
    finally:
        await client.close()
    return [Message(each.metadata.sequence.stream, each.subject, dict(each.headers or {}), each.data) for each in found]


def ids_in(messages: list[Message]) -> list[str]:
    """Return the ids of all events in these messages, in order."""
    return [id for message in messages for id in message.ids]
