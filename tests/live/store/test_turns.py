"""Turns on a real server: they are given back however a call ends."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any

import pytest

import eda


@types.coroutine
def ended_at(call: Coroutine[Any, Any, Any], n: int, error: BaseException | None) -> Generator[Any, Any, None]:
    """Run a coroutine up to its n-th wait. Then raise the error in it, or close it."""
    failed: BaseException | None = None
    try:
        for _ in range(n):
            wait = call.send(None) if failed is None else call.throw(failed)
            try:
                failed = None
                yield wait
            except BaseException as raised:
                failed = raised
        if error is None:
            call.close()
        else:
            call.throw(error)
    except StopIteration:
        pass


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
async def test_turn_when_a_command_ends_at_any_wait_is_given_back(
    conn: eda.Conn, stream: str, *, is_cached: bool, is_async: bool
) -> None:
    def evolve(n: int, _: eda.Event) -> int:
        return n + 1

    def decide(_: int, command: int) -> eda.Event:
        return eda.Event(type="added", data=eda.JSON(command))

    async def decide_later(n: int, command: int) -> eda.Event:
        await asyncio.sleep(0)
        return decide(n, command)

    store = conn.store(stream, eda.Decider(0, evolve, decide_later if is_async else decide))
    await store.execute("a", 1)
    assert store._core is not None
    for n in range(8):
        for error in (None, Stopped()):
            if not is_cached:
                store._core.cache.drop("a")
            with suppress(Stopped):
                async with asyncio.timeout(10):
                    await ended_at(store.execute("a", n), n, error)
            assert not store._core.parts.turns.taken
    result = await store.execute("a", 1)
    assert result.state == result.version == len(await store.history("a"))
