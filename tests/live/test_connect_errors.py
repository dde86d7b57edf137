"""eda.connect where it can't: the error comes in time, names the address, and keeps secrets."""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.aio.client import Client

import eda
from helpers import LOOPS, Logged, free_port, listening

SECRET = "hunter2-secret"


def shows(error: BaseException, secret: str) -> bool:
    """Tell whether the secret can be read in the error or what caused it."""
    texts = [str(error), repr(error), str(pickle.dumps(error)), str(error.__dict__)]
    for cause in (error.__cause__, error.__context__):
        if cause is not None:
            texts += [str(cause), repr(cause)]
    return any(secret in text for text in texts)


async def refused(addr: Any, **options: Any) -> tuple[eda.ConnectError, float]:
    """Return the ConnectError of connecting, and how long it took."""
    begin = time.monotonic()
    with pytest.raises(eda.ConnectError) as caught:
        await eda.connect(addr, **options)
    return caught.value, time.monotonic() - begin


USERS = {"users": [{"user": "me", "password": SECRET}]}


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("config", "userinfo", "options"),
    [
        (USERS, f"me:{SECRET}@", {}),
        (USERS, "", {"user": "me", "password": SECRET}),
        (USERS, f"wrong:{SECRET}x@", {"user": "me", "password": SECRET}),
        ({"token": SECRET}, f"{SECRET}@", {}),
        ({"token": SECRET}, "", {"token": SECRET}),
        ({"token": "with/@:%"}, "with%2F%40%3A%25@", {}),
    ],
    ids=["user in url", "user", "arguments win", "token in url", "token", "escaped"],
)
async def test_connect_when_the_credentials_are_right_works(
    config: dict[str, Any], userinfo: str, options: dict[str, Any], server_version: str, executable: Path | None
) -> None:
    async with eda.EmbeddedServer(config={"authorization": config}, executable=executable) as server:
        conn = await eda.connect(f"nats://{userinfo}127.0.0.1:{server.port}", **options)
        assert SECRET not in repr(conn)
        await conn.close()


async def test_connect_when_an_nkey_is_given_signs_with_it(tmp_path: Path) -> None:
    pair = nkeys.from_seed(bytearray(b"SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"))
    (tmp_path / "seed.nk").write_bytes(b"SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU")
    config = {"authorization": {"users": [{"nkey": pair.public_key.decode()}]}}
    async with eda.EmbeddedServer(config=config) as server:
        async with eda.connect(server.url, nkey=tmp_path / "seed.nk") as conn:
            await conn.publish("stream")
        error, _ = await refused(server.url)
        assert "uthorization" in str(error)


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("userinfo", "options"),
    [
        (f"me:{SECRET}@", {}),
        ("", {"user": "me", "password": SECRET}),
        (f"{SECRET}@", {}),
        ("", {"token": SECRET}),
        ("", {}),
    ],
    ids=["user in url", "user", "token in url", "token", "none"],
)
async def test_connect_when_the_credentials_are_wrong_fails_at_once_without_the_secret(
    userinfo: str, options: dict[str, Any], server: eda.EmbeddedServer, logged: Logged
) -> None:
    error, seconds = await refused(f"nats://{userinfo}127.0.0.1:{server.port}", **options)
    assert seconds < 4
    assert error.address == f"nats://127.0.0.1:{server.port}"
    assert "authorization" in str(error).lower()
    assert not error.retryable
    assert not shows(error, SECRET)
    assert SECRET not in logged.text()


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_connect_when_nobody_listens_fails_in_time_naming_the_address(
    new_loop: Callable[[], asyncio.AbstractEventLoop], logged: Logged
) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    timeout_s = 4.0 if sys.platform == "win32" else 0.5  # Windows itself tries again for 2 s

    async def main() -> tuple[eda.ConnectError, float]:
        return await refused(url.replace("//", f"//me:{SECRET}@"), connect_timeout_s=timeout_s)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        error, seconds = runner.run(main())
    assert 0.9 * timeout_s < seconds < timeout_s + 4
    assert url in str(error)
    assert "refused" in str(error).lower() or "connect call failed" in str(error).lower()
    assert error.retryable
    assert not shows(error, SECRET)
    assert SECRET not in logged.text()


