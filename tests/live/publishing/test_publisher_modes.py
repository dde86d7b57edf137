"""When a publisher uses fast mode or window mode, and when the mode changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
import servers as old_servers
from helpers import Admin, Connect, free_port, until
from support.publishing.sent import Outcomes, endless, numbered, stored_ids


class Sender:
    """Sends events to a publisher without pause."""

    def __init__(self, pub: eda.Publisher) -> None:
        self.pub = pub
        self.ids: list[str] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for i, event in enumerate(endless()):
            self.ids.append(await self.pub.send(event))
            if i % 20 == 0:
                await asyncio.sleep(0.001)

    async def more(self, n: int = 500) -> None:
        goal = self.pub.stats().acknowledged + n
        await until(lambda: self.pub.stats().acknowledged >= goal, 20)

    async def stop(self) -> None:
        """Stop sending, and flush."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.wait_for(self.pub.flush(), 20)


async def test_mode_when_the_server_and_the_stream_take_fast_ingest_is_fast(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as pub:
        assert pub.stats().mode == "fast"
        await pub.send(eda.Event())
    assert "fast" in repr(pub)


async def test_mode_when_window_is_wanted_is_window(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream, mode="window") as pub:
        assert pub.stats().mode == "window"


@pytest.mark.parametrize("version", old_servers.VERSIONS)
async def test_mode_when_the_server_is_old_is_window(version: str) -> None:
    async with eda.EmbeddedServer(executable=old_servers.path_of(version)) as server, eda.connect(server.url) as conn:
        async with conn.publisher("stream") as pub:
            assert pub.stats().mode == "window"
            await pub.send_many(numbered(2000))
        with pytest.raises(eda.NotSupported, match=rf"needs nats-server 2\.14.*{version}"):
            async with conn.publisher("stream", mode="fast"):
                pass


async def test_mode_when_the_stream_takes_no_batches_is_window(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(fast_ingest=False))
    async with conn.publisher(stream) as pub:
        await pub.send_many(numbered(2000))
        assert pub.stats().mode == "window"
    with pytest.raises(eda.NotSupported, match="a stream with fast_ingest"):
        await conn.publisher(stream, mode="fast")


async def test_mode_when_the_window_is_too_small_for_flow_control_is_window(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream, max_pending=3) as pub:
        assert pub.stats().mode == "window"
    with pytest.raises(eda.NotSupported, match="max_pending of 4"):
        await conn.publisher(stream, max_pending=3, mode="fast")


@pytest.mark.parametrize("mode", ["auto", "fast"])
async def test_mode_when_batches_are_switched_off_while_publishing_goes_on_through_the_window(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: Any
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        sender = Sender(pub)
        await sender.more()
        await conn.streams.update(stream, eda.StreamOptions(fast_ingest=False))
        await until(lambda: pub.stats().mode == "window")
        await sender.more()
        await sender.stop()
    outcomes.check(sender.ids, await stored_ids(server.url, stream), pub.stats())
    assert not outcomes.failed


async def test_mode_when_the_stream_is_created_again_without_batches_goes_on_through_the_window(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, stream: str
) -> None:
    """The old stream was deleted with its events. Events that are acknowledged afterwards are in the new stream."""
    other = await connect(stream_defaults=eda.StreamOptions(fast_ingest=False))
    async with other.publisher(stream, mode="window") as first:
        await first.send(eda.Event())
    await conn.streams.update(stream, eda.StreamOptions(fast_ingest=True))
    outcomes = Outcomes()
    async with other.publisher(stream, **outcomes.callbacks) as pub:
        assert pub.stats().mode == "fast"
        sender = Sender(pub)
        await sender.more()
        await conn.streams.delete(stream)
        await until(lambda: pub.stats().mode == "window")
        n = len(outcomes.acknowledged)
        await sender.more()
        await sender.stop()
    assert not outcomes.failed
    stored = await stored_ids(server.url, stream)
    assert stored == sender.ids[-len(stored) :]
    assert set(list(outcomes.acknowledged)[n:]) <= set(stored)


class Switched:
    """Runs servers of several versions on the same port and directory, one at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: eda.EmbeddedServer | None = None
        self.port = free_port()

    async def to(self, version: str | None) -> eda.EmbeddedServer:
        if self.running is not None:
            await self.running.stop()
        executable = None if version is None else old_servers.path_of(version)
        server = eda.EmbeddedServer(self.directory, executable=executable, config={"authorization": None})
        server._port = self.port
        self.running = server
        await server.start()
        return server


@pytest.fixture
async def switched(tmp_path: Path) -> AsyncIterator[Switched]:
    switched = Switched(tmp_path)
    yield switched
    assert switched.running is not None
    await switched.running.stop()


async def test_mode_when_another_server_version_comes_up_is_chosen_again(switched: Switched) -> None:
    server = await switched.to("2.12.8")
    outcomes = Outcomes()
    async with eda.connect(server.url) as conn:
        async with conn.publisher("stream", ack_timeout_s=1, **outcomes.callbacks) as pub:
            sender = Sender(pub)
            assert pub.stats().mode == "window"
            await sender.more()
            await switched.to(None)
            await sender.more()
            assert pub.stats().mode == "window"  # the stream is not changed
            await conn.streams.update("stream", eda.StreamOptions(fast_ingest=True))
            await switched.to(None)
            await until(lambda: pub.stats().mode == "fast")
            await sender.more()
            await conn.streams.update("stream", eda.StreamOptions(fast_ingest=False, atomic=True))
            await switched.to("2.12.8")
            await until(lambda: pub.stats().mode == "window")
            await sender.more()
            await sender.stop()
        outcomes.check(sender.ids, await stored_ids(server.url, "stream"), pub.stats())
        assert not outcomes.failed


async def test_publishers_when_several_share_a_stream_keep_their_orders(
    connect: Connect, admin: Admin, server: eda.EmbeddedServer, stream: str
) -> None:
    """The server divides the events per acknowledgement among all batches, so some batches get very few."""
    modes = ["fast", "fast", "window", "fast", "fast", "window"]
    conns = [await connect() for _ in range(3)]

    async def publish(i: int, mode: Any) -> list[str]:
        async with conns[i % 3].publisher(stream, mode=mode, max_pending=500) as pub:
            ids = []
            for event in numbered(3000, start=i * 10_000):
                ids.append(await pub.send(event))
                if len(ids) % 100 == 0:
                    await asyncio.sleep(0)
            await pub.flush()
            assert pub.stats().resent == 0
            return ids

    async with asyncio.timeout(30):
        all_ids = await asyncio.gather(*(publish(i, mode) for i, mode in enumerate(modes)))
    stored = await stored_ids(server.url, stream)
    assert len(stored) == 3000 * len(modes)
    for i, ids in enumerate(all_ids):
        assert [each for each in stored if int(each[1:]) // 10_000 == i] == ids


async def test_publishers_when_batches_come_and_go_leave_none_open(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str
) -> None:
    """A batch that is left open slows the next one down, because the server divides the flow among open batches."""
    async with conn.publisher(stream, mode="fast") as pub:
        flows: list[int] = []
        on_flow = pub._pump.on_flow

        def noted(n_messages: int) -> None:
            flows.append(n_messages)
            on_flow(n_messages)

        pub._pump.on_flow = noted
        for _ in range(4):
            # A multiple of the flow interval, so that all events are acknowledged before the batch ends.
            await pub.send_many(numbered(1500))
            await until(lambda: pub.stats().pending == 0)
            await until(lambda: pub._pump.machine.state == "idle")
    assert set(flows) == {500}
