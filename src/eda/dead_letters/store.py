"""Stores dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import time_ns
from typing import Literal

from eda._nuid import next_nuid
from eda.dead_letters.letter import NewDeadLetter, digest_of, kept_headers, read_letter, subject_or_none
from eda.dead_letters.suitable_streams import SuitableStreams
from eda.errors import ConfigError, EdaError, ServerError, StreamNotFound, Timeout
from eda.headers import (
    DEAD_ATTEMPTS,
    DEAD_DIGEST,
    DEAD_ERROR,
    DEAD_ID,
    DEAD_INDEX,
    DEAD_OMITTED,
    DEAD_REASON,
    DEAD_SEQUENCE,
    DEAD_STREAM,
    DEAD_SUBJECT,
    DEAD_SUBSCRIPTION,
    DEAD_TIME,
    MSG_ID,
    escape_text,
    size_of_headers,
)
from eda.jetstream.api import Api
from eda.jetstream.publish_answers import Answer
from eda.jetstream.store_message import is_too_large, store_message
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import check_stream_name, subject_of
from eda.server_codes import (
    ACCOUNT_RESOURCES_EXCEEDED,
    MAX_STREAMS_REACHED,
    MEMORY_EXCEEDED,
    STORAGE_EXCEEDED,
    STORE_FAILED,
)
from eda.times import rfc3339
from eda.transport.wire import Wire

__all__ = ["DeadLetters", "Reason", "is_transient"]

Reason = Literal["rejected", "attempts", "undecodable"]

TIMEOUT_S = 5.0
N_DIGEST = len(f"{DEAD_DIGEST}: ") + 64 + len("\r\n")

# There is no room in the stream, the account or the server. An operator can make room.
NO_ROOM = frozenset({ACCOUNT_RESOURCES_EXCEEDED, MAX_STREAMS_REACHED, MEMORY_EXCEEDED, STORAGE_EXCEEDED, STORE_FAILED})


class DeadLetters:
    """Stores dead letters in those of `streams` that can keep them."""

    def __init__(self, wire: Wire, api: Api, streams: SuitableStreams) -> None:
        self._wire = wire
        self._api = api
        self._streams = streams
        # Called with each letter before it is stored. It may return a function for the end. Neither raises.
        self.observe: Callable[[NewDeadLetter], Callable[[BaseException | None], object] | None] | None = None

    async def check(self, to: str, stream: StreamInfo) -> None:
        """Raise ConfigError if the stream `to` can't keep the dead letters of `stream`, as far as is known now."""
        await self._streams.check(to, stream)

    # --- storing -----------------------------------------------------------------------------------------------------

    async def store(
        self,
        to: str,
        *,
        event_type: str,
        aggregate: str,
        payload: bytes,
        reason: Reason,
        error: str,
        stream: str,
        sequence: int,
        index: int | None = None,
        subscription: str,
        attempts: int,
        subject: str = "",
        foreign: Mapping[str, str] | None = None,
        event_id: str = "",
    ) -> None:
        """Store a message in the dead-letter stream `to`. It is stored when this returns.

        `payload` is stored as it is. `event_type` and `aggregate` (both empty if it is not an event) make the letter's
        subject, and all else becomes headers. `subject` is the subject that the message had, `foreign` are the
        headers that another program gave it, and `event_id` is the event's id if `payload` does not contain it.

        `index` is the index of an event that came out of a pack. Then `payload` is the envelope of this event alone.
        `index` is None for all other messages, and for a pack that can't be read: its payload is stored as a whole.

        If the letter is too large, it loses the end of the error's text, then the foreign headers, then its payload.
        In place of the payload, headers say where the payload is, and what its digest is.

        This is one attempt of at most 5 s; the caller tries again. A letter that an earlier attempt has stored is not
        stored twice within the stream's duplicate window.

        Raises ConfigError if the stream can't keep letters, or if the headers of this letter alone are too large.
        Raises StreamNotFound if the stream does not exist and may not be created; ServerError, Timeout, Closed.
        `is_transient` says which errors are worth another attempt. After an error, or if the caller is cancelled, the
        letter may be stored or not.
        """
        to = check_stream_name(to)
        letter = NewDeadLetter(to, stream, sequence, index, subscription, reason, error, attempts, payload)
        end = None if self.observe is None else self.observe(letter)
        try:
            await self._store_in_time(letter, event_type, aggregate, subject, foreign or {}, event_id)
        except BaseException as failed:
            if end is not None:
                end(failed)
            raise
        if end is not None:
            end(None)

    async def _store_in_time(
        self,
        letter: NewDeadLetter,
        event_type: str,
        aggregate: str,
        subject: str,
        foreign: Mapping[str, str],
        event_id: str,
    ) -> None:
        """Store the letter in at most 5 s, as `store` says."""
        to, stream, payload, index, error = letter.into, letter.stream, letter.payload, letter.index, letter.error
        letter_subject = subject_or_none(to, event_type, aggregate) or subject_of(to, "", "")
        headers = {
            MSG_ID: f"dead:{letter.subscription}:{letter.sequence}" + ("" if index is None else f".{index}"),
            DEAD_REASON: escape_text(letter.reason),
            DEAD_ERROR: escape_text(error),
            DEAD_STREAM: escape_text(stream),
            DEAD_SEQUENCE: str(letter.sequence),
            DEAD_SUBSCRIPTION: escape_text(letter.subscription),
            DEAD_ATTEMPTS: str(letter.attempts),
            DEAD_TIME: rfc3339(time_ns()),
        }
        if index is not None:
            headers[DEAD_INDEX] = str(index)
        usual = subject_or_none(stream, event_type, aggregate) or stream
        kept = kept_headers(foreign)
        if subject and subject != usual:
            headers[DEAD_SUBJECT] = escape_text(subject)
        if event_id:
            headers[DEAD_ID] = escape_text(event_id)
        headers = kept | headers
        without = headers | {DEAD_SUBJECT: escape_text(subject or usual), DEAD_OMITTED: str(len(payload))}
        try:
            async with asyncio.timeout(TIMEOUT_S) as limit:
                most = await self._streams.largest_letter(to, letter_subject)
                try:
                    await self._store(to, letter_subject, headers, payload, without, error, most)
                except ServerError as refused:
                    if not is_too_large(refused):
                        raise
                    # The stream's limit was lowered since the last look.
                    self._streams.forget(to)
                    most = await self._streams.largest_letter(to, letter_subject)
                    most = min(most, size_of_headers(headers) + len(payload) - 1)
                    await self._store(to, letter_subject, headers, payload, without, error, most)
        except TimeoutError as late:
            if not limit.expired():
                raise
            self._streams.forget(to)  # look again: the stream never answers if no_ack has been set meanwhile
            raise Timeout(f"storing a dead letter in {to}", TIMEOUT_S) from late
        except Timeout:
            self._streams.forget(to)
            raise

    async def _store(
        self,
        to: str,
        subject: str,
        headers: dict[str, str],
        payload: bytes,
        without: dict[str, str],
        error: str,
        most: int,
    ) -> None:
        """Store the letter in at most `most` bytes. If it loses its payload, its headers are `without`."""
        most = min(most, self._wire.max_payload)
        fit, kept = _fitted(to, headers, payload, without, error, most)
        answer = await self._publish(to, subject, kept, fit)
        if answer.duplicate and not await self._is_same(to, answer.seq, kept, fit):
            # Another letter has this id. Its event came from another stream, or from a deleted stream of the same name.
            other_id = {MSG_ID: f"{headers[MSG_ID]}:{next_nuid()}"}
            fit, kept = _fitted(to, headers | other_id, payload, without | other_id, error, most)
            await self._publish(to, subject, kept, fit)

    async def _publish(self, to: str, subject: str, payload: bytes, headers: dict[str, str]) -> Answer:
        try:
            return await store_message(self._wire, to, subject, payload, headers, domain=self._api.domain)
        except ServerError as refused:
            if refused.code == 503:
                self._streams.forget(to)  # it may have been deleted or changed: the next attempt looks again
            raise

    async def _is_same(self, to: str, sequence: int, payload: bytes, headers: dict[str, str]) -> bool:
        """Return whether the letter with that sequence has this payload and comes from the same message."""
        letter = await read_letter(self._api, to, {"seq": sequence})
        origin = (DEAD_STREAM, DEAD_SEQUENCE, DEAD_INDEX, DEAD_SUBSCRIPTION, DEAD_DIGEST)
        return (
            letter is not None
            and letter.payload == payload
            and all(letter.headers.get(name) == headers.get(name) for name in origin)
        )


