"""A bounded pool of database connections, and what the databases of PostgreSQL and their connections have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from eda.errors import ConfigError
from eda.projections.sink import CommitUnknown
from eda.projections.sql_steps import Dialect, Result, Sql, Steps, Unreachable, drive_async, to_its_end

__all__ = [
    "FIND_S",
    "RELAY_LOST",
    "ROLLBACK_S",
    "SHORT_S",
    "AsyncConnection",
    "Connection",
    "ConnectionPool",
    "PostgresConnections",
    "PostgresDatabase",
    "begin_text",
    "blaming",
    "check_connections",
    "preparing",
    "telling_loss",
]

T = TypeVar("T")
D = TypeVar("D")

# The longest that a short transaction of eda's own may take, and the longest that a projection without `timeout_s` may
# be idle in a transaction.
SHORT_S = 30.0
# The longest that reading a lane's row may wait for a transaction whose outcome is unknown.
FIND_S = 60.0
# The longest that a rollback may take, and each statement after the caller was cancelled. Then the connection is
# closed, and the server rolls back.
ROLLBACK_S = 3.0

RELAY_LOST = "the connection that holds the lock of the relay was lost"


@contextlib.contextmanager
def blaming(reason: str) -> Iterator[None]:
    """Let a cancellation say that the database was to blame, so that a timeout is an outage and no failure of events.

    `asyncio.timeout` keeps the cancellation as the cause of its TimeoutError, and sinks look at the causes of errors.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        error.__cause__ = error.__cause__ or Unreachable(reason)
        raise


@contextlib.contextmanager
def telling_loss(is_lost: Callable[[], bool]) -> Iterator[None]:
    """Raise any error of a relay's lost connection as an outage.

    A pool of SQLAlchemy may return a connection that was lost long ago, and does not know the driver's errors.
    """
    try:
        yield
    except Exception as error:
        if is_lost():
            raise Unreachable(RELAY_LOST) from error
        raise


@contextlib.contextmanager
def preparing() -> Iterator[None]:
    """Raise an error of the user's `on_connect` as the database's trouble: no event has caused it."""
    try:
        yield
    except Exception as error:
        raise Unreachable(f"on_connect has failed: {error!r}") from error


def begin_text(timeout_s: float | None) -> str:
    """Return what is sent together with BEGIN: a setting, the mark of the transaction, and the savepoint of apply.

    Setting and mark end with the transaction, so they also work behind a pooler that gives each transaction another
    connection. If this process is frozen, the server ends the transaction, and the locks of its rows are released. If
    apply ends the transaction, the mark is gone, and the position is not moved.
    """
    idle_ms = min(max(int((timeout_s or SHORT_S) * 1000), 1), 2**31 - 1)
    return (
        f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms}; SET LOCAL eda.apply = 'open'; SAVEPOINT eda_apply"
    )


def check_connections(max_connections: int, on_connect: object) -> None:
    """Raise ConfigError if an option that the sinks of PostgreSQL share is wrong."""
    if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections < 1:
        raise ConfigError(f"max_connections must be at least 1, not {max_connections!r}", argument="max_connections")
    if on_connect is not None and not callable(on_connect):
        raise ConfigError("on_connect must be a function or None", argument="on_connect")


class Connection(Protocol):
    """A connection that is opened when it is needed, and opened again after it was lost."""

    async def run(self, steps: Steps[T], timeout_s: float | None) -> T:
        """Drive the steps in one transaction. Only one call at a time."""

    async def close(self) -> None:
        """Close the connection. A transaction that is under way ends first."""


class ConnectionPool:
    """At most `size` connections, each made when all others are in use. It may be used again after it was closed."""

    def __init__(self, make: Callable[[], Connection], size: int) -> None:
        self._make = make
        self._size = size
        self._all: list[Connection] = []
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection]] = deque()

    async def run(self, steps: Steps[T], timeout_s: float | None) -> T:
        """Drive the steps in one transaction of a connection that is free. Wait until one is free."""
        with blaming("no connection became free"):
            connection = await self._taken()
        try:
            return await connection.run(steps, timeout_s)
        finally:
            self._give_back(connection)

    async def close(self) -> None:
        """Close all connections when their transactions have ended. Transactions that wait get new connections."""
        closing, self._all, self._idle = self._all, [], []
        for result in await asyncio.gather(*[each.close() for each in closing], return_exceptions=True):
            if result is not None:
                raise result

    async def _taken(self) -> Connection:
        if self._idle:
            return self._idle.pop()
        if len(self._all) < self._size:
            return self._new()
        waiting: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._give_back(waiting.result())
            raise

    def _new(self) -> Connection:
        connection = self._make()
        self._all.append(connection)
        return connection

    def _give_back(self, connection: Connection) -> None:
        is_closed = connection not in self._all
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(self._new() if is_closed else connection)
                return
        if not is_closed:
            self._idle.append(connection)


