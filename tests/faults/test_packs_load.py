"""Packs whose events fail, while connections are cut, the server is killed, and subscriptions close and open again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import eda
from helpers import Logged, until
from support.faults import scene as scenes
from support.faults.scene import PACK, Scene, scaled
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

Report = Callable[[Mapping[str, object]], None]


@pytest.fixture(autouse=True)
def retry(monkeypatch: pytest.MonkeyPatch, logged: Logged) -> eda.Retry:
    """A failed event is handled again after 10 ms."""
    logged.allow("handler failed")
    retry = eda.Retry(initial_s=0.01, factor=1)
    for kind in ("shared", "serial", "key"):
        monkeypatch.setitem(scenes.KINDS, kind, scenes.KINDS[kind] | {"retry": retry})
    return retry


async def test_load_when_events_fail_and_the_server_is_killed_and_connections_are_cut_loses_nothing(
    own_server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    tmp_path: Path,
    chance: random.Random,
    report: Report,
    retry: eda.Retry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failed event of a pack waits for its next attempt when the fault strikes. No event of its pack is lost.

    The shared one has `max_attempts`, so it records which events of the packs that are delivered again it begins.
    Duplicates: shared, up to its prefetch for each fault; ordered ones none.
    """
    limited = scenes.KINDS["shared"] | {"retry": replace(retry, max_attempts=20)}
    monkeypatch.setitem(scenes.KINDS, "shared", limited)
    n = scaled(10, 200)
    n_faults = 0
    async with Scene(
        proxy.url(own_server.url), tmp_path, reader_url=own_server.url, packed=True, fail_every=25
    ) as scene:
        for number in range(n):
            n_accepted = proxy.n_accepted
            kills = number % 5 == 4
            scene.harm(kills=kills)
            if kills:
                await own_server.kill()
                await own_server.start()
                proxy.target = own_server.port
            else:
                proxy.cut_after(chance.randrange(10_000), chance.choice((UP, DOWN)))
            await until(lambda was=n_accepted: proxy.n_accepted > was, 30)
            n_faults += 1
            scene.harm()
            await asyncio.sleep(chance.random() * 0.1)
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "faults": n_faults})
    assert scene.duplicates["shared"] <= scene.may_repeat(n_faults)
    assert {kind for kind, again in scene.duplicates.items() if again} <= {"shared"}


async def test_load_when_subscriptions_close_in_the_middle_of_packs_and_open_again_loses_nothing(
    own_server: eda.EmbeddedServer, tmp_path: Path, chance: random.Random, report: Report
) -> None:
    """A shared one handles the rest of its packs before it closes. An ordered one stores a place within the pack."""
    n = scaled(4, 60)
    async with Scene(own_server.url, tmp_path, packed=True, fail_every=25) as scene:
        for number in range(n):
            await scene.more(PACK.max_events)
            await asyncio.sleep(chance.random() * 0.05)
            for kind in scene.kinds:
                await scene.subscriptions[kind].close()
                await scene.subscribe(kind, member=f"{kind}-{number}")
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "times": n})
    # With a key, what was handled behind an event that waits for its next attempt is handled again.
    assert scene.duplicates.pop("key") <= scene.may_repeat(n)
    assert sum(scene.duplicates.values()) == 0
