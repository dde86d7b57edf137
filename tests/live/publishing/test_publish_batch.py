"""conn.publish_batch: all events are stored in order, or none, and errors name the refused event."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, Proxy, until, wire_of
from support.publishing.sent import ids_of, numbered, stored_ids

with_batches = pytest.mark.parametrize("server_version", ["current", "2.12.8"], indirect=True)


def readings(n: int) -> list[eda.Event]:
    return [
        eda.Event(type=f"type-{i % 3}", aggregate=f"sensor {i % 7}", data=eda.JSON({"number": i}), meta={"i": str(i)})
        for i in range(n)
    ]


async def received(conn: eda.Conn, stream: str, n: int) -> list[eda.Event]:
    """Return the first `n` events that a subscription to the stream receives."""
    got: list[eda.Event] = []
    async with conn.subscribe(stream, got.append, backfill=True):
        await until(lambda: len(got) >= n)
    return got


async def n_stored(conn: eda.Conn, stream: str) -> int:
    return (await conn.streams.info(stream)).events


# --- stored ----------------------------------------------------------------------------------------------------------


@with_batches
@pytest.mark.parametrize("n", [1, 2, 1000])
async def test_batch_when_published_is_stored_in_order_and_readable(conn: eda.Conn, stream: str, n: int) -> None:
    ids = ids_of(await conn.publish_batch(stream, readings(n)))
    assert len(set(ids)) == n
    assert await n_stored(conn, stream) == n
    got = await received(conn, stream, n)
    assert [event.id for event in got] == ids
    assert [event.sequence for event in got] == list(range(1, n + 1))
    for event, wanted in zip(got, readings(n), strict=True):
        assert (event.type, event.aggregate, event.meta) == (wanted.type, wanted.aggregate, wanted.meta)
        assert event.data.decode() == wanted.data.decode()
        assert event.client == conn.client
        assert event.time is not None


@with_batches
async def test_batch_when_subscribed_with_a_filter_gives_what_matches(conn: eda.Conn, stream: str) -> None:
    ids = ids_of(await conn.publish_batch(stream, readings(90)))
    got: list[eda.Event] = []
    async with conn.subscribe(stream, got.append, backfill=True, types=["type-1"]):
        await until(lambda: len(got) >= 30)
    assert [event.id for event in got] == ids[1::3]


async def test_batch_when_a_subscription_waits_reaches_its_handler(conn: eda.Conn, stream: str) -> None:
    got: list[str] = []
    async with conn.subscribe(stream, lambda event: got.append(event.id), durable=True):
        ids = ids_of(await conn.publish_batch(stream, readings(200)))
        await until(lambda: len(got) >= 200)
    assert got == ids


async def test_batch_when_empty_gives_no_ids_and_stores_nothing(conn: eda.Conn, stream: str) -> None:
    assert ids_of(await conn.publish_batch(stream, [])) == []
    assert ids_of(await conn.publish_batch(stream, iter(()))) == []
    assert await n_stored(conn, stream) == 0


@pytest.mark.parametrize(
    "as_iterable",
    [tuple, iter, lambda events: (event for event in events), lambda events: dict.fromkeys(events).keys()],
    ids=["tuple", "iterator", "generator", "keys"],
)
async def test_batch_when_given_any_iterable_is_stored(
    conn: eda.Conn, stream: str, as_iterable: Callable[[list[eda.Event]], Iterable[eda.Event]]
) -> None:
    events = numbered(5)
    assert ids_of(await conn.publish_batch(stream, as_iterable(events))) == [event.id for event in events]
    assert await n_stored(conn, stream) == 5


async def test_ids_when_given_are_kept_and_deduplicate_later_publishes(conn: eda.Conn, stream: str) -> None:
    ids = ids_of(await conn.publish_batch(stream, [eda.Event(id="mine"), eda.Event(), eda.Event(id="last")]))
    assert (ids[0], len(ids[1]), ids[2]) == ("mine", 22, "last")
    for event_id in ids:
        await conn.publish(stream, eda.Event(id=event_id))
    assert await n_stored(conn, stream) == 3


async def test_fields_when_set_are_kept_and_events_stay_as_they_were(conn: eda.Conn, stream: str) -> None:
    event = eda.Event(type="Zoë.x", aggregate="50 % > *", client="else", time=5, cause="c", schema="s")
    await conn.publish_batch(stream, [event, eda.Event()])
    assert event.id == ""
    got = (await received(conn, stream, 2))[0]
    assert (got.type, got.aggregate, got.client, got.time_ns) == ("Zoë.x", "50 % > *", "else", 5)
    assert (got.cause, got.schema) == ("c", "s")


async def test_batch_when_larger_than_the_connections_buffers_is_stored(conn: eda.Conn, stream: str) -> None:
    events = [eda.Event(id=str(i), data=eda.Bytes(bytes([i]) * 900_000)) for i in range(40)]
    assert ids_of(await conn.publish_batch(stream, events)) == [event.id for event in events]
    got = await received(conn, stream, 40)
    assert all(event.data.decode() == bytes([i]) * 900_000 for i, event in enumerate(got))


async def test_batches_when_published_at_once_are_each_in_one_piece(
    connect: Connect, stream: str, server: eda.EmbeddedServer
) -> None:
    conns = [await connect(), await connect()]
    batches = [[eda.Event(id=f"{batch}-{i}") for i in range(100)] for batch in range(20)]
    single = [eda.Event(id=f"single-{i}") for i in range(200)]
    await conns[0].publish_batch(stream, [])
    await asyncio.gather(
        *(conns[at % 2].publish_batch(stream, batch) for at, batch in enumerate(batches)),
        *(conns[at % 2].publish(stream, event) for at, event in enumerate(single)),
    )
    stored = await stored_ids(server.url, stream)
    assert len(stored) == 2200
    for batch in batches:
        ids = [event.id for event in batch]
        assert stored[stored.index(ids[0]) :][:100] == ids


async def test_batches_when_more_than_the_server_takes_at_once_are_all_stored(conn: eda.Conn, stream: str) -> None:
    # 50 of a stream may be under way; 100 are begun before any is complete.
    await conn.publish_batch(stream, [])
    batches = [[eda.Event(data=eda.Bytes(bytes(300_000))) for _ in range(2)] for _ in range(100)]
    await asyncio.gather(*(conn.publish_batch(stream, batch) for batch in batches))
    assert await n_stored(conn, stream) == 200


async def test_connection_when_closed_meanwhile_lets_the_batch_end(
    connect: Connect, server: eda.EmbeddedServer, stream: str
) -> None:
    conn = await connect()
    publishing = asyncio.create_task(conn.publish_batch(stream, numbered(1000)))
    await until(lambda: conn._lifetime.batches)
    await conn.close()
    assert len(await publishing) == 1000
    assert len(await stored_ids(server.url, stream)) == 1000


# --- refused before anything is sent ---------------------------------------------------------------------------------

GOOD = [eda.Event(id="a"), eda.Event(id="b")]
CULPRITS: dict[str, tuple[Any, type[eda.EdaError], str]] = {
    "no event": ({"type": "t"}, eda.ConfigError, "must be an eda.Event, not dict"),
    "the class": (eda.Event, eda.ConfigError, "must be an eda.Event"),
    "id with a space": (eda.Event(id="a b"), eda.ConfigError, "id must be printable ASCII"),
    "id with a line": (eda.Event(id="a\r\nNats-Rollup: all"), eda.ConfigError, "id must be printable ASCII"),
    "id too long": (eda.Event(id="x" * 129), eda.ConfigError, "id has 129 bytes"),
    "id twice": (eda.Event(id="b"), eda.ConfigError, r"has the id of events\[1\]: b"),
    "data": (eda.Event(data=eda.JSON(object())), eda.EncodeError, "cannot encode object as json"),
    "encoding": (eda.Event(data=eda.Data("nobody's", 1)), eda.UnknownEncoding, "nobody's"),
    "too large": (eda.Event(data=eda.Bytes(bytes(2**20))), eda.ConfigError, "over the server's max_payload of 1048576"),
    "type too long": (eda.Event(type="t" * 5000), eda.ConfigError, "too long for the server's protocol line"),
    "aggregate too long": (eda.Event(aggregate=" " * 1400), eda.ConfigError, "too long for the server's protocol"),
}


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> Any:
    async with Proxy(server.port) as proxy:
        yield proxy


async def assert_nothing_sent(conn: eda.Conn, proxy: Proxy, stream: str) -> None:
    await wire_of(conn).barrier(5)
    assert f"HPUB {stream}.".encode() not in proxy.sent
    assert ids_of(await conn.publish_batch(stream, GOOD)) == ["a", "b"]
    assert await n_stored(conn, stream) == 2


@pytest.mark.parametrize(("culprit", "kind", "text"), CULPRITS.values(), ids=CULPRITS)
async def test_batch_when_an_event_can_not_be_sent_names_it_and_sends_nothing(
    connect: Connect,
    server: eda.EmbeddedServer,
    proxy: Proxy,
    stream: str,
    culprit: Any,
    kind: type[eda.EdaError],
    text: str,
) -> None:
    conn = await connect(proxy.url(server.url))
    with pytest.raises(kind, match=text) as caught:
        await conn.publish_batch(stream, [*GOOD, culprit, eda.Event()])
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "events[2]" in told
    if isinstance(caught.value, eda.ConfigError):
        assert caught.value.argument == "events"
    await assert_nothing_sent(conn, proxy, stream)


@pytest.mark.parametrize("n", [1001, None])
async def test_batch_when_too_many_is_refused_and_nothing_sent(
    connect: Connect, server: eda.EmbeddedServer, proxy: Proxy, stream: str, n: int | None
) -> None:
    conn = await connect(proxy.url(server.url))
    events = (eda.Event() for _ in (range(n) if n else itertools.count()))
    with pytest.raises(eda.ConfigError, match="at most 1000 events"):
        await conn.publish_batch(stream, events)
    await assert_nothing_sent(conn, proxy, stream)


@pytest.mark.parametrize("events", [None, 5, eda.Event()], ids=["None", "int", "Event"])
async def test_batch_when_no_iterable_is_refused(conn: eda.Conn, stream: str, events: Any) -> None:
    with pytest.raises(eda.ConfigError, match="must be an iterable"):
        await conn.publish_batch(stream, events)


async def test_batch_when_the_iterable_fails_stores_nothing(conn: eda.Conn, stream: str) -> None:
    def failing() -> Iterable[eda.Event]:
        yield eda.Event()
        raise OSError("the file is gone")

    await conn.publish_batch(stream, [])
    with pytest.raises(OSError, match="the file is gone"):
        await conn.publish_batch(stream, failing())
    assert await n_stored(conn, stream) == 0


async def test_stream_when_its_name_is_wrong_is_refused(conn: eda.Conn) -> None:
    with pytest.raises(eda.ConfigError, match="stream must be"):
        await conn.publish_batch("a.b", GOOD)


async def test_largest_event_when_in_a_batch_is_stored(conn: eda.Conn, stream: str) -> None:
    low, high = 2**20 - 1000, 2**20
    while high - low > 1:
        size = (low + high) // 2
        try:
            await conn.publish_batch(stream, [eda.Event(data=eda.Bytes(bytes(size))), eda.Event()])
            low = size
        except eda.ConfigError:
            high = size
    assert 2**20 - low < 300
    assert conn.state == "connected"


# --- refused by the server -------------------------------------------------------------------------------------------


@with_batches
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_batch_when_an_id_was_published_before_is_refused_and_nothing_stored(
    conn: eda.Conn, stream: str, at: int
) -> None:
    await conn.publish(stream, eda.Event(id=f"e{at:07}"))
    with pytest.raises(eda.ServerError) as caught:
        await conn.publish_batch(stream, numbered(3))
    assert caught.value.err_code == 10201
    assert not caught.value.retryable
    assert await n_stored(conn, stream) == 1


async def test_batch_when_the_stream_is_full_is_refused_and_nothing_stored(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=5, discard="new"))
    await conn.publish_batch(stream, numbered(3))
    with pytest.raises(eda.ServerError, match="maximum messages exceeded"):
        await conn.publish_batch(stream, numbered(3, start=3))
    assert await n_stored(conn, stream) == 3
    await conn.publish_batch(stream, numbered(2, start=3))


async def test_batch_when_a_subject_is_forbidden_is_refused_at_once(logged: Logged) -> None:
    logged.expect("the server forbids")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["stream.secret.*"]}}}
    async with (
        eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server,
        eda.connect(f"nats://127.0.0.1:{server.port}", user="u", password="p") as conn,
    ):
        await conn.publish("stream")
        for events in ([eda.Event(type="secret"), eda.Event()], [eda.Event(), eda.Event(type="secret")]):
            async with asyncio.timeout(4):
                with pytest.raises(eda.ServerError, match=r"no permission to publish to stream\.secret"):
                    await conn.publish_batch("stream", events)
        assert ids_of(await conn.publish_batch("stream", GOOD)) == ["a", "b"]
        assert await n_stored(conn, "stream") == 3


@pytest.mark.parametrize("server_version", ["2.10.26"], indirect=True)
async def test_batch_when_the_server_is_too_old_is_not_supported(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.NotSupported, match=r"2\.12\.1 .*2\.10\.26"):
        await conn.publish_batch(stream, GOOD)
    assert await n_stored(conn, stream) == 0


@with_batches
async def test_batch_when_the_stream_takes_none_is_not_supported(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(atomic=False))
    with pytest.raises(eda.NotSupported, match=f"{stream}.*atomic on"):
        await conn.publish_batch(stream, GOOD)
    assert await n_stored(conn, stream) == 0


async def test_stream_when_there_is_none_and_none_may_be_made_is_not_found(connect: Connect, stream: str) -> None:
    conn = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await conn.publish_batch(stream, GOOD)


async def test_stream_when_it_listens_elsewhere_is_refused_before_anything_is_sent(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    # The stream of that name listens to other subjects. Another stream listens to the subjects of its events.
    other = {"num_replicas": 1, "storage": "file", "allow_atomic": True}
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}-x"], **other})
    await admin.api(f"STREAM.CREATE.{stream}-o", {"name": f"{stream}-o", "subjects": [f"{stream}.>"], **other})
    try:
        with pytest.raises(eda.ConfigError, match=f"listens to {stream}-x$"):
            await conn.publish_batch(stream, GOOD)
        assert (await conn.streams.info(f"{stream}-o")).events == 0
    finally:
        await admin.api(f"STREAM.DELETE.{stream}-o")


async def test_connection_when_closed_is_said_to_be(connect: Connect, stream: str) -> None:
    conn = await connect()
    await conn.close()
    with pytest.raises(eda.Closed):
        await conn.publish_batch(stream, GOOD)