async def test_connect_when_several_are_dead_names_all() -> None:
    urls = [f"nats://127.0.0.1:{free_port()}" for _ in range(3)]
    error, _ = await refused(urls, connect_timeout_s=0.4)
    assert all(url in str(error) for url in urls)


async def test_connect_when_the_name_is_unknown_says_so() -> None:
    error, _ = await refused("nats://no-such-host.invalid", connect_timeout_s=0.5)
    assert "nats://no-such-host.invalid:4222" in str(error)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An INFO line that never ends."""
    writer.write(b'INFO {"server_id":')
    await reader.read()


async def mute_after_info(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576}\r\n')
    await reader.read()


async def closes_after_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576}\r\n')
    await reader.readuntil(b"PING\r\n")


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def bad_json(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"INFO {nonsense}\r\n")
    await reader.read()


async def chatters(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line without an end."""
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def no_pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576}\r\n')
    await reader.readuntil(b"PING\r\n")
    writer.write(b"+OK\r\nMSG a 1 1\r\nx\r\n")
    await reader.read()


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize(
    "peer",
    [silent, http, half, mute_after_info, closes_after_connect, closes, bad_json, chatters, no_pong],
    ids=lambda peer: peer.__name__,
)
def test_connect_when_the_peer_is_no_nats_server_fails_in_time(
    peer: Callable[..., Any], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with listening(peer) as port:
            error, seconds = await refused(f"nats://127.0.0.1:{port}", connect_timeout_s=0.6)
            assert seconds < 4
            assert f"nats://127.0.0.1:{port}" in str(error)
            assert len(error.reason) > 10, error.reason
            assert not asyncio.all_tasks() - {asyncio.current_task(), *serving()}

    def serving() -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks() if "listening" in repr(task.get_coro())}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_connect_when_a_cancellation_is_swallowed_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.11's wait_for does at times: nats-py then goes on connecting."""
    n_swallowed = 0

    async def connect_to_server(*_: object) -> None:
        nonlocal n_swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                n_swallowed += 1
                if n_swallowed > 3:
                    raise

    monkeypatch.setattr(Client, "_connect_to_server", connect_to_server)
    _, seconds = await refused("nats://127.0.0.1:1", connect_timeout_s=0.5)
    assert seconds < 4
    assert n_swallowed == 4


async def test_connect_when_jetstream_is_off_is_not_supported_at_once(executable: Path | None) -> None:
    async with eda.EmbeddedServer(config={"jetstream": None}, executable=executable) as server:
        begin = time.monotonic()
        with pytest.raises(eda.NotSupported, match="JetStream") as caught:
            await eda.connect(server.url)
        assert time.monotonic() - begin < 4
        assert caught.value.server == f"nats-server {server.version()}"
        assert "needs nats-server a server" not in str(caught.value)


async def test_connect_when_the_account_has_no_jetstream_is_not_supported_at_once() -> None:
    accounts = {"ON": {"jetstream": True, "users": [{"user": "on", "password": "x"}]}}
    accounts["OFF"] = {"users": [{"user": "off", "password": "x"}]}
    async with eda.EmbeddedServer(config={"accounts": accounts, "authorization": None}) as server:
        url = f"127.0.0.1:{server.port}"
        async with eda.connect(url, user="on", password="x") as conn:
            await conn.publish("stream")
        begin = time.monotonic()
        with pytest.raises(eda.NotSupported, match="JetStream"):
            await eda.connect(url, user="off", password="x")
        assert time.monotonic() - begin < 4


@pytest.mark.old_server
async def test_cluster_when_it_is_the_servers_domain_works(executable: Path | None) -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "hub"}}, executable=executable) as server:
        got: asyncio.Queue[eda.Event] = asyncio.Queue()
        async with eda.connect(server.url, cluster="hub", client="me") as conn:
            await conn.publish("stream", eda.Event(type="t"))
            async with conn.subscribe("stream", got.put_nowait, backfill=True, durable=True) as subscription:
                event = await asyncio.wait_for(got.get(), 5)
            assert (event.type, event.sequence, subscription.stats().handled) == ("t", 1, 1)


async def test_cluster_when_there_is_no_such_domain_is_not_supported() -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "hub"}}) as server:
        with pytest.raises(eda.NotSupported, match="JetStream"):
            await eda.connect(server.url, cluster="other", connect_timeout_s=0.5)
