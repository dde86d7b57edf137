"""One append under an expectation: a single message, or an atomic batch for several events.

All writers of an aggregate state their expectation with one and the same filter, `S.*.<aggregate>`: a replicated stream
finds messages that are still on their way by the text of the filter.

If a try gets no answer, its events may be stored. Then the server may refuse the next try because of these events: the
expectation does not hold any more. So after such a refusal, this module looks for the events in the stream. It never
reports a stored append as refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from eda.errors import ConfigError, EdaError, NotSupported, ServerError, Timeout
from eda.headers import MSG_ID, read_headers
from eda.jetstream.api import Api
from eda.jetstream.store_message import is_too_large
from eda.jetstream.subjects import aggregate_filter, escape_token
from eda.log import with_fields
from eda.publishing._stream_sender import check_event_id
from eda.publishing.atomic_batch import MAX_EVENTS, AtomicBatch, BatchMessage
from eda.publishing.expectations import Expectation, holds
from eda.publishing.known_streams import PUBLISH_TIMEOUT_S, KnownStream, KnownStreams
from eda.server_codes import ATOMIC_BATCH_DUPLICATE, CONFLICTS, LAST_SEQUENCE_CONFLICT, MESSAGE_NOT_FOUND
from eda.store._earlier import EARLIER, value_of
from eda.store._message import Message

__all__ = ["Appending", "Refused", "Stored"]

OPERATION = "append"
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Stored:
    """The sequences at which an append's events are stored.

    `is_duplicate`: the stream had stored one of the ids before, perhaps by an earlier try of this append, so the caller
    must look at the stored events. For several events `sequences` is empty then.
    """

    sequences: list[int]
    is_duplicate: bool


class Refused(Exception):
    """The server did not store an append, because its expectation does not hold, or can't be judged yet.

    `is_under_way`: another write to the aggregate is not finished, so its last event is not known yet.
    """

    def __init__(self, *, is_under_way: bool) -> None:
        super().__init__()
        self.is_under_way = is_under_way

    def __str__(self) -> str:
        return "another write is under way" if self.is_under_way else "the expectation does not hold"


class Appending:
    """Appends events to the aggregates of one stream.

    `under_way` holds a future for each atomic batch until its outcome is known: closing the connection waits for them.
    `replicas()` returns how many replicas the stream has.
    """

    def __init__(
        self,
        known_streams: KnownStreams,
        api: Api,
        logger: logging.Logger,
        stream: str,
        under_way: set[asyncio.Future[None]],
        replicas: Callable[[], int] = lambda: 1,
    ) -> None:
        self._replicas = replicas
        self._known_streams = known_streams
        self.known: dict[str, KnownStream] = known_streams.known
        self._api = api
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._under_way = under_way
        known_streams.never_created.add(stream)

    async def store(
        self,
        aggregate: str,
        envelopes: list[tuple[str, bytes, str]],
        *,
        sequence: int,
        earlier: str = "",
        timeout_s: float | None = None,
    ) -> Stored:
        """Store the events (type, envelope, id), all or none, if the aggregate's last event is stored at `sequence`.

        With `sequence=0` the aggregate must have no events. A single event is sent again until its outcome is known, as
        by `conn.publish`. Several events are one atomic batch. `earlier`: the sequences of the aggregate's last
        events, as far as they are known (see `_earlier`).

        Raises Refused, Timeout (the events may be stored or not), ServerError, StreamNotFound and Closed; ConfigError
        before anything is sent; NotSupported for several events if server or stream does not take atomic batches. If
        the caller is cancelled, the events may be stored or not.
        """
        stream = self._stream
        known = self.known.get(stream) or await self._known_streams.find(stream)
        if timeout_s is None:
            timeout_s = known.usual_s
        else:
            known.check_timeout(timeout_s)
        if len(envelopes) != 1:
            if not envelopes:
                return _NOTHING
            filter = aggregate_filter(stream, aggregate)
            before = earlier or (str(sequence) if sequence else "")
            return await self._store_batch(known, filter, envelopes, sequence, before, timeout_s)
        ((type, envelope, event_id),) = envelopes
        try:
            message = Message(stream, aggregate, type, event_id, envelope, sequence, earlier)
            left_s = await self._room(known, event_id, timeout_s)
            stored = known.publisher.send_message(known.destination, message.subject, message.headers, envelope, left_s)
        except ConfigError as error:
            raise ConfigError(f"events[0]: {error}", argument="events") from error
        try:
            position = await stored
        except EdaError as error:
            position = await self.find_out(message, error, timeout_s)
        return Stored([abs(position)], position < 0)

    async def ready(self, event_id: str) -> tuple[KnownStream, float]:
        """Wait until an event can be sent. Return the stream, and the rest of the time-out.

        This is the back-pressure. Raises Timeout, StreamNotFound, ServerError, Closed.
        """
        known = self.known.get(self._stream) or await self._known_streams.find(self._stream)
        return known, await self._room(known, event_id, known.usual_s)

    async def _room(self, known: KnownStream, event_id: str, timeout_s: float) -> float:
        """Wait until the publisher has room, and return the rest of the time."""
        if known.publisher.is_ready:
            return timeout_s
        try:
            return await known.publisher.ready(timeout_s, event_id)
        except Timeout as error:
            error.operation = OPERATION
            raise

    async def find_out(self, message: Message, error: EdaError, timeout_s: float | None = None) -> int:
        """Return the sequence of an event whose append has failed, if an earlier try has stored it; negative then.

        Raises Refused if it is a conflict, and the error otherwise. A Timeout gets the event's id. The event may be
        stored or not then.
        """
        known = self.known.get(self._stream)  # None: the stream was deleted meanwhile
        if timeout_s is None:
            timeout_s = PUBLISH_TIMEOUT_S if known is None else known.usual_s
        if isinstance(error, Timeout):
            error.operation, error.event_id, error.timeout_s = OPERATION, message.id, error.timeout_s or timeout_s
            raise error
        if not isinstance(error, ServerError | ConfigError):
            raise error
        if not _may_be_stored(error) and not self._may_be_of_another_domain(error):
            _raise_conflict(error)
            if is_too_large(error):  # this connection does not know the stream's limit of now
                raise ConfigError(f"events[0] is too large: {error}", argument="events") from error
            raise error
        if known is None:
            known = await self._known_streams.find(self._stream)
        with known.publisher.finding_out():
            stored = await self._find_out(known, message, error, timeout_s)
        return -stored.sequences[0] if stored.is_duplicate else stored.sequences[0]

    # --- a single event whose earlier try may be stored --------------------------------------------------------------

    async def _find_out(
        self, known: KnownStream, message: Message, error: ServerError | ConfigError, timeout_s: float
    ) -> Stored:
        """Look for an event that was refused, although an earlier try may have stored it. Raises as `store`."""
        try:
            async with asyncio.timeout(timeout_s):
                uncertain = False
                while True:
                    uncertain = uncertain or _may_be_stored(error)
                    if not (self._may_be_of_another_domain(error) and await self._holds(message)):
                        found = await self._find(message)
                        if found:
                            return Stored([found], True)
                        if not (uncertain and _is_under_way(error)):
                            _raise_conflict(error)
                            raise error
                    # The write that is under way may be the earlier try, so the server is asked again.
                    uncertain = True
                    await asyncio.sleep(PAUSE_S)
                    try:
                        left_s = await known.publisher.ready(timeout_s, message.id)
                        position = await known.publisher.send_message(
                            known.destination, message.subject, message.headers, message.envelope, left_s
                        )
                        return Stored([abs(position)], position < 0)
                    except (ServerError, ConfigError) as later:
                        error = later
        except TimeoutError as late:  # the error Timeout as well
            raise Timeout(OPERATION, timeout_s, event_id=message.id) from late

    def _may_be_of_another_domain(self, error: ServerError | ConfigError) -> bool:
        """Return whether a stream of the same name in another domain may have refused the expectation."""
        return bool(self._api.domain) and isinstance(error, ServerError) and error.err_code in CONFLICTS

    async def _holds(self, message: Message) -> bool:
        """Return whether the expectation holds in the stream; also if that can't be found out now."""
        try:
            return await holds(self._api, self._stream, Expectation(message.filter, message.sequence))
        except ServerError as error:
            self._logger.debug("append to %s: could not look for the last event: %s", self._stream, error)
            return True

    async def _find(self, message: Message) -> int:
        """Return the sequence at which an event is stored; 0 if it is not. Raises Timeout, Closed.

        If it is stored, it is the first event of its aggregate after the expected sequence.
        """
        query = {"seq": message.sequence + 1, "next_by_subj": message.filter}
        while True:
            try:
                found = await self._api.message(self._stream, query)
            except ServerError as error:
                if error.err_code == MESSAGE_NOT_FOUND:
                    return 0
                self._logger.debug("append to %s: could not look for the event; trying again: %s", self._stream, error)
                await asyncio.sleep(PAUSE_S)
            else:
                return found.seq if read_headers(found.hdrs).get(MSG_ID) == message.id else 0

    # --- several events ----------------------------------------------------------------------------------------------

    async def _store_batch(
        self,
        known: KnownStream,
        filter: str,
        envelopes: list[tuple[str, bytes, str]],
        sequence: int,
        before: str,
        timeout_s: float,
    ) -> Stored:
        api = self._api
        if not api.has_atomic:
            server = f"nats-server {api.wire.server_version}"
            raise NotSupported("an append of several events", needs="nats-server 2.12.1", server=server)
        if self._replicas() > 1 and not api.has_sound_batches:
            server = f"nats-server {api.wire.server_version}"
            needs = "nats-server 2.12.14 or 2.14.4, or one event in each append"
            raise NotSupported("an append of several events to a replicated stream", needs=needs, server=server)
        batch = AtomicBatch(
            api.wire,
            api,
            self._logger,
            self._stream,
            self._messages(filter, envelopes, before),
            self._known_streams.recover,
            max_message=lambda: self._known_streams.max_message(self._stream),
            expectation=Expectation(filter, sequence),
            operation=OPERATION,
        )
        batch.check_sizes()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        done: asyncio.Future[None] = loop.create_future()
        self._under_way.add(done)
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await known.publisher.batch_room.acquire()
            except TimeoutError as error:
                late = Timeout(OPERATION, timeout_s)
                late.add_note("Nothing was sent: too many batches to this stream are under way.")
                raise late from error
            try:
                left_s = max(deadline - loop.time(), 0.001)
                with self._known_streams.stream_publishers.batches(self._stream).under_way(len(envelopes)):
                    first = await batch.store(last_seq=sequence, created=None, longest_s=left_s)
            except Timeout as late:
                if late.timeout_s == round(left_s, 3):
                    late.timeout_s = timeout_s  # the caller's, of which the wait for room has taken a part
                raise
            finally:
                known.publisher.batch_room.release()
        except ServerError as error:
            if error.err_code == ATOMIC_BATCH_DUPLICATE:
                return Stored([], True)
            _raise_conflict(error)
            if is_too_large(error):  # the limit was lowered after the sizes were checked
                raise ConfigError(f"an event is too large: {error}", argument="events") from error
            raise
        finally:
            self._under_way.discard(done)
            done.set_result(None)
        return Stored(list(range(first, first + len(envelopes))), False)

    def _messages(self, filter: str, envelopes: list[tuple[str, bytes, str]], before: str) -> list[BatchMessage]:
        """Return the messages of a batch. Raises ConfigError, which names the event."""
        if len(envelopes) > MAX_EVENTS:
            raise ConfigError(f"an append has at most {MAX_EVENTS} events, not {len(envelopes)}", argument="events")
        index_of: dict[str, int] = {}
        messages = []
        for index, (type, envelope, event_id) in enumerate(envelopes):
            if index_of.setdefault(event_id, index) != index:
                same = f"events[{index}] has the id of events[{index_of[event_id]}]: {event_id}"
                raise ConfigError(same, argument="events")
            try:
                check_event_id(event_id)
                subject = _subject(filter, type)
                messages.append(BatchMessage(subject, envelope, event_id, {EARLIER: value_of(before, index)}))
            except ConfigError as error:
                raise ConfigError(f"events[{index}]: {error}", argument="events") from error
        return messages


_NOTHING = Stored([], False)


def _subject(filter: str, type: str) -> str:
    """Return the subject of events of this type, from the filter of their aggregate: the only `*` in it is the type."""
    return filter.replace("*", escape_token(type))


def _may_be_stored(error: ServerError | ConfigError) -> bool:
    """Return whether an earlier try of a refused event may be stored.

    A ConfigError means that the event became too large for the server that the connection has now. It was sent before.
    """
    return isinstance(error, ConfigError) or error.may_be_stored


def _is_under_way(error: ServerError | ConfigError) -> bool:
    return isinstance(error, ServerError) and error.err_code == LAST_SEQUENCE_CONFLICT


def _raise_conflict(error: ServerError | ConfigError) -> None:
    """Raise Refused if the error is a conflict."""
    if isinstance(error, ServerError) and error.err_code in CONFLICTS:
        raise Refused(is_under_way=error.err_code == LAST_SEQUENCE_CONFLICT) from error
