"""The administration of streams: `conn.streams`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Unpack, overload

from msgspec import Struct

from eda.errors import ConfigError, NotSupported, ServerError, StreamNotFound, Timeout
from eda.jetstream.api import ATTEMPT_TIMEOUT_S, REQUEST_TIMEOUT_S, Api, stream_error
from eda.jetstream.labels import labels, labels_of
from eda.jetstream.lowering import lowered_stream
from eda.jetstream.schemas import Purged, Stream, StreamPage, nanoseconds
from eda.jetstream.subjects import check_stream_name, is_covered, overlaps, stream_subjects
from eda.options import StreamKeywords, StreamOptions, check_known
from eda.server_codes import MAX_BYTES_REQUIRED, STORE_FAILED, STREAM_CREATE_FAILED, STREAM_NAME_IN_USE
from eda.times import NS

__all__ = [
    "LIST_TIMEOUT_S",
    "StreamInfo",
    "Streams",
    "check_takes_events",
    "check_takes_subject",
    "count_on_subject",
    "stream_created",
]

LIST_TIMEOUT_S = 60.0

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


@dataclass(frozen=True)
class StreamInfo:
    """A stream as the server describes it.

    `events` and `bytes`: how much it stores. `created`: when it was created. `subjects`: the subjects to which it
    listens. `options`: its settings, as far as StreamOptions has them; `Streams.update` leaves all others untouched.
    `atomic` and `fast_ingest`: whether the stream accepts atomic and fast-ingest batches.

    The fields from `retention` onwards are settings that only other tools change. `retention`: `limits`, `interest` or
    `workqueue`. `mirror`: the stream of which this one is a copy, or None. `sources`: the streams that are copied into
    this one. `subject_transform`: the pattern to which the stream changes subjects; None: it does not change them.
    `no_ack`: the stream never acknowledges a publish. `sealed`: nothing can be stored or removed. `deny_delete`:
    single events can't be removed. `deny_purge`: the stream can't be purged. `max_events_per_subject`,
    `max_event_bytes` and `max_consumers`: limits; None: no limit.

    `last_time_ns`: when the last event was stored, in nanoseconds since 1970; 0 if no event was ever stored.
    """

    name: str
    events: int
    bytes: int
    first_sequence: int
    last_sequence: int
    created: datetime
    subjects: tuple[str, ...]
    options: StreamOptions
    atomic: bool
    fast_ingest: bool
    retention: str = "limits"
    mirror: str | None = None
    sources: tuple[str, ...] = ()
    subject_transform: str | None = None
    no_ack: bool = False
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    max_events_per_subject: int | None = None
    max_event_bytes: int | None = None
    max_consumers: int | None = None
    last_time_ns: int = 0


def check_takes_events(info: StreamInfo) -> bool:
    """Return whether the stream listens to the subjects of all events. If not, check each with `check_takes_subject`.

    Raises ConfigError if nothing can be published to the stream, or if the stream acknowledges nothing.
    """
    name = info.name
    if info.mirror is not None:
        why = f"it is a mirror of stream {info.mirror!r}: publish to that one"
    elif info.sealed:
        why = "it is sealed: nothing can be stored in it any more"
    elif info.no_ack:
        why = "it has no_ack: it acknowledges nothing, so nobody would learn whether an event is stored"
    elif not any(overlaps(subject, f"{name}.*.*") for subject in info.subjects):
        why = f"it does not listen to {name}.<type>.<aggregate>, the subjects of its events; {_listens_to(info)}"
    else:
        return is_covered(f"{name}.*.*", info.subjects)
    raise ConfigError(f"stream {name!r} takes no events: {why}", argument="stream")


def check_takes_subject(info: StreamInfo, subject: str) -> None:
    """Raise ConfigError unless the stream listens to an event's subject."""
    if not is_covered(subject, info.subjects):
        message = f"stream {info.name!r} takes no event with this type and aggregate: it does not listen to {subject!r}"
        raise ConfigError(f"{message}; {_listens_to(info)}", argument="type")


