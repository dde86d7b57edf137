"""A kept subscription `n` whose position a test moves: its members, and what they get."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from eda._pack import place_of
from helpers import until
from processes import environment

__all__ = ["BOTH", "DELETED", "ORDERED", "N", "die_at", "fill", "handle_all", "member", "n_steps", "places"]

N = 10  # events in the stream
ORDERED: dict[str, Any] = {"serial": True}
BOTH = pytest.mark.parametrize("options", [ORDERED, {}], ids=["ordered", "shared"])
DELETED = 6  # the step of the move of a shared subscription at which its consumer is gone


async def fill(conn: eda.Conn, stream: str) -> None:
    """Publish the events."""
    for number in range(N):
        await conn.publish(stream, eda.Event(type="t", aggregate="a", data=eda.JSON(number)))


@contextlib.asynccontextmanager
async def member(conn: eda.Conn, stream: str, **options: Any) -> AsyncIterator[tuple[eda.Subscription, list[str]]]:
    """Open a member of the subscription `n`, with the places of the events that it has handled."""
    got: list[str] = []

    def handle(event: eda.Event) -> None:
        got.append(place_of(event))

    async with conn.subscribe(stream, handle, **{"name": "n", "durable": True, "backfill": True} | options) as sub:
        yield sub, got


async def handle_all(conn: eda.Conn, stream: str, n: int = N, **options: Any) -> list[str]:
    """Have a member handle `n` events, and close it."""
    async with member(conn, stream, **options) as (_, got):
        await until(lambda: len(got) >= n)
        await asyncio.sleep(0.05)  # for events that it should not get
    return got


def places(first: int, last: int = N) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


async def _run_mover(server: eda.EmbeddedServer, stream: str, to: int, kill_at: int) -> tuple[int | None, str]:
    arguments = [sys.executable, "-m", "support.subscribing.mover", server.url, stream, "n", str(to), str(kill_at)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE, env=environment())
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def n_steps(server: eda.EmbeddedServer, stream: str, to: int) -> int:
    """Move the position in another process. Return how many steps there were."""
    code, out = await _run_mover(server, stream, to, 0)
    assert code == 0
    return int(out)


async def die_at(server: eda.EmbeddedServer, stream: str, to: int, step: int) -> None:
    """Move the position in another process that dies at this step."""
    code, _ = await _run_mover(server, stream, to, step)
    assert code == -signal.SIGKILL
