"""A start that lies beyond the stream's end: it is said once, with both numbers, and waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, Proxy, until

KINDS: dict[str, dict[str, Any]] = {
    "private": {},
    "serial": {"name": "n", "durable": True, "serial": True},
    "shared": {"name": "n", "durable": True},
    "shared for a while": {"name": "n"},
}
BEYOND = r"subscription \S+ of stream {} starts at {}, but the stream ends at {}:"


@pytest.mark.parametrize("kind", KINDS)
async def test_start_when_beyond_the_end_is_said_once_and_waited_for(
    server: eda.EmbeddedServer, connect: Connect, stream: str, kind: str, logged: Logged
) -> None:
    publisher = await connect()
    for _ in range(5):
        await publisher.publish(stream, eda.Event(type="t"))
    seen: list[int] = []
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        async with conn.subscribe(stream, lambda event: seen.append(event.sequence), start=9, **KINDS[kind]):
            await until(lambda: logged.find(BEYOND.format(stream, 9, 5)))
            proxy.drop()  # the next reader has nothing to add
            await until(lambda: conn.state == "reconnected")
            for _ in range(6):
                await publisher.publish(stream, eda.Event(type="t"))
            await until(lambda: len(seen) == 3)
        await conn.close()
    assert seen == [9, 10, 11]
    assert len(logged.find("starts at")) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [3, 6])
async def test_start_when_in_the_stream_or_just_behind_it_is_not_worth_a_word(
    conn: eda.Conn, stream: str, kind: str, start: int, logged: Logged
) -> None:
    for _ in range(5):
        await conn.publish(stream, eda.Event(type="t"))
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), start=start, **KINDS[kind]):
        await conn.publish(stream, eda.Event(type="t"))
        await until(lambda: seen[-1:] == [6])
    assert seen == list(range(start, 7))
    assert not logged.find("starts at")


async def test_start_when_still_beyond_the_end_is_said_by_whoever_reopens(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    await conn.publish(stream, eda.Event(type="t"))
    options = KINDS["serial"]
    async with conn.subscribe(stream, print, start=20001, **options):
        await until(lambda: logged.find(BEYOND.format(stream, 20001, 1)))
    logged.records.clear()
    async with conn.subscribe(stream, print, **options):
        await until(lambda: logged.find(BEYOND.format(stream, 20001, 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), [1, 2]),
        (datetime(1600, 1, 1, tzinfo=UTC), [1, 2]),
        (datetime(2263, 1, 1, tzinfo=UTC), [2]),
        (datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))), [2]),
    ],
)
async def test_start_when_its_time_fits_into_no_64_bits_is_the_nearest_that_does(
    conn: eda.Conn, stream: str, kind: str, start: datetime, expected: list[int]
) -> None:
    """A server counts nanoseconds since 1970: it took the year 9999 for an early one, and 1600 for a late one."""
    await conn.publish(stream, eda.Event(type="t"))
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), start=start, **KINDS[kind]):
        await conn.publish(stream, eda.Event(type="t"))
        await until(lambda: 2 in seen)
    assert seen == expected
