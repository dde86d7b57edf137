"""Publishers and subscriptions of every kind under load, while a test does harm; then the evidence is examined."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

import eda
from eda._pack import place_of
from helpers import until
from support.faults.evidence import (
    Journal,
    Place,
    Stored,
    assert_each_handled,
    assert_key_order,
    assert_no_repeat_without_fault,
    assert_serial_order,
    assert_stored_once,
    n_duplicates,
    read_stream,
)

__all__ = [
    "IS_LONG",
    "KINDS",
    "LISTS",
    "PACK",
    "PACKED_STREAM",
    "Scene",
    "packed_too",
    "packed_too_if_long",
    "scaled",
]

FORGOTTEN_S = (
    0.5  # a server writes a consumer's acknowledgements down ten times a second (flushLoop in its filestore.go)
)
IS_LONG = os.environ.get("EDA_FAULTS") == "long"
KEPT: dict[str, Any] = {"durable": True, "backfill": True, "prefetch": 200}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT | {"concurrency": 4},
    "serial": KEPT | {"serial": True},
    "key": KEPT | {"key": "aggregate", "concurrency": 8},
}
LISTS: dict[str, dict[str, Any]] = {"lists": KINDS["serial"] | {"batch": 20}}

# How many events are sent at once, so that packs are closed by their count and by their linger, and several are under
# way. Some of them are not full, and some have one event.
BURSTS = (1, 7, 33, 20, 3, 64)
PACK = eda.Pack(max_events=20, linger_s=0.002)
PACKED_STREAM = eda.StreamOptions(packed=True)

packed_too = pytest.mark.parametrize("packed", [False, True], ids=["single", "packed"])
"""The test runs for ordinary messages, and for packs."""
packed_too_if_long = packed_too if IS_LONG else pytest.mark.parametrize("packed", [False], ids=["single"])
"""The test runs for ordinary messages, and in the long form for packs."""


def scaled(short: int, long: int) -> int:
    """Return how often to do harm: `long` under EDA_FAULTS=long (make faults)."""
    return long if IS_LONG else short


class Scene:
    """One publisher, one task of single publishes, and a subscription of each kind, with journals in `folder`.

    `url`: of the connection that suffers; `reader_url`: where the stream is read in the end. The exit waits until all
    that is stored was handled, and asserts what `evidence` has. `duplicates` counts by kind what was handled again.

    `packed`: the publisher packs its events. The single publishes are ordinary messages between the packs, and one more
    subscription gets lists. `fail_every`: every so many events fail twice. (Lists do not fail.)
    `compression`: of the packs.
    """

    def __init__(
        self,
        url: str | list[str],
        folder: Path,
        *,
        reader_url: str | list[str] = "",
        stream: str = "stream",
        pause_s: float = 0.001,
        replicas: int = 1,
        settle_s: float = 60.0,
        packed: bool = False,
        fail_every: int = 0,
        compression: Literal["zstd"] | None = None,
    ) -> None:
        self.url = url
        self.reader_url = reader_url or url
        self.stream = stream
        self.pause_s = pause_s
        self.settle_s = settle_s
        self.packed = packed
        self.fail_every = fail_every
        self.pack = replace(PACK, compression=compression) if packed else None
        self.kinds = KINDS | LISTS if packed else KINDS
        self.defaults = eda.StreamOptions(replicas=replicas)
        self.published = Journal(folder / "published")
        self.journals = {kind: Journal(folder / kind) for kind in self.kinds}
        self.subscriptions: dict[str, eda.Subscription] = {}
        self.handled: dict[str, set[Place]] = {kind: set() for kind in self.kinds}
        self.faults_ns: list[int] = []
        self.kills_ns: list[int] = []
        self.errors: list[Exception] = []
        self.duplicates: dict[str, int] = {}
        self.stored: list[Stored] = []
        self.gone: set[str] = set()  # ids of what the test had purged
        self.n_acknowledged = 0
        # What a fault may have handled again by a shared subscription: its prefetch, and the packs at the ends of that.
        self.n_held = KEPT["prefetch"] + (2 * PACK.max_events if packed else 0)
        self.n_forgotten = 0  # how many events it had handled just before a server was killed
        self._ending = False

    def harm(self, *, kills: bool = False) -> None:
        """Note that something is done now that may swallow acknowledgements. `kills`: a server is killed."""
        self.faults_ns.append(time.monotonic_ns())
        if kills:
            self.kills_ns.append(self.faults_ns[-1])

    def may_repeat(self, n_faults: int) -> int:
        """Return how many events a shared subscription may have handled again."""
        return self.n_held * n_faults + self.n_forgotten

    def handler(self, kind: str, member: str) -> Callable[[Any], Any]:
        journal, handled = self.journals[kind], self.handled[kind]

        async def handle(event: eda.Event) -> None:
            place = place_of(event)
            journal.note(member, "begin", place)
            await asyncio.sleep(0)
            if self.fail_every and event.attempt <= 2 and int(event.id[1:]) % self.fail_every == 0:
                raise ValueError("as it was told")
            journal.note(member, "end", place)
            handled.add((event.sequence, event.index))

        async def handle_list(events: list[eda.Event]) -> None:
            await asyncio.sleep(0)
            for event in events:  # without a pause, so that the list is never cancelled when it is half done
                place = place_of(event)
                journal.note(member, "begin", place)
                journal.note(member, "end", place)
            handled.update((event.sequence, event.index) for event in events)

        return handle_list if "batch" in self.kinds[kind] else handle

    async def __aenter__(self) -> Scene:
        self.conn = await eda.connect(self.url, client="scene", stream_defaults=self.defaults)
        await self.conn.streams.create(self.stream, replace(self.defaults, packed=self.packed))
        for kind in self.kinds:
            await self.subscribe(kind)
        self.publisher = await self.conn.publisher(
            self.stream,
            pack=self.pack,
            ack_timeout_s=1.0,
            max_pending=500,
            on_ack=self._on_ack,
            on_error=self._on_error,
        )
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._publish())]
        return self

    async def subscribe(self, kind: str, member: str = "") -> None:
        """Open the subscription of a kind, again if it has ended; `member` is who the journal says it is."""
        handler = self.handler(kind, member or kind)
        self.subscriptions[kind] = await self.conn.subscribe(self.stream, handler, name=kind, **self.kinds[kind])

    def _on_ack(self, event_id: str, sequence: int) -> None:
        self.published.note("publisher", "acked", event_id)
        self.n_acknowledged += 1

    def _on_error(self, event: eda.Event, error: Exception) -> None:
        self.errors.append(error)

    async def _send(self) -> None:
        numbers = itertools.count(1)
        for burst in itertools.cycle(BURSTS if self.packed else (5,)):
            if self._ending:
                break
            for number in itertools.islice(numbers, burst):
                event = eda.Event(id=f"p{number:07}", type="t", aggregate=str(number % 7), data=eda.Bytes(bytes(50)))
                self.published.note("publisher", "sent", event.id)
                await self.publisher.send(event)
            await asyncio.sleep(self.pause_s * burst)

    async def _publish(self) -> None:
        number = 0
        while not self._ending:
            number += 1
            event = eda.Event(id=f"s{number:07}", type="t", aggregate=str(number % 7))
            self.published.note("single", "sent", event.id)
            await self.conn.publish(self.stream, event)
            self.published.note("single", "acked", event.id)
            await asyncio.sleep(self.pause_s * 5)

    async def more(self, n: int = 100, timeout_s: float = 60.0) -> None:
        """Wait until `n` more events are acknowledged, and every subscription has handled as many more."""
        acknowledged = self.n_acknowledged + n
        goals = {kind: len(handled) + n for kind, handled in self.handled.items()}

        def is_there() -> bool:
            return self.n_acknowledged >= acknowledged and all(
                len(self.handled[kind]) >= goal for kind, goal in goals.items()
            )

        await until(is_there, timeout_s)

    async def __aexit__(self, exc_type: object, *_: object) -> None:
        self._ending = True
        try:
            if exc_type is None:
                async with asyncio.timeout(self.settle_s):
                    await asyncio.gather(*self._tasks)
                    await self.publisher.flush()
                self.stored = await read_stream(self.reader_url, self.stream)
                places = {each.place for each in self.stored}
                await until(lambda: all(places <= handled for handled in self.handled.values()), self.settle_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.conn.close()
        if exc_type is None:
            self.examine()

    def examine(self) -> None:
        """Assert all that holds whatever was done."""
        assert not self.errors, self.errors[:3]
        if self.packed:
            sizes = {each.n_beside + 1 for each in self.stored if each.n_beside}
            assert len(sizes) > 1, f"the packs have {sizes} events"
        assert_stored_once((each for each in self.published.events("acked") if each not in self.gone), self.stored)
        for way in "ps":
            ids = [each.id for each in self.stored if each.id.startswith(way)]
            assert ids == sorted(ids), "the stream has another order than its publisher"
        for kind, journal in self.journals.items():
            lines = journal.lines()
            self.duplicates[kind] = n_duplicates(lines)
            assert_each_handled(lines, self.stored)
            # What an ordered subscription has handled it knows itself: no fault of the network has it come again.
            assert_no_repeat_without_fault(lines, self.faults_ns if kind == "shared" else ())
        ends = [line.ns for line in self.journals["shared"].lines() if line.what == "end"]
        self.n_forgotten = sum(any(0 <= kill - end <= FORGOTTEN_S * 1e9 for kill in self.kills_ns) for end in ends)
        for kind in {"serial", "lists"} & self.journals.keys():
            assert_serial_order(self.journals[kind].lines(), self.stored)
        assert_key_order(self.journals["key"].lines(), self.stored)
