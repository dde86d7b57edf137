"""The spans of dead letters that are stored: acknowledgements have none, because they are sent for many events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from eda._codec import decode_event
from eda.dead_letters.letter import NewDeadLetter
from eda.errors import CodecError
from eda.telemetry.attempts import note_error
from eda.telemetry.conventions import ATTEMPT, INTO, PLACE, REASON
from eda.telemetry.propagation import NO_ORIGIN, Propagation
from eda.telemetry.spans import SpanMaker, attributes_of

__all__ = ["Settling"]


@final
class Settling:
    """The hook `dead_letter`. `follow_sampling` is as in `OpenTelemetry`."""

    def __init__(self, spans: SpanMaker, propagation: Propagation, *, follow_sampling: bool) -> None:
        self._spans = spans
        self._propagation = propagation
        self._follow_sampling = follow_sampling

    def observe(self, letter: NewDeadLetter) -> Callable[[BaseException | None], object] | None:
        """Begin the span. It is a child of the span that has sent the event, as the spans of the attempts are."""
        place = f"{letter.sequence}" if letter.index is None else f"{letter.sequence}.{letter.index}"
        more: dict[str, Any] = {PLACE: place, ATTEMPT: letter.attempts, REASON: letter.reason, INTO: letter.into}
        origin = NO_ORIGIN
        try:
            event = decode_event(letter.payload)
        except CodecError:
            pass  # a message that is no event
        else:
            more |= attributes_of(event)
            origin = self._propagation.origin_of(event)
        if origin.is_unsampled and self._follow_sampling:
            return None
        group = None if letter.subscription == "private" else letter.subscription
        span = self._spans.settle(letter.stream, group, origin.context, more)

        def end(error: BaseException | None) -> None:
            if error is not None:
                note_error(span, error)
            span.end()

        return end
