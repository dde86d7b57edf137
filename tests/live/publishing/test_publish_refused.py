"""conn.publish with wrong arguments: the error names the wrong one, and nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, Proxy, sender_of, until, wire_of


class Watched:
    """A connection with a stream; all bytes that it writes are recorded."""

    def __init__(self, conn: eda.Conn, stream: str, proxy: Proxy) -> None:
        self.conn, self.stream, self.proxy = conn, stream, proxy

    async def sends_nothing(self) -> None:
        await wire_of(self.conn).barrier(5)
        assert bytes(self.proxy.sent).replace(b"PING\r\n", b"") == b""


@pytest.fixture
async def watched(server: eda.EmbeddedServer, connect: Connect, stream: str) -> AsyncIterator[Watched]:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.sent.clear()
        yield Watched(conn, stream, proxy)
        await conn.close()


async def refused(watched: Watched, kind: type[eda.EdaError], *args: Any, **options: Any) -> Any:
    """Return the error of publishing. Check that nothing was sent, and that the next event is stored."""
    with pytest.raises(kind) as caught:
        await watched.conn.publish(*args, **options)
    await watched.sends_nothing()
    await watched.conn.publish(watched.stream)
    assert (await watched.conn.streams.info(watched.stream)).events == 2
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.b",
        "a b",
        "*",
        ">",
        "a/b",
        "-a",
        "_a",
        "é",
        "a" * 65,
        "a\r\nPUB b 0\r\n",
        "a\x00",
        5,
        None,
        b"bytes",
        ["a"],
    ],
    ids=repr,
)
async def test_stream_when_its_name_is_wrong_is_refused(watched: Watched, name: Any) -> None:
    error = await refused(watched, eda.ConfigError, name)
    assert error.argument == "stream"
    assert repr(name) in str(error)


@pytest.mark.parametrize(
    "id", ["a b", " ", "a\r\nX: y", "\x00", "\x7f", "é", "a\t", "x" * 129], ids=lambda id: repr(id)[:12]
)
async def test_id_when_it_can_not_be_a_header_is_refused(watched: Watched, id: str) -> None:
    error = await refused(watched, eda.ConfigError, watched.stream, eda.Event(id=id))
    assert error.argument == "id"
    assert repr(id)[1:30] in str(error)


@pytest.mark.parametrize("event", [{"type": "t"}, "text", b"bytes", 5, eda.JSON(1), eda.Event], ids=repr)
async def test_event_when_it_is_none_of_ours_is_refused(watched: Watched, event: Any) -> None:
    error = await refused(watched, eda.ConfigError, watched.stream, event)
    assert error.argument == "event"
    assert type(event).__name__ in str(error)


@pytest.mark.parametrize("timeout_s", [0, -1, 60.1, 1e9, float("inf"), float("nan"), "5", 5j, True], ids=repr)
async def test_timeout_when_out_of_range_is_refused_naming_both(watched: Watched, timeout_s: Any) -> None:
    error = await refused(watched, eda.ConfigError, watched.stream, timeout_s=timeout_s)
    assert error.argument == "timeout_s"
    assert repr(timeout_s) in str(error)
    assert "120" in str(error)
    assert watched.stream in str(error)


async def test_timeout_when_the_streams_window_is_shorter_is_refused(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=10))
    with pytest.raises(eda.ConfigError, match=r"timeout_s=5\.5 .* 5: .*10 s"):
        await conn.publish(stream, timeout_s=5.5)
    await conn.publish(stream, timeout_s=5)
    assert (await conn.streams.info(stream)).events == 1


async def test_payload_when_larger_than_the_server_takes_is_refused(watched: Watched) -> None:
    event = eda.Event(id="big", type="large-one", data=eda.Bytes(bytes(2**20)))
    error = await refused(watched, eda.ConfigError, watched.stream, event)
    assert error.argument == "data"
    for part in (str(2**20), "large-one", watched.stream, "max_payload"):
        assert part in str(error)


async def test_payload_when_as_large_as_the_server_takes_is_stored(conn: eda.Conn, stream: str) -> None:
    low, high = 2**20 - 400, 2**20
    while high - low > 1:
        size = (low + high) // 2
        try:
            await conn.publish(stream, eda.Event(id=f"n{size}", time=1, data=eda.Bytes(bytes(size))))
            low = size
        except eda.ConfigError:
            high = size
    got: asyncio.Queue[eda.Event] = asyncio.Queue()
    async with conn.subscribe(stream, got.put_nowait, backfill=True):
        async with asyncio.timeout(5):
            while len((await got.get()).data.encode()) != low:
                pass
    assert conn.state == "connected"


@pytest.mark.parametrize(("field", "other"), [("type", "aggregate"), ("aggregate", "type")])
async def test_subject_when_too_long_for_a_line_is_refused(watched: Watched, field: str, other: str) -> None:
    event = eda.Event(**{field: "long" * 1100, other: "short"})
    error = await refused(watched, eda.ConfigError, watched.stream, event)
    assert error.argument == field
    assert "longlong" in str(error)
    assert "4096" in str(error)


async def test_subject_when_as_long_as_a_line_takes_is_stored(conn: eda.Conn, stream: str, admin: Admin) -> None:
    low, high = 3000, 4096
    while high - low > 1:
        size = (low + high) // 2
        try:
            await conn.publish(stream, eda.Event(id="i" * 128, type="t" * size, data=eda.Bytes(bytes(99_999))))
            low = size
        except eda.ConfigError:
            high = size
    assert low > 3900
    assert conn.state == "connected"


class Unknown:
    pass


@pytest.mark.parametrize(
    ("data", "encoding", "culprit"),
    [
        (eda.JSON(Unknown()), "json", "Unknown"),
        (eda.JSON({"deep": [Unknown()]}), "json", "Unknown"),
        (eda.MsgPack(Unknown()), "msgpack", "Unknown"),
        (eda.MsgPack(2**70), "msgpack", "int"),
        (eda.String("\ud800"), "string", "str"),
    ],
    ids=str,
)
async def test_data_when_its_encoding_can_not_take_it_is_refused(
    watched: Watched, data: eda.Data, encoding: str, culprit: str
) -> None:
    error = await refused(watched, eda.EncodeError, watched.stream, eda.Event(id="id-1", data=data))
    assert error.encoding == encoding
    assert encoding in str(error)
    assert culprit in str(error)


async def test_data_when_nobody_registered_its_encoding_is_refused(watched: Watched) -> None:
    error = await refused(watched, eda.UnknownEncoding, watched.stream, eda.Event(data=eda.Data("morse", "text")))
    assert error.encoding == "morse"


async def test_text_when_it_is_no_unicode_is_refused(watched: Watched) -> None:
    for field in ("type", "aggregate", "schema", "cause", "client", "id"):
        with pytest.raises(eda.EdaError, match=field):
            await watched.conn.publish(watched.stream, eda.Event(**{field: "\ud800"}))
    with pytest.raises(eda.EdaError, match="meta"):
        await watched.conn.publish(watched.stream, eda.Event(meta={"key": "\ud800"}))
    await watched.sends_nothing()


async def test_publish_when_refused_among_others_leaves_those_alone(conn: eda.Conn, stream: str, admin: Admin) -> None:
    def event(n: int) -> eda.Event:
        return eda.Event(id="bad id") if n % 10 == 0 else eda.Event(id=f"good-{n}")

    results = await asyncio.gather(*(conn.publish(stream, event(n)) for n in range(1000)), return_exceptions=True)
    assert sum(isinstance(each, eda.ConfigError) for each in results) == 100
    assert await admin.ids(stream) == [f"good-{n}" for n in range(1000) if n % 10]


# --- refused by the server -------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_publish_when_the_stream_is_full_raises_server_error(conn: eda.Conn, stream: str) -> None:
    big = eda.Event(data=eda.Bytes(bytes(500)))

    async def fill() -> None:
        async with asyncio.timeout(5):
            for _ in range(10):
                await conn.publish(stream, big)

    for options in ({"max_events": 3}, {"max_bytes": 2000}):
        await conn.streams.create(stream, eda.StreamOptions(discard="new", **options))
        with pytest.raises(eda.ServerError, match="maximum") as caught:
            await fill()
        assert caught.value.operation == f"publish to {stream}"
        await conn.streams.purge(stream)
        await conn.publish(stream, big)
        await conn.streams.delete(stream)


@pytest.mark.old_server
async def test_publish_when_the_stream_is_sealed_raises_server_error(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.publish(stream)
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"sealed": True})
    with pytest.raises(eda.ServerError, match="seal") as caught:
        await asyncio.wait_for(conn.publish(stream), 5)
    assert not caught.value.retryable


@pytest.mark.old_server
async def test_publish_when_another_stream_owns_the_subject_raises_server_error(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    other = f"{stream}-other"
    await admin.js.add_stream(name=other, subjects=[f"{stream}.>"])
    try:
        with pytest.raises(eda.ServerError, match="overlap"):
            await conn.publish(stream)
        await admin.js.delete_stream(other)
        await conn.publish(stream)
        await admin.js.delete_stream(stream)
        await admin.js.add_stream(name=other, subjects=[f"{stream}.>"])
        with pytest.raises(eda.ServerError, match=other):
            await asyncio.wait_for(conn.publish(stream), 5)
    finally:
        await admin.js.delete_stream(other)


@pytest.mark.old_server
async def test_publish_when_the_subject_is_forbidden_fails_that_one(executable: Any, logged: Logged) -> None:
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["stream.secret.*"]}}}
    logged.expect("forbids.*stream.secret._")
    async with eda.EmbeddedServer(config={"authorization": {"users": [user]}}, executable=executable) as server:
        conn = await eda.connect(f"nats://u:p@127.0.0.1:{server.port}")
        secret = asyncio.create_task(conn.publish("stream", eda.Event(type="secret")))
        others = [asyncio.create_task(conn.publish("stream", eda.Event(type=f"t{n}"))) for n in range(50)]
        with pytest.raises(eda.ServerError, match="secret") as caught:
            await asyncio.wait_for(secret, 5)
        assert caught.value.code == 403
        assert not caught.value.retryable
        await asyncio.wait_for(asyncio.gather(*others), 5)
        assert conn.state == "connected"
        await conn.close()


async def test_acknowledgement_when_forged_is_passed_over(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    await conn.publish(stream)
    inbox = sender_of(conn).inbox.decode()
    forged = [
        b"", b"{}", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"stream":"\xff","seq":1}', b'{"stream":5}',
        b'{"error":[]}', b'{"error":{"code":"x"}}', b"[" * 10_000, b'{"error":' * 5000, b'{"a":' * 5000, b"{" * 100,
        b'{"stream":"other","seq":1}', b'{"stream":"","seq":1}', b'{"stream":"' + stream.encode(), b'{"seq":1}',
        b'{"stream":"%s","seq":0}' % stream.encode(), b'{"stream":"%s","seq":99999999999999999999}' % stream.encode(),
    ]  # fmt: skip
    numbers = ("0", "1", "2", "18446744073709551615", "99999999999999999999999", "x", "-1")
    parser = wire_of(conn).parser
    n_before = parser.n_frames
    for payload in forged:
        for number in numbers:
            await admin.client.publish(f"{inbox}{number}", payload)
    # nats-py's flush does not wait for its own publishes.
    await until(lambda: parser.n_frames == n_before + len(forged) * len(numbers))
    await conn.publish(stream)
    assert conn.state == "connected"
    assert not logged.find("dropped")


async def test_acknowledgement_when_forged_for_one_that_waits_does_not_settle_it(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin
) -> None:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.hold()
        publishing = asyncio.create_task(conn.publish(stream))
        await until(lambda: sender_of(conn).n_pending == 1)
        inbox = sender_of(conn).inbox.decode()
        (seq,) = sender_of(conn).window.pending()
        for payload in (
            b"",
            b"{}",
            b"\xff",
            b'{"a":' * 5000,
            b"[" * 10_000,
            b'{"error":' * 5000,
            b'{"stream":"\xff","seq":1}',
        ):
            await admin.client.publish(f"{inbox}{seq}", payload)
        await admin.flush()
        await asyncio.sleep(0.1)
        assert not publishing.done()
        proxy.release()
        await asyncio.wait_for(publishing, 10)
        assert conn.state == "connected"
        await conn.close()
