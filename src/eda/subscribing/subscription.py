"""The subscription that users hold: how it is opened, paused and closed, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from eda._event import Event
from eda.errors import Closed, Timeout
from eda.handlers import AnyHandler
from eda.life import Life
from eda.log import with_fields
from eda.options import SubscriptionOptions
from eda.stats import SubscriptionStats
from eda.subscribing.behind import Lag
from eda.subscribing.condition import asked_subjects, condition_of
from eda.subscribing.pipeline import Pipeline
from eda.subscribing.services import Services
from eda.subscribing.source import BARRIER_S
from eda.subscribing.spec import SubscriptionSpec

__all__ = ["Subscription"]

KEEPS_S = 2.0  # how much of the time left is kept for storing the position after the handlers are done


class Subscription(Life):
    """Brings the events of a stream to a handler. Made by `Conn.subscribe`; await it or enter it to begin.

    Leaving the `async with` block closes it. If an error has ended the subscription, leaving the block raises it, as
    `wait` does. If the block is cancelled, closing takes at most 2 s: handlers that still run after 1 s are
    cancelled, and their events are delivered again.
    """

    _health_group = "subscriptions"
    _has_lags = True

    def __init__(
        self,
        services: Services,
        spec: SubscriptionSpec,
        handler: AnyHandler,
        on_opening: Callable[[Subscription], None],
        on_closed: Callable[[Subscription], None],
    ) -> None:
        label = f"subscription {spec.name} to {spec.stream}"
        logger = with_fields(services.logger, eda_stream=spec.stream, eda_subscription=spec.name)
        super().__init__(label, logger, on_opening, on_closed)
        self.stream: str = spec.stream
        self.options: SubscriptionOptions = spec.options
        self._name = spec.name
        self._has_name = spec.is_durable or spec.options.name is not None
        self._counted_as = spec.counted_as
        self._totals = services.totals
        self.on_closing: Callable[[], None] = _nothing
        self.on_finished: Callable[[], None] = _nothing
        self.on_resumed: Callable[[], None] = _nothing
        self.on_rewound: Callable[[], None] = _nothing
        self.close_timeout_s: float = spec.options.timeout_s
        self._pipeline = Pipeline(
            services,
            spec,
            handler,
            on_end=self._end,
            on_worker_failed=self._on_worker_failed,
            on_rewound=lambda: self.on_rewound(),
            is_active=lambda: self.is_active,
        )
        self._dispatcher = self._pipeline.dispatcher
        self._forgetting = False
        self._not_forgotten: Exception | None = None  # why the position is still kept

    def __repr__(self) -> str:
        opened = self._pipeline.workers.are_started
        state = "closed" if self._closed.is_set() else "open" if opened else "not opened"
        return f"<Subscription {self.name!r} to {self.stream!r}, {state}>"

    @property
    def name(self) -> str:
        """Return the name under which the position is kept: the given name, the client's, or a generated one."""
        return self._name

    @property
    def _key(self) -> str:
        """Its label; of one without a name, such as private ones, that of its stream: it may be opened again."""
        return self._label if self._has_name else f"a subscription without a name to {self.stream}"

    @property
    def is_under_way(self) -> bool:
        """Return whether it is open or being opened, and is not being closed."""
        return self._opening is not None and self._closing is None

    @property
    def is_active(self) -> bool:
        """Return whether this member gets events: it is open, not suspended, and no other member holds the cursor."""
        pipeline = self._pipeline
        if not pipeline.workers.are_started or self._closed.is_set() or pipeline.source.is_suspended:
            return False
        return pipeline.activation is None or pipeline.activation.is_active

    @property
    def is_paused(self) -> bool:
        """Return whether `pause` was called, and `resume` was not called since."""
        return self._dispatcher.gate.is_paused

    # --- opening -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._totals.add_subscription(self.stream, self._counted_as, self)
        await self._pipeline.open()
        self._logger.log(self._life_level, "%s opened: %s", self._label, self._pipeline.role)

    def _on_worker_failed(self, worker: asyncio.Task[None]) -> None:
        """Close because a worker has ended early: it was cancelled from outside, or has a bug."""
        error = None if worker.cancelled() else worker.exception()
        if error is None:
            self._error = Closed(f"subscription to {self.stream}: the task of its handlers was cancelled, and it")
            self._logger.warning(
                "subscription %s to %s ends: the task of its handlers was cancelled", self.name, self.stream
            )
        else:
            self._error = (
                error if isinstance(error, Exception) else Closed(f"subscription to {self.stream}: {error!r}, it")
            )
            self._logger.critical(
                "subscription %s to %s ends: a task that runs its handlers failed",
                self.name, self.stream, exc_info=error,
            )  # fmt: skip
        self.begin_close()

    # --- pausing -----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no handler until `resume` is called. Handlers that run already continue.

        Events that were received are kept, and their leases are extended. The active member stays the active one. The
        server is asked for no more events. Calling this again changes nothing, and closing works as usual.
        """
        self._dispatcher.gate.pause()

    def resume(self) -> None:
        """Start handlers again. Calling it again changes nothing."""
        self._dispatcher.gate.resume()
        self.on_resumed()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop deliveries, let running handlers finish (up to `timeout_s`), give back the rest, store the position.

        In a shared subscription, the other events of packs that are partly done are handled within that time, too, and
        those that failed are retried. A pack that can't be finished in time is delivered again with all its events.

        Safe to call twice. If a running handler calls it, or a task or thread that the handler has started, it returns
        at once, and closing continues when the handler is done. If the caller is cancelled, closing continues for at
        most 2 s; handlers are cancelled after the first second.
        """
        await super().close()

    def is_run_by_caller(self) -> bool:
        """Return whether the caller is a running handler of this subscription, or was started by one."""
        return self._pipeline.workers.run_caller()

    def cancel_handlers(self) -> None:
        """Cancel the handlers that run. Their events are delivered again."""
        self._pipeline.workers.cancel()

    async def unsubscribe(self) -> None:
        """Close, and delete the kept position. If a handler calls it, it returns at once, as `close` does.

        Raises ServerError, Timeout or Closed if the position could not be deleted; calling it again tries again. If a
        handler has called it, `wait` raises the error instead.
        """
        self._forgetting = True
        await self.close()
        if self.is_run_by_caller():
            return
        if self._forgetting:  # it was closed already, so `_close` did not delete the position
            await self._forget()
        elif self._not_forgotten is not None:
            error, self._not_forgotten = self._not_forgotten, None
            raise error

    async def _forget(self) -> None:
        self._forgetting = False
        self._not_forgotten = None
        try:
            await self._pipeline.forget()
        except Timeout as error:
            what = f"forgetting the position of subscription {self.name} to {self.stream} (unsubscribe() tries again)"
            raise Timeout(what, error.timeout_s) from error

    async def _forget_at_the_end(self) -> None:
        """Delete the position while closing. Keep an error, because the caller of `unsubscribe` may not wait for it."""
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

    def stop(self) -> None:
        """Start no more handlers. `close` does the rest."""
        self._dispatcher.stop()

    def hurry(self, timeout_s: float) -> None:
        """Shorten the time for closing to `timeout_s` from now. Running handlers get half of this time."""
        super().hurry(timeout_s)

    async def _close_all(self) -> None:
        pipeline, deadline = self._pipeline, self._deadline
        handlers_s, step_s = self.close_timeout_s, min(self.close_timeout_s, BARRIER_S)
        try:
            if self._opening is not None:
                await deadline.wait({self._opening}, keeps_s=deadline.left_s / 2)
            quarter_s = deadline.left_s / 4
            keeps_s = min(KEEPS_S, deadline.left_s / 2)
            await deadline.run(pipeline.stop(min(step_s, quarter_s)), quarter_s + 0.1, keeps_s=keeps_s)
            self.on_closing()
            await asyncio.sleep(0)  # an iterator gives its event back before later events are given back
            pipeline.give_back(min(handlers_s, deadline.left_s))
            began = self._loop.time()
            n_late = await pipeline.workers.end(deadline, handlers_s, keeps_s=min(KEEPS_S, deadline.left_s / 2))
            await deadline.run(pipeline.record_failures(), step_s, keeps_s=keeps_s)
            pipeline.end_packs()
            if n_late:
                self._logger.warning(
                    "subscription %s to %s: %d handlers were cancelled %.3g s after close; their events will be "
                    "delivered again",
                    self.name, self.stream, n_late, self._loop.time() - began,
                )  # fmt: skip
            keeping = pipeline.keep_position(min(step_s, deadline.left_s), failed=self._error is not None)
            if await deadline.run(keeping) is None:
                self._logger.warning(
                    "subscription %s to %s: there was no time to confirm its position; events may be delivered again",
                    self.name, self.stream,
                )  # fmt: skip
            if self._forgetting:
                await self._forget_at_the_end()
        except Exception as error:
            self._error = self._error or error
            self._logger.exception("closing subscription %s to %s failed", self.name, self.stream)
            pipeline.workers.cancel()
        except BaseException:
            pipeline.workers.cancel()  # the task was cancelled: no time is left for an orderly end
            raise
        finally:
            self._finished()

    def _finished(self) -> None:
        self._pipeline.release()
        super()._finished()
        self._totals.retire_subscription(self)
        self.on_finished()

    def retry_delay_s(self, event: Event, error: BaseException) -> float | None:
        """Return after how many seconds the event is handled again if this attempt fails with `error`.

        None: the event is given up, and becomes a dead letter. For middleware, which sees the error before eda does.
        What counts as a failure, `failure_of` says. If the event is given back, the result is 0.0.
        """
        return self._pipeline.retry_delay_s(event, error)

    def failure_of(self, event: Event, error: BaseException) -> BaseException | None:
        """Return the error with which an attempt that has raised `error` counts as failed. For middleware.

        `eda.Timeout` if the handler was cancelled because its `timeout_s` is over. None if it was cancelled for another
        reason: then the event is given back. A CancelledError that the handler has raised by itself is a failure. This
        is known only in the task that runs the handler.
        """
        return self._pipeline.failure_of(event, error)

    def _on_overrun(self, event: Event, seconds: float) -> None:
        """Log that a plain handler that middleware has called ran longer than `timeout_s`."""
        self._pipeline.on_overrun(event, seconds)

    async def lag(self) -> Lag:
        """Ask the server how far this subscription is behind its stream. All members of a name have the same lag.

        If an ordered subscription has events done that are not stored as its position yet, the holder takes them into
        account. Raises StreamNotFound, ServerError (code 403: the server forbids a request), Timeout, Closed.
        """
        if not self.is_under_way or not self._pipeline.workers.are_started:
            raise Closed(self._label)
        return await self._pipeline.lag(active=self.is_active)

    def _condition(self) -> dict[str, Any]:
        """Return what a health check says about it; see `conn.health`."""
        return condition_of(self, self._pipeline, is_active=self.is_active)

    async def _lags(self) -> dict[str, Any]:
        services = self._pipeline.services
        with services.wire.may_be_forbidden.during(asked_subjects(services.api.prefix, self.stream, self.name)):
            lag = await self.lag()
        return {"lag": lag.events, "lag_s": lag.seconds}

    def stats(self) -> SubscriptionStats:
        """Return the counts as of now. Any thread may call it."""
        return self._pipeline.stats(active=self.is_active)


def _nothing() -> None:
    """Do nothing, in place of a callback."""


async def _done(work: Coroutine[Any, Any, None]) -> bool:
    """Do the work and return True, which `Deadline.run` returns only if the work was done in time."""
    await work
    return True
