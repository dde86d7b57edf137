"""nats-py as its documentation has it: `publish_async` and `publish_async_completed`, a push callback, `fetch`."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
from nats.js.api import ConsumerConfig

from eda._nuid import next_nuid
from suite.work import (
    AT_ONCE,
    BATCH,
    PENDING,
    Arrivals,
    Intake,
    Result,
    Task,
    ack_pending_of,
    envelope_of,
    main,
    offer,
    one_by_one,
    open_loop,
    subject_of,
)  # fmt: skip


async def publish(task: Task) -> Result:
    envelope = envelope_of(task.size)
    link = await nats.connect(task.url)
    js = link.jetstream(publish_async_max_pending=AT_ONCE if task.mode == "concurrent" else PENDING)

    def headers() -> dict[str, Any]:
        return {"Nats-Msg-Id": next_nuid()}

    if task.mode == "single":
        result = await one_by_one(task, lambda n: js.publish(subject_of(task.stream, n), envelope, headers=headers()))
    else:
        result = await offer(
            task,
            lambda n: js.publish_async(subject_of(task.stream, n), envelope, headers=headers()),
            js.publish_async_completed,
        )
    await link.close()
    return result


async def consume(task: Task) -> Result:
    link = await nats.connect(task.url)
    js = link.jetstream()
    intake = Intake(task)

    async def handle(msg: Any) -> None:
        if not intake.stopped:
            _ = msg.subject, msg.data
            await msg.ack()
            intake.add()

    max_ack_pending = 1 if task.mode == "one at a time" else ack_pending_of(task.size)
    fetching = []
    for name in task.consumers:
        config = ConsumerConfig(max_ack_pending=max_ack_pending)  # each its own: subscribing writes into it
        if task.mode == "fetch":
            sub = await js.pull_subscribe(f"{task.stream}.>", durable=name, config=config)
            fetching.append(asyncio.ensure_future(fetch(sub, handle, intake)))
        else:
            await js.subscribe(
                f"{task.stream}.>", durable=name, cb=handle, manual_ack=True, config=config, pending_msgs_limit=-1,
                pending_bytes_limit=-1,
            )  # fmt: skip
    result = await intake.done()
    await asyncio.gather(*fetching)
    await link.flush()
    result.n_total = intake.n
    await link.close()
    return result


async def fetch(sub: Any, handle: Any, intake: Intake) -> None:
    while not intake.stopped:
        for msg in await sub.fetch(BATCH):
            await handle(msg)


async def latency(task: Task) -> Result:
    arrivals = Arrivals()
    envelope = envelope_of(task.size)

    async def handle(msg: Any) -> None:
        arrivals.add(msg.data)
        await msg.ack()

    out, into = await nats.connect(task.url), await nats.connect(task.url)
    js = out.jetstream(publish_async_max_pending=PENDING)
    await into.jetstream().subscribe(
        f"{task.stream}.>", durable=task.consumers[0], cb=handle, manual_ack=True, pending_msgs_limit=-1,
        pending_bytes_limit=-1, config=ConsumerConfig(max_ack_pending=ack_pending_of(task.size)),
    )  # fmt: skip

    async def send(n: int, data: bytes) -> None:
        # Of the length of eda's message, with the time in front.
        body = data[:8] + envelope[8:]
        await js.publish_async(subject_of(task.stream, n), body, headers={"Nats-Msg-Id": next_nuid()})

    result = await open_loop(task, arrivals, send, js.publish_async_completed)
    await into.flush()
    await out.close()
    await into.close()
    return result


if __name__ == "__main__":
    main(publish=publish, consume=consume, latency=latency)
