"""Publishing packs: beside the same events published one by one, and a bare socket that replays the same bytes."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

import eda
import replay
from eda._codec import encode_event
from eda._nuid import next_nuid
from macro import delete, rss_mb
from micro.codec import DATA

N = 400_000
N_UNPACKED = 100_000
N_READINGS = 200_000
N_MEMORY = 20_000_000
N_ROUNDS = 20
N_TURNS = 5
CPU_FIGURES = ("eda packs CPU us", "Event and encoding us", "Event and encoding without id us")
PACK = eda.Pack()
PACKED = eda.StreamOptions(packed=True)

_numbers = itertools.count()
Note = Callable[[str, float], None]


def make_event(n: int) -> eda.Event:
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 1000}", data=eda.Bytes(DATA))


def ready_events(n: int) -> list[eda.Event]:
    """Return events with everything that a publisher would fill in."""
    return [make_event(i).replace(id=next_nuid(), client="bench", time=time.time_ns()) for i in range(n)]


async def send_many_s(server: eda.EmbeddedServer, events: list[eda.Event], pack: eda.Pack | None) -> float:
    stream = f"packs-{next(_numbers)}"
    async with eda.connect(server.url, client="bench") as conn:
        await conn.streams.create(stream, PACKED if pack else eda.StreamOptions())
        async with conn.publisher(stream, pack=pack) as publisher:
            await publisher.send(make_event(0))
            await publisher.flush()
            started = time.perf_counter()
            await publisher.send_many(events)
            await publisher.flush()
            took = time.perf_counter() - started
        await conn.streams.delete(stream)
    return took


async def send_s(server: eda.EmbeddedServer, n: int, pack: eda.Pack | None) -> float:
    """Build and send events one by one; returns the seconds until all are acknowledged."""
    stream = f"packs-{next(_numbers)}"
    async with eda.connect(server.url, client="bench") as conn:
        await conn.streams.create(stream, PACKED if pack else eda.StreamOptions())
        async with conn.publisher(stream, pack=pack) as publisher:
            await publisher.send(make_event(0))
            await publisher.flush()
            started = time.perf_counter()
            for _ in range(n):
                await publisher.send(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)))
            await publisher.flush()
            took = time.perf_counter() - started
        await conn.streams.delete(stream)
    return took


def building_s(n: int) -> float:
    """Return the processor time of Event(...) and of encoding it alone, with the id and time of a published event."""
    cpu = time.process_time()
    for _ in range(n):
        encode_event(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)), next_nuid(), "bench", time.time_ns())
    return time.process_time() - cpu


def building_without_id_s(n: int) -> float:
    """Return the same without making an id and reading the clock: the envelope has neither."""
    cpu = time.process_time()
    for _ in range(n):
        encode_event(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)))
    return time.process_time() - cpu


def bare_s(server: eda.EmbeddedServer, events: list[eda.Event]) -> float:
    stream = f"packs-{next(_numbers)}"

    async def create() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream, PACKED)

    asyncio.run(create())
    took = replay.replay_s(server, replay.record_packs(stream, events, PACK))
    delete(server, stream)
    return took


@pytest.mark.timeout(600)
def test_packs(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    events = ready_events(N)
    few = events[:N_UNPACKED]
    share = N / N_UNPACKED
    duel(
        ("eda packs s", lambda: asyncio.run(send_many_s(server, events, PACK))),
        ("bare packs s", lambda: bare_s(server, events)),
        ("eda unpacked s", lambda: asyncio.run(send_many_s(server, few, None)) * share),
        ("eda packs one by one s", lambda: asyncio.run(send_s(server, N, PACK))),
        ("eda unpacked one by one s", lambda: asyncio.run(send_s(server, N_UNPACKED, None)) * share),
        rounds=5,
    )


async def sending_s(publisher: eda.Publisher, n: int) -> float:
    """Return the processor time that the client takes to send events."""
    cpu = time.process_time()
    for _ in range(n):
        await publisher.send(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)))
    return time.process_time() - cpu


async def flushing_s(publisher: eda.Publisher) -> float:
    cpu = time.process_time()
    await publisher.flush()
    return time.process_time() - cpu


async def processor_times_us(publisher: eda.Publisher) -> tuple[float, float, float]:
    """Return the microseconds of sending, and of building in both ways, for each event.

    They take turns of some milliseconds, so that whatever else the machine does meets all of them.
    """
    n = N_UNPACKED // N_TURNS
    sending = building = without_id = 0.0
    for _ in range(N_TURNS):
        sending += await sending_s(publisher, n)
        building += building_s(n)
        without_id += building_without_id_s(n)
    sending += await flushing_s(publisher)
    return sending / N_UNPACKED * 1e6, building / N_UNPACKED * 1e6, without_id / N_UNPACKED * 1e6


@pytest.mark.timeout(300)
async def test_processor_time(server: eda.EmbeddedServer, note: Note) -> None:
    stream = f"packs-{next(_numbers)}"
    rows = []
    async with eda.connect(server.url, client="bench") as conn:
        await conn.streams.create(stream, PACKED)
        async with conn.publisher(stream, pack=PACK) as publisher:
            for _ in range(N_ROUNDS):
                rows.append(await processor_times_us(publisher))
        await conn.streams.delete(stream)
    for name, values in zip(CPU_FIGURES, zip(*rows, strict=True), strict=True):
        note(name, statistics.median(values))


# --- bytes on disk ---------------------------------------------------------------------------------------------------


def reading(n: int) -> eda.Event:
    """Return a reading as a thousand sensors send them: most values change a little."""
    chance = random.Random(n)
    value = {
        "sensor": f"sensor-{n % 1000}",
        "site": f"site-{n % 17}",
        "at": f"2026-11-29T{n // 3_600_000 % 24:02}:{n // 60_000 % 60:02}:{n // 1000 % 60:02}.{n % 1000:03}Z",
        "temperature": round(21 + chance.random() * 2, 2),
        "humidity": round(40 + chance.random() * 5, 1),
        "battery": 3.7,
        "status": "ok",
    }
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 1000}", data=eda.JSON(value))


async def stored_bytes(server: eda.EmbeddedServer, pack: eda.Pack | None) -> int:
    """Return the bytes that the stream has for the readings."""
    stream = f"packs-{next(_numbers)}"
    async with eda.connect(server.url, client="bench") as conn:
        await conn.streams.create(stream, PACKED if pack else eda.StreamOptions())
        async with conn.publisher(stream, pack=pack) as publisher:
            await publisher.send_many(reading(n) for n in range(N_READINGS))
        size = (await conn.streams.info(stream)).bytes
        await conn.streams.delete(stream)
    return size


@pytest.mark.timeout(300)
def test_bytes_on_disk(server: eda.EmbeddedServer, benchmark: Any, note: Note) -> None:
    assert len(json.dumps(reading(1).data.decode())) > 100
    packed = benchmark.pedantic(lambda: asyncio.run(stored_bytes(server, eda.Pack(compression="zstd"))), rounds=1)
    note("packs zstd bytes", packed / N_READINGS)
    note("packs bytes", asyncio.run(stored_bytes(server, PACK)) / N_READINGS)
    note("unpacked bytes", asyncio.run(stored_bytes(server, None)) / N_READINGS)


# --- memory ----------------------------------------------------------------------------------------------------------


async def rss_along_the_way(server: eda.EmbeddedServer) -> list[float]:
    along = []
    options = eda.StreamOptions(packed=True, max_events=10_000)
    events = [make_event(n) for n in range(10_000)]  # each gets a new id whenever it is sent
    async with (
        eda.connect(server.url, stream_defaults=options) as conn,
        conn.publisher("packs", pack=PACK) as publisher,
    ):
        for n in range(0, N_MEMORY, len(events)):
            await publisher.send_many(events)
            if n % 1_000_000 == 0:
                along.append(rss_mb())
    return along


@pytest.mark.timeout(900)
def test_packs_memory(server: eda.EmbeddedServer, benchmark: Any, note: Note) -> None:
    along = benchmark.pedantic(lambda: asyncio.run(rss_along_the_way(server)), rounds=1)
    note("packs rss begin MB", along[1])
    note("packs rss end MB", max(along))
    delete(server, "packs")
