"""`conn.events`: a subscription as an iterator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Self

from eda._dispatch import GivenBack
from eda.errors import ConfigError, Timeout
from eda.options import SubscriptionOptions
from eda.parts import Handler
from eda.subscription import Subscription

__all__ = ["Events"]

NO_TIMEOUT_S = 9.0e9


class Events:
    """The events of a subscription, one after the other; made by `Conn.events`.

    An event is acknowledged when the next one is asked for. Iterate inside `async with`, so that the last one is too.
    """

    def __init__(
        self,
        subscribe: Callable[[Handler, SubscriptionOptions], Subscription],
        options: SubscriptionOptions,
        logger: logging.Logger,
    ) -> None:
        if options.concurrency != 1:
            raise ConfigError("an iterator gives one event at a time: no concurrency", argument="concurrency")
        self._timeout_s = options.timeout_s
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        # Its time runs from when an event is taken, not from when it is there to be taken: so it is kept here.
        self._subscription = subscribe(self._handle, replace(options, timeout_s=NO_TIMEOUT_S))
        self._subscription.on_closing = self._on_closing
        self._subscription.on_finished = self._wake
        self._subscription.close_timeout_s = options.timeout_s
        self._opening: asyncio.Future[Subscription] | None = None
        self._is_asked = False
        self._waiter: asyncio.Future[None] | None = None  # of who asks for an event
        self._offered: Any = None  # what the handler has and nobody has asked for yet
        self._outcome: asyncio.Future[None] | None = None  # of what the handler has
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Events of {self._subscription!r}>"

    @property
    def subscription(self) -> Subscription:
        """The subscription underneath: its name and its counts."""
        return self._subscription

    # --- iterating ---------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Acknowledge the event in hand and return the next one.

        Cancelled, no event is lost: the next call gets it. Raises what ends the subscription.
        """
        if self._is_asked:
            raise RuntimeError("the next event is being waited for already")
        self._is_asked = True
        try:
            await self._opened()
            self._settle(None)
            while self._offered is None:
                if self._subscription.is_closed:
                    await self._subscription.wait()
                    raise StopAsyncIteration
                self._waiter = self._loop.create_future()
                await self._waiter
        finally:
            self._waiter = None
            self._is_asked = False
        event, self._offered = self._offered, None
        first = event[0] if isinstance(event, list) else event
        self._timer = self._loop.call_later(min(self._timeout_s, 1e6), self._on_timeout, first.id)
        return event

    async def _opened(self) -> None:
        """Open the subscription, whoever of those that ask for its events gives up."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._subscription)
            self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._opening)

    async def _handle(self, event: Any) -> None:
        """Offer an event, and wait for what becomes of it."""
        self._offered = event
        self._outcome = self._loop.create_future()
        self._wake()
        try:
            await self._outcome
        finally:
            self._outcome = None
            self._offered = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _settle(self, error: BaseException | None) -> None:
        """Say what became of the event in hand."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._offered is not None or self._outcome is None or self._outcome.done():
            return
        if error is None:
            self._outcome.set_result(None)
        else:
            self._outcome.set_exception(error)

    def _on_timeout(self, event_id: str) -> None:
        self._settle(Timeout("handling", self._timeout_s, event_id=event_id))

    def _on_closing(self) -> None:
        """Give back what was offered, or is in hand."""
        if self._timer is not None:
            self._timer.cancel()
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(GivenBack())

    # --- as a context manager ----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self._settle(None)
            await asyncio.sleep(0)
        await self.aclose()

    async def aclose(self) -> None:
        """Close the subscription; what is in hand comes again."""
        await self._subscription.close()
