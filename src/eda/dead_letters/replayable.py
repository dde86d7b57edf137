"""What a replay publishes for a dead letter."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from eda._codec import decode_event, encode_event
from eda._pack import count_in_pack, is_pack_payload
from eda.dead_letters.letter import Letter, own_headers, own_subject, subject_or_none
from eda.dead_letters.omitted import PayloadGone, omitted_payload
from eda.errors import DecodeError
from eda.headers import (
    DEAD_INDEX,
    DEAD_OMITTED,
    DEAD_REASON,
    DEAD_STREAM,
    DEAD_SUBSCRIPTION,
    MSG_ID,
    PACK,
    REPLAY_FOR,
)
from eda.jetstream.api import Api
from eda.jetstream.stream_info import StreamInfo, check_takes_subject
from eda.jetstream.subjects import PACK_TOKEN
from eda.log import with_fields

__all__ = ["Message", "Replayable"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish."""

    subject: str
    payload: bytes
    headers: dict[str, str]


class Replayable:
    """The dead letters that the stream `dead` has for subscription `name` to the stream of `info`."""

    def __init__(self, api: Api, logger: logging.Logger, dead: str, info: StreamInfo, name: str) -> None:
        self._api = api
        self._logger = with_fields(logger, eda_stream=info.name, eda_subscription=name)
        self._dead = dead
        self._info = info
        self._stream = info.name
        self._name = name

    async def message_of(self, letter: Letter, message_id: str) -> Message | None:
        """Return what to publish for a letter, with that id.

        None: the letter is another subscription's, is no event, lacks its payload, or is a pack that can't be published
        to this stream. Raises ConfigError if the stream does not listen to the letter's subject, or if what
        decompresses a pack is not installed. Raises StreamNotFound, ServerError, Timeout, Closed.
        """
        headers = letter.headers
        if headers.get(DEAD_SUBSCRIPTION) != self._name or headers.get(DEAD_STREAM) != self._stream:
            return None
        payload = letter.payload
        if DEAD_OMITTED in headers:
            try:
                payload = await omitted_payload(self._api, letter, self._stream)
            except PayloadGone as gone:
                self.log_kept(letter, str(gone))
                return None
        is_pack = DEAD_INDEX not in headers and is_pack_payload(payload)
        try:
            return (self._pack if is_pack else self._event)(letter, payload, message_id)
        except DecodeError as error:
            if headers.get(DEAD_REASON) != "undecodable":
                self._logger.warning(
                    "the dead letter in stream %s, sequence %d is not an event and stays: %s",
                    self._dead, letter.sequence, error,
                )  # fmt: skip
            return None

    def _event(self, letter: Letter, payload: bytes, message_id: str) -> Message:
        event = decode_event(payload)
        stream = self._stream
        subject = own_subject(letter, self._info.subjects) or subject_or_none(stream, event.type, event.aggregate)
        if subject is None or self._info.options.store:
            # In a store's stream, the event would count as one more event of its aggregate on the aggregate's subject.
            subject = stream
        check_takes_subject(self._info, subject)
        envelope = encode_event(event.replace(id=message_id), version=event.version)
        return Message(subject, envelope, own_headers(letter) | {MSG_ID: message_id, REPLAY_FOR: self._name})

    def _pack(self, letter: Letter, payload: bytes, message_id: str) -> Message | None:
        """Return the message of a pack that the subscription could not read, as it was. Now it can be read."""
        n_events = count_in_pack(payload)
        if not self._info.options.packed:
            self.log_kept(letter, f"it is a pack, and stream {self._stream} is not packed")
            return None
        subject = own_subject(letter, self._info.subjects) or f"{self._stream}.{PACK_TOKEN}.{PACK_TOKEN}"
        check_takes_subject(self._info, subject)
        ours = {PACK: str(n_events), MSG_ID: message_id, REPLAY_FOR: self._name}
        return Message(subject, payload, own_headers(letter) | ours)

    def log_kept(self, letter: Letter, why: str) -> None:
        """Log why a letter is not replayed."""
        self._logger.warning(
            "the dead letter in stream %s, sequence %d is not replayed and stays: %s", self._dead, letter.sequence, why
        )
