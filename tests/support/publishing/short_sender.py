"""A sender whose core takes events, without the rest of a publisher."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

import eda
from eda.publishing._sending import Sender
from eda.publishing.waiters import QueuedSender
from support.publishing.publisher_core import Rig

__all__ = ["Short", "ended"]


class Short(Sender):
    """A publisher that is open, with room, and notes what takes the long way."""

    def __init__(self) -> None:
        self.rig = Rig(max_pending=1000, wants_acks=False)
        self.rig.window()
        self.rig.core.timer_runs = True
        self._core = self.rig.core
        self._senders: deque[QueuedSender] = deque()
        self._closed = False
        self.slow: list[object] = []

    async def _send_slowly(self, event: eda.Event) -> str:
        self.slow.append(event)
        await asyncio.sleep(0)
        return f"slow {event.id}"


def ended(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing, and return its result."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value
