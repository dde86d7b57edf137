"""Nobody is fast by losing events: what a child says is compared with what the server says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import eda
from eda.cursors.entry import BUCKET_STREAM
from eda.cursors.value import decode_value
from suite.work import Result, Task

__all__ = ["WrongCount", "check"]

WAIT_S = 5.0
ORDERED = ("serial", "key", "exclusive batch")


class WrongCount(Exception):
    """The server has other counts than the contender."""


async def check(conn: eda.Conn, link: Any, task: Task, result: Result, adapter: str) -> None:
    """Raise WrongCount unless every event was stored, or acknowledged by each consumer, exactly as often as counted."""
    found = -1
    for _ in range(int(WAIT_S / 0.05)):
        found = await count(conn, link, task, adapter)
        if found == result.n_total:
            return
        await asyncio.sleep(0.05)
    what = "acknowledged" if task.consumers and task.workload == "consume" else "stored"
    raise WrongCount(f"it counted {result.n_total} events, and the server has {found} {what}")


async def count(conn: eda.Conn, link: Any, task: Task, adapter: str) -> int:
    if task.workload != "consume":
        return (await conn.streams.info(task.stream)).events
    if adapter == "eda" and task.mode in ORDERED:
        return sum([await kept_position(link, task.stream, name) for name in task.consumers])
    n = 0
    for name in task.consumers:
        info = await request(link, f"CONSUMER.INFO.{task.stream}.{name}")
        n += info["delivered"]["stream_seq"] - info["num_ack_pending"]
    return n


async def kept_position(link: Any, stream: str, name: str) -> int:
    """Return the sequence up to which an ordered subscription is done, as docs/wire.md has it."""
    found = await link.jetstream().get_last_msg(BUCKET_STREAM, f"$KV.eda-cursors.{stream}.{name}")
    return decode_value(found.data).seq


async def request(link: Any, subject: str) -> Any:
    answer = json.loads((await link.request(f"$JS.API.{subject}", timeout=5)).data)
    if "error" in answer:
        raise WrongCount(f"{subject}: {answer['error']['description']}")
    return answer
