"""Events that are applied in one transaction, and the parts into which they are split when they fail."""

from __future__ import annotations

from eda._event import Event
from eda.handlers import GivenBack, PartialFailure, errors_in
from eda.handling.misfits import find_misfits
from eda.handling.verdicts import Alone
from eda.projections.sink import UpTo

__all__ = ["Chunk", "parts_of", "split", "times_of_part"]


class Chunk:
    """Events of one lane that are applied in one transaction, and when the stream stored each of them.

    The last time is negative if later events of the same message may belong to this lane as well. `error`: the error
    with which the one event has failed already.
    """

    __slots__ = ("error", "events", "times")

    def __init__(self, events: list[Event], times: list[int], error: BaseException | None = None) -> None:
        self.events: list[Event] = events
        self.times: list[int] = times
        self.error: BaseException | None = error

    @property
    def end(self) -> UpTo:
        """Return up to which event the lane is applied afterwards."""
        last = self.events[-1]
        return UpTo(last.sequence, last.index, self.times[-1])

    def part(self, first: int, end: int, error: BaseException | None = None) -> Chunk:
        """Return some of the events as a chunk."""
        return Chunk(self.events[first:end], times_of_part(self.events, self.times, first, end), error)


def times_of_part(events: list[Event], times: list[int], first: int, end: int) -> list[int]:
    """Return the times of some of the events; the last one is negative if the next event is of the same message."""
    part = times[first:end]
    if end < len(events):
        is_whole = events[end].sequence != events[end - 1].sequence
        part[-1] = abs(part[-1]) if is_whole else -abs(part[-1])
    return part


def parts_of(chunk: Chunk, error: BaseException) -> list[Chunk]:
    """Return the parts of a chunk that failed, in order: by the events that the error names, otherwise the halves."""
    events = chunk.events
    found: list[BaseException | None] | None = None
    if isinstance(error, PartialFailure):
        found = errors_in(error, events)
    else:
        misfits = find_misfits(events, error)
        found = None if misfits is None else [None if isinstance(each, GivenBack) else each for each in misfits]
    if found is None or all(each is found[0] for each in found):  # the failure names no event in particular
        half = len(events) // 2
        return [chunk.part(0, half), chunk.part(half, len(events))]
    return split(chunk, found)


def split(chunk: Chunk, found: list[BaseException | None] | list[Exception | None]) -> list[Chunk]:
    """Return the parts of a chunk, in order: each event that has an error is alone."""
    events = chunk.events
    parts: list[Chunk] = []
    first = 0
    for number, each in enumerate(found):
        if each is not None:
            if first < number:
                parts.append(chunk.part(first, number))
            parts.append(chunk.part(number, number + 1, None if isinstance(each, Alone) else each))
            first = number + 1
    if first < len(events):
        parts.append(chunk.part(first, len(events)))
    return parts
