"""The limit: a bare socket with bytes made beforehand, which looks at nothing but the acknowledgements."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import nats
from nats.js.api import AckPolicy, ConsumerConfig

import bare
import bare_reader
import replay
from eda._nuid import next_nuid
from suite.work import Result, Task, ack_pending_of, data_of, event_of, main

MAX_BYTES = 64 << 20
EVENTS_PER_S = 150_000
SINGLES_PER_S = 8_000


def server_of(task: Task) -> Any:
    url = urlsplit(task.url)
    return SimpleNamespace(port=url.port, token=url.username or "")


def events_of(n: int, size: int) -> list[Any]:
    data = data_of(size)
    return [event_of(i, data).replace(id=next_nuid(), client="bench", time=time.time_ns()) for i in range(n)]


async def publish(task: Task) -> Result:
    server = server_of(task)
    if task.mode == "single":
        n = min(task.limit, max(200, int(SINGLES_PER_S * task.seconds)))
        took = bare.publish_times_ns(server, task.stream, events_of(n, task.size))
        return Result(n, sum(took) / 1e9, n)
    n = min(task.limit, int(EVENTS_PER_S * task.seconds), MAX_BYTES // (task.size + 64))
    n = max(replay.FLOW, n - n % replay.FLOW)
    recording = replay.record(task.stream, events_of(n, task.size), fast=task.mode == "fast", dedup=True)
    return Result(n, replay.replay_s(server, recording), n, mode=task.mode)


async def consume(task: Task) -> Result:
    link = await nats.connect(task.url)
    await link.jetstream().add_consumer(
        task.stream,
        ConsumerConfig(
            durable_name=task.consumers[0], ack_policy=AckPolicy.EXPLICIT, max_ack_pending=ack_pending_of(task.size)
        ),
    )
    await link.close()
    took = bare_reader.read_s(server_of(task), task.stream, task.consumers[0], task.limit)
    return Result(task.limit, took, task.limit)


if __name__ == "__main__":
    main(publish=publish, consume=consume)
