"""The streams as one check of lags has found them: each is asked for once, however many subscriptions read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eda.cursors.entry import CursorEntry
from eda.errors import ConfigError
from eda.jetstream.api import Api
from eda.subscribing.behind import Behind, SubscriptionInfo
from eda.subscribing.remaining import Remaining, StreamState
from eda.transport.wire import Wire

__all__ = ["StreamStates"]


class StreamStates:
    """The streams of one check. `close` ends the requests that are under way."""

    def __init__(self, wire: Wire, api: Api) -> None:
        self._wire = wire
        self._api = api
        self._remaining = Remaining(wire, api)
        self.behind: Behind = Behind(api, self._remaining)
        self._states: dict[str, asyncio.Task[StreamState]] = {}
        self._allowed: set[str] = set()

    async def of(self, stream: str) -> StreamState:
        """Return the stream as it is now. Raises StreamNotFound, ServerError, Timeout, Closed."""
        task = self._states.get(stream)
        if task is None:
            self.may_be_forbidden(f"STREAM.INFO.{stream}", f"DIRECT.GET.{stream}", f"STREAM.MSG.GET.{stream}")
            task = self._states[stream] = asyncio.ensure_future(self._remaining.stream(stream))
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    def may_be_forbidden(self, *requests: str) -> None:
        """Do not log it as an error if the server forbids these requests: the health check is told that."""
        subjects = {f"{self._api.prefix}.{request}" for request in requests}
        self._allowed |= subjects - self._wire.may_be_forbidden
        self._wire.may_be_forbidden |= subjects

    async def of_cursor(self, state: StreamState, name: str) -> SubscriptionInfo | None:
        """Return the subscription of a cursor as the server has it; None: there is no cursor."""
        try:
            snapshot = await CursorEntry(self._wire, self._api, state.info.name, name).read()
        except ConfigError:
            return None  # the entry holds something, though not a cursor
        return None if snapshot.value is None else await self.behind.of_cursor(state, name, snapshot)

    async def lag_after(
        self, state: StreamState, position: int, filter: Iterable[str]
    ) -> tuple[int | None, float | None]:
        """Return how many events follow a position, and the age of the first of them in seconds; None: unknown."""
        if state.last <= position:
            return 0, 0.0
        subjects = list(filter)
        known = state.last - max(position, state.first - 1) if not subjects and state.is_whole else None
        lag, oldest = await self._remaining.count(state, position + 1, subjects, known)
        return lag, state.age_s(oldest) if oldest is not None else 0.0 if lag == 0 else None

    def close(self) -> None:
        """End the requests that are under way."""
        self._wire.may_be_forbidden -= self._allowed
        for task in self._states.values():
            task.cancel()


def _retrieve(task: asyncio.Task[StreamState]) -> None:
    """Take the error out of the task, so that asyncio does not report it when the health check is over."""
    if not task.cancelled():
        task.exception()
