"""The administration of streams: `conn.streams`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Unpack, overload

from msgspec import Struct

from eda.errors import ConfigError, NotSupported, ServerError, StreamNotFound
from eda.jetstream.api import ATTEMPT_TIMEOUT_S, REQUEST_TIMEOUT_S, Api, stream_error
from eda.jetstream.labels import labels, labels_of, with_marks
from eda.jetstream.listing import every_stream
from eda.jetstream.lowering import lowered_stream
from eda.jetstream.pack_mark import check_stays_packed
from eda.jetstream.partial_purge import check_partial_purge
from eda.jetstream.schemas import Purged, Stream
from eda.jetstream.store_mark import check_all_have_versions, check_can_hold_store
from eda.jetstream.stream_info import StreamInfo, info_of
from eda.jetstream.subjects import aggregate_filter, check_stream_name, stream_subjects
from eda.options import StreamKeywords, StreamOptions, check_known
from eda.server_codes import MAX_BYTES_REQUIRED, STORE_FAILED, STREAM_CREATE_FAILED, STREAM_NAME_IN_USE
from eda.times import NS

__all__ = ["StreamInfo", "Streams", "count_on_subject", "stream_created"]

DEFAULT_WINDOW_S = StreamOptions().dedup_window_s

# The server's word for a setting > eda's.
_OPTION_OF = {
    "storage": "storage",
    "num_replicas": "replicas",
    "max_age": "max_age_s",
    "max_bytes": "max_bytes",
    "max_msgs": "max_events",
    "duplicate_window": "dedup_window_s",
    "compression": "compression",
    "discard": "discard",
    "allow_atomic": "atomic",
    "allow_batched": "fast_ingest",
}

_SCHEMAS: dict[str, type[Struct]] = {"INFO": Stream, "UPDATE": Stream, "PURGE": Purged}


class Streams:
    """The connection's streams: `conn.streams`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._changed: list[Callable[[str, StreamInfo | None], None]] = []

    def when_changed(self, call: Callable[[str, StreamInfo | None], None]) -> None:
        """Call `call(name, info)` whenever this connection updates a stream; with None as `info` if it deletes one."""
        self._changed.append(call)

    async def info(self, name: str) -> StreamInfo:
        """Return the stream as it is now. Raises StreamNotFound."""
        name = check_stream_name(name)
        return info_of(await self._request("INFO", name))

    async def list(self) -> list[StreamInfo]:
        """Return all streams, sorted by name. Raises Timeout after 60 s.

        In a cluster, streams whose servers don't answer are left out, and the log names them.
        """
        streams = [info_of(each) async for each in every_stream(self._api)]
        return sorted(streams, key=lambda each: each.name)

    async def create(self, name: str, options: StreamOptions | None = None) -> StreamInfo:
        """Create the stream and return it. If it exists with the same settings, return it.

        If the server limits duplicate windows, the stream gets a shorter window than the default. Raises ServerError
        (err_code 10058) if the stream exists with other settings, and NotSupported if the server lacks `atomic`,
        `fast_ingest` or what an event `store` needs, and the options demand it.
        """
        name = check_stream_name(name)
        # `update` does not change these settings. A stream that another tool created may need its own values.
        fixed = {"name": name, "subjects": stream_subjects(name), "retention": "limits", "allow_direct": True}
        options = options or StreamOptions()
        label = labels("stream", client=self._api.client, what=f"stream {name!r}")
        label["metadata"] = with_marks(label["metadata"], store=options.store, packed=options.packed)
        config = fixed | label | self._to_settings(options) | self._settings_of_store(options)
        is_relabelled = False
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                return info_of(await self._api.request(f"STREAM.CREATE.{name}", config, schema=Stream))
            except ServerError as error:
                # A shorter window is safe, because eda limits the time-out of a publish to half of the window.
                lowered = lowered_stream(config, error) if options.dedup_window_s <= DEFAULT_WINDOW_S else None
                if lowered is not None:
                    config = lowered
                    continue
                if error.err_code == STREAM_NAME_IN_USE and not is_relabelled:
                    # The server compares labels as well. Perhaps only the labels differ, so try again with the
                    # labels of the existing stream.
                    is_relabelled = True
                    theirs = labels_of((await self._request("INFO", name))["config"])
                    theirs["metadata"] = with_marks(theirs["metadata"], store=options.store, packed=options.packed)
                    config = config | theirs
                    continue
                if error.err_code == MAX_BYTES_REQUIRED:
                    raise _with_hint(error) from error
                # A stream of that name was just deleted, and the server is still removing its directory.
                gone = error.err_code in (STREAM_CREATE_FAILED, STORE_FAILED)
                if not gone or error.code != 500 or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    async def ensure(self, name: str, options: StreamOptions, *, create: bool) -> StreamInfo:
        """Return the stream, which is never changed. With `create`, create it with `options` if it does not exist."""
        try:
            return await self.info(name)
        except StreamNotFound:
            if not create:
                raise
        try:
            return await self.create(name, options)
        except ServerError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
            return await self.info(name)  # another client was quicker

    @overload
    async def update(self, name: str, options: StreamOptions) -> StreamInfo: ...
    @overload
    async def update(self, name: str, options: None = None, **changes: Unpack[StreamKeywords]) -> StreamInfo: ...
    async def update(self, name: str, options: StreamOptions | None = None, **changes: Any) -> StreamInfo:
        """Change settings of a stream, and return it.

        Give single settings as keywords, which are fields of StreamOptions; all others stay. Or give StreamOptions,
        which replaces all settings that it has. A `max_age_s` below the duplicate window also lowers the window.

        `store=True` marks the stream for event stores (`Conn.store`). First all messages of the stream are read, some
        100,000 per second, because each event must have a version: an event store appended it. Messages on the
        stream's own subject need none. Programs that have published to the stream before look at it every 30 s. Until
        they have seen the mark, they can still publish to it. `store=False` removes the mark, and event stores then
        refuse the stream. If others publish to it, it can't be marked again.

        `packed` can't be changed: it is set when a stream is created.

        Raises ConfigError for an unknown setting, for both ways at once, for settings that an event store does not
        allow, for StreamOptions without `store` if the stream is marked, for a stream that can't be marked, and for a
        change of `packed`; it says why. Raises StreamNotFound, NotSupported, ServerError.
        """
        name = check_stream_name(name)
        if options is not None and not isinstance(options, StreamOptions):
            raise ConfigError(f"options must be StreamOptions, not {options!r}", argument="options")
        if (options is None) == (not changes):
            both = "either a StreamOptions or single settings" if changes else "at least one setting to change"
            raise ConfigError(f"update takes {both}", argument="options")
        check_known(StreamOptions, changes, "setting")
        # These raise ConfigError for a wrong value before a request is sent.
        replace(StreamOptions(), **{key: value for key, value in changes.items() if key != "store"})
        StreamOptions(store=changes.get("store", False), packed=changes.get("packed", False))
        answer = await self._request("INFO", name)
        config: dict[str, Any] = answer["config"]
        before = info_of(answer).options
        if options is not None or "packed" in changes:
            check_stays_packed(name, before, changes["packed"] if options is None else options.packed)
        if options is None:
            options = replace(before, **changes)
            config |= self._changed_settings(before, options, changes)
        elif before.store and not options.store:
            message = (
                f"stream {name!r} belongs to event stores, and options without store=True would change that: give "
                "StreamOptions(store=True, ...) or single settings; store=False alone removes the mark"
            )
            raise ConfigError(message, argument="store")
        else:
            config |= self._to_settings(options)
        if options.store and not before.store:
            info = await self._mark(name, answer, options)
        else:
            config["metadata"] = with_marks(config.get("metadata"), store=options.store, packed=options.packed)
            info = info_of(await self._request("UPDATE", name, config))
        self._tell(name, info)
        return info

    async def _mark(self, name: str, answer: dict[str, Any], options: StreamOptions) -> StreamInfo:
        """Mark a stream, whose settings are those in `answer`. Raises ConfigError if it can't hold an event store."""
        config: dict[str, Any] = answer["config"]
        unmarked = dict(config)
        config |= self._settings_of_store(options)
        config["metadata"] = with_marks(config.get("metadata"), store=True, packed=False)
        check_can_hold_store(info_of(answer))
        checked = await check_all_have_versions(self._api, name)
        info = info_of(await self._request("UPDATE", name, config))
        try:
            # Somebody may have published while the events were read.
            await check_all_have_versions(self._api, name, from_sequence=checked + 1)
        except ConfigError:
            await self._request("UPDATE", name, unmarked | {"allow_msg_ttl": info.allow_msg_ttl})
            raise
        return info

    def _changed_settings(self, before: StreamOptions, after: StreamOptions, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the changed settings under the server's names."""
        named = {each.name for each in fields(StreamOptions) if each.name in changes}
        if after.dedup_window_s < before.dedup_window_s:
            named.add("dedup_window_s")  # the window can't be longer than max_age_s
        return {key: value for key, value in self._to_settings(after).items() if _OPTION_OF.get(key) in named}

    def _tell(self, name: str, info: StreamInfo | None) -> None:
        for call in self._changed:
            call(name, info)

    async def purge(
        self, name: str, *, before: int | None = None, keep: int | None = None, aggregate: str | None = None
    ) -> int:
        """Remove events, and return the number of messages that were removed. Without options, remove all events.

        `before`: only events before this sequence. `keep`: all but the last ones, so many. A pack counts as one event.
        `aggregate`: only events of this aggregate. At most one of `before` and `keep` can be given.

        Raises ConfigError: for a wrong value; for a part of an event store's stream, because an aggregate needs all its
        events; and for an aggregate in a stream that is packed or has subjects of its own. Raises StreamNotFound,
        ServerError, Timeout, Closed.
        """
        name = check_stream_name(name)
        body: dict[str, Any] = {}
        if before is not None and keep is not None:
            raise ConfigError("before and keep can't be combined", argument="keep")
        for option, key, value in (("before", "seq", before), ("keep", "keep", keep)):
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
                raise ConfigError(f"{option} must be an int from 1, or None, not {value!r}", argument=option)
            body[key] = value
        if aggregate is not None:
            body["filter"] = aggregate_filter(name, aggregate)
        if body:
            check_partial_purge(await self.info(name), before=before, keep=keep, aggregate=aggregate)
        answer = await self._request("PURGE", name, body or None)
        return int(answer.get("purged", 0))

    async def delete(self, name: str) -> None:
        """Delete the stream and all its events. Raises StreamNotFound."""
        name = check_stream_name(name)
        await self._request("DELETE", name)
        self._tell(name, None)

    async def _request(self, verb: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            # PURGE and DELETE must not be sent twice: a second purge would remove later events, and a second deletion
            # would find no stream.
            patience_s = REQUEST_TIMEOUT_S if verb in ("PURGE", "DELETE") else ATTEMPT_TIMEOUT_S
            schema = _SCHEMAS.get(verb)
            return await self._api.request(f"STREAM.{verb}.{name}", body, attempt_timeout_s=patience_s, schema=schema)
        except ServerError as error:
            raise stream_error(error, name) from error

    def _to_settings(self, options: StreamOptions) -> dict[str, Any]:
        server = f"nats-server {self._api.wire.server_version}"
        if options.atomic and not self._api.has_atomic:
            raise NotSupported("atomic batches", needs="nats-server 2.12 or later", server=server)
        if options.fast_ingest and not self._api.has_fast_ingest:
            raise NotSupported("fast-ingest batches", needs="nats-server 2.14 or later", server=server)
        max_age_ns = int(options.max_age_s * NS) if options.max_age_s else 0
        dedup_ns = int(options.dedup_window_s * NS)
        settings: dict[str, Any] = {
            "storage": options.storage,
            "num_replicas": options.replicas,
            "max_age": max_age_ns,
            "max_bytes": options.max_bytes if options.max_bytes is not None else -1,
            "max_msgs": options.max_events if options.max_events is not None else -1,
            # The server refuses a window that is longer than max_age.
            "duplicate_window": min(dedup_ns, max_age_ns) if max_age_ns else dedup_ns,
            "compression": options.compression or "none",
            "discard": options.discard,
        }
        if self._api.has_atomic:
            settings["allow_atomic"] = options.atomic is not False
        if self._api.has_fast_ingest:
            settings["allow_batched"] = options.fast_ingest is not False
        return settings

    def _settings_of_store(self, options: StreamOptions) -> dict[str, Any]:
        """Return the settings that a stream for event stores has in addition. Raises NotSupported."""
        if not options.store:
            return {}
        self._api.check_has_expectations()
        return {"allow_msg_ttl": True}


def _with_hint(error: ServerError) -> ServerError:
    hint = "set max_bytes in StreamOptions(max_bytes=...), for streams that eda creates: connect(stream_defaults=...)"
    return ServerError(error.code, error.err_code, f"{error.description}: {hint}", operation=error.operation)


async def count_on_subject(api: Api, name: str, subject: str) -> tuple[StreamInfo, int]:
    """Return the stream, and the number of its messages on one subject. Raises StreamNotFound, ServerError."""
    try:
        answer = await api.request(f"STREAM.INFO.{name}", {"subjects_filter": subject}, schema=Stream)
    except ServerError as error:
        raise stream_error(error, name) from error
    return info_of(answer), (answer["state"].get("subjects") or {}).get(subject, 0)


async def stream_created(api: Api, stream: str) -> str:
    """Return the stream's creation time as the unchanged text of the server.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    try:
        created: str = (await api.request(f"STREAM.INFO.{stream}", schema=Stream))["created"]
    except ServerError as error:
        raise stream_error(error, stream) from error
    return created
