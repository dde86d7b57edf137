"""`eda.sql.Psycopg`: projections in PostgreSQL with psycopg 3, for plain functions and for async functions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg

from eda.errors import ConfigError
from eda.projections.connection_pool import (
    Connection,
    PostgresConnections,
    PostgresDatabase,
    check_connections,
)
from eda.projections.psycopg_driver import ClosedByApply, OnConnect, PlainConnection, PsycopgAsyncConnection
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import Unreachable
from eda.projections.sqlstates import is_outage_state, is_savepoint_gone

__all__ = ["Psycopg", "PsycopgDatabase"]

T = TypeVar("T")

CONNECT_S = 10
# Options of psycopg itself; all others are libpq's.
OF_PSYCOPG = frozenset(("prepare_threshold", "context", "row_factory", "cursor_factory"))


class Psycopg(SqlSink):
    """A PostgreSQL database, with psycopg 3.

    A plain `apply` is called in a thread and gets a `psycopg.Connection`; an async `apply` gets a
    `psycopg.AsyncConnection`. All projections that share the sink must have functions of the same kind.

    `conninfo`: the address, as `postgresql://user@host/database` or as `host=… dbname=…`. `max_connections`: how many
    lanes work at the same time; others wait. The sink needs at most two connections more. `on_connect` is called with
    each new connection of a lane before it is used, to register types; it is of the same kind as `apply`. `options` go
    to psycopg: options of libpq, `prepare_threshold`, `cursor_factory`, `row_factory`, `context`. Behind a pooler that
    gives each transaction another connection, use `prepare_threshold=None` if the pooler does not know prepared
    statements.

    Raises ConfigError if an argument is wrong, and if psycopg is not installed.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_connections: int = 20,
        on_connect: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(conninfo, str):
            raise ConfigError(f"conninfo must be a str, not {type(conninfo).__name__}", argument="conninfo")
        check_connections(max_connections, on_connect)
        if "autocommit" in options:
            raise ConfigError("autocommit can't be set: the projection commits by itself", argument="autocommit")
        of_libpq = {name: value for name, value in options.items() if name not in OF_PSYCOPG}
        try:
            known = psycopg.conninfo.conninfo_to_dict(psycopg.conninfo.make_conninfo(conninfo, **of_libpq))
        except psycopg.ProgrammingError as error:
            # The message of libpq may repeat a part of the address, and a part of the password with it.
            wrong = [name for name in of_libpq if not _is_known(name)]
            if wrong:
                raise ConfigError(f"psycopg has no option {wrong[0]!r}", argument=wrong[0]) from None
            reason = "conninfo must be an address such as postgresql://user@host/database, or host=… dbname=…"
            raise ConfigError(reason, argument="conninfo") from (None if "@" in conninfo else error)
        super().__init__(PsycopgDatabase(conninfo, known, options, max_connections, on_connect))


def _is_known(name: str) -> bool:
    try:
        psycopg.conninfo.make_conninfo("", **{name: "1"})
    except psycopg.ProgrammingError:
        return False
    return True


class PsycopgDatabase(PostgresDatabase):
    """A PostgreSQL server with connections of psycopg. eda's own short transactions use plain ones in threads."""

    def __init__(
        self,
        conninfo: str,
        known: Mapping[str, Any],
        options: Mapping[str, Any],
        max_connections: int,
        on_connect: OnConnect | None,
    ) -> None:
        place = f"{known.get('host') or 'localhost'}:{known.get('port') or 5432}"
        label = f"PostgreSQL {known.get('dbname') or known.get('user') or ''} at {place}"
        super().__init__(label, PostgresConnections(self._plain, self._for_lane, max_connections))
        self._conninfo = conninfo
        self._options: dict[str, Any] = {"fallback_application_name": "eda", **options}
        if "connect_timeout" not in known:
            self._options["connect_timeout"] = CONNECT_S
        self._on_connect = on_connect
        self._is_async: bool | None = None

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError if another projection with this sink has a function of the other kind."""
        if self._is_async is not None and self._is_async != is_async:
            kinds = ("an async def", "a plain function") if is_async else ("a plain function", "an async def")
            raise ConfigError(
                f"apply is {kinds[0]}, and another projection with this eda.sql.Psycopg has {kinds[1]}: make a sink "
                "for each of them",
                argument="apply",
            )
        self._is_async = is_async

    async def open(self) -> None:
        """Raise ConfigError if the event loop can't run psycopg's asynchronous connections."""
        if self._is_async and sys.platform == "win32":
            loop = asyncio.get_running_loop()
            if isinstance(loop, asyncio.ProactorEventLoop):
                raise ConfigError(
                    "psycopg can't run an async apply in the ProactorEventLoop of Windows: use a plain function, or "
                    "run the program in a SelectorEventLoop",
                    argument="apply",
                )

    def is_outage(self, error: BaseException) -> bool:
        """Return whether the error is the database's trouble."""
        if not isinstance(error, psycopg.Error):
            return False
        # psycopg gives the loss of a connection no code.
        lost = error.sqlstate is None and type(error) in (psycopg.OperationalError, psycopg.errors.ConnectionTimeout)
        return lost or is_outage_state(error.sqlstate)

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether the savepoint is gone, or apply has closed the connection."""
        if isinstance(error, ClosedByApply):
            return True
        return isinstance(error, psycopg.Error) and is_savepoint_gone(error.sqlstate)

    def _plain(self) -> Connection:
        return PlainConnection(self._connect_plain, None)

    def _for_lane(self) -> Connection:
        if self._is_async:
            return PsycopgAsyncConnection(self.connect_async, self._on_connect)
        return PlainConnection(self._connect_plain, self._on_connect)

    def _connect_plain(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.Connection.connect(self._conninfo, autocommit=True, **self._options)
        except psycopg.Error as error:
            raise Unreachable(f"{self.label} could not be reached: {error}") from error

    async def connect_async(self) -> psycopg.AsyncConnection[Any]:
        """Open an asynchronous connection."""
        try:
            return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, **self._options)
        except psycopg.Error as error:
            raise Unreachable(f"{self.label} could not be reached: {error}") from error
