"""`eda views` as its users run it: a process of its own, against a real server and a real database."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.sql
from support.cli.commands import DEADLINE_S, run_eda
from support.cli.terminal import run_in_terminal

N_EVENTS = 1200

MODULE = """\
import asyncio
import os
import time

import eda
import eda.sql


def apply(events, tx):
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    if os.environ.get("BROKEN") and any(event.sequence in (3, 8) for event in events):
        raise eda.Reject("no such customer")
    tx.executemany("INSERT INTO orders_v2 VALUES (?, ?)", [(event.sequence, event.type) for event in events])


def order_list(conn):
    options = dict(into=eda.sql.SQLite("read.db"), name="order-list", version=2, batch=100)
    return conn.projection(["orders", "payments"], apply, **options)


async def later(conn):
    await asyncio.sleep(0)
    return order_list(conn)


def wrong(conn):
    return conn


def failing(conn):
    raise LookupError("no database")


not_a_function = 1
"""


@pytest.fixture
def conn(shop: eda.Conn) -> eda.Conn:
    return shop


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with the tables of both versions, beside the module of their projections."""
    (tmp_path / "shop_views.py").write_text(MODULE)
    path = tmp_path / "read.db"
    with closing(sqlite3.connect(path)) as db:
        for version in (1, 2):
            db.execute(f"CREATE TABLE orders_v{version} (sequence INTEGER, type TEXT)")
    return path


async def filled(conn: eda.Conn, n: int = N_EVENTS) -> None:
    """Publish events into both streams."""
    for stream in "orders", "payments":
        async with conn.publisher(stream) as publisher:
            await publisher.send_many(eda.Event(type="placed", aggregate=f"a-{number}") for number in range(n))


def version_1(conn: eda.Conn, database: Path) -> eda.Projection:
    return conn.projection("orders", lambda events, tx: None, into=eda.sql.SQLite(database), name="order-list")


async def caught_up(conn: eda.Conn, projection: eda.Projection, stream: str = "orders") -> None:
    last = (await conn.streams.info(stream)).last_sequence
    await projection.wait_for((stream, last, 0), timeout_s=DEADLINE_S)


def rows_of_version_2(database: Path) -> int:
    with closing(sqlite3.connect(database)) as db:
        (n,) = db.execute("SELECT count(*) FROM orders_v2").fetchone()
        return int(n)


def wait_for_rows(database: Path) -> None:
    """Return when the table of version 2 has rows."""
    deadline = time.monotonic() + DEADLINE_S
    while not rows_of_version_2(database):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def run(own_server: eda.EmbeddedServer, database: Path) -> Callable[..., Any]:
    """Return a function that runs `eda views` beside the database."""

    async def run_views(command: str, *arguments: str, columns: int = 100) -> tuple[int | None, str, str]:
        into = [] if command == "rebuild" else ["--into", f"sqlite:///{database}"]
        return await run_eda(
            *("views", command, *arguments, *into, "--addr", own_server.url), cwd=database.parent, columns=columns
        )

    return run_views


# --- ls --------------------------------------------------------------------------------------------------------------


