"""The spans of the attempts to handle events."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, set_span_in_context

from eda._event import Event
from eda._pack import place_of
from eda.subscribing.subscription import Subscription
from eda.telemetry._usual import Current, Entering
from eda.telemetry.attempts import note_attempt
from eda.telemetry.conventions import ATTEMPT, BATCH_COUNT, PLACE
from eda.telemetry.propagation import NOTHING, Propagation
from eda.telemetry.spans import Links, SpanMaker, attributes_of

__all__ = ["Processing"]

End = Callable[[BaseException | None], object]


@final
class Processing:
    """The hook around attempts: `observe`. `follow_sampling` is as in `OpenTelemetry`."""

    def __init__(self, spans: SpanMaker, propagation: Propagation, current: Current, *, follow_sampling: bool) -> None:
        self._spans = spans
        self._propagation = propagation
        self._follow_sampling = follow_sampling
        self.observe: Entering = Entering(current, self._observe)

    def _observe(self, given: Event | list[Event], subscription: Subscription) -> End:
        """Begin the span of an attempt, and make it the current one."""
        if isinstance(given, list):
            return self._observe_batch(given, subscription)
        origin = self._propagation.origin_of(given)
        if origin.is_unsampled and self._follow_sampling:
            # What the handler publishes belongs to the trace that its sender has chosen not to sample.
            self.observe.use(given, origin.context)
            return self.observe.enter(origin.context)
        more = attributes_of(given) | {PLACE: place_of(given), ATTEMPT: given.attempt}
        links = [Link(origin.span_context)] if origin.span_context.is_valid else []
        span = self._spans.process(subscription.stream, _group_of(subscription), origin.context, more, links)
        return self._enter(span, origin.context, [given], subscription)

    def _observe_batch(self, events: list[Event], subscription: Subscription) -> End:
        more = {BATCH_COUNT: len(events)}
        span = self._spans.process(subscription.stream, _group_of(subscription), NOTHING, more)
        if span.is_recording():
            links = Links(span)
            for event in events:
                links.add(self._propagation.origin_of(event).span_context)
            links.end()
        return self._enter(span, NOTHING, events, subscription)

    def _enter(self, span: Span, context: Context, events: list[Event], subscription: Subscription) -> End:
        leave = self.observe.enter(set_span_in_context(span, context))

        def end(error: BaseException | None) -> None:
            try:
                leave(error)
                if error is not None:
                    note_attempt(span, error, events, subscription)
            finally:
                span.end()

        return end


def _group_of(subscription: Subscription) -> str | None:
    """Return the name under which members share the events; None if the subscription is private."""
    options = subscription.options
    return subscription.name if options.durable or options.name is not None else None
