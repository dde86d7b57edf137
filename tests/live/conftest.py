"""Real servers, connections to them, and streams of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.errors import Error as NatsError

import eda
import eda.options
import eda.subscribing.monitor
import servers as old_servers
from helpers import Admin, Connect
from support.embedded.domains import Domains
from support.projections.postgres import Postgres

CURRENT = "current"
_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked `old_server` against every supported server."""
    if metafunc.definition.get_closest_marker("old_server"):
        metafunc.parametrize("server_version", [CURRENT, *reversed(old_servers.VERSIONS)], indirect=True)


@pytest.fixture(scope="session")
def server_pool() -> Iterator[Callable[[str], eda.EmbeddedServer]]:
    """One server of each version that is asked for, for the whole run. A server belongs to no event loop."""
    pool: dict[str, eda.EmbeddedServer] = {}

    def get(version: str) -> eda.EmbeddedServer:
        if version not in pool:
            executable = None if version == CURRENT else old_servers.path_of(version)
            server = eda.EmbeddedServer(executable=executable)
            asyncio.run(server.start())
            pool[version] = server
        return pool[version]

    yield get
    for server in pool.values():
        asyncio.run(server.stop())


@pytest.fixture
def server_version(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", CURRENT)


@pytest.fixture
def server(server_pool: Callable[[str], eda.EmbeddedServer], server_version: str) -> eda.EmbeddedServer:
    """The server that live tests share; in tests marked `old_server` each of the supported ones."""
    return server_pool(server_version)


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """Fail when a test leaves tasks behind, after its connections are closed."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=5.0)
    assert not left, f"tasks are left: {left}"


@pytest.fixture
def executable(server_version: str) -> Path | None:
    """The nats-server for servers of the test's own; None: the current one."""
    return None if server_version == CURRENT else old_servers.path_of(server_version)


@pytest.fixture
async def own_server(executable: Path | None) -> AsyncIterator[eda.EmbeddedServer]:
    """A server that the test may kill and freeze."""
    async with eda.EmbeddedServer(executable=executable) as server:
        yield server


@pytest.fixture
async def admin(server: eda.EmbeddedServer) -> AsyncIterator[Admin]:
    client = await nats.connect(server.url, allow_reconnect=False)
    yield Admin(client)
    await client.close()


@pytest.fixture
async def stream(admin: Admin) -> AsyncIterator[str]:
    """A stream name of the test's own; the stream is deleted afterwards, should it exist."""
    name = f"stream-{next(_numbers)}"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


@pytest.fixture
async def connect(server: eda.EmbeddedServer, stream: str) -> AsyncIterator[Connect]:
    """Open connections, to the shared server unless told otherwise; closed after the test, before its stream goes."""
    opened: list[eda.Conn] = []

    async def connect(addr: str | None = None, **options: Any) -> eda.Conn:
        options.setdefault("client", f"client-{next(_numbers)}")
        conn = eda.connect(addr or server.url, **options)
        opened.append(conn)
        return await conn

    yield connect
    async with asyncio.timeout(20):
        for conn in reversed(opened):
            await conn.close()


@pytest.fixture
async def conn(connect: Connect) -> eda.Conn:
    return await connect()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let an event's lease be short, for new consumers too."""
    monkeypatch.setattr(eda.options, "DEFAULT_LEASE_S", 1.0)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.2)
    return 1.0


@pytest.fixture
async def domains(tmp_path: Path) -> AsyncIterator[Domains]:
    """Both domains have a stream `orders`."""
    async with Domains(tmp_path) as domains:
        for server in (domains.hub, domains.leaf):
            async with eda.connect(server.url) as conn:
                await conn.streams.create("orders")
        await domains.until_linked()
        yield domains


@pytest.fixture
async def gateway(domains: Domains) -> AsyncIterator[eda.Conn]:
    """A connection to the leaf that means the hub's streams."""
    async with eda.connect(domains.leaf.url, cluster="hub", client="gateway") as conn:
        yield conn


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The PostgreSQL server that live tests share. It belongs to no event loop."""
    if sys.platform == "win32":
        pytest.skip("PostgreSQL is started as on POSIX")
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    """The address of a new database, which must have no connections when the test ends."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that the test may kill and freeze."""
    if sys.platform == "win32":
        pytest.skip("PostgreSQL is started as on POSIX")
    with Postgres() as postgres:
        yield postgres
