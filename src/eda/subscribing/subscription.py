"""Subscription: the life of one, of either kind, as users hold it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self

from eda.deadline import Deadline
from eda.errors import Closed, Timeout
from eda.options import SubscriptionOptions
from eda.stats import SubscriptionStats
from eda.subscribing.pipeline import Handler, Parts
from eda.subscribing.services import Services
from eda.subscribing.source import BARRIER_S

__all__ = ["CANCELLED_CLOSE_S", "Subscription"]

KEEPS_S = 2.0  # of a deadline, for storing the position once the handlers are done
CANCELLED_CLOSE_S = 2.0


class Subscription:
    """Events of a stream on their way to a handler. Made by `Conn.subscribe`; await it or enter it to begin.

    Leaving the context closes it; an error that ended it before is raised there, as `wait` does. When the block is
    cancelled, closing takes 2 s at most: handlers that still run after 1 s are cancelled, and their events come again.
    """

    def __init__(
        self,
        services: Services,
        logger: logging.Logger,
        client: str,
        stream: str,
        handler: Handler,
        options: SubscriptionOptions,
        durable_name: str | None,
        on_opening: Callable[[Subscription], None],
        on_closed: Callable[[Subscription], None],
    ) -> None:
        self.stream = stream
        self.options = options
        self._logger = logger
        self._on_opening = on_opening
        self._on_closed = on_closed
        self.on_closing: Callable[[], None] = _nothing
        self.on_finished: Callable[[], None] = _nothing
        self.on_resumed: Callable[[], None] = _nothing
        self.close_timeout_s = options.timeout_s
        self._loop = asyncio.get_running_loop()
        self._parts = Parts(
            services,
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
        self._not_forgotten: Exception | None = None  # why the position is still kept
        self._deadline = Deadline()  # of closing; far away until somebody is in a hurry
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        opened = self._parts.workers.are_started
        state = "closed" if self._closed.is_set() else "open" if opened else "not opened"
        return f"<Subscription {self.name!r} to {self.stream!r}, {state}>"

    @property
    def name(self) -> str:
        """Who keeps the position: the given name, the client's, or a generated one."""
        return self._parts.name

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, and nothing of it is under way any more."""
        return self._closed.is_set()

    @property
    def is_under_way(self) -> bool:
        """Whether it is open or being opened, and nobody has begun to close it."""
        return self._opening is not None and self._closing is None

    @property
    def is_active(self) -> bool:
        """Whether this member gets events: False while another one of an exclusive name does, or it is not open."""
        activation, is_open = self._parts.activation, self._parts.workers.are_started and not self._closed.is_set()
        return is_open and not self._parts.source.stands_by and (activation is None or activation.is_active)

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, and `resume` was not yet."""
        return self._dispatcher.is_paused

    # --- opening -----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.opened().__await__()

    async def __aenter__(self) -> Self:
        return await self.opened()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is not None and not issubclass(exc_type, Exception):
            self.hurry(CANCELLED_CLOSE_S)
        await self.close()
        if exc_type is None and self._error is not None:
            raise self._error

    async def opened(self, *, gives_up: bool = True) -> Self:
        """Open once, however often it is awaited. Raises ConfigError, StreamNotFound, ServerError, Closed.

        Cancelled, it is closed again; not so with `gives_up=False`, for a caller that may ask again.
        """
        if self._opening is None:
            if self._closing is not None:
                raise Closed(f"subscription to {self.stream}")
            self._on_opening(self)
            self._opening = self._loop.create_task(self._parts.open())
            self._opening.add_done_callback(_retrieve)
        opening = self._opening
        try:
            # Not awaited itself: that would cancel it for all, and maybe too late for it to notice.
            if not opening.done():
                await asyncio.wait({opening})
        except BaseException:
            # Whoever wanted it has given up, perhaps in the very turn in which it was open.
            if gives_up:
                self.hurry(CANCELLED_CLOSE_S)
                self.begin_close()
            raise
        if opening.cancelled():
            # Somebody closed it, or opened it as well and gave up.
            raise self._error or Closed(f"subscription to {self.stream}")
        error = opening.exception()
        if error is not None:
            await asyncio.shield(self.begin_close())
            raise error
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
        self.begin_close()

    # --- pausing -----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no handler until `resume`; those that run go on.

        What was received is kept: leases are extended, and an active member stays the active one. The server is asked
        for no more events. Calling it again changes nothing, and closing works as ever.
        """
        self._dispatcher.pause()

    def resume(self) -> None:
        """Start handlers again. Calling it again changes nothing."""
        self._dispatcher.resume()
        self.on_resumed()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop deliveries, let running handlers finish (up to `timeout_s`), give back the rest, keep the position.

        Safe to call twice. Called in a handler, or in a task or thread that a running handler has started, it returns
        at once, and closing goes on when the handler is done. Cancelled, it goes on without its caller, for 2 s at
        most: handlers are cancelled after the first of them.
        """
        closing = self.begin_close()
        if self.is_run_by_caller():
            return
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self.hurry(CANCELLED_CLOSE_S)
            raise

    def is_run_by_caller(self) -> bool:
        """Whether the caller is one of this subscription's handlers, or was started by one that still runs."""
        return self._parts.workers.run_caller()

    def cancel_handlers(self) -> None:
        """Cancel the handlers that run; their events come again."""
        self._parts.workers.cancel()

    async def unsubscribe(self) -> None:
        """Close, and forget the position. In a handler it returns at once, as `close` does.

        Raises ServerError, Timeout, Closed when the position could not be forgotten; calling it again tries again. When
        that fails after a handler has called it, `wait` raises the error.
        """
        self._forgetting = True
        await self.close()
        if self.is_run_by_caller():
            return
        if self._forgetting:  # it was closed before
            await self._forget()
        elif self._not_forgotten is not None:
            error, self._not_forgotten = self._not_forgotten, None
            raise error

    async def _forget(self) -> None:
        self._forgetting = False
        self._not_forgotten = None
        try:
            await self._parts.forget()
        except Timeout as error:
            what = f"forgetting the position of subscription {self.name} to {self.stream} (unsubscribe() tries again)"
            raise Timeout(what, error.timeout_s) from error

    async def _forget_at_the_end(self) -> None:
        """Nobody may be waiting for this, so its failure is kept."""
        error: Exception
        try:
            if await self._deadline.run(_done(self._forget())):
                return
            error = Closed(
                f"subscription {self.name} to {self.stream}: there was no time to forget its position, and it"
            )
        except Exception as failed:
            error = failed
        self._not_forgotten = error
        self._error = self._error or error
        self._logger.error("subscription %s to %s: forgetting its position failed: %s", self.name, self.stream, error)

    async def wait(self) -> None:
        """Wait until the subscription is closed; raises what ended it if that was an error."""
        await self.opened()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    def _end(self, error: Exception) -> None:
        """Close because of an error: the consumer is gone, or may not be read."""
        if self._closing is None:
            self._error = error
            self._logger.error("subscription %s to %s ends: %s", self.name, self.stream, error)
            self.begin_close()

    def stop(self) -> None:
        """Hand out nothing more, from now on; `close` does the rest."""
        self._dispatcher.stop()

    def hurry(self, timeout_s: float) -> None:
        """Be closed within `timeout_s` from when this is said; half of it is for the handlers that run."""
        self._deadline.shorten(timeout_s)

    def begin_close(self) -> asyncio.Task[None]:
        """Close without waiting for it; returns the task that does."""
        if self._closing is None:
            self.stop()
            if self._opening is not None and self._opening is not asyncio.current_task():
                self._opening.cancel()
            self._closing = self._loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        parts, deadline = self._parts, self._deadline
        own_s, brief_s = self.close_timeout_s, min(self.close_timeout_s, BARRIER_S)
        try:
            if self._opening is not None:
                await deadline.wait({self._opening}, keeps_s=deadline.left_s / 2)
            quarter_s = deadline.left_s / 4
            keeps_s = min(KEEPS_S, deadline.left_s / 2)
            await deadline.run(parts.stop(min(brief_s, quarter_s)), quarter_s + 0.1, keeps_s=keeps_s)
            self.on_closing()
            await asyncio.sleep(0)  # what is in hand is given back before what comes after it
            parts.give_back()
            began = self._loop.time()
            n_late = await parts.workers.end(deadline, own_s, keeps_s=min(KEEPS_S, deadline.left_s / 2))
            if n_late:
                self._logger.warning(
                    "subscription %s to %s: %d handlers were cancelled %.3g s after close; their events come again",
                    self.name, self.stream, n_late, self._loop.time() - began,
                )  # fmt: skip
            keeping = parts.keep_position(min(brief_s, deadline.left_s), failed=self._error is not None)
            if await deadline.run(keeping) is None:
                self._logger.warning(
                    "subscription %s to %s: there was no time to confirm its position; events may come again",
                    self.name, self.stream,
                )  # fmt: skip
            if self._forgetting:
                await self._forget_at_the_end()
        except Exception as error:
            self._error = self._error or error
            self._logger.exception("closing subscription %s to %s failed", self.name, self.stream)
            parts.workers.cancel()
        except BaseException:
            parts.workers.cancel()  # there was no time for anything
            raise
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


def _retrieve(opening: asyncio.Task[None]) -> None:
    """Those who waited for it may have given up."""
    if not opening.cancelled():
        opening.exception()


async def _done(work: Coroutine[Any, Any, None]) -> bool:
    """Do something; the answer tells it from what was not done in time."""
    await work
    return True
