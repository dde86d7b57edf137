"""All that a stream of an event store holds. Read with nats-py and decoded with the protobuf package, without eda."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import nats
from nats.errors import Error as NatsError

from support.reference import Envelope

__all__ = ["TOMBSTONE", "Message", "by_aggregate", "read_contents"]

TOMBSTONE = "eda.forgotten"


@dataclass(frozen=True)
class Message:
    """A stored event. `data`: its payload, {} if it has none."""

    sequence: int
    id: str
    type: str
    aggregate: str
    version: int
    data: dict[str, Any] = field(default_factory=dict)


async def read_contents(url: str | list[str], stream: str) -> list[Message]:
    """Return all messages of the stream in its order, each read from the stream's leader."""
    client = await nats.connect(url, allow_reconnect=False)
    try:

        async def ask(verb: str, body: dict[str, Any]) -> dict[str, Any]:
            for _ in range(20):  # a cluster may still elect a leader
                try:
                    reply = await client.request(f"$JS.API.{verb}.{stream}", json.dumps(body).encode(), timeout=2)
                except NatsError:
                    await asyncio.sleep(0.2)
                else:
                    answer: dict[str, Any] = json.loads(reply.data)
                    return answer
            raise AssertionError(f"{verb} of {stream} is not answered")

        state = (await ask("STREAM.INFO", {}))["state"]
        wanted = iter(range(state["first_seq"], state["last_seq"] + 1))
        found: list[Message] = []

        async def read() -> None:
            for sequence in wanted:  # shared: each worker takes the next sequence
                answer = await ask("STREAM.MSG.GET", {"seq": sequence})
                if "message" in answer:
                    found.append(_decoded(answer["message"], stream))
                else:
                    assert answer["error"]["err_code"] == 10037, answer  # deleted

        await asyncio.gather(*(read() for _ in range(50)))
        assert len(found) == state["messages"], (len(found), state)
        return sorted(found, key=lambda message: message.sequence)
    finally:
        await client.close()


def _decoded(message: dict[str, Any], stream: str) -> Message:
    envelope = Envelope.FromString(base64.b64decode(message.get("data", "")))
    subject = f"{stream}.{envelope.type.replace('.', '%2E')}.{envelope.aggregate}"
    assert message["subject"] == subject, (message["subject"], subject)
    return Message(
        message["seq"],
        envelope.id,
        envelope.type,
        envelope.aggregate,
        envelope.version,
        json.loads(envelope.data) if envelope.data else {},
    )


def by_aggregate(contents: Iterable[Message]) -> dict[str, list[Message]]:
    """Return the messages of each aggregate, in the order of the stream."""
    found: dict[str, list[Message]] = {}
    for message in contents:
        found.setdefault(message.aggregate, []).append(message)
    return found
