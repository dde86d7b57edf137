"""Which event killed the process: a shared subscription's record of the suspects that a handler has begun.

A shared consumer counts deliveries, and those that no handler began count as well: what waited behind the event that
killed the process has as many as that. So a suspect is put on record before it is begun, beside the offsets of ordered
subscriptions, and taken off when it has ended. Who finds one on record from an earlier delivery knows that it did not.
"""

from __future__ import annotations

import logging
import time

import msgspec

from eda._event import Event
from eda._wire import Wire
from eda.api import NS, STREAM_NOT_FOUND, Api
from eda.cursor_key import BUCKET_STREAM, NO_MESSAGE, CursorKey
from eda.errors import EdaError, ServerError
from eda.once import publish_once

__all__ = ["BEGUN_BEFORE", "Suspects"]

BEGUN_BEFORE = -1  # in place of a pause
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0
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
        self._recorded: set[int] = set()  # sequences that are, as far as we know
        self._pause_s = 0.0
        self._not_before = 0.0

    def _subject(self, event: Event) -> str:
        return f"{self._key.subject}.{event.sequence}"

    async def begin(self, event: Event) -> int:
        """Put an event on record: 0; negative: it is there from an earlier delivery, positive: nanoseconds to wait.

        Where the server forbids the record, the event is handled without: nothing is lost but the end of its attempts.
        While it does not answer, all suspects wait, ever longer up to 30 s, and other events are handled meanwhile.
        """
        left_s = self._not_before - time.monotonic()
        if left_s > 0:
            return int(left_s * NS) + 1
        try:
            if 0 < await self._read(event) < event.attempt:
                self._recorded.add(event.sequence)
                return BEGUN_BEFORE
            await self._store(event)
        except EdaError as error:
            if error.retryable or not isinstance(error, ServerError):
                log = self._logger.info if self._pause_s else self._logger.warning
                log("subscription %s of %s: keeping record of a suspect: %s", self._name, self._stream, error)
                self._pause_s = min(self._pause_s * 2 or PAUSE_FIRST_S, PAUSE_MAX_S)
                self._not_before = time.monotonic() + self._pause_s
                return int(self._pause_s * NS)
            if not self._is_unable:
                self._is_unable = True
                self._logger.error(
                    "subscription %s of %s can't keep record of what it handles for the last time: an event that "
                    "kills whoever handles it comes again without end: %s",
                    self._name, self._stream, error,
                )  # fmt: skip
        self._pause_s = 0.0
        return 0

    async def end(self, event: Event) -> None:
        """Take an event off the record, if it is there, within 2 s or not at all."""
        if event.sequence not in self._recorded:
            return
        self._recorded.discard(event.sequence)
        try:
            await self._api.request(f"STREAM.PURGE.{BUCKET_STREAM}", self._purge(event), timeout_s=TIMEOUT_S)
        except EdaError as error:
            self._logger.warning(
                "subscription %s of %s: sequence %d stays on record as begun: %s",
                self._name, self._stream, event.sequence, error,
            )  # fmt: skip

    def _purge(self, event: Event) -> dict[str, str]:
        return {"filter": self._subject(event)}

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

    async def _publish(self, event: Event, text: bytes) -> None:
        subject = self._api.kv_subject(self._subject(event))
        await publish_once(self._wire, BUCKET_STREAM, subject, text, {}, domain=self._api.domain)

    async def _store(self, event: Event) -> None:
        text = msgspec.json.encode(_Record(delivery=event.attempt))
        try:
            try:
                await self._publish(event, text)
            except ServerError as error:
                if error.code != 503:
                    raise
                await self._key.ensure_bucket(self._replicas)
                await self._publish(event, text)
        except BaseException:
            # It may be stored or not, and nobody begins it now. Not waited for: this may be the end of everything.
            if self._wire.is_up:
                body = msgspec.json.encode(self._purge(event))
                subject = f"{self._api.prefix}.STREAM.PURGE.{BUCKET_STREAM}"
                self._wire.out.command(f"PUB {subject} {len(body)}\r\n".encode() + body + b"\r\n")
            raise
        self._recorded.add(event.sequence)
