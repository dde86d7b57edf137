"""The streams that a connection publishes to: looked up once, created where that is wanted."""

from __future__ import annotations

import asyncio

from eda._send import Target
from eda._wire import Wire
from eda.api import Api
from eda.bucket import Bucket, bucket_for
from eda.errors import ConfigError, EdaError
from eda.options import StreamOptions
from eda.streams import StreamInfo, Streams

__all__ = ["PUBLISH_TIMEOUT_S", "Known", "Targets", "check_takes_events"]

LOOK_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 30.0


class Known:
    """What a publish has to know of its stream.

    `longest_s` is the longest publish timeout that the stream's duplicate window allows, `usual_s` the one of a publish
    that names none.
    """

    __slots__ = ("longest_s", "target", "usual_s")

    def __init__(self, target: Target, window_s: float) -> None:
        self.target = target
        self.longest_s = window_s / 2
        self.usual_s = min(PUBLISH_TIMEOUT_S, self.longest_s)

    def check_timeout(self, timeout_s: object) -> None:
        """Raise ConfigError unless a publish may take so long."""
        if isinstance(timeout_s, float | int) and 0.001 <= timeout_s <= self.longest_s:
            return
        raise ConfigError(
            f"timeout_s={timeout_s!r} must be between 0.001 and {self.longest_s:g}: half of the duplicate window "
            f"({self.longest_s * 2:g} s) of stream {self.target.stream!r}, past which a late retry could be stored "
            "twice",
            argument="timeout_s",
        )


def check_takes_events(info: StreamInfo) -> None:
    """Raise ConfigError unless events can be published to the stream, and are acknowledged there."""
    name = info.name
    if info.mirror is not None:
        why = f"is a mirror of stream {info.mirror!r}: publish there"
    elif info.sealed:
        why = "is sealed: it takes no more events"
    elif info.no_ack:
        why = "has no_ack set: it acknowledges nothing, so nobody could know what it has stored"
    elif not any(_may_take(name, pattern) for pattern in info.subjects):
        subjects = ", ".join(info.subjects) or "nothing"
        why = f"listens to {subjects}, not to {name}.<type>.<aggregate>, where events are published"
    else:
        return
    raise ConfigError(f"events can't be published to stream {name!r}: it {why}", argument="stream")


def _may_take(stream: str, pattern: str) -> bool:
    """Whether a subject of a stream matches some subject of an event: the stream and two tokens."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        return len(tokens) <= 3 and (len(tokens) == 1 or tokens[0] in (stream, "*"))
    return len(tokens) == 3 and tokens[0] in (stream, "*")


class Targets:
    """The streams that events go to, by name."""

    def __init__(self, wire: Wire, api: Api, streams: Streams, defaults: StreamOptions, *, auto_create: bool) -> None:
        self._wire = wire
        self._api = api
        self._streams = streams
        self._defaults = defaults
        self._auto_create = auto_create
        self.known: dict[str, Known] = {}
        self._resolving: dict[str, asyncio.Task[Known]] = {}
        wire.on_info.append(self._on_info)
        wire.on_restored.append(self._on_info)

    async def ensure(self, stream: str) -> StreamInfo:
        """Return the stream as it is, created if it may be. Raises StreamNotFound, ServerError."""
        return await self._streams.ensure(stream, self._defaults, create=self._auto_create)

    def bucket_for(self, stream: StreamOptions) -> Bucket:
        """Return what is wanted of the bucket of offsets for the subscriptions to a stream with these options."""
        return bucket_for(stream, self._defaults)

    async def find(self, stream: str) -> Known:
        """Return what `known` has of the stream after looking it up, once at a time. Raises what `ensure` does."""
        task = self._resolving.get(stream)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(stream))
            self._resolving[stream] = task
            task.add_done_callback(lambda done: self._resolved(stream, done))
        return await asyncio.shield(task)

    async def recover(self, stream: str) -> None:
        """Nobody answers for a stream that was published to: see whether it is there. Raises what `ensure` does.

        What is known of it stays until an answer says otherwise: a cluster that elects a leader may take longer over
        this question than over the publishes.
        """
        try:
            await self.find(stream)
        except EdaError as error:
            if not error.retryable:
                self.known.pop(stream, None)
            raise

    async def look_at(self, stream: str, max_pending: int, *, is_new: bool) -> tuple[Target, StreamInfo, bool]:
        """Return where events go, the stream, and whether it takes fast ingest from a window of this size.

        `is_new`: it may be another server than before, of another version.
        """
        if is_new:
            await self._api.look(LOOK_TIMEOUT_S)
        info = await self.ensure(stream)
        check_takes_events(info)
        can_fast = info.fast_ingest and self._api.has_fast_ingest and max_pending >= 4
        return Target(stream, self._wire.max_payload, self._api.domain), info, can_fast

    async def _resolve(self, stream: str) -> Known:
        info = await self.ensure(stream)
        check_takes_events(info)
        target = Target(stream, self._wire.max_payload, self._api.domain)
        self.known[stream] = found = Known(target, info.options.dedup_window_s)
        return found

    def _resolved(self, stream: str, task: asyncio.Task[Known]) -> None:
        del self._resolving[stream]
        if not task.cancelled():
            task.exception()  # those who wanted to know may have been cancelled

    def _on_info(self) -> None:
        for known in self.known.values():
            known.target.set_max_payload(self._wire.max_payload)
