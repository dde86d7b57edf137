"""`eda outbox relay` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

import eda
import eda.sql
from support.cli.commands import run_eda, run_interrupted


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    outbox = eda.sql.Outbox(eda.sql.SQLite(path))
    await outbox.create()
    tx = sqlite3.connect(path)
    outbox.add_many(tx, "orders", [eda.Event(id=f"n{n}", type="placed") for n in range(20)])
    tx.commit()
    tx.close()
    return path


def rows_in(database: Path) -> int:
    tx = sqlite3.connect(database)
    ((count,),) = tx.execute("SELECT count(*) FROM eda_outbox")
    tx.close()
    return int(count)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("by", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_relay_when_stopped_has_published_the_rows_and_ends_in_order(
    database: Path, by: signal.Signals, expected: int
) -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url) as conn:
        await conn.streams.create("orders")
        code, out, err = await run_interrupted(
            conn, "outbox", "relay", "--into", f"sqlite:///{database}", "--addr", server.url, "--json", by=by
        )
        assert code == expected, err
        assert (await conn.streams.info("orders")).events == 20
    assert rows_in(database) == 0
    stats = [json.loads(line) for line in out.splitlines()]
    assert stats[-1]["acknowledged"] == 20
    assert set(stats[-1]) == {"sent", "acknowledged", "found", "refused", "dead", "waiting", "oldest_s", "active"}


async def test_relay_when_it_cannot_begin_says_so_in_one_line(database: Path, tmp_path: Path) -> None:
    async with eda.EmbeddedServer() as server:
        url = server.url
        wrong = {
            f"sqlite:///{tmp_path}/none.db": "does not exist",
            "mysql://user:secret@host/db": "must be",
            "postgresql://user:secret@127.0.0.1:1/db": "could not be reached",
        }
        ended = await asyncio.gather(*(run_eda("outbox", "relay", "--into", into, "--addr", url) for into in wrong))
    for (code, out, err), text in zip(ended, wrong.values(), strict=True):
        assert (code, out) == (2, "")
        assert text in err
        assert "secret" not in err
        assert "Traceback" not in err
    assert not (tmp_path / "none.db").exists()
