"""Reports the outcomes of a publisher's events: stored or failed."""

from __future__ import annotations

import asyncio
import copy
import logging

from eda._event import Event
from eda.callbacks import Callback
from eda.error_counts import ErrorCounts
from eda.errors import Timeout
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.failures import Failures
from eda.publishing.publisher_options import PublisherOptions

__all__ = ["Outcomes", "Stopped"]


class Stopped(Exception):
    """An event has failed, and the publisher takes no other until `flush` was called."""


class Outcomes:
    """Reports outcomes to the user's callbacks and to waiting senders; keeps failures for the callers of `flush`."""

    core: PublisherCore

    def __init__(self, logger: logging.Logger, options: PublisherOptions) -> None:
        self._on_ack = None if options.on_ack is None else Callback("on_ack", options.on_ack, logger)
        self._on_error = None if options.on_error is None else Callback("on_error", options.on_error, logger)
        self.failures: Failures = Failures()
        self.errors: ErrorCounts = ErrorCounts()
        self._stops = options.stops_on_failure
        self._is_stopped = False

    @property
    def wants_acks(self) -> bool:
        """Return whether the user has set `on_ack`."""
        return self._on_ack is not None

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Call the user's `on_ack`."""
        on_ack = self._on_ack
        assert on_ack is not None
        try:
            result = on_ack.call(event_id, sequence)
        except BaseException as error:
            on_ack.failed(error, event_id, sequence)
        else:
            if result is not None:
                on_ack.returned(result)

    def on_receipt(self, receipt: asyncio.Future[int], sequence: int) -> None:
        """Give a sender that waits the sequence of its stored event."""
        if not receipt.done():
            receipt.set_result(sequence)

    def on_failed(self, seq: int, error: Exception) -> None:
        """Settle an event, or all events of a pack, with an error.

        The sender of an event that waits for its receipt gets the error, otherwise the failure is kept.
        """
        core = self.core
        is_shared = False  # whether another event has this error object already
        if self._stops:
            self._is_stopped = core.is_overfull = True
        for event, event_id, receipt in core.fail(seq):
            if is_shared:
                error = _copy_of(error)
            if isinstance(error, Timeout):
                error.event_id = event_id
            self.errors.add(error)
            if receipt is not None and not receipt.done():
                receipt.set_exception(error)
            else:
                self.keep(seq, event, error)
            if self._on_error is not None:
                self._on_error(event, error)
            is_shared = True

    def keep(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep a failure until a caller of `flush` is told of it. If the user has set `on_error`, do nothing."""
        if self._on_error is None:
            self.failures.add(seq, event, error)
            self.update_overfull()

    def refusal(self) -> Exception:
        """Return the error of a sender while the core is overfull: it tells of all failures that are kept."""
        if self._is_stopped:
            return Stopped()
        error = self.failures.tell_all()
        self.update_overfull()
        return error

    def update_overfull(self) -> None:
        """Update whether the core is overfull after failures were added or reported."""
        self._is_stopped = False
        self.core.is_overfull = self.failures.is_overfull


def _copy_of(error: Exception) -> Exception:
    """Return an equal error, for another event of the same pack."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    if hasattr(error, "__notes__"):
        twin.__notes__ = list(error.__notes__)
    return twin
