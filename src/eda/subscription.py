"""Subscription: the life of one, of either kind: opening, closing, counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Self

from eda._dispatch import Dispatcher
from eda.cursor import Cursor
from eda.errors import Closed
from eda.handling import Handling
from eda.holder import Holder
from eda.kinds import is_ordered, refuse_other_kind
from eda.link import Link
from eda.options import SubscriptionOptions
from eda.ordered import OrderedSource
from eda.shared import ACK_WAIT_S, SharedSource
from eda.streams import StreamInfo
from eda.suspects import Suspects
from eda.watch import Watch

__all__ = ["Handler", "Subscription", "SubscriptionStats"]

Handler = Callable[[Any], Any]

BARRIER_S = 5.0


@dataclass(frozen=True)
class SubscriptionStats:
    """What a subscription has done since it was opened, in events."""

    handled: int
    """done after their handler returned"""
    failed: int
    """handled without success: the handler raised, or ran too long"""
    redelivered: int
    """deliveries by the server that were not the event's first"""
    dead_lettered: int
    """moved to the dead-letter stream"""
    in_flight: int
    """being handled now"""
    buffered: int
    """received, waiting for a handler"""
    last_sequence: int
    """the highest stream sequence handled"""
    pending: int
    """in the stream, not delivered to any member yet, as of the latest delivery"""
    passed_over: int
    """done without a handler: the filter did not match their envelope, or `dead_letter` is None and they were dead"""
    undecodable: int
    """no envelope"""
    skipped: int
    """gone from the stream (expired, purged, deleted) before they were delivered; 0 with a filter, which hides them"""
    active: bool
    """whether this member gets events; False while another member of an exclusive name does"""


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
        self._link = link
        self._logger = logger
        self._client = client
        self._on_closed = on_closed
        self.on_closing: Callable[[], None] = _nothing
        self.on_finished: Callable[[], None] = _nothing
        self.close_timeout_s = options.timeout_s
        self._loop = asyncio.get_running_loop()
        self._durable = durable_name
        ordered = is_ordered(options)
        self._source: SharedSource | OrderedSource
        self._holder: Holder | None = None
        self._cursor: Cursor | None = None
        if ordered:
            self._name = durable_name or "private"
            self._source = OrderedSource(
                link.wire, link.api, link.streams, logger, stream, self._name, options, self._end, self._on_rewound
            )
        else:
            self._source = SharedSource(link.wire, link.api, logger, stream, options, durable_name, self._end)
            self._name = self._source.consumer
        self._handling = Handling(logger, stream, self._name, options, link.dead_letters.store)
        self._dispatcher = Dispatcher(
            self._handling,
            self._source,
            handler,
            link.wire.out,
            stream=stream,
            consumer=self._source.consumer,
            name=self._name,
            inbox=self._source.inbox,
            limit=options.prefetch,
            limit_bytes=options.prefetch_bytes,
            ordered=ordered,
            serial=bool(options.serial),
            strict=options.serial == "strict",
            concurrency=options.concurrency,
            batch=options.batch,
            linger_s=options.linger_s,
            timeout_s=options.timeout_s,
            types=options.types,
            aggregate=options.aggregate,
            key=options.key,
            max_attempts=options.retry.max_attempts or 0,
        )
        self._handling.use(self._dispatcher)
        self._watch = Watch(
            logger, stream, self._name, options, self._dispatcher, self._source, ACK_WAIT_S, lambda: self.is_active
        )
        self._workers: list[asyncio.Task[None]] = []
        self._error: Exception | None = None
        self._forgetting = False
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        link.wire.on_refused.append(self._source.on_refused)

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "open" if self._workers else "not opened"
        return f"<Subscription {self.name!r} to {self.stream!r}, {state}>"

    @property
    def name(self) -> str:
        """Who keeps the offset: the given name, the client's, or a generated one."""
        return self._name

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, and nothing of it is under way any more."""
        return self._closed.is_set()

    @property
    def is_active(self) -> bool:
        """Whether this member gets events: False while another one of an exclusive name does, or it is not open."""
        return bool(self._workers) and (self._holder is None or self._holder.is_active) and not self._closed.is_set()

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
            self._opening = self._loop.create_task(self._open())
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

    async def _open(self) -> None:
        info = await self._link.targets.ensure(self.stream)
        link, reset, ordered = self._link, self.options.reset, is_ordered(self.options)
        if self._durable is not None:
            await refuse_other_kind(link.wire, link.api, self.stream, self._durable, ordered=ordered, reset=reset)
        source = self._source
        if isinstance(source, SharedSource):
            await source.open()
        for index in range(self.options.concurrency):
            worker = self._loop.create_task(
                self._dispatcher.work(index), name=f"eda {self.stream}/{self.name} worker {index}"
            )
            worker.add_done_callback(self._on_worker_done)
            self._dispatcher.set_task(index, worker)
            self._workers.append(worker)
        if isinstance(source, SharedSource):
            self._handling.suspects = Suspects(
                link.wire, link.api, self._logger, self.stream, self.name, info.options.replicas
            )
            await source.start(self._dispatcher)
        else:
            source.open(info)
            await source.attach(self._dispatcher)
            if self._durable is None:
                self._dispatcher.begin_at(await source.first_position())
                await source.begin()
            else:
                await self._open_cursor(source, info)
        self._watch.start()

    async def _open_cursor(self, source: OrderedSource, info: StreamInfo) -> None:
        holder = self._holder = Holder(source, self._dispatcher, self._end)
        self._cursor = holder.cursor = Cursor(
            self._wire,
            self._link.api,
            self._logger,
            holder,
            stream=self.stream,
            name=self._name,
            client=self._client,
            filter=source.filter,
            replicas=info.options.replicas,
            start=source.start,
        )
        self._handling.on_progress = holder.on_progress
        self._handling.confirmed = holder.confirmed
        await self._cursor.open(reset=self.options.reset, first=source.first_position)

    def _on_rewound(self, position: int) -> None:
        if self._holder is not None:
            self._holder.on_rewound(position)
        else:
            self._dispatcher.begin_at(position)

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        """A worker that ends before the subscription closes was cancelled from outside, or has a bug."""
        if self._dispatcher.closing:
            return
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
        return task in self._workers

    def cancel_handlers(self) -> None:
        """Cancel the handlers that run; their events come again."""
        for worker in self._workers:
            worker.cancel()

    async def unsubscribe(self) -> None:
        """Close, and forget the offset. In a handler it returns at once, as `close` does."""
        self._forgetting = True
        await self.close()
        if not self.is_run_by(asyncio.current_task()):
            await self._forget()

    async def _forget(self) -> None:
        if self._forgetting and not self._wire.is_closed:
            self._forgetting = False
            if isinstance(self._source, SharedSource):
                await self._source.forget()
            elif self._cursor is not None:
                await self._cursor.forget()

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
        timeout_s = self.close_timeout_s
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening})
        self._handling.close()
        try:
            # Nothing may be given back while a pull is open: the server would send it here again.
            await self._source.stop(min(timeout_s, BARRIER_S))
            self.on_closing()
            await asyncio.sleep(0)  # what is in hand is given back before what comes after it
            self._dispatcher.give_back()
            if self._cursor is not None:
                self._cursor.give_up_waiting()  # the last write of all says as much
            if self._workers:
                await self._end_workers(timeout_s)
            await self._keep_offset(min(timeout_s, BARRIER_S))
            await self._forget()
        finally:
            self._finished()

    async def _end_workers(self, timeout_s: float) -> None:
        _, late = await asyncio.wait(self._workers, timeout=timeout_s)
        for worker in late:
            worker.cancel()
        if late:
            self._logger.warning(
                "subscription %s to %s: %d handlers were cancelled %g s after close; their events come again",
                self.name, self.stream, len(late), timeout_s,
            )  # fmt: skip
            await asyncio.wait(late, timeout=1.0)

    async def _keep_offset(self, timeout_s: float) -> None:
        """See that the server has what was done."""
        if self._holder is not None and self._cursor is not None:
            self._holder.close()
            # While a handler runs that ignores its cancellation, nobody should be invited to handle its event.
            keeps = self._dispatcher.n_running > 0
            if not await self._cursor.close(self._dispatcher.position, keeps=keeps, timeout_s=timeout_s):
                self._logger.warning(
                    "subscription %s to %s: its last offset is not confirmed; events may come again",
                    self.name, self.stream,
                )  # fmt: skip
        elif isinstance(self._source, SharedSource) and self._error is None:
            await self._source.confirm(timeout_s)

    def _finished(self) -> None:
        self._watch.stop()
        if self._source.on_refused in self._wire.on_refused:
            self._wire.on_refused.remove(self._source.on_refused)
        self._source.release()
        self._closed.set()
        self._on_closed(self)
        self.on_finished()

    def stats(self) -> SubscriptionStats:
        """Return the counts as of now."""
        dispatcher = self._dispatcher
        return SubscriptionStats(
            handled=dispatcher.n_handled,
            failed=dispatcher.n_failed,
            redelivered=dispatcher.n_redelivered,
            dead_lettered=self._handling.n_dead,
            in_flight=dispatcher.n_running,
            buffered=dispatcher.n_waiting,
            last_sequence=dispatcher.last_seq,
            pending=dispatcher.n_pending,
            passed_over=dispatcher.n_passed_over + self._handling.n_discarded,
            undecodable=dispatcher.n_undecodable,
            skipped=dispatcher.n_skipped,
            active=self.is_active,
        )


def _nothing() -> None:
    """Nobody wants to know."""
