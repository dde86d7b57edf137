"""Which event killed the process: a shared subscription's record of the suspects that a handler has begun.

A shared consumer counts deliveries, and those that no handler began count as well: what waited behind the event that
killed the process has as many as that. So a suspect is put on record before it is begun, beside the offsets of ordered
subscriptions, and taken off when it has ended. Who finds one on record from an earlier delivery knows that it did not.
"""

from __future__ import annotations

import logging

import msgspec

from eda._event import Event
from eda._wire import Wire
from eda.api import NS, STREAM_NOT_FOUND, Api
from eda.cursor_key import BUCKET_STREAM, NO_MESSAGE, CursorKey
from eda.errors import EdaError, ServerError
from eda.once import publish_once

__all__ = ["BEGUN_BEFORE", "Suspects"]

BEGUN_BEFORE = -1  # in place of a pause
PAUSE_S = 0.5
TIMEOUT_S = 2.0


class _Record(msgspec.Struct):
    """`delivery`: the number of the delivery with which the event was begun."""

    v: int = 1
    delivery: int = 0


class Suspects:
    """The record of one subscription `name` to `stream`; `replicas`: of the bucket, should it have to be made."""

    def __init__(self, wire: Wire, api: Api, logger: logging.Logger, stream: str, name: str, replicas: int) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._name = name
        self._replicas = replicas
        self._key = CursorKey(wire, api, stream, name)
        self._is_unable = False  # told already

    def _subject(self, event: Event) -> str:
        return f"{self._key.subject}.{event.sequence}"

    async def begin(self, event: Event) -> int:
        """Put an event on record: 0; negative: it is there from an earlier delivery, positive: nanoseconds to wait.

        Where the server forbids the record, the event is handled without: nothing is lost but the end of its attempts.
        """
        try:
            if 0 < await self._read(event) < event.attempt:
                return BEGUN_BEFORE
            await self._store(event)
        except EdaError as error:
            if error.retryable or not isinstance(error, ServerError):
                self._logger.info("subscription %s of %s: keeping record: %s", self._name, self._stream, error)
                return int(PAUSE_S * NS)
            if not self._is_unable:
                self._is_unable = True
                self._logger.error(
                    "subscription %s of %s can't keep record of what it handles for the last time: an event that "
                    "kills whoever handles it comes again without end: %s",
                    self._name, self._stream, error,
                )  # fmt: skip
        return 0

    async def end(self, event: Event) -> None:
        """Take an event off the record, within 2 s or not at all."""
        try:
            await self._api.request(
                f"STREAM.PURGE.{BUCKET_STREAM}", {"filter": self._subject(event)}, timeout_s=TIMEOUT_S
            )
        except EdaError as error:
            self._logger.warning(
                "subscription %s of %s: sequence %d stays on record as begun: %s",
                self._name, self._stream, event.sequence, error,
            )  # fmt: skip

    async def _read(self, event: Event) -> int:
        """Return the number of the delivery on record, 0 for none."""
        place = {"last_by_subj": self._subject(event)}
        try:
            message = await self._api.message(BUCKET_STREAM, place, patience_s=TIMEOUT_S)
            return msgspec.json.decode(message.data, type=_Record).delivery
        except ServerError as error:
            if error.err_code not in (STREAM_NOT_FOUND, NO_MESSAGE):
                raise
            return 0
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0  # nothing that we wrote

    async def _store(self, event: Event) -> None:
        text = msgspec.json.encode(_Record(delivery=event.attempt))
        try:
            await publish_once(self._wire, BUCKET_STREAM, self._subject(event), text, {})
        except ServerError as error:
            if error.code != 503:
                raise
            await self._key.ensure_bucket(self._replicas)
            await publish_once(self._wire, BUCKET_STREAM, self._subject(event), text, {})
