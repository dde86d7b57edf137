"""What `eda top` shows: two looks at the streams and subscriptions, and the rates between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

import eda
from eda.cli.lag_table import read_subscriptions

__all__ = ["Look", "Rates", "StreamRow", "SubscriptionRow", "take_look"]

HIDDEN = ("KV_", "OBJ_")  # streams of buckets and object stores
DEAD = "-dead"


@dataclass(frozen=True)
class Look:
    """The streams, and the subscriptions of those that are shown, at one time, which is on the monotonic clock.

    Streams are by name, subscriptions by stream, name and kind.
    """

    at: float
    streams: dict[str, eda.StreamInfo]
    shown: tuple[str, ...]
    subscriptions: dict[tuple[str, str, str], eda.SubscriptionInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class SubscriptionRow:
    """A subscription, and what it has done since the last look. Rates are per second; None: not known yet."""

    info: eda.SubscriptionInfo
    out_s: float | None
    trend_s: float | None


@dataclass(frozen=True)
class StreamRow:
    """A stream, and what it has done since the last look. `dead_added`: dead letters since the command began."""

    info: eda.StreamInfo
    in_s: float | None
    dead: int
    dead_added: int
    subscriptions: list[SubscriptionRow] = field(default_factory=list)


async def take_look(conn: eda.Conn, names: tuple[str, ...], n_streams: int, before: Look | None) -> Look:
    """Read all streams, and the subscriptions of those that are shown: the named ones, or the busiest.

    Raises StreamNotFound if a named stream does not exist, ServerError, Timeout, Closed.
    """
    streams = {each.name: each for each in await conn.streams.list()}
    for name in names:
        if name not in streams:
            raise eda.StreamNotFound(name)
    now = monotonic()
    shown = tuple(dict.fromkeys(names)) or _busiest(streams, n_streams, before)
    found = await read_subscriptions(conn, shown, may_vanish=not names) if shown else []
    by_key: dict[tuple[str, str, str], eda.SubscriptionInfo] = {
        (each.stream, each.name, each.kind): each for each in found
    }
    return Look(now, streams, shown, by_key)


def _busiest(streams: dict[str, eda.StreamInfo], n_streams: int, before: Look | None) -> tuple[str, ...]:
    """Return the streams that stored most since the last look; else those that stored something last."""

    def busy(name: str) -> tuple[int, int, str]:
        info = streams[name]
        old = before.streams.get(name) if before is not None else None
        n_stored = info.last_sequence - old.last_sequence if old is not None and old.created == info.created else 0
        return -n_stored, -info.last_time_ns, name

    names = [name for name in streams if not name.startswith(HIDDEN) and not _is_dead(name, streams)]
    return tuple(sorted(names, key=busy)[:n_streams])


def _is_dead(name: str, streams: dict[str, eda.StreamInfo]) -> bool:
    """Return whether it is the dead-letter stream of another one, with which it is shown."""
    return name.endswith(DEAD) and name.removesuffix(DEAD) in streams


class Rates:
    """Compares each look with the one before."""

    def __init__(self, first: Look) -> None:
        self._first_dead = {name: info.last_sequence for name, info in first.streams.items()}
        self._before = first

    def rows(self, look: Look) -> list[StreamRow]:
        """Return the rows of the streams, the busiest first, each with its subscriptions, the worst first."""
        before, self._before = self._before, look
        seconds = look.at - before.at
        of_stream: dict[str, list[SubscriptionRow]] = {}
        for key, each in look.subscriptions.items():
            old = before.subscriptions.get(key)
            out_s = trend_s = None
            if old is not None and seconds > 0:
                out_s = max(each.position - old.position, 0) / seconds
                if each.lag is not None and old.lag is not None:
                    trend_s = (each.lag - old.lag) / seconds
            of_stream.setdefault(each.stream, []).append(SubscriptionRow(each, out_s, trend_s))
        rows = []
        for name in look.shown:
            info = look.streams[name]
            old_info = before.streams.get(name)
            in_s = None
            if old_info is not None and seconds > 0 and old_info.created == info.created:
                in_s = (info.last_sequence - old_info.last_sequence) / seconds
            dead = look.streams.get(name + DEAD)
            n_dead, n_added = 0, 0
            if dead is not None:
                n_dead = dead.events
                n_added = max(dead.last_sequence - self._first_dead.get(dead.name, 0), 0)
            subscriptions = sorted(of_stream.get(name, []), key=lambda sub: (-(sub.info.lag or 0), sub.info.name))
            rows.append(StreamRow(info, in_s, n_dead, n_added, subscriptions))
        return sorted(rows, key=lambda row: (-(row.in_s or 0.0), row.info.name))
