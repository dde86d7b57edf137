"""A publisher that runs the hooks of middleware for each event that it sends, and around `flush`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from eda._event import Event
from eda.errors import ConfigError
from eda.middleware.around_publish import FlushChain, PublishChain, with_id
from eda.middleware.calls import Hook
from eda.publishing._columns import Columns
from eda.publishing.publisher import Publisher
from eda.receipt import Receipt

__all__ = ["HookedPublisher"]


class HookedPublisher(Publisher):
    """A publisher with hooks. An event is accepted when the last hook has passed it on."""

    _publish_hooks: Sequence[Hook] = ()
    _send_hooks: Sequence[Hook] = ()
    _flush_hooks: Sequence[Hook] = ()

    def use(self, publish: Sequence[Hook], send: Sequence[Hook], flush: Sequence[Hook]) -> None:
        """Set the hooks. `send` are those of events that are sent without waiting for their receipts."""
        self._publish_hooks = publish
        self._send_hooks = send
        self._flush_hooks = flush

    async def send(self, event: Event) -> str:
        """Run the hooks, then send the event as `Publisher.send` does."""
        return str(await self._run_hooks(self._send_hooks, event, super().send))

    async def send_and_wait(self, event: Event) -> Receipt:
        """Run the hooks, then send the event as `Publisher.send_and_wait` does."""
        receipt: Receipt = await self._run_hooks(self._publish_hooks, event, super().send_and_wait)
        return receipt

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Send the events as `send` does, one after the other."""
        ids: list[str] = []
        if isinstance(events, AsyncIterable):
            async for event in events:
                await self._send_next(event, ids)
        elif isinstance(events, Iterable):
            for event in events:
                await self._send_next(event, ids)
        else:
            return await super().send_many(events)  # raises the error
        return ids

    async def _send_next(self, event: Event, ids: list[str]) -> None:
        try:
            ids.append(await self.send(event))
        except Exception as error:
            error.add_note(f"events[{len(ids)}]")
            raise

    async def _send_columns(self, rows: Columns) -> list[str]:
        """Send the event of each row as `send` does, one after the other."""
        ids: list[str] = []
        for row in range(len(rows)):
            event = rows.event(row)
            try:
                ids.append(await self.send(event))
            except Exception as error:
                error.add_note(f"row {row}")
                raise
        return ids

    async def _run_hooks(
        self, hooks: Sequence[Hook], event: Event, publish: Callable[[Event], Coroutine[Any, Any, Any]]
    ) -> Any:
        self._check_loop()
        if self._core is None or self._closed:
            return await publish(event)  # raises Closed, without running a hook
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        return await PublishChain(hooks, publish, self).call(with_id(event, self.stream))

    async def flush(self) -> None:
        """Run the hooks around `Publisher.flush`."""
        flush = super().flush
        await FlushChain(self._flush_hooks, lambda _: flush()).call(self)
