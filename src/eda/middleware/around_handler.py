"""The hooks around a handler."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from typing import Any, final

from eda._event import Event
from eda.errors import CodecError
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
        if (failure is None or isinstance(failure, PartialFailure)) and call.is_error_unseen:
            failure = _joined(failure, call.error)
        if failure is not None:
            self.translate(failure, given if call.passed_on is None else call.passed_on, given)
        return failure

    def translate(self, failure: BaseException, passed_on: Any, given: Any) -> None:
        """Let a failure name what a hook was given, in place of what the hook has passed on."""
        raise NotImplementedError


@final
class HandleChain(_InChain):
    """The hooks around a handler of single events."""

    __slots__ = ()
    call_type: type[Call] = HandleCall

    def translate(self, failure: BaseException, passed_on: Event, given: Event) -> None:
        """Let a decoding error have the id of the event that the hook was given."""
        _restore_ids(failure, [passed_on], [given])

    def check(self, before: Event, given: Any, name: str) -> None:
        """Raise ConfigError unless `given` is an event."""
        check_event(given, name)


@final
class BatchChain(_InChain):
    """The hooks around a handler of batches.

    A hook may change events, leave some out, and reorder them, but their places in the stream stay: by these a
    PartialFailure of the handler is translated into the events that each hook knows, and at last into the events of the
    batch.
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
        places = {_place_of(event) for event in before}
        for index, event in enumerate(given):
            if type(event) is not Event:
                raise wrong(f"{name} must give call_next a list of events, but [{index}] is {type(event).__name__}")
            if _place_of(event) not in places:
                raise wrong(
                    f"{name} gave call_next an event that is not of the batch, at [{index}]: make a changed event with "
                    "event.replace"
                )

    def translate(self, failure: BaseException, passed_on: list[Event], given: list[Event]) -> None:
        """Let a PartialFailure name the events that the hook was given, and decoding errors have the ids of these."""
        before = {_place_of(event): event for event in given}
        _restore_ids(failure, passed_on, [before[_place_of(event)] for event in passed_on])
        if isinstance(failure, PartialFailure):
            _rename(failure, passed_on, given)


def _place_of(event: Event) -> tuple[int, int]:
    return event.sequence, event.index


def _joined(failure: PartialFailure | None, error: BaseException | None) -> BaseException | None:
    """Return the error of a call that a hook has not seen, with what the hook says has failed as well."""
    if failure is not None and isinstance(error, PartialFailure):
        error.failures = failure.failures | error.failures
    return error


def _rename(failure: PartialFailure, passed_on: Sequence[Event], given: Sequence[Event]) -> None:
    """Let `failures` name the given events, in place of changed ones that have the same places in the stream."""
    failures = failure.failures
    by_place = {_place_of(event): error for event, error in failures.items()}
    # Events with equal envelopes are one key. It stands for all of them, wherever they are in the stream.
    by_place |= {_place_of(event): failures[event] for event in passed_on if event in failures}
    renamed: dict[Event, BaseException] = {}
    for event in given:
        error = failures.get(event, by_place.get(_place_of(event)))
        if error is not None:
            renamed[event] = error
    if renamed:  # otherwise it names no event of the batch, which is an error that the dispatcher reports
        failure.failures = renamed


def _restore_ids(failure: BaseException, passed_on: Sequence[Event], given: Sequence[Event]) -> None:
    """Let decoding errors of events whose ids a hook has changed have the ids as they were before.

    By its id the dispatcher knows which event can't be decoded.
    """
    ids = {new.id: old.id for new, old in zip(passed_on, given, strict=True) if new.id and new.id != old.id}
    if ids:
        _replace_ids(failure, ids)


def _replace_ids(error: BaseException, ids: dict[str, str]) -> None:
    if isinstance(error, CodecError):
        error.event_id = ids.get(error.event_id, error.event_id)
    elif isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _replace_ids(each, ids)
    elif isinstance(error, PartialFailure):
        for each in error.failures.values():
            _replace_ids(each, ids)


async def _nothing() -> None:
    """Do nothing, in place of a handler that gets no event."""
