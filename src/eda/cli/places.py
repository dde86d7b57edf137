"""Places in streams, as options name them, and the options for the events that a command reads."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from eda.cli.values import time_beside_places

__all__ = ["PLACE_OR_TIME", "WHOLE", "Chosen", "Place", "choosing_options"]

WHOLE = 10**6  # more than the index of any event in a pack

_PLACE = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Place:
    """Where an event is in its stream: the sequence of its message, and its index there."""

    sequence: int
    index: int = 0

    def __str__(self) -> str:
        return f"{self.sequence}.{self.index}" if self.index else str(self.sequence)


class _PlaceOrTime(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """The place of an event, such as 7 or 7.3, or a point in time."""

    name = "place or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place | datetime:
        if isinstance(value, Place | datetime):
            return value
        match = _PLACE.fullmatch(str(value).strip())
        if match is None:
            return time_beside_places(value, param, ctx)
        if not int(match[1]):
            self.fail("sequences begin with 1", param, ctx)
        # Without an index, the end of a range is the end of the message. `range_of` sees to that.
        return Place(int(match[1]), int(match[2] or 0))


PLACE_OR_TIME: Any = _PlaceOrTime()


@dataclass(frozen=True)
class Chosen:
    """Which events of a stream a command reads, as its options say. By default, all of them."""

    first: Place | datetime | None = None
    last: Place | datetime | None = None
    types: tuple[str, ...] = ()
    """empty: all types"""
    aggregate: str | None = None

    @property
    def is_filtered(self) -> bool:
        """Whether events within the range may be left out."""
        return bool(self.types) or self.aggregate is not None


def choosing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --from, --to, --type and --aggregate. The command takes all of them as `chosen`."""

    @functools.wraps(command)
    def with_chosen(*, first: Any, last: Any, types: tuple[str, ...], aggregate: str | None, **others: Any) -> Any:
        return command(chosen=Chosen(first, last, types, aggregate), **others)

    wrapped: Callable[..., Any] = with_chosen
    for option in reversed(_CHOOSING):
        wrapped = option(wrapped)
    return wrapped


_CHOOSING = (
    click.option(
        "--from",
        "first",
        type=PLACE_OR_TIME,
        metavar="SEQ|TIME",
        help="The first event: its sequence (7; 7.3 for index 3 of a pack), or when it was stored.  "
        "[default: the first]",
    ),
    click.option(
        "--to",
        "last",
        type=PLACE_OR_TIME,
        metavar="SEQ|TIME",
        help="The last event: its sequence, or the time before which it was stored.  [default: the last one now]",
    ),
    click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type. May be repeated."),
    click.option("--aggregate", metavar="TEXT", help="Only events of this aggregate."),
)
