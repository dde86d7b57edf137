"""Which streams can keep dead letters, and how large a letter may be there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic

from eda.errors import ConfigError, EdaError
from eda.jetstream.api import Api
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import is_covered, subject_of
from eda.transport.wire import Wire

__all__ = ["SuitableStreams"]

CHECK_TIMEOUT_S = 5.0
LOOK_EVERY_S = 30.0  # another program may change the stream, for example mark it for event stores
OVERHEAD = 64  # a stream's storage adds fewer bytes than this to a message, apart from its subject

_ADVICE = "a dead-letter stream needs retention 'limits' and the subjects '{0}' and '{0}.>': eda creates one like that"


class SuitableStreams:
    """The streams that can keep dead letters, each as it was when it was last looked at.

    `find(name)` returns the stream of that name. `ensure(name)` creates the stream first if it does not exist. Both
    raise EdaError.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        ensure: Callable[[str], Awaitable[StreamInfo]],
        find: Callable[[str], Awaitable[StreamInfo]],
    ) -> None:
        self._wire = wire
        self._api = api
        self._ensure = ensure
        self._find = find
        self._known: dict[str, tuple[int, float]] = {}  # by stream: how many bytes a letter may have; looked at when

    async def check(self, to: str, stream: StreamInfo) -> None:
        """Raise ConfigError if the stream `to` can't keep the dead letters of `stream`, as far as is known now.

        A dead-letter stream that does not exist passes. It is created when it is first needed.
        """
        if to in (stream.mirror, *stream.sources):
            message = (
                f"dead_letter: stream {stream.name!r} copies stream {to!r}, so each dead letter would come back as an "
                "event, for ever; name a stream that it does not copy, or None"
            )
            raise ConfigError(message, argument="dead_letter")
        if is_covered(subject_of(to, "", ""), stream.subjects):
            message = (
                f"dead_letter: stream {stream.name!r} itself listens to the subjects of stream {to!r}, so each dead "
                "letter would come back as an event, for ever; name a stream with other subjects, or None"
            )
            raise ConfigError(message, argument="dead_letter")
        if self._known_size(to) is not None:
            return
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                found = await self._find(to)
        except (EdaError, TimeoutError):
            return  # it does not exist yet, or the server does not answer: the first dead letter will show
        await self._look_at(found, subject_of(to, "", ""))

    async def largest_letter(self, to: str, subject: str) -> int:
        """Return how many bytes a letter with that subject may have in the stream `to`. Create the stream if need be.

        Raises ConfigError if the stream can't keep letters; StreamNotFound, ServerError, Timeout, Closed.
        """
        most = self._known_size(to)
        return most if most is not None else await self._look_at(await self._ensure(to), subject)

    def _known_size(self, to: str) -> int | None:
        """Return how many bytes a letter may have; None if the last look was too long ago."""
        most, looked_at = self._known.get(to, (0, -inf))
        return most if monotonic() - looked_at < LOOK_EVERY_S else None

    def forget(self, to: str) -> None:
        """Have the next call of `largest_letter` look at the stream again."""
        self._known.pop(to, None)

    async def _look_at(self, info: StreamInfo, subject: str) -> int:
        """Note and return how many bytes a letter may have. Raises ConfigError if the stream can't keep letters."""
        to, why = info.name, ""
        if info.mirror is not None:
            why = f"is a mirror of {info.mirror!r}, and nothing can be published to it"
        elif info.sealed:
            why = "is sealed, and nothing can be stored in it"
        elif info.no_ack:
            why = "has no_ack set, so it never confirms that a letter is stored"
        elif info.options.store:
            why = f"belongs to event stores (conn.store({to!r})), and nobody else may publish to it"
        elif not is_covered(subject, info.subjects):
            listens = ", ".join(map(repr, info.subjects)) or "nothing"
            why = f"does not listen to {subject!r} (it listens to {listens})"
        elif info.retention == "interest" and not await self._has_consumers(to):
            why = "has retention 'interest' and no consumer, so it keeps no letter"
        if why:
            message = f"dead_letter: stream {to!r} {why}; " + _ADVICE.format(to)
            raise ConfigError(message, argument="dead_letter")
        most = info.max_event_bytes or self._wire.max_payload
        if info.options.max_bytes is not None:
            most = min(most, info.options.max_bytes - OVERHEAD - len(subject.encode()))
        if info.retention != "interest":  # an 'interest' stream is looked at each time: its consumers may be deleted
            self._known[to] = most, monotonic()
        return most

    async def _has_consumers(self, to: str) -> bool:
        info = await self._api.request(f"STREAM.INFO.{to}")
        n: object = (info.get("state") or {}).get("consumer_count")
        return isinstance(n, int) and n > 0
