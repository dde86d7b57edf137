"""Closing a connection in order, within one deadline: handlers, publishers, batches, single publishes, the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from eda.conn_services import ConnServices
from eda.deadline import CANCELLED_WAIT_S, Deadline
from eda.errors import ConfigError
from eda.life import Life
from eda.publishing.publisher import Publisher

__all__ = ["CLOSE_TIMEOUT_S", "KEPT_SHARE", "Closing", "check_close_timeout"]

CLOSE_TIMEOUT_S = 30.0

LEAST_S = 0.05  # enough time to cancel the tasks that run
KEPT_SHARE = 0.1  # each step leaves this share of the remaining time to the later steps


def check_close_timeout(timeout_s: object) -> float:
    """Return the seconds that closing may take. Raises ConfigError."""
    if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not 0 <= timeout_s < float("inf"):
        raise ConfigError(f"timeout_s must be a number of seconds, 0 or more: {timeout_s!r}", argument="timeout_s")
    return max(float(timeout_s), LEAST_S)


class Closing:
    """The steps that close a connection. `left_undone` lists what did not end within the deadline."""

    def __init__(self, logger: logging.Logger, deadline: Deadline) -> None:
        self._logger = logger
        self._deadline = deadline
        self.left_undone: list[str] = []

    async def close_users(
        self,
        sides: Iterable[Life],
        subscriptions: Iterable[Life],
        publishers: Iterable[Publisher],
        batches: Iterable[asyncio.Future[None]],
    ) -> None:
        """Close projections, views and relays, then subscriptions, flush and close publishers, and wait for batches."""
        # Publishers last: functions that still run may publish.
        await self._close_each(list(sides))
        await self._close_each(list(subscriptions))
        await self._close_publishers(list(publishers), list(batches))

    async def _close_each(self, users: list[Life]) -> None:
        deadline = self._deadline
        keeps_s = deadline.left_s * KEPT_SHARE
        closing = {each.begin_close(): each for each in users}
        for each in users:
            each.hurry(deadline.left_s - keeps_s)
        # Let every task begin, even if the deadline is over: a task that is cancelled before it begins closes nothing.
        await asyncio.sleep(0)
        late = await deadline.wait(closing, keeps_s=keeps_s)
        for task, each in closing.items():
            if task in late:
                task.cancel()
                self.left_undone.append(each.label)
        await deadline.wait(late, CANCELLED_WAIT_S, keeps_s=keeps_s / 2)

    async def _close_publishers(self, publishers: list[Publisher], batches: list[asyncio.Future[None]]) -> None:
        deadline = self._deadline
        keeps_s = deadline.left_s * KEPT_SHARE
        flushing = {asyncio.ensure_future(self._flush(each)): each for each in publishers}
        late = await deadline.wait({*flushing, *batches}, keeps_s=keeps_s)
        for task, publisher in flushing.items():
            if task in late:
                task.cancel()
                n_pending = publisher.stats().pending
                if n_pending:
                    self.left_undone.append(f"{n_pending} events of the publisher to {publisher.stream}")
        n_batches = len(late.intersection(batches))
        if n_batches:
            self.left_undone.append(f"{n_batches} calls of publish_batch")
        closing = [asyncio.ensure_future(each.close()) for each in publishers]
        await asyncio.sleep(0)  # let every task begin, as above
        for unclosed in await deadline.wait(closing, keeps_s=keeps_s / 2):
            unclosed.cancel()

    async def _flush(self, publisher: Publisher) -> None:
        try:
            await publisher.flush()
        except Exception as error:  # PublishFailed, or whatever a hook of middleware raises
            self._logger.warning(
                "closing the connection: flushing the publisher to %s failed: %s",
                publisher.stream, error, extra={"eda_stream": publisher.stream},
            )  # fmt: skip

    async def close_wire(self, services: ConnServices) -> None:
        """Accept no more publishes, wait for the single publishes under way, and close the wire."""
        deadline = self._deadline
        services.wire.closing = True
        n_unsettled = await services.stream_publishers.drain(deadline, keeps_s=deadline.left_s * KEPT_SHARE)
        if n_unsettled:
            self.left_undone.append(f"{n_unsettled} publishes")
        services.stream_publishers.close()
        if not await services.wire.close_within(deadline.left_s):
            self.left_undone.append("writing to the server")
