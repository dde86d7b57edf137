"""A server whose disk is full: what was acknowledged is stored, and when there is room again all goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import eda
from helpers import Logged, until
from support.faults.evidence import assert_stored_once, read_stream
from support.faults.scene import packed_too

Report = Callable[[Mapping[str, object]], None]
MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "eda-test", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs can't be mounted here; the test with the server's own limit has the rest")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Writer:
    """Publishes 50 KB at a time until told to stop; notes what was acknowledged and what failed.

    `packed`: ten events in a pack, else one event.
    """

    def __init__(self, conn: eda.Conn, packed: bool) -> None:
        self.conn = conn
        self.packed = packed
        self.acknowledged: list[str] = []
        self.errors: list[Exception] = []
        self.ending = False

    async def run(self) -> None:
        await (self.run_packed() if self.packed else self.run_single())

    async def run_packed(self) -> None:
        async with self.conn.publisher(
            "stream",
            pack=eda.Pack(max_events=10),
            timeout_s=3,
            on_ack=lambda event_id, _: self.acknowledged.append(event_id),
            on_error=lambda _, error: self.errors.append(error),
        ) as publisher:
            while not self.ending:
                n_errors = len(self.errors)
                await publisher.send_many([eda.Event(data=eda.Bytes(os.urandom(5_000))) for _ in range(10)])
                with contextlib.suppress(eda.PublishFailed):
                    await publisher.flush()
                if len(self.errors) > n_errors:
                    await asyncio.sleep(0.05)

    async def run_single(self) -> None:
        event = eda.Event(data=eda.Bytes(os.urandom(50_000)))
        while not self.ending:
            try:
                self.acknowledged.append((await self.conn.publish("stream", event, timeout_s=3)).id)
            except eda.EdaError as error:
                self.errors.append(error)
                await asyncio.sleep(0.05)


@packed_too
async def test_publish_when_the_disk_is_full_stores_what_it_acknowledged_and_goes_on_when_there_is_room(
    small_disk: Path, report: Report, logged: Logged, packed: bool
) -> None:
    """ENOSPC in the middle of a write. The server gives JetStream up until it is restarted; publishes fail, or wait."""
    async with eda.EmbeddedServer(small_disk / "store", config={"jetstream": {"max_file_store": 64 * MIB}}) as server:
        async with eda.connect(server.url) as conn:
            await conn.streams.create("stream", eda.StreamOptions(packed=packed))
            writers = [Writer(conn, packed) for _ in range(4)]
            tasks = [asyncio.create_task(writer.run()) for writer in writers]
            await until(lambda: any(writer.errors for writer in writers), 60)
            full = sum(len(writer.acknowledged) for writer in writers)
            assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize < MIB
            resized = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=64m", str(small_disk))
            assert await resized.wait() == 0
            await server.kill()
            await server.start()
            await until(lambda: sum(len(writer.acknowledged) for writer in writers) > full + 20, 60)
            for writer in writers:
                writer.ending = True
            await asyncio.gather(*tasks)
        stored = await read_stream(server.url, "stream")
    acknowledged = [each for writer in writers for each in writer.acknowledged]
    errors = sorted({type(each).__name__ for writer in writers for each in writer.errors})
    report({"acknowledged when full": full, "acknowledged": len(acknowledged), "errors": " ".join(errors)})
    assert_stored_once(acknowledged, stored)
    assert set(errors) <= {"Timeout", "ServerError", "StreamNotFound"}


@packed_too
async def test_publish_when_the_servers_store_is_at_its_limit_fails_with_the_servers_reason(
    report: Report, packed: bool
) -> None:
    """max_file_store is the server's own limit, without any disk being full. What was acknowledged is stored."""
    async with eda.EmbeddedServer(config={"jetstream": {"max_file_store": 4 * MIB}}) as server:
        async with eda.connect(server.url) as conn:
            await conn.streams.create("stream", eda.StreamOptions(packed=packed))
            writer = Writer(conn, packed)
            task = asyncio.create_task(writer.run())
            await until(lambda: writer.errors, 30)
            writer.ending = True
            await task
            stored = await read_stream(server.url, "stream")
            assert_stored_once(writer.acknowledged, stored)
            reason = writer.errors[0].__cause__
            while reason is not None and not isinstance(reason, eda.ServerError):
                reason = reason.__cause__
            report({"acknowledged": len(writer.acknowledged), "reason": str(reason)})
            assert isinstance(reason, eda.ServerError)
            assert reason.err_code == 10023
            assert await conn.streams.purge("stream") == len({each.sequence for each in stored})
            await conn.publish("stream")
