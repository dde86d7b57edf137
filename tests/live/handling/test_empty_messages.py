"""Messages without a body: markers, events whose body a consumer leaves out, and what somebody stored empty."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import Admin, Logged, until
from support.dead_letters.letters import stored

SHARED: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": SHARED,
    "batch": SHARED | {"batch": 10},
    "private": {"backfill": True},
    "serial": SHARED | {"serial": True},
    "key": SHARED | {"key": "aggregate"},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Seen:
    """A handler of one event or several, and what it was given."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.data: list[Any] = []

    def __call__(self, given: Any) -> None:
        for event in given if isinstance(given, list) else [given]:
            self.ids.append(event.id)
            self.data.append(event.data.decode())


async def edit(admin: Admin, stream: str, consumer: str, **changes: Any) -> None:
    """Change a consumer as an operator would."""
    kept = (await admin.consumer(stream, consumer))["config"]
    body = {"stream_name": stream, "config": kept | changes, "action": "update"}
    await admin.api(f"CONSUMER.CREATE.{stream}.{consumer}", body)


async def reader_of(admin: Admin, stream: str) -> str:
    (name,) = [each for each in await admin.consumers(stream) if each != "probe"]
    return name


@every_kind
async def test_delete_marker_when_the_server_stores_one_is_passed_over(
    kind: dict[str, Any], conn: eda.Conn, stream: str, admin: Admin
) -> None:
    config = {
        "name": stream,
        "subjects": [stream, f"{stream}.>"],
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 1_000_000_000,
        "allow_rollup_hdrs": True,
    }
    await admin.api(f"STREAM.CREATE.{stream}", config)
    payload = encode_event(eda.Event(id="short", type="paid", data=eda.JSON(1)))
    await admin.js.publish(f"{stream}.paid.2", payload, headers={"Nats-TTL": "1s", "Nats-Msg-Id": "short"})
    seen = Seen()
    async with conn.subscribe(stream, seen, **kind) as subscription:
        await until(lambda: subscription.stats().passed_over == 1)
        await conn.publish(stream, eda.Event(id="after", data=eda.JSON(2)))
        await until(lambda: "after" in seen.ids)
        assert set(seen.ids) <= {"short", "after"}
        assert subscription.stats().undecodable == 0
    assert f"{stream}-dead" not in await admin.stream_names()
    if kind == SHARED:
        await until(lambda: settled(admin, stream))


async def settled(admin: Admin, stream: str) -> bool:
    info = await admin.consumer(stream, "me")
    return bool(info["num_ack_pending"] == 0 and info["num_pending"] == 0)


