"""Appends and commands on a real server, beside `conn.publish` and a bare socket that sends the same frames."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest
import uvloop

import bare_store
import cores
import eda
from eda._codec import encode_event
from eda.store._earlier import MOST
from eda.store.command_ids import event_ids
from macro import delete
from macro.store.orders import Add, Added, Command, Order, Place, Placed, decider

N_LATENCY = 3000
N_AT_ONCE = 200
N_AGGREGATES = 10_000
N_COMMANDS = 20_000
N_ROUNDS = 15  # on shared cores, one round differs from the next by a third

NAMES = [f"order-{n}" for n in range(N_AGGREGATES)]
Contender = Callable[[eda.EmbeddedServer], float]
Ordered = tuple[str, Placed | Added, str]  # an event's aggregate, payload, and command id
_numbers = itertools.count()
_contents_of: dict[str, tuple[int, int]] = {}


async def _make(server: eda.EmbeddedServer, stream: str, *, store: bool) -> None:
    async with eda.connect(server.url) as conn:
        if store:
            await conn.store(stream)
        else:
            await conn.streams.create(stream)


async def _contents(server: eda.EmbeddedServer, stream: str) -> tuple[int, int]:
    """Return how many events the stream has, and how many bytes."""
    async with eda.connect(server.url) as conn:
        info = await conn.streams.info(stream)
        return info.events, info.bytes


def _in_new_stream(
    server: eda.EmbeddedServer, run: Callable[[str], float], *, store: bool = True, stores: str = ""
) -> float:
    """Return what `run` returns for a new stream. Runs with the same `stores` must store as many events and bytes."""
    stream = f"append-{next(_numbers):04}"
    asyncio.run(_make(server, stream, store=store))
    figure = run(stream)
    if stores:
        found = asyncio.run(_contents(server, stream))
        assert _contents_of.setdefault(stores, found) == found, f"{stores}: another run has sent other frames"
    delete(server, stream)
    return figure


# --- one after the other ---------------------------------------------------------------------------------------------


async def eda_append_us(server: eda.EmbeddedServer, stream: str) -> float:
    """Append one event to each of some aggregates in turn, under its version."""
    took = []
    names = NAMES[:100]
    async with eda.connect(server.url, client="bench") as conn:
        store = conn.store(stream)
        for name in names:
            await store.append(name, [Added()], expected="new")
        for n in range(N_LATENCY):
            event = eda.Event(data=Added())
            started = time.perf_counter_ns()
            await store.append(names[n % len(names)], [event], expected=1 + n // len(names))
            took.append(time.perf_counter_ns() - started)
    return statistics.median(took) / 1000


async def eda_publish_us(server: eda.EmbeddedServer, stream: str) -> float:
    took = []
    names = NAMES[:100]
    async with eda.connect(server.url, client="bench") as conn:
        for name in names:
            await conn.publish(stream, eda.Event(data=Added(), aggregate=name))
        for n in range(N_LATENCY):
            event = eda.Event(data=Added(), aggregate=names[n % len(names)])
            started = time.perf_counter_ns()
            await conn.publish(stream, event)
            took.append(time.perf_counter_ns() - started)
    return statistics.median(took) / 1000


def bare_append_us(server: eda.EmbeddedServer, stream: str) -> float:
    frames = expecting_frames(stream, [(NAMES[n % 100], Added(), f"req-{n}") for n in range(100 + N_LATENCY)])
    return statistics.median(bare_store.append_times_ns(server, frames)[100:]) / 1000


# Each returns its figure, measured in a new stream. The live gates run them, too.
ONE_BY_ONE: dict[str, Contender] = {
    "eda append us": lambda server: _in_new_stream(server, lambda name: asyncio.run(eda_append_us(server, name))),
    "eda publish order us": lambda server: _in_new_stream(
        server, lambda name: asyncio.run(eda_publish_us(server, name)), store=False
    ),
    "eda uvloop append us": lambda server: _in_new_stream(server, lambda name: uvloop.run(eda_append_us(server, name))),
    "bare append us": lambda server: _in_new_stream(server, lambda name: bare_append_us(server, name)),
}


def test_append(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    duel(
        *[(name, lambda contender=contender: contender(server)) for name, contender in ONE_BY_ONE.items()],
        rounds=N_ROUNDS,
    )


# --- many at once ----------------------------------------------------------------------------------------------------


def expecting_frames(stream: str, events: Iterable[Ordered]) -> list[bytes]:
    """Return the frames that append the events to a new stream, in this order: the sequences are known beforehand."""
    frames = []
    stored: dict[str, list[int]] = {}
    for sequence, (name, payload, command_id) in enumerate(events, 1):
        earlier = stored.setdefault(name, [])
        event = eda.Event(data=payload, aggregate=name)
        id = event_ids(command_id, name, 1)[0]
        envelope = encode_event(event, id, "bench", time.time_ns(), len(earlier) + 1)
        frames.append(
            bare_store.expecting_frame(
                sequence, f"{stream}.{event.type}.{name}", f"{stream}.*.{name}", id, earlier[:MOST], envelope
            )
        )
        earlier.insert(0, sequence)
    return frames


def bare_s(server: eda.EmbeddedServer, stream: str) -> float:
    """Place each order, then measure: the events are those of the commands of `eda_execute_s`."""
    placed: list[Ordered] = [(name, Placed(), f"place-{name}") for name in NAMES]
    added: list[Ordered] = [(NAMES[n % N_AGGREGATES], Added(), f"req-{n}") for n in range(N_COMMANDS)]
    frames = expecting_frames(stream, placed + added)
    bare_store.append_s(server, frames[:N_AGGREGATES], N_AT_ONCE)
    return bare_store.append_s(server, frames[N_AGGREGATES:], N_AT_ONCE)


async def _at_once_s(repeat: Callable[[], Awaitable[None]]) -> float:
    """Run N_AT_ONCE tasks of `repeat`; return the seconds until the last one ends."""
    started = time.perf_counter()
    await asyncio.gather(*[repeat() for _ in range(N_AT_ONCE)])
    return time.perf_counter() - started


async def _execute_s(store: eda.EventStore[Order, Command], commands: list[tuple[str, Command, str]]) -> float:
    """Execute the commands, each with its aggregate and its id. They are there beforehand, as the bare frames are."""
    left = iter(commands)

    async def repeat() -> None:
        for name, command, command_id in left:
            await store.execute(name, command, command_id=command_id)

    return await _at_once_s(repeat)


async def eda_execute_s(server: eda.EmbeddedServer, stream: str) -> float:
    """Execute a command on each aggregate, so that all are in the cache, then measure."""
    async with eda.connect(server.url, client="bench") as conn:
        store: eda.EventStore[Order, Command] = conn.store(stream, decider(), cache=N_AGGREGATES)
        await _execute_s(store, [(name, Place(), f"place-{name}") for name in NAMES])
        return await _execute_s(store, [(NAMES[n % N_AGGREGATES], Add(), f"req-{n}") for n in range(N_COMMANDS)])


async def _publish_s(conn: eda.Conn, stream: str, events: list[eda.Event]) -> float:
    """Publish the events, which are there beforehand."""
    left = iter(events)

    async def repeat() -> None:
        for event in left:
            await conn.publish(stream, event)

    return await _at_once_s(repeat)


async def eda_publish_s(server: eda.EmbeddedServer, stream: str) -> float:
    """Publish the same events to an ordinary stream."""
    async with eda.connect(server.url, client="bench") as conn:
        await _publish_s(conn, stream, [eda.Event(data=Placed(), aggregate=name) for name in NAMES])
        events = [eda.Event(data=Added(), aggregate=NAMES[n % N_AGGREGATES], id=f"req-{n}") for n in range(N_COMMANDS)]
        return await _publish_s(conn, stream, events)


def _orders(run: Callable[[eda.EmbeddedServer, str], float]) -> Contender:
    """Return a contender whose commands or frames store the same orders as the others."""
    return lambda server: _in_new_stream(server, lambda name: run(server, name), stores="orders")


AT_ONCE: dict[str, Contender] = {
    "eda execute s": _orders(lambda server, name: asyncio.run(eda_execute_s(server, name))),
    "bare execute s": _orders(bare_s),
    "eda publish orders s": lambda server: _in_new_stream(
        server, lambda name: asyncio.run(eda_publish_s(server, name)), store=False
    ),
    "eda uvloop execute s": _orders(lambda server, name: uvloop.run(eda_execute_s(server, name))),
}


def test_execute(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    duel(
        *[(name, lambda contender=contender: contender(server)) for name, contender in AT_ONCE.items()],
        rounds=N_ROUNDS,
    )


@pytest.mark.skipif(not cores.can_be_apart(), reason="needs Linux and two cores")
def test_execute_apart(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    """The same with a core for the server and another one for the client, as if they ran on two machines."""
    with cores.apart(server):
        duel(
            *[
                (name.replace(" s", " apart s"), lambda contender=AT_ONCE[name]: contender(server))
                for name in ("eda execute s", "bare execute s")
            ],
            rounds=N_ROUNDS,
        )
