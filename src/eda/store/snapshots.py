"""Snapshots: the states of aggregates, kept so that a load need not fold all events. They are a cache.

A snapshot that is missing or can't be used costs time, but nothing else. So no failure here reaches a load or an
append. Each kind of failure is logged once for each store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any, Generic, Protocol, TypeVar

from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import Closed, CodecError, ConfigError, EdaError, ServerError
from eda.jetstream.api import Api
from eda.jetstream.store_message import is_too_large
from eda.jetstream.subjects import aggregate_filter
from eda.log import with_fields
from eda.names import FORGOTTEN
from eda.receipt import Receipt
from eda.server_codes import CONFLICTS, FORBIDDEN, MESSAGE_NOT_FOUND, STREAM_NOT_FOUND
from eda.store._cache import Cached
from eda.store.snapshot import (
    Snapshot,
    UnusableSnapshot,
    check_snapshot,
    encode_marker,
    is_marker,
    read_snapshot,
    snapshot_event,
)
from eda.store.snapshot_stream import READ_TIMEOUT_S, SnapshotStream
from eda.store.state_codec import StateCodec, UnfitState

__all__ = ["Snapshots", "StoreHooks"]

S = TypeVar("S")

MAX_WRITERS = 4
MAX_WAITING = 64  # snapshots that wait for a writer; each is held as bytes
MAX_SEQUENCES = 4096
MAX_REPORTED = 1000  # aggregates of whose snapshots the log has told
MAX_UNFIT = 1000  # aggregates whose states can't be kept in a snapshot
MAX_TRIES = 4
CONFLICT_PAUSE_S = 0.05  # another write of the same snapshot is under way
TROUBLE_PAUSE_S = 5.0  # no reads, or no writes, for this long after one has failed


class StoreHooks(Protocol):
    """The hooks of middleware around an event store."""

    async def append(
        self, stream: str, events: Sequence[Event], store: Callable[[list[Event]], Coroutine[Any, Any, list[Receipt]]]
    ) -> list[Receipt]:
        """Run the publish hooks, and `store` with the events as the hooks have passed them on."""

    async def loaded(self, events: Sequence[Event]) -> list[Event]:
        """Run the load hooks, and return the events as the hooks have returned them."""


@dataclass(eq=False, slots=True)
class _Write:
    """A snapshot that is to be written, and the cached aggregate from which it was made."""

    aggregate: str
    event: Event
    cached: Cached
    version: int
    expected: int


class Snapshots(Generic[S]):
    """The snapshots of one store's aggregates.

    A snapshot is due after `every` events. `snapshot_version` is the decider's. `codec` writes and reads the states.
    `hooks` are run for snapshots, too: a snapshot is an event that is published to the stream of the snapshots. The
    writers are put into `under_way` until they are done: closing the connection waits for them.
    """

    def __init__(
        self,
        api: Api,
        logger: logging.Logger,
        stream: str,
        snapshot_stream: SnapshotStream,
        *,
        snapshot_version: str,
        codec: StateCodec,
        every: int = 1,
        hooks: StoreHooks | None = None,
        under_way: set[asyncio.Future[None]] | None = None,
    ) -> None:
        self._api = api
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._snapshot_stream = snapshot_stream
        self._snapshot_version = snapshot_version
        self._codec = codec
        self._every = every
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._logged: set[str] = set()
        self._unfit: OrderedDict[str, int] = OrderedDict()  # the version from which the next snapshot is tried
        self._reported: OrderedDict[str, None] = OrderedDict()  # by `report_unrelated`, the oldest first
        self._has_stream = False  # whether the stream exists and is fit, as far as is known
        self._is_off = False
        self._no_reads_before = 0.0  # the loop's time
        self._no_writes_before = 0.0
        self._waiting: dict[str, _Write] = {}  # by aggregate, the oldest first
        self._writing: set[str] = set()
        self._sequences: OrderedDict[str, int] = OrderedDict()  # of the snapshots written last, by aggregate
        self._writers: set[asyncio.Task[None]] = set()
        self._under_way: set[asyncio.Future[None]] = set() if under_way is None else under_way

    async def check(self) -> None:
        """Check the stream of the snapshots, if it exists. Raises ConfigError if it can't keep them."""
        try:
            self._has_stream = await self._snapshot_stream.check()
        except ServerError as error:
            if error.code != FORBIDDEN:
                raise
            self._warn("forbidden", "its snapshots can't be checked: %s", error)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self, aggregate: str) -> Snapshot[S] | None:
        """Return the aggregate's snapshot; None if there is none that this store can use. Raises no error of eda.

        The snapshot may be older than the latest one. The caller must check whether the stream still has the
        event after which the snapshot was made.
        """
        if self._is_off or self._loop.time() < self._no_reads_before:
            return None
        try:
            if self._has_stream:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    found = await self._snapshot_stream.last_of_any_replica(aggregate)
            else:
                found = await self._snapshot_stream.last(aggregate)
                if found is not None:
                    await self._check_quietly()
        except ConfigError:
            return None  # the aggregate's name can't be sent, and the read of its events says so
        except (EdaError, TimeoutError) as error:
            if not isinstance(error, Closed):
                self._has_stream = False  # perhaps somebody has deleted the stream
                self._no_reads_before = self._loop.time() + TROUBLE_PAUSE_S
                why = error if str(error) else f"no answer within {READ_TIMEOUT_S:g} s"
                self._warn("read", "reading a snapshot failed, and loads go on without snapshots: %s", why)
            return None
        if found is None or self._is_off:
            return None
        try:
            return await self._usable(aggregate, *found)
        except UnusableSnapshot as unusable:
            if not unusable.is_marker:
                text = "the snapshot of aggregate %s is not used, and a new one replaces it: %s"
                self._warn(unusable.kind, text, aggregate, unusable)
            return None

    def report_unrelated(self, aggregate: str) -> None:
        """Log, once for each aggregate, that its snapshot was not made from the events that the stream has now."""
        if aggregate in self._reported:
            return
        if len(self._reported) >= MAX_REPORTED:
            self._reported.popitem(last=False)
        self._reported[aggregate] = None
        self._logger.warning(
            "event store of stream %s: the snapshot of aggregate %s is not of its history, and is not used; "
            "the next snapshot replaces it",
            self._stream,
            aggregate,
        )

    async def _check_quietly(self) -> None:
        """Check the stream, which was made after the store was opened. If it is not fit, use no snapshots."""
        try:
            await self.check()
        except ConfigError as error:
            self._is_off = True
            self._warn("unfit", "%s", error)

    async def _usable(self, aggregate: str, envelope: bytes, sequence: int) -> Snapshot[S]:
        """Return the snapshot in a message. Raises UnusableSnapshot."""
        event = check_snapshot(envelope, aggregate)
        if self._hooks is not None:
            try:
                (event,) = await self._hooks.loaded([event])
            except Exception as error:  # whatever a hook raises
                raise UnusableSnapshot("hook", f"a hook of middleware has refused it: {error!r}") from error
        version = self._snapshot_version
        return read_snapshot(event, self._codec, snapshot_version=version, subject_sequence=sequence)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write_soon(self, aggregate: str, cached: Cached) -> None:
        """Write a snapshot of the cached aggregate in the background. The state is encoded before this returns.

        `cached` must come from a fold without gaps. Its `snapshot_version` becomes its version at once, whether the
        write succeeds or not: so a failed write is repeated after as many events as usual. When the snapshot is
        written, `snapshot_sequence` becomes its sequence.

        If many snapshots wait, the one that has waited longest is given up.
        """
        if self._is_off or self._loop.time() < self._no_writes_before:
            return
        if self._unfit and cached.version < self._unfit.get(aggregate, 0):
            return
        cached.snapshot_version = cached.version
        snapshot = Snapshot(cached.state, cached.version, cached.sequence, cached.last_id, cached.commands)
        try:
            data = self._codec.encode(cached.state)
        except UnfitState as unfit:
            self._warn("state", "the state of aggregate %s can't be kept in a snapshot: %s", aggregate, unfit)
            self._note_unfit(aggregate, cached.version)
            return
        event = snapshot_event(aggregate, snapshot, data, snapshot_version=self._snapshot_version)
        self._waiting.pop(aggregate, None)
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        # The store has replaced the cached aggregate since the last write, so it may not have that write's sequence.
        expected = max(cached.snapshot_sequence, self._sequences.get(aggregate, 0))
        self._waiting[aggregate] = _Write(aggregate, event, cached, cached.version, expected)
        if len(self._writers) < MAX_WRITERS:
            writer = self._loop.create_task(self._write_all())
            self._writers.add(writer)
            self._under_way.add(writer)
            writer.add_done_callback(self._writers.discard)
            writer.add_done_callback(self._under_way.discard)

    async def flush(self, timeout_s: float) -> None:
        """Wait for the writes under way, `timeout_s` at most."""
        if self._writers:
            await asyncio.wait(self._writers, timeout=timeout_s)

    def _next(self) -> _Write | None:
        """Return the write that has waited longest and may begin; an aggregate has one write at a time."""
        for aggregate in self._waiting:
            if aggregate not in self._writing:
                return self._waiting.pop(aggregate)
        return None

    async def _write_all(self) -> None:
        while (write := self._next()) is not None:
            self._writing.add(write.aggregate)
            try:
                await self._write(write)
            except Closed:
                return
            except Exception as error:
                self._report(write, error)
            finally:
                self._writing.discard(write.aggregate)

    def _report(self, write: _Write, error: Exception) -> None:
        has_long_name = isinstance(error, ConfigError) and error.argument == "aggregate"
        if has_long_name or is_too_large(error):
            self._note_unfit(write.aggregate, write.version)
            text = "the snapshot of aggregate %.100s is too large to be stored: %s"
            self._warn("name" if has_long_name else "large", text, write.aggregate, error)
            return
        self._no_writes_before = self._loop.time() + TROUBLE_PAUSE_S
        kind = f"write {type(error).__name__} {getattr(error, 'err_code', '')}"
        self._warn(kind, "writing the snapshot of aggregate %s failed: %s", write.aggregate, error)

    def _note_unfit(self, aggregate: str, version: int) -> None:
        """Note that the state can't be kept, so that not every load tries it again: it finds no snapshot."""
        self._unfit.pop(aggregate, None)
        if len(self._unfit) >= MAX_UNFIT:
            self._unfit.popitem(last=False)
        self._unfit[aggregate] = version + self._every

    async def _write(self, write: _Write) -> None:
        if not self._has_stream:
            await self._snapshot_stream.ensure()
            self._has_stream = True
        if self._hooks is None:
            await self._store(write, write.event)
            return

        async def store(events: list[Event]) -> list[Receipt]:
            (event,) = events
            return [Receipt(event.id, self._snapshot_stream.name, await self._store(write, event))]

        await self._hooks.append(self._snapshot_stream.name, [write.event], store)

    async def _store(self, write: _Write, event: Event) -> int:
        """Store the snapshot's event. Return the sequence; 0 if it is given up because of what is stored already."""
        envelope = encode_event(event, event.id or next_nuid(), self._api.client, time_ns(), write.version)
        expected = write.expected
        for _ in range(MAX_TRIES):
            try:
                sequence = await self._snapshot_stream.put(write.aggregate, envelope, expected)
            except ServerError as error:
                if error.code == 503 and not error.err_code:  # no responders: perhaps somebody has deleted the stream
                    await self._snapshot_stream.ensure()
                elif error.err_code in CONFLICTS:
                    found = await self._replaceable(write)
                    if found is None:
                        return 0
                    expected = found
                else:
                    raise
                await asyncio.sleep(CONFLICT_PAUSE_S)
                continue
            self._note(write, sequence)
            if expected == 0:
                await self._undo_if_forgotten(write.aggregate, sequence)
            return sequence
        return 0

    def _note(self, write: _Write, sequence: int) -> None:
        """Note the sequence of a snapshot that was written, which the aggregate's next snapshot replaces."""
        write.cached.snapshot_sequence = max(write.cached.snapshot_sequence, sequence)
        self._sequences.pop(write.aggregate, None)
        if len(self._sequences) >= MAX_SEQUENCES:
            self._sequences.popitem(last=False)
        self._sequences[write.aggregate] = sequence

    async def _replaceable(self, write: _Write) -> int | None:
        """Return the sequence of the message that the write has to replace, 0 if there is none; None to give up.

        The write is given up if the aggregate was forgotten, and if there is a snapshot that is as new.
        """
        found = await self._snapshot_stream.last(write.aggregate)
        if found is None:
            return 0
        envelope, sequence = found
        if is_marker(envelope):
            return None
        try:
            snapshot = await self._usable(write.aggregate, envelope, sequence)
        except UnusableSnapshot:
            return sequence
        if snapshot.version >= write.version and await self._fits_stream(snapshot):
            return None
        return sequence

    async def _fits_stream(self, snapshot: Snapshot[S]) -> bool:
        """Return whether the stream has the event after which the snapshot was made. A restored stream may not."""
        try:
            message = await self._api.message(self._stream, {"seq": snapshot.sequence})
            event = decode_event(message.data)
        except ServerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return False
            raise
        except CodecError:
            return False
        return event.id == snapshot.last_id

    async def _undo_if_forgotten(self, aggregate: str, sequence: int) -> None:
        """Replace a first snapshot by a marker if its aggregate was forgotten before the snapshot was written.

        `forget` leaves no marker where no stream of snapshots exists, and an operator may have removed the marker.
        """
        query = {"last_by_subj": aggregate_filter(self._stream, aggregate)}
        try:
            last = await self._api.message(self._stream, query)
        except ServerError as error:
            if error.err_code in (MESSAGE_NOT_FOUND, STREAM_NOT_FOUND):
                return
            raise
        try:
            event = decode_event(last.data)
        except CodecError:
            return
        if event.type == FORGOTTEN:
            marker = encode_marker(aggregate, version=event.version, sequence=last.seq, client=self._api.client)
            await self._snapshot_stream.put(aggregate, marker, sequence)

    # --- the log -----------------------------------------------------------------------------------------------------

    def _warn(self, kind: str, text: str, *arguments: Any) -> None:
        if kind not in self._logged:
            self._logged.add(kind)
            self._logger.warning("event store of stream %s: %s", self._stream, text % arguments)
