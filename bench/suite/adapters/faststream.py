"""FastStream as its documentation has it: `broker.publish(stream=…)`, and pull and push subscribers of a stream."""

from __future__ import annotations

import asyncio
from typing import Any

from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig

from eda._nuid import next_nuid
from suite.work import (
    AT_ONCE,
    BATCH,
    Arrivals,
    Intake,
    Result,
    Task,
    ack_pending_of,
    at_once,
    envelope_of,
    main,
    one_by_one,
    open_loop,
    subject_of,
)  # fmt: skip

STOP_S = 10.0


def broker_of(task: Task) -> NatsBroker:
    return NatsBroker(task.url, logger=None, graceful_timeout=STOP_S)


async def publish(task: Task) -> Result:
    """It has no publish that does not wait for its acknowledgement: at volume it is many at once."""
    envelope = envelope_of(task.size)
    async with broker_of(task) as broker:
        await broker.start()

        async def one(n: int) -> None:
            await broker.publish(
                envelope,
                subject_of(task.stream, n),
                headers={"Nats-Msg-Id": next_nuid()},
                stream=task.stream,
                timeout=30,
            )

        return await (one_by_one if task.mode == "single" else at_once)(task, one)


def subscribe(broker: NatsBroker, task: Task, consumer: str, handler: Any, pull: PullSub | None) -> None:
    extra: dict[str, Any] = {"pull_sub": pull} if pull else {"pending_msgs_limit": -1, "pending_bytes_limit": -1}
    broker.subscriber(
        f"{task.stream}.>", stream=JStream(task.stream, declare=False), durable=consumer,
        config=ConsumerConfig(max_ack_pending=ack_pending_of(task.size)), **extra,
    )(handler)  # fmt: skip


async def consume(task: Task) -> Result:
    broker = broker_of(task)
    intake = Intake(task)

    async def handle(body: bytes) -> None:
        intake.add()

    for name in task.consumers:
        subscribe(broker, task, name, handle, PullSub(batch_size=BATCH, timeout=1.0) if task.mode == "pull" else None)
    await broker.start()
    result = await intake.done()
    await broker.stop()
    result.n_total = intake.n
    return result


async def latency(task: Task) -> Result:
    arrivals = Arrivals()
    envelope = envelope_of(task.size)
    out, into = broker_of(task), broker_of(task)

    async def handle(body: bytes) -> None:
        arrivals.add(body)

    # A pull waits until its batch is full; the documentation's default, push, is the one for latency.
    subscribe(into, task, task.consumers[0], handle, None)
    await into.start()
    await out.start()
    under_way: set[asyncio.Future[Any]] = set()

    async def send(n: int, data: bytes) -> None:
        while len(under_way) >= AT_ONCE:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        publishing = asyncio.ensure_future(
            out.publish(
                data[:8] + envelope[8:], subject_of(task.stream, n), headers={"Nats-Msg-Id": next_nuid()},
                stream=task.stream, timeout=30,
            )
        )  # fmt: skip
        under_way.add(publishing)
        publishing.add_done_callback(under_way.discard)

    async def flush() -> None:
        await asyncio.gather(*under_way)

    result = await open_loop(task, arrivals, send, flush)
    await out.stop()
    await into.stop()
    return result


if __name__ == "__main__":
    main(publish=publish, consume=consume, latency=latency)
