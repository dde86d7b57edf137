"""Steps driven with plain and asynchronous connections, placeholders, and awaiting to the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eda.projections.sql_steps import (
    DONE,
    Call,
    Result,
    Sql,
    Steps,
    drive,
    drive_async,
    formatted,
    numbered,
    to_its_end,
)

TX = object()


class Refused(Exception):
    """What a statement or a function raises."""


class Recorded:
    """Executes statements: it notes them, and refuses the text "refused"."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __call__(self, sql: Sql) -> Result:
        self.seen.append((sql.text, *sql.params))
        if sql.text == "refused":
            raise Refused
        return Result([(len(self.seen),)])

    async def awaited(self, sql: Sql) -> Result:
        await asyncio.sleep(0)
        return self(sql)


async def driven(steps: Steps[Any], recorded: Recorded, is_async: bool) -> Any:
    return await drive_async(steps, recorded.awaited, TX) if is_async else drive(steps, recorded, TX)


both = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])


@both
async def test_drive_when_steps_run_returns_results_in_order(is_async: bool) -> None:
    called: list[Any] = []

    def steps() -> Steps[list[Any]]:
        first = yield Sql("a", (1, 2))
        called_with = yield Call(called.append)
        return [first, called_with, (yield Sql("b"))]

    recorded = Recorded()
    assert await driven(steps(), recorded, is_async) == [Result([(1,)]), DONE, Result([(2,)])]
    assert recorded.seen == [("a", 1, 2), ("b",)]
    assert called == [TX]


@both
async def test_drive_when_a_step_fails_lets_the_generator_answer(is_async: bool) -> None:
    def steps() -> Steps[str]:
        try:
            yield Sql("refused")
        except Refused:
            yield Sql("instead")
        yield Call(fail)
        return "never"

    def fail(tx: Any) -> None:
        raise error

    error, recorded = Refused("mine"), Recorded()
    with pytest.raises(Refused) as raised:
        await driven(steps(), recorded, is_async)
    assert raised.value is error
    assert recorded.seen == [("refused",), ("instead",)]


@both
@pytest.mark.parametrize("error", [StopIteration(7), StopAsyncIteration(), GeneratorExit(), SystemExit(1)], ids=repr)
async def test_drive_when_a_function_raises_what_generators_use_is_no_result(
    error: BaseException, is_async: bool
) -> None:
    def steps() -> Steps[str]:
        yield Call(fail)
        return "done"

    def fail(tx: Any) -> None:
        raise error

    with pytest.raises((RuntimeError, type(error))):
        await driven(steps(), Recorded(), is_async)


@both
async def test_drive_when_there_is_no_step_returns_the_value(is_async: bool) -> None:
    def steps() -> Steps[int]:
        if not TX:
            yield Sql("never")
        return 5

    assert await driven(steps(), Recorded(), is_async) == 5


@pytest.mark.parametrize(
    ("text", "with_numbers", "with_formats"),
    [
        ("SELECT 1", "SELECT 1", "SELECT 1"),
        ("a = ? AND b = ?", "a = $1 AND b = $2", "a = %s AND b = %s"),
        ("?", "$1", "%s"),
        (", ".join("?" * 11), ", ".join(f"${n}" for n in range(1, 12)), ", ".join(["%s"] * 11)),
    ],
)
def test_placeholders_when_a_driver_has_others_are_replaced(text: str, with_numbers: str, with_formats: str) -> None:
    assert numbered(text) == with_numbers
    assert formatted(text) == with_formats


async def test_to_its_end_when_cancelled_waits_and_raises_the_cancellation() -> None:
    go_on, ended = asyncio.Event(), []

    async def commit() -> None:
        await go_on.wait()
        ended.append(True)

    waiting = asyncio.create_task(to_its_end(commit()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_to_its_end_when_cancelled_twice_cancels_what_it_awaits() -> None:
    ended = []

    async def commit() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    waiting = asyncio.create_task(to_its_end(commit()))
    for _ in range(2):
        await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_to_its_end_when_it_fails_raises_the_same() -> None:
    async def fail() -> None:
        raise Refused

    with pytest.raises(Refused):
        await to_its_end(fail())
