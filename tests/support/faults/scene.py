"""Publishers and subscriptions of every kind under load, while a test does harm; then the evidence is examined."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

__all__ = ["IS_LONG", "KINDS", "Scene", "scaled"]

IS_LONG = os.environ.get("EDA_FAULTS") == "long"
KEPT: dict[str, Any] = {"durable": True, "backfill": True, "prefetch": 200}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT | {"concurrency": 4},
    "serial": KEPT | {"serial": True},
    "key": KEPT | {"key": "aggregate", "concurrency": 8},
}


def scaled(short: int, long: int) -> int:
    """Return how often to do harm: `long` under EDA_FAULTS=long (make faults)."""
    return long if IS_LONG else short


class Scene:
    """One publisher, one task of single publishes, and a subscription of each kind, with journals in `folder`.

    `url`: of the connection that suffers; `reader_url`: where the stream is read in the end. The exit waits until all
    that is stored was handled, and asserts what `evidence` has. `duplicates` counts by kind what was handled again.
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
    ) -> None:
        self.url = url
        self.reader_url = reader_url or url
        self.stream = stream
        self.pause_s = pause_s
        self.settle_s = settle_s
        self.options = eda.StreamOptions(replicas=replicas)
        self.published = Journal(folder / "published")
        self.journals = {kind: Journal(folder / kind) for kind in KINDS}
        self.subscriptions: dict[str, eda.Subscription] = {}
        self.handled: dict[str, set[Place]] = {kind: set() for kind in KINDS}
        self.faults_ns: list[int] = []
        self.errors: list[Exception] = []
        self.duplicates: dict[str, int] = {}
        self.stored: list[Stored] = []
        self.gone: set[str] = set()  # ids of what the test had purged
        self.n_acknowledged = 0
        self._ending = False

    def harm(self) -> None:
        """Note that something is done now that may swallow acknowledgements."""
        self.faults_ns.append(time.monotonic_ns())

    def handler(self, kind: str, member: str) -> Callable[[eda.Event], Any]:
        journal, handled = self.journals[kind], self.handled[kind]

        async def handle(event: eda.Event) -> None:
            place = place_of(event)
            journal.note(member, "begin", place)
            await asyncio.sleep(0)
            journal.note(member, "end", place)
            handled.add((event.sequence, event.index))

        return handle

    async def __aenter__(self) -> Scene:
        self.conn = await eda.connect(self.url, client="scene", stream_defaults=self.options)
        await self.conn.streams.create(self.stream, self.options)
        for kind in KINDS:
            await self.subscribe(kind)
        self.publisher = await self.conn.publisher(
            self.stream, ack_timeout_s=1.0, max_pending=500, on_ack=self._on_ack, on_error=self._on_error
        )
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._publish())]
        return self

    async def subscribe(self, kind: str, member: str = "") -> None:
        """Open the subscription of a kind, again if it has ended; `member` is who the journal says it is."""
        handler = self.handler(kind, member or kind)
        self.subscriptions[kind] = await self.conn.subscribe(self.stream, handler, name=kind, **KINDS[kind])

    def _on_ack(self, event_id: str, sequence: int) -> None:
        self.published.note("publisher", "acked", event_id)
        self.n_acknowledged += 1

    def _on_error(self, event: eda.Event, error: Exception) -> None:
        self.errors.append(error)

    async def _send(self) -> None:
        number = 0
        while not self._ending:
            number += 1
            event = eda.Event(id=f"p{number:07}", type="t", aggregate=str(number % 7), data=eda.Bytes(bytes(50)))
            self.published.note("publisher", "sent", event.id)
            await self.publisher.send(event)
            if number % 5 == 0:
                await asyncio.sleep(self.pause_s * 5)

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
        assert_serial_order(self.journals["serial"].lines(), self.stored)
        assert_key_order(self.journals["key"].lines(), self.stored)
