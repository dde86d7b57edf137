"""Forgetting an aggregate: its events and its snapshot are removed, and a tombstone stays.

The order makes it safe to stop anywhere, because `forget` can be called again, also by another process. First the
tombstone is appended; after it, nothing can be appended to the aggregate. Then the events before it are purged. Then a
marker replaces the snapshot, and a writer that is late can't overwrite the marker.
"""

from __future__ import annotations

import asyncio
from time import monotonic, time_ns
from typing import Any

from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import CodecError, ConfigError, ServerError, Timeout
from eda.headers import EXPECTED_FILTER, EXPECTED_SEQUENCE, MSG_ID, TTL
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import Purged, Stream
from eda.jetstream.store_message import store_message
from eda.jetstream.subjects import aggregate_filter, subject_of
from eda.names import FORGOTTEN, SNAPSHOT
from eda.server_codes import CONFLICTS
from eda.store.history import History
from eda.store.snapshot import encode_marker, is_marker
from eda.store.snapshot_stream import SnapshotStream

__all__ = ["Forgetting"]

FORGET_TIMEOUT_S = 30.0  # for the tombstone, while writers are quicker or the server does not answer
SNAPSHOT_TIMEOUT_S = 10.0
PAUSE_S = 0.02
MAX_PAUSE_S = 0.5


class Forgetting:
    """Forgets aggregates of one stream."""

    def __init__(self, api: Api, stream: str, history: History, snapshot_stream: SnapshotStream) -> None:
        self._api = api
        self._stream = stream
        self._history = history
        self._snapshot_stream = snapshot_stream

    async def forget(self, aggregate: str) -> bool:
        """Forget the aggregate. Return False if it has no events: then there is nothing to forget, and nothing changes.

        If this fails or is cancelled, call it again: it goes on where it stopped. If the aggregate was forgotten
        before, no second tombstone is appended, and what an earlier call has left is removed.

        Raises ConfigError if the stream can't be purged, before anything is changed; HistoryIncomplete if the last
        event can't be read or has no version; StreamNotFound, ServerError, Timeout, Closed.
        """
        config = await self._config()
        await self._check_may_purge()
        tombstone = await self._tombstone(aggregate, has_ttl=bool(config.get("allow_msg_ttl")))
        if tombstone is None:
            return False
        version, sequence = tombstone
        await self._purge(self._stream, {"filter": aggregate_filter(self._stream, aggregate), "seq": sequence})
        await self._remove_snapshot(aggregate, version, sequence)
        return True

    async def _config(self) -> dict[str, Any]:
        """Return the stream's configuration. Raises ConfigError if the stream can't be purged."""
        try:
            answer = await self._api.request(f"STREAM.INFO.{self._stream}", schema=Stream)
        except ServerError as error:
            raise stream_error(error, self._stream) from error
        config: dict[str, Any] = answer["config"]
        for setting in ("sealed", "deny_purge"):
            if config.get(setting):
                message = f"stream {self._stream!r} has {setting}, so the events of an aggregate can't be removed"
                raise ConfigError(message, argument="stream")
        return config

    async def _check_may_purge(self) -> None:
        """Purge a subject that no message has. If the user must not purge, the error comes before the tombstone."""
        subject = f"{subject_of(self._stream, FORGOTTEN, 'none')}.none"
        try:
            await self._api.request(f"STREAM.PURGE.{self._stream}", {"filter": subject}, schema=Purged)
        except ServerError as error:
            raise stream_error(error, self._stream) from error

    # --- the tombstone -----------------------------------------------------------------------------------------------

    async def _tombstone(self, aggregate: str, *, has_ttl: bool) -> tuple[int, int] | None:
        """Return version and sequence of the tombstone, which is appended unless it is there; None without events.

        If a writer is quicker, or if an answer is lost, the last event is read again.
        """
        deadline = monotonic() + FORGET_TIMEOUT_S
        pause_s = PAUSE_S
        while True:
            last = await self._history.last(aggregate)
            if last is None:
                return None
            if last.type == FORGOTTEN:
                return last.version, last.sequence
            try:
                version = last.version + 1
                return version, await self._append(aggregate, version, last.sequence, has_ttl=has_ttl)
            except (ServerError, Timeout) as error:
                can_pass = error.retryable or (isinstance(error, ServerError) and error.err_code in CONFLICTS)
                if not can_pass or monotonic() + pause_s > deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _append(self, aggregate: str, version: int, expected: int, *, has_ttl: bool) -> int:
        """Append the tombstone after the event with the sequence `expected`, and return its own sequence."""
        event_id = next_nuid()
        tombstone = Event(type=FORGOTTEN, aggregate=aggregate)
        headers = {
            MSG_ID: event_id,
            EXPECTED_SEQUENCE: str(expected),
            EXPECTED_FILTER: aggregate_filter(self._stream, aggregate),
        }
        if has_ttl:
            headers[TTL] = "never"
        envelope = encode_event(tombstone, event_id, self._api.client, time_ns(), version)
        subject = subject_of(self._stream, FORGOTTEN, aggregate)
        answer = await store_message(self._api.wire, self._stream, subject, envelope, headers, domain=self._api.domain)
        return answer.seq

    # --- what is removed ---------------------------------------------------------------------------------------------

    async def _purge(self, stream: str, which: dict[str, Any]) -> None:
        """Remove messages. It does no harm to ask twice, because `which` names a sequence or a number to be kept."""
        try:
            await self._api.request(f"STREAM.PURGE.{stream}", which, schema=Purged)
        except ServerError as error:
            raise stream_error(error, stream) from error

    async def _remove_snapshot(self, aggregate: str, version: int, sequence: int) -> None:
        """Replace the snapshot by a marker, whoever wrote the snapshot.

        Without a stream of snapshots there is nothing to do: a writer that makes it later looks for the tombstone.
        """
        stream = self._snapshot_stream
        config = await stream.config()
        if config is None:
            return
        marker = encode_marker(aggregate, version=version, sequence=sequence, client=self._api.client)
        is_ours = not stream.fault_of(config)
        deadline = monotonic() + SNAPSHOT_TIMEOUT_S
        while True:
            found = await stream.last(aggregate)
            if found is not None and is_marker(found[0]):
                return
            if not is_ours:
                # The stream holds other messages, or its settings were changed after snapshots were written to it.
                if found is not None and _is_snapshot(found[0]):
                    await self._purge(stream.name, {"filter": stream.subject(aggregate)})
                return
            try:
                await stream.put(aggregate, marker, 0 if found is None else found[1])
                return
            except (ServerError, Timeout) as error:
                can_pass = error.retryable or (isinstance(error, ServerError) and error.err_code in CONFLICTS)
                if not can_pass or monotonic() > deadline:
                    raise
            await asyncio.sleep(PAUSE_S)


def _is_snapshot(envelope: bytes) -> bool:
    try:
        return decode_event(envelope).type == SNAPSHOT
    except CodecError:
        return False
