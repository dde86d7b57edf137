"""Whose answers a publisher believes: those of the stream and the JetStream domain that are meant.

Two domains may have a stream of one name, and then both store what is published and both answer. An acknowledgement
names stream and domain. A refusal names no domain: where there are domains, one counts only when the acknowledgement
of the right stream does not come.
"""

from __future__ import annotations

import logging
from time import monotonic

from eda.errors import ServerError
from eda.jetstream.publish_answers import Answer, Refused, decode_answer

__all__ = ["Verdicts"]

DOUBT_S = 0.5  # how long the right stream may take to acknowledge what another domain may have refused


class Verdicts:
    """What is known of the answers to one publisher. `domain` is that of its stream, empty where there is none."""

    def __init__(self, logger: logging.Logger, stream: str) -> None:
        self._logger = logger
        self._stream = stream
        self.domain = ""
        self.why: ServerError | None = None  # the server could not take the oldest event when last asked
        self._other: ServerError | None = None  # a stream that is not meant has acknowledged
        self._doubts: dict[int, tuple[float, ServerError]] = {}

    def decode(self, status: int, payload: bytes) -> Answer | None:
        """Return the answer in a message; None, and a warning in the log, when it is none."""
        answer = decode_answer(status, payload)
        if answer is None:
            self._logger.warning("stream %s: an acknowledgement that is none is ignored", self._stream)
        return answer

    def is_of_domain(self, answer: Answer) -> bool:
        """Whether an acknowledgement is from the domain that is published to; one that is not is told of once."""
        if answer.domain == self.domain:
            return True
        if self._other is None:
            self._logger.warning(
                "stream %r of domain %r acknowledges what is published to domain %r: it is ignored, here and later",
                answer.stream,
                answer.domain,
                self.domain,
            )
        text = f"stream {answer.stream!r} of domain {answer.domain!r} has answered, domain {self.domain!r} has not"
        self._other = ServerError(503, 0, text, operation=f"publish to {self._stream}")
        return False

    @property
    def cause(self) -> ServerError | None:
        """Why an event that timed out may not be stored; None where nothing is known."""
        return self.why or self._other

    def doubt(self, seq: int, refused: Refused) -> None:
        """Note a refusal of an event that the right stream may acknowledge yet."""
        self._doubts.setdefault(seq, (monotonic() + DOUBT_S, refused.as_error(self._stream)))

    def refusals(self) -> list[tuple[int, ServerError]]:
        """Return, once, the refusals that have stood long enough, with the sequences of their events."""
        if not self._doubts:
            return []
        now = monotonic()
        ripe = [(seq, error) for seq, (at, error) in self._doubts.items() if at <= now]
        for seq, _ in ripe:
            del self._doubts[seq]
        return ripe
