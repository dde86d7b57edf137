"""Subscription: handlers, retries, time-outs and closing, whatever the source of the events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Self

from eda._dispatch import Dispatcher
from eda._event import Event
from eda._wire import Wire
from eda.api import Api
from eda.errors import Closed, ConfigError, DecodeError, EdaError, NotSupported, ServerError, Timeout
from eda.options import SubscriptionOptions
from eda.shared import ACK_WAIT_S, SharedSource
from eda.subjects import check_name

__all__ = ["Handler", "Subscription", "SubscriptionStats", "check_built", "durable_name"]

Handler = Callable[[Event], Any]

TICK_MAX_S = 1.0
TICK_MIN_S = 0.01
BARRIER_S = 5.0


def check_built(options: SubscriptionOptions) -> None:
    """Raise NotSupported for an option that has no meaning yet."""
    wanted = {
        "exclusive": options.exclusive,
        "key": options.key is not None,
        "batch": options.batch is not None,
        'serial="strict"': options.serial == "strict",
        "Retry(max_attempts=...)": options.retry.max_attempts is not None,
    }
    for option, asked_for in wanted.items():
        if asked_for:
            raise NotSupported(f"the subscription option {option}", needs="a later release of eda-fast")


def durable_name(options: SubscriptionOptions, client: str | None) -> str | None:
    """Return the name that a durable subscription's offset is kept under, None for others. Raises ConfigError."""
    if not options.durable or options.name is not None:
        return options.name if options.durable else None
    if client is None:
        raise ConfigError(
            "a durable subscription keeps its offset under a name: give name=..., or client=... to connect()",
            argument="name",
        )
    try:
        check_name(client)
    except ConfigError as error:
        raise ConfigError(
            f"the client name {client!r} can't name a durable subscription; give name=...", argument="name"
        ) from error
    return client


@dataclass(frozen=True)
class SubscriptionStats:
    """What a subscription has done since it was opened, in events."""

    handled: int
    """acknowledged after their handler returned"""
    failed: int
    """handler calls that raised or ran too long"""
    redelivered: int
    """deliveries that were not the event's first"""
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
    """acknowledged without a handler, because the filter did not match their envelope"""
    undecodable: int
    """no envelope: logged and terminated"""


