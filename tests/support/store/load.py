"""The event store under load: members execute commands while a test does harm; then the evidence is examined.

What is proven is in evidence.py: versions without a gap or a repeat, each acknowledged command applied once, each
conflict real, nothing applied that was reported as refused, and all that was read equal to the contents.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import eda
from support.faults.scene import IS_LONG
from support.store.contents import read_contents
from support.store.evidence import assert_promise
from support.store.members import Members

__all__ = ["STREAM", "begin", "end", "kill_some", "make_stream"]

STREAM = "accounts"
# In the short form members ask again after 1 s without an answer; in the long form (0) as late as eda does. An election
# takes 4 to 9 s: after it, members that ask again late would only wait.
PATIENCE_S = 0.0 if IS_LONG else 1.0


async def make_stream(url: str | list[str], **options: Any) -> None:
    async with eda.connect(url) as conn:
        await conn.streams.create(STREAM, eda.StreamOptions(store=True, **options))


async def begin(members: Members, url: str | list[str], n: int = 16, **orders: Any) -> None:
    """Start members. Two of them have one stem: both execute the same commands, under the same command ids."""
    members.orders |= {"url": url, "patience_s": PATIENCE_S, **orders}
    for _ in range(2):
        members.start(stem="twin", seed=0, how=["execute"])
    for _ in range(n - 2):
        members.start()
    await members.until_open()


async def end(members: Members, url: str | list[str], *, has_batches: bool = True, **least: int) -> dict[str, int]:
    """Have all members close, and assert that the store kept its promise.

    `least`: for each kind of fault, how many requests must have been under way when such faults struck.
    """
    await members.close()
    counts = assert_promise(await read_contents(url, STREAM), members.attempts(), has_batches=has_batches)
    struck = {kind: members.n_struck(kind) for kind in least}
    assert all(struck[kind] >= n for kind, n in least.items()), f"struck {struck}, at least {least}"
    return counts | {f"struck by {kind}": n for kind, n in struck.items()}


async def kill_some(members: Members, chance: random.Random, n: int = 4) -> None:
    """Kill members, each at a random moment and if possible with a command under way. Others follow them."""
    for _ in range(n):
        members.replace(members.any(chance))
        await asyncio.sleep(chance.random() * 0.05)
