"""Read models whose stream is another one when they open again: made again, restored, or purged past the position."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest

import eda
from helpers import Admin, Logged, until
from support.projections.evidence import Applied
from support.projections.tables import drivers, inserting, make_table, positions, read_rows, sink_of
from support.store.backups import Backup, backup, restore

pytestmark = drivers("sqlite", "asyncpg")

STREAM = "orders"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
async def own_server(data: Path) -> AsyncIterator[eda.EmbeddedServer]:
    async with eda.EmbeddedServer(data) as server:
        yield server


@pytest.fixture
async def conn(own_server: eda.EmbeddedServer) -> AsyncIterator[eda.Conn]:
    async with eda.connect(own_server.url, client="test") as conn:
        yield conn


@pytest.fixture
async def admin(own_server: eda.EmbeddedServer) -> AsyncIterator[Admin]:
    client = await nats.connect(own_server.url)
    yield Admin(client)
    await client.close()


@dataclass(frozen=True)
class Before:
    """What a projection of ten events has left.

    `saved`: a backup of the stream with the first eight; `disk`: a copy of the server's data at the same moment.
    """

    rows: list[Applied]
    saved: Backup
    disk: Path


@pytest.fixture
async def before(conn: eda.Conn, admin: Admin, driver: str, address: str, data: Path, tmp_path: Path) -> Before:
    make_table(address)
    await publish(conn, 8)
    saved = await backup(admin, STREAM)
    disk = tmp_path / "disk"
    shutil.copytree(data, disk)
    await publish(conn, 2)
    projection = await project(conn, driver, address)
    await until(lambda: len(read_rows(address)) == 10)
    await projection.close()
    assert positions(address, "list") == {(STREAM, 0): 10}
    return Before(read_rows(address), saved, disk)


async def publish(conn: eda.Conn, n: int) -> None:
    await conn.publish_batch(STREAM, [eda.Event(type="t", aggregate="a") for _ in range(n)])


async def project(conn: eda.Conn, driver: str, address: str) -> eda.Projection:
    apply = inserting(driver, "test", lambda: 0.0, lambda events: None)
    return await conn.projection([STREAM], apply, into=sink_of(driver, address), name="list")


async def ends(conn: eda.Conn, driver: str, address: str, logged: Logged) -> str:
    """Open the projection again; return the message of the error with which it ends."""
    logged.allow("projection")
    with pytest.raises(eda.PositionInvalid) as caught:
        projection = await project(conn, driver, address)
        try:
            await projection.wait()
        finally:
            await projection.close()
    assert (caught.value.projection, caught.value.version, caught.value.stream) == ("list", 1, STREAM)
    return str(caught.value)


async def test_stream_when_made_again_ends_the_projection(
    conn: eda.Conn, driver: str, address: str, logged: Logged, before: Before
) -> None:
    """It has as many events as the old one, and more."""
    await conn.streams.delete(STREAM)
    await publish(conn, 12)
    assert "was deleted, and made again or restored" in await ends(conn, driver, address, logged)
    assert read_rows(address) == before.rows


async def test_stream_when_restored_from_an_older_backup_ends_the_projection(
    conn: eda.Conn, driver: str, address: str, logged: Logged, admin: Admin, before: Before
) -> None:
    """The server makes the stream anew, with the backup's events."""
    await conn.streams.delete(STREAM)
    await restore(admin, before.saved)
    await publish(conn, 5)
    assert "was deleted, and made again or restored" in await ends(conn, driver, address, logged)
    assert read_rows(address) == before.rows


@pytest.mark.parametrize("n_after", [0, 5])
async def test_server_when_an_older_copy_of_its_disk_is_put_back_ends_the_projection(
    own_server: eda.EmbeddedServer,
    driver: str,
    address: str,
    logged: Logged,
    before: Before,
    data: Path,
    n_after: int,
) -> None:
    """The stream is as old as before. It ends before the position, or other events have got its sequences."""
    logged.allow("nats: encountered error")
    await own_server.kill()
    shutil.rmtree(data)
    shutil.copytree(before.disk, data)
    await own_server.start()
    async with eda.connect(own_server.url, client="test") as conn:
        if n_after:
            await publish(conn, n_after)
        assert "restored from an older backup" in await ends(conn, driver, address, logged)
    assert read_rows(address) == before.rows


async def test_stream_when_purged_past_the_position_ends_the_projection(
    conn: eda.Conn, driver: str, address: str, logged: Logged, admin: Admin, before: Before
) -> None:
    await publish(conn, 5)
    await admin.api(f"STREAM.PURGE.{STREAM}", {"seq": 13})
    await publish(conn, 1)
    assert "events 11 to 12 are gone and not applied" in await ends(conn, driver, address, logged)
    assert read_rows(address) == before.rows


async def test_stream_when_purged_up_to_the_position_goes_on(
    conn: eda.Conn, driver: str, address: str, admin: Admin, before: Before
) -> None:
    await publish(conn, 5)
    await admin.api(f"STREAM.PURGE.{STREAM}", {"seq": 11})
    projection = await project(conn, driver, address)
    await until(lambda: len(read_rows(address)) == 15)
    await projection.close()
    assert [row.sequence for row in read_rows(address)] == list(range(1, 16))
