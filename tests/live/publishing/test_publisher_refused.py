"""Events that the server refuses for good: on_error and PublishFailed report them, and other events are stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

pytestmark = pytest.mark.parametrize("mode", MODES)


class Refusing:
    """A publisher whose outcomes are recorded, and compared with the stream at the end."""

    def __init__(self, conn: eda.Conn, url: str, stream: str, mode: str, **options: Any) -> None:
        self.url = url
        self.stream = stream
        self.outcomes = Outcomes()
        self.pub = conn.publisher(stream, mode=mode, **self.outcomes.callbacks, **options)  # type: ignore[arg-type]
        self.ids: list[str] = []

    async def __aenter__(self) -> Refusing:
        await self.pub
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pub.close()

    async def send(self, *events: eda.Event) -> None:
        async with asyncio.timeout(20):
            self.ids += await self.pub.send_many(events)

    async def flush(self) -> list[tuple[eda.Event, Exception]]:
        """Flush, and return the failures since the last call."""
        async with asyncio.timeout(20):
            await self.pub.flush()
        failures, self.outcomes.failures = self.outcomes.failures, []
        return failures

    async def check(self, n_failed: int, *, in_order: bool = True) -> None:
        stored = await stored_ids(self.url, self.stream)
        self.outcomes.check(self.ids, stored, self.pub.stats(), in_order=in_order)
        assert len(self.outcomes.failed) == n_failed


async def test_send_when_the_stream_is_full_fails_with_the_servers_word(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1200, discard="new"))
    async with Refusing(conn, server.url, stream, mode) as refusing:
        events = numbered(2000)
        await refusing.send(*events)
        failed = await refusing.flush()
        assert [event.id for event, _ in failed] == refusing.ids[1200:]
        assert failed[0][0] is events[1200]
        errors = [error for _, error in failed]
        assert {type(error) for error in errors} == {eda.ServerError}
        assert "maximum messages exceeded" in str(errors[0])
        assert refusing.outcomes.errors[events[1200].id] is errors[0]
        await refusing.check(800)
        await conn.streams.purge(stream)
        await refusing.send(*numbered(700, start=5000))
        assert await refusing.flush() == []
        assert await stored_ids(server.url, stream) == refusing.ids[2000:]


async def test_send_when_the_event_has_no_id_fails_with_the_one_it_went_under(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    async with Refusing(conn, server.url, stream, mode) as refusing:
        await refusing.send(eda.Event(), eda.Event(type="t", meta={"a": "b"}))
        ((event, _),) = await refusing.flush()
        assert event == eda.Event(id=refusing.ids[1], type="t", meta={"a": "b"})
        await refusing.check(1)


@pytest.mark.parametrize("bad", [{0}, {7}, {1499}, {600, 601, 602, 1000}, set(range(0, 1500, 50))], ids=len)
async def test_send_when_some_are_too_large_for_the_stream_fails_these_only(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str, bad: set[int]
) -> None:
    await conn.streams.create(stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"max_msg_size": 1000})
    async with Refusing(conn, server.url, stream, mode) as refusing:
        events = [numbered(1, start=i, size=2000 if i in bad else 10)[0] for i in range(1500)]
        await refusing.send(*events)
        failed = await refusing.flush()
        assert {event.id for event, _ in failed} == {events[i].id for i in bad}
        assert all("exceeds maximum" in str(error) for _, error in failed)
        await refusing.check(len(bad))


async def test_send_when_the_stream_is_sealed_while_publishing_fails_what_came_too_late(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    async with Refusing(conn, server.url, stream, mode) as refusing:
        await refusing.send(*numbered(800))
        assert await refusing.flush() == []
        # Start with no event under way: an event refused on its second try could be stored by its first.
        await refusing.send(*numbered(10, start=800))
        assert await refusing.flush() == []
        await admin.api(f"STREAM.UPDATE.{stream}", config | {"sealed": True})
        await refusing.send(*numbered(500, start=810))
        failed = await refusing.flush()
        assert len(failed) >= 500
        assert all("sealed" in str(error) for _, error in failed)
        await refusing.check(len(failed))


def restricted(*, allow: list[str]) -> dict[str, Any]:
    """Return a server configuration in which one user may publish to some subjects only."""
    free = {"user": "admin", "password": "pw"}
    bound = {
        "user": "bound",
        "password": "pw",
        "permissions": {"publish": [*allow, "$JS.API.>"], "subscribe": "_INBOX.>"},
    }
    return {"authorization": {"users": [free, bound]}}


async def test_send_when_a_type_is_forbidden_fails_these_only(mode: str, logged: Logged) -> None:
    logged.expect("the server forbids")
    config = restricted(allow=["stream.good.>"])
    async with eda.EmbeddedServer(config=config) as server:
        admin_url = server.url.replace("127", "admin:pw@127")
        async with eda.connect(admin_url) as conn:
            await conn.streams.create("stream")
        async with eda.connect(server.url, user="bound", password="pw") as conn:
            async with Refusing(conn, admin_url, "stream", mode) as refusing:
                for bad in (set[int](), {0}, {700}, {999}, {5, 6, 500}, set(range(0, 1000, 3)), set(range(1000))):
                    n = len(refusing.ids)
                    events = [eda.Event(id=f"{n + i:06}", type="bad" if i in bad else "good") for i in range(1000)]
                    await refusing.send(*events)
                    failed = await refusing.flush()
                    assert {event.id for event, _ in failed} == {events[i].id for i in bad}
                    assert all("no permission" in str(error) for _, error in failed)
                await refusing.check(sum(refusing.outcomes.failed.values()))
                # The same with single events.
                await refusing.send(eda.Event(type="bad"))
                assert len(await refusing.flush()) == 1
                await refusing.send(eda.Event(type="good"))
                assert await refusing.flush() == []


async def test_send_when_the_bare_stream_subject_belongs_to_nobody_is_acknowledged(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    """The stream was created by others, and listens only to the subjects of events."""
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.*.*"], "allow_batched": True})
    async with Refusing(conn, server.url, stream, mode) as refusing:
        for n in (1, 2, 700, 3):
            await refusing.send(*numbered(n, start=len(refusing.ids)))
            assert await refusing.flush() == []
        await refusing.check(0)
        assert refusing.pub.stats().resent == 0


async def test_send_when_the_stream_is_deleted_and_may_be_created_goes_on_in_the_new_one(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with Refusing(conn, server.url, stream, mode) as refusing:
        await refusing.send(*numbered(1000))
        assert await refusing.flush() == []
        await conn.streams.delete(stream)
        await refusing.send(*numbered(1000, start=1000))
        assert await refusing.flush() == []
        assert await stored_ids(server.url, stream) == refusing.ids[1000:]


async def test_send_when_the_stream_is_deleted_and_may_not_be_created_fails_until_it_is_back(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream)
    bound = await connect(auto_create=False)
    async with Refusing(bound, server.url, stream, mode) as refusing:
        await refusing.send(*numbered(1000))
        assert await refusing.flush() == []
        await conn.streams.delete(stream)
        for n in (1000, 1):
            await refusing.send(*numbered(n, start=len(refusing.ids)))
            failed = await refusing.flush()
            assert len(failed) == n
            assert {type(error) for _, error in failed} == {eda.StreamNotFound}
        await conn.streams.create(stream)
        n = len(refusing.ids)
        await refusing.send(*numbered(1000, start=n))
        assert await refusing.flush() == []
        assert await stored_ids(server.url, stream) == refusing.ids[n:]


async def test_send_when_the_stream_is_gone_after_a_reconnect_fails_until_it_is_back(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream)
    async with FaultyProxy(server.port) as proxy:
        bound = await connect(proxy.url(server.url), auto_create=False)
        async with Refusing(bound, server.url, stream, mode) as refusing:
            proxy.refusing = True
            proxy.cut()
            await until(lambda: bound.state == "disconnected")
            await conn.streams.delete(stream)
            await refusing.send(*numbered(100))
            proxy.refusing = False
            assert len(await refusing.flush()) == 100
            await refusing.send(*numbered(100, start=100))
            assert len(await refusing.flush()) == 100
            await conn.streams.create(stream)
            await refusing.send(*numbered(100, start=200))
            assert await refusing.flush() == []
            assert await stored_ids(server.url, stream) == refusing.ids[200:]


async def test_send_when_the_stream_does_not_listen_to_the_subject_refuses_at_once(
    conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.t.*"], "allow_batched": True})
    async with Refusing(conn, server.url, stream, mode, timeout_s=1.0) as refusing:
        await refusing.send(*numbered(10))
        with pytest.raises(eda.ConfigError, match=f"listens to {stream}.t.*"):
            await refusing.send(eda.Event(type="unheard"))
        await refusing.send(*numbered(10, start=10))
        assert await refusing.flush() == []
        await refusing.check(0)


async def test_send_when_another_server_takes_less_fails_what_is_too_large_for_it(mode: str) -> None:
    config: dict[str, Any] = {"authorization": None}
    small = eda.EmbeddedServer(config=config | {"max_payload": 4096})
    async with eda.EmbeddedServer(config=config) as large, small, FaultyProxy(large.port) as proxy:
        async with eda.connect(proxy.url(large.url)) as conn:
            async with Refusing(conn, small.url, "stream", mode) as refusing:
                proxy.target = small.port
                proxy.refusing = True
                proxy.cut()
                await until(lambda: conn.state == "disconnected")
                big = eda.Event(id="big", data=eda.Bytes(bytes(10_000)))
                await refusing.send(*numbered(100), big, *numbered(100, start=100))
                proxy.refusing = False
                ((event, error),) = await refusing.flush()
                assert event is big
                assert isinstance(error, eda.ConfigError)
                assert "max_payload of 4096" in str(error)
                with pytest.raises(eda.ConfigError, match="max_payload of 4096"):
                    await refusing.pub.send(big.replace(id="again"))
                await refusing.check(1)
                assert proxy.n_accepted - proxy.n_cut <= 4, "the server ended connections"


async def test_send_when_more_than_ten_thousand_failures_are_kept_raises(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    sent = 0
    async with conn.publisher(stream, mode=mode) as pub:  # type: ignore[arg-type]
        with pytest.raises(eda.PublishFailed) as caught:
            async with asyncio.timeout(60):
                for event in numbered(30_000):
                    await pub.send(event)
                    sent += 1
        told = [event.id for event, _ in caught.value.failed]
        assert 10_000 < len(told) <= 10_000 + 4096
        assert str(caught.value).startswith(f"{len(told)} events could not be published; first: ")
        await pub.send(eda.Event(id="more"))
        with pytest.raises(eda.PublishFailed) as rest:
            await pub.flush()
        told += [event.id for event, _ in rest.value.failed]
        assert told == [*[event.id for event in numbered(sent)][1:], "more"]
        assert pub.stats().failed == sent


async def test_send_when_on_error_hears_of_failures_keeps_none_and_goes_on(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    told: list[str] = []
    n = 25_000
    async with asyncio.timeout(120):
        async with conn.publisher(stream, mode=mode, on_error=lambda event, _: told.append(event.id)) as pub:  # type: ignore[arg-type]
            for event in numbered(n):
                await pub.send(event)
                assert not pub._outcomes.failures
            await pub.flush()
            await pub.send(eda.Event(id="last"))
    assert told == [*[event.id for event in numbered(n)][1:], "last"]
