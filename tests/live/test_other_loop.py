"""A connection that is used from another event loop or thread: refused, and nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import eda
from helpers import LOOPS
from support.publishing.sent import numbered


async def iterate(conn: eda.Conn, stream: str) -> None:
    async for _ in conn.events(stream):
        pass


async def subscribe(conn: eda.Conn, stream: str) -> None:
    await conn.subscribe(stream, print)


async def open_again(conn: eda.Conn, stream: str) -> None:
    await conn


CALLS: dict[str, Callable[[eda.Conn, str], Any]] = {
    "publish": lambda conn, stream: conn.publish(stream, eda.Event(type="foreign")),
    "publish into a new stream": lambda conn, stream: conn.publish(f"{stream}-new", eda.Event(type="foreign")),
    "publish_batch": lambda conn, stream: conn.publish_batch(stream, numbered(2)),
    "publisher": lambda conn, stream: conn.publisher(stream).__aenter__(),
    "subscribe": subscribe,
    "events": iterate,
    "streams.info": lambda conn, stream: conn.streams.info(stream),
    "streams.delete": lambda conn, stream: conn.streams.delete(stream),
    "streams.update": lambda conn, stream: conn.streams.update(stream, max_events=1),
    "replay_dead": lambda conn, stream: conn.replay_dead(stream, "me"),
    "close": lambda conn, stream: conn.close(),
    "open": open_again,
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_call_when_it_comes_from_another_loop_is_refused_and_sends_nothing(
    conn: eda.Conn, stream: str, call: Callable[[eda.Conn, str], Any], loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    await conn.publish(stream, eda.Event(type="own"))

    async def in_other_loop() -> None:
        async with asyncio.timeout(5):
            await call(conn, stream)

    def in_thread() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(in_other_loop())

    for _ in range(2):
        with pytest.raises(eda.ConfigError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(in_thread)
    assert conn.state == "connected"
    await conn.publish(stream)
    assert (await conn.streams.info(stream)).last_sequence == 2
    assert [info.name for info in await conn.streams.list() if info.name.startswith(f"{stream}-")] == []


async def test_streams_when_kept_and_used_from_another_loop_are_refused(conn: eda.Conn, stream: str) -> None:
    streams = conn.streams
    await streams.create(stream)
    for call in (lambda: streams.info(stream), lambda: streams.purge(stream), lambda: streams.list()):
        with pytest.raises(eda.ConfigError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, call())  # type: ignore[arg-type]


async def test_call_when_it_comes_from_a_thread_without_a_loop_is_refused(conn: eda.Conn, stream: str) -> None:
    for call in (lambda: conn.streams, lambda: conn.subscribe(stream, print), lambda: conn.publisher(stream)):
        with pytest.raises(eda.ConfigError, match="another event loop"):
            await asyncio.to_thread(call)


async def test_publish_when_a_thread_asks_the_right_loop_is_stored(conn: eda.Conn, stream: str) -> None:
    loop = asyncio.get_running_loop()

    def in_thread() -> eda.Receipt:
        return asyncio.run_coroutine_threadsafe(conn.publish(stream, eda.Event(id="a")), loop).result(10)

    assert await asyncio.to_thread(in_thread) == eda.Receipt("a", stream, 1, 0, False)
