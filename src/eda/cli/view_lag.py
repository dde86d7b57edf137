"""How far a version of a read model is behind its streams, seen from outside its projection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import eda
import eda.sql

__all__ = ["StreamLag", "VersionLag", "lag_of"]

READ_S = 2.0  # how long to wait for the oldest event that was not applied


@dataclass(frozen=True)
class StreamLag:
    """The position of a version in one stream: that of its lane which is behind most."""

    stream: str
    position: int
    last: int | None
    lag: int | None
    lag_s: float | None
    lanes: int
    updated: datetime | None
    problem: str | None = None


@dataclass(frozen=True)
class VersionLag:
    """One version of a read model, and its streams. `lag` and `lag_s` are those of the stream behind most."""

    name: str
    version: int
    is_current: bool
    streams: list[StreamLag]

    @property
    def lag(self) -> int | None:
        """Return the largest lag in events; None if the lag in a stream is not known."""
        lags = [each.lag for each in self.streams]
        return None if None in lags else max((each for each in lags if each is not None), default=None)

    @property
    def lag_s(self) -> float | None:
        """Return the largest lag in seconds; None if the lag in a stream is not known."""
        lags = [each.lag_s for each in self.streams]
        return None if None in lags else max((each for each in lags if each is not None), default=None)

    @property
    def updated(self) -> datetime | None:
        """Return when a row of this version was last written; None if its projection has released its rows."""
        return max((each.updated for each in self.streams if each.updated is not None), default=None)


async def lag_of(conn: eda.Conn, version: eda.sql.ViewVersion) -> VersionLag:
    """Read the streams of a version, and compare them with its positions. Raises EdaError."""
    by_stream: dict[str, list[eda.sql.PositionRow]] = {}
    for row in version.rows:
        by_stream.setdefault(row.stream, []).append(row)
    streams = await asyncio.gather(*(_stream_lag(conn, name, rows) for name, rows in sorted(by_stream.items())))
    return VersionLag(version.name, version.version, version.is_current, list(streams))


async def _stream_lag(conn: eda.Conn, stream: str, rows: list[eda.sql.PositionRow]) -> StreamLag:
    position = min(row.up_to.whole for row in rows)
    updated = _newest(row.updated for row in rows)

    def broken(problem: str, last: int | None = None) -> StreamLag:
        return StreamLag(stream, position, last, None, None, len(rows), updated, problem)

    try:
        info = await conn.streams.info(stream)
    except eda.StreamNotFound:
        return broken("the stream does not exist")
    if any(datetime.fromisoformat(row.created) != info.created for row in rows):
        return broken("the stream was made again", info.last_sequence)
    if position > info.last_sequence:
        return broken("the stream ends before the position", info.last_sequence)
    lag = info.last_sequence - max(position, info.first_sequence - 1)
    lag_s: float | None = 0.0
    if lag:
        stored = await _time_of_next(conn, stream, position)
        lag_s = None if stored is None else max(time.time() - stored.timestamp(), 0.0)
    return StreamLag(stream, position, info.last_sequence, lag, lag_s, len(rows), updated)


async def _time_of_next(conn: eda.Conn, stream: str, position: int) -> datetime | None:
    """Return when the first event after the position was stored; None if there is none."""
    try:
        async with asyncio.timeout(READ_S), conn.events(stream, start=position + 1) as events:
            return (await anext(events)).ack_time
    except TimeoutError:
        return None


def _newest(updated: Iterable[float]) -> datetime | None:
    newest = max(updated, default=0.0)
    return datetime.fromtimestamp(newest, UTC) if newest else None
