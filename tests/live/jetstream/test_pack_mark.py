"""Streams that may have packs: the mark from their creation onwards, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.jetstream.pack_mark import check_packed
from eda.publishing.known_streams import KnownStreams
from helpers import Admin, Connect
from support.store.versions import on_able_servers

PACKED = eda.StreamOptions(packed=True)


def known_streams_of(conn: eda.Conn) -> KnownStreams:
    services = conn._lifetime._services
    assert services is not None
    return services.known_streams


async def edit(admin: Admin, stream: str, **changes: Any) -> None:
    """Change settings of a stream as other tools do."""
    config = dict((await admin.api(f"STREAM.INFO.{stream}"))["config"])
    await admin.api(f"STREAM.UPDATE.{stream}", config | changes)


async def metadata_of(admin: Admin, stream: str) -> dict[str, str]:
    return dict((await admin.api(f"STREAM.INFO.{stream}"))["config"]["metadata"])


async def test_create_when_packed_marks_the_stream(conn: eda.Conn, admin: Admin, stream: str) -> None:
    info = await conn.streams.create(stream, PACKED)
    assert info.options.packed
    check_packed(info)
    metadata = await metadata_of(admin, stream)
    assert (metadata["eda-packed"], metadata["eda-kind"]) == ("1", "stream")
    assert (await conn.streams.create(stream, PACKED)).created == info.created
    assert [each.options.packed for each in await conn.streams.list() if each.name == stream] == [True]


async def test_create_when_another_client_made_it_compares_the_mark(
    connect: Connect, conn: eda.Conn, stream: str
) -> None:
    other = await connect()
    await other.streams.create(stream, PACKED)
    assert (await conn.streams.create(stream, PACKED)).options.packed  # only the labels differ
    with pytest.raises(eda.ServerError) as caught:
        await conn.streams.create(stream)
    assert caught.value.err_code == 10058


async def test_create_when_the_existing_stream_is_not_packed_is_refused(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    with pytest.raises(eda.ServerError) as caught:
        await conn.streams.create(stream, PACKED)
    assert caught.value.err_code == 10058


async def test_stream_defaults_when_packed_create_packed_streams(connect: Connect, stream: str) -> None:
    conn = await connect(stream_defaults=PACKED)
    await conn.publish(stream, eda.Event(type="t"))
    assert (await conn.streams.info(stream)).options.packed


@pytest.mark.parametrize("change", [{"packed": True}, {"packed": True, "max_events": 5}], ids=str)
async def test_update_when_it_would_make_a_stream_packed_is_refused(
    conn: eda.Conn, admin: Admin, stream: str, change: Any
) -> None:
    await conn.streams.create(stream)
    with pytest.raises(eda.ConfigError, match=r"can't become packed.*Create a new stream") as caught:
        await conn.streams.update(stream, **change)
    assert caught.value.argument == "packed"
    with pytest.raises(eda.ConfigError, match="can't become packed"):
        await conn.streams.update(stream, PACKED)
    info = await conn.streams.update(stream, packed=False, max_events=10)
    assert (info.options.packed, info.options.max_events) == (False, 10)
    assert "eda-packed" not in await metadata_of(admin, stream)


async def test_update_when_the_stream_is_packed_keeps_the_mark(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream, PACKED)
    await edit(admin, stream, metadata=await metadata_of(admin, stream) | {"team": "billing"})
    with pytest.raises(eda.ConfigError, match="stays packed") as caught:
        await conn.streams.update(stream, packed=False)
    assert caught.value.argument == "packed"
    with pytest.raises(eda.ConfigError, match=r"stays packed.*StreamOptions\(packed=True, ...\)"):
        await conn.streams.update(stream, eda.StreamOptions(max_events=5))
    info = await conn.streams.update(stream, max_events=5)
    assert (info.options.packed, info.options.max_events) == (True, 5)
    info = await conn.streams.update(stream, eda.StreamOptions(packed=True, max_events=6))
    assert (info.options.packed, info.options.max_events) == (True, 6)
    metadata = await metadata_of(admin, stream)
    assert (metadata["eda-packed"], metadata["team"]) == ("1", "billing")


@on_able_servers
async def test_store_when_the_stream_is_packed_is_refused(
    conn: eda.Conn, connect: Connect, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream, PACKED)
    for changes in ({"store": True}, {"store": True, "packed": True}):
        with pytest.raises(eda.ConfigError, match="packed=True can't be combined with store=True"):
            await conn.streams.update(stream, **changes)
    with pytest.raises(eda.ConfigError, match="stays packed"):
        await conn.streams.update(stream, eda.StreamOptions(store=True))
    with pytest.raises(eda.ConfigError, match="can't hold an event store: it is packed"):
        await conn.store(stream)
    # Another program has set both marks: nobody can publish, and the mark of event stores can be removed.
    await edit(admin, stream, metadata=await metadata_of(admin, stream) | {"eda-store": "1"})
    with pytest.raises(eda.ConfigError, match="it is packed"):
        await conn.store(stream)
    with pytest.raises(eda.ConfigError, match="belongs to event stores"):
        check_packed(await conn.streams.info(stream))
    assert (await conn.streams.update(stream, store=False)).options.packed
    defaulting = await connect(stream_defaults=PACKED)
    with pytest.raises(eda.ConfigError, match="stream_defaults do not allow a stream for an event store") as caught:
        await defaulting.store(f"{stream}-other")
    assert caught.value.argument == "stream_defaults"


@on_able_servers
async def test_packed_when_the_stream_is_of_event_stores_is_refused(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    with pytest.raises(eda.ConfigError, match="can't become packed"):
        await conn.streams.update(stream, packed=True)
    with pytest.raises(eda.ConfigError, match="can't become packed"):
        await conn.streams.update(stream, PACKED)
    assert (await conn.streams.info(stream)).options.store


@pytest.mark.parametrize(
    ("settings", "argument", "named"),
    [
        ({"metadata": {}}, "pack", r"it is not packed.*StreamOptions\(packed=True\)"),
        ({"max_msgs_per_subject": 5}, "pack", "max_msgs_per_subject=5"),
        ({"subjects": ["{stream}.t.*"]}, "pack", "does not listen to all of"),
        ({"subjects": [], "sources": [{"name": "elsewhere"}]}, "stream", "takes no events"),
        ({"subjects": [], "mirror": {"name": "elsewhere"}}, "stream", "takes no events"),
        ({"no_ack": True}, "stream", "no_ack"),
    ],
    ids=lambda each: str(each)[:50],
)
async def test_packs_when_the_stream_cannot_take_them_are_refused_with_the_reason(
    conn: eda.Conn, admin: Admin, stream: str, settings: dict[str, Any], argument: str, named: str
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.>"], "metadata": {"eda-packed": "1"}} | settings
    config["subjects"] = [each.format(stream=stream) for each in config["subjects"]]
    await admin.api(f"STREAM.CREATE.{stream}", config)
    with pytest.raises(eda.ConfigError, match=named) as caught:
        check_packed(await conn.streams.info(stream))
    assert caught.value.argument == argument


@pytest.mark.parametrize("retention", ["limits", "interest", "workqueue"])
async def test_packs_when_another_tool_made_the_stream_need_only_the_mark(
    conn: eda.Conn, admin: Admin, stream: str, retention: str
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.>"], "metadata": {"eda-packed": "1"}, "retention": retention}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    check_packed(await conn.streams.info(stream))


@pytest.mark.parametrize("defaults", [eda.StreamOptions(), eda.StreamOptions(store=True), PACKED], ids=str)
async def test_packs_when_the_stream_is_missing_create_it_packed(
    connect: Connect, stream: str, defaults: eda.StreamOptions
) -> None:
    conn = await connect(stream_defaults=defaults)
    _, info, _ = await known_streams_of(conn).check(stream, 100, is_new_server=False, packed=True)
    assert (info.options.packed, info.options.store) == (True, False)
    assert (await conn.streams.info(stream)).options.packed


async def test_packs_when_the_stream_is_missing_and_may_not_be_created_are_refused(
    connect: Connect, stream: str
) -> None:
    conn = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await known_streams_of(conn).check(stream, 100, is_new_server=False, packed=True)


async def test_packs_when_the_stream_is_not_packed_are_refused_and_events_are_not(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="t"))
    known = known_streams_of(conn)
    _, info, _ = await known.check(stream, 100, is_new_server=False, packed=True)
    assert not info.options.packed
    with pytest.raises(eda.ConfigError, match="takes no packs: it is not packed") as caught:
        await conn.publisher(stream, pack=eda.Pack())
    assert caught.value.argument == "pack"
    await conn.publisher(stream)
