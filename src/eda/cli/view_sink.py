"""Opens the database of read models for a command, and says in one line what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import eda.sql
from eda.errors import EdaError

__all__ = ["DatabaseFailed", "opened_sink"]


class DatabaseFailed(Exception):
    """The database can't be used. The text has the driver's message."""


@asynccontextmanager
async def opened_sink(url: str) -> AsyncIterator[eda.sql.Sink]:
    """Open the database at this URL, without making tables. Raises ConfigError, DatabaseFailed."""
    sink = eda.sql.from_url(url)
    _check_file(url)
    try:
        await sink.open(creates_tables=False)
        try:
            yield sink
        finally:
            await sink.close()
    except (EdaError, OSError):
        raise
    except Exception as error:
        if not sink.is_outage(error) and not _is_of_driver(error):
            raise
        raise DatabaseFailed(f"{sink.label}: {error}") from error


def _check_file(url: str) -> None:
    """Raise DatabaseFailed if a SQLite database does not exist, because opening it would make the file."""
    if url.lower().startswith("sqlite:///"):
        path = unquote(url[len("sqlite:///") :])
        if not os.path.isfile(path):
            raise DatabaseFailed(f"the SQLite database {path} does not exist")


def _is_of_driver(error: Exception) -> bool:
    """Return whether a database driver raised the error. All of them have a base class called Error (PEP 249)."""
    return any(each.__name__ in ("Error", "PostgresError") for each in type(error).__mro__)
