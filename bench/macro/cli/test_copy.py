"""`eda copy` as a process, beside a publisher that has the events in memory."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import eda
from macro import delete, make_event

N = 300_000
_numbers = itertools.count()


def filled(server: eda.EmbeddedServer, *, packed: bool) -> str:
    """Return a new stream with `N` events."""
    stream = f"copied-{next(_numbers)}"
    published_s(server, stream, packed=packed)
    return stream


def published_s(server: eda.EmbeddedServer, stream: str, *, packed: bool) -> float:
    """Return the seconds in which a publisher stores `N` events in a new stream."""

    async def run() -> float:
        events = [make_event(number) for number in range(N)]
        async with eda.connect(server.url, client="bench") as conn:
            await conn.streams.create(stream, eda.StreamOptions(packed=packed))
            started = time.perf_counter()
            async with conn.publisher(stream, pack=eda.Pack() if packed else None) as publisher:
                await publisher.send_many(events)
            return time.perf_counter() - started

    return asyncio.run(run())


def publisher_s(server: eda.EmbeddedServer, *, packed: bool) -> float:
    stream = f"copied-{next(_numbers)}"
    took_s = published_s(server, stream, packed=packed)
    delete(server, stream)
    return took_s


def copy_s(environment: dict[str, str], server: eda.EmbeddedServer, source: str) -> float:
    """Return the seconds of the whole process, also those until it is connected."""
    target = f"copied-{next(_numbers)}"
    started = time.perf_counter()
    command = [sys.executable, "-m", "eda.cli", "copy", source, target, "--create", "--addr", server.url]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    took_s = time.perf_counter() - started
    delete(server, target)
    return took_s


@pytest.mark.timeout(600)
@pytest.mark.parametrize("packed", [False, True])
def test_copy(server: eda.EmbeddedServer, duel: Callable[..., None], environment: dict[str, str], packed: bool) -> None:
    kind = "packs" if packed else "messages"
    source = filled(server, packed=packed)
    duel(
        (f"eda copy {kind} s", lambda: copy_s(environment, server, source)),
        (f"publisher {kind} s", lambda: publisher_s(server, packed=packed)),
        rounds=3,
    )
    delete(server, source)
