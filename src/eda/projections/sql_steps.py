"""The steps of a transaction, what drives them, and the interface `Database` that each driver implements.

A transaction is written once, as a generator that yields steps and gets their results. It does no I/O itself, so the
same generator runs in a thread with plain connections, and in the event loop with asynchronous ones.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from eda.projections.sink import Work

__all__ = [
    "DONE",
    "Call",
    "Database",
    "Dialect",
    "Result",
    "Sql",
    "Steps",
    "Unreachable",
    "drive",
    "drive_async",
    "formatted",
    "numbered",
    "to_its_end",
]

T = TypeVar("T")

Dialect: TypeAlias = Literal["sqlite", "postgresql"]


class Sql(NamedTuple):
    """One statement. `text` has `?` where the driver puts the parameters; it has no other `?` and no `%`."""

    text: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the user's function with the driver's connection."""

    work: Work


class Result(NamedTuple):
    """The rows of a statement, and how many rows it has changed."""

    rows: list[tuple[Any, ...]]
    n_changed: int = 0


DONE = Result([])
"""the result of a step that returns no rows"""

Steps: TypeAlias = Generator[Sql | Call, Result, T]


class Unreachable(ConnectionError):
    """No connection to the database could be made. `__cause__` is the driver's error. It is always an outage.

    Drivers raise a plain OSError then, but so may a user's function that has talked to something else.
    """


class Database(Protocol):
    """A database as `SqlSink` uses it: it drives the steps of a transaction on a connection of its driver."""

    label: str
    """names the database in messages, without passwords"""
    dialect: Dialect
    max_lanes: int | None
    """how many lanes can work at the same time; None: any number"""
    marks_transactions: bool
    """whether each transaction begins with `begin_text`: with a mark, and with the savepoint of apply"""

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError if the driver can't call a function of this kind; the message says which database can."""

    async def open(self) -> None:
        """Check that the database can be reached. Calling it again changes nothing."""

    async def close(self) -> None:
        """Close the connections that this database has opened. Transactions that have begun end first.

        A later `run` opens connections again: several projections may share one database, and each closes it.
        """

    async def run(
        self,
        steps: Steps[T],
        *,
        lane: Hashable | None = None,
        writes: bool = True,
        timeout_s: float | None = None,
    ) -> T:
        """Drive the steps in one transaction, commit it, and return what the generator returns.

        If the generator or a step raises, roll back and raise the same error. `lane`: transactions of one lane use the
        same connection, if the driver has several; None is for short transactions without a `Call`. With
        `writes=False` the steps only read. `timeout_s`: the database should end the transaction if this process does
        nothing in it for this long (`idle_in_transaction_session_timeout` of PostgreSQL).

        Raises CommitUnknown if the connection was lost during the commit. A caller that is cancelled waits until the
        transaction has ended; then it can't tell whether the transaction was committed.
        """

    def is_outage(self, error: BaseException) -> bool:
        """Return what `Sink.is_outage` asks, for one error and not for its causes."""

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether a statement about a savepoint failed with this error because the savepoint is gone."""


def drive(steps: Steps[T], execute: Callable[[Sql], Result], tx: Any) -> T:
    """Drive steps with a plain connection: `execute` runs a statement, and `tx` is what user functions get."""
    try:
        step = next(steps)
        while True:
            try:
                if type(step) is Sql:
                    result = execute(step)
                else:
                    assert isinstance(step, Call)
                    refuse_awaitable(step.work(tx))
                    result = DONE
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as ended:
        value: T = ended.value
        return value


async def drive_async(steps: Steps[T], execute: Callable[[Sql], Awaitable[Result]], tx: Any) -> T:
    """Drive steps with an asynchronous connection, as `drive` does with a plain one."""
    try:
        step = next(steps)
        while True:
            try:
                if type(step) is Sql:
                    result = await execute(step)
                else:
                    assert isinstance(step, Call)
                    returned = step.work(tx)
                    if inspect.isawaitable(returned):
                        await returned
                    result = DONE
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as ended:
        value: T = ended.value
        return value


def refuse_awaitable(returned: object) -> None:
    """Raise TypeError if a function that was called in a thread returned an awaitable: nobody would await it."""
    if inspect.isawaitable(returned):
        if isinstance(returned, Coroutine):
            returned.close()
        raise TypeError(
            "apply returned an awaitable, but this database calls it in a thread: use a plain function, or a database "
            "with an asynchronous driver, such as eda.sql.SQLAlchemy"
        )


async def to_its_end(awaitable: Awaitable[T]) -> T:
    """Await to the end, also if the caller is cancelled in between; the cancellation is raised afterwards.

    A commit or a rollback that is cancelled halfway would leave a connection in an unknown state. If the caller is
    cancelled for a second time, the awaitable is cancelled as well: the database may never answer.
    """
    task = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            if cancelled is not None:
                task.cancel()
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # so that asyncio does not report that nobody looked at it
        raise cancelled
    return task.result()


@functools.lru_cache(maxsize=256)
def numbered(text: str) -> str:
    """Return a statement with the placeholders `$1`, `$2`, … of asyncpg."""
    first, *others = text.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))


@functools.lru_cache(maxsize=256)
def formatted(text: str) -> str:
    """Return a statement with the placeholders `%s` of psycopg."""
    return text.replace("?", "%s")
