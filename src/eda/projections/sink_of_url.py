"""`eda.sql.from_url`: the sink for a database's address, as command lines and environment variables name it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from urllib.parse import unquote

from eda.errors import ConfigError
from eda.projections.sql_sink import SqlSink

__all__ = ["from_url"]

FORMS = (
    "sqlite:///relative/path, sqlite:////absolute/path, or postgresql://user:password@host:port/database "
    "(postgresql+psycopg:// and postgresql+asyncpg:// choose the driver)"
)

# Without a driver in the address, the first one that is installed. Imported late, because each needs its driver.
_DRIVERS = {"psycopg": ("psycopg_sink", "Psycopg"), "asyncpg": ("asyncpg_sink", "Asyncpg")}


def from_url(url: str) -> SqlSink:
    """Return the sink for an address: `sqlite:///path`, or `postgresql://user:password@host:port/database`.

    The path of SQLite is relative to the working directory; an absolute path begins with a fourth slash. The scheme may
    name a driver: `postgresql+psycopg`, `postgresql+asyncpg`. Otherwise it is psycopg if that is installed, else
    asyncpg.

    Raises ConfigError for another address, and if the driver is missing.
    """
    if not isinstance(url, str):
        raise ConfigError(f"the address of a database must be a str, not {type(url).__name__}", argument="url")
    scheme, found, rest = url.partition("://")
    kind, _, driver = scheme.lower().partition("+")
    if not found or not ((kind == "sqlite" and not driver) or kind in ("postgresql", "postgres")):
        # The address may hold a password, so the message does not repeat it.
        raise ConfigError(f"a database's address must be {FORMS}", argument="url")
    if kind == "sqlite":
        if not rest.startswith("/") or len(rest) < 2:
            raise ConfigError(f"the address of a SQLite database must be {FORMS}", argument="url")
        # Imported late, because some builds of Python have no sqlite3.
        sqlite: SqlSink = import_module("eda.projections.sqlite").SQLite(unquote(rest[1:]))
        return sqlite
    if not driver:
        driver = next((name for name in _DRIVERS if find_spec(name) is not None), "psycopg")
    if driver not in _DRIVERS:
        drivers = " or ".join(_DRIVERS)
        raise ConfigError(f"the driver in a database's address must be {drivers}, not {driver!r}", argument="url")
    file, name = _DRIVERS[driver]
    postgresql: SqlSink = getattr(import_module(f"eda.projections.{file}"), name)(f"postgresql://{rest}")
    return postgresql
