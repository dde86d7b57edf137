"""`eda top` as a process, against a real server and in a terminal."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

import eda
from helpers import Connect, Logged, until
from support.cli.commands import run_eda
from support.cli.terminal import Terminal
from support.subscribing.kept import ORDERED, fill, handle_all, member

STREAM = {"time", "row", "stream", "in_s", "events", "dead", "dead_added"}
SUBSCRIPTION = {
    "time", "row", "stream", "name", "kind", "out_s", "position", "lag", "lag_s", "trend_s", "holder", "in_flight",
    "redelivered", "active",
}  # fmt: skip


async def test_top_when_json_tells_rates_lag_and_dead_letters(
    connect: Connect, own_server: eda.EmbeddedServer, logged: Logged
) -> None:
    logged.expect("handler rejected")
    conn = await connect(own_server.url)
    await fill(conn, "orders")
    await handle_all(conn, "orders", name="away", **ORDERED)
    busy = True

    async def publish() -> None:
        while busy:
            await conn.publish("orders")
            await asyncio.sleep(0.01)

    def handle(event: eda.Event) -> None:
        if event.sequence % 3 == 0:
            raise eda.Reject("every third one")

    publishing = asyncio.create_task(publish())
    try:
        async with conn.subscribe("orders", handle, name="open", exclusive=True, durable=True):
            await until(lambda: _has_dead(conn))
            arguments = ("top", "--once", "--interval", "1s", "--json", "--addr", own_server.url)
            code, out, err = await run_eda(*arguments)
    finally:
        busy = False
        await publishing
    assert (code, err) == (0, "")
    stream, *subscriptions = map(json.loads, out.splitlines())
    assert stream.keys() == STREAM
    assert all(each.keys() == SUBSCRIPTION for each in subscriptions)
    assert (stream["row"], stream["stream"]) == ("stream", "orders")
    assert 1 < stream["in_s"] < 150
    assert 0 < stream["dead_added"] < stream["dead"] < stream["events"]
    away, opened = subscriptions
    assert (away["name"], away["position"], away["out_s"], away["holder"]) == ("away", 10, 0.0, None)
    assert away["lag"] > 0
    assert 1 < away["trend_s"] < 150
    assert (opened["name"], opened["active"]) == ("open", True)
    assert 1 < opened["out_s"] < 150
    assert opened["holder"].startswith(conn.client)


async def _has_dead(conn: eda.Conn) -> bool:
    return "orders-dead" in [each.name for each in await conn.streams.list() if each.events]


async def test_top_when_there_are_many_streams_asks_for_the_busiest_only(
    connect: Connect, own_server: eda.EmbeddedServer
) -> None:
    conn = await connect(own_server.url)
    for number in range(300):
        await conn.streams.create(f"idle-{number}", eda.StreamOptions(storage="memory"))
    await fill(conn, "orders")
    await handle_all(conn, "orders")
    requests: list[str] = []
    client = await nats.connect(own_server.url)

    async def count(message: Msg) -> None:
        requests.append(message.subject)

    await client.subscribe("$JS.API.>", cb=count)
    await client.flush()
    arguments = ("top", "--once", "--interval", "100ms", "--streams", "5", "--json", "--addr", own_server.url)
    code, out, _ = await run_eda(*arguments)
    await client.close()
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    shown = [each["stream"] for each in rows if each["row"] == "stream"]
    assert len(shown) == 5
    assert "orders" in shown
    assert [(each["name"], each["lag"]) for each in rows if each["row"] == "subscription"] == [("n", 0)]
    assert "$JS.API.CONSUMER.LIST.orders" in requests
    assert len(requests) < 2 * (2 + 5 * 4) + 5  # two looks: pages of streams, and a few requests for each shown
    code, out, err = await run_eda("top", "nobody", "--once", "--addr", own_server.url)
    assert (code, out) == (1, "")
    assert "does not exist" in err


@pytest.mark.parametrize("columns", [80, 200])
async def test_top_when_on_a_terminal_is_live_until_ctrl_c(
    conn: eda.Conn, stream: str, server: eda.EmbeddedServer, columns: int
) -> None:
    await fill(conn, stream)
    async with member(conn, stream, name="open", **ORDERED) as (_, got):
        await until(lambda: len(got) == 10)
        arguments = ("top", stream, "--interval", "200ms", "--addr", server.url)
        async with Terminal(*arguments, columns=columns) as terminal:
            shown = await terminal.shows(lambda text: "  open" in text and " = " in text)
            lines = shown.splitlines()
            assert max(map(len, lines)) <= columns
            assert lines[0].split()[-8:] == ["in/s", "out/s", "lag", "age", "trend", "redel.", "dead", "members"]
            assert stream in shown
            await conn.publish(stream)
            await terminal.shows(lambda text: any(rate in text for rate in _RATES))
            terminal.type("\x03")
            assert await terminal.ended() == 130
            assert b"\x1b[?1049l" in terminal.raw, "the screen is not restored"
            assert b"Traceback" not in terminal.raw


_RATES: list[Any] = [f" {tenth / 10:.1f} " for tenth in range(10, 60)]  # one event in 0.2 s and a bit