@every_kind
@pytest.mark.parametrize("headers", [{"Nats-Marker-Reason": "Purge"}, {"KV-Operation": "DEL"}], ids=["purge", "kv"])
async def test_marker_when_it_has_no_body_is_passed_over(
    kind: dict[str, Any], headers: dict[str, str], conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.publish(stream, eda.Event(id="one", data=eda.JSON(1)))
    await admin.client.publish(f"{stream}.x", b"", headers=headers)
    await admin.flush()
    await conn.publish(stream, eda.Event(id="two", data=eda.JSON(2)))
    seen = Seen()
    async with conn.subscribe(stream, seen, **kind) as subscription:
        await until(lambda: len(seen.ids) == 2)
        assert subscription.stats().passed_over == 1
    assert seen.ids == ["one", "two"]


@pytest.mark.old_server
@every_kind
async def test_message_when_somebody_stored_it_empty_is_a_dead_letter(
    kind: dict[str, Any], conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("no body")
    await conn.publish(stream, eda.Event(id="one", data=eda.JSON(1)))
    await admin.js.publish(f"{stream}.x", b"", headers={"Nats-Msg-Id": "empty"})
    await admin.js.publish(f"{stream}.x", b"")
    await conn.publish(stream, eda.Event(id="two", data=eda.JSON(2)))
    seen = Seen()
    async with conn.subscribe(stream, seen, **kind) as subscription:
        await until(lambda: len(seen.ids) == 2 and subscription.stats().dead_lettered == 2)
        assert subscription.stats().undecodable == 2
    assert seen.ids == ["one", "two"]
    letters = await stored(admin, f"{stream}-dead")
    assert [letter.headers["Eda-Dead-Sequence"] for letter in letters] == ["2", "3"]
    await admin.js.delete_stream(f"{stream}-dead")


@pytest.mark.old_server
@every_kind
async def test_event_when_the_consumer_leaves_its_body_out_is_handled_whole(
    kind: dict[str, Any], conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    await conn.publish(stream, eda.Event(id="0", data=eda.JSON(0)))
    seen = Seen()
    async with conn.subscribe(stream, seen, **kind) as subscription:
        await until(lambda: seen.ids == ["0"])
        await edit(admin, stream, await reader_of(admin, stream), headers_only=True)
        for n in range(1, 50):
            await conn.publish(stream, eda.Event(id=str(n), aggregate=str(n % 3), data=eda.JSON(n)))
        await until(lambda: len(seen.ids) == 50, 8)
        assert sorted(seen.data) == list(range(50))
        assert seen.ids.count("1") == 1
        assert (await admin.consumer(stream, await reader_of(admin, stream)))["config"].get("headers_only") is None
        assert subscription.stats().undecodable == subscription.stats().dead_lettered == 0
    if "name" in kind and not kind.get("serial") and not kind.get("key"):
        assert logged.find("headers_only=True.*False is needed")
        await until(lambda: settled(admin, stream))


async def test_event_when_two_members_share_a_stripping_consumer_is_handled_whole(
    connect: Any, stream: str, admin: Admin
) -> None:
    ours, theirs = await connect(), await connect()
    seen = Seen()
    async with ours.subscribe(stream, seen, **SHARED), theirs.subscribe(stream, seen, **SHARED):
        for round_ in range(3):
            await edit(admin, stream, "me", headers_only=True)
            await asyncio.gather(
                *(ours.publish(stream, eda.Event(id=f"{round_}-{n}", data=eda.JSON(n))) for n in range(100))
            )
            await until(lambda round_=round_: len(set(seen.ids)) == 100 * (round_ + 1), 10)
    assert sorted(seen.data) == sorted(list(range(100)) * 3)


async def test_event_when_an_operator_insists_on_stripping_it_is_handled_whole(
    connect: Any, stream: str, admin: Admin
) -> None:
    """Whoever looks may find a consumer that was changed back already, and is stripping again a moment later."""
    ours, theirs = await connect(), await connect()
    seen = Seen()

    stop = asyncio.Event()

    async def insist() -> None:
        while not stop.is_set():
            await edit(admin, stream, "me", headers_only=True)
            await asyncio.sleep(0.02)

    options = SHARED | {"prefetch": 20, "retry": eda.Retry(max_attempts=2)}
    async with ours.subscribe(stream, seen, **options) as one, theirs.subscribe(stream, seen, **options) as other:
        insisting = asyncio.create_task(insist())
        try:
            for n in range(200):
                await ours.publish(stream, eda.Event(id=str(n), data=eda.JSON(n)))
        finally:
            stop.set()  # not a cancellation: asyncio.wait_for of Python 3.11, which nats-py calls, may swallow it
            await insisting
        await until(lambda: len(set(seen.ids)) == 200, 20)
        for subscription in (one, other):
            assert (subscription.stats().undecodable, subscription.stats().dead_lettered) == (0, 0)
    assert sorted(set(seen.data)) == list(range(200))
    await until(lambda: settled(admin, stream))


@every_kind
async def test_message_when_it_was_stored_without_its_body_is_a_dead_letter(
    kind: dict[str, Any], conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    """What a stream republished with `headers_only` looks the same as what a consumer has stripped."""
    logged.expect("no body")
    for n in range(20):
        await admin.js.publish(f"{stream}.x", b"", headers={"Nats-Msg-Size": "17"}) if n else await conn.publish(
            stream, eda.Event(id="one", data=eda.JSON(1))
        )
    await conn.publish(stream, eda.Event(id="two", data=eda.JSON(2)))
    seen = Seen()
    async with conn.subscribe(stream, seen, **kind) as subscription:
        await until(lambda: len(seen.ids) == 2 and subscription.stats().dead_lettered == 19)
    assert seen.ids == ["one", "two"]
    await admin.js.delete_stream(f"{stream}-dead")