def _listens_to(info: StreamInfo) -> str:
    if info.subjects:
        return f"it listens to {', '.join(info.subjects)}"
    return f"it listens to no subject, and is filled from {', '.join(info.sources) or 'nowhere'}"


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
        return _to_info(await self._request("INFO", name))

    async def list(self) -> list[StreamInfo]:
        """Return all streams, sorted by name. Raises Timeout after 60 s."""
        streams: dict[str, StreamInfo] = {}
        n_seen = 0
        deadline = time.monotonic() + LIST_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = await self._api.request("STREAM.LIST", {"offset": n_seen}, schema=StreamPage)
            page = answer.get("streams") or []
            n_seen += len(page)
            n_known = len(streams)
            for each in page:
                info = _to_info(each)
                streams[info.name] = info
            if n_seen >= answer.get("total", 0) or len(streams) == n_known:
                return [streams[name] for name in sorted(streams)]
        raise Timeout("listing the streams", LIST_TIMEOUT_S)

    async def create(self, name: str, options: StreamOptions | None = None) -> StreamInfo:
        """Create the stream and return it. If it exists with the same settings, return it.

        If the server limits duplicate windows, the stream gets a shorter window than the default. Raises ServerError
        (err_code 10058) if the stream exists with other settings, and NotSupported if the server lacks `atomic` or
        `fast_ingest` and the options demand it.
        """
        name = check_stream_name(name)
        # `update` does not change these settings. A stream that another tool created may need its own values.
        fixed = {"name": name, "subjects": stream_subjects(name), "retention": "limits", "allow_direct": True}
        options = options or StreamOptions()
        label = labels("stream", client=self._api.client, what=f"stream {name!r}")
        config = fixed | label | self._to_settings(options)
        is_relabelled = False
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                return _to_info(await self._api.request(f"STREAM.CREATE.{name}", config, schema=Stream))
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
                    config = config | labels_of((await self._request("INFO", name))["config"])
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

        Raises ConfigError for an unknown setting, or for both ways at once; StreamNotFound, NotSupported, ServerError.
        """
        name = check_stream_name(name)
        if options is not None and not isinstance(options, StreamOptions):
            raise ConfigError(f"options must be StreamOptions, not {options!r}", argument="options")
        if (options is None) == (not changes):
            both = "either a StreamOptions or single settings" if changes else "at least one setting to change"
            raise ConfigError(f"update takes {both}", argument="options")
        check_known(StreamOptions, changes, "setting")
        if changes:
            replace(StreamOptions(), **changes)  # raises ConfigError for a wrong value before a request is sent
        answer = await self._request("INFO", name)
        config: dict[str, Any] = answer["config"]
        settings = self._changed_settings(_to_info(answer).options, changes) if options is None else None
        config.update(self._to_settings(options) if options is not None else settings or {})
        info = _to_info(await self._request("UPDATE", name, config))
        self._tell(name, info)
        return info

    def _changed_settings(self, before: StreamOptions, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the changed settings under the server's names."""
        after = replace(before, **changes)
        named = {each.name for each in fields(StreamOptions) if each.name in changes}
        if after.dedup_window_s < before.dedup_window_s:
            named.add("dedup_window_s")  # the window can't be longer than max_age_s
        return {key: value for key, value in self._to_settings(after).items() if _OPTION_OF.get(key) in named}

    def _tell(self, name: str, info: StreamInfo | None) -> None:
        for call in self._changed:
            call(name, info)

    async def purge(self, name: str) -> int:
        """Remove all events, and return their number. Raises StreamNotFound."""
        name = check_stream_name(name)
        answer = await self._request("PURGE", name)
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


def _with_hint(error: ServerError) -> ServerError:
    hint = "set max_bytes in StreamOptions(max_bytes=...), for streams that eda creates: connect(stream_defaults=...)"
    return ServerError(error.code, error.err_code, f"{error.description}: {hint}", operation=error.operation)


async def count_on_subject(api: Api, name: str, subject: str) -> tuple[StreamInfo, int]:
    """Return the stream, and the number of its messages on one subject. Raises StreamNotFound, ServerError."""
    try:
        answer = await api.request(f"STREAM.INFO.{name}", {"subjects_filter": subject}, schema=Stream)
    except ServerError as error:
        raise stream_error(error, name) from error
    return _to_info(answer), (answer["state"].get("subjects") or {}).get(subject, 0)


def _to_info(answer: dict[str, Any]) -> StreamInfo:
    config = answer["config"]
    state = answer["state"]
    atomic = bool(config.get("allow_atomic", False))
    fast_ingest = bool(config.get("allow_batched", False))

    def limit(key: str) -> int | None:
        value: int = config.get(key, -1)
        return value if value > 0 else None

    return StreamInfo(
        name=config["name"],
        events=state["messages"],
        bytes=state["bytes"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        last_time_ns=max(nanoseconds(state.get("last_ts") or ""), 0),
        created=datetime.fromisoformat(answer["created"]),
        subjects=tuple(config.get("subjects") or ()),
        options=_to_options(config, limit("max_bytes"), limit("max_msgs"), atomic, fast_ingest),
        atomic=atomic,
        fast_ingest=fast_ingest,
        retention=config.get("retention") or "limits",
        mirror=(config.get("mirror") or {}).get("name"),
        sources=tuple(source["name"] for source in config.get("sources") or ()),
        subject_transform=(config.get("subject_transform") or {}).get("dest"),
        no_ack=bool(config.get("no_ack", False)),
        sealed=bool(config.get("sealed", False)),
        deny_delete=bool(config.get("deny_delete", False)),
        deny_purge=bool(config.get("deny_purge", False)),
        max_events_per_subject=limit("max_msgs_per_subject"),
        max_event_bytes=limit("max_msg_size"),
        max_consumers=limit("max_consumers"),
    )


def _to_options(
    config: dict[str, Any], max_bytes: int | None, max_events: int | None, atomic: bool, fast_ingest: bool
) -> StreamOptions:
    compression = config.get("compression", "none")
    return StreamOptions(
        replicas=config.get("num_replicas", 1),
        storage=config.get("storage", "file"),
        max_age_s=config["max_age"] / NS if config.get("max_age") else None,
        max_bytes=max_bytes,
        max_events=max_events,
        dedup_window_s=max(config.get("duplicate_window", 0) / NS, 0.1),  # a mirror has no window
        compression=None if compression == "none" else compression,
        discard=config.get("discard", "old"),
        atomic=atomic,
        fast_ingest=fast_ingest,
    )


async def stream_created(api: Api, stream: str) -> str:
    """Return the stream's creation time as the unchanged text of the server.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    try:
        created: str = (await api.request(f"STREAM.INFO.{stream}", schema=Stream))["created"]
    except ServerError as error:
        raise stream_error(error, stream) from error
    return created
