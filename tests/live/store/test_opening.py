"""store.opening: which servers and streams an event store opens on, and what it notices later."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.store.opening import OpenedStream, open_store
from helpers import Admin, Connect, Logged, until
from support.store.versions import on_able_servers, on_old_servers

MARKED = eda.StreamOptions(store=True)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections look at their streams again and again."""
    monkeypatch.setattr("eda.publishing.stream_looks.LOOK_EVERY_S", 0.05)


async def opened(conn: eda.Conn, stream: str) -> OpenedStream:
    services = conn._lifetime._services
    assert services is not None
    return await open_store(services.api, services.known_streams, services.logger, stream)


async def refusal(conn: eda.Conn, stream: str) -> eda.ConfigError:
    with pytest.raises(eda.ConfigError) as caught:
        await opened(conn, stream)
    return caught.value


@on_old_servers
async def test_open_when_the_server_is_too_old_is_not_supported(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.NotSupported, match=r"2\.11"):
        await opened(conn, stream)
    with pytest.raises(eda.StreamNotFound):
        await conn.streams.info(stream)


@on_able_servers
async def test_open_when_the_stream_is_missing_creates_it(conn: eda.Conn, stream: str) -> None:
    store = await opened(conn, stream)
    info = await conn.streams.info(stream)
    assert info.options.store
    assert (store.name, store.info.created) == (stream, info.created)
    store.check()


@on_able_servers
async def test_open_when_the_stream_may_not_be_created_raises(connect: Connect, stream: str) -> None:
    conn = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await opened(conn, stream)
    conn = await connect(stream_defaults=eda.StreamOptions(max_age_s=3600.0))
    error = await refusal(conn, stream)
    assert (error.argument, "max_age_s=3600.0" in str(error)) == ("stream_defaults", True)
    await conn.streams.create(stream, MARKED)  # the defaults do not matter for a stream that exists
    assert (await opened(conn, stream)).info.options.store


@on_able_servers
async def test_open_when_the_stream_is_not_marked_says_how_to(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    assert f"conn.streams.update({stream!r}, store=True)" in str(await refusal(conn, stream))
    await conn.streams.update(stream, store=True)
    assert (await opened(conn, stream)).info.options.store


@on_able_servers
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"retention": "workqueue"}, "workqueue"),
        ({"max_age": 3600 * 10**9}, "max_age_s"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject"),
        ({"no_ack": True}, "no_ack"),
        ({"sources": [{"name": "elsewhere"}]}, "sources"),
        ({"subjects": [], "mirror": {"name": "elsewhere"}}, "mirror"),
    ],
    ids=lambda each: str(each)[:50],
)
async def test_open_when_the_stream_cannot_hold_a_store_says_why(
    conn: eda.Conn, admin: Admin, stream: str, settings: dict[str, Any], named: str
) -> None:
    metadata = {"metadata": {"eda-store": "1"}}
    config = {"name": stream, "subjects": [f"{stream}.>"], "allow_direct": True} | metadata | settings
    await admin.api(f"STREAM.CREATE.{stream}", config)
    assert named in str(await refusal(conn, stream))


@on_able_servers
async def test_open_when_reads_are_slow_is_not_supported(conn: eda.Conn, admin: Admin, stream: str) -> None:
    metadata = {"eda-store": "1"}
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"], "metadata": metadata})
    with pytest.raises(eda.NotSupported, match="allow_direct"):
        await opened(conn, stream)


@on_able_servers
@pytest.mark.usefixtures("quick_looks")
async def test_opened_when_another_program_changes_the_stream_notices(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    store = await opened(conn, stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"max_age": 3600 * 10**9})
    await until(lambda: store.info.options.max_age_s)
    with pytest.raises(eda.ConfigError, match="max_age_s=3600"):
        store.check()
    assert logged.find(f"the event store of stream {stream} can't be used now: stream")
    await admin.api(f"STREAM.UPDATE.{stream}", config)
    await until(lambda: store.info.options.max_age_s is None)
    store.check()
    await conn.streams.update(stream, store=False)  # this connection tells it at once
    with pytest.raises(eda.ConfigError, match="does not belong to event stores"):
        store.check()


@on_able_servers
@pytest.mark.usefixtures("quick_looks")
async def test_opened_when_the_stream_was_made_again_tells(connect: Connect, conn: eda.Conn, stream: str) -> None:
    store = await opened(conn, stream)
    before = store.info.created
    told: list[None] = []
    store.on_replaced.append(lambda: told.append(None))
    other = await connect()
    await other.streams.delete(stream)
    await other.streams.create(stream, MARKED)
    await until(lambda: told)
    assert store.info.created != before
    store.check()
    store.close()
    await other.streams.delete(stream)
    await other.streams.create(stream, MARKED)
    services = conn._lifetime._services
    assert services is not None
    await services.known_streams.find(stream)
    assert len(told) == 1


@on_able_servers
async def test_recover_when_the_stream_is_marked_does_not_raise(conn: eda.Conn, stream: str) -> None:
    await opened(conn, stream)
    services = conn._lifetime._services
    assert services is not None
    await services.known_streams.recover(stream)
    assert services.known_streams.longest_s(stream, 0.0) == 60.0
