"""What became of a publisher's events: stored or failed, and who is told."""

from __future__ import annotations

import asyncio
import logging

from eda._event import Event
from eda.callbacks import Callback
from eda.errors import Timeout
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.failures import Failures
from eda.publishing.publisher_options import PublisherOptions

__all__ = ["Outcomes"]


class Outcomes:
    """Tells the user's callbacks and the senders that wait, and keeps failures until a caller of `flush` comes."""

    core: PublisherCore

    def __init__(self, logger: logging.Logger, options: PublisherOptions) -> None:
        self._on_ack = None if options.on_ack is None else Callback("on_ack", options.on_ack, logger)
        self._on_error = None if options.on_error is None else Callback("on_error", options.on_error, logger)
        self.failures = Failures()
        self.is_overfull = False  # more failures are untold than should be kept; `send` reads this for each event

    @property
    def wants_acks(self) -> bool:
        """Return whether the user wants to hear of each acknowledgement."""
        return self._on_ack is not None

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Tell the user's `on_ack`."""
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
        """Tell a sender that waits for it where its event is stored."""
        if not receipt.done():
            receipt.set_result(sequence)

    def on_failed(self, seq: int, error: Exception) -> None:
        """Settle an event with an error, and tell its sender or keep the failure."""
        core = self.core
        receipt = core.receipts.pop(seq, None)
        failed = core.fail(seq)
        if failed is None:
            return
        event, event_id = failed
        if isinstance(error, Timeout):
            error.event_id = event_id
        if receipt is not None and not receipt.done():
            receipt.set_exception(error)
        else:
            self.keep(seq, event, error)
        if self._on_error is not None:
            self._on_error(event, error)

    def keep(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep a failure until a caller is told. With `on_error`, no failure is kept."""
        if self._on_error is None:
            self.failures.add(seq, event, error)
            self.note_kept()

    def note_kept(self) -> None:
        """Update `is_overfull`, after failures were added or told."""
        self.is_overfull = self.failures.is_overfull
