"""A server that dies, freezes, or lies about the time, under load."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import eda
from helpers import until
from support.faults.scene import Scene, packed_too, scaled
from support.transport.faulty_proxy import FaultyProxy

Report = Callable[[Mapping[str, object]], None]


@packed_too
async def test_load_when_the_server_is_killed_and_restarted_loses_nothing(
    own_server: eda.EmbeddedServer, tmp_path: Path, chance: random.Random, report: Report, packed: bool
) -> None:
    """SIGKILL at random moments. The kernel keeps what the server wrote, so the stream is whole.

    Duplicates: shared, for each kill up to its prefetch and what the server had not written down; ordered ones none.
    """
    n = scaled(4, 50)
    async with Scene(own_server.url, tmp_path, packed=packed, compression="zstd") as scene:
        for _ in range(n):
            await scene.more(100)
            await asyncio.sleep(chance.random() * 0.1)
            scene.harm(kills=True)
            await own_server.kill()
            await own_server.start()
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "kills": n})
    assert scene.duplicates["shared"] <= scene.may_repeat(n)
    assert {kind for kind, again in scene.duplicates.items() if again} <= {"shared"}


@packed_too
async def test_load_when_the_server_is_stopped_for_longer_than_ack_wait_loses_nothing(
    own_server: eda.EmbeddedServer, tmp_path: Path, short_lease: float, report: Report, packed: bool
) -> None:
    """SIGSTOP: connections stand, nothing is answered, and when it wakes up all its leases are over.

    Duplicates: shared, up to its prefetch for each stop; ordered ones none.
    """
    n = scaled(1, 5)
    async with Scene(own_server.url, tmp_path, packed=packed) as scene:
        for _ in range(n):
            await scene.more(100)
            process = own_server.process
            assert process is not None
            scene.harm()
            process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(short_lease * 1.5)
            finally:
                process.send_signal(signal.SIGCONT)
            scene.harm()
        await scene.more(100)
    report(scene.duplicates | {"events": len(scene.stored), "stops": n})
    assert scene.duplicates["shared"] <= scene.may_repeat(n)


@packed_too
@pytest.mark.parametrize("hours", [-24, 24 * 365])
async def test_load_when_the_servers_clock_jumps_loses_nothing(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, tmp_path: Path, hours: int, report: Report, packed: bool
) -> None:
    """The time in the deliveries' reply subjects jumps back and forth; nothing is decided by it. Duplicates: none."""
    jump_ns = hours * 3600 * 10**9
    n_changed = 0

    def lie(message: bytes) -> bytes:
        nonlocal n_changed
        line, end, rest = message.partition(b"\r\n")
        words = line.split(b" ")
        for at, word in enumerate(words):
            tokens = word.split(b".")
            if word.startswith(b"$JS.ACK.stream.") and len(tokens) == 9:
                n_changed += 1
                if n_changed // 50 % 2:  # fifty by the true clock, fifty by the other one
                    tokens[7] = b"%d" % (int(tokens[7]) + jump_ns)
                    words[at] = b".".join(tokens)
        return b" ".join(words) + end + rest

    proxy.change = lie
    async with Scene(proxy.url(own_server.url), tmp_path, reader_url=own_server.url, packed=packed) as scene:
        await scene.more(scaled(400, 5000))
        await until(lambda: n_changed > 1000, 60)
    report(scene.duplicates | {"events": len(scene.stored), "changed": n_changed})
    assert n_changed > 1000
    assert sum(scene.duplicates.values()) == 0
