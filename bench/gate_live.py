"""Figures of the live gates: seconds, CPU and latency on a real server, from the benchmarks' own contenders."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterable

import eda
from macro.publishing import test_publish, test_publisher
from macro.store import test_append
from macro.subscribing import test_consume

__all__ = ["is_known", "measure"]

N_ROUNDS = 3
N_PUSH = 50_000

Note = Callable[[str, float], None]
Contender = Callable[[eda.EmbeddedServer, Note], float]


def _publisher(name: str, mode: str, *, dedup: bool = True) -> Contender:
    return lambda server, note: asyncio.run(
        test_publisher.eda_publish_s(server, mode, dedup=dedup, note=note, name=name)
    )


def _bare_publisher(*, fast: bool, dedup: bool = True) -> Contender:
    return lambda server, _: test_publisher.bare_publish_s(server, fast=fast, dedup=dedup)


def _subscription(**options: bool) -> Contender:
    return lambda server, _: asyncio.run(test_consume.eda_read_s(server, test_consume.N, **options))


def _of_store(contender: Callable[[eda.EmbeddedServer], float]) -> Contender:
    return lambda server, _: contender(server)


def _nats_push(server: eda.EmbeddedServer, note: Note) -> float:
    took = asyncio.run(test_consume.nats_push_s(server, N_PUSH, 65_536, note))
    return took * test_consume.N / N_PUSH


# Each returns the figure that it is named by, and may note others on the way. They bear the names of bars.py.
CONTENDERS: dict[str, Contender] = {
    "eda publish us": lambda server, _: asyncio.run(test_publish.eda_latency_us(server, "latency")),
    "bare publish us": lambda server, _: test_publish.bare_latency_us(server, "latency"),
    "eda fast s": _publisher("eda fast", "fast"),
    "bare fast s": _bare_publisher(fast=True),
    "eda window s": _publisher("eda window", "window"),
    "bare window s": _bare_publisher(fast=False),
    "nats-py publish_async volume s": lambda server, note: test_publisher.nats_volume_s(server, note),
    "eda default s": lambda server, note: asyncio.run(test_consume.eda_read_s(server, test_consume.N, note)),
    "bare reader s": lambda server, _: test_consume.bare_read_s(server),
    "eda exclusive s": _subscription(exclusive=True),
    "eda serial s": _subscription(serial=True),
    "nats-py push ack s": _nats_push,
    **{name: _of_store(contender) for name, contender in test_append.ONE_BY_ONE.items()},
}
NOTED_BY = {
    "eda fast CPU us": "eda fast s",
    "eda window CPU us": "eda window s",
    "nats-py volume CPU us": "nats-py publish_async volume s",
    "eda default CPU us": "eda default s",
    "nats-py push CPU us": "nats-py push ack s",
}


def is_known(figure: str) -> bool:
    """Whether there is such a figure."""
    return figure in CONTENDERS or figure in NOTED_BY


def measure(figures: Iterable[str]) -> dict[str, float]:
    """Return the medians of interleaved rounds, after one that warms up."""
    figures = list(figures)
    names = dict.fromkeys(NOTED_BY.get(figure, figure) for figure in figures)
    server = eda.EmbeddedServer()
    asyncio.run(server.start())
    try:
        asyncio.run(_fill(server))
        rounds = [_in_turn(server, names) for _ in range(1 + N_ROUNDS)][1:]
    finally:
        asyncio.run(server.stop())
    return {figure: statistics.median(found[figure] for found in rounds) for figure in figures}


def _in_turn(server: eda.EmbeddedServer, names: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in names:
        found[name] = CONTENDERS[name](server, found.__setitem__)
    return found


async def _fill(server: eda.EmbeddedServer) -> None:
    """Make the streams that subscriptions and single publishes use."""
    async with eda.connect(server.url) as conn:
        await conn.streams.create("latency")
        async with conn.publisher(test_consume.STREAM) as pub:
            await pub.send_many(test_consume.make_event(n) for n in range(test_consume.N))
