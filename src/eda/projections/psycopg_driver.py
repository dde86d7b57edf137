"""Connections of psycopg: plain ones, each in a thread of its own, and asynchronous ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from eda.projections.connection_pool import AsyncConnection, begin_text, blaming, preparing
from eda.projections.database_threads import DatabaseThread, Job
from eda.projections.sink import CommitUnknown
from eda.projections.sql_steps import DONE, Result, Sql, Steps, Unreachable, drive, formatted
from eda.projections.sqlstates import note_swallowed

__all__ = ["ClosedByApply", "OnConnect", "PlainConnection", "PsycopgAsyncConnection"]

T = TypeVar("T")

OnConnect = Callable[[Any], object]

# How long a request to cancel a statement may take before the connection is cut.
CANCEL_S = 2.0


class ClosedByApply(psycopg.OperationalError):
    """apply has closed the connection, which also happens at the end of `with tx:`."""


class PlainConnection:
    """A plain connection and its thread. Each transaction is one job of the thread."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], on_connect: OnConnect | None) -> None:
        self._connect = connect
        self._on_connect = on_connect
        self._thread: DatabaseThread | None = None
        self._driver: psycopg.Connection[Any] | None = None
        self._is_cut = False
        # Whether the database, and not apply, was to blame when a transaction was cancelled.
        self._is_waiting = False
        self._is_blamed = False
        self._lock = threading.Lock()  # between a caller that cuts the connection and the thread that closes it

    async def run(self, steps: Steps[T], timeout_s: float | None) -> T:
        if self._thread is None:
            self._thread = DatabaseThread("eda-psycopg")
        self._is_blamed = False
        try:
            return await self._thread.call(lambda job: self._transaction(steps, timeout_s, job), self._interrupt)
        except asyncio.CancelledError:
            if self._is_blamed:
                with blaming("the database did not answer"):
                    raise
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.close(self._drop)

    def _interrupt(self) -> None:
        """Cut the connection, so that no later statement of apply is committed. Cancel the statement that runs."""
        with self._lock:
            self._is_blamed = self._is_waiting
            driver = self._driver
            if driver is None:
                return
            self._is_cut = True
            try:
                descriptor = driver.fileno()
            except psycopg.Error:
                return  # it is lost already
            try:
                copy = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                copy = None  # Windows can't copy it: then only the statement is cancelled
        # The server may not answer the request to cancel, and the event loop must not wait for it.
        threading.Thread(
            target=self._cut, args=(driver, descriptor, copy), name="eda-psycopg-cancel", daemon=True
        ).start()

    def _cut(self, driver: psycopg.Connection[Any], descriptor: int, copy: socket.socket | None) -> None:
        """Cancel the statement that runs, and cut the connection; `copy` is a copy of its socket."""
        with contextlib.suppress(psycopg.Error, OSError):
            if driver.pgconn.transaction_status == TransactionStatus.ACTIVE:
                try:
                    driver.cancel_safe(timeout=CANCEL_S)
                except psycopg.Error:
                    self._is_blamed = True
            # If libpq has closed its own, the copy may be of another connection.
            if copy is not None and driver.fileno() == descriptor:
                copy.shutdown(socket.SHUT_RDWR)
        if copy is not None:
            copy.close()

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _transaction(self, steps: Steps[T], timeout_s: float | None, job: Job[T]) -> T:
        self._is_waiting = True
        driver = self._begun(timeout_s, job)
        self._is_waiting = False
        try:
            if job.is_cancelled:  # while it connected
                raise Unreachable("the caller was cancelled while the connection was opened")
            value = drive(steps, lambda sql: _execute(driver, sql), driver)
            if job.is_cancelled:
                raise Unreachable("the caller was cancelled before the commit")
        except BaseException:
            self._roll_back(driver)
            raise
        self._is_waiting = True
        self._commit(driver)
        return value

    def _begun(self, timeout_s: float | None, job: Job[Any]) -> psycopg.Connection[Any]:
        text = f"BEGIN; {begin_text(timeout_s)}".encode()
        if self._is_cut:
            self._drop()
        driver = self._driver
        if driver is not None and not driver.closed:
            try:
                driver.execute(text)
                return driver
            except psycopg.Error:
                is_lost = driver.closed
                self._drop()
                if not is_lost or job.is_cancelled:
                    raise
                # It was lost while nobody used it. A new connection may work.
        driver = self._driver = self._connect()
        try:
            if self._on_connect is not None:
                with preparing():
                    self._on_connect(driver)
            driver.execute(text)
        except BaseException:
            self._drop()
            raise
        return driver

    def _commit(self, driver: psycopg.Connection[Any]) -> None:
        try:
            driver.execute(b"COMMIT")
        except psycopg.Error as error:
            if driver.closed:
                self._drop()
                raise CommitUnknown from error
            self._roll_back(driver)
            raise

    def _roll_back(self, driver: psycopg.Connection[Any]) -> None:
        """Roll back. If this fails, close the connection: then the server rolls back."""
        try:
            if not driver.closed and driver.pgconn.transaction_status != TransactionStatus.IDLE:
                driver.execute(b"ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            driver, self._driver = self._driver, None
            self._is_cut = False
            if driver is not None:
                driver.close()


class PsycopgAsyncConnection(AsyncConnection["psycopg.AsyncConnection[Any]"]):
    """An asynchronous connection of psycopg."""

    def __init__(self, connect: Callable[[], Any], on_connect: OnConnect | None) -> None:
        super().__init__()
        self._connect = connect
        self._on_connect = on_connect

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a connection, and let the user prepare it."""
        driver: psycopg.AsyncConnection[Any] = await self._connect()
        try:
            if self._on_connect is not None:
                with preparing():
                    returned: Any = self._on_connect(driver)
                    if returned is not None:
                        await returned
        except BaseException:
            self.abort(driver)
            raise
        return driver

    async def begin(self, driver: psycopg.AsyncConnection[Any], timeout_s: float | None) -> None:
        """Begin a transaction."""
        await driver.execute(f"BEGIN; {begin_text(timeout_s)}".encode())

    async def execute(self, driver: psycopg.AsyncConnection[Any], sql: Sql) -> Result:
        """Execute one statement."""
        _check_open(driver)
        try:
            async with psycopg.AsyncCursor(driver, row_factory=tuple_row) as cursor:
                await cursor.execute(formatted(sql.text).encode(), sql.params or None)
                return Result(await cursor.fetchall()) if cursor.description else _changed(cursor.rowcount)
        except psycopg.Error as error:
            note_swallowed(error, error.sqlstate)
            raise

    async def commit(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Commit the transaction."""
        await driver.execute(b"COMMIT")

    async def roll_back(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Roll the transaction back."""
        if driver.pgconn.transaction_status != TransactionStatus.IDLE:
            await driver.execute(b"ROLLBACK")

    def is_lost(self, driver: psycopg.AsyncConnection[Any]) -> bool:
        """Return whether the connection is closed."""
        return driver.closed

    def abort(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Close the connection at once."""
        driver.pgconn.finish()


def _execute(driver: psycopg.Connection[Any], sql: Sql) -> Result:
    _check_open(driver)
    try:
        with psycopg.Cursor(driver, row_factory=tuple_row) as cursor:  # whatever the user's cursor_factory is
            cursor.execute(formatted(sql.text).encode(), sql.params or None)
            return Result(cursor.fetchall()) if cursor.description else _changed(cursor.rowcount)
    except psycopg.Error as error:
        note_swallowed(error, error.sqlstate)
        raise


def _changed(count: int) -> Result:
    return DONE if count < 0 else Result([], count)


def _check_open(driver: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if driver.closed and not driver.broken:
        raise ClosedByApply("apply has closed the connection")
