"""Streams that belong to event stores: which streams can be marked, and what the mark refuses of their settings."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda._codec import encode_event
from eda.jetstream import streams
from helpers import Admin, Connect
from support.packs import publish_pack
from support.store.versions import on_able_servers, on_old_servers

MARKED = eda.StreamOptions(store=True)


async def append(admin: Admin, stream: str, version: int, *, aggregate: str = "a", subject: str = "") -> None:
    """Store an event as an event store does; with version 0 as any other publish does."""
    event = eda.Event(type="t", aggregate=aggregate)
    await admin.js.publish(
        subject or f"{stream}.t.{aggregate}", encode_event(event, f"{aggregate}{version}", version=version)
    )


async def refused(conn: eda.Conn, stream: str, **changes: Any) -> eda.ConfigError:
    """Return the error of an update that is refused and changes nothing."""
    before = await conn.streams.info(stream)
    with pytest.raises(eda.ConfigError) as caught:
        await conn.streams.update(stream, **changes)
    assert (await conn.streams.info(stream)).options == before.options
    return caught.value


async def config_of(admin: Admin, stream: str) -> dict[str, Any]:
    return dict((await admin.api(f"STREAM.INFO.{stream}"))["config"])


@on_old_servers
async def test_store_when_the_server_is_too_old_is_not_supported(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.NotSupported, match=r"the event store is not supported: needs nats-server 2\.11"):
        await conn.streams.create(stream, MARKED)
    await conn.streams.create(stream)
    with pytest.raises(eda.NotSupported, match="event store"):
        await conn.streams.update(stream, store=True)
    await conn.streams.update(stream, store=False)


@on_able_servers
async def test_create_when_for_a_store_marks_the_stream(conn: eda.Conn, admin: Admin, stream: str) -> None:
    info = await conn.streams.create(stream, MARKED)
    assert info.options.store
    assert info.allow_msg_ttl
    assert info.allow_direct
    config = await config_of(admin, stream)
    assert config["metadata"]["eda-store"] == "1"
    assert config["metadata"]["eda-kind"] == "stream"
    assert (await conn.streams.create(stream, MARKED)).created == info.created
    assert [each.options.store for each in await conn.streams.list() if each.name == stream] == [True]


@on_able_servers
async def test_create_when_another_client_made_it_compares_the_mark(
    connect: Connect, conn: eda.Conn, stream: str
) -> None:
    other = await connect()
    await other.streams.create(stream, MARKED)
    assert (await conn.streams.create(stream, MARKED)).options.store  # only the labels differ
    with pytest.raises(eda.ServerError) as caught:
        await conn.streams.create(stream)
    assert caught.value.err_code == 10058
    await other.streams.update(stream, store=False)
    assert not (await other.streams.info(stream)).options.store
    with pytest.raises(eda.ServerError):
        await conn.streams.create(stream, MARKED)


@on_able_servers
async def test_update_when_the_stream_is_empty_marks_it_and_keeps_foreign_metadata(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    config = await config_of(admin, stream)
    config["metadata"]["team"] = "billing"
    await admin.api(f"STREAM.UPDATE.{stream}", config)
    info = await conn.streams.update(stream, store=True, replicas=1)
    assert info.options.store
    assert info.allow_msg_ttl
    metadata = (await config_of(admin, stream))["metadata"]
    assert (metadata["team"], metadata["eda-store"], metadata["eda-kind"]) == ("billing", "1", "stream")
    await conn.streams.update(stream, store=False)
    metadata = (await config_of(admin, stream))["metadata"]
    assert metadata["team"] == "billing"
    assert "eda-store" not in metadata


@on_able_servers
async def test_update_when_all_events_have_versions_marks_the_stream(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream)
    for version in range(1, 4):
        await append(admin, stream, version)
    await append(admin, stream, 0, subject=stream)  # an event that was replayed, or published by another program
    assert (await conn.streams.update(stream, store=True)).options.store
    assert (await conn.streams.update(stream, store=True)).events == 4  # once more: nothing is read


@on_able_servers
async def test_update_when_one_of_many_events_has_no_version_names_it(
    conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.jetstream.store_mark.BATCH", 7)
    await conn.streams.create(stream)
    for version in range(1, 30):
        await append(admin, stream, version)
    await append(admin, stream, 0, aggregate="b")
    error = await refused(conn, stream, store=True)
    assert "the message at sequence 30 is an event without a version" in str(error)
    assert error.argument == "store"
    await admin.js.delete_msg(stream, 30)
    assert (await conn.streams.update(stream, store=True)).options.store


@on_able_servers
async def test_update_when_a_message_is_no_event_names_it(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream)
    await admin.js.publish(f"{stream}.t.a", b"\xff no event")
    assert "the message at sequence 1 is not an event" in str(await refused(conn, stream, store=True))


@on_able_servers
async def test_update_when_another_program_stored_a_pack_names_it(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream)
    await publish_pack(admin.js, stream, [eda.Event(type="t", aggregate="a")], subject=f"{stream}.t.a")
    assert "the message at sequence 1 is a pack" in str(await refused(conn, stream, store=True))


@on_able_servers
async def test_update_when_somebody_publishes_while_the_events_are_read_removes_the_mark(
    conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await conn.streams.create(stream)
    await append(admin, stream, 1)
    check = streams.check_all_have_versions

    async def check_and_publish(api: Any, name: str, *, from_sequence: int = 1) -> int:
        checked = await check(api, name, from_sequence=from_sequence)
        await append(admin, stream, 0, aggregate="late")
        return checked

    monkeypatch.setattr(streams, "check_all_have_versions", check_and_publish)
    assert "the message at sequence 2" in str(await refused(conn, stream, store=True))
    await conn.publish(stream, eda.Event(type="t"))


@on_able_servers
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"retention": "workqueue"}, "workqueue"),
        ({"retention": "interest"}, "interest"),
        ({"max_age": 3600 * 10**9}, "max_age_s"),
        ({"max_msgs": 10}, "max_events"),
        ({"max_bytes": 10**6}, "max_bytes"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject"),
        ({"max_msgs_per_subject": 5, "discard": "new"}, "max_msgs_per_subject"),
        ({"no_ack": True}, "no_ack"),
        ({"subjects": ["{stream}.t.*"]}, "does not listen to all"),
        ({"subjects": ["other-{stream}"]}, "does not listen to"),
        ({"subjects": [], "sources": [{"name": "elsewhere"}]}, "does not listen to"),
        ({"sources": [{"name": "elsewhere"}]}, "sources"),
        ({"subjects": [], "mirror": {"name": "elsewhere"}}, "mirror"),
        ({"subject_transform": {"src": ">", "dest": "x.>"}}, "subject_transform"),
    ],
    ids=lambda each: str(each)[:50],
)
async def test_update_when_the_stream_cannot_hold_a_store_says_why(
    conn: eda.Conn, admin: Admin, stream: str, settings: dict[str, Any], named: str
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.>"], "allow_direct": True} | settings
    config["subjects"] = [each.format(stream=stream) for each in config["subjects"]]
    await admin.api(f"STREAM.CREATE.{stream}", config)
    error = await refused(conn, stream, store=True)
    assert named in str(error)


@on_able_servers
@pytest.mark.parametrize("settings", [{"storage": "memory"}, {"max_msgs": 10, "discard": "new"},
    {"max_msgs_per_subject": 5, "discard": "new", "discard_new_per_subject": True}], ids=str)  # fmt: skip
async def test_update_when_the_stream_refuses_new_events_marks_it(
    conn: eda.Conn, admin: Admin, stream: str, settings: dict[str, Any]
) -> None:
    config = {"name": stream, "subjects": [f"{stream}.>"], "allow_direct": True} | settings
    await admin.api(f"STREAM.CREATE.{stream}", config)
    assert (await conn.streams.update(stream, store=True)).options.store


@on_able_servers
async def test_update_when_reads_are_slow_is_not_supported(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"]})
    with pytest.raises(eda.NotSupported, match="allow_direct"):
        await conn.streams.update(stream, store=True)


@on_able_servers
async def test_update_when_marked_refuses_limits_that_discard_events(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, MARKED)
    for changes in ({"max_age_s": 60.0}, {"max_bytes": 10**6}, {"max_events": 10}):
        (limit,) = changes
        error = await refused(conn, stream, **changes)
        assert (error.argument, f"{limit}=" in str(error)) == (limit, True)
    info = await conn.streams.update(stream, max_events=10, discard="new")
    assert (info.options.max_events, info.options.store) == (10, True)
    assert (await refused(conn, stream, discard="old")).argument == "max_events"
    assert (await conn.streams.update(stream, max_events=20)).options.max_events == 20
    assert (await conn.streams.update(stream, store=True, max_bytes=10**7)).options.max_bytes == 10**7


@on_able_servers
async def test_update_when_marked_refuses_whole_options_without_the_mark(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, MARKED)
    for options in (eda.StreamOptions(), eda.StreamOptions(store=False, max_age_s=5.0)):
        with pytest.raises(eda.ConfigError, match="belongs to event stores") as caught:
            await conn.streams.update(stream, options)
        assert caught.value.argument == "store"
    info = await conn.streams.update(stream, eda.StreamOptions(store=True, dedup_window_s=60.0))
    assert (info.options.store, info.options.dedup_window_s) == (True, 60.0)
    info = await conn.streams.update(stream, store=False, max_age_s=3600.0)
    assert (info.options.store, info.options.max_age_s) == (False, 3600.0)


@on_able_servers
async def test_info_when_another_program_has_set_a_limit_still_tells_the_mark(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream, MARKED)
    await admin.api(f"STREAM.UPDATE.{stream}", await config_of(admin, stream) | {"max_age": 3600 * 10**9})
    info = await conn.streams.info(stream)
    assert (info.options.store, info.options.max_age_s) == (True, 3600.0)
    assert (await conn.streams.update(stream, max_age_s=None)).options == eda.StreamOptions(
        store=True, atomic=info.atomic, fast_ingest=info.fast_ingest
    )
