"""Subscriptions whose pulls or looks are refused: what may pass is tried again, anything else ends them loudly."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

import eda
import eda.subscribing.shared_source
from eda.errors import ServerError
from eda.jetstream.api import Api
from helpers import Connect, Logged, Proxy, until

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}


def status_frame(subscription: eda.Subscription, status: str) -> bytes:
    """Return what the server says of the latest pull, as it would come."""
    source = subscription._pipeline.source
    headers = f"NATS/1.0 {status}\r\n\r\n".encode()
    subject, sid = f"{source._inbox}.{source._next_pull - 1}", source._subscription._id
    return f"HMSG {subject} {sid} {len(headers)} {len(headers)}\r\n".encode() + headers + b"\r\n"


@pytest.mark.parametrize("kind", [KEPT, {}, KEPT | {"serial": True}], ids=["shared", "private", "serial"])
@pytest.mark.parametrize("status", ["400 Bad Request - heartbeat value too large", "412 Required Api Level"])
async def test_pull_when_it_is_refused_for_good_ends_with_the_servers_words(
    status: str, kind: dict[str, Any], server: eda.EmbeddedServer, connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect(rf"to {stream} ends: .*{status.split()[-1].lower()}")
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        subscription = await conn.subscribe(stream, print, **kind)
        for n_pulls in (1, 2, 3):  # the first refusals may be anybody's
            await until(lambda n_pulls=n_pulls: subscription._pipeline.source._next_pull > n_pulls)
            assert not subscription.is_closed
            proxy.inject(status_frame(subscription, status))
            await until(lambda n_pulls=n_pulls: subscription._pipeline.source._first_valid > n_pulls or n_pulls == 3)
        async with asyncio.timeout(5):
            with pytest.raises(eda.ServerError, match=status.split()[-1].lower()) as caught:
                await subscription.wait()
        assert caught.value.code == int(status[:3])
        assert not caught.value.retryable
        await conn.close()


@pytest.mark.parametrize("status", ["409 Leadership Change", "409 Server Shutdown", "409 Exceeded MaxWaiting", "503"])
async def test_pull_when_its_refusal_may_pass_is_made_again(
    status: str, server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        seen: list[eda.Event] = []
        async with conn.subscribe(stream, seen.append, **KEPT) as subscription:
            await until(lambda: subscription._pipeline.source._next_pull > 1)
            proxy.inject(status_frame(subscription, status))
            await until(lambda: subscription._pipeline.source._first_valid > 1)
            await conn.publish(stream)
            await until(lambda: seen)
        await conn.close()


class NoSuchThing(Exception):
    """An error that nobody expects there."""


@pytest.mark.parametrize(
    "error",
    [
        ServerError(400, 10003, "bad request"),
        ServerError(403, 0, "no permission to publish to $JS.API.CONSUMER.INFO"),
        NoSuchThing("out of the blue"),
    ],
    ids=["bad request", "forbidden", "not expected"],
)
async def test_look_at_the_consumer_when_it_fails_for_good_ends_with_the_error(
    error: Exception, conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    logged.expect(rf"subscription me to {stream} ends: {re.escape(str(error))}")
    if not isinstance(error, eda.EdaError):
        logged.expect("checking consumer me of stream .* failed")
    subscription = await conn.subscribe(stream, print, **KEPT)

    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Api, "consumer_info", fail)
    subscription._pipeline.source.on_silent("the test says so")
    async with asyncio.timeout(5):
        with pytest.raises(type(error)) as caught:
            await subscription.wait()
    assert caught.value is error


async def test_look_at_the_consumer_when_its_refusal_may_pass_is_made_again(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.subscribing.shared_source, "CHECK_PAUSE_S", 0.01)
    refusals = [ServerError(503, 10008, "JetStream system temporarily unavailable"), eda.Timeout("a request", 5.0)]
    look = Api.consumer_info

    async def fail(*args: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await look(*args)

    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, **KEPT) as subscription:
        monkeypatch.setattr(Api, "consumer_info", fail)
        subscription._pipeline.source.on_silent("the test says so")
        await until(lambda: not refusals)
        await conn.publish(stream)
        await until(lambda: seen)


async def test_pulling_when_it_fails_unexpectedly_ends_with_the_error(
    server: eda.EmbeddedServer, connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect("pulling failed", "ends: out of the blue")
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        subscription = await conn.subscribe(stream, print, **KEPT)
        await until(lambda: subscription._pipeline.source._next_pull > 1)

        def fail(*_: Any) -> None:
            raise NoSuchThing("out of the blue")

        subscription._pipeline.source.pull = fail
        proxy.inject(status_frame(subscription, "408 Request Timeout"))
        async with asyncio.timeout(5):
            with pytest.raises(NoSuchThing):
                await subscription.wait()
        assert conn.state == "connected"
        await conn.close()
