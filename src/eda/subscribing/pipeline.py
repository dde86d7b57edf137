"""What a subscription consists of: how its parts are put together, opened, and closed in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from eda.cursors.cursor import Cursor
from eda.cursors.entry import CursorKey
from eda.cursors.position import Position
from eda.handling._dispatch import Dispatcher
from eda.handling.dispatcher_host import Handling
from eda.handling.suspects import Suspects
from eda.handling.workers import Workers
from eda.jetstream.streams import StreamInfo
from eda.options import SubscriptionOptions
from eda.stats import SubscriptionStats
from eda.subscribing.activation import Activation
from eda.subscribing.durable_names import is_ordered, refuse_other_kind, refuse_retention
from eda.subscribing.monitor import Watch
from eda.subscribing.ordered_source import OrderedSource
from eda.subscribing.services import Services
from eda.subscribing.shared_source import SharedSource

__all__ = ["Handler", "Parts"]

Handler = Callable[[Any], Any]


class Parts:
    """Source, dispatcher, workers and what else a subscription of either kind is made of.

    `on_end(error)` is called when it can't go on, `on_worker_failed(worker)` when one of the tasks that run handlers
    ends early; `is_active()` tells whether this member gets events.
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
        *,
        on_end: Callable[[Exception], None],
        on_worker_failed: Callable[[asyncio.Task[None]], None],
        is_active: Callable[[], bool],
    ) -> None:
        self._services = services
        self._logger = logger
        self._client = client
        self._stream = stream
        self._options = options
        self._durable = durable_name
        self._has_name = False  # among the connection's durable names
        self._on_end = on_end
        self.source: SharedSource | OrderedSource
        self.activation: Activation | None = None
        self._cursor: Cursor | None = None
        ordered = is_ordered(options)
        if ordered:
            self.name = durable_name or "private"
            self.source = OrderedSource(
                services.wire,
                services.api,
                services.streams,
                logger,
                stream,
                self.name,
                options,
                on_end,
                self._on_rewound,
            )
        else:
            self.source = SharedSource(services.wire, services.api, logger, stream, options, durable_name, on_end)
            self.name = self.source.consumer
        self._handling = Handling(logger, stream, self.name, options, services.dead_letters.store, on_end)
        self.dispatcher = Dispatcher(
            self._handling,
            self.source,
            handler,
            services.wire.out,
            stream=stream,
            consumer=self.source.consumer,
            name=self.name,
            inbox=self.source.inbox,
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
            circuit=options.circuit or 0,
        )
        self._handling.use(self.dispatcher)
        self._watch = Watch(logger, stream, self.name, options, self.dispatcher, self.source, is_active)
        self.workers = Workers(self.dispatcher, f"{stream}/{self.name}", on_worker_failed)

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to read and to handle. Raises ConfigError, StreamNotFound, ServerError, Closed.

        Whatever comes of it, `stop` and the rest of closing take it apart again.
        """
        services, options = self._services, self._options
        services.wire.on_refused.append(self.source.on_refused)
        if self._durable is not None:
            services.durable_names.take(self._stream, self._durable, is_given=options.name is not None)
            self._has_name = True
        info = await services.targets.ensure(self._stream)
        refuse_retention(info, options, filters_reliably=services.api.filters_reliably)
        if self._handling.dead_letter is not None:
            await services.dead_letters.check(self._handling.dead_letter, info)
        if self._durable is not None:
            await refuse_other_kind(
                services.wire,
                services.api,
                self._stream,
                self._durable,
                ordered=is_ordered(options),
                reset=options.reset,
            )
        source = self.source
        if isinstance(source, SharedSource):
            await source.open(info)
            self.workers.start(options.concurrency)
            self._handling.suspects = Suspects(
                services.wire,
                services.api,
                self._logger,
                self._stream,
                self.name,
                services.targets.bucket_for(info.options),
            )
            await source.start(self.dispatcher)
        else:
            self.workers.start(options.concurrency)
            source.open(info)
            await source.attach(self.dispatcher)
            if self._durable is None:
                position = await source.first_position()
                self.dispatcher.begin_at(position.seq, 0, position.stored_ns)
                await source.begin()
            else:
                await self._open_cursor(source, info)
        self._watch.start()

    async def _open_cursor(self, source: OrderedSource, info: StreamInfo) -> None:
        activation = self.activation = Activation(source, self.dispatcher, self._on_end)
        self._cursor = activation.cursor = Cursor(
            self._services.wire,
            self._services.api,
            self._logger,
            activation,
            stream=self._stream,
            name=self.name,
            client=self._client,
            filter=source.filter,
            on_filter_change=self._options.on_filter_change,
            bucket=self._services.targets.bucket_for(info.options),
            start=source.start,
        )
        self._handling.on_progress = activation.on_progress
        self._handling.confirmed = activation.confirmed
        await self._cursor.open(reset=self._options.reset, first=source.first_position)

    def _on_rewound(self, position: Position) -> None:
        if self.activation is not None:
            self.activation.on_rewound(position)
        else:
            self.dispatcher.begin_at(position.seq, 0, position.stored_ns)

    # --- closing, in this order --------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float) -> None:
        """Hand out nothing more, and stop the deliveries."""
        self.dispatcher.stop()
        self._handling.close()
        # Nothing may be given back while a pull is open: the server would send it here again.
        await self.source.stop(timeout_s)

    def give_back(self) -> None:
        """Give back what no handler has begun."""
        self.dispatcher.give_back()
        if self._cursor is not None:
            self._cursor.give_up_waiting()  # the last write of all says as much

    async def keep_position(self, timeout_s: float, *, failed: bool) -> bool:
        """See that the server has what was done; returns whether it has. `failed`: the subscription ends by an error.

        What is not confirmed is logged.
        """
        if self.activation is not None and self._cursor is not None:
            self.activation.close()
            # While a handler runs that ignores its cancellation, nobody should be invited to handle its event.
            keeps = self.dispatcher.n_running > 0
            position = Position(self.dispatcher.position, self.dispatcher.position_ns)
            if not await self._cursor.close(*position, keeps=keeps, timeout_s=timeout_s):
                self._logger.warning(
                    "subscription %s to %s: its last position is not confirmed; events may come again",
                    self.name, self._stream,
                )  # fmt: skip
                return False
        elif isinstance(self.source, SharedSource) and not failed and self.workers.are_started:
            return await self.source.confirm(timeout_s)
        return True

    async def forget(self) -> None:
        """Forget the position. Raises ServerError, Timeout, Closed."""
        if isinstance(self.source, SharedSource):
            await self.source.forget()
        elif self._cursor is not None:
            await self._cursor.forget()
        elif self._durable is not None:
            await CursorKey(self._services.wire, self._services.api, self._stream, self._durable).delete()

    def release(self) -> None:
        """Let go of the connection."""
        if self._has_name and self._durable is not None:
            self._has_name = False
            is_given = self._options.name is not None
            self._services.durable_names.release(self._stream, self._durable, is_given=is_given)
        self._watch.stop()
        self._handling.release()
        on_refused = self._services.wire.on_refused
        if self.source.on_refused in on_refused:
            on_refused.remove(self.source.on_refused)
        self.source.release()

    # --- counts ------------------------------------------------------------------------------------------------------

    def stats(self, *, active: bool) -> SubscriptionStats:
        """Return the counts as of now."""
        dispatcher = self.dispatcher
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
            active=active,
            paused=dispatcher.is_paused,
            circuit_open=dispatcher.is_circuit_open,
        )
