"""A publisher whose `send` and `send_many` run plain hooks alone, so that an event costs no further coroutine."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Never, final

from eda._event import Event
from eda.errors import ConfigError
from eda.middleware.around_publish import MarkHook
from eda.middleware.hooked_publisher import HookedPublisher
from eda.publishing.publisher import Publisher

__all__ = ["MarkedPublisher"]


@final
class MarkedPublisher(HookedPublisher):
    """A publisher for whose `send` and `send_many` each middleware has the hook `mark`, or none.

    Made by `HookedConn` in place of a HookedPublisher. `set_marks` is called before it is opened.
    """

    _marks: tuple[MarkHook, ...] = ()
    _mark: Callable[[Event, Publisher], Event] | None = None  # the only hook, if there is only one

    def set_marks(self, marks: tuple[MarkHook, ...]) -> None:
        """Set the hooks `mark`, the outermost first."""
        self._marks = marks
        self._mark = marks[0].mark if len(marks) == 1 else None

    def send(self, event: Event) -> Coroutine[Any, Any, str]:
        """Run the hooks, then send the event as `Publisher.send` does."""
        mark = self._mark
        if mark is None or self._core is None or self._closed or type(event) is not Event:
            return self._send_slowly_marked(event)
        try:
            marked = mark(event, self)
        except Exception as error:
            return _raise(error)  # when it is awaited, as other errors are
        if type(marked) is not Event:
            return _raise(self._marks[0].refusal(marked))
        return Publisher.send(self, marked)

    async def _send_slowly_marked(self, event: Event) -> str:
        if self._core is None or self._closed:
            return await Publisher.send(self, event)  # raises Closed, without running a hook
        return await Publisher.send(self, self._marked(event))

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Run the hooks for each event when it is its turn, and send the events as `Publisher.send_many` does."""
        if self._core is None or self._closed:
            return await Publisher.send_many(self, events)  # raises Closed, without running a hook
        if isinstance(events, AsyncIterable):
            return await Publisher.send_many(self, self._all_marked_later(events))
        if isinstance(events, Iterable):
            return await Publisher.send_many(self, self._all_marked(events))
        return await Publisher.send_many(self, events)  # raises the error

    def _marked(self, event: Event) -> Event:
        self._check_loop()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        for hook in self._marks:
            event = hook.mark(event, self)
            if type(event) is not Event:
                raise hook.refusal(event)
        return event

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


async def _raise(error: Exception) -> Never:
    raise error
