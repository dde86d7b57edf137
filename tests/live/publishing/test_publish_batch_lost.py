"""conn.publish_batch when the answer is lost, and the stream then removes some or all of the events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
from helpers import Admin, Connect, until
from support.publishing.sent import ids_of
from support.transport.faulty_proxy import FaultyProxy

BATCH = [eda.Event(id=f"e{n}", type="t", aggregate=aggregate) for n, aggregate in enumerate("abc")]
IDS = [event.id for event in BATCH]


class Scene:
    """A connection whose batch answers are dropped by a proxy, and a connection without proxy."""

    def __init__(self, faulty: eda.Conn, plain: eda.Conn, admin: Admin, proxy: FaultyProxy, stream: str) -> None:
        self.faulty, self.plain, self.admin, self.proxy, self.stream = faulty, plain, admin, proxy, stream

    async def create(self, **settings: Any) -> None:
        fixed = {"subjects": [self.stream, f"{self.stream}.>"], "allow_direct": True, "allow_atomic": True}
        await self.admin.api(f"STREAM.CREATE.{self.stream}", {"name": self.stream, **fixed, **settings})
        await self.plain.publish(self.stream, eda.Event(id="old", type="t", aggregate="z"))

    async def lose(self, events: list[eda.Event], then: Callable[[], Awaitable[object]]) -> list[eda.Receipt]:
        """Publish a batch, lose its answer, and do something else before the next try."""
        n_before = self.proxy.n_dropped
        self.proxy.drop_if = lambda message: b'"batch":' in message or b'"err_code":10201' in message
        publishing = asyncio.create_task(self.faulty.publish_batch(self.stream, events))
        await until(lambda: self.proxy.n_dropped > n_before)
        await then()
        self.proxy.drop_if = None
        return await asyncio.wait_for(publishing, 20)


@pytest.fixture
async def scene(
    connect: Connect,
    server: eda.EmbeddedServer,
    conn: eda.Conn,
    admin: Admin,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.3)
    async with FaultyProxy(server.port) as proxy:
        faulty = await connect(proxy.url(server.url))
        yield Scene(faulty, conn, admin, proxy, stream)
        await faulty.close()


@pytest.mark.parametrize("replaced", [["c"], ["b", "c"], ["a", "c"], ["a", "b"]], ids="".join)
async def test_batch_when_some_of_its_events_were_replaced_is_stored(scene: Scene, replaced: list[str]) -> None:
    await scene.create(max_msgs_per_subject=1)

    async def replace() -> None:
        for aggregate in replaced:
            await scene.plain.publish(scene.stream, eda.Event(type="t", aggregate=aggregate))

    receipts = await scene.lose(BATCH, replace)
    assert receipts == [eda.Receipt(id, scene.stream, at, 0, False) for at, id in enumerate(IDS, 2)]


async def test_batch_when_its_own_events_replace_each_other_is_stored(scene: Scene) -> None:
    await scene.create(max_msgs_per_subject=1)
    events = [event.replace(aggregate="same") for event in BATCH]

    async def nothing() -> None:
        pass

    receipts = await scene.lose(events, nothing)
    assert (ids_of(receipts), [each.sequence for each in receipts]) == (IDS, [2, 3, 4])


async def test_batch_when_one_of_its_events_was_removed_is_stored(scene: Scene) -> None:
    await scene.create()
    receipts = await scene.lose(BATCH, lambda: scene.admin.js.delete_msg(scene.stream, 4))
    assert [each.sequence for each in receipts] == [2, 3, 4]


async def replace_all(scene: Scene) -> None:
    for event in BATCH:
        await scene.plain.publish(scene.stream, event.replace(id=f"again-{event.id}"))


async def delete_all(scene: Scene) -> None:
    for sequence in (2, 3, 4):
        await scene.admin.js.delete_msg(scene.stream, sequence)


async def purge_subjects(scene: Scene) -> None:
    for event in BATCH:
        subject = f"{scene.stream}.t.{event.aggregate}"
        await scene.admin.api(f"STREAM.PURGE.{scene.stream}", {"filter": subject})


async def expire(scene: Scene) -> None:
    config = (await scene.admin.api(f"STREAM.INFO.{scene.stream}"))["config"]
    config |= {"max_msgs": 1}
    await scene.admin.api(f"STREAM.UPDATE.{scene.stream}", config)
    await scene.plain.publish(scene.stream)


REMOVALS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "replaced": replace_all,
    "deleted": delete_all,
    "purged by subject": purge_subjects,
    "over the limit": expire,
}


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
async def test_batch_when_all_of_its_events_are_gone_is_not_called_refused(
    scene: Scene, remove: Callable[[Scene], Awaitable[None]]
) -> None:
    await scene.create(max_msgs_per_subject=1)
    began = time.monotonic()
    with pytest.raises(eda.Timeout) as caught:
        await scene.lose(BATCH, lambda: remove(scene))
    assert isinstance(caught.value.__cause__, eda.ServerError)
    assert caught.value.__cause__.err_code == 10201
    assert time.monotonic() - began < 10  # the outcome can't be found out, so the call does not wait


async def test_batch_when_events_from_before_were_removed_is_refused(scene: Scene) -> None:
    """The stream has gaps, but only from before the batch. So the batch is known not to be stored."""
    await scene.create()
    for n in range(10):
        await scene.plain.publish(scene.stream, eda.Event(id=f"before-{n}", type="t"))
    await scene.plain.publish(scene.stream, BATCH[1])
    for sequence in (3, 5, 6):
        await scene.admin.js.delete_msg(scene.stream, sequence)

    async def nothing() -> None:
        pass

    with pytest.raises(eda.ServerError) as caught:
        await scene.lose(BATCH, nothing)
    assert caught.value.err_code == 10201
    assert (await scene.plain.streams.info(scene.stream)).last_sequence == 12
