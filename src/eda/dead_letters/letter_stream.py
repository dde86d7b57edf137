"""The stream that has the dead letters of another stream: reads its messages in order, and removes single ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from typing import Any

from eda.dead_letters.letter import Letter, read_letter
from eda.errors import ConfigError, ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import Stream
from eda.jetstream.subjects import check_stream_name
from eda.server_codes import MESSAGE_DELETE_FAILED, SEQUENCE_NOT_FOUND

__all__ = ["LetterStream", "check_sequences", "dead_letter_stream"]

MAX_READS = 16  # how many letters are read concurrently; their payloads are in memory together
MAX_SEQUENCES = 100_000  # how many letters one call may name

# The server's answers if the message is gone: older servers say that the message can't be deleted.
NOTHING_TO_DELETE = frozenset({SEQUENCE_NOT_FOUND, MESSAGE_DELETE_FAILED})


class LetterStream:
    """The dead-letter stream `name`. It is read by requests for single messages, so no consumer is made or changed."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self.name = name

    async def info(self) -> dict[str, Any]:
        """Return the server's description. Raises StreamNotFound, ServerError, Timeout, Closed."""
        try:
            return await self._api.request(f"STREAM.INFO.{self.name}", schema=Stream)
        except ServerError as error:
            raise stream_error(error, self.name) from error

    async def remove(self, sequence: int) -> None:
        """Remove a letter, unless it is gone already. Raises StreamNotFound, ServerError, Timeout, Closed."""
        try:
            await self._api.request(f"STREAM.MSG.DELETE.{self.name}", {"seq": sequence, "no_erase": True})
        except ServerError as error:
            # The letter may be gone: another replay or an earlier request, whose answer was lost, has removed it.
            if error.err_code not in NOTHING_TO_DELETE or await self._read({"seq": sequence}) is not None:
                raise stream_error(error, self.name) from error

    async def letters(self, first: int, last: int, only: Collection[int] | None = None) -> AsyncGenerator[Letter, None]:
        """Yield the messages from sequence `first` to `last` in order; with `only`, those that have these sequences.

        Several are read concurrently. Each request gets the first message at or after its sequence. If messages are
        missing there, several requests get the same message, and the next round makes fewer requests.
        """
        if only is not None:
            async for letter in self._named([each for each in sorted(only) if first <= each <= last]):
                yield letter
            return
        width = 1
        while first <= last:
            sequences = range(first, min(first + width, last + 1))
            answers = await self._read_all([{"seq": each, "next_by_subj": ">"} for each in sequences])
            found = {each.sequence: each for each in answers if each.sequence <= last}
            if not found:
                return
            for sequence in sorted(found):
                yield found[sequence]
            first = max(found) + 1
            width = min(len(found) * 2, MAX_READS)

    async def _named(self, sequences: list[int]) -> AsyncGenerator[Letter, None]:
        for at in range(0, len(sequences), MAX_READS):
            for letter in await self._read_all([{"seq": each} for each in sequences[at : at + MAX_READS]]):
                yield letter

    async def _read_all(self, queries: list[dict[str, Any]]) -> list[Letter]:
        """Return the messages that the queries find. Raises the first error, after all requests have ended."""
        found: list[Letter] = []
        for answer in await asyncio.gather(*map(self._read, queries), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                found.append(answer)
        return found

    async def _read(self, query: dict[str, Any]) -> Letter | None:
        return await read_letter(self._api, self.name, query)


def dead_letter_stream(stream: str, given: str | None) -> str:
    """Return the name of the stream with the dead letters of `stream`. Raises ConfigError."""
    name = "{stream}-dead" if given is None else given
    try:
        name = check_stream_name(str.__str__(name).replace("{stream}", stream))
    except (AttributeError, TypeError, ConfigError) as error:
        message = f"dead_letter must be the name of a stream, not {name!r}"
        raise ConfigError(message, argument="dead_letter") from error
    if name == stream:
        why = f"dead_letter is the stream {stream!r} itself: dead letters are in a stream of their own"
        raise ConfigError(why, argument="dead_letter")
    return name


def check_sequences(sequences: Collection[int] | None) -> frozenset[int] | None:
    """Return the sequences of letters as a set. Raises ConfigError unless they are up to 100,000 ints of 1 or more."""
    if sequences is None:
        return None
    if (
        not isinstance(sequences, Collection)
        or isinstance(sequences, str | bytes)
        or not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in sequences)
    ):
        message = f"sequences must be a collection of ints of 1 or more, or None, not {sequences!r:.100}"
        raise ConfigError(message, argument="sequences")
    if len(sequences) > MAX_SEQUENCES:
        message = f"sequences has {len(sequences)} numbers; at most {MAX_SEQUENCES} are allowed"
        raise ConfigError(message, argument="sequences")
    return frozenset(sequences)
