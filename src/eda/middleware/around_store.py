"""The hooks around an event store: those of appended events, and those of events that the store has read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, final

from eda._event import Event
from eda.errors import ConfigError
from eda.middleware.around_publish import PublishChain, with_id
from eda.middleware.base import Middleware, overrides
from eda.middleware.calls import hooks_of, wrong
from eda.middleware.hooked_batch import HookedBatch
from eda.receipt import Receipt

__all__ = ["StoreHooks", "check_can_load"]

# By these the store finds an event and its command again, so no hook may change them.
_FIXED = ("id", "type", "aggregate")


class StoreHooks:
    """The hooks that an event store runs. It has none if no middleware overrides `publish` or `load`."""

    __slots__ = ("_load", "_publish")

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self._publish = hooks_of(middleware, "publish")
        self._load = hooks_of(middleware, "load")

    async def append(
        self,
        stream: str,
        events: Sequence[Event],
        store: Callable[[list[Event]], Coroutine[Any, Any, list[Receipt]]],
    ) -> list[Receipt]:
        """Run the publish hooks of all events concurrently, then `store`, as `publish_batch` does.

        `store` gets the events as the hooks have passed them on. `call_next` raises in each hook what `store` raises.
        The caller gets this exception even if a hook translates it, because the event store decides by it whether to
        try again.
        """
        if not self._publish or not events:
            return await store(list(events))
        failed: list[Exception] = []

        async def noted(passed: list[Event]) -> list[Receipt]:
            try:
                return await store(passed)
            except Exception as error:
                failed.append(error)
                raise

        try:
            return await _Append(self._publish, [with_id(each, stream) for each in events], noted).run()
        except Exception:
            if failed:
                raise failed[0] from None
            raise
        finally:
            failed.clear()  # the exception refers to this frame

    async def loaded(self, events: Sequence[Event]) -> list[Event]:
        """Return the events as they were before the publish hooks changed them, in the same order.

        Raises what a hook raises, with a note that names the event; ConfigError for a hook that returns another event.
        """
        if not self._load:
            return list(events)
        return [await self._loaded(event) for event in events]

    async def _loaded(self, stored: Event) -> Event:
        event = stored
        for hook in self._load:
            try:
                result = await hook.run(event)
            except Exception as error:
                error.add_note(f"{hook.name} raised this for event {stored.id} of aggregate {stored.aggregate!r}")
                raise
            if type(result) is not Event:
                raise wrong(f"{hook.name} must return an eda.Event, not {type(result).__name__}")
            _check_same(stored, result, hook.name, (*_FIXED, "version"))
            event = result
        return event


@final
class _AppendChain(PublishChain):
    """The publish hooks around one appended event."""

    __slots__ = ()

    def check(self, before: Event, given: Any, name: str) -> None:
        """Raise ConfigError unless `given` is the same event of the same aggregate, perhaps with other data."""
        super().check(before, given, name)
        _check_same(before, given, name, _FIXED)


@final
class _Append(HookedBatch):
    chain_type = _AppendChain
    what = "the hooks of an append"


def _check_same(before: Event, given: Event, name: str, fields: Sequence[str]) -> None:
    for field in fields:
        old, new = getattr(before, field), getattr(given, field)
        if old != new:
            raise wrong(f"{name} can't change the {field} of an event of an event store from {old!r} to {new!r}")


def check_can_load(middleware: Sequence[Middleware]) -> None:
    """Raise ConfigError for middleware that changes published events back in handlers, but not in an event store."""
    for each in middleware:
        handles = [hook for hook in ("handle", "handle_batch") if overrides(each, hook)]
        if overrides(each, "publish") and handles and not overrides(each, "load"):
            raise ConfigError(
                f"middleware {type(each).__name__} has the hooks publish and {handles[0]} but not load, so an event "
                "store would fold events as they are stored: give it a hook load; `return event` leaves them unchanged",
                argument="middleware",
            )
