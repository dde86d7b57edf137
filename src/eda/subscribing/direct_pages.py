"""Reads a stream page by page without a consumer, for streams from which a reader would remove events.

A consumer of a stream with another retention than "limits" takes part in what the stream keeps. A read of stored
messages does not. It is slower, and does not tell when new messages come.
"""

from __future__ import annotations

from typing import Self

from eda._codec import stored_event
from eda._event import Event
from eda._pack import is_pack_payload, stored_events
from eda.errors import CodecError, ConfigError
from eda.jetstream.direct_get import DirectGet
from eda.jetstream.stored_message import StoredMessage
from eda.jetstream.stream_info import StreamInfo
from eda.subscribing.services import Services

__all__ = ["DirectPages"]

MESSAGES = 256  # in one page; the server also limits the bytes of a page
MOST_LOGGED = 10  # messages that are no events and are logged one by one

# Headers of messages that have no event: they stand in place of removed messages, or schedule others.
_NO_EVENT = (b"\r\nNats-Marker-Reason:", b"\r\nKV-Operation:", b"\r\nNats-Schedule:")


class DirectPages:
    """The messages of a stream in pages. Use it as an async context manager."""

    def __init__(self, services: Services, info: StreamInfo) -> None:
        self._logger = services.logger
        self._stream = info.name
        self._direct = DirectGet(services.api, info.name)
        # A server before 2.11 knows no batches. Without `allow_direct` only the stream's leader answers.
        self._has_batches = info.allow_direct and services.api.level >= 1
        self._n_unreadable = 0

    async def __aenter__(self) -> Self:
        await self._direct.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._direct.close()
        if self._n_unreadable > MOST_LOGGED:
            n = self._n_unreadable - MOST_LOGGED
            self._logger.warning(
                "stream %s: %d more messages are no events and were skipped",
                self._stream, n, extra={"eda_stream": self._stream},
            )  # fmt: skip

    async def page(self, begin: int, *, is_exact: bool) -> tuple[int, list[Event]]:
        """Return the events of the next messages from sequence `begin` onwards, and where the next page begins.

        If there are no more messages, the next page begins at `begin`. A replica or a mirror that is behind may say so
        although there are more: with `is_exact`, the leader is asked. A message that is no event is logged and skipped.
        Raises StreamNotFound, ServerError (code 403: the server forbids to ask the leader), Timeout, Closed.
        """
        messages: list[StoredMessage] = []
        if self._has_batches:
            reading = self._direct.begin_next_of(">", from_sequence=begin, n=MESSAGES)
            messages = await self._direct.done(reading)
        if not messages and (is_exact or not self._has_batches):
            messages = await self._direct.done(self._direct.begin_leader_next(">", from_sequence=begin))
        events: list[Event] = []
        for message in messages:
            if not any(name in message.headers for name in _NO_EVENT):
                self._add(events, message)
        return (messages[-1].sequence + 1 if messages else begin), events

    def _add(self, events: list[Event], message: StoredMessage) -> None:
        """Add the events of a message."""
        at = (self._stream, message.sequence, message.time_ns, message.subject.encode())
        try:
            if not is_pack_payload(message.payload):
                events.append(stored_event(message.payload, *at))
                return
            found = stored_events(message.payload, *at)
        except (CodecError, ConfigError) as error:  # ConfigError: the package that decompresses it is not installed
            self._skip(message, error)
            return
        events += [event for event in found if event is not None]
        if None in found:
            self._skip(message, f"{found.count(None)} of its {len(found)} events can't be read")

    def _skip(self, message: StoredMessage, why: object) -> None:
        self._n_unreadable += 1
        if self._n_unreadable <= MOST_LOGGED:
            self._logger.warning(
                "stream %s: message %d is no event and is skipped: %s",
                self._stream, message.sequence, why,
                extra={"eda_stream": self._stream, "eda_sequence": message.sequence},
            )  # fmt: skip
