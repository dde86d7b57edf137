"""`conn.replay_dead`: publishes a subscription's dead letters back into the stream from which they came."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from time import monotonic

from eda.dead_letters.letter_stream import LetterStream, check_sequences, dead_letter_stream
from eda.dead_letters.replayable import Message, Replayable
from eda.errors import ConfigError, EdaError
from eda.jetstream.api import Api
from eda.jetstream.store_message import is_too_large, store_message
from eda.jetstream.stream_info import check_takes_events
from eda.jetstream.streams import Streams
from eda.jetstream.subjects import check_name, check_stream_name
from eda.times import EPOCH
from eda.transport.wire import Wire

__all__ = ["Replay"]

REPLAY_TIMEOUT_S = 30.0
REPLAY_PAUSE_S = 0.1


class Replay:
    """Publishes dead letters back into their streams."""

    def __init__(self, wire: Wire, api: Api, logger: logging.Logger) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._streams = Streams(api)

    async def replay(
        self,
        stream: str,
        name: str,
        *,
        dead_letter: str | None = None,
        limit: int | None = None,
        sequences: Collection[int] | None = None,
    ) -> int:
        """Publish the dead letters of subscription `name` back into `stream`, and return how many.

        They are published in order, and only this subscription handles them. Each is removed from the dead-letter
        stream after `stream` has acknowledged it. Letters that are stored while this runs are left for the next time.
        Messages that are not events stay where they are, because a replay can't make events of them. An event whose
        payload could not be decoded is replayed: its class may have been mended. `dead_letter` is the dead-letter
        stream (None: `{stream}-dead`), `limit` the largest number to replay. With `sequences`, only the letters with
        these sequences in the dead-letter stream are replayed.

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
        dead = dead_letter_stream(stream, dead_letter)
        only = check_sequences(sequences)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigError(f"limit must be an int of 1 or more, or None, not {limit!r}", argument="limit")
        letter_stream = LetterStream(self._api, dead)
        dead_info = await letter_stream.info()
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
            reading = letter_stream.letters(state["first_seq"], state["last_seq"], only)
            async with contextlib.aclosing(reading) as letters:
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
                    await letter_stream.remove(letter.sequence)
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
