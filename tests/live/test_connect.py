"""eda.connect: addresses, credentials, the connection's life, the embedded server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.transport.addresses import parse_addresses
from eda.transport.wire import Wire
from helpers import LOOPS, Logged, Proxy, free_port, listening, until, wire_of

PASSWORD = "s3cret/p@ss:w%rd"


async def works(conn: eda.Conn, stream: str) -> None:
    """Publish and get back one event."""
    got: asyncio.Queue[eda.Event] = asyncio.Queue()
    await conn.publish(stream, eda.Event(type="ping", data=eda.String("hello")))
    async with conn.subscribe(stream, got.put_nowait, backfill=True), asyncio.timeout(5):
        event = await got.get()
    assert (event.type, event.data.decode(), event.client) == ("ping", "hello", conn.client)


@pytest.mark.old_server
async def test_connect_when_awaited_gives_an_open_connection(server: eda.EmbeddedServer, stream: str) -> None:
    conn = await eda.connect(server.url, client="me")
    try:
        assert conn.state == "connected"
        await works(conn, stream)
    finally:
        await conn.close()
    assert conn.state == "closed"


@pytest.mark.old_server
async def test_connect_when_entered_closes_at_the_end(server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(server.url) as conn:
        await works(conn, stream)
    assert conn.state == "closed"


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_connect_when_under_either_loop_works(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: eda.EmbeddedServer
) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), eda.connect(server.url) as conn:
            await works(conn, f"loops-{new_loop.__name__}")
            await conn.streams.delete(f"loops-{new_loop.__name__}")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_connect_when_the_body_fails_closes_too(server: eda.EmbeddedServer) -> None:
    with pytest.raises(KeyError):
        async with eda.connect(server.url) as conn:
            raise KeyError("body")
    assert conn.state == "closed"


async def test_connect_when_no_client_is_given_takes_a_random_name(server: eda.EmbeddedServer) -> None:
    async with eda.connect(server.url) as one, eda.connect(server.url) as other:
        assert one.client.startswith("eda-")
        assert one.client != other.client


# --- where the address comes from ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {"EDA_URL": "good"},
        {"NATS_URL": "good"},
        {"EDA_URL": "good", "NATS_URL": "bad"},
        {"EDA_URL": "", "NATS_URL": "good"},
    ],
    ids=["eda", "nats", "both", "empty"],
)
async def test_connect_when_no_address_is_given_takes_the_environments(
    environment: dict[str, str], server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDA_URL", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    known = {"good": server.url, "bad": f"nats://127.0.0.1:{free_port()}", "": ""}
    for name, value in environment.items():
        monkeypatch.setenv(name, known[value])
    async with eda.connect(connect_timeout_s=2) as conn:
        assert conn.state == "connected"


def test_addresses_when_nothing_is_given_are_the_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDA_URL", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    assert parse_addresses(None).urls == ("nats://127.0.0.1:4222",)


async def test_connect_when_the_first_of_several_is_dead_takes_another(server: eda.EmbeddedServer) -> None:
    dead = f"nats://127.0.0.1:{free_port()}"
    for addr in ([dead, server.url], f"{dead},{server.url}"):
        async with eda.connect(addr, connect_timeout_s=4) as conn:
            assert conn.state == "connected"


async def test_connect_when_one_of_several_never_speaks_takes_another(server: eda.EmbeddedServer) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port:
        for addr in ([f"nats://127.0.0.1:{port}", server.url], [server.url, f"nats://127.0.0.1:{port}"]):
            async with eda.connect(addr, connect_timeout_s=2) as conn:
                assert conn.state == "connected"


@pytest.mark.parametrize(
    "addr",
    [
        *("http://localhost", "nats://", "nats://:4222", "nats://host:port", "nats://host:0", "nats://host:70000"),
        *(
            "nats://a b",
            "nats://host/path",
            "nats://host?query",
            "nats://host#part",
            "nats://[::1",
            "",
            "nats://a\r\nb",
        ),
        *("embedded:relative", "embedded://host/dir"),
        *([], ["nats://a", 5], ["nats://u:p@a", "nats://v:q@b"], ["embedded:", "nats://a"], 5, b"nats://a"),
    ],
)
def test_connect_when_the_address_is_none_raises_at_once(addr: Any) -> None:
    with pytest.raises(eda.ConfigError, match="addr") as caught:
        eda.connect(addr)
    assert caught.value.argument == "addr"


@pytest.mark.parametrize(
    "url", [f"nats://me:{PASSWORD}@host:port", f"nats://{PASSWORD}@host/path", f"x://me:{PASSWORD}@h"]
)
def test_connect_when_a_bad_url_has_credentials_does_not_show_them(url: str) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        eda.connect(url)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert PASSWORD not in shown
    assert "p@ss" not in shown


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"cluster": ""}, "cluster"),
        ({"cluster": "a.b"}, "cluster"),
        ({"cluster": "a b"}, "cluster"),
        ({"client": ""}, "client"),
        ({"client": 5}, "client"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"connect_timeout_s": "5"}, "connect_timeout_s"),
        ({"connect_timeout_s": float("nan")}, "connect_timeout_s"),
        ({"connect_timeout_s": True}, "connect_timeout_s"),
        ({"auto_create": "no"}, "auto_create"),
        ({"auto_create": 1}, "auto_create"),
        ({"auto_create": None}, "auto_create"),
        ({"user": "me"}, "password"),
        ({"password": "me"}, "user"),
        ({"credentials": "/no/such.creds"}, "credentials"),
        ({"nkey": "/no/such.nk"}, "nkey"),
        ({"stream_defaults": {"replicas": 3}}, "stream_defaults"),
        ({"tls": True}, "tls"),
        ({"logger": "eda"}, "logger"),
        ({"on_state": "print"}, "on_state"),
    ],
    ids=str,
)
def test_connect_when_an_argument_is_wrong_raises_at_once(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(eda.ConfigError, match=argument) as caught:
        eda.connect("nats://127.0.0.1:1", **options)
    assert caught.value.argument == argument


# --- before opening and after closing --------------------------------------------------------------------------------


async def test_connection_when_not_opened_refuses_to_work(server: eda.EmbeddedServer) -> None:
    conn = eda.connect(server.url)
    assert conn.state == "new"
    with pytest.raises(eda.Closed):
        await conn.publish("stream")
    with pytest.raises(eda.Closed):
        conn.subscribe("stream", print)
    with pytest.raises(eda.Closed):
        conn.streams  # noqa: B018
    await conn.close()
    assert conn.state == "closed"


async def test_connection_when_closed_refuses_to_work(server: eda.EmbeddedServer) -> None:
    conn = await eda.connect(server.url)
    streams = conn.streams
    await conn.close()
    with pytest.raises(eda.Closed):
        await conn.publish("stream")
    with pytest.raises(eda.Closed):
        conn.subscribe("stream", print)
    with pytest.raises(eda.Closed):
        await streams.list()
    with pytest.raises(eda.Closed):
        await conn


async def test_connection_when_closed_twice_or_by_two_closes_once(server: eda.EmbeddedServer) -> None:
    states: list[str] = []
    conn = await eda.connect(server.url, on_state=states.append)
    await asyncio.gather(conn.close(), conn.close())
    await conn.close()
    assert states == ["connected", "closed"]


async def test_connection_when_opened_by_two_opens_once(server: eda.EmbeddedServer) -> None:
    conn = eda.connect(server.url)

    async def opened() -> eda.Conn:
        return await conn

    assert await asyncio.gather(opened(), opened()) == [conn, conn]
    assert await conn is conn
    await conn.close()


async def test_connect_when_cancelled_leaves_nothing(server: eda.EmbeddedServer) -> None:
    for delay_s in (0, 0.001, 0.003, 0.01):
        conn = eda.connect(server.url)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await conn
        await conn.close()
        assert conn.state == "closed"


@pytest.mark.parametrize("at", ["the end of opening", "the turn of the loop after it"])
async def test_connect_when_cancelled_just_as_it_is_open_closes_it_again(server: eda.EmbeddedServer, at: str) -> None:
    def on_state(state: str) -> None:
        states.append(state)
        if state == "connected":
            wires.append(wire_of(conn))
            if at == "the end of opening":
                connecting.cancel()
            else:
                asyncio.get_running_loop().call_soon(connecting.cancel)

    async def opened() -> eda.Conn:
        return await conn

    states: list[str] = []
    wires: list[Wire] = []
    conn = eda.connect(server.url, on_state=on_state)
    connecting = asyncio.create_task(opened())
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert states == ["connected", "closed"]
    assert wires[0].is_closed
    with pytest.raises(eda.Closed):
        await conn


async def test_connect_when_one_of_two_is_cancelled_opens_for_the_other(server: eda.EmbeddedServer) -> None:
    conn = eda.connect(server.url)

    async def opened() -> eda.Conn:
        return await conn

    one, other = asyncio.create_task(opened()), asyncio.create_task(opened())
    await asyncio.sleep(0)
    one.cancel()
    assert await other is conn
    assert one.cancelled()
    assert conn.state == "connected"
    await conn.close()


async def test_connect_when_it_fails_just_as_it_is_cancelled_leaves_nothing() -> None:
    conn = eda.connect(f"nats://127.0.0.1:{free_port()}", connect_timeout_s=0.2)

    async def opened() -> eda.Conn:
        return await conn

    connecting = asyncio.create_task(opened())
    await asyncio.sleep(0)
    assert conn._lifetime._opening is not None
    await asyncio.wait({conn._lifetime._opening})
    connecting.cancel()
    with pytest.raises((eda.ConnectError, asyncio.CancelledError)):
        await connecting
    await conn.close()
    assert conn.state == "closed"


async def test_close_when_it_is_opening_tells_who_waits_for_it(server: eda.EmbeddedServer) -> None:
    conn = eda.connect(server.url)

    async def opened() -> eda.Conn:
        return await conn

    connecting = asyncio.create_task(opened())
    await asyncio.sleep(0)
    assert conn._lifetime._opening is not None
    await conn.close()
    with pytest.raises(eda.Closed):
        await connecting
    assert conn.state == "closed"


async def test_on_state_when_it_raises_is_logged_and_the_connection_works(
    server: eda.EmbeddedServer, stream: str, logged: Logged
) -> None:
    def on_state(state: str) -> None:
        raise KeyError(state)

    logged.expect("on_state.'connected'. failed", "on_state.'closed'. failed")
    async with eda.connect(server.url, on_state=on_state) as conn:
        await works(conn, stream)


class AsyncCall:
    async def __call__(self, state: str) -> None: ...

    async def method(self, state: str) -> None: ...


async def async_on_state(state: str) -> None: ...


async def async_generator(state: str) -> AsyncIterator[str]:
    yield state


def generator(state: str) -> Iterator[str]:
    yield state


@pytest.mark.parametrize(
    "on_state",
    [
        async_on_state,
        functools.partial(async_on_state),
        functools.partial(functools.partial(AsyncCall())),
        AsyncCall(),
        AsyncCall().method,
        async_generator,
        generator,
    ],
    ids=["async def", "partial", "partial of an object", "object", "method", "async generator", "generator"],
)
def test_on_state_when_calling_it_would_run_nothing_is_refused(on_state: Any) -> None:
    with pytest.raises(eda.ConfigError, match="on_state must be a plain function") as caught:
        eda.connect("nats://127.0.0.1:1", on_state=on_state)
    assert caught.value.argument == "on_state"


async def test_on_state_when_it_returns_an_awaitable_is_told_once(server: eda.EmbeddedServer, logged: Logged) -> None:
    logged.expect("on_state returned an awaitable")
    async with eda.connect(server.url, on_state=lambda state: async_on_state(state)):
        pass
    assert len(logged.find("on_state returned an awaitable")) == 1


class Strange(BaseException):
    """Nothing that anybody expects."""


@pytest.mark.parametrize("error", [Strange, asyncio.CancelledError, GeneratorExit, ValueError])
async def test_on_state_when_it_raises_whatever_it_likes_the_connection_comes_back_and_works(
    server: eda.EmbeddedServer, stream: str, logged: Logged, error: type[BaseException]
) -> None:
    states: list[str] = []
    seen: list[str] = []

    def on_state(state: str) -> None:
        states.append(state)
        raise error

    logged.expect("on_state.'connected'. failed", "on_state.'disconnected'. failed", "on_state.'reconnected'. failed")
    logged.allow("on_state.'closed'. failed")
    async with Proxy(server.port) as proxy, eda.connect(proxy.url(server.url), on_state=on_state) as conn:
        async with (
            conn.subscribe(stream, lambda event: seen.append(event.id), backfill=True),
            conn.publisher(stream) as publisher,
        ):
            await conn.publish(stream, eda.Event(id="before"))
            proxy.drop()
            await until(lambda: "reconnected" in states)
            await conn.publish(stream, eda.Event(id="after"))
            await publisher.send(eda.Event(id="last"))
            await publisher.flush()
            await until(lambda: seen == ["before", "after", "last"])
    assert states == ["connected", "disconnected", "reconnected", "closed"]


async def test_logger_when_none_is_silent(server: eda.EmbeddedServer, stream: str, logged: Logged) -> None:
    def fail(event: eda.Event) -> None:
        failed.set()
        raise ValueError("handler")

    failed = asyncio.Event()
    async with eda.connect(server.url, logger=None) as conn:
        await conn.publish(stream)
        async with conn.subscribe(stream, fail, backfill=True):
            await asyncio.wait_for(failed.wait(), 5)
    assert not logged.records


# --- the embedded server ---------------------------------------------------------------------------------------------


async def test_embedded_when_closed_ends_the_server() -> None:
    async with eda.connect("embedded:") as conn:
        server = conn._lifetime._server
        assert server is not None
        process = server.process
        assert process is not None
        await works(conn, "stream")
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("platform", "addr", "path"),
    [
        ("linux", "embedded:///C:/some%20data", "/C:/some data"),
        ("win32", "embedded:///C:/some%20data", "C:/some data"),
        ("win32", "embedded:////server/share", "//server/share"),
    ],
)
def test_embedded_when_its_directory_is_on_a_drive_is_a_path_of_windows(
    platform: str, addr: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    assert parse_addresses(addr).embedded_dir == path


async def test_embedded_when_it_has_a_directory_keeps_the_events(tmp_path: Path) -> None:
    addr = f"embedded://{tmp_path.as_uri().removeprefix('file://')}/some%20data"
    async with eda.connect(addr) as conn:
        sent = (await conn.publish("stream", eda.Event(type="kept"))).id
    got: asyncio.Queue[eda.Event] = asyncio.Queue()
    async with eda.connect(addr) as conn, conn.subscribe("stream", got.put_nowait, backfill=True):
        event = await asyncio.wait_for(got.get(), 5)
    assert (event.id, event.type) == (sent, "kept")
    assert (tmp_path / "some data").is_dir()


async def test_embedded_when_two_are_opened_are_apart() -> None:
    async with eda.connect("embedded:") as one, eda.connect("embedded:") as other:
        await one.publish("stream")
        assert [info.name for info in await one.streams.list()] == ["stream"]
        assert await other.streams.list() == []


async def test_embedded_when_opening_is_cancelled_ends_the_server() -> None:
    for delay_s in (0.005, 0.03, 0.06):
        conn = eda.connect("embedded:")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await conn
        await conn.close()
        assert conn._lifetime._server is None


def test_connection_when_used_the_first_time_imports_nothing_of_eda_or_nats_any_more() -> None:
    program = """
        import asyncio, json, sys
        import eda

        async def main():
            conn = eda.connect("embedded:")
            loaded = set(sys.modules)
            async with conn:
                await conn.publish("stream", eda.Event(type="a", data=eda.JSON({"a": 1})))
                got = asyncio.Event()
                options = dict(name="n", durable=True, serial=True, backfill=True)
                async with conn.subscribe("stream", lambda _: got.set(), **options):
                    await got.wait()
                async with conn.publisher("stream") as publisher:
                    await publisher.send(eda.Event(type="b"))
            print(json.dumps([name for name in set(sys.modules) - loaded if name.startswith(("eda", "nats"))]))

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