class Subscription:
    """Events of a stream on their way to a handler. Made by `Conn.subscribe`; await it or enter it to begin.

    Leaving the context closes it; an error that ended it before is raised there, as `wait` does.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        stream: str,
        handler: Handler,
        options: SubscriptionOptions,
        durable_name: str | None,
        ensure_stream: Callable[[], Any],
        on_closed: Callable[[Subscription], None],
    ) -> None:
        self.stream = stream
        self.options = options
        self._wire = wire
        self._logger = logger
        self._handler = handler
        self._ensure_stream = ensure_stream
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._source = SharedSource(wire, api, logger, stream, options, durable_name, self._end)
        self._dispatcher = Dispatcher(
            self,
            self._source,
            handler,
            wire.out,
            stream=stream,
            consumer=self._source.consumer,
            inbox=self._source.inbox,
            limit=options.prefetch,
            limit_bytes=options.prefetch_bytes,
            concurrency=options.concurrency,
            types=options.types,
            aggregate=options.aggregate,
        )
        self._workers: list[asyncio.Task[None]] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._tick_s = max(TICK_MIN_S, min(TICK_MAX_S, options.timeout_s / 10))
        self._running_since: list[tuple[Event | None, float]] = [(None, 0.0)] * options.concurrency
        self._error: EdaError | None = None
        self._forgetting = False
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        wire.on_refused.append(self._on_refused)

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "open" if self._workers else "not opened"
        return f"<Subscription {self.name!r} to {self.stream!r}, {state}>"

    @property
    def name(self) -> str:
        """Who keeps the offset: the given name, the client's, or a generated one."""
        return self._source.consumer

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
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            if not self._opening.done():
                # Whoever wanted it has given up.
                self._opening.cancel()
                self._begin_close()
            elif self._closing is None:
                self._finished()
            raise
        return self

    async def _open(self) -> None:
        await self._ensure_stream()
        await self._source.open()
        for index in range(self.options.concurrency):
            worker = self._loop.create_task(
                self._dispatcher.work(index), name=f"eda {self.stream}/{self.name} worker {index}"
            )
            worker.add_done_callback(self._on_worker_done)
            self._dispatcher.set_task(index, worker)
            self._workers.append(worker)
        await self._source.start(self._dispatcher)
        self._ticker = self._loop.call_later(self._tick_s, self._tick)

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        """A worker that ends before the subscription closes was cancelled from outside, or has a bug."""
        if worker.cancelled() or worker.exception() is None:
            if not self._dispatcher.closing:
                self._begin_close()
            return
        self._logger.critical("subscription %s to %s failed", self.name, self.stream, exc_info=worker.exception())
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
            await self._source.forget()

    async def wait(self) -> None:
        """Wait until the subscription is closed; raises what ended it if that was an error."""
        await self._opened()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    def _end(self, error: EdaError) -> None:
        """Close because of an error: the consumer is gone, or may not be read."""
        if self._closing is None:
            self._error = error
            self._logger.error("subscription %s to %s ends: %s", self.name, self.stream, error)
            self._begin_close()

    def _begin_close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        timeout_s = self.options.timeout_s
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening})
        self._dispatcher.stop()
        try:
            # Nothing may be given back while a pull is open: the server would send it here again.
            await self._source.stop(min(timeout_s, BARRIER_S))
            self._dispatcher.give_back()
            if self._workers:
                _, late = await asyncio.wait(self._workers, timeout=timeout_s)
                for worker in late:
                    worker.cancel()
                if late:
                    self._logger.warning(
                        "subscription %s to %s: %d handlers were cancelled %g s after close; their events come again",
                        self.name, self.stream, len(late), timeout_s,
                    )  # fmt: skip
                    await asyncio.wait(late, timeout=1.0)
            if self._error is None:
                await self._source.confirm(min(timeout_s, BARRIER_S))
            await self._forget()
        finally:
            self._finished()

    def _finished(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        if self._on_refused in self._wire.on_refused:
            self._wire.on_refused.remove(self._on_refused)
        self._source.release()
        self._closed.set()
        self._on_closed(self)

    # --- what the dispatcher asks of its host ------------------------------------------------------------------------

    def make_future(self) -> asyncio.Future[None]:
        """Return a future for a worker to wait on."""
        return self._loop.create_future()

    def on_undecodable(self, seq: int, error: DecodeError) -> None:
        """Tell of a message that is no envelope; it is terminated."""
        self._logger.error("stream %s, sequence %d is no event and is passed over: %s", self.stream, seq, error)

    def on_failure(self, event: Event, error: BaseException) -> int:
        """Tell of a failed handler; returns the nanoseconds until the event comes again."""
        delay_s = self.options.retry.delay_s(event.attempt)
        self._logger.error(
            "handler failed for event %s of type %r (stream %s, sequence %d, attempt %d); it comes again in %g s",
            event.id, event.type, self.stream, event.sequence, event.attempt, delay_s, exc_info=error,
        )  # fmt: skip
        return int(delay_s * 1e9)

    def overdue_error(self, event: Event, error: BaseException | None) -> BaseException:
        """The error of a handler that was cancelled for running too long."""
        overdue = Timeout("handler", self.options.timeout_s, event_id=event.id)
        overdue.__cause__ = error
        return overdue

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(self._tick_s, self._tick)
        now = self._loop.time()
        self._dispatcher.tick(ACK_WAIT_S / 2)
        for index, event in enumerate(self._dispatcher.running_events()):
            known, since = self._running_since[index]
            if event is not known:
                self._running_since[index] = (event, now)
            elif event is not None and since and now - since >= self.options.timeout_s:
                self._running_since[index] = (event, 0.0)
                self._dispatcher.cancel_overdue(index)
        self._source.tick()

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "subscription" and subject.startswith(self._source.inbox.decode()):
            self._end(ServerError(403, 0, f"no permission to subscribe to {subject}"))
        elif kind == "publish" and subject.endswith(f".CONSUMER.MSG.NEXT.{self.stream}.{self.name}"):
            self._end(ServerError(403, 0, f"no permission to publish to {subject}"))

    def stats(self) -> SubscriptionStats:
        """Return the counts as of now."""
        dispatcher = self._dispatcher
        return SubscriptionStats(
            handled=dispatcher.n_handled,
            failed=dispatcher.n_failed,
            redelivered=dispatcher.n_redelivered,
            dead_lettered=0,
            in_flight=dispatcher.n_running,
            buffered=dispatcher.n_waiting,
            last_sequence=dispatcher.last_seq,
            pending=dispatcher.n_pending,
            passed_over=dispatcher.n_passed_over,
            undecodable=dispatcher.n_undecodable,
        )
