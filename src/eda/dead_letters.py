"""Dead letters: events that a subscription has given up, kept in a stream of their own until somebody replays them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic, time_ns
from typing import Any, Literal

from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda._wire import Wire
from eda.answers import Answer
from eda.api import NS, Api, translated
from eda.errors import ConfigError, DecodeError, EdaError, ServerError, Timeout
from eda.headers import (
    DEAD_ATTEMPTS,
    DEAD_ERROR,
    DEAD_REASON,
    DEAD_SEQUENCE,
    DEAD_STREAM,
    DEAD_SUBSCRIPTION,
    DEAD_TIME,
    MSG_ID,
    REPLAY_FOR,
    escape_text,
    read_headers,
    size_of_headers,
)
from eda.once import publish_once
from eda.shapes import Stream
from eda.subjects import check_name, check_stream_name, subject_of

__all__ = ["DeadLetters", "Reason"]

Reason = Literal["rejected", "attempts", "undecodable"]

TIMEOUT_S = 5.0
REPLAY_TIMEOUT_S = 30.0
REPLAY_PAUSE_S = 0.1
MAX_LINE = 4096  # the server's default max_control_line
N_REPLY = 128  # more than a reply subject and the sizes take of it
MAX_HEADERS = 64 * 1024  # bytes of a letter's that are looked at; its own have some thousand
MAX_READS = 16  # letters that are asked for at once; their payloads are in memory together

# server/errors.json of nats-server.
NO_MESSAGE = 10037
# No such sequence; a message that can't be deleted, which is what an older server says when it is gone.
NOTHING_TO_DELETE = frozenset({10043, 10057})

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message in a dead-letter stream."""

    sequence: int
    headers: dict[str, str]
    payload: bytes


