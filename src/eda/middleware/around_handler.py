"""The hooks around a handler."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from typing import Any, final

from eda._event import Event
from eda.handlers import AnyHandler, PartialFailure, refuse_result
from eda.middleware.calls import Call, Chain, Hook, check_event, final_error, wrong
from eda.subscribing.subscription import Subscription

__all__ = ["BatchChain", "HandleChain"]


class _HandleCall(Call):
    __slots__ = ()

    @property
    def subscription(self) -> Subscription:
        """The subscription that the event belongs to."""
        assert isinstance(self._chain, _InChain)
        return self._chain.subscription


@final
class HandleCall(_HandleCall):
    """The `call_next` of `Middleware.handle`."""

    __slots__ = ()

    def __call__(self, event: Event) -> Coroutine[Any, Any, None]:
        """Pass the event on."""
        return self._begin(event)


@final
class BatchCall(_HandleCall):
    """The `call_next` of `Middleware.handle_batch`."""

    __slots__ = ()

    def __call__(self, events: list[Event]) -> Coroutine[Any, Any, None]:
        """Pass the events on."""
        return self._begin(events)


class _InChain(Chain):
    """The hooks around a handler. The owner sets `subscription` before the first event is handled."""

    __slots__ = ("_handler", "subscription")
    subscription: Subscription

    def __init__(self, hooks: Sequence[Hook], handler: AnyHandler) -> None:
        super().__init__(hooks, self._call_handler)
        self._handler = handler

    async def _call_handler(self, given: Any) -> None:
        """Call the handler as a worker does: it may be a plain function, which is reported if it takes too long."""
        began = time.monotonic()
        result = self._handler(given)
        if result is not None:
            if hasattr(result, "__await__"):
                await result
                return
            refused = refuse_result(result)
            if refused is not None:
                raise refused
        took_s = time.monotonic() - began
        if took_s > self.subscription.options.timeout_s:
            self.subscription._on_overrun(given[0] if isinstance(given, list) else given, took_s)

    def outcome(self, name: str, call: Call, failure: BaseException | None, given: Any) -> BaseException | None:
        """Return the exception with which the attempt fails. Without one, the event is acknowledged."""
        final = final_error(call, failure)
        if final is not None:
            return final
        if failure is None and call.was_forgotten:
            return wrong(f"{name} called call_next without awaiting it: the handler was not called")
        return failure


@final
class HandleChain(_InChain):
    """The hooks around a handler of single events."""

    __slots__ = ()
    call_type: type[Call] = HandleCall

    def check(self, before: Event, given: Any, name: str) -> None:
        """Raise ConfigError unless `given` is an event."""
        check_event(given, name)


@final
class BatchChain(_InChain):
    """The hooks around a handler of batches.

    A hook may change events, leave some out, and reorder them, but the sequences stay: by them a PartialFailure of the
    handler is translated into the events that each hook knows, and at last into the events of the batch.
    """

    __slots__ = ()
    call_type: type[Call] = BatchCall

    def call(self, given: list[Event], at: int = 0) -> Coroutine[Any, Any, None]:
        """Return the coroutine of the hooks and the handler. With no event, it calls none of them."""
        return super().call(given, at) if given else _nothing()

    def copied(self, given: list[Event]) -> list[Event]:
        """Return a copy of the list."""
        return list(given)

    def check(self, before: list[Event], given: Any, name: str) -> None:
        """Raise ConfigError unless `given` is a list of events of the batch, perhaps changed."""
        if type(given) is not list:
            raise wrong(f"{name} must give call_next a list of events, not {type(given).__name__}")
        sequences = {event.sequence for event in before}
        for index, event in enumerate(given):
            if type(event) is not Event:
                raise wrong(f"{name} must give call_next a list of events, but [{index}] is {type(event).__name__}")
            if event.sequence not in sequences:
                raise wrong(
                    f"{name} gave call_next an event that is not of the batch, at [{index}]: make a changed event with "
                    "event.replace"
                )

    def translated(self, error: BaseException, given: list[Event]) -> BaseException:
        """Name the given events in a PartialFailure, in place of changed ones."""
        if isinstance(error, PartialFailure):
            _rename(error, given)
        return error

    def outcome(self, name: str, call: Call, failure: BaseException | None, given: list[Event]) -> BaseException | None:
        """Return the exception with which the attempt fails, in terms of the events that the hook was given."""
        error = super().outcome(name, call, failure, given)
        return None if error is None else self.translated(error, given)


def _rename(error: PartialFailure, events: list[Event]) -> None:
    """Let `failures` name these events, in place of changed ones with the same sequences."""
    failures = error.failures
    by_sequence = {event.sequence: failed for event, failed in failures.items()}
    renamed: dict[Event, BaseException] = {}
    for event in events:
        failed = failures.get(event, by_sequence.get(event.sequence))
        if failed is not None:
            renamed[event] = failed
    if renamed:  # otherwise it names no event of the batch, which is an error that the dispatcher reports
        error.failures = renamed


async def _nothing() -> None:
    """Do nothing, in place of a handler that gets no event."""
