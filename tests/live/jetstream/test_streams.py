"""conn.streams: what a stream is like, made, changed, emptied and deleted."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

import eda
import servers as old_servers
from helpers import Admin, Connect

pytestmark = pytest.mark.old_server


async def test_info_when_the_stream_is_there_tells_all(conn: eda.Conn, stream: str) -> None:
    before = datetime.now(UTC)
    created = await conn.streams.create(stream)
    assert (created.events, created.bytes, created.first_sequence, created.last_sequence) == (0, 0, 0, 0)
    for _ in range(3):
        await conn.publish(stream)
    info = await conn.streams.info(stream)
    assert (info.name, info.events, info.first_sequence, info.last_sequence) == (stream, 3, 1, 3)
    assert info.bytes > 100
    assert info.subjects == (stream, f"{stream}.>")
    assert abs((info.created - before).total_seconds()) < 5
    assert info.created == created.created


async def test_create_when_nothing_is_said_uses_the_defaults(conn: eda.Conn, stream: str, server_version: str) -> None:
    info = await conn.streams.create(stream)
    version = (9, 9) if server_version == "current" else tuple(map(int, server_version.split(".")[:2]))
    assert (info.atomic, info.fast_ingest) == (version >= (2, 12), version >= (2, 14))
    assert info.options == eda.StreamOptions(atomic=info.atomic, fast_ingest=info.fast_ingest)
    assert info.options.dedup_window_s == 120


@pytest.mark.parametrize(
    "options",
    [
        {"storage": "memory"},
        {"max_age_s": 3600.5, "max_bytes": 10**9, "max_events": 1000},
        {"max_age_s": 60.0},
        {"dedup_window_s": 0.1},
        {"compression": "s2"},
        {"discard": "new", "max_events": 5},
        {"atomic": False, "fast_ingest": False},
    ],
    ids=str,
)
async def test_create_when_given_options_keeps_them(conn: eda.Conn, stream: str, options: dict[str, Any]) -> None:
    wanted = eda.StreamOptions(**options)
    for info in (await conn.streams.create(stream, wanted), await conn.streams.info(stream)):
        for option in options:
            assert getattr(info.options, option) == getattr(wanted, option), option
        assert info.options.dedup_window_s == wanted.dedup_window_s
    await conn.publish(stream, timeout_s=0.05)


async def test_create_when_it_exists_alike_returns_it_and_otherwise_raises(conn: eda.Conn, stream: str) -> None:
    created = await conn.streams.create(stream, eda.StreamOptions(max_events=10))
    await conn.publish(stream)
    again = await conn.streams.create(stream, eda.StreamOptions(max_events=10))
    assert (again.created, again.events) == (created.created, 1)
    with pytest.raises(eda.ServerError) as caught:
        await conn.streams.create(stream, eda.StreamOptions(max_events=11))
    assert caught.value.err_code == 10058
    assert (await conn.streams.info(stream)).options.max_events == 10


async def test_create_when_two_clients_do_it_at_once_succeeds_for_both(connect: Connect, stream: str) -> None:
    conns = [await connect() for _ in range(6)]
    infos = await asyncio.gather(*(conn.streams.create(stream) for conn in conns))
    assert len({info.created for info in infos}) == 1
    differing = [eda.StreamOptions(max_events=n + 1) for n in range(6)]
    other = f"{stream}-other"
    results = await asyncio.gather(
        *(conn.streams.create(other, options) for conn, options in zip(conns, differing, strict=True)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, eda.StreamInfo) for each in results) == 1
    assert all(each.err_code == 10058 for each in results if isinstance(each, eda.ServerError))
    await conns[0].streams.delete(other)


async def test_create_when_just_deleted_succeeds(conn: eda.Conn, stream: str) -> None:
    for _ in range(10):
        await conn.streams.create(stream)
        await asyncio.gather(*(conn.publish(stream) for _ in range(50)))
        await conn.streams.delete(stream)


async def test_create_when_the_server_can_not_is_not_supported(
    conn: eda.Conn, stream: str, server_version: str, admin: Admin
) -> None:
    wanted = {"current": [], "2.12.8": ["fast_ingest"], old_servers.OLDEST: ["atomic", "fast_ingest"]}
    for option in ("atomic", "fast_ingest"):
        if option in wanted[server_version]:
            with pytest.raises(eda.NotSupported) as caught:
                await conn.streams.create(stream, eda.StreamOptions(**{option: True}))
            needs = {"atomic": "2.12", "fast_ingest": "2.14"}[option]
            assert needs in caught.value.needs
            assert server_version in caught.value.server
            assert str(caught.value).count("nats-server") == 2
            assert stream not in await admin.stream_names()
        else:
            info = await conn.streams.create(stream, eda.StreamOptions(**{option: True}))
            assert getattr(info, option)
            await conn.streams.delete(stream)


async def test_create_when_the_server_refuses_raises_server_error(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.ServerError, match="replicas") as caught:
        await conn.streams.create(stream, eda.StreamOptions(replicas=3))
    assert caught.value.operation == f"STREAM.CREATE.{stream}"
    assert caught.value.code == 500


@pytest.mark.parametrize("verb", ["info", "create", "purge", "delete", "update"])
@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "a\r\n", "x" * 65, None, 5], ids=repr)
async def test_name_when_it_is_none_is_refused(conn: eda.Conn, verb: str, name: Any) -> None:
    arguments = [eda.StreamOptions()] if verb == "update" else []
    with pytest.raises(eda.ConfigError, match="stream") as caught:
        await getattr(conn.streams, verb)(name, *arguments)
    assert caught.value.argument == "stream"


@pytest.mark.parametrize("verb", ["info", "purge", "delete", "update"])
async def test_stream_when_missing_raises_stream_not_found(conn: eda.Conn, verb: str) -> None:
    arguments = [eda.StreamOptions()] if verb == "update" else []
    with pytest.raises(eda.StreamNotFound) as caught:
        await getattr(conn.streams, verb)("no-such-stream", *arguments)
    assert caught.value.stream == "no-such-stream"


# --- update ----------------------------------------------------------------------------------------------------------


async def test_update_when_given_options_changes_them_and_keeps_events(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    for _ in range(5):
        await conn.publish(stream)
    changed = eda.StreamOptions(max_events=3, max_age_s=3600, dedup_window_s=60, compression="s2", discard="new")
    info = await conn.streams.update(stream, changed)
    for option in ("max_events", "max_age_s", "dedup_window_s", "compression", "discard"):
        assert getattr(info.options, option) == getattr(changed, option)
    assert info.last_sequence == 5
    again = await conn.streams.update(stream, eda.StreamOptions())
    assert (again.options.max_events, again.options.max_age_s) == (None, None)


async def test_update_when_the_stream_has_settings_of_others_keeps_them(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    config = {
        "name": stream, "subjects": [stream, f"{stream}.>"], "description": "somebody's", "max_msgs_per_subject": 7,
        "max_msg_size": 50_000, "deny_delete": True, "no_ack": False, "metadata": {"team": "billing"},
        "republish": {"src": ">", "dest": "copy.>"}, "max_consumers": 20, "allow_rollup_hdrs": True,
    }  # fmt: skip
    await admin.api(f"STREAM.CREATE.{stream}", config)
    info = await conn.streams.update(stream, eda.StreamOptions(max_events=100))
    assert info.options.max_events == 100
    kept = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    for key in config.keys() - {"metadata"}:
        assert kept.get(key, False) == config[key], key
    assert kept["metadata"]["team"] == "billing"


async def test_update_when_it_has_other_subjects_keeps_those_too(conn: eda.Conn, stream: str, admin: Admin) -> None:
    subjects = [stream, f"{stream}.>", f"legacy-{stream}.>"]
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": subjects})
    info = await conn.streams.update(stream, eda.StreamOptions(max_events=100))
    assert set(info.subjects) == set(subjects)


async def test_update_when_the_server_refuses_raises_server_error(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    with pytest.raises(eda.ServerError, match="storage") as caught:
        await conn.streams.update(stream, eda.StreamOptions(storage="memory"))
    assert caught.value.operation == f"STREAM.UPDATE.{stream}"


async def test_update_when_atomic_and_fast_ingest_are_left_open_leaves_them_on(conn: eda.Conn, stream: str) -> None:
    created = await conn.streams.create(stream)
    info = await conn.streams.update(stream, eda.StreamOptions(max_events=10))
    assert (info.atomic, info.fast_ingest) == (created.atomic, created.fast_ingest)
    off = await conn.streams.update(stream, eda.StreamOptions(atomic=False, fast_ingest=False))
    assert (off.atomic, off.fast_ingest) == (False, False)


async def test_update_when_settings_are_named_changes_those_alone(conn: eda.Conn, stream: str) -> None:
    before = eda.StreamOptions(
        max_age_s=90 * 86400, max_events=10**6, dedup_window_s=77, compression="s2", discard="new", atomic=False,
        fast_ingest=False,
    )  # fmt: skip
    await conn.streams.create(stream, before)
    for changes in ({"max_bytes": 10**9}, {"max_events": None}, {"compression": None, "discard": "old"}):
        info = await conn.streams.update(stream, **changes)
        before = dataclasses.replace(before, **changes)
        assert info.options == (await conn.streams.info(stream)).options == before


async def test_update_when_what_publishers_may_use_is_named_changes_it(conn: eda.Conn, stream: str) -> None:
    made = await conn.streams.create(stream)
    if not made.fast_ingest:  # an older server
        assert (await conn.streams.update(stream, fast_ingest=False)).options == made.options
        with pytest.raises(eda.NotSupported):
            await conn.streams.update(stream, fast_ingest=True)
        return
    off = await conn.streams.update(stream, atomic=False)
    assert (off.atomic, off.fast_ingest) == (False, True)
    off = await conn.streams.update(stream, fast_ingest=False)
    assert (off.atomic, off.fast_ingest) == (False, False)
    on = await conn.streams.update(stream, atomic=True, fast_ingest=None)  # None: as the server can
    assert (on.atomic, on.fast_ingest) == (True, True)


async def test_update_when_the_age_is_below_the_duplicate_window_lowers_it(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    info = await conn.streams.update(stream, max_age_s=50)
    assert (info.options.max_age_s, info.options.dedup_window_s) == (50, 50)
    info = await conn.streams.update(stream, max_age_s=500)
    assert (info.options.max_age_s, info.options.dedup_window_s) == (500, 50)
    info = await conn.streams.update(stream, dedup_window_s=60, max_age_s=None)
    assert (info.options.max_age_s, info.options.dedup_window_s) == (None, 60)


async def test_update_when_settings_are_named_leaves_those_of_others(conn: eda.Conn, stream: str, admin: Admin) -> None:
    config = {
        "name": stream, "subjects": [f"{stream}.>", f"legacy-{stream}.>"], "max_msgs_per_subject": 7,
        "duplicate_window": 123_456_789, "num_replicas": 1, "storage": "memory", "max_age": 987_654_321_987,
    }  # fmt: skip
    await admin.api(f"STREAM.CREATE.{stream}", config)
    await conn.streams.update(stream, max_events=5)
    kept = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    assert {key: kept[key] for key in config} == config
    assert kept["max_msgs"] == 5


async def test_update_when_the_stream_is_a_mirror_changes_what_is_named(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.streams.create(stream)
    mirror = f"{stream}-mirror"
    await admin.api(f"STREAM.CREATE.{mirror}", {"name": mirror, "mirror": {"name": stream}})
    try:
        assert (await conn.streams.update(mirror, max_events=5)).options.max_events == 5
    finally:
        await admin.js.delete_stream(mirror)


WRONG_UPDATES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "unknown": ((), {"max_age": 5}, "unknown setting 'max_age'; did you mean 'max_age_s'"),
    "far from any": ((), {"zzz": 5}, "unknown setting 'zzz'; there are"),
    "both": ((eda.StreamOptions(),), {"max_bytes": 5}, "either"),
    "neither": ((), {}, "at least one"),
    "out of range": ((), {"max_bytes": 0}, "max_bytes"),
    "no number": ((), {"max_age_s": "5"}, "max_age_s"),
    "no options": (({"max_bytes": 5},), {}, "StreamOptions"),
}


@pytest.mark.parametrize(("options", "changes", "says"), WRONG_UPDATES.values(), ids=WRONG_UPDATES)
async def test_update_when_it_cannot_be_right_refuses_and_changes_nothing(
    conn: eda.Conn, stream: str, options: tuple[Any, ...], changes: dict[str, Any], says: str
) -> None:
    created = await conn.streams.create(stream)
    with pytest.raises(eda.ConfigError, match=says):
        await conn.streams.update(stream, *options, **changes)
    assert (await conn.streams.info(stream)).options == created.options


async def test_update_when_there_is_no_such_stream_says_so(conn: eda.Conn) -> None:
    with pytest.raises(eda.StreamNotFound):
        await conn.streams.update("no-such-stream", max_bytes=5)


# --- purge, delete, list ---------------------------------------------------------------------------------------------


async def test_purge_when_called_removes_the_events_and_goes_on_counting(conn: eda.Conn, stream: str) -> None:
    for _ in range(4):
        await conn.publish(stream)
    assert await conn.streams.purge(stream) == 4
    assert await conn.streams.purge(stream) == 0
    info = await conn.streams.info(stream)
    assert (info.events, info.last_sequence) == (0, 4)
    await conn.publish(stream)
    assert (await conn.streams.info(stream)).last_sequence == 5


async def test_delete_when_called_removes_the_stream(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.publish(stream)
    await conn.streams.delete(stream)
    assert stream not in await admin.stream_names()


async def test_list_when_called_gives_all_by_name(conn: eda.Conn, stream: str) -> None:
    names = [f"{stream}-{n:03}" for n in range(5)]
    for name in reversed(names):
        await conn.streams.create(name)
    infos = await conn.streams.list()
    listed = [info.name for info in infos]
    assert listed == sorted(listed)
    assert [name for name in listed if name.startswith(stream)] == names
    for name in names:
        await conn.streams.delete(name)


async def test_list_when_there_are_more_than_a_page_gives_all(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url) as conn:
        options = eda.StreamOptions(storage="memory")
        for first in range(0, 300, 50):
            await asyncio.gather(*(conn.streams.create(f"s{n:03}", options) for n in range(first, first + 50)))
        assert [info.name for info in await conn.streams.list()] == [f"s{n:03}" for n in range(300)]


async def test_list_when_there_are_foreign_streams_describes_them_too(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.x"], "retention": "workqueue"})
    mirror = f"{stream}-mirror"
    await admin.api(f"STREAM.CREATE.{mirror}", {"name": mirror, "mirror": {"name": stream}})
    infos = {info.name: info for info in await conn.streams.list()}
    assert infos[stream].subjects == (f"{stream}.x",)
    assert infos[mirror].subjects == ()
    assert (await conn.streams.info(mirror)).options.max_events is None
    await conn.streams.delete(mirror)
