"""Packs that the server does not store: each event fails by itself, and what changes at the stream is noticed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Any

import pytest

import eda
from eda.publishing import stream_looks
from helpers import Admin, Logged, freeze, needs_freeze, until
from support.embedded.domains import Domains
from support.publishing.packs import ids_in, messages_in
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)
PACKED = eda.StreamOptions(packed=True)
TEN = eda.Pack(max_events=10, linger_s=5)


@pytest.fixture
async def packed(conn: eda.Conn, stream: str) -> str:
    await conn.streams.create(stream, PACKED)
    return stream


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at streams again after 50 ms."""
    monkeypatch.setattr(stream_looks, "LOOK_EVERY_S", 0.05)


async def edit(admin: Admin, stream: str, **changes: Any) -> None:
    """Change settings of a stream as other tools do."""
    config = dict((await admin.api(f"STREAM.INFO.{stream}"))["config"])
    await admin.api(f"STREAM.UPDATE.{stream}", config | changes)


@both
async def test_packs_when_the_stream_is_full_fail_each_event_by_itself(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True, max_events=5, discard="new"))
    async with conn.publisher(stream, mode=mode, pack=TEN) as pub:
        ids = await pub.send_many([eda.Event(type="t") for _ in range(80)])
        with pytest.raises(eda.PublishFailed) as caught:
            await pub.flush()
        await pub.flush()
        failed = caught.value.failed
        assert [event.id for event, _ in failed] == ids[50:]
        assert {type(error) for _, error in failed} == {eda.ServerError}
        assert len({id(error) for _, error in failed}) == 30
        assert "maximum messages exceeded" in str(failed[-1][1])
        stats = pub.stats()
        assert (stats.acknowledged, stats.failed, stats.pending, stats.packs) == (50, 30, 0, 8)
        await conn.streams.purge(stream)
        assert (await pub.send_and_wait(eda.Event(id="next"))).id == "next"
    assert await stored_ids(server.url, stream) == ["next"]


@both
async def test_pack_that_is_refused_gives_each_waiting_sender_the_error(conn: eda.Conn, stream: str, mode: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True, max_events=1, discard="new"))
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, pack=TEN, **outcomes.callbacks) as pub:
        waiting = [asyncio.create_task(pub.send_and_wait(eda.Event(id=f"w{i}"))) for i in range(20)]
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in done] == [eda.Receipt] * 10 + [eda.ServerError] * 10
    assert list(outcomes.failed) == [f"w{i}" for i in range(10, 20)]
    assert [outcomes.errors[f"w{i}"] for i in range(10, 20)] == done[10:]
    assert len({id(each) for each in done}) == 20


@needs_freeze
@both
async def test_packs_when_the_server_does_not_answer_fail_each_event_with_its_timeout(
    own_server: eda.EmbeddedServer, mode: str
) -> None:
    outcomes = Outcomes()
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("packed", PACKED)
        pub = await conn.publisher("packed", mode=mode, pack=TEN, timeout_s=10.0, **outcomes.callbacks)
        pub._pump.clock.timeout_s = 0.5
        assert pub._core is not None
        pub._core.set_give_up(0.5)
        process = own_server.process
        assert process is not None
        freeze(process.pid)
        try:
            ids = await pub.send_many(numbered(25))
            await pub.flush()
        finally:
            process.send_signal(signal.SIGCONT)
        assert list(outcomes.failed) == ids
        assert [error.event_id for error in outcomes.errors.values() if isinstance(error, eda.Timeout)] == ids
        await pub.close()


@both
async def test_packs_when_their_subject_is_forbidden_fail_and_single_types_do_not(mode: str, logged: Logged) -> None:
    logged.expect("the server forbids")
    free = {"user": "admin", "password": "pw"}
    allowed = ["stream.good.*", "$JS.API.>"]
    bound = {"user": "bound", "password": "pw", "permissions": {"publish": allowed, "subscribe": "_INBOX.>"}}
    async with eda.EmbeddedServer(config={"authorization": {"users": [free, bound]}}) as server:
        admin_url = server.url.replace("127", "admin:pw@127")
        async with eda.connect(admin_url) as conn:
            await conn.streams.create("stream", PACKED)
        outcomes = Outcomes()
        async with eda.connect(server.url, user="bound", password="pw") as conn:
            async with conn.publisher("stream", mode=mode, pack=TEN, **outcomes.callbacks) as pub:
                ids = await pub.send_many([eda.Event(type="good", aggregate=f"a{i}") for i in range(20)])
                bad = await pub.send_many([eda.Event(type=["good", "bad"][i % 2]) for i in range(10)])
                ids += await pub.send_many([eda.Event(type="good", aggregate=f"b{i}") for i in range(20)])
        assert list(outcomes.failed) == bad
        assert "stream.%pack._" in str(outcomes.errors[bad[0]])
        assert await stored_ids(admin_url, "stream") == ids


