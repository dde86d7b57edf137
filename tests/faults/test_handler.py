"""A handler that never returns, and one that does not let itself be cancelled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import eda
from helpers import Logged, until
from support.faults.evidence import Journal, assert_each_handled, assert_key_order, assert_stored_once, read_stream
from support.faults.scene import KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deaf", [False, True], ids=["cancellable", "deaf"])
async def test_handler_when_it_never_returns_comes_again_and_loses_nothing(
    own_server: eda.EmbeddedServer, tmp_path: Path, logged: Logged, kind: str, deaf: bool
) -> None:
    """Past timeout_s it is cancelled and the event comes again. One that swallows that keeps its worker, and only that.

    Others of the shared one and of other keys go on; serial waits.
    """
    logged.allow("handler", "cancel", "timed out", "event")
    journal = Journal(tmp_path / "journal")
    stuck: set[int] = set()

    async def handle(event: eda.Event) -> None:
        journal.note(kind, "begin", event.sequence)
        if event.sequence == 10 and not stuck:
            stuck.add(event.sequence)
            until_s = time.monotonic() + (2 if deaf else 3600)
            while time.monotonic() < until_s:
                try:
                    await asyncio.sleep(until_s - time.monotonic())
                except asyncio.CancelledError:
                    if not deaf:
                        raise
        journal.note(kind, "end", event.sequence)

    async with eda.connect(own_server.url) as conn:
        ids = [(await conn.publish("stream", eda.Event(type="t", aggregate=str(i % 7)))).id for i in range(60)]
        options = KINDS[kind] | {"timeout_s": 0.5, "retry": eda.Retry(initial_s=0.05)}
        async with conn.subscribe("stream", handle, name="me", **options):
            await until(lambda: stuck)
            if kind != "serial":
                await until(lambda: len(set(journal.events("end"))) >= 50, 10)
            await until(lambda: len(set(journal.events("end"))) == 60, 20)
        stored = await read_stream(own_server.url, "stream")
    assert_stored_once(ids, stored)
    lines = journal.lines()
    assert_each_handled(lines, stored)
    if kind != "shared":
        if kind == "serial":
            stored = [each._replace(aggregate="") for each in stored]
        assert_key_order(lines, stored)
