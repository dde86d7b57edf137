"""Consumers and publishers in processes of their own that are killed at random moments."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import until
from processes import kill_at_random, spawn
from support.faults.evidence import (
    Journal,
    assert_each_handled,
    assert_key_order,
    assert_no_repeat_without_fault,
    assert_sent_in_order,
    assert_serial_order,
    assert_stored,
    assert_stored_once,
    n_duplicates,
    place_of_text,
    read_stream,
)
from support.faults.scene import KINDS, LISTS, PACK, packed_too, packed_too_if_long, scaled
from support.publishing.sent import MODES
from support.subscribing.members import QUICK, QUICK_LEASES, Members

Report = Callable[[Mapping[str, object]], None]
PUBLISHER = "support.publishing.process"
KILLED = KINDS | LISTS
# In every handler, so that 100 events take a third of a second: the process dies at work.
BUSY_S = {"serial": 0.003, "lists": 0.003, "shared": 0.012, "key": 0.02}
# For each kill: what was handled since the cursor was stored, at most every 5 ms.
MOST_AGAIN = {"shared": 200, "serial": 100, "lists": 100, "key": 200}


@packed_too
@pytest.mark.parametrize("kind", KILLED)
async def test_consumer_when_killed_again_and_again_handles_all_that_is_stored(
    own_server: eda.EmbeddedServer, tmp_path: Path, chance: random.Random, report: Report, kind: str, packed: bool
) -> None:
    """SIGKILL at a random moment, a new process each time, the same name.

    Duplicates: what had not been acknowledged, or was handled since the place was last stored: up to the prefetch for
    each kill. Within one process nothing is handled again after its acknowledgement. A pack that a shared subscription
    had handled in part is delivered again as a whole. An ordered one continues in the middle of it.
    """
    n = scaled(3, 50)
    members = Members(tmp_path / "journal", own_server.url, "stream")
    options = {key: value for key, value in KILLED[kind].items() if key != "prefetch"} | {
        "name": "team",
        "prefetch": 200,
    }
    orders: dict[str, Any] = {"options": options, "constants": QUICK | QUICK_LEASES, "sleep_s": BUSY_S[kind]}
    acknowledged: list[str] = []
    try:
        async with eda.connect(own_server.url) as conn:
            await conn.streams.create("stream", eda.StreamOptions(packed=packed))
            pack = PACK if packed else None
            for number in range(n):
                async with conn.publisher(
                    "stream", pack=pack, on_ack=lambda each, _: acknowledged.append(each)
                ) as publisher:
                    await publisher.send_many([eda.Event(type="t", aggregate=str(i % 20)) for i in range(100)])
                done = len(set(members.handled()))
                await members.start(f"m{number}", **orders)
                await members.until_handled(done + 1)
                await kill_at_random(members.process(f"m{number}"), chance, 0.3)
            await members.start("last", **orders)
            stored = await read_stream(own_server.url, "stream")
            await members.until_handled(len(stored), 60)
            await members.close("last")
    finally:
        members.end()
    lines = members.evidence()
    again = n_duplicates(lines)
    report({"handled again": again, "events": len(stored), "kills": n})
    assert_stored_once(acknowledged, stored)
    assert len(stored) == len(acknowledged) == 100 * n
    assert_each_handled(lines, stored)
    assert_no_repeat_without_fault(lines)
    if kind in {"serial", "lists"}:
        assert_serial_order(lines, stored)
    elif kind == "key":
        assert_key_order(lines, stored)
    assert again <= (MOST_AGAIN[kind] + (2 * PACK.max_events if kind == "shared" and packed else 0)) * n


@packed_too_if_long
@pytest.mark.parametrize("kind", KINDS)
async def test_consumer_when_killed_while_it_stores_a_dead_letter_loses_no_event(
    own_server: eda.EmbeddedServer, tmp_path: Path, kind: str, packed: bool
) -> None:
    """The payload of one event can't be decoded. SIGKILL before its dead letter is stored, during this, and after.

    The others of its pack are handled.
    """
    n, number = 100, 49
    # Packs of 30 events, each closed by its count.
    pack, misfit = (eda.Pack(max_events=30, linger_s=10), "2.19") if packed else (None, str(number + 1))
    members = Members(tmp_path / "journal", own_server.url, "stream")
    options = {key: value for key, value in KINDS[kind].items() if key != "prefetch"} | {"name": "team"}
    orders: dict[str, Any] = {"options": options, "constants": QUICK | QUICK_LEASES, "misfit": misfit}
    try:
        async with eda.connect(own_server.url) as conn:
            await conn.streams.create("stream", eda.StreamOptions(packed=packed))
            async with conn.publisher("stream", pack=pack) as publisher:
                await publisher.send_many([eda.Event(type="t", aggregate=str(i % 20)) for i in range(n)])
            stored = await read_stream(own_server.url, "stream")
            assert stored[number].place == place_of_text(misfit)
            for when in ("before", "during", "after"):
                await members.start(when, **orders, kill_storing=when)
                await until(lambda when=when: members.has_died(when), 20)
                assert members.times(when, "storing")
                if kind == "serial":
                    assert set(members.handled_places()) == {each.place for each in stored[:number]}
            await members.start("last", **orders)
            await members.until_handled(n - 1, 30)
            await members.close("last")
            letters = [event async for event in letters_of(conn, "stream-dead")]
    finally:
        members.end()
    assert_each_handled(members.evidence(), stored, but=[stored[number].place])
    assert [event.id for event in letters] == [stored[number].id]


async def letters_of(conn: eda.Conn, stream: str) -> AsyncIterator[eda.Event]:
    """Yield the events in a dead-letter stream."""
    n = (await conn.streams.info(stream)).events
    async with conn.events(stream, backfill=True) as events:
        for _ in range(n):
            yield await anext(events)


@packed_too
@pytest.mark.parametrize("mode", MODES)
async def test_publisher_when_its_process_is_killed_again_and_again_stores_each_event_once(
    own_server: eda.EmbeddedServer, tmp_path: Path, chance: random.Random, report: Report, mode: str, packed: bool
) -> None:
    """Each next one sends what is not known to be acknowledged, under the same ids: all are stored once, in order.

    With packs, all are stored at least once. Each next process begins its packs at other events, and the server
    compares the ids of packs, so an event that was stored and not known to be acknowledged is stored again.
    """
    n, n_events = scaled(3, 50), scaled(3_000, 20_000)
    journal = Journal(tmp_path / "journal")
    orders = {"url": own_server.url, "stream": "stream", "journal": str(journal.path), "n": n_events, "mode": mode}
    if packed:
        orders["pack"] = {"max_events": PACK.max_events, "linger_s": PACK.linger_s}
    for number in range(n):
        process = spawn(PUBLISHER, "EDA_TEST_PUBLISHER", orders, tmp_path / f"log-{number}")
        try:
            opened = number + 1
            await until(lambda opened=opened: len(journal.events("open")) >= opened, 20)
            await kill_at_random(process, chance, 0.1)
        finally:
            process.kill()
            process.wait()
    last = spawn(PUBLISHER, "EDA_TEST_PUBLISHER", orders, tmp_path / "log")
    try:
        await until(lambda: last.poll() is not None, 60)
    finally:
        last.kill()
        last.wait()
    assert last.returncode == 0, (tmp_path / "log").read_text()
    stored = await read_stream(own_server.url, "stream")
    sent = Counter(journal.events("sent"))
    ids = [each.id for each in stored]
    again = len(ids) - len(set(ids))
    report({"sent again": sum(sent.values()) - len(sent), "stored again": again, "events": len(stored), "kills": n})
    assert len(set(journal.events("acked"))) == n_events
    assert_stored(journal.events("acked"), stored)
    runs: dict[str, list[str]] = {}
    for line in journal.lines():
        if line.what == "sent":
            runs.setdefault(line.member, []).append(line.event)
    assert_sent_in_order(runs.values(), stored)
    if packed:
        assert max(each.n_beside for each in stored)
    else:
        assert_stored_once(journal.events("acked"), stored)
        assert ids == sorted(sent)
