"""Typed handling on a real server: a router, beside an untyped handler plus msgspec's decoding of the same bytes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import eda
from eda._nuid import next_nuid
from macro import delete
from micro.handling.router import PAYLOAD, PaidDataclass, PaidStruct, Payload, make_event

N = 50_000
KINDS: dict[str, dict[str, Any]] = {"default": {}, "exclusive": {"exclusive": True}}
CLASSES: dict[str, tuple[Payload, bool]] = {"Struct": (PaidStruct, True), "dataclass": (PaidDataclass, False)}


def stream_of(cls: Payload) -> str:
    return f"router-{cls.__name__}"


@pytest.fixture(scope="module")
def streams(server: eda.EmbeddedServer) -> Iterator[None]:
    async def fill() -> None:
        async with eda.connect(server.url) as conn:
            for cls, _ in CLASSES.values():
                async with conn.publisher(stream_of(cls)) as pub:
                    await pub.send_many(make_event(n, cls) for n in range(N))

    asyncio.run(fill())
    yield
    for cls, _ in CLASSES.values():
        delete(server, stream_of(cls))


async def handle_s(
    server: eda.EmbeddedServer, cls: Payload, *, typed: bool, asynchronous: bool, **options: Any
) -> float:
    """Handle all events; returns the seconds until the position of the last one is confirmed.

    If it is not `typed`, the time that msgspec takes to decode the same payloads is added. The router has
    `unknown="raise"`, hence no filter, so that the server does the same work for both.
    """
    n_seen = 0
    done = asyncio.Event()

    def plain(given: object) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == N:
            done.set()

    async def later(given: object) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == N:
            done.set()

    handler: Any = later if asynchronous else plain
    if typed:
        handler = eda.Router(unknown="raise")
        handler.on(cls)(later if asynchronous else plain)
    async with eda.connect(server.url) as conn:
        name = f"bench-{next_nuid()}"
        started = time.perf_counter()
        sub = await conn.subscribe(stream_of(cls), handler, name=name, durable=True, backfill=True, **options)
        await done.wait()
        await sub.close()
        if not typed:
            deque(map(msgspec.json.Decoder(cls).decode, [PAYLOAD] * N), maxlen=0)
        took = time.perf_counter() - started
        async with conn.subscribe(stream_of(cls), handler, name=name, durable=True, **options) as again:
            await again.unsubscribe()
    return took


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shown", CLASSES)
def test_router(server: eda.EmbeddedServer, streams: None, duel: Callable[..., None], kind: str, shown: str) -> None:
    cls, asynchronous = CLASSES[shown]

    def run(*, typed: bool) -> Callable[[], float]:
        return lambda: asyncio.run(handle_s(server, cls, typed=typed, asynchronous=asynchronous, **KINDS[kind]))

    duel(
        (f"eda typed {kind} {shown} s", run(typed=True)),
        (f"eda untyped {kind}, msgspec {shown} s", run(typed=False)),
        rounds=5,
    )
