"""conn.publish: the stored events, and their ids."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from helpers import Admin, Connect, Logged

pytestmark = pytest.mark.old_server


async def received(conn: eda.Conn, stream: str, n: int = 1) -> list[eda.Event]:
    """Return the first events of a stream."""
    queue: asyncio.Queue[eda.Event] = asyncio.Queue()
    async with conn.subscribe(stream, queue.put_nowait, backfill=True), asyncio.timeout(10):
        return [await queue.get() for _ in range(n)]


async def test_publish_when_no_id_is_given_makes_one_and_returns_it(conn: eda.Conn, stream: str, admin: Admin) -> None:
    sent = [(await conn.publish(stream, eda.Event(type="t"))).id for _ in range(3)]
    assert len(set(sent)) == 3
    assert all(len(each) == 22 and each.isalnum() for each in sent)
    assert await admin.ids(stream) == sent
    assert [event.id for event in await received(conn, stream, 3)] == sent


async def test_publish_when_an_id_is_given_uses_it(conn: eda.Conn, stream: str, admin: Admin) -> None:
    for id in ("x", "!~", "order-1/line:2", "i" * 128):
        assert (await conn.publish(stream, eda.Event(id=id))).id == id
    assert await admin.ids(stream) == ["x", "!~", "order-1/line:2", "i" * 128]


async def test_publish_when_the_event_is_none_publishes_an_empty_one(conn: eda.Conn, stream: str) -> None:
    before = time.time_ns()
    sent = [await conn.publish(stream), await conn.publish(stream, None)]
    for event, receipt in zip(await received(conn, stream, 2), sent, strict=True):
        assert (event.id, event.type, event.aggregate, event.meta) == (receipt.id, "", "", {})
        assert event.data.type == "nil"
        assert event.data.decode() is None
        assert before <= event.time_ns <= time.time_ns()


async def test_publish_when_the_id_was_stored_before_stores_it_once(conn: eda.Conn, stream: str, admin: Admin) -> None:
    first = eda.Event(id="same", type="a")
    assert (await conn.publish(stream, first)).id == "same"
    assert (await conn.publish(stream, first.replace(type="b"))).id == "same"
    await asyncio.gather(*(conn.publish(stream, first) for _ in range(50)))
    assert await admin.last_seq(stream) == 1
    assert (await received(conn, stream))[0].type == "a"


async def test_publish_when_fields_are_empty_fills_them_in_on_the_wire_only(conn: eda.Conn, stream: str) -> None:
    event = eda.Event(type="t", data=eda.JSON([1]))
    before, state = time.time_ns(), event.to_dict()
    await conn.publish(stream, event)
    got = (await received(conn, stream))[0]
    assert event.to_dict() == state
    assert (event.id, event.client, event.time_ns, event.stream, event.sequence) == ("", "", 0, "", 0)
    assert got.client == conn.client
    assert before <= got.time_ns <= time.time_ns()
    assert (got.stream, got.sequence, got.attempt) == (stream, 1, 1)
    assert abs(got.ack_time_ns - got.time_ns) < 5e9


async def test_publish_when_fields_are_set_keeps_them(conn: eda.Conn, stream: str) -> None:
    moment = datetime(1969, 7, 20, 20, 17, 40, 123456, tzinfo=UTC)
    event = eda.Event(
        id="id", type="landed", time=moment, schema="v1", cause="launch", client="houston", aggregate="eagle",
        meta={"crew": "2", "": "empty", "unicode": "é\n"}, data=eda.String("ok"), stream="elsewhere",
    )  # fmt: skip
    await conn.publish(stream, event)
    got = (await received(conn, stream))[0]
    for field in ("id", "type", "time", "schema", "cause", "client", "aggregate", "meta", "data"):
        assert getattr(got, field) == getattr(event, field), field
    assert got.stream == stream


async def test_publish_when_a_received_event_is_published_again_keeps_identity_and_times(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.publish(stream, eda.Event(type="t", client="first", data=eda.MsgPack({"a": 1})))
    got = (await received(conn, stream))[0]
    other = f"{stream}-copy"
    try:
        assert (await conn.publish(other, got)).id == got.id
        copy = (await received(conn, other))[0]
    finally:
        await admin.js.delete_stream(other)
    assert (copy.id, copy.time_ns, copy.ack_time_ns, copy.client) == (got.id, got.time_ns, got.ack_time_ns, "first")
    assert copy.data.decode() == {"a": 1}
    assert (copy.stream, got.stream) == (other, stream)


ENCODINGS: dict[str, tuple[eda.Data, Any]] = {
    "bytes": (eda.Bytes(b"\x00\xff\r\n"), b"\x00\xff\r\n"),
    "bytes, none": (eda.Bytes(b""), b""),
    "string": (eda.String("grüße\n\x00"), "grüße\n\x00"),
    "json": (eda.JSON({"a": [1, 2.5, None, True, "é"]}), {"a": [1, 2.5, None, True, "é"]}),
    "msgpack": (eda.MsgPack({"a": b"\x00", "b": [1]}), {"a": b"\x00", "b": [1]}),
    "nil": (eda.Data("nil"), None),
}


@pytest.mark.parametrize(("data", "value"), ENCODINGS.values(), ids=ENCODINGS)
async def test_data_when_published_comes_back(conn: eda.Conn, stream: str, data: eda.Data, value: Any) -> None:
    await conn.publish(stream, eda.Event(data=data))
    got = (await received(conn, stream))[0].data
    assert got.type == data.type
    assert got.decode() == value
    assert got.encode() == data.encode()


async def test_data_when_it_is_protobuf_comes_back(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(data=eda.Proto(StringValue(value="x"))))
    assert (await received(conn, stream))[0].data.decode(StringValue) == StringValue(value="x")


async def test_data_when_it_is_a_dataclass_comes_back_as_one(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(data=eda.JSON(Point(1, 2))))
    assert (await received(conn, stream))[0].data.decode(Point) == Point(1, 2)


@dataclasses.dataclass
class Point:
    x: int
    y: int


async def test_type_and_aggregate_when_they_hold_anything_come_back_and_name_the_subject(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    texts = ["", "_", "a.b", "*", ">", "a b", "%", "\r\n", "\x00", "é", "a" * 500, "PUB x 1\r\n"]
    for text in texts:
        await conn.publish(stream, eda.Event(type=text, aggregate=text[::-1]))
    got = await received(conn, stream, len(texts))
    assert [event.type for event in got] == texts
    assert [event.aggregate for event in got] == [text[::-1] for text in texts]
    assert (await admin.api(f"STREAM.INFO.{stream}"))["state"]["num_subjects"] == len(texts)


async def test_publish_when_ten_thousand_run_at_once_stores_each_once(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    sent = await asyncio.gather(*(conn.publish(stream, eda.Event(type="t")) for _ in range(10_000)))
    ids = [receipt.id for receipt in sent]
    assert len(set(ids)) == 10_000
    assert await admin.last_seq(stream) == 10_000
    assert await admin.ids(stream) == ids


async def test_publish_when_cancelled_leaves_the_rest_alone(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.publish(stream)
    tasks = [asyncio.create_task(conn.publish(stream)) for _ in range(1000)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
    ids = await admin.ids(stream)
    assert {each.id for each in results[1::2] if isinstance(each, eda.Receipt)} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert await conn.publish(stream)


async def test_publish_when_cancelled_at_once_while_the_stream_is_looked_up_does_no_harm(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    task = asyncio.create_task(conn.publish(stream))
    await asyncio.sleep(0)  # it has begun, and no server has answered yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await conn.publish(stream)


# --- streams that are not there --------------------------------------------------------------------------------------


async def test_publish_when_the_stream_is_missing_creates_it_with_the_defaults(connect: Connect, stream: str) -> None:
    defaults = eda.StreamOptions(max_events=1000, storage="memory", dedup_window_s=60)
    conn = await connect(stream_defaults=defaults)
    await conn.publish(stream)
    info = await conn.streams.info(stream)
    assert (info.options.max_events, info.options.storage, info.options.dedup_window_s) == (1000, "memory", 60)
    assert info.subjects == (stream, f"{stream}.>")


async def test_publish_when_the_stream_is_missing_and_not_wanted_raises_stream_not_found(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound) as caught:
        await conn.publish(stream)
    assert caught.value.stream == stream
    assert stream not in await admin.stream_names()


async def test_publish_when_the_stream_was_deleted_creates_it_again(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.publish(stream)
    for _ in range(5):
        await admin.js.delete_stream(stream)
        sent = await asyncio.wait_for(asyncio.gather(*(conn.publish(stream) for _ in range(50))), 10)
        assert sorted(await admin.ids(stream)) == sorted(receipt.id for receipt in sent)


async def test_publish_when_the_stream_was_deleted_and_is_not_wanted_raises_stream_not_found(
    connect: Connect, stream: str, admin: Admin
) -> None:
    creator, conn = await connect(), await connect(auto_create=False)
    await creator.publish(stream)
    await conn.publish(stream)
    await admin.js.delete_stream(stream)
    begin = time.monotonic()
    with pytest.raises(eda.StreamNotFound):
        await conn.publish(stream)
    assert time.monotonic() - begin < 5
    results = await asyncio.gather(*(conn.publish(stream) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, eda.StreamNotFound) for each in results)
    assert stream not in await admin.stream_names()


async def test_publish_when_two_clients_create_the_stream_at_once_both_succeed(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conns = [await connect() for _ in range(5)]
    await asyncio.gather(*(conn.publish(stream) for conn in conns))
    assert await admin.last_seq(stream) == 5
