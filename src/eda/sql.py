"""`eda.sql`: the databases of projections, and the outbox.

A name is loaded when it is first used, so `import eda.sql` needs no driver. A driver that is missing is a ConfigError.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eda.errors import ConfigError

if TYPE_CHECKING:
    from eda.projections.asyncpg_sink import Asyncpg
    from eda.projections.outbox import Outbox
    from eda.projections.psycopg_sink import Psycopg
    from eda.projections.sink import ClaimLost, CommitUnknown, PositionRow, Sink, ViewVersion, Work
    from eda.projections.sink_of_url import from_url
    from eda.projections.sql_sink import SqlSink
    from eda.projections.sqlalchemy_sink import SQLAlchemy
    from eda.projections.sqlite import SQLite

__all__ = [
    "Asyncpg",
    "ClaimLost",
    "CommitUnknown",
    "Outbox",
    "PositionRow",
    "Psycopg",
    "SQLAlchemy",
    "SQLite",
    "Sink",
    "SqlSink",
    "ViewVersion",
    "Work",
    "from_url",
]

# The public names, and the files that they come from.
_FILES = {
    "ClaimLost": "sink",
    "CommitUnknown": "sink",
    "Outbox": "outbox",
    "PositionRow": "sink",
    "Sink": "sink",
    "ViewVersion": "sink",
    "Work": "sink",
    "SqlSink": "sql_sink",
    "from_url": "sink_of_url",
    "SQLAlchemy": "sqlalchemy_sink",
    "SQLite": "sqlite",
    "Psycopg": "psycopg_sink",
    "Asyncpg": "asyncpg_sink",
}
# The packages that the files need, and the extras that install them.
_EXTRAS = {"asyncpg": "asyncpg", "greenlet": "sqlalchemy", "psycopg": "psycopg", "sqlalchemy": "sqlalchemy"}


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"eda.projections.{_FILES[name]}"), name)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(error.name or "")
            if extra is None:
                raise
            raise ConfigError(
                f"eda.sql.{name} needs the package {error.name}, which is not installed: "
                f"pip install 'eda-fast[{extra}]'"
            ) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
