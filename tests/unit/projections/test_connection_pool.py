"""`ConnectionPool` with connections that only wait: how many there are, who gets one, and what closing means."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from eda.projections.connection_pool import ConnectionPool, begin_text
from eda.projections.sql_steps import Result, Sql


class Waiting:
    """A connection whose transactions end when the test says so."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.is_free = asyncio.Event()
        self.is_free.set()
        self.n_running = 0
        self.n_run = 0
        self.is_closed = False

    async def run(self, steps: Any, timeout_s: float | None) -> Any:
        self.n_running += 1
        self.is_free.clear()
        assert self.n_running == 1, "two transactions at once"
        try:
            await self.goes_on.wait()
        finally:
            self.n_running -= 1
            self.is_free.set()
        self.n_run += 1
        steps.close()

    async def close(self) -> None:
        await self.is_free.wait()
        self.is_closed = True


class Made:
    """The connections that a pool has made."""

    def __init__(self, size: int) -> None:
        self.all: list[Waiting] = []
        self.pool = ConnectionPool(self.make, size)

    def make(self) -> Waiting:
        self.all.append(Waiting())
        return self.all[-1]

    def start(self, count: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.pool.run(nothing(), None)) for _ in range(count)]

    def go_on(self) -> None:
        for each in self.all:
            each.goes_on.set()


def nothing() -> Generator[Sql, Result, None]:
    yield Sql("SELECT 1")


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_pool_when_more_transactions_run_than_it_has_connections_lets_the_others_wait() -> None:
    made = Made(2)
    tasks = made.start(5)
    await turn()
    assert [each.n_running for each in made.all] == [1, 1]
    made.go_on()
    await asyncio.gather(*tasks)
    assert len(made.all) == 2
    assert sum(each.n_run for each in made.all) == 5


async def test_pool_when_transactions_follow_each_other_uses_one_connection() -> None:
    made = Made(2)
    for _ in range(3):
        (task,) = made.start(1)
        await turn()
        made.go_on()
        await task
    assert len(made.all) == 1


async def test_pool_when_a_waiting_caller_is_cancelled_gives_its_turn_to_the_next() -> None:
    made = Made(1)
    first, second, third = made.start(3)
    await turn()
    made.go_on()
    await first
    second.cancel()  # it may have got the connection in the same moment
    await asyncio.gather(second, return_exceptions=True)
    await third
    assert made.all[0].n_running == 0
    (last,) = made.start(1)
    await last


async def test_pool_when_closed_waits_for_transactions_and_opens_new_connections_for_those_that_wait() -> None:
    made = Made(1)
    first, second = made.start(2)
    await turn()
    closing = asyncio.create_task(made.pool.close())
    await turn()
    assert not closing.done()
    made.go_on()
    await asyncio.gather(first, closing)
    await turn()
    assert made.all[0].is_closed
    made.go_on()
    await second
    assert len(made.all) == 2
    assert not made.all[1].is_closed
    await made.pool.close()
    assert made.all[1].is_closed


@pytest.mark.parametrize(("timeout_s", "ms"), [(None, 30_000), (1.5, 1500), (1e-9, 1), (1e12, 2**31 - 1)], ids=str)
def test_begin_when_the_timeout_is_extreme_stays_within_what_the_server_takes(timeout_s: float | None, ms: int) -> None:
    setting, *others = begin_text(timeout_s).split("; ")
    assert setting == f"SET LOCAL idle_in_transaction_session_timeout = {ms}"
    assert others == ["SET LOCAL eda.apply = 'open'", "SAVEPOINT eda_apply"]
