"""Publishing to a stream that can't take the event, or never answers: refused at once, with the reason."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eda
from helpers import Admin, Logged, until

EVENT = eda.Event(type="paid", aggregate="a")


async def with_publisher(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send(EVENT)


WAYS: dict[str, Callable[[eda.Conn, str], Awaitable[Any]]] = {
    "publish": lambda conn, stream: conn.publish(stream, EVENT),
    "publisher": with_publisher,
    "batch": lambda conn, stream: conn.publish_batch(stream, [EVENT]),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

# Setting of the stream > text of the refusal.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "elsewhere": ({"subjects": ["x-{stream}.>"]}, "listens to x-{stream}.>$"),
    "the name alone": ({"subjects": ["{stream}"]}, "listens to {stream}$"),
    "two tokens": ({"subjects": ["{stream}.*", "{stream}-b"]}, r"listens to {stream}.\*, {stream}-b$"),
    "four tokens": ({"subjects": ["{stream}.*.*.*"]}, "does not listen to {stream}.<type>.<aggregate>"),
    "another type": ({"subjects": ["{stream}.sent.*"]}, r"'{stream}.paid.a'; it listens to {stream}.sent.\*$"),
    "another aggregate": ({"subjects": ["{stream}.*.b"]}, r"'{stream}.paid.a'; it listens to {stream}.\*.b$"),
    "no acknowledgement": ({"subjects": ["{stream}.>"], "no_ack": True}, "no_ack"),
    "sealed": ({"subjects": ["{stream}.>"], "sealed": True}, "is sealed"),
}


@ways
@pytest.mark.parametrize(("settings", "says"), REFUSED.values(), ids=REFUSED)
async def test_event_when_the_stream_does_not_take_it_is_refused_at_once(
    conn: eda.Conn, stream: str, admin: Admin, way: Any, settings: dict[str, Any], says: str
) -> None:
    settings = settings | {"subjects": [each.format(stream=stream) for each in settings["subjects"]]}
    config = {"name": stream, "allow_atomic": True, "allow_batched": True, **settings}
    sealed = config.pop("sealed", False)
    await admin.api(f"STREAM.CREATE.{stream}", config)
    if sealed:
        made = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        await admin.api(f"STREAM.UPDATE.{stream}", made | {"sealed": True})
    began = time.monotonic()
    with pytest.raises(eda.ConfigError, match=says.format(stream=stream)) as caught:
        await way(conn, stream)
    assert time.monotonic() - began < 4
    assert stream in str(caught.value)
    assert await admin.last_seq(stream) == 0


@ways
async def test_event_when_the_stream_is_a_copy_is_refused_with_its_origin(
    conn: eda.Conn, stream: str, admin: Admin, way: Any
) -> None:
    await conn.streams.create(stream)
    mirror, sourced = f"{stream}-mirror", f"{stream}-sourced"
    try:
        await admin.api(f"STREAM.CREATE.{mirror}", {"name": mirror, "mirror": {"name": stream}})
        await admin.api(f"STREAM.CREATE.{sourced}", {"name": sourced, "sources": [{"name": stream}]})
        with pytest.raises(eda.ConfigError, match=f"mirror of stream '{stream}'"):
            await way(conn, mirror)
        with pytest.raises(eda.ConfigError, match=f"listens to no subject, and is filled from {stream}"):
            await way(conn, sourced)
    finally:
        for name in (mirror, sourced):
            await admin.js.delete_stream(name)


@ways
@pytest.mark.parametrize(
    "subjects",
    [f"{{stream}}.{rest}" for rest in (">", "*.>", "*.*", "paid.>", "paid.*", "*.a", "paid.a")],
)
async def test_event_when_the_stream_listens_to_its_subject_is_stored(
    conn: eda.Conn, stream: str, admin: Admin, way: Any, subjects: str
) -> None:
    config = {"name": stream, "subjects": [f"{stream}-other", subjects.format(stream=stream)]}
    await admin.api(f"STREAM.CREATE.{stream}", config | {"allow_atomic": True, "allow_batched": True})
    await way(conn, stream)
    assert await admin.last_seq(stream) == 1


@pytest.mark.parametrize("mode", ["fast", "window"])
async def test_publisher_when_the_stream_takes_one_type_only_refuses_the_others(
    conn: eda.Conn, stream: str, admin: Admin, mode: Any
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.paid.*"], "allow_batched": True}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    async with conn.publisher(stream, mode=mode) as publisher:
        for n in range(20):
            await publisher.send(EVENT)
            with pytest.raises(eda.ConfigError, match=f"{stream}.other{n}._"):
                await publisher.send(eda.Event(type=f"other{n}"))
    assert publisher.stats().acknowledged == 20
    assert await admin.last_seq(stream) == 20


async def test_publish_when_the_stream_is_sealed_or_made_silent_later_is_refused_at_once(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.publish(stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"sealed": True})
    began = time.monotonic()
    with pytest.raises(eda.ServerError, match="sealed"):
        await conn.publish(stream)
    assert time.monotonic() - began < 4


async def test_publish_when_an_event_is_over_the_streams_limit_is_refused_at_once(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"], "max_msg_size": 200})
    await conn.publish(stream, EVENT)
    began = time.monotonic()
    with pytest.raises(eda.ServerError, match="size exceeds") as caught:
        await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(500))))
    assert (caught.value.retryable, time.monotonic() - began < 4) == (False, True)


async def test_connect_when_no_server_answers_for_the_domain_names_it() -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "hub"}}) as server:
        began = time.monotonic()
        with pytest.raises(eda.NotSupported) as caught:
            await eda.connect(server.url, cluster="nowhere", connect_timeout_s=30)
        assert time.monotonic() - began < 5
    assert "'nowhere'" in str(caught.value)
    assert "'hub'" in str(caught.value)


async def test_replay_when_the_stream_does_not_take_the_event_is_refused_and_keeps_the_letter(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("handler rejected")
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"]})

    def handle(event: eda.Event) -> None:
        raise eda.Reject("no")

    try:
        await conn.publish(stream, EVENT)
        async with conn.subscribe(stream, handle, name="me", durable=True, backfill=True) as subscription:
            await until(lambda: subscription.stats().dead_lettered == 1)
        for subjects in ([f"{stream}.sent.*"], [f"other-{stream}.>"]):
            config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
            await admin.api(f"STREAM.UPDATE.{stream}", config | {"subjects": subjects})
            with pytest.raises(eda.ConfigError, match=f"listens to {subjects[0]}"):
                await conn.replay_dead(stream, "me")
        assert (await conn.streams.info(f"{stream}-dead")).events == 1
    finally:
        await admin.js.delete_stream(f"{stream}-dead")
