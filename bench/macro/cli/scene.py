"""What each command that connects is asked, and a server and a database that have something to answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import eda
import eda.sql

__all__ = ["CONNECTING", "make_spare", "scene"]

STREAM = "orders"

# By the name of a command: what it is asked. `{n}` is another number in each round.
CONNECTING = {
    "copy": ["copy", STREAM, "copies-{n}", "--create"],
    "dead drop": ["dead", "drop", "copies", "--all", "--yes"],
    "dead ls": ["dead", "ls", STREAM],
    "dead replay": ["dead", "replay", "copies", "billing"],
    "dead show": ["dead", "show", STREAM, "1"],
    "doctor": ["doctor", STREAM],
    "graph": ["graph", STREAM, "--dot"],
    "lag": ["lag", STREAM],
    "outbox relay": ["outbox", "relay", "--into", "{database}"],
    "pub": ["pub", STREAM, "1"],
    "replay": ["replay", STREAM, "--speed", "max"],
    "replay, into a stream": ["replay", STREAM, "--speed", "max", "--into", "copies", "--new-ids"],
    "store cat": ["store", "cat", "ledger", "a"],
    "streams create": ["streams", "create", "made-{n}"],
    "streams info": ["streams", "info", STREAM],
    "streams ls": ["streams", "ls"],
    "streams purge": ["streams", "purge", "copies", "--yes"],
    "streams rm": ["streams", "rm", "spare-{n}", "--yes"],
    "streams update": ["streams", "update", "copies", "--max-age", "{n}h", "--yes"],
    "subs info": ["subs", "info", STREAM, "billing"],
    "subs info, held": ["subs", "info", STREAM, "held"],
    "subs ls": ["subs", "ls", STREAM],
    "subs reset": ["subs", "reset", "spare-{n}", "billing", "--yes"],
    "subs rewind": ["subs", "rewind", STREAM, "billing", "--first", "--yes"],
    "subs rm": ["subs", "rm", "spare-{n}", "billing", "--yes"],
    "tail": ["tail", STREAM, "--from", "1"],
    "top": ["top", STREAM],
    "views ls": ["views", "ls", "--into", "{database}"],
    "views promote": ["views", "promote", "order_list", "1", "--into", "{database}", "--yes"],
    "views rebuild": ["views", "rebuild", "start_views:second", "--json"],
}

VIEWS = """
import eda
import eda.sql

def view(conn, version):
    into = eda.sql.from_url({database!r})
    return conn.projection("orders", lambda events, tx: None, into=into, name="order_list", version=version)

def first(conn):
    return view(conn, 1)

def second(conn):
    return view(conn, 2)
"""

# A member that holds a subscription, without a standby.
MEMBER = """
import asyncio, sys, eda

async def main():
    async with eda.connect() as conn, conn.subscribe("orders", lambda _: None, name="held", durable=True, serial=True):
        print("open", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def scene(server: eda.EmbeddedServer, environment: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """Fill the server and a database, open a subscription in another process, and return the commands' environment."""
    database = f"sqlite:///{folder / 'views.db'}"
    (folder / "start_views.py").write_text(VIEWS.format(database=database))
    path = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
    env = environment | {"EDA_URL": server.url, "EDA_BENCH_DATABASE": database, "PYTHONPATH": path}
    asyncio.run(_fill(server.url, database))
    rebuild = [sys.executable, "-m", "eda.cli", "views", "rebuild", "start_views:first", "--promote"]
    subprocess.run(rebuild, check=True, capture_output=True, env=env)
    with subprocess.Popen([sys.executable, "-c", MEMBER], stdout=subprocess.PIPE, env=env) as member:
        assert member.stdout is not None
        try:
            assert member.stdout.readline() == b"open\n"
            yield env
        finally:
            member.kill()


async def _fill(url: str, database: str) -> None:
    given_up = asyncio.Event()

    def refuse(event: eda.Event) -> None:
        if event.sequence == 10:
            given_up.set()
        raise eda.Reject("no")

    async with eda.connect(url) as conn:
        await conn.streams.create(STREAM)
        await conn.streams.create("copies")
        for _ in range(10):
            await conn.publish(STREAM, eda.Event(type="made"))
        async with conn.subscribe(STREAM, refuse, name="billing", durable=True, backfill=True):
            await given_up.wait()
        await conn.store("ledger").append("a", [eda.Event(type="opened")], expected="new")
    await eda.sql.Outbox(eda.sql.from_url(database)).create()


def make_spare(url: str, n: int) -> None:
    """Make a stream with a kept subscription, which one command may delete."""

    async def make() -> None:
        async with eda.connect(url) as conn:
            await conn.streams.create(f"spare-{n}")
            async with conn.subscribe(f"spare-{n}", lambda _: None, name="billing", durable=True):
                pass

    asyncio.run(make())
