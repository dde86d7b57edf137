"""Members of the fault tests of read models: processes that publish, or project, until they are killed or told to end.

A nursery (`faults.nursery`) forks them. The journal (`faults.evidence.Journal`) has a line for each transaction:
"begin" before it, "end" after its commit, or "failed"; its event is "stream:first-last", with the places of its
events, or "stream:-last". Other lines are open, closing, closed, frozen, dying, committing, ended and crashed; their
event is "-" or a quoted text. SIGTERM has a member close.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # noqa: F401
import psycopg  # noqa: F401
import sqlalchemy.ext.asyncio  # noqa: F401

import eda
import eda.connecting
import eda.sql
import eda.subscribing.subscription
from eda import sql
from eda._pack import place_of
from eda.projections.sink import Move, Moves, PositionRow
from support.faults.evidence import Journal
from support.faults.nursery import nurse
from support.projections.tables import commit_of, inserting, sink_of


@dataclass
class Orders:
    """What a member is to do.

    `driver`: how a projecting member reaches its table, at `address`; without it, the member publishes `n` events
    (0: until it ends) into each stream. `delay_s`: the longest pause within a transaction; a publisher's pause after
    ten events. `pack`: it publishes packs of up to this many events, and pauses after each; 0: no packs. `constants`:
    values for "module.NAME". `freeze_at`, `commit_at`, `die_in_apply`, `die_after`: the number of the transaction in
    which the member freezes itself halfway or commits by itself, which it does not finish, or after whose commit it
    dies at once; 0: none.
    """

    url: str
    member: str
    journal: str
    streams: Sequence[str] = ("orders",)
    driver: str = ""
    address: str = ""
    name: str = "list"
    options: dict[str, Any] = field(default_factory=dict)
    retry: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    delay_s: float = 0.01
    n: int = 0
    pack: int = 0
    freeze_at: int = 0
    commit_at: int = 0
    die_in_apply: int = 0
    die_after: int = 0


class Member:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.journal = Journal(Path(orders.journal))
        self.chance = random.Random(orders.member)
        self.stop = asyncio.Event()
        self.n_applied = 0
        self.n_committed = 0

    def note(self, what: str, event: str = "-") -> None:
        self.journal.note(self.orders.member, what, event)

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)
        conn = await self.connected()
        try:
            await (self.project(conn) if self.orders.driver else self.publish(conn))
        finally:
            await conn.close()
        self.note("closed")

    async def connected(self) -> eda.Conn:
        # With middleware, SQLite's thread would not go from one transaction to the next by itself.
        middleware = [] if self.orders.driver == "sqlite" else [Notes(self)]
        while True:
            try:
                return await eda.connect(self.orders.url, client=self.orders.member, middleware=middleware)
            except eda.EdaError as error:
                if not error.retryable or self.stop.is_set():
                    raise
                await asyncio.sleep(0.05)

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, conn: eda.Conn) -> None:
        orders = self.orders
        async with contextlib.AsyncExitStack() as stack:
            packs = {"pack": eda.Pack(max_events=orders.pack)} if orders.pack else {}
            publishers = [await stack.enter_async_context(conn.publisher(stream, **packs)) for stream in orders.streams]
            self.note("open")
            number, next_pause = 0, 10
            while not self.stop.is_set() and (number < orders.n or not orders.n):
                number += 1
                for publisher in publishers:
                    await publisher.send(eda.Event(type="t", aggregate=str(number % 7), data=eda.Bytes(bytes(20))))
                if number == next_pause:
                    next_pause += self.chance.randint(1, orders.pack) if orders.pack else 10
                    await asyncio.sleep(orders.delay_s)
        self.note("closing")

    # --- projecting --------------------------------------------------------------------------------------------------

    async def project(self, conn: eda.Conn) -> None:
        orders = self.orders
        apply = inserting(orders.driver, orders.member, lambda: self.chance.random() * orders.delay_s, self.halfway)
        options = orders.options | ({"retry": eda.Retry(**orders.retry)} if orders.retry else {})
        sink = NotedSQLite(self) if orders.driver == "sqlite" else sink_of(orders.driver, orders.address)
        projection = await conn.projection(
            list(orders.streams), self.harmful(apply), into=sink, name=orders.name, **options
        )
        self.note("open")
        waiting = asyncio.ensure_future(self.stop.wait()), asyncio.ensure_future(projection.wait())
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting[1].done():
            error = waiting[1].exception()
            self.note("ended", quote(f"{type(error).__name__}: {error}"))
        self.note("closing")
        await projection.close()
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)

    def committed(self, what: str) -> None:
        self.n_committed += 1
        if self.n_committed == self.orders.die_after:
            self.die()
        self.note("end", what)

    def die(self) -> None:
        self.note("dying")
        os.kill(os.getpid(), signal.SIGKILL)

    def halfway(self, events: list[eda.Event]) -> None:
        self.n_applied += 1
        if self.n_applied == self.orders.freeze_at:
            self.note("frozen", range_of(events))
            os.kill(os.getpid(), signal.SIGSTOP)

    def harmful(self, apply: Any) -> Any:
        """Return `apply` with the harm that the orders ask for at its end."""
        orders = self.orders
        commit = commit_of(orders.driver)

        def harm(events: list[eda.Event], tx: Any) -> Any:
            if self.n_applied == orders.die_in_apply:
                self.die()
            if self.n_applied == orders.commit_at:
                self.note("committing", range_of(events))
                return commit(tx)
            return None

        if orders.driver in ("sqlite", "psycopg"):

            def apply_then_harm(events: list[eda.Event], tx: Any) -> None:
                apply(events, tx)
                harm(events, tx)

            return apply_then_harm

        async def apply_then_harm_async(events: list[eda.Event], tx: Any) -> None:
            await apply(events, tx)
            harming = harm(events, tx)
            if harming is not None:
                await harming

        return apply_then_harm_async


class Notes(eda.Middleware):
    """Journals each transaction."""

    def __init__(self, member: Member) -> None:
        self.member = member

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        member, what = self.member, range_of(events)
        member.note("begin", what)
        try:
            await call_next(events)
        except BaseException:
            member.note("failed", what)
            raise
        member.committed(what)


class NotedSQLite(sql.SQLite):
    """Journals each transaction in the thread: before its begin, and after its commit, when eda does not know of it."""

    def __init__(self, member: Member) -> None:
        super().__init__(member.orders.address)
        self.member = member

    async def move_on(self, name: str, version: int, row: PositionRow, moves: Moves) -> None:
        noted = NotedMoves(self.member, row.stream, moves)
        try:
            await super().move_on(name, version, row, noted)
        except BaseException:
            if noted.is_open:
                self.member.note("failed", noted.what)
            raise


class NotedMoves:
    def __init__(self, member: Member, stream: str, moves: Moves) -> None:
        self.member = member
        self.stream = stream
        self.moves = moves
        self.what = ""
        self.is_open = False

    def next(self) -> Move | None:
        move = self.moves.next()
        if move is not None:
            self.what = f"{self.stream}:-{move.sequence}.{move.index}"
            self.is_open = True
            self.member.note("begin", self.what)
        return move

    def moved(self, row: PositionRow) -> None:
        self.is_open = False
        self.member.committed(self.what)
        self.moves.moved(row)


def range_of(events: Sequence[eda.Event]) -> str:
    return f"{events[0].stream}:{place_of(events[0])}-{place_of(events[-1])}"


def run_member(given: dict[str, Any]) -> None:
    orders = Orders(**given)
    with open(f"{orders.journal}-{orders.member}.log", "ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    member = Member(orders)
    try:
        for path, value in orders.constants.items():
            module, _, name = path.rpartition(".")
            found = importlib.import_module(module)
            assert hasattr(found, name), path
            setattr(found, name, value)
        asyncio.run(member.run())
    except BaseException:
        member.note("crashed", quote(traceback.format_exc()))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    nurse(run_member)
