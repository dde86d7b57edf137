"""`conn.publish_batch` with hooks: the hooks of each event run concurrently, and the batch waits for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from eda._event import Event
from eda.errors import PublishFailed, Timeout
from eda.middleware.around_publish import PublishChain
from eda.middleware.calls import Hook
from eda.receipt import Receipt

__all__ = ["HookedBatch"]

HOOKS_S = 30.0  # how long the batch waits for the hooks


class HookedBatch:
    """One batch. Each event's hooks run in a task, and wait in `call_next` until the batch is stored or has failed.

    `publish(events)` publishes the batch, once the hooks of all events have passed their events on. If a hook raises
    before, nothing is published, and `call_next` raises PublishFailed in the hooks of the other events.
    """

    chain_type: type[PublishChain] = PublishChain
    what = "the hooks of publish_batch"

    def __init__(
        self,
        hooks: Sequence[Hook],
        events: Sequence[Event],
        publish: Callable[[list[Event]], Coroutine[Any, Any, list[Receipt]]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._hooks = hooks
        self.events: Sequence[Event] = events
        self._publish = publish
        self._passed_on: dict[int, Event] = {}  # by index
        self._receipts: list[asyncio.Future[Receipt]] = [self._loop.create_future() for _ in events]
        self._is_ready = self._loop.create_future()  # all events were passed on, or a hook has failed
        self._is_published = False  # the batch was handed to `publish`
        self._failure: PublishFailed | None = None  # the first hook that has failed before the batch was published

    async def run(self) -> list[Receipt]:
        """Run the hooks, publish the batch, and return its receipts. Raises what a hook or the publish raises.

        Raises Timeout if the hooks have not passed all events on within 30 s: some may wait for each other.
        """
        tasks = [self._loop.create_task(self._run_one(index)) for index in range(len(self.events))]
        try:
            await self._until_ready()
            if self._failure is None:
                await self._publish_all()
            await asyncio.wait(tasks)
            return self._outcome(tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                _ = task.cancelled() or task.exception()
            raise
        finally:
            for receipt in self._receipts:
                receipt.cancel()
            self._failure = None

    async def _until_ready(self) -> None:
        """Wait until all events were passed on, or a hook has failed. Raises Timeout."""
        while self._failure is None and len(self._passed_on) < len(self.events):
            self._is_ready = self._loop.create_future()
            done, _ = await asyncio.wait({self._is_ready}, timeout=HOOKS_S)
            if not done:
                late = Timeout(self.what, HOOKS_S)
                late.add_note(
                    f"{len(self.events) - len(self._passed_on)} of {len(self.events)} events were not passed on, so "
                    "nothing was published. The hooks of a batch run concurrently, and wait in call_next for each other"
                )
                raise late

    async def _publish_all(self) -> None:
        self._is_published = True
        try:
            receipts = await self._publish([self._passed_on[index] for index in range(len(self.events))])
        except Exception as error:
            for index in range(len(self._receipts)):
                self._fail(index, error)
        else:
            for waiting, receipt in zip(self._receipts, receipts, strict=True):
                if not waiting.done():
                    waiting.set_result(receipt)

    def _fail(self, index: int, error: Exception) -> None:
        receipt = self._receipts[index]
        if not receipt.done():
            receipt.set_exception(error)
            receipt.exception()  # a hook that has stopped waiting does not take the exception

    def _outcome(self, tasks: Sequence[asyncio.Task[Receipt]]) -> list[Receipt]:
        """Return the receipts, or raise the error of a hook: the first before the publish, else the first event's."""
        if self._failure is not None:
            for task in tasks:
                _ = task.cancelled() or task.exception()
            raise self._failure.failed[0][1]
        errors = [asyncio.CancelledError() if task.cancelled() else task.exception() for task in tasks]
        for error in errors:
            if error is not None:
                raise error
        return [task.result() for task in tasks]

    # --- the hooks of one event --------------------------------------------------------------------------------------

    async def _run_one(self, index: int) -> Receipt:
        event = self.events[index]
        try:
            chain = self.chain_type(self._hooks, lambda passed: self._pass_on(index, passed), batch=self)
            receipt: Receipt = await chain.call(event)
            return receipt
        except BaseException as error:
            if not self._is_published and self._failure is None:
                error.add_note(f"events[{index}]: nothing of the batch was published")
                self._failure = PublishFailed([(event, error)])
                self._tell_the_others()
            raise

    async def _pass_on(self, index: int, event: Event) -> Receipt:
        """Wait until the batch is stored, and return the event's receipt. Raises the error if it is not stored."""
        if self._failure is not None:
            raise PublishFailed(self._failure.failed)
        self._passed_on[index] = event
        if len(self._passed_on) == len(self.events):
            self._wake()
        try:
            return await self._receipts[index]
        except BaseException:
            if not self._is_published:
                self._passed_on.pop(index, None)  # the hook has stopped waiting, so it fails
            raise

    def _tell_the_others(self) -> None:
        assert self._failure is not None
        for index in self._passed_on:
            self._fail(index, PublishFailed(self._failure.failed))
        self._wake()

    def _wake(self) -> None:
        if not self._is_ready.done():
            self._is_ready.set_result(None)
