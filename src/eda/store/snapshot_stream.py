"""The stream `<stream>-snapshots`, which has the latest snapshot of each aggregate, one message for each."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from eda.errors import ConfigError, ServerError
from eda.headers import EXPECTED_SEQUENCE
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api
from eda.jetstream.direct_get import DirectGet
from eda.jetstream.labels import labels
from eda.jetstream.lowering import lowered_stream
from eda.jetstream.schemas import Stream
from eda.jetstream.store_message import store_message
from eda.jetstream.subjects import escape_token, is_covered
from eda.names import MAX_NAME
from eda.options import StreamOptions
from eda.server_codes import (
    MESSAGE_NOT_FOUND,
    STORE_FAILED,
    STREAM_CREATE_FAILED,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
)

__all__ = ["READ_TIMEOUT_S", "SnapshotStream", "check_snapshot_stream_name"]

READ_TIMEOUT_S = 2.0  # a load goes on without the snapshot after this time
MAX_BYTES = 64 * 2**20  # the stream's limit if the account demands one and the store's own stream has none

SUFFIX = "-snapshots"


def check_snapshot_stream_name(stream: str) -> str:
    """Return the name of the stream with the snapshots of `stream`. Raises ConfigError if it is too long."""
    name = f"{stream}{SUFFIX}"
    if len(name) > MAX_NAME:
        raise ConfigError(
            f"snapshot_every: the snapshots would be in the stream {name!r}, whose name has {len(name)} characters, "
            f"and a stream's name has {MAX_NAME} at most. Without snapshot_every, the store needs no such stream",
            argument="snapshot_every",
        )
    return name


class SnapshotStream:
    """The stream with the snapshots of the stream `stream`, whose settings are `options`."""

    def __init__(self, api: Api, stream: str, options: StreamOptions) -> None:
        self._api = api
        self._stream = stream
        self._options = options
        self.name: str = f"{stream}{SUFFIX}"
        self._direct = DirectGet(api, self.name)

    def subject(self, aggregate: str) -> str:
        """Return the subject of the aggregate's snapshot."""
        return f"{self.name}.{escape_token(aggregate)}"

    # --- the stream --------------------------------------------------------------------------------------------------

    async def config(self) -> dict[str, Any] | None:
        """Return the stream's configuration; None if it does not exist. Raises ServerError, Timeout, Closed."""
        if len(self.name) > MAX_NAME:
            return None
        try:
            answer = await self._api.request(f"STREAM.INFO.{self.name}", schema=Stream)
        except ServerError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        config: dict[str, Any] = answer["config"]
        return config

    async def check(self) -> bool:
        """Return whether the stream exists. Raises ConfigError if it exists and can't keep snapshots."""
        config = await self.config()
        if config is None:
            return False
        fault = self.fault_of(config)
        if fault:
            raise ConfigError(
                f"the snapshots of stream {self._stream!r} can't be kept in the stream {self.name!r}: it has {fault}",
                argument="snapshot_every",
            )
        return True

    async def ensure(self) -> None:
        """Create the stream unless it exists. An existing stream is never changed.

        Raises ConfigError if it exists and can't keep snapshots; ServerError, Timeout, Closed.
        """
        if not await self.check() and not await self._create():
            await self.check()  # another client was quicker

    def fault_of(self, config: dict[str, Any]) -> str:
        """Return a text about the first setting that prevents the stream from keeping snapshots; "" if none does."""
        for setting, is_wrong, consequence, remedy in self._faults(config):
            if is_wrong:
                return f"{setting}={config.get(setting)!r}: {consequence}; {remedy} works"
        return ""

    def _faults(self, config: dict[str, Any]) -> list[tuple[str, bool, str, str]]:
        unwritten = "no snapshot can be written to it"
        covers = is_covered(f"{self.name}.x", config.get("subjects") or ())
        # This also refuses a stream of events that has this name by chance: events have no such limit.
        is_other = config.get("max_msgs_per_subject", -1) != 1
        return [
            ("subjects", not covers, unwritten, repr([self.name, f"{self.name}.>"])),
            ("max_msgs_per_subject", is_other, "it keeps more than the latest snapshot of each aggregate", "1"),
            ("discard_new_per_subject", bool(config.get("discard_new_per_subject")), "a snapshot stays", "False"),
            ("retention", config.get("retention", "limits") != "limits", "snapshots vanish", "'limits'"),
            ("no_ack", bool(config.get("no_ack")), "no write is confirmed", "False"),
            ("sealed", bool(config.get("sealed")), unwritten, "False"),
            ("mirror", bool(config.get("mirror")), unwritten, "a stream of its own"),
            ("allow_msg_counter", bool(config.get("allow_msg_counter")), unwritten, "False"),
            ("subject_transform", bool(config.get("subject_transform")), "snapshots are stored elsewhere", "None"),
            ("allow_direct", not config.get("allow_direct"), "loads can't read it", "True"),
        ]

    async def _create(self) -> bool:
        """Create the stream, with settings lowered to the server's limits. Return False if it exists already."""
        deadline = monotonic() + REQUEST_TIMEOUT_S
        options = self._options
        max_bytes = options.max_bytes or MAX_BYTES
        what = f"snapshots of the aggregates in stream {self._stream!r}"
        config = {
            "name": self.name,
            "subjects": [self.name, f"{self.name}.>"],
            "retention": "limits",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "storage": options.storage,
            "num_replicas": options.replicas,
            "compression": options.compression or "none",
        } | labels("snapshots", client=self._api.client, what=what)
        while True:
            try:
                await self._api.request(f"STREAM.CREATE.{self.name}", config)
                return True
            except ServerError as error:
                if error.err_code == STREAM_NAME_IN_USE:
                    return False
                lowered = lowered_stream(config, error, max_bytes=max_bytes)
                if lowered is not None and lowered != config:
                    config = lowered
                    continue
                # A stream of that name was just deleted, and the server is still removing its directory.
                is_being_removed = error.err_code in (STREAM_CREATE_FAILED, STORE_FAILED) and error.code == 500
                if not is_being_removed or monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    # --- messages ----------------------------------------------------------------------------------------------------

    async def last(self, aggregate: str) -> tuple[bytes, int] | None:
        """Return payload and sequence of the message on the aggregate's subject, as the leader has it.

        Return None if there is no message or no stream. Raises ServerError, Timeout, Closed.
        """
        query = {"last_by_subj": self.subject(aggregate)}
        try:
            found = await self._api.message(self.name, query, patience_s=READ_TIMEOUT_S)
        except ServerError as error:
            if error.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                return None
            raise
        return found.data, found.seq

    async def last_of_any_replica(self, aggregate: str) -> tuple[bytes, int] | None:
        """Return what `last` returns, as some replica has it; it may be behind.

        Raises ServerError, Timeout, Closed; if there is no stream, after 10 s.
        """
        await self._direct.open()
        messages = await self._direct.done(self._direct.begin_last(self.subject(aggregate)))
        return (messages[0].payload, messages[0].sequence) if messages else None

    async def put(self, aggregate: str, envelope: bytes, expected: int) -> int:
        """Replace the message on the aggregate's subject, and return the sequence of the new message.

        `expected` is the sequence of the message that it replaces, 0 if there is none. Raises what `store_message`
        raises: a ServerError whose `err_code` is in `CONFLICTS` if another message is the last one.
        """
        subject, headers = self.subject(aggregate), {EXPECTED_SEQUENCE: str(expected)}
        answer = await store_message(self._api.wire, self.name, subject, envelope, headers, domain=self._api.domain)
        return answer.seq
