"""Places in streams, as options name them, and the options for the range that a command reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import click

from eda.cli.values import time_beside_places

__all__ = ["PLACE_OR_TIME", "WHOLE", "Place", "from_option", "to_option"]

WHOLE = 10**6  # more than the index of any event in a pack

_PLACE = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?", re.ASCII)

F = TypeVar("F", bound=Callable[..., Any])


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
        # Without an index, the end of a range is the end of the message. `resolved` sees to that.
        return Place(int(match[1]), int(match[2] or 0))


PLACE_OR_TIME: Any = _PlaceOrTime()

from_option: Callable[[F], F] = click.option(
    "--from",
    "first",
    type=PLACE_OR_TIME,
    metavar="SEQ|TIME",
    help="The first event: its sequence (7; 7.3 for index 3 of a pack), or when it was stored.  [default: the first]",
)
to_option: Callable[[F], F] = click.option(
    "--to",
    "last",
    type=PLACE_OR_TIME,
    metavar="SEQ|TIME",
    help="The last event: its sequence, or the time before which it was stored.  [default: the last one now]",
)
