"""Members of a shared name in processes of their own: what one leaves behind, the others finish."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.dead_letters.letters import stored
from support.subscribing.members import Members

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")

SHORT_LEASE = {"eda.options.DEFAULT_LEASE_S": 1.0, "eda.subscribing.monitor.TICK_MAX_S": 0.2}


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


def sequences(members: Members, what: str) -> list[int]:
    return [line.sequence for line in members.lines() if line.what == what]


@pytest.mark.parametrize(("max_attempts", "concurrency", "n_kills"), [(1, 1, 2), (3, 1, 3), (2, 8, 3)])
async def test_event_when_it_kills_every_process_ends_as_a_dead_letter_and_no_other_does(
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    members: Members,
    max_attempts: int,
    concurrency: int,
    n_kills: int,
) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event() for _ in range(60)])
    options = {"name": "team", "durable": True, "backfill": True, "concurrency": concurrency, "prefetch": 1024}
    orders: dict[str, Any] = {"options": options, "retry": {"max_attempts": max_attempts}, "constants": SHORT_LEASE}

    def is_over() -> bool:
        """Return whether all others are handled and the event becomes a dead letter, which close waits for."""
        return len(set(sequences(members, "end"))) == 59 and bool(sequences(members, "storing"))

    # One process after the other, so that all that waits behind the event is delivered as often as it is.
    for name in "abcde":
        await members.start(name, **orders, kill_at=10, sleep_s=0.02)
        await until(lambda name=name: members.has_died(name) or is_over(), 30)
        if not members.has_died(name):
            await members.close(name)
            break
    assert sequences(members, "killed") == [10] * n_kills
    assert set(sequences(members, "end")) == set(range(1, 61)) - {10}
    (letter,) = await stored(admin, f"{stream}-dead")
    assert (letter.headers["Eda-Dead-Sequence"], letter.headers["Eda-Dead-Reason"]) == ("10", "attempts")
    assert letter.headers["Eda-Dead-Attempts"] == str(n_kills)
    await admin.js.delete_stream(f"{stream}-dead")
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{stream}.>"})
    assert not kept["state"].get("subjects"), "no record is left"
