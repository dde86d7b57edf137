"""Appends to a stream by `Appending` alone, without an `EventStore`."""

from __future__ import annotations

import asyncio
from typing import Any

import eda
from eda._codec import decode_event, encode_event
from eda._nuid import next_nuid
from eda.store._earlier import with_all
from eda.store.appending import Appending
from helpers import Admin
from support.store.snapshotting import Side

__all__ = ["ListingSide", "Writer", "envelope_of", "stored_in"]


def envelope_of(
    id: str, aggregate: str = "a", type: str = "t", version: int = 1, size: int = 0
) -> tuple[str, bytes, str]:
    """Return an event as `Appending.store` takes it."""
    event = eda.Event(type=type, aggregate=aggregate, data=eda.Bytes(bytes(size)))
    return type, encode_event(event, id, "writer", 1, version), id


class Writer:
    """One program that appends to a stream."""

    def __init__(self, conn: eda.Conn, stream: str) -> None:
        services = conn._lifetime._services
        assert services is not None
        self.conn, self.stream = conn, stream
        self.publishers = services.known_streams
        self.under_way: set[asyncio.Future[None]] = conn._lifetime.batches
        self.appending = Appending(services.known_streams, services.api, services.logger, stream, self.under_way)

    async def store(self, *ids: str, aggregate: str = "a", sequence: int, **options: Any) -> Any:
        """Append events with these ids, under the expectation that `sequence` is the aggregate's last."""
        envelopes = [envelope_of(id, aggregate, f"t{n}") for n, id in enumerate(ids)]
        return await self.appending.store(aggregate, envelopes, sequence=sequence, **options)


class ListingSide(Side):
    """Appends by `Appending`, so that messages name the sequences of earlier events.

    It must be the only writer of its aggregates. It does not check the versions.
    """

    def __init__(self, conn: eda.Conn, stream: str) -> None:
        super().__init__(conn, stream)
        self._appending = Writer(conn, stream).appending
        self._earlier: dict[str, str] = {}

    async def append(
        self, aggregate: str, version: int, type: str = "paid", *, data: Any = None, headers: Any = None
    ) -> tuple[int, str]:
        assert data is None
        assert headers is None
        return (await self.append_all(aggregate, version, 1, type))[-1]

    async def append_all(self, aggregate: str, version: int, n: int, type: str = "paid") -> list[tuple[int, str]]:
        """Store `n` events at once, and return sequence and id of each."""
        ids = [next_nuid() for _ in range(n)]
        envelopes = [
            (type, encode_event(eda.Event(type=type, aggregate=aggregate), each, "", 1, version + at), each)
            for at, each in enumerate(ids)
        ]
        earlier = self._earlier.get(aggregate, "")
        last = int(earlier.split(" ")[0] or 0)
        stored = await self._appending.store(aggregate, envelopes, sequence=last, earlier=earlier)
        self._earlier[aggregate] = with_all(earlier, stored.sequences)
        return list(zip(stored.sequences, ids, strict=True))


async def stored_in(admin: Admin, stream: str) -> list[tuple[str, eda.Event, dict[str, str]]]:
    """Return (subject, event, headers) of each message of the stream, in order."""
    stored = []
    for seq in range(1, await admin.last_seq(stream) + 1):
        message = await admin.js.get_msg(stream, seq)
        assert message.data is not None
        stored.append((str(message.subject), decode_event(message.data), dict(message.headers or {})))
    return stored
