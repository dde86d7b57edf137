"""`eda.prometheus` on a real server, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import prometheus_client
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import eda
import eda.telemetry.lag_watch
from helpers import Connect, Logged, until

Samples = dict[tuple[str, ...], float]


def scrape(*conns: eda.Conn, collector: Any = None) -> Samples:
    """Return the samples of a scrape by name and label values."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector or eda.prometheus(*conns))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
async def watched(conn: eda.Conn, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Return a collector that reads lags often."""
    monkeypatch.setattr(eda.telemetry.lag_watch, "EVERY_S", 0.05)
    yield eda.prometheus(conn)
    await conn.close()
    await asyncio.sleep(0.1)  # until its timer has seen that


@pytest.mark.parametrize("mode", ["window", "fast"])
@pytest.mark.parametrize("options", [{"name": "n"}, {"name": "n", "durable": True, "serial": True}], ids=str)
async def test_scrape_when_events_flow_has_what_was_published_and_handled(
    conn: eda.Conn, stream: str, mode: Any, options: dict[str, Any]
) -> None:
    async with (
        conn.publisher(stream, mode=mode, max_pending=500) as pub,
        conn.subscribe(stream, lambda event: None, backfill=True, prefetch=100, **options) as sub,
    ):
        await pub.send_many([eda.Event(type="a") for _ in range(20)])
        await pub.flush()
        await until(lambda: sub.stats().handled == 20)
        samples = scrape(conn)
    assert samples["eda_publish_events_total", stream] == 20
    assert samples["eda_publish_acknowledged_events_total", stream] == 20
    assert samples["eda_publish_failed_events_total", stream] == 0
    assert samples["eda_publish_pending_events", stream] == 0
    assert samples["eda_publish_window_events", stream] == 500
    assert samples["eda_publish_publishers", stream] == 1
    assert samples["eda_publish_duration_seconds_count", stream] == 20
    assert samples["eda_subscription_handled_events_total", stream, "n"] == 20
    assert samples["eda_subscription_handler_seconds_count", stream, "n"] == 20
    assert samples["eda_subscription_prefetch_events", stream, "n"] == 100
    assert samples["eda_subscription_active", stream, "n"] == 1
    assert (samples["eda_connections",], samples["eda_connections_up",]) == (1, 1)
    assert samples["eda_connection_reconnects_total",] == 0


async def test_scrape_of_packs_counts_events_and_messages(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream, pack=eda.Pack(max_events=5)) as pub:
        await pub.send_many([eda.Event(type="a") for _ in range(20)])
        await pub.flush()
        samples = scrape(conn)
    assert samples["eda_publish_acknowledged_events_total", stream] == 20
    assert samples["eda_publish_packs_total", stream] == 4


async def test_scrape_when_handlers_fail_has_retries_and_dead_letters(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.allow("handler failed", "dead letter")

    def handle(event: eda.Event) -> None:
        raise ValueError("no")

    await conn.publish(stream, eda.Event(type="a"))
    retry = eda.Retry(initial_s=0.01, max_attempts=3)
    async with conn.subscribe(stream, handle, name="n", backfill=True, retry=retry) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
        samples = scrape(conn)
    assert samples["eda_subscription_failed_attempts_total", stream, "n"] == 3
    assert samples["eda_subscription_retried_attempts_total", stream, "n"] == 2
    assert samples["eda_subscription_redelivered_events_total", stream, "n"] == 2
    assert samples["eda_subscription_dead_lettered_events_total", stream, "n"] == 1
    assert samples["eda_subscription_handler_seconds_count", stream, "n"] == 3


@pytest.mark.parametrize("options", [{"name": "n"}, {"name": "n", "durable": True, "exclusive": True}], ids=str)
async def test_lag_when_a_subscription_is_paused_is_read_in_the_background(
    conn: eda.Conn, stream: str, watched: Any, options: dict[str, Any]
) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    async with conn.subscribe(stream, lambda event: None, backfill=True, **options) as sub:
        await until(lambda: sub.stats().handled == 1)
        key = "eda_subscription_lag_events", stream, "n"
        await until(lambda: scrape(collector=watched).get(key) == 0)
        sub.pause()
        for _ in range(3):
            await conn.publish(stream, eda.Event(type="a"))
        await until(lambda: scrape(collector=watched).get(key) == 3)
        assert 0 < scrape(collector=watched)["eda_subscription_lag_seconds", stream, "n"] < 60


@pytest.mark.parametrize("error", [eda.Timeout("a request", 10.0), TimeoutError(), KeyError("ts")], ids=repr)
async def test_lag_when_it_cannot_be_read_any_more_is_not_shown(
    conn: eda.Conn, stream: str, watched: Any, monkeypatch: pytest.MonkeyPatch, logged: Logged, error: Exception
) -> None:
    async def fail() -> None:
        raise error

    key = "eda_subscription_lag_events", stream, "n"
    async with conn.subscribe(stream, lambda event: None, name="n"):
        await until(lambda: key in scrape(collector=watched))
        monkeypatch.setattr(conn, "lags", fail)
        await until(lambda: key not in scrape(collector=watched))
        assert logged.find(f"the lags for the metrics can't be read now: {type(error).__name__}")
        monkeypatch.undo()
        monkeypatch.setattr(eda.telemetry.lag_watch, "EVERY_S", 0.05)
        await until(lambda: key in scrape(collector=watched))


async def test_lag_when_nobody_scrapes_any_more_is_not_read(
    conn: eda.Conn, stream: str, watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watch,) = watched._watches
    async with conn.subscribe(stream, lambda event: None, name="n"):
        scrape(collector=watched)
        await until(lambda: watch.lags)
        monkeypatch.setattr(eda.telemetry.lag_watch, "WANTED_FOR_S", 0.0)
        await until(lambda: not watch._is_running)
        assert watch.lags == {}
        monkeypatch.undo()
        scrape(collector=watched)
        await until(lambda: watch.lags)


async def test_scrape_when_the_connection_is_lost_says_so_and_counts_the_reconnect(
    connect: Connect, logged: Logged
) -> None:
    logged.allow("disconnected")
    server = eda.EmbeddedServer()
    await server.start()
    try:
        conn = await connect(server.url)
        async with conn.publisher("s") as pub:
            await server.kill()
            await until(lambda: scrape(conn)["eda_connections_up",] == 0)
            await pub.send(eda.Event(type="a"))
            await asyncio.sleep(0.05)
            lost = scrape(conn)
            assert lost["eda_publish_pending_events", "s"] == 1
            assert lost["eda_publish_oldest_pending_seconds", "s"] >= 0.04
            await server.start()
            await until(lambda: scrape(conn)["eda_connection_reconnects_total",] == 1, 20)
            await pub.flush()
        assert scrape(conn)["eda_connections_up",] == 1
        await conn.close()
    finally:
        await server.stop()
    closed = scrape(conn)
    assert (closed["eda_connections",], closed["eda_connections_up",]) == (0, 0)
    assert closed["eda_publish_acknowledged_events_total", "s"] == 1


async def test_scrape_of_two_connections_adds_them_up(connect: Connect, stream: str) -> None:
    first, second = await connect(), await connect()
    for conn in (first, second):
        await conn.publish(stream, eda.Event(type="a"))
    samples = scrape(first, second)
    assert samples["eda_publish_acknowledged_events_total", stream] == 2
    assert samples["eda_connections",] == 2


async def test_scrapes_over_http_while_events_flow_are_whole_and_never_go_down(conn: eda.Conn, stream: str) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(eda.prometheus(conn))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry=registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    stop, faults = threading.Event(), list[object]()
    counted: list[float] = []

    def scrape_all() -> None:
        try:
            while not stop.is_set():
                request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
                with contextlib.closing(urllib.request.urlopen(request)) as answer:
                    text = answer.read().decode()
                samples = {
                    (sample.name, *sample.labels.values()): sample.value
                    for family in read_openmetrics(text)
                    for sample in family.samples
                }
                counted.append(samples.get(("eda_subscription_handled_events_total", stream, "private"), 0.0))
        except Exception as error:
            faults.append(error)

    scraper = threading.Thread(target=scrape_all)
    scraper.start()
    try:
        for _ in range(10):
            async with (
                conn.publisher(stream, mode="window") as pub,
                conn.subscribe(stream, lambda event: None) as sub,
            ):
                await pub.send_many([eda.Event(type="a") for _ in range(500)])
                await pub.flush()
                await until(lambda sub=sub: sub.stats().handled == 500)  # type: ignore[misc]
    finally:
        stop.set()
        await asyncio.to_thread(scraper.join)
        server.shutdown()
        server.server_close()
        thread.join()
    assert faults == []
    assert len(counted) > 2
    assert counted == sorted(counted)


async def test_exposition_when_it_is_of_openmetrics_can_be_read(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    registry = prometheus_client.CollectorRegistry()
    registry.register(eda.prometheus(conn))
    text = generate_openmetrics(registry).decode()
    names = {family.name for family in read_openmetrics(text)}
    assert {"eda_publish_acknowledged_events", "eda_publish_duration_seconds", "eda_connections"} <= names
