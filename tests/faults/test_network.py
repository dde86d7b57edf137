"""A network that cuts, delays, throttles, holds, drops and crumbles what passes, under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import eda
from helpers import until
from support.faults import scene as scenes
from support.faults.scene import Scene, packed_too, scaled
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

Report = Callable[[Mapping[str, object]], None]


@packed_too
async def test_load_when_connections_are_cut_at_random_bytes_loses_nothing(
    own_server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    tmp_path: Path,
    chance: random.Random,
    report: Report,
    packed: bool,
) -> None:
    """Cut after so many bytes, in either direction, in the middle of a frame if it comes so.

    Duplicates: shared, up to its prefetch for each cut; ordered ones none.
    """
    n = scaled(30, 500)
    async with Scene(proxy.url(own_server.url), tmp_path, reader_url=own_server.url, packed=packed) as scene:
        for _ in range(n):
            # On a busy machine a handshake may fail by itself, so a new connection alone is no sign of a cut.
            n_cut, n_accepted = proxy.n_cut, proxy.n_accepted
            scene.harm()
            proxy.cut_after(chance.randrange(20_000), chance.choice((UP, DOWN)))
            await until(lambda cut=n_cut, was=n_accepted: proxy.n_cut > cut and proxy.n_accepted > was, 30)
            scene.harm()
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "cuts": proxy.n_cut})
    assert proxy.n_cut >= n
    assert scene.duplicates["shared"] <= scene.may_repeat(n)
    assert {kind for kind, again in scene.duplicates.items() if again} <= {"shared"}


@packed_too
async def test_load_when_every_byte_comes_alone_loses_nothing(
    own_server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    tmp_path: Path,
    report: Report,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte is a packet of its own, both ways. Duplicates: none."""
    monkeypatch.setattr(scenes, "BURSTS", (1, 7, 23))  # larger ones would take longer than the lease on a busy machine
    proxy.one_byte = True
    scene = Scene(proxy.url(own_server.url), tmp_path, reader_url=own_server.url, pause_s=0.05, packed=packed)
    async with scene:
        await scene.more(scaled(30, 500), 120)
    report(scene.duplicates | {"events": len(scene.stored), "bytes": proxy.n_bytes[DOWN]})
    assert sum(scene.duplicates.values()) == 0


@packed_too
async def test_load_when_the_network_is_slow_held_and_lossy_by_turns_loses_nothing(
    own_server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    tmp_path: Path,
    chance: random.Random,
    report: Report,
    packed: bool,
) -> None:
    """Delayed, throttled, held, one direction lost, cut. Duplicates: shared, its prefetch for each cut and hold."""
    n = scaled(1, 10)
    async with Scene(proxy.url(own_server.url), tmp_path, reader_url=own_server.url, packed=packed) as scene:
        for _ in range(n):
            scene.harm()
            proxy.delay_s = 0.02
            await scene.more(50)
            proxy.delay_s = 0
            proxy.rate = 200_000
            await scene.more(50)
            proxy.rate = None
            proxy.hold()
            await asyncio.sleep(chance.random())
            proxy.release()
            for way in (UP, DOWN):
                await scene.more(50)
                scene.harm()
                proxy.lost = {way}
                await asyncio.sleep(0.2)
                # What is lost leaves both ends in the middle of a frame: nothing but a new connection helps.
                proxy.cut()
                proxy.lost = set()
                scene.harm()
        await scene.more(50)
    report(scene.duplicates | {"events": len(scene.stored), "turns": n})
    assert scene.duplicates["shared"] <= scene.may_repeat(3 * n)
