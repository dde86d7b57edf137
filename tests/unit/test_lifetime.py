"""eda.lifetime: what it does when the connection is closed meanwhile."""

from __future__ import annotations

import asyncio

import eda


async def test_reconnect_when_the_connection_is_closed_before_it_is_looked_at_ends_without_an_error() -> None:
    lifetime = eda.connect("nats://127.0.0.1:4222", logger=None)._lifetime
    lifetime._on_restored()  # a connection that is not open has no services, as a closed one
    (task,) = lifetime._tasks
    await asyncio.wait([task])
    assert task.exception() is None
