"""`eda tail` as a process: how many events a second it prints as lines of JSON, and how soon the first line comes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import eda
from macro import delete

N = 600_000
TAIL = [sys.executable, "-m", "eda.cli", "tail"]


def make_event(n: int) -> eda.Event:
    data = eda.JSON({"sensor": n % 1000, "value": n * 0.5, "unit": "celsius", "at": "2026-11-30T10:00:00Z", "n": n})
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 1000}", data=data)


def fill(server: eda.EmbeddedServer, stream: str, n: int, *, packed: bool = False) -> None:
    async def run() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream, eda.StreamOptions(packed=packed))
            async with conn.publisher(stream, pack=eda.Pack() if packed else None) as publisher:
                await publisher.send_many(make_event(i) for i in range(n))

    asyncio.run(run())


def print_all(environment: dict[str, str], server: eda.EmbeddedServer, stream: str, path: Path) -> None:
    """Print all events of a stream into a file."""
    command = [*TAIL, stream, "--addr", server.url, "--from", "1", "--no-follow"]
    with path.open("wb") as file:
        subprocess.run(command, stdout=file, check=True, env=environment)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_tail(
    server: eda.EmbeddedServer,
    duel: Callable[..., None],
    note: Callable[[str, float], None],
    environment: dict[str, str],
    tmp_path: Path,
    packed: bool,
) -> None:
    name = "eda tail, packed s" if packed else "eda tail s"
    fill(server, "tail", N, packed=packed)
    note("150,000 events a second s", N / 150_000)
    duel((name, lambda: print_all(environment, server, "tail", tmp_path / "lines")), rounds=3)
    with (tmp_path / "lines").open("rb") as lines:
        assert sum(1 for _ in lines) == N
    delete(server, "tail")


def first_line_s(environment: dict[str, str], server: eda.EmbeddedServer, stream: str) -> float:
    """Return the time from the start of the process to its first line."""
    started = time.perf_counter()
    command = [*TAIL, stream, "--addr", server.url, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        took = time.perf_counter() - started
        process.terminate()
    return took


def test_first_line(
    server: eda.EmbeddedServer,
    duel: Callable[..., None],
    note: Callable[[str, float], None],
    environment: dict[str, str],
) -> None:
    fill(server, "tail", 1000)
    note("350 ms s", 0.35)
    duel(("eda tail, first line s", lambda: first_line_s(environment, server, "tail")), rounds=9)
    delete(server, "tail")
