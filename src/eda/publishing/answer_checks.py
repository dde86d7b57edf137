"""Checks that an answer to a publisher comes from its stream, in its JetStream domain.

Two domains may each have a stream of the same name. Then both store what is published, and both answer. An
acknowledgement names its stream and domain. A refusal names no domain. So if the server has a domain, a refusal counts
only if the right stream does not acknowledge the event within the next 0.5 s.
"""

from __future__ import annotations

import logging
from time import monotonic

from eda.errors import ServerError
from eda.jetstream.publish_answers import Answer, Refused, decode_answer
from eda.log import with_fields

__all__ = ["AnswerChecks"]

REFUSAL_WAIT_S = 0.5  # after a refusal: how long the right stream has to acknowledge the event all the same


class AnswerChecks:
    """Checks the answers to one publisher. `domain` is the domain of its stream, empty if the server has none."""

    def __init__(self, logger: logging.Logger, stream: str) -> None:
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self.domain = ""
        self.last_refusal: ServerError | None = None  # why the oldest event was not stored when last tried
        self._wrong_domain: ServerError | None = None  # a stream of another domain has acknowledged an event
        self._unconfirmed: dict[int, tuple[float, ServerError]] = {}  # sequence > when the refusal counts, refusal

    def decode(self, status: int, payload: bytes) -> Answer | None:
        """Return the answer in a message. If the message is not an answer, log a warning and return None."""
        answer = decode_answer(status, payload)
        if answer is None:
            self._logger.warning("stream %s: a message that is not an acknowledgement is ignored", self._stream)
        return answer

    def is_from_domain(self, answer: Answer) -> bool:
        """Return whether an acknowledgement is from the right domain. The first one from another domain is logged."""
        if answer.domain == self.domain:
            return True
        if self._wrong_domain is None:
            self._logger.warning(
                "stream %r of domain %r acknowledges events that are published to domain %r; such acknowledgements "
                "are ignored from now on",
                answer.stream,
                answer.domain,
                self.domain,
            )
        text = f"stream {answer.stream!r} of domain {answer.domain!r} has answered, domain {self.domain!r} has not"
        self._wrong_domain = ServerError(503, 0, text, operation=f"publish to {self._stream}")
        return False

    @property
    def likely_cause(self) -> ServerError | None:
        """Return the likely reason for a time-out; None if no reason is known."""
        return self.last_refusal or self._wrong_domain

    def note_refusal(self, seq: int, refused: Refused) -> None:
        """Keep the refusal of an event for a while, because the right stream may still acknowledge the event."""
        self._unconfirmed.setdefault(seq, (monotonic() + REFUSAL_WAIT_S, refused.as_error(self._stream)))

    def take_refusals(self) -> list[tuple[int, ServerError]]:
        """Remove and return the refusals that count now, each with the sequence of its event."""
        if not self._unconfirmed:
            return []
        now = monotonic()
        due = [(seq, error) for seq, (at, error) in self._unconfirmed.items() if at <= now]
        for seq, _ in due:
            del self._unconfirmed[seq]
        return due
