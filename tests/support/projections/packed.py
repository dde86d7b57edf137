"""A packed stream for projections: packs of chosen sizes, made by hand, and the places of their events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import eda
from helpers import Admin
from support.packs import publish_pack
from support.projections.memory_sink import MemorySink

__all__ = ["Packed", "Place", "applied", "apply", "place_of"]

Place = tuple[int, int]  # sequence and index


def place_of(event: eda.Event) -> Place:
    """Return where an event is in its stream."""
    return event.sequence, event.index


async def apply(events: list[eda.Event], tx: list[Any]) -> None:
    """Append the events to the transaction of a sink in memory."""
    for event in events:
        tx.append((event.aggregate, place_of(event)))
    await asyncio.sleep(0)


def applied(sink: MemorySink) -> list[Place]:
    """Return the places of the events that a sink in memory has applied, in order."""
    return [each for _, each in sink.applied]


@dataclass
class Packed:
    """The stream. `places`: of all events that were published, in order. `types`: of these. `aggregates`: how many."""

    conn: eda.Conn
    admin: Admin
    stream: str
    aggregates: int = 5
    places: list[Place] = field(default_factory=list)
    types: list[str] = field(default_factory=list)

    async def create(self) -> None:
        """Create the stream."""
        await self.conn.streams.create(self.stream, eda.StreamOptions(packed=True))

    async def pack(
        self, n: int, *, types: Sequence[str] = ("a",), payload: bytes | None = None, subject: str = ""
    ) -> eda.Receipt:
        """Publish a pack of `n` events, whose types repeat. Return the receipt of the last event.

        `payload` replaces the payload. `subject`: what follows the stream's name, by default `%pack.%pack`.
        """
        first = len(self.places)
        events = [
            eda.Event(
                id=f"e{first + number}",
                type=types[number % len(types)],
                aggregate=f"k{(first + number) % self.aggregates}",
                data=eda.JSON(first + number),
            )
            for number in range(n)
        ]
        subject = f"{self.stream}.{subject}" if subject else ""
        sequence = await publish_pack(self.admin.js, self.stream, events, payload=payload, subject=subject)
        self.places += [(sequence, index) for index in range(n)]
        self.types += [event.type for event in events]
        return eda.Receipt(events[-1].id, self.stream, sequence, n - 1)

    async def packs(self, *sizes: int) -> eda.Receipt:
        """Publish a pack of each size; 0: an ordinary message. Return the receipt of the last event."""
        for size in sizes:
            receipt = await (self.pack(size) if size else self.single())
        return receipt

    async def single(self, type: str = "a") -> eda.Receipt:
        """Publish an ordinary message."""
        number = len(self.places)
        event = eda.Event(type=type, aggregate=f"k{number % self.aggregates}", data=eda.JSON(number))
        receipt = await self.conn.publish(self.stream, event)
        self.places.append((receipt.sequence, 0))
        self.types.append(type)
        return receipt

    def places_of(self, types: Sequence[str] | None) -> list[Place]:
        """Return the places of the events of these types; None: of all."""
        return [place for place, type in zip(self.places, self.types, strict=True) if types is None or type in types]
