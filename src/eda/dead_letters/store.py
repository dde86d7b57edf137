"""Dead letters: events that a subscription has given up, stored in a stream of their own until they are replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import time_ns
from typing import Literal

from eda._nuid import next_nuid
from eda.dead_letters.letter import digest_of, kept_headers, read_letter, subject_or_none
from eda.errors import ConfigError, EdaError, ServerError, StreamNotFound, Timeout
from eda.headers import (
    DEAD_ATTEMPTS,
    DEAD_DIGEST,
    DEAD_ERROR,
    DEAD_ID,
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
from eda.jetstream.streams import StreamInfo
from eda.jetstream.subjects import check_stream_name, is_covered, subject_of
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
OVERHEAD = 64  # bytes: more than a stream's storage adds to a message, beside its subject

# No room in the stream, the account or the server, which an operator can end.
NO_ROOM = frozenset({ACCOUNT_RESOURCES_EXCEEDED, MAX_STREAMS_REACHED, MEMORY_EXCEEDED, STORAGE_EXCEEDED, STORE_FAILED})

_ADVICE = "a dead-letter stream needs retention 'limits' and the subjects '{0}' and '{0}.>': eda creates one like that"


class DeadLetters:
    """Stores dead letters. `ensure` gives a stream, created where it may be; `find` one that exists; both raise."""

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
        # The dead-letter streams that were fit when last looked at, with the most bytes that a letter may have there.
        self._known: dict[str, int] = {}

    # --- is the stream fit? ------------------------------------------------------------------------------------------

    async def check(self, to: str, stream: StreamInfo) -> None:
        """Raise ConfigError when `to` can't keep the dead letters of `stream`, as far as the server tells now.

        A dead-letter stream that does not exist passes: it is created when it is first needed.
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
        if to in self._known:
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._find(to)
        except (EdaError, TimeoutError):
            return  # there is none yet, or the server does not say: the first dead letter finds out
        await self._note(found, subject_of(to, "", ""))

    async def _look(self, to: str, subject: str) -> int:
        """Return the most bytes that a letter may have in the stream, created if need be. ConfigError: it is unfit."""
        return await self._note(await self._ensure(to), subject)

    async def _note(self, info: StreamInfo, subject: str) -> int:
        to, why = info.name, ""
        if info.mirror is not None:
            why = f"is a mirror of {info.mirror!r}, and nothing can be published to it"
        elif info.sealed:
            why = "is sealed, and nothing can be stored in it"
        elif info.no_ack:
            why = "has no_ack set: it never confirms that a letter is stored"
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
        if info.retention != "interest":  # its consumers may go any time
            self._known[to] = most
        return most

    async def _has_consumers(self, to: str) -> bool:
        info = await self._api.request(f"STREAM.INFO.{to}")
        n: object = (info.get("state") or {}).get("consumer_count")
        return isinstance(n, int) and n > 0

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
        subscription: str,
        attempts: int,
        subject: str = "",
        foreign: Mapping[str, str] | None = None,
        event_id: str = "",
    ) -> None:
        """Store a message in the dead-letter stream `to`, once; it is stored when this returns.

        `payload` is kept as it is; `event_type` and `aggregate` (both empty for what is undecodable) make the subject,
        and all else becomes headers. `subject` is the message's own subject, `foreign` are the headers that another
        program gave it, `event_id` is the id that stood in those alone.

        A message that is too large with all that loses the end of the error's text, then the foreign
        headers, then its payload: headers say where that lies, and what it is. One attempt of at most 5 s: whoever
        calls tries again. Stored already by an earlier attempt, it is not stored twice within the stream's duplicate
        window.

        Raises ConfigError for a stream that can't keep letters, or not even this one's headers; StreamNotFound where it
        may not be created; ServerError, Timeout, Closed (`is_transient` tells which are worth another attempt). Then,
        and when cancelled, it may be stored or not.
        """
        to = check_stream_name(to)
        letter_subject = subject_or_none(to, event_type, aggregate) or subject_of(to, "", "")
        headers = {
            MSG_ID: f"dead:{subscription}:{sequence}",
            DEAD_REASON: escape_text(reason),
            DEAD_ERROR: escape_text(error),
            DEAD_STREAM: escape_text(stream),
            DEAD_SEQUENCE: str(sequence),
            DEAD_SUBSCRIPTION: escape_text(subscription),
            DEAD_ATTEMPTS: str(attempts),
            DEAD_TIME: rfc3339(time_ns()),
        }
        usual = subject_or_none(stream, event_type, aggregate) or stream
        kept = kept_headers(foreign or {})
        if subject and subject != usual:
            headers[DEAD_SUBJECT] = escape_text(subject)
        if event_id:
            headers[DEAD_ID] = escape_text(event_id)
        headers = kept | headers
        without = headers | {DEAD_SUBJECT: escape_text(subject or usual), DEAD_OMITTED: str(len(payload))}
        try:
            async with asyncio.timeout(TIMEOUT_S) as limit:
                most = self._known.get(to)
                if most is None:
                    most = await self._look(to, letter_subject)
                try:
                    await self._store(to, letter_subject, headers, payload, without, error, most)
                except ServerError as refused:
                    if not is_too_large(refused):
                        raise
                    # The stream takes less than it did when it was looked at.
                    most = min(await self._look(to, letter_subject), size_of_headers(headers) + len(payload) - 1)
                    await self._store(to, letter_subject, headers, payload, without, error, most)
        except TimeoutError as late:
            if not limit.expired():
                raise
            self._known.pop(to, None)  # a stream that was changed to no_ack does not answer
            raise Timeout(f"storing a dead letter in {to}", TIMEOUT_S) from late
        except Timeout:
            self._known.pop(to, None)
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
        """Store the letter, whole if it has at most `most` bytes, else with the headers `without`."""
        most = min(most, self._wire.max_payload)
        fit, kept = _fitted(to, headers, payload, without, error, most)
        answer = await self._publish(to, subject, kept, fit)
        if answer.duplicate and not await self._is_same(to, answer.seq, kept, fit):
            # An event of another stream, or of one by this name that is gone, has the place under this id.
            other_id = {MSG_ID: f"{headers[MSG_ID]}:{next_nuid()}"}
            fit, kept = _fitted(to, headers | other_id, payload, without | other_id, error, most)
            await self._publish(to, subject, kept, fit)

    async def _publish(self, to: str, subject: str, payload: bytes, headers: dict[str, str]) -> Answer:
        try:
            return await store_message(self._wire, to, subject, payload, headers, domain=self._api.domain)
        except ServerError as refused:
            if refused.code == 503:
                self._known.pop(to, None)  # it may have been deleted, or changed: the next attempt looks
            raise

    async def _is_same(self, to: str, sequence: int, payload: bytes, headers: dict[str, str]) -> bool:
        """Whether the message at this place is the one with this payload and origin."""
        letter = await read_letter(self._api, to, {"seq": sequence})
        origin = (DEAD_STREAM, DEAD_SEQUENCE, DEAD_SUBSCRIPTION, DEAD_DIGEST)
        return (
            letter is not None
            and letter.payload == payload
            and all(letter.headers.get(name) == headers.get(name) for name in origin)
        )


def _fitted(
    to: str, headers: dict[str, str], payload: bytes, without: dict[str, str], error: str, most: int
) -> tuple[dict[str, str], bytes]:
    """Return headers and payload of a letter that has at most `most` bytes. ConfigError: there is no such letter."""
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
    """Whether storing a dead letter failed in a way that may pass, or that an operator can end."""
    if isinstance(error, ServerError) and error.err_code in NO_ROOM:
        return not is_too_large(error)
    return isinstance(error, StreamNotFound) or (isinstance(error, EdaError) and error.retryable)