async def test_ls_when_json_tells_positions_and_lags(conn: eda.Conn, database: Path, run: Callable[..., Any]) -> None:
    await filled(conn, 10)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
        code, out, err = await run("ls", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["updated"] is not None
    await conn.publish("orders", eda.Event(type="placed"))
    code, out, err = await run("ls", "order-list", "--json")
    assert (code, err) == (0, "")
    (found,) = [json.loads(line) for line in out.splitlines()]
    lag_s = found.pop("lag_s")
    assert 0 < lag_s < DEADLINE_S
    assert found.pop("streams") == [
        {
            "stream": "orders",
            "position": 10,
            "last": 11,
            "lag": 1,
            "lag_s": lag_s,
            "lanes": 1,
            "updated": None,
            "problem": None,
        }
    ]
    assert found == {"name": "order-list", "version": 1, "current": True, "updated": None, "lag": 1}


@pytest.mark.parametrize("columns", [80, 200])
async def test_ls_when_on_a_terminal_fits_into_it(
    conn: eda.Conn, database: Path, own_server: eda.EmbeddedServer, columns: int
) -> None:
    await filled(conn, 10)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
    await conn.streams.delete("payments")
    async with conn.projection(
        ["orders", "payments-of-a-stream-with-a-name-longer-than-usual"],
        lambda events, tx: None,
        into=eda.sql.SQLite(database),
        name="order-list",
        version=2,
    ) as second:
        await caught_up(conn, second)
    await conn.publish("orders", eda.Event(type="placed"))
    into = ["--into", f"sqlite:///{database}"]
    shown = await run_in_terminal("views", "ls", *into, "--addr", own_server.url, columns=columns)
    out = shown.text
    assert shown.code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert "1 (current)" in out
    assert "closed" in out
    assert out.count("orders") == (2 if columns == 200 else 1)
    assert "payments-of-a-stream-with-a-name-longer-than-usual" in out


async def test_ls_when_the_stream_is_gone_or_new_says_so(
    conn: eda.Conn, database: Path, run: Callable[..., Any]
) -> None:
    await filled(conn, 10)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
    await conn.streams.delete("orders")
    for problem in "the stream does not exist", "the stream was made again":
        code, out, _ = await run("ls", "--json")
        (stream,) = json.loads(out)["streams"]
        assert (code, stream["problem"], stream["lag"], stream["lag_s"]) == (0, problem, None, None)
        code, out, _ = await run("ls")
        assert (code, problem in " ".join(out.split())) == (0, True)
        await conn.publish("orders", eda.Event(type="placed"))


async def test_ls_when_nothing_is_there_says_so(run: Callable[..., Any], database: Path) -> None:
    assert await run("ls") == (0, "", "the database has no read models\n")
    assert await run("ls", "--json") == (0, "", "")
    assert await run("ls", "order-list") == (1, "", "Error: the database has no read model 'order-list'\n")
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'eda%'").fetchall() == []


@pytest.mark.parametrize("url", ["sqlite:///missing/read.db", "mysql://localhost/shop", "read.db"])
async def test_ls_when_the_database_can_not_be_used_ends_with_2(own_server: eda.EmbeddedServer, url: str) -> None:
    code, out, err = await run_eda("views", "ls", "--into", url, "--addr", own_server.url)
    assert (code, out, err.count("\n")) == (2, "", 1)


async def test_ls_when_the_file_does_not_exist_does_not_make_it(run: Callable[..., Any], database: Path) -> None:
    os.remove(database)
    code, out, err = await run("ls")
    assert (code, out, err) == (2, "", f"Error: the SQLite database {database} does not exist\n")
    assert await asyncio.to_thread(os.listdir, database.parent) == ["shop_views.py"]


# --- rebuild ---------------------------------------------------------------------------------------------------------


async def test_rebuild_when_caught_up_ends_and_promotes(
    conn: eda.Conn, database: Path, run: Callable[..., Any]
) -> None:
    await filled(conn)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
        code, out, err = await run("rebuild", "shop_views:order_list")
        assert (code, err) == (0, "")
        assert f"order-list v2 has caught up: {2 * N_EVENTS:,} events applied in " in out
        assert rows_of_version_2(database) == 2 * N_EVENTS
        _, out, _ = await run("ls", "--json")
        assert [json.loads(line)["current"] for line in out.splitlines()] == [True, False]
        code, out, err = await run("rebuild", "shop_views:later", "--promote")
        assert (code, err) == (0, "")
        assert "order-list v2 has caught up: 0 events applied in " in out
        assert "views of order-list now read version 2" in out
    _, out, _ = await run("ls", "--json")
    assert [json.loads(line)["current"] for line in out.splitlines()] == [False, True]
    assert rows_of_version_2(database) == 2 * N_EVENTS


async def test_rebuild_when_json_prints_lines(
    conn: eda.Conn, database: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(conn)
    monkeypatch.setenv("SLOW_S", "0.2")
    code, out, err = await run("rebuild", "shop_views:order_list", "--json", "--promote")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) > 1
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    for line in lines:
        assert set(line) == {
            *("name", "version", "applied", "dead_lettered", "position", "lag", "lag_s", "seconds", "done", "promoted")
        }
    assert lines[-1]["applied"] == lines[-1]["position"] == 2 * N_EVENTS
    assert (lines[-1]["name"], lines[-1]["version"], lines[-1]["lag"], lines[-1]["promoted"]) == (
        *("order-list", 2, 0, True),
    )


async def test_rebuild_when_events_fail_does_not_promote(
    conn: eda.Conn, database: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(conn, 10)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
    monkeypatch.setenv("BROKEN", "1")
    code, out, err = await run("rebuild", "shop_views:order_list", "--promote")
    assert code == 1
    assert "16 events applied" in out
    assert "; 4 events failed and became dead letters" in out
    assert "views of" not in out
    assert "Error: version 2 of 'order-list' is not promoted: 4 of its events failed and became dead letters." in err
    assert rows_of_version_2(database) == 16
    code, out, _ = await run("ls", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["current"], each["lag"]) for each in found] == [(True, 0), (False, 0)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("by", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_rebuild_when_stopped_is_continued_by_the_next(
    conn: eda.Conn,
    own_server: eda.EmbeddedServer,
    database: Path,
    run: Callable[..., Any],
    by: signal.Signals,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await filled(conn)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "views", "rebuild", "shop_views:order_list", "--addr", own_server.url),
        cwd=database.parent,
        env={**os.environ, "SLOW_S": "0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.to_thread(wait_for_rows, database)
        process.send_signal(by)
        _, err = await process.communicate()
    assert process.returncode == expected, err.decode()
    assert "Traceback" not in err.decode()
    assert 0 < rows_of_version_2(database) < 2 * N_EVENTS
    assert (await run("rebuild", "shop_views:order_list"))[0] == 0
    assert rows_of_version_2(database) == 2 * N_EVENTS


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("shop_views", "MODULE:FUNCTION"),
        ("no_such_module:order_list", "no_such_module"),
        ("shop_views:missing", "has no function 'missing'"),
        ("shop_views:not_a_function", "is not a function, but int"),
        ("shop_views:wrong", "must return what conn.projection(...) returns"),
        ("shop_views:failing", "LookupError: no database"),
    ],
)
async def test_rebuild_when_the_function_is_no_use_ends_with_2(
    run: Callable[..., Any], function: str, told: str
) -> None:
    code, out, err = await run("rebuild", function)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
@pytest.mark.parametrize("columns", [80, 200])
async def test_rebuild_when_on_a_terminal_shows_a_bar_that_fits(
    conn: eda.Conn, own_server: eda.EmbeddedServer, database: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    await filled(conn)
    monkeypatch.setenv("SLOW_S", "0.05")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "views", "rebuild", "shop_views:order_list", "--addr", own_server.url),
        cwd=database.parent,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""

    def read() -> None:
        nonlocal shown
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while part := terminal.read(4096):
                    shown += part
            except OSError:  # the process has closed its side
                pass

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(asyncio.to_thread(read), process.wait())
    assert process.returncode == 0
    lines = [
        eda_line for eda_line in map(without_codes, shown.decode().replace("\r", "\n").split("\n")) if eda_line.strip()
    ]
    assert any("order-list v2" in line and "/2,400" in line for line in lines), lines
    assert max(map(len, lines)) <= columns
    assert "has caught up" in lines[-1]


def without_codes(line: str) -> str:
    """Return a line of a terminal without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)


# --- promote ---------------------------------------------------------------------------------------------------------


async def test_promote_when_caught_up_switches_and_else_refuses(
    conn: eda.Conn, database: Path, run: Callable[..., Any]
) -> None:
    await filled(conn, 10)
    async with version_1(conn, database) as projection:
        await caught_up(conn, projection)
    assert (await run("rebuild", "shop_views:order_list"))[0] == 0
    code, out, err = await run("promote", "order-list", "3", "--yes")
    assert (code, out) == (1, "")
    assert err == "Error: 'order-list' has no version 3 in this database. It has: 1, 2\n"
    code, out, err = await run("promote", "order-list", "2")  # nobody answers the question
    assert (code, out) == (2, "")
    assert "instead of version 1?" in err
    await conn.publish("orders", eda.Event(type="placed"))
    code, out, err = await run("promote", "order-list", "2", "--yes", "--max-lag", "0")
    assert (code, out) == (1, "")
    assert "it is 1 event behind stream 'orders', and --max-lag allows 0" in err
    code, out, err = await run("promote", "order-list", "2", "--yes", "--json")
    assert (code, err) == (0, "")
    fields = json.loads(out)
    assert fields.pop("lag_s") > 0
    assert fields == {"name": "order-list", "version": 2, "previous": 1, "changed": True, "lag": 1}
    assert await run("promote", "order-list", "2") == (0, "views of order-list read version 2 already\n", "")
    code, out, err = await run("promote", "order-list", "1", "--yes")
    assert (code, out, err) == (0, "views of order-list now read version 1\n", "")
    await conn.streams.delete("payments")
    code, out, err = await run("promote", "order-list", "2", "--yes")
    assert (code, out) == (1, "")
    assert "the stream does not exist" in err


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
async def test_views_when_the_database_is_postgresql_lists_and_promotes(
    conn: eda.Conn, own_server: eda.EmbeddedServer, postgres: str, scheme: str
) -> None:
    into = postgres.replace("postgresql", scheme, 1)
    where = ("--into", into, "--addr", own_server.url)
    assert await run_eda("views", "ls", *where) == (0, "", "the database has no read models\n")
    await filled(conn, 10)
    for version in 1, 2:
        sink = eda.sql.Psycopg(postgres)
        async with conn.projection(
            "orders", lambda events, tx: None, into=sink, name="order-list", version=version, key="aggregate", lanes=3
        ) as projection:
            await caught_up(conn, projection)
            async with asyncio.timeout(DEADLINE_S):  # the rows of lanes without events follow a little later
                while min(row.sequence for row in await sink.rows("order-list", version, "orders")) < 10:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    code, out, err = await run_eda("views", "promote", "order-list", "2", "--yes", *where)
    assert (code, out, err) == (0, "views of order-list now read version 2\n", "")
    code, out, err = await run_eda("views", "ls", "order-list", "--json", *where)
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["version"], each["current"], each["lag"]) for each in found] == [(1, False, 0), (2, True, 0)]
    assert [each["streams"][0]["lanes"] for each in found] == [3, 3]


async def test_ls_when_postgresql_does_not_answer_or_refuses_ends_with_2(
    own_server: eda.EmbeddedServer, postgres: str
) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else comes
        taken.bind(("127.0.0.1", 0))
        nobody = f"postgresql://shop:very-secret@127.0.0.1:{taken.getsockname()[1]}/shop"
        refusing = re.sub(r"//([^:]+):[^@]+@", r"//\1:very-secret@", postgres)
        for url in nobody, refusing:
            code, out, err = await run_eda("views", "ls", "--into", url, "--addr", own_server.url)
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert "PostgreSQL" in err
            assert "very-secret" not in err
