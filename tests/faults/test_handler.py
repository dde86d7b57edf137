"""A handler that never returns, and one that does not let itself be cancelled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import eda
from eda._pack import place_of
from helpers import Logged, until
from support.faults.evidence import Journal, assert_each_handled, assert_key_order, assert_stored_once, read_stream
from support.faults.scene import KINDS, PACK, packed_too


@packed_too
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deaf", [False, True], ids=["cancellable", "deaf"])
async def test_handler_when_it_never_returns_comes_again_and_loses_nothing(
    own_server: eda.EmbeddedServer, tmp_path: Path, logged: Logged, kind: str, deaf: bool, packed: bool
) -> None:
    """Past timeout_s it is cancelled and the event comes again. One that swallows that keeps its worker, and only that.

    Others of the shared one and of other keys go on; serial waits.
    """
    logged.allow("handler", "cancel", "timed out", "event")
    journal = Journal(tmp_path / "journal")
    stuck: set[str] = set()

    async def handle(event: eda.Event) -> None:
        journal.note(kind, "begin", place_of(event))
        if event.id == "e09" and not stuck:
            stuck.add(event.id)
            until_s = time.monotonic() + (2 if deaf else 3600)
            while time.monotonic() < until_s:
                try:
                    await asyncio.sleep(until_s - time.monotonic())
                except asyncio.CancelledError:
                    if not deaf:
                        raise
        journal.note(kind, "end", place_of(event))

    events = [eda.Event(id=f"e{i:02}", type="t", aggregate=str(i % 7)) for i in range(60)]
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("stream", eda.StreamOptions(packed=packed))
        async with conn.publisher("stream", pack=PACK if packed else None) as publisher:
            await publisher.send_many(events)
        options = KINDS[kind] | {"timeout_s": 0.5, "retry": eda.Retry(initial_s=0.05)}
        async with conn.subscribe("stream", handle, name="me", **options):
            await until(lambda: stuck)
            if kind != "serial":
                await until(lambda: len(set(journal.events("end"))) >= 50, 10)
            await until(lambda: len(set(journal.events("end"))) == 60, 20)
        stored = await read_stream(own_server.url, "stream")
    assert_stored_once([event.id for event in events], stored)
    lines = journal.lines()
    assert_each_handled(lines, stored)
    if kind != "shared":
        if kind == "serial":
            stored = [each._replace(aggregate="") for each in stored]
        assert_key_order(lines, stored)
