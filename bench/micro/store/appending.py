"""What an append and a command cost the client, beside a publish; on a server, whose own work does not count.

A process that runs rounds has a connection and streams of its own, because these can't be shared by forked processes.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from typing import Any

import eda
from eda._data import Bytes
from micro import Maker, Round
from micro.codec import DATA

__all__ = ["CONTENDERS", "N_EVENTS"]

N_EVENTS = 200  # of one round, each of another aggregate
TYPE = "reading-recorded"
NAMES = [f"sensor-{n}" for n in range(N_EVENTS)]

# What a forked process has from its parent. It must not be freed: closing it would disturb the parent.
_inherited: list[Any] = []


class Client(ABC):
    """A contender with a server. `run` does a round, and returns how many events were acknowledged."""

    def __init__(self) -> None:
        self.server = eda.EmbeddedServer()
        asyncio.run(self.server.start())
        self.pid = 0
        self.runner = asyncio.Runner()

    def run(self) -> int:
        if self.pid != os.getpid():
            _inherited.append(dict(vars(self)))
            self.pid = os.getpid()
            self.runner = asyncio.Runner()
            self.runner.run(self.begin())
        return self.runner.run(self.round())

    async def begin(self) -> None:
        self.conn = await eda.connect(self.server.url, client="bench")
        await self.prepare(f"stream-{self.pid}")
        for _ in range(2):
            await self.round()

    @abstractmethod
    async def prepare(self, stream: str) -> None:
        """Make the stream."""

    @abstractmethod
    async def round(self) -> int:
        """Store N_EVENTS events."""


def make_event(name: str) -> eda.Event:
    return eda.Event(type=TYPE, aggregate=name, data=Bytes(DATA))


class Publish(Client):
    """`conn.publish`."""

    async def prepare(self, stream: str) -> None:
        self.stream = stream
        await self.conn.streams.create(stream)

    async def round(self) -> int:
        for name in NAMES:
            await self.conn.publish(self.stream, make_event(name))
        return N_EVENTS


class PublishAtOnce(Publish):
    """`conn.publish`, concurrently."""

    async def round(self) -> int:
        receipts = await asyncio.gather(*[self.conn.publish(self.stream, make_event(name)) for name in NAMES])
        return len(receipts)


class Append(Client):
    """`store.append` under the version, which the store has in its cache."""

    async def prepare(self, stream: str) -> None:
        self.version = 0
        self.store = await self.conn.store(stream)

    async def round(self) -> int:
        for name in NAMES:
            await self.store.append(name, [make_event(name)], expected=self.version)
        self.version += 1
        return N_EVENTS


class Execute(Client):
    """`store.execute`, concurrently, with all aggregates in the cache."""

    async def prepare(self, stream: str) -> None:
        self.store = await self.conn.store(stream, eda.Decider(0, evolve, decide))

    async def round(self) -> int:
        results = await asyncio.gather(*[self.store.execute(name, name) for name in NAMES])
        return sum(len(each.receipts) for each in results)


def evolve(state: int, event: eda.Event) -> int:
    return state + 1


def decide(state: int, command: str) -> eda.Event:
    return make_event(command)


def _maker(client: type[Client]) -> Maker:
    return lambda: Round(client().run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {
    "eda_append": _maker(Append),
    "eda_publish": _maker(Publish),
    "eda_execute": _maker(Execute),
    "eda_publish_at_once": _maker(PublishAtOnce),
}