class DeadLetters:
    """Stores dead letters and replays them. `ensure` gives a stream that exists, or raises."""

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, ensure: Callable[[str], Awaitable[object]]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._ensure = ensure
        self._known: set[str] = set()  # the dead-letter streams that were there when last used

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
    ) -> None:
        """Store a message in the dead-letter stream `to`, once; it is stored when this returns.

        `payload` is kept as it is; `event_type` and `aggregate` (both empty for what is undecodable) make the subject,
        and all else becomes headers. One attempt of at most 5 s: whoever calls tries again. Stored already by an
        earlier attempt, it is not stored twice within the stream's duplicate window.

        Raises StreamNotFound where the stream may not be created; ServerError, Timeout, Closed; ConfigError for a
        message that is over the server's max_payload even without the text of its error. Then, and when cancelled, it
        may be stored or not.
        """
        check_stream_name(to)
        subject = _subject_of(to, event_type, aggregate) or subject_of(to, "", "")
        headers = {
            MSG_ID: f"dead:{subscription}:{sequence}",
            DEAD_REASON: escape_text(reason),
            DEAD_ERROR: escape_text(error),
            DEAD_STREAM: escape_text(stream),
            DEAD_SEQUENCE: str(sequence),
            DEAD_SUBSCRIPTION: escape_text(subscription),
            DEAD_ATTEMPTS: str(attempts),
            DEAD_TIME: _rfc3339(time_ns()),
        }
        try:
            async with asyncio.timeout(TIMEOUT_S) as limit:
                if to not in self._known:
                    await self._ensure(to)
                    self._known.add(to)
                answer = await self._store(to, subject, payload, headers, error)
                if answer.duplicate and not await self._is_same(to, answer.seq, payload, headers):
                    # An event of another stream, or of one by this name that is gone, has the place under this id.
                    headers[MSG_ID] += f":{next_nuid()}"
                    await self._store(to, subject, payload, headers, error)
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise Timeout(f"storing a dead letter in {to}", TIMEOUT_S) from late

    async def _store(self, to: str, subject: str, payload: bytes, headers: dict[str, str], error: str) -> Answer:
        over = size_of_headers(headers) + len(payload) - self._wire.max_payload
        if over > 0:
            headers = headers | {DEAD_ERROR: escape_text(error, max(len(headers[DEAD_ERROR]) - over, 0))}
        try:
            return await publish_once(self._wire, to, subject, payload, headers, domain=self._api.domain)
        except ServerError as refused:
            if refused.code == 503:
                self._known.discard(to)  # it may have been deleted: the next attempt looks
            raise

    async def _is_same(self, to: str, sequence: int, payload: bytes, headers: dict[str, str]) -> bool:
        """Whether the message at this place is the one with this payload and origin."""
        letter = await self._read(to, {"seq": sequence})
        origin = (DEAD_STREAM, DEAD_SEQUENCE, DEAD_SUBSCRIPTION)
        return (
            letter is not None
            and letter.payload == payload
            and all(letter.headers.get(name) == headers[name] for name in origin)
        )

    # --- replaying ---------------------------------------------------------------------------------------------------

    async def replay(self, stream: str, name: str, *, dead_letter: str | None = None, limit: int | None = None) -> int:
        """Publish the dead letters of subscription `name` back into `stream`, and return how many.

        In their order, for that subscription alone; each is removed once the stream has acknowledged it. Those that
        come while this runs are left for the next time. What was undecodable stays where it is: replaying it can't
        help. `dead_letter` is the stream they are in (None: `{stream}-dead`), `limit` the most to replay.

        An event comes back under a new id, the same for each try of one dead letter; so one that was published and,
        because of a crash, not removed is stored once if it is tried again within the stream's duplicate window.

        Raises ConfigError, StreamNotFound for either stream; ServerError, Timeout, Closed: those before have been
        replayed, as they have when it is cancelled.
        """
        check_stream_name(stream)
        check_name(name)
        dead = _dead_letter_stream(stream, dead_letter)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigError(f"limit must be an int of 1 or more, or None, not {limit!r}", argument="limit")
        dead_info = await self._info(dead)
        config = dead_info["config"]
        if config.get("deny_delete") or config.get("sealed"):
            message = (
                f"stream {dead!r} lets nobody delete a message, so a dead letter would be replayed again and again"
            )
            raise ConfigError(message, argument="dead_letter" if dead_letter else "stream")
        window_s = (await self._info(stream))["config"].get("duplicate_window", 0) / NS
        timeout_s = min(REPLAY_TIMEOUT_S, max(window_s / 2, 0.1))
        # Made again under its old name, the stream counts from 1 again: its creation is part of who it is.
        made_us = (datetime.fromisoformat(dead_info["created"]) - _EPOCH) // timedelta(microseconds=1)
        n_replayed = 0
        state = dead_info["state"]
        try:
            async with contextlib.aclosing(self._letters(dead, state["first_seq"], state["last_seq"])) as letters:
                async for letter in letters:
                    event = self._replayable(dead, letter, stream, name)
                    if event is None:
                        continue
                    event_id = f"replay:{dead}:{made_us:x}:{letter.sequence}"
                    await self._publish_back(stream, name, event, event_id, timeout_s)
                    await self._remove(dead, letter.sequence)
                    n_replayed += 1
                    if n_replayed == limit:
                        break
        except EdaError as error:
            error.add_note(f"{n_replayed} dead letters were replayed before")
            raise
        return n_replayed

    def _replayable(self, dead: str, letter: _Letter, stream: str, name: str) -> Event | None:
        """Return the event to replay; None for a letter of others, or one that replaying can't help."""
        headers = letter.headers
        if headers.get(DEAD_SUBSCRIPTION) != name or headers.get(DEAD_STREAM) != stream:
            return None
        if headers.get(DEAD_REASON) == "undecodable":
            return None
        try:
            return decode_event(letter.payload)
        except DecodeError as error:
            self._logger.warning("stream %s, sequence %d is no event and stays: %s", dead, letter.sequence, error)
            return None

    async def _publish_back(self, stream: str, name: str, event: Event, event_id: str, timeout_s: float) -> None:
        subject = _subject_of(stream, event.type, event.aggregate) or stream
        envelope = encode_event(event.replace(id=event_id))
        headers = {MSG_ID: event_id, REPLAY_FOR: name}
        deadline = monotonic() + timeout_s
        while True:
            try:
                await publish_once(self._wire, stream, subject, envelope, headers, domain=self._api.domain)
                return
            except EdaError as error:
                if not error.retryable or monotonic() + REPLAY_PAUSE_S > deadline:
                    raise
            await asyncio.sleep(REPLAY_PAUSE_S)

    async def _remove(self, dead: str, sequence: int) -> None:
        try:
            await self._api.request(f"STREAM.MSG.DELETE.{dead}", {"seq": sequence, "no_erase": True})
        except ServerError as error:
            # Somebody else has replayed it at the same time, or an attempt before this one got no answer.
            if error.err_code not in NOTHING_TO_DELETE or await self._read(dead, {"seq": sequence}) is not None:
                raise translated(error, dead) from error

    async def _letters(self, dead: str, first: int, last: int) -> AsyncGenerator[_Letter, None]:
        """Give the messages from `first` to `last` in order.

        Several are asked for at once. Each request names a place and gets the first message from there on, so that gaps
        cost little: where the same message comes twice, fewer are asked for next.
        """
        width = 1
        while first <= last:
            places = range(first, min(first + width, last + 1))
            asked = [self._read(dead, {"seq": place, "next_by_subj": ">"}) for place in places]
            found: dict[int, _Letter] = {}
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                if answer is not None and answer.sequence <= last:
                    found[answer.sequence] = answer
            if not found:
                return
            for sequence in sorted(found):
                yield found[sequence]
            first = max(found) + 1
            width = min(len(found) * 2, MAX_READS)

    # --- the server --------------------------------------------------------------------------------------------------

    async def _info(self, stream: str) -> dict[str, Any]:
        try:
            return await self._api.request(f"STREAM.INFO.{stream}", shape=Stream)
        except ServerError as error:
            raise translated(error, stream) from error

    async def _read(self, stream: str, place: dict[str, Any]) -> _Letter | None:
        """Return the message at a place; None where there is none."""
        try:
            found = await self._api.message(stream, place)
        except ServerError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise translated(error, stream) from error
        return _Letter(found.seq, read_headers(found.hdrs[:MAX_HEADERS]), found.data)


def _subject_of(stream: str, event_type: str, aggregate: str) -> str | None:
    """Return the event's subject; None where it can't be one, above all because it is too long for a protocol line."""
    try:
        subject = subject_of(stream, event_type, aggregate)
    except ConfigError:
        return None
    return subject if len(subject.encode()) + N_REPLY <= MAX_LINE else None


def _dead_letter_stream(stream: str, given: str | None) -> str:
    name = "{stream}-dead" if given is None else given
    try:
        name = name.replace("{stream}", stream)
        check_stream_name(name)
    except (AttributeError, TypeError, ConfigError) as error:
        message = f"dead_letter must be the name of a stream, not {name!r}"
        raise ConfigError(message, argument="dead_letter") from error
    return name


def _rfc3339(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"
