"""Moves the position of a subscription in a process of its own, which may die at a step.

    python -m support.subscribing.mover <url> <stream> <name> <to> <kill at>

A step is the moment before or after a request of the move that changes something on the server. The process kills
itself at the step of that number, from 1. With 0 it lives, and prints how many steps there were.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import eda
import eda.cursors.moving
from eda.cursors.entry import CursorEntry
from eda.jetstream.api import Api
from eda.subscribing.kept import KeptSubscriptions

CHANGING = (
    (CursorEntry, "put"),
    (CursorEntry, "remove"),
    (CursorEntry, "ensure_bucket"),
    (Api, "delete_consumer"),
    (Api, "create_consumer"),
    (KeptSubscriptions, "_forget_suspects"),
)


class Steps:
    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.n = 0

    def step(self) -> None:
        self.n += 1
        if self.n == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = await method(*arguments, **options)
            self.step()
            return result

        return call


async def main(url: str, stream: str, name: str, to: str, kill_at: int) -> None:
    steps = Steps(kill_at)
    for owner, method in CHANGING:
        setattr(owner, method, steps.around(getattr(owner, method)))
    eda.cursors.moving.TAKEOVER_S = 0.3  # the holder has died long ago
    async with eda.connect(url, client="mover") as conn:
        await conn.move_subscription(stream, name, to=to, force=True)
    print(steps.n)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))  # type: ignore[call-arg]
