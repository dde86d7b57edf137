"""What eda writes on consumers and streams, on real servers."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.jetstream.bucket import BUCKET_STREAM
from eda.jetstream.labels import CLIENT, KIND, SUBSCRIPTION, VERSION
from helpers import Admin, Connect, until

ODD = 'Zoë "\r\n\x00 ' + "x" * 500


async def label_of(admin: Admin, stream: str, consumer: str = "") -> dict[str, Any]:
    verb = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
    config = (await admin.api(verb))["config"]
    metadata = {key: value for key, value in config["metadata"].items() if key.startswith("eda-")}
    assert metadata.pop(VERSION)
    assert metadata.pop(KIND) in config["description"] or not consumer
    return metadata


@pytest.mark.old_server
@pytest.mark.parametrize("client", ["billing", ODD], ids=["plain", "odd"])
async def test_labels_when_a_subscription_opens_say_who_made_stream_and_consumer(
    connect: Connect, admin: Admin, stream: str, client: str
) -> None:
    conn = await connect(client=client)
    await conn.publish(stream, eda.Event(type="t"))
    stream_metadata = await label_of(admin, stream)
    shown = stream_metadata[CLIENT]
    assert shown == "billing" or shown.startswith('Zoë "\\r\\n\\x00 xxx')
    async with conn.subscribe(stream, print, name="team", durable=True, types=["t"]):
        config = (await admin.consumer(stream, "team"))["config"]
        assert config["description"] == f"eda: subscription 'team' of stream {stream!r}, made by {shown}"
        assert config["metadata"]["eda-filter"]
        assert config["metadata"][KIND] == "shared"
        assert config["metadata"][SUBSCRIPTION] == "team"
    async with conn.subscribe(stream, print, name="in-order", durable=True, serial=True) as sub:
        await until(lambda: sub.is_active)
        (reader,) = await until(lambda: readers(admin, stream))
        config = (await admin.consumer(stream, reader))["config"]
        assert config["description"].startswith(f"eda: reader of subscription 'in-order' of stream {stream!r}")
        assert (config["metadata"][KIND], config["metadata"][SUBSCRIPTION]) == ("reader", "in-order")


async def readers(admin: Admin, stream: str) -> list[str]:
    return [name for name in await admin.consumers(stream) if name.startswith("eda-r-")]


@pytest.mark.old_server
async def test_bucket_when_made_says_what_it_is(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        async with conn.subscribe("orders", print, name="n", durable=True, serial=True):
            pass
        assert conn._lifetime._services is not None
        config = (await conn._lifetime._services.api.request(f"STREAM.INFO.{BUCKET_STREAM}"))["config"]
        assert config["description"] == "eda: offsets of subscriptions, made by c"
        assert config["metadata"][KIND] == "bucket"


@pytest.mark.old_server
async def test_labels_when_another_client_comes_make_nothing_differ(
    connect: Connect, admin: Admin, stream: str
) -> None:
    first, second = await connect(client="first"), await connect(client="second")
    made = await first.streams.create(stream)
    assert await second.streams.create(stream) == made
    assert (await label_of(admin, stream))[CLIENT] == "first"
    with pytest.raises(eda.ServerError) as caught:
        await second.streams.create(stream, eda.StreamOptions(max_events=5))
    assert caught.value.err_code == 10058
    options: dict[str, Any] = {"name": "team", "durable": True}
    async with first.subscribe(stream, print, **options), second.subscribe(stream, print, **options):
        assert (await admin.consumer(stream, "team"))["config"]["metadata"][CLIENT] == "first"


@pytest.mark.old_server
async def test_stream_when_it_was_made_without_labels_is_the_same(connect: Connect, admin: Admin, stream: str) -> None:
    conn = await connect()
    made = await conn.streams.create(stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    for change in ({"description": "", "metadata": {}}, {"description": "ours", "metadata": {"team": "billing"}}):
        await admin.api(f"STREAM.UPDATE.{stream}", config | change)
        assert await conn.streams.create(stream) == made
        kept = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
        assert kept.get("description", "") == change["description"]


async def test_labels_when_a_stream_is_updated_stay(connect: Connect, admin: Admin, stream: str) -> None:
    conn = await connect(client="first")
    await conn.streams.create(stream)
    await (await connect(client="second")).streams.update(stream, eda.StreamOptions(max_events=7))
    assert (await label_of(admin, stream))[CLIENT] == "first"
