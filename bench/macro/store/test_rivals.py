"""Orders of ten events: saved, loaded and changed, beside the eventsourcing library on SQLite and on PostgreSQL.

Each event is saved by itself, as the outcome of a command. eda runs N_AT_ONCE operations concurrently, and the rival
runs them in threads if this is faster. SQLite and PostgreSQL write each commit to the disk, and so does the server for
the figures called synced. By default the server does this every two minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import eda
from macro import delete
from macro.store import eventsourcing_orders
from macro.store.orders import Add, Command, Order, decider, ten_events
from support.projections.postgres import MissingPostgres, Postgres

N_ORDERS = 1000
N_AT_ONCE = 200

Note = Callable[[str, float], None]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def synced() -> Iterator[eda.EmbeddedServer]:
    """A server that writes each message to the disk before it acknowledges it."""
    server = eda.EmbeddedServer(config={"jetstream": {"sync_interval": "always"}})
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


async def each_us(names: Sequence[str], work: Callable[[str], Awaitable[Any]], n_at_once: int = N_AT_ONCE) -> float:
    """Do the work for each name, `n_at_once` of them concurrently; return the microseconds of each."""
    left = iter(names)

    async def repeat() -> None:
        for name in left:
            await work(name)

    started = time.perf_counter()
    await asyncio.gather(*[repeat() for _ in range(n_at_once)])
    return (time.perf_counter() - started) / len(names) * 1e6


async def eda_figures(server: eda.EmbeddedServer, stream: str, n_orders: int = N_ORDERS) -> dict[str, float]:
    """Save, load and change orders; return the microseconds of each."""
    names = [f"order-{n}" for n in range(n_orders)]
    events = ten_events()
    found = {}

    async def save(name: str) -> None:
        for version, event in enumerate(events):
            await store.append(name, [event], expected=version)

    async def load(name: str) -> None:
        order = await store.load(name)
        assert order.version == len(events)
        assert order.state is not None
        assert order.state.n_items == 16

    async with eda.connect(server.url, client="bench") as conn:
        store: eda.EventStore[Order, Command] = await conn.store(stream, decider())
        found["save"] = await each_us(names, save) / len(events)
        found["load warm"] = await each_us(names, load)
    async with eda.connect(server.url, client="bench") as conn:
        store = await conn.store(stream, decider(), cache=0)
        await each_us(
            names[:N_AT_ONCE], load
        )  # the rival loads with what has saved the orders, so it has begun long ago
        found["load"] = await each_us(names * eventsourcing_orders.N_LOADS, load)
        found["load one by one"] = await each_us(names[:200], load, 1)
    async with eda.connect(server.url, client="bench") as conn:
        store = await conn.store(stream, decider())
        found["change"] = await each_us(names, lambda name: store.execute(name, Add()))
    return found


def contender(name: str, measure: Callable[[], dict[str, float]], note: Note) -> tuple[str, Callable[[], float]]:
    """Return a contender of `duel` that notes all figures. Its own figure is that of a save."""
    rounds: dict[str, list[float]] = {}

    def run() -> float:
        found = measure()
        for what, took in found.items():
            rounds.setdefault(what, []).append(took)
            note(f"{name} {what} us", sorted(rounds[what])[len(rounds[what]) // 2])
        return found["save"]

    return f"{name} save us", run


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_eventsourcing(
    server: eda.EmbeddedServer, synced: eda.EmbeddedServer, duel: Callable[..., None], note: Note, database: str
) -> None:
    def ours(server: eda.EmbeddedServer) -> dict[str, float]:
        stream = f"rivals-{next(_numbers)}"
        found = asyncio.run(eda_figures(server, stream))
        delete(server, stream)
        return found

    def run(settings: dict[str, str]) -> None:
        duel(
            contender(f"eda beside {database}", lambda: ours(server), note),
            contender(f"eda synced beside {database}", lambda: ours(synced), note),
            contender(
                f"eventsourcing {database}",
                lambda: eventsourcing_orders.figures(settings, N_ORDERS, len(ten_events())),
                note,
            ),
            rounds=3,
        )

    if database == "SQLite":
        with tempfile.TemporaryDirectory() as folder:
            run(eventsourcing_orders.on_sqlite(str(Path(folder) / "orders.db")))
        return
    try:
        server_of_rival = Postgres(is_quick=False)
    except MissingPostgres as missing:
        pytest.skip(str(missing))
    with server_of_rival as postgres:
        run(eventsourcing_orders.on_postgresql(postgres))
