"""The same rows beside the eventsourcing library, which projects each event in a transaction of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

import eda
from macro.projections import eventsourcing_sales
from macro.projections.sales import apply_psycopg, apply_sqlite, databases, emptied, filled
from macro.projections.test_rows import projected_s

N = 50_000
N_RIVAL = 2_000


@pytest.mark.timeout(300)
def test_eventsourcing_on_sqlite(server: eda.EmbeddedServer, duel: Callable[..., None], tmp_path: Path) -> None:
    path = str(tmp_path / "read.db")
    theirs = str(tmp_path / "theirs.db")
    settings = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": theirs}
    eventsourcing_sales.fill(settings, N_RIVAL)

    def rival_us() -> float:
        with closing(sqlite3.connect(theirs)) as file, file:
            file.execute("DROP TABLE IF EXISTS sales")
            file.execute("DROP TABLE IF EXISTS tracking")
        took_us = eventsourcing_sales.projected_us_by_pulling(settings, N_RIVAL)
        with closing(sqlite3.connect(theirs)) as file:
            assert file.execute("SELECT count(*) FROM sales").fetchone() == (N_RIVAL,)
        return took_us

    with filled(server, "sales", N) as stream:
        duel(
            (
                "eda beside SQLite project us",
                lambda: projected_s(server, stream, eda.sql.SQLite(emptied(path)), apply_sqlite, N) / N * 1e6,
            ),
            ("eventsourcing SQLite project us", rival_us),
            rounds=3,
        )


@pytest.mark.timeout(300)
def test_eventsourcing_on_postgresql(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    with databases() as postgres, postgres.database() as address, postgres.database() as theirs:
        parts = urlsplit(theirs)
        settings = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": parts.path.removeprefix("/"),
            "POSTGRES_HOST": str(parts.hostname),
            "POSTGRES_PORT": str(parts.port),
            "POSTGRES_USER": str(parts.username),
            "POSTGRES_PASSWORD": str(parts.password),
        }
        last = eventsourcing_sales.fill(settings, N_RIVAL)

        def rival_us() -> float:
            with psycopg.connect(theirs, autocommit=True) as conn:
                conn.execute("DROP TABLE IF EXISTS sales, sales_tracking, notification_tracking")
            took_us = eventsourcing_sales.projected_us(settings, N_RIVAL, last)
            with psycopg.connect(theirs) as conn:
                assert conn.execute("SELECT count(*) FROM sales").fetchone() == (N_RIVAL,)
            return took_us

        with filled(server, "sales", N) as stream:
            duel(
                (
                    "eda beside PostgreSQL project us",
                    lambda: projected_s(server, stream, eda.sql.Psycopg(emptied(address)), apply_psycopg, N) / N * 1e6,
                ),
                ("eventsourcing PostgreSQL project us", rival_us),
                rounds=3,
            )