def _fitted(
    to: str, headers: dict[str, str], payload: bytes, without: dict[str, str], error: str, most: int
) -> tuple[dict[str, str], bytes]:
    """Return the headers and payload of a letter of at most `most` bytes. Raises ConfigError if that is impossible."""
    over = 0
    for fit, kept in ((headers, payload), (_ours(headers), payload), (without, b""), (_ours(without), b"")):
        over = size_of_headers(fit) + len(kept) - most
        if fit.get(DEAD_OMITTED):
            over += N_DIGEST
        if over > len(fit[DEAD_ERROR]):
            continue
        if fit.get(DEAD_OMITTED):
            fit = fit | {DEAD_DIGEST: digest_of(payload)}
        if over > 0:
            fit = fit | {DEAD_ERROR: escape_text(error, max(len(fit[DEAD_ERROR]) - over, 0))}
        return fit, kept
    message = (
        f"dead_letter: stream {to!r} takes messages of at most {most} bytes, and the headers of the dead letter "
        f"{headers[MSG_ID]} alone have {most + over}"
    )
    raise ConfigError(message, argument="dead_letter")


def _ours(headers: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name == MSG_ID or name.startswith("Eda-")}


def is_transient(error: Exception) -> bool:
    """Return whether another attempt to store the letter may succeed, perhaps after an operator has made room."""
    if isinstance(error, ServerError) and error.err_code in NO_ROOM:
        return not is_too_large(error)
    return isinstance(error, StreamNotFound) or (isinstance(error, EdaError) and error.retryable)