class PostgresConnections:
    """The connections of a sink in PostgreSQL: one for reads, one for short transactions, and the lanes' connections.

    So a transaction of apply that waits for a lock keeps nobody from reading positions, and no owner from its signs of
    life.
    """

    def __init__(self, make: Callable[[], Connection], make_for_lanes: Callable[[], Connection], n_lanes: int) -> None:
        self._reads = ConnectionPool(make, 1)
        self._short = ConnectionPool(make, 1)
        self._lanes = ConnectionPool(make_for_lanes, n_lanes)

    async def run(self, steps: Steps[T], *, is_lane: bool, writes: bool, timeout_s: float | None) -> T:
        """Drive the steps in one transaction. The caller bounds those of lanes that have a `timeout_s`.

        All others are bounded here, because a server that has vanished from the network never answers.
        """
        if is_lane and timeout_s is not None:
            return await self._lanes.run(steps, timeout_s)
        pool = self._lanes if is_lane else self._short if writes else self._reads
        most_s = FIND_S if is_lane else SHORT_S
        try:
            async with asyncio.timeout(most_s):
                return await pool.run(steps, most_s)
        except TimeoutError:
            raise Unreachable(f"the database did not end a short transaction in {most_s:g} s") from None

    async def close(self) -> None:
        """Close all connections when their transactions have ended."""
        async with contextlib.AsyncExitStack() as stack:
            for pool in (self._reads, self._short, self._lanes):
                stack.push_async_callback(pool.close)


class PostgresDatabase:
    """What the databases of PostgreSQL have in common, whatever their driver is."""

    dialect: Dialect = "postgresql"
    max_lanes: int | None = None
    marks_transactions: bool = True

    def __init__(self, label: str, connections: PostgresConnections) -> None:
        self.label: str = label
        self._connections = connections

    async def close(self) -> None:
        """Close all connections when their transactions have ended."""
        await self._connections.close()

    async def run(
        self, steps: Steps[T], *, lane: Hashable | None = None, writes: bool = True, timeout_s: float | None = None
    ) -> T:
        """Drive the steps in one transaction."""
        return await self._connections.run(steps, is_lane=lane is not None, writes=writes, timeout_s=timeout_s)


class AsyncConnection(Generic[D]):
    """A connection of an asynchronous driver. A subclass says what the driver calls each step."""

    def __init__(self) -> None:
        self._driver: D | None = None
        self._turn = asyncio.Lock()  # between a transaction and `close`

    async def connect(self) -> D:
        """Open a connection."""
        raise NotImplementedError

    async def begin(self, driver: D, timeout_s: float | None) -> None:
        """Begin a transaction."""
        raise NotImplementedError

    async def execute(self, driver: D, sql: Sql) -> Result:
        """Execute one statement."""
        raise NotImplementedError

    async def commit(self, driver: D) -> None:
        """Commit the transaction."""
        raise NotImplementedError

    async def roll_back(self, driver: D) -> None:
        """Roll the transaction back."""
        raise NotImplementedError

    def is_lost(self, driver: D) -> bool:
        """Return whether the connection can't be used any more."""
        raise NotImplementedError

    def abort(self, driver: D) -> None:
        """Close the connection at once, without an answer from the server."""
        raise NotImplementedError

    async def run(self, steps: Steps[T], timeout_s: float | None) -> T:
        """Drive the steps in one transaction, and commit it."""
        async with self._turn:
            with blaming("the transaction could not begin in time"):
                driver = await self._begun(timeout_s)
            try:
                value = await drive_async(steps, lambda sql: self._executed(driver, sql), driver)
            except BaseException as error:
                await to_its_end(self._rolled_back(driver))
                if self._driver is not driver and isinstance(error, asyncio.CancelledError):
                    with blaming("the database did not answer"):
                        raise
                raise
            with blaming("the commit was not answered in time"):
                await to_its_end(self._committed(driver, timeout_s or SHORT_S))
            return value

    async def _executed(self, driver: D, sql: Sql) -> Result:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            return await self.execute(driver, sql)
        async with asyncio.timeout(ROLLBACK_S):
            return await self.execute(driver, sql)

    async def close(self) -> None:
        """Close the connection when its transaction has ended."""
        async with self._turn:
            driver, self._driver = self._driver, None
            if driver is not None:
                self.abort(driver)

    async def _begun(self, timeout_s: float | None) -> D:
        driver, self._driver = self._driver, None
        if driver is not None and not self.is_lost(driver):
            try:
                await self.begin(driver, timeout_s)
            except BaseException as error:
                is_lost = self.is_lost(driver)
                self.abort(driver)
                if not is_lost or not isinstance(error, Exception):
                    raise
                # It was lost while nobody used it. A new connection may work.
            else:
                self._driver = driver
                return driver
        driver = await self.connect()
        try:
            await self.begin(driver, timeout_s)
        except BaseException:
            self.abort(driver)
            raise
        self._driver = driver
        return driver

    async def _committed(self, driver: D, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.commit(driver)
        except Exception as error:
            if self.is_lost(driver) or isinstance(error, TimeoutError):
                self._dropped(driver)
                raise CommitUnknown from error
            await self._rolled_back(driver)
            raise

    async def _rolled_back(self, driver: D) -> None:
        """Roll back. If this fails, close the connection: then the server rolls back."""
        if not self.is_lost(driver):
            try:
                async with asyncio.timeout(ROLLBACK_S):
                    await self.roll_back(driver)
            except Exception:
                self._dropped(driver)
        if self.is_lost(driver):
            self._dropped(driver)

    def _dropped(self, driver: D) -> None:
        self.abort(driver)
        if self._driver is driver:
            self._driver = None
