"""A publisher that runs plain hooks alone for the events that it sends, so that an event costs no further coroutine."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, final

from eda._event import Event
from eda.errors import ConfigError
from eda.middleware.around_publish import MarkHook
from eda.middleware.hooked_publisher import HookedPublisher
from eda.publishing._columns import Columns
from eda.publishing._sending import Marker, with_own_send
from eda.publishing.publisher import Publisher

__all__ = ["MarkedPublisher"]


@final
@with_own_send
class MarkedPublisher(HookedPublisher):
    """A publisher for whose `send`, `send_many` and `send_columns` each middleware has the hook `mark`, or none.

    Made by `HookedConn` in place of a HookedPublisher. `set_marks` is called before it is opened.
    """

    _marks: tuple[MarkHook, ...] = ()

    if TYPE_CHECKING:  # `with_own_send` sets it

        def send(self, event: Event) -> Coroutine[Any, Any, str]: ...

    def set_marks(self, marks: tuple[MarkHook, ...]) -> None:
        """Set the hooks `mark`, the outermost first."""
        self._marks = marks
        # A compiled hook returns events alone, so it needs no check.
        self._mark = marks[0].mark if len(marks) == 1 and isinstance(marks[0].mark, Marker) else self._run_marks

    def _run_marks(self, event: Event, publisher: Publisher) -> Event:
        for hook in self._marks:
            event = hook.mark(event, publisher)
            if type(event) is not Event:
                raise hook.refusal(event)
        return event

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Run the hooks for each event when it is its turn, and send the events as `Publisher.send_many` does."""
        if self._core is None or self._closed:
            return await Publisher.send_many(self, events)  # raises Closed, without running a hook
        if isinstance(events, AsyncIterable):
            return await Publisher.send_many(self, self._all_marked_later(events))
        if isinstance(events, Iterable):
            return await Publisher.send_many(self, self._all_marked(events))
        return await Publisher.send_many(self, events)  # raises the error

    async def _send_columns(self, rows: Columns) -> list[str]:
        """Send the events of the rows as `Publisher.send_columns` does, which calls `_mark` for each event."""
        return await Publisher._send_columns(self, rows)

    def _marked(self, event: Event) -> Event:
        self._check_loop()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        return self._run_marks(event, self)

    def _all_marked(self, events: Iterable[Event]) -> Iterator[Event]:
        for number, event in enumerate(events):
            try:
                marked = self._marked(event)
            except Exception as error:
                error.add_note(f"events[{number}]")
                raise
            yield marked

    async def _all_marked_later(self, events: AsyncIterable[Event]) -> AsyncIterator[Event]:
        number = 0
        async for event in events:
            try:
                marked = self._marked(event)
            except Exception as error:
                error.add_note(f"events[{number}]")
                raise
            number += 1
            yield marked
