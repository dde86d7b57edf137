"""Durable consumers that somebody else made, and permissions that are missing: refused, or the end, with the reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Admin, Logged

KEPT = {"durable_name": "team", "name": "team", "ack_policy": "explicit", "deliver_policy": "all"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("headers_only", True), ("max_batch", 1), ("max_expires", 1_000_000_000), ("max_bytes", 1000)],
)
async def test_durable_when_the_kept_one_takes_something_away_is_refused_naming_it(
    conn: eda.Conn, stream: str, admin: Admin, setting: str, value: Any
) -> None:
    await conn.publish(stream)
    config = KEPT | {setting: value}
    body = {"stream_name": stream, "config": config, "action": "create"}
    await admin.api(f"CONSUMER.CREATE.{stream}.team", body)
    with pytest.raises(eda.ConfigError, match=f"{setting}={value}") as caught:
        await conn.subscribe(stream, lambda event: None, name="team", durable=True)
    assert caught.value.argument == "name"
    assert (await admin.consumer(stream, "team"))["config"][setting] == value


async def test_subscription_when_it_may_not_acknowledge_ends_rather_than_handle_for_ever(logged: Logged) -> None:
    logged.expect("the server forbids", "ends: .*no permission to publish to")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["$JS.ACK.>"]}}}
    handled: list[eda.Event] = []
    async with eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server:
        url = f"nats://127.0.0.1:{server.port}"
        async with eda.connect(url, user="u", password="p", client="me") as conn:
            await conn.publish("orders")
            sub = await conn.subscribe("orders", handled.append, durable=True, backfill=True)
            with pytest.raises(eda.ServerError, match="no permission"):
                await asyncio.wait_for(sub.wait(), 10)
    assert len(handled) == 1
