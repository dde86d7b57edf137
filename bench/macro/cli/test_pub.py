"""`eda pub --lines` as a process, beside a publisher that sends the same events.

The publisher's events are new in each round, as a program's are: their data is encoded when they are sent. `encoded`:
the same with events whose data was encoded before, so that the publisher has even less to do than the command.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import eda
from macro import delete
from macro.cli.test_tail import N, make_event

PUB = [sys.executable, "-m", "eda.cli", "pub"]


def made_events() -> list[eda.Event]:
    return [make_event(n).replace(id=f"id-{n:018}", time=1_796_032_800 * 10**9 + n) for n in range(N)]


def new_stream(server: eda.EmbeddedServer, stream: str, *, packed: bool) -> None:
    async def run() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream, eda.StreamOptions(packed=packed))

    asyncio.run(run())


def send_s(server: eda.EmbeddedServer, *, packed: bool, encoded: bool) -> float:
    """Send events one by one; return the seconds until all are acknowledged."""
    events = made_events()
    if encoded:
        for event in events:
            event.data.encode()

    async def run() -> float:
        async with eda.connect(server.url) as conn:
            started = time.perf_counter()
            async with conn.publisher("sent", pack=eda.Pack() if packed else None) as publisher:
                for event in events:
                    await publisher.send(event)
            return time.perf_counter() - started

    new_stream(server, "sent", packed=packed)
    try:
        return asyncio.run(run())
    finally:
        delete(server, "sent")


def pub_s(environment: dict[str, str], server: eda.EmbeddedServer, path: Path, *, packed: bool) -> float:
    """Publish lines; return the seconds of the whole process."""
    new_stream(server, "lines", packed=packed)
    try:
        started = time.perf_counter()
        command = [*PUB, "lines", "--lines", "--json", "--file", str(path), "--addr", server.url]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        took = time.perf_counter() - started
        assert json.loads(ended.stdout)["stored"] == N
        return took
    finally:
        delete(server, "lines")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_pub(
    server: eda.EmbeddedServer, duel: Callable[..., None], environment: dict[str, str], tmp_path: Path, packed: bool
) -> None:
    path = tmp_path / "lines"
    with path.open("wb") as file:
        for n, event in enumerate(made_events()):
            fields = {"type": event.type, "aggregate": event.aggregate, "id": event.id, "encoding": "json"}
            time_text = f"2026-11-30T10:00:00.{n:09d}Z"
            line = json.dumps(fields | {"time": time_text, "data": event.data.decode()}, separators=(",", ":"))
            file.write(line.encode() + b"\n")
    kind = ", packed" if packed else ""
    duel(
        (f"eda pub{kind} s", lambda: pub_s(environment, server, path, packed=packed)),
        (f"publisher send{kind} s", lambda: send_s(server, packed=packed, encoded=False)),
        (f"publisher send{kind}, encoded s", lambda: send_s(server, packed=packed, encoded=True)),
        rounds=5,
    )
