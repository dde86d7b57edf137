"""Handles the server's answers that the publisher's core does not handle itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from eda.errors import ServerError
from eda.jetstream.publish_answers import Refused
from eda.log import with_fields
from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump_machine import UNDER_WAY, PumpMachine, State

__all__ = ["PumpAnswers"]

FORGOTTEN_S = 0.25  # how long to wait for a batch's final acknowledgement after the server says that it has ended


class PumpAnswers:
    """Changes the machine's state, and settles events, by the server's answers. `fail(seq, error)` fails an event."""

    def __init__(
        self,
        machine: PumpMachine,
        checks: AnswerChecks,
        logger: logging.Logger,
        loop: asyncio.AbstractEventLoop,
        stream: str,
        options: PublisherOptions,
        fail: Callable[[int, Exception], None],
    ) -> None:
        self._machine = machine
        self._checks = checks
        self._logger = with_fields(logger, eda_stream=stream)
        self._loop = loop
        self._stream = stream
        self._is_fast_wanted = options.mode == "fast"
        self._fail = fail

    # --- fast mode ---------------------------------------------------------------------------------------------------

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Handle an answer to message `seq` of the batch, except acknowledgements within the batch."""
        machine, core = self._machine, self._machine.core
        answer = self._checks.decode(status, payload)
        if answer is None or answer.type or machine.state not in UNDER_WAY:
            return  # an answer with a `type` reports a gap or an error; the final acknowledgement says what is stored
        if answer.error is not None:
            self._on_batch_refused(seq, answer.error)
        elif not self._checks.is_from_domain(answer):
            return
        elif answer.stream != self._stream:
            self._logger.error("stream %r answers for stream %r; the answer is ignored", answer.stream, self._stream)
        elif answer.batch == machine.batch and core.settle_batch_to(
            answer.count, -answer.seq if answer.duplicate else answer.seq
        ):
            if answer.count == core.n_in_batch:
                machine.batch_succeeded()
            else:
                machine.start_over()

    def _on_batch_refused(self, seq: int, refused: Refused) -> None:
        machine, core = self._machine, self._machine.core
        if refused.bars_batches or (refused.bars_more_batches and not self._is_fast_wanted):
            machine.choose_mode(can_fast=False)
            machine.start_over()
        elif refused.is_of_ended_batch:
            self._on_batch_unknown(seq)
        elif refused.is_transient:
            machine.back_off(refused)
        elif seq == 1 and core.oldest_opened_batch:
            # The answer to the first event of a batch is about that event, not about the batch.
            if self._refuse(core.oldest, refused):
                machine.start_over()
        elif seq > core.n_in_batch:
            machine.start_over()  # the commit itself was refused, so no final acknowledgement will come
        elif machine.state is State.OPEN:
            machine.commit()  # a later event was refused; the server ends the batch when it gets the next message

    def _on_batch_unknown(self, seq: int) -> None:
        """Handle the answer that the server does not know the batch, because the batch has ended already."""
        machine, core = self._machine, self._machine.core
        if machine.state is State.OPEN and core.settles_at_end:
            machine.commit()  # the answer may be from another domain, and the right stream may still have the batch
        elif machine.state is not State.ENDING:
            machine.await_end(FORGOTTEN_S)
        elif seq > core.n_in_batch:
            machine.await_end(min(FORGOTTEN_S, machine.ending_by - self._loop.time()))

    # --- window mode -------------------------------------------------------------------------------------------------

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Handle an answer to event `seq`, except plain acknowledgements."""
        machine, core = self._machine, self._machine.core
        answer = self._checks.decode(status, payload)
        if answer is None or answer.type or not (answer.error or answer.seq):
            return  # not an answer to one event
        refused = answer.error
        if refused is None:
            if not self._checks.is_from_domain(answer):
                return
            if answer.stream == self._stream:  # an acknowledgement in a form that today's servers do not use
                core.settle(seq, -answer.seq if answer.duplicate else answer.seq)
                return
            self._fail(seq, ServerError(500, 0, f"stream {answer.stream!r} owns the subject of {self._stream!r}"))
        elif not refused.is_transient:
            self._refuse(seq, refused)
        elif machine.state is State.OPEN or (machine.state is State.PROBING and seq == core.oldest):
            machine.back_off(refused)
        if machine.state is State.PROBING and not core.oldest_is_written:
            machine.start_over()

    def _refuse(self, seq: int, refused: Refused) -> bool:
        """Fail an event that was refused for good, and return True.

        If the server has a domain, the refusal may come from another domain. Then keep it, and return False: the event
        fails later, unless the right stream acknowledges it in time.
        """
        if self._machine.core.settles_at_end:
            self._checks.note_refusal(seq, refused)
            return False
        self._fail(seq, refused.as_error(self._stream))
        return True
