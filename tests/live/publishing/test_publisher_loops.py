"""A publisher that is used from another event loop or thread raises before it accepts an event."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eda
from support.publishing.sent import MODES_AND_PACKS, numbered, options_of, stored_ids

both = pytest.mark.parametrize("mode", MODES_AND_PACKS)


async def send(pub: eda.Publisher) -> None:
    await pub.send(eda.Event(id="foreign"))


async def send_many(pub: eda.Publisher) -> None:
    await pub.send_many([eda.Event(id="foreign")])


async def send_columns(pub: eda.Publisher) -> None:
    await pub.send_columns(id=["foreign"])


async def send_and_wait(pub: eda.Publisher) -> None:
    await pub.send_and_wait(eda.Event(id="foreign"))


async def flush(pub: eda.Publisher) -> None:
    await pub.flush()


async def close(pub: eda.Publisher) -> None:
    await pub.close()


USES = pytest.mark.parametrize("use", [send, send_many, send_columns, send_and_wait, flush, close])


@both
@USES
async def test_publisher_when_used_from_another_thread_refuses_and_takes_nothing(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, use: Callable[[eda.Publisher], Awaitable[None]]
) -> None:
    async with conn.publisher(stream, **options_of(mode)) as pub:
        ids = await pub.send_many(numbered(500))
        for is_flowing in (True, False):
            if not is_flowing:
                await pub.flush()
            with pytest.raises(eda.ConfigError, match="only in the event loop, and the thread, that opened"):
                # The loop waits for the thread, so the publisher's scheduled calls have not run yet.
                in_thread(lambda: asyncio.run(use(pub)))  # type: ignore[arg-type]
        ids.append(await pub.send(eda.Event(id="last")))
        assert pub.stats().sent == 501
    assert await stored_ids(server.url, stream) == ids


def in_thread(run: Callable[[], Any]) -> None:
    """Run a function in another thread, wait for it, and raise its exception here."""
    raised: list[BaseException] = []

    def catch() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join(10)
    if raised:
        raise raised[0]


@both
@USES
def test_publisher_when_used_from_another_loop_of_its_thread_refuses_and_takes_nothing(
    server: eda.EmbeddedServer, mode: str, use: Callable[[eda.Publisher], Awaitable[None]]
) -> None:
    stream = f"loops-{mode.replace(' ', '-')}-{use.__name__.replace('_', '-')}"
    loop = asyncio.new_event_loop()
    other = asyncio.new_event_loop()

    async def begin() -> tuple[eda.Conn, eda.Publisher]:
        conn = await eda.connect(server.url)
        pub = await conn.publisher(stream, **options_of(mode))
        await pub.send_many(numbered(500))
        await pub.flush()
        await pub.send(eda.Event(id="own"))
        return conn, pub

    async def end(conn: eda.Conn, pub: eda.Publisher) -> None:
        assert pub.stats().sent == 501
        await pub.close()
        await conn.streams.delete(stream)
        await conn.close()

    try:
        conn, pub = loop.run_until_complete(begin())
        for _ in range(2):
            with pytest.raises(eda.ConfigError, match="run_coroutine_threadsafe"):
                other.run_until_complete(use(pub))
        loop.run_until_complete(pub.flush())
        with pytest.raises(eda.ConfigError):
            other.run_until_complete(use(pub))
        loop.run_until_complete(end(conn, pub))
    finally:
        loop.close()
        other.close()


async def test_publisher_when_opened_in_another_loop_refuses(conn: eda.Conn, stream: str) -> None:
    async def enter() -> None:
        async with conn.publisher(stream) as pub:
            await pub.send(eda.Event())

    with pytest.raises(eda.ConfigError, match="only in the event loop"):
        await asyncio.to_thread(lambda: asyncio.run(enter()))
    assert not conn._lifetime.publishers
