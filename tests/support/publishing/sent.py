"""What the tests of publishers share: events that tell their order, and what became of each of them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import nats
from nats.aio.msg import Msg

import eda
from support.publishing.packs import events_in

__all__ = ["MODES", "MODES_AND_PACKS", "Outcomes", "ids_of", "numbered", "options_of", "stored_ids"]

MODES = ("fast", "window")
MODES_AND_PACKS = (*MODES, *(f"{mode} packs" for mode in MODES))


def options_of(mode: str) -> dict[str, Any]:
    """Return the options of a publisher for one of MODES_AND_PACKS; its packs are small."""
    mode, _, packs = mode.partition(" ")
    return {"mode": mode, "pack": eda.Pack(max_events=40) if packs else None}


def ids_of(receipts: Iterable[eda.Receipt]) -> list[str]:
    """Give the ids of what is stored."""
    return [receipt.id for receipt in receipts]


def numbered(n: int, *, start: int = 0, size: int = 16) -> list[eda.Event]:
    """Give events whose ids count up."""
    data = eda.Bytes(bytes(size))
    return [eda.Event(id=f"e{i:07}", type="t", data=data) for i in range(start, start + n)]


def endless(*, size: int = 16) -> Iterator[eda.Event]:
    """Give such events without end."""
    data = eda.Bytes(bytes(size))
    return (eda.Event(id=f"e{i:07}", type="t", data=data) for i in itertools.count())


async def stored_ids(url: str, stream: str, *, timeout_s: float = 20.0) -> list[str]:
    """Return the ids of all events in the stream, from their envelopes, in order. Packs are read without eda."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        ids: list[str] = []
        complete = asyncio.Event()
        js = client.jetstream()
        wanted = (await js.stream_info(stream)).state.messages
        if wanted == 0:
            return []

        async def take(message: Msg) -> None:
            nonlocal wanted
            ids.extend(each.id for each in events_in(message.data))
            wanted -= 1
            if wanted == 0:
                complete.set()

        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=take)
        config = nats.js.api.ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=nats.js.api.DeliverPolicy.ALL,
            ack_policy=nats.js.api.AckPolicy.NONE,
            mem_storage=True,
        )
        await js.add_consumer(stream, config)
        await asyncio.wait_for(complete.wait(), timeout_s)
        return ids
    finally:
        await client.close()


class Outcomes:
    """Notes what a publisher tells of its events: pass `**outcomes.callbacks` to it."""

    def __init__(self) -> None:
        self.acknowledged: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.sequences: list[int] = []
        self.errors: dict[str, Exception] = {}
        self.failures: list[tuple[eda.Event, Exception]] = []

    @property
    def callbacks(self) -> dict[str, Any]:
        return {"on_ack": self.on_ack, "on_error": self.on_error}

    def on_ack(self, event_id: str, sequence: int) -> None:
        self.acknowledged[event_id] += 1
        self.sequences.append(sequence)

    def on_error(self, event: eda.Event, error: Exception) -> None:
        self.failed[event.id] += 1
        self.errors[event.id] = error
        self.failures.append((event, error))

    def check(self, sent: list[str], stored: list[str], stats: eda.PublisherStats, *, in_order: bool = True) -> None:
        """Assert that each event that was sent had one outcome, and that the stream holds what it should, once.

        An event that timed out may be stored or not.
        """
        twice = [each for each, n in (self.acknowledged + self.failed).items() if n > 1]
        assert not twice, f"{len(twice)} events had two outcomes: {twice[:5]}"
        outcomes = self.acknowledged.keys() | self.failed.keys()
        assert outcomes == set(sent), f"sent {len(set(sent))}, outcomes {len(outcomes)}"
        doubled = [each for each, n in Counter(stored).items() if n > 1]
        assert not doubled, f"{len(doubled)} events are stored twice: {doubled[:5]}"
        lost = self.acknowledged.keys() - set(stored)
        assert not lost, f"{len(lost)} acknowledged events are not stored: {sorted(lost)[:5]}"
        unwanted = {
            each
            for each in set(stored) - self.acknowledged.keys()
            if not isinstance(self.errors.get(each), eda.Timeout)
        }
        assert not unwanted, f"{len(unwanted)} events are stored, though they failed: {sorted(unwanted)[:5]}"
        if in_order:
            held = set(stored)
            assert stored == [each for each in sent if each in held], "the stream has another order"
        assert stats.sent == len(sent)
        assert stats.acknowledged == len(self.acknowledged)
        assert stats.failed == len(self.failed)
        assert stats.pending == stats.pending_bytes == 0
