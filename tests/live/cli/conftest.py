"""What tests of several commands need. If their streams have fixed names, they take a server of their own.

Commands are forked where they can be: see `support.cli.nursery`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest

import eda
from eda.jetstream.labels import PACKED
from helpers import Admin
from support.cli import commands
from support.cli.nursery import CommandNursery
from support.diagnosis.settings import consume, create


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    """What starts the commands of the tests."""
    if not hasattr(os, "fork"):
        yield
        return
    with CommandNursery() as commands.nursery:
        yield
    commands.nursery = None


@pytest.fixture
async def shop(own_server: eda.EmbeddedServer) -> AsyncIterator[eda.Conn]:
    """A connection of a program `shop` to the test's own server."""
    async with eda.connect(own_server.url, client="shop") as conn:
        yield conn


@pytest.fixture(params=["workqueue", "interest"])
async def queue(own_server: eda.EmbeddedServer, request: pytest.FixtureRequest) -> str:
    """The retention of a stream `queue`, which may have packs and removes what its consumer `waiting` acknowledges."""
    client = await nats.connect(own_server.url)
    await create(Admin(client), "queue", retention=request.param, metadata={PACKED: "1"})
    await consume(Admin(client), "queue", "waiting")
    await client.close()
    return str(request.param)


@pytest.fixture
def no_server_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the environment name no server, and have no contexts."""
    for name in ("EDA_URL", "NATS_URL", "EDA_USER", "EDA_PASSWORD", "EDA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
