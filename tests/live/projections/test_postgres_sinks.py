"""The sinks in PostgreSQL when connections are lost, commits have no answer, and transactions conflict."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import eda.sql
from eda.projections import connection_pool, psycopg_driver, sqlalchemy_sink
from eda.projections.sink import ClaimLost, CommitUnknown, PositionRow
from eda.projections.sql_sink import SqlSink
from helpers import until
from support.projections.postgres import Postgres
from support.projections.sinks import KINDS, Kind, Place
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy, Way

NAME, STREAM, CREATED = "order-list", "orders", "2026-01-02T03:04:05.678901234Z"

IN_POSTGRES = [kind for kind in KINDS if kind.is_postgres]
# Those whose connections eda opens by itself.
OF_EDA = [kind for kind in IN_POSTGRES if not kind.name.startswith("sqlalchemy")]

of_eda = pytest.mark.parametrize("kind", OF_EDA, ids=lambda kind: kind.name)

INSERT = "INSERT INTO applied VALUES (1)"


@pytest.fixture(params=IN_POSTGRES, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:  # type: ignore[override]
    """A server that the tests kill and freeze. Each leaves it running."""
    if sys.platform == "win32":
        pytest.skip("PostgreSQL is started as on POSIX")
    with Postgres(settings={"deadlock_timeout": "50ms"}) as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    """An empty database with default settings, which must have no connections when the test ends."""
    yield server.url()
    server.empty("postgres")


@pytest.fixture
async def place(kind: Kind, url: str) -> AsyncIterator[Place]:
    async with opened(kind, url) as place:
        yield place


@pytest.fixture
async def sink(place: Place) -> SqlSink:
    sink = place.sink()
    await sink.open()
    await place.make_table()
    return sink


@asynccontextmanager
async def opened(kind: Kind, url: str) -> AsyncIterator[Place]:
    place = Place(kind, url)
    try:
        yield place
    finally:
        await place.close()


async def claimed(sink: SqlSink) -> PositionRow:
    seen = await sink.rows(NAME, 1, STREAM)
    rows = await sink.claim(NAME, 1, STREAM, seen=seen, created=CREATED, lanes=1)
    assert rows is not None
    return rows[0]


async def moved(sink: SqlSink, row: PositionRow, to: int, work: Any = None, timeout_s: float = 20.0) -> PositionRow:
    return await sink.move(NAME, 1, row, sequence=to, index=0, time=to * 10, work=work, timeout_s=timeout_s)


async def tried_again(sink: SqlSink, work: Callable[[], Any]) -> Any:
    """Do the work until it is no outage any more, as projections do."""
    end = time.monotonic() + 20
    while True:
        try:
            return await work()
        except Exception as error:
            if not sink.is_outage(error) or time.monotonic() > end:
                raise
        await asyncio.sleep(0.02)


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


# --- commits without an answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrives", [True, False], ids=["landed", "not landed"])
async def test_commit_when_its_answer_is_lost_is_unknown_until_find_tells(
    server: Postgres, kind: Kind, url: str, arrives: bool
) -> None:
    async with FaultyProxy(server.port, speaks_nats=False) as proxy:
        async with opened(kind, server.url(database_of(url), port=proxy.port)) as place:
            sink = place.sink()
            await sink.open()
            await place.make_table()
            row = await claimed(sink)

            def watch(way: Way, data: bytes) -> None:
                if way == UP and b"COMMIT" in data:
                    proxy.lost = {DOWN} if arrives else {UP}
                    if not arrives:
                        asyncio.get_running_loop().call_soon(proxy.cut)
                elif way == DOWN and DOWN in proxy.lost:
                    proxy.cut()

            def begin_to_watch(tx: Any) -> None:
                proxy.watch = watch

            with pytest.raises(CommitUnknown) as raised:
                await moved(sink, row, 5, place.work(INSERT, begin_to_watch))
            assert raised.value.__cause__ is not None
            proxy.watch = lambda way, data: None
            proxy.lost = set()
            found = await tried_again(sink, lambda: sink.find(NAME, 1, row))
            assert found.sequence == (5 if arrives else 0)
            assert await place.applied() == ([1] if arrives else [])


async def test_find_when_the_old_transaction_is_not_over_waits_for_it(sink: SqlSink, url: str) -> None:
    row = await claimed(sink)
    with psycopg.connect(url) as old:
        old.execute("UPDATE eda_positions SET sequence = 5")
        finding = asyncio.create_task(sink.find(NAME, 1, row))
        await asyncio.sleep(0.3)
        assert not finding.done()
        # Meanwhile others read, also on the same sink.
        assert await sink.rows(NAME, 1, STREAM) == [row]
        old.commit()
    found = await finding
    assert found is not None
    assert found.sequence == 5


async def test_commit_when_a_deferred_constraint_fails_is_the_events_failure(place: Place, sink: SqlSink) -> None:
    await place.run("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    row = await claimed(sink)
    with pytest.raises(Exception, match="duplicate key") as raised:
        await moved(sink, row, 5, place.work("INSERT INTO late VALUES (1), (1)"))
    assert not isinstance(raised.value, CommitUnknown)
    assert not sink.is_outage(raised.value)
    assert await sink.find(NAME, 1, row) == row
    assert (await moved(sink, row, 5, place.work("INSERT INTO late VALUES (1)"))).sequence == 5


# --- lost connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "raises"),
    [
        *((kind, "another") for kind in IN_POSTGRES),
        *((OF_EDA[0], raises) for raises in ("its error", "from none", "nothing")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_move_when_the_database_dies_in_apply_is_an_outage_whatever_apply_raises(
    server: Postgres, place: Place, sink: SqlSink, raises: str
) -> None:
    row = await claimed(sink)
    kind = place.kind

    async def lose(tx: Any) -> None:
        server.kill()
        try:
            returned: Any = kind.execute(tx, INSERT)
            if kind.is_async:
                await returned
        except Exception as error:
            complain(error)

    def lose_plainly(tx: Any) -> None:
        server.kill()
        try:
            kind.execute(tx, INSERT)
        except Exception as error:
            complain(error)

    def complain(error: Exception) -> None:
        if raises == "its error":
            raise error
        if raises == "another":
            raise ValueError("the order can't be stored")
        if raises == "from none":
            raise ValueError("the order can't be stored") from None

    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await moved(sink, row, 5, place.work(lose if kind.is_async else lose_plainly))
    finally:
        server.start()
    assert sink.is_outage(raised.value)
    assert not isinstance(raised.value, CommitUnknown)
    assert await tried_again(sink, lambda: sink.find(NAME, 1, row)) == row
    assert (await tried_again(sink, lambda: moved(sink, row, 5, place.work(INSERT)))).sequence == 5
    assert await tried_again(sink, place.applied) == [1]


async def test_methods_when_the_database_is_down_raise_outages(server: Postgres, place: Place, sink: SqlSink) -> None:
    row = await claimed(sink)
    server.kill()
    try:
        for call in (
            lambda: sink.rows(NAME, 1, STREAM),
            lambda: sink.find(NAME, 1, row),
            lambda: sink.touch(NAME, 1, [row]),
            lambda: moved(sink, row, 5, place.work(INSERT)),
            lambda: place.sink().open(),
        ):
            with pytest.raises(Exception) as raised:  # noqa: PT011
                await call()
            assert sink.is_outage(raised.value), repr(raised.value)
    finally:
        server.start()
    assert (await tried_again(sink, lambda: moved(sink, row, 5, place.work(INSERT)))).sequence == 5


@of_eda
async def test_connections_when_lost_while_nobody_uses_them_are_opened_again_at_once(
    server: Postgres, place: Place, sink: SqlSink
) -> None:
    row = await moved(sink, await claimed(sink), 5, place.work(INSERT))
    server.kill()
    server.start()
    assert await sink.rows(NAME, 1, STREAM) == [row]
    await sink.touch(NAME, 1, [row])
    assert (await moved(sink, row, 6, place.work("INSERT INTO applied VALUES (2)"))).sequence == 6


# psycopg under SQLAlchemy waits 5 s for the server's answer to each cancellation.
@pytest.mark.parametrize(
    "kind", [kind for kind in IN_POSTGRES if kind.name != "sqlalchemy-psycopg"], ids=lambda kind: kind.name
)
async def test_short_transaction_when_the_database_does_not_answer_is_an_outage(
    server: Postgres, place: Place, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connection_pool, sqlalchemy_sink):
        monkeypatch.setattr(module, "SHORT_S", 0.3)
        monkeypatch.setattr(module, "ROLLBACK_S", 0.3)
    monkeypatch.setattr(psycopg_driver, "CANCEL_S", 0.1)
    row = await claimed(sink)
    server.freeze()
    try:
        for call in (
            lambda: sink.rows(NAME, 1, STREAM),
            lambda: sink.touch(NAME, 1, [row]),
        ):
            with pytest.raises(Exception) as raised:  # noqa: PT011
                await call()
            assert sink.is_outage(raised.value), repr(raised.value)
    finally:
        server.thaw()
    monkeypatch.undo()
    assert [(each.lane, each.sequence) for each in await sink.rows(NAME, 1, STREAM)] == [(0, 0)]
    assert (await moved(sink, row, 5, place.work(INSERT))).sequence == 5


# --- members that freeze, and members that race ----------------------------------------------------------------------


async def test_move_when_apply_is_idle_for_the_timeout_loses_its_locks(place: Place, sink: SqlSink) -> None:
    await place.run("INSERT INTO applied VALUES (1)")
    row = await claimed(sink)
    has_lock, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def idle() -> None:
        has_lock.set()
        await loop.run_in_executor(None, goes_on.wait, 20)

    def idle_plainly(tx: Any) -> None:
        loop.call_soon_threadsafe(has_lock.set)
        goes_on.wait(20)

    lock = "UPDATE applied SET n = 2"
    frozen = asyncio.create_task(
        moved(
            sink, row, 5, place.work(lock, (lambda tx: idle()) if place.kind.is_async else idle_plainly), timeout_s=0.5
        )
    )
    await has_lock.wait()
    other = place.sink()
    taken = await claimed(other)
    assert (await moved(other, taken, 5, place.work("UPDATE applied SET n = 3"), timeout_s=20)).sequence == 5
    goes_on.set()
    with pytest.raises(Exception) as raised:  # noqa: PT011
        await frozen
    assert sink.is_outage(raised.value)
    assert await place.applied() == [3]
    with pytest.raises(ClaimLost):
        await tried_again(sink, lambda: moved(sink, row, 5, place.work(lock)))


@pytest.mark.parametrize("level", ["read committed", "serializable"])
async def test_members_when_they_race_apply_each_event_once(
    server: Postgres, place: Place, sink: SqlSink, url: str, level: str
) -> None:
    server.execute(f"ALTER DATABASE {database_of(url)} SET default_transaction_isolation = '{level}'")
    await claimed(sink)
    members = [place.sink() for _ in range(4)]

    async def member(sink: SqlSink) -> None:
        """Take over all the time, and apply the next event of whatever row is there."""
        (row,) = await sink.rows(NAME, 1, STREAM)
        while row.sequence < 20:
            try:
                claim = await sink.claim(NAME, 1, STREAM, seen=[row], created=CREATED, lanes=1)
                if claim is not None:
                    next_one = row.sequence + 1
                    await moved(sink, claim[0], next_one, place.work(f"INSERT INTO applied VALUES ({next_one})"))
            except Exception as error:
                if not isinstance(error, ClaimLost) and not sink.is_outage(error):
                    raise
            (row,) = await sink.rows(NAME, 1, STREAM)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(member, members))
    assert await place.applied() == list(range(1, 21))


async def test_move_when_two_transactions_can_not_be_serialized_is_an_outage_and_works_again(
    server: Postgres, place: Place, sink: SqlSink, url: str
) -> None:
    server.execute(f"ALTER DATABASE {database_of(url)} SET default_transaction_isolation = 'serializable'")
    row = await claimed(sink)
    read = "INSERT INTO applied SELECT count(*) + 1 FROM applied WHERE n < 100"
    # The sink has a connection of the old level, perhaps.
    await sink.close()
    with psycopg.connect(url) as other:

        def interfere(tx: Any) -> None:
            other.execute("SELECT count(*) FROM applied WHERE n < 100").fetchall()
            other.execute("INSERT INTO applied VALUES (50)")
            other.commit()

        with pytest.raises(Exception) as raised:  # noqa: PT011
            await moved(place.sink(), row, 5, place.work(read, interfere))
    assert sink.is_outage(raised.value)
    assert not isinstance(raised.value, CommitUnknown)
    assert (await moved(sink, row, 5, place.work(read))).sequence == 5
    assert await place.applied() == [2, 50]


async def test_move_when_transactions_wait_for_each_other_is_an_outage(place: Place, sink: SqlSink, url: str) -> None:
    await place.run("INSERT INTO applied VALUES (1), (2)")
    row = await claimed(sink)
    with psycopg.connect(url) as other:
        other.execute("SET deadlock_timeout = '60s'")  # so that the sink is the one that notices
        other.execute("UPDATE applied SET n = 20 WHERE n = 2")
        waiting = threading.Thread(target=lambda: other.execute("UPDATE applied SET n = 10 WHERE n = 1"))

        def begin_to_wait(tx: Any) -> None:
            waiting.start()

        update = "UPDATE applied SET n = {0}00 WHERE n = {0}"
        try:
            with pytest.raises(Exception) as raised:  # noqa: PT011
                await moved(
                    sink, row, 5, place.work(update.format(1), begin_to_wait, "SELECT pg_sleep(0.03)", update.format(2))
                )
        finally:
            waiting.join()
        assert sink.is_outage(raised.value)


# --- errors that apply swallows, and cancelled transactions ----------------------------------------------------------


async def test_move_when_apply_has_swallowed_an_error_of_the_database_says_so(place: Place, sink: SqlSink) -> None:
    row = await claimed(sink)
    kind = place.kind

    async def swallow(tx: Any) -> None:
        try:
            returned: Any = kind.execute(tx, "INSERT INTO missing VALUES (1)")
            if kind.is_async:
                await returned
        except Exception:
            return

    def swallow_plainly(tx: Any) -> None:
        try:
            kind.execute(tx, "INSERT INTO missing VALUES (1)")
        except Exception:
            return

    with pytest.raises(Exception, match="current transaction is aborted") as raised:
        await moved(sink, row, 5, place.work(INSERT, swallow if kind.is_async else swallow_plainly))
    assert "apply did not let its error rise" in raised.value.__notes__[0]
    assert not sink.is_outage(raised.value)
    assert await place.applied() == []
    assert (await moved(sink, row, 5, place.work(INSERT))).sequence == 5


async def test_move_when_cancelled_in_a_statement_ends_the_statement(
    server: Postgres, place: Place, sink: SqlSink, url: str
) -> None:
    row = await claimed(sink)
    moving = asyncio.create_task(moved(sink, row, 5, place.work(INSERT, "SELECT pg_sleep(60)")))

    def n_sleeping() -> int:
        return sum("pg_sleep" in text for _, state, text in server.connections(database_of(url)) if state == "active")

    await until(n_sleeping)
    began = time.monotonic()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert time.monotonic() - began < 15
    await until(lambda: not n_sleeping())
    assert await place.applied() == []
    assert (await moved(sink, row, 5, place.work(INSERT))).sequence == 5


# psycopg's asynchronous connections take 10 s of their own to give up, so they are left out.
of_eda_quickly = pytest.mark.parametrize(
    "kind", [kind for kind in OF_EDA if kind.name != "psycopg-async"], ids=lambda kind: kind.name
)


@of_eda_quickly
async def test_move_when_it_times_out_while_the_database_does_not_answer_ends_as_an_outage(
    server: Postgres, place: Place, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_pool, "ROLLBACK_S", 0.2)
    monkeypatch.setattr(psycopg_driver, "CANCEL_S", 0.2)
    row = await claimed(sink)

    async def move() -> None:
        async with asyncio.timeout(1):
            await moved(sink, row, 5, place.work(INSERT, "SELECT pg_sleep(0.5)"))

    moving = asyncio.create_task(move())
    await asyncio.sleep(0.25)
    server.freeze()
    try:
        _, still = await asyncio.wait((moving,), timeout=10)
        assert not still
    finally:
        server.thaw()
    with pytest.raises(TimeoutError) as raised:
        await moving
    assert sink.is_outage(raised.value)
    assert await sink.find(NAME, 1, row) == row
    assert await place.applied() == []


@of_eda
async def test_move_when_it_times_out_because_of_apply_is_no_outage(place: Place, sink: SqlSink) -> None:
    row = await claimed(sink)
    for slow in (
        "SELECT pg_sleep(20)",
        (lambda tx: asyncio.sleep(20)) if place.kind.is_async else lambda tx: time.sleep(1),
    ):
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.5):
                await moved(sink, row, 5, place.work(INSERT, slow))
        assert not sink.is_outage(raised.value), repr(raised.value.__cause__)
    assert (await moved(sink, row, 5, place.work(INSERT))).sequence == 5


async def test_move_when_a_plain_apply_is_cancelled_between_statements_commits_nothing(url: str) -> None:
    (kind,) = [kind for kind in OF_EDA if not kind.is_async]
    async with opened(kind, url) as place:
        sink = place.sink()
        await sink.open()
        await place.make_table()
        row = await claimed(sink)
        loop, has_begun, goes_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def compute(tx: Any) -> None:
            loop.call_soon_threadsafe(has_begun.set)
            goes_on.wait(20)

        moving = asyncio.create_task(moved(sink, row, 5, place.work(compute, INSERT)))
        await has_begun.wait()
        moving.cancel()
        await asyncio.sleep(0.1)
        assert not moving.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert await sink.find(NAME, 1, row) == row
        assert await place.applied() == []
        assert (await moved(sink, row, 5, place.work(INSERT))).sequence == 5


# --- connections and options -----------------------------------------------------------------------------------------


@of_eda
async def test_lanes_when_there_are_many_share_a_bounded_number_of_connections(
    server: Postgres, kind: Kind, url: str
) -> None:
    sink = (eda.sql.Asyncpg if kind.name == "asyncpg" else eda.sql.Psycopg)(url, max_connections=3)
    sink.check_apply(is_async=kind.is_async)
    await sink.open()
    rows = await sink.claim(NAME, 1, STREAM, seen=[], created=CREATED, lanes=12)
    assert rows is not None
    place = Place(kind, url)
    work = place.work("SELECT pg_sleep(0.01)")
    await asyncio.gather(*(moved(sink, row, n, work) for row in rows for n in [1]))
    found = server.connections(database_of(url))
    assert 3 < len(found) <= 5
    assert {name for name, _, _ in found} == {"eda"}
    await sink.close()


async def test_lanes_when_they_use_up_an_engines_pool_leave_connections_for_signs_of_life(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:", 1), pool_size=3, max_overflow=1)
    sink = eda.sql.SQLAlchemy(engine)
    await sink.open()
    rows = await sink.claim(NAME, 1, STREAM, seen=[], created=CREATED, lanes=6)
    assert rows is not None
    go_on = asyncio.Event()
    n_begun = 0

    async def work(tx: Any) -> None:
        nonlocal n_begun
        n_begun += 1
        await go_on.wait()

    moving = [asyncio.create_task(moved(sink, row, 1, work)) for row in rows]
    await until(lambda: n_begun == 2)
    async with asyncio.timeout(10):  # a pool without a free connection waits for 30 s
        await sink.touch(NAME, 1, rows)
        assert len(await sink.rows(NAME, 1, STREAM)) == 6
    assert n_begun == 2
    go_on.set()
    await asyncio.gather(*moving)
    await engine.dispose()


@of_eda
async def test_on_connect_when_given_prepares_each_connection_of_a_lane(kind: Kind, url: str) -> None:
    prepared: list[Any] = []

    async def prepare(connection: Any) -> None:
        prepared.append(connection)
        await connection.execute("SET work_mem = '5MB'")

    def prepare_plainly(connection: Any) -> None:
        prepared.append(connection)
        connection.execute("SET work_mem = '5MB'")

    make = eda.sql.Asyncpg if kind.name == "asyncpg" else eda.sql.Psycopg
    sink = make(url, on_connect=prepare if kind.is_async else prepare_plainly)
    sink.check_apply(is_async=kind.is_async)
    await sink.open()
    row = await claimed(sink)
    used: list[Any] = []
    row = await moved(sink, row, 1, Place(kind, url).work(used.append))
    await moved(sink, row, 2, Place(kind, url).work(used.append))
    assert [*prepared, *prepared] == used
    await sink.close()


@of_eda
async def test_statements_when_a_pooler_forgets_prepared_ones_work_with_the_option_for_it(kind: Kind, url: str) -> None:
    """Each transaction forgets all prepared statements, as if a pooler had given it another connection."""
    if kind.name == "asyncpg":
        sink: SqlSink = eda.sql.Asyncpg(url, statement_cache_size=0)
    else:
        sink = eda.sql.Psycopg(url, prepare_threshold=None)
    sink.check_apply(is_async=kind.is_async)
    await sink.open()
    row = await claimed(sink)
    work = Place(kind, url).work("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    for n in range(1, 12):
        row = await moved(sink, row, n, work)
    assert await sink.rows(NAME, 1, STREAM) == [row]
    await sink.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_psycopg_when_the_user_has_another_cursor_and_other_rows_reads_its_own(url: str, is_async: bool) -> None:
    cursor: Any = psycopg.AsyncRawCursor if is_async else psycopg.RawCursor
    sink = eda.sql.Psycopg(url, row_factory=psycopg.rows.dict_row, max_connections=1)
    if is_async:
        sink.check_apply(is_async=True)
    await sink.open()
    row = await claimed(sink)
    found: list[Any] = []

    async def read(tx: Any) -> None:
        tx.cursor_factory = cursor
        found.append(await (await tx.execute("SELECT $1::int AS n", (7,))).fetchone())

    def read_plainly(tx: Any) -> None:
        tx.cursor_factory = cursor
        found.append(tx.execute("SELECT $1::int AS n", (7,)).fetchone())

    for n in (1, 2):
        row = await moved(sink, row, n, read if is_async else read_plainly)
    assert found == [{"n": 7}, {"n": 7}]
    assert await sink.find(NAME, 1, row) == row
    await sink.close()


async def test_open_when_the_user_may_not_create_tables_works_if_they_exist(
    server: Postgres, place: Place, sink: SqlSink, url: str
) -> None:
    row = await claimed(sink)
    await sink.promote(NAME, 1)
    server.execute("CREATE ROLE reader LOGIN PASSWORD 'reads'")
    server.execute("GRANT SELECT ON eda_positions, eda_views TO reader")
    try:
        async with opened(place.kind, url.replace(f"{server.user}:{server.password}", "reader:reads")) as others:
            view = others.sink()
            await view.open()
            assert await view.rows(NAME, 1, STREAM) == [row]
            assert await view.current(NAME) == 1
    finally:
        server.execute("REVOKE ALL ON eda_positions, eda_views FROM reader")
        server.execute("DROP ROLE reader")


@of_eda
async def test_on_connect_when_it_fails_is_an_outage_because_no_event_has_caused_it(kind: Kind, url: str) -> None:
    async def fail(connection: Any) -> None:
        raise ValueError("no such type")

    def fail_plainly(connection: Any) -> None:
        raise ValueError("no such type")

    make = eda.sql.Asyncpg if kind.name == "asyncpg" else eda.sql.Psycopg
    sink = make(url, on_connect=fail if kind.is_async else fail_plainly)
    sink.check_apply(is_async=kind.is_async)
    await sink.open()
    row = await claimed(sink)
    with pytest.raises(Exception, match="on_connect has failed: ValueError") as raised:
        await moved(sink, row, 1, Place(kind, url).work("SELECT 1"))
    assert sink.is_outage(raised.value)
    await sink.close()


@pytest.mark.parametrize("name", ["Psycopg", "Asyncpg"])
@pytest.mark.parametrize(
    ("address", "options", "argument"),
    [
        (7, {}, "(conninfo|dsn)"),
        ("nonsense", {}, "(conninfo|dsn)"),
        ("postgresql://h/d", {"max_connections": 0}, "max_connections"),
        ("postgresql://h/d", {"max_connections": True}, "max_connections"),
        ("postgresql://h/d", {"on_connect": 7}, "on_connect"),
        ("postgresql://h/d", {"nonsense": 7}, "nonsense"),
    ],
    ids=str,
)
def test_sinks_when_an_argument_is_wrong_name_it(name: str, address: Any, options: Any, argument: str) -> None:
    with pytest.raises(eda.ConfigError, match=argument) as raised:
        getattr(eda.sql, name)(address, **options)
    assert raised.value.argument in argument.strip("()").split("|")


def test_psycopg_when_autocommit_is_asked_for_refuses_it() -> None:
    with pytest.raises(eda.ConfigError, match="the projection commits by itself"):
        eda.sql.Psycopg("postgresql://h/d", autocommit=True)


def test_psycopg_when_projections_have_functions_of_both_kinds_names_the_way_out() -> None:
    sink = eda.sql.Psycopg("postgresql://h/d")
    sink.check_apply(is_async=True)
    sink.check_apply(is_async=True)
    with pytest.raises(eda.ConfigError, match="make a sink for each of them"):
        sink.check_apply(is_async=False)
