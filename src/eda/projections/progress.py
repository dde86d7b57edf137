"""How far the versions of projections are, read from their rows and from their streams: no member need run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from eda.errors import ConfigError, StreamNotFound
from eda.jetstream.stream_info import StreamInfo
from eda.projections.sink import PositionRow
from eda.projections.stats import StreamProgress
from eda.subscribing.remaining import Remaining

__all__ = ["MAX_LAG", "Progress", "check_lag", "lowest_of", "max_lag_of"]

MAX_LAG = 1000  # events of a stream that a version may lag behind and still be promoted

Filter = Callable[[StreamInfo], Sequence[str]]


def lowest_of(rows: Iterable[PositionRow]) -> dict[str, tuple[int, int]]:
    """Return the place up to which each stream is applied: the lowest of its lanes."""
    lowest: dict[str, tuple[int, int]] = {}
    for row in rows:
        position = row.up_to.place
        lowest[row.stream] = min(position, lowest.get(row.stream, position))
    return lowest


def _everything(info: StreamInfo) -> Sequence[str]:
    return ()


class Progress:
    """Counts what projections have not applied yet."""

    def __init__(self, remaining: Remaining) -> None:
        self._remaining = remaining

    async def of(self, rows: Iterable[PositionRow], filter: Filter = _everything) -> tuple[StreamProgress, ...]:
        """Return the progress in each stream of the rows, by its name.

        `filter(info)` returns the subjects by which the server filters the stream. Without it, all events count. Raises
        ServerError, Timeout, Closed. A stream that does not exist has an unknown lag.
        """
        of_stream: dict[str, list[PositionRow]] = {}
        for row in rows:
            of_stream.setdefault(row.stream, []).append(row)
        return tuple(await asyncio.gather(*(self._of_stream(*each, filter) for each in sorted(of_stream.items()))))

    async def _of_stream(self, stream: str, rows: list[PositionRow], filter: Filter) -> StreamProgress:
        lanes = tuple(row.up_to.whole for row in sorted(rows, key=lambda row: row.lane))
        position = min(lanes)
        unknown = StreamProgress(stream, position, None, None, lanes)
        try:
            state = await self._remaining.stream(stream)
        except StreamNotFound:
            return unknown
        if any(row.created != state.created for row in rows):
            return unknown  # the stream was made again; the projection ends when it is opened
        if state.last <= position:
            return StreamProgress(stream, position, 0, 0.0, lanes)
        subjects = list(filter(state.info))
        known: int | None = None
        if not subjects and state.is_whole:
            known = state.last - max(position, state.first - 1)
        lag, oldest = await self._remaining.count(state, position + 1, subjects, known)
        if oldest is not None:
            return StreamProgress(stream, position, lag, state.age_s(oldest), lanes)
        return StreamProgress(stream, position, lag, 0.0 if lag == 0 else None, lanes)


def max_lag_of(max_lag: object) -> int | None:
    """Return the bound of a promotion. Raises ConfigError unless it is None, or an int of 0 or more."""
    if max_lag is None or (isinstance(max_lag, int) and not isinstance(max_lag, bool) and max_lag >= 0):
        return max_lag
    raise ConfigError(f"max_lag must be None or an int of 0 or more, not {max_lag!r}", argument="max_lag")


def check_lag(name: str, version: int, streams: Collection[StreamProgress], max_lag: int) -> None:
    """Raise ConfigError if a version of a projection lags behind a stream by more than `max_lag` events."""
    label = f"version {version} of projection {name!r}"
    if not streams:
        raise ConfigError(f"{label} is not promoted, because it has never run", argument="version")
    behind = [each for each in streams if each.lag is None or each.lag > max_lag]
    if behind:
        numbers = ", ".join(
            f"{'an unknown number of' if each.lag is None else each.lag} events of stream {each.stream!r} "
            f"(it is at {each.position})"
            for each in behind
        )
        raise ConfigError(
            f"{label} is not promoted: it has not applied {numbers}, and max_lag allows {max_lag}. Wait until it has "
            "caught up, or give a larger max_lag",
            argument="max_lag",
        )