@pytest.mark.usefixtures("quick_looks")
@both
async def test_publisher_when_others_remove_the_mark_refuses_events_until_it_is_back(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    async def is_refused() -> bool:
        try:
            ids.append(await pub.send(eda.Event(type="t")))
        except eda.ConfigError as error:
            return error.argument == "pack"
        return False

    outcomes = Outcomes()
    metadata = (await admin.api(f"STREAM.INFO.{packed}"))["config"]["metadata"]
    async with conn.publisher(packed, mode=mode, pack=eda.Pack(), **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(100))
        await edit(admin, packed, metadata={})
        await until(is_refused)
        await pub.flush()
        n = pub.stats().sent
        for _ in range(3):
            assert await is_refused()
        assert pub.stats().sent == n
        await edit(admin, packed, metadata=metadata)

        async def is_taken() -> bool:
            return not await is_refused()

        await until(is_taken)
        await pub.flush()
    # Events that were in a pack when the mark was missed have failed.
    assert {type(error) for error in outcomes.errors.values()} <= {eda.ConfigError}
    outcomes.check(ids, await stored_ids(server.url, packed), pub.stats())


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("flushes", [False, True])
@both
async def test_open_pack_when_others_remove_the_mark_fails_and_is_not_stored(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, packed: str, mode: str, flushes: bool
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(packed, mode=mode, pack=TEN, **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(20))
        if flushes:
            await pub.flush()
        open_ids = await pub.send_many(numbered(3, start=20))
        await edit(admin, packed, metadata={})
        async with asyncio.timeout(4):  # less than linger_s
            await until(lambda: len(outcomes.failed) == 3)
    assert list(outcomes.failed) == open_ids
    assert {type(error) for error in outcomes.errors.values()} == {eda.ConfigError}
    assert "packed" in str(outcomes.errors[open_ids[0]])
    assert await stored_ids(server.url, packed) == ids


@pytest.mark.usefixtures("quick_looks")
@both
async def test_packs_when_the_streams_max_msg_size_is_lowered_become_smaller(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    async with conn.publisher(packed, mode=mode, pack=eda.Pack()) as pub:
        ids = await pub.send_many(numbered(500))
        await pub.flush()
        await edit(admin, packed, max_msg_size=1500)
        await until(lambda: pub._pump._max_event_bytes == 1500)
        ids += await pub.send_many(numbered(500, start=500))
    assert ids_in(await messages_in(server.url, packed)) == ids


@both
async def test_packs_when_another_server_takes_less_fail_if_they_are_too_large_for_it(mode: str) -> None:
    outcomes = Outcomes()
    open_to_all: dict[str, Any] = {"authorization": None}  # the two servers have no passwords of their own
    small = eda.EmbeddedServer(config=open_to_all | {"max_payload": 8192})
    async with eda.EmbeddedServer(config=open_to_all) as large, small, FaultyProxy(large.port) as proxy:
        async with (
            eda.connect(proxy.url(large.url)) as conn,
            conn.publisher("packed", mode=mode, pack=eda.Pack(), **outcomes.callbacks) as pub,
        ):
            proxy.target = small.port
            proxy.refusing = True
            proxy.cut()
            await until(lambda: conn.state == "disconnected")
            ids = await pub.send_many(numbered(300, size=100))
            proxy.refusing = False
            await pub.flush()
            assert {type(error) for error in outcomes.errors.values()} == {eda.ConfigError}
            assert "a pack of" in str(outcomes.errors[ids[0]])
            assert list(outcomes.failed) == ids[:256]  # two packs; the third is small enough
            ids += await pub.send_many(numbered(300, start=300, size=100))
            await pub.flush()
            assert list(outcomes.failed) == ids[:256]
            assert await stored_ids(small.url, "packed") == ids[256:]


@both
async def test_packs_when_the_stream_is_deleted_go_on_in_a_new_one_that_is_packed(
    conn: eda.Conn, server: eda.EmbeddedServer, packed: str, mode: str
) -> None:
    async with asyncio.timeout(20), conn.publisher(packed, mode=mode, pack=TEN) as pub:
        await pub.send_many(numbered(100))
        await pub.flush()
        await conn.streams.delete(packed)
        ids = await pub.send_many(numbered(95, start=100))
        await pub.flush()
    assert (await conn.streams.info(packed)).options.packed
    assert await stored_ids(server.url, packed) == ids


@both
async def test_packs_when_two_domains_answer_are_acknowledged_by_the_one_that_is_meant(
    domains: Domains, gateway: eda.Conn, mode: str
) -> None:
    for server in (domains.hub, domains.leaf):
        async with eda.connect(server.url) as conn:
            await conn.streams.create("packed", PACKED)
    outcomes = Outcomes()
    async with (
        asyncio.timeout(30),
        gateway.publisher("packed", mode=mode, pack=TEN, max_pending=200, **outcomes.callbacks) as pub,
    ):
        ids = [await pub.send(event) for event in numbered(3000)]
        await pub.flush()
        ids.append((await pub.send_and_wait(eda.Event(id="alone"))).id)
    outcomes.check(ids, await stored_ids(domains.hub.url, "packed"), pub.stats())
    assert not outcomes.failed
    assert Counter(len(each.ids) for each in await messages_in(domains.hub.url, "packed")).most_common(1) == [(10, 300)]
