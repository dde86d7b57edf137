"""Transactions that fill an outbox from threads, relays in processes of their own, and what must hold in the end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

import eda
import eda.sql
from helpers import until
from support.faults.evidence import read_stream
from support.faults.nursery import Nursery
from support.projections.tables import SQLITE, query, sink_of

__all__ = ["OutboxLoad"]

N_WRITERS = 2
N_KEYS = 5  # of each writer


class OutboxLoad:
    """An outbox under load. Each writer has aggregates of its own, so that their order is that of its transactions.

    A tenth of the transactions is rolled back. `committed` has the ids of the transactions that were committed.
    """

    def __init__(self, nursery: Nursery, folder: Path, url: str, driver: str, address: str) -> None:
        self.url = url
        self.address = address
        self.committed: list[str] = []
        self.uncertain: list[list[str]] = []  # the ids of transactions whose commit was not answered
        self.pids: dict[str, int] = {}
        self._driver = driver
        self._nursery = nursery
        self._folder = folder
        self._ended: set[str] = set()
        self._n_started = 0
        # The members use the driver; here is nothing to close.
        self._outbox = eda.sql.Outbox(sink_of("sqlite" if driver in SQLITE else "psycopg", address))
        self._lock = threading.Lock()
        self._stop = threading.Event()

    async def prepare(self, *, dedup_window_s: float) -> None:
        """Make the stream and the tables."""
        await self._outbox.create()
        async with eda.connect(self.url) as conn:
            await conn.streams.create("orders", eda.StreamOptions(dedup_window_s=dedup_window_s))

    # --- writers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, chance: random.Random, *, pause_s: float = 0.002) -> Iterator[None]:
        """Let threads fill the outbox within the context."""
        threads = [
            threading.Thread(target=self._write, args=(number, random.Random(chance.random()), pause_s))
            for number in range(N_WRITERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _write(self, writer: int, chance: random.Random, pause_s: float) -> None:
        n = 0
        tx: Any = None
        while not self._stop.is_set():
            events = []
            for _ in range(chance.choice((1, 1, 5, 30))):
                n += 1
                key = f"w{writer}k{chance.randrange(N_KEYS)}"
                events.append(eda.Event(id=f"{key}-{n:07}", type="t", aggregate=key))
            rolls_back = chance.random() < 0.1
            try:
                if tx is None:
                    tx = self._connect()
                self._outbox.add_many(tx, "orders", events)
                time.sleep(chance.random() * pause_s)  # so that transactions commit in another order
                tx.rollback() if rolls_back else tx.commit()
            except (psycopg.OperationalError, sqlite3.OperationalError):
                # The server is away. If a commit had no answer, it may have landed.
                with suppress(Exception):
                    tx.close()
                tx = None
                if not rolls_back:
                    self._look_for(events)
                continue
            if not rolls_back:
                with self._lock:
                    self.committed += [event.id for event in events]
            time.sleep(chance.random() * pause_s)
        if tx is not None:
            tx.close()

    def _connect(self) -> Any:
        if self._driver in SQLITE:
            return sqlite3.connect(self.address, timeout=60)
        return psycopg.connect(self.address)

    def _look_for(self, events: list[eda.Event]) -> None:
        """Remember the events as uncertain: either all of them or none must be in the stream."""
        with self._lock:
            self.uncertain.append([event.id for event in events])

    # --- relays ------------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start a relay; returns its name."""
        self._n_started += 1
        name = f"relay-{self._n_started}"
        orders = {"url": self.url, "driver": self._driver, "address": self.address, "log": str(self._folder / name)}
        self.pids[name] = self._nursery.start(orders)
        return name

    def log(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""

    def is_active(self, name: str) -> bool:
        return name not in self._ended and "this relay is active" in self.log(name)

    def active(self) -> list[str]:
        return [name for name in self.pids if self.is_active(name)]

    async def until_active(self) -> str:
        """Wait until a relay is active, and return its name."""
        await until(self.active, 30.0)
        (name,) = self.active()
        return name

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids[name], number)

    def kill(self, name: str) -> bool:
        """SIGKILL a relay. Return whether it may have had rows on their way."""
        self.send(name, signal.SIGKILL)
        self._ended.add(name)
        return bool(query(self.address, "SELECT 1 FROM eda_outbox_relay"))

    async def more(self, n: int) -> None:
        """Wait until the stream has stored `n` more events."""
        async with eda.connect(self.url) as conn:

            async def n_stored() -> int:
                return (await conn.streams.info("orders")).events

            goal = await n_stored() + n

            async def is_reached() -> bool:
                return await n_stored() >= goal

            await until(is_reached, 60.0)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def end(self) -> dict[str, int]:
        """Wait until the outbox is empty, end the relays, and prove that the stream has each event once, in order."""
        await until(lambda: query(self.address, "SELECT count(*) FROM eda_outbox")[0][0] == 0, 60.0)
        left = [name for name in self.pids if name not in self._ended]
        for name in left:
            self.send(name, signal.SIGTERM)
        await until(lambda: all("ENDED" in self.log(name) for name in left), 30.0)
        for name in self.pids:
            assert "Traceback" not in self.log(name), self.log(name)
        stored = await read_stream(self.url, "orders")
        ids = [message.id for message in stored]
        assert len(set(ids)) == len(ids), "an event was stored twice"
        missing = set(self.committed).difference(ids)
        assert not missing, f"{len(missing)} events were lost, such as {min(missing)}"
        others = set(ids).difference(self.committed)
        for each in self.uncertain:
            assert others.issuperset(each) or others.isdisjoint(each), "a transaction was published in part"
            others.difference_update(each)
        assert not others, f"{len(others)} events of no committed transaction were published"
        by_key: dict[str, list[str]] = defaultdict(list)
        for event_id in ids:
            by_key[event_id.partition("-")[0]].append(event_id)
        for key, theirs in by_key.items():
            assert theirs == sorted(theirs), f"the order of {key} was not kept"
        assert query(self.address, "SELECT count(*) FROM eda_outbox_relay") == [(0,)]
        return {"events": len(ids), "relays": self._n_started}
