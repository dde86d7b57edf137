"""Interleavings in which the consuming side once lost, stalled or repeated events: each stays mended."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Logged, until
from support.transport.faulty_proxy import FaultyProxy

CHILD = """
import asyncio, eda, sys
async def main():
    conn = await eda.connect(sys.argv[1], client="m")
    sub = await conn.subscribe("s", print, backfill=True, durable=True, exclusive=True,
                               retry=eda.Retry(max_attempts=1))
    while not sub.stats().active:
        await asyncio.sleep(0.02)
    print("active", flush=True)
    await asyncio.sleep(100)
asyncio.run(main())
"""


async def publish(conn: eda.Conn, n: int, type_: str = "t") -> None:
    for _ in range(n):
        await conn.publish("s", eda.Event(type=type_))


async def test_rewind_when_events_below_the_new_end_are_unhandled_handles_them(tmp_path: Path) -> None:
    async with eda.EmbeddedServer(tmp_path / "data") as server:
        async with eda.connect(server.url) as conn:
            await publish(conn, 20)
        await server.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "snapshot")
        await server.start()
        async with eda.connect(server.url) as conn:
            await publish(conn, 20)
            seen: list[int] = []
            gate = asyncio.Event()

            async def handle(event: eda.Event) -> None:
                if event.sequence == 6:
                    await gate.wait()
                seen.append(event.sequence)

            subscription = await conn.subscribe("s", handle, backfill=True, serial=True)
            await until(lambda: subscription.stats().buffered == 34)
            await server.kill()
            shutil.rmtree(tmp_path / "data")
            shutil.copytree(tmp_path / "snapshot", tmp_path / "data")
            await server.start()
            await until(lambda: conn.state == "reconnected")
            await asyncio.sleep(1)
            gate.set()
            await asyncio.sleep(1)
            assert set(range(1, 21)) <= set(seen)


async def test_strict_when_its_position_is_void_after_a_rewind_goes_on(tmp_path: Path) -> None:
    async with eda.EmbeddedServer(tmp_path / "data") as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 10)
        seen: list[int] = []
        gate, blocked = asyncio.Event(), asyncio.Event()

        async def handle(event: eda.Event) -> None:
            if event.sequence == 15 and not gate.is_set():
                blocked.set()
                await gate.wait()
            seen.append(event.sequence)

        await conn.subscribe("s", handle, backfill=True, serial="strict", durable=True, timeout_s=20, name="n")
        await until(lambda: len(seen) == 10)
        await asyncio.sleep(1.2)
        await server.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "snapshot")
        await server.start()
        await until(lambda: conn.state == "reconnected")
        await publish(conn, 10)
        await blocked.wait()
        await server.kill()
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "snapshot", tmp_path / "data")
        gate.set()
        await asyncio.sleep(0.1)
        await server.start()
        await asyncio.sleep(3)
        async with eda.connect(server.url) as other:
            await publish(other, 3)
        await until(lambda: seen[-3:] == [11, 12, 13], 5)


async def test_start_when_the_stream_lost_its_end_while_nobody_read_handles_the_new_events(tmp_path: Path) -> None:
    async with eda.EmbeddedServer(tmp_path / "data") as server:
        async with eda.connect(server.url) as conn:
            await publish(conn, 10)
        await server.stop()
        (stored,) = (tmp_path / "data").rglob("streams/s")
        shutil.copytree(stored, tmp_path / "snapshot")
        await server.start()
        seen: list[int] = []

        def handle(event: eda.Event) -> None:
            seen.append(event.sequence)

        options: dict[str, Any] = {"start": 1, "durable": True, "exclusive": True}
        async with eda.connect(server.url, client="c") as conn:
            await publish(conn, 10)
            await conn.subscribe("s", handle, **options)
            await until(lambda: len(seen) == 20)
        await server.stop()
        shutil.rmtree(stored)
        shutil.copytree(tmp_path / "snapshot", stored)
        await server.start()
        seen.clear()
        async with eda.connect(server.url, client="c") as conn:
            await conn.subscribe("s", handle, **options)
            await publish(conn, 15)
            await until(lambda: seen == list(range(11, 26)))


async def test_takeover_from_a_holder_that_had_no_events_blames_no_event() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="m") as conn:
        await conn.streams.create("s", eda.StreamOptions())
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, server.url, stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"active\n"
            await asyncio.sleep(1.2)
        finally:
            child.kill()
            await child.wait()
        seen: list[str] = []
        subscription = await conn.subscribe(
            "s", lambda event: seen.append(event.type), backfill=True, durable=True, exclusive=True,
            retry=eda.Retry(max_attempts=1), dead_letter=None,
        )  # fmt: skip
        await until(lambda: subscription.stats().active)
        await publish(conn, 1, "first")
        await publish(conn, 1, "second")
        await until(lambda: "second" in seen)
        assert seen == ["first", "second"]


async def test_shared_when_buffered_events_are_given_back_counts_no_attempts() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 5)
        options: dict[str, Any] = {"backfill": True, "durable": True, "retry": eda.Retry(max_attempts=2)}
        seen: set[int] = set()

        async def handle(event: eda.Event) -> None:
            seen.add(event.sequence)
            await asyncio.sleep(0.3)

        for _ in range(5):
            subscription = await conn.subscribe("s", handle, **options)
            await asyncio.sleep(0.15)
            await subscription.close()
        await conn.subscribe("s", handle, **options)
        await until(lambda: seen == {1, 2, 3, 4, 5})


async def test_shared_when_stream_and_name_were_made_again_during_an_outage_acknowledges_nothing_unhandled(
    logged: Logged,
) -> None:
    logged.expect("ends")
    async with (
        eda.EmbeddedServer() as server,
        FaultyProxy(server.port) as proxy,
        eda.connect(proxy.url(server.url), client="c") as conn,
        eda.connect(server.url, client="c") as other,
    ):
        await publish(other, 3, "old")
        gate = asyncio.Event()
        seen: list[str] = []

        async def handle(event: eda.Event) -> None:
            if event.type == "old":
                await gate.wait()
            seen.append(event.type)

        subscription = await conn.subscribe("s", handle, backfill=True, durable=True)
        await until(lambda: subscription.stats().buffered == 2)
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(0.2)
        await other.streams.delete("s")
        await (await other.subscribe("s", print, backfill=True, durable=True)).close()
        await publish(other, 3, "new")
        proxy.refusing = False
        await until(lambda: conn.state == "reconnected")
        await asyncio.sleep(0.5)
        gate.set()
        await asyncio.sleep(0.5)
        await subscription.close()
        found: list[str] = []
        await other.subscribe("s", lambda event: found.append(event.type), backfill=True, durable=True)
        await until(lambda: (seen + found).count("new") >= 3, 5)


async def test_handler_that_is_fenced_and_then_overdue_does_not_end_the_subscription(
    tmp_path: Path, logged: Logged
) -> None:
    logged.allow("handler failed")
    async with eda.EmbeddedServer(tmp_path) as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 2)
        done: list[int] = []

        def block(event: eda.Event) -> None:
            time.sleep(0 if done else 9)
            done.append(event.sequence)

        subscription = await conn.subscribe(
            "s", eda.threaded(block), backfill=True, durable=True, serial=True, timeout_s=6
        )
        await asyncio.sleep(0.3)
        await server.kill()
        await asyncio.sleep(4)
        await server.start()
        await until(lambda: 2 in done or subscription.is_closed, 15)
        assert not subscription.is_closed


async def test_dead_letter_of_an_error_without_text_does_not_end_the_subscription(logged: Logged) -> None:
    logged.expect("handler failed")

    class Wrong(Exception):
        def __str__(self) -> str:
            raise IndexError

    async def handle(event: eda.Event) -> None:
        raise Wrong

    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 2)
        subscription = await conn.subscribe("s", handle, backfill=True, durable=True, retry=eda.Retry(max_attempts=1))
        await until(lambda: subscription.stats().dead_lettered == 2 or subscription.is_closed)
        assert not subscription.is_closed


async def test_worker_that_fails_makes_wait_raise(logged: Logged) -> None:
    logged.allow("failed")
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 1)

        async def handle(event: eda.Event) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        subscription = await conn.subscribe("s", handle, backfill=True, durable=True)
        with pytest.raises(eda.EdaError):
            await asyncio.wait_for(subscription.wait(), 5)


async def test_serial_with_key_is_refused_or_serial(logged: Logged) -> None:
    logged.expect("handler failed")
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        for aggregate in "abcd":
            await conn.publish("s", eda.Event(aggregate=aggregate))
        done: list[int] = []

        async def handle(event: eda.Event) -> None:
            if event.sequence == 2 and event.attempt == 1:
                raise ValueError
            done.append(event.sequence)

        try:
            await conn.subscribe("s", handle, backfill=True, durable=True, serial=True, key="aggregate")
        except eda.ConfigError:
            return
        await until(lambda: len(done) == 4)
        assert done == [1, 2, 3, 4]


async def test_key_function_that_failed_once_is_asked_again(logged: Logged) -> None:
    logged.expect("handler failed")
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 2)
        n_calls = 0

        def key(event: eda.Event) -> str:
            nonlocal n_calls
            n_calls += 1
            if n_calls == 1:
                raise RuntimeError("for the moment")
            return event.aggregate

        seen: list[int] = []
        await conn.subscribe("s", lambda event: seen.append(event.sequence), backfill=True, durable=True, key=key)
        await until(lambda: sorted(seen) == [1, 2])


async def test_close_when_a_handler_ignores_its_cancellation_lets_nobody_handle_beside_it() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url) as one, eda.connect(server.url) as two:
        await publish(one, 1)
        running = most = 0

        def handle(event: eda.Event) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(4)
            running -= 1

        options: dict[str, Any] = {"name": "n", "backfill": True, "durable": True, "serial": True, "timeout_s": 1}
        first = await one.subscribe("s", eda.threaded(handle), **options)
        await until(lambda: running == 1)
        await two.subscribe("s", eda.threaded(handle), **options | {"timeout_s": 30})
        await first.close()
        await asyncio.sleep(5)
        assert most == 1


async def test_iterator_of_strict_when_the_server_is_away_closes_within_its_time(tmp_path: Path) -> None:
    async with eda.EmbeddedServer(tmp_path) as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 2)
        events = conn.events("s", backfill=True, durable=True, serial="strict", timeout_s=1)
        await anext(events)
        await server.kill()
        await asyncio.sleep(0.3)
        asking = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.2)
        asking.cancel()
        try:
            await asyncio.wait_for(events.aclose(), 15)
        finally:
            await server.start()


async def test_iterator_when_opening_is_cancelled_does_not_cancel_who_asks_next() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 1)
        events = conn.events("s", backfill=True, durable=True, serial=True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.001)
        try:
            await asyncio.wait_for(anext(events), 5)
        except asyncio.CancelledError:
            pytest.fail("cancelled, though nobody did")
        except eda.Closed:
            pass


async def test_batch_that_its_handler_empties_still_times_out(logged: Logged) -> None:
    logged.expect("handler failed")
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="c") as conn:
        await publish(conn, 4)
        events = conn.events("s", backfill=True, batch=4, timeout_s=0.3, durable=True)
        batch = await anext(events)
        batch.clear()
        await until(lambda: events.subscription.stats().failed == 4)
        await events.aclose()
