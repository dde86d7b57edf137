"""Claims of one stream's rows: the first one, signs of life, takeovers, releases, outages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.projections import ownership
from eda.projections.ownership import Ownership
from eda.projections.sink import PositionRow
from helpers import Logged, until
from support.projections.memory_sink import MemorySink, Outage

LOG = logging.getLogger("eda")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "TOUCH_S", 0.05)
    monkeypatch.setattr(ownership, "LOOK_S", 0.02)
    monkeypatch.setattr(ownership, "STALE_S", 0.5)


async def checked(rows: list[PositionRow]) -> str:
    return "then"


def member(sink: MemorySink, lanes: int = 2, **calls: Any) -> Ownership:
    return Ownership(sink, "list", 1, "orders", lanes, LOG, **calls)


async def owner(sink: MemorySink, **calls: Any) -> tuple[Ownership, list[PositionRow]]:
    made = member(sink, **calls)
    rows = await made.claim(checked)
    made.keep(lambda: rows)
    return made, rows


async def test_claim_when_there_are_no_rows_makes_them_at_once() -> None:
    sink = MemorySink()
    rows = await member(sink).claim(checked)
    assert [(row.lane, row.created, row.sequence, row.owner_epoch) for row in rows] == [
        (0, "then", 0, 1),
        (1, "then", 0, 1),
    ]


async def test_claim_when_the_owner_lives_stands_by_until_it_releases(logged: Logged) -> None:
    sink = MemorySink()
    first, rows = await owner(sink)
    standing_by = asyncio.Event()
    second = member(sink)
    claim = asyncio.ensure_future(second.claim(checked, standing_by.set))
    await standing_by.wait()
    await asyncio.sleep(1)  # twice the time after which silent owners lose their rows
    assert not claim.done()
    assert not second.is_owner
    await first.release(rows)
    assert [row.owner_epoch for row in await claim] == [2, 2]
    assert second.is_owner
    assert not first.is_owner
    assert logged.find("stands by for stream orders")


async def test_claim_when_the_owner_is_silent_takes_over_and_says_so(logged: Logged) -> None:
    sink = MemorySink()
    first, _ = await owner(sink)
    await first.stop()
    rows = await asyncio.wait_for(member(sink).claim(checked), 10)
    assert rows[0].owner_epoch == 2
    assert logged.find("takes stream orders over at sequence 0: its last owner has shown no sign of life")


async def test_owner_without_a_connection_to_the_server_is_replaced_by_a_standby_that_has_one() -> None:
    sink = MemorySink()
    is_up = True
    lost = asyncio.Event()
    first, _ = await owner(sink, is_able=lambda: is_up, on_lost=lost.set)
    claim = asyncio.ensure_future(member(sink).claim(checked))
    await asyncio.sleep(0.8)
    assert not claim.done()
    is_up = False
    assert (await asyncio.wait_for(claim, 10))[0].owner_epoch == 2
    assert not lost.is_set()
    is_up = True
    await asyncio.wait_for(lost.wait(), 10)
    assert not first.is_owner


async def test_owner_when_its_rows_were_taken_over_learns_it_once(logged: Logged) -> None:
    sink, lost = MemorySink(), []
    first, rows = await owner(sink, on_lost=lambda: lost.append(1))
    await sink.claim("list", 1, "orders", seen=sink.stored["list", 1, "orders"], created="then", lanes=2)
    await until(lambda: lost)
    first.lose()
    assert lost == [1]
    assert not first.is_owner
    await first.release(rows)  # not its own any more
    assert "release" not in sink.calls
    assert logged.find("has lost stream orders to another member, and stands by")


async def test_owner_when_transactions_write_rows_sends_no_other_signs_of_life() -> None:
    sink = MemorySink()
    first, _ = await owner(sink)
    for _ in range(30):
        first.wrote()
        await asyncio.sleep(0.01)
    n = sink.calls.count("touch")
    await until(lambda: sink.calls.count("touch") > 2)
    await first.stop()
    assert n <= 3  # more only if the machine stood still


async def test_claim_when_the_number_of_lanes_differs_names_the_new_version() -> None:
    sink = MemorySink()
    first, rows = await owner(sink)
    await first.release(rows)
    with pytest.raises(eda.ConfigError, match=r"has 2 lanes in .*, and lanes=3.* open version=2 with lanes=3"):
        await member(sink, lanes=3).claim(checked)


async def test_claim_when_the_check_fails_raises_its_error() -> None:
    async def check(rows: list[PositionRow]) -> str:
        raise eda.PositionInvalid("list", 1, "orders", "no")

    with pytest.raises(eda.PositionInvalid):
        await member(MemorySink()).claim(check)


def failing(n: int, method: str, error: Exception) -> Callable[[str], None]:
    left = [error] * n

    def fails(called: str) -> None:
        if called == method and left:
            raise left.pop()

    return fails


@pytest.mark.parametrize("method", ["rows", "claim"])
async def test_claim_when_the_database_is_away_tries_again_and_logs_once(method: str, logged: Logged) -> None:
    sink = MemorySink(failing(5, method, Outage("database is locked")))
    made, _ = await owner(sink)
    await made.stop()
    assert sink.calls.count(method) >= 6
    assert len(logged.find("trying again until it works: database is locked")) == 1
    assert logged.find("the database memory works again")


async def test_claim_when_the_database_does_not_answer_says_that_it_waits(logged: Logged) -> None:
    """As PostgreSQL does while a frozen member's transaction has locked the row."""

    class Slow(MemorySink):
        async def claim(self, *args: Any, **named: Any) -> list[PositionRow] | None:
            await until(lambda: logged.find("waits to take stream orders over: the database does not answer"))
            return await super().claim(*args, **named)

    rows = await member(Slow()).claim(checked)
    assert rows[0].owner_epoch == 1


async def test_claim_when_the_sink_fails_otherwise_raises() -> None:
    with pytest.raises(ValueError, match="unheard of"):
        await member(MemorySink(failing(1, "rows", ValueError("unheard of")))).claim(checked)


async def test_owner_when_signs_of_life_meet_an_outage_goes_on() -> None:
    sink = MemorySink()
    made, _ = await owner(sink)
    sink.fails = failing(3, "touch", Outage("away"))
    sink.calls.clear()
    await until(lambda: sink.calls.count("touch") > 5)
    assert made.is_owner
    await made.stop()


async def test_owner_when_signs_of_life_fail_otherwise_reports_it() -> None:
    failed: list[Exception] = []
    sink = MemorySink(failing(1, "touch", ValueError("no")))
    made, _ = await owner(sink, on_failed=failed.append)
    await until(lambda: failed)
    await made.stop()
    assert isinstance(failed[0], ValueError)


async def test_standby_when_somebody_waits_looks_every_few_milliseconds() -> None:
    sink = MemorySink()
    first, rows = await owner(sink)
    seen: list[list[PositionRow]] = []
    wanted = False
    second = member(sink, on_rows=seen.append, is_wanted=lambda: wanted)
    ownership.LOOK_S = 5.0
    claim = asyncio.ensure_future(second.claim(checked))
    await until(lambda: seen)
    wanted = True
    second.poke()
    await until(lambda: len(seen) > 20, 3)
    claim.cancel()
    await asyncio.wait({claim})
    await first.release(rows)


async def test_release_when_the_database_is_away_only_warns(logged: Logged) -> None:
    sink = MemorySink(failing(1, "release", Outage("away")))
    first, rows = await owner(sink)
    await first.release(rows)
    assert logged.find("could not release stream orders")
