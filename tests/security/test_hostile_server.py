"""A server that means no good: the error is clear, memory has a bound, and better servers are found."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest

import eda
from helpers import Logged, listening, until, wire_of
from support.transport.fake_server import INFO, FakeServer, parse_commands, stream_info

Bounded = Callable[[int], AbstractContextManager[None]]


async def works(conn: eda.Conn) -> None:
    async with asyncio.timeout(15):
        assert (await conn.publish("still", eda.Event(id="here"))).id == "here"


# --- what it says of itself ------------------------------------------------------------------------------------------

ODD_INFO: dict[str, Any] = {
    "a list": b"INFO []\r\n",
    "a number": b"INFO 5\r\n",
    "a text": b'INFO "x"\r\n',
    "null": b"INFO null\r\n",
    "no json": b"INFO {\r\n",
    "nothing": b"INFO \r\n",
    "deep": b"INFO " + b'{"a":' * 3000 + b"\r\n",
    "not utf-8": b'INFO {"version":"\xff"}\r\n',
    "a long number": b'INFO {"max_payload":' + b"9" * 5000 + b"}\r\n",
    "long": b'INFO {"a":"' + b"x" * 200_000 + b'"}\r\n',
    "max_payload text": {"max_payload": "1048576"},
    "max_payload negative": {"max_payload": -1},
    "max_payload zero": {"max_payload": 0},
    "max_payload huge": {"max_payload": 2**63},
    "max_payload float": {"max_payload": 1e300},
    "max_payload nan": b'INFO {"max_payload":NaN}\r\n',
    "max_payload null": {"max_payload": None},
    "version list": {"version": [2, 12]},
    "version long": {"version": "2" * 20_000},
    "nonce number": {"nonce": 5, "auth_required": True},
    "headers text": {"headers": "yes"},
    "tls_required text": {"tls_required": "please"},
    "auth_required list": {"auth_required": [1]},
    "client_id text": {"client_id": "x"},
    "connect_urls text": {"connect_urls": "127.0.0.1:4222"},
    "connect_urls numbers": {"connect_urls": [1, 2]},
    "connect_urls object": {"connect_urls": {"a": 1}},
}


@pytest.mark.parametrize("odd", ODD_INFO.values(), ids=ODD_INFO)
async def test_info_when_it_is_nonsense_at_first_fails_the_connect_and_says_why(odd: Any) -> None:
    async with FakeServer(odd if isinstance(odd, bytes) else INFO | odd) as server:
        begin = time.monotonic()
        with pytest.raises(eda.ConnectError) as caught:
            await eda.connect(server.url, user="me", password="hunter2", connect_timeout_s=0.3)
        assert time.monotonic() - begin < 4
        assert not server.commands, "credentials went to who can't even greet"
    assert server.url in str(caught.value)
    assert len(str(caught.value)) < 1300
    if isinstance(odd, dict):
        assert next(iter(odd)) in str(caught.value)


# Of a server that is connected a long one is none of nonsense.
LATER_INFO = {what: odd for what, odd in ODD_INFO.items() if what != "long"}


@pytest.mark.parametrize("odd", LATER_INFO.values(), ids=LATER_INFO)
async def test_info_when_it_is_nonsense_later_leads_to_a_new_connection(
    odd: Any, fake: FakeServer, logged: Logged
) -> None:
    logged.allow("the connection is cut")
    async with eda.connect(fake.url) as conn:
        await works(conn)
        fake.send(odd if isinstance(odd, bytes) else b"INFO %b\r\n" % json.dumps(INFO | odd).encode())
        await until(lambda: conn.state == "reconnected", 5)
        await works(conn)
    assert logged.find("the connection is cut, .*: .*(INFO|protocol)", logging.ERROR)


async def test_info_when_one_of_several_servers_says_nonsense_takes_another(fake: FakeServer) -> None:
    for odd in (b"INFO []\r\n", b'INFO {"max_payload":"x"}\r\n', b'INFO {"tls_required":5}\r\n', b"INFO \xff\r\n"):
        async with FakeServer(odd) as bad, eda.connect([bad.url, fake.url], connect_timeout_s=3) as conn:
            await works(conn)


async def test_info_when_it_names_ever_new_servers_keeps_few(fake: FakeServer, growing_by_at_most: Bounded) -> None:
    async with eda.connect(fake.url) as conn:
        pool = wire_of(conn)._server_pool
        with growing_by_at_most(30):
            for n in range(12):
                urls = [f"127.0.{n}.{i % 256}:{i + 1}" for i in range(3000)]
                fake.send(b"INFO %b\r\n" % json.dumps(INFO | {"connect_urls": urls}).encode())
                await fake.drain()
            await works(conn)
        assert len(pool) <= 1001
        assert pool[0].uri.port == fake.port or any(each.uri.port == fake.port for each in pool)


async def test_info_when_it_names_bad_servers_never_tries_them(fake: FakeServer) -> None:
    bad = ["", ":", "[::1", "host:port", "a:0", "a:70000", "u:p@host:1", "a/b", "a?b", "a#b", "a b:1", "a\r\nPUB x 0:1"]
    bad += ["\u2028:1", "a\\b:1", "x" * 100 + "\x00:1"]
    async with eda.connect(fake.url) as conn:
        fake.send(b"INFO %b\r\n" % json.dumps(INFO | {"connect_urls": bad}).encode())
        await works(conn)
        assert [each.uri.netloc for each in wire_of(conn)._server_pool] == [f"127.0.0.1:{fake.port}"]


async def test_info_when_it_leads_to_servers_that_are_none_comes_back(fake: FakeServer, logged: Logged) -> None:
    logged.allow("the connection is cut")

    async def greets_badly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n-ERR 'x'\r\nMSG a 1 5\r\n")
        await reader.read()

    async with listening(greets_badly) as port, eda.connect(fake.url) as conn:
        fake.send(b"INFO %b\r\n" % json.dumps(INFO | {"connect_urls": [f"127.0.0.1:{port}"]}).encode())
        await works(conn)
        fake.send(b"nonsense\r\n")
        await until(lambda: conn.state == "reconnected", 8)
        await works(conn)


async def test_bytes_when_they_come_in_the_clear_before_tls_are_not_taken_for_the_servers() -> None:
    """Who sits in between can't put words into the server's mouth ahead of the TLS handshake."""

    async def injects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = json.dumps(INFO | {"tls_required": True}).encode()
        writer.write(b"INFO %b\r\nPONG\r\nMSG a 1 1\r\nx\r\n" % info)
        seen.append(await reader.read(65536))

    seen: list[bytes] = []
    async with listening(injects) as port:
        with pytest.raises(eda.ConnectError):
            await eda.connect(
                f"tls://127.0.0.1:{port}", token="hunter2", tls=ssl.create_default_context(), connect_timeout_s=0.5
            )
    assert seen
    assert all(each[:2] == b"\x16\x03" and b"hunter2" not in each for each in seen if each), "a ClientHello, no CONNECT"


# --- frames ----------------------------------------------------------------------------------------------------------

FRAMES = {
    "negative": b"MSG a 1 -1\r\n",
    "overflowing": b"MSG a 1 18446744073709551616\r\n",
    "beyond 64 bits": b"MSG a 1 " + b"9" * 400 + b"\r\n",
    "max int": b"MSG a 1 9223372036854775807\r\nx\r\n",
    "too large": b"MSG a 1 67174401\r\nx\r\n",
    "hex": b"MSG a 1 0x10\r\n",
    "float": b"MSG a 1 1.5\r\nx\r\n",
    "sid negative": b"MSG a -1 1\r\nx\r\n",
    "sid overflowing": b"MSG a 99999999999999999999999 1\r\nx\r\n",
    "headers negative": b"HMSG a 1 -1 5\r\nhello\r\n",
    "headers beyond the message": b"HMSG a 1 6 5\r\nhello\r\n",
    "longer than announced": b"MSG a 1 3\r\nhello\r\n",
    "shorter than announced": b"MSG a 1 7\r\nhello\r\nPING\r\n",
    "seven words": b"HMSG a 1 b c 1 1\r\nx\r\n",
    "verb unknown": b"PWNED\r\n",
    "verb of a client": b"PUB a 0\r\n\r\n",
    "nothing": b"\r\n",
    "zeros": bytes(300) + b"\r\n",
    "lower case": b"msg a 1 1\r\nx\r\n",
    "error without text": b"-ERR\r\n",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_frame_when_it_is_nonsense_leads_to_a_new_connection(
    frame: bytes, fake: FakeServer, logged: Logged
) -> None:
    logged.expect("the connection is cut, ")
    async with eda.connect(fake.url) as conn:
        under_way = [asyncio.create_task(conn.publish("still", eda.Event(id=f"e{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        fake.send(frame)
        await until(lambda: conn.state == "reconnected", 5)
        async with asyncio.timeout(5):
            assert [receipt.id for receipt in await asyncio.gather(*under_way)] == [f"e{n}" for n in range(10)]
        await works(conn)
    assert fake.n_accepted == 2


async def test_line_when_it_never_ends_is_cut_off_at_a_mebibyte(
    fake: FakeServer, logged: Logged, growing_by_at_most: Bounded
) -> None:
    logged.expect("a protocol line of more than 1 MiB")
    async with eda.connect(fake.url) as conn:
        with growing_by_at_most(20):
            with suppress(ConnectionError):
                for _ in range(100):
                    fake.send(b"INFO" + b"x" * 65_532)
                    await fake.drain()
            await until(lambda: conn.state == "reconnected", 5)
        await works(conn)


async def test_message_when_it_is_announced_and_never_comes_costs_nothing(
    fake: FakeServer, growing_by_at_most: Bounded
) -> None:
    async with eda.connect(fake.url):
        with growing_by_at_most(10):
            fake.send(b"MSG a 1 67108864\r\n" + b"x" * 1000)
            await asyncio.sleep(0.1)


async def test_messages_when_nobody_asked_for_them_are_dropped(
    fake: FakeServer, growing_by_at_most: Bounded, logged: Logged
) -> None:
    """Subjects that look like ours, for subscriptions that there are and that there are not."""
    async with eda.connect(fake.url) as conn:
        await works(conn)
        with growing_by_at_most(60):
            inbox = next(c.subject for c in fake.find(b"SUB", b"_INBOX."))
            sid = fake.sid_of(inbox)
            for subject in (
                inbox[:-2],
                inbox[:-1],
                inbox,
                inbox[:-1] + b"\xff\xfe",
                b"$JS.ACK.a.b.1.1.1.1.1",
                b"a" * 4000,
            ):
                for each in (sid, b"0", b"999999", b"1"):
                    for size in (0, 10, 100_000):
                        fake.send(b"MSG %b %b %d\r\n%b\r\n" % (subject, each, size, bytes(size)))
            await fake.drain()
            await works(conn)
    assert fake.n_accepted == 1
    assert logged.find("a message that can't be read is dropped", logging.WARNING)


async def test_message_when_it_is_huge_and_nobody_asked_for_it_is_dropped(
    fake: FakeServer, growing_by_at_most: Bounded, logged: Logged
) -> None:
    logged.expect("a message of 67174401 bytes")
    async with eda.connect(fake.url) as conn:
        with growing_by_at_most(300):  # it is in several hands for a while, this process's server among them
            fake.send(b"MSG x 12345 33554432\r\n" + bytes(33_554_432) + b"\r\n")
            await fake.drain()
            await works(conn)
        assert fake.n_accepted == 1
        fake.send(b"MSG x 12345 67174401\r\n")
        await until(lambda: conn.state == "reconnected", 5)


@pytest.mark.parametrize(
    "headers", [b"N", b"NATS/1.0", b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"\xff" * 30, b"NATS/1.0\r\n\xff\r\n"], ids=repr
)
async def test_headers_when_they_are_none_cost_a_request_its_answer_at_most(headers: bytes, fake: FakeServer) -> None:
    async with eda.connect(fake.url) as conn:
        await works(conn)
        fake.answers["STREAM.INFO.odd"] = None
        asking = asyncio.create_task(conn.streams.info("odd"))
        await until(lambda: fake.find(b"PUB", b"$JS.API.STREAM.INFO.odd"))
        reply = fake.find(b"PUB", b"$JS.API.STREAM.INFO.odd")[-1].reply
        fake.say(reply, json.dumps(stream_info("odd")).encode(), headers=headers)
        await works(conn)
        asking.cancel()
        await asyncio.wait({asking})
    assert fake.n_accepted == 1


FLOODS = [(b"PING\r\n", 2**20), (b"PONG\r\n", 2**20), (b"+OK\r\n", 2**25), (b"MSG a 77 1\r\nx\r\n", 2**20)]
FLOODS += [(b"-ERR '%b'\r\n" % (b"x" * 30_000), 2**23)]


@pytest.mark.parametrize(("what", "n_bytes"), FLOODS, ids=["ping", "pong", "ok", "message", "error"])
async def test_flood_when_nobody_reads_its_answers_takes_no_memory(
    what: bytes, n_bytes: int, growing_by_at_most: Bounded
) -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO %b\r\n" % json.dumps(INFO).encode())
        data = await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        while not (requests := [each for each in parse_commands(data)[0] if each.reply]):
            data += await reader.readuntil(b"\r\n")
        request = requests[0]
        sid = next(each.arguments[1] for each in parse_commands(data)[0] if each.verb == b"SUB")
        body = b'{"api":{"level":2}}'
        writer.write(b"MSG %b %b %d\r\n%b\r\n" % (request.reply, sid, len(body), body))
        writer.transport.set_write_buffer_limits(high=1 << 20)
        reader._transport.pause_reading()
        ready.set()
        # A server that is held back may stop here for ever.
        for _ in range(n_bytes // 65_536):
            writer.write(what * (65_536 // len(what)))
            await writer.drain()
        await asyncio.Event().wait()

    ready = asyncio.Event()
    async with listening(floods) as port, eda.connect(f"nats://127.0.0.1:{port}", connect_timeout_s=3):
        with growing_by_at_most(40):
            await ready.wait()
            await asyncio.sleep(0.5)


async def test_error_text_when_it_has_control_characters_is_logged_without_them(
    fake: FakeServer, logged: Logged
) -> None:
    async with eda.connect(fake.url) as conn:
        fake.send(b"-ERR 'Odd \x1b[31mred\x1b[0m \x08\x08 \r fake log line \xe2\x80\xa8 " + b"y" * 50_000 + b"'\r\n")
        await works(conn)
    (record,) = logged.find("the server reports an error: ")
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 1100


async def test_permission_errors_when_they_are_forged_end_only_what_they_name(fake: FakeServer, logged: Logged) -> None:
    logged.expect("the server forbids")
    async with eda.connect(fake.url) as conn:
        for text in (
            b"'Permissions Violation for Publish to'",
            b"'Permissions Violation'",
            b"'permissions violation \"'",
        ):
            fake.send(b"-ERR %b\r\n" % text)
        await works(conn)
        fake.on_publish = lambda command: fake.send(
            b"-ERR 'Permissions Violation for Publish to \"%b\"'\r\n" % command.subject
        )
        with pytest.raises(eda.ServerError, match=r"no permission to publish to still\._\._") as caught:
            await conn.publish("still")
        assert caught.value.code == 403
        fake.on_publish = None
        await works(conn)
