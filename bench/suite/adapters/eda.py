"""eda as its README has it."""

from __future__ import annotations

import time
from typing import Any

import eda
from suite.work import (
    BATCH,
    PENDING,
    Arrivals,
    Intake,
    Meter,
    Result,
    Task,
    at_once,
    data_of,
    deadline,
    event_of,
    main,
    offer,
    one_by_one,
    open_loop,
)  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "serial": {"serial": True},
    "key": {"key": "aggregate", "concurrency": 16},
    "batch": {"batch": BATCH},
    "exclusive batch": {"batch": BATCH, "exclusive": True},
}


async def publish(task: Task) -> Result:
    data = data_of(task.size)
    async with eda.connect(task.url, client="bench", auto_create=False) as conn:
        if task.mode == "single":
            return await one_by_one(task, lambda n: conn.publish(task.stream, event_of(n, data)))
        if task.mode == "concurrent":
            return await at_once(task, lambda n: conn.publish(task.stream, event_of(n, data)))
        if task.mode == "atomic":
            return await in_batches(task, conn, data)
        async with conn.publisher(task.stream, mode=task.mode, max_pending=PENDING) as pub:  # type: ignore[arg-type]
            result = await offer(task, lambda n: pub.send(event_of(n, data)), pub.flush)
            stats = pub.stats()
            assert stats.acknowledged == result.n_total, stats
            result.mode = stats.mode
            return result


async def in_batches(task: Task, conn: eda.Conn, data: bytes) -> Result:
    size = max(1, min(BATCH, (1 << 20) // max(task.size, 1)))
    await conn.publish_batch(task.stream, [event_of(n, data) for n in range(size)])
    end = deadline(task)
    meter = Meter()
    n = 0
    while n < task.limit and time.monotonic() < end:
        n += len(await conn.publish_batch(task.stream, [event_of(i, data) for i in range(size)]))
    return meter.result(n, n + size, f"batches of {size}")


async def consume(task: Task) -> Result:
    options = OPTIONS[task.mode]
    async with eda.connect(task.url, client="bench", auto_create=False) as conn:
        intake = Intake(task)

        async def handle(event: eda.Event) -> None:
            _ = event.type, event.data
            intake.add()

        async def handle_batch(events: list[eda.Event]) -> None:
            for event in events:
                _ = event.type, event.data
            intake.add(len(events))

        handler = handle_batch if "batch" in options else handle
        subs = [
            await conn.subscribe(task.stream, handler, name=name, durable=True, backfill=True, **options)
            for name in task.consumers
        ]
        result = await intake.done()
        for sub in subs:
            await sub.close()
        result.n_total = sum(sub.stats().handled for sub in subs)
        assert result.n_total == intake.n, (result.n_total, intake.n)
        return result


async def latency(task: Task) -> Result:
    arrivals = Arrivals()

    async def handle(event: eda.Event) -> None:
        arrivals.add(event.data.decode())

    async with (
        eda.connect(task.url, client="out", auto_create=False) as out,
        eda.connect(task.url, client="in", auto_create=False) as into,
        into.subscribe(task.stream, handle, name=task.consumers[0], durable=True, backfill=True),
        out.publisher(task.stream) as pub,
    ):
        result = await open_loop(task, arrivals, lambda n, data: pub.send(event_of(n, data)), pub.flush)
        result.mode = pub.stats().mode
    return result


if __name__ == "__main__":
    main(publish=publish, consume=consume, latency=latency)
