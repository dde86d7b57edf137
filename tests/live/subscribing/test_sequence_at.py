"""conn.sequence_at: the first message that a stream stored at a time or later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import eda
from helpers import Admin

HOUR = timedelta(hours=1)


async def stored_times(conn: eda.Conn, stream: str) -> list[datetime]:
    """Return when each event was stored, in whole microseconds."""
    info = await conn.streams.info(stream)
    times: list[datetime] = []
    async with conn.events(stream, backfill=True) as events:
        while len(times) < info.events:
            time = (await anext(events)).ack_time
            assert time is not None
            times.append(time)
    return times


@pytest.mark.old_server
async def test_sequence_when_looked_for_is_that_of_the_first_message_stored_then_or_later(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    for number in range(9):
        await conn.publish(stream, eda.Event(type=f"t{number}"))
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 5})
    times = await stored_times(conn, stream)
    for time, sequence in zip(times, [1, 2, 3, 4, 6, 7, 8, 9], strict=True):
        assert await conn.sequence_at(stream, time) == sequence
    assert await conn.sequence_at(stream, times[3] + timedelta(microseconds=1)) == 6
    assert await conn.sequence_at(stream, times[0] - HOUR) == 1
    assert await conn.sequence_at(stream, times[-1] + HOUR) == 10


@pytest.mark.old_server
async def test_sequence_when_the_stream_is_empty_is_the_next_one(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    assert await conn.sequence_at(stream, datetime.now(UTC) - HOUR) == 1


async def test_sequence_when_an_argument_is_wrong_names_it(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound):
        await conn.sequence_at(stream, datetime.now(UTC))
    for time in (datetime(2026, 11, 30), "1h", None):
        with pytest.raises(eda.ConfigError) as caught:
            await conn.sequence_at(stream, time)  # type: ignore[arg-type]
        assert caught.value.argument == "time"
