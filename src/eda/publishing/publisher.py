"""Publisher: events at volume, in order, each with a known outcome. When they are written is the pump's affair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable

from eda._event import Event
from eda.errors import Closed, CodecError, ConfigError, PublishFailed
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.lifecycle import Mode, PublisherLife
from eda.receipt import Receipt

__all__ = ["Mode", "Publisher"]

SEND_MANY = 512  # events taken from an iterable at a time
FLUSH_ON_ERROR_S = 5.0  # how long a block that failed waits for what it has sent


class Publisher(PublisherLife):
    """Publishes events at volume; made by `Conn.publisher`, used as an async context manager.

    Events are stored in the order of `send`, also across time-outs, reconnects and leader changes; only an event that
    the server refuses while later ones are under way can be overtaken by them. One that was sent again, because its
    first answer was lost, and is refused then, may be stored all the same.

    Leaving the context flushes, then closes. A block that is cancelled, or whose time-out is over, ends now: what is
    pending fails with Closed. One that is left by another exception flushes for 5 s at most.
    """

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, _: object = None
    ) -> None:
        try:
            if error is None:
                await self.flush()
            elif not _ends_now(error):
                async with asyncio.timeout(FLUSH_ON_ERROR_S):
                    await self.flush()
        except (PublishFailed, TimeoutError) as failed:
            if error is None:
                raise
            if isinstance(failed, PublishFailed):
                self._logger.error("leaving a publisher to %s: %s", self.stream, failed)
        finally:
            await self.close()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, event: Event) -> str:
        """Take an event into the window and return the id it goes under.

        Waits only while the window is full, or the connection can't take more: that is the back-pressure. Raises
        ConfigError or EncodeError for an event that can't be sent, Closed; PublishFailed when more than 10,000 failures
        are kept that nobody was told of. Cancelled while it waits, nothing of the event was taken. From another event
        loop or thread it raises ConfigError, and nothing was taken.
        """
        core = self._core
        if core is None or self._senders or self._closed or self._overflows:
            core = await self._room()
        elif (event_id := core.accept_if_flowing(event)) is not None:
            return event_id
        elif core.is_full or self._out.paused:
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        event_id = core.accept(event)
        self._pump.accepted()
        return event_id

    async def send_and_wait(self, event: Event) -> Receipt:
        """Send an event, in its turn, and return its receipt once it is stored.

        In fast mode the event is a batch of its own, so that the answer is about it alone: that takes one round trip
        for each such event, one after the other. For many at the same time, `Conn.publish` is faster.

        Raises what `send` does, and what the event failed with: ServerError, Timeout, Closed. Such a failure goes to
        `on_error`, but not to `flush` any more. Cancelled while it waits for room, nothing of the event was taken;
        later, the event is published all the same.
        """
        core = self._core
        if core is None or self._senders or self._closed or self._overflows or core.is_full or self._out.paused:
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        stored: asyncio.Future[int] = self._loop.create_future()
        seq, event_id = core.accept_with_receipt(event, stored)
        self._pump.accepted_apart()
        try:
            sequence = await stored
        except asyncio.CancelledError:
            if stored.done() and not stored.cancelled() and (error := stored.exception()) is not None:
                # It failed at the same time: who was to hear of it does not.
                self._keep(seq, event if event.id else event.replace(id=event_id), error)
            raise
        finally:
            core.receipts.pop(seq, None)
        return Receipt(event_id, self.stream, abs(sequence), 0, sequence < 0)

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Send all events, in order, and return their ids; like `send`, waits while the window is full.

        Takes any iterable, async ones too. Raises what `send` and the iterable do: then all events before the culprit
        were taken, and none after. Cancelled, those taken so far are sent.
        """
        ids: list[str] = []
        if type(events) is list:
            await self._send_list(events, ids)
        elif isinstance(events, AsyncIterable):
            async for event in events:
                await self._send_list([event], ids)
        elif not isinstance(events, Iterable):
            raise ConfigError(
                f"events must be an iterable of eda.Event, not {type(events).__name__}", argument="events"
            )
        else:
            part: list[Event] = []
            try:
                for event in events:
                    part.append(event)
                    if len(part) == SEND_MANY:
                        whole, part = part, []
                        await self._send_list(whole, ids)
            finally:  # also what came before the iterable failed
                await self._send_list(part, ids)
        return ids

    async def _send_list(self, events: list[Event], ids: list[str]) -> None:
        at = 0
        while at < len(events):
            core = await self._room()
            try:
                at = core.accept_many(events, at, ids)
            except CodecError as error:
                error.add_note(f"events[{len(ids)}]")
                raise
            finally:
                self._pump.accepted()

    async def _room(self) -> PublisherCore:
        """Wait until the next event may be taken, which the caller then does at once. Raises Closed, PublishFailed."""
        self._check_loop()
        turns = self._turns
        turn = turns.come()
        try:
            while True:
                core = self._core
                if core is None or self._closed or self._wire.is_closed:
                    raise Closed("publisher (enter it with async with first)" if not self._closed else "publisher")
                if self._overflows:
                    raise self._all_failures()
                if turns.is_first(turn):
                    if self._out.paused:
                        await self._wire.wait_writable()
                        continue
                    if not core.is_full:
                        return core
                    core.room_wanted = True
                    self._pump.full()
                turn.woken = self._loop.create_future()
                await turn.woken
        finally:
            first = turns.leave(turn)
            if first is not None and not first.is_awake:
                self.on_room()

    def _all_failures(self) -> PublishFailed:
        error = self._failures.tell_all()
        self._overflows = self._failures.overflow
        return error

    async def flush(self) -> None:
        """Wait until everything sent so far is settled: at most the publish timeout.

        Raises PublishFailed with the failures of what was sent before this call, unless they were told before. Several
        callers at the same time are each told. With `on_error` no failure is kept, and none is raised here. Cancelled,
        it has told of none. From another event loop or thread it raises ConfigError.
        """
        core = self._core
        if core is None:
            return
        self._check_loop()
        to = core.next_seq
        listener = self._failures.listen(to)
        try:
            if core.oldest < to and not self._closed:
                mark: asyncio.Future[None] = self._loop.create_future()
                self._marks.add(to, mark)
                core.flush_to = core.flush_to or to
                self._pump.flush()
                await mark
            error = self._failures.tell(listener)
        finally:
            self._failures.leave(listener)
            self._overflows = self._failures.overflow
        if error is not None:
            raise error


def _ends_now(error: BaseException) -> bool:
    """Whether a block that was left by this error wants to wait for nothing: it was cancelled, or its time is over."""
    task = asyncio.current_task()
    return (
        not isinstance(error, Exception)
        or (isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError))
        or (task is not None and task.cancelling() > 0)
    )
