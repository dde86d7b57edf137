"""Snapshots of a stream that a test writes to by itself, without an `EventStore`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from eda.jetstream.store_message import store_message
from eda.jetstream.subjects import subject_of
from eda.store._cache import Cached
from eda.store._recent_commands import RecentCommands
from eda.store.snapshot_stream import SnapshotStream
from eda.store.snapshots import Snapshots
from eda.store.state_codec import StateCodec

__all__ = ["Order", "Side", "cached"]


@dataclass
class Order:
    paid: int = 0
    tags: list[str] = field(default_factory=list)


def cached(state: Any, version: int, sequence: int, last_id: str, snapshot_sequence: int = 0) -> Cached:
    """Return a cached aggregate whose last event has this version, sequence and id."""
    return Cached(
        state=state,
        version=version,
        sequence=sequence,
        last_id=last_id,
        commands=RecentCommands(),
        snapshot_version=0,
        snapshot_sequence=snapshot_sequence,
        epoch=0,
    )


class Side:
    """One program's part in the snapshots of a stream."""

    def __init__(
        self,
        conn: eda.Conn,
        stream: str,
        *,
        snapshot_version: str = "1",
        state: Any = None,
        initial: Any = None,
        hooks: Any = None,
    ) -> None:
        services = conn._lifetime._services
        assert services is not None
        self.api = services.api
        self.logger = services.logger
        self.stream = stream
        self.snapshot_stream = SnapshotStream(self.api, stream, eda.StreamOptions())
        codec = StateCodec(state, Order() if initial is None else initial)
        self.snapshots: Snapshots[Any] = Snapshots(
            self.api,
            self.logger,
            stream,
            self.snapshot_stream,
            snapshot_version=snapshot_version,
            codec=codec,
            hooks=hooks,
        )

    async def append(
        self, aggregate: str, version: int, type: str = "paid", *, data: Any = None, headers: Any = None
    ) -> tuple[int, str]:
        """Store an event of this version, with these headers, and return its sequence and id."""
        event_id = next_nuid()
        envelope = encode_event(eda.Event(type=type, aggregate=aggregate, data=data), event_id, "", 1, version)
        subject = subject_of(self.stream, type, aggregate)
        headers = {"Nats-Msg-Id": event_id} | (headers or {})
        answer = await store_message(self.api.wire, self.stream, subject, envelope, headers, domain="")
        return answer.seq, event_id

    async def write(self, aggregate: str, entry: Cached) -> None:
        """Write a snapshot, and wait for the end of the attempt."""
        self.snapshots.write_soon(aggregate, entry)
        await self.idle()

    async def idle(self) -> None:
        while self.snapshots._writers:
            await asyncio.wait(self.snapshots._writers)

    async def stored(self, aggregate: str) -> tuple[bytes, int] | None:
        """Return the message on the subject of the aggregate's snapshot."""
        return await self.snapshot_stream.last(aggregate)
