"""`conn.replay_dead`: publishes a subscription's dead letters back into the stream from which they came."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from eda.dead_letters.letter import Letter, read_letter
from eda.dead_letters.replayable import Message, Replayable
from eda.errors import ConfigError, EdaError, ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import Stream
from eda.jetstream.store_message import is_too_large, store_message
from eda.jetstream.stream_info import check_takes_events
from eda.jetstream.streams import Streams
from eda.jetstream.subjects import check_name, check_stream_name
from eda.server_codes import MESSAGE_DELETE_FAILED, SEQUENCE_NOT_FOUND
from eda.times import EPOCH
from eda.transport.wire import Wire

__all__ = ["Replay"]

REPLAY_TIMEOUT_S = 30.0
REPLAY_PAUSE_S = 0.1
MAX_READS = 16  # how many letters are read concurrently; their payloads are in memory together

# The server's answers if the message is gone: older servers say that the message can't be deleted.
NOTHING_TO_DELETE = frozenset({SEQUENCE_NOT_FOUND, MESSAGE_DELETE_FAILED})


class Replay:
    """Publishes dead letters back into their streams."""

    def __init__(self, wire: Wire, api: Api, logger: logging.Logger) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._streams = Streams(api)

    async def replay(self, stream: str, name: str, *, dead_letter: str | None = None, limit: int | None = None) -> int:
        """Publish the dead letters of subscription `name` back into `stream`, and return how many.

        They are published in order, and only this subscription handles them. Each is removed from the dead-letter
        stream after `stream` has acknowledged it. Letters that are stored while this runs are left for the next time.
        Messages that are not events stay where they are, because a replay can't make events of them. An event whose
        payload could not be decoded is replayed: its class may have been mended. `dead_letter` is the dead-letter
        stream (None: `{stream}-dead`), `limit` the largest number to replay.

        An event gets a new id, which is the same for each attempt to replay the same letter. If a crash leaves a
        replayed letter behind, another replay within the stream's duplicate window stores no second copy.

        The letter of an event that was in a pack has this event alone, which is replayed as an ordinary message. A pack
        that could not be read has one letter. If it can be read now, it is replayed as a whole, and counts once; else
        it stays. The ids of its events do not change.

        A letter may lack its payload, because the payload was too large. Then the payload is read from `stream`. If it
        is not there any more, or if the event is too large for the headers of a replay, the letter stays, and a warning
        is logged.

        Raises ConfigError; StreamNotFound for either stream; ServerError, Timeout, Closed. After an error, or if the
        caller is cancelled, the letters so far have been replayed.
        """
        stream = check_stream_name(stream)
        name = check_name(name)
        dead = _dead_letter_stream(stream, dead_letter)
        if dead == stream:
            why = f"dead_letter is the stream {stream!r} itself: dead letters are in a stream of their own"
            raise ConfigError(why, argument="dead_letter")
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigError(f"limit must be an int of 1 or more, or None, not {limit!r}", argument="limit")
        dead_info = await self._info(dead)
        config = dead_info["config"]
        if config.get("deny_delete") or config.get("sealed"):
            why = f"stream {dead!r} allows nobody to delete a message, so each dead letter would be replayed every time"
            raise ConfigError(why, argument="dead_letter" if dead_letter else "stream")
        info = await self._streams.info(stream)
        check_takes_events(info)
        # If the dead-letter stream is deleted and created again, its sequences start at 1 again. So the ids of replayed
        # events contain the stream's time of creation, too.
        made_us = (datetime.fromisoformat(dead_info["created"]) - EPOCH) // timedelta(microseconds=1)
        replayable = Replayable(self._api, self._logger, dead, info, name)
        n_replayed = 0
        state = dead_info["state"]
        try:
            async with contextlib.aclosing(self._letters(dead, state["first_seq"], state["last_seq"])) as letters:
                async for letter in letters:
                    message = await replayable.message_of(letter, f"replay:{dead}:{made_us:x}:{letter.sequence}")
                    if message is None:
                        continue
                    try:
                        await self._publish_back(stream, message)
                    except EdaError as error:
                        if not is_too_large(error):
                            raise
                        replayable.log_kept(
                            letter, f"it is too large to be published with the headers of a replay: {error}"
                        )
                        continue
                    await self._remove(dead, letter.sequence)
                    n_replayed += 1
                    if n_replayed == limit:
                        break
        except EdaError as error:
            error.add_note(f"{n_replayed} dead letters were replayed before")
            raise
        return n_replayed

    async def _publish_back(self, stream: str, message: Message) -> None:
        began = monotonic()
        while True:
            try:
                await store_message(
                    self._wire, stream, message.subject, message.payload, message.headers, domain=self._api.domain
                )
                return
            except EdaError as error:
                if not error.retryable:
                    raise
                # The duplicate window may have been changed since the first attempt.
                window_s = (await self._streams.info(stream)).options.dedup_window_s
                if monotonic() + REPLAY_PAUSE_S > began + min(REPLAY_TIMEOUT_S, window_s / 2):
                    raise
            await asyncio.sleep(REPLAY_PAUSE_S)

    async def _remove(self, dead: str, sequence: int) -> None:
        try:
            await self._api.request(f"STREAM.MSG.DELETE.{dead}", {"seq": sequence, "no_erase": True})
        except ServerError as error:
            # The letter may be gone: another replay or an earlier request, whose answer was lost, has removed it.
            if (
                error.err_code not in NOTHING_TO_DELETE
                or await read_letter(self._api, dead, {"seq": sequence}) is not None
            ):
                raise stream_error(error, dead) from error

    async def _letters(self, dead: str, first: int, last: int) -> AsyncGenerator[Letter, None]:
        """Yield the messages from sequence `first` to `last` in order.

        Several are read concurrently. Each request gets the first message at or after its sequence. If messages are
        missing there, several requests get the same message, and the next round makes fewer requests.
        """
        width = 1
        while first <= last:
            sequences = range(first, min(first + width, last + 1))
            reads = [read_letter(self._api, dead, {"seq": each, "next_by_subj": ">"}) for each in sequences]
            found: dict[int, Letter] = {}
            for answer in await asyncio.gather(*reads, return_exceptions=True):
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

    async def _info(self, stream: str) -> dict[str, Any]:
        try:
            return await self._api.request(f"STREAM.INFO.{stream}", schema=Stream)
        except ServerError as error:
            raise stream_error(error, stream) from error


def _dead_letter_stream(stream: str, given: str | None) -> str:
    name = "{stream}-dead" if given is None else given
    try:
        name = check_stream_name(str.__str__(name).replace("{stream}", stream))
    except (AttributeError, TypeError, ConfigError) as error:
        message = f"dead_letter must be the name of a stream, not {name!r}"
        raise ConfigError(message, argument="dead_letter") from error
    return name
