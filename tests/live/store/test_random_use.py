"""Event stores that are used at random and concurrently: what was acknowledged is in the stream, and nothing refused.

Stores with different caches and deciders on two connections execute, append, load and forget. Calls are cancelled,
`evolve` refuses some events, and the connection is lost or the stream is replaced by a backup meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Proxy
from support.store.backups import backup, restore

LASTS_S = 1.5
WORKERS = 20
NAMES = [f"a{n}" for n in range(6)]


class RefusedError(Exception):
    pass


def evolve(state: list[int], event: eda.Event) -> list[int]:
    """Change the state in place, and refuse some events when the state is changed already."""
    n: int = event.data.decode()
    state.append(n)
    if n % 7 == 6:
        raise RefusedError(n)
    return state


def decide(_: list[int], numbers: list[int]) -> list[eda.Event]:
    return [eda.Event(type=f"added-{n % 3}", data=eda.JSON(n)) for n in numbers]


async def decide_slowly(state: list[int], numbers: list[int]) -> list[eda.Event]:
    await asyncio.sleep(random.random() * 0.003)
    return decide(state, numbers)


class Use:
    """Random use of the stores, and what came of it."""

    def __init__(self, stores: list[eda.EventStore[list[int], list[int]]], chance: random.Random) -> None:
        self.stores = stores
        self.chance = chance
        self.n_used = 0
        self.acknowledged: dict[tuple[str, int], tuple[int, int]] = {}  # by aggregate and version: number and sequence
        self.refused: set[int] = set()
        self.forgotten: set[str] = set()
        self.commands: dict[str, tuple[str, list[int]]] = {}
        self.counts: Counter[str] = Counter()
        self.keeps_all = True  # whether the stream keeps what was acknowledged: it is not restored from a backup

    def numbers(self) -> list[int]:
        n = self.chance.choice([1, 1, 1, 2, 5])
        self.n_used += n
        return list(range(self.n_used - n, self.n_used))

    async def work(self, until: float) -> None:
        chance = self.chance
        while time.monotonic() < until:
            store, aggregate, numbers = chance.choice(self.stores), chance.choice(NAMES), self.numbers()
            command = chance.choice([None, f"c{numbers[0]}"])
            kind = chance.random()
            if kind < 0.1 and self.commands:  # once more
                command = chance.choice(list(self.commands))
                aggregate, numbers = self.commands[command]
            try:
                if kind < 0.5:
                    if command is not None:
                        self.commands[command] = aggregate, numbers
                    call = store.execute(aggregate, numbers, command_id=command)
                elif kind < 0.6:
                    command, numbers = None, [n for n in numbers if n % 7 != 6] or [7 * numbers[0] + 10**6]
                    expected = chance.choice(["any", "exists", "new", chance.randrange(30)])
                    call = store.append(aggregate, decide([], numbers), expected=expected)
                elif kind < 0.603 and len(self.forgotten) < 2:
                    await store.forget(aggregate)
                    self.forgotten.add(aggregate)
                    continue
                else:
                    await self.load(store, aggregate)
                    continue
                self.note(aggregate, numbers, await self.perhaps_cancelled(call))
            except asyncio.CancelledError:
                self.counts["cancelled"] += 1
            except (eda.VersionConflict, RefusedError) as error:
                self.counts[type(error).__name__] += 1
                if command is None:
                    self.refused.update(numbers)
            except eda.EdaError as error:
                self.counts[type(error).__name__] += 1

    async def perhaps_cancelled(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(call)
        if self.chance.random() < 0.1:
            await asyncio.sleep(self.chance.random() * 0.004)
            task.cancel()
        return await task

    async def load(self, store: eda.EventStore[list[int], list[int]], aggregate: str) -> None:
        known = [key for key in self.acknowledged if key[0] == aggregate]
        loaded = await store.load(aggregate)
        assert loaded.state is not None
        assert len(loaded.state) == len(set(loaded.state)) == loaded.version
        assert not self.keeps_all or loaded.version >= max((version for _, version in known), default=0)
        self.counts["loaded"] += 1

    def note(self, aggregate: str, numbers: list[int], result: eda.Appended[list[int]]) -> None:
        assert len(result.receipts) == len(numbers)
        first = result.version - len(numbers) + 1
        for at, (number, receipt) in enumerate(zip(numbers, result.receipts, strict=True), first):
            noted = self.acknowledged.setdefault((aggregate, at), (number, receipt.sequence))
            assert not self.keeps_all or noted[0] == number
        self.counts["stored"] += 1

    async def check(self, conn: eda.Conn, stream: str) -> None:
        for aggregate in set(NAMES) - self.forgotten:
            events = await conn.store(stream).history(aggregate)
            numbers = [event.data.decode() for event in events]
            assert [event.version for event in events] == list(range(1, len(events) + 1))
            assert len(set(numbers)) == len(numbers)
            assert not self.refused & set(numbers)
            for (name, version), (number, sequence) in self.acknowledged.items():
                if name == aggregate:
                    assert (numbers[version - 1], events[version - 1].sequence) == (number, sequence)
            for store in self.stores:
                assert (await store.load(aggregate)).state == numbers


@pytest.mark.parametrize("trouble", ["none", "the connection is lost", "the stream is restored"])
async def test_stores_when_used_at_random_keep_their_promises(
    server: eda.EmbeddedServer,
    connect: Connect,
    admin: Admin,
    stream: str,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eda.publishing.stream_looks.LOOK_EVERY_S", 0.05)
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    deciders: list[Callable[..., Any]] = [decide, decide_slowly]
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        conns = [await connect(proxy.url(server.url)), await connect()]
        stores = [
            conn.store(
                stream,
                eda.Decider(list, evolve, each, state=list[int]),
                cache=cache,
                attempts=chance.choice([1, 10, 50]),
                snapshot_every=chance.choice([None, 1, 3, 50]),
            )
            for conn in conns
            for each in deciders
            for cache in (0, 1, 10_000)
        ]
        await asyncio.gather(*(store.load("a0") for store in stores))
        use = Use(stores, chance)
        use.keeps_all = trouble != "the stream is restored"

        async def make_trouble() -> None:
            await asyncio.sleep(LASTS_S / 3)
            if trouble == "the connection is lost":
                proxy.drop()
            elif trouble == "the stream is restored":
                saved = await backup(admin, stream)
                await asyncio.sleep(LASTS_S / 3)
                await admin.js.delete_stream(stream)
                await restore(admin, saved)

        try:
            until = time.monotonic() + LASTS_S
            async with asyncio.TaskGroup() as group:
                group.create_task(make_trouble())
                for _ in range(WORKERS):
                    group.create_task(use.work(until))
            if trouble == "the stream is restored":
                use.acknowledged.clear()
                use.refused.clear()
                use.forgotten.clear()
                for name in NAMES:
                    try:
                        await stores[0].load(name)
                    except eda.AggregateForgotten:
                        use.forgotten.add(name)
            await use.check(conns[1], stream)
        except BaseException as error:
            error.add_note(f"seed {seed}: {use.counts}")
            raise
        assert use.counts["stored"] > 20, use.counts
        assert use.counts["loaded"] > 20, use.counts
    for conn in conns:
        await conn.close()
    if f"{stream}-snapshots" in await admin.stream_names():
        await admin.js.delete_stream(f"{stream}-snapshots")
