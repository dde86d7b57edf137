"""Exact reads of one aggregate's events.

Any replica may answer a direct get, and it may be behind. Two reads may be answered by two replicas, while writers go
on. So a read is complete only if it has reached the sequence that the stream's leader names as the aggregate's last,
and if the versions of its events follow each other. Otherwise it is read again, and in the end from the leader alone.

The last message names the sequences of the events before it, so each is asked for by its sequence (`_tail_reading`). If
it does not name them, or if there are many, the events are searched by their subjects.

A stream on a single server has no replica that could be behind. Then the last message is read by a direct get, which
costs the server a quarter of a read from the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from eda._codec import stored_event
from eda._event import Event
from eda.errors import DecodeError, ServerError
from eda.jetstream.api import Api
from eda.jetstream.direct_get import DirectGet, Reading
from eda.jetstream.stored_message import StoredMessage, n_left, up_to
from eda.jetstream.subjects import aggregate_filter, escape_token
from eda.names import FORGOTTEN
from eda.store._earlier import earlier_in
from eda.store._tail_reading import TailReading
from eda.store.tail import NOTHING, Baseline, Tail
from eda.store_errors import HistoryIncomplete

__all__ = ["History"]

MAX_BATCH = 500  # messages of one request
N_READS = 6
TOO_MANY_SUBJECTS = 413
MAX_SUBJECTS = 64  # of one aggregate that are read concurrently
FIRST_PAUSE_S = 0.005  # between two reads; each further pause is twice as long


class History:
    """Reads the events of the aggregates of a stream.

    `has_one_copy()`: whether the stream has a single copy, so that its own answers to direct gets are exact.
    `on_mirror()` is called if a mirror has answered a direct get that was meant for the stream.
    """

    def __init__(
        self,
        api: Api,
        stream: str,
        direct: DirectGet,
        has_one_copy: Callable[[], bool] = lambda: False,
        on_mirror: Callable[[], None] = lambda: None,
    ) -> None:
        self.api = api
        self._stream = stream
        self._direct = direct
        self._has_one_copy = has_one_copy
        self._on_mirror = on_mirror

    async def last(self, aggregate: str) -> Event | None:
        """Return the aggregate's last event, as the stream's leader knows it; None if the aggregate has none.

        Raises HistoryIncomplete if the event can't be read or has no version.
        """
        return (await self.last_and_earlier(aggregate))[0]

    async def last_and_earlier(self, aggregate: str) -> tuple[Event | None, list[int]]:
        """Return the aggregate's last event as `last` does, and the sequences of the events before it.

        These are as many as its message names, the latest first.
        """
        direct, filter = self._direct, aggregate_filter(self._stream, aggregate)
        if self._has_one_copy():
            reading = direct.begin_last(filter)
            await direct.wait_once(reading)
            if reading.n_mirrors:
                self._on_mirror()
            if reading.messages:  # of the stream itself, or of the leader if a mirror has answered
                return self._with_earlier(aggregate, reading.messages[0])
        found = await direct.done(direct.begin_leader_last(filter))
        return self._with_earlier(aggregate, found[0]) if found else (None, [])

    def _with_earlier(self, aggregate: str, message: StoredMessage) -> tuple[Event, list[int]]:
        return self._event(aggregate, message), earlier_in(message.headers, message.sequence)

    async def read(self, aggregate: str, baseline: Baseline = NOTHING, *, types: Iterable[str] | None = None) -> Tail:
        """Return the aggregate's events after the baseline: all that were acknowledged before this call.

        Their versions follow each other without a gap. A tombstone stands alone. `types`: the types that the aggregate
        is likely to have, which saves a round trip.

        Raises HistoryIncomplete, ServerError, Timeout, Closed.
        """
        if self._has_one_copy():
            events = await self._read_directly(aggregate, baseline)
            if events is not None:
                return Tail(events, True)
        pause_s = FIRST_PAUSE_S
        for _ in range(N_READS):
            try:
                events = await self._read(aggregate, baseline, types)
            except _NotContinuedError:
                return Tail((await self.read(aggregate, types=types)).events, False)
            if events is not None and self._wrong(events, baseline) is None:
                return Tail(events, True)
            await asyncio.sleep(pause_s)  # a replica is behind, or a writer has come between two answers
            pause_s *= 2
        events = await self._read_from_leader(aggregate, baseline)
        wrong = self._wrong(events, baseline)
        if wrong is not None:
            raise HistoryIncomplete(self._stream, aggregate, wrong)
        return Tail(events, True)

    async def _read_directly(self, aggregate: str, baseline: Baseline) -> list[Event] | None:
        """Return the events after the baseline, read from a stream with a single copy; None if this was not possible.

        It is not possible if there are no events, or if anything is unusual.
        """
        reading = self._tail_reading(aggregate, baseline, reads_base=baseline.version > 0)
        is_complete = await self._complete(aggregate, reading, self._direct.wait_once)
        if reading.is_foreign:
            self._on_mirror()
        if not is_complete or reading.newest is None:
            return None
        base = reading.base if reading.newest.sequence != baseline.sequence else reading.newest
        if baseline.version and (base is None or base.id != baseline.last_id):
            return None
        return reading.events()

    def _tail_reading(self, aggregate: str, baseline: Baseline, *, reads_base: bool) -> TailReading:
        token = escape_token(aggregate).encode()
        return TailReading(self._stream, aggregate, token, baseline.version, baseline.sequence, reads_base)

    async def _read(self, aggregate: str, baseline: Baseline, types: Iterable[str] | None) -> list[Event] | None:
        """Read once, and return the events after the baseline, in order; None if an answer was not complete.

        Raises _NotContinuedError.
        """
        direct = self._direct
        filter = aggregate_filter(self._stream, aggregate)
        readings = [direct.begin_leader_last(filter)]
        if baseline.version:
            readings.append(direct.begin_at(baseline.sequence))
        try:
            newest = await direct.done(readings[0])
            sequence = newest[0].sequence if newest else 0
            if sequence < baseline.sequence:
                raise _NotContinuedError
            if sequence == baseline.sequence:
                if newest and not self._is_last_of(newest[0], aggregate, baseline):
                    raise _NotContinuedError
                return []
            if baseline.version:
                # A replica that is behind may not have the message yet.
                found = await direct.done(readings[1]) or await direct.done(direct.begin_leader_at(baseline.sequence))
                if not found or not self._is_last_of(found[0], aggregate, baseline):
                    raise _NotContinuedError
        finally:
            for each in readings:
                direct.forget(each)
        events = await self._follow(aggregate, newest[0], baseline)
        return await self._search(aggregate, sequence, baseline, types) if events is None else events

    async def _follow(self, aggregate: str, newest: StoredMessage, baseline: Baseline) -> list[Event] | None:
        """Return the events after the baseline, by the sequences that their messages name; None if these are not all.

        Each is asked for by its sequence, which costs the server a constant time.
        """
        event = self._event(aggregate, newest)
        if event.type == FORGOTTEN:
            return [event]
        reading = self._tail_reading(aggregate, baseline, reads_base=False)
        reading.begin_with(event, newest.headers)
        return reading.events() if await self._complete(aggregate, reading, self._direct.wait) else None

    async def _complete(
        self, aggregate: str, reading: TailReading, wait: Callable[[TailReading], Awaitable[None]]
    ) -> bool:
        """Go on with a read until it is over. Return whether it is complete."""
        while not reading.is_complete:
            if not reading.is_over:
                self._direct.begin(reading)
                await wait(reading)
                continue
            missing = reading.missing()
            if not missing or not await self._fill(aggregate, reading, missing):
                return False
        return True

    async def _fill(self, aggregate: str, reading: TailReading, missing: list[tuple[int, int, int]]) -> bool:
        """Read from the leader what the stream's direct gets did not give. Return whether all of it was found.

        A replica that is behind does not have the message yet, and a mirror may never have it.
        """
        direct = self._direct
        readings = [direct.begin_leader_at(sequence) for _, _, sequence in missing]
        try:
            for (index, version, sequence), each in zip(missing, readings, strict=True):
                found = await direct.done(each)
                if not found or found[0].sequence != sequence or not self._is_of(found[0], aggregate):
                    return False
                event = self._event(aggregate, found[0])
                if event.version != version:
                    return False
                reading.put(index, event, found[0].headers)
        finally:
            for each in readings:
                direct.forget(each)
        return True

    async def _search(
        self, aggregate: str, sequence: int, baseline: Baseline, types: Iterable[str] | None
    ) -> list[Event] | None:
        """Return the events after the baseline, by their subjects; None if an answer was not complete.

        `sequence` is that of the aggregate's last event, as the leader knows it.
        """
        direct, begin = self._direct, baseline.sequence + 1
        readings = [direct.begin_last_of_each(aggregate_filter(self._stream, aggregate), from_sequence=begin)]
        guessed = [self._subject(each, aggregate) for each in types or ()]
        more = [direct.begin_next_of(each, from_sequence=begin, n=MAX_BATCH) for each in guessed]
        try:
            lasts = await self._lasts(readings[0], aggregate_filter(self._stream, aggregate), begin, sequence)
            known: dict[int, StoredMessage] = {}
            for each in more:
                known.update((message.sequence, message) for message in await direct.done(each))
            if not any(each.sequence >= sequence for each in lasts):
                return None  # the replica is behind
            bound = max(each.sequence for each in lasts)
            known = {at: message for at, message in known.items() if at <= bound}
            known.update((each.sequence, each) for each in lasts)
            last = self._event(aggregate, known[bound])
            if last.type == FORGOTTEN:
                return [last]
            n_missing = last.version - baseline.version - len(known)
            if n_missing > 0 and not await self._add_missing(known, lasts, begin, n_missing):
                return None
            return [last if at == bound else self._event(aggregate, known[at]) for at in sorted(known)]
        finally:
            for each in (*readings, *more):
                direct.forget(each)

    async def _lasts(self, reading: Reading, filter: str, begin: int, sequence: int) -> list[StoredMessage]:
        """Return the last message of each of the aggregate's subjects, if it is stored at `begin` or later.

        The server refuses this for more than 1,024 types. Then all messages up to `sequence` are returned, which takes
        the server as long as a look at each message of the stream.
        """
        direct = self._direct
        try:
            lasts = messages = await direct.done(reading)
            while messages and n_left(reading.end):  # the server limits the bytes of an answer
                at = messages[-1].sequence + 1
                reading = direct.begin_last_of_each(filter, from_sequence=at, up_to_sequence=up_to(reading.end))
                messages = await direct.done(reading)
                lasts += messages
        except ServerError as error:
            if error.code != TOO_MANY_SUBJECTS:
                raise
            lasts = []
            while begin <= sequence:
                messages = await direct.done(direct.begin_next_of(filter, from_sequence=begin, n=MAX_BATCH))
                lasts += messages
                if not messages:
                    break
                begin = messages[-1].sequence + 1
        return lasts

    async def _add_missing(
        self, known: dict[int, StoredMessage], lasts: Sequence[StoredMessage], begin: int, n_missing: int
    ) -> bool:
        """Add the messages of each subject before its last one. Return whether all were found.

        At most 64 subjects are read concurrently, so that the answers that are under way are limited.
        """
        direct = self._direct
        # With its last message, a subject has one more than those missing, unless two events have the same version.
        n = min(n_missing + 1, MAX_BATCH)
        for at in range(0, len(lasts), MAX_SUBJECTS):
            part = lasts[at : at + MAX_SUBJECTS]
            waiting = [(each, direct.begin_next_of(each.subject, from_sequence=begin, n=n)) for each in part]
            again: list[tuple[StoredMessage, Reading]] = []
            try:
                while waiting:
                    again = []
                    for last, reading in waiting:
                        messages = await direct.done(reading)
                        known.update((each.sequence, each) for each in messages if each.sequence <= last.sequence)
                        if not messages:
                            return False
                        reached = messages[-1].sequence
                        if reached < last.sequence:
                            if not n_left(reading.end):
                                return False  # this replica does not have the last message yet
                            again.append((last, direct.begin_next_of(last.subject, from_sequence=reached + 1, n=n)))
                    waiting = again
            finally:
                for _, reading in (*waiting, *again):
                    direct.forget(reading)
        return True

    async def _read_from_leader(self, aggregate: str, baseline: Baseline) -> list[Event]:
        """Return the events after the baseline, read message by message from the stream's leader."""
        direct, filter = self._direct, aggregate_filter(self._stream, aggregate)
        newest = await direct.done(direct.begin_leader_last(filter))
        events: list[Event] = []
        at = baseline.sequence
        while newest and at < newest[0].sequence:
            found = await direct.done(direct.begin_leader_next(filter, from_sequence=at + 1))
            if not found:
                break
            at = found[0].sequence
            events.append(self._event(aggregate, found[0]))
        return events[-1:] if events and events[-1].type == FORGOTTEN else events

    # --- messages ----------------------------------------------------------------------------------------------------

    def _subject(self, type: str, aggregate: str) -> str:
        return f"{self._stream}.{escape_token(type)}.{escape_token(aggregate)}"

    def _event(self, aggregate: str, message: StoredMessage) -> Event:
        """Return the event in a message. Raises HistoryIncomplete."""
        at = f"the message with the sequence {message.sequence}"
        try:
            event = stored_event(
                message.payload, self._stream, message.sequence, message.time_ns, message.subject.encode()
            )
        except DecodeError as error:
            raise HistoryIncomplete(self._stream, aggregate, f"{at} is no event: {error}") from error
        if event.version <= 0:
            reason = f"{at} has no version: it was not appended by an event store"
            raise HistoryIncomplete(self._stream, aggregate, reason)
        if event.aggregate != aggregate:
            reason = f"{at} has the aggregate's subject, but its envelope names aggregate {event.aggregate!r}"
            raise HistoryIncomplete(self._stream, aggregate, reason)
        return event

    @staticmethod
    def _is_of(message: StoredMessage, aggregate: str) -> bool:
        """Return whether the message is on a subject of the aggregate.

        The stream's bare subject is none, also if the aggregate has the name of the stream.
        """
        *before, name = message.subject.split(".")
        return len(before) == 2 and name == escape_token(aggregate)

    def _is_last_of(self, message: StoredMessage, aggregate: str, baseline: Baseline) -> bool:
        """Return whether the message is the event that the baseline names."""
        if message.sequence != baseline.sequence or not self._is_of(message, aggregate):
            return False
        event = self._event(aggregate, message)
        return (event.version, event.id) == (baseline.version, baseline.last_id)

    @staticmethod
    def _wrong(events: Sequence[Event], baseline: Baseline) -> str | None:
        """Return what is wrong with the versions of the events; None if each follows the one before."""
        if events and events[-1].type == FORGOTTEN:
            return None
        version, sequence = baseline.version, baseline.sequence
        for event in events:
            found = event.version
            if found == version:
                return f"two events have version {version} (sequences {sequence} and {event.sequence})"
            if found < version:
                return (
                    f"version {found} (sequence {event.sequence}) comes after version {version} (sequence {sequence})"
                )
            if found > version + 1:
                missing = (
                    f"version {version + 1} is"
                    if found == version + 2
                    else f"versions {version + 1} to {found - 1} are"
                )
                return f"{missing} missing before version {found} (sequence {event.sequence})"
            version, sequence = found, event.sequence
        return None


class _NotContinuedError(Exception):
    """The stream does not have the baseline's event at the baseline's sequence."""
