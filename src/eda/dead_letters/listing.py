"""`conn.dead_letters` and `conn.drop_dead`: reads the dead letters of a stream, and removes them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection
from datetime import datetime
from urllib.parse import unquote

from eda.dead_letters.dead_letter import DeadLetter, dead_letter_of, is_letter
from eda.dead_letters.letter import Letter
from eda.dead_letters.letter_stream import LetterStream, check_sequences, dead_letter_stream
from eda.dead_letters.omitted import PayloadGone, omitted_payload
from eda.errors import ConfigError, EdaError, StreamNotFound
from eda.headers import DEAD_OMITTED, DEAD_REASON, DEAD_STREAM, DEAD_SUBSCRIPTION, DEAD_TIME
from eda.jetstream.api import Api
from eda.jetstream.schemas import nanoseconds
from eda.jetstream.subjects import check_name, check_stream_name
from eda.times import since_epoch_ns

__all__ = ["DeadLetterReader", "Selection"]


class Selection:
    """Which dead letters of a stream are meant. Raises ConfigError for arguments of a wrong kind."""

    def __init__(
        self,
        stream: str,
        name: str | None,
        *,
        dead_letter: str | None,
        reason: str | None = None,
        since: datetime | None = None,
        sequences: Collection[int] | None = None,
        limit: int | None = None,
        others: bool = False,
    ) -> None:
        self.stream: str = check_stream_name(stream)
        self.name: str | None = check_name(name) if name is not None else None
        self.dead: str = dead_letter_stream(stream, dead_letter)
        if reason is not None and not isinstance(reason, str):
            raise ConfigError(f"reason must be a str or None, not {reason!r:.100}", argument="reason")
        self.reason = reason
        if since is not None and (not isinstance(since, datetime) or since.tzinfo is None):
            raise ConfigError(f"since must be an aware datetime or None, not {since!r:.100}", argument="since")
        self.since_ns: int = since_epoch_ns(since) if since is not None else 0
        self.sequences: frozenset[int] | None = check_sequences(sequences)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ConfigError(f"limit must be an int of 1 or more, or None, not {limit!r}", argument="limit")
        self.limit = limit
        self.others = others

    def includes(self, letter: Letter) -> bool:
        """Return whether a message in the dead-letter stream is one of the letters that are meant."""
        headers = letter.headers
        if not self.others and (not is_letter(letter) or unquote(headers.get(DEAD_STREAM, "")) != self.stream):
            return False
        if self.name is not None and unquote(headers.get(DEAD_SUBSCRIPTION, "")) != self.name:
            return False
        if self.reason is not None and unquote(headers.get(DEAD_REASON, "")) != self.reason:
            return False
        time_ns = nanoseconds(headers.get(DEAD_TIME, "")) or nanoseconds(letter.stored)
        return time_ns >= self.since_ns


class DeadLetterReader:
    """Reads and removes dead letters. Reading makes no consumer, and changes nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, chosen: Selection) -> AsyncGenerator[DeadLetter, None]:
        """Yield the chosen letters, in the order in which they were stored. At most 16 are in memory.

        Letters that are stored meanwhile are not read. Raises StreamNotFound, ServerError, Timeout, Closed.
        """
        n_read = 0
        async with contextlib.aclosing(self._chosen(chosen)) as letters:
            async for letter in letters:
                yield await self._whole(letter, chosen.dead)
                n_read += 1
                if n_read == chosen.limit:
                    return

    async def drop(self, chosen: Selection) -> int:
        """Remove the chosen letters one after the other, and return how many.

        Raises ConfigError if the stream allows nobody to delete a message; StreamNotFound, ServerError, Timeout,
        Closed. After an error or a cancellation, the letters so far are removed.
        """
        letter_stream = LetterStream(self._api, chosen.dead)
        config = (await letter_stream.info())["config"]
        if config.get("deny_delete") or config.get("sealed"):
            why = f"stream {chosen.dead!r} allows nobody to delete a message"
            raise ConfigError(why, argument="dead_letter")
        n_dropped = 0
        try:
            async with contextlib.aclosing(self._chosen(chosen)) as letters:
                async for letter in letters:
                    await letter_stream.remove(letter.sequence)
                    n_dropped += 1
                    if n_dropped == chosen.limit:
                        break
        except EdaError as error:
            error.add_note(f"{n_dropped} dead letters were removed before")
            raise
        return n_dropped

    async def _chosen(self, chosen: Selection) -> AsyncGenerator[Letter, None]:
        letter_stream = LetterStream(self._api, chosen.dead)
        state = (await letter_stream.info())["state"]
        reading = letter_stream.letters(state["first_seq"], state["last_seq"], chosen.sequences)
        async with contextlib.aclosing(reading) as letters:
            async for letter in letters:
                if chosen.includes(letter):
                    yield letter

    async def _whole(self, letter: Letter, dead: str) -> DeadLetter:
        """Return the letter with its payload, also if the payload is only in the stream that the event came from."""
        if DEAD_OMITTED not in letter.headers:
            return dead_letter_of(letter, dead, letter.payload)
        stream = unquote(letter.headers.get(DEAD_STREAM, ""))
        try:
            return dead_letter_of(letter, dead, await omitted_payload(self._api, letter, stream))
        except PayloadGone as gone:
            why = str(gone)
        except StreamNotFound:
            why = f"its payload is gone: stream {stream} does not exist any more"
        return dead_letter_of(letter, dead, None, f"its payload was too large for the letter, and {why}")
