"""Databases for the suites that run over every kind of sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.projections.outboxes import Box
from support.projections.postgres import Postgres
from support.projections.sinks import KINDS, Kind, Place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a SQLite database, which does not exist yet."""
    return tmp_path / "read.db"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def shared_database(postgres_server: Postgres) -> Iterator[str]:
    """The address of a database for all tests of sinks: making one for each test would take most of their time."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def address(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database, which must have no connections when the test ends. PostgreSQL runs only if a kind needs it."""
    if not kind.is_postgres:
        yield str(tmp_path / "read.db")
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    url: str = request.getfixturevalue("shared_database")
    yield url
    server.empty(url.rpartition("/")[2])


@pytest.fixture
async def place(kind: Kind, address: str) -> AsyncIterator[Place]:
    place = Place(kind, address)
    yield place
    await place.close()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """An outbox in SQLite. Suites over every kind of database have a fixture of their own."""
    place = Place(KINDS[0], str(tmp_path / "own.db"))
    box = Box(place)
    await box.outbox.create()
    yield box
    await place.close()
