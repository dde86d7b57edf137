"""All parts of a subscription: puts them together, opens them, and closes them step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from eda._event import Event
from eda.cursors.cursor import Cursor
from eda.cursors.entry import CursorEntry
from eda.cursors.position import Position
from eda.handlers import AnyHandler
from eda.handling._dispatch import Dispatcher
from eda.handling.dispatcher_host import DispatcherHost
from eda.handling.suspects import Suspects
from eda.handling.workers import Workers
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.stats import Histogram, SubscriptionStats
from eda.subscribing.activation import Activation
from eda.subscribing.durable_names import check_other_kind
from eda.subscribing.filters import types_with_tombstones
from eda.subscribing.lag import Lag, Lags
from eda.subscribing.monitor import Monitor
from eda.subscribing.moved_position import MovedPositions
from eda.subscribing.ordered_source import OrderedSource
from eda.subscribing.services import Services
from eda.subscribing.shared_or_ordered import check_retention
from eda.subscribing.shared_source import SharedSource
from eda.subscribing.spec import SubscriptionSpec

__all__ = ["Pipeline"]


class Pipeline:
    """The source, dispatcher, workers and other parts of one subscription, shared or ordered.

    `on_end(error)` is called when the subscription can't go on, `on_worker_failed(worker)` when one of the tasks that
    run handlers ends early. `on_rewound()` is called when events are read again because the stream has lost its end.
    `is_active()` returns whether this member gets events.
    """

    def __init__(
        self,
        services: Services,
        spec: SubscriptionSpec,
        handler: AnyHandler,
        *,
        on_end: Callable[[Exception], None],
        on_worker_failed: Callable[[asyncio.Task[None]], None],
        on_rewound: Callable[[], None],
        is_active: Callable[[], bool],
    ) -> None:
        self.services: Services = services
        self.spec: SubscriptionSpec = spec
        self._logger = with_fields(services.logger, eda_stream=spec.stream, eda_subscription=spec.name)
        self._options = options = spec.options
        self._has_name = False  # whether the name is taken among the connection's durable names
        self._on_end = on_end
        self._rewound = on_rewound
        self.source: SharedSource | OrderedSource
        self.activation: Activation | None = None
        self.cursor: Cursor | None = None
        if spec.is_ordered:
            self.source = OrderedSource(services, spec, on_end, self._on_rewound)
        else:
            self.source = SharedSource(services, spec, on_end)
        self._host = DispatcherHost(
            services.logger, spec.stream, spec.name, options, services.dead_letters.store, on_end
        )
        self.dispatcher: Dispatcher = Dispatcher(
            self._host,
            self.source,
            handler,
            services.wire.out,
            stream=spec.stream,
            consumer=self.source.consumer,
            name=spec.name,
            inbox=self.source.inbox,
            limit=options.prefetch,
            limit_bytes=options.prefetch_bytes,
            ordered=spec.is_ordered,
            serial=bool(options.serial),
            strict=options.serial == "strict",
            concurrency=options.concurrency,
            batch=options.batch,
            linger_s=options.linger_s,
            timeout_s=options.timeout_s,
            types=types_with_tombstones(options.types),
            aggregate=options.aggregate,
            key=options.key,
            max_attempts=options.retry.max_attempts or 0,
            circuit=options.circuit or 0,
        )
        self._host.use(self.dispatcher)
        self.monitor: Monitor = Monitor(services.logger, spec, self.dispatcher, self.source, is_active)
        self.workers: Workers = Workers(self.dispatcher, f"{spec.stream}/{spec.name}", on_worker_failed)

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to read and to handle. Raises ConfigError, StreamNotFound, ServerError, Closed.

        The closing steps undo everything that this method has done, even if it was cancelled or failed halfway.
        """
        services, spec = self.services, self.spec
        services.wire.on_refused.append(self.source.on_refused)
        if spec.is_durable:
            services.durable_names.take(spec.stream, spec.name, is_given=self._options.name is not None)
            self._has_name = True
        info = await services.known_streams.ensure(spec.stream)
        check_retention(info, self._options, filters_reliably=services.api.filters_reliably)
        if info.options.packed:
            self.dispatcher.credit.expect_packs()
        into = self._host.dead_letters.into
        if into is not None:
            await services.dead_letters.check(into, info)
        moved = None
        if spec.is_durable:
            moved = await check_other_kind(
                services.wire,
                services.api,
                self._logger,
                spec.stream,
                spec.name,
                ordered=spec.is_ordered,
                reset=self._options.reset,
            )
        if isinstance(self.source, SharedSource):
            await self._open_shared(self.source, info, moved)
        else:
            await self._open_ordered(self.source, info)
        self.monitor.start()

    async def _open_shared(self, source: SharedSource, info: StreamInfo, moved: MovedPositions | None) -> None:
        services, spec = self.services, self.spec
        await source.open(info, moved)
        self.workers.start(self._options.concurrency)
        bucket = services.known_streams.bucket_for(info.options)
        self._host.suspects = Suspects(
            services.wire,
            services.api,
            self._logger,
            spec.stream,
            spec.name,
            bucket,
            self._options.retry.max_attempts or 0,
        )
        await source.start(self.dispatcher)

    async def _open_ordered(self, source: OrderedSource, info: StreamInfo) -> None:
        self.workers.start(self._options.concurrency)
        source.use_stream(info)
        await source.attach(self.dispatcher)
        if self.spec.is_durable:
            await self._open_cursor(source, info)
        else:
            position = await source.first_position()
            self.dispatcher.begin_at(position.seq, 0, *position[1:])
            await source.start_reading()

    async def _open_cursor(self, source: OrderedSource, info: StreamInfo) -> None:
        activation = self.activation = Activation(source, self.dispatcher, self._on_end)
        self.cursor = activation.cursor = Cursor(
            self.services.wire,
            self.services.api,
            self._logger,
            activation,
            stream=self.spec.stream,
            name=self.spec.name,
            client=self.services.api.client,
            filter=source.filter,
            on_filter_change=self._options.on_filter_change,
            bucket=self.services.known_streams.bucket_for(info.options),
            start=source.start,
            has_packs=info.options.packed,
        )
        self._host.on_progress = activation.on_progress
        self._host.confirmed = activation.store
        await self.cursor.open(reset=self._options.reset, first_position=source.first_position)

    def _on_rewound(self, position: Position) -> None:
        self._rewound()
        if self.activation is not None:
            self.activation.on_rewound(position)
        else:
            self.dispatcher.begin_at(position.seq, 0, *position[1:])

    # --- closing: these steps in order -------------------------------------------------------------------------------

    async def stop(self, timeout_s: float) -> None:
        """Start no more handlers, and stop the deliveries."""
        self.dispatcher.stop()
        if not isinstance(self.source, SharedSource):
            self._host.close()  # a shared subscription may have to retry events of packs, see `give_back`
        # Nothing may be given back while a pull is open, because the server would deliver it here again.
        await self.source.stop(timeout_s)

    def give_back(self, finishes_for_s: float) -> None:
        """Give back the events that no handler has begun.

        A pack that is partly done can't be given back in part. So handlers are started for its other events, and those
        that failed are retried, for at most `finishes_for_s`. Without a connection, the pack could not be acknowledged.
        """
        self.dispatcher.outcomes.give_back_waiting()
        self.dispatcher.finish_packs(finishes_for_s if self.source.is_up else 0.0)
        if self.cursor is not None:
            self.cursor.end_waits()  # `keep_position` writes the position later

    async def record_failures(self) -> None:
        """Put on record which events of packs have failed once, because their packs are given back.

        The member that gets a pack next continues to count. Later attempts are on record already.
        """
        self.dispatcher.gate.end()
        if self._host.suspects is not None and self.source.is_up:
            for event, suspect in self.dispatcher.outcomes.failed_once():
                await self._host.suspects.begin(event, suspect)

    def end_packs(self) -> None:
        """Start no handler at all any more, and give back the packs that are partly done, each as a whole."""
        self._host.close()
        n = self.dispatcher.end_packs()
        if n:
            self._logger.warning(
                "subscription %s to %s: %d packs were not handled to their end; all events of these packs will be "
                "delivered again",
                self.spec.name, self.spec.stream, n,
            )  # fmt: skip

    async def keep_position(self, timeout_s: float, *, failed: bool) -> bool:
        """Store which events are done. Return whether the server confirms it; if it does not, log a warning.

        `failed` says that the subscription ends because of an error.
        """
        if self.activation is not None and self.cursor is not None:
            self.activation.close()
            # A handler that ignores its cancellation may still run. Then no other member may handle its event yet.
            keep_holder = self.dispatcher.n_running > 0
            position = Position(*self.dispatcher.position_parts)
            if not await self.cursor.close(position, keep_holder=keep_holder, timeout_s=timeout_s):
                self._logger.warning(
                    "subscription %s to %s: the server did not confirm its last position; events may be "
                    "delivered again",
                    self.spec.name, self.spec.stream,
                )  # fmt: skip
                return False
        elif isinstance(self.source, SharedSource) and not failed and self.workers.are_started:
            if not await self.source.confirm(timeout_s):
                return False
            if self._host.suspects is not None:
                await self._host.suspects.settle(timeout_s)
        return True

    async def forget(self) -> None:
        """Delete the kept position. Raises ServerError, Timeout, Closed."""
        if isinstance(self.source, SharedSource):
            await self.source.forget()
        elif self.cursor is not None:
            await self.cursor.forget()
        elif self.spec.is_durable:
            await CursorEntry(self.services.wire, self.services.api, self.spec.stream, self.spec.name).delete()

    def release(self) -> None:
        """Release what the subscription uses of the connection."""
        if self._has_name:
            self._has_name = False
            is_given = self._options.name is not None
            self.services.durable_names.release(self.spec.stream, self.spec.name, is_given=is_given)
        self.monitor.stop()
        self._host.close()
        self.dispatcher.end_packs()  # if closing has failed, they are not given back yet
        self._host.release()
        on_refused = self.services.wire.on_refused
        if self.source.on_refused in on_refused:
            on_refused.remove(self.source.on_refused)
        self.source.release()

    @property
    def role(self) -> str:
        """Return what this member does, for the log."""
        if self.cursor is None:
            return "ordered" if self.spec.is_ordered else "shared"
        held = self.cursor.held
        if held is not None:
            return f"active, after position {held.position.text}"
        return f"standing by, {self.cursor.liveness.holder or 'another member'} is active"

    # --- counts ------------------------------------------------------------------------------------------------------

    def retry_delay_s(self, event: Event, error: BaseException) -> float | None:
        """Return what `Subscription.retry_delay_s` says."""
        return self._host.retry_delay_s(event, error)

    def failure_of(self, event: Event, error: BaseException) -> BaseException | None:
        """Return what `Subscription.failure_of` says."""
        return self._host.failure_of(event, error)

    def on_overrun(self, event: Event, seconds: float) -> None:
        """Log that a plain function ran longer than a handler may."""
        self._host.on_overrun(event, seconds)

    async def lag(self, *, active: bool) -> Lag:
        """Return what `Subscription.lag` says."""
        services, spec = self.services, self.spec
        lags = Lags(services.wire, services.api)
        if isinstance(self.source, SharedSource):
            return await lags.of_shared(spec.stream, spec.name)
        if active or not spec.is_durable:
            return await lags.of_position(spec.stream, self.dispatcher.position, self.source.filter)
        return await lags.of_ordered(spec.stream, spec.name)

    def stats(self, *, active: bool) -> SubscriptionStats:
        """Return the counts as of now."""
        dispatcher, calls = self.dispatcher, self.dispatcher.outcomes.calls
        return SubscriptionStats(
            handled=dispatcher.outcomes.n_handled,
            failed=dispatcher.outcomes.n_failed,
            redelivered=dispatcher.intake.n_redelivered,
            dead_lettered=self._host.dead_letters.n_stored,
            in_flight=dispatcher.n_running,
            buffered=dispatcher.n_waiting,
            last_sequence=dispatcher.outcomes.last_seq,
            pending=dispatcher.intake.n_pending,
            passed_over=dispatcher.intake.n_passed_over + self._host.dead_letters.n_discarded,
            undecodable=dispatcher.intake.n_undecodable + dispatcher.outcomes.n_misfits,
            skipped=dispatcher.intake.n_skipped,
            active=active,
            paused=dispatcher.gate.is_paused,
            circuit_open=dispatcher.gate.is_circuit_open,
            pack_held_s=dispatcher.pack_held_s(),
            retried=dispatcher.outcomes.n_retried,
            held_bytes=dispatcher.ledger.n_bytes,
            prefetch=self._options.prefetch,
            prefetch_bytes=self._options.prefetch_bytes,
            handling=Histogram(*calls.succeeded.read()),
            failing=Histogram(*calls.failed.read()),
            errors=dict(calls.errors.counts),
        )
