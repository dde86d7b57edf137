"""Servers that are harmed, seeds that are printed, and counts that end up in the summary."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import nats
import pytest

import eda
import eda.options
import eda.subscribing.monitor
import servers
from helpers import Admin
from support.faults.nursery import Nursery
from support.projections.members import ProjectionMembers
from support.projections.postgres import Postgres
from support.projections.tables import SQLITE
from support.store.members import Members
from support.transport.faulty_proxy import FaultyProxy


@pytest.fixture
def server_version(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "current")


@pytest.fixture
def executable(server_version: str) -> Path | None:
    """The nats-server to run; None: the current one."""
    return None if server_version == "current" else servers.path_of(server_version)


@pytest.fixture
async def own_server() -> AsyncIterator[eda.EmbeddedServer]:
    async with eda.EmbeddedServer() as server:
        yield server


@pytest.fixture
async def admin(own_server: eda.EmbeddedServer) -> AsyncIterator[Admin]:
    """A client that has no faults, and is not eda."""
    client = await nats.connect(own_server.url, allow_reconnect=False)
    yield Admin(client)
    await client.close()


@pytest.fixture
async def proxy(own_server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(own_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """What starts the members of the event store's tests."""
    if not hasattr(os, "fork"):
        pytest.skip("members are forked")
    with Nursery("support.store.process") as nursery:
        yield nursery


@pytest.fixture
def members(nursery: Nursery, tmp_path: Path) -> Iterator[Members]:
    with Members(nursery, tmp_path) as members:
        yield members


@pytest.fixture(scope="module")
def projecting_nursery() -> Iterator[Nursery]:
    """What starts the members of the read models' tests."""
    if not hasattr(os, "fork"):
        pytest.skip("members are forked")
    with Nursery("support.projections.process") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for several tests: each leaves it running."""
    if sys.platform == "win32":
        pytest.skip("PostgreSQL is started as on POSIX")
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def address(request: pytest.FixtureRequest, driver: str, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database for the driver."""
    if driver in SQLITE:
        yield str(tmp_path / "read.db")
        return
    with request.getfixturevalue("postgres").database() as address:
        yield address


@pytest.fixture
def projecting(projecting_nursery: Nursery, address: str, tmp_path: Path) -> Iterator[ProjectionMembers]:
    """Members that project into the database at `address`."""
    with ProjectionMembers(projecting_nursery, tmp_path, address) as members:
        yield members


@pytest.fixture
def chance() -> random.Random:
    """Random places and moments; EDA_FAULTS_SEED repeats those of a run that failed."""
    seed = int(os.environ.get("EDA_FAULTS_SEED") or random.randrange(2**32))
    print(f"EDA_FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Mapping[str, object]], None]:
    """Have counts printed in the run's summary."""

    def report(counts: Mapping[str, object]) -> None:
        text = ", ".join(f"{key} {value}" for key, value in counts.items())
        request.node.user_properties.append(("counts", text))

    return report


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let an event's lease at the server be 2 s rather than 30."""
    monkeypatch.setattr(eda.options, "DEFAULT_LEASE_S", 2.0)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.2)
    return 2.0
