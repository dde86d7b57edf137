"""The hooks around a publish, and around the flush of a publisher."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, final

from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import ConfigError, printable
from eda.middleware.base import Middleware, PublishBatch, overrides
from eda.middleware.calls import Call, Chain, Hook, check_event, final_error, wrong
from eda.publishing.publisher import Publisher
from eda.receipt import Receipt

__all__ = ["FlushChain", "MarkHook", "PublishChain", "send_hooks", "with_id"]


@final
class PublishCall(Call):
    """The `call_next` of `Middleware.publish`."""

    __slots__ = ()

    @property
    def publisher(self) -> Publisher | None:
        """The publisher that the program uses; None for `conn.publish` and `conn.publish_batch`."""
        assert isinstance(self._chain, PublishChain)
        return self._chain.publisher

    @property
    def batch(self) -> PublishBatch | None:
        """The events that are published together with this one; None unless there may be several."""
        assert isinstance(self._chain, PublishChain)
        return self._chain.batch

    def __call__(self, event: Event) -> Coroutine[Any, Any, Receipt | str]:
        """Pass the event on, and return its receipt or id."""
        return self._begin(event)


@final
class FlushCall(Call):
    """The `call_next` of `Middleware.flush`."""

    __slots__ = ()

    def __call__(self) -> Coroutine[Any, Any, None]:
        """Wait as `Publisher.flush` does."""
        return self._begin(self._given)


class _OutChain(Chain):
    """A chain that returns the outcome of the function inside it, whatever the hooks return."""

    __slots__ = ()
    not_done = ""

    def outcome(self, name: str, call: Call, failure: BaseException | None, given: Any) -> BaseException | None:
        """Return the exception that the caller gets. Without one, the caller gets what the call has returned."""
        final = final_error(call, failure)
        if final is not None:
            return final
        if failure is not None:
            if call.has_succeeded:
                failure.add_note(self.note(name, call))
            return failure
        if call.has_succeeded:
            return None
        if isinstance(call.error, Exception):
            return call.error
        if call.error is not None:
            return wrong(f"{name} cancelled call_next and returned: nobody knows the outcome")
        how = "without awaiting call_next" if call.was_forgotten else "without calling call_next"
        return wrong(f"{name} returned {how}: {self.not_done}. A hook that refuses must raise an exception")

    def note(self, name: str, call: Call) -> str:
        """Return what to add to an exception that a hook has raised after the call had succeeded."""
        raise NotImplementedError


class PublishChain(_OutChain):
    """The hooks around the publish of one event. `end` publishes the event."""

    __slots__ = ("batch", "publisher")
    call_type: type[Call] = PublishCall
    not_done = "the event was not published"

    def __init__(
        self,
        hooks: Sequence[Hook],
        end: Callable[[Event], Coroutine[Any, Any, Receipt | str]],
        publisher: Publisher | None = None,
        batch: PublishBatch | None = None,
    ) -> None:
        super().__init__(hooks, end)
        self.batch: PublishBatch | None = batch
        self.publisher: Publisher | None = publisher

    def check(self, before: Event, given: Any, name: str) -> None:
        """Raise ConfigError unless `given` is an event for the same stream."""
        check_event(given, name)
        if given.stream not in ("", before.stream):
            raise wrong(f"{name} can't change the stream of an event from {before.stream!r} to {given.stream!r}")

    def note(self, name: str, call: Call) -> str:
        """Return that the event was published all the same."""
        done = "published" if isinstance(call.result, Receipt) else "accepted by the publisher"
        return f"event {printable(str(call.result))} was {done} before {name} raised this"


@final
class FlushChain(_OutChain):
    """The hooks around the flush of a publisher."""

    __slots__ = ()
    call_type: type[Call] = FlushCall
    not_done = "the publisher was not flushed"

    def note(self, name: str, call: Call) -> str:
        """Return that the publisher was flushed all the same."""
        return f"the publisher was flushed before {name} raised this"


@final
class MarkHook(Hook):
    """The hook `mark` of one middleware. In a chain it runs as a hook `publish` that marks the event."""

    __slots__ = ("mark",)

    def __init__(self, middleware: Middleware) -> None:
        super().__init__(middleware, "mark")
        self.mark: Callable[[Event, Publisher], Event] = middleware.mark
        self.run: Callable[..., Coroutine[Any, Any, object]] = self._run

    async def _run(self, event: Event, call_next: PublishCall) -> None:
        assert call_next.publisher is not None
        marked = self.mark(event, call_next.publisher)
        if type(marked) is not Event:
            raise self.refusal(marked)
        await call_next(marked)

    def refusal(self, marked: object) -> ConfigError:
        """Return the error for a hook that has returned something else than an event."""
        return wrong(f"{self.name} must return an eda.Event, not {type(marked).__name__}")


def send_hooks(middleware: Sequence[Middleware]) -> tuple[Hook, ...]:
    """Return the hooks for events that a publisher sends without waiting: `mark` in place of `publish`."""
    return tuple(
        MarkHook(each) if overrides(each, "mark") else Hook(each, "publish")
        for each in middleware
        if overrides(each, "mark") or overrides(each, "publish")
    )


def with_id(event: Event, stream: str) -> Event:
    """Return the event as the first publish hook gets it: with an id and the stream that it is published to."""
    return event.replace(id=event.id or next_nuid(), stream=stream)
