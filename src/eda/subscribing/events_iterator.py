"""The iterator that `conn.events` returns: its events are those of a subscription."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

from eda.errors import ConfigError, Timeout
from eda.handlers import AnyHandler, GivenBack
from eda.handling.misfits import find_misfits
from eda.life import CANCELLED_CLOSE_S
from eda.options import SubscriptionOptions
from eda.subscribing.subscription import Subscription

__all__ = ["Events"]

T = TypeVar("T")

NO_TIMEOUT_S = 9.0e9  # in seconds, some 285 years


class Events(Generic[T]):
    """The events of a subscription, one after the other. Made by `Conn.events`.

    `Events[Event]` yields single events. With `batch` it is `Events[list[Event]]`, which yields lists of events.

    An event is acknowledged when the next event is asked for. Iterate inside `async with`, so that the last event is
    acknowledged as well. If an exception leaves that block, the event is delivered again. But if the exception says
    that the event's payload can't be decoded, the event becomes a dead letter. If the iterator is dropped without being
    closed, it gives its event back and logs a warning.
    """

    def __init__(
        self,
        subscribe: Callable[[AnyHandler, SubscriptionOptions], Subscription],
        options: SubscriptionOptions,
        logger: logging.Logger,
    ) -> None:
        if options.concurrency != 1:
            raise ConfigError("an iterator gives one event at a time: no concurrency", argument="concurrency")
        self._timeout_s = options.timeout_s
        # The subscription must not refer to this iterator. Otherwise an iterator that the program has dropped would not
        # be collected.
        self._feed = feed = _Feed()
        # The time-out counts from when the program takes an event, not from when the handler offers it. So the feed
        # keeps the time, and the subscription has no time-out.
        self._subscription = subscribe(feed.handle, replace(options, timeout_s=NO_TIMEOUT_S))
        self._subscription.on_closing = feed.on_closing
        self._subscription.on_finished = self._subscription.on_resumed = feed.wake
        self._subscription.close_timeout_s = options.timeout_s
        self._is_asked = False
        weakref.finalize(self, _dropped, self._subscription, feed.loop, logger).atexit = False

    def __repr__(self) -> str:
        return f"<Events of {self._subscription!r}>"

    @property
    def subscription(self) -> Subscription:
        """Return the subscription that delivers the events. It has a name and counts."""
        return self._subscription

    # --- iterating ---------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Acknowledge the current event and return the next one.

        If the caller is cancelled, no event is lost: the next call returns it. Raises the error that has ended the
        subscription.
        """
        if self._is_asked:
            raise RuntimeError("another task waits for the next event already")
        self._is_asked = True
        feed, subscription = self._feed, self._subscription
        try:
            await subscription.opened(gives_up=False)
            feed.finish(None)
            while feed.offered is None or subscription.is_paused:
                if subscription.is_closed:
                    await subscription.wait()
                    raise StopAsyncIteration
                await feed.wait()
        finally:
            self._is_asked = False
        return feed.take(self._timeout_s)  # type: ignore[no-any-return]

    # --- as a context manager ----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._subscription.opened()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, *_: object) -> None:
        if exc is None:
            self._feed.finish(None)  # acknowledge it before the subscription closes, which would give it back
        elif isinstance(exc, Exception):
            self._feed.left_by(exc)
        else:
            self._subscription.hurry(CANCELLED_CLOSE_S)
        await self.aclose()

    async def aclose(self) -> None:
        """Close the subscription. The current event is delivered again.

        If the caller is cancelled, closing continues for at most 2 s.
        """
        await self._subscription.close()


class _Feed:
    """Passes events from the subscription's handler to the iterator, and their outcomes back."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.offered: Any = None  # the event (in batch, events) that the handler has and the iterator has not taken
        self._taken: Any = None  # the event (in batch, events) that the iterator has taken and that has no outcome
        self._ending: Exception | None = None  # the outcome of the taken event when the subscription closes
        self._outcome: asyncio.Future[None] | None = None  # the handler waits for it
        self._waiter: asyncio.Future[None] | None = None  # the iterator waits for it, until an event is offered
        self._timer: asyncio.TimerHandle | None = None
        self._on_offered: Callable[[], None] = self.wake

    async def handle(self, event: Any) -> None:
        """Handle an event, or a list of them: offer it to the iterator, and wait for its outcome."""
        self.offered = event
        self._outcome = self.loop.create_future()
        self._on_offered()
        try:
            await self._outcome
        finally:
            self._outcome = None
            self.offered = self._taken = None

    def wake(self) -> None:
        """Wake the iterator, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until an event is offered, or the subscription is resumed or closed."""
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self, timeout_s: float) -> Any:
        """Take the offered event. It fails unless `finish` is called within `timeout_s`."""
        event = self._taken = self.offered
        self.offered = None
        first = event[0] if isinstance(event, list) else event
        self._timer = self.loop.call_later(min(timeout_s, 1e6), self._on_timeout, timeout_s, first.id)
        return event

    def _on_timeout(self, timeout_s: float, event_id: str) -> None:
        self.finish(Timeout("handling", timeout_s, event_id=event_id))

    def finish(self, error: BaseException | None) -> None:
        """End the handling of the event that was taken, if there is one: with success, or with an error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.offered is not None or self._outcome is None or self._outcome.done():
            return
        if error is None:
            self._outcome.set_result(None)
        else:
            self._outcome.set_exception(error)

    def left_by(self, error: Exception) -> None:
        """Note the error with which the program leaves the iteration.

        If the error says that the payload of the taken event can't be decoded, the error becomes the event's outcome.
        If the event were given back, the program would get it again after each restart.
        """
        taken = self._taken if isinstance(self._taken, list) else [self._taken] if self._taken is not None else []
        if find_misfits(taken, error) is not None:
            # The error itself would lose the traceback that it has in the program.
            self._ending = ExceptionGroup("the iteration was left", [error])

    def on_closing(self) -> None:
        """Give back the event that was offered or taken, unless `left_by` has noted an outcome.

        An event that a hook of middleware offers later is given back as well.
        """
        self._on_offered = self.on_closing
        if self._timer is not None:
            self._timer.cancel()
        ending, self._ending = self._ending, None
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(ending or GivenBack())


def _dropped(subscription: Subscription, loop: asyncio.AbstractEventLoop, logger: logging.Logger) -> None:
    """Close the subscription of an iterator that was dropped. Any thread may call this."""
    if not subscription.is_under_way or loop.is_closed():
        return
    logger.warning(
        "an iterator over subscription %s to %s was dropped without being closed: its event is given back. Iterate "
        "inside `async with conn.events(...) as events`, which also acknowledges the last event",
        subscription.name, subscription.stream,
        extra={"eda_stream": subscription.stream, "eda_subscription": subscription.name},
    )  # fmt: skip
    try:
        loop.call_soon_threadsafe(subscription.begin_close)
    except RuntimeError:
        return  # the loop was closed meanwhile, and the connection with it
