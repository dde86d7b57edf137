"""`sub.lag()` and `conn.lags()`: how far open subscriptions are behind their streams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from eda.errors import EdaError
from eda.subscribing.lag import for_each

__all__ = ["Lag", "lags_of"]

_N = TypeVar("_N", int, float)


@dataclass(frozen=True)
class Lag:
    """How far a subscription is behind its stream, as the server knows it."""

    events: int | None
    """how many events are not done; None: unknown. A pack counts as one event, also if the filter matches none of its
    events. If only the client filters, events that don't match count as well"""
    seconds: float | None
    """the age of the oldest event that is not done; 0.0: all are done; None: unknown"""


class HasLag(Protocol):
    """A subscription."""

    async def lag(self) -> Lag:
        """Return how far it is behind."""


async def lags_of(subscriptions: Iterable[tuple[tuple[str, str], HasLag]]) -> dict[tuple[str, str], Lag]:
    """Return the largest lag of the subscriptions of each key. If none of a key is known, its lag is unknown."""
    given = list(subscriptions)
    found: dict[tuple[str, str], Lag] = {}

    async def lag_of(subscription: HasLag) -> Lag:
        try:
            return await subscription.lag()
        except EdaError:
            return Lag(None, None)

    lags = await for_each([each for _, each in given], lag_of)
    for (key, _), lag in zip(given, lags, strict=True):
        known = found.setdefault(key, lag)
        found[key] = Lag(_larger(known.events, lag.events), _larger(known.seconds, lag.seconds))
    return found


def _larger(first: _N | None, second: _N | None) -> _N | None:
    known = [each for each in (first, second) if each is not None]
    return max(known, default=None)
