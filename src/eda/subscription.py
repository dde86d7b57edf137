"""Subscription: the life of one, of either kind, as users hold it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, Self

from eda.errors import Closed
from eda.link import Link
from eda.options import SubscriptionOptions
from eda.parts import Handler, Parts
from eda.stats import SubscriptionStats

__all__ = ["Subscription"]

BARRIER_S = 5.0


class Subscription:
    """Events of a stream on their way to a handler. Made by `Conn.subscribe`; await it or enter it to begin.

    Leaving the context closes it; an error that ended it before is raised there, as `wait` does.
    """

    def __init__(
        self,
        link: Link,
        logger: logging.Logger,
        client: str,
        stream: str,
        handler: Handler,
        options: SubscriptionOptions,
        durable_name: str | None,
        on_closed: Callable[[Subscription], None],
    ) -> None:
        self.stream = stream
        self.options = options
        self._wire = link.wire
        self._logger = logger
        self._on_closed = on_closed
        self.on_closing: Callable[[], None] = _nothing
        self.on_finished: Callable[[], None] = _nothing
        self.close_timeout_s = options.timeout_s
        self._loop = asyncio.get_running_loop()
        self._parts = Parts(
            link,
            logger,
            client,
            stream,
            handler,
            options,
            durable_name,
            on_end=self._end,
            on_worker_failed=self._on_worker_failed,
            is_active=lambda: self.is_active,
        )
        self._source = self._parts.source
        self._dispatcher = self._parts.dispatcher
        self._error: Exception | None = None
        self._forgetting = False
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        opened = self._parts.workers.are_started
        state = "closed" if self._closed.is_set() else "open" if opened else "not opened"
        return f"<Subscription {self.name!r} to {self.stream!r}, {state}>"

    @property
    def name(self) -> str:
        """Who keeps the offset: the given name, the client's, or a generated one."""
        return self._parts.name

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, and nothing of it is under way any more."""
        return self._closed.is_set()

    @property
    def is_active(self) -> bool:
        """Whether this member gets events: False while another one of an exclusive name does, or it is not open."""
        holder, is_open = self._parts.holder, self._parts.workers.are_started and not self._closed.is_set()
        return is_open and not self._parts.source.stands_by and (holder is None or holder.is_active)

    # --- opening -----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        await self.close()
        if exc_type is None and self._error is not None:
            raise self._error

    async def _opened(self) -> Self:
        """Open once, however often it is awaited. Raises ConfigError, StreamNotFound, ServerError, Closed."""
        if self._opening is None:
            if self._closing is not None:
                raise Closed(f"subscription to {self.stream}")
            self._opening = self._loop.create_task(self._parts.open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                raise Closed(f"subscription to {self.stream}") from None  # another caller had it opened, and gave up
            # Whoever wanted it has given up, perhaps in the very turn in which it was open.
            opening.cancel()
            self._begin_close()
            raise
        except BaseException:
            await asyncio.shield(self._begin_close())
            raise
        return self

    def _on_worker_failed(self, worker: asyncio.Task[None]) -> None:
        """A worker that ends before the subscription closes was cancelled from outside, or has a bug."""
        error = None if worker.cancelled() else worker.exception()
        if error is None:
            self._error = Closed(f"subscription to {self.stream}: the task of its handlers was cancelled, and it")
            self._logger.warning("%s", self._error)
        else:
            self._error = (
                error if isinstance(error, Exception) else Closed(f"subscription to {self.stream}: {error!r}, it")
            )
            self._logger.critical("subscription %s to %s failed", self.name, self.stream, exc_info=error)
        self._begin_close()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop deliveries, let running handlers finish (up to `timeout_s`), give back the rest, keep the offset.

        Safe to call twice, and from a handler: there it returns at once, and closing goes on when the handler is done.
        """
        closing = self._begin_close()
        if not self.is_run_by(asyncio.current_task()):
            await asyncio.shield(closing)

    def is_run_by(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task is one that runs this subscription's handlers."""
        return self._parts.workers.run(task)

    def cancel_handlers(self) -> None:
        """Cancel the handlers that run; their events come again."""
        self._parts.workers.cancel()

    async def unsubscribe(self) -> None:
        """Close, and forget the offset. In a handler it returns at once, as `close` does."""
        self._forgetting = True
        await self.close()
        if not self.is_run_by(asyncio.current_task()):
            await self._forget()

    async def _forget(self) -> None:
        if self._forgetting and not self._wire.is_closed:
            self._forgetting = False
            await self._parts.forget()

    async def wait(self) -> None:
        """Wait until the subscription is closed; raises what ended it if that was an error."""
        await self._opened()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    def _end(self, error: Exception) -> None:
        """Close because of an error: the consumer is gone, or may not be read."""
        if self._closing is None:
            self._error = error
            self._logger.error("subscription %s to %s ends: %s", self.name, self.stream, error)
            self._begin_close()

    def stop(self) -> None:
        """Hand out nothing more, from now on; `close` does the rest."""
        self._dispatcher.stop()

    def _begin_close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self.stop()
            self._closing = self._loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        parts, timeout_s = self._parts, self.close_timeout_s
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening})
        try:
            await parts.stop(min(timeout_s, BARRIER_S))
            self.on_closing()
            await asyncio.sleep(0)  # what is in hand is given back before what comes after it
            parts.give_back()
            n_late = await parts.workers.end(timeout_s)
            if n_late:
                self._logger.warning(
                    "subscription %s to %s: %d handlers were cancelled %g s after close; their events come again",
                    self.name, self.stream, n_late, timeout_s,
                )  # fmt: skip
            await parts.keep_offset(min(timeout_s, BARRIER_S), failed=self._error is not None)
            await self._forget()
        finally:
            self._finished()

    def _finished(self) -> None:
        self._parts.release()
        self._closed.set()
        self._on_closed(self)
        self.on_finished()

    def stats(self) -> SubscriptionStats:
        """Return the counts as of now."""
        return self._parts.stats(active=self.is_active)


def _nothing() -> None:
    """Nobody wants to know."""
