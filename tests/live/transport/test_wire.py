"""eda.transport.wire on real connections: closing, subscribing, and what a server may say at any time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

import eda
import eda.transport.wire
from eda.transport._frame import Collector
from eda.transport.addresses import parse_addresses
from eda.transport.wire import Wire
from helpers import Logged, Proxy, listening, until, wire_of
from support.transport.wires import opened

INFO = b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"headers":true}\r\n'


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_shut_when_something_is_left_to_write_and_the_server_is_away_closes_all(
    own_server: eda.EmbeddedServer, logged: Logged
) -> None:
    closed: list[str] = []
    wire = Wire(logging.getLogger("eda"))
    await wire.open(parse_addresses(own_server.url).urls, timeout_s=5.0, token=parse_addresses(own_server.url).token)
    wire.on_closed.append(lambda: closed.append("closed"))
    await wire.barrier(5.0)
    await own_server.kill()
    await until(lambda: not wire.is_up)
    await wire.publish("subject", b"kept by nats-py for the next connection")
    await wire.close_within()
    assert wire.is_closed
    assert closed == ["closed"]
    assert not logged.find("closing the connection", logging.WARNING)


async def test_shut_when_the_connection_breaks_meanwhile_closes_all(
    server: eda.EmbeddedServer, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drain(transport: TcpTransport) -> None:
        raise ConnectionResetError("Connection lost")

    async def ignore(message: object) -> None:
        """A message for nobody."""

    closed: list[str] = []
    async with opened(server.url) as wire:
        wire.on_closed.append(lambda: closed.append("closed"))
        await wire.subscribe("subject", cb=ignore)
        await wire.barrier(5.0)
        monkeypatch.setattr(TcpTransport, "drain", drain)
        monkeypatch.setattr(wire, "_flush_pending", lambda: asyncio.sleep(0))
        await wire._send_command(b"PING\r\n")
    assert wire.is_closed
    assert closed == ["closed"]
    assert logged.find("the connection was lost while it was closed: Connection lost", logging.WARNING)


async def test_shut_when_closing_fails_anyway_is_over_and_tells(
    server: eda.EmbeddedServer, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close(client: Client, status: int, do_cbs: bool = True) -> None:
        await original(client, status, do_cbs)
        raise ValueError("nobody expects this")

    original = Client._close
    async with opened(server.url) as wire:
        monkeypatch.setattr(Client, "_close", close)
    assert wire.is_closed
    assert logged.find("closing the connection failed: nobody expects this", logging.WARNING)


# --- frames ----------------------------------------------------------------------------------------------------------


class Strange(BaseException):
    """Nothing that anybody expects."""


@pytest.mark.parametrize("error", [Strange, ValueError, asyncio.CancelledError])
async def test_hooks_when_one_raises_are_called_all_the_same(
    own_server: eda.EmbeddedServer, logged: Logged, error: type[BaseException]
) -> None:
    told: list[str] = []

    def bad(*_: str) -> None:
        raise error

    def note(what: str) -> Callable[..., None]:
        return lambda *_: told.append(what)

    logged.expect("a callback for a change of the connection failed")
    logged.allow("the server forbids")
    async with Proxy(own_server.port) as proxy, opened(proxy.url(own_server.url)) as wire:
        for name in ("on_lost", "on_restored", "on_refused", "on_info", "on_closed"):
            hooks = getattr(wire, name)
            hooks[:0] = [bad]
            hooks.append(note(name))
        proxy.inject(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
        await until(lambda: "on_refused" in told)
        proxy.drop()
        await until(lambda: "on_restored" in told)
        await wire.barrier(5)
        wire.server_info(b'{"max_payload": 1048576}')
    assert set(told) == {"on_lost", "on_restored", "on_refused", "on_info", "on_closed"}


async def test_sink_when_attached_gets_every_frame_whatever_its_size(server: eda.EmbeddedServer, admin: Any) -> None:
    sizes = [0, 1, 2, 1000, 32 * 1024, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 1_000_000, 3, 1_048_000]
    payloads = [bytes([n]) * size for n, size in enumerate(sizes)]
    async with opened(server.url) as wire:
        sink = Collector()
        await wire.attach("frames.*", sink)
        await wire.barrier(5)
        for n, payload in enumerate(payloads):
            await admin.client.publish(f"frames.{n}", payload, headers={"n": str(n)} if n % 2 else None)
        await until(lambda: len(sink.frames) == len(sizes))
    assert [frame[0] for frame in sink.frames] == [f"frames.{n}".encode() for n in range(len(sizes))]
    assert [frame[3] for frame in sink.frames] == payloads
    assert [bool(frame[2]) for frame in sink.frames] == [bool(n % 2) for n in range(len(sizes))]


async def test_sink_when_detached_gets_nothing_after_the_barrier(server: eda.EmbeddedServer, admin: Any) -> None:
    async with opened(server.url) as wire, opened(server.url) as other:
        for _ in range(20):
            sink = Collector()
            subscription = await wire.attach("stop.*", sink)
            await wire.barrier(5)
            for n in range(500):
                other.out.command(b"PUB stop.%d 1\r\nx\r\n" % n)
            other.out.flush()
            await until(lambda sink=sink: sink.frames)
            await wire.detach(subscription)
            await wire.barrier(5)
            n_frames = len(sink.frames)
            other.out.command(b"PUB stop.late 1\r\nx\r\n")
            await other.barrier(5)
            await wire.barrier(5)
            assert len(sink.frames) == n_frames
            wire.release(subscription)


async def test_barrier_when_commands_are_pending_comes_after_them(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        subscription = await wire.attach("subject", Collector())
        wire.out.command(b"PUB subject 1\r\nx\r\n")
        proxy.sent.clear()
        await wire.detach(subscription)
        await wire.barrier(5)
        sent = bytes(proxy.sent)
    assert sent.index(b"UNSUB") < sent.index(b"PING")
    assert sent.index(b"PUB subject") < sent.index(b"PING")


async def test_commands_when_the_connection_was_just_lost_leave_the_number_of_its_socket_alone(
    server: eda.EmbeddedServer,
) -> None:
    """The next connection may have that number: whoever watches it there keeps that connection from being made."""
    async with opened(server.url) as wire:
        transport: Any = wire._transport
        number = transport._io_writer.get_extra_info("socket").fileno()
        transport._io_writer.transport.abort()
        transport.writelines([b"PING\r\n", b"PING\r\n"])
        assert not asyncio.get_running_loop().remove_writer(number)


async def test_barrier_when_nobody_answers_raises_timeout(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        proxy.hold()
        with pytest.raises(eda.Timeout):
            await wire.barrier(0.1)
        proxy.release()
        await wire.barrier(5)  # the late PONG is not this one's
        await wire.request("$JS.API.INFO", timeout=5)


async def test_barrier_when_closed_raises_closed(server: eda.EmbeddedServer) -> None:
    async with opened(server.url) as wire:
        pass
    with pytest.raises(eda.Closed):
        await wire.barrier(1)


async def test_subscription_when_attached_is_sent_before_what_follows(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        proxy.sent.clear()
        await wire.attach("subject", Collector())
        wire.out.command(b"PUB subject 1\r\nx\r\n")
        wire.out.flush()
        await wire.barrier(5)
        sent = bytes(proxy.sent)
    assert sent.index(b"SUB subject") < sent.index(b"PUB subject")


# --- what a server may say at any time -------------------------------------------------------------------------------


async def test_ping_when_the_server_sends_it_is_answered(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        proxy.sent.clear()
        proxy.inject(b"PING\r\n")
        await until(lambda: b"PONG\r\n" in proxy.sent)
        await wire.barrier(5)


async def test_info_when_it_comes_again_is_taken(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, eda.connect(proxy.url(server.url)) as conn:
        await conn.publish("info", eda.Event(data=eda.Bytes(bytes(6000))))
        proxy.inject(b'INFO {"max_payload":5000,"connect_urls":["127.0.0.1:1"]}\r\n')
        await until(lambda: wire_of(conn).max_payload == 5000)
        assert [url.port for url in wire_of(conn).discovered_servers] == [1]
        with pytest.raises(eda.ConfigError, match="max_payload of 5000"):
            await conn.publish("info", eda.Event(data=eda.Bytes(bytes(6000))))
        await conn.streams.delete("info")


async def test_ok_and_unknown_subscriptions_when_they_come_are_passed_over(server: eda.EmbeddedServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        proxy.inject(b"+OK\r\nMSG a 99 3\r\nabc\r\nHMSG a 98 12 15\r\nNATS/1.0\r\n\r\nabc\r\n+OK\r\n")
        await wire.barrier(5)
        await wire.request("$JS.API.INFO", timeout=5)


async def test_error_when_the_server_says_it_is_logged_and_the_connection_goes_on(
    server: eda.EmbeddedServer, logged: Logged
) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(server.url)) as wire:
        proxy.inject(b"-ERR 'Something Is Wrong'\r\n")
        await until(lambda: logged.find("Something Is Wrong", logging.WARNING))
        await wire.request("$JS.API.INFO", timeout=5)


GARBAGE = {
    "http": b"HTTP/1.1 200 OK\r\n\r\n",
    "binary": bytes(range(256)) + b"\n",
    "message without size": b"MSG a 1\r\n",
    "message with a word for size": b"MSG a 1 many\r\n",
    "message longer than announced": b"MSG a 1 1\r\nabc\r\n",
    "message too large": b"MSG a 1 99999999999\r\n",
    "headers longer than the message": b"HMSG a 1 20 10\r\n" + b"x" * 20 + b"\r\n",
    "info that is no json": b"INFO {\r\n",
    "info that is deep": b"INFO " + b'{"a":' * 5000 + b"\r\n",
    "info with odd urls": b'INFO {"connect_urls":[5]}\r\n',
    "line without end": b"x" * (1 << 21),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_when_the_server_sends_it_leads_to_a_new_connection(
    garbage: bytes, own_server: eda.EmbeddedServer, short_lease: float, logged: Logged
) -> None:
    logged.allow("the connection is cut", "nats: encountered error")
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url), client="me") as conn:
        seen: list[str] = []
        async with conn.subscribe("stream", lambda event: seen.append(event.id), durable=True):
            await conn.publish("stream")
            await until(lambda: len(seen) == 1)
            proxy.inject(garbage)
            await until(lambda: conn.state == "reconnected")
            await conn.publish("stream")
            await until(lambda: len(seen) == 2)


async def test_garbage_when_the_first_answer_carries_it_fails_the_connect() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\nnonsense\r\n")
        await reader.read()

    async with listening(serve) as port:
        with pytest.raises(eda.ConnectError):
            await eda.connect(f"nats://127.0.0.1:{port}", connect_timeout_s=0.5)


async def test_frames_when_they_come_with_the_first_pong_are_not_lost() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\nPING\r\nPI")
        await writer.drain()
        assert await reader.readuntil(b"PONG\r\n") == b"PONG\r\n"
        writer.write(b"NG\r\n")
        answers.put_nowait(await reader.readuntil(b"PONG\r\n"))
        await reader.read()

    answers: asyncio.Queue[bytes] = asyncio.Queue()
    async with listening(serve) as port, opened(f"nats://127.0.0.1:{port}"):
        assert await asyncio.wait_for(answers.get(), 5) == b"PONG\r\n"
